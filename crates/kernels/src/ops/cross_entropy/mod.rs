//! Cross entropy of logits, with its gradient in the same pass.
//!
//! Of a row with targets `(id_i, w_i)`: `loss_i = lse - logit[id_i]`, and the gradient of
//! `scale * sum_i w_i loss_i` is `scale * (sum_i w_i softmax - sum_i w_i onehot(id_i))`. A branch point of a
//! segment tree has several targets. Sums in f32 over a row.

use crate::tensor::{Device, Tensor};

mod cpu;
pub mod cuda;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

/// What a row should predict.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// Row of the logits.
    pub row: u32,
    /// The next token.
    pub id: u32,
    /// Weight of this loss in the step's.
    pub weight: f32,
}

/// Writes each target's unweighted loss to `losses`. `logits` is `[rows, vocab]`; targets are sorted by row.
pub fn loss(logits: &Tensor, vocab: usize, targets: &[Target], losses: &mut [f32]) {
    match logits.device() {
        Device::Cpu => cpu::loss(logits.cpu(), vocab, targets, losses),
    }
}

/// As [`loss`], and overwrites the first `rows` rows of `logits` with the gradient of `scale` times the
/// weighted sum. A row without a target gets zeros.
pub fn loss_and_gradient(
    logits: &mut Tensor,
    rows: usize,
    vocab: usize,
    targets: &[Target],
    scale: f32,
    losses: &mut [f32],
) {
    match logits.device() {
        Device::Cpu => cpu::loss_and_gradient(logits.cpu_mut(), rows, vocab, targets, scale, losses),
    }
}
