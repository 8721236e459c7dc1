//! Where rows come from: files of several formats, one reader each, and the choice of which rows are taken.
//!
//! A [`Source`] is a list of [`Part`]s; a part is a file, a folder or a glob ([`files`]). A file's format goes by its
//! name, else by its content ([`kind`]); compression goes by content. Readers give [`Record`]s one at a time, bytes or
//! fields, and nothing they hold grows with the file. `rows` turns records into rows in parallel and hands them on
//! in order; [`choice`] says how often each is taken.

pub mod choice;
pub mod csv;
pub mod files;
pub mod gzip;
pub mod json_array;
pub mod json_object;
pub mod jsonl;
pub mod kind;
pub mod line_ends;
pub mod paragraphs;
pub mod parquet;
pub(crate) mod replies;
pub(crate) mod rows;
pub mod utf16;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::RowProblem;
use crate::format::{Classes, Fields, Mapping};

pub use choice::{HeldOut, Subset};
pub use replies::NO_REPLY;
pub use rows::Origin;

/// The longest row that is read: a file that is one endless line, or unfolds to one, must not fill the memory.
pub const LONGEST_ROW_BYTES: usize = 8 << 20;

/// Rows to read: from where, how they are understood, and which of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Source {
    /// Read one after the other.
    pub parts: Vec<Part>,
    /// Of folders and data sets only the files of this split.
    pub split: Option<String>,
    /// Of each part only the first rows.
    pub limit: Option<usize>,
    /// What the fields and roles are called.
    pub mapping: Mapping,
    /// The column that holds the options of a multiple choice, by its name in the file.
    pub choices: Option<String>,
    /// The labels of rows that are classified, and where each stands: rows are then texts with labels, whatever else they could be.
    pub classes: Option<Classes>,
    /// Whether rows may lack their reply, which is then [`NO_REPLY`]: for whoever asks for prompts alone.
    pub without_replies: bool,
    /// Count rows that are not what they should be, instead of failing on the first.
    pub skip_bad_rows: bool,
    /// All rows, or one side of a division into training and validation.
    pub subset: Subset,
    /// Chooses the rows of that division, and those of parts that are taken in part.
    pub seed: u64,
}

/// Files that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// A file, a folder or a glob.
    pub location: String,
    /// How often a row is taken in an epoch: 2 takes each twice, 0.5 a half of them (chosen once, by the seed), 1.5 each
    /// once and a half of them again.
    pub weight: f64,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.weight {
            1.0 => f.write_str(&self.location),
            weight => write!(f, "{}:{weight}", self.location),
        }
    }
}

impl Source {
    /// All rows of the parts.
    pub fn new(parts: Vec<Part>) -> Self {
        Self { parts, ..Self::default() }
    }

    /// Whether chance decides which rows are taken. Then rows are counted before the first is read.
    fn is_drawn(&self) -> bool {
        self.subset.needs_count(self.parts.iter().map(|part| part.weight))
    }

    /// What decides which rows are taken beside the files: the parts are left out, and a seed that decides nothing.
    pub(crate) fn without_names(&self) -> Self {
        let seed = if self.is_drawn() { self.seed } else { 0 };
        Self { parts: Vec::new(), split: None, seed, ..self.clone() }
    }

    /// What the user calls it.
    pub fn name(&self) -> String {
        self.parts.iter().map(Part::to_string).collect::<Vec<_>>().join(", ")
    }
}

impl From<&Path> for Source {
    fn from(path: &Path) -> Self {
        Self::new(vec![Part { location: path.to_string_lossy().into_owned(), weight: 1.0 }])
    }
}

impl From<PathBuf> for Source {
    fn from(path: PathBuf) -> Self {
        path.as_path().into()
    }
}

impl From<&PathBuf> for Source {
    fn from(path: &PathBuf) -> Self {
        path.as_path().into()
    }
}

impl From<&str> for Source {
    fn from(path: &str) -> Self {
        Path::new(path).into()
    }
}

/// What a file's rows are counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Lines, blank ones too.
    Line,
    /// Rows, where a file has no lines.
    Row,
}

/// The place of a row in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// What is counted.
    pub unit: Unit,
    /// From 1.
    pub number: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Line => "line",
            Unit::Row => "row",
        };
        write!(f, "{unit} {}", self.number)
    }
}

/// A row as its file has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its number in the file, from 1.
    pub number: usize,
    /// What it holds.
    pub content: Content,
}

/// What a row holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// The text of a JSON object, not parsed yet.
    Json(Vec<u8>),
    /// Its fields.
    Fields(Fields),
}

impl Content {
    /// The row's fields.
    ///
    /// # Errors
    /// When the row's text is no JSON object.
    pub fn into_fields(self) -> Result<Fields, RowProblem> {
        self.into_fields_noting(&mut Vec::new())
    }

    /// As [`Self::into_fields`]; `twice` gets the names of keys that are there more than once.
    fn into_fields_noting(self, twice: &mut Vec<String>) -> Result<Fields, RowProblem> {
        match self {
            Self::Json(bytes) => jsonl::fields_noting(&bytes, twice),
            Self::Fields(fields) => Ok(fields),
        }
    }

    /// Roughly how much text the row holds.
    fn size_bytes(&self) -> usize {
        match self {
            Self::Json(bytes) => bytes.len(),
            Self::Fields(fields) => fields.values().map(crate::format::json_size_bytes).sum(),
        }
    }
}

/// Why a row could not be read.
#[derive(Debug)]
pub enum ReadError {
    /// The file could not be read.
    Io(io::Error),
    /// The file is damaged, and nothing more comes.
    Malformed {
        /// What it should be.
        format: &'static str,
        /// What is wrong.
        message: String,
    },
    /// The file is whole, and nothing here reads it.
    Unread {
        /// What it is, as it follows the file's name.
        what: String,
        /// What the user can do; `FILE` stands for the file.
        hint: String,
    },
    /// The row of this number is not acceptable; others may follow.
    Row(usize, RowProblem),
}

/// The rows of a file.
pub type Records = Box<dyn Iterator<Item = Result<Record, ReadError>>>;

/// Bytes as text.
fn text(bytes: &[u8]) -> Result<&str, RowProblem> {
    let text = std::str::from_utf8(bytes).map_err(|e| RowProblem::NotUtf8 { byte: e.valid_up_to() + 1 })?;
    match bytes.iter().position(|&b| b == 0) {
        Some(at) => Err(RowProblem::Nul { byte: at + 1 }),
        None => Ok(text),
    }
}
