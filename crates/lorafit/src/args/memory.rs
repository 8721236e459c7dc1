//! How much memory a run may take, and what it recomputes to stay within it.

use std::fmt;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use lorafit_kernels::Placement;
use lorafit_kernels::gpu::Float;
use lorafit_model::{ActivationDtype, Recompute};
use serde::{Deserialize, Serialize};

use crate::args::flags::{Facts, Words};
use crate::args::options::serde_as_text;
use crate::args::size::ByteSize;
use crate::terminal::error::CliError;

/// The flags of every verb that trains.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Memory")]
pub struct MemoryArgs {
    /// Which activations to recompute in the backward pass instead of keeping them: none, full, a number of blocks
    /// (12-blocks), or auto [default: auto]
    ///
    /// full keeps only the input of each block: it needs far less memory, takes about 1.4 times as long, and gives
    /// the same bits. auto keeps as many blocks as fit in --memory.
    #[arg(long, value_name = "POLICY")]
    #[arg(add = Facts::NO_RESULT, add = Words(|| vec!["auto", "none", "full"]))]
    pub recompute: Option<RecomputeChoice>,
    /// How kept activations are stored
    ///
    /// bf16 takes little more than half the memory of f32, so that more blocks can be kept. Blocks still compute in
    /// f32, and the residual stream between them stays in f32. Only gradients are rounded: their norm changes by
    /// about 0.2 %.
    #[arg(long, value_enum, value_name = "DTYPE", default_value_t = SavedDtype::F32)]
    #[arg(add = Facts::ARITHMETIC)]
    pub activation_dtype: SavedDtype,
    /// Memory the run may take, such as 6GiB or 800MB [default: 90 % of what is free now]
    #[arg(long, value_name = "SIZE")]
    #[arg(add = Facts::PROCESS)]
    pub memory: Option<ByteSize>,
}

impl MemoryArgs {
    /// How kept activations are stored: what is computed in 16 bits is kept as it was computed.
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

    /// The policy that the flags ask for, or the default.
    pub fn policy(&self) -> RecomputeChoice {
        self.recompute.unwrap_or(RecomputeChoice::Auto)
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

serde_as_text!(RecomputeChoice);

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
}
