//! Robust DPO, for labels of which a known share `s` is wrong (Chowdhury et al. 2024, arXiv 2403.00409, equation 12):
//!
//! `(-(1 - s) log sigmoid(d) + s log sigmoid(-d)) / (1 - 2 s)` with `d` as in DPO. Its mean over noisy labels is DPO's over right ones.

use super::super::numbers::{Pair, PairSlope, log_sigmoid, sigmoid};
use super::super::{Defaults, Loss, Measure, NeedsReference, Objective, PreferenceOptions, SftOver};

pub(super) const OBJECTIVE: Objective = Objective {
    name: "robust",
    about: "DPO where a share of the pairs (the label smoothing) is the wrong way round (Chowdhury et al. 2024)",
    loss: Loss::Pair(loss),
    reference: NeedsReference::Optional,
    reward: Measure::Ratio,
    sft_over: SftOver::Reply,
    defaults: Defaults {
        label_smoothing: Some(0.1),
        length_normalise: true,
        margin: true,
        ..Defaults::of_beta(0.1)
    },
};

fn loss(pair: &Pair, options: &PreferenceOptions) -> PairSlope {
    let share = options.label_smoothing;
    let by = 1.0 / (1.0 - 2.0 * share);
    PairSlope::of_difference(pair, options, |d| {
        let loss = by * (-(1.0 - share) * log_sigmoid(d) + share * log_sigmoid(-d));
        (loss, by * (-(1.0 - share) * sigmoid(-d) - share * sigmoid(d)))
    })
}
