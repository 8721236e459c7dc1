//! The weights of a model by their checkpoint names, whatever file they lie in.

mod bitsandbytes;
mod folder;
mod origin;
mod safetensors;
mod score;
mod unread;

use std::path::{Path, PathBuf};

use lorafit_kernels::quant::Format;
use lorafit_kernels::{FrozenWeight, RowOrder, SharedBytes};
use lorafit_remedy::{Setting, remedy};
use rayon::prelude::*;

pub use bitsandbytes::{QuantizedFolder, write_quantized};
pub use folder::{SpecialTokens, companions, is_licence, is_tokenizer_file, tokenizer_files};
pub use origin::License;
pub use score::MOST_LABELS;

use crate::arch::ConfigError;
use crate::error::{FileError, unquantised};
use crate::files::{ADAPTER_CONFIG, MAX_CONFIG_BYTES, StoredTensor, inside, read_text};
pub use crate::files::{
    Gguf, GgufEntry, NoForm, RowValues, SaveDtype, TensorData, TensorReader, TensorSource, Values,
    write_tensors,
};
use crate::shape::{
    BaseQuantization, Config, HEAD, Names, gguf_name, is_transposed, module_shape, stored_less,
};
use safetensors::Shards;

/// How the projections of a model are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseStorage {
    /// As numbers of this type, the first one's where they differ.
    Float(SaveDtype),
    /// In fewer bits, in the format of this name.
    Quantized(String),
}

/// A model's configuration and weights, mapped from its files.
///
/// The files must not be changed while they are mapped.
#[derive(Debug)]
pub struct ModelFiles {
    path: PathBuf,
    config: Config,
    source: Source,
    /// Whether the head is asked for by itself although the files have it as the embedding.
    untied: bool,
    /// Rows that the files have of embedding and head; further ones that the configuration says are zeros.
    stored_rows: usize,
    /// The shape as the files have it, where a head that scores texts takes the place of theirs.
    unscored: Option<Config>,
    /// The random seed of such a head that is not in the files.
    score_seed: u64,
    /// The names of the labels of such a head, where the files have some.
    label_names: Option<Vec<String>>,
}

#[derive(Debug)]
enum Source {
    Folder {
        shards: Shards,
        name: Option<String>,
        /// What `config.json` would drop at random in training: keys and rates.
        dropouts: Vec<(String, f64)>,
        /// Whether `config.json` says that bitsandbytes quantises.
        quantization: bool,
    },
    Gguf(Gguf),
}

/// More tokens than anybody adds to a model: what a file says of rows takes memory for logits.
pub const MOST_ADDED_ROWS: usize = 1 << 16;

impl ModelFiles {
    /// Opens a Hugging Face model folder or a `.gguf` file.
    ///
    /// # Errors
    /// Files that are missing, damaged or of an unsupported model.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        if path.is_dir() {
            ModelFiles::open_folder(path, |names| Shards::open(path, names))
        } else {
            ModelFiles::from_gguf(Gguf::open(path)?)
        }
    }

    /// As [`ModelFiles::open`], for who asks for no weights: a folder need not have any, and those it has are not looked at.
    ///
    /// # Errors
    /// As [`ModelFiles::open`].
    pub fn open_without_weights(path: &Path) -> Result<Self, FileError> {
        match path.is_dir() {
            true => ModelFiles::open_folder(path, |names| Ok(Shards::none(names))),
            false => ModelFiles::open(path),
        }
    }

    /// As [`ModelFiles::open`], for who asks for sizes only: of a `.gguf` file the header is enough. A weight that the
    /// file lacks is an error when it is asked for.
    ///
    /// # Errors
    /// As [`ModelFiles::open`].
    pub fn open_header(path: &Path) -> Result<Self, FileError> {
        if path.is_dir() {
            ModelFiles::open_folder(path, |names| Shards::open(path, names))
        } else {
            ModelFiles::from_gguf(Gguf::open_header(path)?)
        }
    }

    fn open_folder(
        dir: &Path,
        shards: impl FnOnce(&'static Names) -> Result<Shards, FileError>,
    ) -> Result<Self, FileError> {
        let config_path = inside(dir, "config.json")?;
        let text = read_text(&config_path, MAX_CONFIG_BYTES).map_err(|e| {
            FileError::new(&config_path, format!("cannot read the model's configuration: {e}"))
                .with_hint("a model folder has config.json, *.safetensors and tokenizer.json")
        })?;
        ModelFiles::of_folder(dir, &text, shards)
    }

    /// As [`ModelFiles::open`] of a folder with this `config.json` and this `model.safetensors`; errors call it `dir`.
    ///
    /// # Errors
    /// As [`ModelFiles::open`].
    pub fn from_safetensors(dir: &Path, config: &str, weights: SharedBytes) -> Result<Self, FileError> {
        ModelFiles::of_folder(dir, config, |names| Shards::single(dir, weights, names))
    }

    fn of_folder(
        dir: &Path,
        config_json: &str,
        shards: impl FnOnce(&'static Names) -> Result<Shards, FileError>,
    ) -> Result<Self, FileError> {
        let mut config =
            Config::from_hf_json(config_json).map_err(|e| config_error(&dir.join("config.json"), &e))?;
        let json: Option<serde_json::Value> = serde_json::from_str(config_json).ok();
        let name = json.as_ref().and_then(|j| j.get("_name_or_path")?.as_str().map(str::to_owned));
        let name = name.filter(|n| !n.is_empty());
        let shards = shards(config.names)?;
        // As transformers 5 has it: a head beside the embedding is tied only if it is the same.
        config.tie_word_embeddings &= !shards.has_own_head()?;
        let dropouts = json.as_ref().map(dropouts_of).unwrap_or_default();
        let quantization =
            json.as_ref().is_some_and(|j| j.get("quantization_config").is_some_and(|q| !q.is_null()));
        let source = Source::Folder { shards, name, dropouts, quantization };
        let path = dir.to_owned();
        let mut files = ModelFiles::with(path, config, source);
        unread::check(&files)?;
        files.score_as_stored(json.as_ref())?;
        Ok(files)
    }

    /// The model of a GGUF file that is open.
    ///
    /// # Errors
    /// Metadata of no supported model.
    pub fn from_gguf(gguf: Gguf) -> Result<Self, FileError> {
        let path = gguf.path().to_owned();
        let config = Config::from_gguf(&gguf).map_err(|e| config_error(&path, &e))?;
        let source = Source::Gguf(gguf);
        let files = ModelFiles::with(path, config, source);
        unread::check(&files)?;
        Ok(files)
    }

    fn with(path: PathBuf, config: Config, source: Source) -> Self {
        let stored_rows = config.vocab_size;
        ModelFiles {
            path,
            config,
            source,
            untied: false,
            stored_rows,
            unscored: None,
            score_seed: 0,
            label_names: None,
        }
    }

    /// Has embedding and head as two weights of the same values, where they are one: for who changes one of them.
    pub fn untie(&mut self) {
        self.untied = std::mem::take(&mut self.config.tie_word_embeddings);
    }

    /// Has embedding and head with `rows` rows, as transformers' `resize_token_embeddings`, unless there are as many already: rows
    /// behind those of the files are zeros, for who puts something in their place.
    ///
    /// # Errors
    /// More rows than [`MOST_ADDED_ROWS`] behind those of the files.
    pub fn add_rows(&mut self, rows: usize) -> Result<(), FileError> {
        let added = rows.saturating_sub(self.stored_rows);
        if added > MOST_ADDED_ROWS {
            let (stored, rows) = (self.stored_rows, rows.saturating_sub(1));
            let problem = format!(
                "token {rows} lies {added} rows behind the {stored} of the embedding, expected {MOST_ADDED_ROWS} at most"
            );
            return Err(self
                .error(problem)
                .with_hint("the adapter was made for a model with more tokens: give that one"));
        }
        self.config.vocab_size = self.config.vocab_size.max(rows);
        Ok(())
    }

    /// Rows that the files have of embedding and head.
    pub fn stored_rows(&self) -> usize {
        self.stored_rows
    }

    /// The rows that the files have of the weight `name`, which is to have `rows`.
    fn rows_in_files(&self, name: &str, rows: usize) -> usize {
        let path = name.strip_suffix(".weight");
        let is_table = path == Some(HEAD) || path == Some(self.config.names.embedding);
        if is_table && rows == self.config.vocab_size { self.stored_rows } else { rows }
    }

    /// The name by which the files have the weight `name`.
    fn name_in_files(&self, name: &str) -> String {
        match self.untied && name.strip_suffix(".weight") == Some(HEAD) {
            true => format!("{}.weight", self.config.names.embedding),
            false => name.to_owned(),
        }
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The folder or file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The GGUF file behind the model, which also holds its tokenizer.
    pub fn gguf(&self) -> Option<&Gguf> {
        match &self.source {
            Source::Gguf(gguf) => Some(gguf),
            Source::Folder { .. } => None,
        }
    }

    /// Whether bitsandbytes quantised the matrices of the folder, which cannot be quantised again.
    pub fn is_quantized(&self) -> bool {
        let first = self.config.modules()[0];
        let (name, (rows, cols)) = (format!("{}.weight", first.path(0)), module_shape(&self.config, first));
        match &self.source {
            Source::Folder { shards, .. } => {
                matches!(bitsandbytes::weight(shards, &name, rows, cols), Ok(Some(Ok(_))))
            }
            Source::Gguf(_) => false,
        }
    }

    /// How the model's projections are stored, the first that is quantised deciding.
    ///
    /// # Errors
    /// As [`ModelFiles::weight`].
    pub fn storage(&self) -> Result<BaseStorage, FileError> {
        let mut first = None;
        for layer in 0..self.config.num_hidden_layers {
            for module in self.config.modules() {
                let (rows, cols) = module_shape(&self.config, module);
                let name = format!("{}.weight", module.path(layer));
                if let Some(tensor) = self.transposed(&name, rows, cols)? {
                    first = first.or(SaveDtype::of(tensor.format));
                    continue;
                }
                let weight = self.weight(&name, rows, cols)?;
                let quantized = match (weight.format(), weight.four_bit()) {
                    (Some(format), _) => match SaveDtype::of(format) {
                        Some(dtype) => {
                            first = first.or(Some(dtype));
                            continue;
                        }
                        None => format!("{format}"),
                    },
                    (None, Some(data)) => format!("{} of bitsandbytes", data.code.name()),
                    (None, None) => "int8 of bitsandbytes".to_owned(),
                };
                return Ok(BaseStorage::Quantized(quantized));
            }
        }
        Ok(BaseStorage::Float(first.unwrap_or_default()))
    }

    /// How the vector `name` is stored.
    ///
    /// # Errors
    /// As [`ModelFiles::weight`].
    pub(crate) fn vector_format(&self, name: &str, len: usize) -> Result<Format, FileError> {
        Ok(self.tensor(name, &[len])?.format)
    }

    /// The keys of `config.json` by which transformers drops values in training, with their rates.
    fn dropouts(&self) -> impl Iterator<Item = &(String, f64)> {
        match &self.source {
            Source::Folder { dropouts, .. } => dropouts.iter(),
            Source::Gguf(_) => [].iter(),
        }
    }

    /// What of the folder was passed over although others act on it.
    pub fn notes(&self) -> Vec<String> {
        let Source::Folder { shards, quantization, .. } = &self.source else { return Vec::new() };
        let (mut notes, shown) = (Vec::new(), self.path.display());
        if shards.paths().next().is_none() {
            return notes;
        }
        // Some matrices may be left out of it, even the first.
        let is_quantized = |name: &str| name.ends_with(".absmax") || name.ends_with(".SCB");
        if *quantization && !shards.stored_names().iter().any(|(_, stored)| is_quantized(stored)) {
            notes.push(format!(
                "{shown}: `quantization_config` in config.json was passed over: the weights are plain, and computed as they \
                 are; transformers would quantise them, which is done here where it is asked for"
            ));
        }
        notes.extend(self.dropouts().map(|(key, rate)| {
            format!(
                "{shown}: `{key}` is {rate} in config.json and is passed over: the base computes alike in training and in use; \
                 transformers and PEFT drop values at random while they train"
            )
        }));
        if self.config.is_of_several() {
            let other = |name: &str| !name.starts_with(self.config.names.decoder) && !name.starts_with(HEAD);
            let others = shards.stored_names().iter().filter(|(name, _)| other(name)).count();
            notes.push(format!(
                "{shown}: the language model alone was read; the {others} tensors of the parts that read images or sounds were \
                 passed over"
            ));
        }
        if self.path.join(ADAPTER_CONFIG).is_file() {
            notes.push(format!(
                "{shown}: the adapter beside the weights ({ADAPTER_CONFIG}) is not part of the model here; give {shown} as the adapter, too, and \
                 it is put on top, as transformers does"
            ));
        }
        notes
    }

    /// The files that decide what the model computes: its configuration and weights.
    pub fn files(&self) -> Vec<PathBuf> {
        match &self.source {
            Source::Folder { shards, .. } => {
                std::iter::once(self.path.join("config.json")).chain(shards.paths()).collect()
            }
            Source::Gguf(gguf) => gguf.parts().to_vec(),
        }
    }

    /// What an adapter should call its base model.
    pub fn name(&self) -> String {
        let stated = match &self.source {
            Source::Folder { name, .. } => name.clone(),
            Source::Gguf(gguf) => gguf.text("general.name").map(str::to_owned),
        };
        let file = || self.path.file_stem().map(|n| n.to_string_lossy().into_owned());
        stated.or_else(file).unwrap_or_else(|| self.path.display().to_string())
    }

    /// Bytes of all tensors as stored.
    pub fn stored_bytes(&self) -> u64 {
        match &self.source {
            Source::Folder { shards, .. } => shards.stored_bytes(),
            Source::Gguf(gguf) => gguf.stored_bytes(),
        }
    }

    /// The matrix `name` (a checkpoint name such as `model.layers.0.self_attn.q_proj.weight`), `[rows, cols]`,
    /// with its rows in checkpoint order. One that its file has as `[cols, rows]` (GPT-2) is a copy in memory, of the size that it
    /// has in the file; the others are mapped.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn weight(&self, name: &str, rows: usize, cols: usize) -> Result<FrozenWeight, FileError> {
        if self.makes(name) {
            return Ok(self.made_score(rows));
        }
        let name = &self.name_in_files(name)[..];
        let stored = self.rows_in_files(name, rows);
        let weight = self.stored_weight(name, stored, cols)?;
        if stored == rows {
            return Ok(weight);
        }
        weight.with_rows_of_zeros(rows).ok_or_else(|| {
            self.error(format!("{name} is quantised by bitsandbytes, and no rows are added to it"))
                .with_hint(unquantised())
        })
    }

    /// As [`ModelFiles::weight`], of the rows that the files have.
    fn stored_weight(&self, name: &str, rows: usize, cols: usize) -> Result<FrozenWeight, FileError> {
        if let Source::Folder { shards, .. } = &self.source
            && let Some(quantized) = bitsandbytes::weight(shards, name, rows, cols)?
        {
            if is_transposed(&self.config, name) {
                let problem =
                    format!("{name} is quantised by bitsandbytes, which is not read of `Conv1D` layers");
                return Err(self.error(problem).with_hint(unquantised()));
            }
            return quantized.map_err(|problem| self.error(problem));
        }
        let (format, data) = match self.transposed(name, rows, cols)? {
            Some(tensor) => (tensor.format, upright(&tensor, rows, cols)),
            None => {
                let tensor = self.tensor(name, &[rows, cols])?;
                (tensor.format, tensor.data)
            }
        };
        let weight = FrozenWeight::new(rows, cols, format, data);
        let weight = weight.map_err(|e| self.error(format!("{name}: {e}")))?;
        Ok(weight.with_row_order(self.row_order(name)))
    }

    /// The matrix `name` as it lies in the file, if that is as `[cols, rows]`.
    fn transposed(&self, name: &str, rows: usize, cols: usize) -> Result<Option<StoredTensor>, FileError> {
        let in_folder = matches!(self.source, Source::Folder { .. });
        let transposed = in_folder && is_transposed(&self.config, name);
        transposed.then(|| self.tensor(name, &[cols, rows])).transpose()
    }

    /// Bytes of the matrix `name` as stored, whether or not they are there.
    ///
    /// # Errors
    /// As [`ModelFiles::weight`].
    pub(crate) fn matrix_bytes(&self, name: &str, rows: usize, cols: usize) -> Result<u64, FileError> {
        if self.makes(name) {
            return Ok(4 * rows as u64 * cols as u64);
        }
        match &self.source {
            Source::Folder { .. } => match self.transposed(name, rows, cols)? {
                Some(tensor) => Ok(tensor.data.len() as u64),
                None => Ok(self.weight(name, rows, cols)?.stored_bytes() as u64),
            },
            Source::Gguf(_) => {
                let rows = self.rows_in_files(name, rows);
                let format = self.tensor(name, &[rows, cols])?.format;
                Ok((rows * cols / format.block_len() * format.block_bytes()) as u64)
            }
        }
    }

    /// As [`ModelFiles::weight`], quantised if `base` says so.
    ///
    /// # Errors
    /// As [`ModelFiles::weight`], a matrix that the file has quantised by bitsandbytes already, and a value that is not
    /// finite.
    pub(crate) fn quantized_weight(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        base: &BaseQuantization,
    ) -> Result<FrozenWeight, FileError> {
        let stored = self.weight(name, rows, cols)?;
        let Some(quantization) = base.of(name) else { return Ok(stored) };
        if stored.four_bit().is_some() || stored.int8().is_some() {
            let problem = format!("{name} is quantised already, so it cannot be quantised to {quantization}");
            return Err(self.error(problem).with_hint(remedy![
                "leave ",
                Setting::Quant,
                " out: the file is used as it is"
            ]));
        }
        let quantized = stored.quantize(quantization).map_err(|e| {
            self.error(format!("{name}: {e}"))
                .with_hint("the weights are damaged, or of training that diverged: get the model again")
        });
        stored.release();
        quantized
    }

    /// The vector `name`, decoded.
    ///
    /// # Errors
    /// As [`ModelFiles::weight`].
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, FileError> {
        let tensor = self.tensor(name, &[len])?;
        let row = FrozenWeight::new(1, len, tensor.format, tensor.data);
        let stored = row.map_err(|e| self.error(format!("{name}: {e}")))?.to_vec();
        let order = self.row_order(name);
        let mut values: Vec<f32> = (0..len).map(|i| stored[order.stored_row(i)]).collect();
        let less = match &self.source {
            Source::Gguf(_) => stored_less(&self.config, name),
            Source::Folder { .. } => 0.0,
        };
        if less != 0.0 {
            values.iter_mut().for_each(|value| *value -= less);
        }
        Ok(values)
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<StoredTensor, FileError> {
        let (stored_name, tensor) = match &self.source {
            Source::Folder { shards, .. } => (name.to_owned(), shards.tensor(name)?),
            Source::Gguf(gguf) => {
                let stored_name = gguf_name(&self.config, name).unwrap_or_else(|| name.to_owned());
                let tensor = gguf.tensor(&stored_name).cloned();
                (stored_name, tensor)
            }
        };
        let tensor = tensor.ok_or_else(|| self.missing(&stored_name))?;
        if tensor.shape != shape {
            let problem = format!("{stored_name} is {:?}, the configuration says {shape:?}", tensor.shape);
            return Err(self
                .error(problem)
                .with_hint("config.json and the weights belong to different models"));
        }
        Ok(tensor)
    }

    /// The tensor `name` is not there: why, where names beside it tell.
    fn missing(&self, name: &str) -> FileError {
        let error = self.error(format!("the tensor {name} is missing"));
        match &self.source {
            Source::Folder { shards, .. } => match shards.why_missing(name) {
                Some((why, hint)) => {
                    self.error(format!("the tensor {name} is missing: {why}")).with_hint(hint)
                }
                None => error,
            },
            Source::Gguf(gguf) => match gguf.parts() {
                [_] => error.with_hint("the file is of another kind of model, or was converted in part only"),
                _ => error.with_hint("the parts belong to different files: take all of them from one place"),
            },
        }
    }

    fn error(&self, problem: String) -> FileError {
        FileError::new(&self.path, problem)
    }

    fn row_order(&self, name: &str) -> RowOrder {
        match &self.source {
            Source::Gguf(_) => gguf_row_order(&self.config, name),
            Source::Folder { .. } => RowOrder::Stored,
        }
    }
}

/// The order in which a GGUF file has the rows of the tensor `name` (a checkpoint name): of Llama-class models, queries and
/// keys have another.
pub(crate) fn gguf_row_order(config: &Config, name: &str) -> RowOrder {
    let rotated = name.contains(".q_proj.") || name.contains(".k_proj.");
    match rotated && config.arch.gguf_rotary_pairs() {
        true => RowOrder::RotaryPairs { head_dim: config.head_dim },
        false => RowOrder::Stored,
    }
}

/// The bytes of a matrix `[rows, cols]` which its file has as `[cols, rows]`.
fn upright(tensor: &StoredTensor, rows: usize, cols: usize) -> SharedBytes {
    let width = tensor.format.block_bytes();
    let stored = tensor.data.as_slice();
    let mut bytes = vec![0; stored.len()];
    bytes.par_chunks_exact_mut((cols * width).max(1)).enumerate().for_each(|(row, to)| {
        for (col, value) in to.chunks_exact_mut(width).enumerate() {
            value.copy_from_slice(&stored[(col * rows + row) * width..][..width]);
        }
    });
    tensor.data.release();
    SharedBytes::from_vec(bytes)
}

/// The keys of a `config.json` by which values are dropped in training, with their rates. Of a model of several parts those of
/// the language model count, which has a configuration of its own.
fn dropouts_of(json: &serde_json::Value) -> Vec<(String, f64)> {
    const KEYS: [&str; 6] = [
        "attention_dropout",
        "residual_dropout",
        "embedding_dropout",
        "attn_pdrop",
        "resid_pdrop",
        "embd_pdrop",
    ];
    let (within, keys) = match json.get("text_config").filter(|text| text.is_object()) {
        Some(text) => ("text_config.", text),
        None => ("", json),
    };
    let rate =
        |key: &&str| Some((format!("{within}{key}"), keys.get(*key)?.as_f64().filter(|rate| *rate > 0.0)?));
    KEYS.iter().filter_map(rate).collect()
}

/// A configuration's problem with the file it was found in.
fn config_error(path: &Path, error: &ConfigError) -> FileError {
    FileError::new(path, error.to_string()).with_hint_of(error.hint())
}
