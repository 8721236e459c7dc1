//! Preferences: `{"prompt": ..., "chosen": ..., "rejected": ...}`, of which the chosen reply is better than the rejected ones.
//!
//! Each of the three is a text or a list of messages; a single message may stand without its list. `rejected` may be a list of
//! several. Without a prompt, both replies are whole conversations or texts, and the prompt is what they begin with alike. A
//! prompt that is a text before lists of messages is the user's message. Beside them may stand what conversations have (`tools`,
//! `system`, ...), a `weight` of the row, and the `margin` by which the chosen reply should be better.

use serde_json::{Value, json};

use super::chat::{self, Keys, messages_from_text};
use super::{Fields, Mapping, Row, Shape, completion, kind};
use crate::error::RowProblem;
use crate::json;

/// Replies to one prompt, of which one is better than the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Preference {
    /// The prompt with the better reply: a conversation or a completion.
    pub chosen: Row,
    /// The prompt with each of the worse replies, at least one.
    pub rejected: Vec<Row>,
    /// How much the row counts.
    pub weight: f32,
    /// By how much the chosen reply should be better.
    pub margin: f32,
}

/// Rejected replies of a row: each is a sample with the whole prompt.
const MOST_REJECTED: usize = 32;

const CHOSEN: Keys = Keys { list: "prompt and chosen", shape: Shape::Preference, ..chat::MESSAGES };
const REJECTED: Keys = Keys { list: "prompt and rejected", shape: Shape::Preference, ..chat::MESSAGES };

pub(super) fn parse(mut fields: Fields, mapping: &Mapping) -> Result<Row, RowProblem> {
    let weight = number(&mut fields, "weight", 1.0)?;
    let margin = number(&mut fields, "margin", 0.0)?;
    let chosen = reply(&mut fields, "chosen")?;
    let rejected = several(reply(&mut fields, "rejected")?)?;
    let prompt = fields.shift_remove("prompt").map(messages_from_text).filter(|prompt| !prompt.is_null());
    let (prompt, replies) = divided(prompt, std::iter::once(chosen).chain(rejected).collect())?;
    let mut rows = Vec::with_capacity(replies.len());
    for (i, reply) in replies.into_iter().enumerate() {
        let (name, keys) = if i == 0 { ("chosen", &CHOSEN) } else { ("rejected", &REJECTED) };
        let mut fields = fields.clone();
        fields.insert("prompt".into(), prompt.clone());
        fields.insert(name.into(), reply);
        rows.push(completion::parse_as(fields, name, keys, mapping)?);
    }
    let chosen = rows.remove(0);
    if let Some(same) = rows.iter().position(|row| *row == chosen) {
        return Err(RowProblem::SameReplies { rejected: same });
    }
    Ok(Row::Preference(Box::new(Preference { chosen, rejected: rows, weight, margin })))
}

/// A number that a row may have, 0 or more; tables have it as text.
pub(super) fn number(fields: &mut Fields, field: &str, absent: f32) -> Result<f32, RowProblem> {
    let value = match fields.shift_remove(field) {
        None | Some(Value::Null) => return Ok(absent),
        Some(value) if json::is_nan(&value) => return Ok(absent),
        Some(value) => value,
    };
    let read = value.as_f64().or_else(|| json::odd_number(value.as_str()?)?.parse().ok());
    let read = read.or_else(|| value.as_str()?.trim().parse().ok());
    match read.map(|number| number as f32) {
        Some(number) if number.is_finite() && number >= 0.0 => Ok(number),
        Some(_) => Err(RowProblem::Refused { field: field.into(), why: "it must be 0 or more, and finite" }),
        None => Err(RowProblem::WrongType { field: field.into(), want: "a number", found: kind(&value) }),
    }
}

/// A text or a list of messages.
fn reply(fields: &mut Fields, field: &str) -> Result<Value, RowProblem> {
    match fields.shift_remove(field).map(messages_from_text) {
        Some(message @ Value::Object(_)) => Ok(json!([message])),
        Some(found @ (Value::String(_) | Value::Array(_))) => Ok(found),
        Some(other) => Err(RowProblem::WrongType {
            field: field.into(),
            want: "a text or a list of messages",
            found: kind(&other),
        }),
        None => Err(RowProblem::MissingField { field: field.into(), shape: Shape::Preference }),
    }
}

/// The rejected replies: one, or a list of several.
fn several(rejected: Value) -> Result<Vec<Value>, RowProblem> {
    match rejected {
        Value::Array(items) if items.is_empty() => Err(RowProblem::EmptyReply { field: "rejected".into() }),
        Value::Array(items) if items.iter().all(|item| item.is_string() || item.is_array()) => {
            match items.len() <= MOST_REJECTED {
                true => Ok(items),
                false => Err(RowProblem::TooManyReplies { replies: items.len(), most: MOST_REJECTED }),
            }
        }
        one => Ok(vec![one]),
    }
}

/// The prompt and the replies to it, all texts or all lists of messages.
fn divided(prompt: Option<Value>, mut replies: Vec<Value>) -> Result<(Value, Vec<Value>), RowProblem> {
    if let Some(other) = replies.iter().skip(1).find(|reply| reply.is_array() != replies[0].is_array()) {
        let want =
            if replies[0].is_array() { "a list of messages like chosen" } else { "a text like chosen" };
        return Err(RowProblem::WrongType { field: "rejected".into(), want, found: kind(other) });
    }
    let of_messages = replies[0].is_array();
    match prompt {
        Some(Value::Array(prompt)) if !of_messages => {
            let said = |text: Value| json!([{"role": "assistant", "content": text}]);
            Ok((Value::Array(prompt), replies.into_iter().map(said).collect()))
        }
        Some(Value::String(prompt)) if of_messages => {
            let asked = json!({"role": "user", "content": prompt});
            let asks = |reply: &Value| reply.get(0).is_some_and(|first| role(first) == Some("user"));
            match replies.iter().all(|reply| !asks(reply)) {
                true => Ok((json!([asked]), replies)),
                // The replies are whole conversations, and the prompt is their first message once more.
                false => divided(None, replies),
            }
        }
        Some(prompt) => Ok((prompt, replies)),
        None if of_messages => {
            let lists: Vec<&Vec<Value>> = replies.iter().filter_map(Value::as_array).collect();
            let longest = lists.iter().map(|list| list.len()).min().unwrap_or(0);
            let alike = |at: &usize| lists.iter().all(|list| list[*at] == lists[0][*at]);
            let prompt = (0..longest).take_while(alike).count();
            let prompt: Value = lists[0][..prompt].to_vec().into();
            let from = prompt.as_array().map_or(0, Vec::len);
            for reply in &mut replies {
                if let Some(list) = reply.as_array_mut() {
                    list.drain(..from).for_each(drop);
                }
            }
            match from {
                0 => Err(RowProblem::NothingAlike),
                _ => Ok((prompt, replies)),
            }
        }
        None => {
            let texts: Vec<&str> = replies.iter().filter_map(Value::as_str).collect();
            let from = alike(&texts);
            let prompt = texts[0][..from].to_owned();
            let rest = texts.iter().map(|text| text[from..].into()).collect();
            Ok((prompt.into(), rest))
        }
    }
}

/// Who says a message.
fn role(message: &Value) -> Option<&str> {
    message.get("role").and_then(Value::as_str)
}

/// Bytes that texts begin with alike, up to the last space before they differ.
fn alike(texts: &[&str]) -> usize {
    let mut end = 0;
    let mut after_space = 0;
    for (at, letter) in texts[0].char_indices() {
        let next = at + letter.len_utf8();
        if texts.iter().any(|text| text.as_bytes().get(at..next) != Some(&texts[0].as_bytes()[at..next])) {
            break;
        }
        end = next;
        if letter.is_whitespace() {
            after_space = at;
        }
    }
    // The space belongs to the reply, as in transformers' data.
    if end == texts[0].len() { end } else { after_space }
}

#[cfg(test)]
mod tests {
    use super::super::Document;
    use super::*;

    fn read(row: Value) -> Result<Preference, RowProblem> {
        let Value::Object(fields) = row else { unreachable!("rows are objects") };
        assert_eq!(Shape::recognise(&fields)?, Shape::Preference);
        match Shape::Preference.parse(fields, &Mapping::default())? {
            Row::Preference(preference) => Ok(*preference),
            other => panic!("{other:?}"),
        }
    }

    /// Prompt and reply of a row as text, messages with their roles' first letters.
    fn told(row: &Row) -> String {
        match row.clone().into_document(true).unwrap() {
            Document::Completion(row) => format!("{}|{}", row.prompt, row.completion),
            Document::Chat(conversation) => {
                let told = |m: &super::super::Message| {
                    format!("{}{}:{}", &m.role.name()[..1], if m.train { "+" } else { "" }, m.text())
                };
                conversation.messages.iter().map(told).collect::<Vec<_>>().join(" ")
            }
            Document::Text(text) => text,
        }
    }

    fn all(row: Value) -> Vec<String> {
        let read = read(row).unwrap();
        std::iter::once(&read.chosen).chain(&read.rejected).map(told).collect()
    }

    #[test]
    fn prompts_and_replies_are_texts_or_messages_in_any_mixture() {
        let user = json!({"role": "user", "content": "2+2?"});
        let says = |text: &str| json!({"role": "assistant", "content": text});
        let expected = ["u:2+2? a+:4", "u:2+2? a+:5"];
        for row in [
            json!({"prompt": [user], "chosen": [says("4")], "rejected": [says("5")]}),
            json!({"prompt": [user], "chosen": says("4"), "rejected": says("5")}),
            json!({"prompt": [user], "chosen": "4", "rejected": "5"}),
            json!({"prompt": "2+2?", "chosen": [says("4")], "rejected": [says("5")]}),
            json!({"prompt": "2+2?", "chosen": [user, says("4")], "rejected": [user, says("5")]}),
            json!({"chosen": [user, says("4")], "rejected": [user, says("5")]}),
            json!({"chosen": json!([user, says("4")]).to_string(), "rejected": json!([user, says("5")]).to_string()}),
        ] {
            assert_eq!(all(row.clone()), expected, "{row}");
        }
        assert_eq!(all(json!({"prompt": "a", "chosen": " b", "rejected": " c"})), ["a| b", "a| c"]);
        assert_eq!(
            all(json!({"chosen": "Human: hi Assistant: hello", "rejected": "Human: hi Assistant: hey"})),
            ["Human: hi Assistant:| hello", "Human: hi Assistant:| hey"]
        );
    }

    /// Who trains answers in JSON has them as texts.
    #[test]
    fn a_text_that_is_json_is_a_text() {
        for (chosen, rejected) in
            [(r#"{"a": 1}"#, "no"), ("[1, 2]", "[]"), (r#"["a", "b"]"#, r#"{"b": 2}"#), ("{}", "[[1]]")]
        {
            let row = json!({"prompt": "[3]", "chosen": chosen, "rejected": rejected});
            assert_eq!(all(row), [format!("[3]|{chosen}"), format!("[3]|{rejected}")]);
        }
    }

    #[test]
    fn several_may_be_rejected() {
        assert_eq!(all(json!({"prompt": "a", "chosen": "b", "rejected": ["c", "d"]})), ["a|b", "a|c", "a|d"]);
        let says = |text: &str| json!([{"role": "assistant", "content": text}]);
        let row = json!({"prompt": "a", "chosen": says("b"), "rejected": [says("c"), says("d")]});
        assert_eq!(all(row), ["u:a a+:b", "u:a a+:c", "u:a a+:d"]);
    }

    #[test]
    fn replies_of_the_prompt_are_not_trained() {
        let said = |role: &str, text: &str| json!({"role": role, "content": text});
        let begin = [said("user", "a"), said("assistant", "b"), said("user", "c")];
        let with = |reply: &str| {
            let mut all = begin.to_vec();
            all.push(said("assistant", reply));
            all
        };
        let row = json!({"chosen": with("d"), "rejected": with("e"), "weight": "2", "margin": 0.5});
        assert_eq!(all(row.clone()), ["u:a a:b u:c a+:d", "u:a a:b u:c a+:e"]);
        let read = read(row).unwrap();
        assert_eq!((read.weight, read.margin), (2.0, 0.5));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let says = |role: &str, text: &str| json!([{"role": role, "content": text}]);
        for (row, expected) in [
            (json!({"prompt": "a", "chosen": "b", "rejected": 3}), "rejected"),
            (json!({"prompt": "a", "chosen": "b", "rejected": []}), "rejected"),
            (
                json!({"prompt": "a", "chosen": "b", "rejected": vec!["c"; 33]}),
                "33 rejected replies, more than 32",
            ),
            (json!({"prompt": "a", "chosen": "b", "rejected": "b"}), "rejected"),
            (json!({"prompt": "a", "chosen": "", "rejected": "b"}), "chosen"),
            (json!({"prompt": "a", "chosen": "b", "rejected": says("assistant", "c")}), "rejected"),
            (json!({"prompt": "a", "chosen": "b", "rejected": "c", "weight": -1}), "weight"),
            (json!({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "x"}), "margin"),
            (json!({"chosen": says("user", "b"), "rejected": says("assistant", "c")}), "begin with"),
            (
                json!({"prompt": "a", "chosen": says("user", "b"), "rejected": says("user", "c")}),
                "begin with",
            ),
        ] {
            let told = read(row.clone()).unwrap_err().to_string();
            assert!(told.contains(expected), "{row}: {told}");
        }
    }
}
