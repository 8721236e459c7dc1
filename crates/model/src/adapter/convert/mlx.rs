//! LoRA adapters as mlx-lm reads them (`mlx_lm/tuner`): `adapters.safetensors` with `model.layers.0.self_attn.q_proj.lora_a`
//! `[in, r]` and `.lora_b` `[r, out]`, and `adapter_config.json` with `rank`, `scale` and the keys of the modules.
//!
//! There `y = x W^T + scale * (x a) b`: one rank and one scale for all, in the last `num_layers` layers, each with all keys.

use std::collections::BTreeMap;
use std::path::Path;

use lorafit_remedy::{Task, remedy};
use serde_json::{Value, json};

use super::super::lora::Adapter;
use super::super::peft::{CONFIG_FILE, decode, matrix, parse_weights};
use super::{Projection, adapter_of, folded, module_of, projections};
use crate::error::FileError;
use crate::files::{MAX_CONFIG_BYTES, TensorData, TensorSource, inside, map, read_text};
use crate::shape::{Config, Module, Names, module_shape};

/// The name of the configuration, which PEFT has as well.
pub const MLX_CONFIG: &str = CONFIG_FILE;
/// The name of the file of its factors.
pub const MLX_WEIGHTS: &str = "adapters.safetensors";

/// Whether a folder has an adapter of mlx-lm.
pub fn is_mlx(dir: &Path) -> bool {
    dir.join(MLX_WEIGHTS).is_file()
}

/// An adapter as mlx-lm has it.
#[derive(Debug)]
pub struct MlxAdapter<'a> {
    projections: Vec<Projection>,
    shape: &'a Config,
    scale: f64,
    config: Vec<u8>,
}

impl<'a> MlxAdapter<'a> {
    /// That of an adapter of a model of shape `shape`.
    ///
    /// # Errors
    /// Projections with different ranks, or that are not the same in each of the last layers.
    pub fn new(adapter: &Adapter, shape: &'a Config) -> Result<Self, FileError> {
        let fail = |problem: &str| {
            let error = FileError::new(Path::new("mlx"), problem.to_owned());
            Err(error.with_hint(remedy!["merge it instead: ", Task::Merge]))
        };
        if shape.names != Names::USUAL {
            return fail("mlx-lm has other names for the parts of this model");
        }
        if adapter.config().use_dora {
            return fail("mlx-lm has its own form of DoRA, which is not written");
        }
        if !adapter.saved.weights.is_empty() {
            return fail("mlx-lm has no place for whole weights (modules_to_save)");
        }
        if !adapter.config().tokens.is_empty() {
            return fail("mlx-lm has no place for rows of tokens (trainable_token_indices)");
        }
        if adapter.is_outside() {
            return fail("an adapter of lm_head or the embedding is not written for mlx-lm");
        }
        let all = projections(adapter);
        // A scale of 0 could not be read again: an update that is nothing has factors that are nothing.
        let scale_of = |first: &Projection| if first.scale == 0.0 { 1.0 } else { first.scale };
        let (rank, scale) = all.first().map_or((1, 1.0), |first| (first.rank, scale_of(first)));
        if all.iter().any(|projection| projection.rank != rank) {
            return fail("mlx-lm has one rank for all projections, the adapter several");
        }
        let first = all.iter().map(|projection| projection.layer).min().unwrap_or(0);
        let modules: Vec<Module> = shape
            .modules()
            .into_iter()
            .filter(|module| all.iter().any(|projection| projection.module == *module))
            .collect();
        let layers = shape.num_hidden_layers - first;
        if modules.len() * layers != all.len() {
            return fail("mlx-lm adapts the same projections in each of the last layers, the adapter others");
        }
        let keys: Vec<&str> = modules.iter().map(|module| module.in_block()).collect();
        let config = json!({
            "fine_tune_type": "lora",
            "num_layers": layers,
            "lora_parameters": {"rank": rank, "scale": scale, "dropout": adapter.config().dropout, "keys": keys},
        });
        let config = serde_json::to_vec_pretty(&config).expect("plain values");
        Ok(MlxAdapter { projections: all, shape, scale, config })
    }

    /// The content of [`MLX_CONFIG`].
    pub fn config(&self) -> &[u8] {
        &self.config
    }

    /// The tensors of [`MLX_WEIGHTS`].
    pub fn sources(&self) -> Vec<TensorSource<'_>> {
        self.projections
            .iter()
            .flat_map(|projection| sources_of(projection, self.shape, self.scale))
            .collect()
    }
}

fn sources_of<'a>(projection: &'a Projection, config: &Config, scale: f64) -> [TensorSource<'a>; 2] {
    let (outputs, inputs) = module_shape(config, projection.module);
    let (rank, a, b) = (projection.rank, &projection.a, folded(projection, scale));
    let path = projection.module.path(projection.layer);
    let transposed = |values: std::borrow::Cow<'a, [f32]>, cols: usize, rows: usize| {
        TensorData::f32(move |range, out| {
            range.zip(out).for_each(|(i, out)| *out = values[i % rows * cols + i / rows]);
        })
    };
    [
        TensorSource {
            name: format!("{path}.lora_a"),
            shape: vec![inputs, rank],
            data: transposed(a.into(), inputs, rank),
        },
        TensorSource {
            name: format!("{path}.lora_b"),
            shape: vec![rank, outputs],
            data: transposed(b.into(), rank, outputs),
        },
    ]
}

/// Reads an adapter of a model of shape `config` from the folder `dir`.
///
/// # Errors
/// Files that are missing or malformed, an adapter of another kind (DoRA, full weights) or of another model.
pub fn load_mlx(dir: &Path, config: &Config) -> Result<Adapter, FileError> {
    let path = inside(dir, MLX_CONFIG)?;
    let fail = |problem: String| FileError::new(&path, problem);
    if config.names != Names::USUAL {
        return Err(fail("adapters of mlx-lm are not read for this kind of model".to_owned())
            .with_hint("fuse it: mlx_lm.fuse --model BASE --adapter-path DIR --save-path MERGED"));
    }
    let text = read_text(&path, MAX_CONFIG_BYTES).map_err(|e| fail(format!("cannot read: {e}")))?;
    let json: Value = serde_json::from_str(&text).map_err(|e| fail(format!("not JSON: {e}")))?;
    let kind = json.get("fine_tune_type").and_then(Value::as_str).unwrap_or("lora");
    if kind != "lora" {
        return Err(fail(format!("`fine_tune_type` is \"{kind}\", expected \"lora\""))
            .with_hint("fuse it: mlx_lm.fuse --model BASE --adapter-path DIR --save-path MERGED"));
    }
    let scale = json.pointer("/lora_parameters/scale").and_then(Value::as_f64);
    let scale = scale.filter(|scale| scale.is_finite() && *scale != 0.0);
    let scale =
        scale.ok_or_else(|| fail("`lora_parameters.scale` is not a number other than 0".to_owned()))?;

    let weights_path = inside(dir, MLX_WEIGHTS)?;
    let fail = |problem: String| FileError::new(&weights_path, problem);
    let bytes = map(&weights_path)?;
    let file = parse_weights(&weights_path, &bytes)?;
    let mut pairs: BTreeMap<String, [Option<&str>; 2]> = BTreeMap::new();
    let names = file.names();
    for name in &names {
        let (site, factor) = match (name.strip_suffix(".lora_a"), name.strip_suffix(".lora_b")) {
            (Some(site), _) => (site, 0),
            (_, Some(site)) => (site, 1),
            _ => {
                return Err(fail(format!("{name} is not a LoRA factor"))
                    .with_hint("fuse it: mlx_lm.fuse --model BASE --adapter-path DIR --save-path MERGED"));
            }
        };
        pairs.entry(site.to_owned()).or_default()[factor] = Some(name);
    }
    let mut found = Vec::new();
    for (site, pair) in pairs {
        let place = site.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
        let place = place.and_then(|(layer, path)| Some((layer.parse().ok()?, module_of(config, path)?)));
        let Some((layer, module)) = place else {
            return Err(fail(format!("{site} is not a projection of this model"))
                .with_hint("adapters of embeddings, heads and experts are not read"));
        };
        let read = |factor: usize| {
            let name = pair[factor].ok_or_else(|| fail(format!("{site} has one factor of two")))?;
            let ([rows, cols], view) = matrix(&file, name).map_err(fail)?;
            let values = decode(&view);
            let upright: Vec<f32> = (0..values.len()).map(|i| values[i % rows * cols + i / rows]).collect();
            Ok((rows, cols, upright))
        };
        let ((_, rank, a), (b_rank, _, b)) = (read(0)?, read(1)?);
        if rank != b_rank || rank == 0 {
            return Err(fail(format!("{site}: lora_a has rank {rank}, lora_b {b_rank}")));
        }
        found.push(Projection { layer, module, rank, scale, a, b });
    }
    let Some(rank) = found.first().map(|projection| projection.rank) else {
        return Err(fail("it has no factors".to_owned()));
    };
    if found.iter().any(|projection| projection.rank != rank) {
        return Err(fail("it has projections of several ranks, which mlx-lm does not write".to_owned()));
    }
    // `alpha / rank` is to give the scale again.
    let alpha = scale * rank as f64;
    let whole = alpha.round();
    let alpha = if whole / rank as f64 == scale { whole } else { alpha };
    adapter_of(&weights_path, config, found, alpha)
}
