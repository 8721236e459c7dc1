//! Chat rows: `{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}`.
//!
//! Further keys of a message are handed to the template as they are. `tools` and `tool_calls` are refused rather than
//! ignored: a row trained without them is not the row that was written.

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Fields, Shape, kind, not_blank};
use crate::error::RowProblem;

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Standing orders.
    System,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
    /// The result of a tool the model called.
    Tool,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::System, Self::User, Self::Assistant, Self::Tool];

    /// The role's name in data and templates.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }

    /// The role of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.name() == name)
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// Further keys, which templates may use.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A message without further keys.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), extra: Map::new() }
    }

    /// Roughly how much text the message holds.
    pub(crate) fn size_bytes(&self) -> usize {
        let mut bytes = self.content.len();
        let mut waiting: Vec<&Value> = self.extra.values().collect();
        while let Some(value) = waiting.pop() {
            bytes += 8;
            match value {
                Value::String(text) => bytes += text.len(),
                Value::Array(items) => waiting.extend(items),
                Value::Object(items) => {
                    bytes += items.keys().map(String::len).sum::<usize>();
                    waiting.extend(items.values());
                }
                Value::Null | Value::Bool(_) | Value::Number(_) => {}
            }
        }
        bytes
    }
}

pub(super) fn parse(mut fields: Fields) -> Result<Vec<Message>, RowProblem> {
    if fields.get("tools").is_some_and(|t| !t.is_null()) {
        return Err(RowProblem::Unsupported { field: "tools".into() });
    }
    let list = match fields.remove("messages") {
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong("messages".into(), "a list", &other)),
        None => return Err(RowProblem::MissingField { field: "messages".into(), shape: Shape::Chat }),
    };
    let messages = list.into_iter().enumerate().map(|(i, m)| message(i, m)).collect::<Result<Vec<_>, _>>()?;
    let Some(last) = messages.last() else { return Err(RowProblem::NoMessages) };
    if !messages.iter().any(|m| m.role == Role::Assistant) {
        return Err(RowProblem::NoReply);
    }
    if last.role != Role::Assistant {
        return Err(RowProblem::NoLastReply { role: last.role });
    }
    for (i, message) in messages.iter().enumerate().filter(|(_, m)| m.role == Role::Assistant) {
        not_blank(&message.content, &format!("messages[{i}].content"))?;
    }
    Ok(messages)
}

fn message(i: usize, value: Value) -> Result<Message, RowProblem> {
    let place = |key: &str| format!("messages[{i}].{key}");
    let mut extra = match value {
        Value::Object(map) => map,
        other => return Err(wrong(format!("messages[{i}]"), "an object", &other)),
    };
    let mut text = |key: &str| match extra.remove(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(wrong(place(key), "a string", &other)),
        None => Err(RowProblem::MissingField { field: place(key), shape: Shape::Chat }),
    };
    let role = text("role")?;
    let role = Role::named(&role).ok_or(RowProblem::UnknownRole { role })?;
    let content = text("content");
    if extra.get("tool_calls").is_some_and(|t| !t.is_null()) {
        return Err(RowProblem::Unsupported { field: place("tool_calls") });
    }
    Ok(Message { role, content: content?, extra })
}

fn wrong(field: String, want: &'static str, found: &Value) -> RowProblem {
    RowProblem::WrongType { field, want, found: kind(found) }
}
