//! Qwen2 and 2.5: Llama with biases on queries, keys and values.

use serde_json::json;

use super::{Arch, Family, Named, blocks, gguf, hf};
use crate::shape::Config;

pub(super) const FAMILY: Family = Family {
    model_type: "qwen2",
    class: "Qwen2ForCausalLM",
    gguf: "qwen2",
    gguf_rotary_pairs: false,
    gguf_window: false,
    from_json: |keys| {
        let config = hf::with_window_if_used(keys, hf::common(keys, Arch::Qwen2)?)?;
        Ok(Config { attention_bias: true, ..config })
    },
    from_gguf: Some(|keys| gguf::common(keys, Arch::Qwen2, &[])),
    to_json: |_| json!({}),
    to_gguf: |_| Ok(Vec::new()),
    parts: blocks::pre_norm,
    named: &[Named {
        own: |config| Config { norm_eps: 1e-6, attention_bias: true, ..config },
        ..Named::new("qwen2.5-7b", [3584, 18_944, 28, 28, 4, 128, 152_064, 32_768], 1e6, false)
    }],
};
