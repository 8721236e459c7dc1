//! Bytes that were computed of samples, as many as need a file of their own: the hash of what follows (BLAKE3, 32 bytes), then they
//! themselves. They are read from the file as they are needed.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write};

use tempfile::NamedTempFile;

use super::{CHUNK_BYTES, Cache, Key, mark_used};
use crate::samples::file::TEMPORARY;

pub(super) const EXTENSION: &str = "large";
const HASH_BYTES: usize = 32;

/// Bytes that are written one after the other, and have no name before all are there.
#[derive(Debug)]
pub struct LargeWriter {
    file: BufWriter<NamedTempFile>,
    hasher: blake3::Hasher,
}

impl Write for LargeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Cache {
    /// Where the bytes of a key start in a file in this form.
    pub const LARGE_START: u64 = HASH_BYTES as u64;

    /// The file of a key, whose bytes begin at [`Cache::LARGE_START`]; `None` if it is not there in one piece.
    pub fn open_large(&self, key: &Key) -> Option<File> {
        let path = self.path(key, EXTENSION);
        let mut file = File::open(&path).ok()?;
        let mut hash = [0; HASH_BYTES];
        file.read_exact(&mut hash).ok()?;
        let (mut hasher, mut chunk) = (blake3::Hasher::new(), vec![0; CHUNK_BYTES]);
        loop {
            match file.read(&mut chunk).ok()? {
                0 => break,
                bytes => hasher.update_rayon(&chunk[..bytes]),
            };
        }
        if *hasher.finalize().as_bytes() != hash {
            return None;
        }
        mark_used(&path);
        Some(file)
    }

    /// Begins a file.
    ///
    /// # Errors
    /// When the folder cannot be made or written.
    pub fn create_large(&self) -> io::Result<LargeWriter> {
        self.make_folder()?;
        self.remove_unused(None)?;
        let file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(&self.folder)?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(&[0; HASH_BYTES])?;
        Ok(LargeWriter { file, hasher: blake3::Hasher::new() })
    }

    /// Keeps what was written under its key, and returns the file, whose bytes begin at [`Cache::LARGE_START`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn insert_large(&self, key: &Key, writer: LargeWriter) -> io::Result<File> {
        let LargeWriter { file, hasher } = writer;
        let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(hasher.finalize().as_bytes())?;
        let path = self.path(key, EXTENSION);
        let file = file.persist(&path).map_err(|e| e.error)?;
        self.remove_unused(Some(&path))?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn bytes_are_found_under_their_key_and_not_once_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("cache"));
        let [one, two] = ["one", "two"].map(Key::plain);
        assert!(cache.open_large(&one).is_none());
        let bytes: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        let mut writer = cache.create_large().unwrap();
        bytes.chunks(70_001).for_each(|chunk| writer.write_all(chunk).unwrap());
        let written = cache.insert_large(&one, writer).unwrap();
        for mut file in [written, cache.open_large(&one).unwrap()] {
            file.seek(SeekFrom::Start(Cache::LARGE_START)).unwrap();
            let mut found = Vec::new();
            file.read_to_end(&mut found).unwrap();
            assert_eq!(found, bytes);
        }
        assert!(cache.open_large(&two).is_none());

        let path = cache.path(&one, EXTENSION);
        let whole = fs::read(&path).unwrap();
        let mut turned = whole.clone();
        turned[70_000] ^= 4;
        for damaged in [&whole[..whole.len() - 1], &whole[..20], &[], &turned] {
            fs::write(&path, damaged).unwrap();
            assert!(cache.open_large(&one).is_none());
        }
    }

    #[test]
    fn what_is_not_finished_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        let mut writer = cache.create_large().unwrap();
        writer.write_all(b"some").unwrap();
        drop(writer);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
