//! Adapters with magnitudes (DoRA) against PEFT, whatever a model does with the outputs that have them: biases, norms of
//! heads, norms after the halves, joined and transposed matrices, halves that are scaled or beside each other, no gate.

use std::path::Path;

use lorafit_kernels::Device;
use lorafit_kernels::gpu::Float;
use lorafit_kernels::quant::Quantization;
use lorafit_kernels::quant::four_bit::Code;
use lorafit_model::adapter::{self, Adapter, LoraConfig, Targets};
use lorafit_model::merge::{Combination, CombineError, MajoritySign, Merged, Method, Weighted, combine};
use lorafit_model::weights::{ModelFiles, write_tensors};
use lorafit_model::{BaseQuantization, Model, Start};
use safetensors::SafeTensors;

use crate::common::{
    Case, LOGITS_TOLERANCE, assert_close, dora_fixture, edit_safetensors, fixture, generated,
};
use crate::driver::gpu;

const NAMES: [&str; 9] =
    ["llama", "qwen2", "qwen3", "gemma2", "phi3", "gpt2", "granite", "cohere2", "starcoder2"];

#[test]
fn logits_loss_and_gradients_equal_peft() {
    for name in NAMES {
        Case::with_dora(Device::Cpu, name).assert_equals_peft(name);
    }
}

/// On a device whose kernels the CPU runs.
#[test]
fn a_device_equals_peft() {
    let Some(device) = gpu(Float::F32).map(Device::Cuda) else { return };
    for name in ["llama", "qwen2", "phi3", "gpt2"] {
        Case::with_dora(device, name).assert_equals_peft(name);
    }
}

/// Outputs are rounded before and after they are multiplied by their factors, once more than without. Gradients are off by 0.107
/// of their largest value at most here, the loss by less than 2^-8.
#[test]
fn a_device_in_bf16_follows_f32() {
    let Some(device) = gpu(Float::Bf16).map(Device::Cuda) else { return };
    let [(loss, found), (expected_loss, expected)] = [device, Device::Cpu].map(|device| {
        let case = Case::with_dora(device, "llama");
        case.gradients(&[case.packed(&[0, 1])])
    });
    assert_close(&[loss as f32], &[expected_loss as f32], 1.0 / 256.0, "loss");
    for ((name, found), (_, expected)) in found.iter().zip(&expected) {
        assert_close(found, expected, 0.15, name);
    }
}

/// A step changes factors and magnitudes, and with them the norms that the next divides by.
#[test]
fn eight_steps_equal_peft() {
    for name in NAMES {
        Case::with_dora(Device::Cpu, name).assert_eight_steps(name);
    }
}

#[test]
fn what_is_computed_again_has_the_bits_of_what_was_kept() {
    for name in NAMES {
        Case::with_dora(Device::Cpu, name).assert_recomputed_alike(name);
    }
}

/// The gradient of one layer alone, and of some projections of it, is a part of the whole.
#[test]
fn adapters_of_some_projections_train_those() {
    for targets in ["o_proj,down_proj", "v_proj,up_proj", "gate_proj", "q_proj,k_proj"] {
        let mut case = Case::with_dora(Device::Cpu, "llama");
        let lora = LoraConfig {
            use_dora: true,
            layers: Some(vec![1]),
            ..LoraConfig::new(targets.parse().expect("targets"))
        };
        case.adapter = Adapter::init(case.model.config(), &lora, 1, Device::Cpu).expect("an adapter");
        case.model.prepare(&mut case.adapter);
        let (_, gradients) = case.gradients(&[case.packed(&[0, 1])]);
        assert_eq!(gradients.len(), 3 * targets.split(',').count(), "{targets}");
        for (name, values) in gradients.iter().filter(|(name, _)| !name.contains("lora_A")) {
            assert!(values.iter().any(|value| *value != 0.0), "{targets}: {name} has no gradient");
        }
    }
}

#[test]
fn a_fresh_adapter_changes_no_bit() {
    for name in ["llama", "qwen2", "gpt2"] {
        let mut case = Case::with_dora(Device::Cpu, name);
        let lora = LoraConfig { use_dora: true, ..LoraConfig::new(Targets::AllLinear) };
        case.adapter = Adapter::init(case.model.config(), &lora, 1, Device::Cpu).expect("an adapter");
        case.model.prepare(&mut case.adapter);
        let [base, adapted] = [None, Some(&case.adapter)].map(|adapter| case.logits(&case.model, adapter, 0));
        // The bias is added after a factor of 1 instead of in the product.
        assert_close(&adapted, &base, 1e-6, name);
    }
}

/// However factors begin, their update is nothing at first, or nearly so.
#[test]
fn magnitudes_begin_with_every_start() {
    for start in [Start::Gaussian, Start::Orthogonal, Start::Pissa] {
        let mut case = Case::with_dora(Device::Cpu, "llama");
        let lora = LoraConfig { use_dora: true, ..LoraConfig::new(Targets::AllLinear) };
        case.adapter = Adapter::begin(&case.model, &lora, start, 1).expect("an adapter");
        case.model.prepare(&mut case.adapter);
        let [base, adapted] = [None, Some(&case.adapter)].map(|adapter| case.logits(&case.model, adapter, 0));
        assert_close(&adapted, &base, LOGITS_TOLERANCE, &format!("{start:?}"));
    }
}

#[test]
fn greedy_answers_from_a_cache_are_those_of_the_whole_text() {
    for name in ["llama", "phi3"] {
        generated(&Case::with_dora(Device::Cpu, name), name);
    }
}

/// The norms are those of the weights as they are stored.
#[test]
fn a_quantised_base_has_norms_of_its_own() {
    let quantization = Quantization::FourBit { code: Code::Nf4, block_len: 64, double: true };
    let base = BaseQuantization { quantization, head: false };
    let files = ModelFiles::open(&fixture("llama")).expect("the fixture");
    let model = Model::load_quantized(&files, base, Device::Cpu).expect("quantised");
    let dir = dora_fixture("llama");
    let case = Case::with_adapter(model, &dir, &dir.join("expected.safetensors"));
    // The merged weights of the quantised model are computed another way.
    let place = tempfile::tempdir().expect("a folder");
    let stored = place.path().join("stored");
    std::fs::create_dir(&stored).expect("a folder");
    let whole = case.model.sources(lorafit_model::weights::SaveDtype::F32);
    let mut bytes = Vec::new();
    write_tensors(&mut bytes, whole).expect("memory takes all");
    std::fs::write(stored.join("model.safetensors"), bytes).expect("written");
    std::fs::copy(fixture("llama/config.json"), stored.join("config.json")).expect("copied");
    let merged = merged_model(&stored, &case.adapter, place.path());
    let found = case.logits(&merged, None, 0);
    let with_adapter = case.logits(&case.model, Some(&case.adapter), 0);
    assert_close(&with_adapter, &found, LOGITS_TOLERANCE, "NF4");
}

/// The model in `base` with an adapter merged into it, by way of files in `place`.
fn merged_model(base: &Path, adapter: &Adapter, place: &Path) -> Model {
    let files = ModelFiles::open(base).expect("the base");
    let merged = Merged::new(&files, adapter, None).expect("merged");
    let (out, mut bytes) = (place.join("merged"), Vec::new());
    std::fs::create_dir(&out).expect("a folder");
    write_tensors(&mut bytes, merged.sources()).expect("memory takes all");
    std::fs::write(out.join("model.safetensors"), bytes).expect("written");
    std::fs::copy(base.join("config.json"), out.join("config.json")).expect("copied");
    Model::load(&ModelFiles::open(&out).expect("opens"), Device::Cpu).expect("loads")
}

#[test]
fn merged_weights_equal_peft_and_compute_alike() {
    for name in NAMES {
        let case = Case::with_dora(Device::Cpu, name);
        let files = ModelFiles::open(&fixture(name)).expect("the fixture");
        let merged = Merged::new(&files, &case.adapter, None).expect("merged");
        let mut bytes = Vec::new();
        write_tensors(&mut bytes, merged.sources()).expect("memory takes all");
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let expected = SafeTensors::deserialize(&case.expected).expect("safetensors");
        let names: Vec<&str> = expected.names();
        let key = names.iter().find_map(|name| name.strip_prefix("merged.")).expect("a merged weight");
        let view = file.tensor(key).expect("the weight");
        let found: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        assert_close(&found, &case.expected(&format!("merged.{key}")), 1e-6, name);

        let place = tempfile::tempdir().expect("a folder");
        let model = merged_model(&fixture(name), &case.adapter, place.path());
        let logits = case.logits(&model, None, 0);
        assert_close(&logits, &case.expected("logits.0"), LOGITS_TOLERANCE, &format!("{name} merged"));
    }
}

#[test]
fn an_adapter_is_saved_as_it_was_read() {
    let case = Case::with_dora(Device::Cpu, "gpt2");
    let dir = tempfile::tempdir().expect("a folder");
    adapter::save(dir.path(), &case.adapter, "gpt2").expect("saved");
    let tensors = |dir: &Path| {
        let bytes = std::fs::read(dir.join("adapter_model.safetensors")).expect("read");
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = file
            .tensors()
            .into_iter()
            .map(|(name, view)| (name, view.shape().to_vec(), view.data().to_vec()))
            .collect();
        tensors.sort();
        tensors
    };
    assert_eq!(tensors(dir.path()), tensors(&dora_fixture("gpt2").join("adapter")));
    let config = std::fs::read_to_string(dir.path().join("adapter_config.json")).expect("read");
    assert!(config.contains("\"use_dora\": true"), "{config}");
}

#[test]
fn magnitudes_that_do_not_fit_their_configuration_are_refused() {
    let config = ModelFiles::open(&fixture("llama")).expect("the fixture").config().clone();
    let refused = |edit: &dyn Fn(&Path)| {
        let dir = tempfile::tempdir().expect("a folder");
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::copy(dora_fixture("llama").join("adapter").join(file), dir.path().join(file))
                .expect("copied");
        }
        edit(dir.path());
        let error = adapter::load(dir.path(), &config, Device::Cpu).expect_err("refused");
        format!("{error}; {}", error.hint().map(|hint| format!("{hint:?}")).unwrap_or_default())
    };
    let told = refused(&|dir| {
        let path = dir.join("adapter_config.json");
        let text = std::fs::read_to_string(&path).expect("read");
        std::fs::write(&path, text.replace("\"use_dora\": true", "\"use_dora\": false")).expect("written");
    });
    assert!(told.contains("belongs to DoRA, and `use_dora` is not true"), "{told}");
    let name = "base_model.model.model.layers.1.mlp.up_proj.lora_magnitude_vector";
    let told = refused(&|dir| {
        edit_safetensors(&dir.join("adapter_model.safetensors"), |tensors| {
            tensors.retain(|(found, ..)| found != name);
        });
    });
    assert!(told.contains(&format!("tensor {name} is missing")), "{told}");
}

#[test]
fn adapters_with_magnitudes_have_no_weight_and_no_sum() {
    let case = Case::with_dora(Device::Cpu, "llama");
    let how = Combination { method: Method::Cat, density: 1.0, majority_sign: MajoritySign::Total, seed: 0 };
    let weighted = [Weighted { adapter: &case.adapter, weight: 0.5 }];
    let error = combine(case.model.config(), &weighted, &how).expect_err("refused");
    assert_eq!(error, CombineError::Magnitudes);
    assert!(error.hint().is_some());
}
