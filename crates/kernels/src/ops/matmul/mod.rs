//! Matrix products: the one op that decides how fast training is.
//!
//! `out[m, n] = base[m, n] + bias[n] + scale * sum over terms of  left[m, k] . right[k, n]`, accumulated in f32.
//!
//! A product is a sum of *terms*, because a LoRA layer is one: `Y = X W^T + U B^T` forward and
//! `dX = sum_i dY_i W_i + dU A` backward. Summing inside the product writes the output once.
//! The right operand may be a frozen [`Weight`], decoded tile by tile while the product runs. The weight says whether
//! both operands are multiplied as f32 or rounded to bf16 first; all else is f32.
//!
//! Every output element is summed in the same order whatever the number of threads and however the
//! output is cut into tiles, so results depend only on the instruction set.

use crate::ops::elementwise;
use crate::tensor::{Device, Tensor};
use crate::weight::{ComputeDtype, Weight};

pub(crate) mod cpu;
pub mod cuda;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

/// The most rows of a product on the processor with a stored matrix that are computed from it as it is decoded, in f32 always:
/// of so many, each has the same bits whatever is computed beside it.
pub const FEW_ROWS: usize = cpu::FEW_ROWS;

/// A strided read-only view of a tensor as a matrix: element `(i, j)` is at
/// `offset + i * row_stride + j * col_stride`.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    tensor: &'a Tensor,
    offset: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> View<'a> {
    /// A row-major matrix of `cols` columns.
    pub fn rows(tensor: &'a Tensor, cols: usize) -> Self {
        View { tensor, offset: 0, row_stride: cols, col_stride: 1 }
    }

    /// The transposed matrix.
    pub fn t(self) -> Self {
        View { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// The matrix without its first `cols` columns.
    pub fn from_col(self, col: usize) -> Self {
        View { offset: self.offset + col * self.col_stride, ..self }
    }

    /// The matrix without its first `rows` rows.
    pub fn from_row(self, row: usize) -> Self {
        View { offset: self.offset + row * self.row_stride, ..self }
    }
}

/// The right operand of a term, `[k, n]`.
#[derive(Clone, Copy, Debug)]
pub enum Right<'a> {
    /// `right[k, n] = weight[n, k]`: the forward product `X W^T`.
    WeightTransposed(&'a Weight),
    /// `right[k, n] = weight[k, n]`: the input gradient `dY W`.
    Weight(&'a Weight),
    /// Values of a tensor (adapter factors, activations).
    View(View<'a>),
}

/// One summand of a product, `left[m, k] . right[k, n]`.
#[derive(Clone, Copy, Debug)]
pub struct Term<'a> {
    /// The left operand, `[m, k]`.
    pub left: View<'a>,
    /// The right operand, `[k, n]`.
    pub right: Right<'a>,
    /// The length of the sum.
    pub k: usize,
}

/// What a product is added to.
#[derive(Clone, Copy, Debug)]
pub enum Base<'a> {
    /// Nothing: the output is overwritten.
    Zero,
    /// What the output holds.
    Output,
    /// Another tensor, with its values where the output has them.
    Of(&'a Tensor),
}

/// One product with its output.
#[derive(Debug)]
pub struct Product<'a> {
    /// Rows of the output.
    pub m: usize,
    /// Columns of the output.
    pub n: usize,
    /// The summands, added in this order.
    pub terms: Vec<Term<'a>>,
    /// Added to every row, `[n]`.
    pub bias: Option<&'a Tensor>,
    /// What it is added to, if something.
    pub base: Base<'a>,
    /// What the sum is multiplied by; 1 where there is a bias or something that it is added to.
    pub scale: f32,
    /// The output; element `(i, j)` is at `out_offset + i * out_stride + j`.
    pub out: &'a mut Tensor,
    /// Where the output begins.
    pub out_offset: usize,
    /// From one output row to the next.
    pub out_stride: usize,
}

impl<'a> Product<'a> {
    /// A product of one term that overwrites a contiguous `[m, n]` output.
    pub fn new(m: usize, n: usize, term: Term<'a>, out: &'a mut Tensor) -> Self {
        Product {
            m,
            n,
            terms: vec![term],
            bias: None,
            base: Base::Zero,
            scale: 1.0,
            out,
            out_offset: 0,
            out_stride: n,
        }
    }
}

/// Computes all `products`, which share one parallel region.
///
/// # Panics
/// When an operand is smaller than its product's shape asks for.
pub fn run(products: &mut [Product<'_>]) {
    let Some(first) = products.first() else { return };
    for product in products.iter() {
        let plain = product.bias.is_none() && matches!(product.base, Base::Zero);
        assert!(product.scale == 1.0 || plain, "a product that is scaled is added to nothing");
    }
    match first.out.device() {
        Device::Cpu => run_on_cpu(products),
        Device::Cuda(gpu) => cuda::run(gpu, products),
    }
}

fn run_on_cpu(products: &mut [Product<'_>]) {
    for product in products.iter_mut() {
        if let Base::Of(base) = product.base {
            let len = product.m.saturating_sub(1) * product.out_stride + product.n;
            elementwise::copy_range(base, product.out_offset, len, product.out, product.out_offset);
            product.base = Base::Output;
        }
    }
    cpu::run(products);
    for product in products.iter_mut().filter(|product| product.scale != 1.0) {
        let rows = product.out.cpu_mut()[product.out_offset..].chunks_mut(product.out_stride);
        for row in rows.take(product.m) {
            row[..product.n].iter_mut().for_each(|value| *value *= product.scale);
        }
    }
}

/// Adds `scale` times the product of `term` to `out`, `[m, n]`, on the processor and the calling thread: for who is parallel
/// over something else. `scale` is multiplied into the left operand; sums of up to 768 products are added once.
///
/// # Panics
/// As [`run`], and when an operand is on another device.
pub fn add_scaled(m: usize, n: usize, term: Term<'_>, scale: f32, out: &mut [f32]) {
    cpu::add_scaled(m, n, term, scale, out);
}

/// The instruction set the processor's products of `dtype` run on. The order in which they add, and with it the last bits
/// of their results, is that of the instruction set. Sets that give the same bits have one name: products of bytes by AMX are
/// called "avx512vnni".
pub fn cpu_instruction_set(dtype: ComputeDtype) -> &'static str {
    cpu::instruction_set(dtype)
}

/// The multiply-add rate of the current rayon pool on operands of `dtype` in registers, in FLOP/s: the ceiling that
/// [`run`] is measured against.
pub fn cpu_fma_peak(dtype: ComputeDtype) -> f64 {
    cpu::fma_peak(dtype)
}

/// Bytes that [`run`] takes in passing on the CPU for products of `rows` rows, whose sums over weights have `k` values
/// together, if weights are multiplied in bf16.
pub fn cpu_workspace_bytes(rows: usize, k: usize) -> u64 {
    cpu::left_bytes(rows, k)
}
