//! What `merge` is given and leaves beside weights: adapters with weights, where it writes, what was merged before.

use std::fs;
use std::path::{Path, PathBuf};

use lorafit_model::Config;
use lorafit_model::adapter::convert::MLX_WEIGHTS;
use lorafit_model::adapter::{Adapter, WEIGHTS_FILE};
use lorafit_model::merge::{
    Combination, CombineError, MajoritySign, Method, Weighted, check_finite, combine,
};
use lorafit_model::weights::{ModelFiles, NoForm, is_licence};
use lorafit_train::{RunError, hash_files};
use serde_json::{Value, json};

use crate::args::adapters::AdapterArg;
use crate::terminal::error::CliError;

/// The file of a merged folder that says what was merged.
pub const MANIFEST: &str = "merge.json";
/// The key of a GGUF file's metadata that says the same.
pub const GGUF_MANIFEST: &str = "lorafit.merged";
/// A longer one is not of this program.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// Adapters as one, whose update is the sum of theirs by their weights, exactly; `None` of none.
///
/// # Errors
/// A value that is no finite number, in an adapter or by its weight.
pub fn as_one(
    config: &Config,
    mut loaded: Vec<Adapter>,
    args: &[AdapterArg],
) -> Result<Option<Adapter>, CombineError> {
    if loaded.is_empty() {
        return Ok(None);
    }
    if let [AdapterArg { weight: 1.0, .. }] = args {
        return Ok(loaded.pop());
    }
    let weighted: Vec<_> = loaded.iter().zip(args.iter().map(|arg| arg.weight)).collect();
    sum(config, &weighted).map(Some)
}

/// The sum of adapters by their weights, exactly: their factors beside each other, as one adapter of a larger rank.
///
/// # Errors
/// As [`as_one`].
pub fn sum(config: &Config, adapters: &[(&Adapter, f64)]) -> Result<Adapter, CombineError> {
    let weighted: Vec<Weighted<'_>> =
        adapters.iter().map(|&(adapter, weight)| Weighted { adapter, weight }).collect();
    let how = Combination { method: Method::Cat, density: 1.0, majority_sign: MajoritySign::Total, seed: 0 };
    let sum = combine(config, &weighted, &how)?;
    check_finite(&sum, config)?;
    Ok(sum)
}

/// The whole path of a folder to write, which is not read and is no file.
fn place_of(out: &Path, read: &[&Path]) -> anyhow::Result<PathBuf> {
    let told = out.display();
    let whole = std::path::absolute(out)?;
    if whole.file_name().is_none() {
        return Err(CliError::usage(format!("--out {told}: a folder with a name is needed")).into());
    }
    let Ok(real) = whole.canonicalize() else { return Ok(whole) };
    if let Some(same) = read.iter().find(|path| path.canonicalize().is_ok_and(|path| path == real)) {
        return Err(CliError::usage(format!("--out {told} is {}, which is read", same.display()))
            .hint("choose another --out")
            .into());
    }
    match whole.is_dir() {
        true => Ok(whole),
        false => Err(CliError::usage(format!("--out {told} is a file")).hint("choose another --out").into()),
    }
}

/// The whole path of a folder to write, which is new or empty.
///
/// # Errors
/// A folder that is read, is a file, or is not empty.
pub fn new_folder(out: &Path, read: &[&Path]) -> anyhow::Result<PathBuf> {
    let whole = place_of(out, read)?;
    match fs::read_dir(&whole).is_ok_and(|mut entries| entries.next().is_some()) {
        false => Ok(whole),
        true => Err(CliError::new(format!("{} is not empty", out.display()))
            .hint("choose another --out; nothing is written over")
            .into()),
    }
}

/// The whole path of the folder of a model to write.
///
/// # Errors
/// A folder that is read, is a file, is not empty, or holds more than a model where it is to be replaced.
pub fn whole_out(out: &Path, read: &[&Path], overwrite: bool) -> anyhow::Result<PathBuf> {
    let told = out.display();
    let whole = place_of(out, read)?;
    if !whole.exists() {
        return Ok(whole);
    }
    let entries = fs::read_dir(&whole)?.flatten();
    let names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    match names.iter().find(|name| !of_model(name)) {
        _ if names.is_empty() => Ok(whole),
        None if overwrite && names.iter().any(|name| name == "config.json") => Ok(whole),
        _ if !overwrite => Err(CliError::new(format!("{told} is not empty"))
            .hint("choose another --out, or replace the model that it holds with --overwrite")
            .into()),
        Some(other) => {
            Err(CliError::new(format!("{told} has {other}, which is not a file of a model folder"))
                .hint("--overwrite replaces model folders only: choose another --out")
                .into())
        }
        None => Err(CliError::new(format!("{told} has no config.json, so it is not a model folder"))
            .hint("--overwrite replaces model folders only: choose another --out")
            .into()),
    }
}

/// The error of a merged value that the written type cannot hold, with what helps; other errors as they are.
pub fn without_form(error: anyhow::Error, wider: &'static str) -> anyhow::Error {
    let source = match error.downcast_ref::<RunError>() {
        Some(RunError::Save { source, .. }) => source.get_ref(),
        _ => None,
    };
    match source.and_then(|source| source.downcast_ref::<NoForm>()) {
        Some(found) if found.value.is_finite() => CliError::new(found.to_string()).hint(wider).into(),
        Some(found) => CliError::new(found.to_string())
            .hint("the base has a damaged value there, or the update is too large: lorafit inspect ADAPTER shows the size of updates")
            .into(),
        None => error,
    }
}

/// Whether a model folder has files of this name.
fn of_model(name: &str) -> bool {
    let ending =
        [".safetensors", ".json", ".jinja", ".txt", ".model", ".md"].iter().any(|e| name.ends_with(e));
    let whole = [".gitattributes", "additional_chat_templates"].contains(&name);
    !name.starts_with("adapter_") && (ending || whole || is_licence(name))
}

/// Refuses to merge what was trained over one model into another of another shape.
///
/// # Errors
/// The first number that differs.
pub fn check_same_shape(original: (&str, &Config), model: (&str, &Config)) -> Result<(), CliError> {
    let numbers = |config: &Config| {
        [
            ("hidden size", config.hidden_size),
            ("layers", config.num_hidden_layers),
            ("attention heads", config.num_attention_heads),
            ("key-value heads", config.num_key_value_heads),
            ("head size", config.head_dim),
            ("intermediate size", config.intermediate_size),
            ("vocabulary", config.vocab_size),
        ]
    };
    let mut pairs = numbers(original.1).into_iter().zip(numbers(model.1));
    match pairs.find(|(a, b)| a != b) {
        None => Ok(()),
        Some(((what, found), (_, expected))) => Err(CliError::new(format!(
            "--base {}: {what} {found}, but {} has {expected}",
            original.0, model.0
        ))
        .hint("--base is the model that --model was quantised from")),
    }
}

/// The hash that an adapter is known by: of its factors, in whatever form.
fn adapter_hash(path: &Path) -> anyhow::Result<String> {
    let files = [path.join(WEIGHTS_FILE), path.join(MLX_WEIGHTS)];
    let file = files.into_iter().find(|file| file.is_file()).unwrap_or_else(|| path.to_owned());
    Ok(hash_files(&[file])?)
}

/// What was merged into a model before, as a folder's [`MANIFEST`] or the metadata of a GGUF file say.
///
/// # Errors
/// What cannot be read: silently, the same adapter would be merged twice.
pub fn merged_adapters(files: &ModelFiles) -> anyhow::Result<Vec<Value>> {
    let path = files.path().join(MANIFEST);
    let (place, text) = match files.gguf() {
        Some(gguf) => (
            format!("{}: the metadata {GGUF_MANIFEST}", files.path().display()),
            gguf.text(GGUF_MANIFEST).map(str::to_owned),
        ),
        None => {
            let place = path.display().to_string();
            let is_long = path.metadata().is_ok_and(|found| found.len() > MAX_MANIFEST_BYTES);
            let text = (path.is_file() && !is_long).then(|| fs::read_to_string(&path)).transpose();
            (place.clone(), text.map_err(|error| CliError::new(format!("cannot read {place}: {error}")))?)
        }
    };
    let Some(text) = text else { return Ok(Vec::new()) };
    adapters_in(&text).ok_or_else(|| {
        CliError::new(format!(
            "{place} does not say which adapters the model has in its weights, as lorafit writes it"
        ))
        .hint("restore it, or remove it if no adapter was merged into the model")
        .into()
    })
}

/// The adapters that a manifest names; none in one of another program, `None` in a damaged one.
fn adapters_in(text: &str) -> Option<Vec<Value>> {
    let json: Value = serde_json::from_str(text).ok()?;
    let object = json.as_object()?;
    if !["adapters", "program"].iter().any(|key| object.contains_key(*key)) {
        return Some(Vec::new());
    }
    let adapters = object.get("adapters")?.as_array()?;
    adapters.iter().all(|adapter| adapter["hash"].is_string()).then(|| adapters.clone())
}

/// Whether the adapter in `dir` was merged into the model before, in words.
///
/// # Errors
/// An adapter that cannot be read.
pub fn merged_before(files: &ModelFiles, dir: &Path) -> anyhow::Result<Option<String>> {
    let merged = merged_adapters(files)?;
    if merged.is_empty() {
        return Ok(None);
    }
    let hash = adapter_hash(dir)?;
    let source = if files.gguf().is_some() { "metadata" } else { MANIFEST };
    let (dir, model) = (dir.display(), files.path().display());
    let told = format!("{dir} is merged into {model} already (its {source} says so)");
    Ok(merged.iter().any(|adapter| adapter["hash"].as_str() == Some(&hash)).then_some(told))
}

/// Refuses an adapter that was merged into the model before.
///
/// # Errors
/// As it says, and an adapter that cannot be read.
pub fn refuse_merged(files: &ModelFiles, dir: &Path) -> anyhow::Result<()> {
    match merged_before(files, dir)? {
        None => Ok(()),
        Some(told) => Err(CliError::new(told)
            .hint("use the model without the adapter, or merge into the base that it was trained over")
            .into()),
    }
}

/// The content of [`MANIFEST`].
pub fn manifest(
    files: &ModelFiles,
    adapters: &[AdapterArg],
    merged_into: &str,
    method: Option<String>,
) -> anyhow::Result<Vec<u8>> {
    let mut merged = merged_adapters(files)?;
    for AdapterArg { dir, weight } in adapters {
        merged.push(json!({"adapter": dir, "weight": weight, "hash": adapter_hash(dir)?}));
    }
    let json = json!({
        "program": concat!("lorafit ", env!("CARGO_PKG_VERSION")),
        "base": files.name(),
        "merged_into": merged_into,
        "method": method,
        "adapters": merged,
    });
    let mut text = serde_json::to_vec_pretty(&json).expect("plain values");
    text.push(b'\n');
    Ok(text)
}

/// What the run that made an adapter says of its base.
pub struct Trained {
    /// `--quant`, with what belongs to it, as it is typed.
    pub quant: Option<String>,
    /// `--template`.
    pub template: Option<String>,
}

impl Trained {
    /// Of the adapter in `dir`, which is a run's folder, its `best` or a checkpoint; `None` where no run is told of.
    pub fn of(dir: &Path) -> Option<Self> {
        let dir = dir.canonicalize().ok()?;
        let config = dir.ancestors().take(3).map(|dir| dir.join("config.toml"));
        let text = config.into_iter().find_map(|path| {
            let small =
                fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() <= MAX_MANIFEST_BYTES);
            small.then(|| fs::read_to_string(&path).ok()).flatten()
        })?;
        let config: toml::Table = text.parse().ok()?;
        let word = |key: &str| config.get(key)?.as_str().map(str::to_owned);
        let is_set = |key: &str| config.get(key).and_then(toml::Value::as_bool) == Some(true);
        let quant = word("quant").map(|mut quant| {
            if is_set("double-quant") {
                quant += " --double-quant";
            }
            quant
        });
        Some(Trained { quant, template: word("template") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_whole_or_not_at_all() {
        let adapters = |text: &str| adapters_in(text).map(|adapters| adapters.len());
        assert_eq!(adapters(r#"{"program": "lorafit 0.1.0", "adapters": [{"hash": "ab"}]}"#), Some(1));
        assert_eq!(adapters(r#"{"models": ["of another program"]}"#), Some(0));
        for damaged in
            ["{", "[]", "", r#"{"adapters": 3}"#, r#"{"adapters": [{}]}"#, r#"{"program": "lorafit"}"#]
        {
            assert_eq!(adapters(damaged), None, "{damaged}");
        }
    }

    #[test]
    fn only_model_folders_are_replaced() {
        for name in ["config.json", "model-00001-of-00002.safetensors", "chat_template.jinja", MANIFEST] {
            assert!(of_model(name), "{name}");
        }
        for name in ["adapter_config.json", "adapter_model.safetensors", "thesis.docx", "x.gguf", "best"] {
            assert!(!of_model(name), "{name}");
        }
    }
}
