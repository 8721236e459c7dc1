//! The gradients of a block: a slot for what is trained, one for each of its steps.

use lorafit_kernels::{Tensor, Weight};

use super::attend::HeadNormGradients;
use super::linear::LinearGroup;
use super::pass::BlockAdapter;
use super::{Block, Step};
use crate::adapter::GroupGradients;
use crate::norm::NormGradients;
use crate::vector::Vector;

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

/// Zeros for a matrix that is trained.
pub(crate) fn of_matrix(weight: &Weight) -> Option<Tensor> {
    weight.trained().map(Tensor::zeros_like)
}

fn of_vector(vector: &Vector) -> Option<Tensor> {
    vector.trained().map(Tensor::zeros_like)
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
    /// Zeros for what of `block` is trained, or of copies that stand in for it, and for the factors of its adapters those of `of_factors`, in the order of
    /// [`Adapter::tensors`](crate::adapter::Adapter::tensors).
    pub(crate) fn new(
        block: &Block,
        adapter: Option<BlockAdapter<'_>>,
        of_factors: &mut impl Iterator<Item = Tensor>,
    ) -> Self {
        let of_step = |step: &Step| match step {
            Step::Norm(norm) => {
                StepGradients::Norm(NormGradients::of(BlockAdapter::norm(adapter, norm.stats, &norm.norm)))
            }
            Step::Project(project) => {
                let group = BlockAdapter::at(adapter, project.site).lora;
                let adapter = group.map(|group| GroupGradients::of(group, of_factors));
                StepGradients::Project(SiteGradients::new(&project.group, adapter))
            }
            Step::Attend(attend) => StepGradients::Attend(attend.norms.as_ref().map(|norms| {
                [0, 1].map(|i| NormGradients::of(BlockAdapter::norm(adapter, attend.stats + i, &norms[i])))
            })),
            Step::Gate(_) | Step::Add(_) | Step::Again(_) => StepGradients::None,
        };
        BlockGradients { steps: block.steps.iter().map(of_step).collect() }
    }

    /// The first step that has a slot.
    pub(crate) fn lowest(&self) -> Option<usize> {
        self.steps.iter().position(StepGradients::any)
    }

    /// Those of its projections.
    pub(crate) fn sites(&self) -> impl Iterator<Item = &SiteGradients> {
        self.steps.iter().filter_map(|step| match step {
            StepGradients::Project(site) => Some(site),
            StepGradients::Norm(_) | StepGradients::Attend(_) | StepGradients::None => None,
        })
    }

    /// Those of its adapters, in the order of their sites.
    pub(crate) fn adapters_mut(&mut self) -> impl Iterator<Item = &mut GroupGradients> {
        self.steps.iter_mut().filter_map(|step| match step {
            StepGradients::Project(site) => site.adapter.as_mut(),
            StepGradients::Norm(_) | StepGradients::Attend(_) | StepGradients::None => None,
        })
    }

    /// Those of the weights, in the order of [`Block::weights`].
    pub(crate) fn weights(&self) -> impl Iterator<Item = &Tensor> {
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
    pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        self.steps.iter_mut().flat_map(|step| -> Vec<&mut Tensor> {
            match step {
                StepGradients::Norm(norm) => norm.all_mut().collect(),
                StepGradients::Attend(norms) => {
                    norms.iter_mut().flatten().flat_map(NormGradients::all_mut).collect()
                }
                StepGradients::Project(SiteGradients { adapter, projections }) => {
                    let factors = adapter.iter_mut().flat_map(GroupGradients::tensors_mut);
                    let weights = projections.iter_mut().flat_map(|p| p.weight.iter_mut().chain(&mut p.bias));
                    factors.chain(weights).collect()
                }
                StepGradients::None => Vec::new(),
            }
        })
    }
}
