//! What answers are judged by: a file for each metric.
//!
//! A metric is a function of what a row expects and what a model answered. It gives a score from 0 to 1, or the reason why the
//! row cannot be judged. The reason is always of the row: whatever a model answers to a row that can be judged has a score. A new
//! metric is a file here with its `METRIC`, and a line in [`ALL`]: flags, help, tables and files are written from that.

mod acc;
mod contains;
mod contrast;
mod exact_match;
#[cfg(test)]
mod fixture_tests;
mod json;
mod json_equal;
pub mod json_schema;
mod json_valid;
pub mod judge;
mod normalise;
mod number;
mod regex;
mod rouge_l;
mod score;
mod side_by_side;
mod token_f1;

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use contrast::{distinct, pairs};
pub use json_schema::Schema;
pub use judge::Judge;
pub use score::{Answered, Interval, Metrics, Options, Scored, Summary, interval};
pub use side_by_side::SideBySide;

/// A score from 0 to 1, or why the row cannot be judged.
pub type Score = Result<f64, String>;

/// All metrics, in the order in which help lists them.
pub const ALL: &[&Metric] = &[
    &EVAL_LOSS,
    &exact_match::METRIC,
    &contains::METRIC,
    &regex::METRIC,
    &token_f1::METRIC,
    &rouge_l::METRIC,
    &number::METRIC,
    &json_valid::METRIC,
    &json_equal::METRIC,
    &json_schema::METRIC,
    &acc::METRIC,
    &acc::NORMALISED,
    &judge::METRIC,
];

/// What trials of a sweep are compared by unless they say otherwise. `eval` and `compare` always tell it.
pub const EVAL_LOSS: Metric = Metric {
    name: "eval_loss",
    what: "The mean loss of the held-out rows' trained tokens",
    needs: None,
    reads: &[],
    compares: false,
    direction: Direction::Minimize,
    of: Of::Loss,
};

/// What `--generate` alone asks for.
pub const DEFAULT: &Metric = &exact_match::METRIC;

/// A metric.
pub struct Metric {
    /// As flags, files and tables call it.
    pub name: &'static str,
    /// What it is, in a line.
    pub what: &'static str,
    /// The flag, without dashes, that it cannot do without.
    pub needs: Option<&'static str>,
    /// Further flags, without dashes, that it reads.
    pub reads: &'static [&'static str],
    /// Whether it compares the answer with the row's reply.
    pub compares: bool,
    /// Which end of it is good.
    pub direction: Direction,
    /// What it is computed of.
    pub of: Of,
}

/// What a metric is computed of.
#[derive(Clone, Copy)]
pub enum Of {
    /// The loss of the tokens; no row is answered.
    Loss,
    /// What a row expects, and the answer.
    Answer(fn(&Criteria, expected: &str, answer: &str) -> Score),
    /// The log-probabilities of a row's options; no row is answered.
    Options(fn(&Options) -> usize),
    /// All rows at once, by a command of the user.
    Command,
}

/// Settings of metrics.
#[derive(Default)]
pub struct Criteria {
    /// Whether capital and small letters are the same.
    pub ignore_case: bool,
    /// Whether a run of white space is one blank.
    pub ignore_whitespace: bool,
    /// What `regex` looks for.
    pub pattern: Option<::regex::Regex>,
    /// What `json_schema` holds answers to.
    pub schema: Option<Schema>,
    /// Who judges.
    pub judge: Option<Judge>,
}

/// Which end of a metric is the good one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Lower is better.
    #[default]
    Minimize,
    /// Higher is better.
    Maximize,
}

impl Direction {
    /// How the best value lies to the others.
    pub fn best(self) -> &'static str {
        match self {
            Direction::Minimize => "lowest",
            Direction::Maximize => "highest",
        }
    }

    /// A metric as a score, of which lower is better.
    pub fn score(self, metric: f64) -> f64 {
        match self {
            Direction::Minimize => metric,
            Direction::Maximize => -metric,
        }
    }
}

impl Metric {
    /// The metric of that name; a dash is as good as an underscore.
    pub fn named(name: &str) -> Option<&'static Metric> {
        let name = name.replace('-', "_");
        ALL.iter().copied().find(|metric| metric.name == name)
    }

    /// The metrics that rows are judged by, one by one: all but the loss.
    pub fn of_rows() -> impl Iterator<Item = &'static Metric> {
        ALL.iter().copied().filter(|metric| !matches!(metric.of, Of::Loss))
    }

    /// Whether it reads that flag.
    pub fn heeds(&self, flag: &str) -> bool {
        self.needs == Some(flag) || self.reads.contains(&flag)
    }

    /// Whether each row has to be answered for it.
    pub fn needs_answers(&self) -> bool {
        match self.of {
            Of::Answer(_) | Of::Command => true,
            Of::Loss | Of::Options(_) => false,
        }
    }
}

impl fmt::Debug for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Metric {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl<'de> Deserialize<'de> for &'static Metric {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Metric::named(&name).ok_or_else(|| {
            let known: Vec<&str> = ALL.iter().map(|metric| metric.name).collect();
            de::Error::custom(format!("unknown metric \"{name}\", expected one of {}", known.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_metric_has_a_name_of_its_own_that_files_and_flags_read() {
        let names: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            assert_eq!(Metric::named(&metric.name.replace('_', "-")), Some(*metric));
            let text = serde_json::to_string(metric).unwrap();
            assert_eq!(serde_json::from_str::<&'static Metric>(&text).unwrap(), *metric);
        }
        let error = serde_json::from_str::<&'static Metric>("\"exact\"").unwrap_err().to_string();
        assert!(error.contains("unknown metric \"exact\"") && error.contains("exact_match"), "{error}");
    }

    /// The documentation has a line for each.
    #[test]
    fn the_documentation_has_every_metric() {
        let page =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md")).unwrap();
        for metric in ALL {
            assert!(page.contains(&format!("| `{}` |", metric.name)), "{metric:?}");
        }
    }
}
