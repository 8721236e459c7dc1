//! One run at a time in a folder: an advisory lock on `RUN/lock`, which the system takes back when the process ends,
//! however it ends. The file holds the id of the process and stays; only the lock on it counts.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use crate::run_error::RunError;

const LOCK: &str = "lock";

/// The right to write to a run folder.
#[derive(Debug)]
pub struct RunLock {
    dir: PathBuf,
    /// What was made for it, and goes with it if nothing else is written: the file, and the topmost folder.
    made: (bool, Option<PathBuf>),
    /// Holds the lock as long as it is open.
    _file: File,
}

/// A run that was refused before it began leaves nothing.
impl Drop for RunLock {
    fn drop(&mut self) {
        let (file, folder) = &self.made;
        let mut entries = fs::read_dir(&self.dir).into_iter().flatten();
        let is_alone = entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == LOCK));
        if !(*file && is_alone) || fs::remove_file(self.dir.join(LOCK)).is_err() {
            return;
        }
        let Some(top) = folder else { return };
        for dir in self.dir.ancestors().take_while(|dir| dir.starts_with(top)) {
            // One that is not empty stays, and all above it.
            if fs::remove_dir(dir).is_err() {
                break;
            }
        }
    }
}

impl RunLock {
    /// Makes the folder `dir` if needed and takes it. What was made for it is removed when the lock is dropped and nothing
    /// has been written.
    ///
    /// # Errors
    /// [`RunError::Locked`] when another process has it; a folder that cannot be written.
    pub fn take(dir: &Path) -> Result<Self, RunError> {
        let path = dir.join(LOCK);
        let io = |source| RunError::Io { path: path.clone(), source };
        let top =
            dir.ancestors().filter(|dir| !dir.as_os_str().is_empty()).take_while(|dir| !dir.exists()).last();
        let top = top.map(Path::to_owned);
        let made_file = !path.exists();
        fs::create_dir_all(dir).map_err(|source| RunError::Io { path: dir.to_owned(), source })?;
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(RunError::Locked { dir: dir.to_owned(), process: read_process(&mut file) });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        // Who holds it is a help to people alone, so that a full disk is no reason to stop here.
        let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
        Ok(RunLock { dir: dir.to_owned(), made: (made_file, top), _file: file })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The process that has the run folder `dir`: `None` if nobody has, its id where that is known.
    pub fn holder(dir: &Path) -> Option<Option<u32>> {
        let mut file = File::open(dir.join(LOCK)).ok()?;
        // A shared lock, so that several may look at once.
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(read_process(&mut file)),
            Ok(()) | Err(TryLockError::Error(_)) => None,
        }
    }
}

/// The id a lock file holds.
fn read_process(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().and_then(|()| file.take(16).read_to_string(&mut text)).ok()?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_without_a_run_leaves_what_was_there() {
        let dir = tempfile::tempdir().expect("a folder");
        let there = dir.path().join("there");
        fs::create_dir(&there).expect("made");
        drop(RunLock::take(&there.join("a/b/run")).expect("free"));
        assert_eq!(fs::read_dir(&there).expect("it stays").count(), 0);
        drop(RunLock::take(&there).expect("free"));
        assert_eq!(fs::read_dir(&there).expect("it stays").count(), 0);
        let run = there.join("run");
        let lock = RunLock::take(&run).expect("free");
        fs::write(run.join("config.toml"), "").expect("written");
        drop(lock);
        assert!(run.join("config.toml").exists() && run.join("lock").exists());
    }

    #[test]
    fn a_second_run_on_a_folder_is_refused_until_the_first_ends() {
        let dir = tempfile::tempdir().expect("a folder");
        let run = dir.path().join("run");
        assert_eq!(RunLock::holder(&run), None);
        let first = RunLock::take(&run).expect("free");
        assert_eq!(RunLock::holder(&run), Some(Some(std::process::id())));
        let refused = RunLock::take(&run).expect_err("taken").to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(first);
        assert_eq!(RunLock::holder(&run), None);
        RunLock::take(&run).expect("free again");
    }
}
