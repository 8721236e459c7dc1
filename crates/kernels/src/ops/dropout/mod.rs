//! Dropout on the input of an adapter (Hu et al. 2021; PEFT `lora_dropout`).
//!
//! `y = x * keep / (1 - p)`. The mask is a function of a seed and the position, so it is computed again in
//! backward instead of being stored, and does not depend on the number of threads.

use crate::random::mix;
use crate::tensor::{Device, Tensor};

mod cpu;
pub mod cuda;

/// Which values a call keeps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mask {
    /// Probability that a value is dropped, in [0, 1).
    pub p: f32,
    /// Distinguishes steps, layers and projections; see [`Mask::derive`].
    pub seed: u64,
}

impl Mask {
    /// The mask of part number `part` under this one.
    pub fn derive(self, part: u64) -> Mask {
        Mask { seed: mix(self.seed ^ mix(part)), ..self }
    }
}

/// `y = x * keep / (1 - p)` over the first `len` values.
pub fn forward(x: &Tensor, mask: Mask, len: usize, y: &mut Tensor) {
    match x.device() {
        Device::Cpu => cpu::forward(x.cpu(), mask, len, y.cpu_mut()),
        Device::Cuda(gpu) => {
            gpu.run(&cuda::forward(x.float_with(&[y]), x.region(), mask, len as u64, y.region()));
        }
    }
}

/// `d_x += d_y * keep / (1 - p)` over the first `len` values.
pub fn backward(d_y: &Tensor, mask: Mask, len: usize, d_x: &mut Tensor) {
    match d_y.device() {
        Device::Cpu => cpu::backward(d_y.cpu(), mask, len, d_x.cpu_mut()),
        Device::Cuda(gpu) => {
            gpu.run(&cuda::backward(d_y.float_with(&[d_x]), d_y.region(), mask, len as u64, d_x.region()));
        }
    }
}
