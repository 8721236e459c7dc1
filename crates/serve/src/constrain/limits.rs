//! What of constraints is too large to be read, and what is said of those that cannot be kept.

use serde_json::Value;

use super::{Constraint, line, wording};

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

/// References that are followed from one place to say where a schema leads back to itself.
const MOST_FOLLOWED: usize = 64;

/// Formats of strings that are known.
const KNOWN_FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];
/// Keywords that count.
const COUNTS: [&str; 6] =
    ["minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"];
/// Keywords whose value is a schema or a list of schemas.
pub(super) const SCHEMAS: [&str; 9] = [
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
pub(super) const NAMED_SCHEMAS: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];

/// Refuses a schema that is too large to be read.
pub(super) fn check_schema(schema: &Value) -> Result<(), String> {
    if !schema.is_object() && !schema.is_boolean() {
        return Err("is not a JSON object".to_owned());
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

/// Letters of a reference that are shown.
const MOST_OF_REFERENCE: usize = 100;

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
    if let Some(why) = of_reference(&reason, constraint).or_else(|| of_regex(&reason)) {
        return why;
    }
    if let Some((_, format)) = reason.split_once("Unknown format: ") {
        let known = KNOWN_FORMATS.join(", ");
        return format!(
            "`format` {} is not supported; leave it out, or use one of {known}",
            shortened(format)
        );
    }
    if reason.contains("NoExtensionBias") {
        return "no text fits it".to_owned();
    }
    if let Some((_, why)) = reason.split_once("Unsatisfiable schema: ") {
        return format!("nothing fits it: {}", shortened(&wording::unsatisfiable(why)));
    }
    if let Some((_, reference)) = reason.split_once("'referencing' feature; ref ") {
        // So much of it that what to do about it has room behind it.
        let shown: String = reference.chars().take(MOST_OF_REFERENCE).collect();
        let cut = if shown.len() < reference.len() { "…" } else { "" };
        return format!(
            "`$ref` {shown}{cut}: only places of the schema itself are supported, and nothing is fetched from the network; put the \
             definition under `$defs`"
        );
    }
    if let Some(why) = wording::of_value(&reason) {
        return shortened(&why);
    }
    if ["fuel", "too big", "too large", "too many", "stack level"].iter().any(|words| reason.contains(words))
    {
        return format!("it is too complex ({})", shortened(&reason));
    }
    shortened(&reason)
}

/// What the library says of `$ref`, in the terms of the client.
fn of_reference(reason: &str, constraint: &Constraint) -> Option<String> {
    let Constraint::JsonSchema(schema) = constraint else { return None };
    let leads_nowhere = ["Reference segment", "Definition not found", "invalid digit"];
    let leads_back = ["NoExtensionBias", "stack level exceeded"];
    if leads_nowhere.iter().any(|words| reason.contains(words)) {
        let reference = references(schema).into_iter().map(|(_, reference)| reference);
        let mut lost = reference.filter(|reference| target(schema, reference).is_none());
        return lost
            .next()
            .map(|lost| format!("`$ref` '{}' leads to nothing in the schema", shortened(lost)));
    }
    if leads_back.iter().any(|words| reason.contains(words)) {
        let place =
            references(schema).into_iter().map(|(place, _)| place).find(|place| leads_back_to(schema, place));
        return place.map(|place| format!("`$ref` at #{} leads back to itself", shortened(&place)));
    }
    None
}

/// What the library says of parts of regular expressions that it does not have, in the terms of the client.
fn of_regex(reason: &str) -> Option<String> {
    let part = if reason.contains("lookarounds not supported") {
        // It names the kind: at a word's edge, or at the beginning or end of text or line.
        match (reason.contains("Word"), reason.contains("Negate")) {
            (true, false) => r"`\b`",
            (true, true) => r"`\B`",
            (false, _) => "an anchor (`^`, `$`, `\\A`, `\\z`) in the middle",
        }
    } else if reason.contains("look-around") || reason.contains("look-ahead") {
        "a look-around, such as `(?=...)`,"
    } else if reason.contains("backreference") {
        r"a backreference, such as `\1`,"
    } else {
        return None;
    };
    Some(format!("{part} is not supported; leave it out"))
}

/// Every `$ref` of a schema that leads to a place of it, with the place of the schema that has it, as a JSON pointer.
fn references(schema: &Value) -> Vec<(String, &str)> {
    let (mut found, mut open) = (Vec::new(), vec![(String::new(), schema)]);
    while let Some((place, value)) = open.pop() {
        match value {
            Value::Object(entries) => {
                if let Some(reference) = entries.get("$ref").and_then(Value::as_str)
                    && reference.starts_with('#')
                {
                    found.push((place.clone(), reference));
                }
                open.extend(entries.iter().map(|(key, value)| (format!("{place}/{key}"), value)));
            }
            Value::Array(items) => {
                open.extend(items.iter().enumerate().map(|(at, value)| (format!("{place}/{at}"), value)));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    found.sort_unstable();
    found
}

/// The place that a `$ref` leads to, as the library finds it: without escapes.
pub(super) fn target<'s>(schema: &'s Value, reference: &str) -> Option<&'s Value> {
    let path = reference.strip_prefix('#')?;
    let mut parts = path.split('/').skip(1).filter(|_| path != "/");
    parts.try_fold(schema, |value, part| match value {
        Value::Array(items) => items.get(part.parse::<usize>().ok()?),
        value => value.get(part),
    })
}

/// Whether references, alternatives and what has to hold together lead from a place of a schema back to it.
fn leads_back_to(schema: &Value, place: &str) -> bool {
    let Some(start) = target(schema, &format!("#{place}")) else { return false };
    let mut seen: Vec<*const Value> = Vec::new();
    let mut open = vec![start];
    while let Some(value) = open.pop() {
        let next = value.get("$ref").and_then(Value::as_str).and_then(|reference| target(schema, reference));
        let lists = ["allOf", "anyOf", "oneOf"].into_iter().filter_map(|key| value.get(key)?.as_array());
        for value in next.into_iter().chain(lists.flatten()) {
            if std::ptr::eq(value, start) {
                return true;
            }
            if !seen.contains(&std::ptr::from_ref(value)) && seen.len() < MOST_FOLLOWED {
                seen.push(std::ptr::from_ref(value));
                open.push(value);
            }
        }
    }
    false
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
