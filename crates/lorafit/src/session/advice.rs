//! What to change after a run, as flags that work when they are added to its command.

use std::path::Path;

use lorafit_data::HeldOut;
use lorafit_remedy::amounts::counted;
use lorafit_train::{Outcome, Rows, RunFolder, SMOOTHED_STEPS, StoppedEarly, Verdict};

use crate::args::options::{BestByChoice, Init, Method, Preset};
use crate::args::train::TrainArgs;
use crate::terminal::shell::shell_word;

/// A loss that is higher by more than this share at the end has risen.
const CLEAR_RISE: f64 = 0.01;
/// Of fewer rows a tenth is none.
const FEWEST_FOR_SHARE: usize = 10;
/// Evaluations that show where a loss turned.
const LOOKS: u64 = 10;

/// What holds some of so many rows out; nothing where there is one row, or none.
pub fn hold_out(rows: Option<usize>) -> Option<&'static str> {
    match rows {
        Some(0 | 1) => None,
        Some(2..FEWEST_FOR_SHARE) => Some("--validation 1"),
        Some(_) | None => Some("--validation 10%"),
    }
}

/// What a run is advised from.
#[derive(Clone, Copy)]
pub struct Advice<'a> {
    pub verdict: &'a Verdict,
    pub args: &'a TrainArgs,
    /// The folder of the run.
    pub out: &'a Path,
    /// Its rows to train on, where they are known.
    pub rows: Option<usize>,
}

impl Advice<'_> {
    /// What to change, if anything.
    pub fn lines(&self) -> Vec<String> {
        let Verdict { outcome, few_rows, of, .. } = *self.verdict;
        let mut lines = Vec::from_iter(self.change());
        let is_short = matches!(outcome, Outcome::DidNotLearn | Outcome::TooShort | Outcome::Begun);
        if is_short && self.args.preset.is_none_or(|preset| preset == Preset::Off) {
            lines.push(
                "--preset good chooses rate, length and rank from the data and the model, where they are not given"
                    .to_owned(),
            );
        }
        if few_rows {
            lines.push(
                "few rows are held out, so this is a sign and not a proof: hold out more rows to be sure"
                    .to_owned(),
            );
        }
        // How good a run that diverged is on other rows nobody asks.
        let auto_or_none = matches!(self.args.held_out(), None | Some(HeldOut::Auto));
        let is_none_held_out = auto_or_none && self.args.eval_data.is_empty();
        if of == Rows::Training && outcome != Outcome::Diverged && is_none_held_out {
            let how = match hold_out(self.rows) {
                Some(flag) => format!("{flag} holds some out"),
                None => "that takes more rows".to_owned(),
            };
            lines.push(format!(
                "no rows were held out, so nothing says how good it is on rows that it has not seen: {how}"
            ));
        }
        lines
    }

    /// The first thing to change, if anything.
    pub fn change(&self) -> Option<String> {
        let Verdict { from, to, .. } = *self.verdict;
        match self.verdict.outcome {
            Outcome::Learnt => None,
            Outcome::Begun => Some(match self.higher_rate() {
                Some(rate) => {
                    format!("train longer ({}), or raise the learning rate: {rate}", self.longer(4))
                }
                None => format!("train longer: {}", self.longer(4)),
            }),
            Outcome::StillFalling => Some(format!("more steps may lower it further: {}", self.longer(2))),
            Outcome::OverFitted { since: 0 } => Some(self.over_fitted_at_once()),
            Outcome::OverFitted { .. } => {
                let rank = match (self.args.method, self.args.rank) {
                    (Method::Lora, 2..) if self.args.adapter.is_none() => {
                        format!(", a lower rank (--rank {})", self.args.rank / 2)
                    }
                    (Method::Lora | Method::Full, _) => String::new(),
                };
                let kept = self.best_is_kept();
                Some(format!("{kept}; fewer epochs{rank} or more rows prevent over-fitting"))
            }
            Outcome::Unstable { .. } => {
                Some(format!("{}{}", self.best_is_kept(), self.lower_rate("; ", 3.0)))
            }
            Outcome::Diverged => Some(self.lower_rate("", 10.0)).filter(|text| !text.is_empty()),
            // Its steps were too large.
            Outcome::DidNotLearn if to > from * (1.0 + CLEAR_RISE) => {
                Some(self.lower_rate("", 10.0)).filter(|text| !text.is_empty())
            }
            Outcome::DidNotLearn => {
                let rate = self.higher_rate().map(|rate| format!("raise the learning rate ({rate}), or "));
                let (rate, longer) = (rate.unwrap_or_default(), self.longer(2));
                Some(format!("{rate}train longer ({longer}); {} shows what is trained", self.data_command()))
            }
            Outcome::Guessing { .. } => Some(self.guessing()),
            Outcome::TooShort => Some(format!("train longer: {}", self.longer(2))),
        }
    }

    /// A model that guesses after training: one that began random has learnt too little, another does not fit its tokens.
    fn guessing(&self) -> String {
        let rate = self.higher_rate().map(|rate| format!(", or raise the learning rate ({rate})"));
        let longer = format!("train longer ({}){}", self.longer(4), rate.unwrap_or_default());
        let command = self.data_command();
        match (self.args.init == Init::Random, self.args.preference.is_classifier()) {
            (true, _) => format!("the model began random: {longer}"),
            (false, true) => format!("look at the labels, which {command} shows; then {longer}"),
            (false, false) => {
                format!(
                    "look at the template and the tokenizer: {command} shows rows as the model reads them; then {longer}"
                )
            }
        }
    }

    fn over_fitted_at_once(&self) -> String {
        let shorter = "train shorter, or on more rows that are like those held out";
        let looks = self.steps().map(|steps| steps / LOOKS).filter(|_| self.args.eval_every.is_none());
        match looks {
            Some(every) => format!("{shorter}; --eval-every {} shows where it turned", every.max(1)),
            None => shorter.to_owned(),
        }
    }

    /// Where the best that was trained is.
    fn best_is_kept(&self) -> String {
        let by = if self.args.best_by == Some(BestByChoice::Accuracy) { " by accuracy" } else { "" };
        format!("the best{by} is kept in {}", RunFolder::best_dir(self.out).display())
    }

    /// The command that shows what is trained on.
    fn data_command(&self) -> String {
        let files = self.args.data.iter().map(|file| shell_word(file)).collect::<Vec<_>>().join(" ");
        let model = shell_word(self.args.model.as_deref().unwrap_or("M"));
        let template = self.args.template.template.as_ref();
        let template = template.map(|name| format!(" --template {}", shell_word(name))).unwrap_or_default();
        let objective = match self.args.preference.is_scored() {
            true => format!(" --objective {}", self.args.preference.objective),
            false => String::new(),
        };
        format!("lorafit data {files} --model {model}{template}{objective}")
    }

    /// Optimizer steps of a pass over the rows, where they are known.
    fn steps_of_pass(&self) -> Option<usize> {
        let of_step = (self.args.batch_size * self.args.gradient_accumulation).max(1);
        self.rows.map(|rows| rows.div_ceil(of_step).max(1))
    }

    /// Optimizer steps of the run, where they are known.
    fn steps(&self) -> Option<u64> {
        let passes = |epochs: f64| self.steps_of_pass().map(|steps| (steps as f64 * epochs).ceil() as u64);
        match self.args.max_steps {
            Some(steps) => Some(steps as u64),
            None => passes(self.args.epochs.unwrap_or(1.0)),
        }
    }

    /// What makes a run so many times longer, and long enough to be judged.
    fn longer(&self, times: usize) -> String {
        if let Some(StoppedEarly { evaluations, min_delta, .. }) = self.verdict.stopped_early {
            return match min_delta > 0.0 {
                // Smaller gains count, too.
                true => "--min-delta 0".to_owned(),
                false => format!("--patience {}", 2 * evaluations),
            };
        }
        match (self.args.max_steps, self.args.epochs) {
            (Some(steps), _) => format!("--max-steps {}", steps.saturating_mul(times).max(SMOOTHED_STEPS)),
            (None, epochs) => {
                let least = self.steps_of_pass().map_or(1, |steps| SMOOTHED_STEPS.div_ceil(steps));
                let epochs = (times as f64 * epochs.unwrap_or(1.0)).ceil();
                format!("--epochs {}", epochs.max(least as f64))
            }
        }
    }

    /// A higher learning rate, if there is one.
    fn higher_rate(&self) -> Option<String> {
        let (rate, usual) = (self.args.rate()?, self.args.default_lr());
        let is_tested = self.args.method == Method::Lora
            && (self.args.preference.objective().is_none() || self.args.preference.is_scored());
        match rate < usual {
            true if is_tested => Some("--lr auto finds one".to_owned()),
            true => Some(format!("--lr {usual:.0e}")),
            false => flag_of_rate(3.0 * rate),
        }
    }

    /// A rate that is lower by so much or that is usual, with what stands before it; nothing if there is none.
    fn lower_rate(&self, before: &str, times: f64) -> String {
        let usual = self.args.default_lr();
        let rate = self.args.rate().unwrap_or(usual);
        let flag = flag_of_rate(usual.min(rate / times));
        flag.map(|flag| format!("{before}lower the learning rate: {flag}")).unwrap_or_default()
    }
}

/// A rate with one digit, if it is one that a run takes.
fn flag_of_rate(rate: f64) -> Option<String> {
    let text = format!("{rate:.0e}");
    let taken = text.parse::<f64>().is_ok_and(|rate| rate > 0.0 && rate.is_finite());
    taken.then(|| format!("--lr {text}"))
}

/// A hint for whoever has to hold out some of so many rows.
pub fn hold_out_hint(rows: usize) -> String {
    match hold_out(Some(rows)) {
        Some(flag) => format!("hold some out with {flag}, or give held-out rows with --eval-data DATA"),
        None => format!(
            "of {} none can be held out: give held-out rows with --eval-data DATA, or train without with --validation none",
            counted(rows, "row", "rows")
        ),
    }
}

#[cfg(test)]
mod tests;
