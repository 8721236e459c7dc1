//! Activations of feed-forward layers, alone and as a gate (Shazeer 2020): `y = act(x)`, and `y = act(gate) * up`.
//!
//! `act` is one of [`Activation`]. `Silu` as a gate is the "swiglu" of Llama, `GeluTanh` the "geglu" of Gemma. All is f32.
//! Backward overwrites what forward read, and on demand the gradient of the output by the output: `d_x = d_y act'(x)`; `d_gate = d_y up act'(gate)`, `d_up = d_y act(gate)`.

use crate::ops::matmul::{self, Base, Product, Right, Term, View};
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

/// What [`backward_and_product`] multiplies the output by.
#[derive(Debug)]
pub struct OutputProduct<'a> {
    /// `[rows, rank]`.
    pub left: &'a Tensor,
    /// Columns of `left`.
    pub rank: usize,
    /// `[rank, width]`: `left^T y` is added to it.
    pub sum: &'a mut Tensor,
    /// An activation that holds nothing, for products of parts of the rows.
    pub workspace: &'a mut Tensor,
}

/// [`backward_in_place`] of `rows` rows of `width` values, and the product of the output with something else: the gradient of a
/// factor that reads it. Overwrites `d_y` by anything. A GPU that computes in bf16 need not write the output for it.
pub fn backward_and_product(
    activation: Activation,
    d_y: &mut Tensor,
    [gate, up]: [&mut Tensor; 2],
    (rows, width): (usize, usize),
    product: OutputProduct<'_>,
) {
    let OutputProduct { left, rank, sum, workspace } = product;
    if let Device::Cuda(gpu) = d_y.device() {
        let float = gate.float_with(&[up, d_y, left]);
        let shape = cuda::ProductShape { rows, width, rank };
        if shape.is_known(float) && shape.workspace_bytes() <= workspace.region().bytes {
            let operands = [d_y.region(), gate.region(), up.region(), left.region()];
            let (workspace, sum) = (workspace.region(), sum.region());
            let launches = cuda::backward_product(activation, operands, shape, workspace, sum);
            return launches.iter().for_each(|launch| gpu.run(launch));
        }
    }
    backward_in_place(activation, d_y, gate, up, rows * width, true);
    let (left, right) = (View::rows(left, rank).t(), Right::View(View::rows(d_y, width)));
    let product = Product::new(rank, width, Term { left, right, k: rows }, sum);
    matmul::run(&mut [Product { base: Base::Output, ..product }]);
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
