//! Odds ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691, equations 6 and 7): the plain loss of the chosen sample,
//! and `-beta log sigmoid(log odds(m_c) - log odds(m_r))`, where `m` is the log-probability of a reply by token and
//! `log odds(m) = m - log(1 - exp(m))`. It has no reference. As in TRL, the plain loss counts the prompt, too.

use super::super::numbers::{Pair, PairSlope, log_sigmoid, sigmoid};
use super::super::{Defaults, Loss, Measure, NeedsReference, Objective, PreferenceOptions, SftOver};

pub(super) const OBJECTIVE: Objective = Objective {
    name: "orpo",
    about: "fine-tuning on the chosen reply with odds against the rejected one, without a reference (Hong et al. 2024)",
    loss: Loss::Pair(loss),
    reference: NeedsReference::Never,
    reward: Measure::Mean,
    sft_over: SftOver::PromptAndReply,
    defaults: Defaults { sft_weight: Some(1.0), ..Defaults::of_beta(0.1) },
};

/// A probability of 1 has no odds.
const SUREST: f64 = -1e-12;

fn loss(pair: &Pair, options: &PreferenceOptions) -> PairSlope {
    let [(chosen, by_chosen), (rejected, by_rejected)] =
        [pair.chosen, pair.rejected].map(|reply| (reply.mean().0.min(SUREST), reply.mean().1));
    let log_odds = |m: f64| m - (-m.exp_m1()).ln();
    let log_odds_slope = |m: f64| -1.0 / m.exp_m1();
    let ratio = log_odds(chosen) - log_odds(rejected);
    let slope = -options.beta * sigmoid(-ratio);
    PairSlope {
        loss: -options.beta * log_sigmoid(ratio),
        chosen: slope * log_odds_slope(chosen) * by_chosen,
        rejected: -slope * log_odds_slope(rejected) * by_rejected,
    }
}
