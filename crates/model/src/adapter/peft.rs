//! Adapters as PEFT writes and reads them: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Tensors are `base_model.model.<path>.lora_A.weight` `[r, in]` and `.lora_B.weight` `[out, r]`, metadata
//! `{"format": "pt"}`. Loading is strict: a missing or unexpected tensor, another shape, or an option that
//! would change the result and is not supported here is an error.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use lorafit_kernels::quant::Format;
use lorafit_kernels::{Device, SharedBytes, Tensor};
use regex::Regex;
use safetensors::{Dtype, SafeTensors, View, tensor::TensorView};
use serde_json::{Map, Value, json};

use super::lora::{Adapter, LoraConfig, module_shape};
use super::targets::Targets;
use crate::config::Config;
use crate::error::FileError;
use crate::weights::{MAX_CONFIG_BYTES, inside, map, read_header, read_text};

const CONFIG_FILE: &str = "adapter_config.json";
pub(super) const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// Writes `adapter` to the folder `dir`, which is made if needed. Each file is written beside its place and
/// then renamed, the configuration last, so that an interrupted save leaves the adapter that was there.
///
/// # Errors
/// A file that cannot be written, by name.
pub fn save(dir: &Path, adapter: &Adapter, base_model: &str) -> Result<(), FileError> {
    fs::create_dir_all(dir).map_err(|e| FileError::new(dir, format!("cannot make the folder: {e}")))?;
    files(adapter, base_model).into_iter().try_for_each(|(name, bytes)| write_whole(&dir.join(name), &bytes))
}

/// The names and contents of the files of `adapter`, the configuration last.
pub fn files(adapter: &Adapter, base_model: &str) -> [(&'static str, Vec<u8>); 2] {
    let tensors = named_tensors(adapter, adapter.tensors());
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let weights = safetensors::serialize(tensors.iter().map(|t| (t.name.as_str(), t)), Some(metadata));
    let config =
        serde_json::to_string_pretty(&config_json(adapter.config(), base_model)).expect("plain values");
    [(WEIGHTS_FILE, weights.expect("names are unique")), (CONFIG_FILE, config.into_bytes())]
}

/// Bytes are made as they are written, a tensor at a time.
impl View for &NamedTensor {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn data_len(&self) -> usize {
        size_of_val(&self.values[..])
    }
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

fn tensor_name(path: &str, factor: &str) -> String {
    format!("base_model.model.{path}.lora_{factor}.weight")
}

/// The keys every reader knows, and further ones only where they are used: older readers fail on keys they do
/// not know.
fn config_json(lora: &LoraConfig, base_model: &str) -> Value {
    // A set, which is written in one order: an adapter that was loaded is saved as the same bytes.
    let sorted = |mut names: Vec<&str>| {
        names.sort_unstable();
        json!(names)
    };
    let targets = match &lora.targets {
        Targets::Names(names) => sorted(names.iter().map(String::as_str).collect()),
        Targets::AllLinear => sorted(super::Module::ALL.map(|m| m.name()).into()),
        Targets::Pattern { pattern, .. } => json!(pattern),
    };
    let mut config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": lora.rank,
        "lora_alpha": whole(lora.alpha),
        "lora_dropout": lora.dropout,
        "target_modules": targets,
        "bias": "none",
        "inference_mode": true,
    });
    if lora.use_rslora {
        config["use_rslora"] = json!(true);
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
fn whole(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// Writes a file beside its place, syncs it and renames it.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&temporary)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&temporary);
        FileError::new(path, format!("cannot write {} bytes: {e}", bytes.len()))
    })
}

/// The configuration of the adapter in `dir`, and its path.
pub(super) fn read_json(dir: &Path) -> Result<(PathBuf, Map<String, Value>), FileError> {
    let config_path = inside(dir, CONFIG_FILE)?;
    let text = read_text(&config_path, MAX_CONFIG_BYTES).map_err(|e| {
        FileError::new(&config_path, format!("cannot read the adapter's configuration: {e}"))
            .with_hint("an adapter is a folder with adapter_config.json and adapter_model.safetensors")
    })?;
    let json = parse_json(&config_path, &text)?;
    Ok((config_path, json))
}

fn parse_json(path: &Path, text: &str) -> Result<Map<String, Value>, FileError> {
    serde_json::from_str(text).map_err(|e| FileError::new(path, format!("not an adapter configuration: {e}")))
}

/// Reads an adapter for a model of shape `config` from the folder `dir`.
///
/// # Errors
/// Files that are missing or malformed, an adapter of another model, an option that is not supported.
pub fn load(dir: &Path, config: &Config, device: Device) -> Result<Adapter, FileError> {
    let (_, json) = read_json(dir)?;
    read(dir, &json, map_weights(dir), config, device)
}

/// The bytes of the factors of the adapter in `dir`.
pub(super) fn map_weights(dir: &Path) -> Result<SharedBytes, FileError> {
    inside(dir, WEIGHTS_FILE).and_then(|path| map(&path))
}

/// The tensors in the file `path` with the content `bytes`.
pub(super) fn parse_weights<'a>(path: &Path, bytes: &'a SharedBytes) -> Result<SafeTensors<'a>, FileError> {
    let damaged = |problem: String| {
        FileError::new(path, format!("not a whole safetensors file: {problem}"))
            .with_hint("the file is cut short or damaged; copy or download it again")
    };
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
    read(dir, &json, Ok(weights), config, device)
}

/// `weights` are looked at after the configuration, whose errors come first.
fn read(
    dir: &Path,
    json: &Map<String, Value>,
    weights: Result<SharedBytes, FileError>,
    config: &Config,
    device: Device,
) -> Result<Adapter, FileError> {
    let config_path = dir.join(CONFIG_FILE);
    let lora = read_config(json).map_err(|e| e.at(&config_path))?;
    let base =
        json.get("base_model_name_or_path").and_then(Value::as_str).unwrap_or("another model").to_owned();
    let parts = lora.parts(config).map_err(|e| {
        FileError::new(&config_path, e.to_string()).with_hint(format!("the adapter was made for {base}"))
    })?;

    let weights_path = dir.join(WEIGHTS_FILE);
    let fail = |problem: String| FileError::new(&weights_path, problem);
    let bytes = weights?;
    let file = parse_weights(&weights_path, &bytes)?;
    let mut unread: BTreeSet<String> = file.names().into_iter().map(|n| n.to_string()).collect();
    let mut take = |path: &str, factor: &str, expected: [usize; 2]| -> Result<TensorView<'_>, FileError> {
        let name = tensor_name(path, factor);
        let view = file.tensor(&name).map_err(|_| fail(format!("tensor {name} is missing")))?;
        unread.remove(&name);
        if view.shape() != expected {
            let problem = format!("{name} is {:?}, the model needs {expected:?}", view.shape());
            return Err(fail(problem).with_hint(format!("the adapter was made for {base}")));
        }
        if format_of(&view).is_none() {
            let problem = format!("{name} is stored as {:?}, expected F32, F16 or BF16", view.dtype());
            return Err(fail(problem));
        }
        Ok(view)
    };
    // Memory is taken only for factors that the file has: the rank alone is anybody's word.
    let mut views = Vec::with_capacity(parts.len());
    for part in &parts {
        let (outputs, inputs) = module_shape(config, part.module);
        let path = part.module.path(part.layer);
        views.push((take(&path, "A", [part.rank, inputs])?, take(&path, "B", [outputs, part.rank])?));
    }
    if let Some(name) = unread.first() {
        return Err(fail(format!("tensor {name} belongs to no projection that adapter_config.json selects")));
    }
    let mut adapter = Adapter::zeros(config, &lora, &parts, device);
    for (part, (a, b)) in parts.iter().zip(&views) {
        let (outputs, inputs) = module_shape(config, part.module);
        adapter.write_a(part, inputs, &decode(a));
        adapter.write_b(part, outputs, &decode(b));
    }
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

/// PEFT matches a pattern key at the end of a module's path, after a dot or at its start.
const PATTERN_START: &str = r"(?:^|.*\.)(?:";
const PATTERN_END: &str = ")$";

fn read_config(json: &Map<String, Value>) -> Result<LoraConfig, FileError> {
    let fail = |problem: String| FileError::new(Path::new(""), problem);
    let wrong = |key: &str, expected: &str| {
        let found = json.get(key).map_or("nothing".to_owned(), Value::to_string);
        fail(format!("`{key}` is {found}, expected {expected}"))
    };
    match json.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => {}
        _ => return Err(wrong("peft_type", "\"LORA\"")),
    }
    for (key, plain) in [
        ("use_dora", json!(false)),
        ("bias", json!("none")),
        ("lora_bias", json!(false)),
        ("fan_in_fan_out", json!(false)),
        ("modules_to_save", json!(null)),
        ("layer_replication", json!(null)),
        ("trainable_token_indices", json!(null)),
        ("alora_invocation_tokens", json!(null)),
        ("target_parameters", json!(null)),
        ("exclude_modules", json!(null)),
        ("use_qalora", json!(false)),
        ("use_bdlora", json!(null)),
        ("arrow_config", json!(null)),
        ("kasa_config", json!(null)),
        ("monteclora_config", json!(null)),
    ] {
        let used = json
            .get(key)
            .is_some_and(|v| *v != plain && !v.is_null() && *v != json!(false) && *v != json!([]));
        if used {
            return Err(wrong(key, &format!("{plain}")).with_hint("this option of PEFT is not supported"));
        }
    }
    // These change the base's weights when the adapter is made, so PEFT changes them again on loading.
    const CHANGING_THE_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];
    let init = json.get("init_lora_weights").and_then(Value::as_str).unwrap_or_default();
    if CHANGING_THE_BASE.iter().any(|name| init.starts_with(name)) {
        return Err(wrong("init_lora_weights", "one that leaves the base as it is")
            .with_hint("convert it in PEFT: save_pretrained with path_initial_model_for_weight_conversion"));
    }
    let rank = json.get("r").and_then(Value::as_u64).filter(|r| (1..=65_536).contains(r));
    let rank = rank.ok_or_else(|| wrong("r", "a rank from 1 to 65536"))? as usize;
    let alpha =
        json.get("lora_alpha").and_then(Value::as_f64).ok_or_else(|| wrong("lora_alpha", "a number"))?;
    let targets = match json.get("target_modules") {
        Some(Value::String(s)) if s == "all-linear" => Ok(Targets::AllLinear),
        Some(Value::String(pattern)) => Targets::pattern(pattern),
        Some(Value::Array(names)) if names.iter().all(Value::is_string) => {
            let mut names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            names.sort_unstable();
            Targets::names(names.into_iter())
        }
        _ => return Err(wrong("target_modules", "a list of names or a pattern")),
    };
    let targets = targets.map_err(|e| fail(e.to_string()).with_hint(e.hint().unwrap_or_default()))?;
    let layer = |value: &Value| {
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
        number.ok_or_else(|| wrong("layers_to_transform", "a list of layer numbers"))
    };
    let layers = match json.get("layers_to_transform") {
        None | Some(Value::Null) => None,
        // PEFT takes an empty list for all layers.
        Some(Value::Array(list)) if list.is_empty() => None,
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
    entries
        .iter()
        .map(|(pattern, value)| {
            let regex = Regex::new(&format!("{PATTERN_START}{pattern}{PATTERN_END}"))
                .map_err(|e| fail(format!("`{key}`: `{pattern}` is not a regular expression: {e}")))?;
            let value =
                read(value).ok_or_else(|| fail(format!("`{key}`: the value of `{pattern}` is {value}")))?;
            Ok((regex, value))
        })
        .collect()
}
