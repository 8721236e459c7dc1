//! Cohere 2 (Command R7B): attention and feed-forward beside each other behind one norm, and a window with rotation in three of
//! four layers; the others do not rotate.

use lorafit_kernels::ops::rope::Pairs;
use serde_json::json;

use super::error::OTHER_COMPUTATION;
use super::{Family, Named, blocks, gguf, hf, rope};
use crate::shape::{Arch, Architecture, Config, LayerPattern, Names, NormKind, Part, Rope};

const ARCH: Arch = Arch(&Architecture {
    model_type: "cohere2",
    gguf: "cohere2",
    gguf_rotary_pairs: false,
    gguf_window: true,
    names: Names::USUAL,
    parts: |config, layer| {
        let mut parts = vec![
            blocks::input_norm(config, NormKind::Layer { bias: false }),
            blocks::queries_keys_values(config),
            blocks::attend(config, layer, None),
            blocks::output(config),
            blocks::add(config),
            Part::Again,
        ];
        parts.extend(blocks::feed_forward(config));
        parts.push(blocks::add(config));
        parts
    },
});

pub(super) const FAMILY: Family = Family {
    arch: ARCH,
    class: "Cohere2ForCausalLM",
    score_class: None,
    from_json: |keys| {
        if keys.flag("use_qk_norm")? {
            return Err(keys.wrong("use_qk_norm", "false").with_hint(OTHER_COMPUTATION));
        }
        let config = hf::common_of_silu(keys, ARCH)?;
        let bias = keys.flag("attention_bias")?;
        let head_dim = config.head_dim;
        let period = keys.optional_size("sliding_window_pattern")?.unwrap_or(PERIOD);
        let sliding_window = Some(keys.optional_size("sliding_window")?.unwrap_or(4096));
        let usual = LayerPattern::all_but_each(period);
        let windowed = hf::windowed(keys, config.num_hidden_layers, sliding_window, usual)?;
        let defaults = rope::Defaults { pairs: Pairs::Neighbours, ..rope::Defaults::USUAL };
        Ok(Config {
            attention_bias: bias,
            attention_output_bias: bias,
            tie_word_embeddings: keys.flag_or("tie_word_embeddings", true)?,
            norm_eps: keys.number("layer_norm_eps")?.unwrap_or(1e-5) as f32,
            rope: rope::from_json(keys, head_dim, &defaults)?,
            logit_scale: keys.number("logit_scale")?.unwrap_or(0.0625) as f32,
            sliding_window,
            rotated: windowed.clone(),
            windowed,
            ..config
        })
    },
    from_gguf: Some(|keys| {
        let config = gguf::common(keys, ARCH, &[gguf::PATTERN, gguf::LAYER_NORM, LOGIT_SCALE])?;
        let windowed = keys.windowed(&config, PERIOD)?;
        Ok(Config {
            logit_scale: keys.number_or_none(LOGIT_SCALE)?.unwrap_or(1.0) as f32,
            rope: Rope { pairs: Pairs::Neighbours, ..config.rope },
            rotated: windowed.clone(),
            windowed,
            ..config
        })
    }),
    to_json: |config| {
        json!({
            "attention_bias": config.attention_bias,
            "layer_norm_eps": config.norm_eps.to_string().parse::<f64>().expect("a number"),
            "logit_scale": config.logit_scale,
            "sliding_window": config.sliding_window,
            "layer_types": hf::layer_types(config),
        })
    },
    to_gguf: |config| {
        let mut entries = gguf::windows(config, PERIOD)?;
        entries.push(gguf::number(LOGIT_SCALE, config.logit_scale));
        entries.push(gguf::number(gguf::LAYER_NORM, config.norm_eps));
        Ok(entries)
    },
    named: &[Named {
        own: |config| Config {
            logit_scale: 0.25,
            sliding_window: Some(4096),
            windowed: LayerPattern::all_but_each(PERIOD),
            rotated: LayerPattern::all_but_each(PERIOD),
            rope: Rope { pairs: Pairs::Neighbours, ..config.rope },
            ..config
        },
        ..Named::new("command-r7b", [4096, 14_336, 32, 32, 8, 128, 256_000, 132_096], 5e4, true)
    }],
};

const LOGIT_SCALE: &str = "logit_scale";
/// Each fourth layer has no window.
const PERIOD: usize = 4;
