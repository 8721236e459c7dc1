//! Multiple choice: a column of a row holds the options, one of which is the row's reply.
//!
//! An option is tokenised where the reply would stand, behind the prompt and as one text with it, as lm-eval does: a token may
//! reach across the seam.

use serde_json::Value;

use crate::error::RowProblem;
use crate::json;

/// The options of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choices {
    /// The options, in the order of the row.
    pub options: Vec<Choice>,
    /// Which of them is the row's reply.
    pub right: usize,
}

/// An option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// As the row has it, without white space around it.
    pub text: String,
    /// Token ids of the prompt and the option together.
    pub ids: Vec<u32>,
    /// The first of them that is compared: where the prompt ends, or before that where a token of an option reaches into the
    /// prompt. The same for all options of a row, and never 0, which has nothing before it.
    pub start: usize,
}

impl Choices {
    /// Reads the options of `column`, and which of them `reply` is. `encode` gives the token ids of the prompt and what
    /// follows it.
    ///
    /// # Errors
    /// A column that is missing or holds no list of texts, options that are equal, and a reply that is none of them.
    pub(crate) fn read(
        column: &str,
        value: Option<Value>,
        reply: &str,
        prompt_ids: &[u32],
        encode: impl Fn(&str) -> Result<Vec<u32>, RowProblem>,
    ) -> Result<Self, RowProblem> {
        let wrong = |why: String| RowProblem::Choices { column: column.to_owned(), why };
        let texts = texts(value).map_err(wrong)?;
        if let Some(i) = (1..texts.len()).find(|&i| texts[..i].contains(&texts[i])) {
            return Err(wrong(format!("has the option `{}` twice", short(&texts[i]))));
        }
        let Some(right) = texts.iter().position(|text| text == reply.trim()) else {
            return Err(wrong(format!("does not list the reply `{}`", short(reply.trim()))));
        };
        // What stands before the reply stands before every option.
        let gap = &reply[..reply.len() - reply.trim_start().len()];
        let option = |text: String| {
            let ids = encode(&format!("{gap}{text}"))?;
            let common = ids.iter().zip(prompt_ids).take_while(|(a, b)| a == b).count();
            match common.max(1) {
                start if start < ids.len() => Ok(Choice { text, ids, start }),
                _ => Err(wrong(format!("has the option `{}`, which has no token", short(&text)))),
            }
        };
        let mut options = texts.into_iter().map(option).collect::<Result<Vec<Choice>, _>>()?;
        // Where a token of one option reaches into the prompt, all are compared from there on.
        let start = options.iter().map(|option| option.start).min().unwrap_or(1);
        options.iter_mut().for_each(|option| option.start = start);
        Ok(Choices { options, right })
    }
}

/// A text that fits an error.
fn short(text: &str) -> String {
    text.chars().take(60).collect::<String>().escape_debug().to_string()
}

/// The texts of a list, which tables hold as JSON text.
fn texts(value: Option<Value>) -> Result<Vec<String>, String> {
    let value = match value {
        None | Some(Value::Null) => return Err("is not there".to_owned()),
        Some(Value::String(text)) => json::value(&text).map_err(|_| "is a text and not a list".to_owned())?,
        Some(value) => value,
    };
    let Value::Array(items) = value else {
        return Err(format!("is {} and not a list of texts", crate::format::kind(&value)));
    };
    let text = |item: Value| match item {
        Value::String(text) if json::odd_number(&text).is_none() && !text.trim().is_empty() => {
            Ok(text.trim().to_owned())
        }
        Value::String(text) if text.trim().is_empty() => Err("has an empty option".to_owned()),
        other => Err(format!("has {} as an option; options are texts", crate::format::kind(&other))),
    };
    let texts: Vec<String> = items.into_iter().map(text).collect::<Result<_, _>>()?;
    match texts.len() {
        0 | 1 => Err("has fewer than two options".to_owned()),
        _ => Ok(texts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value, reply: &str) -> Result<Choices, String> {
        let encode = |text: &str| Ok([b"Q:", text.as_bytes()].concat().into_iter().map(u32::from).collect());
        Choices::read("options", Some(value), reply, &[81, 58], encode).map_err(|error| error.to_string())
    }

    #[test]
    fn options_are_read_from_lists_and_from_their_json_text() {
        for value in [json!(["yes", "no "]), json!("[\"yes\", \"no \"]")] {
            let Choices { options, right } = read(value, " no").unwrap();
            assert_eq!(right, 1);
            assert_eq!(
                options[0].ids,
                [81, 58, 32, 121, 101, 115],
                "the blank of the reply stands before each"
            );
            assert_eq!((&options[1].text[..], options[1].start), ("no", 2));
        }
    }

    #[test]
    fn a_row_without_a_choice_is_an_error_that_says_why() {
        for (value, why) in [
            (Value::Null, "`options` is not there"),
            (json!(3), "is a number and not a list"),
            (json!("yes"), "is a text and not a list"),
            (json!({"text": []}), "is an object and not a list"),
            (json!(["yes"]), "fewer than two options"),
            (json!(["yes", 2]), "has a number as an option"),
            (json!(["yes", " "]), "has an empty option"),
            (json!(["yes", "yes "]), "has the option `yes` twice"),
            (json!(["no", "never"]), "does not list the reply `yes`"),
        ] {
            let error = read(value, "yes").unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
