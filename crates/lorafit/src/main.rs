//! lorafit, the command line. This crate is the only one that prints, and the only one that shows hints.

mod base_args;
mod chat_repl;
mod cli;
mod command;
mod config_file;
mod data_set;
mod engine;
mod interrupt;
mod memory_args;
mod options;
mod output;
mod plan_svg;
mod progress;
mod report_error;
mod row_args;

use std::process::ExitCode;

fn main() -> ExitCode {
    report_error::exit_code(cli::run())
}
