//! `merge` by the binary: what it writes answers as base and adapter do, and what it cannot merge is refused first.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::common::{lorafit, place, well};

/// A file or folder of `fixtures`.
fn fixture(name: &str) -> String {
    format!("{}/../../fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// `merge --model model --adapter adapter --out out` with further flags; the JSON it prints.
fn merge(place: &Path, model: &str, adapter: &str, out: &str, more: &[&str]) -> Value {
    let flags = ["merge", "--json", "--model", model, "--adapter", adapter, "--out", out];
    serde_json::from_str(&well(place, &[&flags[..], more].concat())).expect("JSON")
}

/// What such a command says when it fails; nothing may be left of `out`.
fn refused(place: &Path, flags: &[&str]) -> String {
    let output = lorafit(place, &[&["merge"], flags].concat());
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success() && told.starts_with("error: "), "{flags:?}: {told}");
    for left in ["out", "out.partial"] {
        assert!(!place.join(left).join("config.json").exists(), "{flags:?} left {left}");
    }
    told
}

/// Loss and answers on the rows.
fn judged(place: &Path, flags: &[&str]) -> (f64, Vec<Value>) {
    let fixed = [
        "eval",
        "--data",
        "rows.jsonl",
        "--json",
        "--quiet",
        "--generate",
        "--max-new-tokens",
        "8",
        "--predictions",
        "answers.jsonl",
    ];
    let json: Value = serde_json::from_str(&well(place, &[&fixed[..], flags].concat())).expect("JSON");
    let answers = fs::read_to_string(place.join("answers.jsonl")).expect("answers");
    let answer = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["answer"].clone();
    (json["loss"].as_f64().expect("a loss"), answers.lines().map(answer).collect())
}

/// Loss and answers of `merged` are those of `model` with `adapter`.
fn answers_alike(place: &Path, model: &str, adapter: &str, merged: &str) {
    let (expected, answers) = judged(place, &["--model", model, "--adapter", adapter]);
    let (base, _) = judged(place, &["--model", model]);
    assert!((base - expected).abs() > 1e-3, "{model}: the adapter changes nothing");
    let (found, found_answers) = judged(place, &["--model", merged]);
    assert!((found - expected).abs() < 1e-5 * expected, "{model}: {found}, expected {expected}");
    assert_eq!(found_answers, answers, "{model}");
}

/// The tensors of a model folder by name: shape, type and bytes.
fn tensors(dir: &Path) -> Vec<(String, String, Vec<u8>)> {
    let mut found = Vec::new();
    for path in files(dir).into_iter().filter(|path| path.extension().is_some_and(|e| e == "safetensors")) {
        let bytes = fs::read(path).expect("a file");
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight")) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
        for (name, entry) in header.as_object().expect("by name") {
            if name != "__metadata__" {
                let at = |i: usize| 8 + length + entry["data_offsets"][i].as_u64().expect("one") as usize;
                let kind = format!("{} {}", entry["dtype"], entry["shape"]);
                found.push((name.clone(), kind, bytes[at(0)..at(1)].to_vec()));
            }
        }
    }
    found.sort();
    found
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir).expect("a folder").map(|e| e.expect("one").path()).collect();
    files.sort();
    files
}

#[test]
fn a_merged_folder_answers_as_base_and_adapter_do() {
    let place = place(6);
    let place = place.path();
    for (i, (model, adapter)) in [
        ("models/chat_bpe", "models/chat_bpe/adapter"),
        ("gguf/chat_bpe-f32.gguf", "models/chat_bpe/adapter"),
        ("gguf/chat_spm-f32.gguf", "models/chat_spm/adapter"),
    ]
    .into_iter()
    .enumerate()
    {
        let (model, adapter, out) = (fixture(model), fixture(adapter), format!("out{i}"));
        let told = merge(place, &model, &adapter, &out, &[]);
        assert_eq!((&told["tensors_changed"], &told["dtype"]), (&json!(14), &json!("float32")));
        answers_alike(place, &model, &adapter, &out);
        let config: Value =
            serde_json::from_slice(&fs::read(place.join(&out).join("config.json")).expect("one"))
                .expect("JSON");
        assert_eq!(config["torch_dtype"], "float32");
        for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "merge.json"] {
            assert!(place.join(&out).join(name).is_file(), "{out}: {name}");
        }
    }
}

#[test]
fn a_base_in_four_or_eight_bits_needs_a_choice() {
    let place = place(6);
    let place = place.path();
    let (plain, adapter) = (fixture("models/chat_bpe"), fixture("models/chat_bpe/adapter"));
    for (quant, told) in [("nf4", "nf4 of bitsandbytes"), ("int8", "int8 of bitsandbytes")] {
        let model = format!("model-{quant}");
        well(place, &["quantize", "--model", &plain, "--quant", quant, "--out", &model]);
        let flags = ["--model", &model, "--adapter", &adapter, "--out", "out"];
        let error = refused(place, &flags);
        for part in [told, "--merge-into stored adds it to", "--base ORIGINAL adds it to"] {
            assert!(error.contains(part), "{error}");
        }
        let (stored, half) = (format!("{quant}-stored"), format!("{quant}-half"));
        merge(place, &model, &adapter, &stored, &["--merge-into", "stored", "--dtype", "f32"]);
        answers_alike(place, &model, &adapter, &stored);
        let told =
            merge(place, &model, &adapter, &half, &["--merge-into", "stored", "--check", "rows.jsonl"]);
        assert_eq!(told["dtype"], "bfloat16");
        assert!(tensors(&place.join(&half)).iter().all(|(_, kind, _)| kind.contains("BF16")));
        // As much as the same rounding changes of the base that is not quantised, twice at most.
        let largest = |told: &Value| told["check"]["largest_logit_difference"].as_f64().expect("a number");
        let check = ["--dtype", "bf16", "--check", "rows.jsonl"];
        let rounded = largest(&merge(place, &plain, &adapter, &format!("{quant}-plain"), &check));
        assert!(largest(&told) > 0.0 && largest(&told) < 2.0 * rounded, "{} {rounded}", largest(&told));
        let config = fs::read_to_string(place.join(&half).join("config.json")).expect("one");
        assert!(!config.contains("quantization_config"), "{config}");
    }
    let into_base = merge(place, "model-nf4", &adapter, "base", &["--base", &plain]);
    assert_eq!(into_base["dtype"], "float32");
    merge(place, &plain, &adapter, "direct", &[]);
    assert!(tensors(&place.join("base")) == tensors(&place.join("direct")));
    let flags = ["--model", &plain, "--base", "model-nf4", "--adapter", &adapter, "--out", "out"];
    assert!(refused(place, &flags).contains("--base model-nf4 is stored in nf4 of bitsandbytes itself"));
}

#[test]
fn a_folder_that_bitsandbytes_wrote_is_merged_into_its_stored_values() {
    let place = place(6);
    let place = place.path();
    let (model, adapter) = (fixture("cases/model_bnb_storage/model"), fixture("models/chat_bpe/adapter"));
    merge(place, &model, &adapter, "out", &["--merge-into", "stored", "--dtype", "f32"]);
    answers_alike(place, &model, &adapter, "out");
}

#[test]
fn a_quantised_gguf_file_needs_a_choice_too() {
    let place = place(6);
    let place = place.path();
    let (model, adapter) = (fixture("gguf/llama-q8_0.gguf"), fixture("models/llama/adapter"));
    let error = refused(place, &["--model", &model, "--adapter", &adapter, "--out", "out"]);
    assert!(error.contains("is stored in Q8_0, so say which weights"), "{error}");
    let original = fixture("models/llama");
    merge(place, &model, &adapter, "based", &["--base", &original]);
    merge(place, &original, &adapter, "direct", &[]);
    assert!(tensors(&place.join("based")) == tensors(&place.join("direct")));
}

#[test]
fn shards_hold_what_one_file_does() {
    let place = place(6);
    let place = place.path();
    let (model, adapter) = (fixture("models/chat_bpe"), fixture("models/chat_bpe/adapter"));
    merge(place, &model, &adapter, "one", &["--dtype", "bf16"]);
    merge(place, &model, &adapter, "many", &["--dtype", "bf16", "--shard-size", "20KB"]);
    let (one, many) = (place.join("one"), place.join("many"));
    assert!(tensors(&one) == tensors(&many));
    assert!(one.join("model.safetensors").is_file() && !many.join("model.safetensors").exists());
    let index = fs::read(many.join("model.safetensors.index.json")).expect("an index");
    let index: Value = serde_json::from_slice(&index).expect("JSON");
    let map = index["weight_map"].as_object().expect("by name");
    assert_eq!(map.len(), tensors(&one).len());
    assert!(map.values().all(|file| many.join(file.as_str().expect("a name")).is_file()));
    let (expected, answers) = judged(place, &["--model", "one"]);
    assert_eq!(judged(place, &["--model", "many"]), (expected, answers));
    // The values as they are stored in 16 bits are within half a step of those in 32.
    merge(place, &model, &adapter, "half", &["--dtype", "f16"]);
    assert!(tensors(&place.join("half")).iter().all(|(_, kind, _)| kind.contains("F16")));
}

#[test]
fn several_adapters_are_added_by_their_weights() {
    let place = place(6);
    let place = place.path();
    let (model, adapter) = (fixture("models/chat_bpe"), fixture("models/chat_bpe/adapter"));
    // The same adapter in two folders: one folder is not taken twice.
    fs::create_dir(place.join("twin")).expect("made");
    for file in files(Path::new(&adapter)) {
        fs::copy(&file, place.join("twin").join(file.file_name().expect("a name"))).expect("copied");
    }
    let (most, rest) = (format!("{adapter}:0.75"), "twin:0.25".to_owned());
    merge(place, &model, &most, "both", &["--adapter", &rest]);
    answers_alike(place, &model, &adapter, "both");
    // Of one adapter twice, factors by themselves give (sqrt(0.75) + sqrt(0.25))^2 of it.
    merge(place, &model, &most, "linear", &["--adapter", &rest, "--method", "linear"]);
    merge(place, &model, &format!("{adapter}:1.8660254037844386"), "expected", &[]);
    let (found, _) = judged(place, &["--model", "linear"]);
    let (expected, _) = judged(place, &["--model", "expected"]);
    assert!((found - expected).abs() < 1e-5 * expected, "{found} {expected}");
    let dare = ["--adapter", &rest, "--method", "dare-ties", "--density", "0.4", "--seed"];
    merge(place, &model, &most, "dare1", &[&dare[..], &["1"]].concat());
    merge(place, &model, &most, "again", &[&dare[..], &["1"]].concat());
    merge(place, &model, &most, "dare2", &[&dare[..], &["2"]].concat());
    let weights = |out: &str| tensors(&place.join(out));
    assert!(weights("dare1") == weights("again") && weights("dare1") != weights("dare2"));
}

#[test]
fn what_was_merged_is_written_down_and_not_merged_again() {
    let place = place(6);
    let place = place.path();
    let (model, adapter) = (fixture("models/chat_bpe"), fixture("models/chat_bpe/adapter"));
    let told = merge(place, &model, &adapter, "merged", &["--check", "rows.jsonl", "--limit", "3"]);
    assert_eq!(told["check"]["rows"], 3);
    assert!(told["check"]["largest_logit_difference"].as_f64().expect("a number") < 1e-3);
    assert_eq!(told["check"]["same_likeliest_token"], told["check"]["tokens"]);
    let error = refused(place, &["--model", "merged", "--adapter", &adapter, "--out", "out"]);
    assert!(error.contains("is merged into merged already"), "{error}");
    let text = well(place, &["merge", "--model", &model, "--adapter", &adapter, "--out", "out"]);
    assert!(text.contains("14 of ") && text.contains("use it: lorafit chat --model out"), "{text}");
}

#[test]
fn a_run_over_a_quantised_base_is_told_of() {
    let place = place(6);
    let place = place.path();
    let (model, template) = (fixture("models/chat_bpe"), "chatml");
    let run = ["train", "--model", &model, "--data", "rows.jsonl", "--out", "run", "--max-steps", "1"];
    well(place, &[&run[..], &["--quant", "nf4", "--double-quant", "--template", template]].concat());
    let output = lorafit(place, &["merge", "--model", &model, "--adapter", "run", "--out", "out"]);
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{told}");
    for part in
        ["run was trained over its base in nf4 --double-quant", "--merge-into stored", "--template chatml"]
    {
        assert!(told.contains(part), "{told}");
    }
    merge(place, &model, "run", "chatml", &["--template", template]);
    let written = fs::read_to_string(place.join("chatml/chat_template.jinja")).expect("a template");
    assert!(written.contains("<|im_start|>"), "{written}");
}

#[test]
fn what_cannot_be_merged_is_refused_before_anything_is_written() {
    let place = place(6);
    let place = place.path();
    let (model, adapter) = (fixture("models/chat_bpe"), fixture("models/chat_bpe/adapter"));
    let of = |adapter: &str, more: &[&str]| {
        let flags = ["--model", &model, "--adapter", adapter, "--out", "out"];
        refused(place, &[&flags[..], more].concat())
    };
    let other = of(&fixture("models/llama/adapter"), &[]);
    assert!(other.contains("the model needs") && other.contains("made for llama"), "{other}");
    assert!(of("nowhere", &[]).contains("adapter_config.json"));
    assert!(of("nowhere:0.5", &[]).contains("nowhere: there is no such folder"));
    assert!(of(&model, &[]).contains("a model's folder, not an adapter's"));
    assert!(of(&format!("{adapter}:half"), &[]).contains("`half` is not a number"));
    assert!(of(&format!("{adapter}:0"), &[]).contains("must be finite and not 0"));
    assert!(of(&adapter, &["--density", "0.5"]).contains("cat and linear keep every value"));
    assert!(of(&adapter, &["--method", "ties"]).contains("several adapters"));
    let ties = ["--adapter", "nowhere", "--method", "ties", "--density"];
    assert!(of(&adapter, &[&ties[..], &["0"]].concat()).contains("must be above 0"));
    let based = of(&adapter, &["--base", &fixture("models/llama")]);
    assert!(based.contains("hidden size 64, but") && based.contains("has 32"), "{based}");
    assert!(of(&adapter, &["--check", "no.jsonl"]).contains("no.jsonl"));
    let none = lorafit(place, &["merge", "--model", &model, "--out", "out"]);
    assert!(!none.status.success() && String::from_utf8_lossy(&none.stderr).contains("--adapter"));
    // Ranks that differ: an adapter of another rank over the same base.
    let run = ["train", "--model", &model, "--data", "rows.jsonl", "--out", "run", "--max-steps", "1"];
    well(place, &[&run[..], &["--rank", "3", "--target-modules", "all-linear"]].concat());
    assert!(of(&adapter, &["--adapter", &format!("{adapter}:2")]).contains("is given twice"));
    let ranks = of(&adapter, &["--adapter", "run", "--method", "linear"]);
    assert!(ranks.contains("has rank 4 in one adapter and 3 in another"), "{ranks}");
    assert!(ranks.contains("--method cat takes adapters of any ranks"), "{ranks}");
}

#[test]
fn only_a_new_folder_or_a_model_folder_is_written_to() {
    let place = place(6);
    let place = place.path();
    let (model, adapter) = (fixture("models/chat_bpe"), fixture("models/chat_bpe/adapter"));
    let into = |out: &str, more: &[&str]| {
        let flags = ["merge", "--model", &model, "--adapter", &adapter, "--out", out];
        let output = lorafit(place, &[&flags[..], more].concat());
        assert!(!output.status.success(), "{out}");
        String::from_utf8(output.stderr).expect("text")
    };
    assert!(into(&model, &["--overwrite"]).contains("which is read"));
    assert!(into(&adapter, &["--overwrite"]).contains("which is read"));
    fs::create_dir(place.join("mine")).expect("made");
    fs::write(place.join("mine/thesis.docx"), "years").expect("written");
    assert!(into("mine", &[]).contains("mine is not empty"));
    assert!(
        into("mine", &["--overwrite"]).contains("has thesis.docx, which is not a file of a model folder")
    );
    assert!(into("rows.jsonl", &[]).contains("is a file"));
    assert_eq!(fs::read_to_string(place.join("mine/thesis.docx")).expect("there"), "years");
    fs::create_dir(place.join("empty")).expect("made");
    merge(place, &model, &adapter, "empty", &[]);
    assert!(into("empty", &[]).contains("empty is not empty"));
    merge(place, &model, &adapter, "empty", &["--overwrite", "--dtype", "bf16"]);
    assert!(tensors(&place.join("empty")).iter().all(|(_, kind, _)| kind.contains("BF16")));
    let names: Vec<PathBuf> = files(place).into_iter().filter(|path| path.is_dir()).collect();
    assert_eq!(names, ["empty", "mine"].map(|name| place.join(name)), "something is left");
}

#[test]
fn values_beyond_half_precision_are_told_and_nothing_is_left() {
    let place = place(6);
    let place = place.path();
    let (model, adapter) =
        (fixture("models/chat_bpe"), format!("{}:1e6", fixture("models/chat_bpe/adapter")));
    let flags = ["--model", &model, "--adapter", &adapter, "--out", "out", "--dtype", "f16"];
    let error = refused(place, &flags);
    assert!(error.contains("is beyond float16") && error.contains("--dtype bf16"), "{error}");
    assert!(!place.join("out").exists() && !place.join("out.partial").exists());
}

/// From the flag to what is handed on.
#[test]
fn an_adapter_with_magnitudes_is_trained_merged_and_exported() {
    let place = place(12);
    let place = place.path();
    let model = fixture("models/chat_bpe");
    let train = ["train", "--model", &model, "--data", "rows.jsonl", "--out", "run", "--dora"];
    well(place, &[&train[..], &["--max-steps", "4", "--lr", "0.02", "--quiet"]].concat());
    let config = fs::read_to_string(place.join("run/adapter_config.json")).expect("one");
    assert!(config.contains("\"use_dora\": true"), "{config}");
    let card = fs::read_to_string(place.join("run/README.md")).expect("one");
    assert!(card.contains("with magnitudes (DoRA)") && card.contains("lorafit merge"), "{card}");

    let told = merge(place, &model, "run", "merged", &["--dtype", "f32", "--check", "rows.jsonl"]);
    assert!(told["check"]["largest_logit_difference"].as_f64().expect("a number") < 1e-4, "{told}");
    answers_alike(place, &model, "run", "merged");

    let said = refused(place, &["--model", &model, "--adapter", "run:0.5", "--out", "out"]);
    assert!(said.contains("magnitudes (DoRA)") && said.contains("hint: "), "{said}");
    for to in ["gguf-lora", "mlx"] {
        let output =
            lorafit(place, &["export", "--to", to, "--model", &model, "--adapter", "run", "--out", "x.gguf"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("DoRA") && said.contains("merge"), "{to}: {said}");
    }
    // It goes on, and brings its magnitudes.
    let on = ["train", "--model", &model, "--data", "rows.jsonl", "--out", "on", "--adapter", "run"];
    well(place, &[&on[..], &["--max-steps", "2", "--quiet"]].concat());
    let said = lorafit(place, &[&train[..6], &["other", "--dora", "--dropout", "0.1"]].concat());
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("--dora --dropout 0.1") && said.contains("leave one of them out"), "{said}");
}

/// From the flag to what is handed on. Head and embedding are one in this base.
#[test]
fn an_adapter_with_whole_weights_is_trained_merged_and_exported() {
    let place = place(12);
    let place = place.path();
    let model = fixture("models/chat_bpe");
    let train =
        ["train", "--model", &model, "--data", "rows.jsonl", "--max-steps", "4", "--lr", "0.02", "--quiet"];
    well(place, &[&train[..], &["--out", "run", "--save-modules", "embed_tokens,norms"]].concat());
    let config = fs::read_to_string(place.join("run/adapter_config.json")).expect("one");
    let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    let names = ["embed_tokens", "input_layernorm", "post_attention_layernorm", "norm"];
    assert_eq!(config["modules_to_save"], serde_json::json!(names), "{config}");
    let card = fs::read_to_string(place.join("run/README.md")).expect("one");
    assert!(
        card.contains("whole: embed_tokens, input_layernorm") && card.contains("lorafit merge"),
        "{card}"
    );
    let inspected = lorafit(place, &["inspect", "run", "--json"]);
    let inspected: serde_json::Value = serde_json::from_slice(&inspected.stdout).expect("JSON");
    assert!(
        inspected["beside"][0].as_str().is_some_and(|text| text.starts_with("modules_to_save")),
        "{inspected}"
    );
    let shape = fs::read_to_string(Path::new(&model).join("config.json")).expect("one");
    let shape: serde_json::Value = serde_json::from_str(&shape).expect("JSON");
    let [vocab, hidden] = ["vocab_size", "hidden_size"].map(|key| shape[key].as_u64().expect("a number"));
    assert!(inspected["trainable_parameters"].as_u64().expect("a number") > vocab * hidden, "{inspected}");

    let told = merge(place, &model, "run", "merged", &["--dtype", "f32", "--check", "rows.jsonl"]);
    assert!(told["check"]["largest_logit_difference"].as_f64().expect("a number") < 1e-4, "{told}");
    let merged = fs::read_to_string(place.join("merged/config.json")).expect("one");
    assert!(merged.contains("\"tie_word_embeddings\": false"), "{merged}");
    answers_alike(place, &model, "run", "merged");
    well(
        place,
        &["export", "--to", "gguf", "--model", &model, "--adapter", "run", "--out", "merged.gguf", "--quiet"],
    );
    answers_alike(place, &model, "run", "merged.gguf");

    let said = refused(place, &["--model", &model, "--adapter", "run:0.7", "--out", "out"]);
    assert!(said.contains("whole weights (modules_to_save)") && said.contains("hint: "), "{said}");
    for to in ["gguf-lora", "mlx"] {
        let output =
            lorafit(place, &["export", "--to", to, "--model", &model, "--adapter", "run", "--out", "x.gguf"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains("modules_to_save") && said.contains("merge"),
            "{to}: {said}"
        );
    }
    // It goes on, and brings its weights.
    well(place, &[&train[..], &["--out", "on", "--adapter", "run"]].concat());
    let on = fs::read_to_string(place.join("on/adapter_config.json")).expect("one");
    assert!(on.contains("post_attention_layernorm"), "{on}");
    let said = lorafit(place, &[&train[..], &["--out", "other", "--save-modules", "q_proj"]].concat());
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("`q_proj` cannot be trained whole") && said.contains("lm_head, norms"), "{said}");
}

/// From the flag to what is handed on: over a head that is the embedding and one of its own, neither with a free row.
#[test]
fn an_adapter_with_new_tokens_is_trained_resumed_merged_and_exported() {
    for (model, tied, in_gguf) in [("chat_bpe", true, true), ("chat_spm", false, false)] {
        let place = place(12);
        let place = place.path();
        let model = fixture(&format!("models/{model}"));
        fs::write(place.join("tokens.txt"), "why\n<unsaid>\n").expect("written");
        let train = ["train", "--model", &model, "--data", "rows.jsonl", "--max-steps", "4", "--lr", "0.02"];
        let said = lorafit(place, &[&train[..], &["--out", "run", "--new-tokens", "tokens.txt"]].concat());
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.contains("2 new tokens: \"why\" (320), \"<unsaid>\" (321)"), "{said}");
        assert!(said.contains("the adapter brings 2 rows more"), "{said}");
        let read = |path: &str| -> Value {
            serde_json::from_str(&fs::read_to_string(place.join(path)).expect("one")).expect("JSON")
        };
        let both = json!({"embed_tokens": [320, 321], "lm_head": [320, 321]});
        let expected = if tied { json!([320, 321]) } else { both };
        assert_eq!(read("run/adapter_config.json")["trainable_token_indices"], expected);
        let token = json!({
            "id": 320, "content": "why", "single_word": false, "lstrip": false, "rstrip": false, "normalized": true,
            "special": false
        });
        let written = read("run/tokenizer.json");
        assert!(written["added_tokens"].as_array().expect("a list").contains(&token), "{written}");
        // What the tokens are does not depend on the file.
        let config = fs::read_to_string(place.join("run/config.toml")).expect("one");
        assert!(config.contains(r#"new-tokens = ["why", "<unsaid>"]"#), "{config}");
        fs::remove_file(place.join("tokens.txt")).expect("there");
        let card = fs::read_to_string(place.join("run/README.md")).expect("one");
        assert!(card.contains("rows of 2 tokens") && card.contains("lorafit merge"), "{card}");
        let inspected = lorafit(place, &["inspect", "run", "--json"]);
        let inspected: Value = serde_json::from_slice(&inspected.stdout).expect("JSON");
        let beside = inspected["beside"].to_string();
        assert!(beside.contains("rows of 2 tokens were trained"), "{inspected}");

        let told = merge(place, &model, "run", "merged", &["--dtype", "f32", "--check", "rows.jsonl"]);
        assert!(told["check"]["largest_logit_difference"].as_f64().expect("a number") < 1e-4, "{told}");
        assert_eq!(read("merged/config.json")["vocab_size"], 322);
        assert_eq!(read("merged/config.json")["tie_word_embeddings"], tied);
        assert!(read("merged/tokenizer.json")["added_tokens"].to_string().contains("<unsaid>"));
        let of_matrix = |name: &str| {
            tensors(&place.join("merged"))
                .into_iter()
                .any(|(n, kind, _)| n == name && kind.contains("[322,32]"))
        };
        assert!(of_matrix("model.embed_tokens.weight") && of_matrix("lm_head.weight") != tied);
        answers_alike(place, &model, "run", "merged");
        let export =
            ["export", "--to", "gguf", "--model", &model, "--adapter", "run", "--out", "merged.gguf"];
        let said = lorafit(place, &export);
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert_eq!(!said.contains("is found in other places"), in_gguf, "{said}");
        if in_gguf {
            answers_alike(place, &model, "run", "merged.gguf");
            // Over a GGUF file the tokens are added to its own.
            let base = ["export", "--to", "gguf", "--model", &model, "--out", "base.gguf", "--quiet"];
            well(place, &base);
            let export =
                ["export", "--to", "gguf", "--model", "base.gguf", "--adapter", "run", "--out", "again.gguf"];
            well(place, &export);
            answers_alike(place, "base.gguf", "run", "again.gguf");
        }
        let said = refused(place, &["--model", &model, "--adapter", "run:0.7", "--out", "out"]);
        assert!(
            said.contains("rows of tokens (trainable_token_indices)") && said.contains("hint: "),
            "{said}"
        );
        for to in ["gguf-lora", "mlx"] {
            let flags = ["export", "--to", to, "--model", &model, "--adapter", "run", "--out", "x.gguf"];
            let output = lorafit(place, &flags);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && said.contains("trainable_token_indices"), "{to}: {said}");
        }
        // It goes on, and brings its tokens; a comparison cuts rows as each adapter does.
        well(place, &[&train[..], &["--quiet", "--out", "on", "--adapter", "run"]].concat());
        assert_eq!(read("on/adapter_config.json")["trainable_token_indices"], expected);
        assert!(read("on/tokenizer.json")["added_tokens"].to_string().contains("<unsaid>"));
        let plain = [&train[..], &["--quiet", "--out", "plain"]].concat();
        well(place, &plain);
        well(place, &["compare", "--runs", "run", "plain", "--data", "rows.jsonl", "--quiet"]);
        // A checkpoint has the tokens of its run.
        let checkpoint =
            fs::read_dir(place.join("run/checkpoints")).expect("some").flatten().next().expect("one");
        let checkpoint = checkpoint.path().to_string_lossy().into_owned();
        answers_alike(place, &model, &checkpoint, "merged");
    }
}

#[test]
fn new_tokens_that_make_no_sense_are_refused() {
    let place = place(12);
    let place = place.path();
    let model = fixture("models/chat_bpe");
    let train = ["train", "--model", &model, "--data", "rows.jsonl", "--max-steps", "1", "--out", "x"];
    let tokens = ["--new-tokens", "<a>,<b>"];
    for (more, expected) in [
        (&["--new-tokens", "<a>,<a>"][..], "\"<a>\" is given twice"),
        (&["--new-tokens", ","], "no tokens are given"),
        (&["--new-tokens", "absent.txt"], "there is no such file"),
        (&["--new-tokens", "<|im_end|>"], "is a special token of the model"),
        (&["--new-tokens", "<a>,<b>", "--method", "full"], "no meaning with --method full"),
        (&["--new-tokens", "<a>", "--save-modules", "embed_tokens"], "trained twice"),
        (&["--new-tokens", "<a>", "--target-modules", "q_proj,lm_head"], "trained twice"),
    ] {
        let output = lorafit(place, &[&train[..], more].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(expected), "{more:?}: {said}");
        assert!(!place.join("x/adapter_config.json").exists());
    }
    // Norms are trained beside them, and a token that is there already has its own row.
    let more = ["--new-tokens", "<a>,e", "--save-modules", "norms"];
    let said = lorafit(place, &[&train[..], &more].concat());
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("is a token of the model already, and its row is trained as it stands"), "{said}");
    let said = lorafit(place, &[&train[..7], &["--out", "y", "--adapter", "x"], &tokens].concat());
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("--new-tokens has no meaning with --adapter"), "{said}");
    let plan = |more: &[&str]| -> u64 {
        let output = lorafit(place, &[&["plan", "--model", &model, "--json"], more].concat());
        let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        plan["trainable_parameters"].as_u64().expect("a number")
    };
    assert_eq!(plan(&["--new-tokens", "5"]), plan(&[]) + 5 * 32);
}

/// Of a base whose head is its embedding: each side is adapted by itself.
#[test]
fn factors_of_embedding_and_head_are_trained_merged_and_exported() {
    let place = place(12);
    let place = place.path();
    let model = fixture("models/chat_bpe");
    let train =
        ["train", "--model", &model, "--data", "rows.jsonl", "--max-steps", "4", "--lr", "0.02", "--quiet"];
    let targets = ["--target-modules", "q_proj,lm_head,embed_tokens"];
    well(place, &[&train[..], &targets, &["--out", "run"]].concat());
    let config = fs::read_to_string(place.join("run/adapter_config.json")).expect("one");
    assert!(config.contains("\"lm_head\""), "{config}");
    let told = merge(place, &model, "run", "merged", &["--dtype", "f32", "--check", "rows.jsonl"]);
    assert!(told["check"]["largest_logit_difference"].as_f64().expect("a number") < 1e-4, "{told}");
    let merged = fs::read_to_string(place.join("merged/config.json")).expect("one");
    assert!(merged.contains("\"tie_word_embeddings\": false"), "{merged}");
    answers_alike(place, &model, "run", "merged");
    let said = refused(place, &["--model", &model, "--adapter", "run:0.7", "--out", "out"]);
    assert!(said.contains("adapter of lm_head") && said.contains("hint: "), "{said}");
    for (more, why) in [(["--dropout", "0.1"], "without dropout"), (["--layers", "0"], "belong to no layer")]
    {
        let output = lorafit(place, &[&train[..], &targets, &["--out", "other"], &more].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why) && said.contains("hint: "), "{said}");
    }
}
