//! The tokenizer that belongs to a model's files.

use lorafit_data::{GgufTokenizer, Tokenizer, TokenizerError};
use lorafit_model::weights::{Gguf, ModelFiles};

/// Reads the tokenizer from the model's folder, or from the metadata of its GGUF file.
///
/// # Errors
/// A tokenizer that is missing, damaged or of an unsupported kind.
pub fn open_tokenizer(files: &ModelFiles) -> Result<Tokenizer, TokenizerError> {
    match files.gguf() {
        None => Tokenizer::from_folder(files.path()),
        Some(gguf) => Tokenizer::from_gguf(tokenizer_metadata(gguf)),
    }
}

/// The tokenizer's part of GGUF metadata.
pub fn tokenizer_metadata(gguf: &Gguf) -> GgufTokenizer {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let id = |name: &str| gguf.integer(&key(name)).and_then(|n| u32::try_from(n).ok());
    GgufTokenizer {
        model: gguf.text(&key("model")).unwrap_or_default().to_owned(),
        pre: gguf.text(&key("pre")).map(str::to_owned),
        tokens: gguf.texts(&key("tokens")).unwrap_or_default().to_vec(),
        scores: gguf.float_list(&key("scores")).map(<[f32]>::to_vec),
        token_types: gguf.integers(&key("token_type")).map(|t| t.iter().map(|&n| n as i32).collect()),
        merges: gguf.texts(&key("merges")).map(<[String]>::to_vec),
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        unknown: id("unknown_token_id"),
        padding: id("padding_token_id"),
        add_bos: gguf.flag(&key("add_bos_token")),
        add_eos: gguf.flag(&key("add_eos_token")),
        add_space_prefix: gguf.flag(&key("add_space_prefix")),
        chat_template: gguf.text("tokenizer.chat_template").map(str::to_owned),
        tool_template: gguf.text("tokenizer.chat_template.tool_use").map(str::to_owned),
    }
}
