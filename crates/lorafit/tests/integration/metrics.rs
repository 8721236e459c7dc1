//! Metrics of answers by the binary: several at once, multiple choice, a judge, runs side by side.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{lorafit, place, well};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_bpe");

fn fixture(name: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/metrics").join(name);
    path.to_str().expect("a path").to_owned()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("a file");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn eval<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let flags = ["eval", "--model", model, "--data", "rows.jsonl", "--max-new-tokens", "8", "--quiet"];
    [&flags[..], more].concat()
}

/// The folder, and what an error says.
fn refused(place: &Path, arguments: &[&str]) -> String {
    let output = lorafit(place, arguments);
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Rows that the model answers right: its own answers are the replies.
fn answered() -> TempDir {
    let place = place(6);
    let at = place.path();
    well(at, &eval(MODEL, &["--predictions", "own.jsonl"]));
    let row = |(i, row): (usize, Value)| {
        let answer = row["answer"].as_str().expect("an answer");
        // A reply must not be empty.
        let reply = if answer.trim().is_empty() || i >= 4 { "42" } else { answer };
        let chat = json!({ "messages": [
            { "role": "user", "content": format!("why {i}?") },
            { "role": "assistant", "content": reply },
        ] });
        format!("{chat}\n")
    };
    let rows: String = lines(&at.join("own.jsonl")).into_iter().enumerate().map(row).collect();
    fs::write(at.join("rows.jsonl"), rows).expect("written");
    place
}

#[test]
fn several_metrics_are_told_with_intervals_and_every_row_has_its_scores() {
    let place = answered();
    let at = place.path();
    let metrics =
        ["--metric", "exact-match", "--metric", "token_f1", "--metric", "json_equal", "--regex", "."];
    let more = [&metrics[..], &["--json", "--predictions", "p.jsonl"]].concat();
    let found: Value = serde_json::from_str(&well(at, &eval(MODEL, &more))).expect("JSON");
    let exact = &found["metrics"]["exact_match"];
    let names: Vec<&String> = found["metrics"].as_object().expect("an object").keys().collect();
    assert_eq!(names, ["exact_match", "token_f1", "json_equal", "regex"]);
    let mean = exact["mean"].as_f64().expect("a mean");
    assert!((0.3..0.9).contains(&mean), "some are right and some are not: {found}");
    assert!(exact["low"].as_f64().expect("low") < mean && mean < exact["high"].as_f64().expect("high"));
    assert_eq!(found["bootstrap"], json!({ "confidence": 0.95, "resamples": 10000, "seed": 0 }));
    let rows = lines(&at.join("p.jsonl"));
    assert_eq!(rows.len(), 6);
    for row in &rows {
        let scores = row["scores"].as_object().expect("scores");
        assert_eq!(scores.len(), 4, "{row}");
        let is_right = row["answer"].as_str().map(str::trim) == row["expected"].as_str().map(str::trim);
        assert_eq!(scores["exact_match"], json!(f64::from(is_right)), "{row}");
        assert_eq!(scores["json_equal"].is_null(), row["unjudged"]["json_equal"].is_string(), "{row}");
    }
    let sum: f64 = rows.iter().map(|row| row["scores"]["exact_match"].as_f64().expect("a score")).sum();
    assert_eq!(sum / 6.0, mean);
    let text = well(at, &eval(MODEL, &metrics));
    assert!(text.contains(&format!("exact_match   {:.1} % (95 % interval ", 100.0 * mean)), "{text}");
}

#[test]
fn multiple_choice_is_scored_as_lm_eval_does() {
    let cases: Value =
        serde_json::from_str(&fs::read_to_string(fixture("choices.json")).expect("read")).expect("JSON");
    let place = TempDir::new().expect("a folder");
    let at = place.path();
    let adapter = format!("{MODEL}/adapter");
    for case in cases.as_array().expect("cases").iter().filter(|case| case["model"] == "chat_bpe") {
        let rows = fixture(case["rows"].as_str().expect("a name"));
        let flags = ["eval", "--model", MODEL, "--data", &rows, "--choices", "options", "--json"];
        let adapter = if case["adapter"] == true { vec!["--adapter", &adapter] } else { Vec::new() };
        let more = ["--predictions", "p.jsonl", "--micro-batch-tokens", "48"];
        let found: Value =
            serde_json::from_str(&well(at, &[&flags[..], &adapter, &more].concat())).expect("JSON");
        for metric in ["acc", "acc_norm"] {
            assert_eq!(found["metrics"][metric]["mean"], case[metric], "{metric} of {}", case["rows"]);
        }
        let row = &lines(&at.join("p.jsonl"))[0];
        let options = row["options"].as_array().expect("options");
        let likeliest = options.iter().max_by(|a, b| {
            a["log_probability"].as_f64().partial_cmp(&b["log_probability"].as_f64()).expect("numbers")
        });
        assert_eq!(row["answer"], likeliest.expect("some")["text"], "{row}");
    }
    fs::write(at.join("r.jsonl"), "{\"question\": \"a\", \"answer\": \"b\", \"o\": [\"c\", \"d\"]}\n")
        .expect("written");
    let flags = ["eval", "--model", MODEL, "--data", "r.jsonl", "--choices"];
    let told = refused(at, &[&flags[..], &["o"]].concat());
    assert!(told.contains("r.jsonl line 1: the column of options `o` does not list the reply `b`"), "{told}");
    let told = refused(at, &[&flags[..], &["options"]].concat());
    assert!(
        told.contains("column of options `options` is not there") && told.contains("--choices"),
        "{told}"
    );
}

#[cfg(unix)]
#[test]
fn a_judge_scores_answers_and_its_failure_keeps_them() {
    let place = place(4);
    let at = place.path();
    let judge = "while read -r row; do echo '{\"score\": 0.25}'; done";
    let found: Value =
        serde_json::from_str(&well(at, &eval(MODEL, &["--judge", judge, "--json"]))).expect("JSON");
    assert_eq!(
        found["metrics"],
        json!({ "judge": { "mean": 0.25, "low": 0.25, "high": 0.25, "rows": 4, "unjudged": 0 } })
    );
    let more = ["--judge", "echo no key >&2; exit 3", "--metric", "judge", "--metric", "contains"];
    let told = refused(at, &eval(MODEL, &[&more[..], &["--predictions", "p.jsonl"]].concat()));
    assert!(told.contains("failed (exit status: 3)\n  no key"), "{told}");
    let rows = lines(&at.join("p.jsonl"));
    assert!(rows.len() == 4 && rows[0]["answer"].is_string() && rows[0]["scores"]["contains"].is_number());
    let told = refused(at, &eval(MODEL, &["--judge", "sleep 60", "--judge-timeout", "1"]));
    assert!(told.contains("took longer than 1 s") && told.contains("--judge-timeout"), "{told}");
}

#[test]
fn metrics_that_lack_what_they_need_and_flags_that_none_reads_are_refused() {
    let place = place(4);
    let at = place.path();
    fs::write(at.join("bad.json"), "{\"type\": \"thing\"}").expect("written");
    fs::write(at.join("none.json"), "{").expect("written");
    let flags = ["eval", "--model", MODEL, "--data", "rows.jsonl"];
    for (more, told) in [
        (&["--metric", "json_schema"][..], "--metric json_schema needs --schema"),
        (&["--metric", "acc"], "--metric acc needs --choices"),
        (&["--metric", "exact"], "exact_match"),
        (&["--ignore-case"], "--ignore-case has no meaning without --metric exact_match or contains"),
        (&["--judge-timeout", "3"], "--judge-timeout has no meaning without --metric judge"),
        (&["--choices", "o", "--max-new-tokens", "3"], "--max-new-tokens has no meaning without --generate"),
        (&["--regex", "("], "--regex `(` is not a regular expression"),
        (&["--schema", "bad.json"], "--schema bad.json: is not a JSON schema"),
        (&["--schema", "none.json"], "--schema none.json: is not JSON"),
        (&["--schema", "gone.json"], "--schema gone.json: cannot be read"),
        (&["--judge", "true", "--judge-timeout", "0"], "--judge-timeout 0: must be 1 or more"),
    ] {
        let found = refused(at, &[&flags[..], more].concat());
        assert!(found.contains(told), "{more:?}: {found}");
    }
    let sweep = |table: &str, told: &str| {
        let text = format!(
            "model = \"{MODEL}\"\ndata = \"rows.jsonl\"\nvalidation = 2\nmax-steps = 1\n[search]\nrank = [1]\n[sweep]\n{table}"
        );
        fs::write(at.join("s.toml"), text).expect("written");
        let found = refused(at, &["sweep", "s.toml", "--out", "s", "--dry-run"]);
        assert!(found.contains(told), "{table}: {found}");
    };
    sweep("metric = \"acc\"\n", "line 8: `metric`: acc needs `choices`");
    sweep(
        "metric = \"exact\"\n",
        "line 8: `metric`: unknown metric \"exact\", expected one of eval_loss, exact_match",
    );
    sweep(
        "metric = \"exact_match\"\nregex = \"x\"\n",
        "line 9: `regex` has no meaning without a `metric` that reads it: regex",
    );
    sweep("metric = \"regex\"\nregex = \"(\"\n", "line 9: `regex`: `(` is not a regular expression");
}

#[test]
fn a_sweep_is_decided_by_any_metric() {
    let place = place(8);
    let at = place.path();
    let text = format!(
        "model = \"{MODEL}\"\ndata = \"rows.jsonl\"\neval-data = \"rows.jsonl\"\nmax-steps = 2\n[search]\nlr = [1e-9, 1e-3]\n\
         [sweep]\nmetric = \"rouge-l\"\nmax-new-tokens = 8\n"
    );
    fs::write(at.join("s.toml"), text).expect("written");
    let told = well(at, &["sweep", "s.toml", "--out", "s", "--quiet"]);
    assert!(told.contains("rouge_l: highest is best"), "{told}");
    for row in lines(&at.join("s/trials.jsonl")) {
        let run = at.join("s").join(row["run"].as_str().expect("a run"));
        let adapter = ["--adapter", run.to_str().expect("a path"), "--metric", "rouge_l", "--json"];
        let found: Value = serde_json::from_str(&well(at, &eval(MODEL, &adapter))).expect("JSON");
        let of_eval = &found["metrics"]["rouge_l"];
        assert_eq!((&row["metric"], &row["interval"][0]), (&of_eval["mean"], &of_eval["low"]), "{row}");
    }
    // A trial has its own memory, not that of a process that it shared.
    let trials = ["compare", "--runs", "s/trials/000", "s/trials/001", "--data", "rows.jsonl", "--json"];
    let found: Value = serde_json::from_str(&well(at, &trials)).expect("JSON");
    let plan: Value =
        serde_json::from_str(&fs::read_to_string(at.join("s/trials/001/plan.json")).expect("read"))
            .expect("JSON");
    assert_eq!(found["runs"][2]["planned_bytes"], plan["planned_bytes"]);
    assert!(found["runs"][2]["peak_rss_bytes"].is_null(), "{found}");
}

#[test]
fn runs_are_compared_row_by_row() {
    let place = answered();
    let at = place.path();
    let train = [
        "train",
        "--model",
        MODEL,
        "--data",
        "rows.jsonl",
        "--max-steps",
        "60",
        "--lr",
        "2e-2",
        "--quiet",
        "--out",
    ];
    well(at, &[&train[..], &["a"]].concat());
    let compare = [
        "compare",
        "--runs",
        "a",
        "--data",
        "rows.jsonl",
        "--metric",
        "exact_match",
        "--max-new-tokens",
        "8",
    ];
    let more = ["--quiet", "--json", "--predictions", "p.jsonl", "--html", "p.html"];
    let found: Value = serde_json::from_str(&well(at, &[&compare[..], &more].concat())).expect("JSON");
    let rows = lines(&at.join("p.jsonl"));
    assert_eq!(found["rows"].as_array().expect("rows"), &rows);
    assert_eq!(rows.len(), 6);
    for row in &rows {
        let score = |name: &str| row["scores"]["exact_match"][name].as_f64().expect("a score");
        let best: Vec<&str> = match score("a") - score(MODEL) {
            difference if difference > 0.0 => vec!["a"],
            difference if difference < 0.0 => vec![MODEL],
            _ => vec![],
        };
        assert_eq!(row["best"]["exact_match"], json!(best), "{row}");
    }
    let page = fs::read_to_string(at.join("p.html")).expect("a page");
    assert!(page.contains("The answers to 6 of 6 rows") && page.contains("exact_match on 6 rows"), "{page}");
    assert!(well(at, &compare).contains("exact_match on 6 rows: "));
}

#[test]
fn what_a_comparison_cannot_do_is_told_before_anything_is_evaluated() {
    let place = place(6);
    let at = place.path();
    let train = ["train", "--model", MODEL, "--data", "rows.jsonl", "--max-steps", "1", "--quiet", "--out"];
    well(at, &[&train[..], &["a"]].concat());
    well(at, &[&train[..], &["b"]].concat());
    let adapter = at.join("b/adapter_model.safetensors");
    let kept = fs::read(&adapter).expect("read");
    fs::write(&adapter, &kept[..100]).expect("written");
    let compare = ["compare", "--runs", "a", "b", "--data", "rows.jsonl"];
    let told = refused(at, &compare);
    assert!(told.contains("b/adapter_model.safetensors") && !told.contains("memory planned"), "{told}");
    fs::write(&adapter, kept).expect("written");
    let told = refused(at, &[&compare[..], &["--memory", "1MB"]].concat());
    assert!(told.contains("evaluation needs") && !told.contains("memory planned"), "{told}");
    assert!(refused(at, &["compare", "--runs", "a", "./a", "--data", "rows.jsonl"]).contains("given twice"));

    // The base may have moved.
    fs::create_dir(at.join("moved")).expect("made");
    for entry in fs::read_dir(MODEL).expect("the model").map(|entry| entry.expect("an entry").path()) {
        if entry.is_file() {
            fs::copy(&entry, at.join("moved").join(entry.file_name().expect("a name"))).expect("copied");
        }
    }
    let config = fs::read_to_string(at.join("a/config.toml")).expect("read");
    fs::write(at.join("a/config.toml"), config.replace(MODEL, "gone")).expect("written");
    let compare = ["compare", "--runs", "a", "b", "--data", "rows.jsonl", "--json", "--quiet"];
    assert!(refused(at, &compare).contains("gone"));
    let found: Value =
        serde_json::from_str(&well(at, &[&compare[..], &["--model", "moved"]].concat())).expect("JSON");
    let names: Vec<&Value> = found["runs"].as_array().expect("runs").iter().map(|run| &run["name"]).collect();
    assert_eq!(names, ["moved", "a", "b"]);
    assert_eq!(found["runs"][1]["loss"], found["runs"][2]["loss"]);
}
