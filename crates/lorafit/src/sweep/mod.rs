//! `lorafit sweep` below its flags: the file it reads, the folder it keeps, what its trials share, and how they run.

pub mod below;
pub mod board;
pub mod file;
pub mod folder;
pub mod inputs;
pub mod runner;
pub mod settings;
