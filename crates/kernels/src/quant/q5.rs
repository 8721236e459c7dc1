//! GGUF Q5_0 and Q5_1: as Q4_0 and Q4_1 with a fifth bit a value, kept in a 32-bit mask.
//!
//! Bit `j` of the mask is the high bit of value `j`. Q5_0 (22 bytes): `x = d (q - 16)`.
//! Q5_1 (24 bytes): `x = d q + m`. Source: ggml `block_q5_0`, `block_q5_1`.
//! Encoding gives the bytes of ggml `quantize_row_q5_0_ref` and `quantize_row_q5_1_ref`.

use super::blocks::{self, decode_blocks};
use super::float::write_scale;
use super::q4;
#[cfg(target_arch = "x86_64")]
use super::registers::{Reader, Registers};

pub(super) const LEN: usize = 32;
pub(super) const BYTES_0: usize = 22;
pub(super) const BYTES_1: usize = 24;

/// The 5-bit codes of a block, from its mask and its halves.
#[inline(always)]
fn codes(mask: &[u8], halves: &[u8]) -> [i32; LEN] {
    let mask = u32::from_le_bytes([mask[0], mask[1], mask[2], mask[3]]);
    let mut codes = [0; LEN];
    for j in 0..16 {
        codes[j] = i32::from(halves[j] & 15) | ((mask >> j & 1) as i32 * 16);
        codes[j + 16] = i32::from(halves[j] >> 4) | ((mask >> (j + 16) & 1) as i32 * 16);
    }
    codes
}

#[inline(always)]
pub(super) fn decode_0(src: &[u8], dst: &mut [f32]) {
    decode_blocks!(src, dst, |block: BYTES_0, [d] => 1, out: LEN| {
        let codes = codes(&block[2..6], &block[6..22]);
        for j in 0..LEN {
            out[j] = (codes[j] - 16) as f32 * d;
        }
    });
}

#[inline(always)]
pub(super) fn decode_1(src: &[u8], dst: &mut [f32]) {
    decode_blocks!(src, dst, |block: BYTES_1, [d, m] => 2, out: LEN| {
        let codes = codes(&block[4..8], &block[8..24]);
        for j in 0..LEN {
            out[j] = codes[j] as f32 * d + m;
        }
    });
}

/// The mask of the fifth bits, and the halves.
#[inline(always)]
fn pack(codes: &[u8; LEN], bytes: &mut [u8]) {
    let mut mask = 0u32;
    for (j, code) in codes.iter().enumerate() {
        mask |= u32::from(code >> 4 & 1) << j;
    }
    bytes[..4].copy_from_slice(&mask.to_le_bytes());
    q4::pack(codes, &mut bytes[4..]);
}

/// The value of largest magnitude has code 0, so that one of the other sign may be cut off by a step.
#[inline(always)]
pub(super) fn encode_0(values: &[f32; LEN], block: &mut [u8; BYTES_0]) -> bool {
    let d = blocks::first_largest(values).1 / -16.0;
    pack(&blocks::codes(values, 0.0, d, 16.5, 31), &mut block[2..]);
    write_scale(d, &mut block[..2])
}

/// The smallest value has code 0, the largest code 31.
#[inline(always)]
pub(super) fn encode_1(values: &[f32; LEN], block: &mut [u8; BYTES_1]) -> bool {
    let (low, high) = blocks::bounds(values);
    let d = (high - low) / 31.0;
    pack(&blocks::codes(values, low, d, 0.5, 31), &mut block[4..]);
    write_scale(d, &mut block[..2]) & write_scale(low, &mut block[2..4])
}

/// Register `part` of the codes of a block, from its mask and, behind it, its halves.
///
/// # Safety
/// The processor has the instruction set, and the bytes are there.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn codes_in_register<R: Registers>(mask: *const u8, part: usize) -> R::I {
    // SAFETY: by the caller.
    unsafe {
        let halves = R::and(q4::nibbles::<R, 16>(mask.add(4), part), R::integer(15));
        R::or_where(halves, mask.add(part * R::LANES / 8), 16)
    }
}

/// Q5_0.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Q5_0;

#[cfg(target_arch = "x86_64")]
impl<R: Registers> Reader<R> for Q5_0 {
    const LEN: usize = LEN;
    const BYTES: usize = BYTES_0;
    const SCALES: usize = 1;
    const IN_PLACE: bool = true;
    type Shared = R::V;

    #[inline(always)]
    unsafe fn shared(_: *const u8, d: *const f32, _: usize) -> R::V {
        // SAFETY: by the caller.
        unsafe { R::splat(d) }
    }
    #[inline(always)]
    unsafe fn shared_in_place(block: *const u8, _: *const f32, _: usize) -> R::V {
        // SAFETY: by the caller.
        unsafe { R::two_f16(block)[0] }
    }
    #[inline(always)]
    unsafe fn values(block: *const u8, _: *const f32, _: usize, d: R::V, part: usize) -> R::V {
        // SAFETY: by the caller.
        unsafe { R::mul(R::floats(R::sub(codes_in_register::<R>(block.add(2), part), R::integer(16))), d) }
    }
}

/// Q5_1.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Q5_1;

#[cfg(target_arch = "x86_64")]
impl<R: Registers> Reader<R> for Q5_1 {
    const LEN: usize = LEN;
    const BYTES: usize = BYTES_1;
    const SCALES: usize = 2;
    const IN_PLACE: bool = true;
    type Shared = [R::V; 2];

    #[inline(always)]
    unsafe fn shared(_: *const u8, scales: *const f32, _: usize) -> [R::V; 2] {
        // SAFETY: by the caller.
        unsafe { [R::splat(scales), R::splat(scales.add(1))] }
    }
    #[inline(always)]
    unsafe fn shared_in_place(block: *const u8, _: *const f32, _: usize) -> [R::V; 2] {
        // SAFETY: by the caller.
        unsafe { R::two_f16(block) }
    }
    #[inline(always)]
    unsafe fn values(block: *const u8, _: *const f32, _: usize, [d, m]: [R::V; 2], part: usize) -> R::V {
        // SAFETY: by the caller.
        unsafe { R::scaled(codes_in_register::<R>(block.add(4), part), d, m) }
    }
}
