//! A matrix as its file stores it, decoded piece by piece where somebody needs it.
//!
//! There is never a decoded copy of it (invariant 2): the matmul asks for short row segments and keeps them only as long
//! as the tile they belong to is in use.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::bytes::SharedBytes;
use crate::quant::four_bit::{Absmax, FourBit};
use crate::quant::int8::Int8;
use crate::quant::{Format, Quantization};

/// How the rows of a stored matrix relate to the rows of the Hugging Face checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// Row `i` is stored as row `i`.
    Stored,
    /// Rows of `q_proj` / `k_proj` in a GGUF file of a Llama-class model. The converter turned each
    /// head's two rotary halves into interleaved pairs: checkpoint row `h * d + c * d/2 + j` is stored
    /// as row `h * d + j * 2 + c` (`c` in 0..2, `j` in 0..d/2).
    RotaryPairs {
        /// Rows per head, `d`.
        head_dim: usize,
    },
}

impl RowOrder {
    /// The stored row that holds checkpoint row `row`.
    #[inline]
    pub fn stored_row(self, row: usize) -> usize {
        match self {
            RowOrder::Stored => row,
            RowOrder::RotaryPairs { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                let half = head_dim / 2;
                head * head_dim + (within % half) * 2 + within / half
            }
        }
    }
}

/// How rows are stored.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) enum StoredAs<'a> {
    /// In blocks with their scales.
    Blocks(Format),
    /// In four-bit codes, apart from their scales.
    FourBit(&'a FourBit),
    /// In signed bytes, apart from their scales.
    Int8(&'a Int8),
}

/// Some columns of rows as they are stored; see [`FrozenWeight::stored_rows_of`].
#[cfg(target_arch = "x86_64")]
pub(crate) struct StoredRowsOf<'a> {
    pub(crate) storage: StoredAs<'a>,
    /// Values of a whole row.
    pub(crate) width: usize,
    /// Bytes of a whole row.
    pub(crate) row_bytes: usize,
    bytes: &'a [u8],
    /// Which bytes of a row hold the columns.
    within: Range<usize>,
    order: RowOrder,
}

#[cfg(target_arch = "x86_64")]
impl<'a> StoredRowsOf<'a> {
    /// The stored row that is row `row`.
    #[inline(always)]
    pub(crate) fn place(&self, row: usize) -> usize {
        self.order.stored_row(row)
    }

    /// The bytes of row `row`, without scales that lie apart.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> &'a [u8] {
        let first = self.place(row) * self.row_bytes;
        &self.bytes[first + self.within.start..first + self.within.end]
    }
}

/// Why bytes do not form the weight they are said to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeightError {
    /// A row does not divide into the format's blocks.
    #[error("a row of {cols} values does not divide into {format} blocks of {block}")]
    PartialBlock {
        /// Values per row.
        cols: usize,
        /// The storage format.
        format: Format,
        /// Values per block.
        block: usize,
    },
    /// Shape and byte count disagree.
    #[error("{rows} x {cols} values in {format} take {expected} bytes, found {found}")]
    Length {
        /// Rows of the matrix.
        rows: usize,
        /// Values per row.
        cols: usize,
        /// The storage format.
        format: Format,
        /// Bytes the shape asks for.
        expected: u128,
        /// Bytes there are.
        found: usize,
    },
    /// Codes and scales of a quantised matrix do not fit its shape.
    #[error("{rows} x {cols} values: {problem}")]
    Scales {
        /// Rows of the matrix.
        rows: usize,
        /// Values per row.
        cols: usize,
        /// What does not fit.
        problem: String,
    },
}

/// A value that has no place in a quantised matrix.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("row {row}, column {col} is {value}, which cannot be quantised to {quantization}")]
pub struct UnquantizableValue {
    /// Row of the first such value in row-major order.
    pub row: usize,
    /// Its column.
    pub col: usize,
    /// NaN, infinite or, for int8, beyond the 16-bit floats that it rounds to first.
    pub value: f32,
    /// What it was to be quantised to.
    pub quantization: Quantization,
}

/// A `[rows, cols]` matrix (`[out, in]` for a projection, `[vocab, hidden]` for an embedding) on the host, row-major in its
/// storage format. A vector is a matrix of one row. Clones share the bytes.
#[derive(Clone, Debug)]
pub struct FrozenWeight {
    rows: usize,
    cols: usize,
    pub(super) row_order: RowOrder,
    pub(super) storage: Storage,
}

/// How the values are stored.
#[derive(Clone, Debug)]
pub(super) enum Storage {
    /// Rows of whole blocks.
    Blocks {
        format: Format,
        data: SharedBytes,
    },
    FourBit(FourBit),
    Int8(Int8),
}

impl FrozenWeight {
    /// A matrix over `data`, which must hold exactly `rows` rows of whole blocks.
    ///
    /// # Errors
    /// [`WeightError`] when the shape does not fit the format or the byte count.
    pub fn new(rows: usize, cols: usize, format: Format, data: SharedBytes) -> Result<Self, WeightError> {
        if !cols.is_multiple_of(format.block_len()) {
            return Err(WeightError::PartialBlock { cols, format, block: format.block_len() });
        }
        let row_bytes = (cols / format.block_len()) as u128 * format.block_bytes() as u128;
        let expected = rows as u128 * row_bytes;
        if expected != data.len() as u128 {
            return Err(WeightError::Length { rows, cols, format, expected, found: data.len() });
        }
        Ok(FrozenWeight::stored(rows, cols, Storage::Blocks { format, data }))
    }

    fn stored(rows: usize, cols: usize, storage: Storage) -> Self {
        FrozenWeight { rows, cols, row_order: RowOrder::Stored, storage }
    }

    /// A matrix in a 4-bit code.
    ///
    /// # Errors
    /// [`WeightError::Scales`] when codes or scales are not those of the shape.
    pub fn from_four_bit(rows: usize, cols: usize, data: FourBit) -> Result<Self, WeightError> {
        let check = |values| data.check(values);
        let fits = rows.checked_mul(cols).ok_or("the shape is too large".to_owned()).and_then(check);
        fits.map_err(|problem| WeightError::Scales { rows, cols, problem })?;
        Ok(FrozenWeight::stored(rows, cols, Storage::FourBit(data)))
    }

    /// A matrix of signed bytes with row scales.
    ///
    /// # Errors
    /// [`WeightError::Scales`] when codes or scales are not those of the shape.
    pub fn from_int8(rows: usize, cols: usize, data: Int8) -> Result<Self, WeightError> {
        let (codes, scales) = (data.codes.len(), data.absmax.len());
        if rows.checked_mul(cols) != Some(codes) || rows.checked_mul(4) != Some(scales) {
            let problem = format!("{codes} bytes of codes and {scales} of row scales do not fit");
            return Err(WeightError::Scales { rows, cols, problem });
        }
        Ok(FrozenWeight::stored(rows, cols, Storage::Int8(data)))
    }

    /// Quantises a matrix piece by piece: `source(range, out)` gives the values of a range in row-major order, on any
    /// thread and in any order, and nothing but the result and a piece a thread is ever held.
    ///
    /// # Errors
    /// A value that is not finite.
    pub fn quantized(
        rows: usize,
        cols: usize,
        quantization: Quantization,
        source: impl Fn(Range<usize>, &mut [f32]) + Sync,
    ) -> Result<Self, UnquantizableValue> {
        // From here on an f16 is infinite.
        let limit = match quantization {
            Quantization::FourBit { .. } => f32::INFINITY,
            Quantization::Int8 => 65_520.0,
        };
        let is_fine = |value: &f32| value.abs() < limit;
        let first_bad = AtomicUsize::new(usize::MAX);
        let read = source;
        let source = |range: Range<usize>, out: &mut [f32]| {
            read(range.clone(), out);
            // Without a branch a value, so that the compiler vectorises it.
            if !out.iter().fold(true, |fine, value| fine & is_fine(value))
                && let Some(bad) = out.iter().position(|value| !is_fine(value))
            {
                first_bad.fetch_min(range.start + bad, Ordering::Relaxed);
            }
        };
        let storage = match quantization {
            Quantization::FourBit { code, block_len, double } => {
                Storage::FourBit(FourBit::encode(code, block_len, double, rows * cols, &source))
            }
            Quantization::Int8 => Storage::Int8(Int8::encode(rows, cols, &source)),
        };
        match first_bad.into_inner() {
            usize::MAX => Ok(FrozenWeight::stored(rows, cols, storage)),
            bad => {
                let mut value = [0.0];
                read(bad..bad + 1, &mut value);
                let (row, col) = (bad / cols, bad % cols);
                Err(UnquantizableValue { row, col, value: value[0], quantization })
            }
        }
    }

    /// The same matrix quantised; rows come out in checkpoint order.
    ///
    /// # Errors
    /// A value that is not finite.
    pub fn quantize(&self, quantization: Quantization) -> Result<Self, UnquantizableValue> {
        FrozenWeight::quantized(self.rows, self.cols, quantization, |range, out| {
            self.decode_range(range, out)
        })
    }

    /// A matrix of `f32` values, for tests and random models.
    pub fn from_f32(rows: usize, cols: usize, values: &[f32]) -> Self {
        assert_eq!(values.len(), rows * cols, "values do not fill the shape");
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        FrozenWeight::new(rows, cols, Format::F32, SharedBytes::from_vec(bytes))
            .expect("length checked above")
    }

    /// The same matrix with rows of zeros behind its own, `rows` in all: they take no memory. `None` of a matrix in a code of
    /// bitsandbytes, or with rows in another order.
    pub fn with_rows_of_zeros(mut self, rows: usize) -> Option<Self> {
        self.blocks()?;
        self.rows = self.rows.max(rows);
        Some(self)
    }

    /// Rows that are stored; those behind them are zeros.
    fn stored_rows(&self) -> usize {
        match &self.storage {
            Storage::Blocks { format, data } => {
                let row_bytes = self.cols / format.block_len() * format.block_bytes();
                data.len().checked_div(row_bytes).unwrap_or(self.rows)
            }
            Storage::FourBit(_) | Storage::Int8(_) => self.rows,
        }
    }

    /// The same matrix with its rows read in another order.
    pub fn with_row_order(mut self, row_order: RowOrder) -> Self {
        self.row_order = row_order;
        self
    }

    /// Number of rows (outputs of a projection).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values per row (inputs of a projection).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes as stored.
    pub fn stored_bytes(&self) -> usize {
        match &self.storage {
            Storage::Blocks { data, .. } => data.len(),
            Storage::FourBit(data) => data.stored_bytes(),
            Storage::Int8(data) => data.stored_bytes(),
        }
    }

    /// Tells the owners of the bytes that they will not be read for a while.
    pub fn release(&self) {
        match &self.storage {
            Storage::Blocks { data, .. } => data.release(),
            Storage::FourBit(data) => {
                data.codes.release();
                match &data.absmax {
                    Absmax::Plain(scales) => scales.release(),
                    Absmax::Double { codes, nested, .. } => {
                        [codes, nested].into_iter().for_each(SharedBytes::release);
                    }
                }
            }
            Storage::Int8(data) => [&data.codes, &data.absmax].into_iter().for_each(SharedBytes::release),
        }
    }

    /// As [`FrozenWeight::release`], of the rows `rows` alone, where they lie together; else nothing.
    pub fn release_rows(&self, rows: Range<usize>) {
        if let (Storage::Blocks { format, data }, RowOrder::Stored) = (&self.storage, self.row_order) {
            let row_bytes = self.cols / format.block_len() * format.block_bytes();
            if let Some(rows) = data.slice(rows.start * row_bytes..rows.end * row_bytes) {
                rows.release();
            }
        }
    }

    /// The storage format of a matrix of plain rows of blocks; `None` of one in a code of bitsandbytes.
    pub fn format(&self) -> Option<Format> {
        match &self.storage {
            Storage::Blocks { format, .. } => Some(*format),
            Storage::FourBit(_) | Storage::Int8(_) => None,
        }
    }

    /// The bytes of a matrix of plain rows of blocks, where all lie in checkpoint order.
    pub fn blocks(&self) -> Option<&SharedBytes> {
        match (&self.storage, self.row_order) {
            (Storage::Blocks { data, .. }, RowOrder::Stored) if self.stored_rows() == self.rows => Some(data),
            _ => None,
        }
    }

    /// The 4-bit data behind the matrix, if that is how it is stored.
    pub fn four_bit(&self) -> Option<&FourBit> {
        match &self.storage {
            Storage::FourBit(data) => Some(data),
            Storage::Blocks { .. } | Storage::Int8(_) => None,
        }
    }

    /// The 8-bit data behind the matrix, if that is how it is stored.
    pub fn int8(&self) -> Option<&Int8> {
        match &self.storage {
            Storage::Int8(data) => Some(data),
            Storage::Blocks { .. } | Storage::FourBit(_) => None,
        }
    }

    /// Decodes columns `cols` of row `row` into `out` (`out.len() == cols.len()`).
    ///
    /// The range may start and end inside a block; whole blocks in between are decoded in place.
    pub fn decode(&self, row: usize, cols: Range<usize>, out: &mut [f32]) {
        debug_assert!(row < self.rows && cols.end <= self.cols && cols.len() == out.len());
        let stored = self.row_order.stored_row(row);
        match &self.storage {
            Storage::Blocks { .. } if stored >= self.stored_rows() => out.fill(0.0),
            Storage::Blocks { format, data } => {
                let row_bytes = self.cols / format.block_len() * format.block_bytes();
                let source = &data.as_slice()[stored * row_bytes..(stored + 1) * row_bytes];
                decode_blocks(*format, source, cols, out);
            }
            Storage::FourBit(data) => {
                let first = stored * self.cols;
                data.decode(first + cols.start..first + cols.end, out);
            }
            Storage::Int8(data) => data.decode(self.cols, stored, cols, out),
        }
    }

    /// Decodes columns `cols` of rows `rows`, each to `stride` values of `out` after the one before: at once where they are whole rows
    /// that lie together, and are to.
    pub(crate) fn decode_rows(&self, rows: Range<usize>, cols: Range<usize>, stride: usize, out: &mut [f32]) {
        let whole = cols == (0..self.cols) && stride == self.cols && self.row_order == RowOrder::Stored;
        let values = rows.start * self.cols..rows.end * self.cols;
        match &self.storage {
            Storage::Blocks { format, data } if whole && rows.end <= self.stored_rows() => {
                let bytes = |value: usize| value / format.block_len() * format.block_bytes();
                let source = &data.as_slice()[bytes(values.start)..bytes(values.end)];
                format.decode(source, &mut out[..values.len()]);
            }
            Storage::FourBit(data) if whole => data.decode(values.clone(), &mut out[..values.len()]),
            Storage::Blocks { .. } | Storage::FourBit(_) | Storage::Int8(_) => {
                for (row, out) in rows.zip(out.chunks_mut(stride)) {
                    self.decode(row, cols.clone(), &mut out[..cols.len()]);
                }
            }
        }
    }

    /// The bytes of all rows of plain blocks, with those of zeros.
    pub(super) fn bytes_of_all_rows(&self, data: &SharedBytes) -> SharedBytes {
        let (stored, rows) = (self.stored_rows(), self.rows);
        if stored == rows {
            return data.clone();
        }
        let mut bytes = data.as_slice().to_vec();
        // Blocks of zero bytes have scale zero.
        bytes.resize(data.len() / stored.max(1) * rows, 0);
        SharedBytes::from_vec(bytes)
    }

    /// Decodes the values `range`, counted in row-major checkpoint order, into `out`.
    pub fn decode_range(&self, range: Range<usize>, out: &mut [f32]) {
        let cols = self.cols.max(1);
        let (mut at, mut out) = (range.start, out);
        while at < range.end {
            let (row, col) = (at / cols, at % cols);
            let count = (cols - col).min(range.end - at);
            let (now, rest) = std::mem::take(&mut out).split_at_mut(count);
            self.decode(row, col..col + count, now);
            (at, out) = (at + count, rest);
        }
    }

    /// The matrix as `f32` values in memory, where it is stored so: in checkpoint order, aligned, little-endian.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match (&self.storage, self.row_order) {
            (Storage::Blocks { format: Format::F32, data }, RowOrder::Stored)
                if cfg!(target_endian = "little") && self.stored_rows() == self.rows =>
            {
                // SAFETY: every bit pattern is an f32.
                let (before, values, after) = unsafe { data.as_slice().align_to::<f32>() };
                (before.is_empty() && after.is_empty()).then_some(values)
            }
            _ => None,
        }
    }

    /// The matrix as bf16 values in memory, in their bits, where it is stored so; as [`FrozenWeight::as_f32`].
    pub fn as_bf16(&self) -> Option<&[u16]> {
        match (&self.storage, self.row_order) {
            (Storage::Blocks { format: Format::BF16, data }, RowOrder::Stored)
                if cfg!(target_endian = "little") && self.stored_rows() == self.rows =>
            {
                // SAFETY: every bit pattern is a u16.
                let (before, values, after) = unsafe { data.as_slice().align_to::<u16>() };
                (before.is_empty() && after.is_empty()).then_some(values)
            }
            _ => None,
        }
    }

    /// Columns `cols` of all rows as they are stored. None where they cut a block, or a byte of two codes, or where some rows are zeros
    /// that are not stored.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn stored_rows_of(&self, cols: &Range<usize>) -> Option<StoredRowsOf<'_>> {
        let (storage, data, (len, bytes)) = match &self.storage {
            Storage::Blocks { .. } if self.stored_rows() < self.rows => return None,
            Storage::Blocks { format, data } => {
                (StoredAs::Blocks(*format), data, (format.block_len(), format.block_bytes()))
            }
            Storage::FourBit(four_bit) => (StoredAs::FourBit(four_bit), &four_bit.codes, (2, 1)),
            Storage::Int8(int8) => (StoredAs::Int8(int8), &int8.codes, (1, 1)),
        };
        let cuts = |at: usize| !at.is_multiple_of(len);
        if cuts(self.cols) || cuts(cols.start) || cuts(cols.end) {
            return None;
        }
        let at = |col: usize| col / len * bytes;
        Some(StoredRowsOf {
            storage,
            width: self.cols,
            row_bytes: at(self.cols),
            bytes: data.as_slice(),
            within: at(cols.start)..at(cols.end),
            order: self.row_order,
        })
    }

    /// The stored bytes that columns `cols` of row `row` are decoded from, without their scales where those lie
    /// apart; none of rows of zeros behind those that are stored. The range may be wider by a part of a block at both ends.
    pub fn stored_bytes_of(&self, row: usize, cols: Range<usize>) -> &[u8] {
        let stored = self.row_order.stored_row(row);
        let first = stored * self.cols;
        match &self.storage {
            Storage::Blocks { .. } if stored >= self.stored_rows() => &[],
            Storage::Blocks { format, data } => {
                let (block, bytes) = (format.block_len(), format.block_bytes());
                let blocks = (first + cols.start) / block..(first + cols.end).div_ceil(block);
                &data.as_slice()[blocks.start * bytes..blocks.end * bytes]
            }
            Storage::FourBit(data) => {
                &data.codes.as_slice()[(first + cols.start) / 2..(first + cols.end).div_ceil(2)]
            }
            Storage::Int8(data) => &data.codes.as_slice()[first + cols.start..first + cols.end],
        }
    }

    /// All values in checkpoint order, row-major. For norms, biases and tests; never for a projection.
    pub fn to_vec(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        for (row, values) in out.chunks_exact_mut(self.cols.max(1)).enumerate() {
            self.decode(row, 0..self.cols, values);
        }
        out
    }
}

/// Decodes columns `cols` of a row of whole blocks.
fn decode_blocks(format: Format, source: &[u8], cols: Range<usize>, out: &mut [f32]) {
    let (block, bytes) = (format.block_len(), format.block_bytes());
    let (mut col, mut out) = (cols.start, out);
    while col < cols.end {
        let first = col / block;
        let skip = col % block;
        if skip == 0 && cols.end - col >= block {
            let count = (cols.end - col) / block;
            let (now, rest) = std::mem::take(&mut out).split_at_mut(count * block);
            format.decode(&source[first * bytes..(first + count) * bytes], now);
            out = rest;
            col += count * block;
        } else {
            let mut whole = [0.0; Format::MAX_BLOCK_LEN];
            format.decode(&source[first * bytes..(first + 1) * bytes], &mut whole[..block]);
            let count = (block - skip).min(cols.end - col);
            let (now, rest) = std::mem::take(&mut out).split_at_mut(count);
            now.copy_from_slice(&whole[skip..skip + count]);
            out = rest;
            col += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: [f32; 6] = [1.0, -2.0, 3.5, 0.0, 5.0, -6.25];

    #[test]
    fn f32_values_are_read_where_they_lie_if_they_are_aligned_and_in_order() {
        let weight = FrozenWeight::from_f32(3, 2, &VALUES);
        assert_eq!(weight.as_f32(), Some(&VALUES[..]));
        assert_eq!(weight.with_row_order(RowOrder::RotaryPairs { head_dim: 3 }).as_f32(), None);
        assert_eq!(
            FrozenWeight::new(3, 2, Format::BF16, SharedBytes::from_vec(vec![0; 12])).unwrap().as_f32(),
            None
        );

        // One of four neighbouring addresses is aligned; the others are decoded, to the same values.
        let mut bytes = vec![0u8; 4 + VALUES.len() * 4];
        let read: Vec<bool> = (0..4)
            .map(|shift| {
                for (to, value) in bytes[shift..].as_chunks_mut::<4>().0.iter_mut().zip(VALUES) {
                    *to = value.to_le_bytes();
                }
                let data = SharedBytes::from_vec(bytes.clone()).slice(shift..shift + 24).unwrap();
                let weight = FrozenWeight::new(3, 2, Format::F32, data).unwrap();
                assert_eq!(weight.to_vec(), VALUES);
                weight.as_f32().is_some()
            })
            .collect();
        assert_eq!(read.iter().filter(|&&read| read).count(), 1, "{read:?}");
    }

    #[test]
    fn bf16_values_are_read_where_they_lie_if_all_are_stored_in_order() {
        let bits: Vec<u16> = (0..8).map(|i| 0x3f80 + i).collect();
        let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let weight = FrozenWeight::new(4, 2, Format::BF16, SharedBytes::from_vec(bytes)).expect("whole rows");
        // A vector of bytes may begin anywhere.
        let aligned = weight.stored_bytes_of(0, 0..2).as_ptr().cast::<u16>().is_aligned();
        assert_eq!(weight.as_bf16(), aligned.then_some(&bits[..]));
        let rotated = weight.clone().with_row_order(RowOrder::RotaryPairs { head_dim: 4 });
        assert_eq!(rotated.as_bf16(), None);
        assert_eq!(weight.with_rows_of_zeros(5).expect("plain rows").as_bf16(), None);
        assert_eq!(FrozenWeight::from_f32(3, 2, &VALUES).as_bf16(), None);
    }

    #[test]
    fn rows_behind_those_that_are_stored_are_zeros() {
        let weight = FrozenWeight::from_f32(3, 2, &VALUES).with_rows_of_zeros(5).expect("plain rows");
        assert_eq!((weight.rows(), weight.stored_bytes()), (5, 24));
        assert_eq!(weight.to_vec(), [&VALUES[..], &[0.0; 4]].concat());
        assert!(weight.as_f32().is_none() && weight.blocks().is_none());
        assert_eq!((weight.stored_bytes_of(2, 0..2).len(), weight.stored_bytes_of(3, 0..2).len()), (8, 0));
        let Storage::Blocks { data, .. } = &weight.storage else { unreachable!("plain rows") };
        let all = FrozenWeight::new(5, 2, Format::F32, weight.bytes_of_all_rows(data)).expect("all rows");
        assert_eq!(all.to_vec(), weight.to_vec());
        let rotated =
            FrozenWeight::from_f32(3, 2, &VALUES).with_row_order(RowOrder::RotaryPairs { head_dim: 3 });
        assert!(rotated.with_rows_of_zeros(5).is_none());
    }

    #[test]
    fn stored_bytes_cover_the_blocks_of_a_piece_of_a_row() {
        let bytes: Vec<u8> = (0..2 * 2 * 18).collect();
        let weight = FrozenWeight::new(2, 64, Format::Q4_0, SharedBytes::from_vec(bytes.clone())).unwrap();
        assert_eq!(weight.stored_bytes_of(1, 0..64), &bytes[36..]);
        assert_eq!(weight.stored_bytes_of(1, 3..40), &bytes[36..]);
        assert_eq!(weight.stored_bytes_of(0, 32..33), &bytes[18..36]);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn rows_are_read_where_they_are_stored_if_all_are_and_no_block_is_cut() {
        let bytes: Vec<u8> = (0..8 * 2 * 18u32).map(|i| i as u8).collect();
        let weight = FrozenWeight::new(8, 64, Format::Q4_0, SharedBytes::from_vec(bytes)).unwrap();
        for order in [RowOrder::Stored, RowOrder::RotaryPairs { head_dim: 4 }] {
            let weight = weight.clone().with_row_order(order);
            for cols in [0..64, 32..64] {
                let rows = weight.stored_rows_of(&cols).expect("whole blocks");
                assert_eq!((rows.width, rows.row_bytes), (64, 36));
                for row in 0..8 {
                    assert_eq!(rows.place(row), order.stored_row(row));
                    assert_eq!(rows.row(row), weight.stored_bytes_of(row, cols.clone()), "{order:?} {row}");
                }
            }
            assert!(weight.stored_rows_of(&(16..64)).is_none() && weight.stored_rows_of(&(0..33)).is_none());
        }
        assert!(weight.with_rows_of_zeros(9).expect("plain rows").stored_rows_of(&(0..64)).is_none());
    }
}
