//! How far a mean may be off by the choice of rows: the percentile bootstrap of Efron (1979).
//!
//! Rows are drawn with replacement, as many as there are, [`RESAMPLES`] times; the interval holds the middle
//! [`CONFIDENCE`] of the means of these draws. Sums are in f64. Draws are a function of a fixed seed, the resample and the
//! place, so that the same values give the same interval on any machine.

use lorafit_kernels::random::mix;
use rayon::prelude::*;

/// How often rows are drawn.
pub const RESAMPLES: usize = 10_000;
/// The share of the means that the interval holds.
pub const CONFIDENCE: f64 = 0.95;
/// Decides the draws.
pub const SEED: u64 = 0;

/// The lower and the upper end of the interval of the mean; of no values `None`.
pub fn bootstrap_interval(values: &[f64]) -> Option<[f64; 2]> {
    let rows = values.len() as u64;
    let first = values.first()?;
    // They are resampled to nothing else.
    if values.iter().all(|value| value == first) {
        return Some([*first; 2]);
    }
    let mean = |resample: u64| {
        let seed = mix(SEED ^ mix(resample));
        // The upper half of the product: a row of even chance, to one part in 2^64 / rows.
        let row = |draw: u64| ((u128::from(mix(seed ^ draw)) * u128::from(rows)) >> 64) as usize;
        (0..rows).map(|draw| values[row(draw)]).sum::<f64>() / rows as f64
    };
    let mut means: Vec<f64> = (0..RESAMPLES as u64).into_par_iter().map(mean).collect();
    means.sort_unstable_by(f64::total_cmp);
    let tail = (1.0 - CONFIDENCE) / 2.0;
    Some([percentile(&means, tail), percentile(&means, 1.0 - tail)])
}

/// The percentile `share` of sorted values; between two of them by their distance, as NumPy does.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_do_not_differ_have_no_width_and_none_have_no_interval() {
        assert_eq!(bootstrap_interval(&[1.0; 7]), Some([1.0, 1.0]));
        assert_eq!(bootstrap_interval(&[]), None);
    }

    #[test]
    fn a_percentile_lies_between_two_values_by_their_distance() {
        let values = [0.0, 1.0, 2.0, 10.0];
        assert_eq!([0.0, 0.5, 1.0].map(|share| percentile(&values, share)), [0.0, 1.5, 10.0]);
        // numpy.percentile(values, 97.5)
        assert!((percentile(&values, 0.975) - 9.4).abs() < 1e-12);
    }

    /// scipy's percentile bootstrap and the binomial distribution (scripts/make_metric_fixtures.py); tolerances are there.
    #[test]
    fn intervals_equal_those_of_scipy() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/metrics/bootstrap.json");
        let cases: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let cases = cases.as_array().unwrap();
        assert!(cases.len() > 8);
        for case in cases {
            let number = |key: &str| case[key].as_f64().unwrap();
            let values: Vec<f64> =
                case["values"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
            let [low, high] = bootstrap_interval(&values).unwrap();
            let off = (low - number("low")).abs().max((high - number("high")).abs());
            assert!(off <= number("tolerance"), "{}: {low} to {high}", case["name"]);
        }
    }

    #[test]
    fn the_same_values_have_the_same_interval() {
        let values: Vec<f64> = (0..50).map(|i| f64::from(i % 7) / 7.0).collect();
        assert_eq!(bootstrap_interval(&values), bootstrap_interval(&values));
    }
}
