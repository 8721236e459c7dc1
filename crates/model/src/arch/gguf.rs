//! Reading the metadata of GGUF files: their keys, and what the architectures have in common.

use super::error::{ConfigError, MAX_SIZE, OTHER_COMPUTATION};
use super::{GgufEntries, rope};
use crate::files::{Gguf, GgufEntry};
use crate::shape::{Arch, Config, LayerPattern, Rope};

/// Architectures whose head llama.cpp takes from the embedding, whatever a file has.
const TIED: [&str; 2] = ["gemma2", "cohere2"];

/// Whether llama.cpp reads the head that a model has.
pub(crate) fn reads_head(config: &Config) -> bool {
    config.tie_word_embeddings || !TIED.contains(&config.arch.gguf())
}

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

    /// A number above zero; none where it is absent or zero.
    pub(super) fn number_or_none(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        match self.gguf.number(&format!("{}.{key}", self.arch)) {
            Some(0.0) => Ok(None),
            _ => self.number(key),
        }
    }

    /// Whether the file has this key.
    pub(super) fn has_key(&self, key: &str) -> bool {
        self.gguf.shown(&format!("{}.{key}", self.arch)).is_some()
    }

    /// The layers with a window: a list, or all but each so manieth, `usual` where the file does not say.
    pub(super) fn windowed(&self, config: &Config, usual: usize) -> Result<LayerPattern, ConfigError> {
        let key = format!("{}.{PATTERN}", self.arch);
        let layers = config.num_hidden_layers;
        if let Some(list) = self.gguf.integers(&key) {
            if list.len() != layers {
                return Err(ConfigError::new(format!(
                    "`{key}` has {} values, expected {layers}",
                    list.len()
                )));
            }
            return Ok(LayerPattern::over(layers, |layer| list[layer] != 0));
        }
        let pattern = LayerPattern::all_but_each(self.size(PATTERN)?.unwrap_or(usual));
        Ok(LayerPattern::over(layers, |layer| pattern.contains(layer)))
    }

    /// Whether the file has this tensor.
    pub(super) fn has(&self, tensor: &str) -> bool {
        self.gguf.shape(tensor).is_some()
    }
}

/// The layers with a window.
pub(super) const PATTERN: &str = "attention.sliding_window_pattern";
/// The part of a head that is rotated.
pub(super) const PARTIAL: &str = "rope.dimension_count";
/// The base of the rotation in layers with a window.
pub(super) const LOCAL_BASE: &str = "rope.freq_base_swa";
/// `eps` of norms by mean and variance.
pub(super) const LAYER_NORM: &str = "attention.layer_norm_epsilon";
/// Divisors of the rotary frequencies, short and long, as tensors.
pub(super) const LONG_FACTORS: &str = "rope.scaling.attn_factor";

/// `mscale_all_dim` of YaRN, where files say it.
pub(super) const YARN_ALL_DIM: &str = "rope.scaling.yarn_log_multiplier";

/// A key with a number.
pub(super) fn number(key: &'static str, value: f32) -> (&'static str, GgufEntry) {
    (key, GgufEntry::F32(value))
}

/// A key with a whole number.
pub(super) fn size(key: &'static str, value: usize) -> (&'static str, GgufEntry) {
    (key, GgufEntry::U32(value as u32))
}

/// The window, of architectures whose files do not say the layers that have it: those are all but each `period`th.
pub(super) fn windows(config: &Config, period: usize) -> Result<GgufEntries, String> {
    let usual = LayerPattern::all_but_each(period);
    let layers = config.num_hidden_layers;
    if LayerPattern::over(layers, |layer| usual.contains(layer)) != config.windowed {
        return Err(format!(
            "its metadata cannot say which layers have a window, and llama.cpp takes all but each {period}."
        ));
    }
    Ok(window(config))
}

/// The window.
pub(super) fn window(config: &Config) -> GgufEntries {
    config.sliding_window.map(|window| size("attention.sliding_window", window)).into_iter().collect()
}

/// The layers that have the window.
pub(super) fn pattern(config: &Config) -> (&'static str, GgufEntry) {
    let layers = 0..config.num_hidden_layers;
    (PATTERN, GgufEntry::Bools(layers.map(|layer| config.windowed.contains(layer)).collect()))
}

/// What every architecture reads alike; biases and norms of queries and keys are those that the file has. `reads` are the keys
/// that it reads itself.
pub(super) fn common(keys: &Keys<'_>, arch: Arch, reads: &[&str]) -> Result<Config, ConfigError> {
    let Keys { gguf, arch: name } = *keys;
    let hidden_size = keys.needed("embedding_length")?;
    let num_attention_heads = keys.needed("attention.head_count")?;
    let vocab_size = match gguf.shape("token_embd.weight") {
        Some([rows, _]) => *rows,
        _ => return Err(ConfigError::new("the tensor token_embd.weight is missing")),
    };
    let head_dim = keys.size("attention.key_length")?.unwrap_or(hidden_size / num_attention_heads);
    let dims = keys.size(PARTIAL)?.filter(|&rotated| rotated != head_dim);
    if let Some(rotated) = dims {
        let partly = reads.contains(&PARTIAL) && rotated < head_dim && rotated.is_multiple_of(2);
        if !partly {
            return Err(ConfigError::new(format!(
                "`{name}.{PARTIAL}` is {rotated}, expected the whole head of {head_dim}"
            )));
        }
    }
    check_neutral(gguf, name, head_dim, reads)?;
    let scaling = rope::from_gguf(keys, dims.unwrap_or(head_dim))?;
    Ok(Config {
        hidden_size,
        intermediate_size: keys.needed("feed_forward_length")?,
        num_hidden_layers: keys.needed("block_count")?,
        num_attention_heads,
        num_key_value_heads: keys.size("attention.head_count_kv")?.unwrap_or(num_attention_heads),
        head_dim,
        vocab_size,
        norm_eps: match reads.contains(&LAYER_NORM) {
            true => keys.number(LAYER_NORM)?.unwrap_or(1e-5) as f32,
            false => keys.number("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6) as f32,
        },
        rope: Rope { scaling, dims, ..Rope::plain(keys.number("rope.freq_base")?.unwrap_or(10_000.0)) },
        tie_word_embeddings: !keys.has("output.weight"),
        attention_bias: keys.has("blk.0.attn_q.bias"),
        attention_output_bias: keys.has("blk.0.attn_output.bias"),
        mlp_bias: keys.has("blk.0.ffn_gate.bias"),
        qk_norm: keys.has("blk.0.attn_q_norm.weight"),
        learned_positions: false,
        max_position_embeddings: keys.size("context_length")?.unwrap_or(2048),
        sliding_window: match gguf.number(&format!("{name}.attention.sliding_window")) {
            Some(0.0) => None,
            _ => keys.size("attention.sliding_window")?,
        },
        ..Config::plain(arch)
    })
}

/// Keys by which llama.cpp computes something else than this does, with the values that change nothing; a truth value
/// counts as 0 or 1.
const NEUTRAL: [(&str, &[f64]); 28] = [
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
    ("rope.scaling.yarn_attn_factor", &[0.0, 1.0]),
    ("rope.scaling.yarn_ext_factor", &[-1.0, 1.0]),
    ("rope.scaling.yarn_log_multiplier", &[0.0]),
    ("rope.dimension_sections", &[]),
    ("attention.recurrent_layers", &[]),
];

/// No key of [`NEUTRAL`] changes the model, nor one whose neutral value depends on the head.
fn check_neutral(gguf: &Gguf, arch: &str, head_dim: usize, reads: &[&str]) -> Result<(), ConfigError> {
    let of_head =
        [("attention.value_length", head_dim as f64), ("attention.scale", (head_dim as f64).powf(-0.5))];
    let of_head = of_head.iter().map(|(key, value)| (*key, std::slice::from_ref(value)));
    for (key, neutral) in NEUTRAL.into_iter().chain(of_head).filter(|(key, _)| !reads.contains(key)) {
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
