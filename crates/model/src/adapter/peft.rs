//! Adapters as PEFT writes and reads them: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Tensors are `base_model.model.<path>.lora_A.weight` `[r, in]` and `.lora_B.weight` `[out, r]`, metadata
//! `{"format": "pt"}`. Loading is strict: a missing or unexpected tensor, another shape, or an option that
//! would change the result and is not supported here is an error.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use lorafit_kernels::quant::Format;
use lorafit_kernels::{Device, SharedBytes, Tensor};
use regex::Regex;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Map, Value, json};

use super::lora::{Adapter, LoraConfig};
use super::names::{self, FileNames, tensor_name};
use super::targets::{TargetError, Targets, path_pattern};
use super::{embeddings, marks};
use crate::error::FileError;
use crate::files::{
    MAX_CONFIG_BYTES, TensorData, TensorSource, header_error, inside, map, read_header, read_text,
    write_tensors,
};
use crate::shape::{Config, module_shape};
use crate::weights::ModelFiles;

/// The name of an adapter's configuration.
pub use crate::files::ADAPTER_CONFIG as CONFIG_FILE;
/// The name of the file of its factors.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// Writes `adapter` to the folder `dir`, which is made if needed. Each file is written beside its place and
/// then renamed, the configuration last, so that an interrupted save leaves the adapter that was there.
///
/// # Errors
/// A file that cannot be written, by name.
pub fn save(dir: &Path, adapter: &Adapter, base_model: &str) -> Result<(), FileError> {
    fs::create_dir_all(dir).map_err(|e| FileError::new(dir, format!("cannot make the folder: {e}")))?;
    write_whole(&dir.join(WEIGHTS_FILE), |out| write_tensors(out, sources(adapter)))?;
    write_whole(&dir.join(CONFIG_FILE), |out| out.write_all(&config_file(adapter, base_model)))
}

/// The content of [`CONFIG_FILE`].
pub fn config_file(adapter: &Adapter, base_model: &str) -> Vec<u8> {
    serde_json::to_vec_pretty(&config_json(adapter, base_model)).expect("plain values")
}

/// The tensors of [`WEIGHTS_FILE`].
pub fn sources(adapter: &Adapter) -> Vec<TensorSource<'_>> {
    let mut sources = Vec::new();
    for (layer, module, group, part) in adapter.parts() {
        let (inputs, outputs) = (group.a.len() / group.rank, part.b_t.len() / part.rank);
        let (first, rank) = (part.first * inputs, part.rank);
        let a = TensorData::f32(move |range, out| group.a.read(first + range.start, out));
        // A file has `B` upright.
        let b = TensorData::f32(move |range, out| {
            let b_t = part.b_t.to_vec(part.b_t.len());
            range.zip(out).for_each(|(i, out)| *out = b_t[i % rank * outputs + i / rank]);
        });
        for (factor, shape, data) in [("A", [rank, inputs], a), ("B", [outputs, rank], b)] {
            let name = tensor_name(&module.path(layer), factor);
            sources.push(TensorSource { name, shape: shape.to_vec(), data });
        }
    }
    sources
}

/// A tensor as a PEFT file has it.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Its name in the file.
    pub name: String,
    /// `[r, in]` of an `A`, `[out, r]` of a `B`.
    pub shape: [usize; 2],
    /// Row-major values.
    pub values: Vec<f32>,
}

/// `tensors`, in the order and layout of [`Adapter::tensors`], by their names and in the layout of files: the
/// factors themselves, or their gradients.
pub fn named_tensors<'a>(
    adapter: &Adapter,
    mut tensors: impl Iterator<Item = &'a Tensor>,
) -> Vec<NamedTensor> {
    let mut named = Vec::new();
    let mut a = Vec::new();
    for (layer, module, group, part) in adapter.parts() {
        if part.first == 0 {
            a = tensors.next().map(|t| t.to_vec(t.len())).unwrap_or_default();
        }
        let b_t = tensors.next().map(|t| t.to_vec(t.len())).unwrap_or_default();
        let inputs = group.a.len() / group.rank;
        let outputs = part.b_t.len() / part.rank;
        let rows = part.first * inputs..(part.first + part.rank) * inputs;
        let b = (0..outputs * part.rank).map(|i| b_t[i % part.rank * outputs + i / part.rank]).collect();
        let name = |factor| tensor_name(&module.path(layer), factor);
        named.push(NamedTensor { name: name("A"), shape: [part.rank, inputs], values: a[rows].to_vec() });
        named.push(NamedTensor { name: name("B"), shape: [outputs, part.rank], values: b });
    }
    named
}

/// The keys every reader knows, and further ones only where they are used: older readers fail on keys they do
/// not know.
fn config_json(adapter: &Adapter, base_model: &str) -> Value {
    let lora = adapter.config();
    // A set, which is written in one order: an adapter that was loaded is saved as the same bytes.
    let sorted = |mut names: Vec<&str>| {
        names.sort_unstable();
        json!(names)
    };
    let written = |targets: &Targets| match targets {
        Targets::Names(names) => sorted(names.iter().map(String::as_str).collect()),
        Targets::AllLinear => sorted(adapter.modules().iter().map(|module| module.name()).collect()),
        Targets::Pattern { pattern, .. } => json!(pattern),
    };
    // PEFT has the revision of a model of the hub under a key of its own.
    let (base_name, revision) = match base_model.split_once('@') {
        Some((name, revision)) if !Path::new(base_model).exists() => (name, Some(revision)),
        _ => (base_model, None),
    };
    let mut config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": lora.rank,
        "lora_alpha": whole(lora.alpha),
        "lora_dropout": lora.dropout,
        "target_modules": written(&lora.targets),
        "bias": "none",
        "inference_mode": true,
    });
    if lora.use_rslora {
        config["use_rslora"] = json!(true);
    }
    if adapter.parts().any(|(_, module, ..)| module.is_transposed()) {
        config["fan_in_fan_out"] = json!(true);
    }
    if let Some(revision) = revision {
        config["revision"] = json!(revision);
    }
    if let Some(exclude) = &lora.exclude {
        config["exclude_modules"] = written(exclude);
    }
    if let Some(layers) = &lora.layers {
        config["layers_to_transform"] = json!(layers);
    }
    let source = |pattern: &Regex| {
        let text = pattern.as_str();
        text.strip_prefix(PATTERN_START).and_then(|t| t.strip_suffix(PATTERN_END)).unwrap_or(text).to_owned()
    };
    if !lora.rank_pattern.is_empty() {
        config["rank_pattern"] = lora.rank_pattern.iter().map(|(p, rank)| (source(p), json!(rank))).collect();
    }
    if !lora.alpha_pattern.is_empty() {
        config["alpha_pattern"] = lora.alpha_pattern.iter().map(|(p, a)| (source(p), whole(*a))).collect();
    }
    config
}

/// A whole number as an integer, which is what other tools expect of `lora_alpha`.
pub(super) fn whole(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// Writes a file beside its place, syncs it and renames it.
pub(super) fn write_whole(
    path: &Path,
    content: impl Fn(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), FileError> {
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&temporary)?;
        content(&mut file)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&temporary);
        FileError::new(path, format!("cannot write: {e}"))
    })
}

/// The configuration of the adapter in `dir`, and its path.
pub(super) fn read_json(dir: &Path) -> Result<(PathBuf, Map<String, Value>), FileError> {
    let config_path = inside(dir, CONFIG_FILE)?;
    marks::of_folder(dir)?;
    let text = read_text(&config_path, MAX_CONFIG_BYTES).map_err(|e| {
        FileError::new(&config_path, format!("cannot read the adapter's configuration: {e}"))
            .with_hint("an adapter is a folder with adapter_config.json and adapter_model.safetensors")
    })?;
    let json = parse_json(&config_path, &text)?;
    marks::of_config(&config_path, &json)?;
    Ok((config_path, json))
}

fn parse_json(path: &Path, text: &str) -> Result<Map<String, Value>, FileError> {
    serde_json::from_str(text).map_err(|e| {
        FileError::new(path, format!("not an adapter configuration: {e}"))
            .with_hint("correct it, or take it from where the adapter came from")
    })
}

/// Reads an adapter for a model of shape `config` from the folder `dir`.
///
/// # Errors
/// Files that are missing or malformed, an adapter of another model, an option that is not supported.
pub fn load(dir: &Path, config: &Config, device: Device) -> Result<Adapter, FileError> {
    let (_, json) = read_json(dir)?;
    read(dir, &json, map_weights(dir), config, None, device)
}

/// As [`load`], for the model of `files`: whole embeddings, which PEFT saves with an adapter where it finds reason to, are
/// passed over if they are the model's own.
///
/// # Errors
/// As [`load`], and embeddings that differ from the model's.
pub fn load_over(dir: &Path, files: &ModelFiles, device: Device) -> Result<Adapter, FileError> {
    let (_, json) = read_json(dir)?;
    read(dir, &json, map_weights(dir), files.config(), Some(files), device)
}

/// The bytes of the factors of the adapter in `dir`.
pub(super) fn map_weights(dir: &Path) -> Result<SharedBytes, FileError> {
    marks::of_weights(dir)?;
    inside(dir, WEIGHTS_FILE).and_then(|path| map(&path))
}

/// The tensors in the file `path` with the content `bytes`.
pub(super) fn parse_weights<'a>(path: &Path, bytes: &'a SharedBytes) -> Result<SafeTensors<'a>, FileError> {
    let damaged = |problem: String| header_error(path, bytes.as_slice(), problem);
    read_header(bytes.as_slice()).map_err(damaged)?;
    SafeTensors::deserialize(bytes.as_slice()).map_err(|e| damaged(e.to_string()))
}

/// As [`load`] of a folder with these two files; errors call it `dir`.
///
/// # Errors
/// As [`load`].
pub fn from_bytes(
    dir: &Path,
    config_json: &str,
    weights: SharedBytes,
    config: &Config,
    device: Device,
) -> Result<Adapter, FileError> {
    let json = parse_json(&dir.join(CONFIG_FILE), config_json)?;
    read(dir, &json, Ok(weights), config, None, device)
}

/// `weights` are looked at after the configuration, whose errors come first.
fn read(
    dir: &Path,
    json: &Map<String, Value>,
    weights: Result<SharedBytes, FileError>,
    config: &Config,
    base: Option<&ModelFiles>,
    device: Device,
) -> Result<Adapter, FileError> {
    let config_path = dir.join(CONFIG_FILE);
    let mut lora = read_config(json).map_err(|e| e.at(&config_path))?;
    let made_for = json.get("base_model_name_or_path").and_then(Value::as_str);
    let whole_path = |path: &Path| path.canonicalize().ok();
    let is_base = |name: &str| base.and_then(|base| whole_path(base.path())) == whole_path(Path::new(name));
    let made_for = match made_for {
        Some(name) if base.is_some() && is_base(name) => {
            "adapter_config.json names this very model: the two files of the adapter belong to different adapters, or the \
             model was changed"
                .to_owned()
        }
        name => format!("the adapter was made for {}", name.unwrap_or("another model")),
    };
    // In PEFT a text is a pattern for the whole path.
    let made_for_of_targets = match json.get("target_modules") {
        Some(Value::String(name)) if config.modules().iter().any(|module| module.name() == name) => {
            format!(
                "PEFT takes a text for a pattern of the whole path, which `{name}` matches nowhere: write [\"{name}\"]"
            )
        }
        _ => made_for.clone(),
    };
    let selected = |lora: &LoraConfig| {
        let of_config = |e: TargetError| {
            FileError::new(&config_path, e.to_string()).with_hint(made_for_of_targets.clone())
        };
        lora.parts(config).map_err(of_config)
    };
    let mut notes = Vec::new();
    let mut parts = match lora.unmatched() {
        Some(_) => Vec::new(),
        None => selected(&lora)?,
    };

    let weights_path = dir.join(WEIGHTS_FILE);
    let fail = |problem: String| FileError::new(&weights_path, problem);
    let bytes = weights?;
    let file = parse_weights(&weights_path, &bytes)?;
    let names = FileNames::sort(file.names().into_iter(), config).map_err(|e| e.at(&weights_path))?;
    if let Some(pattern) = lora.unmatched() {
        let sites = names.sites();
        notes.push(format!(
            "{}: the pattern `{pattern}` was not checked (it has what only Python's re knows); the {} projections are those \
             that the file has tensors of",
            config_path.display(),
            sites.len()
        ));
        lora.sites = Some(sites);
        parts = selected(&lora)?;
    }
    let take = |name: String, expected: [usize; 2]| -> Result<TensorView<'_>, FileError> {
        let missing = || match names.instead() {
            Some((instead, hint)) => fail(format!("tensor {name} is missing: {instead}")).with_hint(hint),
            None => fail(format!("tensor {name} is missing")).with_hint(
                "adapter_config.json and the file belong to different adapters, or the file is of a part",
            ),
        };
        let stored = names.stored(&name).ok_or_else(missing)?;
        let view = file.tensor(stored).map_err(|_| fail(format!("tensor {stored} is missing")))?;
        if view.shape() != expected {
            let problem = format!("{stored} is {:?}, the model needs {expected:?}", view.shape());
            // The rank is first in `A`, and last in `B`.
            let of_rank = match view.shape() {
                [_, inputs] if name.contains(".lora_A.") => *inputs == expected[1],
                [outputs, _] => *outputs == expected[0],
                _ => false,
            };
            return Err(fail(problem).with_hint(match of_rank {
                true => "the rank in adapter_config.json (`r`, `rank_pattern`) is not that of the tensors: set it right, or take \
                         the two files of one adapter"
                    .to_owned(),
                false => made_for.clone(),
            }));
        }
        if format_of(&view).is_none() {
            let problem = format!("{stored} is stored as {:?}, expected F32, F16 or BF16", view.dtype());
            return Err(fail(problem).with_hint(
                "load the adapter in PEFT, convert it with model.float() and save it with save_pretrained",
            ));
        }
        Ok(view)
    };
    // Memory is taken only for factors that the file has: the rank alone is anybody's word.
    let mut views = Vec::with_capacity(parts.len());
    for part in &parts {
        let (outputs, inputs) = module_shape(config, part.module);
        let path = part.module.path(part.layer);
        let a = take(tensor_name(&path, "A"), [part.rank, inputs])?;
        let b = take(tensor_name(&path, "B"), [outputs, part.rank])?;
        views.push((a, b));
    }
    let unselected = names.except(parts.iter().map(|part| (part.layer, part.module)));
    for name in unselected {
        match names.whole_weight(name, config) {
            Some(weight) => {
                let view = file.tensor(name).map_err(|_| fail(format!("tensor {name} is missing")))?;
                embeddings::passed_over(name, &weight, &view, base).map_err(|e| e.at(&weights_path))?;
                notes.push(format!(
                    "{}: {name} is the model's own and was passed over",
                    weights_path.display()
                ));
            }
            None => return Err(names::unread(name).at(&weights_path)),
        }
    }
    let mut adapter = Adapter::zeros(config, &lora, &parts, device);
    let values_of = |part: &super::lora::PartShape, factor: &str, view: &TensorView<'_>| {
        let values = decode(view);
        match values.iter().find(|value| !value.is_finite()) {
            None => Ok(values),
            Some(value) => {
                let name = tensor_name(&part.module.path(part.layer), factor);
                let stored = names.stored(&name).unwrap_or(&name);
                Err(fail(format!("{stored} has {value}, expected finite numbers")).with_hint(
                    "the adapter is damaged, or of training that diverged: take an earlier checkpoint",
                ))
            }
        }
    };
    for (part, (a, b)) in parts.iter().zip(&views) {
        let (outputs, inputs) = module_shape(config, part.module);
        adapter.write_a(part, inputs, &values_of(part, "A", a)?);
        adapter.write_b(part, outputs, &values_of(part, "B", b)?);
    }
    adapter.notes = notes;
    Ok(adapter)
}

pub(super) fn format_of(view: &TensorView<'_>) -> Option<Format> {
    match view.dtype() {
        Dtype::F32 => Some(Format::F32),
        Dtype::F16 => Some(Format::F16),
        Dtype::BF16 => Some(Format::BF16),
        _ => None,
    }
}

pub(super) fn decode(view: &TensorView<'_>) -> Vec<f32> {
    let format = format_of(view).expect("looked at when the tensor was found");
    let mut values = vec![0.0; view.data().len() / format.block_bytes()];
    format.decode(view.data(), &mut values);
    values
}

/// One for each projection of a model of 140 layers.
const MOST_PATTERNS: usize = 1000;
/// Layers of the deepest model there can be.
const MOST_LAYERS: usize = 4096;

/// PEFT matches a pattern key at the end of a module's path, after a dot or at its start.
const PATTERN_START: &str = r"(?:^|.*\.)(?:";
const PATTERN_END: &str = ")$";

/// The pattern of [`LoraConfig::rank_pattern`] that only `path` matches.
pub(super) fn exact_pattern(path: &str) -> Result<Regex, regex::Error> {
    path_pattern(&format!("{PATTERN_START}{}{PATTERN_END}", regex::escape(path)))
}

/// Options that make an adapter more than factors with a rank and a scale, each with the value that does nothing.
/// `fan_in_fan_out` is none of them: PEFT sets it as the layer is stored, whatever a file says.
const OPTIONS: [(&str, &str); 13] = [
    ("use_dora", "false"),
    ("bias", "\"none\""),
    ("lora_bias", "false"),
    ("modules_to_save", "null"),
    ("layer_replication", "null"),
    ("trainable_token_indices", "null"),
    ("alora_invocation_tokens", "null"),
    ("target_parameters", "null"),
    ("use_qalora", "false"),
    ("use_bdlora", "null"),
    ("arrow_config", "null"),
    ("kasa_config", "null"),
    ("monteclora_config", "null"),
];

/// Those of [`OPTIONS`] that a configuration uses, each with the value that does nothing and its own.
pub(super) fn used_options(
    json: &Map<String, Value>,
) -> impl Iterator<Item = (&'static str, &'static str, &Value)> {
    let does_nothing = |value: &Value, plain: &str| {
        let text = value.to_string();
        ["null", "false", "[]", plain].contains(&text.as_str())
    };
    OPTIONS.into_iter().filter_map(move |(key, plain)| {
        let value = json.get(key)?;
        (!does_nothing(value, plain)).then_some((key, plain, value))
    })
}

/// The way of beginning that changes the base's weights when the adapter is made, so that PEFT changes them again on loading.
pub(super) fn changes_the_base(json: &Map<String, Value>) -> Option<&str> {
    const CHANGING: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];
    let init = json.get("init_lora_weights").and_then(Value::as_str)?;
    CHANGING.iter().any(|name| init.starts_with(name)).then_some(init)
}

fn read_config(json: &Map<String, Value>) -> Result<LoraConfig, FileError> {
    let fail = |problem: String| FileError::new(Path::new(""), problem);
    let wrong = |key: &str, expected: &str| {
        let found = json.get(key).map_or("missing".to_owned(), Value::to_string);
        fail(format!("`{key}` is {found}, expected {expected}"))
    };
    match json.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => {}
        _ => return Err(wrong("peft_type", "\"LORA\"")),
    }
    if let Some((key, plain, _)) = used_options(json).next() {
        return Err(wrong(key, plain).with_hint(names::MERGE));
    }
    if changes_the_base(json).is_some() {
        return Err(wrong("init_lora_weights", "one that leaves the base as it is")
            .with_hint("convert it in PEFT: save_pretrained with path_initial_model_for_weight_conversion"));
    }
    // PEFT's own, where a file has none.
    let default = json!(8);
    let rank = json.get("r").unwrap_or(&default).as_u64().filter(|r| (1..=65_536).contains(r));
    let rank = rank.ok_or_else(|| wrong("r", "a rank from 1 to 65536"))? as usize;
    let alpha =
        json.get("lora_alpha").unwrap_or(&default).as_f64().ok_or_else(|| wrong("lora_alpha", "a number"))?;
    let targets = match json.get("target_modules") {
        Some(Value::String(s)) if s == "all-linear" => Ok(Targets::AllLinear),
        Some(Value::String(pattern)) => Targets::pattern_of_peft(pattern),
        Some(Value::Array(names)) if names.iter().all(Value::is_string) => {
            Targets::names_of_peft(names.iter().filter_map(Value::as_str))
        }
        _ => return Err(wrong("target_modules", "a list of names or a pattern")),
    };
    let of_target = |e: TargetError| fail(e.to_string()).with_hint(e.hint().unwrap_or_default());
    let targets = targets.map_err(of_target)?;
    let exclude = match json.get("exclude_modules") {
        None | Some(Value::Null) => None,
        Some(Value::String(pattern)) if pattern.is_empty() => None,
        Some(Value::String(pattern)) => Some(Targets::pattern_of_peft(pattern).map_err(of_target)?),
        Some(Value::Array(names)) if names.is_empty() => None,
        Some(Value::Array(names)) if names.iter().all(Value::is_string) => {
            Some(Targets::names_of_peft(names.iter().filter_map(Value::as_str)).map_err(of_target)?)
        }
        Some(_) => return Err(wrong("exclude_modules", "a list of names or a pattern")),
    };
    let layer = |value: &Value| {
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
        number.ok_or_else(|| wrong("layers_to_transform", "a list of layer numbers"))
    };
    let layers = match json.get("layers_to_transform") {
        None | Some(Value::Null) => None,
        // PEFT takes an empty list for all layers.
        Some(Value::Array(list)) if list.is_empty() => None,
        Some(Value::Array(list)) if list.len() > MOST_LAYERS => {
            return Err(fail(format!("`layers_to_transform` names more than {MOST_LAYERS} layers")));
        }
        Some(Value::Array(list)) => Some(list.iter().map(layer).collect::<Result<_, _>>()?),
        Some(one) => Some(vec![layer(one)?]),
    };
    let use_rslora = match json.get("use_rslora") {
        None | Some(Value::Null) => false,
        Some(value) => value.as_bool().ok_or_else(|| wrong("use_rslora", "true or false"))?,
    };
    let dropout = match json.get("lora_dropout") {
        None | Some(Value::Null) => 0.0,
        Some(value) => {
            let dropout = value.as_f64().filter(|p| (0.0..1.0).contains(p));
            dropout.ok_or_else(|| wrong("lora_dropout", "a number from 0 to below 1"))?
        }
    };
    Ok(LoraConfig {
        rank,
        alpha,
        use_rslora,
        dropout: (dropout as f32).min(0.99),
        targets,
        exclude,
        sites: None,
        layers,
        rank_pattern: patterns(json, "rank_pattern", |v| {
            v.as_u64().filter(|r| (1..=65_536).contains(r)).map(|r| r as usize)
        })?,
        alpha_pattern: patterns(json, "alpha_pattern", Value::as_f64)?,
    })
}

pub(super) fn patterns<T>(
    json: &Map<String, Value>,
    key: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<(Regex, T)>, FileError> {
    let fail = |problem: String| FileError::new(Path::new(""), problem);
    let entries = match json.get(key) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(entries)) => entries,
        Some(other) => return Err(fail(format!("`{key}` is {other}, expected values by pattern"))),
    };
    if entries.len() > MOST_PATTERNS {
        return Err(fail(format!(
            "`{key}` has {} patterns, more than the {MOST_PATTERNS} allowed",
            entries.len()
        )));
    }
    entries
        .iter()
        .map(|(pattern, value)| {
            let regex = path_pattern(&format!("{PATTERN_START}{pattern}{PATTERN_END}"))
                .map_err(|e| fail(format!("`{key}`: `{pattern}` is not a regular expression: {e}")))?;
            let value =
                read(value).ok_or_else(|| fail(format!("`{key}`: the value of `{pattern}` is {value}")))?;
            Ok((regex, value))
        })
        .collect()
}
