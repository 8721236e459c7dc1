//! The fields of a request, each taken once by its name, so that what is left over is what nobody reads.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::ApiError;

/// Fields that are nobody's yet. One that is `null` is as one that is not there.
pub struct Fields {
    map: Map<String, Value>,
    /// What stands before a field's name in messages: `messages[2].`.
    place: String,
}

impl Fields {
    /// The fields of a body.
    ///
    /// # Errors
    /// A body that is no JSON object, and a key that is there twice.
    pub fn of_body(body: &[u8]) -> Result<Self, ApiError> {
        let value = crate::json::read(body).map_err(|error| {
            ApiError::bad(format!("the body cannot be read: {error}; send one JSON object"))
        })?;
        match value {
            Value::Object(map) => Ok(Fields { map, place: String::new() }),
            other => Err(ApiError::bad(format!("the body is {}; send a JSON object", kind(&other)))),
        }
    }

    /// The fields of a value that stands at `place`.
    ///
    /// # Errors
    /// A value that is no object.
    pub fn of_value(value: Value, place: &str) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Fields { map, place: format!("{place}.") }),
            other => Err(ApiError::field(place, format!("is {}; an object is needed", kind(&other)))),
        }
    }

    /// The name of a field with its place.
    pub fn name(&self, field: &str) -> String {
        format!("{}{field}", self.place)
    }

    /// Takes a field as it is.
    pub fn value(&mut self, field: &str) -> Option<Value> {
        self.map.remove(field).filter(|value| !value.is_null())
    }

    /// Whether there is a field that is not taken yet.
    pub fn has(&self, field: &str) -> bool {
        self.map.get(field).is_some_and(|value| !value.is_null())
    }

    /// An error about a field.
    pub fn wrong(&self, field: &str, rule: impl AsRef<str>) -> ApiError {
        ApiError::field(&self.name(field), rule)
    }

    /// Takes a text.
    ///
    /// # Errors
    /// Something else.
    pub fn text(&mut self, field: &str) -> Result<Option<String>, ApiError> {
        match self.value(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(field, format!("is {}; a string is needed", kind(&other)))),
        }
    }

    /// Takes a text that has to be there.
    ///
    /// # Errors
    /// Something else, or nothing.
    pub fn needed_text(&mut self, field: &str) -> Result<String, ApiError> {
        self.text(field)?.ok_or_else(|| self.wrong(field, "is missing; give a string"))
    }

    /// Takes true or false.
    ///
    /// # Errors
    /// Something else.
    pub fn flag(&mut self, field: &str) -> Result<bool, ApiError> {
        match self.value(field) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(self.wrong(field, format!("is {}; give true or false", kind(&other)))),
        }
    }

    /// Takes a number within limits.
    ///
    /// # Errors
    /// Something else, or a number beyond the limits.
    pub fn number(&mut self, field: &str, within: RangeInclusive<f64>) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.value(field) else { return Ok(None) };
        match value.as_f64().filter(|number| within.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let (low, high) = (within.start(), within.end());
                Err(self.wrong(field, format!("is {}; give a number from {low} to {high}", shown(&value))))
            }
        }
    }

    /// Takes a whole number within limits.
    ///
    /// # Errors
    /// As [`Fields::number`].
    pub fn whole(&mut self, field: &str, within: RangeInclusive<u64>) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.value(field) else { return Ok(None) };
        match value.as_u64().filter(|number| within.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let (low, high) = (within.start(), within.end());
                let rule = format!("is {}; give a whole number from {low} to {high}", shown(&value));
                Err(self.wrong(field, rule))
            }
        }
    }

    /// All that is left.
    pub fn rest(self) -> Map<String, Value> {
        self.map
    }

    /// Refuses what is left, but for `idle` fields, which change nothing in an answer.
    ///
    /// # Errors
    /// A field that nobody reads.
    pub fn finish(self, idle: &[&str]) -> Result<(), ApiError> {
        let left = self.map.iter().find(|(name, value)| !value.is_null() && !idle.contains(&name.as_str()));
        match left {
            None => Ok(()),
            Some((name, _)) => {
                // A name is the client's, and may be long.
                let name = self.name(&name.chars().take(80).collect::<String>());
                let rule = "is not supported, and may change the answer; leave it out";
                Err(ApiError::field(&name, rule).code("unsupported_field"))
            }
        }
    }
}

/// A value in messages: numbers as they are, the rest by its kind.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        other => kind(other).to_owned(),
    }
}

/// The kind of a value, in words.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(true) => "true",
        Value::Bool(false) => "false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(body: &str) -> Fields {
        Fields::of_body(body.as_bytes()).unwrap_or_else(|error| panic!("{error:?}"))
    }

    #[test]
    fn what_nobody_reads_is_refused_by_its_name() {
        let mut some = fields(r#"{"a": 1, "user": "me", "b": null}"#);
        assert_eq!(some.whole("a", 0..=9), Ok(Some(1)));
        assert_eq!(some.finish(&["user"]), Ok(()));
        let left = fields(r#"{"best_of": 3}"#).finish(&["user"]).unwrap_err();
        assert_eq!((left.field.as_deref(), left.status.as_u16()), (Some("best_of"), 400));
        assert!(left.message.contains("`best_of`"), "{left:?}");
    }

    #[test]
    fn values_of_another_kind_or_beyond_the_limits_are_refused() {
        let mut some = fields(r#"{"n": 1e9, "t": "hot", "f": 1, "x": -0.5, "m": {}}"#);
        assert!(some.whole("n", 1..=16).unwrap_err().message.contains("from 1 to 16"));
        assert!(some.number("t", 0.0..=2.0).unwrap_err().message.contains("is a string"));
        assert!(some.flag("f").unwrap_err().message.contains("true or false"));
        assert!(some.number("x", 0.0..=2.0).unwrap_err().message.contains("-0.5"));
        assert!(some.text("m").unwrap_err().message.contains("is an object"));
        assert!(some.needed_text("model").unwrap_err().message.contains("is missing"));
    }

    #[test]
    fn bodies_that_are_no_objects_are_refused() {
        let twice = Fields::of_body(br#"{"model": "a", "model": "b"}"#).err().expect("an error");
        assert!(twice.message.contains("the key `model` is there twice"), "{twice:?}");
        for body in ["", "[]", "null", "{", "\u{feff}{}", "{\"a\": 1} x", &"[".repeat(100_000)] {
            assert!(Fields::of_body(body.as_bytes()).is_err(), "{body:.20}");
        }
        assert!(Fields::of_body(b"{\"a\": \"\xff\"}").is_err());
        let deep = format!("{{\"a\": {}1{}}}", "[".repeat(5000), "]".repeat(5000));
        assert!(Fields::of_body(deep.as_bytes()).is_err());
    }
}
