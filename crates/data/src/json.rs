//! JSON of strangers: read only if what it unfolds to is bounded.

use serde::de::DeserializeOwned;
use serde::de::Error as _;

/// The most values that a text may hold. A value takes some 80 bytes, however short its text: `[0,0,0,...]` unfolds to
/// forty times its length. Rows and settings have a few thousand.
pub(crate) const MOST_VALUES: usize = 1 << 18;

/// Reads a text of at most [`MOST_VALUES`]. Depth is bounded by the library.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    match holds_more(text.as_bytes(), MOST_VALUES) {
        false => serde_json::from_str(text),
        true => Err(serde_json::Error::custom(format!("it holds more than {MOST_VALUES} values"))),
    }
}

/// Whether a text has more than so many commas and opening brackets outside its strings, one of which comes before every
/// value but the first.
fn holds_more(text: &[u8], values: usize) -> bool {
    if text.len() <= values {
        return false;
    }
    let (mut found, mut in_string, mut escaped) = (0, false, false);
    for byte in text {
        match byte {
            _ if in_string => {
                in_string = escaped || *byte != b'"';
                escaped = !escaped && *byte == b'\\';
            }
            b'"' => in_string = true,
            b',' | b'[' | b'{' => found += 1,
            _ => {}
        }
    }
    found > values
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn values_are_counted_and_what_strings_say_is_not() {
        assert!(holds_more(b"[0,0,0,0]", 3));
        assert!(!holds_more(br#"["[,,,{,\",,\\"]"#, 3));
        assert!(holds_more(br#"["\\",{"a":[1]}]"#, 3));
        let flat = format!("[{}0]", "0,".repeat(MOST_VALUES));
        let error = read::<Value>(&flat).expect_err("too many").to_string();
        assert_eq!(error, "it holds more than 262144 values");
        let text = format!("[{:?}]", ",".repeat(2 * MOST_VALUES));
        assert!(read::<Value>(&text).is_ok());
    }
}
