//! Training on judged replies, as people type it.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{chat_model as model, lorafit, write_rows};

/// A folder with pairs.jsonl, labels.jsonl and replies.jsonl of so many rows.
fn place(rows: usize) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    let write = |name: &str, row: &dyn Fn(usize) -> Value| write_rows(folder.path(), name, rows, row);
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

/// Another beta asks the reference nothing new, another reference does; a run has the same bits with the cache as without.
#[test]
fn what_the_reference_says_is_kept_for_the_next_run() {
    let folder = place(12);
    let place = folder.path();
    let dpo = |out: &str, flags: &[&str]| {
        let fixed = ["--objective", "dpo", "--max-steps", "3", "--lr", "1e-2", "--validation", "4"];
        trains(place, "pairs.jsonl", out, &[&fixed[..], flags].concat())
    };
    let kept = "of 16 replies is kept from an earlier run";
    let values = || {
        let names =
            fs::read_dir(place.join("cache")).expect("a folder").map(|entry| entry.expect("reads").path());
        names.filter(|path| path.extension().is_some_and(|extension| extension == "values")).count()
    };
    let cache = ["--cache-dir", "cache"];
    let other_beta = ["--cache-dir", "cache", "--beta", "0.5"];
    assert!(!dpo("first", &cache).contains(kept));
    assert_eq!(values(), 2, "of the rows to train on, and of those held out");
    assert!(dpo("second", &other_beta).contains(kept));
    assert_eq!(values(), 2);
    assert!(!dpo("apart", &["--no-cache", "--beta", "0.5"]).contains(kept));
    let weights = |out: &str| fs::read(place.join(out).join("adapter_model.safetensors")).expect("reads");
    assert!(weights("second") == weights("apart"));
    assert!(weights("second") != weights("first"));
    let other_reference = ["--cache-dir", "cache", "--reference", "first"];
    assert!(!dpo("third", &other_reference).contains(kept));
    assert_eq!(values(), 4);
    assert!(dpo("fourth", &other_reference).contains(kept));
    // Another base.
    let quantized = ["--cache-dir", "cache", "--quant", "int8"];
    assert!(!dpo("fifth", &quantized).contains(kept));
    assert_eq!(values(), 6);
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
    assert!(begins("start", &[]).abs() < 1e-4);
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

/// What a command prints on standard output.
#[track_caller]
fn prints(place: &Path, args: &[&str]) -> String {
    let output = lorafit(place, args);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {told}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn pages_and_cards_have_rewards_and_accuracy_and_no_perplexity() {
    let folder = place(60);
    let place = folder.path();
    let flags = ["--objective", "dpo", "--max-steps", "30", "--eval-every", "10", "--lr", "5e-3"];
    let told = trains(place, "pairs.jsonl", "runs/dpo", &[&flags[..], &["--average", "ema:0.9"]].concat());
    assert!(told.contains("%), chosen replies preferred in 100 % of held-out pairs"), "{told}");
    prints(place, &["report", "runs/dpo", "--out", "report.html", "--figures", "figures"]);
    let page = fs::read_to_string(place.join("report.html")).expect("reads");
    for part in ["Rewards", "Margins of rewards", "Chosen replies preferred", "Log-probabilities of replies"]
    {
        assert!(page.contains(&format!("<h3>{part}</h3>")), "no {part}");
    }
    assert!(page.contains("Margins of held-out pairs") && !page.contains("nats per token"));
    for name in ["rewards", "margins", "accuracies", "log_probabilities", "pair_margins"] {
        for ending in ["csv", "svg", "png", "pdf"] {
            let file = place.join(format!("figures/{name}.{ending}"));
            assert!(file.metadata().is_ok_and(|file| file.len() > 0), "no {name}.{ending}");
        }
    }
    let csv = |name: &str| fs::read_to_string(place.join(format!("figures/{name}.csv"))).expect("reads");
    assert_eq!(csv("rewards").matches("\"chosen, held-out rows\",").count(), 4);
    let pairs = |series: &str| -> f64 {
        let csv = csv("pair_margins");
        let lines = csv.lines().filter(|line| line.starts_with(series));
        lines.map(|line| line.rsplit(',').next().expect("a cell").parse::<f64>().expect("a number")).sum()
    };
    assert_eq!([pairs("before training"), pairs("after step 30")], [10.0, 10.0]);
    let read = |name: &str| fs::read_to_string(place.join("runs/dpo").join(name)).expect("reads");
    let card = read("README.md");
    assert!(card.contains("(chosen preferred in 100 %, margin "), "{card}");
    let average: Value = serde_json::from_str(&read("average/evaluation.json")).expect("JSON");
    assert!(average["rewards/accuracies"].is_f64() && average["loss"].is_f64(), "{average}");
    let status = prints(place, &["status", "runs/dpo"]);
    assert!(status.contains("after step 30; chosen preferred in 100 %, margin "), "{status}");
    let runs = prints(place, &["runs"]);
    assert!(runs.contains(", 100 % preferred"), "{runs}");
    let json =
        [prints(place, &["status", "runs/dpo", "--json"]), prints(place, &["runs", "--json"])].concat();
    for text in [page, card, average.to_string(), read("evaluations.jsonl"), status, runs, json, told] {
        assert!(!text.contains("perplexity") && !text.contains("NaN"), "{text}");
    }
    // Beside a run on replies as they are, each has its own.
    trains(place, "replies.jsonl", "runs/sft", &["--max-steps", "3"]);
    prints(place, &["report", "runs/dpo", "runs/sft", "--out", "both.html", "--figures", "both"]);
    let rewards = fs::read_to_string(place.join("both/rewards.csv")).expect("reads");
    assert!(rewards.contains("dpo: chosen") && !rewards.contains("sft"), "{rewards}");
}

#[test]
fn margins_of_held_out_pairs_are_kept_at_the_start_and_now() {
    let folder = place(60);
    let place = folder.path();
    let flags = ["--objective", "dpo", "--max-steps", "4", "--lr", "5e-3", "--eval-every", "2"];
    let margins = |out: &str| -> Value {
        let text = fs::read_to_string(place.join(out).join("margins.json")).expect("reads");
        serde_json::from_str(&text).expect("JSON")
    };
    trains(place, "pairs.jsonl", "run", &flags);
    let first = margins("run");
    assert_eq!([&first["start"]["step"], &first["latest"]["step"]], [0, 4]);
    let of = |found: &Value| -> Vec<f64> {
        found["margins"].as_array().expect("a list").iter().map(|m| m.as_f64().expect("a number")).collect()
    };
    assert!(of(&first["start"]).iter().all(|margin| margin.abs() < 1e-4));
    let mean = of(&first["latest"]).iter().sum::<f64>() / 10.0;
    let told = last(place, "run", "evaluations.jsonl")["rewards/margins"].as_f64().expect("a margin");
    assert!((mean - told).abs() < 1e-9, "{mean} and {told}");
    let output = lorafit(place, &["train", "--resume", "run", "--max-steps", "6", "--resume-anyway"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let resumed = margins("run");
    assert_eq!(resumed["start"], first["start"]);
    assert_eq!(resumed["latest"]["step"], 6);
    // Of labels there are no pairs, and those of an earlier run in the folder are gone.
    trains(place, "pairs.jsonl", "run", &["--objective", "kto", "--max-steps", "1", "--overwrite"]);
    assert!(!place.join("run/margins.json").exists());
}

#[test]
fn eval_finds_what_training_found() {
    let folder = place(12);
    let place = folder.path();
    trains(place, "replies.jsonl", "sft", &["--max-steps", "2", "--lr", "1e-2"]);
    let model = model();
    for (objective, data, flags) in [
        ("dpo", "pairs.jsonl", &["--reference", "sft"][..]),
        ("simpo", "pairs.jsonl", &[]),
        ("orpo", "pairs.jsonl", &[]),
        ("kto", "labels.jsonl", &[]),
    ] {
        let to_train = ["--objective", objective, "--max-steps", "3", "--lr", "5e-3", "--eval-data", data];
        trains(place, data, objective, &[&to_train[..], flags].concat());
        let fixed =
            ["eval", "--model", &model, "--adapter", objective, "--data", data, "--objective", objective];
        let lines = format!("{objective}.jsonl");
        let asked = [&fixed[..], flags, &["--json", "--predictions", &lines]].concat();
        let found: Value = serde_json::from_str(&prints(place, &asked)).expect("JSON");
        let record = last(place, objective, "evaluations.jsonl");
        for (key, value) in record.as_object().expect("an object") {
            if key == "loss" || key.contains('/') || key == "kl" {
                let [here, there] = [&found[key], value].map(|value| value.as_f64().expect("a number"));
                // Micro-batches are cut alike, and threads add in one order.
                assert!(
                    (here - there).abs() < 1e-6 * there.abs().max(1.0),
                    "{objective} {key}: {here} and {there}"
                );
            }
        }
        let rows: Vec<Value> = fs::read_to_string(place.join(&lines))
            .expect("reads")
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert_eq!(rows.len(), 12);
        let side = if objective == "kto" { "good" } else { "chosen" };
        assert!(rows[0][side]["log_probability"].as_f64().is_some_and(|logp| logp < 0.0), "{}", rows[0]);
        assert_eq!(rows[0][side]["reference_log_probability"].is_f64(), ["dpo", "kto"].contains(&objective));
        if objective == "kto" {
            assert!(found["accuracy"].is_null(), "{found}");
            continue;
        }
        let mean = rows.iter().map(|row| row["margin"].as_f64().expect("a margin")).sum::<f64>() / 12.0;
        assert!((mean - found["margin"]["mean"].as_f64().expect("a mean")).abs() < 1e-9);
        let ends = ["low", "mean", "high"].map(|end| found["accuracy"][end].as_f64().expect("a number"));
        assert!(ends.is_sorted(), "{found}");
    }
    let text = prints(place, &["eval", "--model", &model, "--data", "pairs.jsonl", "--objective", "dpo"]);
    assert!(
        text.contains("loss                0.6931 (dpo, beta 0.1)") && text.contains("95 % interval"),
        "{text}"
    );
    for (flags, word) in [
        (&["--beta", "1"][..], "--beta has no meaning without --objective"),
        (&["--objective", "dpo", "--generate"], "--generate has no meaning with --objective"),
        (&["--objective", "dpo", "--reference", "start"], "an evaluation has no start"),
        (&["--objective", "orpo", "--reference", "base"], "--reference has no meaning with --objective orpo"),
    ] {
        let output = lorafit(place, &[&["eval", "--model", &model, "--data", "pairs.jsonl"], flags].concat());
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(word), "{flags:?}: {told}");
    }
}

#[test]
fn a_reference_of_a_higher_rank_serves() {
    let folder = place(12);
    let place = folder.path();
    trains(place, "replies.jsonl", "sft", &["--max-steps", "2", "--rank", "32", "--lr", "1e-2"]);
    for (objective, data) in [("dpo", "pairs.jsonl"), ("kto", "labels.jsonl")] {
        let flags = ["--objective", objective, "--reference", "sft", "--rank", "2", "--max-steps", "2"];
        trains(place, data, objective, &flags);
    }
}

#[test]
fn the_best_can_be_that_of_the_highest_accuracy() {
    let folder = place(60);
    let place = folder.path();
    let flags = ["--objective", "dpo", "--max-steps", "12", "--eval-every", "3", "--lr", "5e-3"];
    let told = trains(place, "pairs.jsonl", "run", &[&flags[..], &["--best-by", "accuracy"]].concat());
    assert!(told.contains("best held-out accuracy: loss "), "{told}");
    let text = fs::read_to_string(place.join("run/evaluations.jsonl")).expect("reads");
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let accuracy = |record: &Value| record["rewards/accuracies"].as_f64().expect("a share");
    let kept = records.iter().rev().find(|record| record["best"] == true).expect("one is kept");
    let highest = records[1..].iter().map(accuracy).fold(0.0, f64::max);
    assert_eq!(accuracy(kept), highest);
    let status = prints(place, &["status", "run"]);
    assert!(status.contains("best held-out accuracy: loss "), "{status}");
    refuses(
        place,
        "labels.jsonl",
        &["--objective", "kto", "--best-by", "accuracy"],
        &["--best-by accuracy has no meaning with --objective kto"],
    );
    refuses(
        place,
        "replies.jsonl",
        &["--best-by", "accuracy"],
        &["--best-by accuracy has no meaning with --objective sft"],
    );
    refuses(
        place,
        "pairs.jsonl",
        &["--objective", "dpo", "--best-by", "loss", "--validation", "none"],
        &["--best-by loss with --validation none has no rows to look at"],
    );
}
