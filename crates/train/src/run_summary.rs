//! What a finished run's records say of it as a whole.

use std::io;
use std::path::{Path, PathBuf};

use crate::history::{RunHistory, RunTotals};
use crate::run::RunFolder;
use crate::run_error::RunError;

/// A run as its folder tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct RunSummary {
    /// What its steps took.
    pub totals: RunTotals,
    /// What it left.
    pub result: RunResult,
    /// The memory that was planned for it by itself, in bytes.
    pub planned_bytes: Option<u64>,
}

/// What a run left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunResult {
    /// An adapter, in this folder.
    Adapter(PathBuf),
    /// A model folder.
    Model(PathBuf),
}

impl RunResult {
    /// The folder.
    pub fn dir(&self) -> &Path {
        match self {
            RunResult::Adapter(dir) | RunResult::Model(dir) => dir,
        }
    }

    /// Bytes of its weights on disk.
    ///
    /// # Errors
    /// A folder that cannot be listed.
    pub fn weight_bytes(&self) -> io::Result<u64> {
        let mut bytes = 0;
        for entry in std::fs::read_dir(self.dir())? {
            let entry = entry?;
            if entry.path().extension().is_some_and(|e| e == "safetensors") {
                bytes += entry.metadata()?.len();
            }
        }
        Ok(bytes)
    }
}

impl RunSummary {
    /// Reads the records of the run in `dir`.
    ///
    /// # Errors
    /// A folder without a run, or whose run has left nothing yet.
    pub fn read(dir: &Path) -> Result<Self, RunError> {
        let no_run = |source| RunError::NoRun { dir: dir.to_owned(), source };
        let history = RunHistory::read(dir)?;
        let planned_bytes = history.plan.as_ref().and_then(|plan| plan["planned_bytes"].as_u64());
        let model = RunFolder::model_dir(dir);
        let result = match (model.join("config.json").exists(), dir.join("adapter_config.json").exists()) {
            (true, _) => RunResult::Model(model),
            (false, true) => RunResult::Adapter(dir.to_owned()),
            (false, false) => {
                return Err(no_run(io::Error::other("it has left no adapter and no model yet")));
            }
        };
        Ok(RunSummary { totals: history.totals(), result, planned_bytes })
    }
}
