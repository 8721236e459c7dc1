//! Eight steps of variants of LoRA equal those of PEFT and PyTorch (`scripts/make_training_fixtures.py`).

use std::fs;
use std::path::{Path, PathBuf};

use lorafit_data::Sample;
use lorafit_kernels::Device;
use lorafit_model::adapter::{self, Adapter, LoraConfig, Override};
use serde_json::Value;

use super::tests::{Fixture, fixture};
use super::*;

/// f32 sums in another order, over eight steps of AdamW.
const LOSS_TOLERANCE: f64 = 1e-5;
const NORM_TOLERANCE: f64 = 1e-4;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What PEFT did, and the options of it that all cases have.
struct Reference {
    json: Value,
    samples: Samples,
    options: TrainOptions,
}

impl Reference {
    fn read(name: &str) -> Self {
        let text = fs::read_to_string(root().join(format!("fixtures/training/{name}.json"))).expect("there");
        let json: Value = serde_json::from_str(&text).expect("JSON");
        let lists = |key: &str| json[key].as_array().expect("a list").clone();
        let sample = |(row, (ids, labels)): (usize, (Value, Value))| Sample {
            ids: serde_json::from_value(ids).expect("ids"),
            supervised: labels.as_array().expect("labels").iter().map(|label| *label != -100).collect(),
            row,
        };
        let samples: Samples =
            lists("input_ids").into_iter().zip(lists("labels")).enumerate().map(sample).collect();
        let options = TrainOptions {
            batch_size: samples.len(),
            max_grad_norm: Some(1.0),
            ..TrainOptions::plain(Duration::Steps(8), json["lr"].as_f64().expect("a rate"))
        };
        Reference { json, samples, options }
    }

    /// The adapter that PEFT began with.
    fn start(&self, config: &Config) -> Adapter {
        let dir = root().join(self.json["start"].as_str().expect("a folder"));
        adapter::load(&dir, config, Device::Cpu).expect("loads")
    }

    #[track_caller]
    fn assert_steps_equal(&self, model: &lorafit_model::Model, adapter: &mut Adapter) {
        let mut parameters = Parameters::Adapter { model, adapter };
        let size = MicroBatchSize::largest(&self.samples, self.samples.len(), 512);
        let mut stepper = Stepper::new(&parameters, size, &self.options, 8);
        let indices: Vec<usize> = (0..self.samples.len()).collect();
        for (number, expected) in (1..).zip(self.json["steps"].as_array().expect("steps")) {
            let found = stepper
                .step(&mut parameters, &self.samples, &indices, number, &self.options)
                .expect("finite");
            let [loss, norm] = ["loss", "grad_norm"].map(|key| expected[key].as_f64().expect("a number"));
            assert!((found.loss - loss).abs() < LOSS_TOLERANCE, "step {number}: {} for {loss}", found.loss);
            let off = found.grad_norm / norm - 1.0;
            assert!(off.abs() < NORM_TOLERANCE, "step {number}: norm {} for {norm}", found.grad_norm);
        }
    }
}

/// `create_loraplus_optimizer`, with the weight decay of its groups.
#[test]
fn eight_steps_of_lora_plus_equal_peft() {
    let Fixture { model, mut adapter } = fixture("llama");
    let mut reference = Reference::read("lora_plus");
    let options = reference.json["options"].clone();
    reference.options.b_rate_ratio = options["lora_plus_ratio"].as_f64().expect("a ratio");
    reference.options.weight_decay = options["weight_decay"].as_f64().expect("a decay");
    reference.assert_steps_equal(&model, &mut adapter);
}

#[test]
fn eight_steps_with_smoothed_labels_equal_pytorch() {
    let Fixture { model, mut adapter } = fixture("llama");
    let mut reference = Reference::read("label_smoothing");
    reference.options.label_smoothing = 0.1;
    reference.assert_steps_equal(&model, &mut adapter);
}

/// `init_lora_weights="pissa"`, from PEFT's factors: PEFT takes them off the base, here the adapter takes them off itself.
#[test]
fn eight_steps_of_pissa_equal_peft() {
    let model = fixture("llama").model;
    let reference = Reference::read("pissa");
    let start = reference.start(model.config());
    let mut adapter = start.with_its_start(&model).expect("fits");
    reference.assert_steps_equal(&model, &mut adapter);
    // Each projection has what it began with behind what was trained.
    let halves = |values: &[f32]| values.len() / 2;
    for ((_, [a, b_t]), (_, [a0, b0_t])) in adapter.factor_values().zip(start.factor_values()) {
        assert_eq!(a[halves(&a)..], a0);
        assert!(b_t[halves(&b_t)..].iter().zip(&b0_t).all(|(kept, begun)| *kept == -begun));
        assert_ne!(a[..halves(&a)], a0);
        assert_ne!(b_t[..halves(&b_t)], b0_t);
    }
}

/// rsLoRA, ranks and alphas by pattern, and excluded modules: asked for here, read from PEFT's folder, and trained.
#[test]
fn eight_steps_with_patterns_equal_peft() {
    let model = fixture("llama").model;
    let reference = Reference::read("patterns");
    let mut adapter = reference.start(model.config());
    let ranks = [r"layers\.0\..*=2", "up_proj=6"].map(|text| text.parse::<Override<usize>>());
    let alphas = ["q_proj=24"].map(|text| text.parse::<Override<f64>>());
    let lora = LoraConfig {
        rank: 4,
        alpha: 8.0,
        use_rslora: true,
        exclude: Some("k_proj".parse().expect("modules")),
        rank_pattern: ranks.into_iter().map(|pattern| pattern.expect("a pattern").into()).collect(),
        alpha_pattern: alphas.into_iter().map(|pattern| pattern.expect("a pattern").into()).collect(),
        ..LoraConfig::new("all-linear".parse().expect("modules"))
    };
    lora.check(model.config()).expect("all have an effect");
    let fresh = Adapter::init(model.config(), &lora, 0, Device::Cpu).expect("fits");
    let json = |adapter: &Adapter| -> Value {
        serde_json::from_slice(&adapter::config_file(adapter, "llama")).expect("JSON")
    };
    assert_eq!(json(&fresh), json(&adapter));
    let lens = |adapter: &Adapter| adapter.tensors().map(|tensor| tensor.len()).collect::<Vec<_>>();
    assert_eq!(lens(&fresh), lens(&adapter));
    reference.assert_steps_equal(&model, &mut adapter);
}
