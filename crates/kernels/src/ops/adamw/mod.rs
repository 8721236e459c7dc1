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

/// Values of a block of 8-bit moments, which share a scale.
pub const BLOCK_LEN: usize = 256;

/// One moment of 8-bit AdamW: codes of [`dynamic_map`](crate::quant::dynamic_map), a scale for each block.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment8 {
    codes: Vec<u8>,
    absmax: Vec<f32>,
}

impl Moment8 {
    /// Zeros for `len` parameters.
    pub fn zeros(len: usize) -> Self {
        // With a scale of zero every code means zero.
        Moment8 { codes: vec![0; len], absmax: vec![0.0; len.div_ceil(BLOCK_LEN)] }
    }

    /// A moment from its parts, as [`Self::codes`] and [`Self::absmax`] give them; `None` if their lengths disagree.
    pub fn from_parts(codes: Vec<u8>, absmax: Vec<f32>) -> Option<Self> {
        (absmax.len() == codes.len().div_ceil(BLOCK_LEN)).then_some(Moment8 { codes, absmax })
    }

    /// A code for every parameter.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// A scale for every block.
    pub fn absmax(&self) -> &[f32] {
        &self.absmax
    }

    /// Bytes that it takes for `len` parameters.
    pub fn bytes(len: usize) -> u64 {
        (len + len.div_ceil(BLOCK_LEN) * size_of::<f32>()) as u64
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
    assert!(first.codes.len() == len && second.codes.len() == len, "moments of other parameters");
    match parameter.device() {
        Device::Cpu => {
            cpu_8bit::step(&mut parameter.cpu_mut()[..len], &gradient.cpu()[..len], first, second, step)
        }
    }
}
