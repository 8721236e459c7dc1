//! The binary as its users meet it: flags, configuration files, errors and exit codes. No model needed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use lorafit_kernels::ComputeDtype;
use lorafit_kernels::ops::matmul::cpu_instruction_set;
use tempfile::TempDir;

struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
}

fn lorafit(arguments: &[&str]) -> Outcome {
    let output = Command::new(env!("CARGO_BIN_EXE_lorafit")).args(arguments).output().unwrap();
    Outcome {
        code: output.status.code().expect("ended by a signal"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs `train --print-config` with a configuration file of that name and content, and further flags.
fn configure(file: &str, content: &str, flags: &[&str]) -> Outcome {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, file, content);
    let mut arguments = vec!["train", "--print-config", "--config", path.to_str().unwrap()];
    arguments.extend(["--model", "m", "--data", "d", "--out", "runs/o"]);
    arguments.extend(flags);
    lorafit(&arguments)
}

fn write(folder: &TempDir, file: &str, content: &str) -> PathBuf {
    let path = folder.path().join(file);
    fs::write(&path, content).unwrap();
    path
}

fn value<'a>(outcome: &'a Outcome, key: &str) -> &'a str {
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let prefix = format!("{key} = ");
    outcome.stdout.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or("absent")
}

#[test]
fn every_verb_has_help_with_examples() {
    for verb in [
        "data", "train", "sweep", "inspect", "report", "eval", "compare", "generate", "chat", "merge",
        "quantize", "bench",
    ] {
        let help = lorafit(&[verb, "--help"]);
        assert_eq!(help.code, 0);
        assert!(help.stdout.contains("Examples:"), "{verb}");
        // Those of a sweep are in its file.
        for flag in ["--threads", "--device", "--quiet"].into_iter().filter(|_| verb != "sweep") {
            assert!(help.stdout.contains(flag), "{verb} {flag}");
        }
    }
}

#[test]
fn train_has_the_flags_others_rely_on() {
    let help = lorafit(&["train", "--help"]).stdout;
    let flags = "model data out config method train-modules save-dtype rank alpha dropout target-modules lr scheduler warmup-ratio weight-decay \
        max-grad-norm batch-size gradient-accumulation epochs max-steps max-seq-len no-shuffle seed adapter eval-data \
        eval-every threads device train-on layers micro-batch-tokens log-every name overwrite \
        template resume resume-anyway checkpoint-every keep-checkpoints on-nan log tensorboard cache-dir no-cache \
        overlong limit split columns role skip-bad-rows eval-split validation base-name no-card";
    for flag in flags.split_whitespace() {
        assert!(help.contains(&format!("--{flag}")), "--{flag}");
    }
}

#[test]
fn a_file_wins_over_defaults_and_flags_win_over_the_file() {
    for (file, content) in [("run.toml", "rank = 32\nlr = 1e-3\n"), ("run.yaml", "rank: 32\nlr: 1e-3\n")] {
        let outcome = configure(file, content, &["--lr", "0.5"]);
        assert_eq!(value(&outcome, "rank"), "32", "{file}");
        assert_eq!(value(&outcome, "lr"), "0.5", "{file}");
        assert_eq!(value(&outcome, "batch-size"), "4", "{file}");
    }
}

#[test]
fn a_flag_typed_with_its_default_still_wins() {
    assert_eq!(value(&configure("run.toml", "rank = 32", &["--rank", "8"]), "rank"), "8");
    assert_eq!(value(&configure("run.toml", "quiet = true", &["--quiet=false"]), "quiet"), "false");
}

#[test]
fn keys_may_be_kebab_or_snake_case_but_set_once() {
    assert_eq!(value(&configure("run.yml", "max_seq_len: 77", &[]), "max-seq-len"), "77");
    assert_eq!(value(&configure("run.yml", "max-seq-len: 77", &[]), "max-seq-len"), "77");
    let twice = configure("run.yml", "max-seq-len: 77\nmax_seq_len: 78", &[]);
    assert!(twice.stderr.contains("line 2: `max-seq-len` is set twice"), "{}", twice.stderr);
}

#[allow(clippy::too_many_lines, reason = "a configuration with every key")]
#[test]
fn every_flag_of_train_is_a_key() {
    let content = r#"
        model = "m2"
        data = ["d2", "d3:0.5"]
        out = "o2"
        base-name = "org/base"
        no-card = true
        name = "n"
        preset = "good"
        method = "lora"
        init = "model"
        rank = 4
        alpha = 8
        dropout = 0
        dora = true
        target-modules = ["q_proj", "v_proj"]
        exclude-modules = "k_proj"
        rank-pattern = ["q_proj=2", 'layers\.1\..*=8']
        alpha-pattern = "v_proj=32"
        rslora = true
        save-modules = ["embed_tokens", "norms"]
        new-tokens = ["<a>", "<b,c>"]
        layers = "8-"
        adapter = "a"
        optimizer = "adamw-8bit"
        lr = 1
        scheduler = "wsd"
        decay-ratio = 0.1
        lora-plus-ratio = 4
        label-smoothing = 0.1
        objective = "robust"
        length-normalise = true
        reference-free = true
        neftune-alpha = 5
        average = "ema:0.99"
        warmup-ratio = 0
        weight-decay = 0.01
        max-grad-norm = 0
        batch-size = 2
        gradient-accumulation = 3
        max-steps = 10
        seed = 5
        max-seq-len = 128
        overlong = "drop"
        limit = 9
        split = "train"
        columns = ["q=prompt", "a=completion"]
        role = "human=user"
        skip-bad-rows = true
        eval-split = "test"
        train-on = "last"
        template = "chatml"
        no-shuffle = true
        cache-dir = "c"
        no-cache = false
        eval-data = "e"
        eval-every = 7
        patience = 3
        min-delta = 0.01
        log-every = 9
        checkpoint-every = 50
        keep-checkpoints = 3
        on-nan = "skip"
        skip-loss-spikes = true
        log = "json"
        tensorboard = true
        micro-batch-tokens = 512
        no-prefix-sharing = true
        recompute = "12-blocks"
        activation-dtype = "bf16"
        compute-dtype = "bf16"
        memory = "2.00GiB"
        quant = "nf4"
        double-quant = true
        quant-block = 128
        quant-head = true
        threads = 2
        device = "cpu"
        quiet = true
    "#;
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "all.toml", content);
    let first = lorafit(&["train", "--print-config", "--config", path.to_str().unwrap()]);
    assert_eq!(value(&first, "target-modules"), "\"q_proj,v_proj\"");
    let keys = |text: &str| {
        let mut keys: Vec<String> =
            text.lines().filter_map(|line| Some(line.split_once(" = ")?.0.trim().to_owned())).collect();
        keys.sort();
        keys
    };
    assert_eq!(keys(&first.stdout), keys(content));

    // What is saved in a run folder is itself a configuration file, and says the same.
    let saved = write(&folder, "config.toml", &first.stdout);
    let second = lorafit(&["train", "--print-config", "--config", saved.to_str().unwrap()]);
    assert_eq!(second.stdout, first.stdout);
    assert_eq!(second.code, 0);
}

#[test]
fn full_fine_tuning_has_flags_and_a_learning_rate_of_its_own() {
    let content = "method = \"full\"\ntrain-modules = [\"mlp\", \"norms\"]\nsave-dtype = \"bf16\"\nlayers = \"8-\"\npreset = \"off\"";
    let first = configure("full.toml", content, &[]);
    assert_eq!(value(&first, "train-modules"), "\"mlp,norms\"");
    assert_eq!(value(&first, "lr"), "0.00002");
    assert_eq!(value(&configure("lora.toml", "", &["--preset", "off"]), "lr"), "0.0002");
    // What is saved in a run folder says the same, with the defaults of the other method in it.
    assert_eq!(configure("run.toml", &first.stdout, &[]).stdout, first.stdout);
}

#[test]
fn flags_of_the_other_method_are_refused_by_name() {
    for (content, flags, name, method) in [
        ("method: full", &["--rank", "8"][..], "rank", "full"),
        ("method: full\nalpha: 7", &[], "alpha", "full"),
        ("target-modules: q_proj", &["--method", "full"], "target-modules", "full"),
        ("", &["--method", "full", "--quant", "nf4"], "quant", "full"),
        ("", &["--train-modules", "mlp"], "train-modules", "lora"),
        ("save-dtype: bf16", &[], "save-dtype", "lora"),
    ] {
        let outcome = configure("run.yaml", content, flags);
        let expected = format!("--{name} has no meaning with --method {method}");
        assert!(outcome.stderr.contains(&expected), "{content} {flags:?}: {}", outcome.stderr);
        assert_eq!(outcome.code, 2);
    }
    let unknown = lorafit(&["train", "--method", "full", "--train-modules", "q_porj"]);
    assert!(unknown.stderr.contains("unknown train module `q_porj`"), "{}", unknown.stderr);
}

#[test]
fn the_resolved_defaults_are_a_configuration_file_too() {
    for preset in ["off", "good"] {
        let first = configure("empty.yaml", "", &["--preset", preset]);
        // What a preset chooses is not in it, or it would be given from then on.
        assert_eq!(first.stdout.contains("epochs = 1.0"), preset == "off", "{}", first.stdout);
        assert_eq!(value(&first, "name"), "\"o\"");
        let second = configure("run.toml", &first.stdout, &[]);
        assert_eq!(second.stdout, first.stdout);
    }
}

#[test]
fn an_unknown_key_names_file_line_and_the_nearest() {
    for (file, content) in [("run.toml", "lr = 1e-3\nrnak = 8\n"), ("run.yaml", "lr: 1e-3\nrnak: 8\n")] {
        let outcome = configure(file, content, &[]);
        assert_eq!(outcome.code, 2);
        assert!(outcome.stderr.contains(&format!("{file} line 2: unknown key `rnak`")), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("hint: did you mean `rank`?"), "{}", outcome.stderr);
    }
}

#[test]
fn a_key_that_is_about_the_call_is_unknown() {
    assert!(configure("run.toml", "config = 'x.toml'", &[]).stderr.contains("unknown key `config`"));
}

#[test]
fn a_wrong_type_names_key_expected_and_found() {
    for (content, expected) in [
        ("rank: eight", "line 1: `rank`: expected a whole number, 0 or more, found string \"eight\""),
        ("rank: -1", "line 1: `rank`: expected a whole number, 0 or more, found integer `-1`"),
        ("threads: many", "line 1: `threads`: expected a whole number, 0 or more, found string \"many\""),
        ("lr: [1, 2]", "line 1: `lr`: expected a number such as 2e-4, or auto, found sequence"),
        ("no-shuffle: 3", "line 1: `no-shuffle`: expected true or false, found integer `3`"),
        (
            "scheduler: cosin",
            "`scheduler`: unknown value `cosin`, expected one of `constant`, `linear`, `cosine`",
        ),
        (
            "target-modules: [q_porj]",
            "`target-modules`: unknown target module `q_porj`; known modules: q_proj",
        ),
        ("layers: 9-3", "`layers`: `9-3` is not a range of layers; write 0-15"),
        ("max-steps: 0", "--max-steps 0: must be 1 or more"),
        ("max-steps: 2000000000", "--max-steps 2000000000: must be 1000000000 or less"),
        ("lr: .inf", "line 1 column 5: the number must be finite, not `.inf`"),
        ("lr:", "line 1: `lr` has no value"),
        ("micro-batches-at-once: two", "expected a whole number such as 2, or auto"),
        ("micro-batch-tokens: '1,024'", "a whole number has no commas: write 1024"),
        ("dropout: 1.5", "--dropout 1.5: must be 0 or more and below 1"),
    ] {
        let outcome = configure("run.yaml", content, &[]);
        assert_eq!(outcome.code, 2, "{content}");
        assert!(outcome.stderr.contains(expected), "{content}: {}", outcome.stderr);
    }
}

#[test]
fn numbers_of_a_file_are_finite() {
    for number in ["inf", "-inf", "nan # none"] {
        let told = configure("run.toml", &format!("rank = 4\nalpha = {number}\n"), &[]);
        assert_eq!(told.code, 2, "{number}");
        assert!(told.stderr.contains("line 2: `alpha` must be finite"), "{number}: {}", told.stderr);
    }
}

#[test]
fn epochs_and_max_steps_exclude_each_other() {
    let flags = lorafit(&["train", "--epochs", "1", "--max-steps", "2"]);
    assert_eq!(flags.code, 2);
    let file = configure("run.toml", "epochs = 1\nmax-steps = 2", &[]);
    assert!(file.stderr.contains("line 2: `max-steps` and `epochs` exclude each other"), "{}", file.stderr);
    // A flag silences the file's rival.
    let both = configure("run.toml", "epochs = 3", &["--max-steps", "2"]);
    assert_eq!((value(&both, "max-steps"), value(&both, "epochs")), ("2", "absent"));
}

#[test]
fn unreadable_configurations_are_told() {
    assert!(configure("run.json", "{}", &[]).stderr.contains("neither that of a TOML nor of a YAML file"));
    for (file, content) in
        [("run.toml", "rank 8"), ("run.yaml", "rank: [8"), ("run.yaml", "- 8"), ("run.yaml", "8")]
    {
        let outcome = configure(file, content, &[]);
        assert_eq!(outcome.code, 2, "{content}");
        assert!(outcome.stderr.contains("cannot be read as configuration"), "{content}: {}", outcome.stderr);
    }
    let missing = lorafit(&["train", "--config", "no/such.toml"]);
    assert!(missing.stderr.contains("cannot read configuration no/such.toml"), "{}", missing.stderr);
}

#[test]
fn a_yaml_alias_bomb_is_refused_quickly() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        bomb += &format!("a{level}: &a{level} [{}]\n", [before.as_str(); 9].join(", "));
    }
    assert_eq!(configure("run.yaml", &bomb, &[]).code, 2);
}

#[test]
fn a_missing_required_flag_is_named() {
    let outcome = lorafit(&["train", "--model", "m", "--data", "d"]);
    assert_eq!(outcome.code, 2);
    assert!(outcome.stderr.starts_with("error: --out is missing\nhint: "), "{}", outcome.stderr);
}

#[test]
fn values_out_of_range_are_usage_errors() {
    let out_of_range: [(&str, &[&str]); 14] = [
        ("--rank 0: must be 1 or more", &["train", "--rank", "0"]),
        ("--rank 1000000000: must be 65536 or less", &["train", "--rank", "1000000000"]),
        (
            "--batch 18446744073709551615: must be 1048576 or less",
            &["bench", "--shape", "s", "--batch", "18446744073709551615"],
        ),
        (
            "--max-steps 18446744073709551615: must be 1000000000 or less",
            &["train", "--max-steps", "18446744073709551615"],
        ),
        (
            "--batch-size 18446744073709551615: must be 1048576 or less",
            &["train", "--batch-size", "18446744073709551615"],
        ),
        ("--gradient-accumulation 0: must be 1 or more", &["train", "--gradient-accumulation", "0"]),
        ("--epochs 1000001: must be 1000000 or less", &["train", "--epochs", "1000001"]),
        ("--epochs 0: must be above 0", &["train", "--epochs", "0"]),
        (
            "--steps 18446744073709551615: must be 1000000000 or less",
            &["bench", "--shape", "s", "--steps", "18446744073709551615"],
        ),
        ("--lr 0: must be above 0", &["train", "--lr", "0"]),
        (
            "--eval-every with --validation none has no rows",
            &["train", "--eval-every", "5", "--validation", "none"],
        ),
        ("--threads 0: at least one", &["train", "--threads", "0"]),
        ("--top-p 2: must be above 0", &["generate", "--model", "m", "--prompt", "p", "--top-p", "2"]),
        ("--seq 1: must be 2 or more", &["bench", "--shape", "s", "--seq", "1"]),
    ];
    for (message, arguments) in out_of_range {
        let mut arguments = arguments.to_vec();
        if arguments[0] == "train" {
            arguments.extend(["--model", "m", "--data", "d", "--out", "o"]);
        }
        let outcome = lorafit(&arguments);
        assert_eq!(outcome.code, 2, "{message}");
        assert!(outcome.stderr.starts_with(&format!("error: {message}")), "{}", outcome.stderr);
    }
}

#[test]
fn a_mistyped_flag_is_a_usage_error_with_the_nearest() {
    let outcome = lorafit(&["train", "--rnk", "8"]);
    assert_eq!(outcome.code, 2);
    assert!(outcome.stderr.contains("--rank"), "{}", outcome.stderr);
}

/// The tip names what begins with what was typed, other verbs that have the flag, or what it follows from.
#[test]
fn an_unknown_flag_has_a_tip_that_is_true() {
    let generate = ["generate", "--model", "m", "--prompt", "p"];
    let train = ["train", "--model", "m", "--data", "d", "--out", "o"];
    for (arguments, flag, tip) in [
        (&train[..], "--micro-batches", "did you mean --micro-batches-at-once?"),
        (&train, "--micro_batches", "did you mean --micro-batches-at-once?"),
        (&train, "--micro-batch", "did you mean --micro-batch-tokens or --micro-batches-at-once?"),
        (&train, "--target", "did you mean --target-modules?"),
        (&train, "--rnk", "a similar argument exists: '--rank'"),
        (&train, "--learning-rate", "the flag is called --lr"),
        (&["sweep", "s.toml"], "--micro-batches", "set it in the sweep file: micro-batches-at-once = VALUE"),
        (&generate, "--compute-dtype", "the type follows from --device and --quant here: bf16 on a GPU"),
        (&["chat", "--model", "m"], "--compute-dtype", "the type follows from --device and --quant here"),
        (&generate, "--gradient-accumulation", "it is a flag of lorafit train"),
    ] {
        let outcome = lorafit(&[arguments, &[flag, "2"]].concat());
        assert_eq!(outcome.code, 2, "{flag}");
        assert!(outcome.stderr.contains(&format!("tip: {tip}")), "{flag}: {}", outcome.stderr);
        assert_eq!(outcome.stderr.matches("tip: ").count(), 1, "{flag}: {}", outcome.stderr);
    }
}

/// A word such as `none` gets a tip that says how to turn the flag off, and the tip works.
#[test]
fn what_turns_a_flag_off_is_told() {
    let train = ["train", "--print-config", "--model", "m", "--data", "d", "--out", "o"];
    for (flag, off) in [
        ("--center-rewards", "--center-rewards 0"),
        ("--checkpoint-every", "--checkpoint-every 0"),
        ("--dropout", "--dropout 0"),
        ("--label-smoothing", "--label-smoothing 0"),
        ("--lora-plus-ratio", "--lora-plus-ratio 1"),
        ("--max-grad-norm", "--max-grad-norm 0"),
        ("--restarts", "--restarts 0"),
        ("--warmup-ratio", "--warmup-ratio 0"),
        ("--weight-decay", "--weight-decay 0"),
        ("--average", "leave --average out"),
        ("--eval-every", "leave --eval-every out"),
        ("--limit", "leave --limit out"),
        ("--memory", "leave --memory out"),
        ("--neftune-alpha", "leave --neftune-alpha out"),
        ("--patience", "leave --patience out"),
        ("--quant", "leave --quant out"),
    ] {
        let objective: &[&str] = if flag == "--center-rewards" { &["--objective", "reward"] } else { &[] };
        for word in ["none", "off", "False"] {
            let told = lorafit(&[&train, objective, &[flag, word]].concat());
            assert_eq!(told.code, 2, "{flag} {word}");
            assert!(told.stderr.contains(&format!("tip: {off}")), "{flag} {word}: {}", told.stderr);
        }
        let value: Vec<&str> = off.split(' ').filter(|_| off.starts_with("--")).collect();
        let taken = lorafit(&[&train, objective, &value].concat());
        assert_eq!(taken.code, 0, "{off}: {}", taken.stderr);
    }
    let rank = lorafit(&[&train[..], &["--rank", "none"]].concat());
    assert!(!rank.stderr.contains("tip: "), "{}", rank.stderr);
}

/// What selects modules by itself is no unknown module where it stands in a list.
#[test]
fn a_list_with_all_modules_is_told() {
    let train = ["train", "--print-config", "--model", "m", "--data", "d", "--out", "o"];
    let told = lorafit(&[&train[..], &["--target-modules", "all-linear,lm_head"]].concat());
    assert_eq!(told.code, 2);
    assert!(
        told.stderr
            .contains("`all-linear` stands by itself, not in a list of target modules; list the names"),
        "{}",
        told.stderr
    );
    let list = told.stderr.lines().find_map(|line| line.rsplit_once(": ")).expect("a list").1;
    let taken = lorafit(&[&train[..], &["--target-modules", list]].concat());
    assert_eq!(taken.code, 0, "{list}: {}", taken.stderr);
    let full = lorafit(&[&train[..], &["--method", "full", "--train-modules", "all,lm_head"]].concat());
    assert!(full.stderr.contains("`all` stands by itself, not in a list"), "{}", full.stderr);
}

#[test]
fn two_adapters_of_one_name_are_refused() {
    let outcome = lorafit(&["chat", "--model", "m", "--adapter", "x/poet", "--adapter", "y/poet"]);
    assert_eq!(outcome.code, 2);
    assert!(outcome.stderr.contains("two adapters are called `poet`"), "{}", outcome.stderr);
}

#[test]
fn without_a_terminal_errors_have_no_colour() {
    assert!(!lorafit(&["train"]).stderr.contains('\x1b'));
}

/// GPT-2 has a vector for each of 1024 positions: no row is planned, timed or trained beyond them.
#[test]
fn rows_end_with_positions_that_were_learned() {
    let told = lorafit(&["plan", "--model", "gpt2", "--json"]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    let plan: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(plan["parameters"], 124_439_808u64);
    assert_eq!(plan["reach"][0]["longest_context"], 1024, "{plan}");
    let cases: [&[&str]; 2] = [
        &["plan", "--model", "gpt2", "--max-seq-len", "1025"],
        &["bench", "--shape", "gpt2", "--batch", "1", "--seq", "1025"],
    ];
    for args in cases {
        let told = lorafit(args);
        assert_eq!(told.code, 2, "{}", told.stderr);
        assert!(told.stderr.contains("1025: the model has a vector for 1024 positions"), "{}", told.stderr);
        assert!(told.stderr.contains(" 1024 is the most"), "{}", told.stderr);
    }
}

#[test]
fn the_plan_of_llama_2_7b_has_the_published_sizes() {
    let folder = TempDir::new().unwrap();
    let svg = folder.path().join("cost.svg");
    let told = lorafit(&["plan", "--model", "llama-2-7b", "--json", "--svg", svg.to_str().unwrap()]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    let plan: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
    let parameters = 6_738_415_616u64;
    assert_eq!(plan["parameters"], parameters);
    let full = &plan["methods"][0];
    assert_eq!([&full["weights"], &full["gradients"]], [4 * parameters, 4 * parameters]);
    assert_eq!(full["optimizer"], 8 * parameters);
    let q_proj = &plan["modules"][0];
    assert_eq!((&q_proj["full"], &q_proj["low_rank"]), (&16_777_216.into(), &65_536.into()));
    assert_eq!(q_proj["reduction"], 256.0);
    // QLoRA with full recomputation is the last and fits the smallest device.
    assert_eq!(plan["methods"][4]["fits_gb"][0], 8);

    let drawing = std::fs::read_to_string(svg).unwrap();
    assert!(drawing.starts_with("<svg") && drawing.ends_with("</svg>\n"));
    for method in plan["methods"].as_array().unwrap() {
        assert!(drawing.contains(method["method"].as_str().unwrap()), "{method}");
    }
    for (name, begin) in [("cost.png", &b"\x89PNG"[..]), ("cost.csv", b"method,part,memory_gb\n")] {
        let file = folder.path().join(name);
        let told = lorafit(&["plan", "--model", "llama-2-7b", "--svg", file.to_str().unwrap()]);
        assert_eq!(told.code, 0, "{}", told.stderr);
        assert!(std::fs::read(file).unwrap().starts_with(begin), "{name}");
    }
}

#[test]
fn every_part_of_a_plan_is_told_and_they_sum_to_it() {
    let told = lorafit(&["plan", "--model", "tinyllama-1.1b", "--memory", "4GiB", "--json"]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    let plan: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
    let runs: Vec<_> =
        plan["methods"].as_array().unwrap().iter().filter(|m| m["parts"].is_object()).collect();
    assert_eq!(runs.len(), 4);
    for run in runs {
        let sum: u64 = run["parts"].as_object().unwrap().values().map(|part| part.as_u64().unwrap()).sum();
        assert_eq!(run["total"], sum, "{run}");
    }
    // 22 layers, 4 heads of 64: keys and values of a token are 45,056 bytes.
    let answering = &plan["answering"];
    let held = answering["side_by_side"].as_u64().unwrap() * (512 + 256);
    assert_eq!(answering["parts"]["kv_cache"], held * 22 * 2 * 4 * 64 * 4);

    let table = lorafit(&["plan", "--model", "tinyllama-1.1b", "--memory", "4GiB"]).stdout;
    for part in ["weights", "adapter", "gradients", "optimizer", "activations", "logits chunk", "scratch"] {
        assert!(table.lines().any(|line| line.starts_with(part)), "{part}");
    }
    assert!(table.contains("KV cache") && table.contains("program"), "{table}");
}

#[test]
fn bf16_activations_leave_room_for_longer_rows() {
    let longest = |dtype: &str| {
        let told = lorafit(&[
            "plan",
            "--model",
            "llama-3.1-8b",
            "--memory",
            "16GiB",
            "--json",
            "--activation-dtype",
            dtype,
        ]);
        assert_eq!(told.code, 0, "{}", told.stderr);
        let plan: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
        let reach = plan["reach"].as_array().unwrap();
        let of =
            |method: &str| reach.iter().find(|r| r["method"] == method).unwrap()["longest_context"].as_u64();
        of("QLoRA, recompute none").unwrap()
    };
    assert!(longest("bf16") as f64 > 1.5 * longest("f32") as f64, "{} {}", longest("bf16"), longest("f32"));
}

#[test]
fn the_header_of_a_gguf_file_is_enough_for_a_plan() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/gguf/llama-mixed.gguf");
    let folder = TempDir::new().unwrap();
    let bytes = fs::read(file).unwrap();
    let cut = folder.path().join("cut.gguf");
    // The largest tensor is more than the last kilobyte.
    fs::write(&cut, &bytes[..bytes.len() - 1024]).unwrap();
    let methods = |model: &str| {
        let told = lorafit(&["plan", "--model", model, "--json", "--memory", "1GiB"]);
        assert_eq!(told.code, 0, "{}", told.stderr);
        serde_json::from_str::<serde_json::Value>(&told.stdout).unwrap()["methods"].clone()
    };
    assert_eq!(methods(cut.to_str().unwrap()), methods(file));
}

#[test]
fn an_evaluation_that_does_not_fit_is_refused_with_its_parts() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_spm");
    let folder = TempDir::new().unwrap();
    let row =
        r#"{"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello"}]}"#;
    let data = write(&folder, "rows.jsonl", row);
    let eval = |memory: &str| {
        let flags = ["eval", "--model", model, "--generate", "--max-new-tokens", "256", "--memory", memory];
        lorafit(&[&flags[..], &["--data", data.to_str().unwrap()]].concat())
    };
    let told = eval("1GiB");
    assert_eq!(told.code, 0, "{}", told.stderr);
    assert!(told.stderr.contains("KV cache"), "{}", told.stderr);
    let told = eval("1MiB");
    assert_eq!(told.code, 1);
    assert!(told.stderr.contains("but may take 1 MiB") && told.stderr.contains("weights"), "{}", told.stderr);
    assert!(told.stdout.is_empty());
}

#[test]
fn what_the_plan_recommends_fits_what_was_asked() {
    let told = |memory: &str| {
        let told = lorafit(&["plan", "--model", "mistral-7b", "--recommend", "--memory", memory]);
        assert_eq!(told.code, 0, "{}", told.stderr);
        told.stdout
    };
    assert!(told("6GiB").contains("--quant nf4 --double-quant"), "{}", told("6GiB"));
    assert!(!told("40GiB").contains("--quant"), "{}", told("40GiB"));
    assert!(told("3GiB").contains("do not fit"), "{}", told("3GiB"));
}

#[test]
fn sixteen_bits_are_recommended_where_they_save_recomputing_or_time() {
    let plan = |more: &[&str]| {
        let told = lorafit(&[&["plan", "--model", "mistral-7b", "--threads", "2"][..], more].concat());
        assert_eq!(told.code, 0, "{}", told.stderr);
        told.stdout
    };
    // LoRA over the base as it is.
    let total = |more: &[&str]| {
        let plan: serde_json::Value = serde_json::from_str(&plan(&[&["--json"], more].concat())).unwrap();
        plan["methods"][2]["total"].as_u64().unwrap()
    };
    let (whole, least) = (total(&["--recompute", "none"]), total(&["--recompute", "full"]));
    let halved = total(&["--recompute", "none", "--activation-dtype", "bf16"]);
    assert!(least < halved && halved < whole);
    let within = |bytes: u64| plan(&["--recommend", "--memory", &format!("{bytes}B")]);
    let is_told = |told: &str| told.contains("--activation-dtype bf16");
    let told = within(halved);
    assert!(is_told(&told) && told.contains("--recompute none") && told.contains("0.2 %"), "{told}");
    // A little less: some blocks are computed twice either way, but fewer.
    let told = within(halved - 1);
    assert!(is_told(&told) && told.contains("--recompute 1-blocks"), "{told}");
    // Nothing to save, and nothing that could be.
    for bytes in [whole, least] {
        assert!(!is_told(&within(bytes)), "{}", within(bytes));
    }
    let asked = plan(&["--recommend", "--memory", &format!("{whole}B"), "--activation-dtype", "bf16"]);
    assert!(is_told(&asked) && !asked.contains("0.2 %"), "what is asked for is in the command: {asked}");
    let has_instructions = cpu_instruction_set(ComputeDtype::Bf16) != cpu_instruction_set(ComputeDtype::F32);
    assert_eq!(within(whole).contains("--compute-dtype bf16"), has_instructions);
}

#[test]
fn int8_is_warned_of_where_processors_do_not_multiply_bytes() {
    let shape = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_spm/config.json");
    let bench = ["bench", "--shape", shape, "--batch", "1", "--seq", "8", "--steps", "1", "--compute-dtype"];
    let told = |dtype: &str| {
        let told = lorafit(&[&bench[..], &[dtype]].concat());
        assert_eq!(told.code, 0, "{}", told.stderr);
        told.stderr.contains("slower than f32 here")
    };
    let multiplies = cpu_instruction_set(ComputeDtype::Int8) != cpu_instruction_set(ComputeDtype::F32);
    assert_eq!([told("int8"), told("f32")], [!multiplies, false]);
}

#[test]
fn a_template_takes_the_place_of_the_models_own() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_spm");
    let answer = |template: &str| {
        let ask =
            ["generate", "--model", model, "--chat", "--prompt", "hello", "--max-new-tokens", "2", "--json"];
        lorafit(&[&ask[..], &["--template", template]].concat())
    };
    let tokens = |told: Outcome| {
        assert_eq!(told.code, 0, "{}", told.stderr);
        let answer: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
        answer["prompt_tokens"].as_u64().unwrap()
    };
    // Alpaca's preamble is longer than Mistral's brackets.
    assert!(tokens(answer("alpaca")) > tokens(answer("mistral")) + 20);
    let told = answer("chatml");
    assert_eq!(told.code, 1);
    assert!(told.stderr.contains("chatml needs the token <|im_start|>"), "{}", told.stderr);
    let told = answer("chatlm");
    assert!(told.stderr.contains("cannot read the chat template chatlm: "), "{}", told.stderr);
    assert!(told.stderr.contains("chatml, llama-3, mistral, alpaca"), "{}", told.stderr);
}

/// The tiny model with a chat template, and rows of two turns of which the first is there twice.
fn chat_rows(folder: &TempDir) -> (String, PathBuf) {
    let model = format!("{}/../../fixtures/models/chat_bpe", env!("CARGO_MANIFEST_DIR"));
    let row = |reply: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "Hi"}}, {{"role": "assistant", "content": "{reply}"}}]}}"#
        )
    };
    let rows = [row("yes"), row("no, not now"), row("yes")].join("\n");
    (model, write(folder, "rows.jsonl", &rows))
}

#[test]
fn data_shows_what_is_trained_in_brackets() {
    let folder = TempDir::new().unwrap();
    let (model, rows) = chat_rows(&folder);
    let found = lorafit(&["data", rows.to_str().unwrap(), "--model", &model, "--rows", "1"]);
    assert_eq!(found.code, 0, "{}", found.stderr);
    let (_, after) = found.stdout.split_once('\u{27e6}').expect("something is trained");
    let (trained, _) = after.split_once('\u{27e7}').expect("and ends");
    assert!(trained.starts_with("yes"), "{}", found.stdout);
    assert!(!found.stdout.contains('\x1b') && !found.stdout.contains("not now"), "{}", found.stdout);
    assert!(found.stdout.contains("1 row is a repetition; lines 1 = 3"), "{}", found.stdout);
    let found = lorafit(&["data", rows.to_str().unwrap(), "--model", &model, "--row", "2", "--ids"]);
    assert!(found.stdout.contains("\u{27e6}no, not now"), "{}", found.stdout);
    assert!(found.stdout.contains("\nids: "), "{}", found.stdout);
    let found = lorafit(&["data", rows.to_str().unwrap(), "--model", &model, "--row", "9"]);
    assert_eq!(found.code, 2);
    assert!(found.stderr.contains("no trained row on line 9"), "{}", found.stderr);
}

#[test]
fn rows_of_several_sources_are_told_by_file_and_bad_ones_counted() {
    let folder = TempDir::new().unwrap();
    let (model, rows) = chat_rows(&folder);
    let table = write(&folder, "b.csv", "question,answer\nhow,so\nwhy\n");
    let (rows, table) = (rows.to_str().unwrap(), table.to_str().unwrap());
    let columns = ["--columns", "question=prompt,answer=completion"];
    let data = |flags: &[&str]| lorafit(&[&["data", "--model", &model], flags].concat());
    let told = data(&[&[table], &columns[..]].concat());
    assert_eq!(told.code, 1);
    assert!(told.stderr.contains("b.csv line 3: the row has 1 value,"), "{}", told.stderr);
    let told = data(&[&[table, "--skip-bad-rows"], &columns[..]].concat());
    assert!(told.stdout.contains("1 completion row: 1 trained on"), "{}", told.stdout);
    assert!(
        told.stdout.contains("1 bad row skipped:\n  ") && told.stdout.contains("line 3"),
        "{}",
        told.stdout
    );
    let prompts = write(&folder, "c.csv", "prompt,completion\nhow,so\n");
    let prompts = prompts.to_str().unwrap();
    let told = data(&[rows, &format!("{prompts}:2")]);
    assert!(told.stdout.contains("5 chat and completion rows: 5 trained on"), "{}", told.stdout);
    let told = data(&[rows, prompts, "--row", "5"]);
    assert!(told.stdout.contains("row 5, ") && told.stdout.contains("c.csv line 2: "), "{}", told.stdout);
    let told = data(&[rows, "--limit", "2", "--max-seq-len", "4", "--overlong", "error"]);
    assert!(told.stderr.contains("line 1: the row has "), "{}", told.stderr);
}

#[test]
fn what_says_how_rows_are_read_must_make_sense() {
    for (flags, problem) in [
        (vec!["--columns", "a=b"], "`b` is not a field that rows have"),
        (vec!["--columns", "a"], "`a` is not of the form COLUMN=FIELD"),
        (vec!["--role", "human=person"], "`person` is not a role"),
        (vec!["--limit", "0"], "--limit 0: must be 1 or more"),
        (vec!["--validation", "100%"], "`100%` is not a share"),
        (vec!["--validation", "5%", "--eval-data", "e"], "cannot be used with"),
    ] {
        let train = ["train", "--model", "m", "--data", "d", "--out", "o", "--print-config"];
        let told = lorafit(&[&train[..], &flags].concat());
        assert_eq!(told.code, 2, "{flags:?} {}", told.stderr);
        assert!(told.stderr.contains(problem), "{flags:?} {}", told.stderr);
    }
}

#[test]
fn data_gives_its_figures_as_json() {
    let folder = TempDir::new().unwrap();
    let (model, rows) = chat_rows(&folder);
    let found = lorafit(&["data", rows.to_str().unwrap(), "--model", &model, "--json", "--batch-size", "3"]);
    assert_eq!(found.code, 0, "{}", found.stderr);
    let json: serde_json::Value = serde_json::from_str(&found.stdout).unwrap();
    let number = |key: &str| json[key].as_f64().unwrap_or_else(|| panic!("{key} in {json}"));
    assert_eq!((number("rows"), number("samples"), number("duplicates")), (3.0, 3.0, 1.0));
    assert!(number("padded_share") > 1.0 && number("computed_share") < 0.8, "{json}");
    assert!(number("supervised_tokens") > 0.0 && number("supervised_tokens") < number("tokens"));
}

/// The names of the elements that a page opens.
fn elements(page: &str) -> std::collections::BTreeSet<&str> {
    let names = page.split('<').skip(1).filter(|tag| !tag.starts_with(['/', '!']));
    names.map(|tag| tag.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap()).collect()
}

#[test]
fn a_page_shows_rows_and_figures_and_a_row_cannot_break_out() {
    let folder = TempDir::new().unwrap();
    let (model, harmless) = chat_rows(&folder);
    let evil =
        "</i></mark></pre></article><script>window.hacked = 1</script><img src=x onerror='x'> \u{202e}&lt;";
    let rows = fs::read_to_string(&harmless).unwrap().replace("no, not now", evil);
    let rows = write(&folder, "a<b>&'x'.jsonl", &rows);
    let page = folder.path().join("page.html");
    let draw = |rows: &std::path::Path, more: &[&str]| {
        let mut arguments = vec!["data", rows.to_str().unwrap(), "--model", &model];
        arguments.extend(["--html", page.to_str().unwrap()]);
        arguments.extend(more);
        let told = lorafit(&arguments);
        assert_eq!((told.code, told.stdout.as_str()), (0, ""), "{}", told.stderr);
        assert!(told.stderr.contains(&format!("page written to {}", page.display())), "{}", told.stderr);
        fs::read_to_string(&page).unwrap()
    };
    let html = draw(&rows, &[]);
    assert_eq!(elements(&html), elements(&draw(&harmless, &[])), "a row brings no elements");
    let count = |html: &str, part: &str| html.matches(part).count();
    assert_eq!((count(&html, "<script"), count(&html, "</script>")), (2, 2), "of figures and of rows");
    assert_eq!(count(&html, "<article"), 3);
    assert_eq!(count(&html, "<mark>"), count(&html, "</mark>"));
    assert!(html.contains("<h1>a&lt;b&gt;&amp;&#39;x&#39;.jsonl</h1>"));
    assert!(html.contains("\\u{202e}") && !html.contains('\u{202e}'));
    // The name of a kind of element is no address.
    let known = count(&html, "http-equiv") + count(&html, "http://www.w3.org/2000/svg");
    assert!(html.contains("default-src 'none'") && count(&html, "http") == known);
    assert!(html.contains("class=\"s\" data-i="), "special tokens are set apart");
    assert!(html.contains("<svg") && html.contains("Longest rows:") && html.contains("lines 1 = 3"));
    assert!(html.contains("These are all rows"));
    assert!(draw(&rows, &["--rows", "2"]).contains("the first 2 of 3 rows"));
    assert_eq!(count(&draw(&rows, &["--row", "2"]), "<article"), 1);
}

#[test]
fn a_page_that_cannot_be_written_is_named_and_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let (model, rows) = chat_rows(&folder);
    let page = folder.path().join("missing/page.html");
    let told =
        lorafit(&["data", rows.to_str().unwrap(), "--model", &model, "--html", page.to_str().unwrap()]);
    assert_eq!(told.code, 1);
    assert!(told.stderr.contains(&format!("cannot write {}", page.display())), "{}", told.stderr);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn data_is_kept_in_the_folder_of_the_cache() {
    let folder = TempDir::new().unwrap();
    let (model, rows) = chat_rows(&folder);
    let cache = folder.path().join("cache");
    let run = |more: &[&str]| {
        let mut arguments = vec!["data", rows.to_str().unwrap(), "--model", &model, "--json"];
        if more != ["--no-cache"] {
            arguments.extend(["--cache-dir", cache.to_str().unwrap()]);
        }
        arguments.extend(more);
        let told = lorafit(&arguments);
        assert_eq!(told.code, 0, "{}", told.stderr);
        told.stdout
    };
    let kept = || {
        let entries = fs::read_dir(&cache).map(|entries| entries.map(|e| e.unwrap().path()));
        let samples = |path: &PathBuf| path.extension() == Some("samples".as_ref());
        entries.map_or(0, |entries| entries.filter(samples).count())
    };
    let uncached = run(&["--no-cache"]);
    assert_eq!(kept(), 0);
    assert_eq!((run(&[]), kept()), (uncached.clone(), 1));
    assert_eq!((run(&[]), kept()), (uncached, 1));
    run(&["--train-on", "all"]);
    assert_eq!(kept(), 2);
}

#[test]
fn quantisation_flags_that_contradict_each_other_are_usage_errors() {
    for (flags, problem) in [
        (vec!["--double-quant"], "--double-quant without --quant"),
        (vec!["--quant-head"], "--quant-head without --quant"),
        (vec!["--quant", "int8", "--double-quant"], "--double-quant without --quant nf4 or fp4"),
        (vec!["--quant", "nf4", "--quant-block", "48"], "--quant-block 48: must be a power of two"),
        (vec!["--recompute", "some"], "`some` is not one of auto, none, full"),
        (vec!["--memory", "6"], "`6` is not a size such as 6GiB"),
    ] {
        let told = lorafit(&[&["bench", "--shape", "smollm2-135m"], &flags[..]].concat());
        assert_eq!(told.code, 2, "{flags:?}");
        assert!(told.stderr.contains(problem), "{flags:?}: {}", told.stderr);
    }
}

#[test]
fn a_run_that_does_not_fit_is_refused_with_what_would() {
    let told = lorafit(&["bench", "--shape", "llama-2-7b", "--dtype", "bf16", "--memory", "1GiB"]);
    assert_eq!(told.code, 1);
    assert!(
        told.stderr.contains("training needs") && told.stderr.contains("may take 1.00 GiB"),
        "{}",
        told.stderr
    );
    assert!(
        told.stderr
            .contains("12.55 GiB of it for the weights: quantise them with --quant nf4 --double-quant"),
        "{}",
        told.stderr
    );

    let told = lorafit(&["bench", "--shape", "smollm2-135m", "--recompute", "none", "--memory", "700MiB"]);
    assert_eq!(told.code, 1);
    assert!(told.stderr.contains("hint: --recompute "), "{}", told.stderr);
}

fn fixture(name: &str) -> String {
    format!("{}/../../fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A run folder with an adapter and `lines` as its log.
fn run_folder(folder: &TempDir, name: &str, adapter: &str, lines: &[String]) -> PathBuf {
    let run = folder.path().join(name);
    fs::create_dir(&run).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(format!("{}/{file}", fixture(adapter)), run.join(file)).unwrap();
    }
    fs::write(run.join("metrics.jsonl"), lines.concat()).unwrap();
    run
}

fn step(step: u64) -> String {
    format!(
        "{{\"step\":{step},\"loss\":{},\"grad_norm\":1.0,\"learning_rate\":0.001,\"tokens\":10,\"computed_tokens\":9,\
         \"supervised_tokens\":5,\"seconds\":0.5,\"tokens_per_s\":20.0,\"peak_rss_bytes\":1048576}}\n",
        5.0 / step as f64
    )
}

#[test]
fn inspect_tells_of_an_adapter_that_peft_wrote() {
    let (adapter, model) = (fixture("models/llama/adapter"), fixture("models/llama"));
    let told = lorafit(&["inspect", &adapter, "--model", &model]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    assert!(told.stdout.contains("rank 4, alpha 8, 14 layers"), "{}", told.stdout);
    assert_eq!(told.stdout.lines().filter(|line| line.contains("up_proj") && line.contains(" %")).count(), 2);

    let folder = TempDir::new().unwrap();
    let csv = folder.path().join("layers.csv");
    let (one, two) = (fixture("adapters/one"), fixture("adapters/two"));
    let json = lorafit(&["inspect", &one, "--against", &two, "--json", "--csv", csv.to_str().unwrap()]);
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(value["layers"].as_array().unwrap().len(), 14);
    assert!(value["layers"][5]["overlap"]["outputs"]["similarity"].is_number());
    let csv = fs::read_to_string(csv).unwrap();
    let columns = csv.lines().next().unwrap().split(',').count();
    assert!(csv.lines().count() == 15 && csv.lines().all(|line| line.split(',').count() == columns));
}

#[test]
fn inspect_names_what_is_no_adapter_of_that_base() {
    let (adapter, model) = (fixture("adapters/one"), fixture("models/llama"));
    let told = lorafit(&["inspect", &adapter, "--model", &model]);
    assert!(told.code == 1 && told.stderr.contains("model.layers.0.mlp.down_proj"), "{}", told.stderr);
    assert!(lorafit(&["inspect", "/nowhere"]).stderr.contains("adapter_config.json"));
    let other = lorafit(&["inspect", &adapter, "--against", &fixture("models/llama/adapter")]);
    assert!(other.code == 1 && other.stderr.contains("in common"), "{}", other.stderr);
}

#[test]
fn a_report_of_two_runs_is_one_page_with_every_figure_as_files() {
    let folder = TempDir::new().unwrap();
    let steps: Vec<String> = (1..=30).map(step).collect();
    // One was killed in the middle of a line.
    let torn = [&steps[..20], &["{\"step\":21,\"lo".to_owned()]].concat();
    let runs = [
        run_folder(&folder, "first <b>", "adapters/one", &steps),
        run_folder(&folder, "second", "adapters/two", &torn),
    ];
    let (page, figures) = (folder.path().join("report.html"), folder.path().join("figures"));
    let mut arguments =
        vec!["report", "--out", page.to_str().unwrap(), "--figures", figures.to_str().unwrap()];
    arguments.extend(runs.iter().map(|run| run.to_str().unwrap()));
    let outcome = lorafit(&arguments);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stderr.contains(&format!("page written to {}", page.display())), "{}", outcome.stderr);
    let html = fs::read_to_string(page).unwrap();
    assert!(html.contains("first &lt;b&gt;") && !html.contains("<b>"));
    assert_eq!(html.matches("<script").count(), 1, "its own");
    let header = html.split("<main>").next().unwrap();
    for fact in [
        "<dt>page made</dt>",
        "<dt>page command</dt><dd><code><span class=\"whole\">lorafit</span> <span class=\"whole\">report</span>",
    ] {
        assert!(header.contains(fact), "{fact}: {header}");
    }
    // The table of runs stands before the curves.
    let (overview, curves) =
        (html.find("<th scope=\"col\">held-out loss</th>"), html.find("<h2>Training</h2>"));
    assert!(overview.is_some() && overview < curves, "{overview:?} {curves:?}");
    assert!(
        !html.contains("http://")
            || html.matches("http://").count() == html.matches("http://www.w3.org/2000/svg").count()
    );
    let mut drawn = 0;
    for file in fs::read_dir(figures).unwrap() {
        let path = file.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("png") => assert!(bytes.starts_with(b"\x89PNG")),
            Some("svg") => assert!(bytes.starts_with(b"<svg")),
            Some("pdf") => assert!(bytes.starts_with(b"%PDF") && bytes.ends_with(b"%%EOF")),
            Some("csv") => {
                let text = String::from_utf8(bytes).unwrap();
                let (head, first) = (text.lines().next().unwrap(), text.lines().nth(1).unwrap_or_default());
                let is_name = |name: &str| {
                    name.starts_with(|c: char| c.is_ascii_lowercase())
                        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
                };
                assert!(head.contains(',') && head.split(',').all(is_name), "{}: {head}", path.display());
                assert!(first.is_empty() || head.split(',').count() <= first.split(',').count(), "{text}");
            }
            other => panic!("{other:?}"),
        }
        drawn += 1;
    }
    assert_eq!(drawn, 4 * html.matches("<figure>").count());
}

/// Of numpy, which forms each dW (scripts/make_analysis_fixtures.py); printed digits and f64 leave nothing of 1e-9.
#[test]
fn directions_of_two_runs_are_as_alike_as_numpy_finds_them() {
    let folder = TempDir::new().unwrap();
    let runs = ["one", "two"].map(|name| run_folder(&folder, name, &format!("adapters/{name}"), &[step(1)]));
    let [one, two] = runs.each_ref().map(|run| run.to_str().unwrap());
    let (page, figures) = (folder.path().join("report.html"), folder.path().join("figures"));
    let (page, figures) = (page.to_str().unwrap(), figures.to_str().unwrap());
    let report = |runs: &[&str], more: &[&str]| {
        lorafit(&[&["report", "--out", page, "--figures", figures][..], runs, more].concat())
    };
    let expected = fs::read_to_string(fixture("adapters/expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&expected).unwrap();
    // By default the layer of the largest norm; of rank 8 and 3 the one that is asked for.
    let (largest, asked) = ("model.layers.1.mlp.up_proj", "model.layers.1.self_attn.k_proj");
    for (layer, more) in [(largest, &[][..]), (asked, &["--layer", asked])] {
        let told = report(&[one, two], more);
        assert_eq!(told.code, 0, "{}", told.stderr);
        assert!(
            fs::read_to_string(page)
                .unwrap()
                .contains(&format!("{layer}: similarity of the subspaces of the i strongest"))
        );
        for (side, vectors) in [("output", "left"), ("input", "right")] {
            let numpy = &expected["overlap"][layer][vectors]["similarity"];
            let csv = fs::read_to_string(format!("{figures}/one-two-directions_{side}.csv")).unwrap();
            let mut cells = 0;
            for line in csv.lines().skip(1) {
                let numbers: Vec<f64> = line.split(',').map(|cell| cell.parse().unwrap()).collect();
                let (i, j) = (numbers[0] as usize, numbers[1] as usize);
                let numpy = numpy[i - 1][j - 1].as_f64().unwrap();
                assert!((numbers[2] - numpy).abs() < 1e-9, "{layer} {side} {line}: numpy {numpy}");
                cells += 1;
            }
            assert_eq!(cells, numpy.as_array().unwrap().len() * numpy[0].as_array().unwrap().len());
        }
    }
    let told = report(&[one, two], &["--layer", "model.layers.1.self_attn.k_porj"]);
    assert!(told.code == 2 && told.stderr.contains(&format!("did you mean {asked}?")), "{}", told.stderr);
    let told = report(&[one], &["--layer", asked]);
    assert!(
        told.code == 2 && told.stderr.contains("--layer is for the adapters of two runs"),
        "{}",
        told.stderr
    );
    // Its B is zero in one of both.
    let told = report(&[one, two], &["--layer", "model.layers.0.self_attn.q_proj"]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    assert!(fs::read_to_string(page).unwrap().contains("q_proj has no directions to compare"));
}

#[test]
fn a_run_without_an_adapter_is_reported_without_what_needs_one() {
    let folder = TempDir::new().unwrap();
    let run = run_folder(&folder, "full", "adapters/one", &[step(1)]);
    fs::remove_file(run.join("adapter_config.json")).unwrap();
    let page = folder.path().join("report.html");
    let outcome = lorafit(&["report", run.to_str().unwrap(), "--out", page.to_str().unwrap()]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let html = fs::read_to_string(page).unwrap();
    assert!(
        html.contains("full has no adapter") && html.contains("Learning rate") && !html.contains("Spectrum")
    );
}
