//! Steps that are not taken: losses and gradients that are not finite, and losses far above the recent ones.
//!
//! A refused step leaves adapter and optimizer as they were. It still counts: data, dropout and schedule go on.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Steps of which the losses tell what is usual.
const WINDOW: usize = 128;
/// Standard deviations above their mean that make a spike.
const SIGMAS: f64 = 6.0;
/// A smaller deviation, relative to the mean, is rounding: losses may be all the same.
const ROUNDING: f64 = 1e-6;
/// So many refused steps in a row that are not finite end a run: it does not recover by skipping.
pub(crate) const MOST_IN_A_ROW: u64 = 5;

/// What to do with a step whose loss or gradient is not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnNan {
    /// End the run.
    #[default]
    Stop,
    /// Go on without it, at most five times in a row.
    Skip,
}

impl FromStr for OnNan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stop" => Ok(OnNan::Stop),
            "skip" => Ok(OnNan::Skip),
            _ => Err(format!("`{text}` is not one of stop, skip")),
        }
    }
}

impl fmt::Display for OnNan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OnNan::Stop => "stop",
            OnNan::Skip => "skip",
        })
    }
}

/// What a step was refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Culprit {
    /// Its loss is not finite.
    Loss,
    /// The norm of its gradient is not.
    GradientNorm,
    /// Its loss is finite, and far above the recent ones.
    LossSpike,
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Culprit::Loss => "loss",
            Culprit::GradientNorm => "gradient norm",
            Culprit::LossSpike => "loss (a spike)",
        })
    }
}

/// A step that was computed and not taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The step.
    pub step: u64,
    /// What is wrong.
    pub culprit: Culprit,
    /// Its value.
    pub value: f64,
    /// The lines of the step's rows.
    pub lines: Vec<usize>,
}

/// What the guard knows between two steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GuardState {
    /// Steps refused so far.
    pub skipped: u64,
    /// Those at the end that were not finite.
    pub in_a_row: u64,
    /// The last losses, if spikes are looked for.
    losses: VecDeque<f64>,
}

impl GuardState {
    /// Losses above this are spikes; none before there are enough to compare with.
    pub(crate) fn spike_above(&self) -> Option<f64> {
        if self.losses.len() < WINDOW {
            return None;
        }
        let mean = self.losses.iter().sum::<f64>() / WINDOW as f64;
        let variance = self.losses.iter().map(|loss| (loss - mean).powi(2)).sum::<f64>() / WINDOW as f64;
        Some(mean + SIGMAS * variance.sqrt().max(ROUNDING * mean.abs()))
    }

    /// A step was taken, or refused as a spike: its loss belongs to the recent ones, so that a new level becomes usual.
    pub(crate) fn remember(&mut self, loss: f64) {
        if self.losses.len() == WINDOW {
            self.losses.pop_front();
        }
        self.losses.push_back(loss);
    }

    /// Whether a run of this many refused steps has to end.
    pub(crate) fn refuse(&mut self, refusal: &Refusal) -> bool {
        self.skipped += 1;
        match refusal.culprit {
            Culprit::Loss | Culprit::GradientNorm => self.in_a_row += 1,
            Culprit::LossSpike => {
                self.in_a_row = 0;
                self.remember(refusal.value);
            }
        }
        self.in_a_row >= MOST_IN_A_ROW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_is_six_deviations_above_128_losses() {
        let mut guard = GuardState::default();
        for i in 0..WINDOW {
            assert_eq!(guard.spike_above(), None, "after {i} losses");
            guard.remember(if i % 2 == 0 { 1.0 } else { 2.0 });
        }
        // Mean 1.5, standard deviation 0.5.
        assert_eq!(guard.spike_above(), Some(4.5));
        // A new level is refused only until it is usual.
        let spike = |value| Refusal { step: 1, culprit: Culprit::LossSpike, value, lines: vec![] };
        let refused = (0..WINDOW)
            .take_while(|_| guard.spike_above().is_some_and(|most| 8.0 > most) && !guard.refuse(&spike(8.0)))
            .count();
        assert!((1..8).contains(&refused), "{refused}");
    }

    #[test]
    fn five_that_are_not_finite_in_a_row_are_too_many() {
        let mut guard = GuardState::default();
        let nan = Refusal { step: 1, culprit: Culprit::GradientNorm, value: f64::NAN, lines: vec![] };
        assert!((0..4).all(|_| !guard.refuse(&nan)));
        assert!(guard.refuse(&nan));
        assert_eq!(guard.skipped, 5);
    }
}
