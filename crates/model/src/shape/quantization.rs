//! Which matrices of a model are quantised.

use lorafit_kernels::quant::Quantization;

use super::names::{Names, SCORE};

/// How a base model is quantised on loading. Norms and biases never are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseQuantization {
    /// Of the projections of the blocks.
    pub quantization: Quantization,
    /// Of the embedding and the head, too.
    pub head: bool,
}

impl BaseQuantization {
    /// The quantisation of the matrix `name`, if it has one.
    pub fn of(&self, name: &str) -> Option<Quantization> {
        let block = Names::any_block_of(name).is_some();
        // A head that scores texts is new, and trained.
        let scores = name.strip_suffix(".weight") == Some(SCORE);
        (block || (self.head && !scores)).then_some(self.quantization)
    }
}
