//! Rows in parallel.

use crate::ops::parallel::{Shared, for_row_blocks};
use crate::weight::HostWeight;

pub(super) fn forward(weight: HostWeight<'_>, ids: &[u32], y: &mut [f32]) {
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
    use crate::ops::embedding::{add, backward};
    use crate::tensor::{Device, Tensor};
    use crate::testing::{Random, assert_close, finite_difference, weighted_sum, widen};
    use crate::weight::{FrozenWeight, Weight};

    #[test]
    fn rows_are_those_of_the_ids() {
        let values = Random::new(1).normal(5 * 7);
        let weight = Weight::from(FrozenWeight::from_f32(5, 7, &values));
        let mut y = vec![0.0; 3 * 7];
        forward(weight.host(), &[4, 0, 4], &mut y);
        assert_eq!(y, [&values[28..], &values[..7], &values[28..]].concat());
    }

    /// The definition in f64.
    fn reference(weight: &[f64], ids: &[u32], width: usize) -> Vec<f64> {
        ids.iter().flat_map(|&id| weight[id as usize * width..][..width].to_vec()).collect()
    }

    #[test]
    fn positions_are_added_to_tokens() {
        let mut random = Random::new(4);
        let (weight, before) = (random.normal(5 * 7), random.normal(3 * 7));
        let (mut y, mut scratch) = (Tensor::from_slice(Device::Cpu, &before), Tensor::zeros(Device::Cpu, 21));
        add(&FrozenWeight::from_f32(5, 7, &weight).into(), &[0, 1, 4], &mut scratch, &mut y);
        let expected = reference(&widen(&weight), &[0, 1, 4], 7);
        let expected: Vec<f64> = expected.iter().zip(widen(&before)).map(|(e, b)| e + b).collect();
        assert_close(y.cpu(), &expected, 1e-7, "sum");
    }

    #[test]
    fn backward_equals_the_finite_differences_of_the_reference() {
        let mut random = Random::new(2);
        let (vocab, width, ids) = (5, 7, [4, 0, 4, 2, 4]);
        let (weight, d_y) = (random.normal(vocab * width), random.normal(ids.len() * width));
        let before = random.normal(vocab * width);
        let mut d_weight = Tensor::from_slice(Device::Cpu, &before);
        backward(&Tensor::from_slice(Device::Cpu, &d_y), &ids, width, &mut d_weight);
        let mut expected =
            finite_difference(&widen(&weight), |w| weighted_sum(&reference(w, &ids, width), &d_y));
        expected.iter_mut().zip(&before).for_each(|(e, &b)| *e += f64::from(b));
        assert_close(d_weight.cpu(), &expected, 1e-6, "backward");
    }
}
