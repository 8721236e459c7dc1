//! The folder of a run: its adapter, configuration and records.
//!
//! ```text
//! RUN/adapter_config.json, adapter_model.safetensors   the adapter, as PEFT reads it
//! RUN/best/...                                         the adapter of the lowest evaluation loss
//! RUN/config.toml                                      every setting of the run
//! RUN/plan.json                                        the memory the run was planned with, in bytes
//! RUN/metrics.jsonl                                    one object per optimizer step
//! RUN/evaluations.jsonl                                one object per evaluation
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use lorafit_model::FileError;
use lorafit_model::adapter::{self, Adapter};
use serde::Serialize;

use crate::metrics::{EvaluationRecord, StepRecord};
use crate::plan::MemoryPlan;

/// Why a run folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The folder holds another run.
    #[error("{} already holds a run (it has {file})", dir.display())]
    Taken {
        /// The folder.
        dir: PathBuf,
        /// The file that shows it.
        file: &'static str,
    },
    /// A file cannot be made or written.
    #[error("{}: cannot write: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The adapter cannot be saved.
    #[error(transparent)]
    Adapter(#[from] FileError),
}

impl RunError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            RunError::Taken { .. } => {
                Some("choose another --out, or replace that run with --overwrite".into())
            }
            RunError::Io { .. } => {
                Some("check that the folder exists, is writable and has space left".into())
            }
            RunError::Adapter(e) => e.hint(),
        }
    }
}

const METRICS: &str = "metrics.jsonl";
const EVALUATIONS: &str = "evaluations.jsonl";
const PLAN: &str = "plan.json";
const CONFIG: &str = "config.toml";
/// What a folder has if a run was there.
const MARKS: [&str; 3] = [METRICS, "adapter_config.json", "adapter_model.safetensors"];

/// An open run folder.
#[derive(Debug)]
pub struct RunFolder {
    dir: PathBuf,
    base_model: String,
    metrics: File,
    evaluations: File,
}

impl RunFolder {
    /// Fails if `dir` already holds a run. Call it before the long work that comes before [`RunFolder::create`].
    ///
    /// # Errors
    /// [`RunError::Taken`].
    pub fn check_free(dir: &Path) -> Result<(), RunError> {
        match MARKS.into_iter().find(|mark| dir.join(mark).exists()) {
            Some(file) => Err(RunError::Taken { dir: dir.to_owned(), file }),
            None => Ok(()),
        }
    }

    /// Makes the folder and writes `config`, the resolved settings. Records of an earlier run in the folder are
    /// replaced; its adapter stays until the new one is saved.
    ///
    /// # Errors
    /// A file that cannot be made.
    pub fn create(dir: &Path, config: &str, base_model: &str) -> Result<Self, RunError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| RunError::Io { path, source }
        };
        fs::create_dir_all(dir).map_err(io(dir))?;
        let config_path = dir.join(CONFIG);
        fs::write(&config_path, config).map_err(io(&config_path))?;
        let open = |name: &str| {
            let path = dir.join(name);
            OpenOptions::new().create(true).write(true).truncate(true).open(&path).map_err(io(&path))
        };
        let (metrics, evaluations) = (open(METRICS)?, open(EVALUATIONS)?);
        Ok(RunFolder { dir: dir.to_owned(), base_model: base_model.to_owned(), metrics, evaluations })
    }

    /// Where the run is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes `plan.json`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_plan(&self, plan: &MemoryPlan) -> Result<(), RunError> {
        let path = self.dir.join(PLAN);
        let text = serde_json::to_string_pretty(&plan.to_json()).expect("plain values");
        fs::write(&path, text + "\n").map_err(|source| RunError::Io { path, source })
    }

    /// Adds a line to `metrics.jsonl`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn record_step(&mut self, record: &StepRecord) -> Result<(), RunError> {
        append(&mut self.metrics, &self.dir.join(METRICS), record)
    }

    /// Adds a line to `evaluations.jsonl`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn record_evaluation(&mut self, record: &EvaluationRecord) -> Result<(), RunError> {
        append(&mut self.evaluations, &self.dir.join(EVALUATIONS), record)
    }

    /// Saves the adapter of the run.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save_adapter(&self, adapter: &Adapter) -> Result<(), RunError> {
        Ok(adapter::save(&self.dir, adapter, &self.base_model)?)
    }

    /// Saves the best adapter so far, in `best/`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save_best(&self, adapter: &Adapter) -> Result<(), RunError> {
        Ok(adapter::save(&self.best_dir(), adapter, &self.base_model)?)
    }

    /// Where the best adapter is.
    pub fn best_dir(&self) -> PathBuf {
        self.dir.join("best")
    }
}

/// One write a line, so that a reader never sees half of one while the run goes on.
fn append(file: &mut File, path: &Path, record: &impl Serialize) -> Result<(), RunError> {
    let mut line = serde_json::to_vec(record).expect("records are plain values");
    line.push(b'\n');
    file.write_all(&line).map_err(|source| RunError::Io { path: path.to_owned(), source })
}
