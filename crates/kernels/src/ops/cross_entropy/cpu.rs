//! Rows in parallel.

use multiversion::multiversion;
use multiversion::target::target_cfg_f;
use rayon::prelude::*;

use super::{Objective, Target};
use crate::ops::math::{exp, max, sum, sum_of_mapped};
use crate::ops::parallel::Shared;

/// The largest logit, and the logarithm of the sum of `exp(logit - largest)`.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn log_sum_exp(logits: &[f32]) -> (f32, f32) {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    let largest = max(logits);
    (largest, sum(logits.len(), |i| exp::<FUSED>(logits[i] - largest)).ln())
}

/// Overwrites each logit with `exp(logit - shift)`; gives their sum.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn exponentials(logits: &mut [f32], shift: f32) -> f32 {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    sum_of_mapped(logits, |logit| exp::<FUSED>(logit - shift))
}

#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn largest(values: &[f32]) -> f32 {
    max(values)
}

#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn multiply(values: &mut [f32], factor: f32) {
    for value in values {
        *value *= factor;
    }
}

#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn subtract(values: &mut [f32], less: f32) {
    for value in values {
        *value -= less;
    }
}

/// The mean of what values have above `base`.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn mean_above(values: &[f32], base: f32) -> f32 {
    sum(values.len(), |i| values[i] - base) / values.len() as f32
}

pub(super) fn loss(logits: &[f32], vocab: usize, targets: &[Target], losses: &mut [f32]) {
    targets.par_iter().zip(losses).for_each(|(target, loss)| {
        let row = &logits[target.row as usize * vocab..][..vocab];
        let (largest, log_sum) = log_sum_exp(row);
        *loss = -(row[target.id as usize] - largest) + log_sum;
    });
}

pub(super) fn loss_and_gradient(
    logits: &mut [f32],
    rows: usize,
    vocab: usize,
    targets: &[Target],
    objective: Objective,
    losses: &mut [f32],
) {
    debug_assert!(targets.is_sorted_by_key(|t| t.row));
    let losses = Shared::new(losses);
    logits[..rows * vocab].par_chunks_exact_mut(vocab).enumerate().for_each(|(row, logits)| {
        let first = targets.partition_point(|t| (t.row as usize) < row);
        let last = targets.partition_point(|t| (t.row as usize) <= row);
        // SAFETY: a target belongs to one row, and a row to one task.
        row_gradient(logits, &targets[first..last], objective, unsafe { losses.part(first..last) });
    });
}

/// Overwrites a row of logits with its gradient, after writing the losses of its targets.
fn row_gradient(logits: &mut [f32], targets: &[Target], objective: Objective, losses: &mut [f32]) {
    let Objective { scale, smoothing } = objective;
    let largest = largest(logits);
    let spread = if smoothing > 0.0 { smoothing * mean_above(logits, largest) } else { 0.0 };
    // Each exponential is computed once; the sum turns them into probabilities afterwards.
    for (target, loss) in targets.iter().zip(losses.iter_mut()) {
        *loss = -((1.0 - smoothing) * (logits[target.id as usize] - largest)) - spread;
    }
    let total = exponentials(logits, largest);
    losses.iter_mut().for_each(|loss| *loss += total.ln());
    let weight: f32 = targets.iter().map(|t| t.weight).sum();
    multiply(logits, weight * scale / total);
    if smoothing > 0.0 {
        subtract(logits, weight * scale * smoothing / logits.len() as f32);
    }
    for target in targets {
        logits[target.id as usize] -= target.weight * scale * (1.0 - smoothing);
    }
}
