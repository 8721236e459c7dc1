//! Where a run is, read from its folder by another process: nothing here writes or disturbs the run.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use crate::checkpoint::last_saved;
use crate::history::{read_evaluations, read_verdict};
use crate::json_lines::read_last;
use crate::lock::RunLock;
use crate::metrics::{EvaluationRecord, METRICS, MetricsLine, StepRecord};
use crate::run::RunRecord;
use crate::run_error::RunError;
use crate::verdict::{SMOOTHED_STEPS, Verdict};

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
    /// Loss of the last step.
    pub loss: Option<f64>,
    /// Mean loss of the last steps, up to [`SMOOTHED_STEPS`].
    pub smoothed_loss: Option<f64>,
    /// Rate over the last steps.
    pub tokens_per_s: Option<f64>,
    /// Time to the end at that rate.
    pub seconds_left: Option<f64>,
    /// Loss of the held-out rows before the first step.
    pub base_loss: Option<f64>,
    /// The last evaluation.
    pub evaluation: Option<EvaluationRecord>,
    /// The evaluation with the lowest loss after a step.
    pub best: Option<EvaluationRecord>,
    /// What the run came to, once it has ended.
    pub verdict: Option<Verdict>,
    /// The newest checkpoint.
    pub checkpoint: Option<CheckpointStatus>,
}

/// What a run does, in the one word that every list, page and message has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// A process works on it.
    Running,
    /// It took its last step, or evaluations ended it.
    Finished,
    /// It ended before, and no process works on it.
    Stopped,
}

impl RunState {
    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            RunState::Running => "running",
            RunState::Finished => "finished",
            RunState::Stopped => "stopped",
        }
    }
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

impl RunStatus {
    /// Reads the status of the run in `dir`.
    ///
    /// # Errors
    /// A folder without a run.
    pub fn read(dir: &Path) -> Result<Self, RunError> {
        let metrics = dir.join(METRICS);
        let lines: Vec<MetricsLine> = read_last(&metrics, SMOOTHED_STEPS)
            .map_err(|source| RunError::NoRun { dir: dir.to_owned(), source })?;
        let step = match lines.last() {
            Some(MetricsLine::Taken(record)) => record.step,
            Some(MetricsLine::Skipped(record)) => record.step,
            None => 0,
        };
        let taken: Vec<&StepRecord> = lines
            .iter()
            .filter_map(|line| match line {
                MetricsLine::Taken(record) => Some(&**record),
                MetricsLine::Skipped(_) => None,
            })
            .collect();
        let mean = |value: fn(&StepRecord) -> f64| {
            let sum: f64 = taken.iter().map(|record| value(record)).sum();
            (!taken.is_empty()).then(|| sum / taken.len() as f64)
        };
        let seconds = mean(|record| record.seconds);
        let total_steps = RunRecord::read(dir).ok().map(|record| record.total_steps);
        let holder = RunLock::holder(dir);
        let (mut evaluations, _) = read_evaluations(dir);
        Ok(RunStatus {
            running: holder.is_some(),
            process: holder.flatten(),
            step,
            total_steps,
            loss: taken.last().map(|record| record.loss),
            smoothed_loss: mean(|record| record.loss),
            tokens_per_s: mean(|record| record.tokens as f64).zip(seconds).map(|(tokens, s)| tokens / s),
            seconds_left: total_steps.zip(seconds).map(|(total, s)| total.saturating_sub(step) as f64 * s),
            base_loss: evaluations.first().filter(|first| first.step == 0).map(|first| first.loss),
            best: evaluations.iter().rev().find(|evaluation| evaluation.best).cloned(),
            evaluation: evaluations.pop(),
            verdict: read_verdict(dir),
            checkpoint: last_saved(dir).map(|(step, path)| CheckpointStatus {
                step,
                seconds_ago: age(&path),
                path,
            }),
        })
    }

    /// What the run does.
    pub fn state(&self) -> RunState {
        // Evaluations may end a run before its last step.
        let is_early = self.verdict.as_ref().is_some_and(|verdict| verdict.stopped_early.is_some());
        match self.total_steps {
            _ if self.running => RunState::Running,
            _ if is_early => RunState::Finished,
            Some(total) if self.step >= total => RunState::Finished,
            Some(_) | None => RunState::Stopped,
        }
    }
}

fn age(path: &Path) -> Option<f64> {
    let modified = path.metadata().ok()?.modified().ok()?;
    Some(SystemTime::now().duration_since(modified).ok()?.as_secs_f64())
}
