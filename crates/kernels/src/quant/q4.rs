//! GGUF Q4_0 and Q4_1: blocks of 32 values in 4 bits with one f16 scale, and for Q4_1 one f16 minimum.
//!
//! Byte `j` holds value `j` in its low half and value `j + 16` in its high half.
//! Q4_0 (18 bytes): `x = d (q - 8)`. Q4_1 (20 bytes): `x = d q + m`. Source: ggml `block_q4_0`, `block_q4_1`.
//! Encoding gives the bytes of ggml `quantize_row_q4_0_ref` and `quantize_row_q4_1_ref`.

use super::blocks::{self, decode_blocks};
use super::float::write_scale;
#[cfg(target_arch = "x86_64")]
use super::registers::{Reader, Registers};

pub(super) const LEN: usize = 32;
pub(super) const BYTES_0: usize = 18;
pub(super) const BYTES_1: usize = 20;

#[inline(always)]
pub(super) fn decode_0(src: &[u8], dst: &mut [f32]) {
    decode_blocks!(src, dst, |block: BYTES_0, [d] => 1, out: LEN| {
        for j in 0..16 {
            let byte = block[2 + j];
            out[j] = (i32::from(byte & 15) - 8) as f32 * d;
            out[j + 16] = (i32::from(byte >> 4) - 8) as f32 * d;
        }
    });
}

#[inline(always)]
pub(super) fn decode_1(src: &[u8], dst: &mut [f32]) {
    decode_blocks!(src, dst, |block: BYTES_1, [d, m] => 2, out: LEN| {
        for j in 0..16 {
            let byte = block[4 + j];
            out[j] = f32::from(byte & 15) * d + m;
            out[j + 16] = f32::from(byte >> 4) * d + m;
        }
    });
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

/// Register `part` of codes whose `HALF` lower halves of bytes come before the upper ones; the lower four bits of a lane count.
///
/// # Safety
/// The processor has the instruction set, and the bytes are there.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn nibbles<R: Registers, const HALF: usize>(bytes: *const u8, part: usize) -> R::I {
    let at = part * R::LANES;
    // SAFETY: by the caller.
    unsafe {
        let bytes = R::bytes(bytes.add(at % HALF));
        if at < HALF { bytes } else { R::upper_halves(bytes) }
    }
}

/// Q4_0.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Q4_0;

#[cfg(target_arch = "x86_64")]
impl<R: Registers> Reader<R> for Q4_0 {
    const LEN: usize = LEN;
    const BYTES: usize = BYTES_0;
    const SCALES: usize = 1;
    const IN_PLACE: bool = true;
    type Shared = R::Centred;

    #[inline(always)]
    unsafe fn shared(_: *const u8, d: *const f32, _: usize) -> R::Centred {
        // SAFETY: by the caller.
        unsafe { R::centred(R::splat(d)) }
    }
    #[inline(always)]
    unsafe fn shared_in_place(block: *const u8, _: *const f32, _: usize) -> R::Centred {
        // SAFETY: by the caller.
        unsafe { R::centred(R::two_f16(block)[0]) }
    }
    #[inline(always)]
    unsafe fn values(block: *const u8, _: *const f32, _: usize, values: R::Centred, part: usize) -> R::V {
        // SAFETY: by the caller.
        unsafe { R::of_centred(nibbles::<R, 16>(block.add(2), part), values) }
    }
}

/// Q4_1.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Q4_1;

#[cfg(target_arch = "x86_64")]
impl<R: Registers> Reader<R> for Q4_1 {
    const LEN: usize = LEN;
    const BYTES: usize = BYTES_1;
    const SCALES: usize = 2;
    const IN_PLACE: bool = true;
    type Shared = R::Affine;

    #[inline(always)]
    unsafe fn shared(_: *const u8, scales: *const f32, _: usize) -> R::Affine {
        // SAFETY: by the caller.
        unsafe { R::affine(R::splat(scales), R::splat(scales.add(1))) }
    }
    #[inline(always)]
    unsafe fn shared_in_place(block: *const u8, _: *const f32, _: usize) -> R::Affine {
        // SAFETY: by the caller.
        unsafe {
            let [d, m] = R::two_f16(block);
            R::affine(d, m)
        }
    }
    #[inline(always)]
    unsafe fn values(block: *const u8, _: *const f32, _: usize, values: R::Affine, part: usize) -> R::V {
        // SAFETY: by the caller.
        unsafe { R::of_affine(nibbles::<R, 16>(block.add(4), part), values) }
    }
}
