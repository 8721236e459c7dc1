//! Tokenised datasets on disk: what was tokenised once is mapped the next time.
//!
//! ```text
//! CACHE/<key>.samples    the samples and the report of a dataset
//! CACHE/<key>.values     numbers that were computed of samples (cache/values.rs)
//! CACHE/<key>.large      bytes that were computed of samples, too many to be in memory (cache/large.rs)
//! CACHE/<stamp>.hash     the hash of a source's content, so that it is not read again as long as it has not changed
//! ```
//!
//! The key is a hash of everything that decides the samples: the content of the sources, the tokenizer with its chat
//! template, the options, and the code of this crate. So an entry is never out of date, only unused.
//!
//! A file gets its name once it is complete, and is checked byte for byte when it is opened; one that is damaged counts
//! as absent. Any number of processes may use a cache: at worst two do the same work. Files that were not used for
//! longest are removed when there are more than [`LARGEST_BYTES`] of them; who has one open keeps it.
//!
//! The content of a source is hashed when it is first seen, and taken as known as long as the file has the same path,
//! inode, length and time of modification. Only a file that is changed without any of these changing escapes notice.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::DataError;
use crate::samples::Samples;
use crate::samples::file::{self, SamplesWriter, TEMPORARY};
use crate::tokenizer::{Tokenizer, TokenizerError};

mod large;
mod values;

pub use large::LargeWriter;

/// What is kept, at most; the newest file is kept in any case.
pub const LARGEST_BYTES: u64 = 32 << 30;
/// The extensions of files that are kept.
const KEPT: [&str; 4] = [SAMPLES, values::EXTENSION, large::EXTENSION, "hash"];
const SAMPLES: &str = "samples";
/// Smaller sources are tokenised in about a second, and not cached.
const WORTHWHILE_BYTES: u64 = 4 << 20;
/// Unfinished files that nobody wrote to for so long were left behind by a process that was killed.
const ABANDONED: Duration = Duration::from_secs(60 * 60);
/// A file that was changed so recently may change again without its time of modification telling.
const SETTLED: Duration = Duration::from_secs(2);
/// Bytes of a source hashed at once.
const CHUNK_BYTES: usize = 4 << 20;

/// What decides the samples of a dataset, as a hash that is fed with it.
#[derive(Debug, Clone)]
pub struct Key(blake3::Hasher);

impl Key {
    /// For what is tokenised by `tokenizer` under `options`, of which everything must show in their `Debug` text.
    ///
    /// # Errors
    /// When the tokenizer cannot be described.
    pub fn new(tokenizer: &Tokenizer, options: &impl Debug) -> Result<Self, TokenizerError> {
        let mut key = Self(blake3::Hasher::new());
        key.add("code", env!("LORAFIT_DATA_CODE").as_bytes());
        key.add("tokenizer", tokenizer.description()?.as_bytes());
        key.add("clock", format!("{:?}", tokenizer.visible_clock()).as_bytes());
        key.add("options", format!("{options:?}").as_bytes());
        Ok(key)
    }

    /// For what has nothing to do with a tokenizer. `what` says what it is.
    pub fn plain(what: &str) -> Self {
        let mut key = Self(blake3::Hasher::new());
        key.add("what", what.as_bytes());
        key
    }

    /// As [`Key::plain`], with `parts` under their names.
    pub fn of_parts(what: &str, parts: &[(&str, String)]) -> Self {
        let mut key = Self::plain(what);
        for (name, value) in parts {
            key.add(name, value.as_bytes());
        }
        key
    }

    /// Adds something, such as the content hash of a source, under a name that says what it is.
    pub fn add(&mut self, name: &str, value: &[u8]) {
        // With their lengths, so that nothing else has the same bytes.
        for part in [name.as_bytes(), value] {
            self.0.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
    }
}

/// A folder of tokenised datasets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    folder: PathBuf,
    largest_bytes: u64,
    worthwhile_bytes: u64,
}

impl Cache {
    /// The cache in a folder, which need not exist.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), largest_bytes: LARGEST_BYTES, worthwhile_bytes: WORTHWHILE_BYTES }
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The same cache for sources of any size.
    #[must_use]
    pub fn of_any_size(self) -> Self {
        Self { worthwhile_bytes: 0, ..self }
    }

    /// Whether the files of a source are large enough for the cache, together.
    ///
    /// # Errors
    /// When one cannot be found.
    pub fn is_worthwhile(&self, files: &[PathBuf]) -> Result<bool, DataError> {
        let mut bytes = 0;
        for path in files {
            let metadata = fs::metadata(path).map_err(unreadable(path))?;
            if !metadata.is_file() {
                return Ok(false);
            }
            bytes += metadata.len();
        }
        Ok(bytes >= self.worthwhile_bytes)
    }

    /// The dataset of a key, with the note it was written with; `None` if it is not there in one piece.
    pub fn open<N: DeserializeOwned>(&self, key: &Key) -> Option<(Samples, N)> {
        let path = self.path(key, SAMPLES);
        let (samples, note) = file::open(&path).ok()?;
        let note = serde_json::from_slice(&note).ok()?;
        mark_used(&path);
        Some((samples, note))
    }

    /// Begins a dataset.
    ///
    /// # Errors
    /// When the folder cannot be made or written.
    pub fn create(&self) -> Result<SamplesWriter, DataError> {
        let create = || {
            self.make_folder()?;
            self.remove_unused(None)?;
            SamplesWriter::new(&self.folder)
        };
        create().map_err(self.error())
    }

    /// Keeps a dataset under its key, and returns its samples.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn insert(
        &self,
        key: &Key,
        writer: SamplesWriter,
        note: &impl Serialize,
    ) -> Result<Samples, DataError> {
        let note = serde_json::to_vec(note).expect("plain values");
        let (file, samples) = writer.finish(&note).map_err(self.error())?;
        let path = self.path(key, SAMPLES);
        file.persist(&path).map_err(|e| self.error()(e.error))?;
        self.remove_unused(Some(&path)).map_err(self.error())?;
        Ok(samples)
    }

    /// What went wrong in the cache.
    pub fn error(&self) -> impl Fn(io::Error) -> DataError + use<> {
        let path = self.folder.clone();
        move |source| DataError::Cache { path: path.clone(), source }
    }

    /// The hash of a source's content.
    ///
    /// # Errors
    /// When the source cannot be read, or the cache cannot be written.
    pub fn content_hash(&self, source: &Path) -> Result<[u8; 32], DataError> {
        let stamp = Stamp::of(source)?;
        let known = self.folder.join(format!("{}.hash", blake3::hash(format!("{stamp:?}").as_bytes())));
        if let Some(hash) = fs::read_to_string(&known).ok().and_then(|hex| blake3::Hash::from_hex(hex).ok()) {
            return Ok(*hash.as_bytes());
        }
        let hash = hash_file(source).map_err(unreadable(source))?;
        stamp.check()?;
        if stamp.modified.elapsed().is_ok_and(|age| age >= SETTLED) {
            let write = || {
                let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(&self.folder)?;
                file.write_all(hash.to_hex().as_bytes())?;
                file.persist(&known).map_err(|e| e.error)
            };
            self.make_folder().and_then(|()| write()).map_err(self.error())?;
        }
        Ok(*hash.as_bytes())
    }

    fn path(&self, key: &Key, extension: &str) -> PathBuf {
        self.folder.join(format!("{}.{extension}", key.0.finalize()))
    }

    /// What is trained on may be private, so that the folder is the user's alone.
    fn make_folder(&self) -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(&self.folder)
    }

    /// Removes what was left behind, and what was not used for longest, but not `newest`, until the rest is small enough.
    fn remove_unused(&self, newest: Option<&Path>) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            // Another process may have removed it.
            let Ok((entry, metadata)) = entry.and_then(|e| e.metadata().map(|m| (e, m))) else { continue };
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let used = metadata.modified()?;
            if name.starts_with(TEMPORARY) {
                if used.elapsed().is_ok_and(|age| age > ABANDONED) {
                    let _ = fs::remove_file(entry.path());
                }
            } else if is_kept(&entry.path()) {
                files.push((used, metadata.len(), entry.path()));
            }
        }
        files.sort();
        let mut bytes: u64 = files.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in files.iter().filter(|(_, _, path)| Some(path.as_path()) != newest) {
            if bytes <= self.largest_bytes {
                break;
            }
            let _ = fs::remove_file(path);
            bytes -= len;
        }
        Ok(())
    }
}

/// Whether a file is one that the cache keeps.
fn is_kept(path: &Path) -> bool {
    path.extension().is_some_and(|extension| KEPT.iter().any(|kept| extension == *kept))
}

/// The time of modification says when a file was last used.
fn mark_used(path: &Path) {
    let _ = File::options().append(true).open(path).and_then(|f| f.set_modified(SystemTime::now()));
}

/// What tells a file that was changed from one that was not, without reading it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    path: PathBuf,
    bytes: u64,
    modified: SystemTime,
    inode: Option<(u64, u64)>,
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> Result<Self, DataError> {
        let metadata = fs::metadata(path).map_err(unreadable(path))?;
        #[cfg(unix)]
        let inode = {
            use std::os::unix::fs::MetadataExt as _;
            Some((metadata.dev(), metadata.ino()))
        };
        #[cfg(not(unix))]
        let inode = None;
        Ok(Self {
            path: fs::canonicalize(path).map_err(unreadable(path))?,
            bytes: metadata.len(),
            modified: metadata.modified().map_err(unreadable(path))?,
            inode,
        })
    }

    /// Fails if the file was changed.
    pub(crate) fn check(&self) -> Result<(), DataError> {
        match Self::of(&self.path)? == *self {
            true => Ok(()),
            false => Err(DataError::Changed { path: self.path.clone() }),
        }
    }
}

/// A source that cannot be read.
fn unreadable(path: &Path) -> impl Fn(io::Error) -> DataError {
    move |source| DataError::Io { path: path.to_owned(), source }
}

/// Read and not mapped, so that its pages do not count as memory of the process.
fn hash_file(path: &Path) -> io::Result<blake3::Hash> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hasher.finalize()),
            bytes => hasher.update_rayon(&chunk[..bytes]),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Sample;

    fn key(name: &str) -> Key {
        let mut key = Key(blake3::Hasher::new());
        key.add("test", name.as_bytes());
        key
    }

    fn insert(cache: &Cache, name: &str) -> Samples {
        let mut writer = cache.create().unwrap();
        for row in 1..=20 {
            writer.push(&Sample { ids: vec![row as u32; 9], supervised: vec![true; 9], row }, None).unwrap();
        }
        cache.insert(&key(name), writer, &name).unwrap()
    }

    fn age(path: &Path, seconds: u64) {
        let file = File::options().append(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    }

    #[test]
    fn what_was_kept_is_found_under_its_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("a/b"));
        assert!(cache.open::<String>(&key("one")).is_none());
        let samples = insert(&cache, "one");
        let (found, note): (_, String) = cache.open(&key("one")).unwrap();
        assert_eq!((found, note.as_str()), (samples, "one"));
        assert!(cache.open::<String>(&key("two")).is_none());
    }

    #[test]
    fn a_damaged_file_counts_as_absent_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        insert(&cache, "one");
        let path = cache.path(&key("one"), SAMPLES);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(cache.open::<String>(&key("one")).is_none());
        let samples = insert(&cache, "one");
        assert_eq!(cache.open::<String>(&key("one")).unwrap().0, samples);
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = Cache::new(folder.path());
        for (seconds, name) in [(30, "old"), (20, "used"), (10, "new")] {
            insert(&cache, name);
            age(&cache.path(&key(name), SAMPLES), seconds);
        }
        cache.open::<String>(&key("used")).unwrap();
        let one = fs::metadata(cache.path(&key("new"), SAMPLES)).unwrap().len();
        cache.largest_bytes = 2 * one + one / 2;
        let left = folder.path().join(format!("{TEMPORARY}left"));
        let present = folder.path().join(format!("{TEMPORARY}present"));
        fs::write(&left, "x").unwrap();
        fs::write(&present, "x").unwrap();
        age(&left, 2 * 60 * 60);
        insert(&cache, "newest");
        let there = |name| cache.open::<String>(&key(name)).is_some();
        assert_eq!(["old", "new", "used", "newest"].map(there), [false, false, true, true]);
        assert_eq!((left.exists(), present.exists()), (false, true));
        cache.largest_bytes = 1;
        insert(&cache, "too large");
        assert!(cache.open::<String>(&key("too large")).is_some());
    }

    #[test]
    fn samples_outlive_their_file() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        let samples = insert(&cache, "one");
        fs::remove_file(cache.path(&key("one"), SAMPLES)).unwrap();
        assert_eq!(samples.iter().map(|s| s.row).sum::<usize>(), 210);
    }

    #[test]
    fn a_content_hash_is_remembered_until_the_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("cache"));
        let source = folder.path().join("source");
        let hashes = || fs::read_dir(cache.folder()).map_or(0, Iterator::count);
        fs::write(&source, "one").unwrap();
        let one = cache.content_hash(&source).unwrap();
        assert_eq!(one, *blake3::hash(b"one").as_bytes());
        assert_eq!(hashes(), 0, "a file just written may change again");
        age(&source, 60);
        assert_eq!((cache.content_hash(&source).unwrap(), hashes()), (one, 1));
        assert_eq!((cache.content_hash(&source).unwrap(), hashes()), (one, 1));
        fs::write(&source, "two").unwrap();
        assert_eq!(cache.content_hash(&source).unwrap(), *blake3::hash(b"two").as_bytes());
        let missing = cache.content_hash(&folder.path().join("missing"));
        assert!(matches!(missing, Err(DataError::Io { .. })));
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stamp = Stamp::of(file.path()).unwrap();
        stamp.check().unwrap();
        fs::write(file.path(), "more").unwrap();
        assert!(matches!(stamp.check(), Err(DataError::Changed { .. })));
    }

    #[test]
    fn a_key_depends_on_where_its_parts_end() {
        let of = |parts: &[(&str, &str)]| {
            let mut key = Key(blake3::Hasher::new());
            parts.iter().for_each(|(name, value)| key.add(name, value.as_bytes()));
            key.0.finalize()
        };
        assert_ne!(of(&[("a", "bc")]), of(&[("ab", "c")]));
        assert_ne!(of(&[("a", "b"), ("c", "d")]), of(&[("a", "bcd")]));
    }
}
