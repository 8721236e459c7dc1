//! What can be wrong with a dataset: [`DataError`] says where, [`RowProblem`] what.

use std::path::PathBuf;

use crate::format::{Role, Shape};
use crate::template::TemplateError;
use crate::tokenizer::TokenizerError;

/// Why a dataset could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A row is not what it should be.
    #[error("{} line {line}: {problem}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: RowProblem,
    },
    /// The file has no rows.
    #[error("{} has no rows", path.display())]
    NoRows {
        /// The file.
        path: PathBuf,
    },
    /// Truncation left no row anything to train on.
    #[error(
        "{}: none of its {rows} rows has a trained token within the first {max_seq_len} tokens",
        path.display()
    )]
    AllDropped {
        /// The file.
        path: PathBuf,
        /// How many rows it has.
        rows: usize,
        /// The length they were cut to.
        max_seq_len: usize,
        /// The shortest length that leaves a row something; `None` if no length does.
        needed: Option<usize>,
    },
    /// The chat template does not compile.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The tokenizer cannot be described, which its part in the cache's key needs.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Tokenised data could not be written.
    #[error("cannot write tokenised data to {}: {source}", path.display())]
    Cache {
        /// The folder of the cache.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file was changed while it was read.
    #[error("{} was changed while it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
}

/// What is wrong with one row.
#[derive(Debug, thiserror::Error)]
pub enum RowProblem {
    /// The line is not UTF-8.
    #[error("not UTF-8 at byte {byte} of the line")]
    NotUtf8 {
        /// The first byte that isn't, counted from 1.
        byte: usize,
    },
    /// The line is longer than is read.
    #[error("the line is longer than {limit} bytes")]
    LineTooLong {
        /// The longest line that is read.
        limit: usize,
    },
    /// The line is not JSON.
    #[error("not valid JSON at column {column}: {message}")]
    Json {
        /// The column, counted from 1.
        column: usize,
        /// What the parser said.
        message: String,
    },
    /// The line is JSON but not an object.
    #[error("a row must be an object, found {found}")]
    NotAnObject {
        /// The JSON type.
        found: &'static str,
    },
    /// The first row has the fields of no shape.
    #[error("the row has none of the known shapes; its fields are: {}", list(keys))]
    UnknownShape {
        /// The row's keys.
        keys: Vec<String>,
    },
    /// A field is missing.
    #[error("the row has no `{field}`, which {} rows have", shape.name())]
    MissingField {
        /// The field.
        field: String,
        /// The shape of the dataset.
        shape: Shape,
    },
    /// A field has the wrong type.
    #[error("`{field}` must be {want}, found {found}")]
    WrongType {
        /// The field.
        field: String,
        /// The JSON type wanted.
        want: &'static str,
        /// The JSON type found.
        found: &'static str,
    },
    /// A field that changes what is trained on, and that nothing here reads yet.
    #[error("`{field}` is not supported yet")]
    Unsupported {
        /// The field.
        field: String,
    },
    /// A message's role is unknown.
    #[error("role `{}` is not one of system, user, assistant, tool", role.escape_debug().take(60).collect::<String>())]
    UnknownRole {
        /// The role.
        role: String,
    },
    /// The conversation has no messages.
    #[error("the conversation is empty")]
    NoMessages,
    /// No message is the assistant's.
    #[error("no message has the role assistant, so there is no reply to train on")]
    NoReply,
    /// The conversation ends before the assistant replies.
    #[error("the conversation ends with a message of the role {}, not with the assistant's reply", role.name())]
    NoLastReply {
        /// The last message's role.
        role: Role,
    },
    /// A reply has nothing in it.
    #[error("`{field}` is empty: there is nothing to train on")]
    EmptyReply {
        /// The field.
        field: String,
    },
    /// A chat row, but the model has no chat template.
    #[error("the row is a conversation, but the model has no chat template")]
    NoChatTemplate,
    /// The template fails on the row.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The template rewrites the conversation as it goes on, so a reply's place in the text can't be found.
    #[error(
        "the chat template renders the conversation up to messages[{message}] differently from the same part of the \
         whole, so the reply's place in the text cannot be found"
    )]
    SpanNotFound {
        /// The assistant's message.
        message: usize,
    },
    /// The template leaves a reply out.
    #[error("the chat template writes nothing for the reply messages[{message}]")]
    ReplyNotWritten {
        /// The assistant's message.
        message: usize,
    },
    /// The row has no prompt, which generation needs.
    #[error("{} rows have no prompt to generate from", shape.name())]
    NoPrompt {
        /// The shape of the dataset.
        shape: Shape,
    },
    /// The tokenizer has no end-of-sequence token to close text with.
    #[error("the tokenizer has no end-of-sequence token, so the model could not learn where to stop")]
    NoEos,
    /// The tokenizer fails on the row.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The template leaves out something that the row has beside what is said.
    #[error("the chat template writes nothing for `{field}`")]
    NotWritten {
        /// The field.
        field: String,
    },
}

fn list(keys: &[String]) -> String {
    if keys.is_empty() {
        return "none".into();
    }
    keys.iter().map(|k| format!("`{}`", k.escape_debug())).collect::<Vec<_>>().join(", ")
}

impl DataError {
    /// What the user can do next.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { .. } => Some("check that the path exists and may be read".into()),
            Self::Row { problem, .. } => problem.hint(),
            Self::NoRows { .. } => Some("give a JSONL file with one row a line".into()),
            Self::AllDropped { needed: None, .. } => {
                let text = "the rows are too short, or say \"train\": false, or the template marks nothing as the \
                            assistant's";
                Some(text.into())
            }
            Self::AllDropped { needed: Some(needed), .. } => {
                Some(format!("--max-seq-len {needed} is the least that leaves a row"))
            }
            Self::Template(e) => e.hint(),
            Self::Tokenizer(e) => e.hint(),
            Self::Cache { .. } => {
                Some("put it elsewhere with --cache-dir DIR, or keep it in memory with --no-cache".into())
            }
            Self::Changed { .. } => Some("run it again once nothing writes to the file any more".into()),
        }
    }
}

impl RowProblem {
    /// What the user can do next.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotUtf8 { .. } => "save the file as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8 converts)".into(),
            Self::LineTooLong { .. } => "a row is one line of JSON; check that the file has line breaks".into(),
            Self::Json { .. } | Self::NotAnObject { .. } => "a row is one JSON object on one line".into(),
            Self::UnknownShape { .. } => {
                let shapes: Vec<String> =
                    Shape::ALL.iter().map(|s| format!("{} ({})", s.name(), s.fields().join(", "))).collect();
                format!("rename the fields to one of these shapes: {}", shapes.join("; "))
            }
            Self::MissingField { .. } => {
                "the first row decides the shape of the file; give every row the same fields, or remove this one"
                    .into()
            }
            Self::WrongType { field, want: "a string", found: "a list" } if field.ends_with("content") => {
                "join the text parts of the message into one string; images are not supported".into()
            }
            Self::WrongType { .. } => "correct the row or remove it".into(),
            Self::Unsupported { field } => format!("remove `{field}` from the row, or the row"),
            Self::UnknownRole { role } => match role.to_ascii_lowercase().as_str() {
                "human" | "person" | "prompter" => format!("rename `{role}` to `user`"),
                "bot" | "gpt" | "model" | "ai" | "chatbot" | "chatgpt" => format!("rename `{role}` to `assistant`"),
                "developer" => format!("rename `{role}` to `system`"),
                "function" | "ipython" | "observation" => format!("rename `{role}` to `tool`"),
                _ => "rename the role to one of them".into(),
            },
            Self::NoMessages | Self::NoReply | Self::NoLastReply { .. } | Self::EmptyReply { .. } => {
                "add the reply or remove the row".into()
            }
            Self::NoChatTemplate => {
                "use the instruct version of the model, give a template with --template, or write the rows as prompt \
                 and completion"
                    .into()
            }
            Self::SpanNotFound { .. } => {
                "split the conversation into rows that end with the reply to be learnt, or give a template that \
                 does not rewrite history with --template"
                    .into()
            }
            Self::ReplyNotWritten { .. } => {
                "the template and the data do not fit each other; give another with --template".into()
            }
            Self::NoPrompt { .. } => "give chat, instruction or completion rows".into(),
            Self::NoEos => "name one in tokenizer_config.json (\"eos_token\")".into(),
            Self::Template(e) => return e.hint(),
            Self::Tokenizer(e) => return e.hint(),
            Self::NotWritten { field } => format!(
                "the model would learn the row without it: remove `{field}` from the row, or give a template that \
                 writes it with --template"
            ),
        })
    }
}
