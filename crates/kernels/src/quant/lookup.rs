//! Four-bit codes decoded by looking up sixteen values in a register, for AVX-512: the table of a block holds its values as
//! they are decoded, so that a value costs one permutation, whatever its scale and minimum.
//!
//! The values of a table take the same roundings as those of the plain loops, so the bits are the same.

use std::arch::x86_64::*;

/// The codes 0 to 15 as values.
///
/// # Safety
/// The processor has AVX-512F.
#[inline(always)]
pub(crate) unsafe fn codes() -> __m512 {
    // SAFETY: by the caller; no memory is touched.
    unsafe {
        _mm512_setr_ps(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0)
    }
}

/// `table[i] = codes[i] * scale + add`, with both operations rounded.
///
/// # Safety
/// As [`codes`].
#[inline(always)]
pub(super) unsafe fn affine(codes: __m512, scale: f32, add: f32) -> __m512 {
    // SAFETY: by the caller; no memory is touched.
    unsafe { _mm512_add_ps(_mm512_mul_ps(codes, _mm512_set1_ps(scale)), _mm512_set1_ps(add)) }
}

/// `low[j] = low_table[bytes[j] & 15]` and `high[j] = high_table[bytes[j] >> 4]`.
///
/// # Safety
/// As [`codes`].
#[inline(always)]
pub(super) unsafe fn halves(
    bytes: &[u8; 16],
    [low_table, high_table]: [__m512; 2],
    low: &mut [f32; 16],
    high: &mut [f32; 16],
) {
    // SAFETY: by the caller; sixteen bytes are read and sixteen values written to each side.
    unsafe {
        _mm512_storeu_ps(low.as_mut_ptr(), half(bytes.as_ptr(), 0, low_table));
        _mm512_storeu_ps(high.as_mut_ptr(), half(bytes.as_ptr(), 1, high_table));
    }
}

/// The values of the lower halves of sixteen bytes (`part` 0), or of the upper ones (`part` 1).
///
/// # Safety
/// As [`codes`], and the bytes are there.
#[inline(always)]
pub(crate) unsafe fn half(bytes: *const u8, part: usize, table: __m512) -> __m512 {
    // SAFETY: by the caller.
    unsafe {
        // Only the low four bits of an index count.
        let halves = _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.cast()));
        _mm512_permutexvar_ps(if part == 0 { halves } else { _mm512_srli_epi32::<4>(halves) }, table)
    }
}

/// Sixteen codes from eight bytes, each in the lower four bits of a lane: the first is the upper half of the first byte.
///
/// # Safety
/// As [`codes`], and eight bytes are there.
#[inline(always)]
pub(crate) unsafe fn codes_of_pairs(bytes: *const u8) -> __m512i {
    // SAFETY: by the caller.
    unsafe {
        // A code is in four bits of one of two words, the first in the high half of the first byte.
        let shifts = _mm512_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24, 4, 0, 12, 8, 20, 16, 28, 24);
        let word = |at: usize| bytes.add(at).cast::<i32>().read_unaligned();
        let words = _mm512_mask_set1_epi32(_mm512_set1_epi32(word(0)), 0xFF00, word(4));
        _mm512_srlv_epi32(words, shifts)
    }
}

/// As `k_quants::scales_and_minima`, multiplied by `d` and `d_min`.
///
/// # Safety
/// As [`codes`].
#[inline(always)]
pub(super) unsafe fn scales_and_minima(packed: &[u8], d: f32, d_min: f32) -> ([f32; 8], [f32; 8]) {
    // Four bytes at once.
    let word = |i: usize| u32::from_le_bytes(packed[4 * i..4 * i + 4].try_into().expect("four bytes"));
    let (first, second, rest) = (word(0), word(1), word(2));
    let low = |word: u32| (word & 0x3f3f_3f3f) as i32;
    let high = |halves: u32, word: u32| (halves & 0x0f0f_0f0f | (word >> 6 & 0x0303_0303) << 4) as i32;
    let (mut scales, mut minima) = ([0.0; 8], [0.0; 8]);
    // SAFETY: by the caller; eight values are written to each.
    unsafe {
        let bytes = _mm_setr_epi32(low(first), high(rest, first), low(second), high(rest >> 4, second));
        let factors = _mm512_mask_mov_ps(_mm512_set1_ps(d), 0xFF00, _mm512_set1_ps(d_min));
        let values = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)), factors);
        _mm256_storeu_ps(scales.as_mut_ptr(), _mm512_castps512_ps256(values));
        _mm256_storeu_ps(minima.as_mut_ptr(), _mm512_extractf32x8_ps::<1>(values));
    }
    (scales, minima)
}
