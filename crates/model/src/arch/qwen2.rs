//! Qwen2 and 2.5: Llama with biases on queries, keys and values.

use serde_json::json;

use super::{Family, Named, blocks, gguf, hf};
use crate::shape::{Arch, Architecture, Config, Names};

const ARCH: Arch = Arch(&Architecture {
    model_type: "qwen2",
    gguf: "qwen2",
    gguf_rotary_pairs: false,
    gguf_window: false,
    names: Names::USUAL,
    parts: blocks::pre_norm,
});

pub(super) const FAMILY: Family = Family {
    arch: ARCH,
    class: "Qwen2ForCausalLM",
    score_class: Some("Qwen2ForSequenceClassification"),
    from_json: |keys| {
        let config = hf::with_window_if_used(keys, hf::common(keys, ARCH)?)?;
        Ok(Config { attention_bias: true, ..config })
    },
    from_gguf: Some(|keys| gguf::common(keys, ARCH, &[])),
    to_json: |_| json!({}),
    to_gguf: |_| Ok(Vec::new()),
    named: &[Named {
        own: |config| Config { norm_eps: 1e-6, attention_bias: true, ..config },
        ..Named::new("qwen2.5-7b", [3584, 18_944, 28, 28, 4, 128, 152_064, 32_768], 1e6, false)
    }],
};
