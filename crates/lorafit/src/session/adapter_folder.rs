//! Where the adapter of a run is.

use std::path::{Path, PathBuf};

use lorafit_train::{Outcome, RunState, RunStatus, adapter_of_run};

use crate::terminal::error::CliError;
use crate::terminal::shell::shell_word;

/// The folder of the adapter that `dir` names. For a run that has not ended it is the newest checkpoint or the best so far; a note
/// says which.
///
/// # Errors
/// A run that has saved none yet.
pub fn adapter_folder(dir: &Path, quiet: bool) -> Result<PathBuf, CliError> {
    let is_run = dir.join("config.toml").is_file() && !dir.join("adapter_config.json").exists();
    if !is_run {
        return Ok(dir.to_owned());
    }
    let shown = dir.display();
    let status = RunStatus::read(dir).ok();
    let why = status.as_ref().map_or("has no records that can be read", why_unsaved);
    let Some(found) = adapter_of_run(dir) else {
        return Err(CliError::new(format!("{shown} {why}, and no adapter of it is saved"))
            .hint(format!("lorafit status {} shows how far it came", shell_word(&shown.to_string()))));
    };
    if !quiet {
        tell!("{shown} {why}: its adapter is that of {}", found.display());
    }
    Ok(found)
}

/// Why a run has no adapter of its end.
fn why_unsaved(status: &RunStatus) -> &'static str {
    let has_diverged =
        status.verdict.as_ref().is_some_and(|verdict| matches!(verdict.outcome, Outcome::Diverged));
    match status.state() {
        RunState::Running => "is still running",
        _ if has_diverged => "diverged",
        RunState::Finished => "has lost the adapter that it ended with",
        RunState::Stopped => "was stopped before its end",
    }
}
