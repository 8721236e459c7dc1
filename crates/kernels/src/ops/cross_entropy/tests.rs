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
    for smoothing in [0.0f32, 0.1, 0.75] {
        let share = f64::from(smoothing);
        let total = |logits: &[f64]| {
            let losses = reference::losses(logits, vocab, &targets, share);
            f64::from(scale) * losses.iter().zip(&targets).map(|(l, t)| l * f64::from(t.weight)).sum::<f64>()
        };
        let mut tensor = Tensor::from_slice(Device::Cpu, &logits);
        let mut plain = Tensor::zeros(Device::Cpu, 5);
        loss(&tensor, rows, vocab, &targets, &mut plain, 0);
        assert_close(plain.cpu(), &reference::losses(&widen(&logits), vocab, &targets, 0.0), 1e-6, "loss");
        let mut losses = Tensor::zeros(Device::Cpu, 6);
        let objective = Objective { scale, smoothing };
        loss_and_gradient(&mut tensor, rows, vocab, &targets, objective, &mut losses, 1);
        if smoothing == 0.0 {
            assert_eq!(losses.cpu()[1..], *plain.cpu());
        }
        let expected = reference::losses(&widen(&logits), vocab, &targets, share);
        assert_close(&losses.cpu()[1..], &expected, 1e-6, "smoothed loss");
        let expected = finite_difference(&widen(&logits), total);
        assert_close(tensor.cpu(), &expected, 1e-6, &format!("gradient, smoothing {smoothing}"));
    }
}

/// `torch.nn.functional.cross_entropy(logits, ids, label_smoothing=0.1)` in f64, and the gradient of its sum.
#[test]
fn a_smoothed_loss_is_that_of_torch() {
    let mut tensor = Tensor::from_slice(Device::Cpu, &[1.0, -2.0, 0.5, 3.0, 0.0, 0.25, -1.0, 2.0]);
    let targets = [Target { row: 0, id: 2, weight: 1.0 }, Target { row: 1, id: 3, weight: 1.0 }];
    let mut losses = Tensor::zeros(Device::Cpu, 2);
    let objective = Objective { scale: 1.0, smoothing: 0.1 };
    loss_and_gradient(&mut tensor, 2, 4, &targets, objective, &mut losses, 0);
    assert_close(losses.cpu(), &[2.689_753_447_679_352, 0.475_422_822_511_075_4], 1e-6, "loss");
    let gradient = [
        [0.085_553_750_361_739, -0.019_495_852_872_416, -0.857_945_760_859_389, 0.791_887_863_370_066],
        [0.074_592_061_387_688, 0.102_878_738_122_128, 0.011_637_871_888_415, -0.189_108_671_398_222],
    ];
    assert_close(tensor.cpu(), gradient.as_flattened(), 1e-6, "gradient");
}

#[test]
fn large_logits_do_not_overflow() {
    let logits = Tensor::from_slice(Device::Cpu, &[500.0, -500.0, 499.0]);
    let mut losses = Tensor::zeros(Device::Cpu, 1);
    loss(&logits, 1, 3, &[Target { row: 0, id: 1, weight: 1.0 }], &mut losses, 0);
    assert!((losses.cpu()[0] - (1000.0 + (1.0f32 + (-1.0f32).exp()).ln())).abs() < 1e-3, "{losses:?}");
}
