//! The runs below a folder as a view of the page of `serve`, which shows them and changes nothing.
//!
//! A question names the runs whose curves it wants by the names that an earlier answer gave; a name is looked for among the runs
//! that are there now, and never made a path.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lorafit_remedy::amounts::counted;
use lorafit_serve::View;
use lorafit_train::RunStatus;
use serde_json::{Map, Value, json};

use super::{Lengths, Records, Watching, figures_of, lengths};
use crate::pages::report::training::last_part;
use crate::sweep::below::runs_below;

/// Its style, beside that of figures.
const STYLE: &str = concat!(include_str!("watch.css"), include_str!("view.css"));
const SCRIPT: &str = concat!(include_str!("runs.js"), include_str!("view.js"));
const HTML: &str = include_str!("view.html");

/// Runs that are listed, the newest.
const MOST_LISTED: usize = 100;
/// Runs whose curves are drawn together: as many as there are colours.
const MOST_DRAWN: usize = 8;
/// Runs whose records are kept.
const MOST_KEPT: usize = 32;
/// How long what was seen in the folder is shown before it is looked at again.
const FRESH: Duration = Duration::from_secs(1);

/// The view of the runs below `root`.
pub fn view(root: PathBuf) -> View {
    let below = Mutex::new(Below { root, seen: None, records: Records::default() });
    View {
        name: "runs",
        title: "Runs",
        heading: "Runs".to_owned(),
        html: HTML.to_owned(),
        style: STYLE,
        script: SCRIPT,
        answer: Box::new(move |question| {
            below.lock().unwrap_or_else(PoisonError::into_inner).answer(question)
        }),
    }
}

/// Runs below a folder.
struct Below {
    root: PathBuf,
    seen: Option<Seen>,
    records: Records,
}

/// The runs of the folder when it was last read.
struct Seen {
    at: Instant,
    /// Runs in all.
    count: usize,
    /// The newest, the newest first.
    runs: Vec<Watching>,
}

impl Below {
    fn answer(&mut self, question: &Map<String, Value>) -> Result<Value, String> {
        let asked = asked(question)?;
        let fresh = self.seen.take().filter(|seen| seen.at.elapsed() < FRESH);
        let seen = self.seen.insert(fresh.unwrap_or_else(|| Seen::of(&self.root)));
        let drawn: Vec<&Watching> = match &asked {
            Some(names) => seen.runs.iter().filter(|run| names.contains(&run.name.as_str())).collect(),
            None => seen.drawn_first(),
        };
        let of: Vec<(&str, Lengths)> =
            drawn.iter().map(|run| (run.name.as_str(), lengths(&run.dir))).collect();
        let version = blake3::hash(json!(of).to_string().as_bytes()).to_hex().to_string();
        let is_known = question.get("known").and_then(Value::as_str) == Some(version.as_str());
        let curves = (!is_known).then(|| {
            if self.records.0.len() > MOST_KEPT {
                self.records = Records::default();
            }
            let dirs = drawn.iter().map(|run| (run.name.clone(), run.dir.clone()));
            let runs = self.records.read(dirs);
            if runs.is_empty() { String::new() } else { figures_of(&runs) }
        });
        Ok(json!({
            "runs": seen.runs.iter().map(Watching::state).collect::<Vec<_>>(),
            "note": seen.note(),
            "shown": drawn.iter().map(|run| run.name.as_str()).collect::<Vec<_>>(),
            "most": MOST_DRAWN,
            "version": version,
            "curves": curves,
        }))
    }
}

/// The names of the runs whose curves are asked for, if any are named.
fn asked(question: &Map<String, Value>) -> Result<Option<Vec<&str>>, String> {
    let names = match question.get("shown") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(names)) => names,
        Some(_) => return Err("`shown` has to be a list of the names of runs".to_owned()),
    };
    if names.len() > MOST_DRAWN {
        return Err(format!("`shown` has {} runs; curves of at most {MOST_DRAWN} are drawn", names.len()));
    }
    let names: Option<Vec<&str>> = names.iter().map(Value::as_str).collect();
    names.map(Some).ok_or_else(|| "`shown` has to be a list of the names of runs".to_owned())
}

impl Seen {
    fn of(root: &Path) -> Self {
        let found = runs_below(root);
        let watching = |dir: &PathBuf| {
            Some(Watching { name: name(root, dir), dir: dir.clone(), status: RunStatus::read(dir).ok()? })
        };
        let runs = found.iter().take(MOST_LISTED).filter_map(|one| watching(&one.dir)).collect();
        Seen { at: Instant::now(), count: found.len(), runs }
    }

    /// Whose curves are drawn while nobody asks for others: of what runs, else of the newest run.
    fn drawn_first(&self) -> Vec<&Watching> {
        let running: Vec<&Watching> =
            self.runs.iter().filter(|run| run.status.running).take(MOST_DRAWN).collect();
        if running.is_empty() { self.runs.iter().take(1).collect() } else { running }
    }

    /// How many there are, in words.
    fn note(&self) -> String {
        if self.runs.is_empty() {
            return "No run has begun yet. Runs below the folder of --runs are shown here as they begin."
                .to_owned();
        }
        let running = match self.runs.iter().filter(|run| run.status.running).count() {
            0 => String::new(),
            1 if self.count == 1 => ", which is running".to_owned(),
            all if all == self.count => ", all of them running".to_owned(),
            running => format!(", {running} of them running"),
        };
        let left_out = match self.count > MOST_LISTED {
            true => format!("; the newest {MOST_LISTED} are listed"),
            false => String::new(),
        };
        format!("{}{running}{left_out}. This page updates by itself.", counted(self.count, "run", "runs"))
    }
}

/// What a run is called: its path from the folder on, or the folder's own name.
fn name(root: &Path, dir: &Path) -> String {
    let below = dir.strip_prefix(root).unwrap_or(dir);
    let parts: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
    if parts.is_empty() { last_part(root) } else { parts.join("/") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> String {
        format!(
            "{{\"step\":{step},\"loss\":2.5,\"grad_norm\":1.0,\"learning_rate\":0.001,\"tokens\":10,\
             \"computed_tokens\":9,\"supervised_tokens\":5,\"seconds\":0.5,\"tokens_per_s\":20.0,\"peak_rss_bytes\":1}}\n"
        )
    }

    fn write(root: &Path, name: &str, steps: u64) {
        let dir = root.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let text: String = (1..=steps).map(step).collect();
        std::fs::write(dir.join("metrics.jsonl"), text).unwrap();
    }

    fn ask(view: &View, question: Value) -> Result<Value, String> {
        (view.answer)(question.as_object().unwrap())
    }

    #[test]
    fn style_script_and_html_close_nothing_early_and_load_nothing() {
        for part in [STYLE, SCRIPT] {
            assert!(!part.contains("</") && !part.contains("url(") && !part.contains("http"));
        }
        assert!(!HTML.contains("<script") && !HTML.contains("style=") && !HTML.contains("src="));
    }

    #[test]
    fn curves_come_again_only_when_records_have_grown_or_others_are_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let view = view(dir.path().to_owned());
        let none = ask(&view, json!({})).unwrap();
        assert_eq!((&none["runs"], &none["shown"], &none["curves"]), (&json!([]), &json!([]), &json!("")));
        assert!(none["note"].as_str().unwrap().contains("No run has begun"), "{none}");

        write(dir.path(), "first", 3);
        write(dir.path(), "group/second", 2);
        std::thread::sleep(FRESH);
        let both = json!(["first", "group/second"]);
        let found = ask(&view, json!({"shown": both})).unwrap();
        assert_eq!(found["note"], "2 runs. This page updates by itself.");
        let mut shown: Vec<&str> =
            found["shown"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        shown.sort_unstable();
        assert_eq!(shown, ["first", "group/second"]);
        let curves = found["curves"].as_str().unwrap();
        assert!(curves.contains("<svg") && curves.contains("group/second"), "{curves:.300}");

        let known = json!({"shown": both, "known": found["version"]});
        assert_eq!(ask(&view, known.clone()).unwrap()["curves"], Value::Null);
        let one = ask(&view, json!({"shown": ["first"], "known": found["version"]})).unwrap();
        assert!(one["curves"].as_str().is_some_and(|html| !html.contains("second")));
        write(dir.path(), "first", 4);
        assert!(ask(&view, known).unwrap()["curves"].is_string(), "curves have grown");
        std::thread::sleep(FRESH);
        let later = ask(&view, json!({"shown": []})).unwrap();
        let first = later["runs"].as_array().unwrap().iter().find(|run| run["name"] == "first").unwrap();
        assert_eq!((&first["step"], &first["state"]), (&json!(4), &json!("stopped")));
        assert_eq!(later["curves"], "");
    }

    #[test]
    fn a_name_is_no_path() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("runs");
        write(&root, "mine", 2);
        write(dir.path(), "secret", 2);
        let view = view(root.clone());
        let absolute = dir.path().join("secret").to_string_lossy().into_owned();
        for name in ["../secret", "mine/../../secret", &absolute, "mine/", "./mine", ""] {
            let found = ask(&view, json!({"shown": [name]})).unwrap();
            assert_eq!((&found["shown"], &found["curves"]), (&json!([]), &json!("")), "{name}");
        }
        let found = ask(&view, json!({})).unwrap();
        assert_eq!(found["shown"], json!(["mine"]));
        assert!(!found.to_string().contains(&*dir.path().to_string_lossy()), "nobody learns where it lies");
        for wrong in [json!({"shown": "mine"}), json!({"shown": [1]}), json!({"shown": vec!["mine"; 9]})] {
            assert!(ask(&view, wrong.clone()).is_err(), "{wrong}");
        }
    }
}
