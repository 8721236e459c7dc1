//! Flags and outputs: nothing is written over what is read, no flag is without effect silently, and what a run was trained
//! with is used again.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_bpe");

const TRAIN: [&str; 14] = [
    "train",
    "--model",
    "m",
    "--data",
    "d.jsonl",
    "--out",
    "r0",
    "--max-steps",
    "2",
    "--quiet",
    "--seed",
    "0",
    "--preset",
    "off",
];

/// A folder with a model `m` and chat rows `d.jsonl`.
fn place() -> TempDir {
    let dir = TempDir::new().unwrap();
    copy_model(BASE, &dir.path().join("m"));
    let rows: String = (0..6)
        .map(|i| {
            format!(
                "{{\"messages\": [{{\"role\": \"user\", \"content\": \"What is {i}?\"}}, {{\"role\": \"assistant\", \
                 \"content\": \"A number, {i}.\"}}]}}\n"
            )
        })
        .collect();
    fs::write(dir.path().join("d.jsonl"), rows).unwrap();
    dir
}

fn copy_model(from: &str, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_file() {
            fs::write(to.join(entry.file_name().unwrap()), fs::read(&entry).unwrap()).unwrap();
        }
    }
}

fn lorafit(place: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lorafit"));
    command.current_dir(place).env("XDG_CACHE_HOME", place.join("cache")).args(arguments);
    command.output().unwrap()
}

/// Both outputs of a command that ends well.
fn well(place: &Path, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = lorafit(place, arguments);
    let told = [stdout, stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    assert!(status.success(), "{arguments:?}: {told}");
    told
}

/// The error of a command that has to be refused, with all of these texts in it.
#[track_caller]
fn refused(place: &Path, arguments: &[&str], texts: &[&str]) {
    let output = lorafit(place, arguments);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{arguments:?} is not refused: {told}");
    for text in texts.iter().chain(&["hint: "]) {
        assert!(told.contains(text), "{arguments:?} without `{text}`: {told}");
    }
}

/// Every file below a folder, with its content.
fn content(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        match path.is_dir() {
            true => found.extend(content(&path)),
            false => found.push((path.clone(), fs::read(&path).unwrap())),
        }
    }
    found.sort();
    found
}

/// Whatever a verb reads is there unchanged when a path for output names it by mistake, by whatever name.
#[allow(clippy::too_many_lines, reason = "a table of cases")]
#[test]
fn nothing_is_written_over_what_is_read() {
    let place = place();
    let at = place.path();
    well(at, &TRAIN);
    for name in ["sub", "figures"] {
        fs::create_dir(at.join(name)).unwrap();
    }
    fs::write(at.join("notes.md"), "notes").unwrap();
    fs::write(at.join("other.jsonl"), "{\"text\": \"a\"}\n").unwrap();
    fs::write(
        at.join("sweep.toml"),
        "model = \"m\"\ndata = \"d.jsonl\"\nvalidation = 1\nmax-steps = 1\n[search]\nrank = [1]\n",
    )
    .unwrap();
    let before = content(at);
    let eval = ["eval", "--model", "m", "--data", "d.jsonl", "--quiet"];
    let data = ["data", "d.jsonl:2", "--model", "m"];
    for (verb, flags, text) in [
        (
            &["report", "r0"][..],
            &["--out", "d.jsonl"][..],
            "--out d.jsonl would be written over what is read",
        ),
        (&["report", "r0"], &["--out", "notes.md"], "notes.md is there already and is not an HTML page"),
        (
            &["report", "r0"],
            &["--out", "p.html", "--figures", "m/x"],
            "--figures m/x is in the folder of the model",
        ),
        (&["report", "r0"], &["--out", "missing/p.html"], "there is no folder missing"),
        (&eval, &["--scores", "d.jsonl"], "--scores d.jsonl would be written over"),
        (&eval, &["--scores", "sub/../d.jsonl"], "would be written over"),
        (&eval, &["--scores", "other.jsonl"], "is not an earlier result"),
        (
            &eval,
            &["--generate", "--predictions", "x", "--scores", "./x"],
            "--predictions and --scores are both",
        ),
        (&eval, &["--generate", "--predictions", "missing/p.jsonl"], "mkdir -p missing"),
        (&eval, &["--scores", "sub"], "it is a folder"),
        (
            &["eval", "--model", "m", "--data", "*.jsonl"],
            &["--scores", "other.jsonl"],
            "written over what is read",
        ),
        (&data, &["--html", "d.jsonl"], "--html d.jsonl would be written over"),
        (&data, &["--html", "m/config.json"], "--html m/config.json is in the folder of the model"),
        (
            &["compare", "--runs", "r0", "--data", "d.jsonl"],
            &["--html", "d.jsonl"],
            "written over what is read",
        ),
        (&["inspect", "r0"], &["--csv", "d.jsonl"], "is not an earlier table"),
        (&["inspect", "r0"], &["--csv", "missing/a.csv"], "there is no folder missing"),
        (
            &["quantize", "--model", "m", "--quant", "nf4"],
            &["--out", "m/small"],
            "in the folder of the model",
        ),
        (&["plan", "--model", "m"], &["--svg", "m/x.svg"], "in the folder of the model"),
        (&TRAIN[..5], &["--out", "m"], "--out m is in the folder of the model"),
        (&TRAIN[..5], &["--out", "m", "--overwrite"], "--out m is in the folder of the model"),
        (&TRAIN[..5], &["--out", "m/run"], "in the folder of the model"),
        (&TRAIN[..5], &["--out", "."], "--out . is a folder with other files (it has"),
        (&TRAIN[..5], &["--out", "d.jsonl"], "d.jsonl"),
        (&["sweep", "sweep.toml"], &["--out", "."], "--out . is a folder with other files"),
        (&["sweep", "sweep.toml"], &["--out", "m"], "in the folder of the model"),
    ] {
        refused(at, &[verb, flags].concat(), &[text]);
        assert!(content(at) == before, "{verb:?} {flags:?} changed something");
    }
    // What it has written itself is replaced.
    for _ in 0..2 {
        well(at, &["report", "r0", "--out", "p.html", "--figures", "figures"]);
        well(at, &["data", "d.jsonl", "--model", "m", "--html", "p.html"]);
        well(at, &["inspect", "r0", "--csv", "a.csv"]);
        let answers =
            ["--generate", "--max-new-tokens", "2", "--predictions", "p.jsonl", "--scores", "s.jsonl"];
        well(at, &[&eval[..], &answers].concat());
    }
    // A log may be there before its run is.
    fs::create_dir(at.join("r1")).unwrap();
    fs::write(at.join("r1/train.log"), "").unwrap();
    well(at, &["train", "--model", "m", "--data", "d.jsonl", "--out", "r1", "--max-steps", "1", "--quiet"]);
}

/// The number after a word.
fn figure(told: &str, name: &str) -> f64 {
    let line = told.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{told}"));
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// A run is judged as it was trained, or it is told that it is not.
#[test]
fn the_template_of_a_run_is_used_with_it() {
    let place = place();
    let at = place.path();
    well(at, &[&TRAIN[..], &["--template", "alpaca", "--quant", "nf4", "--checkpoint-every", "1"]].concat());
    fs::create_dir(at.join("sub")).unwrap();
    let eval = ["eval", "--model", "m", "--data", "d.jsonl"];
    let plain = figure(&well(at, &eval), "loss");
    for adapter in ["r0", "./r0/"] {
        let of_run = well(at, &[&eval[..], &["--adapter", adapter]].concat());
        let given = well(at, &[&eval[..], &["--adapter", adapter, "--template", "alpaca"]].concat());
        assert_eq!(figure(&of_run, "loss"), figure(&given, "loss"), "{adapter}");
        assert!(
            of_run.contains("conversations are written with the template alpaca, with which"),
            "{of_run}"
        );
        assert!(!given.contains("conversations are written"), "{given}");
        assert!(of_run.contains("was trained with --quant nf4"), "{of_run}");
    }
    let chatml =
        well(at, &[&eval[..], &["--adapter", "r0", "--template", "chatml", "--quant", "nf4"]].concat());
    assert!(
        chatml.contains("r0 was trained with the template alpaca, and conversations are written by chatml")
    );
    assert!(!chatml.contains("was trained with --quant"), "{chatml}");
    assert!((figure(&chatml, "loss") - plain).abs() < 0.2, "{chatml}");
    let generate = ["generate", "--model", "m", "--adapter", "r0", "--prompt", "Hi", "--max-new-tokens", "2"];
    assert!(well(at, &[&generate[..], &["--chat"]].concat()).contains("the template alpaca"));
    assert!(!well(at, &generate).contains("template"));
    let mut quiet = [&generate[..], &["--chat", "--quiet"]].concat();
    assert!(!well(at, &quiet).contains("alpaca"));
    quiet.clear();
    let chat = Command::new(env!("CARGO_BIN_EXE_lorafit"))
        .args(["chat", "--model", "m", "--adapter", "r0", "--max-new-tokens", "2"])
        .current_dir(at)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(String::from_utf8(chat.stderr).unwrap().contains("the template alpaca"));
    fs::write(at.join("prompts.txt"), "Hi\n").unwrap();
    let report = ["report", "r0", "--out", "p.html", "--prompts", "prompts.txt", "--max-new-tokens", "2"];
    assert!(well(at, &report).contains("the template alpaca"));
}

/// What is typed acts, or is refused by name.
#[test]
fn flags_without_effect_are_refused() {
    let place = place();
    let at = place.path();
    well(at, &TRAIN);
    let eval = ["eval", "--model", "m", "--data", "d.jsonl"];
    let generate = ["generate", "--model", "m", "--prompt", "a", "--max-new-tokens", "2"];
    let data = ["data", "d.jsonl", "--model", "m"];
    let compare = ["compare", "--runs", "r0", "--data", "d.jsonl"];
    let report = ["report", "r0", "--out", "p.html"];
    for (verb, flags, text) in [
        (&eval[..], &["--quant-block", "128"][..], "--quant-block 128 has no meaning without --quant nf4"),
        (&eval, &["--quant", "int8", "--quant-block", "128"], "--quant-block 128 has no meaning"),
        (&generate, &["--quant-block", "128"], "--quant-block 128 has no meaning"),
        (&TRAIN, &["--quant-block", "128", "--overwrite"], "--quant-block 128 has no meaning"),
        (&["plan", "--model", "m"], &["--quant-block", "128"], "--quant-block 128 has no meaning"),
        (&eval, &["--max-new-tokens", "256"], "--max-new-tokens has no meaning without --generate"),
        (&compare, &["--max-new-tokens", "3"], "--max-new-tokens has no meaning without --generate"),
        (&generate, &["--template", "chatml"], "--template has no meaning without --chat"),
        (&generate, &["--seed", "3"], "--seed has no meaning at --temperature 0"),
        (&["chat", "--model", "m"], &["--seed", "3"], "--seed has no meaning at --temperature 0"),
        (&report, &["--max-new-tokens", "3"], "--max-new-tokens has no meaning without --prompts"),
        (&report, &["--quant", "nf4"], "--quant has no meaning without --prompts"),
        (&report, &["--template", "chatml"], "--template has no meaning without --prompts"),
        (&report, &["--device", "cuda:7"], "--device has no meaning without --prompts"),
        (&data, &["--device", "cuda:7"], "--device cuda:7 has no meaning for data"),
        (&["inspect", "r0"], &["--device", "cuda:7"], "--device cuda:7 has no meaning for inspect"),
        (&data, &["--json", "--ids"], "--ids has no meaning with --json"),
        (&data, &["--json", "--row", "1"], "--row has no meaning with --json"),
        (&data, &["--json", "--rows", "1"], "--rows has no meaning with --json"),
        (&data, &["--no-cache", "--cache-dir", "c"], "--cache-dir c has no meaning with --no-cache"),
        (&eval, &["--no-cache", "--cache-dir", "c"], "--cache-dir c has no meaning with --no-cache"),
        (&data, &["--split", "nonsense"], "--split nonsense has no meaning for a file"),
        (
            &TRAIN,
            &["--overwrite", "--eval-data", "d.jsonl", "--eval-split", "zz"],
            "--eval-split zz has no meaning",
        ),
        (&TRAIN, &["--overwrite", "--resume-anyway"], "--resume-anyway has no meaning without --resume"),
        (&TRAIN, &["--overwrite", "--recompute", "99-blocks"], "--recompute 99-blocks: the model has 2"),
        (&["plan", "--model", "m"], &["--recompute", "99-blocks"], "--recompute 99-blocks: the model has 2"),
    ] {
        refused(at, &[verb, flags].concat(), &[text]);
    }
    for (search, sweep, text) in [
        ("rank = [1, 2]", "min-steps = 3", "`min-steps` has no meaning without strategy = \"asha\""),
        ("rank = [1, 2]", "reduction_factor = 3", "`reduction_factor` has no meaning"),
        ("rank = [1, 2]", "seed = 3", "`seed` has no meaning"),
        ("rank = [2, 2]", "", "`rank` has 2 twice"),
    ] {
        let file = format!(
            "model = \"m\"\ndata = \"d.jsonl\"\nvalidation = 1\nmax-steps = 3\n[search]\n{search}\n[sweep]\n{sweep}\n"
        );
        fs::write(at.join("sweep.toml"), file).unwrap();
        refused(at, &["sweep", "sweep.toml", "--out", "s", "--dry-run"], &[text]);
    }
    // A flag typed over what a file has.
    fs::write(at.join("c.toml"), "cache-dir = \"c\"\n").unwrap();
    well(at, &[&TRAIN[..], &["--overwrite", "--config", "c.toml", "--no-cache"]].concat());
    assert!(!at.join("c").exists());
}

/// What is asked for is what PEFT finds in the folder, what is trained on from it, and what `plan` counts.
#[test]
fn ranks_and_alphas_by_pattern_are_saved_as_peft_has_them() {
    let place = place();
    let at = place.path();
    let flags = [
        "--rslora",
        "--rank-pattern",
        r"layers\.0\..*=2",
        "--rank-pattern",
        "q_proj=3",
        "--alpha-pattern",
        "v_proj=64",
        "--exclude-modules",
        "k_proj",
    ];
    let told = well(at, &[&TRAIN[..9], &flags].concat());
    assert!(
        told.contains(r"rank 8 (`layers\.0\..*=2`, `q_proj=3`), alpha 16 (`v_proj=64`) (rsLoRA)"),
        "{told}"
    );
    let text = fs::read_to_string(at.join("r0/adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(config["use_rslora"], true);
    assert_eq!(config["rank_pattern"].to_string(), r#"{"layers\\.0\\..*":2,"q_proj":3}"#);
    assert_eq!(config["alpha_pattern"].to_string(), r#"{"v_proj":64}"#);
    assert_eq!(config["exclude_modules"], serde_json::json!(["k_proj"]));
    // Read back, and trained on, with the same bytes where nothing is changed.
    well(at, &["train", "--resume", "r0", "--quiet"]);
    assert_eq!(fs::read_to_string(at.join("r0/adapter_config.json")).unwrap(), text);
    well(
        at,
        &["train", "--model", "m", "--data", "d.jsonl", "--adapter", "r0", "--out", "r1", "--max-steps", "1"],
    );
    let again = fs::read_to_string(at.join("r1/adapter_config.json")).unwrap();
    assert_eq!(again, text);
    let plan = |flags: &[&str]| -> serde_json::Value {
        let told = well(at, &[&["plan", "--model", "m", "--json"][..], flags].concat());
        serde_json::from_str(told.lines().find(|line| line.starts_with('{')).unwrap()).unwrap()
    };
    let trained = |told: &str| -> u64 {
        let line = told.lines().find_map(|line| line.split("trainable parameters ").nth(1)).unwrap();
        let digits: String = line.chars().take_while(|c| c.is_ascii_digit() || *c == ',').collect();
        digits.replace(',', "").parse().unwrap()
    };
    let planned = plan(&[&flags[1..5], &flags[7..]].concat());
    assert_eq!(planned["trainable_parameters"], trained(&told));
    assert!(planned["modules"].as_array().unwrap().iter().all(|module| module["module"] != "k_proj"));
}

/// What is trained is planned alike without data and by the run itself: with its average, and with what PiSSA keeps.
#[test]
fn a_plan_knows_starts_and_averages() {
    let place = place();
    let at = place.path();
    for (run, flags) in [
        ("plain", &[][..]),
        ("averaged", &["--average", "last:2"]),
        ("pissa", &["--init", "pissa"]),
        ("both", &["--init", "pissa", "--average", "ema:0.9", "--rank", "4"]),
    ] {
        let train = TRAIN.map(|flag| if flag == "r0" { run } else { flag });
        well(at, &[&train, flags].concat());
        let text = fs::read_to_string(at.join(run).join("plan.json")).unwrap();
        let taken: serde_json::Value = serde_json::from_str(&text).unwrap();
        let told = well(at, &[&["plan", "--model", "m", "--json"][..], flags].concat());
        let report: serde_json::Value = serde_json::from_str(told.trim()).unwrap();
        let planned = &report["methods"][2]["parts"];
        for part in ["adapter", "gradients", "optimizer"] {
            assert!(planned[part].as_u64() > Some(0), "{run}: {report}");
            assert_eq!(planned[part], taken[part], "{run}: {part}");
        }
        let assumed = report["assumed"].as_str();
        assert_eq!(assumed.is_none(), flags.contains(&"--rank"), "{report}");
        assert!(
            assumed
                .is_none_or(|text| text
                    .contains("rank 8 is assumed: train chooses it for up to 16,384 trained tokens")),
            "{report}"
        );
    }
    refused(at, &["plan", "--model", "m", "--init", "random"], &["--init random has no meaning for plan"]);
}

/// The strongest directions of a quantised base are trained; what is left in the folder is a plain adapter of twice the rank, of
/// which half is as it began; and a run that goes on has the bits of one that never stopped.
#[test]
fn pissa_leaves_a_plain_adapter_and_resumes() {
    let place = place();
    let at = place.path();
    let flags = [
        "--init",
        "pissa",
        "--rank",
        "4",
        "--quant",
        "nf4",
        "--checkpoint-every",
        "1",
        "--keep-checkpoints",
        "9",
    ];
    let told = well(at, &[&TRAIN[..9], &flags].concat());
    assert!(told.contains("rank 8, of which half stays as it began, alpha 32"), "{told}");
    let config: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(at.join("r0/adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["r"], &config["lora_alpha"]), (&8.into(), &32.into()));
    assert_eq!(config.get("init_lora_weights"), None);
    let weights = || fs::read(at.join("r0/adapter_model.safetensors")).unwrap();
    let whole = weights();
    fs::remove_dir_all(at.join("r0/checkpoints/step-00000002")).unwrap();
    well(at, &["train", "--resume", "r0", "--quiet"]);
    assert!(weights() == whole);
    let eval = |more: &[&str]| {
        figure(
            &well(at, &[&["eval", "--model", "m", "--data", "d.jsonl", "--quant", "nf4"][..], more].concat()),
            "loss",
        )
    };
    assert!(eval(&["--adapter", "r0"]) < eval(&[]));
}

/// Options of training: what would act on nothing says what would.
#[test]
fn options_of_training_without_effect_are_refused() {
    let place = place();
    let at = place.path();
    well(at, &TRAIN);
    let train = [&TRAIN[..], &["--overwrite"]].concat();
    let cases: &[(&[&str], &str)] = &[
        (&["--decay-ratio", "0.2"], "--decay-ratio 0.2 has no meaning with --scheduler"),
        (&["--init", "pissa", "--dropout", "0.1"], "--dropout 0.1 with --init pissa would drop inputs of"),
        (&["--init", "orthogonal", "--rank", "3"], "orthogonal factors need an even rank"),
        (&["--init", "gaussian", "--adapter", "r0"], "--init has no meaning with --adapter"),
        (&["--init", "gaussian", "--method", "full"], "--init gaussian has no meaning with --method full"),
        (&["--min-delta", "0.1"], "--min-delta has no meaning without --patience"),
        (&["--rank-pattern", r"layers\.(0|1)\.=4"], r"`layers\.(0|1)\..*` does"),
        (&["--alpha-pattern", "k_porj=4"], "`k_porj` matches no module with an adapter"),
        (
            &["--target-modules", "q_proj", "--exclude-modules", "k_proj"],
            "the excluded modules are none of those",
        ),
        (&["--patience", "3", "--eval-every", "1", "--validation", "none"], "has no rows to look at"),
        (&["--patience", "3", "--validation", "2"], "--patience 3 without --eval-every"),
        (
            &["--patience", "3", "--eval-every", "1", "--validation", "2", "--average", "last:5"],
            "--average ema:0.99 goes with it",
        ),
        (&["--adapter", "r0", "--rslora"], "--rslora has no meaning with --adapter"),
        (
            &["--method", "full", "--lora-plus-ratio", "4"],
            "--lora-plus-ratio has no meaning with --method full",
        ),
    ];
    for (flags, text) in cases {
        refused(at, &[&train, *flags].concat(), &[text]);
    }
    let plan = ["plan", "--model", "m", "--rank-pattern", "k_porj=4"];
    refused(at, &plan, &["`k_porj` matches no module"]);
}

fn edit_config(at: &Path, key: &str, value: serde_json::Value) {
    edit_json(&at.join("m/config.json"), key, value);
}

fn edit_json(path: &Path, key: &str, value: serde_json::Value) {
    let mut config: serde_json::Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    config[key] = value;
    fs::write(path, config.to_string()).unwrap();
}

/// What `plan` is asked for is in the command that it prints, or is refused.
#[test]
fn a_recommendation_has_what_was_asked_for() {
    let place = place();
    let at = place.path();
    let plan = |flags: &[&str]| well(at, &[&["plan", "--model", "m", "--recommend"][..], flags].concat());
    let plain = plan(&[]);
    assert!(!plain.contains("--quant") && !plain.contains("--optimizer"), "{plain}");
    for flags in [
        &["--quant", "nf4"][..],
        &["--quant", "nf4", "--double-quant"],
        &["--quant", "nf4", "--quant-head", "--quant-block", "128"],
        &["--quant", "int8"],
        &["--optimizer", "adamw-8bit"],
        &["--compute-dtype", "f32"],
        &["--compute-dtype", "int8"],
        &["--recompute", "full"],
        &["--recompute", "1-blocks"],
        &["--batch-size", "16"],
        &["--threads", "1"],
        &["--micro-batch-tokens", "300"],
        &["--micro-batch-tokens", "auto"],
        &["--micro-batches-at-once", "2"],
        &["--rank", "3"],
        &["--exclude-modules", "k_proj", "--rank-pattern", "q_proj=4"],
    ] {
        let told = plan(flags);
        let command = told.lines().find(|line| line.starts_with("lorafit train ")).expect("a command");
        assert!(command.contains(&flags.join(" ")), "{flags:?}: {command}");
    }
    let several = ["plan", "--model", "m", "--micro-batches-at-once"];
    let judged = [&several[..], &["2", "--objective", "dpo"]].concat();
    refused(at, &judged, &["--micro-batches-at-once 2 has no meaning here: a step of judged replies"]);
    let on_gpu = [&several[..], &["2", "--device", "cuda"]].concat();
    refused(at, &on_gpu, &["--micro-batches-at-once 2 has no meaning here: a GPU"]);
    well(at, &["quantize", "--model", "m", "--quant", "nf4", "--out", "nf4"]);
    refused(
        at,
        &["plan", "--model", "nf4", "--quant", "int8"],
        &["--quant int8: the weights of nf4 are quantised already"],
    );
    refused(
        at,
        &["plan", "--model", "m", "--device", "cuda:0", "--compute-dtype", "int8"],
        &[
            "--compute-dtype int8 with --device cuda:0: only the processor computes in 8 bits",
            "hint: give --compute-dtype bf16",
        ],
    );
    assert!(well(at, &["plan", "--model", "nf4", "--recommend"]).contains("lorafit train --model nf4"));
}

/// `plan` finds as many tokens at once as `train` does for rows of its length, within the same memory.
#[test]
fn automatic_tokens_at_once_are_planned_as_they_are_trained() {
    let place = place();
    let at = place.path();
    let plan = |flags: &[&str]| {
        let told = well(at, &[&["plan", "--model", "m", "--json"][..], flags].concat());
        serde_json::from_str::<serde_json::Value>(&told).unwrap()
    };
    let auto = |rows: &str, more: &[&str]| {
        let flags = ["--max-seq-len", "500", "--batch-size", rows, "--micro-batch-tokens", "auto"];
        plan(&[&flags[..], more].concat())["tokens_at_once"].as_u64().unwrap()
    };
    // What fills 512, 2048 and 4096 tokens.
    assert_eq!([auto("1", &[]), auto("4", &[]), auto("100", &[])], [500, 2000, 4096]);
    let least = plan(&["--max-seq-len", "500"])["methods"][2]["total"].as_u64().unwrap();
    assert_eq!(auto("100", &["--memory", &format!("{least}B")]), 512);
    // Where everything is computed twice anyway, more bring nothing.
    assert_eq!(auto("100", &["--recompute", "full"]), 512);
    refused_flag(at, &["plan", "--model", "m", "--micro-batch-tokens", "0"], "must be 1 or more");
    let bench = ["bench", "--shape", "m/config.json", "--steps", "1", "--batch", "2", "--seq", "8"];
    well(at, &[&bench[..], &["--micro-batch-tokens", "auto"]].concat());
}

/// The error of a command that is refused, with this in it.
fn refused_flag(place: &Path, arguments: &[&str], text: &str) {
    let output = lorafit(place, arguments);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && told.contains(text), "{arguments:?}: {told}");
}

/// Rows beyond what the model is made for are told by every verb, and answers end there.
#[test]
fn the_context_of_a_model_is_told() {
    let place = place();
    let at = place.path();
    well(at, &TRAIN);
    let data = ["--model", "m", "--data", "d.jsonl"];
    assert!(!well(at, &[&["eval"][..], &data].concat()).contains("max_position_embeddings"));
    edit_config(at, "max_position_embeddings", 22.into());
    let beyond = "6 rows are longer than the model is made for: d.jsonl line";
    for arguments in [
        &[&["eval"][..], &data].concat()[..],
        &[&["train", "--out", "r1", "--max-steps", "1"][..], &data].concat(),
        &["data", "d.jsonl", "--model", "m"],
        &["compare", "--runs", "r0", "--data", "d.jsonl"],
    ] {
        let told = well(at, arguments);
        assert_eq!(told.matches(beyond).count(), 1, "{arguments:?}: {told}");
        assert!(told.contains("--max-seq-len 22"), "{told}");
    }
    let cut = well(at, &[&["eval", "--max-seq-len", "22"][..], &data].concat());
    assert!(!cut.contains("max_position_embeddings"), "{cut}");
    let generate = ["generate", "--model", "m", "--prompt", "a", "--max-new-tokens", "100000000"];
    // Unless it ends by itself before.
    let told = well(at, &[&generate[..], &["--json", "--temperature", "1.0"]].concat());
    assert!(
        told.contains("the answer stops at the 22 tokens") != told.contains("\"stopped\":\"end\""),
        "{told}"
    );
    let long = [
        "generate",
        "--model",
        "m",
        "--prompt",
        "a b c d e f g h i j k l m n o p q r s t",
        "--max-new-tokens",
        "2",
    ];
    assert!(well(at, &long).contains("the model is made for up to 22"));
    let told = well(at, &["plan", "--model", "m", "--recommend", "--max-seq-len", "1000"]);
    assert!(told.contains("--max-seq-len 1000") && told.contains("made for up to 22"), "{told}");
    assert!(!told.contains("up to 22 tokens long"), "{told}");
}

/// What training refuses `data` tells, with the file and the line.
#[test]
fn data_tells_what_training_refuses() {
    let place = place();
    let at = place.path();
    // A token that the tokenizer knows and the embedding lacks.
    edit_json(&at.join("m/tokenizer_config.json"), "mask_token", "<unheard>".into());
    let rows = fs::read_to_string(at.join("d.jsonl")).unwrap().replace("A number", "A <unheard>");
    fs::write(at.join("d.jsonl"), rows).unwrap();
    let train = ["train", "--model", "m", "--data", "d.jsonl", "--out", "r", "--max-steps", "1"];
    refused(at, &train, &["d.jsonl line ", "has the token `<unheard>`"]);
    let skipping = [&train[..], &["--skip-bad-rows"]].concat();
    refused(at, &skipping, &["none of its", "has the token `<unheard>`"]);
    let told = well(at, &["data", "d.jsonl", "--model", "m"]);
    assert!(told.contains("train and eval refuse these rows") && told.contains("d.jsonl line "), "{told}");
    assert!(told.contains("What is 0?"), "the rows are shown all the same: {told}");
}

/// The folder of a run of full fine-tuning has a way out, whatever it was meant to be.
#[test]
fn a_run_of_full_fine_tuning_is_told() {
    let place = place();
    let at = place.path();
    well(at, &[&TRAIN[..], &["--method", "full"]].concat());
    let told = "r0 is a run of full fine-tuning";
    refused(at, &["eval", "--model", "r0", "--data", "d.jsonl"], &[told, "give --model r0/model"]);
    refused(at, &["data", "d.jsonl", "--model", "r0"], &[told, "give --model r0/model"]);
    refused(
        at,
        &["eval", "--model", "m", "--adapter", "r0", "--data", "d.jsonl"],
        &[told, "give --model r0/model, without --adapter"],
    );
    refused(at, &["inspect", "r0"], &[told, "r0/model"]);
    well(at, &["eval", "--model", "r0/model", "--data", "d.jsonl"]);
}

/// Configuration files and runs that cannot go on are told in our own words, by flags.
#[test]
fn what_is_wrong_with_a_file_or_a_run_is_told_by_flags() {
    let place = place();
    let at = place.path();
    let configured = |name: &str, text: &str, texts: &[&str]| {
        fs::write(at.join(name), text).unwrap();
        refused(at, &["train", "--config", name], texts);
    };
    configured(
        "c.toml",
        "overwrite = true\n",
        &["line 1: unknown key `overwrite`: it is about one call", "type --overwrite"],
    );
    configured("c.yaml", "max-steps:\n", &["line 1: `max-steps` has no value"]);
    configured("c.yaml", "rank: 8\nrank: 9\n", &["duplicate mapping key: rank\n"]);
    configured("c.yaml", "rank: 8\n---\nrank: 9\n", &["a second document begins here"]);
    refused(at, &["train", "--config", "nope.toml"], &["cannot read configuration nope.toml"]);
    refused(at, &["train", "--resume", "nope"], &["--resume nope: no run is there"]);
    well(at, &TRAIN);
    let resume = |flags: &[&str], texts: &[&str]| {
        refused(at, &[&["train", "--resume", "r0"][..], flags].concat(), texts)
    };
    resume(&["--max-steps", "9"], &["--max-steps or --epochs: it has 2 steps, and would have 9"]);
    resume(&["--template", "alpaca"], &["--template, or the model's tokenizer: conversations"]);
    resume(&["--lr", "0.5"], &["--lr: in the run it is 0.0002, here it is 0.5"]);
    resume(&["--train-on", "all"], &["--train-on: in the run it is replies, here it is all"]);
    let train = ["train", "--model", "m", "--data", "d.jsonl", "--out", "r1", "--max-steps", "1"];
    let with = |flags: &[&str], texts: &[&str]| refused(at, &[&train[..], flags].concat(), texts);
    with(
        &["--layers", "0", "--target-modules", r"regex:model\.layers\.1\..*q_proj"],
        &["matches nothing in the blocks of --layers 0", "leave --layers out"],
    );
    with(&["--method", "full", "--train-modules", "biases"], &["no weight of `biases`", "it has "]);
    fs::write(at.join("three.jsonl"), "{\"text\": \"a b c\"}\n").unwrap();
    let all = ["train", "--model", "m", "--data", "three.jsonl", "--out", "r1", "--validation", "99%"];
    refused(at, &all, &["--validation 99% holds out"]);
    let negative = lorafit(at, &[&train[..], &["--weight-decay", "-1"]].concat());
    assert!(String::from_utf8(negative.stderr).unwrap().contains("--weight-decay -1: must be 0 or more"));
    assert!(well(at, &["data", "three.jsonl", "--model", "m"]).contains("1 text row:"));
}

/// The winner of a sweep is trained with from any folder.
#[test]
fn a_winner_has_whole_paths() {
    let place = place();
    let at = place.path();
    let file = "model = \"m\"\ndata = \"d.jsonl\"\nvalidation = 2\nmax-steps = 1\n[search]\nrank = [1]\n";
    fs::write(at.join("sweep.toml"), file).unwrap();
    well(at, &["sweep", "sweep.toml", "--out", "s"]);
    fs::create_dir(at.join("elsewhere")).unwrap();
    well(&at.join("elsewhere"), &["train", "--config", "../s/winner.toml", "--out", "r"]);
}
