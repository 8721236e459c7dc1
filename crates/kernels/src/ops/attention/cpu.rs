//! Blocks of query rows against all keys they see, with the products of `matmul` inside a task.
//!
//! The query heads that share a key head are stacked: their rows of a block are one left operand, so that keys and values
//! are packed once for all of them. Forward is parallel over (segment, block of rows, key head). Backward is parallel over
//! (tree, key head, share of the blocks): a task adds into its own copy of the key and value gradients, of which there are
//! as many as heads in a group, and the copies are summed at the end, in order.

use std::cell::RefCell;
use std::ops::Range;

use multiversion::multiversion;
use multiversion::target::target_cfg_f;
use rayon::prelude::*;

use super::{Gradients, Heads, Saved, Scores, Segments};
use crate::ops::math::{exp, max, sum, sum_of_mapped, tanh};
use crate::ops::matmul::cpu::{ProductCpu, RightCpu, Strided, TermCpu, run_serial};
use crate::ops::parallel::{Shared, for_row_blocks};
use crate::tensor::AlignedVec;

/// Rows of a stack, about: as many as share the packing of keys well while their scores stay in the second-level cache.
const STACKED_ROWS: usize = 96;
/// Query rows of a block, at most: more of them would compute more scores that causality hides.
const MAX_ROWS: usize = 48;
/// Values between rows of scores are a multiple of this, so that loops over them have no remainder.
const SCORE_LANES: usize = 16;

/// Working memory of a thread.
#[derive(Default)]
struct Scratch {
    /// Stacked queries, `[stacked rows, d]`.
    q: AlignedVec,
    /// Stacked gradients of the output.
    d_out: AlignedVec,
    /// Scores, then probabilities: `[stacked rows, score stride]`.
    p: AlignedVec,
    /// Gradient of the probabilities, then of the scores.
    d_p: AlignedVec,
    /// Stacked outputs, or gradients of the queries.
    out: AlignedVec,
    /// Sums of the exponentials of each row.
    totals: Vec<f32>,
}

fn with_scratch(stack: Stack<'_>, body: impl FnOnce(&mut Scratch)) {
    thread_local! {
        static SCRATCH: RefCell<Scratch> = RefCell::default();
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch { q, d_out, p, d_p, out, totals: _ } = scratch;
        let (values, scores) = (stack.len() * stack.heads.dim, stack.len() * stack.block.score_stride());
        for (buffer, len) in [(q, values), (d_out, values), (p, scores), (d_p, scores), (out, values)] {
            if buffer.len() < len {
                *buffer = AlignedVec::zeros(len);
            }
        }
        body(scratch);
    });
}

/// A block of query rows and the keys it sees: token ranges, the block's own segment last.
struct Block {
    rows: Range<usize>,
    keys: Vec<Range<usize>>,
    /// Keys up to the one of the first row; the key of each further row is the next.
    first_sees: usize,
    /// Of these a row sees so many, the last ones.
    window: usize,
}

impl Block {
    /// Of `keys`, of which the first row sees the first `first_sees` but for a window. Keys that the window hides from all
    /// rows are left out.
    fn new(rows: Range<usize>, mut keys: Vec<Range<usize>>, first_sees: usize, scores: Scores) -> Self {
        let window = scores.window.unwrap_or(usize::MAX);
        let hidden = first_sees.saturating_sub(window);
        let mut rest = hidden;
        keys.retain_mut(|range| {
            let cut = rest.min(range.len());
            range.start += cut;
            rest -= cut;
            range.start < range.end
        });
        Block { rows, keys, first_sees: first_sees - hidden, window }
    }

    /// From one row of scores to the next.
    fn score_stride(&self) -> usize {
        self.keys.iter().map(Range::len).sum::<usize>().next_multiple_of(SCORE_LANES)
    }

    /// Ranges of keys with their place in a row of scores.
    fn placed_keys(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        let mut at = 0;
        self.keys.iter().map(move |range| {
            let place = at;
            at += range.len();
            (place, range.clone())
        })
    }
}

/// Query heads of a key head.
fn group(heads: Heads) -> usize {
    heads.query / heads.key_value
}

/// Query rows of a block.
fn block_rows(heads: Heads) -> usize {
    (STACKED_ROWS / group(heads)).clamp(1, MAX_ROWS)
}

/// The blocks of segment `index`.
fn blocks(segments: &Segments, index: usize, heads: Heads, scores: Scores) -> impl Iterator<Item = Block> {
    let list = segments.as_slice();
    let own = list[index];
    let mut path = Vec::new();
    let mut next = own.parent;
    while let Some(i) = next {
        path.push(list[i].start..list[i].start + list[i].len);
        next = list[i].parent;
    }
    path.reverse();
    let before: usize = path.iter().map(Range::len).sum();
    let rows = block_rows(heads);
    (0..own.len).step_by(rows).map(move |first| {
        let rows = own.start + first..own.start + (first + rows).min(own.len);
        let mut keys = path.clone();
        keys.push(own.start..rows.end);
        Block::new(rows, keys, before + first + 1, scores)
    })
}

/// The rows of a block of all query heads that read one key head, one head after another.
#[derive(Clone, Copy)]
struct Stack<'a> {
    block: &'a Block,
    kv_head: usize,
    heads: Heads,
    scores: Scores,
}

/// A row of a stack.
struct Row {
    token: usize,
    head: usize,
    /// Keys that it sees, by their place in a row of scores.
    sees: Range<usize>,
}

impl Row {
    /// Where its values are in a `[tokens, heads, d]` buffer.
    fn values(&self, heads: Heads) -> Range<usize> {
        let first = self.value(heads) * heads.dim;
        first..first + heads.dim
    }

    /// Where its value is in a `[tokens, heads]` buffer.
    fn value(&self, heads: Heads) -> usize {
        self.token * heads.query + self.head
    }
}

impl<'a> Stack<'a> {
    fn len(&self) -> usize {
        self.block.rows.len() * group(self.heads)
    }

    fn rows(self) -> impl Iterator<Item = Row> + 'a {
        let (Block { rows, first_sees, window, .. }, group) = (self.block, group(self.heads));
        (self.kv_head * group..(self.kv_head + 1) * group).flat_map(move |head| {
            let row = move |(token, end): (usize, usize)| {
                let sees = end.saturating_sub(*window)..end;
                Row { token, head, sees }
            };
            rows.clone().zip(*first_sees..).map(row)
        })
    }

    /// Copies the rows of `values`, `[tokens, heads, d]`, together.
    fn gather(self, values: &[f32], to: &mut [f32]) {
        for (row, to) in self.rows().zip(to.chunks_exact_mut(self.heads.dim)) {
            to.copy_from_slice(&values[row.values(self.heads)]);
        }
    }

    /// Copies rows back to where they belong.
    ///
    /// # Safety
    /// No other task has these (token, head) of `values`.
    unsafe fn scatter(self, from: &[f32], values: &Shared<'_>) {
        for (row, from) in self.rows().zip(from.chunks_exact(self.heads.dim)) {
            // SAFETY: by the caller.
            unsafe { values.part(row.values(self.heads)) }.copy_from_slice(from);
        }
    }

    /// This stack's rows of keys or values, `[tokens, kv_heads, d]`, from token `token` on.
    fn of_keys(self, values: &[f32], token: usize) -> Strided<'_> {
        let Heads { key_value, dim, .. } = self.heads;
        let width = key_value * dim;
        Strided { values: &values[token * width + self.kv_head * dim..], row_stride: width, col_stride: 1 }
    }

    /// `scores[i][key] = rows[i] . keys[key]`, for stacked queries or output gradients.
    fn row_key_products(self, rows: &[f32], keys: &[f32], scores: &mut [f32]) {
        let (dim, stride) = (self.heads.dim, self.block.score_stride());
        for (at, range) in self.block.placed_keys() {
            let keys = transposed(self.of_keys(keys, range.start));
            let shape = (self.len(), range.len(), dim);
            product(shape, contiguous(rows, dim), keys, false, &mut scores[at..], stride);
        }
    }

    /// `out[i] = sum over keys of weights[i][key] * values[key]`, stacked.
    fn weighted_values(self, weights: &[f32], values: &[f32], out: &mut [f32]) {
        let (dim, stride) = (self.heads.dim, self.block.score_stride());
        for (i, (at, range)) in self.block.placed_keys().enumerate() {
            let values = self.of_keys(values, range.start);
            let shape = (self.len(), dim, range.len());
            product(shape, contiguous(&weights[at..], stride), values, i > 0, out, dim);
        }
    }

    /// Attends and leaves the outputs in `scratch.out`; gives each row's `lse`.
    fn attend(
        self,
        q: &[f32],
        keys: &[f32],
        values: &[f32],
        scratch: &mut Scratch,
        mut lse: impl FnMut(Row, f32),
    ) {
        let Scratch { q: queries, p, out, totals, .. } = scratch;
        self.gather(q, queries);
        self.row_key_products(queries, keys, p);
        totals.clear();
        for (row, scores) in self.rows().zip(p.chunks_exact_mut(self.block.score_stride())) {
            let Scores { scale, softcap, .. } = self.scores;
            let sees = row.sees.clone();
            let (value, total) = match softcap {
                None => exponentials(scores, sees, scale),
                Some(cap) => {
                    cap_scores(&mut scores[sees.clone()], scale, cap);
                    exponentials(scores, sees, 1.0)
                }
            };
            totals.push(total);
            lse(row, value);
        }
        self.weighted_values(p, values, out);
        // An output has fewer values than a row has scores.
        for (total, out) in totals.iter().zip(out.chunks_exact_mut(self.heads.dim)) {
            out.iter_mut().for_each(|value| *value /= total);
        }
    }
}

/// A matrix with rows of `stride` values.
fn contiguous(values: &[f32], stride: usize) -> Strided<'_> {
    Strided { values, row_stride: stride, col_stride: 1 }
}

fn transposed(matrix: Strided<'_>) -> Strided<'_> {
    Strided { row_stride: matrix.col_stride, col_stride: matrix.row_stride, ..matrix }
}

/// `out[m, n] (+)= left . right`, one term.
fn product(
    (m, n, k): (usize, usize, usize),
    left: Strided<'_>,
    right: Strided<'_>,
    accumulate: bool,
    out: &mut [f32],
    out_stride: usize,
) {
    let terms = [TermCpu { left, right: RightCpu::Strided(right), k }];
    run_serial(ProductCpu { m, n, terms: &terms, bias: None, accumulate, out, out_stride });
}

/// Of a whole row of scores, to `exp(scale (s - largest))`; zero beyond the keys the row sees. Returns `lse`, and the sum
/// that would make probabilities of them.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn exponentials(scores: &mut [f32], sees: Range<usize>, scale: f32) -> (f32, f32) {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    scores[..sees.start].fill(f32::NEG_INFINITY);
    scores[sees.end..].fill(f32::NEG_INFINITY);
    let largest = max(scores) * scale;
    let total = sum_of_mapped(scores, |s| exp::<FUSED>(s * scale - largest));
    (largest + total.ln(), total)
}

/// Scores `s` become `cap tanh(scale s / cap)`.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn cap_scores(scores: &mut [f32], scale: f32, cap: f32) {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    let inner = scale / cap;
    for s in scores {
        *s = cap * tanh::<FUSED>(*s * inner);
    }
}

/// A whole row of scores to probabilities, `p = exp(scale s - lse)`, zero beyond the keys the row sees; and of `d_p`, the
/// gradient of the probabilities, to the gradient of the scores, `p (d_p - delta) scale`.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn softmax_backward(
    scores: &mut [f32],
    d_p: &mut [f32],
    sees: Range<usize>,
    scale: f32,
    lse: f32,
    delta: f32,
) {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    for hidden in [0..sees.start, sees.end..scores.len()] {
        scores[hidden.clone()].fill(f32::NEG_INFINITY);
        d_p[hidden].fill(0.0);
    }
    for (s, d) in scores.iter_mut().zip(d_p) {
        let p = exp::<FUSED>(*s * scale - lse);
        (*s, *d) = (p, p * (*d - delta) * scale);
    }
}

/// As [`softmax_backward`] of capped scores: with `t = tanh(scale s / cap)`, `p = exp(cap t - lse)`, and the gradient of the
/// scores is `p (d_p - delta) (1 - t^2) scale`.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn capped_softmax_backward(
    scores: &mut [f32],
    d_p: &mut [f32],
    sees: Range<usize>,
    (scale, cap): (f32, f32),
    lse: f32,
    delta: f32,
) {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    for hidden in [0..sees.start, sees.end..scores.len()] {
        scores[hidden.clone()].fill(0.0);
        d_p[hidden].fill(0.0);
    }
    let inner = scale / cap;
    for (s, d) in scores[sees.clone()].iter_mut().zip(&mut d_p[sees]) {
        let t = tanh::<FUSED>(*s * inner);
        let p = exp::<FUSED>(cap * t - lse);
        (*s, *d) = (p, p * (*d - delta) * (1.0 - t * t) * scale);
    }
}

pub(super) fn forward(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    segments: &Segments,
    heads: Heads,
    scores: Scores,
    out: &mut [f32],
    lse: &mut [f32],
) {
    let (out, lse) = (Shared::new(out), Shared::new(lse));
    let of_segment = |i| blocks(segments, i, heads, scores);
    let all: Vec<Block> = (0..segments.as_slice().len()).flat_map(of_segment).collect();
    (0..all.len() * heads.key_value).into_par_iter().with_max_len(1).for_each(|task| {
        let (block, kv_head) = (&all[task / heads.key_value], task % heads.key_value);
        let stack = Stack { block, kv_head, heads, scores };
        with_scratch(stack, |scratch| {
            stack.attend(q, k, v, scratch, |row, value| {
                let at = row.value(heads);
                // SAFETY: a (token, head) belongs to one task.
                unsafe { lse.part(at..at + 1)[0] = value };
            });
            // SAFETY: as above.
            unsafe { stack.scatter(&scratch.out, &out) };
        });
    });
}

/// As [`super::Continued`], on the host, from the first key on that one of the tokens sees.
pub(super) struct Continued<'a> {
    pub first_row: usize,
    pub rows: usize,
    pub keys: &'a [f32],
    pub values: &'a [f32],
    pub past: usize,
    pub scores: Scores,
}

/// In parallel over (sequence, block of its rows, key head).
pub(super) fn forward_cached(q: &[f32], sequences: &[Continued<'_>], heads: Heads, out: &mut [f32]) {
    let (width, of_block) = (heads.query * heads.dim, block_rows(heads));
    let blocks = sequences.iter().flat_map(|sequence| {
        (0..sequence.rows).step_by(of_block).map(move |first| {
            let rows = first..(first + of_block).min(sequence.rows);
            // The cache is one range of keys, whatever segments the tokens came from.
            #[allow(clippy::single_range_in_vec_init)]
            let keys = vec![0..sequence.past + rows.end];
            (sequence, Block::new(rows, keys, sequence.past + first + 1, sequence.scores))
        })
    });
    let blocks: Vec<_> = blocks.collect();
    let out = Shared::new(out);
    (0..blocks.len() * heads.key_value).into_par_iter().for_each(|task| {
        let (sequence, block) = &blocks[task / heads.key_value];
        let at = sequence.first_row * width..(sequence.first_row + sequence.rows) * width;
        let stack = Stack { block, kv_head: task % heads.key_value, heads, scores: sequence.scores };
        with_scratch(stack, |scratch| {
            stack.attend(&q[at.clone()], sequence.keys, sequence.values, scratch, |_, _| {});
            for (row, from) in stack.rows().zip(scratch.out.chunks_exact(heads.dim)) {
                let to = row.values(heads);
                // SAFETY: a (token, head) belongs to one task.
                let to = unsafe { out.part(at.start + to.start..at.start + to.end) };
                to.copy_from_slice(from);
            }
        });
    });
}

/// The segments of each tree, in order.
fn trees(segments: &Segments) -> Vec<Vec<usize>> {
    let mut tree_of = Vec::new();
    let mut trees: Vec<Vec<usize>> = Vec::new();
    for (i, segment) in segments.as_slice().iter().enumerate() {
        let tree = segment.parent.map_or_else(
            || {
                trees.push(Vec::new());
                trees.len() - 1
            },
            |p| tree_of[p],
        );
        tree_of.push(tree);
        trees[tree].push(i);
    }
    trees
}

pub(super) fn backward(
    d_out: &[f32],
    saved: Saved<'_>,
    segments: &Segments,
    heads: Heads,
    scores: Scores,
    gradients: Gradients<'_>,
    workspace: &mut [f32],
) {
    let Heads { query, dim, .. } = heads;
    let (tokens, group) = (segments.tokens(), group(heads));
    let width = query * dim;
    let (q, k, v) = (saved.q.cpu(), saved.k.cpu(), saved.v.cpu());
    let (out, lse) = (saved.out.cpu(), saved.lse.cpu());
    let d_q = Shared::new(gradients.q.cpu_mut());
    // Copies `[tokens, d]`, a group's worth of each key head: first of all key gradients, then of all value gradients.
    let (d_k_copies, d_v_copies) = workspace[..2 * tokens * width].split_at_mut(tokens * width);
    {
        let (d_k, d_v) = (Shared::new(d_k_copies), Shared::new(d_v_copies));
        let trees = trees(segments);
        (0..trees.len() * query).into_par_iter().with_max_len(1).for_each(|task| {
            let (tree, copy) = (&trees[task / query], task % query);
            let (kv_head, share) = (copy / group, copy % group);
            let part = |range: &Range<usize>| {
                let first = copy * tokens;
                (first + range.start) * dim..(first + range.end) * dim
            };
            for &index in tree {
                let own = segments.as_slice()[index];
                let range = part(&(own.start..own.start + own.len));
                // SAFETY: a (token of a tree, copy) belongs to one task.
                unsafe {
                    d_k.part(range.clone()).fill(0.0);
                    d_v.part(range).fill(0.0);
                }
            }
            let blocks = tree.iter().flat_map(|&index| blocks(segments, index, heads, scores));
            for block in blocks.skip(share).step_by(group) {
                let (stack, stride) = (Stack { block: &block, kv_head, heads, scores }, block.score_stride());
                with_scratch(stack, |scratch| {
                    let Scratch { q: queries, d_out: d_rows, p, d_p, out: d_queries, totals: _ } = scratch;
                    stack.gather(q, queries);
                    stack.gather(d_out, d_rows);
                    stack.row_key_products(queries, k, p);
                    stack.row_key_products(d_rows, v, d_p);
                    for ((row, p), d_p) in
                        stack.rows().zip(p.chunks_exact_mut(stride)).zip(d_p.chunks_exact_mut(stride))
                    {
                        let (o, d_o) = (&out[row.values(heads)], &d_out[row.values(heads)]);
                        let delta = sum(dim, |j| o[j] * d_o[j]);
                        let (lse, Scores { scale, softcap, .. }) = (lse[row.value(heads)], scores);
                        match softcap {
                            None => softmax_backward(p, d_p, row.sees, scale, lse, delta),
                            Some(cap) => {
                                capped_softmax_backward(p, d_p, row.sees, (scale, cap), lse, delta);
                            }
                        }
                    }
                    stack.weighted_values(d_p, k, d_queries);
                    // SAFETY: a block and its heads belong to one task.
                    unsafe { stack.scatter(d_queries, &d_q) };
                    for (at, range) in block.placed_keys() {
                        let shape = (range.len(), dim, stack.len());
                        // SAFETY: as where the copies are cleared: keys of a block are tokens of its tree.
                        let (to_k, to_v) = unsafe { (d_k.part(part(&range)), d_v.part(part(&range))) };
                        let left = |scores| transposed(contiguous(scores, stride));
                        product(shape, left(&d_p[at..]), contiguous(queries, dim), true, to_k, dim);
                        product(shape, left(&p[at..]), contiguous(d_rows, dim), true, to_v, dim);
                    }
                });
            }
        });
    }
    sum_copies(d_k_copies, tokens, heads, gradients.k.cpu_mut());
    sum_copies(d_v_copies, tokens, heads, gradients.v.cpu_mut());
}

/// `sums[token, kv_head] = ` the sum over its copies of `parts[copy, token]`.
fn sum_copies(parts: &[f32], tokens: usize, heads: Heads, sums: &mut [f32]) {
    let (dim, group) = (heads.dim, group(heads));
    let width = heads.key_value * dim;
    let sums = Shared::new(&mut sums[..tokens * width]);
    for_row_blocks(tokens, width * group, |block| {
        for token in block {
            for kv_head in 0..heads.key_value {
                let at = token * width + kv_head * dim;
                // SAFETY: every token is in one block.
                let sum = unsafe { sums.part(at..at + dim) };
                sum.fill(0.0);
                for copy in kv_head * group..(kv_head + 1) * group {
                    let part = &parts[(copy * tokens + token) * dim..][..dim];
                    sum.iter_mut().zip(part).for_each(|(s, p)| *s += p);
                }
            }
        }
    });
}
