//! What a model's files say beyond what is computed is done, or refused by name: keys of configurations and metadata, and
//! tensors that no part of the model takes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{FileTensor, edit_safetensors, fixture, gguf_fixture};
use lorafit_kernels::Device;
use lorafit_kernels::ops::attention::Segments;
use lorafit_model::RopeScaling;
use lorafit_model::weights::ModelFiles;
use lorafit_model::{Buffers, FileError, Model, Stream};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with the files of a fixture.
struct Place(TempDir);

impl Place {
    fn of(name: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        for entry in fs::read_dir(fixture(name)).expect("the fixture").map(|entry| entry.expect("an entry")) {
            if entry.file_type().expect("a type").is_file() {
                fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("copied");
            }
        }
        Place(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn set(&self, key: &str, value: Value) -> &Self {
        self.edit("config.json", |json| json[key] = value)
    }

    fn edit(&self, file: &str, edit: impl FnOnce(&mut Value)) -> &Self {
        let path = self.path().join(file);
        let mut json = serde_json::from_str(&fs::read_to_string(&path).expect("a file")).expect("JSON");
        edit(&mut json);
        fs::write(path, json.to_string()).expect("written");
        self
    }

    fn tensors(&self, edit: impl FnOnce(&mut Vec<FileTensor>)) -> &Self {
        edit_safetensors(&self.path().join("model.safetensors"), edit);
        self
    }

    fn open(&self) -> Result<Model, FileError> {
        Model::load(&ModelFiles::open(self.path())?, Device::Cpu)
    }

    #[track_caller]
    fn refused(&self, parts: &[&str]) {
        refused(self.open(), parts);
    }
}

#[track_caller]
fn refused(result: Result<Model, FileError>, parts: &[&str]) {
    let Err(error) = result else { panic!("no error, expected: {parts:?}") };
    let told = format!("{error}\n{}", error.hint().map(|hint| hint.to_string()).unwrap_or_default());
    for part in parts {
        assert!(told.contains(part), "does not say `{part}`: {told}");
    }
}

fn logits(model: &Model) -> Vec<f32> {
    let ids: Vec<u32> = (1..6).collect();
    let segments = Segments::single(ids.len());
    let stream =
        Stream { ids: &ids, positions: &[0, 1, 2, 3, 4], segments: &segments, targets: &[], below: 0 };
    let mut buffers = Buffers::for_evaluation(model.config(), None, Device::Cpu, ids.len());
    model.all_logits(None, stream, &mut buffers)
}

fn float(name: &str, values: usize) -> FileTensor {
    (name.to_owned(), Dtype::F32, vec![values], vec![0; 4 * values])
}

// Heads.

#[test]
fn a_head_that_differs_from_the_embedding_is_not_tied() {
    let place = Place::of("qwen2");
    let own = logits(&place.open().expect("loads"));
    place.set("tie_word_embeddings", json!(true));
    let model = place.open().expect("loads");
    assert!(!model.config().tie_word_embeddings);
    assert_eq!(logits(&model), own);
    let files = ModelFiles::open(place.path()).expect("opens");
    let config = files.plain_config(Default::default(), Default::default()).expect("a configuration");
    assert!(config.contains("\"tie_word_embeddings\": false"), "{config}");

    // One that is the embedding stays tied.
    place.tensors(|tensors| {
        let embedding =
            tensors.iter().find(|t| t.0 == "model.embed_tokens.weight").expect("it is there").clone();
        let head = tensors.iter_mut().find(|t| t.0 == "lm_head.weight").expect("a head");
        head.3 = embedding.3;
    });
    let model = place.open().expect("loads");
    assert!(model.config().tie_word_embeddings);
    assert_ne!(logits(&model), own);
}

// Tensors of folders.

#[test]
fn tensors_that_no_part_of_the_model_takes_are_refused_by_name() {
    for (name, why) in [
        ("model.layers.0.self_attn.q_proj.bias", "attention_bias"),
        ("model.layers.0.mlp.up_proj.bias", "mlp_bias"),
        ("model.layers.1.self_attn.q_norm.weight", "`model_type` \"llama\" has no such part"),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", "merge_and_unload"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "merge_and_unload"),
        ("model.layers.2.input_layernorm.weight", "`num_hidden_layers` is 2"),
        ("model.layers.0.self_attn.q_proj.weight_scale", "quantised"),
        ("model.layers.0.self_attn.q_proj.scales", "MLX"),
        ("model.layers.0.pre_feedforward_layernorm.weight", "no such part"),
        ("model.norm.bias", "no such bias"),
        ("lm_head.bias", "no such bias"),
        ("lm_head.weight.absmax", "a matrix that is quantised, and not in the file"),
    ] {
        let place = Place::of("llama_tied");
        place.tensors(|tensors| tensors.push(float(name, 64)));
        place.refused(&[&format!("the file has {name}, which no part of the model takes"), why]);
    }
}

#[test]
fn tensors_that_change_nothing_are_passed_over() {
    let place = Place::of("llama_tied");
    let before = logits(&place.open().expect("loads"));
    place.tensors(|tensors| {
        for name in [
            "model.layers.0.self_attn.rotary_emb.inv_freq",
            "model.rotary_emb.inv_freq",
            "model.layers.0.attn.masked_bias",
            "model.layers.0.attn.bias",
            "model.position_ids",
            "model.vision_tower.layers.0.self_attn.q_proj.weight",
            "vision_tower.encoder.layers.9.self_attn.q_proj.bias",
            "model.mm_projector.0.weight",
            "multi_modal_projector.linear_1.weight",
            "audio_tower.conv1.weight",
            "score.weight",
            "v_head.summary.weight",
        ] {
            tensors.push(float(name, 8));
        }
    });
    assert_eq!(logits(&place.open().expect("loads")), before);
}

#[test]
fn an_adapter_beside_the_weights_and_a_quantisation_of_plain_ones_are_noted() {
    let place = Place::of("llama");
    let notes = || ModelFiles::open(place.path()).expect("opens").notes();
    assert!(notes().is_empty());
    fs::write(place.path().join("adapter_config.json"), "{}").expect("written");
    place.set("quantization_config", json!({"quant_method": "bitsandbytes", "load_in_4bit": true}));
    let found = notes();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].contains("`quantization_config`") && found[1].contains("adapter_config.json"),
        "{found:?}"
    );
    assert!(ModelFiles::open_without_weights(place.path()).expect("opens").notes().is_empty());
}

#[test]
fn a_stale_index_is_named() {
    let index = "model.safetensors.index.json";
    let place = Place::of("sharded");
    place.edit(index, |json| {
        json["weight_map"].as_object_mut().expect("a map").remove("model.norm.weight");
    });
    place.refused(&[
        "model.norm.weight is missing",
        "does not name it: the index is stale",
        "-of-00003.safetensors has it",
    ]);
    let place = Place::of("sharded");
    place.edit(index, |json| {
        json["weight_map"]["model.embed_tokens.weight"] = json!("model-00003-of-00003.safetensors")
    });
    place.refused(&[
        "model.embed_tokens.weight is missing",
        "names model-00003-of-00003.safetensors for it: the index is stale",
    ]);
}

// Keys of config.json.

#[test]
fn keys_that_change_the_computation_are_refused_by_name() {
    let window = "but no `sliding_window` is active";
    for (model, key, value, parts) in [
        ("llama", "is_causal", json!(false), &["`is_causal` is false, expected true"][..]),
        ("llama", "partial_rotary_factor", json!(0.5), &["`partial_rotary_factor` is 0.5"]),
        (
            "llama",
            "rope_scaling",
            json!("linear"),
            &["`rope_scaling` is \"linear\", expected null or an object"],
        ),
        ("llama", "rope_scaling", json!([2]), &["`rope_scaling` is [2], expected"]),
        ("llama", "rope_scaling", json!({"rope_type": 5, "factor": 2}), &["`rope_type` is 5, expected"]),
        (
            "llama",
            "rope_scaling",
            json!({"type": "ntk", "factor": 4.0}),
            &["`type` is \"ntk\", expected", "take the model without it"],
        ),
        ("llama", "rope_scaling", json!({"type": "dynamic"}), &["`rope_scaling`: `factor` is missing"]),
        ("llama", "rope_scaling", json!({"type": "mrope"}), &["`type` is \"mrope\""]),
        (
            "phi3",
            "rope_parameters",
            json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
            &["`rope_parameters` is {", "\"default\" or \"longrope\""],
        ),
        ("gemma3", "rope_parameters", json!({"rope_type": "default"}), &["a rotation for each of"]),
        ("gemma3", "rope_scaling", json!({"rope_type": "default"}), &["are both there"]),
        (
            "starcoder2",
            "layer_types",
            json!(["full_attention", "sliding_attention", "sliding_attention"]),
            &["\"sliding_attention\" for every layer"],
        ),
        ("llama", "rope_scaling", json!({"type": "linear"}), &["`rope_scaling`: `factor` is missing"]),
        (
            "llama",
            "rope_parameters",
            json!({"full_attention": {"rope_type": "default"}}),
            &["`full_attention` is {"],
        ),
        (
            "llama_tied",
            "rope_scaling",
            json!({"type": "linear", "factor": 2.0}),
            &["`rope_parameters` and `rope_scaling`"],
        ),
        ("qwen2", "layer_types", json!(["full_attention", "sliding_attention"]), &["for layer 1", window]),
        ("qwen3", "layer_types", json!(["sliding_attention", "full_attention"]), &["for layer 0", window]),
        (
            "mistral",
            "layer_types",
            json!(["chunked_attention", "full_attention"]),
            &["\"chunked_attention\" for layer 0"],
        ),
        (
            "qwen2",
            "layer_types",
            json!(["full_attention"]),
            &["`layer_types` is [\"full_attention\"], expected a list of 2"],
        ),
    ] {
        let place = Place::of(model);
        place.set(key, value).refused(parts);
    }
    // The same in both words, and an empty one, are no contradiction.
    for scaling in [json!({"type": "default", "rope_theta": 100_000.0}), json!({}), Value::Null] {
        Place::of("llama_tied").set("rope_scaling", scaling).open().expect("loads");
    }
    let place = Place::of("mistral");
    place
        .set("sliding_window", json!(4))
        .set("layer_types", json!(["sliding_attention", "sliding_attention"]));
    assert_eq!(place.open().expect("loads").config().sliding_window, Some(4));
}

// GGUF files.

enum Entry<'a> {
    Number(f32),
    Whole(u32),
    Flag(bool),
    Text(&'a str),
}

/// A copy of a GGUF fixture with further metadata.
fn with_metadata(name: &str, entries: &[(&str, Entry<'_>)]) -> (TempDir, PathBuf) {
    changed(name, entries, None)
}

/// As [`with_metadata`], with a further tensor of 8 zeros.
fn changed(name: &str, entries: &[(&str, Entry<'_>)], tensor: Option<&str>) -> (TempDir, PathBuf) {
    let mut bytes = fs::read(gguf_fixture(name)).expect("the fixture");
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let mut info = Vec::new();
    if let Some(tensor) = tensor {
        // One dimension of 8 values in F32, behind all others, whose sizes are multiples of the alignment.
        let offset = ModelFiles::open(&gguf_fixture(name)).expect("opens").stored_bytes();
        text(&mut info, tensor);
        info.extend([1u32.to_le_bytes(), 8u32.to_le_bytes(), [0; 4], [0; 4]].concat());
        info.extend(offset.to_le_bytes());
        let first = b"token_embd.weight";
        let first = bytes.windows(first.len()).position(|found| found == first).expect("a tensor") - 8;
        bytes.splice(first..first, info.iter().copied());
        let count = u64::from_le_bytes(bytes[8..16].try_into().expect("8 bytes"));
        bytes[8..16].copy_from_slice(&(count + 1).to_le_bytes());
        bytes.extend([0; 32]);
    }
    let count = u64::from_le_bytes(bytes[16..24].try_into().expect("8 bytes"));
    bytes[16..24].copy_from_slice(&(count + entries.len() as u64).to_le_bytes());
    let mut more = Vec::new();
    for (key, value) in entries {
        // One that is there already gets another name.
        let prefixed = [&(key.len() as u64).to_le_bytes()[..], key.as_bytes()].concat();
        if let Some(at) = bytes.windows(prefixed.len()).position(|found| found == prefixed) {
            bytes[at + prefixed.len() - 1] = b'_';
        }
        text(&mut more, key);
        match value {
            Entry::Whole(n) => more.extend([4u32.to_le_bytes(), n.to_le_bytes()].concat()),
            Entry::Number(n) => more.extend([6u32.to_le_bytes(), n.to_le_bytes()].concat()),
            Entry::Flag(flag) => {
                more.extend(7u32.to_le_bytes());
                more.push(u8::from(*flag));
            }
            Entry::Text(value) => {
                more.extend(8u32.to_le_bytes());
                text(&mut more, value);
            }
        }
    }
    // The data stays at a multiple of the alignment if as much is put before it: a text takes up the rest.
    if !more.is_empty() || !info.is_empty() {
        let key = "test.padding";
        let len = info.len() + more.len() + 8 + key.len() + 4 + 8;
        bytes[16..24].copy_from_slice(&(count + entries.len() as u64 + 1).to_le_bytes());
        text(&mut more, key);
        more.extend(8u32.to_le_bytes());
        text(&mut more, &" ".repeat(len.next_multiple_of(32) - len));
    }
    bytes.splice(24..24, more);
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("model.gguf");
    fs::write(&path, bytes).expect("written");
    (dir, path)
}

fn open(path: &Path) -> Result<Model, FileError> {
    Model::load(&ModelFiles::open(path)?, Device::Cpu)
}

const CHAT: &str = "chat_bpe-f32.gguf";

#[test]
fn metadata_that_changes_the_computation_is_refused_by_key() {
    use Entry::{Flag, Number, Text, Whole};
    for (key, value) in [
        ("attention.causal", Flag(false)),
        ("attention.scale", Number(0.5)),
        ("attention.clamp_kqv", Number(8.0)),
        ("attention.value_length", Whole(2)),
        ("logit_scale", Number(0.5)),
        ("embedding_scale", Number(12.0)),
        ("residual_scale", Number(0.2)),
        ("attn_logit_softcapping", Number(50.0)),
        ("final_logit_softcapping", Number(30.0)),
        ("expert_count", Whole(8)),
        ("use_parallel_residual", Flag(true)),
        ("rope.dimension_sections", Text("x")),
    ] {
        let key = format!("llama.{key}");
        let (_dir, path) = with_metadata(CHAT, &[(&key, value)]);
        refused(open(&path), &[&format!("`{key}` is "), "changes what the model computes"]);
    }
    let plain = logits(&open(&gguf_fixture(CHAT)).expect("loads"));
    let (_dir, path) = with_metadata(
        CHAT,
        &[
            ("llama.attention.causal", Flag(true)),
            ("llama.logit_scale", Number(1.0)),
            ("llama.expert_count", Whole(0)),
            ("llama.use_parallel_residual", Flag(false)),
            ("llama.attention.scale", Number(0.0)),
            ("llama.attention.sliding_window", Whole(0)),
            ("llama.rope.scaling.type", Text("none")),
            ("llama.rope.scaling.factor", Number(4.0)),
            ("general.type", Text("model")),
        ],
    );
    let model = open(&path).expect("loads");
    assert_eq!((logits(&model), model.config().sliding_window), (plain, None));
}

#[test]
fn stretching_and_windows_of_gguf_files_are_those_of_llama_cpp() {
    use Entry::{Number, Text, Whole};
    let (of, old) = ("llama.rope.scaling.factor", "llama.rope.scale_linear");
    let kind = "llama.rope.scaling.type";
    for entries in [
        vec![(of, Number(2.0))],
        vec![(old, Number(2.0))],
        vec![(kind, Text("linear")), (of, Number(2.0)), (old, Number(3.0))],
    ] {
        let (_dir, path) = with_metadata(CHAT, &entries);
        assert_eq!(open(&path).expect("loads").config().rope.scaling, RopeScaling::Linear { factor: 2.0 });
    }
    for entries in [vec![(kind, Text("linear"))], vec![(of, Number(1.0))], vec![(old, Number(0.0))]] {
        let (_dir, path) = with_metadata(CHAT, &entries);
        assert_eq!(open(&path).expect("loads").config().rope.scaling, RopeScaling::None);
    }
    let (_dir, path) = with_metadata("llama31-f32.gguf", &[(of, Number(2.0))]);
    let own = open(&gguf_fixture("llama31-f32.gguf")).expect("loads").config().rope_frequencies();
    let both = open(&path).expect("loads").config().rope_frequencies();
    assert!(own.iter().zip(&both).all(|(a, b)| (a / b - 2.0).abs() < 1e-6));
    let (_dir, path) = with_metadata(CHAT, &[(kind, Text("ntk")), (of, Number(4.0))]);
    refused(open(&path), &["`llama.rope.scaling.type` is \"ntk\"", "take the model without it"]);
    let (_dir, path) = with_metadata(CHAT, &[("llama.attention.sliding_window", Whole(4))]);
    assert_eq!(open(&path).expect("loads").config().sliding_window, Some(4));
    let (_dir, path) = with_metadata(CHAT, &[("general.type", Text("adapter"))]);
    refused(
        open(&path),
        &["`general.type` is \"adapter\"", "as model, or give the adapter in PEFT's format"],
    );
}

#[test]
fn tensors_of_gguf_files_that_no_part_takes_are_refused_by_name() {
    for (tensor, why) in [
        ("blk.2.attn_norm.weight", "`block_count` is 2"),
        ("blk.0.attn_q.scale", "quantised in another way"),
        ("blk.0.attn_q.bias.1", "no such part"),
        ("blk.1.attn_q.bias", "no such part"),
        ("rope_scale.weight", "no such part"),
        ("blk.0.ffn_gate_inp.weight", "no such part"),
        ("output_norm.bias", "no such part"),
    ] {
        let (_dir, path) = changed(CHAT, &[], Some(tensor));
        refused(open(&path), &[&format!("the file has {tensor}, which no part of the model takes"), why]);
    }
    for tensor in ["blk.0.attn_rot_embd.weight", "v.patch_embd.weight"] {
        let (_dir, path) = changed(CHAT, &[], Some(tensor));
        open(&path).expect("loads");
    }
}

// Adapters, and weights that are quantised in other ways.

/// What is said of the adapter of `llama` after an edit of its configuration and tensors.
fn adapter_error(config: impl FnOnce(&mut Value), tensors: impl FnOnce(&mut Vec<FileTensor>)) -> String {
    let place = Place::of("llama/adapter");
    place.edit("adapter_config.json", config);
    edit_safetensors(&place.path().join("adapter_model.safetensors"), tensors);
    let base = ModelFiles::open(&fixture("llama")).expect("the fixture opens");
    match lorafit_model::adapter::load_over(place.path(), &base, Device::Cpu) {
        Ok(_) => "loads".to_owned(),
        Err(error) => format!("{error}\n{}", error.hint().map(|hint| hint.to_string()).unwrap_or_default()),
    }
}

#[test]
fn hints_about_adapters_lead_on() {
    for (key, value) in [
        ("bias", json!("all")),
        ("lora_bias", json!(true)),
        ("modules_to_save", json!(["q_proj"])),
        ("layer_replication", json!([[0, 1]])),
    ] {
        let told = adapter_error(|json| json[key] = value, |_| {});
        assert!(told.contains(key) && told.contains("merge_and_unload"), "{told}");
    }
    let told = adapter_error(|json| json["target_modules"] = json!("q_proj"), |_| {});
    assert!(told.contains("a pattern of the whole path") && told.contains("write [\"q_proj\"]"), "{told}");
    let told = adapter_error(|json| json["r"] = json!(2), |_| {});
    assert!(told.contains("the rank in adapter_config.json"), "{told}");
    let base = fixture("llama").display().to_string();
    let of_this = |json: &mut Value| {
        json["base_model_name_or_path"] = json!(base);
        json["layers_to_transform"] = json!([7]);
    };
    let told = adapter_error(of_this, |_| {});
    assert!(told.contains("names this very model") && !told.contains("was made for"), "{told}");
    // PEFT's defaults; the fixture has rank 4 and alpha 8.
    let told = adapter_error(|json| drop(json.as_object_mut().map(|json| json.remove("lora_alpha"))), |_| {});
    assert_eq!(told, "loads");
    let told = adapter_error(|json| drop(json.as_object_mut().map(|json| json.remove("r"))), |_| {});
    assert!(told.contains("the model needs [8, 64]"), "{told}");
    let told =
        adapter_error(|json| drop(json.as_object_mut().map(|json| json.remove("target_modules"))), |_| {});
    assert!(told.contains("`target_modules` is missing"), "{told}");
}

#[test]
fn tensors_of_other_adapters_are_told() {
    let renamed = |old: &'static str, new: &'static str| {
        move |tensors: &mut Vec<FileTensor>| {
            tensors.iter_mut().for_each(|tensor| tensor.0 = tensor.0.replace(old, new));
        }
    };
    let told = adapter_error(|_| {}, renamed("lora_A", "lora_down"));
    assert!(told.contains("is missing"), "{told}");
    let told = adapter_error(
        |_| {},
        |tensors| {
            for tensor in tensors {
                tensor.0 = tensor.0.replace(".lora_A.", ".lora_down.").replace(".lora_B.", ".lora_up.");
            }
        },
    );
    assert!(
        told.contains("names of kohya's scripts, such as ") && told.contains("rename lora_down"),
        "{told}"
    );
    let told = adapter_error(|_| {}, renamed("base_model.model.model.", "unet."));
    assert!(told.contains("others, such as unet.") && told.contains("names are those of PEFT"), "{told}");
    let norm = "base_model.model.model.norm.weight";
    let told = adapter_error(|_| {}, |tensors| tensors.push(float(norm, 64)));
    assert!(told.contains(norm) && told.contains("a whole weight") && told.contains("merge"), "{told}");
    let told = adapter_error(
        |_| {},
        |tensors| {
            let (values, name) = (tensors[0].3.len() / 4, tensors[0].0.clone());
            tensors[0].1 = Dtype::F64;
            tensors[0].3 = vec![0; 8 * values];
            assert!(name.contains("lora_"));
        },
    );
    assert!(told.contains("is stored as F64") && told.contains("model.float()"), "{told}");
    let told = adapter_error(|_| {}, |tensors| tensors[3].3[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
    assert!(told.contains("has NaN, expected finite numbers") && told.contains("diverged"), "{told}");
}

#[test]
fn weights_that_are_quantised_in_other_ways_are_told() {
    let q = "model.layers.0.self_attn.q_proj";
    for (beside, dtype, part) in [
        (Some("scales"), Dtype::U32, "MLX"),
        (Some("weight.absmax"), Dtype::U8, "without the quant_state"),
        (None, Dtype::I8, "what they are scaled by is not known"),
    ] {
        let place = Place::of("llama");
        place.tensors(|tensors| {
            let weight = tensors.iter_mut().find(|t| t.0 == format!("{q}.weight")).expect("it is there");
            weight.1 = dtype;
            weight.3.truncate(weight.2.iter().product::<usize>() * if dtype == Dtype::U32 { 4 } else { 1 });
            if let Some(beside) = beside {
                tensors.push(float(&format!("{q}.{beside}"), 8));
            }
        });
        place.refused(&[part, "quant nf4"]);
    }
}

#[test]
fn a_weight_that_is_no_number_is_found() {
    let place = Place::of("llama");
    let files = || ModelFiles::open(place.path()).expect("opens").non_number().expect("reads");
    assert_eq!(files(), None);
    let name = "model.layers.1.mlp.up_proj.weight";
    place.tensors(|tensors| {
        let weight = tensors.iter_mut().find(|t| t.0 == name).expect("it is there");
        weight.3[400..404].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
    });
    assert_eq!(files(), Some((name.to_owned(), f32::NEG_INFINITY)));
}
