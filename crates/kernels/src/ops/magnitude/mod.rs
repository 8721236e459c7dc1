//! The magnitudes of DoRA (Liu et al. 2024, arXiv 2402.09353, equation 5, with the norm as a constant, section 4.3).
//!
//! A projection with weight `W`, `[out, in]`, and update `D = scale * B A` gives `y_j = f_j z_j + bias_j`, where
//! `z = x (W + D)^T`, `f_j = m_j / n_j`, `m` is trained and `n_j` is the norm of row `j` of `W + D`.
//!
//! Neither `D` nor `W + D` is formed for the norms:
//! `n_j^2 = |W_j|^2 + 2 scale B_j . T_j`, `T = W A^T + scale / 2 B A A^T`, `[out, rank]`: the squares of the frozen rows, once,
//! and two products with `rank` columns.
//!
//! Backward, with `n` as a constant: `d_z_j = f_j d_y_j` and `d_m_j = sum over rows of d_y_j z_j / n_j`, which is
//! `sum over rows of d_y_j (y_j - bias_j) / m_j`, so that of a projection nothing but its output is kept. Sums are f32, in the
//! order of rows.

use rayon::prelude::*;

use crate::gpu::count;
use crate::ops::parallel::{Shared, for_row_blocks};
use crate::tensor::{Device, Tensor};

mod cpu;
pub mod cuda;
#[cfg(test)]
mod tests;

/// Columns that a task sums.
const COLUMNS: usize = 64;

/// What norms are made of, but for the magnitudes.
#[derive(Clone, Copy, Debug)]
pub struct NormParts<'a> {
    /// `|W_j|^2`, `[out]`.
    pub squares: &'a Tensor,
    /// `T` transposed, `[rank, out]`, of the device's type of activations.
    pub products: &'a Tensor,
    /// `B` transposed, `[rank, out]`, in f32.
    pub b_t: &'a Tensor,
    /// What `B A` is multiplied by.
    pub scale: f32,
}

/// Overwrites `factors`, `[out]`, with `m / n`. A row of zeros has the factor 0.
pub fn factors(magnitudes: &Tensor, parts: NormParts<'_>, factors: &mut Tensor) {
    let outputs = magnitudes.len();
    let rank = parts.b_t.len() / outputs;
    match magnitudes.device() {
        Device::Cpu => {
            let (magnitudes, squares) = (magnitudes.cpu(), parts.squares.cpu());
            let (products, b_t) = (&parts.products.cpu()[..rank * outputs], parts.b_t.cpu());
            factors.cpu_mut()[..outputs].par_chunks_mut(COLUMNS).enumerate().for_each(|(i, factors)| {
                let first = i * COLUMNS;
                cpu::factors(
                    &magnitudes[first..],
                    &squares[first..],
                    [products, b_t],
                    (first, outputs),
                    parts.scale,
                    factors,
                );
            });
        }
        Device::Cuda(gpu) => {
            let (float, shape) = (parts.products.float(), (count(rank), count(outputs)));
            let of_parts = [parts.squares.region(), parts.products.region(), parts.b_t.region()];
            gpu.run(&cuda::factors(
                float,
                magnitudes.region(),
                of_parts,
                shape,
                parts.scale,
                factors.region(),
            ));
        }
    }
}

/// `y = factors y + bias` in each row of `y`, `[rows, width]`; `factors` and `bias` are `[width]` in f32.
pub fn apply(y: &mut Tensor, rows: usize, factors: &Tensor, bias: Option<&Tensor>) {
    let width = factors.len();
    match y.device() {
        Device::Cpu => {
            let (factors, bias) = (factors.cpu(), bias.map(Tensor::cpu));
            let y = Shared::new(&mut y.cpu_mut()[..rows * width]);
            for_row_blocks(rows, width, |block| {
                for row in block {
                    // SAFETY: every row is in one block.
                    cpu::apply(unsafe { y.part(row * width..(row + 1) * width) }, factors, bias);
                }
            });
        }
        Device::Cuda(gpu) => {
            let (float, shape) = (y.float(), (count(rows), count(width)));
            gpu.run(&cuda::apply(float, y.region(), shape, factors.region(), bias.map(Tensor::region)));
        }
    }
}

/// Adds the gradient of the magnitudes to `d_magnitudes`, `[width]`, from the output `y` and its gradient `d_y`, both
/// `[rows, width]`. A magnitude of 0 gets no gradient, since its output does not depend on the projection.
pub fn gradient(
    d_y: &Tensor,
    y: &Tensor,
    rows: usize,
    magnitudes: &Tensor,
    bias: Option<&Tensor>,
    d_magnitudes: &mut Tensor,
) {
    let width = magnitudes.len();
    match y.device() {
        Device::Cpu => {
            let (d_y, y) = (&d_y.cpu()[..rows * width], &y.cpu()[..rows * width]);
            let (magnitudes, bias) = (magnitudes.cpu(), bias.map(Tensor::cpu));
            d_magnitudes.cpu_mut()[..width].par_chunks_mut(COLUMNS).enumerate().for_each(|(i, sums)| {
                cpu::gradient([d_y, y], (i * COLUMNS, width), magnitudes, bias, sums);
            });
        }
        Device::Cuda(gpu) => {
            let (float, shape) = (y.float_with(&[d_y]), (count(rows), count(width)));
            let (outputs, bias) = ([d_y.region(), y.region()], bias.map(Tensor::region));
            let of_rows = (magnitudes.region(), bias);
            gpu.run(&cuda::gradient(float, outputs, shape, of_rows, d_magnitudes.region()));
        }
    }
}
