//! The families beside Llama, Mistral, Qwen2 and Qwen3, windows, and stretched rotations: everything that is claimed of a model
//! is claimed of each, against numbers of transformers and PEFT (`scripts/tiny_families.py`).

use crate::common::{Case, Packed, TOLERANCE, assert_close, fixture, generated, tree_of};
use lorafit_kernels::Device;
use lorafit_kernels::ops::cross_entropy::Target;
use lorafit_kernels::ops::matmul::FEW_ROWS;
use lorafit_model::adapter::{Adapter, LoraConfig, Targets};
use lorafit_model::export::{self, GgufModel};
use lorafit_model::merge::Merged;
use lorafit_model::weights::{Gguf, ModelFiles, SaveDtype, write_tensors};
use lorafit_model::{
    ActivationDtype, ActivationPolicy, Buffers, Config, Gradients, Model, Parameters, Recompute, Stream,
    WeightSelection,
};

const FAMILIES: [&str; 25] = [
    "mistral_window",
    "ministral",
    "ministral3",
    "qwen2_window",
    "qwen3_window",
    "qwen3_yarn",
    "llama_yarn",
    "llama_dynamic",
    "llama_linear",
    "gemma2",
    "gemma2_plain",
    "gemma3",
    "gemma3_pattern",
    "phi3",
    "phi3_partial",
    "phi3_longrope",
    "smollm3",
    "smollm3_window",
    "granite",
    "olmo2",
    "olmo3",
    "glm4",
    "cohere2",
    "starcoder2",
    "gpt2",
];

#[test]
fn logits_equal_transformers_with_and_without_the_adapter() {
    for name in FAMILIES {
        Case::open(name).assert_logits(name);
    }
}

#[test]
fn loss_and_every_gradient_equal_peft() {
    for name in FAMILIES {
        Case::open(name).assert_loss_and_gradients(name);
    }
}

/// Folders with `full.safetensors`.
const FULL: [&str; 12] = [
    "gpt2",
    "ministral3",
    "gemma2",
    "gemma3",
    "phi3",
    "smollm3",
    "granite",
    "olmo2",
    "olmo3",
    "glm4",
    "cohere2",
    "starcoder2",
];

#[test]
fn loss_and_gradient_of_every_weight_equal_pytorch() {
    for name in FULL {
        Case::trained_on(Device::Cpu, name, &WeightSelection::all()).assert_loss_and_weight_gradients(name);
    }
}

/// What is selected decides where backward stops; each place gives the gradients that a whole backward gives.
#[test]
fn gradients_do_not_depend_on_where_backward_may_stop() {
    for name in FULL {
        let whole = Case::trained_on(Device::Cpu, name, &WeightSelection::all());
        let (_, all) = whole.weight_gradients(ActivationPolicy::default());
        for weight in all.keys().filter(|weight| weight.contains(".1.")) {
            let path = weight.rsplit_once('.').expect("a kind").0.replace('.', r"\.");
            let modules = format!("regex:{path}").parse().expect("a pattern");
            let case = Case::trained_on(Device::Cpu, name, &WeightSelection { modules, layers: None });
            let (_, some) = case.weight_gradients(ActivationPolicy::default());
            assert_close(&some[weight], &all[weight], 1e-5, &format!("{name} {weight}"));
        }
    }
}

/// `config.json` in the words of transformers 4 and of 5 is the same model.
#[test]
fn configurations_in_older_words_are_the_same() {
    let mut seen = 0;
    for name in FAMILIES {
        let Ok(classic) = std::fs::read_to_string(fixture(name).join("config_classic.json")) else {
            continue;
        };
        let new = std::fs::read_to_string(fixture(name).join("config.json")).expect("a configuration");
        let read = |text: &str| Config::from_hf_json(text).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(read(&classic), read(&new), "{name}");
        seen += 1;
    }
    assert!(seen >= 15, "{seen}");
}

/// Running blocks again in backward is the same arithmetic in the same order.
#[test]
fn recomputed_gradients_equal_kept_ones_bit_for_bit() {
    for name in FAMILIES {
        Case::open(name).assert_recomputed_alike(name);
    }
}

/// Samples that begin alike share their beginning. Each of them alone, as a plain row, has the same logits: windows are
/// counted along the path of a sample.
#[test]
fn a_tree_has_the_logits_of_its_samples() {
    for name in FAMILIES {
        let case = Case::open(name);
        let config = case.model.config();
        let tree = tree_of(config.vocab_size);
        let logits = |packed: &Packed| {
            let adapter = Some(&case.adapter);
            let mut buffers = Buffers::for_evaluation(config, adapter, Device::Cpu, packed.ids.len());
            case.model.all_logits(adapter, packed.stream(), &mut buffers)
        };
        let (of_tree, width) = (logits(&tree), config.vocab_size);
        for rows in paths(&tree) {
            let ids = rows.iter().map(|row| tree.ids[*row]).collect();
            let alone = logits(&Packed::single(ids));
            for (i, row) in rows.iter().enumerate() {
                // The lengths decide the frequencies of some: the longest sample of a tree for all of it.
                let (found, expected) = (&of_tree[row * width..][..width], &alone[i * width..][..width]);
                if !["llama_dynamic", "phi3_longrope"].contains(&name) {
                    assert_close(found, expected, TOLERANCE, &format!("{name}, token {i}"));
                }
            }
        }
    }
}

/// The rows of each sample of a stream, from root to leaf.
fn paths(tree: &Packed) -> Vec<Vec<usize>> {
    let list = tree.segments.as_slice();
    let is_parent = |i: usize| list.iter().any(|segment| segment.parent == Some(i));
    let path = |leaf: usize| {
        let (mut segments, mut next) = (Vec::new(), Some(leaf));
        while let Some(i) = next {
            segments.push(list[i]);
            next = list[i].parent;
        }
        segments.iter().rev().flat_map(|segment| segment.start..segment.start + segment.len).collect()
    };
    (0..list.len()).filter(|i| !is_parent(*i)).map(path).collect()
}

#[test]
fn cached_generation_equals_the_whole_computed_again() {
    for name in FAMILIES {
        // Its frequencies change with every token beyond its context; what is cached keeps those it had, as in transformers.
        if name != "llama_dynamic" {
            generated(&Case::open(name), name);
        }
    }
}

/// A model that was loaded and trained is written as its files had it, norms that files have less one included.
#[test]
fn a_saved_model_is_the_one_that_was_loaded() {
    for name in FULL {
        let files = ModelFiles::open(&fixture(name)).expect("opens");
        let mut model = Model::load(&files, Device::Cpu).expect("loads");
        model.train(&WeightSelection::all()).expect("all");
        let mut bytes = Vec::new();
        write_tensors(&mut bytes, model.sources(SaveDtype::F32)).expect("written");
        let config = std::fs::read_to_string(fixture(name).join("config.json")).expect("a configuration");
        let bytes = lorafit_kernels::SharedBytes::from_vec(bytes);
        let again = ModelFiles::from_safetensors(&fixture(name), &config, bytes).expect("opens again");
        let mut again = Model::load(&again, Device::Cpu).expect("loads again");
        again.train(&WeightSelection::all()).expect("all");
        let (shapes, found) = (model.trained_shapes(), Parameters::Weights(&mut again));
        for ((shape, before), after) in
            shapes.iter().zip(Parameters::Weights(&mut model).tensors()).zip(found.tensors())
        {
            // One less and one more is off by a rounding at most.
            let (before, after) = (before.to_vec(before.len()), after.to_vec(after.len()));
            assert_close(&after, &before, 1.2e-7, &format!("{name} {}", shape.name));
        }
    }
}

/// Every projection of every family can be selected by its name, and the plan counts what is made.
#[test]
fn every_projection_has_a_name_that_selects_it() {
    for name in FAMILIES {
        let config = Case::open(name).model.config().clone();
        for module in config.modules() {
            let targets = Targets::names([module.name()].into_iter()).expect("known");
            let lora = LoraConfig::new(targets);
            let adapter = Adapter::init(&config, &lora, 1, Device::Cpu).expect("selected");
            assert_eq!(adapter.parameters() as u64, lora.parameters(&config).expect("counted"), "{name}");
        }
    }
}

/// A window that reaches over the whole row is none.
#[test]
fn a_window_beyond_the_row_changes_nothing() {
    let case = Case::open("gemma2");
    let logits = |window: usize| {
        let config = std::fs::read_to_string(fixture("gemma2").join("config.json")).expect("there");
        let config = config.replace("\"sliding_window\": 6", &format!("\"sliding_window\": {window}"));
        let bytes = std::fs::read(fixture("gemma2").join("model.safetensors")).expect("there");
        let bytes = lorafit_kernels::SharedBytes::from_vec(bytes);
        let files = ModelFiles::from_safetensors(&fixture("gemma2"), &config, bytes).expect("opens");
        let model = Model::load(&files, Device::Cpu).expect("loads");
        let p = case.packed(&[1]);
        let mut buffers = Buffers::for_evaluation(model.config(), None, Device::Cpu, p.ids.len());
        model.all_logits(None, Stream { targets: &[], ..p.stream() }, &mut buffers)
    };
    let length = case.ids[1].len();
    assert!(logits(length) == logits(4096), "bit for bit");
    assert!(logits(length - 1) != logits(4096));
}

/// A folder written as a GGUF file and read again is the same model, or it is told why not.
#[test]
fn a_written_gguf_file_is_the_same_model() {
    let mut refused = Vec::new();
    for name in FAMILIES {
        let files = ModelFiles::open(&fixture(name)).expect("opens");
        let config = files.config();
        if export::unsaid(config).is_some() {
            refused.push(name);
            continue;
        }
        let none = Adapter::none(config);
        let merged = Merged::new(&files, &none, Some(SaveDtype::F32)).expect("merges");
        let mut bytes = Vec::new();
        let f32s = Some("f32".parse().expect("a type"));
        GgufModel::new(&files, &merged, f32s, Vec::new()).write(&mut bytes).expect("written");
        let bytes = lorafit_kernels::SharedBytes::from_vec(bytes);
        let gguf = Gguf::from_bytes(std::path::Path::new("written.gguf"), bytes).expect("a GGUF file");
        let again = ModelFiles::from_gguf(gguf).expect("the same architecture");
        let (found, expected) = (again.config().rope_frequencies(), config.rope_frequencies());
        assert_close(&found, &expected, 1e-6, name);
        let unsaid = export::unsaid_window(config).is_some();
        let read = Config {
            // Mistral is a Llama there.
            arch: if name == "mistral_window" { config.arch } else { again.config().arch },
            rope: config.rope.clone(),
            initializer_range: config.initializer_range,
            sliding_window: if unsaid { config.sliding_window } else { again.config().sliding_window },
            windowed: if unsaid { config.windowed.clone() } else { again.config().windowed.clone() },
            ..again.config().clone()
        };
        // Numbers are f32 there.
        let close = |a: f32, b: f32| (a - b).abs() <= 1e-6 * a.abs();
        assert!(close(read.logit_scale, config.logit_scale), "{name}");
        assert_eq!(Config { logit_scale: config.logit_scale, ..read }, *config, "{name}");
        let values = |files: &ModelFiles| {
            let mut bytes = Vec::new();
            let model = Model::load(files, Device::Cpu).expect("loads");
            write_tensors(&mut bytes, model.sources(SaveDtype::F32)).expect("written");
            bytes
        };
        let (found, expected) = (values(&again), values(&files));
        assert_eq!(found.len(), expected.len(), "{name}");
        let floats = |bytes: &[u8]| -> Vec<f32> {
            bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).filter(|v| v.abs() < 1e3).collect()
        };
        let (found, expected) = (floats(&found), floats(&expected));
        let off = found.iter().zip(&expected).filter(|(a, b)| (*a - *b).abs() > 2e-7).count();
        assert_eq!((off, found.len()), (0, expected.len()), "{name}");
    }
    // A pattern, a scale or a stretching that llama.cpp has otherwise.
    let expected = ["ministral", "llama_yarn", "llama_dynamic", "gemma2", "gemma3_pattern", "smollm3_window"];
    assert_eq!(refused, expected);
}

/// Rows that no target depends on are left out of the last block after its attention. With targets that weigh nothing on all rows none
/// is, and losses and gradients are the same; so is the loss of an evaluation.
#[test]
fn rows_without_targets_change_nothing() {
    let policies = [
        ActivationPolicy::default(),
        ActivationPolicy { recompute: Recompute::Full, ..ActivationPolicy::default() },
        ActivationPolicy { recompute: Recompute::Blocks(1), dtype: ActivationDtype::Bf16 },
    ];
    for name in FAMILIES {
        let case = Case::open(name);
        let (mut few, mut all) = (case.packed(&[0, 1]), case.packed(&[0, 1]));
        let target =
            |row, weight| Target { row, id: 7 * row % case.model.config().vocab_size as u32, weight };
        let rows = 0..all.ids.len() as u32;
        few.targets = rows.clone().filter(|row| row % 3 > 0).map(|row| target(row, 1.0)).collect();
        all.targets = rows.map(|row| target(row, if row % 3 > 0 { 1.0 } else { 0.0 })).collect();
        // Of fewer rows all are computed.
        assert!(few.targets.len() > FEW_ROWS && few.targets.len() < all.targets.len());
        for policy in policies {
            let computed = |packed: &Packed| {
                let (model, adapter) = (&case.model, Some(&case.adapter));
                let (tokens, mut gradients) = (packed.ids.len(), Gradients::new(model, adapter));
                let mut buffers = Buffers::for_training(model, adapter, &gradients, tokens, tokens, policy);
                // Twice, so that what the first pass left in the buffers is there.
                let (stream, buffers) = (packed.stream(), &mut buffers);
                model.loss_and_gradient(adapter.into(), stream, 1.0, buffers, &mut gradients);
                let losses = model.loss_and_gradient(adapter.into(), stream, 1.0, buffers, &mut gradients);
                let evaluated = model.loss(adapter, stream, buffers).total();
                let gradients: Vec<Vec<f32>> = gradients.tensors().map(|t| t.to_vec(t.len())).collect();
                (losses.total(), evaluated, gradients)
            };
            let ((loss, evaluated, gradients), expected) = (computed(&few), computed(&all));
            for found in [loss, evaluated] {
                assert!((found / expected.0 - 1.0).abs() < 1e-5, "{name}: {found} for {}", expected.0);
            }
            // bf16 rounds what differs in the last bit of f32 to neighbours.
            let tolerance = if policy.dtype == ActivationDtype::Bf16 { 1e-2 } else { 2e-5 };
            for (i, (found, expected)) in gradients.iter().zip(&expected.2).enumerate() {
                assert_close(found, expected, tolerance, &format!("{name}, {policy:?}, gradient {i}"));
            }
        }
    }
}
