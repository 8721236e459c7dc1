//! Prompt and completion rows: `{"prompt": "...", "completion": "..."}`. Both are plain text, joined as they are: a
//! space between them is the row's to write. The end-of-sequence token follows.
//!
//! Both may be lists of messages instead: that is one conversation, of which the completion's replies are trained.

use serde_json::Value;

use super::chat::{self, Keys};
use super::{Fields, Mapping, Row, Shape, keys, not_blank, take_string};
use crate::error::RowProblem;

/// A prompt and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// What is given.
    pub prompt: String,
    /// What is to follow.
    pub completion: String,
}

const MESSAGES: Keys = Keys { list: "prompt and completion", shape: Shape::Completion, ..chat::MESSAGES };

pub(super) fn parse(fields: Fields, mapping: &Mapping) -> Result<Row, RowProblem> {
    parse_as(fields, "completion", &MESSAGES, mapping)
}

/// A row whose field `completion` follows its `prompt`.
pub(super) fn parse_as(
    mut fields: Fields,
    completion: &str,
    names: &Keys,
    mapping: &Mapping,
) -> Result<Row, RowProblem> {
    if let (Some(Value::Array(_)), Some(Value::Array(_))) = (fields.get("prompt"), fields.get(completion)) {
        let [mut prompt, completion] = ["prompt", completion].map(|field| match fields.remove(field) {
            Some(Value::Array(messages)) => messages,
            _ => Vec::new(),
        });
        for message in prompt.iter_mut().filter_map(Value::as_object_mut) {
            message.shift_remove("weight");
            message.insert("train".into(), false.into());
        }
        fields.insert(names.list.into(), prompt.into_iter().chain(completion).collect());
        return chat::parse(fields, names, mapping).map(Row::Chat);
    }
    let prompt = take_string(&mut fields, "prompt", names.shape)?;
    let follows = take_string(&mut fields, completion, names.shape)?;
    keys::refuse_in_text(&fields)?;
    not_blank(&follows, completion)?;
    Ok(Row::Completion(Completion { prompt, completion: follows }))
}
