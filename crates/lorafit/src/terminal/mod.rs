//! What a person or a program sees and sends while a verb works: output, errors, progress, signals.

#[macro_use]
pub mod output;

pub mod error;
pub mod flow;
pub mod host;
pub mod interrupt;
pub mod large_write;
pub mod made;
pub mod progress;
pub mod shell;
pub mod table;
pub mod words;
