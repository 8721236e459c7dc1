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
    use super::exp;

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
    fn exp_of_nan_is_nan() {
        assert!(exp::<false>(f32::NAN).is_nan());
        assert!(exp::<true>(f32::NAN).is_nan());
    }
}
