//! Jinja's tests where the template engine has them otherwise.

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, State, Value};

use super::objects::{Cycler, Joiner, Method, Namespace};
use super::operators::undefined_or;
use super::python::{Number, error, is_generator, is_view, type_name};
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
    environment.add_test("iterable", |value: &Value| {
        use ValueKind::{Iterable, Map, Seq, String, Undefined};
        matches!(value.kind(), Undefined | String | Seq | Map | Iterable)
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
    environment.add_test("odd", |value: &Value| Ok::<_, Error>(remainder(value, &Value::from(2))? == 1.0));
    environment.add_test("even", |value: &Value| Ok::<_, Error>(remainder(value, &Value::from(2))? == 0.0));
    environment
        .add_test("divisibleby", |value: &Value, by: &Value| Ok::<_, Error>(remainder(value, by)? == 0.0));
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

/// What is left of a number after division, where zero and one are told apart.
fn remainder(value: &Value, by: &Value) -> Result<f64, Error> {
    match (Number::of(value), Number::of(by)) {
        (Some(_), Some(by)) if by.to_float() == 0.0 => Err(error("integer division or modulo by zero")),
        (Some(Number::Integer(x)), Some(Number::Integer(by))) => {
            Ok(x.checked_rem_euclid(by).unwrap_or(0) as f64)
        }
        (Some(x), Some(by)) => Ok(x.to_float().rem_euclid(by.to_float().abs())),
        _ => {
            let other = if value.is_undefined() { value } else { by };
            Err(undefined_or(other, || error(format!("a {} has no remainder", type_name(value)))))
        }
    }
}
