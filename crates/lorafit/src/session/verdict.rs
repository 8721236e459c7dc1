//! The end of a run in words: what its curve says, what to change, and what to run next.

use std::path::Path;

use lorafit_remedy::amounts::{change, percent};
use lorafit_train::{
    BestBy, ClassMetrics, EvaluationRecord, Outcome, Rows, RunFolder, SMOOTHED_STEPS, StoppedEarly, Verdict,
};

use crate::args::options::{BestByChoice, Method, Preset};
use crate::args::train::TrainArgs;
use crate::session::preference;
use crate::terminal::shell::shell_word;

/// A loss that is higher by more than this share at the end has risen.
const CLEAR_RISE: f64 = 0.01;

/// What a run came to, in one line.
pub fn outcome(verdict: &Verdict) -> String {
    let Verdict { outcome, from, to, of, .. } = *verdict;
    let rows = match of {
        Rows::HeldOut => "held-out loss",
        Rows::Training => "training loss, means of the first and the last steps,",
    };
    let change = match from > 0.0 && to.is_finite() {
        true => format!(" ({})", change(from, to)),
        false => String::new(),
    };
    let preferred = verdict.chosen_preferred.map(chosen_preferred).unwrap_or_default();
    let losses = format!("{rows} {} -> {}{change}{preferred}", loss_in_words(from), loss_in_words(to));
    let came = match outcome {
        Outcome::Learnt => format!("learnt: {losses}"),
        Outcome::StillFalling if verdict.has_only_begun() => format!("began to learn: {losses}"),
        Outcome::StillFalling => format!("learnt, and was still learning at the end: {losses}"),
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

/// Where the best that was trained is.
fn best_is_kept(args: &TrainArgs, out: &Path) -> String {
    let by = if args.best_by == Some(BestByChoice::Accuracy) { " by accuracy" } else { "" };
    format!("the best{by} is kept in {}", RunFolder::best_dir(out).display())
}

/// What a run came to: one line that says it, one that says what to do about it if there is something.
pub fn in_words(verdict: &Verdict, args: &TrainArgs, out: &Path) -> Vec<String> {
    let (rate, usual) = (args.rate().unwrap_or_default(), args.default_lr());
    let longer = match verdict.stopped_early {
        Some(_) => "raise --patience".to_owned(),
        None => longer(args, if verdict.has_only_begun() { 4 } else { 2 }),
    };
    let higher = usual.max(rate * 3.0);
    let lower_rate = format!("lower the learning rate: --lr {:.0e}", usual.min(rate / 10.0));
    let advice = match verdict.outcome {
        Outcome::Learnt => None,
        Outcome::StillFalling if verdict.has_only_begun() => {
            Some(format!("train longer ({longer}), or raise the learning rate (--lr {higher:.0e})"))
        }
        Outcome::StillFalling => Some(format!("more steps may lower it further: {longer}")),
        Outcome::OverFitted { since: 0 } => Some(
            "train shorter, or on more rows that are like those held out; --eval-every N shows where it turned"
                .to_owned(),
        ),
        Outcome::OverFitted { .. } => Some(format!(
            "{}; fewer epochs{} or more rows prevent over-fitting",
            best_is_kept(args, out),
            if args.method == Method::Lora { ", a lower --rank" } else { "" },
        )),
        Outcome::Unstable { .. } => Some(format!(
            "{}; lower the learning rate: --lr {:.0e}",
            best_is_kept(args, out),
            usual.min(rate / 3.0)
        )),
        Outcome::Diverged => Some(lower_rate),
        // Its steps were too large.
        Outcome::DidNotLearn if verdict.to > verdict.from * (1.0 + CLEAR_RISE) => Some(lower_rate),
        Outcome::DidNotLearn => Some(format!(
            "raise the learning rate (--lr {higher:.0e}) or train longer ({longer}); lorafit data shows what is trained"
        )),
        Outcome::TooShort => Some(format!("train longer: {longer}")),
    };
    let mut lines = vec![outcome(verdict)];
    lines.extend(advice);
    let is_short =
        matches!(verdict.outcome, Outcome::DidNotLearn | Outcome::TooShort) || verdict.has_only_begun();
    if is_short && args.preset.is_none_or(|preset| preset == Preset::Off) {
        lines.push("--preset good chooses rate, length and rank from the data and the model".to_owned());
    }
    if verdict.few_rows {
        lines.push(
            "few rows are held out, so this is a sign and not a proof: hold out more rows to be sure"
                .to_owned(),
        );
    }
    if verdict.of == Rows::Training {
        lines.push(
            "no rows were held out, so nothing says how good it is on rows that it has not seen: --validation 10% holds some out"
                .to_owned(),
        );
    }
    lines
}

/// The numbers of an evaluation beside its loss: the perplexity, the metrics of preferences, or those of a classifier.
pub fn beside_loss(evaluation: &EvaluationRecord) -> Option<String> {
    let perplexity = evaluation.perplexity.map(|perplexity| format!("perplexity {perplexity:.3}"));
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

/// What precedes the loss of the evaluation that is kept.
pub fn best_in_words(by: Option<BestByChoice>) -> &'static str {
    match by {
        None | Some(BestByChoice::Loss) => "best held-out loss",
        Some(BestByChoice::Accuracy) => "best held-out accuracy: loss",
    }
}

/// An outcome in a word or two, for a table.
pub fn in_short(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Learnt => "learnt",
        Outcome::StillFalling => "still learning",
        Outcome::OverFitted { .. } => "over-fitted",
        Outcome::Unstable { .. } => "got worse",
        Outcome::Diverged => "diverged",
        Outcome::DidNotLearn => "did not learn",
        Outcome::TooShort => "too few steps",
    }
}

/// A loss; one that is not finite says nothing by its value.
fn loss_in_words(loss: f64) -> String {
    match loss.is_finite() {
        true => format!("{loss:.4}"),
        false => "not a number".to_owned(),
    }
}

/// The flag that makes a run so many times longer.
fn longer(args: &TrainArgs, times: u32) -> String {
    match (args.max_steps, args.epochs) {
        // Fewer steps cannot be judged.
        (Some(steps), _) => format!("--max-steps {}", (times as usize * steps).max(SMOOTHED_STEPS)),
        (None, epochs) => format!("--epochs {}", f64::from(times) * epochs.unwrap_or(1.0)),
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
