//! The weights of a loaded model as one list, in the order of [`crate::weight_shapes`].

use crate::block::Block;
use crate::block::weights::{WeightMut, WeightRef};
use crate::model::Model;

impl Model {
    /// All weights.
    pub(crate) fn weights(&self) -> impl Iterator<Item = WeightRef<'_>> {
        std::iter::once(WeightRef::Matrix(&self.embedding))
            .chain(self.positions.as_ref().map(WeightRef::Matrix))
            .chain(self.blocks.iter().flat_map(Block::weights))
            .chain(self.norm.weights())
            .chain(self.own_head.as_ref().map(WeightRef::Matrix))
    }

    /// As [`Model::weights`], writable.
    pub(crate) fn weights_mut(&mut self) -> impl Iterator<Item = WeightMut<'_>> {
        std::iter::once(WeightMut::Matrix(&mut self.embedding))
            .chain(self.positions.as_mut().map(WeightMut::Matrix))
            .chain(self.blocks.iter_mut().flat_map(Block::weights_mut))
            .chain(self.norm.weights_mut())
            .chain(self.own_head.as_mut().map(WeightMut::Matrix))
    }
}
