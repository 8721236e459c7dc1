//! The right operand of a product, decoded and laid out for the tile: `[panel][k][panel width]`.

use std::ops::Range;

use super::operand::Operand;
use super::simd::{self, Cache, Simd};
use super::{MAX_K_BLOCK, MAX_N_BLOCK, MAX_PANEL};
use crate::tensor::Halves;
use crate::weight::{ComputeDtype, HostWeight};

/// A strided matrix on the host; element `(i, j)` is `values[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a> {
    pub values: &'a [f32],
    pub row_stride: usize,
    pub col_stride: usize,
}

impl Strided<'_> {
    /// Whether several rows can be read at once where they lie. Rows a multiple of 4 KiB apart cannot: they compete for the
    /// same sets of the first-level cache.
    pub(super) fn is_read_in_place(&self) -> bool {
        self.col_stride == 1 && !self.row_stride.is_multiple_of(1024)
    }
}

/// The right operand of a term on the host, `[k, n]`.
#[derive(Clone, Copy)]
pub(crate) enum RightCpu<'a> {
    WeightTransposed(HostWeight<'a>),
    Weight(HostWeight<'a>),
    Strided(Strided<'a>),
}

impl<'a> RightCpu<'a> {
    /// An operand `[k, n]` of values of 16 bits, with the strides of its rows and columns.
    pub(crate) fn of_halves(
        values: Halves<'a>,
        (row_stride, col_stride): (usize, usize),
        k: usize,
        n: usize,
    ) -> Self {
        match (row_stride, col_stride) {
            (1, stride) if stride == k => RightCpu::WeightTransposed(HostWeight::of_halves(values, n, k)),
            (stride, 1) if stride == n => RightCpu::Weight(HostWeight::of_halves(values, k, n)),
            _ => panic!("a part of the columns of a matrix of 16 bits as a right operand"),
        }
    }
}

impl RightCpu<'_> {
    /// Column `n` of the operand over `k`, into `out`.
    #[inline(always)]
    pub(super) fn column(&self, n: usize, k: Range<usize>, out: &mut [f32]) {
        match self {
            RightCpu::WeightTransposed(weight) => weight.decode(n, k, out),
            RightCpu::Weight(weight) => {
                for (value, row) in out.iter_mut().zip(k) {
                    weight.decode(row, n..n + 1, std::slice::from_mut(value));
                }
            }
            RightCpu::Strided(s) if s.row_stride == 1 => {
                let first = n * s.col_stride;
                out.copy_from_slice(&s.values[first + k.start..first + k.end]);
            }
            RightCpu::Strided(s) => {
                for (value, row) in out.iter_mut().zip(k) {
                    *value = s.values[row * s.row_stride + n * s.col_stride];
                }
            }
        }
    }

    /// Row `k` of an operand whose rows are contiguous, over columns `cols`, into `out`.
    #[inline(always)]
    fn row(&self, k: usize, cols: Range<usize>, out: &mut [f32]) {
        match self {
            RightCpu::Weight(weight) => weight.decode(k, cols, out),
            RightCpu::Strided(s) if s.col_stride == 1 => {
                let first = k * s.row_stride;
                out.copy_from_slice(&s.values[first + cols.start..first + cols.end]);
            }
            RightCpu::WeightTransposed(_) | RightCpu::Strided(_) => unreachable!("packed by columns"),
        }
    }

    /// Asks for the values `along` row `row` of a matrix as it is stored, if it has that row; of a strided matrix only
    /// where a row is contiguous.
    #[inline(always)]
    fn prefetch_row(&self, row: usize, along: Range<usize>, cache: Cache) {
        match self {
            RightCpu::WeightTransposed(weight) | RightCpu::Weight(weight) if row < weight.rows() => {
                prefetch(weight.stored_bytes_of(row, along), cache);
            }
            RightCpu::Strided(s) if s.col_stride == 1 => {
                let first = row * s.row_stride;
                let values = &s.values[first + along.start..first + along.end];
                // SAFETY: every f32 is four bytes.
                prefetch(unsafe { values.align_to::<u8>().1 }, cache);
            }
            _ => {}
        }
    }

    /// How the operand is to be multiplied.
    #[inline(always)]
    pub(super) fn compute_dtype(&self) -> ComputeDtype {
        match self {
            RightCpu::WeightTransposed(weight) | RightCpu::Weight(weight) => weight.compute_dtype(),
            RightCpu::Strided(_) => ComputeDtype::F32,
        }
    }

    /// Whether a column can be read on its own: it is a row of a weight, or contiguous.
    pub(super) fn is_read_by_columns(&self) -> bool {
        match self {
            RightCpu::WeightTransposed(_) => true,
            RightCpu::Weight(_) => false,
            RightCpu::Strided(s) => s.row_stride == 1,
        }
    }

    /// The operand, read where it lies if that is possible: a weight stored in f32 is a strided matrix.
    pub(super) fn in_place(self) -> Self {
        match self {
            RightCpu::WeightTransposed(weight) => weight.as_f32().map_or(self, |values| {
                RightCpu::Strided(Strided { values, row_stride: 1, col_stride: weight.cols() })
            }),
            RightCpu::Weight(weight) => weight.as_f32().map_or(self, |values| {
                RightCpu::Strided(Strided { values, row_stride: weight.cols(), col_stride: 1 })
            }),
            RightCpu::Strided(_) => self,
        }
    }

    /// Asks for part `part` of `parts` of what [`RightCpu::pack`] will read of the block `k` x `cols`, so that it is
    /// in the second-level cache by then.
    #[inline(always)]
    pub(super) fn prefetch(&self, k: Range<usize>, cols: Range<usize>, part: usize, parts: usize) {
        let share = |all: Range<usize>| {
            let at = |part: usize| all.start + all.len() * part / parts;
            at(part)..at(part + 1)
        };
        let (rows, along) = match self {
            RightCpu::WeightTransposed(_) => (cols, k),
            RightCpu::Weight(_) => (k, cols),
            // Factors of an adapter and activations are small or were written just before.
            RightCpu::Strided(_) => return,
        };
        share(rows).for_each(|row| self.prefetch_row(row, along.clone(), Cache::Second));
    }

    /// Packs the operand's block `k` x `cols` into `panels`, one panel after another (see [`panels`]), each
    /// `[element][width]` and padded with zeros to its width. `rows` is scratch for decoded rows.
    #[inline(always)]
    pub(super) fn pack<O: Operand>(
        &self,
        k: Range<usize>,
        cols: Range<usize>,
        packed: &mut [f32],
        rows: &mut [f32],
    ) {
        let operand = self.in_place();
        match operand {
            RightCpu::Weight(_) if O::SHARING > 1 => operand.pack_blocks_of_rows::<O>(k, cols, packed, rows),
            RightCpu::Strided(s) if s.col_stride == 1 && O::SHARING > 1 => {
                operand.pack_blocks_of_rows::<O>(k, cols, packed, rows);
            }
            RightCpu::Weight(_) => operand.pack_rows::<O>(k, cols, packed, rows),
            RightCpu::Strided(s) if s.col_stride == 1 => operand.pack_rows::<O>(k, cols, packed, rows),
            RightCpu::WeightTransposed(_) | RightCpu::Strided(_) => {
                let mut packed = packed;
                let elements = O::elements(k.len());
                for (n, width) in panels::<O::Simd>(cols) {
                    let (panel, rest) = packed.split_at_mut(panel_values(elements, width));
                    operand.pack_columns::<O>(k.clone(), n, &mut panel[..elements * width], width, rows);
                    packed = rest;
                }
            }
        }
    }

    /// Packs an operand whose rows are contiguous. A row is decoded once for all panels, since a quantisation block may be
    /// wider than one of them.
    #[inline(always)]
    fn pack_rows<O: Operand>(
        &self,
        k: Range<usize>,
        cols: Range<usize>,
        packed: &mut [f32],
        rows: &mut [f32],
    ) {
        /// From one decoded row of an element to the next.
        const STRIDE: usize = MAX_N_BLOCK + RightCpu::ROW_PADDING;
        let elements = O::elements(k.len());
        let padded = cols.len().next_multiple_of(MAX_PANEL);
        let stored = match self {
            RightCpu::Weight(weight) if O::VALUES == 2 && cols.len() == padded => weight.as_bf16(),
            _ => None,
        };
        // What lies behind the columns, and behind the sum, is zero.
        rows[..O::VALUES * STRIDE].fill(0.0);
        for element in 0..elements {
            let first = k.start + element * O::VALUES;
            let values = O::VALUES.min(k.end.saturating_sub(first));
            let ahead = (first + Self::ROWS_AHEAD)..(first + Self::ROWS_AHEAD + values).min(k.end);
            ahead.for_each(|row| self.prefetch_row(row, cols.clone(), Cache::First));
            let from = match (*self, stored) {
                (RightCpu::Weight(weight), Some(stored)) if values == O::VALUES => {
                    let row = |value: usize| &stored[(first + value) * weight.cols()..][cols.clone()];
                    Rows::Bf16([row(0), row(1)])
                }
                (RightCpu::Strided(s), _) if cols.len() == padded && values == O::VALUES => {
                    Rows::F32(&s.values[first * s.row_stride + cols.start..], s.row_stride)
                }
                _ => {
                    for value in 0..values {
                        self.row(first + value, cols.clone(), &mut rows[value * STRIDE..][..cols.len()]);
                    }
                    rows[values * STRIDE..O::VALUES * STRIDE].fill(0.0);
                    Rows::F32(&rows[..], STRIDE)
                }
            };
            let mut at = 0;
            for (n, width) in panels::<O::Simd>(cols.clone()) {
                let to = &mut packed[at + element * width..at + (element + 1) * width];
                let column = n.start - cols.start;
                match from {
                    Rows::F32(from, stride) => O::across_sum(&from[column..], stride, to),
                    Rows::Bf16(rows) => O::across_sum_of_bf16(rows.map(|row| &row[column..]), to),
                }
                at += panel_values(elements, width);
            }
        }
    }

    /// As [`RightCpu::pack_rows`], for operands whose values share a scale along the sum: a block of rows is decoded before the first
    /// of its values is rounded, some columns at a time, so that it stays in the second-level cache.
    #[inline(always)]
    fn pack_blocks_of_rows<O: Operand>(
        &self,
        k: Range<usize>,
        cols: Range<usize>,
        packed: &mut [f32],
        rows: &mut [f32],
    ) {
        const STRIDE: usize = RightCpu::BLOCK_COLUMNS + RightCpu::ROW_PADDING;
        let elements = O::elements(k.len());
        let mut first_panel = 0;
        for these in cols.clone().step_by(Self::BLOCK_COLUMNS) {
            let these = these..(these + Self::BLOCK_COLUMNS).min(cols.end);
            // Behind the last column there are zeros, as wide as a panel may be.
            let padded = these.len().next_multiple_of(MAX_PANEL);
            let mut after = first_panel;
            for block in k.clone().step_by(O::SHARING) {
                let block = block..(block + O::SHARING).min(k.end);
                for (row, to) in block.clone().zip(rows.chunks_exact_mut(STRIDE)) {
                    let ahead = row + Self::ROWS_AHEAD;
                    if ahead < k.end {
                        self.prefetch_row(ahead, these.clone(), Cache::First);
                    }
                    self.row(row, these.clone(), &mut to[..these.len()]);
                    to[these.len()..padded].fill(0.0);
                }
                after = first_panel;
                let element = O::elements(block.start - k.start);
                for (n, width) in panels::<O::Simd>(these.clone()) {
                    let to = &mut packed[after + element * width..after + elements * width];
                    let from = &rows[n.start - these.start..];
                    O::block_across_sum(from, STRIDE, block.len(), to, width);
                    after += panel_values(elements, width);
                }
            }
            first_panel = after;
        }
    }

    /// The elements of columns that are contiguous along the sum, and from one column to the next, where they lie in memory
    /// as they are: f32 values, or pairs of bf16.
    #[inline(always)]
    fn stored_elements<O: Operand>(&self) -> Option<(&[f32], usize)> {
        match self {
            RightCpu::Strided(s) if O::AS_THEY_ARE && s.row_stride == 1 => Some((s.values, s.col_stride)),
            RightCpu::WeightTransposed(weight) if O::VALUES == 2 && weight.cols().is_multiple_of(2) => {
                // SAFETY: every pair of u16 is an f32.
                let (before, pairs, _) = unsafe { weight.as_bf16()?.align_to::<f32>() };
                before.is_empty().then_some((pairs, weight.cols() / 2))
            }
            _ => None,
        }
    }

    /// Packs the columns `n`, which are contiguous along the sum, of one panel.
    #[inline(always)]
    fn pack_columns<O: Operand>(
        &self,
        k: Range<usize>,
        n: Range<usize>,
        panel: &mut [f32],
        width: usize,
        rows: &mut [f32],
    ) {
        let elements = O::elements(k.len());
        if let Some((stored, stride)) = self.stored_elements::<O>()
            && (n.len(), k.len()) == (width, elements * O::VALUES)
        {
            let first = n.start * stride + k.start / O::VALUES;
            return transpose::<O::Simd>(&stored[first..], stride, elements, width, panel);
        }
        let stride = elements + Self::ROW_PADDING;
        let mut decoded = [0.0; MAX_K_BLOCK];
        for (i, col) in n.clone().enumerate() {
            self.prefetch_row(col + Self::ROWS_AHEAD, k.clone(), Cache::First);
            let to = &mut rows[i * stride..(i + 1) * stride];
            if O::AS_THEY_ARE {
                self.column(col, k.clone(), &mut to[..elements]);
            } else {
                let decoded = &mut decoded[..k.len()];
                self.column(col, k.clone(), decoded);
                O::right_along_sum(decoded, to);
            }
        }
        rows[n.len() * stride..width * stride].fill(0.0);
        transpose::<O::Simd>(rows, stride, elements, width, panel);
    }

    /// Rows of what is packed that are on their way from memory while one is packed: what the block before has asked into
    /// the second-level cache may have left it by now.
    const ROWS_AHEAD: usize = 4;

    /// Values between decoded rows, so that rows do not fall on the same cache sets.
    pub(super) const ROW_PADDING: usize = 16;

    /// Columns of which a block of rows is decoded at a time: whole panels.
    pub(super) const BLOCK_COLUMNS: usize = 256;
}

/// Rows of an operand that make one row of elements.
#[derive(Clone, Copy)]
enum Rows<'a> {
    /// Values, and from one row to the next.
    F32(&'a [f32], usize),
    /// Bits of the two rows of pairs.
    Bf16([&'a [u16]; 2]),
}

/// Asks for the cache lines of `bytes`.
#[inline(always)]
fn prefetch(bytes: &[u8], cache: Cache) {
    const LINE_BYTES: usize = 64;
    for line in bytes.chunks(LINE_BYTES) {
        simd::prefetch(line.as_ptr(), cache);
    }
}

/// Values between panels. A row of weights is written to all panels at once: the length of the longest panel row
/// between them keeps those writes off the same cache sets.
pub(super) const PANEL_PADDING: usize = MAX_PANEL;

/// From the beginning of one panel of `elements` rows to that of the next.
#[inline(always)]
pub(super) fn panel_values(elements: usize, width: usize) -> usize {
    elements * width + PANEL_PADDING
}

/// The panels that cover output columns `cols`, with their widths: a last panel that fits one register is
/// packed one register wide.
#[inline(always)]
pub(super) fn panels<S: Simd>(cols: Range<usize>) -> impl Iterator<Item = (Range<usize>, usize)> {
    let full = S::LANES * S::VECTORS;
    (cols.start..cols.end).step_by(full).map(move |start| {
        let n = start..(start + full).min(cols.end);
        let width = if n.len() <= S::LANES { S::LANES } else { full };
        (n, width)
    })
}

/// `panel[k][i] = rows[i * stride + k]` for `width` rows of `len` values; `width` is a multiple of the lanes.
#[inline(always)]
fn transpose<S: Simd>(rows: &[f32], stride: usize, len: usize, width: usize, panel: &mut [f32]) {
    assert!(panel.len() >= len * width && rows.len() >= (width - 1) * stride + len);
    let whole = len / S::LANES * S::LANES;
    for i in (0..width).step_by(S::LANES) {
        for k in (0..whole).step_by(S::LANES) {
            // SAFETY: both blocks lie inside the lengths asserted above; the instruction set is the caller's.
            unsafe {
                let (from, to) = (rows.as_ptr().add(i * stride + k), panel.as_mut_ptr().add(k * width + i));
                S::transpose(from, stride, to, width);
            }
        }
        for k in whole..len {
            for lane in 0..S::LANES {
                panel[k * width + i + lane] = rows[(i + lane) * stride + k];
            }
        }
    }
}
