//! JSON of strangers: read only if what it unfolds to is bounded, and as Python's `json` reads it.
//!
//! Python reads integers of any size, and `NaN`, `Infinity` and `-Infinity`, which its own writer leaves in rows (pandas
//! writes `NaN` for an empty cell). [`Value`] holds none of them: here they are texts that begin with a mark, which
//! whoever looks for a text takes for a number ([`odd_number`]) and the template engine gets back as one.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
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
/// So many keys of a text that are there twice are named.
const MOST_TWICE: usize = 16;

/// Reads a text of at most [`MOST_VALUES`]. Depth is bounded by the library.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    refuse_many(text)?;
    serde_json::from_str(text)
}

fn refuse_many(text: &str) -> serde_json::Result<()> {
    match holds_more(text.as_bytes(), MOST_VALUES) {
        false => Ok(()),
        true => Err(serde_json::Error::custom(format!("it holds more than {MOST_VALUES} values"))),
    }
}

/// As [`read`]; `twice` gets the names of keys that an object has more than once, of which the last counts.
fn read_noting(text: &str, twice: &mut Vec<String>) -> serde_json::Result<Value> {
    refuse_many(text)?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Noting { at: Place::Whole, twice }.deserialize(&mut deserializer)?;
    deserializer.end().map(|()| value)
}

/// Reads a value as Python's `json.loads` does. A number that [`Value`] does not hold is a text with a mark in front,
/// which templates get back as a number.
///
/// # Errors
/// What is not JSON, nested deeper than 128, or holds more than 262,144 values; columns are those of `text`.
pub fn value(text: &str) -> serde_json::Result<Value> {
    value_noting(text, &mut Vec::new())
}

/// As [`value`]; `twice` gets the names of keys that an object has more than once, as `messages[].content`. Of them the last
/// counts, as in Python.
///
/// # Errors
/// As [`value`].
pub(crate) fn value_noting(text: &str, twice: &mut Vec<String>) -> serde_json::Result<Value> {
    let read_plainly = read_noting(text, twice);
    let is_plain = match &read_plainly {
        Ok(value) => !any(value, &mut |value| value.as_f64().is_some_and(is_suspicious)),
        Err(error) => error.is_data(),
    };
    if is_plain {
        return read_plainly;
    }
    match (rewritten(text, Rewriting::Blank), rewritten(text, Rewriting::Mark)) {
        (Some(blank), Some(marked)) => {
            twice.clear();
            read::<Value>(&blank).and_then(|_| read_noting(&marked, twice))
        }
        _ => read_plainly,
    }
}

/// The message of an error, without line and column.
pub(crate) fn told(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
    let found = message.strip_prefix("invalid type: ").and_then(|rest| rest.strip_suffix(", expected a map"));
    match (message.strip_prefix("EOF while parsing "), found) {
        (Some("a value"), _) => "it ends where a value is wanted".to_owned(),
        (Some(what), _) => format!("it ends inside {what}"),
        (None, Some(found)) => format!("expected an object, found a {found}"),
        // What begins with n, t or f is read as null, true or false.
        (None, None) if message == "expected ident" => {
            "it begins as null, true or false, and goes on otherwise".to_owned()
        }
        (None, None) => message.to_owned(),
    }
}

/// Keys that an object has more than once in a text that a table holds as one of its values.
pub(crate) fn twice_in_text(name: &str, text: &str, twice: &mut Vec<String>) {
    if !text.trim_start().starts_with(['[', '{']) {
        return;
    }
    let mut inside = Vec::new();
    if value_noting(text, &mut inside).is_ok() {
        let joined = |inner: String| {
            if inner.starts_with('[') { format!("{name}{inner}") } else { format!("{name}.{inner}") }
        };
        twice.extend(inside.into_iter().map(joined));
    }
}

/// The way to a value from the whole.
#[derive(Clone, Copy)]
enum Place<'a> {
    Whole,
    Item(&'a Place<'a>),
    Key(&'a Place<'a>, &'a str),
}

impl Place<'_> {
    fn name(&self) -> String {
        match self {
            Self::Whole => String::new(),
            Self::Item(list) => format!("{}[]", list.name()),
            Self::Key(Self::Whole, key) => (*key).to_owned(),
            Self::Key(object, key) => format!("{}.{key}", object.name()),
        }
    }
}

/// Reads a [`Value`] as it reads itself, and notes the keys that it would lose.
struct Noting<'a> {
    at: Place<'a>,
    twice: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Noting<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Noting<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        let mut item = || items.next_element_seed(Noting { at: Place::Item(&self.at), twice: self.twice });
        while let Some(item) = item()? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut object = serde_json::Map::new();
        while let Some(key) = items.next_key::<String>()? {
            let at = Place::Key(&self.at, &key);
            let value = items.next_value_seed(Noting { at, twice: self.twice })?;
            // Hostile rows have many.
            if object.contains_key(&key) && self.twice.len() < MOST_TWICE {
                let name = at.name();
                if !self.twice.contains(&name) {
                    self.twice.push(name);
                }
            }
            object.insert(key, value);
        }
        Ok(object.into())
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
    fn of_a_key_that_is_there_twice_the_last_counts_and_its_name_is_noted() {
        let read = |text: &str| {
            let mut twice = Vec::new();
            let value = value_noting(text, &mut twice).unwrap_or_else(|e| panic!("{text}: {e}"));
            (value.to_string(), twice)
        };
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(read(r#"{"a":1,"b":2,"a":3}"#), (r#"{"a":3,"b":2}"#.into(), own(&["a"])));
        let nested = r#"{"m":[{"c":1,"c":2},{"c":{"x":1,"x":2,"x":3}},{"c":4,"c":5}]}"#;
        let last = r#"{"m":[{"c":2},{"c":{"x":3}},{"c":5}]}"#;
        assert_eq!(read(nested), (last.into(), own(&["m[].c", "m[].c.x"])));
        // The names are those of the text, also where numbers are read otherwise.
        let (value, twice) = read(r#"{"a":NaN,"a":123456789012345678901234567890}"#);
        assert!(value.contains("123456789012345678901234567890"), "{value}");
        assert_eq!(twice, ["a"]);
        for text in
            [r#"{"a":[1,-2,3.5,null,true,"x\u00e9",{}],"b":{"a":1e300}}"#, "[[],{}]", "18446744073709551615"]
        {
            let (found, twice) = read(text);
            assert_eq!(
                (found, twice),
                (serde_json::from_str::<Value>(text).expect("JSON").to_string(), vec![])
            );
        }
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
