//! On which rows models are judged, and how: flags of `eval` and `compare`.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Arg, Args, Command};

use crate::args::cache::CacheArgs;
use crate::args::config_file::Given;
use crate::args::criteria::{CriteriaArgs, readers};
use crate::args::require;
use crate::args::rows::RowArgs;
use crate::args::size::ByteSize;
use crate::metrics::{DEFAULT, Metric, Metrics};
use crate::terminal::error::CliError;

/// The flags.
#[derive(Args, Clone, Debug)]
pub struct EvaluationArgs {
    /// Rows to evaluate on, described below; repeat the flag for several sources
    #[arg(long, value_name = "DATA", required = true, help_heading = "Input and output")]
    pub data: Vec<String>,

    /// Also answer each row's last prompt, and compare the answers with the replies, by exact_match unless --metric says
    /// otherwise
    #[arg(long, help_heading = "Answers")]
    pub generate: bool,
    /// What answers are judged by; repeat the flag for several. Answers are generated where a metric needs them
    #[arg(long, value_name = "NAME", value_parser = MetricParser, help_heading = "Answers")]
    pub metric: Vec<&'static Metric>,
    /// Maximum number of tokens in an answer; of a longer answer this much is judged
    #[arg(long, value_name = "N", default_value_t = 256, help_heading = "Answers")]
    pub max_new_tokens: usize,
    /// Write the answer to each row and all its scores, one JSON object a row; of judged rows the log-probabilities of replies
    #[arg(long, value_name = "FILE", help_heading = "Answers")]
    pub predictions: Option<PathBuf>,
    /// Settings of metrics.
    #[command(flatten)]
    pub criteria: CriteriaArgs,

    /// Which rows are read, and how.
    #[command(flatten)]
    pub rows: RowArgs,
    /// Where tokenised data is kept.
    #[command(flatten)]
    pub cache: CacheArgs,

    /// Tokens computed at once; the main setting for memory
    #[arg(long, value_name = "TOKENS", default_value_t = 512, help_heading = "Machine")]
    pub micro_batch_tokens: usize,
    /// Memory the evaluation may take, such as 6GiB or 800MB [default: 90 % of what is free now]
    ///
    /// Answers are computed 16 side by side, or as many as fit.
    #[arg(long, value_name = "SIZE", help_heading = "Machine")]
    pub memory: Option<ByteSize>,
}

impl EvaluationArgs {
    /// Checks the flags, and gives the metrics that they ask for: none where only losses are wanted.
    ///
    /// # Errors
    /// A value that cannot be used, a metric that lacks its flag, and a flag that would do nothing.
    pub fn check(&self, given: &Given) -> Result<Metrics, CliError> {
        require(self.max_new_tokens > 0, "max-new-tokens", self.max_new_tokens, "must be 1 or more")?;
        let micro_batch_tokens = self.micro_batch_tokens;
        require(micro_batch_tokens > 0, "micro-batch-tokens", micro_batch_tokens, "must be 1 or more")?;
        self.rows.validate()?;
        self.cache.validate()?;
        let list = self.metrics();
        for metric in &list {
            if let Some(flag) = metric.needs.filter(|flag| !self.criteria.has(flag)) {
                let text = format!("--metric {} needs --{flag}", metric.name);
                return Err(CliError::usage(text).hint(format!("add --{flag}, which --help describes")));
            }
        }
        for flag in CriteriaArgs::FLAGS {
            if given.has(flag) && !list.iter().any(|metric| metric.heeds(flag)) {
                let readers = readers(flag);
                return Err(CliError::usage(format!("--{flag} has no meaning without --metric {readers}"))
                    .hint(format!("add the metric, or leave --{flag} out")));
            }
        }
        if given.has("max-new-tokens") && !list.iter().any(|metric| metric.needs_answers()) {
            return Err(CliError::usage(
                "--max-new-tokens has no meaning without --generate or a --metric of answers",
            )
            .hint("add --generate, or leave --max-new-tokens out"));
        }
        Ok(Metrics { list, criteria: self.criteria.prepare()? })
    }

    /// The metrics that are named, and those of flags that only they read.
    fn metrics(&self) -> Vec<&'static Metric> {
        let mut list: Vec<&'static Metric> = Vec::new();
        for metric in &self.metric {
            if !list.contains(metric) {
                list.push(metric);
            }
        }
        for flag in CriteriaArgs::FLAGS.into_iter().filter(|flag| self.criteria.has(flag)) {
            if !list.iter().any(|metric| metric.needs == Some(flag)) {
                list.extend(Metric::of_rows().filter(|metric| metric.needs == Some(flag)));
            }
        }
        let has_answers = list.iter().any(|metric| metric.needs_answers());
        if (self.generate && !has_answers) || (self.predictions.is_some() && list.is_empty()) {
            list.insert(0, DEFAULT);
        }
        list
    }
}

/// Reads the name of a metric; a dash is as good as an underscore.
#[derive(Clone, Debug)]
struct MetricParser;

impl MetricParser {
    fn names() -> PossibleValuesParser {
        let value = |metric: &'static Metric| PossibleValue::new(metric.name).help(metric.what);
        PossibleValuesParser::new(Metric::of_rows().map(value))
    }
}

impl TypedValueParser for MetricParser {
    type Value = &'static Metric;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Self::Value, clap::Error> {
        let name = value.to_string_lossy().replace('-', "_");
        let name = Self::names().parse_ref(command, arg, name.as_ref())?;
        Ok(Metric::named(&name).expect("one of the names"))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        // Those of a parser live as long as it does, which is not long enough here.
        let values: Vec<PossibleValue> = Self::names().possible_values()?.collect();
        Some(Box::new(values.into_iter()))
    }
}
