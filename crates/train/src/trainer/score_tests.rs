//! Heads that score texts: the steps of TRL's `RewardTrainer` and of transformers with PEFT (`scripts/make_score_fixtures.py`),
//! however a step is cut and whatever is shared; gradients by finite differences.

use std::fs;
use std::path::{Path, PathBuf};

use lorafit_data::{Classes, Options, Purpose, Source};
use lorafit_kernels::Device;
use lorafit_model::Model;
use lorafit_model::adapter;
use lorafit_model::weights::ModelFiles;
use serde_json::Value;
use tempfile::TempDir;

use super::tests::train_until;
use super::*;
use crate::classify::evaluate_classes;
use crate::preference::Objective as Judging;
use crate::preference::step::JudgedRows;
use crate::tokenizer::open_tokenizer;

/// f32 sums in another order, over four steps of AdamW.
const LOSS_TOLERANCE: f64 = 1e-5;
const REWARD_TOLERANCE: f64 = 1e-5;
const NORM_TOLERANCE: f64 = 1e-4;

const LABELS: [&str; 3] = ["calm", "glad", "sad"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// A run on the rows of the fixtures.
pub(super) struct Case {
    pub(super) model: Model,
    start: &'static str,
    pub(super) data: Dataset,
    pub(super) options: TrainOptions,
}

impl Case {
    /// Of a head of `start` on the rows of a name.
    fn new(start: &'static str, rows: &str, preference: Option<PreferenceOptions>) -> Self {
        let mut files = ModelFiles::open(&fixtures().join("models/chat_bpe")).expect("opens");
        let labels = adapter::score_labels(&fixtures().join("scores").join(start)).expect("reads");
        files.score(labels.expect("a head"), 0).expect("a new head");
        let model = Model::load(&files, Device::Cpu).expect("loads");
        let purpose = if preference.is_some() { Purpose::Scores } else { Purpose::Replies };
        let labels = LABELS.map(str::to_owned).to_vec();
        let classes = preference.is_none().then(|| Classes { column: "label".into(), labels });
        let source = Source { classes, ..fixtures().join(format!("scores/{rows}.jsonl")).into() };
        let tokenizer = open_tokenizer(&files).expect("opens");
        let data =
            Dataset::load(source, &tokenizer, Options { purpose, ..Options::default() }).expect("reads");
        let options = TrainOptions {
            preference,
            batch_size: 4,
            max_grad_norm: Some(1.0),
            ..TrainOptions::plain(Duration::Steps(4), 2e-3)
        };
        Case { model, start, data, options }
    }

    pub(super) fn reward() -> Self {
        Case::new("reward", "pairs", Some(PreferenceOptions::of(Judging::named("reward").expect("there"))))
    }

    pub(super) fn classes() -> Self {
        Case::new("classes", "texts", None)
    }

    /// The adapter that training begins from.
    pub(super) fn adapter(&self) -> Adapter {
        let dir = fixtures().join("scores").join(self.start);
        let mut adapter = adapter::load(&dir, self.model.config(), Device::Cpu).expect("loads");
        self.model.prepare(&mut adapter);
        adapter
    }

    /// The run in a folder, from its newest checkpoint if there is one; `stop_at` ends it after so many steps.
    fn train(&self, dir: &Path, stop_at: Option<u64>) -> Adapter {
        let data = TrainData {
            training: &self.data,
            evaluation: Some(&self.data),
            reference: None,
            cache: None,
            frozen: None,
        };
        train_until(dir, &self.model, data, &self.options, || self.adapter(), stop_at)
    }

    /// The records of a whole run, and the adapter that it ends with.
    fn run(&self) -> (RunHistory, Adapter) {
        let dir = TempDir::new().expect("a folder");
        let adapter = self.train(dir.path(), None);
        (RunHistory::read(dir.path()).expect("reads"), adapter)
    }
}

fn fixture(name: &str) -> Value {
    let text = fs::read_to_string(fixtures().join(format!("scores/{name}.json"))).expect("reads");
    serde_json::from_str(&text).expect("JSON")
}

fn assert_steps(name: &str, found: &[StepRecord], expected: &Value) {
    let expected = expected["steps"].as_array().expect("steps");
    assert_eq!(found.len(), expected.len(), "{name}");
    for (found, expected) in found.iter().zip(expected) {
        let number = |key: &str| expected[key].as_f64().expect("a number");
        let (step, loss) = (found.step, number("loss"));
        assert!((found.loss - loss).abs() < LOSS_TOLERANCE, "{name} {step}: loss {} for {loss}", found.loss);
        let off = found.grad_norm / number("grad_norm") - 1.0;
        assert!(off.abs() < NORM_TOLERANCE, "{name} {step}: norm {} for {expected}", found.grad_norm);
        for (key, value) in found.preference.iter().flat_map(|metrics| metrics.named()) {
            // TRL has no means of both sides.
            if !key.starts_with("rewards/") {
                let off = (value - number(key)).abs();
                assert!(off < REWARD_TOLERANCE, "{name} {step}: {key} {value} for {expected}");
            }
        }
    }
}

#[test]
fn four_steps_of_a_reward_model_equal_trl() {
    for (name, rows, center_rewards) in [
        ("reward", "pairs", 0.0),
        ("reward_margins", "margins", 0.0),
        ("reward_centred", "pairs", 0.1),
        ("reward_chats", "chats", 0.0),
    ] {
        let reward = PreferenceOptions::of(Judging::named("reward").expect("there"));
        let case = Case::new("reward", rows, Some(PreferenceOptions { center_rewards, ..reward }));
        let (history, _) = case.run();
        assert_steps(name, &history.steps, &fixture(name));
        let named = history.steps[0].preference.expect("metrics").named();
        for key in ["accuracy", "margin", "min_reward", "mean_reward", "max_reward"] {
            assert!(named.iter().any(|(name, _)| *name == key), "{key} of {named:?}");
        }
    }
}

#[test]
fn four_steps_of_a_classifier_equal_transformers() {
    let case = Case::classes();
    let (history, adapter) = case.run();
    let expected = fixture("classes");
    assert_steps("classes", &history.steps, &expected);
    let found = evaluate_classes(&case.model, Some(&adapter), &case.data.samples, 64, &mut || false);
    let logits: Vec<Vec<f32>> = serde_json::from_value(expected["logits"].clone()).expect("numbers");
    for (found, expected) in found.expect("nobody stops it").scores.iter().zip(&logits) {
        for (found, expected) in found.iter().zip(expected) {
            // What four steps of AdamW make of sums in another order.
            assert!((found - expected).abs() < 2e-4, "{found} for {expected}");
        }
    }
    let metrics = history.evaluations.last().and_then(|record| record.classes).expect("metrics");
    assert!(metrics.accuracy > 0.0 && metrics.f1 > 0.0, "{metrics:?}");
}

#[test]
fn losses_of_heads_do_not_depend_on_the_cut_nor_on_sharing() {
    for new in [Case::reward, Case::classes] {
        let (whole, _) = new().run();
        for (tokens, sharing) in [(1, true), (60, true), (60, false), (4096, false)] {
            let mut case = new();
            (case.options.micro_batch_tokens, case.options.prefix_sharing) = (tokens, sharing);
            for (found, expected) in case.run().0.steps.iter().zip(&whole.steps) {
                let at = format!("{}, {tokens} tokens, step {}", case.start, found.step);
                assert!((found.loss - expected.loss).abs() < 1e-5, "{at}: {} {}", found.loss, expected.loss);
                let off = (found.grad_norm / expected.grad_norm - 1.0).abs();
                assert!(off < 1e-4, "{at}: {} {}", found.grad_norm, expected.grad_norm);
            }
        }
    }
}

#[test]
fn a_head_whose_run_was_stopped_goes_on_with_the_same_bits() {
    for new in [Case::reward, Case::classes] {
        let mut case = new();
        case.options.order = Order::Shuffled { seed: 9 };
        case.options.eval_every = Some(1);
        case.options.start_loss = StartLoss::Measured;
        let values = |adapter: &Adapter| -> Vec<Vec<f32>> {
            adapter.tensors().map(|tensor| tensor.to_vec(tensor.len())).collect()
        };
        let (whole, parted) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
        let expected = values(&case.train(whole.path(), None));
        for stop_at in [1, 3, u64::MAX] {
            case.train(parted.path(), Some(stop_at));
        }
        let found = adapter::load(parted.path(), case.model.config(), Device::Cpu).expect("loads");
        assert_eq!(values(&found), expected, "{}", case.start);
        let history = |dir: &TempDir| RunHistory::read(dir.path()).expect("reads");
        let losses = |dir| history(dir).steps.iter().map(|s| (s.loss, s.preference)).collect::<Vec<_>>();
        assert_eq!(losses(&parted), losses(&whole), "{}", case.start);
        let evaluations = |dir| {
            let all = history(dir).evaluations;
            all.iter().map(|e| (e.loss, e.best, e.preference, e.classes)).collect::<Vec<_>>()
        };
        assert_eq!(evaluations(&parted), evaluations(&whole), "{}", case.start);
        assert!(
            evaluations(&whole).iter().all(|(_, _, pairs, classes)| pairs.is_some() || classes.is_some())
        );
    }
}

/// The head, and factors below it.
#[test]
fn gradients_of_heads_are_finite_differences() {
    for case in [Case::reward(), Case::classes()] {
        let mut adapter = case.adapter();
        let indices = [0, 1, 2, 3];
        let gradients: Vec<Vec<f32>> = {
            let parameters = Parameters::Adapter { model: &case.model, adapter: &mut adapter };
            let mut stepper = stepper(&case, &parameters);
            stepper.compute(&parameters, &case.data.samples, &indices, 1, &case.options).expect("numbers");
            stepper.lanes.first.gradients.tensors().map(|tensor| tensor.to_vec(tensor.len())).collect()
        };
        let tensors = gradients.len();
        for tensor in [0, tensors / 2, tensors - 2, tensors - 1] {
            for at in [0, gradients[tensor].len() / 3, gradients[tensor].len() - 1] {
                let loss_at = |by: f32| {
                    let mut adapter = case.adapter();
                    let changed = adapter.tensors_mut().nth(tensor).expect("there");
                    let mut values = changed.to_vec(changed.len());
                    values[at] += by;
                    changed.write(0, &values);
                    case.model.prepare(&mut adapter);
                    let parameters = Parameters::Adapter { model: &case.model, adapter: &mut adapter };
                    let mut stepper = stepper(&case, &parameters);
                    let found = stepper.compute(&parameters, &case.data.samples, &indices, 1, &case.options);
                    found.expect("numbers").loss
                };
                // The loss is a sum in f32 of about 1: 1e-7 of it over 4e-3 is 3e-5; the rest is its third derivative.
                let step = 2e-3;
                let found = (loss_at(step) - loss_at(-step)) / (2.0 * f64::from(step));
                let expected = f64::from(gradients[tensor][at]);
                let off = (found - expected).abs();
                assert!(
                    off < 2e-4 + 1e-3 * expected.abs(),
                    "{} {tensor} {at}: {expected}, not {found}",
                    case.start
                );
            }
        }
    }
}

/// What takes steps of a case.
fn stepper(case: &Case, parameters: &Parameters<'_>) -> Stepper<'static> {
    let size = case.options.micro_batch_size(&case.data, None);
    let mut stepper = Stepper::new(parameters, size, &case.options, 4);
    stepper.judged = case.options.preference.map(|options| Judged {
        options,
        training: JudgedRows { groups: case.data.samples.groups(), reference: Vec::new() },
        evaluation: None,
        reference: None,
        longest: 0,
    });
    stepper
}
