//! What verbs beside `train` and `eval` make of objectives: rows are shown, memory is planned, sweeps are run.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{chat_model as model, json_of, lorafit, refuses, trains, well, write_rows};

/// A folder with texts.jsonl, pairs.jsonl and judged.jsonl of so many rows: texts of many tokens with two labels, replies of many
/// tokens to short prompts.
fn place(rows: usize) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    let write = |name: &str, row: &dyn Fn(usize) -> Value| write_rows(folder.path(), name, rows, row);
    let long = |i: usize, word: &str| format!(" {word} {i} so it goes").repeat(12);
    let label = |i: usize| if i.is_multiple_of(4) { "rare" } else { "usual" };
    write("texts.jsonl", &|i| json!({"text": format!("{}{}", label(i), long(i, "day")), "label": label(i)}));
    write("pairs.jsonl", &|i| json!({"prompt": "q", "chosen": long(i, "yes"), "rejected": long(i, "no")}));
    write(
        "judged.jsonl",
        &|i| json!({"prompt": "q", "completion": long(i, "yes"), "label": i.is_multiple_of(2)}),
    );
    folder
}

#[test]
fn data_shows_texts_with_their_labels_and_counts_them() {
    let folder = place(8);
    let (place, model) = (folder.path(), model());
    fs::write(
        place.join("few.jsonl"),
        "{\"text\": \"good news\", \"mood\": 1}\n{\"text\": \"bad\", \"mood\": 10}\n",
    )
    .expect("writes");
    let few = ["data", "few.jsonl", "--model", &model, "--objective", "classify", "--label-column", "mood"];
    let shown = well(place, &[&few[..], &["--ids"]].concat());
    assert!(shown.contains("line 1: label \"1\", ") && shown.contains("good news"), "{shown}");
    assert!(shown.contains("line 2: label \"10\", "), "{shown}");
    for part in
        ["2 labelled rows: 2 trained on", "2 labels:\n  \"1\": 1 text (50.0 %)\n  \"10\": 1 text (50.0 %)"]
    {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
    // Nothing of a text is trained, and its label is none of its tokens.
    assert!(!shown.contains('\u{27e6}') && !shown.contains("\ntrained "), "{shown}");
    let ids = shown.lines().find_map(|line| line.strip_prefix("ids: ")).expect("ids").split(' ').count();
    assert!(shown.contains(&format!("line 1: label \"1\", {ids} tokens")), "{ids} of {shown}");

    let texts = ["data", "texts.jsonl", "--model", &model, "--objective", "classify"];
    let found = json_of(&well(place, &[&texts[..], &["--json"]].concat()));
    assert_eq!(found["labels"], json!({"rare": 2, "usual": 6}), "{found}");
    assert_eq!((&found["is_scored"], &found["samples"]), (&json!(true), &json!(8)));
    // What a text begins with is computed once, all of it but what is no text.
    assert!(found["computed_share"].as_f64() <= Some(1.0), "{found}");

    well(place, &[&texts[..], &["--html", "page.html"]].concat());
    let page = fs::read_to_string(place.join("page.html")).expect("reads");
    for part in ["label &quot;rare&quot;, ", "<caption>Labels</caption>", "2 to 6 texts of one"] {
        assert!(page.contains(part), "no {part:?} in {page}");
    }
    assert!(!page.contains("<mark>") && !page.contains("trained text"), "a text has no trained tokens");
}

#[test]
fn data_reads_rows_as_each_objective_does() {
    let folder = place(8);
    let (place, model) = (folder.path(), model());
    let shows = |data: &str, objective: &[&str]| {
        well(place, &[&["data", data, "--model", &model, "--rows", "2"], objective].concat())
    };
    let scored = shows("pairs.jsonl", &["--objective", "reward"]);
    assert!(
        scored.contains("line 1, chosen: ") && scored.contains("8 preference rows: 8 trained on"),
        "{scored}"
    );
    let text = scored.lines().nth(1).expect("its text");
    assert!(text.starts_with("q yes 0") && !scored.contains("label \""), "{scored}");
    for objective in [&[][..], &["--objective", "dpo"]] {
        let pairs = shows("pairs.jsonl", objective);
        assert!(pairs.contains("line 1, chosen: ") && pairs.contains('\u{27e6}'), "{pairs}");
    }
    let kto = shows("pairs.jsonl", &["--objective", "kto"]);
    assert!(kto.contains("line 1, good: ") && kto.contains("line 1, bad: "), "{kto}");
    assert!(shows("judged.jsonl", &["--objective", "kto"]).contains("line 2, bad: "));

    let data = |data: &'static str, flags: &[&'static str]| -> Vec<String> {
        let fixed = ["data", data, "--model", &model].map(str::to_owned);
        fixed.into_iter().chain(flags.iter().map(|flag| (*flag).to_owned())).collect()
    };
    for (arguments, words) in [
        (data("texts.jsonl", &[]), &["`label` must be true or false", "--objective classify"][..]),
        (data("pairs.jsonl", &["--objective", "sft"]), &["--objective dpo"]),
        (data("judged.jsonl", &["--objective", "dpo"]), &["--objective kto"]),
        (data("pairs.jsonl", &["--objective", "classify"]), &["no label in `label`"]),
        (data("pairs.jsonl", &["--label-column", "x"]), &["--label-column has no meaning without"]),
        (
            data("texts.jsonl", &["--objective", "classify", "--train-on", "all"]),
            &["--train-on has no meaning"],
        ),
    ] {
        refuses(place, &arguments.iter().map(String::as_str).collect::<Vec<_>>(), words);
    }
    // What train refuses is said, and shown all the same.
    let row = json!({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 0.5});
    fs::write(place.join("margins.jsonl"), format!("{row}\n")).expect("writes");
    let output = lorafit(place, &["data", "margins.jsonl", "--model", &model, "--objective", "ipo"]);
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(
        output.status.success() && told.contains("`margin` has no meaning with --objective ipo"),
        "{told}"
    );
}

/// The plan of a run and the one that `plan` makes without it are the same numbers, where rows are as long as it takes them to be, and
/// have nothing in common. A batch of them is one micro-batch.
#[test]
fn plan_counts_what_train_counts_whatever_the_objective() {
    let folder = place(42);
    let (place, model) = (folder.path(), model());
    trains(place, "texts.jsonl", "sft", &["--columns", "label=ignore", "--max-steps", "1", "--rank", "5"]);
    let (own, of_pairs, of_texts) = (["--reference", "sft"], "7", "14");
    for (number, (data, objective, rows, more)) in [
        ("texts.jsonl", "classify", of_texts, &[][..]),
        ("pairs.jsonl", "reward", of_pairs, &[]),
        ("pairs.jsonl", "dpo", of_pairs, &[]),
        ("pairs.jsonl", "dpo", of_pairs, &own),
        ("pairs.jsonl", "orpo", of_pairs, &[]),
        ("judged.jsonl", "kto", of_texts, &[]),
        ("judged.jsonl", "kto", of_texts, &own),
    ]
    .into_iter()
    .enumerate()
    {
        let both = ["--objective", objective, "--batch-size", rows, "--max-seq-len", "32", "--threads", "1"];
        let both = [&both[..], &["--rank", "3", "--micro-batch-tokens", "512"], more].concat();
        let out = format!("run{number}");
        let alone =
            ["--max-steps", "1", "--validation", "none", "--recompute", "none", "--no-prefix-sharing"];
        trains(place, data, &out, &[&both[..], &alone].concat());
        let mut of_run = json_of(&fs::read_to_string(place.join(&out).join("plan.json")).expect("reads"));
        let planned = json_of(&well(place, &[&["plan", "--model", &model, "--json"][..], &both].concat()));
        let lora = &planned["methods"][2];
        assert_eq!(lora["method"], "LoRA, base as stored");
        let total = of_run.as_object_mut().expect("an object").remove("planned_bytes").expect("a sum");
        assert_eq!(lora["parts"], of_run, "{objective} {more:?}");
        assert_eq!(lora["total"], total, "{objective} {more:?}");
        let is_scored = ["classify", "reward"].contains(&objective);
        assert_eq!(planned["answering"].is_null(), is_scored, "{objective}");
    }
}

#[test]
fn plan_refuses_what_an_objective_does_not_take_and_counts_labels() {
    let folder = place(1);
    let (place, model) = (folder.path(), model());
    let plan = |flags: &[&'static str]| -> Vec<String> {
        let fixed = ["plan", "--model", &model].map(str::to_owned);
        fixed.into_iter().chain(flags.iter().map(|flag| (*flag).to_owned())).collect()
    };
    for (flags, words) in [
        (&["--labels", "3"][..], &["--labels has no meaning without --objective classify"][..]),
        (&["--objective", "classify", "--labels", "1"], &["--labels", "from 2 to"]),
        (&["--objective", "orpo", "--reference", "base"], &["--reference has no meaning"]),
        (&["--objective", "reward", "--new-tokens", "3"], &["--new-tokens has no meaning"]),
        (&["--objective", "dpo", "--reference", "nowhere"], &["nowhere"]),
    ] {
        refuses(place, &plan(flags).iter().map(String::as_str).collect::<Vec<_>>(), words);
    }
    // A head of its own for each label, 16 bytes a value with AdamW: value, gradient and two moments.
    let total = |labels: &'static str| {
        let flags = plan(&["--objective", "classify", "--labels", labels, "--json", "--batch-size", "1"]);
        let found = json_of(&well(place, &flags.iter().map(String::as_str).collect::<Vec<_>>()));
        let parts = found["methods"][2]["parts"].clone();
        ["adapter", "gradients", "optimizer"]
            .map(|part| parts[part].as_u64().expect("bytes"))
            .iter()
            .sum::<u64>()
    };
    let config = json_of(&fs::read_to_string(format!("{model}/config.json")).expect("reads"));
    let hidden = config["hidden_size"].as_u64().expect("a width");
    assert_eq!(total("12") - total("2"), 10 * hidden * 16);
    let text = well(
        place,
        &[
            "plan",
            "--model",
            &model,
            "--objective",
            "dpo",
            "--recommend",
            "--memory",
            "8GiB",
            "--reference",
            "base",
        ],
    );
    assert!(text.contains("--objective dpo") && text.contains("--reference base"), "{text}");
}

/// Where a model and its reference have an adapter each, both are planned for.
#[test]
fn an_evaluation_is_planned_with_both_adapters() {
    let folder = place(12);
    let (place, model) = (folder.path(), model());
    for (out, rank) in [("one", "32"), ("other", "32")] {
        trains(place, "texts.jsonl", out, &["--columns", "label=ignore", "--max-steps", "1", "--rank", rank]);
    }
    let planned = |objective: &str, data: &str, reference: &str| {
        let eval =
            ["eval", "--model", &model, "--adapter", "one", "--data", data, "--json", "--threads", "1"];
        let judged = ["--objective", objective, "--reference", reference];
        json_of(&well(place, &[&eval[..], &judged].concat()))["planned_bytes"].as_u64().expect("bytes")
    };
    let factors = fs::metadata(place.join("other/adapter_model.safetensors")).expect("is there").len();
    for (objective, data) in [("dpo", "pairs.jsonl"), ("kto", "judged.jsonl")] {
        let more = planned(objective, data, "other") - planned(objective, data, "base");
        // The file has names, too, and kto has buffers of the reference beside those of the model.
        assert!(more > factors / 10 * 8, "{objective}: {more} of {factors}");
        assert!((objective == "kto") == (more > 2 * factors), "{objective}: {more} of {factors}");
    }
}

/// The trials of a sweep, which all ended well.
fn sweep(place: &Path, settings: &str, out: &str) -> Vec<Value> {
    let fixed = format!("model = {:?}\nthreads = 1\nmax-steps = 3\nmax-seq-len = 24\n{settings}", model());
    fs::write(place.join("sweep.toml"), fixed).expect("writes");
    well(place, &["sweep", "sweep.toml", "--out", out, "--trials-at-once", "2"]);
    let text = fs::read_to_string(place.join(out).join("trials.jsonl")).expect("reads");
    let rows: Vec<Value> = text.lines().map(json_of).collect();
    for row in &rows {
        assert_eq!(row["state"], "finished", "{row}");
        assert!(row["eval_loss"].is_f64() || row["metric"].is_f64(), "{row}");
    }
    rows
}

#[test]
fn a_sweep_is_run_over_any_objective() {
    let folder = place(24);
    let place = folder.path();
    for (objective, data) in [("reward", "pairs.jsonl"), ("classify", "texts.jsonl"), ("dpo", "pairs.jsonl")]
    {
        let settings = format!(
            "data = {data:?}\nobjective = {objective:?}\nvalidation = 4\n[search]\nlr = [1e-3, 1e-2]\nrank = [2, 4]\n"
        );
        let rows = sweep(place, &settings, objective);
        assert_eq!(rows.len(), 4);
        // The base has no loss of this kind.
        assert!(rows.iter().all(|row| row["base_loss"].is_null()), "{rows:?}");
    }
    // Pairs are single replies to kto: the rows of one objective are not those of another.
    let settings = "data = \"pairs.jsonl\"\nvalidation = 4\nlr = 1e-3\n[search]\nobjective = [\"dpo\", \"kto\", \"reward\"]\n";
    assert_eq!(sweep(place, settings, "objectives").len(), 3);
}

/// All trials share the adapter of their reference, which is counted once.
#[test]
fn a_reference_of_all_trials_is_there_once() {
    let folder = place(24);
    let place = folder.path();
    trains(place, "texts.jsonl", "sft", &["--columns", "label=ignore", "--max-steps", "1", "--rank", "32"]);
    let settings = |reference: &str| {
        format!(
            "data = \"pairs.jsonl\"\nobjective = \"dpo\"\nvalidation = 4\nlr = 1e-3\nreference = {reference:?}\n[search]\n\
             beta = [0.1, 0.3]\n"
        )
    };
    assert_eq!(sweep(place, &settings("sft"), "own").len(), 2);
    let planned = |reference: &str| {
        let fixed = format!("model = {:?}\nthreads = 1\nmax-steps = 3\n{}", model(), settings(reference));
        fs::write(place.join("sweep.toml"), fixed).expect("writes");
        let dry = ["sweep", "sweep.toml", "--out", "dry", "--trials-at-once", "2", "--dry-run", "--json"];
        let found = json_of(&well(place, &dry));
        found["shared_bytes"].as_u64().expect("bytes")
    };
    let (shared, without) = (planned("sft"), planned("base"));
    let factors = fs::metadata(place.join("sft/adapter_model.safetensors")).expect("is there").len();
    let more = shared - without;
    assert!((factors / 10 * 8..factors).contains(&more), "{more} of {factors}");
}

/// An adapter that learnt replies goes on as a classifier: its factors are kept, and a new head is trained beside them.
#[test]
fn an_adapter_without_a_head_goes_on_with_a_new_one() {
    let folder = place(24);
    let (place, model) = (folder.path(), model());
    trains(
        place,
        "texts.jsonl",
        "sft",
        &[
            "--columns",
            "label=ignore",
            "--max-steps",
            "4",
            "--rank",
            "5",
            "--lr",
            "1e-2",
            "--save-modules",
            "norms",
        ],
    );
    let config =
        |run: &str| json_of(&fs::read_to_string(place.join(run).join("adapter_config.json")).expect("reads"));
    for (objective, data, labels) in [("classify", "texts.jsonl", 2), ("reward", "pairs.jsonl", 1)] {
        let flags = ["--objective", objective, "--adapter", "sft", "--lr", "1e-2", "--validation", "none"];
        // A run of other steps has the same rates.
        let flags = [&flags[..], &["--checkpoint-every", "2", "--scheduler", "constant"]].concat();
        let [whole, parted] = ["whole", "parted"].map(|name| format!("{objective}-{name}"));
        trains(place, data, &whole, &[&flags[..], &["--max-steps", "4"]].concat());
        trains(place, data, &parted, &[&flags[..], &["--max-steps", "2"]].concat());
        well(place, &["train", "--resume", &parted, "--max-steps", "4", "--resume-anyway"]);
        let weights = |run: &str| fs::read(place.join(run).join("adapter_model.safetensors")).expect("reads");
        assert!(weights(&whole) == weights(&parted), "{objective}: other bits");
        let of_run = config(&whole);
        assert_eq!((&of_run["r"], &of_run["task_type"]), (&json!(5), &json!("SEQ_CLS")), "{of_run}");
        let saved = of_run["modules_to_save"].as_array().expect("a list");
        let of_sft = config("sft")["modules_to_save"].as_array().expect("a list").len();
        assert!(saved.contains(&json!("score")) && saved.len() == of_sft + 1, "{of_run}");
        let said = json_of(&fs::read_to_string(place.join(&whole).join("labels.json")).expect("reads"));
        assert_eq!(said["num_labels"], labels);
        // It is an adapter with a head like any other: it is evaluated, and goes on with the head that it has.
        well(place, &["eval", "--model", &model, "--adapter", &whole, "--data", data]);
        let more = [&["--objective", objective, "--adapter", &whole, "--max-steps", "1"][..]].concat();
        trains(place, data, &format!("{objective}-more"), &more);
    }
    // Rows of tokens are of the head that writes text.
    trains(
        place,
        "texts.jsonl",
        "words",
        &["--columns", "label=ignore", "--max-steps", "1", "--new-tokens", "zzz,yyy"],
    );
    refuses(
        place,
        &[
            "train",
            "--model",
            &model,
            "--data",
            "texts.jsonl",
            "--objective",
            "classify",
            "--adapter",
            "words",
            "--out",
            "x",
        ],
        &["it has rows of tokens", "lorafit merge"],
    );
}

#[test]
fn losses_are_said_by_what_they_are_means_over() {
    let folder = place(24);
    let place = folder.path();
    for (objective, data, says, lacks) in [
        ("classify", "texts.jsonl", "nats per text", "nats per token"),
        ("reward", "pairs.jsonl", "Mean over the pairs of a step", "nats per"),
        ("dpo", "pairs.jsonl", "Mean over the judged rows of a step", "nats per"),
    ] {
        let told = trains(place, data, objective, &["--objective", objective, "--max-steps", "2"]);
        let line = told.lines().find(|line| line.starts_with("data ")).expect("a line");
        assert_eq!(line.contains("of them trained"), objective == "dpo", "{line}");
        let page = format!("{objective}.html");
        well(place, &["report", objective, "--out", &page]);
        let page = fs::read_to_string(place.join(page)).expect("reads");
        assert!(page.contains(says) && !page.contains(lacks), "{objective}");
        let card = fs::read_to_string(place.join(objective).join("README.md")).expect("reads");
        assert_eq!(card.contains("of them trained"), objective == "dpo", "{card}");
    }
}

/// The rate that a test finds is one of a run like others.
#[test]
fn rates_are_tested_on_rows_of_any_objective_with_a_head_of_its_own() {
    let folder = place(24);
    let place = folder.path();
    for (objective, data) in [("reward", "pairs.jsonl"), ("classify", "texts.jsonl")] {
        let flags = ["--objective", objective, "--lr", "auto", "--max-steps", "1", "--max-seq-len", "24"];
        let told = trains(place, data, objective, &flags);
        let line = told.lines().find(|line| line.starts_with("test of learning rates, rate and loss: "));
        let line = line.unwrap_or_else(|| panic!("{objective}: {told}"));
        assert!(line.matches(", ").count() > 3 && !line.contains("inf"), "{objective}: {line}");
        assert!(told.contains("--lr auto: "), "{objective}: {told}");
    }
}
