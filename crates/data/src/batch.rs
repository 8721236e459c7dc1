//! A batch: what the model computes on in one go.
//!
//! A stream of tokens, never a padded rectangle. The stream is cut into segments that form a forest: a token sees its
//! segment's ancestors and, causally, its own segment. Unrelated samples are separate roots, so packing them changes
//! nothing but speed; samples that begin alike can share an ancestor. The loss is a list of targets: row `r` of the
//! hidden states predicts token `id`. Only attention reads segments, only the loss reads targets.
//!
//! What no target depends on is left out: of a sample, everything from its last supervised token on.
//!
//! [`Batch::pack`] puts samples side by side; [`Batch::share`] makes a prefix tree of them, in which what several
//! samples begin with is one segment. Since a token never sees what follows it, both give every target the same
//! context, and so the same loss and gradient. [`cut`] decides which samples make up a batch, [`cut_groups`] which groups
//! of them.
//!
//! Where the loss is of whole replies, [`Batch::owned`] says beside of which samples each target is.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use crate::samples::{Groups, SampleRef, Samples};

/// A run of the stream whose tokens follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First row of the stream.
    pub start: usize,
    /// Rows.
    pub len: usize,
    /// The segment that this one continues, always an earlier one; `None` for the start of a text.
    pub parent: Option<usize>,
}

/// One term of the loss: the hidden state of `row` should predict `id`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// Row of the stream.
    pub row: u32,
    /// The token to predict.
    pub id: u32,
    /// How many supervised tokens the term stands for, where samples are equal up to here; not yet divided by the
    /// supervised tokens of the optimizer step.
    pub weight: f32,
}

/// A stream of tokens with its segments and targets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Token ids, `[tokens]`.
    pub ids: Vec<u32>,
    /// Position of each token in its text, `[tokens]`, from 0.
    pub positions: Vec<u32>,
    /// The segments in order of their start; together they are the whole stream.
    pub segments: Vec<Segment>,
    /// Of each segment, the tokens of its text, those that are left out included; of the longest text that it is of.
    pub text_lengths: Vec<usize>,
    /// Of each sample that the batch was made of, the segment that it ends with; `None` of a sample that was left out.
    pub last_segments: Vec<Option<usize>>,
    /// The targets in order of their rows. A row can have several where texts branch.
    pub targets: Vec<Target>,
}

/// A sample that a target is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// Its place among the samples that the batch was made of.
    pub sample: u32,
    /// Whether the target is of what stands before its reply, and not of the reply.
    pub is_prompt: bool,
}

/// Of which samples each target of a batch is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners {
    /// Where the owners of each target end.
    ends: Vec<u32>,
    all: Vec<Owner>,
}

impl Owners {
    /// Those of target `target`.
    pub fn of(&self, target: usize) -> &[Owner] {
        let start = target.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        &self.all[start..self.ends[target] as usize]
    }

    fn push(&mut self, owner: Owner) {
        self.all.push(owner);
    }

    /// All that were added since the last target are those of the next.
    fn end_target(&mut self) {
        self.ends.push(self.all.len() as u32);
    }
}

impl Batch {
    /// Puts samples one behind the other, each a root: positions start again at 0 and none sees another. The
    /// supervised token `j` of a sample is predicted by its row `j - 1`. Samples without a supervised token are left
    /// out.
    ///
    /// A stream holds fewer than 2^32 tokens; the caller's token budget is far below.
    pub fn pack<'a>(samples: impl IntoIterator<Item = SampleRef<'a>>) -> Self {
        Builder::of(samples, false, |_| false).batch
    }

    /// As [`Batch::pack`], but what samples begin with alike is in the stream once, however many they are.
    pub fn share<'a>(samples: impl IntoIterator<Item = SampleRef<'a>>) -> Self {
        Builder::of(samples, true, |_| false).batch
    }

    /// As [`Batch::share`] or [`Batch::pack`], with the samples that each target is of. Samples for which `with_prompt` says so
    /// have their prompts as targets, too.
    pub fn owned<'a>(
        samples: impl IntoIterator<Item = SampleRef<'a>>,
        share: bool,
        with_prompt: impl Fn(SampleRef<'a>) -> bool,
    ) -> (Self, Owners) {
        let Builder { batch, owners } = Builder::of(samples, share, with_prompt);
        (batch, owners)
    }

    /// Tokens in the stream.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the stream has no tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// A sample, its place, and whether its prompt is a target.
#[derive(Clone, Copy)]
struct Placed<'a> {
    sample: SampleRef<'a>,
    place: u32,
    with_prompt: bool,
}

impl<'a> Placed<'a> {
    fn inputs(self) -> &'a [u32] {
        self.sample.inputs()
    }

    /// The targets among its tokens `tokens`, by whether they are of its prompt.
    fn targets(self, tokens: Range<usize>) -> impl Iterator<Item = (usize, bool)> + use<'a> {
        let inside = move |run: Range<usize>| {
            run.start.clamp(tokens.start, tokens.end)..run.end.clamp(tokens.start, tokens.end)
        };
        let runs = self.sample.supervised().flat_map(inside).map(|i| (i, false));
        let before = if self.with_prompt { 0..self.sample.len() } else { 0..0 };
        let sample = self.sample;
        let before = inside(before).filter(move |i| !sample.supervised().any(|run| run.contains(i)));
        runs.chain(before.map(|i| (i, true)))
    }
}

/// Makes a batch of samples.
#[derive(Default)]
struct Builder {
    batch: Batch,
    owners: Owners,
}

impl Builder {
    fn of<'a>(
        samples: impl IntoIterator<Item = SampleRef<'a>>,
        share: bool,
        with_prompt: impl Fn(SampleRef<'a>) -> bool,
    ) -> Self {
        let placed = |(place, sample)| Placed { sample, place, with_prompt: with_prompt(sample) };
        let mut samples: Vec<Placed> = (0..).zip(samples).map(placed).collect();
        let mut builder = Self::default();
        builder.batch.last_segments = vec![None; samples.len()];
        if share {
            samples.sort_by_key(|s| s.inputs());
            builder.grow(&samples);
        } else {
            samples.chunks(1).for_each(|sample| builder.grow(sample));
        }
        builder
    }

    /// Adds the prefix tree of samples that are sorted by their inputs.
    fn grow(&mut self, samples: &[Placed]) {
        /// Samples that agree up to `depth`, where the segment `parent` ends.
        struct Branch {
            samples: Range<usize>,
            depth: usize,
            parent: Option<usize>,
        }
        // A list and not recursion: a tree is as deep as a hostile file makes it.
        let mut open = vec![Branch { samples: 0..samples.len(), depth: 0, parent: None }];
        while let Some(Branch { samples: range, depth, mut parent }) = open.pop() {
            let group = &samples[range.clone()];
            let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
            // Sorted, so that what the first and the last share, all share.
            let end = depth + common_prefix(&first.inputs()[depth..], &last.inputs()[depth..]);
            if end > depth {
                parent = Some(self.push_segment(group, depth..end, parent));
            }
            // Those that end here come first; the others go on with different tokens, the last branch opened first.
            let ended = group.iter().take_while(|s| s.inputs().len() == end);
            let ended = ended.map(|s| self.batch.last_segments[s.place as usize] = parent).count();
            let mut rest = range.start + ended..range.end;
            while !rest.is_empty() {
                let token = samples[rest.end - 1].inputs()[end];
                let same =
                    samples[rest.clone()].iter().rev().take_while(|s| s.inputs()[end] == token).count();
                let branch = rest.end - same..rest.end;
                rest.end = branch.start;
                open.push(Branch { samples: branch, depth: end, parent });
            }
        }
    }

    /// Adds the tokens `part` of samples that agree there, with all their targets; the segment's index.
    fn push_segment(&mut self, samples: &[Placed], part: Range<usize>, parent: Option<usize>) -> usize {
        let Self { batch, owners } = self;
        let start = batch.ids.len();
        let mut found: Vec<(u32, u32, Owner)> = Vec::new();
        for placed in samples {
            // A target's row is that of the token before it.
            let targets = placed.targets(part.start + 1..part.end + 1);
            found.extend(targets.map(|(i, is_prompt)| {
                let owner = Owner { sample: placed.place, is_prompt };
                ((start + i - 1 - part.start) as u32, placed.sample.ids[i], owner)
            }));
        }
        found.sort_unstable();
        for same in found.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let (row, id, _) = same[0];
            batch.targets.push(Target { row, id, weight: same.len() as f32 });
            same.iter().for_each(|(_, _, owner)| owners.push(*owner));
            owners.end_target();
        }
        batch.positions.extend(part.clone().map(|i| i as u32));
        batch.ids.extend_from_slice(&samples[0].sample.ids[part.clone()]);
        batch.segments.push(Segment { start, len: part.len(), parent });
        batch.text_lengths.push(samples.iter().map(|placed| placed.sample.len()).max().unwrap_or(0));
        batch.segments.len() - 1
    }
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Cuts the samples `indices` into groups, each a batch of at most `budget` tokens; a longer sample is a group by
/// itself. As few groups as samples taken in order allow, and then of even size.
///
/// With `share` the tokens are those of [`Batch::share`], and samples that begin alike are brought together first.
/// The result depends on nothing else, so a resumed run cuts the same.
pub fn cut(samples: &Samples, indices: &[usize], budget: usize, share: bool) -> Vec<Vec<usize>> {
    cut_groups(samples, &Groups::alone(samples.len()), indices, (budget, 1), share)
}

/// As [`cut`], of the groups `indices`, whose samples stay together; the samples of each part. The number of parts is a multiple of
/// `multiple`, where there are as many groups.
pub fn cut_groups(
    samples: &Samples,
    groups: &Groups,
    indices: &[usize],
    (budget, multiple): (usize, usize),
    share: bool,
) -> Vec<Vec<usize>> {
    let mut order: Vec<Unit> = indices.iter().map(|&i| Unit::of(samples, groups.range(i), share)).collect();
    if share {
        order.sort_by_key(|unit| unit.prefix);
    }
    // Of each group its tokens, and how many of them the one before it has too.
    let shared = |at: usize| match at.checked_sub(1).filter(|_| share) {
        Some(before) => common_prefix(order[before].prefix, order[at].prefix),
        None => 0,
    };
    let sizes: Vec<(usize, usize)> = (0..order.len()).map(|at| (order[at].tokens, shared(at))).collect();
    let most = greedy_cuts(&sizes, budget).len().next_multiple_of(multiple).min(order.len());
    // The smallest budget that needs no more parts.
    let (mut low, mut high) = (0, budget);
    while low < high {
        let middle = low + (high - low) / 2;
        if greedy_cuts(&sizes, middle).len() > most { low = middle + 1 } else { high = middle }
    }
    let samples_of =
        |range: Range<usize>| order[range].iter().flat_map(|unit| unit.samples.clone()).collect();
    let mut cuts = greedy_cuts(&sizes, high);
    while cuts.len() < most && !cuts.len().is_multiple_of(multiple) {
        split_largest(&mut cuts, &sizes);
    }
    cuts.into_iter().map(samples_of).collect()
}

/// Splits the part with the most tokens among those of several groups, so that the larger half is small.
fn split_largest(cuts: &mut Vec<Range<usize>>, sizes: &[(usize, usize)]) {
    let tokens = |range: Range<usize>| -> usize {
        let others = &sizes[range.start + 1..range.end];
        sizes[range.start].0 + others.iter().map(|(tokens, shared)| tokens - shared).sum::<usize>()
    };
    let several = (0..cuts.len()).filter(|at| cuts[*at].len() > 1);
    let Some(at) = several.max_by_key(|at| tokens(cuts[*at].clone())) else { return };
    let Range { start, end } = cuts[at].clone();
    let larger = |middle: &usize| tokens(start..*middle).max(tokens(*middle..end));
    let middle = (start + 1..end).min_by_key(larger).unwrap_or(end);
    cuts.splice(at..=at, [start..middle, middle..end]);
}

/// Divides the groups `indices` among `parts`, so that the part with the most tokens has few. Where there are fewer groups than
/// parts some are empty. The result depends on nothing else.
///
/// With `share` the tokens of a part are those of [`Batch::share`]: whether it is better to bring groups that begin alike
/// together, or to divide them by their lengths, is found by doing both.
pub fn divide(
    samples: &Samples,
    groups: &Groups,
    indices: &[usize],
    parts: usize,
    share: bool,
) -> Vec<Vec<usize>> {
    let units: Vec<Unit> = indices.iter().map(|&i| Unit::of(samples, groups.range(i), share)).collect();
    let by_length = by_length(&units, parts);
    let by_prefix = if share { by_prefix(&units, parts) } else { Vec::new() };
    let most = |divided: &[Vec<usize>]| {
        let tokens = |part: &Vec<usize>| in_one_tree(&units, part, share);
        divided.iter().map(tokens).max().unwrap_or(usize::MAX)
    };
    let mut chosen = if most(&by_prefix) < most(&by_length) { by_prefix } else { by_length };
    for part in &mut chosen {
        part.sort_unstable();
        part.iter_mut().for_each(|place| *place = indices[*place]);
    }
    chosen
}

/// The longest first, each to the part that has the least so far.
fn by_length(units: &[Unit], parts: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..units.len()).collect();
    order.sort_by_key(|&place| Reverse(units[place].tokens));
    let mut divided = vec![Vec::new(); parts];
    let mut least: BinaryHeap<Reverse<(usize, usize)>> = (0..parts).map(|part| Reverse((0, part))).collect();
    for place in order {
        let Some(Reverse((tokens, part))) = least.pop() else { break };
        divided[part].push(place);
        least.push(Reverse((tokens + units[place].tokens, part)));
    }
    divided
}

/// Neighbours in the order of their prefixes, as even as that allows; none if that needs more parts.
fn by_prefix(units: &[Unit], parts: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..units.len()).collect();
    order.sort_by_key(|&place| units[place].prefix);
    let sizes: Vec<(usize, usize)> = (0..order.len())
        .map(|at| {
            let before = at.checked_sub(1).map(|before| &units[order[before]]);
            let shared = before.map_or(0, |before| common_prefix(before.prefix, units[order[at]].prefix));
            (units[order[at]].tokens, shared)
        })
        .collect();
    let (mut low, mut high) = (0, sizes.iter().map(|(tokens, _)| tokens).sum());
    while low < high {
        let middle = low + (high - low) / 2;
        if greedy_cuts(&sizes, middle).len() > parts { low = middle + 1 } else { high = middle }
    }
    let mut divided: Vec<Vec<usize>> =
        greedy_cuts(&sizes, high).into_iter().map(|range| order[range].to_vec()).collect();
    divided.resize(parts.max(divided.len()), Vec::new());
    divided
}

/// Tokens of some units, of their tree with `share`.
fn in_one_tree(units: &[Unit], part: &[usize], share: bool) -> usize {
    let mut prefixes: Vec<&[u32]> = part.iter().map(|&place| units[place].prefix).collect();
    let all: usize = part.iter().map(|&place| units[place].tokens).sum();
    if !share {
        return all;
    }
    prefixes.sort_unstable();
    all - prefixes.windows(2).map(|pair| common_prefix(pair[0], pair[1])).sum::<usize>()
}

/// Samples that stay together.
struct Unit<'a> {
    samples: Range<usize>,
    /// What all of them begin with.
    prefix: &'a [u32],
    /// Of their tree, or of all together.
    tokens: usize,
}

impl<'a> Unit<'a> {
    fn of(samples: &'a Samples, range: Range<usize>, share: bool) -> Self {
        let mut inputs: Vec<&[u32]> = range.clone().map(|i| samples.sample(i).inputs()).collect();
        let all: usize = inputs.iter().map(|inputs| inputs.len()).sum();
        if share {
            inputs.sort_unstable();
        }
        let (first, last) = (inputs[0], inputs[inputs.len() - 1]);
        let prefix = if inputs.len() == 1 { first } else { &first[..common_prefix(first, last)] };
        let saved: usize = inputs.windows(2).map(|pair| common_prefix(pair[0], pair[1])).sum();
        Unit { samples: range, prefix, tokens: if share { all - saved } else { all } }
    }
}

/// Ranges of `(tokens, shared with the one before)` that are filled in turn up to `budget`.
fn greedy_cuts(sizes: &[(usize, usize)], budget: usize) -> Vec<Range<usize>> {
    let mut cuts: Vec<Range<usize>> = Vec::new();
    let mut used = 0usize;
    for (at, &(tokens, shared)) in sizes.iter().enumerate() {
        match cuts.last_mut() {
            Some(open) if used + (tokens - shared) <= budget => {
                open.end = at + 1;
                used += tokens - shared;
            }
            _ => {
                cuts.push(at..at + 1);
                used = tokens;
            }
        }
    }
    cuts
}
