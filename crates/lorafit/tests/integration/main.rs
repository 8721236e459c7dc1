//! The command line, as people type it: one program, so that what its parts share is compiled and linked once.

mod answers;
mod architecture;
mod cases;
mod command_line;
mod common;
mod doctor;
mod endings;
mod export;
mod first_use;
mod flags;
mod full;
mod hints;
mod hostile;
mod merge;
mod metrics;
mod preset;
mod reference;
mod resume;
mod rows;
mod rows_told;
mod runs;
mod selfcheck;
mod shipping;
mod style_words;
mod sweep;
mod watch;
