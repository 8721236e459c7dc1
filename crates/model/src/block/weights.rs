//! The weights of a block as one list, in the order of [`crate::weight_shapes`].

use lorafit_kernels::Weight;

use super::linear::LinearGroup;
use super::{Block, Step};
use crate::norm::Norm;
use crate::vector::Vector;

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

impl Block {
    /// Its weights, norms last.
    pub(crate) fn weights(&self) -> impl Iterator<Item = WeightRef<'_>> {
        let matrices = self.groups().flat_map(LinearGroup::weights);
        let heads = self.steps.iter().filter_map(|step| match step {
            Step::Attend(attend) => attend.norms.as_ref(),
            Step::Norm(_) | Step::Project(_) | Step::Gate(_) | Step::Add(_) | Step::Again(_) => None,
        });
        let others = self.steps.iter().filter_map(|step| match step {
            Step::Norm(norm) => Some(&norm.norm),
            Step::Project(_) | Step::Attend(_) | Step::Gate(_) | Step::Add(_) | Step::Again(_) => None,
        });
        matrices.chain(heads.flatten().chain(others).flat_map(Norm::weights))
    }

    /// As [`Block::weights`], writable.
    pub(crate) fn weights_mut(&mut self) -> impl Iterator<Item = WeightMut<'_>> {
        let (mut matrices, mut heads, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for step in &mut self.steps {
            match step {
                Step::Project(project) => matrices.extend(project.group.weights_mut()),
                Step::Attend(attend) => {
                    heads.extend(attend.norms.iter_mut().flatten().flat_map(Norm::weights_mut))
                }
                Step::Norm(norm) => others.extend(norm.norm.weights_mut()),
                Step::Gate(_) | Step::Add(_) | Step::Again(_) => {}
            }
        }
        matrices.into_iter().chain(heads).chain(others)
    }
}

impl Norm {
    pub(crate) fn weights(&self) -> impl Iterator<Item = WeightRef<'_>> {
        std::iter::once(&self.weight).chain(&self.bias).map(WeightRef::Vector)
    }

    pub(crate) fn weights_mut(&mut self) -> impl Iterator<Item = WeightMut<'_>> {
        std::iter::once(&mut self.weight).chain(&mut self.bias).map(WeightMut::Vector)
    }
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
