//! Mistral: Llama with a window over the keys, in its first version. GGUF files call it a Llama.

use serde_json::json;

use super::{Family, Named, blocks, hf};
use crate::shape::{Arch, Architecture, Config, LayerPattern, Names};

const ARCH: Arch = Arch(&Architecture {
    model_type: "mistral",
    gguf: "llama",
    gguf_rotary_pairs: true,
    gguf_window: false,
    names: Names::USUAL,
    parts: blocks::pre_norm,
});

pub(super) const FAMILY: Family = Family {
    arch: ARCH,
    class: "MistralForCausalLM",
    score_class: Some("MistralForSequenceClassification"),
    from_json: |keys| {
        let config = hf::common(keys, ARCH)?;
        let sliding_window = hf::window_of_mistral(keys)?;
        let windowed = hf::windowed(keys, config.num_hidden_layers, sliding_window, LayerPattern::all())?;
        Ok(Config { sliding_window, windowed, ..config })
    },
    from_gguf: None,
    to_json: |config| json!({"sliding_window": config.sliding_window}),
    to_gguf: |_| Ok(Vec::new()),
    named: &[Named::new("mistral-7b", [4096, 14_336, 32, 32, 8, 128, 32_768, 32_768], 1e6, false)],
};
