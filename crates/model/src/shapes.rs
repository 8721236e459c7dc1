//! The weights of a model by checkpoint name, with their shapes: one order for lists of shapes, of weights and of their
//! gradients.

use lorafit_kernels::Weight;

use crate::adapter::{Module, module_shape};
use crate::arch::decoder::Block;
use crate::config::Config;
use crate::layers::linear::LinearGroup;
use crate::layers::vector::Vector;
use crate::model::Model;

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
    shapes.push(outer("model.norm", &[config.hidden_size]));
    if !config.tie_word_embeddings {
        shapes.push(outer("lm_head", &table));
    }
    shapes
}

fn of_block(config: &Config, layer: usize) -> Vec<WeightShape> {
    let shape = |name: String, dims: &[usize]| WeightShape { name, layer: Some(layer), dims: dims.to_vec() };
    let mut shapes = Vec::new();
    for module in Module::ALL {
        let ((outputs, inputs), path) = (module_shape(config, module), module.path(layer));
        shapes.push(shape(format!("{path}.weight"), &[outputs, inputs]));
        if config.has_bias(module) {
            shapes.push(shape(format!("{path}.bias"), &[outputs]));
        }
    }
    let mut norm = |part: &str, len: usize| {
        shapes.push(shape(format!("model.layers.{layer}.{part}.weight"), &[len]));
    };
    if config.qk_norm {
        norm("self_attn.q_norm", config.head_dim);
        norm("self_attn.k_norm", config.head_dim);
    }
    norm("input_layernorm", config.hidden_size);
    norm("post_attention_layernorm", config.hidden_size);
    if config.model_type == "gemma2" {
        norm("pre_feedforward_layernorm", config.hidden_size);
        norm("post_feedforward_layernorm", config.hidden_size);
    }
    shapes
}

impl Config {
    /// Whether a projection has a bias.
    pub(crate) fn has_bias(&self, module: Module) -> bool {
        match module {
            Module::QProj | Module::KProj | Module::VProj => self.attention_bias,
            Module::OProj => self.attention_output_bias,
            Module::GateProj | Module::UpProj | Module::DownProj => self.mlp_bias,
        }
    }
}

/// A weight of a loaded model.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WeightRef<'a> {
    Matrix(&'a Weight),
    Vector(&'a Vector),
}

/// As [`WeightRef`], writable.
#[derive(Debug)]
pub(crate) enum WeightMut<'a> {
    Matrix(&'a mut Weight),
    Vector(&'a mut Vector),
}

impl LinearGroup {
    fn weights(&self) -> impl Iterator<Item = WeightRef<'_>> {
        self.projections.iter().flat_map(|linear| {
            let bias = linear.bias.as_ref().map(WeightRef::Vector);
            std::iter::once(WeightRef::Matrix(&linear.weight)).chain(bias)
        })
    }

    fn weights_mut(&mut self) -> impl Iterator<Item = WeightMut<'_>> {
        self.projections.iter_mut().flat_map(|linear| {
            let bias = linear.bias.as_mut().map(WeightMut::Vector);
            std::iter::once(WeightMut::Matrix(&mut linear.weight)).chain(bias)
        })
    }
}

impl Block {
    fn weights(&self) -> impl Iterator<Item = WeightRef<'_>> {
        let Block { input_norm, attention, post_norm, mlp, eps: _ } = self;
        let groups = [&attention.qkv, &attention.output, &mlp.gate_up, &mlp.down];
        let heads = attention.qk_norms.iter().flat_map(|(q, k)| [q, k]);
        let norms = heads.chain([input_norm, post_norm]).map(WeightRef::Vector);
        groups.into_iter().flat_map(LinearGroup::weights).chain(norms)
    }

    fn weights_mut(&mut self) -> impl Iterator<Item = WeightMut<'_>> {
        let Block { input_norm, attention, post_norm, mlp, eps: _ } = self;
        let groups = [&mut attention.qkv, &mut attention.output, &mut mlp.gate_up, &mut mlp.down];
        let heads = attention.qk_norms.iter_mut().flat_map(|(q, k)| [q, k]);
        let norms = heads.chain([input_norm, post_norm]).map(WeightMut::Vector);
        groups.into_iter().flat_map(LinearGroup::weights_mut).chain(norms)
    }
}

impl Model {
    /// All weights, in the order of [`weight_shapes`].
    pub(crate) fn weights(&self) -> impl Iterator<Item = WeightRef<'_>> {
        std::iter::once(WeightRef::Matrix(&self.embedding))
            .chain(self.blocks.iter().flat_map(Block::weights))
            .chain([WeightRef::Vector(&self.norm)])
            .chain(self.own_head.as_ref().map(WeightRef::Matrix))
    }

    /// As [`Model::weights`], writable.
    pub(crate) fn weights_mut(&mut self) -> impl Iterator<Item = WeightMut<'_>> {
        std::iter::once(WeightMut::Matrix(&mut self.embedding))
            .chain(self.blocks.iter_mut().flat_map(Block::weights_mut))
            .chain([WeightMut::Vector(&mut self.norm)])
            .chain(self.own_head.as_mut().map(WeightMut::Matrix))
    }
}
