//! The loss of a head that gives one number of a text, its reward.
//!
//! `loss_i = -reward[row_i]`, as the loss of a token is the negative of its log-probability, so that what weighs the losses of
//! targets ([`Model::loss_and_gradient_weighed`](crate::Model::loss_and_gradient_weighed)) works on rewards alike. The gradient of
//! `scale * sum_i w_i loss_i` by the reward of a row is `-scale * sum_i w_i` over its targets. A handful of numbers: they are
//! computed with on the processor, wherever they are.

use lorafit_kernels::Tensor;
use lorafit_kernels::ops::cross_entropy::Target;

/// Writes each target's loss to `losses`, from place `first` on. `rewards` is `[rows, 1]`.
pub(crate) fn loss(rewards: &Tensor, rows: usize, targets: &[Target], losses: &mut Tensor, first: usize) {
    let rewards = rewards.to_vec(rows);
    let negative: Vec<f32> = targets.iter().map(|target| -rewards[target.row as usize]).collect();
    losses.write(first, &negative);
}

/// As [`loss`], and overwrites the rewards with the gradient.
pub(crate) fn loss_and_gradient(
    rewards: &mut Tensor,
    rows: usize,
    targets: &[Target],
    scale: f32,
    losses: &mut Tensor,
    first: usize,
) {
    loss(rewards, rows, targets, losses, first);
    let mut gradient = vec![0.0; rows];
    for target in targets {
        gradient[target.row as usize] -= scale * target.weight;
    }
    rewards.write(0, &gradient);
}
