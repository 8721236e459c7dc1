//! The shapes a dataset row can have, one file each. A shape says by which keys it is recognised, what a row must
//! hold, and what the row becomes: a conversation for the model's chat template, or plain text.
//!
//! A new shape is a file here, a variant of [`Shape`] and one of [`Row`]; the compiler lists the rest.

mod chat;
mod completion;
mod instruction;
pub mod keys;
mod mapping;
mod question;
mod sharegpt;
mod text;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::RowProblem;
use crate::json;

pub use chat::{Conversation, Message, Role};
pub(crate) use chat::{TOOL_CALLS, json_size_bytes, with_arguments_read};
pub use completion::Completion;
pub use instruction::Instruction;
pub use mapping::Mapping;
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
}

impl Shape {
    /// Every shape, in the order in which they are tried.
    pub const ALL: [Self; 6] =
        [Self::Chat, Self::ShareGpt, Self::Instruction, Self::Completion, Self::Text, Self::Question];

    /// The fields a row must have.
    pub fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Chat => &["messages"],
            Self::ShareGpt => &["conversations"],
            Self::Instruction => &["instruction", "output"],
            Self::Completion => &["prompt", "completion"],
            Self::Text => &["text"],
            Self::Question => &["question", "answer"],
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
        }
    }

    /// Recognises the shape from a row's keys.
    ///
    /// # Errors
    /// When no shape has all of its fields there, or the rows are preferences.
    pub fn recognise(fields: &Fields) -> Result<Self, RowProblem> {
        let fits = |s: &Self| match s {
            Self::Question => question::fits(fields),
            _ => s.fields().iter().all(|f| fields.contains_key(*f)),
        };
        // Keys are the file's: few and short ones are enough to recognise it by.
        let keys = || fields.keys().take(12).map(|k| k.chars().take(40).collect()).collect();
        let preference = ["chosen", "rejected"].iter().all(|field| fields.contains_key(*field));
        // Of preferences, `prompt` and `chosen` or `input` and `output` say what is meant.
        match Self::ALL.into_iter().find(fits) {
            Some(Self::Question) | None if preference => Err(RowProblem::Preference),
            Some(shape) => Ok(shape),
            None => {
                Err(question::ambiguous(fields).unwrap_or_else(|| RowProblem::UnknownShape { keys: keys() }))
            }
        }
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
        keys::check(self, &fields, passed_over)?;
        match self {
            Self::Chat => chat::parse(fields, &chat::MESSAGES, mapping).map(Row::Chat),
            Self::ShareGpt => sharegpt::parse(fields, mapping).map(Row::Chat),
            Self::Instruction => instruction::parse(fields).map(Row::Instruction),
            Self::Completion => completion::parse(fields, mapping),
            Self::Text => text::parse(fields).map(Row::Text),
            Self::Question => question::parse(fields).map(|question| Row::Question(Box::new(question))),
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

impl Row {
    /// What the row is trained as, by a model with or without a chat template.
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
        })
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
