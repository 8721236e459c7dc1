//! lorafit, the command line. This crate is the only one that prints, and the only one that shows hints.
//!
//! Folders, the lowest first: `terminal`, `metrics`, `args`, `session`, `sweep`, `pages`, `command`. None uses one above it.

mod args;
mod cli;
mod command;
mod metrics;
mod pages;
mod session;
mod sweep;
mod terminal;

use std::process::ExitCode;

use terminal::error;

fn main() -> ExitCode {
    error::exit_code(error::with_device_errors(cli::run))
}
