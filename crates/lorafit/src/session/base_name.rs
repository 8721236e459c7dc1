//! What an adapter calls its base: the name that whoever loads it, PEFT for one, looks the model up by.

use lorafit_model::is_gguf;
use lorafit_model::weights::ModelFiles;

/// What the adapter of a base calls it: the name that is asked for; else, of a GGUF file, the model of the hub that its
/// metadata names; else `given`, as `--model` was.
pub fn of(asked: Option<&str>, given: &str, files: &ModelFiles) -> String {
    let found = || asked.map(str::to_owned).or_else(|| files.hub_model());
    found().unwrap_or_else(|| given.to_owned())
}

/// What is told where an adapter calls its base by a file that PEFT cannot load; `command` is what a name is given to, with a
/// blank behind it, and empty for this very command.
pub fn note(name: &str, files: &ModelFiles, command: &str) -> Option<String> {
    if files.gguf().is_none() || !is_gguf(name) {
        return None;
    }
    let parent = match files.hub_parent() {
        Some(parent) => format!(" (it names {parent}, from which its model was made)"),
        None => String::new(),
    };
    Some(format!(
        "PEFT will not find the base of this adapter, which names {name}: that file does not say which model of the hub it \
         is{parent}. Name the model: {command}--base-name ORG/NAME"
    ))
}
