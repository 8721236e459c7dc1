//! `lorafit sweep`: trials are ordinary runs, nothing that is finished is repeated, and the winner can be trained again.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use tempfile::TempDir;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_bpe");
const GRID: &str = "[search]\nrank = [2, 4, 8]\nalpha = [8, 16]\n";

/// A folder with rows and a sweep file.
struct Place {
    dir: TempDir,
}

impl Place {
    /// With a file of the usual training options, `more` of them, and the tables `search`.
    fn new(more: &str, search: &str) -> Self {
        let place = Place { dir: TempDir::new().expect("a folder") };
        for (name, rows) in [("rows.jsonl", 26), ("dev.jsonl", 5)] {
            let row = |i: usize| {
                let question = "why ".repeat(1 + i % 5);
                let chat = serde_json::json!({ "messages": [
                    { "role": "user", "content": format!("{question}{i}?") },
                    { "role": "assistant", "content": format!("so {}", i * i) },
                ] });
                format!("{chat}\n")
            };
            fs::write(place.path(name), (0..rows).map(row).collect::<String>()).expect("written");
        }
        place.write_file(more, search);
        place
    }

    fn write_file(&self, more: &str, search: &str) {
        let lr = if search.contains("lr = ") { "" } else { "lr = 5e-3" };
        let fixed = format!(
            "model = {MODEL:?}\ndata = \"rows.jsonl\"\neval-data = \"dev.jsonl\"\ndropout = 0.1\n{lr}\nbatch-size = 2\n\
             threads = 2\n{more}\n{search}"
        );
        fs::write(self.path("sweep.toml"), fixed).expect("written");
    }

    /// Has the sweep train a copy of the model whose context has room for long answers, which end with it.
    fn lengthen_context(&self) {
        self.edit_model(&[("\"max_position_embeddings\": 512", "\"max_position_embeddings\": 100000")]);
    }

    /// Has the sweep train a copy of the model with other lines in its configuration.
    fn edit_model(&self, lines: &[(&str, &str)]) {
        let model = self.path("model");
        fs::create_dir(&model).expect("a folder");
        for file in fs::read_dir(MODEL).expect("the model").map(|file| file.expect("an entry").path()) {
            if file.is_file() {
                fs::copy(&file, model.join(file.file_name().expect("a name"))).expect("copied");
            }
        }
        let edit = |path: &Path, from: &str, to: &str| {
            let text = fs::read_to_string(path).expect("text");
            assert!(text.contains(from), "{text}");
            fs::write(path, text.replace(from, to)).expect("written");
        };
        lines.iter().for_each(|(from, to)| edit(&model.join("config.json"), from, to));
        edit(&self.path("sweep.toml"), MODEL, "model");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lorafit"));
        command.current_dir(self.dir.path()).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("starts")
    }

    /// Runs the sweep, with further flags.
    fn sweep(&self, more: &[&str]) -> Output {
        self.run(&[&["sweep", "sweep.toml", "--out", "s"], more].concat())
    }

    fn trial(&self, number: usize) -> PathBuf {
        self.path("s/trials").join(format!("{number:03}"))
    }

    /// The lines of `trials.jsonl`.
    fn rows(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("s/trials.jsonl")).expect("the table");
        text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn assert_ended_well(output: &Output) {
    assert!(output.status.success(), "{:?}\n{}", output.status, text(&output.stderr));
}

fn steps(run: &Path) -> Vec<u64> {
    let lines = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a line")["step"].as_u64().expect("a step"))
        .collect()
}

fn adapter(run: &Path) -> Vec<u8> {
    fs::read(run.join("adapter_model.safetensors")).expect("the adapter")
}

fn wait_until(child: &mut Child, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(120), "it takes too long");
        assert!(child.try_wait().expect("waits").is_none(), "it ended before");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_trial_side_by_side_has_the_bits_of_the_printed_train_command() {
    let place = Place::new("max-steps = 8\n", GRID);
    let output = place.sweep(&["--trials-at-once", "3", "--json"]);
    assert_ended_well(&output);
    let result: Value = serde_json::from_str(&text(&output.stdout)).expect("an object");
    let best = result["best"].as_u64().expect("a winner") as usize;
    let command = result["command"].as_str().expect("a command");
    let arguments: Vec<&str> = command.split_whitespace().skip(1).collect();
    assert_ended_well(&place.run(&arguments));
    assert!(adapter(&place.path("runs/winner")) == adapter(&place.trial(best)), "{command}");

    let rows = place.rows();
    assert_eq!(rows.len(), 6);
    assert!(rows.iter().all(|row| row["state"] == "finished" && row["step"] == 8));
    let metric = |row: &Value| row["metric"].as_f64().expect("a metric");
    assert!(rows.iter().all(|row| metric(row) >= metric(&rows[best])), "the winner has the lowest loss");
    assert_eq!(rows[1]["options"], serde_json::json!({ "alpha": 8, "rank": 4 }));
    let csv = fs::read_to_string(place.path("s/trials.csv")).expect("the table");
    assert_eq!(csv.lines().count(), 7);
    assert!(csv.starts_with("trial,state,alpha,rank,metric,metric_low,metric_high,step,"), "{csv}");
}

/// The base is evaluated once for all trials; each has its loss at step 0 and a verdict on its held-out rows.
#[test]
fn trials_are_judged_by_their_held_out_rows_from_the_loss_of_the_base() {
    let place = Place::new("max-steps = 8\n", "[search]\nrank = [2, 4]\n");
    assert_ended_well(&place.sweep(&[]));
    for row in place.rows() {
        let trial = place.trial(row["trial"].as_u64().expect("a number") as usize);
        let read = |name: &str| fs::read_to_string(trial.join(name)).expect("written");
        let verdict: Value = serde_json::from_str(&read("verdict.json")).expect("an object");
        assert_eq!(verdict["of"], "held-out", "{verdict}");
        assert_eq!(verdict["from"], row["base_loss"], "{verdict}");
        let evaluations = read("evaluations.jsonl");
        let first: Value =
            serde_json::from_str(evaluations.lines().next().expect("a line")).expect("an object");
        assert_eq!((&first["step"], &first["loss"]), (&0.into(), &row["base_loss"]));
        assert_eq!(first["best"], false);
    }
    assert_ended_well(&place.run(&["report", "s/trials/000", "--out", "page.html"]));
    let page = fs::read_to_string(place.path("page.html")).expect("a page");
    assert!(!page.contains("no rows were held out"), "{page}");
}

#[test]
fn a_sweep_killed_and_started_again_repeats_nothing_that_was_finished() {
    let place = Place::new("max-steps = 40\ncheckpoint-every = 1\n", GRID);
    let mut command = place.command(&["sweep", "sweep.toml", "--out", "s", "--trials-at-once", "2"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    let finished = |number: usize| {
        let log = fs::read_to_string(place.trial(number).join("trial.jsonl")).unwrap_or_default();
        log.contains("\"came\"")
    };
    // Two are finished, and another is in the middle.
    wait_until(&mut child, || {
        (0..6).filter(|n| finished(*n)).count() >= 2
            && (0..6).any(|n| (5..30).contains(&steps(&place.trial(n)).len()))
    });
    child.kill().expect("sends");
    child.wait().expect("ends");

    let modified = |number: usize| -> BTreeMap<PathBuf, SystemTime> {
        let files =
            fs::read_dir(place.trial(number)).expect("lists").map(|entry| entry.expect("lists").path());
        // Who looks whether a trial is running opens its lock.
        files
            .filter(|path| !path.ends_with("lock"))
            .map(|path| (path.clone(), path.metadata().expect("a file").modified().expect("a time")))
            .collect()
    };
    let done: Vec<usize> = (0..6).filter(|n| finished(*n)).collect();
    let before: Vec<_> = done.iter().map(|n| modified(*n)).collect();
    let half: Vec<(usize, Value)> = (0..6)
        .filter(|n| !finished(*n) && steps(&place.trial(*n)).len() >= 2)
        .map(|n| (n, first_record(&place.trial(n))))
        .collect();
    assert!(!half.is_empty());

    assert_ended_well(&place.sweep(&[]));
    let after: Vec<_> = done.iter().map(|n| modified(*n)).collect();
    assert_eq!(before, after, "finished trials are as they were");
    for (number, record) in half {
        assert_eq!(first_record(&place.trial(number)), record, "trial {number} went on from its checkpoint");
    }
    for number in 0..6 {
        assert_eq!(steps(&place.trial(number)), (1..=40).collect::<Vec<u64>>(), "trial {number}");
    }

    let whole = Place::new("max-steps = 40\ncheckpoint-every = 1\n", GRID);
    assert_ended_well(&whole.sweep(&[]));
    for number in 0..6 {
        assert!(adapter(&place.trial(number)) == adapter(&whole.trial(number)), "trial {number}");
    }
}

/// With its wall time, which a second computation would not have again.
fn first_record(run: &Path) -> Value {
    let text = fs::read_to_string(run.join("metrics.jsonl")).expect("the log");
    serde_json::from_str(text.lines().next().expect("a line")).expect("an object")
}

#[test]
fn the_first_signal_stops_all_trials_with_a_checkpoint() {
    let place = Place::new("max-steps = 400\n", GRID);
    let mut command = place.command(&["sweep", "sweep.toml", "--out", "s", "--trials-at-once", "2"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    wait_until(&mut child, || (0..2).all(|n| steps(&place.trial(n)).len() >= 3));
    // SAFETY: sends a signal to a process of ours that has not been waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    assert_eq!(child.wait().expect("ends").code(), Some(143));
    for number in 0..2 {
        let step = steps(&place.trial(number)).len();
        assert!(
            place.trial(number).join(format!("checkpoints/step-{step:08}")).is_dir(),
            "trial {number}, step {step}"
        );
    }
    assert!(!place.trial(2).exists(), "no other began");
    assert!(place.rows()[..2].iter().all(|row| row["state"] == "waiting"));
}

#[test]
fn successive_halving_trains_few_to_the_end_and_goes_on_after_a_kill() {
    let search = "[search]\nlr = { log-uniform = [1e-4, 1e-1] }\n\
        [sweep]\nstrategy = \"asha\"\ntrials = 9\nmin-steps = 4\nreduction-factor = 3\n";
    let place = Place::new("max-steps = 36\ncheckpoint-every = 1\n", search);
    let mut command = place.command(&["sweep", "sweep.toml", "--out", "s"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    wait_until(&mut child, || steps(&place.trial(4)).len() >= 2);
    child.kill().expect("sends");
    child.wait().expect("ends");
    assert_ended_well(&place.sweep(&[]));

    let whole = Place::new("max-steps = 36\ncheckpoint-every = 1\n", search);
    assert_ended_well(&whole.sweep(&[]));
    let counts = |place: &Place| -> Vec<(String, u64)> {
        let rows = place.rows();
        rows.iter()
            .map(|row| {
                (row["state"].as_str().expect("a state").to_owned(), row["step"].as_u64().expect("steps"))
            })
            .collect()
    };
    assert_eq!(counts(&place), counts(&whole), "one worker: the same decisions");
    let at_least = |steps: u64| counts(&whole).iter().filter(|(_, step)| *step >= steps).count();
    assert_eq!((at_least(4), at_least(12), at_least(36)), (9, 3, 1));
    let finished = place.rows().iter().position(|row| row["state"] == "finished").expect("one");
    assert!(adapter(&place.trial(finished)) == adapter(&whole.trial(finished)));
    // The winner by itself, without the pauses at rungs.
    assert_ended_well(&place.run(&["train", "--config", "s/winner.toml", "--out", "w"]));
    assert!(adapter(&place.path("w")) == adapter(&place.trial(finished)));
}

#[test]
fn shards_are_disjoint_and_their_results_are_read_together() {
    let place = Place::new("max-steps = 3\n", GRID);
    for (part, done) in [("1/2", 3), ("2/2", 6)] {
        assert_ended_well(&place.sweep(&["--shard", part]));
        assert_eq!(place.rows().iter().filter(|row| row["state"] == "finished").count(), done);
    }
    let status = place.run(&["sweep", "--out", "s", "--status", "--json"]);
    assert_ended_well(&status);
    let result: Value = serde_json::from_str(&text(&status.stdout)).expect("an object");
    assert_eq!(result["trials"].as_array().expect("a list").len(), 6);
    let before =
        fs::metadata(place.trial(3).join("metrics.jsonl")).expect("a file").modified().expect("a time");
    assert_ended_well(&place.run(&["sweep", "--out", "s"]));
    let after =
        fs::metadata(place.trial(3).join("metrics.jsonl")).expect("a file").modified().expect("a time");
    assert_eq!(before, after, "a start as a whole sees what the parts did");
}

#[test]
fn a_file_may_add_trials_but_not_change_the_sweep() {
    let place = Place::new("max-steps = 2\n", "[search]\nrank = [2, 4]\n");
    assert_ended_well(&place.sweep(&[]));
    place.write_file("max-steps = 2\n", "[search]\nrank = [8, 2, 4]\n");
    assert_ended_well(&place.sweep(&[]));
    let ranks: Vec<u64> =
        place.rows().iter().map(|row| row["options"]["rank"].as_u64().expect("a rank")).collect();
    assert_eq!(ranks, [2, 4, 8], "trials keep their numbers");
    for (more, search, told) in [
        ("max-steps = 2\n", "[search]\nrank = [2, 8]\n", "trial 001 (rank=4) is not in the file"),
        ("max-steps = 2\nalpha = 32\n", "[search]\nrank = [2, 4, 8]\n", "alpha: it has 16.0, the file 32.0"),
        ("max-steps = 3\n", "[search]\nrank = [2, 4, 8]\n", "max-steps: it has 2, the file 3"),
    ] {
        place.write_file(more, search);
        let refused = place.sweep(&[]);
        assert_eq!(refused.status.code(), Some(1), "{told}");
        assert!(text(&refused.stderr).contains(told), "{}", text(&refused.stderr));
    }
}

#[test]
fn a_failed_trial_is_recorded_and_the_others_go_on() {
    // Such a rate makes the factors infinite after a step.
    let place = Place::new(
        "max-steps = 6\nwarmup-ratio = 0\nmax-grad-norm = 0\n",
        "[search]\nweight-decay = [0.0, 1e300, 0.1]\n",
    );
    let output = place.sweep(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("1 of 3 trials failed: 001"), "{}", text(&output.stderr));
    let states: Vec<String> =
        place.rows().iter().map(|row| row["state"].as_str().expect("a state").to_owned()).collect();
    assert_eq!(states, ["finished", "failed", "finished"]);
    let log = fs::read_to_string(place.trial(1).join("trial.jsonl")).expect("the log");
    assert!(log.lines().last().expect("a line").contains("\"failed\""), "{log}");
}

#[test]
fn trials_that_do_not_fit_together_are_refused_with_the_number_that_does() {
    let place = Place::new("max-steps = 2\nrecompute = \"none\"\n", GRID);
    let planned = |n: &str| -> u64 {
        let output = place.sweep(&["--trials-at-once", n, "--dry-run", "--json"]);
        assert_ended_well(&output);
        serde_json::from_str::<Value>(&text(&output.stdout)).expect("an object")["planned_bytes"]
            .as_u64()
            .expect("bytes")
    };
    let (two, three) = (planned("2"), planned("3"));
    assert!(two < three);
    assert!(!place.path("s").exists(), "a dry run leaves nothing behind");
    let limit = format!("max-steps = 2\nrecompute = \"none\"\nmemory = \"{}B\"\n", (two + three) / 2);
    place.write_file(&limit, GRID);
    let refused = place.sweep(&["--trials-at-once", "3"]);
    assert_eq!(refused.status.code(), Some(1));
    let error = text(&refused.stderr);
    assert!(error.contains("3 trials at once need") && error.contains("--trials-at-once 2 fits"), "{error}");
    assert!(!place.path("s/trials").exists(), "refused before the first trial");
    assert_ended_well(&place.sweep(&["--trials-at-once", "2"]));
}

#[test]
fn early_stop_gives_up_trials_that_are_worse_than_the_median() {
    let search = "[search]\nlr = [5e-3, 6e-3, 7e-3, 1e-9]\n[sweep]\nearly-stop = true\n";
    let place = Place::new("max-steps = 30\neval-every = 5\n", search);
    assert_ended_well(&place.sweep(&[]));
    let last = &place.rows()[3];
    assert_eq!(last["state"], "stopped");
    assert!(last["step"].as_u64().expect("steps") < 30);
}

#[test]
fn trials_are_compared_by_the_answers_that_eval_counts() {
    let search = "[search]\nlr = [1e-9, 1e-2]\n[sweep]\nmetric = \"exact_match\"\nmax-new-tokens = 16\n";
    let place = Place::new("max-steps = 400\n", search);
    let output = place.sweep(&["--trials-at-once", "2"]);
    assert_ended_well(&output);
    assert!(text(&output.stdout).contains("exact_match: highest is best"), "{}", text(&output.stdout));
    let shares: Vec<f64> = place.rows().iter().map(|row| row["metric"].as_f64().expect("a share")).collect();
    for (number, share) in shares.iter().enumerate() {
        let trial = place.trial(number);
        let arguments =
            ["eval", "--model", MODEL, "--adapter", trial.to_str().expect("a path"), "--data", "dev.jsonl"];
        let more = ["--generate", "--max-new-tokens", "16", "--json", "--threads", "2"];
        let output = place.run(&[&arguments[..], &more].concat());
        assert_ended_well(&output);
        let found: Value = serde_json::from_str(&text(&output.stdout)).expect("an object");
        assert_eq!(found["metrics"]["exact_match"]["mean"].as_f64(), Some(*share), "trial {number}");
    }
    assert!(shares[0] == 0.0 && shares[1] > 0.5, "the one that learns knows its rows by heart: {shares:?}");
    let winner = fs::read_to_string(place.path("s/winner.toml")).expect("the winner");
    assert!(winner.contains("lr = 0.01"), "the highest is the best: {winner}");
    let told = place.run(&["report", "s", "--out", "page.html"]);
    assert_ended_well(&told);
    assert!(fs::read_to_string(place.path("page.html")).expect("the page").contains("exact_match over lr"));
}

#[test]
fn a_signal_while_answering_stops_at_once_and_no_step_is_taken_again() {
    // So little learnt that no answer ends by itself: some seconds of answering, with a context that has room for them.
    let search = "[search]\nlr = [1e-9]\n[sweep]\nmetric = \"exact_match\"\nmax-new-tokens = 4000\n";
    let place = Place::new("max-steps = 4\ncheckpoint-every = 1\n", search);
    place.lengthen_context();
    let mut command = place.command(&["sweep", "sweep.toml", "--out", "s"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    let trial = place.trial(0);
    // The result is saved when the training is over.
    wait_until(&mut child, || trial.join("adapter_model.safetensors").exists());
    std::thread::sleep(Duration::from_millis(100));
    let refused = place.run(&["train", "--resume", trial.to_str().expect("a path")]);
    assert!(text(&refused.stderr).contains("process"), "it is locked: {}", text(&refused.stderr));
    let signalled = Instant::now();
    // SAFETY: sends a signal to a process of ours that has not been waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    assert_eq!(child.wait().expect("ends").code(), Some(130));
    // A token takes a millisecond; all of them several seconds.
    assert!(signalled.elapsed() < Duration::from_secs(1), "{:?}", signalled.elapsed());
    assert_eq!(place.rows()[0]["metric"], Value::Null, "a loss is not taken for the metric");
    let log = || fs::read_to_string(trial.join("trial.jsonl")).expect("the log");
    assert!(!log().contains("came"), "{}", log());
    let metrics = fs::read(trial.join("metrics.jsonl")).expect("the log");

    assert_ended_well(&place.sweep(&[]));
    assert!(log().contains("\"metric\":0.0"), "{}", log());
    assert!(fs::read(trial.join("metrics.jsonl")).expect("the log") == metrics, "no step was taken again");
}

/// Keys and values of one answer of 60,000 tokens: 2 layers of 2 heads of 8 values each (fixtures/models/chat_bpe), in f32,
/// 15 MB. The training takes less than 2 MB, and is over by then.
#[test]
fn the_memory_of_answers_is_planned() {
    let planned = |metric: &str| -> u64 {
        let search =
            format!("[search]\nrank = [2]\n[sweep]\nmetric = \"{metric}\"\nmax-new-tokens = 60000\n");
        let place = Place::new("max-steps = 2\n", &search);
        place.lengthen_context();
        let output = place.sweep(&["--dry-run", "--json"]);
        assert_ended_well(&output);
        serde_json::from_str::<Value>(&text(&output.stdout)).expect("an object")["planned_bytes"]
            .as_u64()
            .expect("bytes")
    };
    let cache = 60_000 * 2 * 4 * 2 * 2 * 8;
    let more = planned("exact_match") - planned("eval_loss");
    assert!((cache - (2 << 20)..cache + (2 << 20)).contains(&more), "{more} bytes for a cache of {cache}");
}

/// Settings of a sweep with seeds as `--json` gives them.
fn result(output: &Output) -> Value {
    serde_json::from_str(&text(&output.stdout)).expect("an object")
}

#[test]
fn settings_have_the_mean_of_their_seeds_and_the_winner_leads_beyond_its_standard_error() {
    let search = "[search]\nlr = [1e-9, 2e-2]\n[sweep]\nseeds = 3\n";
    let place = Place::new("max-steps = 6\n", search);
    // In parts, as an array of jobs does it: a setting has seeds in both.
    for part in ["1/2", "2/2"] {
        assert_ended_well(&place.sweep(&["--shard", part]));
    }
    let rows = place.rows();
    let metrics: Vec<f64> = rows.iter().map(|row| row["metric"].as_f64().expect("a loss")).collect();
    let seeds: Vec<u64> = rows.iter().map(|row| row["options"]["seed"].as_u64().expect("a seed")).collect();
    assert_eq!(seeds, [0, 1, 2, 0, 1, 2]);
    let found = result(&place.sweep(&["--json"]));
    let [best, other] = &found["settings"].as_array().expect("a list")[..] else { panic!("{found}") };
    for (setting, of_seeds) in [(other, &metrics[..3]), (best, &metrics[3..])] {
        let mean = of_seeds.iter().sum::<f64>() / 3.0;
        let squares: f64 = of_seeds.iter().map(|metric| (metric - mean).powi(2)).sum();
        let number = |key: &str| setting[key].as_f64().expect("a number");
        assert!((number("metric") - mean).abs() < 1e-12, "{setting}");
        assert!((number("standard_error") - (squares / 6.0).sqrt()).abs() < 1e-12, "{setting}");
        assert_eq!(number("finished"), 3.0);
    }
    assert_eq!((&found["best"], &best["options"]), (&3.into(), &serde_json::json!({ "lr": 2e-2 })));
    assert_eq!((&best["is_level"], &other["is_level"]), (&true.into(), &false.into()));
    assert_eq!(rows[4]["setting"]["mean"], best["metric"]);
    // Without an adapter all trials have the same loss; nothing is learnt at such a rate.
    let base = rows[0]["base_loss"].as_f64().expect("a loss");
    assert!(
        rows.iter().all(|row| row["base_loss"].as_f64() == Some(base)) && (metrics[0] - base).abs() < 1e-4
    );

    let csv = fs::read_to_string(place.path("s/trials.csv")).expect("the table");
    assert!(csv.starts_with("trial,state,lr,seed,metric,metric_low,metric_high,setting_mean,setting_standard_error,setting_seeds,step,"), "{csv}");
    let csv = fs::read_to_string(place.path("s/settings.csv")).expect("the table");
    assert!(csv.starts_with("lr,metric,standard_error,finished,trials,is_level\n0.02,"), "{csv}");
    let told = text(&place.sweep(&[]).stdout);
    assert!(
        told.contains(" ± ") && told.contains("\nbest: lr=0.02: ") && told.contains(", ahead of lr=1e-9 by "),
        "{told}"
    );
    assert_ended_well(&place.run(&["train", "--config", "s/winner.toml", "--out", "w"]));
    assert!(adapter(&place.path("w")) == adapter(&place.trial(3)));

    assert_ended_well(&place.run(&["report", "s", "--out", "page.html", "--figures", "f"]));
    let page = fs::read_to_string(place.path("page.html")).expect("the page");
    for part in ["Settings, the best mean", "class=\"whiskers\"", "base loss", "Best: lr=0.02: "] {
        assert!(page.contains(part), "no {part}");
    }
}

#[test]
fn level_settings_have_no_winner_and_more_seeds_are_added() {
    // The smaller decay is none in f32.
    let search = |seeds: &str| format!("[search]\nweight-decay = [0.0, 1e-12]\n[sweep]\nseeds = {seeds}\n");
    let place = Place::new("max-steps = 3\nseed = 7\n", &search("2"));
    let found = result(&place.sweep(&["--json"]));
    assert!(found["best"].is_null() && found["command"].is_null(), "{found}");
    assert!(found["verdict"].as_str().expect("text").starts_with("level, as their differences"), "{found}");
    assert!(!place.path("s/winner.toml").exists() && found["config"].is_null(), "{found}");
    place.write_file("max-steps = 3\nseed = 7\n", &search("3"));
    assert_ended_well(&place.sweep(&[]));
    let seeds: Vec<u64> =
        place.rows().iter().map(|row| row["options"]["seed"].as_u64().expect("a seed")).collect();
    assert_eq!(seeds, [7, 8, 7, 8, 9, 9], "trials keep their numbers");
    place.write_file("max-steps = 3\nseed = 7\n", &search("2"));
    let refused = place.sweep(&[]);
    assert!(
        text(&refused.stderr).contains("trial 004 (weight-decay=0.0 seed=9) is not in the file"),
        "{}",
        text(&refused.stderr)
    );
}

/// A trial takes of its buffers what it writes, also where an earlier trial wrote to all of theirs. Each trial has a peak of its own.
#[test]
#[cfg(target_os = "linux")]
fn a_trial_takes_no_more_than_the_first() {
    let place = Place::new(
        "method = \"full\"\ninit = \"random\"\nmax-steps = 3\nmicro-batch-tokens = 4096\nmax-seq-len = 512\n\
         gradient-accumulation = 8\nrecompute = \"none\"\n",
        "[search]\nseed = [1, 2, 4]\n",
    );
    // Many buffers of some hundred KiB, which an allocator takes from what was freed.
    place.edit_model(&[
        ("\"hidden_size\": 32", "\"hidden_size\": 64"),
        ("\"intermediate_size\": 64", "\"intermediate_size\": 128"),
        ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 24"),
        ("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4"),
        ("\"head_dim\": 8", "\"head_dim\": 16"),
    ]);
    let text = fs::read_to_string(place.path("sweep.toml")).expect("text");
    fs::write(place.path("sweep.toml"), text.replace("dropout = 0.1\n", "")).expect("written");
    // There is room for sixteen long rows, and one comes.
    let row = |i: usize| {
        let words = if i == 5 { 60 } else { 2 };
        let question: String = (0..words).map(|word| format!("{}{i} ", word * 7 + i)).collect();
        let chat = serde_json::json!({ "messages": [
            { "role": "user", "content": question },
            { "role": "assistant", "content": format!("so {}", i * i) },
        ] });
        format!("{chat}\n")
    };
    fs::write(place.path("rows.jsonl"), (0..26).map(row).collect::<String>()).expect("written");
    assert_ended_well(&place.sweep(&[]));
    let mut peaks: Vec<(u64, u64)> = place
        .rows()
        .iter()
        .map(|row| {
            let number = |key: &str| row[key].as_u64().expect("a number");
            (number("trial"), number("peak_rss_bytes"))
        })
        .collect();
    peaks.sort_unstable();
    assert!(peaks[1..].iter().all(|(_, peak)| *peak <= peaks[0].1 + (3 << 20)), "{peaks:?}");
}

/// A flag of train that is typed behind `sweep` is a key of its file, and names of other programs are known.
#[test]
fn flags_that_are_keys_of_the_file_are_said_to_be() {
    let place = Place::new("", GRID);
    for (typed, told) in [
        (&["--threads", "2"][..], "tip: set it in the sweep file: threads = VALUE"),
        (&["--batch_size=2"], "tip: set it in the sweep file: batch-size = VALUE"),
        (&["--learning-rate", "1"], "tip: set it in the sweep file: lr = VALUE"),
        (&["--parallel", "2"], "tip: the flag is called --trials-at-once"),
        (&["--dry-rum"], "tip: a similar argument exists: '--dry-run'"),
    ] {
        let output = place.sweep(typed);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(told), "{typed:?}: {error}");
        assert!(!error.contains("--shard"), "{typed:?}: {error}");
    }
    let error = text(&place.sweep(&["--qqq"]).stderr);
    assert!(error.contains("unexpected argument '--qqq'") && !error.contains("tip:"), "{error}");
}

#[test]
fn mistakes_in_a_sweep_file_are_named_with_their_line() {
    for (more, search, told) in [
        ("", "[sweep]\nseeds = 1\n", "line 10: `seeds`: expected how many, from 2 to 1000, or a list"),
        ("", "[sweep]\nseeds = [1, 1]\n", "a list of different seeds such as [0, 1, 2], found [1,1]"),
        ("seed = 1", "[sweep]\nseeds = [1, 2]\n", "`seeds` as a list and `seed` exclude each other"),
        ("", "[search]\nseed = [1, 2]\n[sweep]\nseeds = 2\n", "a search over `seed` exclude each other"),
        (
            "",
            "[sweep]\nstrategy = \"asha\"\nmin-steps = 1\nseeds = 2\n",
            "for the luck of one seed\nhint: search without",
        ),
        ("eval-every = 1", "[sweep]\nearly-stop = true\nseeds = 2\n", "`seeds` with `early-stop`"),
        ("", "[search]\nrnak = [2]\n", "line 10: unknown key `rnak`\nhint: did you mean `rank`?"),
        (
            "",
            "[search]\nrank = [2, \"x\"]\n",
            "line 10: `rank`: expected a whole number, 0 or more, found string \"x\"",
        ),
        ("", "[search]\nrank = 2\n", "line 10: `rank`: expected a list of values"),
        ("", "[search]\nrank = []\n", "line 10: `rank`: expected one value at least"),
        ("", "[search]\nweight-decay = { log-uniform = [0, 1] }\n", "begins above 0"),
        ("", "[search]\nweight-decay = { uniform = [1, 0] }\n", "two numbers, the lower first"),
        ("", "[search]\nweight-decay = { uniform = [0.1, 0.2] }\n", "is a range, which has no grid"),
        (
            "rank = 8",
            "[search]\nrank = [2]\n",
            "line 10: `rank` is set twice\nhint: give it one value or search it",
        ),
        (
            "",
            "[search]\nthreads = [1]\n",
            "line 10: `threads` cannot be searched: it is the same for all trials\nhint: give it one value, above",
        ),
        ("", "[serach]\nrank = [2]\n", "unknown table [serach]\nhint: did you mean [search]?"),
        ("", "[other]\nrank = [2]\n", "unknown table [other]\nhint: its tables are [search] and [sweep]"),
        ("max-steps = 3", "[search]\nepochs = [1]\n", "`epochs` and `max-steps` exclude each other"),
        (
            "",
            "[sweep]\nstrtegy = \"grid\"\n",
            "unknown key `strtegy` in [sweep]\nhint: did you mean `strategy`?",
        ),
        ("", "[sweep]\nstrategy = \"random\"\n", "needs `trials = N`"),
        ("", "[sweep]\nstrategy = \"asha\"\n", "needs `min-steps = N`"),
        ("", "[sweep]\nearly-stop = true\n", "needs `eval-every`"),
        (
            "",
            "[sweep]\nmetric = \"exact_match\"\ndirection = \"minimize\"\n",
            "line 11: `direction`: exact_match is best where it is highest",
        ),
        ("", "[sweep]\nmax-new-tokens = 0\n", "`max-new-tokens` 0: must be 1 or more"),
        ("", "[search]\nrank = [0]\n", "trial 000 (rank=0)\n  `rank = 0`: must be 1 or more"),
    ] {
        let place = Place::new(more, search);
        let refused = place.sweep(&["--dry-run"]);
        assert_eq!(refused.status.code(), Some(2), "{search}: {}", text(&refused.stderr));
        assert!(text(&refused.stderr).contains(told), "{search}: {}", text(&refused.stderr));
    }
}

#[test]
fn a_sweep_in_yaml_is_the_same_sweep() {
    let place = Place::new("max-steps = 2\n", "[search]\nrank = [2, 4]\n");
    let yaml = format!(
        "model: {MODEL}\ndata: rows.jsonl\neval_data: dev.jsonl\ndropout: 0.1\nlr: 5e-3\nbatch_size: 2\nthreads: 2\n\
         max_steps: 2\nsearch:\n  rank: [2, 4]\n"
    );
    fs::write(place.path("sweep.yaml"), yaml).expect("written");
    assert_ended_well(&place.sweep(&[]));
    // The sweep that is there is found to be the same.
    assert_ended_well(&place.run(&["sweep", "sweep.yaml", "--out", "s"]));
}
