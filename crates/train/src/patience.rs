//! Early stopping: a run ends when evaluations no longer improve the loss on held-out rows, or the accuracy where that tells the best.

use serde::{Deserialize, Serialize};

/// When a run ends early.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Patience {
    /// After so many evaluations in a row that lowered nothing.
    pub evaluations: u64,
    /// An evaluation whose loss (of [`BestBy::Accuracy`](crate::BestBy): share of pairs that are not told apart) is not lower by more
    /// than this has lowered nothing.
    pub min_delta: f64,
}

/// What evaluations have come to, between two steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PatienceState {
    /// The last value that was low enough; many small falls may add up to one.
    lowest: Option<f64>,
    /// The second number of that evaluation; it decides where the first is equal.
    #[serde(default)]
    among_equals: f64,
    /// Evaluations since.
    pub in_vain: u64,
}

impl PatienceState {
    /// An evaluation was made ([`BestBy::to_lower`](crate::BestBy)): of what the run began with, too.
    pub(crate) fn remember(&mut self, [to_lower, among_equals]: [f64; 2], patience: Patience) {
        let is_lower = self.lowest.is_none_or(|lowest| {
            let is_lower_equal = to_lower == lowest && among_equals < self.among_equals;
            to_lower < lowest - patience.min_delta || is_lower_equal
        });
        if to_lower.is_finite() && is_lower {
            *self = PatienceState { lowest: Some(to_lower), among_equals, in_vain: 0 };
        } else {
            self.in_vain += 1;
        }
    }

    /// Whether the run ends.
    pub(crate) fn is_over(&self, patience: Patience) -> bool {
        self.in_vain >= patience.evaluations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stops_at(losses: &[f64], evaluations: u64, min_delta: f64) -> Option<usize> {
        let (patience, mut state) = (Patience { evaluations, min_delta }, PatienceState::default());
        losses.iter().position(|loss| {
            state.remember([*loss, 0.0], patience);
            state.is_over(patience)
        })
    }

    /// All rows are told apart while the loss goes on falling.
    #[test]
    fn of_equal_shares_the_loss_is_to_fall() {
        let (patience, mut state) = (Patience { evaluations: 2, min_delta: 0.01 }, PatienceState::default());
        let evaluations = [[0.1, 0.7], [0.0, 0.5], [0.0, 0.4], [0.0, 0.3], [0.0, 0.35], [0.0, 0.3]];
        let over: Vec<bool> = evaluations
            .map(|evaluation| {
                state.remember(evaluation, patience);
                state.is_over(patience)
            })
            .to_vec();
        assert_eq!(over, [false, false, false, false, false, true]);
    }

    #[test]
    fn evaluations_in_a_row_count_and_small_falls_add_up() {
        let losses = [3.0, 2.0, 2.1, 1.9, 2.0, 2.0, 1.0];
        assert_eq!(stops_at(&losses, 2, 0.0), Some(5));
        assert_eq!(stops_at(&losses, 3, 0.0), None);
        // An equal loss is no lower one.
        assert_eq!(stops_at(&[1.0, 1.0, 1.0], 2, 0.0), Some(2));
        let slow: Vec<f64> = (0..10).map(|i| 1.0 - 0.04 * f64::from(i)).collect();
        assert_eq!(stops_at(&slow, 2, 0.1), Some(2));
        assert_eq!(stops_at(&slow, 3, 0.1), None);
        assert_eq!(stops_at(&[f64::NAN, 2.0, f64::NAN, f64::INFINITY], 2, 0.0), Some(3));
    }
}
