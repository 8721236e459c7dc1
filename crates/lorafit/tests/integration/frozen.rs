//! What frozen blocks compute is kept: once for all passes, runs and trials, and said in the first lines.

use std::fs;
use std::path::Path;

use crate::common::{chat_model, lorafit, place, refuses, trains, well};

const UPPER: [&str; 6] = ["--lr", "5e-3", "--cache-dir", "cache", "--layers", "1-"];

fn files(place: &Path) -> Vec<String> {
    let entries = fs::read_dir(place.join("cache")).expect("lists");
    let names = entries.map(|entry| entry.expect("lists").file_name().into_string().expect("text"));
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".large")).collect();
    names.sort();
    names
}

fn adapter(place: &Path, out: &str) -> Vec<u8> {
    fs::read(place.join(out).join("adapter_model.safetensors")).expect("the adapter")
}

fn train(place: &Path, out: &str, flags: &[&str]) -> String {
    trains(place, "rows.jsonl", out, &[&UPPER[..], flags].concat())
}

#[test]
fn outputs_of_frozen_blocks_are_kept_for_the_next_run_and_a_resumed_one() {
    let place = place(60);
    let place = place.path();
    let told = train(place, "first", &["--epochs", "2"]);
    assert!(
        told.contains("--frozen-cache auto: f32; each row passes the 1 frozen block once instead of 2"),
        "{told}"
    );
    assert!(told.contains("the 1 frozen block: outputs for "), "{told}");
    let kept = files(place);
    assert_eq!(kept.len(), 2, "rows to train on, and those held out: {kept:?}");
    let config = fs::read_to_string(place.join("first/config.toml")).expect("reads");
    assert!(config.contains("frozen-cache = \"f32\"\n"), "{config}");

    let told = train(place, "again", &["--epochs", "2", "--rank", "4"]);
    assert!(told.contains("found in the cache"), "{told}");
    assert_eq!(files(place), kept);

    // Another lowest block, or another type, is something else.
    train(place, "rounded", &["--epochs", "2", "--frozen-cache", "bf16"]);
    assert_eq!(files(place).len(), 4);
    assert!(adapter(place, "rounded") != adapter(place, "first"));

    // A run that goes on without the cache has the same bits.
    train(place, "whole", &["--max-steps", "30", "--checkpoint-every", "12"]);
    let model = chat_model();
    let stopped = ["train", "--model", &model, "--data", "rows.jsonl", "--out", "part", "--max-steps", "30"];
    let stopped = [&stopped[..], &UPPER, &["--preset", "off", "--checkpoint-every", "12"]].concat();
    well(place, &stopped);
    fs::remove_dir_all(place.join("part/checkpoints/step-00000030")).expect("removes");
    fs::remove_dir_all(place.join("cache")).expect("removes");
    refuses(place, &["train", "--resume", "part", "--no-cache"], &["--no-cache"]);
    well(place, &["train", "--resume", "part"]);
    assert!(adapter(place, "part") == adapter(place, "whole"));
}

#[test]
fn auto_keeps_nothing_where_it_would_not_help() {
    let place = place(60);
    let place = place.path();
    for flags in [
        &["--max-steps", "8"][..],
        &["--epochs", "2", "--neftune-alpha", "5"],
        &["--epochs", "2", "--frozen-cache", "off"],
        &["--epochs", "2", "--target-modules", "q_proj", "--save-modules", "embed_tokens"],
    ] {
        let told = train(place, "run", &[flags, &["--overwrite"]].concat());
        assert!(!told.contains("frozen"), "{flags:?}: {told}");
        assert_eq!(files(place), [""; 0], "{flags:?}");
    }
    let all = ["--lr", "5e-3", "--cache-dir", "cache", "--epochs", "2"];
    trains(place, "rows.jsonl", "all", &all);
    assert_eq!(files(place), [""; 0]);
}

#[test]
fn what_cannot_be_kept_is_refused_with_its_reason() {
    let place = place(60);
    let model = chat_model();
    let train = ["train", "--model", &model, "--data", "rows.jsonl", "--out", "run", "--frozen-cache", "f32"];
    for (flags, words) in [
        (&[][..], &["--frozen-cache f32", "no block is frozen", "--layers"][..]),
        (&["--layers", "1-", "--no-cache"], &["--no-cache keeps nothing", "leave out --no-cache"]),
        (&["--layers", "1-", "--neftune-alpha", "5"], &["--neftune-alpha changes what they read"]),
    ] {
        refuses(place.path(), &[&train[..], flags].concat(), words);
        assert!(!place.path().join("run/metrics.jsonl").exists());
    }
}

#[test]
fn trials_of_a_sweep_share_what_frozen_blocks_compute() {
    let place = place(60);
    let place = place.path();
    let text = format!(
        "model = {:?}\ndata = \"rows.jsonl\"\nepochs = 2.0\nlayers = \"1-\"\nlr = 5e-3\ncache-dir = \"cache\"\n\n\
         [search]\nrank = [2, 4]\n",
        chat_model()
    );
    fs::write(place.join("sweep.toml"), text).expect("writes");
    let output = lorafit(place, &["sweep", "sweep.toml", "--out", "sweep"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(files(place).len(), 2, "once for both");
    for trial in ["000", "001"] {
        let config =
            fs::read_to_string(place.join(format!("sweep/trials/{trial}/config.toml"))).expect("reads");
        assert!(config.contains("frozen-cache = \"f32\"\n"), "{config}");
    }
}
