//! GGUF Q8_0: blocks of 32 signed bytes with one f16 scale, `x = d q` (34 bytes). Source: ggml `block_q8_0`.

use super::float::f16_to_f32;

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
