//! Rotary frequencies as `config.json` and GGUF files say them.

use lorafit_kernels::ops::rope::Pairs;
use lorafit_kernels::quant::Format;
use serde_json::{Value, json};

use super::error::{ConfigError, OTHER_COMPUTATION, OTHER_STRETCHING};
use super::gguf;
use super::hf::Keys;
use crate::files::json_number;
use crate::shape::{Rope, RopeScaling};

/// What an architecture has where its `config.json` says nothing.
pub(super) struct Defaults {
    pub theta: f64,
    /// The part of a head that is rotated; none where it is always the whole.
    pub partial: Option<f64>,
    pub pairs: Pairs,
}

impl Defaults {
    /// Whole heads in halves.
    pub(super) const USUAL: Defaults = Defaults { theta: 10_000.0, partial: None, pairs: Pairs::Halves };
}

/// The rotation of a `config.json`, for heads of `head_dim` values.
pub(super) fn from_json(keys: &Keys<'_>, head_dim: usize, defaults: &Defaults) -> Result<Rope, ConfigError> {
    // transformers 5 keeps theta beside the scaling; before, theta stood at the top.
    let theta = keys.number("rope_theta")?.unwrap_or(defaults.theta);
    let plain = || {
        let dims = dims(keys, keys, head_dim, defaults)?;
        Ok(Rope { theta, scaling: RopeScaling::None, dims, pairs: defaults.pairs })
    };
    let of_key = |key: &str| match keys.present(key) {
        None => Ok(None),
        Some(Value::Object(parameters)) if parameters.is_empty() => Ok(None),
        Some(Value::Object(parameters)) => {
            if let Some((name, value)) = parameters.iter().find(|(_, value)| value.is_object()) {
                let problem = format!("`{key}`: `{name}` is {value}, expected one rotation for all layers");
                return Err(ConfigError::new(problem).with_hint(OTHER_COMPUTATION));
            }
            let parameters = Parameters { of: key, keys: Keys(parameters), top: keys };
            parameters.rope(theta, head_dim, defaults).map(Some)
        }
        Some(_) => Err(keys.wrong(key, "null or an object with `rope_type`")),
    };
    match (of_key("rope_parameters")?, of_key("rope_scaling")?) {
        (Some(new), Some(old)) if new != old => Err(ConfigError::new(
            "`rope_parameters` and `rope_scaling` are both there and say different things",
        )
        .with_hint(TWO_WORDS)),
        (Some(rope), _) | (None, Some(rope)) => Ok(rope),
        (None, None) => plain(),
    }
}

/// As [`from_json`], of Phi-3, for which `su` and `yarn` are other words for `longrope`, and nothing else is known.
pub(super) fn from_json_of_long(
    keys: &Keys<'_>,
    head_dim: usize,
    defaults: &Defaults,
) -> Result<Rope, ConfigError> {
    let mut json = keys.0.clone();
    for key in ["rope_parameters", "rope_scaling"] {
        let Some(Value::Object(parameters)) = json.get_mut(key) else { continue };
        for name in ["rope_type", "type"] {
            if parameters.get(name).is_some_and(|kind| ["su", "yarn"].iter().any(|word| kind == word)) {
                parameters.insert(name.to_owned(), json!("longrope"));
            }
        }
    }
    let rope = from_json(&Keys(&json), head_dim, defaults)?;
    match rope.scaling {
        RopeScaling::None | RopeScaling::Long { .. } => Ok(rope),
        _ => {
            let key = ["rope_scaling", "rope_parameters"].into_iter().find(|key| keys.present(key).is_some());
            Err(keys.wrong(key.unwrap_or("rope_scaling"), "the rope_type \"default\" or \"longrope\""))
        }
    }
}

/// The rotations of the layers without and with a window, where `rope_parameters` has one for each; none where it does not.
pub(super) fn by_layer_type(
    keys: &Keys<'_>,
    head_dim: usize,
    defaults: [&Defaults; 2],
) -> Result<Option<[Rope; 2]>, ConfigError> {
    const TYPES: [&str; 2] = ["full_attention", "sliding_attention"];
    let Some(Value::Object(types)) = keys.present("rope_parameters") else { return Ok(None) };
    if types.is_empty() {
        return Ok(None);
    }
    if !types.values().any(Value::is_object) {
        return Err(keys.wrong(
            "rope_parameters",
            "a rotation for each of \"full_attention\" and \"sliding_attention\"",
        ));
    }
    if keys.present("rope_scaling").is_some() {
        return Err(
            ConfigError::new("`rope_parameters` and `rope_scaling` are both there").with_hint(TWO_WORDS)
        );
    }
    let of_type =
        |(name, defaults): (&'static str, &Defaults)| match types.get(name) {
            Some(Value::Object(parameters)) => Parameters { of: name, keys: Keys(parameters), top: keys }
                .rope(defaults.theta, head_dim, defaults),
            _ => Ok(Rope { pairs: defaults.pairs, ..Rope::plain(defaults.theta) }),
        };
    let [full, local] = TYPES;
    Ok(Some([of_type((full, defaults[0]))?, of_type((local, defaults[1]))?]))
}

/// The rotated part of a head.
fn dims(
    keys: &Keys<'_>,
    top: &Keys<'_>,
    head_dim: usize,
    defaults: &Defaults,
) -> Result<Option<usize>, ConfigError> {
    const KEY: &str = "partial_rotary_factor";
    let (found, holder) = match keys.number(KEY)? {
        Some(part) => (Some(part), keys),
        None => (top.number(KEY)?, top),
    };
    let part = match defaults.partial {
        None if found.is_none_or(|part| part == 1.0) => return Ok(None),
        None => return Err(holder.wrong(KEY, "1").with_hint(OTHER_COMPUTATION)),
        Some(default) => found.unwrap_or(default),
    };
    let dims = (head_dim as f64 * part) as usize;
    match dims {
        _ if dims == head_dim => Ok(None),
        dims if dims > 0 && dims < head_dim && dims.is_multiple_of(2) => Ok(Some(dims)),
        _ => Err(holder.wrong(KEY, "a part of a head with an even number of values")),
    }
}

/// The keys of one rotation, and those at the top of the file.
struct Parameters<'a> {
    of: &'a str,
    keys: Keys<'a>,
    top: &'a Keys<'a>,
}

impl Parameters<'_> {
    fn rope(&self, theta: f64, head_dim: usize, defaults: &Defaults) -> Result<Rope, ConfigError> {
        let theta = self.keys.number("rope_theta")?.unwrap_or(theta);
        let dims = dims(&self.keys, self.top, head_dim, defaults)?;
        let scaling = self.scaling(dims.unwrap_or(head_dim) / 2)?;
        Ok(Rope { theta, scaling, dims, pairs: defaults.pairs })
    }

    fn needed(&self, key: &str) -> Result<f64, ConfigError> {
        let missing = || ConfigError::new(format!("`{}`: `{key}` is missing, expected a number", self.of));
        self.keys.number(key)?.ok_or_else(missing)
    }

    fn scaling(&self, pairs: usize) -> Result<RopeScaling, ConfigError> {
        // `type` is what it was called first.
        let kind = ["rope_type", "type"].into_iter().find_map(|key| Some((key, self.keys.present(key)?)));
        Ok(match kind.map(|(key, value)| (key, value.as_str())) {
            None | Some((_, Some("default"))) => RopeScaling::None,
            Some((_, Some("linear"))) => RopeScaling::Linear { factor: self.needed("factor")? },
            Some((_, Some("dynamic"))) => RopeScaling::Dynamic {
                factor: self.needed("factor")?,
                original_max_position_embeddings: self.context()?,
            },
            Some((_, Some("llama3"))) => RopeScaling::Llama3 {
                factor: self.needed("factor")?,
                low_freq_factor: self.needed("low_freq_factor")?,
                high_freq_factor: self.needed("high_freq_factor")?,
                original_max_position_embeddings: match self.original()? {
                    Some(original) => original,
                    None => self.needed(ORIGINAL)?,
                },
            },
            Some((_, Some("yarn"))) => self.yarn()?,
            Some((_, Some("longrope" | "su"))) => self.longrope(pairs)?,
            Some((key, _)) => {
                let expected = "\"default\", \"linear\", \"dynamic\", \"llama3\", \"yarn\" or \"longrope\"";
                return Err(self.keys.wrong(key, expected).with_hint(OTHER_STRETCHING));
            }
        })
    }

    /// The context that the model was made for.
    fn context(&self) -> Result<f64, ConfigError> {
        let missing = || ConfigError::new("`max_position_embeddings` is missing, expected a number");
        self.top.number("max_position_embeddings")?.ok_or_else(missing)
    }

    /// The context before stretching; what stands at the top of the file wins.
    fn original(&self) -> Result<Option<f64>, ConfigError> {
        Ok(self.top.number(ORIGINAL)?.or(self.keys.number(ORIGINAL)?))
    }

    fn yarn(&self) -> Result<RopeScaling, ConfigError> {
        let original = match self.original()? {
            Some(original) => original,
            None => self.context()?,
        };
        let factor = match self.keys.number("factor")? {
            Some(factor) => factor,
            None => self.context()? / original,
        };
        let part = |mscale: f64| yarn_part(factor, mscale);
        let number = |key: &str| self.keys.number_or_zero(key);
        let attention_factor =
            match (number("attention_factor")?, number("mscale")?, number("mscale_all_dim")?) {
                (Some(given), ..) => given,
                (None, Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => part(mscale) / part(all),
                _ => part(1.0),
            };
        Ok(RopeScaling::Yarn {
            factor,
            beta_fast: self.keys.number("beta_fast")?.unwrap_or(32.0),
            beta_slow: self.keys.number("beta_slow")?.unwrap_or(1.0),
            original_max_position_embeddings: original,
            truncate: self.keys.present("truncate").is_none_or(|value| value != &Value::Bool(false)),
            attention_factor,
        })
    }

    fn longrope(&self, pairs: usize) -> Result<RopeScaling, ConfigError> {
        let divisors = |key: &str| {
            let numbers = self.keys.present(key).and_then(Value::as_array);
            let read =
                numbers.map(|list| list.iter().map(|value| value.as_f64().map(|n| n as f32)).collect());
            let usable =
                |list: &Vec<f32>| list.len() == pairs && list.iter().all(|n| n.is_finite() && *n > 0.0);
            let found: Option<Vec<f32>> = read.flatten();
            found.filter(usable).ok_or_else(|| {
                ConfigError::new(format!(
                    "`{}`: `{key}` is not a list of {pairs} numbers above zero",
                    self.of
                ))
            })
        };
        let original = match self.original()? {
            Some(original) => original,
            None => self.context()?,
        };
        let factor = match self.keys.number("factor")? {
            Some(factor) => factor,
            None => self.context()? / original,
        };
        let usual = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
        Ok(RopeScaling::Long {
            short: divisors("short_factor")?,
            long: divisors("long_factor")?,
            original_max_position_embeddings: original,
            attention_factor: self.keys.number("attention_factor")?.unwrap_or(usual),
        })
    }
}

/// The `mscale` of YaRN as transformers has it, which attention factors are computed from.
fn yarn_part(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

const TWO_WORDS: &str = "take out the one that is not meant: transformers 5 takes `rope_scaling`";
pub(super) const ORIGINAL: &str = "original_max_position_embeddings";

/// `rope_scaling` of a `config.json`, in the forms that may say it, the most usual first.
///
/// GGUF files of Llama 3.1 and later have divisors instead of what they are computed from. Those of the published models are found
/// again; LongRoPE can say any others, with the same for short and long texts.
pub(super) fn scalings_to_json(scaling: &RopeScaling, context: usize) -> Vec<Value> {
    let mut forms = vec![scaling_to_json(scaling)];
    if let RopeScaling::Divisors(divisors) = scaling {
        forms.push(scaling_to_json(&RopeScaling::Long {
            short: divisors.clone(),
            long: divisors.clone(),
            original_max_position_embeddings: context as f64,
            attention_factor: 1.0,
        }));
    }
    forms
}

/// One of them. Divisors are taken for those of Llama 3.1, 8 or, of the small models, 32 for low frequencies.
pub(super) fn scaling_to_json(scaling: &RopeScaling) -> Value {
    let llama3 = |factor: f64, low: f64, high: f64, context: f64| {
        json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            ORIGINAL: json_number(context),
        })
    };
    match scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => llama3(*factor, *low_freq_factor, *high_freq_factor, *original_max_position_embeddings),
        RopeScaling::Dynamic { factor, .. } => json!({"rope_type": "dynamic", "factor": factor}),
        RopeScaling::Yarn {
            factor,
            beta_fast,
            beta_slow,
            original_max_position_embeddings,
            truncate,
            attention_factor,
        } => json!({
            "rope_type": "yarn",
            "factor": factor,
            "beta_fast": beta_fast,
            "beta_slow": beta_slow,
            ORIGINAL: json_number(*original_max_position_embeddings),
            "truncate": truncate,
            "attention_factor": attention_factor,
        }),
        RopeScaling::Long { short, long, original_max_position_embeddings, attention_factor } => json!({
            "rope_type": "longrope",
            "short_factor": short,
            "long_factor": long,
            ORIGINAL: json_number(*original_max_position_embeddings),
            "attention_factor": attention_factor,
        }),
        RopeScaling::Divisors(divisors) => {
            let largest = divisors.iter().copied().fold(1.0, f32::max);
            llama3(f64::from(largest), 1.0, 4.0, 8192.0)
        }
    }
}

/// The stretching of a GGUF file, as llama.cpp reads it: linear unless it says otherwise, by a factor under a new or an
/// old key, of which 0 is none.
fn from_gguf_keys(keys: &gguf::Keys<'_>) -> Result<RopeScaling, ConfigError> {
    let (gguf, key) = (keys.gguf, format!("{}.rope.scaling.type", keys.arch));
    let yarn = match (gguf.shown(&key), gguf.text(&key)) {
        (_, Some("none")) => return Ok(RopeScaling::None),
        (None, _) | (_, Some("linear" | "longrope")) => false,
        (_, Some("yarn")) => true,
        (Some(found), _) => {
            let problem =
                format!("`{key}` is {found}, expected \"none\", \"linear\", \"yarn\" or \"longrope\"");
            return Err(ConfigError::new(problem).with_hint(OTHER_STRETCHING));
        }
    };
    let names = ["rope.scaling.factor", "rope.scale_linear"];
    let Some(name) = names.into_iter().find(|name| keys.has_key(name)) else { return Ok(RopeScaling::None) };
    let factor = match keys.number_or_none(name)? {
        None | Some(1.0) => return Ok(RopeScaling::None),
        Some(factor) => factor,
    };
    if !yarn {
        return Ok(RopeScaling::Linear { factor });
    }
    Ok(RopeScaling::Yarn {
        factor,
        beta_fast: keys.number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
        beta_slow: keys.number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
        original_max_position_embeddings: match keys.number("rope.scaling.original_context_length")? {
            Some(original) => original,
            None => keys.needed("context_length")? as f64,
        },
        truncate: true,
        attention_factor: match keys.number_or_none(gguf::YARN_ALL_DIM)? {
            Some(all) => yarn_part(factor, 1.0) / yarn_part(factor, all),
            None => yarn_part(factor, 1.0),
        },
    })
}

/// The stretching of a GGUF file for heads of which `dims` values are rotated, divisors included.
pub(super) fn from_gguf(keys: &gguf::Keys<'_>, dims: usize) -> Result<RopeScaling, ConfigError> {
    const LONG: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];
    let scaling = from_gguf_keys(keys)?;
    if let [Some(short), Some(long)] = [divisors(keys, LONG[0], dims)?, divisors(keys, LONG[1], dims)?] {
        let original = keys.needed("rope.scaling.original_context_length")? as f64;
        let attention_factor = keys.number_or_none(gguf::LONG_FACTORS)?.unwrap_or(1.0);
        return Ok(RopeScaling::Long {
            short,
            long,
            original_max_position_embeddings: original,
            attention_factor,
        });
    }
    // llama.cpp divides by both.
    Ok(match (divisors(keys, "rope_freqs.weight", dims)?, scaling) {
        (None, scaling) => scaling,
        (Some(divisors), RopeScaling::Linear { factor }) => {
            RopeScaling::Divisors(divisors.iter().map(|d| d * factor as f32).collect())
        }
        (Some(divisors), _) => RopeScaling::Divisors(divisors),
    })
}

/// The tensor `name`, a divisor for each pair. Of a header alone it is not there, nor asked for.
fn divisors(keys: &gguf::Keys<'_>, name: &str, dims: usize) -> Result<Option<Vec<f32>>, ConfigError> {
    let divisors = keys.gguf.floats(name);
    if keys.gguf.tensor(name).is_some_and(|t| t.format != Format::F32) {
        return Err(ConfigError::new(format!("{name} is not stored as F32")));
    }
    let Some(divisors) = divisors else { return Ok(None) };
    if divisors.len() != dims / 2 {
        let message = format!("{name} has {} values, expected {}", divisors.len(), dims / 2);
        return Err(ConfigError::new(message));
    }
    if let Some(wrong) = divisors.iter().find(|d| !d.is_finite() || **d <= 0.0) {
        return Err(ConfigError::new(format!("{name} has {wrong}, expected numbers above zero")));
    }
    Ok(Some(divisors))
}
