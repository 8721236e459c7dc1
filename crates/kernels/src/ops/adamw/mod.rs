//! AdamW (Loshchilov and Hutter 2019), with the arithmetic of `torch.optim.AdamW`.
//!
//! `p -= lr wd p`; `m = b1 m + (1 - b1) g`; `v = b2 v + (1 - b2) g^2`;
//! `p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)`.
//!
//! The moments are f32 ([`step`]), or 8-bit codes that are decoded, updated and encoded again block by block
//! ([`step_8bit`]; Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization"), with the arithmetic of
//! `bitsandbytes.optim.AdamW8bit`.

use rayon::prelude::*;

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

/// A tensor of parameters with its gradient and its moments in f32, and its step.
#[derive(Debug)]
pub struct Update<'a> {
    /// The parameters.
    pub parameter: &'a mut Tensor,
    /// Their gradient.
    pub gradient: &'a Tensor,
    /// The first moment.
    pub first: &'a mut Tensor,
    /// The second moment.
    pub second: &'a mut Tensor,
    /// The step.
    pub step: Step,
}

impl Update<'_> {
    /// Whether `next` can be updated by the same launch: on a GPU it lies right behind, and its step is the same.
    fn goes_on_in(&self, next: &Update<'_>) -> bool {
        self.step == next.step
            && self.parameter.goes_on_in(next.parameter)
            && self.gradient.goes_on_in(next.gradient)
            && self.first.goes_on_in(next.first)
            && self.second.goes_on_in(next.second)
    }
}

/// [`step`] of all tensors, which are of one device; in one launch of those that lie together ([`Tensor::zeros_together`]).
pub fn step_all(updates: Vec<Update<'_>>) {
    let Some(head) = updates.first() else { return };
    match head.parameter.device() {
        Device::Cpu => updates.into_par_iter().for_each(|update| {
            let Update { parameter, gradient, first, second, step } = update;
            self::step(parameter, gradient, first, second, gradient.len(), &step);
        }),
        Device::Cuda(gpu) => {
            for run in updates.chunk_by(Update::goes_on_in) {
                let (head, last) = (&run[0], &run[run.len() - 1]);
                let parameters = head.parameter.up_to(last.parameter);
                let gradients = head.gradient.up_to(last.gradient);
                let (first, second) = (head.first.up_to(last.first), head.second.up_to(last.second));
                gpu.run(&cuda::step(parameters, gradients, first, second, parameters.bytes / 4, &head.step));
            }
            updates.into_iter().for_each(|update| {
                update.parameter.region_mut();
            });
        }
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
            let (parameter, gradient) = (parameter.region_mut(), gradient.region());
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
            let (parameter, gradient, maps) = (parameter.region_mut(), gradient.region(), maps.region());
            gpu.run(&cuda::step_8bit(parameter, gradient, first, second, maps, len as u64, step));
        }
    }
}
