//! Errors of numbers on the command line that cannot be read. The standard library words them for programmers.

use std::error::Error as _;
use std::num::{IntErrorKind, ParseFloatError, ParseIntError};

use clap::Error;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Words by which people ask for nothing.
const NONE: [&str; 6] = ["none", "no", "off", "false", "null", "never"];
/// Flags of numbers that are turned off by 0.
const OFF_BY_ZERO: [&str; 5] =
    ["--max-grad-norm", "--dropout", "--weight-decay", "--label-smoothing", "--restarts"];

/// The error of a number that cannot be read, in plain words; any other as it is.
pub fn in_plain_words(error: Error) -> Error {
    let (Some(ContextValue::String(flag)), Some(ContextValue::String(value))) =
        (error.get(ContextKind::InvalidArg), error.get(ContextKind::InvalidValue))
    else {
        return error;
    };
    let Some(expected) = error.source().and_then(expected) else { return error };
    let name = flag.split([' ', '=']).next().unwrap_or_default();
    let is_none = NONE.contains(&value.to_lowercase().as_str()) && OFF_BY_ZERO.contains(&name);
    let tip = if is_none { format!("\n\n  tip: {name} 0 turns it off") } else { String::new() };
    let text = format!(
        "invalid value '{value}' for '{flag}': {expected}{tip}\n\nFor more information, try '--help'.\n"
    );
    Error::raw(ErrorKind::ValueValidation, text)
}

/// What should have stood there, if a number should.
fn expected(source: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    if source.is::<ParseFloatError>() {
        return Some("expected a number such as 0.1");
    }
    Some(match source.downcast_ref::<ParseIntError>()?.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "the number is too large",
        _ => "expected a whole number, 0 or more",
    })
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
}
