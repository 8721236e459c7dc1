//! What is told of training on judged replies: of its rows, its evaluations and its end.

use lorafit_data::statistics::Statistics;
use lorafit_data::{Dataset, SampleRef};
use lorafit_remedy::amounts::percent;
use lorafit_train::preference::{Objective, PreferenceMetrics};
use lorafit_train::{Sign, StepRecord, signs_of_rows, signs_of_steps};

use crate::terminal::error::CliError;

/// What rows show before the first step: how much of them is computed, and what may go wrong with them.
pub fn of_rows(rows: &Dataset, rows_of_step: usize) -> Vec<String> {
    // Two replies of a pair.
    let Statistics { padded_share, computed_share, .. } = Statistics::of(rows, 2 * rows_of_step);
    let once = format!(
        "prompts are computed once: {} of the tokens that padded batches of whole rows compute",
        percent(computed_share / padded_share, 0)
    );
    std::iter::once(once).chain(signs_of_rows(&rows.samples).map(in_words)).collect()
}

/// Refuses margins of rows that the objective does not take.
///
/// # Errors
/// The first row that has one.
pub fn check_margins(objective: Option<&Objective>, rows: &Dataset) -> Result<(), CliError> {
    let Some(objective) = objective.filter(|objective| !objective.defaults.margin) else { return Ok(()) };
    let has_margin = |sample: &SampleRef<'_>| sample.judgement().is_some_and(|j| j.margin != 0.0);
    match rows.samples.iter().find(has_margin) {
        None => Ok(()),
        Some(sample) => {
            let place = rows.origin.place_in_file(sample.row);
            let text = format!("{place}: `margin` has no meaning with --objective {}", objective.name);
            Err(CliError::new(text).hint(
                "--columns margin=ignore leaves it out; dpo, robust, hinge, simpo, cpo and reward take it",
            ))
        }
    }
}

/// What the steps of a run show that its loss does not.
pub fn of_steps(steps: &[StepRecord]) -> Vec<String> {
    signs_of_steps(steps).into_iter().map(in_words).collect()
}

fn in_words(sign: Sign) -> String {
    match sign {
        Sign::ChosenFalls { reward } => format!(
            "a sign to look at: chosen replies became less likely (reward {reward:.2}): --sft-weight 0.1, a lower --lr or a higher --beta hold them"
        ),
        Sign::MarginsGrow { margin } => format!(
            "a sign to look at: a mean margin of {margin:.1} is far beyond what the loss asks for: fewer --epochs, a lower --lr or a lower --beta keep the model near its reference"
        ),
        Sign::Lengths { ratio } if ratio > 1.0 => format!(
            "a sign to look at: chosen replies are {ratio:.1} times as long as rejected ones, and length may be what is learnt; --length-normalise or --objective simpo weigh it less"
        ),
        Sign::Lengths { ratio } => format!(
            "a sign to look at: chosen replies are {:.1} times shorter than rejected ones, and length may be what is learnt; --length-normalise or --objective simpo weigh it less",
            1.0 / ratio
        ),
    }
}

/// What an evaluation says beside its loss, where it has something to say.
pub fn in_short(metrics: &PreferenceMetrics) -> Option<String> {
    let accuracy = metrics.accuracy.map(|share| format!("chosen preferred in {}", percent(share, 0)));
    let margin = metrics.margin.map(|margin| format!("margin {margin:.3}"));
    let both: Vec<String> = accuracy.into_iter().chain(margin).collect();
    (!both.is_empty()).then(|| both.join(", "))
}
