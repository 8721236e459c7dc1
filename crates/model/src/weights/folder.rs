//! What goes beside the weights of a model folder.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{ModelFiles, Source};
use crate::error::FileError;
use crate::files::{MAX_CONFIG_BYTES, SaveDtype, inside, read_text};
use crate::shape::Config;

/// The folder of chat templates other than the default.
const TEMPLATES: &str = "additional_chat_templates";

/// Tokenizer, template, generation settings and licence of a model folder, by name: every small text file but those that are about
/// the weights. Names may have a folder in them.
///
/// # Errors
/// A folder that cannot be listed, or with a link to another one.
pub fn companions(dir: &Path) -> Result<Vec<(String, PathBuf)>, FileError> {
    let fail = |e: std::io::Error| FileError::new(dir, format!("cannot list: {e}"));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let kind = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let about_weights = name == "config.json" || name.contains(".safetensors") || name.contains(".bin");
        let is_text = ["json", "jinja", "txt", "model"].contains(&kind);
        if path.is_file() && !about_weights && (is_text || is_licence(&name)) {
            found.push((name.clone(), inside(dir, &name)?));
        }
    }
    // Further chat templates, as transformers has them.
    let further = dir.join(TEMPLATES);
    for entry in std::fs::read_dir(&further).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_file() && name.ends_with(".jinja") {
            let name = format!("{TEMPLATES}/{name}");
            found.push((name.clone(), inside(dir, &name)?));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether a file of a model's folder has its licence, which goes wherever the weights go.
pub fn is_licence(name: &str) -> bool {
    ["LICENSE", "LICENCE", "NOTICE"].iter().any(|begin| name.to_uppercase().starts_with(begin))
}

/// Files of a tokenizer and its chat template, as transformers calls them.
const OF_TOKENIZER: [&str; 12] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
];

/// Whether a file of a model's folder, as [`companions`] names it, is of the tokenizer or a chat template.
pub fn is_tokenizer_file(name: &str) -> bool {
    OF_TOKENIZER.contains(&name) || name.starts_with(TEMPLATES)
}

/// Those of [`companions`] that are of the tokenizer: what an adapter is handed on with.
///
/// # Errors
/// As [`companions`].
pub fn tokenizer_files(dir: &Path) -> Result<Vec<(String, PathBuf)>, FileError> {
    Ok(companions(dir)?.into_iter().filter(|(name, _)| is_tokenizer_file(name)).collect())
}

/// The ids of the tokens that begin and end a text, and of the one that texts are filled up with.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends one.
    pub eos: Option<u32>,
    /// Fills one up.
    pub pad: Option<u32>,
}

impl ModelFiles {
    /// The `config.json` of a folder with this model's weights, plain and in `dtype`: the folder's own, or for a GGUF
    /// file one that says the same, with the `special` tokens.
    ///
    /// # Errors
    /// A GGUF file whose shape no configuration has.
    pub fn plain_config(&self, dtype: SaveDtype, special: SpecialTokens) -> Result<String, FileError> {
        let mut config = match &self.source {
            Source::Folder { .. } => {
                let path = self.path.join("config.json");
                let text =
                    read_text(&path, MAX_CONFIG_BYTES).map_err(|e| FileError::new(&path, e.to_string()))?;
                let config: Map<String, Value> =
                    serde_json::from_str(&text).map_err(|e| FileError::new(&path, e.to_string()))?;
                match self.config.is_of_several() {
                    true => self.alone(&config)?,
                    false => config,
                }
            }
            Source::Gguf(_) => {
                let mut config = self.unscored().to_hf_json().map_err(|e| self.error(e.to_string()))?;
                let SpecialTokens { bos, eos, pad } = special;
                // Where there is none that is said, too: the classes of some families have one of their own.
                for (name, id) in [("bos_token_id", bos), ("eos_token_id", eos), ("pad_token_id", pad)] {
                    config.insert(name.to_owned(), json!(id));
                }
                config
            }
        };
        if self.config.vocab_size != self.stored_rows {
            config.insert("vocab_size".to_owned(), json!(self.config.vocab_size));
        }
        if let Some(class) = self.config.labels.and_then(|_| self.config.score_class()) {
            config.insert("architectures".to_owned(), json!([class]));
        }
        // A head that differs from the embedding is written, too.
        if config.contains_key("tie_word_embeddings") || self.untied {
            config.insert("tie_word_embeddings".to_owned(), json!(self.config.tie_word_embeddings));
        }
        for key in ["quantization_config", "_name_or_path", "torch_dtype", "dtype"] {
            config.remove(key);
        }
        // The older key, which every version reads.
        config.insert("torch_dtype".to_owned(), json!(dtype.name()));
        Ok(serde_json::to_string_pretty(&config).expect("plain values") + "\n")
    }

    /// The shape as the files have it, whatever head is put in the place of theirs; with the rows that it was given.
    fn unscored(&self) -> Config {
        let stored = self.unscored.as_ref().unwrap_or(&self.config);
        Config { vocab_size: self.config.vocab_size, ..stored.clone() }
    }

    /// The configuration of the language model alone, of a folder with the configuration `all`. It keeps the tokens that texts
    /// begin and end with.
    fn alone(&self, all: &Map<String, Value>) -> Result<Map<String, Value>, FileError> {
        let mut config = self.unscored().alone().to_hf_json().map_err(|e| self.error(e.to_string()))?;
        let text = all.get("text_config").and_then(Value::as_object);
        for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            let found = all.get(key).or_else(|| text?.get(key));
            config.extend(found.map(|token| (key.to_owned(), token.clone())));
        }
        Ok(config)
    }
}
