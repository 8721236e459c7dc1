//! What can be wrong with a model's or an adapter's files.

use std::fmt;
use std::path::{Path, PathBuf};

/// A file that cannot be used: which, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    path: PathBuf,
    problem: String,
    hint: Option<String>,
}

impl FileError {
    pub(crate) fn new(path: &Path, problem: impl Into<String>) -> Self {
        FileError { path: path.to_owned(), problem: problem.into(), hint: None }
    }

    pub(crate) fn with_hint(self, hint: impl Into<String>) -> Self {
        FileError { hint: Some(hint.into()), ..self }
    }

    pub(crate) fn at(self, path: &Path) -> Self {
        FileError { path: path.to_owned(), ..self }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.problem)
    }
}

impl std::error::Error for FileError {}
