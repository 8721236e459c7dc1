//! How far a share may be off by the choice of rows: the score interval of Wilson (1927).
//!
//! With `p` the share of `n` rows and `z` the 97.5 % point of the normal distribution, its ends are
//! `(p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)`. It has a width where all rows, or none, are counted: of 30
//! right answers of 30 it begins at 88.6 %. All of it is in f64.

/// The 97.5 % point of the normal distribution: the middle 95 % end there.
const Z: f64 = 1.959_963_984_540_054;

/// The lower and the upper end of the 95 % interval of a share of so many rows, at least one.
pub fn wilson_interval(share: f64, rows: usize) -> [f64; 2] {
    let n = rows as f64;
    let square = Z * Z / n;
    let centre = share + square / 2.0;
    let half = Z * (share * (1.0 - share) / n + square / (4.0 * n)).sqrt();
    // What is a bound of all shares is that bit by bit.
    let end = |value: f64, bound: f64| if share == bound { bound } else { value / (1.0 + square) };
    [end(centre - half, 0.0), end(centre + half, 1.0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the interval is defined by: the shares from which the one that is seen is `Z` standard deviations away.
    #[test]
    fn the_share_that_is_seen_is_z_deviations_from_both_ends() {
        for (count, rows) in [(8, 10), (1, 3), (63, 64), (30, 30), (0, 64), (1, 1)] {
            let (share, n) = (f64::from(count) / f64::from(rows), f64::from(rows));
            let ends = wilson_interval(share, rows as usize);
            assert!(ends[0] <= share && share <= ends[1] && ends[0] < ends[1], "{count} of {rows}: {ends:?}");
            for end in ends.into_iter().filter(|end| *end != share) {
                let (away, allowed) = ((share - end).powi(2), Z * Z * end * (1.0 - end) / n);
                assert!((away - allowed).abs() < 1e-13, "{count} of {rows}: {end}");
            }
        }
    }

    /// scipy.stats.binomtest(8, 10).proportion_ci(method="wilson") of SciPy 1.17.1.
    #[test]
    fn the_interval_equals_that_of_scipy() {
        let found = wilson_interval(0.8, 10);
        let expected = [0.490_162_471_536_641_8, 0.943_317_848_545_624_8];
        assert!((0..2).all(|i| (found[i] - expected[i]).abs() < 1e-14), "{found:?}");
    }

    #[test]
    fn all_or_none_leave_a_share_of_z_squared() {
        let left = Z * Z / (64.0 + Z * Z);
        assert_eq!(wilson_interval(1.0, 64)[1], 1.0);
        assert_eq!(wilson_interval(0.0, 64)[0], 0.0);
        assert!((wilson_interval(1.0, 64)[0] - (1.0 - left)).abs() < 1e-15);
        assert!((wilson_interval(0.0, 64)[1] - left).abs() < 1e-15);
    }
}
