//! JSON as Python's `json.dumps(value, ensure_ascii=False)` writes it, which is what models with tools were trained
//! on: `", "` and `": "` between items, Python's notation of floats, keys in the order they were given.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

use super::numbers::BigInteger;
use super::python::{as_integer, error, is_generator, is_list, is_tuple, sorted};

/// Deeper values are refused, as Python's recursion ends about there: writing them takes stack.
const DEEPEST: usize = 900;
/// Spaces of an indent; more ask for memory and nothing else.
const WIDEST: usize = 64;

/// How to lay the text out.
pub(super) struct Style {
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
    ascii: bool,
}

impl Style {
    /// The style that `json.dumps` takes from its arguments of these names.
    pub(super) fn new(
        indent: Option<&Value>,
        separators: Option<&Value>,
        sort_keys: bool,
        ascii: bool,
    ) -> Result<Self, Error> {
        let indent = match indent {
            None => None,
            Some(text) if text.kind() == ValueKind::String => {
                Some(text.as_str().unwrap_or_default().to_string())
            }
            Some(count) => Some(" ".repeat(usize::try_from(as_integer(count)?).unwrap_or(0))),
        };
        if indent.as_ref().is_some_and(|indent| indent.len() > WIDEST) {
            return Err(error(format!("tojson: an indent of more than {WIDEST} characters")));
        }
        let (item, key) =
            match separators.map(|two| two.try_iter().map(Iterator::collect::<Vec<_>>)).transpose()? {
                Some(two) => match two.iter().map(Value::as_str).collect::<Vec<_>>().as_slice() {
                    [Some(item), Some(key)] => (item.to_string(), key.to_string()),
                    _ => return Err(error("tojson: separators must be two texts")),
                },
                None => (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()),
            };
        Ok(Self { indent, item, key, sort_keys, ascii })
    }
}

/// The JSON text of a value.
pub(super) fn dumps(state: &State, value: &Value, style: &Style) -> Result<String, Error> {
    let mut text = String::new();
    write(state, &mut text, value, style, 0)?;
    Ok(text)
}

fn write(state: &State, text: &mut String, value: &Value, style: &Style, depth: usize) -> Result<(), Error> {
    let refuse = |what: &str| Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: {what}")));
    if depth > DEEPEST {
        return refuse("value is nested too deeply");
    }
    state.consume_fuel(1)?;
    if let Some(BigInteger(digits)) = value.downcast_object_ref() {
        text.push_str(digits);
        return Ok(());
    }
    match value.kind() {
        ValueKind::None => text.push_str("null"),
        ValueKind::Bool => text.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number if value.is_integer() => {
            let _ = write!(text, "{value}");
        }
        ValueKind::Number => text.push_str(&float(f64::try_from(value.clone())?)),
        ValueKind::String => string(state, text, value.as_str().unwrap_or_default(), style.ascii)?,
        ValueKind::Seq | ValueKind::Iterable
            if !is_generator(value) && (is_list(value) || is_tuple(value)) =>
        {
            let items: Vec<Value> = value.try_iter()?.collect();
            brackets(text, ('[', ']'), items.len(), style, depth, |text, i| {
                write(state, text, &items[i], style, depth + 1)
            })?;
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sort_keys {
                let pairs = keys.into_iter().map(|key| (key.clone(), key)).collect();
                keys = sorted(state, pairs, false)?;
            }
            brackets(text, ('{', '}'), keys.len(), style, depth, |text, i| {
                // Python makes text of keys that are numbers, truth values or None.
                match keys[i].as_str() {
                    Some(key) => string(state, text, key, style.ascii)?,
                    None if matches!(
                        keys[i].kind(),
                        ValueKind::Number | ValueKind::Bool | ValueKind::None
                    ) =>
                    {
                        let mut plain = String::new();
                        write(state, &mut plain, &keys[i], style, depth + 1)?;
                        string(state, text, &plain, style.ascii)?;
                    }
                    None => return refuse("keys must be str, int, float, bool or None"),
                }
                text.push_str(&style.key);
                write(state, text, &value.get_item(&keys[i])?, style, depth + 1)
            })?;
        }
        ValueKind::Undefined => return refuse("value is undefined"),
        kind => return refuse(&format!("a value of kind {kind} has no JSON form")),
    }
    Ok(())
}

fn brackets(
    text: &mut String,
    (open, close): (char, char),
    items: usize,
    style: &Style,
    depth: usize,
    mut item: impl FnMut(&mut String, usize) -> Result<(), Error>,
) -> Result<(), Error> {
    let new_line = |text: &mut String, depth: usize| {
        if let Some(indent) = style.indent.as_ref().filter(|_| items > 0) {
            text.push('\n');
            text.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    };
    text.push(open);
    for i in 0..items {
        if i > 0 {
            text.push_str(&style.item);
        }
        new_line(text, depth + 1);
        item(text, i)?;
    }
    new_line(text, depth);
    text.push(close);
    Ok(())
}

fn string(state: &State, text: &mut String, value: &str, ascii: bool) -> Result<(), Error> {
    state.consume_fuel(value.len() as u64 / 64)?;
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            c if c < ' ' || c == '\u{7f}' && ascii => {
                let _ = write!(text, "\\u{:04x}", c as u32);
            }
            c if ascii && !c.is_ascii() => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(text, "\\u{unit:04x}");
                }
            }
            c => text.push(c),
        }
    }
    text.push('"');
    Ok(())
}

/// Python's `repr` of a float: the shortest digits that read back the same, with an exponent outside 1e-4..1e16.
pub(super) fn float(x: f64) -> String {
    if x.is_nan() {
        return "NaN".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let scientific = format!("{x:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if x != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{x}");
    if plain.contains('.') { plain } else { format!("{plain}.0") }
}

#[cfg(test)]
mod tests {
    use super::float;

    #[test]
    fn floats_read_as_python_writes_them() {
        for (x, want) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e15, "1500000000000000.0"),
            (1e16, "1e+16"),
            (1.25e300, "1.25e+300"),
        ] {
            assert_eq!(float(x), want);
        }
    }
}
