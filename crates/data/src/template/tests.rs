//! Jinja's tests where the template engine has them otherwise.

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, State, Value};

use super::objects::{Cycler, Joiner, Method, Namespace};
use super::operators::undefined_or;
use super::python::{Number, as_integer, error, is_generator, is_view, type_name};
use super::{letters, printing};

/// Every test of Jinja.
pub(super) const NAMES: [&str; 39] = [
    "odd",
    "even",
    "divisibleby",
    "defined",
    "undefined",
    "filter",
    "test",
    "none",
    "boolean",
    "false",
    "true",
    "integer",
    "float",
    "lower",
    "upper",
    "string",
    "mapping",
    "number",
    "sequence",
    "iterable",
    "callable",
    "sameas",
    "escaped",
    "in",
    "==",
    "eq",
    "equalto",
    "!=",
    "ne",
    ">",
    "gt",
    "greaterthan",
    "ge",
    ">=",
    "<",
    "lt",
    "lessthan",
    "<=",
    "le",
];

/// Makes the tests known to an environment.
pub(super) fn add_to(environment: &mut Environment) {
    for name in ["safe", "int", "startingwith", "endingwith"] {
        environment.remove_test(name);
    }
    environment.add_test("iterable", |value: &Value| match value.kind() {
        ValueKind::Undefined | ValueKind::String => true,
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => true,
        _ => false,
    });
    environment.add_test("sequence", |value: &Value| match value.kind() {
        ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map => true,
        ValueKind::Iterable => !is_generator(value) && !is_view(value),
        _ => false,
    });
    environment.add_test("mapping", |value: &Value| value.kind() == ValueKind::Map);
    environment.add_test("number", |value: &Value| Number::of(value).is_some() || value.is_number());
    environment.add_test("callable", is_callable);
    environment.add_test("lower", |state: &State, value: &Value| has_case(state, value, "islower"));
    environment.add_test("upper", |state: &State, value: &Value| has_case(state, value, "isupper"));
    environment.add_test("odd", |value: &Value| remainder(value, 2.0).map(|rest| rest == 1.0));
    environment.add_test("even", |value: &Value| remainder(value, 2.0).map(|rest| rest == 0.0));
    environment.add_test("divisibleby", |value: &Value, by: &Value| {
        let by = Number::of(by).ok_or_else(|| error("divisibleby wants a number"))?.to_float();
        match by == 0.0 {
            true => Err(error("integer division or modulo by zero")),
            false => remainder(value, by).map(|rest| rest == 0.0),
        }
    });
}

fn is_callable(value: &Value) -> bool {
    match value.kind() {
        // Jinja's undefined can be called, which fails.
        ValueKind::Undefined => true,
        ValueKind::Plain => {
            value.downcast_object_ref::<Method>().is_some()
                || value.downcast_object_ref::<Joiner>().is_some()
                || value.downcast_object_ref::<Namespace>().is_none()
                    && value.downcast_object_ref::<Cycler>().is_none()
        }
        _ => false,
    }
}

fn has_case(state: &State, value: &Value, method: &str) -> Result<bool, Error> {
    let text = printing::text(state, value)?;
    Ok(letters::plain(&text, method)?.is_some_and(|found| found.is_true()))
}

fn remainder(value: &Value, by: f64) -> Result<f64, Error> {
    match Number::of(value) {
        Some(Number::Integer(x)) => {
            let by = by as i128;
            x.checked_rem_euclid(by)
                .map(|rest| rest as f64)
                .ok_or_else(|| error("integer division or modulo by zero"))
        }
        Some(Number::Float(x)) => Ok(x.rem_euclid(by.abs())),
        None => Err(undefined_or(value, || {
            error(format!("a {} has no remainder", type_name(as_integer(value).map_or(value, |_| value))))
        })),
    }
}
