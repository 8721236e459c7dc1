//! GGUF Q4_K, Q5_K and Q6_K: super-blocks of 256 values. Source: ggml `block_q4_K`, `block_q5_K`,
//! `block_q6_K`.
//!
//! Q4_K (144 bytes) and Q5_K (176): eight sub-blocks of 32 with a 6-bit scale and a 6-bit minimum each, over
//! two f16: `x = (d sc) q - (dmin m)`. Q6_K (210 bytes): sixteen sub-blocks of 16 with a signed 8-bit scale over
//! one f16: `x = (d sc) (q - 32)`.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::ask_ahead;
use super::blocks::decode_blocks;
use super::float::{f16_to_f32, write_scale};
#[cfg(target_arch = "x86_64")]
use super::{
    q4,
    registers::{Reader, Registers, four_bits, load_32},
};

mod affine;
mod lanes;
mod symmetric;

pub(super) const LEN: usize = 256;
pub(super) const Q4_BYTES: usize = 144;
pub(super) const Q5_BYTES: usize = 176;
pub(super) const Q6_BYTES: usize = 210;

/// The scales and minima of the eight sub-blocks, from their 12 packed bytes: four of each in the low six bits
/// of the first eight bytes, whose top bits are the top bits of the other four.
#[inline(always)]
fn scales_and_minima(packed: &[u8]) -> ([f32; 8], [f32; 8]) {
    let (mut scales, mut minima) = ([0.0; 8], [0.0; 8]);
    for j in 0..4 {
        scales[j] = f32::from(packed[j] & 63);
        minima[j] = f32::from(packed[j + 4] & 63);
        scales[j + 4] = f32::from(packed[j + 8] & 15 | packed[j] >> 6 << 4);
        minima[j + 4] = f32::from(packed[j + 8] >> 4 | packed[j + 4] >> 6 << 4);
    }
    (scales, minima)
}

#[inline(always)]
pub(super) fn decode_q4(src: &[u8], dst: &mut [f32]) {
    decode_blocks!(src, dst, |block: Q4_BYTES, [d, d_min] => 2, out: LEN| {
        let (scales, minima) = scales_and_minima(&block[4..16]);
        // 32 bytes hold two sub-blocks: one in their low halves, one in their high halves.
        for pair in 0..4 {
            let bytes = &block[16 + pair * 32..][..32];
            let out = &mut out[pair * 64..][..64];
            let (low, low_min) = (d * scales[2 * pair], d_min * minima[2 * pair]);
            let (high, high_min) = (d * scales[2 * pair + 1], d_min * minima[2 * pair + 1]);
            for j in 0..32 {
                out[j] = low * f32::from(bytes[j] & 15) - low_min;
                out[j + 32] = high * f32::from(bytes[j] >> 4) - high_min;
            }
        }
    });
}

#[inline(always)]
pub(super) fn decode_q5(src: &[u8], dst: &mut [f32]) {
    decode_blocks!(src, dst, |block: Q5_BYTES, [d, d_min] => 2, out: LEN| {
        let (scales, minima) = scales_and_minima(&block[4..16]);
        let fifth = &block[16..48];
        for pair in 0..4 {
            let bytes = &block[48 + pair * 32..][..32];
            let out = &mut out[pair * 64..][..64];
            let (low, low_min) = (d * scales[2 * pair], d_min * minima[2 * pair]);
            let (high, high_min) = (d * scales[2 * pair + 1], d_min * minima[2 * pair + 1]);
            for j in 0..32 {
                // Bit s of byte j is the fifth bit of value j of sub-block s.
                let low_bit = (fifth[j] >> (2 * pair) & 1) << 4;
                let high_bit = (fifth[j] >> (2 * pair + 1) & 1) << 4;
                out[j] = low * f32::from(bytes[j] & 15 | low_bit) - low_min;
                out[j + 32] = high * f32::from(bytes[j] >> 4 | high_bit) - high_min;
            }
        }
    });
}

#[inline(always)]
pub(super) fn decode_q6(src: &[u8], dst: &mut [f32]) {
    for (block, out) in src.as_chunks::<Q6_BYTES>().0.iter().zip(dst.as_chunks_mut::<LEN>().0) {
        block.chunks(64).for_each(ask_ahead);
        let d = f16_to_f32([block[208], block[209]]);
        // Each half of 128 values: 64 bytes of low halves, 32 bytes of upper bit pairs, 8 scales.
        for half in 0..2 {
            let low = &block[half * 64..][..64];
            let upper = &block[128 + half * 32..][..32];
            let scales = &block[192 + half * 8..][..8];
            let out = &mut out[half * 128..][..128];
            let scale = |quarter: usize, j: usize| d * f32::from(scales[quarter * 2 + j / 16] as i8);
            for part in 0..2 {
                let (s0, s1, s2, s3) =
                    (scale(0, part * 16), scale(1, part * 16), scale(2, part * 16), scale(3, part * 16));
                for j in part * 16..part * 16 + 16 {
                    let value = |bits: u8| (i32::from(bits) - 32) as f32;
                    out[j] = s0 * value(low[j] & 15 | (upper[j] & 3) << 4);
                    out[j + 32] = s1 * value(low[j + 32] & 15 | (upper[j] >> 2 & 3) << 4);
                    out[j + 64] = s2 * value(low[j] >> 4 | (upper[j] >> 4 & 3) << 4);
                    out[j + 96] = s3 * value(low[j + 32] >> 4 | (upper[j] >> 6 & 3) << 4);
                }
            }
        }
    }
}

/// The scales of the eight sub-blocks of a Q4_K or Q5_K block, and, negative, their minima.
///
/// # Safety
/// The processor has AVX2 and F16C, and the first sixteen bytes of the block are there.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn scales_then_minima(block: *const u8, to: &mut [f32; 16]) {
    const NONE: i32 = -1;
    /// Four bytes from place `at` on.
    const fn four_places(at: i32) -> i32 {
        at | (at + 1) << 8 | (at + 2) << 16 | (at + 3) << 24
    }
    // SAFETY: by the caller; eight values are written to each half.
    unsafe {
        let block = _mm_loadu_si128(block.cast());
        // Two f16, then four bytes of scales, four of minima, four with the low halves of the other scales and minima.
        let low = _mm_shuffle_epi8(
            block,
            _mm_setr_epi32(four_places(4), four_places(12), four_places(8), four_places(12)),
        );
        let low = _mm_and_si128(
            _mm_srlv_epi32(low, _mm_setr_epi32(0, 0, 0, 4)),
            _mm_setr_epi32(0x3f3f_3f3f, 0x0f0f_0f0f, 0x3f3f_3f3f, 0x0f0f_0f0f),
        );
        let high = _mm_shuffle_epi8(block, _mm_setr_epi32(NONE, four_places(4), NONE, four_places(8)));
        let high = _mm_and_si128(_mm_srli_epi32::<2>(high), _mm_set1_epi8(0x30));
        let codes = _mm_or_si128(low, high);
        let [d, d_min, ..] = std::mem::transmute::<__m128, [f32; 4]>(_mm_cvtph_ps(block));
        let values = |codes: __m128i, d: f32| {
            _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(codes)), _mm256_set1_ps(d))
        };
        _mm256_storeu_ps(to.as_mut_ptr(), values(codes, d));
        _mm256_storeu_ps(to.as_mut_ptr().add(8), values(_mm_unpackhi_epi64(codes, codes), -d_min));
    }
}

/// [`Reader::scales`] of blocks of `BYTES` bytes whose sixteen scales `decode` decodes.
///
/// # Safety
/// As there, and what `decode` asks for.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn scales_of_blocks<const ROWS: usize, const BYTES: usize>(
    rows: &[*const u8; ROWS],
    blocks: usize,
    to: *mut f32,
    decode: unsafe fn(*const u8, &mut [f32; 16]),
) {
    for block in 0..blocks {
        for (i, row) in rows.iter().enumerate() {
            // SAFETY: by the caller.
            unsafe { decode(row.add(block * BYTES), &mut *to.cast::<[f32; 16]>().add(block * ROWS + i)) };
        }
    }
}

/// Q4_K.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Q4K;

#[cfg(target_arch = "x86_64")]
impl<R: Registers> Reader<R> for Q4K {
    const LEN: usize = LEN;
    const BYTES: usize = Q4_BYTES;
    const SCALES: usize = 16;
    /// Two sub-blocks, which lie in the same bytes.
    const GROUP: usize = 64;
    type Shared = [R::Affine; 2];

    #[inline(always)]
    unsafe fn scales<const ROWS: usize>(rows: &[*const u8; ROWS], blocks: usize, to: *mut f32) {
        // SAFETY: by the caller.
        unsafe { scales_of_blocks::<ROWS, Q4_BYTES>(rows, blocks, to, scales_then_minima) };
    }
    #[inline(always)]
    unsafe fn shared(_: *const u8, scales: *const f32, pair: usize) -> [R::Affine; 2] {
        // SAFETY: by the caller.
        unsafe {
            let low = scales.add(2 * pair);
            let high = low.add(1);
            // Not by `map`, which the compiler did not inline here.
            [R::affine(R::splat(low), R::splat(low.add(8))), R::affine(R::splat(high), R::splat(high.add(8)))]
        }
    }
    #[inline(always)]
    unsafe fn values(
        block: *const u8,
        _: *const f32,
        pair: usize,
        values: [R::Affine; 2],
        part: usize,
    ) -> R::V {
        // SAFETY: by the caller.
        unsafe {
            R::of_affine(q4::nibbles::<R, 32>(block.add(16 + 32 * pair), part), values[part * R::LANES / 32])
        }
    }
}

/// Q5_K.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Q5K;

#[cfg(target_arch = "x86_64")]
impl<R: Registers> Reader<R> for Q5K {
    const LEN: usize = LEN;
    const BYTES: usize = Q5_BYTES;
    const SCALES: usize = 16;
    /// A sub-block.
    const GROUP: usize = 32;
    /// The codes.
    type Shared = __m256i;

    #[inline(always)]
    unsafe fn scales<const ROWS: usize>(rows: &[*const u8; ROWS], blocks: usize, to: *mut f32) {
        // SAFETY: by the caller.
        unsafe { scales_of_blocks::<ROWS, Q5_BYTES>(rows, blocks, to, scales_then_minima) };
    }
    #[inline(always)]
    unsafe fn shared(block: *const u8, _: *const f32, sub: usize) -> __m256i {
        // SAFETY: by the caller.
        unsafe {
            let halves = four_bits(load_32(block.add(48 + sub / 2 * 32)), sub % 2 * 4);
            let bit = _mm256_set1_epi8(1 << sub);
            let is_set = _mm256_cmpeq_epi8(_mm256_and_si256(load_32(block.add(16)), bit), bit);
            _mm256_or_si256(halves, _mm256_and_si256(is_set, _mm256_set1_epi8(16)))
        }
    }
    #[inline(always)]
    unsafe fn values(_: *const u8, scales: *const f32, sub: usize, codes: __m256i, part: usize) -> R::V {
        // SAFETY: by the caller.
        unsafe {
            let (d, m) = (R::splat(scales.add(sub)), R::splat(scales.add(8 + sub)));
            R::scaled(R::part_of_bytes(codes, part), d, m)
        }
    }
}

/// A quarter of each of the sixteen scales of a Q6_K block, since its codes are read as four times what they stand for.
///
/// # Safety
/// The processor has AVX2 and F16C, and the block is whole.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn quarters_of_scales(block: *const u8, to: &mut [f32; 16]) {
    // SAFETY: by the caller; eight codes are read and eight values written at a time.
    unsafe {
        let d = _mm_set1_epi16(block.add(208).cast::<i16>().read_unaligned());
        let d = _mm256_mul_ps(_mm256_cvtph_ps(d), _mm256_set1_ps(0.25));
        for (half, to) in to.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let codes = _mm256_cvtepi8_epi32(_mm_loadl_epi64(block.add(192 + 8 * half).cast()));
            _mm256_storeu_ps(to.as_mut_ptr(), _mm256_mul_ps(_mm256_cvtepi32_ps(codes), d));
        }
    }
}

/// Q6_K.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Q6K;

#[cfg(target_arch = "x86_64")]
impl<R: Registers> Reader<R> for Q6K {
    const LEN: usize = LEN;
    const BYTES: usize = Q6_BYTES;
    const SCALES: usize = 16;
    /// A quarter of half a block: two sub-blocks.
    const GROUP: usize = 32;
    /// Four times the signed codes.
    type Shared = __m256i;

    #[inline(always)]
    unsafe fn scales<const ROWS: usize>(rows: &[*const u8; ROWS], blocks: usize, to: *mut f32) {
        // SAFETY: by the caller.
        unsafe { scales_of_blocks::<ROWS, Q6_BYTES>(rows, blocks, to, quarters_of_scales) };
    }
    #[inline(always)]
    unsafe fn shared(block: *const u8, _: *const f32, group: usize) -> __m256i {
        let (half, quarter) = (group / 4, group % 4);
        // SAFETY: by the caller.
        unsafe {
            // 4 (q - 32): bits 6 and 7 are the upper two of q, the highest flipped to take 32 away, and bits 2 to 5 its low half.
            let count = |by: usize| _mm_cvtsi32_si128(by as i32);
            let low =
                _mm256_srl_epi16(load_32(block.add(half * 64 + quarter % 2 * 32)), count(quarter / 2 * 4));
            let low = _mm256_and_si256(_mm256_slli_epi16::<2>(low), _mm256_set1_epi8(0x3c));
            let upper = _mm256_sll_epi16(load_32(block.add(128 + half * 32)), count(6 - 2 * quarter));
            let upper = _mm256_and_si256(upper, _mm256_set1_epi8(-0x40));
            _mm256_or_si256(low, _mm256_xor_si256(upper, _mm256_set1_epi8(-0x80)))
        }
    }
    #[inline(always)]
    unsafe fn values(_: *const u8, scales: *const f32, group: usize, codes: __m256i, part: usize) -> R::V {
        // SAFETY: by the caller.
        unsafe {
            let scale = R::splat(scales.add(2 * group + part * R::LANES / 16));
            R::mul(R::floats(R::part_of_signed_bytes(codes, part)), scale)
        }
    }
}

/// Half the smallest f16: nothing but zero is nearer to values up to here.
const SMALLEST_KEPT: f32 = 1.0 / (1 << 25) as f32;

/// More than any super-block holds, and little enough that sums of squares are finite.
const BEYOND_ALL_SCALES: f32 = 1e9;

/// The inverse of `scales_and_minima`.
#[inline(always)]
fn pack_scales_and_minima(scales: &[u8; 8], minima: &[u8; 8], packed: &mut [u8]) {
    for j in 0..4 {
        packed[j] = scales[j] | scales[j + 4] >> 4 << 6;
        packed[j + 4] = minima[j] | minima[j + 4] >> 4 << 6;
        packed[j + 8] = scales[j + 4] & 15 | minima[j + 4] << 4;
    }
}

/// Low halves of the codes of two sub-blocks, in 32 bytes.
#[inline(always)]
fn pack_halves(codes: &[u8; LEN], bytes: &mut [u8]) {
    for pair in 0..4 {
        let codes = &codes[pair * 64..][..64];
        for (j, byte) in bytes[pair * 32..][..32].iter_mut().enumerate() {
            *byte = codes[j] & 15 | codes[j + 32] << 4;
        }
    }
}

/// Whether the scales are finite. The search is compiled for each instruction set, the packing is not.
pub(super) fn encode_q4(values: &[f32; LEN], block: &mut [u8; Q4_BYTES]) -> bool {
    let encoded = affine::encode(values, 15.0);
    pack_scales_and_minima(&encoded.scales, &encoded.minima, &mut block[4..16]);
    pack_halves(&encoded.codes, &mut block[16..]);
    write_scale(encoded.d, &mut block[..2]) & write_scale(encoded.d_min, &mut block[2..4])
}

/// Whether the scales are finite.
pub(super) fn encode_q5(values: &[f32; LEN], block: &mut [u8; Q5_BYTES]) -> bool {
    let encoded = affine::encode(values, 31.0);
    pack_scales_and_minima(&encoded.scales, &encoded.minima, &mut block[4..16]);
    for j in 0..32 {
        let mut bits = 0;
        for sub in 0..8 {
            bits |= (encoded.codes[sub * 32 + j] >> 4) << sub;
        }
        block[16 + j] = bits;
    }
    pack_halves(&encoded.codes, &mut block[48..]);
    write_scale(encoded.d, &mut block[..2]) & write_scale(encoded.d_min, &mut block[2..4])
}

/// Whether the scale is finite.
pub(super) fn encode_q6(values: &[f32; LEN], block: &mut [u8; Q6_BYTES]) -> bool {
    let encoded = symmetric::encode(values);
    for half in 0..2 {
        let codes = &encoded.codes[half * 128..][..128];
        for j in 0..32 {
            let quarters = [codes[j], codes[j + 32], codes[j + 64], codes[j + 96]];
            block[half * 64 + j] = quarters[0] & 15 | quarters[2] << 4;
            block[half * 64 + j + 32] = quarters[1] & 15 | quarters[3] << 4;
            let upper = |quarter: usize| quarters[quarter] >> 4 << (2 * quarter);
            block[128 + half * 32 + j] = upper(0) | upper(1) | upper(2) | upper(3);
        }
    }
    for (byte, scale) in block[192..208].iter_mut().zip(encoded.scales) {
        *byte = scale as u8;
    }
    write_scale(encoded.d, &mut block[208..210])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    /// Any instruction set: the one found here against the one that the compiler takes for granted.
    #[test]
    fn every_instruction_set_finds_the_same_codes() {
        let mut random = Random::new(4);
        for scale in [1.0, 1e-5, 3e-8, 4e6] {
            for power in [1, 3, 7] {
                let values: Vec<f32> = random.normal(8 * LEN).iter().map(|v| scale * v.powi(power)).collect();
                for values in values.as_chunks::<LEN>().0 {
                    for top in [15.0, 31.0] {
                        assert_eq!(affine::encode(values, top), affine::encode_here(values, top));
                    }
                    assert_eq!(symmetric::encode(values), symmetric::encode_here(values));
                }
            }
        }
    }
}
