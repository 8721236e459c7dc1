//! Where the adapter of a run is.

use std::path::{Path, PathBuf};

use lorafit_train::{Outcome, RunFolder, RunState, RunStatus, adapter_of_run};

use crate::terminal::error::CliError;
use crate::terminal::shell::shell_word;

/// Where an adapter is, and what is to be told of that.
pub struct Found {
    /// The folder with the adapter.
    pub dir: PathBuf,
    /// Which adapter is used and why, where the run has no final one.
    pub note: Option<String>,
}

/// As [`found_adapter`], but prints the note and gives the folder alone.
///
/// # Errors
/// As [`found_adapter`].
pub fn adapter_folder(dir: &Path, quiet: bool) -> Result<PathBuf, CliError> {
    let Found { dir, note } = found_adapter(dir)?;
    if let Some(note) = note.filter(|_| !quiet) {
        tell!("{note}");
    }
    Ok(dir)
}

/// The folder of the adapter that `dir` names. For a run without a final adapter it is the newest checkpoint or the best so far.
///
/// # Errors
/// A run that has saved none yet.
pub fn found_adapter(dir: &Path) -> Result<Found, CliError> {
    let is_run = dir.join("config.toml").is_file() && !dir.join("adapter_config.json").exists();
    if !is_run {
        return Ok(Found { dir: dir.to_owned(), note: None });
    }
    let shown = dir.display();
    let status = RunStatus::read(dir).ok();
    let why = status.as_ref().map_or("has no records that can be read".to_owned(), why_unsaved);
    let Some(found) = adapter_of_run(dir) else {
        return Err(CliError::new(format!("{shown} {why}, and no adapter of it is saved"))
            .hint(format!("lorafit status {} shows how far it came", shell_word(&shown.to_string()))));
    };
    let used = status.as_ref().map_or("an adapter".to_owned(), |status| which(status, dir, &found));
    let better = status.as_ref().and_then(|status| better(status, dir, &found)).unwrap_or_default();
    let note = format!("{shown} {why}: {used} is used, that of {}{better}", found.display());
    Ok(Found { dir: found, note: Some(note) })
}

/// Why a run has no adapter of its end, and how far it came.
fn why_unsaved(status: &RunStatus) -> String {
    let step = status.step;
    let came_to = status.total_steps.map_or(step.to_string(), |total| format!("{step} of {total}"));
    match status.state() {
        RunState::Running => format!("is still running, after step {came_to}"),
        _ if has_diverged(status) => format!("diverged, and ended after step {came_to}"),
        RunState::Finished => format!("ended after step {came_to}, but the adapter is not in its folder"),
        RunState::Stopped if status.total_steps.is_none() => {
            format!("has no record of its end, and came to step {came_to}")
        }
        RunState::Stopped => format!("was stopped after step {came_to}"),
    }
}

fn has_diverged(status: &RunStatus) -> bool {
    status.verdict.as_ref().is_some_and(|verdict| verdict.outcome == Outcome::Diverged)
}

/// What the adapter in `found` is.
fn which(status: &RunStatus, dir: &Path, found: &Path) -> String {
    let of_checkpoint = status.checkpoint.as_ref().filter(|checkpoint| checkpoint.path == found);
    match of_checkpoint {
        Some(checkpoint) => format!("the adapter after step {}", checkpoint.step),
        None => match status.best.as_ref().filter(|_| found == RunFolder::best_dir(dir)) {
            Some(best) => format!("its best adapter (after step {})", best.step),
            None => "an adapter".to_owned(),
        },
    }
}

/// Where the best adapter of a run that diverged is, if another is used.
fn better(status: &RunStatus, dir: &Path, found: &Path) -> Option<String> {
    let best = status.best.as_ref().filter(|_| has_diverged(status))?;
    let folder = RunFolder::best_dir(dir);
    let is_later = status.checkpoint.as_ref().is_none_or(|checkpoint| checkpoint.step != best.step);
    let is_other = is_later && folder != found && folder.join("adapter_config.json").is_file();
    is_other.then(|| format!("; its best, after step {}, is in {}", best.step, folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use serde_json::json;

    /// A run of four steps that took `steps` of them, with adapters in `folders`; it has none of its own.
    fn run(steps: u64, folders: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| fs::write(dir.path().join(name), text).unwrap();
        write("config.toml", "model = \"m\"\ndata = \"rows.jsonl\"\n".to_owned());
        write("run.json", json!({"total_steps": 4}).to_string());
        let step = |step: u64| {
            let record = json!({"step": step, "loss": 2.5, "grad_norm": 1.0, "learning_rate": 0.001, "tokens": 10,
                "computed_tokens": 9, "supervised_tokens": 5, "seconds": 0.5, "tokens_per_s": 20.0, "peak_rss_bytes": 1});
            format!("{record}\n")
        };
        write("metrics.jsonl", (1..=steps).map(step).collect());
        write(
            "evaluations.jsonl",
            format!("{}\n", json!({"step": 1, "loss": 1.0, "best": true, "seconds": 0.1})),
        );
        for folder in folders {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
            fs::write(dir.path().join(folder).join("adapter_config.json"), "{}").unwrap();
        }
        dir
    }

    const SECOND: &str = "checkpoints/step-00000002";
    const FOURTH: &str = "checkpoints/step-00000004";

    #[test]
    fn a_run_without_an_adapter_of_its_end_says_which_is_used_and_why() {
        let diverged = |dir: &Path| {
            let verdict = json!({"outcome": "diverged", "from": 3.0, "to": 9.0, "of": "held-out", "few_rows": false, "skipped": 0});
            fs::write(dir.join("verdict.json"), verdict.to_string()).unwrap();
        };
        let nothing = |_: &Path| {};
        let lost = |dir: &Path| fs::remove_file(dir.join("run.json")).unwrap();
        type Case<'a> = (u64, &'a [&'a str], &'a dyn Fn(&Path), &'a str, &'a str);
        let cases: [Case<'_>; 7] = [
            (
                3,
                &[SECOND],
                &nothing,
                SECOND,
                "was stopped after step 3 of 4: the adapter after step 2 is used",
            ),
            (
                4,
                &[SECOND],
                &nothing,
                SECOND,
                "ended after step 4 of 4, but the adapter is not in its folder: the adapter after step 2",
            ),
            (
                4,
                &[FOURTH],
                &nothing,
                FOURTH,
                "ended after step 4 of 4, but the adapter is not in its folder: the adapter after step 4",
            ),
            (
                3,
                &["best"],
                &nothing,
                "best",
                "was stopped after step 3 of 4: its best adapter (after step 1) is used",
            ),
            (
                3,
                &[SECOND],
                &lost,
                SECOND,
                "has no record of its end, and came to step 3: the adapter after step 2",
            ),
            (
                4,
                &[FOURTH, "best"],
                &diverged,
                FOURTH,
                "diverged, and ended after step 4 of 4: the adapter after step 4 is used",
            ),
            (
                4,
                &["best"],
                &diverged,
                "best",
                "diverged, and ended after step 4 of 4: its best adapter (after step 1) is used",
            ),
        ];
        for (steps, folders, change, used, said) in cases {
            let dir = run(steps, folders);
            change(dir.path());
            let found = found_adapter(dir.path()).unwrap_or_else(|error| panic!("{error}"));
            let (note, shown) = (found.note.expect("a note"), dir.path().display());
            assert_eq!(found.dir, dir.path().join(used), "{note}");
            assert!(note.starts_with(&format!("{shown} {said}")), "{note}\nexpected {said}");
            let tells_best = note.ends_with(&format!("; its best, after step 1, is in {shown}/best"));
            assert_eq!(tells_best, said.starts_with("diverged") && used != "best", "{note}");
        }
        let none = run(3, &[]);
        let error = found_adapter(none.path()).err().expect("there is no adapter").to_string();
        assert!(error.contains("was stopped after step 3 of 4, and no adapter of it is saved"), "{error}");
    }

    #[test]
    fn an_adapter_of_its_own_and_a_folder_that_is_no_run_need_no_note() {
        let dir = run(4, &[SECOND]);
        fs::write(dir.path().join("adapter_config.json"), "{}").unwrap();
        let other = tempfile::tempdir().unwrap();
        for folder in [dir.path(), other.path(), &dir.path().join(SECOND)] {
            let found = found_adapter(folder).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((found.dir.as_path(), found.note), (folder, None));
        }
    }
}
