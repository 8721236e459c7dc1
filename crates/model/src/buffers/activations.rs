//! What blocks leave for their backward pass.
//!
//! Blocks that are kept have a set each ([`SavedBlock`]); the others share one: those below the lowest adapted layer, of
//! which nothing is needed again, and those that backward runs once more ([`Recompute`](crate::Recompute)).
//!
//! A block always works in f32. With [`ActivationDtype::Bf16`] the blocks that are kept borrow what is wide of the
//! shared set and leave it in 16 bits, which backward widens there again; what a block computes a second time is rounded
//! alike, so that gradients are the same bits under every policy. The input of a block stays in f32: computing it again
//! begins with it. So does what is narrow.

use std::mem::swap;

use lorafit_kernels::ops::elementwise;
use lorafit_kernels::{Bf16Tensor, Tensor};

use super::allocate::{Allocate, Part};
use super::shape::{ActivationDtype, BufferShape};
use crate::shape::Widths;

/// What the forward pass of a block leaves for its backward pass. `t` is the number of tokens.
#[derive(Debug)]
pub(crate) struct SavedBlock<T = Tensor> {
    /// Input of the block, `[t, hidden]`.
    pub x: T,
    /// Statistics of norms and of the attention ([`crate::shape::BlockShape`]).
    pub stats: Vec<T>,
    /// Low-rank inputs of each group of projections, `[t, total rank of the site]`.
    pub u: Vec<T>,
    pub wide: Wide<T>,
    /// Whether queries and keys are kept as the projections gave them, apart from what attention reads.
    pub keeps_heads: bool,
}

/// The part of a [`SavedBlock`] that may be stored in 16 bits. What a block does not have is empty.
#[derive(Debug)]
pub(crate) struct Wide<T = Tensor> {
    /// Queries, `[t, heads, d]`: before norm and rotation, or as attention reads them (see `block/attend.rs`).
    pub q: T,
    /// Keys, `[t, kv_heads, d]`, likewise.
    pub k: T,
    /// Values, `[t, kv_heads, d]`.
    pub v: T,
    /// Output of the attention, `[t, heads, d]`.
    pub attended: T,
    /// What the attention half gives, before its norm or where its projection has magnitudes, `[t, hidden]`.
    pub attention_out: T,
    /// The residual stream between attention and feed-forward, `[t, hidden]`.
    pub middle: T,
    /// `[t, intermediate]`; backward overwrites it with its gradient.
    pub gate: T,
    /// `[t, intermediate]`; backward overwrites it with its gradient.
    pub up: T,
    /// What the feed-forward half gives, likewise, `[t, hidden]`.
    pub feed_forward_out: T,
}

impl<T> SavedBlock<T> {
    /// What is narrow, beside `wide`.
    fn lay_out(
        sizes: &Sizes<'_>,
        narrow: &Narrow<'_>,
        wide: Wide<T>,
        part: Part,
        allocate: &mut impl Allocate<Values = T>,
    ) -> Self {
        let t = narrow.tokens;
        let x = allocate.activation(part, t * if narrow.owns_x { sizes.hidden } else { 0 });
        let u = narrow.ranks.iter().map(|rank| allocate.activation(part, t * rank)).collect();
        let stats = sizes.stats.iter().map(|width| allocate.f32(part, t * width)).collect();
        SavedBlock { x, stats, u, wide, keeps_heads: sizes.keeps_heads }
    }
}

impl<T> Wide<T> {
    fn lay_out(widths: &Widths, t: usize, make: &mut impl FnMut(usize) -> T) -> Self {
        let mut make = |width: usize| make(t * width);
        Wide {
            q: make(widths.queries),
            k: make(widths.keys),
            v: make(widths.keys),
            attended: make(widths.queries),
            attention_out: make(widths.attention_out),
            middle: make(widths.middle),
            gate: make(widths.gate),
            up: make(widths.up),
            feed_forward_out: make(widths.feed_forward_out),
        }
    }

    fn all(&self) -> [&T; 9] {
        let Wide { q, k, v, attended, attention_out, middle, gate, up, feed_forward_out } = self;
        [q, k, v, attended, attention_out, middle, gate, up, feed_forward_out]
    }

    fn all_mut(&mut self) -> [&mut T; 9] {
        let Wide { q, k, v, attended, attention_out, middle, gate, up, feed_forward_out } = self;
        [q, k, v, attended, attention_out, middle, gate, up, feed_forward_out]
    }
}

/// What of a model decides sizes.
pub(crate) struct Sizes<'a> {
    pub hidden: usize,
    pub widths: Widths,
    pub stats: &'a [usize],
    /// See [`SavedBlock::keeps_heads`].
    pub keeps_heads: bool,
}

/// What of a block decides the sizes of what is narrow.
struct Narrow<'a> {
    tokens: usize,
    /// Of its adapters at each site.
    ranks: &'a [usize],
    /// Whether it has a place for its input.
    owns_x: bool,
}

/// What all blocks leave for backward.
#[derive(Debug)]
pub(crate) struct Activations<T = Tensor, N = Bf16Tensor> {
    tokens: usize,
    dtype: ActivationDtype,
    /// Blocks from `first_kept` on: all that backward reads, without what is wide if that is in `narrow`.
    kept: Vec<SavedBlock<T>>,
    narrow: Vec<Wide<N>>,
    first_kept: usize,
    /// Inputs, `[t, hidden]`, of the blocks from `first_trained` to `first_kept`, which backward runs again.
    inputs: Vec<T>,
    first_trained: usize,
    /// For the blocks that are not kept, in turn. Those that are run again bring their place for `x` from `inputs`;
    /// those that are kept in 16 bits take what is wide.
    shared: SavedBlock<T>,
    /// The block whose forward pass has left what it saves in the shared set, whole: the last that would be run again
    /// need not be.
    in_shared: Option<usize>,
}

impl<T, N> Activations<T, N> {
    /// `most` is the largest rank of any block at each site.
    pub(crate) fn lay_out(
        sizes: &Sizes<'_>,
        shape: &BufferShape,
        most: &[usize],
        allocate: &mut impl Allocate<Values = T, Bf16 = N>,
    ) -> Self {
        let (tokens, dtype) = (shape.tokens, shape.activations.dtype);
        let (first_trained, first_kept) = shape.first_trained_and_kept();
        // A run in which every block is kept has no use for the shared set, unless blocks borrow of it.
        let shared_tokens = if first_kept == 0 { 0 } else { tokens };
        let (kept_wide, shared_wide, narrow_blocks) = match dtype {
            ActivationDtype::F32 => (tokens, shared_tokens, 0),
            ActivationDtype::Bf16 => (0, tokens, shape.ranks.len() - first_kept),
        };
        let mut bf16 = |len| allocate.bf16(Part::Activations, len);
        let narrow = (0..narrow_blocks).map(|_| Wide::lay_out(&sizes.widths, tokens, &mut bf16)).collect();
        let mut block = |part, wide, narrow: Narrow<'_>| {
            let wide = Wide::lay_out(&sizes.widths, wide, &mut |len| allocate.activation(part, len));
            SavedBlock::lay_out(sizes, &narrow, wide, part, allocate)
        };
        let kept = shape.ranks[first_kept..].iter();
        let kept = kept
            .map(|ranks| block(Part::Activations, kept_wide, Narrow { tokens, ranks, owns_x: true }))
            .collect();
        let narrow_shared = Narrow { tokens: shared_tokens, ranks: most, owns_x: first_trained > 0 };
        let shared = block(Part::Scratch, shared_wide, narrow_shared);
        let mut input = || allocate.activation(Part::Activations, tokens * sizes.hidden);
        let inputs = (first_trained..first_kept).map(|_| input()).collect();
        Activations {
            tokens,
            dtype,
            kept,
            narrow,
            first_kept,
            inputs,
            first_trained,
            shared,
            in_shared: None,
        }
    }
}

impl Activations {
    /// Whether backward has of `block` but its input, unless [`Activations::is_in_shared`].
    pub(crate) fn is_recomputed(&self, block: usize) -> bool {
        (self.first_trained..self.first_kept).contains(&block)
    }

    /// Whether no block has used the shared set since the forward pass of `block`, so that it need not run again.
    pub(crate) fn is_in_shared(&self, block: usize) -> bool {
        self.in_shared == Some(block)
    }

    /// Where the forward pass of `block` leaves what it saves; [`Activations::keep`] comes after it.
    pub(crate) fn for_forward(&mut self, block: usize) -> &mut SavedBlock {
        self.exchange(block);
        match block.checked_sub(self.first_kept) {
            Some(kept) => &mut self.kept[kept],
            None => &mut self.shared,
        }
    }

    /// Ends the forward pass of `block` over `rows` rows.
    pub(crate) fn keep(&mut self, block: usize, rows: usize) {
        self.exchange(block);
        if block < self.first_kept {
            self.in_shared = Some(block);
        } else if self.dtype == ActivationDtype::Bf16 {
            // It has borrowed what is wide.
            self.in_shared = None;
        }
        if let Some(narrow) = block.checked_sub(self.first_kept).and_then(|kept| self.narrow.get_mut(kept)) {
            for (wide, narrow) in self.shared.wide.all().into_iter().zip(narrow.all_mut()) {
                elementwise::narrow(wide, wide.len() / self.tokens * rows, narrow);
            }
        }
    }

    /// What the forward pass of `block` over `rows` rows has left: of a block that is run again, its input.
    /// [`Activations::release`] comes after its backward pass.
    pub(crate) fn for_backward(&mut self, block: usize, rows: usize) -> &mut SavedBlock {
        if let Some(narrow) = block.checked_sub(self.first_kept).and_then(|kept| self.narrow.get(kept)) {
            for (wide, narrow) in self.shared.wide.all_mut().into_iter().zip(narrow.all()) {
                elementwise::widen(narrow, wide.len() / self.tokens * rows, wide);
            }
        }
        self.for_forward(block)
    }

    /// Makes of what a block has computed in the shared set what it would be had it been kept.
    pub(crate) fn round(&mut self, rows: usize) -> &mut SavedBlock {
        match self.dtype {
            ActivationDtype::F32 => {}
            ActivationDtype::Bf16 => {
                for wide in self.shared.wide.all_mut() {
                    elementwise::round_to_bf16(wide, wide.len() / self.tokens * rows);
                }
            }
        }
        &mut self.shared
    }

    /// Ends the backward pass of `block`, which has overwritten a part of what was saved.
    pub(crate) fn release(&mut self, block: usize) {
        self.exchange(block);
        if self.in_shared == Some(block) {
            self.in_shared = None;
        }
    }

    /// Lends buffers between the set in which `block` works and the rest, or takes them back.
    fn exchange(&mut self, block: usize) {
        match block.checked_sub(self.first_kept) {
            Some(kept) => match self.dtype {
                ActivationDtype::F32 => {}
                ActivationDtype::Bf16 => swap(&mut self.kept[kept].wide, &mut self.shared.wide),
            },
            None => {
                if let Some(input) = block.checked_sub(self.first_trained) {
                    swap(&mut self.inputs[input], &mut self.shared.x);
                }
            }
        }
    }
}
