//! Norms as steps of a block, forward and backward: over the residual stream, and over what a half of a block gives.

use lorafit_kernels::Tensor;

use super::pass::{BackwardPass, BlockAdapter, ForwardPass};
use crate::buffers::SavedBlock;
use crate::norm::{Norm, NormGradients};
use crate::shape::{Branch, NormInput, StreamAt};

/// A norm as a step of a block.
#[derive(Debug)]
pub(crate) struct NormStep {
    pub norm: Norm,
    pub from: NormInput,
    /// Place of its statistics among the block's.
    pub stats: usize,
}

impl NormStep {
    /// The norm that computes: the model's, or the copy that an adapter trains.
    fn with<'a>(&'a self, adapter: Option<BlockAdapter<'a>>) -> &'a Norm {
        BlockAdapter::norm(adapter, self.stats, &self.norm)
    }

    /// From the stream to `scratch.normed`, or from what a half gave to `scratch.branch`.
    pub(crate) fn forward(&self, pass: &mut ForwardPass<'_>) {
        let rows = pass.rows;
        if let NormInput::Stream(at) = self.from {
            pass.keep_stream(at);
        }
        let SavedBlock { x, wide, stats, .. } = &mut *pass.saved;
        let (x, y) = match self.from {
            NormInput::Stream(StreamAt::Input) => (&*x, &mut pass.scratch.normed),
            NormInput::Stream(StreamAt::Middle) => (&wide.middle, &mut pass.scratch.normed),
            NormInput::Branch(Branch::Attention) => (&wide.attention_out, &mut pass.scratch.branch),
            NormInput::Branch(Branch::FeedForward) => (&wide.feed_forward_out, &mut pass.scratch.branch),
        };
        self.with(pass.adapter).forward(x, rows, y, &mut stats[self.stats]);
    }

    /// The output again, into `scratch.normed`, for another half of the block.
    pub(crate) fn again(&self, pass: &mut ForwardPass<'_>) {
        let saved = &*pass.saved;
        self.with(pass.adapter).recompute(
            self.input(saved),
            pass.rows,
            &saved.stats[self.stats],
            &mut pass.scratch.normed,
        );
    }

    /// The output again, into `scratch.normed`, for backward.
    pub(crate) fn recompute(&self, pass: &mut BackwardPass<'_>) {
        let saved = &*pass.saved;
        self.with(pass.adapter).recompute(
            self.input(saved),
            pass.rows,
            &saved.stats[self.stats],
            &mut pass.scratch.normed,
        );
    }

    /// The gradient of the output is that of the normalised input, or of the stream that it was added to.
    pub(crate) fn parameter_gradients(&self, pass: &mut BackwardPass<'_>, gradients: &mut NormGradients) {
        let saved = &*pass.saved;
        let d_y = match self.from {
            NormInput::Stream(_) => &*pass.d_normed,
            NormInput::Branch(_) => &pass.back.d_hidden,
        };
        self.with(pass.adapter).weight_gradient(
            d_y,
            self.input(saved),
            pass.rows,
            &saved.stats[self.stats],
            gradients,
        );
    }

    /// Adds to the gradient of the stream, or writes that of what the half gave. The output of a norm over the stream is in
    /// `scratch.normed` again, if that is asked for.
    pub(crate) fn input_gradient(&self, pass: &mut BackwardPass<'_>, output_again: bool) {
        let (saved, back) = (&*pass.saved, &mut *pass.back);
        let (x, rstd) = (self.input(saved), &saved.stats[self.stats]);
        let norm = self.with(pass.adapter);
        match self.from {
            NormInput::Stream(_) if output_again => {
                let outs = [&mut back.d_hidden, &mut pass.scratch.normed];
                norm.input_gradient_and_output(pass.d_normed, x, pass.rows, rstd, outs);
            }
            NormInput::Stream(_) => {
                norm.input_gradient(pass.d_normed, x, pass.rows, rstd, &mut back.d_hidden)
            }
            NormInput::Branch(_) => {
                back.d_branch.clear(pass.rows * norm.weight.len());
                norm.input_gradient(&back.d_hidden, x, pass.rows, rstd, &mut back.d_branch);
            }
        }
    }

    fn input<'s>(&self, saved: &'s SavedBlock) -> &'s Tensor {
        match self.from {
            NormInput::Stream(StreamAt::Input) => &saved.x,
            NormInput::Stream(StreamAt::Middle) => &saved.wide.middle,
            NormInput::Branch(Branch::Attention) => &saved.wide.attention_out,
            NormInput::Branch(Branch::FeedForward) => &saved.wide.feed_forward_out,
        }
    }
}
