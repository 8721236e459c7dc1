//! The activation of the feed-forward half, forward and backward: `act = silu(gate) * up`.

use lorafit_kernels::Tensor;
use lorafit_kernels::ops::swiglu;

use super::pass::BackwardPass;
use crate::activations::Wide;
use crate::shape::GateShape;

/// The gate as a step of a block.
#[derive(Debug)]
pub(crate) struct GateStep(pub GateShape);

impl GateStep {
    /// From gate and up to `act`; in backward, a second time.
    pub(crate) fn forward(&self, wide: &Wide, rows: usize, act: &mut Tensor) {
        swiglu::forward(&wide.gate, &wide.up, rows * self.0.width, act);
    }

    /// From the gradient of the output, in `scratch.act`, to those of gate and up, which take the places of their values.
    pub(crate) fn backward(&self, pass: &mut BackwardPass<'_>) {
        let wide = &mut pass.saved.wide;
        swiglu::backward_in_place(&pass.scratch.act, &mut wide.gate, &mut wide.up, pass.rows * self.0.width);
    }
}
