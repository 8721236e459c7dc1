//! The flags of every verb.

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::args::flags::{Facts, Words};
use crate::args::options::DeviceChoice;
use crate::terminal::error::CliError;

/// More threads than the largest machine has.
const MOST_THREADS: usize = 4096;

/// What every verb takes.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
#[command(next_help_heading = "Machine")]
pub struct Common {
    /// Number of threads [default: all cores]
    ///
    /// The same number of threads gives the same bits; another number may change the last digit.
    #[arg(long, value_name = "N")]
    #[arg(add = Facts::PROCESS)]
    pub threads: Option<usize>,
    /// Device to compute on: auto, cpu, or cuda:N for an NVIDIA GPU; auto is the CPU
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto)]
    #[arg(add = Facts::PROCESS, add = Words(|| vec!["auto", "cpu", "cuda:0"]))]
    pub device: DeviceChoice,
    /// Print results and errors only: no progress, no notes
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_value_t = false, default_missing_value = "true", hide_default_value = true)]
    #[arg(hide_possible_values = true, action = clap::ArgAction::Set)]
    #[arg(add = Facts::PROCESS)]
    pub quiet: bool,
}

impl Common {
    /// Refuses `--device` of a verb, which `who` is, that always computes on the processor.
    pub fn on_processor_only(&self, who: &str) -> Result<(), CliError> {
        match self.device {
            DeviceChoice::Auto | DeviceChoice::Cpu => Ok(()),
            DeviceChoice::Cuda(_) => {
                let text = format!(
                    "--device {} has no meaning for {who}, which computes on the processor",
                    self.device
                );
                Err(CliError::usage(text).hint("leave --device out"))
            }
        }
    }

    /// Refuses values no machine can follow.
    pub fn validate(&self) -> Result<(), CliError> {
        if let Some(threads) = self.threads.filter(|threads| *threads > MOST_THREADS) {
            return Err(CliError::usage(format!(
                "--threads {threads}: at most {MOST_THREADS} threads are used"
            ))
            .hint("leave --threads out to use all cores"));
        }
        if self.threads == Some(0) {
            return Err(CliError::usage("--threads 0: at least one thread is needed")
                .hint("leave --threads out to use all cores"));
        }
        Ok(())
    }
}
