//! A file of rows that is written as it comes to be and can be continued.
//!
//! `OUT` has whole rows only. `OUT.progress` stands beside it until all is done: its first line says with what settings the
//! work began, each further one how far it is, and how long `OUT` was then. Whoever continues cuts `OUT` to that length.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use lorafit_train::Identity;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::terminal::error::CliError;

/// An open file of rows.
#[derive(Debug)]
pub struct Journal {
    out: File,
    path: PathBuf,
    progress: File,
    /// Bytes of `out` that are whole rows.
    bytes: u64,
}

/// How far the work is.
#[derive(Debug, Serialize, Deserialize)]
struct Entry<T> {
    bytes: u64,
    so_far: T,
}

/// What says how far the rows in `out` are.
fn beside(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".progress");
    name.into()
}

/// Refuses a file that is there already and is not to be continued or overwritten.
///
/// # Errors
/// That file.
pub fn check_free(out: &Path, overwrite: bool) -> Result<(), CliError> {
    let Ok(found) = out.metadata() else { return Ok(()) };
    if !found.is_file() {
        return Err(CliError::usage(format!("--out {} must be a file", out.display()))
            .hint("give the name of a file: an interrupted call is continued from what is in it"));
    }
    match overwrite || found.len() == 0 || beside(out).exists() {
        true => Ok(()),
        false => Err(CliError::usage(format!("--out {} is there already", out.display()))
            .hint("choose another --out, or replace it with --overwrite")),
    }
}

impl Journal {
    /// Opens `out` for work with the settings `identity`: a new file, or one that such work has begun, with how far it is.
    ///
    /// # Errors
    /// A file that other settings began, that was changed since, or that another process writes.
    pub fn open<T: DeserializeOwned>(
        out: &Path,
        identity: &Identity,
        overwrite: bool,
    ) -> anyhow::Result<(Self, Option<T>)> {
        check_free(out, overwrite)?;
        let (shown, beside) = (out.display(), beside(out));
        let cannot = |path: &Path| format!("cannot write {}", path.display());
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut progress = options.open(&beside).with_context(|| cannot(&beside))?;
        match progress.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(CliError::new(format!("another process writes {shown}"))
                    .hint("wait for it, or choose another --out")
                    .into());
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| cannot(&beside)),
        }
        let mut text = String::new();
        progress.read_to_string(&mut text).with_context(|| format!("cannot read {}", beside.display()))?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let mut lines = text[..whole].lines();
        let begun = lines.next().filter(|_| !overwrite);
        let last = lines.next_back().filter(|_| !overwrite);
        if let Some(begun) = begun {
            same(out, begun, identity)?;
        }
        let entry: Option<Entry<T>> = last.and_then(|line| serde_json::from_str(line).ok());
        let bytes = entry.as_ref().map_or(0, |entry| entry.bytes);
        let mut file = options.open(out).with_context(|| cannot(out))?;
        if file.metadata()?.len() < bytes {
            return Err(CliError::new(format!(
                "{shown} is shorter than it was when the work was interrupted"
            ))
            .hint("begin again with --overwrite")
            .into());
        }
        file.set_len(bytes).with_context(|| cannot(out))?;
        file.seek(SeekFrom::End(0))?;
        progress.set_len(if begun.is_some() { whole as u64 } else { 0 })?;
        progress.seek(SeekFrom::End(0))?;
        let mut journal = Journal { out: file, path: out.to_owned(), progress, bytes };
        if begun.is_none() {
            journal.note(identity)?;
        }
        Ok((journal, entry.map(|entry| entry.so_far)))
    }

    /// Adds rows, each of which ends its line, and notes how far the work is then.
    ///
    /// # Errors
    /// What cannot be written; the file has whole rows all the same.
    pub fn add(&mut self, rows: &str, so_far: &impl Serialize) -> anyhow::Result<()> {
        let written = self.out.write_all(rows.as_bytes()).and_then(|()| self.out.sync_data());
        if written.is_err() {
            // Removes the part of them that was written before the disk was full.
            let _ = self.out.set_len(self.bytes);
        }
        written.with_context(|| format!("cannot write {}", self.path.display()))?;
        self.bytes += rows.len() as u64;
        self.note(&Entry { bytes: self.bytes, so_far })
    }

    /// All is done.
    ///
    /// # Errors
    /// A file that cannot be removed.
    pub fn finish(self) -> anyhow::Result<()> {
        let beside = beside(&self.path);
        fs::remove_file(&beside).with_context(|| format!("cannot remove {}", beside.display()))
    }

    fn note(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        let line = serde_json::to_string(line)? + "\n";
        let written = self.progress.write_all(line.as_bytes()).and_then(|()| self.progress.sync_data());
        written.with_context(|| format!("cannot write {}", beside(&self.path).display()))
    }
}

/// Refuses to continue what other settings began.
fn same(out: &Path, begun: &str, identity: &Identity) -> Result<(), CliError> {
    let shown = out.display();
    let again = "begin again with --overwrite, or choose another --out";
    let Ok(begun) = serde_json::from_str::<Identity>(begun) else {
        let text = format!("{}: it does not say how {shown} was begun", beside(out).display());
        return Err(CliError::new(text).hint(again));
    };
    let mismatches = begun.mismatches(identity);
    if mismatches.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = mismatches
        .iter()
        .map(|m| format!("{}: it was begun with {}, here it is {}", m.name, m.expected, m.found))
        .collect();
    let text = format!("{shown} was begun with other settings:\n  {}", lines.join("\n  "));
    Err(CliError::new(text).hint(format!("give the same to continue, {again}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_goes_on_where_it_was_interrupted_and_half_a_row_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("rows.jsonl");
        let identity = Identity::default().with("--seed", 3);
        let open = |identity: &Identity, overwrite| Journal::open::<usize>(&out, identity, overwrite);
        let (mut journal, done) = open(&identity, false).unwrap();
        assert_eq!(done, None);
        journal.add("{}\n{}\n", &2).unwrap();
        assert!(open(&identity, false).unwrap_err().to_string().contains("another process writes"));
        drop(journal);
        fs::write(&out, "{}\n{}\n{\"ha").unwrap();
        let (mut journal, done) = open(&identity, false).unwrap();
        assert_eq!((done, fs::read_to_string(&out).unwrap().as_str()), (Some(2), "{}\n{}\n"));
        journal.add("", &3).unwrap();
        drop(journal);
        let other = open(&Identity::default().with("--seed", 4), false).unwrap_err().to_string();
        assert!(other.contains("--seed: it was begun with 3, here it is 4"), "{other}");
        let (journal, done) = open(&identity, false).unwrap();
        assert_eq!(done, Some(3));
        journal.finish().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(open(&identity, false).unwrap_err().to_string().contains("is there already"));
        let (_journal, done) = open(&identity, true).unwrap();
        assert_eq!((done, fs::read_to_string(&out).unwrap().as_str()), (None, ""));
    }

    #[test]
    fn rows_that_are_gone_are_not_continued() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("rows.jsonl");
        let (mut journal, _) = Journal::open::<usize>(&out, &Identity::default(), false).unwrap();
        journal.add("{}\n", &1).unwrap();
        drop(journal);
        fs::write(&out, "").unwrap();
        let found = Journal::open::<usize>(&out, &Identity::default(), false).unwrap_err().to_string();
        assert!(found.contains("is shorter"), "{found}");
    }
}
