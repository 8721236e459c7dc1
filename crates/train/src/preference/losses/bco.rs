//! Binary classifier optimisation of pairs (Jung et al. 2024, arXiv 2404.04656, equation 7 without the reward shift, as TRL's
//! `bco_pair`): `-log sigmoid(beta r_c) - log sigmoid(-beta r_r)`.

use super::super::numbers::{Pair, PairSlope, log_sigmoid, sigmoid};
use super::super::{Defaults, Loss, Measure, NeedsReference, Objective, PreferenceOptions, SftOver};

pub(super) const OBJECTIVE: Objective = Objective {
    name: "bco",
    about: "each reply found good or bad by a classifier whose logit is its reward (Jung et al. 2024)",
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
        loss: -log_sigmoid(chosen) - log_sigmoid(-rejected),
        chosen: -beta * sigmoid(-chosen),
        rejected: beta * sigmoid(rejected),
    }
}
