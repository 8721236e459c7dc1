use super::*;
use crate::testing::{Random, assert_close, finite_difference, weighted_sum, widen};

#[test]
fn forward_and_backward_equal_the_reference_and_its_finite_differences() {
    let len = 100;
    let mut random = Random::new(6);
    let (mut gate, up, d_y) = (random.normal(len), random.normal(len), random.normal(len));
    gate[..4].copy_from_slice(&[-30.0, 30.0, 0.0, -5.0]);
    let device = Device::Cpu;
    let (mut g, mut u) = (Tensor::from_slice(device, &gate), Tensor::from_slice(device, &up));
    let mut y = Tensor::zeros(device, len);
    forward(&g, &u, len, &mut y);
    let (wide_gate, wide_up) = (widen(&gate), widen(&up));
    assert_close(y.cpu(), &reference::forward(&wide_gate, &wide_up), 1e-6, "forward");

    backward_in_place(&Tensor::from_slice(device, &d_y), &mut g, &mut u, len);
    let d_gate = finite_difference(&wide_gate, |x| weighted_sum(&reference::forward(x, &wide_up), &d_y));
    let d_up = finite_difference(&wide_up, |x| weighted_sum(&reference::forward(&wide_gate, x), &d_y));
    assert_close(g.cpu(), &d_gate, 2e-6, "gate");
    assert_close(u.cpu(), &d_up, 2e-6, "up");
}
