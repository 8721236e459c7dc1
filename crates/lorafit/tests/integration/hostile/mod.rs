//! Files of strangers: cut, with bits flipped, made to take memory or time, and found by fuzzing. What is promised, with
//! figures, is in `docs/hostile_files.md`.

#[cfg(target_os = "linux")]
mod bombs;
mod broken;
mod corpus;
mod mutations;
mod tiny;

/// What the fuzz targets run, which is no crate of this workspace.
#[path = "../../../../../fuzz/src/lib.rs"]
mod targets;
