//! What sampled answers are judged by: `--judge NAME`, or `--judge NAME:VALUE` where the judge needs one.

use std::path::PathBuf;

use crate::args::criteria::CriteriaArgs;
use crate::metrics::{Metric, Metrics};
use crate::terminal::error::CliError;

/// What people type for a metric, where that is not its name.
const NAMES: [(&str, &str); 2] = [("exact", "exact_match"), ("command", "judge")];

/// Names that are typed, for help and errors: `exact`, `regex:PATTERN`, ...
pub fn names() -> Vec<String> {
    judges().map(form).collect()
}

/// The metrics of answers; multiple choice needs no answers.
fn judges() -> impl Iterator<Item = &'static Metric> {
    Metric::of_rows().filter(|metric| metric.needs_answers())
}

/// How a metric is typed.
fn form(metric: &Metric) -> String {
    let typed = NAMES.iter().find(|(_, name)| *name == metric.name).map_or(metric.name, |(typed, _)| typed);
    let value = match metric.needs {
        Some("regex") => ":PATTERN",
        Some("schema") => ":FILE",
        Some(_) => ":CMD",
        None => "",
    };
    format!("{}{value}", typed.replace('_', "-"))
}

/// Reads `--judge`; `others` has the settings that are flags of their own.
///
/// # Errors
/// A judge that does not exist, a value that is missing, too much or cannot be used.
pub fn judge(text: &str, others: CriteriaArgs) -> Result<(Metrics, CriteriaArgs), CliError> {
    let (typed, value) = text.split_once(':').map_or((text, None), |(name, value)| (name, Some(value)));
    let typed_as = typed.replace('-', "_");
    let name = NAMES.iter().find(|(known, _)| *known == typed_as).map_or(&*typed_as, |(_, name)| name);
    let found = judges().find(|metric| metric.name == name && typed_as != "judge");
    let Some(metric) = found else {
        return Err(CliError::usage(format!("--judge {typed}: there is no such judge"))
            .hint(format!("give one of {}", names().join(", "))));
    };
    let value = value.filter(|value| !value.trim().is_empty());
    let mut criteria = others;
    match (metric.needs, value) {
        (None, None) => {}
        (Some(_), None) => {
            return Err(CliError::usage(format!("--judge {typed} needs a value behind a colon"))
                .hint(format!("write --judge '{}'", form(metric))));
        }
        (None, Some(_)) => {
            return Err(CliError::usage(format!("--judge {text}: {typed} takes no value"))
                .hint(format!("write --judge {typed}")));
        }
        (Some("regex"), Some(value)) => criteria.regex = Some(value.to_owned()),
        (Some("schema"), Some(value)) => criteria.schema = Some(PathBuf::from(value)),
        (Some(_), Some(value)) => criteria.judge = Some(value.to_owned()),
    }
    let prepared = criteria.prepare().map_err(|wrong| match wrong.flag {
        "judge-timeout" => CliError::from(wrong),
        _ => CliError::usage(format!("--judge {typed}: {}", wrong.what)).hint(wrong.hint),
    })?;
    Ok((Metrics { list: vec![metric], criteria: prepared }, criteria))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<&'static str, String> {
        judge(text, CriteriaArgs::default()).map(|(found, _)| found.list[0].name).map_err(|e| e.to_string())
    }

    #[test]
    fn judges_are_named_as_people_type_them() {
        for (text, name) in [
            ("exact", "exact_match"),
            ("exact-match", "exact_match"),
            ("contains", "contains"),
            ("rouge_l", "rouge_l"),
            ("json-valid", "json_valid"),
            ("regex:^a:b$", "regex"),
            ("command:./judge --fast", "judge"),
        ] {
            assert_eq!(read(text), Ok(name), "{text}");
        }
        assert!(names().contains(&"json-schema:FILE".to_owned()), "{:?}", names());
    }

    #[test]
    fn what_is_no_judge_is_named() {
        for (text, said) in [
            ("nice", "there is no such judge"),
            ("acc", "there is no such judge"),
            ("judge:./x", "there is no such judge"),
            ("regex", "needs a value"),
            ("command: ", "needs a value"),
            ("exact:x", "takes no value"),
            ("regex:(", "is not a regular expression"),
            ("json-schema:nowhere.json", "cannot be read"),
        ] {
            let found = read(text).unwrap_err();
            assert!(found.contains(said) && found.starts_with("--judge "), "{text}: {found}");
        }
    }
}
