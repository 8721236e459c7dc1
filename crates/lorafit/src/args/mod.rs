//! What can be typed: the flags of the verbs, the values they take, and the files they can stand in.
//!
//! Nothing here opens a model or reads rows; that is `session/`.

pub mod adapters;
pub mod base;
pub mod cache;
pub mod classes;
pub mod common;
pub mod config_file;
pub mod criteria;
pub mod evaluation;
pub mod flags;
pub mod idle;
pub mod judged;
pub mod judged_by;
pub mod memory;
pub mod new_tokens;
pub mod numbers;
pub mod options;
pub mod outputs;
pub mod parameters;
pub mod preference;
pub mod projections;
pub mod rows;
pub mod safety;
pub mod sampling;
pub mod size;
pub mod train;

use crate::terminal::error::CliError;

/// Checks a value a flag or a configuration key was given: `require(rank > 0, "rank", rank, "must be 1 or more")`.
pub fn require(holds: bool, name: &str, value: impl std::fmt::Display, rule: &str) -> Result<(), CliError> {
    match holds {
        true => Ok(()),
        false => Err(CliError::usage(format!("--{name} {value}: {rule}"))),
    }
}
