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

/// Rows, tokens and a rank, at most: more than any run has, so that bytes can be counted in 64 bits.
pub const MOST_ROWS: usize = 1 << 20;
/// As [`MOST_ROWS`].
pub const MOST_TOKENS: usize = 1 << 24;
/// As [`MOST_ROWS`].
pub const MOST_RANK: usize = 1 << 16;
/// Steps of a run, at most: with a thousand a second it would take eleven days.
pub const MOST_STEPS: usize = 1_000_000_000;
/// Passes over the data, at most.
pub const MOST_EPOCHS: f64 = 1e6;

/// Checks that a number is from 1 to `most`.
///
/// # Errors
/// A number that is not.
pub fn within(name: &str, value: usize, most: usize) -> Result<(), CliError> {
    require(value > 0, name, value, "must be 1 or more")?;
    require(value <= most, name, value, &format!("must be {most} or less"))
}

/// Checks a value a flag or a configuration key was given: `require(rank > 0, "rank", rank, "must be 1 or more")`.
pub fn require(holds: bool, name: &str, value: impl std::fmt::Display, rule: &str) -> Result<(), CliError> {
    match holds {
        true => Ok(()),
        false => Err(CliError::usage(format!("--{name} {value}: {rule}"))),
    }
}
