//! Rows in parallel, one pass for the sum and one for the values.

use multiversion::multiversion;
use rayon::prelude::*;

use crate::ops::math::sum;
use crate::ops::parallel::{Shared, for_row_blocks};

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn row_rstd(x: &[f32], eps: f32) -> f32 {
    let mean_square = sum(x.len(), |i| x[i] * x[i]) / x.len() as f32;
    1.0 / (mean_square + eps).sqrt()
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn row_scaled(x: &[f32], weight: &[f32], rstd: f32, y: &mut [f32]) {
    for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
        *y = x * rstd * w;
    }
}

/// `d_x += rstd * (w d_y - x rstd^2 mean(w d_y x))`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn row_backward(d_y: &[f32], x: &[f32], weight: &[f32], rstd: f32, d_x: &mut [f32]) {
    let len = d_x.len();
    let (d_y, x, weight) = (&d_y[..len], &x[..len], &weight[..len]);
    let mean = sum(len, |i| weight[i] * d_y[i] * x[i]) / len as f32;
    let back = rstd * rstd * mean;
    for i in 0..len {
        d_x[i] += rstd * (weight[i] * d_y[i] - x[i] * back);
    }
}

pub(super) fn forward(x: &[f32], weight: &[f32], eps: f32, rows: usize, y: &mut [f32], rstd: &mut [f32]) {
    let width = weight.len();
    let (x, y, rstd) =
        (&x[..rows * width], Shared::new(&mut y[..rows * width]), Shared::new(&mut rstd[..rows]));
    for_row_blocks(rows, width, |block| {
        for row in block {
            let at = row * width..(row + 1) * width;
            // SAFETY: every row is in one block.
            let (y, rstd) = unsafe { (y.part(at.clone()), &mut rstd.part(row..row + 1)[0]) };
            *rstd = row_rstd(&x[at.clone()], eps);
            row_scaled(&x[at], weight, *rstd, y);
        }
    });
}

pub(super) fn recompute(x: &[f32], weight: &[f32], rstd: &[f32], rows: usize, y: &mut [f32]) {
    let width = weight.len();
    let y = Shared::new(&mut y[..rows * width]);
    for_row_blocks(rows, width, |block| {
        for row in block {
            let at = row * width..(row + 1) * width;
            // SAFETY: every row is in one block.
            row_scaled(&x[at.clone()], weight, rstd[row], unsafe { y.part(at) });
        }
    });
}

pub(super) fn backward(d_y: &[f32], x: &[f32], weight: &[f32], rstd: &[f32], rows: usize, d_x: &mut [f32]) {
    let width = weight.len();
    let d_x = Shared::new(&mut d_x[..rows * width]);
    for_row_blocks(rows, width, |block| {
        for row in block {
            let at = row * width..(row + 1) * width;
            // SAFETY: every row is in one block.
            row_backward(&d_y[at.clone()], &x[at.clone()], weight, rstd[row], unsafe { d_x.part(at) });
        }
    });
}

/// Columns of a task of [`backward_weight`]: a few cache lines of each row.
const WEIGHT_COLUMNS: usize = 128;

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn add_scaled_products(d_y: &[f32], x: &[f32], rstd: f32, d_weight: &mut [f32]) {
    for ((d, d_y), x) in d_weight.iter_mut().zip(d_y).zip(x) {
        *d += d_y * (x * rstd);
    }
}

pub(super) fn backward_weight(d_y: &[f32], x: &[f32], rstd: &[f32], rows: usize, d_weight: &mut [f32]) {
    let width = d_weight.len();
    d_weight.par_chunks_mut(WEIGHT_COLUMNS).enumerate().for_each(|(i, d_weight)| {
        for (row, rstd) in rstd[..rows].iter().enumerate() {
            let first = row * width + i * WEIGHT_COLUMNS;
            let at = first..first + d_weight.len();
            add_scaled_products(&d_y[at.clone()], &x[at], *rstd, d_weight);
        }
    });
}
