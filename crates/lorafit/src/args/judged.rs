//! What judged rows are evaluated by: flags of `eval`.

use std::path::Path;

use clap::Args;
use clap::builder::PossibleValuesParser;
use lorafit_train::preference::PreferenceOptions;

use crate::args::config_file::Given;
use crate::args::idle;
use crate::args::preference::{PreferenceArgs, ReferenceChoice, classify, judged_objectives};
use crate::terminal::error::CliError;

/// The flags.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Preferences")]
pub struct JudgedArgs {
    /// Evaluate judged rows by the loss of this objective of train: kto takes rows with `label`, the others rows with
    /// `chosen` and `rejected` [default: replies as they are; of a model that scores texts what it was trained for]
    #[arg(long, value_name = "OBJECTIVE", value_parser = PossibleValuesParser::new(judged_objectives().chain([classify()])))]
    pub objective: Option<String>,
    /// As --beta of train: how strongly a difference of log-probabilities counts [default: 0.1; simpo 2]
    #[arg(long, value_name = "BETA")]
    pub beta: Option<f64>,
    /// As --gamma of train, with --objective simpo [default: 1]
    #[arg(long, value_name = "MARGIN")]
    pub gamma: Option<f64>,
    /// As --sft-weight of train: weight of the plain loss of the chosen replies [default: orpo and cpo 1, others 0]
    #[arg(long, value_name = "WEIGHT")]
    pub sft_weight: Option<f64>,
    /// As --center-rewards of train, with --objective reward [default: 0]
    #[arg(long, value_name = "WEIGHT")]
    pub center_rewards: Option<f64>,
    /// As --length-normalise of train: divide log-probabilities by the tokens of the reply
    #[arg(long)]
    pub length_normalise: bool,
    /// What the model is compared with: base (no adapter), or an adapter's folder [default: base]
    #[arg(long, value_name = "base|DIR")]
    pub reference: Option<ReferenceChoice>,
    /// Leave the reference out, as if it said nothing; with dpo, ipo, robust and hinge
    #[arg(long)]
    pub reference_free: bool,
}

impl JudgedArgs {
    /// The folder of the adapter of the reference, where it has one.
    pub fn adapter(&self) -> Option<&Path> {
        match &self.reference {
            Some(ReferenceChoice::Adapter(dir)) => Some(dir),
            None | Some(ReferenceChoice::Base | ReferenceChoice::Start) => None,
        }
    }

    /// The settings of the loss; `None` where rows are not judged.
    ///
    /// # Errors
    /// A value that makes no sense, and a flag that would do nothing.
    pub fn options(&self, given: &Given) -> Result<Option<PreferenceOptions>, CliError> {
        let flags = [
            "beta",
            "gamma",
            "sft-weight",
            "center-rewards",
            "length-normalise",
            "reference",
            "reference-free",
        ];
        let hint = "add --objective dpo, or leave it out";
        idle::refuse(given, idle::together(&flags, self.objective.is_some(), "without --objective", hint))?;
        let Some(objective) = &self.objective else { return Ok(None) };
        if self.reference == Some(ReferenceChoice::Start) {
            return Err(CliError::usage("--reference start: an evaluation has no start")
                .hint("give base, or the folder of the adapter that training began with"));
        }
        let args = PreferenceArgs {
            beta: self.beta,
            gamma: self.gamma,
            sft_weight: self.sft_weight,
            center_rewards: self.center_rewards,
            length_normalise: self.length_normalise,
            reference: self.reference.clone(),
            reference_free: self.reference_free,
            ..PreferenceArgs::of(objective)
        };
        args.validate(None)?;
        Ok(args.options(None))
    }
}
