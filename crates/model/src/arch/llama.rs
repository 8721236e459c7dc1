//! Llama 1 to 3, and what is built like them: SmolLM, TinyLlama.

use serde_json::json;

use super::{Family, Named, blocks, gguf, hf};
use crate::shape::{Arch, Architecture, Config, Names, Rope, RopeScaling};

const ARCH: Arch = Arch(&Architecture {
    model_type: "llama",
    gguf: "llama",
    gguf_rotary_pairs: true,
    gguf_window: false,
    names: Names::USUAL,
    parts: blocks::pre_norm,
});

pub(super) const FAMILY: Family = Family {
    arch: ARCH,
    class: "LlamaForCausalLM",
    score_class: Some("LlamaForSequenceClassification"),
    from_json: |keys| {
        let config = hf::common(keys, ARCH)?;
        let bias = keys.flag("attention_bias")?;
        Ok(Config {
            attention_bias: bias,
            attention_output_bias: bias,
            mlp_bias: keys.flag("mlp_bias")?,
            ..config
        })
    },
    from_gguf: Some(|keys| gguf::common(keys, ARCH, &[])),
    to_json: |config| json!({"attention_bias": config.attention_bias, "mlp_bias": config.mlp_bias}),
    to_gguf: |_| Ok(Vec::new()),
    named: &[
        Named::new("smollm2-135m", [576, 1536, 30, 9, 3, 64, 49_152, 8192], 1e5, true),
        Named::new("smollm2-360m", [960, 2560, 32, 15, 5, 64, 49_152, 8192], 1e5, true),
        Named::new("smollm2-1.7b", [2048, 8192, 24, 32, 32, 64, 49_152, 8192], 1.3e5, true),
        Named::new("tinyllama-1.1b", [2048, 5632, 22, 32, 4, 64, 32_000, 2048], 1e4, false),
        Named::new("llama-2-7b", [4096, 11_008, 32, 32, 32, 128, 32_000, 4096], 1e4, false),
        Named::new("llama-2-13b", [5120, 13_824, 40, 40, 40, 128, 32_000, 4096], 1e4, false),
        Named {
            own: |config| Config { rope: Rope { scaling: LLAMA_3_1, ..config.rope }, ..config },
            ..Named::new("llama-3.1-8b", [4096, 14_336, 32, 32, 8, 128, 128_256, 131_072], 5e5, false)
        },
    ],
};

const LLAMA_3_1: RopeScaling = RopeScaling::Llama3 {
    factor: 8.0,
    low_freq_factor: 1.0,
    high_freq_factor: 4.0,
    original_max_position_embeddings: 8192.0,
};
