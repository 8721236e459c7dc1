//! Rows to classify: `{"text": ..., "label": ...}`, with a `prompt` or `messages` in the place of the text. The label stands in a
//! column of any name, as a text or a whole number.
//!
//! Texts are plain, as classifiers of transformers take them: without a chat template, and with the special tokens that the
//! tokenizer adds. Messages are rendered by the template, without a generation prompt behind them.

use serde_json::Value;

use super::chat::{self, messages_from_text};
use super::{Document, Fields, Mapping, Row, Shape, keys, kind, not_blank, take_string};
use crate::error::RowProblem;
use crate::json;

/// What rows are classified by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classes {
    /// The column that holds the label, by its name in the file.
    pub column: String,
    /// All labels, in the order of their numbers.
    pub labels: Vec<String>,
}

impl Classes {
    /// The number of a label.
    ///
    /// # Errors
    /// One that is none of the labels.
    pub fn number(&self, label: &str) -> Result<u32, RowProblem> {
        match self.labels.iter().position(|known| known == label) {
            Some(number) => Ok(number as u32),
            None => Err(RowProblem::UnknownLabel { label: label.to_owned(), known: self.labels.clone() }),
        }
    }
}

/// A text with its label.
#[derive(Debug, Clone, PartialEq)]
pub struct Labelled {
    /// The text or conversation to classify.
    pub document: Document,
    /// Its label.
    pub label: String,
}

impl Labelled {
    /// Reads a row, as its file has it; `passed_over` gets the names of the keys that nothing reads.
    ///
    /// # Errors
    /// A row without a label or a text, and fields that are not what they should be.
    pub fn read(
        mut fields: Fields,
        classes: &Classes,
        mapping: &Mapping,
        passed_over: &mut Vec<String>,
    ) -> Result<Row, RowProblem> {
        // The label's column has the name that its file gives it.
        let label = take_label(&mut fields, classes)?;
        parse(mapping.rename(fields)?, label, mapping, passed_over)
    }
}

/// Fields that hold messages.
const CONVERSATIONS: [(&str, Shape, &chat::Keys); 3] = [
    ("messages", Shape::Chat, &chat::MESSAGES),
    ("conversations", Shape::ShareGpt, &chat::SHAREGPT),
    ("prompt", Shape::Chat, &chat::MESSAGES),
];
/// Fields that hold a text.
const TEXTS: [&str; 2] = ["text", "prompt"];

/// Reads a row whose label was [taken](take_label) out of it.
fn parse(
    mut fields: Fields,
    label: String,
    mapping: &Mapping,
    passed_over: &mut Vec<String>,
) -> Result<Row, RowProblem> {
    for (name, shape, names) in CONVERSATIONS {
        let Some(value) = fields.get(name).cloned().map(messages_from_text).filter(Value::is_array) else {
            continue;
        };
        fields.shift_remove(name);
        fields.insert(names.list.into(), value);
        keys::check(shape, &fields, passed_over)?;
        let document = Document::Chat(chat::parse_any(fields, names, mapping)?);
        return Ok(Row::Labelled(Box::new(Labelled { document, label })));
    }
    let Some(name) = TEXTS.into_iter().find(|name| fields.contains_key(*name)) else {
        let keys = fields.keys().take(12).map(|key| key.chars().take(40).collect()).collect();
        return Err(RowProblem::NoText { keys });
    };
    let text = take_string(&mut fields, name, Shape::Text)?;
    not_blank(&text, name)?;
    keys::check(Shape::Text, &fields, passed_over)?;
    Ok(Row::Labelled(Box::new(Labelled { document: Document::Text(text), label })))
}

/// Takes the label out of a row, before columns get other names.
fn take_label(fields: &mut Fields, classes: &Classes) -> Result<String, RowProblem> {
    let column = &classes.column;
    let wrong = |value: &Value| RowProblem::WrongType {
        field: column.clone(),
        want: "a text or a whole number, the label",
        found: kind(value),
    };
    let label = match fields.shift_remove(column) {
        None | Some(Value::Null) => None,
        Some(value) if json::is_nan(&value) => None,
        Some(Value::Bool(label)) => Some(label.to_string()),
        Some(Value::Number(number)) => match number.as_i64() {
            Some(label) => Some(label.to_string()),
            None => return Err(wrong(&Value::Number(number))),
        },
        Some(Value::String(text)) => match json::odd_number(&text) {
            Some(_) => return Err(wrong(&Value::String(text))),
            None => Some(text.trim().to_owned()).filter(|label| !label.is_empty()),
        },
        Some(other) => return Err(wrong(&other)),
    };
    label.ok_or_else(|| RowProblem::NoLabel { column: column.clone() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(row: Value) -> Result<Labelled, RowProblem> {
        let Value::Object(mut fields) = row else { unreachable!("rows are objects") };
        let label = take_label(&mut fields, &Classes { column: "label".into(), labels: Vec::new() })?;
        match parse(fields, label, &Mapping::default(), &mut Vec::new())? {
            Row::Labelled(row) => Ok(*row),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_row_has_a_text_or_messages_and_a_label() {
        let user = json!({"role": "user", "content": "a"});
        for (label, expected) in
            [(json!("good"), "good"), (json!(3), "3"), (json!(" b "), "b"), (json!(true), "true")]
        {
            for (row, text) in [
                (json!({"text": "a"}), "a"),
                (json!({"prompt": "a", "idx": 4}), "a"),
                (json!({"prompt": "[1, 2]"}), "[1, 2]"),
            ] {
                let mut row = row;
                row["label"] = label.clone();
                let found = read(row).unwrap();
                assert_eq!(found.label, expected);
                assert_eq!(found.document, Document::Text(text.into()));
            }
            for row in [
                json!({"messages": [user], "label": label}),
                json!({"prompt": [user], "label": label}),
                json!({"conversations": [{"from": "human", "value": "a"}], "label": label}),
                json!({"messages": json!([user]).to_string(), "label": label}),
            ] {
                let Document::Chat(found) = read(row).unwrap().document else { panic!("messages") };
                assert_eq!((found.messages.len(), found.messages[0].text()), (1, "a"));
            }
        }
    }

    #[test]
    fn what_is_no_label_or_has_no_text_is_refused() {
        for (row, told) in [
            (json!({"text": "a"}), "`label`"),
            (json!({"text": "a", "label": null}), "`label`"),
            (json!({"text": "a", "label": " "}), "`label`"),
            (json!({"text": "a", "label": 0.5}), "a whole number"),
            (json!({"text": "a", "label": ["x"]}), "a list"),
            (json!({"sentence": "a", "label": 1}), "sentence"),
            (json!({"text": "", "label": 1}), "text"),
        ] {
            let found = read(row.clone()).unwrap_err().to_string();
            assert!(found.contains(told), "{row}: {found}");
        }
    }
}
