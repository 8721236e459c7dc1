//! One file a verb: its flags, their checks, and the call into the library that does the work.

pub mod bench;
pub mod chat;
pub mod compare;
pub mod data;
pub mod eval;
pub mod export;
pub mod generate;
pub mod inspect;
pub mod merge;
pub mod plan;
pub mod quantize;
pub mod report;
pub mod selfcheck;
pub mod status;
pub mod sweep;
pub mod train;

use crate::report_error::CliError;

/// Checks a value a flag or a configuration key was given: `require(rank > 0, "rank", rank, "must be 1 or more")`.
pub fn require(holds: bool, name: &str, value: impl std::fmt::Display, rule: &str) -> Result<(), CliError> {
    match holds {
        true => Ok(()),
        false => Err(CliError::usage(format!("--{name} {value}: {rule}"))),
    }
}
