//! The right operand of a product, decoded and laid out for the tile: `[panel][k][panel width]`.

use std::ops::Range;

use super::MAX_PANEL;
use super::simd::{self, Simd};
use crate::weight::Weight;

/// A strided matrix on the host; element `(i, j)` is `values[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a> {
    pub values: &'a [f32],
    pub row_stride: usize,
    pub col_stride: usize,
}

impl Strided<'_> {
    /// Whether strips of rows can be read where they lie, as a left operand. Rows a multiple of 4 KiB apart cannot: they
    /// compete for the same sets of the first-level cache.
    pub(super) fn is_read_in_place(&self) -> bool {
        self.col_stride == 1 && !self.row_stride.is_multiple_of(1024)
    }
}

/// The right operand of a term on the host, `[k, n]`.
#[derive(Clone, Copy)]
pub(crate) enum RightCpu<'a> {
    WeightTransposed(&'a Weight),
    Weight(&'a Weight),
    Strided(Strided<'a>),
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
            RightCpu::Strided(s) => {
                for (value, row) in out.iter_mut().zip(k) {
                    *value = s.values[row * s.row_stride + n * s.col_stride];
                }
            }
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
        match *self {
            RightCpu::WeightTransposed(weight) => {
                share(cols).for_each(|row| prefetch(weight.stored_bytes_of(row, k.clone())));
            }
            RightCpu::Weight(weight) => {
                share(k).for_each(|row| prefetch(weight.stored_bytes_of(row, cols.clone())));
            }
            // Factors of an adapter and activations are small or were written just before.
            RightCpu::Strided(_) => {}
        }
    }

    /// Packs the operand's block `k` x `cols` into `panels`, one panel after another (see [`panels`]), each
    /// `[k][width]` and padded with zeros to its width. `rows` is scratch for decoded rows.
    #[inline(always)]
    pub(super) fn pack<S: Simd>(
        &self,
        k: Range<usize>,
        cols: Range<usize>,
        packed: &mut [f32],
        rows: &mut [f32],
    ) {
        let operand = self.in_place();
        if let RightCpu::Weight(weight) = operand {
            // A row is decoded once for all panels: a quantisation block may be wider than one of them.
            for (i, row) in k.clone().enumerate() {
                let decoded = &mut rows[..cols.len()];
                weight.decode(row, cols.clone(), decoded);
                let mut at = 0;
                for (n, width) in panels::<S>(cols.clone()) {
                    let to = &mut packed[at + i * width..at + (i + 1) * width];
                    copy_row::<S>(&decoded[n.start - cols.start..n.end - cols.start], to);
                    at += panel_values(k.len(), width);
                }
            }
            return;
        }
        let mut packed = packed;
        for (n, width) in panels::<S>(cols) {
            let (panel, rest) = packed.split_at_mut(panel_values(k.len(), width));
            operand.pack_panel::<S>(k.clone(), n, width, &mut panel[..k.len() * width], rows);
            packed = rest;
        }
    }

    #[inline(always)]
    fn pack_panel<S: Simd>(
        &self,
        k: Range<usize>,
        n: Range<usize>,
        width: usize,
        panel: &mut [f32],
        rows: &mut [f32],
    ) {
        match self {
            RightCpu::WeightTransposed(weight) => {
                let stride = k.len() + Self::ROW_PADDING;
                for (i, row) in n.clone().enumerate() {
                    weight.decode(row, k.clone(), &mut rows[i * stride..i * stride + k.len()]);
                }
                rows[n.len() * stride..width * stride].fill(0.0);
                transpose::<S>(rows, stride, k.len(), width, panel);
            }
            RightCpu::Weight(_) => unreachable!("packed row by row in `pack`"),
            RightCpu::Strided(s) if s.col_stride == 1 => {
                for (row, to) in k.zip(panel.chunks_exact_mut(width)) {
                    let from = row * s.row_stride;
                    copy_row::<S>(&s.values[from + n.start..from + n.end], to);
                }
            }
            RightCpu::Strided(s) if s.row_stride == 1 && n.len() == width => {
                let first = n.start * s.col_stride + k.start;
                transpose::<S>(&s.values[first..], s.col_stride, k.len(), width, panel);
            }
            RightCpu::Strided(s) => {
                for (row, to) in k.zip(panel.chunks_exact_mut(width)) {
                    for (col, value) in n.clone().zip(to.iter_mut()) {
                        *value = s.values[row * s.row_stride + col * s.col_stride];
                    }
                    to[n.len()..].fill(0.0);
                }
            }
        }
    }

    /// Values between decoded rows, so that rows do not fall on the same cache sets.
    pub(super) const ROW_PADDING: usize = 16;
}

/// Asks for the cache lines of `bytes`.
#[inline(always)]
fn prefetch(bytes: &[u8]) {
    const LINE_BYTES: usize = 64;
    for line in bytes.chunks(LINE_BYTES) {
        simd::prefetch(line.as_ptr());
    }
}

/// Values between panels. A row of weights is written to all panels at once: the length of the longest panel row
/// between them keeps those writes off the same cache sets.
pub(super) const PANEL_PADDING: usize = MAX_PANEL;

/// Values from the beginning of one panel to that of the next.
#[inline(always)]
pub(super) fn panel_values(k: usize, width: usize) -> usize {
    k * width + PANEL_PADDING
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

/// Copies a row of a panel, padded with zeros. A whole row goes through registers, which a call would take longer than.
#[inline(always)]
fn copy_row<S: Simd>(from: &[f32], to: &mut [f32]) {
    if from.len() == to.len() && to.len().is_multiple_of(S::LANES) {
        for (from, to) in from.chunks_exact(S::LANES).zip(to.chunks_exact_mut(S::LANES)) {
            // SAFETY: both have the lanes; the instruction set is the caller's.
            unsafe { S::store(to.as_mut_ptr(), S::load(from.as_ptr())) }
        }
    } else {
        to[..from.len()].copy_from_slice(from);
        to[from.len()..].fill(0.0);
    }
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
