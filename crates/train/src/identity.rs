//! What a run is, as far as its arithmetic goes: a checkpoint is continued only by a run of the same identity.
//!
//! Base, data and tokenizer are told apart by BLAKE3 hashes, everything else by its value. The base is hashed by content,
//! on all threads; of a file above [`WHOLE_BYTES`] the first 64 MiB, in which its header is, and then the first 64 KiB of
//! every MiB, so that a large base costs a sixteenth of its reading. Training it differently changes all of its weights;
//! what is missed is a change by hand of a few rows of a very large file.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use lorafit_data::Dataset;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A file up to this size is hashed whole.
const WHOLE_BYTES: u64 = 1 << 30;
/// Of a larger one this much at its beginning,
const HEAD_BYTES: u64 = 64 << 20;
/// and then the beginning of every piece of this size.
const PIECE_BYTES: u64 = 1 << 20;
const SAMPLE_BYTES: u64 = 64 << 10;

/// Named values, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identity(Map<String, Value>);

/// A value that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// What it is of.
    pub name: String,
    /// What the checkpoint has.
    pub expected: String,
    /// What this run has.
    pub found: String,
}

impl Identity {
    /// With one more value; an absent one is left out.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        if !value.is_null() {
            self.0.insert(name.to_owned(), value);
        }
        self
    }

    /// A value of a name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// The values in which `found` differs, those that only one of the two has among them.
    pub fn mismatches(&self, found: &Identity) -> Vec<Mismatch> {
        let tell = |value: Option<&Value>| match value {
            None => "nothing".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        };
        let new = found.0.keys().filter(|name| !self.0.contains_key(*name));
        let differing = self.0.keys().chain(new).filter(|name| self.0.get(*name) != found.0.get(*name));
        differing
            .map(|name| Mismatch {
                name: name.clone(),
                expected: tell(self.0.get(name)),
                found: tell(found.0.get(name)),
            })
            .collect()
    }
}

/// Hexadecimal digits of a hash, 128 bits: enough to tell apart what is not forged.
const DIGITS: usize = 32;

fn digest(hasher: &blake3::Hasher) -> String {
    hasher.finalize().to_hex()[..DIGITS].to_owned()
}

/// The hash of a text.
pub fn hash_text(text: &str) -> String {
    digest(blake3::Hasher::new().update(text.as_bytes()))
}

/// The hash of files, whatever they are called; see the module for what is read of large ones.
///
/// # Errors
/// A file that cannot be read.
pub fn hash_files(paths: &[PathBuf]) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    for path in paths {
        hash_file(&mut hasher, path, WHOLE_BYTES, HEAD_BYTES)?;
    }
    Ok(digest(&hasher))
}

fn hash_file(hasher: &mut blake3::Hasher, path: &Path, whole: u64, head: u64) -> io::Result<()> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    hasher.update(&len.to_le_bytes());
    let mut buffer = vec![0; PIECE_BYTES as usize];
    let mut at = 0;
    while at < len {
        let wanted = if len <= whole || at < head { PIECE_BYTES } else { SAMPLE_BYTES }.min(len - at);
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut buffer[..wanted as usize])?;
        hasher.update_rayon(&buffer[..wanted as usize]);
        at += PIECE_BYTES;
    }
    Ok(())
}

/// The hash of a dataset as it is trained: token ids, which of them are trained, their lines and their order.
pub fn hash_data(data: &Dataset) -> String {
    blake3::Hash::from_bytes(data.samples.fingerprint()).to_hex()[..DIGITS].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named_with_both_values() {
        let before = Identity::default().with("lr", 0.1).with("seed", 3).with("base", "abc");
        let now = Identity::default().with("lr", 0.2).with("seed", 3).with("order", "file");
        let told: Vec<(String, String, String)> =
            before.mismatches(&now).into_iter().map(|m| (m.name, m.expected, m.found)).collect();
        let expected = [("lr", "0.1", "0.2"), ("base", "abc", "nothing"), ("order", "nothing", "file")];
        assert_eq!(told, expected.map(|(a, b, c)| (a.into(), b.into(), c.into())));
        assert!(before.mismatches(&before).is_empty());
    }

    /// 3 MiB and a bit, hashed as if it were large: whole, and sampled after the first MiB.
    #[test]
    fn a_changed_byte_of_the_base_changes_its_hash_where_it_is_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("base");
        let mut bytes = vec![7u8; 3 * PIECE_BYTES as usize + 11];
        let hash = |bytes: &[u8], whole: u64| {
            std::fs::write(&path, bytes).expect("written");
            let mut hasher = blake3::Hasher::new();
            hash_file(&mut hasher, &path, whole, PIECE_BYTES).expect("read");
            digest(&hasher)
        };
        let (whole, sampled) = (hash(&bytes, WHOLE_BYTES), hash(&bytes, 0));
        for (place, seen) in
            [(0, true), (PIECE_BYTES - 1, true), (PIECE_BYTES, true), (2 * PIECE_BYTES - 1, false)]
        {
            bytes[place as usize] ^= 1;
            assert_ne!(hash(&bytes, WHOLE_BYTES), whole, "byte {place}");
            assert_eq!(hash(&bytes, 0) != sampled, seen, "byte {place}, sampled");
            bytes[place as usize] ^= 1;
        }
        bytes.pop();
        assert_ne!(hash(&bytes, 0), sampled, "shorter");
    }
}
