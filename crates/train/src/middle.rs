//! Means and medians, and the smoothed loss: each the same number wherever it is shown.

/// Steps that a smoothed training loss is the mean of, at most.
pub const SMOOTHED_STEPS: usize = 20;

/// The mean of some numbers.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The number in the middle, or the mean of the two there; `None` of no numbers.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    Some((values[last / 2] + values[last.div_ceil(2)]) / 2.0)
}

/// The smoothed loss after the last of these steps: the mean of up to [`SMOOTHED_STEPS`]; `None` before the first.
pub fn smoothed(losses: &[f64]) -> Option<f64> {
    let ending = &losses[losses.len().saturating_sub(SMOOTHED_STEPS)..];
    (!ending.is_empty()).then(|| mean(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_is_between_the_two_in_the_middle() {
        let of = |values: &[f64]| median(values.iter().copied());
        assert_eq!(of(&[]), None);
        assert_eq!([of(&[3.0]), of(&[4.0, 1.0]), of(&[9.0, 1.0, 2.0])], [Some(3.0), Some(2.5), Some(2.0)]);
        assert_eq!(of(&[8.0, 1.0, 2.0, 4.0]), Some(3.0));
    }

    #[test]
    fn a_smoothed_loss_is_the_mean_of_the_last_steps() {
        assert_eq!(smoothed(&[]), None);
        assert_eq!(smoothed(&[1.0, 2.0]), Some(1.5));
        let losses: Vec<f64> = (0..100).map(f64::from).collect();
        assert_eq!(smoothed(&losses), Some(89.5));
    }
}
