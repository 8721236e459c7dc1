//! The files in which the parameters of a run are saved: an adapter as PEFT has it, weights as a Hugging Face model
//! folder; and in checkpoints an adapter likewise, weights as the f32 values they are.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use lorafit_model::adapter::{self, Adapter};
use lorafit_model::weights::{SaveDtype, TensorSource, write_tensors};
use lorafit_model::{Model, Parameters};
use serde_json::json;

use crate::run::RunInfo;
use crate::storage::Storage;

/// The weights in a checkpoint.
pub(crate) const TRAINED: &str = "weights.safetensors";
/// The folder of a run's model.
pub(crate) const MODEL: &str = "model";
/// Bytes of a shard, at most, but for a tensor that is larger by itself: 5 GB, as transformers cuts.
const SHARD_BYTES: u64 = 5_000_000_000;

/// What goes beside the weights of a model that is saved.
#[derive(Clone, Debug, Default)]
pub struct ModelFolder {
    /// How its weights are stored.
    pub dtype: SaveDtype,
    /// Its configuration, tokenizer and template, by file name.
    pub files: Vec<(String, FolderFile)>,
}

/// A file beside weights.
#[derive(Clone, Debug)]
pub enum FolderFile {
    /// With this content.
    Content(Vec<u8>),
    /// As that of another folder.
    Copy(PathBuf),
}

/// A file that is to be written.
pub(crate) struct SavedFile<'a> {
    pub name: String,
    content: Content<'a>,
}

enum Content<'a> {
    Tensors(Box<dyn Fn() -> Vec<TensorSource<'a>> + 'a>),
    Bytes(Vec<u8>),
    Copy(&'a Path),
}

impl SavedFile<'_> {
    fn bytes(name: &str, content: Vec<u8>) -> Self {
        SavedFile { name: name.to_owned(), content: Content::Bytes(content) }
    }

    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.content {
            Content::Tensors(sources) => write_tensors(out, sources()),
            Content::Bytes(bytes) => out.write_all(bytes),
            Content::Copy(path) => io::copy(&mut std::fs::File::open(path)?, out).map(drop),
        }
    }
}

/// The files of an adapter, the configuration last: with it the adapter is whole.
fn of_adapter<'a>(adapter: &'a Adapter, base_model: &str) -> Vec<SavedFile<'a>> {
    let tensors = Content::Tensors(Box::new(|| adapter::sources(adapter)));
    vec![
        SavedFile { name: adapter::WEIGHTS_FILE.to_owned(), content: tensors },
        SavedFile::bytes(adapter::CONFIG_FILE, adapter::config_file(adapter, base_model)),
    ]
}

/// The files of a model folder: shards of at most `shard_bytes`, an index where there are several, and `folder`'s.
fn of_model<'a>(model: &'a Model, folder: &'a ModelFolder, shard_bytes: u64) -> Vec<SavedFile<'a>> {
    let sources = model.sources(folder.dtype);
    let mut shards: Vec<Vec<&str>> = vec![Vec::new()];
    let mut held = 0;
    for source in &sources {
        if held > 0 && held + source.bytes() > shard_bytes {
            shards.push(Vec::new());
            held = 0;
        }
        held += source.bytes();
        shards.last_mut().expect("never empty").push(&source.name);
    }
    let count = shards.len();
    let name = |i: usize| match count {
        1 => "model.safetensors".to_owned(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
    };
    let mut files = Vec::new();
    if count > 1 {
        let map: BTreeMap<&str, String> = shards
            .iter()
            .enumerate()
            .flat_map(|(i, names)| names.iter().map(move |n| (*n, name(i))))
            .collect();
        let total: u64 = sources.iter().map(TensorSource::bytes).sum();
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        let index = serde_json::to_vec_pretty(&index).expect("plain values");
        files.push(SavedFile::bytes("model.safetensors.index.json", index));
    }
    for (i, names) in shards.into_iter().enumerate() {
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let tensors = move || {
            let all = model.sources(folder.dtype).into_iter();
            all.filter(|source| names.contains(&source.name)).collect()
        };
        files.push(SavedFile { name: name(i), content: Content::Tensors(Box::new(tensors)) });
    }
    files.extend(folder.files.iter().map(|(name, file)| SavedFile {
        name: name.clone(),
        content: match file {
            FolderFile::Content(bytes) => Content::Bytes(bytes.clone()),
            FolderFile::Copy(path) => Content::Copy(path),
        },
    }));
    files
}

/// The files of `parameters` in a checkpoint, in the order of [`names`].
pub(crate) fn in_checkpoint<'a>(parameters: &'a Parameters<'_>, info: &RunInfo) -> Vec<SavedFile<'a>> {
    match parameters {
        Parameters::Adapter { adapter, .. } => of_adapter(adapter, &info.base_model),
        Parameters::Weights(model) => {
            let tensors = Content::Tensors(Box::new(|| model.trained_sources()));
            vec![SavedFile { name: TRAINED.to_owned(), content: tensors }]
        }
    }
}

/// The names of the files of parameters in the checkpoint `dir`.
pub(crate) fn names(dir: &Path) -> &'static [&'static str] {
    match dir.join(TRAINED).exists() {
        true => &[TRAINED],
        false => &[adapter::WEIGHTS_FILE, adapter::CONFIG_FILE],
    }
}

/// Bytes of what a run leaves, about.
pub(crate) fn result_bytes(parameters: &Parameters<'_>, info: &RunInfo) -> u64 {
    match parameters {
        Parameters::Adapter { .. } => 4 * parameters.count(),
        Parameters::Weights(model) => info.folder.dtype.bytes() * model.config().parameters(),
    }
}

/// Saves what a run leaves: an adapter in the folder `dir`, file by file; a model in place of the folder `model_dir`,
/// which is as it was until the new one is whole.
pub(crate) fn save_result(
    storage: &dyn Storage,
    dir: &Path,
    model_dir: &Path,
    parameters: &Parameters<'_>,
    info: &RunInfo,
) -> io::Result<()> {
    match parameters {
        Parameters::Adapter { adapter, .. } => {
            storage.create_dir_all(dir)?;
            let mut files = of_adapter(adapter, &info.base_model).into_iter();
            files.try_for_each(|file| storage.replace_with(&dir.join(&file.name), &mut |out| file.write(out)))
        }
        Parameters::Weights(model) => save_model(storage, model_dir, model, &info.folder, SHARD_BYTES),
    }
}

fn save_model(
    storage: &dyn Storage,
    dir: &Path,
    model: &Model,
    folder: &ModelFolder,
    shard_bytes: u64,
) -> io::Result<()> {
    let (partial, old) = (dir.with_extension("partial"), dir.with_extension("old.partial"));
    let remove = |dir: &Path| if dir.exists() { storage.remove_dir_all(dir) } else { Ok(()) };
    let write = || {
        remove(&partial)?;
        storage.create_dir_all(&partial)?;
        for file in of_model(model, folder, shard_bytes) {
            let path = partial.join(&file.name);
            if let Some(folder) = path.parent().filter(|folder| *folder != partial) {
                storage.create_dir_all(folder)?;
            }
            storage.write_with(&path, &mut |out| file.write(out))?;
        }
        storage.sync_dir(&partial)?;
        if dir.exists() {
            remove(&old)?;
            storage.rename(dir, &old)?;
        }
        storage.rename(&partial, dir)?;
        storage.sync_dir(dir.parent().unwrap_or(Path::new(".")))
    };
    let written = write();
    // That it fails is told; what is left over is removed, as is what was replaced.
    let _ = remove(&partial).and_then(|()| if dir.exists() { remove(&old) } else { Ok(()) });
    written
}
