//! Models and adapters as the files of other programs: what is written is read back as the same, and what has no form there
//! is an error before anything is written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures");
const ROWS: &str = r#"{"messages": [{"role": "user", "content": "why is the sky blue"}, {"role": "assistant", "content": "it scatters"}]}"#;

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Place(TempDir::new().expect("a folder"));
        fs::write(place.path("rows.jsonl"), format!("{ROWS}\n")).expect("written");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lorafit"));
        command.current_dir(self.0.path()).env("OLLAMA_MODELS", self.path("ollama"));
        command.args(arguments).args(["--threads", "1"]).output().expect("starts")
    }

    fn well(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    fn error(&self, arguments: &[&str], parts: &[&str]) {
        let output = self.run(arguments);
        let told = String::from_utf8(output.stderr).expect("text");
        assert!(!output.status.success(), "{arguments:?} works");
        for part in parts {
            assert!(told.contains(part), "{arguments:?} does not say `{part}`: {told}");
        }
        assert!(told.contains("hint: ") && !told.contains("panicked"), "{told}");
    }

    fn export(&self, to: &str, model: &str, adapter: &str, out: &str) -> String {
        self.well(&["export", "--to", to, "--model", model, "--adapter", adapter, "--out", out])
    }

    fn loss(&self, arguments: &[&str]) -> f64 {
        let json = self.well(&[&["eval", "--data", "rows.jsonl", "--json"], arguments].concat());
        serde_json::from_str::<Value>(&json).expect("JSON")["loss"].as_f64().expect("a loss")
    }
}

fn fixture(name: &str) -> String {
    format!("{FIXTURES}/{name}")
}

#[test]
fn an_adapter_goes_to_other_readers_and_back_as_the_same_bits() {
    for model in ["chat_bpe", "chat_spm", "llama", "qwen2", "qwen3", "mistral", "llama31"] {
        let place = Place::new();
        let base = fixture(&format!("models/{model}"));
        place.export("peft", &base, &format!("{base}/adapter"), "peft");
        place.export("gguf-lora", &base, "peft", "lora.gguf");
        place.export("peft", &base, "lora.gguf", "of_gguf");
        place.export("mlx", &base, "peft", "mlx");
        place.export("peft", &base, "mlx", "of_mlx");
        for other in ["of_gguf", "of_mlx"] {
            for file in ["adapter_model.safetensors", "adapter_config.json"] {
                let read = |folder: &str| fs::read(place.path(folder).join(file)).expect("written");
                let (mut before, mut after) = (read("peft"), read(other));
                if file.ends_with("json") {
                    // Dropout is of training, and GGUF has no place for it.
                    let without_dropout = |bytes: &[u8]| {
                        let mut json: Value = serde_json::from_slice(bytes).expect("JSON");
                        json["lora_dropout"] = json!(0);
                        json.to_string().into_bytes()
                    };
                    (before, after) = (without_dropout(&before), without_dropout(&after));
                }
                assert!(before == after, "{model}: {other}/{file}");
            }
        }
    }
}

#[test]
fn the_adapter_that_comes_back_computes_the_same() {
    let place = Place::new();
    let (base, adapter) = (fixture("models/chat_bpe"), fixture("models/chat_bpe/adapter"));
    let want = place.loss(&["--model", &base, "--adapter", &adapter]);
    assert_ne!(want, place.loss(&["--model", &base]));
    place.export("gguf-lora", &fixture("gguf/chat_bpe-f32.gguf"), &adapter, "lora.gguf");
    place.export("peft", &base, "lora.gguf", "back");
    assert_eq!(place.loss(&["--model", &base, "--adapter", "back"]), want);
    // Half of it, and both halves.
    place.well(&["export", "--to", "peft", "--model", &base, "--adapter", "lora.gguf:0.5", "--out", "half"]);
    let half = place.loss(&["--model", &base, "--adapter", "half"]);
    assert!(half != want);
    place.well(&["export", "--to", "peft", "--model", &base, "--adapter", "lora.gguf:0.5", "--out", "other"]);
    place.well(&[
        "export",
        "--to",
        "peft",
        "--model",
        &base,
        "--adapter",
        "half",
        "--adapter",
        "other",
        "--out",
        "two",
    ]);
    let whole = place.loss(&["--model", &base, "--adapter", "two"]);
    assert!((whole - want).abs() < 1e-5, "{whole} {want}");
}

#[test]
fn scales_that_a_reader_has_no_place_for_are_in_b() {
    let place = Place::new();
    let base = fixture("models/chat_bpe");
    let adapter = fixture("models/chat_bpe/adapter");
    fs::create_dir(place.path("scaled")).expect("made");
    let weights = "adapter_model.safetensors";
    fs::copy(Path::new(&adapter).join(weights), place.path("scaled").join(weights)).expect("copied");
    let config = fs::read_to_string(Path::new(&adapter).join("adapter_config.json")).expect("there");
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    config["use_rslora"] = json!(true);
    config["alpha_pattern"] = json!({"q_proj": 3, "layers.1.mlp.up_proj": 24});
    fs::write(place.path("scaled/adapter_config.json"), config.to_string()).expect("written");
    let want = place.loss(&["--model", &base, "--adapter", "scaled"]);
    for to in ["gguf-lora", "mlx"] {
        let out = if to == "mlx" { "m" } else { "l.gguf" };
        place.export(to, &base, "scaled", out);
        place.export("peft", &base, out, to);
        let found = place.loss(&["--model", &base, "--adapter", to]);
        assert!((found - want).abs() < 1e-6, "{to}: {found} {want}");
    }
}

#[test]
fn a_model_with_its_adapter_is_one_file() {
    for model in ["chat_bpe", "chat_spm"] {
        let place = Place::new();
        let base = fixture(&format!("gguf/{model}-f32.gguf"));
        let adapter = fixture(&format!("models/{model}/adapter"));
        let want = place.loss(&["--model", &base, "--adapter", &adapter]);
        let arguments = [
            "export",
            "--to",
            "gguf",
            "--model",
            &base,
            "--adapter",
            &adapter,
            "--out",
            "whole.gguf",
            "--json",
        ];
        let told: Value = serde_json::from_str(&place.well(&arguments)).expect("JSON");
        let count = |key: &str| told[key].as_u64().expect("a number");
        assert_eq!(count("tensors_changed") + count("tensors_copied"), count("tensors"), "{told}");
        assert!(count("tensors_changed") > 0 && count("tensors_copied") > 0);
        let found = place.loss(&["--model", "whole.gguf"]);
        assert!((found - want).abs() < 1e-5, "{model}: {found} {want}");
        // What was merged is in the metadata: one entry, with the path of the adapter.
        let entry = 600 + adapter.len() as u64;
        assert!(
            fs::metadata(place.path("whole.gguf")).expect("there").len()
                <= fs::metadata(&base).expect("there").len() + 64 + entry
        );

        // Written as other types: those with more bits are nearer. Random weights, as these are, have large logits for their
        // size, and forgive less than trained ones.
        let mut distance = f64::INFINITY;
        for (kind, most) in [("q4_0", 0.5), ("q8_0", 0.1), ("f16", 0.002)] {
            let out = format!("{kind}.gguf");
            let arguments = [
                "export",
                "--to",
                "gguf",
                "--model",
                &base,
                "--adapter",
                &adapter,
                "--type",
                kind,
                "--out",
                &out,
            ];
            place.well(&arguments);
            let found = (place.loss(&["--model", &out]) - want).abs();
            assert!(found < most && found <= distance.max(1e-4), "{model} {kind}: {found}");
            distance = found;
        }
        // Nothing but the type changes without an adapter, and nothing at all with the type that is there.
        place.well(&["export", "--to", "gguf", "--model", &base, "--type", "f32", "--out", "same.gguf"]);
        assert_eq!(place.loss(&["--model", "same.gguf"]), place.loss(&["--model", &base]));
    }
}

#[test]
fn a_change_is_not_lost_in_the_few_bits_of_the_base() {
    let place = Place::new();
    let (base, adapter) = (fixture("gguf/chat_bpe-f32.gguf"), fixture("models/chat_bpe/adapter"));
    place.well(&["export", "--to", "gguf", "--model", &base, "--type", "q4_0", "--out", "base.gguf"]);
    let want = place.loss(&["--model", "base.gguf", "--adapter", &adapter]);
    let output = place.run(&[
        "export",
        "--to",
        "gguf",
        "--model",
        "base.gguf",
        "--adapter",
        &adapter,
        "--out",
        "whole.gguf",
    ]);
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success() && told.contains("is written in Q8_0"), "{told}");
    let (found, unchanged) = (place.loss(&["--model", "whole.gguf"]), place.loss(&["--model", "base.gguf"]));
    assert!((found - want).abs() < 0.2 * (unchanged - want).abs(), "{found} {want} {unchanged}");
}

#[test]
fn a_folder_becomes_a_file_with_its_tokenizer() {
    for model in ["chat_bpe", "chat_spm"] {
        let place = Place::new();
        let base = fixture(&format!("models/{model}"));
        let adapter = format!("{base}/adapter");
        let ids = |model: &str| {
            place.well(&["data", "rows.jsonl", "--model", model, "--rows", "1", "--ids", "--no-cache"])
        };
        for (with, out) in [(Some(&adapter), "with.gguf"), (None, "without.gguf")] {
            let mut export = vec!["export", "--to", "gguf", "--model", &base, "--out", out];
            let mut eval = vec!["--model", &base];
            for arguments in [&mut export, &mut eval] {
                arguments.extend(with.iter().flat_map(|adapter| ["--adapter", adapter.as_str()]));
            }
            place.well(&export);
            let (found, want) = (place.loss(&["--model", out]), place.loss(&eval));
            assert!((found - want).abs() < 1e-5, "{model} {out}: {found} {want}");
            let tokens = |text: String| text.lines().find(|line| line.contains("ids:")).map(str::to_owned);
            assert_eq!(tokens(ids(out)), tokens(ids(&base)), "{model}");
        }
        place.well(&["export", "--to", "gguf", "--model", &base, "--type", "q8_0", "--out", "q8_0.gguf"]);
        let (found, want) = (place.loss(&["--model", "q8_0.gguf"]), place.loss(&["--model", &base]));
        assert!((found - want).abs() < 0.1, "{model}: {found} {want}");
    }
}

#[test]
fn what_cannot_be_written_is_told_before_anything_is() {
    let place = Place::new();
    let (folder, gguf) = (fixture("models/chat_bpe"), fixture("gguf/chat_bpe-f32.gguf"));
    let adapter = format!("{folder}/adapter");
    let export = |more: &[&'static str], to: &'static str, model: &str| -> Vec<String> {
        let words = [&["export", "--to", to, "--model", model][..], more].concat();
        words.into_iter().map(str::to_owned).collect()
    };
    let refused = |arguments: Vec<String>, parts: &[&str]| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        place.error(&arguments, parts);
    };
    let with_adapter = |mut arguments: Vec<String>| {
        arguments.extend(["--adapter".to_owned(), adapter.clone()]);
        arguments
    };
    refused(export(&["--out", "x"], "peft", &gguf), &["--adapter is missing"]);
    refused(
        with_adapter(export(&["--out", "x", "--type", "f16"], "mlx", &gguf)),
        &["--type is of --to gguf and ollama only"],
    );
    refused(
        with_adapter(export(&["--out", "x.gguf"], "gguf-lora", &fixture("models/llama"))),
        &["the model needs", "the adapter was made for"],
    );
    fs::create_dir(place.path("taken")).expect("made");
    fs::write(place.path("taken/file"), "x").expect("written");
    refused(with_adapter(export(&["--out", "taken"], "peft", &gguf)), &["taken is not empty"]);
    refused(
        with_adapter(export(&["--out", "taken"], "gguf", &gguf)),
        &["cannot write taken: it is a folder"],
    );
    refused(with_adapter(export(&["--out", "rows.jsonl"], "gguf", &gguf)), &["rows.jsonl is there already"]);
    fs::copy(&gguf, place.path("m.gguf")).expect("copied");
    refused(
        with_adapter(export(&["--out", "m.gguf", "--overwrite"], "gguf", "m.gguf")),
        &["--out m.gguf would be written over what is read (--model m.gguf)"],
    );
    // Nothing goes into the model's folder, nor over a file of another kind.
    fs::create_dir(place.path("model")).expect("made");
    for entry in fs::read_dir(&folder).expect("a fixture").map(|entry| entry.expect("an entry").path()) {
        if entry.is_file() {
            fs::copy(&entry, place.path("model").join(entry.file_name().expect("a name"))).expect("copied");
        }
    }
    for to in ["gguf", "gguf-lora"] {
        let inside = export(&["--out", "model/x.gguf"], to, "model");
        refused(with_adapter(inside), &["is in the folder of the model (--model model)"]);
        let over = export(&["--out", "rows.jsonl", "--overwrite"], to, &gguf);
        refused(with_adapter(over), &["rows.jsonl is there already and is not a GGUF file"]);
    }
    refused(with_adapter(export(&["--out", "model/x"], "peft", "model")), &["is in the folder of the model"]);
    // A model is no adapter, and another architecture's adapter is refused by its name.
    refused(
        export(&["--adapter", "m.gguf", "--out", "y"], "peft", &folder),
        &["`general.type`", "a model is passed as --model"],
    );
    let qwen = fixture("models/qwen2");
    place.export("gguf-lora", &qwen, &format!("{qwen}/adapter"), "qwen.gguf");
    refused(
        export(&["--adapter", "qwen.gguf", "--out", "y"], "peft", &folder),
        &["`general.architecture` is \"qwen2\", expected \"llama\""],
    );
    for left in ["x", "x.gguf", "y"] {
        assert!(!place.path(left).exists(), "{left} was written");
    }
}

#[test]
fn ollama_gets_the_base_where_it_is_and_the_adapter() {
    let place = Place::new();
    let (base, adapter) = (fixture("gguf/chat_bpe-f32.gguf"), fixture("models/chat_bpe/adapter"));
    place.export("ollama", &base, &adapter, "out");
    let modelfile = fs::read_to_string(place.path("out/Modelfile")).expect("written");
    let from = Path::new(&base).canonicalize().expect("there");
    let line = format!("\nFROM {}\nADAPTER ./adapter.gguf\nTEMPLATE \"\"\"", from.display());
    assert!(modelfile.contains(&line), "{modelfile}");
    assert!(modelfile.contains("{{ range .Messages }}"), "{modelfile}");
    assert!(modelfile.contains("\nPARAMETER stop \"<|im_end|>\"\n"), "{modelfile}");
    let mut files: Vec<_> =
        fs::read_dir(place.path("out")).expect("there").flatten().map(|e| e.file_name()).collect();
    files.sort();
    assert_eq!(files, ["Modelfile", "adapter.gguf"]);
    // What it has is the adapter.
    place.export("peft", &base, "out/adapter.gguf", "back");
    let loss = |adapter: &str| place.loss(&["--model", &base, "--adapter", adapter]);
    assert_eq!(loss("back"), loss(&adapter));
    place.error(
        &["export", "--to", "ollama", "--model", &base, "--adapter", &adapter, "--out", "out"],
        &["out is not empty"],
    );
}

#[test]
fn ollama_gets_one_file_of_a_base_that_it_cannot_take_with_an_adapter() {
    let place = Place::new();
    let adapter = fixture("models/chat_bpe/adapter");
    let folder = fixture("models/chat_bpe");
    let gguf = fixture("gguf/chat_bpe-f32.gguf");
    for (out, model, more) in [("of_folder", &folder, &[][..]), ("of_type", &gguf, &["--type", "f32"])] {
        let arguments =
            ["export", "--to", "ollama", "--model", model, "--adapter", &adapter, "--out", out, "--json"];
        let json: Value = serde_json::from_str(&place.well(&[&arguments, more].concat())).expect("JSON");
        assert!(json["why_merged"].is_string(), "{json}");
        let modelfile = fs::read_to_string(place.path(out).join("Modelfile")).expect("written");
        assert!(modelfile.contains("\nFROM ./model.gguf\nTEMPLATE"), "{modelfile}");
        let merged = place.loss(&["--model", &format!("{out}/model.gguf")]);
        let want = place.loss(&["--model", model, "--adapter", &adapter]);
        assert!((merged - want).abs() < 1e-5, "{out}: {merged} {want}");
    }
}

#[test]
fn a_model_that_ollama_has_is_a_base() {
    let place = Place::new();
    let base = fixture("gguf/chat_bpe-f32.gguf");
    let hex = "ab".repeat(32);
    let manifest = place.path("ollama/manifests/registry.ollama.ai/library/tiny");
    fs::create_dir_all(&manifest).expect("made");
    fs::create_dir_all(place.path("ollama/blobs")).expect("made");
    fs::copy(&base, place.path(&format!("ollama/blobs/sha256-{hex}"))).expect("copied");
    let layer = |kind: &str| json!({"mediaType": format!("application/vnd.ollama.image.{kind}"), "digest": format!("sha256:{hex}")});
    let layers = json!({"layers": [layer("model"), layer("template")]});
    fs::write(manifest.join("latest"), layers.to_string()).expect("written");
    assert_eq!(place.loss(&["--model", "ollama://tiny"]), place.loss(&["--model", &base]));
    let adapter = fixture("models/chat_bpe/adapter");
    let output = place.run(&[
        "export",
        "--to",
        "ollama",
        "--model",
        "ollama://tiny",
        "--adapter",
        &adapter,
        "--out",
        "out",
    ]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("(template) is not read"), "{told}");
    let modelfile = fs::read_to_string(place.path("out/Modelfile")).expect("written");
    assert!(modelfile.contains("\nFROM tiny\nADAPTER ./adapter.gguf\n"), "{modelfile}");
    place.error(
        &["eval", "--data", "rows.jsonl", "--model", "ollama://tiny:7b"],
        &["Ollama has no such model here, only tiny:latest", "ollama pull tiny:7b"],
    );
}

/// The file `adapter_config.json` of the fixture's adapter with another value, in a folder of its own.
fn adapter_with(place: &Place, name: &str, key: &str, value: Value) -> String {
    let dir = place.path(name);
    fs::create_dir(&dir).expect("made");
    let from = PathBuf::from(fixture("models/chat_bpe/adapter"));
    fs::copy(from.join("adapter_model.safetensors"), dir.join("adapter_model.safetensors")).expect("copied");
    let text = fs::read_to_string(from.join("adapter_config.json")).expect("a configuration");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    config[key] = value;
    fs::write(dir.join("adapter_config.json"), config.to_string()).expect("written");
    dir.display().to_string()
}

#[test]
fn nothing_of_others_is_touched_by_writing() {
    let place = Place::new();
    let (model, adapter) = (fixture("models/chat_bpe"), fixture("models/chat_bpe/adapter"));
    let mine = ["first.tmp", "first.gguf.tmp", "merged.partial/thesis", "merged.old.partial/thesis"];
    for name in mine {
        fs::create_dir_all(place.path(name).parent().expect("a folder")).expect("made");
        fs::write(place.path(name), "years").expect("written");
    }
    place.export("gguf", &model, &adapter, "first.gguf");
    place.export("mlx", &model, &adapter, "mlx");
    place.export("ollama", &model, &adapter, "ollama");
    place.well(&["merge", "--model", &model, "--adapter", &adapter, "--out", "merged"]);
    for name in mine {
        assert_eq!(fs::read_to_string(place.path(name)).expect("still there"), "years", "{name}");
    }
    let hidden = fs::read_dir(place.0.path()).expect("a folder").flatten().map(|entry| entry.file_name());
    assert_eq!(hidden.filter(|name| name.to_string_lossy().starts_with('.')).count(), 0);
    for (flags, out) in
        [(&["export", "--to", "gguf"][..], "plain"), (&["export", "--to", "gguf-lora"], "plain")]
    {
        let flags = [flags, &["--model", &model, "--adapter", &adapter, "--out", out]].concat();
        place.error(&flags, &["ends with .gguf"]);
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        let pipe = place.path("pipe.gguf");
        assert!(Command::new("mkfifo").arg(&pipe).status().expect("starts").success());
        let flags = ["export", "--to", "gguf", "--model", &model, "--out", "pipe.gguf", "--overwrite"];
        place.error(&flags, &["it is a pipe or a device"]);
        assert!(pipe.metadata().expect("there").file_type().is_fifo());
        fs::create_dir(place.path("elsewhere")).expect("made");
        std::os::unix::fs::symlink(place.path("elsewhere"), place.path("link")).expect("linked");
        place.well(&["merge", "--model", &model, "--adapter", &adapter, "--out", "link"]);
        assert!(place.path("link").is_symlink() && place.path("elsewhere/config.json").is_file());
    }
}

#[test]
fn an_adapter_is_in_a_model_once_whatever_it_went_through() {
    let place = Place::new();
    let (model, adapter) = (fixture("models/chat_bpe"), fixture("models/chat_bpe/adapter"));
    place.well(&["merge", "--model", &model, "--adapter", &adapter, "--out", "merged"]);
    place.well(&["export", "--to", "gguf", "--model", "merged", "--out", "merged.gguf"]);
    let already = ["is merged into", "already"];
    for model in ["merged", "merged.gguf"] {
        place.error(&["merge", "--model", model, "--adapter", &adapter, "--out", "twice"], &already);
        for to in ["gguf", "ollama"] {
            let flags =
                ["export", "--to", to, "--model", model, "--adapter", &adapter, "--out", "twice.gguf"];
            place.error(&flags, &already);
        }
    }
    fs::write(place.path("merged/merge.json"), "{").expect("written");
    let flags = ["merge", "--model", "merged", "--adapter", &adapter, "--out", "twice"];
    place.error(&flags, &["merge.json does not say which adapters"]);
}

#[test]
fn values_that_are_no_numbers_are_not_written() {
    let place = Place::new();
    let model = fixture("models/chat_bpe");
    let huge = adapter_with(&place, "huge", "lora_alpha", json!(1e40));
    let merge = ["merge", "--model", &model, "--adapter", &huge, "--out", "out", "--dtype", "f32"];
    place.error(&merge, &["is not a finite number"]);
    let export = ["export", "--to", "gguf", "--model", &model, "--adapter", &huge, "--out", "out.gguf"];
    place.error(&export, &["is not a finite number"]);
    let large = adapter_with(&place, "large", "lora_alpha", json!(1e8));
    let export = [
        "export",
        "--to",
        "gguf",
        "--model",
        &model,
        "--adapter",
        &large,
        "--out",
        "out.gguf",
        "--type",
        "f16",
    ];
    place.error(&export, &["is beyond F16", "--type bf16"]);
    assert!(!place.path("out.gguf").exists() && !place.path("out").exists());
    // An update that is nothing stays nothing where a reader takes a scale of 0 for none that is said.
    let nothing = adapter_with(&place, "nothing", "lora_alpha", json!(0));
    place.export("gguf-lora", &model, &nothing, "nothing.gguf");
    place.export("mlx", &model, &nothing, "nothing-mlx");
    let plain = place.loss(&["--model", &model]);
    for adapter in ["nothing.gguf", "nothing-mlx"] {
        place.well(&[
            "export",
            "--to",
            "peft",
            "--model",
            &model,
            "--adapter",
            adapter,
            "--out",
            &format!("{adapter}-peft"),
        ]);
        assert_eq!(place.loss(&["--model", &model, "--adapter", &format!("{adapter}-peft")]), plain);
    }
}

#[test]
fn what_an_adapter_says_and_nobody_knows_is_told() {
    let place = Place::new();
    let model = fixture("models/chat_bpe");
    let future = adapter_with(&place, "future", "future_flag", json!(true));
    let output = place.run(&["merge", "--model", &model, "--adapter", &future, "--out", "merged"]);
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(
        output.status.success() && told.contains("`future_flag` is true, which is not known here"),
        "{told}"
    );
    let init = adapter_with(&place, "init", "init_lora_weights", json!("mixup"));
    place.error(
        &["merge", "--model", &model, "--adapter", &init, "--out", "x"],
        &["`init_lora_weights` is \"mixup\""],
    );
    let kind = adapter_with(&place, "kind", "peft_type", json!("LOHA"));
    place.error(
        &["merge", "--model", &model, "--adapter", &kind, "--out", "x"],
        &["`peft_type` is \"LOHA\"", "merge_and_unload"],
    );
    let unused = ["merge", "--model", &model, "--adapter", &kind, "--out", "x"];
    place.error(&[&unused[..], &["--majority-sign", "total"]].concat(), &["--majority-sign", "ties"]);
    place.error(&[&unused[..], &["--seed", "1"]].concat(), &["--seed", "dare"]);
}
