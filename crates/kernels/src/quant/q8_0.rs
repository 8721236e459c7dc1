//! GGUF Q8_0: blocks of 32 signed bytes with one f16 scale, `x = d q` (34 bytes). Source: ggml `block_q8_0`.
//! Encoding gives the bytes of ggml `quantize_row_q8_0_ref`.

use super::blocks;
use super::float::{f16_to_f32, write_scale};

pub(super) const LEN: usize = 32;
pub(super) const BYTES: usize = 34;

#[inline(always)]
pub(super) fn decode(src: &[u8], dst: &mut [f32]) {
    for (block, out) in src.as_chunks::<BYTES>().0.iter().zip(dst.as_chunks_mut::<LEN>().0) {
        let d = f16_to_f32([block[0], block[1]]);
        for j in 0..LEN {
            out[j] = f32::from(block[2 + j] as i8) * d;
        }
    }
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
