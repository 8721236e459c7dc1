//! The pre-norm decoder block of the Llama family, forward and backward.
//!
//! `mid = x + output(attention(qkv(norm(x))))`, `y = mid + down(swiglu(gate_up(norm(mid))))`.
//! Backward is the same calls in reverse; it stops where nothing below is trained.

use lorafit_kernels::ops::attention::Segments;
use lorafit_kernels::ops::dropout::Mask;
use lorafit_kernels::ops::gate::{self, Activation};
use lorafit_kernels::ops::{elementwise, rms_norm};
use lorafit_kernels::{ComputeDtype, Tensor};

use crate::activations::SavedBlock;
use crate::adapter::{LoraGroup, Site};
use crate::buffers::{BackwardScratch, Scratch};
use crate::gradients::BlockGradients;
use crate::layers::attention::{Context, SelfAttention};
use crate::layers::linear::Work;
use crate::layers::mlp::Mlp;
use crate::layers::vector::Vector;

/// One block.
#[derive(Debug)]
pub(crate) struct Block {
    /// `input_layernorm`, `[hidden]`.
    pub input_norm: Vector,
    pub attention: SelfAttention,
    /// `post_attention_layernorm`, `[hidden]`.
    pub post_norm: Vector,
    pub mlp: Mlp,
    pub eps: f32,
}

/// What a block has to train, in the order in which forward reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// `input_layernorm`.
    InputNorm,
    /// `q_proj`, `k_proj`, `v_proj`.
    Qkv,
    /// `q_norm`, `k_norm`.
    HeadNorms,
    /// `o_proj`.
    Output,
    /// `post_attention_layernorm`.
    PostNorm,
    /// `gate_proj`, `up_proj`.
    GateUp,
    /// `down_proj`.
    Down,
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
        gate::forward(
            Activation::Silu,
            &saved.wide.gate,
            &saved.wide.up,
            rows * self.mlp.down.inputs(),
            &mut scratch.act,
        );
        let work = &mut work_of(&mut saved.u, Site::Down, &mut scratch.d_u, &mut scratch.dropped);
        match (extent, group) {
            (Extent::Saved, Some(lora)) => {
                self.mlp.down.low_rank_inputs(&scratch.act, rows, lora, mask, work)
            }
            _ => self.mlp.down.forward(&scratch.act, rows, group, mask, work, &mut [hidden], true),
        }
    }

    /// From `back.d_hidden`, the gradient of the block's output, to that of its input, in place; adds to
    /// `gradients`. Stops after the parameters of stage `last`, if given: nothing below is trained.
    ///
    /// Overwrites `saved.wide.gate` and `saved.wide.up`, and `d_normed`, a place for `[rows, hidden]` values.
    pub(crate) fn backward(
        &self,
        rows: usize,
        adapter: Option<BlockAdapter<'_>>,
        gradients: &mut BlockGradients,
        segments: &Segments,
        saved: &mut SavedBlock,
        scratch: &mut Scratch,
        back: &mut BackwardScratch,
        d_normed: &mut Tensor,
        last: Option<Stage>,
    ) {
        let inner = rows * self.mlp.down.inputs();
        let BlockGradients { sites, q_norm, k_norm, input_norm, post_norm } = gradients;
        let [of_qkv, of_output, of_gate_up, of_down] = sites;
        let lora = |site| (BlockAdapter::group(adapter, site), BlockAdapter::mask(adapter, site));

        let (group, mask) = lora(Site::Down);
        if of_down.reads_input() {
            gate::forward(Activation::Silu, &saved.wide.gate, &saved.wide.up, inner, &mut scratch.act);
        }
        let work = &mut work_of(&mut saved.u, Site::Down, &mut scratch.d_u, &mut scratch.dropped);
        let d_outs = [&back.d_hidden];
        self.mlp.down.parameter_gradients(&d_outs, &scratch.act, rows, group, of_down, mask, work);
        if last == Some(Stage::Down) {
            return;
        }
        // The gradient takes the place of its value.
        let d_act = &mut scratch.act;
        self.mlp.down.input_gradient(&d_outs, rows, group, mask, work, d_act);
        gate::backward_in_place(Activation::Silu, d_act, &mut saved.wide.gate, &mut saved.wide.up, inner);

        let (group, mask) = lora(Site::GateUp);
        if of_gate_up.reads_input() {
            rms_norm::recompute(&saved.wide.mid, &self.post_norm, &saved.rstd_mid, rows, &mut scratch.normed);
        }
        let work = &mut work_of(&mut saved.u, Site::GateUp, &mut scratch.d_u, &mut scratch.dropped);
        let d_outs = [&saved.wide.gate, &saved.wide.up];
        self.mlp.gate_up.parameter_gradients(&d_outs, &scratch.normed, rows, group, of_gate_up, mask, work);
        if last == Some(Stage::GateUp) {
            return;
        }
        self.mlp.gate_up.input_gradient(&d_outs, rows, group, mask, work, d_normed);
        if let Some(d_weight) = post_norm {
            rms_norm::backward_weight(d_normed, &saved.wide.mid, &saved.rstd_mid, rows, d_weight);
        }
        if last == Some(Stage::PostNorm) {
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
        let (d_outs, x) = ([&back.d_hidden], &saved.wide.attended);
        self.attention.output.parameter_gradients(&d_outs, x, rows, group, of_output, mask, work);
        if last == Some(Stage::Output) {
            return;
        }
        self.attention.output.input_gradient(&d_outs, rows, group, mask, work, &mut scratch.normed);

        self.attention.attend_backward(rows, saved, scratch, back, [q_norm, k_norm], segments);
        if last == Some(Stage::HeadNorms) {
            return;
        }

        let (group, mask) = lora(Site::Qkv);
        if of_qkv.reads_input() {
            rms_norm::recompute(&saved.x, &self.input_norm, &saved.rstd_in, rows, &mut scratch.normed);
        }
        let work = &mut work_of(&mut saved.u, Site::Qkv, &mut scratch.d_u, &mut scratch.dropped);
        let d_outs = [&back.d_q, &back.d_k, &back.d_v];
        self.attention.qkv.parameter_gradients(&d_outs, &scratch.normed, rows, group, of_qkv, mask, work);
        if last == Some(Stage::Qkv) {
            return;
        }
        self.attention.qkv.input_gradient(&d_outs, rows, group, mask, work, d_normed);
        if let Some(d_weight) = input_norm {
            rms_norm::backward_weight(d_normed, &saved.x, &saved.rstd_in, rows, d_weight);
        }
        if last == Some(Stage::InputNorm) {
            return;
        }
        rms_norm::backward(d_normed, &saved.x, &self.input_norm, &saved.rstd_in, rows, &mut back.d_hidden);
    }
}

/// The work buffers of one site.
fn work_of<'a>(u: &'a mut [Tensor; 4], site: Site, d_u: &'a mut Tensor, dropped: &'a mut Tensor) -> Work<'a> {
    Work { u: &mut u[site as usize], d_u, dropped }
}
