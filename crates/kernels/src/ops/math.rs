//! Scalar functions written so that the compiler vectorises loops over them.

/// e^x, within 2 units in the last place for x in [-87, 88]; 0 below, the value at 88 above.
///
/// Range reduction by powers of two and a polynomial of degree 7 (the coefficients of Cephes `expf`),
/// without branches.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    /// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.0);
    let n = (clamped * LOG2_E + ROUND) - ROUND;
    // ln 2 in two parts, so that the difference is exact to the last bit.
    let r = clamped - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5.0e-1;
    let value = p * r * r + r + 1.0;
    // SAFETY of the cast: n is an integer in [-126, 127].
    let power = f32::from_bits(((n as i32 + 127) as u32) << 23);
    if x < -87.0 { 0.0 } else { value * power }
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The sum of `value(i)` for `i` in `0..len`, in 16 lanes added at the end: vectorises, in a fixed order.
#[inline(always)]
pub(crate) fn sum(len: usize, value: impl Fn(usize) -> f32) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [0.0f32; LANES];
    let whole = len / LANES * LANES;
    for i in (0..whole).step_by(LANES) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += value(i + lane);
        }
    }
    let mut total = 0.0;
    for i in whole..len {
        total += value(i);
    }
    lanes.iter().sum::<f32>() + total
}

/// The largest of `values`; minus infinity for none.
#[inline(always)]
pub(crate) fn max(values: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for (max, value) in lanes.iter_mut().zip(block) {
            *max = if *value > *max { *value } else { *max };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

/// `x` rounded to the nearest bf16, to even where two are; what is not a number stays so. Without a branch, so that loops
/// over it vectorise.
#[inline(always)]
pub(crate) fn rounded_to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let bits = if x.is_nan() { bits | 0x0040_0000 } else { rounded };
    f32::from_bits(bits & 0xffff_0000)
}

#[cfg(test)]
mod tests {
    #[test]
    fn exp_is_within_two_ulp_over_its_range() {
        let mut x = -87.0f32;
        while x < 88.0 {
            let expected = f64::from(x).exp();
            let error = (f64::from(super::exp(x)) - expected).abs() / expected;
            assert!(error <= 2.0 * f64::from(f32::EPSILON), "exp({x}): relative error {error:e}");
            x += 0.001_37;
        }
        assert_eq!(super::exp(0.0), 1.0);
        assert_eq!(super::exp(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn exp_of_nan_is_nan() {
        assert!(super::exp(f32::NAN).is_nan());
    }
}
