//! Activations of feed-forward layers, alone and as a gate (Shazeer 2020): `y = act(x)`, and `y = act(gate) * up`.
//!
//! `act` is one of [`Activation`]. `Silu` as a gate is the "swiglu" of Llama, `GeluTanh` the "geglu" of Gemma. All is f32.
//! Backward overwrites what forward read, and on demand the gradient of the output by the output: `d_x = d_y act'(x)`; `d_gate = d_y up act'(gate)`, `d_up = d_y act(gate)`.

use crate::tensor::{Device, Tensor};

mod cpu;
pub mod cuda;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

/// What a gate, or an activation that stands alone, computes of each value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(x)` (Elfwing et al. 2017).
    Silu,
    /// `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))` (Hendrycks and Gimpel 2016, the approximation): `gelu_pytorch_tanh`
    /// and `gelu_new` of transformers.
    GeluTanh,
    /// `x Phi(x)`, with the exact distribution function `Phi(x) = (1 + erf(x / sqrt(2))) / 2`: `gelu` of transformers. Within
    /// 2e-7 of `|x|`.
    Gelu,
    /// `max(x, 0)^2` (So et al. 2021).
    Relu2,
}

impl Activation {
    /// Every one.
    pub const ALL: [Activation; 4] =
        [Activation::Silu, Activation::GeluTanh, Activation::Gelu, Activation::Relu2];
}

/// `y = act(gate) * up` over the first `len` values.
pub fn forward(activation: Activation, gate: &Tensor, up: &Tensor, len: usize, y: &mut Tensor) {
    match gate.device() {
        Device::Cpu => cpu::forward(activation, gate.cpu(), up.cpu(), len, y.cpu_mut()),
        Device::Cuda(gpu) => {
            let float = gate.float_with(&[up, y]);
            let (gate, up, y) = (gate.region(), up.region(), y.region());
            gpu.run(&cuda::forward(float, activation, gate, up, len as u64, y));
        }
    }
}

/// Overwrites `gate` and `up` with their gradients, from the gradient `d_y` of the output; with `output_again` that becomes the
/// output, as [`forward`] gave it.
pub fn backward_in_place(
    activation: Activation,
    d_y: &mut Tensor,
    gate: &mut Tensor,
    up: &mut Tensor,
    len: usize,
    output_again: bool,
) {
    match d_y.device() {
        Device::Cpu => {
            let (d_y, gate, up) = (d_y.cpu_mut(), gate.cpu_mut(), up.cpu_mut());
            cpu::backward_in_place(activation, d_y, gate, up, len, output_again);
        }
        Device::Cuda(gpu) => {
            let float = gate.float_with(&[up, d_y]);
            let (d_y, gate, up) = (d_y.region(), gate.region(), up.region());
            gpu.run(&cuda::backward_in_place(float, activation, d_y, gate, up, len as u64, output_again));
        }
    }
}

/// `y = act(x)` over the first `len` values: an activation without a gate.
pub fn plain_forward(activation: Activation, x: &Tensor, len: usize, y: &mut Tensor) {
    match x.device() {
        Device::Cpu => cpu::plain_forward(activation, x.cpu(), len, y.cpu_mut()),
        Device::Cuda(gpu) => {
            let float = x.float_with(&[y]);
            gpu.run(&cuda::plain_forward(float, activation, x.region(), len as u64, y.region()));
        }
    }
}

/// Overwrites `x` with its gradient, from the gradient `d_y` of `act(x)`; with `output_again` that becomes `act(x)`.
pub fn plain_backward_in_place(
    activation: Activation,
    d_y: &mut Tensor,
    x: &mut Tensor,
    len: usize,
    output_again: bool,
) {
    match d_y.device() {
        Device::Cpu => {
            cpu::plain_backward_in_place(activation, d_y.cpu_mut(), x.cpu_mut(), len, output_again)
        }
        Device::Cuda(gpu) => {
            let (float, d_y, x) = (x.float_with(&[d_y]), d_y.region(), x.region());
            gpu.run(&cuda::plain_backward_in_place(float, activation, d_y, x, len as u64, output_again));
        }
    }
}
