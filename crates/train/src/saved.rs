//! The files in which the parameters of a run are saved: an adapter as PEFT has it, weights as a Hugging Face model
//! folder; and in checkpoints an adapter likewise, weights as the f32 values they are.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use lorafit_model::Parameters;
use lorafit_model::adapter::{self, Adapter};
use lorafit_model::weights::{TensorSource, write_tensors};
use serde_json::json;

use crate::card::{self, CARD};
use crate::run_error::{RunError, io_error, save_error};
use crate::run_info::{FolderFile, ModelFolder, RunInfo};
use crate::storage::{Disk, Storage, StorageFile, free_bytes};
use crate::unfinished::{Existing, Unfinished};

/// The weights in a checkpoint.
pub(crate) const TRAINED: &str = "weights.safetensors";
/// The folder of a run's model.
pub(crate) const MODEL: &str = "model";
/// Bytes of a shard, at most, but for a tensor that is larger by itself: 5 GB, as transformers cuts.
const SHARD_BYTES: u64 = 5_000_000_000;

impl ModelFolder {
    /// Bytes of the files.
    ///
    /// # Errors
    /// A file that is to be copied and is not there.
    fn bytes(&self) -> Result<u64, RunError> {
        let bytes = self.files.iter().map(|(_, file)| match file {
            FolderFile::Content(content) => Ok(content.len() as u64),
            FolderFile::Copy(path) => Ok(std::fs::metadata(path).map_err(io_error(path))?.len()),
        });
        bytes.sum()
    }

    /// The files as they are written.
    fn saved<'a>(&self) -> impl Iterator<Item = SavedFile<'a>> {
        self.files.iter().map(|(name, file)| SavedFile {
            name: name.clone(),
            content: match file {
                FolderFile::Content(bytes) => Content::Bytes(bytes.clone()),
                FolderFile::Copy(path) => Content::Copy(path.clone()),
            },
        })
    }
}

/// A file that is to be written.
pub(crate) struct SavedFile<'a> {
    pub name: String,
    content: Content<'a>,
}

enum Content<'a> {
    Tensors(Box<dyn Fn() -> Vec<TensorSource<'a>> + 'a>),
    Bytes(Vec<u8>),
    Copy(PathBuf),
}

impl SavedFile<'_> {
    fn bytes(name: &str, content: Vec<u8>) -> Self {
        SavedFile { name: name.to_owned(), content: Content::Bytes(content) }
    }

    /// Whether a folder has the file with this content already, so that it need not be written each time the best adapter is
    /// saved. Tensors never count as there.
    fn is_there(&self, dir: &Path) -> bool {
        let found = || std::fs::read(dir.join(&self.name));
        match &self.content {
            Content::Tensors(_) => false,
            Content::Bytes(bytes) => found().is_ok_and(|found| found == *bytes),
            Content::Copy(path) => {
                let bytes = |path: &Path| std::fs::metadata(path).map(|found| found.len()).ok();
                bytes(&dir.join(&self.name)) == bytes(path)
                    && found().ok().zip(std::fs::read(path).ok()).is_some_and(|(a, b)| a == b)
            }
        }
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

/// The tensors of a model, made anew each time they are asked for.
pub type Tensors<'a> = dyn Fn() -> Vec<TensorSource<'a>> + 'a;

/// The files of a model folder: shards of at most `shard_bytes`, an index where there are several, and `folder`'s.
fn of_tensors<'a>(tensors: &'a Tensors<'a>, folder: &'a ModelFolder, shard_bytes: u64) -> Vec<SavedFile<'a>> {
    let sources = tensors();
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
            let all = tensors().into_iter();
            all.filter(|source| names.contains(&source.name)).collect()
        };
        files.push(SavedFile { name: name(i), content: Content::Tensors(Box::new(tensors)) });
    }
    files.extend(folder.saved());
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
        Parameters::Adapter { adapter, .. } => {
            let tensors: u64 = adapter::sources(adapter).iter().map(TensorSource::bytes).sum();
            tensors + info.folder.bytes().unwrap_or(0)
        }
        Parameters::Weights(model) => info.folder.dtype.bytes() * model.config().parameters(),
    }
}

/// Saves what a run leaves: an adapter in the folder `dir`, file by file, and what goes beside it; a model in place of the
/// folder `model_dir`, which is as it was until the new one is whole.
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
            // The adapter first: without a tokenizer it is still what was trained.
            let files = of_adapter(adapter, &info.base_model).into_iter().chain(info.folder.saved());
            for file in files.filter(|file| !file.is_there(dir)) {
                let path = dir.join(&file.name);
                if let Some(folder) = path.parent().filter(|folder| *folder != dir) {
                    storage.create_dir_all(folder)?;
                }
                storage.replace_with(&path, &mut |out| file.write(out))?;
            }
            Ok(())
        }
        Parameters::Weights(model) => {
            let tensors = || model.sources(info.folder.dtype);
            save_folder(storage, model_dir, of_model(model_dir, &tensors, &info.folder, SHARD_BYTES))
        }
    }
}

/// Bytes that a model folder takes, about: its tensors and the files beside them.
///
/// # Errors
/// A file that is to be copied and is not there.
pub fn model_folder_bytes(tensors: &Tensors<'_>, folder: &ModelFolder) -> Result<u64, RunError> {
    let of_tensors: u64 = tensors().iter().map(TensorSource::bytes).sum();
    Ok(of_tensors + folder.bytes()?)
}

/// Writes a model folder. What stands at `dir` stays until the new folder is whole. `watch` gets the number of bytes that were
/// written since its last call; an error of it ends the writing.
///
/// # Errors
/// Too little space, told before anything is written; a file that cannot be written; what stands in the place and may not be
/// replaced; what `watch` gives.
pub fn write_model_folder<'a>(
    (dir, existing): (&Path, Existing),
    tensors: &'a Tensors<'a>,
    folder: &'a ModelFolder,
    shard_bytes: u64,
    watch: &mut Watch<'_>,
) -> Result<(), RunError> {
    let needed_bytes = model_folder_bytes(tensors, folder)?;
    write_folder((dir, existing), needed_bytes, of_model(dir, tensors, folder, shard_bytes), watch)
}

/// Writes an adapter's folder in place of `dir`, which is new or empty, as [`write_model_folder`] does: its tensors, called
/// `weights`, and `beside`.
///
/// # Errors
/// As [`write_model_folder`].
pub fn write_adapter_folder<'a>(
    dir: &Path,
    weights: &str,
    tensors: &'a Tensors<'a>,
    beside: &ModelFolder,
) -> Result<(), RunError> {
    let needed_bytes = model_folder_bytes(tensors, beside)?;
    let tensors = SavedFile { name: weights.to_owned(), content: Content::Tensors(Box::new(tensors)) };
    let files = std::iter::once(tensors).chain(beside.saved()).collect();
    write_folder((dir, Existing::Refuse), needed_bytes, files, &mut |_| Ok(()))
}

/// Writes files of `needed_bytes` bytes together into a folder that gets its name when it is whole.
fn write_folder(
    (dir, existing): (&Path, Existing),
    needed_bytes: u64,
    files: Vec<SavedFile<'_>>,
    watch: &mut Watch<'_>,
) -> Result<(), RunError> {
    check_space(dir, needed_bytes, free_bytes(dir))?;
    let write = || {
        let folder = Unfinished::folder(dir, existing)?;
        write_files(&Disk, folder.path(), files, watch)?;
        folder.finish()
    };
    write().map_err(|source| save_error(dir, source, needed_bytes))
}

/// Writes a file of about `needed_bytes` bytes, which gets its name when it is whole, so that what was there stays until then.
/// `watch` gets the number of bytes that were written since its last call; an error of it ends the writing.
///
/// # Errors
/// Too little space, told before anything is written; a file that cannot be written; what stands in the place and may not be
/// replaced; what `content` and `watch` give.
pub fn write_large_file(
    (path, existing): (&Path, Existing),
    needed_bytes: u64,
    content: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    watch: &mut Watch<'_>,
) -> Result<(), RunError> {
    check_space(path, needed_bytes, free_bytes(path))?;
    let storage: &dyn Storage = &Disk;
    let mut content = |out: &mut dyn Write| content(&mut Watched { out, watch: &mut *watch });
    let mut write = || {
        let file = Unfinished::file(path, existing)?;
        storage.write_much_with(file.path(), &mut content)?.sync()?;
        file.finish()
    };
    write().map_err(|source| save_error(path, source, needed_bytes))
}

/// A folder that is made step by step, by whoever asks for it, and gets its name when it is whole.
pub struct NewFolder {
    unfinished: Unfinished,
    to: PathBuf,
}

impl NewFolder {
    /// One that will be `to`, which is new or empty.
    ///
    /// # Errors
    /// A folder in which nothing can be written.
    pub fn new(to: &Path) -> Result<Self, RunError> {
        let unfinished =
            Unfinished::folder(to, Existing::Refuse).map_err(|source| save_error(to, source, 0))?;
        Ok(NewFolder { unfinished, to: to.to_owned() })
    }

    /// Where its files lie until then.
    pub fn path(&self) -> &Path {
        self.unfinished.path()
    }

    /// Writes a small file into it.
    ///
    /// # Errors
    /// One that cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), RunError> {
        let storage: &dyn Storage = &Disk;
        storage
            .write(&self.path().join(name), bytes)
            .map_err(|source| save_error(&self.to.join(name), source, bytes.len() as u64))
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// Something that was put into its place meanwhile; what the system says.
    pub fn finish(self) -> Result<(), RunError> {
        self.unfinished.finish().map_err(|source| save_error(&self.to, source, 0))
    }
}

fn check_space(dir: &Path, needed_bytes: u64, free_bytes: Option<u64>) -> Result<(), RunError> {
    match free_bytes {
        Some(free_bytes) if free_bytes < needed_bytes => {
            Err(RunError::NoSpaceForModel { dir: dir.to_owned(), needed_bytes, free_bytes })
        }
        _ => Ok(()),
    }
}

/// Is told how many bytes more were written.
pub type Watch<'a> = dyn FnMut(u64) -> io::Result<()> + 'a;

/// A file whose bytes are told.
struct Watched<'a, 'b> {
    out: &'a mut dyn Write,
    watch: &'a mut Watch<'b>,
}

impl Write for Watched<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        (self.watch)(written as u64)?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A name beside `dir`.
fn beside(dir: &Path, extension: &str) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.with_file_name(format!("{name}.{extension}"))
}

/// The files of the model in the folder `dir`.
fn of_model<'a>(
    dir: &Path,
    tensors: &'a Tensors<'a>,
    folder: &'a ModelFolder,
    shard_bytes: u64,
) -> Vec<SavedFile<'a>> {
    let mut files = of_tensors(tensors, folder, shard_bytes);
    let card = dir.join(CARD);
    // The user's; one of this program is written anew by who has something to say.
    if card::is_foreign(&card) && !files.iter().any(|file| file.name == CARD) {
        files.push(SavedFile { name: CARD.to_owned(), content: Content::Copy(card) });
    }
    files
}

/// Writes a folder of a run in place of `dir`, which is as it was until the new one is whole. The run is locked, so that names
/// beside it are its own.
fn save_folder(storage: &dyn Storage, dir: &Path, files: Vec<SavedFile<'_>>) -> io::Result<()> {
    let (partial, old) = (beside(dir, "partial"), beside(dir, "old.partial"));
    let remove = |dir: &Path| if dir.exists() { storage.remove_dir_all(dir) } else { Ok(()) };
    let write = || {
        remove(&partial)?;
        storage.create_dir_all(&partial)?;
        write_files(storage, &partial, files, &mut |_| Ok(()))?;
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

/// Writes files into a folder that is there, and syncs all.
fn write_files(
    storage: &dyn Storage,
    dir: &Path,
    files: Vec<SavedFile<'_>>,
    watch: &mut Watch<'_>,
) -> io::Result<()> {
    // The disk is busy with one file while the next is made.
    let mut written: Vec<Box<dyn StorageFile>> = Vec::new();
    for file in files {
        let path = dir.join(&file.name);
        if let Some(folder) = path.parent().filter(|folder| *folder != dir) {
            storage.create_dir_all(folder)?;
        }
        let mut content = |out: &mut dyn Write| file.write(&mut Watched { out, watch: &mut *watch });
        written.push(storage.write_much_with(&path, &mut content)?);
    }
    written.iter_mut().try_for_each(|file| file.sync())?;
    drop(written);
    storage.sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use lorafit_model::weights::{SaveDtype, TensorData};

    use super::*;

    fn tensors<'a>() -> Vec<TensorSource<'a>> {
        let tensor = |name: &str, len: usize| TensorSource {
            name: name.to_owned(),
            shape: vec![len],
            data: TensorData::f32(|range, out| range.zip(out).for_each(|(i, out)| *out = i as f32)),
        };
        vec![tensor("a", 10), tensor("b", 30), tensor("c", 5)]
    }

    fn folder() -> ModelFolder {
        let file = FolderFile::Content(b"{}".to_vec());
        ModelFolder { dtype: SaveDtype::F32, files: vec![("config.json".to_owned(), file)] }
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).expect("a folder").flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_model_is_cut_into_shards_with_an_index() {
        let place = tempfile::tempdir().expect("a folder");
        let dir = place.path().join("model.v1");
        let mut told = 0;
        let mut watch = |bytes| {
            told += bytes;
            Ok(())
        };
        write_model_folder((&dir, Existing::Refuse), &tensors, &folder(), 100, &mut watch).expect("written");
        let shard = |i: usize| format!("model-{i:05}-of-00003.safetensors");
        assert_eq!(
            names(&dir),
            [
                "config.json".to_owned(),
                shard(1),
                shard(2),
                shard(3),
                "model.safetensors.index.json".to_owned()
            ]
        );
        let index = std::fs::read(dir.join("model.safetensors.index.json")).expect("an index");
        let index: serde_json::Value = serde_json::from_slice(&index).expect("JSON");
        assert_eq!(index["metadata"]["total_size"], 180);
        assert_eq!(index["weight_map"], json!({"a": shard(1), "b": shard(2), "c": shard(3)}));
        let bytes: u64 = names(&dir).iter().map(|n| dir.join(n).metadata().expect("there").len()).sum();
        assert_eq!(told, bytes);
    }

    #[test]
    fn an_error_leaves_what_was_there_and_nothing_else() {
        let place = tempfile::tempdir().expect("a folder");
        let dir = place.path().join("model");
        let mut whole = |_| Ok(());
        write_model_folder((&dir, Existing::Refuse), &tensors, &folder(), 1 << 20, &mut whole)
            .expect("written");
        let before = std::fs::read(dir.join("model.safetensors")).expect("a model");
        for stop in [0, 150, 400] {
            let mut told = 0;
            let mut watch = |bytes| {
                told += bytes;
                if told > stop { Err(io::Error::other("enough")) } else { Ok(()) }
            };
            let error = write_model_folder((&dir, Existing::Replace), &tensors, &folder(), 100, &mut watch)
                .expect_err("stopped");
            assert!(error.to_string().contains("enough"), "{error}");
            assert_eq!(names(place.path()), ["model"]);
            assert!(std::fs::read(dir.join("model.safetensors")).expect("a model") == before);
        }
    }

    #[test]
    fn missing_space_is_told_with_both_numbers() {
        let dir = Path::new("out");
        let error = check_space(dir, 181, Some(180)).expect_err("too little").to_string();
        assert_eq!(error, "out: the model needs 181 B on disk, 180 B are free");
        assert!(check_space(dir, 181, Some(181)).is_ok() && check_space(dir, 181, None).is_ok());
        assert!(model_folder_bytes(&tensors, &folder()).expect("counted") == 182);
    }
}
