//! What a run trains for: replies as they are, or judged ones. Flags of `train`.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{ArgAction, Args};
use lorafit_data::Purpose;
use lorafit_model::adapter::LoraConfig;
use lorafit_train::ReferenceRequest;
use lorafit_train::preference::{NeedsReference, OBJECTIVES, Objective, PreferenceOptions};
use serde::{Deserialize, Serialize};

use crate::args::flags::{Facts, Words};
use crate::args::require;
use crate::terminal::error::CliError;

/// Fine-tuning on replies as they are.
pub const SFT: &str = "sft";
/// Training a head that gives texts labels.
pub const CLASSIFY: &str = "classify";

/// Which model the reference of judged replies is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum ReferenceChoice {
    /// The base without an adapter.
    Base,
    /// What the run begins with.
    Start,
    /// The base with another adapter.
    Adapter(PathBuf),
}

impl From<String> for ReferenceChoice {
    fn from(text: String) -> Self {
        match text.as_str() {
            "base" => Self::Base,
            "start" => Self::Start,
            _ => Self::Adapter(text.into()),
        }
    }
}

impl FromStr for ReferenceChoice {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.to_owned().into())
    }
}

impl fmt::Display for ReferenceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base => f.write_str("base"),
            Self::Start => f.write_str("start"),
            Self::Adapter(dir) => write!(f, "{}", dir.display()),
        }
    }
}

impl From<ReferenceChoice> for String {
    fn from(choice: ReferenceChoice) -> Self {
        choice.to_string()
    }
}

/// The values of `--objective`, with what each is.
pub fn objectives() -> PossibleValuesParser {
    let sft = PossibleValue::new(SFT).help("replies that the model learns to give");
    PossibleValuesParser::new(std::iter::once(sft).chain(judged_objectives()).chain([classify()]))
}

/// What rows have to be for the objective of this name.
pub fn purpose_of(objective: &str) -> Purpose {
    Objective::named(objective).map_or(Purpose::Replies, Objective::purpose)
}

/// That of classifiers.
pub fn classify() -> PossibleValue {
    PossibleValue::new(CLASSIFY).help("a classifier: a head that gives a text one of several labels")
}

/// Objectives of judged replies as values of a flag, with what each is.
pub fn judged_objectives() -> impl Iterator<Item = PossibleValue> {
    OBJECTIVES.iter().map(|objective| PossibleValue::new(objective.name).help(objective.about))
}

/// The flags.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Preferences")]
pub struct PreferenceArgs {
    /// The objective of the training: learn replies as they are (sft), learn which replies are better, or learn to score texts
    /// (reward, classify)
    ///
    /// classify takes texts with a label, kto replies with a `label` that is true or false, the others rows with `chosen` and
    /// `rejected`. A loss with a reference compares the model with what it was: log-probabilities of the reference are computed
    /// once, before the first step. reward and classify train a head of their own, which stands in the place of the model's.
    #[arg(long, value_name = "OBJECTIVE", default_value = SFT, value_parser = objectives())]
    #[arg(add = Facts::ARITHMETIC)]
    #[serde(default = "sft")]
    pub objective: String,
    /// How strongly a difference of log-probabilities counts: a large beta keeps the model near its reference [default: 0.1; simpo 2]
    #[arg(long, value_name = "BETA")]
    #[arg(add = Facts::ARITHMETIC)]
    pub beta: Option<f64>,
    /// By how much the chosen reply should be better, with --objective simpo [default: 1]
    #[arg(long, value_name = "MARGIN")]
    #[arg(add = Facts::ARITHMETIC)]
    pub gamma: Option<f64>,
    /// Weight of the plain loss of the chosen replies, which is added; not with kto [default: orpo and cpo 1, others 0]
    #[arg(long, value_name = "WEIGHT")]
    #[arg(add = Facts::ARITHMETIC)]
    pub sft_weight: Option<f64>,
    /// Weight of the squared sum of the rewards of a pair, with --objective reward: a small one, 0.01, keeps rewards near 0
    /// [default: 0]
    #[arg(long, value_name = "WEIGHT")]
    #[arg(add = Facts::ARITHMETIC)]
    pub center_rewards: Option<f64>,
    /// Divide log-probabilities by the tokens of the reply, so that long replies count no more than short ones; with dpo, robust and
    /// hinge (ipo, simpo and orpo always do)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_value_t = false, default_missing_value = "true", hide_default_value = true)]
    #[arg(hide_possible_values = true, action = ArgAction::Set)]
    #[arg(add = Facts::ARITHMETIC)]
    #[serde(default)]
    pub length_normalise: bool,
    /// Factor of the loss of good replies with kto; where they are few, the number of bad ones over theirs [default: 1]
    #[arg(long, value_name = "WEIGHT")]
    #[arg(add = Facts::ARITHMETIC)]
    pub desirable_weight: Option<f64>,
    /// Factor of the loss of bad replies with kto [default: 1]
    #[arg(long, value_name = "WEIGHT")]
    #[arg(add = Facts::ARITHMETIC)]
    pub undesirable_weight: Option<f64>,
    /// What the model is compared with: base (no adapter), start (what the run begins with), or another adapter's folder
    /// [default: start]
    #[arg(long, value_name = "base|start|DIR")]
    #[arg(add = Facts::ARITHMETIC, add = Words(|| vec!["base", "start"]))]
    pub reference: Option<ReferenceChoice>,
    /// Leave the reference out, as if it said nothing; with dpo, ipo, robust and hinge
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_value_t = false, default_missing_value = "true", hide_default_value = true)]
    #[arg(hide_possible_values = true, action = ArgAction::Set)]
    #[arg(add = Facts::ARITHMETIC)]
    #[serde(default)]
    pub reference_free: bool,
}

/// What configurations of older versions have.
fn sft() -> String {
    SFT.to_owned()
}

impl PreferenceArgs {
    /// An objective with what it has unless something is given.
    pub fn of(objective: &str) -> Self {
        PreferenceArgs {
            objective: objective.to_owned(),
            beta: None,
            gamma: None,
            sft_weight: None,
            center_rewards: None,
            length_normalise: false,
            desirable_weight: None,
            undesirable_weight: None,
            reference: None,
            reference_free: false,
        }
    }

    /// What judged replies are trained for; `None` for replies as they are.
    pub fn objective(&self) -> Option<&'static Objective> {
        Objective::named(&self.objective)
    }

    /// Whether a head is trained that gives texts labels.
    pub fn is_classifier(&self) -> bool {
        self.objective == CLASSIFY
    }

    /// Whether a head that scores texts is trained.
    pub fn is_scored(&self) -> bool {
        self.is_classifier() || self.objective().is_some_and(Objective::is_scored)
    }

    /// What rows have to be.
    pub fn purpose(&self) -> Purpose {
        purpose_of(&self.objective)
    }

    /// Settings of the loss, with the value of `--label-smoothing`.
    pub fn options(&self, label_smoothing: Option<f64>) -> Option<PreferenceOptions> {
        let defaults = PreferenceOptions::of(self.objective()?);
        Some(PreferenceOptions {
            beta: self.beta.unwrap_or(defaults.beta),
            label_smoothing: label_smoothing.unwrap_or(defaults.label_smoothing),
            gamma: self.gamma.unwrap_or(defaults.gamma),
            sft_weight: self.sft_weight.unwrap_or(defaults.sft_weight),
            center_rewards: self.center_rewards.unwrap_or(defaults.center_rewards),
            length_normalise: self.length_normalise,
            desirable_weight: self.desirable_weight.unwrap_or(defaults.desirable_weight),
            undesirable_weight: self.undesirable_weight.unwrap_or(defaults.undesirable_weight),
            reference_free: self.reference_free,
            ..defaults
        })
    }

    /// The folder of the adapter of the reference, where it has one, of a run that begins with the adapter in `start`, if any.
    pub fn own_reference<'a>(&'a self, start: Option<&'a Path>) -> Option<&'a Path> {
        let has_reference = self.options(None).is_some_and(|options| options.has_reference());
        match &self.reference {
            _ if !has_reference => None,
            Some(ReferenceChoice::Base) => None,
            None | Some(ReferenceChoice::Start) => start,
            Some(ReferenceChoice::Adapter(dir)) => Some(dir),
        }
    }

    /// What a reference with this adapter is planned for.
    pub fn reference_request<'a>(&self, adapter: Option<&'a LoraConfig>) -> Option<ReferenceRequest<'a>> {
        let in_every_step = self.options(None).is_some_and(|options| options.asks_in_every_step());
        adapter.map(|lora| ReferenceRequest { lora, in_every_step, size: None })
    }

    /// Texts in a row: two in a pair.
    pub fn texts_of_row(&self) -> usize {
        match self.purpose() {
            Purpose::Pairs | Purpose::Scores => 2,
            Purpose::Labels | Purpose::Replies | Purpose::Any => 1,
        }
    }

    /// Refuses flags that the objective does not take.
    fn check_taken(&self, label_smoothing: Option<f64>) -> Result<(), CliError> {
        let objective = self.objective();
        let defaults = objective.map(|objective| objective.defaults);
        let is_kto = objective.is_some_and(|objective| objective.purpose() == Purpose::Labels);
        let reference = objective.map_or(NeedsReference::Never, |objective| objective.reference);
        let takes = |takes: fn(&Objective) -> bool| {
            let names: Vec<&str> = OBJECTIVES.iter().filter(|o| takes(o)).map(|o| o.name).collect();
            names.join(", ")
        };
        let given = [
            (
                "beta",
                self.beta.is_some(),
                objective.is_some_and(|o| !o.is_scored()),
                takes(|o| !o.is_scored()),
            ),
            (
                "center-rewards",
                self.center_rewards.is_some(),
                defaults.is_some_and(|d| d.center_rewards.is_some()),
                takes(|o| o.defaults.center_rewards.is_some()),
            ),
            (
                "gamma",
                self.gamma.is_some(),
                defaults.is_some_and(|d| d.gamma.is_some()),
                takes(|o| o.defaults.gamma.is_some()),
            ),
            (
                "sft-weight",
                self.sft_weight.is_some(),
                defaults.is_some_and(|d| d.sft_weight.is_some()),
                takes(|o| o.defaults.sft_weight.is_some()),
            ),
            (
                "length-normalise",
                self.length_normalise,
                defaults.is_some_and(|d| d.length_normalise),
                takes(|o| o.defaults.length_normalise),
            ),
            (
                "desirable-weight",
                self.desirable_weight.is_some(),
                is_kto,
                takes(|o| o.purpose() == Purpose::Labels),
            ),
            (
                "undesirable-weight",
                self.undesirable_weight.is_some(),
                is_kto,
                takes(|o| o.purpose() == Purpose::Labels),
            ),
            (
                "reference",
                self.reference.is_some(),
                reference != NeedsReference::Never,
                takes(|o| o.reference != NeedsReference::Never),
            ),
            (
                "reference-free",
                self.reference_free,
                reference == NeedsReference::Optional,
                takes(|o| o.reference == NeedsReference::Optional),
            ),
            (
                "label-smoothing",
                label_smoothing.is_some_and(|share| share > 0.0),
                defaults.is_none_or(|d| d.label_smoothing.is_some()),
                format!("sft, classify, {}", takes(|o| o.defaults.label_smoothing.is_some())),
            ),
        ];
        for (flag, is_given, is_taken, takers) in given {
            if is_given && !is_taken {
                let text = format!("--{flag} has no meaning with --objective {}", self.objective);
                return Err(CliError::usage(text).hint(format!("it belongs to --objective {takers}")));
            }
        }
        Ok(())
    }

    /// Refuses values that make no sense, and flags that the objective does not take.
    ///
    /// # Errors
    /// The first of them.
    pub fn validate(&self, label_smoothing: Option<f64>) -> Result<(), CliError> {
        self.check_taken(label_smoothing)?;
        if self.reference_free && self.reference.is_some() {
            return Err(CliError::usage("--reference with --reference-free, which leaves it out")
                .hint("leave one of them out"));
        }
        let positive = |name, value: Option<f64>| {
            let value = value.unwrap_or(1.0);
            require(value > 0.0 && value.is_finite(), name, value, "must be above 0")
        };
        let not_negative = |name, value: Option<f64>| {
            let value = value.unwrap_or(0.0);
            require(value >= 0.0 && value.is_finite(), name, value, "must be 0 or more")
        };
        positive("beta", self.beta)?;
        not_negative("gamma", self.gamma)?;
        not_negative("sft-weight", self.sft_weight)?;
        not_negative("center-rewards", self.center_rewards)?;
        not_negative("desirable-weight", self.desirable_weight)?;
        not_negative("undesirable-weight", self.undesirable_weight)?;
        if self.objective().is_some() {
            let share = label_smoothing.unwrap_or(0.0);
            let holds = (0.0..0.5).contains(&share);
            require(
                holds,
                "label-smoothing",
                share,
                "must be 0 or more and below 0.5, as a share of wrong pairs",
            )?;
        }
        Ok(())
    }
}
