//! Where a run is, read from its folder by another process: nothing here writes or disturbs the run.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::checkpoint::last_saved;
use crate::json_lines::read_last;
use crate::lock::RunLock;
use crate::metrics::{EvaluationRecord, SkipRecord, StepRecord};
use crate::run::{EVALUATIONS, LENGTH, METRICS, RunError, RunLength};

/// Steps that rate and loss are the mean of.
const RECENT: usize = 20;

/// Where a run is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunStatus {
    /// Whether a process works on it.
    pub running: bool,
    /// That process, if it says.
    pub process: Option<u32>,
    /// Steps done.
    pub step: u64,
    /// Steps of the whole run, once it has begun.
    pub total_steps: Option<u64>,
    /// Mean loss of the last steps.
    pub loss: Option<f64>,
    /// Rate over the last steps.
    pub tokens_per_s: Option<f64>,
    /// Time to the end at that rate.
    pub seconds_left: Option<f64>,
    /// The last evaluation.
    pub evaluation: Option<EvaluationRecord>,
    /// The newest checkpoint.
    pub checkpoint: Option<CheckpointStatus>,
}

/// A checkpoint as its name and date tell.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckpointStatus {
    /// Steps done when it was saved.
    pub step: u64,
    /// Its folder.
    pub path: PathBuf,
    /// How long ago that was, if the system tells.
    pub seconds_ago: Option<f64>,
}

/// A line of `metrics.jsonl`.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Line {
    Taken(StepRecord),
    Skipped(SkipRecord),
}

impl Line {
    /// The record of a step that was taken.
    pub(crate) fn taken(self) -> Option<StepRecord> {
        match self {
            Line::Taken(record) => Some(record),
            Line::Skipped(_) => None,
        }
    }
}

impl RunStatus {
    /// Reads the status of the run in `dir`.
    ///
    /// # Errors
    /// A folder without a run.
    pub fn read(dir: &Path) -> Result<Self, RunError> {
        let metrics = dir.join(METRICS);
        let lines: Vec<Line> =
            read_last(&metrics, RECENT).map_err(|source| RunError::NoRun { dir: dir.to_owned(), source })?;
        let step = match lines.last() {
            Some(Line::Taken(record)) => record.step,
            Some(Line::Skipped(record)) => record.step,
            None => 0,
        };
        let taken: Vec<&StepRecord> = lines
            .iter()
            .filter_map(|line| match line {
                Line::Taken(record) => Some(record),
                Line::Skipped(_) => None,
            })
            .collect();
        let mean = |value: fn(&StepRecord) -> f64| {
            let sum: f64 = taken.iter().map(|record| value(record)).sum();
            (!taken.is_empty()).then(|| sum / taken.len() as f64)
        };
        let seconds = mean(|record| record.seconds);
        let total_steps = read_length(dir).ok().map(|length| length.total_steps);
        let holder = RunLock::holder(dir);
        Ok(RunStatus {
            running: holder.is_some(),
            process: holder.flatten(),
            step,
            total_steps,
            loss: mean(|record| record.loss),
            tokens_per_s: mean(|record| record.tokens as f64).zip(seconds).map(|(tokens, s)| tokens / s),
            seconds_left: total_steps.zip(seconds).map(|(total, s)| total.saturating_sub(step) as f64 * s),
            evaluation: read_last(&dir.join(EVALUATIONS), 1).ok().and_then(|mut records| records.pop()),
            checkpoint: last_saved(dir).map(|(step, path)| CheckpointStatus {
                step,
                seconds_ago: age(&path),
                path,
            }),
        })
    }
}

/// What a run took, of all its steps together, however often it was interrupted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunTotals {
    /// Steps done.
    pub step: u64,
    /// Wall time of the steps.
    pub seconds: f64,
    /// Tokens of their samples.
    pub tokens: u64,
    /// The most resident memory its process had.
    pub peak_rss_bytes: u64,
}

impl RunTotals {
    /// Adds up the records of the run in `dir`.
    ///
    /// # Errors
    /// A folder without a run.
    pub fn read(dir: &Path) -> Result<Self, RunError> {
        let metrics = dir.join(METRICS);
        let lines = each_line(&metrics).map_err(|source| RunError::NoRun { dir: dir.to_owned(), source })?;
        let mut totals = RunTotals::default();
        for line in lines {
            match line {
                Line::Taken(record) => {
                    totals.step = record.step;
                    totals.seconds += record.seconds;
                    totals.tokens += record.tokens;
                    totals.peak_rss_bytes = totals.peak_rss_bytes.max(record.peak_rss_bytes);
                }
                Line::Skipped(record) => totals.step = record.step,
            }
        }
        Ok(totals)
    }
}

/// The evaluations of the run in `dir`; none if there are none yet.
pub fn read_evaluations(dir: &Path) -> Vec<EvaluationRecord> {
    each_line(&dir.join(EVALUATIONS)).map(Iterator::collect).unwrap_or_default()
}

/// The records of a log one by one; lines that are not such records are left out.
fn each_line<T: DeserializeOwned>(path: &Path) -> io::Result<impl Iterator<Item = T>> {
    let lines = BufReader::new(File::open(path)?).lines();
    Ok(lines.map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok()))
}

fn read_length(dir: &Path) -> io::Result<RunLength> {
    Ok(serde_json::from_str(&std::fs::read_to_string(dir.join(LENGTH))?)?)
}

fn age(path: &Path) -> Option<f64> {
    let modified = path.metadata().ok()?.modified().ok()?;
    Some(SystemTime::now().duration_since(modified).ok()?.as_secs_f64())
}
