//! What of constraints is too large to be read, and what is said of those that cannot be kept.

use serde_json::Value;

use super::{Constraint, line};

/// Values in a schema, keys not counted. The costliest schemas compare each of them with each.
const MOST_VALUES: usize = 2000;
/// Levels of a schema.
const MOST_LEVELS: usize = 48;
/// Bytes of all texts and keys of a schema.
const MOST_BYTES: usize = 64 << 10;
/// Bytes of a regular expression.
const MOST_REGEX_BYTES: usize = 2 << 10;
/// Items, letters or keys that a schema may ask for or allow.
const MOST_COUNTED: u64 = 10_000;

/// Keywords that count.
const COUNTS: [&str; 6] =
    ["minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"];
/// Keywords whose value is a schema or a list of schemas.
const SCHEMAS: [&str; 9] = [
    "items",
    "additionalProperties",
    "additionalItems",
    "prefixItems",
    "anyOf",
    "oneOf",
    "allOf",
    "not",
    "contains",
];
/// Keywords whose value has schemas by name.
const NAMED_SCHEMAS: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];

/// Refuses a schema that is too large to be read.
pub(super) fn check_schema(schema: &Value) -> Result<(), String> {
    if !schema.is_object() && !schema.is_boolean() {
        return Err("is no JSON object".to_owned());
    }
    let (mut values, mut bytes) = (0, 0);
    let mut open = vec![(schema, 1)];
    while let Some((value, level)) = open.pop() {
        values += 1;
        if level > MOST_LEVELS {
            return Err(format!("has more than {MOST_LEVELS} levels"));
        }
        match value {
            Value::String(text) => bytes += text.len(),
            Value::Array(items) => open.extend(items.iter().map(|item| (item, level + 1))),
            Value::Object(entries) => {
                for (key, value) in entries {
                    bytes += key.len();
                    let count = value.as_f64().filter(|_| COUNTS.contains(&key.as_str()));
                    if count.is_some_and(|count| count > MOST_COUNTED as f64) {
                        return Err(format!("has {key} {value}; it may be at most {MOST_COUNTED}"));
                    }
                    open.push((value, level + 1));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
        if values + open.len() > MOST_VALUES {
            return Err(format!("has more than {MOST_VALUES} values"));
        }
        if bytes > MOST_BYTES {
            return Err(format!("has more than {MOST_BYTES} bytes of texts"));
        }
    }
    Ok(())
}

/// The regular expression without anchors at its ends: it describes the whole answer anyway.
pub(super) fn whole_regex(text: &str) -> Result<&str, String> {
    if text.len() > MOST_REGEX_BYTES {
        return Err(format!("has {} bytes; it may have at most {MOST_REGEX_BYTES}", text.len()));
    }
    let escapes = |text: &str| text.len() - text.trim_end_matches('\\').len();
    let text = text.strip_prefix('^').unwrap_or(text);
    let text = match text.strip_suffix('$') {
        Some(rest) if escapes(rest) % 2 == 0 => rest,
        _ => text,
    };
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if escapes(text) % 2 == 1 {
        return Err("ends with a backslash that escapes nothing".to_owned());
    }
    Ok(text)
}

/// What the library says of a constraint that it cannot keep, in the terms of the client.
pub(super) fn explain(error: &str, constraint: &Constraint) -> String {
    if error.starts_with("panic") {
        return "it has a part that cannot be read".to_owned();
    }
    // A parser of regular expressions draws the place first.
    let reason = error.lines().find_map(|line| line.trim().strip_prefix("error: "));
    let reason = reason.map_or_else(|| line(error), str::to_owned);
    if let Some((_, keys)) = reason.split_once("Unimplemented keys: ") {
        let keys: Vec<String> = serde_json::from_str(keys).unwrap_or_default();
        let place = match constraint {
            Constraint::JsonSchema(schema) => place_of(schema, &keys),
            _ => None,
        };
        let at = place.map(|place| format!(" at #{place}")).unwrap_or_default();
        return format!("`{}`{at} is not supported", keys.join("`, `"));
    }
    if reason.starts_with("oneOf constraints are not supported") {
        return "`oneOf` is supported where its schemas exclude each other by their type or by a `const` of a required key; \
                use `anyOf`"
            .to_owned();
    }
    if let Some((_, reference)) = reason.split_once("'referencing' feature; ref ") {
        return format!(
            "`$ref` {}: only places of the schema itself (#/...) are supported",
            shortened(reference)
        );
    }
    if ["fuel", "too big", "too large", "too many"].iter().any(|words| reason.contains(words)) {
        return format!("it is too complex ({})", shortened(&reason));
    }
    shortened(&reason)
}

/// The beginning of a text that a client may have made long.
fn shortened(text: &str) -> String {
    const MOST: usize = 200;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Where in a schema all of these keywords are, as a JSON pointer.
fn place_of(schema: &Value, keywords: &[String]) -> Option<String> {
    let entries = schema.as_object()?;
    if !keywords.is_empty() && keywords.iter().all(|keyword| entries.contains_key(keyword)) {
        return Some(String::new());
    }
    let within = |value: &Value, key: &str| place_of(value, keywords).map(|rest| format!("/{key}{rest}"));
    entries.iter().find_map(|(key, value)| {
        let key = key.as_str();
        let found = match value {
            Value::Array(items) if SCHEMAS.contains(&key) => {
                items.iter().enumerate().find_map(|(number, item)| within(item, &number.to_string()))
            }
            Value::Object(named) if NAMED_SCHEMAS.contains(&key) => {
                named.iter().find_map(|(name, item)| within(item, name))
            }
            _ if SCHEMAS.contains(&key) => place_of(value, keywords),
            _ => None,
        };
        found.map(|rest| format!("/{key}{rest}"))
    })
}
