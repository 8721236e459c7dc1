//! Data sets on the hub: `--data org/name`, `org/name/folder` (a part of it), either with `@revision`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lorafit_data::source::{files, kind::Kind};
use lorafit_model::Hub;

use crate::terminal::error::CliError;

/// The folder with the files of a data set's split, downloaded as far as the cache of the hub lacks them; `None` where
/// `location` cannot be a data set's name: there is something of that name here, or it is a file's name or a glob.
pub fn fetch(location: &str, split: Option<&str>, quiet: bool) -> anyhow::Result<Option<PathBuf>> {
    let Some((repository, folder)) = repository(location) else { return Ok(None) };
    let choose = |names: Vec<String>| -> anyhow::Result<Vec<String>> {
        let paths = names.iter().map(PathBuf::from).filter(|path| path.starts_with(&folder)).collect();
        let chosen = files::choose(location, &folder, paths, split)?;
        one_folder(location, &folder, &chosen)?;
        Ok(chosen.iter().map(|path| path.to_string_lossy().into_owned()).collect())
    };
    let snapshot = Hub::from_env().fetch_data_set(&repository, choose, &mut |text| {
        if !quiet {
            tell!("{text}");
        }
    })?;
    Ok(Some(snapshot.join(folder)))
}

/// `org/name/folder@revision` as `org/name@revision` and the folder.
fn repository(location: &str) -> Option<(String, PathBuf)> {
    let (path, revision) = location.split_once('@').map_or((location, None), |(p, r)| (p, Some(r)));
    let mut parts = path.splitn(3, '/');
    let (org, name, folder) = (parts.next()?, parts.next()?, parts.next().unwrap_or_default());
    let is_name = |part: &str| {
        let valid = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        !part.is_empty() && !part.starts_with('.') && part.chars().all(valid)
    };
    let is_path = folder.is_empty() || folder.split('/').all(is_name);
    if !(is_name(org) && is_name(name) && is_path)
        || Path::new(org).exists()
        || !Kind::by_name(Path::new(path)).is_empty()
    {
        return None;
    }
    let revision = revision.map(|revision| format!("@{revision}")).unwrap_or_default();
    Some((format!("{org}/{name}{revision}"), folder.into()))
}

/// Folders of one split are different data, such as the languages of a translation.
fn one_folder(location: &str, folder: &Path, files: &[PathBuf]) -> Result<(), CliError> {
    let folders: BTreeSet<&Path> = files.iter().filter_map(|file| file.parent()).collect();
    if folders.len() < 2 {
        return Ok(());
    }
    let names: Vec<String> = folders
        .iter()
        .map(|path| path.strip_prefix(folder).unwrap_or(path).display().to_string())
        .take(12)
        .collect();
    let first = names.iter().find(|name| !name.is_empty()).map_or("", |name| name);
    Err(CliError::new(format!("{location} has rows in several folders: {}", names.join(", ")))
        .hint(format!("name the one that is meant: {location}/{first}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_data_sets_are_told_from_paths() {
        let found = |location| repository(location).map(|(r, f)| (r, f.display().to_string()));
        for (location, repository, folder) in [
            ("org/name", "org/name", ""),
            ("org/na.me@v1", "org/na.me@v1", ""),
            ("org/name/main@refs/convert/parquet", "org/name@refs/convert/parquet", "main"),
            ("org/name/a/b", "org/name", "a/b"),
        ] {
            assert_eq!(found(location), Some((repository.to_owned(), folder.to_owned())));
        }
        for path in ["name", "./a/b", "../a", "/a/b", "a/b.jsonl", "a/b/c.csv.gz", "a/*", "src/x", "a//b", ""]
        {
            assert_eq!(found(path), None, "{path}");
        }
    }

    #[test]
    fn rows_in_several_folders_are_not_mixed() {
        let files = ["main/train.parquet", "socratic/train.parquet"].map(PathBuf::from);
        let error = one_folder("org/name", Path::new(""), &files).unwrap_err();
        assert_eq!(error.to_string(), "org/name has rows in several folders: main, socratic");
        assert!(one_folder("org/name", Path::new(""), &files[..1]).is_ok());
    }
}
