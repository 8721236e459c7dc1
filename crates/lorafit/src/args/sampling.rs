//! How the next token is chosen: flags of the verbs that answer.

use clap::Args;

use crate::args::config_file::Given;
use crate::args::idle::{self, Idle};
use crate::args::require;
use crate::terminal::error::CliError;

/// How the next token is chosen; the same in `generate`, `chat` and `pairs`.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct Sampling {
    /// Longest answer
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_new_tokens: usize,
    /// 0 always takes the likeliest token; 0.7 varies the answers; above 1 they become erratic
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub temperature: f64,
    /// Choose only among the likeliest tokens that together reach this probability; 1 is all
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub top_p: f64,
    /// Choose only among this many likeliest tokens; 0 is all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_k: usize,
    /// Random seed: the same seed gives the same answer
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

impl Sampling {
    /// As the model takes it.
    pub fn settings(&self) -> lorafit_model::Sampling {
        let Sampling { temperature, top_p, top_k, seed, .. } = *self;
        lorafit_model::Sampling { temperature: temperature as f32, top_p: top_p as f32, top_k, seed }
    }

    /// Refuses what makes no sense.
    pub fn validate(&self, given: &Given) -> Result<(), CliError> {
        require(self.max_new_tokens > 0, "max-new-tokens", self.max_new_tokens, "must be 1 or more")?;
        let temperature = self.temperature;
        require(
            temperature >= 0.0 && temperature.is_finite(),
            "temperature",
            temperature,
            "must be 0 or more",
        )?;
        require(self.top_p > 0.0 && self.top_p <= 1.0, "top-p", self.top_p, "must be above 0 and at most 1")?;
        let acts = temperature > 0.0 || (self.top_p == 1.0 && self.top_k == 0);
        match acts {
            true => idle::refuse(
                given,
                [Idle {
                    flag: "seed",
                    acts: temperature > 0.0,
                    why: "at --temperature 0, which takes the likeliest token",
                    hint: "give a temperature, --temperature 0.7 for example, or leave --seed out",
                }],
            ),
            false => Err(CliError::usage(
                "--top-p and --top-k have no meaning at --temperature 0, which takes the likeliest token",
            )
            .hint("give a temperature, --temperature 0.7 for example")),
        }
    }
}
