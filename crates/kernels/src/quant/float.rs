//! Plain floating-point storage, little-endian: F32, F16, BF16.

/// `src` is 4 bytes a value.
#[inline(always)]
pub(super) fn decode_f32(src: &[u8], dst: &mut [f32]) {
    for (bytes, value) in src.as_chunks::<4>().0.iter().zip(dst) {
        *value = f32::from_le_bytes(*bytes);
    }
}

/// `src` is 2 bytes a value.
#[inline(always)]
pub(super) fn decode_f16(src: &[u8], dst: &mut [f32]) {
    for (bytes, value) in src.as_chunks::<2>().0.iter().zip(dst) {
        *value = f16_to_f32(*bytes);
    }
}

/// `src` is 2 bytes a value; bfloat16 is the upper half of an f32.
#[inline(always)]
pub(super) fn decode_bf16(src: &[u8], dst: &mut [f32]) {
    for (bytes, value) in src.as_chunks::<2>().0.iter().zip(dst) {
        *value = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    }
}

/// The value of an IEEE binary16, without branches, so that loops over it vectorise.
///
/// Exponent and fraction move to their place in an f32, whose exponent is then 112 too small; multiplying by
/// 2^112 mends that for normal and subnormal values alike.
#[inline(always)]
pub(super) fn f16_to_f32(bytes: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(bytes));
    let scaled = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let infinite = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(scaled.to_bits() | infinite | (bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_f16_has_its_value() {
        for bits in 0..=u16::MAX {
            let (found, expected) =
                (super::f16_to_f32(bits.to_le_bytes()), half::f16::from_bits(bits).to_f32());
            assert!(
                found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
                "{bits:#06x}"
            );
        }
    }
}
