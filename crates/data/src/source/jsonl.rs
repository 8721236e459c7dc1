//! JSON Lines: one row a line, blank lines skipped, a UTF-8 byte-order mark and CRLF line ends accepted.
//!
//! Lines are read one at a time and stay bytes until [`fields`] parses them, so that parsing can be done in parallel
//! and a file larger than memory can be read. A line has a longest length: a file that is one endless line must not
//! fill the memory.

use std::io::{self, BufRead, Read};

use super::{Content, LONGEST_ROW_BYTES, ReadError, Record, text};
use crate::error::RowProblem;
use crate::format::{Fields, kind};

/// A line that is not blank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Counted from 1, blank lines too.
    pub number: usize,
    /// Without its line end.
    pub bytes: Vec<u8>,
}

/// The lines of a file that are not blank.
#[derive(Debug)]
pub struct Lines<R> {
    reader: R,
    number: usize,
    longest: usize,
    /// The last line was too long, and its rest is still to come.
    inside: bool,
    done: bool,
}

impl<R: BufRead> Lines<R> {
    /// Reads lines up to [`LONGEST_ROW_BYTES`].
    pub fn new(reader: R) -> Self {
        Self::with_longest(reader, LONGEST_ROW_BYTES)
    }

    /// Reads lines up to `longest` bytes, the line end not counted.
    pub fn with_longest(reader: R, longest: usize) -> Self {
        Self { reader, number: 0, longest, inside: false, done: false }
    }

    /// The lines as rows of JSON.
    pub fn records(self) -> impl Iterator<Item = Result<Record, ReadError>> {
        self.map(|line| line.map(|Line { number, bytes }| Record { number, content: Content::Json(bytes) }))
    }

    fn read(&mut self) -> Result<Option<Line>, ReadError> {
        if std::mem::take(&mut self.inside) {
            skip_line(&mut self.reader).map_err(ReadError::Io)?;
        }
        loop {
            let mut bytes = Vec::new();
            // Room for CRLF and a byte-order mark.
            let limit = self.longest as u64 + 5;
            let read =
                self.reader.by_ref().take(limit).read_until(b'\n', &mut bytes).map_err(ReadError::Io)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            self.inside = bytes.last() != Some(&b'\n');
            for end in [b'\n', b'\r'] {
                if bytes.last() == Some(&end) {
                    bytes.pop();
                }
            }
            if self.number == 1 && bytes.starts_with(b"\xEF\xBB\xBF") {
                bytes.drain(..3);
            }
            if bytes.len() > self.longest {
                return Err(ReadError::Row(self.number, RowProblem::TooLong { limit: self.longest }));
            }
            if !bytes.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(Line { number: self.number, bytes }));
            }
        }
    }
}

/// Reads up to the end of a line and keeps nothing.
fn skip_line(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let chunk = reader.fill_buf()?;
        let (read, ended) = match chunk.iter().position(|&b| b == b'\n') {
            Some(at) => (at + 1, true),
            None => (chunk.len(), chunk.is_empty()),
        };
        reader.consume(read);
        if ended {
            return Ok(());
        }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<Line, ReadError>;

    /// A line that is too long is an error, after which the next one follows.
    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.read().transpose();
        self.done = matches!(item, None | Some(Err(ReadError::Io(_))));
        item
    }
}

/// The fields of a JSON object.
///
/// # Errors
/// When the text is not UTF-8, not JSON, or not an object.
pub fn fields(json: &[u8]) -> Result<Fields, RowProblem> {
    fields_noting(json, &mut Vec::new())
}

/// As [`fields`]; `twice` gets the names of keys that are there more than once.
///
/// # Errors
/// As [`fields`].
pub(super) fn fields_noting(json: &[u8], twice: &mut Vec<String>) -> Result<Fields, RowProblem> {
    let value = crate::json::value_noting(text(json)?, twice).map_err(|e| {
        let message = e.to_string();
        if has_lone_surrogate(json)
            && ["surrogate", "end of hex escape"].iter().any(|told| message.contains(told))
        {
            return RowProblem::Surrogate { line: e.line(), column: e.column().max(1) };
        }
        let message = match json.trim_ascii_end() {
            // What a list of objects leaves behind when it is cut into lines.
            [object @ .., b','] if e.column() == object.len() + 1 => {
                "a comma stands behind the object".to_owned()
            }
            [] => "there is nothing, as behind a comma that nothing follows".to_owned(),
            _ => crate::json::told(&e),
        };
        RowProblem::Json { line: e.line(), column: e.column().max(1), message }
    })?;
    match value {
        serde_json::Value::Object(map) => Ok(map),
        other => Err(RowProblem::NotAnObject { found: kind(&other) }),
    }
}

/// Whether a text escapes a half of a surrogate pair (`\\ud83d`) anywhere.
fn has_lone_surrogate(json: &[u8]) -> bool {
    json.windows(4).any(|escape| {
        escape[0] == b'\\' && escape[1] == b'u' && escape[2].eq_ignore_ascii_case(&b'd') && escape[3] > b'7'
    })
}
