//! Sixteen values side by side, one of each sub-block, and sums over them that are taken in the same order on every
//! instruction set.

use crate::quant::blocks::{larger, smaller};
use crate::quant::float::{f16_to_f32, f32_to_f16};

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

/// The smallest step of an f16.
const SMALLEST: f32 = 1.0 / (1 << 24) as f32;

/// The f16 nearest to a scale that is not zero, but not zero, and finite if `scale` is below 65,520.
#[inline(always)]
pub(super) fn nearest_scale(scale: f32) -> f32 {
    let rounded = f16_to_f32(f32_to_f16(scale).to_le_bytes());
    if rounded == 0.0 { SMALLEST } else { rounded }
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
