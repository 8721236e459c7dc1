//! The activation of the feed-forward half, forward and backward: `act(gate) * up`, or `act(up)` alone.

use lorafit_kernels::Tensor;
use lorafit_kernels::ops::gate::{self, OutputProduct};

use super::pass::BackwardPass;
use crate::buffers::{Scratch, Wide};
use crate::shape::GateShape;

/// The activation as a step of a block.
#[derive(Debug)]
pub(crate) struct GateStep(pub GateShape);

impl GateStep {
    /// From gate and up to `act`; in backward a second time, where nothing below the gate is trained.
    pub(crate) fn forward(&self, wide: &Wide, rows: usize, act: &mut Tensor) {
        let GateShape { activation, gated, width } = self.0;
        match gated {
            true => gate::forward(activation, &wide.gate, &wide.up, rows * width, act),
            false => gate::plain_forward(activation, &wide.up, rows * width, act),
        }
    }

    /// As [`GateStep::backward`], and adds to the gradient of the factor that reads the output, from that of what it gives in
    /// `scratch.d_u`; false, and nothing done, of an activation alone. Overwrites `scratch.normed`.
    pub(crate) fn backward_with_factor(
        &self,
        pass: &mut BackwardPass<'_>,
        (rank, d_a): (usize, &mut Tensor),
    ) -> bool {
        let GateShape { activation, gated, width } = self.0;
        if !gated {
            return false;
        }
        let Wide { gate, up, .. } = &mut pass.saved.wide;
        let Scratch { act, d_u, normed, .. } = &mut *pass.scratch;
        let product = OutputProduct { left: d_u, rank, sum: d_a, workspace: normed };
        gate::backward_and_product(activation, act, [gate, up], (pass.rows, width), product);
        true
    }

    /// From the gradient of the output, in `scratch.act`, to those of gate and up, which take the places of their values. The
    /// output takes the place of its gradient, if it is asked for.
    pub(crate) fn backward(&self, pass: &mut BackwardPass<'_>, output_again: bool) {
        let (Wide { gate, up, .. }, act) = (&mut pass.saved.wide, &mut pass.scratch.act);
        let GateShape { activation, gated, width } = self.0;
        let len = pass.rows * width;
        match gated {
            true => gate::backward_in_place(activation, act, gate, up, len, output_again),
            false => gate::plain_backward_in_place(activation, act, up, len, output_again),
        }
    }
}
