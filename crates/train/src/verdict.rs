//! What the curve of a run says: whether it learnt, and what to change.
//!
//! The rules are functions of the losses alone. They judge held-out rows where there are some, and training losses where there
//! are none; of the latter no more can be said than that they fell. `verdict/tests.rs` has curves with the verdict of each.

use serde::{Deserialize, Serialize};

use crate::best_by::BestBy;
use crate::middle::{SMOOTHED_STEPS, mean};
use crate::number::number_or_null;

#[cfg(test)]
mod tests;

/// A held-out loss that fell by less than this share of the base's has not fallen.
const LEAST_GAIN: f64 = 0.01;
/// A held-out loss that rose by more than this share above its lowest is over-fitted.
const MOST_RISE: f64 = 0.02;
/// Training losses that rose by more than this share have not fallen.
const CLEAR_RISE: f64 = 0.1;
/// A held-out loss that rose by more than this share above the base's is that of a run that diverged.
const DIVERGED: f64 = 0.25;
/// A loss still falls if the last third of a run brings more than this share of all that was gained ...
const STILL_FALLING: f64 = 0.1;
/// ... or more than this share of the loss itself.
const STILL_SHRINKING: f64 = 0.25;
/// A change of training losses counts if it is so many times their noise.
const SURE: f64 = 3.0;
/// A loss on tokens above this share of that of a blind guess is no better than one: the perplexity is about that of all tokens.
const GUESS_OF_TOKENS: f64 = 0.9;
/// The same of labels, of which there are few.
const GUESS_OF_LABELS: f64 = 0.98;
/// Fewer steps than these say nothing.
const LEAST_STEPS: usize = 4;
/// Fewer held-out rows than these say little.
const FEW_ROWS: usize = 10;

/// What a run is judged by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    /// Losses of the optimizer steps, in order.
    pub training: Vec<f64>,
    /// Steps with the loss on held-out rows after them, in order. At step 0 stands the loss of what the run began with.
    pub held_out: Vec<(u64, f64)>,
    /// Of the same evaluations, the share of held-out pairs whose chosen reply was preferred; none where there are no pairs.
    pub accuracies: Vec<(u64, f64)>,
    /// Steps that were skipped, since their loss or gradient was not a number or far too high.
    pub skipped: u64,
    /// Held-out rows.
    pub held_out_rows: usize,
    /// What the model chooses among, where the loss is that of a choice.
    pub choice: Option<Choice>,
    /// Whether the run ended because losses and gradients were no numbers any more.
    pub diverged: bool,
    /// Why the run ended before its last step, if it did.
    pub stopped_early: Option<StoppedEarly>,
}

/// A run that ended before its last step, since evaluations no longer lowered the loss on held-out rows.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct StoppedEarly {
    /// The step after which it ended.
    pub step: u64,
    /// The steps that it would have had.
    pub total_steps: u64,
    /// Evaluations in a row that lowered nothing.
    pub evaluations: u64,
    /// A loss had to fall by more than this, or an accuracy to rise.
    pub min_delta: f64,
    /// Which of them.
    #[serde(default)]
    pub by: BestBy,
}

/// What a model chooses among.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The tokens of a vocabulary.
    Tokens(usize),
    /// Labels of texts.
    Labels(usize),
}

impl Choice {
    /// How many there are.
    fn among(self) -> usize {
        match self {
            Choice::Tokens(all) | Choice::Labels(all) => all,
        }
    }

    /// Whether a loss is about that of a guess, all being as likely: `ln(n)`.
    fn is_guess(self, loss: f64) -> bool {
        let share = match self {
            Choice::Tokens(_) => GUESS_OF_TOKENS,
            Choice::Labels(_) => GUESS_OF_LABELS,
        };
        self.among() > 1 && loss >= share * blind_loss(self.among() as u64)
    }
}

/// The loss of a blind guess among so many, all being as likely.
pub fn blind_loss(among: u64) -> f64 {
    (among as f64).ln()
}

/// What a curve says.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Verdict {
    /// The outcome.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Loss before training and the lowest after it, on the rows that `of` says. Of training rows: the means of the first and of
    /// the last steps. NaN, in JSON null, where there is no such loss.
    #[serde(deserialize_with = "number_or_null")]
    pub from: f64,
    /// See `from`; NaN, in JSON null, if the run ended without a loss that is a number.
    #[serde(deserialize_with = "number_or_null")]
    pub to: f64,
    /// Which rows those losses are of.
    pub of: Rows,
    /// Share of held-out pairs whose chosen reply was preferred where the loss was `to`; none without such pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_preferred: Option<f64>,
    /// Whether so few rows were held out that chance may decide.
    pub few_rows: bool,
    /// Steps that were skipped.
    pub skipped: u64,
    /// Why the run ended before its last step, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_early: Option<StoppedEarly>,
}

/// The rows that a verdict judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rows {
    /// Rows that were not trained on.
    HeldOut,
    /// The rows that were trained on: how good the result is on others they do not say.
    Training,
}

/// How a run came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum Outcome {
    /// The loss fell and then hardly moved, as far as evaluations say.
    Learnt,
    /// The loss fell, and was falling when the run ended: three points or more say so, of held-out rows or of steps.
    StillFalling,
    /// The loss fell by little, in a run that was short or in which it was falling to the end.
    Begun,
    /// The loss is no better than that of a blind guess: the model predicts nothing.
    Guessing {
        /// Among so many tokens, or labels.
        among: u64,
    },
    /// The loss on held-out rows was lowest after this step and rose from then on; 0 if it never fell while the loss of the
    /// training rows did.
    OverFitted {
        /// The step.
        since: u64,
    },
    /// The loss on held-out rows was lowest after this step and rose from then on, and so did that of the training rows.
    Unstable {
        /// The step.
        since: u64,
    },
    /// The loss rose far above where it began.
    Diverged,
    /// The loss is where it began.
    DidNotLearn,
    /// Fewer steps than say anything.
    TooShort,
}

/// The verdict on a curve; `None` where nothing was trained.
pub fn verdict(curve: &Curve) -> Option<Verdict> {
    let Curve { skipped, stopped_early, .. } = *curve;
    let few_rows = curve.held_out_rows < FEW_ROWS;
    let of_training = |outcome, (from, to)| Verdict {
        outcome,
        from,
        to,
        of: Rows::Training,
        chosen_preferred: None,
        few_rows: false,
        skipped,
        stopped_early,
    };
    let (base, later) = match &curve.held_out[..] {
        [(0, base), later @ ..] => (Some(*base), later),
        all => (None, all),
    };
    if curve.diverged && later.iter().all(|(_, loss)| loss.is_finite()) {
        // It was at a step that there was no number: no evaluation has seen it.
        let from = ends(&curve.training).map_or(f64::NAN, |(first, _)| first);
        return Some(of_training(Outcome::Diverged, (from, f64::NAN)));
    }
    let Some(base) = base.filter(|_| !later.is_empty()) else {
        let (first, last) = ends(&curve.training)?;
        let outcome = unless_guessed(outcome_of_training(&curve.training, first, last), curve.choice, last);
        return Some(of_training(outcome, (first, last)));
    };
    let best = lowest(later).filter(|_| !curve.diverged);
    let (step, to) = best.unwrap_or((0, f64::NAN));
    let outcome = match curve.diverged {
        true => Outcome::Diverged,
        false => unless_guessed(of_held_out(base, later, &curve.training), curve.choice, to),
    };
    let chosen_preferred = curve.accuracies.iter().find(|(of, _)| *of == step).map(|(_, share)| *share);
    let of = Rows::HeldOut;
    Some(Verdict { outcome, from: base, to, of, chosen_preferred, few_rows, skipped, stopped_early })
}

/// An outcome that says that something was learnt; or, of a loss that fell no lower than that of a blind guess, that the model
/// guesses.
fn unless_guessed(outcome: Outcome, choice: Option<Choice>, loss: f64) -> Outcome {
    match (outcome, choice) {
        (Outcome::Diverged | Outcome::DidNotLearn | Outcome::TooShort, _) | (_, None) => outcome,
        (_, Some(choice)) if choice.is_guess(loss) => Outcome::Guessing { among: choice.among() as u64 },
        (_, Some(_)) => outcome,
    }
}

/// The point with the lowest loss, the first of equals.
fn lowest(points: &[(u64, f64)]) -> Option<(u64, f64)> {
    points.iter().copied().filter(|(_, loss)| loss.is_finite()).min_by(|a, b| a.1.total_cmp(&b.1))
}

/// `later` has one evaluation or more, after steps.
fn of_held_out(base: f64, later: &[(u64, f64)], training: &[f64]) -> Outcome {
    let (Some(best), Some(&(_, last))) = (lowest(later), later.last()) else { return Outcome::Diverged };
    let gained = base - best.1;
    if !last.is_finite() {
        return Outcome::Diverged;
    }
    if gained < base * LEAST_GAIN {
        if training.len() < LEAST_STEPS {
            return Outcome::TooShort;
        }
        // Rows that were trained on were learnt, and nothing that holds for others.
        return match (training_fell(training), last > base * (1.0 + DIVERGED)) {
            (true, _) => Outcome::OverFitted { since: 0 },
            (false, true) => Outcome::Diverged,
            (false, false) => Outcome::DidNotLearn,
        };
    }
    if last > best.1 * (1.0 + MOST_RISE) {
        let since = best.0;
        return match training_rose(training, since, base) {
            true => Outcome::Unstable { since },
            false => Outcome::OverFitted { since },
        };
    }
    // What the last third of the evaluations brought. Of a single one nothing is said: the steps tell.
    let falls = match later.len() {
        1 => falls_at_its_end(training),
        n => {
            let before = lowest(&later[..n - n.div_ceil(3)]).map_or(base, |(_, loss)| loss);
            let fall = before - best.1;
            fall > STILL_FALLING * gained || fall > STILL_SHRINKING * before
        }
    };
    let gained_little = gained < STILL_SHRINKING * base;
    // A short run has so few steps that the rows of each decide: it has learnt all that it can only if it learnt much.
    let is_short = later.len() < 3 && training.len() < SMOOTHED_STEPS;
    match (falls, gained_little) {
        (true, true) => Outcome::Begun,
        (true, false) => Outcome::StillFalling,
        (false, true) if is_short => Outcome::Begun,
        (false, _) => Outcome::Learnt,
    }
}

fn outcome_of_training(losses: &[f64], first: f64, last: f64) -> Outcome {
    if losses.len() < LEAST_STEPS {
        return Outcome::TooShort;
    }
    let rose = last - first > (first * DIVERGED).max(SURE * noise_of_ends(losses));
    match training_fell(losses) {
        _ if !last.is_finite() || rose => Outcome::Diverged,
        // The rows of a step differ, and so do their losses.
        false if losses.len() < SMOOTHED_STEPS => Outcome::TooShort,
        false => Outcome::DidNotLearn,
        true if !falls_at_its_end(losses) => Outcome::Learnt,
        true if first - last < STILL_SHRINKING * first => Outcome::Begun,
        true => Outcome::StillFalling,
    }
}

/// Whether the loss of training rows is clearly higher at the end than before step `since`: rows that are learnt by heart have a
/// lower one.
fn training_rose(losses: &[f64], since: u64, base: f64) -> bool {
    let since = (since as usize).min(losses.len());
    let before = &losses[since.saturating_sub(SMOOTHED_STEPS)..since];
    let after = &losses[since.max(losses.len().saturating_sub(SMOOTHED_STEPS))..];
    if before.is_empty() || after.is_empty() {
        return false;
    }
    let (before, after) = (mean(before), mean(after));
    after - before > (CLEAR_RISE * before).max(LEAST_GAIN * base)
}

/// Whether the loss of training rows is lower at the end than at the beginning, by more than the noise of both.
fn training_fell(losses: &[f64]) -> bool {
    let Some((first, last)) = ends(losses) else { return false };
    first - last >= (first * LEAST_GAIN).max(SURE * noise_of_ends(losses))
}

/// Means of the first and of the last steps: at the end of [`SMOOTHED_STEPS`], or of a fifth of a shorter run; at the beginning
/// of a quarter of these, before much has changed.
fn ends(losses: &[f64]) -> Option<(f64, f64)> {
    if losses.is_empty() {
        return None;
    }
    let (first, last) = steps_of_ends(losses);
    Some((mean(&losses[..first]), mean(&losses[losses.len() - last..])))
}

/// So many steps are the beginning and the end of a run.
fn steps_of_ends(losses: &[f64]) -> (usize, usize) {
    let last = (losses.len() / 5).clamp(1, SMOOTHED_STEPS);
    ((last / 4).max(1), last)
}

/// The standard error of the difference of the means that [`ends`] gives. The noise of a step is estimated from the differences
/// of neighbours (von Neumann 1941), which a trend hardly changes.
fn noise_of_ends(losses: &[f64]) -> f64 {
    let squares = losses.windows(2).map(|pair| (pair[1] - pair[0]).powi(2)).sum::<f64>();
    let variance = squares / 2.0 / (losses.len().max(2) - 1) as f64;
    let (first, last) = steps_of_ends(losses);
    (variance * (1.0 / first as f64 + 1.0 / last as f64)).sqrt()
}

/// Whether training losses fall at the end of a run: the straight line through its second half falls by more than the noise
/// around it, and by so much that half as many steps again would bring a share of the whole fall that is worth them.
fn falls_at_its_end(losses: &[f64]) -> bool {
    /// Fewer steps than these have no line.
    const LEAST: usize = 10;
    /// Of a normal distribution 5 % are beyond so many standard errors.
    const ONE_SIDED: f64 = 1.645;
    let end = &losses[losses.len() - (losses.len() / 2).max(LEAST).min(losses.len())..];
    if end.len() < 4 {
        return false;
    }
    let (_, ends) = steps_of_ends(losses);
    let whole = mean(&losses[..ends]) - mean(&losses[losses.len() - ends..]);
    let n = end.len() as f64;
    let (middle, level) = ((n - 1.0) / 2.0, mean(end));
    let spread: f64 = (0..end.len()).map(|i| (i as f64 - middle).powi(2)).sum();
    let slope =
        end.iter().enumerate().map(|(i, loss)| (i as f64 - middle) * (loss - level)).sum::<f64>() / spread;
    let residual = |(i, loss): (usize, &f64)| (loss - level - slope * (i as f64 - middle)).powi(2);
    let noise = (end.iter().enumerate().map(residual).sum::<f64>() / (n - 2.0) / spread).sqrt();
    let gain = -slope * losses.len() as f64 / 2.0;
    slope < -ONE_SIDED * noise && gain > STILL_FALLING * whole
}
