//! The folder that `ollama create` reads: a `Modelfile`, and beside it the adapter or the merged model.

use std::path::PathBuf;

use lorafit_data::{GoTemplate, Tokenizer};
use lorafit_model::adapter::{Adapter, convert};
use lorafit_model::weights::ModelFiles;
use lorafit_train::{NewFolder, open_tokenizer};
use serde_json::json;

use super::{ExportArgs, Written, model};
use crate::args::adapters::AdapterArg;
use crate::session::merge_inputs::Trained;
use crate::terminal::error::CliError;

const MODELFILE: &str = "Modelfile";
const MODEL: &str = "model.gguf";
const ADAPTER: &str = "adapter.gguf";
/// What a name of Ollama begins with.
const SCHEME: &str = "ollama://";

/// Writes the folder.
pub(super) fn write(
    args: &ExportArgs,
    files: &ModelFiles,
    new_tokens: Option<&Tokenizer>,
    adapter: Option<&Adapter>,
    adapters: &[AdapterArg],
) -> anyhow::Result<Written> {
    let template = chat_template(args, files, adapters)?;
    let place = NewFolder::new(&std::path::absolute(args.out())?)?;
    let mut modelfile = String::from("# ollama create NAME -f Modelfile\n");
    let (what, json) = match why_one_file(args, files, adapter) {
        Some(why) => {
            args.tell(&format!("base and adapter are written as one file: {why}"));
            let written = model(args, files, new_tokens, adapters, adapter, &place.path().join(MODEL))?;
            modelfile += &format!("FROM ./{MODEL}\n");
            (written.what, json!({"model": MODEL, "why_merged": why, "bytes": written.json["bytes"]}))
        }
        None => {
            let from = base_name(args, files)?;
            modelfile += &format!("FROM {from}\n");
            let mut what = format!("the base stays where it is ({from})");
            if let Some(adapter) = adapter {
                let bytes = convert::gguf_lora_bytes(adapter, files.config(), args.model())?;
                place.write(ADAPTER, &bytes)?;
                modelfile += &format!("ADAPTER ./{ADAPTER}\n");
                what = format!("the adapter in f32; {what}");
            }
            (what, json!({"from": from, "adapter": adapter.map(|_| ADAPTER)}))
        }
    };
    modelfile += &template.as_ref().map(instructions).unwrap_or_default();
    place.write(MODELFILE, modelfile.as_bytes())?;
    place.finish()?;
    let use_it = format!(
        "use it: ollama create NAME -f {}/{MODELFILE}, and ollama run NAME; files are in",
        args.out().display()
    );
    let mut json = json;
    json["template"] = json!(template.map(|template| template.source));
    Ok(Written { what, use_it: use_it.into(), json })
}

/// Why Ollama is given the merged model; `None` if it takes base and adapter.
fn why_one_file(args: &ExportArgs, files: &ModelFiles, adapter: Option<&Adapter>) -> Option<&'static str> {
    let Some(gguf) = files.gguf() else {
        return Some("the base is a folder, and Ollama wants one GGUF file");
    };
    if args.file_type.is_some() {
        return Some("--type says how");
    }
    if gguf.integer("split.count").is_some_and(|count| count > 1) {
        return Some("the base is in several files, which some releases of Ollama cannot read");
    }
    if adapter.is_some_and(|adapter| adapter.config().use_dora) {
        return Some("Ollama takes no adapter with magnitudes (DoRA)");
    }
    if adapter.is_some_and(|adapter| !adapter.config().save_modules.is_empty()) {
        return Some("Ollama takes no adapter with whole weights (modules_to_save)");
    }
    if adapter.is_some_and(|adapter| !adapter.config().tokens.is_empty()) {
        return Some("Ollama takes no adapter with rows of tokens (trainable_token_indices)");
    }
    if adapter.is_some_and(|adapter| adapter.config().adapts_outside(files.config())) {
        return Some("Ollama takes no adapter of lm_head or the embedding");
    }
    let arch = gguf.text("general.architecture").unwrap_or_default();
    if adapter.is_some() && arch.starts_with("qwen3") {
        return Some("Ollama's own engine, by which many of its releases run qwen3, takes no adapter");
    }
    None
}

/// What FROM says of a base that stays where it is.
fn base_name(args: &ExportArgs, files: &ModelFiles) -> anyhow::Result<String> {
    if let Some(name) = args.model().strip_prefix(SCHEME) {
        return Ok(name.to_owned());
    }
    let path: PathBuf = files.path().canonicalize()?;
    match path.to_str().filter(|path| !path.contains(['\n', '\r', '"'])) {
        Some(path) => Ok(path.to_owned()),
        None => Err(CliError::new(format!("a Modelfile cannot name {}", path.display()))
            .hint("give the base another name, or --type to have it copied")
            .into()),
    }
}

/// The chat template in Go; `None`, and told why, if it has no such form.
fn chat_template(
    args: &ExportArgs,
    files: &ModelFiles,
    adapters: &[AdapterArg],
) -> anyhow::Result<Option<GoTemplate>> {
    let mut tokenizer = open_tokenizer(files)?;
    // An adapter answers in the format that it was trained on.
    let trained = adapters.iter().find_map(|adapter| Trained::of(&adapter.dir)?.template);
    if let Some(template) = trained {
        args.tell(&format!("TEMPLATE is that of the training, --template {template}"));
        tokenizer.use_chat_template(&template)?;
    }
    match GoTemplate::of(&tokenizer) {
        Ok(template) => {
            template.notes.iter().for_each(|note| args.tell(note));
            if tokenizer.chat_template().is_some_and(|text| text.contains("tools")) {
                args.tell(
                    "TEMPLATE has no tools: a release of Ollama that reads the chat template of the file itself has them",
                );
            }
            Ok(Some(template))
        }
        Err(why) => {
            args.tell(&format!(
                "TEMPLATE is left out: {why}. Ollama then looks for one that it knows, and without one it writes prompts as they \
                 are: add TEMPLATE to the Modelfile"
            ));
            Ok(None)
        }
    }
}

fn instructions(template: &GoTemplate) -> String {
    let mut text = format!("TEMPLATE \"\"\"{}\"\"\"\n", template.source);
    if let Some(system) = &template.system {
        text += &format!("SYSTEM \"\"\"{system}\"\"\"\n");
    }
    template.stop.iter().for_each(|stop| text += &format!("PARAMETER stop \"{stop}\"\n"));
    text
}
