//! GGUF Q4_0 and Q4_1: blocks of 32 values in 4 bits with one f16 scale, and for Q4_1 one f16 minimum.
//!
//! Byte `j` holds value `j` in its low half and value `j + 16` in its high half.
//! Q4_0 (18 bytes): `x = d (q - 8)`. Q4_1 (20 bytes): `x = d q + m`. Source: ggml `block_q4_0`, `block_q4_1`.
//! Encoding gives the bytes of ggml `quantize_row_q4_0_ref` and `quantize_row_q4_1_ref`.

#[cfg(target_arch = "x86_64")]
use super::AVX512;
use super::blocks::{self, decode_blocks};
use super::float::write_scale;

pub(super) const LEN: usize = 32;
pub(super) const BYTES_0: usize = 18;
pub(super) const BYTES_1: usize = 20;

/// For the instruction set `SET` of the caller.
#[inline(always)]
pub(super) fn decode_0<const SET: u8>(src: &[u8], dst: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if SET == AVX512 {
        // SAFETY: AVX-512 is there.
        return unsafe { x86::decode_0(src, dst) };
    }
    decode_blocks!(SET, src, dst, |block: BYTES_0, [d] => 1, out: LEN| {
        for j in 0..16 {
            let byte = block[2 + j];
            out[j] = (i32::from(byte & 15) - 8) as f32 * d;
            out[j + 16] = (i32::from(byte >> 4) - 8) as f32 * d;
        }
    });
}

/// For the instruction set `SET` of the caller.
#[inline(always)]
pub(super) fn decode_1<const SET: u8>(src: &[u8], dst: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if SET == AVX512 {
        // SAFETY: AVX-512 is there.
        return unsafe { x86::decode_1(src, dst) };
    }
    decode_blocks!(SET, src, dst, |block: BYTES_1, [d, m] => 2, out: LEN| {
        for j in 0..16 {
            let byte = block[4 + j];
            out[j] = f32::from(byte & 15) * d + m;
            out[j + 16] = f32::from(byte >> 4) * d + m;
        }
    });
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{BYTES_0, BYTES_1, LEN};
    use crate::quant::blocks::decode_blocks;
    use crate::quant::{AVX512, lookup};

    /// The codes of a block, which are its last sixteen bytes.
    #[inline(always)]
    unsafe fn values(block: &[u8], table: __m512, out: &mut [f32; LEN]) {
        let codes = block.last_chunk().expect("sixteen bytes of codes");
        let [low, high] = out.as_chunks_mut().0 else { unreachable!("two halves") };
        // SAFETY: AVX-512 is there, by the caller.
        unsafe { lookup::halves(codes, [table, table], low, high) }
    }

    const SET: u8 = AVX512;

    #[inline(always)]
    pub(super) unsafe fn decode_0(src: &[u8], dst: &mut [f32]) {
        // SAFETY: AVX-512 is there, by the caller.
        unsafe {
            let codes = _mm512_sub_ps(lookup::codes(), _mm512_set1_ps(8.0));
            decode_blocks!(SET, src, dst, |block: BYTES_0, [d] => 1, out: LEN| {
                values(block, _mm512_mul_ps(codes, _mm512_set1_ps(d)), out);
            });
        }
    }

    #[inline(always)]
    pub(super) unsafe fn decode_1(src: &[u8], dst: &mut [f32]) {
        // SAFETY: AVX-512 is there, by the caller.
        unsafe {
            let codes = lookup::codes();
            decode_blocks!(SET, src, dst, |block: BYTES_1, [d, m] => 2, out: LEN| {
                values(block, lookup::affine(codes, d, m), out);
            });
        }
    }
}

/// Two codes a byte.
#[inline(always)]
pub(super) fn pack(codes: &[u8; LEN], bytes: &mut [u8]) {
    for (j, byte) in bytes.iter_mut().enumerate() {
        *byte = codes[j] & 15 | codes[j + 16] << 4;
    }
}

/// The value of largest magnitude has code 0, so that one of the other sign may be cut off by a step.
#[inline(always)]
pub(super) fn encode_0(values: &[f32; LEN], block: &mut [u8; BYTES_0]) -> bool {
    let d = blocks::first_largest(values).1 / -8.0;
    pack(&blocks::codes(values, 0.0, d, 8.5, 15), &mut block[2..]);
    write_scale(d, &mut block[..2])
}

/// The smallest value has code 0, the largest code 15.
#[inline(always)]
pub(super) fn encode_1(values: &[f32; LEN], block: &mut [u8; BYTES_1]) -> bool {
    let (low, high) = blocks::bounds(values);
    let d = (high - low) / 15.0;
    pack(&blocks::codes(values, low, d, 0.5, 15), &mut block[4..]);
    write_scale(d, &mut block[..2]) & write_scale(low, &mut block[2..4])
}
