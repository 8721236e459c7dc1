//! Runs as they go: a page that a server keeps up to date, and what the server sends it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use lorafit_remedy::amounts::duration;
use lorafit_train::{Outcome, RunError, RunState, RunStatus};
use serde_json::{Value, json};

use crate::pages::figure::{self, Figure, measured};
use crate::pages::report::overview::facts;
use crate::pages::report::sweep::TRIALS;
use crate::pages::report::training::{NamedRun, curves, memory, names, title};
use crate::pages::shell::{Page, escape};
use crate::session::verdict::{evaluation_in_words, in_short};
use crate::sweep::folder::is_trial;
use crate::terminal::made;

pub mod view;

const STYLE: &str = include_str!("watch.css");
/// Cards of runs and their curves, in any page that has the figures' script.
const RUNS: &str = include_str!("runs.js");
const SCRIPT: &str = include_str!("watch.js");

/// Run folders, and sweeps whose trials are watched as they come.
#[derive(Debug)]
pub struct Watched {
    folders: Vec<PathBuf>,
    /// The command that watches them. Threads that make the page do not know it.
    command: String,
    records: Records,
    /// What the last curves are of.
    drawn: Vec<(PathBuf, Lengths)>,
}

/// The bytes of the records of a run, by which it is seen that they have grown.
type Lengths = [u64; 2];

fn lengths(dir: &Path) -> Lengths {
    ["metrics.jsonl", "evaluations.jsonl"].map(|file| dir.join(file).metadata().map_or(0, |file| file.len()))
}

/// Records that were read, with the lengths of their files then.
#[derive(Debug, Default)]
struct Records(HashMap<PathBuf, (Lengths, NamedRun)>);

impl Records {
    /// The records of runs; those that have not changed are not read again, and those that cannot be read are left out.
    fn read(&mut self, runs: impl IntoIterator<Item = (String, PathBuf)>) -> Vec<NamedRun> {
        let mut found = Vec::new();
        for (name, dir) in runs {
            let lengths = lengths(&dir);
            let known = self.0.get(&dir).filter(|(before, _)| *before == lengths);
            found.push(match known {
                // Another run may have come, from which the whole folder tells it.
                Some((_, run)) => NamedRun { name, ..run.clone() },
                None => {
                    let Ok(run) = NamedRun::read(name, &dir) else { continue };
                    self.0.insert(dir, (lengths, run.clone()));
                    run
                }
            });
        }
        found
    }
}

/// The curves of runs, as HTML.
fn figures_of(runs: &[NamedRun]) -> String {
    curves(runs).into_iter().chain([memory(runs)]).map(|figure: Figure| figure.html(3)).collect()
}

/// A run as it is now.
struct Watching {
    name: String,
    dir: PathBuf,
    status: RunStatus,
}

impl Watching {
    /// What a page shows of it.
    fn state(&self) -> Value {
        json!({
            "name": self.name,
            "state": self.status.state(),
            // Why its bar is not that of a run that goes well.
            "failure": failure(&self.status),
            "step": self.status.step,
            "steps": self.status.total_steps,
            "lines": lines(&self.status),
            "warnings": self.status.warnings,
            "can_stop": self.status.running && self.status.process.is_some(),
            // The signal would reach the process of the sweep, whose trials are many.
            "can_save": self.status.running && self.status.process.is_some() && !is_trial(&self.dir),
            "is_trial": is_trial(&self.dir),
        })
    }
}

impl Watched {
    /// The runs and sweeps in `folders`.
    ///
    /// # Errors
    /// A folder without a run or a sweep.
    pub fn new(folders: Vec<PathBuf>) -> Result<Self, RunError> {
        for dir in folders.iter().filter(|dir| !is_sweep(dir)) {
            RunStatus::read(dir)?;
        }
        Ok(Watched { folders, command: made::command(), records: Records::default(), drawn: Vec::new() })
    }

    /// The folder of the run that is called `name`.
    pub fn dir(&self, name: &str) -> Option<PathBuf> {
        let dirs = self.dirs();
        names(&dirs).iter().position(|known| known == name).map(|place| dirs[place].clone())
    }

    /// The folders of runs: those that were given, and the trials of sweeps.
    fn dirs(&self) -> Vec<PathBuf> {
        let mut dirs: Vec<PathBuf> = Vec::new();
        for folder in &self.folders {
            match is_sweep(folder) {
                true => dirs.extend(trials(folder)),
                false => dirs.push(folder.clone()),
            }
        }
        dirs
    }

    /// What can be read now; a run that somebody moves away is left out.
    fn now(&self) -> Vec<Watching> {
        let dirs = self.dirs();
        let watching = |(name, dir): (String, &PathBuf)| {
            Some(Watching { name, dir: dir.clone(), status: RunStatus::read(dir).ok()? })
        };
        names(&dirs).into_iter().zip(&dirs).filter_map(watching).collect()
    }

    /// The page, in which `token` says that a request is one of its own.
    pub fn page(&mut self, token: &str) -> String {
        let runs = self.histories();
        let title = title(&runs);
        let body = format!(
            "<p id=\"state\" class=\"note\" role=\"status\">connecting</p>\n<section id=\"runs\" aria-label=\"Runs\" \
             data-token=\"{}\"></section>\n<h2>Curves</h2>\n<div id=\"curves\" class=\"columns\"></div>\n",
            escape(token)
        );
        let mut facts = facts(&runs);
        facts.add_page_of(&self.command);
        // How runs go is what a live page is opened for.
        facts.fold("Model, data and commands");
        let page = Page {
            verb: "watch",
            title: if title.is_empty() { "No run has begun yet" } else { &title },
            facts: &facts,
            style: &[crate::pages::report::STYLE, STYLE].concat(),
            scripts: &[figure::SCRIPT, RUNS, SCRIPT],
            policy: " connect-src 'self';",
        };
        page.around(&body)
    }

    /// The state of all runs.
    pub fn states(&self) -> String {
        Value::from(self.now().iter().map(Watching::state).collect::<Vec<_>>()).to_string()
    }

    /// The curves of all runs as HTML in JSON; `None` if no run has a new step or evaluation since they were last asked for.
    pub fn curves(&mut self) -> Option<String> {
        let with_lengths = |dir: PathBuf| {
            let lengths = lengths(&dir);
            (dir, lengths)
        };
        let now: Vec<(PathBuf, Lengths)> = self.dirs().into_iter().map(with_lengths).collect();
        if now == self.drawn {
            return None;
        }
        self.drawn = now;
        Some(Value::from(figures_of(&self.histories())).to_string())
    }

    /// The records of all runs.
    fn histories(&mut self) -> Vec<NamedRun> {
        let dirs = self.dirs();
        self.records.read(names(&dirs).into_iter().zip(dirs))
    }
}

fn is_sweep(dir: &Path) -> bool {
    dir.join(TRIALS).is_file() || dir.join("sweep.json").is_file()
}

/// The trials of a sweep that have begun, in order.
fn trials(sweep: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(sweep.join("trials")).into_iter().flatten().flatten();
    let mut dirs: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|dir| dir.join("metrics.jsonl").is_file()).collect();
    dirs.sort();
    dirs
}

/// What went wrong with a run, in a word, if something did.
fn failure(status: &RunStatus) -> Option<&'static str> {
    let verdict = status.verdict.as_ref().filter(|verdict| matches!(verdict.outcome, Outcome::Diverged));
    let stopped = (status.state() == RunState::Stopped).then_some("stopped before its last step");
    verdict.map(|verdict| in_short(&verdict.outcome)).or(stopped)
}

/// What is said of a run, a line for each thing.
fn lines(status: &RunStatus) -> Vec<String> {
    let mut first = match status.total_steps {
        Some(total) => format!("step {} of {total}", status.step),
        None => format!("step {}", status.step),
    };
    for (name, loss) in [("loss of that step", status.loss), ("smoothed", status.smoothed_loss)] {
        if let Some(loss) = loss {
            let _ = write!(first, ", {name} {}", measured(loss, 4));
        }
    }
    let mut lines = vec![first];
    let left = status.seconds_left.filter(|left| status.running && *left > 0.0);
    if let (Some(rate), true) = (status.tokens_per_s, status.running) {
        let left = left.map(|left| format!(", {} left", duration(left))).unwrap_or_default();
        lines.push(format!("{rate:.0} tokens/s{left}"));
    }
    let last = status.evaluation.as_ref().map(|last| (last.step, evaluation_in_words(last)));
    let best = status.best.as_ref().map(|best| (best.step, evaluation_in_words(best)));
    let is_best = last.as_ref().map(|last| last.0) == best.as_ref().map(|best| best.0);
    lines.extend(last.map(|(_, last)| format!("{}: {last}", if is_best { "last and best" } else { "last" })));
    lines.extend(best.filter(|_| !is_best).map(|(_, best)| format!("best: {best}")));
    if let Some(checkpoint) = &status.checkpoint {
        lines.push(format!("checkpoint after step {}", checkpoint.step));
    }
    lines.extend(status.verdict.as_ref().map(|verdict| format!("verdict: {}", in_short(&verdict.outcome))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::host::{self, Call};
    use crate::terminal::words::Verb;

    #[test]
    fn style_and_script_close_nothing_and_load_nothing() {
        for part in [STYLE, RUNS, SCRIPT] {
            assert!(!part.contains("</") && !part.contains("url(") && !part.contains("http"));
        }
    }

    #[test]
    fn a_folder_without_a_run_is_refused_and_a_sweep_may_have_no_trial_yet() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Watched::new(vec![dir.path().to_owned()]), Err(RunError::NoRun { .. })));
        std::fs::write(dir.path().join("sweep.json"), "{}").unwrap();
        let mut watched = Watched::new(vec![dir.path().to_owned()]).unwrap();
        assert_eq!(watched.states(), "[]");
        assert!(watched.page("token").contains("No run has begun yet"));
    }

    #[test]
    fn curves_are_drawn_again_only_when_records_have_grown() {
        let dir = tempfile::tempdir().unwrap();
        let step = |step: u64| {
            format!(
                "{{\"step\":{step},\"loss\":2.5,\"grad_norm\":1.0,\"learning_rate\":0.001,\"tokens\":10,\
                 \"computed_tokens\":9,\"supervised_tokens\":5,\"seconds\":0.5,\"tokens_per_s\":20.0,\"peak_rss_bytes\":1}}\n"
            )
        };
        let file = dir.path().join("metrics.jsonl");
        std::fs::write(&file, step(1)).unwrap();
        let mut watched = Watched::new(vec![dir.path().to_owned()]).unwrap();
        assert!(watched.curves().is_some_and(|html| html.contains("svg")));
        assert!(watched.curves().is_none());
        std::fs::write(&file, step(1) + &step(2)).unwrap();
        assert!(watched.curves().is_some());
        let states: Value = serde_json::from_str(&watched.states()).unwrap();
        assert_eq!(states[0]["step"], 2);
        assert_eq!(states[0]["can_stop"], false);
        assert_eq!(states[0]["failure"], "stopped before its last step");
        assert_eq!(states[0]["lines"][0], "step 2, loss of that step 2.5000, smoothed 2.5000");
        let evaluation = |step: u64, loss: f64, best: bool| {
            format!("{{\"step\":{step},\"loss\":{loss},\"seconds\":0.1,\"best\":{best}}}\n")
        };
        let lines = evaluation(1, 2.0, true) + &evaluation(2, 3.0, false);
        std::fs::write(dir.path().join("evaluations.jsonl"), lines).unwrap();
        let states: Value = serde_json::from_str(&watched.states()).unwrap();
        let told = states[0]["lines"].to_string();
        assert!(told.contains("last: held-out loss 3.0000 after step 2"), "{told}");
        assert!(told.contains("best: held-out loss 2.0000 after step 1"), "{told}");
    }

    #[test]
    fn what_of_a_folder_is_damaged_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let step = "{\"step\":1,\"loss\":2.5,\"grad_norm\":1.0,\"learning_rate\":0.001,\"tokens\":10,\"computed_tokens\":9,\
                    \"supervised_tokens\":5,\"seconds\":0.5,\"tokens_per_s\":20.0,\"peak_rss_bytes\":1}\n";
        std::fs::write(dir.path().join("metrics.jsonl"), step.to_owned() + "no step\n").unwrap();
        let watched = Watched::new(vec![dir.path().to_owned()]).unwrap();
        let states: Value = serde_json::from_str(&watched.states()).unwrap();
        let warnings: Vec<&str> =
            states[0]["warnings"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert!(warnings.iter().any(|warning| warning.contains("1 line of metrics.jsonl")), "{warnings:?}");
        assert!(RUNS.contains("of run.warnings"), "the script of the page reads them");
    }

    #[test]
    fn a_page_that_another_thread_makes_tells_the_command_of_its_call() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("sweep.json"), "{}").unwrap();
        let call = Call::new(None, ["watch", "sweeps/first"].map(Into::into).into(), Verb::default());
        let watched = host::within(call, || Watched::new(vec![dir.path().to_owned()]));
        let mut watched = watched.unwrap();
        let page = std::thread::spawn(move || watched.page("token")).join().unwrap();
        assert!(page.contains("watch</span> <span class=\"whole\">sweeps/first</span>"), "{page}");
    }
}
