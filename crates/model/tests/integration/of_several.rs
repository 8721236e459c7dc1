//! The language model of a model that reads images, too: it is read, trained over and written by itself, and adapters have the
//! names that PEFT gives them on the whole model.

use crate::common::{Packed, TOLERANCE, assert_close, fixture};
use lorafit_kernels::{Device, SharedBytes};
use lorafit_model::adapter::{self, Adapter, LoraConfig, Targets, named_tensors};
use lorafit_model::merge::Merged;
use lorafit_model::weights::{ModelFiles, SaveDtype, write_tensors};
use lorafit_model::{Buffers, Config, Model, Stream};
use safetensors::SafeTensors;

const NAME: &str = "gemma3_multimodal";

fn expected(tensor: &str) -> Vec<u8> {
    let bytes = std::fs::read(fixture(NAME).join("expected.safetensors")).expect("the expected values");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    file.tensor(tensor).expect("in the fixture").data().to_vec()
}

fn ids(sample: usize) -> Vec<u32> {
    let bytes = expected(&format!("input_ids.{sample}"));
    bytes.as_chunks::<4>().0.iter().map(|id| i32::from_le_bytes(*id) as u32).collect()
}

fn open(config: &str) -> ModelFiles {
    let config = std::fs::read_to_string(fixture(NAME).join(config)).expect("a configuration");
    let weights = std::fs::read(fixture(NAME).join("model.safetensors")).expect("weights");
    ModelFiles::from_safetensors(&fixture(NAME), &config, SharedBytes::from_vec(weights)).expect("opens")
}

fn logits(model: &Model, sample: usize) -> Vec<f32> {
    let packed = Packed::single(ids(sample));
    let mut buffers = Buffers::for_evaluation(model.config(), None, Device::Cpu, packed.ids.len());
    model.all_logits(None, Stream { targets: &[], ..packed.stream() }, &mut buffers)
}

#[track_caller]
fn assert_logits(model: &Model, what: &str) {
    for sample in 0..2 {
        let bytes = expected(&format!("base_logits.{sample}"));
        let expected: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        assert_close(&logits(model, sample), &expected, TOLERANCE, what);
    }
}

#[test]
fn logits_equal_transformers_in_the_words_of_both_versions() {
    for config in ["config.json", "config_classic.json"] {
        let model = Model::load(&open(config), Device::Cpu).expect("loads");
        assert_logits(&model, config);
    }
    assert_eq!(open("config.json").config(), open("config_classic.json").config());
}

#[test]
fn the_dropout_of_the_language_model_is_told() {
    let config = std::fs::read_to_string(fixture(NAME).join("config.json")).expect("a configuration");
    let mut config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    // Of the part that reads images, which is not trained here.
    config["attention_dropout"] = serde_json::json!(0.2);
    config["text_config"]["attention_dropout"] = serde_json::json!(0.1);
    let weights = std::fs::read(fixture(NAME).join("model.safetensors")).expect("weights");
    let weights = SharedBytes::from_vec(weights);
    let files = ModelFiles::from_safetensors(&fixture(NAME), &config.to_string(), weights).expect("opens");
    let notes = files.notes();
    let told: Vec<&String> = notes.iter().filter(|note| note.contains("dropout")).collect();
    assert!(
        matches!(&told[..], [note] if note.contains("`text_config.attention_dropout` is 0.1")),
        "{notes:?}"
    );
}

/// Files may also have the names that the model has in memory.
#[test]
fn weights_are_found_by_the_names_of_memory_too() {
    let bytes = std::fs::read(fixture(NAME).join("model.safetensors")).expect("weights");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let renamed = file.iter().map(|(name, view)| {
        let name = match name.strip_prefix("language_model.model.") {
            Some(rest) => format!("model.language_model.{rest}"),
            None => format!("model.{name}"),
        };
        (name, view)
    });
    let bytes = safetensors::serialize(renamed, None).expect("serialises");
    let config = std::fs::read_to_string(fixture(NAME).join("config.json")).expect("a configuration");
    let files = ModelFiles::from_safetensors(&fixture(NAME), &config, SharedBytes::from_vec(bytes));
    assert_logits(&Model::load(&files.expect("opens"), Device::Cpu).expect("loads"), "renamed");
}

#[test]
fn what_is_passed_over_is_told() {
    let notes = open("config.json").notes();
    let told = "the language model alone was read; the 34 tensors of the parts that read images";
    assert!(notes.iter().any(|note| note.contains(told)), "{notes:?}");
}

#[test]
fn adapters_have_the_names_of_the_whole_model_and_are_read_over_the_language_model_alone() {
    let files = open("config.json");
    let adapter = Adapter::init(files.config(), &LoraConfig::new(Targets::AllLinear), 1, Device::Cpu);
    let adapter = adapter.expect("an adapter");
    let tensors = named_tensors(&adapter, adapter.tensors());
    let first = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight";
    assert_eq!(tensors[0].name, first);
    let dir = tempfile::tempdir().expect("a folder");
    adapter::save(dir.path(), &adapter, "base").expect("saved");
    let named = Config::named("gemma-3-1b").expect("a name");
    let alone = Config { names: named.names, ..files.config().clone() };
    for config in [files.config(), &alone] {
        let again = adapter::load(dir.path(), config, Device::Cpu).expect("read");
        let again = named_tensors(&again, again.tensors());
        assert!(again.iter().zip(&tensors).all(|(a, b)| a.values == b.values));
    }
}

/// As a Gemma3ForCausalLM.
#[test]
fn it_is_written_as_a_language_model_alone() {
    let files = open("config.json");
    let none = Adapter::none(files.config());
    let merged = Merged::new(&files, &none, None).expect("looked up");
    let mut bytes = Vec::new();
    write_tensors(&mut bytes, merged.sources()).expect("written");
    let config = files.plain_config(SaveDtype::F32, Default::default()).expect("a configuration");
    let again = ModelFiles::from_safetensors(&fixture(NAME), &config, SharedBytes::from_vec(bytes));
    let again = again.expect("opens");
    assert!(again.unused_tensors().is_empty() && !again.config().is_of_several());
    assert_logits(&Model::load(&again, Device::Cpu).expect("loads"), "alone");
    let model = Model::load(&files, Device::Cpu).expect("loads");
    assert!(!model.sources(SaveDtype::F32).iter().any(|source| source.name.contains("language_model")));
}

/// As published: the language model's configuration says only what differs from the defaults of transformers.
#[test]
fn keys_that_published_configurations_leave_out_have_the_defaults_of_transformers() {
    let text = r#"{"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "hidden_size": 2560,
        "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}, "vision_config": {}}"#;
    let found = Config::from_hf_json(text).expect("reads");
    let named = Config::named("gemma-3-4b").expect("a name");
    assert!((0..34).all(|layer| found.windowed.contains(layer) == named.windowed.contains(layer)));
    assert_eq!(Config { names: named.names, windowed: named.windowed.clone(), ..found }, named);
    let error = Config::from_hf_json(r#"{"model_type": "x", "text_config": {"model_type": "gemma3n_text"}}"#);
    let error = error.expect_err("refused").to_string();
    assert!(error.starts_with("`text_config`: `model_type` is \"gemma3n_text\""), "{error}");
}
