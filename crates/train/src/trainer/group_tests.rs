//! Several processes train as one does: the same numbers but for rounding, the same bits every time, and nobody waits for one
//! that is gone.

use std::collections::BTreeMap;
use std::path::PathBuf;

use lorafit_model::Model;
use lorafit_model::adapter::LoraConfig;
use tempfile::TempDir;

use super::preference_tests::{Case as PreferenceCase, start as preference_start};
use super::resume_tests::{Case, StopAt, assert_same, content};
use super::score_tests::Case as ScoreCase;
use super::*;
use crate::group::Lost;
use crate::group::testing::together;
use crate::lock::RunLock;
use crate::run_info::RunInfo;

/// A run without chance beside its order: masks and noise are of a process and its micro-batches.
fn plain(case: Case) -> Case {
    Case { lora: LoraConfig { dropout: 0.0, ..case.lora.clone() }, ..case }
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// What a run of so many processes leaves, with the history of its losses.
fn run(case: &Case, processes: usize) -> (Files, RunHistory) {
    let dir = TempDir::new().expect("a folder");
    let ends = together(processes, |group| {
        case.train_among(dir.path(), group, &mut StopAt::never()).expect("trains")
    });
    assert!(ends.iter().all(|end| (end.steps, end.best) == (ends[0].steps, ends[0].best)));
    assert!(ends.iter().all(|end| end.evaluation.as_ref().map(|e| e.loss) == ends[0].evaluation.as_ref().map(|e| e.loss)));
    (content(dir.path()), RunHistory::read(dir.path()).expect("reads"))
}

/// Of an adapter, of weights, and of steps with fewer rows than there are processes: the last of each epoch has three.
#[test]
fn losses_are_those_of_one_process_and_bits_the_same_every_time() {
    for case in Case::of_both(OptimizerKind::AdamW).map(plain) {
        let what = |processes| format!("{:?}, {processes} processes", case.weights);
        let (files, alone) = run(&case, 1);
        assert_same(&files, &case.whole(), &what(1));
        assert!(alone.steps.iter().all(|step| step.reduction.is_none()));
        for processes in [2, 3, 4, 5] {
            let (files, found) = run(&case, processes);
            assert_eq!((found.steps.len(), found.evaluations.len()), (9, alone.evaluations.len()));
            for (found, expected) in found.steps.iter().zip(&alone.steps) {
                let (step, loss) = (found.step, found.loss);
                assert!((loss - expected.loss).abs() < 1e-6, "{}, step {step}: {loss}", what(processes));
                let norm = (found.grad_norm - expected.grad_norm).abs() / expected.grad_norm;
                assert!(norm < 1e-5, "{}, step {step}: gradient norm {norm} off", what(processes));
                assert_eq!(found.supervised_tokens, expected.supervised_tokens);
                assert_eq!(found.tokens, expected.tokens);
                let reduction = found.reduction.expect("of several processes");
                assert!(reduction.processes == processes && reduction.bytes > 0);
            }
            for (found, expected) in found.evaluations.iter().zip(&alone.evaluations) {
                assert!((found.loss - expected.loss).abs() < 1e-6, "{}: {found:?}", what(processes));
            }
            assert_same(&run(&case, processes).0, &files, &what(processes));
        }
    }
}

/// What a run of so many processes on other rows than replies has written down.
fn history(
    (model, start): (&Model, &(dyn Fn() -> Adapter + Sync)),
    data: TrainData<'_>,
    options: &TrainOptions,
    processes: usize,
) -> RunHistory {
    let dir = TempDir::new().expect("a folder");
    together(processes, |group| {
        let mut run = match group.is_first() {
            true => RunFolder::create(RunLock::take(dir.path()).expect("free"), RunInfo::default())
                .expect("a folder"),
            false => RunFolder::of_another(dir.path(), RunInfo::default()),
        };
        let mut adapter = start();
        let mut parameters = Parameters::Adapter { model, adapter: &mut adapter };
        let start = Start { checkpoint: None, group };
        let observer = &mut StopAt::never();
        train(&mut parameters, data, options, start, &mut run, observer).expect("trains");
    });
    RunHistory::read(dir.path()).expect("reads")
}

/// Losses and metrics, but for rounding. Both are sums over rows, of which logits have other neighbours in a product.
fn assert_close(found: &RunHistory, expected: &RunHistory, what: &str) {
    assert_eq!(
        (found.steps.len(), found.evaluations.len()),
        (expected.steps.len(), expected.evaluations.len())
    );
    let steps = found.steps.iter().zip(&expected.steps);
    let steps = steps.map(|(found, expected)| {
        let named =
            |record: &StepRecord| record.preference.map(|metrics| metrics.named()).unwrap_or_default();
        ((found.loss, named(found)), (expected.loss, named(expected)))
    });
    let evaluations = found.evaluations.iter().zip(&expected.evaluations);
    let evaluations =
        evaluations.map(|(found, expected)| ((found.loss, found.named()), (expected.loss, expected.named())));
    for ((loss, named), (expected_loss, expected_named)) in steps.chain(evaluations) {
        assert!((loss - expected_loss).abs() < 1e-6, "{what}: loss {loss}, expected {expected_loss}");
        assert_eq!(named.len(), expected_named.len(), "{what}");
        // What is compared with itself has no margin, and which reply is above is rounding.
        let is_even = named.iter().any(|(name, value)| *name == "rewards/margins" && value.abs() < 1e-4);
        for ((name, value), (_, expected)) in named.iter().zip(&expected_named) {
            let off = (value - expected).abs() / expected.abs().max(1.0);
            let is_rounding = is_even && *name == "rewards/accuracies";
            assert!(off < 1e-5 || is_rounding, "{what}: {name} {value}, expected {expected}");
        }
    }
}

/// Rows of several replies are never parted; the reference is asked once, or in every step; margins are of all held-out pairs.
#[test]
fn judged_replies_are_trained_on_as_by_one_process() {
    for name in ["dpo", "orpo", "kto", "reward", "classify"] {
        let run = |processes| match name {
            "reward" | "classify" => {
                let case = if name == "reward" { ScoreCase::reward() } else { ScoreCase::classes() };
                let data = TrainData {
                    training: &case.data,
                    evaluation: Some(&case.data),
                    reference: None,
                    cache: None,
                    frozen: None,
                };
                history((&case.model, &|| case.adapter()), data, &case.options, processes)
            }
            _ => {
                let case = PreferenceCase::named(name);
                let data = TrainData {
                    training: &case.data,
                    evaluation: Some(&case.data),
                    reference: Some(&case.start),
                    cache: None,
                    frozen: None,
                };
                history((&case.model, &|| preference_start(&case.model)), data, &case.options, processes)
            }
        };
        let alone = run(1);
        assert!(alone.steps.len() == 4 && !alone.evaluations.is_empty(), "{name}");
        for processes in [2, 3] {
            assert_close(&run(processes), &alone, &format!("{name}, {processes} processes"));
        }
    }
}

/// With dropout, noise, early stopping and an average: resumed by as many, the run is the one that was never stopped.
#[test]
fn processes_that_are_asked_to_stop_agree_and_resume_to_the_same_bits() {
    for mut case in Case::of_both(OptimizerKind::AdamW) {
        case.options.patience = Some(Patience { evaluations: 3, min_delta: 100.0 });
        case.options.averaging = Some(Averaging::Ema(0.75));
        case.options.neftune_alpha = Some(5.0);
        // Of those before the last one, some are of where the run was stopped.
        case.options.keep_checkpoints = 1;
        let (expected, _) = run(&case, 3);
        for place in [0, 1, 4, 7, 10] {
            let dir = TempDir::new().expect("a folder");
            // One of them alone is asked.
            let ends = together(3, |group| {
                let observer = &mut if group.rank() == 2 { StopAt::ask(place) } else { StopAt::never() };
                case.train_among(dir.path(), group, observer).expect("trains")
            });
            assert!(ends.iter().all(|end| end.interrupted && end.steps == ends[0].steps), "{place}");
            together(3, |group| case.train_among(dir.path(), group, &mut StopAt::never()).expect("trains"));
            assert_same(&content(dir.path()), &expected, &format!("{:?}, stopped at {place}", case.weights));
        }
    }
}

/// A process that is gone from some exchange on.
#[derive(Debug)]
struct Dying<'a> {
    group: &'a dyn ProcessGroup,
    left: std::cell::Cell<usize>,
}

impl Dying<'_> {
    fn lives(&self) -> Result<&dyn ProcessGroup, Lost> {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        if left == 0 { Err(Lost("killed".to_owned())) } else { Ok(self.group) }
    }
}

impl ProcessGroup for Dying<'_> {
    fn rank(&self) -> usize {
        self.group.rank()
    }

    fn size(&self) -> usize {
        self.group.size()
    }

    fn all_gather(&self, message: &[u8]) -> Result<Vec<Vec<u8>>, Lost> {
        self.lives()?.all_gather(message)
    }

    fn all_to_all(
        &self,
        values: &mut Vec<f32>,
        counts: &[usize],
        received: &mut Vec<f32>,
    ) -> Result<(), Lost> {
        self.lives()?.all_to_all(values, counts, received)
    }

    fn all_gather_slices(&self, values: &mut Vec<f32>, counts: &[usize]) -> Result<(), Lost> {
        self.lives()?.all_gather_slices(values, counts)
    }
}

/// Gone at every exchange of a run, in evaluations and in the middle of a sum: the others end, the first with a checkpoint of
/// the steps that all have taken, and what is resumed is the run of which nobody was lost.
#[test]
fn a_process_that_is_gone_ends_the_run_with_a_checkpoint() {
    let case = Case::new(OptimizerKind::AdamW);
    let (expected, _) = run(&case, 2);
    let mut deaths = 0;
    for exchange in 1.. {
        let dir = TempDir::new().expect("a folder");
        let ends = together(2, |group| {
            let dying = Dying { group, left: std::cell::Cell::new(exchange) };
            let group = if group.rank() == 1 { &dying } else { group };
            case.train_among(dir.path(), group, &mut StopAt::never())
        });
        if ends[1].is_ok() {
            break;
        }
        deaths += 1;
        assert!(
            ends.iter().all(|end| matches!(end, Err(TrainError::Group(GroupError::Lost(_))))),
            "{ends:?}"
        );
        let newest = Checkpoint::newest(dir.path()).expect("lists").checkpoint;
        // Before the first step there is nothing to save.
        let steps = newest.map_or(0, |newest| newest.state.step);
        let records = RunHistory::read(dir.path()).map(|history| history.steps.len()).unwrap_or_default();
        assert_eq!(records as u64, steps, "gone at exchange {exchange}");
        together(2, |group| case.train_among(dir.path(), group, &mut StopAt::never()).expect("trains"));
        assert_same(&content(dir.path()), &expected, &format!("gone at exchange {exchange}"));
    }
    // Of each step four exchanges.
    assert!(deaths > 36, "{deaths} exchanges");
}

/// The first process cannot write, the others learn of it.
#[test]
fn an_error_of_one_process_ends_all() {
    let case = Case::new(OptimizerKind::AdamW);
    let dir = TempDir::new().expect("a folder");
    let ends = together(3, |group| {
        if group.rank() == 1 {
            group.gather(b"").map_err(TrainError::from)?;
            let ended = group.end(Some("the disk is full")).map_err(GroupError::from)?;
            assert_eq!(ended[1].as_deref(), Some("the disk is full"));
            return Ok(None);
        }
        case.train_among(dir.path(), group, &mut StopAt::never()).map(Some)
    });
    let said = |end: &Result<Option<Summary>, TrainError>| end.as_ref().err().map(ToString::to_string);
    let heard = Some("process 1: the disk is full".to_owned());
    assert_eq!(ends.iter().map(said).collect::<Vec<_>>(), [heard.clone(), None, heard]);
}

/// Adapters that are not the same would never meet again.
#[test]
fn processes_that_begin_with_other_parameters_are_refused() {
    let case = Case::new(OptimizerKind::AdamW);
    let other = Case { lora: LoraConfig { rank: 4, ..case.lora.clone() }, ..Case::new(OptimizerKind::AdamW) };
    let dir = TempDir::new().expect("a folder");
    let ends = together(3, |group| {
        let case = if group.rank() == 2 { &other } else { &case };
        case.train_among(dir.path(), group, &mut StopAt::never())
    });
    let differs = GroupError::Differs { rank: 2, what: "what it begins to train".to_owned() };
    assert!(ends.iter().all(|end| matches!(end, Err(TrainError::Group(e)) if *e == differs)), "{ends:?}");
}
