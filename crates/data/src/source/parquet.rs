//! Parquet: rows of columns, with lists and structs for `messages`. Read row by row; what is in memory is a page of
//! each column.
//!
//! A null is an absent field: in a column of structs every message has every key that any message has. Values that are
//! neither text, number nor truth become text; bytes that are no text stand as `{"bytes": 3}`, which nothing reads.

use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{Compression, Encoding};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, FileReader, Length, RowGroupReader};
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::Type as SchemaType;
use serde_json::{Number, Value};

mod pages;

use super::{Content, ReadError, Record};
use crate::contained::contained;
use crate::format::Fields;

/// The rows of a file, numbered from 1.
pub struct Parquet {
    rows: RowIter<'static>,
    number: usize,
    done: bool,
}

impl Parquet {
    /// Reads the file's description.
    ///
    /// # Errors
    /// When it is damaged, or compressed in a way that is not read.
    pub fn new(file: impl ChunkReader + 'static) -> Result<Self, ReadError> {
        let file = guarded(|| Checked::new(file))?;
        if let Some(codec) = unread_codec(file.metadata()) {
            return Err(ReadError::Unread {
                what: format!("is compressed with {codec}, which is not read; the file is not damaged"),
                hint: "write it with another compression: python -c \"import pandas as pd; \
                       pd.read_parquet('FILE').to_parquet('rows.parquet', compression='zstd')\""
                    .into(),
            });
        }
        if let Some(column) = delta_strings(file.metadata()) {
            return Err(ReadError::Unread {
                what: format!(
                    "has texts in a delta encoding (column {column}), which are not read; the file is not damaged"
                ),
                hint: "write it as pyarrow does by default: python -c \"import pandas as pd; \
                       pd.read_parquet('FILE').to_parquet('rows.parquet')\""
                    .into(),
            });
        }
        let rows = guarded(|| Ok(RowIter::from_file_into(Box::new(file))))?;
        Ok(Self { rows, number: 0, done: false })
    }
}

impl Iterator for Parquet {
    type Item = Result<Record, ReadError>;

    /// After an error there is nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let row = guarded(|| self.rows.next().transpose()).transpose();
        self.done = !matches!(row, Some(Ok(_)));
        self.number += 1;
        Some(row?.map(|row| Record { number: self.number, content: Content::Fields(object(&row)) }))
    }
}

/// A column with texts in an encoding that is not read (see `pages.rs`).
fn delta_strings(file: &ParquetMetaData) -> Option<String> {
    let columns = file.row_groups().iter().flat_map(|group| group.columns());
    let is_delta =
        |encoding| matches!(encoding, Encoding::DELTA_BYTE_ARRAY | Encoding::DELTA_LENGTH_BYTE_ARRAY);
    let mut delta = columns.filter(|column| column.encodings().any(is_delta));
    delta.next().map(|column| column.column_path().to_string())
}

/// The compression of a column that nothing here unfolds.
fn unread_codec(file: &ParquetMetaData) -> Option<&'static str> {
    let columns = file.row_groups().iter().flat_map(|group| group.columns());
    columns.map(|column| column.compression()).find_map(|codec| match codec {
        Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_) | Compression::ZSTD(_) => None,
        Compression::BROTLI(_) => Some("Brotli"),
        Compression::LZ4 | Compression::LZ4_RAW => Some("LZ4"),
        Compression::LZO => Some("LZO"),
    })
}

/// A file whose row groups are looked at before they are read.
struct Checked<R: ChunkReader> {
    inner: SerializedFileReader<Shared<R>>,
    file: Shared<R>,
}

/// A file with two readers.
struct Shared<R>(Arc<R>);

impl<R: ChunkReader> Length for Shared<R> {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl<R: ChunkReader> ChunkReader for Shared<R> {
    type T = R::T;

    fn get_read(&self, start: u64) -> Result<R::T, ParquetError> {
        self.0.get_read(start)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.0.get_bytes(start, length)
    }
}

impl<R: ChunkReader + 'static> Checked<R> {
    fn new(file: R) -> Result<Self, ParquetError> {
        let file = Arc::new(file);
        Ok(Self { inner: SerializedFileReader::new(Shared(file.clone()))?, file: Shared(file) })
    }
}

impl<R: ChunkReader + 'static> FileReader for Checked<R> {
    fn metadata(&self) -> &ParquetMetaData {
        self.inner.metadata()
    }

    fn num_row_groups(&self) -> usize {
        self.inner.num_row_groups()
    }

    fn get_row_group(&self, i: usize) -> Result<Box<dyn RowGroupReader + '_>, ParquetError> {
        pages::check(&self.file, self.metadata().row_group(i))?;
        self.inner.get_row_group(i)
    }

    fn get_row_iter(&self, projection: Option<SchemaType>) -> Result<RowIter<'_>, ParquetError> {
        RowIter::from_file(projection, self)
    }
}

/// A call into the library, which asserts in places that a damaged file can reach.
fn guarded<T>(call: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ReadError> {
    let message = match contained(call) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => format!("its pages do not fit its description: {panic}"),
    };
    Err(ReadError::Malformed { format: "Parquet", message })
}

fn object(row: &Row) -> Fields {
    row.get_column_iter().filter_map(|(name, field)| Some((name.clone(), value(field)?))).collect()
}

fn value(field: &Field) -> Option<Value> {
    Some(match field {
        Field::Null => return None,
        Field::Bool(v) => Value::Bool(*v),
        Field::Byte(v) => (*v).into(),
        Field::Short(v) => (*v).into(),
        Field::Int(v) => (*v).into(),
        Field::Long(v) => (*v).into(),
        Field::UByte(v) => (*v).into(),
        Field::UShort(v) => (*v).into(),
        Field::UInt(v) => (*v).into(),
        Field::ULong(v) => (*v).into(),
        Field::Float16(v) => float(f64::from(v.to_f32())),
        Field::Float(v) => float(f64::from(*v)),
        Field::Double(v) => float(*v),
        Field::Str(text) => Value::String(text.clone()),
        // Strings of writers that do not say so.
        Field::Bytes(bytes) => match String::from_utf8(bytes.data().to_vec()) {
            Ok(text) => Value::String(text),
            Err(_) => serde_json::json!({"bytes": bytes.data().len()}),
        },
        Field::Decimal(_)
        | Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => Value::String(field.to_string()),
        Field::Group(row) => Value::Object(object(row)),
        Field::ListInternal(list) => {
            list.elements().iter().map(|item| value(item).unwrap_or(Value::Null)).collect()
        }
        Field::MapInternal(map) => {
            let entries = map.entries().iter().filter_map(|(key, item)| {
                let key = match key {
                    Field::Str(text) => text.clone(),
                    other => other.to_string(),
                };
                Some((key, value(item)?))
            });
            Value::Object(entries.collect())
        }
    })
}

/// JSON has no number that is not finite.
fn float(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}
