//! `contains`: 1 where the reply stands somewhere in the answer.

use super::{Criteria, Direction, Metric, Of, Score};

/// See the module.
pub const METRIC: Metric = Metric {
    name: "contains",
    what: "The reply stands somewhere in the answer",
    needs: None,
    reads: &["ignore-case", "ignore-whitespace"],
    compares: true,
    direction: Direction::Maximize,
    of: Of::Answer(score),
};

fn score(criteria: &Criteria, expected: &str, answer: &str) -> Score {
    Ok(f64::from(criteria.normalised(answer).contains(&*criteria.normalised(expected))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_may_stand_anywhere_in_an_answer() {
        let plain = Criteria::default();
        let lenient = Criteria { ignore_case: true, ..Criteria::default() };
        assert_eq!(score(&plain, "Paris", "It is Paris, of course."), Ok(1.0));
        assert_eq!(score(&plain, "Paris", "It is PARIS"), Ok(0.0));
        assert_eq!(score(&lenient, "Paris", "It is PARIS"), Ok(1.0));
        assert_eq!(score(&plain, "Paris", ""), Ok(0.0));
    }
}
