use super::*;
use crate::random::uniform;

/// By the definition, in f64.
#[test]
fn noise_is_a_function_of_seed_and_position() {
    let (rows, width) = (5, 7);
    let before: Vec<f32> = (0..(rows + 1) * width).map(|i| i as f32 * 0.25).collect();
    let bounds = [0.5, 0.0, 0.125, 3.0, 1e-3];
    let mut x = Tensor::from_slice(Device::Cpu, &before);
    add(&mut x, width, &bounds, 9);
    for (i, (found, before)) in x.cpu().iter().zip(&before).enumerate() {
        let bound = bounds.get(i / width).map_or(0.0, |bound| f64::from(*bound));
        let expected = f64::from(*before) + bound * (2.0 * f64::from(uniform(9, i as u64)) - 1.0);
        assert!((f64::from(*found) - expected).abs() < 1e-6, "value {i}: {found}, expected {expected}");
    }
    let mut other = Tensor::from_slice(Device::Cpu, &before);
    add(&mut other, width, &bounds, 10);
    assert_ne!(other.cpu(), x.cpu());
}

/// Mean 0 and variance `bound^2 / 3` within five standard errors.
#[test]
fn noise_is_uniform_within_its_bound() {
    let (rows, width) = (200, 500);
    let mut x = Tensor::zeros(Device::Cpu, rows * width);
    add(&mut x, width, &vec![2.0; rows], 3);
    let n = (rows * width) as f64;
    let moment = |power: i32| x.cpu().iter().map(|v| f64::from(*v).powi(power)).sum::<f64>() / n;
    let (mean, square) = (moment(1), moment(2));
    assert!(mean.abs() < 5.0 * (4.0 / 3.0 / n).sqrt(), "{mean}");
    // The variance of x^2 is (1/5 - 1/9) bound^4.
    assert!((square - 4.0 / 3.0).abs() < 5.0 * (16.0 * (1.0 / 5.0 - 1.0 / 9.0) / n).sqrt(), "{square}");
    assert!(x.cpu().iter().all(|v| (-2.0..=2.0).contains(v)));
}
