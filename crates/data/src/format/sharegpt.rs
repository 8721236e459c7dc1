//! ShareGPT's conversations: `{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}`,
//! perhaps with a `system` prompt and `tools` beside them. Some data sets keep the field's name and write messages as
//! chat rows do.

use serde_json::Value;

use super::chat::{self, Conversation, Keys};
use super::{Fields, Mapping, Role, Shape};
use crate::error::RowProblem;

const FROM_VALUE: Keys = Keys {
    list: "conversations",
    role: "from",
    content: "value",
    roles: &[("human", Role::User), ("gpt", Role::Assistant), ("observation", Role::Tool)],
    shape: Shape::ShareGpt,
};
const ROLE_CONTENT: Keys = Keys { role: "role", content: "content", ..FROM_VALUE };

pub(super) fn parse(fields: Fields, mapping: &Mapping) -> Result<Conversation, RowProblem> {
    let first = fields.get(FROM_VALUE.list).and_then(|list| list.get(0));
    let keys = match first.and_then(Value::as_object).is_some_and(|message| message.contains_key("role")) {
        true => ROLE_CONTENT,
        false => FROM_VALUE,
    };
    chat::parse(fields, &keys, mapping)
}
