//! Ministral 8B: Mistral with a window that `layer_types` says the layers of.

use serde_json::json;

use super::{Family, Named, blocks, hf};
use crate::shape::{Arch, Architecture, Config, LayerPattern, Names};

const ARCH: Arch = Arch(&Architecture {
    model_type: "ministral",
    gguf: "llama",
    gguf_rotary_pairs: true,
    gguf_window: false,
    names: Names::USUAL,
    parts: blocks::pre_norm,
});

pub(super) const FAMILY: Family = Family {
    arch: ARCH,
    class: "MinistralForCausalLM",
    score_class: Some("MinistralForSequenceClassification"),
    from_json: |keys| {
        let config = hf::common(keys, ARCH)?;
        let sliding_window = hf::window_of_mistral(keys)?;
        Ok(Config {
            num_key_value_heads: keys.optional_size("num_key_value_heads")?.unwrap_or(8),
            sliding_window,
            windowed: hf::windowed(keys, config.num_hidden_layers, sliding_window, LayerPattern::all())?,
            ..config
        })
    },
    from_gguf: None,
    to_json: |config| json!({"sliding_window": config.sliding_window, "layer_types": hf::layer_types(config)}),
    to_gguf: |config| Err(format!("llama.cpp has no architecture for {}", config.arch)),
    named: &[Named {
        own: |config| {
            let windowed = LayerPattern::over(4, |layer| layer > 0);
            Config { sliding_window: Some(32_768), windowed, ..config }
        },
        ..Named::new("ministral-8b", [4096, 12_288, 36, 32, 8, 128, 131_072, 131_072], 1e8, false)
    }],
};
