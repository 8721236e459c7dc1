//! Encoding Q4_K and Q5_K: `x = s q - m` in eight sub-blocks of 32, where `s = d sc` and `m = dmin mn`.
//!
//! Sought is the least sum of squared errors of a super-block. First every sub-block for itself: codes for many
//! ranges, each followed by the scale and minimum that fit its codes best (least squares in two unknowns). Then the
//! f16 scales: those under which the 6-bit `sc` and `mn` come closest to what the sub-blocks want, counting a
//! difference by what it costs. Last `sc` and `mn` move by steps of one, and `d` and `dmin` are fitted to all codes,
//! in turn.

use multiversion::multiversion;

use super::lanes::{Lanes, Lowest, inverse, lanes, nearest_scale, round_within};
use super::{BEYOND_ALL_SCALES, LEN, SMALLEST_KEPT};
use crate::quant::blocks::{larger, largest_magnitude, smaller};

const SUBS: usize = 8;
const SUB_LEN: usize = LEN / SUBS;
/// The largest `sc` and `mn`.
const TOP: f32 = 63.0;

/// What is tried for the range of a sub-block: how many codes stay unused below its smallest and above its largest value,
/// or less than none where those are cut off.
const UNUSED: [[f32; 2]; 36] = {
    const TRIED: [f32; 6] = [2.0, 1.0, 0.0, -0.4, -0.8, -1.2];
    let mut all = [[0.0; 2]; 36];
    let mut i = 0;
    while i < all.len() {
        all[i] = [TRIED[i / TRIED.len()], TRIED[i % TRIED.len()]];
        i += 1;
    }
    all
};

/// Value `i` of each sub-block, twice.
type Values = [Lanes; SUB_LEN];

/// How codes of given scales and minima fit: sums over a sub-block, with the errors `e = x - (s q - m)`.
struct Fit {
    ee: Lanes,
    e: Lanes,
    q: Lanes,
    qq: Lanes,
    qe: Lanes,
}

#[inline(always)]
fn fit(x: &Values, s: &Lanes, m: &Lanes, top: f32) -> Fit {
    let inverse = lanes(|l| inverse(s[l]));
    let mut sums = Fit { ee: [0.0; 16], e: [0.0; 16], q: [0.0; 16], qq: [0.0; 16], qe: [0.0; 16] };
    for x in x {
        for l in 0..16 {
            let q = round_within((x[l] + m[l]) * inverse[l], 0.0, top);
            let e = x[l] - (s[l] * q - m[l]);
            sums.ee[l] += e * e;
            sums.e[l] += e;
            sums.q[l] += q;
            sums.qq[l] += q * q;
            sums.qe[l] += q * e;
        }
    }
    sums
}

/// Scales and minima, and their errors.
struct Best {
    s: Lanes,
    m: Lanes,
    ee: Lanes,
}

impl Best {
    #[inline(always)]
    fn offer(&mut self, s: &Lanes, m: &Lanes, ee: &Lanes) {
        for l in 0..16 {
            let better = ee[l] < self.ee[l];
            self.s[l] = if better { s[l] } else { self.s[l] };
            self.m[l] = if better { m[l] } else { self.m[l] };
            self.ee[l] = if better { ee[l] } else { self.ee[l] };
        }
    }

    /// The better of both lanes of a sub-block, in both.
    #[inline(always)]
    fn join(&mut self) {
        let other = |all: &Lanes| lanes(|l| all[(l + SUBS) % 16]);
        let (s, m, ee) = (other(&self.s), other(&self.m), other(&self.ee));
        self.offer(&s, &m, &ee);
    }
}

/// Scale and minimum that fit the codes of `s` and `m` best, where the minimum is not below zero.
#[inline(always)]
fn refit(s: &Lanes, m: &Lanes, sums: &Fit) -> (Lanes, Lanes) {
    const N: f32 = SUB_LEN as f32;
    let (mut new_s, mut new_m) = (*s, *m);
    for l in 0..16 {
        let (e, q, qq, qe) = (sums.e[l], sums.q[l], sums.qq[l], sums.qe[l]);
        let determinant = N * qq - q * q;
        let step = if determinant > 0.0 { (N * qe - q * e) / determinant } else { 0.0 };
        let minimum = m[l] + (step * q - e) / N;
        let step_to_zero = if qq > 0.0 { (qe - m[l] * q) / qq } else { 0.0 };
        let scale = s[l] + if minimum > 0.0 { step } else { step_to_zero };
        new_m[l] = larger(minimum, 0.0);
        new_s[l] = if scale > 0.0 { scale } else { s[l] };
    }
    (new_s, new_m)
}

/// The best scales and minima of the sub-blocks, each for itself.
#[inline(always)]
fn search(x: &Values, top: f32) -> Best {
    let (mut low, mut high) = ([0.0; 16], [f32::NEG_INFINITY; 16]);
    for x in x {
        for l in 0..16 {
            low[l] = smaller(x[l], low[l]);
            high[l] = larger(x[l], high[l]);
        }
    }
    let range = lanes(|l| high[l] - low[l]);
    let mut best = Best { s: [0.0; 16], m: lanes(|l| -low[l]), ee: [f32::INFINITY; 16] };
    for pair in UNUSED.as_chunks::<2>().0 {
        let steps = [0, 1].map(|half: usize| 1.0 / (top - pair[half][0] - pair[half][1]));
        let mut s = lanes(|l| range[l] * steps[l / SUBS]);
        let mut m = lanes(|l| larger(pair[l / SUBS][0] * s[l] - low[l], 0.0));
        for _ in 0..2 {
            let sums = fit(x, &s, &m, top);
            best.offer(&s, &m, &sums.ee);
            (s, m) = refit(&s, &m, &sums);
        }
        let sums = fit(x, &s, &m, top);
        best.offer(&s, &m, &sums.ee);
    }
    best.join();
    for _ in 0..2 {
        let sums = fit(x, &best.s, &best.m, top);
        let (s, m) = refit(&best.s, &best.m, &sums);
        let ee = fit(x, &s, &m, top).ee;
        best.offer(&s, &m, &ee);
    }
    best
}

/// Two candidates for a super-block.
#[derive(Clone, Copy)]
struct Scales {
    /// Of each candidate.
    d: [f32; 2],
    d_min: [f32; 2],
    /// 6-bit integers.
    sc: Lanes,
    mn: Lanes,
}

impl Scales {
    #[inline(always)]
    fn s(&self, change: f32) -> Lanes {
        lanes(|l| self.d[l / SUBS] * smaller(larger(self.sc[l] + change, 0.0), TOP))
    }

    #[inline(always)]
    fn m(&self, change: f32) -> Lanes {
        lanes(|l| self.d_min[l / SUBS] * smaller(larger(self.mn[l] + change, 0.0), TOP))
    }

    #[inline(always)]
    fn fit(&self, x: &Values, top: f32) -> Fit {
        fit(x, &self.s(0.0), &self.m(0.0), top)
    }
}

/// The sum over the sub-blocks of a candidate.
#[inline(always)]
fn total(of: &Lanes, candidate: usize) -> f32 {
    of[candidate * SUBS..][..SUBS].iter().sum()
}

/// Integers up to 63 for `wanted` in steps of `d`.
#[inline(always)]
fn integers(wanted: &[f32; SUBS], d: f32) -> [f32; SUBS] {
    let inverse = inverse(d);
    wanted.map(|w| round_within(w * inverse, 0.0, TOP))
}

/// The steps of which whole numbers up to 63 come closest to `wanted`, a difference counting by `weight`.
#[inline(always)]
fn steps<const COUNT: usize>(wanted: &[f32; SUBS], weight: &[f32; SUBS]) -> [f32; COUNT] {
    let largest = wanted.iter().copied().fold(0.0, larger);
    if largest == 0.0 {
        return [0.0; COUNT];
    }
    let mut lowest = Lowest::<COUNT>::new(nearest_scale(largest / TOP));
    for k in (32..64).rev() {
        let d = nearest_scale(largest / k as f32);
        let integers = integers(wanted, d);
        let mut cost = 0.0;
        for j in 0..SUBS {
            let difference = wanted[j] - d * integers[j];
            cost += weight[j] * (difference * difference);
        }
        lowest.offer(d, cost);
    }
    lowest.scales
}

/// One candidate for a super-block, with its sum of squared errors.
#[derive(Clone, Copy)]
struct Tried {
    ee: f32,
    d: f32,
    d_min: f32,
    sc: [f32; SUBS],
    mn: [f32; SUBS],
}

#[inline(always)]
fn side_by_side(a: &Tried, b: &Tried) -> Scales {
    let of = |l: usize| if l < SUBS { a } else { b };
    Scales {
        d: [a.d, b.d],
        d_min: [a.d_min, b.d_min],
        sc: lanes(|l| of(l).sc[l % SUBS]),
        mn: lanes(|l| of(l).mn[l % SUBS]),
    }
}

/// The best two of some candidates by their true errors.
#[inline(always)]
fn candidates(x: &Values, top: f32, best: &Best) -> Scales {
    const N: f32 = SUB_LEN as f32;
    const D: usize = 3;
    const D_MIN: usize = 2;
    let sums = fit(x, &best.s, &best.m, top);
    let half = |all: &Lanes| -> [f32; SUBS] { std::array::from_fn(|j| all[j]) };
    let (s, m, q, qq) = (half(&best.s), half(&best.m), half(&sums.q), half(&sums.qq));
    // What a difference costs once the minimum has made up for what it can.
    let curvature = std::array::from_fn(|j| qq[j] - q[j] * q[j] / N);
    let mut tried = [Tried { ee: 0.0, d: 0.0, d_min: 0.0, sc: [0.0; SUBS], mn: [0.0; SUBS] }; D * D_MIN];
    for (i, d) in steps::<D>(&s, &curvature).into_iter().enumerate() {
        let sc = integers(&s, d);
        let wanted = std::array::from_fn(|j| larger(m[j] + q[j] / N * (d * sc[j] - s[j]), 0.0));
        for (j, d_min) in steps::<D_MIN>(&wanted, &[1.0; SUBS]).into_iter().enumerate() {
            tried[i * D_MIN + j] = Tried { ee: 0.0, d, d_min, sc, mn: integers(&wanted, d_min) };
        }
    }
    for pair in tried.as_chunks_mut::<2>().0 {
        let ee = side_by_side(&pair[0], &pair[1]).fit(x, top).ee;
        (pair[0].ee, pair[1].ee) = (total(&ee, 0), total(&ee, 1));
    }
    tried.sort_by(|a, b| a.ee.total_cmp(&b.ee));
    side_by_side(&tried[0], &tried[1])
}

/// Moves sc and mn by steps of one where that helps, and fits d and dmin to all codes, in turn. Returns which candidate is
/// the better one then.
#[inline(always)]
fn improve(x: &Values, top: f32, scales: &mut Scales, rounds: usize) -> usize {
    const N: f32 = SUB_LEN as f32;
    for _ in 0..rounds {
        let mut least = scales.fit(x, top).ee;
        let (sc, mn) = (scales.sc, scales.mn);
        let start = *scales;
        for (ds, dm) in [(1., 0.), (-1., 0.), (0., 1.), (0., -1.), (1., 1.), (-1., -1.), (1., -1.), (-1., 1.)]
        {
            let ee = fit(x, &start.s(ds), &start.m(dm), top).ee;
            for l in 0..16 {
                let better = ee[l] < least[l];
                least[l] = if better { ee[l] } else { least[l] };
                scales.sc[l] = if better { smaller(larger(sc[l] + ds, 0.0), TOP) } else { scales.sc[l] };
                scales.mn[l] = if better { smaller(larger(mn[l] + dm, 0.0), TOP) } else { scales.mn[l] };
            }
        }
        // Least squares in d and dmin over the super-block, from the errors that remain.
        let sums = scales.fit(x, top);
        let mut fitted = *scales;
        for c in 0..2 {
            let (mut dd, mut dm, mut mm, mut de, mut me) = (0.0, 0.0, 0.0, 0.0, 0.0);
            for l in c * SUBS..(c + 1) * SUBS {
                let (sc, mn) = (scales.sc[l], scales.mn[l]);
                dd += sc * sc * sums.qq[l];
                dm += sc * mn * sums.q[l];
                mm += mn * mn * N;
                de += sc * sums.qe[l];
                me += mn * sums.e[l];
            }
            let determinant = dd * mm - dm * dm;
            let (change, change_min) = if determinant > 1e-5 * (dd * mm) {
                ((de * mm - dm * me) / determinant, (dm * de - dd * me) / determinant)
            } else if dd > 0.0 {
                (de / dd, 0.0)
            } else if mm > 0.0 {
                (0.0, -me / mm)
            } else {
                (0.0, 0.0)
            };
            let moved = |d: f32, change: f32| match d > 0.0 && d + change > 0.0 {
                true => nearest_scale(d + change),
                false => d,
            };
            fitted.d[c] = moved(scales.d[c], change);
            fitted.d_min[c] = moved(scales.d_min[c], change_min);
        }
        let ee = fitted.fit(x, top).ee;
        for c in 0..2 {
            if total(&ee, c) < total(&sums.ee, c) {
                (scales.d[c], scales.d_min[c]) = (fitted.d[c], fitted.d_min[c]);
            }
        }
    }
    let ee = scales.fit(x, top).ee;
    usize::from(total(&ee, 1) < total(&ee, 0))
}

/// A super-block before it is packed.
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(super) struct Encoded {
    pub(super) d: f32,
    pub(super) d_min: f32,
    /// 6-bit integers.
    pub(super) scales: [u8; SUBS],
    pub(super) minima: [u8; SUBS],
    pub(super) codes: [u8; LEN],
}

/// The codes `0..=top` of a super-block of finite values, and their scales.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub(super) fn encode(values: &[f32; LEN], top: f32) -> Encoded {
    encode_here(values, top)
}

/// For the instruction set of the caller.
#[inline(always)]
pub(super) fn encode_here(values: &[f32; LEN], top: f32) -> Encoded {
    let mut encoded = Encoded { d: 0.0, d_min: 0.0, scales: [0; 8], minima: [0; 8], codes: [0; LEN] };
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
        *x = lanes(|l| values[l % SUBS * SUB_LEN + i]);
    }
    let best = search(&x, top);
    let mut scales = candidates(&x, top, &best);
    let chosen = improve(&x, top, &mut scales, 2);
    (encoded.d, encoded.d_min) = (scales.d[chosen], scales.d_min[chosen]);
    let (s, m) = (scales.s(0.0), scales.m(0.0));
    for j in 0..SUBS {
        let l = chosen * SUBS + j;
        (encoded.scales[j], encoded.minima[j]) = (scales.sc[l] as u8, scales.mn[l] as u8);
        let inverse = inverse(s[l]);
        for i in 0..SUB_LEN {
            let q = round_within((x[i][l] + m[l]) * inverse, 0.0, top);
            encoded.codes[j * SUB_LEN + i] = q as u8;
        }
    }
    encoded
}
