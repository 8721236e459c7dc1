//! Whether a value that a model wrote freely fits a schema: the arguments of a call that it decided to make.

use serde_json::{Map, Value};

use super::{limits, schema};

/// Schemas that are looked at for one value. References can make a short schema one of many steps.
const MOST_STEPS: usize = 100_000;

/// Keywords that a value is checked by, and those that say nothing of it.
const KNOWN: [&str; 34] = [
    "type",
    "enum",
    "const",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "prefixItems",
    "anyOf",
    "oneOf",
    "allOf",
    "$ref",
    "minimum",
    "maximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "$defs",
    "definitions",
    "$schema",
    "$id",
    "$comment",
    "title",
    "description",
    "default",
    "examples",
    "readOnly",
    "writeOnly",
    "deprecated",
    "nullable",
];

/// A schema that values can be checked by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    schema: Value,
}

impl Checked {
    /// Of a schema that has no keywords but those that are checked.
    ///
    /// # Errors
    /// What of it cannot be checked, with its place; the rule follows "the schema".
    pub fn new(schema: &Value) -> Result<Self, String> {
        limits::check_schema(schema)?;
        let schema = schema::prepare(schema)?;
        schema::each(&schema, |entries, at| {
            let unknown = entries.keys().find(|keyword| !KNOWN.contains(&keyword.as_str()));
            match (unknown, entries.get("items")) {
                (Some(keyword), _) => Err(format!("has `{}` at {at}", schema::cut(keyword))),
                (None, Some(Value::Array(_))) => Err(format!("has a list as `items` at {at}")),
                (None, _) => Ok(()),
            }
        })?;
        Ok(Checked { schema })
    }

    /// Whether a value fits.
    pub fn fits(&self, value: &Value) -> bool {
        let mut check = Check { root: &self.schema, steps: 0 };
        check.fits(&self.schema, value, 0)
    }
}

/// One value on its way through a schema.
struct Check<'s> {
    root: &'s Value,
    steps: usize,
}

impl Check<'_> {
    /// `references` were followed from the same value.
    fn fits(&mut self, schema: &Value, value: &Value, references: usize) -> bool {
        self.steps += 1;
        let Value::Object(entries) = schema else { return *schema == true };
        if self.steps > MOST_STEPS || references > limits::MOST_FOLLOWED {
            return false;
        }
        let refers = |check: &mut Self| match entries.get("$ref").and_then(Value::as_str) {
            None => true,
            Some(reference) => limits::target(check.root, reference)
                .is_some_and(|schema| check.fits(schema, value, references + 1)),
        };
        let mut fitting = |key: &str| {
            let schemas = entries.get(key).and_then(Value::as_array)?;
            let fitting = schemas.iter().filter(|schema| self.fits(schema, value, references + 1)).count();
            Some((fitting, schemas.len()))
        };
        let alternatives = fitting("anyOf").is_none_or(|(fitting, _)| fitting > 0)
            && fitting("oneOf").is_none_or(|(fitting, _)| fitting == 1)
            && fitting("allOf").is_none_or(|(fitting, all)| fitting == all);
        alternatives
            && refers(self)
            && is_of_type(entries, value)
            && match value {
                Value::String(text) => is_counted(entries, ["minLength", "maxLength"], text.chars().count()),
                Value::Array(items) => {
                    is_counted(entries, ["minItems", "maxItems"], items.len()) && self.items(entries, items)
                }
                Value::Object(of) => {
                    is_counted(entries, ["minProperties", "maxProperties"], of.len())
                        && self.properties(entries, of)
                }
                Value::Number(_) => is_in_bounds(entries, value),
                Value::Null | Value::Bool(_) => true,
            }
    }

    fn items(&mut self, entries: &Map<String, Value>, items: &[Value]) -> bool {
        let first = entries.get("prefixItems").and_then(Value::as_array);
        let first = first.map(Vec::as_slice).unwrap_or_default();
        items.iter().enumerate().all(|(index, item)| match first.get(index).or(entries.get("items")) {
            Some(schema) => self.fits(schema, item, 0),
            None => true,
        })
    }

    fn properties(&mut self, entries: &Map<String, Value>, of: &Map<String, Value>) -> bool {
        let needed = entries.get("required").and_then(Value::as_array).into_iter().flatten();
        if !needed.filter_map(Value::as_str).all(|key| of.contains_key(key)) {
            return false;
        }
        let named = entries.get("properties").and_then(Value::as_object);
        of.iter().all(|(key, value)| {
            let schema = named.and_then(|named| named.get(key)).or(entries.get("additionalProperties"));
            schema.is_none_or(|schema| self.fits(schema, value, 0))
        })
    }
}

fn is_of_type(entries: &Map<String, Value>, value: &Value) -> bool {
    let is = |name: &Value| match (name.as_str(), value) {
        (Some("integer"), value) => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        (Some("number"), Value::Number(_))
        | (Some("string"), Value::String(_))
        | (Some("boolean"), Value::Bool(_))
        | (Some("object"), Value::Object(_))
        | (Some("array"), Value::Array(_))
        | (Some("null"), Value::Null) => true,
        _ => false,
    };
    let is_one = match entries.get("type") {
        None => true,
        Some(Value::Array(names)) => names.iter().any(is),
        Some(name) => is(name),
    };
    let values = entries.get("enum").and_then(Value::as_array);
    is_one
        && values.is_none_or(|values| values.iter().any(|other| is_same(other, value)))
        && entries.get("const").is_none_or(|other| is_same(other, value))
}

/// Whether two values are the same: 1 and 1.0 are.
fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| is_same(a, b)))
        }
        (a, b) => a == b,
    }
}

fn is_counted(entries: &Map<String, Value>, keys: [&str; 2], count: usize) -> bool {
    let [least, most] = keys.map(|key| entries.get(key).and_then(Value::as_u64));
    least.is_none_or(|least| count as u64 >= least) && most.is_none_or(|most| count as u64 <= most)
}

fn is_in_bounds(entries: &Map<String, Value>, value: &Value) -> bool {
    let Some(number) = value.as_f64() else { return false };
    let of = |key: &str| entries.get(key).and_then(Value::as_f64);
    // Decimal fractions are not exact as doubles.
    let is_multiple = |of: f64| {
        let times = number / of;
        (times - times.round()).abs() <= 1e-9 * times.abs().max(1.0)
    };
    of("minimum").is_none_or(|least| number >= least)
        && of("maximum").is_none_or(|most| number <= most)
        && of("multipleOf").is_none_or(is_multiple)
}
