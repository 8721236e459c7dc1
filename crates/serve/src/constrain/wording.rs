//! What the library says of values of a schema that it cannot take, in the terms of the client.

/// Types of JSON Schema.
const TYPES: &str = "string, number, integer, boolean, object, array or null";

/// What is needed where the library expects this.
const EXPECTED: [(&str, &str); 5] = [
    ("f64", "a number"),
    ("positive integer", "a whole number of 0 or more"),
    ("string", "a string"),
    ("array", "a list"),
    ("object", "an object"),
];

/// The library's words in those of the client, if it says them of a value.
pub(super) fn of_value(reason: &str) -> Option<String> {
    of_kind(reason).or_else(|| of_number(reason)).or_else(|| {
        if reason.starts_with("min/maxProperties only supported") {
            let rule =
                "`minProperties` and `maxProperties` are supported where all of `properties` are required";
            return Some(rule.to_owned());
        }
        let patterns = reason.strip_prefix("patternProperty regexes ")?.strip_suffix(" are not disjoint")?;
        Some(format!("in `patternProperties` {patterns} can fit the same key; let them exclude each other"))
    })
}

/// Of a value of another kind than its keyword has.
fn of_kind(reason: &str) -> Option<String> {
    if let Some((expected, rest)) =
        reason.strip_prefix("Expected ").and_then(|rest| rest.split_once(" for '"))
    {
        let (keyword, found) = rest.split_once("', got ")?;
        let (_, needed) = EXPECTED.into_iter().find(|(word, _)| *word == expected)?;
        return Some(format!("`{keyword}` is {found}; it has to be {needed}"));
    }
    if let Some(name) = reason.strip_prefix("Invalid type: ") {
        return Some(format!("the `type` {name} is not known; use {TYPES}"));
    }
    if reason == "schema must be an object or boolean" {
        return Some("where a schema belongs, it has a value that is no object, true or false".to_owned());
    }
    let (keyword, needed) = reason.split_once(" must be ")?;
    let needed = needed.split(", got ").next().unwrap_or_default();
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '$';
    let needed = match needed {
        "an array" => "a list",
        "a string or array of strings" => "a string or a list of strings",
        "a string" | "an object" => needed,
        _ => return None,
    };
    keyword.chars().all(is_word).then(|| format!("`{keyword}` has to be {needed}"))
}

/// Of numbers that cannot be counted with.
fn of_number(reason: &str) -> Option<String> {
    if reason.contains("invalid multiple of") {
        return Some("`multipleOf` has to be above 0".to_owned());
    }
    if reason.contains("'multipleOf' has too many digits") {
        return Some("`multipleOf` has too many digits; round it".to_owned());
    }
    reason.starts_with("Failed to generate regex for").then(|| {
        "its `minimum` or `maximum` is too large to be kept; leave it out, or give one of at most 15 digits".to_owned()
    })
}

/// Why nothing fits a schema.
pub(super) fn unsatisfiable(why: &str) -> String {
    if why.contains("Regex is empty") {
        return "its `pattern`, `format` and lengths exclude each other".to_owned();
    }
    let why = why.replace("Unsatisfiable schema: ", "");
    if let Some(name) =
        why.strip_prefix("required property ").and_then(|rest| rest.strip_suffix(" is unsatisfiable"))
    {
        return format!("nothing can be its required property {name}");
    }
    why.replace("anyOf is empty", "an `enum` or `anyOf` is empty")
        .replace("incompatible types", "it asks for values of different types at once")
}
