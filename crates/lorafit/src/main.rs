//! lorafit, the program: all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(lorafit::run(std::env::args_os().skip(1).collect()))
}
