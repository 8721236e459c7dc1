//! The two products of an adapter for a few rows, `U = scale X A^T` and `out += U B^T`, where generation computes them: memory,
//! which gives each factor once, sets the speed. Factors of 16 bits become f32 in registers.
//!
//! `U[row, r] = scale * (X[row] . A[r])` is summed as [`super::few`] does, `out[row, n] += sum over r of U[row, r] B^T[r, n]` as a
//! tile does: in the order of `r` in one register, to which what `out` held is added last. So a value has the same bits however
//! many rows are computed beside it, and whether a factor that 16 bits hold is held in 16 or in 32.

use std::array;
use std::ops::Range;

use super::few::{FEW_ROWS, Numbers, Out, RIGHT_ROWS, TILE_LEFT, dot_all, has_many_registers, sum_cut};
use super::isa::Isa;
use super::operand::{Bf16, F16, F32, Stored};
use super::simd::{self, Cache, Simd};
use super::{ProductCpu, RightCpu, Strided, TermCpu, run_serial, sum_blocks};
use crate::tensor::{Half, Halves, Tensor};

/// A factor as it is held.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Factor<'a> {
    F32(&'a [f32]),
    Halves(Halves<'a>),
}

impl<'a> Factor<'a> {
    pub(crate) fn of(tensor: &'a Tensor) -> Self {
        tensor.halves().map_or_else(|| Factor::F32(tensor.cpu()), Factor::Halves)
    }

    /// It as a right operand `[k, n]` with the strides of its rows and columns.
    fn right(self, (row_stride, col_stride): (usize, usize), k: usize, n: usize) -> RightCpu<'a> {
        match self {
            Factor::F32(values) => RightCpu::Strided(Strided { values, row_stride, col_stride }),
            Factor::Halves(values) => RightCpu::of_halves(values, (row_stride, col_stride), k, n),
        }
    }

    fn bytes(&self) -> &'a [u8] {
        match self {
            // SAFETY: every f32 is four bytes.
            Factor::F32(values) => unsafe { values.align_to::<u8>().1 },
            Factor::Halves(values) => values.bytes(0..values.bits().len()),
        }
    }

    /// Asks for the factor, to come into the second-level cache: for its beginning, where it would take much of that.
    pub(crate) fn prefetch(&self) {
        const LINE_BYTES: usize = 64;
        const MOST_BYTES: usize = 128 << 10;
        for line in self.bytes().chunks(LINE_BYTES).take(MOST_BYTES / LINE_BYTES) {
            simd::prefetch(line.as_ptr(), Cache::Second);
        }
    }
}

/// `U = scale X A^T`: `x` is `[rows, inputs]`, `a` `[rank, inputs]`; the rows of `u` are `stride` apart.
pub(crate) struct Inputs<'a> {
    pub x: &'a [f32],
    pub inputs: usize,
    pub rows: usize,
    pub a: Factor<'a>,
    pub rank: usize,
    pub scale: f32,
    pub u: &'a mut [f32],
    pub stride: usize,
}

impl Inputs<'_> {
    /// Computes it on the calling thread.
    ///
    /// # Panics
    /// When an operand is too small.
    pub(crate) fn run(mut self) {
        let Inputs { x, inputs, rows: m, a, rank: n, scale, stride, .. } = self;
        let isa = Isa::detect();
        if m <= FEW_ROWS && inputs.is_multiple_of(isa.lanes()) {
            (isa.few_rows().low_rank_inputs)(&mut self);
        } else {
            let left = Strided { values: x, row_stride: inputs, col_stride: 1 };
            let terms = [TermCpu { left, right: a.right((1, inputs), inputs, n), k: inputs }];
            let (bias, accumulate, out) = (None, false, &mut *self.u);
            run_serial(ProductCpu { m, n, terms: &terms, bias, accumulate, out, out_stride: stride });
        }
        if scale != 1.0 {
            for row in self.u.chunks_mut(stride).take(m) {
                row[..n].iter_mut().for_each(|value| *value *= scale);
            }
        }
    }

    /// The sums of the rows.
    ///
    /// # Safety
    /// The processor has `S`.
    #[inline(always)]
    pub(super) unsafe fn run_on<S: Simd>(&mut self) {
        // SAFETY: by the caller.
        unsafe {
            match self.a {
                Factor::F32(a) => self.sums::<S, F32>(a),
                Factor::Halves(a) => match a.half() {
                    Half::F16 => self.sums::<S, F16>(a.bits()),
                    Half::Bf16 => self.sums::<S, Bf16>(a.bits()),
                },
            }
        }
    }

    /// # Safety
    /// The processor has `S`.
    #[inline(always)]
    unsafe fn sums<S: Simd, T: Stored>(&mut self, a: &[T::Bits]) {
        let Inputs { x, inputs, rows, rank, stride, .. } = *self;
        assert!(rows <= FEW_ROWS && inputs.is_multiple_of(S::LANES) && (1..=stride).contains(&rank));
        assert!(rows > 0 && x.len() >= rows * inputs && a.len() >= rank * inputs);
        assert!(self.u.len() >= (rows - 1) * stride + rank);
        let (longest, step) = sum_cut(inputs, true);
        for k in sum_blocks(inputs, longest, step) {
            let to = Out { at: self.u.as_mut_ptr(), stride, accumulate: k.start > 0 };
            let mut left = [std::ptr::null(); FEW_ROWS];
            left.iter_mut()
                .enumerate()
                .take(rows)
                .for_each(|(row, left)| *left = x[row * inputs + k.start..].as_ptr());
            for first in (0..rank).step_by(RIGHT_ROWS) {
                // The last row is there in the place of those that are not.
                let right = array::from_fn(|i| a[(first + i).min(rank - 1) * inputs + k.start..].as_ptr());
                let n = first..(first + RIGHT_ROWS).min(rank);
                // SAFETY: the processor has the set, by the caller; every row has `k.len()` values, a whole number of registers since
                // blocks are; the output was looked at above and is borrowed alone.
                unsafe { dot_all::<S, T>(&to, 0, &left[..rows], (&right, ()), Numbers::of(n), k.len()) }
            }
        }
    }
}

/// `out += U B^T`: `u` has `rank` columns of rows that are `stride` apart, `b_t` is `[rank, width]`, `out` `[rows, width]`.
pub(crate) struct Outputs<'a> {
    pub u: &'a [f32],
    pub stride: usize,
    pub rows: usize,
    pub b_t: Factor<'a>,
    pub rank: usize,
    pub out: &'a mut [f32],
    pub width: usize,
}

impl Outputs<'_> {
    /// Computes it on the calling thread.
    ///
    /// # Panics
    /// When an operand is too small.
    pub(crate) fn run(mut self) {
        let isa = Isa::detect();
        if self.rows <= FEW_ROWS && self.width.is_multiple_of(isa.lanes()) {
            return (isa.few_rows().low_rank_outputs)(&mut self);
        }
        let Outputs { u, stride, rows: m, b_t, rank: k, out, width: n } = self;
        let left = Strided { values: u, row_stride: stride, col_stride: 1 };
        let terms = [TermCpu { left, right: b_t.right((n, 1), k, n), k }];
        let (bias, accumulate) = (None, true);
        run_serial(ProductCpu { m, n, terms: &terms, bias, accumulate, out, out_stride: n });
    }

    /// Adds it.
    ///
    /// # Safety
    /// The processor has `S`.
    #[inline(always)]
    pub(super) unsafe fn run_on<S: Simd>(&mut self) {
        // SAFETY: by the caller.
        unsafe {
            match self.b_t {
                Factor::F32(b_t) => self.sums::<S, F32>(b_t),
                Factor::Halves(b_t) => match b_t.half() {
                    Half::F16 => self.sums::<S, F16>(b_t.bits()),
                    Half::Bf16 => self.sums::<S, Bf16>(b_t.bits()),
                },
            }
        }
    }

    /// # Safety
    /// The processor has `S`.
    #[inline(always)]
    unsafe fn sums<S: Simd, T: Stored>(&mut self, b_t: &[T::Bits]) {
        let Outputs { u, stride, rows, rank, width, .. } = *self;
        assert!(width.is_multiple_of(S::LANES) && rank <= stride);
        assert!(rows > 0 && u.len() >= (rows - 1) * stride + rank);
        assert!(b_t.len() >= rank * width && self.out.len() >= rows * width);
        let of_registers = |registers: Range<usize>| registers.start * S::LANES..registers.end * S::LANES;
        // As many sums as there are registers for.
        let most = if has_many_registers::<S>() { TILE_LEFT } else { TILE_LEFT / 2 };
        let each = rows.div_ceil(rows.div_ceil(most));
        let registers = width / S::LANES;
        for first in (0..registers).step_by(WIDE) {
            let columns = of_registers(first..(first + WIDE).min(registers));
            for row in (0..rows).step_by(each) {
                let tile = OutTile { u: &u[row * stride..], stride, rank, width, columns: columns.clone() };
                let out = &mut self.out[row * width..];
                // SAFETY: the processor has the set, by the caller; all operands were looked at above.
                unsafe {
                    match each.min(rows - row) {
                        1 => tile.add::<S, T, 1>(b_t, out),
                        2 => tile.add::<S, T, 2>(b_t, out),
                        3 => tile.add::<S, T, 3>(b_t, out),
                        4 => tile.add::<S, T, 4>(b_t, out),
                        _ => unreachable!("a tile has 1 to {TILE_LEFT} rows"),
                    }
                }
            }
        }
    }
}

/// Registers of columns that are summed at once.
const WIDE: usize = 4;

/// Some columns of a few rows of [`Outputs`].
struct OutTile<'a> {
    /// From the first row on.
    u: &'a [f32],
    stride: usize,
    rank: usize,
    width: usize,
    columns: Range<usize>,
}

impl OutTile<'_> {
    /// Adds the tile to `R` rows of `out`.
    ///
    /// # Safety
    /// The processor has `S`; the columns are whole registers, up to [`WIDE`] of them; `u`, `b_t` and `out` have the rows.
    #[inline(always)]
    unsafe fn add<S: Simd, T: Stored, const R: usize>(&self, b_t: &[T::Bits], out: &mut [f32]) {
        // SAFETY: by the caller.
        unsafe {
            match self.columns.len() / S::LANES {
                WIDE => self.add_registers::<S, T, R, WIDE>(b_t, out, self.columns.start),
                registers => (0..registers).for_each(|register| {
                    self.add_registers::<S, T, R, 1>(b_t, out, self.columns.start + register * S::LANES);
                }),
            }
        }
    }

    /// Adds `V` registers of columns from `column` on.
    ///
    /// # Safety
    /// As [`OutTile::add`].
    #[inline(always)]
    unsafe fn add_registers<S: Simd, T: Stored, const R: usize, const V: usize>(
        &self,
        b_t: &[T::Bits],
        out: &mut [f32],
        column: usize,
    ) {
        let OutTile { u, stride, rank, width, .. } = *self;
        // SAFETY: by the caller.
        unsafe {
            let mut sums = [[S::zero(); V]; R];
            for r in 0..rank {
                let right = b_t.as_ptr().add(r * width + column);
                let right: [S::V; V] = array::from_fn(|j| T::load::<S>(right.add(j * S::LANES)));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let value = S::splat(u.as_ptr().add(i * stride + r));
                    for (sum, right) in sums.iter_mut().zip(right) {
                        *sum = S::fma(value, right, *sum);
                    }
                }
            }
            for (i, sums) in sums.into_iter().enumerate() {
                for (j, sum) in sums.into_iter().enumerate() {
                    let to = out.as_mut_ptr().add(i * width + column + j * S::LANES);
                    S::store(to, S::add(S::load(to), sum));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::random;

    const HELD: [Option<Half>; 3] = [None, Some(Half::F16), Some(Half::Bf16)];

    fn values(len: usize, seed: u64) -> Vec<f32> {
        (0..len).map(|i| random::normal(seed, i as u64)).collect()
    }

    /// Values as they are held, and the same in f32.
    fn factor(len: usize, seed: u64, held: Option<Half>) -> (Tensor, Tensor) {
        let mut factor = Tensor::from_slice(Device::Cpu, &values(len, seed));
        if let Some(half) = held {
            factor.narrow(half).expect("small values");
        }
        let in_f32 = Tensor::from_slice(Device::Cpu, &factor.to_vec(len));
        (factor, in_f32)
    }

    /// `U`, unscaled, on an instruction set.
    fn inputs_on(isa: Isa, x: &[f32], a: &Tensor, (rows, inputs, rank): (usize, usize, usize)) -> Vec<f32> {
        let mut u = vec![f32::NAN; rows * rank];
        let (a, u_of) = (Factor::of(a), &mut u[..]);
        let mut all = Inputs { x, inputs, rows, a, rank, scale: 1.0, u: u_of, stride: rank };
        (isa.few_rows().low_rank_inputs)(&mut all);
        u
    }

    /// Ones, and what is added to them, on an instruction set.
    fn outputs_on(isa: Isa, u: &[f32], b_t: &Tensor, (rows, rank, width): (usize, usize, usize)) -> Vec<f32> {
        let mut out = vec![1.0; rows * width];
        let mut all = Outputs { u, stride: rank, rows, b_t: Factor::of(b_t), rank, out: &mut out, width };
        (isa.few_rows().low_rank_outputs)(&mut all);
        out
    }

    #[test]
    fn every_instruction_set_gives_the_sums_whatever_the_factors_are_held_in() {
        for held in HELD {
            for (rows, inputs, rank, width) in [
                (1, 576, 8, 576),
                (3, 32, 1, 16),
                (4, 1536, 24, 48),
                (7, 848, 11, 80),
                (FEW_ROWS, 64, 100, 112),
            ] {
                let (x, (a, a_f32)) = (values(rows * inputs, 1), factor(rank * inputs, 2, held));
                let (b_t, b_f32) = factor(rank * width, 3, held);
                let dot = |row: usize, r: usize| -> f64 {
                    let (x, a) = (&x[row * inputs..][..inputs], &a_f32.cpu()[r * inputs..][..inputs]);
                    x.iter().zip(a).map(|(x, a)| f64::from(*x) * f64::from(*a)).sum()
                };
                for isa in Isa::available() {
                    let u = inputs_on(isa, &x, &a, (rows, inputs, rank));
                    let out = outputs_on(isa, &u, &b_t, (rows, rank, width));
                    for row in 0..rows {
                        for r in 0..rank {
                            let (found, expected) = (f64::from(u[row * rank + r]), dot(row, r));
                            // Rounding of sums of up to 1536 products of about 1.
                            assert!(
                                (found - expected).abs() < 5e-4,
                                "{isa:?}, {held:?}: {found} for {expected}"
                            );
                        }
                        for column in 0..width {
                            let terms = (0..rank).map(|r| {
                                f64::from(u[row * rank + r]) * f64::from(b_f32.cpu()[r * width + column])
                            });
                            let (found, expected) =
                                (f64::from(out[row * width + column]), 1.0 + terms.sum::<f64>());
                            let bound = 1e-5 * (rank * inputs) as f64;
                            assert!(
                                (found - expected).abs() < bound,
                                "{isa:?}, {held:?}: {found} for {expected}"
                            );
                        }
                    }
                    // Bit by bit what f32 gives.
                    assert_eq!(u, inputs_on(isa, &x, &a_f32, (rows, inputs, rank)));
                    assert_eq!(out, outputs_on(isa, &u, &b_f32, (rows, rank, width)));
                    // And what each row gives alone.
                    for row in 0..rows {
                        let alone = inputs_on(isa, &x[row * inputs..], &a, (1, inputs, rank));
                        assert_eq!(alone, u[row * rank..][..rank]);
                        let alone = outputs_on(isa, &u[row * rank..], &b_t, (1, rank, width));
                        assert_eq!(alone, out[row * width..][..width]);
                    }
                }
            }
        }
    }

    /// Widths that are no whole registers, and more rows than few.
    #[test]
    fn what_the_kernels_do_not_take_is_computed_as_other_products_are() {
        for held in HELD {
            for (rows, inputs, rank, width) in [(2, 33, 3, 41), (FEW_ROWS + 3, 64, 8, 64), (40, 70, 5, 96)] {
                let (x, (a, a_f32)) = (values(rows * inputs, 1), factor(rank * inputs, 2, held));
                let (b_t, b_f32) = factor(rank * width, 3, held);
                let run = |a: &Tensor, b_t: &Tensor| {
                    let (mut u, mut out) = (vec![0.0; rows * rank], vec![1.0; rows * width]);
                    let (of_a, scale, stride) = (Factor::of(a), 2.0, rank);
                    Inputs { x: &x, inputs, rows, a: of_a, rank, scale, u: &mut u, stride }.run();
                    let b_t = Factor::of(b_t);
                    Outputs { u: &u, stride, rows, b_t, rank, out: &mut out, width }.run();
                    out
                };
                let found = run(&a, &b_t);
                assert_eq!(found, run(&a_f32, &b_f32), "{held:?}");
                for (at, found) in found.iter().enumerate() {
                    let (row, column) = (at / width, at % width);
                    let term = |r: usize| {
                        let (x, a) = (&x[row * inputs..][..inputs], &a_f32.cpu()[r * inputs..][..inputs]);
                        let u: f64 = x.iter().zip(a).map(|(x, a)| f64::from(*x) * f64::from(*a)).sum();
                        2.0 * u * f64::from(b_f32.cpu()[r * width + column])
                    };
                    let expected = 1.0 + (0..rank).map(term).sum::<f64>();
                    assert!((f64::from(*found) - expected).abs() < 2e-3, "{held:?}: {found} for {expected}");
                }
            }
        }
    }
}
