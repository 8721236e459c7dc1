//! Low-rank terms that are some rows' alone: adapters of which each belongs to some sequences of a batch.
//!
//! `out_i[row] += U[row, part] B_i^T` with `U[row] = scale X[row] A^T`, for the rows of each adapter (LoRA, Hu et al. 2021, section
//! 4.1; one pass for rows of several adapters as in Punica, Chen et al. 2023, arXiv 2310.18547). All other rows stay.
//!
//! Of a term that all rows have, `Y = X W^T + U B^T`, the gradients that need no input: `dU = scale dY B` and `dB^T += U^T dY`.

use std::ops::Range;

use crate::gpu::Float;
use crate::ops::matmul::{self, Base, Product, Right, Term, View};
use crate::tensor::{Device, Placement, Tensor};

mod cpu;
pub mod cuda;
#[cfg(test)]
mod tests;

pub use cuda::GradientShape;

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

/// A low-rank term of all rows, with the gradient of its output.
#[derive(Debug)]
pub struct TermGradients<'a> {
    /// Rows and width of the output, and the rank.
    pub shape: GradientShape,
    /// The gradient of the output, `[rows, width]`.
    pub d_out: &'a Tensor,
    /// `U`, `[rows, rank]`: columns from `first` on of rows of `stride` values.
    pub u: &'a Tensor,
    /// Its gradient, which is overwritten; it lies as `u`.
    pub d_u: &'a mut Tensor,
    /// The first column of `u`.
    pub first: usize,
    /// Values from one row of `u` to the next.
    pub stride: usize,
    /// What the gradient of `u` is multiplied by.
    pub scale: f32,
    /// `B` transposed, `[rank, width]`, in f32.
    pub b_t: &'a Tensor,
    /// Its gradient, which is added to.
    pub d_b_t: &'a mut Tensor,
    /// An f32 tensor that holds nothing, for [`gradient_workspace`] values.
    pub workspace: &'a mut Tensor,
}

/// The values of a workspace with which gradients of terms of `shape` read the gradient of the output once, on a device that can; of
/// others 0.
pub fn gradient_workspace(placement: Placement, shape: GradientShape) -> usize {
    match placement {
        Placement::Cuda(float) if shape.is_known(float) => shape.workspace_values(),
        Placement::Cuda(_) | Placement::Cpu => 0,
    }
}

/// `dU = scale dY B` and `dB^T += U^T dY`. A GPU that computes in bf16 reads `dY` once, where `workspace` is large enough.
///
/// # Panics
/// When an operand is too small.
pub fn output_gradients(of: TermGradients<'_>) {
    let TermGradients { shape, d_out, u, d_u, first, stride, scale, b_t, d_b_t, workspace } = of;
    let GradientShape { rows, width, rank } = shape;
    if let Device::Cuda(gpu) = d_out.device()
        && shape.is_known(gpu.float())
        && shape.workspace_values() <= workspace.len()
        && let Some(b_t) = b_t.rounded(0, rank * width)
    {
        let of_rank = (rows - 1) * stride + rank;
        assert!([d_out, u, &*d_u].iter().all(|tensor| tensor.float() == Float::Bf16), "activations in bf16");
        let (u, d_u) = (u.part(first, of_rank), d_u.part(first, of_rank));
        let operands = cuda::GradientOperands {
            d_y: d_out.part(0, rows * width),
            u,
            b_t,
            d_u,
            stride,
            d_b_t: d_b_t.region(),
        };
        if operands.are_aligned() {
            let launches = cuda::gradients(operands, shape, scale, workspace.region());
            return launches.iter().for_each(|launch| gpu.run(launch));
        }
    }
    let d_out = View::rows(d_out, width);
    let term = Term { left: d_out, right: Right::View(View::rows(b_t, width).t()), k: width };
    let product = Product::new(rows, rank, term, d_u);
    matmul::run(&mut [Product { out_offset: first, out_stride: stride, scale, ..product }]);

    let u_t = View::rows(u, stride).from_col(first).t();
    let term = Term { left: u_t, right: Right::View(d_out), k: rows };
    let product = Product::new(rank, width, term, d_b_t);
    matmul::run(&mut [Product { base: Base::Output, ..product }]);
}
