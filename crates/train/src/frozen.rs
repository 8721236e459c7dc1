//! What the blocks below the lowest that is trained make of the rows of a run: computed once, before the first step, and read from a
//! file by every pass after that.
//!
//! A run whose lower blocks are frozen computes them anew for every row of every epoch and every evaluation, with the same result.
//! Here each distinct beginning of a row is computed once. Blocks above read the same values in the first epoch as in the last, and
//! in a run that is resumed.
//!
//! The file is one of the cache ([`Cache::open_large`]); numbers have the byte order of the machine:
//!
//! ```text
//! outputs, [rows, hidden] | first extent and extents of each sample | first row and rows of each extent | rows, extents
//! ```
//!
//! All but the outputs are u64. An extent is a part of a sample; samples that begin alike share the rows of theirs. What finds
//! them stays in the file, so that memory does not grow with the data.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use half::bf16;
use half::slice::HalfFloatSliceExt as _;
use lorafit_data::Samples;
use lorafit_data::cache::{Cache, Key, LargeWriter};
use lorafit_kernels::ops::attention::Segment;
use lorafit_model::adapter::TargetError;
use lorafit_model::{ActivationPolicy, BufferShape, Buffers, Config, Model, Stream, Trainable};

use crate::stream::{Cut, Micro, cut};

/// Rows that are read at once, so that memory does not grow with micro-batches.
const ROWS_AT_ONCE: u64 = 64;

/// The blocks below the lowest that backward reaches where this is trained.
///
/// # Errors
/// A selection of layers or modules that the model does not have.
pub fn frozen_blocks(config: &Config, trainable: Trainable<'_>) -> Result<usize, TargetError> {
    let shape = BufferShape::for_training(config, trainable, 1, 1, ActivationPolicy::default())?;
    Ok(config.num_hidden_layers - shape.trained_blocks())
}

/// How the outputs of frozen blocks are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrozenDtype {
    /// As they were computed.
    F32,
    /// Rounded to 16 bits, as products in bf16 round what they read.
    Bf16,
}

impl FrozenDtype {
    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            FrozenDtype::F32 => 4,
            FrozenDtype::Bf16 => 2,
        }
    }

    /// `values` as they are kept.
    fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            FrozenDtype::F32 => values.iter().flat_map(|value| value.to_ne_bytes()).collect(),
            FrozenDtype::Bf16 => {
                values.iter().flat_map(|value| bf16::from_f32(*value).to_ne_bytes()).collect()
            }
        }
    }

    fn decode(self, bytes: &[u8], into: &mut [f32]) {
        match self {
            FrozenDtype::F32 => {
                let values = bytes.as_chunks::<4>().0.iter().map(|value| f32::from_ne_bytes(*value));
                into.iter_mut().zip(values).for_each(|(into, value)| *into = value);
            }
            FrozenDtype::Bf16 => {
                let values: Vec<bf16> =
                    bytes.as_chunks::<2>().0.iter().map(|value| bf16::from_ne_bytes(*value)).collect();
                values.convert_to_f32_slice(into);
            }
        }
    }
}

/// A cache in which the outputs of frozen blocks are kept, and of which base they are.
#[derive(Clone, Debug)]
pub struct FrozenCache {
    cache: Cache,
    /// All that decides the outputs for given samples, but for the blocks and how samples are cut.
    key: Key,
    dtype: FrozenDtype,
}

impl FrozenCache {
    /// Keeps outputs in `cache`. `base` has to have everything that decides their bits: the base and how it is computed with, the
    /// program.
    pub fn new(cache: Cache, base: &[(&str, String)], dtype: FrozenDtype) -> Self {
        let mut key = Key::of_parts("outputs of frozen blocks", base);
        key.add("dtype", format!("{dtype:?}").as_bytes());
        FrozenCache { cache, key, dtype }
    }

    /// Bytes that outputs for these samples take at most: what begins alike is kept once.
    pub fn most_bytes(samples: &Samples, config: &Config, dtype: FrozenDtype) -> u64 {
        let rows: usize = samples.iter().map(|sample| sample.inputs().len()).sum();
        (rows * config.hidden_size * dtype.bytes()) as u64
    }

    /// The outputs of the lowest `blocks` blocks for all samples: those that are kept, or else they are computed in `buffers`, by
    /// micro-batches that are cut like this. `None` if it is to stop: `on_progress`, which gets the samples that are done, says whether
    /// to go on.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub(crate) fn outputs(
        &self,
        below: (&Model, usize),
        samples: &Samples,
        how: Cut,
        buffers: &mut Buffers,
        on_progress: &mut dyn FnMut(usize) -> bool,
    ) -> io::Result<Option<FrozenOutputs>> {
        let (model, blocks) = below;
        let mut key = self.key.clone();
        key.add("blocks", &(blocks as u64).to_le_bytes());
        key.add("samples", &samples.fingerprint());
        // Products of other sizes add in another order.
        key.add("cut", format!("{how:?}").as_bytes());
        let (width, dtype) = (model.config().hidden_size, self.dtype);
        let of_file =
            |file, is_new| FrozenOutputs::of_file(file, (blocks, width, dtype), samples.len(), is_new);
        if let Some(found) = self.cache.open_large(&key).and_then(|file| of_file(file, false).ok()) {
            return Ok(Some(found));
        }
        let mut compute = || {
            let mut file = self.cache.create_large()?;
            match self.compute(below, (samples, how), buffers, &mut file, on_progress)? {
                true => of_file(self.cache.insert_large(&key, file)?, true).map(Some),
                false => Ok(None),
            }
        };
        compute()
    }

    /// Computes them into a file; whether it went on to the end.
    fn compute(
        &self,
        (model, blocks): (&Model, usize),
        (samples, how): (&Samples, Cut),
        buffers: &mut Buffers,
        file: &mut LargeWriter,
        on_progress: &mut dyn FnMut(usize) -> bool,
    ) -> io::Result<bool> {
        let all: Vec<usize> = (0..samples.len()).collect();
        let (mut rows, mut done) = (0, 0);
        let (mut of_samples, mut extents) = (vec![[0; 2]; samples.len()], Vec::new());
        for micro in cut(samples, &all, how) {
            if !on_progress(done) {
                return Ok(false);
            }
            let outputs = model.outputs_below(blocks, micro.stream(), buffers);
            file.write_all(&self.dtype.encode(&outputs))?;
            for (sample, segments) in micro.samples_with_segments() {
                let first = extents.len();
                let segments = segments.map(|at| micro.segments()[at]);
                extents.extend(segments.map(|segment| [rows + segment.start as u64, segment.len as u64]));
                extents[first..].reverse();
                of_samples[sample] = [first as u64, (extents.len() - first) as u64];
            }
            rows += micro.tokens() as u64;
            done += micro.samples();
        }
        on_progress(done);
        let counts = [rows, extents.len() as u64];
        for number in of_samples.as_flattened().iter().chain(extents.as_flattened()).chain(&counts) {
            file.write_all(&number.to_ne_bytes())?;
        }
        Ok(true)
    }
}

/// The outputs of frozen blocks for the rows of a run.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) training: FrozenOutputs,
    pub(crate) evaluation: Option<FrozenOutputs>,
}

impl Frozen {
    /// What went wrong, if outputs could not be read since this was asked for.
    pub(crate) fn take_failure(&self) -> Option<io::Error> {
        let sets = [Some(&self.training), self.evaluation.as_ref()];
        sets.into_iter().flatten().find_map(|outputs| held(&outputs.failure).take())
    }
}

/// Samples of a data set that are computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share<'a> {
    pub(crate) samples: &'a Samples,
    /// The places of those that are.
    pub(crate) indices: &'a [usize],
    /// What frozen blocks make of all of them, if that is kept.
    pub(crate) frozen: Option<&'a FrozenOutputs>,
}

/// The outputs of frozen blocks for the samples of a data set.
#[derive(Debug)]
pub(crate) struct FrozenOutputs {
    file: Mutex<File>,
    blocks: usize,
    width: usize,
    dtype: FrozenDtype,
    /// Of outputs.
    rows: u64,
    /// Whether they were computed, and not found.
    is_new: bool,
    /// Where the extents of samples are listed, and where those are, in the file.
    of_samples: u64,
    extents: u64,
    /// What went wrong where outputs could not be read.
    failure: Mutex<Option<io::Error>>,
}

impl FrozenOutputs {
    fn of_file(
        mut file: File,
        (blocks, width, dtype): (usize, usize, FrozenDtype),
        samples: usize,
        is_new: bool,
    ) -> io::Result<Self> {
        let end = file.seek(SeekFrom::End(-16))?;
        let [[rows, extents]] = pairs(&mut file, end, 1)?[..] else { unreachable!("one was asked for") };
        let of_samples = rows.checked_mul((width * dtype.bytes()) as u64);
        let of_samples = of_samples.and_then(|bytes| bytes.checked_add(Cache::LARGE_START));
        let extents_at = of_samples.and_then(|at| at.checked_add(16 * samples as u64));
        let end_of_extents = extents_at.and_then(|at| at.checked_add(extents.checked_mul(16)?));
        match (of_samples, extents_at, end_of_extents) {
            (Some(of_samples), Some(extents), Some(stop)) if stop == end => Ok(FrozenOutputs {
                file: Mutex::new(file),
                blocks,
                width,
                dtype,
                rows,
                is_new,
                of_samples,
                extents,
                failure: Mutex::new(None),
            }),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Their tokens, and whether they were computed, and not found.
    pub(crate) fn rows(&self) -> (u64, bool) {
        (self.rows, self.is_new)
    }

    /// Computes with the stream of a micro-batch of these samples, above the frozen blocks if their outputs are kept.
    pub(crate) fn above<R>(
        this: Option<&Self>,
        micro: &Micro,
        model: &Model,
        buffers: &mut Buffers,
        compute: impl FnOnce(Stream<'_>, &mut Buffers) -> R,
    ) -> R {
        let Some(this) = this else { return compute(micro.stream(), buffers) };
        if let Err(error) = this.read(micro, buffers) {
            // The run goes on without.
            *held(&this.failure) = Some(error);
            let mut rows = model.outputs_below(this.blocks, micro.stream(), buffers);
            let kept = this.dtype.encode(&rows);
            this.dtype.decode(&kept, &mut rows);
            buffers.put_rows(0, &rows);
        }
        compute(Stream { below: this.blocks, ..micro.stream() }, buffers)
    }

    /// Reads what is kept for a micro-batch into the buffers.
    fn read(&self, micro: &Micro, buffers: &mut Buffers) -> io::Result<()> {
        let mut is_read = vec![false; micro.segments().len()];
        for (sample, segments) in micro.samples_with_segments() {
            let missing: Vec<usize> = segments.take_while(|at| !is_read[*at]).collect();
            let Some(first) = missing.last() else { continue };
            // From the first segment that is missing to the end of the sample, the rows of which are in several places.
            let mut position = micro.positions()[micro.segments()[*first].start] as u64;
            let mut extents = self.extents_of(sample, position)?.into_iter();
            let mut extent: Range<u64> = 0..0;
            for at in missing.into_iter().rev() {
                is_read[at] = true;
                let Segment { start, len, .. } = micro.segments()[at];
                debug_assert_eq!(position, u64::from(micro.positions()[start]), "segments follow each other");
                position += len as u64;
                let mut row = start;
                while row < start + len {
                    if extent.is_empty() {
                        extent = extents.next().ok_or(io::ErrorKind::InvalidData)?;
                    }
                    let rows = (extent.end - extent.start).min((start + len - row) as u64).min(ROWS_AT_ONCE);
                    buffers.put_rows(row, &self.rows_from(extent.start, rows as usize)?);
                    extent.start += rows;
                    row += rows as usize;
                }
            }
        }
        Ok(())
    }

    /// The rows of the file that a sample has from `position` on.
    fn extents_of(&self, sample: usize, position: u64) -> io::Result<Vec<Range<u64>>> {
        let mut file = held(&self.file);
        let of_sample = pairs(&mut file, self.of_samples + 16 * sample as u64, 1)?;
        let [[first, count]] = of_sample[..] else { unreachable!("one was asked for") };
        let mut skipped = position;
        let extents = pairs(&mut file, self.extents + 16 * first, count)?.into_iter().map(|[first, rows]| {
            let skip = rows.min(skipped);
            skipped -= skip;
            first + skip..first + rows
        });
        Ok(extents.filter(|extent| !extent.is_empty()).collect())
    }

    /// So many rows from row `first` of the file on.
    fn rows_from(&self, first: u64, rows: usize) -> io::Result<Vec<f32>> {
        let mut values = vec![0.0; rows * self.width];
        let mut bytes = vec![0; values.len() * self.dtype.bytes()];
        let mut file = held(&self.file);
        let at = first * (self.width * self.dtype.bytes()) as u64;
        file.seek(SeekFrom::Start(Cache::LARGE_START + at))?;
        file.read_exact(&mut bytes)?;
        self.dtype.decode(&bytes, &mut values);
        Ok(values)
    }
}

/// What a lock holds: what a panic left there is as good as before.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// So many pairs of numbers from place `at` of a file on.
fn pairs(file: &mut File, at: u64, count: u64) -> io::Result<Vec<[u64; 2]>> {
    file.seek(SeekFrom::Start(at))?;
    let mut bytes =
        vec![0; usize::try_from(count).map_err(|_| io::ErrorKind::InvalidData)?.saturating_mul(16)];
    file.read_exact(&mut bytes)?;
    let numbers = bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_ne_bytes(*bytes));
    Ok(numbers.collect::<Vec<_>>().as_chunks::<2>().0.to_vec())
}
