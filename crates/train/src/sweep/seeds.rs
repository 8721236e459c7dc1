//! Settings that ran once for each of several random seeds: what they come to, and which of them lead.
//!
//! The mean over seeds is off by about its standard error, `s / sqrt(n)` with `s` the standard deviation of a sample. All
//! settings run with the same seeds, and with a seed they share the order of rows, and the rows held out if those are drawn. So
//! two settings are compared seed by seed: the lead is the mean of the differences, and its standard error theirs (a paired
//! comparison).

use std::collections::BTreeMap;

use serde::Serialize;

/// Scores by their seeds.
pub type BySeed = BTreeMap<u64, f64>;

/// A mean over seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SeedMean {
    /// The mean.
    pub mean: f64,
    /// How far it may be off; of one seed nobody knows.
    pub standard_error: Option<f64>,
    /// How many seeds it is over.
    pub seeds: usize,
}

impl SeedMean {
    /// The mean of some values; of none `None`.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let standard_error = (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt());
        (!values.is_empty()).then_some(SeedMean { mean, standard_error, seeds: values.len() })
    }
}

/// By how much `ahead` is above `behind`, over the seeds that both have.
pub fn difference(ahead: &BySeed, behind: &BySeed) -> Option<SeedMean> {
    SeedMean::of(ahead.iter().filter_map(|(seed, score)| Some(score - behind.get(seed)?)))
}

impl SeedMean {
    /// Whether a difference is larger than its standard error, whichever sign it has.
    pub fn is_told_apart(&self) -> bool {
        self.standard_error.is_some_and(|error| self.mean.abs() > error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_seed(scores: &[f64]) -> BySeed {
        (0..).zip(scores.iter().copied()).collect()
    }

    /// By hand: deviations of -1, 0 and 1 have a sample variance of 1.
    #[test]
    fn a_mean_is_off_by_the_deviation_over_the_root_of_the_seeds() {
        let found = SeedMean::of([1.0, 2.0, 3.0].into_iter()).expect("three values");
        assert_eq!((found.mean, found.seeds), (2.0, 3));
        assert!((found.standard_error.expect("three values") - (1.0f64 / 3.0).sqrt()).abs() < 1e-15);
        assert_eq!(SeedMean::of([4.0].into_iter()).expect("a value").standard_error, None);
        assert_eq!(SeedMean::of(std::iter::empty()), None);
    }

    #[test]
    fn settings_are_compared_seed_by_seed() {
        // Far apart from seed to seed, and always 0.1 to 0.3 from each other.
        let (low, high) = (by_seed(&[1.0, 2.0, 3.0]), by_seed(&[1.1, 2.2, 3.3]));
        let lead = difference(&high, &low).expect("shared seeds");
        assert!((lead.mean - 0.2).abs() < 1e-12 && lead.is_told_apart(), "{lead:?}");
        assert!(difference(&low, &high).expect("shared seeds").is_told_apart());
        // Once ahead, once behind.
        let mixed = difference(&by_seed(&[1.0, 2.0]), &by_seed(&[1.5, 1.6])).expect("shared seeds");
        assert!(!mixed.is_told_apart(), "{mixed:?}");
        let one = difference(&by_seed(&[1.0]), &by_seed(&[9.0, 9.0])).expect("a shared seed");
        assert!(!one.is_told_apart(), "one seed says nothing");
        assert_eq!(difference(&BySeed::new(), &low), None);
        assert!(!difference(&low, &low).expect("shared seeds").is_told_apart(), "equal is level");
    }
}
