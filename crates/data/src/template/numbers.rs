//! Numbers that JSON has in Python and `serde_json` does not hold, given back to templates as numbers.

use std::fmt;
use std::sync::Arc;

use minijinja::Value;
use minijinja::value::{Object, ObjectRepr, ValueKind};

use crate::json::odd_number;

/// An integer of more than 128 bits: written as it is, and nothing else.
#[derive(Debug)]
pub(super) struct BigInteger(pub(super) String);

impl Object for BigInteger {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A value with its numbers in place of the texts that stand for them, if there are any.
pub(super) fn restored(value: Value, has_any: impl FnOnce() -> bool) -> Value {
    if has_any() { restore(&value) } else { value }
}

/// Values of rows are as deep as the reader of JSON allows, and no deeper.
fn restore(value: &Value) -> Value {
    match value.kind() {
        ValueKind::String => value.as_str().and_then(odd_number).map_or_else(|| value.clone(), number),
        ValueKind::Seq => value
            .try_iter()
            .map_or_else(|_| value.clone(), |items| items.map(|item| restore(&item)).collect()),
        ValueKind::Map => {
            let entry = |key: Value| Some((key.clone(), restore(&value.get_item(&key).ok()?)));
            let entries = |keys: minijinja::value::ValueIter| Value::from_pairs(keys.filter_map(entry));
            value.try_iter().map_or_else(|_| value.clone(), entries)
        }
        _ => value.clone(),
    }
}

fn number(literal: &str) -> Value {
    match literal {
        "NaN" => f64::NAN.into(),
        "Infinity" => f64::INFINITY.into(),
        "-Infinity" => f64::NEG_INFINITY.into(),
        integer => match (integer.parse::<i128>(), integer.parse::<u128>()) {
            (Ok(number), _) => number.into(),
            (_, Ok(number)) => number.into(),
            _ => Value::from_object(BigInteger(integer.to_owned())),
        },
    }
}
