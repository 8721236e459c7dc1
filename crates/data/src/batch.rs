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
//! context, and so the same loss and gradient. [`cut`] decides which samples make up a batch.

use std::ops::Range;

use crate::samples::{SampleRef, Samples};

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
    /// The targets in order of their rows. A row can have several where texts branch.
    pub targets: Vec<Target>,
}

impl Batch {
    /// Puts samples one behind the other, each a root: positions start again at 0 and none sees another. The
    /// supervised token `j` of a sample is predicted by its row `j - 1`. Samples without a supervised token are left
    /// out.
    ///
    /// A stream holds fewer than 2^32 tokens; the caller's token budget is far below.
    pub fn pack<'a>(samples: impl IntoIterator<Item = SampleRef<'a>>) -> Self {
        let mut batch = Self::default();
        for sample in samples {
            batch.grow(&[sample]);
        }
        batch
    }

    /// As [`Batch::pack`], but what samples begin with alike is in the stream once, however many they are.
    pub fn share<'a>(samples: impl IntoIterator<Item = SampleRef<'a>>) -> Self {
        let mut samples: Vec<SampleRef> = samples.into_iter().collect();
        samples.sort_by_key(|s| s.inputs());
        let mut batch = Self::default();
        batch.grow(&samples);
        batch
    }

    /// Adds the prefix tree of samples that are sorted by their inputs.
    fn grow(&mut self, samples: &[SampleRef]) {
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
            let mut rest =
                range.start + group.iter().take_while(|s| s.inputs().len() == end).count()..range.end;
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
    fn push_segment(&mut self, samples: &[SampleRef], part: Range<usize>, parent: Option<usize>) -> usize {
        let start = self.ids.len();
        let mut targets: Vec<Target> = Vec::new();
        for sample in samples {
            // A target's row is that of the token before it.
            let runs = sample.supervised().map(|run| {
                run.start.clamp(part.start + 1, part.end + 1)..run.end.clamp(part.start + 1, part.end + 1)
            });
            targets.extend(runs.flatten().map(|i| Target {
                row: (start + i - 1 - part.start) as u32,
                id: sample.ids[i],
                weight: 1.0,
            }));
        }
        targets.sort_by_key(|t| (t.row, t.id));
        targets.dedup_by(|next, kept| {
            let same = (next.row, next.id) == (kept.row, kept.id);
            kept.weight += f32::from(u8::from(same));
            same
        });
        self.targets.append(&mut targets);
        self.positions.extend(part.clone().map(|i| i as u32));
        self.ids.extend_from_slice(&samples[0].ids[part.clone()]);
        self.segments.push(Segment { start, len: part.len(), parent });
        self.text_lengths.push(samples.iter().map(|sample| sample.ids.len()).max().unwrap_or(0));
        self.segments.len() - 1
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

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Cuts the samples `indices` into groups, each a batch of at most `budget` tokens; a longer sample is a group by
/// itself. As few groups as samples taken in order allow, and then of even size.
///
/// With `share` the tokens are those of [`Batch::share`], and samples that begin alike are brought together first.
/// The result depends on nothing else, so a resumed run cuts the same.
pub fn cut(samples: &Samples, indices: &[usize], budget: usize, share: bool) -> Vec<Vec<usize>> {
    let mut order = indices.to_vec();
    if share {
        order.sort_by_key(|&i| samples.sample(i).inputs());
    }
    // Of each sample its tokens, and how many of them the one before it has too.
    let sizes: Vec<(usize, usize)> = order
        .iter()
        .enumerate()
        .map(|(at, &i)| {
            let this = samples.sample(i).inputs();
            let before = at.checked_sub(1).filter(|_| share).map(|at| samples.sample(order[at]).inputs());
            (this.len(), before.map_or(0, |before| common_prefix(before, this)))
        })
        .collect();
    let fewest = greedy_cuts(&sizes, budget).len();
    // The smallest budget that needs no more groups.
    let (mut low, mut high) = (0, budget);
    while low < high {
        let middle = low + (high - low) / 2;
        if greedy_cuts(&sizes, middle).len() > fewest { low = middle + 1 } else { high = middle }
    }
    greedy_cuts(&sizes, high).into_iter().map(|range| order[range].to_vec()).collect()
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
