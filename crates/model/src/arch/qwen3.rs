//! Qwen3: Llama with norms of queries and keys.

use serde_json::json;

use super::{Family, Named, blocks, gguf, hf, rope};
use crate::shape::{Arch, Architecture, Config, Names};

const ARCH: Arch = Arch(&Architecture {
    model_type: "qwen3",
    gguf: "qwen3",
    gguf_rotary_pairs: false,
    gguf_window: false,
    names: Names::USUAL,
    parts: blocks::pre_norm,
});

pub(super) const FAMILY: Family = Family {
    arch: ARCH,
    class: "Qwen3ForCausalLM",
    score_class: Some("Qwen3ForSequenceClassification"),
    from_json: |keys| {
        let config = hf::with_window_if_used(keys, hf::common(keys, ARCH)?)?;
        let bias = keys.flag("attention_bias")?;
        let head_dim = keys.optional_size("head_dim")?.unwrap_or(128);
        let rope = rope::from_json(keys, head_dim, &rope::Defaults::USUAL)?;
        Ok(Config {
            head_dim,
            rope,
            attention_bias: bias,
            attention_output_bias: bias,
            qk_norm: true,
            ..config
        })
    },
    from_gguf: Some(|keys| gguf::common(keys, ARCH, &[])),
    to_json: |config| json!({"attention_bias": config.attention_bias}),
    to_gguf: |_| Ok(Vec::new()),
    named: &[Named {
        own: |config| Config { norm_eps: 1e-6, qk_norm: true, ..config },
        ..Named::new("qwen3-8b", [4096, 12_288, 36, 32, 8, 128, 151_936, 40_960], 1e6, false)
    }],
};
