//! The binary, stopped in every way there is: a run that goes on has the bits of one that was never stopped.
//!
//! `LORAFIT_KILLS` sets how often a run is killed (20 without it; `scripts/kill_test.sh` sets 200), `LORAFIT_KILL_SEED`
//! when.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tempfile::TempDir;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_bpe");

/// A folder with rows, in which runs are made.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new(rows: usize, held_out: usize) -> Self {
        let dir = TempDir::new().expect("a folder");
        let write = |name: &str, rows: usize| {
            let row = |i: usize| {
                let question = "why ".repeat(1 + i % 5);
                let chat = serde_json::json!({ "messages": [
                    { "role": "user", "content": format!("{question}{i}?") },
                    { "role": "assistant", "content": format!("so {}", i * i) },
                ] });
                format!("{chat}\n")
            };
            fs::write(dir.path().join(name), (0..rows).map(row).collect::<String>()).expect("written");
        };
        write("rows.jsonl", rows);
        write("dev.jsonl", held_out);
        Place { dir }
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

    fn spawn(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        // Nobody reads, and a full pipe would stop the process.
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts")
    }
}

/// A run of which everything matters: shuffled, dropout, accumulation, 6.5 steps an epoch.
#[rustfmt::skip]
const TRAIN: [&str; 30] = [
    "train", "--model", MODEL, "--data", "rows.jsonl", "--out", "run", "--rank", "4", "--dropout", "0.1",
    "--batch-size", "2", "--gradient-accumulation", "2", "--max-steps", "24", "--lr", "5e-3",
    "--checkpoint-every", "3", "--eval-data", "dev.jsonl", "--eval-every", "5", "--threads", "1", "--log=json",
    "--preset", "off",
];

fn train_with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&TRAIN[..], more].concat()
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn assert_ended_well(output: &Output, what: &str) {
    assert!(output.status.success(), "{what}: {:?}\n{}", output.status, error(output));
}

/// Every file of a run but the lock and what depends on time: the clock, and the sums that it is in.
fn content(run: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![run.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).expect("lists").map(|entry| entry.expect("lists").path()) {
            let name = path.strip_prefix(run).expect("below").to_owned();
            let keep = |keys: &[&str], text: &str| {
                let mut object: Map<String, Value> = serde_json::from_str(text).expect("a whole object");
                object.retain(|key, _| !keys.contains(&&key[..]));
                Value::Object(object).to_string()
            };
            let text = || fs::read_to_string(&path).expect("reads");
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with("state.json") {
                files.insert(name, keep(&["clock"], &text()).into_bytes());
            } else if name.ends_with("run.json") {
                // When and by which command a run was begun.
                files.insert(name, keep(&["command", "began"], &text()).into_bytes());
            } else if name.extension().is_some_and(|e| e == "jsonl") {
                let timed = ["seconds", "tokens_per_s", "peak_rss_bytes"];
                let lines: Vec<String> = text().lines().map(|line| keep(&timed, line)).collect();
                files.insert(name, lines.join("\n").into_bytes());
            } else if !name.ends_with("lock") && !name.ends_with("BLAKE3SUMS") {
                files.insert(name, fs::read(&path).expect("reads"));
            }
        }
    }
    files
}

fn assert_same(found: &BTreeMap<PathBuf, Vec<u8>>, expected: &BTreeMap<PathBuf, Vec<u8>>, what: &str) {
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{what}");
    for (name, bytes) in found {
        assert!(*bytes == expected[name], "{what}: {} differs", name.display());
    }
}

/// SplitMix64.
struct Draws(u64);

impl Draws {
    /// Uniform in [0, 1).
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The folder of a save under way.
fn partial(run: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(run.join("checkpoints")).ok()?;
    entries.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "partial"))
}

fn wait_for<T>(child: &mut Child, mut what: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        if let Some(found) = what() {
            return Some(found);
        }
        if child.try_wait().expect("waits").is_some() || started.elapsed() > Duration::from_secs(120) {
            return None;
        }
        std::thread::sleep(Duration::from_micros(50));
    }
}

fn lines(path: &Path) -> usize {
    fs::read(path).map(|bytes| bytes.iter().filter(|b| **b == b'\n').count()).unwrap_or(0)
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: sends a signal to a process of ours that has not been waited for.
    unsafe { libc::kill(child.id() as i32, signal) };
}

/// Goes on with a run, or begins again if it was killed before there was anything.
fn resume(place: &Place) -> Output {
    match place.path("run/config.toml").exists() {
        true => place.run(&["train", "--resume", "run"]),
        false => place.run(&train_with(&["--overwrite"])),
    }
}

#[test]
fn a_run_killed_at_random_moments_ends_with_the_bits_of_one_that_was_not() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |n| n.parse().expect(name));
    let kills = number("LORAFIT_KILLS", 20);
    let mut draws = Draws(number("LORAFIT_KILL_SEED", 1));
    let whole = Place::new(26, 5);
    let started = Instant::now();
    assert_ended_well(&whole.run(&TRAIN), "the uninterrupted run");
    let duration = started.elapsed();
    let expected = content(&whole.path("run"));
    assert_eq!(lines(&whole.path("run/metrics.jsonl")), 24);

    let (mut done, mut tries) = (0, 0);
    while done < kills {
        tries += 1;
        assert!(tries < 50 * kills, "{done} kills of {kills} after {tries} tries");
        let place = Place::new(26, 5);
        let run = place.path("run");
        let inside_save = done % 2 == 1;
        let mut child = place.spawn(&TRAIN);
        if inside_save {
            // One of the first seven saves, at some moment of it.
            let after = (draws.uniform() * 7.0) as usize * 3;
            let save = || partial(&run).filter(|_| lines(&run.join("metrics.jsonl")) >= after);
            let found = wait_for(&mut child, save).is_some();
            let pause = Duration::from_secs_f64(draws.uniform() * 0.01);
            let until = Instant::now();
            while found && until.elapsed() < pause {}
        } else {
            std::thread::sleep(duration.mul_f64(draws.uniform()));
        }
        child.kill().expect("sends");
        let killed = child.wait().expect("ends").signal() == Some(libc::SIGKILL);
        // What is left behind is the proof of where it was.
        if !killed || (inside_save && partial(&run).is_none()) {
            continue;
        }
        done += 1;
        let what = format!("kill {done}, inside a save: {inside_save}");
        assert_ended_well(&resume(&place), &what);
        assert_same(&content(&run), &expected, &what);
    }
    println!("{done} of {kills} kills resumed to the same bits, {} of them inside a save", kills / 2);
}

#[test]
fn the_first_signal_saves_and_ends_with_its_code() {
    for (number, code, phase) in
        [(libc::SIGINT, 130, "step"), (libc::SIGTERM, 143, "step"), (libc::SIGTERM, 143, "save")]
    {
        let place = Place::new(26, 5);
        let mut child = place.spawn(&TRAIN.map(|flag| if flag == "24" { "100000" } else { flag }));
        let run = place.path("run");
        let reached = || match phase {
            "save" => partial(&run).map(drop),
            _ => (lines(&run.join("metrics.jsonl")) > 3).then_some(()),
        };
        wait_for(&mut child, reached).expect("gets there");
        signal(&child, number);
        assert_eq!(child.wait().expect("ends").code(), Some(code), "signal {number} in phase {phase}");
        let steps = lines(&run.join("metrics.jsonl"));
        assert!(
            run.join(format!("checkpoints/step-{steps:08}/BLAKE3SUMS")).exists(),
            "{phase}: {steps} steps"
        );
        assert!(run.join("adapter_model.safetensors").exists());
        assert!(partial(&run).is_none());
    }
}

#[test]
fn a_second_signal_ends_the_process_without_harm() {
    let place = Place::new(26, 5);
    let mut child = place.spawn(&TRAIN);
    wait_for(&mut child, || (lines(&place.path("run/metrics.jsonl")) > 3).then_some(())).expect("trains");
    signal(&child, libc::SIGTERM);
    signal(&child, libc::SIGTERM);
    let code = child.wait().expect("ends").code();
    assert_eq!(code, Some(143));
    assert_ended_well(&resume(&place), "resumed");
    let whole = Place::new(26, 5);
    assert_ended_well(&whole.run(&TRAIN), "uninterrupted");
    assert_same(&content(&place.path("run")), &content(&whole.path("run")), "after two signals");
}

#[test]
fn sigusr1_saves_and_the_run_goes_on() {
    let place = Place::new(26, 5);
    let flags = TRAIN.map(|flag| match flag {
        "24" => "100000",
        "3" => "0",
        flag => flag,
    });
    let mut child = place.spawn(&flags);
    let metrics = place.path("run/metrics.jsonl");
    wait_for(&mut child, || (lines(&metrics) > 3).then_some(())).expect("trains");
    assert!(!place.path("run/checkpoints").exists());
    signal(&child, libc::SIGUSR1);
    let saved = || fs::read_dir(place.path("run/checkpoints")).ok()?.flatten().next();
    wait_for(&mut child, saved).expect("a checkpoint");
    let after = lines(&metrics);
    wait_for(&mut child, || (lines(&metrics) > after + 3).then_some(())).expect("goes on");
    signal(&child, libc::SIGINT);
    assert_eq!(child.wait().expect("ends").code(), Some(130));
}

#[test]
fn a_signal_before_the_first_step_leaves_a_folder_that_can_be_used() {
    // Long enough to be met while it is tokenised.
    let place = Place::new(30_000, 5);
    for pause in [0, 200] {
        let mut child = place.spawn(&TRAIN);
        wait_for(&mut child, || place.path("run/lock").exists().then_some(())).expect("begins");
        std::thread::sleep(Duration::from_millis(pause));
        signal(&child, libc::SIGTERM);
        let status = child.wait().expect("ends");
        assert!(status.signal() == Some(libc::SIGTERM) || status.code() == Some(143), "{status:?}");
        let begun = place.path("run/metrics.jsonl").exists();
        assert_eq!(begun, place.path("run/config.toml").exists());
    }
    assert_ended_well(&resume(&place), "used again");
}

#[test]
fn a_signal_ends_a_long_evaluation_which_is_made_again() {
    let place = Place::new(26, 20_000);
    let flags = TRAIN.map(|flag| if flag == "24" { "2" } else { flag });
    let flags = flags.map(|flag| if flag == "5" { "1" } else { flag });
    let mut child = place.spawn(&flags);
    wait_for(&mut child, || (lines(&place.path("run/metrics.jsonl")) == 1).then_some(())).expect("trains");
    signal(&child, libc::SIGTERM);
    assert_eq!(child.wait().expect("ends").code(), Some(143));
    // That before the first step is there.
    assert_eq!(lines(&place.path("run/evaluations.jsonl")), 1);
    assert_ended_well(&resume(&place), "resumed");
    assert_eq!(lines(&place.path("run/evaluations.jsonl")), 3);
}

#[test]
fn a_signal_ends_the_evaluation_before_the_first_step_which_is_made_again() {
    let place = Place::new(26, 20_000);
    let flags = TRAIN.map(|flag| if flag == "24" { "2" } else { flag });
    let mut child = place.spawn(&flags);
    wait_for(&mut child, || place.path("run/run.json").exists().then_some(())).expect("begins");
    signal(&child, libc::SIGTERM);
    assert_eq!(child.wait().expect("ends").code(), Some(143));
    assert_eq!(lines(&place.path("run/evaluations.jsonl")), 0);
    assert_ended_well(&resume(&place), "resumed");
    let records = fs::read_to_string(place.path("run/evaluations.jsonl")).expect("records");
    assert!(records.starts_with("{\"step\":0,"), "{records}");
    assert!(place.path("run/verdict.json").exists());
}

#[test]
fn a_second_run_on_a_folder_is_refused_and_status_sees_the_first() {
    let place = Place::new(26, 5);
    let mut child = place.spawn(&TRAIN.map(|flag| if flag == "24" { "100000" } else { flag }));
    wait_for(&mut child, || (lines(&place.path("run/metrics.jsonl")) > 6).then_some(())).expect("trains");
    for arguments in [train_with(&["--overwrite"]), vec!["train", "--resume", "run"]] {
        let refused = place.run(&arguments);
        assert_eq!(refused.status.code(), Some(1));
        let told = format!("run is in use by process {}", child.id());
        assert!(error(&refused).contains(&told), "{}", error(&refused));
    }
    let status = place.run(&["status", "run", "--json"]);
    let status: Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!((&status["running"], &status["process"]), (&true.into(), &child.id().into()));
    assert!(status["step"].as_u64() > Some(6) && status["total_steps"] == 100_000, "{status}");
    assert!(status["loss"].as_f64() > Some(0.0) && status["seconds_left"].as_f64() > Some(0.0), "{status}");
    assert!(status["checkpoint"]["step"].as_u64() >= Some(3), "{status}");
    signal(&child, libc::SIGTERM);
    child.wait().expect("ends");
    let status = String::from_utf8(place.run(&["status", "run"]).stdout).expect("text");
    assert!(
        status.starts_with("stopped; go on with") && status.contains("last checkpoint after step"),
        "{status}"
    );
    assert_eq!(place.run(&["status", "nowhere"]).status.code(), Some(1));
}

/// A model folder of one's own, to be changed.
fn own_model(place: &Place) -> String {
    let model = place.path("model");
    fs::create_dir(&model).expect("made");
    for entry in fs::read_dir(MODEL).expect("lists").map(|entry| entry.expect("lists")) {
        if entry.path().is_file() {
            fs::copy(entry.path(), model.join(entry.file_name())).expect("copied");
        }
    }
    "model".to_owned()
}

#[allow(clippy::too_many_lines, reason = "a table of cases")]
#[test]
fn whatever_changes_the_arithmetic_is_refused_by_name() {
    let place = Place::new(26, 5);
    let model = own_model(&place);
    let flags = TRAIN.map(|flag| match flag {
        "24" => "4",
        flag if flag == MODEL => &model,
        flag => flag,
    });
    assert_ended_well(&place.run(&flags), "the run");
    let refused = |more: &[&str], name: &str| {
        let output = place.run(&[&["train", "--resume", "run"], more].concat());
        assert_eq!(output.status.code(), Some(1), "{name}");
        let told = match name {
            "steps" => "--max-steps or --epochs: it has 4 steps, and would have 9".to_owned(),
            "data" => "--data: the rows".to_owned(),
            "held-out data" => "--eval-data or --validation: the rows".to_owned(),
            "tokenizer" => "--template, or the model's tokenizer".to_owned(),
            "base" => "--model: its files differ".to_owned(),
            "lorafit" => "lorafit itself: it was version other".to_owned(),
            "instruction set" => "the processor: it computed with other".to_owned(),
            flag => format!("--{flag}: in the run it "),
        };
        let told = format!("\n  {told}");
        assert!(error(&output).contains(&told), "{name}: {}", error(&output));
    };
    for (flag, value, name) in [
        ("--lr", "1e-3", "lr"),
        ("--rank", "8", "rank"),
        ("--alpha", "4", "alpha"),
        ("--dropout", "0.2", "dropout"),
        ("--target-modules", "q_proj", "target-modules"),
        ("--layers", "0", "layers"),
        ("--rank-pattern", "q_proj=2", "rank-pattern"),
        ("--alpha-pattern", "q_proj=2", "alpha-pattern"),
        ("--exclude-modules", "q_proj", "exclude-modules"),
        ("--lora-plus-ratio", "4", "lora-plus-ratio"),
        ("--label-smoothing", "0.1", "label-smoothing"),
        ("--neftune-alpha", "5", "neftune-alpha"),
        ("--average", "ema:0.9", "average"),
        ("--optimizer", "adamw-8bit", "optimizer"),
        ("--scheduler", "linear", "scheduler"),
        ("--warmup-ratio", "0.5", "warmup-ratio"),
        ("--weight-decay", "0.1", "weight-decay"),
        ("--max-grad-norm", "2", "max-grad-norm"),
        ("--batch-size", "1", "batch-size"),
        ("--gradient-accumulation", "3", "gradient-accumulation"),
        ("--max-steps", "9", "steps"),
        ("--seed", "9", "seed"),
        ("--max-seq-len", "99", "max-seq-len"),
        ("--train-on", "all", "data"),
        ("--micro-batch-tokens", "99", "micro-batch-tokens"),
        ("--micro-batches-at-once", "3", "micro-batches-at-once"),
        ("--template", "alpaca", "tokenizer"),
        ("--quant", "int8", "quant"),
        ("--data", "dev.jsonl", "data"),
        ("--eval-data", "rows.jsonl", "held-out data"),
    ] {
        refused(&[flag, value], name);
    }
    refused(&["--rslora"], "rslora");
    refused(&["--eval-every", "2", "--patience", "3"], "patience");
    refused(&["--no-shuffle"], "no-shuffle");
    refused(&["--no-prefix-sharing"], "no-prefix-sharing");
    refused(&["--skip-loss-spikes"], "skip-loss-spikes");
    let changed = |file: &str, change: &dyn Fn(&mut Vec<u8>), name: &str| {
        let path = place.path(file);
        let before = fs::read(&path).expect("reads");
        let mut bytes = before.clone();
        change(&mut bytes);
        fs::write(&path, bytes).expect("writes");
        refused(&[], name);
        fs::write(&path, before).expect("writes");
    };
    changed("rows.jsonl", &|bytes| bytes.extend_from_within(..), "data");
    changed("model/model.safetensors", &|bytes| *bytes.last_mut().expect("bytes") ^= 1, "base");
    changed("model/chat_template.jinja", &|bytes| bytes.extend(b"{# #}"), "tokenizer");

    // Another version, another processor: what the checkpoint says is changed, its sum with it.
    let checkpoint = place.path("run/checkpoints/step-00000004");
    let (state, sums) = (checkpoint.join("state.json"), checkpoint.join("BLAKE3SUMS"));
    let (text, whole_sums) =
        (fs::read_to_string(&state).expect("reads"), fs::read_to_string(&sums).expect("reads"));
    let value: Value = serde_json::from_str(&text).expect("JSON");
    for name in ["lorafit", "instruction set", "device"] {
        let old = format!("\"{name}\": {}", value["identity"][name]);
        let new = text.replace(&old, &format!("\"{name}\": \"other\""));
        assert_ne!(new, text, "{name}");
        let hash = |text: &str| blake3::hash(text.as_bytes()).to_hex().to_string();
        fs::write(&sums, whole_sums.replace(&hash(&text), &hash(&new))).expect("writes");
        fs::write(&state, new).expect("writes");
        refused(&[], name);
    }
    fs::write(&sums, whole_sums).expect("writes");
    fs::write(&state, text).expect("writes");

    let overridden =
        place.run(&["train", "--resume", "run", "--resume-anyway", "--max-steps", "6", "--lr", "1e-3"]);
    assert_ended_well(&overridden, "--resume-anyway");
    let told = error(&overridden);
    assert!(told.contains("overridden: lr was 0.005, is 0.001"), "{told}");
    assert!(told.contains("overridden: steps was 4, is 6"), "{told}");
    assert_eq!(lines(&place.path("run/metrics.jsonl")), 6);
    let fixed = place.run(&["train", "--resume", "run", "--resume-anyway", "--rank", "8"]);
    assert_eq!(fixed.status.code(), Some(1));
    assert!(error(&fixed).contains("--resume-anyway cannot change rank from 4 to 8"), "{}", error(&fixed));
}

/// What a run found when it began it keeps, and `auto` says that.
#[test]
fn automatic_settings_are_those_that_the_run_found() {
    let place = Place::new(26, 5);
    let flags = TRAIN.map(|flag| if flag == "24" { "4" } else { flag });
    assert_ended_well(&place.run(&flags), "the run");
    for flag in [
        "--lr",
        "--micro-batch-tokens",
        "--micro-batches-at-once",
        "--frozen-cache",
        "--recompute",
        "--device",
    ] {
        let output = place.run(&["train", "--resume", "run", flag, "auto"]);
        assert_ended_well(&output, flag);
        let kept = fs::read_to_string(place.path("run/config.toml")).expect("reads");
        assert!(kept.contains("lr = 0.005") && kept.contains("micro-batch-tokens = 512"), "{flag}: {kept}");
        assert!(kept.contains("micro-batches-at-once = 1"), "{flag}: {kept}");
    }
    // An older version kept no number in config.toml.
    let config = place.path("run/config.toml");
    let text = fs::read_to_string(&config).expect("reads").replace("micro-batches-at-once = 1\n", "");
    fs::write(&config, text).expect("writes");
    let output = place.run(&["train", "--resume", "run", "--resume-anyway"]);
    assert_ended_well(&output, "an older run");
}

#[test]
fn flags_that_leave_the_arithmetic_alone_may_change() {
    let place = Place::new(26, 5);
    let mut child = place.spawn(&TRAIN);
    wait_for(&mut child, || (lines(&place.path("run/metrics.jsonl")) > 3).then_some(())).expect("trains");
    signal(&child, libc::SIGTERM);
    child.wait().expect("ends");
    // The folder may have another name, too.
    fs::rename(place.path("run"), place.path("moved")).expect("renames");
    let flags = [
        "--threads",
        "2",
        "--recompute",
        "full",
        "--log-every",
        "1",
        "--checkpoint-every",
        "4",
        "--log=text",
    ];
    let output = place.run(&[&["train", "--resume", "moved", "--tensorboard"], &flags[..]].concat());
    assert_ended_well(&output, "resumed");
    let whole = Place::new(26, 5);
    assert_ended_well(&whole.run(&TRAIN), "uninterrupted");
    for file in
        ["metrics.jsonl", "evaluations.jsonl", "adapter_model.safetensors", "best/adapter_model.safetensors"]
    {
        let name = Path::new(file);
        assert!(content(&place.path("moved"))[name] == content(&whole.path("run"))[name], "{file}");
    }
    assert_eq!(fs::read_dir(place.path("moved/tensorboard")).expect("curves").count(), 1);
}

/// No file may be larger than the adapter and a bit, so that moments are never saved: the run ends with its adapter and
/// says what was needed.
#[test]
fn a_run_whose_checkpoints_do_not_fit_ends_with_its_adapter_and_an_error() {
    let whole = Place::new(26, 5);
    assert_ended_well(&whole.run(&TRAIN), "uninterrupted");
    let size = |file: &str| fs::metadata(whole.path(file)).expect("there").len();
    let adapter = size("run/adapter_model.safetensors");
    assert!(size("run/checkpoints/step-00000024/optimizer.safetensors") > adapter + 4096);
    let place = Place::new(26, 5);
    let limit = (adapter + 2048).div_ceil(512).to_string();
    let script = format!("ulimit -f {limit}; exec \"$0\" \"$@\"");
    let mut shell = Command::new("sh");
    let shell = shell.current_dir(place.dir.path()).args(["-c", &script, env!("CARGO_BIN_EXE_lorafit")]);
    let output = shell.args(TRAIN).output().expect("starts");
    assert_eq!(output.status.code(), Some(1), "{}", error(&output));
    let told = error(&output);
    assert!(told.contains("cannot save") && told.contains(" are needed"), "{told}");
    assert!(told.contains("\"event\":\"warning\""), "{told}");
    let found = content(&place.path("run"));
    for file in ["metrics.jsonl", "adapter_model.safetensors"] {
        assert!(found[Path::new(file)] == content(&whole.path("run"))[Path::new(file)], "{file}");
    }
    assert!(partial(&place.path("run")).is_none());
}

#[test]
fn a_run_whose_folder_is_deleted_saves_its_adapter_all_the_same() {
    let place = Place::new(26, 5);
    let mut child = place.spawn(&TRAIN.map(|flag| if flag == "24" { "200" } else { flag }));
    wait_for(&mut child, || (lines(&place.path("run/metrics.jsonl")) > 3).then_some(())).expect("trains");
    fs::rename(place.path("run"), place.path("gone")).expect("moved away");
    fs::remove_dir_all(place.path("gone")).expect("removed");
    assert!(child.wait().expect("ends").success());
    assert!(place.path("run/adapter_model.safetensors").exists());
    assert!(place.path("run/checkpoints/step-00000200/BLAKE3SUMS").exists());
}

#[test]
fn a_folder_that_cannot_be_written_is_told_before_anything_is_loaded() {
    let place = Place::new(26, 5);
    // Not even the superuser makes folders there.
    let output = place.run(&TRAIN.map(|flag| if flag == "run" { "/proc/run" } else { flag }));
    assert_eq!(output.status.code(), Some(1));
    assert!(error(&output).contains("/proc/run: cannot write"), "{}", error(&output));
}
