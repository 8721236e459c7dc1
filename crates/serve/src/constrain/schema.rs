//! A schema, checked keyword by keyword, and written so that the library keeps all that it says.
//!
//! The library passes over values of keywords that it does not expect, and takes the bound of `exclusiveMinimum` or
//! `exclusiveMaximum` for a number that fits, or a number that is rounded to it. So the values are checked here, and a number
//! beyond a bound is one from the next double on: decimal numbers from there on are read as doubles that are beyond it.

use std::collections::HashSet;
use std::fmt::{Display, Formatter};
use std::iter::successors;

use serde_json::{Map, Value};

use super::limits::{NAMED_SCHEMAS, SCHEMAS, target};

/// The least number above 0 that is written where 0 is excluded. The next double would have 324 digits.
const LEAST: f64 = 1e-15;

/// Letters of a value or a place that are shown.
const MOST_SHOWN: usize = 80;

/// What the value of a keyword has to be.
#[derive(Clone, Copy)]
enum Needs {
    Number,
    /// A number, or the `false` of draft 4, which says nothing.
    Bound,
    AboveZero,
    Count,
    Text,
    Texts,
    Flag,
    Type,
    Values,
    Schema,
    /// A schema, or the list of them of old drafts.
    Items,
    Schemas,
    NamedSchemas,
}

const KEYWORDS: [(&str, Needs); 34] = [
    ("minimum", Needs::Number),
    ("maximum", Needs::Number),
    ("exclusiveMinimum", Needs::Bound),
    ("exclusiveMaximum", Needs::Bound),
    ("multipleOf", Needs::AboveZero),
    ("minLength", Needs::Count),
    ("maxLength", Needs::Count),
    ("minItems", Needs::Count),
    ("maxItems", Needs::Count),
    ("minProperties", Needs::Count),
    ("maxProperties", Needs::Count),
    ("minContains", Needs::Count),
    ("maxContains", Needs::Count),
    ("pattern", Needs::Text),
    ("format", Needs::Text),
    ("$ref", Needs::Text),
    ("required", Needs::Texts),
    ("uniqueItems", Needs::Flag),
    ("type", Needs::Type),
    ("enum", Needs::Values),
    ("items", Needs::Items),
    ("additionalItems", Needs::Schema),
    ("additionalProperties", Needs::Schema),
    ("propertyNames", Needs::Schema),
    ("contains", Needs::Schema),
    ("not", Needs::Schema),
    ("anyOf", Needs::Schemas),
    ("oneOf", Needs::Schemas),
    ("allOf", Needs::Schemas),
    ("prefixItems", Needs::Schemas),
    ("properties", Needs::NamedSchemas),
    ("patternProperties", Needs::NamedSchemas),
    ("$defs", Needs::NamedSchemas),
    ("definitions", Needs::NamedSchemas),
];

const TYPES: [&str; 7] = ["string", "number", "integer", "boolean", "object", "array", "null"];

/// Keywords of which the first may not be above the second.
const ORDERED: [(&str, &str); 3] =
    [("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties")];

/// A place in a schema, shown as a JSON pointer.
pub(super) struct Place<'a> {
    steps: &'a [Step],
    last: usize,
}

/// A step to a place.
struct Step {
    /// The step before it; none at the beginning of a pointer.
    before: Option<usize>,
    part: String,
}

impl Display for Place<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        let before = |step: &&Step| step.before.map(|before| &self.steps[before]);
        let mut parts: Vec<&str> =
            successors(Some(&self.steps[self.last]), before).map(|step| step.part.as_str()).collect();
        parts.reverse();
        formatter.write_str(&cut(&parts.join("/")))
    }
}

/// The schema as the library is given it.
///
/// # Errors
/// The keyword or value that cannot be enforced, with its place.
pub(super) fn prepare(schema: &Value) -> Result<Value, String> {
    let mut schemas = HashSet::new();
    each(schema, |value, at| {
        schemas.insert(std::ptr::from_ref(value));
        match value {
            Value::Bool(_) => Ok(()),
            Value::Object(entries) => {
                entries.iter().try_for_each(|(keyword, value)| check(keyword, value, at))?;
                check_order(entries, at)
            }
            other => Err(format!(
                "has {} at {at}, where a schema belongs; it has to be an object, true or false",
                shown(other)
            )),
        }
    })?;
    Ok(written(schema, &schemas))
}

/// A value of a schema, in which `schemas` are written as the library keeps them.
fn written(value: &Value, schemas: &HashSet<*const Value>) -> Value {
    match value {
        Value::Object(entries) => {
            let entries = entries.iter().map(|(key, value)| (key.clone(), written(value, schemas)));
            let mut entries: Map<String, Value> = entries.collect();
            if schemas.contains(&std::ptr::from_ref(value)) {
                leave_out_idle(&mut entries);
                include_bounds(&mut entries);
            }
            Value::Object(entries)
        }
        Value::Array(items) => items.iter().map(|item| written(item, schemas)).collect(),
        other => other.clone(),
    }
}

/// Calls `look` once with every schema within a schema, those that references lead to among them, and its place.
///
/// # Errors
/// The first that `look` has.
pub(super) fn each<'s>(
    schema: &'s Value,
    mut look: impl FnMut(&'s Value, &Place<'_>) -> Result<(), String>,
) -> Result<(), String> {
    let mut steps = vec![Step { before: None, part: "#".to_owned() }];
    let mut seen = HashSet::new();
    let mut open = vec![(0, schema)];
    while let Some((last, value)) = open.pop() {
        if !seen.insert(std::ptr::from_ref(value)) {
            continue;
        }
        look(value, &Place { steps: &steps, last })?;
        let Value::Object(entries) = value else { continue };
        for (part, value) in within(entries) {
            open.push((steps.len(), value));
            steps.push(Step { before: Some(last), part });
        }
        // The library reports a reference that leads nowhere.
        if let Some(reference) = entries.get("$ref").and_then(Value::as_str)
            && reference.starts_with("#/")
            && let Some(value) = target(schema, reference)
        {
            open.push((steps.len(), value));
            steps.push(Step { before: None, part: reference.to_owned() });
        }
    }
    Ok(())
}

/// The schemas that stand within a schema, by their way from it.
fn within(entries: &Map<String, Value>) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    for (key, value) in entries {
        match value {
            Value::Array(items) if SCHEMAS.contains(&key.as_str()) => {
                found.extend(items.iter().enumerate().map(|(index, item)| (format!("{key}/{index}"), item)));
            }
            Value::Object(named) if NAMED_SCHEMAS.contains(&key.as_str()) => {
                found.extend(named.iter().map(|(name, value)| (format!("{key}/{name}"), value)));
            }
            _ if SCHEMAS.contains(&key.as_str()) => found.push((key.clone(), value)),
            _ => {}
        }
    }
    found
}

/// Refuses a value that its keyword cannot have.
fn check(keyword: &str, value: &Value, at: &Place<'_>) -> Result<(), String> {
    if matches!(keyword, "const" | "enum") && has_rounded_number(value) {
        return Err(format!(
            "has `{keyword}` at {at} with a number of too many digits to be kept; give one of at most 15, or a string"
        ));
    }
    let Some((_, needs)) = KEYWORDS.into_iter().find(|(name, _)| *name == keyword) else { return Ok(()) };
    let is_text = |value: &Value| value.is_string();
    let is_type = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    let is_schema = |value: &Value| value.is_object() || value.is_boolean();
    let list = value.as_array();
    let (fits, needed) = match needs {
        Needs::Number => (value.is_number(), "a number"),
        Needs::Bound if *value == true => {
            let plain = keyword.replace("exclusiveM", "m");
            return Err(format!(
                "has `{keyword}` true at {at}, as draft 4 of JSON Schema has it; give the number itself as `{keyword}`, and \
                 leave out `{plain}`"
            ));
        }
        Needs::Bound => (value.is_number() || *value == false, "a number"),
        Needs::AboveZero => (value.as_f64().is_some_and(|number| number > 0.0), "a number above 0"),
        Needs::Count => (value.is_u64(), "a whole number of 0 or more"),
        Needs::Text => (value.is_string(), "a string"),
        Needs::Texts => (list.is_some_and(|list| list.iter().all(is_text)), "a list of strings"),
        Needs::Flag => (value.is_boolean(), "true or false"),
        Needs::Type => (
            is_type(value) || list.is_some_and(|list| !list.is_empty() && list.iter().all(is_type)),
            "string, number, integer, boolean, object, array or null, or a list of those",
        ),
        Needs::Values => (list.is_some_and(|list| !list.is_empty()), "a list of one value or more"),
        Needs::Schema => (is_schema(value), "a schema: an object, true or false"),
        Needs::Items => (is_schema(value) || value.is_array(), "a schema: an object, true or false"),
        Needs::Schemas => {
            let may_be_empty = keyword == "prefixItems";
            (list.is_some_and(|list| may_be_empty || !list.is_empty()), "a list of one schema or more")
        }
        Needs::NamedSchemas => (value.is_object(), "an object of schemas"),
    };
    if !fits {
        return Err(format!("has `{keyword}` {} at {at}; it has to be {needed}", shown(value)));
    }
    if matches!(needs, Needs::Number | Needs::Bound) && is_rounded(value) {
        return Err(format!(
            "has `{keyword}` {} at {at}, which has too many digits to be kept; give a number of at most 15",
            shown(value)
        ));
    }
    Ok(())
}

/// Whether a value has a number that [`is_rounded`].
fn has_rounded_number(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(has_rounded_number),
        Value::Object(entries) => entries.values().any(has_rounded_number),
        other => is_rounded(other),
    }
}

/// Whether a whole number is another one as a double, by which the library has it. The largest of 64 bits, as which many
/// programs write that there is no bound, is kept.
fn is_rounded(value: &Value) -> bool {
    let whole = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    let is_largest = |whole: i128| whole == i128::from(i64::MAX) || whole == i128::from(u64::MAX);
    whole.is_some_and(|whole| whole as f64 as i128 != whole && !is_largest(whole))
}

/// Refuses bounds between which nothing is.
fn check_order(entries: &Map<String, Value>, at: &Place<'_>) -> Result<(), String> {
    let number = |keyword: &str| entries.get(keyword).and_then(Value::as_f64);
    for (low, high) in ORDERED {
        if let (Some(least), Some(most)) = (number(low), number(high))
            && least > most
        {
            return Err(crossed((low, entries), high, at));
        }
    }
    for low in ["minimum", "exclusiveMinimum"] {
        for high in ["maximum", "exclusiveMaximum"] {
            if let (Some(least), Some(most)) = (number(low), number(high)) {
                let is_open = low != "minimum" || high != "maximum";
                if least > most || (is_open && least == most) {
                    return Err(crossed((low, entries), high, at));
                }
            }
        }
    }
    let [low, high] = bounds(entries);
    if low.zip(high).is_some_and(|(low, high)| low > high) {
        let named = |open, closed| if entries.contains_key(open) { open } else { closed };
        let (low, high) = (named("exclusiveMinimum", "minimum"), named("exclusiveMaximum", "maximum"));
        return Err(format!(
            "has `{low}` {} and `{high}` {} at {at}, which are too close together for a number between them; use `minimum` and \
             `maximum`, which may be the answer",
            shown(&entries[low]),
            shown(&entries[high])
        ));
    }
    Ok(())
}

fn crossed((low, entries): (&str, &Map<String, Value>), high: &str, at: &Place<'_>) -> String {
    let (least, most) = (shown(&entries[low]), shown(&entries[high]));
    format!("has `{low}` {least} and `{high}` {most} at {at}, between which nothing is; make `{high}` larger")
}

/// Leaves out keywords that the library does not have, where they say nothing.
fn leave_out_idle(entries: &mut Map<String, Value>) {
    let is_any = |value: &Value| *value == true || value.as_object().is_some_and(Map::is_empty);
    entries.retain(|keyword, value| match keyword.as_str() {
        "uniqueItems" | "not" | "exclusiveMinimum" | "exclusiveMaximum" => *value != false,
        // Every key is a string.
        "propertyNames" => !is_any(value) && *value != serde_json::json!({"type": "string"}),
        "unevaluatedProperties" | "unevaluatedItems" => !is_any(value),
        "dependencies" | "dependentRequired" | "dependentSchemas" => {
            !value.as_object().is_some_and(Map::is_empty)
        }
        _ => true,
    });
}

/// The bounds of numbers; those that are excluded as the next numbers, which are included.
fn bounds(entries: &Map<String, Value>) -> [Option<f64>; 2] {
    // Of bounds from above the sign is turned, so that the next number is larger here, too.
    [("exclusiveMinimum", "minimum", 1.0), ("exclusiveMaximum", "maximum", -1.0)].map(
        |(open, closed, sign)| {
            let number =
                |keyword: &str| entries.get(keyword).and_then(Value::as_f64).map(|bound| bound * sign);
            let next = number(open).map(|bound| if bound == 0.0 { LEAST } else { bound.next_up() });
            let bound = match (next, number(closed)) {
                (Some(a), Some(b)) => Some(a.max(b)),
                (a, b) => a.or(b),
            };
            bound.map(|bound| bound * sign)
        },
    )
}

/// Writes bounds that are excluded as the next numbers, which are included.
fn include_bounds(entries: &mut Map<String, Value>) {
    let found = bounds(entries);
    for ((open, closed), bound) in
        [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")].into_iter().zip(found)
    {
        if let Some(bound) = bound.filter(|_| entries.remove(open).is_some()) {
            entries.insert(closed.to_owned(), bound.into());
        }
    }
}

/// A value as it is written, cut where it is long.
fn shown(value: &Value) -> String {
    cut(&value.to_string())
}

/// The beginning of a text that a client may have made long.
pub(super) fn cut(text: &str) -> String {
    match text.char_indices().nth(MOST_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
