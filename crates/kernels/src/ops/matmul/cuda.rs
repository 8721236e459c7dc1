//! Products on a device: matrices of the type that it computes with, decoded or rounded to it tile by tile, for cuBLASLt.
//!
//! All operands are of the device's type of activations, sums are f32. Terms are added to the output one after the other, so
//! that an output in bf16 is rounded after each; so it is where a weight is decoded in several tiles along the sum.

use super::{Base, Product, Right, Term, View};
use crate::gpu::{Buffer, Factor, Float, Gemm, Gpu, Matrix, Region, count};
use crate::ops::elementwise::cuda::{Rows, add_to_rows, fill_rows, narrow};
use crate::quant::cuda::{FEW_ROWS, FewRows, Rows as WeightRows};
use crate::tensor::Tensor;
use crate::weight::{RowOrder, Weight};

/// Values of a tile that a weight is decoded to: enough that products keep a large device busy, and no more than some
/// hundredths of its memory.
const TILE_VALUES: usize = 1 << 24;

/// Rows of a tile of `tile_values` values of a matrix with rows of `cols` values.
fn tile_rows(tile_values: usize, cols: usize) -> usize {
    (tile_values / cols.max(1)).max(1)
}

/// Bytes that products with a matrix of `rows` rows of `cols` values take in passing, where its values are not of type
/// `float` already.
pub fn decoded_bytes(float: Float, rows: usize, cols: usize) -> u64 {
    float.bytes((rows.min(tile_rows(TILE_VALUES, cols)) * cols) as u64)
}

pub(super) fn run(gpu: Gpu, products: &mut [Product<'_>]) {
    run_in_tiles(gpu, products, TILE_VALUES);
}

/// As [`super::run`], with weights decoded to tiles of about `tile_values` values: only tests have a reason for another size.
pub fn run_in_tiles(gpu: Gpu, products: &mut [Product<'_>], tile_values: usize) {
    products.iter_mut().for_each(|product| run_one(gpu, product, tile_values));
}

fn run_one(gpu: Gpu, product: &mut Product<'_>, tile_values: usize) {
    let Product { m, n, bias, .. } = *product;
    if m == 0 || n == 0 {
        return;
    }
    if let Some(bias) = bias {
        if let Base::Of(base) = product.base {
            gpu.copy(of_rows(product, base, 0..n), of_rows(product, product.out, 0..n));
            product.base = Base::Output;
        }
        let rows = Rows {
            float: product.out.float(),
            region: product.out.region(),
            first: product.out_offset as u64,
            stride: count(product.out_stride),
        };
        let (row, shape) = (bias.region(), (count(m), count(n)));
        gpu.run(&match product.base {
            Base::Zero => fill_rows(row, shape, rows),
            Base::Output | Base::Of(_) => add_to_rows(row, shape, rows),
        });
        product.base = Base::Output;
    }
    for term in std::mem::take(&mut product.terms) {
        add(gpu, product, term, tile_values);
        product.base = Base::Output;
    }
}

/// Adds a term to the output, or overwrites it.
fn add(gpu: Gpu, product: &mut Product<'_>, term: Term<'_>, tile_values: usize) {
    let (m, n, k) = (product.m, product.n, term.k);
    let left = Operand::of_view(gpu, term.left, m, k);
    match term.right {
        Right::View(view) => {
            let right = Operand::of_view(gpu, view, k, n);
            multiply(gpu, product, (left.matrix, right.matrix), 0..n, k);
        }
        Right::WeightTransposed(weight) if m <= FEW_ROWS && is_decoded(gpu, weight) => {
            let (out, base) = (of_rows(product, product.out, 0..n), base_of(product, 0..n));
            let few = FewRows {
                order: RowOrder::Stored,
                shape: (count(n), count(k)),
                x: (left.matrix.region, count(left.matrix.stride as usize)),
                count: count(m),
                base,
                scale: product.scale,
                y: (out, count(product.out_stride)),
            };
            let kind = product.out.float() == gpu.float() && !left.matrix.transposed;
            assert!(kind, "rows and their products are of the device's type");
            weight.gpu().multiply(gpu, gpu.float(), few);
        }
        // Of the weight's rows each tile is some columns of the output.
        Right::WeightTransposed(weight) => for_tiles(gpu, weight, tile_values, |first, rows, tile| {
            multiply(gpu, product, (left.matrix, transposed(tile)), first..first + rows, k);
        }),
        // Of the weight's rows each tile is a part of the sum.
        Right::Weight(weight) => for_tiles(gpu, weight, tile_values, |first, rows, tile| {
            let part = Operand::of_view(gpu, term.left.from_col(first), m, rows);
            multiply(gpu, product, (part.matrix, tile), 0..n, rows);
            product.base = Base::Output;
        }),
    }
}

fn transposed(matrix: Matrix) -> Matrix {
    Matrix { transposed: !matrix.transposed, ..matrix }
}

/// The region from the first to the last value of columns `cols` of `tensor`, laid out as the output of `product`.
fn of_rows(product: &Product<'_>, tensor: &Tensor, cols: std::ops::Range<usize>) -> Region {
    let first = product.out_offset + cols.start;
    tensor.part(first, (product.m - 1) * product.out_stride + cols.len())
}

/// What columns `cols` of the output are added to.
fn base_of(product: &Product<'_>, cols: std::ops::Range<usize>) -> Option<Region> {
    match product.base {
        Base::Zero => None,
        Base::Output => Some(of_rows(product, product.out, cols)),
        Base::Of(base) => {
            assert_eq!(base.float(), product.out.float(), "a product is added to values of its type");
            Some(of_rows(product, base, cols))
        }
    }
}

/// Whether a product has to decode a weight first.
fn is_decoded(gpu: Gpu, weight: &Weight) -> bool {
    weight.gpu().values(gpu.float()).is_none()
}

/// `out[:, cols] = base[:, cols] + scale left . right`.
fn multiply(
    gpu: Gpu,
    product: &Product<'_>,
    (left, right): (Matrix, Matrix),
    cols: std::ops::Range<usize>,
    k: usize,
) {
    let (m, n, k) = (product.m as u64, cols.len() as u64, k as u64);
    let out = Matrix {
        region: of_rows(product, product.out, cols.clone()),
        float: product.out.float(),
        stride: product.out_stride as u64,
        transposed: false,
    };
    let base = base_of(product, cols);
    gpu.multiply(&Gemm { m, n, k, left, right, out, scale: Factor::of(product.scale), base });
}

/// The tiles of a weight, `work(first row, rows, [rows, cols])` each.
fn for_tiles(gpu: Gpu, weight: &Weight, tile_values: usize, mut work: impl FnMut(usize, usize, Matrix)) {
    let (rows, cols, float) = (weight.rows(), weight.cols(), gpu.float());
    let matrix = |region| Matrix { region, float, stride: cols as u64, transposed: false };
    let weight = weight.gpu();
    if let Some(values) = weight.values(float) {
        return work(0, rows, matrix(values));
    }
    let tile_rows = tile_rows(tile_values, cols);
    for first in (0..rows).step_by(tile_rows) {
        let rows = tile_rows.min(rows - first);
        let decoded = gpu.buffer(float.bytes((rows * cols) as u64));
        weight.decode(gpu, WeightRows::From(count(first)), rows, float, decoded.region());
        work(first, rows, matrix(decoded.region()));
    }
}

/// An operand of the type that the device computes with.
struct Operand {
    matrix: Matrix,
    /// Where its values are rounded ones of a tensor in f32.
    _rounded: Option<Buffer>,
}

impl Operand {
    /// The `[rows, cols]` matrix that `view` sees.
    fn of_view(gpu: Gpu, view: View<'_>, rows: usize, cols: usize) -> Self {
        let (transposed, stride, stored_rows, stored_cols) = match view.col_stride {
            1 => (false, view.row_stride, rows, cols),
            stride => {
                assert_eq!(view.row_stride, 1, "a view has rows or columns of neighbouring values");
                (true, stride, cols, rows)
            }
        };
        let len = (stored_rows - 1) * stride + stored_cols;
        let region = view.tensor.part(view.offset, len);
        let matrix = |region| Matrix { region, float: gpu.float(), stride: stride as u64, transposed };
        match (view.tensor.float(), gpu.float()) {
            (Float::F32, Float::Bf16) => {
                if let Some(copy) = view.tensor.rounded(view.offset, len) {
                    return Operand { matrix: matrix(copy), _rounded: None };
                }
                let rounded = gpu.buffer(Float::Bf16.bytes(len as u64));
                gpu.run(&narrow(region, len as u64, rounded.region()));
                Operand { matrix: matrix(rounded.region()), _rounded: Some(rounded) }
            }
            (from, to) => {
                assert_eq!(from, to, "activations are of the device's type");
                Operand { matrix: matrix(region), _rounded: None }
            }
        }
    }
}
