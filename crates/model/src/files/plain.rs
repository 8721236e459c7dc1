//! Files of a folder that somebody else made: plain ones, of a bounded size, and of that folder.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lorafit_kernels::{Owner, SharedBytes};

use crate::error::FileError;

/// Configurations have a few KB. What is read of JSON takes up to forty times the memory.
pub(crate) const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// The file `name` of `dir`, which a link may not take out of the folder: what is read there may be copied into a model
/// that is given away. Only the hub's cache has links, from `snapshots/<revision>` to `blobs`.
///
/// # Errors
/// A link to another folder. A file that is missing is for who opens it.
pub(crate) fn inside(dir: &Path, name: &str) -> Result<PathBuf, FileError> {
    let path = dir.join(name);
    let (Ok(folder), Ok(file)) = (dir.canonicalize(), path.canonicalize()) else { return Ok(path) };
    let of_cache = || {
        let snapshots = folder.ancestors().find(|above| above.ends_with("snapshots"))?;
        Some(file.starts_with(snapshots.parent()?.join("blobs")))
    };
    match file.starts_with(&folder) || of_cache().unwrap_or(false) {
        true => Ok(path),
        false => Err(FileError::new(&path, "a link to a file outside of the folder, which is refused")
            .with_hint("put the file itself there, or use the folder that it lies in")),
    }
}

/// Opens a plain file: a pipe could keep silent, and a device have no end.
fn open(path: &Path) -> io::Result<File> {
    let found = std::fs::metadata(path)?;
    match found.is_file() || found.is_dir() {
        // What reading a folder says is clear.
        true => File::open(path),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file")),
    }
}

/// The text of a file of at most `most` bytes.
pub(crate) fn read_text(path: &Path, most: u64) -> io::Result<String> {
    let file = open(path)?;
    let bytes = file.metadata()?.len();
    if bytes > most {
        let message = format!("it has {bytes} bytes, at most {most} are allowed");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    let mut text = String::new();
    file.take(most).read_to_string(&mut text)?;
    Ok(text)
}

/// What a file is that is neither safetensors nor GGUF although it is called so, and the way out: told by how it begins.
pub(crate) fn foreign(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    let text: String = bytes.iter().take(64).map(|b| b.to_ascii_lowercase() as char).collect();
    let begins = |mark: &[u8]| bytes.starts_with(mark);
    Some(if text.starts_with("version https://git-lfs") {
        (
            "a pointer of git-lfs and not the file itself",
            "run git lfs pull in the folder it was cloned to, or download the file again",
        )
    } else if ["<!doctype html", "<html"].iter().any(|mark| text.trim_start().starts_with(mark)) {
        (
            "a web page and not the file itself",
            "download it from the link of the file (on the hub .../resolve/main/FILE instead of .../blob/main/FILE)",
        )
    } else if begins(b"PK\x03\x04") || begins(b"\x80\x02") || begins(b"\x80\x04") {
        (
            "a pickle file of PyTorch, which can run code when it is opened, and is refused",
            "load it in transformers or PEFT once and save it with save_pretrained: it writes safetensors",
        )
    } else if begins(b"\x1f\x8b") || begins(b"\x28\xb5\x2f\xfd") {
        ("a compressed file", "unfold it first, with gunzip or unzstd")
    } else if [b"lmgg", b"fmgg", b"tjgg", b"algg"].iter().any(|mark| begins(&mark[..])) {
        ("a file of llama.cpp from before GGUF", "convert the model again with a present llama.cpp")
    } else {
        return None;
    })
}

/// A file mapped read-only.
struct Mapped(memmap2::Mmap);

impl Owner for Mapped {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        // SAFETY: the map is read-only and of a file, so that pages given back are read again when needed.
        // It is advice: nothing is lost if the system does not take it.
        let _ = unsafe {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            self.0.unchecked_advise_range(advice, range.start, range.len())
        };
        #[cfg(not(unix))]
        let _ = range;
    }
}

/// Maps a file into memory.
pub(crate) fn map(path: &Path) -> Result<SharedBytes, FileError> {
    let mapped = || -> io::Result<memmap2::Mmap> {
        let file = open(path)?;
        // SAFETY: the map is read-only; that nobody shortens the file meanwhile is asked of the user.
        unsafe { memmap2::Mmap::map(&file) }
    };
    let map = mapped().map_err(|e| FileError::new(path, format!("cannot open: {e}")))?;
    Ok(SharedBytes::new(Arc::new(Mapped(map))))
}
