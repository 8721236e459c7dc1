//! Ministral 3 (Mistral AI 2025), the language model: Llama with YaRN, and queries that grow with their position.

use serde_json::{Value, json};

use super::hf::Keys;
use super::{ConfigError, Family, Named, blocks, gguf, hf, rope};
use crate::shape::{Arch, Architecture, Config, LayerPattern, Names, QueryGrowth, Rope, RopeScaling};

const ARCH: Arch = Arch(&Architecture {
    model_type: "ministral3",
    gguf: "mistral3",
    gguf_rotary_pairs: true,
    gguf_window: false,
    names: Names::USUAL,
    parts: blocks::pre_norm,
});

pub(super) const FAMILY: Family = Family {
    arch: ARCH,
    class: "Ministral3ForCausalLM",
    score_class: Some("Ministral3ForSequenceClassification"),
    from_json: |keys| {
        let config = hf::common_of_silu(keys, ARCH)?;
        let head_dim = keys.optional_size("head_dim")?.unwrap_or(128);
        let sliding_window = keys.optional_size("sliding_window")?;
        let (rope, query_growth) = positions(keys, head_dim)?;
        Ok(Config {
            num_key_value_heads: keys.optional_size("num_key_value_heads")?.unwrap_or(8),
            head_dim,
            norm_eps: keys.number("rms_norm_eps")?.unwrap_or(1e-5) as f32,
            rope,
            query_growth,
            sliding_window,
            windowed: hf::windowed(keys, config.num_hidden_layers, sliding_window, LayerPattern::all())?,
            max_position_embeddings: keys.optional_size("max_position_embeddings")?.unwrap_or(262_144),
            ..config
        })
    },
    from_gguf: Some(|keys| {
        let config = gguf::common(keys, ARCH, &[BETA_OF_GGUF, gguf::YARN_ALL_DIM])?;
        let context = keys.number("rope.scaling.original_context_length")?;
        let query_growth = match (keys.number_or_none(BETA_OF_GGUF)?, context) {
            (None, _) => None,
            // Written as f32.
            (Some(beta), Some(context)) => Some(QueryGrowth { beta: (beta * 1e6).round() / 1e6, context }),
            (Some(_), None) => {
                return Err(ConfigError::new(
                    "`mistral3.rope.scaling.original_context_length` is missing, which says from where on queries are scaled",
                ));
            }
        };
        Ok(Config { query_growth, ..config })
    }),
    to_json: |config| {
        let mut parameters = match rope::scaling_to_json(&config.rope.scaling) {
            Value::Object(parameters) => Value::Object(parameters),
            _ => json!({"rope_type": "default"}),
        };
        parameters["rope_theta"] = json!(config.rope.theta);
        let growth = config.query_growth;
        parameters[BETA] = json!(growth.map_or(0.0, |growth| growth.beta));
        parameters[rope::ORIGINAL] = json!(growth.map_or(CONTEXT, |growth| growth.context));
        json!({
            "rope_scaling": null,
            "rope_parameters": parameters,
            "sliding_window": config.sliding_window,
        })
    },
    to_gguf: |config| {
        let mut entries = Vec::new();
        if let Some(growth) = config.query_growth {
            entries.push(gguf::number(BETA_OF_GGUF, growth.beta as f32));
            entries.push(gguf::size("rope.scaling.original_context_length", growth.context as usize));
        }
        // What an attention factor of 1 comes from.
        if matches!(config.rope.scaling, RopeScaling::Yarn { attention_factor: 1.0, .. }) {
            entries.push(gguf::number(gguf::YARN_ALL_DIM, 1.0));
        }
        Ok(entries)
    },
    named: &[
        named("ministral-3-3b", [3072, 9216, 26, 32, 8, 128, 131_072, 262_144], true),
        named("ministral-3-8b", [4096, 14_336, 34, 32, 8, 128, 131_072, 262_144], false),
        named("ministral-3-14b", [5120, 16_384, 40, 32, 8, 128, 131_072, 262_144], false),
    ],
};

const BETA: &str = "llama_4_scaling_beta";
const BETA_OF_GGUF: &str = "attention.temperature_scale";
/// The context before stretching.
const CONTEXT: f64 = 16_384.0;
/// What a configuration without a rotation means.
const GROWTH: QueryGrowth = QueryGrowth { beta: 0.1, context: CONTEXT };
const YARN: RopeScaling = RopeScaling::Yarn {
    factor: 16.0,
    beta_fast: 32.0,
    beta_slow: 1.0,
    original_max_position_embeddings: CONTEXT,
    truncate: true,
    attention_factor: 1.0,
};

const fn named(name: &'static str, sizes: [usize; 8], tied: bool) -> Named {
    let own = |config: Config| Config {
        rope: Rope { scaling: YARN, ..config.rope },
        query_growth: Some(GROWTH),
        ..config
    };
    Named { own, ..Named::new(name, sizes, 1e6, tied) }
}

/// The rotation and the growth of queries, which stand in the same place.
fn positions(keys: &Keys<'_>, head_dim: usize) -> Result<(Rope, Option<QueryGrowth>), ConfigError> {
    let defaults = rope::Defaults { theta: 1e6, ..rope::Defaults::USUAL };
    let places = ["rope_parameters", "rope_scaling"];
    let place = places.into_iter().find_map(|place| Some((place, keys.present(place)?.as_object()?)));
    let Some((place, parameters)) = place else {
        return Ok((Rope { scaling: YARN, ..Rope::plain(1e6) }, Some(GROWTH)));
    };
    let rope = rope::from_json(keys, head_dim, &defaults)?;
    let missing = |key: &str| ConfigError::new(format!("`{place}`: `{key}` is missing, expected a number"));
    let parameters = Keys(parameters);
    let beta = parameters.number_or_zero(BETA)?.ok_or_else(|| missing(BETA))?;
    if beta == 0.0 {
        return Ok((rope, None));
    }
    let context = parameters.number(rope::ORIGINAL)?.ok_or_else(|| missing(rope::ORIGINAL))?;
    Ok((rope, Some(QueryGrowth { beta, context })))
}
