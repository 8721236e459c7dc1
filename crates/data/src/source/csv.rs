//! CSV and TSV (RFC 4180): the first line names the columns, quoted fields may have line breaks, every value is text.
//!
//! Spreadsheets separate by what their country does not use in numbers, and may begin with a line `sep=;` that says so:
//! whichever of comma, semicolon, tab and bar stands most often in the first line separates ([`Csv::sniffed`]). Columns
//! without a name are called by their number, and count for nothing where they are empty, as do rows that are empty.
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
    /// Lines before the one that names the columns.
    skipped: usize,
}

/// What separates values.
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];

impl<R: BufRead> Csv<R> {
    /// Reads values between `delimiter`s.
    pub fn new(reader: R, delimiter: u8) -> Self {
        let reader = ReaderBuilder::new()
            .delimiter(delimiter)
            // With CRLF as one line end the reader would be a line behind.
            .terminator(Terminator::Any(b'\n'))
            .has_headers(false)
            .flexible(true)
            .from_reader(Budget { reader, left: 0, read: 0, quotes: Quotes::new(delimiter) });
        Self { reader, columns: Vec::new(), done: false, skipped: 0 }
    }

    /// Reads values between what separates those of the first line; `usual`, where nothing does.
    ///
    /// # Errors
    /// When the beginning cannot be read.
    pub fn sniffed(mut reader: R, usual: u8) -> io::Result<Self> {
        let first = first_line(reader.fill_buf()?);
        let said = first.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(first);
        if let [b's', b'e', b'p', b'=', delimiter] = said.trim_ascii_end()
            && DELIMITERS.contains(delimiter)
        {
            let (delimiter, length) = (*delimiter, first.len());
            reader.consume(length);
            return Ok(Self { skipped: 1, ..Self::new(reader, delimiter) });
        }
        let mut counts = DELIMITERS.map(|delimiter| (0, delimiter));
        let mut quoted = false;
        for byte in first {
            quoted ^= *byte == b'"';
            if let Some((count, _)) = counts.iter_mut().find(|(_, delimiter)| delimiter == byte && !quoted) {
                *count += 1;
            }
        }
        // Of several that stand as often, the usual one, then the one named first.
        counts.sort_by_key(|(count, delimiter)| (std::cmp::Reverse(*count), *delimiter != usual));
        let delimiter = if counts[0].0 == 0 { usual } else { counts[0].1 };
        Ok(Self::new(reader, delimiter))
    }

    fn read(&mut self) -> Result<Option<Record>, ReadError> {
        if self.columns.is_empty() {
            let Some((_, first)) = self.row()? else { return Ok(None) };
            self.columns = columns(&first).map_err(|problem| ReadError::Row(1, problem))?;
        }
        let (number, row) = loop {
            match self.row()? {
                None => return Ok(None),
                // An empty row of a spreadsheet.
                Some((_, row))
                    if row.len() > 1 && values(&row).iter().all(|value| value.trim_ascii().is_empty()) => {}
                Some(row) => break row,
            }
        };
        let problem = |problem| ReadError::Row(number, problem);
        let values = values(&row);
        if values.len() != self.columns.len() {
            return Err(problem(RowProblem::Ragged { found: values.len(), want: self.columns.len() }));
        }
        let is_there = |(column, value): &(&String, &[u8])| !value.is_empty() || !column.starts_with(UNNAMED);
        let fields = self.columns.iter().zip(values).filter(is_there).map(|(column, value)| {
            let value = text(value).map_err(problem)?;
            Ok((column.clone(), Value::String(value.to_owned())))
        });
        Ok(Some(Record { number, content: Content::Fields(fields.collect::<Result<_, _>>()?) }))
    }

    /// Whether the row that was read last is the file's last, and its last value begins with a quote that does not close:
    /// all that follows is in that value.
    fn ends_inside_a_quote(&self) -> bool {
        let Budget { read, quotes, .. } = self.reader.get_ref();
        // The reader does not count a byte-order mark.
        quotes.is_open() && read.saturating_sub(self.reader.position().byte()) <= 3
    }

    /// The next row and the line it begins on.
    fn row(&mut self) -> Result<Option<(usize, ByteRecord)>, ReadError> {
        let mut row = ByteRecord::new();
        loop {
            self.reader.get_mut().left = LONGEST_ROW_BYTES;
            let began = self.reader.position().line() as usize + self.skipped;
            match self.reader.read_byte_record(&mut row) {
                Ok(false) => return Ok(None),
                Ok(true) if row.len() > MOST_COLUMNS => {
                    return Err(ReadError::Row(began, RowProblem::ManyColumns { most: MOST_COLUMNS }));
                }
                Ok(true) if self.ends_inside_a_quote() => {
                    let line = self.reader.get_ref().quotes.opened + self.skipped;
                    return Err(ReadError::Unread {
                        what: format!("has a quote that opens on line {line} and does not close"),
                        hint: "close it; a quote that belongs to a text stands twice, in quotes".into(),
                    });
                }
                Ok(true) if row.len() == 1 && values(&row)[0].is_empty() => {}
                Ok(true) => {
                    let line = row.position().map_or(began, |p| p.line() as usize + self.skipped);
                    return Ok(Some((line, row)));
                }
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

/// Begins the name of a column that has none.
const UNNAMED: &str = "column ";

/// The first line of a text with its line end, as far as it is there.
fn first_line(beginning: &[u8]) -> &[u8] {
    let mut quoted = false;
    let end = beginning.iter().position(|byte| {
        quoted ^= *byte == b'"';
        *byte == b'\n' && !quoted
    });
    &beginning[..end.map_or(beginning.len(), |end| end + 1)]
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
    let names = values(first).into_iter().enumerate().map(|(i, name)| {
        text(name).map(|name| match name.trim() {
            "" => format!("{UNNAMED}{}", i + 1),
            name => name.to_owned(),
        })
    });
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

/// A reader that stops after so many bytes, and follows quotes.
struct Budget<R> {
    reader: R,
    left: usize,
    /// Bytes that were read.
    read: u64,
    quotes: Quotes,
}

/// Whether a text is inside a quote. A quote opens at the beginning of a value only.
struct Quotes {
    delimiter: u8,
    at: At,
    line: usize,
    /// The line of the quote that opened last.
    opened: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// The beginning of a value.
    Beginning,
    /// A value without quotes, or what is behind a quote that closed.
    Plain,
    Inside,
    /// Behind a quote that closes, or is the first of two that stand for one.
    Quote,
}

impl Quotes {
    fn new(delimiter: u8) -> Self {
        Self { delimiter, at: At::Beginning, line: 1, opened: 0 }
    }

    fn is_open(&self) -> bool {
        self.at == At::Inside
    }

    fn follow(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.line += usize::from(byte == b'\n');
            self.at = match (self.at, byte) {
                (At::Inside, b'"') => At::Quote,
                (At::Inside, _) => At::Inside,
                (At::Quote, b'"') => At::Inside,
                (At::Beginning, b'"') => {
                    self.opened = self.line;
                    At::Inside
                }
                (_, byte) if byte == self.delimiter || byte == b'\n' => At::Beginning,
                _ => At::Plain,
            };
        }
    }
}

impl<R: Read> Read for Budget<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let room = buffer.len().min(self.left);
        let read = self.reader.read(&mut buffer[..room])?;
        self.left -= read;
        self.read += read as u64;
        self.quotes.follow(&buffer[..read]);
        Ok(read)
    }
}
