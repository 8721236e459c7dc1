//! A run that was stopped, killed or short of disk space goes on as if nothing had happened.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use lorafit_data::{Origin, Report, Sample, SampleRef, Samples, Shape};
use lorafit_model::adapter::{Adapter, LoraConfig, TokenIndices};
use lorafit_model::{Model, WeightSelection};
use serde_json::Value;
use tempfile::TempDir;

use super::tests::{Draws, Fixture, fixture};
use super::*;
use crate::checkpoint::Content;
use crate::lock::RunLock;
use crate::optim::AdamW;
use crate::run_info::RunInfo;
use crate::storage::Storage;
use crate::storage::faulty::{Fault, Faulty};

pub(super) fn dataset(samples: Samples) -> Dataset {
    let tokens = samples.iter().map(SampleRef::len).sum();
    let supervised_tokens = samples.iter().map(SampleRef::supervised_tokens).sum();
    let report = Report {
        shapes: vec![Shape::Text],
        rows: samples.len(),
        samples: samples.len(),
        tokens,
        supervised_tokens,
        longest: samples.iter().map(SampleRef::len).max().unwrap_or(0),
        ..Report::default()
    };
    Dataset { samples, report, origin: Origin::default() }
}

/// A run of nine steps over three epochs of eleven rows: shuffled, dropout, accumulation, a partial last step, an
/// evaluation every second step, a checkpoint every fourth; two micro-batches at the same time.
pub(super) struct Case {
    pub(super) model: Model,
    pub(super) lora: LoraConfig,
    /// The weights that are trained instead of an adapter, if any are.
    pub(super) weights: Option<WeightSelection>,
    pub(super) data: Dataset,
    pub(super) held_out: Dataset,
    pub(super) options: TrainOptions,
    /// Where the outputs of frozen blocks are kept, if anywhere.
    pub(super) frozen: Option<FrozenCache>,
}

impl Case {
    pub(super) fn new(optimizer: OptimizerKind) -> Self {
        let model = fixture("llama").model;
        let rank = match optimizer {
            OptimizerKind::AdamW => 8,
            // Wide enough for tensors of 4096 parameters, the smallest that are kept in 8 bits.
            OptimizerKind::AdamW8bit => 128,
        };
        let targets = "all-linear".parse().expect("targets");
        let lora = LoraConfig { rank, dropout: 0.1, ..LoraConfig::new(targets) };
        let options = TrainOptions {
            batch_size: 2,
            gradient_accumulation: 2,
            micro_batch_tokens: 48,
            micro_batches_at_once: 2,
            optimizer,
            schedule: ScheduleKind::Cosine,
            warmup_ratio: Some(0.2),
            weight_decay: 0.01,
            max_grad_norm: Some(1.0),
            order: Order::Shuffled { seed: 3 },
            seed: 5,
            eval_every: Some(2),
            checkpoint_every: CheckpointEvery::Steps(4),
            keep_checkpoints: 2,
            ..TrainOptions::plain(Duration::Epochs(3.0), 5e-3)
        };
        let (data, held_out) = (dataset(Draws(1).tree(11)), dataset(Draws(2).tree(5)));
        Case { model, lora, weights: None, data, held_out, options, frozen: None }
    }

    /// The run with an adapter, and one that trains weights of the upper block and the head.
    pub(super) fn of_both(optimizer: OptimizerKind) -> [Self; 2] {
        let modules = r"regex:model\.layers\.1\..*|model\.norm|lm_head".parse().expect("modules");
        let weights = Some(WeightSelection { modules, layers: None });
        [Case::new(optimizer), Case { weights, ..Case::new(optimizer) }]
    }

    /// Trains in `dir`, from the newest checkpoint there if there is one.
    pub(super) fn train(&self, dir: &Path, observer: &mut dyn Observer) -> Result<Summary, TrainError> {
        self.train_among(dir, &ALONE, observer)
    }

    /// As one of a group of processes.
    pub(super) fn train_among(
        &self,
        dir: &Path,
        group: &dyn ProcessGroup,
        observer: &mut dyn Observer,
    ) -> Result<Summary, TrainError> {
        let lock = group.is_first().then(|| RunLock::take(dir)).transpose()?;
        let newest = Checkpoint::newest(dir).map_err(RunError::from)?;
        // All have read the checkpoint before one may be written.
        group.gather(b"")?;
        let mut run = match (lock, &newest.checkpoint) {
            (Some(lock), Some(found)) => {
                RunFolder::resume(lock, RunInfo::default(), &found.state, &newest.damaged)?
            }
            (Some(lock), None) => RunFolder::create(lock, RunInfo::default())?,
            (None, _) => RunFolder::of_another(dir, RunInfo::default()),
        };
        self.train_in(&mut run, Start { checkpoint: newest.checkpoint.as_ref(), group }, observer)
    }

    fn train_in(
        &self,
        run: &mut RunFolder,
        start: Start<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Summary, TrainError> {
        let checkpoint = start.checkpoint;
        let data = TrainData {
            training: &self.data,
            evaluation: Some(&self.held_out),
            reference: None,
            cache: None,
            frozen: self.frozen.as_ref(),
        };
        if let Some(weights) = &self.weights {
            let mut model = fixture("llama").model;
            model.train(weights).expect("fits");
            checkpoint.map_or(Ok(()), |c| c.restore_weights(&mut model)).map_err(RunError::from)?;
            let mut parameters = Parameters::Weights(&mut model);
            return train(&mut parameters, data, &self.options, start, run, observer);
        }
        let (config, device) = (self.model.config(), self.model.device());
        let mut adapter = match checkpoint {
            Some(checkpoint) => checkpoint.adapter(config, device).map_err(RunError::from)?,
            None => Adapter::init(config, &self.lora, 7, device).expect("fits"),
        };
        let mut parameters = Parameters::Adapter { model: &self.model, adapter: &mut adapter };
        train(&mut parameters, data, &self.options, start, run, observer)
    }

    /// What an uninterrupted run leaves.
    pub(super) fn whole(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let dir = TempDir::new().expect("a folder");
        self.train(dir.path(), &mut StopAt::never()).expect("trains");
        content(dir.path())
    }
}

/// Every file of a run folder but the lock, the records without what depends on time and memory.
pub(super) fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).expect("lists").map(|entry| entry.expect("lists").path()) {
            let name = path.strip_prefix(dir).expect("below").to_owned();
            match path.extension().and_then(|e| e.to_str()) {
                _ if path.is_dir() => folders.push(path),
                _ if name.ends_with("lock") => {}
                Some("jsonl") => drop(files.insert(name, timeless(&path))),
                _ => drop(files.insert(name, fs::read(&path).expect("reads"))),
            }
        }
    }
    files
}

fn timeless(path: &Path) -> Vec<u8> {
    let line = |line: &str| {
        let mut record: serde_json::Map<String, Value> = serde_json::from_str(line).expect("a whole record");
        record
            .retain(|key, _| !["seconds", "tokens_per_s", "peak_rss_bytes", "reduction"].contains(&&key[..]));
        Value::Object(record).to_string()
    };
    fs::read_to_string(path).expect("reads").lines().map(line).collect::<Vec<_>>().join("\n").into_bytes()
}

pub(super) fn assert_same(
    found: &BTreeMap<PathBuf, Vec<u8>>,
    expected: &BTreeMap<PathBuf, Vec<u8>>,
    what: &str,
) {
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{what}");
    for (name, bytes) in found {
        assert!(*bytes == expected[name], "{what}: {} differs", name.display());
    }
}

/// Stops when it is asked for the `left`-th time; keeps what it is told.
pub(super) struct StopAt {
    left: Option<usize>,
    skipped: Vec<SkipRecord>,
    restarts: Vec<(u64, u64)>,
    pub(super) warnings: usize,
}

impl StopAt {
    pub(super) fn ask(number: usize) -> Self {
        StopAt { left: Some(number), ..StopAt::never() }
    }

    pub(super) fn never() -> Self {
        StopAt { left: None, skipped: Vec::new(), restarts: Vec::new(), warnings: 0 }
    }
}

impl Observer for StopAt {
    fn on_step(&mut self, _: &StepRecord, _: u64) {}
    fn on_evaluation(&mut self, _: &EvaluationRecord) {}
    fn should_stop(&mut self) -> bool {
        let Some(left) = &mut self.left else { return false };
        let stop = *left == 0;
        *left = left.saturating_sub(1);
        stop
    }
    fn on_skip(&mut self, record: &SkipRecord) {
        self.skipped.push(record.clone());
    }
    fn on_restart(&mut self, step: u64, total_steps: u64, _reason: RestartReason) {
        self.restarts.push((step, total_steps));
    }

    fn on_warning(&mut self, _: &RunError) {
        self.warnings += 1;
    }
}

/// Stopped wherever a run can be stopped: after every step and before every micro-batch of every evaluation.
#[test]
fn resume_reproduces_the_uninterrupted_run_from_every_place() {
    for case in [OptimizerKind::AdamW, OptimizerKind::AdamW8bit].into_iter().flat_map(Case::of_both) {
        let expected = case.whole();
        let mut stops = 0;
        for place in 0.. {
            let dir = TempDir::new().expect("a folder");
            let first = case.train(dir.path(), &mut StopAt::ask(place)).expect("trains");
            if !first.interrupted {
                break;
            }
            stops += 1;
            let second = case.train(dir.path(), &mut StopAt::never()).expect("trains");
            assert!(!second.interrupted && second.steps == 9);
            let what = format!("{:?}, {:?}, stopped at {place}", case.weights, case.options.optimizer);
            assert_same(&content(dir.path()), &expected, &what);
        }
        assert!(stops > 9 + 5, "{stops} places");
    }
}

/// Early stopping and the average go on, too: what evaluations have seen and what was added up is in the checkpoint. Noise is of
/// the step.
#[test]
fn resume_reproduces_a_run_with_everything_that_has_a_memory() {
    for mut case in Case::of_both(OptimizerKind::AdamW) {
        // No loss falls by as much: the evaluation after step 2 is the last that counts.
        case.options.patience = Some(Patience { evaluations: 2, min_delta: 100.0 });
        case.options.averaging = Some(Averaging::Ema(0.75));
        case.options.neftune_alpha = Some(5.0);
        case.options.label_smoothing = 0.1;
        // Of those before the last one, some are of where the run was stopped.
        case.options.keep_checkpoints = 1;
        let dir = TempDir::new().expect("a folder");
        let whole = case.train(dir.path(), &mut StopAt::never()).expect("trains");
        let stopped =
            StoppedEarly { step: 6, total_steps: 9, evaluations: 2, min_delta: 100.0, by: BestBy::Loss };
        assert_eq!((whole.steps, whole.interrupted, whole.stopped_early), (6, false, Some(stopped)));
        assert_eq!(whole.verdict.expect("a verdict").stopped_early, Some(stopped));
        let averaged = whole.average.expect("an average");
        assert_eq!(averaged.steps, 6);
        let loss = averaged.evaluation.expect("held-out rows").loss;
        assert!(loss.is_finite() && Some(loss) != whole.evaluation.map(|last| last.loss));
        let expected = content(dir.path());
        assert!(expected.contains_key(Path::new("average/evaluation.json")));
        for place in 0.. {
            let dir = TempDir::new().expect("a folder");
            if !case.train(dir.path(), &mut StopAt::ask(place)).expect("trains").interrupted {
                break;
            }
            assert!(!dir.path().join("average").exists(), "of no run that was interrupted");
            let second = case.train(dir.path(), &mut StopAt::never()).expect("trains");
            assert_eq!((second.steps, second.stopped_early), (6, Some(stopped)));
            assert_same(&content(dir.path()), &expected, &format!("{:?}, stopped at {place}", case.weights));
        }
    }
}

/// A run goes on in rounds of 3, 6 and 12 steps while what it is judged by falls; the last steps are those of its last round, and early
/// stopping begins anew with each.
#[test]
fn resume_reproduces_a_run_that_is_restarted() {
    let mut case = Case::new(OptimizerKind::AdamW);
    case.held_out = dataset(Draws(1).tree(11));
    case.options.duration = Duration::Epochs(1.0);
    case.options.eval_every = Some(3);
    case.options.start_loss = StartLoss::Measured;
    case.options.restarts = 2;
    case.options.averaging = Some(Averaging::Last(4));
    case.options.patience = Some(Patience { evaluations: 3, min_delta: 0.0 });
    let dir = TempDir::new().expect("a folder");
    let mut observer = StopAt::never();
    let whole = case.train(dir.path(), &mut observer).expect("trains");
    assert_eq!(observer.restarts, [(3, 9), (9, 21)]);
    assert_eq!((whole.steps, whole.stopped_early), (21, None));
    assert_eq!(whole.average.expect("an average").steps, 4);
    let history = RunHistory::read(dir.path()).expect("reads");
    let rates: Vec<f64> = history.steps.iter().map(|step| step.learning_rate).collect();
    let round = |steps| {
        let schedule = case.options.schedule_over(steps);
        (1..=steps).map(move |step| schedule.rate(step))
    };
    let expected: Vec<f64> = [3, 6, 12].into_iter().flat_map(round).collect();
    assert_eq!(rates, expected);
    let expected = content(dir.path());
    for place in 0.. {
        let dir = TempDir::new().expect("a folder");
        if !case.train(dir.path(), &mut StopAt::ask(place)).expect("trains").interrupted {
            break;
        }
        let second = case.train(dir.path(), &mut StopAt::never()).expect("trains");
        assert_eq!(second.steps, 21);
        assert_same(&content(dir.path()), &expected, &format!("stopped at {place}"));
    }
}

/// The average of the last steps is that of the adapters after them.
#[test]
fn the_average_of_the_last_steps_is_theirs() {
    let mut case = Case::new(OptimizerKind::AdamW);
    case.options.averaging = Some(Averaging::Last(3));
    (case.options.checkpoint_every, case.options.keep_checkpoints) = (CheckpointEvery::Steps(1), 9);
    let dir = TempDir::new().expect("a folder");
    assert_eq!(case.train(dir.path(), &mut StopAt::never()).expect("trains").average.expect("one").steps, 3);
    let values = |folder: &str| -> Vec<f32> {
        let (config, device) = (case.model.config(), case.model.device());
        let adapter = lorafit_model::adapter::load(&dir.path().join(folder), config, device).expect("loads");
        adapter.tensors().flat_map(|tensor| tensor.to_vec(tensor.len())).collect()
    };
    let last = [7, 8, 9].map(|step| values(&format!("checkpoints/step-{step:08}")));
    for (i, found) in values("average").iter().enumerate() {
        let expected = last.iter().map(|values| f64::from(values[i])).sum::<f64>() / 3.0;
        assert!((f64::from(*found) - expected).abs() < 1e-6, "value {i}: {found}, expected {expected}");
    }
}

/// Stopped again and again: every start gets one step further, or a part of an evaluation.
#[test]
fn a_run_resumed_at_every_step_is_the_uninterrupted_one() {
    let case = Case::new(OptimizerKind::AdamW);
    let dir = TempDir::new().expect("a folder");
    // Four questions are more than an evaluation and a step ask, so that every start gets further.
    let runs =
        (0..100).take_while(|_| case.train(dir.path(), &mut StopAt::ask(4)).expect("trains").interrupted);
    assert!(runs.count() > 3);
    assert_same(&content(dir.path()), &case.whole(), "many stops");
}

/// A checkpoint has magnitudes and what they are divided by is computed from it.
#[test]
fn magnitudes_are_resumed_with_their_bits() {
    let plain = Case::new(OptimizerKind::AdamW);
    let case = Case { lora: LoraConfig { use_dora: true, dropout: 0.0, ..plain.lora.clone() }, ..plain };
    let expected = case.whole();
    for place in [0, 4, 9, 13] {
        let dir = TempDir::new().expect("a folder");
        assert!(case.train(dir.path(), &mut StopAt::ask(place)).expect("trains").interrupted);
        assert!(!case.train(dir.path(), &mut StopAt::never()).expect("trains").interrupted);
        assert_same(&content(dir.path()), &expected, &format!("stopped at {place}"));
    }
}

/// A checkpoint has the copies of weights that are trained whole.
#[test]
fn whole_weights_are_resumed_with_their_bits() {
    for (modules, ensure_weight_tying) in [("embed_tokens,lm_head,norm", false), ("embed_tokens", true)] {
        let plain = Case::new(OptimizerKind::AdamW);
        let save_modules = modules.split(',').map(str::to_owned).collect();
        let case =
            Case { lora: LoraConfig { save_modules, ensure_weight_tying, ..plain.lora.clone() }, ..plain };
        let expected = case.whole();
        for place in [0, 4, 9, 13] {
            let dir = TempDir::new().expect("a folder");
            assert!(case.train(dir.path(), &mut StopAt::ask(place)).expect("trains").interrupted);
            assert!(!case.train(dir.path(), &mut StopAt::never()).expect("trains").interrupted);
            assert_same(&content(dir.path()), &expected, &format!("{modules}, stopped at {place}"));
        }
    }
}

/// A checkpoint has the rows of tokens, and what they began with is computed once.
#[test]
fn rows_of_tokens_are_resumed_with_their_bits() {
    let plain = Case::new(OptimizerKind::AdamW);
    let tokens = TokenIndices::of_both_sides(plain.model.config(), &[7, 3, 11]).with_start(11, vec![4, 5]);
    let case = Case { lora: LoraConfig { tokens, ..plain.lora.clone() }, ..plain };
    let expected = case.whole();
    for place in [0, 4, 9, 13] {
        let dir = TempDir::new().expect("a folder");
        assert!(case.train(dir.path(), &mut StopAt::ask(place)).expect("trains").interrupted);
        assert!(!case.train(dir.path(), &mut StopAt::never()).expect("trains").interrupted);
        assert_same(&content(dir.path()), &expected, &format!("stopped at {place}"));
    }
}

#[test]
fn factors_of_embedding_and_head_are_resumed_with_their_bits() {
    let plain = Case::new(OptimizerKind::AdamW);
    let targets = "q_proj,lm_head,embed_tokens".parse().expect("targets");
    let case = Case { lora: LoraConfig { dropout: 0.0, ..LoraConfig::new(targets) }, ..plain };
    let expected = case.whole();
    for place in [0, 4, 9, 13] {
        let dir = TempDir::new().expect("a folder");
        assert!(case.train(dir.path(), &mut StopAt::ask(place)).expect("trains").interrupted);
        assert!(!case.train(dir.path(), &mut StopAt::never()).expect("trains").interrupted);
        assert_same(&content(dir.path()), &expected, &format!("stopped at {place}"));
    }
}

/// The bits do not depend on the number of threads, so that a run may go on with another.
#[test]
fn a_run_resumed_on_other_threads_is_the_uninterrupted_one() {
    let case = Case::new(OptimizerKind::AdamW);
    let dir = TempDir::new().expect("a folder");
    let on = |threads: usize, stop: Option<usize>| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| {
            case.train(dir.path(), &mut StopAt { left: stop, ..StopAt::never() }).expect("trains")
        })
    };
    assert!(on(1, Some(8)).interrupted);
    assert!(!on(3, None).interrupted);
    assert_same(&content(dir.path()), &case.whole(), "other threads");
}

#[test]
fn a_damaged_newest_checkpoint_is_reported_and_the_one_before_used() {
    let case = Case::new(OptimizerKind::AdamW);
    let dir = TempDir::new().expect("a folder");
    case.train(dir.path(), &mut StopAt::never()).expect("trains");
    let newest = dir.path().join("checkpoints/step-00000009");
    let file = newest.join("optimizer.safetensors");
    let mut bytes = fs::read(&file).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).expect("writes");

    let found = Checkpoint::newest(dir.path()).expect("lists");
    assert_eq!(found.checkpoint.expect("the one before").state.step, 8);
    assert!(
        found.damaged[0].to_string().contains("step-00000009/optimizer.safetensors"),
        "{:?}",
        found.damaged
    );
    case.train(dir.path(), &mut StopAt::never()).expect("trains");
    assert!(newest.with_extension("corrupt").exists());
    fs::remove_dir_all(newest.with_extension("corrupt")).expect("removes");
    assert_same(&content(dir.path()), &case.whole(), "from the one before");
}

#[test]
fn every_damage_of_a_checkpoint_is_found() {
    let [adapter, weights] = Case::of_both(OptimizerKind::AdamW);
    find_every_damage(&adapter, 6);
    find_every_damage(&weights, 5);
}

fn find_every_damage(case: &Case, files_expected: usize) {
    let dir = TempDir::new().expect("a folder");
    case.train(dir.path(), &mut StopAt::ask(4)).expect("trains");
    let checkpoint = Checkpoint::newest(dir.path()).expect("lists").checkpoint.expect("one");
    let files: Vec<PathBuf> =
        fs::read_dir(checkpoint.dir()).expect("lists").map(|entry| entry.expect("lists").path()).collect();
    assert_eq!(files.len(), files_expected);
    let mut draws = Draws(11);
    let damage = |file: &Path, damaged: &[u8], what: &str| {
        let whole = fs::read(file).expect("reads");
        fs::write(file, damaged).expect("writes");
        assert!(Checkpoint::open(checkpoint.dir()).is_err(), "{}: {what} was not found", file.display());
        fs::write(file, whole).expect("writes");
    };
    for flip in 0..1000 {
        // Half of the flips in the small files, which are read and not only hashed.
        let small: Vec<&PathBuf> = files
            .iter()
            .filter(|f| flip % 2 == 0 || fs::metadata(f).expect("there").len() < 10_000)
            .collect();
        let file = small[draws.below(small.len())];
        let mut bytes = fs::read(file).expect("reads");
        if bytes.is_empty() {
            continue;
        }
        let at = draws.below(bytes.len());
        bytes[at] ^= 1 << draws.below(8);
        damage(file, &bytes, &format!("byte {at}"));
    }
    for file in &files {
        let bytes = fs::read(file).expect("reads");
        damage(file, &[&bytes[..], b"x"].concat(), "a byte more");
        if !bytes.is_empty() {
            damage(file, &bytes[..bytes.len() - 1], "a byte less");
            damage(file, b"", "an empty file");
        }
        fs::remove_file(file).expect("removes");
        assert!(Checkpoint::open(checkpoint.dir()).is_err(), "{} is missing", file.display());
        fs::write(file, bytes).expect("writes");
    }
    Checkpoint::open(checkpoint.dir()).expect("whole again");
}

/// Saves step 2 beside step 1, and step 2 again over itself, with a fault at every operation in turn.
#[test]
fn a_save_interrupted_at_every_operation_leaves_the_old_checkpoint_or_the_new() {
    let Fixture { model, mut adapter } = fixture("llama");
    let parameters = Parameters::Adapter { model: &model, adapter: &mut adapter };
    let optimizer = AdamW::new(&parameters, OptimizerKind::AdamW, 0.0, 1.0);
    let save = |storage: &dyn Storage, dir: &Path, step: u64, evaluated: Option<u64>| {
        let state = State { step, evaluated, ..State::default() };
        let held = Held { parameters: &parameters, optimizer: &optimizer, average: None };
        checkpoint::save(storage, dir, 1, &Content { state: &state, info: &RunInfo::default(), held })
    };
    let kinds =
        [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::ReadOnlyFilesystem, ErrorKind::Other];
    let mut faults: Vec<Fault> = kinds.map(|kind| Fault::Fails(kind, 0)).into();
    faults.extend([Fault::Fails(ErrorKind::StorageFull, 1000), Fault::Crash]);
    for fault in faults {
        for step in [2, 1] {
            let mut interrupted = 0;
            for at in 0.. {
                let dir = TempDir::new().expect("a folder");
                save(&crate::storage::Disk, dir.path(), 1, None).expect("saves");
                let disk = Faulty::new(at, fault);
                let result = save(&disk, dir.path(), step, Some(1));
                let what = format!("{fault:?} at operation {at}, step {step}");
                let newest = Checkpoint::newest(dir.path()).expect("lists");
                let found = newest.checkpoint.unwrap_or_else(|| panic!("{what}: no checkpoint"));
                assert!(newest.damaged.is_empty(), "{what}: {:?}", newest.damaged);
                found.adapter(model.config(), model.device()).expect("loads");
                let new = found.state == State { step, evaluated: Some(1), ..State::default() };
                let old = found.state == State { step: 1, ..State::default() };
                assert!(if result.is_ok() { new } else { new || old }, "{what}: {:?}", found.state);
                // Whatever was left over does not disturb the next save.
                save(&crate::storage::Disk, dir.path(), 3, None).expect("saves");
                let folder = dir.path().join("checkpoints");
                let names: Vec<_> = fs::read_dir(folder)
                    .expect("lists")
                    .map(|entry| entry.expect("lists").file_name())
                    .collect();
                assert_eq!(names, ["step-00000003"], "{what}");
                if !disk.was_met() {
                    break;
                }
                interrupted += 1;
            }
            assert!(interrupted > 20, "{fault:?}: {interrupted} operations");
        }
    }
}

/// A whole run on a disk that is full for a while, at every operation in turn: it ends well with everything saved, or
/// with the error of its last save; a checkpoint that was saved stays.
#[test]
fn a_run_goes_on_when_the_disk_is_full_for_a_while() {
    let mut case = Case::new(OptimizerKind::AdamW);
    let options = &mut case.options;
    (options.duration, options.checkpoint_every) = (Duration::Epochs(1.0), CheckpointEvery::Steps(1));
    let expected = case.whole();
    let (mut well, mut ill) = (0, 0);
    for at in 0.. {
        let dir = TempDir::new().expect("a folder");
        let disk = Faulty::new(at, Fault::Fails(ErrorKind::StorageFull, 2));
        let lock = RunLock::take(dir.path()).expect("free");
        let mut observer = StopAt::never();
        let result = RunFolder::create_on(Box::new(disk.clone()), lock, RunInfo::default())
            .map_err(TrainError::from)
            .and_then(|mut run| case.train_in(&mut run, Start::default(), &mut observer));
        let what = format!("full at operation {at}");
        match result {
            Ok(_) => {
                well += 1;
                let found = content(dir.path());
                // A best adapter that could not be saved is no best one in the records.
                let told = ["metrics.jsonl", "adapter_model.safetensors"].map(PathBuf::from);
                let names =
                    if observer.warnings > 0 { told.to_vec() } else { expected.keys().cloned().collect() };
                for name in names {
                    assert!(found.get(&name) == expected.get(&name), "{what}: {} differs", name.display());
                }
            }
            Err(error) => {
                ill += 1;
                assert!(matches!(error, TrainError::Run(_)), "{what}: {error}");
                let newest = Checkpoint::newest(dir.path()).expect("lists");
                assert!(newest.damaged.is_empty(), "{what}: {:?}", newest.damaged);
                let partial = dir.path().join("checkpoints/step-00000003.partial");
                assert!(!partial.exists(), "{what}: the temporary folder is left");
            }
        }
        if !disk.was_met() {
            break;
        }
    }
    assert!(well > 40 && ill > 10, "{well} runs ended well, {ill} with an error");
}

thread_local! {
    /// Steps whose loss or gradient is to come out wrong.
    static SPOILED: std::cell::RefCell<Vec<(u64, Culprit)>> = const { std::cell::RefCell::new(Vec::new()) };
}

fn spoil(steps: &[(u64, Culprit)]) {
    SPOILED.with_borrow_mut(|spoiled| *spoiled = steps.to_vec());
}

/// `value`, or what a test asked for in its place.
pub(super) fn spoiled(step: u64, culprit: Culprit, value: f64) -> f64 {
    if SPOILED.with_borrow(|spoiled| spoiled.contains(&(step, culprit))) { f64::NAN } else { value }
}

#[test]
fn what_is_not_finite_stops_the_run_before_it_is_saved() {
    let case = Case::new(OptimizerKind::AdamW);
    for culprit in [Culprit::Loss, Culprit::GradientNorm] {
        let dir = TempDir::new().expect("a folder");
        spoil(&[(6, culprit)]);
        let Err(TrainError::NonFinite(refusal)) = case.train(dir.path(), &mut StopAt::never()) else {
            panic!("the run went on")
        };
        assert_eq!((refusal.step, refusal.culprit, refusal.lines.len()), (6, culprit, 3));
        assert_eq!(Checkpoint::newest(dir.path()).expect("lists").checkpoint.expect("one").state.step, 5);
        // The cause is gone: it goes on from before the step, and nothing of it is left.
        spoil(&[]);
        case.train(dir.path(), &mut StopAt::never()).expect("trains");
        let metrics = Path::new("metrics.jsonl");
        assert_eq!(content(dir.path())[metrics], case.whole()[metrics]);
    }
}

#[test]
fn skipped_steps_are_counted_named_and_resumed() {
    let mut case = Case::new(OptimizerKind::AdamW);
    case.options.on_nan = OnNan::Skip;
    spoil(&[(2, Culprit::Loss), (5, Culprit::GradientNorm), (6, Culprit::Loss)]);
    let whole = TempDir::new().expect("a folder");
    let mut observer = StopAt::never();
    let summary = case.train(whole.path(), &mut observer).expect("trains");
    assert_eq!((summary.steps, summary.skipped), (9, 3));
    assert_eq!(observer.skipped.iter().map(|s| s.step).collect::<Vec<_>>(), [2, 5, 6]);
    assert!(observer.skipped.iter().all(|s| s.value == "NaN" && !s.lines.is_empty()));
    let expected = content(whole.path());
    assert_eq!(expected[Path::new("metrics.jsonl")].split(|b| *b == b'\n').count(), 9);
    for place in [3, 8, 11, 14] {
        let dir = TempDir::new().expect("a folder");
        assert!(case.train(dir.path(), &mut StopAt::ask(place)).expect("trains").interrupted);
        case.train(dir.path(), &mut StopAt::never()).expect("trains");
        assert_same(&content(dir.path()), &expected, &format!("stopped at {place}"));
    }

    spoil(&[3, 4, 5, 6, 7].map(|step| (step, Culprit::Loss)));
    let dir = TempDir::new().expect("a folder");
    let Err(TrainError::Diverged(divergence)) = case.train(dir.path(), &mut StopAt::never()) else {
        panic!("five in a row are too many")
    };
    assert_eq!((divergence.step, divergence.refusal.as_ref().map(|refusal| refusal.step)), (6, Some(7)));
    spoil(&[]);
}

/// The loss of the step after it is no number either: what was trained is to blame, and no checkpoint can go on from it.
#[test]
fn a_run_that_diverged_keeps_its_earlier_checkpoints_and_has_a_verdict() {
    let case = Case::new(OptimizerKind::AdamW);
    let dir = TempDir::new().expect("a folder");
    spoil(&[(6, Culprit::Loss), (7, Culprit::GradientNorm)]);
    let Err(error) = case.train(dir.path(), &mut StopAt::never()) else { panic!("the run went on") };
    spoil(&[]);
    let TrainError::Diverged(divergence) = &error else { panic!("{error:?}") };
    assert_eq!((divergence.step, divergence.refusal.as_ref().map(|refusal| refusal.step)), (5, Some(6)));
    assert_eq!(Checkpoint::newest(dir.path()).expect("lists").checkpoint.expect("one").state.step, 4);
    let history = RunHistory::read(dir.path()).expect("reads");
    let written = history.verdict.expect("a verdict");
    assert_eq!(written.outcome, crate::Outcome::Diverged);
    assert!(written.to.is_nan() && written.from.is_finite(), "{written:?}");
    assert_eq!(error.verdict().expect("a verdict").from, written.from);
    assert_eq!(divergence.best, Some((Setting::Adapter, RunFolder::best_dir(dir.path()))));
    let hint = error.hint().expect("a hint").to_string();
    assert!(!hint.contains("resume") && hint.contains("lower lr") && hint.contains("best"), "{hint}");
}

/// Before the first update nothing can have diverged.
#[test]
fn a_first_step_that_is_not_finite_is_no_verdict_on_the_run() {
    let mut case = Case::new(OptimizerKind::AdamW);
    for on_nan in [OnNan::Stop, OnNan::Skip] {
        case.options.on_nan = on_nan;
        let dir = TempDir::new().expect("a folder");
        spoil(&[1, 2, 3, 4, 5].map(|step| (step, Culprit::Loss)));
        let error = case.train(dir.path(), &mut StopAt::never()).expect_err("the run went on");
        spoil(&[]);
        assert!(matches!(error, TrainError::NonFinite(_)), "{error:?}");
        assert_eq!(RunHistory::read(dir.path()).expect("reads").verdict, None);
    }
}

/// 130 rows of usual loss, then one that is far above: it is not trained on.
#[test]
fn a_loss_spike_is_skipped() {
    let mut case = Case::new(OptimizerKind::AdamW);
    let usual = Sample { ids: vec![1, 2, 3, 4], supervised: vec![false, true, true, true], row: 1 };
    let mut samples: Vec<Sample> = (1..=130).map(|row| Sample { row, ..usual.clone() }).collect();
    let loss = |ids: Vec<u32>| {
        let sample = Sample { ids, ..usual.clone() };
        crate::evaluate(&case.model, None, &Samples::from_iter([sample]), 64).loss
    };
    let worst = (5..60).max_by(|&a, &b| loss(vec![1, a, a, a]).total_cmp(&loss(vec![1, b, b, b])));
    let ids = worst.map(|id| vec![1, id, id, id]).expect("tokens");
    samples.push(Sample { ids, row: 131, ..usual.clone() });
    case.data = dataset(samples.into_iter().collect());
    case.lora.dropout = 0.0;
    case.options =
        TrainOptions { skip_loss_spikes: true, ..TrainOptions::plain(Duration::Epochs(1.0), 1e-12) };
    let dir = TempDir::new().expect("a folder");
    let mut observer = StopAt::never();
    let summary = case.train(dir.path(), &mut observer).expect("trains");
    assert_eq!((summary.steps, summary.skipped), (131, 1));
    assert_eq!(
        (observer.skipped[0].skipped, &observer.skipped[0].lines[..]),
        (Culprit::LossSpike, &[131][..])
    );
}
