//! Root-mean-square normalisation (Zhang and Sennrich 2019).
//!
//! `y = x * rstd * weight`, `rstd = 1 / sqrt(mean(x^2) + eps)`, over rows of `width` values; f32 sums.
//! Backward, of `y`'s gradient `d_y`: `d_x += rstd * (weight d_y - x rstd^2 mean(weight d_y x))`, and where the weight is
//! trained `d_weight += sum over rows of d_y x rstd`.

use crate::gpu::count;
use crate::tensor::{Device, Tensor};

mod cpu;
pub mod cuda;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

/// Normalises `rows` rows of `x` into `y` (`[rows, width]`, `width = weight.len()`). Saves `rstd` (`[rows]`).
pub fn forward(x: &Tensor, weight: &Tensor, eps: f32, rows: usize, y: &mut Tensor, rstd: &mut Tensor) {
    match x.device() {
        Device::Cpu => cpu::forward(x.cpu(), weight.cpu(), eps, rows, y.cpu_mut(), rstd.cpu_mut()),
        Device::Cuda(gpu) => {
            let (float, shape) = (x.float_with(&[y]), (count(rows), count(weight.len())));
            let (x, weight, y, rstd) = (x.region(), weight.region(), y.region(), rstd.region());
            gpu.run(&cuda::forward(float, x, weight, eps, shape, y, rstd));
        }
    }
}

/// As [`forward`] with `rstd` already known, for a normalised input that backward needs again.
pub fn recompute(x: &Tensor, weight: &Tensor, rstd: &Tensor, rows: usize, y: &mut Tensor) {
    match x.device() {
        Device::Cpu => cpu::recompute(x.cpu(), weight.cpu(), rstd.cpu(), rows, y.cpu_mut()),
        Device::Cuda(gpu) => {
            let (float, shape) = (x.float_with(&[y]), (count(rows), count(weight.len())));
            let (x, weight, rstd, y) = (x.region(), weight.region(), rstd.region(), y.region());
            gpu.run(&cuda::recompute(float, x, weight, rstd, shape, y));
        }
    }
}

/// Adds the gradient of `x` to `d_x`, from `d_y` and what forward saved. All `[rows, width]`.
pub fn backward(d_y: &Tensor, x: &Tensor, weight: &Tensor, rstd: &Tensor, rows: usize, d_x: &mut Tensor) {
    match x.device() {
        Device::Cpu => cpu::backward(d_y.cpu(), x.cpu(), weight.cpu(), rstd.cpu(), rows, d_x.cpu_mut()),
        Device::Cuda(gpu) => {
            let (float, shape) = (x.float_with(&[d_y, d_x]), (count(rows), count(weight.len())));
            let (d_y, x, weight) = (d_y.region(), x.region(), weight.region());
            gpu.run(&cuda::backward(float, d_y, x, weight, rstd.region(), shape, d_x.region(), None));
        }
    }
}

/// As [`backward`], and writes `y` again, as [`forward`] gave it.
pub fn backward_and_output(
    d_y: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    rstd: &Tensor,
    rows: usize,
    d_x: &mut Tensor,
    y: &mut Tensor,
) {
    match x.device() {
        Device::Cpu => {
            recompute(x, weight, rstd, rows, y);
            backward(d_y, x, weight, rstd, rows, d_x);
        }
        Device::Cuda(gpu) => {
            let (float, shape) = (x.float_with(&[d_y, d_x, y]), (count(rows), count(weight.len())));
            let (d_y, x, weight, rstd) = (d_y.region(), x.region(), weight.region(), rstd.region());
            let (d_x, y) = (d_x.region(), Some(y.region()));
            gpu.run(&cuda::backward(float, d_y, x, weight, rstd, shape, d_x, y));
        }
    }
}

/// Adds the gradient of the weight to `d_weight` (`[width]`), from `d_y` and what forward saved: a sum over rows, in f32
/// and in their order.
pub fn backward_weight(d_y: &Tensor, x: &Tensor, rstd: &Tensor, rows: usize, d_weight: &mut Tensor) {
    match x.device() {
        Device::Cpu => cpu::backward_weight(d_y.cpu(), x.cpu(), rstd.cpu(), rows, d_weight.cpu_mut()),
        Device::Cuda(gpu) => {
            let (float, shape) = (x.float_with(&[d_y]), (count(rows), count(d_weight.len())));
            let (d_y, x, rstd) = (d_y.region(), x.region(), rstd.region());
            gpu.run(&cuda::backward_weight(float, d_y, x, rstd, shape, d_weight.region()));
        }
    }
}
