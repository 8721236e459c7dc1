//! Models in GGUF files give the numbers of their Hugging Face folders: logits, losses and every adapter gradient
//! (`scripts/make_gguf_fixtures.py`). The adapters are PEFT's, made for the folders, so the rows of queries and keys
//! that GGUF keeps in another order must be put back.

use crate::common::{Case, fixture, gguf_fixture};
use lorafit_kernels::{Device, Placement};
use lorafit_model::RopeScaling;
use lorafit_model::adapter::{Adapter, LoraConfig, Targets, named_tensors};
use lorafit_model::weights::{Gguf, ModelFiles};

const SAME_NUMBERS: [&str; 23] = [
    "llama",
    "llama_bias",
    "llama31",
    "llama_linear",
    "qwen2",
    "qwen3",
    "qwen3_yarn",
    "gemma2_plain",
    "gemma3",
    "phi3_partial",
    "phi3_longrope",
    "smollm3",
    "granite",
    "olmo2",
    "olmo3",
    "glm4",
    "cohere2",
    "starcoder2",
    "gpt2",
    "mistral_window",
    "ministral3",
    "chat_bpe",
    "chat_spm",
];

/// Numbers computed by transformers from the dequantised weights.
const QUANTISED: [&str; 2] = ["llama-q8_0", "llama-mixed"];

fn same_numbers(name: &str) -> Case {
    // A file that does not say a window has numbers of its own.
    let own = gguf_fixture(&format!("{name}-f32.expected.safetensors"));
    let expected = if own.exists() { own } else { fixture(name).join("expected.safetensors") };
    Case::of(&gguf_fixture(&format!("{name}-f32.gguf")), name, &expected)
}

fn quantised(name: &str) -> Case {
    let expected = gguf_fixture(&format!("{name}.expected.safetensors"));
    Case::of(&gguf_fixture(&format!("{name}.gguf")), "llama", &expected)
}

fn open(file: &str) -> ModelFiles {
    ModelFiles::open(&gguf_fixture(file)).expect("the fixture opens")
}

#[test]
fn logits_equal_those_of_the_hugging_face_folder() {
    for name in SAME_NUMBERS {
        same_numbers(name).assert_logits(name);
    }
}

#[test]
fn loss_and_every_gradient_equal_those_of_the_hugging_face_folder() {
    for name in SAME_NUMBERS {
        same_numbers(name).assert_loss_and_gradients(name);
    }
}

#[test]
fn logits_of_quantised_weights_equal_those_of_the_dequantised() {
    for name in QUANTISED {
        quantised(name).assert_logits(name);
    }
}

#[test]
fn loss_and_every_gradient_of_quantised_weights_equal_those_of_the_dequantised() {
    for name in QUANTISED {
        quantised(name).assert_loss_and_gradients(name);
    }
}

/// What `config.json` says and what GGUF metadata says; where they have different words, what follows from them.
#[test]
fn configurations_equal_those_of_the_hugging_face_folder() {
    for name in SAME_NUMBERS {
        let gguf = open(&format!("{name}-f32.gguf")).config().clone();
        let folder = ModelFiles::open(&fixture(name)).expect("the fixture opens").config().clone();
        for (found, expected) in gguf.rope_frequencies().iter().zip(folder.rope_frequencies()) {
            // The divisors of Llama 3.1 are f32.
            assert!((found - expected).abs() <= 1e-6 * expected, "{name}: {found} and {expected}");
        }
        let scaled = matches!(gguf.rope.scaling, RopeScaling::Divisors(_));
        assert_eq!(scaled, name == "llama31", "{name}: the frequencies are divided");
        // Files say neither how matrices begin nor, of some families, the window; Mistral is a Llama there.
        let silent = ["mistral_window", "starcoder2"].contains(&name);
        let found = lorafit_model::Config {
            arch: if name == "mistral_window" { folder.arch } else { gguf.arch },
            rope: folder.rope.clone(),
            initializer_range: folder.initializer_range,
            sliding_window: if silent { folder.sliding_window } else { gguf.sliding_window },
            ..gguf
        };
        assert_eq!(found, folder, "{name}");
    }
}

/// A tied model's file has no `output.weight`; that the logits are right is claimed above.
#[test]
fn fixtures_have_tied_heads_and_heads_of_their_own() {
    let tied = SAME_NUMBERS.map(|name| open(&format!("{name}-f32.gguf")).config().tie_word_embeddings);
    assert!(tied.contains(&true) && tied.contains(&false));
}

/// The rows of q and k (and of their biases) are permuted in files of the Llama family alone: loading them in
/// checkpoint order gives exactly the folder's values.
#[test]
fn weights_and_biases_are_in_checkpoint_order() {
    for name in ["llama", "llama_bias", "qwen2"] {
        let gguf = open(&format!("{name}-f32.gguf"));
        let folder = ModelFiles::open(&fixture(name)).expect("the fixture opens");
        let config = folder.config();
        let queries = config.num_attention_heads * config.head_dim;
        let keys = config.num_key_value_heads * config.head_dim;
        for (module, rows) in [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)] {
            let path = format!("model.layers.1.self_attn.{module}");
            let weight = |files: &ModelFiles| {
                files.weight(&format!("{path}.weight"), rows, config.hidden_size).expect("a weight").to_vec()
            };
            assert_eq!(weight(&gguf), weight(&folder), "{name} {path}.weight");
            if config.attention_bias {
                let bias = |files: &ModelFiles| files.vector(&format!("{path}.bias"), rows).expect("a bias");
                assert_eq!(bias(&gguf), bias(&folder), "{name} {path}.bias");
            }
        }
    }
}

/// The seed alone decides a fresh adapter, whatever file the base came from.
#[test]
fn a_fresh_adapter_does_not_depend_on_the_kind_of_file() {
    let lora = LoraConfig::new(Targets::AllLinear);
    let fresh = |files: &ModelFiles| {
        let adapter = Adapter::init(files.config(), &lora, 7, Device::Cpu).expect("an adapter");
        named_tensors(&adapter, adapter.tensors())
    };
    let folder = ModelFiles::open(&fixture("llama")).expect("the fixture opens");
    assert_eq!(fresh(&open("llama-q8_0.gguf")), fresh(&folder));
}

#[test]
fn metadata_is_read_by_kind() {
    let gguf = Gguf::open(&gguf_fixture("chat_spm-f32.gguf")).expect("the fixture opens");
    assert_eq!(gguf.text("general.architecture"), Some("llama"));
    assert_eq!(gguf.integer("llama.block_count"), Some(2));
    assert_eq!(gguf.number("llama.rope.freq_base"), Some(10_000.0));
    assert_eq!(gguf.flag("tokenizer.ggml.add_bos_token"), Some(true));
    let tokens = gguf.texts("tokenizer.ggml.tokens").expect("tokens");
    assert_eq!(&tokens[..3], ["<unk>", "<s>", "</s>"]);
    assert_eq!(gguf.float_list("tokenizer.ggml.scores").map(<[f32]>::len), Some(tokens.len()));
    assert_eq!(gguf.integers("tokenizer.ggml.token_type").expect("types")[..4], [2, 3, 3, 6]);
    // A value of another kind is not there.
    assert_eq!(gguf.text("llama.block_count"), None);
    assert_eq!(gguf.integer("general.architecture"), None);
    assert_eq!(open("llama-f32.gguf").name(), "llama");
}

#[test]
fn the_header_of_a_file_tells_shape_and_sizes() {
    for name in ["llama-mixed.gguf", "llama31-f32.gguf", "qwen3-f32.gguf"] {
        let whole = open(name);
        let bytes = std::fs::read(gguf_fixture(name)).expect("the fixture");
        let data = whole.stored_bytes();
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("header.gguf");
        // Paddings between tensors may be all that is left of the data.
        std::fs::write(&path, &bytes[..bytes.len() - data as usize]).expect("written");
        let header = ModelFiles::open_header(&path).expect("opens");
        assert_eq!(
            header.weight_bytes(None, Placement::Cpu).expect("counted"),
            whole.weight_bytes(None, Placement::Cpu).expect("counted")
        );
        assert_eq!(header.config().parameters(), whole.config().parameters());

        assert!(
            ModelFiles::open(&path).expect_err("cut short").to_string().contains("do not lie in the file")
        );
        let error = header.weight("model.embed_tokens.weight", 1, 1).expect_err("another shape").to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
    }
}
