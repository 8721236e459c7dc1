//! What `train` leaves is ready to be handed on: a base that readers find, a tokenizer and a model card beside the adapter; several
//! adapters at once; what readers can take, and smaller ranks.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{lorafit, place, well};

fn fixture(name: &str) -> String {
    format!("{}/../../fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// What a command that has to fail says.
#[track_caller]
fn refused(place: &Path, arguments: &[&str], parts: &[&str]) {
    let output = lorafit(place, arguments);
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success(), "{arguments:?} works");
    for part in parts.iter().chain(&["hint: "]) {
        assert!(told.contains(part), "{arguments:?} does not say `{part}`: {told}");
    }
}

/// What a command that has to work tells beside its result.
fn told(place: &Path, arguments: &[&str]) -> String {
    let output = lorafit(place, arguments);
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{arguments:?}: {told}");
    told
}

fn json_of(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).expect("there")).expect("JSON")
}

fn train<'a>(model: &'a str, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let flags =
        ["train", "--model", model, "--data", "rows.jsonl", "--out", out, "--max-steps", "1", "--rank", "2"];
    [&flags[..], more].concat()
}

fn loss(place: &Path, flags: &[&str]) -> f64 {
    let told = well(place, &[&["eval", "--data", "rows.jsonl", "--json", "--quiet"], flags].concat());
    serde_json::from_str::<Value>(&told).expect("JSON")["loss"].as_f64().expect("a loss")
}

/// A GGUF file with more metadata: text values by their keys.
fn with_texts(name: &str, to: &Path, texts: &[(&str, &str)]) {
    let bytes = fs::read(fixture(name)).expect("there");
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let added: Vec<u8> = texts
        .iter()
        .flat_map(|(key, value)| [text(key), 8u32.to_le_bytes().to_vec(), text(value)].concat())
        .collect();
    let entries = u64::from_le_bytes(bytes[16..24].try_into().expect("eight")) + texts.len() as u64;
    // Tensors begin at a multiple of 32 behind the header, so that much is added as keeps their place in it.
    let key = "padding";
    let frame = text(key).len() + 4 + 8;
    let fill = (32 - (added.len() + frame) % 32) % 32;
    let fill = [text(key), 8u32.to_le_bytes().to_vec(), text(&"x".repeat(fill))].concat();
    let head = [&bytes[..16], &(entries + 1).to_le_bytes()[..]].concat();
    fs::write(to, [&head[..], &added[..], &fill[..], &bytes[24..]].concat()).expect("written");
}

/// What an adapter calls its base, by what a GGUF file's metadata say.
#[test]
fn the_base_is_named_as_peft_finds_it() {
    let dir = place(4);
    let at = dir.path();
    let base_of =
        |run: &str| json_of(at.join(run).join("adapter_config.json"))["base_model_name_or_path"].clone();
    let hub = "https://huggingface.co/org/Tiny-1B";
    for (i, (texts, expected)) in [
        (&[("general.source.huggingface.repository", "org/Tiny-1B")][..], "org/Tiny-1B"),
        (&[("general.repo_url", hub)], "org/Tiny-1B"),
        // The file's own name is "chat_spm".
        (&[("general.base_model.0.repo_url", "https://huggingface.co/org/Chat-SPM")], "org/Chat-SPM"),
        // The model that this one was trained from has other weights, and a title is no name.
        (&[("general.base_model.0.repo_url", hub)], "m3.gguf"),
        (&[("general.basename", "Tiny 1B")], "m4.gguf"),
        (&[("general.repo_url", "https://huggingface.co/org/Tiny-1B-GGUF")], "m5.gguf"),
    ]
    .into_iter()
    .enumerate()
    {
        let (model, run) = (format!("m{i}.gguf"), format!("run{i}"));
        with_texts("gguf/chat_spm-f32.gguf", &at.join(&model), texts);
        let told = told(at, &train(&model, &run, &[]));
        assert_eq!(base_of(&run), expected, "{texts:?}");
        let is_noted = told.contains("PEFT will not find the base") && told.contains("--base-name ORG/NAME");
        assert_eq!(is_noted, expected.ends_with(".gguf"), "{told}");
        assert_eq!(told.contains("(it names org/Tiny-1B, from which"), i == 3, "{told}");
    }
    // A name that is given goes first, also of a run that is finished, and is kept.
    well(at, &train("m0.gguf", "named", &["--quiet", "--base-name", "org/other@v2"]));
    let config = json_of(at.join("named/adapter_config.json"));
    assert_eq!(
        (&config["base_model_name_or_path"], &config["revision"]),
        (&json!("org/other"), &json!("v2"))
    );
    well(at, &["train", "--quiet", "--resume", "run4", "--base-name", "org/later"]);
    assert_eq!(base_of("run4"), "org/later");
    well(at, &["train", "--quiet", "--resume", "run4"]);
    assert_eq!(base_of("run4"), "org/later");
    refused(at, &train("m0.gguf", "x", &["--base-name", "m0.gguf"]), &["is a file, and PEFT loads"]);
    refused(at, &train("m0.gguf", "x", &["--base-name", " "]), &["must be a name"]);
    // An adapter that is there gets a name by writing it anew.
    let export = ["export", "--to", "peft", "--model", "m4.gguf", "--adapter", "run3", "--out"];
    assert!(told(at, &[&export[..], &["plain"]].concat()).contains("PEFT will not find the base"));
    assert_eq!(base_of("plain"), "m4.gguf");
    well(at, &[&export[..], &["peft", "--base-name", "org/name"]].concat());
    assert_eq!(base_of("peft"), "org/name");
    assert!(at.join("peft/tokenizer.json").is_file() && !at.join("peft.partial").exists());
    assert_eq!(
        loss(at, &["--model", "m4.gguf", "--adapter", "peft"]),
        loss(at, &["--model", "m4.gguf", "--adapter", "run3"])
    );
}

/// The tokenizer and template that a run was trained with lie beside its adapter, and nothing else of the base.
#[test]
fn an_adapter_has_its_tokenizer_beside_it() {
    let dir = place(4);
    let at = dir.path();
    let folder = fixture("models/chat_bpe");
    let eval = ["--quiet", "--eval-data", "rows.jsonl"];
    well(at, &train(&folder, "of_folder", &eval));
    for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        let own = fs::read(Path::new(&folder).join(file)).expect("there");
        for dir in ["of_folder", "of_folder/best"] {
            assert!(fs::read(at.join(dir).join(file)).expect(file) == own, "{dir}/{file}");
        }
    }
    for file in ["generation_config.json", "config.json", "model.safetensors"] {
        assert!(!at.join("of_folder").join(file).exists(), "{file}");
    }
    let checkpoint = at.join("of_folder/checkpoints/step-00000001");
    assert!(checkpoint.join("adapter_config.json").is_file() && !checkpoint.join("tokenizer.json").exists());
    let gguf = fixture("gguf/chat_bpe-f32.gguf");
    well(at, &train(&gguf, "of_gguf", &["--quiet", "--template", "chatml"]));
    let template = fs::read_to_string(at.join("of_gguf/chat_template.jinja")).expect("a template");
    assert!(template.contains("<|im_start|>"), "{template}");
    assert!(at.join("of_gguf/tokenizer.json").is_file());
    // Training again keeps files that are as they would be written.
    let when =
        |file: &str| fs::metadata(at.join("of_gguf").join(file)).and_then(|f| f.modified()).expect("there");
    let before = (when("tokenizer.json"), when("adapter_model.safetensors"));
    well(at, &train(&gguf, "of_gguf", &["--quiet", "--template", "chatml", "--overwrite"]));
    assert_eq!(when("tokenizer.json"), before.0);
    assert_ne!(when("adapter_model.safetensors"), before.1);
}

/// The front matter of a card, by line.
fn head(card: &str) -> Vec<&str> {
    let rest = card.strip_prefix("---\n").expect("front matter");
    rest.split_once("\n---\n").expect("its end").0.lines().collect()
}

#[test]
fn a_run_has_a_card_and_a_card_of_the_user_stays() {
    let dir = place(6);
    let at = dir.path();
    let card = |dir: &str| fs::read_to_string(at.join(dir).join("README.md")).ok();
    with_texts(
        "gguf/chat_spm-f32.gguf",
        &at.join("m.gguf"),
        &[("general.repo_url", "https://huggingface.co/org/Tiny"), ("general.license", "apache-2.0")],
    );
    let flags = ["--quiet", "--validation", "2", "--lr", "0.001", "--name", "my run"];
    well(at, &train("m.gguf", "run", &flags));
    let text = card("run").expect("a card");
    let lines = head(&text);
    for line in [
        "base_model: org/Tiny",
        "library_name: peft",
        "pipeline_tag: text-generation",
        "license: apache-2.0",
        "- lora",
        "- base_model:adapter:org/Tiny",
    ] {
        assert!(lines.contains(&line), "{line}: {text}");
    }
    for part in [
        "<!-- Written by lorafit",
        "# my run\n",
        "A LoRA adapter for [org/Tiny](https://huggingface.co/org/Tiny)",
        "| training data | `rows.jsonl`: 4 chat rows, ",
        "| held-out data | `rows.jsonl`: 2 chat rows, ",
        "| steps | 1, each of 4 rows |",
        "| adapter | rank 2, alpha 16, dropout 0 on all-linear |",
        "| learning rate | 0.001, cosine, ",
        "| loss on held-out rows | ",
        "AutoPeftModelForCausalLM.from_pretrained(\"DIR\")",
        "`vllm serve org/Tiny --enable-lora --max-lora-rank 8 --lora-modules my-run=DIR`",
        "lorafit export --to gguf-lora --model org/Tiny --adapter DIR --out my-run.gguf",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains(at.to_str().expect("text")), "{text}");
    assert_eq!(card("run/best").as_deref(), Some(&text[..]));
    // An equal run has an equal card; one that was stopped says so.
    well(at, &train("m.gguf", "again", &flags));
    assert_eq!(card("again"), Some(text.clone()));
    well(at, &train("m.gguf", "run", &[&flags[..], &["--overwrite", "--seed", "3"]].concat()));
    assert!(card("run").expect("a card").contains("seed 3"));
    fs::write(at.join("run/README.md"), "# Mine\n").expect("written");
    for more in [&["--overwrite"][..], &["--overwrite", "--no-card"]] {
        well(at, &train("m.gguf", "run", &[&flags[..], more].concat()));
        assert_eq!(card("run").as_deref(), Some("# Mine\n"));
        assert_eq!(card("run/best").is_some(), more.len() == 1);
    }
    well(at, &train("m.gguf", "again", &[&flags[..], &["--overwrite", "--no-card"]].concat()));
    assert_eq!(card("again"), None);
    // Whether a card is written is free.
    well(at, &["train", "--quiet", "--resume", "again", "--no-card=false"]);
    assert_eq!(card("again"), Some(text));
}

#[test]
fn a_model_folder_has_a_card_and_one_of_the_user_stays() {
    let dir = place(4);
    let at = dir.path();
    let model = at.join("base");
    fs::create_dir(&model).expect("made");
    for file in fs::read_dir(fixture("models/chat_bpe")).expect("there").map(|e| e.expect("one").path()) {
        if file.is_file() {
            fs::write(model.join(file.file_name().expect("a name")), fs::read(&file).expect("there"))
                .expect("copied");
        }
    }
    fs::write(model.join("README.md"), "---\nlicense: mit\n---\n# Base\n").expect("written");
    let full = [
        "train",
        "--method",
        "full",
        "--model",
        "base",
        "--data",
        "rows.jsonl",
        "--max-steps",
        "1",
        "--quiet",
    ];
    let run = |more: &[&str]| well(at, &[&full[..], more].concat());
    run(&["--out", "run"]);
    let path = at.join("run/model/README.md");
    let text = fs::read_to_string(&path).expect("a card");
    let lines = head(&text);
    assert!(lines.contains(&"library_name: transformers") && lines.contains(&"license: mit"), "{text}");
    assert!(!lines.iter().any(|line| line.starts_with("base_model")), "{text}");
    assert!(text.contains("A model trained from `base`") && text.contains("vllm serve DIR"), "{text}");
    assert!(!at.join("run/README.md").exists());
    fs::write(&path, "# Mine\n").expect("written");
    run(&["--out", "run", "--overwrite"]);
    assert_eq!(fs::read_to_string(&path).expect("there"), "# Mine\n");
    refused(
        at,
        &[&full[..], &["--out", "x", "--base-name", "a/b"]].concat(),
        &["--base-name has no meaning"],
    );
}

/// Two adapters of one base: the fixture's and one that is trained here.
fn two_adapters() -> (TempDir, String, String) {
    let dir = place(6);
    let (model, adapter) = (fixture("models/chat_bpe"), fixture("models/chat_bpe/adapter"));
    let run = ["--quiet", "--lr", "0.1", "--max-steps", "4", "--target-modules", "q_proj,down_proj"];
    let flags = ["train", "--model", &model, "--data", "rows.jsonl", "--out", "run", "--rank", "3"];
    well(dir.path(), &[&flags[..], &run].concat());
    (dir, model, adapter)
}

#[test]
fn adapters_are_used_together_as_they_are_merged() {
    let (dir, model, adapter) = two_adapters();
    let at = dir.path();
    let half = format!("{adapter}:0.5");
    let both = ["--model", &model, "--adapter", &half, "--adapter", "run:-0.75"];
    let found = loss(at, &both);
    for alone in [&["--model", &model][..], &["--model", &model, "--adapter", &adapter], &both[..4]] {
        assert!((loss(at, alone) - found).abs() > 1e-4, "{alone:?}");
    }
    well(at, &[&["merge", "--out", "merged", "--dtype", "f32"], &both[..]].concat());
    let merged = loss(at, &["--model", "merged"]);
    assert!((found - merged).abs() < 1e-5 * merged, "{found} {merged}");
    let prompt = ["--prompt", "why", "--chat", "--max-new-tokens", "6", "--quiet"];
    let answer = |flags: &[&str]| well(at, &[&["generate"], flags, &prompt[..]].concat());
    assert_eq!(answer(&both), answer(&["--model", "merged"]));
    // A weight of 1 is none.
    let whole = format!("{adapter}:1");
    assert_eq!(
        loss(at, &["--model", &model, "--adapter", &whole]),
        loss(at, &["--model", &model, "--adapter", &adapter])
    );
}

#[test]
fn weights_and_adapters_that_make_no_sense_are_refused() {
    let (dir, model, adapter) = two_adapters();
    let at = dir.path();
    let other = fixture("models/llama/adapter");
    for verb in [
        &["eval", "--data", "rows.jsonl"][..],
        &["generate", "--prompt", "a", "--max-new-tokens", "1"],
        &["export", "--to", "peft", "--out", "out"],
        &["merge", "--out", "out"],
    ] {
        let of = |adapters: &[&str], parts: &[&str]| {
            let adapters: Vec<&str> = adapters.iter().flat_map(|adapter| ["--adapter", *adapter]).collect();
            refused(at, &[verb, &["--model", &model], &adapters[..]].concat(), parts);
        };
        let with = |weight: &str| format!("{adapter}:{weight}");
        for weight in ["inf", "NaN", "0", "1e60"] {
            of(&[&with(weight)], &["must be finite and not 0"]);
        }
        of(&[&with("half")], &["`half` is not a number"]);
        of(&[&adapter, &with("0.5")], &["is given twice", ":1.5 is both together"]);
        of(&["run", "./run"], &["is given twice"]);
        of(&[&adapter, &other], &["the model needs"]);
        of(&["nowhere:0.5"], &["nowhere"]);
        assert!(!at.join("out").exists() && !at.join("out.partial").exists());
    }
    // Where a folder has such a name it is meant.
    fs::rename(at.join("run"), at.join("run:2")).expect("moved");
    let named = loss(at, &["--model", &model, "--adapter", "run:2"]);
    fs::rename(at.join("run:2"), at.join("run")).expect("moved");
    assert_eq!(named, loss(at, &["--model", &model, "--adapter", "run"]));
    let chat = lorafit(at, &["chat", "--model", &model, "--adapter", "a=run:inf"]);
    let said = String::from_utf8(chat.stderr).expect("text");
    assert!(!chat.status.success() && said.contains("the weight `inf` must be finite"), "{said}");
}

#[test]
fn an_adapter_that_is_in_the_weights_is_told_of() {
    let dir = place(4);
    let at = dir.path();
    let (model, adapter) = (fixture("models/chat_bpe"), fixture("models/chat_bpe/adapter"));
    well(at, &["merge", "--model", &model, "--adapter", &adapter, "--out", "merged"]);
    let eval = ["eval", "--model", "merged", "--data", "rows.jsonl", "--adapter", &adapter];
    assert!(told(at, &eval).contains("is merged into merged already (its merge.json says so)"));
    assert!(
        !told(at, &["eval", "--model", &model, "--data", "rows.jsonl", "--adapter", &adapter])
            .contains("already")
    );
    let export = ["export", "--to", "gguf", "--model", "merged", "--adapter", &adapter, "--out", "x.gguf"];
    refused(at, &export, &["is merged into merged already"]);
    assert!(!at.join("x.gguf").exists());
    // A GGUF file says it in its metadata.
    well(at, &["export", "--to", "gguf", "--model", &model, "--adapter", &adapter, "--out", "merged.gguf"]);
    let again =
        ["export", "--to", "gguf", "--model", "merged.gguf", "--adapter", &adapter, "--out", "x.gguf"];
    refused(at, &again, &["is merged into merged.gguf already (its metadata says so)"]);
    let merge = ["merge", "--model", "merged.gguf", "--adapter", &adapter, "--out", "x"];
    refused(at, &merge, &["is merged into merged.gguf already"]);
}

#[test]
fn an_adapter_beside_the_tokenizer_of_another_model_is_told_of() {
    let dir = place(4);
    let at = dir.path();
    let model = fixture("models/chat_bpe");
    well(at, &train(&model, "run", &["--quiet"]));
    let merge = |out: &str| told(at, &["merge", "--model", &model, "--adapter", "run", "--out", out]);
    assert!(!merge("a").contains("another model"));
    fs::copy(Path::new(&fixture("models/chat_spm")).join("tokenizer.json"), at.join("run/tokenizer.json"))
        .expect("copied");
    assert!(merge("b").contains("run has the tokenizer of another model beside it"));
}

#[test]
fn what_readers_take_is_told_with_the_command_that_makes_it_fit() {
    let dir = place(4);
    let at = dir.path();
    let model = fixture("models/chat_bpe");
    let run = |out: &str, more: &[&str]| well(at, &train(&model, out, &[&["--quiet"], more].concat()));
    run("plain", &["--base-name", "org/tiny"]);
    run("upper", &["--layers", "1", "--base-name", "m.gguf.folder"]);
    let check =
        |to: &str, adapter: &str| lorafit(at, &["export", "--to", to, "--check", "--adapter", adapter]);
    for to in ["vllm", "tgi", "transformers", "peft", "mlx", "gguf", "gguf-lora"] {
        let output = check(to, "plain");
        assert!(output.status.success(), "{to}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains(" takes plain: "), "{to}");
    }
    let of_tgi = ["export", "--to", "tgi", "--check", "--adapter", "upper"];
    refused(
        at,
        &of_tgi,
        &["TGI, LoRAX does not take upper: ", "is adapted in 1 of 2 layers", "hint: lorafit merge --model "],
    );
    let output = lorafit(at, &[&of_tgi[..], &["--json"]].concat());
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&found["takes"], &found["reader"]), (&json!(false), &json!("tgi")));
    assert!(!output.status.success());
    // The command that is told works.
    let command = found["command"].as_str().expect("a command").to_owned();
    let words: Vec<&str> = command.split_whitespace().skip(1).collect();
    well(at, &words);
    assert!(at.join("upper-merged/config.json").is_file());

    let shown: Value = serde_json::from_str(&well(at, &["inspect", "plain", "--json"])).expect("JSON");
    let readers = shown["readers"].as_array().expect("a list");
    assert!(readers.len() == 6 && readers.iter().all(|reader| reader["takes"] == json!(true)), "{readers:?}");
    let text = well(at, &["inspect", "upper"]);
    assert!(
        text.contains("\nvLLM                yes: vllm serve ")
            && text.contains("\nTGI, LoRAX          no: "),
        "{text}"
    );

    refused(
        at,
        &["export", "--to", "vllm", "--model", &model, "--adapter", "plain", "--out", "x"],
        &["--to vllm writes nothing"],
    );
    refused(at, &["export", "--to", "vllm", "--check"], &["--adapter is missing"]);
    refused(
        at,
        &["export", "--to", "vllm", "--check", "--adapter", "plain", "--adapter", "upper"],
        &["looks at one --adapter"],
    );
    refused(
        at,
        &["export", "--to", "vllm", "--check", "--adapter", "plain", "--model", &fixture("models/llama")],
        &["the adapter does not fit"],
    );
    let flags = [
        "export",
        "--to",
        "mlx",
        "--model",
        &model,
        "--adapter",
        "plain",
        "--out",
        "x",
        "--base-name",
        "a/b",
    ];
    refused(at, &flags, &["--base-name is of --to peft only"]);
}

#[test]
fn a_smaller_rank_is_written_with_what_it_lacks() {
    let dir = place(4);
    let at = dir.path();
    let model = fixture("models/chat_bpe");
    let adapter = fixture("models/chat_bpe/adapter");
    let shrink = |rank: &str, out: &str| -> Value {
        let flags = ["inspect", &adapter, "--shrink-rank", rank, "--out", out, "--json"];
        serde_json::from_str(&well(at, &flags)).expect("JSON")
    };
    let told = shrink("2", "two");
    let error = told["relative_error"].as_f64().expect("a number");
    assert!(error > 0.01 && error < 1.0, "{error}");
    assert!(told["worst_relative_error"].as_f64() >= told["median_relative_error"].as_f64());
    assert_eq!(told["layers"].as_array().map(Vec::len), Some(14));
    let config = json_of(at.join("two/adapter_config.json"));
    assert_eq!(config["r"], 2);
    let of = |adapter: &str| loss(at, &["--model", &model, "--adapter", adapter]);
    let (whole, two, base) = (of(&adapter), of("two"), loss(at, &["--model", &model]));
    assert!(two != whole && two != base, "{whole} {two} {base}");
    // Of rank 2 there is nothing left out a second time.
    let text = well(at, &["inspect", "two", "--shrink-rank", "1", "--out", "one"]);
    assert!(text.contains("rank 2 made 1 in 14 layers, written to one"), "{text}");
    assert!(text.contains("in parts of ||dW||_F: ") && text.contains(" at most (model.layers."), "{text}");
    refused(at, &["inspect", "two", "--shrink-rank", "2", "--out", "x"], &["rank 2 in all layers already"]);
    refused(at, &["inspect", &adapter, "--shrink-rank", "2", "--out", "two"], &["two is not empty"]);
    refused(at, &["inspect", "two", "--shrink-rank", "1", "--out", "two"], &["what is read"]);
    for flags in [&["--shrink-rank", "0", "--out", "x"][..], &["--shrink-rank", "1"], &["--out", "x"]] {
        let output = lorafit(at, &[&["inspect", "two"], flags].concat());
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
    }
    assert!(!at.join("x").exists());
}
