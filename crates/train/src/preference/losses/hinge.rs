//! Hinge loss of the normalised likelihood (SLiC, Zhao et al. 2023, arXiv 2305.10425; as a loss over ratios: Liu et al. 2024, RSO,
//! arXiv 2309.06657, equation 9): `max(0, 1 - d)` with `d = beta (r_c - r_r) - margin`.

use super::super::numbers::{Pair, PairSlope};
use super::super::{Defaults, Loss, Measure, NeedsReference, Objective, PreferenceOptions, SftOver};

pub(super) const OBJECTIVE: Objective = Objective {
    name: "hinge",
    about: "DPO with a hinge, so that pairs that are far enough apart count no more (Liu et al. 2024)",
    loss: Loss::Pair(loss),
    reference: NeedsReference::Optional,
    reward: Measure::Ratio,
    sft_over: SftOver::Reply,
    defaults: Defaults { length_normalise: true, margin: true, ..Defaults::of_beta(0.1) },
};

fn loss(pair: &Pair, options: &PreferenceOptions) -> PairSlope {
    PairSlope::of_difference(pair, options, |d| ((1.0 - d).max(0.0), if d < 1.0 { -1.0 } else { 0.0 }))
}
