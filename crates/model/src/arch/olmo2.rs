//! OLMo 2 (OLMo et al. 2025): norms after attention and feed-forward instead of before, and norms of queries and keys over all
//! heads at once.

use serde_json::json;

use super::{ConfigError, Family, Named, blocks, gguf, hf, olmo3, rope};
use crate::shape::{Arch, Architecture, Config, Names, NormKind, Part};

const ARCH: Arch = Arch(&Architecture {
    model_type: "olmo2",
    gguf: "olmo2",
    gguf_rotary_pairs: false,
    gguf_window: false,
    names: Names::USUAL,
    parts,
});

pub(super) const FAMILY: Family = Family {
    arch: ARCH,
    class: "Olmo2ForCausalLM",
    score_class: Some("Olmo2ForSequenceClassification"),
    from_json: |keys| {
        let config = common(keys, ARCH)?;
        Ok(Config { rope: rope::from_json(keys, config.head_dim, &rope::Defaults::USUAL)?, ..config })
    },
    from_gguf: Some(|keys| {
        // OLMo 3 has the same name there, and a window.
        match keys.has_key("attention.sliding_window") {
            true => olmo3::from_gguf(keys),
            false => gguf::common(keys, ARCH, &[]),
        }
    }),
    to_json: |config| json!({"attention_bias": config.attention_bias}),
    to_gguf: |_| Ok(Vec::new()),
    named: &[
        Named {
            own: |config| Config { norm_eps: 1e-6, qk_norm: true, ..config },
            ..Named::new("olmo-2-1b", [2048, 8192, 16, 16, 16, 128, 100_352, 4096], 5e5, false)
        },
        Named {
            own: |config| Config { norm_eps: 1e-6, qk_norm: true, ..config },
            ..Named::new("olmo-2-7b", [4096, 11_008, 32, 32, 32, 128, 100_352, 4096], 5e5, false)
        },
    ],
};

/// What `config.json` of every OLMo says alike.
pub(super) fn common(keys: &hf::Keys<'_>, arch: Arch) -> Result<Config, ConfigError> {
    let bias = keys.flag("attention_bias")?;
    Ok(Config {
        attention_bias: bias,
        attention_output_bias: bias,
        qk_norm: true,
        norm_eps: keys.number("rms_norm_eps")?.unwrap_or(1e-5) as f32,
        ..hf::common_of_silu(keys, arch)?
    })
}

/// The block of every OLMo.
pub(super) fn parts(config: &Config, layer: usize) -> Vec<Part> {
    let norm = |hf, gguf| blocks::norm(config, NormKind::Rms, hf, gguf);
    let mut parts = vec![
        blocks::queries_keys_values(config),
        blocks::attend(config, layer, Some((NormKind::Rms, true))),
        blocks::output(config),
        norm("post_attention_layernorm", "post_attention_norm"),
        blocks::add(config),
    ];
    parts.extend(blocks::feed_forward(config));
    parts.extend([norm("post_feedforward_layernorm", "post_ffw_norm"), blocks::add(config)]);
    parts
}
