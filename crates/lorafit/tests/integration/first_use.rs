//! What somebody meets who tries the program: what is asked for wrongly is named, and the way out is one.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{lorafit, place, well, write_rows};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_bpe");

/// What the program says of a command that it refuses, which has all of `parts`.
#[track_caller]
fn refused(at: &Path, arguments: &[&str], parts: &[&str]) -> String {
    let Output { status, stderr, .. } = lorafit(at, arguments);
    let said = String::from_utf8(stderr).unwrap();
    assert!(!status.success(), "{arguments:?} was accepted: {said}");
    for part in parts {
        assert!(said.contains(part), "{arguments:?}: no {part:?} in {said}");
    }
    said
}

/// A folder with rows and the run `run`.
fn with_run(flags: &[&str]) -> TempDir {
    let dir = place(12);
    let train = ["train", "--model", MODEL, "--data", "rows.jsonl", "--out", "run", "--quiet"];
    well(dir.path(), &[&train[..], &["--max-steps", "4"], flags].concat());
    dir
}

#[test]
fn what_does_not_fit_is_named() {
    let dir = with_run(&[]);
    let at = dir.path();
    let rows = ["--data", "rows.jsonl", "--memory", "2MiB"];
    let train = ["train", "--model", MODEL, "--out", "other", "--preset", "off"];
    let parts = ["may take 2 MiB", "weights ", "for the program", "allow at least --memory "];
    for arguments in [&train[..], &["eval", "--model", MODEL], &["compare", "--runs", "run"]] {
        let said = refused(at, &[arguments, &rows].concat(), &parts);
        assert!(!said.contains("0.0") && !said.contains("--quant"), "{said}");
        // What it advises is enough.
        well(at, &[arguments, &["--data", "rows.jsonl", "--memory", &advised(&said), "--quiet"]].concat());
    }
}

/// The memory that a hint advises.
fn advised(said: &str) -> String {
    let hint = said.split("hint: ").nth(1).unwrap_or_else(|| panic!("{said}"));
    let memory = hint.split("--memory ").nth(1).unwrap_or_else(|| panic!("{said}"));
    memory.split_whitespace().next().unwrap().to_owned()
}

/// When a run is refused for want of memory, what the hint advises fits, and the message shows a need above the limit.
#[test]
fn what_is_advised_to_make_a_run_fit_makes_it_fit() {
    let dir = place(0);
    let at = dir.path();
    let row = |i: usize| json!({ "text": "word ".repeat(100 + 40 * i) });
    write_rows(at, "rows.jsonl", 12, row);
    let train = ["train", "--model", MODEL, "--preset", "off", "--max-steps", "1", "--validation", "none"];
    let train = [&train[..], &["--data", "rows.jsonl", "--out", "run", "--overwrite", "--quiet"]].concat();
    let (mut kinds, mut kib) = (std::collections::BTreeSet::new(), 20_000u64);
    let mut refused_at = 0;
    loop {
        let memory = format!("{kib}KiB");
        for more in [&[][..], &["--micro-batches-at-once", "2"], &["--recompute", "none"]] {
            let limited = |memory: &str| lorafit(at, &[&train[..], more, &["--memory", memory]].concat());
            let output = limited(&memory);
            if output.status.success() {
                continue;
            }
            refused_at = kib;
            let said = String::from_utf8(output.stderr).unwrap();
            let (needs, rest) = said.split_once("needs ").unwrap().1.split_once(" but may take ").unwrap();
            assert_ne!(needs, rest.lines().next().unwrap(), "{said}");
            assert!(limited(&advised(&said)).status.success(), "{more:?} within {memory}: {said}");
            // The flags of the first way, if it is one that is typed.
            let way = said.split("hint: ").nth(1).unwrap().split(", or ").next().unwrap();
            let end = way.find(" fits").or(way.find(" needs "));
            let Some(end) = end.filter(|_| way.starts_with("--")) else {
                // As many tokens as the shortest row has.
                let (_, tokens) = way.split_once("even ").unwrap_or_else(|| panic!("{said}"));
                let tokens = tokens.split(' ').next().unwrap();
                assert!(tokens.parse::<usize>().is_ok_and(|tokens| tokens >= 100), "{said}");
                kinds.insert("nothing".to_owned());
                continue;
            };
            let flags = way[..end].split_whitespace().filter(|word| !["with", "and"].contains(word));
            let flags: Vec<&str> = flags.collect();
            if let Some(len) = flags.iter().position(|flag| *flag == "--max-seq-len") {
                // A row has a token for each word, at least.
                assert!(flags[len + 1].parse::<usize>().unwrap() >= 100, "{said}");
                kinds.insert("shorter".to_owned());
            } else {
                kinds.insert(flags[0].to_owned());
            }
            // A flag that is typed twice is taken in place of the first.
            let others: Vec<&str> =
                if flags.contains(&more.first().copied().unwrap_or("")) { vec![] } else { more.to_vec() };
            let typed = [&train[..], &others, &flags, &["--memory", &memory]].concat();
            well(at, &typed);
        }
        if refused_at < kib {
            break;
        }
        kib += kib / 12;
    }
    assert!(kinds.len() >= 3, "{kinds:?}");
}

#[test]
fn a_device_is_used_or_refused() {
    let dir = with_run(&[]);
    let at = dir.path();
    let model = ["--model", MODEL];
    let verbs: [&[&str]; 10] = [
        &["train", "--data", "rows.jsonl", "--out", "x"],
        &["eval", "--data", "rows.jsonl"],
        &["generate", "--prompt", "a"],
        &["chat"],
        &["data", "rows.jsonl"],
        &["inspect", "run"],
        &["merge", "--adapter", "run", "--out", "x"],
        &["export", "--to", "gguf", "--adapter", "run", "--out", "x.gguf"],
        &["quantize", "--quant", "nf4", "--out", "x"],
        &["report", "run", "--out", "x.html"],
    ];
    for verb in verbs {
        // A device of this number is on no machine.
        let said = refused(at, &[verb, &model, &["--device", "cuda:63"]].concat(), &[]);
        let is_named = ["NVIDIA", "cuda:63", "--device"].iter().any(|word| said.contains(word));
        assert!(is_named, "{verb:?}: {said}");
        assert!(!at.join("x").exists() && !at.join("x.gguf").exists(), "{verb:?} wrote something");
    }
    for verb in ["merge", "export"] {
        let computes = format!("has no meaning for {verb}, which computes on the processor");
        let arguments = verbs.iter().find(|arguments| arguments[0] == verb).unwrap();
        refused(
            at,
            &[*arguments, &model, &["--device", "cuda:0"]].concat(),
            &[&computes, "leave --device out"],
        );
    }
}

#[test]
fn weights_are_merged_into_what_they_belong_to() {
    let dir = with_run(&[]);
    let at = dir.path();
    well(at, &["quantize", "--model", MODEL, "--quant", "nf4", "--out", "nf4"]);
    // A model of the same shape with other weights.
    let other =
        ["train", "--model", MODEL, "--data", "rows.jsonl", "--out", "o", "--quiet", "--max-steps", "1"];
    well(at, &[&other[..], &["--method", "full", "--init", "random", "--seed", "7"]].concat());
    let merge = ["merge", "--model", "nf4", "--adapter", "run"];
    refused(
        at,
        &[&merge[..], &["--base", "o/model", "--out", "x"]].concat(),
        &["--base o/model: nf4 was not quantised from it: model.layers.0"],
    );
    well(at, &[&merge[..], &["--base", MODEL, "--out", "merged"]].concat());
    let stored = ["merge", "--model", MODEL, "--adapter", "run", "--merge-into", "stored", "--out", "x"];
    refused(at, &stored, &["--merge-into has no meaning", "is not quantised", "leave --merge-into out"]);
}

#[test]
fn an_adapter_of_another_base_is_named_with_both() {
    let dir = with_run(&[]);
    let at = dir.path();
    let config = at.join("run/adapter_config.json");
    let mut json: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    let warning = |at: &Path| {
        let generate =
            ["generate", "--model", MODEL, "--adapter", "run", "--prompt", "a", "--max-new-tokens", "1"];
        let output = lorafit(at, &generate);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(!warning(at).contains("warning"), "its own base");
    json["base_model_name_or_path"] = "org/Other-1B".into();
    fs::write(&config, json.to_string()).unwrap();
    let said = warning(at);
    assert!(said.contains(&format!("was trained over org/Other-1B, and is used over {MODEL}")), "{said}");
}

#[test]
fn quiet_is_errors_and_what_was_asked_for() {
    let dir = place(12);
    let at = dir.path();
    let train = ["train", "--model", MODEL, "--data", "rows.jsonl", "--out", "run", "--overwrite"];
    let run = |flags: &[&str]| lorafit(at, &[&train[..], &["--max-steps", "2", "--quiet"], flags].concat());
    let output = run(&[]);
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    assert!(at.join("run/verdict.json").is_file());
    let output = run(&["--log", "json"]);
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.lines().any(|line| line.contains(r#""event":"verdict""#)), "{log}");
}

#[test]
fn a_run_that_is_not_there_is_looked_for_nearby() {
    let dir = with_run(&["--validation", "4", "--eval-every", "2"]);
    let at = dir.path();
    fs::create_dir(at.join("empty")).unwrap();
    refused(at, &["status", "empty"], &["empty holds no run: it has no metrics.jsonl", "nearby: run\n"]);
    refused(at, &["status", "."], &[". holds no run", "nearby: run\n"]);
    refused(at, &["status", "rnu"], &["there is no folder rnu", "nearby: run\n"]);
    refused(at, &["report", "rnu", "--out", "x.html"], &["there is no folder rnu", "nearby: run\n"]);
    refused(at, &["train", "--resume", "rnu"], &["--resume rnu: no run is there", "nearby: run\n"]);

    let said = well(at, &["status", "run"]);
    let evaluations = fs::read_to_string(at.join("run/evaluations.jsonl")).unwrap();
    assert!(evaluations.lines().count() == 3, "{evaluations}");
    assert!(said.contains("best held-out loss ") && said.contains("run/best"), "{said}");
    assert!(said.lines().last().unwrap().contains(": held-out loss "), "{said}");
    let json: Value = serde_json::from_str(&well(at, &["status", "run", "--json"])).unwrap();
    let verdict: Value =
        serde_json::from_str(&fs::read_to_string(at.join("run/verdict.json")).unwrap()).unwrap();
    assert_eq!(json["verdict"], verdict);
    assert!(json["best"]["loss"].is_number(), "{json}");
}

/// Whatever flag or argument names a run, an adapter, a model or rows: a path at which nothing is brings up what is near.
#[test]
fn a_path_that_is_not_there_brings_up_what_is_nearby() {
    let dir = with_run(&[]);
    let at = dir.path();
    let model = at.join("models/tiny");
    fs::create_dir_all(&model).unwrap();
    for file in fs::read_dir(MODEL).unwrap().map(|file| file.unwrap().path()).filter(|file| file.is_file()) {
        fs::copy(&file, model.join(file.file_name().unwrap())).unwrap();
    }
    fs::write(at.join("settings.toml"), "rank = 4\n").unwrap();
    let (rows, with_model) = (["--data", "rows.jsonl"], ["--model", MODEL]);
    let train: &[&str] = &["train", "--out", "x", "--max-steps", "1"];
    let pairs = "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n".repeat(4);
    fs::write(at.join("pairs.jsonl"), pairs).unwrap();
    let judged = ["--data", "pairs.jsonl", "--objective", "dpo", "--reference", "nur"];
    let of_adapter: [&[&str]; 9] = [
        &[train, &rows, &with_model, &["--adapter", "nur"]].concat(),
        &[train, &with_model, &judged].concat(),
        &[&["eval"], &rows[..], &with_model, &["--adapter", "nur"]].concat(),
        &[&["generate", "--prompt", "a"], &with_model[..], &["--adapter", "nur"]].concat(),
        &[&["chat"], &with_model[..], &["--adapter", "none"]].concat(),
        &[&["merge", "--out", "x"], &with_model[..], &["--adapter", "nur"]].concat(),
        &[&["export", "--to", "gguf", "--out", "x.gguf"], &with_model[..], &["--adapter", "nur"]].concat(),
        &["inspect", "nur"],
        &["inspect", "run", "--against", "nur"],
    ];
    for arguments in of_adapter {
        refused(at, arguments, &["there is no such folder", "hint: adapters nearby: run\n"]);
    }
    let of_model: [&[&str]; 5] = [
        &[train, &rows, &["--model", "models/tny"]].concat(),
        &[&["eval", "--model", "./models/tny"], &rows[..]].concat(),
        &["data", "rows.jsonl", "--model", "models/tny.gguf"],
        &["plan", "--model", "./models/tny"],
        &["quantize", "--model", "./models/tny", "--quant", "nf4", "--out", "x"],
    ];
    for arguments in of_model {
        refused(at, arguments, &["models nearby: ", "models/tiny"]);
    }
    let of_rows: [&[&str]; 3] = [
        &[train, &with_model, &["--data", "rws.jsonl"]].concat(),
        &[train, &with_model, &rows, &["--eval-data", "rws.jsonl"]].concat(),
        &[&["data", "rws.jsonl"], &with_model[..]].concat(),
    ];
    for arguments in of_rows {
        refused(at, arguments, &["rws.jsonl", "hint: files nearby: rows.jsonl"]);
    }
    refused(at, &[train, &["--config", "setings.toml"]].concat(), &["files nearby: settings.toml"]);
    refused(at, &["status", "rows.jsonl"], &["rows.jsonl is a file, and a run is a folder", "nearby: run\n"]);
    refused(at, &["sweep", "--out", "s", "--status"], &["there is no folder s", "give a sweep file"]);
    refused(at, &["runs", "rnus"], &["there is no folder rnus", "folders with runs nearby: run\n"]);
}

#[test]
fn a_run_that_has_not_ended_is_looked_at_by_its_checkpoint() {
    let dir = with_run(&["--checkpoint-every", "2"]);
    let at = dir.path();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::remove_file(at.join("run").join(name)).unwrap();
    }
    let shown = |arguments: &[&str]| {
        let output = lorafit(at, arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        assert!(
            said.contains(
                "run ended after step 4 of 4, but the adapter is not in its folder: the adapter after step 4 is used, that of \
                 run/checkpoints/step-00000004"
            ),
            "{said}"
        );
    };
    shown(&["inspect", "run"]);
    shown(&["generate", "--model", MODEL, "--adapter", "run", "--prompt", "a", "--max-new-tokens", "1"]);
    fs::remove_dir_all(at.join("run/checkpoints")).unwrap();
    refused(
        at,
        &["inspect", "run"],
        &[
            "run ended after step 4 of 4, but the adapter is not in its folder, and no adapter of it is saved",
            "lorafit status run",
        ],
    );
}

#[test]
fn names_and_places_that_are_none_are_named_first() {
    let dir = with_run(&[]);
    let at = dir.path();
    let said =
        refused(at, &["plan", "--model", "lama-2-7b"], &["near it are llama-2-7b", "lorafit plan --help"]);
    assert!(
        said.starts_with("error: lama-2-7b: no such file or folder") && said.lines().count() == 2,
        "{said}"
    );
    assert!(refused(at, &["plan", "--model", "nomodel"], &["nomodel: no such"]).len() < 300);
    assert!(well(at, &["plan", "--help"]).contains("llama-2-7b"));
    refused(at, &["bench", "--shape", "lama-2-7b"], &["near it are llama-2-7b"]);
    refused(at, &["export", "--to", "vllm"], &["--to vllm writes nothing", "--check --adapter A"]);
    refused(at, &["export", "--to", "peft", "--adapter", "run"], &["--model is missing"]);
    let data = ["data", "rows.jsonl", "--model", MODEL];
    let columns = [&data[..], &["--columns", "zz"]].concat();
    refused(at, &columns, &["--columns zz: `zz` is not of the form COLUMN=FIELD", "for example --columns"]);
    for folder in ["run", MODEL] {
        let said = refused(at, &["manual", "--out", folder], &["holds a model or an adapter"]);
        assert!(!Path::new(folder).join("lorafit.1").exists(), "{said}");
    }
}

#[test]
fn checks_that_are_not_there_are_named() {
    let dir = place(1);
    let at = dir.path();
    refused(
        at,
        &["selfcheck", "--only", "ropee"],
        &["no check has ropee in its name", "hint: near are", "rope"],
    );
    refused(at, &["selfcheck", "--only", "speed", "--no-speed"], &["contradict each other"]);
    refused(at, &["selfcheck", "--only", "speed"], &["a GPU is timed", "--device cuda:0"]);
    for more in [&[][..], &["--isolate"]] {
        let output = lorafit(at, &[&["selfcheck", "--json", "--only", "ropee"], more].concat());
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(json["hint"].as_str().is_some_and(|hint| hint.contains("rope")), "{json}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("hint: near are"), "{output:?}");
    }
}

#[test]
fn what_to_run_next_is_what_was_trained() {
    let dir = place(40);
    let at = dir.path();
    let texts: String = (0..40).map(|i| format!("{{\"text\": \"one {i} two {}\"}}\n", i * i)).collect();
    fs::write(at.join("texts.jsonl"), texts).unwrap();
    for (rows, expected) in
        [("rows.jsonl", "next: lorafit chat "), ("texts.jsonl", "next: lorafit generate ")]
    {
        let train =
            ["train", "--model", MODEL, "--data", rows, "--out", "run", "--overwrite", "--epochs", "8"];
        let output = lorafit(at, &[&train[..], &["--lr", "1e-2"]].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.trim_end().lines().last().unwrap().starts_with(expected), "{said}");
    }
}
