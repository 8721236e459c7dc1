//! The factors of an adapter by themselves, without a model: of any PEFT LoRA adapter of linear layers, whatever its
//! base and modules are called.
//!
//! [`super::load`] is strict, since it trains and answers with what it reads. Here an adapter is only looked at: what is
//! beside the factors is named, not refused.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::lora::override_for;
use super::peft::{
    WEIGHTS_FILE, changes_the_base, decode, format_of, map_weights, parse_weights, patterns, read_json,
    used_options,
};
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
        let wrong = |key: &str, expected: &str| {
            let found = json.get(key).map_or("missing".to_owned(), Value::to_string);
            FileError::new(&config_path, format!("`{key}` is {found}, expected {expected}"))
        };
        if json.get("peft_type").and_then(Value::as_str) != Some("LORA") {
            return Err(wrong("peft_type", "\"LORA\""));
        }
        // PEFT's own, where a file has none.
        let alpha =
            json.get("lora_alpha").unwrap_or(&Value::from(8)).as_f64().filter(|alpha| alpha.is_finite());
        let alpha = alpha.ok_or_else(|| wrong("lora_alpha", "a number"))?;
        let alphas =
            patterns(&json, "alpha_pattern", Value::as_f64).map_err(|e: FileError| e.at(&config_path))?;
        let use_rslora = json.get("use_rslora").and_then(Value::as_bool).unwrap_or(false);

        let weights_path = dir.join(WEIGHTS_FILE);
        let fail = |problem: String| FileError::new(&weights_path, problem);
        let bytes = map_weights(dir)?;
        let file = parse_weights(&weights_path, &bytes)?;
        let mut names: Vec<&str> = file.names();
        names.sort_unstable();
        let (mut factors, mut dtypes, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for &name in &names {
            let Some((path, ending)) = name.split_once(".lora_A.") else {
                let partner = name.replacen(".lora_B.", ".lora_A.", 1);
                if partner == name || !names.contains(&partner.as_str()) {
                    others.push(name.to_owned());
                }
                continue;
            };
            let read = |name: &str| {
                let view = file.tensor(name).map_err(|_| fail(format!("tensor {name} is missing")))?;
                let &[rows, cols] = view.shape() else {
                    return Err(fail(format!("{name} is {:?}, expected two dimensions", view.shape())));
                };
                if format_of(&view).is_none() {
                    return Err(fail(format!(
                        "{name} is stored as {:?}, expected F32, F16 or BF16",
                        view.dtype()
                    )));
                }
                let values = decode(&view);
                if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                    return Err(fail(format!(
                        "{name}: the value in row {}, column {} is {}, expected a finite number",
                        at / cols,
                        at % cols,
                        values[at]
                    )));
                }
                let dtype = format!("{:?}", view.dtype());
                Ok((rows, cols, values, dtype))
            };
            let (rank, inputs, a, dtype) = read(name)?;
            let (outputs, b_rank, b, b_dtype) = read(&format!("{path}.lora_B.{ending}"))?;
            if rank != b_rank || [rank, outputs, inputs].contains(&0) {
                return Err(fail(format!(
                    "{path}: A is {:?} and B {:?}, expected [r, in] and [out, r]",
                    [rank, inputs],
                    [outputs, b_rank]
                )));
            }
            for dtype in [dtype, b_dtype] {
                if !dtypes.contains(&dtype) {
                    dtypes.push(dtype);
                }
            }
            let path = path.strip_prefix("base_model.model.").unwrap_or(path);
            let alpha = override_for(&alphas, path).unwrap_or(alpha);
            let divisor = if use_rslora { (rank as f64).sqrt() } else { rank as f64 };
            factors.push(Factors {
                path: path.to_owned(),
                layer: path.split('.').find_map(|part| part.parse().ok()),
                module: path.rsplit('.').next().unwrap_or(path).to_owned(),
                rank,
                outputs,
                inputs,
                scale: alpha / divisor,
                a,
                b,
            });
        }
        if factors.is_empty() {
            return Err(fail("it has no pair of tensors named lora_A and lora_B".to_owned())
                .with_hint("only LoRA adapters of linear layers can be looked at"));
        }
        factors.sort_by_key(|factors| factors.layer);
        let mut beside = configured_beside(&json);
        beside.extend(others.iter().map(|name| format!("tensor {name}")));
        Ok(AdapterFile {
            path: dir.to_owned(),
            base: json.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned),
            rank: json.get("r").and_then(Value::as_u64).map(|rank| rank as usize),
            alpha,
            use_rslora,
            dtypes,
            file_bytes: bytes.as_slice().len() as u64,
            factors,
            beside,
            others,
            config: json,
        })
    }

    /// Options of the configuration by which the adapter is more than factors with a rank and a scale (`use_dora`, `bias`,
    /// `modules_to_save` and the like), each with its value.
    pub fn options(&self) -> Vec<(&'static str, String)> {
        let used = used_options(&self.config).map(|(key, _, value)| (key, value.to_string()));
        let init = changes_the_base(&self.config).map(|init| ("init_lora_weights", format!("{init:?}")));
        used.chain(init).collect()
    }

    /// Trainable values, of the factors only.
    pub fn parameters(&self) -> usize {
        self.factors.iter().map(|factors| factors.a.len() + factors.b.len()).sum()
    }
}

/// What of a configuration makes the trained model differ from its base by more than `scale B A`.
fn configured_beside(json: &Map<String, Value>) -> Vec<String> {
    let mut beside = Vec::new();
    if json.get("use_dora").and_then(Value::as_bool) == Some(true) {
        beside.push("use_dora: what is told is B A, without the change of magnitudes".to_owned());
    }
    if let Some(init) = changes_the_base(json) {
        beside.push(format!(
            "init_lora_weights {init}: the base was changed too, so that B A is not the whole change"
        ));
    }
    beside
}
