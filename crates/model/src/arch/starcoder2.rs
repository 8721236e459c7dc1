//! StarCoder 2 (Lozhkov et al. 2024): norms by mean and variance, biases everywhere, and a feed-forward half without a gate.

use lorafit_kernels::ops::gate::Activation;
use serde_json::json;

use super::{Family, Named, blocks, gguf, hf, rope};
use crate::shape::{Arch, Architecture, Config, GateShape, Names, NormKind, Part};

const ARCH: Arch = Arch(&Architecture {
    model_type: "starcoder2",
    gguf: "starcoder2",
    gguf_rotary_pairs: false,
    gguf_window: false,
    names: Names::USUAL,
    parts: |config, layer| {
        let norm = |hf, gguf| blocks::norm(config, NormKind::Layer { bias: true }, hf, gguf);
        let (inner, bias) = (config.intermediate_size, config.mlp_bias);
        vec![
            norm("input_layernorm", "attn_norm"),
            blocks::queries_keys_values(config),
            blocks::attend(config, layer, None),
            blocks::output(config),
            blocks::add(config),
            norm("post_attention_layernorm", "ffn_norm"),
            Part::Linear(vec![blocks::projection(config, "mlp.c_fc", "ffn_up", inner, bias)]),
            Part::Gate(GateShape { activation: config.activation, gated: false, width: inner }),
            Part::Linear(vec![blocks::projection_back(config, "mlp.c_proj", "ffn_down", inner, bias)]),
            blocks::add(config),
        ]
    },
});

pub(super) const FAMILY: Family = Family {
    arch: ARCH,
    class: "Starcoder2ForCausalLM",
    score_class: Some("Starcoder2ForSequenceClassification"),
    from_json: |keys| {
        let bias = keys.flag_or("use_bias", true)?;
        let known = [Activation::GeluTanh, Activation::Gelu, Activation::Silu];
        let activation = hf::activation(keys, "hidden_act", Activation::GeluTanh, &known)?;
        let config = hf::common_with(keys, ARCH, activation)?;
        let sliding_window = keys.optional_size("sliding_window")?;
        Ok(Config {
            num_key_value_heads: keys.optional_size("num_key_value_heads")?.unwrap_or(2),
            tie_word_embeddings: keys.flag_or("tie_word_embeddings", true)?,
            norm_eps: keys.number("norm_epsilon")?.unwrap_or(1e-5) as f32,
            attention_bias: bias,
            attention_output_bias: bias,
            mlp_bias: bias,
            rope: rope::from_json(keys, config.head_dim, &rope::Defaults::USUAL)?,
            sliding_window,
            windowed: hf::window_of_all(keys, config.num_hidden_layers, sliding_window)?,
            ..config
        })
    },
    from_gguf: Some(|keys| {
        let config = gguf::common(keys, ARCH, &[gguf::LAYER_NORM])?;
        Ok(Config { activation: Activation::GeluTanh, mlp_bias: keys.has("blk.0.ffn_up.bias"), ..config })
    }),
    to_json: |config| {
        json!({
            "use_bias": config.mlp_bias,
            "norm_epsilon": config.norm_eps.to_string().parse::<f64>().expect("a number"),
            "sliding_window": config.sliding_window,
        })
    },
    to_gguf: |config| match config.activation {
        Activation::GeluTanh => Ok(vec![gguf::number(gguf::LAYER_NORM, config.norm_eps)]),
        other => {
            Err(format!("llama.cpp computes it with gelu_pytorch_tanh, not {}", hf::activation_name(other)))
        }
    },
    named: &[Named {
        own: |config| Config {
            attention_bias: true,
            attention_output_bias: true,
            mlp_bias: true,
            activation: Activation::GeluTanh,
            sliding_window: Some(4096),
            ..config
        },
        ..Named::new("starcoder2-3b", [3072, 12_288, 30, 24, 2, 128, 49_152, 16_384], 1e6, true)
    }],
};
