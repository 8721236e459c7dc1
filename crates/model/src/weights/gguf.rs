//! GGUF files, version 2 and 3 (ggml `docs/gguf.md`): metadata, and tensors mapped in place.
//!
//! The reader trusts nothing: every count and length is held against the bytes that are left before anything
//! is allocated, and every tensor must lie inside the file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use lorafit_kernels::SharedBytes;
use lorafit_kernels::quant::Format;

use super::{StoredTensor, map};
use crate::error::FileError;

/// A metadata value. Integers and floats of every width are widened.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Integer(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    Integers(Vec<i64>),
    Floats(Vec<f32>),
    Texts(Vec<String>),
}

/// An open GGUF file.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    metadata: HashMap<String, Value>,
    tensors: HashMap<String, StoredTensor>,
}

/// Longest key or tensor name.
const MAX_NAME: u64 = 65_535;
/// Longest text value: a chat template or a token is far shorter.
const MAX_TEXT: u64 = 16 << 20;
/// Longest list: the largest vocabularies have some 300 thousand tokens and 600 thousand merges.
const MAX_LIST: u64 = 1 << 22;
/// Longest header. Real ones have up to about 20 MiB; what is read of them is kept in memory, several times as large.
const MAX_HEADER: usize = 256 << 20;
const DEFAULT_ALIGNMENT: u64 = 32;

impl Gguf {
    /// Maps a file and reads its header.
    ///
    /// # Errors
    /// A file that is not GGUF, is cut short or contradicts itself, or a tensor of an unsupported type.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        Gguf::read(path, map(path)?, Extent::Whole)
    }

    /// As [`Gguf::open`] of a file that has these bytes; errors call it `path`.
    ///
    /// # Errors
    /// As [`Gguf::open`].
    pub fn from_bytes(path: &Path, bytes: SharedBytes) -> Result<Self, FileError> {
        Gguf::read(path, bytes, Extent::Whole)
    }

    /// As [`Gguf::open`] of a file that may end anywhere behind its header. A tensor that it lacks has no bytes.
    ///
    /// # Errors
    /// As [`Gguf::open`].
    pub(super) fn open_header(path: &Path) -> Result<Self, FileError> {
        Gguf::read(path, map(path)?, Extent::Header)
    }

    fn read(path: &Path, bytes: SharedBytes, extent: Extent) -> Result<Self, FileError> {
        let (metadata, tensors) = read(&bytes, extent).map_err(|problem| {
            FileError::new(path, problem)
                .with_hint("if the file was downloaded, it may be cut short: download it again")
        })?;
        Ok(Gguf { path: path.to_owned(), metadata, tensors })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A text value.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.metadata.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A whole number of any width.
    pub fn integer(&self, key: &str) -> Option<i128> {
        match self.metadata.get(key)? {
            Value::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// A number of any kind.
    pub fn number(&self, key: &str) -> Option<f64> {
        match self.metadata.get(key)? {
            Value::Float(number) => Some(*number),
            Value::Integer(number) => Some(*number as f64),
            _ => None,
        }
    }

    /// A truth value.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.metadata.get(key)? {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    /// A list of texts.
    pub fn texts(&self, key: &str) -> Option<&[String]> {
        match self.metadata.get(key)? {
            Value::Texts(texts) => Some(texts),
            _ => None,
        }
    }

    /// A list of whole numbers.
    pub fn integers(&self, key: &str) -> Option<&[i64]> {
        match self.metadata.get(key)? {
            Value::Integers(numbers) => Some(numbers),
            _ => None,
        }
    }

    /// A list of floats in the metadata.
    pub fn float_list(&self, key: &str) -> Option<&[f32]> {
        match self.metadata.get(key)? {
            Value::Floats(numbers) => Some(numbers),
            _ => None,
        }
    }

    /// The shape of a tensor, row-major.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|t| &t.shape[..])
    }

    /// The values of a small tensor stored in F32.
    pub(crate) fn floats(&self, name: &str) -> Option<Vec<f32>> {
        let tensor = self.tensors.get(name).filter(|t| t.format == Format::F32 && !t.data.is_empty())?;
        Some(tensor.data.as_slice().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    pub(crate) fn tensor(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name)
    }

    pub(crate) fn stored_bytes(&self) -> u64 {
        self.tensors.values().map(|t| t.data.len() as u64).sum()
    }
}

/// What is left of the header.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8], String> {
        if len > self.left() {
            let end = if self.bytes.len() == MAX_HEADER { " of the longest header that is read" } else { "" };
            return Err(format!(
                "{what} at byte {} needs {len} bytes, {} are left{end}",
                self.at,
                self.left()
            ));
        }
        let taken = &self.bytes[self.at..self.at + len as usize];
        self.at += len as usize;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        Ok(self.take(N as u64, what)?.try_into().expect("as long as asked for"))
    }

    fn u32(&mut self, what: &str) -> Result<u32, String> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, String> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn text(&mut self, cap: u64, what: &str) -> Result<String, String> {
        let at = self.at;
        let len = self.u64(what)?;
        if len > cap {
            return Err(format!("{what} at byte {at} is {len} bytes long, at most {cap} are allowed"));
        }
        let bytes = self.take(len, what)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| format!("{what} at byte {at} is not UTF-8"))
    }

    /// A number of things of at least `size` bytes each, which must fit in what is left.
    fn count(&mut self, size: u64, what: &str) -> Result<usize, String> {
        let at = self.at;
        let count = self.u64(what)?;
        if count > self.left() / size {
            return Err(format!(
                "{count} {what} at byte {at} do not fit in the {} bytes that are left",
                self.left()
            ));
        }
        Ok(count as usize)
    }

    /// The length of a list.
    fn list(&mut self, size: u64, what: &str) -> Result<usize, String> {
        let at = self.at;
        let count = self.count(size, what)?;
        if count as u64 > MAX_LIST {
            return Err(format!("{count} {what} at byte {at} are more than the {MAX_LIST} that are allowed"));
        }
        Ok(count)
    }
}

/// How much of a file there has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    Whole,
    Header,
}

type Contents = (HashMap<String, Value>, HashMap<String, StoredTensor>);

fn read(bytes: &SharedBytes, extent: Extent) -> Result<Contents, String> {
    let whole = bytes.as_slice();
    let mut cursor = Cursor { bytes: &whole[..whole.len().min(MAX_HEADER)], at: 0 };
    if cursor.take(4, "the magic number")? != b"GGUF" {
        return Err("not a GGUF file: it does not begin with GGUF".into());
    }
    let version = cursor.u32("the version")?;
    if !(2..=3).contains(&version) {
        return Err(format!("GGUF version {version} is not supported, expected 2 or 3"));
    }
    // A tensor has a name length, a rank, a type and an offset; an entry a name length, a type and a value.
    let tensor_count = cursor.count(24, "tensors")?;
    let entry_count = cursor.count(13, "metadata entries")?;
    let mut metadata = HashMap::new();
    for _ in 0..entry_count {
        let key = cursor.text(MAX_NAME, "a metadata key")?;
        let kind = cursor.u32("a value type")?;
        let value = read_value(&mut cursor, kind, &key)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(format!("the metadata key {key} occurs twice"));
        }
    }
    let alignment = match metadata.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(Value::Integer(n)) if (8..=65_536).contains(n) && (*n as u64).is_power_of_two() => *n as u64,
        Some(other) => {
            return Err(format!("general.alignment is {other:?}, expected a power of two from 8 to 65536"));
        }
    };
    let infos = (0..tensor_count).map(|_| read_info(&mut cursor)).collect::<Result<Vec<_>, String>>()?;
    let data_start = (cursor.at as u64).next_multiple_of(alignment);
    let mut tensors = HashMap::new();
    for Info { name, shape, format, bytes: len, offset } in infos {
        let problem = || format!("{name}: {len} bytes at offset {offset} do not lie in the file");
        if offset % alignment != 0 {
            return Err(format!("{name}: offset {offset} is not a multiple of the alignment {alignment}"));
        }
        let start = data_start.checked_add(offset).ok_or_else(problem)?;
        let end = start.checked_add(len).ok_or_else(problem)?;
        let range = usize::try_from(start).ok().zip(usize::try_from(end).ok()).ok_or_else(problem)?;
        let data = match (bytes.slice(range.0..range.1), extent) {
            (Some(data), _) => data,
            (None, Extent::Header) => SharedBytes::from_vec(Vec::new()),
            (None, Extent::Whole) => return Err(problem()),
        };
        if tensors.insert(name.clone(), StoredTensor { shape, format, data }).is_some() {
            return Err(format!("the tensor {name} occurs twice"));
        }
    }
    Ok((metadata, tensors))
}

struct Info {
    name: String,
    shape: Vec<usize>,
    format: Format,
    bytes: u64,
    offset: u64,
}

fn read_info(cursor: &mut Cursor<'_>) -> Result<Info, String> {
    let name = cursor.text(MAX_NAME, "a tensor name")?;
    let rank = cursor.u32("a tensor's rank")?;
    if !(1..=4).contains(&rank) {
        return Err(format!("{name} has {rank} dimensions, expected 1 to 4"));
    }
    let sizes = (0..rank).map(|_| cursor.u64("a dimension")).collect::<Result<Vec<u64>, String>>()?;
    let format = format_of(cursor.u32("a tensor type")?).map_err(|e| format!("{name} {e}"))?;
    let offset = cursor.u64("a tensor offset")?;
    let too_large = || format!("{name} has dimensions {sizes:?}, which are too large");
    let (block, block_bytes) = (format.block_len() as u64, format.block_bytes() as u64);
    if sizes[0] == 0 || sizes[0] % block != 0 {
        return Err(format!(
            "{name}: a row of {} values does not divide into {format} blocks of {block}",
            sizes[0]
        ));
    }
    let values = sizes.iter().try_fold(1u64, |product, n| product.checked_mul(*n)).ok_or_else(too_large)?;
    let bytes = (values / block).checked_mul(block_bytes).ok_or_else(too_large)?;
    // The file has the innermost dimension first.
    let shape = sizes
        .iter()
        .rev()
        .map(|&n| usize::try_from(n))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| too_large())?;
    Ok(Info { name, shape, format, bytes, offset })
}

/// The type numbers of `ggml_type`.
fn format_of(number: u32) -> Result<Format, String> {
    Ok(match number {
        0 => Format::F32,
        1 => Format::F16,
        2 => Format::Q4_0,
        3 => Format::Q4_1,
        6 => Format::Q5_0,
        7 => Format::Q5_1,
        8 => Format::Q8_0,
        12 => Format::Q4K,
        13 => Format::Q5K,
        14 => Format::Q6K,
        30 => Format::BF16,
        other => {
            let known: Vec<&str> = Format::ALL.iter().map(|f| f.name()).collect();
            return Err(format!("has the ggml type {other}, which is not one of {}", known.join(", ")));
        }
    })
}

fn read_value(cursor: &mut Cursor<'_>, kind: u32, key: &str) -> Result<Value, String> {
    Ok(match kind {
        0..=5 | 10 | 11 => Value::Integer(read_integer(cursor, kind, key)?),
        6 | 12 => Value::Float(read_float(cursor, kind, key)?),
        7 => Value::Bool(cursor.array::<1>(key)? != [0]),
        8 => Value::Text(cursor.text(MAX_TEXT, key)?),
        9 => {
            let kind = cursor.u32(key)?;
            match kind {
                0..=5 | 7 | 10 | 11 => {
                    let count = cursor.list(width(kind), &format!("values of {key}"))?;
                    let read = |_| match kind {
                        7 => Ok(i64::from(cursor.array::<1>(key)? != [0])),
                        kind => read_integer(cursor, kind, key)
                            .and_then(|n| i64::try_from(n).map_err(|_| format!("a value of {key} is {n}"))),
                    };
                    Value::Integers((0..count).map(read).collect::<Result<_, String>>()?)
                }
                6 | 12 => {
                    let count = cursor.list(width(kind), &format!("values of {key}"))?;
                    let read = |_| Ok(read_float(cursor, kind, key)? as f32);
                    Value::Floats((0..count).map(read).collect::<Result<_, String>>()?)
                }
                8 => {
                    let count = cursor.list(8, &format!("texts of {key}"))?;
                    Value::Texts(
                        (0..count).map(|_| cursor.text(MAX_TEXT, key)).collect::<Result<_, String>>()?,
                    )
                }
                other => {
                    return Err(format!("{key} is a list of values of type {other}, which is not supported"));
                }
            }
        }
        other => return Err(format!("{key} has the value type {other}, which does not exist")),
    })
}

/// Bytes of a number of a metadata type.
fn width(kind: u32) -> u64 {
    match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        _ => 8,
    }
}

fn read_integer(cursor: &mut Cursor<'_>, kind: u32, key: &str) -> Result<i128, String> {
    Ok(match kind {
        0 => i128::from(u8::from_le_bytes(cursor.array(key)?)),
        1 => i128::from(i8::from_le_bytes(cursor.array(key)?)),
        2 => i128::from(u16::from_le_bytes(cursor.array(key)?)),
        3 => i128::from(i16::from_le_bytes(cursor.array(key)?)),
        4 => i128::from(u32::from_le_bytes(cursor.array(key)?)),
        5 => i128::from(i32::from_le_bytes(cursor.array(key)?)),
        10 => i128::from(u64::from_le_bytes(cursor.array(key)?)),
        _ => i128::from(i64::from_le_bytes(cursor.array(key)?)),
    })
}

fn read_float(cursor: &mut Cursor<'_>, kind: u32, key: &str) -> Result<f64, String> {
    Ok(match kind {
        6 => f64::from(f32::from_le_bytes(cursor.array(key)?)),
        _ => f64::from_le_bytes(cursor.array(key)?),
    })
}
