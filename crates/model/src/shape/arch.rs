//! What the shape of a model asks of its architecture. The architectures themselves are in [`crate::arch`].

use std::fmt;

use super::config::Config;
use super::names::Names;
use super::part::Part;

/// What the file of an architecture says to those who know none by name.
pub(crate) struct Architecture {
    /// `model_type` of its `config.json`.
    pub model_type: &'static str,
    /// `general.architecture` of its GGUF files.
    pub gguf: &'static str,
    /// Whether GGUF files have the rows of queries and keys in the order of rotary pairs.
    pub gguf_rotary_pairs: bool,
    /// Whether llama.cpp has its window.
    pub gguf_window: bool,
    /// What its parts are called.
    pub names: &'static Names,
    /// The parts of the block of a layer.
    pub parts: fn(&Config, usize) -> Vec<Part>,
}

/// An architecture. No two have the same [`Arch::model_type`].
#[derive(Clone, Copy)]
pub struct Arch(pub(crate) &'static Architecture);

impl Arch {
    /// What `config.json` calls it.
    pub fn model_type(self) -> &'static str {
        self.0.model_type
    }

    /// What GGUF files call it.
    pub(crate) fn gguf(self) -> &'static str {
        self.0.gguf
    }

    /// What its parts are called.
    pub(crate) fn names(self) -> &'static Names {
        self.0.names
    }

    /// Whether GGUF files have the rows of queries and keys in the order of rotary pairs.
    pub(crate) fn gguf_rotary_pairs(self) -> bool {
        self.0.gguf_rotary_pairs
    }

    /// Whether llama.cpp has its window.
    pub(crate) fn gguf_window(self) -> bool {
        self.0.gguf_window
    }

    /// The parts of the block of a layer.
    pub(crate) fn parts(self, config: &Config, layer: usize) -> Vec<Part> {
        (self.0.parts)(config, layer)
    }
}

impl PartialEq for Arch {
    fn eq(&self, other: &Arch) -> bool {
        self.model_type() == other.model_type()
    }
}

impl Eq for Arch {}

impl fmt::Debug for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.model_type())
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.model_type())
    }
}
