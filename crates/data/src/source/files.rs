//! The files that a location names: itself, what a folder holds, or what a glob matches, always in the order of their
//! paths.
//!
//! Folders are gone through to the bottom; hidden files, descriptions of data sets, and files whose names are no
//! format's are passed over. Which split a file belongs to, its name says, as data sets of the hub have it: `train.jsonl`,
//! `data/test-00000-of-00002.parquet`, `validation/0.parquet`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Source;
use super::kind::Kind;
use crate::error::DataError;

/// The splits, each with the words that name it.
const SPLITS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "val", "dev"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];
/// Files beside the rows that describe them.
const DESCRIPTIONS: [&str; 4] =
    ["dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json"];

/// The files of each part of a source.
///
/// # Errors
/// As [`find`].
pub(crate) fn of(source: &Source) -> Result<Vec<Vec<PathBuf>>, DataError> {
    source.parts.iter().map(|part| find(&part.location, source.split.as_deref())).collect()
}

/// The files of a location.
///
/// # Errors
/// When there are none, or when it is left open which are meant: files of several formats in a folder, or of several
/// splits without one being named.
pub fn find(location: &str, split: Option<&str>) -> Result<Vec<PathBuf>, DataError> {
    let path = Path::new(location);
    let io = |path: &Path, source| DataError::Io { path: path.to_owned(), source };
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            let mut files = Vec::new();
            walk(path, &mut files).map_err(|(path, source)| io(&path, source))?;
            choose(location, path, files, split)
        }
        Ok(_) => Ok(vec![path.to_owned()]),
        Err(error) if error.kind() == io::ErrorKind::NotFound && location.contains(['*', '?', '[']) => {
            let bad = |e: glob::PatternError| DataError::BadGlob {
                pattern: location.to_owned(),
                message: e.msg.to_owned(),
            };
            let mut files = Vec::new();
            for entry in glob::glob(location).map_err(bad)? {
                let file =
                    entry.map_err(|e| DataError::Io { path: e.path().to_owned(), source: e.into() })?;
                if file.is_file() {
                    files.push(file);
                }
            }
            match (files.is_empty(), split) {
                (true, _) => Err(DataError::NoFiles { location: location.to_owned() }),
                (false, Some(_)) => of_split(location, Path::new(""), files, split),
                // Whoever writes a glob has chosen.
                (false, None) => Ok(files),
            }
        }
        Err(source) => Err(io(path, source)),
    }
}

/// Those of a folder's files that hold the rows of a split, in order. The folder need not be here: `files` may be the
/// listing of a data set on the hub.
///
/// # Errors
/// As [`find`].
pub fn choose(
    location: &str,
    folder: &Path,
    mut files: Vec<PathBuf>,
    split: Option<&str>,
) -> Result<Vec<PathBuf>, DataError> {
    let is_hidden = |part: &str| part.starts_with('.') || DESCRIPTIONS.contains(&part);
    let arrow = files.iter().find(|file| file.extension().is_some_and(|end| end == "arrow")).cloned();
    files.retain(|file| {
        let inside = file.strip_prefix(folder).unwrap_or(file);
        !Kind::by_name(file).is_empty() && !inside.iter().any(|part| is_hidden(&part.to_string_lossy()))
    });
    if let (true, Some(arrow)) = (files.is_empty(), arrow) {
        return Err(saved_to_disk(folder, &arrow));
    }
    files.sort();
    of_split(location, folder, files, split).and_then(|files| of_one_kind(location, files))
}

/// A folder of the `datasets` library's own files, of which `arrow` is one.
fn saved_to_disk(folder: &Path, arrow: &Path) -> DataError {
    // What is below the folder is a split.
    let split = arrow.parent().and_then(|parent| parent.strip_prefix(folder).ok());
    let split = split.and_then(|split| split.iter().next()).map(|split| split.to_string_lossy().into_owned());
    let what =
        "holds Arrow files of the datasets library (save_to_disk), which are not read; they are not damaged";
    // Only what was saved has a description of its state; the library's own cache has none.
    if folder.is_dir() && !arrow.with_file_name("state.json").exists() {
        let arrow = arrow.display();
        return DataError::Unread {
            path: folder.to_owned(),
            what: what.into(),
            hint: format!(
                "write them as Parquet: python -c \"from datasets import Dataset; \
                 Dataset.from_file('{arrow}').to_parquet('rows.parquet')\""
            ),
        };
    }
    let folder_name = folder.display();
    let (chosen, file) = match &split {
        Some(split) => (format!("['{split}']"), format!("{split}.parquet")),
        None => (String::new(), "rows.parquet".to_owned()),
    };
    DataError::Unread {
        path: folder.to_owned(),
        what: what.into(),
        hint: format!(
            "write them as Parquet: python -c \"from datasets import load_from_disk; \
             load_from_disk('{folder_name}'){chosen}.to_parquet('{file}')\""
        ),
    }
}

/// Collects the files below a folder. Links to folders are not followed: they can be circles.
fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), (PathBuf, io::Error)> {
    let in_folder = |source| (folder.to_owned(), source);
    for entry in fs::read_dir(folder).map_err(in_folder)? {
        let entry = entry.map_err(in_folder)?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type().map_err(in_folder)?.is_dir() {
            walk(&path, found)?;
        } else if path.is_file() {
            found.push(path);
        }
    }
    Ok(())
}

fn of_one_kind(location: &str, files: Vec<PathBuf>) -> Result<Vec<PathBuf>, DataError> {
    let Some(first) = files.first() else {
        return Err(DataError::NoFiles { location: location.to_owned() });
    };
    match files.iter().find(|file| Kind::by_name(file) != Kind::by_name(first)) {
        Some(other) => Err(DataError::SeveralKinds {
            location: location.to_owned(),
            first: first.clone(),
            other: other.clone(),
        }),
        None => Ok(files),
    }
}

/// The files of a split, or all when they are of one only.
fn of_split(
    location: &str,
    folder: &Path,
    files: Vec<PathBuf>,
    split: Option<&str>,
) -> Result<Vec<PathBuf>, DataError> {
    let names = |file: &Path| split_names(file.strip_prefix(folder).unwrap_or(file));
    let known: BTreeSet<&str> =
        files.iter().filter_map(|file| names(file).iter().find_map(|n| known_split(n))).collect();
    let known = || known.iter().map(|name| (*name).to_owned()).collect();
    let Some(split) = split else {
        let splits: Vec<String> = known();
        return match splits.len() {
            0 | 1 => Ok(files),
            _ => Err(DataError::SeveralSplits { location: location.to_owned(), splits }),
        };
    };
    // The name itself goes before names that mean the same.
    let exact = |file: &&PathBuf| names(file).iter().any(|name| name == split);
    let alike = |file: &&PathBuf| {
        known_split(split).is_some_and(|split| names(file).iter().find_map(|n| known_split(n)) == Some(split))
    };
    let mut found: Vec<PathBuf> = files.iter().filter(exact).cloned().collect();
    if found.is_empty() {
        found = files.iter().filter(alike).cloned().collect();
    }
    match found.is_empty() {
        true => Err(DataError::NoSuchSplit {
            location: location.to_owned(),
            split: split.to_owned(),
            splits: known(),
        }),
        false => Ok(found),
    }
}

/// What a path says about its split: the file's name without shard and extensions, then its folders from the inner.
fn split_names(path: &Path) -> Vec<String> {
    let mut parts = path.iter().rev().map(|part| part.to_string_lossy().to_lowercase());
    let file = parts.next().unwrap_or_default();
    let stem = file.split('.').next().unwrap_or_default();
    let is_shard = |c: char| c.is_ascii_digit() || "-_".contains(c);
    let stem = stem.trim_end_matches(is_shard);
    let stem = stem.strip_suffix("-of").unwrap_or(stem).trim_end_matches(is_shard);
    std::iter::once(stem.to_owned()).chain(parts).collect()
}

/// The split that one of the words of a name means.
fn known_split(name: &str) -> Option<&'static str> {
    let mut words = name.split(|c: char| !c.is_alphanumeric());
    words.find_map(|word| SPLITS.iter().find(|(_, aliases)| aliases.contains(&word)).map(|(split, _)| *split))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_name_tells_its_split() {
        let split = |path: &str| split_names(Path::new(path)).iter().find_map(|name| known_split(name));
        for (path, want) in [
            ("train.jsonl", Some("train")),
            ("data/train-00000-of-00002-abc.parquet", Some("train")),
            ("plain_text/test-00000-of-00001.parquet", Some("test")),
            ("validation/0000.parquet", Some("validation")),
            ("my_dev.csv.gz", Some("validation")),
            ("train_sft-00001-of-00003.parquet", Some("train")),
            ("a.jsonl", None),
            ("latest.jsonl", None),
        ] {
            assert_eq!(split(path), want, "{path}");
        }
        assert_eq!(split_names(Path::new("d/train_sft-00001-of-00003.parquet")), ["train_sft", "d"]);
    }
}
