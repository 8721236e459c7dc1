//! The folder of a run: its adapter, configuration, records and checkpoints.
//!
//! ```text
//! RUN/adapter_config.json, adapter_model.safetensors   the adapter, as PEFT reads it
//! RUN/model/...                                        or, of full fine-tuning, the model, as transformers reads it
//! RUN/best/...                                         the adapter or the model of the best evaluation
//! RUN/average/...                                      with an average, its adapter or model; evaluation.json says its loss
//! RUN/checkpoints/step-...                             what a run is resumed from
//! RUN/tokenizer.json, chat_template.jinja, ...         what the adapter is handed on with
//! RUN/README.md                                        its model card
//! RUN/config.toml                                      every setting of the run
//! RUN/plan.json                                        the memory the run was planned with, in bytes
//! RUN/data.json                                        what the training rows are like
//! RUN/run.json                                         how long the run is, and how it was begun
//! RUN/verdict.json                                     what its curve says; null until it has ended
//! RUN/reference.json                                   of judged replies, their log-probabilities under the reference
//! RUN/margins.json                                     of preference pairs, the margins of those held out
//! RUN/metrics.jsonl                                    one object per optimizer step
//! RUN/evaluations.jsonl                                one object per evaluation
//! RUN/tensorboard/...                                  the same as curves, if asked for
//! RUN/lock                                             held by the process that writes here
//! ```

use std::path::{Path, PathBuf};
use std::{fs, io};

use lorafit_data::Samples;
use lorafit_data::statistics::Statistics;
use lorafit_model::Parameters;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::card;
use crate::checkpoint::{self, Content, Held, State};
use crate::json_lines::JsonLines;
use crate::lock::RunLock;
use crate::margins::{MARGINS, PairMargins};
use crate::metrics::{EvaluationRecord, METRICS, SkipRecord, StepRecord};
use crate::plan::MemoryPlan;
use crate::run_error::{CheckpointError, RunError, io_error, save_error};
use crate::run_info::{Origin, RunInfo};
use crate::saved;
use crate::storage::{Disk, Nowhere, Storage, free_bytes};
use crate::tensorboard::EventFile;
use crate::verdict::Verdict;

pub(crate) const EVALUATIONS: &str = "evaluations.jsonl";
pub(crate) const PLAN: &str = "plan.json";
pub(crate) const RECORD: &str = "run.json";
pub(crate) const DATA: &str = "data.json";
pub(crate) const VERDICT: &str = "verdict.json";
pub(crate) const CONFIG: &str = "config.toml";
const REFERENCE: &str = "reference.json";
const AVERAGE_EVALUATION: &str = "evaluation.json";
const TENSORBOARD: &str = "tensorboard";
/// What a folder has if a run was there.
const MARKS: [&str; 3] = [METRICS, "adapter_config.json", "adapter_model.safetensors"];

/// `run.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunRecord {
    /// Optimizer steps of the whole run.
    pub(crate) total_steps: u64,
    /// How it was begun.
    #[serde(flatten)]
    pub(crate) origin: Origin,
}

impl RunRecord {
    /// Reads that of the run in `dir`.
    pub(crate) fn read(dir: &Path) -> io::Result<Self> {
        Ok(serde_json::from_str(&fs::read_to_string(dir.join(RECORD))?)?)
    }
}

/// `reference.json`: what the reference of a run on judged replies says.
#[derive(Debug, Serialize, Deserialize)]
struct ReferenceRecord {
    /// Hashes of the samples to train on, and of those held out.
    samples: Vec<Option<String>>,
    /// The log-probability of each sample's reply, in nats, in the same order.
    log_probabilities: Vec<Vec<f64>>,
}

/// Hashes of sets of samples.
fn fingerprints(sets: &[Option<&Samples>]) -> Vec<Option<String>> {
    let hash = |samples: &Samples| blake3::Hash::from_bytes(samples.fingerprint()).to_hex().to_string();
    sets.iter().map(|set| set.map(hash)).collect()
}

/// An open run folder.
#[derive(Debug)]
pub struct RunFolder {
    dir: PathBuf,
    /// The right to write there; `None` of a process that is not the first of its group, which writes nothing.
    lock: Option<RunLock>,
    storage: Box<dyn Storage>,
    info: RunInfo,
    metrics: JsonLines,
    evaluations: JsonLines,
    events: Option<EventFile>,
}

impl RunFolder {
    /// Fails if `dir` already holds a run. Call it before the long work that comes before [`RunFolder::create`].
    ///
    /// # Errors
    /// [`RunError::Taken`].
    pub fn check_free(dir: &Path) -> Result<(), RunError> {
        match MARKS.into_iter().find(|mark| dir.join(mark).exists()) {
            Some(file) => Err(RunError::Taken { dir: dir.to_owned(), file }),
            None => Ok(()),
        }
    }

    /// Begins a run in the locked folder. Records and checkpoints of an earlier run in the folder are removed; its
    /// adapter stays until the new one is saved.
    ///
    /// # Errors
    /// A file that cannot be made.
    pub fn create(lock: RunLock, info: RunInfo) -> Result<Self, RunError> {
        Self::create_on(Box::new(Disk), lock, info)
    }

    /// As [`Self::create`], with other file operations than the system's.
    pub(crate) fn create_on(
        storage: Box<dyn Storage>,
        lock: RunLock,
        info: RunInfo,
    ) -> Result<Self, RunError> {
        let dir = lock.dir();
        checkpoint::remove_all(&*storage, dir).map_err(io_error(dir))?;
        let open = |name: &str| {
            let path = dir.join(name);
            JsonLines::create(&*storage, path.clone()).map_err(io_error(&path))
        };
        let (metrics, evaluations) = (open(METRICS)?, open(EVALUATIONS)?);
        let run = RunFolder {
            dir: dir.to_owned(),
            storage,
            info,
            metrics,
            evaluations,
            events: None,
            lock: Some(lock),
        };
        run.remove(MARGINS)?;
        run.write_config()?;
        Ok(run)
    }

    /// Continues the run in the locked folder from `state`: its records are cut to those the state knows of. `damaged`
    /// checkpoints are renamed.
    ///
    /// # Errors
    /// A file that cannot be opened or cut.
    pub fn resume(
        lock: RunLock,
        mut info: RunInfo,
        state: &State,
        damaged: &[CheckpointError],
    ) -> Result<Self, RunError> {
        let storage: Box<dyn Storage> = Box::new(Disk);
        let dir = lock.dir();
        // The command that began it says more than the one that goes on.
        if let Ok(before) = RunRecord::read(dir)
            && before.origin != Origin::default()
        {
            info.origin = before.origin;
        }
        checkpoint::set_aside(&*storage, damaged).map_err(io_error(dir))?;
        let open = |name: &str, lines: u64| {
            let path = dir.join(name);
            JsonLines::resume(&*storage, path.clone(), lines).map_err(io_error(&path))
        };
        let metrics = open(METRICS, state.metrics_lines)?;
        let evaluations = open(EVALUATIONS, state.evaluation_lines)?;
        let run = RunFolder {
            dir: dir.to_owned(),
            storage,
            info,
            metrics,
            evaluations,
            events: None,
            lock: Some(lock),
        };
        if let Some(margins) = PairMargins::read(run.dir()) {
            run.write_margins(&margins.until(state.step))?;
        }
        run.write_config()?;
        Ok(run)
    }

    /// The folder `dir` as a process sees it to which it does not belong: what it is told to write, the first process of its
    /// group writes.
    pub fn of_another(dir: &Path, info: RunInfo) -> Self {
        let storage: Box<dyn Storage> = Box::new(Nowhere);
        let open = |name: &str| JsonLines::create(&*storage, dir.join(name)).expect("nothing is written");
        let (metrics, evaluations) = (open(METRICS), open(EVALUATIONS));
        RunFolder { dir: dir.to_owned(), lock: None, storage, info, metrics, evaluations, events: None }
    }

    /// Whether this process writes it.
    fn is_own(&self) -> bool {
        self.lock.is_some()
    }

    /// Where the run is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn write_config(&self) -> Result<(), RunError> {
        self.replace(CONFIG, self.info.config.as_bytes())
    }

    /// Writes `plan.json`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_plan(&self, plan: &MemoryPlan) -> Result<(), RunError> {
        let text = serde_json::to_string_pretty(&plan.to_json()).expect("plain values");
        self.replace(PLAN, (text + "\n").as_bytes())
    }

    /// Writes `data.json`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_data(&self, statistics: &Statistics) -> Result<(), RunError> {
        let text = serde_json::to_string_pretty(statistics).expect("plain values");
        self.replace(DATA, (text + "\n").as_bytes())
    }

    /// Writes `reference.json`: what the reference says of each sample of the `sets`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn write_reference(
        &self,
        sets: &[Option<&Samples>],
        log_probabilities: &[Vec<f64>],
    ) -> Result<(), RunError> {
        let record =
            ReferenceRecord { samples: fingerprints(sets), log_probabilities: log_probabilities.to_vec() };
        self.replace(REFERENCE, serde_json::to_string(&record).expect("plain values").as_bytes())
    }

    /// Reads `reference.json`, which has to be of these `sets`.
    ///
    /// # Errors
    /// A file that cannot be read, or is of other samples.
    pub(crate) fn read_reference(&self, sets: &[Option<&Samples>]) -> Result<Vec<Vec<f64>>, RunError> {
        let path = self.dir().join(REFERENCE);
        let text = fs::read_to_string(&path).map_err(io_error(&path))?;
        let found = serde_json::from_str::<ReferenceRecord>(&text).ok().filter(|record| {
            let lengths = sets.iter().map(|set| set.map_or(0, Samples::len));
            record.samples == fingerprints(sets)
                && record.log_probabilities.iter().map(Vec::len).eq(lengths)
                && record.log_probabilities.iter().flatten().all(|value| value.is_finite())
        });
        let found = found.map(|record| record.log_probabilities);
        found.ok_or_else(|| {
            let damaged = "it is damaged, or not of these rows; begin the run again";
            io_error(&path)(io::Error::new(io::ErrorKind::InvalidData, damaged))
        })
    }

    /// Writes `verdict.json`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn write_verdict(&self, verdict: Option<&Verdict>) -> Result<(), RunError> {
        let text = serde_json::to_string_pretty(&verdict).expect("plain values");
        self.replace(VERDICT, (text + "\n").as_bytes())
    }

    /// Writes `run.json`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn write_record(&self, total_steps: u64) -> Result<(), RunError> {
        let record = RunRecord { total_steps, origin: self.info.origin.clone() };
        self.replace(RECORD, serde_json::to_string(&record).expect("plain values").as_bytes())
    }

    /// Removes a file of an earlier run in this folder, if it is there.
    fn remove(&self, name: &str) -> Result<(), RunError> {
        let path = self.dir().join(name);
        match path.exists() {
            true => self.storage.remove_file(&path).map_err(io_error(&path)),
            false => Ok(()),
        }
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), RunError> {
        let path = self.dir().join(name);
        self.storage.replace(&path, bytes).map_err(io_error(&path))
    }

    /// Writes event files for TensorBoard from here on, with `settings` as hyper-parameters; the run goes on at step `first`.
    ///
    /// # Errors
    /// A file that cannot be made.
    pub fn write_events(&mut self, first: u64, settings: &Map<String, Value>) -> Result<(), RunError> {
        if !self.is_own() {
            return Ok(());
        }
        let dir = self.dir().join(TENSORBOARD);
        let mut events = EventFile::create(&*self.storage, &dir, first).map_err(io_error(&dir))?;
        events.hyper_parameters(settings).map_err(io_error(&dir))?;
        self.events = Some(events);
        Ok(())
    }

    /// Adds a line to `metrics.jsonl`.
    ///
    /// # Errors
    /// A file that cannot be written; the line is then written with the next one.
    pub fn record_step(&mut self, record: &StepRecord) -> Result<(), RunError> {
        let scalars = [
            ("loss", record.loss),
            ("grad_norm", record.grad_norm),
            ("learning_rate", record.learning_rate),
            ("tokens_per_s", record.tokens_per_s),
        ];
        self.metrics.append(record).map_err(io_error(self.metrics.path()))?;
        let beside = record.preference.map(|metrics| metrics.named()).unwrap_or_default();
        self.show("train", record.step, &scalars, &beside)
    }

    /// Adds a line for a step that was not taken to `metrics.jsonl`.
    ///
    /// # Errors
    /// As [`Self::record_step`].
    pub fn record_skip(&mut self, record: &SkipRecord) -> Result<(), RunError> {
        self.metrics.append(record).map_err(io_error(self.metrics.path()))
    }

    /// Adds a line to `evaluations.jsonl`.
    ///
    /// # Errors
    /// As [`Self::record_step`].
    pub fn record_evaluation(&mut self, record: &EvaluationRecord) -> Result<(), RunError> {
        let perplexity = record.perplexity.map(|perplexity| ("perplexity", perplexity));
        let defined: Vec<(&str, f64)> = std::iter::once(("loss", record.loss)).chain(perplexity).collect();
        self.evaluations.append(record).map_err(io_error(self.evaluations.path()))?;
        self.show("eval", record.step, &defined, &record.named())
    }

    /// Keeps the margins of held-out pairs after `step` in `margins.json`, beside those at the start.
    ///
    /// # Errors
    /// A file that cannot be written; it is then as it was.
    pub(crate) fn record_margins(&self, step: u64, margins: Vec<f64>) -> Result<(), RunError> {
        if !self.is_own() {
            return Ok(());
        }
        let before = PairMargins::read(self.dir()).unwrap_or_default();
        self.write_margins(&before.with(step, margins))
    }

    fn write_margins(&self, margins: &PairMargins) -> Result<(), RunError> {
        self.replace(MARGINS, serde_json::to_string(margins).expect("plain values").as_bytes())
    }

    /// Adds histograms of an adapter's factors to the event files, if there are any.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn show_factors(&mut self, step: u64, parameters: &Parameters<'_>) -> Result<(), RunError> {
        match parameters.adapter() {
            Some(adapter) => self.in_events(|events| events.factors(step, adapter)),
            None => Ok(()),
        }
    }

    fn show(
        &mut self,
        of: &str,
        step: u64,
        scalars: &[(&str, f64)],
        beside: &[(&str, f64)],
    ) -> Result<(), RunError> {
        let all = scalars.iter().chain(beside).map(|(name, value)| (format!("{of}/{name}"), *value));
        let all: Vec<(String, f64)> = all.collect();
        let scalars: Vec<(&str, f64)> = all.iter().map(|(name, value)| (&name[..], *value)).collect();
        self.in_events(|events| events.scalars(step, &scalars))
    }

    fn in_events(&mut self, write: impl FnOnce(&mut EventFile) -> io::Result<()>) -> Result<(), RunError> {
        let dir = self.dir.join(TENSORBOARD);
        let shown = self.events.as_mut().map_or(Ok(()), write);
        if shown.is_err() {
            // Nothing can be read behind half a record, so the curves end here.
            self.events = None;
        }
        shown.map_err(io_error(&dir))
    }

    /// Returns when all records are on the disk.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn sync(&mut self) -> Result<(), RunError> {
        for log in [&mut self.metrics, &mut self.evaluations] {
            log.sync(&*self.storage).map_err(io_error(log.path()))?;
        }
        Ok(())
    }

    /// Saves what the run has trained: an adapter in the run's folder, a model in `model/`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save_result(&self, parameters: &Parameters<'_>) -> Result<(), RunError> {
        self.save_in(self.dir(), &Self::model_dir(self.dir()), parameters)
    }

    /// Saves the best adapter or model so far, in `best/`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save_best(&self, parameters: &Parameters<'_>) -> Result<(), RunError> {
        let dir = Self::best_dir(self.dir());
        self.save_in(&dir, &dir, parameters)
    }

    /// Saves the average, which the parameters hold, in `average/`, with its evaluation if there is one.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn save_average(
        &self,
        parameters: &Parameters<'_>,
        evaluation: Option<&EvaluationRecord>,
    ) -> Result<(), RunError> {
        if !self.is_own() {
            return Ok(());
        }
        let dir = Self::average_dir(self.dir());
        self.save_in(&dir, &dir, parameters)?;
        let path = dir.join(AVERAGE_EVALUATION);
        let Some(record @ EvaluationRecord { loss, perplexity, .. }) = evaluation else {
            // That of an earlier run in this folder.
            return match path.exists() {
                true => self.storage.remove_file(&path).map_err(io_error(&path)),
                false => Ok(()),
            };
        };
        let mut found = Map::from_iter([("loss".to_owned(), json!(loss))]);
        found.extend(perplexity.map(|perplexity| ("perplexity".to_owned(), json!(perplexity))));
        found.extend(record.named().into_iter().map(|(name, value)| (name.to_owned(), json!(value))));
        let text = serde_json::to_string_pretty(&found).expect("plain values") + "\n";
        self.storage.replace(&path, text.as_bytes()).map_err(io_error(&path))
    }

    /// Writes `text` as the model card of the folder `dir` of this run, in place of an earlier one of this program; `None`
    /// removes that. A card of the user's stays: false.
    ///
    /// # Errors
    /// A file that cannot be written or removed.
    pub fn write_card(&self, dir: &Path, text: Option<&str>) -> Result<bool, RunError> {
        if !self.is_own() {
            return Ok(false);
        }
        card::write(&*self.storage, dir, text).map_err(io_error(&dir.join(card::CARD)))
    }

    fn save_in(&self, dir: &Path, model_dir: &Path, parameters: &Parameters<'_>) -> Result<(), RunError> {
        if !self.is_own() {
            return Ok(());
        }
        saved::save_result(&*self.storage, dir, model_dir, parameters, &self.info)
            .map_err(|source| save_error(dir, source, saved::result_bytes(parameters, &self.info)))
    }

    /// Where the model of full fine-tuning is.
    pub fn model_dir(run: &Path) -> PathBuf {
        run.join(saved::MODEL)
    }

    /// Where the averaged adapter or model is.
    pub fn average_dir(run: &Path) -> PathBuf {
        run.join("average")
    }

    /// Where the best adapter or model is.
    pub fn best_dir(run: &Path) -> PathBuf {
        run.join("best")
    }

    /// Saves a checkpoint and removes all but the last `keep`. `state` gets the lengths of the records.
    ///
    /// # Errors
    /// A file that cannot be written; the checkpoints before are then as they were.
    pub(crate) fn save_checkpoint(
        &mut self,
        state: &mut State,
        held: Held<'_>,
        keep: usize,
    ) -> Result<PathBuf, RunError> {
        if !self.is_own() {
            return Ok(self.dir.clone());
        }
        let needed = held.bytes();
        self.storage.create_dir_all(&self.dir).map_err(io_error(&self.dir))?;
        self.sync()?;
        (state.metrics_lines, state.evaluation_lines) = (self.metrics.lines(), self.evaluations.lines());
        let (storage, dir) = (&*self.storage, &*self.dir);
        let content = Content { state, info: &self.info, held };
        checkpoint::save(storage, dir, keep, &content).map_err(|source| save_error(dir, source, needed))
    }

    /// Removes all but the last `keep` checkpoints: what a run that was killed right after saving did not come to.
    pub(crate) fn prune_checkpoints(&self, keep: usize) {
        if !self.is_own() {
            return;
        }
        checkpoint::prune(&*self.storage, self.dir(), keep);
    }

    /// Fails if the file system has less space than `checkpoints` checkpoints and the results take.
    ///
    /// # Errors
    /// [`RunError::NoSpace`].
    pub(crate) fn check_space(&self, held: Held<'_>, checkpoints: usize) -> Result<(), RunError> {
        if !self.is_own() {
            return Ok(());
        }
        // That of the run, the best one, and the averaged one.
        let copies = if held.average.is_some() { 3 } else { 2 };
        let results = copies * saved::result_bytes(held.parameters, &self.info);
        let of_checkpoints = held.bytes().saturating_mul(checkpoints as u64);
        let needed_bytes = of_checkpoints.saturating_add(results);
        match free_bytes(self.dir()) {
            Some(free_bytes) if free_bytes < needed_bytes => {
                Err(RunError::NoSpace { dir: self.dir().to_owned(), needed_bytes, free_bytes })
            }
            _ => Ok(()),
        }
    }
}
