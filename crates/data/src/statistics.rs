//! What a dataset is like: lengths, what is trained of it, repeated rows, and what padding or sharing would cost.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::batch::Batch;
use crate::dataset::{Dataset, Report};
use crate::sample::Sample;

/// Bars of the histogram, at most.
const BINS: usize = 12;
/// How many of the longest rows, and of the groups of equal ones, are named.
const NAMED: usize = 5;

/// Figures of a dataset.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Statistics {
    /// What became of the rows.
    #[serde(flatten)]
    pub report: Report,
    /// `supervised_tokens / tokens`.
    pub supervised_share: f64,
    /// Of the tokens of a sample.
    pub length: Percentiles,
    /// Of the trained tokens of a sample.
    pub supervised_length: Percentiles,
    /// Samples by length, in bars of equal width.
    pub histogram: Vec<Bar>,
    /// Samples that are equal to an earlier one, token for token.
    pub duplicates: usize,
    /// Lines of the first groups of equal samples.
    pub duplicate_lines: Vec<Vec<usize>>,
    /// The longest samples.
    pub longest_rows: Vec<Length>,
    /// Samples of a batch in the two figures below, in file order.
    pub batch_size: usize,
    /// Tokens of batches padded to their longest sample, over tokens.
    pub padded_share: f64,
    /// Tokens computed where what the samples of a batch begin with is computed once, over tokens.
    pub computed_share: f64,
}

/// Percentiles by nearest rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Percentiles {
    pub min: usize,
    pub p5: usize,
    pub p25: usize,
    pub median: usize,
    pub p75: usize,
    pub p95: usize,
    pub p99: usize,
    pub max: usize,
}

/// Samples of `from` to `to` tokens, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Bar {
    pub from: usize,
    pub to: usize,
    pub samples: usize,
}

/// How long a line's sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Length {
    pub line: usize,
    pub tokens: usize,
}

impl Statistics {
    /// Of a dataset, whose samples would be trained in batches of `batch_size`.
    pub fn of(data: &Dataset, batch_size: usize) -> Self {
        let Report { tokens, supervised_tokens, .. } = &data.report;
        let lengths: Vec<usize> = data.samples.iter().map(Sample::len).collect();
        let duplicate_groups = duplicates(&data.samples);
        let mut longest: Vec<Length> =
            data.samples.iter().map(|s| Length { line: s.row, tokens: s.len() }).collect();
        longest.sort_by_key(|l| (std::cmp::Reverse(l.tokens), l.line));
        longest.truncate(NAMED);
        let (mut padded, mut computed) = (0, 0);
        for batch in data.samples.chunks(batch_size.max(1)) {
            padded += batch.len() * batch.iter().map(Sample::len).max().unwrap_or(0);
            computed += Batch::share(batch).len();
        }
        let share = |part: usize| part as f64 / (*tokens).max(1) as f64;
        Statistics {
            report: data.report.clone(),
            supervised_share: share(*supervised_tokens),
            length: Percentiles::of(lengths.clone()),
            supervised_length: Percentiles::of(data.samples.iter().map(Sample::supervised_tokens).collect()),
            histogram: histogram(&lengths),
            duplicates: duplicate_groups.iter().map(|lines| lines.len() - 1).sum(),
            duplicate_lines: duplicate_groups.into_iter().take(NAMED).collect(),
            longest_rows: longest,
            batch_size,
            padded_share: share(padded),
            computed_share: share(computed),
        }
    }
}

impl Percentiles {
    fn of(mut values: Vec<usize>) -> Self {
        values.sort_unstable();
        // The smallest value that so many percent of the values do not exceed.
        let at = |percent: usize| {
            values.get((values.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0)
        };
        Percentiles {
            min: at(0),
            p5: at(5),
            p25: at(25),
            median: at(50),
            p75: at(75),
            p95: at(95),
            p99: at(99),
            max: at(100),
        }
    }
}

/// Bars of a round width, 1, 2 or 5 times a power of ten, that begins with the shortest length.
fn histogram(lengths: &[usize]) -> Vec<Bar> {
    let (Some(&min), Some(&max)) = (lengths.iter().min(), lengths.iter().max()) else { return vec![] };
    let widths = (0..).flat_map(|power| [1, 2, 5].map(|digit| digit * 10usize.pow(power)));
    let bars = |width: usize| max / width - min / width + 1;
    let width = widths.into_iter().find(|&w| bars(w) <= BINS).unwrap_or(max);
    let first = min / width;
    let mut found: Vec<Bar> =
        (first..=max / width).map(|i| Bar { from: i * width, to: (i + 1) * width - 1, samples: 0 }).collect();
    for length in lengths {
        found[length / width - first].samples += 1;
    }
    found
}

/// The lines of samples that are equal, in the order of their first.
fn duplicates(samples: &[Sample]) -> Vec<Vec<usize>> {
    let mut lines: BTreeMap<(&[u32], &[bool]), Vec<usize>> = BTreeMap::new();
    for sample in samples {
        lines.entry((&sample.ids, &sample.supervised)).or_default().push(sample.row);
    }
    let mut groups: Vec<Vec<usize>> = lines.into_values().filter(|lines| lines.len() > 1).collect();
    groups.sort_unstable();
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Shape;
    use crate::source::Origin;

    fn sample(ids: &[u32], from: usize, row: usize) -> Sample {
        Sample { ids: ids.to_vec(), supervised: (0..ids.len()).map(|i| i >= from).collect(), row }
    }

    #[test]
    fn figures_are_those_counted_by_hand() {
        let samples = vec![
            sample(&[1, 2, 3, 4], 2, 1),
            sample(&[1, 2, 5], 2, 2),
            sample(&[1, 2, 3, 4], 2, 4),
            sample(&[9; 30], 29, 7),
        ];
        let report = Report {
            shapes: vec![Shape::Chat],
            rows: 6,
            samples: 4,
            truncated: 1,
            dropped: 2,
            tokens: 41,
            supervised_tokens: 6,
            longest: 30,
            ..Report::default()
        };
        let data = Dataset { samples, report, origin: Origin::default() };
        let found = Statistics::of(&data, 3);
        assert_eq!(found.report, data.report);
        assert_eq!(found.supervised_share, 6.0 / 41.0);
        let Percentiles { min, p25, median, p75, max, .. } = found.length;
        assert_eq!((min, p25, median, p75, max), (3, 3, 4, 4, 30));
        assert_eq!((found.supervised_length.min, found.supervised_length.max), (1, 2));
        let bars: Vec<_> = found.histogram.iter().map(|b| (b.from, b.to, b.samples)).collect();
        assert_eq!(bars[..2], [(0, 4, 3), (5, 9, 0)]);
        assert_eq!(bars[6], (30, 34, 1));
        assert_eq!(bars.len(), 7);
        assert_eq!((found.duplicates, found.duplicate_lines), (1, vec![vec![1, 4]]));
        assert_eq!(found.longest_rows[0], Length { line: 7, tokens: 30 });
        assert_eq!(found.longest_rows[1], Length { line: 1, tokens: 4 });
        // Batches of 3 and 1: 3 * 4 + 30 padded. Computed: 1 2 3 of the first three (what comes last only is
        // predicted), and 29.
        assert_eq!(found.padded_share, 42.0 / 41.0);
        assert_eq!(found.computed_share, 32.0 / 41.0);
    }

    #[test]
    fn a_histogram_counts_every_sample_in_few_bars() {
        for lengths in [vec![1], vec![7; 9], (1..3000).collect(), vec![5, 100_000]] {
            let bars = histogram(&lengths);
            assert!(bars.len() <= BINS, "{} bars", bars.len());
            assert_eq!(bars.iter().map(|b| b.samples).sum::<usize>(), lengths.len());
            for pair in bars.windows(2) {
                assert_eq!(pair[0].to + 1, pair[1].from);
            }
        }
        assert!(histogram(&[]).is_empty());
    }
}
