//! Writing models: shows how far it is, and a signal ends it with nothing written.

use std::io;
use std::sync::atomic::Ordering;

use lorafit_train::{RunError, Watch};

use crate::terminal::interrupt;
use crate::terminal::progress::WriteProgress;

/// Runs `write`, which writes `bytes` bytes, about.
///
/// # Errors
/// What `write` gives.
pub fn large_write(
    quiet: bool,
    bytes: u64,
    write: impl FnOnce(&mut Watch<'_>) -> Result<(), RunError>,
) -> Result<(), RunError> {
    let stop = interrupt::flag();
    let progress = WriteProgress::new(quiet, bytes);
    let mut watch = |written| {
        progress.add(written);
        match stop.load(Ordering::SeqCst) {
            true => Err(io::Error::other("interrupted")),
            false => Ok(()),
        }
    };
    let written = write(&mut watch);
    progress.finish();
    if written.is_err() && stop.load(Ordering::SeqCst) {
        if !quiet {
            eprintln!("interrupted; nothing was written");
        }
        std::process::exit(interrupt::exit_code());
    }
    written
}
