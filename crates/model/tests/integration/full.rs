//! Gradients of every weight of tiny models of each architecture against those that PyTorch computed from the same
//! files (`scripts/make_tiny_fixtures.py`, `full.safetensors`), and what is left out of them.

use crate::common::{Case, assert_close, fixture, gguf_fixture};
use lorafit_kernels::Device;
use lorafit_model::weights::ModelFiles;
use lorafit_model::{ActivationDtype, ActivationPolicy, Model, Parameters, Recompute, WeightSelection};

const MODELS: [&str; 4] = ["llama", "llama_bias", "qwen2", "qwen3"];

fn select(modules: &str, layers: Option<Vec<usize>>) -> WeightSelection {
    WeightSelection { modules: modules.parse().expect("modules"), layers }
}

/// A model whose selected weights are trained, with the samples of its folder.
fn open(name: &str, selection: &WeightSelection) -> Case {
    Case::trained_on(Device::Cpu, name, selection)
}

#[test]
fn loss_and_gradient_of_every_weight_equal_pytorch() {
    for name in MODELS {
        open(name, &WeightSelection::all()).assert_loss_and_weight_gradients(name);
    }
}

/// What is selected decides where backward stops; each place must give the gradients that a whole backward gives.
#[test]
fn gradients_of_a_selection_are_those_of_all_weights() {
    for name in MODELS {
        let (_, all) = open(name, &WeightSelection::all()).weight_gradients(ActivationPolicy::default());
        let own_head = all.contains_key("lm_head.weight");
        let biased = all.keys().any(|weight| weight.ends_with(".bias"));
        let head_norms = all.keys().any(|weight| weight.ends_with("q_norm.weight"));
        for modules in [
            "q_proj",
            "v_proj",
            "o_proj",
            "up_proj",
            "down_proj",
            "mlp",
            "self_attn",
            "embed_tokens",
            "norms",
            "input_layernorm",
            "post_attention_layernorm",
            "norm",
            "lm_head",
            "biases",
            "k_norm",
            r"regex:model\.layers\.1\..*",
        ] {
            let missing = modules == "lm_head" && !own_head
                || modules == "biases" && !biased
                || modules == "k_norm" && !head_norms;
            if missing {
                continue;
            }
            for layers in [None, Some(vec![1])] {
                let (_, some) =
                    open(name, &select(modules, layers)).weight_gradients(ActivationPolicy::default());
                for (weight, found) in &some {
                    // Sums over weights that lie in f32 and in order are cut as those over trained ones are.
                    assert_close(found, &all[weight], 1e-5, &format!("{name} {modules}: {weight}"));
                }
            }
        }
    }
}

#[test]
fn recomputed_gradients_equal_kept_ones_bit_for_bit() {
    for name in ["llama", "qwen3"] {
        for selection in [WeightSelection::all(), select("down_proj,norm", Some(vec![1]))] {
            let case = open(name, &selection);
            for dtype in [ActivationDtype::F32, ActivationDtype::Bf16] {
                let of = |recompute| case.weight_gradients(ActivationPolicy { recompute, dtype });
                assert!(of(Recompute::None) == of(Recompute::Full), "{name} {dtype:?}");
            }
        }
    }
}

/// Of every stored type, with the rows of queries and keys back in their order: a trained weight begins as what was
/// stored.
#[test]
fn trained_weights_begin_as_they_were_stored() {
    for path in [gguf_fixture("llama-mixed.gguf"), gguf_fixture("llama-q8_0.gguf"), fixture("llama_bf16")] {
        let files = ModelFiles::open(&path).expect("opens");
        let mut model = Model::load(&files, Device::Cpu).expect("loads");
        let before = model.weight_bytes(None).expect("no selection");
        model.train(&WeightSelection::all()).expect("all");
        let shapes = model.trained_shapes();
        let bytes: usize = shapes.iter().map(|shape| 4 * shape.len()).sum();
        assert!(before < bytes as u64);
        assert_eq!(model.weight_bytes(Some(&WeightSelection::all())).expect("all"), bytes as u64);
        for (shape, tensor) in shapes.iter().zip(Parameters::Weights(&mut model).tensors()) {
            let stored = match shape.dims[..] {
                [rows, cols] => files.weight(&shape.name, rows, cols).expect("there").to_vec(),
                _ => files.vector(&shape.name, shape.len()).expect("there"),
            };
            assert!(tensor.to_vec(tensor.len()) == stored, "{}: {}", path.display(), shape.name);
        }
    }
}
