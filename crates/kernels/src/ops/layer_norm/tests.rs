use super::*;
use crate::testing::{Random, assert_close, finite_difference, weighted_sum, widen};

const EPS: f32 = 1e-5;
const ROWS: usize = 3;

/// Reference gradients, each added to what was there.
fn plus(mut gradient: Vec<f64>, before: &[f32]) -> Vec<f64> {
    gradient.iter_mut().zip(before).for_each(|(g, &b)| *g += f64::from(b));
    gradient
}

#[test]
fn forward_and_backward_equal_the_reference_and_its_finite_differences() {
    let device = Device::Cpu;
    for (width, with_bias) in [(2, true), (7, false), (37, true), (300, false)] {
        let what = |part: &str| format!("{part}, width {width}");
        let mut random = Random::new(width as u64);
        // A mean far from zero, which one pass over sums of squares would lose.
        let x: Vec<f32> = random.normal(ROWS * width).iter().map(|v| v + 50.0).collect();
        let [d_y, before] = [0; 2].map(|_| random.normal(ROWS * width));
        let [weight, bias, before_weight, before_bias] = [0; 4].map(|_| random.normal(width));
        let (wide_x, wide_weight, wide_bias) = (widen(&x), widen(&weight), widen(&bias));
        let wide_bias = with_bias.then_some(&wide_bias[..]);
        let reference = |x: &[f64], weight: &[f64], bias: Option<&[f64]>| {
            reference::forward(x, weight, bias, f64::from(EPS))
        };

        let [tx, tw, tb, td] = [&x, &weight, &bias, &d_y].map(|v| Tensor::from_slice(device, v));
        let tb = with_bias.then_some(&tb);
        let (mut y, mut saved) = (Tensor::zeros(device, ROWS * width), Tensor::zeros(device, 2 * ROWS));
        forward(&tx, &tw, tb, EPS, ROWS, &mut y, &mut saved);
        // A mean of 50 has an error of half a unit in the last place, 2e-6, in rows of deviation about one.
        assert_close(y.cpu(), &reference(&wide_x, &wide_weight, wide_bias), 1e-5, &what("forward"));
        let mut again = Tensor::zeros(device, ROWS * width);
        recompute(&tx, &tw, tb, &saved, ROWS, &mut again);
        assert_eq!(again.cpu(), y.cpu(), "recompute gives the same bits");

        let mut d_x = Tensor::from_slice(device, &before);
        backward(&td, &tx, &tw, &saved, ROWS, &mut d_x);
        let loss = |x: &[f64]| weighted_sum(&reference(x, &wide_weight, wide_bias), &d_y);
        let expected = plus(finite_difference(&wide_x, loss), &before);
        assert_close(d_x.cpu(), &expected, 1e-5, &what("backward"));

        let mut d_weight = Tensor::from_slice(device, &before_weight);
        backward_weight(&td, &tx, &saved, ROWS, &mut d_weight);
        let loss = |weight: &[f64]| weighted_sum(&reference(&wide_x, weight, wide_bias), &d_y);
        let expected = plus(finite_difference(&wide_weight, loss), &before_weight);
        assert_close(d_weight.cpu(), &expected, 1e-5, &what("backward of the weight"));

        let mut d_bias = Tensor::from_slice(device, &before_bias);
        backward_bias(&td, ROWS, &mut d_bias);
        let loss = |bias: &[f64]| weighted_sum(&reference(&wide_x, &wide_weight, Some(bias)), &d_y);
        let expected = plus(finite_difference(&widen(&bias), loss), &before_bias);
        assert_close(d_bias.cpu(), &expected, 5e-6, &what("backward of the bias"));
    }
}
