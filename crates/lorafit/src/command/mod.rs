//! One file a verb: its flags, their checks, and the call into the library that does the work.

pub mod bench;
pub mod chat;
pub mod compare;
pub mod completions;
pub mod data;
pub mod doctor;
pub mod eval;
pub mod export;
pub mod generate;
pub mod inspect;
pub mod kernels;
pub mod manual;
pub mod merge;
pub mod pairs;
pub mod plan;
pub mod quantize;
pub mod report;
pub mod runs;
pub mod selfcheck;
pub mod serve;
pub mod status;
pub mod sweep;
pub mod train;
pub mod watch;
