//! Whether an adapter belongs to another base of the same shape, as far as its configuration and the tokenizer beside it say.

use std::fs;
use std::path::Path;

use lorafit_data::Tokenizer;
use lorafit_model::adapter::CONFIG_FILE;
use lorafit_model::weights::ModelFiles;
use lorafit_train::open_tokenizer;
use serde_json::Value;

/// Letters of several kinds, digits, blanks and marks: vocabularies that differ cut it differently.
const SAMPLE: &str = "The quick brown fox jumps; 12345 + 67 = ?\n\n  def f(x): return 'ünïcödé' # 你好, мир";

/// A longer configuration is none.
const MOST_BYTES: u64 = 1 << 20;

/// A sentence, where the adapter in `dir` names another base than `files`, which the user calls `given`, or has a tokenizer
/// beside it that gives a text other ids. Nothing where neither is known, or where it names the `original` of a quantised base.
pub fn note(files: &ModelFiles, given: &str, original: Option<&str>, dir: &Path) -> Option<String> {
    let shown = dir.display();
    let named = base_of(dir);
    let names = [Some(given.to_owned()), files.hub_model(), files.hub_parent(), Some(files.name())];
    let names: Vec<String> = names.into_iter().chain([original.map(str::to_owned)]).flatten().collect();
    let other = named.filter(|named| !is_one_of(named, &names));
    match (other, has_other_tokenizer(files, dir)) {
        (Some(named), true) => Some(format!(
            "warning: {shown} was trained over {named}, which has another tokenizer than {given}: its answers will make no sense"
        )),
        (Some(named), false) => Some(format!(
            "warning: {shown} was trained over {named}, and is used over {given}: unless both are the same model, it fits badly"
        )),
        (None, true) => Some(format!(
            "warning: {shown} has the tokenizer of another model beside it: {given} gives a text other ids, so the adapter was \
             probably trained over another base"
        )),
        (None, false) => None,
    }
}

/// What the adapter in `dir` calls its base, in PEFT's words or in mlx-lm's.
fn base_of(dir: &Path) -> Option<String> {
    let path = dir.join(CONFIG_FILE);
    let is_small = fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() <= MOST_BYTES);
    let text = is_small.then(|| fs::read_to_string(&path).ok()).flatten()?;
    let json: Value = serde_json::from_str(&text).ok()?;
    let name = |key: &str| json.get(key).and_then(Value::as_str).filter(|name| !name.is_empty());
    name("base_model_name_or_path").or_else(|| name("model")).map(str::to_owned)
}

fn has_other_tokenizer(files: &ModelFiles, dir: &Path) -> bool {
    if !dir.join("tokenizer.json").is_file() {
        return false;
    }
    let ids = |tokenizer: Tokenizer| tokenizer.encode(SAMPLE, false).ok();
    let of_adapter = Tokenizer::from_folder(dir).ok().and_then(ids);
    let of_model = open_tokenizer(files).ok().and_then(ids);
    of_adapter.zip(of_model).is_some_and(|(adapter, model)| adapter != model)
}

/// Whether a base's name is one of `names`, whatever folder it is in and however its weights are stored.
fn is_one_of(named: &str, names: &[String]) -> bool {
    let place = Path::new(named).canonicalize().ok();
    let own = plain(named);
    names.iter().any(|name| {
        let is_same_place = place.is_some() && Path::new(name).canonicalize().ok() == place;
        is_same_place || plain(name) == own || own.is_empty()
    })
}

/// The name of a model without its folder, revision and storage: letters and digits in lower case.
fn plain(name: &str) -> String {
    /// What conversions put behind a name.
    const STORAGE: [&str; 16] = [
        "gguf",
        "nf4",
        "fp4",
        "int8",
        "int4",
        "4bit",
        "8bit",
        "bnb",
        "bf16",
        "f16",
        "fp16",
        "f32",
        "fp32",
        "quantized",
        "unsloth",
        "hf",
    ];
    // In the cache of the hub: models--ORG--NAME/snapshots/HASH.
    let cached = name.split('/').find_map(|part| part.strip_prefix("models--"));
    let name = cached.unwrap_or(name).rsplit("--").next().unwrap_or_default();
    let last = name.trim_end_matches('/').rsplit('/').find(|part| !matches!(*part, "" | "." | "model"));
    let last = last.unwrap_or_default().split(['@', ':']).next().unwrap_or_default().to_lowercase();
    let mut parts: Vec<&str> = last.split(['-', '_', '.']).collect();
    let is_quant = |part: &str| {
        let digits = part.trim_start_matches("iq").trim_start_matches('q');
        part.len() > 1 && part.starts_with(['q', 'i']) && digits.chars().all(|c| c.is_ascii_digit())
    };
    let is_storage =
        |part: &str| STORAGE.contains(&part) || is_quant(part) || matches!(part, "k" | "m" | "s" | "l");
    while parts.len() > 1
        && parts.last().is_some_and(|part| is_storage(part) || part.parse::<u8>().is_ok_and(|n| n < 2))
    {
        parts.pop();
    }
    parts.concat().chars().filter(|c| c.is_alphanumeric()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_the_same_wherever_and_however_it_is_stored() {
        let same = |named: &str, given: &str| is_one_of(named, &[given.to_owned()]);
        for (named, given) in [
            ("HuggingFaceTB/SmolLM2-135M-Instruct", "models/SmolLM2-135M-Instruct.Q4_1.gguf"),
            ("HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct-nf4/"),
            ("org/Model@main", "/data/Model"),
            ("/home/a/.cache/huggingface/hub/models--org--Name-1B/snapshots/0123abc", "org/Name-1B"),
            ("Qwen/Qwen3-8B", "unsloth/Qwen3-8B-bnb-4bit"),
            ("M", "M.Q5_K_M.gguf"),
            ("runs/full/model", "runs/full"),
            ("model", "anything: the name says nothing"),
        ] {
            assert!(same(named, given), "{named} and {given}: {} {}", plain(named), plain(given));
        }
        for (named, given) in [
            ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M-Instruct"),
            ("Qwen/Qwen3-8B", "Qwen/Qwen3-4B"),
            ("fixtures/models/chat_bpe", "fixtures/models/chat_spm"),
            ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.2-8B"),
        ] {
            assert!(!same(named, given), "{named} and {given}: {}", plain(named));
        }
    }
}
