//! The weights of a model by checkpoint name, with their shapes: one order for lists of shapes, of weights and of their
//! gradients.

use super::config::Config;
use super::names::HEAD;
use super::part::{NormKind, NormShape};

/// A weight of a model before it is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightShape {
    /// Its checkpoint name, such as `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    /// The block it belongs to.
    pub layer: Option<usize>,
    /// `[out, in]` of a matrix, `[len]` of a norm or bias.
    pub dims: Vec<usize>,
    /// Whether it is of a norm.
    pub of_norm: bool,
    /// Whether checkpoints have the matrix as `[in, out]`: those of GPT-2's layers.
    pub transposed: bool,
}

impl WeightShape {
    /// Number of values.
    #[allow(clippy::len_without_is_empty, reason = "no weight is empty")]
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// The module: the name without what of it this is.
    pub fn path(&self) -> &str {
        self.name.rsplit_once('.').map_or(&self.name, |(path, _)| path)
    }
}

/// All weights of a model; a tied head is the embedding.
pub fn weight_shapes(config: &Config) -> Vec<WeightShape> {
    let outer = |name: &str, dims: &[usize]| WeightShape {
        name: format!("{name}.weight"),
        layer: None,
        dims: dims.to_vec(),
        of_norm: false,
        transposed: false,
    };
    let table = [config.vocab_size, config.hidden_size];
    let mut shapes = vec![outer(config.names.embedding, &table)];
    if let Some(positions) = config.positions() {
        shapes.push(outer(config.names.positions, &[positions, config.hidden_size]));
    }
    shapes.extend((0..config.num_hidden_layers).flat_map(|layer| of_block(config, layer)));
    let norm = config.final_norm();
    let of_norm = WeightShape { of_norm: true, ..outer(norm.name.hf, &[norm.width]) };
    shapes.push(of_norm.clone());
    if norm.has_bias() {
        shapes.push(WeightShape { name: format!("{}.bias", norm.name.hf), ..of_norm });
    }
    if !config.tie_word_embeddings {
        shapes.push(outer(config.head_path(), &[config.outputs(), config.hidden_size]));
    }
    shapes
}

/// Projections with their biases, then norms.
fn of_block(config: &Config, layer: usize) -> Vec<WeightShape> {
    let block = config.block(layer);
    let shape = |path: &str, kind: &str, dims: &[usize]| WeightShape {
        name: format!("{}.{kind}", config.names.in_block(layer, path)),
        layer: Some(layer),
        dims: dims.to_vec(),
        of_norm: false,
        transposed: false,
    };
    let of_norm =
        |path: &str, kind: &str, dims: &[usize]| WeightShape { of_norm: true, ..shape(path, kind, dims) };
    let mut shapes = Vec::new();
    for linear in block.linears().flatten() {
        let matrix = shape(linear.name.hf, "weight", &[linear.outputs, linear.inputs]);
        shapes.push(WeightShape { transposed: linear.transposed, ..matrix });
        if linear.bias {
            shapes.push(shape(linear.name.hf, "bias", &[linear.outputs]));
        }
    }
    for norm in block.norms() {
        shapes.push(of_norm(norm.name.hf, "weight", &[norm.width]));
        if norm.has_bias() {
            shapes.push(of_norm(norm.name.hf, "bias", &[norm.width]));
        }
    }
    shapes
}

/// The matrices of a model by checkpoint name, `[rows, cols]`; a tied head is the embedding.
pub(crate) fn matrices(config: &Config) -> impl Iterator<Item = (String, usize, usize)> {
    weight_shapes(config).into_iter().filter_map(|weight| match weight.dims[..] {
        [rows, cols] => Some((weight.name, rows, cols)),
        _ => None,
    })
}

/// What the tensor `name` has less in checkpoints than what it computes with: 1 for the weights of Gemma's norms, which GGUF
/// files have whole.
pub(crate) fn stored_less(config: &Config, name: &str) -> f32 {
    let is_norm = |norm: &NormShape, part: &str| {
        norm.kind == NormKind::RmsPlusOne && part.strip_suffix(".weight") == Some(norm.name.hf)
    };
    let found = match config.names.block_of(name) {
        Some((layer, part)) => config.block(layer).norms().any(|norm| is_norm(norm, part)),
        None => is_norm(&config.final_norm(), name),
    };
    if found { 1.0 } else { 0.0 }
}

/// Whether checkpoints have the tensor `name` as `[in, out]`.
pub(crate) fn is_transposed(config: &Config, name: &str) -> bool {
    let Some((layer, part)) = config.names.block_of(name) else { return false };
    let is_it = |path: &str| part.strip_suffix(".weight") == Some(path);
    config.block(layer).linears().flatten().any(|linear| linear.transposed && is_it(linear.name.hf))
}

/// The GGUF name of the checkpoint tensor `name` (llama.cpp `gguf-py/gguf/tensor_mapping.py`).
pub(crate) fn gguf_name(config: &Config, name: &str) -> Option<String> {
    let (path, kind) = name.rsplit_once('.')?;
    let names = config.names;
    let outside = [
        (names.embedding, "token_embd"),
        (names.positions, "position_embd"),
        (names.norm, "output_norm"),
        (HEAD, "output"),
    ];
    if let Some((_, whole)) = outside.into_iter().find(|(outside, _)| *outside == path) {
        return Some(format!("{whole}.{kind}"));
    }
    let (layer, part) = names.block_of(path)?;
    let block = config.block(layer);
    let mut names =
        block.linears().flatten().map(|linear| linear.name).chain(block.norms().map(|norm| norm.name));
    let part = names.find(|name| name.hf == part)?;
    Some(format!("blk.{layer}.{}.{kind}", part.gguf))
}
