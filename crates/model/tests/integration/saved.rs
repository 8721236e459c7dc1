//! Adapters with whole weights (`modules_to_save`), with rows of tokens (`trainable_token_indices`) and with factors of embedding and
//! head against PEFT: heads of their own and heads that are the embedding, one side of those, both apart and both as one; norms, those
//! of heads, those of which files have one less, and those with biases.

use std::path::Path;

use lorafit_kernels::gpu::Float;
use lorafit_kernels::quant::Quantization;
use lorafit_kernels::quant::four_bit::Code;
use lorafit_kernels::{Device, Placement};
use lorafit_model::adapter::convert::{MlxAdapter, gguf_lora_bytes};
use lorafit_model::adapter::{self, Adapter, LoraConfig, SaveModules};
use lorafit_model::export::GgufModel;
use lorafit_model::merge::{
    Combination, CombineError, MajoritySign, Merged, Method, Weighted, check_finite, combine,
};
use lorafit_model::weights::{Gguf, ModelFiles, SaveDtype, write_tensors};
use lorafit_model::{
    ActivationDtype, ActivationPolicy, BaseQuantization, Config, Model, Parameters, Recompute,
};
use safetensors::SafeTensors;

use crate::common::{
    Case, FileTensor, LOGITS_TOLERANCE, assert_close, edit_safetensors, fixture, generated, gguf_fixture,
    saved_base, saved_files, saved_fixture, tree_of,
};
use crate::driver::gpu;

const NAMES: [&str; 20] = [
    "embedding_factors",
    "head_factors",
    "head_factors_tied",
    "llama_all",
    "llama_head",
    "tied_embedding",
    "tied_head",
    "tied_apart",
    "tied_as_one",
    "gemma2",
    "gpt2",
    "tokens_tied",
    "tokens_apart",
    "tokens_embedding",
    "tokens_head",
    "tokens_both_of_tied",
    "tokens_gemma2",
    "tokens_gpt2",
    "tokens_added_tied",
    "tokens_added",
];

#[test]
fn logits_loss_and_gradients_equal_peft() {
    for name in NAMES {
        Case::with_saved(Device::Cpu, name).assert_equals_peft(name);
    }
}

/// On a device whose kernels the CPU runs.
#[test]
fn a_device_equals_peft() {
    let Some(device) = gpu(Float::F32).map(Device::Cuda) else { return };
    for name in [
        "llama_all",
        "tied_apart",
        "gemma2",
        "head_factors",
        "embedding_factors",
        "tokens_added_tied",
        "tokens_apart",
        "tokens_gemma2",
    ] {
        Case::with_saved(device, name).assert_equals_peft(name);
    }
}

#[test]
fn eight_steps_equal_peft() {
    for name in NAMES {
        Case::with_saved(Device::Cpu, name).assert_eight_steps(name);
    }
}

#[test]
fn what_is_computed_again_has_the_bits_of_what_was_kept() {
    for name in ["llama_all", "tied_as_one", "head_factors", "embedding_factors", "tokens_tied"] {
        let case = Case::with_saved(Device::Cpu, name);
        let streams = [case.packed(&[0, 1]), tree_of(case.model.config().vocab_size)];
        let gradients = |recompute| {
            case.gradients_with(&streams, ActivationPolicy { recompute, dtype: ActivationDtype::F32 })
        };
        let kept = gradients(Recompute::None);
        assert!(gradients(Recompute::Full) == kept && gradients(Recompute::Blocks(1)) == kept, "{name}");
    }
}

#[test]
fn greedy_answers_from_a_cache_are_those_of_the_whole_text() {
    for name in ["llama_all", "tied_head", "head_factors_tied", "embedding_factors", "tokens_added"] {
        generated(&Case::with_saved(Device::Cpu, name), name);
    }
}

/// Copies of quantised weights are what those decode to.
#[test]
fn a_fresh_adapter_changes_no_bit() {
    let quantization = Quantization::FourBit { code: Code::Nf4, block_len: 64, double: false };
    for name in NAMES.into_iter().filter(|name| !name.starts_with("tokens")) {
        let case = Case::with_saved(Device::Cpu, name);
        let files = ModelFiles::open(&saved_base(name)).expect("the fixture");
        let quantized = BaseQuantization { quantization, head: true };
        let quantized = Model::load_quantized(&files, quantized, Device::Cpu).expect("quantised");
        let mut fresh =
            Adapter::init(case.model.config(), case.adapter.config(), 1, Device::Cpu).expect("fresh");
        for model in [&case.model, &quantized] {
            model.prepare(&mut fresh);
            assert!(case.logits(model, Some(&fresh), 0) == case.logits(model, None, 0), "{name}");
            fresh = Adapter::init(case.model.config(), case.adapter.config(), 1, Device::Cpu).expect("fresh");
        }
    }
}

/// The base that several adapters share is never written to, and what is decayed are matrices.
#[test]
fn the_base_stays_as_it_is() {
    let mut case = Case::with_saved(Device::Cpu, "llama_all");
    let before = case.logits(&case.model, None, 0);
    let parameters = Parameters::Adapter { model: &case.model, adapter: &mut case.adapter };
    let decayed = parameters.decayed();
    // Two layers with two factors of `A` stacked and two of `B`; embedding, norms, head.
    assert_eq!(decayed, [vec![true; 2 * 3 + 1], vec![false; 2 * 2 + 1], vec![true]].concat());
    case.adapter.tensors_mut().for_each(|tensor| tensor.write(0, &[3.0]));
    case.model.prepare(&mut case.adapter);
    assert!(case.logits(&case.model, None, 0) == before);
}

fn tensors_of(path: &Path) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let bytes = std::fs::read(path).expect("read");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        (name, view.shape().to_vec(), view.data().to_vec())
    };
    let mut tensors: Vec<_> = file.tensors().into_iter().map(tensor).collect();
    tensors.sort();
    tensors
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn an_adapter_is_saved_as_peft_has_it() {
    for name in NAMES {
        let case = Case::with_saved(Device::Cpu, name);
        let dir = tempfile::tempdir().expect("a folder");
        adapter::save(dir.path(), &case.adapter, "base").expect("saved");
        let [found, expected] = [dir.path().to_owned(), saved_fixture(name).join("adapter")];
        let file = "adapter_model.safetensors";
        let [tensors, of_peft] = [&found, &expected].map(|dir| tensors_of(&dir.join(file)));
        assert_eq!(tensors.len(), of_peft.len(), "{name}");
        for ((tensor, shape, found), (of_peft, expected_shape, expected)) in tensors.iter().zip(&of_peft) {
            assert_eq!((tensor, shape), (of_peft, expected_shape));
            // One more is computed with: the last bits of small values are lost to that of one.
            let largest = if name == "gemma2" && tensor.contains("norm") { 6.0e-8 } else { 0.0 };
            let differs = |(a, b): (&f32, &f32)| (a - b).abs() > largest;
            assert!(!floats(found).iter().zip(&floats(expected)).any(differs), "{name}: {tensor}");
        }
        let key = |dir: &Path, key: &str| {
            let config = std::fs::read_to_string(dir.join("adapter_config.json")).expect("read");
            serde_json::from_str::<serde_json::Value>(&config).expect("JSON")[key].clone()
        };
        for option in ["modules_to_save", "trainable_token_indices"] {
            assert_eq!(key(&found, option), key(&expected, option), "{name}");
        }
        let tied = key(&expected, "ensure_weight_tying") == true;
        assert_eq!(key(&found, "ensure_weight_tying") == true, tied, "{name}");
    }
}

/// Whatever a step made of weights of which files have one less, saved and read they are the same bits.
#[test]
fn what_is_saved_is_read_bit_for_bit() {
    let mut case = Case::with_saved(Device::Cpu, "gemma2");
    let values = [0.1f32, -0.3, 1e-9, 0.75, 1.3, 2.7].map(|value| value + 1.7e-8);
    case.adapter.tensors_mut().for_each(|tensor| tensor.write(0, &values));
    case.model.prepare(&mut case.adapter);
    let dir = tempfile::tempdir().expect("a folder");
    adapter::save(dir.path(), &case.adapter, "gemma2").expect("saved");
    let mut read = adapter::load(dir.path(), case.model.config(), Device::Cpu).expect("read");
    case.model.prepare(&mut read);
    for (saved, read) in case.adapter.tensors().zip(read.tensors()) {
        assert_eq!(saved.to_vec(saved.len()), read.to_vec(read.len()));
    }
}

/// The model `files` with an adapter merged into it, in `out`.
fn merge(mut files: ModelFiles, adapter: &Adapter, out: &Path) -> ModelFiles {
    if adapter.config().unties(files.config()) {
        files.untie();
    }
    let merged = Merged::new(&files, adapter, None).expect("merged");
    let mut bytes = Vec::new();
    write_tensors(&mut bytes, merged.sources()).expect("memory takes all");
    std::fs::create_dir(out).expect("a folder");
    std::fs::write(out.join("model.safetensors"), bytes).expect("written");
    let config = files.plain_config(SaveDtype::F32, Default::default()).expect("a configuration");
    std::fs::write(out.join("config.json"), config).expect("written");
    ModelFiles::open(out).expect("opens")
}

#[test]
fn merged_models_compute_as_those_of_peft_and_are_tied_alike() {
    for name in NAMES {
        let case = Case::with_saved(Device::Cpu, name);
        let place = tempfile::tempdir().expect("a folder");
        let files = merge(saved_files(name), &case.adapter, &place.path().join("merged"));
        let model = Model::load(&files, Device::Cpu).expect("loads");
        let expected = case.expected("merged_logits.0");
        assert_close(&case.logits(&model, None, 0), &expected, LOGITS_TOLERANCE, name);
        let spec = std::fs::read_to_string(saved_fixture(name).join("expected.json")).expect("read");
        let spec: serde_json::Value = serde_json::from_str(&spec).expect("JSON");
        assert_eq!(files.config().tie_word_embeddings, spec["merged_tied"] == true, "{name}");
        check_finite(&case.adapter, case.model.config()).expect("finite");
    }
}

/// A GGUF file of a model whose head is its embedding has a head of its own once one of them changed, and norms whole.
#[test]
fn merged_gguf_files_compute_alike() {
    let tied = ["tied_embedding", "tied_head", "head_factors_tied", "tokens_head"].map(|name| (name, None));
    for (name, gguf) in tied
        .into_iter()
        .chain(["gemma2", "embedding_factors"].map(|name| (name, Some("gemma2_plain-f32.gguf"))))
    {
        let case = Case::with_saved(Device::Cpu, name);
        let place = tempfile::tempdir().expect("a folder");
        let base = gguf.map_or_else(|| saved_base(name), gguf_fixture);
        let mut files = ModelFiles::open(&base).expect("the base");
        if gguf.is_none() {
            // First as a file without the adapter, so that the base is one.
            let none = Adapter::none(files.config());
            let merged = Merged::new(&files, &none, Some(SaveDtype::F32)).expect("merged");
            let path = place.path().join("base.gguf");
            write_gguf(&GgufModel::new(&files, &merged, None, Vec::new()), &path);
            files = ModelFiles::from_gguf(Gguf::open(&path).expect("opens")).expect("a model");
        }
        let base = Model::load(&files, Device::Cpu).expect("loads");
        let expected = case.logits(&base, Some(&case.adapter), 0);
        if case.adapter.config().unties(files.config()) {
            files.untie();
        }
        let merged = Merged::new(&files, &case.adapter, Some(SaveDtype::F32)).expect("merged");
        let path = place.path().join("merged.gguf");
        write_gguf(&GgufModel::new(&files, &merged, None, Vec::new()), &path);
        let files = ModelFiles::open(&path).expect("a model");
        assert_eq!(files.config().tie_word_embeddings, name == "gemma2", "{name}");
        let model = Model::load(&files, Device::Cpu).expect("loads");
        assert_close(&case.logits(&model, None, 0), &expected, LOGITS_TOLERANCE, name);
    }
}

fn write_gguf(model: &GgufModel<'_>, path: &Path) {
    let mut bytes = Vec::new();
    model.write(&mut bytes).expect("memory takes all");
    std::fs::write(path, bytes).expect("written");
}

#[test]
fn names_are_those_of_the_model() {
    let names = |model: &str, names: &[&str]| {
        let config = ModelFiles::open(&fixture(model)).expect("the fixture").config().clone();
        names.join(",").parse::<SaveModules>().expect("names").of(&config)
    };
    let all = ["embed_tokens", "lm_head", "norms"];
    assert_eq!(
        names("llama", &all).expect("known"),
        ["embed_tokens", "lm_head", "input_layernorm", "post_attention_layernorm", "norm"]
    );
    assert_eq!(names("gpt2", &all).expect("known"), ["wte", "lm_head", "ln_1", "ln_2", "ln_f"]);
    assert_eq!(names("qwen3", &["k_norm"]).expect("known"), ["k_norm"]);
    for (model, name) in [("llama", "q_proj"), ("llama", "mlp"), ("gpt2", "wpe"), ("llama", "q_norm")] {
        let error = names(model, &[name]).expect_err("refused");
        assert!(error.to_string().contains(name), "{error}");
        assert!(format!("{:?}", error.hint()).contains("lm_head"), "{:?}", error.hint());
    }
}

/// An adapter's folder after `edit`, read.
fn read_after(name: &str, edit: impl FnOnce(&Path)) -> Result<Adapter, String> {
    let dir = tempfile::tempdir().expect("a folder");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(saved_fixture(name).join("adapter").join(file), dir.path().join(file)).expect("copied");
    }
    edit(dir.path());
    let files = ModelFiles::open(&saved_base(name)).expect("the fixture");
    adapter::load_over(dir.path(), &files, Device::Cpu).map_err(|error| {
        format!("{error}; {}", error.hint().map(|hint| format!("{hint:?}")).unwrap_or_default())
    })
}

fn in_config(from: &str, to: &str) -> impl FnOnce(&Path) {
    move |dir| {
        let path = dir.join("adapter_config.json");
        let text = std::fs::read_to_string(&path).expect("read");
        let text: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let changed = text.to_string().replace(from, to);
        assert_ne!(changed, text.to_string(), "{from}");
        std::fs::write(&path, changed).expect("written");
    }
}

#[test]
fn whole_weights_that_do_not_fit_their_configuration_are_refused() {
    let refused = |name: &str, edit: &dyn Fn(&Path)| read_after(name, edit).expect_err("refused");
    let list = r#""modules_to_save":["lm_head"]"#;
    let told =
        |to: &str| refused("llama_head", &|dir| in_config(list, &format!(r#""modules_to_save":{to}"#))(dir));
    assert!(told("null").contains("is a whole lm_head"), "{}", told("null"));
    assert!(told(r#"["lm_head","norm"]"#).contains("layernorm.weight is missing"), "{}", told(r#"["norm"]"#));
    for module in ["q_proj", "mlp", "layers"] {
        let told = told(&format!(r#"["lm_head","{module}"]"#));
        assert!(told.contains("`modules_to_save`") && told.contains(module), "{told}");
        assert!(told.contains("merge the adapter in PEFT"), "{told}");
    }
    assert!(told("[1]").contains("a list of names") && told(r#"[""]"#).contains("not empty"));
    let tensor = "base_model.model.lm_head.weight";
    let told = refused("llama_head", &|dir| {
        edit_safetensors(&dir.join("adapter_model.safetensors"), |tensors| {
            let (_, _, shape, data) = tensors.iter_mut().find(|(name, ..)| name == tensor).expect("there");
            shape[0] -= 1;
            data.truncate(shape[0] * shape[1] * 4);
        });
    });
    assert!(told.contains(tensor) && told.contains("the model needs [96, 64]"), "{told}");
    let told = refused("llama_head", &|dir| {
        edit_safetensors(&dir.join("adapter_model.safetensors"), |tensors| {
            let (_, _, _, data) = tensors.iter_mut().find(|(name, ..)| name == tensor).expect("there");
            data[4 * 700..4 * 701].copy_from_slice(&f32::NAN.to_le_bytes());
        });
    });
    assert!(told.contains("NaN, expected finite numbers"), "{told}");
    let told = refused("tied_as_one", &|dir| {
        edit_safetensors(&dir.join("adapter_model.safetensors"), |tensors| {
            let (_, _, _, data) = tensors.iter_mut().find(|(name, ..)| name == tensor).expect("there");
            data[3] ^= 0x80;
        });
    });
    assert!(told.contains("is not the embedding, and `ensure_weight_tying`"), "{told}");
}

/// PEFT passes over names that no module has; in memory the adapter's name stands in those of tensors.
#[test]
fn names_of_no_module_are_told_and_names_of_memory_read() {
    let list = r#""modules_to_save":["lm_head"]"#;
    let adapter =
        read_after("llama_head", in_config(list, r#""modules_to_save":["lm_head","score"]"#)).expect("read");
    assert!(adapter.notes().iter().any(|note| note.contains("names score")), "{:?}", adapter.notes());
    let renamed = read_after("llama_head", |dir| {
        edit_safetensors(&dir.join("adapter_model.safetensors"), |tensors| {
            let (name, ..) =
                tensors.iter_mut().find(|(name, ..)| name.ends_with("lm_head.weight")).expect("there");
            *name = "base_model.model.lm_head.modules_to_save.default.weight".to_owned();
        });
    });
    let (renamed, case) = (renamed.expect("read"), Case::with_saved(Device::Cpu, "llama_head"));
    for (found, expected) in renamed.tensors().zip(case.adapter.tensors()) {
        assert_eq!(found.to_vec(found.len()), expected.to_vec(expected.len()));
    }
}

/// Where the vocabulary grew (`resize_token_embeddings`), PEFT saves what was trained whole more than once, and the base's beside it.
#[test]
fn whole_weights_of_a_vocabulary_that_grew_are_read_and_merged() {
    const ADDED: usize = 3;
    let grown = |edit: &dyn Fn(&mut Vec<FileTensor>)| {
        let dir = tempfile::tempdir().expect("a folder");
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            let from = saved_fixture("tied_as_one").join("adapter").join(file);
            std::fs::copy(from, dir.path().join(file)).expect("copied");
        }
        edit_safetensors(&dir.path().join("adapter_model.safetensors"), |tensors| {
            let is_table =
                |name: &str| name.ends_with("embed_tokens.weight") || name.ends_with("lm_head.weight");
            let mut more = Vec::new();
            for (name, dtype, shape, data) in tensors.iter_mut().filter(|(name, ..)| is_table(name)) {
                let row = data[..shape[1] * 4].to_vec();
                data.extend(row.repeat(ADDED));
                shape[0] += ADDED;
                let named = |part: &str| name.replace(".weight", &format!(".{part}.weight"));
                more.push((named("modules_to_save"), *dtype, shape.clone(), data.clone()));
                more.push((named("original_module"), *dtype, shape.clone(), vec![0; data.len()]));
            }
            assert_eq!(more.len(), 4);
            tensors.extend(more);
            edit(tensors);
        });
        let mut files = ModelFiles::open(&saved_base("tied_as_one")).expect("the fixture");
        let rows = adapter::whole_rows(dir.path()).expect("read");
        assert_eq!(rows, files.stored_rows() + ADDED);
        files.add_rows(rows).expect("few");
        let adapter =
            adapter::load_over(dir.path(), &files, Device::Cpu).map_err(|error| error.to_string())?;
        Ok::<_, String>((files, adapter))
    };
    let (files, adapter) = grown(&|_| {}).expect("read");
    let merged = Merged::new(&files, &adapter, None).expect("merged");
    let sources = merged.sources();
    let table = sources.iter().find(|source| source.name.ends_with("embed_tokens.weight")).expect("there");
    assert_eq!(table.shape[0], files.stored_rows() + ADDED);
    let error = grown(&|tensors| {
        let again = tensors.iter_mut().find(|(name, ..)| name.ends_with("embed_tokens.weight"));
        again.expect("there").3[3] ^= 0x80;
    });
    assert!(error.expect_err("refused").contains("has other values than"));
}

#[test]
fn adapters_with_whole_weights_have_no_weight_and_no_sum_and_go_into_no_adapter_of_others() {
    let case = Case::with_saved(Device::Cpu, "llama_head");
    let how = Combination { method: Method::Cat, density: 1.0, majority_sign: MajoritySign::Total, seed: 0 };
    let weighted = [Weighted { adapter: &case.adapter, weight: 0.7 }];
    let error = combine(case.model.config(), &weighted, &how).expect_err("refused");
    assert_eq!(error, CombineError::WholeWeights);
    assert!(error.hint().is_some());
    let config = case.model.config();
    let head = Case::with_saved(Device::Cpu, "head_factors");
    let weighted = [Weighted { adapter: &head.adapter, weight: 0.7 }];
    assert_eq!(combine(config, &weighted, &how).expect_err("refused"), CombineError::Outside);
    for (adapter, why) in
        [(&case.adapter, "no place for whole weights"), (&head.adapter, "adapter of lm_head")]
    {
        let errors = [
            gguf_lora_bytes(adapter, config, "base").expect_err("refused"),
            MlxAdapter::new(adapter, config).expect_err("refused"),
        ];
        for error in errors {
            assert!(error.to_string().contains(why), "{error}");
            assert!(format!("{:?}", error.hint()).contains("Merge"), "{:?}", error.hint());
        }
    }
}

/// Factors of the head alone: nothing of the blocks is gone back through.
#[test]
fn factors_of_the_head_alone_are_a_part_of_the_whole() {
    let mut case = Case::with_saved(Device::Cpu, "head_factors");
    let gradients = |case: &Case| case.gradients(&[case.packed(&[0, 1])]).1;
    let of_all = gradients(&case);
    let lora = LoraConfig { rank: 2, alpha: 4.0, ..LoraConfig::new("lm_head".parse().expect("targets")) };
    case.adapter = Adapter::init(case.model.config(), &lora, 1, Device::Cpu).expect("an adapter");
    let of_head: Vec<String> =
        of_all.into_iter().map(|(name, _)| name).filter(|name| name.contains("lm_head")).collect();
    let found = gradients(&case);
    assert_eq!(found.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), of_head);
    // `B` of a fresh one is zero, and with it the gradient of `A`.
    for (name, values) in &found {
        assert_eq!(values.iter().any(|value| *value != 0.0), name.contains("lora_B"), "{name}");
    }
}

#[test]
fn what_factors_of_the_head_do_not_go_with_is_refused() {
    let told = |name: &str, from: &str, to: &str| read_after(name, in_config(from, to)).expect_err("refused");
    let dora = told("head_factors", r#""use_dora":false"#, r#""use_dora":true"#);
    assert!(dora.contains("lm_head") && dora.contains("DoRA"), "{dora}");
    let whole = told("head_factors", r#""modules_to_save":null"#, r#""modules_to_save":["lm_head"]"#);
    assert!(whole.contains("is trained whole already"), "{whole}");
    let tied = told("head_factors_tied", r#""ensure_weight_tying":false"#, r#""ensure_weight_tying":true"#);
    assert!(tied.contains("stay one with the other side"), "{tied}");
    let unnamed = told("head_factors", r#""lm_head","#, "");
    assert!(unnamed.contains("belongs to no projection") && unnamed.contains("name lm_head"), "{unnamed}");
}

#[test]
fn sizes_are_those_of_the_tensors() {
    for name in NAMES {
        let case = Case::with_saved(Device::Cpu, name);
        let (config, lora): (&Config, &LoraConfig) = (case.model.config(), case.adapter.config());
        let lens: Vec<usize> = case.adapter.tensors().map(|tensor| tensor.len()).collect();
        assert_eq!(lora.tensor_lens(config).expect("counted"), lens, "{name}");
        let saved: usize = lora.table_lens(config).expect("counted").iter().sum();
        assert_eq!(lora.table_bytes(config, Placement::Cpu).expect("counted"), 4 * saved as u64, "{name}");
    }
}
