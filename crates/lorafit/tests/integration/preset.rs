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

/// The adapter that a run has made.
fn adapter(place: &Path, out: &str) -> Vec<u8> {
    fs::read(place.join(out).join("adapter_model.safetensors")).expect("the adapter")
}

#[test]
fn a_preset_says_what_it_chooses_and_keeps_it_as_if_it_had_been_typed() {
    let place = place(60);
    let place = place.path();
    let told = train(place, "quick", &["--preset", "quick"]);
    assert!(told.contains("--preset quick chooses what is not given:\n  --rank 8: "), "{told}");
    let same = "--preset off --rank 8 --alpha 16 --lr 0.012 --epochs 4";
    assert!(told.contains(&format!("\nthe same without a preset: {same}\n")), "{told}");
    // Fifty rows in steps of four.
    assert!(told.contains("52 optimizer steps"), "{told}");
    let value = |key: &str| kept(place, "quick", key);
    assert_eq!(value("preset").as_deref(), Some("\"quick\""));
    assert_eq!([value("rank"), value("epochs"), value("lr")].map(Option::unwrap), ["8", "4.0", "0.012"]);
    train(place, "same", &same.split(' ').collect::<Vec<_>>());
    assert!(
        adapter(place, "quick") == adapter(place, "same"),
        "the flags that are printed give the same bits"
    );
}

#[test]
fn without_a_preset_good_chooses_what_is_not_given() {
    let place = place(60);
    let place = place.path();
    let told = train(place, "run", &["--epochs", "2", "--rank", "4", "--lr", "1e-3"]);
    assert!(told.contains("--preset good (the default) chooses what is not given:"), "{told}");
    assert!(
        !told.contains("--rank 8") && !told.contains("--alpha 16:") && !told.contains("  --lr "),
        "{told}"
    );
    let value = |key: &str| kept(place, "run", key);
    assert_eq!(value("preset").as_deref(), Some("\"good\""));
    // Of 26 steps over 50 rows, 10 of them held out: seven looks take a quarter of the time.
    assert_eq!(value("eval-every").as_deref(), Some("4"));
    assert_eq!(
        ["rank", "alpha", "epochs", "lr", "patience"].map(|key| value(key).unwrap()),
        ["4", "16.0", "2.0", "0.001", "3"]
    );

    let told = train(place, "short", &["--max-steps", "2"]);
    assert!(told.contains("  --lr 0.012: ") && !told.contains("--epochs"), "{told}");
    assert_eq!([kept(place, "short", "eval-every"), kept(place, "short", "patience")], [None, None]);

    let told = train(place, "off", &["--preset", "off"]);
    assert!(!told.contains("chooses what is not given"), "{told}");
    let fixed = ["rank", "alpha", "epochs", "lr"].map(|key| kept(place, "off", key).unwrap());
    assert_eq!(fixed, ["8", "16.0", "1.0", "0.0002"]);
}

#[test]
fn few_rows_are_trained_on_without_evaluations() {
    let place = place(6);
    let told = train(place.path(), "run", &[]);
    assert!(told.contains("20 steps over 6 rows, more passes than usual since the rows are few"), "{told}");
    assert!(!told.contains("--eval-every") && !told.contains("--patience"), "{told}");
    let model = model();
    let asked = ["train", "--model", &model, "--data", "rows.jsonl", "--out", "other", "--patience", "2"];
    let output = lorafit(place.path(), &asked);
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(
        !output.status.success() && told.contains("--patience has no rows to look at: of 6 rows"),
        "{told}"
    );
}

#[test]
fn what_a_file_sets_is_given_even_if_it_is_the_default() {
    let place = place(60);
    let place = place.path();
    fs::write(place.join("run.toml"), "rank = 8\nalpha = 16\nlr = 2e-4\nmax_steps = 3\n").expect("written");
    let told = train(place, "run", &["--config", "run.toml"]);
    assert!(!told.contains("chooses what is not given"), "{told}");
    fs::write(place.join("run.toml"), "preset = \"off\"\n").expect("written");
    train(place, "off", &["--config", "run.toml", "--max-steps", "3"]);
    assert!(adapter(place, "run") == adapter(place, "off"));

    let model = model();
    let fixed = ["train", "--model", &model, "--data", "rows.jsonl", "--out", "r", "--print-config"];
    let printed = well(place, &fixed);
    assert!(printed.contains("preset = \"good\"") && !printed.contains("rank = "), "{printed}");
    let printed = well(place, &[&fixed[..], &["--rank", "8"]].concat());
    assert!(printed.contains("rank = 8") && printed.contains("alpha = 16"), "{printed}");
}

/// Of a run that an older version began: its configuration names no preset.
#[test]
fn a_run_that_is_resumed_is_not_chosen_for_again() {
    let place = place(60);
    let place = place.path();
    train(place, "run", &["--preset", "off", "--max-steps", "3"]);
    let config = place.join("run/config.toml");
    let text = fs::read_to_string(&config).expect("config.toml");
    assert!(text.contains("preset = \"off\"\n"), "{text}");
    fs::write(&config, text.replace("preset = \"off\"\n", "")).expect("written");
    for _ in 0..2 {
        let output = lorafit(place, &["train", "--resume", "run"]);
        let told = String::from_utf8(output.stderr).expect("text");
        assert!(output.status.success() && !told.contains("chooses what is not given"), "{told}");
        assert_eq!(kept(place, "run", "lr").as_deref(), Some("0.0002"));
        // The second time it was ended before its first checkpoint, and begins again.
        fs::remove_dir_all(place.join("run/checkpoints")).expect("removed");
    }
    let output = lorafit(place, &["train", "--resume", "run", "--preset", "good"]);
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success() && told.contains("--preset has no meaning with --resume"), "{told}");
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

#[test]
fn a_run_that_has_more_to_learn_at_its_end_goes_on() {
    let place = place(60);
    let place = place.path();
    let flags = ["--preset", "off", "--max-steps", "4", "--lr", "1e-2", "--eval-every", "1"];
    let told = train(place, "run", &[&flags[..], &["--restarts", "1"]].concat());
    assert!(told.contains("4 optimizer steps, up to 12 where there is more to learn at the end"), "{told}");
    let goes_on = "step 4  the held-out loss still falls: the learning rate begins anew, for 8 more steps";
    assert!(told.contains(goes_on), "{told}");
    assert!(told.contains("finished after 12 steps"), "{told}");
    let record = fs::read_to_string(place.join("run/run.json")).expect("run.json");
    assert!(record.contains("\"total_steps\":12"), "{record}");
    // The log has an event for it.
    let told = train(place, "log", &[&flags[..], &["--restarts", "1", "--log", "json"]].concat());
    assert!(told.contains("\"restart\"") && told.contains("\"reason\":\"still-falling\""), "{told}");
    assert!(train(place, "once", &flags).contains("finished after 4 steps"));
}

/// Two where the rows of a step make two that are large enough; the run keeps the number, and goes on with it.
#[test]
fn micro_batches_at_the_same_time_are_found_and_kept() {
    let place = place(60);
    let place = place.path();
    let flags = ["--preset", "off", "--max-steps", "2", "--no-prefix-sharing", "--batch-size"];
    // So that few parameters are trained beside those of a tiny model.
    let few = ["--rank", "1", "--target-modules", "q_proj", "--threads", "2"];
    let number = |run: &str, more: &[&str]| {
        train(place, run, &[&flags[..], more, &few].concat());
        kept(place, run, "micro-batches-at-once")
    };
    assert_eq!(number("two", &["40"]).as_deref(), Some("2"));
    assert_eq!(number("small", &["1"]).as_deref(), Some("1"));
    assert_eq!(number("one", &["40", "--micro-batches-at-once", "1"]).as_deref(), Some("1"));
    assert_eq!(number("auto", &["40", "--micro-batches-at-once", "auto"]).as_deref(), Some("2"));
    let losses = |run: &str| fs::read_to_string(place.join(run).join("metrics.jsonl")).expect("reads");
    let loss = |run: &str| losses(run).split("\"loss\":").nth(1).expect("a loss")[..6].to_owned();
    assert_eq!(loss("two"), loss("one"));
    assert_eq!(loss("two"), loss("auto"));
}

#[test]
fn tokens_at_once_are_those_of_a_step() {
    let place = place(60);
    let place = place.path();
    let flags = ["--preset", "off", "--max-steps", "1", "--batch-size", "32", "--micro-batch-tokens", "auto"];
    let told = train(place, "run", &flags);
    let line =
        told.lines().find(|line| line.contains("--micro-batch-tokens auto: ")).expect("what was found");
    let found: usize = kept(place, "run", "micro-batch-tokens").expect("kept").parse().expect("a number");
    assert!(line.contains(&format!("auto: {found}, since the 32 rows of a step have about ")), "{line}");
    let tokens: usize = line
        .split("about ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .expect("tokens")
        .replace(',', "")
        .parse()
        .expect("a number");
    assert!(found >= 512 && found / 2 < tokens.max(512) && tokens <= found, "{line}");
}
