//! What a finished run's records say of it as a whole.

use std::io;
use std::path::{Path, PathBuf};

use crate::history::{Damage, RunHistory, RunTotals};
use crate::metrics::METRICS;
use crate::run::RunFolder;
use crate::run_error::RunError;

/// A run as its folder tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct RunSummary {
    /// Its folder.
    pub dir: PathBuf,
    /// What its steps took.
    pub totals: RunTotals,
    /// What it left.
    pub result: RunResult,
    /// The step after which that was the best, if it is the best that the run kept.
    pub best_step: Option<u64>,
    /// The memory that was planned for it by itself, in bytes.
    pub planned_bytes: Option<u64>,
    /// Files of its folder that are missing or unreadable.
    pub damage: Vec<Damage>,
}

/// What a run left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunResult {
    /// An adapter, in this folder.
    Adapter(PathBuf),
    /// A model folder.
    Model(PathBuf),
}

impl RunResult {
    /// What a folder holds, if it holds a result.
    fn of(dir: PathBuf) -> Option<Self> {
        match (dir.join("adapter_config.json").is_file(), dir.join("config.json").is_file()) {
            (true, _) => Some(RunResult::Adapter(dir)),
            (false, true) => Some(RunResult::Model(dir)),
            (false, false) => None,
        }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        match self {
            RunResult::Adapter(dir) | RunResult::Model(dir) => dir,
        }
    }

    /// Bytes of its weights on disk.
    ///
    /// # Errors
    /// A folder that cannot be listed.
    pub fn weight_bytes(&self) -> io::Result<u64> {
        let mut bytes = 0;
        for entry in std::fs::read_dir(self.dir())? {
            let entry = entry?;
            if entry.path().extension().is_some_and(|e| e == "safetensors") {
                bytes += entry.metadata()?.len();
            }
        }
        Ok(bytes)
    }
}

impl RunSummary {
    /// Reads the records of the run in `dir`, with the best that it kept, else what it ended with. Of a folder in a run, such as
    /// `RUN/best` or `RUN/checkpoints/step-00000012`, the result is what is there.
    ///
    /// # Errors
    /// A folder without a run, or whose run has left nothing yet.
    pub fn read(dir: &Path) -> Result<Self, RunError> {
        let run = run_of(dir).unwrap_or_else(|| dir.to_owned());
        let history = RunHistory::read(&run)?;
        let planned_bytes = history.plan.as_ref().and_then(|plan| plan["planned_bytes"].as_u64());
        let (best, model) = (RunFolder::best_dir(dir), RunFolder::model_dir(dir));
        let places =
            if run == dir { vec![best.clone(), model, dir.to_owned()] } else { vec![dir.to_owned()] };
        let Some(result) = places.into_iter().find_map(RunResult::of) else {
            let source = io::Error::other("it has left no adapter and no model yet");
            return Err(RunError::NoRun { dir: dir.to_owned(), source });
        };
        let best_step = history.evaluations.iter().rev().find(|one| one.best).map(|one| one.step);
        Ok(RunSummary {
            totals: history.totals(),
            best_step: best_step.filter(|_| result.dir() == best),
            result,
            planned_bytes,
            damage: history.damage,
            dir: run,
        })
    }
}

/// The run that a folder in it belongs to, which is no run itself.
fn run_of(dir: &Path) -> Option<PathBuf> {
    let is_run = |dir: &Path| dir.join(METRICS).is_file();
    if is_run(dir) {
        return None;
    }
    let whole = dir.canonicalize().ok()?;
    whole.ancestors().skip(1).take(2).find(|above| is_run(above)).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_best_is_taken_where_one_was_kept_and_a_folder_in_a_run_is_itself() {
        let place = tempfile::tempdir().expect("a folder");
        let run = place.path().canonicalize().expect("it is there").join("run");
        let adapter = |dir: &Path| {
            fs::create_dir_all(dir).expect("made");
            fs::write(dir.join("adapter_config.json"), "{}").expect("written");
        };
        adapter(&run);
        assert!(RunSummary::read(&run).is_err(), "no records");
        fs::write(run.join(METRICS), "").expect("written");
        let read = |dir: &Path| {
            let found = RunSummary::read(dir).expect("a run");
            assert_eq!(found.dir, run);
            (found.result, found.best_step)
        };
        assert_eq!(read(&run), (RunResult::Adapter(run.clone()), None));
        let best = run.join("best");
        adapter(&best);
        fs::write(
            run.join("evaluations.jsonl"),
            "{\"step\":7,\"loss\":1.0,\"best\":true,\"seconds\":1.0}\n{\"step\":9,\"loss\":2.0,\"best\":false,\"seconds\":1.0}\n",
        )
        .expect("written");
        assert_eq!(read(&run), (RunResult::Adapter(best.clone()), Some(7)));
        assert_eq!(read(&best), (RunResult::Adapter(best.clone()), None));
        let checkpoint = run.join("checkpoints/step-00000009");
        adapter(&checkpoint);
        assert_eq!(read(&checkpoint), (RunResult::Adapter(checkpoint), None));
        fs::remove_dir_all(&best).expect("removed");
        assert_eq!(read(&run).0, RunResult::Adapter(run.clone()));
        let damage = RunSummary::read(&run).expect("a run").damage;
        assert!(
            damage.contains(&Damage::Missing("best/")) && damage.contains(&Damage::NoSteps),
            "{damage:?}"
        );
        assert!(RunSummary::read(&place.path().join("elsewhere")).is_err());
    }
}
