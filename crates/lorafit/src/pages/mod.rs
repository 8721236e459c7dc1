//! HTML pages and the figures on them. Each is one file that loads nothing.

pub mod compare;
pub mod data;
pub mod figure;
pub mod report;
pub mod shell;
pub mod watch;
