//! Elementwise, in parallel blocks.

use super::Mask;
use crate::ops::parallel::{Shared, for_row_blocks};
use crate::random::uniform;

/// 0 for a dropped value, `1 / (1 - p)` for a kept one.
#[inline(always)]
fn factor(mask: Mask, index: usize) -> f32 {
    if uniform(mask.seed, index as u64) < mask.p { 0.0 } else { 1.0 / (1.0 - mask.p) }
}

pub(super) fn forward(x: &[f32], mask: Mask, len: usize, y: &mut [f32]) {
    let y = Shared::new(&mut y[..len]);
    for_row_blocks(len, 1, |at| {
        // SAFETY: blocks are disjoint.
        for (y, i) in unsafe { y.part(at.clone()) }.iter_mut().zip(at) {
            *y = x[i] * factor(mask, i);
        }
    });
}

pub(super) fn backward(d_y: &[f32], mask: Mask, len: usize, d_x: &mut [f32]) {
    let d_x = Shared::new(&mut d_x[..len]);
    for_row_blocks(len, 1, |at| {
        // SAFETY: blocks are disjoint.
        for (d_x, i) in unsafe { d_x.part(at.clone()) }.iter_mut().zip(at) {
            *d_x += d_y[i] * factor(mask, i);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_stated_share_and_the_mean() {
        let len = 100_000;
        let mut y = vec![0.0; len];
        forward(&vec![1.0; len], Mask { p: 0.3, seed: 7 }, len, &mut y);
        let dropped = y.iter().filter(|&&v| v == 0.0).count() as f32 / len as f32;
        let mean = y.iter().sum::<f32>() / len as f32;
        // Five standard deviations of a binomial share at this length.
        assert!((dropped - 0.3).abs() < 0.0073, "dropped {dropped}");
        assert!((mean - 1.0).abs() < 0.0104, "mean {mean}");
    }

    #[test]
    fn backward_uses_the_mask_of_forward_and_derived_masks_differ() {
        let (len, mask) = (1000, Mask { p: 0.5, seed: 1 });
        let (mut y, mut d_x, mut other) = (vec![0.0; len], vec![2.0; len], vec![0.0; len]);
        forward(&vec![3.0; len], mask, len, &mut y);
        backward(&vec![3.0; len], mask, len, &mut d_x);
        assert!(y.iter().zip(&d_x).all(|(y, d)| *d == y + 2.0));
        forward(&vec![3.0; len], mask.derive(1), len, &mut other);
        assert_ne!(y, other);
        assert_ne!(mask.derive(1), mask.derive(2));
    }
}
