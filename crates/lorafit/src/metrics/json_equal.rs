//! `json_equal`: 1 where answer and reply are the same JSON value. The order of an object's keys does not count, that of a list
//! does; 1 and 1.0 are the same number. Numbers that an f64 cannot hold, such as 1e400, are equal where their text is. A reply that
//! is not JSON cannot be judged.

use serde_json::{Number, Value};

use super::{Criteria, Direction, Metric, Of, Score, json};

/// See the module.
pub const METRIC: Metric = Metric {
    name: "json_equal",
    what: "Answer and reply are the same JSON value; the order of keys does not count",
    needs: None,
    reads: &[],
    compares: true,
    direction: Direction::Maximize,
    of: Of::Answer(score),
};

fn score(_: &Criteria, expected: &str, answer: &str) -> Score {
    let wanted = json::parse(expected).ok_or("the reply is not JSON")?;
    Ok(f64::from(json::parse(answer).is_some_and(|found| is_equal(&wanted, &found))))
}

fn is_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => is_equal_number(a, b),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| is_equal(a, b)))
        }
        _ => a == b,
    }
}

/// Integers are compared as such: an f64 does not tell all of 64 bits apart.
fn is_equal_number(a: &Number, b: &Number) -> bool {
    match (a.as_i128(), b.as_i128()) {
        (Some(a), Some(b)) => a == b,
        _ => a.as_f64() == b.as_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_compared_and_not_their_text() {
        let score = |expected: &str, answer: &str| score(&Criteria::default(), expected, answer);
        for (a, b) in [
            (r#"{"a":1,"b":[2,3]}"#, "{ \"b\": [2, 3.0], \"a\": 1e0 }"),
            (r#""é""#, r#""\u00e9""#),
            ("9007199254740993", "9007199254740993"),
            ("1e400", " 1e400\n"),
            (r#"{"a":[-1e999,"1e400"]}"#, r#"{ "a": [-1e999, "1e400"] }"#),
        ] {
            assert_eq!(score(a, b), Ok(1.0), "{a} {b}");
        }
        for (a, b) in [
            (r#"{"a":1}"#, r#"{"a":1,"b":null}"#),
            ("[1,2]", "[2,1]"),
            ("1", "true"),
            ("1", "\"1\""),
            ("9007199254740993", "9007199254740992"),
            ("1e400", "1e401"),
            ("1e400", "-1e400"),
            ("1e400", "\"1e400\""),
            ("[1e400]", "[1e400"),
            ("{}", "no JSON"),
            ("null", ""),
        ] {
            assert_eq!(score(a, b), Ok(0.0), "{a} {b}");
        }
        assert_eq!(score("no JSON", "{}"), Err("the reply is not JSON".to_owned()));
    }
}
