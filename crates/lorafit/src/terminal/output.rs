//! Results go to standard output through here. Unlike `println!`, a reader that goes away
//! (`lorafit ... | head`) gives an error that ends the process quietly (see `report_error`).

use std::io::{self, IsTerminal, Write as _};
use std::path::Path;

use anyhow::Context as _;
use lorafit_remedy::printable;
use lorafit_train::followed;

use crate::terminal::host;

/// Prints one line, or hands it to whoever embeds the library.
pub fn line(text: impl AsRef<str>) -> io::Result<()> {
    host::current().give_result();
    if let Some(host) = host::host() {
        host.result(text.as_ref());
        return Ok(());
    }
    let mut out = io::stdout().lock();
    match out.is_terminal() {
        // Names of folders and what models say may have characters that a terminal obeys; files and programs get all bytes.
        true => out.write_all(printable::coloured(text.as_ref()).as_bytes())?,
        false => out.write_all(text.as_ref().as_bytes())?,
    }
    out.write_all(b"\n")?;
    out.flush()
}

/// The columns of the terminal that results are printed to; `None` where they go elsewhere.
pub fn width() -> Option<usize> {
    let terminal = console::Term::stdout();
    (host::host().is_none() && terminal.is_term()).then(|| usize::from(terminal.size().1))
}

/// Tells what is no result, on standard error or to whoever embeds the library. Control characters, which names of folders may
/// have, are written out.
pub fn note(text: &str) {
    match host::host() {
        Some(host) => host.note(text),
        // Nobody watching is no reason to stop.
        None => drop(writeln!(io::stderr(), "{}", printable::text(text))),
    }
}

/// As [`note`], with text as `println!` takes it.
macro_rules! tell {
    ($($text:tt)*) => { $crate::terminal::output::note(&format!($($text)*)) };
}

/// Whether notes are seen on a terminal, where lines can change.
pub fn notes_are_on_terminal() -> bool {
    host::host().is_none() && io::stderr().is_terminal()
}

/// Writes a file, which is there whole or, after an error, as it was. What is no file (`/dev/stdout`) is written to, not
/// replaced, and of a link what it points to is written.
pub fn file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || {
        let path = &followed(path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            return std::fs::write(path, bytes);
        }
        let mut builder = tempfile::Builder::new();
        // What any new file has; temporary ones are the user's alone.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.persist(path).map(drop).map_err(|e| e.error)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Whether what is written to `stream` may have colours: it is a terminal, and nobody asked for none (no-color.org).
pub fn has_colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::FileTypeExt as _;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_file_is_replaced_and_a_pipe_is_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        for text in ["longer than the next", "next"] {
            file(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");

        let pipe = dir.path().join("pipe");
        let name = std::ffi::CString::new(pipe.as_os_str().as_bytes()).unwrap();
        // SAFETY: the name is a string that ends with zero.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let (told, read) = mpsc::channel();
        let reader = pipe.clone();
        std::thread::spawn(move || told.send(fs::read(reader).unwrap()));
        file(&pipe, b"through").unwrap();
        assert_eq!(read.recv_timeout(Duration::from_secs(10)).unwrap(), b"through");
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    }
}
