//! What operators do where the template engine does otherwise than Python. A template is rewritten to call these
//! (`rewrite.rs`); their names begin with `lorafit_`.

use std::cmp::Ordering;
use std::fmt::Write;

use minijinja::value::{Tuple, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::objects::{Group, Method, Namespace, Range};
use super::python::{self, Number, as_integer, error, items, order, type_name};
use super::{filters, format, functions, methods, printing};

/// Makes the operators known to an environment.
pub(super) fn add_to(environment: &mut Environment) {
    environment.add_filter("lorafit_iter", iterated);
    environment.add_filter("lorafit_rows", rows);
    environment.add_filter("lorafit_unpack", |state: &State, value: &Value, count: usize| {
        unpacked(state, value, count)
    });
    environment.add_filter("lorafit_slice", sliced);
    environment
        .add_filter("lorafit_item", |state: &State, value: &Value, key: &Value| item(state, value, key));
    environment.add_filter("lorafit_attr", |value: &Value, name: &str| attribute(value, name));
    environment.add_filter("lorafit_set", |value: &Value, name: &str, new: Value| {
        match value.downcast_object_ref::<Namespace>() {
            Some(namespace) => namespace.set(name, new).map(|()| Value::from("")),
            None => Err(error("cannot assign attribute on non-namespace object")),
        }
    });
    environment.add_filter("lorafit_fromkeys", functions::from_keys);
    environment.add_filter("lorafit_cat", joined);
    environment.add_filter("lorafit_add", add);
    environment.add_filter("lorafit_mul", multiplied);
    environment.add_filter("lorafit_mod", modulo);
    environment.add_filter("lorafit_pow", power);
    environment.add_filter("lorafit_neg", |value: &Value| match Number::of(value) {
        Some(Number::Integer(x)) => integer(x.checked_neg()),
        Some(Number::Float(x)) => Ok(Value::from(-x)),
        None => Err(undefined_or(value, || {
            error(format!("bad operand type for unary -: '{}'", type_name(value)))
        })),
    });
    let compare = |wanted: fn(Ordering) -> bool| {
        move |state: &State, a: &Value, b: &Value| Ok::<_, Error>(order(state, a, b)?.is_some_and(wanted))
    };
    for name in ["lorafit_lt", "lt", "lessthan", "<"] {
        environment.add_test(name, compare(Ordering::is_lt));
    }
    for name in ["lorafit_le", "le", "<="] {
        environment.add_test(name, compare(Ordering::is_le));
    }
    for name in ["lorafit_gt", "gt", "greaterthan", ">"] {
        environment.add_test(name, compare(Ordering::is_gt));
    }
    for name in ["lorafit_ge", "ge", ">="] {
        environment.add_test(name, compare(Ordering::is_ge));
    }
    environment.add_test("lorafit_eq", |a: &Value, b: &Value| equal(a, b));
    environment.add_test("lorafit_in", |state: &State, a: &Value, b: &Value| contains(state, b, a));
    environment.add_test("in", |state: &State, a: &Value, b: &Value| contains(state, b, a));
    environment.add_test("lorafit_gives", |given: &Value, name: &Value, value: &Value| {
        match given.is_undefined() {
            true => !value.is_undefined(),
            false => given.try_iter().is_ok_and(|mut names| names.any(|given| given == *name)),
        }
    });
}

pub(super) fn undefined_or(value: &Value, other: impl FnOnce() -> Error) -> Error {
    match value.is_undefined() {
        true => Error::new(ErrorKind::UndefinedError, "a value is undefined"),
        false => other(),
    }
}

fn integer(x: Option<i128>) -> Result<Value, Error> {
    x.map(Value::from).ok_or_else(|| error("an integer has more digits than are supported"))
}

/// What a loop goes over: characters of text, items of anything else that has some.
fn iterated(state: &State, value: &Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Map | ValueKind::Undefined => Ok(value.clone()),
        ValueKind::Iterable if !python::is_generator(value) => Ok(value.clone()),
        _ => items(state, value).map(Value::from),
    }
}

/// What a loop with several variables goes over: text is unpacked into its characters.
fn rows(state: &State, value: &Value) -> Result<Value, Error> {
    let mut all = items(state, value)?;
    for item in &mut all {
        match item.kind() {
            ValueKind::Seq => {}
            ValueKind::Undefined | ValueKind::None => {
                return Err(error("cannot unpack what is not a sequence"));
            }
            _ => *item = Value::from(items(state, item)?),
        }
    }
    Ok(Value::from(all))
}

fn unpacked(state: &State, value: &Value, count: usize) -> Result<Value, Error> {
    let all = items(state, value)?;
    match all.len() == count {
        true => Ok(Value::from(all)),
        false => Err(error(format!("expected {count} values to unpack, got {}", all.len()))),
    }
}

/// Whether `a == b`.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    match (a.as_object(), b.as_object()) {
        (Some(_), Some(_)) if type_name(a) == type_name(b) => a == b,
        // A namespace, a range or a view equals nothing of another type.
        (Some(_), Some(_)) => false,
        _ => a == b,
    }
}

/// Whether `key in value`.
fn contains(state: &State, value: &Value, key: &Value) -> Result<bool, Error> {
    match value.kind() {
        ValueKind::String => match (value.as_str(), key.kind() == ValueKind::String) {
            (Some(text), true) => {
                state.consume_fuel(text.len() as u64 / 64)?;
                Ok(text.contains(key.as_str().unwrap_or_default()))
            }
            _ => Err(error(format!("'in <string>' requires string as left operand, not {}", type_name(key)))),
        },
        ValueKind::Map if !python::is_hashable(key) => {
            Err(error(format!("unhashable type: '{}'", type_name(key))))
        }
        ValueKind::Map => Ok(value.as_object().is_some_and(|dict| dict.get_value(key).is_some())),
        ValueKind::Undefined => Ok(false),
        _ => Ok(items(state, value)?.iter().any(|item| equal(item, key))),
    }
}

/// `value[key]`: an item, else an attribute, else undefined.
pub(super) fn item(_: &State, value: &Value, key: &Value) -> Result<Value, Error> {
    let found = match value.kind() {
        ValueKind::Undefined => return Err(undefined_or(value, || error(""))),
        ValueKind::Map if python::is_hashable(key) => value.as_object().and_then(|dict| dict.get_value(key)),
        ValueKind::Seq | ValueKind::String => match python::integer(key) {
            Some(i) => value.get_item(&Value::from(i)).ok().filter(|found| !found.is_undefined()),
            None => None,
        },
        _ => None,
    };
    match (found, key.as_str()) {
        (Some(found), _) => Ok(found),
        (None, Some(name)) => attribute_only(value, name),
        (None, None) => Ok(Value::UNDEFINED),
    }
}

/// `value.name`: an attribute, else an item, else undefined.
fn attribute(value: &Value, name: &str) -> Result<Value, Error> {
    if let Some(namespace) = value.downcast_object_ref::<Namespace>() {
        return Ok(namespace.get(name).unwrap_or_default());
    }
    if value.is_undefined() {
        return Err(undefined_or(value, || error("")));
    }
    match attribute_only(value, name)? {
        found if found.is_undefined() && !methods::changes(value, name) => value.get_attr(name),
        found => Ok(found),
    }
}

/// What Python's `getattr` finds: methods, and what a namespace or the like has.
pub(super) fn attribute_only(value: &Value, name: &str) -> Result<Value, Error> {
    if methods::has(value, name) {
        return Ok(Value::from_object(Method { of: value.clone(), name: name.to_string() }));
    }
    if let Some(group) = value.downcast_object_ref::<Group>() {
        return Ok(match name {
            "grouper" => group.grouper.clone(),
            "list" => group.list.clone(),
            _ => Value::UNDEFINED,
        });
    }
    match value.kind() {
        ValueKind::Plain => value.get_attr(name),
        _ => Ok(Value::UNDEFINED),
    }
}

fn sliced(state: &State, value: &Value, start: &Value, stop: &Value, step: &Value) -> Result<Value, Error> {
    let bounds = [start, stop, step];
    let pick = |all: &[Value], (start, step, count): (i64, i64, usize)| {
        (0..count as i64).map(|i| all[(start + i * step) as usize].clone()).collect::<Vec<_>>()
    };
    match value.kind() {
        ValueKind::Undefined => Err(undefined_or(value, || error(""))),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            state.consume_fuel(text.len() as u64 / 64)?;
            text_slice(text, bounds).map(|found| found.map_or(Value::UNDEFINED, Value::from))
        }
        ValueKind::Seq | ValueKind::Iterable => {
            if matches!(type_name(value), "generator" | "dict view") {
                return Err(error(format!("'{}' object is not subscriptable", type_name(value))));
            }
            if let Some(range) = value.downcast_object_ref::<Range>() {
                let found = python::slice_bounds(value.len().unwrap_or(0), bounds)?;
                return found.map_or(Ok(Value::UNDEFINED), |bounds| range.slice(bounds));
            }
            let all = items(state, value)?;
            let Some(found) = python::slice(all.len(), bounds)? else { return Ok(Value::UNDEFINED) };
            Ok(match type_name(value) {
                "tuple" => Value::from(Tuple::new(pick(&all, found))),
                _ => Value::from(pick(&all, found)),
            })
        }
        _ => Ok(Value::UNDEFINED),
    }
}

fn text_slice(text: &str, bounds: [&Value; 3]) -> Result<Option<String>, Error> {
    if text.is_ascii() {
        let Some((start, step, count)) = python::slice(text.len(), bounds)? else { return Ok(None) };
        if step == 1 {
            return Ok(Some(text[start as usize..][..count].to_string()));
        }
    }
    let all: Vec<char> = text.chars().collect();
    let found = python::slice(all.len(), bounds)?;
    Ok(found
        .map(|(start, step, count)| (0..count as i64).map(|i| all[(start + i * step) as usize]).collect()))
}

/// `a ~ b ~ ...`.
fn joined(state: &State, first: &Value, rest: minijinja::value::Rest<Value>) -> Result<Value, Error> {
    let all = || std::iter::once(first).chain(rest.iter());
    let bytes: usize = all().map(|value| value.as_str().map_or(8, str::len)).sum();
    // Paid for before it is made.
    state.consume_fuel(bytes as u64 / 64)?;
    let mut text = String::with_capacity(bytes);
    for value in all() {
        match value.as_str() {
            Some(part) => text.push_str(part),
            None => match Number::of(value) {
                Some(Number::Integer(x)) if value.is_number() => {
                    let _ = write!(text, "{x}");
                }
                _ => text.push_str(&printing::text(state, value)?),
            },
        }
    }
    Ok(Value::from(text))
}

/// `a + b`.
pub(super) fn add(state: &State, a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Some(x), Some(y)) = (a.as_str(), b.as_str()) {
        state.consume_fuel((x.len() + y.len()) as u64 / 64)?;
        return Ok(match (a.is_safe(), b.is_safe()) {
            (false, false) => Value::from(format!("{x}{y}")),
            (true, true) => Value::from_safe_string(format!("{x}{y}")),
            (true, false) => Value::from_safe_string(x.to_string() + &filters::escaped(y)),
            (false, true) => Value::from_safe_string(filters::escaped(x) + y),
        });
    }
    match (Number::of(a), Number::of(b)) {
        (Some(Number::Integer(x)), Some(Number::Integer(y))) => return integer(x.checked_add(y)),
        (Some(x), Some(y)) => return Ok(Value::from(x.to_float() + y.to_float())),
        _ => {}
    }
    let (x, y) = (type_name(a), type_name(b));
    if x == y && matches!(x, "list" | "tuple") {
        let mut all = items(state, a)?;
        all.extend(items(state, b)?);
        return Ok(if x == "tuple" { Value::from(Tuple::new(all)) } else { Value::from(all) });
    }
    let other = if a.is_undefined() { a } else { b };
    Err(undefined_or(other, || error(format!("unsupported operand type(s) for +: '{x}' and '{y}'"))))
}

/// `a * b`.
fn multiplied(state: &State, a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Some(x), Some(y)) = (Number::of(a), Number::of(b)) {
        return match (x, y) {
            (Number::Integer(x), Number::Integer(y)) => integer(x.checked_mul(y)),
            (x, y) => Ok(Value::from(x.to_float() * y.to_float())),
        };
    }
    let (repeated, times) = if Number::of(a).is_some() { (b, a) } else { (a, b) };
    let is_sequence = matches!(type_name(repeated), "str" | "list" | "tuple");
    if !is_sequence || Number::of(times).is_none() {
        let other = if a.is_undefined() { a } else { b };
        let (a, b) = (type_name(a), type_name(b));
        return Err(undefined_or(other, || {
            error(format!("unsupported operand type(s) for *: '{a}' and '{b}'"))
        }));
    }
    let times = usize::try_from(as_integer(times)?.max(0)).unwrap_or(usize::MAX);
    let size = repeated.as_str().map_or_else(|| repeated.len().unwrap_or(0).saturating_mul(64), str::len);
    state.consume_fuel(size.saturating_mul(times) as u64 / 64)?;
    Ok(match repeated.as_str() {
        Some(text) => Value::from(text.repeat(times)),
        None => {
            let all = items(state, repeated)?;
            let all: Vec<Value> = std::iter::repeat_n(all, times).flatten().collect();
            if python::is_tuple(repeated) { Value::from(Tuple::new(all)) } else { Value::from(all) }
        }
    })
}

/// `a % b`: a remainder, or text by a pattern.
fn modulo(state: &State, a: &Value, b: &Value) -> Result<Value, Error> {
    if a.is_integer()
        && b.is_integer()
        && let (Some(x), Some(y @ 1..)) = (a.as_i64(), b.as_i64())
    {
        return Ok(Value::from(x.rem_euclid(y)));
    }
    if let Some(pattern) = a.as_str() {
        if a.is_safe() {
            return Err(python::unsupported("'%' after escaped text"));
        }
        return format::percent(state, pattern, b).map(Value::from);
    }
    match (Number::of(a), Number::of(b)) {
        (Some(Number::Integer(x)), Some(Number::Integer(y))) => match x.checked_rem_euclid(y) {
            // The sign is the divisor's.
            Some(rest) => Ok(Value::from(if rest != 0 && y < 0 { rest + y } else { rest })),
            None => Err(error("integer division or modulo by zero")),
        },
        (Some(x), Some(y)) => {
            let (x, y) = (x.to_float(), y.to_float());
            if y == 0.0 {
                return Err(error("float modulo"));
            }
            let rest = x % y;
            Ok(Value::from(if rest != 0.0 && (rest < 0.0) != (y < 0.0) {
                rest + y
            } else {
                rest.abs().copysign(if rest == 0.0 { y } else { rest })
            }))
        }
        _ => {
            let (x, y) = (type_name(a), type_name(b));
            let other = if a.is_undefined() { a } else { b };
            Err(undefined_or(other, || error(format!("unsupported operand type(s) for %: '{x}' and '{y}'"))))
        }
    }
}

/// `a ** b`.
fn power(a: &Value, b: &Value) -> Result<Value, Error> {
    match (Number::of(a), Number::of(b)) {
        (Some(Number::Integer(x)), Some(Number::Integer(y))) if y >= 0 => {
            integer(u32::try_from(y).ok().and_then(|y| x.checked_pow(y)))
        }
        (Some(x), Some(y)) => {
            let (x, y) = (x.to_float(), y.to_float());
            let result = x.powf(y);
            match x {
                0.0 if y < 0.0 => Err(error("0.0 cannot be raised to a negative power")),
                _ if result.is_nan() && !x.is_nan() && !y.is_nan() => {
                    Err(python::unsupported("a complex number"))
                }
                _ if result.is_infinite() && x.is_finite() && y.is_finite() => {
                    Err(error("numerical result out of range"))
                }
                _ => Ok(Value::from(result)),
            }
        }
        _ => {
            let other = if a.is_undefined() { a } else { b };
            let (a, b) = (type_name(a), type_name(b));
            Err(undefined_or(other, || error(format!("unsupported operand type(s) for **: '{a}' and '{b}'"))))
        }
    }
}
