//! Values as Python has them: what their types are called, what can be iterated over, compared and counted with.
//!
//! The template engine is more lenient than Python: it orders numbers before strings and iterates over none. A template
//! that fails in Python fails here too, so every rule that a filter or an operator needs is Python's and stands here.

use std::cmp::Ordering;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

use super::objects::{Generator, Group, Namespace, Range, View};

/// An error of a template's own making.
pub(super) fn error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// What Python would do here is not supported.
pub(super) fn unsupported(what: &str) -> Error {
    error(format!("{what} is not supported"))
}

/// The name of a value's type in Python.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "Undefined",
        ValueKind::None => "NoneType",
        ValueKind::Bool => "bool",
        ValueKind::Number if value.is_integer() => "int",
        ValueKind::Number => "float",
        ValueKind::String => "str",
        ValueKind::Bytes => "bytes",
        ValueKind::Seq if is_tuple(value) => "tuple",
        ValueKind::Seq if value.downcast_object_ref::<Range>().is_some() => "range",
        ValueKind::Map => "dict",
        ValueKind::Iterable if is_generator(value) => "generator",
        ValueKind::Iterable if is_view(value) => "dict view",
        ValueKind::Seq | ValueKind::Iterable => "list",
        _ if value.downcast_object_ref::<Namespace>().is_some() => "namespace",
        _ => "function",
    }
}

pub(super) fn is_tuple(value: &Value) -> bool {
    value.is_tuple() || value.downcast_object_ref::<Group>().is_some()
}

pub(super) fn is_generator(value: &Value) -> bool {
    value.downcast_object_ref::<Generator>().is_some()
}

pub(super) fn is_view(value: &Value) -> bool {
    value.downcast_object_ref::<View>().is_some()
}

/// Whether a value is a list, however the engine holds it.
pub(super) fn is_list(value: &Value) -> bool {
    type_name(value) == "list"
}

/// Whether a value can be the key of a dict.
pub(super) fn is_hashable(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Seq if is_tuple(value) => {
            value.try_iter().is_ok_and(|mut items| items.all(|v| is_hashable(&v)))
        }
        ValueKind::Seq => type_name(value) == "range",
        ValueKind::Map | ValueKind::Iterable => is_generator(value),
        _ => true,
    }
}

/// The items that Python's `iter` gives; each costs a step.
pub(super) fn items(state: &State, value: &Value) -> Result<Vec<Value>, Error> {
    match value.kind() {
        ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {}
        _ => return Err(error(format!("'{}' object is not iterable", type_name(value)))),
    }
    let mut all = Vec::with_capacity(value.len().unwrap_or_default().min(1024));
    for item in value.try_iter()?.checked() {
        state.consume_fuel(1)?;
        all.push(item?);
    }
    Ok(all)
}

/// A number as Python counts with it; true and false are 1 and 0.
#[derive(Clone, Copy)]
pub(super) enum Number {
    Integer(i128),
    Float(f64),
}

impl Number {
    pub(super) fn of(value: &Value) -> Option<Self> {
        match value.kind() {
            ValueKind::Bool => Some(Self::Integer(i128::from(value.is_true()))),
            ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok().map(Self::Integer),
            ValueKind::Number => f64::try_from(value.clone()).ok().map(Self::Float),
            _ => None,
        }
    }

    pub(super) fn to_float(self) -> f64 {
        match self {
            Self::Integer(x) => x as f64,
            Self::Float(x) => x,
        }
    }
}

/// An integer where Python wants one: true and false are, floats are not.
pub(super) fn integer(value: &Value) -> Option<i64> {
    match Number::of(value)? {
        Number::Integer(x) => i64::try_from(x).ok(),
        Number::Float(_) => None,
    }
}

/// An integer, or Python's refusal.
pub(super) fn as_integer(value: &Value) -> Result<i64, Error> {
    let refused = || error(format!("'{}' object cannot be interpreted as an integer", type_name(value)));
    integer(value).ok_or_else(refused)
}

/// Text, or Python's refusal.
pub(super) fn as_text<'a>(value: &'a Value, what: &str) -> Result<&'a str, Error> {
    match value.kind() {
        ValueKind::String => Ok(value.as_str().unwrap_or_default()),
        _ => Err(error(format!("{what} must be str, not {}", type_name(value)))),
    }
}

fn numbers(a: Number, b: Number) -> Option<Ordering> {
    match (a, b) {
        (Number::Integer(a), Number::Integer(b)) => Some(a.cmp(&b)),
        (a, b) => a.to_float().partial_cmp(&b.to_float()),
    }
}

/// The order of two values; `None` where one is not a number (NaN).
///
/// # Errors
/// When Python has no order for them.
pub(super) fn order(state: &State, a: &Value, b: &Value) -> Result<Option<Ordering>, Error> {
    state.consume_fuel(1)?;
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        state.consume_fuel(a.len().min(b.len()) as u64 / 64)?;
        return Ok(Some(a.cmp(b)));
    }
    if let (Some(a), Some(b)) = (Number::of(a), Number::of(b)) {
        return Ok(numbers(a, b));
    }
    let lists = a.kind() != ValueKind::Undefined && type_name(a) == type_name(b);
    if lists && matches!(type_name(a), "list" | "tuple") {
        let (left, right) = (items(state, a)?, items(state, b)?);
        for (x, y) in left.iter().zip(&right) {
            if x != y {
                return order(state, x, y);
            }
        }
        return Ok(Some(left.len().cmp(&right.len())));
    }
    if a.is_undefined() || b.is_undefined() {
        return Err(Error::new(ErrorKind::UndefinedError, "an undefined value has no order"));
    }
    let (a, b) = (type_name(a), type_name(b));
    Err(error(format!("values of types {a} and {b} have no order")))
}

/// Sorts by keys, stably, as Python's `sorted` does.
pub(super) fn sorted(
    state: &State,
    mut items: Vec<(Value, Value)>,
    reverse: bool,
) -> Result<Vec<Value>, Error> {
    let mut failed = None;
    items.sort_by(|(a, _), (b, _)| {
        let (a, b) = if reverse { (b, a) } else { (a, b) };
        match order(state, a, b) {
            Ok(order) => order.unwrap_or(Ordering::Equal),
            Err(e) => {
                failed.get_or_insert(e);
                Ordering::Equal
            }
        }
    });
    match failed {
        Some(e) => Err(e),
        None => Ok(items.into_iter().map(|(_, item)| item).collect()),
    }
}

/// White space as Python's `str.isspace` and `str.strip` have it.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The lines of a text as Python's `str.splitlines` has them, with or without their ends.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let ends = |c| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut all = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ends) {
        let end = match rest[at..].starts_with("\r\n") {
            true => at + 2,
            false => at + rest[at..].chars().next().map_or(1, char::len_utf8),
        };
        all.push(&rest[..if keep_ends { end } else { at }]);
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        all.push(rest);
    }
    all
}

/// What a slice takes of `length` items: where it begins, by how much it goes on, and how many there are.
pub(super) fn slice(length: usize, bounds: [&Value; 3]) -> Result<Option<(i64, i64, usize)>, Error> {
    let found = slice_bounds(length, bounds)?;
    Ok(found.map(|[start, stop, step]| {
        let distance = if step > 0 { stop - start } else { start - stop };
        let count = if distance > 0 { (distance - 1) / step.saturating_abs() + 1 } else { 0 };
        (start, step, count as usize)
    }))
}

/// Where a slice begins, before what it ends and its step, as Python's `slice.indices` has them; `None` for bounds that are no
/// numbers.
pub(super) fn slice_bounds(
    length: usize,
    [start, stop, step]: [&Value; 3],
) -> Result<Option<[i64; 3]>, Error> {
    let bound = |value: &Value| match value.is_none() {
        true => Some(None),
        false => integer(value).map(Some),
    };
    let (Some(start), Some(stop), Some(step)) = (bound(start), bound(stop), bound(step)) else {
        return Ok(None);
    };
    let (length, step) = (length as i64, step.unwrap_or(1));
    if step == 0 {
        return Err(error("slice step cannot be zero"));
    }
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let clamp = |x: i64| if x < 0 { x.saturating_add(length).max(low) } else { x.min(high) };
    let start = start.map_or(if step > 0 { low } else { high }, clamp);
    let stop = stop.map_or(if step > 0 { high } else { low }, clamp);
    Ok(Some([start, stop, step]))
}
