//! The median stopping rule (Golovin et al. 2017, "Google Vizier", section 3.2.2): a trial is given up at a step if its best
//! score so far is worse than the median, over the other trials, of their mean score up to that step.

use crate::middle::median;

/// Scores of a trial after so many steps, in order; lower is better.
pub type Curve = Vec<(u64, f64)>;

/// Fewer others than this say nothing.
const LEAST_OTHERS: usize = 3;

/// Whether a trial of that curve is to be given up after its last score.
pub fn is_losing<'a>(curve: &Curve, others: impl Iterator<Item = &'a Curve>) -> bool {
    let Some(&(now, _)) = curve.last() else { return false };
    let best = curve.iter().map(|&(_, score)| score).fold(f64::INFINITY, f64::min);
    let means: Vec<f64> = others.filter_map(|other| mean_until(other, now)).collect();
    means.len() >= LEAST_OTHERS && median(means).is_some_and(|median| best > median)
}

/// The mean score up to step `now`, of a trial that came as far.
fn mean_until(curve: &Curve, now: u64) -> Option<f64> {
    curve.last().filter(|&&(step, _)| step >= now)?;
    let scores: Vec<f64> = curve.iter().filter(|&&(step, _)| step <= now).map(|&(_, score)| score).collect();
    (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(scores: &[f64]) -> Curve {
        scores.iter().enumerate().map(|(i, &score)| (10 * (i as u64 + 1), score)).collect()
    }

    #[test]
    fn a_trial_whose_best_is_above_the_median_of_means_is_losing() {
        // Means up to step 20: 3, 2, 4; what came later does not count. The median is 3.
        let others = [curve(&[4.0, 2.0, 0.0]), curve(&[2.0, 2.0]), curve(&[5.0, 3.0, 9.0])];
        assert!(is_losing(&curve(&[9.0, 3.1]), others.iter()));
        assert!(!is_losing(&curve(&[9.0, 2.9]), others.iter()));
        assert!(!is_losing(&curve(&[2.9, 9.0]), others.iter()), "its best counts, not its last");
        let fourth = [curve(&[1.0, 1.0])];
        assert!(is_losing(&curve(&[9.0, 2.6]), others.iter().chain(&fourth)), "the median is 2.5");
    }

    #[test]
    fn too_few_others_that_came_as_far_say_nothing() {
        let others = [curve(&[1.0, 1.0]), curve(&[1.0, 1.0]), curve(&[1.0])];
        assert!(!is_losing(&curve(&[9.0, 9.0]), others.iter()));
        assert!(is_losing(&curve(&[9.0]), others.iter()));
        assert!(!is_losing(&Curve::new(), others.iter()));
    }
}
