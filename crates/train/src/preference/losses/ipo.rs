//! Identity preference optimisation (Azar et al. 2023, arXiv 2310.12036, equation 17): `(d - 1 / (2 beta))^2`, where `d` is the
//! difference of both ratios by token, as the authors compute it and TRL has it.

use super::super::numbers::{Pair, PairSlope};
use super::super::{Defaults, Loss, Measure, NeedsReference, Objective, PreferenceOptions, SftOver};

pub(super) const OBJECTIVE: Objective = Objective {
    name: "ipo",
    about: "brings the difference by token to 1 / (2 beta), so that sure pairs are not over-fitted (Azar et al. 2023)",
    loss: Loss::Pair(loss),
    reference: NeedsReference::Optional,
    reward: Measure::Ratio,
    sft_over: SftOver::Reply,
    defaults: Defaults::of_beta(0.1),
};

fn loss(pair: &Pair, options: &PreferenceOptions) -> PairSlope {
    let [chosen, rejected] = [pair.chosen, pair.rejected].map(|reply| reply.ratio() / reply.tokens);
    let off = chosen - rejected - 1.0 / (2.0 * options.beta);
    PairSlope {
        loss: off * off,
        chosen: 2.0 * off / pair.chosen.tokens,
        rejected: -2.0 * off / pair.rejected.tokens,
    }
}
