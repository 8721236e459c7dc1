//! Operands rounded to 8 bits, for weights whose compute type is int8.
//!
//! [`BLOCK`] values that follow each other in the sum share a scale, the largest of their magnitudes over 127, and become
//! codes from -127 to 127, rounded to nearest, halfway cases to even: on both sides, as Jetfire (arXiv 2403.12422, section 4)
//! does with squares. The sum of a block's products is an integer, which is multiplied with the two scales and added to
//! the f32 sum. Integers are exact in i32 and, below 2^24, in f32, so that instruction sets that have no products of bytes
//! compute the same blocks by multiplying the codes as f32.
//!
//! Before the elements of a block stand two more: the scale, and what its sums begin with. VNNI multiplies unsigned bytes with
//! signed ones: left codes have 128 added, and right blocks begin with -128 times the sum of their codes. AMX and ARM multiply
//! signed bytes, and nothing is added ([`Bytes::OFFSET`]). A last block is filled up with zeros.

use std::marker::PhantomData;

use super::operand::Operand;
use super::simd::Simd;
use super::tile::Args;
use super::{Columns, MAX_PANEL, MAX_ROWS};

/// Values that share a scale.
pub(super) const BLOCK: usize = 64;
/// Elements before those of a block.
pub(super) const HEAD: usize = 2;
/// The largest code.
const LARGEST: f32 = 127.0;
/// Values in an element of four codes.
const QUAD: usize = 4;
/// Elements of four codes in a block.
pub(super) const QUADS: usize = BLOCK / QUAD;
/// Elements of `k` values, `values` to an element, with what stands before each block. A last block is filled up with zeros.
pub(super) const fn elements(k: usize, values: usize) -> usize {
    k.div_ceil(BLOCK) * (HEAD + BLOCK / values)
}

/// The scale of values whose largest magnitude has these bits, and what values are multiplied by to become codes. Magnitudes below
/// 1e-30, whose inverse might not be a number, become zero; an infinite one or one that is no number makes the sum such a
/// one, as with any other operand.
#[inline(always)]
fn scale(largest_bits: u32) -> (f32, f32) {
    let largest = f32::from_bits(largest_bits);
    if largest < 1e-30 { (0.0, 0.0) } else { (largest / LARGEST, LARGEST / largest) }
}

/// The code of a value.
#[inline(always)]
fn code(value: f32, inverse: f32) -> i32 {
    let rounded = (value * inverse).round_ties_even();
    // The bounds take what is no number to one; codes of numbers lie between them, or one rounding above.
    let bounded = if rounded > -LARGEST { rounded } else { -LARGEST };
    let bounded = if bounded < LARGEST { bounded } else { LARGEST };
    // SAFETY: it is a number between the bounds.
    unsafe { bounded.to_int_unchecked() }
}

/// The bits of a magnitude. They are ordered as the magnitudes are, and what is no number comes last.
#[inline(always)]
fn magnitude(value: f32) -> u32 {
    value.to_bits() & 0x7fff_ffff
}

/// Rounds a block of values that follow each other in the sum: codes, zero behind the last, their sum and the scale.
#[inline(always)]
fn codes(values: &[f32], to: &mut [i8; BLOCK]) -> (i32, f32) {
    match values.try_into() {
        Ok(values) => codes_of_whole(values, to),
        Err(_) => {
            let mut padded = [0.0; BLOCK];
            padded[..values.len()].copy_from_slice(values);
            codes_of_whole(&padded, to)
        }
    }
}

/// As [`codes`], in loops that the compiler vectorises.
#[inline(always)]
fn codes_of_whole(values: &[f32; BLOCK], to: &mut [i8; BLOCK]) -> (i32, f32) {
    let mut largest = 0;
    for value in values {
        largest = magnitude(*value).max(largest);
    }
    let (scale, inverse) = scale(largest);
    let mut sum = 0;
    for i in 0..BLOCK {
        let code = code(values[i], inverse);
        sum += code;
        to[i] = code as i8;
    }
    (sum, scale)
}

/// An integer in the bits of an element.
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
#[inline(always)]
fn element(integer: i32) -> f32 {
    f32::from_bits(integer.cast_unsigned())
}

/// Four codes an element, for processors that multiply bytes.
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
pub(super) struct Quads<S>(PhantomData<S>);

/// The elements of values that follow each other in the sum; `offset` is added to the codes, and `start` gives what the sums
/// of a block begin with, by the sum of its codes.
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
#[inline(always)]
fn quads_along_sum(from: &[f32], to: &mut [f32], offset: u8, start: impl Fn(i32) -> i32) {
    assert!(to.len() >= elements(from.len(), QUAD));
    for (block, to) in from.chunks(BLOCK).zip(to.chunks_exact_mut(HEAD + QUADS)) {
        let mut rounded = [0; BLOCK];
        let (sum, scale) = codes(block, &mut rounded);
        let bytes = rounded.map(|code| code.cast_unsigned().wrapping_add(offset));
        (to[0], to[1]) = (scale, element(start(sum)));
        let to = &mut to[HEAD..];
        // SAFETY: every four bytes are an f32, and any bytes are.
        let to = unsafe { to.align_to_mut::<u8>().1 };
        to.copy_from_slice(&bytes);
    }
}

impl<S: Bytes> Operand for Quads<S> {
    type Simd = S;
    const VALUES: usize = QUAD;
    const SHARING: usize = BLOCK;

    #[inline(always)]
    fn elements(k: usize) -> usize {
        elements(k, QUAD)
    }

    #[inline(always)]
    fn left_along_sum(from: &[f32], to: &mut [f32]) {
        quads_along_sum(from, to, S::OFFSET, |_| 0);
    }

    #[inline(always)]
    fn right_along_sum(from: &[f32], to: &mut [f32]) {
        quads_along_sum(from, to, 0, |sum| -i32::from(S::OFFSET) * sum);
    }

    #[inline(always)]
    fn block_across_sum(rows: &[f32], stride: usize, count: usize, to: &mut [f32], width: usize) {
        // As wide as the widest register, but for a narrow panel of others.
        match width {
            width if width.is_multiple_of(16) => {
                quads_across_sum::<16>(rows, stride, count, to, width, S::OFFSET);
            }
            width if width.is_multiple_of(8) => {
                quads_across_sum::<8>(rows, stride, count, to, width, S::OFFSET);
            }
            _ => quads_across_sum::<4>(rows, stride, count, to, width, S::OFFSET),
        }
    }

    #[inline(always)]
    unsafe fn tile(rows: usize, columns: Columns, args: &Args) {
        // SAFETY: what the caller grants is what is asked.
        unsafe { S::tile_of_bytes(rows, columns, args) }
    }
}

/// See [`Operand::block_across_sum`]; `LANES` columns at a time, whose left codes have `offset` added.
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
#[inline(always)]
fn quads_across_sum<const LANES: usize>(
    rows: &[f32],
    stride: usize,
    count: usize,
    to: &mut [f32],
    width: usize,
    offset: u8,
) {
    for column in (0..width).step_by(LANES) {
        let row = |row: usize| -> &[f32; LANES] {
            rows[row * stride + column..][..LANES].try_into().expect("as many lanes")
        };
        let mut largest = [0; LANES];
        for values in (0..count).map(row) {
            for lane in 0..LANES {
                largest[lane] = magnitude(values[lane]).max(largest[lane]);
            }
        }
        let (scales, inverses) = (largest.map(|bits| scale(bits).0), largest.map(|bits| scale(bits).1));
        let mut sums = [0; LANES];
        for (quad, first) in (0..count).step_by(QUAD).enumerate() {
            let mut bytes = [0; LANES];
            for value in 0..QUAD.min(count - first) {
                let values = row(first + value);
                for lane in 0..LANES {
                    let code = code(values[lane], inverses[lane]);
                    sums[lane] += code;
                    bytes[lane] |= (code & 0xff) << (8 * value);
                }
            }
            to[(HEAD + quad) * width + column..][..LANES].copy_from_slice(&bytes.map(element));
        }
        for quad in count.div_ceil(QUAD)..QUADS {
            to[(HEAD + quad) * width + column..][..LANES].fill(0.0);
        }
        to[column..][..LANES].copy_from_slice(&scales);
        let starts = sums.map(|sum| element(-i32::from(offset) * sum));
        to[width + column..][..LANES].copy_from_slice(&starts);
    }
}

/// One code an element, as f32: for processors that do not multiply bytes.
pub(super) struct Integers<S>(PhantomData<S>);

impl<S: Simd> Operand for Integers<S> {
    type Simd = S;
    const VALUES: usize = 1;
    const SHARING: usize = BLOCK;

    #[inline(always)]
    fn elements(k: usize) -> usize {
        elements(k, 1)
    }

    #[inline(always)]
    fn left_along_sum(from: &[f32], to: &mut [f32]) {
        assert!(to.len() >= elements(from.len(), 1));
        for (block, to) in from.chunks(BLOCK).zip(to.chunks_exact_mut(HEAD + BLOCK)) {
            let mut rounded = [0; BLOCK];
            (to[0], to[1]) = (codes(block, &mut rounded).1, 0.0);
            for (code, to) in rounded.iter().zip(&mut to[HEAD..]) {
                *to = f32::from(*code);
            }
        }
    }

    #[inline(always)]
    fn block_across_sum(rows: &[f32], stride: usize, count: usize, to: &mut [f32], width: usize) {
        for column in 0..width {
            let values = || (0..count).map(|row| rows[row * stride + column]);
            let (scale, inverse) = scale(values().map(magnitude).fold(0, u32::max));
            to[column] = scale;
            to[width + column] = 0.0;
            for (row, value) in values().enumerate() {
                to[(HEAD + row) * width + column] = code(value, inverse) as f32;
            }
            for row in count..BLOCK {
                to[(HEAD + row) * width + column] = 0.0;
            }
        }
    }

    #[inline(always)]
    unsafe fn tile(rows: usize, columns: Columns, args: &Args) {
        let width = match columns {
            Columns::Narrow => S::LANES,
            Columns::Full | Columns::InPlace { .. } => S::LANES * S::VECTORS,
        };
        let mut sums = [0.0; MAX_ROWS * MAX_PANEL];
        let mut at = 0;
        while at < args.elements {
            let accumulate = args.accumulate || at > 0;
            // SAFETY: the block lies inside both operands and the tile inside the output, by the caller; the sums have room for
            // the largest tile.
            unsafe {
                let (left, right) = (args.left.add(at), args.right.add(at * args.right_stride));
                let products = Args {
                    elements: BLOCK,
                    left: left.add(HEAD),
                    right: right.add(HEAD * args.right_stride),
                    out: sums.as_mut_ptr(),
                    out_stride: width,
                    accumulate: false,
                    ..*args
                };
                S::tile(rows, columns, &products);
                for row in 0..rows {
                    let scale = *left.add(row * args.left_stride);
                    for column in 0..width {
                        let to = args.out.add(row * args.out_stride + column);
                        let before = if accumulate { *to } else { 0.0 };
                        *to = before + sums[row * width + column] * (scale * *right.add(column));
                    }
                }
            }
            at += HEAD + BLOCK;
        }
    }
}

/// An instruction set that multiplies bytes. Left bytes are unsigned (VNNI) or signed (AMX, dot products of ARM), right ones
/// signed.
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
pub(super) trait Bytes: Simd {
    /// Added to left codes: 128 where left bytes are unsigned.
    const OFFSET: u8;

    /// Runs the tile of `rows` rows and `columns`, for which the processor is ready; see [`tile`].
    unsafe fn tile_of_bytes(rows: usize, columns: Columns, args: &Args);
}

/// An instruction set that adds four products of bytes to an i32.
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
pub(super) trait Dots: Bytes {
    /// A register of [`Simd::LANES`] elements, or sums.
    type I: Copy;

    unsafe fn load_bytes(from: *const f32) -> Self::I;
    unsafe fn splat_bytes(from: *const f32) -> Self::I;
    /// `sums + left * right`.
    unsafe fn dot(sums: Self::I, left: Self::I, right: Self::I) -> Self::I;
    unsafe fn to_f32(sums: Self::I) -> Self::V;
}

/// `out[i][j] (+)= sum over blocks of scale[i] * scale[j] * (start[j] + sum_k left[i][k] * right[k][j])` for `R` rows and `V`
/// registers of columns. What `out` held is added last.
///
/// # Safety
/// The processor has `S`; all pointers are valid for the tile, whose operands have whole blocks.
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
#[inline(always)]
pub(super) unsafe fn tile<S: Dots, const R: usize, const V: usize>(args: &Args) {
    // SAFETY: the processor has `S`; the operands have `elements` elements, of which every block has its head, and the
    // output has `R` rows of `V` registers, by the caller.
    unsafe {
        let mut rows: [*const f32; R] = std::array::from_fn(|i| args.left.add(i * args.left_stride));
        let mut right = args.right;
        let mut totals = [[S::zero(); V]; R];
        for _ in 0..args.elements / (HEAD + QUADS) {
            let sums = dots::<S, R, V>(&rows, right, args.right_stride);
            let scales: [S::V; V] = std::array::from_fn(|j| S::load(right.add(j * S::LANES)));
            for i in 0..R {
                let scale = S::splat(rows[i]);
                for j in 0..V {
                    let scaled = S::fma(S::to_f32(sums[i][j]), scales[j], S::zero());
                    totals[i][j] = S::fma(scaled, scale, totals[i][j]);
                }
                rows[i] = rows[i].wrapping_add(HEAD + QUADS);
            }
            right = right.wrapping_add((HEAD + QUADS) * args.right_stride);
        }
        for i in 0..R {
            for j in 0..V {
                let to = args.out.add(i * args.out_stride + j * S::LANES);
                let total = if args.accumulate { S::add(S::load(to), totals[i][j]) } else { totals[i][j] };
                S::store(to, total);
            }
        }
    }
}

/// The sums of a block: `start[j] + sum_k left[i][k] * right[k][j]`; `rows` and `right` are at its head.
///
/// # Safety
/// As [`tile`], of a block.
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
#[inline(always)]
unsafe fn dots<S: Dots, const R: usize, const V: usize>(
    rows: &[*const f32; R],
    right: *const f32,
    right_stride: usize,
) -> [[S::I; V]; R] {
    // SAFETY: by the caller.
    unsafe {
        let starts = right.add(right_stride);
        let mut sums = [std::array::from_fn(|j| S::load_bytes(starts.add(j * S::LANES))); R];
        let mut right = right.wrapping_add(HEAD * right_stride);
        for quad in 0..QUADS {
            let columns: [S::I; V] = std::array::from_fn(|j| S::load_bytes(right.add(j * S::LANES)));
            for i in 0..R {
                let value = S::splat_bytes(rows[i].add(HEAD + quad));
                for j in 0..V {
                    sums[i][j] = S::dot(sums[i][j], value, columns[j]);
                }
            }
            right = right.wrapping_add(right_stride);
        }
        sums
    }
}

/// As [`super::tile::registers_only`], with products of bytes.
///
/// # Safety
/// The processor has `S`.
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
#[inline(always)]
pub(super) unsafe fn registers_only<S: Dots>(steps: usize) -> f32 {
    // SAFETY: the processor has `S`, by the caller; the arrays have the values of the widest register.
    unsafe {
        let start = std::hint::black_box([0.0f32; 16]);
        let a = S::load_bytes(start.as_ptr());
        let mut sums = [a; 12];
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = S::dot(*sum, a, a);
            }
        }
        let mut out = [0.0f32; 16];
        for sum in sums {
            S::store(out.as_mut_ptr(), S::to_f32(sum));
            std::hint::black_box(&mut out);
        }
        out[0]
    }
}
