//! Grouped-query attention over the segments of a token stream.
//!
//! `out[t] = sum_s softmax_s(cap(scale q[t] . k[s])) v[s]`, where `s` runs over what token `t` sees: its
//! segment's ancestors, and its own segment up to itself, of these only the last `window` where there is a window.
//! `cap(x) = softcap tanh(x / softcap)` (Gemma 2, Gemma Team 2024), or `x` where there is no cap. Scores reduce in f32.
//! Forward saves only the log of the softmax denominator (`lse`); backward computes the probabilities again (Dao et al.
//! 2022).
//!
//! Layouts: `q`, `out` `[tokens, heads, d]`; `k`, `v` `[tokens, kv_heads, d]`; `lse` `[tokens, heads]`.

use std::fmt;

use crate::gpu::Region;
use crate::ops::rope::{self, Angles};
use crate::tensor::{Device, Placement, Tensor};

mod cpu;
pub mod cuda;
mod on_gpu;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

/// A run of tokens of the stream. Unrelated samples are separate roots; samples that begin alike share
/// their beginning as the parent of what differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First token of the run.
    pub start: usize,
    /// Number of tokens.
    pub len: usize,
    /// Index of the segment this one continues; it comes earlier in the list.
    pub parent: Option<usize>,
}

/// Why segments do not describe a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentError(String);

impl fmt::Display for SegmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SegmentError {}

/// The segments of a stream of tokens: contiguous, in order, each after its parent.
#[derive(Debug, Default)]
pub struct Segments {
    list: Vec<Segment>,
    /// Of each segment; empty where nothing is said.
    text_lengths: Vec<usize>,
    on_gpu: on_gpu::Kept,
}

impl Clone for Segments {
    fn clone(&self) -> Self {
        Segments { text_lengths: self.text_lengths.clone(), ..Segments::of(self.list.clone()) }
    }
}

impl PartialEq for Segments {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list && self.text_lengths == other.text_lengths
    }
}

impl Eq for Segments {}

impl Segments {
    fn of(list: Vec<Segment>) -> Self {
        Segments { list, text_lengths: Vec::new(), on_gpu: on_gpu::Kept::default() }
    }

    /// Checks that `segments` cover `0..tokens` without gaps and that parents precede their children.
    ///
    /// # Errors
    /// [`SegmentError`] names the first segment that does not.
    pub fn new(segments: Vec<Segment>, tokens: usize) -> Result<Self, SegmentError> {
        let mut next = 0;
        for (i, segment) in segments.iter().enumerate() {
            if segment.start != next || segment.len == 0 {
                let Segment { start, len, .. } = segment;
                return Err(SegmentError(format!(
                    "segment {i} starts at token {start} with {len} tokens, expected a start at {next}"
                )));
            }
            if segment.parent.is_some_and(|p| p >= i) {
                return Err(SegmentError(format!("segment {i} comes before its parent")));
            }
            next += segment.len;
        }
        if next != tokens {
            return Err(SegmentError(format!("segments cover {next} of {tokens} tokens")));
        }
        Ok(Segments::of(segments))
    }

    /// Says how long the text of each segment is, where it has tokens that are not here.
    ///
    /// # Panics
    /// When there are not as many as segments.
    pub fn with_text_lengths(self, text_lengths: Vec<usize>) -> Self {
        assert_eq!(text_lengths.len(), self.list.len(), "a length for each segment");
        Segments { text_lengths, ..self }
    }

    /// Tokens of the text that each segment is of; of texts that share a beginning, of the longest.
    pub fn text_lengths(&self) -> Vec<usize> {
        if !self.text_lengths.is_empty() {
            return self.text_lengths.clone();
        }
        let mut roots = Vec::with_capacity(self.list.len());
        let mut longest = vec![0; self.list.len()];
        for (i, (segment, end)) in self.list.iter().zip(self.ends()).enumerate() {
            let root = segment.parent.map_or(i, |parent| roots[parent]);
            roots.push(root);
            longest[root] = end.max(longest[root]);
        }
        roots.into_iter().map(|root| longest[root]).collect()
    }

    /// One segment of `tokens` tokens.
    pub fn single(tokens: usize) -> Self {
        Segments::of(if tokens == 0 { vec![] } else { vec![Segment { start: 0, len: tokens, parent: None }] })
    }

    /// The segments in order.
    pub fn as_slice(&self) -> &[Segment] {
        &self.list
    }

    /// Number of tokens covered.
    pub fn tokens(&self) -> usize {
        self.list.last().map_or(0, |s| s.start + s.len)
    }

    /// Tokens of the longest path from a root to the end of a segment.
    pub fn longest_path(&self) -> usize {
        self.ends().into_iter().max().unwrap_or(0)
    }

    /// Tokens from the root of each segment to its end.
    fn ends(&self) -> Vec<usize> {
        let mut ends: Vec<usize> = Vec::with_capacity(self.list.len());
        for segment in &self.list {
            ends.push(segment.parent.map_or(0, |parent| ends[parent]) + segment.len);
        }
        ends
    }
}

/// Heads and their size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub query: usize,
    /// Key and value heads; divides `query`.
    pub key_value: usize,
    /// Values per head, `d`.
    pub dim: usize,
}

/// How the score of a query and a key is computed from their product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// Factor of the product.
    pub scale: f32,
    /// Scores `s` become `softcap tanh(s / softcap)`; above zero.
    pub softcap: Option<f32>,
    /// Tokens that a token sees at most, counted back along its path from itself, which is the first; above zero. It is
    /// `sliding_window` of transformers: a key is seen where its position is above the query's less the window.
    pub window: Option<usize>,
}

impl Scores {
    /// The usual: `scale = 1 / sqrt(d)`, no cap, no window.
    pub fn of(heads: Heads) -> Self {
        Scores { scale: 1.0 / (heads.dim as f32).sqrt(), softcap: None, window: None }
    }

    /// Without a window that hides nothing from the last of `positions` tokens, which are counted only if there is a window.
    ///
    /// # Panics
    /// When a window hides a token from itself, or a cap is not above zero.
    fn over(self, positions: impl FnOnce() -> usize) -> Self {
        assert!(self.window != Some(0), "a token sees itself: a window has one token at least");
        assert!(self.softcap.is_none_or(|cap| cap > 0.0), "a cap of scores is above zero");
        Scores { window: self.window.filter(|window| *window < positions()), ..self }
    }
}

/// What forward read and wrote, for backward.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// Queries.
    pub q: &'a Tensor,
    /// Keys.
    pub k: &'a Tensor,
    /// Values.
    pub v: &'a Tensor,
    /// Outputs.
    pub out: &'a Tensor,
    /// Log of the softmax denominators.
    pub lse: &'a Tensor,
}

/// The gradients backward writes.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// Of the queries.
    pub q: &'a mut Tensor,
    /// Of the keys.
    pub k: &'a mut Tensor,
    /// Of the values.
    pub v: &'a mut Tensor,
    /// How queries and keys were turned before forward read them, if they were: their gradients are those of the values before.
    pub turned: Option<&'a Angles>,
}

/// Writes `out` and `lse` for all tokens of `segments`.
pub fn forward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    segments: &Segments,
    heads: Heads,
    scores: Scores,
    out: &mut Tensor,
    lse: &mut Tensor,
) {
    attend([q, k, v], segments, heads, scores, out, lse, None);
}

/// As [`rope::forward_in_place`] of queries and keys, and then [`forward`].
pub fn turn_and_forward(
    [q, k]: [&mut Tensor; 2],
    v: &Tensor,
    angles: &Angles,
    segments: &Segments,
    heads: Heads,
    scores: Scores,
    out: &mut Tensor,
    lse: &mut Tensor,
) {
    let (tokens, rotation) = (segments.tokens(), angles.rotation());
    let here = match q.device() {
        Device::Cpu => false,
        Device::Cuda(_) => {
            let float = q.float_with(&[k, v, out]);
            cuda::on_tensor_cores(float, heads, scores) && cuda::turns(heads, rotation)
        }
    };
    let turn = if here {
        rope::forward_in_place_alone(k, angles, tokens, heads.key_value);
        Some(angles.regions())
    } else {
        rope::forward_in_place([&mut *q, &mut *k], angles, tokens, [heads.query, heads.key_value]);
        None
    };
    attend([q, k, v], segments, heads, scores, out, lse, turn);
}

/// [`forward`], on a GPU of queries that are turned first by `turn`, over those before.
fn attend(
    [q, k, v]: [&Tensor; 3],
    segments: &Segments,
    heads: Heads,
    scores: Scores,
    out: &mut Tensor,
    lse: &mut Tensor,
    turn: Option<(Region, Region)>,
) {
    let scores = scores.over(|| segments.longest_path());
    match q.device() {
        Device::Cpu => {
            let (out, lse) = (out.cpu_mut(), lse.cpu_mut());
            cpu::forward(q.cpu(), k.cpu(), v.cpu(), segments, heads, scores, out, lse);
        }
        Device::Cuda(gpu) => {
            let (float, tree) = (q.float_with(&[k, v, out]), segments.on_gpu.tree(gpu, segments, heads));
            let (q, k, v, out, lse) = (q.region(), k.region(), v.region(), out.region(), lse.region());
            let operands = cuda::Operands { q, k, v, out, lse };
            gpu.run(&match cuda::on_tensor_cores(float, heads, scores) {
                true => cuda::forward(operands, tree.on_device(), heads, scores, turn),
                false => cuda::plain_forward(float, operands, tree.on_device(), heads, scores),
            });
        }
    }
}

/// Values, in f32, of the workspace that [`backward`] needs for `tokens` tokens.
pub fn backward_workspace(placement: Placement, tokens: usize, heads: Heads) -> usize {
    match placement {
        Placement::Cpu => 2 * tokens * heads.query * heads.dim,
        Placement::Cuda(_) => tokens * heads.query,
    }
}

/// Overwrites `gradients` from `d_out`, the gradient of the output. Overwrites `workspace`. `scores` are those of forward.
pub fn backward(
    d_out: &Tensor,
    saved: Saved<'_>,
    segments: &Segments,
    heads: Heads,
    scores: Scores,
    gradients: Gradients<'_>,
    workspace: &mut Tensor,
) {
    let scores = scores.over(|| segments.longest_path());
    match d_out.device() {
        Device::Cpu => {
            let Gradients { q, k, v, turned } = gradients;
            let (of_heads, workspace) = (Gradients { q, k, v, turned: None }, workspace.cpu_mut());
            cpu::backward(d_out.cpu(), saved, segments, heads, scores, of_heads, workspace);
            if let Some(angles) = turned {
                rope::backward_in_place([q, k], angles, segments.tokens(), [heads.query, heads.key_value]);
            }
        }
        Device::Cuda(gpu) => {
            let tree = segments.on_gpu.tree(gpu, segments, heads);
            let Saved { q, k, v, out, lse } = saved;
            let float = d_out.float_with(&[q, k, v, out, gradients.q, gradients.k, gradients.v]);
            let operands = cuda::Operands {
                q: q.region(),
                k: k.region(),
                v: v.region(),
                out: out.region(),
                lse: lse.region(),
            };
            let Gradients { q, k, v, turned } = gradients;
            let on_tensor_cores = cuda::on_tensor_cores(float, heads, scores);
            let here = turned.filter(|angles| on_tensor_cores && cuda::turns(heads, angles.rotation()));
            let of_heads = cuda::Gradients {
                q: q.region(),
                k: k.region(),
                v: v.region(),
                turned: here.map(Angles::regions),
            };
            let (d_out, tree, delta) = (d_out.region(), tree.on_device(), workspace.region());
            let launches = match on_tensor_cores {
                true => cuda::backward(d_out, operands, tree, heads, scores, of_heads, delta).to_vec(),
                false => cuda::plain_backward(float, d_out, operands, tree, heads, scores, of_heads, delta)
                    .to_vec(),
            };
            launches.iter().for_each(|launch| gpu.run(launch));
            if let (None, Some(angles)) = (here, turned) {
                rope::backward_in_place([q, k], angles, segments.tokens(), [heads.query, heads.key_value]);
            }
        }
    }
}

/// New tokens of a sequence whose earlier keys and values are held.
#[derive(Clone, Copy, Debug)]
pub struct Continued<'a> {
    /// The first of its rows among the queries.
    pub first_row: usize,
    /// New tokens.
    pub rows: usize,
    /// Keys, `[past + rows, kv_heads, d]` and perhaps more, with those of the new tokens.
    pub keys: &'a Tensor,
    /// Values, as the keys.
    pub values: &'a Tensor,
    /// Earlier tokens.
    pub past: usize,
}

/// Attention of the new tokens of some sequences, each to what is held of its own.
///
/// Queries are rows of `q`, and outputs those of `out`. Keys that a window hides from all new tokens of a sequence are not read.
pub fn forward_cached<'a>(
    q: &Tensor,
    sequences: &[Continued<'a>],
    heads: Heads,
    scores: Scores,
    out: &mut Tensor,
) {
    match q.device() {
        Device::Cpu => {
            let of_sequence = |sequence: &Continued<'a>| {
                let (scores, past, first_key) = sequence.seen(heads, scores);
                let Continued { first_row, rows, keys, values, .. } = *sequence;
                let (keys, values) = (&keys.cpu()[first_key..], &values.cpu()[first_key..]);
                cpu::Continued { first_row, rows, keys, values, past, scores }
            };
            let sequences: Vec<_> = sequences.iter().map(of_sequence).collect();
            cpu::forward_cached(q.cpu(), &sequences, heads, out.cpu_mut());
        }
        Device::Cuda(gpu) => {
            for sequence in sequences {
                let (scores, past, first_key) = sequence.seen(heads, scores);
                let Continued { first_row, rows, keys, values, .. } = *sequence;
                let (float, width) = (q.float_with(&[keys, values, out]), heads.query * heads.dim);
                let new = |tensor: &Tensor| tensor.part(first_row * width, rows * width);
                let workspace = gpu.buffer(cuda::cached_workspace_bytes(rows, heads));
                let seen = |tensor: &Tensor| tensor.part(first_key, tensor.len() - first_key);
                let cache = (seen(keys), seen(values));
                let (q, out, workspace) = (new(q), new(out), workspace.region());
                let shape = (rows, past);
                for launch in cuda::forward_cached(float, q, cache, shape, heads, scores, out, workspace) {
                    gpu.run(&launch);
                }
            }
        }
    }
}

impl Continued<'_> {
    /// How scores are computed, the earlier tokens that a window shows to one of the new, and where their keys begin.
    fn seen(&self, heads: Heads, scores: Scores) -> (Scores, usize, usize) {
        let scores = scores.over(|| self.past + self.rows);
        let hidden = scores.window.map_or(0, |window| (self.past + 1).saturating_sub(window));
        (scores, self.past - hidden, hidden * heads.key_value * heads.dim)
    }
}
