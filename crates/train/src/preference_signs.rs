//! What a run on judged replies shows that its loss does not: known ways in which such training goes wrong.

use lorafit_data::{Samples, Side};

use crate::metrics::StepRecord;

/// A sign that something may be wrong, with what it was seen by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sign {
    /// Chosen replies became less likely than the reference has them: the loss fell by pushing both down.
    ChosenFalls {
        /// Their mean reward at the end.
        reward: f64,
    },
    /// Pairs are kept apart far beyond what lowers the loss.
    MarginsGrow {
        /// Their mean margin at the end.
        margin: f64,
    },
    /// Chosen replies are much longer than rejected ones, so that length may be what is learnt; or much shorter.
    Lengths {
        /// Mean tokens of chosen replies over those of rejected ones.
        ratio: f64,
    },
}

/// A share of the steps: its first and last part are compared.
const WINDOW: usize = 10;
/// Nothing is said of fewer steps.
const FEWEST_STEPS: usize = 10;
/// Rewards of chosen replies below this, and falling, are a sign.
const LOW_REWARD: f64 = -0.5;
/// At this margin the loss of a pair is below 1e-4.
const WIDE_MARGIN: f64 = 10.0;
/// Lengths that differ by this factor are a sign.
const LENGTH_RATIO: f64 = 1.5;

/// What the records of a run show.
pub fn signs_of_steps(steps: &[StepRecord]) -> Vec<Sign> {
    if steps.len() < FEWEST_STEPS {
        return Vec::new();
    }
    let window = (steps.len() / WINDOW).max(1);
    let mean = |part: &[StepRecord], of: fn(&StepRecord) -> Option<f64>| {
        let values: Vec<f64> = part.iter().filter_map(of).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let (first, last) = (&steps[..window], &steps[steps.len() - window..]);
    // The level of the rewards of a reward model says nothing, and its margins are what is asked for.
    if first.iter().any(|step| step.preference.is_some_and(|metrics| metrics.rewards.is_some())) {
        return Vec::new();
    }
    let chosen = |step: &StepRecord| step.preference?.chosen_reward;
    let margin = |step: &StepRecord| step.preference?.margin;
    let mut found = Vec::new();
    if let (Some(before), Some(after)) = (mean(first, chosen), mean(last, chosen))
        && after < LOW_REWARD
        && after < before + LOW_REWARD
    {
        found.push(Sign::ChosenFalls { reward: after });
    }
    if let Some(margin) = mean(last, margin).filter(|margin| *margin > WIDE_MARGIN) {
        found.push(Sign::MarginsGrow { margin });
    }
    found
}

/// What the rows show.
pub fn signs_of_rows(samples: &Samples) -> Option<Sign> {
    let mut sides = [(0, 0); 2];
    for sample in samples.iter() {
        let Some(judgement) = sample.judgement() else { continue };
        let side = matches!(judgement.side, Side::Rejected | Side::Undesirable);
        let (tokens, replies) = &mut sides[usize::from(side)];
        *tokens += sample.supervised_tokens();
        *replies += 1;
    }
    let [chosen, rejected] = sides.map(|(tokens, replies)| tokens as f64 / f64::from(replies));
    let ratio = chosen / rejected;
    let differs = !(1.0 / LENGTH_RATIO..=LENGTH_RATIO).contains(&ratio);
    (ratio.is_finite() && differs).then_some(Sign::Lengths { ratio })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preference::PreferenceMetrics;

    fn steps(rewards: impl Iterator<Item = (f64, f64)>) -> Vec<StepRecord> {
        let record = |(i, (chosen, margin)): (usize, (f64, f64))| StepRecord {
            step: i as u64 + 1,
            loss: 0.5,
            grad_norm: 1.0,
            learning_rate: 1e-4,
            tokens: 10,
            computed_tokens: 8,
            supervised_tokens: 4,
            seconds: 1.0,
            tokens_per_s: 10.0,
            peak_rss_bytes: 1,
            peak_device_bytes: None,
            reduction: None,
            preference: Some(PreferenceMetrics {
                chosen_reward: Some(chosen),
                margin: Some(margin),
                ..PreferenceMetrics::default()
            }),
        };
        rewards.enumerate().map(record).collect()
    }

    #[test]
    fn a_run_that_pushes_both_replies_down_is_told() {
        let falls = steps((0..40).map(|i| (-f64::from(i) / 20.0, f64::from(i) / 10.0)));
        assert!(matches!(signs_of_steps(&falls)[..], [Sign::ChosenFalls { reward }] if reward < -1.5));
        let good = steps((0..40).map(|i| (f64::from(i) / 40.0, f64::from(i) / 10.0)));
        assert_eq!(signs_of_steps(&good), []);
        // A loss without a reference begins low; that alone is no sign.
        assert_eq!(signs_of_steps(&steps((0..40).map(|_| (-8.0, 1.0)))), []);
        assert_eq!(signs_of_steps(&falls[..5]), []);
    }

    #[test]
    fn margins_far_beyond_need_are_told() {
        let grows = steps((0..40).map(|i| (0.0, f64::from(i))));
        assert!(matches!(signs_of_steps(&grows)[..], [Sign::MarginsGrow { margin }] if margin > 35.0));
    }
}
