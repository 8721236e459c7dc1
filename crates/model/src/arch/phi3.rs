//! Phi-3, 3.5, 4 and 4-mini: Llama with queries, keys and values in one matrix, and gate and up in another.

use serde_json::json;

use super::{Family, Named, blocks, gguf, hf, rope};
use crate::shape::{Arch, Architecture, Config, LinearShape, Names, NormKind, Part, Rope};

const ARCH: Arch = Arch(&Architecture {
    model_type: "phi3",
    gguf: "phi3",
    gguf_rotary_pairs: false,
    gguf_window: false,
    names: Names::USUAL,
    parts: |config, layer| {
        let [queries, keys, values] = blocks::head_widths(config);
        let inner = config.intermediate_size;
        vec![
            blocks::input_norm(config, NormKind::Rms),
            joined(config, "self_attn.qkv_proj", "attn_qkv", vec![queries, keys, values]),
            blocks::attend(config, layer, None),
            blocks::output(config),
            blocks::add(config),
            blocks::norm(config, NormKind::Rms, "post_attention_layernorm", "ffn_norm"),
            joined(config, "mlp.gate_up_proj", "ffn_up", vec![inner, inner]),
            blocks::gate(config),
            blocks::down(config),
            blocks::add(config),
        ]
    },
});

pub(super) const FAMILY: Family = Family {
    arch: ARCH,
    class: "Phi3ForCausalLM",
    score_class: Some("Phi3ForSequenceClassification"),
    from_json: |keys| {
        let config = hf::common_of_silu(keys, ARCH)?;
        let defaults = rope::Defaults { partial: Some(1.0), ..rope::Defaults::USUAL };
        let rope = rope::from_json_of_long(keys, config.head_dim, &defaults)?;
        let sliding_window = keys.optional_size("sliding_window")?;
        Ok(Config {
            rope,
            sliding_window,
            windowed: hf::window_of_all(keys, config.num_hidden_layers, sliding_window)?,
            norm_eps: keys.number("rms_norm_eps")?.unwrap_or(1e-5) as f32,
            ..config
        })
    },
    from_gguf: Some(|keys| {
        let config = gguf::common(keys, ARCH, &[gguf::PARTIAL, gguf::LONG_FACTORS])?;
        // llama.cpp passes the window over.
        Ok(Config { sliding_window: None, ..config })
    }),
    to_json: |config| {
        json!({
            "sliding_window": config.sliding_window,
            "partial_rotary_factor": config.rope.rotated(config.head_dim) as f64 / config.head_dim as f64,
            "original_max_position_embeddings": config.rope.original_context().unwrap_or(config.max_position_embeddings),
        })
    },
    to_gguf: |config| {
        let original = config.rope.original_context().unwrap_or(config.max_position_embeddings);
        Ok(vec![
            gguf::size("rope.scaling.original_context_length", original),
            gguf::size("attention.sliding_window", config.sliding_window.unwrap_or(0)),
        ])
    },
    named: &[
        Named::new("phi-3-mini", [3072, 8192, 32, 32, 32, 96, 32_064, 4096], 1e4, false),
        Named {
            own: |config| {
                let dims = Some(config.head_dim * 3 / 4);
                Config { rope: Rope { dims, ..config.rope }, ..config }
            },
            ..Named::new("phi-4-mini", [3072, 8192, 32, 24, 8, 128, 200_064, 131_072], 1e4, true)
        },
        Named::new("phi-4", [5120, 17_920, 40, 40, 10, 128, 100_352, 16_384], 2.5e5, false),
    ],
};

/// A projection that gives several outputs, one after the other.
pub(super) fn joined(config: &Config, hf: &'static str, gguf: &'static str, outputs: Vec<usize>) -> Part {
    let all = outputs.iter().sum();
    Part::Linear(vec![LinearShape { joined: outputs, ..blocks::projection(config, hf, gguf, all, false) }])
}
