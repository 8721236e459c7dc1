//! Numbers that were computed of samples and are kept with them: the hash of what follows (BLAKE3, 32 bytes), then f64 values, least
//! significant byte first.

use std::fs;
use std::io::{self, Write as _};

use super::{Cache, Key, mark_used};
use crate::samples::file::TEMPORARY;

pub(super) const EXTENSION: &str = "values";
const HASH_BYTES: usize = 32;

impl Cache {
    /// The numbers of a key; `None` if they are not there in one piece.
    pub fn open_values(&self, key: &Key) -> Option<Vec<f64>> {
        let path = self.path(key, EXTENSION);
        let bytes = fs::read(&path).ok()?;
        let (hash, values) = bytes.split_at_checked(HASH_BYTES)?;
        if blake3::hash(values).as_bytes() != hash {
            return None;
        }
        let (values, []) = values.as_chunks::<8>() else { return None };
        mark_used(&path);
        Some(values.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
    }

    /// Keeps numbers under their key.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn insert_values(&self, key: &Key, values: &[f64]) -> io::Result<()> {
        let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.make_folder()?;
        let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(&self.folder)?;
        file.write_all(blake3::hash(&values).as_bytes())?;
        file.write_all(&values)?;
        let path = self.path(key, EXTENSION);
        file.persist(&path).map_err(|e| e.error)?;
        self.remove_unused(Some(&path))
    }

    /// Whether whatever can be kept is, however little work it was.
    pub fn keeps_everything(&self) -> bool {
        self.worthwhile_bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_under_their_key_and_not_once_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("cache"));
        let [one, two] = ["one", "two"].map(Key::plain);
        let values = [-12.25, 0.0, f64::MIN_POSITIVE];
        assert_eq!(cache.open_values(&one), None);
        cache.insert_values(&one, &values).unwrap();
        assert_eq!(cache.open_values(&one).as_deref(), Some(&values[..]));
        assert_eq!(cache.open_values(&two), None);
        let path = cache.path(&one, EXTENSION);
        let mut bytes = fs::read(&path).unwrap();
        for damaged in [&bytes[..bytes.len() - 8], &bytes[..20], &[]] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(cache.open_values(&one), None);
        }
        bytes[40] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(cache.open_values(&one), None);
    }

    #[test]
    fn numbers_that_were_not_used_for_longest_go_like_samples() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache { largest_bytes: 60, ..Cache::new(folder.path()) };
        let [one, two] = ["one", "two"].map(Key::plain);
        cache.insert_values(&one, &[1.0]).unwrap();
        cache.insert_values(&two, &[2.0]).unwrap();
        assert_eq!([&one, &two].map(|key| cache.open_values(key)), [None, Some(vec![2.0])]);
    }
}
