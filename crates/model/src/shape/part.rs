//! The parts of a block, as plain data. An architecture says a list of them ([`crate::arch`]); what a block's files hold,
//! what its passes compute and keep, what can be adapted and how much memory it takes are loops over that list.

use lorafit_kernels::ops::attention::Heads;

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
}

/// A norm over rows of `width` values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NormShape {
    pub name: Name,
    pub width: usize,
}

/// A projection.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LinearShape {
    pub name: Name,
    pub outputs: usize,
    pub inputs: usize,
    pub bias: bool,
}

/// Attention: how queries, keys and values are used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AttendShape {
    pub heads: Heads,
    /// Norms of queries and keys before they are rotated.
    pub norms: Option<[NormShape; 2]>,
}

/// `silu(gate) * up`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GateShape {
    /// Values of a row.
    pub width: usize,
}

/// `stream += scale * value`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AddShape {
    pub scale: f32,
}
