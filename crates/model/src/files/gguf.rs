//! GGUF files, version 2 and 3 (ggml `docs/gguf.md`): metadata, and tensors mapped in place.
//!
//! The reader trusts nothing: every count and length is held against the bytes that are left before anything
//! is allocated, and every tensor must lie inside the file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use lorafit_kernels::SharedBytes;
use lorafit_kernels::quant::Format;

use super::StoredTensor;
use super::plain::{foreign, map};
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
    /// The files: one, or the parts of a split one in their order.
    parts: Vec<PathBuf>,
    metadata: HashMap<String, Value>,
    /// Keys in the file's order, each with the bytes of its type and value.
    entries: Vec<(String, SharedBytes)>,
    tensors: HashMap<String, StoredTensor>,
    /// Names of tensors in the file's order.
    order: Vec<String>,
}

/// Longest key or tensor name.
const MAX_NAME: u64 = 65_535;
/// Longest text value: a chat template or a token is far shorter.
const MAX_TEXT: u64 = 16 << 20;
/// Most items of all lists together: the largest vocabularies have some 260 thousand tokens with a score and a type each, or
/// 200 thousand with a type and 450 thousand merges. An item takes up to 60 bytes, however short it is.
const MAX_ITEMS: u64 = 5 << 18;
/// Most metadata entries, and most tensors: real files have up to a few hundred and two thousand.
const MAX_ENTRIES: u64 = 1 << 16;
/// Longest header. Real ones have up to about 20 MiB; what is read of them is kept in memory, several times as large.
const MAX_HEADER: usize = 256 << 20;
pub(super) const DEFAULT_ALIGNMENT: u64 = 32;

impl Gguf {
    /// Maps a file and reads its header; of a split file (`X-00001-of-00003.gguf`) all parts, which lie beside it.
    ///
    /// # Errors
    /// A file that is not GGUF, is cut short or contradicts itself, or a tensor of an unsupported type.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        Gguf::read_split(path, Extent::Whole)
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
    pub(crate) fn open_header(path: &Path) -> Result<Self, FileError> {
        Gguf::read_split(path, Extent::Header)
    }

    fn read(path: &Path, bytes: SharedBytes, extent: Extent) -> Result<Self, FileError> {
        let Contents { metadata, entries, tensors, order } = read(&bytes, extent)
            .map_err(|problem| FileError::new(path, problem.text).with_hint(problem.hint))?;
        Ok(Gguf { path: path.to_owned(), parts: vec![path.to_owned()], metadata, entries, tensors, order })
    }

    /// As [`Gguf::read`] of a file that may be a part of a split one: the other parts lie beside it.
    fn read_split(path: &Path, extent: Extent) -> Result<Self, FileError> {
        let own = Gguf::read(path, map(path)?, extent)?;
        let count = own.integer("split.count").unwrap_or(1);
        if count <= 1 {
            return Ok(own);
        }
        let fail = |problem: String| FileError::new(path, problem);
        let number = own.integer("split.no").unwrap_or(0) + 1;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let names = split_parts(&name).filter(|names| names.len() as i128 == count).ok_or_else(|| {
            fail(format!("part {number} of {count} of a split file, which its name does not say"))
                .with_hint(format!("name the parts NAME-00001-of-{count:05}.gguf and so on, in one folder"))
        })?;
        let mut whole: Option<Gguf> = None;
        for (i, name) in names.iter().enumerate() {
            let part = path.with_file_name(name);
            if !part.exists() {
                return Err(fail(format!("{name} is missing, part {} of {count}", i + 1))
                    .with_hint("put all parts into one folder"));
            }
            let gguf = Gguf::read(&part, map(&part)?, extent)?;
            let (no, of) = (gguf.integer("split.no"), gguf.integer("split.count"));
            if (no, of) != (Some(i as i128), Some(count)) {
                let number = no.map_or("no part".to_owned(), |no| format!("part {}", no + 1));
                let problem = format!(
                    "its metadata says {number} of {}, its name {} of {count}",
                    of.unwrap_or(0),
                    i + 1
                );
                return Err(FileError::new(&part, problem)
                    .with_hint("the part belongs to another file, or was renamed"));
            }
            match &mut whole {
                None => whole = Some(gguf),
                Some(whole) => {
                    whole.order.extend(gguf.order);
                    for (name, tensor) in gguf.tensors {
                        if whole.tensors.insert(name.clone(), tensor).is_some() {
                            return Err(FileError::new(&part, format!("the tensor {name} is in two parts")));
                        }
                    }
                    whole.parts.push(part);
                }
            }
        }
        whole.ok_or_else(|| fail("a split file of no parts".into()))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files: one, or the parts of a split one in their order.
    pub fn parts(&self) -> &[PathBuf] {
        &self.parts
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

    /// A value of any kind as errors show it; of a list its beginning.
    pub(crate) fn shown(&self, key: &str) -> Option<String> {
        const SHOWN: usize = 80;
        let shown = match self.metadata.get(key)? {
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            Value::Text(text) => format!("{text:?}"),
            Value::Integers(numbers) => format!("{:?}", &numbers[..numbers.len().min(SHOWN)]),
            Value::Floats(numbers) => format!("{:?}", &numbers[..numbers.len().min(SHOWN)]),
            Value::Texts(texts) => format!("{:?}", &texts[..texts.len().min(SHOWN)]),
        };
        Some(match shown.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("{}...", &shown[..end]),
            None => shown,
        })
    }

    /// The names of all tensors.
    pub(crate) fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
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

    /// Keys in the file's order, each with its type and value as the file has them; of a split file those of the first part.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &SharedBytes)> {
        self.entries.iter().map(|(key, value)| (&key[..], value))
    }

    /// Tensors in the file's order.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&str, &StoredTensor)> {
        self.order.iter().map(|name| (&name[..], &self.tensors[name]))
    }

    pub(crate) fn stored_bytes(&self) -> u64 {
        self.tensors.values().map(|t| t.data.len() as u64).sum()
    }
}

/// What is wrong with a file, and the way out.
#[derive(Debug)]
struct Problem {
    text: String,
    hint: String,
}

/// Files that contradict themselves.
const DAMAGED: &str = "the file is damaged, or was written by a tool with its own idea of GGUF: download it again, or take \
                       another conversion";
/// Files that end too early.
const CUT: &str = "the file is cut short: download it again";

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Problem { text, hint: DAMAGED.to_owned() }
    }
}

impl From<&str> for Problem {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl Problem {
    /// The file ends too early.
    fn cut(text: String) -> Self {
        Problem { text, hint: CUT.to_owned() }
    }

    fn with_hint(self, hint: impl Into<String>) -> Self {
        Problem { hint: hint.into(), ..self }
    }
}

/// What is left of the header.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Items that lists may still have.
    items: u64,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8], Problem> {
        if len > self.left() {
            let end = if self.bytes.len() == MAX_HEADER { " of the longest header that is read" } else { "" };
            return Err(Problem::cut(format!(
                "{what} at byte {} needs {len} bytes, {} are left{end}",
                self.at,
                self.left()
            )));
        }
        let taken = &self.bytes[self.at..self.at + len as usize];
        self.at += len as usize;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Problem> {
        Ok(self.take(N as u64, what)?.try_into().expect("as long as asked for"))
    }

    fn u32(&mut self, what: &str) -> Result<u32, Problem> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, Problem> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn text(&mut self, cap: u64, what: &str) -> Result<String, Problem> {
        let at = self.at;
        let len = self.u64(what)?;
        if len > cap {
            return Err(format!("{what} at byte {at} is {len} bytes long, at most {cap} are allowed").into());
        }
        let bytes = self.take(len, what)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| format!("{what} at byte {at} is not UTF-8").into())
    }

    /// A number of things of at least `size` bytes each, which must fit in what is left and be at most `most`.
    fn count(&mut self, size: u64, most: u64, what: &str) -> Result<usize, Problem> {
        let at = self.at;
        let count = self.u64(what)?;
        if count > self.left() / size {
            return Err(Problem::cut(format!(
                "{count} {what} at byte {at} do not fit in the {} bytes that are left",
                self.left()
            )));
        }
        if count > most {
            return Err(
                format!("{count} {what} at byte {at} are more than the {most} that are allowed").into()
            );
        }
        Ok(count as usize)
    }

    /// The length of a list.
    fn list(&mut self, size: u64, what: &str) -> Result<usize, Problem> {
        let count = self.count(size, self.items, what)?;
        self.items -= count as u64;
        Ok(count)
    }
}

/// How much of a file there has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    Whole,
    Header,
}

/// See [`Gguf`].
struct Contents {
    metadata: HashMap<String, Value>,
    entries: Vec<(String, SharedBytes)>,
    tensors: HashMap<String, StoredTensor>,
    order: Vec<String>,
}

fn read(bytes: &SharedBytes, extent: Extent) -> Result<Contents, Problem> {
    let whole = bytes.as_slice();
    let mut cursor = Cursor { bytes: &whole[..whole.len().min(MAX_HEADER)], at: 0, items: MAX_ITEMS };
    if cursor.take(4, "the magic number")? != b"GGUF" {
        return Err(not_gguf(whole));
    }
    let version = cursor.u32("the version")?;
    if !(2..=3).contains(&version) {
        let hint = match version.swap_bytes() {
            2..=3 => "the file is for big-endian machines: take the usual, little-endian one",
            _ => "convert the model again with a present llama.cpp",
        };
        let text = format!("GGUF version {version} is not supported, expected 2 or 3");
        return Err(Problem::from(text).with_hint(hint));
    }
    // A tensor has a name length, a rank, a type and an offset; an entry a name length, a type and a value.
    let tensor_count = cursor.count(24, MAX_ENTRIES, "tensors")?;
    let entry_count = cursor.count(13, MAX_ENTRIES, "metadata entries")?;
    let (mut metadata, mut entries) = (HashMap::new(), Vec::new());
    for _ in 0..entry_count {
        let key = cursor.text(MAX_NAME, "a metadata key")?;
        let start = cursor.at;
        let kind = cursor.u32("a value type")?;
        let value = read_value(&mut cursor, kind, &key)?;
        entries.extend(bytes.slice(start..cursor.at).map(|stored| (key.clone(), stored)));
        if metadata.insert(key.clone(), value).is_some() {
            return Err(format!("the metadata key {key} occurs twice").into());
        }
    }
    let alignment = match metadata.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(Value::Integer(n)) if (8..=65_536).contains(n) && (*n as u64).is_power_of_two() => *n as u64,
        Some(other) => {
            return Err(
                format!("general.alignment is {other:?}, expected a power of two from 8 to 65536").into()
            );
        }
    };
    let infos = (0..tensor_count).map(|_| read_info(&mut cursor)).collect::<Result<Vec<_>, Problem>>()?;
    let data_start = (cursor.at as u64).next_multiple_of(alignment);
    let mut places: Vec<(u64, u64, &str)> = infos.iter().map(|i| (i.offset, i.bytes, &i.name[..])).collect();
    places.sort_unstable();
    let misplaced = misplaced(&places, alignment);
    let mut tensors = HashMap::new();
    let order = infos.iter().map(|info| info.name.clone()).collect();
    for Info { name, shape, format, bytes: len, offset } in infos {
        let problem =
            || Problem::cut(format!("{name}: {len} bytes at offset {offset} do not lie in the file"));
        if offset % alignment != 0 {
            return Err(
                format!("{name}: offset {offset} is not a multiple of the alignment {alignment}").into()
            );
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
            return Err(format!("the tensor {name} occurs twice").into());
        }
    }
    match misplaced {
        Some(problem) => Err(problem.into()),
        None => Ok(Contents { metadata, entries, tensors, order }),
    }
}

/// Tensors fill a file without gap or overlap, each at the next multiple of the alignment: one that does not has another
/// size than it says. `places` are offset, bytes and name, sorted.
fn misplaced(places: &[(u64, u64, &str)], alignment: u64) -> Option<String> {
    let mut expected = 0u64;
    for (offset, len, name) in places {
        if *offset != expected {
            return Some(format!("{name}: offset {offset}, but the tensors before it end at {expected}"));
        }
        expected = offset.saturating_add(*len).checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    }
    None
}

struct Info {
    name: String,
    shape: Vec<usize>,
    format: Format,
    bytes: u64,
    offset: u64,
}

fn read_info(cursor: &mut Cursor<'_>) -> Result<Info, Problem> {
    let name = cursor.text(MAX_NAME, "a tensor name")?;
    let rank = cursor.u32("a tensor's rank")?;
    if !(1..=4).contains(&rank) {
        return Err(format!("{name} has {rank} dimensions, expected 1 to 4").into());
    }
    let sizes = (0..rank).map(|_| cursor.u64("a dimension")).collect::<Result<Vec<u64>, Problem>>()?;
    let format = format_of(cursor.u32("a tensor type")?, &name)?;
    let offset = cursor.u64("a tensor offset")?;
    let too_large = || format!("{name} has dimensions {sizes:?}, which are too large");
    let (block, block_bytes) = (format.block_len() as u64, format.block_bytes() as u64);
    if sizes[0] == 0 || sizes[0] % block != 0 {
        return Err(format!(
            "{name}: a row of {} values does not divide into {format} blocks of {block}",
            sizes[0]
        )
        .into());
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

/// The number of a format in `ggml_type`.
pub(super) fn type_number(format: Format) -> u32 {
    match format {
        Format::F32 => 0,
        Format::F16 => 1,
        Format::Q4_0 => 2,
        Format::Q4_1 => 3,
        Format::Q5_0 => 6,
        Format::Q5_1 => 7,
        Format::Q8_0 => 8,
        Format::Q4K => 12,
        Format::Q5K => 13,
        Format::Q6K => 14,
        Format::BF16 => 30,
    }
}

fn format_of(number: u32, name: &str) -> Result<Format, Problem> {
    let known = Format::ALL.into_iter().find(|format| type_number(*format) == number);
    known.ok_or_else(|| unsupported_type(number, name))
}

/// Names of the types of ggml by their numbers (ggml.h, enum ggml_type); those without one were given up.
const TYPE_NAMES: [&str; 41] = [
    "F32",
    "F16",
    "Q4_0",
    "Q4_1",
    "",
    "",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q8_1",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "Q8_K",
    "IQ2_XXS",
    "IQ2_XS",
    "IQ3_XXS",
    "IQ1_S",
    "IQ4_NL",
    "IQ3_S",
    "IQ2_S",
    "IQ4_XS",
    "I8",
    "I16",
    "I32",
    "I64",
    "F64",
    "IQ1_M",
    "BF16",
    "Q4_0_4_4",
    "Q4_0_4_8",
    "Q4_0_8_8",
    "TQ1_0",
    "TQ2_0",
    "IQ4_NL_4_4",
    "IQ4_NL_4_8",
    "IQ4_NL_8_8",
    "MXFP4",
    "NVFP4",
];

/// A tensor of a type that is not read.
fn unsupported_type(number: u32, tensor: &str) -> Problem {
    let known: Vec<&str> = Format::ALL.iter().map(|f| f.name()).collect();
    let known = known.join(", ");
    match TYPE_NAMES.get(number as usize).filter(|name| !name.is_empty()) {
        Some(name) => Problem::from(format!("{tensor} is stored as {name}, which is not supported, only {known}"))
            .with_hint(
                "take another file of the same model: Q4_K_M is about as small as IQ4 types and MXFP4, Q8_0 is nearest to the \
                 original",
            ),
        None => Problem::from(format!("{tensor} has the ggml type {number}, which is not one of {known}"))
            .with_hint("the type is newer than this lorafit, or the file is damaged: take a file in Q4_K_M or Q8_0"),
    }
}

/// What a file that does not begin with GGUF is.
fn not_gguf(bytes: &[u8]) -> Problem {
    let text = "not a GGUF file: it does not begin with GGUF";
    match foreign(bytes) {
        Some((what, hint)) => Problem::from(format!("{text}; it is {what}")).with_hint(hint),
        None if bytes.get(8) == Some(&b'{') => Problem::from(format!(
            "{text}; it looks like a safetensors file"
        ))
        .with_hint("put it into a folder with its config.json and tokenizer.json, as model.safetensors"),
        None => Problem::from(text).with_hint("download it again, from the link of the file itself"),
    }
}

/// The names of all parts of the split file that `name` is a part of (`X-00002-of-00005.gguf`), in their order.
pub(crate) fn split_parts(name: &str) -> Option<Vec<String>> {
    let stem = name.strip_suffix(".gguf")?;
    let (stem, count) = stem.rsplit_once("-of-")?;
    let (stem, number) = stem.rsplit_once('-')?;
    let digits = |text: &str| match text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse::<u32>().ok(),
        false => None,
    };
    let (number, count) = (digits(number)?, digits(count)?);
    let parts = || (1..=count).map(|part| format!("{stem}-{part:05}-of-{count:05}.gguf")).collect();
    (1..=count).contains(&number).then(parts)
}

fn read_value(cursor: &mut Cursor<'_>, kind: u32, key: &str) -> Result<Value, Problem> {
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
                        kind => read_integer(cursor, kind, key).and_then(|n| {
                            i64::try_from(n).map_err(|_| format!("a value of {key} is {n}").into())
                        }),
                    };
                    Value::Integers((0..count).map(read).collect::<Result<_, Problem>>()?)
                }
                6 | 12 => {
                    let count = cursor.list(width(kind), &format!("values of {key}"))?;
                    let read = |_| Ok(read_float(cursor, kind, key)? as f32);
                    Value::Floats((0..count).map(read).collect::<Result<_, Problem>>()?)
                }
                8 => {
                    let count = cursor.list(8, &format!("texts of {key}"))?;
                    Value::Texts(
                        (0..count).map(|_| cursor.text(MAX_TEXT, key)).collect::<Result<_, Problem>>()?,
                    )
                }
                other => {
                    return Err(
                        format!("{key} is a list of values of type {other}, which is not supported").into()
                    );
                }
            }
        }
        other => return Err(format!("{key} has the value type {other}, which does not exist").into()),
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

fn read_integer(cursor: &mut Cursor<'_>, kind: u32, key: &str) -> Result<i128, Problem> {
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

fn read_float(cursor: &mut Cursor<'_>, kind: u32, key: &str) -> Result<f64, Problem> {
    Ok(match kind {
        6 => f64::from(f32::from_le_bytes(cursor.array(key)?)),
        _ => f64::from_le_bytes(cursor.array(key)?),
    })
}

/// Whether a path or a file's name is that of a GGUF file.
pub fn is_gguf(path: impl AsRef<Path>) -> bool {
    path.as_ref().extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}
