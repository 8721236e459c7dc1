//! A log of one JSON object a line that survives a crash and a full disk.
//!
//! A line is written whole, at the end of the file. What a full disk leaves unwritten waits in memory and goes out,
//! from the byte where it stopped, as soon as there is space. After a crash the file is cut to the lines that the
//! checkpoint knows of, and a line without an end is no line.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::storage::{Storage, StorageFile};

/// An open log.
#[derive(Debug)]
pub(crate) struct JsonLines {
    path: PathBuf,
    file: Box<dyn StorageFile>,
    lines: u64,
    /// What is not written yet.
    waiting: Vec<u8>,
}

impl JsonLines {
    /// An empty log, in place of what was there.
    pub(crate) fn create(storage: &dyn Storage, path: PathBuf) -> io::Result<Self> {
        Ok(JsonLines { file: storage.create(&path)?, path, lines: 0, waiting: Vec::new() })
    }

    /// The first `lines` lines of the log that is there, to be continued. There may be fewer if the file was changed.
    pub(crate) fn resume(storage: &dyn Storage, path: PathBuf, lines: u64) -> io::Result<Self> {
        if path.exists() {
            let (found, bytes) = whole_lines(&path, lines)?;
            let file = OpenOptions::new().write(true).open(&path)?;
            file.set_len(bytes)?;
            file.sync_all()?;
            return Ok(JsonLines { file: storage.append(&path)?, path, lines: found, waiting: Vec::new() });
        }
        Self::create(storage, path)
    }

    /// Lines so far.
    pub(crate) fn lines(&self) -> u64 {
        self.lines
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a line. After an error it waits for the next call.
    pub(crate) fn append(&mut self, record: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.waiting, record).expect("records are plain values");
        self.waiting.push(b'\n');
        self.lines += 1;
        self.write_waiting()
    }

    /// Returns when all lines are on the disk. A file that somebody removed is begun again.
    pub(crate) fn sync(&mut self, storage: &dyn Storage) -> io::Result<()> {
        if !self.path.exists() {
            self.file = storage.append(&self.path)?;
        }
        self.write_waiting()?;
        self.file.sync()
    }

    fn write_waiting(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() {
            match self.file.write(&self.waiting) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => drop(self.waiting.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// How many of the first `most` lines of a file are whole, and the bytes they take.
fn whole_lines(path: &Path, most: u64) -> io::Result<(u64, u64)> {
    let mut reader = BufReader::new(fs::File::open(path)?);
    let (mut lines, mut bytes, mut line) = (0, 0, Vec::new());
    while lines < most {
        line.clear();
        reader.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            break;
        }
        (lines, bytes) = (lines + 1, bytes + line.len() as u64);
    }
    Ok((lines, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Disk;

    fn content(path: &Path) -> String {
        fs::read_to_string(path).expect("the log")
    }

    #[test]
    fn a_torn_line_and_lines_after_the_checkpoint_are_cut() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("log.jsonl");
        for (before, keep, after) in [
            ("1\n2\n3\n", 2, "1\n2\n9\n"),
            ("1\n2\n3", 3, "1\n2\n9\n"),
            ("1\n2\n3", 2, "1\n2\n9\n"),
            ("1\n", 5, "1\n9\n"),
            ("", 0, "9\n"),
            ("tor", 1, "9\n"),
        ] {
            fs::write(&path, before).expect("written");
            let mut log = JsonLines::resume(&Disk, path.clone(), keep).expect("opens");
            log.append(&9).expect("written");
            assert_eq!(content(&path), after, "{before:?} cut to {keep}");
            assert_eq!(log.lines(), after.lines().count() as u64);
        }
    }
}
