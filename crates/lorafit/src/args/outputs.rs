//! Where a verb may write: what it reads stays as it is. Every verb with a path for output asks [`check`] before any work,
//! so that nothing is written over an input, into a model, or over a file of another kind, and no result is lost for a
//! folder that is missing.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Component, Path, PathBuf};

use lorafit_data::source::files;
use serde_json::{Map, Value};

use crate::terminal::error::CliError;

/// What a verb reads, each with the flag that names it. What is not on this machine is no input here.
#[derive(Default)]
pub struct Inputs {
    paths: Vec<(String, PathBuf)>,
    models: Vec<(String, PathBuf)>,
}

impl Inputs {
    /// A base model: of a folder everything in it is read.
    pub fn model(mut self, flag: &str, model: impl AsRef<Path>) -> Self {
        if let Ok(path) = model.as_ref().canonicalize() {
            let list = if path.is_dir() { &mut self.models } else { &mut self.paths };
            list.push((format!("{flag} {}", model.as_ref().display()), path));
        }
        self
    }

    /// Files and folders.
    pub fn paths<P: AsRef<Path>>(mut self, flag: &str, paths: impl IntoIterator<Item = P>) -> Self {
        for path in paths {
            if let Ok(whole) = path.as_ref().canonicalize() {
                self.paths.push((format!("{flag} {}", path.as_ref().display()).trim().to_owned(), whole));
            }
        }
        self
    }

    /// Rows, by the locations that a flag has: files, with or without a weight, folders and globs.
    pub fn data(self, flag: &str, data: &[String], split: Option<&str>) -> Self {
        let located = data.iter().flat_map(|text| {
            let location = match text.rsplit_once(':') {
                Some((location, weight)) if !Path::new(text).exists() && weight.parse::<f64>().is_ok() => {
                    location
                }
                _ => text,
            };
            // What cannot be found is told by whoever reads it.
            files::find(location, split).unwrap_or_default()
        });
        let located: Vec<PathBuf> = located.collect();
        self.paths(flag, located)
    }
}

/// What is to be written.
pub struct Output<'a> {
    /// The flag that names it.
    pub flag: &'a str,
    /// Where to.
    pub path: &'a Path,
    /// What stands there afterwards.
    pub kind: Kind,
}

impl<'a> Output<'a> {
    /// One that a flag asks for, if it does.
    pub fn asked(flag: &'a str, path: Option<&'a PathBuf>, kind: Kind) -> Option<Self> {
        path.map(|path| Output { flag, path, kind })
    }
}

/// Kinds of output.
#[derive(Clone, Copy)]
pub enum Kind {
    /// An HTML page.
    Page,
    /// A table whose first line begins so.
    Table(&'static str),
    /// One JSON object a line, with these keys.
    Rows(&'static [&'static str]),
    /// A figure, by the ending of its name.
    Figure,
    /// A GGUF file.
    Gguf,
    /// A folder to which files are added.
    Files,
    /// A folder to which man pages are added, beside those of other programs.
    Manual,
    /// The folder of a run, a sweep or a model, which has one of these files if it is there already.
    Folder(&'static [&'static str]),
}

/// Refuses outputs that would take something away, or cannot be written.
///
/// # Errors
/// The first such output, with what is in its way.
pub fn check<'a>(inputs: &Inputs, outputs: impl IntoIterator<Item = Output<'a>>) -> Result<(), CliError> {
    let mut earlier: Vec<(&str, PathBuf)> = Vec::new();
    for output in outputs {
        let Output { flag, path, kind } = output;
        let named = format!("{flag} {}", path.display());
        let whole = whole(path);
        if let Some((model, _)) = inputs.models.iter().find(|(_, model)| whole.starts_with(model)) {
            return Err(CliError::usage(format!(
                "{named} is in the folder of the model ({model}), which is only read"
            ))
            .hint("choose a place outside of it"));
        }
        if let Some((input, _)) = inputs.paths.iter().find(|(_, input)| whole == *input) {
            return Err(CliError::usage(format!("{named} would be written over what is read ({input})"))
                .hint(format!("choose another path for {flag}")));
        }
        if let Some((other, _)) = earlier.iter().find(|(_, other)| whole == *other) {
            return Err(CliError::usage(format!("{other} and {flag} are both {}", path.display()))
                .hint(format!("choose another path for {flag}")));
        }
        match kind {
            Kind::Files => check_folder(&named, path)?,
            Kind::Manual => {
                check_folder(&named, path)?;
                check_no_model(&named, path)?;
            }
            Kind::Folder(marks) => {
                check_folder(&named, path)?;
                check_replaced(&named, &whole, inputs)?;
                check_foreign(&named, path, marks)?;
                check_kind(&named, path, marks)?;
            }
            Kind::Page | Kind::Table(_) | Kind::Rows(_) | Kind::Figure | Kind::Gguf => {
                check_file(flag, path, kind)?
            }
        }
        earlier.push((flag, whole));
    }
    Ok(())
}

/// A path without links, `.` and `..`, as far as it is there.
fn whole(path: &Path) -> PathBuf {
    if let Ok(found) = path.canonicalize() {
        return found;
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => whole(parent),
        _ => Path::new(".").canonicalize().unwrap_or_default(),
    };
    match path.components().next_back() {
        Some(Component::Normal(name)) => parent.join(name),
        Some(Component::ParentDir) => parent.parent().map_or_else(|| parent.clone(), Path::to_owned),
        Some(Component::CurDir | Component::RootDir | Component::Prefix(_)) | None => parent,
    }
}

/// A file that can be written, over nothing but an earlier one of its kind.
fn check_file(flag: &str, path: &Path, kind: Kind) -> Result<(), CliError> {
    let shown = path.display();
    let cannot = |why: String| CliError::new(format!("cannot write {shown}: {why}"));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let found = match path.metadata() {
        Ok(found) if found.is_dir() => {
            return Err(cannot("it is a folder".to_owned()).hint(format!("give a file for {flag}")));
        }
        // A pipe or a device, which a large file would replace.
        Ok(found) if !found.is_file() => {
            return match kind {
                Kind::Gguf => {
                    Err(cannot("it is a pipe or a device".to_owned()).hint(format!("give a file for {flag}")))
                }
                _ => Ok(()),
            };
        }
        Ok(found) => Some(found),
        Err(_) => None,
    };
    if !folder.is_dir() {
        let (what, hint) = match folder.exists() {
            true => (format!("{} is not a folder", folder.display()), "choose another path".to_owned()),
            false => (
                format!("there is no folder {}", folder.display()),
                format!("make it: mkdir -p {}", folder.display()),
            ),
        };
        return Err(cannot(what).hint(hint));
    }
    if found.as_ref().is_some_and(|found| found.permissions().readonly()) {
        return Err(
            cannot("the file there is read-only".to_owned()).hint(format!("choose another path for {flag}"))
        );
    }
    // As it is written later, beside its place.
    if let Err(error) = tempfile::tempfile_in(folder) {
        return Err(cannot(format!("nothing can be written to {} ({})", folder.display(), error.kind()))
            .hint(format!("choose another path for {flag}")));
    }
    match found {
        Some(_) if !is_own(path, kind) => {
            Err(CliError::usage(format!("{flag} {shown} is there already and is not {}", in_words(kind)))
                .hint(format!("choose another path for {flag}, or remove the file first")))
        }
        _ => Ok(()),
    }
}

fn in_words(kind: Kind) -> &'static str {
    match kind {
        Kind::Page => "an HTML page",
        Kind::Table(_) => "an earlier table of this kind",
        Kind::Rows(_) => "an earlier result of this kind",
        Kind::Figure => "a figure of this kind",
        Kind::Gguf => "a GGUF file",
        Kind::Files | Kind::Manual | Kind::Folder(_) => "such a folder",
    }
}

/// Whether what stands in a file is what would be written to it, or nothing.
fn is_own(path: &Path, kind: Kind) -> bool {
    const HEAD: u64 = 1024;
    let Ok(file) = File::open(path) else { return false };
    let mut file = BufReader::new(file);
    if let Kind::Rows(keys) = kind {
        let mut line = String::new();
        let row = file
            .read_line(&mut line)
            .ok()
            .and_then(|_| serde_json::from_str::<Map<String, Value>>(&line).ok());
        return line.is_empty() || row.is_some_and(|row| keys.iter().all(|key| row.contains_key(*key)));
    }
    let mut head = Vec::new();
    if file.take(HEAD).read_to_end(&mut head).is_err() {
        return false;
    }
    let text = String::from_utf8_lossy(&head);
    let text = text.trim_start_matches('\u{feff}').trim_start().to_lowercase();
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default();
    head.is_empty()
        || match kind {
            Kind::Page => text.starts_with("<!doctype html") || text.starts_with("<html"),
            Kind::Table(first) => text.starts_with(first),
            Kind::Figure => match ending.as_str() {
                "svg" => text.starts_with("<svg") || text.starts_with("<?xml"),
                "png" => head.starts_with(b"\x89PNG"),
                "pdf" => head.starts_with(b"%PDF"),
                _ => true,
            },
            Kind::Gguf => head.starts_with(b"GGUF"),
            Kind::Rows(_) | Kind::Files | Kind::Manual | Kind::Folder(_) => false,
        }
}

fn check_folder(named: &str, path: &Path) -> Result<(), CliError> {
    match path.ancestors().find(|path| path.exists()) {
        Some(found) if !found.is_dir() => {
            let text = format!("{named} cannot be a folder: {} is a file", found.display());
            Err(CliError::usage(text).hint("choose another path"))
        }
        _ => Ok(()),
    }
}

/// Refuses a folder that holds a model or an adapter, to which other files do not belong.
fn check_no_model(named: &str, path: &Path) -> Result<(), CliError> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let of_model = |name: &String| {
        ["config.json", "adapter_config.json"].contains(&name.as_str())
            || [".safetensors", ".gguf"].iter().any(|ending| name.ends_with(ending))
    };
    match names.find(of_model) {
        Some(name) => Err(CliError::usage(format!("{named} holds a model or an adapter (it has {name})"))
            .hint("choose another folder")),
        None => Ok(()),
    }
}

/// Refuses what is read from the parts of a run's folder that the new run replaces.
fn check_replaced(named: &str, folder: &Path, inputs: &Inputs) -> Result<(), CliError> {
    const PARTS: [&str; 4] = ["model", "best", "checkpoints", "trials"];
    let is_replaced = |input: &Path| PARTS.iter().any(|part| input.starts_with(folder.join(part)));
    match inputs.models.iter().chain(&inputs.paths).find(|(_, input)| is_replaced(input)) {
        Some((input, _)) => Err(CliError::usage(format!("{named} would replace what is read ({input})"))
            .hint("choose another folder")),
        None => Ok(()),
    }
}

/// Refuses a folder with files that are not what would be written there. What a shell writes beside a run, a log, may be
/// there first.
fn check_foreign(named: &str, path: &Path, marks: &[&str]) -> Result<(), CliError> {
    if marks.iter().any(|mark| path.join(mark).exists()) {
        return Ok(());
    }
    let is_log = |name: &str| {
        let endings = [".log", ".out", ".err", ".txt"];
        name.starts_with('.') || endings.iter().any(|ending| name.ends_with(ending))
    };
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    match names.filter(|name| !is_log(name)).min() {
        Some(name) => Err(CliError::usage(format!("{named} is a folder with other files (it has {name})"))
            .hint("choose a folder that is new or empty")),
        None => Ok(()),
    }
}

/// Refuses a sweep in the folder of a run, and a run in that of a sweep, which have files of the same names.
fn check_kind(named: &str, path: &Path, marks: &[&str]) -> Result<(), CliError> {
    const KINDS: [(&str, &str); 2] = [("sweep.json", "a sweep"), ("run.json", "a run")];
    let other = KINDS.iter().find(|(mark, _)| !marks.contains(mark) && path.join(mark).exists());
    match other {
        Some((_, kind)) => {
            Err(CliError::usage(format!("{named} is the folder of {kind}")).hint("choose another folder"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_sweeps_have_folders_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let check = |mark: &str, marks: &[&str]| {
            let folder = dir.path().join(mark);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(mark), "{}").unwrap();
            check_kind("--out x", &folder, marks).is_ok()
        };
        assert!(check("sweep.json", &["sweep.json", "lock"]) && check("run.json", &["run.json", "lock"]));
        assert!(!check("sweep.json", &["run.json", "lock"]) && !check("run.json", &["sweep.json", "lock"]));
    }

    #[test]
    fn a_path_is_one_however_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().canonicalize().unwrap();
        fs::create_dir(at.join("a")).unwrap();
        for text in ["a/b", "a/../a/b", "./a/./b", "a/new/../b"] {
            assert_eq!(whole(&at.join(text)), at.join("a/b"), "{text}");
        }
    }

    #[test]
    fn only_what_is_of_the_same_kind_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file.jsonl");
        let pages = |text: &str| {
            fs::write(&file, text).unwrap();
            [Kind::Page, Kind::Table("path,"), Kind::Rows(&["prompt", "exact"])]
                .map(|kind| is_own(&file, kind))
        };
        assert_eq!(pages(""), [true, true, true]);
        assert_eq!(pages("\u{feff}\n<!DOCTYPE html>"), [true, false, false]);
        assert_eq!(pages("path,layer\n"), [false, true, false]);
        assert_eq!(pages("{\"prompt\": 1, \"exact\": true}\n{"), [false, false, true]);
        assert_eq!(pages("{\"prompt\": 1}\n"), [false, false, false]);
    }
}
