//! Granite 3: Llama with four multipliers.

use serde_json::json;

use super::{Family, Named, blocks, gguf, hf};
use crate::shape::{Arch, Architecture, Config, Names};

const ARCH: Arch = Arch(&Architecture {
    model_type: "granite",
    gguf: "granite",
    gguf_rotary_pairs: true,
    gguf_window: false,
    names: Names::USUAL,
    parts: blocks::pre_norm,
});

pub(super) const FAMILY: Family = Family {
    arch: ARCH,
    class: "GraniteForCausalLM",
    score_class: None,
    from_json: |keys| {
        let bias = keys.flag("attention_bias")?;
        let number = |key: &str| Ok(keys.number(key)?.unwrap_or(1.0) as f32);
        Ok(Config {
            attention_bias: bias,
            attention_output_bias: bias,
            mlp_bias: keys.flag("mlp_bias")?,
            embedding_scale: number("embedding_multiplier")?,
            residual_scale: number("residual_multiplier")?,
            attention_scale: Some(number("attention_multiplier")?),
            logit_scale: 1.0 / number("logits_scaling")?,
            ..hf::common(keys, ARCH)?
        })
    },
    from_gguf: Some(|keys| {
        let config = gguf::common(keys, ARCH, &SCALES)?;
        let number = |key: &str| Ok(keys.number_or_none(key)?.map(|number| number as f32));
        let [embedding, residual, attention, logits] = SCALES;
        Ok(Config {
            embedding_scale: number(embedding)?.unwrap_or(1.0),
            residual_scale: number(residual)?.unwrap_or(1.0),
            attention_scale: number(attention)?,
            logit_scale: 1.0 / number(logits)?.unwrap_or(1.0),
            ..config
        })
    }),
    to_json: |config| {
        json!({
            "attention_bias": config.attention_bias,
            "mlp_bias": config.mlp_bias,
            "embedding_multiplier": config.embedding_scale,
            "residual_multiplier": config.residual_scale,
            "attention_multiplier": config.scores(0).scale,
            "logits_scaling": 1.0 / config.logit_scale,
        })
    },
    to_gguf: |config| {
        let [embedding, residual, attention, logits] = SCALES;
        Ok(vec![
            gguf::number(embedding, config.embedding_scale),
            gguf::number(residual, config.residual_scale),
            gguf::number(attention, config.scores(0).scale),
            gguf::number(logits, 1.0 / config.logit_scale),
        ])
    },
    named: &[
        Named {
            own: |config| published(config, 0.015_625, 8.0),
            ..Named::new("granite-3.3-2b", [2048, 8192, 40, 32, 8, 64, 49_159, 131_072], 1e7, true)
        },
        Named {
            own: |config| published(config, 0.007_812_5, 16.0),
            ..Named::new("granite-3.3-8b", [4096, 12_800, 40, 32, 8, 128, 49_159, 131_072], 1e7, true)
        },
    ],
};

/// Keys of GGUF metadata; logits are divided by the last.
const SCALES: [&str; 4] = ["embedding_scale", "residual_scale", "attention.scale", "logit_scale"];

fn published(config: Config, attention: f32, logits: f32) -> Config {
    Config {
        embedding_scale: 12.0,
        residual_scale: 0.22,
        attention_scale: Some(attention),
        logit_scale: 1.0 / logits,
        ..config
    }
}
