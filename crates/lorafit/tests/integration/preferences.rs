//! Training on judged replies, as people type it.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::lorafit;

fn model() -> String {
    format!("{}/../../fixtures/models/chat_bpe", env!("CARGO_MANIFEST_DIR"))
}

/// A folder with pairs.jsonl, labels.jsonl and replies.jsonl of so many rows.
fn place(rows: usize) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    let write = |name: &str, row: &dyn Fn(usize) -> Value| {
        let text: String = (0..rows).map(|i| format!("{}\n", row(i))).collect();
        fs::write(folder.path().join(name), text).expect("writes");
    };
    let said = |role: &str, text: String| json!({ "role": role, "content": text });
    write(
        "pairs.jsonl",
        &|i| json!({"prompt": [said("user", format!("What is {i}?"))], "chosen": format!("It is {i}."), "rejected": "No."}),
    );
    write(
        "labels.jsonl",
        &|i| json!({"prompt": format!("What is {i}?"), "completion": format!(" It is {i}."), "label": i % 2 == 0}),
    );
    write("replies.jsonl", &|i| json!({"prompt": format!("What is {i}?"), "completion": " It is."}));
    folder
}

fn run(place: &Path, data: &str, out: &str, flags: &[&str]) -> Output {
    let model = model();
    let fixed = ["train", "--model", &model, "--data", data, "--out", out];
    lorafit(place, &[&fixed[..], flags].concat())
}

#[track_caller]
fn trains(place: &Path, data: &str, out: &str, flags: &[&str]) -> String {
    let output = run(place, data, out, flags);
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{flags:?}: {told}");
    told
}

#[track_caller]
fn refuses(place: &Path, data: &str, flags: &[&str], words: &[&str]) {
    let output = run(place, data, "refused", flags);
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success(), "{flags:?}: {told}");
    for word in words {
        assert!(told.contains(word), "{flags:?}: no {word:?} in {told}");
    }
    assert!(!place.join("refused/metrics.jsonl").exists(), "{flags:?} began a run");
}

/// The last line of a record of a run.
fn last(place: &Path, out: &str, name: &str) -> Value {
    let text = fs::read_to_string(place.join(out).join(name)).expect("reads");
    serde_json::from_str(text.lines().last().expect("a line")).expect("JSON")
}

#[test]
fn pairs_are_preferred_after_training_and_the_records_say_so() {
    let folder = place(60);
    let place = folder.path();
    let told =
        trains(place, "pairs.jsonl", "dpo", &["--objective", "dpo", "--max-steps", "30", "--lr", "5e-3"]);
    for part in [
        "50 preference rows",
        "prompts are computed once: ",
        "asking the reference: 120 of 120 replies",
        "before training: held-out loss 0.6931, chosen preferred in 0 %, margin 0.000",
        "chosen preferred in 100 %",
    ] {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
    for name in ["metrics.jsonl", "evaluations.jsonl"] {
        let record = last(place, "dpo", name);
        for key in [
            "rewards/chosen",
            "rewards/rejected",
            "rewards/margins",
            "rewards/accuracies",
            "logps/chosen",
            "logps/rejected",
        ] {
            assert!(record[key].is_f64(), "{name}: {key} of {record}");
        }
        assert!(record["rewards/margins"].as_f64() > Some(0.1), "{record}");
    }
    let reference: Value =
        serde_json::from_str(&fs::read_to_string(place.join("dpo/reference.json")).expect("reads"))
            .expect("JSON");
    let lens = reference["log_probabilities"].as_array().expect("lists");
    let lens: Vec<usize> = lens.iter().map(|list| list.as_array().expect("a list").len()).collect();
    assert_eq!(lens, [100, 20]);
}

#[test]
fn labels_are_trained_on_and_pairs_serve_as_labels() {
    let folder = place(12);
    for data in ["labels.jsonl", "pairs.jsonl"] {
        let out = data.strip_suffix(".jsonl").expect("a name");
        trains(folder.path(), data, out, &["--objective", "kto", "--max-steps", "4", "--lr", "1e-2"]);
        let record = last(folder.path(), out, "metrics.jsonl");
        assert!(record["kl"].is_f64() && record["rewards/accuracies"].is_null(), "{record}");
    }
}

#[test]
fn an_adapter_goes_on_from_its_own_replies_or_another() {
    let folder = place(8);
    let place = folder.path();
    trains(place, "replies.jsonl", "sft", &["--max-steps", "3", "--lr", "1e-2"]);
    // The reference is the start, the base, or a third one.
    let begins = |out: &str, flags: &[&str]| {
        let fixed = ["--objective", "dpo", "--adapter", "sft", "--max-steps", "1", "--no-shuffle"];
        trains(place, "pairs.jsonl", out, &[&fixed[..], flags].concat());
        last(place, out, "metrics.jsonl")["rewards/margins"].as_f64().expect("a margin")
    };
    assert_eq!(begins("start", &[]).abs() < 1e-4, true);
    let base = begins("base", &["--reference", "base"]);
    assert!(base.abs() > 1e-3, "{base}");
    assert!(begins("named", &["--reference", "sft"]).abs() < 1e-4);
    let free = begins("free", &["--reference-free"]);
    assert!((free - base).abs() > 1e-3, "{free} and {base}");
}

#[test]
fn a_resumed_run_reads_what_the_reference_said() {
    let folder = place(8);
    let place = folder.path();
    trains(place, "pairs.jsonl", "run", &["--objective", "dpo", "--max-steps", "3"]);
    let resume = || {
        let output = lorafit(place, &["train", "--resume", "run", "--max-steps", "6", "--resume-anyway"]);
        (output.status.success(), String::from_utf8(output.stderr).expect("text"))
    };
    let (done, told) = resume();
    assert!(done && !told.contains("asking the reference"), "{told}");
    fs::write(place.join("run/reference.json"), "{}").expect("writes");
    let output = lorafit(place, &["train", "--resume", "run", "--max-steps", "9", "--resume-anyway"]);
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success() && told.contains("reference.json"), "{told}");
}

#[test]
fn rows_of_another_objective_are_refused_with_what_to_do() {
    let folder = place(8);
    let place = folder.path();
    refuses(
        place,
        "pairs.jsonl",
        &[],
        &["line 1: the rows are preferences", "--objective dpo", "chosen=completion"],
    );
    refuses(place, "labels.jsonl", &[], &["say which replies are good", "--objective kto", "label=ignore"]);
    refuses(
        place,
        "replies.jsonl",
        &["--objective", "dpo"],
        &[
            "line 1: the rows have no `chosen` and `rejected` replies: they are completion rows",
            "--objective sft",
        ],
    );
    refuses(place, "labels.jsonl", &["--objective", "ipo"], &["they are judged rows", "--objective kto"]);
    refuses(place, "replies.jsonl", &["--objective", "kto"], &["have no `label`", "--objective sft"]);
    // What the hints say works.
    for (data, flags) in [
        ("pairs.jsonl", &["--columns", "prompt=messages,chosen=ignore,rejected=ignore"][..]),
        ("labels.jsonl", &["--columns", "label=ignore"]),
    ] {
        let told = run(place, data, "hint", &[flags, &["--max-steps", "1", "--overwrite"]].concat());
        let told = String::from_utf8(told.stderr).expect("text");
        assert!(!told.contains("panicked"), "{told}");
    }
}

#[test]
fn settings_that_an_objective_does_not_take_are_refused() {
    let folder = place(8);
    let place = folder.path();
    for (flags, words) in [
        (
            &["--objective", "dpo", "--gamma", "1"][..],
            &["--gamma has no meaning with --objective dpo", "simpo"][..],
        ),
        (&["--beta", "1"], &["--beta has no meaning with --objective sft"]),
        (&["--objective", "kto", "--sft-weight", "1"], &["--sft-weight has no meaning"]),
        (&["--objective", "orpo", "--reference", "base"], &["--reference has no meaning", "dpo"]),
        (&["--objective", "ipo", "--label-smoothing", "0.1"], &["--label-smoothing has no meaning"]),
        (&["--objective", "robust", "--label-smoothing", "0.5"], &["--label-smoothing", "below 0.5"]),
        (&["--objective", "dpo", "--beta", "0"], &["--beta", "above 0"]),
        (&["--objective", "dpo", "--lr", "auto"], &["--lr auto with --objective dpo"]),
        (&["--objective", "dqo"], &["dqo", "dpo"]),
        (&["--objective", "dpo", "--reference", "nowhere"], &["nowhere"]),
        (&["--objective", "kto", "--method", "full"], &["--method full --objective kto"]),
        (&["--objective", "dpo", "--reference-free", "--reference", "base"], &["--reference-free"]),
    ] {
        refuses(place, "pairs.jsonl", flags, words);
    }
    let row = json!({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 0.5});
    fs::write(place.join("margins.jsonl"), format!("{row}\n")).expect("writes");
    refuses(
        place,
        "margins.jsonl",
        &["--objective", "ipo"],
        &["line 1: `margin` has no meaning", "margin=ignore"],
    );
    trains(place, "margins.jsonl", "margins", &["--objective", "dpo", "--max-steps", "1"]);
}

#[test]
fn full_fine_tuning_has_its_start_as_reference() {
    let folder = place(8);
    let place = folder.path();
    let flags = ["--objective", "dpo", "--method", "full", "--max-steps", "6", "--lr", "1e-3"];
    trains(place, "pairs.jsonl", "full", &flags);
    let record = last(place, "full", "metrics.jsonl");
    assert!(record["rewards/margins"].as_f64() > Some(0.01), "{record}");
}
