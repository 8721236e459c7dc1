//! Gemma 2, planned and not yet computed.

use serde_json::json;

use super::{Arch, Family, Named, blocks, hf};

pub(super) const FAMILY: Family = Family {
    model_type: "gemma2",
    class: "Gemma2ForCausalLM",
    gguf: "gemma2",
    gguf_rotary_pairs: false,
    computed: false,
    from_json: |keys| hf::common(keys, Arch::Gemma2),
    from_gguf: None,
    to_json: |_| json!({}),
    parts: |config, _| {
        let mut parts = vec![blocks::input_norm(config)];
        let after = |hf, gguf| Some(blocks::norm(config, hf, gguf));
        parts.extend(blocks::attention(config, after("post_attention_layernorm", "post_attention_norm")));
        parts.push(blocks::norm(config, "pre_feedforward_layernorm", "ffn_norm"));
        parts.extend(blocks::feed_forward(config, after("post_feedforward_layernorm", "post_ffw_norm")));
        parts
    },
    named: &[Named::new("gemma-2-9b", [3584, 14_336, 42, 16, 8, 256, 256_000, 8192], 1e4, true)],
};
