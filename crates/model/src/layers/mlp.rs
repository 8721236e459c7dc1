//! The feed-forward half of a decoder block: `down(silu(gate(x)) * up(x))`.

use super::linear::LinearGroup;

/// Projections of the feed-forward half.
#[derive(Debug)]
pub(crate) struct Mlp {
    /// `gate_proj`, `up_proj`.
    pub gate_up: LinearGroup,
    /// `down_proj`.
    pub down: LinearGroup,
}
