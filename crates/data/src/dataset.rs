//! A file of rows, tokenised and masked: what a run trains on.
//!
//! Rows are read in file order and tokenised in parallel, a block at a time; samples and the first error are the same
//! for any number of threads.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Key, Stamp};
use crate::error::{DataError, RowProblem};
use crate::format::{Row, Shape};
use crate::jsonl::{self, Line, LineError, Lines};
use crate::mask::{Masker, prompt_and_reply};
use crate::sample::{Sample, TrainOn};
use crate::samples::{Samples, SamplesBuilder};
use crate::tokenizer::Tokenizer;

/// Rows tokenised together: enough to keep the cores busy, few enough that the text read ahead is small.
const BLOCK_ROWS: usize = 1024;
/// A block ends early when its lines are long.
const BLOCK_BYTES: usize = 32 << 20;

/// How a dataset is turned into samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Samples are cut after so many tokens.
    pub max_seq_len: usize,
    /// Which tokens are trained.
    pub train_on: TrainOn,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_seq_len: 2048, train_on: TrainOn::Replies }
    }
}

/// What became of a file's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The shape of the rows.
    pub shape: Shape,
    /// Rows in the file.
    pub rows: usize,
    /// Samples kept.
    pub samples: usize,
    /// Samples kept that were cut to the longest length.
    pub truncated: usize,
    /// Rows dropped since the cut left them no trained token.
    pub dropped: usize,
    /// Tokens of the samples kept.
    pub tokens: usize,
    /// Trained tokens of the samples kept.
    pub supervised_tokens: usize,
    /// Tokens of the longest sample kept.
    pub longest: usize,
}

/// The samples of a file, in file order.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The samples, each with at least one trained token.
    pub samples: Samples,
    /// What became of the rows.
    pub report: Report,
}

impl Dataset {
    /// Reads, tokenises and masks a JSONL file, and keeps its samples in memory.
    ///
    /// # Errors
    /// When the file can't be read, has no rows, has a row that is not what its shape wants, or has no row left with
    /// anything to train on.
    pub fn load(path: impl AsRef<Path>, tokenizer: &Tokenizer, options: Options) -> Result<Self, DataError> {
        let mut samples = SamplesBuilder::default();
        let keep = |sample: &Sample| {
            samples.push(sample);
            Ok(())
        };
        let report = tokenise(path.as_ref(), tokenizer, options, keep, &mut |_| ())?;
        Ok(Self { samples: samples.finish(), report })
    }

    /// As [`Dataset::load`], but a file that is worth it is tokenised into the cache, or found there; memory does not grow
    /// with it. `on_row` is told how many rows are tokenised.
    ///
    /// # Errors
    /// As [`Dataset::load`], and when the cache cannot be written or the file changes meanwhile.
    pub fn load_cached(
        path: impl AsRef<Path>,
        tokenizer: &Tokenizer,
        options: Options,
        cache: &Cache,
        on_row: &mut dyn FnMut(usize),
    ) -> Result<Self, DataError> {
        let path = path.as_ref();
        if !cache.is_worthwhile(path)? {
            return Self::load(path, tokenizer, options);
        }
        let stamp = Stamp::of(path).map_err(|source| DataError::Io { path: path.to_owned(), source })?;
        let mut key = Key::new(tokenizer, &options)?;
        key.add("source", &cache.content_hash(path)?);
        if let Some((samples, report)) = cache.open(&key) {
            return Ok(Self { samples, report });
        }
        let mut writer = cache.create()?;
        let keep = |sample: &Sample| writer.push(sample).map_err(cache.error());
        let report = tokenise(path, tokenizer, options, keep, on_row)?;
        stamp.check(path)?;
        Ok(Self { samples: cache.insert(&key, writer, &report)?, report })
    }
}

/// Reads, tokenises and masks a file, hands the samples to `keep` in file order, and tells `on_row` how many rows are
/// done.
fn tokenise(
    path: &Path,
    tokenizer: &Tokenizer,
    options: Options,
    mut keep: impl FnMut(&Sample) -> Result<(), DataError>,
    on_row: &mut dyn FnMut(usize),
) -> Result<Report, DataError> {
    let template = tokenizer.compile_chat_template()?;
    let masker = Masker::new(tokenizer, template.as_ref(), options.train_on);

    let mut needed: Option<usize> = None;
    let (mut rows, mut samples, mut truncated, mut dropped) = (0, 0, 0, 0);
    let (mut tokens, mut supervised_tokens, mut longest) = (0, 0, 0);
    let shape = read_rows(
        path,
        |row, line| masker.sample(&row.into_document(template.is_some()), line),
        |mut sample| {
            rows += 1;
            on_row(rows);
            let first = sample.supervised.iter().position(|s| *s);
            needed = needed.into_iter().chain(first.map(|i| i + 1)).min();
            let cut = sample.truncate(options.max_seq_len);
            let supervised = sample.supervised_tokens();
            if supervised == 0 {
                dropped += 1;
                return Ok(());
            }
            samples += 1;
            truncated += usize::from(cut);
            tokens += sample.len();
            supervised_tokens += supervised;
            longest = longest.max(sample.len());
            keep(&sample)
        },
    )?;
    if samples == 0 {
        let path: PathBuf = path.to_owned();
        return Err(DataError::AllDropped { path, rows, max_seq_len: options.max_seq_len, needed });
    }
    Ok(Report { shape, rows, samples, truncated, dropped, tokens, supervised_tokens, longest })
}

/// A row to generate from, and what should come out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationRow {
    /// The prompt as text: the conversation up to its last reply, with the template's generation prompt.
    pub prompt: String,
    /// The prompt's token ids.
    pub prompt_ids: Vec<u32>,
    /// The reply that the row has.
    pub reference: String,
    /// The line of the file, counted from 1.
    pub row: usize,
}

/// Reads a JSONL file as prompts and the replies they should get.
///
/// # Errors
/// As [`Dataset::load`], and for rows that have no prompt.
pub fn generation_rows(
    path: impl AsRef<Path>,
    tokenizer: &Tokenizer,
) -> Result<Vec<GenerationRow>, DataError> {
    let template = tokenizer.compile_chat_template()?;
    let mut rows = Vec::new();
    read_rows(
        path.as_ref(),
        |row, line| {
            let document = row.into_document(template.is_some());
            match prompt_and_reply(tokenizer, template.as_ref(), &document)? {
                Some((prompt, prompt_ids, reference)) => {
                    Ok(GenerationRow { prompt, prompt_ids, reference, row: line })
                }
                None => Err(RowProblem::NoPrompt { shape: Shape::Text }),
            }
        },
        |row| {
            rows.push(row);
            Ok(())
        },
    )?;
    Ok(rows)
}

/// Reads a file's rows, does `work` on them in parallel, and hands the results to `take` in file order.
fn read_rows<T: Send>(
    path: &Path,
    work: impl Fn(Row, usize) -> Result<T, RowProblem> + Sync,
    mut take: impl FnMut(T) -> Result<(), DataError>,
) -> Result<Shape, DataError> {
    let io = |source| DataError::Io { path: path.to_owned(), source };
    let wrong = |line, problem| DataError::Row { path: path.to_owned(), line, problem };
    let mut lines = Lines::new(BufReader::new(File::open(path).map_err(io)?));
    let mut shape = None;
    loop {
        let mut block: Vec<Line> = Vec::new();
        let mut bytes = 0;
        let mut stopped = None;
        while block.len() < BLOCK_ROWS && bytes < BLOCK_BYTES {
            match lines.next() {
                Some(Ok(line)) => {
                    bytes += line.bytes.len();
                    block.push(line);
                }
                Some(Err(error)) => {
                    stopped = Some(error);
                    break;
                }
                None => break,
            }
        }
        if let (None, Some(first)) = (shape, block.first()) {
            let recognised = jsonl::fields(&first.bytes).and_then(|fields| Shape::recognise(&fields));
            shape = Some(recognised.map_err(|problem| wrong(first.number, problem))?);
        }
        let full = block.len() == BLOCK_ROWS || bytes >= BLOCK_BYTES;
        if let Some(shape) = shape {
            let done: Vec<(usize, Result<T, RowProblem>)> = block
                .into_par_iter()
                .map(|Line { number, bytes }| {
                    let row = jsonl::fields(&bytes).and_then(|fields| shape.parse(fields));
                    (number, row.and_then(|row| work(row, number)))
                })
                .collect();
            // The first bad row of the file is the one reported, whichever thread met one first.
            for (line, result) in done {
                take(result.map_err(|problem| wrong(line, problem))?)?;
            }
        }
        match stopped {
            Some(LineError::Io(source)) => return Err(io(source)),
            Some(LineError::Line(line, problem)) => return Err(wrong(line, problem)),
            None if full => {}
            None => return shape.ok_or_else(|| DataError::NoRows { path: path.to_owned() }),
        }
    }
}
