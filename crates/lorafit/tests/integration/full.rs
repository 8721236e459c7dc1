//! Full fine-tuning and `compare` by the binary, over tiny models.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{lorafit, place, well};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_bpe");
const GGUF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/gguf/chat_spm-f32.gguf");

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
        let place = place(12);
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
    let place = place(12);
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
    let place = place(12);
    let place = place.path();
    // The program alone is planned with some 35 MiB.
    let refused = lorafit(
        place,
        &train(FOLDER, "run", &["--method", "full", "--memory", "37000000B", "--threads", "1"]),
    );
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{told}");
    assert!(told.contains("training needs") && told.contains("fits"), "{told}");
    assert!(!place.join("run/metrics.jsonl").exists(), "nothing has begun");
}

#[test]
fn runs_of_both_methods_are_compared_on_the_same_rows() {
    let place = place(12);
    let place = place.path();
    well(place, &train(FOLDER, "lora", &["--rank", "4"]));
    well(place, &train(FOLDER, "full", &["--method", "full", "--train-modules", "mlp"]));
    let flags = ["compare", "--runs", "lora", "full", "--data", "rows.jsonl", "--quiet"];
    let found: Value =
        serde_json::from_str(&well(place, &[&flags[..], &["--json", "--generate"]].concat())).expect("JSON");
    let table: Vec<Value> = found["runs"].as_array().expect("a list of runs").clone();
    let answers = &found["rows"][0]["answers"];
    assert!(
        answers["lora"].is_string() && answers["full"].is_string() && answers[FOLDER].is_string(),
        "{answers}"
    );
    let of = |key: &str| table.iter().map(|row| row[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("method"), ["base", "lora", "full"]);
    // Two layers, 32 wide, 64 in between; rank 4 on seven projections.
    assert_eq!(of("trainable_parameters")[2], json!(2 * 3 * 32 * 64));
    assert_eq!(of("loss")[0], json!(loss(place, FOLDER)));
    assert_eq!(of("loss")[2], json!(loss(place, "full/model")));
    assert!(
        of("metrics").iter().all(|of| of["exact_match"]["mean"].is_number()) && of("seconds")[1].is_number()
    );
    let text = well(place, &flags);
    assert_eq!(text.lines().count(), 4, "{text}");
    let told = |flags: &[&str], more: &[&str]| {
        let output = lorafit(place, &[flags, &["--html", "a.html"], more].concat());
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("text"));
        assert!(output.status.success() && !stdout.contains("page written"), "{stdout}{stderr}");
        stderr.matches("page written to a.html\n").count()
    };
    let aloud: Vec<&str> = flags.iter().copied().filter(|flag| *flag != "--quiet").collect();
    assert_eq!([told(&aloud, &[]), told(&aloud, &["--json"]), told(&flags, &[])], [1, 1, 0]);
    let page = fs::read_to_string(place.join("a.html")).expect("a page");
    let of_loss = |row: &Value| format!("{:.4}</strong></td>", row["loss"].as_f64().expect("a loss"));
    let best =
        table.iter().min_by(|a, b| a["loss"].as_f64().partial_cmp(&b["loss"].as_f64()).expect("numbers"));
    for row in &table {
        assert_eq!(page.contains(&of_loss(row)), Some(row) == best, "{row} in {page}");
        assert!(page.contains(row["name"].as_str().expect("a name")));
    }
    assert!(page.contains("default-src 'none'") && page.matches("<tr>").count() == 4);
    let none = lorafit(place, &["compare", "--runs", ".", "--data", "rows.jsonl"]);
    assert!(String::from_utf8_lossy(&none.stderr).contains("holds no run"));
}

/// A folder with configuration and tokenizer and no weights, and rows of text.
fn place_without_weights() -> TempDir {
    let dir = place(12);
    let model = dir.path().join("tiny");
    fs::create_dir(&model).expect("made");
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(Path::new(FOLDER).join(name), model.join(name)).expect("copied");
    }
    let texts: String = (0..24).map(|i| format!("{{\"text\": \"one two three {}\"}}\n", i % 4)).collect();
    fs::write(dir.path().join("texts.jsonl"), texts).expect("written");
    dir
}

fn pretrain<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let flags = ["train", "--model", "tiny", "--data", "texts.jsonl", "--out", out, "--method", "full"];
    [&flags[..], &["--init", "random", "--lr", "1e-2", "--max-steps", "20"], more].concat()
}

#[test]
fn a_model_is_pretrained_from_a_configuration_and_a_tokenizer() {
    let place = place_without_weights();
    let place = place.path();
    let planned: Value =
        serde_json::from_str(&well(place, &["plan", "--model", "tiny", "--json"])).expect("JSON");
    assert!(planned["parameters"].as_u64() > Some(0));
    well(place, &["data", "texts.jsonl", "--model", "tiny"]);
    well(place, &pretrain("run", &[]));
    let metrics = fs::read_to_string(place.join("run/metrics.jsonl")).expect("metrics");
    let losses: Vec<f64> = metrics
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).expect("JSON")["loss"].as_f64())
        .collect();
    // Weights with a spread of 0.02 say next to nothing: every one of 320 tokens is about as likely.
    let chance = 320f64.ln();
    assert!((losses[0] - chance).abs() < 0.05, "begins at {}, chance is {chance}", losses[0]);
    assert!(losses[losses.len() - 1] < 0.4 * chance, "{losses:?}");
    let config = fs::read_to_string(place.join("run/model/config.json")).expect("a configuration");
    assert_eq!(serde_json::from_str::<Value>(&config).expect("JSON")["torch_dtype"], "float32");
    let json = ["eval", "--model", "run/model", "--data", "texts.jsonl", "--json", "--quiet"];
    let found: Value = serde_json::from_str(&well(place, &json)).expect("JSON");
    assert!(found["loss"].as_f64().expect("a loss") < 0.4 * chance, "{found}");
    let compare = ["compare", "--runs", "run", "--data", "texts.jsonl", "--json", "--quiet"];
    let table: Value = serde_json::from_str(&well(place, &compare)).expect("JSON");
    assert_eq!(table["runs"].as_array().expect("runs").len(), 1, "there is no base: {table}");
    assert_eq!(table["runs"][0]["loss"], found["loss"]);
}

#[test]
fn the_seed_decides_random_weights_and_a_resumed_run_has_the_same_bits() {
    let place = place_without_weights();
    let place = place.path();
    let model = |run: &str| fs::read(place.join(run).join("model/model.safetensors")).expect("a model");
    well(place, &pretrain("one", &["--threads", "1", "--checkpoint-every", "10"]));
    // Weights that are there are not looked at.
    fs::write(place.join("tiny/model.safetensors"), "broken").expect("written");
    well(place, &pretrain("two", &["--threads", "2"]));
    well(place, &pretrain("other", &["--seed", "1"]));
    assert!(model("one") == model("two") && model("one") != model("other"));
    let whole = model("one");
    fs::remove_dir_all(place.join("one/checkpoints/step-00000020")).expect("removed");
    fs::remove_dir_all(place.join("one/model")).expect("removed");
    well(place, &["train", "--resume", "one"]);
    assert!(model("one") == whole);
    let told = lorafit(place, &["train", "--resume", "one", "--init", "model"]);
    assert!(!told.status.success());
}

#[test]
fn random_weights_that_would_stay_so_or_fit_no_machine_are_refused() {
    let place = place_without_weights();
    let place = place.path();
    for (more, named) in [
        (&["--method", "lora"][..], "--method lora"),
        (&["--method", "full", "--layers", "1-"], "--layers"),
        (&["--method", "full", "--train-modules", "mlp"], "--train-modules"),
    ] {
        let flags = ["train", "--model", "tiny", "--data", "texts.jsonl", "--out", "run", "--init", "random"];
        let refused = lorafit(place, &[&flags[..], more].concat());
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && told.contains(named) && told.contains("--init random"),
            "{told}"
        );
        assert!(!place.join("run").exists(), "nothing has begun");
    }
    let config = fs::read_to_string(place.join("tiny/config.json")).expect("a configuration");
    let mut vast: Value = serde_json::from_str(&config).expect("JSON");
    for key in ["hidden_size", "intermediate_size"] {
        vast[key] = json!(1 << 24);
    }
    vast["num_hidden_layers"] = json!(4096);
    fs::write(place.join("tiny/config.json"), vast.to_string()).expect("written");
    let refused = lorafit(place, &pretrain("run", &[]));
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(told.contains("the weights alone take"), "{told}");
    fs::write(place.join("tiny/config.json"), config).expect("written");
    fs::remove_file(place.join("tiny/tokenizer.json")).expect("removed");
    let refused = lorafit(place, &pretrain("run", &[]));
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("tokenizer.json"), "{told}");
}
