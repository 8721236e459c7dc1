//! Safetensors files: one, or shards named by an index.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};

use lorafit_kernels::SharedBytes;
use lorafit_kernels::quant::Format;
use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::{StoredTensor, inside, map, read_text};
use crate::error::FileError;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The largest index that is read: that of some 40 thousand tensors.
const MAX_INDEX_BYTES: u64 = 4 << 20;

/// `model.safetensors.index.json`; what else it says is passed over.
#[derive(Deserialize)]
struct Index {
    /// The file of each tensor. Sorted, so that the first shard that is wrong is the same each time.
    weight_map: BTreeMap<String, String>,
}

/// The tensors of a model folder.
#[derive(Debug)]
pub(super) struct Shards {
    files: Vec<Shard>,
    /// The file of each tensor, where an index says so.
    index: Option<HashMap<String, usize>>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    bytes: SharedBytes,
    entries: HashMap<String, Entry>,
}

/// Where a tensor lies in its file. The type is looked at only when the tensor is used.
#[derive(Debug)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    start: usize,
    end: usize,
}

/// A tensor as its file has it, of any type.
#[derive(Clone, Debug)]
pub(super) struct RawTensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub data: SharedBytes,
}

impl Shards {
    pub(super) fn open(dir: &Path) -> Result<Self, FileError> {
        let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
        if index.exists() {
            Shards::open_index(dir, &index)
        } else if single.exists() {
            let bytes = map(&inside(dir, SINGLE)?)?;
            Shards::single(dir, bytes)
        } else {
            Err(no_weights(dir))
        }
    }

    /// No file: every tensor is missing.
    pub(super) fn none() -> Self {
        Shards { files: Vec::new(), index: None }
    }

    /// The only file of a folder.
    pub(super) fn single(dir: &Path, bytes: SharedBytes) -> Result<Self, FileError> {
        Ok(Shards { files: vec![Shard::read(dir.join(SINGLE), bytes)?], index: None })
    }

    fn open_index(dir: &Path, index: &Path) -> Result<Self, FileError> {
        let fail = |problem: String| FileError::new(index, problem);
        let text = read_text(&inside(dir, INDEX)?, MAX_INDEX_BYTES)
            .map_err(|e| fail(format!("cannot read: {e}")))?;
        let Index { weight_map } =
            serde_json::from_str(&text).map_err(|e| fail(format!("not an index of shards: {e}")))?;
        let mut files: Vec<Shard> = Vec::new();
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        let mut of_tensor = HashMap::new();
        for (tensor, file) in &weight_map {
            let file = file.as_str();
            let number = match numbers.get(file) {
                Some(&number) => number,
                None => {
                    let plain = Path::new(file).components().collect::<Vec<_>>();
                    if !matches!(plain[..], [Component::Normal(_)]) {
                        let problem = format!("`{file}` is not a plain file name");
                        return Err(fail(problem).with_hint("shards lie in the folder of their index"));
                    }
                    let path = inside(dir, file)?;
                    if !path.exists() {
                        let problem = format!("names the shard {file}, which the folder lacks");
                        return Err(fail(problem).with_hint("download the model again; a shard is missing"));
                    }
                    let bytes = map(&path)?;
                    files.push(Shard::read(path, bytes)?);
                    numbers.insert(file, files.len() - 1);
                    files.len() - 1
                }
            };
            of_tensor.insert(tensor.clone(), number);
        }
        Ok(Shards { files, index: Some(of_tensor) })
    }

    /// The shard that has the tensor `name`.
    fn shard(&self, name: &str) -> Option<&Shard> {
        match &self.index {
            Some(index) => index.get(name).map(|&number| &self.files[number]),
            None => self.files.first(),
        }
    }

    /// The files.
    pub(super) fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.files.iter().map(|file| file.path.clone())
    }

    /// Names of all tensors, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        let all = self.files.iter().flat_map(|file| file.entries.keys());
        let mut names: Vec<String> = all.filter(|name| self.shard(name).is_some()).cloned().collect();
        names.sort();
        names.dedup();
        names
    }

    /// The tensor `name` of any type; `None` if there is none.
    pub(super) fn raw(&self, name: &str) -> Result<Option<RawTensor>, FileError> {
        let Some(shard) = self.shard(name) else { return Ok(None) };
        let Some(entry) = shard.entries.get(name) else { return Ok(None) };
        let data = shard.bytes.slice(entry.start..entry.end);
        let data = data.ok_or_else(|| FileError::new(&shard.path, format!("{name} reaches past the end")))?;
        Ok(Some(RawTensor { dtype: entry.dtype, shape: entry.shape.clone(), data }))
    }

    /// The tensor `name` of floating-point numbers; `None` if there is none.
    pub(super) fn tensor(&self, name: &str) -> Result<Option<StoredTensor>, FileError> {
        let Some(RawTensor { dtype, shape, data }) = self.raw(name)? else { return Ok(None) };
        let format = match dtype {
            Dtype::F32 => Format::F32,
            Dtype::F16 => Format::F16,
            Dtype::BF16 => Format::BF16,
            other => {
                let path = self.shard(name).map(|shard| shard.path.clone()).unwrap_or_default();
                let problem = format!("{name} is stored as {other:?}, expected F32, F16 or BF16");
                return Err(FileError::new(&path, problem));
            }
        };
        Ok(Some(StoredTensor { shape, format, data }))
    }

    pub(super) fn stored_bytes(&self) -> u64 {
        self.files.iter().flat_map(|f| f.entries.values()).map(|e| (e.end - e.start) as u64).sum()
    }
}

impl Shard {
    /// Reads a file's header.
    fn read(path: PathBuf, bytes: SharedBytes) -> Result<Self, FileError> {
        let fail = |problem: String| {
            FileError::new(&path, format!("not a whole safetensors file: {problem}"))
                .with_hint("the file is cut short or damaged; download it again")
        };
        let (data, metadata) = read_header(bytes.as_slice()).map_err(fail)?;
        let tensors = metadata.tensors();
        let entry = |info: &safetensors::tensor::TensorInfo| Entry {
            dtype: info.dtype,
            shape: info.shape.clone(),
            start: data + info.data_offsets.0,
            end: data + info.data_offsets.1,
        };
        let entries = tensors.iter().map(|(name, info)| (name.clone(), entry(info))).collect();
        Ok(Shard { path, bytes, entries })
    }
}

/// The longest header that is read: that of some 20 thousand tensors, when the largest supported model has 1200 and six
/// times as many once quantised. What is read of it takes up to twenty times the memory.
const MAX_HEADER: u64 = 2 << 20;

/// Where the data begins, and what lies there; the crate checks that tensors fill the file without overlap.
pub(crate) fn read_header(bytes: &[u8]) -> Result<(usize, Metadata), String> {
    let header_len = bytes.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    if header_len > MAX_HEADER {
        return Err(format!("the header has {header_len} bytes, at most {MAX_HEADER} are allowed"));
    }
    let (header_len, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
    // The header is preceded by its length in 8 bytes.
    Ok((header_len + 8, metadata))
}

fn no_weights(dir: &Path) -> FileError {
    let names: Vec<String> = std::fs::read_dir(dir)
        .map(|entries| entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    let pickle = |name: &&String| name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth");
    match names.iter().find(pickle) {
        Some(name) => FileError::new(
            &dir.join(name),
            "pickle files can run code when they are opened and are refused",
        )
        .with_hint(
            "load the model in transformers once and save it with save_pretrained: it writes safetensors",
        ),
        None => FileError::new(dir, format!("has neither {SINGLE} nor {INDEX}"))
            .with_hint("a model folder has config.json, *.safetensors and tokenizer.json"),
    }
}
