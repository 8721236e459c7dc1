//! Reading the metadata of GGUF files: their keys, and what the architectures have in common.

use super::error::{ConfigError, INITIALIZER_RANGE, MAX_SIZE, OTHER_COMPUTATION};
use super::{Arch, rope};
use crate::shape::{Config, Rope};
use crate::weights::Gguf;

/// The keys of an architecture, with errors that name them.
pub(super) struct Keys<'a> {
    pub gguf: &'a Gguf,
    pub arch: &'static str,
}

impl Keys<'_> {
    /// A size, above zero.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        let key = format!("{}.{key}", self.arch);
        let Some(found) = self.gguf.shown(&key) else { return Ok(None) };
        let wrong = || ConfigError::new(format!("`{key}` is {found}, expected a whole number"));
        let value = self.gguf.integer(&key).ok_or_else(wrong)?;
        let range = format!("`{key}` is {value}, expected a whole number from 1 to {MAX_SIZE}");
        u64::try_from(value)
            .ok()
            .filter(|n| (1..=MAX_SIZE).contains(n))
            .map(|n| Some(n as usize))
            .ok_or_else(|| ConfigError::new(range))
    }

    /// As [`Keys::size`], of a key that has to be there.
    pub(super) fn needed(&self, key: &str) -> Result<usize, ConfigError> {
        self.size(key)?.ok_or_else(|| ConfigError::new(format!("`{}.{key}` is missing", self.arch)))
    }

    /// A number above zero.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        let key = format!("{}.{key}", self.arch);
        let Some(found) = self.gguf.shown(&key) else { return Ok(None) };
        let wrong = || ConfigError::new(format!("`{key}` is {found}, expected a number above zero"));
        self.gguf.number(&key).filter(|n| n.is_finite() && *n > 0.0).map(Some).ok_or_else(wrong)
    }

    /// Whether the file has this tensor.
    pub(super) fn has(&self, tensor: &str) -> bool {
        self.gguf.shape(tensor).is_some()
    }
}

/// What every architecture reads alike; biases and norms of queries and keys are those that the file has.
pub(super) fn common(keys: &Keys<'_>, arch: Arch) -> Result<Config, ConfigError> {
    let Keys { gguf, arch: name } = *keys;
    let hidden_size = keys.needed("embedding_length")?;
    let num_attention_heads = keys.needed("attention.head_count")?;
    let vocab_size = match gguf.shape("token_embd.weight") {
        Some([rows, _]) => *rows,
        _ => return Err(ConfigError::new("the tensor token_embd.weight is missing")),
    };
    let head_dim = keys.size("attention.key_length")?.unwrap_or(hidden_size / num_attention_heads);
    if let Some(rotated) = keys.size("rope.dimension_count")?.filter(|&n| n != head_dim) {
        return Err(ConfigError::new(format!(
            "`{name}.rope.dimension_count` is {rotated}, expected the whole head of {head_dim}"
        )));
    }
    check_neutral(gguf, name, head_dim)?;
    let scaling = rope::from_gguf(gguf, name, head_dim)?;
    Ok(Config {
        arch,
        hidden_size,
        intermediate_size: keys.needed("feed_forward_length")?,
        num_hidden_layers: keys.needed("block_count")?,
        num_attention_heads,
        num_key_value_heads: keys.size("attention.head_count_kv")?.unwrap_or(num_attention_heads),
        head_dim,
        vocab_size,
        norm_eps: keys.number("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6) as f32,
        rope: Rope { theta: keys.number("rope.freq_base")?.unwrap_or(10_000.0), scaling },
        tie_word_embeddings: !keys.has("output.weight"),
        attention_bias: keys.has("blk.0.attn_q.bias"),
        attention_output_bias: keys.has("blk.0.attn_output.bias"),
        mlp_bias: keys.has("blk.0.ffn_gate.bias"),
        qk_norm: keys.has("blk.0.attn_q_norm.weight"),
        max_position_embeddings: keys.size("context_length")?.unwrap_or(2048),
        sliding_window: match gguf.number(&format!("{name}.attention.sliding_window")) {
            Some(0.0) => None,
            _ => keys.size("attention.sliding_window")?,
        },
        initializer_range: INITIALIZER_RANGE,
    })
}

/// Keys by which llama.cpp computes something else than this does, with the values that change nothing; a truth value
/// counts as 0 or 1.
const NEUTRAL: [(&str, &[f64]); 25] = [
    ("attention.causal", &[1.0]),
    ("attention.clamp_kqv", &[0.0]),
    ("attention.max_alibi_bias", &[0.0]),
    ("attention.q_lora_rank", &[0.0]),
    ("attention.kv_lora_rank", &[0.0]),
    ("attention.shared_kv_layers", &[0.0]),
    ("attention.sliding_window_pattern", &[0.0, 1.0]),
    ("attention.temperature_length", &[0.0]),
    ("attention.temperature_scale", &[0.0]),
    ("attn_logit_softcapping", &[0.0]),
    ("final_logit_softcapping", &[0.0]),
    ("router_logit_softcapping", &[0.0]),
    ("logit_scale", &[0.0, 1.0]),
    ("embedding_scale", &[0.0, 1.0]),
    ("residual_scale", &[0.0, 1.0]),
    ("attention.output_scale", &[0.0, 1.0]),
    ("attention.value_scale", &[0.0, 1.0]),
    ("expert_count", &[0.0]),
    ("expert_used_count", &[0.0]),
    ("use_parallel_residual", &[0.0]),
    ("swin_norm", &[0.0]),
    ("nextn_predict_layers", &[0.0]),
    ("rope.scaling.attn_factor", &[0.0, 1.0]),
    ("rope.dimension_sections", &[]),
    ("attention.recurrent_layers", &[]),
];

/// No key of [`NEUTRAL`] changes the model, nor one whose neutral value depends on the head.
fn check_neutral(gguf: &Gguf, arch: &str, head_dim: usize) -> Result<(), ConfigError> {
    let of_head =
        [("attention.value_length", head_dim as f64), ("attention.scale", (head_dim as f64).powf(-0.5))];
    let of_head = of_head.iter().map(|(key, value)| (*key, std::slice::from_ref(value)));
    for (key, neutral) in NEUTRAL.into_iter().chain(of_head) {
        let key = format!("{arch}.{key}");
        let Some(found) = gguf.shown(&key) else { continue };
        let number = gguf.number(&key).or_else(|| gguf.flag(&key).map(|flag| f64::from(u8::from(flag))));
        // Written as f32. A scale of 0 is the usual one.
        let same = |value: f64, plain: f64| (value - plain).abs() <= 1e-6 * plain.abs();
        let scale_of_old = key.ends_with("attention.scale") && number == Some(0.0);
        if !scale_of_old && !number.is_some_and(|n| neutral.iter().any(|plain| same(n, *plain))) {
            let problem =
                format!("`{key}` is {found}, which changes what the model computes and is not supported");
            return Err(ConfigError::new(problem).with_hint(OTHER_COMPUTATION));
        }
    }
    Ok(())
}
