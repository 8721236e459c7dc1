//! What a pass over a block works on.

use std::mem::swap;
use std::ops::Range;

use lorafit_kernels::Tensor;
use lorafit_kernels::ops::attention::Segments;
use lorafit_kernels::ops::dropout::Mask;
use lorafit_kernels::ops::elementwise;

use crate::adapter::{LoraGroup, SavedNorm};
use crate::buffers::{BackwardScratch, SavedBlock, Scratch};
use crate::kv_cache::{KvCache, Run};
use crate::norm::Norm;
use crate::shape::StreamAt;

/// What tokens attend to.
#[derive(Debug)]
pub(crate) enum Context<'a> {
    /// Each other, along the segments of the batch.
    Stream(&'a Segments),
    /// Sequences whose earlier keys and values lie in caches.
    Cached { runs: &'a [Run], caches: &'a mut [KvCache], layer: usize },
}

impl Context<'_> {
    /// Runs of rows and the length of the text each belongs to: of texts that begin alike and share rows, of the longest.
    pub(crate) fn texts(&self) -> Vec<(Range<usize>, usize)> {
        match self {
            Context::Stream(segments) => {
                let rows =
                    segments.as_slice().iter().map(|segment| segment.start..segment.start + segment.len);
                rows.zip(segments.text_lengths()).collect()
            }
            Context::Cached { runs, caches, .. } => {
                let length = |run: &Run| caches[run.cache].text_length(run.rows);
                runs.iter().map(|run| (run.first_row..run.first_row + run.rows, length(run))).collect()
            }
        }
    }
}

/// How far the forward pass of a block goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// To its output.
    Whole,
    /// To what backward reads, which does not need the output.
    Saved,
}

/// The adapters of a block, its norms that are trained beside them, and the dropout of this step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockAdapter<'a> {
    pub groups: &'a [Option<LoraGroup>],
    pub norms: &'a [SavedNorm],
    pub mask: Option<Mask>,
}

impl<'a> BlockAdapter<'a> {
    /// The copy of the norm whose statistics are at place `stats`, if one is trained, or `own`.
    pub(crate) fn norm(this: Option<Self>, stats: usize, own: &'a Norm) -> &'a Norm {
        let saved = this.and_then(|adapter| adapter.norms.iter().find(|saved| saved.stats == stats));
        saved.map_or(own, |saved| &saved.norm)
    }

    /// Those of a site.
    pub(super) fn at(this: Option<Self>, site: usize) -> SiteAdapter<'a> {
        let lora = this.and_then(|adapter| adapter.groups[site].as_ref());
        // Up to 16 projections a site.
        let mask = this.and_then(|adapter| adapter.mask).map(|mask| mask.derive(16 * site as u64));
        SiteAdapter { lora, mask }
    }
}

/// The adapters of a site, if it has some, and the mask of their input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SiteAdapter<'a> {
    pub lora: Option<&'a LoraGroup>,
    pub mask: Option<Mask>,
}

/// The factors of a block that are some rows' alone.
#[derive(Clone, Debug)]
pub(crate) struct RowsAdapter<'a> {
    pub rows: Range<usize>,
    pub groups: &'a [Option<LoraGroup>],
}

/// The forward pass of a block over `rows` rows.
#[derive(Debug)]
pub(crate) struct ForwardPass<'a> {
    pub rows: usize,
    /// That of all rows.
    pub adapter: Option<BlockAdapter<'a>>,
    /// Those of some rows, in their order; without one of all rows.
    pub of_rows: &'a [RowsAdapter<'a>],
    /// The residual stream, `[rows, hidden]`: the block's input, and in the end its output. Anything while it is `kept`.
    pub hidden: &'a mut Tensor,
    /// Where in `saved` the stream is, from when backward's copy of it was taken until something is added to it.
    pub kept: Option<StreamAt>,
    /// The only rows of which the output is needed, if not all are: those behind them are left out once attention has read them.
    pub needed: Option<&'a [u32]>,
    /// Where it leaves what backward reads.
    pub saved: &'a mut SavedBlock,
    pub scratch: &'a mut Scratch,
}

impl ForwardPass<'_> {
    /// Keeps the stream as it is now: it changes places with what is there, so that nothing is copied.
    pub(super) fn keep_stream(&mut self, at: StreamAt) {
        if self.kept == Some(at) {
            return;
        }
        debug_assert_eq!(self.kept, None, "something was added to the stream since");
        let kept = match at {
            StreamAt::Input => &mut self.saved.x,
            StreamAt::Middle => &mut self.saved.wide.middle,
        };
        assert_eq!(self.hidden.len(), kept.len(), "the stream and its copy are of one length");
        swap(self.hidden, kept);
        self.kept = Some(at);
    }

    /// Goes on with the rows that are needed alone: of what attention gave, and of the stream.
    pub(super) fn leave_rows(&mut self) {
        let Some(needed) = self.needed else { return };
        let SavedBlock { x, wide, .. } = &mut *self.saved;
        let (attended, normed) = (&mut wide.attended, &mut self.scratch.normed);
        let (width, hidden_size) = (attended.len() / self.scratch.tokens, self.scratch.hidden_size);
        elementwise::gather_rows(attended, needed, width, normed);
        elementwise::copy(normed, needed.len() * width, attended);
        match self.kept.take() {
            Some(StreamAt::Input) => elementwise::gather_rows(x, needed, hidden_size, self.hidden),
            Some(StreamAt::Middle) => unreachable!("nothing was added to the stream yet"),
            None => {
                elementwise::gather_rows(self.hidden, needed, hidden_size, normed);
                elementwise::copy(normed, needed.len() * hidden_size, self.hidden);
            }
        }
        self.rows = needed.len();
    }

    /// Has the stream in `hidden`, for who adds to it in place.
    pub(super) fn stream_to_hidden(&mut self) {
        let kept = match self.kept.take() {
            None => None,
            Some(StreamAt::Input) => Some(&self.saved.x),
            Some(StreamAt::Middle) => Some(&self.saved.wide.middle),
        };
        if let Some(kept) = kept {
            elementwise::copy(kept, self.rows * self.scratch.hidden_size, self.hidden);
        }
    }
}

/// The backward pass of a block over `rows` rows. The gradient of the stream is in `back.d_hidden`.
#[derive(Debug)]
pub(crate) struct BackwardPass<'a> {
    pub rows: usize,
    /// Those that the forward pass went on with after attention, of so many, until the backward pass comes there.
    pub needed: Option<(&'a [u32], usize)>,
    pub adapter: Option<BlockAdapter<'a>>,
    pub segments: &'a Segments,
    /// What forward left. Gate and up are overwritten by their gradients.
    pub saved: &'a mut SavedBlock,
    pub scratch: &'a mut Scratch,
    pub back: &'a mut BackwardScratch,
    /// The gradient of what a norm over the stream gave, `[rows, hidden]`.
    pub d_normed: &'a mut Tensor,
}

impl BackwardPass<'_> {
    /// Goes on with all rows, of which those that were left out have no gradient.
    pub(super) fn rejoin_rows(&mut self) {
        let Some((needed, rows)) = self.needed.take() else { return };
        let (attended, back) = (&mut self.saved.wide.attended, &mut *self.back);
        let width = attended.len() / self.scratch.tokens;
        let spread = |values: &mut Tensor, width: usize, spread: &mut Tensor| {
            spread.clear(rows * width);
            elementwise::scatter_add_rows(values, needed, width, spread);
            elementwise::copy(spread, rows * width, values);
        };
        // The gradient of the queries comes after it, and that of a norm's output came before.
        spread(attended, width, &mut back.d_q);
        spread(&mut self.scratch.normed, width, &mut back.d_q);
        spread(&mut back.d_hidden, self.scratch.hidden_size, self.d_normed);
        self.rows = rows;
    }
}
