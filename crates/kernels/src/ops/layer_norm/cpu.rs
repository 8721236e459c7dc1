//! Rows in parallel, one pass for the mean, one for the variance and one for the values.

use multiversion::multiversion;
use rayon::prelude::*;

use crate::ops::math::sum;
use crate::ops::parallel::{Shared, for_row_blocks};

/// Mean and `rstd`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn row_statistics(x: &[f32], eps: f32) -> [f32; 2] {
    let len = x.len() as f32;
    let mean = sum(x.len(), |i| x[i]) / len;
    let variance = sum(x.len(), |i| (x[i] - mean) * (x[i] - mean)) / len;
    [mean, 1.0 / (variance + eps).sqrt()]
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn row_scaled(x: &[f32], weight: &[f32], bias: Option<&[f32]>, [mean, rstd]: [f32; 2], y: &mut [f32]) {
    for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
        *y = (x - mean) * rstd * w;
    }
    if let Some(bias) = bias {
        y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
    }
}

/// `d_x += rstd * (g - mean(g) - n mean(g n))`, `g = w d_y`, `n = (x - mean) rstd`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn row_backward(d_y: &[f32], x: &[f32], weight: &[f32], [mean, rstd]: [f32; 2], d_x: &mut [f32]) {
    let len = d_x.len();
    let (d_y, x, weight) = (&d_y[..len], &x[..len], &weight[..len]);
    let of_g = sum(len, |i| weight[i] * d_y[i]) / len as f32;
    let of_products = sum(len, |i| weight[i] * d_y[i] * ((x[i] - mean) * rstd)) / len as f32;
    for i in 0..len {
        d_x[i] += rstd * (weight[i] * d_y[i] - of_g - (x[i] - mean) * rstd * of_products);
    }
}

/// The statistics of row `row`.
fn of_row(statistics: &[f32], row: usize) -> [f32; 2] {
    [statistics[2 * row], statistics[2 * row + 1]]
}

pub(super) fn forward(
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    eps: f32,
    rows: usize,
    y: &mut [f32],
    statistics: &mut [f32],
) {
    let width = weight.len();
    let (x, y) = (&x[..rows * width], Shared::new(&mut y[..rows * width]));
    let statistics = Shared::new(&mut statistics[..2 * rows]);
    for_row_blocks(rows, width, |block| {
        for row in block {
            let at = row * width..(row + 1) * width;
            // SAFETY: every row is in one block.
            let (y, saved) = unsafe { (y.part(at.clone()), statistics.part(2 * row..2 * row + 2)) };
            let found = row_statistics(&x[at.clone()], eps);
            saved.copy_from_slice(&found);
            row_scaled(&x[at], weight, bias, found, y);
        }
    });
}

pub(super) fn recompute(
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    statistics: &[f32],
    rows: usize,
    y: &mut [f32],
) {
    let width = weight.len();
    let y = Shared::new(&mut y[..rows * width]);
    for_row_blocks(rows, width, |block| {
        for row in block {
            let at = row * width..(row + 1) * width;
            // SAFETY: every row is in one block.
            row_scaled(&x[at.clone()], weight, bias, of_row(statistics, row), unsafe { y.part(at) });
        }
    });
}

pub(super) fn backward(
    d_y: &[f32],
    x: &[f32],
    weight: &[f32],
    statistics: &[f32],
    rows: usize,
    d_x: &mut [f32],
) {
    let width = weight.len();
    let d_x = Shared::new(&mut d_x[..rows * width]);
    for_row_blocks(rows, width, |block| {
        for row in block {
            let at = row * width..(row + 1) * width;
            let saved = of_row(statistics, row);
            // SAFETY: every row is in one block.
            row_backward(&d_y[at.clone()], &x[at.clone()], weight, saved, unsafe { d_x.part(at) });
        }
    });
}

/// Columns of a task of [`backward_weight`]: a few cache lines of each row.
const WEIGHT_COLUMNS: usize = 128;

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn add_products(d_y: &[f32], x: &[f32], [mean, rstd]: [f32; 2], d_weight: &mut [f32]) {
    for ((d, d_y), x) in d_weight.iter_mut().zip(d_y).zip(x) {
        *d += d_y * ((x - mean) * rstd);
    }
}

pub(super) fn backward_weight(d_y: &[f32], x: &[f32], statistics: &[f32], rows: usize, d_weight: &mut [f32]) {
    let width = d_weight.len();
    d_weight.par_chunks_mut(WEIGHT_COLUMNS).enumerate().for_each(|(i, d_weight)| {
        for row in 0..rows {
            let first = row * width + i * WEIGHT_COLUMNS;
            let at = first..first + d_weight.len();
            add_products(&d_y[at.clone()], &x[at], of_row(statistics, row), d_weight);
        }
    });
}
