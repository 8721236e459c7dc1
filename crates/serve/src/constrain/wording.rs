//! What the library says of values of a schema that it cannot take, in the terms of the client.

/// The library's words in those of the client, if it says them of a value.
pub(super) fn of_value(reason: &str) -> Option<String> {
    of_number(reason).or_else(|| {
        if reason.starts_with("min/maxProperties only supported") {
            let rule =
                "`minProperties` and `maxProperties` are supported where all of `properties` are required";
            return Some(rule.to_owned());
        }
        let patterns = reason.strip_prefix("patternProperty regexes ")?.strip_suffix(" are not disjoint")?;
        Some(format!("in `patternProperties` {patterns} can fit the same key; let them exclude each other"))
    })
}

/// Of numbers that cannot be counted with.
fn of_number(reason: &str) -> Option<String> {
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
