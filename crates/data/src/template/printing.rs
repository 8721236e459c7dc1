//! Python's `str` and `repr` of values, which is how templates write them.

use std::fmt::Write;
use std::sync::LazyLock;

use minijinja::value::ValueKind;
use minijinja::{Error, Output, State, Value};
use regex::Regex;

use super::json;
use super::objects::{Namespace, Range, View};
use super::python::{error, is_tuple, type_name};

/// Writes a value where a template says `{{ value }}`.
pub(super) fn write(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => out.write_str(text).map_err(Error::from),
        None => out.write_str(&text(state, value)?).map_err(Error::from),
    }
}

/// Python's `str`.
pub(super) fn text(state: &State, value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(String::new()),
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_string()),
        _ => repr(state, value),
    }
}

/// Python's `repr`.
pub(super) fn repr(state: &State, value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    write_repr(state, &mut out, value)?;
    Ok(out)
}

fn write_repr(state: &State, out: &mut String, value: &Value) -> Result<(), Error> {
    state.consume_fuel(1)?;
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number if value.is_integer() => {
            let _ = write!(out, "{value}");
        }
        ValueKind::Number => out.push_str(&float(f64::try_from(value.clone())?)),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            state.consume_fuel(text.len() as u64 / 64)?;
            match value.is_safe() {
                true => {
                    out.push_str("Markup(");
                    quote(out, text);
                    out.push(')');
                }
                false => quote(out, text),
            }
        }
        ValueKind::Map => {
            let pairs = value.as_object().and_then(|dict| dict.try_iter_pairs()).into_iter().flatten();
            out.push('{');
            for (i, (key, item)) in pairs.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(state, out, &key)?;
                out.push_str(": ");
                write_repr(state, out, &item)?;
            }
            out.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => return write_sequence(state, out, value),
        _ => match value.downcast_object_ref::<Namespace>() {
            Some(namespace) => {
                out.push_str("<Namespace {");
                for (i, (name, item)) in namespace.pairs().iter().enumerate() {
                    out.push_str(if i > 0 { ", " } else { "" });
                    quote(out, name);
                    out.push_str(": ");
                    write_repr(state, out, item)?;
                }
                out.push_str("}>");
            }
            None => return Err(error("a function or a macro that is not called has no text")),
        },
    }
    Ok(())
}

fn write_sequence(state: &State, out: &mut String, value: &Value) -> Result<(), Error> {
    if let Some(Range { start, stop, step, .. }) = value.downcast_object_ref() {
        let _ = match step {
            1 => write!(out, "range({start}, {stop})"),
            _ => write!(out, "range({start}, {stop}, {step})"),
        };
        return Ok(());
    }
    let view = value.downcast_object_ref::<View>();
    let (open, close) = match (view, type_name(value)) {
        (Some(_), _) => ("([", "])"),
        (None, "generator") => {
            return Err(error("what a filter such as map gives has no text; write it with join or list"));
        }
        (None, "tuple") => ("(", ")"),
        _ => ("[", "]"),
    };
    out.push_str(view.map_or("", |view| view.part.name()));
    out.push_str(open);
    let mut count = 0;
    for item in value.try_iter()?.checked() {
        out.push_str(if count > 0 { ", " } else { "" });
        write_repr(state, out, &item?)?;
        count += 1;
    }
    out.push_str(if count == 1 && is_tuple(value) { "," } else { "" });
    out.push_str(close);
    Ok(())
}

/// Python's `repr` of a float.
pub(super) fn float(x: f64) -> String {
    match (x.is_nan(), x.is_infinite()) {
        (true, _) => "nan".into(),
        (_, true) => if x > 0.0 { "inf" } else { "-inf" }.into(),
        _ => json::float(x),
    }
}

/// Whether Python shows a character as it is.
pub(super) fn is_printable(c: char) -> bool {
    static HIDDEN: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^[\p{C}\p{Z}]$").ok());
    match c {
        ' '..='~' => true,
        c if c.is_ascii() => false,
        c => !HIDDEN.as_ref().is_some_and(|hidden| hidden.is_match(c.encode_utf8(&mut [0; 4]))),
    }
}

fn quote(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if is_printable(c) => out.push(c),
            c => escape(out, c),
        }
    }
    out.push(quote);
}

/// Python's escape of a character.
pub(super) fn escape(out: &mut String, c: char) {
    let _ = match u32::from(c) {
        code @ ..=0xff => write!(out, "\\x{code:02x}"),
        code @ ..=0xffff => write!(out, "\\u{code:04x}"),
        code => write!(out, "\\U{code:08x}"),
    };
}
