//! Anchored preference optimisation, zero (D'Oosterlinck et al. 2024, arXiv 2408.06266, equation 7):
//! `1 - sigmoid(beta r_c) + sigmoid(beta r_r)`. For chosen replies that are better than what the model writes.

use super::super::numbers::{Pair, PairSlope, sigmoid, sigmoid_slope};
use super::super::{Defaults, Loss, Measure, NeedsReference, Objective, PreferenceOptions, SftOver};

pub(super) const OBJECTIVE: Objective = Objective {
    name: "apo-zero",
    about: "the chosen reply more likely and the rejected one less, each by itself (D'Oosterlinck et al. 2024)",
    loss: Loss::Pair(loss),
    reference: NeedsReference::Always,
    reward: Measure::Ratio,
    sft_over: SftOver::Reply,
    defaults: Defaults::of_beta(0.1),
};

fn loss(pair: &Pair, options: &PreferenceOptions) -> PairSlope {
    let beta = options.beta;
    let [chosen, rejected] = [pair.chosen, pair.rejected].map(|reply| beta * reply.ratio());
    PairSlope {
        loss: sigmoid(-chosen) + sigmoid(rejected),
        chosen: -beta * sigmoid_slope(chosen),
        rejected: beta * sigmoid_slope(rejected),
    }
}
