//! Phi-3, planned and not yet computed.

use serde_json::json;

use super::{Arch, Family, Named, blocks, hf};

pub(super) const FAMILY: Family = Family {
    model_type: "phi3",
    class: "Phi3ForCausalLM",
    gguf: "phi3",
    gguf_rotary_pairs: false,
    computed: false,
    from_json: |keys| hf::common(keys, Arch::Phi3),
    from_gguf: None,
    to_json: |_| json!({}),
    parts: blocks::pre_norm,
    named: &[Named::new("phi-3-mini", [3072, 8192, 32, 32, 32, 96, 32_064, 4096], 1e4, false)],
};
