//! `exact_match`: 1 where the answer is the reply, white space around both aside.

use super::{Criteria, Direction, Metric, Of, Score};

/// See the module.
pub const METRIC: Metric = Metric {
    name: "exact_match",
    what: "The answer is the reply, white space around both aside",
    needs: None,
    reads: &["ignore-case", "ignore-whitespace"],
    compares: true,
    direction: Direction::Maximize,
    of: Of::Answer(score),
};

fn score(criteria: &Criteria, expected: &str, answer: &str) -> Score {
    Ok(f64::from(criteria.normalised(expected) == criteria.normalised(answer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_white_space_count_unless_they_are_ignored() {
        let plain = Criteria::default();
        let lenient = Criteria { ignore_case: true, ignore_whitespace: true, ..Criteria::default() };
        for (expected, answer, plainly, leniently) in [
            ("Yes", "Yes", 1.0, 1.0),
            ("Yes", " Yes\n", 1.0, 1.0),
            ("Yes", "yes", 0.0, 1.0),
            ("two words", "two  words", 0.0, 1.0),
            ("two words", "two\u{a0}\nwords", 0.0, 1.0),
            ("Straße", "STRASSE", 0.0, 0.0),
            ("ÉTÉ", "été", 0.0, 1.0),
            ("Yes", "Yes.", 0.0, 0.0),
            ("Yes", "", 0.0, 0.0),
        ] {
            assert_eq!(score(&plain, expected, answer), Ok(plainly), "{expected} {answer}");
            assert_eq!(score(&lenient, expected, answer), Ok(leniently), "{expected} {answer}");
        }
    }
}
