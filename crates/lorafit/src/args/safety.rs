//! What a run does so that nothing is lost: flags of `train`.

use clap::{ArgAction, Args};
use lorafit_train::{CheckpointEvery, OnNan};
use serde::{Deserialize, Serialize};

use crate::args::flags::{Facts, Words};
use crate::terminal::progress::LogFormat;

/// Checkpoints, guard rails and logs.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SafetyArgs {
    /// How often to save a checkpoint: a number of steps (50) or a time (90s, 10m, 2h); 0: only at the end and on a
    /// signal
    ///
    /// `lorafit train --resume RUN` continues from the newest, with the same bits as a run that never stopped. Ctrl-C
    /// and SIGTERM save one and end the run; SIGUSR1 saves one, and the run continues.
    #[arg(long, value_name = "N|TIME", default_value_t = CheckpointEvery::default(), help_heading = "Safety")]
    #[arg(add = Facts::NO_RESULT)]
    pub checkpoint_every: CheckpointEvery,
    /// Number of checkpoints to keep; each holds the adapter and the optimizer's moments
    #[arg(long, value_name = "N", default_value_t = 2, help_heading = "Safety")]
    #[arg(add = Facts::NO_RESULT)]
    pub keep_checkpoints: usize,
    /// What to do with a step whose loss or gradient is not a number: stop, or skip it (five in a row end the run)
    #[arg(long, value_name = "stop|skip", default_value_t = OnNan::Stop, help_heading = "Safety")]
    #[arg(add = Facts::FREE, add = Words(|| vec!["stop", "skip"]))]
    pub on_nan: OnNan,
    /// Skip steps whose loss is six standard deviations above those of the last 128 steps
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, help_heading = "Safety")]
    #[arg(default_value_t = false, default_missing_value = "true", hide_default_value = true)]
    #[arg(hide_possible_values = true, action = ArgAction::Set)]
    #[arg(add = Facts::ARITHMETIC)]
    pub skip_loss_spikes: bool,
    /// How progress is written to standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text, help_heading = "Watching")]
    #[arg(add = Facts::PROCESS)]
    pub log: LogFormat,
    /// Write event files for TensorBoard to tensorboard/ in the run folder
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, help_heading = "Watching")]
    #[arg(default_value_t = false, default_missing_value = "true", hide_default_value = true)]
    #[arg(hide_possible_values = true, action = ArgAction::Set)]
    #[arg(add = Facts::FREE)]
    pub tensorboard: bool,
}
