//! What a run on judged replies tells beside its loss, by the names that TRL gives it.

use serde::{Deserialize, Deserializer, Serialize};

/// Means over the replies of a step or an evaluation. A side that has no replies has no numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PreferenceMetrics {
    /// Mean reward of chosen (good) replies: beta times their log-probability above the reference's, or by token, as the loss
    /// has it.
    #[serde(rename = "rewards/chosen", default, skip_serializing_if = "Option::is_none")]
    pub chosen_reward: Option<f64>,
    /// Mean reward of rejected (bad) replies.
    #[serde(rename = "rewards/rejected", default, skip_serializing_if = "Option::is_none")]
    pub rejected_reward: Option<f64>,
    /// Mean reward of chosen replies above that of rejected ones.
    #[serde(rename = "rewards/margins", default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// Share of pairs whose chosen reply has the higher reward; of labels there are no pairs.
    #[serde(rename = "rewards/accuracies", default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Mean log-probability of chosen replies, by token where the loss has it so.
    #[serde(rename = "logps/chosen", default, skip_serializing_if = "Option::is_none")]
    pub chosen_logp: Option<f64>,
    /// Mean log-probability of rejected replies.
    #[serde(rename = "logps/rejected", default, skip_serializing_if = "Option::is_none")]
    pub rejected_logp: Option<f64>,
    /// How far the model is from its reference, in nats by reply, as KTO estimates it.
    #[serde(rename = "kl", default, skip_serializing_if = "Option::is_none")]
    pub distance: Option<f64>,
}

impl PreferenceMetrics {
    /// Those of a record that has some; a record of other training has none.
    pub(crate) fn if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        let found = Self::deserialize(deserializer)?;
        Ok((found != Self::default()).then_some(found))
    }

    /// By their names, those that are there.
    pub fn named(&self) -> Vec<(&'static str, f64)> {
        let all = [
            ("rewards/chosen", self.chosen_reward),
            ("rewards/rejected", self.rejected_reward),
            ("rewards/margins", self.margin),
            ("rewards/accuracies", self.accuracy),
            ("logps/chosen", self.chosen_logp),
            ("logps/rejected", self.rejected_logp),
            ("kl", self.distance),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// Sums from which the means are made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sums {
    /// Reward, log-probability and number of chosen (good) replies, and of rejected (bad) ones.
    sides: [(f64, f64, u64); 2],
    pairs: u64,
    /// Pairs whose chosen reply has the higher reward.
    right: u64,
}

impl Sums {
    /// Counts a reply.
    pub(crate) fn reply(&mut self, is_chosen: bool, reward: f64, logp: f64) {
        let (rewards, logps, count) = &mut self.sides[usize::from(!is_chosen)];
        *rewards += reward;
        *logps += logp;
        *count += 1;
    }

    /// Counts a pair by the rewards of both replies.
    pub(crate) fn pair(&mut self, chosen: f64, rejected: f64) {
        self.pairs += 1;
        self.right += u64::from(chosen > rejected);
    }

    /// With those of other replies.
    pub(crate) fn add(&mut self, other: &Sums) {
        for (side, of_other) in self.sides.iter_mut().zip(other.sides) {
            *side = (side.0 + of_other.0, side.1 + of_other.1, side.2 + of_other.2);
        }
        self.pairs += other.pairs;
        self.right += other.right;
    }

    /// The means.
    pub(crate) fn metrics(&self, distance: Option<f64>) -> PreferenceMetrics {
        let mean = |sum: f64, count: u64| (count > 0).then(|| sum / count as f64);
        let [chosen, rejected] = self.sides;
        let (chosen_reward, rejected_reward) = (mean(chosen.0, chosen.2), mean(rejected.0, rejected.2));
        PreferenceMetrics {
            chosen_reward,
            rejected_reward,
            margin: chosen_reward.zip(rejected_reward).map(|(chosen, rejected)| chosen - rejected),
            accuracy: mean(self.right as f64, self.pairs),
            chosen_logp: mean(chosen.1, chosen.2),
            rejected_logp: mean(rejected.1, rejected.2),
            distance,
        }
    }
}
