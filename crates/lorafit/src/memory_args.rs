//! How much memory a run may take, and what it recomputes to stay within it.

use std::fmt;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use lorafit_kernels::gpu::Float;
use lorafit_kernels::{Device, Placement};
use lorafit_model::adapter::TargetError;
use lorafit_model::{ActivationDtype, Recompute};
use lorafit_train::{MemoryPlan, PlanRequest, available_bytes, device_process_bytes, rss_bytes};
use serde::{Deserialize, Serialize};

use crate::memory_table::in_one_line;
use crate::options::serde_as_text;
use crate::report_error::CliError;

/// The flags of every verb that trains.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Memory")]
pub struct MemoryArgs {
    /// What backward computes again instead of keeping it: none, full, a number of blocks (12-blocks), or auto
    /// [default: full with --quant and no --memory, else auto]
    ///
    /// With full only the input of each block is kept: far less memory, about 1.4 times the time, the same bits. auto
    /// keeps as many blocks as fit --memory.
    #[arg(long, value_name = "POLICY")]
    pub recompute: Option<RecomputeChoice>,
    /// How activations that are kept are stored
    ///
    /// bf16 takes little more than half of f32's memory, which lets more blocks be kept. Computing stays in f32 and so
    /// does the residual stream between blocks: only gradients are rounded, their norm by some 0.2 %.
    #[arg(long, value_enum, value_name = "DTYPE", default_value_t = SavedDtype::F32)]
    pub activation_dtype: SavedDtype,
    /// Memory the run may take, such as 6GiB or 800MB [default: what is free now, less a tenth]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
}

impl MemoryArgs {
    /// The bytes the run may take on `device`; `None` where nothing is asked for and the system does not tell.
    pub fn limit(&self, device: Device) -> Option<u64> {
        memory_limit(self.memory, device)
    }

    /// How activations that are kept are stored: what is computed in 16 bits is kept as it was computed.
    pub fn activation_dtype_on(&self, placement: Placement) -> ActivationDtype {
        match (placement.activation_float(), self.activation_dtype) {
            (Float::Bf16, _) | (Float::F32, SavedDtype::F32) => ActivationDtype::F32,
            (Float::F32, SavedDtype::Bf16) => ActivationDtype::Bf16,
        }
    }

    /// Refuses more blocks than the model has.
    pub fn check_blocks(&self, blocks: usize) -> Result<(), CliError> {
        match self.recompute {
            Some(RecomputeChoice::Fixed(Recompute::Blocks(asked))) if asked > blocks => {
                Err(CliError::usage(format!("--recompute {asked}-blocks: the model has {blocks}"))
                    .hint("--recompute full is all of them"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// What is asked for, or the default.
    pub fn policy(&self, quantized: bool) -> RecomputeChoice {
        match (self.recompute, self.memory) {
            (Some(choice), _) => choice,
            (None, None) if quantized => RecomputeChoice::Fixed(Recompute::Full),
            (None, _) => RecomputeChoice::Auto,
        }
    }

    /// The policy to use and the plan of the run.
    ///
    /// # Errors
    /// A selection that the model does not have; and, inside, a run that does not fit, with what would.
    pub fn choose(
        &self,
        request: &PlanRequest<'_>,
        quantized: bool,
        device: Device,
    ) -> Result<Result<(Recompute, MemoryPlan), CliError>, TargetError> {
        let choice = self.policy(quantized);
        let limit = self.limit(device).unwrap_or(u64::MAX);
        let (asked, found) = match choice {
            RecomputeChoice::Fixed(recompute) => {
                let plan = request.plan(recompute)?;
                (plan, (plan.total() <= limit).then_some((recompute, plan)))
            }
            RecomputeChoice::Auto => (request.plan(Recompute::Full)?, request.fit(limit)?),
        };
        if let Some(found) = found {
            return Ok(Ok(found));
        }
        let text = format!(
            "training needs {} but may take {}\n  {}",
            ByteSize(asked.total()),
            ByteSize(limit),
            in_one_line(&asked)
        );
        let hint = match request.fit(limit)? {
            Some((recompute, plan)) => format!(
                "--recompute {} needs {}",
                RecomputeChoice::Fixed(recompute),
                ByteSize(plan.total())
            ),
            None => match request.most_tokens(Recompute::Full, limit)? {
                0 => "the weights and the adapter alone are too much: --quant nf4 --double-quant, or a smaller model"
                    .to_owned(),
                tokens => format!(
                    "--recompute full with at most {tokens} tokens at once fits: lower --max-seq-len (or bench's \
                     --seq) and --micro-batch-tokens to that"
                ),
            },
        };
        Ok(Err(CliError::new(text).hint(hint)))
    }
}

/// `--activation-dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SavedDtype {
    /// As they were computed
    F32,
    /// Rounded to 16 bits
    Bf16,
}

/// The bytes of `--memory` or, by default, what is free where it is computed; `None` where the system does not tell.
pub fn memory_limit(asked: Option<ByteSize>, device: Device) -> Option<u64> {
    // What this process already has is no longer free, but its own.
    let free = || match device {
        Device::Cpu => Some(available_bytes()? / 10 * 9 + rss_bytes()),
        // Nobody else's needs are to be expected there.
        Device::Cuda(gpu) => {
            Some(gpu.info().free_bytes / 50 * 49 + gpu.reserved_bytes() + device_process_bytes())
        }
    };
    asked.map(|size| size.0).or_else(free)
}

/// `--recompute`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecomputeChoice {
    /// As little as the memory allows.
    Auto,
    /// This.
    Fixed(Recompute),
}

impl FromStr for RecomputeChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let blocks = text.strip_suffix("-blocks").unwrap_or(text);
        Ok(match text {
            "auto" => RecomputeChoice::Auto,
            "none" => RecomputeChoice::Fixed(Recompute::None),
            "full" => RecomputeChoice::Fixed(Recompute::Full),
            _ => RecomputeChoice::Fixed(Recompute::Blocks(blocks.parse().map_err(|_| {
                format!("`{text}` is not one of auto, none, full, or a number of blocks such as 12-blocks")
            })?)),
        })
    }
}

impl fmt::Display for RecomputeChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecomputeChoice::Auto => f.write_str("auto"),
            RecomputeChoice::Fixed(Recompute::None) => f.write_str("none"),
            RecomputeChoice::Fixed(Recompute::Full) => f.write_str("full"),
            RecomputeChoice::Fixed(Recompute::Blocks(blocks)) => write!(f, "{blocks}-blocks"),
        }
    }
}

/// A number of bytes, written with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 8] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a size such as 6GiB, 1.5GB or 800MB");
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, unit) = text.split_at(split);
        let unit = unit.trim();
        let (_, factor) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?;
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let bytes = number * *factor as f64;
        // Beyond this f64 does not count single bytes any more.
        if (1.0..9e15).contains(&bytes) { Ok(ByteSize(bytes as u64)) } else { Err(wrong()) }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            n if n >= 1 << 30 => write!(f, "{:.2}GiB", bytes / (1u64 << 30) as f64),
            n if n >= 1 << 20 => write!(f, "{:.0}MiB", bytes / (1u64 << 20) as f64),
            n => write!(f, "{n}B"),
        }
    }
}

serde_as_text!(RecomputeChoice, ByteSize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recompute_is_read_as_it_is_written() {
        for text in ["auto", "none", "full", "12-blocks"] {
            assert_eq!(text.parse::<RecomputeChoice>().unwrap().to_string(), text);
        }
        assert_eq!("3".parse::<RecomputeChoice>().unwrap(), RecomputeChoice::Fixed(Recompute::Blocks(3)));
        assert!("some".parse::<RecomputeChoice>().unwrap_err().contains("12-blocks"));
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("6GiB", 6 << 30), ("1.5 gb", 1_500_000_000), ("800MB", 800_000_000)] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["6", "GiB", "0GiB", "-1GiB", "1e99GiB", "6GiBs", ""] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        assert_eq!(ByteSize(3 << 29).to_string(), "1.50GiB");
    }
}
