//! Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, equation 7):
//!
//! `-log sigmoid(d)` with `d = beta (r_c - r_r) - margin`, where `r` is the log-probability of a reply above that of the reference.
//!
//! With a share `s` of label smoothing it is the conservative form (Mitchell 2023), `-(1 - s) log sigmoid(d) - s log sigmoid(-d)`.
//! With normalised lengths `r` is by token. The margin of a row is the offset of Amini et al. 2024 (arXiv 2402.10571).

use super::super::numbers::{Pair, PairSlope, smoothed};
use super::super::{Defaults, Loss, Measure, NeedsReference, Objective, PreferenceOptions, SftOver};

pub(super) const OBJECTIVE: Objective = Objective {
    name: "dpo",
    about: "the chosen reply more likely than the rejected one, against the reference (Rafailov et al. 2023)",
    loss: Loss::Pair(loss),
    reference: NeedsReference::Optional,
    reward: Measure::Ratio,
    sft_over: SftOver::Reply,
    defaults: Defaults {
        label_smoothing: Some(0.0),
        length_normalise: true,
        margin: true,
        ..Defaults::of_beta(0.1)
    },
};

fn loss(pair: &Pair, options: &PreferenceOptions) -> PairSlope {
    PairSlope::of_difference(pair, options, |d| smoothed(d, options.label_smoothing))
}
