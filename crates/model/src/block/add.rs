//! The addition of what a half gives to the residual stream, `stream += scale * value`, where projections do not add
//! themselves.

use lorafit_kernels::ops::elementwise;

use super::pass::{BackwardPass, ForwardPass};

/// An addition as a step of a block.
#[derive(Debug)]
pub(crate) struct AddStep {
    pub scale: f32,
    /// Whether the value came from a norm, which reads the gradient of the stream itself.
    pub of_norm: bool,
}

impl AddStep {
    /// Adds `scratch.branch`.
    pub(crate) fn forward(&self, pass: &mut ForwardPass<'_>) {
        let values = pass.rows * pass.scratch.hidden_size;
        pass.stream_to_hidden();
        let branch = &pass.scratch.branch;
        match self.scale {
            1.0 => elementwise::add(branch, values, pass.hidden),
            scale => elementwise::add_scaled(branch, scale, values, pass.hidden),
        }
    }

    /// From the gradient of the stream to that of the value, in `back.d_branch`.
    pub(crate) fn backward(&self, pass: &mut BackwardPass<'_>) {
        if self.of_norm {
            return;
        }
        let (values, back) = (pass.rows * pass.scratch.hidden_size, &mut *pass.back);
        elementwise::copy(&back.d_hidden, values, &mut back.d_branch);
        elementwise::scale(&mut back.d_branch, values, self.scale);
    }
}
