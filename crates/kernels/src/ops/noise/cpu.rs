//! Rows in parallel.

use rayon::prelude::*;

use crate::random::uniform;

pub(super) fn add(x: &mut [f32], width: usize, bounds: &[f32], seed: u64) {
    x.par_chunks_exact_mut(width).zip(bounds).enumerate().for_each(|(row, (x, bound))| {
        for (col, x) in x.iter_mut().enumerate() {
            *x += bound * (2.0 * uniform(seed, (row * width + col) as u64) - 1.0);
        }
    });
}
