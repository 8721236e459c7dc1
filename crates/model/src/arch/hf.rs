//! Reading `config.json`: its keys, and what the architectures have in common.

use serde_json::{Map, Value};

use super::error::{ConfigError, INITIALIZER_RANGE, MAX_SIZE, OTHER_COMPUTATION};
use super::{Arch, rope};
use crate::shape::Config;

/// The keys of a configuration, with errors that name them.
pub(super) struct Keys<'a>(pub &'a Map<String, Value>);

impl Keys<'_> {
    pub(super) fn wrong(&self, key: &str, expected: &str) -> ConfigError {
        let found = self.0.get(key).map_or("missing".to_owned(), Value::to_string);
        ConfigError::new(format!("`{key}` is {found}, expected {expected}"))
    }

    pub(super) fn present(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }

    pub(super) fn optional_size(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.present(key) else { return Ok(None) };
        let size = value.as_u64().filter(|n| (1..=MAX_SIZE).contains(n));
        size.map(|n| Some(n as usize)).ok_or_else(|| self.wrong(key, "a whole number from 1 to 16777216"))
    }

    pub(super) fn size(&self, key: &str) -> Result<usize, ConfigError> {
        self.optional_size(key)?.ok_or_else(|| self.wrong(key, "a whole number"))
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.present(key) else { return Ok(None) };
        let number = value.as_f64().filter(|n| n.is_finite() && *n > 0.0);
        number.map(Some).ok_or_else(|| self.wrong(key, "a number above zero"))
    }

    pub(super) fn flag(&self, key: &str) -> Result<bool, ConfigError> {
        let Some(value) = self.present(key) else { return Ok(false) };
        value.as_bool().ok_or_else(|| self.wrong(key, "true or false"))
    }
}

/// What every architecture reads alike. No projection has a bias, queries and keys have no norm, and there is no window:
/// who has them says so.
pub(super) fn common(keys: &Keys<'_>, arch: Arch) -> Result<Config, ConfigError> {
    if let Some(quantized) = keys.present("quantization_config") {
        // Early configurations of bitsandbytes do not say whose they are.
        let early = ["load_in_4bit", "load_in_8bit"].iter().any(|key| quantized.get(*key).is_some());
        match quantized.get("quant_method").and_then(Value::as_str) {
            Some("bitsandbytes") => {}
            None if early => {}
            _ => return Err(keys.wrong("quantization_config", "none, or that of bitsandbytes")),
        }
    }
    if !matches!(keys.present("is_causal"), None | Some(Value::Bool(true))) {
        return Err(keys.wrong("is_causal", "true").with_hint(OTHER_COMPUTATION));
    }
    if !keys.number("partial_rotary_factor")?.is_none_or(|part| part == 1.0) {
        return Err(keys.wrong("partial_rotary_factor", "1").with_hint(OTHER_COMPUTATION));
    }
    match keys.present("hidden_act").map(|v| v.as_str()) {
        None | Some(Some("silu")) => {}
        Some(_) => return Err(keys.wrong("hidden_act", "\"silu\"")),
    }
    let hidden_size = keys.size("hidden_size")?;
    let num_attention_heads = keys.size("num_attention_heads")?;
    Ok(Config {
        arch,
        hidden_size,
        intermediate_size: keys.size("intermediate_size")?,
        num_hidden_layers: keys.size("num_hidden_layers")?,
        num_attention_heads,
        num_key_value_heads: keys.optional_size("num_key_value_heads")?.unwrap_or(num_attention_heads),
        head_dim: keys.optional_size("head_dim")?.unwrap_or(hidden_size / num_attention_heads),
        vocab_size: keys.size("vocab_size")?,
        norm_eps: keys.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        rope: rope::from_json(keys.0)?,
        tie_word_embeddings: keys.flag("tie_word_embeddings")?,
        attention_bias: false,
        attention_output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        max_position_embeddings: keys.optional_size("max_position_embeddings")?.unwrap_or(2048),
        sliding_window: None,
        initializer_range: keys.number("initializer_range")?.map_or(INITIALIZER_RANGE, |range| range as f32),
    })
}

/// `layer_types`: each layer sees all before it, or a window of it.
pub(super) fn check_layer_types(
    keys: &Keys<'_>,
    layers: usize,
    window: Option<usize>,
) -> Result<(), ConfigError> {
    let Some(types) = keys.present("layer_types") else { return Ok(()) };
    let list = types.as_array().filter(|list| list.len() == layers);
    let list = list.ok_or_else(|| keys.wrong("layer_types", &format!("a list of {layers}")))?;
    for (layer, found) in list.iter().enumerate() {
        match found.as_str() {
            Some("full_attention") => {}
            Some("sliding_attention") if window.is_some() => {}
            Some("sliding_attention") => {
                let problem = format!(
                    "`layer_types` has \"sliding_attention\" for layer {layer}, but no `sliding_window` is active"
                );
                return Err(ConfigError::new(problem).with_hint(
                    "give `sliding_window` (and for qwen2 and qwen3 \"use_sliding_window\": true), or make it \"full_attention\"",
                ));
            }
            _ => {
                let problem = format!(
                    "`layer_types` has {found} for layer {layer}, expected \"full_attention\" or \"sliding_attention\""
                );
                return Err(ConfigError::new(problem).with_hint(OTHER_COMPUTATION));
            }
        }
    }
    Ok(())
}

/// `sliding_window`, of architectures that have it only where `use_sliding_window` says so.
pub(super) fn window_if_used(keys: &Keys<'_>) -> Result<Option<usize>, ConfigError> {
    match keys.flag("use_sliding_window")? {
        true => keys.optional_size("sliding_window"),
        false => Ok(None),
    }
}
