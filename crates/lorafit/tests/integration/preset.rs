//! Settings that are chosen: by `--preset` from data and model, by `--lr auto` from a test.

use std::fs;
use std::path::Path;

use crate::common::{lorafit, place, well};

fn model() -> String {
    format!("{}/../../fixtures/models/chat_bpe", env!("CARGO_MANIFEST_DIR"))
}

/// What `train --out out` with `flags` prints beside its result.
fn train(place: &Path, out: &str, flags: &[&str]) -> String {
    let model = model();
    let fixed = ["train", "--model", &model, "--data", "rows.jsonl", "--out", out];
    let output = lorafit(place, &[&fixed[..], flags].concat());
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{flags:?}: {told}");
    told
}

/// The value of a key of the run's configuration.
fn kept(place: &Path, out: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(place.join(out).join("config.toml")).expect("config.toml");
    text.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(" = ")?.to_owned()))
}

#[test]
fn a_preset_says_what_it_chooses_and_keeps_it_as_if_it_had_been_typed() {
    let place = place(60);
    let place = place.path();
    let told = train(place, "quick", &["--preset", "quick"]);
    assert!(told.contains("--preset quick chooses, where nothing is given:\n  --rank 8: "), "{told}");
    assert!(
        told.contains("\nthe same without a preset: --rank 8 --alpha 16 --lr 0.012 --epochs 4"),
        "{told}"
    );
    // Fifty rows in steps of four.
    assert!(told.contains("52 optimizer steps"), "{told}");
    let value = |key: &str| kept(place, "quick", key);
    assert_eq!(value("preset").as_deref(), Some("\"quick\""));
    assert_eq!([value("rank"), value("epochs"), value("lr")].map(Option::unwrap), ["8", "4.0", "0.012"]);

    let told = train(place, "good", &["--preset", "good", "--epochs", "0.1", "--rank", "4", "--lr", "1e-3"]);
    assert!(
        !told.contains("--rank 8") && !told.contains("--alpha 16:") && !told.contains("  --lr "),
        "{told}"
    );
    assert!(told.contains("  --eval-every 1: ") || told.contains("  --eval-every 13: "), "{told}");
    let value = |key: &str| kept(place, "good", key).unwrap_or_else(|| panic!("no {key}"));
    assert_eq!(["rank", "alpha", "epochs", "lr", "patience"].map(value), ["4", "16.0", "0.1", "0.001", "3"]);
}

#[test]
fn a_learning_rate_is_tested_once() {
    let place = place(20);
    let place = place.path();
    let told = train(place, "run", &["--lr", "auto", "--max-steps", "2"]);
    assert!(
        told.contains("test of learning rates, rate and loss: ") && told.contains("--lr auto: "),
        "{told}"
    );
    let rate: f64 = kept(place, "run", "lr").expect("a rate").parse().expect("a number");
    // A quarter of the lowest, at most a factor of 4 from 0.012.
    assert!((0.003..=0.048).contains(&rate), "{rate}");
    let output = lorafit(place, &["train", "--resume", "run"]);
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success() && !told.contains("test of learning rates"), "{told}");
    assert_eq!(kept(place, "run", "lr").expect("a rate").parse::<f64>().ok(), Some(rate));
    let full = train(place, "full", &["--method", "full", "--lr", "auto", "--max-steps", "1"]);
    assert!(full.contains("--lr auto: 0.0012, what models of this width take"), "{full}");
}

#[test]
fn trials_of_a_sweep_take_settings_as_they_are() {
    let place = place(8);
    for (key, said) in [("preset = \"good\"", "`preset`: the trials"), ("lr = \"auto\"", "`lr` is \"auto\"")]
    {
        let sweep = format!("model = {:?}\ndata = \"rows.jsonl\"\n{key}\n[search]\nrank = [2, 4]\n", model());
        fs::write(place.path().join("sweep.toml"), sweep).expect("written");
        let output = lorafit(place.path(), &["sweep", "sweep.toml", "--out", "s"]);
        let told = String::from_utf8(output.stderr).expect("text");
        assert!(!output.status.success() && told.contains(said) && told.contains("hint: "), "{told}");
    }
    assert!(well(place.path(), &["train", "--help"]).contains("--preset"));
}
