//! Encoding Q6_K: `x = s q` in sixteen sub-blocks of 16, where `s = d sc`, with codes `q` from -32 to 31 and signed
//! 8-bit `sc`.
//!
//! Sought is the least sum of squared errors of a super-block, as in `affine`, which has more unknowns.

use multiversion::multiversion;

use super::lanes::{Lanes, Lowest, inverse, lanes, nearest_scale, round_within};
use super::{BEYOND_ALL_SCALES, LEN, SMALLEST_KEPT};
use crate::quant::blocks::{larger, largest_magnitude, smaller};

const SUBS: usize = 16;
const SUB_LEN: usize = LEN / SUBS;

/// Value `i` of each sub-block.
type Values = [Lanes; SUB_LEN];

/// How codes of given scales fit: sums over a sub-block, with the errors `e = x - s q`.
struct Fit {
    ee: Lanes,
    qq: Lanes,
    qe: Lanes,
}

#[inline(always)]
fn fit(x: &Values, s: &Lanes) -> Fit {
    let inverse = lanes(|l| inverse(s[l]));
    let mut sums = Fit { ee: [0.0; 16], qq: [0.0; 16], qe: [0.0; 16] };
    for x in x {
        for l in 0..SUBS {
            let q = round_within(x[l] * inverse[l], -32.0, 31.0);
            let e = x[l] - s[l] * q;
            sums.ee[l] += e * e;
            sums.qq[l] += q * q;
            sums.qe[l] += q * e;
        }
    }
    sums
}

/// The scale that fits the codes of `s` best.
#[inline(always)]
fn refit(s: &Lanes, sums: &Fit) -> Lanes {
    lanes(|l| s[l] + if sums.qq[l] > 0.0 { sums.qe[l] / sums.qq[l] } else { 0.0 })
}

/// The best scales of the sub-blocks, each for itself.
#[inline(always)]
fn search(x: &Values) -> Lanes {
    let mut largest = [0.0; 16];
    for x in x {
        for l in 0..SUBS {
            largest[l] = larger(x[l].abs(), largest[l]);
        }
    }
    let mut best = Best { s: [0.0; 16], ee: [f32::INFINITY; 16] };
    // The code of the largest magnitude, of both signs.
    for quarter in 4 * 25..=4 * 34 {
        let inverse = 4.0 / quarter as f32;
        for inverse in [inverse, -inverse] {
            let s = lanes(|l| largest[l] * inverse);
            let sums = fit(x, &s);
            best.offer(&s, &sums.ee);
            let s = refit(&s, &sums);
            best.offer(&s, &fit(x, &s).ee);
        }
    }
    best.s
}

/// Scales and their errors.
struct Best {
    s: Lanes,
    ee: Lanes,
}

impl Best {
    #[inline(always)]
    fn offer(&mut self, s: &Lanes, ee: &Lanes) {
        for l in 0..SUBS {
            let better = ee[l] < self.ee[l];
            self.s[l] = if better { s[l] } else { self.s[l] };
            self.ee[l] = if better { ee[l] } else { self.ee[l] };
        }
    }
}

#[inline(always)]
fn total(of: &Lanes) -> f32 {
    of.iter().sum()
}

/// Integers for the scales `wanted` in steps of `d`.
#[inline(always)]
fn integers(wanted: &Lanes, d: f32) -> Lanes {
    let inverse = inverse(d);
    lanes(|l| round_within(wanted[l] * inverse, -128.0, 127.0))
}

/// A super-block before it is packed.
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(super) struct Encoded {
    pub(super) d: f32,
    pub(super) scales: [i8; SUBS],
    /// From 0 to 63: 32 above `q`.
    pub(super) codes: [u8; LEN],
}

/// The codes of a super-block of finite values, and their scales.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub(super) fn encode(values: &[f32; LEN]) -> Encoded {
    encode_here(values)
}

/// For the instruction set of the caller.
#[inline(always)]
pub(super) fn encode_here(values: &[f32; LEN]) -> Encoded {
    const CANDIDATES: usize = 4;
    let mut encoded = Encoded { d: 0.0, scales: [0; SUBS], codes: [32; LEN] };
    let largest = largest_magnitude(values);
    if largest <= SMALLEST_KEPT {
        return encoded;
    }
    if largest > BEYOND_ALL_SCALES {
        encoded.d = f32::INFINITY;
        return encoded;
    }
    let mut x: Values = [[0.0; 16]; SUB_LEN];
    for (i, x) in x.iter_mut().enumerate() {
        *x = lanes(|l| values[l * SUB_LEN + i]);
    }
    let best = search(&x);
    let weight = fit(&x, &best).qq;

    // Steps of which whole numbers come closest to the scales, a difference counting by what it costs.
    let largest = best.into_iter().fold(0.0, |m: f32, s| larger(s.abs(), m));
    let mut lowest = Lowest::<CANDIDATES>::new(nearest_scale(largest / 127.0));
    for k in 64..=128 {
        let d = nearest_scale(largest / k as f32);
        for d in [d, -d] {
            let sc = integers(&best, d);
            let cost = total(&lanes(|l| {
                let difference = best[l] - d * sc[l];
                weight[l] * (difference * difference)
            }));
            lowest.offer(d, cost);
        }
    }

    let (mut found, mut least) = ((0.0, [0.0; 16]), f32::INFINITY);
    for mut d in lowest.scales {
        let mut sc = integers(&best, d);
        for _ in 0..2 {
            // Scales move by one where that helps.
            let start = sc;
            let mut ee = fit(&x, &lanes(|l| d * sc[l])).ee;
            for change in [1.0, -1.0] {
                let moved = lanes(|l| smaller(larger(start[l] + change, -128.0), 127.0));
                let moved_ee = fit(&x, &lanes(|l| d * moved[l])).ee;
                for l in 0..SUBS {
                    let better = moved_ee[l] < ee[l];
                    sc[l] = if better { moved[l] } else { sc[l] };
                    ee[l] = if better { moved_ee[l] } else { ee[l] };
                }
            }
            if total(&ee) < least {
                (found, least) = ((d, sc), total(&ee));
            }
            // Least squares in d over the super-block, from the errors that remain.
            let sums = fit(&x, &lanes(|l| d * sc[l]));
            let (qe, qq) =
                (total(&lanes(|l| sc[l] * sums.qe[l])), total(&lanes(|l| sc[l] * sc[l] * sums.qq[l])));
            let fitted = d + if qq > 0.0 { qe / qq } else { 0.0 };
            if fitted != 0.0 {
                d = nearest_scale(fitted);
            }
            let ee = fit(&x, &lanes(|l| d * sc[l])).ee;
            if total(&ee) < least {
                (found, least) = ((d, sc), total(&ee));
            }
        }
    }
    let (d, sc) = found;
    encoded.d = d;
    for l in 0..SUBS {
        encoded.scales[l] = sc[l] as i8;
        let inverse = inverse(d * sc[l]);
        for i in 0..SUB_LEN {
            let q = round_within(x[i][l] * inverse, -32.0, 31.0);
            encoded.codes[l * SUB_LEN + i] = (q + 32.0) as u8;
        }
    }
    encoded
}
