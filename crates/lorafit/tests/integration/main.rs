//! The command line, as people type it: one program, so that what its parts share is compiled and linked once.

mod answers;
mod architecture;
mod cases;
mod command_line;
mod common;
mod damaged;
mod doctor;
mod endings;
mod export;
mod first_use;
mod flags;
mod frozen;
mod full;
mod hints;
mod hostile;
mod links;
mod merge;
mod metrics;
mod objectives;
mod pairs;
mod preferences;
mod preset;
#[cfg(not(feature = "mpi"))]
mod processes;
mod reference;
mod resume;
mod rows;
mod rows_told;
mod runs;
mod scores;
mod selfcheck;
mod serve;
mod shipping;
mod style_words;
mod sweep;
mod watch;
