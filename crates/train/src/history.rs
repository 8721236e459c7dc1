//! What a run wrote down, read back whole: also while it is running, and of one that was killed.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use lorafit_remedy::amounts::counted;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::checkpoint::last_saved;
use crate::lock::RunLock;
use crate::margins::PairMargins;
use crate::metrics::{EvaluationRecord, METRICS, MetricsLine, SkipRecord, StepRecord};
use crate::middle::{SMOOTHED_STEPS, smoothed};
use crate::run::{CONFIG, DATA, EVALUATIONS, PLAN, RECORD, RunFolder, RunRecord, VERDICT};
use crate::run_error::RunError;
use crate::run_info::Origin;
use crate::verdict::{Curve, Verdict};

/// A line longer than this is no record.
const LONGEST_LINE: u64 = 1 << 20;

/// What losses are means over. Those of different things cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossOver {
    /// Trained tokens.
    Tokens,
    /// Rows whose replies are judged.
    Judgements,
    /// Pairs that are given rewards.
    Pairs,
    /// Texts that are classified.
    Texts,
}

/// The records of a run.
#[derive(Clone, Debug)]
pub struct RunHistory {
    /// The run folder.
    pub dir: PathBuf,
    /// Steps taken, in order and each once.
    pub steps: Vec<StepRecord>,
    /// Steps that were not taken.
    pub skips: Vec<SkipRecord>,
    /// Evaluations, in order.
    pub evaluations: Vec<EvaluationRecord>,
    /// Lines that are no records; what a process is still writing counts as none.
    pub unreadable_lines: usize,
    /// `plan.json`: bytes by their use.
    pub plan: Option<Value>,
    /// `data.json`: what the training rows are like.
    pub data: Option<Value>,
    /// `margins.json`: the margins of held-out pairs.
    pub margins: Option<PairMargins>,
    /// `verdict.json`, once the run has ended.
    pub verdict: Option<Verdict>,
    /// `config.toml`.
    pub config: Option<String>,
    /// How it was begun, of `run.json`.
    pub origin: Origin,
    /// Steps of the whole run, of `run.json`.
    pub total_steps: Option<u64>,
    /// Files of its folder that are missing or unreadable.
    pub damage: Vec<Damage>,
}

/// Something of a run folder that is missing or damaged. What it would say is not known; the rest is as good as ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A file, or a folder, is not there.
    Missing(&'static str),
    /// A file is there and cannot be read.
    Unreadable(&'static str),
    /// There are no steps in `metrics.jsonl`, although no process writes there.
    NoSteps,
    /// So many lines of the records cannot be read.
    Lines(usize),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Missing(name) => write!(f, "{name} is missing"),
            Damage::Unreadable(name) => write!(f, "{name} cannot be read"),
            Damage::NoSteps => write!(f, "{METRICS} has no steps"),
            Damage::Lines(lines) => {
                let lines = counted(*lines, "line", "lines");
                write!(f, "{lines} of {METRICS} and {EVALUATIONS} cannot be read and left out")
            }
        }
    }
}

impl RunHistory {
    /// Reads the records in the run folder `dir`. Needs some 100 bytes a step.
    ///
    /// # Errors
    /// A folder without `metrics.jsonl`, or one that cannot be read.
    pub fn read(dir: &Path) -> Result<Self, RunError> {
        let no_run = |source| RunError::NoRun { dir: dir.to_owned(), source };
        let (lines, mut unreadable_lines) = read_lines(&dir.join(METRICS)).map_err(no_run)?;
        let (mut steps, mut skips): (Vec<StepRecord>, Vec<SkipRecord>) = (Vec::new(), Vec::new());
        for line in lines {
            match line {
                MetricsLine::Taken(record) => {
                    // A run that went on from a checkpoint takes later steps again.
                    truncate_from(&mut steps, record.step, |step| step.step);
                    steps.push(*record);
                }
                MetricsLine::Skipped(record) => skips.push(record),
            }
        }
        let (evaluations, unreadable) = read_evaluations(dir);
        unreadable_lines += unreadable;
        let text = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
        let json = |name: &str| serde_json::from_str(&text(name)?).ok();
        let (plan, data, config) = (json(PLAN), json(DATA), text(CONFIG));
        let verdict = read_verdict(dir);
        let record = RunRecord::read(dir).ok();
        let total_steps = record.as_ref().map(|record| record.total_steps);
        let origin = record.map(|record| record.origin).unwrap_or_default();
        let has_steps = !steps.is_empty() || !skips.is_empty();
        let damage = damage(dir, has_steps, &evaluations, unreadable_lines);
        Ok(RunHistory {
            dir: dir.to_owned(),
            steps,
            skips,
            evaluations,
            unreadable_lines,
            plan,
            data,
            margins: PairMargins::read(dir),
            verdict,
            config,
            origin,
            total_steps,
            damage,
        })
    }

    /// The losses of the run, whose verdict is asked for; so many rows were held out.
    pub fn curve(&self, held_out_rows: usize) -> Curve {
        Curve {
            training: self.steps.iter().map(|step| step.loss).collect(),
            held_out: self.evaluations.iter().map(|one| (one.step, one.loss)).collect(),
            accuracies: self
                .evaluations
                .iter()
                .filter_map(|one| Some((one.step, one.preference?.accuracy?)))
                .collect(),
            skipped: self.skips.len() as u64,
            held_out_rows,
            choice: None,
            diverged: false,
            stopped_early: None,
        }
    }

    /// What the losses of the run are means over.
    pub fn loss_over(&self) -> LossOver {
        let data = self.data.as_ref().and_then(|data| data.get("is_scored")).and_then(Value::as_bool);
        let has_classes = self.evaluations.iter().any(|one| one.classes.is_some());
        match (self.is_judged(), data.unwrap_or(false) || has_classes) {
            (true, true) => LossOver::Pairs,
            (true, false) => LossOver::Judgements,
            (false, true) => LossOver::Texts,
            (false, false) => LossOver::Tokens,
        }
    }

    /// Whether the run is on judged replies.
    pub fn is_judged(&self) -> bool {
        let of_steps = self.steps.first().map(|step| step.preference.is_some());
        of_steps.or(self.evaluations.first().map(|one| one.preference.is_some())).unwrap_or(false)
    }

    /// The smoothed loss of the last steps, [`smoothed`].
    pub fn smoothed_loss(&self) -> Option<f64> {
        let from = self.steps.len().saturating_sub(SMOOTHED_STEPS);
        smoothed(&self.steps[from..].iter().map(|step| step.loss).collect::<Vec<_>>())
    }

    /// The loss on held-out rows before the first step.
    pub fn base_loss(&self) -> Option<f64> {
        self.evaluations.first().filter(|first| first.step == 0).map(|first| first.loss)
    }

    /// Adds up the steps.
    pub fn totals(&self) -> RunTotals {
        let mut totals = RunTotals::default();
        self.steps.iter().for_each(|step| totals.add(step));
        let skipped = self.skips.last().map_or(0, |skip| skip.step);
        RunTotals { step: totals.step.max(skipped), ..totals }
    }

    /// Where the adapter of the run is: the one it ended with, else that of its newest checkpoint, else the best.
    pub fn adapter_dir(&self) -> Option<PathBuf> {
        adapter_of_run(&self.dir)
    }
}

/// Where the adapter of the run in `dir` is: the one it ended with, else that of its newest checkpoint, else the best; `None` of
/// a run that has saved none, and of a folder that holds no run.
pub fn adapter_of_run(dir: &Path) -> Option<PathBuf> {
    let checkpoint = || last_saved(dir).map(|(_, path)| path);
    let mut dirs = [Some(dir.to_owned()), checkpoint(), Some(RunFolder::best_dir(dir))].into_iter().flatten();
    dirs.find(|dir| dir.join("adapter_config.json").is_file()).filter(|_| dir.join(METRICS).is_file())
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
    /// With another step.
    pub fn add(&mut self, step: &StepRecord) {
        self.step = self.step.max(step.step);
        self.seconds += step.seconds;
        self.tokens += step.tokens;
        self.peak_rss_bytes = self.peak_rss_bytes.max(step.peak_rss_bytes);
    }

    /// Tokens over the time of all steps: the rate of a run wherever it is shown; 0 without a step.
    pub fn tokens_per_s(&self) -> f64 {
        if self.seconds > 0.0 { self.tokens as f64 / self.seconds } else { 0.0 }
    }
}

/// What of the run in `dir` is missing or cannot be read.
fn damage(dir: &Path, has_steps: bool, evaluations: &[EvaluationRecord], lines: usize) -> Vec<Damage> {
    /// What the name of a folder says is missing.
    const BEST: &str = "best/";
    let mut found = Vec::new();
    let is_running = RunLock::holder(dir).is_some();
    if !has_steps && !is_running {
        found.push(Damage::NoSteps);
    }
    for name in [RECORD, CONFIG] {
        if !dir.join(name).exists() {
            found.push(Damage::Missing(name));
        }
    }
    for name in [RECORD, PLAN, DATA, VERDICT] {
        let text = std::fs::read(dir.join(name));
        let is_absent = text.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        let is_json = text.is_ok_and(|text| serde_json::from_slice::<Value>(&text).is_ok());
        if !is_absent && !is_json {
            found.push(Damage::Unreadable(name));
        }
    }
    if evaluations.iter().any(|one| one.best) && !RunFolder::best_dir(dir).is_dir() {
        found.push(Damage::Missing(BEST));
    }
    if lines > 0 {
        found.push(Damage::Lines(lines));
    }
    found
}

fn truncate_from<T>(records: &mut Vec<T>, step: u64, step_of: impl Fn(&T) -> u64) {
    while records.last().is_some_and(|last| step_of(last) >= step) {
        records.pop();
    }
}

/// The verdict of the run in `dir`, once it has ended.
pub(crate) fn read_verdict(dir: &Path) -> Option<Verdict> {
    serde_json::from_str(&std::fs::read_to_string(dir.join(VERDICT)).ok()?).ok()?
}

/// The evaluations of the run in `dir`, in order and each once, and how many lines are none.
pub(crate) fn read_evaluations(dir: &Path) -> (Vec<EvaluationRecord>, usize) {
    let Ok((records, unreadable)) = read_lines::<EvaluationRecord>(&dir.join(EVALUATIONS)) else {
        return (Vec::new(), 0);
    };
    let mut evaluations: Vec<EvaluationRecord> = Vec::new();
    for record in records {
        truncate_from(&mut evaluations, record.step, |evaluation| evaluation.step);
        evaluations.push(record);
    }
    (evaluations, unreadable)
}

/// The records of a log, and how many of its whole lines are none.
fn read_lines<T: DeserializeOwned>(path: &Path) -> io::Result<(Vec<T>, usize)> {
    let mut reader = BufReader::new(File::open(path)?);
    let (mut records, mut unreadable, mut line) = (Vec::new(), 0, Vec::new());
    loop {
        line.clear();
        if io::Read::take(&mut reader, LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok((records, unreadable));
        }
        let whole = line.ends_with(b"\n");
        match serde_json::from_slice(&line) {
            Ok(record) => records.push(record),
            Err(_) if whole || line.len() as u64 == LONGEST_LINE => unreadable += 1,
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64, loss: f64) -> String {
        let record = StepRecord {
            step,
            loss,
            grad_norm: 1.0,
            learning_rate: 1e-3,
            tokens: 10,
            computed_tokens: 9,
            supervised_tokens: 5,
            seconds: 0.5,
            tokens_per_s: 20.0,
            peak_rss_bytes: 1,
            peak_device_bytes: None,
            reduction: None,
            preference: None,
        };
        serde_json::to_string(&record).unwrap()
    }

    #[test]
    fn steps_that_were_taken_again_count_once_and_a_torn_line_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let skip = r#"{"step":3,"skipped":"loss","value":"NaN","lines":[7]}"#;
        let lines = [
            step(1, 5.0),
            step(2, 4.0),
            "no record".to_owned(),
            skip.to_owned(),
            step(4, 3.0),
            // Resumed after step 1.
            step(2, 4.5),
            step(3, 3.5),
        ];
        let log = lines.join("\n") + "\n" + &step(4, 1.0)[..20];
        std::fs::write(dir.path().join(METRICS), log).unwrap();
        let history = RunHistory::read(dir.path()).unwrap();
        let found: Vec<_> = history.steps.iter().map(|s| (s.step, s.loss)).collect();
        assert_eq!(found, [(1, 5.0), (2, 4.5), (3, 3.5)]);
        assert_eq!((history.skips.len(), history.unreadable_lines), (1, 1));
        assert!(history.evaluations.is_empty() && history.plan.is_none() && history.adapter_dir().is_none());
    }

    #[test]
    fn a_folder_without_records_is_no_run() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(RunHistory::read(dir.path()), Err(RunError::NoRun { .. })));
    }
}
