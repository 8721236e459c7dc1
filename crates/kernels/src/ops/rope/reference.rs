//! The definition in f64: pairs as complex numbers, turned by e^(i position frequency) and multiplied by the factor.

use super::{Pairs, Rotation};

pub(super) fn forward(
    x: &[f64],
    positions: &[u32],
    frequencies: &[f32],
    heads: usize,
    rotation: Rotation,
) -> Vec<f64> {
    let half = frequencies.len();
    // What is not in a pair stays.
    let mut y = x.to_vec();
    for (t, &position) in positions.iter().enumerate() {
        for head in 0..heads {
            let start = (t * heads + head) * rotation.head_dim;
            for (j, &frequency) in frequencies.iter().enumerate() {
                let (first, second) = match rotation.pairs {
                    Pairs::Halves => (start + j, start + j + half),
                    Pairs::Neighbours => (start + 2 * j, start + 2 * j + 1),
                };
                let angle = f64::from(position as f32 * frequency);
                let factor = f64::from(rotation.factor);
                let (re, im) = (x[first] * factor, x[second] * factor);
                y[first] = re * angle.cos() - im * angle.sin();
                y[second] = re * angle.sin() + im * angle.cos();
            }
        }
    }
    y
}
