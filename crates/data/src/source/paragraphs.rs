//! Plain text: a row is a paragraph, the lines up to a blank one. It is trained as a row `{"text": ...}` is.
//!
//! A paragraph rather than a file, since what is longer than the longest sample is cut, and rather than a line, since
//! prose has line breaks within its sentences.

use std::io::BufRead;
use std::iter::Peekable;

use serde_json::Value;

use super::jsonl::{Line, Lines};
use super::{Content, LONGEST_ROW_BYTES, ReadError, Record, text};
use crate::error::RowProblem;
use crate::format::Fields;

/// The paragraphs of a file, numbered by their first line.
pub struct Paragraphs<R: BufRead> {
    lines: Peekable<Lines<R>>,
}

impl<R: BufRead> Paragraphs<R> {
    /// Reads paragraphs.
    pub fn new(reader: R) -> Self {
        Self { lines: Lines::new(reader).peekable() }
    }

    /// The paragraph that begins with a line.
    fn paragraph(&mut self, first: Line) -> Result<Record, ReadError> {
        let Line { number, mut bytes } = first;
        let mut last = number;
        // Blank lines are not among the lines, but counted.
        while let Some(line) =
            self.lines.next_if(|line| line.as_ref().is_ok_and(|line| line.number == last + 1))
        {
            last += 1;
            bytes.push(b'\n');
            bytes.append(&mut line?.bytes);
            if bytes.len() > LONGEST_ROW_BYTES {
                return Err(ReadError::Row(number, RowProblem::TooLong { limit: LONGEST_ROW_BYTES }));
            }
        }
        let text = text(&bytes).map_err(|problem| ReadError::Row(number, problem))?;
        let fields = Fields::from_iter([("text".to_owned(), Value::String(text.to_owned()))]);
        Ok(Record { number, content: Content::Fields(fields) })
    }
}

impl<R: BufRead> Iterator for Paragraphs<R> {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = self.lines.next()?;
        Some(first.and_then(|first| self.paragraph(first)))
    }
}
