//! What a Parquet file's pages unfold to, looked at before the library unfolds them: it takes the memory that a page's
//! header asks for, and with gzip whatever comes out. Strings in a delta encoding are refused, since there it takes the
//! memory that a number within the page asks for, and ends the process when there is none.
//!
//! Pages lie one behind the other in a column chunk, each behind a header in Thrift's compact protocol (`PageHeader` of
//! parquet-format: 1 `type`, 2 `uncompressed_page_size`, 3 `compressed_page_size`, 5 `data_page_header`,
//! 7 `dictionary_page_header`, 8 `data_page_header_v2`); other fields are skipped.

use std::io::{self, Read};

use parquet::basic::Compression;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::reader::ChunkReader;

/// A page of each column is in memory at the same time. Together they may unfold to so much, whatever they were, ...
const PAGES_BYTES: u64 = 32 << 20;
/// ... and to so many times what they were. Text becomes five times as much, seldom ten.
const TIMES: u64 = 20;

/// Refuses a row group whose pages would take memory out of proportion to the file.
pub(super) fn check(file: &impl ChunkReader, group: &RowGroupMetaData) -> Result<()> {
    let (mut folded, mut unfolded) = (0u64, 0u64);
    for column in group.columns() {
        let page = largest(file, column)?;
        folded = folded.saturating_add(page.compressed);
        unfolded = unfolded.saturating_add(page.uncompressed);
        let most = folded.saturating_mul(TIMES).saturating_add(PAGES_BYTES);
        if unfolded > most {
            return Err(damaged(format!(
                "column {}: a page of {} bytes unfolds to {}, and with those of other columns to more than the {most} \
                 that are allowed",
                column.column_path(),
                page.compressed,
                page.uncompressed
            )));
        }
    }
    Ok(())
}

fn damaged(message: String) -> ParquetError {
    ParquetError::General(message)
}

/// The page of a column chunk that unfolds to most.
fn largest(file: &impl ChunkReader, column: &ColumnChunkMetaData) -> Result<Page> {
    let (start, len) = column.byte_range();
    let end = start.saturating_add(len);
    let (mut at, mut largest) = (start, Page::default());
    while at < end {
        let mut header = Header { reader: file.get_read(at)?, read: 0 };
        let page = header.page().map_err(|e| damaged(format!("a page header at byte {at}: {e}")))?;
        if page.delta_strings {
            return Err(damaged(format!(
                "column {}: strings in a delta encoding are not read; write it as pyarrow does by default",
                column.column_path()
            )));
        }
        // A value has a byte at least, but the library makes room for so many as the header says.
        if page.dictionary_values > page.uncompressed {
            return Err(damaged(format!(
                "column {}: a dictionary says that it has {} values in {} bytes",
                column.column_path(),
                page.dictionary_values,
                page.uncompressed
            )));
        }
        let data = at.saturating_add(header.read);
        let next = data.saturating_add(page.compressed);
        if next > end {
            break; // The library refuses a page that reaches past its column.
        }
        if matches!(column.compression(), Compression::GZIP(_)) {
            check_gzip(file, column, data, page)?;
        }
        if page.uncompressed > largest.uncompressed {
            largest = page;
        }
        at = next;
    }
    Ok(largest)
}

/// The library inflates to the end, whatever the header says.
fn check_gzip(file: &impl ChunkReader, column: &ColumnChunkMetaData, at: u64, page: Page) -> Result<()> {
    let bytes = file.get_bytes(at, page.compressed as usize)?;
    let folded = bytes.get(page.levels.min(page.compressed) as usize..).unwrap_or_default();
    let inflated = flate2::bufread::MultiGzDecoder::new(folded);
    // What cannot be inflated is for the library to refuse.
    let found = io::copy(&mut inflated.take(page.uncompressed + 1), &mut io::sink()).unwrap_or(0);
    match found > page.uncompressed {
        true => Err(damaged(format!(
            "column {}: a page unfolds to more than the {} bytes that it should",
            column.column_path(),
            page.uncompressed
        ))),
        false => Ok(()),
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Page {
    compressed: u64,
    uncompressed: u64,
    /// At the beginning of a page of version 2, and not compressed.
    levels: u64,
    /// `DELTA_LENGTH_BYTE_ARRAY` or `DELTA_BYTE_ARRAY`.
    delta_strings: bool,
    /// `num_values` of a dictionary.
    dictionary_values: u64,
}

/// Deepest nesting of a header; statistics are one deep.
const DEEPEST: usize = 8;

/// A page header that is being read.
struct Header<R> {
    reader: R,
    read: u64,
}

impl<R: Read> Header<R> {
    fn page(&mut self) -> io::Result<Page> {
        let (mut page, mut version, mut levels) = (Page::default(), 0, 0);
        let mut delta_strings = false;
        let mut encoding = |number: u64| delta_strings |= matches!(number, 6 | 7);
        self.fields(|header, field, kind| match (field, kind) {
            (1, I32) => header.size().map(|kind| version = kind),
            (2, I32) => header.size().map(|size| page.uncompressed = size),
            (3, I32) => header.size().map(|size| page.compressed = size),
            (5, STRUCT) => header.fields(|header, field, kind| match (field, kind) {
                (2, I32) => header.size().map(&mut encoding),
                (_, kind) => header.skip(kind, 1),
            }),
            (7, STRUCT) => header.fields(|header, field, kind| match (field, kind) {
                (1, I32) => header.size().map(|values| page.dictionary_values = values),
                (2, I32) => header.size().map(&mut encoding),
                (_, kind) => header.skip(kind, 1),
            }),
            // 5 and 6 are the lengths of the levels.
            (8, STRUCT) => header.fields(|header, field, kind| match (field, kind) {
                (4, I32) => header.size().map(&mut encoding),
                (5 | 6, I32) => header.size().map(|size| levels = size.saturating_add(levels)),
                (_, kind) => header.skip(kind, 1),
            }),
            (_, kind) => header.skip(kind, 0),
        })?;
        if version == DATA_PAGE_V2 {
            page.levels = levels;
        }
        page.delta_strings = delta_strings;
        Ok(page)
    }

    /// Hands each field of a struct on: number and type.
    fn fields(&mut self, mut each: impl FnMut(&mut Self, i64, u8) -> io::Result<()>) -> io::Result<()> {
        let mut field = 0i64;
        loop {
            let byte = self.byte()?;
            if byte == 0 {
                return Ok(());
            }
            field = match byte >> 4 {
                0 => self.signed()?,
                step => field.saturating_add(i64::from(step)),
            };
            each(self, field, byte & 0x0F)?;
        }
    }

    fn skip(&mut self, kind: u8, depth: usize) -> io::Result<()> {
        if depth > DEEPEST {
            return Err(invalid("it is nested too deeply"));
        }
        match kind {
            // A truth value is in the type.
            1 | 2 => Ok(()),
            3 => self.pass(1),
            4 | I32 | 6 => self.unsigned().map(drop),
            7 => self.pass(8),
            8 => self.unsigned().and_then(|len| self.pass(len)),
            STRUCT => self.fields(|header, _, kind| header.skip(kind, depth + 1)),
            // Page headers have no lists. The library would go through one of 2^31 items that have no bytes.
            _ => Err(invalid("a field has a type that page headers do not use")),
        }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.reader.read_exact(&mut byte)?;
        self.read += 1;
        Ok(byte[0])
    }

    fn pass(&mut self, len: u64) -> io::Result<()> {
        let passed = io::copy(&mut (&mut self.reader).take(len), &mut io::sink())?;
        self.read += passed;
        if passed == len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn unsigned(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(invalid("a number is too long"))
    }

    fn signed(&mut self) -> io::Result<i64> {
        let value = self.unsigned()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Of a longer number the library would take the lower half.
    fn size(&mut self) -> io::Result<u64> {
        match u64::try_from(self.signed()?) {
            Ok(size) if size <= i32::MAX as u64 => Ok(size),
            Ok(_) => Err(invalid("a size is too large")),
            Err(_) => Err(invalid("a size is negative")),
        }
    }
}

/// Thrift's type numbers.
const I32: u8 = 5;
const STRUCT: u8 = 12;
/// The `type` of pages of version 2.
const DATA_PAGE_V2: u64 = 3;

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(bytes: &[u8]) -> io::Result<(Page, u64)> {
        let mut header = Header { reader: bytes, read: 0 };
        header.page().map(|page| (page, header.read))
    }

    #[test]
    fn sizes_are_read_and_the_rest_is_skipped() {
        // 1: 0, 2: 300, 3: 20, 5: { 1: 2, 5: { 2: "ab" } }, then the data.
        let header = [
            0x15, 0x00, 0x15, 0xD8, 0x04, 0x15, 0x28, 0x2C, 0x15, 0x04, 0x4C, 0x28, 0x02, b'a', b'b', 0x00,
            0x00, 0x00, 0x77,
        ];
        let expected = Page { compressed: 20, uncompressed: 300, ..Page::default() };
        assert_eq!(page(&header).expect("a header"), (expected, header.len() as u64 - 1));
        // 7: { 1: 40 }
        assert_eq!(page(&[0x7C, 0x15, 0x50, 0x00, 0x00]).expect("a header").0.dictionary_values, 40);
        assert!(page(&[0x25, 0xFE, 0xFF, 0xFF, 0xFF, 0x1F, 0x00]).is_err(), "a size of 2^32 - 1");
        // 5: { 2: 7 }
        assert!(page(&[0x5C, 0x25, 0x0E, 0x00, 0x00]).expect("a header").0.delta_strings);
        for len in 0..header.len() - 1 {
            assert!(page(&header[..len]).is_err(), "{len} bytes");
        }
        assert!(page(&[0x25, 0x01, 0x00]).is_err(), "a negative size");
        assert!(page(&[0x19, 0xF1, 0x05]).is_err(), "a list");
        assert!(page(&[0x1C; 100]).is_err(), "nested without end");
    }
}
