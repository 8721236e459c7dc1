//! Text to token ids: what will be trained on, token by token. Knows no tensors.
//!
//! The way of a row: a record of a file ([`source`]) is recognised as one of the dataset shapes ([`format`](mod@format)),
//! rendered by the model's chat template ([`template`]), tokenised ([`tokenizer`]), and marked with the tokens that
//! are trained ([`mask`]); that is a [`Sample`]. [`Dataset::load`] does all of it, and keeps the [`samples`] close
//! together, in memory or mapped from a [`cache`]. [`order`] says which make up which optimizer step, and [`batch`] makes
//! of them the token stream the model computes on, where what they share is there once.
//!
//! ```
//! use std::path::Path;
//!
//! use lorafit_data::{Dataset, Options, Tokenizer};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tokenizer = Tokenizer::from_folder("../../fixtures/models/chat_bpe")?;
//! let dataset = Dataset::load(Path::new("../../demo/train.jsonl"), &tokenizer, Options::default())?;
//! let sample = dataset.samples.sample(0).to_sample();
//! let marked = sample.ids.iter().zip(&sample.supervised);
//! let trained: Vec<u32> = marked.filter(|(_, trained)| **trained).map(|(id, _)| *id).collect();
//! assert!(tokenizer.decode(&trained, true)?.starts_with("{\"action\""));
//! # Ok(())
//! # }
//! ```
//!
//! Everything read here is hostile until proven otherwise: every failure is a typed error that names file, line and
//! reason, and has a [`hint`](DataError::hint) for what to do next.

pub mod batch;
pub mod cache;
mod choices;
mod classes;
mod contained;
pub mod dataset;
pub mod error;
pub mod format;
pub mod go_template;
mod json;
mod limits;
mod lost;
pub mod mask;
pub mod notes;
pub mod order;
mod parts;
mod prompts;
mod reply;
pub mod sample;
pub mod samples;
pub mod source;
pub mod statistics;
pub mod template;
pub mod tokenizer;

pub use batch::{Batch, Owner, Owners, Segment, Target, cut, cut_groups, divide};
pub use cache::Cache;
pub use choices::{Choice, Choices};
pub use classes::{MOST_LABELS, labels, reply_ids, text_ids};
pub use dataset::{Dataset, GenerationRow, Options, Overlong, Report, generation_rows};
pub use error::{DataError, RowProblem};
pub use format::{Classes, Conversation, Document, Labelled, Mapping, Message, Purpose, Role, Row, Shape};
pub use go_template::{GoTemplate, NoGoTemplate};
pub use json::value as read_json;
pub use limits::{BeyondModel, ModelLimits};
pub use notes::{AsText, Notes};
pub use order::{Order, Position, Step, Steps};
pub use prompts::{PromptRow, Said, prompt_rows};
pub use sample::{Judgement, Sample, Side, TrainOn};
pub use samples::{Groups, SampleRef, Samples, SamplesBuilder};
pub use source::{HeldOut, Origin, Part, Source, Subset};
pub use statistics::Statistics;
pub use template::{Builtin, ChatTemplate, SpecialTokens, TemplateError};
pub use tokenizer::{
    DecodeStream, Encoding, GgufTokenizer, NewToken, NewTokenError, Tokenizer, TokenizerError,
};
