//! Lists of parts that several architectures have.

use crate::shape::{AddShape, AttendShape, Config, GateShape, LinearShape, Name, NormKind, NormShape, Part};

/// A norm over the residual stream.
pub(super) fn norm(config: &Config, kind: NormKind, hf: &'static str, gguf: &'static str) -> Part {
    Part::Norm(NormShape { name: Name { hf, gguf }, width: config.hidden_size, kind })
}

/// The norm before the attention.
pub(super) fn input_norm(config: &Config, kind: NormKind) -> Part {
    norm(config, kind, "input_layernorm", "attn_norm")
}

/// A projection of `hidden_size` values.
pub(super) fn projection(
    config: &Config,
    hf: &'static str,
    gguf: &'static str,
    outputs: usize,
    bias: bool,
) -> LinearShape {
    LinearShape {
        name: Name { hf, gguf },
        outputs,
        inputs: config.hidden_size,
        bias,
        joined: Vec::new(),
        transposed: false,
    }
}

/// A projection to `hidden_size` values.
pub(super) fn projection_back(
    config: &Config,
    hf: &'static str,
    gguf: &'static str,
    inputs: usize,
    bias: bool,
) -> LinearShape {
    LinearShape {
        name: Name { hf, gguf },
        outputs: config.hidden_size,
        inputs,
        bias,
        joined: Vec::new(),
        transposed: false,
    }
}

/// `q_proj`, `k_proj` and `v_proj`.
pub(super) fn queries_keys_values(config: &Config) -> Part {
    let [queries, keys, values] = head_widths(config);
    let projection = |hf, gguf, outputs| projection(config, hf, gguf, outputs, config.attention_bias);
    Part::Linear(vec![
        projection("self_attn.q_proj", "attn_q", queries),
        projection("self_attn.k_proj", "attn_k", keys),
        projection("self_attn.v_proj", "attn_v", values),
    ])
}

/// Widths of queries, keys and values.
pub(super) fn head_widths(config: &Config) -> [usize; 3] {
    let heads = config.heads();
    [heads.query * heads.dim, heads.key_value * heads.dim, heads.key_value * heads.dim]
}

/// Attention, with norms of queries and keys of this kind where there are some: of each head, or of all as one row.
pub(super) fn attend(config: &Config, layer: usize, norms: Option<(NormKind, bool)>) -> Part {
    let [queries, keys, _] = head_widths(config);
    let norm = |hf, gguf, all, (kind, whole): (NormKind, bool)| NormShape {
        name: Name { hf, gguf },
        width: if whole { all } else { config.head_dim },
        kind,
    };
    Part::Attend(AttendShape {
        heads: config.heads(),
        scores: config.scores(layer),
        rope: config.rope_of(layer),
        grows: config.query_growth.is_some(),
        norms: norms.map(|norms| {
            [
                norm("self_attn.q_norm", "attn_q_norm", queries, norms),
                norm("self_attn.k_norm", "attn_k_norm", keys, norms),
            ]
        }),
    })
}

/// `o_proj`.
pub(super) fn output(config: &Config) -> Part {
    let [queries, ..] = head_widths(config);
    let bias = config.attention_output_bias;
    Part::Linear(vec![projection_back(config, "self_attn.o_proj", "attn_output", queries, bias)])
}

/// The addition to the residual stream.
pub(super) fn add(config: &Config) -> Part {
    Part::Add(AddShape { scale: config.residual_scale })
}

/// `gate_proj` and `up_proj`, the activation, and `down_proj`.
pub(super) fn feed_forward(config: &Config) -> Vec<Part> {
    let (inner, bias) = (config.intermediate_size, config.mlp_bias);
    vec![
        Part::Linear(vec![
            projection(config, "mlp.gate_proj", "ffn_gate", inner, bias),
            projection(config, "mlp.up_proj", "ffn_up", inner, bias),
        ]),
        gate(config),
        down(config),
    ]
}

/// The activation as a gate.
pub(super) fn gate(config: &Config) -> Part {
    let (activation, width) = (config.activation, config.intermediate_size);
    Part::Gate(GateShape { activation, gated: true, width })
}

/// `down_proj`.
pub(super) fn down(config: &Config) -> Part {
    let (inner, bias) = (config.intermediate_size, config.mlp_bias);
    Part::Linear(vec![projection_back(config, "mlp.down_proj", "ffn_down", inner, bias)])
}

/// The pre-norm block of Llama: `mid = x + attention(norm(x))`, `y = mid + feed_forward(norm(mid))`.
pub(super) fn pre_norm(config: &Config, layer: usize) -> Vec<Part> {
    let norms = config.qk_norm.then_some((NormKind::Rms, false));
    let mut parts = vec![
        input_norm(config, NormKind::Rms),
        queries_keys_values(config),
        attend(config, layer, norms),
        output(config),
        add(config),
        norm(config, NormKind::Rms, "post_attention_layernorm", "ffn_norm"),
    ];
    parts.extend(feed_forward(config));
    parts.push(add(config));
    parts
}
