use super::*;
use crate::testing::{Random, assert_close, finite_difference, widen};

#[test]
fn loss_and_gradient_equal_the_reference_and_its_finite_differences() {
    let (rows, vocab, scale) = (4, 37, 0.25f32);
    let logits: Vec<f32> = Random::new(3).normal(rows * vocab).iter().map(|v| 3.0 * v).collect();
    let target = |row, id, weight| Target { row, id, weight };
    // Row 1 has none; row 2 is a branch point with a repeated target.
    let targets =
        [target(0, 36, 1.0), target(2, 5, 1.0), target(2, 9, 0.5), target(2, 5, 2.0), target(3, 0, 1.0)];
    let expected = reference::losses(&widen(&logits), vocab, &targets);
    let total = |logits: &[f64]| {
        let losses = reference::losses(logits, vocab, &targets);
        f64::from(scale) * losses.iter().zip(&targets).map(|(l, t)| l * f64::from(t.weight)).sum::<f64>()
    };

    let mut tensor = Tensor::from_slice(Device::Cpu, &logits);
    let mut losses = Tensor::zeros(Device::Cpu, 5);
    loss(&tensor, rows, vocab, &targets, &mut losses, 0);
    assert_close(losses.cpu(), &expected, 1e-6, "loss");
    let mut again = Tensor::zeros(Device::Cpu, 6);
    loss_and_gradient(&mut tensor, rows, vocab, &targets, scale, &mut again, 1);
    assert_eq!(again.cpu()[1..], *losses.cpu());
    assert_close(tensor.cpu(), &finite_difference(&widen(&logits), total), 1e-6, "gradient");
}

#[test]
fn large_logits_do_not_overflow() {
    let logits = Tensor::from_slice(Device::Cpu, &[500.0, -500.0, 499.0]);
    let mut losses = Tensor::zeros(Device::Cpu, 1);
    loss(&logits, 1, 3, &[Target { row: 0, id: 1, weight: 1.0 }], &mut losses, 0);
    assert!((losses.cpu()[0] - (1000.0 + (1.0f32 + (-1.0f32).exp()).ln())).abs() < 1e-3, "{losses:?}");
}
