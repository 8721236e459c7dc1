//! Inputs of other people's making in `fixtures/cases`: a folder each, whose README has the command and says what is right.
//! [`CASES`] says the same as text that the command has to print and text that it must not. Below it further inputs of the
//! same kinds are made of these.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_bpe");

/// What is right for the command of a case.
struct Case {
    /// Its folder.
    name: &'static str,
    /// Whether each of its commands is an error.
    refused: bool,
    /// What is printed, to either output.
    says: &'static [&'static str],
    /// What is not.
    never: &'static [&'static str],
}

const fn read(name: &'static str, says: &'static [&'static str]) -> Case {
    Case { name, refused: false, says, never: &[] }
}

const fn refused(name: &'static str, says: &'static [&'static str], never: &'static [&'static str]) -> Case {
    Case { name, refused: true, says, never }
}

const CASES: [Case; 30] = [
    read("adapter_base_name", &["\"base_model_name_or_path\": \"Qwen2.5-0.5B-Instruct\""]),
    refused("adapter_bin", &["adapter_model.bin: pickle files", "save_pretrained"], &["No such file"]),
    read("adapter_foreign_names", &["loss"]),
    read("adapter_lm_head", &["loss"]),
    read("adapter_look_around", &["loss", "was not checked"]),
    refused("adapter_mlx", &["an adapter of mlx-lm", "mlx_lm.fuse"], &["peft_type"]),
    read("adapter_saved_embeddings", &["loss", "embed_tokens.weight is the model's own and was passed over"]),
    Case {
        never: &["ids: 0 0", "ids: 0⟦ 0"],
        ..read("double_bos", &["ids: 0", "with the beginning-of-sequence token"])
    },
    read("file_json_object", &["2+2=⟦ 4", "2+3=⟦ 5", "2 completion rows"]),
    refused(
        "file_parquet_brotli",
        &["is compressed with Brotli, which is not read; the file is not damaged", "compression='zstd'"],
        &[],
    ),
    refused("file_save_to_disk", &["save_to_disk", "load_from_disk('saved')['train'].to_parquet"], &[]),
    read("file_utf16", &["2+2=⟦ 4"]),
    refused(
        "gguf_iq4_nl",
        &["IQ4_NL, which is not supported", "Q4_K_M"],
        &["type 20", "cut short", "damaged"],
    ),
    read("model_bnb_storage", &["loss"]),
    // The loss of transformers; without the window it would be 6.7924.
    read("model_sliding_window", &["6.8508"]),
    read("model_stale_index", &["loss"]),
    read("row_assistant_first", &["⟦Welcome to the shop.<|im_end|>⟧", "⟦What do you need?<|im_end|>⟧"]),
    read("row_big_integer", &[r#"{"v": 123456789012345678901234567890}"#]),
    read("row_content_parts", &["Which colour has the sea?<|im_end|>", "⟦Blue, mostly.<|im_end|>⟧"]),
    refused("row_function_call", &["the chat template writes nothing for `tools`", "functions"], &[]),
    read("row_nan", &["2+2=⟦ 4<|im_end|>⟧"]),
    Case { never: &["⟦Three."], ..read("row_weight_zero", &["⟦Two.<|im_end|>⟧"]) },
    read("template_argument_text", &[r#"{"city": "Bonn", "days": 3}"#]),
    read("template_is_sequence", &["user⏎\nseqitHello to you", "⟦seqitHo ho o<|im_end|>⟧"]),
    Case { never: &["Tools:"], ..read("template_none_iterable", &["⟦Ho ho o<|im_end|>⟧"]) },
    Case { never: &["<think>"], ..read("template_think_prompt", &["⟦Four.<|im_end|>⟧"]) },
    read("tokenizer_add_bos_false", &["ids: 0⟦ 42 71"]),
    read("tokenizer_added_in_settings", &["ids: 67⟦ 320 68 2⟧"]),
    read("tokenizer_longer_than_embedding", &["loss"]),
    read("tokenizer_tool_use_template", &["Tools: [{"]),
];

/// A copy of a case's folder.
fn place(name: &str) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).expect("made");
        for entry in fs::read_dir(from).expect("the folder").map(|entry| entry.expect("an entry").path()) {
            let target = to.join(entry.file_name().expect("a name"));
            match entry.is_dir() {
                true => copy(&entry, &target),
                false => fs::write(&target, fs::read(&entry).expect("the file")).expect("copied"),
            }
        }
    }
    let dir = TempDir::new().expect("a folder");
    copy(&Path::new(ROOT).join("fixtures/cases").join(name), dir.path());
    dir
}

#[test]
fn cases_go_as_their_readme_says() {
    let bin = Path::new(env!("CARGO_BIN_EXE_lorafit")).parent().expect("a folder").to_owned();
    let path = std::env::join_paths(
        std::iter::once(bin).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    let path = path.expect("a path");
    let folders = fs::read_dir(Path::new(ROOT).join("fixtures/cases")).expect("the folder");
    let folders = folders.map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
    assert_eq!(
        folders.collect::<std::collections::BTreeSet<_>>(),
        CASES.iter().map(|case| case.name.to_owned()).collect()
    );
    for Case { name, refused, says, never } in CASES {
        let dir = place(name);
        let readme = fs::read_to_string(dir.path().join("README")).expect("a README");
        let command = readme.lines().find_map(|line| line.strip_prefix("command: ")).expect("a command");
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", command]).current_dir(dir.path()).env("ROOT", ROOT).env("PATH", &path);
        let shell = shell.env("XDG_CACHE_HOME", dir.path().join("cache"));
        let Output { stdout, stderr, .. } = shell.output().expect("starts");
        let told = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(!told.contains("panicked"), "{name}: {told}");
        let errors = told.lines().filter(|line| line.starts_with("error: ")).count();
        let expected = if refused { command.matches("lorafit ").count() } else { 0 };
        assert_eq!(errors, expected, "{name}: {told}");
        for text in says {
            assert!(told.contains(text), "{name} does not say `{text}`: {told}");
        }
        for text in never {
            assert!(!told.contains(text), "{name} says `{text}`: {told}");
        }
    }
}

fn lorafit(place: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lorafit"));
    command.current_dir(place).args(arguments).args(["--threads", "1"]).output().expect("starts")
}

/// What is told, to either output, by a command with lines to read.
fn lorafit_with_input(place: &Path, arguments: &[&str], input: &str) -> String {
    fs::write(place.join("input"), input).expect("written");
    let stdin = fs::File::open(place.join("input")).expect("it is there");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lorafit"));
    let output = command.current_dir(place).args(arguments).stdin(stdin).output().expect("starts");
    [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
}

fn well(place: &Path, arguments: &[&str]) -> String {
    let output = lorafit(place, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// What a command that is refused says, with its hint.
fn error(place: &Path, arguments: &[&str]) -> String {
    let output = lorafit(place, arguments);
    assert!(!output.status.success(), "{arguments:?} works: {}", String::from_utf8_lossy(&output.stdout));
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(told.contains("error: ") && !told.contains("panicked"), "{told}");
    told
}

fn loss_of(place: &Path, arguments: &[&str]) -> f64 {
    let json = well(place, &[&["eval", "--data", "rows.jsonl", "--json"], arguments].concat());
    serde_json::from_str::<Value>(&json).expect("JSON")["loss"].as_f64().expect("a loss")
}

fn says(told: &str, parts: &[&str]) {
    for part in parts {
        assert!(told.contains(part), "does not say `{part}`: {told}");
    }
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut json = serde_json::from_str(&fs::read_to_string(path).expect("a file")).expect("JSON");
    edit(&mut json);
    fs::write(path, json.to_string()).expect("written");
}

/// Type, shape and bytes of a tensor.
type Tensor = (String, Vec<usize>, Vec<u8>);
/// By name.
type Tensors = BTreeMap<String, Tensor>;

fn tensors(path: &Path) -> Tensors {
    let bytes = fs::read(path).expect("a file");
    let len = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let header: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..8 + len]).expect("JSON");
    let number = |value: &Value| value.as_u64().expect("a number") as usize;
    let read = |(name, entry): (String, Value)| {
        let offsets = &entry["data_offsets"];
        let data = bytes[8 + len + number(&offsets[0])..8 + len + number(&offsets[1])].to_vec();
        let shape = entry["shape"].as_array().expect("a shape").iter().map(number).collect();
        (name, (entry["dtype"].as_str().expect("a type").to_owned(), shape, data))
    };
    header.into_iter().filter(|(name, _)| name != "__metadata__").map(read).collect()
}

fn write_tensors(path: &Path, tensors: &Tensors) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, (dtype, shape, bytes)) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
        data.extend(bytes);
    }
    let header = Value::Object(header).to_string();
    let header = format!("{header:<width$}", width = header.len().next_multiple_of(8));
    let len = (header.len() as u64).to_le_bytes();
    fs::write(path, [&len[..], header.as_bytes(), &data].concat()).expect("written");
}

/// Gives tensors other names.
fn rename(path: &Path, name: impl Fn(&str) -> String) {
    let renamed = tensors(path).into_iter().map(|(old, tensor)| (name(&old), tensor)).collect();
    write_tensors(path, &renamed);
}

/// A folder with an adapter of every projection of the base, and its loss.
struct AdapterPlace {
    dir: TempDir,
    loss: f64,
}

impl AdapterPlace {
    fn new() -> Self {
        let dir = place("adapter_foreign_names");
        let loss = loss_of(dir.path(), &["--model", BASE, "--adapter", "adapter"]);
        assert_ne!(loss, loss_of(dir.path(), &["--model", BASE]), "the adapter changes something");
        AdapterPlace { dir, loss }
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("adapter/adapter_config.json")
    }

    fn weights(&self) -> PathBuf {
        self.dir.path().join("adapter/adapter_model.safetensors")
    }

    fn set(&self, key: &str, value: Value) {
        edit_json(&self.config(), |json| json[key] = value);
    }

    /// The same adapter in other words has the same loss.
    fn is_the_same(&self, how: &str) {
        let loss = loss_of(self.dir.path(), &["--model", BASE, "--adapter", "adapter"]);
        assert_eq!(loss, self.loss, "{how}");
    }

    fn error(&self, parts: &[&str]) {
        says(
            &error(
                self.dir.path(),
                &["eval", "--data", "rows.jsonl", "--model", BASE, "--adapter", "adapter"],
            ),
            parts,
        );
    }
}

/// `target_modules` and `exclude_modules` mean what they mean in PEFT; where a pattern cannot be matched, tensors decide.
#[test]
fn adapters_are_read_by_their_tensors() {
    let place = AdapterPlace::new();
    let patterns = [
        r".*(?<!lm_head)$",
        r"model\.layers\.(\d+)\.(self_attn|mlp)\.(?=[a-z]+_proj).*",
        r"(?P<a>model).*(?P=a)?_?.*",
    ];
    for pattern in patterns {
        place.set("target_modules", json!(pattern));
        place.is_the_same(pattern);
    }
    // What is selected and excluded again is not asked for.
    place.set("target_modules", json!("all-linear"));
    for exclude in [json!(["lm_head", "c_attn"]), json!([]), json!(""), json!(r".*\.(?!layers).*lm_head")] {
        place.set("exclude_modules", exclude.clone());
        place.is_the_same(&exclude.to_string());
    }
    // Tensors that nothing selects are not passed over.
    for exclude in [json!(["q_proj"]), json!(r".*\.1\.mlp\..*")] {
        place.set("exclude_modules", exclude);
        place.error(&["belongs to no projection that adapter_config.json selects"]);
    }
    place.set("exclude_modules", json!(["q_proj", "0.mlp.up_proj"]));
    let mut few = tensors(&place.weights());
    few.retain(|name, _| !name.contains("q_proj") && !name.contains("layers.0.mlp.up_proj"));
    write_tensors(&place.weights(), &few);
    loss_of(place.dir.path(), &["--model", BASE, "--adapter", "adapter"]);

    let place = AdapterPlace::new();
    place.set("target_modules", json!(["query_key_value", "c_attn"]));
    place.error(&["match no projection of the model"]);
    place.set("target_modules", json!("(?=a"));
    place.set("target_modules", json!("(q_proj"));
    place.error(&["is not a regular expression"]);
}

/// What PEFT cannot match here is trained on and saved as it was read.
#[test]
fn a_pattern_that_is_not_matched_survives_training() {
    let dir = place("adapter_look_around");
    let dir = dir.path();
    let flags = ["--model", BASE, "--data", "rows.jsonl", "--out", "run", "--max-steps", "1", "--quiet"];
    well(dir, &[&["train", "--adapter", "adapter"], &flags[..]].concat());
    let config: Value =
        serde_json::from_str(&fs::read_to_string(dir.join("run/adapter_config.json")).expect("saved"))
            .expect("JSON");
    assert_eq!(config["target_modules"], r"^(?!.*layers\.0\.).*\.(q|k|v|o|gate|up|down)_proj$");
    loss_of(dir, &["--model", BASE, "--adapter", "run"]);
    let names = |file: &str| tensors(&dir.join(file)).into_keys().collect::<Vec<_>>();
    assert_eq!(names("run/adapter_model.safetensors"), names("adapter/adapter_model.safetensors"));
}

#[test]
fn factors_have_several_names() {
    let place = AdapterPlace::new();
    rename(&place.weights(), |name| name.replace(".weight", ".default.weight"));
    place.is_the_same("with the adapter's name");
    rename(&place.weights(), |name| name.replace("base_model.model.", ""));
    place.is_the_same("without a prefix");
    rename(&place.weights(), |name| format!("base_model.model.base_model.model.{name}"));
    place.is_the_same("with two");
    let mut both = tensors(&place.weights());
    for (name, tensor) in both.clone() {
        both.insert(name.replace(".default.", ".other."), tensor);
    }
    write_tensors(&place.weights(), &both);
    place.error(&["are the same factor: the file holds several adapters", "selected_adapters"]);
}

#[test]
fn what_is_beside_factors_is_told() {
    for (name, parts) in [
        (
            "base_model.model.model.embed_tokens.lora_embedding_A",
            [
                "belongs to no projection that adapter_config.json selects",
                "name embed_tokens in target_modules",
            ],
        ),
        (
            "base_model.model.model.embed_tokens.lora_A.weight",
            ["adapters of embed_tokens are not supported", "merge"],
        ),
        (
            "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector.weight",
            ["belongs to DoRA", "`use_dora` is not true"],
        ),
        ("base_model.model.score.weight", ["is a whole weight that was trained", "merge"]),
    ] {
        let place = AdapterPlace::new();
        let mut all = tensors(&place.weights());
        all.insert(name.to_owned(), ("F32".to_owned(), vec![1], vec![0; 4]));
        write_tensors(&place.weights(), &all);
        place.error(&parts);
    }
}

/// Embeddings that PEFT saved with an adapter: the base's own whatever they are stored as, or an error.
#[test]
fn saved_embeddings_are_the_bases_or_an_error() {
    const NAME: &str = "base_model.model.model.embed_tokens.weight";
    let dir = place("adapter_saved_embeddings");
    let file = dir.path().join("adapter/adapter_model.safetensors");
    let whole = tensors(&file);
    let flags = ["--model", BASE, "--adapter", "adapter"];
    let loss = loss_of(dir.path(), &flags);
    // Rounded to 16 bits, to nearest even.
    let mut rounded = whole.clone();
    let embedding = rounded.get_mut(NAME).expect("saved");
    let round = |bytes: &[u8]| {
        let bits = u32::from_le_bytes(bytes.try_into().expect("4 bytes"));
        ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
    };
    embedding.2 = embedding.2.chunks(4).flat_map(|value| round(value).to_le_bytes()).collect();
    embedding.0 = "BF16".to_owned();
    write_tensors(&file, &rounded);
    assert_eq!(loss_of(dir.path(), &flags), loss);

    let refused = |edit: &dyn Fn(&mut Tensor), part: &str| {
        let mut other = whole.clone();
        edit(other.get_mut(NAME).expect("saved"));
        write_tensors(&file, &other);
        let told = error(dir.path(), &[&["eval", "--data", "rows.jsonl"], &flags[..]].concat());
        says(&told, &[NAME, part, "merge_and_unload", "save_embedding_layers=False"]);
    };
    refused(&|tensor| tensor.2[4 * 32 * 7 + 3] ^= 1, "whose row 7 differs from the model's");
    refused(
        &|tensor| {
            tensor.1 = vec![321, 32];
            tensor.2.extend([0; 4 * 32]);
        },
        "of [321, 32], while the model's is [320, 32]",
    );
}

/// Adapters of other tools, and folders that are none.
#[test]
fn adapters_of_strangers_are_told_by_their_marks() {
    let dir = place("adapter_mlx");
    let (at, flags) = (dir.path(), ["eval", "--data", "rows.jsonl", "--model", BASE, "--adapter"]);
    let told = |adapter: &str, parts: &[&str]| says(&error(at, &[&flags[..], &[adapter]].concat()), parts);
    fs::remove_file(at.join("adapter/adapter_config.json")).expect("removed");
    told("adapter", &["an adapter of mlx-lm", "mlx_lm.fuse"]);
    fs::rename(at.join("adapter/adapters.safetensors"), at.join("adapter/adapters.npz")).expect("renamed");
    told("adapter", &["an adapter of mlx-lm", "mlx_lm.fuse"]);
    told(BASE, &["a model's folder, not an adapter's", "pass it as --model"]);
    told("rows.jsonl", &["a file, but an adapter is a folder"]);
    let dir = place("adapter_bin");
    let at = dir.path();
    let told = |adapter: &str, parts: &[&str]| says(&error(at, &[&flags[..], &[adapter]].concat()), parts);
    told("adapter/adapter_model.bin", &["a file, but an adapter is a folder", "pass its folder: adapter"]);
    fs::create_dir(at.join("runs")).expect("made");
    fs::rename(at.join("adapter"), at.join("runs/checkpoint-10")).expect("moved");
    told("runs", &["adapters in folders of its own", "pass one of them: runs/checkpoint-10"]);
    fs::write(
        at.join("runs/checkpoint-10/adapter_model.safetensors"),
        "version https://git-lfs.github.com/spec/v1\n",
    )
    .expect("written");
    told("runs/checkpoint-10", &["a pointer of git-lfs", "git lfs pull"]);
}

#[test]
fn an_adapter_calls_its_base_as_the_user_did() {
    let dir = place("adapter_base_name");
    let at = dir.path();
    fs::create_dir(at.join("models")).expect("made");
    fs::rename(at.join("Qwen2.5-0.5B-Instruct"), at.join("models/v1.0")).expect("moved");
    let gguf = Path::new(ROOT).join("fixtures/gguf/chat_spm-f32.gguf");
    fs::copy(gguf, at.join("models/Tiny-1.1B.Q4_K_M.gguf")).expect("copied");
    let whole = at.join("models/v1.0");
    for model in
        ["models/v1.0", "./models/v1.0", "models/Tiny-1.1B.Q4_K_M.gguf", whole.to_str().expect("text")]
    {
        let flags =
            ["--model", model, "--data", "rows.jsonl", "--out", "run", "--max-steps", "1", "--overwrite"];
        well(at, &[&["train", "--quiet"], &flags[..]].concat());
        let text = fs::read_to_string(at.join("run/adapter_config.json")).expect("saved");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON")["base_model_name_or_path"], model);
    }
}

/// The types of ggml by their names, of whatever tensor.
#[test]
fn types_of_gguf_have_names() {
    let dir = place("gguf_iq4_nl");
    let at = dir.path();
    let bytes = fs::read(at.join("IQ4_NL.gguf")).expect("the file");
    let name = b"token_embd.weight";
    let place = bytes.windows(name.len()).position(|window| window == name).expect("the tensor");
    // After the name: a rank of 4 bytes, two sizes of 8.
    let place = place + name.len() + 4 + 16;
    for (number, parts) in [
        (10u32, ["stored as Q2_K, which is not supported", "Q4_K_M"]),
        (23, ["stored as IQ4_XS, which is not supported", "Q4_K_M"]),
        (39, ["stored as MXFP4, which is not supported", "Q4_K_M"]),
        (4000, ["has the ggml type 4000", "newer than this lorafit"]),
    ] {
        let mut other = bytes.clone();
        other[place..place + 4].copy_from_slice(&number.to_le_bytes());
        fs::write(at.join("other.gguf"), &other).expect("written");
        let told = error(at, &["eval", "--data", "rows.jsonl", "--model", "other.gguf"]);
        says(&told, &parts);
        assert!(!told.contains("cut short"), "{told}");
    }
    fs::write(at.join("other.gguf"), &bytes[..2000]).expect("written");
    says(&error(at, &["eval", "--data", "rows.jsonl", "--model", "other.gguf"]), &["cut short"]);
}

/// A GGUF file in parts of `names` tensors each, as `llama-gguf-split` writes them: the first has all metadata.
fn split_gguf(bytes: &[u8], parts: usize) -> Vec<Vec<u8>> {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    let width = |kind: u32| match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        _ => 8,
    };
    let text = |at: usize| at + 8 + number(at) as usize;
    let value = |kind: u32, at: usize| match kind {
        8 => text(at),
        9 if word(at) == 8 => (0..number(at + 4)).fold(at + 12, |at, _| text(at)),
        9 => at + 12 + number(at + 4) as usize * width(word(at)),
        kind => at + width(kind),
    };
    let (tensors, entries) = (number(8) as usize, number(16) as usize);
    let metadata = (0..entries).fold(24, |at, _| value(word(text(at)), text(at) + 4));
    let mut at = metadata;
    let mut infos = Vec::new();
    for _ in 0..tensors {
        let end = text(at) + 4 + 8 * word(text(at)) as usize + 4;
        infos.push((at..end, number(end) as usize));
        at = end + 8;
    }
    let data = at.next_multiple_of(32);
    let end_of = |i: usize| infos.get(i + 1).map_or(bytes.len() - data, |(_, next)| *next);
    let share = tensors.div_ceil(parts);
    let part = |no: usize| {
        let own = no * share..tensors.min((no + 1) * share);
        let mut file = [&b"GGUF"[..], &3u32.to_le_bytes(), &(own.len() as u64).to_le_bytes()].concat();
        let of_first = if no == 0 { entries as u64 } else { 0 };
        file.extend((of_first + 3).to_le_bytes());
        let mut entry = |key: &str, kind: u32, value: &[u8]| {
            file.extend((key.len() as u64).to_le_bytes());
            file.extend(key.as_bytes());
            file.extend(kind.to_le_bytes());
            file.extend(value);
        };
        entry("split.no", 2, &(no as u16).to_le_bytes());
        entry("split.count", 2, &(parts as u16).to_le_bytes());
        entry("split.tensors.count", 5, &(tensors as i32).to_le_bytes());
        if no == 0 {
            file.extend(&bytes[24..metadata]);
        }
        let first = infos.get(own.start).map_or(0, |(_, offset)| *offset);
        for i in own.clone() {
            file.extend(&bytes[infos[i].0.clone()]);
            file.extend(((infos[i].1 - first) as u64).to_le_bytes());
        }
        file.resize(file.len().next_multiple_of(32), 0);
        let last = own.end.checked_sub(1).map_or(first, end_of);
        file.extend(&bytes[data + first..data + last]);
        file
    };
    (0..parts).map(part).collect()
}

#[test]
fn split_gguf_files_are_read_whole_or_the_missing_part_is_named() {
    let bytes = fs::read(Path::new(ROOT).join("fixtures/gguf/chat_spm-f32.gguf")).expect("the fixture");
    let dir = place("gguf_iq4_nl");
    let at = dir.path();
    fs::write(at.join("whole.gguf"), &bytes).expect("written");
    let loss = loss_of(at, &["--model", "whole.gguf"]);
    let name = |i: usize, count: usize| format!("x-{:05}-of-{count:05}.gguf", i + 1);
    for count in [2, 5] {
        for (i, part) in split_gguf(&bytes, count).iter().enumerate() {
            fs::write(at.join(name(i, count)), part).expect("written");
        }
        for i in 0..count {
            assert_eq!(loss_of(at, &["--model", &name(i, count)]), loss, "by part {i} of {count}");
        }
        well(at, &["plan", "--model", &name(0, count)]);
    }
    let told = |model: &str, parts: &[&str]| {
        says(&error(at, &["eval", "--data", "rows.jsonl", "--model", model]), parts);
    };
    fs::rename(at.join(name(3, 5)), at.join("kept")).expect("renamed");
    told(&name(0, 5), &["x-00004-of-00005.gguf is missing, part 4 of 5", "all parts"]);
    fs::copy(at.join(name(1, 5)), at.join(name(3, 5))).expect("copied");
    told(&name(0, 5), &["says part 2 of 5, its name 4 of 5"]);
    fs::rename(at.join(name(0, 2)), at.join("first.gguf")).expect("renamed");
    told("first.gguf", &["part 1 of 2 of a split file", "NAME-00001-of-00002.gguf"]);
    // A file that is not here is no repository of the hub.
    for model in ["models/none.gguf", "none.gguf", "./none.gguf"] {
        told(model, &[&format!("{model}: no such file or folder"), "models nearby: "]);
    }
}

/// The bytes of codes are the same under the name of every type.
#[test]
fn codes_of_bitsandbytes_are_read_in_every_storage_type() {
    let dir = place("model_bnb_storage");
    let at = dir.path();
    let file = at.join("model/model.safetensors");
    let whole = tensors(&file);
    let loss = loss_of(at, &["--model", "model"]);
    let stored: Vec<&String> =
        whole.keys().filter(|name| whole.contains_key(&format!("{name}.absmax"))).collect();
    assert_eq!(stored.len(), 14);
    for (dtype, bytes, name) in [
        ("U8", 1, "uint8"),
        ("F16", 2, "float16"),
        ("F32", 4, "float32"),
        ("I8", 1, "int8"),
        ("F64", 8, "float64"),
    ] {
        let mut other = whole.clone();
        for name in &stored {
            let tensor = other.get_mut(*name).expect("it is there");
            (tensor.0, tensor.1) = (dtype.to_owned(), vec![tensor.2.len() / bytes, 1]);
        }
        write_tensors(&file, &other);
        edit_json(&at.join("model/config.json"), |json| {
            json["quantization_config"]["bnb_4bit_quant_storage"] = json!(name);
        });
        assert_eq!(loss_of(at, &["--model", "model"]), loss, "{dtype}");
    }
    let mut other = whole.clone();
    other.get_mut(stored[0]).expect("it is there").0 = "BOOL".to_owned();
    other.get_mut(stored[0]).expect("it is there").1 = vec![whole[stored[0]].2.len(), 1];
    write_tensors(&file, &other);
    says(
        &error(at, &["eval", "--data", "rows.jsonl", "--model", "model"]),
        &[stored[0], "the tensor is BOOL"],
    );
}

#[test]
fn a_single_file_comes_before_an_index() {
    let dir = place("model_stale_index");
    let at = dir.path();
    let loss = loss_of(at, &["--model", "model"]);
    let index = at.join("model/model.safetensors.index.json");
    for text in ["{}", "not JSON", r#"{"weight_map": {"a": "model.safetensors"}}"#] {
        fs::write(&index, text).expect("written");
        assert_eq!(loss_of(at, &["--model", "model"]), loss, "{text}");
        well(at, &["plan", "--model", "model", "--recommend"]);
    }
    // Shards whose index is not there.
    fs::remove_file(&index).expect("removed");
    fs::rename(at.join("model/model.safetensors"), at.join("model/model-00001-of-00002.safetensors"))
        .expect("renamed");
    let told = error(at, &["eval", "--data", "rows.jsonl", "--model", "model"]);
    says(
        &told,
        &["has neither model.safetensors", "model-00001-of-00002.safetensors, whose index is missing"],
    );
}

/// What a decoder's names begin with depends on what it was saved from.
#[test]
fn weights_under_other_prefixes_are_read_or_told() {
    let dir = place("model_stale_index");
    let at = dir.path();
    fs::remove_file(at.join("model/model.safetensors.index.json")).expect("removed");
    let file = at.join("model/model.safetensors");
    let whole = tensors(&file);
    let loss = loss_of(at, &["--model", "model"]);
    for prefix in
        ["", "_orig_mod.model.", "module.model.", "language_model.model.", "model.language_model.", "gpt."]
    {
        // A prefix that does not end as the decoder's own is not taken for one.
        let is_read = prefix != "gpt.";
        write_tensors(&file, &whole);
        rename(&file, |name| name.replacen("model.", prefix, 1));
        match is_read {
            true => assert_eq!(loss_of(at, &["--model", "model"]), loss, "{prefix}"),
            false => says(
                &error(at, &["eval", "--data", "rows.jsonl", "--model", "model"]),
                &["model.embed_tokens.weight is missing", "such as gpt."],
            ),
        }
    }
    // What trains over such a folder and what is quantised from it have the usual names.
    write_tensors(&file, &whole);
    rename(&file, |name| name.replacen("model.", "", 1));
    well(at, &["quantize", "--model", "model", "--out", "nf4", "--quant", "nf4", "--quiet"]);
    assert!(tensors(&at.join("nf4/model.safetensors")).keys().all(|name| name.starts_with("model.")));
    let own = loss_of(at, &["--model", "nf4"]);
    assert_eq!(own, loss_of(at, &["--model", "model", "--quant", "nf4", "--compute-dtype", "f32"]));

    let refused = |edit: &dyn Fn(&str) -> String, parts: &[&str]| {
        write_tensors(&file, &whole);
        rename(&file, edit);
        let told = error(at, &["eval", "--data", "rows.jsonl", "--model", "model"]);
        says(&told, parts);
        assert!(!told.contains("damaged") && !told.contains("cut short"), "{told}");
    };
    refused(
        &|name| name.replace("q_proj.weight", "q_proj.qweight"),
        &["quantised by GPTQ or AWQ", "--quant nf4"],
    );
    refused(
        &|name| name.replace("q_proj.weight", "q_proj.base_layer.weight"),
        &["the state of a PEFT model", "merge"],
    );
    refused(&|name| name.replace("model.embed_tokens", "tok_embeddings"), &["the maker's own format"]);
    edit_json(&at.join("model/config.json"), |json| json["tie_word_embeddings"] = json!(false));
    refused(
        &|name| name.replacen("model.", "", 1),
        &["saved from the model without its head", "tie_word_embeddings"],
    );
}

/// "Damaged" is said of files that are; of others what they are.
#[test]
fn files_that_are_something_else_are_named() {
    for (begin, parts) in [
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            ["a pointer of git-lfs", "git lfs pull"],
        ),
        ("<!DOCTYPE html>\n<html>", ["a web page", "/resolve/main/"]),
        ("PK\u{3}\u{4}archive/data.pkl", ["a pickle file", "save_pretrained"]),
    ] {
        let dir = place("model_stale_index");
        let at = dir.path();
        fs::write(at.join("model/model.safetensors"), begin).expect("written");
        fs::write(at.join("x.gguf"), begin).expect("written");
        for model in ["model", "x.gguf"] {
            let told = error(at, &["eval", "--data", "rows.jsonl", "--model", model]);
            says(&told, &parts);
            assert!(!told.contains("damaged") && !told.contains("cut short"), "{told}");
        }
    }
}

fn ids(at: &Path) -> String {
    well(at, &["data", "rows.jsonl", "--model", "model", "--rows", "1", "--ids"])
}

/// Tokens get the ids that AutoTokenizer gives them, from whichever file they come.
#[test]
fn tokens_are_added_as_transformers_adds_them() {
    let dir = place("tokenizer_added_in_settings");
    let at = dir.path();
    let settings = at.join("model/tokenizer_config.json");
    let is_added = |how: &str| assert!(ids(at).contains("ids: 67⟦ 320 68 2⟧"), "{how}: {}", ids(at));
    let without = |edit: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        edit_json(&settings, |json| {
            let map = json.as_object_mut().expect("an object");
            if let Some(tokens) = map.get_mut("added_tokens_decoder").and_then(Value::as_object_mut) {
                tokens.remove("320");
            }
            edit(map);
        });
    };
    without(&|map| drop(map.insert("additional_special_tokens".into(), json!(["<|tool|>"]))));
    is_added("additional_special_tokens");
    without(&|map| {
        map.remove("additional_special_tokens");
        map.insert("extra_special_tokens".into(), json!({"tool_token": "<|tool|>"}));
    });
    is_added("extra_special_tokens");
    without(&|map| {
        map.remove("extra_special_tokens");
        map.insert("tool_token".into(), json!("<|tool|>"));
    });
    is_added("a token of the model's own");
    without(&|map| {
        map.remove("tool_token");
        map.remove("added_tokens_decoder");
    });
    fs::write(at.join("model/added_tokens.json"), r#"{"<|tool|>": 320}"#).expect("written");
    is_added("added_tokens.json");
    fs::write(at.join("model/added_tokens.json"), r#"{"<|tool|>": "x"}"#).expect("written");
    says(
        &error(at, &["data", "rows.jsonl", "--model", "model"]),
        &["added_tokens.json", "`<|tool|>` is \"x\""],
    );
}

/// The post-processor of `tokenizer.json` has the last word.
#[test]
fn settings_do_not_add_what_the_post_processor_does_not() {
    let dir = place("tokenizer_add_bos_false");
    let at = dir.path();
    let expected = ids(at);
    for (bos, eos) in [(json!(true), json!(true)), (Value::Null, json!(false)), (json!(false), json!(true))] {
        edit_json(&at.join("model/tokenizer_config.json"), |json| {
            (json["add_bos_token"], json["add_eos_token"]) = (bos, eos);
        });
        assert_eq!(ids(at), expected);
    }
    edit_json(&at.join("model/tokenizer.json"), |json| json["post_processor"] = Value::Null);
    assert!(ids(at).contains("ids: 42⟦ 71"), "{}", ids(at));
}

/// A template for tools is taken for rows with tools, and for no others.
#[test]
fn rows_with_tools_are_written_by_the_template_for_tools() {
    let dir = place("tokenizer_tool_use_template");
    let at = dir.path();
    let shown = || well(at, &["data", "rows.jsonl", "--model", "model", "--rows", "1"]);
    let expected = shown();
    let settings = at.join("model/tokenizer_config.json");
    let text = fs::read_to_string(&settings).expect("a file");
    let list = serde_json::from_str::<Value>(&text).expect("JSON")["chat_template"].clone();
    let template = |i: usize| list[i]["template"].as_str().expect("text").to_owned();
    edit_json(&settings, |json| {
        json["chat_template"] = json!({"default": template(0), "tool_use": template(1)})
    });
    assert_eq!(shown(), expected, "by name");
    edit_json(&settings, |json| json["chat_template"] = json!(template(0)));
    fs::create_dir(at.join("model/additional_chat_templates")).expect("made");
    fs::write(at.join("model/additional_chat_templates/tool_use.jinja"), template(1)).expect("written");
    assert_eq!(shown(), expected, "in a file, the default in the settings");
    fs::write(at.join("model/chat_template.jinja"), template(0)).expect("written");
    assert_eq!(shown(), expected, "both in files");
    // A model that is trained keeps both.
    let flags = ["--data", "rows.jsonl", "--max-steps", "1", "--quiet"];
    well(at, &[&["train", "--model", "model", "--method", "full", "--out", "run"], &flags[..]].concat());
    well(at, &["quantize", "--model", "model", "--out", "nf4", "--quant", "nf4", "--quiet"]);
    for model in ["run/model", "nf4"] {
        assert_eq!(well(at, &["data", "rows.jsonl", "--model", model, "--rows", "1"]), expected, "{model}");
    }
    // `--template` takes the place of both: one that does not write tools is refused for such rows.
    fs::write(at.join("own.jinja"), template(0)).expect("written");
    let told = error(at, &["data", "rows.jsonl", "--model", "model", "--template", "own.jinja"]);
    says(&told, &["rows.jsonl line 1", "tools"]);
    let reply = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
    for (tools, has_tools) in [(Value::Null, false), (json!([]), true)] {
        let row = json!({"messages": reply, "tools": tools});
        fs::write(at.join("rows.jsonl"), row.to_string()).expect("written");
        assert_eq!(shown().contains("Tools: ["), has_tools, "{row}: {}", shown());
    }
}

/// Tokens that the embedding lacks are an error of the rows that have them, whoever computes them.
#[test]
fn every_verb_refuses_tokens_beyond_the_embedding() {
    let dir = place("tokenizer_longer_than_embedding");
    let at = dir.path();
    fs::write(at.join("bad.jsonl"), "{\"text\": \"Hello there\"}\n{\"text\": \"a[PAD]b\"}\n")
        .expect("written");
    well(
        at,
        &["train", "--model", "model", "--data", "rows.jsonl", "--out", "run", "--max-steps", "1", "--quiet"],
    );
    well(at, &["generate", "--model", "model", "--prompt", "Hello", "--max-new-tokens", "2"]);
    let told = ["has the token `[PAD]` (320)", "embedding has 320 tokens"];
    for arguments in [
        &["train", "--model", "model", "--data", "bad.jsonl", "--out", "bad"][..],
        &["train", "--model", "model", "--data", "rows.jsonl", "--eval-data", "bad.jsonl", "--out", "bad"],
        &["eval", "--model", "model", "--data", "bad.jsonl"],
        &["eval", "--model", "model", "--data", "bad.jsonl", "--no-cache"],
        &["compare", "--runs", "run", "--data", "bad.jsonl"],
        &["generate", "--model", "model", "--prompt", "a[PAD]b"],
        &["generate", "--model", "model", "--prompt", "a[PAD]b", "--chat"],
    ] {
        says(&error(at, arguments), &told);
    }
    assert!(!at.join("bad").exists(), "a run that is refused leaves nothing");
}

/// Rows beyond the window are computed by every verb.
#[test]
fn every_verb_takes_rows_beyond_the_window() {
    let dir = place("model_sliding_window");
    let at = dir.path();
    let rows = ["--model", "model", "--data", "rows.jsonl"];
    well(at, &[&["train", "--out", "run", "--max-steps", "1", "--quiet"], &rows[..]].concat());
    well(at, &[&["eval", "--adapter", "run"], &rows[..]].concat());
    well(at, &["compare", "--runs", "run", "--data", "rows.jsonl"]);
    well(at, &["generate", "--model", "model", "--prompt", "one two three", "--max-new-tokens", "8"]);
    let told = well(at, &["plan", "--model", "model", "--recommend"]);
    assert!(told.contains("lorafit train --model model"), "{told}");
    let told =
        lorafit_with_input(at, &["chat", "--model", "model", "--max-new-tokens", "8"], "one two three\n");
    assert!(!told.contains("error"), "{told}");
}

/// Flags that would change nothing are refused by name.
#[test]
fn flags_that_cannot_act_are_refused() {
    let place = AdapterPlace::new();
    let at = place.dir.path();
    let train =
        ["train", "--model", BASE, "--data", "rows.jsonl", "--out", "run", "--max-steps", "1", "--quiet"];
    for (flag, value) in [
        ("--rank", "16"),
        ("--rank", "8"),
        ("--alpha", "2"),
        ("--dropout", "0.1"),
        ("--target-modules", "q_proj"),
        ("--layers", "1-"),
    ] {
        let told = error(at, &[&train[..], &["--adapter", "adapter", flag, value]].concat());
        says(&told, &[flag, "has no meaning with --adapter"]);
    }
    fs::write(at.join("run.toml"), "adapter = \"adapter\"\nrank = 16\n").expect("written");
    says(
        &error(at, &[&train[..], &["--config", "run.toml"]].concat()),
        &["--rank has no meaning with --adapter"],
    );
    fs::write(at.join("three.jsonl"), "{\"text\": \"a b c\"}\n".repeat(3)).expect("written");
    for (validation, part) in [("10%", "holds out none of 3 rows"), ("3", "holds out all 3 rows")] {
        let told = error(
            at,
            &["train", "--model", BASE, "--data", "three.jsonl", "--out", "run", "--validation", validation],
        );
        says(&told, &["--validation", part, "--validation 1"]);
    }
    says(
        &error(at, &[&train[..], &["--eval-split", "test"]].concat()),
        &["--eval-split without --eval-data"],
    );
    let generate = ["generate", "--model", BASE, "--prompt", "a", "--top-k", "3"];
    says(&error(at, &generate), &["no meaning at --temperature 0"]);
    for file in ["x.bmp", "x.jpg", "x.svgz"] {
        let told = error(at, &["plan", "--model", BASE, "--svg", file]);
        says(&told, &[file, "name it .svg, .png, .pdf or .csv"]);
        assert!(!at.join(file).exists());
    }
    assert!(!at.join("run").exists(), "a run that is refused leaves nothing");
    well(at, &[&train[..], &["--adapter", "adapter"]].concat());
    well(at, &["plan", "--model", BASE, "--svg", "x.SVG"]);
}

/// A run says where its files are so that they are found from any folder.
#[test]
fn a_run_is_resumed_from_another_folder() {
    let place = AdapterPlace::new();
    let at = place.dir.path();
    let model = at.join("base");
    fs::create_dir(&model).expect("made");
    for entry in fs::read_dir(BASE).expect("the base").map(|entry| entry.expect("an entry").path()) {
        if entry.is_file() {
            fs::copy(&entry, model.join(entry.file_name().expect("a name"))).expect("copied");
        }
    }
    fs::create_dir(at.join("elsewhere")).expect("made");
    let flags =
        ["--model", "base", "--data", "*.jsonl:2", "--adapter", "adapter", "--max-steps", "4", "--quiet"];
    let flags = [&flags[..], &["--checkpoint-every", "2", "--keep-checkpoints", "5"]].concat();
    for run in ["one", "two"] {
        well(at, &[&["train", "--out", run], &flags[..]].concat());
    }
    for name in ["adapter_model.safetensors", "adapter_config.json"] {
        fs::remove_file(at.join("two").join(name)).expect("removed");
    }
    fs::remove_dir_all(at.join("two/checkpoints/step-4")).unwrap_or(());
    well(&at.join("elsewhere"), &["train", "--resume", "../two", "--quiet"]);
    for name in ["adapter_model.safetensors", "adapter_config.json"] {
        let read = |run: &str| fs::read(at.join(run).join(name)).expect("saved");
        assert_eq!(read("one"), read("two"), "{name}");
    }
}

/// What `plan` prints as a command runs; where nothing would, it prints none.
#[test]
fn plan_prints_only_commands_that_run() {
    let dir = place("model_stale_index");
    let at = dir.path();
    let plan = |arguments: &[&str]| well(at, &[&["plan", "--recommend"], arguments].concat());
    for model in ["llama-2-7b", "model/config.json"] {
        let told = plan(&["--model", model]);
        assert!(!told.contains("lorafit train") && told.contains("a shape without weights"), "{told}");
    }
    fs::rename(at.join("model"), at.join("my model")).expect("renamed");
    fs::rename(at.join("rows.jsonl"), at.join("train.jsonl")).expect("renamed");
    let bnb = place("model_bnb_storage");
    for (at, arguments) in [
        (at, &["--model", "my model", "--max-seq-len", "64"][..]),
        (at, &["--model", "my model", "--target-modules", r"regex:.*\.(q|v)_proj"]),
        (at, &["--model", "my model", "--rank", "4", "--activation-dtype", "bf16"]),
        (bnb.path(), &["--model", "model"]),
    ] {
        let told = well(at, &[&["plan", "--recommend"], arguments].concat());
        let command = told.lines().find(|line| line.starts_with("lorafit train ")).expect("a command");
        if !at.join("train.jsonl").exists() {
            fs::rename(at.join("rows.jsonl"), at.join("train.jsonl")).expect("renamed");
        }
        let line = command.replacen("lorafit", env!("CARGO_BIN_EXE_lorafit"), 1)
            + " --max-steps 1 --overwrite --quiet";
        let mut shell = Command::new("sh");
        let output = shell.args(["-c", &line]).current_dir(at).output().expect("starts");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Logits that are no numbers are an error that names the weight, and not a result.
#[test]
fn weights_that_are_no_numbers_are_an_error() {
    let dir = place("model_stale_index");
    let at = dir.path();
    let file = at.join("model/model.safetensors");
    let mut whole = tensors(&file);
    let name = "model.layers.1.mlp.up_proj.weight";
    let (dtype, _, bytes) = whole.get_mut(name).expect("it is there");
    let size = if dtype == "F32" { 4 } else { 2 };
    // All ones are NaN in every float.
    bytes[..size].fill(0xff);
    write_tensors(&file, &whole);
    let parts = ["the logits are not numbers", name, "has the value NaN"];
    says(&error(at, &["eval", "--data", "rows.jsonl", "--model", "model", "--json"]), &parts);
    says(&error(at, &["generate", "--model", "model", "--prompt", "Hello"]), &parts);
    let told =
        error(at, &["train", "--model", "model", "--data", "rows.jsonl", "--out", "run", "--epochs", "1"]);
    says(&told, &parts);
}

/// A GGUF file without a tokenizer is not called damaged.
#[test]
fn a_gguf_file_without_a_tokenizer_is_told() {
    let dir = TempDir::new().expect("a folder");
    let file = format!("{ROOT}/fixtures/gguf/llama-f32.gguf");
    let told = error(dir.path(), &["generate", "--model", &file, "--prompt", "Hello"]);
    says(&told, &["llama-f32.gguf: the GGUF file has no tokenizer", "tokenizer.json"]);
    assert!(!told.contains("damaged"), "{told}");
}

/// A base that is not the adapter's is told as that.
#[test]
fn inspect_tells_an_adapter_of_another_base() {
    let dir = place("adapter_foreign_names");
    let other = format!("{ROOT}/fixtures/models/llama");
    says(
        &error(dir.path(), &["inspect", "adapter", "--model", &other]),
        &["the adapter does not fit", "the adapter is of another base"],
    );
}

#[test]
fn plan_tells_that_nothing_fits() {
    let dir = TempDir::new().expect("a folder");
    let told = |memory| well(dir.path(), &["plan", "--model", "gemma-2-9b", "--memory", memory]);
    let note = "Not even a row of one token fits. plan --recommend says what would.";
    says(&told("1MB"), &[note]);
    assert!(!told("64GiB").contains(note));
}

/// Every published shape can be planned and trained.
#[test]
fn plan_recommends_for_every_published_shape() {
    let dir = TempDir::new().expect("a folder");
    for shape in ["gemma-2-9b", "phi-3-mini", "olmo-2-1b", "command-r7b"] {
        let told = well(dir.path(), &["plan", "--model", shape, "--recommend", "--memory", "64GiB"]);
        says(&told, &["train over"]);
    }
}
