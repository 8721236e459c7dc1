//! Rotary position embedding (Su et al. 2021), in the "rotate half" layout of Hugging Face checkpoints.
//!
//! Within a head of `d` values, `(x[j], x[j + d/2])` is turned by the angle `position * frequency[j]`.
//! Backward is the same turn the other way.

use crate::cuda::count;
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
            Device::Cuda(gpu) => {
                let frequencies = gpu.buffer_of_floats(frequencies);
                let (tokens, positions) = (count(positions.len()), gpu.buffer_of_words(positions));
                let (positions, frequencies) = (positions.region(), frequencies.region());
                let (cos, sin) = (self.cos.region(), self.sin.region());
                gpu.run(&cuda::angles(positions, frequencies, tokens, count(self.half), cos, sin));
            }
        }
    }
}

/// Turns `rows` rows of `heads` heads from `x` into `y`, both `[rows, heads, d]`.
pub fn forward(x: &Tensor, angles: &Angles, rows: usize, heads: usize, y: &mut Tensor) {
    match x.device() {
        Device::Cpu => {
            let (cos, sin) = (angles.cos.cpu(), angles.sin.cpu());
            cpu::turn(Some(x.cpu()), cos, sin, Turn::Forward.sign(), rows, heads, angles.half, y.cpu_mut());
        }
        Device::Cuda(_) => {
            elementwise::copy(x, rows * heads * 2 * angles.half, y);
            forward_in_place(y, angles, rows, heads);
        }
    }
}

/// As [`forward`] in place: overwrites `x`.
pub fn forward_in_place(x: &mut Tensor, angles: &Angles, rows: usize, heads: usize) {
    turn(x, angles, rows, heads, Turn::Forward);
}

/// Overwrites the gradient of the turned values with that of the values before, `[rows, heads, d]`.
pub fn backward_in_place(d_x: &mut Tensor, angles: &Angles, rows: usize, heads: usize) {
    turn(d_x, angles, rows, heads, Turn::Backward);
}

fn turn(x: &mut Tensor, angles: &Angles, rows: usize, heads: usize, turn: Turn) {
    match x.device() {
        Device::Cpu => {
            let (cos, sin) = (angles.cos.cpu(), angles.sin.cpu());
            cpu::turn(None, cos, sin, turn.sign(), rows, heads, angles.half, x.cpu_mut());
        }
        Device::Cuda(gpu) => {
            let (turned, shape) =
                ((angles.cos.region(), angles.sin.region()), (count(rows), count(heads), count(angles.half)));
            gpu.run(&cuda::turn(x.float(), x.region(), turned, turn, shape));
        }
    }
}

/// Which way to turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// [`forward_in_place`].
    Forward,
    /// [`backward_in_place`].
    Backward,
}

impl Turn {
    /// What the angles are multiplied with.
    fn sign(self) -> f32 {
        match self {
            Turn::Forward => 1.0,
            Turn::Backward => -1.0,
        }
    }
}
