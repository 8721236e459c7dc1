//! Settings of metrics: flags of `eval` and `compare`, and keys of a sweep's `[sweep]` table.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::metrics::{Criteria, Judge, Metric, Schema};
use crate::terminal::error::CliError;

/// The flags.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Answers")]
pub struct CriteriaArgs {
    /// For exact_match and contains: small and capital letters are equal
    #[arg(long)]
    pub ignore_case: bool,
    /// For exact_match and contains: any run of white space is equal to one blank
    #[arg(long)]
    pub ignore_whitespace: bool,
    /// The pattern that the metric regex looks for in answers; anchor it with ^ and $ to match whole answers
    #[arg(long, value_name = "PATTERN")]
    pub regex: Option<String>,
    /// The JSON schema that the metric json_schema holds answers to
    #[arg(long, value_name = "FILE")]
    pub schema: Option<PathBuf>,
    /// The column of the rows that lists the options of a multiple choice, for acc and acc_norm; the reply is one of them
    #[arg(long, value_name = "COLUMN")]
    pub choices: Option<String>,
    /// The command, run by the shell, that gives the metric judge
    ///
    /// It reads one JSON object a row from standard input, {"prompt": ..., "expected": ..., "answer": ...}, and writes one line
    /// a row to standard output: a number from 0 to 1, or {"score": 0.5}.
    #[arg(long, value_name = "CMD")]
    pub judge: Option<String>,
    /// The time that the judge may take for all rows, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = JUDGE_TIMEOUT)]
    pub judge_timeout: u64,
}

/// `--judge-timeout` unless it is given.
const JUDGE_TIMEOUT: u64 = 600;

impl Default for CriteriaArgs {
    fn default() -> Self {
        CriteriaArgs {
            ignore_case: false,
            ignore_whitespace: false,
            regex: None,
            schema: None,
            choices: None,
            judge: None,
            judge_timeout: JUDGE_TIMEOUT,
        }
    }
}

/// A flag whose value cannot be used.
pub struct WrongCriterion {
    /// Its name without dashes.
    pub flag: &'static str,
    /// What is wrong with its value.
    pub what: String,
    /// What to do.
    pub hint: String,
}

impl CriteriaArgs {
    /// The names of the flags, without dashes.
    pub const FLAGS: [&str; 7] =
        ["ignore-case", "ignore-whitespace", "regex", "schema", "choices", "judge", "judge-timeout"];

    /// Whether a flag that some metric needs has a value.
    pub fn has(&self, flag: &str) -> bool {
        match flag {
            "regex" => self.regex.is_some(),
            "schema" => self.schema.is_some(),
            "choices" => self.choices.is_some(),
            "judge" => self.judge.is_some(),
            _ => false,
        }
    }

    /// Reads what flags name.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub fn prepare(&self) -> Result<Criteria, WrongCriterion> {
        let pattern = self.regex.as_deref().map(pattern).transpose()?;
        let schema = self.schema.as_ref().map(schema).transpose()?;
        let timeout = Duration::from_secs(self.judge_timeout);
        if timeout.is_zero() {
            let [what, hint] =
                ["0: must be 1 or more", "give the seconds that it may take"].map(str::to_owned);
            return Err(WrongCriterion { flag: "judge-timeout", what, hint });
        }
        let judge = self.judge.as_ref().map(|command| Judge { command: command.clone(), timeout });
        let Self { ignore_case, ignore_whitespace, .. } = *self;
        Ok(Criteria { ignore_case, ignore_whitespace, pattern, schema, judge })
    }
}

/// The metrics that read a flag, as they are typed: `exact_match or contains`.
pub fn readers(flag: &str) -> String {
    let names: Vec<&str> =
        Metric::of_rows().filter(|metric| metric.heeds(flag)).map(|metric| metric.name).collect();
    names.join(" or ")
}

fn pattern(text: &str) -> Result<regex::Regex, WrongCriterion> {
    regex::Regex::new(text).map_err(|error| WrongCriterion {
        flag: "regex",
        what: format!("`{text}` is not a regular expression\n{error}"),
        hint:
            "the syntax is that of Rust's regex crate: like Perl's, without look-around and back references"
                .to_owned(),
    })
}

fn schema(path: &PathBuf) -> Result<Schema, WrongCriterion> {
    let wrong = |what: String| WrongCriterion {
        flag: "schema",
        what: format!("{}: {what}", path.display()),
        hint: "give a file with one JSON schema; see https://json-schema.org".to_owned(),
    };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| wrong(format!("is not JSON: {error}")))?;
    Schema::new(&path.to_string_lossy(), value)
        .map_err(|error| wrong(format!("is not a JSON schema\n{error}")))
}

impl From<WrongCriterion> for CliError {
    fn from(WrongCriterion { flag, what, hint }: WrongCriterion) -> Self {
        CliError::usage(format!("--{flag} {what}")).hint(hint)
    }
}
