//! Whether a value that a model wrote freely fits a schema: the arguments of a call that it decided to make.

use serde_json::{Map, Value};

use super::{limits, schema};

/// Schemas that are looked at for one value. References can make a short schema one of many steps.
const MOST_STEPS: usize = 20_000;

/// Schemas that are looked at within each other: those of the deepest value, and some references at each of its levels.
const MOST_LEVELS: usize = 400;

/// Keywords that decide what fits, and by which values are not checked.
const UNCHECKED: [&str; 20] = [
    "pattern",
    "format",
    "patternProperties",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "additionalItems",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedProperties",
    "unevaluatedItems",
    "$dynamicRef",
    "$recursiveRef",
];

/// A schema that values can be checked by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    schema: Value,
}

impl Checked {
    /// A check by `schema`, if every keyword of it can be checked.
    ///
    /// # Errors
    /// The keyword that cannot be checked, with its place, worded to follow "the schema, which".
    pub fn new(schema: &Value) -> Result<Self, String> {
        limits::check_schema(schema)?;
        let schema = schema::prepare(schema)?;
        schema::each(&schema, |value, at| {
            let Value::Object(entries) = value else { return Ok(()) };
            let unchecked = UNCHECKED.into_iter().find(|keyword| entries.contains_key(*keyword));
            let reference = entries.get("$ref").and_then(Value::as_str);
            let is_place = |reference: &str| reference == "#" || reference.starts_with("#/");
            let is_lost = |reference| !is_place(reference) || limits::target(&schema, reference).is_none();
            match (unchecked, reference) {
                (Some(keyword), _) => Err(format!("has `{keyword}` at {at}")),
                (None, Some(reference)) if is_lost(reference) => {
                    let reference = schema::cut(reference);
                    Err(format!("has the `$ref` '{reference}' at {at}, which leads to no place of it"))
                }
                // References within it would be to places of it.
                (None, _) if !std::ptr::eq(value, &raw const schema) && entries.contains_key("$id") => {
                    Err(format!("has `$id` at {at}"))
                }
                (None, _) if entries.get("items").is_some_and(Value::is_array) => {
                    Err(format!("has a list as `items` at {at}"))
                }
                (None, _) => Ok(()),
            }
        })?;
        Ok(Checked { schema })
    }

    /// Whether a value fits.
    pub fn fits(&self, value: &Value) -> bool {
        Check { root: &self.schema, steps: 0, level: 0 }.fits(&self.schema, value)
    }
}

/// One value on its way through a schema.
struct Check<'s> {
    root: &'s Value,
    steps: usize,
    level: usize,
}

impl Check<'_> {
    fn fits(&mut self, schema: &Value, value: &Value) -> bool {
        self.steps += 1;
        let Value::Object(entries) = schema else { return *schema == true };
        if self.steps > MOST_STEPS || self.level > MOST_LEVELS {
            return false;
        }
        self.level += 1;
        let fits = is_of_type(entries, value)
            && self.fits_others(entries, value)
            && self.fits_within(entries, value);
        self.level -= 1;
        fits
    }

    /// Whether a value fits the other schemas that one has for it.
    fn fits_others(&mut self, entries: &Map<String, Value>, value: &Value) -> bool {
        if let Some(reference) = entries.get("$ref").and_then(Value::as_str)
            && !limits::target(self.root, reference).is_some_and(|schema| self.fits(schema, value))
        {
            return false;
        }
        ["anyOf", "oneOf", "allOf"].into_iter().all(|key| {
            let Some(schemas) = entries.get(key).and_then(Value::as_array) else { return true };
            let mut fitting = schemas.iter().map(|schema| self.fits(schema, value));
            match key {
                "anyOf" => fitting.any(|fits| fits),
                "allOf" => fitting.all(|fits| fits),
                _ => fitting.filter(|fits| *fits).count() == 1,
            }
        })
    }

    /// Whether what a value has within it fits, and how much that is.
    fn fits_within(&mut self, entries: &Map<String, Value>, value: &Value) -> bool {
        match value {
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
            Some(schema) => self.fits(schema, item),
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
            schema.is_none_or(|schema| self.fits(schema, value))
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
