//! SmolLM3: Llama whose every fourth layer does not rotate.

use serde_json::json;

use super::{Family, Named, blocks, gguf, hf, rope};
use crate::shape::{Arch, Architecture, Config, LayerPattern, Names};

const ARCH: Arch = Arch(&Architecture {
    model_type: "smollm3",
    gguf: "smollm3",
    gguf_rotary_pairs: true,
    gguf_window: false,
    names: Names::USUAL,
    parts: blocks::pre_norm,
});

pub(super) const FAMILY: Family = Family {
    arch: ARCH,
    class: "SmolLM3ForCausalLM",
    score_class: Some("SmolLM3ForSequenceClassification"),
    from_json: |keys| {
        let config = hf::common_of_silu(keys, ARCH)?;
        let bias = keys.flag("attention_bias")?;
        let layers = config.num_hidden_layers;
        let period = keys.optional_size("no_rope_layer_interval")?.unwrap_or(PERIOD);
        let rotated = match keys.ones("no_rope_layers", layers)? {
            Some(list) => LayerPattern::over(layers, |layer| list[layer]),
            None => {
                let usual = LayerPattern::all_but_each(period);
                LayerPattern::over(layers, |layer| usual.contains(layer))
            }
        };
        let sliding_window = match keys.flag("use_sliding_window")? {
            true => keys.optional_size("sliding_window")?,
            false => None,
        };
        let unrotated = LayerPattern::over(layers, |layer| !rotated.contains(layer));
        let windowed = hf::windowed(keys, layers, sliding_window, unrotated)?;
        let defaults = rope::Defaults { theta: 2e6, ..rope::Defaults::USUAL };
        Ok(Config {
            num_key_value_heads: keys.optional_size("num_key_value_heads")?.unwrap_or(4),
            attention_bias: bias,
            attention_output_bias: bias,
            mlp_bias: keys.flag("mlp_bias")?,
            tie_word_embeddings: keys.flag_or("tie_word_embeddings", true)?,
            rope: rope::from_json(keys, config.head_dim, &defaults)?,
            rotated,
            sliding_window,
            windowed: if sliding_window.is_some() { windowed } else { LayerPattern::all() },
            ..config
        })
    },
    from_gguf: Some(|keys| {
        let config = gguf::common(keys, ARCH, &[])?;
        // llama.cpp has this pattern, and files do not say it.
        let usual = LayerPattern::all_but_each(PERIOD);
        Ok(Config {
            rotated: LayerPattern::over(config.num_hidden_layers, |layer| usual.contains(layer)),
            ..config
        })
    }),
    to_json: |config| {
        let rotated = |layer| u8::from(config.rotated.contains(layer));
        json!({
            "attention_bias": config.attention_bias,
            "mlp_bias": config.mlp_bias,
            "no_rope_layers": (0..config.num_hidden_layers).map(rotated).collect::<Vec<_>>(),
            "use_sliding_window": config.sliding_window.is_some(),
            "sliding_window": config.sliding_window,
            "layer_types": hf::layer_types(config),
        })
    },
    to_gguf: |config| {
        let usual = LayerPattern::all_but_each(PERIOD);
        match LayerPattern::over(config.num_hidden_layers, |layer| usual.contains(layer)) == config.rotated {
            true => Ok(Vec::new()),
            false => Err("its metadata cannot say which layers rotate".to_owned()),
        }
    },
    named: &[Named {
        own: |config| Config { rotated: LayerPattern::all_but_each(PERIOD), norm_eps: 1e-6, ..config },
        ..Named::new("smollm3-3b", [2048, 11_008, 36, 16, 4, 128, 128_256, 65_536], 5e6, true)
    }],
};

/// Each fourth layer does not rotate.
const PERIOD: usize = 4;
