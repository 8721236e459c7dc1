//! What of GPT-2 no other family has: names without the model's, matrices that files have as `[in, out]`, and positions that end.

use crate::common::{Case, Packed, TOLERANCE, assert_close, edit_safetensors, fixture};
use lorafit_kernels::{Device, SharedBytes};
use lorafit_model::adapter::{self, Adapter, LoraConfig};
use lorafit_model::export::GgufModel;
use lorafit_model::merge::Merged;
use lorafit_model::weights::{ModelFiles, SaveDtype, write_quantized, write_tensors};
use lorafit_model::{Buffers, Config, Model, Stream, WeightSelection, most_new_tokens};
use safetensors::{Dtype, SafeTensors};

fn logits(model: &Model, adapter: Option<&Adapter>, case: &Case) -> Vec<f32> {
    let packed = Packed::single(case.ids[0].clone());
    let mut buffers = Buffers::for_evaluation(model.config(), adapter, Device::Cpu, packed.ids.len());
    model.all_logits(adapter, Stream { targets: &[], ..packed.stream() }, &mut buffers)
}

/// As `openai-community/gpt2` has them: nothing before the names, and the causal mask of every layer.
#[test]
fn files_of_the_hub_are_read() {
    let dir = tempfile::tempdir().expect("a folder");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture("gpt2").join(name), dir.path().join(name)).expect("copied");
    }
    edit_safetensors(&dir.path().join("model.safetensors"), |tensors| {
        for (name, ..) in tensors.iter_mut() {
            *name = name.strip_prefix("transformer.").expect("of the decoder").to_owned();
        }
        let mask = |layer: usize| (format!("h.{layer}.attn.bias"), Dtype::F32, vec![1, 1, 2, 2], vec![0; 16]);
        tensors.extend((0..3).map(mask));
    });
    let files = ModelFiles::open(dir.path()).expect("opens");
    let case = Case::open("gpt2");
    let model = Model::load(&files, Device::Cpu).expect("loads");
    assert!(logits(&model, None, &case) == logits(&case.model, None, &case));
    edit_safetensors(&dir.path().join("model.safetensors"), |tensors| {
        tensors.push(("h.0.mlp.c_gate.weight".to_owned(), Dtype::F32, vec![1], vec![0; 4]));
    });
    let error = ModelFiles::open(dir.path()).expect_err("another part").to_string();
    assert!(error.contains("h.0.mlp.c_gate.weight, which no part of the model takes"), "{error}");
}

#[test]
fn what_is_merged_is_written_as_it_was_stored() {
    let (case, files) = (Case::open("gpt2"), ModelFiles::open(&fixture("gpt2")).expect("opens"));
    let written = |adapter: &Adapter| {
        let merged = Merged::new(&files, adapter, None).expect("looked up");
        let mut bytes = Vec::new();
        write_tensors(&mut bytes, merged.sources()).expect("written");
        bytes
    };
    let (unchanged, stored) =
        (written(&Adapter::none(files.config())), fixture("gpt2").join("model.safetensors"));
    let stored = std::fs::read(stored).expect("weights");
    let [found, expected] =
        [&unchanged, &stored].map(|bytes| SafeTensors::deserialize(bytes).expect("safetensors"));
    for (name, tensor) in expected.iter() {
        let found = found.tensor(name).expect("written");
        assert!((found.shape(), found.data()) == (tensor.shape(), tensor.data()), "{name}");
    }
    let config = std::fs::read_to_string(fixture("gpt2").join("config.json")).expect("a configuration");
    let merged = SharedBytes::from_vec(written(&case.adapter));
    let merged = ModelFiles::from_safetensors(&fixture("gpt2"), &config, merged).expect("opens");
    let merged = Model::load(&merged, Device::Cpu).expect("loads");
    let adapted = logits(&case.model, Some(&case.adapter), &case);
    assert_close(&logits(&merged, None, &case), &adapted, TOLERANCE, "merged");

    let merged = Merged::new(&files, &case.adapter, None).expect("looked up");
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("merged.gguf");
    let mut file = std::fs::File::create(&path).expect("a file");
    GgufModel::new(&files, &merged, None, Vec::new()).write(&mut file).expect("written");
    drop(file);
    let model = Model::load(&ModelFiles::open(&path).expect("opens"), Device::Cpu).expect("loads");
    assert_close(&logits(&model, None, &case), &adapted, TOLERANCE, "GGUF");
}

#[test]
fn adapters_say_how_peft_has_the_layers() {
    let case = Case::open("gpt2");
    let json: serde_json::Value =
        serde_json::from_slice(&adapter::config_file(&case.adapter, "gpt2")).expect("JSON");
    assert_eq!(json["fan_in_fan_out"], true);
    let dir = tempfile::tempdir().expect("a folder");
    adapter::save(dir.path(), &case.adapter, "gpt2").expect("saved");
    let again = adapter::load(dir.path(), case.model.config(), Device::Cpu).expect("read");
    assert!(again.tensors().zip(case.adapter.tensors()).all(|(a, b)| a.to_vec(a.len()) == b.to_vec(b.len())));
    // `c_proj` is a projection of either half.
    let lora = LoraConfig::new("c_proj".parse().expect("a name"));
    assert_eq!(lora.tensor_lens(case.model.config()).expect("selected").len(), 2 * 2 * 3);
}

#[test]
fn weights_are_selected_by_the_names_of_gpt2() {
    let config = Case::open("gpt2").model.config().clone();
    let selected = |modules: &str| {
        let modules = modules.parse().expect("modules");
        let all = WeightSelection { modules, layers: None }.of(&config).expect("some");
        all.into_iter().map(|weight| weight.name).collect::<Vec<_>>()
    };
    assert_eq!(selected("wpe"), ["transformer.wpe.weight"]);
    assert_eq!(selected("norms").len(), 2 * 7);
    assert_eq!(selected("c_attn").len(), 2 * 3);
    assert_eq!(selected("attn").len(), 4 * 3);
    let head = WeightSelection { modules: "lm_head".parse().expect("modules"), layers: None };
    assert!(
        head.of(&config).expect_err("tied").hint().is_some_and(|hint| hint.to_string().ends_with("name wte"))
    );
}

/// A matrix that training alone begins with: backward has to reach the embedding.
#[test]
fn positions_are_trained_by_themselves() {
    let all = Case::trained_on(Device::Cpu, "gpt2", &WeightSelection::all());
    let modules = "wpe".parse().expect("a module");
    let alone = Case::trained_on(Device::Cpu, "gpt2", &WeightSelection { modules, layers: None });
    let name = "transformer.wpe.weight";
    let (_, all) = all.weight_gradients(lorafit_model::ActivationPolicy::default());
    let (_, alone) = alone.weight_gradients(lorafit_model::ActivationPolicy::default());
    assert_close(&alone[name], &all[name], 1e-6, name);
}

#[test]
fn answers_end_with_the_positions() {
    let config = Config::named("gpt2").expect("a name");
    assert_eq!(config.positions(), Some(1024));
    assert_eq!([1000, 1024, 1030].map(|prompt| most_new_tokens(&config, prompt, 100)), [24, 0, 0]);
}

#[test]
fn what_is_not_computed_is_refused() {
    let config = std::fs::read_to_string(fixture("gpt2").join("config.json")).expect("a configuration");
    for key in ["add_cross_attention", "scale_attn_by_inverse_layer_idx"] {
        let (plain, changed) = (format!("\"{key}\": false"), format!("\"{key}\": true"));
        assert!(config.contains(&plain));
        let error = Config::from_hf_json(&config.replace(&plain, &changed)).expect_err(key);
        assert_eq!(error.to_string(), format!("`{key}` is true, expected false"));
    }
    let unscaled = config.replace("\"scale_attn_weights\": true", "\"scale_attn_weights\": false");
    assert_eq!(Config::from_hf_json(&unscaled).expect("reads").attention_scale, Some(1.0));
    let files = ModelFiles::open(&fixture("gpt2")).expect("opens");
    let dir = tempfile::tempdir().expect("a folder");
    let quantization = lorafit_kernels::quant::Quantization::Int8;
    let error =
        write_quantized(&files, quantization, &dir.path().join("q"), &mut |_, _| {}).expect_err("refused");
    assert!(error.to_string().contains("`Conv1D` layers is not written quantised"), "{error}");
    assert!(files.plain_config(SaveDtype::F32, Default::default()).is_ok());
}
