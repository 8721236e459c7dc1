//! The architectures, one file each: what its `config.json` and its GGUF metadata say, the parts of its blocks, and its
//! published shapes. Nothing outside of this folder names one.

use lorafit_remedy::{Setting, remedy};
use serde_json::{Map, Value, json};

use crate::files::{Gguf, GgufEntry};
use crate::shape::{Arch, Config, Names, Rope};

mod blocks;
mod cohere2;
mod error;
mod gemma2;
mod gemma3;
mod gguf;
mod glm4;
mod gpt2;
mod granite;
mod hf;
mod llama;
mod ministral;
mod ministral3;
mod mistral;
mod olmo2;
mod olmo3;
mod phi3;
mod qwen2;
mod qwen3;
mod rope;
mod smollm3;
mod starcoder2;

pub use error::ConfigError;
use error::MAX_SIZE;
pub(crate) use gguf::reads_head;

/// Keys of GGUF metadata, without the architecture in front.
pub(crate) type GgufEntries = Vec<(&'static str, GgufEntry)>;
type FromGguf = fn(&gguf::Keys<'_>) -> Result<Config, ConfigError>;

/// What an architecture's file says.
struct Family {
    /// What others ask of it.
    arch: Arch,
    /// The class of transformers.
    class: &'static str,
    /// The class of transformers with a head that scores texts, if it has one.
    score_class: Option<&'static str>,
    /// Its shape from a `config.json`.
    from_json: fn(&hf::Keys<'_>) -> Result<Config, ConfigError>,
    /// Its shape from GGUF metadata; none where another architecture reads files of this kind.
    from_gguf: Option<FromGguf>,
    /// The keys of its `config.json` beside those that all have.
    to_json: fn(&Config) -> Value,
    /// The keys of its GGUF metadata beside those that all have, or why there is no such file.
    to_gguf: fn(&Config) -> Result<GgufEntries, String>,
    /// Published shapes.
    named: &'static [Named],
}

/// Every architecture.
const FAMILIES: [&Family; 17] = [
    &llama::FAMILY,
    &mistral::FAMILY,
    &ministral::FAMILY,
    &ministral3::FAMILY,
    &qwen2::FAMILY,
    &qwen3::FAMILY,
    &gemma2::FAMILY,
    &gemma3::FAMILY,
    &phi3::FAMILY,
    &smollm3::FAMILY,
    &granite::FAMILY,
    &olmo2::FAMILY,
    &olmo3::FAMILY,
    &glm4::FAMILY,
    &cohere2::FAMILY,
    &starcoder2::FAMILY,
    &gpt2::FAMILY,
];

/// What the file of `arch` says.
fn family(arch: Arch) -> &'static Family {
    FAMILIES.into_iter().find(|family| family.arch == arch).expect("every architecture is in the list")
}

/// The keys of GGUF metadata of this shape beside those that all have, or why a file cannot say it.
pub(crate) fn gguf_entries(config: &Config) -> Result<GgufEntries, String> {
    (family(config.arch).to_gguf)(config)
}

/// Every published shape.
fn all_named() -> impl Iterator<Item = (Arch, &'static Named)> {
    FAMILIES.into_iter().flat_map(|family| family.named.iter().map(|named| (family.arch, named)))
}

/// A published shape of every architecture.
fn one_of_each() -> impl Iterator<Item = Config> {
    FAMILIES.into_iter().map(|family| {
        let named = family.named.first().expect("every architecture has a published shape");
        named.config(family.arch)
    })
}

/// The paths in a block of the projections that any architecture has, each once.
pub(crate) fn known_paths() -> Vec<&'static str> {
    let mut names = Vec::new();
    for shape in one_of_each() {
        for module in shape.modules() {
            if !names.contains(&module.in_block()) {
                names.push(module.in_block());
            }
        }
    }
    names
}

/// The names of the norms that any architecture has, each once: `input_layernorm`.
pub(crate) fn known_norms() -> Vec<&'static str> {
    let mut names = Vec::new();
    for shape in one_of_each() {
        let last = shape.final_norm();
        for norm in shape.block(0).norms().chain([&last]) {
            let name = norm.name.hf.rsplit('.').next().unwrap_or(norm.name.hf);
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

impl Config {
    /// From the text of a `config.json`.
    ///
    /// # Errors
    /// Text that is not JSON, an unsupported model type, a missing key, a value out of range.
    pub fn from_hf_json(text: &str) -> Result<Self, ConfigError> {
        let json: Map<String, Value> =
            serde_json::from_str(text).map_err(|e| ConfigError::new(format!("not JSON: {e}")))?;
        let json = match json.get("text_config").and_then(Value::as_object) {
            Some(text) => return language_model(&json, text),
            None => json,
        };
        Config::of_keys(&json)
    }

    fn of_keys(json: &Map<String, Value>) -> Result<Self, ConfigError> {
        let keys = hf::Keys(json);
        let model_type = json.get("model_type").and_then(Value::as_str).unwrap_or("");
        let Some(family) = FAMILIES.into_iter().find(|family| family.arch.model_type() == model_type) else {
            return Err(keys.wrong("model_type", "a supported architecture"));
        };
        checked((family.from_json)(&keys)?)
    }

    /// From the metadata and tensors of a GGUF file.
    ///
    /// # Errors
    /// As [`Config::from_hf_json`].
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, ConfigError> {
        if let Some(kind) = gguf.text("general.type").filter(|kind| *kind != "model") {
            let problem =
                format!("`general.type` is \"{kind}\", expected \"model\": the file is not a whole model");
            return Err(ConfigError::new(problem).with_hint(match kind {
                "adapter" => remedy![
                    "pass the base it was made for as ", Setting::Model;
                    "give the adapter in PEFT's format, a folder, as ", Setting::Adapter
                ],
                _ => "pass the file of the language model itself".into(),
            }));
        }
        let found = gguf.text("general.architecture").unwrap_or("");
        let mut families = FAMILIES.into_iter();
        let read = families.find_map(|family| {
            Some((family.arch.gguf(), family.from_gguf?)).filter(|(name, _)| *name == found)
        });
        let Some((arch, read)) = read else {
            return Err(ConfigError::new(format!(
                "`general.architecture` (model_type) is \"{found}\", expected a supported architecture"
            )));
        };
        checked(read(&gguf::Keys { gguf, arch })?)
    }

    /// As a `config.json` that [`Config::from_hf_json`] and transformers read as the same model.
    ///
    /// # Errors
    /// A shape that no configuration has.
    pub(crate) fn to_hf_json(&self) -> Result<Map<String, Value>, ConfigError> {
        let family = family(self.arch);
        // By their decimal digits: 1e-5 as f32 is 9.99999974e-6 as f64.
        let eps: f64 = self.norm_eps.to_string().parse().expect("a number");
        let json = json!({
            "architectures": [family.class],
            "model_type": self.arch.model_type(),
            "hidden_act": hf::activation_name(self.activation),
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab_size,
            "rms_norm_eps": eps,
            "rope_theta": self.rope.theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "max_position_embeddings": self.max_position_embeddings,
            "initializer_range": self.initializer_range.to_string().parse::<f64>().expect("a number"),
        });
        let (Value::Object(json), Value::Object(own)) = (json, (family.to_json)(self)) else {
            unreachable!("both are objects")
        };
        for scaling in rope::scalings_to_json(&self.rope.scaling, self.max_position_embeddings) {
            let mut json = json.clone();
            json.insert("rope_scaling".to_owned(), scaling);
            // A family may say more of its rotation.
            json.extend(own.clone());
            let again = Config::from_hf_json(&Value::Object(json.clone()).to_string())?;
            let close = |a: f32, b: f32| (a - b).abs() <= 1e-6 * a.abs();
            let (ours, read) = (self.rope_frequencies(), again.rope_frequencies());
            let rotated_alike = ours.iter().zip(&read).all(|(a, b)| close(*a, *b));
            if (Config { rope: self.rope.clone(), ..again } == *self) && rotated_alike {
                return Ok(json);
            }
        }
        let model_type = self.arch.model_type();
        Err(ConfigError::new(format!(
            "no config.json of {model_type} says what this file's metadata does, such as the rotation of its positions"
        ))
        .with_hint("merge into the model folder that the file was made from, or export to a GGUF file"))
    }

    /// The class of transformers that has such a decoder with a head that scores texts, if there is one.
    pub fn score_class(&self) -> Option<&'static str> {
        family(self.arch).score_class
    }

    /// A published shape by name.
    pub fn named(name: &str) -> Option<Self> {
        all_named().find(|(_, named)| named.name == name).map(|(arch, named)| named.config(arch))
    }

    /// The names [`Config::named`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        all_named().map(|(_, named)| named.name)
    }
}

/// The language model of several models in one, whose configuration is `text`. A head that is tied is known by the weights, so
/// that both places may say it.
fn language_model(all: &Map<String, Value>, text: &Map<String, Value>) -> Result<Config, ConfigError> {
    let mut keys = text.clone();
    let gemma3 = all.get("model_type").and_then(Value::as_str) == Some("gemma3");
    if gemma3 {
        keys.entry("model_type").or_insert_with(|| json!("gemma3_text"));
    }
    let tied = |keys: &Map<String, Value>| keys.get("tie_word_embeddings").and_then(Value::as_bool);
    keys.insert("tie_word_embeddings".to_owned(), json!(tied(all).or(tied(text)).unwrap_or(true)));
    if let Some(quantized) = all.get("quantization_config") {
        keys.entry("quantization_config").or_insert_with(|| quantized.clone());
    }
    let found = keys.get("model_type").cloned().unwrap_or_default();
    let config = Config::of_keys(&keys).map_err(|error| error.within("text_config"))?;
    match config.names == Names::USUAL {
        true => Ok(Config { names: Names::OF_SEVERAL, ..config }),
        false => Err(ConfigError::new(format!(
            "`text_config`: `model_type` is {found}, which is supported only by itself"
        ))),
    }
}

/// A published shape.
struct Named {
    name: &'static str,
    /// Hidden, intermediate, layers, query heads, key and value heads, head size, vocabulary, context.
    sizes: [usize; 8],
    theta: f64,
    /// The head is the embedding.
    tied: bool,
    /// What is its own.
    own: fn(Config) -> Config,
}

impl Named {
    /// The one called `name`, with these sizes and nothing of its own.
    const fn new(name: &'static str, sizes: [usize; 8], theta: f64, tied: bool) -> Self {
        Named { name, sizes, theta, tied, own: |config| config }
    }

    fn config(&self, arch: Arch) -> Config {
        let [
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            heads,
            kv_heads,
            head_dim,
            vocab_size,
            context,
        ] = self.sizes;
        (self.own)(Config {
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            vocab_size,
            rope: Rope::plain(self.theta),
            tie_word_embeddings: self.tied,
            max_position_embeddings: context,
            ..Config::plain(arch)
        })
    }
}

/// Sizes that no architecture can have are refused.
fn checked(config: Config) -> Result<Config, ConfigError> {
    let Config { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, vocab_size, .. } =
        config;
    if heads % kv_heads != 0 {
        return Err(ConfigError::new(format!(
            "{kv_heads} key/value heads do not divide {heads} query heads"
        )));
    }
    // From GGUF it is a dimension of the embedding, which nothing has looked at yet.
    if !(1..=MAX_SIZE).contains(&(vocab_size as u64)) {
        return Err(ConfigError::new(format!(
            "the vocabulary has {vocab_size} tokens, expected 1 to {MAX_SIZE}"
        )));
    }
    if head_dim == 0 || head_dim % 2 != 0 {
        return Err(ConfigError::new(format!("`head_dim` is {head_dim}, expected an even number")));
    }
    if config.num_hidden_layers > 4096 || heads as u64 * head_dim as u64 > MAX_SIZE {
        return Err(ConfigError::new(format!(
            "{} layers of {heads} heads of {head_dim}: larger than any model",
            config.num_hidden_layers
        )));
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::RopeScaling;

    /// Totals of the models' safetensors files and cards; of Gemma 3 from 4B on without the vision tower and the projector (416,866,032
    /// and `1152 (hidden + 1)` values).
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
            ("gemma-3-1b", 999_885_952),
            ("gemma-3-4b", 4_300_079_472 - 416_866_032 - 1152 * 2561),
            ("gemma-3-12b", 12_187_325_040 - 416_866_032 - 1152 * 3841),
            ("gemma-3-27b", 27_432_406_640 - 416_866_032 - 1152 * 5377),
            ("phi-4-mini", 3_836_021_760),
            ("phi-4", 14_659_507_200),
            ("smollm3-3b", 3_075_098_624),
            ("granite-3.3-2b", 2_533_539_840),
            ("olmo-2-1b", 1_484_916_736),
            ("olmo-2-7b", 7_298_617_344),
            ("olmo-3-7b", 7_298_011_136),
            ("glm-4-9b", 9_400_279_040),
            ("command-r7b", 8_028_033_024),
            ("starcoder2-3b", 3_030_371_328),
            ("ministral-8b", 8_019_808_256),
            ("gpt2", 124_439_808),
            ("gpt2-medium", 354_823_168),
            ("gpt2-large", 774_030_080),
            ("gpt2-xl", 1_557_611_200),
        ] {
            assert_eq!(Config::named(name).expect("a name").parameters(), parameters, "{name}");
        }
        let names: std::collections::HashSet<&str> = Config::names().collect();
        assert_eq!(names.len(), Config::names().count(), "no name is there twice");
        assert!(Config::named("gpt-5").is_none());
    }

    fn json(change: &str) -> String {
        let base = r#""model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "vocab_size": 96"#;
        format!("{{{base}{change}}}")
    }

    #[test]
    fn no_two_architectures_have_one_name() {
        let names: std::collections::HashSet<&str> =
            FAMILIES.into_iter().map(|family| family.arch.model_type()).collect();
        assert_eq!(names.len(), FAMILIES.len());
    }

    #[test]
    fn absent_keys_have_the_defaults_of_transformers() {
        let config = Config::from_hf_json(&json("")).expect("valid");
        assert_eq!((config.num_key_value_heads, config.head_dim, config.norm_eps), (4, 16, 1e-6));
        assert_eq!(config.rope, Rope::plain(10_000.0));
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
            (r#", "model_type": "gptj""#, "`model_type` is \"gptj\", expected a supported architecture"),
            (
                r#", "rope_scaling": {"rope_type": "ntk"}"#,
                "`rope_type` is \"ntk\", expected \"default\", \"linear\", \"dynamic\", \"llama3\", \"yarn\" or \"longrope\"",
            ),
            (r#", "rms_norm_eps": -1"#, "`rms_norm_eps` is -1, expected a number above zero"),
        ] {
            let error = Config::from_hf_json(&json(change)).expect_err(change);
            assert_eq!(error.to_string(), message);
        }
        assert!(Config::from_hf_json("[").expect_err("not JSON").to_string().starts_with("not JSON"));
    }

    #[test]
    fn a_configuration_is_read_as_it_was_written() {
        for name in Config::names() {
            let config = Config::named(name).expect("a name");
            let json = config.to_hf_json().unwrap_or_else(|e| panic!("{name}: {e}"));
            let read = Config::from_hf_json(&Value::Object(json).to_string()).expect("reads");
            assert_eq!(read, config, "{name}");
        }
    }

    #[test]
    fn divisors_become_what_they_are_computed_from_or_those_of_longrope() {
        let config = Config::named("llama-3.1-8b").expect("a name");
        let plain =
            Config { rope: Rope { scaling: RopeScaling::None, ..config.rope.clone() }, ..config.clone() };
        let frequencies = plain.rope_frequencies().into_iter().zip(config.rope_frequencies());
        let mut divisors: Vec<f32> = frequencies.map(|(plain, scaled)| plain / scaled).collect();
        let with = |divisors: &[f32]| {
            let scaling = RopeScaling::Divisors(divisors.to_vec());
            Config { rope: Rope { scaling, ..config.rope.clone() }, ..config.clone() }
        };
        assert_eq!(with(&divisors).to_hf_json().expect("known")["rope_scaling"]["factor"], json!(8.0));
        // Any others are LongRoPE's.
        divisors[40] *= 1.1;
        let other = with(&divisors);
        let json = other.to_hf_json().expect("said");
        assert_eq!(json["rope_scaling"]["rope_type"], json!("longrope"));
        let again = Config::from_hf_json(&Value::Object(json).to_string()).expect("read");
        assert_eq!(again.rope_frequencies(), other.rope_frequencies());
    }
}
