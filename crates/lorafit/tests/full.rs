//! Full fine-tuning and `compare` by the binary, over tiny models.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_bpe");
const GGUF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/gguf/chat_spm-f32.gguf");

/// A folder with rows.
fn place() -> TempDir {
    let dir = TempDir::new().expect("a folder");
    let row = |i: usize| {
        let chat = json!({ "messages": [
            { "role": "user", "content": format!("why {i}?") },
            { "role": "assistant", "content": format!("so {}", i * i) },
        ] });
        format!("{chat}\n")
    };
    fs::write(dir.path().join("rows.jsonl"), (0..12).map(row).collect::<String>()).expect("written");
    dir
}

fn lorafit(place: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lorafit"));
    command.current_dir(place).args(arguments).output().expect("starts")
}

fn well(place: &Path, arguments: &[&str]) -> String {
    let output = lorafit(place, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn train<'a>(model: &'a str, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let flags =
        ["train", "--model", model, "--data", "rows.jsonl", "--out", out, "--max-steps", "6", "--lr", "1e-3"];
    [&flags[..], more].concat()
}

fn loss(place: &Path, model: &str) -> f64 {
    let json = well(place, &["eval", "--model", model, "--data", "rows.jsonl", "--json", "--quiet"]);
    serde_json::from_str::<Value>(&json).expect("JSON")["loss"].as_f64().expect("a loss")
}

/// What is evaluated while training is what the folder that is left has, whatever the base was.
#[test]
fn a_trained_model_is_a_folder_that_evaluates_as_the_run_did() {
    for model in [FOLDER, GGUF] {
        let place = place();
        let place = place.path();
        well(place, &train(model, "run", &["--method", "full", "--eval-data", "rows.jsonl"]));
        let records = fs::read_to_string(place.join("run/evaluations.jsonl")).expect("records");
        let last: Value = serde_json::from_str(records.lines().last().expect("one")).expect("JSON");
        let expected = last["loss"].as_f64().expect("a loss");
        assert!(expected < loss(place, model), "{model}: it learned nothing");
        for folder in ["run/model", "run/best"] {
            let found = loss(place, folder);
            assert!((found - expected).abs() < 1e-5 * expected, "{folder}: {found}, expected {expected}");
        }
        assert!(!place.join("run/adapter_config.json").exists());
    }
}

#[test]
fn a_full_run_is_resumed_and_not_as_another() {
    let place = place();
    let place = place.path();
    let full = ["--method", "full", "--layers", "1", "--checkpoint-every", "2"];
    well(place, &train(FOLDER, "run", &full));
    let whole = fs::read(place.join("run/model/model.safetensors")).expect("the model");
    fs::remove_dir_all(place.join("run/checkpoints/step-00000006")).expect("removed");
    fs::remove_dir_all(place.join("run/model")).expect("removed");
    well(place, &["train", "--resume", "run"]);
    assert!(fs::read(place.join("run/model/model.safetensors")).expect("the model") == whole);
    let other = lorafit(place, &["train", "--resume", "run", "--layers", "0-1"]);
    let told = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(!other.status.success() && told.contains("layers"), "{told}");
}

#[test]
fn what_does_not_fit_is_refused_with_what_would() {
    let place = place();
    let place = place.path();
    // The program alone is planned with some 25 MiB.
    let refused = lorafit(
        place,
        &train(FOLDER, "run", &["--method", "full", "--memory", "26500000B", "--threads", "1"]),
    );
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{told}");
    assert!(told.contains("training needs") && told.contains("fits"), "{told}");
    assert!(!place.join("run/metrics.jsonl").exists(), "nothing has begun");
}

#[test]
fn runs_of_both_methods_are_compared_on_the_same_rows() {
    let place = place();
    let place = place.path();
    well(place, &train(FOLDER, "lora", &["--rank", "4"]));
    well(place, &train(FOLDER, "full", &["--method", "full", "--train-modules", "mlp"]));
    let flags = ["compare", "--runs", "lora", "full", "--data", "rows.jsonl", "--quiet"];
    let table: Vec<Value> =
        serde_json::from_str(&well(place, &[&flags[..], &["--json", "--generate"]].concat()))
            .expect("a list of rows");
    let of = |key: &str| table.iter().map(|row| row[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("method"), ["base", "lora", "full"]);
    // Two layers, 32 wide, 64 in between; rank 4 on seven projections.
    assert_eq!(of("trainable_parameters")[2], json!(2 * 3 * 32 * 64));
    assert_eq!(of("loss")[0], json!(loss(place, FOLDER)));
    assert_eq!(of("loss")[2], json!(loss(place, "full/model")));
    assert!(of("exact_match").iter().all(Value::is_number) && of("seconds")[1].is_number());
    let text = well(place, &flags);
    assert_eq!(text.lines().count(), 4, "{text}");
    let none = lorafit(place, &["compare", "--runs", ".", "--data", "rows.jsonl"]);
    assert!(String::from_utf8_lossy(&none.stderr).contains("holds no run"));
}
