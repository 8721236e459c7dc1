//! `lorafit bench`: training speed of a model shape on this machine, with random weights.

use clap::Args;

use super::{not_wired, require};
use crate::cli::Common;
use crate::options::{TargetModules, WeightDtype};
use crate::report_error::CliError;

/// The flags of `bench`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
Examples:
  lorafit bench --shape smollm2-135m --batch 4 --seq 256
  What would a 7B model cost per step here?
    lorafit bench --shape llama-2-7b --batch 1 --seq 512 --dtype bf16 --steps 2
  The shape of any model by its config.json:
    lorafit bench --shape some-model/config.json --batch 4 --seq 256 --json

tokens_per_s counts whole training steps: forward, backward, optimizer. fma_peak_gflops is what the cores reach in
bare multiply-adds in the same run; mfu is the step's share of it.")]
pub struct BenchArgs {
    /// llama-2-7b, tinyllama-1.1b, smollm2-135m, or the path of a config.json
    #[arg(long, value_name = "SHAPE", help_heading = "Work")]
    pub shape: String,
    /// Rows per step
    #[arg(long, value_name = "ROWS", default_value_t = 4, help_heading = "Work")]
    pub batch: usize,
    /// Tokens per row
    #[arg(long, value_name = "TOKENS", default_value_t = 256, help_heading = "Work")]
    pub seq: usize,
    /// How the random weights are stored
    #[arg(long, value_enum, default_value_t = WeightDtype::F32, help_heading = "Work")]
    pub dtype: WeightDtype,
    /// Steps to time; one more goes before to warm up
    #[arg(long, value_name = "N", default_value_t = 5, help_heading = "Work")]
    pub steps: usize,
    /// Width of the adapter
    #[arg(long, value_name = "R", default_value_t = 8, help_heading = "Work")]
    pub rank: usize,
    /// Modules that get an adapter: all-linear, a comma list, or regex:PATTERN
    #[arg(long, value_name = "MODULES", default_value = "all-linear", help_heading = "Work")]
    pub target_modules: TargetModules,
    /// Print the result as one JSON object
    #[arg(long, help_heading = "Work")]
    pub json: bool,
    /// The flags of every verb.
    #[command(flatten)]
    pub common: Common,
}

impl BenchArgs {
    fn validate(&self) -> Result<(), CliError> {
        for (name, value) in [("batch", self.batch), ("steps", self.steps), ("rank", self.rank)] {
            require(value > 0, name, value, "must be 1 or more")?;
        }
        require(self.seq >= 2, "seq", self.seq, "must be 2 or more")?;
        self.common.validate()
    }
}

/// Times training steps.
pub fn run(args: BenchArgs) -> anyhow::Result<()> {
    args.validate()?;
    Err(not_wired("bench"))
}
