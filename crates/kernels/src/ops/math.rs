//! Scalar functions written so that the compiler vectorises loops over them.

/// `a * b + c`, in one rounding where the instruction set of the caller has that (`FUSED`; without it, the call of a
/// function that imitates it would be far slower than both operations).
#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// e^x, within 2 units in the last place for x in [-87, 88]; 0 below, the value at 88 above. For `FUSED` see
/// [`multiply_add`].
///
/// Range reduction by powers of two and a polynomial of degree 7 (the coefficients of Cephes `expf`),
/// without branches.
#[inline(always)]
pub(crate) fn exp<const FUSED: bool>(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    /// Adding 1.5 * 2^23 rounds to the nearest integer, which is then in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let madd = multiply_add::<FUSED>;
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = madd(clamped, LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts, so that the difference is exact to the last bit.
    let r = madd(n, 2.121_944_4e-4, madd(n, -0.693_359_4, clamped));
    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.0e-1] {
        p = madd(p, r, coefficient);
    }
    let value = madd(p, r * r, r) + 1.0;
    // 2^n, n in [-126, 127]: what lies above the exponent is shifted out.
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x < -87.0 { 0.0 } else { value * power }
}

/// 1 / (1 + e^-x); for `FUSED` see [`exp`].
#[inline(always)]
pub(crate) fn sigmoid<const FUSED: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FUSED>(-x))
}

/// tanh x, within 3 units in the last place; for `FUSED` see [`exp`].
///
/// A polynomial below 0.625 (the coefficients of Cephes `tanhf`), which keeps what is near zero exact, and
/// `1 - 2 / (1 + e^2x)` above.
#[inline(always)]
pub(crate) fn tanh<const FUSED: bool>(x: f32) -> f32 {
    let madd = multiply_add::<FUSED>;
    let (size, square) = (x.abs(), x * x);
    let mut p = -5.704_988_7e-3;
    for coefficient in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = madd(p, square, coefficient);
    }
    let near = madd(p * square, x, x);
    let far = (1.0 - 2.0 / (1.0 + exp::<FUSED>(2.0 * size))).copysign(x);
    if size < 0.625 { near } else { far }
}

/// `(1 + erf(x / sqrt(2))) / 2`, the share of a standard normal distribution below `x`, within 1.4e-7; and the density at
/// `x`. For `FUSED` see [`exp`].
///
/// With `z = |x| / sqrt(2)`: below 1 erf is `z` times a polynomial in `z^2`; above, its complement is `e^(-z^2) t` times a
/// polynomial in `t = 1 / (1 + z / 2)`. Both are Chebyshev fits of our own.
#[inline(always)]
pub(crate) fn normal_distribution<const FUSED: bool>(x: f32) -> (f32, f32) {
    const NEAR: [f32; 7] = [
        7.882_497_5e-5,
        -8.018_855e-4,
        5.189_312e-3,
        -2.685_432_9e-2,
        0.112_835_97,
        -0.376_126_26,
        std::f32::consts::FRAC_2_SQRT_PI,
    ];
    const FAR: [f32; 10] = [
        -0.079_875_53,
        0.257_718_03,
        -0.256_064_1,
        0.031_068_17,
        -0.027_517_783,
        0.087_447_79,
        0.175_966_52,
        0.246_849_2,
        0.282_094_48,
        0.282_094_8,
    ];
    let polynomial = |coefficients: &[f32], at: f32| {
        coefficients.iter().fold(0.0, |sum, c| multiply_add::<FUSED>(sum, at, *c))
    };
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let bell = exp::<FUSED>(-0.5 * x * x);
    let t = 1.0 / (1.0 + 0.5 * z);
    let tail = 0.5 * bell * t * polynomial(&FAR, t);
    let near = 0.5 + 0.5 * z.copysign(x) * polynomial(&NEAR, z * z);
    let far = if x < 0.0 { tail } else { 1.0 - tail };
    (if z < 1.0 { near } else { far }, bell * 0.398_942_3)
}

/// Folds 16 lanes into one by halves, which is one operation of a register each.
#[inline(always)]
fn fold(mut lanes: [f32; 16], combine: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] = combine(lanes[lane], lanes[lane + half]);
        }
    }
    lanes[0]
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
    fold(lanes, |a, b| a + b) + total
}

/// Overwrites each of `values` with `map` of it; gives their sum, as [`sum`].
#[inline(always)]
pub(crate) fn sum_of_mapped(values: &mut [f32], map: impl Fn(f32) -> f32) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [0.0f32; LANES];
    let (blocks, rest) = values.as_chunks_mut::<LANES>();
    for block in blocks {
        for (value, sum) in block.iter_mut().zip(&mut lanes) {
            *value = map(*value);
            *sum += *value;
        }
    }
    let mut total = 0.0;
    for value in rest {
        *value = map(*value);
        total += *value;
    }
    fold(lanes, |a, b| a + b) + total
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
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    rest.iter().copied().fold(fold(lanes, larger), larger)
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
    use super::{exp, tanh};

    #[test]
    fn exp_is_within_two_ulp_over_its_range() {
        for exp in [exp::<false>, exp::<true>] {
            let mut x = -87.0f32;
            while x < 88.0 {
                let expected = f64::from(x).exp();
                let error = (f64::from(exp(x)) - expected).abs() / expected;
                assert!(error <= 2.0 * f64::from(f32::EPSILON), "exp({x}): relative error {error:e}");
                x += 0.001_37;
            }
            assert_eq!(exp(0.0), 1.0);
            assert_eq!(exp(-87.1), 0.0);
            assert_eq!(exp(f32::NEG_INFINITY), 0.0);
            assert_eq!(exp(f32::INFINITY), exp(88.0));
        }
    }

    #[test]
    fn tanh_is_within_three_ulp_and_odd() {
        for tanh in [tanh::<false>, tanh::<true>] {
            let mut x = 1e-6f32;
            while x < 100.0 {
                let expected = f64::from(x).tanh();
                let error = (f64::from(tanh(x)) - expected).abs() / expected;
                assert!(error <= 3.0 * f64::from(f32::EPSILON), "tanh({x}): relative error {error:e}");
                assert_eq!(tanh(-x), -tanh(x));
                x *= 1.000_31;
            }
            assert_eq!([tanh(0.0), tanh(f32::INFINITY), tanh(f32::NEG_INFINITY)], [0.0, 1.0, -1.0]);
            assert!(tanh(f32::NAN).is_nan());
        }
    }

    #[test]
    fn exp_of_nan_is_nan() {
        assert!(exp::<false>(f32::NAN).is_nan());
        assert!(exp::<true>(f32::NAN).is_nan());
    }
}
