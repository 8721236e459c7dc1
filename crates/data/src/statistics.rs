//! What a dataset is like: lengths, what is trained of it, repeated rows, and what padding or sharing would cost.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hash as _, Hasher as _, RandomState};

use rayon::prelude::*;
use serde::Serialize;

use crate::batch::Batch;
use crate::dataset::{Dataset, Report};
use crate::samples::{Groups, SampleRef, Samples};

/// Bars of the histogram, at most.
const BINS: usize = 12;
/// How many of the longest rows, of the groups of equal ones, and of the lines of such a group are named.
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
    /// Samples that are equal to an earlier one, token for token; of judged replies, rows all of whose samples are.
    pub duplicates: usize,
    /// The first lines of the first groups of equal samples.
    pub duplicate_lines: Vec<Vec<usize>>,
    /// The longest samples.
    pub longest_rows: Vec<Length>,
    /// Samples, or of judged replies rows, of a batch in the two figures below, in file order.
    pub batch_size: usize,
    /// Tokens of batches padded to their longest sample, over tokens.
    pub padded_share: f64,
    /// Tokens computed where what the samples of a batch begin with is computed once, over tokens.
    pub computed_share: f64,
}

/// Percentiles by nearest rank; the median of an even count is the mean of the two in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Percentiles {
    pub min: usize,
    pub p5: usize,
    pub p25: usize,
    #[serde(serialize_with = "whole_where_it_is")]
    pub median: f64,
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
    ///
    /// Needs eight bytes a sample beside the samples.
    pub fn of(data: &Dataset, batch_size: usize) -> Self {
        let Report { tokens, supervised_tokens, is_scored, .. } = data.report.clone();
        let groups = data.samples.groups();
        let batch_size = batch_size.max(1);
        let tally = (0..groups.len().div_ceil(batch_size))
            .into_par_iter()
            .fold(Tally::default, |mut tally, batch| {
                let of_batch = batch * batch_size..((batch + 1) * batch_size).min(groups.len());
                tally.add(
                    of_batch.flat_map(|group| groups.range(group)).map(|i| data.samples.sample(i)).collect(),
                    is_scored,
                );
                tally
            })
            .reduce(Tally::default, Tally::merge);
        let (duplicates, duplicate_lines) = duplicates(&data.samples, &groups);
        let share = |part: usize| part as f64 / tokens.max(1) as f64;
        Statistics {
            report: data.report.clone(),
            supervised_share: share(supervised_tokens),
            length: Percentiles::of(&tally.lengths),
            supervised_length: Percentiles::of(&tally.supervised),
            histogram: histogram(&tally.lengths),
            duplicates,
            duplicate_lines,
            longest_rows: tally.longest,
            batch_size,
            padded_share: share(tally.padded),
            computed_share: share(tally.computed),
        }
    }
}

/// How many samples have a size, for every size there is.
type Counts = BTreeMap<usize, usize>;

/// What is added up over the batches of a dataset, in any order.
#[derive(Default)]
struct Tally {
    lengths: Counts,
    supervised: Counts,
    longest: Vec<Length>,
    padded: usize,
    computed: usize,
}

impl Tally {
    /// Of samples with labels behind their tokens (`is_scored`), those are left out.
    fn add(&mut self, batch: Vec<SampleRef>, is_scored: bool) {
        let tokens = |sample: &SampleRef| sample.len() - usize::from(is_scored);
        for sample in &batch {
            *self.lengths.entry(tokens(sample)).or_default() += 1;
            *self.supervised.entry(sample.supervised_tokens()).or_default() += 1;
            self.longest.push(Length { line: sample.row, tokens: tokens(sample) });
        }
        self.keep_longest();
        self.padded += batch.len() * batch.iter().map(tokens).max().unwrap_or(0);
        self.computed += Batch::share(batch).len();
    }

    fn merge(mut self, other: Self) -> Self {
        let add = |counts: &mut Counts, more: Counts| {
            more.into_iter().for_each(|(size, count)| *counts.entry(size).or_default() += count);
        };
        add(&mut self.lengths, other.lengths);
        add(&mut self.supervised, other.supervised);
        self.longest.extend(other.longest);
        self.keep_longest();
        self.padded += other.padded;
        self.computed += other.computed;
        self
    }

    fn keep_longest(&mut self) {
        self.longest.sort_by_key(|l| (Reverse(l.tokens), l.line));
        self.longest.truncate(NAMED);
    }
}

/// 4 and not 4.0, but 4.5.
fn whole_where_it_is<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    match value.fract() == 0.0 {
        true => serializer.serialize_u64(*value as u64),
        false => serializer.serialize_f64(*value),
    }
}

impl Percentiles {
    fn of(counts: &Counts) -> Self {
        let samples: usize = counts.values().sum();
        // The smallest size that so many percent of the samples do not exceed.
        let at_rank = |rank: usize| {
            let mut below = 0;
            let reaches = |(_, count): &(&usize, &usize)| {
                below += **count;
                below >= rank
            };
            counts.iter().find(reaches).map_or(0, |(size, _)| *size)
        };
        let at = |percent: usize| at_rank((samples * percent).div_ceil(100).max(1));
        Percentiles {
            min: at(0),
            p5: at(5),
            p25: at(25),
            median: (at_rank(samples.div_ceil(2)) + at_rank(samples / 2 + 1)) as f64 / 2.0,
            p75: at(75),
            p95: at(95),
            p99: at(99),
            max: at(100),
        }
    }
}

/// Bars of a round width, 1, 2 or 5 times a power of ten, that begins with the shortest length.
fn histogram(lengths: &Counts) -> Vec<Bar> {
    let (Some((&min, _)), Some((&max, _))) = (lengths.first_key_value(), lengths.last_key_value()) else {
        return vec![];
    };
    let widths = (0..).flat_map(|power| [1, 2, 5].map(|digit| digit * 10usize.pow(power)));
    let bars = |width: usize| max / width - min / width + 1;
    let width = widths.into_iter().find(|&w| bars(w) <= BINS).unwrap_or(max);
    let first = min / width;
    let mut found: Vec<Bar> =
        (first..=max / width).map(|i| Bar { from: i * width, to: (i + 1) * width - 1, samples: 0 }).collect();
    for (length, samples) in lengths {
        found[length / width - first].samples += samples;
    }
    found
}

/// How many rows are equal to an earlier one, and the first lines of the first groups of equal ones.
fn duplicates(samples: &Samples, rows: &Groups) -> (usize, Vec<Vec<usize>>) {
    // A row is a number: its index below, as much of a hash as there is room for above.
    let index_bits = usize::BITS - rows.len().leading_zeros();
    let index = |key: u64| (key & ((1 << index_bits) - 1)) as usize;
    let state = RandomState::new();
    let trained = |row: usize| rows.range(row).map(|i| samples.sample(i).trained());
    let hash = |row: usize| {
        let mut hasher = state.build_hasher();
        trained(row).for_each(|sample| sample.hash(&mut hasher));
        hasher.finish() >> index_bits << index_bits
    };
    let line = |row: usize| samples.sample(rows.range(row).start).row;
    let mut keys: Vec<u64> = (0..rows.len()).into_par_iter().map(|row| hash(row) | row as u64).collect();
    keys.par_sort_unstable();

    let mut repeated = 0;
    let mut named: BTreeSet<Vec<usize>> = BTreeSet::new();
    for alike in keys.chunk_by(|a, b| a >> index_bits == b >> index_bits).filter(|keys| keys.len() > 1) {
        // Nearly always one group, since other samples rarely have the same hash.
        let mut rest = alike.to_vec();
        while let Some(&first) = rest.first() {
            let (equal, others): (Vec<u64>, Vec<u64>) =
                rest.iter().partition(|key| trained(index(**key)).eq(trained(index(first))));
            if equal.len() > 1 {
                repeated += equal.len() - 1;
                named.insert(equal.iter().take(NAMED).map(|key| line(index(*key))).collect());
                if named.len() > NAMED {
                    named.pop_last();
                }
            }
            rest = others;
        }
    }
    (repeated, named.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Shape;
    use crate::sample::{Judgement, Sample, Side};
    use crate::samples::SamplesBuilder;
    use crate::source::Origin;

    fn sample(ids: &[u32], from: usize, row: usize) -> Sample {
        Sample { ids: ids.to_vec(), supervised: (0..ids.len()).map(|i| i >= from).collect(), row }
    }

    #[test]
    fn figures_are_those_counted_by_hand() {
        let samples = [
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
        let data = Dataset { samples: samples.into_iter().collect(), report, origin: Origin::default() };
        let found = Statistics::of(&data, 3);
        assert_eq!(found.report, data.report);
        assert_eq!(found.supervised_share, 6.0 / 41.0);
        let Percentiles { min, p25, median, p75, max, .. } = found.length;
        assert_eq!((min, p25, median, p75, max), (3, 3, 4.0, 4, 30));
        assert_eq!(serde_json::to_value(found.length).expect("JSON")["median"], 4);
        let between = Percentiles::of(&Counts::from([(3, 2), (8, 1), (9, 1)]));
        assert_eq!((between.median, Percentiles::of(&Counts::new()).median), (5.5, 0.0));
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

    /// Two rows have the same chosen reply, of three; the first and the last are equal. Batches are of whole rows.
    #[test]
    fn judged_replies_are_counted_by_their_rows() {
        let mut built = SamplesBuilder::default();
        let judged = |side| Some(Judgement { side, weight: 1.0, margin: 0.0 });
        for (row, rejected) in [(1, 5), (2, 6), (3, 5)] {
            built.push(&sample(&[1, 2, 3, 4], 2, row), judged(Side::Chosen));
            built.push(&sample(&[1, 2, rejected, 4], 2, row), judged(Side::Rejected));
        }
        let report = Report {
            rows: 3,
            samples: 6,
            tokens: 24,
            supervised_tokens: 12,
            longest: 4,
            ..Report::default()
        };
        let data = Dataset { samples: built.finish(), report, origin: Origin::default() };
        let found = Statistics::of(&data, 2);
        assert_eq!((found.duplicates, found.duplicate_lines), (1, vec![vec![1, 3]]));
        // 1 2, and 3, 5 and 6 behind it; then 1 2, and 3 and 5.
        assert_eq!(found.computed_share, 9.0 / 24.0);
    }

    #[test]
    fn a_histogram_counts_every_sample_in_few_bars() {
        for lengths in [vec![1], vec![7; 9], (1..3000).collect(), vec![5, 100_000]] {
            let mut counts = Counts::new();
            lengths.iter().for_each(|length| *counts.entry(*length).or_default() += 1);
            let bars = histogram(&counts);
            assert!(bars.len() <= BINS, "{} bars", bars.len());
            assert_eq!(bars.iter().map(|b| b.samples).sum::<usize>(), lengths.len());
            for pair in bars.windows(2) {
                assert_eq!(pair[0].to + 1, pair[1].from);
            }
        }
        assert!(histogram(&Counts::new()).is_empty());
    }
}
