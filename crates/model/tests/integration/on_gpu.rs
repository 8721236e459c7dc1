//! Whole models on a device whose kernels the CPU runs, with sanitizers and every call held to its rules
//! (`kernels/tests/cuda_shim`): logits, losses and gradients of tiny models against those of transformers and PEFT, and what
//! else a run asks of a device against the CPU.

use crate::common::{Case, Packed, TOLERANCE, assert_close, fixture, gguf_fixture, tree_of};
use crate::driver::gpu;
use lorafit_kernels::gpu::Float;
use lorafit_kernels::ops::adamw;
use lorafit_kernels::ops::dropout::Mask;
use lorafit_kernels::quant::four_bit::Code;
use lorafit_kernels::quant::{Format, Quantization};
use lorafit_kernels::{Device, Tensor};
use lorafit_model::adapter::{Adapter, LoraConfig, Targets, named_tensors};
use lorafit_model::weights::ModelFiles;
use lorafit_model::{
    ActivationDtype, ActivationPolicy, ActiveAdapter, BaseQuantization, Buffers, Config, Distribution,
    Gradients, Model, Prompts, RandomWeights, Recompute, Sampling, WeightSelection, generate,
};

/// `None` where kernels cannot be compiled.
fn device(float: Float) -> Option<Device> {
    gpu(float).map(Device::Cuda)
}

#[track_caller]
fn equals_the_reference(name: &str) {
    let Some(device) = device(Float::F32) else { return };
    let case = Case::on(device, name);
    case.assert_logits(name);
    case.assert_loss_and_gradients(name);
}

#[test]
fn llama_equals_transformers_and_peft() {
    equals_the_reference("llama");
}

/// Biases on projections.
#[test]
fn qwen2_equals_transformers_and_peft() {
    equals_the_reference("qwen2");
}

/// Windows and caps, four norms, embeddings that are scaled.
#[test]
fn gemma2_equals_transformers_and_peft() {
    equals_the_reference("gemma2");
}

/// Two rotations, norms of heads.
#[test]
fn gemma3_equals_transformers_and_peft() {
    equals_the_reference("gemma3");
}

/// Joined matrices.
#[test]
fn phi3_equals_transformers_and_peft() {
    equals_the_reference("phi3");
}

/// Windows.
#[test]
fn mistral_and_ministral_equal_transformers_and_peft() {
    equals_the_reference("mistral_window");
    equals_the_reference("ministral");
}

/// Layers that do not rotate.
#[test]
fn smollm3_equals_transformers_and_peft() {
    equals_the_reference("smollm3");
}

/// No windows where the next has some.
#[test]
fn olmo2_equals_transformers_and_peft() {
    equals_the_reference("olmo2");
}

/// Multipliers.
#[test]
fn granite_equals_transformers_and_peft() {
    equals_the_reference("granite");
}

/// Norms of all heads at once, and none before.
#[test]
fn olmo3_equals_transformers_and_peft() {
    equals_the_reference("olmo3");
}

/// Neighbours that are turned in a part of a head.
#[test]
fn glm4_equals_transformers_and_peft() {
    equals_the_reference("glm4");
}

/// Halves beside each other, norms by mean and variance, layers that do not rotate.
#[test]
fn cohere2_equals_transformers_and_peft() {
    equals_the_reference("cohere2");
}

/// Biases of norms, and no gate.
#[test]
fn starcoder2_equals_transformers_and_peft() {
    equals_the_reference("starcoder2");
}

/// Learned positions, and matrices that files have the other way.
#[test]
fn gpt2_equals_transformers_and_peft() {
    equals_the_reference("gpt2");
}

/// Queries that grow with their position.
#[test]
fn ministral3_equals_transformers_and_peft() {
    equals_the_reference("ministral3");
}

/// Norms of heads, and an embedding that is the head.
#[test]
fn qwen3_equals_transformers_and_peft() {
    equals_the_reference("qwen3");
}

fn tree() -> Packed {
    tree_of(96)
}

type LossAndGradients = (f64, Vec<(String, Vec<f32>)>);

#[track_caller]
fn assert_same(found: &LossAndGradients, expected: &LossAndGradients, tolerance: f32, what: &str) {
    assert_close(&[found.0 as f32], &[expected.0 as f32], tolerance, &format!("{what}: loss"));
    assert_eq!(found.1.len(), expected.1.len(), "{what}");
    for ((name, found), (_, expected)) in found.1.iter().zip(&expected.1) {
        assert_close(found, expected, tolerance, &format!("{what}: {name}"));
    }
}

/// Gradients of a tree, which have the same bits when repeated and when blocks are computed again.
#[track_caller]
fn repeatable_gradients(case: &Case, what: &str) -> LossAndGradients {
    let streams = [tree()];
    let found = case.gradients(&streams);
    let full = ActivationPolicy { recompute: Recompute::Full, ..ActivationPolicy::default() };
    assert!(found == case.gradients(&streams), "{what}: other bits when repeated");
    assert!(found == case.gradients_with(&streams, full), "{what}: other bits when recomputed");
    found
}

#[test]
fn gradients_of_a_tree_equal_the_cpu() {
    let Some(device) = device(Float::F32) else { return };
    let found = repeatable_gradients(&Case::on(device, "llama"), "llama");
    assert_same(&found, &Case::open("llama").gradients(&[tree()]), TOLERANCE, "llama");
}

/// Weights, activations and their gradients are rounded to bf16, each off by up to 2^-9, again and again: gradients are off by
/// 6.2e-2 of their largest value at most here.
const BF16_TOLERANCE: f32 = 0.1;

/// Losses are off by 1.6e-3 at most.
#[test]
fn gradients_in_bf16_follow_those_in_f32() {
    let Some(device) = device(Float::Bf16) else { return };
    for name in ["llama", "qwen3"] {
        let found = repeatable_gradients(&Case::on(device, name), name);
        let expected = Case::open(name).gradients(&[tree()]);
        assert_same(&found, &expected, BF16_TOLERANCE, name);
        assert_close(&[found.0 as f32], &[expected.0 as f32], 1.0 / 256.0, name);
    }
}

/// Heads of a size that there are kernels of tensor cores for.
#[test]
fn gradients_through_tensor_cores_follow_those_in_f32() {
    let Some(device) = device(Float::Bf16) else { return };
    let config = ModelFiles::open(&fixture("qwen2")).expect("the fixture").config().clone();
    let config = Config { head_dim: 64, num_attention_heads: 2, num_key_value_heads: 1, ..config };
    let distribution = Distribution::Normal { std: 0.1 };
    let weights = RandomWeights { distribution, format: Format::BF16, quantization: None, seed: 1 };
    let gradients = |device| {
        let mut case = Case::open("qwen2");
        case.model = Model::random(&config, weights, device);
        let lora = LoraConfig::new(Targets::AllLinear);
        case.adapter = Adapter::init(&config, &lora, 1, device).expect("an adapter");
        case.gradients(&[tree()])
    };
    assert_same(&gradients(device), &gradients(Device::Cpu), BF16_TOLERANCE, "random");
}

/// What is kept of blocks for backward is rounded to bf16, where a difference in the last bits can decide the side.
#[test]
fn gradients_of_bf16_activations_equal_the_cpu() {
    let Some(device) = device(Float::F32) else { return };
    let activations = ActivationPolicy { dtype: ActivationDtype::Bf16, ..ActivationPolicy::default() };
    let gradients = |device| Case::on(device, "llama").gradients_with(&[tree()], activations);
    assert_same(&gradients(device), &gradients(Device::Cpu), 2.0f32.powi(-9), "llama");
}

#[test]
fn gradients_over_a_quantised_base_equal_the_cpu() {
    let Some(device) = device(Float::F32) else { return };
    let quantization = Quantization::FourBit { code: Code::Nf4, block_len: 64, double: true };
    let files = ModelFiles::open(&fixture("llama")).expect("the fixture");
    let gradients = |device| {
        let base = BaseQuantization { quantization, head: false };
        let model = Model::load_quantized(&files, base, device).expect("quantised");
        Case::with(model, "llama", &fixture("llama").join("expected.safetensors")).gradients(&[tree()])
    };
    assert_same(&gradients(device), &gradients(Device::Cpu), TOLERANCE, "NF4");
}

/// Of several types, with the rows of queries and keys in another order.
#[test]
fn logits_of_a_gguf_file_equal_those_of_the_dequantised() {
    let Some(device) = device(Float::F32) else { return };
    let files = ModelFiles::open(&gguf_fixture("llama-mixed.gguf")).expect("the fixture");
    let model = Model::load(&files, device).expect("loads");
    Case::with(model, "llama", &gguf_fixture("llama-mixed.expected.safetensors")).assert_logits("mixed");
}

/// Norms, biases, embedding and head, too.
#[test]
fn loss_and_gradient_of_every_weight_equal_pytorch() {
    let Some(device) = device(Float::F32) else { return };
    for name in ["qwen2", "qwen3", "gpt2"] {
        Case::trained_on(device, name, &WeightSelection::all()).assert_loss_and_weight_gradients(name);
    }
}

#[test]
fn generated_tokens_are_those_of_the_cpu() {
    let Some(device) = device(Float::F32) else { return };
    let generated = |device| {
        let case = Case::on(device, "qwen3");
        let (prompts, adapter) = ([&case.ids[0][..5], &case.ids[1][..9]], Some(&case.adapter));
        {
            let sampling = Sampling::default();
            let prompts = Prompts {
                ids: &prompts,
                stop: &[],
                max_new_tokens: 4,
                sampling,
                seeds: &[],
                side_by_side: 16,
            };
            generate(&case.model, adapter, prompts, |_, _| true, &mut || false)
        }
    };
    assert_eq!(generated(device), generated(Device::Cpu));
}

#[test]
fn a_step_with_dropout_equals_the_cpu() {
    let Some(device) = device(Float::F32) else { return };
    let step = adamw::Step {
        // Beside it, gradients that are all but zero are not made large.
        eps: 1e-3,
        weight_decay: 0.01,
        gradient_scale: 0.5,
        ..adamw::Step::new(1, 1e-2)
    };
    let stepped = |device| {
        let (mut case, p, policy) = (Case::on(device, "llama"), tree(), ActivationPolicy::default());
        let (tokens, dropping, mask) = (p.ids.len(), case.adapter_with_dropout(), Mask { p: 0.4, seed: 5 });
        let mut gradients = Gradients::new(&case.model, Some(&case.adapter));
        let (model, adapter) = (&case.model, Some(&case.adapter));
        let mut buffers = Buffers::for_training(model, Some(&dropping), &gradients, tokens, tokens, policy);
        model.loss_and_gradient(
            ActiveAdapter { adapter, mask: Some(mask), noise: None },
            p.stream(),
            0.2,
            &mut buffers,
            &mut gradients,
        );
        for (parameter, gradient) in case.adapter.tensors_mut().zip(gradients.tensors()) {
            let len = parameter.len();
            let [mut first, mut second] = [0; 2].map(|_| Tensor::zeros(device, len));
            adamw::step(parameter, gradient, &mut first, &mut second, len, &step);
        }
        named_tensors(&case.adapter, case.adapter.tensors())
    };
    let before = Case::open("llama");
    let before = named_tensors(&before.adapter, before.adapter.tensors());
    for ((found, expected), before) in stepped(device).iter().zip(&stepped(Device::Cpu)).zip(&before) {
        let moved = |after: &[f32]| after.iter().zip(&before.values).map(|(a, b)| a - b).collect::<Vec<_>>();
        assert_close(&moved(&found.values), &moved(&expected.values), 1e-3, &expected.name);
    }
}
