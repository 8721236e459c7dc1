//! Safetensors files written and read a piece at a time: beside the tensors themselves a few megabytes are held, however
//! large they are.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use lorafit_kernels::SharedBytes;
use lorafit_kernels::quant::Format;
use rayon::prelude::*;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

/// Values of a piece.
const PIECE: usize = 1 << 20;
/// Values that a thread computes and encodes at a time, about, and how many times so many are written at once.
const BLOCK: usize = 1 << 17;
const BLOCKS: usize = 8;
/// Values that a thread encodes at a time.
const PARALLEL: usize = 1 << 15;
/// A longer header is damage.
const MAX_HEADER_BYTES: u64 = 64 << 20;

/// How values are stored in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SaveDtype {
    /// As they are.
    #[default]
    F32,
    /// Rounded to the nearest, to even where two are.
    Bf16,
    /// Rounded likewise. A value beyond 65504 is an error, not infinite, and so is one that no bf16 is near.
    F16,
}

impl SaveDtype {
    /// The type of values stored in `format`, unless it is a quantised one.
    pub fn of(format: Format) -> Option<Self> {
        match format {
            Format::F32 => Some(SaveDtype::F32),
            Format::F16 => Some(SaveDtype::F16),
            Format::BF16 => Some(SaveDtype::Bf16),
            _ => None,
        }
    }

    /// Bytes of a value.
    pub fn bytes(self) -> u64 {
        match self {
            SaveDtype::F32 => 4,
            SaveDtype::Bf16 | SaveDtype::F16 => 2,
        }
    }

    /// As `config.json` calls it.
    pub fn name(self) -> &'static str {
        match self {
            SaveDtype::F32 => "float32",
            SaveDtype::Bf16 => "bfloat16",
            SaveDtype::F16 => "float16",
        }
    }

    /// The storage format that it is.
    pub fn format(self) -> Format {
        match self {
            SaveDtype::F32 => Format::F32,
            SaveDtype::Bf16 => Format::BF16,
            SaveDtype::F16 => Format::F16,
        }
    }

    /// `values` as a file has them, in `bytes`.
    ///
    /// # Errors
    /// The index of a value that the type has no number for, though it is one.
    fn encode(self, values: &[f32], bytes: &mut [u8]) -> Result<(), usize> {
        self.format().encode(values, bytes).map_err(|e| e.at)
    }
}

/// Gives the values of a range in row-major order.
pub type Values<'a> = Box<dyn Fn(Range<usize>, &mut [f32]) + 'a>;

/// As [`Values`], of whole rows of a matrix, and for several threads at once.
pub type RowValues<'a> = Box<dyn Fn(Range<usize>, &mut [f32]) + Sync + 'a>;

/// What a tensor consists of.
pub enum TensorData<'a> {
    /// Numbers.
    Floats(SaveDtype, Values<'a>),
    /// Numbers that are computed as they are written.
    Computed(SaveDtype, RowValues<'a>),
    /// Numbers of this type, as another file has them. Of mapped bytes no page is held afterwards.
    Stored(SaveDtype, SharedBytes),
    /// Bytes, of dtype U8, asked for when they are written.
    Bytes(Box<dyn Fn() -> Cow<'a, [u8]> + 'a>),
}

impl<'a> TensorData<'a> {
    /// Numbers as they are.
    pub fn f32(values: impl Fn(Range<usize>, &mut [f32]) + 'a) -> Self {
        TensorData::Floats(SaveDtype::F32, Box::new(values))
    }
}

/// Numbers of these bytes.
fn stored_values<'a>(dtype: SaveDtype, bytes: SharedBytes) -> Values<'a> {
    let format = dtype.format();
    let width = format.block_bytes();
    Box::new(move |range, out| format.decode(&bytes.as_slice()[range.start * width..range.end * width], out))
}

/// A tensor that is to be written.
pub struct TensorSource<'a> {
    /// Its name in the file.
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// What it consists of.
    pub data: TensorData<'a>,
}

impl TensorSource<'_> {
    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        let values: usize = self.shape.iter().product();
        match &self.data {
            TensorData::Floats(dtype, _) | TensorData::Computed(dtype, _) | TensorData::Stored(dtype, _) => {
                dtype.bytes() * values as u64
            }
            TensorData::Bytes(_) => values as u64,
        }
    }

    /// The transpose of a matrix, if it is to be `transposed`. While it is written, the whole of it is held in f32.
    pub(crate) fn transposed_if(self, transposed: bool) -> Self {
        let [rows, cols] = self.shape[..] else { return self };
        if !transposed {
            return self;
        }
        let (dtype, values): (SaveDtype, Values<'_>) = match self.data {
            TensorData::Floats(dtype, values) => (dtype, values),
            TensorData::Computed(dtype, values) => (dtype, values),
            TensorData::Stored(dtype, bytes) => (dtype, stored_values(dtype, bytes)),
            data @ TensorData::Bytes(_) => return TensorSource { data, ..self },
        };
        let held: RefCell<Vec<f32>> = RefCell::default();
        let data = TensorData::Floats(
            dtype,
            Box::new(move |range, out| {
                let mut held = held.borrow_mut();
                if held.is_empty() {
                    held.resize(rows * cols, 0.0);
                    for first in (0..rows * cols).step_by(PIECE) {
                        let range = first..(first + PIECE).min(rows * cols);
                        values(range.clone(), &mut held[range]);
                    }
                }
                for (at, out) in range.clone().zip(out) {
                    *out = held[at % rows * cols + at / rows];
                }
                if range.end == rows * cols {
                    *held = Vec::new();
                }
            }),
        );
        TensorSource { name: self.name, shape: vec![cols, rows], data }
    }

    fn dtype(&self) -> Dtype {
        match &self.data {
            TensorData::Floats(dtype, _) | TensorData::Computed(dtype, _) | TensorData::Stored(dtype, _) => {
                match dtype {
                    SaveDtype::F32 => Dtype::F32,
                    SaveDtype::Bf16 => Dtype::BF16,
                    SaveDtype::F16 => Dtype::F16,
                }
            }
            TensorData::Bytes(_) => Dtype::U8,
        }
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let (dtype, values) = match &self.data {
            TensorData::Bytes(bytes) => return out.write_all(&bytes()),
            TensorData::Stored(_, bytes) => return write_shared(out, bytes),
            TensorData::Computed(dtype, values) => {
                let encode = |floats: &[f32], bytes: &mut [u8]| dtype.encode(floats, bytes);
                let width = dtype.bytes() as usize;
                let failed = write_blocks(out, &self.shape, (1, width), values, &encode)?;
                return failed.map_or(Ok(()), |(at, value)| Err(self.beyond(*dtype, at, value)));
            }
            TensorData::Floats(dtype, values) => (*dtype, values),
        };
        let len: usize = self.shape.iter().product();
        let mut piece = vec![0.0; PIECE.min(len)];
        let width = dtype.bytes() as usize;
        let mut bytes = vec![0; width * piece.len()];
        for start in (0..len).step_by(PIECE) {
            let piece = &mut piece[..PIECE.min(len - start)];
            values(start..start + piece.len(), piece);
            let bytes = &mut bytes[..width * piece.len()];
            let parts = piece.par_chunks(PARALLEL).zip(bytes.par_chunks_mut(width * PARALLEL)).enumerate();
            let encoded = parts.map(|(part, (values, bytes))| {
                dtype.encode(values, bytes).map_err(|at| (start + part * PARALLEL + at, values[at]))
            });
            // The first such value, whichever thread came to one first.
            if let Some((at, value)) = encoded.filter_map(Result::err).min_by_key(|(at, _)| *at) {
                return Err(self.beyond(dtype, at, value));
            }
            out.write_all(bytes)?;
        }
        Ok(())
    }

    fn beyond(&self, dtype: SaveDtype, at: usize, value: f32) -> io::Error {
        no_form(&self.name, &self.shape, (at, value), dtype.name())
    }
}

/// A value that cannot be stored; the reason why writing ended, inside of an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error(
    "{tensor}: the value {value} in row {row}, column {col} is {}",
    if value.is_finite() { format!("beyond {dtype}") } else { "not a finite number".to_owned() }
)]
pub struct NoForm {
    tensor: String,
    row: usize,
    col: usize,
    /// The value.
    pub value: f32,
    dtype: String,
}

/// The error of a value, at its place in a tensor, that a type has no form for.
pub(super) fn no_form(name: &str, shape: &[usize], (at, value): (usize, f32), dtype: &str) -> io::Error {
    let cols = shape.last().copied().unwrap_or(1).max(1);
    let (tensor, dtype, row, col) = (name.to_owned(), dtype.to_owned(), at / cols, at % cols);
    io::Error::new(io::ErrorKind::InvalidData, NoForm { tensor, row, col, value, dtype })
}

/// Encodes values, or tells the place of the first that has no form.
pub(super) type Encode<'a> = dyn Fn(&[f32], &mut [u8]) -> Result<(), usize> + Sync + 'a;

/// Computes, encodes and writes the values of a tensor, block by block on all threads, so that they stay in the caches in
/// between. `block` is the number of values that are encoded together, and their bytes. Gives the place and the value of the
/// first that is not finite, or that `encode`, which tells its place in a block, has no form for; the file is not whole then.
pub(super) fn write_blocks(
    out: &mut dyn Write,
    shape: &[usize],
    (values_together, bytes_together): (usize, usize),
    values: &(dyn Fn(Range<usize>, &mut [f32]) + Sync),
    encode: &Encode<'_>,
) -> io::Result<Option<(usize, f32)>> {
    thread_local! {
        static FLOATS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    let len: usize = shape.iter().product();
    let unit = match shape {
        [_, cols] if *cols > 0 => *cols,
        _ => values_together,
    };
    let block = (BLOCK / unit).max(1) * unit;
    let bytes_of = |values: usize| values / values_together * bytes_together;
    let piece = BLOCKS * block;
    let mut bytes = vec![0; bytes_of(piece.min(len))];
    for start in (0..len).step_by(piece) {
        let end = len.min(start + piece);
        let bytes = &mut bytes[..bytes_of(end - start)];
        let blocks = bytes.par_chunks_mut(bytes_of(block)).enumerate().with_max_len(1);
        let failed = blocks.filter_map(|(i, bytes)| {
            FLOATS.with_borrow_mut(|floats| {
                let range = start + i * block..end.min(start + (i + 1) * block);
                if floats.len() < range.len() {
                    floats.resize(range.len(), 0.0);
                }
                let floats = &mut floats[..range.len()];
                values(range.clone(), floats);
                // All of them, which is faster than to stop at the first: the compiler vectorises it.
                let is_finite = floats.iter().fold(true, |all, value| all & value.is_finite());
                let failed = match is_finite {
                    true => encode(floats, bytes).err(),
                    false => floats.iter().position(|value| !value.is_finite()),
                };
                failed.map(|at| (range.start + at, floats[at]))
            })
        });
        // The first such value, whichever thread came to one first.
        if let Some(failed) = failed.min_by_key(|(at, _)| *at) {
            return Ok(Some(failed));
        }
        out.write_all(bytes)?;
    }
    Ok(None)
}

/// Writes bytes that may be mapped, and gives their pages back.
pub(super) fn write_shared(out: &mut dyn Write, bytes: &SharedBytes) -> io::Result<()> {
    const PART: usize = 4 << 20;
    for start in (0..bytes.len()).step_by(PART) {
        let part = bytes.slice(start..(start + PART).min(bytes.len())).expect("within the bytes");
        out.write_all(part.as_slice())?;
        part.release();
    }
    Ok(())
}

/// Writes a safetensors file, in the order of the format's own writer: wider types first, then by name. `metadata` is
/// `{"format": "pt"}`, which transformers and PEFT ask for.
///
/// # Errors
/// What `out` gives.
pub fn write_tensors(out: &mut dyn Write, mut tensors: Vec<TensorSource<'_>>) -> io::Result<()> {
    tensors.sort_by(|a, b| b.dtype().cmp(&a.dtype()).then_with(|| a.name.cmp(&b.name)));
    let mut offset = 0;
    let entries = tensors.iter().map(|tensor| {
        let first = offset;
        offset += tensor.bytes() as usize;
        let (dtype, shape) = (tensor.dtype(), tensor.shape.clone());
        (tensor.name.clone(), TensorInfo { dtype, shape, data_offsets: (first, offset) })
    });
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let header = Metadata::new(Some(metadata), entries.collect()).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    tensors.iter().try_for_each(|tensor| tensor.write(out))
}

/// A safetensors file that is read tensor by tensor. What is wrong with it is told in words.
#[derive(Debug)]
pub struct TensorReader {
    file: File,
    header: Metadata,
    data_start: u64,
}

impl TensorReader {
    /// Reads the header.
    ///
    /// # Errors
    /// A file that cannot be read or is not of this format.
    pub fn open(path: &Path) -> Result<Self, String> {
        let read = |e: io::Error| format!("cannot read: {e}");
        let mut file = File::open(path).map_err(read)?;
        let mut len = [0; 8];
        file.read_exact(&mut len).map_err(read)?;
        let header_len = u64::from_le_bytes(len);
        if header_len > MAX_HEADER_BYTES {
            return Err(format!("not safetensors: a header of {header_len} bytes"));
        }
        let mut bytes = Vec::new();
        (&mut file).take(header_len).read_to_end(&mut bytes).map_err(read)?;
        let header: Metadata = serde_json::from_slice(&bytes).map_err(|e| format!("not safetensors: {e}"))?;
        let data_start = 8 + header_len;
        let (found, expected) = (file.metadata().map_err(read)?.len(), data_start + header.data_len() as u64);
        match found == expected {
            true => Ok(TensorReader { file, header, data_start }),
            false => Err(format!("it has {found} bytes, its header says {expected}")),
        }
    }

    /// Number of tensors.
    pub fn tensors(&self) -> usize {
        self.header.tensors().len()
    }

    /// Where the data of tensor `name` lies, which has to be of `dtype` and `shape`.
    fn find(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<Range<u64>, String> {
        let info = self.header.info(name).ok_or_else(|| format!("tensor {name} is missing"))?;
        if (info.dtype, &info.shape[..]) != (dtype, shape) {
            return Err(format!(
                "{name} is {:?} {:?}, the run needs {dtype:?} {shape:?}",
                info.dtype, info.shape
            ));
        }
        let (first, end) = info.data_offsets;
        Ok(self.data_start + first as u64..self.data_start + end as u64)
    }

    /// Reads the F32 tensor `name`: `take(first, values)` gets piece after piece.
    ///
    /// # Errors
    /// A tensor that is missing or another, a file that cannot be read.
    pub fn read_floats(
        &mut self,
        name: &str,
        shape: &[usize],
        mut take: impl FnMut(usize, &[f32]),
    ) -> Result<(), String> {
        let range = self.find(name, Dtype::F32, shape)?;
        let read = |e: io::Error| format!("cannot read: {e}");
        self.file.seek(SeekFrom::Start(range.start)).map_err(read)?;
        let len: usize = shape.iter().product();
        let mut bytes = vec![0; 4 * PIECE.min(len)];
        for start in (0..len).step_by(PIECE) {
            let bytes = &mut bytes[..4 * PIECE.min(len - start)];
            self.file.read_exact(bytes).map_err(read)?;
            let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            take(start, &values);
        }
        Ok(())
    }

    /// Reads the U8 tensor `name` of `len` bytes.
    ///
    /// # Errors
    /// As [`TensorReader::read_floats`].
    pub fn read_bytes(&mut self, name: &str, len: usize) -> Result<Vec<u8>, String> {
        let range = self.find(name, Dtype::U8, &[len])?;
        let read = |e: io::Error| format!("cannot read: {e}");
        self.file.seek(SeekFrom::Start(range.start)).map_err(read)?;
        let mut bytes = vec![0; len];
        self.file.read_exact(&mut bytes).map_err(read)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use safetensors::View;

    use super::*;

    struct Tensor(Dtype, Vec<usize>, Vec<u8>);

    impl View for &Tensor {
        fn dtype(&self) -> Dtype {
            self.0
        }
        fn shape(&self) -> &[usize] {
            &self.1
        }
        fn data(&self) -> std::borrow::Cow<'_, [u8]> {
            (&self.2).into()
        }
        fn data_len(&self) -> usize {
            self.2.len()
        }
    }

    /// More values than a piece, of every type, against the format's own writer; and read again.
    #[test]
    fn a_file_is_that_of_the_formats_own_writer_and_is_read_back() {
        let long: Vec<f32> = (0..PIECE + 5).map(|i| (i as f32).sin()).collect();
        let floats = |dtype| {
            TensorData::Floats(
                dtype,
                Box::new(|range: Range<usize>, out: &mut [f32]| out.copy_from_slice(&long[range])),
            )
        };
        let computed = |dtype| {
            TensorData::Computed(
                dtype,
                Box::new(|range: Range<usize>, out: &mut [f32]| out.copy_from_slice(&long[range])),
            )
        };
        let codes = [7u8, 8, 9];
        let source = |name: &str, shape: &[usize], data| TensorSource {
            name: name.to_owned(),
            shape: shape.to_vec(),
            data,
        };
        let mut found = Vec::new();
        let sources = vec![
            source("b", &[3], TensorData::Bytes(Box::new(|| Cow::Borrowed(&codes)))),
            source("c", &[PIECE + 5], floats(SaveDtype::Bf16)),
            source("d", &[1, PIECE + 5], floats(SaveDtype::F32)),
            source("e", &[PIECE + 5], floats(SaveDtype::F16)),
            source("g", &[5, PIECE / 5 + 1], computed(SaveDtype::Bf16)),
            source("h", &[PIECE + 5], computed(SaveDtype::F16)),
            source("f", &[2], TensorData::Stored(SaveDtype::F16, SharedBytes::from_vec(vec![1, 2, 3, 4]))),
            source("a", &[2, 2], floats(SaveDtype::F32)),
        ];
        write_tensors(&mut found, sources).expect("written");

        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let narrow: Vec<u8> = long.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
        let half: Vec<u8> = long.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        let tensors = [
            ("e", Tensor(Dtype::F16, vec![PIECE + 5], half.clone())),
            ("h", Tensor(Dtype::F16, vec![PIECE + 5], half)),
            ("g", Tensor(Dtype::BF16, vec![5, PIECE / 5 + 1], narrow[..10 * (PIECE / 5 + 1)].to_vec())),
            ("f", Tensor(Dtype::F16, vec![2], vec![1, 2, 3, 4])),
            ("a", Tensor(Dtype::F32, vec![2, 2], bytes(&long[..4]))),
            ("b", Tensor(Dtype::U8, vec![3], codes.to_vec())),
            ("c", Tensor(Dtype::BF16, vec![PIECE + 5], narrow)),
            ("d", Tensor(Dtype::F32, vec![1, PIECE + 5], bytes(&long))),
        ];
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        let expected = safetensors::serialize(tensors.iter().map(|(n, t)| (*n, t)), Some(metadata));
        assert!(found == expected.expect("serialises"));

        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.safetensors");
        std::fs::write(&path, &found).expect("written");
        let mut reader = TensorReader::open(&path).expect("opens");
        let mut read = vec![0.0; long.len()];
        let mut take =
            |first: usize, values: &[f32]| read[first..first + values.len()].copy_from_slice(values);
        reader.read_floats("d", &[1, PIECE + 5], &mut take).expect("read");
        assert!(read == long);
        assert_eq!((reader.tensors(), reader.read_bytes("b", 3).expect("read")), (8, codes.to_vec()));
        let error = reader.read_bytes("a", 16).expect_err("refused");
        assert_eq!(error, "a is F32 [2, 2], the run needs U8 [16]");
        std::fs::write(&path, &found[..found.len() - 1]).expect("written");
        assert!(TensorReader::open(&path).expect_err("cut off").contains("its header says"));
    }
    #[test]
    fn a_value_beyond_half_precision_is_an_error_that_names_its_place() {
        let values = |range: Range<usize>, out: &mut [f32]| {
            range.zip(out).for_each(|(i, out)| *out = if i >= 400_001 { 70_000.0 } else { 1.0 });
        };
        for data in [
            TensorData::Floats(SaveDtype::F16, Box::new(values)),
            TensorData::Computed(SaveDtype::F16, Box::new(values)),
        ] {
            let tensor = TensorSource { name: "x".to_owned(), shape: vec![50, 10_000], data };
            let error = write_tensors(&mut Vec::new(), vec![tensor]).expect_err("refused");
            assert_eq!(error.to_string(), "x: the value 70000 in row 40, column 1 is beyond float16");
        }
    }

    #[test]
    fn a_computed_value_that_is_no_number_is_an_error_in_every_type() {
        for (dtype, wrong) in [
            (SaveDtype::F32, f32::INFINITY),
            (SaveDtype::F16, f32::NAN),
            (SaveDtype::Bf16, f32::NEG_INFINITY),
        ] {
            let values = move |range: Range<usize>, out: &mut [f32]| {
                range.zip(out).for_each(|(i, out)| *out = if i == 17 { wrong } else { 1.0 });
            };
            let data = TensorData::Computed(dtype, Box::new(values));
            let tensor = TensorSource { name: "x".to_owned(), shape: vec![4, 10], data };
            let error = write_tensors(&mut Vec::new(), vec![tensor]).expect_err("refused").to_string();
            assert!(error.ends_with("in row 1, column 7 is not a finite number"), "{error}");
        }
    }
}
