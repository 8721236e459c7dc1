//! The pre-norm decoder block of the Llama family, forward and backward.
//!
//! `mid = x + output(attention(qkv(norm(x))))`, `y = mid + down(swiglu(gate_up(norm(mid))))`.
//! Backward is the same calls in reverse; it stops where nothing below is adapted.

use lorafit_kernels::ops::attention::Segments;
use lorafit_kernels::ops::dropout::Mask;
use lorafit_kernels::ops::{elementwise, rms_norm, swiglu};
use lorafit_kernels::{ComputeDtype, Tensor};

use crate::activations::SavedBlock;
use crate::adapter::{GroupGradients, LoraGroup, Site};
use crate::buffers::{BackwardScratch, Scratch};
use crate::layers::attention::{Context, SelfAttention};
use crate::layers::linear::Work;
use crate::layers::mlp::Mlp;

/// One block.
#[derive(Debug)]
pub(crate) struct Block {
    /// `input_layernorm`, `[hidden]`.
    pub input_norm: Tensor,
    pub attention: SelfAttention,
    /// `post_attention_layernorm`, `[hidden]`.
    pub post_norm: Tensor,
    pub mlp: Mlp,
    pub eps: f32,
}

/// How far the forward pass of a block goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// To its output.
    Whole,
    /// To what backward reads, which does not need the output.
    Saved,
}

/// The adapters of a block, and the dropout of this step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockAdapter<'a> {
    pub groups: &'a [Option<LoraGroup>; 4],
    pub mask: Option<Mask>,
}

impl<'a> BlockAdapter<'a> {
    fn group(this: Option<Self>, site: Site) -> Option<&'a LoraGroup> {
        this.and_then(|a| a.groups[site as usize].as_ref())
    }

    fn mask(this: Option<Self>, site: Site) -> Option<Mask> {
        // Four sites a block, up to three projections a site.
        this.and_then(|a| a.mask).map(|m| m.derive(16 * site as u64))
    }
}

impl Block {
    /// See [`crate::Model::set_compute_dtype`].
    pub(crate) fn set_compute_dtype(&mut self, dtype: ComputeDtype) {
        for group in
            [&mut self.attention.qkv, &mut self.attention.output, &mut self.mlp.gate_up, &mut self.mlp.down]
        {
            group.set_compute_dtype(dtype);
        }
    }

    /// Overwrites `hidden`, `[rows, hidden]`, with the block's output (or with something unfinished, if that is not
    /// needed); leaves in `saved` what backward reads.
    pub(crate) fn forward(
        &self,
        hidden: &mut Tensor,
        rows: usize,
        adapter: Option<BlockAdapter<'_>>,
        context: &mut Context<'_>,
        saved: &mut SavedBlock,
        scratch: &mut Scratch,
        extent: Extent,
    ) {
        let values = rows * self.input_norm.len();
        let lora = |site| (BlockAdapter::group(adapter, site), BlockAdapter::mask(adapter, site));

        elementwise::copy(hidden, values, &mut saved.x);
        rms_norm::forward(hidden, &self.input_norm, self.eps, rows, &mut scratch.normed, &mut saved.rstd_in);
        let (group, mask) = lora(Site::Qkv);
        let outs = &mut [&mut saved.wide.q, &mut saved.wide.k, &mut saved.wide.v];
        let work = &mut work_of(&mut saved.u, Site::Qkv, &mut scratch.d_u, &mut scratch.dropped);
        self.attention.qkv.forward(&scratch.normed, rows, group, mask, work, outs, false);

        self.attention.attend(rows, saved, scratch, context);

        let (group, mask) = lora(Site::Output);
        let work = &mut work_of(&mut saved.u, Site::Output, &mut scratch.d_u, &mut scratch.dropped);
        self.attention.output.forward(&saved.wide.attended, rows, group, mask, work, &mut [hidden], true);

        elementwise::copy(hidden, values, &mut saved.wide.mid);
        rms_norm::forward(hidden, &self.post_norm, self.eps, rows, &mut scratch.normed, &mut saved.rstd_mid);
        let (group, mask) = lora(Site::GateUp);
        let outs = &mut [&mut saved.wide.gate, &mut saved.wide.up];
        let work = &mut work_of(&mut saved.u, Site::GateUp, &mut scratch.d_u, &mut scratch.dropped);
        self.mlp.gate_up.forward(&scratch.normed, rows, group, mask, work, outs, false);

        let (group, mask) = lora(Site::Down);
        if extent == Extent::Saved && group.is_none() {
            return;
        }
        swiglu::forward(&saved.wide.gate, &saved.wide.up, rows * self.mlp.down.inputs(), &mut scratch.act);
        let work = &mut work_of(&mut saved.u, Site::Down, &mut scratch.d_u, &mut scratch.dropped);
        match (extent, group) {
            (Extent::Saved, Some(lora)) => {
                self.mlp.down.low_rank_inputs(&scratch.act, rows, lora, mask, work)
            }
            _ => self.mlp.down.forward(&scratch.act, rows, group, mask, work, &mut [hidden], true),
        }
    }

    /// From `back.d_hidden`, the gradient of the block's output, to that of its input, in place; adds to
    /// `gradients`. Stops after the parameters of site `last`, if given: nothing below is adapted.
    ///
    /// Overwrites `saved.wide.gate` and `saved.wide.up`, and `d_normed`, a place for `[rows, hidden]` values.
    pub(crate) fn backward(
        &self,
        rows: usize,
        adapter: BlockAdapter<'_>,
        gradients: &mut [Option<GroupGradients>; 4],
        segments: &Segments,
        saved: &mut SavedBlock,
        scratch: &mut Scratch,
        back: &mut BackwardScratch,
        d_normed: &mut Tensor,
        last: Option<Site>,
    ) {
        let inner = rows * self.mlp.down.inputs();
        let [d_qkv, d_output, d_gate_up, d_down] = gradients;
        let lora = |site| (BlockAdapter::group(Some(adapter), site), BlockAdapter::mask(Some(adapter), site));
        // The gradient of a site's input, unless the site is where backward ends.
        fn unless_last(site: Site, last: Option<Site>, d_x: &mut Tensor) -> Option<&mut Tensor> {
            (last != Some(site)).then_some(d_x)
        }

        let (group, mask) = lora(Site::Down);
        if group.is_some() {
            swiglu::forward(&saved.wide.gate, &saved.wide.up, inner, &mut scratch.act);
        }
        let work = &mut work_of(&mut saved.u, Site::Down, &mut scratch.d_u, &mut scratch.dropped);
        let d_act = unless_last(Site::Down, last, &mut back.d_act);
        let pair = group.zip(d_down.as_mut());
        self.mlp.down.backward(&[&back.d_hidden], &scratch.act, rows, pair, mask, work, d_act);
        if last == Some(Site::Down) {
            return;
        }

        swiglu::backward_in_place(&back.d_act, &mut saved.wide.gate, &mut saved.wide.up, inner);

        let (group, mask) = lora(Site::GateUp);
        if group.is_some() {
            rms_norm::recompute(&saved.wide.mid, &self.post_norm, &saved.rstd_mid, rows, &mut scratch.normed);
        }
        let work = &mut work_of(&mut saved.u, Site::GateUp, &mut scratch.d_u, &mut scratch.dropped);
        let d_x = unless_last(Site::GateUp, last, d_normed);
        let pair = group.zip(d_gate_up.as_mut());
        let d_outs = [&saved.wide.gate, &saved.wide.up];
        self.mlp.gate_up.backward(&d_outs, &scratch.normed, rows, pair, mask, work, d_x);
        if last == Some(Site::GateUp) {
            return;
        }
        rms_norm::backward(
            d_normed,
            &saved.wide.mid,
            &self.post_norm,
            &saved.rstd_mid,
            rows,
            &mut back.d_hidden,
        );

        let (group, mask) = lora(Site::Output);
        let work = &mut work_of(&mut saved.u, Site::Output, &mut scratch.d_u, &mut scratch.dropped);
        let d_attended = unless_last(Site::Output, last, &mut scratch.normed);
        let pair = group.zip(d_output.as_mut());
        self.attention.output.backward(
            &[&back.d_hidden],
            &saved.wide.attended,
            rows,
            pair,
            mask,
            work,
            d_attended,
        );
        if last == Some(Site::Output) {
            return;
        }

        self.attention.attend_backward(rows, saved, scratch, back, segments);

        let (group, mask) = lora(Site::Qkv);
        if group.is_some() {
            rms_norm::recompute(&saved.x, &self.input_norm, &saved.rstd_in, rows, &mut scratch.normed);
        }
        let work = &mut work_of(&mut saved.u, Site::Qkv, &mut scratch.d_u, &mut scratch.dropped);
        let d_x = unless_last(Site::Qkv, last, d_normed);
        let pair = group.zip(d_qkv.as_mut());
        let d_outs = [&back.d_q, &back.d_k, &back.d_v];
        self.attention.qkv.backward(&d_outs, &scratch.normed, rows, pair, mask, work, d_x);
        if last == Some(Site::Qkv) {
            return;
        }
        rms_norm::backward(d_normed, &saved.x, &self.input_norm, &saved.rstd_in, rows, &mut back.d_hidden);
    }
}

/// The work buffers of one site.
fn work_of<'a>(u: &'a mut [Tensor; 4], site: Site, d_u: &'a mut Tensor, dropped: &'a mut Tensor) -> Work<'a> {
    Work { u: &mut u[site as usize], d_u, dropped }
}
