//! lorafit, the command line. This crate is the only one that prints, and the only one that shows hints.

mod adapter_numbers;
mod base_args;
mod base_name;
mod chat_repl;
mod cli;
mod command;
mod compare_page;
mod config_file;
mod data_args;
mod data_page;
mod data_set;
mod engine;
mod figure;
mod idle;
mod interrupt;
mod large_write;
mod limits;
mod memory_args;
mod memory_table;
mod merge_inputs;
mod model_card;
mod model_folder;
mod options;
mod other_tokenizer;
mod output;
mod outputs;
mod page;
mod pieces;
mod progress;
mod readers;
mod report_error;
mod report_page;
mod resume;
mod row_args;
mod safety_args;
mod shrink_rank;
mod sweep;
mod trained;

use std::process::ExitCode;

fn main() -> ExitCode {
    report_error::exit_code(report_error::with_device_errors(cli::run))
}
