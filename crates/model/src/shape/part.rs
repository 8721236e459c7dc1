//! The parts of a block, as plain data. An architecture says a list of them ([`crate::arch`]); what a block's files hold,
//! what its passes compute and keep, what can be adapted and how much memory it takes are loops over that list.

use lorafit_kernels::ops::attention::{Heads, Scores};
use lorafit_kernels::ops::gate::Activation;

/// What a tensor is called, without its layer and its ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    /// In checkpoints of Hugging Face: `self_attn.q_proj`.
    pub hf: &'static str,
    /// In GGUF files: `attn_q`.
    pub gguf: &'static str,
}

/// One step of a block. Each reads what the one before it gave; the first reads the residual stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Part {
    /// Normalises.
    Norm(NormShape),
    /// Projections that read the same input.
    Linear(Vec<LinearShape>),
    /// Attention over three projections: queries, keys and values.
    Attend(AttendShape),
    /// The activation of the feed-forward half, over one projection or over two of which one is the gate.
    Gate(GateShape),
    /// Adds to the residual stream; what follows reads the stream again.
    Add(AddShape),
    /// What follows reads what the block's norm gave once more: the halves are beside each other.
    Again,
}

/// A norm over rows of `width` values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NormShape {
    pub name: Name,
    pub width: usize,
    pub kind: NormKind,
}

impl NormShape {
    /// Statistics of a row that forward leaves for backward.
    pub(crate) fn stats(&self) -> usize {
        match self.kind {
            NormKind::Rms | NormKind::RmsPlusOne => 1,
            NormKind::Layer { .. } => 2,
        }
    }

    /// Whether something is added.
    pub(crate) fn has_bias(&self) -> bool {
        matches!(self.kind, NormKind::Layer { bias: true })
    }
}

/// How a norm computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormKind {
    /// By the root of the mean square.
    Rms,
    /// The same, with weights that files have less one: Gemma.
    RmsPlusOne,
    /// By mean and variance.
    Layer {
        /// Whether something is added.
        bias: bool,
    },
}

/// A projection.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LinearShape {
    pub name: Name,
    pub outputs: usize,
    pub inputs: usize,
    pub bias: bool,
    /// Rows of each output, of a matrix that joins several; else empty.
    pub joined: Vec<usize>,
    /// Whether checkpoints have the matrix as `[in, out]`.
    pub transposed: bool,
}

/// Attention: how queries, keys and values are used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AttendShape {
    pub heads: Heads,
    pub scores: Scores,
    /// Which of the model's rotations; none where queries and keys stay as they are.
    pub rope: Option<usize>,
    /// Norms of queries and keys before they are rotated.
    pub norms: Option<[NormShape; 2]>,
    /// Whether queries grow with their position once they are rotated.
    pub grows: bool,
}

/// `act(gate) * up`, or `act(up)` alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GateShape {
    pub activation: Activation,
    /// Whether there is a gate beside what it is for.
    pub gated: bool,
    /// Values of a row.
    pub width: usize,
}

/// `stream += scale * value`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AddShape {
    pub scale: f32,
}
