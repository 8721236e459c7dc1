//! GGUF Q8_0: blocks of 32 signed bytes with one f16 scale, `x = d q` (34 bytes). Source: ggml `block_q8_0`.
//! Encoding gives the bytes of ggml `quantize_row_q8_0_ref`.

use super::blocks::{self, decode_blocks};
use super::float::write_scale;

pub(super) const LEN: usize = 32;
pub(super) const BYTES: usize = 34;

/// For the instruction set `SET` of the caller.
#[inline(always)]
pub(super) fn decode<const SET: u8>(src: &[u8], dst: &mut [f32]) {
    decode_blocks!(SET, src, dst, |block: BYTES, [d] => 1, out: LEN| {
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
