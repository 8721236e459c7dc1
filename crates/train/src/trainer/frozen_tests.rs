//! Outputs of frozen blocks that are kept change no result, and a run without its cache goes on as one with it.

use std::fs;

use lorafit_data::Cache;
use lorafit_kernels::Device;
use lorafit_model::adapter::{Adapter, LoraConfig};
use lorafit_model::{Buffers, Stream};
use tempfile::TempDir;

use super::resume_tests::{Case, StopAt, assert_same, content};
use super::tests::{Draws, fixture, train_until};
use super::*;
use crate::frozen::{FrozenDtype, FrozenOutputs};
use crate::stream::cut;

fn cache(folder: &Path, dtype: FrozenDtype) -> FrozenCache {
    FrozenCache::new(Cache::new(folder), &[("base", "llama".to_owned())], dtype)
}

/// An adapter of the upper block, and weights from there on.
fn cases() -> [Case; 2] {
    let [mut adapter, weights] = Case::of_both(OptimizerKind::AdamW);
    adapter.lora.layers = Some(vec![1]);
    [adapter, weights]
}

fn losses(dir: &Path) -> Vec<f64> {
    let history = RunHistory::read(dir).expect("reads");
    let steps = history.steps.iter().map(|step| step.loss);
    steps.chain(history.evaluations.iter().map(|evaluation| evaluation.loss)).collect()
}

/// However samples are cut, and whatever of them is shared, then and now.
#[test]
fn outputs_that_are_read_are_those_that_would_be_computed() {
    for name in ["llama", "gemma2", "gpt2"] {
        let model = fixture(name).model;
        let mut draws = Draws(3);
        for tree in 0..6 {
            let samples = draws.tree(2 + 3 * tree);
            let all: Vec<usize> = (0..samples.len()).collect();
            for (dtype, tolerance) in [(FrozenDtype::F32, 1e-5), (FrozenDtype::Bf16, 1.0 / 256.0)] {
                for (written, share) in [(1, false), (30, true), (10_000, true)] {
                    let folder = TempDir::new().expect("a folder");
                    let mut buffers = Buffers::for_evaluation(model.config(), None, Device::Cpu, 10_000);
                    let how = Cut::of(model.config(), written, share);
                    let kept = cache(folder.path(), dtype);
                    let mut kept = || kept.outputs((&model, 1), &samples, how, &mut buffers, &mut |_| true);
                    let computed = kept().expect("writes").expect("nobody stops it");
                    let found = kept().expect("reads").expect("nobody stops it");
                    assert_eq!((computed.rows().1, found.rows().1), (true, false));
                    let rows: usize = samples.iter().map(|sample| sample.inputs().len()).sum();
                    assert!(computed.rows().0 <= rows as u64 && computed.rows().0 == found.rows().0);
                    for (budget, share) in [(1, false), (25, true), (10_000, true)] {
                        // Every other sample, as in a step.
                        let some: Vec<usize> = all.iter().copied().filter(|i| i % 2 == tree % 2).collect();
                        for micro in cut(&samples, &some, Cut::of(model.config(), budget, share)) {
                            let expected = model.outputs_below(1, micro.stream(), &mut buffers);
                            let largest = expected.iter().fold(0.0f32, |most, value| most.max(value.abs()));
                            // The output of no more blocks than were left out.
                            let read = |stream: Stream<'_>, buffers: &mut Buffers| {
                                assert_eq!(stream.below, 1);
                                model.outputs_below(1, stream, buffers)
                            };
                            for outputs in [&computed, &found] {
                                let rows =
                                    FrozenOutputs::above(Some(outputs), &micro, &model, &mut buffers, read);
                                assert_eq!(rows.len(), expected.len());
                                let off = rows.iter().zip(&expected).map(|(a, b)| (a - b).abs());
                                let off = off.fold(0.0, f32::max);
                                assert!(off <= tolerance * largest, "{name}, {dtype:?}: {off} of {largest}");
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_run_over_kept_outputs_learns_what_it_learns_without() {
    for mut case in cases() {
        case.options.start_loss = StartLoss::Measured;
        let without = TempDir::new().expect("a folder");
        case.train(without.path(), &mut StopAt::never()).expect("trains");
        let expected = losses(without.path());
        for (dtype, tolerance) in [(FrozenDtype::F32, 1e-5), (FrozenDtype::Bf16, 3e-3)] {
            let (folder, dir) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
            case.frozen = Some(cache(folder.path(), dtype));
            case.train(dir.path(), &mut StopAt::never()).expect("trains");
            let found = losses(dir.path());
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found / expected - 1.0).abs() < tolerance, "{dtype:?}: {found} for {expected}");
            }
            // The rows to train on, and those held out.
            assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 2);
        }
    }
}

/// Stopped while they are computed, or later; the cache may be gone when the run goes on.
#[test]
fn resume_reproduces_a_run_over_kept_outputs() {
    for (mut case, dtype) in cases().into_iter().zip([FrozenDtype::Bf16, FrozenDtype::F32]) {
        let whole = TempDir::new().expect("a folder");
        case.frozen = Some(cache(whole.path(), dtype));
        let expected = case.whole();
        let mut stops = [0; 2];
        for place in 0.. {
            let (folder, dir) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
            case.frozen = Some(cache(folder.path(), dtype));
            match case.train(dir.path(), &mut StopAt::ask(place)) {
                Err(TrainError::Stopped) => {
                    // Nothing that is not finished.
                    let mut names =
                        fs::read_dir(folder.path()).expect("lists").map(|entry| entry.expect("lists").path());
                    assert!(names.all(|path| path.extension().is_some_and(|e| e == "large")));
                    stops[0] += 1;
                    continue;
                }
                Ok(summary) if summary.interrupted => stops[1] += 1,
                Ok(_) => break,
                Err(error) => panic!("{error}"),
            }
            if place % 2 == 0 {
                fs::read_dir(folder.path()).expect("lists").for_each(|entry| {
                    fs::remove_file(entry.expect("lists").path()).expect("removes");
                });
            }
            case.train(dir.path(), &mut StopAt::never()).expect("trains");
            assert_same(&content(dir.path()), &expected, &format!("stopped at {place}"));
        }
        assert!(stops[0] >= 4 && stops[1] > 9 + 5, "{stops:?} places");
    }
}

/// A folder that cannot be made is told, and the run computes everything; so is a file that is cut off while the run goes on.
#[test]
fn a_cache_that_fails_ends_no_run() {
    let [mut case, _] = cases();
    let without = TempDir::new().expect("a folder");
    case.train(without.path(), &mut StopAt::never()).expect("trains");
    let expected = losses(without.path());

    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("file");
    fs::write(&file, "no folder").expect("writes");
    case.frozen = Some(cache(&file, FrozenDtype::F32));
    let (dir, mut observer) = (TempDir::new().expect("a folder"), StopAt::never());
    case.train(dir.path(), &mut observer).expect("trains");
    assert_eq!((losses(dir.path()), observer.warnings), (expected.clone(), 1));

    /// Cuts off what the cache holds after the third step.
    struct CutOff<'a> {
        folder: &'a Path,
        warnings: usize,
    }
    impl Observer for CutOff<'_> {
        fn on_step(&mut self, record: &StepRecord, _: u64) {
            if record.step == 3 {
                for entry in fs::read_dir(self.folder).expect("lists") {
                    let file = fs::File::options().write(true).open(entry.expect("lists").path());
                    file.expect("opens").set_len(40).expect("cuts off");
                }
            }
        }
        fn on_evaluation(&mut self, _: &EvaluationRecord) {}
        fn should_stop(&mut self) -> bool {
            false
        }
        fn on_warning(&mut self, error: &RunError) {
            assert!(matches!(error, RunError::Frozen { .. }), "{error}");
            self.warnings += 1;
        }
    }
    let (folder, dir) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    case.frozen = Some(cache(folder.path(), FrozenDtype::F32));
    let mut observer = CutOff { folder: folder.path(), warnings: 0 };
    case.train(dir.path(), &mut observer).expect("trains");
    assert_eq!(observer.warnings, 6, "one for each step after it");
    for (found, expected) in losses(dir.path()).iter().zip(&expected) {
        assert!((found / expected - 1.0).abs() < 1e-5, "{found} for {expected}");
    }
}

/// Judged replies too; the reference computes all blocks.
#[test]
fn preferences_over_kept_outputs_are_those_without() {
    for name in ["dpo", "kto", "orpo"] {
        let case = preference_tests::Case::named(name);
        let lora =
            LoraConfig { layers: Some(vec![1]), ..LoraConfig::new("all-linear".parse().expect("targets")) };
        let start = || Adapter::init(case.model.config(), &lora, 7, Device::Cpu).expect("fits");
        let run = |frozen: Option<&FrozenCache>| {
            let dir = TempDir::new().expect("a folder");
            let (training, evaluation) = (&case.data, Some(&case.data));
            let data = TrainData { training, evaluation, reference: None, cache: None, frozen };
            train_until(dir.path(), &case.model, data, &case.options, start, None);
            losses(dir.path())
        };
        let (expected, folder) = (run(None), TempDir::new().expect("a folder"));
        let found = run(Some(&cache(folder.path(), FrozenDtype::F32)));
        assert_eq!((found.len(), fs::read_dir(folder.path()).expect("lists").count()), (expected.len(), 1));
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found / expected - 1.0).abs() < 1e-5, "{name}: {found} for {expected}");
        }
    }
}
