//! The tokenizer that belongs to a model's files.

use lorafit_data::{GgufTokenizer, Tokenizer, TokenizerError};
use lorafit_model::weights::{Gguf, GgufEntry, ModelFiles};

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

/// The metadata entries of a tokenizer, for a GGUF file that is to be written.
pub fn tokenizer_entries(tokenizer: GgufTokenizer) -> Vec<(String, GgufEntry)> {
    let entry = |name: &str, value: Option<GgufEntry>| Some((format!("tokenizer.ggml.{name}"), value?));
    let template =
        |name: &str, text: Option<String>| Some((format!("tokenizer.{name}"), GgufEntry::Text(text?)));
    [
        entry("model", Some(GgufEntry::Text(tokenizer.model))),
        entry("pre", tokenizer.pre.map(GgufEntry::Text)),
        entry("tokens", Some(GgufEntry::Texts(tokenizer.tokens))),
        entry("scores", tokenizer.scores.map(GgufEntry::F32s)),
        entry("token_type", tokenizer.token_types.map(GgufEntry::I32s)),
        entry("merges", tokenizer.merges.map(GgufEntry::Texts)),
        entry("bos_token_id", tokenizer.bos.map(GgufEntry::U32)),
        entry("eos_token_id", tokenizer.eos.map(GgufEntry::U32)),
        entry("unknown_token_id", tokenizer.unknown.map(GgufEntry::U32)),
        entry("padding_token_id", tokenizer.padding.map(GgufEntry::U32)),
        entry("add_bos_token", tokenizer.add_bos.map(GgufEntry::Bool)),
        entry("add_eos_token", tokenizer.add_eos.map(GgufEntry::Bool)),
        entry("add_space_prefix", tokenizer.add_space_prefix.map(GgufEntry::Bool)),
        template("chat_template", tokenizer.chat_template),
        template("chat_template.tool_use", tokenizer.tool_template),
    ]
    .into_iter()
    .flatten()
    .collect()
}
