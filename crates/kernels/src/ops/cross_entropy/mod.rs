//! Cross entropy of logits, with its gradient in the same pass.
//!
//! Of a row with targets `(id_i, w_i)`: `loss_i = lse - logit[id_i]`, and the gradient of
//! `scale * sum_i w_i loss_i` is `scale * (sum_i w_i softmax - sum_i w_i onehot(id_i))`. A branch point of a
//! segment tree has several targets. Sums in f32 over a row.
//!
//! With label smoothing `s` (Szegedy et al. 2016, as `torch.nn.CrossEntropyLoss`) a share `s` of each target is spread evenly over
//! the `V` tokens of the vocabulary: `loss_i = lse - (1 - s) logit[id_i] - s mean(logits)`, and the gradient of a row is
//! `scale * sum_i w_i (softmax - (1 - s) onehot(id_i) - s / V)`.

use crate::gpu::count;
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

/// What a gradient is of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    /// Factor of the weighted sum of losses.
    pub scale: f32,
    /// Share of each target that is spread over the vocabulary, in [0, 1).
    pub smoothing: f32,
}

impl From<f32> for Objective {
    /// The plain loss, times `scale`.
    fn from(scale: f32) -> Self {
        Objective { scale, smoothing: 0.0 }
    }
}

/// Writes each target's unweighted loss to `losses` (f32), from place `first` on. `logits` is `[rows, vocab]`; targets are
/// sorted by row.
pub fn loss(
    logits: &Tensor,
    rows: usize,
    vocab: usize,
    targets: &[Target],
    losses: &mut Tensor,
    first: usize,
) {
    match logits.device() {
        Device::Cpu => {
            cpu::loss(logits.cpu(), vocab, targets, &mut losses.cpu_mut()[first..first + targets.len()]);
        }
        Device::Cuda(gpu) => {
            let records = gpu.buffer_of(&cuda::target_bytes(targets, rows));
            let (shape, losses) = ((count(rows), count(vocab)), losses.part(first, targets.len()));
            let (float, logits) = (logits.float(), logits.region());
            gpu.run(&cuda::loss(float, logits, shape, records.region(), count(targets.len()), losses));
        }
    }
}

/// As [`loss`], but of the `objective`, and overwrites the first `rows` rows of `logits` with its gradient. A row without a target
/// gets zeros.
pub fn loss_and_gradient(
    logits: &mut Tensor,
    rows: usize,
    vocab: usize,
    targets: &[Target],
    objective: Objective,
    losses: &mut Tensor,
    first: usize,
) {
    match logits.device() {
        Device::Cpu => {
            let losses = &mut losses.cpu_mut()[first..first + targets.len()];
            cpu::loss_and_gradient(logits.cpu_mut(), rows, vocab, targets, objective, losses);
        }
        Device::Cuda(gpu) => {
            let records = gpu.buffer_of(&cuda::target_bytes(targets, rows));
            let (shape, losses) = ((count(rows), count(vocab)), losses.part(first, targets.len()));
            let (float, logits, records) = (logits.float(), logits.region(), records.region());
            let targets = count(targets.len());
            gpu.run(&cuda::loss_and_gradient(float, logits, shape, records, targets, objective, losses));
        }
    }
}
