//! Layer normalisation (Ba et al. 2016), with or without a bias.
//!
//! `y = n * weight + bias`, `n = (x - mean) * rstd`, `rstd = 1 / sqrt(variance + eps)`, over rows of `width` values; the
//! variance is the mean of `(x - mean)^2`, in a second pass over the row. f32 sums. Forward saves the mean and `rstd` of each
//! row, next to each other: `statistics` `[rows, 2]`.
//!
//! Backward, of `y`'s gradient `d_y`, with `g = weight d_y`: `d_x += rstd * (g - mean(g) - n mean(g n))`, and where weight and
//! bias are trained `d_weight += sum over rows of d_y n`, `d_bias += sum over rows of d_y`.

use crate::gpu::count;
use crate::ops::elementwise;
use crate::tensor::{Device, Tensor};

mod cpu;
pub mod cuda;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

/// Normalises `rows` rows of `x` into `y` (`[rows, width]`, `width = weight.len()`). Saves `statistics`, of which there are
/// two a row.
pub fn forward(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    eps: f32,
    rows: usize,
    y: &mut Tensor,
    statistics: &mut Tensor,
) {
    match x.device() {
        Device::Cpu => {
            let (bias, statistics) = (bias.map(Tensor::cpu), statistics.cpu_mut());
            cpu::forward(x.cpu(), weight.cpu(), bias, eps, rows, y.cpu_mut(), statistics);
        }
        Device::Cuda(gpu) => {
            let (float, shape) = (x.float_with(&[y]), (count(rows), count(weight.len())));
            let (x, weight, y) = (x.region(), (weight.region(), bias.map(Tensor::region)), y.region());
            gpu.run(&cuda::forward(float, x, weight, eps, shape, y, statistics.region()));
        }
    }
}

/// As [`forward`] with the statistics already known, for a normalised input that backward needs again.
pub fn recompute(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    statistics: &Tensor,
    rows: usize,
    y: &mut Tensor,
) {
    match x.device() {
        Device::Cpu => {
            let (bias, statistics) = (bias.map(Tensor::cpu), statistics.cpu());
            cpu::recompute(x.cpu(), weight.cpu(), bias, statistics, rows, y.cpu_mut());
        }
        Device::Cuda(gpu) => {
            let (float, shape) = (x.float_with(&[y]), (count(rows), count(weight.len())));
            let (x, weight, y) = (x.region(), (weight.region(), bias.map(Tensor::region)), y.region());
            gpu.run(&cuda::recompute(float, x, weight, statistics.region(), shape, y));
        }
    }
}

/// Adds the gradient of `x` to `d_x`, from `d_y` and what forward saved. All `[rows, width]`.
pub fn backward(
    d_y: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    statistics: &Tensor,
    rows: usize,
    d_x: &mut Tensor,
) {
    match x.device() {
        Device::Cpu => {
            cpu::backward(d_y.cpu(), x.cpu(), weight.cpu(), statistics.cpu(), rows, d_x.cpu_mut());
        }
        Device::Cuda(gpu) => {
            let (float, shape) = (x.float_with(&[d_y, d_x]), (count(rows), count(weight.len())));
            let (d_y, x, weight) = (d_y.region(), x.region(), weight.region());
            gpu.run(&cuda::backward(float, d_y, x, weight, statistics.region(), shape, d_x.region()));
        }
    }
}

/// Adds the gradient of the weight to `d_weight` (`[width]`), from `d_y` and what forward saved: a sum over rows, in f32
/// and in their order.
pub fn backward_weight(d_y: &Tensor, x: &Tensor, statistics: &Tensor, rows: usize, d_weight: &mut Tensor) {
    match x.device() {
        Device::Cpu => cpu::backward_weight(d_y.cpu(), x.cpu(), statistics.cpu(), rows, d_weight.cpu_mut()),
        Device::Cuda(gpu) => {
            let (float, shape) = (x.float_with(&[d_y]), (count(rows), count(d_weight.len())));
            let (d_y, x, statistics) = (d_y.region(), x.region(), statistics.region());
            gpu.run(&cuda::backward_weight(float, d_y, x, statistics, shape, d_weight.region()));
        }
    }
}

/// Adds the gradient of the bias to `d_bias` (`[width]`): a sum over the rows of `d_y`, in f32 and in their order.
pub fn backward_bias(d_y: &Tensor, rows: usize, d_bias: &mut Tensor) {
    let width = d_bias.len();
    elementwise::add_column_sums(d_y, rows, width, d_bias);
}
