//! The factors of an adapter by themselves, without a model: of any PEFT LoRA adapter of linear layers, whatever its
//! base and modules are called.
//!
//! [`super::load`] is strict, since it trains and answers with what it reads. Here an adapter is only looked at: what is
//! beside the factors is named, not refused.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lorafit_remedy::amounts::counted;
use regex::Regex;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value};

use super::lora::override_for;
use super::names::is_table;
use super::peft::{
    WEIGHTS_FILE, changes_the_base, decode, map_weights, matrix, parse_weights, patterns, read_json,
    read_tokens, used_options,
};
use super::token_rows::TokenIndices;
use crate::error::FileError;

/// An adapter's files, read.
#[derive(Clone, Debug)]
pub struct AdapterFile {
    /// The folder.
    pub path: PathBuf,
    /// What the adapter calls its base.
    pub base: Option<String>,
    /// `r` of the configuration; factors may have others.
    pub rank: Option<usize>,
    /// `lora_alpha` of the configuration.
    pub alpha: f64,
    /// Whether the scale is `alpha / sqrt(r)` instead of `alpha / r`.
    pub use_rslora: bool,
    /// How the factors are stored, `F32` for example; several where they differ.
    pub dtypes: Vec<String>,
    /// Bytes of the weights' file.
    pub file_bytes: u64,
    /// The factors, by layer in the order of the file's names.
    pub factors: Vec<Factors>,
    /// What else is in the file, and what of the configuration makes the update more than `scale B A`.
    pub beside: Vec<String>,
    /// Tensors of the file that are no factors of linear layers, by their names.
    pub others: Vec<String>,
    /// Values of the weights that were trained whole (`modules_to_save`), of rows of tokens, and of factors of the embedding.
    pub parameters_beside: usize,
    /// `adapter_config.json`.
    pub(crate) config: Map<String, Value>,
}

/// The update of one linear layer, `scale * B A`.
#[derive(Clone, Debug)]
pub struct Factors {
    /// The layer's path in the model, `model.layers.3.self_attn.q_proj`.
    pub path: String,
    /// The first number in the path.
    pub layer: Option<usize>,
    /// The last part of the path, `q_proj`.
    pub module: String,
    /// `r`.
    pub rank: usize,
    /// Rows of the update.
    pub outputs: usize,
    /// Columns of the update.
    pub inputs: usize,
    /// `alpha / r`, or `alpha / sqrt(r)`.
    pub scale: f64,
    /// `[rank, inputs]`, row-major.
    pub a: Vec<f32>,
    /// `[outputs, rank]`, row-major.
    pub b: Vec<f32>,
}

impl AdapterFile {
    /// Reads the adapter in the folder `dir`.
    ///
    /// # Errors
    /// Files that are missing or damaged, another kind of adapter, a factor without its partner or with values that are
    /// no numbers.
    pub fn read(dir: &Path) -> Result<Self, FileError> {
        let (config_path, json) = read_json(dir)?;
        let scales = Scales::read(&json).map_err(|e| e.at(&config_path))?;
        let weights_path = dir.join(WEIGHTS_FILE);
        let bytes = map_weights(dir)?;
        let file = parse_weights(&weights_path, &bytes)?;
        let mut names: Vec<&str> = file.names();
        names.sort_unstable();
        let (pairs, others) = pairs(&names);
        let (mut factors, mut dtypes) = (Vec::new(), Vec::new());
        for pair in pairs {
            let (found, of_pair) =
                pair.read(&file, &scales).map_err(|problem| FileError::new(&weights_path, problem))?;
            for dtype in of_pair.map(|dtype| format!("{dtype:?}")) {
                if !dtypes.contains(&dtype) {
                    dtypes.push(dtype);
                }
            }
            factors.push(found);
        }
        if factors.is_empty() {
            let problem = "it has no pair of tensors named lora_A and lora_B";
            return Err(FileError::new(&weights_path, problem)
                .with_hint("only LoRA adapters of linear layers can be looked at"));
        }
        factors.sort_by_key(|factors| factors.layer);
        // Magnitudes and whole weights are there by their options.
        let of_dora = |name: &String| uses_dora(&json) && name.contains(".lora_magnitude_vector");
        let saved = saved_modules(&json);
        let is_saved = |name: &String| {
            let path = name.rsplit_once('.').map_or(&name[..], |(path, _)| path);
            saved.iter().any(|module| path.ends_with(module)) && !name.contains(".lora_")
        };
        let values = |name: &String| file.tensor(name).map_or(0, |view| view.shape().iter().product());
        let is_tokens =
            |name: &String| trains_tokens(&json) && name.contains(".token_adapter.trainable_tokens_delta");
        let is_trained =
            |name: &&String| is_saved(name) || is_tokens(name) || name.contains(".lora_embedding_");
        let parameters_beside = others.iter().filter(is_trained).map(values).sum();
        let others: Vec<String> =
            others.into_iter().filter(|name| !of_dora(name) && !is_saved(name) && !is_tokens(name)).collect();
        let mut beside = configured_beside(&json);
        beside.extend(others.iter().map(|name| format!("tensor {name}")));
        Ok(AdapterFile {
            path: dir.to_owned(),
            base: json.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned),
            rank: json.get("r").and_then(Value::as_u64).map(|rank| rank as usize),
            alpha: scales.alpha,
            use_rslora: scales.use_rslora,
            dtypes,
            file_bytes: bytes.as_slice().len() as u64,
            factors,
            beside,
            others,
            parameters_beside,
            config: json,
        })
    }

    /// Those of `others` that were trained: without the embedding and the head that PEFT saves beside the factors as they were.
    pub fn trained_others(&self) -> impl Iterator<Item = &String> {
        self.others.iter().filter(|name| !is_table(name))
    }

    /// What the adapter is for, as PEFT names it: `CAUSAL_LM` or `SEQ_CLS`.
    pub fn task_type(&self) -> Option<&str> {
        self.config.get("task_type").and_then(Value::as_str)
    }

    /// Options of the configuration by which the adapter is more than factors with a rank and a scale (`use_dora`, `bias`,
    /// `modules_to_save` and the like), each with its value.
    pub fn options(&self) -> Vec<(&'static str, String)> {
        let used = used_options(&self.config).map(|(key, _, value)| (key, value.to_string()));
        let init = changes_the_base(&self.config).map(|init| ("init_lora_weights", format!("{init:?}")));
        used.chain(init).collect()
    }

    /// The scale that readers take for all layers which know one rank and one alpha: what the configuration says of both.
    pub fn configured_scale(&self) -> f64 {
        let largest = || self.factors.iter().map(|factors| factors.rank).max().unwrap_or(0);
        let rank = self.rank.unwrap_or_else(largest) as f64;
        self.alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// Whether [`AdapterFile::configured_scale`] is the scale of every layer.
    pub fn has_one_scale(&self) -> bool {
        let scale = self.configured_scale();
        // Powers and quotients of the same numbers may differ in their last bits.
        self.factors.iter().all(|factors| (factors.scale - scale).abs() <= 1e-9 * scale.abs())
    }

    /// Trainable values: of the factors, with DoRA of the magnitudes, and of whole weights.
    pub fn parameters(&self) -> usize {
        let magnitudes = |factors: &Factors| if uses_dora(&self.config) { factors.outputs } else { 0 };
        let of_layer = |factors: &Factors| magnitudes(factors) + factors.a.len() + factors.b.len();
        self.factors.iter().map(of_layer).sum::<usize>() + self.parameters_beside
    }
}

/// What a configuration says of the scales of its layers.
struct Scales {
    alpha: f64,
    /// Other alphas by patterns for paths.
    alphas: Vec<(Regex, f64)>,
    use_rslora: bool,
}

impl Scales {
    fn read(json: &Map<String, Value>) -> Result<Self, FileError> {
        let wrong = |key: &str, expected: &str| {
            let found = json.get(key).map_or("missing".to_owned(), Value::to_string);
            FileError::new(Path::new(""), format!("`{key}` is {found}, expected {expected}"))
        };
        if json.get("peft_type").and_then(Value::as_str) != Some("LORA") {
            return Err(wrong("peft_type", "\"LORA\""));
        }
        // PEFT's own, where a file has none.
        let alpha = json.get("lora_alpha").unwrap_or(&Value::from(8)).as_f64();
        let alpha = alpha.filter(|alpha| alpha.is_finite()).ok_or_else(|| wrong("lora_alpha", "a number"))?;
        let alphas = patterns(json, "alpha_pattern", Value::as_f64)?;
        let use_rslora = json.get("use_rslora").and_then(Value::as_bool).unwrap_or(false);
        Ok(Scales { alpha, alphas, use_rslora })
    }

    /// The scale of the layer `path` with factors of rank `rank`.
    fn of(&self, path: &str, rank: usize) -> f64 {
        let divisor = if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        override_for(&self.alphas, path).unwrap_or(self.alpha) / divisor
    }
}

/// The names of the two factors of a layer.
struct Pair<'a> {
    /// What stands before `.lora_A.`.
    path: &'a str,
    a: &'a str,
    b: String,
}

/// The pairs of factors among the sorted `names` of a file, and the names that are neither one nor its partner.
fn pairs<'a>(names: &[&'a str]) -> (Vec<Pair<'a>>, Vec<String>) {
    let (mut pairs, mut others) = (Vec::new(), Vec::new());
    for &name in names {
        if let Some((path, ending)) = name.split_once(".lora_A.") {
            pairs.push(Pair { path, a: name, b: format!("{path}.lora_B.{ending}") });
            continue;
        }
        let partner = name.replacen(".lora_B.", ".lora_A.", 1);
        if partner == name || !names.contains(&partner.as_str()) {
            others.push(name.to_owned());
        }
    }
    (pairs, others)
}

impl Pair<'_> {
    /// The factors, and how they are stored; the text says what is wrong with them.
    fn read(&self, file: &SafeTensors<'_>, scales: &Scales) -> Result<(Factors, [Dtype; 2]), String> {
        let ([rank, inputs], a, a_dtype) = finite_matrix(file, self.a)?;
        let ([outputs, b_rank], b, b_dtype) = finite_matrix(file, &self.b)?;
        if rank != b_rank || [rank, outputs, inputs].contains(&0) {
            return Err(format!(
                "{}: A is {:?} and B {:?}, expected [r, in] and [out, r]",
                self.path,
                [rank, inputs],
                [outputs, b_rank]
            ));
        }
        let path = self.path.strip_prefix("base_model.model.").unwrap_or(self.path);
        let factors = Factors {
            path: path.to_owned(),
            layer: path.split('.').find_map(|part| part.parse().ok()),
            module: path.rsplit('.').next().unwrap_or(path).to_owned(),
            rank,
            outputs,
            inputs,
            scale: scales.of(path, rank),
            a,
            b,
        };
        Ok((factors, [a_dtype, b_dtype]))
    }
}

/// The matrix `name`, whose values are all finite.
fn finite_matrix(file: &SafeTensors<'_>, name: &str) -> Result<([usize; 2], Vec<f32>, Dtype), String> {
    let (shape, view) = matrix(file, name)?;
    let values = decode(&view);
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok((shape, values, view.dtype())),
        Some(at) => Err(format!(
            "{name}: the value in row {}, column {} is {}, expected a finite number",
            at / shape[1],
            at % shape[1],
            values[at]
        )),
    }
}

fn uses_dora(json: &Map<String, Value>) -> bool {
    json.get("use_dora").and_then(Value::as_bool) == Some(true)
}

/// Whether a configuration says that rows of tokens are trained.
fn trains_tokens(json: &Map<String, Value>) -> bool {
    read_tokens(json).is_ok_and(|tokens| !tokens.is_empty())
}

/// The modules that a configuration saves whole.
fn saved_modules(json: &Map<String, Value>) -> Vec<&str> {
    let list = json.get("modules_to_save").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).filter(|name| !name.is_empty()).collect()
}

/// What of a configuration makes the trained model differ from its base by more than `scale B A`.
fn configured_beside(json: &Map<String, Value>) -> Vec<String> {
    let mut beside = Vec::new();
    if uses_dora(json) {
        beside.push("use_dora: the numbers are those of B A, without the change of magnitudes".to_owned());
    }
    let saved = saved_modules(json);
    if !saved.is_empty() {
        beside.push(format!("modules_to_save: {} were trained whole, beside B A", saved.join(", ")));
    }
    if trains_tokens(json) {
        let ids: BTreeSet<u32> = read_tokens(json).iter().flat_map(TokenIndices::ids).collect();
        let tokens = counted(ids.len(), "token", "tokens");
        beside.push(format!("trainable_token_indices: rows of {tokens} were trained, beside B A"));
    }
    if let Some(init) = changes_the_base(json) {
        beside.push(format!(
            "init_lora_weights {init}: the base was changed too, so that B A is not the whole change"
        ));
    }
    beside
}
