//! The file operations of a run folder, one method each, so that a test can let any one of them fail.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, IntoInnerError, Write};
use std::path::{Path, PathBuf};

#[cfg(test)]
pub(crate) mod faulty;
mod write_behind;

use write_behind::WriteBehind;

/// A file that is being written.
pub(crate) trait StorageFile: Write + Debug + Send {
    /// Returns when the content is on the disk.
    fn sync(&mut self) -> io::Result<()>;

    /// Has the system begin to write what is in these bytes of the file, so that there is less left for [`Self::sync`].
    fn begin_sync(&mut self, _first: u64, _bytes: u64) {}
}

/// Writes the content of a file.
pub(crate) type WriteContent<'a> = dyn FnMut(&mut dyn Write) -> io::Result<()> + 'a;

/// What is gathered before it is written.
const BUFFER_BYTES: usize = 1 << 20;

/// What a run does with files.
pub(crate) trait Storage: Debug + Send {
    /// Makes a folder and those it lies in, where they are missing.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Makes a file, or empties the one that is there.
    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>>;
    /// Opens a file to write at its end; it is made if it is missing.
    fn append(&self, path: &Path) -> io::Result<Box<dyn StorageFile>>;
    /// Returns when the names in a folder are on the disk.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Gives a file or folder another name; what a file of that name was is gone.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder and what is in it.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;
}

/// The file system.
#[derive(Debug)]
pub(crate) struct Disk;

impl StorageFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }

    #[cfg(target_os = "linux")]
    fn begin_sync(&mut self, first: u64, bytes: u64) {
        use std::os::fd::AsRawFd as _;
        let (Ok(first), Ok(bytes)) = (first.try_into(), bytes.try_into()) else { return };
        // SAFETY: a call on a file that is open. It is advice: an error is one that `sync` tells.
        let _ = unsafe { libc::sync_file_range(self.as_raw_fd(), first, bytes, libc::SYNC_FILE_RANGE_WRITE) };
    }
}

impl Storage for Disk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(File::create(path)?))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(OpenOptions::new().create(true).append(true).open(path)?))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        // Elsewhere a folder cannot be opened as a file, and its names are written with it.
        if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir_all(dir)
    }
}

/// No file system: all that is written is gone, and that is right.
#[derive(Debug)]
pub(crate) struct Nowhere;

impl StorageFile for io::Sink {
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Storage for Nowhere {
    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, _path: &Path) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(io::sink()))
    }

    fn append(&self, _path: &Path) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(io::sink()))
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove_file(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove_dir_all(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl dyn Storage + '_ {
    /// Writes a new file and syncs it.
    pub(crate) fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.write_with(path, &mut |out| out.write_all(bytes))
    }

    /// As [`Self::write`], of content that is made as it is written.
    pub(crate) fn write_with(&self, path: &Path, content: &mut WriteContent<'_>) -> io::Result<()> {
        let mut file = BufWriter::with_capacity(BUFFER_BYTES, self.create(path)?);
        content(&mut file)?;
        file.into_inner().map_err(IntoInnerError::into_error)?.sync()
    }

    /// As [`Self::write_with`], of much content: it is written while the next is made, and whoever calls syncs it.
    pub(crate) fn write_much_with(
        &self,
        path: &Path,
        content: &mut WriteContent<'_>,
    ) -> io::Result<Box<dyn StorageFile>> {
        let mut file = WriteBehind::new(self.create(path)?);
        content(&mut file)?;
        file.finish()
    }

    /// Writes a file beside its place, syncs it and renames it: whatever happens, the old content or the new is there.
    pub(crate) fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.replace_with(path, &mut |out| out.write_all(bytes))
    }

    /// As [`Self::replace`], of content that is made as it is written.
    pub(crate) fn replace_with(&self, path: &Path, content: &mut WriteContent<'_>) -> io::Result<()> {
        self.replace_by(path, &mut |temporary| self.write_with(temporary, content))
    }

    fn replace_by(&self, path: &Path, write: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
        let temporary = path.with_extension("tmp");
        let written = write(&temporary).and_then(|()| self.rename(&temporary, path));
        if written.is_err() {
            // That it fails is told; what is left over is replaced by the next attempt.
            let _ = self.remove_file(&temporary);
        }
        written?;
        // Of a bare name the parent is empty.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        self.sync_dir(folder.unwrap_or(Path::new(".")))
    }
}

/// Bytes that may still be written to the file system of `path`, or of the nearest folder above that exists; `None`
/// where the system does not tell.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let existing: PathBuf = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new(".")).to_owned();
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt as _;
        let existing = if existing.as_os_str().is_empty() { PathBuf::from(".") } else { existing };
        let name = std::ffi::CString::new(existing.as_os_str().as_bytes()).ok()?;
        // SAFETY: an all-zero `statvfs` is valid, and `statvfs` fills it.
        let status = unsafe {
            let mut status: libc::statvfs = std::mem::zeroed();
            (libc::statvfs(name.as_ptr(), &mut status) == 0).then_some(status)
        }?;
        #[allow(clippy::useless_conversion, reason = "the types differ from system to system")]
        Some(u64::from(status.f_bavail).saturating_mul(u64::from(status.f_frsize)))
    }
    #[cfg(not(unix))]
    {
        let _ = existing;
        None
    }
}
