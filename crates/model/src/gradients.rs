//! Gradients of what is trained, added up over micro-batches: of an adapter's factors, of weights of the model, or both.
//! What has no slot here gets no gradient, and nothing below the lowest slot is back-propagated.

use lorafit_kernels::Tensor;
use lorafit_kernels::ops::elementwise;

use crate::adapter::GroupGradients;
use crate::block::gradients::BlockGradients;
use crate::norm::NormGradients;

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
    /// Of the factors of the embedding: of `B`, then of `A`.
    pub(crate) embedding_factors: Option<[Tensor; 2]>,
    /// Of the rows of tokens: of the embedding, and of a head that has some of its own.
    pub(crate) tokens: [Option<Tensor>; 2],
    /// Of the factors of the head.
    pub(crate) head_factors: Option<GroupGradients>,
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

impl Gradients {
    /// All gradients: those of the factors in the order of [`Adapter::tensors`](crate::adapter::Adapter::tensors), then those of the weights in the order
    /// of [`Parameters::tensors`](crate::Parameters::tensors).
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let groups = self.blocks.iter().flat_map(BlockGradients::sites).flat_map(|site| &site.adapter);
        groups
            .chain(&self.head_factors)
            .flat_map(GroupGradients::tensors)
            .chain(self.embedding_factors.iter().flatten())
            .chain(self.tokens.iter().flatten())
            .chain(&self.embedding)
            .chain(&self.positions)
            .chain(self.blocks.iter().flat_map(BlockGradients::weights))
            .chain(self.norm.all())
            .chain(&self.head)
    }

    /// All gradients, writable, in an order of their own that is always the same.
    pub fn tensors_mut(&mut self) -> Vec<&mut Tensor> {
        let Gradients { embedding, positions, blocks, norm, head, embedding_factors, tokens, head_factors } =
            self;
        let of_head = head_factors.iter_mut().flat_map(GroupGradients::tensors_mut);
        let outer = [embedding, positions, head].into_iter().flatten().chain(norm.all_mut()).chain(of_head);
        let outer = outer.chain(embedding_factors.iter_mut().flatten()).chain(tokens.iter_mut().flatten());
        outer.chain(blocks.iter_mut().flat_map(BlockGradients::all_mut)).collect()
    }

    /// Sets every gradient to zero.
    pub fn clear(&mut self) {
        elementwise::clear(&mut self.tensors_mut());
    }

    /// The blocks below the lowest that backward reaches: whatever is trained, their output stays the same.
    pub fn blocks_below(&self) -> usize {
        match self.lowest() {
            Some(Place::Embedding) => 0,
            Some(Place::Block(block, _)) => block,
            Some(Place::Norm | Place::Head) | None => self.blocks.len(),
        }
    }

    /// The first place that has a slot: backward ends there.
    pub(crate) fn lowest(&self) -> Option<Place> {
        let [rows_of_embedding, rows_of_head] = self.tokens.each_ref().map(Option::is_some);
        let of_embedding = self.embedding.is_some() || self.embedding_factors.is_some() || rows_of_embedding;
        if of_embedding || self.positions.is_some() {
            return Some(Place::Embedding);
        }
        let mut blocks = self.blocks.iter().enumerate();
        let in_blocks = blocks.find_map(|(i, block)| Some(Place::Block(i, block.lowest()?)));
        let norm = self.norm.any().then_some(Place::Norm);
        let of_head = self.head.is_some() || self.head_factors.is_some() || rows_of_head;
        in_blocks.or(norm).or(of_head.then_some(Place::Head))
    }
}
