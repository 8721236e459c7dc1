//! Texts as JSON values, with numbers that an f64 cannot hold.

use std::fmt::Write as _;

use serde::de::IgnoredAny;
use serde_json::Value;

/// What stands before the digits of a number that is kept as text: no JSON of people has it.
const NUMBER: &str = "\u{0}number ";

/// A text as a JSON value; `None` if it is none. A number beyond the range of an f64 becomes a string that no other value equals.
pub fn parse(text: &str) -> Option<Value> {
    match serde_json::from_str(text) {
        Ok(value) => Some(value),
        Err(_) => {
            // It has the grammar of JSON, so that only a number can be what was refused.
            serde_json::from_str::<IgnoredAny>(text).ok()?;
            serde_json::from_str(&with_numbers_as_text(text)?).ok()
        }
    }
}

/// The text with each number beyond range as a string; `None` if it has none.
fn with_numbers_as_text(text: &str) -> Option<String> {
    let (mut written, mut rest) = (String::with_capacity(text.len()), text);
    let mut has_some = false;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => length_of_string(rest),
            '-' | '0'..='9' => rest.find(|c: char| !"+-.eE0123456789".contains(c)).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        let (piece, after) = rest.split_at(length);
        let is_number = matches!(first, '-' | '0'..='9');
        match is_number && piece.parse::<f64>().is_ok_and(f64::is_infinite) {
            true => {
                has_some = true;
                let _ = write!(written, "{}", Value::String(format!("{NUMBER}{piece}")));
            }
            false => written.push_str(piece),
        }
        rest = after;
    }
    has_some.then_some(written)
}

/// The bytes of the string that a text begins with, or of all of it if the string has no end.
fn length_of_string(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_beyond_range_are_json_and_what_is_none_is_none() {
        for text in ["1e400", "[-1e400, 2]", r#"{"a\\":1e400,"b":"\"1e400"}"#, "1", r#""1e400""#] {
            assert!(parse(text).is_some(), "{text}");
        }
        for text in ["", "1e400 1", "[1e400", "01e400", "1e400x", "--1e400", "\"1e400", "1.e400", "inf"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse("1e400"), Some(Value::from("\u{0}number 1e400")));
    }
}
