//! Judged replies: a row of any other shape with `"label": true` or `false`, which says whether its reply is good.

use serde_json::Value;

use super::preference::number;
use super::{Fields, Mapping, Row, Shape, kind};
use crate::error::RowProblem;

/// A reply that is good or bad by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The prompt with its reply.
    pub row: Row,
    /// Whether the reply is good.
    pub is_desirable: bool,
    /// How much the row counts.
    pub weight: f32,
}

/// The key that says whether a reply is good.
pub(super) const LABEL: &str = "label";

pub(super) fn parse(
    mut fields: Fields,
    mapping: &Mapping,
    passed_over: &mut Vec<String>,
) -> Result<Row, RowProblem> {
    let label = fields.shift_remove(LABEL).unwrap_or_default();
    let is_desirable = match &label {
        Value::Bool(label) => *label,
        Value::Number(number) if number.as_f64() == Some(1.0) => true,
        Value::Number(number) if number.as_f64() == Some(0.0) => false,
        Value::String(text) if ["true", "1"].contains(&text.trim().to_lowercase().as_str()) => true,
        Value::String(text) if ["false", "0"].contains(&text.trim().to_lowercase().as_str()) => false,
        other => {
            let want = "true or false";
            return Err(RowProblem::WrongType { field: LABEL.into(), want, found: kind(other) });
        }
    };
    let weight = number(&mut fields, "weight", 1.0)?;
    let row = match Shape::recognise(&fields)? {
        Shape::Preference => {
            let why = "the row has chosen and rejected replies, which say it already";
            return Err(RowProblem::Refused { field: LABEL.into(), why });
        }
        shape => shape.read(fields, mapping, passed_over)?,
    };
    Ok(Row::Judged(Box::new(Judged { row, is_desirable, weight })))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(row: &Value) -> Result<Judged, RowProblem> {
        let fields = row.as_object().unwrap().clone();
        assert_eq!(Shape::recognise(&fields)?, Shape::Judged);
        match Shape::Judged.parse(fields, &Mapping::default())? {
            Row::Judged(judged) => Ok(*judged),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_row_of_any_shape_has_a_label() {
        for (label, expected) in [
            (json!(true), true),
            (json!(0), false),
            (json!("False"), false),
            (json!("1"), true),
            (json!(1.0), true),
        ] {
            for mut row in [
                json!({"prompt": "a", "completion": "b"}),
                json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
                json!({"question": "a", "answer": "b", "weight": 0.5}),
            ] {
                row["label"] = label.clone();
                let read = read(&row).unwrap();
                assert_eq!(read.is_desirable, expected, "{row}");
                assert_eq!(read.weight, if row.get("weight").is_some() { 0.5 } else { 1.0 });
            }
        }
    }

    #[test]
    fn what_is_no_label_is_refused() {
        for label in [json!(2), json!("good"), json!(null), json!([true])] {
            let row = json!({"prompt": "a", "completion": "b", "label": label});
            let told = read(&row).unwrap_err().to_string();
            assert!(told.contains("label") && told.contains("true or false"), "{told}");
        }
    }
}
