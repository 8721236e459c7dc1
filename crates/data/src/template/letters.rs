//! What Python's `str` knows of letters: upper and lower case, and what kinds of characters a text has.

use std::sync::LazyLock;

use minijinja::{Error, Value};
use regex::Regex;

use super::printing::is_printable;
use super::python::{is_space, unsupported};

/// The result of a method without arguments; nothing for others.
///
/// # Errors
/// Where a character's case is not supported.
pub(super) fn plain(text: &str, name: &str) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "upper" => Value::from(text.to_uppercase()),
        "lower" => Value::from(text.to_lowercase()),
        "capitalize" => {
            let mut chars = text.chars();
            let first = chars.next().map(titled).transpose()?.unwrap_or_default();
            Value::from(first + &chars.as_str().to_lowercase())
        }
        "title" => {
            let (mut out, mut inside) = (String::new(), false);
            for c in text.chars() {
                match inside {
                    true => out.extend(c.to_lowercase()),
                    false => out.push_str(&titled(c)?),
                }
                inside = is_cased(c);
            }
            Value::from(out)
        }
        "swapcase" => Value::from(text.chars().fold(String::new(), |mut out, c| {
            if c.is_uppercase() {
                out.extend(c.to_lowercase())
            } else {
                out.extend(c.to_uppercase())
            }
            out
        })),
        "casefold" => Value::from(text.chars().map(folded).collect::<Result<String, _>>()?),
        "isascii" => Value::from(text.is_ascii()),
        "isprintable" => Value::from(text.chars().all(is_printable)),
        "islower" => {
            Value::from(text.chars().any(is_cased) && !text.chars().any(|c| is_cased(c) && !c.is_lowercase()))
        }
        "isupper" => {
            Value::from(text.chars().any(is_cased) && !text.chars().any(|c| is_cased(c) && !c.is_uppercase()))
        }
        "istitle" => Value::from(is_titled(text)),
        "isspace" => every(text, is_space),
        "isalpha" => every(text, is_letter),
        "isdecimal" => every(text, is_decimal),
        "isdigit" => every(text, is_digit),
        "isnumeric" | "isalnum"
            if text.chars().any(|c| is_letter(c) && is_ideograph(c)) && name == "isnumeric" =>
        {
            return Err(unsupported("isnumeric of ideographs"));
        }
        "isnumeric" => every(text, |c| c.is_numeric() || is_digit(c)),
        "isalnum" => every(text, |c| is_letter(c) || c.is_numeric() || is_digit(c)),
        "isidentifier" => Value::from(is_identifier(text)?),
        _ => return Ok(None),
    }))
}

fn every(text: &str, is: impl Fn(char) -> bool) -> Value {
    Value::from(!text.is_empty() && text.chars().all(is))
}

/// A character's class in Unicode, by a pattern.
fn matches(pattern: &'static LazyLock<Option<Regex>>, c: char) -> bool {
    pattern.as_ref().is_some_and(|pattern| pattern.is_match(c.encode_utf8(&mut [0; 4])))
}

fn is_letter(c: char) -> bool {
    static LETTER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\p{L}$").ok());
    if c.is_ascii() { c.is_ascii_alphabetic() } else { matches(&LETTER, c) }
}

fn is_decimal(c: char) -> bool {
    static DECIMAL: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\p{Nd}$").ok());
    if c.is_ascii() { c.is_ascii_digit() } else { matches(&DECIMAL, c) }
}

/// Unicode's `Numeric_Type=Digit`, beside the decimals.
fn is_digit(c: char) -> bool {
    is_decimal(c)
        || matches!(c,
            '\u{b2}' | '\u{b3}' | '\u{b9}' | '\u{1369}'..='\u{1371}' | '\u{19da}' | '\u{2070}' | '\u{2074}'..='\u{2079}'
            | '\u{2080}'..='\u{2089}' | '\u{2460}'..='\u{2468}' | '\u{2474}'..='\u{247c}' | '\u{2488}'..='\u{2490}'
            | '\u{24ea}' | '\u{24f5}'..='\u{24fd}' | '\u{24ff}' | '\u{2776}'..='\u{277e}' | '\u{2780}'..='\u{2788}'
            | '\u{278a}'..='\u{2792}' | '\u{10a40}'..='\u{10a43}' | '\u{10e60}'..='\u{10e68}'
            | '\u{11052}'..='\u{1105a}' | '\u{1f100}'..='\u{1f10a}')
}

fn is_ideograph(c: char) -> bool {
    matches!(c, '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

fn is_title_letter(c: char) -> bool {
    matches!(c, '\u{1c5}' | '\u{1c8}' | '\u{1cb}' | '\u{1f2}' | '\u{1f88}'..='\u{1f8f}' | '\u{1f98}'..='\u{1f9f}'
        | '\u{1fa8}'..='\u{1faf}' | '\u{1fbc}' | '\u{1fcc}' | '\u{1ffc}')
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || is_title_letter(c)
}

fn is_titled(text: &str) -> bool {
    let (mut inside, mut any) = (false, false);
    for c in text.chars() {
        let (upper, lower) = (c.is_uppercase() || is_title_letter(c), c.is_lowercase());
        if upper && inside || lower && !inside {
            return false;
        }
        inside = upper || lower;
        any |= inside;
    }
    any
}

/// A character as the first of a word.
fn titled(c: char) -> Result<String, Error> {
    let mut upper = c.to_uppercase();
    Ok(match c {
        '\u{1c4}'..='\u{1c6}' => "\u{1c5}".into(),
        '\u{1c7}'..='\u{1c9}' => "\u{1c8}".into(),
        '\u{1ca}'..='\u{1cc}' => "\u{1cb}".into(),
        '\u{1f1}'..='\u{1f3}' => "\u{1f2}".into(),
        'ß' | '\u{fb00}'..='\u{fb06}' => {
            let first: String = upper.next().into_iter().collect();
            first + &upper.flat_map(char::to_lowercase).collect::<String>()
        }
        // Georgian has capitals that begin no word.
        '\u{10d0}'..='\u{10ff}' => c.to_string(),
        _ if upper.len() == 1 => upper.collect(),
        _ => return Err(unsupported(&format!("the title case of {c}"))),
    })
}

fn folded(c: char) -> Result<String, Error> {
    let lower: String = c.to_lowercase().collect();
    let folded: String = c.to_uppercase().flat_map(char::to_lowercase).collect();
    match lower == folded || matches!(c, 'ß' | 'ſ' | 'ς' | 'µ' | '\u{fb00}'..='\u{fb06}') {
        true => Ok(folded),
        false => Err(unsupported(&format!("the folded case of {c}"))),
    }
}

fn is_identifier(text: &str) -> Result<bool, Error> {
    if !text.is_ascii() {
        return Err(unsupported("isidentifier of text that is not ASCII"));
    }
    let mut chars = text.chars();
    let begins = chars.next().is_some_and(|c| c == '_' || c.is_ascii_alphabetic());
    Ok(begins && chars.all(|c| c == '_' || c.is_ascii_alphanumeric()))
}
