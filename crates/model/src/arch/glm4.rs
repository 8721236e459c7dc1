//! GLM-4-0414: four norms, gate and up in one matrix, and neighbours turned in half of each head.

use lorafit_kernels::ops::rope::Pairs;
use serde_json::json;

use super::{Family, Named, blocks, gguf, hf, phi3, rope};
use crate::shape::{Arch, Architecture, Config, Names, NormKind, Rope};

const ARCH: Arch = Arch(&Architecture {
    model_type: "glm4",
    gguf: "glm4",
    gguf_rotary_pairs: false,
    gguf_window: false,
    names: Names::USUAL,
    parts: |config, layer| {
        let norm = |hf, gguf| blocks::norm(config, NormKind::Rms, hf, gguf);
        let inner = config.intermediate_size;
        vec![
            norm("input_layernorm", "attn_norm"),
            blocks::queries_keys_values(config),
            blocks::attend(config, layer, None),
            blocks::output(config),
            norm("post_self_attn_layernorm", "post_attention_norm"),
            blocks::add(config),
            norm("post_attention_layernorm", "ffn_norm"),
            phi3::joined(config, "mlp.gate_up_proj", "ffn_up", vec![inner, inner]),
            blocks::gate(config),
            blocks::down(config),
            norm("post_mlp_layernorm", "post_ffw_norm"),
            blocks::add(config),
        ]
    },
});

pub(super) const FAMILY: Family = Family {
    arch: ARCH,
    class: "Glm4ForCausalLM",
    score_class: Some("Glm4ForSequenceClassification"),
    from_json: |keys| {
        let config = hf::common_of_silu(keys, ARCH)?;
        let head_dim = keys.optional_size("head_dim")?.unwrap_or(128);
        let defaults =
            rope::Defaults { partial: Some(0.5), pairs: Pairs::Neighbours, ..rope::Defaults::USUAL };
        Ok(Config {
            head_dim,
            num_key_value_heads: keys.optional_size("num_key_value_heads")?.unwrap_or(2),
            attention_bias: keys.flag_or("attention_bias", true)?,
            norm_eps: keys.number("rms_norm_eps")?.unwrap_or(1.562_5e-7) as f32,
            rope: rope::from_json(keys, head_dim, &defaults)?,
            ..config
        })
    },
    from_gguf: Some(|keys| {
        let config = gguf::common(keys, ARCH, &[gguf::PARTIAL])?;
        Ok(Config { rope: Rope { pairs: Pairs::Neighbours, ..config.rope }, ..config })
    }),
    to_json: |config| {
        json!({
            "attention_bias": config.attention_bias,
            "partial_rotary_factor": config.rope.rotated(config.head_dim) as f64 / config.head_dim as f64,
        })
    },
    to_gguf: |_| Ok(Vec::new()),
    named: &[Named {
        own: |config| {
            let rope = Rope { dims: Some(64), pairs: Pairs::Neighbours, ..config.rope };
            Config { rope, attention_bias: true, ..config }
        },
        ..Named::new("glm-4-9b", [4096, 13_696, 40, 32, 2, 128, 151_552, 32_768], 1e4, false)
    }],
};
