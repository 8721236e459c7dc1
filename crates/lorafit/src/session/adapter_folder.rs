//! Where the adapter of a run is.

use std::path::{Path, PathBuf};

use lorafit_train::adapter_of_run;

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
    let Some(found) = adapter_of_run(dir) else {
        return Err(CliError::new(format!("{shown} has not ended, and has saved no adapter yet"))
            .hint(format!("lorafit status {} shows how far it is", shell_word(&shown.to_string()))));
    };
    if !quiet {
        tell!("{shown} has not ended: its adapter is that of {}", found.display());
    }
    Ok(found)
}
