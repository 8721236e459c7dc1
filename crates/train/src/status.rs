//! Where a run is, read from its folder by another process: nothing here writes or disturbs the run.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use crate::checkpoint::last_saved;
use crate::history::{Damage, RunHistory};
use crate::lock::RunLock;
use crate::metrics::EvaluationRecord;
use crate::middle::{SMOOTHED_STEPS, mean};
use crate::run_error::RunError;
use crate::verdict::Verdict;

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
    /// Rate over all steps.
    pub tokens_per_s: Option<f64>,
    /// Time to the end, at the rate of the last steps.
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
    /// What of the folder is missing or cannot be read.
    pub warnings: Vec<String>,
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
        Ok(RunStatus::of(&RunHistory::read(dir)?))
    }

    /// The status of a run whose records were read.
    pub fn of(history: &RunHistory) -> Self {
        let RunHistory { dir, steps, evaluations, total_steps, .. } = history;
        let (totals, holder) = (history.totals(), RunLock::holder(dir));
        let ending = &steps[steps.len().saturating_sub(SMOOTHED_STEPS)..];
        // What is left takes as long as the last steps did: others are slower while they begin.
        let seconds = (!ending.is_empty())
            .then(|| mean(&ending.iter().map(|record| record.seconds).collect::<Vec<_>>()));
        RunStatus {
            running: holder.is_some(),
            process: holder.flatten(),
            step: totals.step,
            total_steps: *total_steps,
            loss: steps.last().map(|record| record.loss),
            smoothed_loss: history.smoothed_loss(),
            tokens_per_s: (!steps.is_empty()).then(|| totals.tokens_per_s()),
            seconds_left: total_steps
                .zip(seconds)
                .map(|(total, s)| total.saturating_sub(totals.step) as f64 * s),
            base_loss: history.base_loss(),
            best: evaluations.iter().rev().find(|evaluation| evaluation.best).cloned(),
            evaluation: evaluations.last().cloned(),
            verdict: history.verdict.clone(),
            checkpoint: last_saved(dir).map(|(step, path)| CheckpointStatus {
                step,
                seconds_ago: age(&path),
                path,
            }),
            warnings: history.damage.iter().map(Damage::to_string).collect(),
        }
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
