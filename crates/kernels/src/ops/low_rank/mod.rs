//! Low-rank terms that are some rows' alone: adapters of which each belongs to some sequences of a batch.
//!
//! `out_i[row] += U[row, part] B_i^T` with `U[row] = scale X[row] A^T`, for the rows of each adapter (LoRA, Hu et al. 2021, section
//! 4.1; one pass for rows of several adapters as in Punica, Chen et al. 2023, arXiv 2310.18547). All other rows stay.

use std::ops::Range;

use crate::ops::matmul::{self, Base, Product, Right, Term, View};
use crate::tensor::{Device, Tensor};

mod cpu;
#[cfg(test)]
mod tests;

/// The factors of one projection.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Which of the outputs it is added to.
    pub output: usize,
    /// Its first column of `U`.
    pub first: usize,
    /// Its columns of `U`.
    pub rank: usize,
    /// `B` transposed, `[rank, out]`, in f32.
    pub b_t: &'a Tensor,
}

/// The factors of an adapter for projections of one input, and the rows they are for.
#[derive(Clone, Debug)]
pub struct RowsOf<'a> {
    /// The rows.
    pub rows: Range<usize>,
    /// `A` of all parts, `[rank, in]`, in f32.
    pub a: &'a Tensor,
    /// Rows of `a`.
    pub rank: usize,
    /// What `U` is multiplied by.
    pub scale: f32,
    /// The projections that have factors.
    pub parts: Vec<Part<'a>>,
}

/// An output, `[rows, width]`.
#[derive(Debug)]
pub struct Output<'a> {
    /// Its values.
    pub values: &'a mut Tensor,
    /// From one row to the next.
    pub width: usize,
}

/// Adds the low-rank terms of `adapters`, in ascending order of their rows, of which no two have the same. `x` is `[rows, inputs]`;
/// `u` is overwritten and has room for all rows with the largest rank. On the processor every row has the bits of products
/// ([`matmul::run`]) of its adapter's rows alone.
///
/// # Panics
/// When rows are out of order, or an operand is too small.
pub fn add(x: &Tensor, inputs: usize, adapters: &[RowsOf<'_>], u: &mut Tensor, outputs: &mut [Output<'_>]) {
    assert!(adapters.is_sorted_by(|a, b| a.rows.end <= b.rows.start), "rows in order, each once");
    let Some(stride) = adapters.iter().map(|adapter| adapter.rank).max() else { return };
    match x.device() {
        Device::Cpu => cpu::add(x.cpu(), inputs, adapters, (u.cpu_mut(), stride), outputs),
        // Launches follow each other without a wait, so that each can be a product of its own.
        Device::Cuda(_) => adapters.iter().for_each(|adapter| {
            let RowsOf { rows, a, rank, scale, parts } = adapter;
            let (count, left) = (rows.len(), View::rows(x, inputs).from_row(rows.start));
            let term = Term { left, right: Right::View(View::rows(a, inputs).t()), k: inputs };
            let (out_offset, out_stride) = (rows.start * stride, stride);
            let product = Product::new(count, *rank, term, u);
            matmul::run(&mut [Product { scale: *scale, out_offset, out_stride, ..product }]);
            for part in parts {
                let Output { values, width } = &mut outputs[part.output];
                let left = View::rows(u, stride).from_row(rows.start).from_col(part.first);
                let term = Term { left, right: Right::View(View::rows(part.b_t, *width)), k: part.rank };
                let (out_offset, base) = (rows.start * *width, Base::Output);
                let product = Product::new(count, *width, term, values);
                matmul::run(&mut [Product { base, out_offset, ..product }]);
            }
        }),
    }
}
