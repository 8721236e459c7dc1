//! Checkpoints: everything that a run needs to go on as if it had never stopped.
//!
//! ```text
//! RUN/checkpoints/step-00000050/
//!   adapter_model.safetensors, adapter_config.json   the adapter, as PEFT reads it
//!   weights.safetensors                              or, of full fine-tuning, the weights that are trained, in f32
//!   average.safetensors                              with an average, that of every tensor that is trained, in their order
//!   optimizer.safetensors                            the moments of every tensor that is trained, in their order
//!   state.json                                       the place in the run, and what the run is (Manifest)
//!   config.toml                                      every setting of the run
//!   BLAKE3SUMS                                       a hash of each file, as `b3sum --check` reads it
//! ```
//!
//! The folder is written under another name (`.partial`), every file and the folder itself are synced, then it is
//! renamed: a checkpoint that has its name is whole. Chance needs no state of its own, since dropout and order are
//! functions of the seed, the step and the epoch. `BLAKE3SUMS` is compared as a whole with what the files hash to, so
//! that it needs no hash itself. Nothing but `clock` depends on when a run was: equal runs have equal checkpoints.

use std::cmp::Reverse;
use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use lorafit_data::Position;
use lorafit_kernels::Device;
use lorafit_kernels::ops::elementwise::sum_squares;
use lorafit_model::adapter::{self, Adapter};
use lorafit_model::weights::{TensorReader, write_tensors};
use lorafit_model::{Config, FileError, Model, Parameters};
use serde::{Deserialize, Serialize};

use crate::average::Average;
use crate::guard::GuardState;
use crate::identity::Identity;
use crate::metrics::EvaluationRecord;
use crate::optim::AdamW;
use crate::patience::PatienceState;
use crate::restart::RestartState;
use crate::run_error::CheckpointError;
use crate::run_info::RunInfo;
use crate::saved;
use crate::storage::{Storage, WriteContent};

/// The version of the layout above.
const FORMAT: u32 = 1;
const FOLDER: &str = "checkpoints";
const PREFIX: &str = "step-";
/// What is being written or removed.
const PARTIAL: &str = "partial";
/// What is being replaced.
const OLD: &str = "old.partial";
/// What was found damaged.
const CORRUPT: &str = "corrupt";
const AVERAGE: &str = "average.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
const CONFIG: &str = "config.toml";
const SUMS: &str = "BLAKE3SUMS";
/// The files with a hash that come after those of the parameters, in the order they are written.
const FILES: [&str; 3] = [OPTIMIZER, STATE, CONFIG];
/// More than the small files of a checkpoint ever have.
const MAX_SMALL_BYTES: u64 = 16 << 20;
/// More than a run ever counts.
const MOST: u64 = 1 << 53;
/// Files and folders beside parameters and moments, at most.
const SMALL_BYTES: u64 = 1 << 16;

/// A place in a run between two steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps done, refused ones included.
    pub step: u64,
    /// Where the next step's samples are.
    pub position: Position,
    /// Updates of the optimizer: steps done that were not refused.
    pub updates: u64,
    /// Lines of `metrics.jsonl`.
    pub metrics_lines: u64,
    /// Lines of `evaluations.jsonl`.
    pub evaluation_lines: u64,
    /// The step after which the last evaluation was.
    pub evaluated: Option<u64>,
    /// The best evaluation so far.
    pub best: Option<Best>,
    /// Refused steps.
    pub guard: GuardState,
    /// Evaluations that early stopping has seen.
    #[serde(default)]
    pub patience: PatienceState,
    /// Restarts, and the evaluations that decide the next.
    #[serde(default)]
    pub restarts: RestartState,
    /// Steps in the average.
    #[serde(default)]
    pub averaged: u64,
}

impl State {
    /// All that is counted, so that whoever counts on does not overflow.
    fn counts(&self) -> [u64; 11] {
        let Position { epoch, sample } = self.position;
        let GuardState { skipped, in_a_row, .. } = self.guard;
        let lines = [self.metrics_lines, self.evaluation_lines];
        let in_vain = self.patience.in_vain;
        [
            self.step,
            epoch,
            sample as u64,
            self.updates,
            lines[0],
            lines[1],
            skipped,
            in_a_row,
            in_vain,
            self.restarts.done,
            self.averaged,
        ]
    }
}

/// The evaluation whose adapter is in `best/`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Steps done before.
    pub step: u64,
    /// Its loss.
    pub loss: f64,
    /// Share of held-out pairs whose chosen reply it preferred, or of texts that it gave their label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
}

impl Best {
    /// That of an evaluation.
    pub(crate) fn of(record: &EvaluationRecord) -> Self {
        Best { step: record.step, loss: record.loss, accuracy: record.accuracy() }
    }
}

/// `state.json`.
#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    /// Seconds since 1970 that chat templates see as now.
    clock: i64,
    state: State,
    identity: Identity,
}

/// What a run has beside its place between two steps.
#[derive(Clone, Copy)]
pub(crate) struct Held<'a> {
    pub(crate) parameters: &'a Parameters<'a>,
    pub(crate) optimizer: &'a AdamW,
    pub(crate) average: Option<&'a Average>,
}

impl Held<'_> {
    /// Bytes of a checkpoint, about.
    pub(crate) fn bytes(&self) -> u64 {
        let copies = if self.average.is_some() { 2 } else { 1 };
        copies * 4 * self.parameters.count() + self.optimizer.state_bytes() + SMALL_BYTES
    }
}

/// Whether all parameters are finite: what is not is never saved as a checkpoint.
pub(crate) fn is_finite(parameters: &Parameters<'_>) -> bool {
    sum_squares(&parameters.tensors()).is_finite()
}

/// What a checkpoint is made of.
pub(crate) struct Content<'a> {
    pub(crate) state: &'a State,
    pub(crate) info: &'a RunInfo,
    pub(crate) held: Held<'a>,
}

/// Writes a checkpoint below the run folder `run`, and removes all but the last `keep`.
///
/// After an error the checkpoints that were there are as they were.
pub(crate) fn save(
    storage: &dyn Storage,
    run: &Path,
    keep: usize,
    content: &Content<'_>,
) -> io::Result<PathBuf> {
    let folder = run.join(FOLDER);
    let path = folder.join(format!("{PREFIX}{:08}", content.state.step));
    let partial = path.with_extension(PARTIAL);
    let write = || {
        storage.create_dir_all(&folder)?;
        if partial.exists() {
            storage.remove_dir_all(&partial)?;
        }
        storage.create_dir_all(&partial)?;
        write_files(storage, &partial, content)?;
        storage.sync_dir(&partial)?;
        if path.exists() {
            replaced(storage, &path)?;
        }
        storage.rename(&partial, &path)?;
        storage.sync_dir(&folder)?;
        storage.sync_dir(run)
    };
    if let Err(error) = write() {
        // That it fails is told; what is left over is removed before the next attempt.
        let _ = storage.remove_dir_all(&partial);
        return Err(error);
    }
    prune(storage, run, keep);
    Ok(path)
}

fn write_files(storage: &dyn Storage, dir: &Path, content: &Content<'_>) -> io::Result<()> {
    let Content { state, info, held: Held { parameters, optimizer, average } } = *content;
    let mut sums = String::new();
    let mut write = |name: &str, content: &mut WriteContent<'_>| {
        let mut hasher = blake3::Hasher::new();
        storage.write_with(&dir.join(name), &mut |out| content(&mut Hashed { out, hasher: &mut hasher }))?;
        sums += &sum_line(name, &hasher.finalize());
        Ok::<(), io::Error>(())
    };
    for file in saved::in_checkpoint(parameters, info) {
        write(&file.name, &mut |out| file.write(out))?;
    }
    if let Some(average) = average {
        write(AVERAGE, &mut |out| write_tensors(out, average.sources()))?;
    }
    write(OPTIMIZER, &mut |out| write_tensors(out, optimizer.sources()))?;
    let manifest =
        Manifest { format: FORMAT, clock: info.clock, state: state.clone(), identity: info.identity.clone() };
    let manifest = serde_json::to_vec_pretty(&manifest).expect("plain values");
    write(STATE, &mut |out| out.write_all(&manifest))?;
    write(CONFIG, &mut |out| out.write_all(info.config.as_bytes()))?;
    storage.write(&dir.join(SUMS), sums.as_bytes())
}

/// Hashes what is written.
struct Hashed<'a> {
    out: &'a mut dyn Write,
    hasher: &'a mut blake3::Hasher,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn sum_line(name: &str, hash: &blake3::Hash) -> String {
    format!("{}  {name}\n", hash.to_hex())
}

/// Gives a checkpoint the name of one that has been replaced, under which it still counts if no other has its step.
fn replaced(storage: &dyn Storage, path: &Path) -> io::Result<PathBuf> {
    let old = path.with_extension(OLD);
    if old.exists() {
        storage.remove_dir_all(&old)?;
    }
    storage.rename(path, &old)?;
    Ok(old)
}

/// Removes all but the last `keep` checkpoints, and what interrupted saves left. What fails is tried again next time.
pub(crate) fn prune(storage: &dyn Storage, run: &Path, keep: usize) {
    let folder = &run.join(FOLDER);
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in entries.filter(|path| path.extension().is_some_and(|e| e == PARTIAL)) {
        let _ = storage.remove_dir_all(&path);
    }
    for (_, path) in steps(folder).into_iter().flatten().skip(keep.max(1)) {
        // Renamed first, so that a part of a checkpoint never has the name of a whole one.
        let _ = replaced(storage, &path).and_then(|old| storage.remove_dir_all(&old));
    }
}

/// Removes all checkpoints of a run folder.
pub(crate) fn remove_all(storage: &dyn Storage, run: &Path) -> io::Result<()> {
    let folder = run.join(FOLDER);
    if folder.exists() { storage.remove_dir_all(&folder) } else { Ok(()) }
}

/// Checkpoints by their names, the newest first. One that was being replaced counts behind the one that replaces it.
fn steps(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let step = |path: &Path| {
        let name = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
        let old = name.strip_suffix(OLD).and_then(|name| name.strip_suffix('.'));
        Some((Reverse(old.unwrap_or(name).parse::<u64>().ok()?), old.is_some()))
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        found.extend(step(&path).map(|key| (key, path)));
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|((Reverse(step), _), path)| (step, path)).collect())
}

/// A checkpoint whose files are as they were written.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    /// The place in the run.
    pub state: State,
    /// What the run is.
    pub identity: Identity,
    /// The time that chat templates saw as now, in seconds since 1970.
    pub clock: i64,
}

/// The newest whole checkpoint of a run folder, and the damaged ones that are newer.
#[derive(Debug, Default)]
pub struct Newest {
    /// `None` if there is no checkpoint that can be used.
    pub checkpoint: Option<Checkpoint>,
    /// Why newer ones cannot be.
    pub damaged: Vec<CheckpointError>,
}

/// The step and folder of the newest checkpoint of a run folder, by its name alone.
pub(crate) fn last_saved(run: &Path) -> Option<(u64, PathBuf)> {
    steps(&run.join(FOLDER)).ok()?.into_iter().next()
}

impl Checkpoint {
    /// Finds the newest checkpoint of the run folder `run` that is as it was written.
    ///
    /// # Errors
    /// A folder that cannot be listed.
    pub fn newest(run: &Path) -> Result<Newest, CheckpointError> {
        let folder = run.join(FOLDER);
        let steps = steps(&folder).map_err(|e| CheckpointError::new(&folder, format!("cannot list: {e}")))?;
        let mut newest = Newest::default();
        for (_, path) in steps {
            match Checkpoint::open(&path) {
                Ok(checkpoint) => {
                    newest.checkpoint = Some(checkpoint);
                    break;
                }
                Err(error) => newest.damaged.push(error),
            }
        }
        Ok(newest)
    }

    /// Opens the checkpoint in `dir`: checks every file against its hash, and reads the state.
    ///
    /// # Errors
    /// A file that is missing or not as it was written.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        verify(dir)?;
        let path = dir.join(STATE);
        // The hash is right, so that only another version of lorafit writes what cannot be read.
        Checkpoint::from_state(dir, &read_small(&path)?)
    }

    /// The checkpoint in `dir` whose `state.json` is `text`; its files are not looked at.
    ///
    /// # Errors
    /// Text that is no state of this version.
    pub fn from_state(dir: &Path, text: &[u8]) -> Result<Self, CheckpointError> {
        let fail = |problem: String| CheckpointError::new(&dir.join(STATE), problem);
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version = serde_json::from_slice(text).map_err(|e| fail(format!("not a state: {e}")))?;
        if version.format != FORMAT {
            let problem = format!("format {}, this lorafit reads format {FORMAT}", version.format);
            return Err(fail(problem));
        }
        let Manifest { clock, state, identity, .. } =
            serde_json::from_slice(text).map_err(|e| fail(format!("not a state: {e}")))?;
        match state.counts().into_iter().find(|count| *count > MOST) {
            Some(count) => Err(fail(format!("not a state: no run has counted to {count}"))),
            None => Ok(Checkpoint { dir: dir.to_owned(), state, identity, clock }),
        }
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its adapter.
    ///
    /// # Errors
    /// An adapter of another model.
    pub fn adapter(&self, config: &Config, device: Device) -> Result<Adapter, FileError> {
        adapter::load(&self.dir, config, device)
    }

    /// What its adapter calls the base model, as a run was told it: with the revision behind `@`. `None` if it has no
    /// adapter.
    pub fn base_model(&self) -> Option<String> {
        let text = read_small(&self.dir.join(adapter::CONFIG_FILE)).ok()?;
        let json: serde_json::Value = serde_json::from_slice(&text).ok()?;
        let name = json.get("base_model_name_or_path")?.as_str()?;
        Some(match json.get("revision").and_then(serde_json::Value::as_str) {
            Some(revision) => format!("{name}@{revision}"),
            None => name.to_owned(),
        })
    }

    /// Its weights, into a model in which the same ones are trained.
    ///
    /// # Errors
    /// Weights of another model, or an adapter instead.
    pub fn restore_weights(&self, model: &mut Model) -> Result<(), CheckpointError> {
        let path = self.dir.join(saved::TRAINED);
        let restored = TensorReader::open(&path).and_then(|mut file| model.restore_trained(&mut file));
        restored.map_err(|problem| CheckpointError::new(&path, problem))
    }

    /// Its average, into one of its parameters; a run that was begun without one has none to give.
    ///
    /// # Errors
    /// An average of other parameters.
    pub(crate) fn restore_average(&self, average: &mut Average) -> Result<(), CheckpointError> {
        let path = self.dir.join(AVERAGE);
        if !path.exists() {
            return Ok(());
        }
        let restored =
            TensorReader::open(&path).and_then(|mut file| average.restore(&mut file, self.state.averaged));
        restored.map_err(|problem| CheckpointError::new(&path, problem))
    }

    /// Its moments, into an optimizer made for its parameters.
    ///
    /// # Errors
    /// Moments of other parameters or kept otherwise.
    pub fn restore(&self, optimizer: &mut AdamW) -> Result<(), CheckpointError> {
        let path = self.dir.join(OPTIMIZER);
        let restored =
            TensorReader::open(&path).and_then(|mut file| optimizer.restore(&mut file, self.state.updates));
        restored.map_err(|problem| CheckpointError::new(&path, problem))
    }
}

/// Gives damaged checkpoints another name, so that they are kept for a look and not taken for checkpoints.
pub(crate) fn set_aside(storage: &dyn Storage, damaged: &[CheckpointError]) -> io::Result<()> {
    for error in damaged {
        let dir = error.path.ancestors().find(|dir| {
            dir.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PREFIX))
        });
        if let Some(dir) = dir.filter(|dir| dir.exists()) {
            let aside = dir.with_extension(CORRUPT);
            if aside.exists() {
                storage.remove_dir_all(&aside)?;
            }
            storage.rename(dir, &aside)?;
        }
    }
    Ok(())
}

/// Compares `BLAKE3SUMS` with what the files hash to; both have to be the same text.
fn verify(dir: &Path) -> Result<(), CheckpointError> {
    let sums = read_small(&dir.join(SUMS))?;
    let written: Vec<&[u8]> = sums.split_inclusive(|b| *b == b'\n').collect();
    let average = Some(AVERAGE).filter(|name| dir.join(name).exists());
    let names = || saved::names(dir).iter().copied().chain(average).chain(FILES);
    for (i, name) in names().enumerate() {
        let path = dir.join(name);
        let mut hasher = blake3::Hasher::new();
        let most = if name.ends_with(".safetensors") { u64::MAX } else { MAX_SMALL_BYTES };
        let fail = |e: io::Error| CheckpointError::new(&path, format!("cannot read: {e}"));
        let file = open(&path).map_err(fail)?;
        if file.metadata().map_err(fail)?.len() > most {
            return Err(too_large(&path, most));
        }
        hasher.update_reader(file).map_err(fail)?;
        if written.get(i) != Some(&sum_line(name, &hasher.finalize()).as_bytes()) {
            return Err(CheckpointError::new(
                &path,
                format!("not as it was written: its hash is not in {SUMS}"),
            ));
        }
    }
    match written.len() == names().count() {
        true => Ok(()),
        false => Err(CheckpointError::new(&dir.join(SUMS), "it has more lines than there are files")),
    }
}

/// Opens a plain file: a pipe could keep silent, and a device have no end.
fn open(path: &Path) -> io::Result<File> {
    match fs::metadata(path)?.is_file() {
        true => File::open(path),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file")),
    }
}

fn too_large(path: &Path, most: u64) -> CheckpointError {
    CheckpointError::new(path, format!("more than the {most} bytes it can have"))
}

fn read_small(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    let mut bytes = Vec::new();
    let read = open(path).and_then(|file| file.take(MAX_SMALL_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Err(e) => Err(CheckpointError::new(path, format!("cannot read: {e}"))),
        Ok(read) if read as u64 > MAX_SMALL_BYTES => Err(too_large(path, MAX_SMALL_BYTES)),
        Ok(_) => Ok(bytes),
    }
}
