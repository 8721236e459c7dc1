//! The real model against numbers that PyTorch, transformers and PEFT computed from the same file: text, ids,
//! losses, logits, greedy continuation, and sixteen steps of training (`fixtures/smollm2_e2e`).
//!
//! Needs `models/SmolLM2-135M-Instruct.Q4_1.gguf`, which `scripts/fetch_model.sh` brings; without it the
//! tests say that they were skipped.

use std::path::{Path, PathBuf};

use lorafit_data::{ChatTemplate, Dataset, Message, Options, Role, Tokenizer};
use lorafit_kernels::ops::matmul::cpu_instruction_set;
use lorafit_kernels::quant::Quantization;
use lorafit_kernels::quant::four_bit::Code;
use lorafit_kernels::{ComputeDtype, Device};
use lorafit_model::adapter::{self, Adapter, named_tensors};
use lorafit_model::weights::ModelFiles;
use lorafit_model::{
    ActivationDtype, ActivationPolicy, BaseQuantization, Model, Parameters, Prompts, Recompute, Sampling,
    WeightSelection, generate,
};
use lorafit_train::{
    Duration, EvaluationRecord, Observer, RunFolder, RunInfo, RunLock, Start, StepRecord, TrainData,
    TrainOptions, open_tokenizer, token_scores, train,
};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn json(path: &str) -> Value {
    let text = std::fs::read_to_string(root().join(path)).expect("the fixture");
    serde_json::from_str(&text).expect("JSON")
}

fn open() -> Option<(Model, Tokenizer)> {
    open_as(None)
}

/// The model, quantised once more if asked for.
fn open_as(quantization: Option<BaseQuantization>) -> Option<(Model, Tokenizer)> {
    let path = root().join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !path.exists() {
        println!("skipped: {} is not there; run scripts/fetch_model.sh", path.display());
        return None;
    }
    let files = ModelFiles::open(&path).expect("the model opens");
    let tokenizer = open_tokenizer(&files).expect("the tokenizer opens");
    let model = match quantization {
        Some(base) => Model::load_quantized(&files, base, Device::Cpu),
        None => Model::load(&files, Device::Cpu),
    };
    Some((model.expect("the model loads"), tokenizer))
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number") as f32).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("a list").iter().map(|v| v.as_u64().expect("an id") as u32).collect()
}

#[test]
fn forward_pass_equals_transformers() {
    let Some((model, tokenizer)) = open() else { return };
    let template: ChatTemplate = tokenizer.compile_chat_template().expect("compiles").expect("has one");
    for case in json("fixtures/smollm2_e2e/forward.json").as_array().expect("cases") {
        let messages: Vec<Message> = case["messages"]
            .as_array()
            .expect("messages")
            .iter()
            .map(|m| {
                let text = |key: &str| m[key].as_str().expect("text").to_owned();
                Message::new(Role::named(&text("role")).expect("a role"), text("content"))
            })
            .collect();
        let expected_text = case["text"].as_str().expect("text");
        let prompt = messages.last().is_some_and(|m| m.role == Role::User);
        assert_eq!(template.render(&messages, prompt).expect("renders"), expected_text);
        let ids = ids(&case["input_ids"]);
        assert_eq!(tokenizer.encode(expected_text, false).expect("encodes"), ids);

        let scores = token_scores(&model, None, &ids, 8);
        let expected_nll = floats(&case["next_token_nll"]);
        assert_eq!(scores.next_token_nll.len(), expected_nll.len());
        for (i, (found, expected)) in scores.next_token_nll.iter().zip(expected_nll).enumerate() {
            assert!((found - expected).abs() < 1e-3, "loss of token {i}: {found}, expected {expected}");
        }
        let top = &case["last_logits_top8"];
        for (id, expected) in self::ids(&top["ids"]).into_iter().zip(floats(&top["values"])) {
            let found = scores.top_logits.iter().find(|(found, _)| *found == id);
            let (_, found) = found.unwrap_or_else(|| panic!("token {id} is not among the largest"));
            assert!((found - expected).abs() < 5e-3, "logit of token {id}: {found}, expected {expected}");
        }
        if let Some(expected) = case["greedy_text"].as_str().or(case["greedy"].as_str()) {
            let sampling = Sampling::default();
            let request = Prompts {
                ids: &[&ids],
                stop: &[],
                max_new_tokens: 24,
                sampling,
                seeds: &[],
                side_by_side: 1,
            };
            let found = generate(&model, None, request, |_, _| true, &mut || false);
            let found = found.expect("numbers");
            let found = tokenizer.decode(&found[0], false).expect("decodes");
            assert!(found.starts_with(expected), "continues with {found:?}, expected {expected:?}");
        }
    }
}

struct Quiet(Vec<StepRecord>);

impl Observer for Quiet {
    fn on_step(&mut self, record: &StepRecord, _: u64) {
        self.0.push(record.clone());
    }
    fn on_evaluation(&mut self, _: &EvaluationRecord) {}
    fn should_stop(&mut self) -> bool {
        false
    }
}

/// The settings of `peft_curve.json`.
fn reference_options() -> TrainOptions {
    TrainOptions { batch_size: 4, ..TrainOptions::plain(Duration::Epochs(1.0), 2e-4) }
}

/// Trains on the reference's rows, in its order, and holds every step against the reference `curve`.
fn assert_steps_equal(
    parameters: &mut Parameters<'_>,
    tokenizer: &Tokenizer,
    options: &TrainOptions,
    curve: &str,
    (loss_tolerance, norm_tolerance): (f64, f64),
) {
    let data = Dataset::load(root().join("fixtures/data/e2e_train_64.jsonl"), tokenizer, Options::default());
    let data = data.expect("the data loads");
    let out = tempfile::tempdir().expect("a folder");
    let mut run = RunLock::take(&out.path().join("run"))
        .and_then(|lock| RunFolder::create(lock, RunInfo::default()))
        .expect("a run folder");
    let mut seen = Quiet(Vec::new());
    let data = TrainData { training: &data, evaluation: None, reference: None, cache: None, frozen: None };
    train(parameters, data, options, Start::default(), &mut run, &mut seen).expect("trains");

    let curve = json(curve);
    let steps = curve["steps"].as_array().expect("steps");
    assert_eq!(seen.0.len(), steps.len());
    for (found, expected) in seen.0.iter().zip(steps) {
        let value = |key: &str| expected[key].as_f64().expect("a number");
        let (loss, norm) = (found.loss - value("loss"), found.grad_norm / value("grad_norm") - 1.0);
        println!("step {:>2}: loss {:+.1e}, gradient norm {:+.1e} relative", found.step, loss, norm);
        assert!(loss.abs() < loss_tolerance, "step {}: loss {}", found.step, found.loss);
        assert!(norm.abs() < norm_tolerance, "step {}: gradient norm {}", found.step, found.grad_norm);
        assert_eq!(found.supervised_tokens, value("supervised_tokens") as u64);
    }
}

/// [`assert_steps_equal`], from the reference's adapter; gives the adapter at the end.
fn assert_adapter_steps_equal(
    model: &Model,
    tokenizer: &Tokenizer,
    options: &TrainOptions,
    curve: &str,
    tolerances: (f64, f64),
) -> Adapter {
    let start = root().join("fixtures/smollm2_e2e/adapter_init");
    let mut adapter = adapter::load(&start, model.config(), Device::Cpu).expect("the adapter loads");
    let mut parameters = Parameters::Adapter { model, adapter: &mut adapter };
    assert_steps_equal(&mut parameters, tokenizer, options, curve, tolerances);
    adapter
}

/// All weights, with weight decay, against PyTorch (`scripts/peft_lora_cpu.py --full`).
#[test]
fn eight_steps_of_full_fine_tuning_equal_pytorch() {
    let Some((mut model, tokenizer)) = open() else { return };
    model.train(&WeightSelection::all()).expect("all");
    let options =
        TrainOptions { batch_size: 4, weight_decay: 0.01, ..TrainOptions::plain(Duration::Steps(8), 2e-5) };
    let curve = "fixtures/smollm2_e2e/full_curve.json";
    assert_steps_equal(&mut Parameters::Weights(&mut model), &tokenizer, &options, curve, (1e-3, 0.005));
}

/// Over NF4 with double quantisation, against PEFT over bitsandbytes
/// (`scripts/peft_lora_cpu.py --quant nf4 --adapter` on the folder of `scripts/gguf_to_safetensors.py`).
#[test]
fn sixteen_qlora_steps_equal_peft_and_bitsandbytes() {
    let quantization = Quantization::FourBit { code: Code::Nf4, block_len: 64, double: true };
    let base = BaseQuantization { quantization, head: false };
    let Some((model, tokenizer)) = open_as(Some(base)) else { return };
    let activations = ActivationPolicy { recompute: Recompute::Full, ..ActivationPolicy::default() };
    let options = TrainOptions { activations, ..reference_options() };
    let curve = "fixtures/smollm2_e2e/peft_nf4dq_curve.json";
    assert_adapter_steps_equal(&model, &tokenizer, &options, curve, (1e-4, 0.005));
}

#[test]
fn sixteen_training_steps_equal_peft() {
    let Some((model, tokenizer)) = open() else { return };
    let curve = "fixtures/smollm2_e2e/peft_curve.json";
    let adapter = assert_adapter_steps_equal(&model, &tokenizer, &reference_options(), curve, (1e-3, 0.005));

    // AdamW divides by the root of the second moment, so an element whose gradient is zero up to rounding may step either
    // way, and what PyTorch arrives at depends on its instructions. `adapter_final` is what it computes with AVX2, to the
    // bit; with AVX-512 it differs from that by 3.1e-3 in the worst tensor and by more than 1e-3 in 7 of 240 (and
    // `adapter_final` from its own result in f64 by 4.6e-3 and in 12).
    let final_errors = |folder: &str| {
        let expected =
            adapter::load(&root().join(folder), model.config(), Device::Cpu).expect("the adapter loads");
        let errors = relative_errors(&adapter, &expected);
        let beyond: Vec<_> = errors.iter().filter(|(_, e)| *e > 1e-3).cloned().collect();
        println!("{folder}: worst {:?}, {} of {} tensors beyond 1e-3", errors[0], beyond.len(), errors.len());
        assert!(errors[errors.len() / 2].1 < 2e-4, "{folder}: median {:?}", errors[errors.len() / 2]);
        beyond
    };
    let beyond = final_errors("fixtures/smollm2_e2e/adapter_final");
    assert!(beyond.len() <= 8 && beyond.iter().all(|(_, e)| *e < 4e-3), "beyond 1e-3: {beyond:?}");
    if cpu_instruction_set(ComputeDtype::F32) == "avx512" {
        let beyond = final_errors("fixtures/smollm2_e2e/adapter_final_avx512");
        assert!(beyond.is_empty(), "beyond 1e-3: {beyond:?}");
    } else {
        println!("skipped: adapter_final_avx512 is of processors with AVX-512");
    }
}

/// The forward pass of bf16 activations is that of f32, so only what the rounded gradients did to the adapter tells in
/// the loss. It was found off by 2.6e-4 at most, in the last step; the tolerance is that of f32.
#[test]
fn sixteen_steps_with_bf16_activations_follow_peft() {
    let Some((model, tokenizer)) = open() else { return };
    let activations = ActivationPolicy { dtype: ActivationDtype::Bf16, ..ActivationPolicy::default() };
    let options = TrainOptions { activations, ..reference_options() };
    let curve = "fixtures/smollm2_e2e/peft_curve.json";
    assert_adapter_steps_equal(&model, &tokenizer, &options, curve, (1e-3, 0.005));
}

/// With bf16 products every loss is that of a slightly different model: found off by 3.6e-3 at most and the gradient norm by
/// 0.9 % with AVX512-BF16, by 6.6e-3 and 0.7 % with AMX. The tolerances are about twice the first, for losses and norms.
#[test]
fn sixteen_steps_computed_in_bf16_follow_peft() {
    let Some((mut model, tokenizer)) = open() else { return };
    model.set_compute_dtype(ComputeDtype::Bf16);
    let curve = "fixtures/smollm2_e2e/peft_curve.json";
    assert_adapter_steps_equal(&model, &tokenizer, &reference_options(), curve, (8e-3, 0.02));
}

/// With int8 products every loss is that of a model whose every product differs by about a percent: found off by 1.7e-2 at most,
/// either way, and the gradient norm by 4.8 %. The tolerances are about twice that.
#[test]
fn sixteen_steps_computed_in_int8_follow_peft() {
    let Some((mut model, tokenizer)) = open() else { return };
    model.set_compute_dtype(ComputeDtype::Int8);
    let curve = "fixtures/smollm2_e2e/peft_curve.json";
    assert_adapter_steps_equal(&model, &tokenizer, &reference_options(), curve, (4e-2, 0.1));
}

/// Frobenius norm of the difference over that of the expected, per tensor, worst first.
fn relative_errors(found: &Adapter, expected: &Adapter) -> Vec<(String, f64)> {
    let (found, expected) =
        (named_tensors(found, found.tensors()), named_tensors(expected, expected.tensors()));
    let norm =
        |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let mut errors: Vec<(String, f64)> = found
        .iter()
        .zip(&expected)
        .map(|(f, e)| {
            assert_eq!(f.name, e.name);
            let difference = norm(&mut f.values.iter().zip(&e.values).map(|(f, e)| f - e));
            (f.name.clone(), difference / norm(&mut e.values.iter().copied()))
        })
        .collect();
    errors.sort_by(|a, b| b.1.total_cmp(&a.1));
    errors
}
