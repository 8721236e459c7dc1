//! Reward models and classifiers, as people type them.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{chat_model as model, json_of, lorafit, refuses, trains, well, write_rows};

/// A folder with texts.jsonl of so many rows with three labels, and pairs.jsonl.
fn place(rows: usize) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    let write = |name: &str, row: &dyn Fn(usize) -> Value| write_rows(folder.path(), name, rows, row);
    let words = ["good news", "bad news", "no news"];
    write(
        "texts.jsonl",
        &|i| json!({"text": format!("{} on day {i}", words[i % 3]), "label": words[i % 3][..2]}),
    );
    write(
        "pairs.jsonl",
        &|i| json!({"prompt": format!("What is {i}?"), "chosen": format!(" It is {i}."), "rejected": " No."}),
    );
    folder
}

fn file(place: &Path, name: &str) -> Value {
    json_of(&fs::read_to_string(place.join(name)).expect("reads"))
}

fn last(place: &Path, name: &str) -> Value {
    let text = fs::read_to_string(place.join(name)).expect("reads");
    json_of(text.lines().last().expect("a line"))
}

const CLASSIFY: [&str; 8] =
    ["--objective", "classify", "--max-steps", "30", "--lr", "5e-3", "--batch-size", "8"];

#[test]
fn a_classifier_learns_labels_and_says_them() {
    let folder = place(60);
    let (place, model) = (folder.path(), model());
    let told = trains(place, "texts.jsonl", "topics", &[&CLASSIFY[..], &["--best-by", "accuracy"]].concat());
    assert!(told.contains("accuracy 100.0 %, macro F1 1.000"), "{told}");
    let record = last(place, "topics/evaluations.jsonl");
    assert_eq!((&record["accuracy"], &record["f1"]), (&json!(1.0), &json!(1.0)), "{record}");

    let config = file(place, "topics/adapter_config.json");
    assert_eq!((&config["task_type"], &config["modules_to_save"]), (&json!("SEQ_CLS"), &json!(["score"])));
    let labels = file(place, "topics/labels.json");
    assert_eq!(labels["id2label"], json!({"0": "ba", "1": "go", "2": "no"}));
    assert_eq!(labels["num_labels"], 3);
    let card = fs::read_to_string(place.join("topics/README.md")).expect("reads");
    assert!(card.contains("num_labels=3") && card.contains("pipeline_tag: text-classification"), "{card}");

    for adapter in ["topics", "topics/best"] {
        let base = ["eval", "--model", &model, "--adapter", adapter, "--data", "texts.jsonl"];
        let found = json_of(&well(place, &[&base[..], &["--json", "--predictions", "said.jsonl"]].concat()));
        assert_eq!(
            (&found["accuracy"]["mean"], &found["f1"], &found["rows"]),
            (&json!(1.0), &json!(1.0), &json!(60))
        );
        let said = fs::read_to_string(place.join("said.jsonl")).expect("reads");
        let first = json_of(said.lines().next().expect("a line"));
        assert_eq!(
            (&first["label"], &first["expected"], &first["row"]),
            (&json!("go"), &json!("go"), &json!(1))
        );
        let all = first["probabilities"].as_object().expect("an object");
        let sum: f64 = all.values().map(|share| share.as_f64().expect("a number")).sum();
        assert!((sum - 1.0).abs() < 1e-9 && all.len() == 3, "{first}");
    }
    let prompt = ["generate", "--model", &model, "--adapter", "topics", "--prompt", "bad news on day 99"];
    let found = json_of(&well(place, &[&prompt[..], &["--json"]].concat()));
    assert_eq!(found["label"], "ba", "{found}");
    assert!(found["probability"].as_f64() > Some(0.5), "{found}");
    assert!(well(place, &prompt).starts_with("ba 0."), "{}", well(place, &prompt));
    // Its head writes no text that could be served.
    let refused = lorafit(place, &["serve", "--model", &model, "--port", "0", "--adapter", "topics"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success()
            && said.contains("topics: the adapter is a classifier, whose head writes no text"),
        "{said}"
    );
}

#[test]
fn a_reward_model_learns_which_reply_is_better() {
    let folder = place(24);
    let (place, model) = (folder.path(), model());
    let flags = ["--objective", "reward", "--max-steps", "30", "--lr", "5e-3", "--validation", "4"];
    let told = trains(place, "pairs.jsonl", "rm", &flags);
    assert!(told.contains("chosen preferred in 100 %"), "{told}");
    let record = last(place, "rm/metrics.jsonl");
    for key in ["accuracy", "margin", "min_reward", "mean_reward", "max_reward", "rewards/chosen"] {
        assert!(record[key].is_f64(), "{key} of {record}");
    }
    assert!(record["logps/chosen"].is_null() && record["rewards/margins"].is_null(), "{record}");
    assert_eq!(file(place, "rm/adapter_config.json")["task_type"], "SEQ_CLS");

    let base = ["eval", "--model", &model, "--adapter", "rm", "--data", "pairs.jsonl"];
    let found = json_of(&well(place, &[&base[..], &["--json", "--predictions", "said.jsonl"]].concat()));
    assert_eq!(found["accuracy"]["mean"], 1.0, "{found}");
    assert!(found["beta"].is_null(), "{found}");
    let first =
        json_of(fs::read_to_string(place.join("said.jsonl")).expect("reads").lines().next().expect("a line"));
    assert!(first["chosen"]["reward"].as_f64() > first["rejected"]["reward"].as_f64(), "{first}");
    let reward = |text: &str| {
        let found =
            well(place, &["generate", "--model", &model, "--adapter", "rm", "--prompt", text, "--json"]);
        json_of(&found)["reward"].as_f64().expect("a number")
    };
    // The same text is given the same reward, however it is asked for.
    assert!(
        (reward("What is 0? It is 0.") - first["chosen"]["reward"].as_f64().expect("a number")).abs() < 1e-4
    );
    assert!(reward("What is 7? It is 7.") > reward("What is 7? No."));
}

/// A merged model is a folder of its own, with equal numbers; a head of it is trained on.
#[test]
fn a_merged_classifier_is_one_and_is_trained_on() {
    let folder = place(30);
    let (place, model) = (folder.path(), model());
    trains(place, "texts.jsonl", "topics", &CLASSIFY);
    well(place, &["merge", "--model", &model, "--adapter", "topics", "--out", "merged"]);
    let config = file(place, "merged/config.json");
    assert_eq!(config["architectures"], json!(["LlamaForSequenceClassification"]));
    assert_eq!(config["label2id"], json!({"ba": 0, "go": 1, "no": 2}));
    assert_eq!(config["pad_token_id"], 2);
    let predictions = |model: &[&str]| {
        let fixed = ["--data", "texts.jsonl", "--predictions", "said.jsonl"];
        well(place, &[&["eval"], model, &fixed].concat());
        let said = fs::read_to_string(place.join("said.jsonl")).expect("reads");
        said.lines().map(|line| json_of(line)["probability"].as_f64().expect("a number")).collect::<Vec<_>>()
    };
    let apart = predictions(&["--model", &model, "--adapter", "topics"]);
    let merged = predictions(&["--model", "merged"]);
    assert_eq!(apart.len(), 30);
    for (apart, merged) in apart.iter().zip(&merged) {
        // The sum of base and factors is rounded once, in f32.
        assert!((apart - merged).abs() < 1e-5, "{apart} {merged}");
    }
    // Its own head is what the next run begins with.
    let fixed =
        ["train", "--model", "merged", "--data", "texts.jsonl", "--objective", "classify", "--out", "more"];
    let output =
        lorafit(place, &[&fixed[..], &["--max-steps", "1", "--preset", "off", "--validation", "5"]].concat());
    let told = String::from_utf8(output.stderr).expect("text");
    let before = told.lines().find(|line| line.starts_with("before training: ")).unwrap_or_default();
    assert!(before.contains("accuracy 100.0 %"), "{told}");
}

#[test]
fn a_classifier_in_full_is_a_folder_for_sequence_classification() {
    let folder = place(12);
    let (place, flags) = (folder.path(), ["--method", "full", "--lr", "1e-3"]);
    trains(
        place,
        "texts.jsonl",
        "full",
        &[&["--objective", "classify", "--max-steps", "2"][..], &flags].concat(),
    );
    let config = file(place, "full/model/config.json");
    assert_eq!(config["architectures"], json!(["LlamaForSequenceClassification"]));
    assert_eq!(config["id2label"]["2"], "no");
    let found = json_of(&well(place, &["eval", "--model", "full/model", "--data", "texts.jsonl", "--json"]));
    assert_eq!(found["labels"], json!(["ba", "go", "no"]));
}

#[test]
fn labels_may_be_numbers_in_another_column_and_texts_conversations() {
    let folder = place(2);
    let (place, model) = (folder.path(), model());
    let said = |text: String| json!([{"role": "user", "content": text}]);
    let stars = [10, 9, 2];
    let row = |i: usize| json!({"messages": said(format!("day {i}")), "stars": stars[i % 3], "idx": i});
    let rows: String = (0..12).map(|i| format!("{}\n", row(i))).collect();
    fs::write(place.join("stars.jsonl"), rows).expect("writes");
    let flags = ["--objective", "classify", "--label-column", "stars", "--max-steps", "2"];
    trains(place, "stars.jsonl", "stars", &flags);
    assert_eq!(file(place, "stars/labels.json")["id2label"], json!({"0": "2", "1": "9", "2": "10"}));
    let base = ["eval", "--model", &model, "--adapter", "stars", "--data", "stars.jsonl"];
    refuses(place, &base, &["stars.jsonl line 1: the row has no label in `label`", "--label-column"]);
    well(place, &[&base[..], &["--label-column", "stars"]].concat());
    // A label that is none of those that were learnt, with its place.
    fs::write(place.join("more.jsonl"), "{\"text\": \"a\", \"stars\": 9}\n{\"text\": \"a\", \"stars\": 5}\n")
        .expect("writes");
    let more =
        ["eval", "--model", &model, "--adapter", "stars", "--data", "more.jsonl", "--label-column", "stars"];
    refuses(place, &more, &["more.jsonl line 2: the label `5` is none of those that are known: 2, 9, 10"]);
}

#[test]
fn a_resumed_classifier_is_the_uninterrupted_one() {
    let folder = place(12);
    let place = folder.path();
    // A run of other steps has the same rates.
    let flags =
        ["--objective", "classify", "--lr", "1e-2", "--scheduler", "constant", "--checkpoint-every", "2"];
    let flags = [&flags[..], &["--validation", "none"]].concat();
    trains(place, "texts.jsonl", "whole", &[&flags[..], &["--max-steps", "4"]].concat());
    trains(place, "texts.jsonl", "parted", &[&flags[..], &["--max-steps", "2"]].concat());
    let resume = ["train", "--resume", "parted", "--max-steps", "4", "--resume-anyway"];
    let output = lorafit(place, &resume);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let weights = |run: &str| fs::read(place.join(run).join("adapter_model.safetensors")).expect("reads");
    assert!(weights("whole") == weights("parted"), "other bits");
    // Other labels are another run.
    let text = fs::read_to_string(place.join("texts.jsonl")).expect("reads").replace("\"no\"", "\"other\"");
    fs::write(place.join("texts.jsonl"), text).expect("writes");
    refuses(place, &["train", "--resume", "parted", "--max-steps", "5"], &["labels of the rows"]);
}

#[test]
fn what_makes_no_sense_with_a_head_that_scores_is_refused() {
    let folder = place(12);
    let (place, model) = (folder.path(), model());
    trains(place, "texts.jsonl", "topics", &["--objective", "classify", "--max-steps", "1"]);
    let with = |verb: &'static str, rest: &[&'static str]| -> Vec<String> {
        let fixed = [verb, "--model", &model, "--adapter", "topics"].map(str::to_owned);
        fixed.into_iter().chain(rest.iter().map(|text| (*text).to_owned())).collect()
    };
    for (arguments, words) in [
        (with("chat", &[]), &["the model is a classifier", "lorafit generate"][..]),
        (with("export", &["--to", "gguf", "--out", "a.gguf"]), &["--to gguf", "lorafit merge"]),
        (with("export", &["--to", "gguf-lora", "--out", "a.gguf"]), &["--to gguf-lora"]),
        (with("generate", &["--prompt", "a", "--temperature", "0.7"]), &["--temperature has no meaning"]),
        (with("eval", &["--data", "texts.jsonl", "--metric", "exact_match"]), &["--metric has no meaning"]),
        (with("eval", &["--data", "pairs.jsonl", "--objective", "reward"]), &["--objective classify"]),
        (with("merge", &["--out", "m", "--check", "texts.jsonl"]), &["--check", "lorafit eval"]),
        (with("train", &["--data", "pairs.jsonl", "--objective", "reward", "--out", "x"]), &["other labels"]),
        (with("train", &["--data", "texts.jsonl", "--out", "x"]), &["its head writes none"]),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        refuses(place, &arguments, words);
    }
    let train = |rest: &[&'static str]| -> Vec<String> {
        let fixed = ["train", "--model", &model, "--out", "x"].map(str::to_owned);
        fixed.into_iter().chain(rest.iter().map(|text| (*text).to_owned())).collect()
    };
    let reward = ["--data", "pairs.jsonl", "--objective", "reward"];
    let classify = ["--data", "texts.jsonl", "--objective", "classify"];
    for (arguments, words) in [
        (train(&[&reward[..], &["--beta", "0.2"]].concat()), &["--beta has no meaning"][..]),
        (train(&[&reward[..], &["--label-column", "x"]].concat()), &["--label-column has no meaning"]),
        (
            train(&[&classify[..], &["--center-rewards", "0.1"]].concat()),
            &["--center-rewards has no meaning"],
        ),
        (train(&[&classify[..], &["--target-modules", "q_proj,lm_head"]].concat()), &["lm_head"]),
        (train(&[&classify[..], &["--train-on", "all"]].concat()), &["--train-on all"]),
        (train(&[&classify[..], &["--label-column", "mood"]].concat()), &["no label in `mood`"]),
        (train(&["--data", "pairs.jsonl", "--objective", "classify"]), &["no label in `label`"]),
        (
            train(&["--data", "texts.jsonl", "--objective", "reward"]),
            &["`label` must be true or false", "--objective classify"],
        ),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        refuses(place, &arguments, words);
        assert!(!place.join("x/metrics.jsonl").exists(), "{arguments:?} began a run");
    }
    fs::write(place.join("one.jsonl"), "{\"text\": \"a\", \"label\": \"b\"}\n").expect("writes");
    let one = train(&["--data", "one.jsonl", "--objective", "classify"]);
    refuses(place, &one.iter().map(String::as_str).collect::<Vec<_>>(), &["one label alone, `b`"]);
}

#[test]
fn labels_beside_an_adapter_that_are_damaged_are_an_error_and_without_them_labels_are_numbers() {
    let folder = place(6);
    let (place, model) = (folder.path(), model());
    trains(place, "texts.jsonl", "topics", &["--objective", "classify", "--max-steps", "1"]);
    let eval = ["eval", "--model", &model, "--adapter", "topics", "--data", "texts.jsonl"];
    let labels = place.join("topics/labels.json");
    for (text, words) in [
        ("{", "not JSON"),
        ("{}", "it has no `id2label`"),
        ("{\"id2label\": {}}", "`id2label` has not a text for each number from 0"),
        ("{\"id2label\": {\"0\": \"a\", \"2\": \"b\"}}", "`id2label` has not a text for each number from 0"),
        ("{\"id2label\": {\"0\": \"a\", \"1\": \"b\"}}", "it has 2 labels, and the head of the adapter 3"),
    ] {
        fs::write(&labels, text).expect("writes");
        refuses(place, &eval, &["labels.json", words]);
    }
    fs::remove_file(&labels).expect("removed");
    let prompt = ["generate", "--model", &model, "--adapter", "topics", "--prompt", "bad news", "--json"];
    let found = json_of(&well(place, &prompt));
    assert!(["0", "1", "2"].contains(&found["label"].as_str().expect("a text")), "{found}");
    // It has no entry for a model that the adapter is not for.
    well(place, &["inspect", "topics"]);
}
