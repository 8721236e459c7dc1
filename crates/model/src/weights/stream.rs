//! Safetensors files written and read a piece at a time: beside the tensors themselves a few megabytes are held, however
//! large they are.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use half::bf16;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

/// Values of a piece.
const PIECE: usize = 1 << 20;
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
}

impl SaveDtype {
    /// Bytes of a value.
    pub fn bytes(self) -> u64 {
        match self {
            SaveDtype::F32 => 4,
            SaveDtype::Bf16 => 2,
        }
    }

    /// As `config.json` calls it.
    pub fn name(self) -> &'static str {
        match self {
            SaveDtype::F32 => "float32",
            SaveDtype::Bf16 => "bfloat16",
        }
    }
}

/// Gives the values of a range in row-major order.
pub type Values<'a> = Box<dyn Fn(Range<usize>, &mut [f32]) + 'a>;

/// What a tensor consists of.
pub enum TensorData<'a> {
    /// Numbers.
    Floats(SaveDtype, Values<'a>),
    /// Bytes, of dtype U8, asked for when they are written.
    Bytes(Box<dyn Fn() -> Cow<'a, [u8]> + 'a>),
}

impl<'a> TensorData<'a> {
    /// Numbers as they are.
    pub fn f32(values: impl Fn(Range<usize>, &mut [f32]) + 'a) -> Self {
        TensorData::Floats(SaveDtype::F32, Box::new(values))
    }
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
            TensorData::Floats(dtype, _) => dtype.bytes() * values as u64,
            TensorData::Bytes(_) => values as u64,
        }
    }

    fn dtype(&self) -> Dtype {
        match &self.data {
            TensorData::Floats(SaveDtype::F32, _) => Dtype::F32,
            TensorData::Floats(SaveDtype::Bf16, _) => Dtype::BF16,
            TensorData::Bytes(_) => Dtype::U8,
        }
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let (dtype, values) = match &self.data {
            TensorData::Bytes(bytes) => return out.write_all(&bytes()),
            TensorData::Floats(dtype, values) => (*dtype, values),
        };
        let len: usize = self.shape.iter().product();
        let mut piece = vec![0.0; PIECE.min(len)];
        let mut bytes = Vec::with_capacity(piece.len() * dtype.bytes() as usize);
        for start in (0..len).step_by(PIECE) {
            let piece = &mut piece[..PIECE.min(len - start)];
            values(start..start + piece.len(), piece);
            bytes.clear();
            match dtype {
                SaveDtype::F32 => bytes.extend(piece.iter().flat_map(|v| v.to_le_bytes())),
                SaveDtype::Bf16 => bytes.extend(piece.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes())),
            }
            out.write_all(&bytes)?;
        }
        Ok(())
    }
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
            source("a", &[2, 2], floats(SaveDtype::F32)),
        ];
        write_tensors(&mut found, sources).expect("written");

        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let narrow = long.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
        let tensors = [
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
        assert_eq!((reader.tensors(), reader.read_bytes("b", 3).expect("read")), (4, codes.to_vec()));
        let error = reader.read_bytes("a", 16).expect_err("refused");
        assert_eq!(error, "a is F32 [2, 2], the run needs U8 [16]");
        std::fs::write(&path, &found[..found.len() - 1]).expect("written");
        assert!(TensorReader::open(&path).expect_err("cut off").contains("its header says"));
    }
}
