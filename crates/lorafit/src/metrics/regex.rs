//! `regex`: 1 where the pattern is found in the answer. The reply does not count.

use super::{Criteria, Direction, Metric, Of, Score};

/// See the module.
pub const METRIC: Metric = Metric {
    name: "regex",
    what: "The pattern of --regex is found in the answer",
    needs: Some("regex"),
    reads: &[],
    compares: false,
    direction: Direction::Maximize,
    of: Of::Answer(score),
};

fn score(criteria: &Criteria, _: &str, answer: &str) -> Score {
    let pattern = criteria.pattern.as_ref().ok_or("there is no pattern")?;
    Ok(f64::from(pattern.is_match(answer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_found_anywhere_unless_it_is_anchored() {
        let score = |pattern: &str, answer: &str| {
            let pattern = Some(::regex::Regex::new(pattern).unwrap());
            score(&Criteria { pattern, ..Criteria::default() }, "", answer)
        };
        assert_eq!(score(r"\d+ degrees", "set to 21 degrees"), Ok(1.0));
        assert_eq!(score(r"^\d+", "set to 21 degrees"), Ok(0.0));
        assert_eq!(score("(?i)YES", "yes"), Ok(1.0));
    }
}
