//! Answers end where the model's context ends, whoever asks for them; rows that the model cannot be given are skipped with
//! other bad rows.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::common::{lorafit, well};

/// A folder with the model `m`, whose configuration has `more`, and the rows `r.jsonl`, of which the second is long.
fn place(more: Value) -> TempDir {
    let dir = TempDir::new().unwrap();
    let model = dir.path().join("m");
    fs::create_dir(&model).unwrap();
    let from: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/chat_bpe");
    for entry in fs::read_dir(from).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    let config = model.join("config.json");
    let mut value: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    for (key, more) in more.as_object().unwrap() {
        value[key] = more.clone();
    }
    fs::write(config, value.to_string()).unwrap();
    // Without a token that ends it, an answer is as long as it may be.
    let _ = fs::remove_file(model.join("generation_config.json"));
    let row = |text: &str| json!({"prompt": text, "completion": " yes"}).to_string();
    fs::write(dir.path().join("r.jsonl"), format!("{}\n{}\n", row("a"), row(&"long ".repeat(12)))).unwrap();
    dir
}

fn told(place: &Path, arguments: &[&str]) -> (bool, String) {
    let output = lorafit(place, arguments);
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn answers_of_every_verb_end_with_the_context() {
    let dir = place(json!({"max_position_embeddings": 40}));
    let at = dir.path();
    let short = json!({"prompt": "a", "completion": " yes"}).to_string();
    fs::write(at.join("r.jsonl"), short).unwrap();
    let generated =
        well(at, &["generate", "--model", "m", "--prompt", "a", "--max-new-tokens", "100", "--json"]);
    let generated: Value = serde_json::from_str(&generated).unwrap();
    let tokens = |key: &str| generated[key].as_u64().unwrap();
    assert_eq!(
        (tokens("prompt_tokens") + tokens("new_tokens"), &generated["stopped"]),
        (40, &json!("length"))
    );

    let rows = ["--data", "r.jsonl", "--generate", "--max-new-tokens", "100"];
    let (fine, eval) = told(at, &[&["eval", "--model", "m", "--predictions", "p.jsonl"], &rows[..]].concat());
    assert!(fine && eval.contains("1 answer stops at the 40 tokens"), "{eval}");
    let answer: Value = serde_json::from_str(&fs::read_to_string(at.join("p.jsonl")).unwrap()).unwrap();
    assert_eq!(answer["answer"], generated["text"]);

    well(at, &["train", "--model", "m", "--data", "r.jsonl", "--out", "run", "--max-steps", "1", "--quiet"]);
    let (fine, compare) = told(at, &[&["compare", "--runs", "run"], &rows[..]].concat());
    assert!(fine && compare.contains("1 answer stops at the 40 tokens"), "{compare}");
}

/// As [`place`]; the second row has a token that the tokenizer knows and the embedding lacks.
fn place_with_unheard() -> TempDir {
    let dir = place(json!({}));
    let at = dir.path().join("m/tokenizer_config.json");
    let mut settings: Value = serde_json::from_str(&fs::read_to_string(&at).unwrap()).unwrap();
    settings["mask_token"] = json!("<unheard>");
    fs::write(&at, settings.to_string()).unwrap();
    let rows = fs::read_to_string(dir.path().join("r.jsonl")).unwrap().replace("long long", "long <unheard>");
    fs::write(dir.path().join("r.jsonl"), rows).unwrap();
    dir
}

#[test]
fn rows_that_the_model_cannot_be_given_are_bad_rows() {
    let dir = place_with_unheard();
    let (at, why) = (dir.path(), "has the token `<unheard>` (320)");
    let train = ["train", "--model", "m", "--data", "r.jsonl", "--out", "run", "--max-steps", "1"];
    let eval = ["eval", "--model", "m", "--data", "r.jsonl"];
    let data = ["data", "r.jsonl", "--model", "m"];
    for verb in [&train[..], &eval] {
        let (fine, text) = told(at, verb);
        assert!(!fine && text.contains(why) && text.contains("r.jsonl line 2"), "{text}");
    }
    for verb in [&train[..], &eval, &data] {
        let (fine, text) = told(at, &[verb, &["--skip-bad-rows"]].concat());
        assert!(fine && text.contains("1 bad row skipped") && text.contains(why), "{text}");
    }
}

#[test]
fn logits_that_become_infinite_within_an_answer_are_an_error() {
    let dir = place(json!({}));
    let file = dir.path().join("m/model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let names: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let from = names["model.embed_tokens.weight"]["data_offsets"][0].as_u64().unwrap() as usize + 8 + header;
    let width = match names["model.embed_tokens.weight"]["dtype"].as_str() {
        Some("F32") => 4,
        _ => 2,
    };
    // The row of one token, which is the head's too: its logit is infinite at once, however plain the prompt.
    let row = from + 100 * 32 * width;
    bytes[row..row + width].fill(0xff);
    fs::write(&file, bytes).unwrap();
    let (fine, text) = told(dir.path(), &["generate", "--model", "m", "--prompt", "a"]);
    assert!(!fine && text.contains("model.embed_tokens.weight has the value NaN"), "{text}");
    let eval = ["eval", "--model", "m", "--data", "r.jsonl", "--generate"];
    let (fine, text) = told(dir.path(), &eval);
    assert!(!fine && text.contains("model.embed_tokens.weight has the value NaN"), "{text}");
}
