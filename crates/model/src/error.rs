//! What can be wrong with a model's or an adapter's files.

use std::fmt;
use std::path::{Path, PathBuf};

use lorafit_remedy::{Remedy, Setting, remedy};

/// What to take instead of weights that are quantised in a way that is not read.
pub(crate) fn unquantised() -> Remedy {
    remedy![
        "take the model it was made from, in BF16";
        "quantise that while it is read with ", Setting::Quant.is("nf4"), " or int8";
        "take a GGUF file of it"
    ]
}

/// A file that cannot be used: which, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    path: PathBuf,
    problem: String,
    hint: Option<Remedy>,
}

impl FileError {
    pub(crate) fn new(path: &Path, problem: impl Into<String>) -> Self {
        FileError { path: path.to_owned(), problem: problem.into(), hint: None }
    }

    pub(crate) fn with_hint(self, hint: impl Into<Remedy>) -> Self {
        FileError { hint: Some(hint.into()), ..self }
    }

    /// With the hint of the error that this one tells of, if it has one.
    pub(crate) fn with_hint_of(self, hint: Option<Remedy>) -> Self {
        FileError { hint: hint.or(self.hint), ..self }
    }

    pub(crate) fn at(self, path: &Path) -> Self {
        FileError { path: path.to_owned(), ..self }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<Remedy> {
        self.hint.clone()
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.problem)
    }
}

impl std::error::Error for FileError {}
