//! AdamW on the factors of an adapter; the arithmetic is in `kernels::ops::adamw`.

use lorafit_kernels::Tensor;
use lorafit_kernels::ops::adamw::{self, Step};
use lorafit_model::adapter::{Adapter, Gradients};
use rayon::prelude::*;

/// The optimizer's state: two moments a parameter.
#[derive(Debug)]
pub struct AdamW {
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    steps: u64,
    /// First and second moment of every tensor, in the adapter's order.
    moments: Vec<(Tensor, Tensor)>,
}

impl AdamW {
    /// PyTorch's constants (0.9, 0.999, 1e-8) and zero moments.
    pub fn new(adapter: &Adapter, weight_decay: f64) -> Self {
        let zeros = |t: &Tensor| Tensor::zeros(t.device(), t.len());
        let moments = adapter.tensors().map(|t| (zeros(t), zeros(t))).collect();
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
        tensors.into_par_iter().for_each(|((parameter, gradient), (first, second))| {
            let len = parameter.len();
            adamw::step(parameter, gradient, first, second, len, &step);
        });
    }
}
