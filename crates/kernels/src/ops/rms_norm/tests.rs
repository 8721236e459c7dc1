use super::*;
use crate::testing::{Random, assert_close, finite_difference, weighted_sum, widen};

const ROWS: usize = 3;
const EPS: f32 = 1e-5;

#[test]
fn forward_and_backward_equal_the_reference_and_its_finite_differences() {
    for width in [1, 5, 16, 37, 300] {
        let mut random = Random::new(width as u64);
        let (x, w) = (random.normal(ROWS * width), random.normal(width));
        let (d_y, before) = (random.normal(ROWS * width), random.normal(ROWS * width));
        let device = Device::Cpu;
        let (tx, tw) = (Tensor::from_slice(device, &x), Tensor::from_slice(device, &w));
        let (mut y, mut rstd) = (Tensor::zeros(device, ROWS * width), Tensor::zeros(device, ROWS));
        forward(&tx, &tw, EPS, ROWS, &mut y, &mut rstd);
        assert_close(y.cpu(), &reference::forward(&widen(&x), &w, f64::from(EPS)), 1e-6, "forward");

        let mut again = Tensor::zeros(device, ROWS * width);
        recompute(&tx, &tw, &rstd, ROWS, &mut again);
        assert_eq!(again.cpu(), y.cpu(), "recompute gives the same bits");

        let mut d_x = Tensor::from_slice(device, &before);
        backward(&Tensor::from_slice(device, &d_y), &tx, &tw, &rstd, ROWS, &mut d_x);
        let mut expected =
            finite_difference(&widen(&x), |x| weighted_sum(&reference::forward(x, &w, f64::from(EPS)), &d_y));
        expected.iter_mut().zip(&before).for_each(|(e, &b)| *e += f64::from(b));
        // Width 1 cancels to nearly nothing, so the scale is that of the values added to.
        assert_close(d_x.cpu(), &expected, 5e-6, "backward");

        let before = random.normal(width);
        let mut d_w = Tensor::from_slice(device, &before);
        backward_weight(&Tensor::from_slice(device, &d_y), &tx, &rstd, ROWS, &mut d_w);
        let loss = |w: &[f32]| weighted_sum(&reference::forward(&widen(&x), w, f64::from(EPS)), &d_y);
        // The output is linear in the weight: its value at a unit vector is the slope.
        let unit = |i: usize| (0..width).map(|j| f32::from(u8::from(i == j))).collect::<Vec<_>>();
        let expected: Vec<f64> = (0..width).map(|i| loss(&unit(i)) + f64::from(before[i])).collect();
        assert_close(d_w.cpu(), &expected, 5e-6, "backward of the weight");
    }
}
