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

/// A bound on the tokens of a micro-batch, whatever the order of the samples: `group` of them make a step.
pub(crate) fn largest_micro_batch(samples: &[Sample], group: usize, budget: usize) -> usize {
    let longest = samples.iter().map(Sample::len).max().unwrap_or(0);
    let all: usize = samples.iter().map(Sample::len).sum();
    budget.max(longest).min(all).min(longest.saturating_mul(group))
}
