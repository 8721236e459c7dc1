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
#[error("{0}")]
pub struct ConfigError(String);

impl ConfigError {
    pub(crate) fn new(problem: &str) -> Self {
        ConfigError(problem.to_owned())
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        if self.0.starts_with("`quantization_config`") {
            return Some(
                "take the model it was made from, in BF16, with --quant nf4 or int8; or a GGUF file of it"
                    .to_owned(),
            );
        }
        self.0.contains("model_type").then(|| format!("supported: {}", MODEL_TYPES.join(", ")))
    }
}

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
        ConfigError(format!("`{key}` is {found}, expected {expected}"))
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
            serde_json::from_str(text).map_err(|e| ConfigError(format!("not JSON: {e}")))?;
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
        let config = Config {
            model_type: model_type.to_owned(),
            hidden_size,
            intermediate_size: keys.size("intermediate_size")?,
            num_hidden_layers: keys.size("num_hidden_layers")?,
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
            sliding_window: if windowed { keys.optional_size("sliding_window")? } else { None },
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
        let arch = gguf.text("general.architecture").unwrap_or("");
        if !["llama", "qwen2", "qwen3"].contains(&arch) {
            return Err(ConfigError(format!(
                "`general.architecture` (model_type) is \"{arch}\", expected a supported architecture"
            )));
        }
        let size = |key: &str| -> Result<Option<usize>, ConfigError> {
            let key = format!("{arch}.{key}");
            let Some(value) = gguf.integer(&key) else { return Ok(None) };
            let range = format!("`{key}` is {value}, expected a whole number from 1 to {MAX_SIZE}");
            u64::try_from(value)
                .ok()
                .filter(|n| (1..=MAX_SIZE).contains(n))
                .map(|n| Some(n as usize))
                .ok_or(ConfigError(range))
        };
        let needed = |key: &str| size(key)?.ok_or_else(|| ConfigError(format!("`{arch}.{key}` is missing")));
        let number = |key: &str| -> Result<Option<f64>, ConfigError> {
            let key = format!("{arch}.{key}");
            let Some(value) = gguf.number(&key) else { return Ok(None) };
            let wrong = || ConfigError(format!("`{key}` is {value}, expected a number above zero"));
            Some(value).filter(|n| n.is_finite() && *n > 0.0).map(Some).ok_or_else(wrong)
        };
        let hidden_size = needed("embedding_length")?;
        let num_attention_heads = needed("attention.head_count")?;
        let vocab_size = match gguf.shape("token_embd.weight") {
            Some([rows, _]) => *rows,
            _ => return Err(ConfigError("the tensor token_embd.weight is missing".into())),
        };
        let scaling = match (gguf.text(&format!("{arch}.rope.scaling.type")), number("rope.scaling.factor")?)
        {
            (None | Some("none"), _) => RopeScaling::None,
            (Some("linear"), Some(factor)) => RopeScaling::Linear { factor },
            (Some(other), _) => return Err(ConfigError(format!("rope scaling `{other}` is not supported"))),
        };
        let head_dim = size("attention.key_length")?.unwrap_or(hidden_size / num_attention_heads);
        if let Some(rotated) = size("rope.dimension_count")?.filter(|&n| n != head_dim) {
            return Err(ConfigError(format!(
                "`{arch}.rope.dimension_count` is {rotated}, expected the whole head of {head_dim}"
            )));
        }
        let divisors = gguf.floats("rope_freqs.weight");
        // Of a header alone they are not there, nor asked for.
        if gguf.tensor("rope_freqs.weight").is_some_and(|t| t.format != Format::F32) {
            return Err(ConfigError("rope_freqs.weight is not stored as F32".into()));
        }
        let scaling = match divisors {
            Some(divisors) if divisors.len() != head_dim / 2 => {
                let message =
                    format!("rope_freqs.weight has {} values, expected {}", divisors.len(), head_dim / 2);
                return Err(ConfigError(message));
            }
            Some(divisors) => match divisors.iter().find(|d| !d.is_finite() || **d <= 0.0) {
                Some(wrong) => {
                    let message = format!("rope_freqs.weight has {wrong}, expected numbers above zero");
                    return Err(ConfigError(message));
                }
                None => RopeScaling::Divisors(divisors),
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
            sliding_window: None,
            initializer_range: INITIALIZER_RANGE,
        };
        config.checked()
    }

    fn checked(self) -> Result<Self, ConfigError> {
        let Config { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } = self;
        if heads % kv_heads != 0 {
            return Err(ConfigError(format!("{kv_heads} key/value heads do not divide {heads} query heads")));
        }
        // From GGUF it is a dimension of the embedding, which nothing has looked at yet.
        if !(1..=MAX_SIZE).contains(&(self.vocab_size as u64)) {
            return Err(ConfigError(format!(
                "the vocabulary has {} tokens, expected 1 to {MAX_SIZE}",
                self.vocab_size
            )));
        }
        if head_dim == 0 || head_dim % 2 != 0 {
            return Err(ConfigError(format!("`head_dim` is {head_dim}, expected an even number")));
        }
        if self.num_hidden_layers > 4096 || heads as u64 * head_dim as u64 > MAX_SIZE {
            return Err(ConfigError(format!(
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

fn rope_from_json(json: &Map<String, Value>) -> Result<Rope, ConfigError> {
    let object = |key: &str| json.get(key).and_then(Value::as_object);
    // transformers 5 keeps theta beside the scaling; before, theta stood at the top.
    let parameters = object("rope_parameters").or(object("rope_scaling"));
    let theta = match parameters.map(|p| Keys(p).number("rope_theta")).transpose()?.flatten() {
        Some(theta) => theta,
        None => Keys(json).number("rope_theta")?.unwrap_or(10_000.0),
    };
    let Some(parameters) = parameters else { return Ok(Rope { theta, scaling: RopeScaling::None }) };
    let keys = Keys(parameters);
    let needed = |key: &str| keys.number(key)?.ok_or_else(|| keys.wrong(key, "a number"));
    let kind = parameters.get("rope_type").or(parameters.get("type")).and_then(Value::as_str);
    let scaling = match kind {
        None | Some("default") => RopeScaling::None,
        Some("linear") => RopeScaling::Linear { factor: needed("factor")? },
        Some("llama3") => RopeScaling::Llama3 {
            factor: needed("factor")?,
            low_freq_factor: needed("low_freq_factor")?,
            high_freq_factor: needed("high_freq_factor")?,
            original_max_position_embeddings: needed("original_max_position_embeddings")?,
        },
        Some(_) => return Err(keys.wrong("rope_type", "\"default\", \"linear\" or \"llama3\"")),
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
