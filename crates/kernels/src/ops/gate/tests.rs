use super::*;
use crate::testing::{Random, assert_close, finite_difference, weighted_sum, widen};

#[test]
fn forward_and_backward_equal_the_reference_and_its_finite_differences() {
    let len = 100;
    let mut random = Random::new(6);
    let (mut gate, up, d_y) = (random.normal(len), random.normal(len), random.normal(len));
    gate[..6].copy_from_slice(&[-30.0, 30.0, 0.0, -5.0, 1.41, -1.42]);
    let device = Device::Cpu;
    let (wide_gate, wide_up) = (widen(&gate), widen(&up));
    for activation in Activation::ALL {
        let what = |part: &str| format!("{activation:?}, {part}");
        let reference = |gate: &[f64], up: &[f64]| reference::forward(activation, gate, up);
        let (mut g, mut u) = (Tensor::from_slice(device, &gate), Tensor::from_slice(device, &up));
        let mut alone = Tensor::from_slice(device, &gate);
        let [mut of_gate, mut of_plain] = [0; 2].map(|_| Tensor::from_slice(device, &d_y));
        let mut y = Tensor::zeros(device, len);
        forward(activation, &g, &u, len, &mut y);
        assert_close(y.cpu(), &reference(&wide_gate, &wide_up), 1e-6, &what("forward"));
        let output = y.to_vec(len);
        plain_forward(activation, &alone, len, &mut y);
        let ones = vec![1.0; len];
        assert_close(y.cpu(), &reference(&wide_gate, &ones), 1e-6, &what("forward alone"));

        let [mut g_again, mut u_again] = [&g, &u].map(|t| Tensor::from_slice(device, t.cpu()));
        backward_in_place(activation, &mut of_gate, &mut g, &mut u, len, false);
        assert_eq!(of_gate.cpu(), &d_y, "{}", what("the gradient that is not overwritten"));
        backward_in_place(activation, &mut of_gate, &mut g_again, &mut u_again, len, true);
        assert_eq!(of_gate.cpu(), &output, "{}", what("the output again"));
        assert_eq!((g_again.cpu(), u_again.cpu()), (g.cpu(), u.cpu()), "{}", what("gradients with it"));
        let d_gate = finite_difference(&wide_gate, |x| weighted_sum(&reference(x, &wide_up), &d_y));
        let d_up = finite_difference(&wide_up, |x| weighted_sum(&reference(&wide_gate, x), &d_y));
        assert_close(g.cpu(), &d_gate, 2e-6, &what("gate"));
        assert_close(u.cpu(), &d_up, 2e-6, &what("up"));
        plain_backward_in_place(activation, &mut of_plain, &mut alone, len, true);
        assert_eq!(of_plain.cpu(), y.cpu(), "{}", what("alone, the output again"));
        let d_x = finite_difference(&wide_gate, |x| weighted_sum(&reference(x, &ones), &d_y));
        assert_close(alone.cpu(), &d_x, 2e-6, &what("alone"));
    }
}

/// Each value against its own size, where sums over a tensor would hide small ones.
#[test]
fn activations_are_exact_relative_to_their_argument() {
    let x: Vec<f32> = (-160_000..160_000).map(|i| i as f32 * 1e-4).collect();
    let input = Tensor::from_slice(Device::Cpu, &x);
    for activation in Activation::ALL {
        let mut y = Tensor::zeros(Device::Cpu, x.len());
        plain_forward(activation, &input, x.len(), &mut y);
        for (x, y) in x.iter().zip(y.cpu()) {
            let expected = reference::act(activation, f64::from(*x));
            let scale = f64::from(x.abs()).max(expected).max(1e-30);
            let error = (f64::from(*y) - expected).abs() / scale;
            assert!(error <= 2e-7, "{activation:?} of {x} is {y}, expected {expected}: {error:.2e}");
        }
    }
}

#[test]
fn activations_of_what_is_not_a_number_are_not_numbers() {
    let input = Tensor::from_slice(Device::Cpu, &[f32::NAN]);
    for activation in Activation::ALL {
        let mut y = Tensor::zeros(Device::Cpu, 1);
        plain_forward(activation, &input, 1, &mut y);
        assert!(y.cpu()[0].is_nan(), "{activation:?}");
    }
}
