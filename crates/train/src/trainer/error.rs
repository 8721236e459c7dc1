//! Why a run ended without its result.

use std::path::PathBuf;

use lorafit_remedy::{Remedy, Setting, Task, remedy};

use crate::group::GroupError;
use crate::guard::Refusal;
use crate::run_error::RunError;
use crate::verdict::Verdict;

/// A run that cannot go on, since what it trained gives no numbers any more.
#[derive(Debug, thiserror::Error)]
#[error("training diverged: {}", broken(*.step, .refusal.as_ref()))]
pub struct Divergence {
    /// Steps done.
    pub step: u64,
    /// The step that could not be taken; `None` if what is trained holds values that are not numbers.
    pub refusal: Option<Refusal>,
    /// What the curve says, as in `verdict.json`; `None` if the records of the run cannot be read.
    pub verdict: Option<Verdict>,
    /// What another run can begin with, as the value of a setting: the best so far, if it is better than the start.
    pub best: Option<(Setting, PathBuf)>,
}

/// Why a step was not taken.
#[derive(Debug)]
pub(crate) enum NotTaken {
    /// Its loss or gradient.
    Refused(Refusal),
    /// The processes no longer train together.
    Group(GroupError),
}

impl From<GroupError> for NotTaken {
    fn from(error: GroupError) -> Self {
        NotTaken::Group(error)
    }
}

impl From<NotTaken> for TrainError {
    fn from(error: NotTaken) -> Self {
        match error {
            NotTaken::Refused(refusal) => TrainError::NonFinite(refusal),
            NotTaken::Group(error) => TrainError::Group(error),
        }
    }
}

/// Why a run ended without its result.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A loss or a gradient is not a number, and those of other rows are; the last checkpoint is from before the step.
    #[error("step {}: the {} is {} (lines {:?} of the training data)", .0.step, .0.culprit, .0.value, .0.lines)]
    NonFinite(Refusal),
    /// Training diverged: no rows have a loss and a gradient that are numbers any more. What was saved before stays.
    #[error(transparent)]
    Diverged(Box<Divergence>),
    /// The run folder cannot be written.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A reply that is impossible to the reference: it has tokens that the base does not know.
    #[error(
        "the row on line {line} has a reply that the reference cannot give: it does not know one of its tokens"
    )]
    UnknownToReference {
        /// The row's number.
        line: usize,
    },
    /// The processes that train together no longer do.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The observer ended it before its first step.
    #[error("stopped before the first step")]
    Stopped,
}

impl TrainError {
    /// What the curve of the run says, if the error says that it diverged.
    pub fn verdict(&self) -> Option<&Verdict> {
        match self {
            TrainError::Diverged(divergence) => divergence.verdict.as_ref(),
            TrainError::NonFinite(_)
            | TrainError::Run(_)
            | TrainError::UnknownToReference { .. }
            | TrainError::Group(_)
            | TrainError::Stopped => None,
        }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<Remedy> {
        Some(match self {
            TrainError::NonFinite(refusal) if refusal.step <= 1 => remedy![
                "see with ", Task::Evaluate, " whether the weights or the adapter themselves hold values that are not numbers";
                "look at the rows";
                "lower ", Setting::Lr
            ],
            TrainError::NonFinite(_) => remedy![
                "look at these rows";
                "go on without them with ", Setting::Resume.is("RUN"), " ", Setting::OnNan.is("skip");
                "start again with a lower ", Setting::Lr
            ],
            TrainError::Diverged(divergence) => {
                let again =
                    remedy!["start again with a lower ", Setting::Lr; "with a lower ", Setting::MaxGradNorm];
                match &divergence.best {
                    None => again,
                    Some((setting, path)) => again.or(remedy![
                        "start from the best so far with ",
                        setting.is(path.display().to_string()),
                        " and a lower ",
                        Setting::Lr
                    ]),
                }
            }
            TrainError::Run(e) => return e.hint(),
            TrainError::UnknownToReference { .. } => remedy![
                "compare with an adapter that knows it, with ", Setting::Reference;
                "train on replies with the new tokens first, and go on from that adapter with ", Setting::Adapter
            ],
            TrainError::Group(e) => return e.hint(),
            TrainError::Stopped => return None,
        })
    }
}

fn broken(step: u64, refusal: Option<&Refusal>) -> String {
    match refusal {
        Some(Refusal { step, culprit, value, .. }) => {
            format!("the {culprit} of step {step} is {value}, and so it was with other rows")
        }
        None => format!("what is trained holds values that are not numbers after step {step}"),
    }
}

impl From<Refusal> for TrainError {
    fn from(refusal: Refusal) -> Self {
        TrainError::NonFinite(refusal)
    }
}
