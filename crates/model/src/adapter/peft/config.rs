//! Reading `adapter_config.json`: what of PEFT's `LoraConfig` is supported, and what is refused by its key.

use std::path::Path;

use regex::Regex;
use serde_json::{Map, Value};

use super::super::lora::LoraConfig;
use super::super::names;
use super::super::targets::{TargetError, Targets, path_pattern};
use super::super::token_rows::{KEY as TOKENS, TokenIndices};
use crate::error::FileError;

/// One for each projection of a model of 140 layers.
const MOST_PATTERNS: usize = 1000;
/// Layers of the deepest model there can be.
const MOST_LAYERS: usize = 4096;

/// PEFT matches a pattern key at the end of a module's path, after a dot or at its start.
const PATTERN_START: &str = r"(?:^|.*\.)(?:";
const PATTERN_END: &str = ")$";

/// A key of `rank_pattern` or `alpha_pattern` as its file has it.
pub(in crate::adapter) fn pattern_key(pattern: &Regex) -> &str {
    let text = pattern.as_str();
    text.strip_prefix(PATTERN_START).and_then(|t| t.strip_suffix(PATTERN_END)).unwrap_or(text)
}

/// The pattern of [`LoraConfig::rank_pattern`] that a key stands for.
pub(in crate::adapter) fn pattern_to_the_end(key: &str) -> Result<Regex, regex::Error> {
    path_pattern(&format!("{PATTERN_START}{key}{PATTERN_END}"))
}

/// The pattern of [`LoraConfig::rank_pattern`] that only `path` matches.
pub(in crate::adapter) fn exact_pattern(path: &str) -> Result<Regex, regex::Error> {
    pattern_to_the_end(&regex::escape(path))
}

/// The option by which an adapter has magnitudes.
const DORA: &str = "use_dora";

/// The option by which whole weights are trained beside the factors, and the one by which embedding and head stay one.
const SAVED: &str = "modules_to_save";
const TIED: &str = "ensure_weight_tying";

/// Those of PEFT's options for more than factors with a rank and a scale that are computed here.
pub const COMPUTED_OPTIONS: [&str; 3] = [DORA, SAVED, TOKENS];

/// Options that make an adapter more than factors with a rank and a scale, each with the value that does nothing.
/// `fan_in_fan_out` is none of them: PEFT sets it as the layer is stored, whatever a file says.
const OPTIONS: [(&str, &str); 13] = [
    (DORA, "false"),
    ("bias", "\"none\""),
    ("lora_bias", "false"),
    (SAVED, "null"),
    ("layer_replication", "null"),
    (TOKENS, "null"),
    ("alora_invocation_tokens", "null"),
    ("target_parameters", "null"),
    ("use_qalora", "false"),
    ("use_bdlora", "null"),
    ("arrow_config", "null"),
    ("kasa_config", "null"),
    ("monteclora_config", "null"),
];

/// Keys beside [`OPTIONS`] and those that are read: they say nothing of what a trained adapter computes.
const WITHOUT_EFFECT: [&str; 19] = [
    "arrow_config",
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "loftq_config",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
    "velora_config",
];
const READ: [&str; 13] = [
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    TIED,
    // The first releases of PEFT wrote this one, Unsloth writes the next.
    "merge_weights",
    "unsloth_fixed",
];

/// Keys that nothing here knows and that say something, each with its value.
pub(super) fn unknown_keys(json: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    let is_known = |key: &str| {
        READ.contains(&key)
            || WITHOUT_EFFECT.contains(&key)
            || OPTIONS.iter().any(|(option, _)| *option == key)
    };
    let says_nothing =
        |value: &Value| ["null", "false", "[]", "{}", "\"\""].contains(&value.to_string().as_str());
    json.iter().filter(move |(key, value)| !is_known(key) && !says_nothing(value))
}

/// Those of [`OPTIONS`] that a configuration uses, each with the value that does nothing and its own.
pub(in crate::adapter) fn used_options(
    json: &Map<String, Value>,
) -> impl Iterator<Item = (&'static str, &'static str, &Value)> {
    let does_nothing = |value: &Value, plain: &str| {
        let text = value.to_string();
        ["null", "false", "[]", "{}", plain].contains(&text.as_str())
    };
    OPTIONS.into_iter().filter_map(move |(key, plain)| {
        let value = json.get(key)?;
        (!does_nothing(value, plain)).then_some((key, plain, value))
    })
}

/// The value of `init_lora_weights` that changes the base's weights when the adapter is made, so that PEFT changes them again on
/// loading: any that is not known to leave them.
pub(in crate::adapter) fn changes_the_base(json: &Map<String, Value>) -> Option<&str> {
    const LEAVING: [&str; 4] = ["gaussian", "orthogonal", "eva", "default"];
    let init = json.get("init_lora_weights").and_then(Value::as_str)?;
    (!LEAVING.contains(&init)).then_some(init)
}

/// What helps where a number is none.
const DAMAGED: &str = "the file was changed or damaged: take both files from where the adapter was saved";

/// A key that has another value than one of `expected`.
fn wrong(json: &Map<String, Value>, key: &str, expected: &str) -> FileError {
    let found = json.get(key).map_or("missing".to_owned(), Value::to_string);
    fail(format!("`{key}` is {found}, expected {expected}"))
}

/// The file is said by who knows it.
fn fail(problem: String) -> FileError {
    FileError::new(Path::new(""), problem)
}

fn of_targets(e: TargetError) -> FileError {
    fail(e.to_string()).with_hint_of(e.hint())
}

/// What the configuration says; errors are [`FileError::at`] no file yet.
pub(super) fn read_config(json: &Map<String, Value>) -> Result<LoraConfig, FileError> {
    check_kind(json)?;
    let is_rank = |rank: &u64| (1..=65_536).contains(rank);
    let rank = number_or_8(json, "r").as_u64().filter(is_rank);
    let rank = rank.ok_or_else(|| wrong(json, "r", "a rank from 1 to 65536").with_hint(DAMAGED))?;
    let alpha = number_or_8(json, "lora_alpha").as_f64();
    let alpha = alpha.ok_or_else(|| wrong(json, "lora_alpha", "a number").with_hint(DAMAGED))?;
    let targets = targets(json)?;
    let exclude = excluded(json)?;
    let layers = layers(json)?;
    let use_rslora = match json.get("use_rslora") {
        None | Some(Value::Null) => false,
        Some(value) => value.as_bool().ok_or_else(|| wrong(json, "use_rslora", "true or false"))?,
    };
    let dropout = match json.get("lora_dropout") {
        None | Some(Value::Null) => 0.0,
        Some(value) => {
            let dropout = value.as_f64().filter(|p| (0.0..1.0).contains(p));
            dropout.ok_or_else(|| wrong(json, "lora_dropout", "a number from 0 to below 1"))?
        }
    };
    let use_dora = match json.get(DORA) {
        None | Some(Value::Null) => false,
        Some(value) => value.as_bool().ok_or_else(|| wrong(json, DORA, "true or false"))?,
    };
    let ensure_weight_tying = match json.get(TIED) {
        None | Some(Value::Null) => false,
        Some(value) => value.as_bool().ok_or_else(|| wrong(json, TIED, "true or false"))?,
    };
    let save_modules = match json.get(SAVED) {
        None | Some(Value::Null) => Vec::new(),
        Some(value) => match texts(value) {
            Some(names) => names.map(str::to_owned).collect(),
            None => return Err(wrong(json, SAVED, "a list of names")),
        },
    };
    if save_modules.iter().any(String::is_empty) || save_modules.len() > MOST_PATTERNS {
        let expected = format!("names that are not empty, {MOST_PATTERNS} at most");
        return Err(fail(format!("`{SAVED}`: expected {expected}")));
    }
    Ok(LoraConfig {
        rank: rank as usize,
        alpha,
        use_rslora,
        dropout: (dropout as f32).min(0.99),
        targets,
        exclude,
        sites: None,
        layers,
        rank_pattern: patterns(json, "rank_pattern", |v| Some(v.as_u64().filter(is_rank)? as usize))?,
        alpha_pattern: patterns(json, "alpha_pattern", Value::as_f64)?,
        use_dora,
        save_modules,
        tokens: read_tokens(json)?,
        ensure_weight_tying,
    })
}

/// Refuses what is no LoRA, or more than factors with a rank and a scale, magnitudes, whole weights and rows of
/// tokens.
fn check_kind(json: &Map<String, Value>) -> Result<(), FileError> {
    let kind = json.get("peft_type").and_then(Value::as_str);
    if kind != Some("LORA") {
        let error = wrong(json, "peft_type", "\"LORA\"");
        return Err(match kind {
            // They put something in front of a text, and have nothing to merge.
            Some("PROMPT_TUNING" | "PREFIX_TUNING" | "P_TUNING" | "MULTITASK_PROMPT_TUNING" | "CPT")
            | None => error.with_hint("only LoRA adapters are read"),
            Some(_) => error.with_hint(names::merged_in_peft()),
        });
    }
    if let Some((key, plain, _)) = used_options(json).find(|(key, ..)| !COMPUTED_OPTIONS.contains(key)) {
        return Err(wrong(json, key, plain).with_hint(names::merged_in_peft()));
    }
    if changes_the_base(json).is_some() {
        return Err(wrong(json, "init_lora_weights", "one that leaves the base as it is").with_hint(
            "convert it in PEFT, with the adapter as it was before training: save_pretrained(DIR, \
             path_initial_model_for_weight_conversion=INITIAL)",
        ));
    }
    Ok(())
}

/// The tokens whose rows are trained: ids of the embedding, or of each module by its name.
///
/// # Errors
/// What is neither.
pub(in crate::adapter) fn read_tokens(json: &Map<String, Value>) -> Result<TokenIndices, FileError> {
    let wrong = || wrong(json, TOKENS, "a list of token ids, or one for each module");
    let ids = |value: &Value| -> Result<Vec<u32>, FileError> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        value.as_array().ok_or_else(wrong)?.iter().map(|value| id(value).ok_or_else(wrong)).collect()
    };
    let modules = match json.get(TOKENS) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) if list.is_empty() => Vec::new(),
        Some(Value::Object(modules)) if modules.len() <= MOST_PATTERNS => modules
            .iter()
            .map(|(name, value)| Ok((Some(name.clone()), ids(value)?)))
            .collect::<Result<_, FileError>>()?,
        Some(list) => vec![(None, ids(list)?)],
    };
    Ok(TokenIndices { modules, ..TokenIndices::default() })
}

/// The value of `key`, of which PEFT's own is 8 where a file has none.
fn number_or_8(json: &Map<String, Value>, key: &str) -> Value {
    json.get(key).cloned().unwrap_or(Value::from(8))
}

/// The texts of a list of nothing else.
fn texts(value: &Value) -> Option<impl Iterator<Item = &str>> {
    let list = value.as_array().filter(|list| list.iter().all(Value::is_string))?;
    Some(list.iter().filter_map(Value::as_str))
}

fn targets(json: &Map<String, Value>) -> Result<Targets, FileError> {
    let targets = match json.get("target_modules") {
        Some(Value::String(s)) if s == "all-linear" => Ok(Targets::AllLinear),
        Some(Value::String(pattern)) => Targets::pattern_of_peft(pattern),
        other => match other.and_then(texts) {
            Some(names) => Targets::names_of_peft(names),
            None => return Err(wrong(json, "target_modules", "a list of names or a pattern")),
        },
    };
    targets.map_err(of_targets)
}

fn excluded(json: &Map<String, Value>) -> Result<Option<Targets>, FileError> {
    let excluded = match json.get("exclude_modules") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(pattern)) if pattern.is_empty() => return Ok(None),
        Some(Value::Array(names)) if names.is_empty() => return Ok(None),
        Some(Value::String(pattern)) => Targets::pattern_of_peft(pattern),
        Some(other) => match texts(other) {
            Some(names) => Targets::names_of_peft(names),
            None => return Err(wrong(json, "exclude_modules", "a list of names or a pattern")),
        },
    };
    excluded.map(Some).map_err(of_targets)
}

fn layers(json: &Map<String, Value>) -> Result<Option<Vec<usize>>, FileError> {
    let layer = |value: &Value| {
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
        number.ok_or_else(|| wrong(json, "layers_to_transform", "a list of layer numbers"))
    };
    match json.get("layers_to_transform") {
        None | Some(Value::Null) => Ok(None),
        // PEFT takes an empty list for all layers.
        Some(Value::Array(list)) if list.is_empty() => Ok(None),
        Some(Value::Array(list)) if list.len() > MOST_LAYERS => {
            Err(fail(format!("`layers_to_transform` names more than {MOST_LAYERS} layers")))
        }
        Some(Value::Array(list)) => Ok(Some(list.iter().map(layer).collect::<Result<_, _>>()?)),
        Some(one) => Ok(Some(vec![layer(one)?])),
    }
}

/// The values of `key` by pattern.
pub(in crate::adapter) fn patterns<T>(
    json: &Map<String, Value>,
    key: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<(Regex, T)>, FileError> {
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
            let regex = pattern_to_the_end(pattern)
                .map_err(|e| fail(format!("`{key}`: `{pattern}` is not a regular expression: {e}")))?;
            let value =
                read(value).ok_or_else(|| fail(format!("`{key}`: the value of `{pattern}` is {value}")))?;
            Ok((regex, value))
        })
        .collect()
}
