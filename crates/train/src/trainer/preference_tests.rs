//! Training on judged replies: the steps of TRL's trainers (`scripts/make_preference_fixtures.py`), however a step is cut and
//! whatever is shared.

use std::fs;
use std::path::{Path, PathBuf};

use lorafit_data::{Options, Purpose, TrainOn};
use lorafit_kernels::Device;
use lorafit_model::Model;
use lorafit_model::adapter;
use lorafit_model::weights::ModelFiles;
use serde_json::Value;
use tempfile::TempDir;

use super::tests::train_until;
use super::*;
use crate::preference::Objective;
use crate::tokenizer::open_tokenizer;

/// f32 sums in another order, over four steps of AdamW.
const LOSS_TOLERANCE: f64 = 1e-5;
const NORM_TOLERANCE: f64 = 1e-4;
/// Of rewards, times beta where that is above 1: TRL sums log-probabilities of about -100 in f32, whose spacing there is 8e-6.
const REWARD_TOLERANCE: f64 = 1e-5;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// A run on the rows of the fixtures.
pub(super) struct Case {
    pub(super) model: Model,
    pub(super) start: Adapter,
    pub(super) data: Dataset,
    pub(super) options: TrainOptions,
}

impl Case {
    fn new(preference: PreferenceOptions) -> Self {
        let is_of_pairs = preference.objective.purpose() == Purpose::Pairs;
        Case::on(if is_of_pairs { "pairs" } else { "labels" }, TrainOn::Replies, preference)
    }

    /// On rows of a name.
    fn on(rows: &str, train_on: TrainOn, preference: PreferenceOptions) -> Self {
        let files = ModelFiles::open(&fixtures().join("models/chat_bpe")).expect("opens");
        let model = Model::load(&files, Device::Cpu).expect("loads");
        let purpose = preference.objective.purpose();
        let rows = fixtures().join(format!("preference/{rows}.jsonl"));
        let tokenizer = open_tokenizer(&files).expect("opens");
        let data = Dataset::load(rows, &tokenizer, Options { purpose, train_on, ..Options::default() })
            .expect("reads");
        let options = TrainOptions {
            preference: Some(preference),
            batch_size: 4,
            max_grad_norm: Some(1.0),
            ..TrainOptions::plain(Duration::Steps(4), 2e-3)
        };
        Case { start: start(&model), model, data, options }
    }

    pub(super) fn named(name: &str) -> Self {
        Case::new(PreferenceOptions::of(Objective::named(name).expect("an objective")))
    }

    /// The run in a folder, from its newest checkpoint if there is one; `stop_at` ends it after so many steps.
    fn train(&self, dir: &Path, stop_at: Option<u64>) -> Adapter {
        let data = TrainData {
            training: &self.data,
            evaluation: Some(&self.data),
            reference: Some(&self.start),
            cache: None,
            frozen: None,
        };
        train_until(dir, &self.model, data, &self.options, || start(&self.model), stop_at)
    }

    /// The records of a whole run.
    fn steps(&self) -> Vec<StepRecord> {
        let dir = TempDir::new().expect("a folder");
        self.train(dir.path(), None);
        RunHistory::read(dir.path()).expect("reads").steps
    }
}

/// The adapter that training begins from.
pub(super) fn start(model: &Model) -> Adapter {
    adapter::load(&fixtures().join("preference/adapter"), model.config(), Device::Cpu).expect("loads")
}

/// Our settings of a fixture, under the names that it gives them.
fn options_of(json: &Value) -> PreferenceOptions {
    let objective = Objective::named(json["objective"].as_str().expect("a name")).expect("an objective");
    let mut options = PreferenceOptions::of(objective);
    for (name, value) in json.as_object().expect("an object") {
        let number = || value.as_f64().expect("a number");
        match name.as_str() {
            "objective" | "rows" | "train_on" => {}
            "beta" => options.beta = number(),
            "gamma" => options.gamma = number(),
            "sft_weight" => options.sft_weight = number(),
            "label_smoothing" => options.label_smoothing = number(),
            "length_normalise" => options.length_normalise = value.as_bool().expect("a flag"),
            "desirable_weight" => options.desirable_weight = number(),
            "undesirable_weight" => options.undesirable_weight = number(),
            other => panic!("{other}"),
        }
    }
    options
}

#[test]
fn four_steps_of_every_objective_equal_trl() {
    let mut seen = Vec::new();
    for entry in fs::read_dir(fixtures().join("preference")).expect("there") {
        let path = entry.expect("lists").path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let json: Value = serde_json::from_str(&fs::read_to_string(&path).expect("reads")).expect("JSON");
        let options = options_of(&json["options"]);
        seen.push(options.objective.name);
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let tolerance = REWARD_TOLERANCE * options.beta.max(1.0);
        // TRL trains all that the template writes behind a prompt.
        let case = match json["options"]["rows"].as_str() {
            Some(rows) => Case::on(rows, TrainOn::Completion, options),
            None => Case::new(options),
        };
        let found = case.steps();
        let expected = json["steps"].as_array().expect("steps");
        assert_eq!(found.len(), expected.len(), "{name}");
        for (found, expected) in found.iter().zip(expected) {
            let number = |key: &str| expected[key].as_f64().expect("a number");
            let step = found.step;
            let loss = number("loss");
            // Losses of the plain loss of a few tokens are near 10.
            let off = (found.loss - loss).abs() / loss.abs().max(1.0);
            assert!(off < LOSS_TOLERANCE, "{name} {step}: loss {} for {loss}", found.loss);
            let off = found.grad_norm / number("grad_norm") - 1.0;
            assert!(off.abs() < NORM_TOLERANCE, "{name} {step}: norm {} for {}", found.grad_norm, expected);
            let metrics = found.preference.expect("metrics");
            for (key, value) in metrics.named() {
                let expected = number(key);
                let off = (value - expected).abs() / expected.abs().max(1.0);
                assert!(off < tolerance, "{name} {step}: {key} {value} for {expected}");
            }
        }
    }
    seen.sort_unstable();
    seen.dedup();
    // Reward models are in score_tests.rs.
    let all = crate::preference::OBJECTIVES.iter().filter(|objective| !objective.is_scored());
    assert_eq!(seen.len(), all.count(), "{seen:?}");
}

/// Small micro-batches part no row; what replies share, prompts and beginnings, changes nothing.
#[test]
fn losses_do_not_depend_on_the_cut_nor_on_sharing() {
    for name in ["dpo", "ipo", "orpo", "kto"] {
        let whole = Case::named(name).steps();
        for (tokens, sharing) in [(1, true), (60, true), (60, false), (4096, false)] {
            let mut case = Case::named(name);
            (case.options.micro_batch_tokens, case.options.prefix_sharing) = (tokens, sharing);
            for (found, expected) in case.steps().iter().zip(&whole) {
                let off = (found.loss / expected.loss - 1.0).abs();
                assert!(off < 1e-5, "{name}, {tokens} tokens: {} for {}", found.loss, expected.loss);
                let off = (found.grad_norm / expected.grad_norm - 1.0).abs();
                assert!(
                    off < 1e-4,
                    "{name}, {tokens} tokens: {} for {}",
                    found.grad_norm,
                    expected.grad_norm
                );
            }
        }
    }
}

/// A prompt is computed once for both replies, and for all rows that have it.
#[test]
fn prompts_are_computed_once() {
    let steps = Case::named("dpo").steps();
    let [tokens, computed] = [|s: &StepRecord| s.tokens, |s: &StepRecord| s.computed_tokens]
        .map(|of| steps.iter().map(of).sum::<u64>());
    let mut apart = Case::named("dpo");
    apart.options.prefix_sharing = false;
    let apart: u64 = apart.steps().iter().map(|s| s.computed_tokens).sum();
    assert!(computed * 4 < apart * 3, "{computed} of {apart} computed, of {tokens} tokens");
}

#[test]
fn a_run_that_was_stopped_goes_on_with_the_same_bits() {
    for name in ["dpo", "orpo", "kto"] {
        let mut case = Case::named(name);
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
        assert_eq!(values(&found), expected, "{name}");
        let history = |dir: &TempDir| RunHistory::read(dir.path()).expect("reads");
        let losses = |dir| history(dir).steps.iter().map(|s| (s.loss, s.preference)).collect::<Vec<_>>();
        assert_eq!(losses(&parted), losses(&whole), "{name}");
        let evaluations =
            |dir| history(dir).evaluations.iter().map(|e| (e.loss, e.best, e.preference)).collect::<Vec<_>>();
        assert_eq!(evaluations(&parted), evaluations(&whole), "{name}");
        assert!(evaluations(&whole).iter().all(|(_, _, metrics)| metrics.is_some()));
    }
}

/// Several rejected replies of a row are as many pairs, whose chosen reply is computed once.
#[test]
fn several_rejected_replies_are_pairs() {
    let dir = TempDir::new().expect("a folder");
    let rows = [
        (r#"{"prompt": "a b", "chosen": " c", "rejected": [" d e", " f"]}"#.to_owned() + "\n", 1),
        (
            r#"{"prompt": "a b", "chosen": " c", "rejected": " d e"}"#.to_owned()
                + "\n"
                + r#"{"prompt": "a b", "chosen": " c", "rejected": " f"}"#
                + "\n",
            2,
        ),
    ];
    let found = rows.map(|(text, pairs)| {
        let path = dir.path().join("rows.jsonl");
        fs::write(&path, text).expect("writes");
        let mut case = Case::named("dpo");
        let files = ModelFiles::open(&fixtures().join("models/chat_bpe")).expect("opens");
        let options = Options { purpose: Purpose::Pairs, ..Options::default() };
        case.data = Dataset::load(path, &open_tokenizer(&files).expect("opens"), options).expect("reads");
        case.options.batch_size = pairs;
        case.steps().iter().map(|s| (s.loss, s.grad_norm, s.computed_tokens)).collect::<Vec<_>>()
    });
    for (several, pairs) in found[0].iter().zip(&found[1]) {
        assert!((several.0 - pairs.0).abs() < 1e-6, "{several:?} for {pairs:?}");
        assert!((several.1 / pairs.1 - 1.0).abs() < 1e-5, "{several:?} for {pairs:?}");
        assert_eq!(several.2, pairs.2);
    }
}
