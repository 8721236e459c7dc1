//! Gradients of what is trained, added up over micro-batches: of an adapter's factors, of weights of the model, or both.
//! What has no slot here gets no gradient, and nothing below the lowest slot is back-propagated.

use lorafit_kernels::{Tensor, Weight};

use crate::adapter::{Adapter, GroupGradients};
use crate::arch::decoder::{Block, Stage};
use crate::layers::linear::LinearGroup;
use crate::layers::vector::Vector;
use crate::model::Model;

/// The gradients of a run.
#[derive(Debug)]
pub struct Gradients {
    pub(crate) embedding: Option<Tensor>,
    pub(crate) blocks: Vec<BlockGradients>,
    pub(crate) norm: Option<Tensor>,
    /// Of a head of its own; a tied one adds to `embedding`.
    pub(crate) head: Option<Tensor>,
}

/// Those of a block.
#[derive(Debug)]
pub(crate) struct BlockGradients {
    pub sites: [SiteGradients; 4],
    pub q_norm: Option<Tensor>,
    pub k_norm: Option<Tensor>,
    pub input_norm: Option<Tensor>,
    pub post_norm: Option<Tensor>,
}

/// Those of projections of one input.
#[derive(Debug)]
pub(crate) struct SiteGradients {
    pub adapter: Option<GroupGradients>,
    pub projections: Vec<LinearGradients>,
}

/// Those of a projection's own weights.
#[derive(Debug)]
pub(crate) struct LinearGradients {
    /// `[out, in]`.
    pub weight: Option<Tensor>,
    /// `[out]`.
    pub bias: Option<Tensor>,
}

/// What is trained, in the order in which forward reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Embedding,
    Block(usize, Stage),
    Norm,
    Head,
}

fn of_matrix(weight: &Weight) -> Option<Tensor> {
    weight.trained().map(like)
}

fn of_vector(vector: &Vector) -> Option<Tensor> {
    vector.trained().map(like)
}

/// Zeros of the same shape.
pub(crate) fn like(t: &Tensor) -> Tensor {
    Tensor::zeros(t.device(), t.len())
}

impl SiteGradients {
    fn new(group: &LinearGroup, adapter: Option<GroupGradients>) -> Self {
        let projections = group.projections.iter().map(|linear| LinearGradients {
            weight: of_matrix(&linear.weight),
            bias: linear.bias.as_ref().and_then(of_vector),
        });
        SiteGradients { adapter, projections: projections.collect() }
    }

    /// Whether backward needs the site's input.
    pub(crate) fn reads_input(&self) -> bool {
        self.adapter.is_some() || self.projections.iter().any(|p| p.weight.is_some())
    }

    fn any(&self) -> bool {
        self.reads_input() || self.projections.iter().any(|p| p.bias.is_some())
    }
}

impl BlockGradients {
    fn new(block: &Block, adapter: [Option<GroupGradients>; 4]) -> Self {
        let Block { input_norm, attention, post_norm, mlp, eps: _ } = block;
        let [qkv, output, gate_up, down] = adapter;
        let head_norms = attention.qk_norms.as_ref();
        BlockGradients {
            sites: [
                SiteGradients::new(&attention.qkv, qkv),
                SiteGradients::new(&attention.output, output),
                SiteGradients::new(&mlp.gate_up, gate_up),
                SiteGradients::new(&mlp.down, down),
            ],
            q_norm: head_norms.and_then(|(q, _)| of_vector(q)),
            k_norm: head_norms.and_then(|(_, k)| of_vector(k)),
            input_norm: of_vector(input_norm),
            post_norm: of_vector(post_norm),
        }
    }

    /// The first stage that has a slot.
    fn lowest(&self) -> Option<Stage> {
        let [qkv, output, gate_up, down] = &self.sites;
        let stages = [
            (Stage::InputNorm, self.input_norm.is_some()),
            (Stage::Qkv, qkv.any()),
            (Stage::HeadNorms, self.q_norm.is_some() || self.k_norm.is_some()),
            (Stage::Output, output.any()),
            (Stage::PostNorm, self.post_norm.is_some()),
            (Stage::GateUp, gate_up.any()),
            (Stage::Down, down.any()),
        ];
        stages.into_iter().find_map(|(stage, any)| any.then_some(stage))
    }

    fn weights(&self) -> impl Iterator<Item = &Tensor> {
        let projections = self.sites.iter().flat_map(|site| &site.projections);
        let norms = [&self.q_norm, &self.k_norm, &self.input_norm, &self.post_norm];
        projections.flat_map(|p| p.weight.iter().chain(&p.bias)).chain(norms.into_iter().flatten())
    }

    fn weights_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        let BlockGradients { sites, q_norm, k_norm, input_norm, post_norm } = self;
        let sites = sites.iter_mut().flat_map(|SiteGradients { adapter, projections }| {
            let factors = adapter.iter_mut().flat_map(|g| std::iter::once(&mut g.a).chain(&mut g.b_t));
            factors.chain(projections.iter_mut().flat_map(|p| p.weight.iter_mut().chain(&mut p.bias)))
        });
        sites.chain([q_norm, k_norm, input_norm, post_norm].into_iter().flatten())
    }
}

impl Gradients {
    /// Zeros for every factor of `adapter` and every weight of `model` that is trained.
    pub fn new(model: &Model, adapter: Option<&Adapter>) -> Self {
        let of_layer = |layer: usize| match adapter {
            Some(adapter) => {
                adapter.layers[layer].each_ref().map(|group| group.as_ref().map(GroupGradients::like))
            }
            None => [const { None }; 4],
        };
        let blocks = model.blocks.iter().enumerate();
        Gradients {
            embedding: of_matrix(&model.embedding),
            blocks: blocks.map(|(layer, block)| BlockGradients::new(block, of_layer(layer))).collect(),
            norm: of_vector(&model.norm),
            head: model.own_head.as_ref().and_then(of_matrix),
        }
    }

    /// All gradients: those of the factors in the order of [`Adapter::tensors`], then those of the weights in the order
    /// of [`Parameters::tensors`](crate::Parameters::tensors).
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let groups = self.blocks.iter().flat_map(|block| &block.sites).flat_map(|site| &site.adapter);
        groups
            .flat_map(|g| std::iter::once(&g.a).chain(&g.b_t))
            .chain(&self.embedding)
            .chain(self.blocks.iter().flat_map(BlockGradients::weights))
            .chain(&self.norm)
            .chain(&self.head)
    }

    /// Sets every gradient to zero.
    pub fn clear(&mut self) {
        let Gradients { embedding, blocks, norm, head } = self;
        let outer = [embedding, norm, head].into_iter().flatten();
        for tensor in outer.chain(blocks.iter_mut().flat_map(BlockGradients::weights_mut)) {
            tensor.clear(tensor.len());
        }
    }

    /// The first place that has a slot: backward ends there.
    pub(crate) fn lowest(&self) -> Option<Place> {
        if self.embedding.is_some() {
            return Some(Place::Embedding);
        }
        let mut blocks = self.blocks.iter().enumerate();
        let in_blocks = blocks.find_map(|(i, block)| Some(Place::Block(i, block.lowest()?)));
        let norm = self.norm.as_ref().map(|_| Place::Norm);
        in_blocks.or(norm).or(self.head.as_ref().map(|_| Place::Head))
    }
}
