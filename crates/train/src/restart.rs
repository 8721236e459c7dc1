//! Warm restarts: a run that has more to learn at its end goes on.
//!
//! The schedule begins anew and takes twice as many steps as before (Loshchilov and Hutter 2017, "SGDR: Stochastic Gradient
//! Descent with Warm Restarts", with a factor of two). The steps between two restarts are a round. Whether a round is followed by
//! another is a function of the losses alone, of which a checkpoint keeps what is needed.

use serde::{Deserialize, Serialize};

/// Another round is worth its steps if the last third of this one lowered the loss by more than this share of the loss ...
const LEAST_FALL: f64 = 0.03;
/// ... and by more than this share of all that was gained since the run began, and more than that is left.
const LEAST_OF_ALL: f64 = 0.01;
/// Rows that were trained on are known better than others if their loss is below this share of the held-out loss.
const KNOWN_BETTER: f64 = 0.95;
/// There is more to learn if this share of the loss before the first step is left.
const MUCH_LEFT: f64 = 0.05;

/// Why a run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartReason {
    /// The held-out loss was still falling.
    StillFalling,
    /// The rows that were trained on are known no better than those held out: nothing is over-fitted, and what has to be learnt by
    /// heart is not learnt yet.
    NotByHeart,
}

/// What restarts have come to, between two steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RestartState {
    /// Restarts so far.
    pub done: u64,
    /// What evaluations were to lower ([`BestBy`](crate::BestBy)) before the first step.
    start: Option<f64>,
    /// The same at the end of the round before this one.
    before: Option<f64>,
    /// The same in this round.
    round: Vec<f64>,
    /// Sum of the training losses of the last third of this round's steps.
    late_losses: f64,
    /// How many those are.
    late_steps: u64,
}

impl RestartState {
    /// An evaluation was made after `step`.
    pub(crate) fn remember(&mut self, to_lower: f64, step: u64) {
        // JSON, in which a checkpoint keeps it, has no other numbers.
        let to_lower = if to_lower.is_finite() { to_lower } else { f64::MAX };
        match step {
            0 => self.start = Some(to_lower),
            _ => self.round.push(to_lower),
        }
    }

    /// The training loss of a step in the last third of the round.
    pub(crate) fn remember_late(&mut self, loss: f64) {
        self.late_losses += loss;
        self.late_steps += 1;
    }

    /// Why another round follows the one that ends, if one does. `has_comparable_losses` says whether training losses are of the same
    /// kind as those of evaluations.
    pub(crate) fn reason(&self, has_comparable_losses: bool) -> Option<RestartReason> {
        if self.is_falling() {
            return Some(RestartReason::StillFalling);
        }
        let (&held_out, start) = (self.round.last()?, self.start?);
        let training = self.late_losses / self.late_steps as f64;
        let by_heart = training < KNOWN_BETTER * held_out;
        // A run that learnt nothing at all does not lack steps.
        let has_learnt = start - held_out > LEAST_FALL * start;
        let has_more = has_comparable_losses && self.late_steps > 0 && has_learnt;
        (has_more && !by_heart && held_out > MUCH_LEFT * start).then_some(RestartReason::NotByHeart)
    }

    /// Whether the evaluations of the round that ends were still falling.
    fn is_falling(&self) -> bool {
        let Some((&last, _)) = self.round.split_last() else { return false };
        let (earlier, late) = self.round.split_at(self.round.len() - self.round.len().div_ceil(3));
        let lowest = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
        // Of a round with few evaluations its end is held against what the round began with.
        let before = match earlier {
            [] => self.before.or(self.start),
            [..] => Some(lowest(earlier)),
        };
        let Some(before) = before else { return false };
        let gained = self.start.unwrap_or(before) - last;
        let fall = before - last;
        let least = LEAST_OF_ALL * gained;
        last <= lowest(late) && fall > LEAST_FALL * before && fall > least && last > least
    }

    /// The next round begins.
    pub(crate) fn restart(&mut self) {
        self.done += 1;
        self.before = self.round.last().copied();
        self.round.clear();
        (self.late_losses, self.late_steps) = (0.0, 0);
    }
}

/// Steps of the rounds up to and including the one after so many restarts, of which the first has `first_round`.
pub(crate) fn steps_through(first_round: u64, restarts: u64) -> u64 {
    let rounds = 1u64.checked_shl(u32::try_from(restarts).unwrap_or(u32::MAX).saturating_add(1));
    first_round.saturating_mul(rounds.unwrap_or(u64::MAX) - 1)
}

/// Steps before the round after so many restarts.
pub(crate) fn steps_before(first_round: u64, restarts: u64) -> u64 {
    restarts.checked_sub(1).map_or(0, |before| steps_through(first_round, before))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn falls(start: f64, round: &[f64]) -> bool {
        let mut state = RestartState::default();
        state.remember(start, 0);
        (1..).zip(round).for_each(|(step, loss)| state.remember(*loss, step));
        state.is_falling()
    }

    #[test]
    fn a_round_that_still_falls_is_followed_by_another() {
        // 160 made-up numbers, five passes: nothing but their form is learnt until the end.
        let facts = [1.393, 1.403, 1.383, 1.380, 1.375, 1.361, 1.325, 1.304, 1.265, 1.254];
        assert!(falls(6.349, &facts));
        // Known by heart: what is left is little, and so is what the end brought.
        assert!(!falls(6.349, &[1.2, 0.8, 0.6, 0.4, 0.1, 0.012]));
        assert!(!falls(6.349, &[1.2, 0.6, 0.2, 0.12, 0.11, 0.1]));
        // Level, and rising.
        assert!(!falls(2.7, &[1.6, 1.45, 1.40, 1.39, 1.385, 1.383]));
        assert!(!falls(2.7, &[1.6, 1.5, 1.4, 1.3, 1.2, 1.25]));
        // Nothing was learnt.
        assert!(!falls(2.0, &[2.1, 2.0, 2.1, 2.0, 2.1, 2.0]));
        assert!(!falls(2.0, &[1.8, 1.6, f64::NAN]));
        assert!(!falls(2.0, &[]));
    }

    #[test]
    fn a_round_that_left_nothing_by_heart_is_followed_by_another() {
        let reason = |start: f64, training: f64, held_out: f64| {
            let mut state = RestartState::default();
            state.remember(start, 0);
            (1..=6).for_each(|step| state.remember(held_out, step));
            [training - 0.1, training + 0.1].iter().for_each(|loss| state.remember_late(*loss));
            assert_eq!(state.reason(false), None, "other losses say nothing");
            let found = state.reason(true);
            state.restart();
            assert_eq!(state.reason(true), None, "a round without steps");
            found
        };
        let goes_on = Some(RestartReason::NotByHeart);
        // Numbers of which nothing but their form is known, with another seed than above.
        assert_eq!(reason(6.349, 1.372, 1.369), goes_on);
        assert_eq!(reason(2.7, 1.1, 1.38), None, "over-fitting has begun");
        assert_eq!(reason(3.3, 0.02, 0.02), None, "all is learnt");
        assert_eq!(reason(2.0, 1.99, 1.99), None, "nothing is learnt");
        assert_eq!(reason(2.0, 1.5, f64::NAN), None);
    }

    #[test]
    fn few_evaluations_are_held_against_the_round_before() {
        assert!(falls(2.0, &[1.5]));
        assert!(!falls(2.0, &[1.99]));
        let mut state = RestartState::default();
        [(2.0, 0), (1.5, 10)].iter().for_each(|(loss, step)| state.remember(*loss, *step));
        state.restart();
        assert!(!state.is_falling(), "no evaluation in this round");
        state.remember(1.49, 30);
        assert!(!state.is_falling());
        // Without an evaluation of the start there is nothing to hold the first against.
        let mut unknown = RestartState::default();
        unknown.remember(1.5, 10);
        assert!(!unknown.is_falling());
    }

    #[test]
    fn each_round_takes_twice_the_steps_of_the_one_before() {
        assert_eq!([0, 1, 2, 3].map(|restarts| steps_through(200, restarts)), [200, 600, 1400, 3000]);
        assert_eq!([0, 1, 2, 3].map(|restarts| steps_before(200, restarts)), [0, 200, 600, 1400]);
        assert_eq!(steps_through(u64::MAX / 2, 5), u64::MAX);
        assert_eq!(steps_through(3, 1_000), u64::MAX);
    }
}
