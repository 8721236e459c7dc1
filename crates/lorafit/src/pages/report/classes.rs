//! The figure of classifiers beside their loss: accuracy and F1 of held-out texts over the steps of runs.

use lorafit_train::ClassMetrics;

use super::training::{NamedRun, lines, of_run};
use crate::pages::figure::{Axis, Figure, Series, Style};

/// The curves; none where no run trains a classifier.
pub fn curves(runs: &[NamedRun]) -> Option<Figure> {
    let mut series = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        let of = |value: fn(ClassMetrics) -> f64| -> Vec<(f64, f64)> {
            let all = run.history.evaluations.iter();
            all.filter_map(|one| Some((one.step as f64, 100.0 * value(one.classes?)))).collect()
        };
        let (accuracy, f1) = (of(|metrics| metrics.accuracy), of(|metrics| metrics.f1));
        if accuracy.is_empty() {
            continue;
        }
        let number = if runs.len() == 1 { [0, 1] } else { [i, i] };
        series.push(of_run(runs, run, Series::new("accuracy", number[0], Style::Solid, accuracy)));
        series.push(of_run(runs, run, Series::new("macro F1", number[1], Style::Dotted, f1)));
    }
    (!series.is_empty()).then(|| {
        lines(
            "accuracy",
            "Accuracy",
            "Accuracy: the share of held-out texts that get their own label. Macro F1: the mean of F1 over the labels.",
            Axis::linear("accuracy and macro F1, %", "share_percent").with_zero(),
            series,
        )
    })
}
