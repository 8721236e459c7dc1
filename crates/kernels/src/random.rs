//! Random numbers as a function of a seed and a position, so that they need no state, come out the same on
//! any number of threads, and can be made again where they are needed.
//!
//! SplitMix64 (Steele, Lea, Flood 2014): the position is the counter, the seed is mixed in first.

/// The finaliser of SplitMix64: a well-mixed value for every input.
#[inline(always)]
pub fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A value in [0, 1) with 24 random bits for position `index` of the stream `seed`.
#[inline(always)]
pub fn uniform(seed: u64, index: u64) -> f32 {
    (mix(seed ^ mix(index)) >> 40) as f32 * (1.0 / (1u64 << 24) as f32)
}

/// A normally distributed value, mean 0 and standard deviation 1, for position `index` of the stream `seed`, by the
/// transform of Box and Muller (1958). It lies within 5.8 of zero: its chance has 24 bits.
#[inline]
pub fn normal(seed: u64, index: u64) -> f32 {
    let (radius, angle) = (uniform(seed, 2 * index), uniform(seed, 2 * index + 1));
    // 1 - [0, 1) has a logarithm.
    (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f32::consts::TAU * angle).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_variance_and_kurtosis_are_those_of_the_normal_distribution() {
        let n = 100_000u32;
        let moment = |power: i32| {
            (0..n).map(|i| f64::from(normal(3, u64::from(i))).powi(power)).sum::<f64>() / f64::from(n)
        };
        // Five standard errors: those of z, z^2 and z^4 are 1, sqrt(2) and sqrt(96) over sqrt(n).
        let (mean, variance, fourth) = (moment(1), moment(2), moment(4));
        assert!(mean.abs() < 0.016 && (variance - 1.0).abs() < 0.023, "{mean} {variance}");
        assert!((fourth - 3.0).abs() < 0.16, "{fourth}");
    }

    #[test]
    fn mean_and_variance_are_those_of_the_uniform_distribution() {
        let n = 100_000u32;
        let values: Vec<f64> = (0..n).map(|i| f64::from(uniform(3, u64::from(i)))).collect();
        let mean = values.iter().sum::<f64>() / f64::from(n);
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / f64::from(n);
        // Five standard errors.
        assert!((mean - 0.5).abs() < 0.0046 && (variance - 1.0 / 12.0).abs() < 0.0012, "{mean} {variance}");
        assert_ne!(uniform(3, 0), uniform(4, 0));
    }
}
