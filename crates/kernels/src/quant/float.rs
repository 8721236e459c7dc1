//! Plain floating-point storage, little-endian: F32, F16, BF16.

use half::f16;

/// `src` is 4 bytes a value.
#[inline(always)]
pub fn decode_f32(src: &[u8], dst: &mut [f32]) {
    for (bytes, value) in src.as_chunks::<4>().0.iter().zip(dst) {
        *value = f32::from_le_bytes(*bytes);
    }
}

/// `src` is 2 bytes a value.
#[inline(always)]
pub fn decode_f16(src: &[u8], dst: &mut [f32]) {
    for (bytes, value) in src.as_chunks::<2>().0.iter().zip(dst) {
        *value = f16::from_le_bytes(*bytes).to_f32();
    }
}

/// `src` is 2 bytes a value; bfloat16 is the upper half of an f32.
#[inline(always)]
pub fn decode_bf16(src: &[u8], dst: &mut [f32]) {
    for (bytes, value) in src.as_chunks::<2>().0.iter().zip(dst) {
        *value = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    }
}
