//! `json_valid`: 1 where the whole answer is one JSON value (RFC 8259), white space around it aside. The reply does not count.

use super::{Criteria, Direction, Metric, Of, Score};

/// See the module.
pub const METRIC: Metric = Metric {
    name: "json_valid",
    what: "The whole answer is JSON",
    needs: None,
    reads: &[],
    compares: false,
    direction: Direction::Maximize,
    of: Of::Answer(score),
};

fn score(_: &Criteria, _: &str, answer: &str) -> Score {
    Ok(f64::from(serde_json::from_str::<serde::de::IgnoredAny>(answer).is_ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_answer_is_json_or_it_is_none() {
        let score = |answer: &str| score(&Criteria::default(), "", answer).unwrap();
        for answer in ["{}", " [1, 2]\n", "\"text\"", "null", "1e3", "{\"é\": \"\\u00e9\"}"] {
            assert_eq!(score(answer), 1.0, "{answer}");
        }
        for answer in ["", "{", "{'a': 1}", "{\"a\": 1,}", "Here: {}", "```json\n{}\n```", "NaN", "{} {}"] {
            assert_eq!(score(answer), 0.0, "{answer}");
        }
    }
}
