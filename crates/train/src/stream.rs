//! From the samples of a step to the streams the model computes.

use std::collections::BTreeMap;

use lorafit_data::{self as data, Batch, Samples};
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
}

impl Micro {
    fn new(Batch { ids, positions, segments, text_lengths, targets }: Batch) -> Self {
        let segments =
            segments.iter().map(|s| Segment { start: s.start, len: s.len, parent: s.parent }).collect();
        let targets = targets.iter().map(|t| Target { row: t.row, id: t.id, weight: t.weight }).collect();
        let segments = Segments::new(segments, ids.len()).expect("a batch's segments are contiguous");
        let segments = segments.with_text_lengths(text_lengths);
        Micro { ids, positions, segments, targets }
    }

    pub(crate) fn stream(&self) -> Stream<'_> {
        Stream {
            ids: &self.ids,
            positions: &self.positions,
            segments: &self.segments,
            targets: &self.targets,
        }
    }

    pub(crate) fn tokens(&self) -> usize {
        self.ids.len()
    }
}

/// How samples are cut into micro-batches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// Tokens of a micro-batch, about.
    budget: usize,
    /// Compute once what samples of one begin with alike.
    share: bool,
}

impl Cut {
    /// For a model: where a token depends on the length of its text, texts share no token.
    pub(crate) fn of(config: &Config, budget: usize, share: bool) -> Self {
        Cut { budget, share: share && !config.depends_on_length() }
    }
}

/// Cuts the samples `indices` into micro-batches.
pub(crate) fn cut<'a>(
    samples: &'a Samples,
    indices: &[usize],
    Cut { budget, share }: Cut,
) -> impl Iterator<Item = Micro> + use<'a> {
    data::cut(samples, indices, budget, share).into_iter().map(move |group| {
        let group = group.into_iter().map(|i| samples.sample(i));
        Micro::new(if share { Batch::share(group) } else { Batch::pack(group) })
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
        // Counts by size, of which there are few even where samples are many.
        let (mut lengths, mut supervised) = (BTreeMap::new(), BTreeMap::new());
        for sample in samples.iter() {
            *lengths.entry(sample.len()).or_insert(0) += 1;
            *supervised.entry(sample.supervised_tokens()).or_insert(0) += 1;
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

    /// For samples that have nothing in common: `rows` rows of `len` tokens each, all of which may predict something.
    pub fn of_equal_rows(rows: usize, len: usize, budget: usize) -> Self {
        let tokens = rows.saturating_mul(len).min(budget.max(len));
        MicroBatchSize { tokens, targets: tokens }
    }

    /// Room for both.
    pub(crate) fn max(self, other: Self) -> Self {
        MicroBatchSize { tokens: self.tokens.max(other.tokens), targets: self.targets.max(other.targets) }
    }
}
