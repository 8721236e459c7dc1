//! The shapes a dataset row can have, one file each. A shape says by which keys it is recognised, what a row must
//! hold, and what the row becomes: a conversation for the model's chat template, or plain text.
//!
//! A new shape is a file here, a variant of [`Shape`] and one of [`Row`]; the compiler lists the rest.

mod chat;
mod completion;
mod instruction;
mod text;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::RowProblem;

pub(crate) use chat::json_size_bytes;
pub use chat::{Conversation, Message, Role};
pub use completion::Completion;
pub use instruction::Instruction;

/// A row's fields.
pub type Fields = Map<String, Value>;

/// The shape of a dataset's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// `messages`: a conversation.
    Chat,
    /// `instruction`, perhaps `input`, and `output`.
    Instruction,
    /// `prompt` and `completion`.
    Completion,
    /// `text`, all of it trained.
    Text,
}

impl Shape {
    /// Every shape, in the order in which they are tried.
    pub const ALL: [Self; 4] = [Self::Chat, Self::Instruction, Self::Completion, Self::Text];

    /// The fields a row must have.
    pub fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Chat => &["messages"],
            Self::Instruction => &["instruction", "output"],
            Self::Completion => &["prompt", "completion"],
            Self::Text => &["text"],
        }
    }

    /// The shape's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Instruction => "instruction",
            Self::Completion => "completion",
            Self::Text => "text",
        }
    }

    /// Recognises the shape from a row's keys.
    ///
    /// # Errors
    /// When no shape has all of its fields there.
    pub fn recognise(fields: &Fields) -> Result<Self, RowProblem> {
        let fits = |s: &Self| s.fields().iter().all(|f| fields.contains_key(*f));
        // Keys are the file's: few and short ones are enough to recognise it by.
        let keys = || fields.keys().take(12).map(|k| k.chars().take(40).collect()).collect();
        Self::ALL.into_iter().find(fits).ok_or_else(|| RowProblem::UnknownShape { keys: keys() })
    }

    /// Reads a row of this shape.
    ///
    /// # Errors
    /// When a field is missing or not what it should be.
    pub fn parse(self, fields: Fields) -> Result<Row, RowProblem> {
        match self {
            Self::Chat => chat::parse(fields).map(Row::Chat),
            Self::Instruction => instruction::parse(fields).map(Row::Instruction),
            Self::Completion => completion::parse(fields).map(Row::Completion),
            Self::Text => text::parse(fields).map(Row::Text),
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
    pub fn into_document(self, has_chat_template: bool) -> Document {
        match self {
            Self::Chat(conversation) => Document::Chat(conversation),
            Self::Instruction(row) if has_chat_template => Document::Chat(row.into_messages().into()),
            Self::Instruction(row) => Document::Completion(row.into_alpaca()),
            Self::Completion(row) => Document::Completion(row),
            Self::Text(text) => Document::Text(text),
        }
    }
}

/// The name of a JSON type, for messages.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Takes a field that must be a string out of a row.
fn take_string(fields: &mut Fields, field: &'static str, shape: Shape) -> Result<String, RowProblem> {
    match fields.remove(field) {
        Some(Value::String(text)) => Ok(text),
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
