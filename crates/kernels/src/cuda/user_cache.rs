//! What is kept on disk for the next run: machine code of kernels, and the algorithms of products.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// `lorafit/NAME` in the user's folder of caches, if there is one.
pub(super) fn folder(name: &str) -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(caches.join("lorafit").join(name))
}

/// Whether a file that is there already is written over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    Replace,
    Leave,
}

/// Writes a file, which is there whole or not at all. One that is left as it is is no error.
pub(super) fn write(path: &Path, bytes: &[u8], existing: Existing) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut builder = tempfile::Builder::new();
    // What any new file has, for the kernels that a program is shipped with; temporary ones are the user's alone.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    match existing {
        Existing::Replace => file.persist(path).map(drop).map_err(|error| error.error),
        Existing::Leave => match file.persist_noclobber(path) {
            Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => Err(error.error),
            Ok(_) | Err(_) => Ok(()),
        },
    }
}
