//! Anchored preference optimisation, down (D'Oosterlinck et al. 2024, arXiv 2408.06266, equation 8):
//! `sigmoid(beta r_c) + 1 - sigmoid(beta (r_c - r_r))`. For chosen replies that are worse than what the model writes.

use super::super::numbers::{Pair, PairSlope, sigmoid, sigmoid_slope};
use super::super::{Defaults, Loss, Measure, NeedsReference, Objective, PreferenceOptions, SftOver};

pub(super) const OBJECTIVE: Objective = Objective {
    name: "apo-down",
    about: "both replies less likely, the rejected one more so: for models better than the data (D'Oosterlinck et al. 2024)",
    loss: Loss::Pair(loss),
    reference: NeedsReference::Always,
    reward: Measure::Ratio,
    sft_over: SftOver::Reply,
    defaults: Defaults::of_beta(0.1),
};

fn loss(pair: &Pair, options: &PreferenceOptions) -> PairSlope {
    let beta = options.beta;
    let [chosen, rejected] = [pair.chosen, pair.rejected].map(|reply| beta * reply.ratio());
    let apart = chosen - rejected;
    PairSlope {
        loss: sigmoid(chosen) + sigmoid(-apart),
        chosen: beta * (sigmoid_slope(chosen) - sigmoid_slope(apart)),
        rejected: beta * sigmoid_slope(apart),
    }
}
