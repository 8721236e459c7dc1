//! HTML pages and the figures on them. Each is one file that loads nothing.

use std::path::Path;

use crate::terminal::output;

pub mod compare;
pub mod data;
pub mod figure;
pub mod report;
mod rows;
pub mod shell;
pub mod watch;

/// Writes a page, and says where unless `quiet`.
///
/// # Errors
/// A file that cannot be written.
pub fn write(path: &Path, page: &str, quiet: bool) -> anyhow::Result<()> {
    output::file(path, page.as_bytes())?;
    if !quiet {
        tell!("page written to {}", path.display());
    }
    Ok(())
}
