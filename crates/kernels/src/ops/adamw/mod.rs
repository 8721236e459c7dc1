//! AdamW (Loshchilov and Hutter 2019), with the arithmetic of `torch.optim.AdamW`.
//!
//! `p -= lr wd p`; `m = b1 m + (1 - b1) g`; `v = b2 v + (1 - b2) g^2`;
//! `p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)`.
//!
//! The moments are f32 ([`step`]), or 8-bit codes that are decoded, updated and encoded again block by block
//! ([`step_8bit`]; Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization"), with the arithmetic of
//! `bitsandbytes.optim.AdamW8bit`.

use crate::tensor::{Device, Tensor};

mod cpu;
mod cpu_8bit;
pub mod cuda;
mod moment8;

pub use moment8::{BLOCK_LEN, Moment8};

/// What a step needs besides the tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Number of this step, from 1.
    pub number: u64,
    /// The gradient is multiplied by this first (mean over tokens, clipping).
    pub gradient_scale: f64,
}

impl Step {
    /// Step `number` with the constants of `torch.optim.AdamW` (betas 0.9 and 0.999, eps 1e-8), no weight decay, and
    /// gradients as they are.
    pub fn new(number: u64, learning_rate: f64) -> Self {
        let (beta1, beta2, eps) = (0.9, 0.999, 1e-8);
        Step { learning_rate, beta1, beta2, eps, weight_decay: 0.0, number, gradient_scale: 1.0 }
    }
}

/// One step on the first `len` parameters; overwrites `parameter`, `first` and `second`.
pub fn step(
    parameter: &mut Tensor,
    gradient: &Tensor,
    first: &mut Tensor,
    second: &mut Tensor,
    len: usize,
    step: &Step,
) {
    match parameter.device() {
        Device::Cpu => cpu::step(
            &mut parameter.cpu_mut()[..len],
            &gradient.cpu()[..len],
            &mut first.cpu_mut()[..len],
            &mut second.cpu_mut()[..len],
            step,
        ),
        Device::Cuda(gpu) => {
            let (parameter, gradient) = (parameter.region(), gradient.region());
            let (first, second) = (first.region(), second.region());
            gpu.run(&cuda::step(parameter, gradient, first, second, len as u64, step));
        }
    }
}

/// One step on the first `len` parameters; overwrites `parameter`, `first` and `second`.
///
/// # Panics
/// When the moments are not for `len` parameters.
pub fn step_8bit(
    parameter: &mut Tensor,
    gradient: &Tensor,
    first: &mut Moment8,
    second: &mut Moment8,
    len: usize,
    step: &Step,
) {
    assert!(first.len() == len && second.len() == len, "moments of other parameters");
    match parameter.device() {
        Device::Cpu => {
            cpu_8bit::step(&mut parameter.cpu_mut()[..len], &gradient.cpu()[..len], first, second, step)
        }
        Device::Cuda(gpu) => {
            let maps = gpu.buffer_of(&cuda::map_bytes());
            let (first, second) = (first.on_gpu(), second.on_gpu());
            let (parameter, gradient, maps) = (parameter.region(), gradient.region(), maps.region());
            gpu.run(&cuda::step_8bit(parameter, gradient, first, second, maps, len as u64, step));
        }
    }
}
