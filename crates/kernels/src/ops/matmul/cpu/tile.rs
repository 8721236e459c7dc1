//! The innermost product: one register tile of the output.

use super::simd::{Cache, Simd, prefetch};

/// Operands of a tile.
#[derive(Clone, Copy)]
pub(super) struct Args {
    /// Length of the sum, in elements.
    pub elements: usize,
    /// Left rows, contiguous along the sum.
    pub left: *const f32,
    /// From one left row to the next.
    pub left_stride: usize,
    /// Right columns: a packed panel, `[elements][tile width]`, or part of a matrix.
    pub right: *const f32,
    /// From one right row to the next.
    pub right_stride: usize,
    /// Output tile.
    pub out: *mut f32,
    /// From one output row to the next.
    pub out_stride: usize,
    /// Add to the output instead of overwriting it.
    pub accumulate: bool,
}

/// Where a tile reads its right columns, and how many.
#[derive(Clone, Copy, Debug)]
pub(super) enum Columns {
    /// A packed panel of one register.
    Narrow,
    /// A packed panel of [`Simd::VECTORS`] registers.
    Full,
    /// As many columns of a matrix, read where it lies. The processor does not foresee what is read after them, so each
    /// right row asks for the values `ahead` of its own to come into the first-level cache meanwhile.
    InPlace { ahead: usize },
}

/// `out[i][j] (+)= sum_k left[i][k] * right[k][j]` for `R` rows and `V` registers of columns; `meanwhile` is called with
/// every right row.
///
/// The sum runs over `k` in order in one accumulator per element; what `out` held is added last.
///
/// # Safety
/// The processor has `S`; all pointers are valid for the tile.
#[inline(always)]
pub(super) unsafe fn tile<S: Simd, const R: usize, const V: usize>(
    args: &Args,
    meanwhile: impl Fn(*const f32),
) {
    // SAFETY: the processor has `S`, and the output has `R` rows of `V` registers, by the caller.
    unsafe {
        let sums = sums::<S, R, V>(args, meanwhile);
        for i in 0..R {
            for j in 0..V {
                let to = args.out.add(i * args.out_stride + j * S::LANES);
                let sum = if args.accumulate { S::add(S::load(to), sums[i][j]) } else { sums[i][j] };
                S::store(to, sum);
            }
        }
    }
}

/// Asks for the `V` registers of a right row that lie `ahead`.
#[inline(always)]
pub(super) fn ask_ahead<S: Simd, const V: usize>(right: *const f32, ahead: usize) {
    for j in 0..V {
        prefetch(right.wrapping_add(ahead + j * S::LANES).cast(), Cache::First);
    }
}

/// The sums of a tile.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn sums<S: Simd, const R: usize, const V: usize>(
    args: &Args,
    meanwhile: impl Fn(*const f32),
) -> [[S::V; V]; R] {
    // SAFETY: the processor has `S`; each of `R` left rows has `elements` values, each of as many right rows `V` registers, by
    // the caller.
    unsafe {
        let mut sums = [[S::zero(); V]; R];
        let mut right = args.right;
        let rows: [*const f32; R] = std::array::from_fn(|i| args.left.add(i * args.left_stride));
        for k in 0..args.elements {
            let columns: [S::V; V] = std::array::from_fn(|j| S::load(right.add(j * S::LANES)));
            for i in 0..R {
                let value = S::splat(rows[i].add(k));
                for j in 0..V {
                    sums[i][j] = S::fma(value, columns[j], sums[i][j]);
                }
            }
            meanwhile(right);
            right = right.wrapping_add(args.right_stride);
        }
        sums
    }
}

/// Multiply-adds in registers only: `steps` times `12 * 2` registers. Returns a value so that the work
/// cannot be left out.
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
pub(super) unsafe fn registers_only<S: Simd>(steps: usize) -> f32 {
    // SAFETY: the processor has `S`, by the caller; the arrays have the values of the widest register.
    unsafe {
        let start = std::hint::black_box([1.0f32; 16]);
        let a = S::load(start.as_ptr());
        // AVX2 has 16 registers, so 12 sums; their latency is hidden on every core so far.
        let mut sums = [a; 12];
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = S::fma(a, a, *sum);
            }
        }
        let mut out = [0.0f32; 16];
        for sum in sums {
            S::store(out.as_mut_ptr(), sum);
            std::hint::black_box(&mut out);
        }
        out[0]
    }
}
