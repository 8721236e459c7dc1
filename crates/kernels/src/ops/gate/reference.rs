//! The definitions in f64.

use super::Activation;

/// `sqrt(2 / pi)`.
const GELU_SCALE: f64 = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;

/// The series of erf below 3, and the continued fraction of its complement above (Abramowitz and Stegun 7.1.6, 7.1.14).
fn erf(x: f64) -> f64 {
    let (size, square) = (x.abs(), x * x);
    if size < 3.0 {
        let mut term = std::f64::consts::FRAC_2_SQRT_PI * x * (-square).exp();
        let mut sum = term;
        for n in 1..200 {
            term *= 2.0 * square / f64::from(2 * n + 1);
            sum += term;
        }
        return sum;
    }
    let fraction = (1..60).rev().fold(size, |rest, n| size + f64::from(n) / 2.0 / rest);
    let complement = (-square).exp() * std::f64::consts::FRAC_2_SQRT_PI / 2.0 / fraction;
    (1.0 - complement).copysign(x)
}

pub(super) fn act(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => 0.5 * x * (1.0 + (GELU_SCALE * (x + 0.044715 * x.powi(3))).tanh()),
        Activation::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Activation::Relu2 => x.max(0.0).powi(2),
    }
}

pub(super) fn forward(activation: Activation, gate: &[f64], up: &[f64]) -> Vec<f64> {
    gate.iter().zip(up).map(|(&g, u)| act(activation, g) * u).collect()
}
