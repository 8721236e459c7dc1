//! Rows of the right operand that are read as they are stored, block by block, and decoded in registers. To write decoded
//! values and read them again would take longer than memory takes to give the stored ones. Every
//! [`super::few::TILE_LEFT`] left rows decode them anew, so that this is for few left rows.
//!
//! Values take the roundings of their decoders, and sums their order ([`super::few`]), so the bits are those of decoded rows.

use std::arch::x86_64::*;
use std::ops::Range;

use super::RightCpu;
use super::few::{Out, RIGHT_ROWS, RowBlocks, TILE_LEFT, dot_all};
use super::simd::x86::Avx512;
use super::simd::{Cache, Simd, prefetch};
use crate::quant::Format;
use crate::quant::four_bit::FourBit;
use crate::quant::lookup;
use crate::weight::HostWeight;

/// With more left rows, decoded values are written after all.
const MOST_LEFT_ROWS: usize = 2 * TILE_LEFT;

/// A right operand whose columns are rows of blocks.
#[derive(Clone, Copy)]
pub(super) enum StoredRows<'a> {
    Blocks(HostWeight<'a>, Format),
    FourBit(HostWeight<'a>, &'a FourBit),
}

impl<'a> StoredRows<'a> {
    /// None where there are too many left rows, columns are not stored in a format that is decoded here, or `k` cuts a block.
    pub(super) fn of(right: RightCpu<'a>, left_rows: usize, k: &Range<usize>) -> Option<Self> {
        let RightCpu::WeightTransposed(weight) = right else { return None };
        let (rows, block) = match (weight.format_of_all_rows(), weight.four_bit()) {
            // Values that are read together are 32.
            (Some(format @ (Format::BF16 | Format::Q4_0 | Format::Q4_1 | Format::Q8_0)), _) => {
                (StoredRows::Blocks(weight, format), 32)
            }
            (_, Some(data))
                if data.block_len >= FOUR_BIT_VALUES && weight.cols().is_multiple_of(data.block_len) =>
            {
                (StoredRows::FourBit(weight, data), data.block_len)
            }
            _ => return None,
        };
        let cuts = |at: usize| !at.is_multiple_of(block);
        (left_rows <= MOST_LEFT_ROWS && !cuts(k.start) && !cuts(k.end)).then_some(rows)
    }

    /// Multiplies all left rows with the rows, for output columns `cols` of rows from `first` on. `scales` is working memory.
    ///
    /// # Safety
    /// The processor has AVX-512, the output has the rows and columns, no other thread touches them, every left row has as
    /// many values as `k`, and [`StoredRows::of`] was given the same `k`.
    #[inline(always)]
    pub(super) unsafe fn dot(
        &self,
        to: &Out,
        first: usize,
        left: &[*const f32],
        cols: Range<usize>,
        k: &Range<usize>,
        scales: &mut [f32],
    ) {
        for start in cols.clone().step_by(RIGHT_ROWS) {
            let n = start..(start + RIGHT_ROWS).min(cols.end);
            // SAFETY: by the caller; every right row has whole blocks of `k` values, see `StoredRows::of`.
            unsafe {
                match *self {
                    StoredRows::Blocks(weight, format) => {
                        let right = std::array::from_fn(|i| {
                            weight.stored_bytes_of(row_at(&n, i), k.clone()).as_ptr()
                        });
                        dot_blocks(to, first, left, &right, format, n, k.len());
                    }
                    StoredRows::FourBit(weight, data) => {
                        let rows = four_bit_rows(weight, data, &n, k, scales);
                        let right = std::array::from_fn(|i| &raw const rows[i]);
                        dot_all::<Avx512, FourBitRow>(to, first, left, &right, n, k.len());
                    }
                }
            }
        }
    }
}

/// Row `i` of rows `n`, or the last in the place of those that are not.
fn row_at(n: &Range<usize>, i: usize) -> usize {
    (n.start + i).min(n.end - 1)
}

/// As [`StoredRows::dot`], of some rows of blocks.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn dot_blocks(
    to: &Out,
    first: usize,
    left: &[*const f32],
    right: &[*const u8; RIGHT_ROWS],
    format: Format,
    n: Range<usize>,
    k: usize,
) {
    // SAFETY: by the caller.
    unsafe {
        match format {
            Format::BF16 => dot_all::<Avx512, Bf16Values>(to, first, left, right, n, k),
            Format::Q4_0 => dot_all::<Avx512, Q4_0>(to, first, left, right, n, k),
            Format::Q4_1 => dot_all::<Avx512, Q4_1>(to, first, left, right, n, k),
            Format::Q8_0 => dot_all::<Avx512, Q8_0>(to, first, left, right, n, k),
            _ => unreachable!("{format} is not read here"),
        }
    }
}

/// Values of bitsandbytes' codes that are read together.
const FOUR_BIT_VALUES: usize = 64;

/// A row of bitsandbytes' codes, and its scales, over a block of the sum.
#[derive(Clone, Copy)]
struct FourBitRow {
    codes: *const u8,
    scales: *const f32,
    /// Values of a scale, as a power of two.
    block_bits: u32,
    /// The values of the sixteen codes.
    table: *const f32,
    /// From the codes to those of the row that is stored [`RIGHT_ROWS`] later.
    ahead: usize,
}

/// Rows `n` over `k`, with their scales decoded to `scales`.
#[inline(always)]
fn four_bit_rows(
    weight: HostWeight<'_>,
    data: &FourBit,
    n: &Range<usize>,
    k: &Range<usize>,
    scales: &mut [f32],
) -> [FourBitRow; RIGHT_ROWS] {
    let (scale, blocks) = (data.scales(), k.len() / data.block_len);
    std::array::from_fn(|i| {
        let row = row_at(n, i);
        let to = &mut scales[i * blocks..][..blocks];
        let first = (weight.stored_row(row) * weight.cols() + k.start) / data.block_len;
        to.iter_mut().enumerate().for_each(|(block, to)| *to = scale(first + block));
        FourBitRow {
            codes: weight.stored_bytes_of(row, k.clone()).as_ptr(),
            scales: to.as_ptr(),
            block_bits: data.block_len.trailing_zeros(),
            table: data.code.table().as_ptr(),
            ahead: RIGHT_ROWS * weight.cols() / 2,
        }
    })
}

impl RowBlocks<Avx512> for FourBitRow {
    type Bits = FourBitRow;
    /// The values of all codes.
    type Shared = __m512;
    const VALUES: usize = FOUR_BIT_VALUES;

    #[inline(always)]
    unsafe fn shared(row: *const FourBitRow, at: usize) -> __m512 {
        // SAFETY: by the caller.
        unsafe {
            let row = &*row;
            prefetch(row.codes.wrapping_add(at / 2 + row.ahead), Cache::First);
            let scale = _mm512_set1_ps(*row.scales.add(at >> row.block_bits));
            _mm512_mul_ps(_mm512_loadu_ps(row.table), scale)
        }
    }

    #[inline(always)]
    unsafe fn values(row: *const FourBitRow, at: usize, table: __m512, part: usize) -> __m512 {
        // SAFETY: by the caller; sixteen codes are in eight bytes.
        unsafe { _mm512_permutexvar_ps(lookup::codes_of_pairs((*row).codes.add(at / 2 + 8 * part)), table) }
    }
}

/// The two f16 of four bytes, each in all lanes.
///
/// # Safety
/// The processor has AVX-512, and four bytes are there.
#[inline(always)]
unsafe fn two_f16_in_all(at: *const u8) -> [__m512; 2] {
    // SAFETY: by the caller.
    unsafe {
        let both = _mm512_cvtph_ps(_mm256_set1_epi32(at.cast::<i32>().read_unaligned()));
        [_mm512_moveldup_ps(both), _mm512_movehdup_ps(both)]
    }
}

/// bfloat16.
struct Bf16Values;
/// Blocks of 18 bytes, which share the values of all codes: see `crate::quant::q4`.
struct Q4_0;
/// Blocks of 20 bytes, as those.
struct Q4_1;
/// Blocks of 34 bytes, which share a scale: see `crate::quant::q8_0`.
struct Q8_0;

/// What blocks of 32 values have in common.
macro_rules! block_of_32 {
    ($bytes:literal) => {
        type Bits = u8;
        type Shared = __m512;
        const VALUES: usize = 32;
        const BYTES: usize = $bytes;
    };
}

/// The block that begins at value `at` of a row.
///
/// # Safety
/// The row has the block.
#[inline(always)]
unsafe fn block<T: RowBlocks<Avx512, Bits = u8>>(row: *const u8, at: usize) -> *const u8 {
    // SAFETY: by the caller.
    unsafe { row.add(at / T::VALUES * T::BYTES) }
}

impl RowBlocks<Avx512> for Bf16Values {
    type Bits = u8;
    type Shared = ();
    const VALUES: usize = 32;
    const BYTES: usize = 64;

    #[inline(always)]
    unsafe fn shared(_: *const u8, _: usize) {}

    #[inline(always)]
    unsafe fn values(row: *const u8, at: usize, (): (), part: usize) -> __m512 {
        // SAFETY: by the caller.
        unsafe { Avx512::load_bf16(block::<Self>(row, at).add(32 * part).cast()) }
    }
}

impl RowBlocks<Avx512> for Q4_0 {
    block_of_32!(18);

    #[inline(always)]
    unsafe fn shared(row: *const u8, at: usize) -> __m512 {
        // SAFETY: by the caller.
        unsafe {
            let codes = _mm512_sub_ps(lookup::codes(), _mm512_set1_ps(8.0));
            _mm512_mul_ps(codes, two_f16_in_all(block::<Self>(row, at))[0])
        }
    }

    #[inline(always)]
    unsafe fn values(row: *const u8, at: usize, table: __m512, part: usize) -> __m512 {
        // SAFETY: by the caller.
        unsafe { lookup::half(block::<Self>(row, at).add(2), part, table) }
    }
}

impl RowBlocks<Avx512> for Q4_1 {
    block_of_32!(20);

    #[inline(always)]
    unsafe fn shared(row: *const u8, at: usize) -> __m512 {
        // SAFETY: by the caller.
        unsafe {
            let [d, m] = two_f16_in_all(block::<Self>(row, at));
            _mm512_add_ps(_mm512_mul_ps(lookup::codes(), d), m)
        }
    }

    #[inline(always)]
    unsafe fn values(row: *const u8, at: usize, table: __m512, part: usize) -> __m512 {
        // SAFETY: by the caller.
        unsafe { lookup::half(block::<Self>(row, at).add(4), part, table) }
    }
}

impl RowBlocks<Avx512> for Q8_0 {
    block_of_32!(34);

    #[inline(always)]
    unsafe fn shared(row: *const u8, at: usize) -> __m512 {
        // SAFETY: by the caller.
        unsafe { two_f16_in_all(block::<Self>(row, at))[0] }
    }

    #[inline(always)]
    unsafe fn values(row: *const u8, at: usize, scale: __m512, part: usize) -> __m512 {
        // SAFETY: by the caller.
        unsafe {
            let codes = block::<Self>(row, at).add(2 + 16 * part);
            let codes = _mm512_cvtepi8_epi32(_mm_loadu_si128(codes.cast()));
            _mm512_mul_ps(_mm512_cvtepi32_ps(codes), scale)
        }
    }
}
