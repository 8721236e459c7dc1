//! Elementwise; constants are reduced to f32 once, as PyTorch does for f32 parameters.

use multiversion::multiversion;
use rayon::prelude::*;

use super::Step;

/// Values of a task.
const CHUNK: usize = 16 * 1024;

/// A step's settings as both versions use them.
#[derive(Clone, Copy)]
pub(super) struct Constants {
    pub keep: f32,
    pub beta1: f32,
    pub rest1: f32,
    pub beta2: f32,
    pub rest2: f32,
    pub step_size: f32,
    pub correction: f32,
    pub eps: f32,
    pub scale: f32,
}

impl Constants {
    pub fn of(step: &Step) -> Self {
        let correction1 = 1.0 - step.beta1.powf(step.number as f64);
        let correction2 = 1.0 - step.beta2.powf(step.number as f64);
        Constants {
            keep: (1.0 - step.learning_rate * step.weight_decay) as f32,
            beta1: step.beta1 as f32,
            rest1: (1.0 - step.beta1) as f32,
            beta2: step.beta2 as f32,
            rest2: (1.0 - step.beta2) as f32,
            step_size: (step.learning_rate / correction1) as f32,
            correction: correction2.sqrt() as f32,
            eps: step.eps as f32,
            scale: step.gradient_scale as f32,
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn block(parameter: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32], c: Constants) {
    let values = parameter.iter_mut().zip(gradient).zip(first.iter_mut().zip(second));
    for ((p, g), (m, v)) in values {
        let g = g * c.scale;
        *m = *m * c.beta1 + g * c.rest1;
        *v = *v * c.beta2 + g * g * c.rest2;
        let denominator = v.sqrt() / c.correction + c.eps;
        *p = *p * c.keep - c.step_size * (*m / denominator);
    }
}

pub(super) fn step(
    parameter: &mut [f32],
    gradient: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    step: &Step,
) {
    let c = Constants::of(step);
    let values = parameter.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK));
    let moments = first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK));
    values.zip(moments).for_each(|((p, g), (m, v))| block(p, g, m, v, c));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three steps by the equations in f64.
    #[test]
    fn three_steps_equal_the_equations() {
        let gradients = [[0.5f32, -2.0, 1e-6], [0.1, 3.0, 0.0], [-0.7, 0.01, 4.0]];
        let (mut p, mut m, mut v) = ([1.0f32, -0.3, 0.0], [0.0f32; 3], [0.0f32; 3]);
        let (mut ep, mut em, mut ev) = ([1.0f64, f64::from(-0.3f32), 0.0], [0.0f64; 3], [0.0f64; 3]);
        for (t, gradient) in gradients.iter().enumerate() {
            let number = t as u64 + 1;
            let s = Step { weight_decay: 0.1, gradient_scale: 0.5, ..Step::new(number, 0.01) };
            step(&mut p, gradient, &mut m, &mut v, &s);
            for i in 0..3 {
                let g = f64::from(gradient[i]) * 0.5;
                ep[i] -= 0.01 * 0.1 * ep[i];
                em[i] = 0.9 * em[i] + 0.1 * g;
                ev[i] = 0.999 * ev[i] + 0.001 * g * g;
                let (c1, c2) = (1.0 - 0.9f64.powi(number as i32), 1.0 - 0.999f64.powi(number as i32));
                ep[i] -= 0.01 / c1 * em[i] / ((ev[i] / c2).sqrt() + 1e-8);
            }
        }
        for i in 0..3 {
            assert!((f64::from(p[i]) - ep[i]).abs() < 2e-7, "parameter {i}: {} against {}", p[i], ep[i]);
        }
    }
}
