//! What goes beside the weights of a model folder.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{MAX_CONFIG_BYTES, ModelFiles, SaveDtype, Source, inside, read_text};
use crate::config::{Config, ConfigError, Rope, RopeScaling};
use crate::error::FileError;

/// The folder of chat templates other than the default.
const TEMPLATES: &str = "additional_chat_templates";

/// Tokenizer, template and generation settings of a model folder, by name: every small text file but those that are about
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
        if path.is_file() && !about_weights && ["json", "jinja", "txt", "model"].contains(&kind) {
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

impl ModelFiles {
    /// The `config.json` of a folder with this model's weights, plain and in `dtype`: the folder's own, or for a GGUF
    /// file one that says the same, with the ids of the tokens that begin and end a text.
    ///
    /// # Errors
    /// A GGUF file whose shape no configuration has.
    pub fn plain_config(
        &self,
        dtype: SaveDtype,
        bos: Option<u32>,
        eos: Option<u32>,
    ) -> Result<String, FileError> {
        let mut config = match &self.source {
            Source::Folder { .. } => {
                let path = self.path.join("config.json");
                let text =
                    read_text(&path, MAX_CONFIG_BYTES).map_err(|e| FileError::new(&path, e.to_string()))?;
                serde_json::from_str(&text).map_err(|e| FileError::new(&path, e.to_string()))?
            }
            Source::Gguf(_) => {
                let mut config = self.config.to_hf_json().map_err(|e| self.error(e.to_string()))?;
                config.insert("bos_token_id".to_owned(), json!(bos));
                config.insert("eos_token_id".to_owned(), json!(eos));
                config
            }
        };
        // A head that differs from the embedding is written, too.
        if config.contains_key("tie_word_embeddings") {
            config.insert("tie_word_embeddings".to_owned(), json!(self.config.tie_word_embeddings));
        }
        for key in ["quantization_config", "_name_or_path", "torch_dtype", "dtype"] {
            config.remove(key);
        }
        // The older key, which every version reads.
        config.insert("torch_dtype".to_owned(), json!(dtype.name()));
        Ok(serde_json::to_string_pretty(&config).expect("plain values") + "\n")
    }
}

impl Config {
    /// As a `config.json` that [`Config::from_hf_json`] and transformers read as the same model.
    ///
    /// # Errors
    /// A shape that no configuration has.
    fn to_hf_json(&self) -> Result<Map<String, Value>, ConfigError> {
        let class = match self.model_type.as_str() {
            "llama" => "LlamaForCausalLM",
            "mistral" => "MistralForCausalLM",
            "qwen2" => "Qwen2ForCausalLM",
            _ => "Qwen3ForCausalLM",
        };
        // By their decimal digits: 1e-5 as f32 is 9.99999974e-6 as f64.
        let eps: f64 = self.rms_norm_eps.to_string().parse().expect("a number");
        let json = json!({
            "architectures": [class],
            "model_type": self.model_type,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab_size,
            "rms_norm_eps": eps,
            "rope_theta": self.rope.theta,
            "rope_scaling": self.rope_scaling_json(),
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "max_position_embeddings": self.max_position_embeddings,
        });
        let again = Config::from_hf_json(&json.to_string())?;
        let close = |a: f32, b: f32| (a - b).abs() <= 1e-6 * a.abs();
        let (ours, read) = (self.rope_frequencies(), again.rope_frequencies());
        let rotated_alike = ours.iter().zip(&read).all(|(a, b)| close(*a, *b));
        let rope = Rope { ..self.rope.clone() };
        match (Config { rope, ..again } == *self) && rotated_alike {
            true => Ok(json.as_object().expect("an object").clone()),
            false => Err(ConfigError::new("no config.json says what this file's metadata does")),
        }
    }

    /// GGUF files of Llama 3.1 and later have divisors instead of what they are computed from: 8 or, of the small models,
    /// 32 for low frequencies.
    fn rope_scaling_json(&self) -> Value {
        let llama3 = |factor: f64, low: f64, high: f64, context: f64| {
            json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": context,
            })
        };
        match &self.rope.scaling {
            RopeScaling::None => Value::Null,
            RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => llama3(*factor, *low_freq_factor, *high_freq_factor, *original_max_position_embeddings),
            RopeScaling::Divisors(divisors) => {
                let largest = divisors.iter().copied().fold(1.0, f32::max);
                llama3(f64::from(largest), 1.0, 4.0, 8192.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_as_it_was_written() {
        for name in ["smollm2-135m", "llama-2-7b", "llama-3.1-8b", "qwen3-8b"] {
            let config = Config::named(name).expect("a name");
            let json = config.to_hf_json().unwrap_or_else(|e| panic!("{name}: {e}"));
            let read = Config::from_hf_json(&Value::Object(json).to_string()).expect("reads");
            assert_eq!(read, config, "{name}");
        }
    }

    #[test]
    fn divisors_become_what_they_are_computed_from_or_an_error() {
        let config = Config::named("llama-3.1-8b").expect("a name");
        let plain =
            Config { rope: Rope { scaling: RopeScaling::None, ..config.rope.clone() }, ..config.clone() };
        let frequencies = plain.rope_frequencies().into_iter().zip(config.rope_frequencies());
        let mut divisors: Vec<f32> = frequencies.map(|(plain, scaled)| plain / scaled).collect();
        let with = |divisors: &[f32]| {
            let scaling = RopeScaling::Divisors(divisors.to_vec());
            Config { rope: Rope { scaling, ..config.rope.clone() }, ..config.clone() }
        };
        assert_eq!(with(&divisors).to_hf_json().expect("known")["rope_scaling"]["factor"], json!(8.0));
        divisors[40] *= 1.1;
        assert!(with(&divisors).to_hf_json().is_err());
    }
}
