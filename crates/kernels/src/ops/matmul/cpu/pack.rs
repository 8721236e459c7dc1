//! The right operand of a product, decoded and laid out for the tile: `[panel][k][panel width]`.

use std::ops::Range;

use super::MAX_PANEL;
use super::simd::Simd;
use crate::weight::Weight;

/// A strided matrix on the host; element `(i, j)` is `values[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a> {
    pub values: &'a [f32],
    pub row_stride: usize,
    pub col_stride: usize,
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
        if let RightCpu::Weight(weight) = self {
            // A row is decoded once for all panels: a quantisation block may be wider than one of them.
            for (i, row) in k.clone().enumerate() {
                let decoded = &mut rows[..cols.len()];
                weight.decode(row, cols.clone(), decoded);
                let mut at = 0;
                for (n, width) in panels::<S>(cols.clone()) {
                    let to = &mut packed[at + i * width..at + (i + 1) * width];
                    to[..n.len()].copy_from_slice(&decoded[n.start - cols.start..n.end - cols.start]);
                    to[n.len()..].fill(0.0);
                    at += panel_values(k.len(), width);
                }
            }
            return;
        }
        let mut packed = packed;
        for (n, width) in panels::<S>(cols) {
            let (panel, rest) = packed.split_at_mut(panel_values(k.len(), width));
            self.pack_panel::<S>(k.clone(), n, width, &mut panel[..k.len() * width], rows);
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
                    to[..n.len()].copy_from_slice(&s.values[from + n.start..from + n.end]);
                    to[n.len()..].fill(0.0);
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
