//! Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306, equation 8): of a good reply
//! `w_d (1 - sigmoid(beta (r - z)))`, of a bad one `w_u (1 - sigmoid(beta (z - r)))`.
//!
//! `z` is how far the model is from its reference: the mean of `r` over the step's prompts, each with the reply of another row,
//! and at least 0. It is taken as a constant.

use super::super::numbers::{LabelSlope, Reply, sigmoid, sigmoid_slope};
use super::super::{Defaults, Loss, Measure, NeedsReference, Objective, PreferenceOptions, SftOver};

pub(super) const OBJECTIVE: Objective = Objective {
    name: "kto",
    about: "good replies more likely and bad ones less; rows have a label instead of a pair (Ethayarajh et al. 2024)",
    loss: Loss::Label(loss),
    reference: NeedsReference::Always,
    reward: Measure::Ratio,
    sft_over: SftOver::Reply,
    defaults: Defaults { sft_weight: None, ..Defaults::of_beta(0.1) },
};

fn loss(reply: &Reply, is_desirable: bool, distance: f64, options: &PreferenceOptions) -> LabelSlope {
    let (sign, weight) = match is_desirable {
        true => (1.0, options.desirable_weight),
        false => (-1.0, options.undesirable_weight),
    };
    let x = sign * options.beta * (reply.ratio() - distance);
    LabelSlope { loss: weight * sigmoid(-x), reply: -weight * sign * options.beta * sigmoid_slope(x) }
}
