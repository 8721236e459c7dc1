//! The weights of a model by checkpoint name, with their shapes: one order for lists of shapes, of weights and of their
//! gradients.

use super::config::Config;

/// A weight of a model before it is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightShape {
    /// Its checkpoint name, such as `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    /// The block it belongs to.
    pub layer: Option<usize>,
    /// `[out, in]` of a matrix, `[len]` of a norm or bias.
    pub dims: Vec<usize>,
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
    };
    let table = [config.vocab_size, config.hidden_size];
    let mut shapes = vec![outer("model.embed_tokens", &table)];
    shapes.extend((0..config.num_hidden_layers).flat_map(|layer| of_block(config, layer)));
    let norm = config.final_norm();
    shapes.push(outer(norm.name.hf, &[norm.width]));
    if norm.has_bias() {
        shapes.push(WeightShape { name: format!("{}.bias", norm.name.hf), ..outer("", &[norm.width]) });
    }
    if !config.tie_word_embeddings {
        shapes.push(outer("lm_head", &table));
    }
    shapes
}

/// Projections with their biases, then norms.
fn of_block(config: &Config, layer: usize) -> Vec<WeightShape> {
    let block = config.block(layer);
    let shape = |path: &str, kind: &str, dims: &[usize]| WeightShape {
        name: format!("{}.{kind}", block_path(layer, path)),
        layer: Some(layer),
        dims: dims.to_vec(),
    };
    let mut shapes = Vec::new();
    for linear in block.linears().flatten() {
        shapes.push(shape(linear.name.hf, "weight", &[linear.outputs, linear.inputs]));
        if linear.bias {
            shapes.push(shape(linear.name.hf, "bias", &[linear.outputs]));
        }
    }
    for norm in block.norms() {
        shapes.push(shape(norm.name.hf, "weight", &[norm.width]));
        if norm.has_bias() {
            shapes.push(shape(norm.name.hf, "bias", &[norm.width]));
        }
    }
    shapes
}

/// Before the number of a layer.
const LAYERS: &str = "model.layers.";

/// The path of a part of a block: `model.layers.3.self_attn.q_proj`.
pub(crate) fn block_path(layer: usize, part: &str) -> String {
    format!("{LAYERS}{layer}.{part}")
}

/// The layer and the part of a path, if it is one of a block as it is written: not `+1` for 1, nor `01`.
pub(crate) fn in_block(path: &str) -> Option<(usize, &str)> {
    let (number, part) = path.strip_prefix(LAYERS)?.split_once('.')?;
    let layer: usize = number.parse().ok()?;
    (layer.to_string() == number).then_some((layer, part))
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
    let is_norm = |norm: &super::part::NormShape, part: &str| {
        norm.kind == super::part::NormKind::RmsPlusOne && part.strip_suffix(".weight") == Some(norm.name.hf)
    };
    let found = match in_block(name) {
        Some((layer, part)) => config.block(layer).norms().any(|norm| is_norm(norm, part)),
        None => is_norm(&config.final_norm(), name),
    };
    if found { 1.0 } else { 0.0 }
}

/// The GGUF name of the checkpoint tensor `name` (llama.cpp `gguf-py/gguf/tensor_mapping.py`).
pub(crate) fn gguf_name(config: &Config, name: &str) -> Option<String> {
    let whole = match name {
        "model.embed_tokens.weight" => Some("token_embd.weight"),
        "model.norm.weight" => Some("output_norm.weight"),
        "model.norm.bias" => Some("output_norm.bias"),
        "lm_head.weight" => Some("output.weight"),
        _ => None,
    };
    if let Some(whole) = whole {
        return Some(whole.to_owned());
    }
    let (layer, rest) = in_block(name)?;
    let (part, kind) = rest.rsplit_once('.')?;
    let block = config.block(layer);
    let mut names =
        block.linears().flatten().map(|linear| linear.name).chain(block.norms().map(|norm| norm.name));
    let part = names.find(|name| name.hf == part)?;
    Some(format!("blk.{layer}.{}.{kind}", part.gguf))
}
