//! AdamW on the factors of an adapter; the arithmetic is in `kernels::ops::adamw`.

use lorafit_kernels::Tensor;
use lorafit_kernels::ops::adamw::{self, Moment8, Step};
use lorafit_model::adapter::{Adapter, Gradients};
use rayon::prelude::*;

/// How the moments are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptimizerKind {
    /// In f32: 8 bytes a parameter.
    AdamW,
    /// In 8 bits, in f32 for tensors of fewer than 4096 parameters (as bitsandbytes): 2 bytes a parameter.
    AdamW8bit,
}

impl OptimizerKind {
    /// Smaller tensors stay in f32: they take little, and are often the sensitive ones.
    const MIN_8BIT_LEN: usize = 4096;

    fn in_8bit(self, len: usize) -> bool {
        self == OptimizerKind::AdamW8bit && len >= Self::MIN_8BIT_LEN
    }

    /// Bytes of the state of a tensor of `len` parameters.
    pub fn state_bytes(self, len: usize) -> u64 {
        2 * if self.in_8bit(len) { Moment8::bytes(len) } else { (len * size_of::<f32>()) as u64 }
    }
}

/// First and second moment of a tensor.
#[derive(Debug)]
enum Moments {
    F32(Tensor, Tensor),
    EightBit(Moment8, Moment8),
}

/// The optimizer's state: two moments a parameter.
#[derive(Debug)]
pub struct AdamW {
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    steps: u64,
    /// Of every tensor, in the adapter's order.
    moments: Vec<Moments>,
}

impl AdamW {
    /// PyTorch's constants (0.9, 0.999, 1e-8) and zero moments.
    pub fn new(adapter: &Adapter, kind: OptimizerKind, weight_decay: f64) -> Self {
        let zeros = |t: &Tensor| match kind.in_8bit(t.len()) {
            true => Moments::EightBit(Moment8::zeros(t.len()), Moment8::zeros(t.len())),
            false => Moments::F32(Tensor::zeros(t.device(), t.len()), Tensor::zeros(t.device(), t.len())),
        };
        let moments = adapter.tensors().map(zeros).collect();
        AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay, steps: 0, moments }
    }

    /// One update with `gradient_scale * gradients`.
    pub fn step(
        &mut self,
        adapter: &mut Adapter,
        gradients: &Gradients,
        learning_rate: f64,
        gradient_scale: f64,
    ) {
        self.steps += 1;
        let step = Step {
            learning_rate,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            weight_decay: self.weight_decay,
            number: self.steps,
            gradient_scale,
        };
        let tensors: Vec<_> = adapter.tensors_mut().zip(gradients.tensors()).zip(&mut self.moments).collect();
        tensors.into_par_iter().for_each(|((parameter, gradient), moments)| {
            let len = parameter.len();
            match moments {
                Moments::F32(first, second) => adamw::step(parameter, gradient, first, second, len, &step),
                Moments::EightBit(first, second) => {
                    adamw::step_8bit(parameter, gradient, first, second, len, &step);
                }
            }
        });
    }
}
