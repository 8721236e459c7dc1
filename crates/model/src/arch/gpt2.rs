//! GPT-2 (Radford et al. 2019): learned positions, norms by mean and variance, biases everywhere, queries, keys and values in one
//! matrix, and matrices that checkpoints have as `[in, out]`. Its dropout (`attn_pdrop`, `embd_pdrop`, `resid_pdrop`) is passed over, as
//! that of every architecture is: what is computed is the model in evaluation.

use lorafit_kernels::ops::gate::Activation;
use serde_json::{Map, Value, json};

use super::error::OTHER_COMPUTATION;
use super::hf::Keys;
use super::{ConfigError, Family, Named, blocks, gguf, hf};
use crate::shape::{Arch, Architecture, Config, GateShape, LayerPattern, LinearShape, Names, NormKind, Part};

const ARCH: Arch = Arch(&Architecture {
    model_type: "gpt2",
    gguf: "gpt2",
    gguf_rotary_pairs: false,
    gguf_window: false,
    names: Names::GPT2,
    parts: |config, _| {
        let kind = NormKind::Layer { bias: true };
        let [queries, keys, values] = blocks::head_widths(config);
        let inner = config.intermediate_size;
        let stored = |linear| Part::Linear(vec![LinearShape { transposed: true, ..linear }]);
        let joined = blocks::projection(config, "attn.c_attn", "attn_qkv", queries + keys + values, true);
        vec![
            blocks::norm(config, kind, "ln_1", "attn_norm"),
            stored(LinearShape { joined: vec![queries, keys, values], ..joined }),
            blocks::attend(config, 0, None),
            stored(blocks::projection_back(config, "attn.c_proj", "attn_output", queries, true)),
            blocks::add(config),
            blocks::norm(config, kind, "ln_2", "ffn_norm"),
            stored(blocks::projection(config, "mlp.c_fc", "ffn_up", inner, true)),
            Part::Gate(GateShape { activation: config.activation, gated: false, width: inner }),
            stored(blocks::projection_back(config, "mlp.c_proj", "ffn_down", inner, true)),
            blocks::add(config),
        ]
    },
});

pub(super) const FAMILY: Family = Family {
    arch: ARCH,
    class: "GPT2LMHeadModel",
    score_class: Some("GPT2ForSequenceClassification"),
    from_json,
    from_gguf: Some(|keys| {
        let config = gguf::common(keys, ARCH, &[gguf::LAYER_NORM])?;
        Ok(of_gpt2(Config { activation: Activation::GeluTanh, ..config }))
    }),
    to_json: |config| {
        let usual = (config.head_dim as f32).powf(-0.5);
        json!({
            "activation_function": match config.activation {
                Activation::GeluTanh => "gelu_new",
                other => hf::activation_name(other),
            },
            "n_embd": config.hidden_size,
            "n_layer": config.num_hidden_layers,
            "n_head": config.num_attention_heads,
            "n_positions": config.max_position_embeddings,
            "n_inner": config.intermediate_size,
            "layer_norm_epsilon": config.norm_eps.to_string().parse::<f64>().expect("a number"),
            "scale_attn_weights": config.attention_scale.is_none_or(|scale| scale == usual),
        })
    },
    to_gguf: |config| Ok(vec![gguf::number(gguf::LAYER_NORM, config.norm_eps)]),
    named: &[
        named("gpt2", [768, 3072, 12, 12, 12, 64, 50_257, 1024]),
        named("gpt2-medium", [1024, 4096, 24, 16, 16, 64, 50_257, 1024]),
        named("gpt2-large", [1280, 5120, 36, 20, 20, 64, 50_257, 1024]),
        named("gpt2-xl", [1600, 6400, 48, 25, 25, 64, 50_257, 1024]),
    ],
};

const fn named(name: &'static str, sizes: [usize; 8]) -> Named {
    let own = |config| of_gpt2(Config { activation: Activation::GeluTanh, ..config });
    Named { own, ..Named::new(name, sizes, 1e4, true) }
}

/// What every GPT-2 has.
fn of_gpt2(config: Config) -> Config {
    Config {
        attention_bias: true,
        attention_output_bias: true,
        mlp_bias: true,
        learned_positions: true,
        rotated: LayerPattern::none(),
        ..config
    }
}

/// Its own words, as others say them.
const WORDS: [(&str, &str); 5] = [
    ("n_embd", "hidden_size"),
    ("n_layer", "num_hidden_layers"),
    ("n_head", "num_attention_heads"),
    ("n_positions", "max_position_embeddings"),
    ("n_inner", "intermediate_size"),
];

fn from_json(keys: &Keys<'_>) -> Result<Config, ConfigError> {
    // Those of the first.
    let defaults =
        [("n_embd", 768), ("n_layer", 12), ("n_head", 12), ("n_positions", 1024), ("vocab_size", 50_257)];
    let size = |name: &str, default: usize| Ok(keys.optional_size(name)?.unwrap_or(default));
    let mut words: Map<String, Value> = keys.0.clone();
    for (own, default) in defaults {
        let usual = WORDS.iter().find(|(word, _)| *word == own).map_or(own, |(_, usual)| usual);
        words.insert(usual.to_owned(), json!(size(own, default)?));
    }
    words.insert("intermediate_size".to_owned(), json!(size("n_inner", 4 * size("n_embd", 768)?)?));
    for key in ["num_key_value_heads", "head_dim"] {
        words.remove(key);
    }
    if keys.flag("add_cross_attention")? {
        return Err(keys.wrong("add_cross_attention", "false").with_hint(OTHER_COMPUTATION));
    }
    if keys.flag("scale_attn_by_inverse_layer_idx")? {
        return Err(keys.wrong("scale_attn_by_inverse_layer_idx", "false").with_hint(OTHER_COMPUTATION));
    }
    let known = [Activation::GeluTanh, Activation::Gelu, Activation::Silu];
    let activation = hf::activation(keys, "activation_function", Activation::GeluTanh, &known)?;
    let config = hf::common_with(&Keys(&words), ARCH, activation)?;
    if !config.hidden_size.is_multiple_of(config.num_attention_heads) {
        return Err(keys.wrong("n_embd", "a multiple of `n_head`"));
    }
    let scaled = keys.flag_or("scale_attn_weights", true)?;
    Ok(of_gpt2(Config {
        tie_word_embeddings: keys.flag_or("tie_word_embeddings", true)?,
        norm_eps: keys.number("layer_norm_epsilon")?.unwrap_or(1e-5) as f32,
        attention_scale: (!scaled).then_some(1.0),
        ..config
    }))
}
