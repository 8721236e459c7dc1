//! JSON of strangers: read only if what it unfolds to is bounded, and as Python's `json` reads it.
//!
//! Python reads integers of any size, and `NaN`, `Infinity` and `-Infinity`, which its own writer leaves in rows (pandas
//! writes `NaN` for an empty cell). [`Value`] holds none of them: here they are texts that begin with a mark, which
//! whoever looks for a text takes for a number ([`odd_number`]) and the template engine gets back as one.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde::de::Error as _;
use serde_json::Value;

/// Begins the text of a number that [`Value`] does not hold. Noncharacters, which text has no reason to hold.
const NUMBER: &str = "\u{FDDC}\u{FDDD}number:";
/// The most digits that Python reads as an integer.
const MOST_DIGITS: usize = 4300;
/// The least that does not fit 64 bits.
const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;

/// The most values that a text may hold. A value takes some 80 bytes, however short its text: `[0,0,0,...]` unfolds to
/// forty times its length. Rows and settings have a few thousand.
pub(crate) const MOST_VALUES: usize = 1 << 18;

/// Reads a text of at most [`MOST_VALUES`]. Depth is bounded by the library.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    match holds_more(text.as_bytes(), MOST_VALUES) {
        false => serde_json::from_str(text),
        true => Err(serde_json::Error::custom(format!("it holds more than {MOST_VALUES} values"))),
    }
}

/// Reads a value as Python's `json.loads` does. A number that [`Value`] does not hold is a text with a mark in front,
/// which templates get back as a number.
///
/// # Errors
/// What is not JSON, nested deeper than 128, or holds more than 262,144 values; columns are those of `text`.
pub fn value(text: &str) -> serde_json::Result<Value> {
    let read_plainly = read::<Value>(text);
    let is_plain = match &read_plainly {
        Ok(value) => !any(value, &mut |value| value.as_f64().is_some_and(is_suspicious)),
        Err(error) => error.is_data(),
    };
    if is_plain {
        return read_plainly;
    }
    match (rewritten(text, Rewriting::Blank), rewritten(text, Rewriting::Mark)) {
        (Some(blank), Some(marked)) => read::<Value>(&blank).and_then(|_| read(&marked)),
        _ => read_plainly,
    }
}

/// The literal of a number that [`Value`] does not hold: an integer, `NaN`, `Infinity` or `-Infinity`.
pub(crate) fn odd_number(text: &str) -> Option<&str> {
    let literal = text.strip_prefix(NUMBER)?;
    (odd_literal(literal).as_deref() == Some(literal)).then_some(literal)
}

/// Whether there is such a number anywhere in a value.
pub(crate) fn has_odd_number(value: &Value) -> bool {
    any(value, &mut |value| value.as_str().is_some_and(|text| odd_number(text).is_some()))
}

/// Whether it is the `NaN` of an empty cell.
pub(crate) fn is_nan(value: &Value) -> bool {
    value.as_str().and_then(odd_number) == Some("NaN")
}

/// Whether a value or one inside it is such.
fn any(value: &Value, is: &mut dyn FnMut(&Value) -> bool) -> bool {
    let mut waiting = vec![value];
    while let Some(value) = waiting.pop() {
        if is(value) {
            return true;
        }
        match value {
            Value::Array(items) => waiting.extend(items),
            Value::Object(items) => waiting.extend(items.values()),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    false
}

/// Whether a number may have been an integer that lost digits, or `-0`.
fn is_suspicious(number: f64) -> bool {
    number.abs() >= TWO_TO_63 || (number == 0.0 && number.is_sign_negative())
}

/// What takes the place of a number that [`Value`] does not hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rewriting {
    /// Its text behind a mark.
    Mark,
    /// As many bytes of no meaning, so that errors behind it keep their place.
    Blank,
}

/// The text with another in place of each such number; `None` if there is none.
fn rewritten(text: &str, how: Rewriting) -> Option<String> {
    let mut new = String::new();
    let (mut taken, mut at) = (0, 0);
    let bytes = text.as_bytes();
    let is_literal = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    while at < bytes.len() {
        if bytes[at] == b'"' {
            at = end_of_string(bytes, at);
            continue;
        }
        let length = bytes[at..].iter().take_while(|byte| is_literal(byte)).count();
        // Outside of strings there may be anything, and a place inside a character is none of a number.
        if let Some(literal) = text.get(at..at + length).and_then(odd_literal) {
            new.push_str(&text[taken..at]);
            match how {
                Rewriting::Blank => {
                    new.extend(std::iter::once('0').chain(std::iter::repeat_n(' ', length - 1)))
                }
                Rewriting::Mark if literal == "0" => new.push('0'),
                Rewriting::Mark => new.extend(["\"", NUMBER, &literal, "\""]),
            }
            taken = at + length;
        }
        at += length.max(1);
    }
    new.push_str(&text[taken..]);
    (taken > 0).then_some(new)
}

/// Where the string that begins at a quote ends: behind its other quote.
fn end_of_string(bytes: &[u8], quote: usize) -> usize {
    let mut at = quote + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// What Python makes of a literal that [`Value`] holds otherwise or not at all.
fn odd_literal(literal: &str) -> Option<Cow<'_, str>> {
    if ["NaN", "Infinity", "-Infinity"].contains(&literal) {
        return Some(literal.into());
    }
    let (sign, digits) = match literal.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", literal),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let fits = literal.parse::<i64>().is_ok() || literal.parse::<u64>().is_ok();
        return match (fits, digits) {
            (true, "0") if sign == "-" => Some("0".into()),
            (true, _) => None,
            (false, _) => (!digits.starts_with('0') && digits.len() <= MOST_DIGITS).then(|| literal.into()),
        };
    }
    // More than a double holds is infinite in Python.
    let is_infinite = literal.parse::<f64>().is_ok_and(f64::is_infinite);
    is_infinite.then(|| format!("{sign}Infinity").into())
}

/// Whether a text has more than so many commas and opening brackets outside its strings, one of which comes before every
/// value but the first.
fn holds_more(text: &[u8], values: usize) -> bool {
    if text.len() <= values {
        return false;
    }
    let (mut found, mut in_string, mut escaped) = (0, false, false);
    for byte in text {
        match byte {
            _ if in_string => {
                in_string = escaped || *byte != b'"';
                escaped = !escaped && *byte == b'\\';
            }
            b'"' => in_string = true,
            b',' | b'[' | b'{' => found += 1,
            _ => {}
        }
    }
    found > values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_python_reads_them() {
        let odd = |text: &str| {
            let value = value(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            value["v"].as_str().and_then(odd_number).map(str::to_owned)
        };
        for literal in [
            "NaN",
            "Infinity",
            "-Infinity",
            "123456789012345678901234567890",
            "-123456789012345678901234567890",
            "18446744073709551616",
            "-9223372036854775809",
        ] {
            assert_eq!(odd(&format!(r#"{{"a":"NaN","v": {literal}}}"#)).as_deref(), Some(literal));
        }
        assert_eq!(odd(r#"{"v":1e999}"#).as_deref(), Some("Infinity"));
        assert_eq!(odd(r#"{"v":-1e999}"#).as_deref(), Some("-Infinity"));
        for (plain, want) in [
            (r#"{"v":-0}"#, "0"),
            (r#"{"v":-0.0}"#, "-0.0"),
            (r#"{"v":1e30}"#, "1e+30"),
            (r#"{"v":18446744073709551615}"#, "18446744073709551615"),
            (r#"{"v":-9223372036854775808}"#, "-9223372036854775808"),
            (r#"{"v":"NaN"}"#, "\"NaN\""),
        ] {
            assert_eq!(value(plain).expect(plain)["v"].to_string(), want, "{plain}");
        }
    }

    #[test]
    fn what_python_does_not_read_is_an_error_at_its_place() {
        for (text, column) in [
            (r#"{"a":NaN,"v": }"#, 15),
            ("[Nan]", 2),
            ("[-NaN]", 3),
            ("[00000000000000000000000]", 3),
            ("NaN NaN", 5),
            ("[NaN, é]", 7),
            ("{\"a\\é\": NaN}", 5),
        ] {
            let error = value(text).expect_err(text);
            assert_eq!(error.column(), column, "{text}: {error}");
        }
        assert!(value(&format!("[{}]", "9".repeat(MOST_DIGITS))).is_ok());
        assert!(value(&format!("[{}]", "9".repeat(MOST_DIGITS + 1))).is_err());
    }

    #[test]
    fn values_are_counted_and_what_strings_say_is_not() {
        assert!(holds_more(b"[0,0,0,0]", 3));
        assert!(!holds_more(br#"["[,,,{,\",,\\"]"#, 3));
        assert!(holds_more(br#"["\\",{"a":[1]}]"#, 3));
        let flat = format!("[{}0]", "0,".repeat(MOST_VALUES));
        let error = read::<Value>(&flat).expect_err("too many").to_string();
        assert_eq!(error, "it holds more than 262144 values");
        let text = format!("[{:?}]", ",".repeat(2 * MOST_VALUES));
        assert!(read::<Value>(&text).is_ok());
    }
}
