//! Gemma 2 (Gemma Team 2024): four norms with weights that files have less one, embeddings times the root of their width, caps
//! on scores and logits, and a window in every other layer.

use lorafit_kernels::ops::gate::Activation;
use serde_json::json;

use super::error::OTHER_COMPUTATION;
use super::{ConfigError, Family, Named, blocks, gguf, hf, rope};
use crate::files::json_number;
use crate::shape::{Arch, Architecture, Config, LayerPattern, Names, NormKind, Part};

const ARCH: Arch = Arch(&Architecture {
    model_type: "gemma2",
    gguf: "gemma2",
    gguf_rotary_pairs: false,
    gguf_window: true,
    names: Names::USUAL,
    parts: |config, layer| parts(config, layer, None),
});

pub(super) const FAMILY: Family = Family {
    arch: ARCH,
    class: "Gemma2ForCausalLM",
    score_class: Some("Gemma2ForSequenceClassification"),
    from_json: |keys| {
        let config = common(keys, ARCH)?;
        Ok(Config {
            rope: rope::from_json(keys, config.head_dim, &rope::Defaults::USUAL)?,
            attention_softcap: keys.cap("attn_logit_softcapping", Some(50.0))?,
            logit_softcap: keys.cap("final_logit_softcapping", Some(30.0))?,
            ..windows(keys, config, LayerPattern::all_but_each(2))?
        })
    },
    from_gguf: Some(|keys| {
        let config = gguf::common(keys, ARCH, &[gguf::PATTERN, ATTENTION_CAP, LOGIT_CAP])?;
        let config = Config {
            windowed: keys.windowed(&config, 2)?,
            attention_softcap: keys.number_or_none(ATTENTION_CAP)?.map(|cap| cap as f32),
            logit_softcap: keys.number_or_none(LOGIT_CAP)?.map(|cap| cap as f32),
            attention_scale: scale_in_gguf(&config, 46),
            ..config
        };
        Ok(scaled(config))
    }),
    to_json: |config| {
        let mut json = to_json(config);
        json["attn_logit_softcapping"] = json!(config.attention_softcap);
        json["final_logit_softcapping"] = json!(config.logit_softcap);
        json
    },
    to_gguf: |config| {
        if config.attention_scale != scale_in_gguf(config, 46) {
            return Err(UNSAID_SCALE.to_owned());
        }
        let mut entries = gguf::windows(config, 2)?;
        let caps = [(ATTENTION_CAP, config.attention_softcap), (LOGIT_CAP, config.logit_softcap)];
        entries.extend(caps.into_iter().filter_map(|(key, cap)| Some(gguf::number(key, cap?))));
        Ok(entries)
    },
    named: &[Named {
        own: |config| {
            scaled(Config {
                attention_softcap: Some(50.0),
                logit_softcap: Some(30.0),
                sliding_window: Some(4096),
                windowed: LayerPattern::all_but_each(2),
                norm_eps: 1e-6,
                ..config
            })
        },
        ..Named::new("gemma-2-9b", [3584, 14_336, 42, 16, 8, 256, 256_000, 8192], 1e4, true)
    }],
};

const ATTENTION_CAP: &str = "attn_logit_softcapping";
const LOGIT_CAP: &str = "final_logit_softcapping";

/// What `config.json` of every Gemma says alike.
pub(super) fn common(keys: &hf::Keys<'_>, arch: Arch) -> Result<Config, ConfigError> {
    if keys.flag("use_bidirectional_attention")? {
        return Err(keys.wrong("use_bidirectional_attention", "false").with_hint(OTHER_COMPUTATION));
    }
    let known = [Activation::GeluTanh];
    let activation = hf::activation(keys, "hidden_activation", Activation::GeluTanh, &known)?;
    let config = hf::common_with(keys, arch, activation)?;
    let head_dim = keys.optional_size("head_dim")?.unwrap_or(256);
    let bias = keys.flag("attention_bias")?;
    let scalar = keys.number("query_pre_attn_scalar")?.unwrap_or(256.0);
    Ok(scaled(Config {
        num_key_value_heads: keys.optional_size("num_key_value_heads")?.unwrap_or(4),
        tie_word_embeddings: keys.flag_or("tie_word_embeddings", true)?,
        attention_bias: bias,
        attention_output_bias: bias,
        head_dim,
        attention_scale: (scalar != head_dim as f64).then(|| scalar.powf(-0.5) as f32),
        ..config
    }))
}

/// The window and the layers that have it.
pub(super) fn windows(
    keys: &hf::Keys<'_>,
    config: Config,
    usual: LayerPattern,
) -> Result<Config, ConfigError> {
    let sliding_window = Some(keys.optional_size("sliding_window")?.unwrap_or(4096));
    let windowed = hf::windowed(keys, config.num_hidden_layers, sliding_window, usual)?;
    Ok(Config { sliding_window, windowed, ..config })
}

/// Embeddings are multiplied by the root of their width, and the gate is GELU.
pub(super) fn scaled(config: Config) -> Config {
    let embedding_scale = (config.hidden_size as f32).sqrt();
    Config { embedding_scale, activation: Activation::GeluTanh, ..config }
}

pub(super) const UNSAID_SCALE: &str = "its metadata cannot say `query_pre_attn_scalar`";

/// The scale of a GGUF file, which does not say it: llama.cpp knows the 27B by its layers.
pub(super) fn scale_in_gguf(config: &Config, layers_of_27b: usize) -> Option<f32> {
    (config.num_hidden_layers == layers_of_27b).then(|| scale_of_width(config))
}

/// The scale of the 27B models.
pub(super) fn scale_of_width(config: &Config) -> f32 {
    (config.hidden_size as f64 / config.num_attention_heads as f64).powf(-0.5) as f32
}

/// The keys of every Gemma's `config.json`.
pub(super) fn to_json(config: &Config) -> serde_json::Value {
    let scale = config.scores(0).scale;
    json!({
        "hidden_activation": hf::activation_name(config.activation),
        "attention_bias": config.attention_bias,
        "query_pre_attn_scalar": json_number((f64::from(scale).powi(-2) * 1e3).round() / 1e3),
        "sliding_window": config.sliding_window,
        "layer_types": hf::layer_types(config),
    })
}

/// The block of every Gemma, with norms of queries and keys of this kind.
pub(super) fn parts(config: &Config, layer: usize, norms: Option<(NormKind, bool)>) -> Vec<Part> {
    let norm = |hf, gguf| blocks::norm(config, NormKind::RmsPlusOne, hf, gguf);
    let mut parts = vec![
        norm("input_layernorm", "attn_norm"),
        blocks::queries_keys_values(config),
        blocks::attend(config, layer, norms),
        blocks::output(config),
        norm("post_attention_layernorm", "post_attention_norm"),
        blocks::add(config),
        norm("pre_feedforward_layernorm", "ffn_norm"),
    ];
    parts.extend(blocks::feed_forward(config));
    parts.extend([norm("post_feedforward_layernorm", "post_ffw_norm"), blocks::add(config)]);
    parts
}
