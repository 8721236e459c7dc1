//! What a run writes down: one JSON object a line.

use serde::{Deserialize, Serialize};

use crate::classify::ClassMetrics;
use crate::group::Reduction;
use crate::guard::{Culprit, Refusal};
use crate::number::number_or_null;
use crate::preference::PreferenceMetrics;

/// The file of a run that has one line for each step.
pub(crate) const METRICS: &str = "metrics.jsonl";

/// A line of `metrics.jsonl`: one optimizer step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Number of the step, from 1.
    pub step: u64,
    /// Mean loss over the step's supervised tokens, its judged rows or its classified texts, before the update.
    pub loss: f64,
    /// Norm of all adapter gradients together, before clipping.
    pub grad_norm: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Tokens of the step's samples; labels of texts that are scored are none.
    pub tokens: u64,
    /// Tokens that were computed for them: fewer where samples begin alike.
    pub computed_tokens: u64,
    /// Tokens that count in the loss; of texts that are scored one each, their label.
    pub supervised_tokens: u64,
    /// Wall time of the step.
    pub seconds: f64,
    /// `tokens / seconds`.
    pub tokens_per_s: f64,
    /// The most resident memory the process has had.
    pub peak_rss_bytes: u64,
    /// The most memory the run has had on a GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_device_bytes: Option<u64>,
    /// Of training on judged replies.
    #[serde(
        flatten,
        deserialize_with = "PreferenceMetrics::if_any",
        skip_serializing_if = "Option::is_none"
    )]
    pub preference: Option<PreferenceMetrics>,
    /// Of several processes: what it took to add up their gradients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reduction: Option<Reduction>,
}

/// A line of `metrics.jsonl` in place of a [`StepRecord`]: a step that was computed and not taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SkipRecord {
    /// Number of the step.
    pub step: u64,
    /// What was wrong.
    pub skipped: Culprit,
    /// Its value, as text since JSON has no word for most of them.
    pub value: String,
    /// The lines of its rows in the training data.
    pub lines: Vec<usize>,
}

/// Any line of `metrics.jsonl`.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum MetricsLine {
    Taken(Box<StepRecord>),
    Skipped(SkipRecord),
}

impl From<&Refusal> for SkipRecord {
    fn from(refusal: &Refusal) -> Self {
        let Refusal { step, culprit, value, lines } = refusal;
        SkipRecord { step: *step, skipped: *culprit, value: value.to_string(), lines: lines.clone() }
    }
}

/// A line of `evaluations.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationRecord {
    /// Steps done before; 0 is what the run began with.
    pub step: u64,
    /// Mean loss over the supervised tokens of the evaluation rows, over their judgements or over their texts; NaN, in JSON null, if it is no
    /// finite number.
    #[serde(deserialize_with = "number_or_null")]
    pub loss: f64,
    /// `exp(loss)`; of judged replies there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// True if no earlier evaluation after a step had a lower loss.
    pub best: bool,
    /// Wall time.
    pub seconds: f64,
    /// The metrics of a classifier.
    #[serde(flatten, deserialize_with = "ClassMetrics::if_any", skip_serializing_if = "Option::is_none")]
    pub classes: Option<ClassMetrics>,
    /// Of training on judged replies.
    #[serde(
        flatten,
        deserialize_with = "PreferenceMetrics::if_any",
        skip_serializing_if = "Option::is_none"
    )]
    pub preference: Option<PreferenceMetrics>,
}

impl EvaluationRecord {
    /// Share of pairs whose chosen reply is preferred, or of texts that are given their label.
    pub fn accuracy(&self) -> Option<f64> {
        let of_pairs = self.preference.and_then(|metrics| metrics.accuracy);
        of_pairs.or(self.classes.map(|metrics| metrics.accuracy))
    }

    /// What there is beside loss and perplexity, by its names.
    pub fn named(&self) -> Vec<(&'static str, f64)> {
        let of_pairs = self.preference.map(|metrics| metrics.named()).unwrap_or_default();
        of_pairs.into_iter().chain(self.classes.iter().flat_map(ClassMetrics::named)).collect()
    }
}
