//! Numbers on the command line that cannot be read. The standard library words them for programmers; here they say what is wrong and
//! what to write instead.

use std::error::Error as _;
use std::num::{IntErrorKind, ParseFloatError, ParseIntError};

use clap::Error;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Words by which people ask for nothing.
const NONE: [&str; 7] = ["none", "no", "off", "false", "null", "never", "disable"];

/// Flags that people give a word such as `none`, and the tip for each.
const TURNED_OFF: [(&str, &str); 20] = [
    ("--average", "leave --average out, and no average is kept"),
    ("--center-rewards", "--center-rewards 0 turns it off"),
    ("--checkpoint-every", "--checkpoint-every 0 saves one at the end and on a signal alone"),
    ("--dropout", "--dropout 0 turns it off"),
    ("--eval-every", "leave --eval-every out; with --preset off nothing is evaluated on the way"),
    ("--label-smoothing", "--label-smoothing 0 turns it off"),
    ("--limit", "leave --limit out, and all rows are read"),
    ("--lora-plus-ratio", "--lora-plus-ratio 1 turns it off"),
    ("--max-grad-norm", "--max-grad-norm 0 turns it off"),
    ("--memory", "leave --memory out, and 90 % of what is free may be taken"),
    ("--min-delta", "--min-delta 0 turns it off"),
    ("--neftune-alpha", "leave --neftune-alpha out, and no noise is added"),
    ("--patience", "leave --patience out; with --preset off a run goes to its end"),
    ("--quant", "leave --quant out, and weights stay as their file has them"),
    ("--restarts", "--restarts 0 turns it off"),
    ("--sft-weight", "--sft-weight 0 turns it off"),
    ("--temperature", "--temperature 0 always takes the likeliest token"),
    ("--top-p", "--top-p 1 turns it off"),
    ("--warmup-ratio", "--warmup-ratio 0 is no warm-up"),
    ("--weight-decay", "--weight-decay 0 turns it off"),
];

/// The tip for who gave a flag a word that means nothing.
fn turned_off(flag: &str, value: &str) -> Option<&'static str> {
    let is_none = NONE.contains(&value.to_lowercase().as_str());
    TURNED_OFF.iter().find(|(name, _)| is_none && *name == flag).map(|(_, tip)| *tip)
}

/// The error of a value that cannot be read: a number in plain words, with a tip where the flag is to be turned off; any other as it is.
pub fn in_plain_words(mut error: Error) -> Error {
    let (Some(ContextValue::String(flag)), Some(ContextValue::String(value))) =
        (error.get(ContextKind::InvalidArg), error.get(ContextKind::InvalidValue))
    else {
        return error;
    };
    let tip = turned_off(flag.split([' ', '=']).next().unwrap_or_default(), value);
    match (error.source().and_then(|source| expected(source, value)), tip) {
        (Some(expected), tip) => {
            let tip = tip.map(|tip| format!("\n\n  tip: {tip}")).unwrap_or_default();
            let text = format!(
                "invalid value '{value}' for '{flag}': {expected}{tip}\n\nFor more information, try '--help'.\n"
            );
            Error::raw(ErrorKind::ValueValidation, text)
        }
        (None, Some(tip)) => {
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
            error
        }
        (None, None) => error,
    }
}

/// What should have stood in the place of `value`, if a number should.
fn expected(source: &(dyn std::error::Error + 'static), value: &str) -> Option<String> {
    if source.is::<ParseFloatError>() {
        return Some(not_real(value).unwrap_or_else(|| "expected a number such as 0.1".to_owned()));
    }
    Some(match source.downcast_ref::<ParseIntError>()?.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => TOO_LARGE.to_owned(),
        _ => not_whole(value).unwrap_or_else(|| "expected a whole number, 0 or more".to_owned()),
    })
}

const TOO_LARGE: &str = "the number is too large";
const MISSING: &str = "no number is given";

/// Reads a number of a flag, which has to be finite.
///
/// # Errors
/// A text that is not a number, or a number that is not finite.
pub fn finite(text: &str) -> Result<f64, Box<dyn std::error::Error + Send + Sync>> {
    let number: f64 = text.parse()?;
    if number.is_finite() { Ok(number) } else { Err(NOT_FINITE.into()) }
}

const NOT_FINITE: &str = "the number must be finite";

/// Why a text is no finite number, and what to write instead, where that can be said.
pub fn not_real(text: &str) -> Option<String> {
    if text.trim().is_empty() {
        return Some(MISSING.to_owned());
    }
    if text.parse::<f64>().is_ok_and(|number| !number.is_finite()) {
        return Some(NOT_FINITE.to_owned());
    }
    if let Some(percent) = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok()) {
        return Some(format!("a share is written as a number: write {}", percent / 100.0));
    }
    if let Some(number) = in_groups(text, ',').filter(|_| !text.starts_with('0')) {
        return Some(format!("a number has no commas: write {number}"));
    }
    let with_point = text.replacen(',', ".", 1);
    let is_number = with_point != text && with_point.parse::<f64>().is_ok();
    is_number.then(|| format!("a fraction stands behind a point: write {with_point}"))
}

/// A float holds every whole number below this exactly; larger ones are not advised.
const EXACT: f64 = (1u64 << 53) as f64;

/// Why a text is no whole number, and what to write instead, where that can be said.
pub fn not_whole(text: &str) -> Option<String> {
    if text.trim().is_empty() {
        return Some(MISSING.to_owned());
    }
    let lower = text.to_lowercase();
    let (number, unit) = match lower.trim_end().strip_suffix(['k', 'm']) {
        Some(number) if lower.trim_end().ends_with('k') => (number, Some([1e3, 1024.0])),
        Some(number) => (number, Some([1e6, 1_048_576.0])),
        None => (lower.as_str(), None),
    };
    let has = match number.chars().find(|c| !c.is_ascii_digit()) {
        _ if unit.is_some() => "unit",
        None => return Some(TOO_LARGE.to_owned()),
        Some(',') => "commas",
        Some('_') => "underscores",
        Some('\'' | '’') => "apostrophes",
        Some(blank) if blank.is_whitespace() => "blanks",
        Some('e') => "exponent",
        Some('.') if number.contains('e') => "exponent",
        Some('.') => "point",
        _ => return None,
    };
    let joined: String = number.chars().filter(|c| !"_'’".contains(*c) && !c.is_whitespace()).collect();
    let mut values: Vec<f64> =
        [in_groups(&joined, ','), in_groups(&joined, '.')].into_iter().flatten().collect();
    // A point before three digits is a thousand for some, and a fraction for others.
    if let Some(number) =
        joined.parse::<f64>().ok().filter(|_| joined.starts_with(|c: char| c.is_ascii_digit()))
    {
        values.insert(0, number);
    }
    if let Some(factors) = unit {
        values = values.iter().flat_map(|value| factors.map(|factor| value * factor)).collect();
    }
    if values.iter().any(|value| *value >= EXACT) {
        return Some(TOO_LARGE.to_owned());
    }
    let ways: Vec<String> =
        values.iter().filter(|value| value.fract() == 0.0).map(|value| format!("{value}")).collect();
    match (ways.is_empty(), values.is_empty()) {
        (false, _) => Some(format!("a whole number has no {has}: write {}", ways.join(" or "))),
        (true, false) => Some("a whole number has no fraction".to_owned()),
        (true, true) => None,
    }
}

/// The number of a text whose digits are parted by threes.
fn in_groups(text: &str, mark: char) -> Option<f64> {
    let mut groups = text.split(mark);
    let is_number = |group: &str| !group.is_empty() && group.bytes().all(|c| c.is_ascii_digit());
    let leads = groups.next().is_some_and(|first| is_number(first) && first.len() <= 3);
    let follow = leads && text.contains(mark) && groups.all(|group| is_number(group) && group.len() == 3);
    follow.then(|| text.replace(mark, "").parse().ok())?
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command};

    use super::*;
    use crate::args::train::TrainArgs;

    /// Every flag of a number, whatever its type.
    #[test]
    fn numbers_that_are_none_are_told_in_plain_words() {
        let read = |flag: &str, value: &str| {
            let command = TrainArgs::augment_args(Command::new("train")).no_binary_name(true);
            let found = command.try_get_matches_from([format!("--{flag}={value}")]);
            in_plain_words(found.expect_err("no number")).render().to_string()
        };
        let mut numbers = 0;
        let command = TrainArgs::augment_args(Command::new("train"));
        for flag in command.get_arguments().filter_map(|flag| flag.get_long()) {
            let told = TrainArgs::augment_args(Command::new("train"))
                .no_binary_name(true)
                .try_get_matches_from([format!("--{flag}=1x")])
                .map_or_else(|error| in_plain_words(error).render().to_string(), |_| String::new());
            assert!(!told.contains("literal") && !told.contains("digit"), "{told}");
            numbers +=
                usize::from(told.contains("expected a number") || told.contains("expected a whole number"));
        }
        assert!(numbers > 20, "{numbers}");
        assert_eq!(
            read("max-grad-norm", "none"),
            "error: invalid value 'none' for '--max-grad-norm <NORM>': expected a number such as 0.1\n\n  \
             tip: --max-grad-norm 0 turns it off\n\nFor more information, try '--help'.\n"
        );
        assert!(read("seed", "random").contains("'--seed <N>': expected a whole number, 0 or more"));
        assert!(read("rank", "99999999999999999999").contains("'--rank <R>': the number is too large"));
        assert!(!read("rank", "none").contains("tip: "));
    }

    #[test]
    fn what_is_no_whole_number_is_told_with_what_to_write() {
        for (typed, told) in [
            ("1,000", "a whole number has no commas: write 1000"),
            ("1,234,567", "a whole number has no commas: write 1234567"),
            ("1_000", "a whole number has no underscores: write 1000"),
            ("12'000", "a whole number has no apostrophes: write 12000"),
            ("10 000", "a whole number has no blanks: write 10000"),
            (" 5", "a whole number has no blanks: write 5"),
            ("1e3", "a whole number has no exponent: write 1000"),
            ("2.5E3", "a whole number has no exponent: write 2500"),
            ("2.0", "a whole number has no point: write 2"),
            ("1.000", "a whole number has no point: write 1 or 1000"),
            ("1.234.567", "a whole number has no point: write 1234567"),
            ("4k", "a whole number has no unit: write 4000 or 4096"),
            ("1.5M", "a whole number has no unit: write 1500000 or 1572864"),
            ("2.5", "a whole number has no fraction"),
            ("1e-3", "a whole number has no fraction"),
            ("1e30", TOO_LARGE),
            ("99999999999999999999", TOO_LARGE),
            ("", MISSING),
            (" ", MISSING),
        ] {
            assert_eq!(not_whole(typed).as_deref(), Some(told), "{typed}");
        }
        for typed in
            ["-5", "many", "none", "1,5", "1,00,000", "k", "e", "0x10", "5 apples", "inf", "1-2", "٣"]
        {
            assert_eq!(not_whole(typed), None, "{typed}");
        }
        // What the message tells to write can be read.
        for typed in ["1,000", "1e3", "3.0", "7m"] {
            let told = not_whole(typed).expect("a reason");
            let (_, ways) = told.split_once("write ").expect("a way");
            assert!(ways.split(" or ").all(|way| way.parse::<u64>().is_ok()), "{told}");
        }
    }

    #[test]
    fn what_is_no_finite_number_is_told_with_what_to_write() {
        for (typed, told) in [
            ("inf", NOT_FINITE),
            ("-inf", NOT_FINITE),
            ("NaN", NOT_FINITE),
            ("1e999", NOT_FINITE),
            ("5%", "a share is written as a number: write 0.05"),
            ("1,000", "a number has no commas: write 1000"),
            ("0,125", "a fraction stands behind a point: write 0.125"),
            ("0,5", "a fraction stands behind a point: write 0.5"),
            ("", MISSING),
        ] {
            assert_eq!(not_real(typed).as_deref(), Some(told), "{typed}");
            assert!(finite(typed).is_err(), "{typed}");
        }
        assert_eq!([not_real("much"), not_real("1,00,000")], [None, None]);
        assert_eq!(finite("2e-4").ok(), Some(2e-4));
    }
}
