//! Projections as a step of a block: what they read and write, forward and backward. Their arithmetic is in [`super::linear`].

use lorafit_kernels::Tensor;
use lorafit_kernels::ops::elementwise;
use lorafit_kernels::ops::matmul::Base;

use super::Step;
use super::gradients::SiteGradients;
use super::linear::{LinearGroup, Work};
use super::pass::{BackwardPass, BlockAdapter, ForwardPass, RowsAdapter, SiteAdapter};
use crate::adapter::LoraGroup;
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

/// Whether outputs of a site have magnitudes.
fn has_magnitudes(adapter: SiteAdapter<'_>) -> bool {
    adapter.lora.is_some_and(|lora| lora.magnitudes().next().is_some())
}

impl ProjectStep {
    /// Whether backward reads the outputs, or what they become.
    pub(super) fn is_saved(&self) -> bool {
        match self.to {
            LinearOutput::Heads | LinearOutput::Gates | LinearOutput::Up | LinearOutput::Branch(_) => true,
            LinearOutput::Stream | LinearOutput::Scaled => false,
        }
    }

    /// From the input to the outputs; only to what backward reads where `only_saved`: the low-rank inputs of the adapters, and
    /// outputs with magnitudes.
    pub(crate) fn forward<'a>(&self, pass: &mut ForwardPass<'a>, only_saved: bool) {
        if let LinearInput::Stream(at) = self.from {
            pass.keep_stream(at);
        }
        let (rows, adapter) = (pass.rows, BlockAdapter::at(pass.adapter, self.site));
        let of_site = |of: &RowsAdapter<'a>| Some((of.rows.clone(), of.groups[self.site].as_ref()?));
        let of_rows: Vec<_> = pass.of_rows.iter().filter_map(of_site).collect();
        let magnitudes = has_magnitudes(adapter);
        let SavedBlock { x, u, wide, .. } = &mut *pass.saved;
        let Wide { q, k, v, attended, attention_out, middle, gate, up, feed_forward_out } = wide;
        let Scratch { hidden_size, normed, act, branch, joined, d_u, dropped, parts, .. } =
            &mut *pass.scratch;
        let values = rows * *hidden_size;
        let work = &mut Work { rows, adapter, u: &mut u[self.site], d_u, dropped, parts };
        // A half begins with the stream or a norm of it, and ends with what it computes between its projections.
        let input = match self.from {
            LinearInput::Stream(StreamAt::Input) => &*x,
            LinearInput::Stream(StreamAt::Middle) => &*middle,
            LinearInput::Normed(_) => &*normed,
            LinearInput::Attended => &*attended,
            LinearInput::Gated(_) => &*act,
        };
        // What magnitudes multiply is not added in passing.
        if let (true, LinearOutput::Stream | LinearOutput::Scaled) = (magnitudes, self.to) {
            let out = match self.half() {
                Branch::Attention => attention_out,
                Branch::FeedForward => feed_forward_out,
            };
            self.group.forward(input, work, &mut [out], Base::Zero);
            match self.to {
                _ if only_saved => {}
                LinearOutput::Scaled => elementwise::copy(out, values, branch),
                _ => {
                    let base = match pass.kept.take() {
                        Some(StreamAt::Input) => Some(&*x),
                        Some(StreamAt::Middle) => Some(&*middle),
                        None => None,
                    };
                    if let Some(base) = base {
                        elementwise::copy(base, values, pass.hidden);
                    }
                    elementwise::add(out, values, pass.hidden);
                }
            }
            return;
        }
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
            self.group.add_of_rows(input, &of_rows, work.u, outs);
        } else {
            self.group.forward(input, work, &mut [&mut *joined], Base::Zero);
            self.group.add_of_rows(input, &of_rows, work.u, &mut [&mut *joined]);
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

    /// The half of the block that ends with these projections.
    fn half(&self) -> Branch {
        match self.from {
            LinearInput::Attended => Branch::Attention,
            LinearInput::Gated(_) => Branch::FeedForward,
            LinearInput::Stream(_) | LinearInput::Normed(_) => {
                unreachable!("a half ends with a projection of what attention or the gate gives")
            }
        }
    }

    /// Keeps the outputs that the gradient of magnitudes reads, before the step above overwrites them by their gradients.
    pub(super) fn keep_gates(&self, pass: &mut BackwardPass<'_>) {
        if !has_magnitudes(BlockAdapter::at(pass.adapter, self.site)) {
            return;
        }
        let (rows, Wide { gate, up, .. }) = (pass.rows, &pass.saved.wide);
        let [first, second] = &mut pass.scratch.outputs;
        let values = |projection: usize| rows * self.group.projections[projection].outputs();
        match self.to {
            LinearOutput::Gates if !self.joined.is_empty() => self.join(&[gate, up], rows, first),
            LinearOutput::Gates => {
                elementwise::copy(gate, values(0), first);
                elementwise::copy(up, values(1), second);
            }
            LinearOutput::Up => elementwise::copy(up, values(0), first),
            LinearOutput::Heads | LinearOutput::Stream | LinearOutput::Scaled | LinearOutput::Branch(_) => {}
        }
    }

    /// Adds to those gradients of factors and weights that need no input.
    pub(crate) fn output_gradients(&self, pass: &mut BackwardPass<'_>, gradients: &mut SiteGradients) {
        let (rows, adapter) = (pass.rows, BlockAdapter::at(pass.adapter, self.site));
        if !self.joined.is_empty() {
            let Scratch { joined, .. } = &mut *pass.scratch;
            self.join(&self.d_outs(&pass.saved.wide, pass.back, adapter), rows, joined);
        }
        if let Some(lora) = adapter.lora.filter(|_| has_magnitudes(adapter)) {
            self.magnitude_gradients(pass, lora, gradients);
        }
        let SavedBlock { u, wide, .. } = &mut *pass.saved;
        let Scratch { joined, d_u, dropped, parts, .. } = &mut *pass.scratch;
        let work = &mut Work { rows, adapter, u: &mut u[self.site], d_u, dropped, parts };
        if self.joined.is_empty() {
            self.group.output_gradients(&self.d_outs(wide, pass.back, adapter), gradients, work);
        } else {
            self.group.output_gradients(&[joined], gradients, work);
        }
    }

    /// Adds to the gradients of magnitudes, and goes on to the gradients of what they multiply: in place, or from that of the
    /// stream, which others read, to `back.d_branch`.
    fn magnitude_gradients(
        &self,
        pass: &mut BackwardPass<'_>,
        lora: &LoraGroup,
        gradients: &mut SiteGradients,
    ) {
        let rows = pass.rows;
        let Wide { q, k, v, attention_out, gate, up, feed_forward_out, .. } = &mut pass.saved.wide;
        let Scratch { hidden_size, joined, outputs: [first, second], .. } = &mut *pass.scratch;
        let BackwardScratch { d_hidden, d_branch, d_q, d_k, d_v, .. } = &mut *pass.back;
        let (group, gradients) = (&self.group, &mut gradients.adapter);
        if !self.joined.is_empty() {
            if self.to == LinearOutput::Heads {
                self.join(&[q, k, v], rows, first);
            }
            return group.magnitude_gradients(&mut [joined], &[first], (lora, rows), gradients);
        }
        if self.to == LinearOutput::Stream {
            elementwise::copy(d_hidden, rows * *hidden_size, d_branch);
        }
        let (d_outs, outs): (&mut [&mut Tensor], &[&Tensor]) = match self.to {
            LinearOutput::Heads => (&mut [d_q, d_k, d_v], &[q, k, v]),
            LinearOutput::Gates => (&mut [gate, up], &[first, second]),
            LinearOutput::Up => (&mut [up], &[first]),
            LinearOutput::Stream | LinearOutput::Scaled | LinearOutput::Branch(_) => (
                &mut [d_branch],
                match self.half() {
                    Branch::Attention => &[attention_out],
                    Branch::FeedForward => &[feed_forward_out],
                },
            ),
        };
        group.magnitude_gradients(d_outs, outs, (lora, rows), gradients);
    }

    /// Adds to the other gradients, after [`ProjectStep::output_gradients`]. An input that forward did not keep has been
    /// computed again.
    pub(crate) fn input_side_gradients(&self, pass: &mut BackwardPass<'_>, gradients: &mut SiteGradients) {
        let (rows, adapter) = (pass.rows, BlockAdapter::at(pass.adapter, self.site));
        let SavedBlock { x, u, wide, .. } = &mut *pass.saved;
        let Scratch { normed, act, joined, d_u, dropped, parts, .. } = &mut *pass.scratch;
        let input = match self.from {
            LinearInput::Stream(StreamAt::Input) => &*x,
            LinearInput::Stream(StreamAt::Middle) => &wide.middle,
            LinearInput::Normed(_) => &*normed,
            LinearInput::Attended => &wide.attended,
            LinearInput::Gated(_) => &*act,
        };
        let work = &mut Work { rows, adapter, u: &mut u[self.site], d_u, dropped, parts };
        if self.joined.is_empty() {
            let d_outs = self.d_outs(wide, pass.back, adapter);
            self.group.input_side_gradients(&d_outs, input, gradients, work);
        } else {
            self.group.input_side_gradients(&[joined], input, gradients, work);
        }
    }

    /// The rank of the factors and the gradient of `A`, where that is all that [`ProjectStep::input_side_gradients`] adds to, of
    /// an input that is the same for all.
    pub(super) fn a_alone<'g>(
        &self,
        pass: &BackwardPass<'_>,
        gradients: &'g mut SiteGradients,
    ) -> Option<(usize, &'g mut Tensor)> {
        let adapter = BlockAdapter::at(pass.adapter, self.site);
        let trains_weights = gradients.projections.iter().any(|of| of.weight.is_some());
        let lora = adapter.lora.filter(|_| adapter.mask.is_none() && !trains_weights)?;
        Some((lora.rank, &mut gradients.adapter.as_mut()?.a))
    }

    /// The gradients of the outputs, or of what their magnitudes multiply.
    fn d_outs<'t>(
        &self,
        wide: &'t Wide,
        back: &'t BackwardScratch,
        adapter: SiteAdapter<'_>,
    ) -> Vec<&'t Tensor> {
        match self.to {
            LinearOutput::Heads => vec![&back.d_q, &back.d_k, &back.d_v],
            LinearOutput::Gates => vec![&wide.gate, &wide.up],
            LinearOutput::Up => vec![&wide.up],
            LinearOutput::Stream if !has_magnitudes(adapter) => vec![&back.d_hidden],
            LinearOutput::Stream | LinearOutput::Scaled | LinearOutput::Branch(_) => vec![&back.d_branch],
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
        let Scratch { normed, act, joined, d_u, dropped, parts, .. } = &mut *pass.scratch;
        let BackwardScratch { d_hidden, d_q, d_k, d_v, d_branch, .. } = &mut *pass.back;
        let work = &mut Work { rows, adapter, u: &mut u[self.site], d_u, dropped, parts };
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
        let of_stream = self.to == LinearOutput::Stream && !has_magnitudes(adapter);
        let outer = [if of_stream { &*d_hidden } else { &*d_branch }];
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
