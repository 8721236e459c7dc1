//! Rotary frequencies as `config.json` and GGUF files say them.

use lorafit_kernels::quant::Format;
use serde_json::{Map, Value, json};

use super::error::{ConfigError, OTHER_COMPUTATION, OTHER_STRETCHING};
use super::hf::Keys;
use crate::shape::{Rope, RopeScaling};
use crate::weights::Gguf;

/// The rotation of a `config.json`.
pub(super) fn from_json(json: &Map<String, Value>) -> Result<Rope, ConfigError> {
    // transformers 5 keeps theta beside the scaling; before, theta stood at the top.
    let theta = Keys(json).number("rope_theta")?.unwrap_or(10_000.0);
    let of_key = |key: &str| match json.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(parameters)) if parameters.is_empty() => Ok(None),
        Some(Value::Object(parameters)) => from_parameters(key, parameters, theta).map(Some),
        Some(_) => Err(Keys(json).wrong(key, "null or an object with `rope_type`")),
    };
    match (of_key("rope_parameters")?, of_key("rope_scaling")?) {
        (Some(new), Some(old)) if new != old => Err(ConfigError::new(
            "`rope_parameters` and `rope_scaling` are both there and say different things",
        )
        .with_hint("take out the one that is not meant: transformers 5 takes `rope_scaling`")),
        (Some(rope), _) | (None, Some(rope)) => Ok(rope),
        (None, None) => Ok(Rope { theta, scaling: RopeScaling::None }),
    }
}

/// The rotation that the value `parameters` of `of` says, with `theta` unless it has its own.
fn from_parameters(of: &str, parameters: &Map<String, Value>, theta: f64) -> Result<Rope, ConfigError> {
    let keys = Keys(parameters);
    if let Some((key, value)) = parameters.iter().find(|(_, value)| value.is_object()) {
        let problem = format!("`{of}`: `{key}` is {value}, expected one rotation for all layers");
        return Err(ConfigError::new(problem).with_hint(OTHER_COMPUTATION));
    }
    let theta = keys.number("rope_theta")?.unwrap_or(theta);
    if !keys.number("partial_rotary_factor")?.is_none_or(|part| part == 1.0) {
        return Err(keys.wrong("partial_rotary_factor", "1").with_hint(OTHER_COMPUTATION));
    }
    let needed = |key: &str| {
        keys.number(key)?
            .ok_or_else(|| ConfigError::new(format!("`{of}`: `{key}` is missing, expected a number")))
    };
    // `type` is what it was called first.
    let kind = ["rope_type", "type"].into_iter().find_map(|key| Some((key, keys.present(key)?)));
    let scaling = match kind.map(|(key, value)| (key, value.as_str())) {
        None | Some((_, Some("default"))) => RopeScaling::None,
        Some((_, Some("linear"))) => RopeScaling::Linear { factor: needed("factor")? },
        Some((_, Some("llama3"))) => RopeScaling::Llama3 {
            factor: needed("factor")?,
            low_freq_factor: needed("low_freq_factor")?,
            high_freq_factor: needed("high_freq_factor")?,
            original_max_position_embeddings: needed("original_max_position_embeddings")?,
        },
        Some((key, _)) => {
            let expected = "\"default\", \"linear\" or \"llama3\"";
            return Err(keys.wrong(key, expected).with_hint(OTHER_STRETCHING));
        }
    };
    Ok(Rope { theta, scaling })
}

/// `rope_scaling` of a `config.json`.
///
/// GGUF files of Llama 3.1 and later have divisors instead of what they are computed from: 8 or, of the small models,
/// 32 for low frequencies.
pub(super) fn scaling_to_json(scaling: &RopeScaling) -> Value {
    let llama3 = |factor: f64, low: f64, high: f64, context: f64| {
        json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": context,
        })
    };
    match scaling {
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

/// The stretching of a GGUF file, as llama.cpp reads it: linear unless it says otherwise, by a factor under a new or an
/// old key, of which 0 is none.
fn from_gguf_keys(gguf: &Gguf, arch: &str) -> Result<RopeScaling, ConfigError> {
    let key = format!("{arch}.rope.scaling.type");
    match (gguf.shown(&key), gguf.text(&key)) {
        (_, Some("none")) => return Ok(RopeScaling::None),
        (None, _) | (_, Some("linear")) => {}
        (Some(found), _) => {
            let problem = format!("`{key}` is {found}, expected \"none\" or \"linear\"");
            return Err(ConfigError::new(problem).with_hint(OTHER_STRETCHING));
        }
    }
    let keys = ["rope.scaling.factor", "rope.scale_linear"].map(|key| format!("{arch}.{key}"));
    let Some(key) = keys.iter().find(|key| gguf.shown(key).is_some()) else { return Ok(RopeScaling::None) };
    match gguf.number(key) {
        Some(0.0 | 1.0) => Ok(RopeScaling::None),
        Some(factor) if factor.is_finite() && factor > 0.0 => Ok(RopeScaling::Linear { factor }),
        _ => {
            let found = gguf.shown(key).unwrap_or_default();
            Err(ConfigError::new(format!("`{key}` is {found}, expected a number above zero")))
        }
    }
}

/// The stretching of a GGUF file for heads of `head_dim` values, divisors included.
pub(super) fn from_gguf(gguf: &Gguf, arch: &str, head_dim: usize) -> Result<RopeScaling, ConfigError> {
    let scaling = from_gguf_keys(gguf, arch)?;
    let divisors = gguf.floats("rope_freqs.weight");
    // Of a header alone they are not there, nor asked for.
    if gguf.tensor("rope_freqs.weight").is_some_and(|t| t.format != Format::F32) {
        return Err(ConfigError::new("rope_freqs.weight is not stored as F32"));
    }
    let Some(divisors) = divisors else { return Ok(scaling) };
    if divisors.len() != head_dim / 2 {
        let message = format!("rope_freqs.weight has {} values, expected {}", divisors.len(), head_dim / 2);
        return Err(ConfigError::new(message));
    }
    if let Some(wrong) = divisors.iter().find(|d| !d.is_finite() || **d <= 0.0) {
        let message = format!("rope_freqs.weight has {wrong}, expected numbers above zero");
        return Err(ConfigError::new(message));
    }
    // llama.cpp divides by both.
    Ok(match scaling {
        RopeScaling::Linear { factor } => {
            RopeScaling::Divisors(divisors.iter().map(|d| d * factor as f32).collect())
        }
        _ => RopeScaling::Divisors(divisors),
    })
}
