//! GGUF files, version 3 (ggml `docs/gguf.md`), written a piece of a tensor at a time.

use std::io::{self, Write};

use lorafit_kernels::SharedBytes;
use lorafit_kernels::quant::Format;

use super::RowValues;
use super::gguf::{DEFAULT_ALIGNMENT, type_number};
use super::stream::{no_form, write_blocks, write_shared};

/// A metadata value.
#[derive(Clone, Debug)]
pub enum GgufEntry {
    /// A text.
    Text(String),
    /// A whole number.
    U32(u32),
    /// A number.
    F32(f32),
    /// A truth value.
    Bool(bool),
    /// A list of texts.
    Texts(Vec<String>),
    /// A list of whole numbers.
    I32s(Vec<i32>),
    /// A list of numbers.
    F32s(Vec<f32>),
    /// A list of truth values.
    Bools(Vec<bool>),
    /// Type and value as another file has them.
    Stored(SharedBytes),
}

impl GgufEntry {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            GgufEntry::Bool(value) => {
                out.write_all(&7u32.to_le_bytes())?;
                out.write_all(&[u8::from(*value)])
            }
            GgufEntry::Texts(texts) => {
                write_list(out, 8, texts.len())?;
                texts.iter().try_for_each(|text| write_text(out, text))
            }
            GgufEntry::Bools(values) => {
                write_list(out, 7, values.len())?;
                values.iter().try_for_each(|value| out.write_all(&[u8::from(*value)]))
            }
            GgufEntry::I32s(values) => {
                write_list(out, 5, values.len())?;
                values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))
            }
            GgufEntry::F32s(values) => {
                write_list(out, 6, values.len())?;
                values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))
            }
            GgufEntry::U32(value) => out.write_all(&[4u32.to_le_bytes(), value.to_le_bytes()].concat()),
            GgufEntry::F32(value) => out.write_all(&[6u32.to_le_bytes(), value.to_le_bytes()].concat()),
            GgufEntry::Text(text) => {
                out.write_all(&8u32.to_le_bytes())?;
                write_text(out, text)
            }
            GgufEntry::Stored(bytes) => out.write_all(bytes.as_slice()),
        }
    }
}

/// A tensor that is to be written.
pub(crate) struct GgufTensor<'a> {
    pub name: String,
    /// Outermost dimension first; the innermost has whole blocks of `format`.
    pub shape: Vec<usize>,
    pub format: Format,
    pub data: GgufData<'a>,
}

/// What a tensor consists of.
pub(crate) enum GgufData<'a> {
    /// Bytes of its format.
    Stored(SharedBytes),
    /// Values, which are encoded.
    Values(RowValues<'a>),
}

impl GgufTensor<'_> {
    /// Bytes in the file, without what aligns the next tensor.
    pub(crate) fn bytes(&self) -> u64 {
        let values = self.shape.iter().product::<usize>() as u64;
        values / self.format.block_len() as u64 * self.format.block_bytes() as u64
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let values = match &self.data {
            GgufData::Stored(bytes) => return write_shared(out, bytes),
            GgufData::Values(values) => values,
        };
        let format = self.format;
        let encode = |floats: &[f32], bytes: &mut [u8]| format.encode(floats, bytes).map_err(|e| e.at);
        let block = (format.block_len(), format.block_bytes());
        match write_blocks(out, &self.shape, block, values, &encode)? {
            Some(failed) => Err(no_form(&self.name, &self.shape, failed, &format.to_string())),
            None => Ok(()),
        }
    }
}

/// Writes a file.
///
/// # Errors
/// What `out` gives, and a value that its format cannot hold.
pub(crate) fn write_gguf(
    out: &mut dyn Write,
    entries: &[(String, GgufEntry)],
    tensors: &[GgufTensor<'_>],
) -> io::Result<()> {
    let mut header = Vec::from(*b"GGUF");
    header.extend(3u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((entries.len() as u64).to_le_bytes());
    for (key, value) in entries {
        write_text(&mut header, key)?;
        value.write(&mut header)?;
    }
    let mut offset = 0;
    for tensor in tensors {
        write_text(&mut header, &tensor.name)?;
        header.extend((tensor.shape.len() as u32).to_le_bytes());
        header.extend(tensor.shape.iter().rev().flat_map(|n| (*n as u64).to_le_bytes()));
        header.extend(type_number(tensor.format).to_le_bytes());
        header.extend(u64::to_le_bytes(offset));
        offset = (offset + tensor.bytes()).next_multiple_of(DEFAULT_ALIGNMENT);
    }
    out.write_all(&header)?;
    align(out, header.len() as u64)?;
    tensors.iter().try_for_each(|tensor| {
        tensor.write(out)?;
        align(out, tensor.bytes())
    })
}

/// The head of a list of values of the type `kind`.
fn write_list(out: &mut dyn Write, kind: u32, count: usize) -> io::Result<()> {
    out.write_all(&9u32.to_le_bytes())?;
    out.write_all(&kind.to_le_bytes())?;
    out.write_all(&(count as u64).to_le_bytes())
}

fn write_text(out: &mut dyn Write, text: &str) -> io::Result<()> {
    out.write_all(&(text.len() as u64).to_le_bytes())?;
    out.write_all(text.as_bytes())
}

/// Fills up to the next multiple of the alignment behind so many bytes.
fn align(out: &mut dyn Write, written: u64) -> io::Result<()> {
    let more = written.next_multiple_of(DEFAULT_ALIGNMENT) - written;
    out.write_all(&[0; DEFAULT_ALIGNMENT as usize][..more as usize])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Gguf;
    use super::*;

    #[test]
    fn a_file_is_read_back() {
        let values: Vec<f32> = (0..3 * 64).map(|i| (i as f32 * 0.37).sin()).collect();
        let given = |range: std::ops::Range<usize>, out: &mut [f32]| out.copy_from_slice(&values[range]);
        let tensor = |name: &str, shape: &[usize], format| GgufTensor {
            name: name.to_owned(),
            shape: shape.to_vec(),
            format,
            data: GgufData::Values(Box::new(given)),
        };
        let tensors = [
            tensor("a", &[3, 64], Format::F32),
            tensor("b", &[3, 32], Format::Q8_0),
            tensor("c", &[5], Format::F16),
        ];
        let mut stored = 4u32.to_le_bytes().to_vec();
        stored.extend(77u32.to_le_bytes());
        let entries = [
            ("general.architecture", GgufEntry::Text("any".into())),
            ("x.count", GgufEntry::U32(9)),
            ("x.scale", GgufEntry::F32(0.5)),
            ("x.flag", GgufEntry::Bool(true)),
            ("x.texts", GgufEntry::Texts(vec!["a".into(), String::new()])),
            ("x.numbers", GgufEntry::I32s(vec![-1, 2])),
            ("x.floats", GgufEntry::F32s(vec![0.25])),
            ("x.stored", GgufEntry::Stored(SharedBytes::from_vec(stored))),
        ]
        .map(|(key, value)| (key.to_owned(), value));
        let mut file = Vec::new();
        write_gguf(&mut file, &entries, &tensors).expect("memory");
        let read = Gguf::from_bytes(Path::new("x.gguf"), SharedBytes::from_vec(file)).expect("whole");
        assert_eq!(read.text("general.architecture"), Some("any"));
        assert_eq!((read.integer("x.count"), read.number("x.scale")), (Some(9), Some(0.5)));
        assert_eq!(read.integer("x.stored"), Some(77));
        assert_eq!(read.flag("x.flag"), Some(true));
        assert_eq!(read.texts("x.texts"), Some(&["a".to_owned(), String::new()][..]));
        assert_eq!(read.integers("x.numbers"), Some(&[-1, 2][..]));
        assert_eq!(read.float_list("x.floats"), Some(&[0.25][..]));
        assert_eq!(read.tensors().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(read.floats("a").as_deref(), Some(&values[..]));
        for (name, shape, close) in [("b", &[3usize, 32][..], 0.005), ("c", &[5][..], 0.001)] {
            let stored = read.tensor(name).expect("written");
            assert_eq!(stored.shape, shape);
            let mut decoded = vec![0.0; shape.iter().product()];
            stored.format.decode(stored.data.as_slice(), &mut decoded);
            assert!(decoded.iter().zip(&values).all(|(a, b)| (a - b).abs() < close), "{name}: {decoded:?}");
        }
    }

    #[test]
    fn a_value_that_a_format_cannot_hold_is_named() {
        let given = |_: std::ops::Range<usize>, out: &mut [f32]| {
            out.fill(1.0);
            out[40] = f32::NAN;
        };
        let data = GgufData::Values(Box::new(given));
        let tensor = GgufTensor { name: "w".into(), shape: vec![2, 32], format: Format::Q8_0, data };
        let error = write_gguf(&mut Vec::new(), &[], &[tensor]).expect_err("refused").to_string();
        assert_eq!(error, "w: the value NaN in row 1, column 8 is not a finite number");
    }
}
