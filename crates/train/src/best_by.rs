//! Which evaluation of a run is its best, whose adapter or model is kept.

use serde::{Deserialize, Serialize};

use crate::checkpoint::Best;
use crate::metrics::EvaluationRecord;

/// What evaluations are compared by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BestBy {
    /// The lowest loss.
    #[default]
    Loss,
    /// The largest share of pairs whose chosen reply is preferred, or of texts that are given their label; of equal ones the lowest
    /// loss.
    Accuracy,
}

impl BestBy {
    /// What evaluations are to lower: the loss, or the share of rows that are judged wrongly; of equal shares the loss.
    pub(crate) fn to_lower(self, record: &EvaluationRecord) -> [f64; 2] {
        match (self, record.accuracy()) {
            (BestBy::Accuracy, Some(share)) if record.loss.is_finite() => [1.0 - share, record.loss],
            (BestBy::Loss | BestBy::Accuracy, _) => [record.loss, 0.0],
        }
    }

    /// Whether an evaluation is better than the best so far. One whose loss is not finite never is.
    pub(crate) fn is_better(self, record: &EvaluationRecord, best: Option<&Best>) -> bool {
        let Some(best) = best else { return record.loss.is_finite() };
        let is_lower = record.loss < best.loss;
        let accuracy = record.accuracy();
        record.loss.is_finite()
            && match (self, accuracy, best.accuracy) {
                (BestBy::Accuracy, Some(share), Some(before)) => {
                    share > before || (share == before && is_lower)
                }
                (BestBy::Loss, _, _) | (BestBy::Accuracy, _, _) => is_lower,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preference::PreferenceMetrics;

    fn evaluation(loss: f64, accuracy: Option<f64>) -> EvaluationRecord {
        let preference = Some(PreferenceMetrics { accuracy, ..PreferenceMetrics::default() });
        EvaluationRecord {
            step: 2,
            loss,
            perplexity: None,
            best: false,
            seconds: 1.0,
            preference,
            classes: None,
        }
    }

    #[test]
    fn the_best_is_that_of_the_lowest_loss_or_of_the_highest_accuracy() {
        let best = Best { step: 1, loss: 0.5, accuracy: Some(0.8) };
        for (by, loss, accuracy, is_better) in [
            (BestBy::Loss, 0.4, Some(0.7), true),
            (BestBy::Loss, 0.6, Some(0.9), false),
            (BestBy::Accuracy, 0.6, Some(0.9), true),
            (BestBy::Accuracy, 0.4, Some(0.7), false),
            (BestBy::Accuracy, 0.4, Some(0.8), true),
            (BestBy::Accuracy, 0.5, Some(0.8), false),
            (BestBy::Accuracy, f64::NAN, Some(0.9), false),
        ] {
            let found = by.is_better(&evaluation(loss, accuracy), Some(&best));
            assert_eq!(found, is_better, "{by:?} {loss} {accuracy:?}");
        }
        assert!(BestBy::Accuracy.is_better(&evaluation(0.9, Some(0.1)), None));
        assert!(!BestBy::Loss.is_better(&evaluation(f64::INFINITY, None), None));
        let judged = evaluation(0.5, Some(0.75));
        assert_eq!(
            [BestBy::Loss, BestBy::Accuracy].map(|by| by.to_lower(&judged)),
            [[0.5, 0.0], [0.25, 0.5]]
        );
        assert_eq!(BestBy::Accuracy.to_lower(&evaluation(0.5, None)), [0.5, 0.0]);
        assert!(BestBy::Accuracy.to_lower(&evaluation(f64::NAN, Some(0.75)))[0].is_nan());
    }
}
