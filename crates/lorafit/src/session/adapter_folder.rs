//! Where the adapter of a run is.

use std::path::{Path, PathBuf};

use lorafit_train::{Outcome, RunFolder, RunState, RunStatus, adapter_of_run};

use crate::terminal::error::CliError;
use crate::terminal::shell::shell_word;

/// Where an adapter is, and what is to be told of that.
pub struct Found {
    /// The folder with the adapter.
    pub dir: PathBuf,
    /// Of a run that has no adapter of its end: which one is used, and why.
    pub note: Option<String>,
}

/// The folder of the adapter that `dir` names, as [`found_adapter`] finds it; a note is told.
///
/// # Errors
/// As [`found_adapter`].
pub fn adapter_folder(dir: &Path, quiet: bool) -> Result<PathBuf, CliError> {
    let Found { dir, note } = found_adapter(dir)?;
    if let Some(note) = note.filter(|_| !quiet) {
        tell!("{note}");
    }
    Ok(dir)
}

/// The folder of the adapter that `dir` names. For a run without an adapter of its end it is the newest checkpoint or the best so far.
///
/// # Errors
/// A run that has saved none yet.
pub fn found_adapter(dir: &Path) -> Result<Found, CliError> {
    let is_run = dir.join("config.toml").is_file() && !dir.join("adapter_config.json").exists();
    if !is_run {
        return Ok(Found { dir: dir.to_owned(), note: None });
    }
    let shown = dir.display();
    let status = RunStatus::read(dir).ok();
    let why = status.as_ref().map_or("has no records that can be read".to_owned(), why_unsaved);
    let Some(found) = adapter_of_run(dir) else {
        return Err(CliError::new(format!("{shown} {why}, and no adapter of it is saved"))
            .hint(format!("lorafit status {} shows how far it came", shell_word(&shown.to_string()))));
    };
    let used = status.as_ref().map_or("an adapter".to_owned(), |status| which(status, dir, &found));
    let better = status.as_ref().and_then(|status| better(status, dir, &found)).unwrap_or_default();
    let note = format!("{shown} {why}: {used} is used, that of {}{better}", found.display());
    Ok(Found { dir: found, note: Some(note) })
}

/// Why a run has no adapter of its end, and how far it came.
fn why_unsaved(status: &RunStatus) -> String {
    let step = status.step;
    let came_to = status.total_steps.map_or(step.to_string(), |total| format!("{step} of {total}"));
    match status.state() {
        RunState::Running => format!("is still running, after step {came_to}"),
        _ if has_diverged(status) => format!("diverged, and ended after step {came_to}"),
        RunState::Finished => format!("ended after step {came_to}, but the adapter is not in its folder"),
        RunState::Stopped if status.total_steps.is_none() => {
            format!("has no record of its end, and came to step {came_to}")
        }
        RunState::Stopped => format!("was stopped after step {came_to}"),
    }
}

fn has_diverged(status: &RunStatus) -> bool {
    status.verdict.as_ref().is_some_and(|verdict| verdict.outcome == Outcome::Diverged)
}

/// What the adapter in `found` is.
fn which(status: &RunStatus, dir: &Path, found: &Path) -> String {
    let of_checkpoint = status.checkpoint.as_ref().filter(|checkpoint| checkpoint.path == found);
    match of_checkpoint {
        Some(checkpoint) => format!("the adapter after step {}", checkpoint.step),
        None => match status.best.as_ref().filter(|_| found == RunFolder::best_dir(dir)) {
            Some(best) => format!("its best adapter, after step {}", best.step),
            None => "an adapter".to_owned(),
        },
    }
}

/// Where the best adapter of a run that diverged is, if another is used.
fn better(status: &RunStatus, dir: &Path, found: &Path) -> Option<String> {
    let best = status.best.as_ref().filter(|_| has_diverged(status))?;
    let folder = RunFolder::best_dir(dir);
    let is_later = status.checkpoint.as_ref().is_none_or(|checkpoint| checkpoint.step != best.step);
    let is_other = is_later && folder != found && folder.join("adapter_config.json").is_file();
    is_other.then(|| format!("; its best, after step {}, is in {}", best.step, folder.display()))
}
