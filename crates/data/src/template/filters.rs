//! Jinja's filters, where the template engine has them otherwise or not at all (jinja2, `filters.py`; `tojson` is
//! transformers').

mod numbers;
mod sequences;
mod text;

use std::borrow::Cow;

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use self::numbers::{abs, filesizeformat, float, int, round};
use self::sequences::{
    batch, dictsort, first, groupby, items_filter, join, last, list, map, max, min, reject, rejectattr,
    reverse, select, selectattr, slice, sort, sum, unique,
};
use self::text::{
    center, escape, forceescape, format_filter, indent, pprint, string, striptags, trim, truncate, urlencode,
    wordcount, wordwrap, xmlattr,
};
use super::arguments::{bind, given};
use super::operators;
use super::python::{as_text, error, type_name, unsupported};
use super::{json, printing};

pub(super) use self::text::escaped;

/// Every filter of Jinja that is supported.
pub(super) const NAMES: [&str; 47] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
];

/// Those of the engine's own that make text of what they are given.
pub(super) const TAKE_TEXT: [&str; 6] = ["capitalize", "lower", "replace", "title", "trim", "upper"];

/// The rest of them.
pub(super) const MORE_NAMES: [&str; 5] = ["pprint", "urlencode", "wordcount", "wordwrap", "xmlattr"];

/// Filters of Jinja that are not supported.
pub(super) const MISSING: [&str; 2] = ["random", "urlize"];

type Filter = fn(&mut State, &Value, &[Value]) -> Result<Value, Error>;

/// Makes the filters known to an environment, and takes out what Jinja has not.
pub(super) fn add_to(environment: &mut Environment) {
    for name in ["split", "lines", "zip", "chain", "bool", "pprint"] {
        environment.remove_filter(name);
    }
    let all: [(&'static str, Filter); 46] = [
        ("abs", abs),
        ("attr", attr),
        ("batch", batch),
        ("center", center),
        ("d", default),
        ("default", default),
        ("dictsort", dictsort),
        ("e", escape),
        ("escape", escape),
        ("filesizeformat", filesizeformat),
        ("first", first),
        ("float", float),
        ("forceescape", forceescape),
        ("format", format_filter),
        ("groupby", groupby),
        ("indent", indent),
        ("int", int),
        ("items", items_filter),
        ("join", join),
        ("last", last),
        ("list", list),
        ("map", map),
        ("max", max),
        ("min", min),
        ("pprint", pprint),
        ("reject", reject),
        ("rejectattr", rejectattr),
        ("reverse", reverse),
        ("round", round),
        ("select", select),
        ("selectattr", selectattr),
        ("slice", slice),
        ("sort", sort),
        ("string", string),
        ("striptags", striptags),
        ("sum", sum),
        ("tojson", tojson),
        ("trim", trim),
        ("truncate", truncate),
        ("unique", unique),
        ("urlencode", urlencode),
        ("wordcount", wordcount),
        ("wordwrap", wordwrap),
        ("xmlattr", xmlattr),
        ("length", length),
        ("count", length),
    ];
    for (name, filter) in all {
        environment.add_filter(name, move |state: &mut State, value: &Value, args: Rest<ValueOrKwargs>| {
            filter(state, value, &args.into_values())
        });
    }
}

/// A result that is as safe as what it was made of.
fn like(value: &Value, text: String) -> Value {
    if value.is_safe() { Value::from_safe_string(text) } else { Value::from(text) }
}

/// `str(value)`; text is not copied.
fn soft<'a>(state: &State, value: &'a Value) -> Result<Cow<'a, str>, Error> {
    match value.as_str() {
        Some(text) => Ok(text.into()),
        None => Ok(printing::text(state, value)?.into()),
    }
}

fn truth(value: &Option<Value>, otherwise: bool) -> bool {
    value.as_ref().map_or(otherwise, Value::is_true)
}

fn length(_: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    bind("length", &[], 0, args)?;
    match (value.kind(), value.len()) {
        (ValueKind::Undefined, _) => Ok(Value::from(0)),
        (ValueKind::Plain, _) | (_, None) => {
            Err(error(format!("object of type '{}' has no len()", type_name(value))))
        }
        (_, Some(length)) => Ok(Value::from(length)),
    }
}

fn attr(_: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("attr", &["name"], 1, args)?;
    operators::attribute_only(value, as_text(args[0].as_ref().unwrap_or(value), "attr: the name")?)
}

fn default(_: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("default", &["default_value", "boolean"], 0, args)?;
    match value.is_undefined() || truth(&args[1], false) && !value.is_true() {
        true => Ok(args[0].clone().unwrap_or_else(|| Value::from(""))),
        false => Ok(value.clone()),
    }
}

fn tojson(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("tojson", &["ensure_ascii", "indent", "separators", "sort_keys"], 0, args)?;
    let style =
        json::Style::new(given(&args[1]), given(&args[2]), truth(&args[3], false), truth(&args[0], false))?;
    json::dumps(state, value, &style).map(Value::from)
}

/// # Errors
/// When there is no such filter.
pub(super) fn known_filter(name: &str) -> Result<(), Error> {
    match NAMES.contains(&name) || MORE_NAMES.contains(&name) {
        true => Ok(()),
        false if MISSING.contains(&name) => Err(unsupported(&format!("the filter {name}"))),
        false => Err(Error::new(ErrorKind::UnknownFilter, format!("there is no filter {name}"))),
    }
}

/// # Errors
/// When there is no such test.
pub(super) fn known_test(name: &str) -> Result<(), Error> {
    match super::tests::NAMES.contains(&name) {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::UnknownTest, format!("there is no test {name}"))),
    }
}
