//! Products on a device: matrices of the type that it computes with, decoded or rounded to it tile by tile, for cuBLASLt.
//!
//! All operands are of the device's type of activations, sums are f32. Terms are added to the output one after the other, so
//! that an output in bf16 is rounded after each. A weight that is decoded in several tiles is cut along the output, so that every
//! sum is computed at once.

use std::ops::Range;

use super::{Base, Product, Right, Term, View};
use crate::gpu::launch::UNIT;
use crate::gpu::{Buffer, Factor, Float, Gemm, Gpu, Matrix, Region, count};
use crate::ops::elementwise::cuda::{Rows, add_to_rows, fill_rows, narrow};
use crate::quant::cuda::{FEW_ROWS, FewRows, Rows as WeightRows, Tile};
use crate::tensor::Tensor;
use crate::weight::{RowOrder, Weight};

/// Values of a tile that a weight is decoded to: so many for each row that it is multiplied with, within bounds. With few rows, where
/// memory is what counts, a tile takes no more than 32 MiB in bf16; with many it is small beside their activations, and the largest
/// matrices of a model of 8B parameters are decoded at once. The product's shape alone decides.
const TILE_VALUES_OF_ROW: usize = 1 << 15;
const LEAST_TILE_VALUES: usize = 1 << 24;
const MOST_TILE_VALUES: usize = 1 << 26;

/// Rows or columns of a tile that is not all of a matrix are a multiple of so many, if they may: tiles of a product's output are.
const WHOLE_TILES: usize = 256;

/// Values of a tile of a weight that `m` rows are multiplied with.
fn tile_values(m: usize) -> usize {
    m.saturating_mul(TILE_VALUES_OF_ROW).clamp(LEAST_TILE_VALUES, MOST_TILE_VALUES)
}

/// How many of `count` rows of `len` values a tile of `tile_values` values has, or of as many columns: about as many in each, and a
/// multiple of [`UNIT`] where they are not all.
fn piece(count: usize, len: usize, tile_values: usize) -> usize {
    const UNITS: usize = UNIT as usize;
    let most = (tile_values / len.max(1) / UNITS * UNITS).max(UNITS);
    if count <= most {
        return count;
    }
    let even = count.div_ceil(count.div_ceil(most));
    let whole = even.next_multiple_of(WHOLE_TILES);
    if whole <= most { whole } else { even.next_multiple_of(UNITS) }
}

/// Bytes that products of up to `m` rows with a matrix of `rows` rows of `cols` values take in passing, where its values are not of
/// type `float` already.
pub fn decoded_bytes(float: Float, m: usize, rows: usize, cols: usize) -> u64 {
    let values = tile_values(m);
    let (of_rows, of_cols) = (piece(rows, cols, values) * cols, piece(cols, rows, values) * rows);
    float.bytes(of_rows.max(of_cols) as u64)
}

pub(super) fn run(gpu: Gpu, products: &mut [Product<'_>]) {
    products.iter_mut().for_each(|product| run_one(gpu, product, tile_values(product.m)));
}

/// As [`super::run`], with weights decoded to tiles of up to `tile_values` values: only tests have a reason for another size.
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
    let mut terms = std::mem::take(&mut product.terms);
    // The first only writes the output, and those that follow read it, too, which a long sum hides behind its arithmetic. Few rows
    // cost nothing either way.
    if matches!(product.base, Base::Zero) && m > FEW_ROWS {
        terms.sort_by_key(|term| term.k);
    }
    for term in terms {
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
        // Rows of the weight are columns of the output.
        Right::WeightTransposed(weight) => {
            for_tiles(gpu, weight, Cut::Rows(piece(n, k, tile_values)), |rows, tile| {
                multiply(gpu, product, (left.matrix, transposed(tile)), rows, k);
            });
        }
        Right::Weight(weight) => {
            for_tiles(gpu, weight, Cut::Columns(piece(n, k, tile_values)), |cols, tile| {
                multiply(gpu, product, (left.matrix, tile), cols, k);
            });
        }
    }
}

fn transposed(matrix: Matrix) -> Matrix {
    Matrix { transposed: !matrix.transposed, ..matrix }
}

/// The region from the first to the last value of columns `cols` of `tensor`, laid out as the output of `product`.
fn of_rows(product: &Product<'_>, tensor: &Tensor, cols: Range<usize>) -> Region {
    let first = product.out_offset + cols.start;
    tensor.part(first, (product.m - 1) * product.out_stride + cols.len())
}

/// What columns `cols` of the output are added to.
fn base_of(product: &Product<'_>, cols: Range<usize>) -> Option<Region> {
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
fn multiply(gpu: Gpu, product: &Product<'_>, (left, right): (Matrix, Matrix), cols: Range<usize>, k: usize) {
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

/// What tiles of a weight are, and how many in each.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Rows(usize),
    Columns(usize),
}

/// The tiles of a weight, `work(rows or columns, values)` each; of one that is not decoded all of it.
fn for_tiles(gpu: Gpu, weight: &Weight, cut: Cut, mut work: impl FnMut(Range<usize>, Matrix)) {
    let (rows, cols, float) = (weight.rows(), weight.cols(), gpu.float());
    let matrix = |region, cols| Matrix { region, float, stride: cols as u64, transposed: false };
    let (all, piece) = match cut {
        Cut::Rows(piece) => (rows, piece),
        Cut::Columns(piece) => (cols, piece),
    };
    let weight = weight.gpu();
    if let Some(values) = weight.values(float) {
        return work(0..all, matrix(values, cols));
    }
    for first in (0..all).step_by(piece) {
        let part = first..all.min(first + piece);
        let whole = Tile::of_rows(WeightRows::From(0), RowOrder::Stored, count(rows), count(cols));
        let (from, len) = (count(part.start), count(part.len()));
        let tile = match cut {
            Cut::Rows(_) => Tile { rows: WeightRows::From(from), count: len, ..whole },
            Cut::Columns(_) => Tile { first_col: from, cols: len, ..whole },
        };
        let decoded = gpu.buffer(float.bytes(u64::from(tile.count) * u64::from(tile.cols)));
        weight.decode(gpu, tile, float, decoded.region());
        work(part, matrix(decoded.region(), tile.cols as usize));
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
