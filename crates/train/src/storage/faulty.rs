//! A disk on which one operation, or every operation from one on, fails.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::{Disk, Storage, StorageFile};

/// What happens at the chosen operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// It fails, and so do this many operations after it. From a full disk files can be removed all the same.
    Fails(io::ErrorKind, usize),
    /// The power goes: nothing works any more, and of files that were not synced half is lost.
    Crash,
}

/// The file system, with a fault.
#[derive(Clone, Debug)]
pub(crate) struct Faulty {
    at: usize,
    fault: Fault,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    operations: usize,
    unsynced: Vec<PathBuf>,
}

impl Faulty {
    /// The fault is at operation `at`, from 0.
    pub(crate) fn new(at: usize, fault: Fault) -> Self {
        Faulty { at, fault, seen: Arc::default() }
    }

    /// Whether the fault has been met.
    pub(crate) fn was_met(&self) -> bool {
        self.seen.lock().expect("no panic").operations > self.at
    }

    fn operation(&self) -> io::Result<()> {
        let mut seen = self.seen.lock().expect("no panic");
        let number = seen.operations;
        seen.operations += 1;
        match self.fault {
            Fault::Fails(kind, more) if (self.at..=self.at + more).contains(&number) => Err(kind.into()),
            Fault::Crash if number >= self.at => {
                for path in seen.unsynced.drain(..).filter(|path| path.exists()) {
                    let file = std::fs::OpenOptions::new().write(true).open(path)?;
                    file.set_len(file.metadata()?.len() / 2)?;
                }
                Err(io::Error::other("the power is gone"))
            }
            Fault::Fails(..) | Fault::Crash => Ok(()),
        }
    }

    fn removal(&self) -> io::Result<()> {
        match (self.operation(), self.fault) {
            (Err(_), Fault::Fails(io::ErrorKind::StorageFull, _)) => Ok(()),
            (result, Fault::Fails(..) | Fault::Crash) => result,
        }
    }

    fn open(&self, path: &Path, file: Box<dyn StorageFile>) -> Box<dyn StorageFile> {
        self.seen.lock().expect("no panic").unsynced.push(path.to_owned());
        Box::new(FaultyFile { path: path.to_owned(), file, disk: self.clone(), full: None })
    }
}

#[derive(Debug)]
struct FaultyFile {
    path: PathBuf,
    file: Box<dyn StorageFile>,
    disk: Faulty,
    /// The error of the next write.
    full: Option<io::ErrorKind>,
}

impl Write for FaultyFile {
    /// Takes half of what it is given before it fails, as a disk that gets full does.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(kind) = self.full.take() {
            return Err(kind.into());
        }
        let Err(error) = self.disk.operation() else { return self.file.write(bytes) };
        match self.file.write(&bytes[..bytes.len() / 2])? {
            0 => Err(error),
            written => {
                self.full = Some(error.kind());
                Ok(written)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl StorageFile for FaultyFile {
    fn sync(&mut self) -> io::Result<()> {
        self.disk.operation()?;
        self.file.sync()?;
        self.disk.seen.lock().expect("no panic").unsynced.retain(|path| *path != self.path);
        Ok(())
    }
}

impl Storage for Faulty {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.operation().and_then(|()| Disk.create_dir_all(dir))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        self.operation()?;
        Ok(self.open(path, Disk.create(path)?))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        self.operation()?;
        Ok(self.open(path, Disk.append(path)?))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.operation().and_then(|()| Disk.sync_dir(dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operation()?;
        let mut seen = self.seen.lock().expect("no panic");
        for path in &mut seen.unsynced {
            if let Ok(rest) = path.strip_prefix(from) {
                *path = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            }
        }
        Disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.removal().and_then(|()| Disk.remove_file(path))
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.removal().and_then(|()| Disk.remove_dir_all(dir))
    }
}
