//! Keys and values of the tokens a sequence already has, per layer.

use lorafit_kernels::{Device, Placement, Tensor};

use crate::shape::Config;

/// The cache of one sequence.
///
/// It belongs to the adapter it was filled with: after a swap, start a new one.
#[derive(Debug)]
pub struct KvCache {
    /// Keys and values, each `[capacity, kv_heads, d]`.
    layers: Vec<(Tensor, Tensor)>,
    len: usize,
    capacity: usize,
    /// What the text is known to be longer than, for rotations that depend on its length.
    longer_than: usize,
}

impl KvCache {
    /// An empty cache for up to `capacity` tokens.
    pub fn new(config: &Config, device: Device, capacity: usize) -> Self {
        let values = capacity * config.num_key_value_heads * config.head_dim;
        let layer = || (Tensor::activation(device, values), Tensor::activation(device, values));
        KvCache {
            layers: (0..config.num_hidden_layers).map(|_| layer()).collect(),
            len: 0,
            capacity,
            longer_than: 0,
        }
    }

    /// Bytes of a cache for up to `capacity` tokens on a device of `placement`.
    pub fn bytes(config: &Config, placement: Placement, capacity: usize) -> u64 {
        let values = capacity * config.num_key_value_heads * config.head_dim;
        let of_layer = 2 * placement.buffer_bytes(placement.activation_float().bytes(values as u64));
        of_layer * config.num_hidden_layers as u64
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True before the first token.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn layer(&self, layer: usize) -> (&Tensor, &Tensor) {
        let (keys, values) = &self.layers[layer];
        (keys, values)
    }

    pub(crate) fn layer_mut(&mut self, layer: usize) -> (&mut Tensor, &mut Tensor) {
        let (keys, values) = &mut self.layers[layer];
        (keys, values)
    }

    /// Takes the tokens of `other`, which it has room for.
    pub(crate) fn copy(&mut self, other: &KvCache, config: &Config) {
        assert!(other.len <= self.capacity, "the cache is too small");
        let values = other.len * config.num_key_value_heads * config.head_dim;
        for ((keys, values_of), (from_keys, from_values)) in self.layers.iter_mut().zip(&other.layers) {
            keys.write(0, &from_keys.to_vec(values));
            values_of.write(0, &from_values.to_vec(values));
        }
        (self.len, self.longer_than) = (other.len, other.longer_than);
    }

    /// Forgets its tokens, which are computed again as of a text of more than `tokens` tokens.
    pub(crate) fn restart(&mut self, tokens: usize) {
        (self.len, self.longer_than) = (0, tokens);
    }

    /// Tokens of the text with `more` that come.
    pub(crate) fn text_length(&self, more: usize) -> usize {
        (self.len + more).max(self.longer_than + usize::from(self.longer_than > 0))
    }

    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}

/// Rows of a batch that continue one cached sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Index of the sequence's cache.
    pub cache: usize,
    /// First row of the batch.
    pub first_row: usize,
    /// Number of rows.
    pub rows: usize,
}
