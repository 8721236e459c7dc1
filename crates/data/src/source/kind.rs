//! What kind of file it is: by the end of its name, else by how it begins. Compression (gzip, Zstandard) is always
//! recognised by content, since a name can be wrong about it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;

use super::csv::Csv;
use super::gzip::{self, Gzip};
use super::json_array::JsonArray;
use super::json_object::{self, Outline};
use super::jsonl::Lines;
use super::line_ends::{self, LineFeeds};
use super::paragraphs::Paragraphs;
use super::parquet::Parquet;
use super::utf16::{self, Utf16};
use super::{Content, LONGEST_ROW_BYTES, ReadError, Record, Records, Unit};
use crate::error::DataError;

/// A format of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One JSON object a line.
    JsonLines,
    /// One JSON list of objects.
    JsonArray,
    /// Values between commas, names in the first line.
    Csv,
    /// Values between tabs, names in the first line.
    Tsv,
    /// Columns.
    Parquet,
    /// Paragraphs.
    Text,
}

/// Read from the file at once.
const BUFFER_BYTES: usize = 64 << 10;
const ZSTD: &[u8] = &[0x28, 0xB5, 0x2F, 0xFD];
const PARQUET: &[u8] = b"PAR1";

impl Kind {
    /// What a file's rows are counted in.
    pub fn unit(self) -> Unit {
        match self {
            Self::JsonLines | Self::Csv | Self::Tsv | Self::Text => Unit::Line,
            Self::JsonArray | Self::Parquet => Unit::Row,
        }
    }

    /// The kinds a file name allows; `.json` may be either of two, other names none.
    pub fn by_name(path: &Path) -> &'static [Kind] {
        let lower = path.to_string_lossy().to_lowercase();
        let name = [".gz", ".zst", ".zstd"].iter().find_map(|end| lower.strip_suffix(end)).unwrap_or(&lower);
        match name.rsplit('.').next().filter(|end| end.len() < name.len()) {
            Some("jsonl" | "ndjson") => &[Kind::JsonLines],
            Some("json") => &[Kind::JsonArray, Kind::JsonLines],
            Some("csv") => &[Kind::Csv],
            Some("tsv" | "tab") => &[Kind::Tsv],
            Some("parquet" | "pq") => &[Kind::Parquet],
            Some("txt") => &[Kind::Text],
            _ => &[],
        }
    }

    /// The kind of a file that begins like this.
    fn by_content(beginning: &[u8]) -> Option<Kind> {
        let blank = |b: &&u8| b.is_ascii_whitespace() || b"\xEF\xBB\xBF".contains(b);
        match beginning.iter().find(|b| !blank(b)) {
            Some(b'[') => Some(Kind::JsonArray),
            // A file without rows is one of any kind.
            Some(b'{') | None => Some(Kind::JsonLines),
            Some(_) => None,
        }
    }
}

/// Opens a file's rows.
///
/// # Errors
/// When the file cannot be read, or its kind not be told.
pub fn open(path: &Path) -> Result<(Kind, Records), DataError> {
    let io = |source| DataError::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let mut magic = Vec::new();
    (&mut file).take(4).read_to_end(&mut magic).map_err(io)?;
    file.rewind().map_err(io)?;
    let named = Kind::by_name(path);
    if let Some(error) = unread(&magic) {
        return Err(DataError::reading(path, Unit::Row, error));
    }
    if magic.is_empty() && named == [Kind::Parquet] {
        let (what, hint) = ("is empty".to_owned(), "write it again".to_owned());
        return Err(DataError::reading(path, Unit::Row, ReadError::Unread { what, hint }));
    }
    if magic == PARQUET || (named == [Kind::Parquet] && !is_compressed(&magic)) {
        let rows = Parquet::new(file).map_err(|e| DataError::reading(path, Unit::Row, e))?;
        return Ok((Kind::Parquet, Box::new(rows)));
    }
    let mut reader = decompressed(file, &magic).map_err(io)?;
    let kind = match named {
        [Kind::JsonLines] | [] | [_, _, ..] => {
            match (Kind::by_content(beginning(&mut *reader).map_err(io)?), named) {
                (Some(kind), _) => kind,
                (None, [kind]) => *kind,
                (None, _) => return Err(DataError::UnknownKind { path: path.to_owned() }),
            }
        }
        [kind] => *kind,
    };
    let rows: Records = match kind {
        Kind::JsonLines => return json(path, reader),
        Kind::JsonArray => Box::new(JsonArray::new(reader)),
        Kind::Csv => Box::new(Csv::sniffed(reader, b',').map_err(io)?),
        Kind::Tsv => Box::new(Csv::sniffed(reader, b'\t').map_err(io)?),
        Kind::Text => Box::new(Paragraphs::new(reader)),
        Kind::Parquet => {
            let message = "it is compressed as a whole, which Parquet files are within".to_owned();
            let error = ReadError::Malformed { format: "Parquet", message };
            return Err(DataError::reading(path, Unit::Row, error));
        }
    };
    Ok((kind, rows))
}

/// What a reader gives first.
fn beginning(reader: &mut dyn BufRead) -> std::io::Result<&[u8]> {
    reader.fill_buf()
}

/// The rows of a file that begins with `{`: lines, or one object around them.
fn json(path: &Path, mut reader: Box<dyn BufRead>) -> Result<(Kind, Records), DataError> {
    let io = |source| DataError::Io { path: path.to_owned(), source };
    let start = reader.fill_buf().map_err(io)?;
    let is_object = Kind::by_content(start) == Some(Kind::JsonLines) && start.contains(&b'{');
    if !is_object || json_object::first_line_is_object(start) == Some(true) {
        return Ok((Kind::JsonLines, Box::new(Lines::new(reader).records())));
    }
    let again = || reopened(path).map_err(io);
    let unread = |what: String, hint: String| {
        Err(DataError::reading(path, Unit::Row, ReadError::Unread { what, hint }))
    };
    let named = |names: &[String]| {
        let told: Vec<String> =
            names.iter().take(8).map(|name| format!("`{}`", name.escape_debug())).collect();
        told.join(", ")
    };
    match json_object::outline(reader).map_err(io)? {
        // One row, which may have a list of objects by a name of its own.
        _ if Kind::by_name(path) == [Kind::JsonLines] && is_one_line(again()?).map_err(io)? => {
            Ok((Kind::JsonLines, Box::new(Lines::new(again()?).records())))
        }
        Outline::List(list) => {
            let mut reader = again()?;
            json_object::skip_to(&mut reader, &list).map_err(io)?;
            Ok((Kind::JsonArray, Box::new(JsonArray::inside_object(reader))))
        }
        Outline::Lists(lists) => unread(
            format!("is one JSON object with several lists of rows: {}", named(&lists)),
            format!(
                "write the one that is meant to a file of its own: jq .{} FILE > rows.json",
                lists[0].escape_debug()
            ),
        ),
        Outline::None(names) if !is_one_line(again()?).map_err(io)? => unread(
            format!("is one JSON object ({}), and none of its values is a list of rows", named(&names)),
            "write a list of objects, one for each row, or one object on each line".into(),
        ),
        Outline::Row if !is_one_line(again()?).map_err(io)? => {
            let mut bytes = Vec::new();
            again()?.take(LONGEST_ROW_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
            let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").map(<[u8]>::to_vec).unwrap_or(bytes);
            let row = match bytes.len() > LONGEST_ROW_BYTES {
                true => Err(ReadError::Row(1, crate::RowProblem::TooLong { limit: LONGEST_ROW_BYTES })),
                false => Ok(Record { number: 1, content: Content::Json(bytes) }),
            };
            Ok((Kind::JsonArray, Box::new(std::iter::once(row))))
        }
        Outline::Objects if !is_line(again()?).map_err(io)? => unread(
            "is JSON objects one after the other, each over several lines".into(),
            "write each on one line: jq -c . FILE > rows.jsonl".into(),
        ),
        Outline::Objects | Outline::Row | Outline::None(_) | Outline::Cut => {
            Ok((Kind::JsonLines, Box::new(Lines::new(again()?).records())))
        }
    }
}

/// Whether there is one line that is not blank, of a length that is read.
fn is_one_line(reader: Box<dyn BufRead>) -> std::io::Result<bool> {
    let mut lines = Lines::new(reader);
    Ok(matches!(lines.next(), Some(Ok(_))) && lines.next().is_none())
}

/// Whether the first line that is not blank is an object by itself.
fn is_line(reader: Box<dyn BufRead>) -> std::io::Result<bool> {
    let first = Lines::new(reader).next();
    Ok(match first {
        Some(Ok(line)) => crate::json::value(&String::from_utf8_lossy(&line.bytes)).is_ok(),
        // It is told as the row that it is.
        Some(Err(_)) | None => true,
    })
}

/// The file from its beginning again.
fn reopened(path: &Path) -> std::io::Result<Box<dyn BufRead>> {
    let mut file = File::open(path)?;
    let mut magic = Vec::new();
    (&mut file).take(4).read_to_end(&mut magic)?;
    file.rewind()?;
    decompressed(file, &magic)
}

/// Why a file that begins so is not read, if it is of a kind that is known not to be.
fn unread(magic: &[u8]) -> Option<ReadError> {
    let (what, hint) = match magic {
        b"ARRO" | [0xFF, 0xFF, 0xFF, 0xFF] => (
            "is an Arrow file, which is not read",
            "write it as Parquet: python -c \"from datasets import Dataset; \
             Dataset.from_file('FILE').to_parquet('rows.parquet')\"",
        ),
        b"PARE" => ("is encrypted Parquet, which is not read", "write it without encryption"),
        b"PK\x03\x04" => {
            ("is a ZIP archive or a spreadsheet, which is not read", "unpack it, or save the table as CSV")
        }
        [b'O', b'R', b'C', ..] => ("is an ORC file, which is not read", "write it as Parquet"),
        b"SQLi" => {
            ("is a database of SQLite, which is not read", "write the table as CSV: sqlite3 -csv -header")
        }
        magic if utf16::is_utf32(magic) => {
            ("is UTF-32, which is not read", "save the file as UTF-8 (iconv -f UTF-32 -t UTF-8 converts)")
        }
        _ => return None,
    };
    Some(ReadError::Unread { what: what.into(), hint: hint.into() })
}

fn is_compressed(magic: &[u8]) -> bool {
    magic.starts_with(&gzip::MAGIC) || magic == ZSTD
}

/// What the file says in UTF-8, its lines ended by line feeds, unfolded as it is read. Zstandard's decoder takes at most 128 MiB (its default window limit).
fn decompressed(file: File, magic: &[u8]) -> std::io::Result<Box<dyn BufRead>> {
    let reader = BufReader::with_capacity(BUFFER_BYTES, file);
    let mut reader: Box<dyn BufRead> = match magic {
        m if m.starts_with(&gzip::MAGIC) => {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, Gzip::new(reader)))
        }
        ZSTD => Box::new(BufReader::new(zstd::stream::read::Decoder::with_buffer(reader)?)),
        _ => Box::new(reader),
    };
    if let Some(order) = utf16::Order::of(reader.fill_buf()?) {
        reader = Box::new(BufReader::with_capacity(BUFFER_BYTES, Utf16::new(reader, order)));
    }
    Ok(match line_ends::are_carriage_returns(reader.fill_buf()?) {
        true => Box::new(BufReader::with_capacity(BUFFER_BYTES, LineFeeds::new(reader))),
        false => reader,
    })
}
