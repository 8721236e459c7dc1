//! Rotary position embedding (Su et al. 2021), in the layouts of Hugging Face checkpoints.
//!
//! Of a head of `d` values the first `r` are turned, two for each frequency (`r = d` in Llama, less in Phi, GLM-4 and
//! StableLM), and the rest stay. [`Pairs`] tells which values are turned together. A pair is turned by the angle
//! `position * frequency[j]` and multiplied by a factor, 1 but for YaRN (Peng et al. 2023) and LongRoPE (Ding et al. 2024),
//! whose `attention_factor` it is. Backward is the same turn the other way, times the same factor.

use crate::gpu::{Gpu, Region, count};
use crate::ops::elementwise;
use crate::tensor::{Device, Tensor};

mod cpu;
pub mod cuda;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

/// Which of the first `r` values of a head are turned together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// `(x[j], x[j + r/2])`, "rotate half": Llama and most others.
    Halves,
    /// `(x[2j], x[2j + 1])`: Cohere, GLM-4.
    Neighbours,
}

/// How a head is turned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotation {
    /// Values of a head; those behind the pairs stay.
    pub head_dim: usize,
    /// Frequencies, each of which turns a pair.
    pub frequencies: usize,
    /// Which values are turned together.
    pub pairs: Pairs,
    /// What turned values are multiplied by.
    pub factor: f32,
}

impl Rotation {
    /// Of whole heads of `2 * frequencies` values, in halves, not multiplied.
    pub fn of_whole_heads(frequencies: usize) -> Self {
        Rotation { head_dim: 2 * frequencies, frequencies, pairs: Pairs::Halves, factor: 1.0 }
    }
}

/// The cosines and sines of a batch: one row of a pair per frequency and token, computed once for all layers.
#[derive(Debug)]
pub struct Angles<T = Tensor> {
    cos: T,
    sin: T,
    rotation: Rotation,
}

impl<T> Angles<T> {
    /// Room for `tokens` tokens and [`Rotation::of_whole_heads`], in buffers that `make` gives for a length.
    pub fn laid_out(tokens: usize, frequencies: usize, make: impl FnMut(usize) -> T) -> Self {
        Angles::for_rotation(tokens, Rotation::of_whole_heads(frequencies), make)
    }

    /// Room for `tokens` tokens and heads that are turned as `rotation` says.
    ///
    /// # Panics
    /// When a head has fewer values than its pairs.
    pub fn for_rotation(tokens: usize, rotation: Rotation, mut make: impl FnMut(usize) -> T) -> Self {
        let Rotation { head_dim, frequencies, .. } = rotation;
        assert!(2 * frequencies <= head_dim, "{frequencies} pairs in heads of {head_dim} values");
        let len = tokens * frequencies;
        Angles { cos: make(len), sin: make(len), rotation }
    }
}

impl Angles {
    /// How heads are turned.
    pub fn rotation(&self) -> Rotation {
        self.rotation
    }

    /// The memory of cosines and sines on a GPU.
    pub(crate) fn regions(&self) -> (Region, Region) {
        (self.cos.region(), self.sin.region())
    }

    /// Sets the angles `positions[t] * frequencies[j]`, with the product in f32 as transformers has it, and the factor of their
    /// cosines and sines.
    pub fn set(&mut self, positions: &[u32], frequencies: &[f32]) {
        self.set_from(0, positions, frequencies);
    }

    /// As [`Angles::set`], of the tokens from `first` on: for texts that have frequencies of their own.
    pub fn set_from(&mut self, first: usize, positions: &[u32], frequencies: &[f32]) {
        let Rotation { frequencies: half, factor, .. } = self.rotation;
        assert_eq!(frequencies.len(), half, "frequencies per head");
        let (first, len) = (first * half, positions.len() * half);
        match self.cos.device() {
            Device::Cpu => {
                let (cos, sin) = (self.cos.cpu_mut(), self.sin.cpu_mut());
                cpu::angles(
                    positions,
                    frequencies,
                    factor,
                    &mut cos[first..first + len],
                    &mut sin[first..first + len],
                );
            }
            Device::Cuda(gpu) => {
                let frequencies = gpu.buffer_of_floats(frequencies);
                let (tokens, positions) = (count(positions.len()), gpu.buffer_of_words(positions));
                let (positions, frequencies) = (positions.region(), frequencies.region());
                let (cos, sin) = (self.cos.part(first, len), self.sin.part(first, len));
                gpu.run(&cuda::angles(positions, frequencies, (tokens, count(half)), factor, cos, sin));
            }
        }
    }
}

/// Turns `rows` rows of `heads` heads from `x` into `y`, both `[rows, heads, d]`.
pub fn forward(x: &Tensor, angles: &Angles, rows: usize, heads: usize, y: &mut Tensor) {
    match x.device() {
        Device::Cpu => {
            let (cos, sin) = (angles.cos.cpu(), angles.sin.cpu());
            cpu::turn(
                Some(x.cpu()),
                cos,
                sin,
                Turn::Forward.sign(),
                rows,
                heads,
                angles.rotation,
                y.cpu_mut(),
            );
        }
        Device::Cuda(gpu) => {
            elementwise::copy(x, rows * heads * angles.rotation.head_dim, y);
            turn_alone(gpu, y, angles, rows, heads);
        }
    }
}

/// As [`forward`] in place, of queries and keys: overwrites `x`, `[rows, heads, d]` each.
pub fn forward_in_place(x: [&mut Tensor; 2], angles: &Angles, rows: usize, heads: [usize; 2]) {
    turn(x, angles, rows, heads, Turn::Forward);
}

/// As [`forward_in_place`] of queries or keys alone.
pub(crate) fn forward_in_place_alone(x: &mut Tensor, angles: &Angles, rows: usize, heads: usize) {
    match x.device() {
        Device::Cpu => {
            let (cos, sin) = (angles.cos.cpu(), angles.sin.cpu());
            cpu::turn(None, cos, sin, Turn::Forward.sign(), rows, heads, angles.rotation, x.cpu_mut());
        }
        Device::Cuda(gpu) => turn_alone(gpu, x, angles, rows, heads),
    }
}

fn turn_alone(gpu: Gpu, x: &Tensor, angles: &Angles, rows: usize, heads: usize) {
    let (parts, shape) = ([x.region(), x.part(0, 0)], (rows, [heads, 0]));
    gpu.run(&cuda::turn(x.float(), parts, angles.regions(), Turn::Forward, shape, angles.rotation));
}

/// Overwrites the gradients of turned queries and keys with those of the values before, `[rows, heads, d]` each.
pub fn backward_in_place(d_x: [&mut Tensor; 2], angles: &Angles, rows: usize, heads: [usize; 2]) {
    turn(d_x, angles, rows, heads, Turn::Backward);
}

fn turn(x: [&mut Tensor; 2], angles: &Angles, rows: usize, heads: [usize; 2], turn: Turn) {
    match x[0].device() {
        Device::Cpu => {
            let (cos, sin) = (angles.cos.cpu(), angles.sin.cpu());
            for (x, heads) in x.into_iter().zip(heads) {
                cpu::turn(None, cos, sin, turn.sign(), rows, heads, angles.rotation, x.cpu_mut());
            }
        }
        Device::Cuda(gpu) => {
            let (float, regions) = (x[0].float_with(&[x[1]]), [x[0].region(), x[1].region()]);
            gpu.run(&cuda::turn(float, regions, angles.regions(), turn, (rows, heads), angles.rotation));
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
