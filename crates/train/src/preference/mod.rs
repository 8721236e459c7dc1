//! Training on judged replies: pairs of which one is better (DPO and its family), and replies that are good or bad (KTO).
//!
//! A loss is a function of the log-probabilities of replies under the model that is trained, and under a reference: the same base
//! without the adapter, as it was when the run began, or with another adapter. What the reference says is computed once, before
//! the first step (reference.rs). Of a reward model the loss is a function of what a head gives of replies, which stands in the
//! same places. Each loss has a file in losses/ with its equation, its source and its derivatives, and an entry
//! in [`OBJECTIVES`]; step.rs turns the derivatives into weights of targets, and the rest is as in other training.
//!
//! The loss of a step is the mean over its pairs (labels), each counted with the weight of its row, and `sft_weight` times the mean
//! loss over the tokens of its chosen replies.

mod evaluation;
mod losses;
mod metrics;
mod numbers;
pub(crate) mod reference;
pub(crate) mod step;

use lorafit_data::Purpose;

pub(crate) use evaluation::evaluate_in;
pub use evaluation::{JudgedEvaluation, JudgedModel, evaluate};
pub use losses::OBJECTIVES;
pub(crate) use metrics::Sums;
pub use metrics::{PreferenceMetrics, Rewards};
pub use numbers::{LabelSlope, Pair, PairSlope, Reply};

/// Something to train for.
#[derive(Debug)]
pub struct Objective {
    /// Its name, as the field has it.
    pub name: &'static str,
    /// What it is, and where from.
    pub about: &'static str,
    /// The loss.
    pub loss: Loss,
    /// Whether the loss needs what a reference says.
    pub reference: NeedsReference,
    /// What of a reply its reward is, times beta.
    pub reward: Measure,
    /// The tokens whose plain loss `sft_weight` weighs.
    pub sft_over: SftOver,
    /// What the loss takes beside beta, with the values that it has unless others are given.
    pub defaults: Defaults,
}

/// Objectives are told apart by their names.
impl PartialEq for Objective {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Objective {
    /// That of a name.
    pub fn named(name: &str) -> Option<&'static Objective> {
        OBJECTIVES.iter().find(|objective| objective.name == name)
    }

    /// Whether the loss asks in every step how far the model is from its reference.
    pub(crate) fn is_of_distance(&self) -> bool {
        matches!(self.loss, Loss::Label(_))
    }

    /// Whether a head scores replies, in the place of the one that gives logits of tokens.
    pub fn is_scored(&self) -> bool {
        self.reward == Measure::Score
    }

    /// What rows it trains on.
    pub fn purpose(&self) -> Purpose {
        match self.loss {
            Loss::Pair(_) if self.is_scored() => Purpose::Scores,
            Loss::Pair(_) => Purpose::Pairs,
            Loss::Label(_) => Purpose::Labels,
        }
    }
}

/// A loss with its derivatives.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    /// Of a chosen reply and a rejected one.
    Pair(fn(&Pair, &PreferenceOptions) -> PairSlope),
    /// Of a reply that is good (true) or bad, and of how far the model is from its reference in the step.
    Label(fn(&Reply, bool, f64, &PreferenceOptions) -> LabelSlope),
}

/// Whether a loss needs a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeedsReference {
    /// It has none.
    Never,
    /// It has one, and is defined without it, too.
    Optional,
    /// It makes no sense without one.
    Always,
}

/// A number of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Its log-probability above that of the reference.
    Ratio,
    /// Its log-probability.
    Sum,
    /// Its log-probability by token.
    Mean,
    /// What a head gives of it.
    Score,
}

impl Measure {
    /// Of a reply.
    pub fn of(self, reply: &Reply) -> f64 {
        match self {
            Measure::Ratio => reply.ratio(),
            Measure::Sum | Measure::Score => reply.policy,
            Measure::Mean => reply.policy / reply.tokens,
        }
    }
}

/// Which tokens of a chosen sample count in its plain loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SftOver {
    /// Those of the reply.
    Reply,
    /// Those of the prompt, too.
    PromptAndReply,
}

/// What a loss takes, with its value unless another is given; `None` for what it does not take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Defaults {
    /// How strongly a difference counts.
    pub beta: f64,
    /// Share of pairs that are taken to be the wrong way round.
    pub label_smoothing: Option<f64>,
    /// By how much the chosen reply should be better, of every pair.
    pub gamma: Option<f64>,
    /// Weight of the plain loss of chosen replies.
    pub sft_weight: Option<f64>,
    /// Weight of the squared sum of the rewards of a pair.
    pub center_rewards: Option<f64>,
    /// Whether log-probabilities can be divided by the tokens of the reply.
    pub length_normalise: bool,
    /// Whether rows can have margins.
    pub margin: bool,
}

impl Defaults {
    /// Beta and nothing else.
    pub(crate) const fn of_beta(beta: f64) -> Self {
        Defaults {
            beta,
            label_smoothing: None,
            gamma: None,
            sft_weight: Some(0.0),
            center_rewards: None,
            length_normalise: false,
            margin: false,
        }
    }
}

/// An objective with its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PreferenceOptions {
    /// The objective.
    pub objective: &'static Objective,
    /// See [`Defaults::beta`].
    pub beta: f64,
    /// See [`Defaults::label_smoothing`].
    pub label_smoothing: f64,
    /// See [`Defaults::gamma`].
    pub gamma: f64,
    /// See [`Defaults::sft_weight`].
    pub sft_weight: f64,
    /// See [`Defaults::center_rewards`].
    pub center_rewards: f64,
    /// Divide log-probabilities by the tokens of the reply.
    pub length_normalise: bool,
    /// Factor of the losses of good replies.
    pub desirable_weight: f64,
    /// Factor of the losses of bad replies.
    pub undesirable_weight: f64,
    /// Take the reference to say nothing (0).
    pub reference_free: bool,
}

impl PreferenceOptions {
    /// With the values that the objective has unless others are given.
    pub fn of(objective: &'static Objective) -> Self {
        let Defaults { beta, label_smoothing, gamma, sft_weight, center_rewards, .. } = objective.defaults;
        PreferenceOptions {
            objective,
            beta,
            label_smoothing: label_smoothing.unwrap_or(0.0),
            gamma: gamma.unwrap_or(0.0),
            sft_weight: sft_weight.unwrap_or(0.0),
            center_rewards: center_rewards.unwrap_or(0.0),
            length_normalise: false,
            desirable_weight: 1.0,
            undesirable_weight: 1.0,
            reference_free: false,
        }
    }

    /// Whether what a reference says is computed.
    pub fn has_reference(&self) -> bool {
        self.objective.reference != NeedsReference::Never && !self.reference_free
    }

    /// Whether the reference is asked in every step, and not only before the first.
    pub fn asks_in_every_step(&self) -> bool {
        self.has_reference() && self.objective.is_of_distance()
    }

    /// The reward of a reply.
    pub fn reward(&self, reply: &Reply) -> f64 {
        self.beta * self.objective.reward.of(reply)
    }

    /// Whether the prompts of chosen replies are targets, too.
    pub fn has_prompt_targets(&self) -> bool {
        self.sft_weight != 0.0 && self.objective.sft_over == SftOver::PromptAndReply
    }
}
