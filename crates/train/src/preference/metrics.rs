//! What a run on judged replies tells beside its loss, by the names that TRL gives it.

use serde::{Deserialize, Deserializer, Serialize};

use super::Objective;

/// Means over the replies of a step or an evaluation. A side that has no replies has no numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct PreferenceMetrics {
    /// Mean reward of chosen (good) replies: beta times their log-probability above the reference's, or by token, as the loss
    /// has it; of a reward model what its head gives.
    pub chosen_reward: Option<f64>,
    /// Mean reward of rejected (bad) replies.
    pub rejected_reward: Option<f64>,
    /// Mean reward of chosen replies above that of rejected ones.
    pub margin: Option<f64>,
    /// Share of pairs whose chosen reply has the higher reward; of labels there are no pairs.
    pub accuracy: Option<f64>,
    /// Mean log-probability of chosen replies, by token where the loss has it so; none of a reward model.
    pub chosen_logp: Option<f64>,
    /// Mean log-probability of rejected replies.
    pub rejected_logp: Option<f64>,
    /// How far the model is from its reference, in nats by reply, as KTO estimates it.
    pub distance: Option<f64>,
    /// The rewards of a reward model, of all replies.
    pub rewards: Option<Rewards>,
}

/// The rewards that a reward model gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rewards {
    /// The lowest.
    pub min: f64,
    /// Their mean.
    pub mean: f64,
    /// The highest.
    pub max: f64,
}

/// [`PreferenceMetrics`] as records have them: TRL's trainer of reward models has other names than its others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Written {
    #[serde(rename = "rewards/chosen", default, skip_serializing_if = "Option::is_none")]
    chosen_reward: Option<f64>,
    #[serde(rename = "rewards/rejected", default, skip_serializing_if = "Option::is_none")]
    rejected_reward: Option<f64>,
    #[serde(rename = "rewards/margins", default, skip_serializing_if = "Option::is_none")]
    margins: Option<f64>,
    #[serde(rename = "rewards/accuracies", default, skip_serializing_if = "Option::is_none")]
    accuracies: Option<f64>,
    #[serde(rename = "logps/chosen", default, skip_serializing_if = "Option::is_none")]
    chosen_logp: Option<f64>,
    #[serde(rename = "logps/rejected", default, skip_serializing_if = "Option::is_none")]
    rejected_logp: Option<f64>,
    #[serde(rename = "kl", default, skip_serializing_if = "Option::is_none")]
    distance: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    margin: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accuracy: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    min_reward: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mean_reward: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_reward: Option<f64>,
}

impl From<PreferenceMetrics> for Written {
    fn from(metrics: PreferenceMetrics) -> Self {
        let PreferenceMetrics { chosen_reward, rejected_reward, margin, accuracy, .. } = metrics;
        let PreferenceMetrics { chosen_logp, rejected_logp, distance, rewards, .. } = metrics;
        let of_pairs = Written {
            chosen_reward,
            rejected_reward,
            chosen_logp,
            rejected_logp,
            distance,
            ..Written::default()
        };
        match rewards {
            None => Written { margins: margin, accuracies: accuracy, ..of_pairs },
            Some(Rewards { min, mean, max }) => Written {
                margin,
                accuracy,
                min_reward: Some(min),
                mean_reward: Some(mean),
                max_reward: Some(max),
                ..of_pairs
            },
        }
    }
}

impl From<Written> for PreferenceMetrics {
    fn from(written: Written) -> Self {
        let Written { chosen_reward, rejected_reward, chosen_logp, rejected_logp, distance, .. } = written;
        let of_rewards = || {
            Some(Rewards { min: written.min_reward?, mean: written.mean_reward?, max: written.max_reward? })
        };
        let rewards = of_rewards();
        // Others than reward models have an accuracy, too.
        let (margin, accuracy) = match rewards {
            Some(_) => (written.margin, written.accuracy),
            None => (written.margins, written.accuracies),
        };
        PreferenceMetrics {
            chosen_reward,
            rejected_reward,
            margin,
            accuracy,
            chosen_logp,
            rejected_logp,
            distance,
            rewards,
        }
    }
}

impl PreferenceMetrics {
    /// Those of a record that has some; a record of other training has none.
    pub(crate) fn if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        let found = Self::deserialize(deserializer)?;
        Ok((found != Self::default()).then_some(found))
    }

    /// By their names, those that are there.
    pub fn named(&self) -> Vec<(&'static str, f64)> {
        let written = Written::from(*self);
        let all = [
            ("rewards/chosen", written.chosen_reward),
            ("rewards/rejected", written.rejected_reward),
            ("rewards/margins", written.margins),
            ("rewards/accuracies", written.accuracies),
            ("logps/chosen", written.chosen_logp),
            ("logps/rejected", written.rejected_logp),
            ("kl", written.distance),
            ("margin", written.margin),
            ("accuracy", written.accuracy),
            ("min_reward", written.min_reward),
            ("mean_reward", written.mean_reward),
            ("max_reward", written.max_reward),
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
    /// The lowest and the highest reward.
    ends: Option<(f64, f64)>,
}

/// The ends of both.
fn wider(one: Option<(f64, f64)>, other: Option<(f64, f64)>) -> Option<(f64, f64)> {
    match (one, other) {
        (Some((low, high)), Some((lower, higher))) => Some((low.min(lower), high.max(higher))),
        (one, other) => one.or(other),
    }
}

impl Sums {
    /// Counts a reply.
    pub(crate) fn reply(&mut self, is_chosen: bool, reward: f64, logp: f64) {
        let (rewards, logps, count) = &mut self.sides[usize::from(!is_chosen)];
        *rewards += reward;
        *logps += logp;
        *count += 1;
        self.ends = wider(self.ends, Some((reward, reward)));
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
        self.ends = wider(self.ends, other.ends);
    }

    /// As numbers, for another process.
    pub(crate) fn to_numbers(self) -> [f64; 10] {
        let [chosen, rejected] = self.sides.map(|(rewards, logps, count)| [rewards, logps, count as f64]);
        let (low, high) = self.ends.unwrap_or((f64::INFINITY, f64::NEG_INFINITY));
        let [pairs, right] = [self.pairs, self.right].map(|count| count as f64);
        [chosen[0], chosen[1], chosen[2], rejected[0], rejected[1], rejected[2], pairs, right, low, high]
    }

    /// Those of [`Sums::to_numbers`].
    pub(crate) fn from_numbers([a, b, c, d, e, f, pairs, right, low, high]: [f64; 10]) -> Self {
        Sums {
            sides: [(a, b, c as u64), (d, e, f as u64)],
            pairs: pairs as u64,
            right: right as u64,
            ends: (low <= high).then_some((low, high)),
        }
    }

    /// The means, of an objective.
    pub(crate) fn metrics(&self, distance: Option<f64>, objective: &Objective) -> PreferenceMetrics {
        let mean = |sum: f64, count: u64| (count > 0).then(|| sum / count as f64);
        let [chosen, rejected] = self.sides;
        let (chosen_reward, rejected_reward) = (mean(chosen.0, chosen.2), mean(rejected.0, rejected.2));
        let is_scored = objective.is_scored();
        let all = mean(chosen.0 + rejected.0, chosen.2 + rejected.2);
        let rewards = all.zip(self.ends).map(|(mean, (min, max))| Rewards { min, mean, max });
        PreferenceMetrics {
            chosen_reward,
            rejected_reward,
            margin: chosen_reward.zip(rejected_reward).map(|(chosen, rejected)| chosen - rejected),
            accuracy: mean(self.right as f64, self.pairs),
            chosen_logp: mean(chosen.1, chosen.2).filter(|_| !is_scored),
            rejected_logp: mean(rejected.1, rejected.2).filter(|_| !is_scored),
            distance,
            rewards: rewards.filter(|_| is_scored),
        }
    }
}
