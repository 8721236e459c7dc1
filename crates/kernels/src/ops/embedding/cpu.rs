//! Rows in parallel.

use crate::ops::parallel::{Shared, for_row_blocks};
use crate::weight::Weight;

pub(super) fn forward(weight: &Weight, ids: &[u32], y: &mut [f32]) {
    let width = weight.cols();
    let y = Shared::new(&mut y[..ids.len() * width]);
    for_row_blocks(ids.len(), width, |block| {
        for row in block {
            assert!((ids[row] as usize) < weight.rows(), "token id {} outside the vocabulary", ids[row]);
            // SAFETY: every row is in one block.
            let to = unsafe { y.part(row * width..(row + 1) * width) };
            weight.decode(ids[row] as usize, 0..width, to);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    #[test]
    fn rows_are_those_of_the_ids() {
        let values = Random::new(1).normal(5 * 7);
        let weight = Weight::from_f32(5, 7, &values);
        let mut y = vec![0.0; 3 * 7];
        forward(&weight, &[4, 0, 4], &mut y);
        assert_eq!(y, [&values[28..], &values[..7], &values[28..]].concat());
    }
}
