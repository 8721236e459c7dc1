//! Rows in parallel; a row's angles serve all its heads.

use multiversion::multiversion;

use super::{Pairs, Rotation};
use crate::ops::parallel::{Shared, for_row_blocks};

pub(super) fn angles(positions: &[u32], frequencies: &[f32], factor: f32, cos: &mut [f32], sin: &mut [f32]) {
    let half = frequencies.len();
    for (t, &position) in positions.iter().enumerate() {
        for (j, frequency) in frequencies.iter().enumerate() {
            let angle = position as f32 * frequency;
            let (s, c) = angle.sin_cos();
            (sin[t * half + j], cos[t * half + j]) = (s * factor, c * factor);
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn turn_head(head: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
    let half = cos.len();
    let (low, high) = head.split_at_mut(half);
    let (high, sin) = (&mut high[..half], &sin[..half]);
    for j in 0..half {
        let (a, b, s) = (low[j], high[j], sin[j] * sign);
        low[j] = a * cos[j] - b * s;
        high[j] = b * cos[j] + a * s;
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn turn_neighbours(head: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
    for (([a, b], cos), sin) in head.as_chunks_mut().0.iter_mut().zip(cos).zip(sin) {
        let s = sin * sign;
        (*a, *b) = (*a * cos - *b * s, *b * cos + *a * s);
    }
}

fn turn_row(row: &mut [f32], cos: &[f32], sin: &[f32], sign: f32, rotation: Rotation) {
    for head in row.chunks_exact_mut(rotation.head_dim) {
        let turned = &mut head[..2 * rotation.frequencies];
        match rotation.pairs {
            Pairs::Halves => turn_head(turned, cos, sin, sign),
            Pairs::Neighbours => turn_neighbours(turned, cos, sin, sign),
        }
    }
}

/// Turns rows of `y`, which first become those of `x` where that is given.
pub(super) fn turn(
    x: Option<&[f32]>,
    cos: &[f32],
    sin: &[f32],
    sign: f32,
    rows: usize,
    heads: usize,
    rotation: Rotation,
    y: &mut [f32],
) {
    let (width, half) = (heads * rotation.head_dim, rotation.frequencies);
    let y = Shared::new(&mut y[..rows * width]);
    for_row_blocks(rows, width, |block| {
        for row in block {
            let (at, values) = (row * half..(row + 1) * half, row * width..(row + 1) * width);
            // SAFETY: every row is in one block.
            let y = unsafe { y.part(values.clone()) };
            if let Some(x) = x {
                y.copy_from_slice(&x[values]);
            }
            turn_row(y, &cos[at.clone()], &sin[at], sign, rotation);
        }
    });
}
