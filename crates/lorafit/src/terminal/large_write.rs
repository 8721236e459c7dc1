//! Writing models: shows how far it is, and a signal ends it with nothing written.

use std::io;

use lorafit_train::{RunError, Watch};

use crate::terminal::error::Stopped;
use crate::terminal::interrupt;
use crate::terminal::progress::WriteProgress;

/// Runs `write`, which writes `bytes` bytes, about.
///
/// # Errors
/// What `write` gives; [`Stopped`] after it was asked to stop.
pub fn large_write(
    quiet: bool,
    bytes: u64,
    write: impl FnOnce(&mut Watch<'_>) -> Result<(), RunError>,
) -> anyhow::Result<()> {
    interrupt::listen();
    let progress = WriteProgress::new(quiet, bytes);
    let mut watch = |written| {
        progress.add(written);
        match interrupt::asked() {
            true => Err(io::Error::other("interrupted")),
            false => Ok(()),
        }
    };
    let written = write(&mut watch);
    progress.finish();
    if written.is_err() && interrupt::asked() {
        if !quiet {
            tell!("interrupted; nothing was written");
        }
        return Err(Stopped.into());
    }
    Ok(written?)
}
