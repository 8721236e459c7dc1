//! GGUF Q8_0: blocks of 32 signed bytes with one f16 scale, `x = d q` (34 bytes). Source: ggml `block_q8_0`.
//! Encoding gives the bytes of ggml `quantize_row_q8_0_ref`.

use super::blocks::{self, decode_blocks};
use super::float::write_scale;
#[cfg(target_arch = "x86_64")]
use super::registers::{Reader, Registers};

pub(super) const LEN: usize = 32;
pub(super) const BYTES: usize = 34;

#[inline(always)]
pub(super) fn decode(src: &[u8], dst: &mut [f32]) {
    decode_blocks!(src, dst, |block: BYTES, [d] => 1, out: LEN| {
        for j in 0..LEN {
            out[j] = f32::from(block[2 + j] as i8) * d;
        }
    });
}

/// Codes of -127 to 127; halves round away from zero.
#[inline(always)]
pub(super) fn encode(values: &[f32; LEN], block: &mut [u8; BYTES]) -> bool {
    let d = blocks::largest_magnitude(values) / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    if inverse.is_infinite() {
        // As in `blocks::codes`.
        block[2..].fill(0);
    } else {
        for (byte, v) in block[2..].iter_mut().zip(values) {
            let scaled = v * inverse;
            // The fraction that is cut off is exact, so halves are seen as such.
            let whole = scaled as i32;
            let rest = scaled - whole as f32;
            *byte = (whole + i32::from(rest >= 0.5) - i32::from(rest <= -0.5)) as u8;
        }
    }
    write_scale(d, &mut block[..2])
}

/// Q8_0.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Q8_0;

#[cfg(target_arch = "x86_64")]
impl<R: Registers> Reader<R> for Q8_0 {
    const LEN: usize = LEN;
    const BYTES: usize = BYTES;
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
        unsafe { R::mul(R::floats(R::signed_bytes(block.add(2 + part * R::LANES))), d) }
    }
}
