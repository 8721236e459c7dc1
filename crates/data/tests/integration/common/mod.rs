//! What several tests need: the fixtures under `fixtures/data`, and small tokenizers made by hand.
#![allow(dead_code, reason = "each test file is a crate of its own and uses a part")]

use std::io::Read;
use std::path::PathBuf;

use lorafit_data::{GgufTokenizer, Tokenizer};
use serde_json::Value;

pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/data").join(name)
}

pub fn read_json(name: &str) -> Value {
    let bytes = std::fs::read(fixture(name)).unwrap();
    if !name.ends_with(".gz") {
        return serde_json::from_slice(&bytes).unwrap();
    }
    let mut text = String::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

pub fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_string()).collect()
}

pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

/// The metadata of the real model's GGUF file.
pub fn smollm2_metadata() -> GgufTokenizer {
    let meta = read_json("smollm2_tokenizer.json.gz");
    let get = |key: &str| &meta[format!("tokenizer.{key}")];
    let id = |key: &str| get(key).as_u64().map(|id| id as u32);
    let types = get("ggml.token_type").as_array().unwrap();
    GgufTokenizer {
        model: get("ggml.model").as_str().unwrap().into(),
        pre: get("ggml.pre").as_str().map(str::to_string),
        tokens: strings(get("ggml.tokens")),
        scores: None,
        token_types: Some(types.iter().map(|t| t.as_i64().unwrap() as i32).collect()),
        merges: Some(strings(get("ggml.merges"))),
        bos: id("ggml.bos_token_id"),
        eos: id("ggml.eos_token_id"),
        unknown: id("ggml.unknown_token_id"),
        padding: id("ggml.padding_token_id"),
        add_bos: get("ggml.add_bos_token").as_bool(),
        add_eos: get("ggml.add_eos_token").as_bool(),
        add_space_prefix: get("ggml.add_space_prefix").as_bool(),
        chat_template: get("chat_template").as_str().map(str::to_string),
        tool_template: None,
    }
}

pub fn smollm2() -> Tokenizer {
    Tokenizer::from_gguf(smollm2_metadata()).unwrap()
}

/// The SentencePiece fixture's metadata.
pub fn sentencepiece_metadata() -> GgufTokenizer {
    let model = read_json("spm_bpe.json.gz");
    let floats = model["scores"].as_array().unwrap();
    let types = model["token_types"].as_array().unwrap();
    GgufTokenizer {
        model: "llama".into(),
        tokens: strings(&model["tokens"]),
        scores: Some(floats.iter().map(|s| s.as_f64().unwrap() as f32).collect()),
        token_types: Some(types.iter().map(|t| t.as_i64().unwrap() as i32).collect()),
        ..GgufTokenizer::default()
    }
}

/// Byte-level BPE over printable ASCII, space, line break and the given merges; `<|im_start|>`, `<|im_end|>` and
/// `<s>` are control tokens, the last BOS, the middle one EOS.
pub fn tiny_metadata(pre: &str, merges: &[&str]) -> GgufTokenizer {
    let mut tokens: Vec<String> = ["<|im_start|>", "<|im_end|>", "<s>"].map(String::from).to_vec();
    tokens.extend(('!'..='~').map(String::from));
    tokens.extend(["Ġ", "Ċ", "č", "Ã", "©", "ð", "Ł", "ĺ", "Ģ"].map(String::from));
    tokens.extend(merges.iter().map(|m| m.replace(' ', "")));
    let mut types = vec![1; tokens.len()];
    types[..3].fill(3);
    GgufTokenizer {
        model: "gpt2".into(),
        pre: Some(pre.into()),
        tokens,
        token_types: Some(types),
        merges: Some(merges.iter().map(|m| m.to_string()).collect()),
        bos: Some(2),
        eos: Some(1),
        ..GgufTokenizer::default()
    }
}

pub const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + \
                          message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt \
                          %}{{ '<|im_start|>assistant\n' }}{% endif %}";

pub fn tiny_chatml() -> Tokenizer {
    let mut meta = tiny_metadata("gpt-2", &[]);
    meta.chat_template = Some(CHATML.into());
    Tokenizer::from_gguf(meta).unwrap()
}

/// The names of the ids, for readable assertions.
pub fn names(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    ids.iter().map(|id| tokenizer.id_to_token(*id).unwrap()).collect()
}
