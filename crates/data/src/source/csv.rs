//! CSV and TSV (RFC 4180): the first line names the columns, quoted fields may have line breaks, every value is text.
//!
//! A row is as long as the first line. An opening quote without its end would make the rest of the file one field, so
//! a row has a longest length here too.

use std::collections::HashSet;
use std::io::{self, BufRead, Read};

use csv::{ByteRecord, ErrorKind, ReaderBuilder, Terminator};
use serde_json::Value;

use super::{Content, LONGEST_ROW_BYTES, ReadError, Record, text};
use crate::error::RowProblem;

/// More than any table has. A row keeps a name and a value for each, however empty.
const MOST_COLUMNS: usize = 1 << 12;

/// The rows below the first line, numbered by the line they begin on.
pub struct Csv<R: BufRead> {
    reader: csv::Reader<Budget<R>>,
    columns: Vec<String>,
    done: bool,
}

impl<R: BufRead> Csv<R> {
    /// Reads values between `delimiter`s.
    pub fn new(reader: R, delimiter: u8) -> Self {
        let reader = ReaderBuilder::new()
            .delimiter(delimiter)
            // With CRLF as one line end the reader would be a line behind.
            .terminator(Terminator::Any(b'\n'))
            .has_headers(false)
            .flexible(true)
            .from_reader(Budget { reader, left: 0 });
        Self { reader, columns: Vec::new(), done: false }
    }

    fn read(&mut self) -> Result<Option<Record>, ReadError> {
        if self.columns.is_empty() {
            let Some((_, first)) = self.row()? else { return Ok(None) };
            self.columns = columns(&first).map_err(|problem| ReadError::Row(1, problem))?;
        }
        let Some((number, row)) = self.row()? else { return Ok(None) };
        let problem = |problem| ReadError::Row(number, problem);
        let values = values(&row);
        if values.len() != self.columns.len() {
            return Err(problem(RowProblem::Ragged { found: values.len(), want: self.columns.len() }));
        }
        let fields = self.columns.iter().zip(values).map(|(column, value)| {
            let value = text(value).map_err(problem)?;
            Ok((column.clone(), Value::String(value.to_owned())))
        });
        Ok(Some(Record { number, content: Content::Fields(fields.collect::<Result<_, _>>()?) }))
    }

    /// The next row and the line it begins on.
    fn row(&mut self) -> Result<Option<(usize, ByteRecord)>, ReadError> {
        let mut row = ByteRecord::new();
        loop {
            self.reader.get_mut().left = LONGEST_ROW_BYTES;
            let began = self.reader.position().line() as usize;
            match self.reader.read_byte_record(&mut row) {
                Ok(false) => return Ok(None),
                Ok(true) if row.len() > MOST_COLUMNS => {
                    return Err(ReadError::Row(began, RowProblem::ManyColumns { most: MOST_COLUMNS }));
                }
                Ok(true) if row.len() == 1 && values(&row)[0].is_empty() => {}
                Ok(true) => return Ok(Some((row.position().map_or(began, |p| p.line() as usize), row))),
                Err(error) => {
                    return Err(match error.into_kind() {
                        ErrorKind::Io(_) if self.reader.get_ref().left == 0 => {
                            ReadError::Row(began, RowProblem::TooLong { limit: LONGEST_ROW_BYTES })
                        }
                        ErrorKind::Io(error) => ReadError::Io(error),
                        other => ReadError::Malformed { format: "CSV", message: format!("{other:?}") },
                    });
                }
            }
        }
    }
}

/// The values of a row, without what CRLF leaves of a line end.
fn values(row: &ByteRecord) -> Vec<&[u8]> {
    let mut values: Vec<&[u8]> = row.iter().collect();
    if let Some(last) = values.last_mut() {
        *last = last.strip_suffix(b"\r").unwrap_or(last);
    }
    values
}

/// The names in the first line.
fn columns(first: &ByteRecord) -> Result<Vec<String>, RowProblem> {
    let names = values(first).into_iter().map(|name| text(name).map(|name| name.trim().to_owned()));
    let names = names.collect::<Result<Vec<_>, _>>()?;
    let mut seen = HashSet::new();
    match names.iter().find(|name| !seen.insert(*name)) {
        Some(twice) => Err(RowProblem::ColumnTwice { column: twice.clone() }),
        None => Ok(names),
    }
}

impl<R: BufRead> Iterator for Csv<R> {
    type Item = Result<Record, ReadError>;

    /// After a row of another length or with text that can't be read the next one follows.
    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.read().transpose();
        self.done = match &item {
            Some(Ok(_)) => false,
            Some(Err(ReadError::Row(_, problem))) => {
                self.columns.is_empty() || matches!(problem, RowProblem::TooLong { .. })
            }
            Some(Err(_)) | None => true,
        };
        item
    }
}

/// A reader that stops after so many bytes.
struct Budget<R> {
    reader: R,
    left: usize,
}

impl<R: Read> Read for Budget<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let room = buffer.len().min(self.left);
        let read = self.reader.read(&mut buffer[..room])?;
        self.left -= read;
        Ok(read)
    }
}
