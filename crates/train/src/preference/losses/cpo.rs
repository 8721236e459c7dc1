//! Contrastive preference optimisation (Xu et al. 2024, arXiv 2401.08417, equation 4): `-log sigmoid(beta (l_c - l_r))`, where `l` is
//! the log-probability of a reply, and the plain loss of the chosen reply. It has no reference. Label smoothing as in DPO.

use super::super::numbers::{Pair, PairSlope, smoothed};
use super::super::{Defaults, Loss, Measure, NeedsReference, Objective, PreferenceOptions, SftOver};

pub(super) const OBJECTIVE: Objective = Objective {
    name: "cpo",
    about: "DPO without a reference, with fine-tuning on the chosen reply (Xu et al. 2024)",
    loss: Loss::Pair(loss),
    reference: NeedsReference::Never,
    reward: Measure::Sum,
    sft_over: SftOver::Reply,
    defaults: Defaults {
        label_smoothing: Some(0.0),
        sft_weight: Some(1.0),
        margin: true,
        ..Defaults::of_beta(0.1)
    },
};

fn loss(pair: &Pair, options: &PreferenceOptions) -> PairSlope {
    let x = options.beta * (pair.chosen.policy - pair.rejected.policy) - pair.margin;
    let (loss, slope) = smoothed(x, options.label_smoothing);
    PairSlope { loss, chosen: options.beta * slope, rejected: -options.beta * slope }
}
