//! Reading `config.json`: its keys, and what the architectures have in common.

use lorafit_kernels::ops::gate::Activation;
use serde_json::{Map, Value};

use super::error::{ConfigError, MAX_SIZE, OTHER_COMPUTATION};
use super::rope;
use crate::shape::{Arch, Config, INITIALIZER_RANGE, LayerPattern};

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

    /// True or false, and `default` where it is absent.
    pub(super) fn flag_or(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        if self.present(key).is_none() { Ok(default) } else { self.flag(key) }
    }

    /// A cap of scores or logits: null is none, and an absent key `default`.
    pub(super) fn cap(&self, key: &str, default: Option<f32>) -> Result<Option<f32>, ConfigError> {
        match self.0.get(key) {
            None => Ok(default),
            Some(_) => Ok(self.number(key)?.map(|cap| cap as f32)),
        }
    }

    /// A list of 0 and 1 for each of `layers` layers.
    pub(super) fn ones(&self, key: &str, layers: usize) -> Result<Option<Vec<bool>>, ConfigError> {
        let Some(value) = self.present(key) else { return Ok(None) };
        let read = |value: &Value| match value.as_u64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => value.as_bool(),
        };
        let list: Option<Vec<bool>> = value.as_array().and_then(|list| list.iter().map(read).collect());
        let list = list.filter(|list| list.len() == layers);
        list.map(Some).ok_or_else(|| self.wrong(key, &format!("a list of {layers} zeros and ones")))
    }

    /// A number, of which zero is one, too.
    pub(super) fn number_or_zero(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        match self.present(key).and_then(Value::as_f64) {
            Some(0.0) => Ok(Some(0.0)),
            _ => self.number(key),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<bool, ConfigError> {
        let Some(value) = self.present(key) else { return Ok(false) };
        value.as_bool().ok_or_else(|| self.wrong(key, "true or false"))
    }
}

/// As [`common_of_silu`], with the usual rotation.
pub(super) fn common(keys: &Keys<'_>, arch: Arch) -> Result<Config, ConfigError> {
    let config = common_of_silu(keys, arch)?;
    Ok(Config { rope: rope::from_json(keys, config.head_dim, &rope::Defaults::USUAL)?, ..config })
}

/// As [`common_with`], of architectures with SiLU.
pub(super) fn common_of_silu(keys: &Keys<'_>, arch: Arch) -> Result<Config, ConfigError> {
    common_with(keys, arch, activation(keys, "hidden_act", Activation::Silu, &[Activation::Silu])?)
}

/// What every architecture reads alike, all but the rotation. No projection has a bias, queries and keys have no norm, and there is no window:
/// who has them says so.
pub(super) fn common_with(
    keys: &Keys<'_>,
    arch: Arch,
    activation: Activation,
) -> Result<Config, ConfigError> {
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
    let hidden_size = keys.size("hidden_size")?;
    let num_attention_heads = keys.size("num_attention_heads")?;
    let head_dim = keys.optional_size("head_dim")?.unwrap_or(hidden_size / num_attention_heads);
    Ok(Config {
        hidden_size,
        intermediate_size: keys.size("intermediate_size")?,
        num_hidden_layers: keys.size("num_hidden_layers")?,
        num_attention_heads,
        num_key_value_heads: keys.optional_size("num_key_value_heads")?.unwrap_or(num_attention_heads),
        head_dim,
        vocab_size: keys.size("vocab_size")?,
        norm_eps: keys.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        tie_word_embeddings: keys.flag("tie_word_embeddings")?,
        max_position_embeddings: keys.optional_size("max_position_embeddings")?.unwrap_or(2048),
        activation,
        initializer_range: keys.number("initializer_range")?.map_or(INITIALIZER_RANGE, |range| range as f32),
        ..Config::plain(arch)
    })
}

/// The layers with a window, of `layers`: those of `layer_types`, or of `usual` where that is absent. `window` is the one that
/// is active.
pub(super) fn windowed(
    keys: &Keys<'_>,
    layers: usize,
    window: Option<usize>,
    usual: LayerPattern,
) -> Result<LayerPattern, ConfigError> {
    let Some(types) = keys.present("layer_types") else {
        return Ok(LayerPattern::over(layers, |layer| usual.contains(layer)));
    };
    let list = types.as_array().filter(|list| list.len() == layers);
    let list = list.ok_or_else(|| keys.wrong("layer_types", &format!("a list of {layers}")))?;
    for (layer, found) in list.iter().enumerate() {
        match found.as_str() {
            Some("full_attention") => {}
            Some(SLIDING) if window.is_some() => {}
            Some(SLIDING) => {
                let problem = format!(
                    "`layer_types` has \"{SLIDING}\" for layer {layer}, but no `sliding_window` is active"
                );
                return Err(ConfigError::new(problem).with_hint(
                    "give `sliding_window` (and for qwen2 and qwen3 \"use_sliding_window\": true), or make it \"full_attention\"",
                ));
            }
            _ => {
                let problem = format!(
                    "`layer_types` has {found} for layer {layer}, expected \"full_attention\" or \"{SLIDING}\""
                );
                return Err(ConfigError::new(problem).with_hint(OTHER_COMPUTATION));
            }
        }
    }
    Ok(LayerPattern::over(layers, |layer| list[layer].as_str() == Some(SLIDING)))
}

/// The window of the first Mistral and of what was made from it: that of an absent key is 4096, and null is none.
pub(super) fn window_of_mistral(keys: &Keys<'_>) -> Result<Option<usize>, ConfigError> {
    match keys.0.contains_key("sliding_window") {
        true => keys.optional_size("sliding_window"),
        false => Ok(Some(4096)),
    }
}

/// As [`windowed`], of architectures whose layers all have the window, whatever `layer_types` says.
pub(super) fn window_of_all(
    keys: &Keys<'_>,
    layers: usize,
    window: Option<usize>,
) -> Result<LayerPattern, ConfigError> {
    let all = windowed(keys, layers, window, LayerPattern::all())?;
    match window.is_none() || all == LayerPattern::all() {
        true => Ok(LayerPattern::all()),
        false => Err(keys
            .wrong("layer_types", &format!("\"{SLIDING}\" for every layer, as the model has it"))
            .with_hint("take `layer_types` out: transformers passes it over for this architecture")),
    }
}

const SLIDING: &str = "sliding_attention";

/// The window of architectures that have it only where `use_sliding_window` says so, from layer `max_window_layers` on unless
/// `layer_types` says otherwise.
pub(super) fn with_window_if_used(keys: &Keys<'_>, config: Config) -> Result<Config, ConfigError> {
    let sliding_window = match keys.flag("use_sliding_window")? {
        true => keys.optional_size("sliding_window")?,
        false => None,
    };
    let first = match keys.present("max_window_layers") {
        // Zero is a number of layers, too.
        Some(value) if value.as_u64() == Some(0) => 0,
        _ => keys.optional_size("max_window_layers")?.unwrap_or(28),
    };
    let layers = config.num_hidden_layers;
    let usual = LayerPattern::over(layers, |layer| layer >= first);
    let windowed = windowed(keys, layers, sliding_window, usual)?;
    let none = sliding_window.is_none() || windowed == LayerPattern::none();
    Ok(match none {
        true => config,
        false => Config { sliding_window, windowed, ..config },
    })
}

/// `layer_types` of a `config.json`.
pub(super) fn layer_types(config: &Config) -> Vec<&'static str> {
    let window = |layer| config.sliding_window.is_some() && config.windowed.contains(layer);
    (0..config.num_hidden_layers)
        .map(|layer| if window(layer) { SLIDING } else { "full_attention" })
        .collect()
}

/// The activation that `key` names, one of `known`.
pub(super) fn activation(
    keys: &Keys<'_>,
    key: &str,
    default: Activation,
    known: &[Activation],
) -> Result<Activation, ConfigError> {
    let Some(found) = keys.present(key) else { return Ok(default) };
    let named = found.as_str().and_then(|name| match name {
        "silu" | "swish" => Some(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" => Some(Activation::GeluTanh),
        "gelu" => Some(Activation::Gelu),
        _ => None,
    });
    named.filter(|activation| known.contains(activation)).ok_or_else(|| {
        let names: Vec<String> =
            known.iter().map(|activation| format!("\"{}\"", activation_name(*activation))).collect();
        keys.wrong(key, &names.join(" or "))
    })
}

/// What transformers calls an activation.
pub(super) fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
        Activation::Gelu => "gelu",
        Activation::Relu2 => "relu2",
    }
}
