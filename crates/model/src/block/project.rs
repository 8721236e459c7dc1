//! Projections as a step of a block: what they read and write, forward and backward. Their arithmetic is in [`super::linear`].

use lorafit_kernels::Tensor;
use lorafit_kernels::ops::elementwise;
use lorafit_kernels::ops::matmul::Base;

use super::Step;
use super::gradients::SiteGradients;
use super::linear::{LinearGroup, Work};
use super::pass::{BackwardPass, BlockAdapter, ForwardPass};
use crate::buffers::{BackwardScratch, SavedBlock, Scratch, Wide};
use crate::shape::{Branch, LinearInput, LinearOutput, StreamAt};

/// Projections of one input.
#[derive(Debug)]
pub(crate) struct ProjectStep {
    pub group: LinearGroup,
    pub site: usize,
    pub from: LinearInput,
    pub to: LinearOutput,
    /// Whether a later half has begun the gradient of the input.
    pub adds: bool,
    /// Columns of each output, where the only matrix joins several; else empty.
    pub joined: Vec<usize>,
}

impl ProjectStep {
    /// Whether backward reads the outputs, or what they become.
    pub(super) fn is_saved(&self) -> bool {
        match self.to {
            LinearOutput::Heads | LinearOutput::Gates | LinearOutput::Up | LinearOutput::Branch(_) => true,
            LinearOutput::Stream | LinearOutput::Scaled => false,
        }
    }

    /// From the input to the outputs; of the adapters' low-rank inputs alone where `only_saved`.
    pub(crate) fn forward(&self, pass: &mut ForwardPass<'_>, only_saved: bool) {
        if let LinearInput::Stream(at) = self.from {
            pass.keep_stream(at);
        }
        let (rows, adapter) = (pass.rows, BlockAdapter::at(pass.adapter, self.site));
        let SavedBlock { x, u, wide, .. } = &mut *pass.saved;
        let Wide { q, k, v, attended, attention_out, middle, gate, up, feed_forward_out } = wide;
        let Scratch { normed, act, branch, joined, d_u, dropped, .. } = &mut *pass.scratch;
        let work = &mut Work { rows, adapter, u: &mut u[self.site], d_u, dropped };
        // A half begins with the stream or a norm of it, and ends with what it computes between its projections.
        let input = match self.from {
            LinearInput::Stream(StreamAt::Input) => &*x,
            LinearInput::Stream(StreamAt::Middle) => &*middle,
            LinearInput::Normed(_) => &*normed,
            LinearInput::Attended => &*attended,
            LinearInput::Gated(_) => &*act,
        };
        let outs: &mut [&mut Tensor] = match self.to {
            LinearOutput::Heads => &mut [q, k, v],
            LinearOutput::Gates => &mut [gate, up],
            LinearOutput::Up => &mut [up],
            LinearOutput::Stream => &mut [&mut *pass.hidden],
            LinearOutput::Scaled => &mut [branch],
            LinearOutput::Branch(Branch::Attention) => &mut [attention_out],
            LinearOutput::Branch(Branch::FeedForward) => &mut [feed_forward_out],
        };
        let base = match (self.to, pass.kept) {
            (LinearOutput::Stream, Some(StreamAt::Input)) => Base::Of(x),
            (LinearOutput::Stream, Some(StreamAt::Middle)) => Base::Of(middle),
            (LinearOutput::Stream, None) => Base::Output,
            _ => Base::Zero,
        };
        if only_saved {
            self.group.low_rank_inputs(input, work);
        } else if self.joined.is_empty() {
            self.group.forward(input, work, outs, base);
        } else {
            self.group.forward(input, work, &mut [&mut *joined], Base::Zero);
            self.split(joined, rows, outs);
        }
        if self.to == LinearOutput::Stream && !only_saved {
            pass.kept = None;
        }
    }

    /// Whether the step at `below` gives the input, which forward did not keep.
    pub(super) fn reads(&self, below: usize) -> bool {
        matches!(self.from, LinearInput::Normed(at) | LinearInput::Gated(at) if at == below)
    }

    /// Adds to those gradients of factors and weights that need no input.
    pub(crate) fn output_gradients(&self, pass: &mut BackwardPass<'_>, gradients: &mut SiteGradients) {
        let (rows, adapter) = (pass.rows, BlockAdapter::at(pass.adapter, self.site));
        let SavedBlock { u, wide, .. } = &mut *pass.saved;
        let Scratch { joined, d_u, dropped, .. } = &mut *pass.scratch;
        let work = &mut Work { rows, adapter, u: &mut u[self.site], d_u, dropped };
        let d_outs = self.d_outs(wide, pass.back);
        if self.joined.is_empty() {
            self.group.output_gradients(&d_outs, gradients, work);
        } else {
            self.join(&d_outs, rows, joined);
            self.group.output_gradients(&[joined], gradients, work);
        }
    }

    /// Adds to the other gradients, after [`ProjectStep::output_gradients`]. An input that forward did not keep has been
    /// computed again.
    pub(crate) fn input_side_gradients(&self, pass: &mut BackwardPass<'_>, gradients: &mut SiteGradients) {
        let (rows, adapter) = (pass.rows, BlockAdapter::at(pass.adapter, self.site));
        let SavedBlock { x, u, wide, .. } = &mut *pass.saved;
        let Scratch { normed, act, joined, d_u, dropped, .. } = &mut *pass.scratch;
        let input = match self.from {
            LinearInput::Stream(StreamAt::Input) => &*x,
            LinearInput::Stream(StreamAt::Middle) => &wide.middle,
            LinearInput::Normed(_) => &*normed,
            LinearInput::Attended => &wide.attended,
            LinearInput::Gated(_) => &*act,
        };
        let work = &mut Work { rows, adapter, u: &mut u[self.site], d_u, dropped };
        if self.joined.is_empty() {
            let d_outs = self.d_outs(wide, pass.back);
            self.group.input_side_gradients(&d_outs, input, gradients, work);
        } else {
            self.group.input_side_gradients(&[joined], input, gradients, work);
        }
    }

    /// The gradients of the outputs.
    fn d_outs<'t>(&self, wide: &'t Wide, back: &'t BackwardScratch) -> Vec<&'t Tensor> {
        match self.to {
            LinearOutput::Heads => vec![&back.d_q, &back.d_k, &back.d_v],
            LinearOutput::Gates => vec![&wide.gate, &wide.up],
            LinearOutput::Up => vec![&wide.up],
            LinearOutput::Stream => vec![&back.d_hidden],
            LinearOutput::Scaled | LinearOutput::Branch(_) => vec![&back.d_branch],
        }
    }

    /// The normalised or gated input again, which forward did not keep. `steps` are those of the block.
    pub(super) fn recompute_input(&self, pass: &mut BackwardPass<'_>, steps: &[Step]) {
        match self.from {
            LinearInput::Normed(at) => match &steps[at] {
                Step::Norm(norm) => norm.recompute(pass),
                other => unreachable!("{other:?} is no norm"),
            },
            LinearInput::Gated(at) => match &steps[at] {
                Step::Gate(gate) => gate.forward(&pass.saved.wide, pass.rows, &mut pass.scratch.act),
                other => unreachable!("{other:?} is no gate"),
            },
            LinearInput::Stream(_) | LinearInput::Attended => {}
        }
    }

    /// The gradient of the input, after [`ProjectStep::output_gradients`]: over what is read, or added to that of the
    /// stream.
    pub(crate) fn input_gradient(&self, pass: &mut BackwardPass<'_>) {
        let (rows, adapter) = (pass.rows, BlockAdapter::at(pass.adapter, self.site));
        let SavedBlock { u, wide: Wide { gate, up, .. }, .. } = &mut *pass.saved;
        let Scratch { normed, act, joined, d_u, dropped, .. } = &mut *pass.scratch;
        let BackwardScratch { d_hidden, d_q, d_k, d_v, d_branch, .. } = &mut *pass.back;
        let work = &mut Work { rows, adapter, u: &mut u[self.site], d_u, dropped };
        let (heads, gates, whole) = ([&*d_q, &*d_k, &*d_v], [&*gate, &*up], [&*joined]);
        let inner = match self.to {
            _ if !self.joined.is_empty() => Some(&whole[..]),
            LinearOutput::Heads => Some(&heads[..]),
            LinearOutput::Gates => Some(&gates[..]),
            LinearOutput::Up => Some(&gates[1..]),
            LinearOutput::Stream | LinearOutput::Scaled | LinearOutput::Branch(_) => None,
        };
        if let (LinearInput::Stream(_), Some(d_outs)) = (self.from, inner) {
            return self.group.input_gradient(d_outs, work, d_hidden, true);
        }
        let outer = [if self.to == LinearOutput::Stream { &*d_hidden } else { &*d_branch }];
        let d_x = match self.from {
            // The gradient takes the place of its value.
            LinearInput::Gated(_) => act,
            LinearInput::Attended => normed,
            LinearInput::Normed(_) | LinearInput::Stream(_) => &mut *pass.d_normed,
        };
        self.group.input_gradient(inner.unwrap_or(&outer), work, d_x, self.adds);
    }

    /// From the output of a matrix that joins several to theirs.
    fn split(&self, joined: &Tensor, rows: usize, outs: &mut [&mut Tensor]) {
        let (all, mut first) = (self.joined.iter().sum(), 0);
        for (out, &width) in outs.iter_mut().zip(&self.joined) {
            elementwise::copy_columns(joined, rows, all, first..first + width, out, width, 0);
            first += width;
        }
    }

    /// The gradients of several outputs as that of the matrix that joins them.
    fn join(&self, outs: &[&Tensor], rows: usize, joined: &mut Tensor) {
        let (all, mut first) = (self.joined.iter().sum(), 0);
        for (out, &width) in outs.iter().zip(&self.joined) {
            elementwise::copy_columns(out, rows, width, 0..width, joined, all, first);
            first += width;
        }
    }
}
