//! `--preset`: settings from the size of the data and of the model, for who does not want to choose them.
//!
//! `good` chooses unless another preset is given; `off` chooses nothing. Every rule is a function of a few counts ([`Known`]), and
//! what was typed or stands in a file always wins. docs/choosing.md has the sources and what was measured.

use lorafit_data::Dataset;
use lorafit_model::adapter::Adapter;
use lorafit_remedy::amounts::{counted, grouped};
use lorafit_train::{Averaging, RateTest, rate_test};

use crate::args::config_file::Given;
use crate::args::options::{Init, LearningRate, Method, Preset};
use crate::args::train::TrainArgs;
use crate::session::base::Base;
use crate::session::run::Data;
use crate::session::trained::{Trained, parameters_of_rank};

/// What the rules read.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub method: Method,
    /// The fixed learning rate, where a rule of its own says that it is taken, with the rule.
    pub fixed_rate: Option<(f64, &'static str)>,
    /// Rows to train on.
    pub rows: usize,
    /// Whether their replies are judged.
    pub is_judged: bool,
    /// Tokens of them that count in the loss.
    pub supervised_tokens: usize,
    /// What those are called, one and several.
    pub learnt: [&'static str; 2],
    /// Rows that are held out.
    pub held_out: usize,
    /// Rows of an optimizer step.
    pub rows_of_step: usize,
    /// Optimizer steps of the run, where its length is given.
    pub steps: Option<u64>,
    /// Steps between two evaluations, where that is given.
    pub eval_every: Option<u64>,
    /// Whether the patience is given.
    pub is_patient: bool,
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

/// Trained tokens that so many parameters of an adapter hold.
pub fn tokens_held(parameters: u64) -> u64 {
    parameters * BITS_OF_PARAMETER / BITS_OF_TOKEN
}

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
        Preset::Off | Preset::Quick => (60, 1.0, 4.0),
        Preset::Good => (200, 3.0, 10.0),
        Preset::Best => (400, 5.0, 20.0),
    }
}

/// Restarts, at most.
const MOST_RESTARTS: u64 = 2;

/// Passes over judged replies, at most: what more of them bring moves away from the reference.
const MOST_JUDGED: f64 = 3.0;
/// More than one pass is made only where the run has at most so many times the steps that it takes at least.
const MOST_LENGTHS: f64 = 10.0;

/// Passes over the data, and why.
fn passes(preset: Preset, known: &Known, steps_of_pass: usize) -> (f64, String) {
    let rows = known.rows;
    let (steps, least, most) = length(preset);
    let most = if known.is_judged { MOST_JUDGED } else { most };
    let least = least.min(most);
    let (steps, of_pass) = (steps as f64, steps_of_pass as f64);
    // Of many rows even the least number of passes takes long, and the first teaches most.
    let affordable = (MOST_LENGTHS * steps / of_pass).floor().clamp(1.0, least);
    let passes = (steps / of_pass).ceil().clamp(affordable, most);
    let why = match (passes > least, passes < least) {
        (true, _) => ", more passes than usual since the rows are few",
        (_, true) => ", fewer passes than usual since the rows are many",
        _ => "",
    };
    let of_all = counted(steps_of_pass * passes as usize, "step", "steps");
    (passes, format!("{of_all} over {}{why}", counted(rows, "row", "rows")))
}

/// Evaluations on the way, at most.
const MOST_LOOKS: u64 = 10;
/// What all evaluations may take, as a share of the training.
const SHARE_OF_LOOKS: f64 = 0.25;
/// Time that a row takes to train, over that to evaluate it: forward and backward.
const TRAINED_OVER_EVALUATED: f64 = 3.0;

/// How often rows that are held out are evaluated in a run of so many steps.
fn looks(known: &Known, steps: u64) -> u64 {
    if known.held_out == 0 {
        return 0;
    }
    let trained = steps as f64 * known.rows_of_step.min(known.rows) as f64 * TRAINED_OVER_EVALUATED;
    let affordable = (SHARE_OF_LOOKS * trained / known.held_out as f64) as u64;
    // Early stopping that was asked for needs them, whatever they take.
    let most = if known.is_patient { MOST_LOOKS } else { affordable.min(MOST_LOOKS) };
    most.min(steps)
}

/// Evaluations in a row that find nothing better, after which a run ends.
fn patience(preset: Preset) -> u64 {
    match preset {
        Preset::Off | Preset::Quick | Preset::Good => 3,
        Preset::Best => 5,
    }
}

/// How often a run of so many steps may be restarted, where there is more to learn at its end.
fn restarts(preset: Preset, known: &Known, steps: u64) -> u64 {
    let (least, _, _) = length(preset);
    let most = MOST_LENGTHS * least as f64;
    // Each takes twice the steps of the one before.
    let fits = |restarts: &u64| ((2u64 << restarts) - 1) as f64 * steps as f64 <= most;
    match preset {
        Preset::Off | Preset::Quick => 0,
        // More passes over judged replies move away from the reference; a length that was given stays.
        Preset::Good | Preset::Best if known.is_judged || known.steps.is_some() || known.held_out == 0 => 0,
        Preset::Good | Preset::Best => (1..=MOST_RESTARTS).rev().find(fits).unwrap_or(0),
    }
}

/// What `preset` sets.
pub fn choices(preset: Preset, known: &Known) -> Vec<Choice> {
    let mut chosen = Vec::new();
    let mut add = |flag, value: String, why: String| chosen.push(Choice { flag, value, why });
    if preset == Preset::Off {
        return chosen;
    }
    if known.method == Method::Lora {
        let needed = known.supervised_tokens as u64;
        let holds = |rank: &u64| tokens_held(rank * known.parameters_of_rank) >= needed;
        let rank = RANKS.into_iter().find(holds).unwrap_or(RANKS[RANKS.len() - 1]);
        let rank = if preset == Preset::Best { (2 * rank).min(RANKS[RANKS.len() - 1]) } else { rank };
        let parameters = grouped(rank * known.parameters_of_rank);
        let learnt = counted(known.supervised_tokens, known.learnt[0], known.learnt[1]);
        add("rank", rank.to_string(), format!("{parameters} parameters, enough for {learnt}"));
        add(
            "alpha",
            (2 * rank).to_string(),
            "twice the rank, so that the learning rate need not follow it".to_owned(),
        );
    }
    match (known.fixed_rate, preset) {
        (Some((rate, why)), _) => add("lr", rate.to_string(), why.to_owned()),
        (None, Preset::Best) => {
            add("lr", "auto".to_owned(), "a short test before training finds it".to_owned());
        }
        (None, Preset::Off | Preset::Quick | Preset::Good) => {
            let rate = expected_rate(known.method, known.hidden_size);
            let why = format!("what models of width {} usually take; --lr auto tests it", known.hidden_size);
            add("lr", rate.to_string(), why);
        }
    }
    let steps_of_pass = known.rows.div_ceil(known.rows_of_step).max(1);
    let (passes, why) = passes(preset, known, steps_of_pass);
    add("epochs", passes.to_string(), why);
    let steps = known.steps.unwrap_or((steps_of_pass as f64 * passes) as u64);
    let looks = if preset == Preset::Quick && !known.is_patient { 0 } else { looks(known, steps) };
    if looks > 0 {
        let every = steps.div_ceil(looks);
        let why = match looks {
            MOST_LOOKS => "about ten evaluations of the held-out rows".to_owned(),
            looks => {
                format!(
                    "{} of the held-out rows: more would take too large a share of the time",
                    counted(looks as usize, "evaluation", "evaluations")
                )
            }
        };
        add("eval-every", every.to_string(), why);
    }
    let every = known.eval_every.unwrap_or(if looks > 0 { steps.div_ceil(looks) } else { u64::MAX });
    let patience = patience(preset);
    // An end that could only come with the last step is none.
    if known.held_out > 0 && preset != Preset::Quick && steps / every > patience {
        let why = format!("ends the run when {patience} evaluations in a row find nothing better");
        add("patience", patience.to_string(), why);
    }
    let restarts = restarts(preset, known, steps);
    if restarts > 0 && looks > 0 {
        let why = "the run goes on, twice as long each time, where there is more to learn at its end";
        add("restarts", restarts.to_string(), why.to_owned());
    }
    chosen
}

impl TrainArgs {
    /// Sets what `--preset` chooses and nobody has given; what was chosen, for the reader.
    ///
    /// # Errors
    /// A selection of layers or modules that the base does not have.
    pub fn apply_preset(&mut self, given: &Given, base: &Base, data: &Data) -> anyhow::Result<Vec<Choice>> {
        let Some(preset) = self.chooses() else { return Ok(Vec::new()) };
        let is_judged = self.preference.objective().is_some();
        let rows_of = |set: &Dataset| if is_judged { set.samples.groups().len() } else { set.samples.len() };
        let rows = rows_of(&data.rows);
        let known = Known {
            method: self.method,
            fixed_rate: self.fixed_rate(),
            rows,
            supervised_tokens: data.rows.report.supervised_tokens,
            learnt: match (is_judged, self.preference.is_classifier()) {
                (_, true) => ["label", "labels"],
                (true, false) if self.preference.is_scored() => ["judged reply", "judged replies"],
                (_, false) => ["trained token", "trained tokens"],
            },
            is_judged,
            held_out: data.held_out.as_ref().map_or(0, rows_of),
            rows_of_step: self.batch_size * self.gradient_accumulation,
            steps: self
                .duration()
                .map(|duration| duration.steps(rows, self.batch_size * self.gradient_accumulation)),
            eval_every: self.eval_every.map(|every| every as u64),
            is_patient: self.patience.is_some(),
            hidden_size: base.model.config().hidden_size,
            parameters_of_rank: parameters_of_rank(self, base)?,
        };
        let mut chosen = choices(preset, &known);
        chosen.retain(|choice| self.is_open(choice, given));
        chosen.iter().for_each(|choice| self.set(choice));
        Ok(chosen)
    }

    /// The fixed rate, where the width of the model does not speak for one.
    fn fixed_rate(&self) -> Option<(f64, &'static str)> {
        if self.preference.objective().is_some() {
            return Some((self.default_lr(), "the fixed rate: losses of judged replies take a lower one"));
        }
        let why = match (self.init, self.save_modules.is_some()) {
            (Init::Random, _) => "the fixed rate: the weights are new",
            (Init::Pissa, _) => "the fixed rate: what is trained begins as a part of the base",
            (_, true) => "the fixed rate: weights of the base are trained, too",
            (Init::Default | Init::Model | Init::Gaussian | Init::Orthogonal, false) => return None,
        };
        Some((self.default_lr(), why))
    }

    /// Whether nobody has given what a choice sets.
    fn is_open(&self, choice: &Choice, given: &Given) -> bool {
        let any_of = |flags: &[&str]| flags.iter().any(|flag| given.has(flag));
        match choice.flag {
            "epochs" => !any_of(&["epochs", "max-steps"]),
            // What was given for one of them is meant for the other, too; an adapter brings both.
            "rank" | "alpha" => self.adapter.is_none() && !any_of(&["rank", "alpha"]),
            "patience" => !any_of(&["patience"]) && !matches!(self.average, Some(Averaging::Last(_))),
            flag => !any_of(&[flag]),
        }
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
            "restarts" => self.restarts = Some(number() as usize),
            other => unreachable!("{other} is set by no preset"),
        }
    }
}

/// A run of [`STEPS_OF_SHARE`] steps takes this share of the rate at which the loss of the test was lowest. Both numbers were set with
/// the three tasks of docs/lora_against_full.md in view.
const SHARE_OF_LOWEST: f64 = 0.25;
const STEPS_OF_SHARE: f64 = 120.0;
/// The best rate falls with the length of a run, by this power: Bjorck et al. 2024, "Scaling Optimal LR Across Token Horizons"
/// (arXiv 2409.19913, section 3).
const POWER_OF_LENGTH: f64 = -0.32;
/// How far what a test finds may lie from what is expected.
const FARTHEST: f64 = 4.0;

/// The rate that a test around `expected` speaks for, in a run of `steps`.
pub fn tested_rate(test: &RateTest, expected: f64, steps: u64) -> f64 {
    let finite = test.points.iter().filter(|point| point.loss.is_finite());
    // The loss before a step is what the steps before it made.
    let lowest = finite.min_by(|a, b| a.loss.total_cmp(&b.loss)).map_or(expected, |point| point.rate);
    let share = SHARE_OF_LOWEST * (steps.max(1) as f64 / STEPS_OF_SHARE).powf(POWER_OF_LENGTH);
    two_digits((share * lowest).clamp(expected / FARTHEST, expected * FARTHEST))
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
    pub fn find_rate(
        &mut self,
        base: &Base,
        data: &Data,
        reference: Option<&Adapter>,
        trained: &mut Trained,
    ) -> Vec<String> {
        if self.lr != Some(LearningRate::Auto) {
            return Vec::new();
        }
        let expected = match self.preference.objective() {
            None => expected_rate(self.method, base.model.config().hidden_size),
            Some(_) => self.default_lr(),
        };
        self.lr = Some(LearningRate::Value(expected));
        if self.method == Method::Full {
            return vec![format!(
                "--lr auto: {expected}, what models of this width take; only adapters are tested"
            )];
        }
        let (parameters, options) = (&mut trained.as_parameters(base), self.loop_options());
        let test = rate_test(parameters, &data.rows.samples, reference, &options, expected);
        let steps = options.total_steps(options.groups(&data.rows.samples).len());
        let rate = tested_rate(&test, expected, steps);
        self.lr = Some(LearningRate::Value(rate));
        let why = format!(
            "--lr auto: {rate}, from the rate at which the loss was lowest and the {} of the run ({expected} was expected)",
            counted(steps as usize, "step", "steps")
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
            fixed_rate: None,
            rows,
            is_judged: false,
            supervised_tokens: 40 * rows,
            learnt: ["trained token", "trained tokens"],
            held_out: if rows >= 50 { (rows / 10).min(200) } else { 0 },
            rows_of_step: 4,
            steps: None,
            eval_every: None,
            is_patient: false,
            hidden_size: 576,
            parameters_of_rank: 305_280,
        }
    }

    fn chosen(preset: Preset, known: &Known) -> Vec<(&'static str, String)> {
        choices(preset, known).into_iter().map(|choice| (choice.flag, choice.value)).collect()
    }

    #[test]
    fn judged_replies_are_gone_through_three_times_at_most() {
        let epochs = |known: &Known| {
            let all = chosen(Preset::Good, known);
            all.into_iter().find(|(flag, _)| *flag == "epochs").expect("chosen").1
        };
        assert_eq!(epochs(&known(60)), "10");
        assert_eq!(epochs(&Known { is_judged: true, ..known(60) }), "3");
        assert_eq!(epochs(&Known { is_judged: true, ..known(100_000) }), "1");
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
                ("patience", text("3")),
                ("restarts", text("2"))
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
    fn evaluations_fit_the_length_that_was_given() {
        let looked = |known: &Known| {
            let chosen = chosen(Preset::Good, known);
            let value = |flag| chosen.iter().find(|(name, _)| *name == flag).map(|(_, value)| value.clone());
            [value("eval-every"), value("patience")]
        };
        let value = |text: &str| Some(text.to_owned());
        let long = known(1_000);
        assert_eq!(looked(&Known { steps: Some(100), ..long }), [value("34"), None], "100 rows are held out");
        assert_eq!(looked(&Known { steps: Some(1_000), ..long }), [value("100"), value("3")]);
        // Looks would take longer than the training.
        assert_eq!(looked(&Known { steps: Some(3), ..long }), [None, None]);
        assert_eq!(looked(&Known { steps: Some(3), is_patient: true, ..long })[0], value("1"));
        // An evaluation every 50 steps was asked for: of three, no three can be worse than an earlier one.
        let asked = Known { steps: Some(150), eval_every: Some(50), ..long };
        assert_eq!(looked(&asked)[1], None);
        assert_eq!(looked(&Known { steps: Some(200), ..asked })[1], value("3"));
        assert_eq!(looked(&known(20)), [None, None], "no rows are held out");
    }

    #[test]
    fn short_runs_may_go_on() {
        let of = |preset, known: &Known| {
            let chosen = chosen(preset, known);
            chosen.into_iter().find(|(flag, _)| *flag == "restarts").map(|(_, restarts)| restarts)
        };
        let some = |restarts: &str| Some(restarts.to_owned());
        // 150, 600 and 750 steps: no run has more than 2,000.
        assert_eq!(of(Preset::Good, &known(60)), some("2"));
        assert_eq!(of(Preset::Good, &known(800)), some("1"));
        assert_eq!(of(Preset::Good, &known(1_000)), None);
        assert_eq!(of(Preset::Best, &known(60)), some("2"));
        assert_eq!(of(Preset::Quick, &known(60)), None);
        assert_eq!(of(Preset::Good, &known(20)), None, "no rows are held out");
        assert_eq!(of(Preset::Good, &Known { steps: Some(100), ..known(60) }), None, "the length was given");
        assert_eq!(of(Preset::Good, &Known { is_judged: true, ..known(60) }), None);
    }

    #[test]
    fn many_rows_are_gone_through_once() {
        let passes = |rows| chosen(Preset::Good, &known(rows))[3].1.clone();
        assert_eq!([5, 60, 300, 2_600, 4_000, 50_000].map(passes), ["10", "10", "3", "3", "2", "1"]);
    }

    #[test]
    fn off_chooses_nothing_and_new_weights_take_their_own_rate() {
        assert_eq!(chosen(Preset::Off, &known(60)), []);
        let new = Known { method: Method::Full, fixed_rate: Some((1e-3, "they are new")), ..known(60) };
        assert_eq!(chosen(Preset::Best, &new)[0], ("lr", "0.001".to_owned()));
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
        assert_eq!(tested_rate(&demo, 1.3e-3, 120), 1.4e-3);
        // The longer the run, the lower.
        assert_eq!([15, 60, 480].map(|steps| tested_rate(&demo, 1.3e-3, steps)), [2.6e-3, 1.7e-3, 8.7e-4]);
        assert!(test_in_words(&demo).contains("5.4e-3 0.04"), "{}", test_in_words(&demo));
        assert_eq!(tested_rate(&test(&[(1.0, 0.5)]), 1e-3, 120), 4e-3);
        assert_eq!(tested_rate(&test(&[(1e-6, 0.5), (1e-5, f64::INFINITY)]), 1e-3, 120), 2.5e-4);
    }
}
