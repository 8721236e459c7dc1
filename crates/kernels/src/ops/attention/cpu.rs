//! Blocks of query rows against all keys they see, with the products of `matmul` inside a task.
//!
//! Forward is parallel over (segment, head, block of rows). Backward is parallel over (tree, query head): a
//! task adds into its own copy of the key and value gradients, and the copies of a group are summed at the
//! end, in order.

use std::cell::RefCell;
use std::ops::Range;

use multiversion::multiversion;
use rayon::prelude::*;

use super::{Gradients, Heads, Saved, Segments};
use crate::ops::math::{exp, max, sum};
use crate::ops::matmul::cpu::{ProductCpu, RightCpu, Strided, TermCpu, run_serial};
use crate::ops::parallel::{Shared, for_row_blocks};

/// Query rows of a block.
const ROWS: usize = 48;

/// Working memory of a thread.
#[derive(Default)]
struct Scratch {
    /// Scores, then probabilities: `[ROWS, keys]`.
    p: Vec<f32>,
    /// Gradient of the probabilities, then of the scores.
    d_p: Vec<f32>,
    /// An output block `[ROWS, d]`.
    out: Vec<f32>,
}

fn with_scratch(keys: usize, dim: usize, body: impl FnOnce(&mut Scratch)) {
    thread_local! {
        static SCRATCH: RefCell<Scratch> = RefCell::default();
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let grow = |values: &mut Vec<f32>, len| values.resize(values.len().max(len), 0.0);
        grow(&mut scratch.p, ROWS * keys);
        grow(&mut scratch.d_p, ROWS * keys);
        grow(&mut scratch.out, ROWS * dim);
        body(scratch);
    });
}

/// A block of query rows and the keys it sees: token ranges, the block's own segment last.
struct Block {
    rows: Range<usize>,
    keys: Vec<Range<usize>>,
    /// Keys that the first row sees; each further row sees one more.
    first_sees: usize,
}

impl Block {
    fn keys_len(&self) -> usize {
        self.keys.iter().map(Range::len).sum()
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

/// The blocks of segment `index`.
fn blocks(segments: &Segments, index: usize) -> impl Iterator<Item = Block> {
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
    (0..own.len).step_by(ROWS).map(move |first| {
        let rows = own.start + first..own.start + (first + ROWS).min(own.len);
        let mut keys = path.clone();
        keys.push(own.start..rows.end);
        Block { rows, keys, first_sees: before + first + 1 }
    })
}

/// Rows of head `head` in a `[tokens, heads, d]` buffer, from token `token` on.
fn head_rows(values: &[f32], token: usize, head: usize, heads: usize, dim: usize) -> Strided<'_> {
    let width = heads * dim;
    Strided { values: &values[token * width + head * dim..], row_stride: width, col_stride: 1 }
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

/// `scores[i][key] = rows[i] . keys[key]` of one head, for query or output-gradient rows.
fn row_key_products(
    block: &Block,
    rows: Strided<'_>,
    keys: &[f32],
    kv: (usize, usize),
    dim: usize,
    scores: &mut [f32],
) {
    let (kv_head, kv_heads) = kv;
    let stride = block.keys_len();
    for (at, range) in block.placed_keys() {
        let keys = transposed(head_rows(keys, range.start, kv_head, kv_heads, dim));
        product((block.rows.len(), range.len(), dim), rows, keys, false, &mut scores[at..], stride);
    }
}

/// `out[i] = sum over keys of weights[i][key] * values[key]`, `[rows, dim]`.
fn weighted_values(
    block: &Block,
    weights: &[f32],
    values: &[f32],
    kv: (usize, usize),
    dim: usize,
    out: &mut [f32],
) {
    let (kv_head, kv_heads) = kv;
    let stride = block.keys_len();
    for (i, (at, range)) in block.placed_keys().enumerate() {
        let weights = Strided { values: &weights[at..], row_stride: stride, col_stride: 1 };
        let values = head_rows(values, range.start, kv_head, kv_heads, dim);
        product((block.rows.len(), dim, range.len()), weights, values, i > 0, out, dim);
    }
}

/// Scores to probabilities: `p = exp(scale s - lse)`; zero beyond the keys the row sees. Returns `lse`.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn softmax(scores: &mut [f32], sees: usize, scale: f32) -> f32 {
    let (seen, rest) = scores.split_at_mut(sees);
    let largest = max(seen) * scale;
    for s in seen.iter_mut() {
        *s = exp(*s * scale - largest);
    }
    let total = sum(seen.len(), |i| seen[i]);
    let inverse = 1.0 / total;
    for s in seen.iter_mut() {
        *s *= inverse;
    }
    rest.fill(0.0);
    largest + total.ln()
}

/// As [`softmax`] with the denominator known.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn probabilities(scores: &mut [f32], sees: usize, scale: f32, lse: f32) {
    let (seen, rest) = scores.split_at_mut(sees);
    for s in seen.iter_mut() {
        *s = exp(*s * scale - lse);
    }
    rest.fill(0.0);
}

/// Gradient of the scores into `d_p`: `p (d_p - delta) scale`.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn score_gradient(p: &[f32], d_p: &mut [f32], delta: f32, scale: f32) {
    for (d, p) in d_p.iter_mut().zip(p) {
        *d = p * (*d - delta) * scale;
    }
}

fn scale(heads: Heads) -> f32 {
    1.0 / (heads.dim as f32).sqrt()
}

/// Attends one block of one head and leaves the outputs in `scratch.out`, `[rows, d]`; gives each `lse`.
fn attend(
    block: &Block,
    queries: Strided<'_>,
    keys: &[f32],
    values: &[f32],
    kv_head: usize,
    heads: Heads,
    scratch: &mut Scratch,
    mut lse: impl FnMut(usize, f32),
) {
    let (kv, len) = ((kv_head, heads.key_value), block.keys_len());
    row_key_products(block, queries, keys, kv, heads.dim, &mut scratch.p);
    for (i, scores) in scratch.p.chunks_exact_mut(len).take(block.rows.len()).enumerate() {
        lse(i, softmax(scores, block.first_sees + i, scale(heads)));
    }
    weighted_values(block, &scratch.p, values, kv, heads.dim, &mut scratch.out);
}

pub(super) fn forward(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    segments: &Segments,
    heads: Heads,
    out: &mut [f32],
    lse: &mut [f32],
) {
    let (width, dim) = (heads.query * heads.dim, heads.dim);
    let (out, lse) = (Shared::new(out), Shared::new(lse));
    let all: Vec<Block> = (0..segments.as_slice().len()).flat_map(|i| blocks(segments, i)).collect();
    (0..all.len() * heads.query).into_par_iter().with_max_len(1).for_each(|task| {
        let (block, head) = (&all[task / heads.query], task % heads.query);
        let kv_head = head / (heads.query / heads.key_value);
        with_scratch(block.keys_len(), dim, |scratch| {
            let queries = head_rows(q, block.rows.start, head, heads.query, dim);
            attend(block, queries, k, v, kv_head, heads, scratch, |i, value| {
                let at = (block.rows.start + i) * heads.query + head;
                // SAFETY: a (token, head) belongs to one task.
                unsafe { lse.part(at..at + 1)[0] = value };
            });
            for (row, from) in block.rows.clone().zip(scratch.out.chunks_exact(dim)) {
                let at = row * width + head * dim;
                // SAFETY: a (token, head) belongs to one task.
                unsafe { out.part(at..at + dim) }.copy_from_slice(from);
            }
        });
    });
}

pub(super) fn forward_cached(
    q: &[f32],
    keys: &[f32],
    values: &[f32],
    past: usize,
    heads: Heads,
    out: &mut [f32],
) {
    let (width, dim) = (heads.query * heads.dim, heads.dim);
    let rows = q.len() / width;
    let out = Shared::new(out);
    let first_rows: Vec<usize> = (0..rows).step_by(ROWS).collect();
    (0..first_rows.len() * heads.query).into_par_iter().for_each(|task| {
        let (first, head) = (first_rows[task / heads.query], task % heads.query);
        let kv_head = head / (heads.query / heads.key_value);
        let rows = first..(first + ROWS).min(rows);
        // The cache is one range of keys, whatever segments the tokens came from.
        #[allow(clippy::single_range_in_vec_init)]
        let block = Block { keys: vec![0..past + rows.end], first_sees: past + first + 1, rows };
        with_scratch(block.keys_len(), dim, |scratch| {
            let queries = head_rows(q, first, head, heads.query, dim);
            attend(&block, queries, keys, values, kv_head, heads, scratch, |_, _| {});
            for (row, from) in block.rows.clone().zip(scratch.out.chunks_exact(dim)) {
                let at = row * width + head * dim;
                // SAFETY: a (token, head) belongs to one task.
                unsafe { out.part(at..at + dim) }.copy_from_slice(from);
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
    gradients: Gradients<'_>,
    workspace: &mut [f32],
) {
    let Heads { query, key_value, dim } = heads;
    let tokens = segments.tokens();
    let width = query * dim;
    let (q, k, v) = (saved.q.cpu(), saved.k.cpu(), saved.v.cpu());
    let (out, lse) = (saved.out.cpu(), saved.lse.cpu());
    let d_q = Shared::new(gradients.q.cpu_mut());
    // Per query head `[tokens, d]`: first all key gradients, then all value gradients.
    let (d_k_heads, d_v_heads) = workspace[..2 * tokens * width].split_at_mut(tokens * width);
    {
        let (d_k, d_v) = (Shared::new(d_k_heads), Shared::new(d_v_heads));
        let trees = trees(segments);
        (0..trees.len() * query).into_par_iter().with_max_len(1).for_each(|task| {
            let (tree, head) = (&trees[task / query], task % query);
            let kv = (head / (query / key_value), key_value);
            let part = |range: &Range<usize>| {
                let first = head * tokens;
                (first + range.start) * dim..(first + range.end) * dim
            };
            for &index in tree {
                let own = segments.as_slice()[index];
                let range = part(&(own.start..own.start + own.len));
                // SAFETY (all parts here): a (token of a tree, head) belongs to one task.
                unsafe {
                    d_k.part(range.clone()).fill(0.0);
                    d_v.part(range).fill(0.0);
                }
                for block in blocks(segments, index) {
                    let (rows, len) = (block.rows.len(), block.keys_len());
                    with_scratch(len, dim, |scratch| {
                        let Scratch { p, d_p, out: block_out } = scratch;
                        let queries = head_rows(q, block.rows.start, head, query, dim);
                        let d_rows = head_rows(d_out, block.rows.start, head, query, dim);
                        row_key_products(&block, queries, k, kv, dim, p);
                        row_key_products(&block, d_rows, v, kv, dim, d_p);
                        for (i, row) in block.rows.clone().enumerate() {
                            let at = row * width + head * dim;
                            let (o, d_o) = (&out[at..at + dim], &d_out[at..at + dim]);
                            let delta = sum(dim, |j| o[j] * d_o[j]);
                            let p = &mut p[i * len..(i + 1) * len];
                            probabilities(p, block.first_sees + i, scale(heads), lse[row * query + head]);
                            score_gradient(p, &mut d_p[i * len..(i + 1) * len], delta, scale(heads));
                        }
                        weighted_values(&block, d_p, k, kv, dim, block_out);
                        for (row, from) in block.rows.clone().zip(block_out.chunks_exact(dim)) {
                            let at = row * width + head * dim;
                            unsafe { d_q.part(at..at + dim) }.copy_from_slice(from);
                        }
                        for (at, range) in block.placed_keys() {
                            let column = |values| Strided { values, row_stride: 1, col_stride: len };
                            let shape = (range.len(), dim, rows);
                            let (to_k, to_v) = unsafe { (d_k.part(part(&range)), d_v.part(part(&range))) };
                            product(shape, column(&d_p[at..]), queries, true, to_k, dim);
                            product(shape, column(&p[at..]), d_rows, true, to_v, dim);
                        }
                    });
                }
            }
        });
    }
    sum_groups(d_k_heads, tokens, heads, gradients.k.cpu_mut());
    sum_groups(d_v_heads, tokens, heads, gradients.v.cpu_mut());
}

/// `sums[token, kv_head] = ` the sum over the group's query heads of `parts[head, token]`.
fn sum_groups(parts: &[f32], tokens: usize, heads: Heads, sums: &mut [f32]) {
    let (dim, group) = (heads.dim, heads.query / heads.key_value);
    let width = heads.key_value * dim;
    let sums = Shared::new(&mut sums[..tokens * width]);
    for_row_blocks(tokens, width * group, |block| {
        for token in block {
            for kv_head in 0..heads.key_value {
                let at = token * width + kv_head * dim;
                // SAFETY: every token is in one block.
                let sum = unsafe { sums.part(at..at + dim) };
                sum.fill(0.0);
                for head in kv_head * group..(kv_head + 1) * group {
                    let part = &parts[(head * tokens + token) * dim..][..dim];
                    sum.iter_mut().zip(part).for_each(|(s, p)| *s += p);
                }
            }
        }
    });
}
