//! The samples of a dataset, one behind the other in one run of 32-bit words: four bytes a token and about thirty a
//! sample. They lie in memory, or in a mapped file ([`file`](mod@file)), from which they are read as they are needed.
//!
//! A sample is a record, and where each record ends stands in a list beside them:
//!
//! ```text
//! row (low, high word) | side and runs | weight margin | start end, start end, ... | ids ...
//! ```
//!
//! A run `start..end` is of targets that follow each other. Weight and margin are there only where the sample is judged, which
//! the side says in the highest four bits of its word. All of a sample is in one place, so that a step on a mapped
//! file touches one or two pages a sample, and so that a file can be written as the samples come.

pub mod file;

use std::ops::Range;
use std::sync::Arc;

use zerocopy::IntoBytes;

use crate::sample::{Judgement, Sample, Side};
use file::MappedSamples;

/// Words of a record before its judgement and its runs.
const HEAD: usize = 3;
/// The word of the side and the runs, and where in it the side is.
const SIDE_AND_RUNS: usize = 2;
const SIDE_SHIFT: u32 = 28;

/// Samples by index, in the order of the data. A clone shares them.
#[derive(Debug, Clone)]
pub struct Samples {
    storage: Arc<Storage>,
}

#[derive(Debug)]
enum Storage {
    Memory(SamplesBuilder),
    Mapped(MappedSamples),
}

impl Samples {
    fn new(storage: Storage) -> Self {
        Self { storage: Arc::new(storage) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.records().1.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sample `i`.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn sample(&self, i: usize) -> SampleRef<'_> {
        let (words, ends) = self.records();
        assert!(i < ends.len(), "sample {i} of {}", ends.len());
        let start = i.checked_sub(1).map_or(0, |before| ends[before] as usize);
        if let Storage::Mapped(mapped) = &*self.storage {
            mapped.will_read(start);
        }
        SampleRef::of(&words[start..ends[i] as usize])
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = SampleRef<'_>> {
        (0..self.len()).map(|i| self.sample(i))
    }

    /// Which samples belong together: those of a row.
    pub fn groups(&self) -> Groups {
        let of_row = |sample: SampleRef<'_>| sample.judgement().is_some_and(|j| j.side == Side::Rejected);
        let mut starts: Vec<usize> = Vec::new();
        let mut all_alone = true;
        for (i, sample) in self.iter().enumerate() {
            match of_row(sample) && i > 0 {
                true => all_alone = false,
                false => starts.push(i),
            }
        }
        Groups { starts: (!all_alone).then_some(starts), samples: self.len() }
    }

    /// Bytes of the samples and of what finds them, in memory or in the mapped file.
    pub fn bytes(&self) -> usize {
        let (words, ends) = self.records();
        size_of_val(words) + size_of_val(ends)
    }

    /// A hash (BLAKE3) of the samples, their tokens, targets and lines: the same wherever they lie. It is read from the
    /// head of a mapped file, and computed for samples in memory at some gigabytes a second.
    pub fn fingerprint(&self) -> [u8; 32] {
        match &*self.storage {
            Storage::Mapped(mapped) => mapped.fingerprint(),
            Storage::Memory(built) => {
                let mut hasher = blake3::Hasher::new();
                hasher.update_rayon(built.words.as_bytes()).update_rayon(built.ends.as_bytes());
                *hasher.finalize().as_bytes()
            }
        }
    }

    /// Words of all records, and where each ends.
    fn records(&self) -> (&[u32], &[u64]) {
        match &*self.storage {
            Storage::Memory(built) => (&built.words, &built.ends),
            Storage::Mapped(mapped) => (mapped.words(), mapped.ends()),
        }
    }
}

impl Default for Samples {
    fn default() -> Self {
        SamplesBuilder::default().finish()
    }
}

impl PartialEq for Samples {
    fn eq(&self, other: &Self) -> bool {
        self.records() == other.records()
    }
}

impl Eq for Samples {}

impl FromIterator<Sample> for Samples {
    fn from_iter<T: IntoIterator<Item = Sample>>(samples: T) -> Self {
        let mut builder = SamplesBuilder::default();
        samples.into_iter().for_each(|sample| builder.push(&sample, None));
        builder.finish()
    }
}

/// Samples being gathered in memory.
#[derive(Debug, Default)]
pub struct SamplesBuilder {
    words: Vec<u32>,
    ends: Vec<u64>,
}

impl SamplesBuilder {
    /// Adds a sample, with what its row says of it.
    pub fn push(&mut self, sample: &Sample, judgement: Option<Judgement>) {
        write_record(sample, judgement, &mut self.words);
        self.ends.push(self.words.len() as u64);
    }

    /// The samples.
    pub fn finish(mut self) -> Samples {
        self.words.shrink_to_fit();
        self.ends.shrink_to_fit();
        Samples::new(Storage::Memory(self))
    }
}

/// A sample in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleRef<'a> {
    /// The token ids.
    pub ids: &'a [u32],
    /// Side, weight and margin; none of a sample that is not judged.
    judged: &'a [u32],
    /// Starts and ends of the runs of targets, in turn.
    runs: &'a [u32],
    /// The line of the file, counted from 1.
    pub row: usize,
}

impl<'a> SampleRef<'a> {
    fn of(record: &'a [u32]) -> Self {
        let row = u64::from(record[0]) | u64::from(record[1]) << 32;
        let head = record[SIDE_AND_RUNS];
        let is_judged = head >> SIDE_SHIFT != 0;
        let end_of_head = if is_judged { HEAD + 2 } else { HEAD };
        let judged = if is_judged { &record[SIDE_AND_RUNS..end_of_head] } else { &[] };
        let runs = head & ((1 << SIDE_SHIFT) - 1);
        let (runs, ids) = record[end_of_head..].split_at(2 * runs as usize);
        Self { ids, judged, runs, row: row as usize }
    }

    /// What its row says of it, if that judges replies.
    pub fn judgement(self) -> Option<Judgement> {
        let [head, weight, margin] = self.judged else { return None };
        let side = Side::of_code(head >> SIDE_SHIFT)?;
        Some(Judgement { side, weight: f32::from_bits(*weight), margin: f32::from_bits(*margin) })
    }

    /// How many tokens the sample has.
    pub fn len(self) -> usize {
        self.ids.len()
    }

    /// Whether the sample has no tokens.
    pub fn is_empty(self) -> bool {
        self.ids.is_empty()
    }

    /// Its targets: runs of tokens that the model is trained to predict, each from those before it.
    pub fn supervised(self) -> impl DoubleEndedIterator<Item = Range<usize>> + use<'a> {
        self.runs.chunks_exact(2).map(|run| run[0] as usize..run[1] as usize)
    }

    /// How many of its tokens are targets.
    pub fn supervised_tokens(self) -> usize {
        self.supervised().map(|run| run.len()).sum()
    }

    /// The tokens that some target depends on: those before the last target.
    pub fn inputs(self) -> &'a [u32] {
        &self.ids[..self.supervised().next_back().map_or(0, |last| last.end - 1)]
    }

    /// Label and tokens of a text that is scored ([`Sample::scored`]).
    ///
    /// # Panics
    /// When there are no tokens.
    pub fn label_and_text(self) -> (u32, &'a [u32]) {
        let (label, text) = self.ids.split_last().expect("a scored text has its label behind it");
        (*label, text)
    }

    /// What is trained: two samples with the same are equal wherever they stand.
    pub(crate) fn trained(self) -> (&'a [u32], &'a [u32], &'a [u32]) {
        (self.ids, self.runs, self.judged)
    }

    /// A copy.
    pub fn to_sample(self) -> Sample {
        let mut supervised = vec![false; self.len()];
        self.supervised().for_each(|run| supervised[run].fill(true));
        Sample { ids: self.ids.to_vec(), supervised, row: self.row }
    }
}

/// Samples that are taken together in a step, since they are of one row: the reply that is chosen and those that are rejected.
#[derive(Debug, Clone)]
pub struct Groups {
    /// The first sample of each group; `None` where each sample is a group.
    starts: Option<Vec<usize>>,
    samples: usize,
}

impl Groups {
    /// Each of so many samples by itself.
    pub fn alone(samples: usize) -> Self {
        Groups { starts: None, samples }
    }

    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.starts.as_ref().map_or(self.samples, Vec::len)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The samples of group `i`.
    pub fn range(&self, i: usize) -> Range<usize> {
        match &self.starts {
            None => i..i + 1,
            Some(starts) => starts[i]..starts.get(i + 1).copied().unwrap_or(self.samples),
        }
    }
}

/// Adds the record of a sample to `words`.
fn write_record(sample: &Sample, judgement: Option<Judgement>, words: &mut Vec<u32>) {
    let row = sample.row as u64;
    words.extend([row as u32, (row >> 32) as u32, 0]);
    let head = words.len() - 1;
    if let Some(Judgement { side, weight, margin }) = judgement {
        words[head] = side.code() << SIDE_SHIFT;
        words.extend([weight.to_bits(), margin.to_bits()]);
    }
    let runs = words.len();
    let mut at = 0;
    for run in sample.supervised.chunk_by(|a, b| a == b) {
        if run[0] {
            words.extend([at as u32, (at + run.len()) as u32]);
        }
        at += run.len();
    }
    let runs = ((words.len() - runs) / 2) as u32;
    assert!(runs < 1 << SIDE_SHIFT, "{runs} runs of a sample");
    words[head] |= runs;
    words.extend_from_slice(&sample.ids);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(marks: &[u8], row: usize) -> Sample {
        let ids = (0..marks.len()).map(|i| (row + i) as u32).collect();
        Sample { ids, supervised: marks.iter().map(|m| *m == 1).collect(), row }
    }

    fn samples() -> Vec<Sample> {
        let marks: [&[u8]; 6] =
            [&[0, 1, 1, 0, 1], &[0, 0, 0], &[], &[1], &[0, 1, 0, 1, 0, 1, 0], &[1, 1, 0, 0]];
        let rows = [1, 2, 9, 1 << 40, (1 << 33) - 1, 10];
        marks.iter().zip(rows).map(|(marks, row)| sample(marks, row)).collect()
    }

    /// The samples in a file.
    fn mapped(samples: &[Sample]) -> Samples {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = file::SamplesWriter::new(folder.path()).unwrap();
        samples.iter().for_each(|sample| writer.push(sample, None).unwrap());
        writer.finish(b"{}").unwrap().1
    }

    #[test]
    fn what_is_stored_comes_back() {
        let owned = samples();
        for stored in [owned.iter().cloned().collect(), mapped(&owned)] {
            assert_eq!(stored.len(), owned.len());
            for (view, sample) in stored.iter().zip(&owned) {
                assert_eq!(view.to_sample(), *sample);
                assert_eq!((view.len(), view.is_empty()), (sample.len(), sample.is_empty()));
                assert_eq!(view.supervised_tokens(), sample.supervised_tokens());
                let last = sample.supervised.iter().rposition(|s| *s).unwrap_or(0);
                assert_eq!(view.inputs(), &sample.ids[..last]);
            }
            assert_eq!(stored.sample(0).supervised().collect::<Vec<_>>(), [1..3, 4..5]);
        }
    }

    #[test]
    fn what_a_row_says_of_a_sample_comes_back_and_groups_it() {
        let of = |side, weight, margin| Some(Judgement { side, weight, margin });
        let judgements = [
            of(Side::Chosen, 1.0, 0.5),
            of(Side::Rejected, 1.0, 0.0),
            of(Side::Rejected, 1.0, -0.0),
            of(Side::Desirable, 2.5, 0.0),
            None,
            of(Side::Undesirable, 1e-7, 0.0),
        ];
        let owned = samples();
        let mut builder = SamplesBuilder::default();
        let folder = tempfile::tempdir().unwrap();
        let mut writer = file::SamplesWriter::new(folder.path()).unwrap();
        for (sample, judgement) in owned.iter().zip(judgements) {
            builder.push(sample, judgement);
            writer.push(sample, judgement).unwrap();
        }
        let built = builder.finish();
        let plain: Samples = owned.iter().cloned().collect();
        assert_ne!(built.fingerprint(), plain.fingerprint());
        for stored in [built, writer.finish(b"{}").unwrap().1] {
            assert_eq!(stored.iter().map(SampleRef::judgement).collect::<Vec<_>>(), judgements);
            for (view, sample) in stored.iter().zip(&owned) {
                assert_eq!(view.to_sample(), *sample);
            }
            let groups = stored.groups();
            let ranges: Vec<_> = (0..groups.len()).map(|i| groups.range(i)).collect();
            assert_eq!(ranges, [0..3, 3..4, 4..5, 5..6]);
        }
        assert_eq!(plain.groups().len(), plain.len());
        assert_eq!(plain.groups().range(2), 2..3);
    }

    #[test]
    fn mapped_samples_equal_those_in_memory() {
        let owned = samples();
        for len in 0..=owned.len() {
            let expected: Samples = owned.iter().take(len).cloned().collect();
            let stored = mapped(&owned[..len]);
            assert_eq!(stored, expected);
            assert_eq!(stored.fingerprint(), expected.fingerprint());
        }
    }

    #[test]
    fn a_fingerprint_tells_ids_targets_and_lines_apart() {
        let owned = samples();
        let of = |samples: &[Sample]| samples.iter().cloned().collect::<Samples>().fingerprint();
        let mut seen = vec![of(&owned), of(&owned[1..])];
        let changes: [fn(&mut Sample); 3] = [|s| s.ids[1] += 1, |s| s.supervised[3] = true, |s| s.row += 1];
        for change in changes {
            let mut changed = owned.clone();
            change(&mut changed[0]);
            seen.push(of(&changed));
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 5);
    }

    #[test]
    fn a_token_takes_little_more_than_its_four_bytes() {
        // Rows like those of E2E: 92 tokens, one reply.
        let sample = |row| Sample {
            ids: vec![7; 92],
            supervised: (0..92).map(|i| (60..90).contains(&i)).collect(),
            row,
        };
        let stored: Samples = (1..=1000).map(sample).collect();
        let bytes = stored.bytes() as f64 / 92_000.0;
        assert!(bytes < 4.35, "{bytes} bytes a token");
    }
}
