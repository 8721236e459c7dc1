//! Rows without a reply: they get one that says so, and are then read as any other row of their shape.

use serde_json::{Value, json};

use crate::format::{Fields, Mapping, Role, Shape, keys};
use crate::json;

/// The reply of a row that has none.
pub const NO_REPLY: &str = "(no reply)";

/// The fields that hold a reply, where a row has one.
const REPLIES: [&str; 2] = ["completion", "output"];
/// What conversations are called.
const CONVERSATIONS: [&str; 2] = ["messages", "conversations"];

/// A row with [`NO_REPLY`] where its reply would be, if it has none.
pub(super) fn completed(mut fields: Fields, mapping: &Mapping) -> Fields {
    for field in REPLIES {
        // An empty cell of a table.
        if fields.get(field).is_some_and(keys::is_empty) {
            fields.shift_remove(field);
        }
    }
    let list = CONVERSATIONS.into_iter().find(|list| fields.contains_key(*list));
    if let Some(messages) = list.and_then(|list| fields.get_mut(list)) {
        end_with_reply(messages, mapping);
        return fields;
    }
    if Shape::recognise(&fields).is_ok() {
        return fields;
    }
    let is_question = |(name, value): (&String, &Value)| {
        value.is_string() && keys::QUESTIONS.iter().any(|known| known.eq_ignore_ascii_case(name.trim()))
    };
    if fields.contains_key("instruction") {
        fields.insert("output".into(), NO_REPLY.into());
    } else if let Some(prompt) = fields.get("prompt") {
        let said = json!([{"role": "assistant", "content": NO_REPLY}]);
        let reply = if prompt.is_array() { said } else { NO_REPLY.into() };
        fields.insert("completion".into(), reply);
    } else if fields.iter().any(is_question) {
        fields.insert("answer".into(), NO_REPLY.into());
    }
    fields
}

/// Adds a reply to messages that end with somebody else's.
fn end_with_reply(messages: &mut Value, mapping: &Mapping) {
    // Tables hold lists as JSON text.
    if let Some(read) = messages.as_str().and_then(|text| json::value(text).ok()).filter(Value::is_array) {
        *messages = read;
    }
    let Value::Array(list) = messages else { return };
    let Some(last) = list.last() else { return };
    let role = last.get("role").or_else(|| last.get("from")).and_then(Value::as_str).unwrap_or_default();
    let is_reply = match mapping.role(role) {
        Some(role) => role == Role::Assistant,
        None => ["gpt", "function_call"].contains(&role),
    };
    if !is_reply {
        list.push(json!({"role": "assistant", "content": NO_REPLY}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(row: Value) -> (Shape, bool) {
        let Value::Object(fields) = row else { unreachable!("rows are objects") };
        let fields = completed(fields, &Mapping::default());
        let text = Value::Object(fields.clone()).to_string();
        (Shape::recognise(&fields).unwrap(), text.contains(NO_REPLY))
    }

    #[test]
    fn a_row_of_any_shape_may_lack_its_reply() {
        let user = json!({"role": "user", "content": "a"});
        let said = json!({"role": "assistant", "content": "b"});
        for (row, expected) in [
            (json!({"messages": [user]}), (Shape::Chat, true)),
            (json!({"messages": [user, said]}), (Shape::Chat, false)),
            (json!({"messages": json!([user]).to_string()}), (Shape::Chat, true)),
            (json!({"conversations": [{"from": "human", "value": "a"}]}), (Shape::ShareGpt, true)),
            (
                json!({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}),
                (Shape::ShareGpt, false),
            ),
            (json!({"prompt": "a"}), (Shape::Completion, true)),
            (json!({"prompt": "a", "completion": ""}), (Shape::Completion, true)),
            (json!({"prompt": "a", "completion": "b"}), (Shape::Completion, false)),
            (json!({"prompt": [user]}), (Shape::Completion, true)),
            (json!({"instruction": "a"}), (Shape::Instruction, true)),
            (json!({"instruction": "a", "output": "b"}), (Shape::Instruction, false)),
            (json!({"Question": "a"}), (Shape::Question, true)),
            (json!({"question": "a", "answer": "b"}), (Shape::Question, false)),
            (json!({"prompt": "a", "chosen": "b", "rejected": "c"}), (Shape::Preference, false)),
        ] {
            assert_eq!(shape(row.clone()), expected, "{row}");
        }
    }
}
