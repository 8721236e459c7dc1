//! What a finished run's records say of it as a whole.

use std::io;
use std::path::{Path, PathBuf};

use crate::json_lines::read_last;
use crate::metrics::StepRecord;
use crate::run::{METRICS, RunError, RunFolder};
use crate::status::Line;

/// A run as its folder tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct RunSummary {
    /// Steps taken.
    pub steps: usize,
    /// Time of the steps together.
    pub seconds: f64,
    /// Tokens of the rows over that time.
    pub tokens_per_s: f64,
    /// The most resident memory the process had.
    pub peak_rss_bytes: u64,
    /// What it left.
    pub result: RunResult,
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
        let lines: Vec<Line> = read_last(&dir.join(METRICS), usize::MAX).map_err(no_run)?;
        let taken: Vec<StepRecord> = lines.into_iter().filter_map(Line::taken).collect();
        let model = RunFolder::model_dir(dir);
        let result = match (model.join("config.json").exists(), dir.join("adapter_config.json").exists()) {
            (true, _) => RunResult::Model(model),
            (false, true) => RunResult::Adapter(dir.to_owned()),
            (false, false) => {
                return Err(no_run(io::Error::other("it has left no adapter and no model yet")));
            }
        };
        let seconds: f64 = taken.iter().map(|record| record.seconds).sum();
        let tokens: u64 = taken.iter().map(|record| record.tokens).sum();
        Ok(RunSummary {
            steps: taken.len(),
            seconds,
            tokens_per_s: if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 },
            peak_rss_bytes: taken.iter().map(|record| record.peak_rss_bytes).max().unwrap_or(0),
            result,
        })
    }
}
