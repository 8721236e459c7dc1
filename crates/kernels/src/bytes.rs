//! Bytes of a weight that somebody else owns: usually a range of a memory-mapped file.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Owns bytes that weights lie in.
pub trait Owner: Send + Sync {
    /// All of them.
    fn bytes(&self) -> &[u8];

    /// Called when `range` will not be read for a while: a mapped file can give its pages back.
    fn release(&self, _range: Range<usize>) {}
}

impl Owner for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// A cheaply cloned range of bytes in a shared owner (a memory map, or a `Vec<u8>` in tests).
///
/// The owner is kept alive by every clone, so a weight can outlive the reader that found it.
#[derive(Clone)]
pub struct SharedBytes {
    owner: Arc<dyn Owner>,
    range: Range<usize>,
}

impl SharedBytes {
    /// All bytes of `owner`.
    pub fn new(owner: Arc<dyn Owner>) -> Self {
        let range = 0..owner.bytes().len();
        SharedBytes { owner, range }
    }

    /// Bytes owned by a vector.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        SharedBytes::new(Arc::new(bytes))
    }

    /// The bytes `range`, counted from the start of `self`; `None` if it reaches past the end.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.len() {
            return None;
        }
        let start = self.range.start + range.start;
        Some(SharedBytes { owner: self.owner.clone(), range: start..start + range.len() })
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// True for an empty range.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.owner.bytes()[self.range.clone()]
    }

    /// Tells the owner that these bytes will not be read for a while.
    pub fn release(&self) {
        self.owner.release(self.range.clone());
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedBytes({} bytes)", self.len())
    }
}
