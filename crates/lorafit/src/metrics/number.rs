//! `number`: 1 where answer and reply come to the same number, as in GSM8K (Cobbe et al. 2021): the first number behind the last
//! `####`, else the last number of the text. Commas between thousands, signs of currencies and a percent sign do not count, so
//! `$1,234.50` is 1234.5 and `25%` is 25. Numbers are compared as decimals, without rounding. A reply without a number cannot be
//! judged.

use std::sync::LazyLock;

use ::regex::Regex;

use super::{Criteria, Direction, Metric, Of, Score};

/// See the module.
pub const METRIC: Metric = Metric {
    name: "number",
    what: "Answer and reply come to the same number: the one behind ####, else the last",
    needs: None,
    reads: &[],
    compares: true,
    direction: Direction::Maximize,
    of: Of::Answer(score),
};

/// A decimal: `0.digits * 10^exponent`, without zeros at either end of the digits.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    is_negative: bool,
    digits: String,
    exponent: i64,
}

fn numbers(text: &str) -> impl Iterator<Item = Decimal> {
    static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(concat!(
            // A sign, before or behind a currency.
            r"(?<sign>[-+\u{2212}]?)[$€£¥]?(?<late>[-+\u{2212}]?)",
            // Thousands, or digits, or a fraction alone.
            r"(?:(?<whole>\d{1,3}(?:,\d{3})+|\d+)(?:\.(?<part>\d+))?|\.(?<bare>\d+))",
            r"(?:[eE](?<power>[-+]?\d{1,9}))?"
        ))
        .expect("a constant pattern")
    });
    NUMBER.captures_iter(text).map(|found| {
        let named = |name: &str| found.name(name).map_or("", |part| part.as_str());
        // Behind a letter or a digit a dash joins: 3-5, top-10.
        let before = text[..found.get_match().start()].chars().next_back();
        let joins = before.is_some_and(char::is_alphanumeric);
        let sign = if named("late").is_empty() && !joins { named("sign") } else { named("late") };
        let (whole, part) = (named("whole").replace(',', ""), [named("part"), named("bare")].concat());
        let power: i64 = named("power").parse().unwrap_or(0);
        let all = format!("{whole}{part}");
        let digits = all.trim_start_matches('0');
        let exponent = power + whole.len() as i64 - (all.len() - digits.len()) as i64;
        let digits = digits.trim_end_matches('0').to_owned();
        match digits.is_empty() {
            true => Decimal { is_negative: false, digits, exponent: 0 },
            false => Decimal { is_negative: matches!(sign, "-" | "\u{2212}"), digits, exponent },
        }
    })
}

fn result(text: &str) -> Option<Decimal> {
    let marked = text.rsplit_once("####").and_then(|(_, behind)| numbers(behind).next());
    marked.or_else(|| numbers(text).last())
}

fn score(_: &Criteria, expected: &str, answer: &str) -> Score {
    let wanted = result(expected).ok_or("the reply has no number")?;
    Ok(f64::from(result(answer) == Some(wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_the_same_however_it_is_written() {
        for (one, other) in [
            ("1234.5", "$1,234.50"),
            ("-5", "$-5.00"),
            ("-5", "-$5"),
            ("-5", "\u{2212}5"),
            ("25", "25%"),
            ("25", "It is 25 %."),
            ("0", "-0.0"),
            ("0.5", ".5"),
            ("1200000", "1.2e6"),
            ("0.001", "1E-3"),
            ("007", "7"),
            ("5", "10-5"),
            ("100000000000000000000000000001", "100,000,000,000,000,000,000,000,000,001"),
            ("3 + 4 = 7\n#### 7", "So 3 + 4 is 7."),
            ("#### 7", "#### 7 apples of 12"),
            ("#### 7", "first #### 3, no: #### 7"),
            ("7", "#### seven, that is 7"),
            ("12", "1, 2, 12"),
            ("3", "1,2,3"),
            ("42", "The answer is 42."),
        ] {
            assert_eq!(result(one), result(other), "{one} {other}");
            assert!(result(one).is_some(), "{one}");
        }
    }

    #[test]
    fn numbers_that_differ_are_not_equal_and_a_reply_without_one_cannot_be_judged() {
        for (one, other) in [
            ("5", "-5"),
            ("5", "50"),
            ("0.5", "5"),
            ("100000000000000000000000000001", "100000000000000000000000000002"),
            ("5", "none"),
            ("5", ""),
            ("5", "6 or 5 or 7"),
        ] {
            assert_eq!(score(&Criteria::default(), one, other), Ok(0.0), "{one} {other}");
        }
        assert_eq!(score(&Criteria::default(), "none", "5"), Err("the reply has no number".to_owned()));
    }
}
