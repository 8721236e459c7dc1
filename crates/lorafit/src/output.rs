//! Results go to standard output through here. Unlike `println!`, a reader that goes away
//! (`lorafit ... | head`) gives an error that ends the process quietly (see `report_error`).

use std::io::{self, IsTerminal, Write as _};
use std::path::Path;

use anyhow::Context as _;

/// Prints one line.
pub fn line(text: impl AsRef<str>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref().as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Writes a file, which is there whole or, after an error, as it was.
pub fn file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || {
        let mut builder = tempfile::Builder::new();
        // What any new file has; temporary ones are the user's alone.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.persist(path).map_err(|e| e.error)
    };
    write().map(drop).with_context(|| format!("cannot write {}", path.display()))
}

/// Whether what is written to `stream` may have colours: it is a terminal, and nobody asked for none (no-color.org).
pub fn has_colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
