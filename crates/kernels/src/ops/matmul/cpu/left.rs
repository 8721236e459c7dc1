//! Left operands that the tile cannot read where they lie: made into elements once for all tasks, or a strip of rows at a
//! time in every task.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use super::operand::Operand;
use super::pack::Strided;
use super::simd::{self, Cache, Simd};
use super::{FEW_ROWS, Isa, MAX_K_BLOCK, TermCpu, int8};
use crate::tensor::AlignedVec;
use crate::weight::ComputeDtype;

/// Rows of a copied strip: a square of the widest register may reach below the tallest.
pub(super) const STRIP_ROWS: usize = 16;
/// From one row of a copied strip to the next.
pub(super) const STRIP_STRIDE: usize =
    int8::elements(MAX_K_BLOCK, 1).next_multiple_of(ROW_PADDING) + ROW_PADDING;
/// Between rows of elements: a register that the last of a row may reach into, and what keeps rows off the same cache sets.
pub(super) const ROW_PADDING: usize = 16;

/// Left operands of some products as elements, row after row.
///
/// A product of several values an element would otherwise round its left operand again for every task of other columns.
#[derive(Debug, Default)]
pub(super) struct Lefts {
    /// None where nothing was made.
    values: Option<AlignedVec>,
    made: Vec<Made>,
}

/// A left operand that was made into elements.
#[derive(Clone, Copy, Debug)]
struct Made {
    key: LeftKey,
    /// Where its elements begin.
    first: usize,
    /// From one row of them to the next.
    stride: usize,
}

/// What tells left operands apart whose values are rounded along their rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LeftKey {
    values: *const f32,
    row_stride: usize,
    rows: usize,
    k: usize,
    dtype: ComputeDtype,
}

// SAFETY: the pointer is compared and never read.
unsafe impl Sync for LeftKey {}

impl LeftKey {
    /// That of `term` in a product of `rows` rows; none if it is multiplied as f32, or read along its columns.
    fn of(rows: usize, term: &TermCpu<'_>) -> Option<Self> {
        let TermCpu { left, k, .. } = *term;
        let dtype = term.dtype();
        let is_rounded = dtype != ComputeDtype::F32 && left.col_stride == 1;
        let values = left.values.as_ptr();
        is_rounded.then_some(LeftKey { values, row_stride: left.row_stride, rows, k, dtype })
    }
}

/// Rows of elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Elements<'a> {
    values: &'a [f32],
    stride: usize,
}

impl Elements<'_> {
    /// The elements of row `row` from `element` on, and from one row to the next.
    #[inline(always)]
    pub(super) fn from(&self, row: usize, element: usize) -> (*const f32, usize) {
        (self.values[row * self.stride + element..].as_ptr(), self.stride)
    }

    /// Asks for `elements` of the rows, to come into the second-level cache.
    #[inline(always)]
    pub(super) fn prefetch(&self, rows: Range<usize>, elements: Range<usize>) {
        for row in rows {
            let row = &self.values[row * self.stride..][elements.clone()];
            row.chunks(LINE_ELEMENTS).for_each(|line| simd::prefetch(line.as_ptr().cast(), Cache::Second));
        }
    }
}

/// Elements in a cache line.
const LINE_ELEMENTS: usize = 16;

thread_local! {
    /// Kept from product to product.
    static BUFFER: Cell<Option<AlignedVec>> = const { Cell::new(None) };
}

impl Drop for Lefts {
    fn drop(&mut self) {
        if let Some(values) = self.values.take() {
            BUFFER.set(Some(values));
        }
    }
}

/// From one row of `elements` to the next, with what lies between them.
fn row_len(elements: usize) -> usize {
    elements.next_multiple_of(ROW_PADDING) + ROW_PADDING
}

/// Elements that are made at most (8 MiB); further operands are copied strip by strip.
const MAX_ELEMENTS: usize = 2 << 20;

/// Bytes of the elements of products of `rows` rows whose sums have `k` values together, at most.
pub(crate) fn bytes(rows: usize, k: usize) -> u64 {
    // Pairs, or fours of codes, which are more where a short sum is filled up to a whole block.
    let elements = k.div_ceil(2).max(int8::elements(k, 4));
    4 * (rows * row_len(elements)).min(MAX_ELEMENTS) as u64
}

impl Lefts {
    /// Makes elements, on the threads of the current pool, for those terms of products (rows, terms) whose elements hold several
    /// values.
    pub(super) fn make<'a>(isa: Isa, products: impl Iterator<Item = (usize, &'a [TermCpu<'a>])>) -> Self {
        let mut lefts = Lefts::default();
        let mut sources = Vec::new();
        let mut len = 0;
        for (rows, terms) in products.filter(|(rows, _)| *rows > FEW_ROWS) {
            for term in terms {
                let Some(key) = LeftKey::of(rows, term) else { continue };
                let stride = row_len(isa.elements(key.dtype, term.k));
                if isa.values(key.dtype) == 1
                    || lefts.find(rows, term).is_some()
                    || len + rows * stride > MAX_ELEMENTS
                {
                    continue;
                }
                lefts.made.push(Made { key, first: len, stride });
                sources.push(term.left);
                len += rows * stride;
            }
        }
        if len == 0 {
            return lefts;
        }
        let kept = BUFFER.take().filter(|kept| kept.len() >= len);
        let mut to = &mut lefts.values.insert(kept.unwrap_or_else(|| AlignedVec::zeros(len)))[..len];
        for (left, Made { key, stride, .. }) in sources.iter().zip(&lefts.made) {
            let (these, rest) = to.split_at_mut(key.rows * stride);
            these.par_chunks_exact_mut(*stride).with_min_len(16).enumerate().for_each(|(row, to)| {
                let from = &left.values[row * left.row_stride..][..key.k];
                isa.left_along_sum(key.dtype, from, to);
            });
            to = rest;
        }
        lefts
    }

    fn find(&self, rows: usize, term: &TermCpu<'_>) -> Option<&Made> {
        let key = LeftKey::of(rows, term)?;
        self.made.iter().find(|made| made.key == key)
    }

    /// The elements of the left operand of `term` in a product of `rows` rows, if they were made.
    pub(super) fn of(&self, rows: usize, term: &TermCpu<'_>) -> Option<Elements<'_>> {
        let Made { first, stride, .. } = *self.find(rows, term)?;
        Some(Elements { values: &self.values.as_ref()?[first..first + rows * stride], stride })
    }
}

/// Makes elements of left rows `strip` over `k`: `to[row][STRIP_STRIDE]`.
#[inline(always)]
pub(super) fn copy_strip<O: Operand>(
    left: Strided<'_>,
    strip: Range<usize>,
    k: Range<usize>,
    to: &mut [f32],
) {
    if left.col_stride == 1 {
        for (row, to) in strip.zip(to.chunks_exact_mut(STRIP_STRIDE)) {
            let from = row * left.row_stride;
            O::left_along_sum(&left.values[from + k.start..from + k.end], to);
        }
        return;
    }
    copy_columns::<O::Simd>(left, strip.clone(), k.clone(), to);
    if !O::AS_THEY_ARE {
        let mut values = [0.0; MAX_K_BLOCK];
        for to in to.chunks_exact_mut(STRIP_STRIDE).take(strip.len()) {
            values[..k.len()].copy_from_slice(&to[..k.len()]);
            O::left_along_sum(&values[..k.len()], to);
        }
    }
}

/// Copies left rows `strip` over `k` of an operand that is contiguous down its columns.
#[inline(always)]
fn copy_columns<S: Simd>(left: Strided<'_>, strip: Range<usize>, k: Range<usize>, to: &mut [f32]) {
    let Strided { values, row_stride, col_stride } = left;
    // Squares through registers, as far as they lie in the operand.
    let mut copied = 0;
    if row_stride == 1 {
        let rows = strip.len().next_multiple_of(S::LANES);
        assert!(to.len() >= rows * STRIP_STRIDE && k.len() <= STRIP_STRIDE);
        let end = |copied: usize| (k.start + copied + S::LANES - 1) * col_stride + strip.start + rows;
        while copied + S::LANES <= k.len() && end(copied) <= values.len() {
            for row in (0..rows).step_by(S::LANES) {
                let from = &values[(k.start + copied) * col_stride + strip.start + row..];
                // SAFETY: the last row of the square ends before `end`; the square of the copy lies in its rows, by the
                // lengths asserted above; the instruction set is the caller's.
                unsafe {
                    let to = to.as_mut_ptr().add(row * STRIP_STRIDE + copied);
                    S::transpose(from.as_ptr(), col_stride, to, STRIP_STRIDE);
                }
            }
            copied += S::LANES;
        }
    }
    for column in copied..k.len() {
        let from = (k.start + column) * col_stride;
        for (i, row) in strip.clone().enumerate() {
            to[i * STRIP_STRIDE + column] = values[from + row * row_stride];
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use half::bf16;

    use super::super::RightCpu;
    use super::*;
    use crate::weight::{FrozenWeight, Weight};

    #[test]
    fn an_operand_of_several_products_is_rounded_once_and_one_that_is_too_large_not_at_all() {
        let (rows, k) = (FEW_ROWS + 1, 545);
        let x: Vec<f32> = (0..rows * k).map(|i| (i as f32).sin()).collect();
        let mut weight = Weight::from(FrozenWeight::from_f32(3, k, &vec![1.0; 3 * k]));
        weight.set_compute_dtype(ComputeDtype::Bf16);
        let left = Strided { values: &x, row_stride: k, col_stride: 1 };
        let term = TermCpu { left, right: RightCpu::WeightTransposed(weight.host()), k };
        let twice = [term, TermCpu { left, right: RightCpu::Strided(left), k }, term];
        let lefts = Lefts::make(Isa::detect(), [(rows, &twice[..]), (rows, &twice[..1])].into_iter());
        if Isa::detect().values(ComputeDtype::Bf16) == 1 {
            assert!(lefts.made.is_empty(), "this processor multiplies no pairs");
            return;
        }
        assert_eq!(lefts.made.len(), 1);
        assert!(lefts.of(rows, &twice[1]).is_none(), "what is multiplied as f32 is read where it lies");
        let elements = lefts.of(rows, &term).expect("made");
        for (i, row) in x.chunks_exact(k).enumerate() {
            let found = &elements.values[i * elements.stride..][..k.div_ceil(2)];
            for (pair, found) in row.chunks(2).zip(found) {
                let half = |value: Option<&f32>| u32::from(bf16::from_f32(*value.unwrap_or(&0.0)).to_bits());
                assert_eq!(found.to_bits(), half(pair.get(1)) << 16 | half(pair.first()), "row {i}");
            }
        }

        let rows = MAX_ELEMENTS / row_len(32) + 1;
        let x = vec![0.0; rows * 64];
        let left = Strided { values: &x, row_stride: 64, col_stride: 1 };
        let terms = [TermCpu { left, k: 64, ..term }];
        assert!(Lefts::make(Isa::detect(), [(rows, &terms[..])].into_iter()).made.is_empty());
    }
}
