//! What the values of a term become before they are multiplied: f32 as they are, or rounded to bf16; rounded to 8 bits they
//! are in [`super::int8`].
//!
//! The tile multiplies elements of 32 bits (see [`Simd`]). Where the processor multiplies pairs of bf16 values, two
//! values that follow each other in the sum lie in one element; where it does not, bf16 values are multiplied as f32,
//! so that the result is that of rounded operands everywhere, though not to the last bit: the order of the sum differs.

use std::marker::PhantomData;

use super::MAX_K_BLOCK;
use super::simd::{Pairs, Simd};
use super::tile::{Args, Columns};
use crate::ops::math::rounded_to_bf16;

/// A kind of elements, with the instruction set that multiplies them.
pub(super) trait Operand {
    /// The instruction set.
    type Simd: Simd;
    /// Values in an element.
    const VALUES: usize;
    /// Whether elements are the values as they are.
    const AS_THEY_ARE: bool = false;
    /// Values along the sum that are made into elements together, since they share a scale: blocks of the sum begin at
    /// multiples of it.
    const SHARING: usize = 1;

    /// Elements of a sum of `k` values; what is not theirs is zero.
    #[inline(always)]
    fn elements(k: usize) -> usize {
        k.div_ceil(Self::VALUES)
    }

    /// Makes elements of `from`, values of a left operand that follow each other in the sum; `to` holds
    /// [`Operand::elements`] of them, and up to a register more. All of [`Operand::elements`] are written, the last with zeros
    /// where there is no value.
    fn left_along_sum(from: &[f32], to: &mut [f32]);

    /// As [`Operand::left_along_sum`], of a right operand.
    #[inline(always)]
    fn right_along_sum(from: &[f32], to: &mut [f32]) {
        Self::left_along_sum(from, to);
    }

    /// Makes elements of values of a right operand that lie side by side: `rows` holds [`Operand::VALUES`] rows of `to.len()`
    /// values, `stride` apart, whose values follow each other in the sum. `to` is a whole number of registers.
    fn across_sum(rows: &[f32], stride: usize, to: &mut [f32]) {
        unreachable!("{} values in rows {stride} apart for {} elements of blocks", rows.len(), to.len());
    }

    /// As [`Operand::across_sum`], of the `count` rows of a block of [`Operand::SHARING`] values of the sum or the rest of it;
    /// elements of `width` columns. Those of a whole block are written, with zeros behind the last row.
    fn block_across_sum(rows: &[f32], stride: usize, count: usize, to: &mut [f32], width: usize) {
        unreachable!("{count} rows of {}, {stride} apart, for {} x {width} elements", rows.len(), to.len());
    }

    /// Runs the tile of `rows` rows and `columns`, for which the processor is ready; see [`Simd::tile`].
    ///
    /// # Safety
    /// As [`Simd::tile`].
    #[inline(always)]
    unsafe fn tile(rows: usize, columns: Columns, args: &Args) {
        // SAFETY: what the caller grants is what is asked.
        unsafe { Self::Simd::tile(rows, columns, args) }
    }

    /// As [`Operand::across_sum`], of two rows of bf16 values in their bits, for elements that are pairs of them.
    fn across_sum_of_bf16(rows: [&[u16]; 2], to: &mut [f32]) {
        unreachable!("{} values for {} elements that are no pairs", rows[0].len(), to.len());
    }
}

/// Values as they are.
pub(super) struct Single<S>(PhantomData<S>);

impl<S: Simd> Operand for Single<S> {
    type Simd = S;
    const VALUES: usize = 1;
    const AS_THEY_ARE: bool = true;

    #[inline(always)]
    fn left_along_sum(from: &[f32], to: &mut [f32]) {
        to[..from.len()].copy_from_slice(from);
    }

    /// Through registers, which a call would take longer than.
    #[inline(always)]
    fn across_sum(rows: &[f32], _: usize, to: &mut [f32]) {
        let rows = &rows[..to.len()];
        for (from, to) in rows.chunks_exact(S::LANES).zip(to.chunks_exact_mut(S::LANES)) {
            // SAFETY: both have the lanes; the instruction set is the caller's.
            unsafe { S::store(to.as_mut_ptr(), S::load(from.as_ptr())) }
        }
    }
}

/// Values rounded to bf16 and multiplied as f32.
pub(super) struct Rounded<S>(PhantomData<S>);

impl<S: Simd> Operand for Rounded<S> {
    type Simd = S;
    const VALUES: usize = 1;

    #[inline(always)]
    fn left_along_sum(from: &[f32], to: &mut [f32]) {
        for (from, to) in from.iter().zip(to) {
            *to = rounded_to_bf16(*from);
        }
    }

    #[inline(always)]
    fn across_sum(rows: &[f32], _: usize, to: &mut [f32]) {
        Self::left_along_sum(&rows[..to.len()], to);
    }
}

/// Pairs of values rounded to bf16.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) struct Paired<P>(PhantomData<P>);

impl<P: Pairs> Operand for Paired<P> {
    type Simd = P;
    const VALUES: usize = 2;

    #[inline(always)]
    fn elements(k: usize) -> usize {
        k.div_ceil(Self::VALUES).next_multiple_of(P::STEP)
    }

    #[inline(always)]
    fn left_along_sum(from: &[f32], to: &mut [f32]) {
        const MAX_LANES: usize = 16;
        let whole = from.len() / (2 * P::LANES);
        assert!(from.len() <= MAX_K_BLOCK && to.len() >= from.len().div_ceil(2 * P::LANES) * P::LANES);
        // SAFETY: whole registers lie inside both; the instruction set is the caller's.
        unsafe {
            for i in 0..whole {
                P::pair_neighbours(from.as_ptr().add(i * 2 * P::LANES), to.as_mut_ptr().add(i * P::LANES));
            }
            let rest = &from[whole * 2 * P::LANES..];
            if !rest.is_empty() {
                let mut last = [0.0; 2 * MAX_LANES];
                last[..rest.len()].copy_from_slice(rest);
                P::pair_neighbours(last.as_ptr(), to.as_mut_ptr().add(whole * P::LANES));
            }
        }
    }

    #[inline(always)]
    fn across_sum(rows: &[f32], stride: usize, to: &mut [f32]) {
        let (first, second) = (&rows[..to.len()], &rows[stride..stride + to.len()]);
        for ((first, second), to) in
            first.chunks_exact(P::LANES).zip(second.chunks_exact(P::LANES)).zip(to.chunks_exact_mut(P::LANES))
        {
            // SAFETY: all have the lanes; the instruction set is the caller's.
            unsafe { P::pair_rows(first.as_ptr(), second.as_ptr(), to.as_mut_ptr()) }
        }
    }

    #[inline(always)]
    fn across_sum_of_bf16([first, second]: [&[u16]; 2], to: &mut [f32]) {
        let (first, second) = (&first[..to.len()], &second[..to.len()]);
        for ((first, second), to) in
            first.chunks_exact(P::LANES).zip(second.chunks_exact(P::LANES)).zip(to.chunks_exact_mut(P::LANES))
        {
            // SAFETY: all have the lanes; the instruction set is the caller's.
            unsafe { P::pair_rows_of_bf16(first.as_ptr(), second.as_ptr(), to.as_mut_ptr()) }
        }
    }
}

/// A type of values in memory that are multiplied as f32.
pub(super) trait Stored {
    /// A value as it is held.
    type Bits: Copy;

    /// The values of a register.
    ///
    /// # Safety
    /// The processor has `S`, and `from` has as many values as a register.
    unsafe fn load<S: Simd>(from: *const Self::Bits) -> S::V;
}

/// f32 as they are.
pub(super) struct F32;
/// IEEE binary16.
pub(super) struct F16;
/// bfloat16.
pub(super) struct Bf16;

impl Stored for F32 {
    type Bits = f32;
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const f32) -> S::V {
        // SAFETY: by the caller.
        unsafe { S::load(from) }
    }
}

impl Stored for F16 {
    type Bits = u16;
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u16) -> S::V {
        // SAFETY: by the caller.
        unsafe { S::load_f16(from) }
    }
}

impl Stored for Bf16 {
    type Bits = u16;
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u16) -> S::V {
        // SAFETY: by the caller.
        unsafe { S::load_bf16(from) }
    }
}
