//! The shapes a dataset row can have, one file each. A shape says by which keys it is recognised, what a row must
//! hold, and what the row becomes: a conversation for the model's chat template, or plain text.
//!
//! A new shape is a file here, a variant of [`Shape`] and one of [`Row`]; the compiler lists the rest.

mod chat;
mod completion;
mod instruction;
mod judged;
pub mod keys;
mod labelled;
mod mapping;
mod preference;
mod question;
mod sharegpt;
mod text;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::RowProblem;
use crate::json;
use crate::sample::{Judgement, Side};

pub use chat::{Conversation, Message, Role};
pub(crate) use chat::{TOOL_CALLS, json_size_bytes, with_arguments_read};
pub use completion::Completion;
pub use instruction::Instruction;
pub use judged::Judged;
pub use labelled::{Classes, Labelled};
pub use mapping::Mapping;
pub use preference::Preference;
pub use question::Question;

/// A row's fields.
pub type Fields = Map<String, Value>;

/// The shape of a dataset's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// `messages`: a conversation.
    Chat,
    /// `conversations`, as ShareGPT has them: a conversation with other names.
    ShareGpt,
    /// `instruction`, perhaps `input`, and `output`.
    Instruction,
    /// `prompt` and `completion`, texts or lists of messages.
    Completion,
    /// `text`, all of it trained.
    Text,
    /// A column that asks and one that answers, under one of many names.
    Question,
    /// `chosen` and `rejected` replies, perhaps with their `prompt`.
    Preference,
    /// A row of another shape with a `label` that says whether its reply is good.
    Judged,
}

impl Shape {
    /// Every shape, in the order in which they are tried.
    pub const ALL: [Self; 8] = [
        Self::Preference,
        Self::Judged,
        Self::Chat,
        Self::ShareGpt,
        Self::Instruction,
        Self::Completion,
        Self::Text,
        Self::Question,
    ];

    /// The fields a row must have.
    pub fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Chat => &["messages"],
            Self::ShareGpt => &["conversations"],
            Self::Instruction => &["instruction", "output"],
            Self::Completion => &["prompt", "completion"],
            Self::Text => &["text"],
            Self::Question => &["question", "answer"],
            Self::Preference => &["chosen", "rejected"],
            Self::Judged => &[judged::LABEL],
        }
    }

    /// The shape's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::ShareGpt => "sharegpt",
            Self::Instruction => "instruction",
            Self::Completion => "completion",
            Self::Text => "text",
            Self::Question => "question",
            Self::Preference => "preference",
            Self::Judged => "judged",
        }
    }

    /// Recognises the shape from a row's keys.
    ///
    /// # Errors
    /// When no shape has all of its fields there.
    pub fn recognise(fields: &Fields) -> Result<Self, RowProblem> {
        let fits = |s: &Self| match s {
            Self::Question => question::fits(fields),
            _ => s.fields().iter().all(|f| fields.contains_key(*f)),
        };
        // Keys are the file's: few and short ones are enough to recognise it by.
        let keys = || fields.keys().take(12).map(|k| k.chars().take(40).collect()).collect();
        Self::ALL.into_iter().find(fits).ok_or_else(|| {
            question::ambiguous(fields).unwrap_or_else(|| RowProblem::UnknownShape { keys: keys() })
        })
    }

    /// Reads a row of this shape.
    ///
    /// # Errors
    /// When a field is missing or not what it should be, or one is there that would have to change what is trained
    /// ([`keys`]).
    pub fn parse(self, fields: Fields, mapping: &Mapping) -> Result<Row, RowProblem> {
        self.read(fields, mapping, &mut Vec::new())
    }

    /// As [`Self::parse`]; `passed_over` gets the names of the keys that nothing reads.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn read(
        self,
        fields: Fields,
        mapping: &Mapping,
        passed_over: &mut Vec<String>,
    ) -> Result<Row, RowProblem> {
        // What a judged row has otherwise is checked as a row of its other shape.
        if self != Self::Judged {
            keys::check(self, &fields, passed_over)?;
        }
        match self {
            Self::Chat => chat::parse(fields, &chat::MESSAGES, mapping).map(Row::Chat),
            Self::ShareGpt => sharegpt::parse(fields, mapping).map(Row::Chat),
            Self::Instruction => instruction::parse(fields).map(Row::Instruction),
            Self::Completion => completion::parse(fields, mapping),
            Self::Text => text::parse(fields).map(Row::Text),
            Self::Question => question::parse(fields).map(|question| Row::Question(Box::new(question))),
            Self::Preference => preference::parse(fields, mapping),
            Self::Judged => judged::parse(fields, mapping, passed_over),
        }
    }
}

/// A row as its shape describes it.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// A conversation that ends with an assistant's reply.
    Chat(Conversation),
    /// An instruction and its answer.
    Instruction(Instruction),
    /// A prompt and what follows it.
    Completion(Completion),
    /// Text.
    Text(String),
    /// A question and its answer.
    Question(Box<Question>),
    /// Replies, one of which is better than the others.
    Preference(Box<Preference>),
    /// A reply that is good or bad.
    Judged(Box<Judged>),
    /// A text to classify.
    Labelled(Box<Labelled>),
}

/// What a row is trained as.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    /// A conversation that ends with an assistant's reply, rendered by the chat template.
    Chat(Conversation),
    /// A prompt and what follows it, as plain text.
    Completion(Completion),
    /// Text, all of it trained.
    Text(String),
}

/// What rows have to be for what is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Purpose {
    /// Replies that the model learns to give.
    #[default]
    Replies,
    /// Chosen and rejected replies.
    Pairs,
    /// Replies that are good or bad; those of a preference are taken one by one.
    Labels,
    /// Chosen and rejected replies, each of which is scored with its prompt as a whole.
    Scores,
    /// Whatever the rows are.
    Any,
}

impl Row {
    /// What the row is trained as, by a model with or without a chat template; of a preference the chosen reply.
    ///
    /// # Errors
    /// When a model without one cannot be given the row as it was meant.
    pub fn into_document(self, has_chat_template: bool) -> Result<Document, RowProblem> {
        Ok(match self {
            Self::Chat(conversation) => Document::Chat(conversation),
            Self::Instruction(row) if has_chat_template => Document::Chat(row.into_messages().into()),
            Self::Instruction(row) => Document::Completion(row.into_alpaca()?),
            Self::Completion(row) => Document::Completion(row),
            Self::Text(text) => Document::Text(text),
            Self::Question(row) if has_chat_template => Document::Chat(row.into_conversation()),
            Self::Question(row) => return Err(RowProblem::UnknownShape { keys: row.keys }),
            Self::Preference(row) => row.chosen.into_document(has_chat_template)?,
            Self::Judged(row) => row.row.into_document(has_chat_template)?,
            Self::Labelled(row) => row.document,
        })
    }

    /// All that is trained of the row for a purpose, with what the row says of it.
    ///
    /// # Errors
    /// As [`Self::into_document`], and when the row is for another purpose.
    pub fn into_documents(
        self,
        purpose: Purpose,
        has_chat_template: bool,
    ) -> Result<Vec<(Document, Option<Judgement>)>, RowProblem> {
        let judged = |row: Row, side, weight, margin| {
            Ok((row.into_document(has_chat_template)?, Some(Judgement { side, weight, margin })))
        };
        match (purpose, self) {
            (_, Self::Labelled(row)) => Ok(vec![(row.document, None)]),
            (Purpose::Replies, Self::Preference(_)) => {
                Err(RowProblem::OtherPurpose { found: Shape::Preference })
            }
            (Purpose::Replies, Self::Judged(_)) => Err(RowProblem::OtherPurpose { found: Shape::Judged }),
            (Purpose::Pairs | Purpose::Labels | Purpose::Scores | Purpose::Any, Self::Preference(row)) => {
                let Preference { chosen, rejected, weight, margin } = *row;
                let sides = match purpose {
                    Purpose::Labels => [Side::Desirable, Side::Undesirable],
                    Purpose::Pairs | Purpose::Scores | Purpose::Any | Purpose::Replies => {
                        [Side::Chosen, Side::Rejected]
                    }
                };
                let rejected = rejected.into_iter().map(|row| judged(row, sides[1], weight, margin));
                std::iter::once(judged(chosen, sides[0], weight, margin)).chain(rejected).collect()
            }
            (Purpose::Labels | Purpose::Any, Self::Judged(row)) => {
                let Judged { row, is_desirable, weight } = *row;
                let side = if is_desirable { Side::Desirable } else { Side::Undesirable };
                Ok(vec![judged(row, side, weight, 0.0)?])
            }
            (Purpose::Replies | Purpose::Any, row) => Ok(vec![(row.into_document(has_chat_template)?, None)]),
            (Purpose::Pairs | Purpose::Scores, row) => Err(RowProblem::NoPairs { found: row.shape() }),
            (Purpose::Labels, row) => Err(RowProblem::NoLabels { found: row.shape() }),
        }
    }

    /// The shape that the row was read as.
    fn shape(&self) -> Shape {
        match self {
            Self::Chat(_) => Shape::Chat,
            Self::Instruction(_) => Shape::Instruction,
            Self::Completion(_) => Shape::Completion,
            Self::Text(_) => Shape::Text,
            Self::Question(_) => Shape::Question,
            Self::Preference(_) => Shape::Preference,
            Self::Judged(_) => Shape::Judged,
            Self::Labelled(row) => match row.document {
                Document::Chat(_) => Shape::Chat,
                Document::Completion(_) => Shape::Completion,
                Document::Text(_) => Shape::Text,
            },
        }
    }
}

/// The name of a JSON type, for messages.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(text) if json::odd_number(text).is_some() => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Takes the text of a field that a row may have out of it; nothing for one that is absent, null or blank.
fn take_optional(fields: &mut Fields, field: &str, shape: Shape) -> Result<Option<String>, RowProblem> {
    match fields.get(field) {
        None | Some(Value::Null) => Ok(None),
        // What pandas writes for an empty cell.
        Some(value) if json::is_nan(value) => Ok(None),
        Some(_) => {
            take_string(fields, field, shape).map(|text| Some(text).filter(|text| !text.trim().is_empty()))
        }
    }
}

/// Takes a field that must be a string out of a row.
fn take_string(fields: &mut Fields, field: &str, shape: Shape) -> Result<String, RowProblem> {
    match fields.remove(field) {
        Some(Value::String(text)) if json::odd_number(&text).is_none() => Ok(text),
        Some(other) => {
            Err(RowProblem::WrongType { field: field.into(), want: "a string", found: kind(&other) })
        }
        None => Err(RowProblem::MissingField { field: field.into(), shape }),
    }
}

/// A reply that says nothing would teach the model to say nothing.
fn not_blank(text: &str, field: &str) -> Result<(), RowProblem> {
    match text.trim().is_empty() {
        true => Err(RowProblem::EmptyReply { field: field.to_string() }),
        false => Ok(()),
    }
}
