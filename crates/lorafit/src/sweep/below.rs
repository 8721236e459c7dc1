//! Runs and sweeps below a folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::folder::is_sweep;

/// Folders below the one that is given in which runs are looked for.
const DEPTH: usize = 4;

/// A run or a sweep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its folder.
    pub dir: PathBuf,
    /// Whether it is a sweep.
    pub is_sweep: bool,
    /// When its records were changed last.
    pub changed: SystemTime,
}

/// Runs and sweeps in `dir` and below it, the newest first. The inside of a run or a sweep is not searched.
pub fn below(dir: &Path) -> Vec<Found> {
    let mut found = Vec::new();
    find(dir, DEPTH, &mut found);
    found.sort_by_key(|one| std::cmp::Reverse(one.changed));
    found
}

/// As [`below`], with the trials of sweeps in their place.
pub fn runs_below(dir: &Path) -> Vec<Found> {
    let (sweeps, mut runs): (Vec<Found>, Vec<Found>) = below(dir).into_iter().partition(|one| one.is_sweep);
    sweeps.iter().for_each(|sweep| find(&sweep.dir.join("trials"), 1, &mut runs));
    runs.sort_by_key(|one| std::cmp::Reverse(one.changed));
    runs
}

fn find(dir: &Path, depth: usize, found: &mut Vec<Found>) {
    let changed = |file: &str| fs::metadata(dir.join(file)).and_then(|file| file.modified());
    if is_sweep(dir) {
        let changed = changed("trials.jsonl").or_else(|_| changed("sweep.json"));
        let changed = changed.unwrap_or(SystemTime::UNIX_EPOCH);
        return found.push(Found { dir: dir.to_owned(), is_sweep: true, changed });
    }
    // A run that lost its records is one, too.
    let lost = |error| if dir.join("config.toml").is_file() { changed("run.json") } else { Err(error) };
    if let Ok(changed) = changed("metrics.jsonl").or_else(lost) {
        return found.push(Found { dir: dir.to_owned(), is_sweep: false, changed });
    }
    if depth > 0 {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        // A link may lead back to a folder above, or elsewhere.
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.for_each(|folder| find(&folder.path(), depth - 1, found));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_below_a_folder_and_nowhere_else() {
        let place = tempfile::tempdir().unwrap();
        let write = |file: &str| {
            let path = place.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "{}").unwrap();
        };
        for file in [
            "runs/one/metrics.jsonl",
            "runs/one/checkpoints/step-1/metrics.jsonl",
            "runs/a/b/c/deep/metrics.jsonl",
            "runs/a/b/c/d/deeper/metrics.jsonl",
            "runs/lost/config.toml",
            "runs/lost/run.json",
            "runs/no_run/config.toml",
            "runs/sweep/sweep.json",
            "runs/sweep/trials/0001/metrics.jsonl",
            "elsewhere/metrics.jsonl",
        ] {
            write(file);
        }
        #[cfg(unix)]
        {
            let link = |from: &str, to: &str| {
                std::os::unix::fs::symlink(place.path().join(from), place.path().join(to)).unwrap();
            };
            link("elsewhere", "runs/link");
            link("elsewhere", "runs/sweep/trials/0002");
            link("runs", "runs/circle");
        }
        let root = place.path().join("runs");
        let names = |found: Vec<Found>| {
            let name = |one: Found| one.dir.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            let mut names: Vec<String> = found.into_iter().map(name).collect();
            names.sort();
            names
        };
        assert_eq!(names(below(&root)), ["a/b/c/deep", "lost", "one", "sweep"]);
        assert_eq!(names(runs_below(&root)), ["a/b/c/deep", "lost", "one", "sweep/trials/0001"]);
        assert!(below(&place.path().join("none")).is_empty());
    }
}
