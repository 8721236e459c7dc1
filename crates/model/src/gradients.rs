//! Gradients of what is trained, added up over micro-batches: of an adapter's factors, of weights of the model, or both.
//! What has no slot here gets no gradient, and nothing below the lowest slot is back-propagated.

use lorafit_kernels::{Tensor, Weight};

use crate::adapter::{Adapter, GroupGradients, LoraGroup};
use crate::block::attend::HeadNormGradients;
use crate::block::linear::LinearGroup;
use crate::block::norm::NormGradients;
use crate::block::vector::Vector;
use crate::block::{Block, Step};
use crate::model::Model;

/// The gradients of a run.
#[derive(Debug)]
pub struct Gradients {
    pub(crate) embedding: Option<Tensor>,
    /// Of learned positions.
    pub(crate) positions: Option<Tensor>,
    pub(crate) blocks: Vec<BlockGradients>,
    pub(crate) norm: NormGradients,
    /// Of a head of its own; a tied one adds to `embedding`.
    pub(crate) head: Option<Tensor>,
}

/// Those of a block: one for each of its steps.
#[derive(Debug)]
pub(crate) struct BlockGradients {
    pub steps: Vec<StepGradients>,
}

/// Those of a step of a block.
#[derive(Debug)]
pub(crate) enum StepGradients {
    Norm(NormGradients),
    Project(SiteGradients),
    Attend(HeadNormGradients),
    /// It has no weights.
    None,
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
    /// A block, and a step of it.
    Block(usize, usize),
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

impl StepGradients {
    fn any(&self) -> bool {
        match self {
            StepGradients::Norm(norm) => norm.any(),
            StepGradients::Project(site) => site.any(),
            StepGradients::Attend(norms) => norms.iter().flatten().any(NormGradients::any),
            StepGradients::None => false,
        }
    }
}

impl BlockGradients {
    fn new(block: &Block, adapter: Option<&[Option<LoraGroup>]>) -> Self {
        let of_step = |step: &Step| match step {
            Step::Norm(norm) => StepGradients::Norm(NormGradients::of(&norm.norm)),
            Step::Project(project) => {
                let group = adapter.and_then(|groups| groups[project.site].as_ref());
                StepGradients::Project(SiteGradients::new(&project.group, group.map(GroupGradients::like)))
            }
            Step::Attend(attend) => StepGradients::Attend(
                attend.norms.as_ref().map(|norms| norms.each_ref().map(NormGradients::of)),
            ),
            Step::Gate(_) | Step::Add(_) | Step::Again(_) => StepGradients::None,
        };
        BlockGradients { steps: block.steps.iter().map(of_step).collect() }
    }

    /// The first step that has a slot.
    fn lowest(&self) -> Option<usize> {
        self.steps.iter().position(StepGradients::any)
    }

    fn sites(&self) -> impl Iterator<Item = &SiteGradients> {
        self.steps.iter().filter_map(|step| match step {
            StepGradients::Project(site) => Some(site),
            StepGradients::Norm(_) | StepGradients::Attend(_) | StepGradients::None => None,
        })
    }

    /// Those of the weights, in the order of [`Block::weights`].
    fn weights(&self) -> impl Iterator<Item = &Tensor> {
        let projections = self.sites().flat_map(|site| &site.projections);
        let heads = self.steps.iter().filter_map(|step| match step {
            StepGradients::Attend(norms) => norms.as_ref(),
            StepGradients::Norm(_) | StepGradients::Project(_) | StepGradients::None => None,
        });
        let others = self.steps.iter().filter_map(|step| match step {
            StepGradients::Norm(norm) => Some(norm),
            StepGradients::Project(_) | StepGradients::Attend(_) | StepGradients::None => None,
        });
        let norms = heads.flatten().chain(others).flat_map(NormGradients::all);
        projections.flat_map(|p| p.weight.iter().chain(&p.bias)).chain(norms)
    }

    /// All, those of factors too, in any order.
    fn all_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        self.steps.iter_mut().flat_map(|step| -> Vec<&mut Tensor> {
            match step {
                StepGradients::Norm(norm) => norm.all_mut().collect(),
                StepGradients::Attend(norms) => {
                    norms.iter_mut().flatten().flat_map(NormGradients::all_mut).collect()
                }
                StepGradients::Project(SiteGradients { adapter, projections }) => {
                    let factors =
                        adapter.iter_mut().flat_map(|g| std::iter::once(&mut g.a).chain(&mut g.b_t));
                    let weights = projections.iter_mut().flat_map(|p| p.weight.iter_mut().chain(&mut p.bias));
                    factors.chain(weights).collect()
                }
                StepGradients::None => Vec::new(),
            }
        })
    }
}

impl Gradients {
    /// Zeros for every factor of `adapter` and every weight of `model` that is trained.
    pub fn new(model: &Model, adapter: Option<&Adapter>) -> Self {
        let of_layer = |layer: usize| adapter.map(|adapter| &adapter.layers[layer][..]);
        let blocks = model.blocks.iter().enumerate();
        Gradients {
            embedding: of_matrix(&model.embedding),
            positions: model.positions.as_ref().and_then(of_matrix),
            blocks: blocks.map(|(layer, block)| BlockGradients::new(block, of_layer(layer))).collect(),
            norm: NormGradients::of(&model.norm),
            head: model.own_head.as_ref().and_then(of_matrix),
        }
    }

    /// All gradients: those of the factors in the order of [`Adapter::tensors`], then those of the weights in the order
    /// of [`Parameters::tensors`](crate::Parameters::tensors).
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let groups = self.blocks.iter().flat_map(BlockGradients::sites).flat_map(|site| &site.adapter);
        groups
            .flat_map(|g| std::iter::once(&g.a).chain(&g.b_t))
            .chain(&self.embedding)
            .chain(&self.positions)
            .chain(self.blocks.iter().flat_map(BlockGradients::weights))
            .chain(self.norm.all())
            .chain(&self.head)
    }

    /// Sets every gradient to zero.
    pub fn clear(&mut self) {
        let Gradients { embedding, positions, blocks, norm, head } = self;
        let outer = [embedding, positions, head].into_iter().flatten().chain(norm.all_mut());
        for tensor in outer.chain(blocks.iter_mut().flat_map(BlockGradients::all_mut)) {
            tensor.clear(tensor.len());
        }
    }

    /// The first place that has a slot: backward ends there.
    pub(crate) fn lowest(&self) -> Option<Place> {
        if self.embedding.is_some() || self.positions.is_some() {
            return Some(Place::Embedding);
        }
        let mut blocks = self.blocks.iter().enumerate();
        let in_blocks = blocks.find_map(|(i, block)| Some(Place::Block(i, block.lowest()?)));
        let norm = self.norm.any().then_some(Place::Norm);
        in_blocks.or(norm).or(self.head.as_ref().map(|_| Place::Head))
    }
}
