//! Mistral: Llama with a window over the keys, in its first version. GGUF files call it a Llama.

use serde_json::json;

use super::{Arch, Family, Named, blocks, hf};
use crate::shape::Config;

pub(super) const FAMILY: Family = Family {
    model_type: "mistral",
    class: "MistralForCausalLM",
    gguf: "llama",
    gguf_rotary_pairs: true,
    computed: true,
    from_json: |keys| {
        let config = hf::common(keys, Arch::Mistral)?;
        let sliding_window = keys.optional_size("sliding_window")?;
        hf::check_layer_types(keys, config.num_hidden_layers, sliding_window)?;
        Ok(Config { sliding_window, ..config })
    },
    from_gguf: None,
    to_json: |config| json!({"sliding_window": config.sliding_window}),
    parts: blocks::pre_norm,
    named: &[Named::new("mistral-7b", [4096, 14_336, 32, 32, 8, 128, 32_768, 32_768], 1e6, false)],
};
