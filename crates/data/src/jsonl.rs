//! JSON Lines: one row a line, blank lines skipped, a UTF-8 byte-order mark and CRLF line ends accepted.
//!
//! Lines are read one at a time and stay bytes until [`fields`] parses them, so that parsing can be done in parallel
//! and a file larger than memory can be read. A line has a longest length: a file that is one endless line must not
//! fill the memory.

use std::io::{self, BufRead, Read};

use crate::error::RowProblem;
use crate::format::{Fields, kind};

/// The longest line that is read.
pub const LONGEST_LINE_BYTES: usize = 64 << 20;

/// A line that is not blank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Counted from 1, blank lines too.
    pub number: usize,
    /// Without its line end.
    pub bytes: Vec<u8>,
}

/// Why a line could not be read.
#[derive(Debug)]
pub enum LineError {
    /// The file could not be read.
    Io(io::Error),
    /// The line, by its number, is not acceptable.
    Line(usize, RowProblem),
}

/// The lines of a file that are not blank.
#[derive(Debug)]
pub struct Lines<R> {
    reader: R,
    number: usize,
    longest: usize,
    done: bool,
}

impl<R: BufRead> Lines<R> {
    /// Reads lines up to [`LONGEST_LINE_BYTES`].
    pub fn new(reader: R) -> Self {
        Self::with_longest(reader, LONGEST_LINE_BYTES)
    }

    /// Reads lines up to `longest` bytes, the line end not counted.
    pub fn with_longest(reader: R, longest: usize) -> Self {
        Self { reader, number: 0, longest, done: false }
    }

    fn read(&mut self) -> Result<Option<Line>, LineError> {
        loop {
            let mut bytes = Vec::new();
            // Room for CRLF and a byte-order mark.
            let limit = self.longest as u64 + 5;
            let read =
                self.reader.by_ref().take(limit).read_until(b'\n', &mut bytes).map_err(LineError::Io)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            for end in [b'\n', b'\r'] {
                if bytes.last() == Some(&end) {
                    bytes.pop();
                }
            }
            if self.number == 1 && bytes.starts_with(b"\xEF\xBB\xBF") {
                bytes.drain(..3);
            }
            if bytes.len() > self.longest {
                return Err(LineError::Line(self.number, RowProblem::LineTooLong { limit: self.longest }));
            }
            if !bytes.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(Line { number: self.number, bytes }));
            }
        }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<Line, LineError>;

    /// After an error there is nothing more: what follows may be the rest of a line.
    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.read().transpose();
        self.done = !matches!(item, Some(Ok(_)));
        item
    }
}

/// The fields of a line's JSON object.
///
/// # Errors
/// When the line is not UTF-8, not JSON, or not an object.
pub fn fields(line: &[u8]) -> Result<Fields, RowProblem> {
    let text = std::str::from_utf8(line).map_err(|e| RowProblem::NotUtf8 { byte: e.valid_up_to() + 1 })?;
    let value: serde_json::Value = serde_json::from_str(text).map_err(|e| {
        // serde_json closes with the place, whose line is always 1 here.
        let message = e.to_string();
        let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(m, _)| m);
        RowProblem::Json { column: e.column().max(1), message: message.to_string() }
    })?;
    match value {
        serde_json::Value::Object(map) => Ok(map),
        other => Err(RowProblem::NotAnObject { found: kind(&other) }),
    }
}
