//! What the decoders and encoders of blocks share.

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

/// Decodes block after block of `$src` to `$dst`: `$body` is given a block, the f16 scales that lie in its first bytes, and where its
/// values go.
///
/// A macro for the reason that [`encode_blocks`] is one.
macro_rules! decode_blocks {
    ($src:expr, $dst:expr, |$block:ident: $bytes:ident, $scales:pat => $count:literal, $out:ident: $len:ident| $body:block) => {{
        let (blocks, values) = ($src.as_chunks::<{ $bytes }>().0, $dst.as_chunks_mut::<{ $len }>().0);
        for ($block, $out) in blocks.iter().zip(values) {
            $crate::quant::ask_ahead($block);
            let $scales: [f32; $count] =
                std::array::from_fn(|s| $crate::quant::f16_to_f32([$block[2 * s], $block[2 * s + 1]]));
            $body
        }
    }};
}
pub(super) use decode_blocks;

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
