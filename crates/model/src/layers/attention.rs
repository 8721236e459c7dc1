//! Self-attention of a decoder block: projections, optional query and key norms, rotation, attention.

use lorafit_kernels::Tensor;
use lorafit_kernels::ops::attention::{
    self, Gradients as AttentionGradients, Heads, Saved, Scores, Segments,
};
use lorafit_kernels::ops::rope::{self, Angles};
use lorafit_kernels::ops::{elementwise, rms_norm};

use super::linear::LinearGroup;
use super::vector::Vector;
use crate::activations::SavedBlock;
use crate::buffers::{BackwardScratch, Scratch};
use crate::kv_cache::{KvCache, Run};

/// The attention half of a block.
#[derive(Debug)]
pub(crate) struct SelfAttention {
    /// `q_proj`, `k_proj`, `v_proj`.
    pub qkv: LinearGroup,
    /// `o_proj`.
    pub output: LinearGroup,
    /// Weights of the norms over each head of queries and keys (Qwen3), `[d]`.
    pub qk_norms: Option<(Vector, Vector)>,
    pub heads: Heads,
    pub eps: f32,
}

/// What tokens attend to.
#[derive(Debug)]
pub(crate) enum Context<'a> {
    /// Each other, along the segments of the batch.
    Stream(&'a Segments),
    /// Sequences whose earlier keys and values lie in caches.
    Cached { runs: &'a [Run], caches: &'a mut [KvCache], layer: usize },
}

impl SelfAttention {
    /// From the projections in `saved.wide.q, k, v` to `saved.wide.attended` and `saved.lse`.
    pub(crate) fn attend(
        &self,
        rows: usize,
        saved: &mut SavedBlock,
        scratch: &mut Scratch,
        context: &mut Context<'_>,
    ) {
        self.positioned(rows, saved, &mut scratch.q, &mut scratch.k, &scratch.angles, true);
        let (q, k) = (&scratch.q, &scratch.k);
        match context {
            Context::Stream(segments) => {
                attention::forward(
                    q,
                    k,
                    &saved.wide.v,
                    segments,
                    self.heads,
                    Scores::of(self.heads),
                    &mut saved.wide.attended,
                    &mut saved.lse,
                );
            }
            Context::Cached { runs, caches, layer } => {
                let width = self.heads.key_value * self.heads.dim;
                for run in *runs {
                    let cache = &mut caches[run.cache];
                    let past = cache.len();
                    let (keys, values) = cache.layer_mut(*layer);
                    elementwise::copy_range(k, run.first_row * width, run.rows * width, keys, past * width);
                    elementwise::copy_range(
                        &saved.wide.v,
                        run.first_row * width,
                        run.rows * width,
                        values,
                        past * width,
                    );
                    let out = &mut saved.wide.attended;
                    attention::forward_cached(
                        q,
                        run.first_row,
                        run.rows,
                        keys,
                        values,
                        past,
                        self.heads,
                        Scores::of(self.heads),
                        out,
                    );
                }
            }
        }
    }

    /// Queries and keys after norm and rotation, from the projections. `first` is false when backward computes
    /// them again and the norms' statistics are known.
    fn positioned(
        &self,
        rows: usize,
        saved: &mut SavedBlock,
        q: &mut Tensor,
        k: &mut Tensor,
        angles: &Angles,
        first: bool,
    ) {
        let Heads { query, key_value, .. } = self.heads;
        match &self.qk_norms {
            None => {
                rope::forward(&saved.wide.q, angles, rows, query, q);
                rope::forward(&saved.wide.k, angles, rows, key_value, k);
            }
            Some((q_norm, k_norm)) => {
                if first {
                    rms_norm::forward(&saved.wide.q, q_norm, self.eps, rows * query, q, &mut saved.q_rstd);
                    rms_norm::forward(
                        &saved.wide.k,
                        k_norm,
                        self.eps,
                        rows * key_value,
                        k,
                        &mut saved.k_rstd,
                    );
                } else {
                    rms_norm::recompute(&saved.wide.q, q_norm, &saved.q_rstd, rows * query, q);
                    rms_norm::recompute(&saved.wide.k, k_norm, &saved.k_rstd, rows * key_value, k);
                }
                rope::forward_in_place(q, angles, rows, query);
                rope::forward_in_place(k, angles, rows, key_value);
            }
        }
    }

    /// From the gradient of the attention's output, in `scratch.normed`, to the gradients of the projections' outputs, in
    /// `back.d_q, d_k, d_v`; adds to `d_norms`, those of the query and key norms' weights, where they are trained.
    pub(crate) fn attend_backward(
        &self,
        rows: usize,
        saved: &mut SavedBlock,
        scratch: &mut Scratch,
        back: &mut BackwardScratch,
        d_norms: [&mut Option<Tensor>; 2],
        segments: &Segments,
    ) {
        let Heads { query, key_value, dim } = self.heads;
        self.positioned(rows, saved, &mut scratch.q, &mut scratch.k, &scratch.angles, false);
        let forward = Saved {
            q: &scratch.q,
            k: &scratch.k,
            v: &saved.wide.v,
            out: &saved.wide.attended,
            lse: &saved.lse,
        };
        let gradients = AttentionGradients { q: &mut back.d_q, k: &mut back.d_k, v: &mut back.d_v };
        let scores = Scores::of(self.heads);
        let workspace = &mut back.workspace;
        attention::backward(&scratch.normed, forward, segments, self.heads, scores, gradients, workspace);

        rope::backward_in_place(&mut back.d_q, &scratch.angles, rows, query);
        rope::backward_in_place(&mut back.d_k, &scratch.angles, rows, key_value);
        if let Some((q_norm, k_norm)) = &self.qk_norms {
            // The rotated queries and keys are no longer needed: their buffers take the gradients.
            let [d_q_norm, d_k_norm] = d_norms;
            for (d, x, weight, d_weight, rstd, heads, out) in [
                (&mut back.d_q, &saved.wide.q, q_norm, d_q_norm, &saved.q_rstd, query, &mut scratch.q),
                (&mut back.d_k, &saved.wide.k, k_norm, d_k_norm, &saved.k_rstd, key_value, &mut scratch.k),
            ] {
                if let Some(d_weight) = d_weight {
                    rms_norm::backward_weight(d, x, rstd, rows * heads, d_weight);
                }
                out.clear(rows * heads * dim);
                rms_norm::backward(d, x, weight, rstd, rows * heads, out);
                std::mem::swap(d, out);
            }
        }
    }
}
