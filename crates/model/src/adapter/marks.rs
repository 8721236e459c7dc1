//! Adapters of other tools, recognised by the marks they leave, so that the error says what they are and the way out.

use std::path::Path;

use lorafit_remedy::{Remedy, Setting, Task, remedy};
use serde_json::{Map, Value};

use super::peft::{CONFIG_FILE, WEIGHTS_FILE};
use crate::error::FileError;
use crate::files::is_gguf;

/// The weights of an adapter of mlx-lm.
const MLX: [&str; 2] = ["adapters.safetensors", "adapters.npz"];

/// What to do with an adapter of mlx-lm.
fn of_mlx() -> Remedy {
    remedy![
        "make a PEFT folder of it with ", Task::ConvertToPeft { adapter: "DIR" };
        "run mlx_lm.fuse --model BASE --adapter-path DIR --save-path MERGED and pass MERGED as ", Setting::Model
    ]
}

/// What is said of pickle files.
pub(super) const PICKLE: &str = "load the adapter in PEFT once and save it with save_pretrained(DIR): it writes \
                                 adapter_model.safetensors";

/// Refuses what is no adapter's folder, where it can be told what it is.
///
/// # Errors
/// A file, a model's folder, a folder of checkpoints, an adapter of mlx-lm.
pub(super) fn of_folder(dir: &Path) -> Result<(), FileError> {
    let has = |name: &str| dir.join(name).is_file();
    if has(CONFIG_FILE) {
        return Ok(());
    }
    let fail = |problem: String| FileError::new(dir, problem);
    if dir.is_file() {
        let gguf = is_gguf(dir);
        let parent = dir.parent().filter(|parent| parent.join(CONFIG_FILE).is_file());
        return Err(match parent {
            _ if gguf => {
                fail("a GGUF file, but an adapter is a folder as PEFT writes it".into()).with_hint(remedy![
                    "make a folder of it with ",
                    Task::ConvertToPeft { adapter: "FILE.gguf" }
                ])
            }
            Some(parent) if parent.as_os_str().is_empty() => {
                fail("a file, but an adapter is a folder".into()).with_hint("pass its folder: .")
            }
            Some(parent) => fail("a file, but an adapter is a folder".into())
                .with_hint(format!("pass its folder: {}", parent.display())),
            None => fail("a file, but an adapter is a folder".into())
                .with_hint(format!("an adapter is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}")),
        });
    }
    if MLX.iter().any(|name| has(name)) {
        return Err(fail("an adapter of mlx-lm, not of PEFT".into()).with_hint(of_mlx()));
    }
    if has("config.json") {
        return Err(fail(format!(
            "a model's folder, not an adapter's: it has config.json and no {CONFIG_FILE}"
        ))
        .with_hint(remedy!["pass it as ", Setting::Model]));
    }
    match checkpoints(dir).pop() {
        Some(newest) => Err(fail(format!("has no {CONFIG_FILE}, but adapters in folders of its own"))
            .with_hint(format!("pass one of them: {}", dir.join(newest).display()))),
        None => Ok(()),
    }
}

/// Folders in `dir` that hold an adapter, the one with the largest number at the end last.
fn checkpoints(dir: &Path) -> Vec<String> {
    let number = |name: &str| name.rsplit('-').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter(|entry| entry.path().join(CONFIG_FILE).is_file());
    let mut names: Vec<String> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_by_key(|name| (number(name), name.clone()));
    names
}

/// Refuses the configuration of another tool, or of another method of PEFT.
///
/// # Errors
/// As it says.
pub(super) fn of_config(path: &Path, json: &Map<String, Value>) -> Result<(), FileError> {
    if json.contains_key("peft_type") {
        return Ok(());
    }
    let key_of_mlx =
        ["fine_tune_type", "lora_parameters", "lora_layers"].iter().find(|key| json.contains_key(**key));
    match key_of_mlx {
        Some(key) => Err(FileError::new(path, format!("an adapter of mlx-lm (it has `{key}`), not of PEFT"))
            .with_hint(of_mlx())),
        None => Ok(()),
    }
}

/// Refuses weights in another format, where `adapter_model.safetensors` is missing.
///
/// # Errors
/// Pickle files, and weights of mlx-lm.
pub(super) fn of_weights(dir: &Path) -> Result<(), FileError> {
    if dir.join(WEIGHTS_FILE).exists() {
        return Ok(());
    }
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    if names.iter().any(|name| MLX.contains(&name.as_str())) {
        return Err(FileError::new(dir, "an adapter of mlx-lm, not of PEFT").with_hint(of_mlx()));
    }
    let of_adapter = |name: &&String| {
        let pickle = [".bin", ".pt", ".pth", ".ckpt"].iter().any(|end| name.ends_with(end));
        pickle && (name.starts_with("adapter") || name.starts_with("lora") || name.starts_with("pytorch"))
    };
    match names.iter().find(of_adapter) {
        Some(name) => Err(FileError::new(
            &dir.join(name),
            "pickle files can run code when they are opened and are refused",
        )
        .with_hint(PICKLE)),
        None => Ok(()),
    }
}
