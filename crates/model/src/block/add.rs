//! The addition of what a half gives to the residual stream, where projections do not add themselves.

use lorafit_kernels::ops::elementwise;

use super::pass::ForwardPass;

/// `stream += value`. Its gradient is that of the stream, where the norm before it finds it.
#[derive(Debug)]
pub(crate) struct AddStep;

impl AddStep {
    /// Adds `scratch.branch`.
    pub(crate) fn forward(&self, pass: &mut ForwardPass<'_>) {
        let values = pass.rows * pass.scratch.hidden_size;
        elementwise::add(&pass.scratch.branch, values, pass.hidden);
    }
}
