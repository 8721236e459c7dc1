//! Rows, tokenised and masked: what a run trains on.

use serde::Serialize;

use crate::error::{DataError, RowProblem};
use crate::format::Shape;
use crate::mask::{Masker, prompt_and_reply};
use crate::sample::{Sample, TrainOn};
use crate::source::{Origin, Source, rows};
use crate::tokenizer::Tokenizer;

/// What becomes of rows that are longer than the longest sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlong {
    /// They are left out.
    Drop,
    /// Their end is cut off.
    #[default]
    TruncateRight,
    /// They are an error.
    Error,
}

/// How a dataset is turned into samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The most tokens a sample has.
    pub max_seq_len: usize,
    /// What becomes of longer rows.
    pub overlong: Overlong,
    /// Which tokens are trained.
    pub train_on: TrainOn,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_seq_len: 2048, overlong: Overlong::default(), train_on: TrainOn::Replies }
    }
}

/// What became of the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The shapes of the rows.
    pub shapes: Vec<Shape>,
    /// Rows taken, bad ones not counted; one that is taken twice counts twice.
    pub rows: usize,
    /// Bad rows that were skipped.
    pub skipped: usize,
    /// Samples kept.
    pub samples: usize,
    /// Samples kept that were cut to the longest length.
    pub truncated: usize,
    /// Rows dropped since they were longer than the longest sample.
    pub overlong: usize,
    /// Rows dropped since they had no trained token, or the cut left them none.
    pub dropped: usize,
    /// Tokens of the samples kept.
    pub tokens: usize,
    /// Trained tokens of the samples kept.
    pub supervised_tokens: usize,
    /// Tokens of the longest sample kept.
    pub longest: usize,
}

/// Samples in the order of their rows.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The samples, each with at least one trained token.
    pub samples: Vec<Sample>,
    /// What became of the rows.
    pub report: Report,
    /// Where the rows came from.
    pub origin: Origin,
}

impl Dataset {
    /// Reads, tokenises and masks rows.
    ///
    /// # Errors
    /// When a file can't be read, there are no rows, one is not what its shape wants, or none is left with anything to
    /// train on.
    pub fn load(
        source: impl Into<Source>,
        tokenizer: &Tokenizer,
        options: Options,
    ) -> Result<Self, DataError> {
        let source = source.into();
        let Options { max_seq_len, overlong, train_on } = options;
        let template = tokenizer.compile_chat_template()?;
        let masker = Masker::new(tokenizer, template.as_ref(), train_on);

        let mut samples = Vec::new();
        let mut needed: Option<usize> = None;
        let mut report = Report::default();
        let origin = rows::read(
            &source,
            |row, number| {
                let sample = masker.sample(&row.into_document(template.is_some()), number)?;
                match overlong {
                    Overlong::Error if sample.len() > max_seq_len => {
                        Err(RowProblem::Overlong { tokens: sample.len(), max_seq_len })
                    }
                    Overlong::Error | Overlong::Drop | Overlong::TruncateRight => Ok(sample),
                }
            },
            |mut sample| {
                report.rows += 1;
                let first = sample.supervised.iter().position(|s| *s);
                if overlong == Overlong::Drop && sample.len() > max_seq_len {
                    needed = needed.into_iter().chain(first.map(|_| sample.len())).min();
                    report.overlong += 1;
                    return;
                }
                needed = needed.into_iter().chain(first.map(|i| i + 1)).min();
                let cut = sample.truncate(max_seq_len);
                if sample.supervised_tokens() == 0 {
                    report.dropped += 1;
                } else {
                    report.truncated += usize::from(cut);
                    sample.ids.shrink_to_fit();
                    sample.supervised.shrink_to_fit();
                    samples.push(sample);
                }
            },
        )?;
        if samples.is_empty() {
            let Report { rows, .. } = report;
            return Err(DataError::AllDropped { data: source.name(), rows, max_seq_len, needed });
        }
        report.shapes = origin.shapes.clone();
        report.skipped = origin.skipped;
        report.samples = samples.len();
        report.tokens = samples.iter().map(Sample::len).sum();
        report.supervised_tokens = samples.iter().map(Sample::supervised_tokens).sum();
        report.longest = samples.iter().map(Sample::len).max().unwrap_or(0);
        Ok(Self { samples, report, origin })
    }
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
    /// The row's number, as in [`Sample::row`].
    pub row: usize,
}

/// Reads rows as prompts and the replies they should get.
///
/// # Errors
/// As [`Dataset::load`], and for rows that have no prompt.
pub fn generation_rows(
    source: impl Into<Source>,
    tokenizer: &Tokenizer,
) -> Result<Vec<GenerationRow>, DataError> {
    let template = tokenizer.compile_chat_template()?;
    let mut prompts = Vec::new();
    rows::read(
        &source.into(),
        |row, number| {
            let document = row.into_document(template.is_some());
            match prompt_and_reply(tokenizer, template.as_ref(), &document)? {
                Some((prompt, prompt_ids, reference)) => {
                    Ok(GenerationRow { prompt, prompt_ids, reference, row: number })
                }
                None => Err(RowProblem::NoPrompt { shape: Shape::Text }),
            }
        },
        |prompt| prompts.push(prompt),
    )?;
    Ok(prompts)
}
