//! A reward model (Bradley and Terry 1952; Ouyang et al. 2022, arXiv 2203.02155, equation 1; the margin of a row as in Llama 2,
//! Touvron et al. 2023, arXiv 2307.09288, equation 2):
//!
//! `-log sigmoid(r_c - r_r - margin) + c (r_c + r_r)^2`
//!
//! where `r` is what a head gives of a prompt with its reply. With `c`, `center_rewards`, rewards are kept near 0 (Eisenstein et al.
//! 2023, arXiv 2312.09244, equation 2): pairs alone leave their level open.

use super::super::numbers::{Pair, PairSlope, log_sigmoid, sigmoid};
use super::super::{Defaults, Loss, Measure, NeedsReference, Objective, PreferenceOptions, SftOver};

pub(super) const OBJECTIVE: Objective = Objective {
    name: "reward",
    about: "a reward model: a head that gives the chosen reply a higher number than the rejected one (Ouyang et al. 2022)",
    loss: Loss::Pair(loss),
    reference: NeedsReference::Never,
    reward: Measure::Score,
    sft_over: SftOver::Reply,
    defaults: Defaults {
        sft_weight: None,
        center_rewards: Some(0.0),
        margin: true,
        ..Defaults::of_beta(1.0)
    },
};

fn loss(pair: &Pair, options: &PreferenceOptions) -> PairSlope {
    let (chosen, rejected) = (pair.chosen.policy, pair.rejected.policy);
    let difference = chosen - rejected - pair.margin;
    let (sum, weight) = (chosen + rejected, options.center_rewards);
    let (slope, of_sum) = (-sigmoid(-difference), 2.0 * weight * sum);
    PairSlope {
        loss: -log_sigmoid(difference) + weight * sum * sum,
        chosen: slope + of_sum,
        rejected: -slope + of_sum,
    }
}
