//! Rows, tokenised and masked: what a run trains on.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Key, Stamp};
use crate::choices::Choices;
use crate::error::{DataError, RowProblem};
use crate::format::{Document, Purpose, Row, Shape};
use crate::limits::ModelLimits;
use crate::mask::{Masker, encode_prompt, prompt_and_reply};
use crate::notes::{FirstAsText, Notes, RowNotes};
use crate::sample::{Judgement, Sample, TrainOn};
use crate::samples::{Samples, SamplesBuilder};
use crate::source::rows::Read;
use crate::source::{Origin, Source, files, kind, rows};
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
    /// What the rows are for.
    pub purpose: Purpose,
    /// Rows beyond these limits are bad rows. Without, whoever computes with the samples has to check them.
    pub limits: ModelLimits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_seq_len: 2048,
            overlong: Overlong::default(),
            train_on: TrainOn::Replies,
            purpose: Purpose::Replies,
            limits: ModelLimits::default(),
        }
    }
}

/// What became of the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The shapes of the rows.
    pub shapes: Vec<Shape>,
    /// Rows taken, bad ones not counted; one that is taken twice counts twice.
    pub rows: usize,
    /// Bad rows that were skipped.
    pub skipped: usize,
    /// Samples kept: one of each row, of a preference one for each reply.
    pub samples: usize,
    /// Rows kept of which a sample was cut to the longest length.
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
    /// Whether samples are texts that are scored as a whole: each has a label behind its tokens, which the counts of tokens
    /// leave out, and which is the one thing that is trained of it.
    #[serde(default)]
    pub is_scored: bool,
    /// What was done to the rows; counts are of rows taken.
    pub notes: Notes,
}

/// Samples in the order of their rows.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The samples, each with at least one trained token.
    pub samples: Samples,
    /// What became of the rows.
    pub report: Report,
    /// Where the rows came from.
    pub origin: Origin,
}

impl Dataset {
    /// Reads, tokenises and masks rows, and keeps their samples in memory.
    ///
    /// # Errors
    /// When a file can't be read, there are no rows, one is not what its shape wants, or none is left with anything to
    /// train on.
    pub fn load(
        source: impl Into<Source>,
        tokenizer: &Tokenizer,
        options: Options,
    ) -> Result<Self, DataError> {
        let mut samples = SamplesBuilder::default();
        let keep = |sample: &Sample, judgement| {
            samples.push(sample, judgement);
            Ok(())
        };
        let (report, origin) = tokenise(&source.into(), tokenizer, options, keep, &mut |_| ())?;
        Ok(Self { samples: samples.finish(), report, origin })
    }

    /// As [`Dataset::load`], but what is worth it is tokenised into the cache, or found there; memory does not grow with
    /// it. `on_row` is told how many rows are tokenised.
    ///
    /// # Errors
    /// As [`Dataset::load`], and when the cache cannot be written or a file changes meanwhile.
    pub fn load_cached(
        source: impl Into<Source>,
        tokenizer: &Tokenizer,
        options: Options,
        cache: &Cache,
        on_row: &mut dyn FnMut(usize),
    ) -> Result<Self, DataError> {
        let source = source.into();
        let parts = files::of(&source)?;
        let files = parts.concat();
        if !cache.is_worthwhile(&files)? {
            return Self::load(source, tokenizer, options);
        }
        let stamps = files.iter().map(|path| Stamp::of(path)).collect::<Result<Vec<_>, _>>()?;
        let key = key(&source, &parts, tokenizer, options, cache)?;
        if let Some((samples, (report, origin))) = cache.open::<(Report, Origin)>(&key) {
            return Ok(Self { samples, report, origin: origin.in_files(files) });
        }
        let mut writer = cache.create()?;
        let keep = |sample: &Sample, judgement| writer.push(sample, judgement).map_err(cache.error());
        let (report, origin) = tokenise(&source, tokenizer, options, keep, on_row)?;
        stamps.iter().try_for_each(Stamp::check)?;
        Ok(Self { samples: cache.insert(&key, writer, &(&report, &origin))?, report, origin })
    }
}

/// The key of a source's samples: the content of its files counts, not their names.
fn key(
    source: &Source,
    parts: &[Vec<PathBuf>],
    tokenizer: &Tokenizer,
    options: Options,
    cache: &Cache,
) -> Result<Key, DataError> {
    let mut key = Key::new(tokenizer, &options)?;
    key.add("choice", format!("{:?}", source.without_names()).as_bytes());
    for (part, files) in source.parts.iter().zip(parts) {
        key.add("weight", &part.weight.to_le_bytes());
        for path in files {
            key.add("kind", format!("{:?}", kind::open(path)?.0).as_bytes());
            key.add("content", &cache.content_hash(path)?);
            if source.skip_bad_rows {
                // What is wrong with rows is told with the file's name.
                key.add("name", path.as_os_str().as_encoded_bytes());
            }
        }
    }
    Ok(key)
}

/// What makes samples of rows.
struct Tokenising<'a> {
    source: &'a Source,
    tokenizer: &'a Tokenizer,
    options: Options,
    has_template: bool,
    masker: Masker<'a>,
    /// The first row that is trained as text.
    as_text: FirstAsText,
}

impl Tokenising<'_> {
    /// Whether texts are scored as a whole, with a label behind them that is none of their tokens.
    fn is_scored(&self) -> bool {
        self.source.classes.is_some() || self.options.purpose == Purpose::Scores
    }

    /// Tokens of the longest sample, its label among them.
    fn longest_sample(&self) -> usize {
        self.options.max_seq_len.saturating_add(usize::from(self.is_scored()))
    }

    /// Cuts a sample to the longest length; whether there was anything to cut.
    fn cut(&self, sample: &mut Sample) -> bool {
        match self.is_scored() {
            true => sample.truncate_text(self.options.max_seq_len),
            false => sample.truncate(self.options.max_seq_len),
        }
    }

    /// The label that the samples of a row are given, if they are scored: its own, or that of a reward.
    fn label(&self, row: &Row) -> Result<Option<u32>, RowProblem> {
        match (row, &self.source.classes) {
            (Row::Labelled(row), Some(classes)) => classes.number(&row.label).map(Some),
            _ => Ok((self.options.purpose == Purpose::Scores).then_some(0)),
        }
    }

    /// Tokens of a sample, without a label behind them.
    fn tokens(&self, sample: &Sample) -> usize {
        sample.len() - usize::from(self.is_scored())
    }

    /// The samples of a row, with what it says of them.
    fn samples(&self, row: Row, number: usize) -> Result<(Vec<Judged>, RowNotes), RowProblem> {
        let (label, is_labelled) = (self.label(&row)?, matches!(row, Row::Labelled(_)));
        let (masker, has_template) = (&self.masker, self.has_template);
        let (mut samples, mut notes) = (Vec::with_capacity(1), RowNotes::default());
        for (document, judgement) in row.into_documents(self.options.purpose, has_template)? {
            let sample = match label {
                Some(label) if is_labelled => {
                    Sample::scored(masker.whole(&document, &mut notes)?, label, number)
                }
                Some(label) => Sample::scored(masker.replied(&document, &mut notes)?, label, number),
                None => masker.sample_noted(&document, number, &mut notes)?,
            };
            match &document {
                Document::Completion(row) if has_template && !masker.was_rendered(&row.prompt) => {
                    self.as_text.offer(number, row);
                }
                Document::Completion(_) | Document::Chat(_) | Document::Text(_) => {}
            }
            self.check(&sample)?;
            samples.push((sample, judgement));
        }
        Ok((samples, notes))
    }

    /// Refuses a sample that is too long, or that the model cannot be given.
    fn check(&self, sample: &Sample) -> Result<(), RowProblem> {
        let Options { max_seq_len, overlong, limits, .. } = self.options;
        let tokens = self.tokens(sample);
        match overlong {
            Overlong::Error if tokens > max_seq_len => Err(RowProblem::Overlong { tokens, max_seq_len }),
            // It is left out anyhow.
            Overlong::Drop if tokens > max_seq_len => Ok(()),
            Overlong::Error | Overlong::Drop | Overlong::TruncateRight => {
                let kept = &sample.ids[..tokens.min(max_seq_len)];
                limits.check(kept, self.tokenizer).map_err(RowProblem::BeyondModel)
            }
        }
    }
}

/// A sample, and what its row says of it.
type Judged = (Sample, Option<Judgement>);

/// Reads, tokenises and masks rows, hands the samples to `keep` in order, and tells `on_row` how many rows are done.
fn tokenise(
    source: &Source,
    tokenizer: &Tokenizer,
    options: Options,
    mut keep: impl FnMut(&Sample, Option<Judgement>) -> Result<(), DataError>,
    on_row: &mut dyn FnMut(usize),
) -> Result<(Report, Origin), DataError> {
    let Options { max_seq_len, overlong, train_on, .. } = options;
    let template = tokenizer.compile_chat_template()?;
    let (masker, has_template) = (Masker::new(tokenizer, template.as_ref(), train_on), template.is_some());
    let as_text = FirstAsText::new();
    let rows = Tokenising { source, tokenizer, options, has_template, masker, as_text };
    let longest_sample = rows.longest_sample();

    let mut needed: Option<usize> = None;
    let mut report = Report { is_scored: rows.is_scored(), ..Report::default() };
    let origin = rows::read(
        source,
        |Read { row, number, .. }| rows.samples(row, number),
        |(mut samples, notes)| {
            report.rows += 1;
            report.notes.add(&notes);
            on_row(report.rows);
            let longest = samples.iter().map(|(sample, _)| sample.len()).max().unwrap_or(0);
            let first = |sample: &Sample| sample.supervised.iter().position(|s| *s);
            // A row with several samples is kept only if each of them has a trained token.
            let firsts = samples.iter().map(|(sample, _)| first(sample)).collect::<Option<Vec<_>>>();
            if overlong == Overlong::Drop && longest > longest_sample {
                needed = needed.into_iter().chain(firsts.map(|_| longest)).min();
                report.overlong += 1;
                return Ok(());
            }
            needed = needed
                .into_iter()
                .chain(firsts.and_then(|firsts| firsts.into_iter().max()).map(|i| i + 1))
                .min();
            let mut cut = false;
            for (sample, _) in &mut samples {
                cut |= rows.cut(sample);
            }
            if samples.iter().any(|(sample, _)| sample.supervised_tokens() == 0) {
                report.dropped += 1;
                return Ok(());
            }
            report.truncated += usize::from(cut);
            samples.iter().try_for_each(|(sample, judgement)| {
                report.samples += 1;
                report.tokens += rows.tokens(sample);
                report.supervised_tokens += sample.supervised_tokens();
                report.longest = report.longest.max(rows.tokens(sample));
                keep(sample, *judgement)
            })
        },
    )?;
    if report.samples == 0 {
        return Err(DataError::AllDropped { data: source.name(), rows: report.rows, max_seq_len, needed });
    }
    report.shapes = origin.shapes.clone();
    report.skipped = origin.skipped;
    report.notes.passed_over.extend(origin.passed_over.clone());
    report.notes.twice = origin.twice.clone();
    for (name, _) in &source.mapping.roles {
        report.notes.roles.entry(name.clone()).or_default();
    }
    report.notes.as_text = rows.as_text.shown(template.as_ref());
    Ok((report, origin))
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
    /// The options, where the source has a column of them.
    pub choices: Option<Choices>,
}

impl AsRef<GenerationRow> for GenerationRow {
    fn as_ref(&self) -> &GenerationRow {
        self
    }
}

/// Reads rows as prompts and the replies they should get.
///
/// # Errors
/// As [`Dataset::load`], and for rows that have no prompt, or not the options that the source asks for.
pub fn generation_rows(
    source: impl Into<Source>,
    tokenizer: &Tokenizer,
) -> Result<Vec<GenerationRow>, DataError> {
    let (source, template) = (source.into(), tokenizer.compile_chat_template()?);
    let template = template.as_ref();
    let mut prompts = Vec::new();
    rows::read(
        &source,
        |Read { row, number, choices }| {
            let document = row.into_document(template.is_some())?;
            let Some((prompt, prompt_ids, reference)) = prompt_and_reply(tokenizer, template, &document)?
            else {
                return Err(RowProblem::NoPrompt { shape: Shape::Text });
            };
            let encode =
                |text: &str| encode_prompt(tokenizer, template, &document, &format!("{prompt}{text}"));
            let read = |column: &String| Choices::read(column, choices, &reference, &prompt_ids, encode);
            let choices = source.choices.as_ref().map(read).transpose()?;
            Ok(GenerationRow { prompt, prompt_ids, reference, row: number, choices })
        },
        |prompt| {
            prompts.push(prompt);
            Ok(())
        },
    )?;
    Ok(prompts)
}
