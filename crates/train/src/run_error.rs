//! What can be wrong with a run folder and its checkpoints.

use std::io;
use std::path::{Path, PathBuf};

use lorafit_model::FileError;
use lorafit_remedy::amounts::memory;
use lorafit_remedy::{Remedy, Setting, nearby, remedy};

use crate::identity::Mismatch;
use crate::metrics::METRICS;
use crate::storage::free_bytes;

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
    /// The folder holds none.
    #[error("{}", no_run(dir, source))]
    NoRun {
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process writes to the folder.
    #[error("{} is in use by {}", dir.display(), holder(*process))]
    Locked {
        /// The folder.
        dir: PathBuf,
        /// The process, if it says.
        process: Option<u32>,
    },
    /// A file cannot be made or written.
    #[error("{}: cannot write: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What frozen blocks computed cannot be kept, or read again.
    #[error("the outputs of the frozen blocks cannot be kept in the cache: {source}")]
    Frozen {
        /// What the system said.
        source: io::Error,
    },
    /// A checkpoint or an adapter cannot be saved.
    #[error("{}: cannot save: {source}{}", path.display(), space(source, *needed_bytes, *free_bytes))]
    Save {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
        /// What saving takes.
        needed_bytes: u64,
        /// What the file system has left, if it tells.
        free_bytes: Option<u64>,
    },
    /// The file system has too little space for the run.
    #[error("{}: the run needs {} on disk, {} are free", dir.display(), memory(*needed_bytes), memory(*free_bytes))]
    NoSpace {
        /// The folder.
        dir: PathBuf,
        /// Checkpoints and adapters.
        needed_bytes: u64,
        /// What is left.
        free_bytes: u64,
    },
    /// The file system has too little space for a model folder.
    #[error("{}: the model needs {} on disk, {} are free", dir.display(), memory(*needed_bytes), memory(*free_bytes))]
    NoSpaceForModel {
        /// The folder.
        dir: PathBuf,
        /// Its files.
        needed_bytes: u64,
        /// What is left.
        free_bytes: u64,
    },
    /// A checkpoint is damaged.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// No checkpoint is whole.
    #[error("{} has no checkpoint that can be used", dir.display())]
    NoCheckpoint {
        /// The run folder.
        dir: PathBuf,
    },
    /// The checkpoint is of another run.
    #[error("{} was made by another run:{}", path.display(), listed(mismatches))]
    Mismatch {
        /// The checkpoint.
        path: PathBuf,
        /// What differs.
        mismatches: Vec<Mismatch>,
    },
    /// The adapter cannot be loaded.
    #[error(transparent)]
    Adapter(#[from] FileError),
}

fn no_run(dir: &Path, source: &io::Error) -> String {
    let shown = dir.display();
    match source.kind() {
        io::ErrorKind::NotFound if dir.is_dir() => format!("{shown} holds no run: it has no {METRICS}"),
        io::ErrorKind::NotFound => format!("there is no folder {shown}"),
        io::ErrorKind::NotADirectory => format!("{shown} is a file, and a run is a folder"),
        _ => format!("{shown} holds no run: {source}"),
    }
}

/// Folders with runs that may be meant by `dir`, which is none: in it, beside it, or in `runs` of the working folder ([`nearby::find`]).
pub fn runs_near(dir: &Path) -> Vec<PathBuf> {
    nearby::find(dir, &["runs"], |path| path.join(METRICS).is_file())
}

fn holder(process: Option<u32>) -> String {
    process.map_or("another process".to_owned(), |id| format!("process {id}"))
}

fn listed(mismatches: &[Mismatch]) -> String {
    let line = |m: &Mismatch| format!("\n  {}: it has {}, this run has {}", m.name, m.expected, m.found);
    mismatches.iter().map(line).collect()
}

impl RunError {
    /// What the user can do.
    pub fn hint(&self) -> Option<Remedy> {
        Some(match self {
            RunError::Taken { .. } => remedy![
                "continue it with ", Setting::Resume;
                "choose another ", Setting::Out;
                "replace it with ", Setting::Overwrite
            ],
            RunError::NoRun { dir, .. } => {
                let near = nearby::in_words("runs", &runs_near(dir));
                near.unwrap_or_else(|| "give the folder that the run was written to".to_owned()).into()
            }
            RunError::Locked { .. } => {
                remedy!["wait for it"; "stop it"; "choose another ", Setting::Out]
            }
            RunError::Save { source, .. } if source.kind() == io::ErrorKind::InvalidData => return None,
            RunError::Save { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
                remedy!["choose another ", Setting::Out; "start again when nobody else writes there"]
            }
            RunError::Save { source, .. } if is_full(source) => {
                remedy!["make space"; "choose another ", Setting::Out]
            }
            RunError::Io { .. } | RunError::Save { .. } => {
                remedy!["check that the folder exists and is writable"; "choose another ", Setting::Out]
            }
            RunError::Frozen { .. } => remedy![Setting::CacheDir.is("DIR"), " names another folder for it"],
            RunError::NoSpace { .. } => {
                remedy!["make space"; "choose another ", Setting::Out; "lower ", Setting::KeepCheckpoints]
            }
            RunError::NoSpaceForModel { .. } => remedy!["make space"; "choose another ", Setting::Out],
            RunError::Checkpoint(_) | RunError::NoCheckpoint { .. } => remedy![
                "start again with ", Setting::Overwrite;
                "start from the adapter as it is with ", Setting::Adapter.is("RUN")
            ],
            RunError::Mismatch { .. } => {
                remedy!["give it what it had"; "resume anyway with ", Setting::ResumeAnyway]
            }
            RunError::Adapter(e) => return e.hint(),
        })
    }
}

/// A checkpoint that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("checkpoint {}: {problem}", path.display())]
pub struct CheckpointError {
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: String,
}

impl CheckpointError {
    pub(crate) fn new(path: &Path, problem: impl Into<String>) -> Self {
        CheckpointError { path: path.to_owned(), problem: problem.into() }
    }
}

/// What [`RunError::Io`] says of `path`.
pub(crate) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> RunError + use<> {
    let path = path.to_owned();
    move |source| RunError::Io { path, source }
}

/// Whether there was no space left.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// What saving takes and what there is, of an error that may be about that.
fn space(error: &io::Error, needed_bytes: u64, free_bytes: Option<u64>) -> String {
    if !is_full(error) || needed_bytes == 0 {
        return String::new();
    }
    let free = free_bytes.map(|free| format!(", {} are free", memory(free))).unwrap_or_default();
    format!(" ({} are needed{free})", memory(needed_bytes))
}

/// What [`RunError::Save`] says of `dir`.
pub(crate) fn save_error(dir: &Path, source: io::Error, needed_bytes: u64) -> RunError {
    RunError::Save { path: dir.to_owned(), source, needed_bytes, free_bytes: free_bytes(dir) }
}
