//! A vector of a model, `[len]` in f32: the weight of a norm, or a bias.

use std::ops::Deref;

use lorafit_kernels::Tensor;

/// Its values, and whether they are trained.
#[derive(Debug)]
pub(crate) struct Vector {
    pub values: Tensor,
    pub is_trained: bool,
}

impl Vector {
    /// One that is not trained.
    pub(crate) fn frozen(values: Tensor) -> Self {
        Vector { values, is_trained: false }
    }

    /// The values, if they are trained.
    pub(crate) fn trained(&self) -> Option<&Tensor> {
        self.is_trained.then_some(&self.values)
    }
}

impl Deref for Vector {
    type Target = Tensor;
    fn deref(&self) -> &Tensor {
        &self.values
    }
}
