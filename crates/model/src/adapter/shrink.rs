//! An adapter of a smaller rank: the update `dW` of each layer without its weakest directions.
//!
//! The first `k` terms of the singular value decomposition of `dW` are the matrix of rank `k` that is nearest to it (Eckart and
//! Young 1936). The decomposition is that of [`super::analysis`], in f64 from the small factors; `dW` is never formed. All
//! layers get the same rank and scale, the latter that of the adapter's configuration, so that readers which know one rank and
//! one alpha only read it right.

use std::path::Path;

use lorafit_remedy::{Setting, remedy};
use rayon::prelude::*;
use serde_json::json;

use super::analysis::Update;
use super::factors::{AdapterFile, Factors};
use super::names::{merged_in_peft, tensor_name};
use super::peft::{COMPUTED_OPTIONS, CONFIG_FILE, NamedTensor, WEIGHTS_FILE};
use crate::error::FileError;
use crate::files::{TensorData, TensorSource, json_number};

/// Keys of a configuration that are about ranks and scales, or about how an adapter begins.
const REPLACED: [&str; 6] =
    ["use_rslora", "rank_pattern", "alpha_pattern", "init_lora_weights", "loftq_config", "eva_config"];

/// An adapter whose rank was made smaller.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The rank of all its layers.
    pub rank: usize,
    /// What became of each layer, in the order of the adapter.
    pub layers: Vec<ShrunkLayer>,
    /// The content of [`CONFIG_FILE`].
    pub config: Vec<u8>,
    tensors: Vec<NamedTensor>,
}

/// What became of the update of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct ShrunkLayer {
    /// The layer's path in the model.
    pub path: String,
    /// Its rank before.
    pub rank: usize,
    /// `||dW||_F` before.
    pub norm: f64,
    /// `||dW - dW_k||_F`: what is left out.
    pub left_out: f64,
}

impl ShrunkLayer {
    /// What is left out, in parts of the whole; 0 of an update that is zero.
    pub fn relative_error(&self) -> f64 {
        if self.norm > 0.0 { self.left_out / self.norm } else { 0.0 }
    }
}

impl Shrunk {
    /// The tensors of [`WEIGHTS_FILE`].
    pub fn sources(&self) -> Vec<TensorSource<'_>> {
        let sources = self.tensors.iter().map(|tensor| TensorSource {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            data: TensorData::f32(|range, out| out.copy_from_slice(&tensor.values[range])),
        });
        sources.collect()
    }

    /// What is left out of all updates together, in parts of the whole: the root of the sum of squares over that of the norms.
    pub fn relative_error(&self) -> f64 {
        let sum = |of: fn(&ShrunkLayer) -> f64| self.layers.iter().map(|l| of(l).powi(2)).sum::<f64>().sqrt();
        let all = sum(|layer| layer.norm);
        if all > 0.0 { sum(|layer| layer.left_out) / all } else { 0.0 }
    }
}

/// The adapter with rank `rank`, or with the largest it has where that is smaller.
///
/// # Errors
/// An adapter that is more than factors with a rank and a scale: it is named what more. Nothing to do: all layers have one
/// rank already, not a larger one, and the scale that the configuration says.
pub fn shrink(adapter: &AdapterFile, rank: usize) -> Result<Shrunk, FileError> {
    let fail = |file: &str, problem: String| FileError::new(&adapter.path.join(file), problem);
    if let Some((key, value)) = adapter.options().first() {
        let problem = format!(
            "`{key}` is {value}: the change is more than B A, so that its rank cannot be made smaller"
        );
        // lorafit can merge what it can compute.
        let hint = match COMPUTED_OPTIONS.contains(key) {
            true => "merge it into its base with lorafit merge instead".into(),
            false => merged_in_peft(),
        };
        return Err(fail(CONFIG_FILE, problem).with_hint(hint));
    }
    if let Some(name) = adapter.trained_others().next() {
        let problem = format!("tensor {name} is not a factor of a linear layer, so it has no rank to reduce");
        return Err(fail(WEIGHTS_FILE, problem).with_hint(merged_in_peft()));
    }
    let ranks = || adapter.factors.iter().map(|factors| factors.rank);
    let (least, largest) = (ranks().min().unwrap_or(0), ranks().max().unwrap_or(0));
    if largest <= rank && least == largest && adapter.has_one_scale() {
        let problem = format!("rank {largest} in all layers already: there is nothing to make smaller");
        return Err(FileError::new(Path::new(&adapter.path), problem)
            .with_hint(remedy!["give a smaller ", Setting::ShrinkRank]));
    }
    let rank = rank.min(largest);
    let scale = common_scale(adapter, rank);
    let of_layer = |factors: &Factors| {
        let update = Update::of(factors);
        let (a, b) = update.truncated(rank, scale);
        let name = |factor| tensor_name(&factors.path, factor);
        let layer = ShrunkLayer {
            path: factors.path.clone(),
            rank: factors.rank,
            norm: update.norm(),
            left_out: update.left_out(rank),
        };
        let a = NamedTensor { name: name("A"), shape: vec![rank, factors.inputs], values: a };
        let b = NamedTensor { name: name("B"), shape: vec![factors.outputs, rank], values: b };
        (layer, [a, b])
    };
    let (layers, tensors): (Vec<_>, Vec<_>) = adapter.factors.par_iter().map(of_layer).unzip();
    let tensors: Vec<NamedTensor> = tensors.into_iter().flatten().collect();
    if let Some(tensor) = tensors.iter().find(|tensor| tensor.values.iter().any(|v| !v.is_finite())) {
        return Err(fail(WEIGHTS_FILE, format!("{}: its values are too large for f32", tensor.name)));
    }
    let mut config = adapter.config.clone();
    REPLACED.iter().for_each(|key| drop(config.remove(*key)));
    config.insert("r".to_owned(), json!(rank));
    config.insert("lora_alpha".to_owned(), json_number(scale * rank as f64));
    let config = serde_json::to_vec_pretty(&config).expect("plain values");
    Ok(Shrunk { rank, layers, config, tensors })
}

/// The scale of all layers: that of the configuration, where it gives an alpha that every reader takes, or 1.
fn common_scale(adapter: &AdapterFile, rank: usize) -> f64 {
    let scale = adapter.configured_scale();
    let alpha = scale * rank as f64;
    let is_whole = alpha > 0.0 && alpha.fract() == 0.0 && alpha < 1e6 && alpha / rank as f64 == scale;
    if is_whole { scale } else { 1.0 }
}
