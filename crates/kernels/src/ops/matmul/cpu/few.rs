//! Products of a few rows, as generation has them: some rows of the right operand at a time are decoded, in registers or into a
//! cache, multiplied with every left row, and forgotten. Memory, which gives each weight once, sets the speed.
//!
//! `out[row, n] (+)= left[row] . right[n]` over a block of the sum. Every pair of rows has one register of sums: its lane `l`
//! adds the products `l`, `l + LANES`, ... in turn, and the lanes are added in pairs at the end ([`Simd::sums`]). So a value has
//! the same bits however many rows are computed beside it and however the output is cut into tasks.

use std::ops::Range;

use super::left::{ROW_PADDING, STRIP_STRIDE, copy_strip};
use super::operand::{F32, Single, Stored};
use super::simd::Simd;
use super::strips::Tile;
use super::{Block, MAX_K_BLOCK, ROWS_VALUES, RightCpu, Scratch, sum_step};
use crate::weight::ComputeDtype;

/// Up to this many rows the right operand is read row by row instead of being packed. Answers that are generated side by side
/// are as many at most, so that each is the same whatever is beside it.
pub(crate) const FEW_ROWS: usize = 16;

/// Rows of the right operand that are decoded at once: they and a few left rows fit the second-level cache, short ones the first.
pub(super) const RIGHT_ROWS: usize = 8;
/// Right rows of a tile of two to four left rows. One left row has twice as many, so that enough sums are under way, and more left
/// rows have half as many.
const TILE_RIGHT: usize = 4;
/// Left rows of a tile, if values need no decoding.
pub(super) const TILE_LEFT: usize = 4;
/// Left rows of any tile, at most: of values that are decoded for each tile.
pub(super) const MOST_TILE_LEFT: usize = 2 * TILE_LEFT;

/// Rows of the right operand as they lie in memory, for the instruction set `S`: groups of values that are read together, of which each
/// may have a scale. Groups are read in order: `shared` of one, then its `values`, then `shared` of the next.
pub(super) trait RowGroups<S: Simd> {
    /// What a row is counted in.
    type Bits: Copy;
    /// What some rows have apart from where they lie.
    type Apart: Copy;
    /// What the values of a group share.
    type Shared: Copy;
    /// Values of a group: some whole registers.
    const VALUES: usize;
    /// Whether it takes work to read values, so that they are better read for more left rows at once.
    const IS_DECODED: bool = false;

    /// What the values share of the group of `row` that begins at value `at`.
    ///
    /// # Safety
    /// The processor has `S`, and the row has the group.
    unsafe fn shared(row: Row<Self::Bits, Self::Apart>, at: usize) -> Self::Shared;

    /// Register `part` of the group.
    ///
    /// # Safety
    /// As [`RowGroups::shared`], which gave `shared`.
    unsafe fn values(row: Row<Self::Bits, Self::Apart>, at: usize, shared: Self::Shared, part: usize)
    -> S::V;
}

/// One of up to [`RIGHT_ROWS`] rows.
#[derive(Clone, Copy)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "only x86-64 reads rows as they are stored")
)]
pub(super) struct Row<Bits, Apart> {
    /// Where it lies.
    pub bits: *const Bits,
    /// Which of them it is.
    pub number: usize,
    /// Of all of them.
    pub apart: Apart,
}

impl<S: Simd, T: Stored> RowGroups<S> for T {
    type Bits = T::Bits;
    type Apart = ();
    type Shared = ();
    const VALUES: usize = S::LANES;

    #[inline(always)]
    unsafe fn shared(_: Row<T::Bits, ()>, _: usize) {}

    #[inline(always)]
    unsafe fn values(row: Row<T::Bits, ()>, at: usize, (): (), _: usize) -> S::V {
        // SAFETY: by the caller.
        unsafe { T::load::<S>(row.bits.add(at)) }
    }
}

/// The numbers of up to [`RIGHT_ROWS`] rows of the right operand, each of which gives a column of the output.
#[derive(Clone, Copy)]
pub(super) struct Numbers {
    pub first: usize,
    /// From one to the next.
    pub step: usize,
    /// Rows from here on are not there.
    pub end: usize,
}

impl Numbers {
    /// Of rows that follow each other.
    pub(super) fn of(n: Range<usize>) -> Self {
        Numbers { first: n.start, step: 1, end: n.end }
    }

    /// Without the first `i` rows, if others are there.
    #[inline(always)]
    fn behind(self, i: usize) -> Option<Self> {
        let first = self.first + i * self.step;
        (first < self.end).then_some(Numbers { first, ..self })
    }
}

/// Where sums are written.
pub(super) struct Out {
    /// The first value of the first row.
    pub at: *mut f32,
    /// From one row to the next.
    pub stride: usize,
    /// Add to what is there instead of overwriting it.
    pub accumulate: bool,
}

/// How the sum of few rows is cut: the longest block, and what all blocks but the last are a multiple of.
///
/// Blocks of left rows that are contiguous have up to 2,048 values, so that right rows are read in long pieces. They are multiples of
/// 256 where `k` is, so that they cut no block of a K-quant.
pub(super) fn sum_cut(k: usize, left_is_contiguous: bool) -> (usize, usize) {
    const LONGEST: usize = 2048;
    const OF_K_QUANTS: usize = 256;
    const { assert!(RIGHT_ROWS * (LONGEST + ROW_PADDING) <= ROWS_VALUES && LONGEST.is_multiple_of(OF_K_QUANTS)) };
    let step = sum_step(ComputeDtype::F32);
    if !left_is_contiguous || !k.is_multiple_of(step) {
        (MAX_K_BLOCK, step)
    } else if k.is_multiple_of(OF_K_QUANTS) {
        (LONGEST, OF_K_QUANTS)
    } else {
        (LONGEST, step)
    }
}

/// Adds one block of the sum for a few left rows, or writes it.
///
/// # Safety
/// The processor has `S`, and no other thread touches the tile.
#[inline(always)]
pub(super) unsafe fn dot_rows<S: Simd>(to: &Tile<'_>, block: &Block<'_>, scratch: &mut Scratch) {
    let Block { term, k, cols, .. } = block;
    let padded = k.len().next_multiple_of(S::LANES);
    let in_place = padded == k.len() && term.left.col_stride == 1;
    debug_assert!(in_place || k.len() <= MAX_K_BLOCK);
    let Scratch { panels: copies, rows: decoded, .. } = scratch;
    if !in_place {
        copy_strip::<Single<S>>(term.left, to.rows.clone(), k.clone(), copies);
        for row in copies.chunks_exact_mut(STRIP_STRIDE).take(to.rows.len()) {
            row[k.len()..padded].fill(0.0);
        }
    }
    let mut left = [std::ptr::null(); FEW_ROWS];
    for (i, row) in to.rows.clone().enumerate() {
        left[i] = match in_place {
            true => term.left.values[row * term.left.row_stride + k.start..][..padded].as_ptr(),
            false => copies[i * STRIP_STRIDE..][..padded].as_ptr(),
        };
    }
    let (left, all_right) = (&left[..to.rows.len()], term.right.in_place());
    let out = Out { at: to.product.out, stride: to.product.out_stride, accumulate: to.accumulate };
    // SAFETY: the processor has the set and the output is this task's, by the caller; left rows have the values of `k`.
    if unsafe { S::dot_stored(&out, to.rows.start, left, all_right, cols.clone(), k, decoded) } {
        return;
    }
    for n in cols.clone().step_by(RIGHT_ROWS) {
        let n = n..(n + RIGHT_ROWS).min(cols.end);
        let right = right_rows::<S>(all_right, n.clone(), k.clone(), decoded);
        // SAFETY: the processor has the set and the output is this task's, by the caller; all rows have `padded` values.
        unsafe { dot_all::<S, F32>(&out, to.rows.start, left, (&right, ()), Numbers::of(n), padded) }
    }
}

/// Rows `n` of the right operand over the block: where they lie if they need no decoding, or decoded. A last few rows are
/// filled up with the last.
#[inline(always)]
fn right_rows<S: Simd>(
    right: RightCpu<'_>,
    n: Range<usize>,
    k: Range<usize>,
    decoded: &mut [f32],
) -> [*const f32; RIGHT_ROWS] {
    let padded = k.len().next_multiple_of(S::LANES);
    // The last row is there in the place of those that are not.
    let place = |i: usize| i.min(n.len() - 1);
    if let (RightCpu::Strided(s), true) = (right, padded == k.len()) {
        return std::array::from_fn(|i| {
            let first = (n.start + place(i)) * s.col_stride;
            s.values[first + k.start..first + k.end].as_ptr()
        });
    }
    // Rows a multiple of 4 KiB apart would compete for the same sets of the first-level cache.
    let mut stride = padded + ROW_PADDING;
    match right {
        RightCpu::WeightTransposed(weight) => {
            // Whole rows are decoded at once.
            if padded == weight.cols() {
                stride = padded;
            }
            weight.decode_rows(n.clone(), k.clone(), stride, decoded);
        }
        RightCpu::Weight(_) | RightCpu::Strided(_) => {
            for (col, to) in n.clone().zip(decoded.chunks_exact_mut(stride)) {
                right.column(col, k.clone(), &mut to[..k.len()]);
            }
        }
    }
    for row in decoded.chunks_exact_mut(stride).take(n.len()) {
        row[k.len()..padded].fill(0.0);
    }
    std::array::from_fn(|i| decoded[place(i) * stride..][..padded].as_ptr())
}

/// Whether there are 32 registers, as on AVX-512 and NEON, or 16.
pub(super) const fn has_many_registers<S: Simd>() -> bool {
    S::ROWS >= 12
}

/// The most left rows of a tile. It then has sixteen sums where registers are many, else eight. `is_decoded` says whether right values
/// are decoded for each tile.
pub(super) const fn most_left<S: Simd>(is_decoded: bool) -> usize {
    match (has_many_registers::<S>(), is_decoded) {
        (true, true) => MOST_TILE_LEFT,
        (true, false) => TILE_LEFT,
        (false, _) => TILE_LEFT / 2,
    }
}

/// Whether a tile may have `rows` left rows.
const fn has_tile<S: Simd, T: RowGroups<S>>(rows: usize) -> bool {
    rows <= most_left::<S>(T::IS_DECODED)
}

/// Multiplies all left rows with the right rows `n`, for output rows from `first` on.
///
/// # Safety
/// The processor has `S`, the output has the rows and columns, no other thread touches them, and every row has `k` values, a whole
/// number of groups.
#[inline(always)]
pub(super) unsafe fn dot_all<S: Simd, T: RowGroups<S>>(
    to: &Out,
    first: usize,
    left: &[*const f32],
    (right, apart): (&[*const T::Bits; RIGHT_ROWS], T::Apart),
    n: Numbers,
    k: usize,
) {
    let most = const { most_left::<S>(T::IS_DECODED) };
    let each = left.len().div_ceil(left.len().div_ceil(most));
    for (group, left) in left.chunks(each).enumerate() {
        let row = first + group * each;
        macro_rules! tiles {
            ($($left:ident)*; $right:expr) => {
                for (part, right) in right.as_chunks::<{ $right }>().0.iter().enumerate() {
                    let Some(n) = n.behind(part * $right) else { break };
                    let right = rows_of(right, part * $right, apart);
                    add_tile::<S, _, _>(to, row, n, &tile::<S, T, _, _>(&[$($left),*], &right, k));
                }
            };
        }
        // SAFETY: by the caller.
        unsafe {
            match *left {
                // What eight rows share has to fit beside their sums. Tiles that `most` forbids are not compiled.
                [a] if const {
                    !T::IS_DECODED || has_many_registers::<S>() && size_of::<T::Shared>() <= size_of::<S::V>()
                } =>
                {
                    tiles!(a; RIGHT_ROWS)
                }
                [a] => tiles!(a; TILE_RIGHT),
                [a, b] => tiles!(a b; TILE_RIGHT),
                [a, b, c] if const { has_tile::<S, T>(3) } => tiles!(a b c; TILE_RIGHT),
                [a, b, c, d] if const { has_tile::<S, T>(4) } => tiles!(a b c d; TILE_RIGHT),
                [a, b, c, d, e] if const { has_tile::<S, T>(5) } => {
                    tiles!(a b c d e; TILE_RIGHT / 2)
                }
                [a, b, c, d, e, f] if const { has_tile::<S, T>(6) } => {
                    tiles!(a b c d e f; TILE_RIGHT / 2)
                }
                [a, b, c, d, e, f, g] if const { has_tile::<S, T>(7) } => {
                    tiles!(a b c d e f g; TILE_RIGHT / 2)
                }
                [a, b, c, d, e, f, g, h] if const { has_tile::<S, T>(8) } => {
                    tiles!(a b c d e f g h; TILE_RIGHT / 2)
                }
                _ => unreachable!("a tile has 1 to {most} left rows"),
            }
        }
    }
}

/// The rows that lie at `bits`, which are those from number `first` on.
#[inline(always)]
fn rows_of<Bits, Apart: Copy, const R: usize>(
    bits: &[*const Bits; R],
    first: usize,
    apart: Apart,
) -> [Row<Bits, Apart>; R] {
    std::array::from_fn(|i| Row { bits: bits[i], number: first + i, apart })
}

/// The sums of `L` left rows times `R` right rows, in lanes.
///
/// # Safety
/// The processor has `S`, and every row has `k` values, a whole number of groups.
#[inline(always)]
unsafe fn tile<S: Simd, T: RowGroups<S>, const L: usize, const R: usize>(
    left: &[*const f32; L],
    right: &[Row<T::Bits, T::Apart>; R],
    k: usize,
) -> [[S::V; R]; L] {
    // SAFETY: by the caller.
    unsafe {
        let mut sums = [[S::zero(); R]; L];
        debug_assert!(k.is_multiple_of(T::VALUES));
        for at in (0..k).step_by(T::VALUES) {
            let shared = right.map(|row| T::shared(row, at));
            // Not a loop, which the compiler might leave as one, with `shared` in memory.
            macro_rules! parts {
                ($($part:literal)*) => {$(
                    if $part * S::LANES < T::VALUES {
                        let values: [S::V; R] =
                            std::array::from_fn(|i| T::values(right[i], at, shared[i], $part));
                        for (sums, row) in sums.iter_mut().zip(left) {
                            let x = S::load(row.add(at + $part * S::LANES));
                            for (sum, value) in sums.iter_mut().zip(values) {
                                *sum = S::fma(value, x, *sum);
                            }
                        }
                    }
                )*};
            }
            const { assert!(T::VALUES <= 8 * S::LANES) };
            parts!(0 1 2 3 4 5 6 7);
        }
        sums
    }
}

/// Adds the lanes of sums and writes outputs `n` of each row from `row` on, or adds to them.
///
/// # Safety
/// As [`dot_all`].
#[inline(always)]
unsafe fn add_tile<S: Simd, const L: usize, const R: usize>(
    to: &Out,
    row: usize,
    n: Numbers,
    sums: &[[S::V; R]; L],
) {
    const SUMMED_TOGETHER: usize = 4;
    for first in (0..L * R).step_by(SUMMED_TOGETHER) {
        // SAFETY: the processor has the set, by the caller.
        let together = unsafe {
            let register = |i: usize| match first + i < L * R {
                true => sums[(first + i) / R][(first + i) % R],
                false => S::zero(),
            };
            S::sums([register(0), register(1), register(2), register(3)])
        };
        for (i, sum) in (first..L * R).zip(together) {
            let col = n.first + i % R * n.step;
            if col < n.end {
                // SAFETY: inside the output, which no other thread touches, by the caller.
                unsafe {
                    let out = to.at.add((row + i / R) * to.stride + col);
                    *out = if to.accumulate { *out + sum } else { sum };
                }
            }
        }
    }
}
