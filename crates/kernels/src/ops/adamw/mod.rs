//! AdamW (Loshchilov and Hutter 2019), with the arithmetic of `torch.optim.AdamW`.
//!
//! `p -= lr wd p`; `m = b1 m + (1 - b1) g`; `v = b2 v + (1 - b2) g^2`;
//! `p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)`. All state in f32.

use crate::tensor::{Device, Tensor};

mod cpu;

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
    }
}
