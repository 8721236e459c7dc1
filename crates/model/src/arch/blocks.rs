//! Lists of parts that several architectures have.

use crate::shape::{AddShape, AttendShape, Config, GateShape, LinearShape, Name, NormShape, Part};

const INPUT_NORM: Name = Name { hf: "input_layernorm", gguf: "attn_norm" };

/// A norm over the residual stream.
pub(super) fn norm(config: &Config, hf: &'static str, gguf: &'static str) -> Part {
    Part::Norm(NormShape { name: Name { hf, gguf }, width: config.hidden_size })
}

/// The norm before the attention.
pub(super) fn input_norm(config: &Config) -> Part {
    Part::Norm(NormShape { name: INPUT_NORM, width: config.hidden_size })
}

/// `x += output(attention(q(x), k(x), v(x)))`, with the usual names; `more` stands before the addition.
pub(super) fn attention(config: &Config, more: Option<Part>) -> Vec<Part> {
    let heads = config.heads();
    let (queries, keys) = (heads.query * heads.dim, heads.key_value * heads.dim);
    let projection = |hf, gguf, outputs, bias| LinearShape {
        name: Name { hf, gguf },
        outputs,
        inputs: config.hidden_size,
        bias,
    };
    let head_norm = |hf, gguf| NormShape { name: Name { hf, gguf }, width: heads.dim };
    let mut parts = vec![
        Part::Linear(vec![
            projection("self_attn.q_proj", "attn_q", queries, config.attention_bias),
            projection("self_attn.k_proj", "attn_k", keys, config.attention_bias),
            projection("self_attn.v_proj", "attn_v", keys, config.attention_bias),
        ]),
        Part::Attend(AttendShape {
            heads,
            norms: config.qk_norm.then(|| {
                [head_norm("self_attn.q_norm", "attn_q_norm"), head_norm("self_attn.k_norm", "attn_k_norm")]
            }),
        }),
        Part::Linear(vec![output_projection(config)]),
    ];
    parts.extend(more);
    parts.push(Part::Add(AddShape { scale: 1.0 }));
    parts
}

/// `o_proj`.
pub(super) fn output_projection(config: &Config) -> LinearShape {
    LinearShape {
        name: Name { hf: "self_attn.o_proj", gguf: "attn_output" },
        outputs: config.hidden_size,
        inputs: config.num_attention_heads * config.head_dim,
        bias: config.attention_output_bias,
    }
}

/// `x += down(act(gate(x)) * up(x))`, with the usual names; `more` stands before the addition.
pub(super) fn feed_forward(config: &Config, more: Option<Part>) -> Vec<Part> {
    let projection = |hf, gguf| LinearShape {
        name: Name { hf, gguf },
        outputs: config.intermediate_size,
        inputs: config.hidden_size,
        bias: config.mlp_bias,
    };
    let mut parts = vec![
        Part::Linear(vec![projection("mlp.gate_proj", "ffn_gate"), projection("mlp.up_proj", "ffn_up")]),
        Part::Gate(GateShape { width: config.intermediate_size }),
        Part::Linear(vec![down_projection(config)]),
    ];
    parts.extend(more);
    parts.push(Part::Add(AddShape { scale: 1.0 }));
    parts
}

/// `down_proj`.
pub(super) fn down_projection(config: &Config) -> LinearShape {
    LinearShape {
        name: Name { hf: "mlp.down_proj", gguf: "ffn_down" },
        outputs: config.hidden_size,
        inputs: config.intermediate_size,
        bias: config.mlp_bias,
    }
}

/// The pre-norm block of Llama: `mid = x + attention(norm(x))`, `y = mid + feed_forward(norm(mid))`.
pub(super) fn pre_norm(config: &Config, _layer: usize) -> Vec<Part> {
    let mut parts = vec![input_norm(config)];
    parts.extend(attention(config, None));
    parts.push(norm(config, "post_attention_layernorm", "ffn_norm"));
    parts.extend(feed_forward(config, None));
    parts
}
