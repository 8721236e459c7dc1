//! Plain floating-point storage, little-endian: F32, F16, BF16.

#[cfg(target_arch = "x86_64")]
use super::registers::{Reader, Registers};
use super::{LINE_BYTES, ask_ahead};

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
    for (bytes, values) in src.chunks(LINE_BYTES).zip(dst.chunks_mut(LINE_BYTES / 2)) {
        ask_ahead(bytes);
        for (bytes, value) in bytes.as_chunks::<2>().0.iter().zip(values) {
            *value = f16_to_f32(*bytes);
        }
    }
}

/// `src` is 2 bytes a value; bfloat16 is the upper half of an f32.
#[inline(always)]
pub(super) fn decode_bf16(src: &[u8], dst: &mut [f32]) {
    let value = |bytes: [u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16);
    let (lines, rest) = src.as_chunks::<LINE_BYTES>();
    let (values_of_lines, values_of_rest) = dst.as_chunks_mut::<{ LINE_BYTES / 2 }>();
    for (bytes, values) in lines.iter().zip(values_of_lines) {
        ask_ahead(bytes);
        for (bytes, to) in bytes.as_chunks::<2>().0.iter().zip(values) {
            *to = value(*bytes);
        }
    }
    for (bytes, to) in rest.as_chunks::<2>().0.iter().zip(values_of_rest) {
        *to = value(*bytes);
    }
}

/// `dst` is 4 bytes a value.
#[inline(always)]
pub(super) fn encode_f32(src: &[f32], dst: &mut [u8]) -> Result<(), usize> {
    for (value, bytes) in src.iter().zip(dst.as_chunks_mut::<4>().0) {
        *bytes = value.to_le_bytes();
    }
    Ok(())
}

/// `dst` is 2 bytes a value.
///
/// # Errors
/// The place of the first finite value that rounds to infinity.
#[inline(always)]
pub(super) fn encode_f16(src: &[f32], dst: &mut [u8]) -> Result<(), usize> {
    for (value, bytes) in src.iter().zip(dst.as_chunks_mut::<2>().0) {
        *bytes = f32_to_f16(*value).to_le_bytes();
    }
    first_overflow(src, 65_520.0)
}

/// `dst` is 2 bytes a value.
///
/// # Errors
/// The place of the first finite value that rounds to infinity.
#[inline(always)]
pub(super) fn encode_bf16(src: &[f32], dst: &mut [u8]) -> Result<(), usize> {
    for (value, bytes) in src.iter().zip(dst.as_chunks_mut::<2>().0) {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        // A NaN keeps its upper bits and becomes quiet: rounding could carry into its sign.
        let nan = bits >> 16 | 0x40;
        *bytes = (if value.is_nan() { nan } else { rounded } as u16).to_le_bytes();
    }
    first_overflow(src, f32::from_bits(0x7f7f_8000))
}

/// The place of the first finite value of at least `limit`, if there is one.
#[inline(always)]
fn first_overflow(src: &[f32], limit: f32) -> Result<(), usize> {
    let overflows = |v: &f32| v.abs() >= limit && v.abs() < f32::INFINITY;
    if !src.iter().fold(false, |any, v| any | overflows(v)) {
        return Ok(());
    }
    src.iter().position(overflows).map_or(Ok(()), Err)
}

/// The bits of the IEEE binary16 nearest to a value, the even one of two, without branches. From 65,520 on it is
/// infinite; a NaN keeps its upper bits and becomes quiet.
#[inline(always)]
pub(super) fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let (sign, magnitude) = (bits >> 16 & 0x8000, bits & 0x7fff_ffff);
    // The exponent of an f16 is 112 less, its fraction 13 bits shorter.
    let normal = (magnitude.wrapping_add(0xfff + (magnitude >> 13 & 1)).wrapping_sub(112 << 23)) >> 13;
    // Neighbouring f32 from 0.5 on are as far from each other as subnormal f16, so the sum rounds to one.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let nan = 0x7e00 | magnitude >> 13 & 0x3ff;
    let rounded = if magnitude < 113 << 23 { subnormal } else { normal.min(0x7c00) };
    (sign | if magnitude > 0x7f80_0000 { nan } else { rounded }) as u16
}

/// Writes a scale as f16; whether it is finite there.
#[inline(always)]
pub(super) fn write_scale(scale: f32, bytes: &mut [u8]) -> bool {
    let bits = f32_to_f16(scale);
    bytes.copy_from_slice(&bits.to_le_bytes());
    bits & 0x7c00 != 0x7c00
}

/// The value of an IEEE binary16, without branches, so that loops over it vectorise.
///
/// Exponent and fraction move to their place in an f32, whose exponent is then 112 too small; multiplying by
/// 2^112 mends that for normal and subnormal values alike.
#[inline(always)]
pub(crate) fn f16_to_f32(bytes: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(bytes));
    let scaled = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let infinite = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(scaled.to_bits() | infinite | (bits & 0x8000) << 16)
}

/// Values of 16 bits: IEEE binary16, or bfloat16. A block of them is what lies in a line of memory.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Float16<const BFLOAT: bool>;

#[cfg(target_arch = "x86_64")]
impl<R: Registers, const BFLOAT: bool> Reader<R> for Float16<BFLOAT> {
    const LEN: usize = LINE_BYTES / 2;
    const BYTES: usize = LINE_BYTES;
    type Shared = ();

    #[inline(always)]
    unsafe fn shared(_: *const u8, _: *const f32, _: usize) {}
    #[inline(always)]
    unsafe fn values(block: *const u8, _: *const f32, _: usize, (): (), part: usize) -> R::V {
        // SAFETY: by the caller.
        unsafe {
            let from = block.add(2 * part * R::LANES);
            if BFLOAT { R::bf16(from) } else { R::f16(from) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every f16, what lies halfway to the next, and the f32 just beside that.
    #[test]
    fn f32_rounds_to_the_nearest_f16() {
        for bits in 0..=u16::MAX {
            let value = half::f16::from_bits(bits).to_f32();
            let next = half::f16::from_bits(bits.wrapping_add(1)).to_f32();
            let halfway = if next.is_finite() { (value + next) / 2.0 } else { value.signum() * 65_520.0 };
            for tried in [value, halfway, halfway.next_up(), halfway.next_down()] {
                let (found, expected) = (f32_to_f16(tried), half::f16::from_f32(tried).to_bits());
                // The quiet bit and the sign of a NaN; its payload may differ.
                let same = found == expected || tried.is_nan() && (found ^ expected) & 0xfe00 == 0;
                assert!(same, "{tried:e}: {found:#x}, expected {expected:#x}");
            }
        }
        for value in [f32::MAX, f32::MIN_POSITIVE, 1e-45, 2f32.powi(-25), 2f32.powi(-25).next_up(), 1e30] {
            assert_eq!(f32_to_f16(-value), half::f16::from_f32(-value).to_bits(), "{value:e}");
        }
    }

    #[test]
    fn every_f16_has_its_value() {
        for bits in 0..=u16::MAX {
            let (found, expected) = (f16_to_f32(bits.to_le_bytes()), half::f16::from_bits(bits).to_f32());
            assert!(
                found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
                "{bits:#06x}"
            );
        }
    }
}
