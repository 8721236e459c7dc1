//! `--preset`: settings from the size of the data and of the model, for who does not want to choose them.
//!
//! Every rule is a function of a few counts ([`Known`]); what was typed or stands in a file always wins. docs/choosing.md has the
//! sources and what was measured.

use lorafit_remedy::amounts::{counted, grouped};
use lorafit_train::{Averaging, RateTest, rate_test};

use crate::args::config_file::{Given, set_among};
use crate::args::options::{LearningRate, Method, Preset};
use crate::args::train::TrainArgs;
use crate::session::base::Base;
use crate::session::run::Data;
use crate::session::trained::{Trained, parameters_of_rank};

/// What the rules read.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub method: Method,
    /// Rows to train on.
    pub rows: usize,
    /// Tokens of them that count in the loss.
    pub supervised_tokens: usize,
    /// Whether rows are held out.
    pub judged: bool,
    /// Rows of an optimizer step.
    pub rows_of_step: usize,
    pub hidden_size: usize,
    /// Trainable parameters for each rank.
    pub parameters_of_rank: u64,
}

/// A setting, and why it is what it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    pub flag: &'static str,
    pub value: String,
    pub why: String,
}

/// Ranks that are chosen from.
const RANKS: [u64; 5] = [8, 16, 32, 64, 128];
/// What a parameter of an adapter holds, in bits, and what a trained token brings, at most: Schulman et al. 2025, "LoRA Without
/// Regret".
const BITS_OF_PARAMETER: u64 = 2;
const BITS_OF_TOKEN: u64 = 1;

/// The learning rate at which LoRA is expected to train best: ten times that of full fine-tuning, less for wide models, the same
/// for all ranks. Schulman et al. 2025, "LoRA Without Regret", whose fit over Llama models this is.
pub fn expected_rate(method: Method, hidden_size: usize) -> f64 {
    let rate = 5e-4 * (2000.0 / hidden_size as f64).powf(0.775);
    let rate = match method {
        Method::Lora => rate,
        Method::Full => rate / 10.0,
    };
    two_digits(rate)
}

/// A rate as people write one.
pub fn two_digits(rate: f64) -> f64 {
    format!("{rate:.1e}").parse().unwrap_or(rate)
}

/// Steps that a run takes at least, passes over the data at least and at most.
fn length(preset: Preset) -> (usize, f64, f64) {
    match preset {
        Preset::Quick => (60, 1.0, 4.0),
        Preset::Good => (200, 3.0, 10.0),
        Preset::Best => (400, 5.0, 20.0),
    }
}

/// What `preset` sets.
pub fn choices(preset: Preset, known: &Known) -> Vec<Choice> {
    let Known { method, rows, supervised_tokens, judged, rows_of_step, .. } = *known;
    let mut chosen = Vec::new();
    let mut add = |flag, value: String, why: String| chosen.push(Choice { flag, value, why });
    if method == Method::Lora {
        let needed = supervised_tokens as u64 * BITS_OF_TOKEN;
        let holds = |rank: &u64| rank * known.parameters_of_rank * BITS_OF_PARAMETER >= needed;
        let rank = RANKS.into_iter().find(holds).unwrap_or(RANKS[RANKS.len() - 1]);
        let rank = if preset == Preset::Best { (2 * rank).min(RANKS[RANKS.len() - 1]) } else { rank };
        let parameters = grouped(rank * known.parameters_of_rank);
        let tokens = counted(supervised_tokens, "trained token", "trained tokens");
        add("rank", rank.to_string(), format!("{parameters} parameters hold what {tokens} say"));
        add(
            "alpha",
            (2 * rank).to_string(),
            "twice the rank, so that the learning rate need not follow it".to_owned(),
        );
    }
    match preset {
        Preset::Best => add("lr", "auto".to_owned(), "a short test before training finds it".to_owned()),
        Preset::Quick | Preset::Good => {
            let rate = expected_rate(method, known.hidden_size);
            let why = format!("what models of width {} usually take; --lr auto tests it", known.hidden_size);
            add("lr", rate.to_string(), why);
        }
    }
    let (steps, least, most) = length(preset);
    let steps_of_pass = rows.div_ceil(rows_of_step).max(1);
    let passes = (steps as f64 / steps_of_pass as f64).ceil().clamp(least, most);
    let of_all = counted(steps_of_pass * passes as usize, "step", "steps");
    let few = if passes > least { ", more passes than usual since the rows are few" } else { "" };
    add("epochs", passes.to_string(), format!("{of_all} over {}{few}", counted(rows, "row", "rows")));
    if judged && preset != Preset::Quick {
        let every = (steps_of_pass as f64 * passes / 10.0).ceil().max(1.0);
        add("eval-every", every.to_string(), "about ten looks at the held-out rows".to_owned());
        let patience = if preset == Preset::Best { 5 } else { 3 };
        let why = format!("ends the run when {patience} looks in a row find nothing better");
        add("patience", patience.to_string(), why);
    }
    chosen
}

impl TrainArgs {
    /// Sets what `--preset` chooses and nobody has given; what was chosen, for the reader.
    ///
    /// # Errors
    /// A selection of layers or modules that the base does not have.
    pub fn apply_preset(&mut self, given: &Given, base: &Base, data: &Data) -> anyhow::Result<Vec<Choice>> {
        let Some(preset) = self.preset else { return Ok(Vec::new()) };
        let known = Known {
            method: self.method,
            rows: data.rows.samples.len(),
            supervised_tokens: data.rows.report.supervised_tokens,
            judged: data.held_out.is_some(),
            rows_of_step: self.batch_size * self.gradient_accumulation,
            hidden_size: base.model.config().hidden_size,
            parameters_of_rank: parameters_of_rank(self, base)?,
        };
        let mut applied = Vec::new();
        for choice in choices(preset, &known) {
            if self.takes(&choice, given)? {
                self.set(&choice);
                applied.push(choice);
            }
        }
        Ok(applied)
    }

    /// Whether a choice is still open.
    fn takes(&self, choice: &Choice, given: &Given) -> anyhow::Result<bool> {
        let rivals: &[&str] = match choice.flag {
            "epochs" => &["epochs", "max-steps"],
            "rank" | "alpha" if self.adapter.is_some() => return Ok(false),
            // What was given for one of them is meant for the other, too.
            "rank" | "alpha" => &["rank", "alpha"],
            "patience" if matches!(self.average, Some(Averaging::Last(_))) => return Ok(false),
            flag => return Ok(set_among(self, given, &[flag])?.is_none()),
        };
        Ok(set_among(self, given, rivals)?.is_none())
    }

    fn set(&mut self, choice: &Choice) {
        let number = || choice.value.parse::<f64>().expect("a choice is a number");
        match choice.flag {
            "rank" => self.rank = number() as usize,
            "alpha" => self.alpha = number(),
            "lr" => self.lr = Some(choice.value.parse().expect("a learning rate")),
            "epochs" => self.epochs = Some(number()),
            "eval-every" => self.eval_every = Some(number() as usize),
            "patience" => self.patience = Some(number() as usize),
            other => unreachable!("{other} is set by no preset"),
        }
    }
}

/// Of the rate at which the loss of the test was lowest.
const SHARE_OF_LOWEST: f64 = 0.25;
/// How far what a test finds may lie from what is expected.
const FARTHEST: f64 = 4.0;

/// The rate that a test around `expected` speaks for.
pub fn tested_rate(test: &RateTest, expected: f64) -> f64 {
    let finite = test.points.iter().filter(|point| point.loss.is_finite());
    // The loss before a step is what the steps before it made.
    let lowest = finite.min_by(|a, b| a.loss.total_cmp(&b.loss)).map_or(expected, |point| point.rate);
    two_digits((SHARE_OF_LOWEST * lowest).clamp(expected / FARTHEST, expected * FARTHEST))
}

/// The curve of a test in a line: every fourth step, the lowest and the last.
pub fn test_in_words(test: &RateTest) -> String {
    let lowest = test.points.iter().map(|point| point.loss).fold(f64::INFINITY, f64::min);
    let last = test.points.len().saturating_sub(1);
    let shown = test.points.iter().enumerate();
    let shown = shown.filter(|(i, point)| i.is_multiple_of(4) || point.loss == lowest || *i == last);
    let shown: Vec<String> =
        shown.map(|(_, point)| format!("{:.1e} {:.2}", point.rate, point.loss)).collect();
    format!("test of learning rates, rate and loss: {}", shown.join(", "))
}

impl TrainArgs {
    /// Finds the learning rate where it is to be tested, with what the run will train; what was found, for the reader.
    pub fn find_rate(&mut self, base: &Base, data: &Data, trained: &mut Trained) -> Vec<String> {
        if self.lr != Some(LearningRate::Auto) {
            return Vec::new();
        }
        let expected = expected_rate(self.method, base.model.config().hidden_size);
        self.lr = Some(LearningRate::Value(expected));
        if self.method == Method::Full {
            return vec![format!(
                "--lr auto: {expected}, what models of this width take; only adapters are tested"
            )];
        }
        let (parameters, options) = (&mut trained.as_parameters(base), self.loop_options());
        let test = rate_test(parameters, &data.rows.samples, &options, expected);
        let rate = tested_rate(&test, expected);
        self.lr = Some(LearningRate::Value(rate));
        let why = format!(
            "--lr auto: {rate}, a quarter of the rate at which the loss was lowest ({expected} was expected)"
        );
        vec![test_in_words(&test), why]
    }
}

#[cfg(test)]
mod tests {
    use lorafit_train::RatePoint;

    use super::*;

    fn known(rows: usize) -> Known {
        Known {
            method: Method::Lora,
            rows,
            supervised_tokens: 40 * rows,
            judged: rows >= 50,
            rows_of_step: 4,
            hidden_size: 576,
            parameters_of_rank: 305_280,
        }
    }

    fn chosen(preset: Preset, known: &Known) -> Vec<(&'static str, String)> {
        choices(preset, known).into_iter().map(|choice| (choice.flag, choice.value)).collect()
    }

    #[test]
    fn few_rows_take_more_passes_and_many_take_more_rank() {
        let of = |preset, rows| chosen(preset, &known(rows));
        let text = |value: &str| value.to_owned();
        assert_eq!(
            of(Preset::Good, 60),
            [
                ("rank", text("8")),
                ("alpha", text("16")),
                ("lr", text("0.0013")),
                ("epochs", text("10")),
                ("eval-every", text("15")),
                ("patience", text("3"))
            ]
        );
        // Twenty rows are not judged.
        assert_eq!(of(Preset::Quick, 20).last(), Some(&("epochs", text("4"))));
        assert_eq!(of(Preset::Good, 1_000)[3], ("epochs", text("3")));
        // 20 million tokens are more than the parameters of rank 8 hold.
        assert_eq!(of(Preset::Good, 500_000)[0], ("rank", text("64")));
        assert_eq!(
            of(Preset::Best, 60)[..3],
            [("rank", text("16")), ("alpha", text("32")), ("lr", text("auto"))]
        );
        let full = Known { method: Method::Full, ..known(60) };
        assert_eq!(chosen(Preset::Good, &full)[0], ("lr", text("0.00013")));
    }

    #[test]
    fn every_choice_says_why() {
        for preset in [Preset::Quick, Preset::Good, Preset::Best] {
            for rows in [1, 49, 50, 100_000] {
                for choice in choices(preset, &known(rows)) {
                    assert!(choice.why.len() > 20 && !choice.why.ends_with('.'), "{choice:?}");
                }
            }
        }
    }

    #[test]
    fn wide_models_take_lower_rates() {
        let rates = [576, 2048, 4096, 8192].map(|width| expected_rate(Method::Lora, width));
        assert_eq!(rates, [1.3e-3, 4.9e-4, 2.9e-4, 1.7e-4]);
    }

    #[test]
    fn a_test_speaks_for_a_quarter_of_the_lowest_within_reason() {
        let test = |points: &[(f64, f64)]| RateTest {
            points: points.iter().map(|&(rate, loss)| RatePoint { rate, loss }).collect(),
        };
        // SmolLM2-135M on the demo's rows.
        let demo = test(&[(8.1e-5, 3.12), (1.5e-3, 0.59), (4.2e-3, 0.067), (5.4e-3, 0.040), (9.1e-3, 0.31)]);
        assert_eq!(tested_rate(&demo, 1.3e-3), 1.4e-3);
        assert!(test_in_words(&demo).contains("5.4e-3 0.04"), "{}", test_in_words(&demo));
        assert_eq!(tested_rate(&test(&[(1.0, 0.5)]), 1e-3), 4e-3);
        assert_eq!(tested_rate(&test(&[(1e-6, 0.5), (1e-5, f64::INFINITY)]), 1e-3), 2.5e-4);
    }
}
