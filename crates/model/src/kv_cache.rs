//! Keys and values of the tokens a sequence already has, per layer.

use lorafit_kernels::ops::elementwise;
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

    /// A cache with the first `tokens` of its tokens, and room for `capacity` or as many as they are.
    pub(crate) fn beginning(
        &self,
        tokens: usize,
        config: &Config,
        device: Device,
        capacity: usize,
    ) -> KvCache {
        assert!(tokens <= self.len, "{tokens} tokens of {}", self.len);
        let mut cache = KvCache::new(config, device, capacity.max(tokens));
        let values = tokens * config.num_key_value_heads * config.head_dim;
        for ((keys, values_of), (from_keys, from_values)) in cache.layers.iter_mut().zip(&self.layers) {
            elementwise::copy(from_keys, values, keys);
            elementwise::copy(from_values, values, values_of);
        }
        (cache.len, cache.longer_than) = (tokens, self.longer_than);
        cache
    }

    /// Makes room for `tokens` tokens, where there is none: for half as many more as it has at least, so that a text that grows by
    /// one token after another is not copied for each.
    pub(crate) fn grow(&mut self, config: &Config, device: Device, tokens: usize) {
        if tokens > self.capacity {
            let capacity = tokens.max(self.capacity + self.capacity / 2);
            *self = self.beginning(self.len, config, device, capacity);
        }
    }

    /// Whether it is of a text that is longer than where rotations change.
    pub(crate) fn is_long(&self) -> bool {
        self.longer_than > 0
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
