//! Attention as a step of a block: norms of queries and keys, where there are some, rotation, and attention itself.

use lorafit_kernels::ops::attention::{self, Gradients as AttentionGradients, Heads, Saved, Scores};
use lorafit_kernels::ops::elementwise;
use lorafit_kernels::ops::rope;

use super::norm::{Norm, NormGradients};
use super::pass::{BackwardPass, Context, ForwardPass};
use crate::buffers::{SavedBlock, Scratch};
use crate::kv_cache::Run;

/// The attention of a block.
#[derive(Debug)]
pub(crate) struct AttendStep {
    /// Norms of queries and keys before they are rotated.
    pub norms: Option<[Norm; 2]>,
    pub heads: Heads,
    pub scores: Scores,
    /// Which of the model's rotations queries and keys have, if any.
    pub rope: Option<usize>,
    /// Whether queries grow with their position once they are rotated.
    pub grows: bool,
    /// Place of its first statistic: `rstd` of the norms, then the log of the softmax denominators.
    pub stats: usize,
}

/// The gradients of the norms of queries and keys.
pub(crate) type HeadNormGradients = Option<[NormGradients; 2]>;

impl AttendStep {
    /// Place of the log of the softmax denominators among the statistics.
    fn lse(&self) -> usize {
        self.stats + self.norms.as_ref().map_or(0, |norms| norms.len())
    }

    /// From the projections in `saved.wide.q, k, v` to `saved.wide.attended`.
    pub(crate) fn forward(&self, pass: &mut ForwardPass<'_>, context: &mut Context<'_>) {
        let (saved, scratch) = (&mut *pass.saved, &mut *pass.scratch);
        self.positioned(pass.rows, saved, scratch, true);
        let (q, k, lse) = (&scratch.q, &scratch.k, self.lse());
        let (v, out) = (&saved.wide.v, &mut saved.wide.attended);
        match context {
            Context::Stream(segments) => {
                attention::forward(q, k, v, segments, self.heads, self.scores, out, &mut saved.stats[lse]);
            }
            Context::Cached { runs, caches, layer } => {
                let width = self.heads.key_value * self.heads.dim;
                for &Run { cache, first_row, rows } in *runs {
                    let cache = &mut caches[cache];
                    let past = cache.len();
                    let (keys, values) = cache.layer_mut(*layer);
                    elementwise::copy_range(k, first_row * width, rows * width, keys, past * width);
                    elementwise::copy_range(v, first_row * width, rows * width, values, past * width);
                    let (heads, scores) = (self.heads, self.scores);
                    attention::forward_cached(q, first_row, rows, keys, values, past, heads, scores, out);
                }
            }
        }
    }

    /// Queries and keys after norm and rotation, from the projections. `first` is false when backward computes
    /// them again and the norms' statistics are known.
    fn positioned(&self, rows: usize, saved: &mut SavedBlock, scratch: &mut Scratch, first: bool) {
        let Scratch { q, k, query_factors, .. } = scratch;
        let angles = self.rope.map(|rope| &scratch.angles[rope]);
        let (wide, heads) = (&saved.wide, [self.heads.query, self.heads.key_value]);
        for (i, ((x, y), heads)) in [(&wide.q, &mut *q), (&wide.k, k)].into_iter().zip(heads).enumerate() {
            let Some(norms) = &self.norms else {
                match angles {
                    Some(angles) => rope::forward(x, angles, rows, heads, y),
                    None => elementwise::copy(x, rows * heads * self.heads.dim, y),
                }
                continue;
            };
            let (norm, rstd) = (&norms[i], &mut saved.stats[self.stats + i]);
            let normed_rows = rows * heads * self.heads.dim / norm.weight.len();
            match first {
                true => norm.forward(x, normed_rows, y, rstd),
                false => norm.recompute(x, normed_rows, rstd, y),
            }
            if let Some(angles) = angles {
                rope::forward_in_place(y, angles, rows, heads);
            }
        }
        if self.grows {
            elementwise::scale_rows(q, rows, heads[0] * self.heads.dim, query_factors);
        }
    }

    /// From the gradient of the attention's output, in `scratch.normed`, to the gradients of the projections' outputs, in
    /// `back.d_q, d_k, d_v`; adds to the gradients of the norms' weights, where they are trained.
    pub(crate) fn backward(&self, pass: &mut BackwardPass<'_>, gradients: &mut HeadNormGradients) {
        let BackwardPass { rows, segments, saved, scratch, back, .. } = pass;
        let (rows, heads) = (*rows, [self.heads.query, self.heads.key_value]);
        self.positioned(rows, saved, scratch, false);
        let forward = Saved {
            q: &scratch.q,
            k: &scratch.k,
            v: &saved.wide.v,
            out: &saved.wide.attended,
            lse: &saved.stats[self.lse()],
        };
        let of_projections = AttentionGradients { q: &mut back.d_q, k: &mut back.d_k, v: &mut back.d_v };
        let d_out = &scratch.normed;
        let (of_heads, scores, workspace) = (self.heads, self.scores, &mut back.workspace);
        attention::backward(d_out, forward, segments, of_heads, scores, of_projections, workspace);

        if self.grows {
            let width = heads[0] * self.heads.dim;
            elementwise::scale_rows(&mut back.d_q, rows, width, &scratch.query_factors);
        }
        if let Some(angles) = self.rope.map(|rope| &scratch.angles[rope]) {
            rope::backward_in_place(&mut back.d_q, angles, rows, heads[0]);
            rope::backward_in_place(&mut back.d_k, angles, rows, heads[1]);
        }
        let Some(norms) = &self.norms else { return };
        // The rotated queries and keys are no longer needed: their buffers take the gradients.
        let wide = &saved.wide;
        let sides = [(&mut back.d_q, &wide.q, &mut scratch.q), (&mut back.d_k, &wide.k, &mut scratch.k)];
        for (i, ((d, x, out), heads)) in sides.into_iter().zip(heads).enumerate() {
            let (norm, rstd) = (&norms[i], &saved.stats[self.stats + i]);
            let normed_rows = rows * heads * self.heads.dim / norm.weight.len();
            if let Some(gradients) = gradients {
                norm.weight_gradient(d, x, normed_rows, rstd, &mut gradients[i]);
            }
            out.clear(rows * heads * self.heads.dim);
            norm.input_gradient(d, x, normed_rows, rstd, out);
            std::mem::swap(d, out);
        }
    }
}
