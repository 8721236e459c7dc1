use super::*;
use crate::testing::{Random, assert_close, finite_difference, weighted_sum, widen};

#[test]
fn forward_and_backward_equal_the_reference_and_its_finite_differences() {
    let (heads, frequencies, positions) = (3, [1.0f32, 0.3, 0.01], [0u32, 7, 1, 1000]);
    let rows = positions.len();
    let len = rows * heads * 6;
    let mut random = Random::new(5);
    let (x, d_y) = (random.normal(len), random.normal(len));
    let mut angles = Angles::laid_out(rows + 2, 3, |len| Tensor::zeros(Device::Cpu, len));
    angles.set(&positions, &frequencies);

    let input = Tensor::from_slice(Device::Cpu, &x);
    let mut y = Tensor::zeros(Device::Cpu, len);
    forward(&input, &angles, rows, heads, &mut y);
    let reference = |x: &[f64]| reference::forward(x, &positions, &frequencies, heads);
    assert_close(y.cpu(), &reference(&widen(&x)), 1e-6, "forward");
    let mut in_place = input;
    forward_in_place(&mut in_place, &angles, rows, heads);
    assert_eq!(in_place.cpu(), y.cpu());

    let mut d_x = Tensor::from_slice(Device::Cpu, &d_y);
    backward_in_place(&mut d_x, &angles, rows, heads);
    let expected = finite_difference(&widen(&x), |x| weighted_sum(&reference(x), &d_y));
    assert_close(d_x.cpu(), &expected, 1e-6, "backward");
}
