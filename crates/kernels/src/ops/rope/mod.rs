//! Rotary position embedding (Su et al. 2021), in the "rotate half" layout of Hugging Face checkpoints.
//!
//! Within a head of `d` values, `(x[j], x[j + d/2])` is turned by the angle `position * frequency[j]`.
//! Backward is the same turn the other way.

use crate::ops::elementwise;
use crate::tensor::{Device, Tensor};

mod cpu;
pub mod cuda;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

/// The cosines and sines of a batch: one row of `d/2` pairs per token, computed once for all layers.
#[derive(Debug)]
pub struct Angles<T = Tensor> {
    cos: T,
    sin: T,
    half: usize,
}

impl<T> Angles<T> {
    /// Room for `tokens` tokens and heads of `2 * frequencies` values, in buffers that `make` gives for a length.
    pub fn laid_out(tokens: usize, frequencies: usize, mut make: impl FnMut(usize) -> T) -> Self {
        let len = tokens * frequencies;
        Angles { cos: make(len), sin: make(len), half: frequencies }
    }
}

impl Angles {
    /// Sets the angles `positions[t] * frequencies[j]`, with the product in f32 as transformers has it.
    pub fn set(&mut self, positions: &[u32], frequencies: &[f32]) {
        assert_eq!(frequencies.len(), self.half, "frequencies per head");
        match self.cos.device() {
            Device::Cpu => cpu::angles(positions, frequencies, self.cos.cpu_mut(), self.sin.cpu_mut()),
        }
    }
}

/// Turns `rows` rows of `heads` heads from `x` into `y`, both `[rows, heads, d]`.
pub fn forward(x: &Tensor, angles: &Angles, rows: usize, heads: usize, y: &mut Tensor) {
    elementwise::copy(x, rows * heads * 2 * angles.half, y);
    forward_in_place(y, angles, rows, heads);
}

/// As [`forward`] in place: overwrites `x`.
pub fn forward_in_place(x: &mut Tensor, angles: &Angles, rows: usize, heads: usize) {
    match x.device() {
        Device::Cpu => {
            let (cos, sin) = (angles.cos.cpu(), angles.sin.cpu());
            cpu::turn_in_place(x.cpu_mut(), cos, sin, 1.0, rows, heads, angles.half);
        }
    }
}

/// Overwrites the gradient of the turned values with that of the values before, `[rows, heads, d]`.
pub fn backward_in_place(d_x: &mut Tensor, angles: &Angles, rows: usize, heads: usize) {
    match d_x.device() {
        Device::Cpu => {
            let (cos, sin) = (angles.cos.cpu(), angles.sin.cpu());
            cpu::turn_in_place(d_x.cpu_mut(), cos, sin, -1.0, rows, heads, angles.half);
        }
    }
}
