//! What a classifier makes of held-out texts: loss, accuracy and F1, and what its head gives each text.
//!
//! The head gives a number for each label; probabilities are their softmax, and the answer is the label of the largest, of equal
//! ones the first. The loss is the mean of `-log p(label)`. F1 of a label is `2 tp / (2 tp + fp + fn)`, and that of all is the mean over
//! the labels that some text has or is given (macro F1, `sklearn.metrics.f1_score(average="macro")`). Sums are in f64.

use lorafit_data::Samples;
use lorafit_kernels::ops::attention::{Segment, Segments};
use lorafit_kernels::ops::cross_entropy::Target;
use lorafit_model::adapter::Adapter;
use lorafit_model::{Buffers, Model, Stream};
use serde::{Deserialize, Deserializer, Serialize};

use crate::evaluate::buffers_and_cut;
use crate::frozen::{FrozenOutputs, Share};
use crate::stream::{Cut, cut};

/// How good the answers of a classifier are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassMetrics {
    /// Share of texts that are given their label.
    pub accuracy: f64,
    /// Mean over labels of what is found and what is right of them.
    pub f1: f64,
}

impl ClassMetrics {
    /// Of texts with the labels `expected`, that are given the labels `answers`; zeros of none.
    pub fn of(expected: &[u32], answers: &[u32]) -> Self {
        let labels = expected.iter().chain(answers).max().map_or(0, |most| *most as usize + 1);
        // Of each label the texts that have it and are given it, and those that have it or are given it, each counted.
        let mut counts = vec![(0_u64, 0_u64); labels];
        let mut right = 0;
        for (expected, answer) in expected.iter().zip(answers) {
            counts[*expected as usize].1 += 1;
            counts[*answer as usize].1 += 1;
            if expected == answer {
                counts[*expected as usize].0 += 1;
                right += 1;
            }
        }
        let each: Vec<f64> = counts
            .into_iter()
            .filter(|(_, either)| *either > 0)
            .map(|(both, either)| 2.0 * both as f64 / either as f64)
            .collect();
        let mean = |sum: f64, count: usize| if count > 0 { sum / count as f64 } else { 0.0 };
        ClassMetrics {
            accuracy: mean(f64::from(right), expected.len()),
            f1: mean(each.iter().sum(), each.len()),
        }
    }

    /// Those of a record that has them.
    pub(crate) fn if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        #[derive(Deserialize)]
        struct Some {
            #[serde(default)]
            accuracy: Option<f64>,
            #[serde(default)]
            f1: Option<f64>,
        }
        let Some { accuracy, f1 } = Some::deserialize(deserializer)?;
        Ok(accuracy.zip(f1).map(|(accuracy, f1)| ClassMetrics { accuracy, f1 }))
    }

    /// By their names.
    pub fn named(&self) -> Vec<(&'static str, f64)> {
        vec![("accuracy", self.accuracy), ("f1", self.f1)]
    }
}

/// What held-out texts come to.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassEvaluation {
    /// Mean over the texts.
    pub loss: f64,
    /// How good the answers are.
    pub metrics: ClassMetrics,
    /// What the head gives each text, in the order of the samples.
    pub scores: Vec<Vec<f32>>,
}

/// The probabilities of labels with these scores.
pub fn probabilities(scores: &[f32]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shares: Vec<f64> = scores.iter().map(|score| f64::from(score - largest).exp()).collect();
    let total: f64 = shares.iter().sum();
    shares.into_iter().map(|share| share / total).collect()
}

/// The label with the largest of these scores, of equal ones the first.
pub fn likeliest(scores: &[f32]) -> u32 {
    let larger = |best: usize, i: usize| if scores[i] > scores[best] { i } else { best };
    (1..scores.len()).fold(0, larger) as u32
}

/// `-log p(label)`.
fn loss(scores: &[f32], label: u32) -> f64 {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = scores.iter().map(|score| f64::from(score - largest).exp()).sum();
    total.ln() - f64::from(scores[label as usize] - largest)
}

/// Evaluates texts with their labels in micro-batches of about `budget` tokens. `None` if it is to `stop`, which is asked before every
/// micro-batch.
pub fn evaluate_classes(
    model: &Model,
    adapter: Option<&Adapter>,
    samples: &Samples,
    budget: usize,
    stop: &mut dyn FnMut() -> bool,
) -> Option<ClassEvaluation> {
    let (mut buffers, cut) = buffers_and_cut(model, adapter, samples, budget);
    evaluate_in(model, adapter, samples, cut, &mut buffers, stop)
}

/// As [`evaluate_classes`], in buffers that are already there.
pub(crate) fn evaluate_in(
    model: &Model,
    adapter: Option<&Adapter>,
    samples: &Samples,
    how: Cut,
    buffers: &mut Buffers,
    stop: &mut dyn FnMut() -> bool,
) -> Option<ClassEvaluation> {
    let all: Vec<usize> = (0..samples.len()).collect();
    let all = Share { samples, indices: &all, frozen: None };
    Some(ClassEvaluation::of(samples, scores_in(model, adapter, all, how, buffers, stop)?))
}

/// What the head gives each sample of a share; nothing of the others. `None` if it is to `stop`.
pub(crate) fn scores_in(
    model: &Model,
    adapter: Option<&Adapter>,
    Share { samples, indices, frozen }: Share<'_>,
    how: Cut,
    buffers: &mut Buffers,
    stop: &mut dyn FnMut() -> bool,
) -> Option<Vec<Vec<f32>>> {
    let labels = model.config().outputs();
    let mut scores: Vec<Vec<f32>> = vec![Vec::new(); samples.len()];
    for micro in cut(samples, indices, how) {
        if stop() {
            return None;
        }
        let scores_of = |stream: Stream<'_>, buffers: &mut Buffers| model.scores(adapter, stream, buffers);
        let found = FrozenOutputs::above(frozen, &micro, model, buffers, scores_of);
        micro.for_each_owner(|target, place, _| {
            scores[micro.sample(place)] = found[target * labels..(target + 1) * labels].to_vec();
        });
    }
    Some(scores)
}

impl ClassEvaluation {
    /// Of samples that the head gives these scores.
    pub(crate) fn of(samples: &Samples, scores: Vec<Vec<f32>>) -> Self {
        let expected: Vec<u32> = samples.iter().map(|sample| sample.ids[sample.len() - 1]).collect();
        let answers: Vec<u32> = scores.iter().map(|scores| likeliest(scores)).collect();
        let total: f64 = scores.iter().zip(&expected).map(|(scores, label)| loss(scores, *label)).sum();
        ClassEvaluation {
            loss: total / samples.len() as f64,
            metrics: ClassMetrics::of(&expected, &answers),
            scores,
        }
    }
}

/// What the head of a model that scores texts gives the text with these tokens.
///
/// # Panics
/// When there are no tokens.
pub fn score_text(model: &Model, adapter: Option<&Adapter>, ids: &[u32]) -> Vec<f32> {
    let tokens = ids.len();
    let positions: Vec<u32> = (0..tokens as u32).collect();
    let segments =
        Segments::new(vec![Segment { start: 0, len: tokens, parent: None }], tokens).expect("one segment");
    let segments = segments.with_text_lengths(vec![tokens]);
    let last = Target { row: tokens as u32 - 1, id: 0, weight: 1.0 };
    let stream = Stream { ids, positions: &positions, segments: &segments, targets: &[last], below: 0 };
    let mut buffers = Buffers::for_evaluation(model.config(), adapter, model.device(), tokens);
    model.scores(adapter, stream, &mut buffers)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::*;

    /// What `sklearn.metrics` says (`scripts/make_metric_fixtures.py`).
    #[test]
    fn accuracy_and_f1_are_those_of_scikit_learn() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/metrics/classes.json");
        let text = std::fs::read_to_string(path).expect("reads");
        let cases: Vec<Value> = serde_json::from_str(&text).expect("JSON");
        assert!(cases.len() > 5);
        for case in cases {
            let labels = |key: &str| -> Vec<u32> {
                serde_json::from_value(case[key].clone()).expect("a list of numbers")
            };
            let found = ClassMetrics::of(&labels("expected"), &labels("answers"));
            for (name, value) in found.named() {
                let expected = case[name].as_f64().expect("a number");
                // Both are quotients of sums of whole numbers.
                assert!((value - expected).abs() < 1e-12, "{name} {value} of {case}");
            }
        }
    }

    #[test]
    fn probabilities_are_shares_whatever_the_scores() {
        for scores in [&[0.0, 0.0][..], &[1e30, -1e30], &[-1e4, -1e4 + 1.0, 3.0], &[88.0, 89.0]] {
            let found = probabilities(scores);
            assert!((found.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{found:?}");
            let best = likeliest(scores) as usize;
            assert!(found.iter().all(|share| *share <= found[best]), "{found:?}");
            assert!((loss(scores, best as u32) + found[best].ln()).abs() < 1e-9);
        }
        assert_eq!(likeliest(&[0.5, 0.5, 0.1]), 0);
    }
}
