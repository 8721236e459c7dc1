//! The shape of a model: from `config.json`, from GGUF metadata, or by name.
//!
//! Supported are the Llama family (`llama`, `mistral`), `qwen2` and `qwen3`. They share one block composition and
//! differ in biases, query/key norms and rotation, which this says.

use lorafit_kernels::quant::Format;
use serde_json::{Map, Value};

use crate::weights::Gguf;

/// A decoder's shape, with the names of Hugging Face configurations.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `llama`, `mistral`, `qwen2` or `qwen3`.
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Values per head; even.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Of every norm.
    pub rms_norm_eps: f32,
    /// Rotation of queries and keys.
    pub rope: Rope,
    /// The head is the embedding.
    pub tie_word_embeddings: bool,
    /// `q_proj`, `k_proj`, `v_proj` have a bias.
    pub attention_bias: bool,
    /// `o_proj` has a bias.
    pub attention_output_bias: bool,
    /// The feed-forward projections have a bias.
    pub mlp_bias: bool,
    /// Queries and keys are normalised per head (Qwen3).
    pub qk_norm: bool,
    /// Longest context the model was made for.
    pub max_position_embeddings: usize,
    /// Tokens that attention reaches back, if limited.
    pub sliding_window: Option<usize>,
    /// Standard deviation of matrices that begin random.
    pub initializer_range: f32,
}

/// Rotary frequencies.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How they are stretched for longer contexts.
    pub scaling: RopeScaling,
}

/// Stretching of rotary frequencies.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As they are.
    None,
    /// All divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, a ramp between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths beyond the original context over this are low.
        low_freq_factor: f64,
        /// Wavelengths below the original context over this are high.
        high_freq_factor: f64,
        /// The context before stretching.
        original_max_position_embeddings: f64,
    },
    /// A divisor for each frequency (the GGUF tensor `rope_freqs.weight`).
    Divisors(Vec<f32>),
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct ConfigError {
    problem: String,
    hint: Option<String>,
}

impl ConfigError {
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        ConfigError { problem: problem.into(), hint: None }
    }

    fn with_hint(self, hint: impl Into<String>) -> Self {
        ConfigError { hint: Some(hint.into()), ..self }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        if self.problem.starts_with("`quantization_config`") {
            return Some(
                "take the model it was made from, in BF16, with --quant nf4 or int8; or a GGUF file of it"
                    .to_owned(),
            );
        }
        let of_type =
            || self.problem.contains("model_type").then(|| format!("supported: {}", MODEL_TYPES.join(", ")));
        self.hint.clone().or_else(of_type)
    }
}

/// What is said of rotary frequencies that are stretched in a way that is not computed.
const OTHER_STRETCHING: &str = "where it was added to reach beyond the context that the model was trained with (YaRN as the cards \
                                of Qwen tell), take the model without it: within that context it is the one that is meant; \
                                otherwise take another model";
/// What is said of keys that change the computation.
const OTHER_COMPUTATION: &str =
    "a model that computes with it would be another one here: take a plain model of a supported type";

/// The standard deviation that transformers' configurations have unless they say otherwise.
const INITIALIZER_RANGE: f32 = 0.02;

const MODEL_TYPES: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

/// Larger sizes are taken for damage.
const MAX_SIZE: u64 = 1 << 24;

/// The keys of a configuration, with errors that name them.
struct Keys<'a>(&'a Map<String, Value>);

impl Keys<'_> {
    fn wrong(&self, key: &str, expected: &str) -> ConfigError {
        let found = self.0.get(key).map_or("missing".to_owned(), Value::to_string);
        ConfigError::new(format!("`{key}` is {found}, expected {expected}"))
    }

    fn present(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.present(key) else { return Ok(None) };
        let size = value.as_u64().filter(|n| (1..=MAX_SIZE).contains(n));
        size.map(|n| Some(n as usize)).ok_or_else(|| self.wrong(key, "a whole number from 1 to 16777216"))
    }

    fn size(&self, key: &str) -> Result<usize, ConfigError> {
        self.optional_size(key)?.ok_or_else(|| self.wrong(key, "a whole number"))
    }

    fn number(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.present(key) else { return Ok(None) };
        let number = value.as_f64().filter(|n| n.is_finite() && *n > 0.0);
        number.map(Some).ok_or_else(|| self.wrong(key, "a number above zero"))
    }

    fn flag(&self, key: &str) -> Result<bool, ConfigError> {
        let Some(value) = self.present(key) else { return Ok(false) };
        value.as_bool().ok_or_else(|| self.wrong(key, "true or false"))
    }
}

impl Config {
    /// From the text of a `config.json`.
    ///
    /// # Errors
    /// Text that is not JSON, an unsupported model type, a missing key, a value out of range.
    pub fn from_hf_json(text: &str) -> Result<Self, ConfigError> {
        let json: Map<String, Value> =
            serde_json::from_str(text).map_err(|e| ConfigError::new(format!("not JSON: {e}")))?;
        let keys = Keys(&json);
        let model_type = json.get("model_type").and_then(Value::as_str).unwrap_or("");
        if !MODEL_TYPES.contains(&model_type) {
            return Err(keys.wrong("model_type", "a supported architecture"));
        }
        if let Some(quantized) = keys.present("quantization_config") {
            // Early configurations of bitsandbytes do not say whose they are.
            let early = ["load_in_4bit", "load_in_8bit"].iter().any(|key| quantized.get(*key).is_some());
            match quantized.get("quant_method").and_then(Value::as_str) {
                Some("bitsandbytes") => {}
                None if early => {}
                _ => return Err(keys.wrong("quantization_config", "none, or that of bitsandbytes")),
            }
        }
        if !matches!(keys.present("is_causal"), None | Some(Value::Bool(true))) {
            return Err(keys.wrong("is_causal", "true").with_hint(OTHER_COMPUTATION));
        }
        if !keys.number("partial_rotary_factor")?.is_none_or(|part| part == 1.0) {
            return Err(keys.wrong("partial_rotary_factor", "1").with_hint(OTHER_COMPUTATION));
        }
        match keys.present("hidden_act").map(|v| v.as_str()) {
            None | Some(Some("silu")) => {}
            Some(_) => return Err(keys.wrong("hidden_act", "\"silu\"")),
        }
        let hidden_size = keys.size("hidden_size")?;
        let num_attention_heads = keys.size("num_attention_heads")?;
        let bias = keys.flag("attention_bias")?;
        let windowed = match model_type {
            "mistral" => true,
            _ => keys.flag("use_sliding_window")?,
        };
        let sliding_window = if windowed { keys.optional_size("sliding_window")? } else { None };
        let num_hidden_layers = keys.size("num_hidden_layers")?;
        check_layer_types(&keys, model_type, num_hidden_layers, sliding_window)?;
        let config = Config {
            model_type: model_type.to_owned(),
            hidden_size,
            intermediate_size: keys.size("intermediate_size")?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads: keys.optional_size("num_key_value_heads")?.unwrap_or(num_attention_heads),
            head_dim: keys.optional_size("head_dim")?.unwrap_or(hidden_size / num_attention_heads),
            vocab_size: keys.size("vocab_size")?,
            rms_norm_eps: keys.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            rope: rope_from_json(&json)?,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?,
            attention_bias: bias && model_type != "mistral" || model_type == "qwen2",
            attention_output_bias: bias && (model_type == "llama" || model_type == "qwen3"),
            mlp_bias: keys.flag("mlp_bias")? && model_type == "llama",
            qk_norm: model_type == "qwen3",
            max_position_embeddings: keys.optional_size("max_position_embeddings")?.unwrap_or(2048),
            sliding_window,
            initializer_range: keys
                .number("initializer_range")?
                .map_or(INITIALIZER_RANGE, |range| range as f32),
        };
        config.checked()
    }

    /// From the metadata and tensors of a GGUF file.
    ///
    /// # Errors
    /// As [`Config::from_hf_json`].
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, ConfigError> {
        if let Some(kind) = gguf.text("general.type").filter(|kind| *kind != "model") {
            let problem =
                format!("`general.type` is \"{kind}\", expected \"model\": the file is no whole model");
            return Err(ConfigError::new(problem).with_hint(match kind {
                "adapter" => {
                    "pass the base it was made for as --model; lorafit reads adapters in PEFT's format, as a folder with --adapter"
                }
                _ => "pass the file of the language model itself",
            }));
        }
        let arch = gguf.text("general.architecture").unwrap_or("");
        if !["llama", "qwen2", "qwen3"].contains(&arch) {
            return Err(ConfigError::new(format!(
                "`general.architecture` (model_type) is \"{arch}\", expected a supported architecture"
            )));
        }
        let size = |key: &str| -> Result<Option<usize>, ConfigError> {
            let key = format!("{arch}.{key}");
            let Some(found) = gguf.shown(&key) else { return Ok(None) };
            let wrong = || ConfigError::new(format!("`{key}` is {found}, expected a whole number"));
            let value = gguf.integer(&key).ok_or_else(wrong)?;
            let range = format!("`{key}` is {value}, expected a whole number from 1 to {MAX_SIZE}");
            u64::try_from(value)
                .ok()
                .filter(|n| (1..=MAX_SIZE).contains(n))
                .map(|n| Some(n as usize))
                .ok_or_else(|| ConfigError::new(range))
        };
        let needed =
            |key: &str| size(key)?.ok_or_else(|| ConfigError::new(format!("`{arch}.{key}` is missing")));
        let number = |key: &str| -> Result<Option<f64>, ConfigError> {
            let key = format!("{arch}.{key}");
            let Some(found) = gguf.shown(&key) else { return Ok(None) };
            let wrong = || ConfigError::new(format!("`{key}` is {found}, expected a number above zero"));
            gguf.number(&key).filter(|n| n.is_finite() && *n > 0.0).map(Some).ok_or_else(wrong)
        };
        let hidden_size = needed("embedding_length")?;
        let num_attention_heads = needed("attention.head_count")?;
        let vocab_size = match gguf.shape("token_embd.weight") {
            Some([rows, _]) => *rows,
            _ => return Err(ConfigError::new("the tensor token_embd.weight is missing")),
        };
        let scaling = gguf_scaling(gguf, arch)?;
        let head_dim = size("attention.key_length")?.unwrap_or(hidden_size / num_attention_heads);
        if let Some(rotated) = size("rope.dimension_count")?.filter(|&n| n != head_dim) {
            return Err(ConfigError::new(format!(
                "`{arch}.rope.dimension_count` is {rotated}, expected the whole head of {head_dim}"
            )));
        }
        check_neutral(gguf, arch, head_dim)?;
        let divisors = gguf.floats("rope_freqs.weight");
        // Of a header alone they are not there, nor asked for.
        if gguf.tensor("rope_freqs.weight").is_some_and(|t| t.format != Format::F32) {
            return Err(ConfigError::new("rope_freqs.weight is not stored as F32"));
        }
        let scaling = match divisors {
            Some(divisors) if divisors.len() != head_dim / 2 => {
                let message =
                    format!("rope_freqs.weight has {} values, expected {}", divisors.len(), head_dim / 2);
                return Err(ConfigError::new(message));
            }
            Some(divisors) => match divisors.iter().find(|d| !d.is_finite() || **d <= 0.0) {
                Some(wrong) => {
                    let message = format!("rope_freqs.weight has {wrong}, expected numbers above zero");
                    return Err(ConfigError::new(message));
                }
                // llama.cpp divides by both.
                None => match scaling {
                    RopeScaling::Linear { factor } => {
                        RopeScaling::Divisors(divisors.iter().map(|d| d * factor as f32).collect())
                    }
                    _ => RopeScaling::Divisors(divisors),
                },
            },
            None => scaling,
        };
        let config = Config {
            model_type: arch.to_owned(),
            hidden_size,
            intermediate_size: needed("feed_forward_length")?,
            num_hidden_layers: needed("block_count")?,
            num_attention_heads,
            num_key_value_heads: size("attention.head_count_kv")?.unwrap_or(num_attention_heads),
            head_dim,
            vocab_size,
            rms_norm_eps: number("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6) as f32,
            rope: Rope { theta: number("rope.freq_base")?.unwrap_or(10_000.0), scaling },
            tie_word_embeddings: gguf.shape("output.weight").is_none(),
            attention_bias: gguf.shape("blk.0.attn_q.bias").is_some(),
            attention_output_bias: gguf.shape("blk.0.attn_output.bias").is_some(),
            mlp_bias: gguf.shape("blk.0.ffn_gate.bias").is_some(),
            qk_norm: gguf.shape("blk.0.attn_q_norm.weight").is_some(),
            max_position_embeddings: size("context_length")?.unwrap_or(2048),
            sliding_window: match gguf.number(&format!("{arch}.attention.sliding_window")) {
                Some(0.0) => None,
                _ => size("attention.sliding_window")?,
            },
            initializer_range: INITIALIZER_RANGE,
        };
        config.checked()
    }

    fn checked(self) -> Result<Self, ConfigError> {
        let Config { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } = self;
        if heads % kv_heads != 0 {
            return Err(ConfigError::new(format!(
                "{kv_heads} key/value heads do not divide {heads} query heads"
            )));
        }
        // From GGUF it is a dimension of the embedding, which nothing has looked at yet.
        if !(1..=MAX_SIZE).contains(&(self.vocab_size as u64)) {
            return Err(ConfigError::new(format!(
                "the vocabulary has {} tokens, expected 1 to {MAX_SIZE}",
                self.vocab_size
            )));
        }
        if head_dim == 0 || head_dim % 2 != 0 {
            return Err(ConfigError::new(format!("`head_dim` is {head_dim}, expected an even number")));
        }
        if self.num_hidden_layers > 4096 || heads as u64 * head_dim as u64 > MAX_SIZE {
            return Err(ConfigError::new(format!(
                "{} layers of {heads} heads of {head_dim}: larger than any model",
                self.num_hidden_layers
            )));
        }
        Ok(self)
    }

    /// The rotary frequency of each pair of a head, in f32 as transformers computes it.
    pub fn rope_frequencies(&self) -> Vec<f32> {
        let theta = self.rope.theta as f32;
        let plain = (0..self.head_dim / 2).map(|j| 1.0 / theta.powf(2.0 * j as f32 / self.head_dim as f32));
        match &self.rope.scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|f| f / *factor as f32).collect(),
            RopeScaling::Divisors(divisors) => plain.zip(divisors).map(|(f, d)| f / d).collect(),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: context,
            } => plain
                .map(|f| {
                    let frequency = f64::from(f);
                    let wavelength = 2.0 * std::f64::consts::PI / frequency;
                    if wavelength < context / high {
                        f
                    } else if wavelength > context / low {
                        (frequency / factor) as f32
                    } else {
                        let smooth = (context / wavelength - low) / (high - low);
                        ((1.0 - smooth) * frequency / factor + smooth * frequency) as f32
                    }
                })
                .collect(),
        }
    }

    /// Number of weights of the model, biases and norms included; a tied head counts once.
    pub fn parameters(&self) -> u64 {
        let [hidden, inner, layers, vocab] =
            [self.hidden_size, self.intermediate_size, self.num_hidden_layers, self.vocab_size]
                .map(|n| n as u64);
        let queries = (self.num_attention_heads * self.head_dim) as u64;
        let keys = (self.num_key_value_heads * self.head_dim) as u64;
        let attention = 2 * hidden * queries + 2 * hidden * keys;
        let biases = u64::from(self.attention_bias) * (queries + 2 * keys)
            + u64::from(self.attention_output_bias) * hidden
            + u64::from(self.mlp_bias) * (2 * inner + hidden);
        // Gemma 2 has norms after attention and feed-forward, too.
        let norms = if self.model_type == "gemma2" { 4 } else { 2 } * hidden
            + u64::from(self.qk_norm) * 2 * self.head_dim as u64;
        let block = attention + 3 * hidden * inner + biases + norms;
        let embeddings = if self.tie_word_embeddings { 1 } else { 2 } * vocab * hidden;
        layers * block + embeddings + hidden
    }

    /// Weights of all projections of the blocks: what a token is multiplied with besides the head.
    pub fn projection_parameters(&self) -> u64 {
        let modules = crate::adapter::Module::ALL.map(|m| crate::adapter::module_shape(self, m));
        let block: u64 = modules.iter().map(|(rows, cols)| (rows * cols) as u64).sum();
        block * self.num_hidden_layers as u64
    }
}

/// The stretching of a GGUF file, as llama.cpp reads it: linear unless it says otherwise, by a factor under a new or an
/// old key, of which 0 is none.
fn gguf_scaling(gguf: &Gguf, arch: &str) -> Result<RopeScaling, ConfigError> {
    let key = format!("{arch}.rope.scaling.type");
    match (gguf.shown(&key), gguf.text(&key)) {
        (_, Some("none")) => return Ok(RopeScaling::None),
        (None, _) | (_, Some("linear")) => {}
        (Some(found), _) => {
            let problem = format!("`{key}` is {found}, expected \"none\" or \"linear\"");
            return Err(ConfigError::new(problem).with_hint(OTHER_STRETCHING));
        }
    }
    let keys = ["rope.scaling.factor", "rope.scale_linear"].map(|key| format!("{arch}.{key}"));
    let Some(key) = keys.iter().find(|key| gguf.shown(key).is_some()) else { return Ok(RopeScaling::None) };
    match gguf.number(key) {
        Some(0.0 | 1.0) => Ok(RopeScaling::None),
        Some(factor) if factor.is_finite() && factor > 0.0 => Ok(RopeScaling::Linear { factor }),
        _ => {
            let found = gguf.shown(key).unwrap_or_default();
            Err(ConfigError::new(format!("`{key}` is {found}, expected a number above zero")))
        }
    }
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

/// `layer_types` of the types that read it: each layer sees all before it, or a window of it.
fn check_layer_types(
    keys: &Keys<'_>,
    model_type: &str,
    layers: usize,
    window: Option<usize>,
) -> Result<(), ConfigError> {
    let Some(types) = keys.present("layer_types").filter(|_| model_type != "llama") else { return Ok(()) };
    let list = types.as_array().filter(|list| list.len() == layers);
    let list = list.ok_or_else(|| keys.wrong("layer_types", &format!("a list of {layers}")))?;
    for (layer, found) in list.iter().enumerate() {
        match found.as_str() {
            Some("full_attention") => {}
            Some("sliding_attention") if window.is_some() => {}
            Some("sliding_attention") => {
                let problem = format!(
                    "`layer_types` has \"sliding_attention\" for layer {layer}, but no `sliding_window` is active"
                );
                return Err(ConfigError::new(problem).with_hint(
                    "give `sliding_window` (and for qwen2 and qwen3 \"use_sliding_window\": true), or make it \"full_attention\"",
                ));
            }
            _ => {
                let problem = format!(
                    "`layer_types` has {found} for layer {layer}, expected \"full_attention\" or \"sliding_attention\""
                );
                return Err(ConfigError::new(problem).with_hint(OTHER_COMPUTATION));
            }
        }
    }
    Ok(())
}

fn rope_from_json(json: &Map<String, Value>) -> Result<Rope, ConfigError> {
    // transformers 5 keeps theta beside the scaling; before, theta stood at the top.
    let theta = Keys(json).number("rope_theta")?.unwrap_or(10_000.0);
    let of_key = |key: &str| match json.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(parameters)) if parameters.is_empty() => Ok(None),
        Some(Value::Object(parameters)) => rope_from_parameters(key, parameters, theta).map(Some),
        Some(_) => Err(Keys(json).wrong(key, "null or an object with `rope_type`")),
    };
    match (of_key("rope_parameters")?, of_key("rope_scaling")?) {
        (Some(new), Some(old)) if new != old => Err(ConfigError::new(
            "`rope_parameters` and `rope_scaling` are both there and say different things",
        )
        .with_hint("take out the one that is not meant: transformers 5 takes `rope_scaling`")),
        (Some(rope), _) | (None, Some(rope)) => Ok(rope),
        (None, None) => Ok(Rope { theta, scaling: RopeScaling::None }),
    }
}

/// The rotation that the value `parameters` of `of` says, with `theta` unless it has its own.
fn rope_from_parameters(of: &str, parameters: &Map<String, Value>, theta: f64) -> Result<Rope, ConfigError> {
    let keys = Keys(parameters);
    if let Some((key, value)) = parameters.iter().find(|(_, value)| value.is_object()) {
        let problem = format!("`{of}`: `{key}` is {value}, expected one rotation for all layers");
        return Err(ConfigError::new(problem).with_hint(OTHER_COMPUTATION));
    }
    let theta = keys.number("rope_theta")?.unwrap_or(theta);
    if !keys.number("partial_rotary_factor")?.is_none_or(|part| part == 1.0) {
        return Err(keys.wrong("partial_rotary_factor", "1").with_hint(OTHER_COMPUTATION));
    }
    let needed = |key: &str| {
        keys.number(key)?
            .ok_or_else(|| ConfigError::new(format!("`{of}`: `{key}` is missing, expected a number")))
    };
    // `type` is what it was called first.
    let kind = ["rope_type", "type"].into_iter().find_map(|key| Some((key, keys.present(key)?)));
    let scaling = match kind.map(|(key, value)| (key, value.as_str())) {
        None | Some((_, Some("default"))) => RopeScaling::None,
        Some((_, Some("linear"))) => RopeScaling::Linear { factor: needed("factor")? },
        Some((_, Some("llama3"))) => RopeScaling::Llama3 {
            factor: needed("factor")?,
            low_freq_factor: needed("low_freq_factor")?,
            high_freq_factor: needed("high_freq_factor")?,
            original_max_position_embeddings: needed("original_max_position_embeddings")?,
        },
        Some((key, _)) => {
            let expected = "\"default\", \"linear\" or \"llama3\"";
            return Err(keys.wrong(key, expected).with_hint(OTHER_STRETCHING));
        }
    };
    Ok(Rope { theta, scaling })
}

/// Hidden, intermediate, layers, query heads, key/value heads, head size, vocabulary, theta, context, tied.
type Shape = (usize, usize, usize, usize, usize, usize, usize, f64, usize, bool);

/// Published shapes by name, with their model type.
#[rustfmt::skip]
const NAMED: [(&str, &str, Shape); 12] = [
    ("smollm2-135m", "llama", (576, 1536, 30, 9, 3, 64, 49_152, 1e5, 8192, true)),
    ("smollm2-360m", "llama", (960, 2560, 32, 15, 5, 64, 49_152, 1e5, 8192, true)),
    ("smollm2-1.7b", "llama", (2048, 8192, 24, 32, 32, 64, 49_152, 1.3e5, 8192, true)),
    ("tinyllama-1.1b", "llama", (2048, 5632, 22, 32, 4, 64, 32_000, 1e4, 2048, false)),
    ("llama-2-7b", "llama", (4096, 11_008, 32, 32, 32, 128, 32_000, 1e4, 4096, false)),
    ("llama-2-13b", "llama", (5120, 13_824, 40, 40, 40, 128, 32_000, 1e4, 4096, false)),
    ("llama-3.1-8b", "llama", (4096, 14_336, 32, 32, 8, 128, 128_256, 5e5, 131_072, false)),
    ("mistral-7b", "mistral", (4096, 14_336, 32, 32, 8, 128, 32_768, 1e6, 32_768, false)),
    ("qwen2.5-7b", "qwen2", (3584, 18_944, 28, 28, 4, 128, 152_064, 1e6, 32_768, false)),
    ("gemma-2-9b", "gemma2", (3584, 14_336, 42, 16, 8, 256, 256_000, 1e4, 8192, true)),
    ("phi-3-mini", "phi3", (3072, 8192, 32, 32, 32, 96, 32_064, 1e4, 4096, false)),
    ("qwen3-8b", "qwen3", (4096, 12_288, 36, 32, 8, 128, 151_936, 1e6, 40_960, false)),
];

impl Config {
    /// A published shape by name.
    pub fn named(name: &str) -> Option<Self> {
        let (_, model_type, shape) = NAMED.iter().find(|(n, ..)| *n == name)?;
        let (hidden, inner, layers, heads, kv_heads, head_dim, vocab, theta, context, tied) = *shape;
        Some(Config {
            model_type: (*model_type).to_owned(),
            hidden_size: hidden,
            intermediate_size: inner,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            vocab_size: vocab,
            rms_norm_eps: if model_type.starts_with("qwen") { 1e-6 } else { 1e-5 },
            rope: Rope {
                theta,
                scaling: if name == "llama-3.1-8b" {
                    RopeScaling::Llama3 {
                        factor: 8.0,
                        low_freq_factor: 1.0,
                        high_freq_factor: 4.0,
                        original_max_position_embeddings: 8192.0,
                    }
                } else {
                    RopeScaling::None
                },
            },
            tie_word_embeddings: tied,
            attention_bias: *model_type == "qwen2",
            attention_output_bias: false,
            mlp_bias: false,
            qk_norm: *model_type == "qwen3",
            max_position_embeddings: context,
            sliding_window: None,
            initializer_range: INITIALIZER_RANGE,
        })
    }

    /// Whether the model can be computed, and not only planned.
    pub fn is_supported(&self) -> bool {
        !matches!(self.model_type.as_str(), "gemma2" | "phi3")
    }

    /// The names [`Config::named`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMED.iter().map(|(name, ..)| *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Totals of the models' safetensors indexes and cards.
    #[test]
    fn named_shapes_have_their_published_number_of_parameters() {
        for (name, parameters) in [
            ("smollm2-135m", 134_515_008),
            ("smollm2-360m", 361_821_120),
            ("smollm2-1.7b", 1_711_376_384),
            ("tinyllama-1.1b", 1_100_048_384),
            ("llama-2-7b", 6_738_415_616),
            ("llama-2-13b", 13_015_864_320),
            ("llama-3.1-8b", 8_030_261_248),
            ("mistral-7b", 7_248_023_552),
            ("qwen2.5-7b", 7_615_616_512),
            ("gemma-2-9b", 9_241_705_984),
            ("phi-3-mini", 3_821_079_552),
            ("qwen3-8b", 8_190_735_360),
        ] {
            assert_eq!(Config::named(name).expect("a name").parameters(), parameters, "{name}");
        }
        assert_eq!(Config::names().filter(|n| Config::named(n).is_some()).count(), NAMED.len());
        assert!(Config::named("gpt-5").is_none());
    }

    fn json(change: &str) -> String {
        let base = r#""model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "vocab_size": 96"#;
        format!("{{{base}{change}}}")
    }

    #[test]
    fn absent_keys_have_the_defaults_of_transformers() {
        let config = Config::from_hf_json(&json("")).expect("valid");
        assert_eq!((config.num_key_value_heads, config.head_dim, config.rms_norm_eps), (4, 16, 1e-6));
        assert_eq!(config.rope, Rope { theta: 10_000.0, scaling: RopeScaling::None });
        assert!(!config.tie_word_embeddings && !config.attention_bias);
    }

    #[test]
    fn damage_is_named() {
        for (change, message) in [
            (r#", "vocab_size": 0"#, "`vocab_size` is 0, expected a whole number from 1 to 16777216"),
            (
                r#", "hidden_size": "big""#,
                "`hidden_size` is \"big\", expected a whole number from 1 to 16777216",
            ),
            (r#", "num_key_value_heads": 3"#, "3 key/value heads do not divide 4 query heads"),
            (r#", "head_dim": 15"#, "`head_dim` is 15, expected an even number"),
            (r#", "hidden_act": "gelu""#, "`hidden_act` is \"gelu\", expected \"silu\""),
            (r#", "model_type": "gpt2""#, "`model_type` is \"gpt2\", expected a supported architecture"),
            (
                r#", "rope_scaling": {"rope_type": "yarn"}"#,
                "`rope_type` is \"yarn\", expected \"default\", \"linear\" or \"llama3\"",
            ),
            (r#", "rms_norm_eps": -1"#, "`rms_norm_eps` is -1, expected a number above zero"),
        ] {
            let error = Config::from_hf_json(&json(change)).expect_err(change);
            assert_eq!(error.to_string(), message);
        }
        assert!(Config::from_hf_json("[").expect_err("not JSON").to_string().starts_with("not JSON"));
    }
}
