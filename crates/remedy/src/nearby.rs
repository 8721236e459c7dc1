//! What may be meant by a path at which nothing is, or something else.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Paths that are named, at most.
const MOST: usize = 5;
/// Entries of a folder that are looked at, at most.
const MOST_ENTRIES: usize = 10_000;
/// Names that are at least so alike may be each other with a slip of the finger (Jaro-Winkler).
const ALIKE: f64 = 0.8;

/// What may be meant by `path`: entries for which `is_meant` in the folder that it names, else beside it, else in the folders
/// `usual`. Those whose names are like it come first, then the newest; there are five at most.
pub fn find(path: &Path, usual: &[&str], is_meant: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let beside = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let usual = usual.iter().map(Path::new);
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut folders = [path, beside].into_iter().chain(usual);
    folders
        .find_map(|folder| Some(entries(folder, &name, &is_meant)).filter(|found| !found.is_empty()))
        .unwrap_or_default()
}

/// The entries of a folder that may be meant by `name`, the likeliest first.
fn entries(folder: &Path, name: &str, is_meant: &impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().take(MOST_ENTRIES);
    let mut found: Vec<(f64, SystemTime, PathBuf)> = entries
        .map(|entry| entry.path())
        .filter(|path| is_meant(path))
        .map(|path| {
            let other = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            let likeness = strsim::jaro_winkler(name, &other);
            let changed = path.metadata().and_then(|found| found.modified());
            (if likeness < ALIKE { 0.0 } else { likeness }, changed.unwrap_or(SystemTime::UNIX_EPOCH), path)
        })
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(a.2.cmp(&b.2)));
    let path = |path: PathBuf| path.strip_prefix(".").map_or(path.clone(), Path::to_owned);
    found.into_iter().map(|(_, _, found)| path(found)).take(MOST).collect()
}

/// A hint that lists what was found, such as `runs nearby: runs/first, runs/second`; `None` if nothing was.
pub fn in_words(what: &str, found: &[PathBuf]) -> Option<String> {
    let names: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
    (!names.is_empty()).then(|| format!("{what} nearby: {}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant_is_found_in_it_beside_it_and_where_it_usually_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        for folder in ["runs/first", "runs/second", "runs/other", "empty"] {
            fs::create_dir_all(at.join(folder)).unwrap();
        }
        for run in ["first", "second"] {
            fs::write(at.join("runs").join(run).join("mark"), "").unwrap();
        }
        let is_run = |path: &Path| path.join("mark").is_file();
        let of = |path: &str| {
            let runs = at.join("runs");
            let mut found = find(&at.join(path), &[runs.to_str().unwrap()], is_run);
            found.sort();
            found
        };
        let both = ["first", "second"].map(|run| at.join("runs").join(run));
        for path in ["runs", "runs/none", "none", "empty", "empty/none", "none/none", "runs/other"] {
            assert_eq!(of(path), both, "{path}");
        }
        let alike = find(&at.join("runs/frist"), &[], is_run);
        assert_eq!(alike[0], both[0], "{alike:?}");
        let alike = find(&at.join("runs/secnod"), &[], is_run);
        assert_eq!(alike[0], both[1], "{alike:?}");
        assert_eq!(find(&at.join("runs/none"), &[], |_| false), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_few_are_named_and_none_are_no_hint() {
        let dir = tempfile::tempdir().unwrap();
        for file in 0..9 {
            fs::write(dir.path().join(format!("{file}.csv")), "").unwrap();
        }
        let found = find(&dir.path().join("x.csv"), &[], |_| true);
        assert_eq!(found.len(), MOST);
        let said = in_words("files", &[PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!(said.as_deref(), Some("files nearby: a, b"));
        assert_eq!(in_words("files", &[]), None);
    }
}
