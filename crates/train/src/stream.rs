//! From the samples of a micro-batch to the stream the model computes.

use lorafit_data::{Batch, Sample, micro_batches};
use lorafit_kernels::ops::attention::{Segment, Segments};
use lorafit_kernels::ops::cross_entropy::Target;
use lorafit_model::Stream;

/// A micro-batch in the model's terms.
#[derive(Debug)]
pub(crate) struct Micro {
    ids: Vec<u32>,
    positions: Vec<u32>,
    segments: Segments,
    targets: Vec<Target>,
}

impl Micro {
    /// Packs samples one after the other, each its own root segment.
    pub(crate) fn pack<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Self {
        let Batch { ids, positions, segments, targets } = Batch::pack(samples);
        let segments =
            segments.iter().map(|s| Segment { start: s.start, len: s.len, parent: s.parent }).collect();
        let targets = targets.iter().map(|t| Target { row: t.row, id: t.id, weight: t.weight }).collect();
        let segments = Segments::new(segments, ids.len()).expect("packing gives contiguous segments");
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

    pub(crate) fn targets(&self) -> usize {
        self.targets.len()
    }
}

/// Cuts the samples `indices` into micro-batches of about `budget` tokens.
pub(crate) fn cut<'a>(
    samples: &'a [Sample],
    indices: &'a [usize],
    budget: usize,
) -> impl Iterator<Item = Micro> + 'a {
    let ranges = micro_batches(indices, |i| samples[i].len(), budget);
    ranges.into_iter().map(move |range| Micro::pack(indices[range].iter().map(|&i| &samples[i])))
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
    /// A bound for samples in any order, `group` of which make a step: the longest come together.
    pub(crate) fn largest(samples: &[Sample], group: usize, budget: usize) -> Self {
        let of_largest = |mut sizes: Vec<usize>| -> usize {
            sizes.sort_unstable_by(|a, b| b.cmp(a));
            sizes.iter().take(group).sum()
        };
        let longest = samples.iter().map(Sample::len).max().unwrap_or(0);
        let tokens = of_largest(samples.iter().map(Sample::len).collect()).min(budget.max(longest));
        let targets = of_largest(samples.iter().map(Sample::supervised_tokens).collect()).min(tokens);
        MicroBatchSize { tokens, targets }
    }

    /// For `rows` rows of `len` tokens each, all of which may predict something.
    pub fn of_equal_rows(rows: usize, len: usize, budget: usize) -> Self {
        let tokens = rows.saturating_mul(len).min(budget.max(len));
        MicroBatchSize { tokens, targets: tokens }
    }

    /// Room for both.
    pub(crate) fn max(self, other: Self) -> Self {
        MicroBatchSize { tokens: self.tokens.max(other.tokens), targets: self.targets.max(other.targets) }
    }
}
