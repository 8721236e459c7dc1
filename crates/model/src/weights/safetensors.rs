//! Safetensors files: one, or shards named by an index.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};

use lorafit_kernels::SharedBytes;
use lorafit_kernels::quant::Format;
use lorafit_remedy::{Remedy, Setting, remedy};
use safetensors::Dtype;
use serde::Deserialize;

use crate::error::{FileError, unquantised};
use crate::files::{StoredTensor, header_error, inside, map, read_header, read_text};
use crate::shape::{HEAD, Names};

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
    /// What the model calls its tensors.
    names: &'static Names,
    /// What stands before the names of the decoder's tensors: [`Names::decoder`], unless the file was written from a model of
    /// another kind: nothing if from the bare decoder, `_orig_mod.model.` if from a compiled one, ... Language models of several
    /// parts are `language_model.model.` or `model.language_model.`.
    prefix: String,
}

/// What stands before the names of most decoders.
const USUAL: &str = Names::USUAL.decoder;

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
    pub(super) fn open(dir: &Path, names: &'static Names) -> Result<Self, FileError> {
        let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
        // In this order, as transformers has it: an index beside a single file is left over.
        if single.exists() {
            let bytes = map(&inside(dir, SINGLE)?)?;
            Shards::single(dir, bytes, names)
        } else if index.exists() {
            Shards::open_index(dir, &index, names)
        } else {
            Err(no_weights(dir))
        }
    }

    /// No file: every tensor is missing.
    pub(super) fn none(names: &'static Names) -> Self {
        Shards { files: Vec::new(), index: None, names, prefix: names.decoder.to_owned() }
    }

    /// The only file of a folder.
    pub(super) fn single(dir: &Path, bytes: SharedBytes, names: &'static Names) -> Result<Self, FileError> {
        Ok(Shards::of(vec![Shard::read(dir.join(SINGLE), bytes)?], None, names))
    }

    fn open_index(dir: &Path, index: &Path, names: &'static Names) -> Result<Self, FileError> {
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
        Ok(Shards::of(files, Some(of_tensor), names))
    }

    fn of(files: Vec<Shard>, index: Option<HashMap<String, usize>>, names: &'static Names) -> Self {
        let embedding = format!("{}.weight", names.embedding.trim_start_matches(names.decoder));
        let stored = files.iter().flat_map(|file| file.entries.keys());
        let mut prefixes = stored.filter_map(|name| name.strip_suffix(embedding.as_str()));
        let is_decoder = |prefix: &str| {
            prefix.is_empty()
                || prefix.ends_with(names.decoder)
                || names.is_of_several() && prefix.ends_with(USUAL)
        };
        let prefix = match (prefixes.next(), prefixes.next()) {
            (Some(only), None) if is_decoder(only) => only,
            _ => names.decoder,
        };
        let prefix = prefix.to_owned();
        Shards { files, index, names, prefix }
    }

    /// What stands before the names of what lies beside the decoder, its head.
    fn outside(&self) -> &str {
        let outside = self.prefix.strip_suffix(self.names.decoder);
        let outside = outside.or_else(|| self.prefix.strip_suffix(USUAL)).unwrap_or_default();
        // In `model.language_model.` the decoder is one model of several, and the head lies beside all.
        if outside.is_empty() || outside.ends_with('.') { outside } else { "" }
    }

    /// What the files call the tensor with the checkpoint name `name`.
    fn stored(&self, name: &str) -> Cow<'_, str> {
        let outside = self.outside();
        match name.strip_prefix(self.names.decoder) {
            Some(rest) => format!("{}{rest}", self.prefix).into(),
            None => format!("{outside}{name}").into(),
        }
    }

    /// The checkpoint name of the tensor that the files call `stored`.
    fn canonical(&self, stored: &str) -> String {
        let outside = self.outside();
        match stored.strip_prefix(self.prefix.as_str()) {
            // With no prefix at all what lies beside the decoder cannot be told by it.
            Some(rest) if !self.prefix.is_empty() || !rest.starts_with("lm_head.") => {
                format!("{}{rest}", self.names.decoder)
            }
            _ => stored.strip_prefix(outside).unwrap_or(stored).to_owned(),
        }
    }

    /// Why the tensor `name` is missing, as far as the names that are there tell, and the way out.
    pub(super) fn why_missing(&self, name: &str) -> Option<(String, Remedy)> {
        let names = || self.files.iter().flat_map(|file| file.entries.keys());
        let any = |what: &str| names().find(|name| name.contains(what));
        if let Some(found) = any(".lora_A.").or_else(|| any(".base_layer.")) {
            let hint = "merge the adapter in PEFT (merge_and_unload), save the model with save_pretrained, and pass that";
            return Some((format!("the file is the state of a PEFT model, with {found}"), hint.into()));
        }
        if let Some(found) = names().find(|name| name.ends_with(".qweight")) {
            return Some((
                format!("the weights are quantised by GPTQ or AWQ: they have {found}"),
                unquantised(),
            ));
        }
        if let Some(found) = names().find(|name| name.ends_with(".weight_packed")) {
            return Some((
                format!("the weights are those of compressed-tensors, with {found}"),
                unquantised(),
            ));
        }
        if let Some(found) =
            names().find(|name| *name == "tok_embeddings.weight" || name.ends_with(".attention.wq.weight"))
        {
            let hint = "take the folder that transformers reads (its names begin with model.), or convert it with the script \
                        of transformers for this model";
            return Some((
                format!("the names are those of the maker's own format, with {found}"),
                hint.into(),
            ));
        }
        let stale = self.files.iter().any(|file| file.entries.contains_key(&*self.stored(name)));
        if name == "lm_head.weight" && !stale {
            let hint = "save it from AutoModelForCausalLM; if its head is its embedding, set \"tie_word_embeddings\": true in \
                        config.json";
            return Some(("the file was saved from the model without its head".to_owned(), hint.into()));
        }
        if let Some(shard) = self.files.iter().find(|file| file.entries.contains_key(&*self.stored(name))) {
            let of = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let told = match self.shard(&self.stored(name)) {
                Some(told) => format!("names {} for it", of(&told.path)),
                None => "does not name it".to_owned(),
            };
            return Some((
                format!("{} has it, but {INDEX} {told}: the index is stale", of(&shard.path)),
                "get the index again from where the shards came from, or let transformers write both (save_pretrained)".into(),
            ));
        }
        let first = names().min()?;
        Some((
            format!("the file has {} others, such as {first}", names().count()),
            "config.json and the weights belong to different models".into(),
        ))
    }

    /// The shard that has the tensor that files call `name`.
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
        let known = all.filter(|name| self.shard(name).is_some());
        let mut names: Vec<String> = known.map(|name| self.canonical(name)).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Checkpoint name and stored name of every tensor, whether or not an index tells of it; sorted.
    pub(super) fn stored_names(&self) -> Vec<(String, &str)> {
        let all = self.files.iter().flat_map(|file| file.entries.keys());
        let mut names: Vec<(String, &str)> = all.map(|name| (self.canonical(name), name.as_str())).collect();
        names.sort_unstable();
        names
    }

    /// Whether there is a head whose values are not those of the embedding.
    pub(super) fn has_own_head(&self) -> Result<bool, FileError> {
        let (head, embedding) =
            (self.raw(&format!("{HEAD}.weight"))?, self.raw(&format!("{}.weight", self.names.embedding))?);
        let (Some(head), Some(embedding)) = (head, embedding) else { return Ok(false) };
        if (head.dtype, &head.shape) != (embedding.dtype, &embedding.shape) {
            return Ok(true);
        }
        // Most heads that differ do so at once; of those that do not the head is not read again.
        let differs = head.data.as_slice() != embedding.data.as_slice();
        head.data.release();
        Ok(differs)
    }

    /// The tensor `name` of any type; `None` if there is none.
    pub(super) fn raw(&self, name: &str) -> Result<Option<RawTensor>, FileError> {
        let stored = self.stored(name);
        let name = stored.as_ref();
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
                let path = self.shard(&self.stored(name)).map(|shard| shard.path.clone()).unwrap_or_default();
                let problem = format!("{name} is stored as {other:?}, expected F32, F16 or BF16");
                let module = name.strip_suffix(".weight").unwrap_or(name);
                let has =
                    |name: String| self.shard(&name).is_some_and(|shard| shard.entries.contains_key(&name));
                let hint = if has(format!("{module}.scales")) {
                    unquantised().because("the weights are quantised by MLX")
                } else if has(format!("{name}.absmax")) {
                    unquantised().because(
                        "the weights are quantised by bitsandbytes, without the quant_state that says how",
                    )
                } else if matches!(other, Dtype::F64) {
                    "the model is stored in another precision: take it in BF16, or convert it with \
                     from_pretrained(DIR, dtype=torch.bfloat16) and save_pretrained"
                        .into()
                } else {
                    unquantised()
                        .because("the weights are quantised, and what they are scaled by is not known")
                };
                return Err(FileError::new(&path, problem).with_hint(hint));
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
        let fail = |problem: String| header_error(&path, bytes.as_slice(), problem);
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
        None => {
            let error = FileError::new(dir, format!("has neither {SINGLE} nor {INDEX}"));
            match names.iter().filter(|name| name.ends_with(".safetensors")).min() {
                Some(name) if name.contains("-of-") => error.with_hint(format!(
                    "it has {name}, whose index is missing: get {INDEX} from where the model came from, too"
                )),
                Some(name) if name.starts_with("adapter") => {
                    error.with_hint(
                        remedy!["pass it as ", Setting::Adapter, ", and its base as ", Setting::Model]
                            .because(format!("it has {name}")),
                    )
                }
                Some(name) => {
                    error.with_hint(format!(
                    "a model folder has config.json, *.safetensors and tokenizer.json; if {name} is the model, call it {SINGLE}"
                ))
                }
                None => error.with_hint("a model folder has config.json, *.safetensors and tokenizer.json"),
            }
        }
    }
}
