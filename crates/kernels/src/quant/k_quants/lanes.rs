//! Sixteen values side by side, one of each sub-block, and sums over them that are taken in the same order on every
//! instruction set.

use crate::quant::blocks::{larger, smaller};

/// One value of each sub-block, or of each of two candidates for eight sub-blocks.
pub(super) type Lanes = [f32; 16];

/// Each lane by a function of its number.
#[inline(always)]
pub(super) fn lanes(mut value: impl FnMut(usize) -> f32) -> Lanes {
    let mut all = [0.0; 16];
    for lane in 0..16 {
        all[lane] = value(lane);
    }
    all
}

/// The integer nearest to a value of less than 2^22, the even one of two: f32 have no fraction from 2^23 on.
#[inline(always)]
pub(super) fn round(value: f32) -> f32 {
    const BEYOND_FRACTIONS: f32 = 12_582_912.0;
    (value + BEYOND_FRACTIONS) - BEYOND_FRACTIONS
}

/// The integer of `low..=high` nearest to a value.
#[inline(always)]
pub(super) fn round_within(value: f32, low: f32, high: f32) -> f32 {
    round(smaller(larger(value, low), high))
}

/// `1 / s`, and zero where `s` is too small to be a step between values that an f16 scales.
#[inline(always)]
pub(super) fn inverse(s: f32) -> f32 {
    if s.abs() > 1e-30 { 1.0 / s } else { 0.0 }
}

/// The f16 nearest to a scale that is not zero, but not zero. What no f16 holds stays a finite f32.
///
/// Not by way of the bits of an f16: a scale of usual weights is below its normal values, whose bits in the place of
/// those of an f32 would be a subnormal one, with which processors are slow.
#[inline(always)]
pub(super) fn nearest_scale(scale: f32) -> f32 {
    const SMALLEST: f32 = 1.0 / (1 << 24) as f32;
    const SMALLEST_NORMAL: f32 = 1.0 / (1 << 14) as f32;
    let magnitude = scale.abs();
    let bits = magnitude.to_bits();
    let normal = f32::from_bits(bits.wrapping_add(0xfff + (bits >> 13 & 1)) & !0x1fff);
    // As in `f32_to_f16`.
    let rounded = if magnitude < SMALLEST_NORMAL { (magnitude + 0.5) - 0.5 } else { normal };
    larger(rounded, SMALLEST).copysign(scale)
}

/// The `COUNT` scales with the lowest costs among those tried, the lowest first.
pub(super) struct Lowest<const COUNT: usize> {
    pub(super) scales: [f32; COUNT],
    costs: [f32; COUNT],
}

impl<const COUNT: usize> Lowest<COUNT> {
    /// None yet: `scale` stands for those that are missing.
    #[inline(always)]
    pub(super) fn new(scale: f32) -> Self {
        Lowest { scales: [scale; COUNT], costs: [f32::INFINITY; COUNT] }
    }

    /// Takes note of a scale, once.
    #[inline(always)]
    pub(super) fn offer(&mut self, mut scale: f32, mut cost: f32) {
        for i in 0..COUNT {
            if scale == self.scales[i] && self.costs[i] <= cost {
                return;
            }
            if cost < self.costs[i] {
                std::mem::swap(&mut self.scales[i], &mut scale);
                std::mem::swap(&mut self.costs[i], &mut cost);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_round_as_f16() {
        for bits in 1..0x7c00u16 {
            let value = half::f16::from_bits(bits).to_f32();
            for tried in [value, value * 1.0002, value * 1.0004, value * 1.3] {
                let expected = half::f16::from_f32(tried);
                if expected.is_finite() {
                    assert_eq!(nearest_scale(tried), expected.to_f32(), "{tried:e}");
                    assert_eq!(nearest_scale(-tried), -expected.to_f32(), "{tried:e}");
                }
            }
        }
        assert_eq!(nearest_scale(1e-30), half::f16::from_bits(1).to_f32());
    }
}
