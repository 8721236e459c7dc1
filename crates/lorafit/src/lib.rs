//! lorafit, the command line, as a library: what the program and other interfaces are made of. This crate is the only one that
//! prints, and the only one that shows hints.
//!
//! Folders, the lowest first: `terminal`, `metrics`, `args`, `session`, `sweep`, `pages`, `command`; above them `cli`, the verbs,
//! and `embed`, which is what a program that embeds the library calls. None uses one above it.

#[macro_use]
mod terminal;

mod args;
mod cli;
mod command;
pub mod embed;
mod metrics;
mod pages;
mod session;
mod sweep;

use std::ffi::OsString;
use std::io::{self, Write as _};

/// Runs the command line that a process was started with, of which `words` stand behind the program's name; gives the exit code.
/// Help, and what is no command line, end the process.
pub fn run(words: Vec<OsString>) -> u8 {
    let code = cli::run(words);
    // A process that is not Rust's own does not do it at its end. With standard output closed there is nobody to tell.
    let _ = io::stdout().flush();
    code
}
