//! The end of a run in words: what its curve says, what to change, and what to run next.

use std::path::Path;

use lorafit_remedy::amounts::{change, grouped, percent, perplexity};
use lorafit_train::{
    BestBy, ClassMetrics, EvaluationRecord, Outcome, Rows, RunFolder, StoppedEarly, Verdict, blind_loss,
};

use crate::args::options::{BestByChoice, Method};
use crate::args::train::TrainArgs;
use crate::session::advice::Advice;
use crate::session::preference;
use crate::terminal::shell::shell_word;

/// What a run came to, in one line.
pub fn outcome(verdict: &Verdict) -> String {
    let losses = losses(verdict);
    let came = match verdict.outcome {
        Outcome::Learnt => format!("learnt: {losses}"),
        Outcome::Begun => format!("began to learn: {losses}"),
        Outcome::StillFalling => format!("learnt, and was still learning at the end: {losses}"),
        Outcome::Guessing { among } => format!(
            "predicts no better than chance: {losses}; a blind guess among {} has {:.4}",
            grouped(among),
            blind_loss(among)
        ),
        Outcome::OverFitted { since: 0 } => format!("over-fitted: {losses}, while the training loss fell"),
        Outcome::OverFitted { since } => {
            format!("over-fitted since step {since}: {losses} at that step, and higher since")
        }
        Outcome::Unstable { since } => {
            format!(
                "got worse since step {since}: {losses} at that step, and higher since, as on the training rows"
            )
        }
        Outcome::Diverged => format!("diverged: {losses}"),
        Outcome::DidNotLearn => format!("did not learn: {losses}"),
        Outcome::TooShort => format!("too few steps to judge: {losses}"),
    };
    let stopped = verdict.stopped_early.as_ref().map(|stopped| format!("; {}", stopped_early(stopped)));
    came + &stopped.unwrap_or_default()
}

/// The losses of a verdict, before and after. Of one that was not measured nothing is said.
fn losses(verdict: &Verdict) -> String {
    let Verdict { from, to, of, .. } = *verdict;
    let preferred = verdict.chosen_preferred.map(chosen_preferred).unwrap_or_default();
    let (rows, means) = match of {
        Rows::HeldOut => ("held-out loss", ""),
        Rows::Training => ("training loss", ", means of the first and the last steps,"),
    };
    match (from.is_finite(), to.is_finite()) {
        (true, true) => {
            let change = if from > 0.0 { format!(" ({})", change(from, to)) } else { String::new() };
            format!("{rows}{means} {from:.4} -> {to:.4}{change}{preferred}")
        }
        (true, false) => format!("{rows} {from:.4} -> not a number"),
        (false, true) => format!("{rows} not a number -> {to:.4}"),
        (false, false) => format!("the {rows} was never a number"),
    }
}

/// How many pairs are told apart, beside their loss.
fn chosen_preferred(share: f64) -> String {
    format!(", chosen replies preferred in {} of held-out pairs", percent(share, 0))
}

/// Why a run ended before its last step.
fn stopped_early(stopped: &StoppedEarly) -> String {
    let StoppedEarly { step, total_steps, evaluations, min_delta, by } = *stopped;
    let far = if min_delta > 0.0 { format!(" by more than {min_delta}") } else { String::new() };
    let not = match by {
        BestBy::Loss => "did not lower the held-out loss",
        BestBy::Accuracy => "did not raise the accuracy on held-out rows",
    };
    let why = match evaluations {
        1 => format!("the last evaluation {not}{far}"),
        some => format!("{some} evaluations in a row {not}{far}"),
    };
    format!("stopped early after step {step} of {total_steps}, since {why}")
}

/// What a run came to: one line that says it, and what to do about it if there is something. `rows` are those it was trained on,
/// where they are known.
pub fn in_words(verdict: &Verdict, args: &TrainArgs, out: &Path, rows: Option<usize>) -> Vec<String> {
    let advice = Advice { verdict, args, out, rows }.lines();
    std::iter::once(outcome(verdict)).chain(advice).collect()
}

/// The numbers of an evaluation beside its loss: the perplexity, the metrics of preferences, or those of a classifier.
pub fn beside_loss(evaluation: &EvaluationRecord) -> Option<String> {
    let perplexity = evaluation.perplexity.map(|value| format!("perplexity {}", perplexity(value)));
    perplexity.or_else(|| judged_in_short(evaluation))
}

/// The same without perplexity.
fn judged_in_short(evaluation: &EvaluationRecord) -> Option<String> {
    let classes = |ClassMetrics { accuracy, f1 }: ClassMetrics| {
        format!("accuracy {}, macro F1 {f1:.3}", percent(accuracy, 1))
    };
    let of_pairs = evaluation.preference.and_then(|metrics| preference::in_short(&metrics));
    of_pairs.or_else(|| evaluation.classes.map(classes))
}

/// An evaluation of a run: its loss and when it was; of judged replies also how well they are told apart.
pub fn evaluation_in_words(evaluation: &EvaluationRecord) -> String {
    let when = match evaluation.step {
        0 => "before training".to_owned(),
        step => format!("after step {step}"),
    };
    let judged = judged_in_short(evaluation).map(|judged| format!("; {judged}")).unwrap_or_default();
    format!("held-out loss {:.4} {when}{judged}", evaluation.loss)
}

/// The evaluation that is kept: the loss `loss` after `step`, of which `beside` says more, where it was `base` before training.
/// The best of the steps may be worse than what the run began with.
pub fn best_in_words(
    by: Option<BestByChoice>,
    base: Option<f64>,
    (step, loss): (u64, f64),
    beside: &str,
) -> String {
    match (by, base) {
        (Some(BestByChoice::Accuracy), _) => {
            format!("best held-out accuracy: loss {loss:.4}{beside} after step {step}")
        }
        (None | Some(BestByChoice::Loss), Some(base)) if loss >= base => format!(
            "no step lowered the held-out loss, {base:.4} before training: the lowest since is {loss:.4}{beside} after step {step}"
        ),
        (None | Some(BestByChoice::Loss), _) => {
            format!("best held-out loss {loss:.4}{beside} after step {step}")
        }
    }
}

/// An outcome in a word or two, for a table.
pub fn in_short(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Learnt => "learnt",
        Outcome::Begun => "began to learn",
        Outcome::StillFalling => "still learning",
        Outcome::Guessing { .. } => "only guesses",
        Outcome::OverFitted { .. } => "over-fitted",
        Outcome::Unstable { .. } => "got worse",
        Outcome::Diverged => "diverged",
        Outcome::DidNotLearn => "did not learn",
        Outcome::TooShort => "too few steps",
    }
}

/// What to run next, to see what the run has made: a conversation if it was trained on some, else the continuation of a text.
pub fn next_command(args: &TrainArgs, out: &Path, has_best: bool, is_chat: bool) -> String {
    let shown = |path: &Path| shell_word(&path.display().to_string());
    let best = RunFolder::best_dir(out);
    let what = match args.method {
        Method::Lora => {
            let adapter = if has_best { best } else { out.to_owned() };
            let quant = args.base.flags().map(|flags| format!(" {flags}")).unwrap_or_default();
            let model = shell_word(args.model.as_deref().unwrap_or("M"));
            format!("--model {model}{quant} --adapter {}", shown(&adapter))
        }
        Method::Full => {
            format!("--model {}", shown(&if has_best { best } else { RunFolder::model_dir(out) }))
        }
    };
    let text = if args.preference.is_classifier() { "Some text" } else { "A question and its answer" };
    match is_chat {
        _ if args.preference.is_scored() => format!("lorafit generate {what} --prompt \"{text}\""),
        true => format!("lorafit chat {what}"),
        false => format!("lorafit generate {what} --prompt \"Once upon a time\""),
    }
}
