//! How a run ends: what its curve says, in words, in `verdict.json` and in the JSON log, and what to run next.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{lorafit, place};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_bpe");

/// What a run writes to standard error.
fn train(place: &Path, flags: &[&str]) -> String {
    let mut arguments =
        vec!["train", "--model", MODEL, "--data", "rows.jsonl", "--out", "run", "--overwrite"];
    arguments.extend(flags);
    let output = lorafit(place, &arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn verdict(place: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(place.join("run/verdict.json")).unwrap()).unwrap()
}

fn evaluations(place: &Path) -> Vec<Value> {
    let text = fs::read_to_string(place.join("run/evaluations.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_run_is_judged_from_the_loss_before_training_to_the_best() {
    let place: TempDir = place(40);
    let at = place.path();
    let told = train(at, &["--validation", "12", "--epochs", "20", "--lr", "2e-2", "--eval-every", "20"]);
    let found = evaluations(at);
    assert_eq!(found[0]["step"], 0);
    assert_eq!(found[0]["best"], false);
    let base = found[0]["loss"].as_f64().unwrap();
    assert!(told.contains(&format!("before training: held-out loss {base:.4}")), "{told}");
    let (judged, best) =
        (verdict(at), found.iter().map(|one| one["loss"].as_f64().unwrap()).fold(base, f64::min));
    assert_eq!((judged["from"].as_f64(), judged["to"].as_f64()), (Some(base), Some(best)));
    assert!(told.contains(&format!("held-out loss {base:.4} -> {best:.4} (-")), "{told}");
    let last = told.trim_end().lines().last().unwrap();
    assert!(last.starts_with(&format!("next: lorafit chat --model {MODEL} --adapter run")), "{told}");
    // The page of the run says it too.
    let page = lorafit(at, &["report", "run", "--out", "page.html"]);
    assert!(page.status.success(), "{page:?}");
    let page = fs::read_to_string(at.join("page.html")).unwrap();
    assert!(page.contains(&format!("held-out loss {base:.4} → {best:.4}")), "no verdict on the page");
}

#[test]
fn a_run_that_changed_nothing_says_so_and_what_to_change() {
    let place = place(40);
    let told = train(place.path(), &["--validation", "12", "--max-steps", "4", "--lr", "1e-7"]);
    assert_eq!(verdict(place.path())["outcome"], "did-not-learn");
    assert!(told.contains("did not learn: held-out loss"), "{told}");
    assert!(
        told.contains("raise the learning rate (--lr auto finds one), or train longer (--max-steps 20)"),
        "{told}"
    );
    assert!(!told.contains("next: "), "{told}");
    // The command that looks at the rows runs as it stands.
    let command = told.split("lorafit data ").nth(1).and_then(|rest| rest.split(" shows").next()).unwrap();
    let words: Vec<&str> = std::iter::once("data").chain(command.split(' ')).collect();
    assert!(lorafit(place.path(), &words).status.success(), "{words:?}");
}

#[test]
fn a_run_without_held_out_rows_says_what_nobody_knows() {
    let place = place(40);
    let told = train(place.path(), &["--epochs", "4", "--lr", "1e-2"]);
    assert_eq!(verdict(place.path())["of"], "training");
    assert!(told.contains("training loss") && told.contains("--validation 10% holds some out"), "{told}");
    assert!(evaluations(place.path()).is_empty());
}

/// Weights that the optimizer blew up give no numbers, whatever the rows: the verdict says so wherever it stands, and nothing
/// advises to go on from there.
#[test]
fn a_run_that_ends_without_numbers_has_diverged() {
    let place = place(40);
    let flags = ["--lr", "1e30", "--max-grad-norm", "0", "--max-steps", "30", "--warmup-ratio", "0"];
    let run = |more: &[&str]| {
        let train = ["train", "--model", MODEL, "--data", "rows.jsonl", "--out", "run", "--overwrite"];
        let output = lorafit(place.path(), &[&train[..], &flags, more].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(verdict(place.path())["outcome"], "diverged", "{more:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    for more in [&["--validation", "4"][..], &["--validation", "4", "--on-nan", "skip"], &[]] {
        let told = run(more);
        assert!(told.contains("diverged: ") && told.contains(" -> not a number"), "{told}");
        assert!(told.contains("lower the learning rate: --lr 2e-4"), "{told}");
        let hint = told.lines().find(|line| line.starts_with("hint: ")).unwrap();
        assert!(hint.contains("a lower --lr") && !hint.contains("--resume"), "{told}");
        let page = lorafit(place.path(), &["report", "run", "--out", "page.html"]);
        assert!(page.status.success(), "{page:?}");
        assert!(fs::read_to_string(place.path().join("page.html")).unwrap().contains("Diverged: "));
    }
    let told = run(&["--log", "json"]);
    let mut events = told.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let found = events.rfind(|event| event["event"] == "verdict").unwrap();
    assert_eq!((&found["outcome"], &found["to"]), (&Value::from("diverged"), &Value::Null));
}

#[test]
fn the_json_log_has_the_verdict() {
    let place = place(40);
    let told = train(place.path(), &["--validation", "4", "--max-steps", "6", "--log", "json"]);
    let events: Vec<Value> = told.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let found = events.iter().find(|event| event["event"] == "verdict").unwrap();
    assert_eq!(found["few_rows"], true);
    for (key, value) in verdict(place.path()).as_object().unwrap() {
        assert_eq!(&found[key], value, "{key}");
    }
}

#[test]
fn the_loss_of_a_step_is_the_same_number_everywhere() {
    let place = place(40);
    let told = train(place.path(), &["--max-steps", "6", "--log-every", "1"]);
    let records = fs::read_to_string(place.path().join("run/metrics.jsonl")).unwrap();
    let losses: Vec<f64> = records
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap())
        .collect();
    for (i, loss) in losses.iter().enumerate() {
        let mean = losses[..=i].iter().sum::<f64>() / (i + 1) as f64;
        let line = format!("step {}/6  loss {loss:.4}  smoothed {mean:.4}", i + 1);
        assert!(told.contains(&line), "{line}\n{told}");
    }
    let status = lorafit(place.path(), &["status", "run"]);
    let status = String::from_utf8(status.stdout).unwrap();
    let mean = losses.iter().sum::<f64>() / 6.0;
    assert!(status.contains(&format!("step 6/6  loss {:.4}  smoothed {mean:.4}", losses[5])), "{status}");
}

#[test]
fn a_run_of_fifty_rows_holds_some_out_and_says_so() {
    let place = place(60);
    let at = place.path();
    let told = train(at, &["--max-steps", "4"]);
    let line = "10 of 60 rows are held out to judge the run; --validation none trains on all of them";
    assert!(told.contains(line), "{told}");
    assert!(told.contains("50 chat rows"), "{told}");
    assert_eq!(verdict(at)["of"], "held-out");
    let config = fs::read_to_string(at.join("run/config.toml")).unwrap();
    assert!(config.contains("validation = \"auto\""), "{config}");
    // The whole run again gives the same rows.
    let first = evaluations(at)[0]["loss"].as_f64();
    train(at, &["--max-steps", "4"]);
    assert_eq!(evaluations(at)[0]["loss"].as_f64(), first);
}

#[test]
fn none_are_held_out_of_few_rows_or_where_nobody_wants_it() {
    let small = place(49);
    let told = train(small.path(), &["--max-steps", "4"]);
    assert!(told.contains("no rows are held out, as there are fewer than 50"), "{told}");
    assert!(told.contains("49 chat rows") && evaluations(small.path()).is_empty(), "{told}");

    let place = place(60);
    let at = place.path();
    let told = train(at, &["--max-steps", "4", "--validation", "none"]);
    assert!(told.contains("60 chat rows") && evaluations(at).is_empty(), "{told}");
    assert!(!told.contains("are held out,"), "{told}");

    // Rows that are given as held out are all there are.
    let told = train(at, &["--max-steps", "4", "--eval-data", "rows.jsonl"]);
    assert!(told.contains("60 chat rows") && !told.contains("are held out,"), "{told}");
}

#[test]
fn a_run_begun_without_held_out_rows_goes_on_without() {
    let place = place(60);
    let at = place.path();
    train(at, &["--max-steps", "4", "--validation", "none"]);
    // As a version wrote it that knew no `auto`.
    let path = at.join("run/config.toml");
    let config = fs::read_to_string(&path).unwrap();
    fs::write(&path, config.replace("validation = \"none\"\n", "")).unwrap();
    let shown = lorafit(at, &["train", "--resume", "run", "--print-config"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("max-steps = 4") && !shown.contains("validation"), "{shown}");
}

#[test]
fn evaluations_that_have_no_rows_are_refused() {
    let place = place(20);
    let output = lorafit(
        place.path(),
        &["train", "--model", MODEL, "--data", "rows.jsonl", "--out", "run", "--eval-every", "2"],
    );
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("of 20 rows --validation auto holds out none"), "{told}");
}

/// A learning rate begins at 0 where a warm-up is given, as in transformers: a run of one step would change nothing.
#[test]
fn a_run_of_one_step_trains_or_says_that_it_does_not() {
    let place = place(40);
    let at = place.path();
    let rate = || {
        let text = fs::read_to_string(at.join("run/metrics.jsonl")).unwrap();
        let record: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        record["learning_rate"].as_f64().unwrap()
    };
    let one = ["--max-steps", "1", "--validation", "12", "--lr", "1e-2"];
    let told = train(at, &one);
    assert!(rate() == 1e-2 && !told.contains("no step changes anything"), "{told}");
    let told = train(at, &[&one[..], &["--warmup-ratio", "0.03"]].concat());
    assert!(rate() == 0.0 && told.contains("no step changes anything"), "{told}");
    assert!(told.contains("--warmup-ratio 0 begins at its peak"), "{told}");
    assert!(
        told.contains("no step lowered the held-out loss, ") && !told.contains("best held-out loss"),
        "{told}"
    );
    let status = String::from_utf8(lorafit(at, &["status", "run"]).stdout).unwrap();
    assert!(status.contains("no step lowered the held-out loss, "), "{status}");
    train(at, &[&one[..], &["--warmup-ratio", "0"]].concat());
    assert_eq!(rate(), 1e-2);
}

#[test]
fn a_model_that_only_guesses_has_not_learnt() {
    let place = place(40);
    let flags = ["--method", "full", "--init", "random", "--preset", "off", "--epochs", "6", "--lr", "2e-4"];
    let told = train(place.path(), &[&flags[..], &["--validation", "12", "--eval-every", "7"]].concat());
    let found = verdict(place.path());
    assert_eq!((&found["outcome"], &found["among"]), (&"guessing".into(), &320.into()));
    assert!(told.contains("predicts no better than chance: held-out loss 5."), "{told}");
    assert!(told.contains("a blind guess among 320 has 5.7683") && !told.contains("next: "), "{told}");
    let table = String::from_utf8(lorafit(place.path(), &["runs", "."]).stdout).unwrap();
    assert!(table.contains("only guesses"), "{table}");
}

/// Hints about held-out rows work for as many rows as there are.
#[test]
fn few_rows_are_held_out_as_the_hint_says() {
    for rows in [1, 2, 3, 4, 5, 9, 12] {
        let place = place(rows);
        let at = place.path();
        let start = ["train", "--model", MODEL, "--data", "rows.jsonl", "--out", "run", "--max-steps", "2"];
        let tried = lorafit(at, &[&start[..], &["--eval-every", "1"]].concat());
        let told = String::from_utf8(tried.stderr).unwrap();
        let hint = told.lines().find_map(|line| line.strip_prefix("hint: ")).unwrap();
        let words: Vec<&str> = hint.split([' ', ',']).collect();
        let flag =
            words.iter().position(|word| *word == "--validation").map(|at| &words[at..at + 2]).unwrap();
        // None can be held out of one row.
        let more = if rows == 1 { vec![] } else { vec!["--eval-every", "1"] };
        let pasted = lorafit(at, &[&start[..], flag, &more].concat());
        assert!(pasted.status.success(), "{rows} rows, {flag:?}: {pasted:?}");
    }
}

#[test]
fn an_adapter_of_a_run_that_diverged_is_said_to_be_one() {
    let place = place(40);
    let at = place.path();
    let flags = ["--lr", "1e30", "--max-grad-norm", "0", "--max-steps", "30", "--warmup-ratio", "0"];
    let start = ["train", "--model", MODEL, "--data", "rows.jsonl", "--out", "run"];
    assert!(!lorafit(at, &[&start[..], &flags].concat()).status.success());
    let output = lorafit(at, &["eval", "--model", MODEL, "--adapter", "run", "--data", "rows.jsonl"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("run diverged") && !told.contains("has not ended"), "{told}");
}
