//! Simple preference optimisation (Meng et al. 2024, arXiv 2405.14734, equation 6): `-log sigmoid(beta (m_c - m_r) - gamma)`, where
//! `m` is the log-probability of a reply by token. It has no reference. Label smoothing as in DPO.

use super::super::numbers::{Pair, PairSlope, smoothed};
use super::super::{Defaults, Loss, Measure, NeedsReference, Objective, PreferenceOptions, SftOver};

pub(super) const OBJECTIVE: Objective = Objective {
    name: "simpo",
    about: "the chosen reply more likely by token than the rejected one, by a margin gamma, without a reference (Meng et al. 2024)",
    loss: Loss::Pair(loss),
    reference: NeedsReference::Never,
    reward: Measure::Mean,
    sft_over: SftOver::Reply,
    defaults: Defaults {
        label_smoothing: Some(0.0),
        gamma: Some(1.0),
        margin: true,
        ..Defaults::of_beta(2.0)
    },
};

fn loss(pair: &Pair, options: &PreferenceOptions) -> PairSlope {
    let [(chosen, by_chosen), (rejected, by_rejected)] =
        [pair.chosen, pair.rejected].map(|reply| reply.mean());
    let x = options.beta * (chosen - rejected) - options.gamma - pair.margin;
    let (loss, slope) = smoothed(x, options.label_smoothing);
    let slope = options.beta * slope;
    PairSlope { loss, chosen: slope * by_chosen, rejected: -slope * by_rejected }
}
