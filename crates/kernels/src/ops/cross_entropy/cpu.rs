//! Rows in parallel.

use multiversion::multiversion;
use multiversion::target::target_cfg_f;
use rayon::prelude::*;

use super::Target;
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
    scale: f32,
    losses: &mut [f32],
) {
    debug_assert!(targets.is_sorted_by_key(|t| t.row));
    let losses = Shared::new(losses);
    logits[..rows * vocab].par_chunks_exact_mut(vocab).enumerate().for_each(|(row, logits)| {
        let first = targets.partition_point(|t| (t.row as usize) < row);
        let last = targets.partition_point(|t| (t.row as usize) <= row);
        // SAFETY: a target belongs to one row, and a row to one task.
        row_gradient(logits, &targets[first..last], scale, unsafe { losses.part(first..last) });
    });
}

/// Overwrites a row of logits with its gradient, after writing the losses of its targets.
fn row_gradient(logits: &mut [f32], targets: &[Target], scale: f32, losses: &mut [f32]) {
    let largest = largest(logits);
    // Each exponential is computed once; the sum turns them into probabilities afterwards.
    for (target, loss) in targets.iter().zip(losses.iter_mut()) {
        *loss = -(logits[target.id as usize] - largest);
    }
    let total = exponentials(logits, largest);
    losses.iter_mut().for_each(|loss| *loss += total.ln());
    let weight: f32 = targets.iter().map(|t| t.weight).sum();
    multiply(logits, weight * scale / total);
    for target in targets {
        logits[target.id as usize] -= target.weight * scale;
    }
}
