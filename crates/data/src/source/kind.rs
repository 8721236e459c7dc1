//! What kind of file it is: by the end of its name, else by how it begins. Compression (gzip, Zstandard) is always
//! recognised by content, since a name can be wrong about it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;

use super::csv::Csv;
use super::json_array::JsonArray;
use super::jsonl::Lines;
use super::paragraphs::Paragraphs;
use super::parquet::Parquet;
use super::{ReadError, Records, Unit};
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
const GZIP: &[u8] = &[0x1F, 0x8B];
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
    if magic == PARQUET || (named == [Kind::Parquet] && !is_compressed(&magic)) {
        let rows = Parquet::new(file).map_err(|e| DataError::reading(path, Unit::Row, e))?;
        return Ok((Kind::Parquet, Box::new(rows)));
    }
    let mut reader = decompressed(file, &magic).map_err(io)?;
    let kind = match named {
        [kind] => *kind,
        _ => Kind::by_content(reader.fill_buf().map_err(io)?)
            .ok_or_else(|| DataError::UnknownKind { path: path.to_owned() })?,
    };
    let rows: Records = match kind {
        Kind::JsonLines => Box::new(Lines::new(reader).records()),
        Kind::JsonArray => Box::new(JsonArray::new(reader)),
        Kind::Csv => Box::new(Csv::new(reader, b',')),
        Kind::Tsv => Box::new(Csv::new(reader, b'\t')),
        Kind::Text => Box::new(Paragraphs::new(reader)),
        Kind::Parquet => {
            let message = "it is compressed as a whole, which Parquet files are within".to_owned();
            let error = ReadError::Malformed { format: "Parquet", message };
            return Err(DataError::reading(path, Unit::Row, error));
        }
    };
    Ok((kind, rows))
}

fn is_compressed(magic: &[u8]) -> bool {
    magic.starts_with(GZIP) || magic == ZSTD
}

/// What the file says, unfolded as it is read. Zstandard's decoder takes at most 128 MiB (its default window limit).
fn decompressed(file: File, magic: &[u8]) -> std::io::Result<Box<dyn BufRead>> {
    let reader = BufReader::with_capacity(BUFFER_BYTES, file);
    Ok(match magic {
        m if m.starts_with(GZIP) => Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(reader))),
        ZSTD => Box::new(BufReader::new(zstd::stream::read::Decoder::with_buffer(reader)?)),
        _ => Box::new(reader),
    })
}
