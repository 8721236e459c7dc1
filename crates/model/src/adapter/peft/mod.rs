//! Adapters as PEFT writes and reads them: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Tensors are `base_model.model.<path>.lora_A.weight` `[r, in]` and `.lora_B.weight` `[out, r]`, with DoRA
//! `.lora_magnitude_vector` `[out]`, whole weights (`modules_to_save`) by the names that the model has, and rows of tokens
//! (`trainable_token_indices`) as `<path>.token_adapter.trainable_tokens_delta` `[tokens, hidden]`, metadata `{"format": "pt"}`. Loading is strict: a missing or unexpected tensor, another shape, or an option that
//! would change the result and is not supported here is an error.

mod config;
mod tensors;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use lorafit_kernels::{Device, SharedBytes, Tensor};
use lorafit_remedy::nearby;
use serde_json::{Map, Value, json};

use super::lora::{Adapter, EmbeddingFactors, LoraGroup};
use super::marks;
use super::names::{
    EMBEDDING_A, EMBEDDING_B, MAGNITUDES, is_score, is_table, tensor_name, tokens_name, whole_name,
};
use super::saved::SavedWeight;
use super::targets::Targets;
use super::token_rows::{KEY as TOKENS, TokenIndices};
use crate::error::FileError;
use crate::files::{
    MAX_CONFIG_BYTES, TensorData, TensorSource, inside, json_number, read_text, write_tensors,
};
use crate::shape::{Config, HEAD, SCORE};
use crate::weights::{MOST_LABELS, ModelFiles};
pub use config::COMPUTED_OPTIONS;
pub(super) use config::{
    changes_the_base, exact_pattern, pattern_key, pattern_to_the_end, patterns, read_tokens, used_options,
};
use tensors::Folder;
pub(super) use tensors::{decode, format_of, map_weights, matrix, parse_weights};

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
        if let Some(magnitude) = &part.magnitude {
            let name = tensor_name(&module.path(layer), MAGNITUDES);
            let data = TensorData::f32(|range, out| magnitude.values.read(range.start, out));
            sources.push(TensorSource { name, shape: vec![outputs], data });
        }
    }
    if let Some(head) = &adapter.head {
        let (part, rank) = (&head.parts[0], head.rank);
        let (inputs, outputs) = (head.a.len() / rank, part.b_t.len() / rank);
        let a = TensorData::f32(|range, out| head.a.read(range.start, out));
        let b = TensorData::f32(move |range, out| {
            let b_t = part.b_t.to_vec(part.b_t.len());
            range.zip(out).for_each(|(i, out)| *out = b_t[i % rank * outputs + i / rank]);
        });
        sources.push(TensorSource { name: tensor_name(HEAD, "A"), shape: vec![rank, inputs], data: a });
        sources.push(TensorSource { name: tensor_name(HEAD, "B"), shape: vec![outputs, rank], data: b });
    }
    if let Some(EmbeddingFactors { rank, a_t, b_t, .. }) = &adapter.embedding {
        let (rank, path) = (*rank, adapter.embedding_path);
        let (vocab, hidden) = (a_t.rows(), b_t.len() / rank);
        let a = TensorData::f32(move |range, out| {
            let mut values = vec![0.0; vocab * rank];
            a_t.read(0..vocab * rank, &mut values);
            range.zip(out).for_each(|(i, out)| *out = values[i % vocab * rank + i / vocab]);
        });
        let b = TensorData::f32(move |range, out| {
            let values = b_t.to_vec(b_t.len());
            range.zip(out).for_each(|(i, out)| *out = values[i % rank * hidden + i / rank]);
        });
        let names = [EMBEDDING_A, EMBEDDING_B].map(|factor| tensor_name(path, factor));
        for ((name, shape), data) in names.into_iter().zip([[rank, vocab], [hidden, rank]]).zip([a, b]) {
            sources.push(TensorSource { name, shape: shape.to_vec(), data });
        }
    }
    sources.extend(adapter.tokens.named(adapter.embedding_path).map(|(path, rows)| TensorSource {
        name: tokens_name(path),
        shape: vec![rows.ids.len(), rows.values.cols()],
        data: TensorData::f32(|range, out| rows.values.read(range, out)),
    }));
    sources.extend(adapter.saved.named().map(|(name, shape, values, less)| {
        let data = TensorData::f32(move |range, out| {
            values.read(range.start, out);
            if less != 0.0 {
                out.iter_mut().for_each(|value| *value -= less);
            }
        });
        TensorSource { name: whole_name(&name), shape: shape.to_vec(), data }
    }));
    sources
}

/// A tensor as a PEFT file has it.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Its name in the file.
    pub name: String,
    /// `[r, in]` of an `A`, `[out, r]` of a `B`, `[out]` of magnitudes.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub values: Vec<f32>,
}

/// `tensors`, in the order and layout of [`Adapter::tensors`], by their names and in the layout of files: the
/// factors themselves, or their gradients.
pub fn named_tensors<'a>(
    adapter: &Adapter,
    mut tensors: impl Iterator<Item = &'a Tensor>,
) -> Vec<NamedTensor> {
    let mut next = || tensors.next().map(|t| t.to_vec(t.len())).unwrap_or_default();
    let mut named = Vec::new();
    let (mut a, mut magnitudes) = (Vec::new(), Vec::new());
    for (layer, module, group, part) in adapter.parts() {
        if part.first == 0 {
            a = next();
        }
        let b_t = next();
        let inputs = group.a.len() / group.rank;
        let outputs = part.b_t.len() / part.rank;
        let rows = part.first * inputs..(part.first + part.rank) * inputs;
        let b = (0..outputs * part.rank).map(|i| b_t[i % part.rank * outputs + i / part.rank]).collect();
        let name = |factor| tensor_name(&module.path(layer), factor);
        named.push(NamedTensor { name: name("A"), shape: vec![part.rank, inputs], values: a[rows].to_vec() });
        named.push(NamedTensor { name: name("B"), shape: vec![outputs, part.rank], values: b });
        if part.magnitude.is_some() {
            magnitudes.push(NamedTensor { name: name(MAGNITUDES), shape: vec![outputs], values: Vec::new() });
        }
        // Those of a group come after its factors.
        if part.first + part.rank == group.rank {
            named.extend(magnitudes.drain(..).map(|tensor| NamedTensor { values: next(), ..tensor }));
        }
    }
    if let Some(LoraGroup { rank, .. }) = adapter.head {
        let (a, b_t) = (next(), next());
        let outputs = b_t.len() / rank;
        let b = (0..b_t.len()).map(|i| b_t[i % rank * outputs + i / rank]).collect();
        let shape = vec![rank, a.len() / rank];
        named.push(NamedTensor { name: tensor_name(HEAD, "A"), shape, values: a });
        named.push(NamedTensor { name: tensor_name(HEAD, "B"), shape: vec![outputs, rank], values: b });
    }
    if let Some(EmbeddingFactors { rank, a_t, .. }) = &adapter.embedding {
        let (rank, vocab, path) = (*rank, a_t.rows(), adapter.embedding_path);
        let (b_t, a_t) = (next(), next());
        let hidden = b_t.len() / rank;
        let a = (0..a_t.len()).map(|i| a_t[i % vocab * rank + i / vocab]).collect();
        let b = (0..b_t.len()).map(|i| b_t[i % rank * hidden + i / rank]).collect();
        named.push(NamedTensor { name: tensor_name(path, EMBEDDING_A), shape: vec![rank, vocab], values: a });
        named.push(NamedTensor {
            name: tensor_name(path, EMBEDDING_B),
            shape: vec![hidden, rank],
            values: b,
        });
    }
    named.extend(adapter.tokens.named(adapter.embedding_path).map(|(path, rows)| NamedTensor {
        name: tokens_name(path),
        shape: vec![rows.ids.len(), rows.values.cols()],
        values: next(),
    }));
    named.extend(adapter.saved.weights.iter().map(|SavedWeight { shape, .. }| NamedTensor {
        name: whole_name(&shape.name),
        shape: shape.dims.clone(),
        values: next(),
    }));
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
        "task_type": if adapter.saved.scores() { "SEQ_CLS" } else { "CAUSAL_LM" },
        "base_model_name_or_path": base_name,
        "r": lora.rank,
        "lora_alpha": json_number(lora.alpha),
        "lora_dropout": lora.dropout,
        "target_modules": written(&lora.targets),
        "bias": "none",
        "inference_mode": true,
    });
    if lora.use_rslora {
        config["use_rslora"] = json!(true);
    }
    if lora.use_dora {
        config["use_dora"] = json!(true);
    }
    if !lora.save_modules.is_empty() {
        config["modules_to_save"] = json!(lora.save_modules);
    }
    if !lora.tokens.is_empty() {
        config[TOKENS] = match &lora.tokens.modules[..] {
            [(None, ids)] => json!(ids),
            modules => {
                modules.iter().map(|(name, ids)| (name.clone().unwrap_or_default(), json!(ids))).collect()
            }
        };
    }
    if lora.ensure_weight_tying {
        config["ensure_weight_tying"] = json!(true);
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
    if !lora.rank_pattern.is_empty() {
        config["rank_pattern"] =
            lora.rank_pattern.iter().map(|(p, rank)| (pattern_key(p).to_owned(), json!(rank))).collect();
    }
    if !lora.alpha_pattern.is_empty() {
        config["alpha_pattern"] =
            lora.alpha_pattern.iter().map(|(p, a)| (pattern_key(p).to_owned(), json_number(*a))).collect();
    }
    config
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

/// What may be meant by `dir`, which holds no adapter.
fn adapters_near(dir: &Path) -> String {
    let near = nearby::find(dir, &["runs", "."], |path| path.join(CONFIG_FILE).is_file());
    nearby::in_words("adapters", &near)
        .unwrap_or_else(|| format!("an adapter is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}"))
}

/// The configuration of the adapter in `dir`, and its path.
pub(super) fn read_json(dir: &Path) -> Result<(PathBuf, Map<String, Value>), FileError> {
    if !dir.exists() {
        return Err(FileError::new(dir, "there is no such folder").with_hint(adapters_near(dir)));
    }
    let config_path = inside(dir, CONFIG_FILE)?;
    marks::of_folder(dir)?;
    let text = read_text(&config_path, MAX_CONFIG_BYTES).map_err(|e| {
        FileError::new(&config_path, format!("cannot read the adapter's configuration: {e}"))
            .with_hint(adapters_near(dir))
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

/// The tokens whose rows the adapter in the folder `dir` has: before its model is opened, which may need further rows.
///
/// # Errors
/// A configuration that is missing or malformed.
pub fn token_indices(dir: &Path) -> Result<TokenIndices, FileError> {
    let (path, json) = read_json(dir)?;
    config::read_tokens(&json).map_err(|e| e.at(&path))
}

/// How many rows the whole embedding or head has that the adapter in the folder `dir` saves (`modules_to_save`): of both, the larger
/// number; 0 if it saves neither. They are more than the model's files have if its vocabulary was extended for the training.
///
/// # Errors
/// Files that are missing or malformed.
pub fn whole_rows(dir: &Path) -> Result<usize, FileError> {
    let (_, json) = read_json(dir)?;
    if json.get("modules_to_save").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        return Ok(0);
    }
    let path = dir.join(WEIGHTS_FILE);
    let bytes = map_weights(dir)?;
    let file = parse_weights(&path, &bytes)?;
    let tables = file.tensors().into_iter().filter(|(name, _)| is_table(name));
    Ok(tables.filter_map(|(_, view)| view.shape().first().copied()).max().unwrap_or(0))
}

/// The labels by which the adapter in the folder `dir` scores texts, if it has a head that does: before its model is opened, whose
/// head it takes the place of.
///
/// # Errors
/// Files that are missing or malformed.
pub fn score_labels(dir: &Path) -> Result<Option<usize>, FileError> {
    let (_, json) = read_json(dir)?;
    let saves_head = |list: &Value| list.as_array().is_some_and(|list| list.iter().any(|name| name == SCORE));
    if !json.get("modules_to_save").is_some_and(saves_head) {
        return Ok(None);
    }
    let path = dir.join(WEIGHTS_FILE);
    let bytes = map_weights(dir)?;
    let file = parse_weights(&path, &bytes)?;
    let Some(name) = file.names().into_iter().find(|name| is_score(name)) else { return Ok(None) };
    match matrix(&file, name) {
        Ok(([labels, _], _)) if (1..=MOST_LABELS).contains(&labels) => Ok(Some(labels)),
        Ok(([labels, _], _)) => {
            Err(FileError::new(&path, format!("{name} scores {labels} labels, expected 1 to {MOST_LABELS}")))
        }
        Err(problem) => Err(FileError::new(&path, problem)),
    }
}

/// Reads an adapter for a model of shape `config` from the folder `dir`.
///
/// # Errors
/// Files that are missing or malformed, an adapter of another model, an option that is not supported.
pub fn load(dir: &Path, config: &Config, device: Device) -> Result<Adapter, FileError> {
    let (_, json) = read_json(dir)?;
    Folder::new(dir, &json, config, None).read(map_weights(dir), device)
}

/// As [`load`], for the model of `files`: whole embeddings, which PEFT saves with an adapter where it finds reason to, are
/// passed over if they are the model's own.
///
/// # Errors
/// As [`load`], and embeddings that differ from the model's.
pub fn load_over(dir: &Path, files: &ModelFiles, device: Device) -> Result<Adapter, FileError> {
    let (_, json) = read_json(dir)?;
    Folder::new(dir, &json, files.config(), Some(files)).read(map_weights(dir), device)
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
    Folder::new(dir, &json, config, None).read(Ok(weights), device)
}
