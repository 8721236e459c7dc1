//! The folder of a sweep.
//!
//! ```text
//! DIR/sweep.json              how it searches, the options of all trials, and the trials, numbered for good
//! DIR/trials/003/             an ordinary run
//! DIR/trials/003/trial.jsonl  what the sweep did with it, one event a line: decisions are a function of these alone
//! DIR/trials.jsonl, .csv      the trials as a table; written anew from the folders after every event
//! DIR/settings.csv            of a sweep with `seeds`: the means of its settings
//! DIR/winner.toml             the options of the best trial, for `train --config`
//! DIR/lock, DIR/shards/1-of-4/lock   held by the process that works on it, or on that part
//! ```
//!
//! A part (`--shard`) writes only to the folders of its own trials, and everybody who reads reads all folders.

use std::cmp::Ordering;
use std::fs::{self, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use lorafit_train::sweep::{Curve, Options, SeedMean, Shard, TrialRecord};
use lorafit_train::{RunHistory, RunLock, RunStatus};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::args::config_file::object;
use crate::args::flags;
use crate::args::train::TrainArgs;
use crate::metrics::{Direction, EVAL_LOSS, Interval, Metric};
use crate::sweep::file::{Settings, Spec};
use crate::terminal::error::CliError;
use crate::terminal::output;

const SWEEP: &str = "sweep.json";
/// Settings that add trials where they grow; if they are fewer, trials that are missing are named.
const ADDED: [&str; 2] = ["trials", "seeds"];
const EVENTS: &str = "trial.jsonl";

/// Whether a sweep is in `dir`.
pub fn is_sweep(dir: &Path) -> bool {
    dir.join(SWEEP).is_file()
}

/// `sweep.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// How it searches.
    #[serde(flatten)]
    pub settings: Settings,
    /// The `[search]` table.
    pub search: Map<String, Value>,
    /// The options that all trials have.
    pub train: Map<String, Value>,
    /// The options of each trial, by its number.
    pub options: Vec<Options>,
    /// Steps after which successive halving compares trials, the end of a run not included.
    pub rungs: Vec<u64>,
    /// Seconds since 1970 that chat templates of all trials see as now.
    pub clock: Option<i64>,
}

impl Record {
    /// Reads the sweep in `dir`; `None` if there is none.
    pub fn read(dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = dir.join(SWEEP);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let record = serde_json::from_str(&text).map_err(|error| {
            CliError::new(format!("{} is not a sweep: {error}", path.display())).hint("choose another --out")
        })?;
        Ok(Some(record))
    }

    /// The sweep of a file in `dir`: a new one, or the one that is there with more trials.
    ///
    /// # Errors
    /// Another sweep; what differs is named.
    pub fn of(spec: &Spec, dir: &Path) -> anyhow::Result<Self> {
        let fresh = Record {
            settings: spec.settings.clone(),
            search: spec.search.clone(),
            train: object(&spec.train)?,
            options: spec.trials()?,
            rungs: Vec::new(),
            clock: None,
        };
        let Some(mut record) = Record::read(dir)? else { return Ok(fresh) };
        let differences = record.differences(&fresh)?;
        if !differences.is_empty() {
            let text = format!("{} holds another sweep:\n  {}", dir.display(), differences.join("\n  "));
            let hint =
                "choose another --out, or give the file that it began with; trials may be added, not changed";
            return Err(CliError::new(text).hint(hint).into());
        }
        let new: Vec<Options> = fresh.options.into_iter().filter(|o| !record.options.contains(o)).collect();
        record.options.extend(new);
        (record.settings, record.search, record.train) = (fresh.settings, fresh.search, fresh.train);
        Ok(record)
    }

    fn differences(&self, now: &Record) -> anyhow::Result<Vec<String>> {
        let (mut before, mut after) = (object(&self.settings)?, object(&now.settings)?);
        before.extend(self.train.clone());
        after.extend(now.train.clone());
        // Two seeds: this is that of the draws; under its name stands that of training.
        let seeds = (self.settings.seed, now.settings.seed);
        let names = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
        let is_bound = |name: &&String| {
            !flags::is(name, |facts| facts.is_free_in_sweep) && !ADDED.contains(&name.as_str())
        };
        let value = |map: &Map<String, Value>, name: &str| map.get(name).unwrap_or(&Value::Null).to_string();
        let mut found: Vec<String> = names
            .filter(is_bound)
            .filter(|name| {
                before.get(*name).unwrap_or(&Value::Null) != after.get(*name).unwrap_or(&Value::Null)
            })
            .map(|name| format!("{name}: it has {}, the file {}", value(&before, name), value(&after, name)))
            .collect();
        if seeds.0 != seeds.1 {
            found.push(format!("[sweep] seed: it has {}, the file {}", seeds.0, seeds.1));
        }
        let gone = |(number, options): (usize, &Options)| {
            (!now.options.contains(options))
                .then(|| format!("trial {} ({}) is not in the file", name(number), in_words(options)))
        };
        found.extend(self.options.iter().enumerate().filter_map(gone));
        Ok(found)
    }

    /// Writes it.
    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        output::file(&dir.join(SWEEP), (serde_json::to_string_pretty(self)? + "\n").as_bytes())
    }

    /// What its file said.
    pub fn spec(&self) -> anyhow::Result<Spec> {
        let train: TrainArgs = serde_json::from_value(Value::Object(self.train.clone()))?;
        let (settings, search) = (self.settings.clone(), self.search.clone());
        // The trials are numbered already, so that nothing is drawn from a space.
        Ok(Spec { settings, search, space: Default::default(), train })
    }
}

/// The name of a trial.
pub fn name(number: usize) -> String {
    format!("{number:03}")
}

/// `rank=8 alpha=16`.
pub fn in_words(options: &Options) -> String {
    let word = |(name, value): (&String, &Value)| format!("{name}={}", value_in_words(value));
    options.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// The value of an option, without the quotes of JSON.
pub fn value_in_words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Takes the sweep, or a part of it.
pub fn lock(dir: &Path, shard: Shard) -> anyhow::Result<RunLock> {
    if shard == Shard::WHOLE {
        let parts = fs::read_dir(dir.join("shards")).into_iter().flatten().flatten();
        if let Some(part) = parts.map(|entry| entry.path()).find(|part| RunLock::holder(part).is_some()) {
            let text = format!("{} is being worked on in parts ({})", dir.display(), part.display());
            return Err(CliError::new(text).hint("wait for the parts, or join them with --shard").into());
        }
        return Ok(RunLock::take(dir)?);
    }
    if RunLock::holder(dir).is_some() {
        let text = format!("{} is being worked on as a whole", dir.display());
        return Err(CliError::new(text).hint("wait for it, stop it, or choose another --out").into());
    }
    Ok(RunLock::take(&dir.join("shards").join(shard.to_string().replace('/', "-of-")))?)
}

/// Whether the run in `dir` is a trial of a sweep.
pub fn is_trial(dir: &Path) -> bool {
    dir.join(EVENTS).is_file()
}

/// What a trial came to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Steps done.
    pub step: u64,
    /// The metric there.
    pub metric: f64,
    /// Its 95 % interval, where it is a mean over rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// The loss of its held-out rows without an adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_loss: Option<f64>,
    /// Wall time of the steps.
    pub seconds: f64,
    /// Tokens of samples in that time.
    pub tokens_per_s: f64,
    /// The most resident memory of the process, which has other trials, too.
    pub peak_rss_bytes: u64,
}

impl Outcome {
    /// Reads what the run in `dir` came to, with its loss as the metric; `None` if it was not evaluated after its last step.
    pub fn read(dir: &Path) -> anyhow::Result<Option<Self>> {
        let history = RunHistory::read(dir)?;
        let totals = history.totals();
        let evaluation = history.evaluations.last().filter(|evaluation| evaluation.step == totals.step);
        Ok(evaluation.map(|evaluation| Outcome {
            step: totals.step,
            metric: evaluation.loss,
            interval: None,
            base_loss: None,
            seconds: totals.seconds,
            tokens_per_s: totals.tokens_per_s(),
            peak_rss_bytes: totals.peak_rss_bytes,
        }))
    }
}

/// Why a trial does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoppedBy {
    /// It was worse than the median of the others.
    Median,
    /// It was not among those that successive halving lets go on. More trials may change that.
    Halving,
}

/// What the sweep did with a trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// It was sent to a rung.
    Started {
        /// Counted from 0.
        rung: usize,
    },
    /// It came there.
    Came {
        /// Counted from 0.
        rung: usize,
        /// How.
        #[serde(flatten)]
        outcome: Outcome,
    },
    /// It was given up.
    Stopped {
        /// Why.
        by: StoppedBy,
        /// What it had come to.
        #[serde(flatten)]
        outcome: Outcome,
    },
    /// It cannot go on.
    Failed {
        /// Why.
        error: String,
    },
}

/// Where a trial is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrialState {
    /// Trained to its end.
    Finished,
    /// Given up.
    Stopped,
    /// Not trained to its end for an error.
    Failed,
    /// A process works on it.
    Running,
    /// Not begun, or half done.
    Waiting,
}

/// A trial as its folder tells.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Its number.
    pub number: usize,
    /// Its options.
    pub options: Options,
    /// Its run folder.
    pub dir: PathBuf,
    events: Vec<Event>,
}

impl Trial {
    /// Reads trial `number` of the sweep in `dir`.
    pub fn read(dir: &Path, number: usize, options: &Options) -> Self {
        let dir = dir.join("trials").join(name(number));
        // What is no event is the torn end of a line that was being written when the process ended.
        let text = fs::read_to_string(dir.join(EVENTS)).unwrap_or_default();
        let events = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Trial { number, options: options.clone(), dir, events }
    }

    /// Adds an event to its log, on the disk.
    pub fn record(&mut self, event: Event) -> anyhow::Result<()> {
        let path = self.dir.join(EVENTS);
        let write = || {
            fs::create_dir_all(&self.dir)?;
            let mut file = OpenOptions::new().read(true).create(true).append(true).open(&path)?;
            let mut line = serde_json::to_string(&event)? + "\n";
            if file.metadata()?.len() > 0 {
                let mut last = [0];
                file.seek(SeekFrom::End(-1))?;
                file.read_exact(&mut last)?;
                if last != *b"\n" {
                    line.insert(0, '\n');
                }
            }
            file.write_all(line.as_bytes())?;
            file.sync_all()
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
        self.events.push(event);
        Ok(())
    }

    /// What the scheduler has to know. `retry` gives one that failed another chance.
    pub fn as_record(&self, direction: Direction, retry: bool) -> TrialRecord {
        let mut record = TrialRecord { number: self.number, ..TrialRecord::default() };
        for event in &self.events {
            match event {
                Event::Started { rung } => record.started = record.started.max(rung + 1),
                Event::Came { rung, outcome } if *rung == record.scores.len() => {
                    record.scores.push(direction.score(outcome.metric));
                }
                Event::Came { .. } => {}
                Event::Stopped { by: StoppedBy::Median, .. } => record.over = true,
                Event::Stopped { by: StoppedBy::Halving, .. } => {}
                Event::Failed { .. } => record.over = !retry,
            }
        }
        record
    }

    /// The losses of its evaluations after steps so far.
    pub fn curve(&self) -> Curve {
        let evaluations = RunHistory::read(&self.dir).map(|history| history.evaluations).unwrap_or_default();
        evaluations.iter().filter(|e| e.step > 0).map(|e| (e.step, e.loss)).collect()
    }

    /// The last outcome.
    pub fn outcome(&self) -> Option<Outcome> {
        self.events.iter().rev().find_map(|event| match event {
            Event::Came { outcome, .. } | Event::Stopped { outcome, .. } => Some(*outcome),
            Event::Started { .. } | Event::Failed { .. } => None,
        })
    }

    /// Why it failed.
    pub fn error(&self) -> Option<&str> {
        match self.events.last() {
            Some(Event::Failed { error }) => Some(error),
            _ => None,
        }
    }

    /// Where it is in a search of so many rungs.
    pub fn state(&self, rungs: usize) -> TrialState {
        match self.events.last() {
            Some(Event::Came { rung, .. }) if rung + 1 == rungs => TrialState::Finished,
            Some(Event::Stopped { .. }) => TrialState::Stopped,
            Some(Event::Failed { .. }) => TrialState::Failed,
            Some(Event::Started { .. }) if RunLock::holder(&self.dir).is_some() => TrialState::Running,
            Some(Event::Came { .. } | Event::Started { .. }) | None => TrialState::Waiting,
        }
    }

    /// Its line of `trials.jsonl`, in a search of so many rungs that compares by `metric`.
    pub fn row(&self, rungs: usize, metric: &Metric) -> Row {
        let state = self.state(rungs);
        let mut row = Row {
            trial: self.number,
            name: name(self.number),
            run: format!("trials/{}", name(self.number)),
            state,
            options: self.options.clone(),
            metric: self.outcome().map(|o| o.metric),
            interval: self.outcome().and_then(|o| o.interval),
            setting: None,
            base_loss: self.outcome().and_then(|o| o.base_loss),
            step: self.outcome().map_or(0, |o| o.step),
            seconds: self.outcome().map(|o| o.seconds),
            tokens_per_s: self.outcome().map(|o| o.tokens_per_s),
            peak_rss_bytes: self.outcome().map(|o| o.peak_rss_bytes),
        };
        if matches!(state, TrialState::Running | TrialState::Waiting | TrialState::Failed)
            && let Ok(status) = RunStatus::read(&self.dir)
        {
            row.step = status.step;
            row.tokens_per_s = status.tokens_per_s.or(row.tokens_per_s);
            if *metric == EVAL_LOSS {
                // What it began with is none of its doing.
                let own = status.evaluation.filter(|evaluation| evaluation.step > 0);
                row.metric = own.map(|evaluation| evaluation.loss).or(row.metric);
            }
        }
        row
    }
}

/// A line of `trials.jsonl`.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Number.
    pub trial: usize,
    /// Its name.
    pub name: String,
    /// Its run, below the folder of the sweep.
    pub run: String,
    /// Where it is.
    pub state: TrialState,
    /// Its options.
    pub options: Options,
    /// The last value of the metric.
    pub metric: Option<f64>,
    /// Its 95 % interval, where it is a mean over rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// Of a sweep with `seeds`: the metric of its setting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setting: Option<SeedMean>,
    /// The loss of its held-out rows without an adapter.
    pub base_loss: Option<f64>,
    /// Steps done.
    pub step: u64,
    /// Wall time of its steps.
    pub seconds: Option<f64>,
    /// Tokens of samples in that time.
    pub tokens_per_s: Option<f64>,
    /// The most memory of its process.
    pub peak_rss_bytes: Option<u64>,
}

impl TrialState {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            TrialState::Finished => "finished",
            TrialState::Stopped => "stopped",
            TrialState::Failed => "failed",
            TrialState::Running => "running",
            TrialState::Waiting => "waiting",
        }
    }
}

/// The order of every leader board: trials that were trained to their end, then the others by their metric as far as they came,
/// and then those that failed. A trial is given as its state, its metric and its number.
pub fn order(
    (state, metric, trial): (TrialState, Option<f64>, usize),
    other: (TrialState, Option<f64>, usize),
    direction: Direction,
) -> Ordering {
    let place = |state| match state {
        TrialState::Finished => 0,
        TrialState::Running | TrialState::Stopped => 1,
        TrialState::Waiting => 2,
        TrialState::Failed => 3,
    };
    let score = |metric: Option<f64>| metric.map_or(f64::INFINITY, |metric| direction.score(metric));
    let by_state = place(state).cmp(&place(other.0));
    by_state.then(score(metric).total_cmp(&score(other.1))).then(trial.cmp(&other.2))
}

/// All trials, the best first, in the order of [`order`].
pub fn ranked(mut rows: Vec<Row>, direction: Direction) -> Vec<Row> {
    let key = |row: &Row| (row.state, row.metric, row.trial);
    rows.sort_by(|a, b| order(key(a), key(b), direction));
    rows
}

/// The last columns of `trials.csv`, which have the names that they have in `trials.jsonl`.
const MEASURED: [&str; 6] = ["step", "seconds", "tokens_per_s", "peak_rss_bytes", "run", "base_loss"];

/// Writes `trials.jsonl` and `trials.csv`.
pub fn write_tables(dir: &Path, rows: &[Row]) -> anyhow::Result<()> {
    let mut lines = String::new();
    for row in rows {
        lines += &(serde_json::to_string(row)? + "\n");
    }
    output::file(&dir.join("trials.jsonl"), lines.as_bytes())?;
    let names: Vec<&String> = rows.first().map(|row| row.options.keys().collect()).unwrap_or_default();
    let mut csv = csv::Writer::from_writer(Vec::new());
    let own = ["trial", "state"].into_iter().chain(names.iter().map(|name| name.as_str()));
    let of_settings: &[&str] = match rows.iter().any(|row| row.setting.is_some()) {
        true => &["setting_mean", "setting_standard_error", "setting_seeds"],
        false => &[],
    };
    let head = own.chain(["metric", "metric_low", "metric_high"]).chain(of_settings.iter().copied());
    csv.write_record(head.chain(MEASURED))?;
    for row in rows {
        let Value::Object(values) = serde_json::to_value(row)? else { continue };
        let text = |value: Option<&Value>| match value {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        let of_row = |names: &[&str]| names.iter().map(|name| text(values.get(*name))).collect::<Vec<_>>();
        let mut record = of_row(&["name", "state"]);
        record.extend(names.iter().map(|name| text(row.options.get(*name))));
        record.extend(of_row(&["metric"]));
        let bound =
            |place: usize| row.interval.map_or_else(String::new, |interval| interval[place].to_string());
        record.extend([bound(0), bound(1)]);
        if !of_settings.is_empty() {
            let mean = row.setting;
            let error = mean.and_then(|mean| mean.standard_error);
            record.push(mean.map_or_else(String::new, |mean| mean.mean.to_string()));
            record.push(error.map_or_else(String::new, |error| error.to_string()));
            record.push(mean.map_or(0, |mean| mean.seeds).to_string());
        }
        record.extend(of_row(&MEASURED));
        csv.write_record(record)?;
    }
    output::file(&dir.join("trials.csv"), &csv.into_inner().map_err(|error| error.into_error())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A trial that failed or was interrupted before its first evaluation has no loss of its own.
    #[test]
    fn the_loss_before_training_is_no_metric_of_a_trial() {
        let dir = tempfile::tempdir().unwrap();
        let trial = dir.path().join("trials/000");
        fs::create_dir_all(&trial).unwrap();
        fs::write(trial.join("metrics.jsonl"), "").unwrap();
        let base = r#"{"step":0,"loss":3.5,"best":false,"seconds":1.0}"#.to_owned() + "\n";
        let later = base.clone() + r#"{"step":4,"loss":2.5,"best":true,"seconds":1.0}"# + "\n";
        let started = r#"{"event":"started","rung":0}"#.to_owned() + "\n";
        let failed = started.clone() + r#"{"event":"failed","error":"it broke"}"# + "\n";
        for (events, state) in [(&started, TrialState::Waiting), (&failed, TrialState::Failed)] {
            fs::write(trial.join(EVENTS), events).unwrap();
            for (evaluations, metric) in [(&base, None), (&later, Some(2.5))] {
                fs::write(trial.join("evaluations.jsonl"), evaluations).unwrap();
                let row = Trial::read(dir.path(), 0, &Options::default()).row(1, &EVAL_LOSS);
                assert_eq!((row.state, row.metric), (state, metric));
            }
        }
    }

    #[test]
    fn every_leader_board_has_one_order() {
        use TrialState::{Failed, Finished, Running, Stopped, Waiting};
        let mut trials = [
            (Failed, Some(0.1), 0),
            (Waiting, None, 1),
            (Stopped, Some(0.2), 2),
            (Finished, Some(3.0), 3),
            (Finished, Some(2.0), 5),
            (Finished, Some(2.0), 4),
            (Running, Some(0.3), 6),
        ];
        trials.sort_by(|a, b| order(*a, *b, Direction::Minimize));
        assert_eq!(trials.map(|(.., number)| number), [4, 5, 3, 2, 6, 1, 0]);
        trials.sort_by(|a, b| order(*a, *b, Direction::Maximize));
        assert_eq!(trials.map(|(.., number)| number), [3, 4, 5, 6, 2, 1, 0]);
    }

    /// What lorafit wrote in November 2026.
    #[test]
    fn events_of_older_sweeps_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let log = r#"{"event":"started","rung":0}
{"event":"came","rung":0,"step":20,"metric":0.45193146759609004,"seconds":39.662800514,"tokens_per_s":116.02811552289674,"peak_rss_bytes":983498752}
{"event":"stopped","by":"median","step":30,"metric":0.5,"seconds":50.5,"tokens_per_s":100.25,"peak_rss_bytes":983498752}
{"event":"failed","error":"it broke"}
"#;
        fs::create_dir_all(dir.path().join("trials/007")).unwrap();
        for (lines, state, metric) in [
            (1, TrialState::Waiting, None),
            (2, TrialState::Finished, Some(0.45193146759609004)),
            (3, TrialState::Stopped, Some(0.5)),
            (4, TrialState::Failed, Some(0.5)),
        ] {
            let text: String = log.split_inclusive('\n').take(lines).collect();
            fs::write(dir.path().join("trials/007").join(EVENTS), text).unwrap();
            let row = Trial::read(dir.path(), 7, &Options::default()).row(1, &EVAL_LOSS);
            assert_eq!((row.state, row.metric), (state, metric), "{lines} lines");
        }
        let settings = r#"{"metric":"eval_loss","direction":"minimize","strategy":"grid","trials":null,"seed":0,
            "early-stop":false,"reduction-factor":3,"min-steps":null}"#;
        assert_eq!(serde_json::from_str::<Settings>(settings).unwrap(), Settings::default());
    }
}
