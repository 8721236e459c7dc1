//! The figures of runs on judged replies beside their loss: curves of rewards, margins, accuracy and log-probabilities, and
//! histograms of the margins of held-out pairs.

use lorafit_remedy::amounts::{counted, grouped};
use lorafit_train::preference::PreferenceMetrics;
use lorafit_train::{Margins, PairMargins};

use super::training::{NamedRun, any_is_long, lines, of_run, raw, smoothed};
use crate::pages::figure::{Axis, Figure, Lines, Plot, Series, Style};

/// A number of judged replies over the steps of runs.
struct Curve {
    what: &'static str,
    of: fn(&PreferenceMetrics) -> Option<f64>,
}

/// Their curves; none where no run is on judged replies.
pub fn curves(runs: &[NamedRun]) -> Vec<Figure> {
    let chosen = |of| Curve { what: "chosen", of };
    let rejected = |of| Curve { what: "rejected", of };
    let of_training = |of| Curve { what: "training", of };
    let all = [
        (
            "rewards",
            "Rewards",
            "Mean reward of the chosen (good) and of the rejected (bad) replies: beta times their log-probability, less that of the \
             reference model if there is one.",
            Axis::linear("reward", "reward"),
            vec![chosen(|metrics| metrics.chosen_reward), rejected(|metrics| metrics.rejected_reward)],
        ),
        (
            "margins",
            "Margins of rewards",
            "Mean reward of the chosen (good) replies less that of the rejected (bad) ones.",
            Axis::linear("margin", "margin"),
            vec![of_training(|metrics| metrics.margin)],
        ),
        (
            "accuracies",
            "Chosen replies preferred",
            "Share of pairs whose chosen reply has the higher reward. A run that begins at its reference has rewards of 0 at first, so \
             that no pair counts.",
            Axis::linear("share of pairs, %", "share_percent").with_zero(),
            vec![of_training(|metrics| metrics.accuracy.map(|share| 100.0 * share))],
        ),
        (
            "log_probabilities",
            "Log-probabilities of replies",
            "Mean log-probability of the chosen (good) and of the rejected (bad) replies: the sum over the tokens of a reply, or their \
             mean if the objective takes that.",
            Axis::linear("log-probability, nats", "log_probability_nats"),
            vec![chosen(|metrics| metrics.chosen_logp), rejected(|metrics| metrics.rejected_logp)],
        ),
        (
            "distance",
            "Distance from the reference",
            "KL divergence of the model from its reference, in nats per reply, as KTO estimates it from replies to other prompts.",
            Axis::linear("KL divergence, nats per reply", "distance_nats").with_zero(),
            vec![of_training(|metrics| metrics.distance)],
        ),
    ];
    let figure = |(name, title, description, axis, curves): (&str, &str, &str, Axis, Vec<Curve>)| {
        let series = series(runs, &curves);
        (!series.is_empty()).then(|| lines(name, title, description, axis, series))
    };
    all.into_iter().filter_map(figure).collect()
}

/// Each step faint and smoothed, and held-out rows with dots. Runs differ by their colour where there are several, else curves do.
fn series(runs: &[NamedRun], curves: &[Curve]) -> Vec<Series> {
    let is_alone = runs.len() == 1;
    let mut series = Vec::new();
    for (place, Curve { what, of }) in curves.iter().enumerate() {
        for (i, run) in runs.iter().enumerate() {
            let value = |metrics: Option<PreferenceMetrics>| {
                metrics.and_then(|metrics| of(&metrics)).unwrap_or(f64::NAN)
            };
            let steps = &run.history.steps;
            let mut every_step = raw(steps, |step| value(step.preference));
            every_step.retain(|(_, value)| value.is_finite());
            let number = if is_alone { place } else { i };
            let (line, dots) = if is_alone || place == 0 {
                (Style::Solid, Style::Dotted)
            } else {
                (Style::Dashed, Style::Points)
            };
            let mut add = |name: &str, style, points| {
                series.push(of_run(runs, run, Series::new(name, number, style, points)));
            };
            let name = format!("{what}, every step");
            if !every_step.is_empty() && !any_is_long(runs, |step| value(step.preference)) {
                add(&name, line, every_step);
            } else if !every_step.is_empty() {
                // Of several runs two curves of each would hide each other.
                if is_alone || curves.len() == 1 {
                    add(&name, Style::Faint, every_step);
                }
                add(&format!("{what}, smoothed"), line, smoothed(steps, |step| value(step.preference)));
            }
            let evaluations = run.history.evaluations.iter();
            let mut held_out: Vec<(f64, f64)> =
                evaluations.map(|one| (one.step as f64, value(one.preference))).collect();
            held_out.retain(|(_, value)| value.is_finite());
            if !held_out.is_empty() {
                let name = if curves.len() == 1 {
                    "held-out rows".to_owned()
                } else {
                    format!("{what}, held-out rows")
                };
                let number = if is_alone { curves.len() + place } else { i };
                series.push(of_run(runs, run, Series::new(&name, number, dots, held_out)));
            }
        }
    }
    series
}

/// Bars of a histogram.
const BARS: usize = 30;

/// Histograms of the margins of held-out pairs, before training and after it, for each run that kept them.
pub fn margins(runs: &[NamedRun]) -> Vec<Figure> {
    let of_run = |run: &NamedRun| Some((run.name.clone(), run.history.margins.clone()?));
    let found: Vec<(String, PairMargins)> = runs.iter().filter_map(of_run).collect();
    found
        .iter()
        .enumerate()
        .filter_map(|(i, (name, margins))| histogram(i, name, margins, runs.len()))
        .collect()
}

fn histogram(i: usize, run: &str, margins: &PairMargins, runs: usize) -> Option<Figure> {
    let latest = margins.latest.as_ref()?;
    let all =
        || margins.start.iter().chain([latest]).flat_map(|of| &of.margins).copied().filter(|m| m.is_finite());
    let (low, high) = all().fold((f64::MAX, f64::MIN), |(low, high), m| (low.min(m), high.max(m)));
    if low > high {
        return None;
    }
    // Equal margins have a bar, too.
    let width = ((high - low) / BARS as f64).max(1e-3);
    // Zero parts two bars: on one side of it the chosen reply is preferred.
    let from = (low / width).floor() as i64;
    let bars = (high / width).floor() as i64 - from + 1;
    let count = |of: &Margins| -> Vec<(f64, f64)> {
        let mut counts = vec![0.0; bars as usize];
        for margin in of.margins.iter().filter(|m| m.is_finite()) {
            counts[((margin / width).floor() as i64 - from) as usize] += 1.0;
        }
        (from..).zip(counts).map(|(bar, pairs)| ((bar as f64 + 0.5) * width, pairs)).collect()
    };
    let after = format!("after step {}", grouped(latest.step));
    let mut series = vec![Series::new(&after, 0, Style::Bars(width), count(latest))];
    let start = margins.start.as_ref();
    series.extend(start.map(|start| Series::new("before training", 1, Style::Outline(width), count(start))));
    let preferred = |of: &Margins| of.margins.iter().filter(|margin| **margin > 0.0).count() as u64;
    let all = counted(latest.margins.len(), "pair", "pairs");
    let shares = match start {
        Some(start) => {
            format!(
                "in {} of {all} before training, in {} {after}",
                grouped(preferred(start)),
                grouped(preferred(latest))
            )
        }
        None => format!("in {} of {all} {after}", grouped(preferred(latest))),
    };
    let description = format!(
        "The reward of the chosen reply less that of the rejected one, of each held-out pair. Above 0 the chosen reply is preferred: \
         {shares}."
    );
    let (x, y) =
        (Axis::linear("margin of a pair", "margin"), Axis::linear("held-out pairs", "pairs").whole());
    let of_run = if runs > 1 { format!(": {run}") } else { String::new() };
    Some(Figure {
        name: if i == 0 { "pair_margins".to_owned() } else { format!("pair_margins-{}", i + 1) },
        title: format!("Margins of held-out pairs{of_run}"),
        description,
        plot: Plot::Lines(Lines::new(x, y, series)),
    })
}
