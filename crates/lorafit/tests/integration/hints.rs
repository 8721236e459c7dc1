//! What hints of libraries say: the flags of the verb that runs, and none that it does not have.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::{lorafit, place};

const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_bpe");

/// The hint of a command that is refused, if it has one.
fn hint(place: &Path, arguments: &[&str]) -> Option<String> {
    let output = lorafit(place, arguments);
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success() && told.contains("error: "), "{arguments:?}: {told}");
    told.lines().find_map(|line| line.strip_prefix("hint: ")).map(str::to_owned)
}

#[test]
fn a_verb_names_the_flags_it_has() {
    let place = place(4);
    let at = place.path();
    let rows = ["--model", BASE, "--max-seq-len", "4", "--overlong", "error"];
    let cut = "cut such rows with --overlong truncate-right, leave them out with --overlong drop, or raise --max-seq-len";
    let train = ["train", "--data", "rows.jsonl", "--out", "run"];
    assert_eq!(hint(at, &[&train[..], &rows].concat()).as_deref(), Some(cut));
    let adapter = format!("{BASE}/adapter");
    let merge = ["merge", "--adapter", &adapter, "--out", "merged", "--check", "rows.jsonl"];
    assert_eq!(hint(at, &[&merge[..], &rows].concat()).as_deref(), Some(cut));
}

#[test]
fn a_verb_does_not_name_a_flag_that_it_lacks() {
    let place = place(4);
    let at = place.path();
    // A base in another tool's format, for verbs that can quantise and verbs that cannot.
    fs::create_dir(at.join("gptq")).expect("made");
    for entry in fs::read_dir(BASE).expect("the folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_file() {
            fs::copy(&entry, at.join("gptq").join(entry.file_name().expect("a name"))).expect("copied");
        }
    }
    let config = at.join("gptq/config.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&config).expect("read")).expect("JSON");
    json["quantization_config"] = json!({ "quant_method": "gptq", "bits": 4 });
    fs::write(&config, json.to_string()).expect("written");
    assert_eq!(
        hint(at, &["train", "--model", "gptq", "--data", "rows.jsonl", "--out", "run"]).as_deref(),
        Some(
            "take the model it was made from, in BF16, quantise that while it is read with --quant nf4 or int8, or take a \
             GGUF file of it"
        )
    );
    let adapter = format!("{BASE}/adapter");
    assert_eq!(
        hint(at, &["merge", "--model", "gptq", "--adapter", &adapter, "--out", "merged"]).as_deref(),
        Some("take the model it was made from, in BF16, or take a GGUF file of it")
    );
}

#[test]
fn another_verb_is_named_by_its_command() {
    let place = place(4);
    let at = place.path();
    let eval = ["eval", "--data", "rows.jsonl", "--model", BASE, "--adapter"];
    fs::create_dir(at.join("mlx")).expect("made");
    fs::write(at.join("mlx/adapters.safetensors"), "").expect("written");
    let peft = "make a PEFT folder of it with lorafit export --to peft --model BASE --adapter DIR --out NEW";
    let fused =
        "run mlx_lm.fuse --model BASE --adapter-path DIR --save-path MERGED and pass MERGED as --model";
    assert_eq!(hint(at, &[&eval[..], &["mlx"]].concat()), Some(format!("{peft}, or {fused}")));
}

#[test]
fn a_sweep_names_the_keys_of_its_file() {
    let place = place(4);
    let file = format!(
        "model = {BASE:?}\ndata = \"rows.jsonl\"\neval-data = \"rows.jsonl\"\nmax-seq-len = 4\noverlong = \"error\"\nmax-steps = 1\n\
         [search]\nlr = [1e-3, 1e-4]\n"
    );
    fs::write(place.path().join("sweep.toml"), file).expect("written");
    let patient = fs::read_to_string(place.path().join("sweep.toml")).expect("read");
    let patient = patient.replace("[search]", "patience = 2\npreset = \"off\"\n[search]");
    fs::write(place.path().join("patient.toml"), patient).expect("written");
    let error = lorafit(place.path(), &["sweep", "patient.toml", "--out", "patient"]).stderr;
    let error = String::from_utf8(error).expect("text");
    assert!(error.contains("`patience = 2` without `eval-every`"), "{error}");
    assert!(error.contains("hint: give `eval-every` STEPS"), "{error}");
    assert_eq!(
        hint(place.path(), &["sweep", "sweep.toml", "--out", "sweep"]).as_deref(),
        Some(
            "cut such rows with `overlong = \"truncate-right\"`, leave them out with `overlong = \"drop\"`, or raise \
             `max-seq-len`"
        )
    );
}
