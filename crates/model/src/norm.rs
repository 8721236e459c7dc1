//! A norm, forward and backward, wherever it stands: over the residual stream, over what a half of a block gives, over the heads
//! of queries and keys, and before the head of the model.

use lorafit_kernels::Tensor;
use lorafit_kernels::ops::{layer_norm, rms_norm};

use crate::shape::NormKind;
use crate::vector::Vector;

/// A norm with its weight and, where it has one, its bias, `[width]` each. A weight that files have less one is whole here.
#[derive(Debug)]
pub(crate) struct Norm {
    pub kind: NormKind,
    pub weight: Vector,
    pub bias: Option<Vector>,
    pub eps: f32,
}

impl Norm {
    /// Normalises `rows` rows of `x` into `y`; leaves in `stats` what backward reads: `rstd` of each row, or its mean and
    /// `rstd`.
    pub(crate) fn forward(&self, x: &Tensor, rows: usize, y: &mut Tensor, stats: &mut Tensor) {
        match self.kind {
            NormKind::Rms | NormKind::RmsPlusOne => {
                rms_norm::forward(x, &self.weight, self.eps, rows, y, stats);
            }
            NormKind::Layer { .. } => {
                layer_norm::forward(x, &self.weight, self.bias.as_deref(), self.eps, rows, y, stats);
            }
        }
    }

    /// As [`Norm::forward`] a second time, with `stats` known.
    pub(crate) fn recompute(&self, x: &Tensor, rows: usize, stats: &Tensor, y: &mut Tensor) {
        match self.kind {
            NormKind::Rms | NormKind::RmsPlusOne => rms_norm::recompute(x, &self.weight, stats, rows, y),
            NormKind::Layer { .. } => {
                layer_norm::recompute(x, &self.weight, self.bias.as_deref(), stats, rows, y);
            }
        }
    }

    /// Adds to the gradients of weight and bias, if they are trained.
    pub(crate) fn weight_gradient(
        &self,
        d_y: &Tensor,
        x: &Tensor,
        rows: usize,
        stats: &Tensor,
        gradients: &mut NormGradients,
    ) {
        if let Some(d_weight) = &mut gradients.weight {
            match self.kind {
                NormKind::Rms | NormKind::RmsPlusOne => {
                    rms_norm::backward_weight(d_y, x, stats, rows, d_weight)
                }
                NormKind::Layer { .. } => layer_norm::backward_weight(d_y, x, stats, rows, d_weight),
            }
        }
        if let Some(d_bias) = &mut gradients.bias {
            layer_norm::backward_bias(d_y, rows, d_bias);
        }
    }

    /// Adds the gradient of `x` to `d_x`.
    pub(crate) fn input_gradient(
        &self,
        d_y: &Tensor,
        x: &Tensor,
        rows: usize,
        stats: &Tensor,
        d_x: &mut Tensor,
    ) {
        match self.kind {
            NormKind::Rms | NormKind::RmsPlusOne => {
                rms_norm::backward(d_y, x, &self.weight, stats, rows, d_x)
            }
            NormKind::Layer { .. } => layer_norm::backward(d_y, x, &self.weight, stats, rows, d_x),
        }
    }

    /// As [`Norm::input_gradient`] of `d_x` and [`Norm::recompute`] of `y`, which read the same values.
    pub(crate) fn input_gradient_and_output(
        &self,
        d_y: &Tensor,
        x: &Tensor,
        rows: usize,
        stats: &Tensor,
        [d_x, y]: [&mut Tensor; 2],
    ) {
        match self.kind {
            NormKind::Rms | NormKind::RmsPlusOne => {
                rms_norm::backward_and_output(d_y, x, &self.weight, stats, rows, d_x, y);
            }
            NormKind::Layer { .. } => {
                self.recompute(x, rows, stats, y);
                self.input_gradient(d_y, x, rows, stats, d_x);
            }
        }
    }
}

/// The gradients of a norm's weight and bias, where they are trained.
#[derive(Debug)]
pub(crate) struct NormGradients {
    pub weight: Option<Tensor>,
    pub bias: Option<Tensor>,
}

impl NormGradients {
    /// Zeros for what of `norm` is trained.
    pub(crate) fn of(norm: &Norm) -> Self {
        NormGradients {
            weight: norm.weight.trained().map(Tensor::zeros_like),
            bias: norm.bias.as_ref().and_then(Vector::trained).map(Tensor::zeros_like),
        }
    }

    pub(crate) fn any(&self) -> bool {
        self.all().next().is_some()
    }

    /// Weight and bias.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Tensor> {
        self.weight.iter().chain(&self.bias)
    }

    /// As [`NormGradients::all`], writable.
    pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        self.weight.iter_mut().chain(&mut self.bias)
    }
}
