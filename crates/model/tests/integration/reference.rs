//! Logits, losses and every adapter gradient of tiny models of each architecture against numbers that
//! transformers and PEFT computed from the same files (`scripts/make_tiny_fixtures.py`).

use crate::common::{Case, assert_close, fixture, generated};
use lorafit_kernels::Device;
use lorafit_kernels::ops::matmul::FEW_ROWS;
use lorafit_model::adapter::{self, Adapter, LoraConfig, Targets, named_tensors};
use lorafit_model::{
    ActivationDtype, ActivationPolicy, ActiveAdapter, Buffers, Gradients, KvCache, Recompute,
};

const MODELS: [&str; 10] = [
    "llama",
    "llama_tied",
    "llama31",
    "llama_bias",
    "mistral",
    "qwen2",
    "qwen3",
    "sharded",
    "llama_bf16",
    "llama_f16",
];

#[test]
fn logits_equal_transformers_with_and_without_the_adapter() {
    for name in MODELS {
        Case::open(name).assert_logits(name);
    }
}

#[test]
fn loss_and_every_gradient_equal_peft() {
    for name in MODELS {
        Case::open(name).assert_loss_and_gradients(name);
    }
}

#[test]
fn packed_batch_gradients_equal_unpacked() {
    let case = Case::open("qwen3");
    let (loss, packed) = case.gradients(&[case.packed(&[0, 1])]);
    let (apart_loss, apart) = case.gradients(&[case.packed(&[1]), case.packed(&[0])]);
    assert!((loss - apart_loss).abs() < 1e-6 * loss);
    for ((name, packed), (_, apart)) in packed.iter().zip(&apart) {
        assert_close(packed, apart, 1e-5, name);
    }
}

/// What is adapted decides where backward stops; each place must give the gradients that a whole backward
/// gives.
#[test]
fn gradients_do_not_depend_on_where_backward_may_stop() {
    let mut case = Case::open("llama");
    let p = case.packed(&[0]);
    for module in ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"] {
        // Adapters with B zero do not change the loss, so dB of a module is the same whatever else is adapted.
        let layers = |layers| LoraConfig {
            layers,
            ..LoraConfig::new(Targets::names([module].into_iter()).expect("a module"))
        };
        let whole = LoraConfig::new(Targets::AllLinear);
        let mut b_gradients = |lora: &LoraConfig| {
            case.adapter = Adapter::init(case.model.config(), lora, 3, Device::Cpu).expect("an adapter");
            let (_, gradients) = case.gradients(std::slice::from_ref(&p));
            gradients.into_iter().filter(|(name, _)| name.contains("lora_B")).collect::<Vec<_>>()
        };
        let all = b_gradients(&whole);
        for selected in [None, Some(vec![1])] {
            let some = b_gradients(&layers(selected.clone()));
            assert_eq!(some.len(), selected.map_or(2, |l| l.len()));
            for (name, values) in &some {
                let (_, expected) = all.iter().find(|(n, _)| n == name).expect("adapted there too");
                assert!(expected.iter().any(|v| *v != 0.0), "{name} has a gradient");
                assert_close(values, expected, 1e-6, name);
            }
        }
    }
}

#[test]
fn a_fresh_adapter_changes_nothing() {
    let case = Case::open("qwen2");
    let lora = LoraConfig::new(Targets::AllLinear);
    let fresh = Adapter::init(case.model.config(), &lora, 1, Device::Cpu).expect("an adapter");
    let p = case.packed(&[0]);
    let mut buffers = Buffers::for_evaluation(case.model.config(), Some(&fresh), Device::Cpu, p.ids.len());
    let base = case.model.all_logits(None, p.stream(), &mut buffers);
    assert_eq!(case.model.all_logits(Some(&fresh), p.stream(), &mut buffers), base);
}

#[test]
fn cached_generation_equals_the_whole_computed_again() {
    for name in ["llama", "qwen3"] {
        generated(&Case::open(name), name);
    }
}

/// So answers to the same prompt are the same whatever they are generated beside.
#[test]
fn logits_of_a_sequence_have_the_same_bits_whatever_is_computed_beside_it() {
    for name in ["llama", "mistral", "qwen3", "llama_bf16"] {
        let case = Case::open(name);
        let (adapter, config) = (Some(&case.adapter), case.model.config());
        let mut buffers = Buffers::for_evaluation(config, adapter, Device::Cpu, 32);
        // Texts of several lengths, and what comes next in each.
        let mut step = |sequences: &[usize]| {
            let mut caches: Vec<KvCache> =
                sequences.iter().map(|_| KvCache::new(config, Device::Cpu, 24)).collect();
            for (sequence, cache) in sequences.iter().zip(&mut caches) {
                let text: Vec<u32> = (0..1 + *sequence as u32).map(|i| (7 * i + 3) % 50).collect();
                case.model.continue_cached(adapter, &[&text], std::slice::from_mut(cache), &mut buffers);
            }
            let next: Vec<[u32; 1]> = sequences.iter().map(|sequence| [*sequence as u32 + 5]).collect();
            let inputs: Vec<&[u32]> = next.iter().map(|token| &token[..]).collect();
            case.model.continue_cached(adapter, &inputs, &mut caches, &mut buffers)
        };
        let alone: Vec<Vec<f32>> = (0..FEW_ROWS).map(|sequence| step(&[sequence])).collect();
        for count in [2, 3, 5, FEW_ROWS] {
            let together: Vec<usize> = (0..count).collect();
            let logits = step(&together);
            for (logits, alone) in logits.chunks(config.vocab_size).zip(&alone) {
                assert!(logits == &alone[..], "{name}, {count} sequences");
            }
        }
    }
}

/// Running blocks again in backward is the same arithmetic in the same order.
#[test]
fn recomputed_gradients_equal_kept_ones_bit_for_bit() {
    for name in ["llama", "qwen2", "qwen3"] {
        let case = Case::open(name);
        let streams = [case.packed(&[0, 1]), case.packed(&[1])];
        for dtype in [ActivationDtype::F32, ActivationDtype::Bf16] {
            let gradients = |recompute| case.gradients_with(&streams, ActivationPolicy { recompute, dtype });
            let kept = gradients(Recompute::None);
            for recompute in [Recompute::Full, Recompute::Blocks(1), Recompute::Blocks(99)] {
                assert!(gradients(recompute) == kept, "{name} {recompute:?} {dtype:?}");
            }
        }
    }
}

/// Rounding to bf16 is off by up to 2^-9. The softmax gradient is a small difference of two rounded sums, so that
/// queries and keys are off by more: by 2.1e-2 at most here, by 1.1e-2 elsewhere.
#[test]
fn gradients_of_bf16_activations_follow_f32_ones_and_losses_are_the_same() {
    for name in ["llama", "qwen2", "qwen3"] {
        let case = Case::open(name);
        let streams = [case.packed(&[0, 1])];
        let (loss, exact) = case.gradients(&streams);
        let bf16 = ActivationPolicy { dtype: ActivationDtype::Bf16, ..ActivationPolicy::default() };
        let (found_loss, found) = case.gradients_with(&streams, bf16);
        assert_eq!(found_loss, loss, "{name}: the forward pass is that of f32");
        assert!(found != exact, "{name}: nothing was rounded");
        for ((what, found), (_, exact)) in found.iter().zip(&exact) {
            assert_close(found, exact, 2.0f32.powi(-5), &format!("{name}, {what}"));
        }
    }
}

/// The masks of dropout are drawn from the place of a value, so they are the same the second time.
#[test]
fn recomputed_gradients_with_dropout_equal_kept_ones_bit_for_bit() {
    use lorafit_kernels::ops::dropout::Mask;
    let case = Case::open("llama");
    let p = case.packed(&[0, 1]);
    let dropping = case.adapter_with_dropout();
    let gradients = |recompute| {
        let activations = ActivationPolicy { recompute, ..ActivationPolicy::default() };
        let (model, adapter, tokens) = (&case.model, Some(&case.adapter), p.ids.len());
        let mut gradients = Gradients::new(model, adapter);
        let mut buffers =
            Buffers::for_training(model, Some(&dropping), &gradients, tokens, tokens, activations);
        let mask = Some(Mask { p: 0.4, seed: 5 });
        model.loss_and_gradient(
            ActiveAdapter { adapter, mask, noise: None },
            p.stream(),
            0.1,
            &mut buffers,
            &mut gradients,
        );
        gradients.tensors().map(|t| t.to_vec(t.len())).collect::<Vec<_>>()
    };
    let kept = gradients(Recompute::None);
    assert!(kept.iter().flatten().any(|g| *g != 0.0));
    assert!(kept == gradients(Recompute::Full));
}

#[test]
fn dropout_gradients_equal_finite_differences() {
    use lorafit_kernels::ops::dropout::Mask;
    let mut case = Case::open("llama");
    let p = case.packed(&[0]);
    let mask = Some(Mask { p: 0.4, seed: 5 });
    let targets = p.targets.len() as f32;
    let mut buffers = Buffers::for_training(
        &case.model,
        Some(&case.adapter_with_dropout()),
        &Gradients::new(&case.model, Some(&case.adapter)),
        p.ids.len(),
        p.ids.len(),
        ActivationPolicy::default(),
    );
    let mut evaluate = |adapter: &Adapter| {
        let mut gradients = Gradients::new(&case.model, Some(adapter));
        let losses = case.model.loss_and_gradient(
            ActiveAdapter { adapter: Some(adapter), mask, noise: None },
            p.stream(),
            1.0 / targets,
            &mut buffers,
            &mut gradients,
        );
        let loss = losses.total() / f64::from(targets);
        (loss, gradients.tensors().map(|t| t.to_vec(t.len())).collect::<Vec<_>>())
    };
    let (_, gradients) = evaluate(&case.adapter);
    // Along the gradient of one tensor the loss changes by the squared norm; both ends are f32 losses.
    let tensors = gradients.len();
    for index in [0, 1, tensors / 2, tensors - 1] {
        let norm = gradients[index].iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        let step = 1e-2 / norm as f32;
        let mut at = |sign: f32| {
            let tensor = case.adapter.tensors_mut().nth(index).expect("a tensor");
            let before = tensor.to_vec(tensor.len());
            let moved: Vec<f32> =
                before.iter().zip(&gradients[index]).map(|(b, g)| b + sign * step * g).collect();
            tensor.write(0, &moved);
            let (loss, _) = evaluate(&case.adapter);
            case.adapter.tensors_mut().nth(index).expect("a tensor").write(0, &before);
            loss
        };
        let slope = (at(1.0) - at(-1.0)) / (2.0 * 1e-2);
        // Second-order terms and f32 losses near 5 leave about 1 %.
        assert!((slope - norm).abs() < 0.01 * norm, "tensor {index}: slope {slope}, gradient norm {norm}");
    }
}

#[test]
fn an_adapter_survives_saving_and_loading_bit_for_bit() {
    let case = Case::open("mistral");
    let dir = tempfile::tempdir().expect("a folder");
    adapter::save(dir.path(), &case.adapter, "some/base").expect("saved");
    let again = adapter::load(dir.path(), case.model.config(), Device::Cpu).expect("loaded");
    let values = |a: &Adapter| named_tensors(a, a.tensors());
    assert_eq!(values(&again), values(&case.adapter));
    let left: Vec<_> =
        std::fs::read_dir(dir.path()).expect("listing").map(|e| e.expect("entry").file_name()).collect();
    assert_eq!(left.len(), 2, "only the two files are left: {left:?}");
}

#[test]
fn an_adapter_of_another_model_is_refused_by_name() {
    let case = Case::open("qwen3");
    let error =
        adapter::load(&fixture("llama/adapter"), case.model.config(), Device::Cpu).expect_err("refused");
    let message = error.to_string();
    assert!(
        message
            .contains("adapter_model.safetensors: base_model.model.model.layers.0.self_attn.q_proj.lora_B")
    );
    assert!(message.contains("is [64, 4], the model needs [128, 4]"), "{message}");
    assert!(error.hint().is_some());
}
