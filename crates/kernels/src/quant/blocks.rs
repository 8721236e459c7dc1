//! What the decoders and encoders of blocks share.

#[cfg(target_arch = "x86_64")]
use super::AVX2;
use super::float::f16_to_f32;

/// Encodes block after block by `$encode`, which says whether the scales it wrote are finite, and is given finite values
/// alone. The error is the place in `$src` of the first value that is not finite, or of the largest of a block whose
/// scale is not.
///
/// A macro, since a function handed to another as an argument is not compiled for the caller's instruction set.
macro_rules! encode_blocks {
    ($src:expr, $dst:expr, $encode:path) => {{
        let mut result = Ok(());
        for (b, (values, block)) in $src.as_chunks().0.iter().zip($dst.as_chunks_mut().0).enumerate() {
            if let Some(at) = $crate::quant::blocks::first_not_finite(values) {
                result = Err(b * values.len() + at);
                break;
            }
            if !$encode(values, block) {
                result = Err(b * values.len() + $crate::quant::blocks::first_largest(values).0);
                break;
            }
        }
        result
    }};
}
pub(super) use encode_blocks;

/// Decodes block after block of `$src` to `$dst`, compiled for the instruction set `$set`: `$body` is given a block, the f16 scales
/// that lie in its first bytes, and where its values go.
///
/// A macro for the reason that [`encode_blocks`] is one.
macro_rules! decode_blocks {
    ($set:ident, $src:expr, $dst:expr, |$block:ident: $bytes:ident, $scales:pat => $count:literal, $out:ident: $len:ident| $body:block) => {{
        use $crate::quant::ask_ahead;
        use $crate::quant::blocks::{TOGETHER, leading_scales};
        let (blocks, values) = ($src.as_chunks::<{ $bytes }>().0, $dst.as_chunks_mut::<{ $len }>().0);
        let mut scales = [[0.0; $count]; TOGETHER];
        for (blocks, values) in blocks.chunks(TOGETHER).zip(values.chunks_mut(TOGETHER)) {
            leading_scales::<$set, { $bytes }, $count>(blocks, &mut scales);
            for (b, ($block, $out)) in blocks.iter().zip(values).enumerate() {
                ask_ahead($block);
                let $scales = scales[b];
                $body
            }
        }
    }};
}
pub(super) use decode_blocks;

/// Blocks whose scales are decoded together: enough that the compiler keeps them in memory, from where a scale comes into all
/// lanes of a register at no cost.
pub(super) const TOGETHER: usize = 32;

/// The f16 scales in the first `2 * SCALES` bytes of up to [`TOGETHER`] blocks.
#[inline(always)]
pub(super) fn leading_scales<const SET: u8, const BYTES: usize, const SCALES: usize>(
    blocks: &[[u8; BYTES]],
    scales: &mut [[f32; SCALES]; TOGETHER],
) {
    for (blocks, scales) in blocks.chunks(8).zip(scales.as_chunks_mut::<8>().0) {
        let last = blocks.len() - 1;
        let leading = |b: usize, s: usize| {
            let block = &blocks[b.min(last)];
            [block[2 * s], block[2 * s + 1]]
        };
        #[cfg(target_arch = "x86_64")]
        if SET >= AVX2 {
            // SAFETY: AVX2 and F16C are there, by the caller.
            unsafe { x86::scales_of_8(leading, scales) };
            continue;
        }
        for (b, scales) in scales.iter_mut().enumerate() {
            for (s, scale) in scales.iter_mut().enumerate() {
                *scale = f16_to_f32(leading(b, s));
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// `scales[b][s] = leading(b, s)`, for one or two scales. Bytes are put together in registers: in memory, they could be read as
    /// one only after the values of the blocks before have been written.
    #[inline(always)]
    pub(super) unsafe fn scales_of_8<const SCALES: usize>(
        leading: impl Fn(usize, usize) -> [u8; 2],
        scales: &mut [[f32; SCALES]; 8],
    ) {
        let half = |b: usize| i16::from_le_bytes(leading(b, 0));
        let two = |b: usize| {
            let ([low, high], [next_low, next_high]) = (leading(b, 0), leading(b, SCALES - 1));
            i32::from_le_bytes([low, high, next_low, next_high])
        };
        // SAFETY: AVX2 and F16C are there, by the caller; eight values are written to each part.
        unsafe {
            for (part, scales) in scales.as_flattened_mut().as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let halves = match SCALES {
                    1 => {
                        _mm_setr_epi16(half(0), half(1), half(2), half(3), half(4), half(5), half(6), half(7))
                    }
                    _ => {
                        _mm_setr_epi32(two(4 * part), two(4 * part + 1), two(4 * part + 2), two(4 * part + 3))
                    }
                };
                _mm256_storeu_ps(scales.as_mut_ptr(), _mm256_cvtph_ps(halves));
            }
        }
    }
}

#[inline(always)]
pub(super) fn first_not_finite<const LEN: usize>(values: &[f32; LEN]) -> Option<usize> {
    // Without a branch a value, so that the compiler vectorises it.
    match values.iter().fold(true, |fine, v| fine & (v.abs() < f32::INFINITY)) {
        true => None,
        false => values.iter().position(|v| !v.is_finite()),
    }
}

/// The larger of two values that are numbers, as one instruction.
#[inline(always)]
pub(super) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The smaller of two values that are numbers, as one instruction.
#[inline(always)]
pub(super) fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// The largest magnitude, in lanes: maxima do not depend on their order.
#[inline(always)]
pub(super) fn largest_magnitude<const LEN: usize>(values: &[f32; LEN]) -> f32 {
    let mut lanes = [0.0f32; 16];
    for part in values.as_chunks::<16>().0 {
        for (lane, v) in lanes.iter_mut().zip(part) {
            *lane = larger(v.abs(), *lane);
        }
    }
    lanes.into_iter().fold(0.0, larger)
}

/// Place and value of the first of the values of largest magnitude; the value is not the negative zero.
#[inline(always)]
pub(super) fn first_largest<const LEN: usize>(values: &[f32; LEN]) -> (usize, f32) {
    let largest = largest_magnitude(values);
    let at = values.iter().position(|v| v.abs() == largest).unwrap_or(0);
    (at, values[at] + 0.0)
}

/// The smallest and the largest value. A zero has the sign of the first zero, as if the values were compared in turn.
#[inline(always)]
pub(super) fn bounds<const LEN: usize>(values: &[f32; LEN]) -> (f32, f32) {
    let (mut low, mut high) = ([f32::INFINITY; 16], [f32::NEG_INFINITY; 16]);
    for part in values.as_chunks::<16>().0 {
        for lane in 0..16 {
            low[lane] = smaller(part[lane], low[lane]);
            high[lane] = larger(part[lane], high[lane]);
        }
    }
    let (low, high) = (low.into_iter().fold(low[0], smaller), high.into_iter().fold(high[0], larger));
    let first = |bound: f32| match bound == 0.0 {
        true => values.iter().copied().find(|v| *v == 0.0).unwrap_or(bound),
        false => bound,
    };
    (first(low), first(high))
}

/// Codes `0..=top` of `values` by the scale `d` over `low`: `(x - low) / d + half` without its fraction, the quotient
/// as a product with the inverse. A scale of zero has codes of `half`. That of a scale so small that its inverse is
/// infinite is undefined in ggml; the code is then zero, as it is where ggml is compiled for x86.
#[inline(always)]
pub(super) fn codes<const LEN: usize>(
    values: &[f32; LEN],
    low: f32,
    d: f32,
    half: f32,
    top: i32,
) -> [u8; LEN] {
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    if inverse.is_infinite() {
        return [0; LEN];
    }
    let mut codes = [0; LEN];
    for (code, v) in codes.iter_mut().zip(values) {
        *code = (((v - low) * inverse + half) as i32).min(top) as u8;
    }
    codes
}
