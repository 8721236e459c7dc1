//! Attention as a step of a block: norms of queries and keys, where there are some, rotation, and attention itself.

use lorafit_kernels::Tensor;
use lorafit_kernels::ops::attention::{
    self, Continued, Gradients as AttentionGradients, Heads, Saved, Scores,
};
use lorafit_kernels::ops::elementwise;
use lorafit_kernels::ops::rope::{self, Angles};

use super::pass::{BackwardPass, BlockAdapter, Context, ForwardPass};
use crate::buffers::{SavedBlock, Scratch, Wide};
use crate::kv_cache::Run;
use crate::norm::{Norm, NormGradients};

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

    /// Whether queries and keys become in their places what attention reads: nothing else reads what they were before.
    fn in_place(&self, saved: &SavedBlock) -> bool {
        self.norms.is_none() && !saved.keeps_heads
    }

    /// From the projections in `saved.wide.q, k, v` to `saved.wide.attended`.
    pub(crate) fn forward(&self, pass: &mut ForwardPass<'_>, context: &mut Context<'_>) {
        let (saved, scratch) = (&mut *pass.saved, &mut *pass.scratch);
        let (rows, in_place, lse) = (pass.rows, self.in_place(saved), self.lse());
        if !in_place {
            self.normed(rows, pass.adapter, saved, scratch, true);
        }
        let SavedBlock { stats, wide: Wide { q, k, v, attended: out, .. }, .. } = saved;
        let (q, k) = if in_place { (q, k) } else { (&mut scratch.q, &mut scratch.k) };
        let angles = self.rope.map(|rope| &scratch.angles[rope]);
        if let (Context::Stream(segments), Some(angles), false) = (&*context, angles, self.grows) {
            let (heads, scores, lse) = (self.heads, self.scores, &mut stats[lse]);
            return attention::turn_and_forward([q, k], v, angles, segments, heads, scores, out, lse);
        }
        self.turn(rows, [&mut *q, &mut *k], angles, &scratch.query_factors);
        let (q, k, v) = (&*q, &*k, &*v);
        match context {
            Context::Stream(segments) => {
                attention::forward(q, k, v, segments, self.heads, self.scores, out, &mut stats[lse]);
            }
            Context::Cached { runs, caches, layer } => {
                let width = self.heads.key_value * self.heads.dim;
                for &Run { cache, first_row, rows } in *runs {
                    let cache = &mut caches[cache];
                    let past = cache.len();
                    let (keys, values) = cache.layer_mut(*layer);
                    elementwise::copy_range(k, first_row * width, rows * width, keys, past * width);
                    elementwise::copy_range(v, first_row * width, rows * width, values, past * width);
                }
                let continued = |&Run { cache, first_row, rows }: &Run| {
                    let (keys, values) = caches[cache].layer(*layer);
                    Continued { first_row, rows, keys, values, past: caches[cache].len() }
                };
                let sequences: Vec<Continued<'_>> = runs.iter().map(continued).collect();
                attention::forward_cached(q, &sequences, self.heads, self.scores, out);
            }
        }
    }

    /// Rotates queries and keys, and has queries grow.
    fn turn(&self, rows: usize, [q, k]: [&mut Tensor; 2], angles: Option<&Angles>, query_factors: &Tensor) {
        let heads = [self.heads.query, self.heads.key_value];
        if let Some(angles) = angles {
            rope::forward_in_place([&mut *q, k], angles, rows, heads);
        }
        if self.grows {
            elementwise::scale_rows(q, rows, heads[0] * self.heads.dim, query_factors);
        }
    }

    /// Queries and keys after their norms in `scratch`, from the projections. `first` is false when backward computes them again
    /// and the norms' statistics are known.
    fn normed(
        &self,
        rows: usize,
        adapter: Option<BlockAdapter<'_>>,
        saved: &mut SavedBlock,
        scratch: &mut Scratch,
        first: bool,
    ) {
        let Scratch { q, k, .. } = scratch;
        let (wide, heads) = (&saved.wide, [self.heads.query, self.heads.key_value]);
        for (i, ((x, y), heads)) in
            [(&wide.q, &mut *q), (&wide.k, &mut *k)].into_iter().zip(heads).enumerate()
        {
            let Some(norms) = &self.norms else {
                elementwise::copy(x, rows * heads * self.heads.dim, y);
                continue;
            };
            let norm = BlockAdapter::norm(adapter, self.stats + i, &norms[i]);
            let rstd = &mut saved.stats[self.stats + i];
            let normed_rows = rows * heads * self.heads.dim / norm.weight.len();
            match first {
                true => norm.forward(x, normed_rows, y, rstd),
                false => norm.recompute(x, normed_rows, rstd, y),
            }
        }
    }

    /// From the gradient of the attention's output, in `scratch.normed`, to the gradients of the projections' outputs, in
    /// `back.d_q, d_k, d_v`; adds to the gradients of the norms' weights, where they are trained.
    pub(crate) fn backward(&self, pass: &mut BackwardPass<'_>, gradients: &mut HeadNormGradients) {
        let BackwardPass { rows, adapter, segments, saved, scratch, back, .. } = pass;
        let (rows, heads) = (*rows, [self.heads.query, self.heads.key_value]);
        let in_place = self.in_place(saved);
        if !in_place {
            self.normed(rows, *adapter, saved, scratch, false);
            let Scratch { q, k, query_factors, angles, .. } = &mut **scratch;
            self.turn(rows, [q, k], self.rope.map(|rope| &angles[rope]), query_factors);
        }
        let (q, k) = if in_place { (&saved.wide.q, &saved.wide.k) } else { (&scratch.q, &scratch.k) };
        let forward =
            Saved { q, k, v: &saved.wide.v, out: &saved.wide.attended, lse: &saved.stats[self.lse()] };
        let angles = self.rope.map(|rope| &scratch.angles[rope]);
        // What grows after it was rotated goes back before.
        let turned = angles.filter(|_| !self.grows);
        let of_projections =
            AttentionGradients { q: &mut back.d_q, k: &mut back.d_k, v: &mut back.d_v, turned };
        let d_out = &scratch.normed;
        let (of_heads, scores, workspace) = (self.heads, self.scores, &mut back.workspace);
        attention::backward(d_out, forward, segments, of_heads, scores, of_projections, workspace);

        if self.grows {
            let width = heads[0] * self.heads.dim;
            elementwise::scale_rows(&mut back.d_q, rows, width, &scratch.query_factors);
            if let Some(angles) = angles {
                rope::backward_in_place([&mut back.d_q, &mut back.d_k], angles, rows, heads);
            }
        }
        let Some(norms) = &self.norms else { return };
        // The rotated queries and keys are no longer needed: their buffers take the gradients.
        let wide = &saved.wide;
        let sides = [(&mut back.d_q, &wide.q, &mut scratch.q), (&mut back.d_k, &wide.k, &mut scratch.k)];
        for (i, ((d, x, out), heads)) in sides.into_iter().zip(heads).enumerate() {
            let norm = BlockAdapter::norm(*adapter, self.stats + i, &norms[i]);
            let rstd = &saved.stats[self.stats + i];
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
