//! From the samples of a step to the streams the model computes.

use std::collections::BTreeMap;

use lorafit_data::{self as data, Batch, Groups, Owners, SampleRef, Samples};
use lorafit_kernels::ops::attention::{Segment, Segments};
use lorafit_kernels::ops::cross_entropy::Target;
use lorafit_model::{Config, Stream};

/// A micro-batch in the model's terms.
#[derive(Debug)]
pub(crate) struct Micro {
    ids: Vec<u32>,
    positions: Vec<u32>,
    segments: Segments,
    targets: Vec<Target>,
    /// The samples it is made of, by their places in the data.
    of: Vec<usize>,
    /// Of each of them, the segment that it ends with; `None` of a sample without supervised tokens.
    last_segments: Vec<Option<usize>>,
    owners: Owners,
}

impl Micro {
    fn new(of: Vec<usize>, (batch, owners): (Batch, Owners)) -> Self {
        let Batch { ids, positions, segments, text_lengths, last_segments, targets } = batch;
        let segments =
            segments.iter().map(|s| Segment { start: s.start, len: s.len, parent: s.parent }).collect();
        let targets = targets.iter().map(|t| Target { row: t.row, id: t.id, weight: t.weight }).collect();
        let segments = Segments::new(segments, ids.len()).expect("a batch's segments are contiguous");
        let segments = segments.with_text_lengths(text_lengths);
        Micro { ids, positions, segments, targets, of, last_segments, owners }
    }

    /// The micro-batch of the samples that [`parts`] gave one part.
    pub(crate) fn of_part(samples: &Samples, part: &[usize], how: Cut) -> Self {
        let batch = Batch::owned(part.iter().map(|&i| samples.sample(i)), how.share, |_| false);
        Micro::new(part.to_vec(), batch)
    }

    pub(crate) fn stream(&self) -> Stream<'_> {
        Stream {
            ids: &self.ids,
            positions: &self.positions,
            segments: &self.segments,
            targets: &self.targets,
            below: 0,
        }
    }

    /// Each of its samples, by its place in the data, with its segments from the last to the first.
    pub(crate) fn samples_with_segments(
        &self,
    ) -> impl Iterator<Item = (usize, impl Iterator<Item = usize> + '_)> {
        let segments = self.segments.as_slice();
        let up = move |last: Option<usize>| std::iter::successors(last, |at| segments[*at].parent);
        self.of.iter().zip(&self.last_segments).map(move |(sample, last)| (*sample, up(*last)))
    }

    /// Its segments, in order of their rows.
    pub(crate) fn segments(&self) -> &[Segment] {
        self.segments.as_slice()
    }

    /// The position in its text of each token.
    pub(crate) fn positions(&self) -> &[u32] {
        &self.positions
    }

    pub(crate) fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Its size, with the last token of each sample, which nothing depends on.
    pub(crate) fn size(&self) -> MicroBatchSize {
        MicroBatchSize { tokens: self.tokens() + self.samples(), targets: self.targets.len() }
    }

    /// How many samples it is made of.
    pub(crate) fn samples(&self) -> usize {
        self.of.len()
    }

    /// The place in the data of the sample at `place`.
    pub(crate) fn sample(&self, place: u32) -> usize {
        self.of[place as usize]
    }

    /// Tells every target with each sample that it is of: `each(target, place of the sample, whether it is of the prompt)`.
    pub(crate) fn for_each_owner(&self, mut each: impl FnMut(usize, u32, bool)) {
        for target in 0..self.targets.len() {
            for owner in self.owners.of(target) {
                each(target, owner.sample, owner.is_prompt);
            }
        }
    }
}

/// How samples are cut into micro-batches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// Tokens of a micro-batch, about.
    budget: usize,
    /// Compute once what samples of one begin with alike.
    share: bool,
    /// There are as many micro-batches as a multiple of this, where there are as many samples.
    multiple: usize,
}

impl Cut {
    /// For a model: where a token depends on the length of its text, texts share no token.
    pub(crate) fn of(config: &Config, budget: usize, share: bool) -> Self {
        Cut { budget, share: share && !config.depends_on_length(), multiple: 1 }
    }

    /// For so many micro-batches at the same time.
    pub(crate) fn side_by_side(self, multiple: usize) -> Self {
        Cut { multiple, ..self }
    }

    /// Whether what samples begin with alike is computed once.
    pub(crate) fn shares(self) -> bool {
        self.share
    }
}

/// Tokens of each of several micro-batches that are computed at the same time and share so many: rows seldom divide evenly, so that each
/// may have an eighth more.
pub fn tokens_of_each(tokens: usize, at_once: usize) -> usize {
    match at_once {
        1 => tokens,
        _ => tokens.saturating_add(tokens / 8) / at_once,
    }
    .max(1)
}

/// The samples of each micro-batch that [`cut`] makes of the samples `indices`.
pub(crate) fn parts(samples: &Samples, indices: &[usize], how: Cut) -> Vec<Vec<usize>> {
    let Cut { budget, share, multiple } = how;
    data::cut_groups(samples, &Groups::alone(samples.len()), indices, (budget, multiple), share)
}

/// Cuts the samples `indices` into micro-batches.
pub(crate) fn cut<'a>(
    samples: &'a Samples,
    indices: &[usize],
    how: Cut,
) -> impl Iterator<Item = Micro> + use<'a> {
    cut_groups(samples, &Groups::alone(samples.len()), indices, how, |_| false)
}

/// Cuts the groups `indices` into micro-batches, none of them in two. Samples for which `with_prompt` says so have their prompts
/// as targets, too.
pub(crate) fn cut_groups<'a, F: Fn(SampleRef<'_>) -> bool + 'a>(
    samples: &'a Samples,
    groups: &Groups,
    indices: &[usize],
    Cut { budget, share, multiple }: Cut,
    with_prompt: F,
) -> impl Iterator<Item = Micro> + use<'a, F> {
    data::cut_groups(samples, groups, indices, (budget, multiple), share).into_iter().map(move |of| {
        let part = of.iter().map(|&i| samples.sample(i));
        let batch = Batch::owned(part, share, &with_prompt);
        Micro::new(of, batch)
    })
}

/// The size of a micro-batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MicroBatchSize {
    /// Its tokens.
    pub tokens: usize,
    /// How many of them predict something.
    pub targets: usize,
}

impl MicroBatchSize {
    /// A bound for samples in any order, `group` of which make a step: the longest come together, and share nothing.
    pub(crate) fn largest(samples: &Samples, group: usize, budget: usize) -> Self {
        let sizes = samples.iter().map(|sample| (sample.len(), sample.supervised_tokens()));
        Self::of_sizes(sizes, group, budget)
    }

    /// As [`MicroBatchSize::largest`], of groups of samples that are in one micro-batch. With `all_targets` every token predicts
    /// something.
    pub(crate) fn largest_groups(
        samples: &Samples,
        groups: &Groups,
        group: usize,
        budget: usize,
        all_targets: bool,
    ) -> Self {
        let sizes = (0..groups.len()).map(|i| {
            let of = groups.range(i).map(|i| samples.sample(i));
            let sizes = of.map(|sample| (sample.len(), sample.supervised_tokens()));
            let (tokens, targets) = sizes.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
            (tokens, if all_targets { tokens } else { targets })
        });
        Self::of_sizes(sizes, group, budget)
    }

    /// Of tokens and targets of what is never parted.
    fn of_sizes(sizes: impl Iterator<Item = (usize, usize)>, group: usize, budget: usize) -> Self {
        // Counts by size, of which there are few even where samples are many.
        let (mut lengths, mut supervised) = (BTreeMap::new(), BTreeMap::new());
        for (tokens, targets) in sizes {
            *lengths.entry(tokens).or_insert(0) += 1;
            *supervised.entry(targets).or_insert(0) += 1;
        }
        let of_largest = |counts: &BTreeMap<usize, usize>| -> usize {
            let mut left = group;
            let taken = counts.iter().rev().map(|(size, count)| {
                let taken = left.min(*count);
                left -= taken;
                size * taken
            });
            taken.sum()
        };
        let longest = lengths.last_key_value().map_or(0, |(longest, _)| *longest);
        let tokens = of_largest(&lengths).min(budget.max(longest));
        let targets = of_largest(&supervised).min(tokens);
        MicroBatchSize { tokens, targets }
    }

    /// A bound for an evaluation, which takes its samples as one group.
    pub fn of_evaluation(samples: &Samples, budget: usize) -> Self {
        MicroBatchSize::largest(samples, samples.len(), budget)
    }

    /// As [`MicroBatchSize::of_evaluation`], of judged rows. With `all_targets` every token predicts something.
    pub fn of_judged(samples: &Samples, budget: usize, all_targets: bool) -> Self {
        let groups = samples.groups();
        MicroBatchSize::largest_groups(samples, &groups, groups.len(), budget, all_targets)
    }

    /// For samples that have nothing in common: `rows` rows of `len` tokens each, all of which may predict something.
    pub fn of_equal_rows(rows: usize, len: usize, budget: usize) -> Self {
        MicroBatchSize::of_equal_groups(rows, MicroBatchSize { tokens: len, targets: len }, budget)
    }

    /// As [`MicroBatchSize::of_equal_rows`], of rows that are never parted, each of this size: the two replies of a pair together.
    pub fn of_equal_groups(rows: usize, row: MicroBatchSize, budget: usize) -> Self {
        let tokens = rows.saturating_mul(row.tokens).min(budget.max(row.tokens));
        MicroBatchSize { tokens, targets: rows.saturating_mul(row.targets).min(tokens) }
    }

    /// Of `rows` rows that have exactly `len` tokens each, the last of which is only predicted: no row is parted.
    pub fn of_whole_rows(rows: usize, len: usize, budget: usize) -> Self {
        let most = (budget / len.saturating_sub(1).max(1)).clamp(1, rows.max(1));
        // As few as that allows, and even.
        let in_each = rows.div_ceil(rows.div_ceil(most).max(1));
        let tokens = in_each.saturating_mul(len).min(budget.max(len));
        MicroBatchSize { tokens, targets: tokens }
    }

    /// What is in both.
    pub(crate) fn min(self, other: Self) -> Self {
        MicroBatchSize { tokens: self.tokens.min(other.tokens), targets: self.targets.min(other.targets) }
    }

    /// Room for both.
    pub(crate) fn max(self, other: Self) -> Self {
        MicroBatchSize { tokens: self.tokens.max(other.tokens), targets: self.targets.max(other.targets) }
    }
}

#[cfg(test)]
mod tests {
    use lorafit_data::Sample;

    use super::*;

    /// Buffers of this size hold every micro-batch of rows that share nothing, whatever their length.
    #[test]
    fn whole_rows_fit_what_is_made_for_them() {
        let config = Config::named("smollm2-135m").expect("a name");
        for (rows, len, budget) in (1..6).flat_map(|rows| {
            let of_len = move |len: usize| [1, 8, 16, 17, 32, 64, 500].map(|budget| (rows, len, budget));
            (2..36).flat_map(of_len)
        }) {
            let sample = |row: usize| {
                let ids = (0..len).map(|i| (row * len + i) as u32).collect();
                Sample { ids, supervised: (0..len).map(|i| i > 0).collect(), row: row + 1 }
            };
            let samples: Samples = (0..rows).map(sample).collect();
            let all: Vec<usize> = (0..rows).collect();
            let micros = cut(&samples, &all, Cut::of(&config, budget, true));
            let largest = micros.map(|micro| micro.tokens()).max().expect("one");
            let room = MicroBatchSize::of_whole_rows(rows, len, budget).tokens;
            assert!(
                largest <= room && room <= largest + rows,
                "{rows} x {len}, {budget}: {room} for {largest}"
            );
        }
    }
}
