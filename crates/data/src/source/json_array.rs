//! A JSON array of rows, read one element at a time: only brackets, strings and commas are looked at here, and the
//! bytes of an element are parsed where lines of JSON are, in parallel.

use std::io::BufRead;

use super::{Content, LONGEST_ROW_BYTES, ReadError, Record};
use crate::error::RowProblem;
use lorafit_remedy::amounts::counted;

/// The elements of an array, numbered from 1.
#[derive(Debug)]
pub struct JsonArray<R> {
    reader: R,
    number: usize,
    at: At,
    /// Something may follow the list: it is inside an object.
    inside: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Start,
    /// After the opening bracket or a comma.
    Element,
    End,
}

/// What ended an element.
enum End {
    Comma,
    Bracket,
    File,
}

impl<R: BufRead> JsonArray<R> {
    /// Reads an array; whether the file is one is found out on the way.
    pub fn new(reader: R) -> Self {
        Self { reader, number: 0, at: At::Start, inside: false }
    }

    /// Reads an array that stands inside an object: what follows it is left alone.
    pub fn inside_object(reader: R) -> Self {
        Self { inside: true, ..Self::new(reader) }
    }

    fn read(&mut self) -> Result<Option<Record>, ReadError> {
        if self.at == At::Start {
            let opened = self.skip_blank()?;
            if opened != Some(b'[') {
                return Err(damaged("it does not begin with `[`"));
            }
            self.reader.consume(1);
        }
        self.number += 1;
        let (bytes, end) = self.element()?;
        self.at = match end {
            End::Comma => At::Element,
            End::Bracket if !self.inside && self.skip_blank()?.is_some() => {
                return Err(damaged("something follows the `]` of the list"));
            }
            End::Bracket if bytes.is_empty() && self.at == At::Start => return Ok(None),
            End::Bracket => At::End,
            End::File => {
                return Err(damaged(&format!(
                    "it ends inside the list, after {}",
                    counted(self.number - 1, "row", "rows")
                )));
            }
        };
        Ok(Some(Record { number: self.number, content: Content::Json(bytes) }))
    }

    /// The bytes of the next element, without blanks around them, and what follows it.
    fn element(&mut self) -> Result<(Vec<u8>, End), ReadError> {
        let mut bytes = Vec::new();
        let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
        loop {
            let chunk = self.reader.fill_buf().map_err(ReadError::Io)?;
            if chunk.is_empty() {
                return Ok((bytes, End::File));
            }
            let mut end = None;
            let mut read = 0;
            for &byte in chunk {
                read += 1;
                match byte {
                    _ if in_string => {
                        in_string = escaped || byte != b'"';
                        escaped = !escaped && byte == b'\\';
                    }
                    b'"' => in_string = true,
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' if depth > 0 => depth -= 1,
                    b']' => end = Some(End::Bracket),
                    b',' if depth == 0 => end = Some(End::Comma),
                    _ if bytes.is_empty() && byte.is_ascii_whitespace() => continue,
                    _ => {}
                }
                if end.is_some() {
                    break;
                }
                bytes.push(byte);
            }
            self.reader.consume(read);
            if let Some(end) = end {
                bytes.truncate(bytes.trim_ascii_end().len());
                return Ok((bytes, end));
            }
            if bytes.len() > LONGEST_ROW_BYTES {
                return Err(ReadError::Row(self.number, RowProblem::TooLong { limit: LONGEST_ROW_BYTES }));
            }
        }
    }

    /// The next byte that is neither blank nor a byte-order mark; it is not taken.
    fn skip_blank(&mut self) -> Result<Option<u8>, ReadError> {
        loop {
            let chunk = self.reader.fill_buf().map_err(ReadError::Io)?;
            let blank = |byte: &u8| byte.is_ascii_whitespace() || b"\xEF\xBB\xBF".contains(byte);
            let skipped = chunk.iter().take_while(|byte| blank(byte)).count();
            let found = chunk.get(skipped).copied();
            let ended = chunk.is_empty();
            self.reader.consume(skipped);
            if found.is_some() || ended {
                return Ok(found);
            }
        }
    }
}

fn damaged(message: &str) -> ReadError {
    ReadError::Malformed { format: "a JSON list", message: message.to_owned() }
}

impl<R: BufRead> Iterator for JsonArray<R> {
    type Item = Result<Record, ReadError>;

    /// After an error there is nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        if self.at == At::End {
            return None;
        }
        let item = self.read().transpose();
        if !matches!(item, Some(Ok(_))) {
            self.at = At::End;
        }
        item
    }
}
