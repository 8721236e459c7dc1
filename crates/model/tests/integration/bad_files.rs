//! Broken and hostile files: each is an error that names the file, what is wrong in it and what was expected; none
//! panics, takes memory that the file does not have, or reads outside the file.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::{Case, FileTensor, edit_safetensors, fixture, gguf_fixture};
use lorafit_kernels::Device;
use lorafit_kernels::ops::attention::Segments;
use lorafit_model::adapter::{self, Adapter, LoraConfig, Targets, TokenIndices, named_tensors};
use lorafit_model::weights::{Gguf, ModelFiles};
use lorafit_model::{Buffers, FileError, Model, Stream};
use regex::Regex;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder to break things in, with the files of `source` (without its subfolders).
fn copy_of(source: &Path) -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(source).expect("the fixture") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_file() {
            fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("copied");
        }
    }
    dir
}

fn load(path: &Path) -> Result<Model, FileError> {
    Model::load(&ModelFiles::open(path)?, Device::Cpu)
}

/// Loads, and if that succeeds reads every weight.
fn load_and_run(path: &Path) -> Result<(), FileError> {
    let model = load(path)?;
    let ids: Vec<u32> = (0..4).map(|i| i % model.config().vocab_size as u32).collect();
    let positions = [0, 1, 2, 3];
    let segments = Segments::single(ids.len());
    let stream = Stream { ids: &ids, positions: &positions, segments: &segments, targets: &[], below: 0 };
    let mut buffers = Buffers::for_evaluation(model.config(), None, Device::Cpu, ids.len());
    let logits = model.all_logits(None, stream, &mut buffers);
    assert_eq!(logits.len(), ids.len() * model.config().vocab_size);
    Ok(())
}

/// The error names `file` first and then says `problem`.
#[track_caller]
fn assert_error<T>(result: Result<T, FileError>, file: &Path, problem: &str) -> FileError {
    let Err(error) = result else { panic!("no error, expected: {problem}") };
    let message = error.to_string();
    let rest = message.strip_prefix(&format!("{}: ", file.display()));
    assert!(rest.is_some_and(|r| r.contains(problem)), "found: {message}\nexpected: {problem}");
    error
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut json: Value =
        serde_json::from_str(&fs::read_to_string(path).expect("a JSON file")).expect("JSON");
    edit(&mut json);
    fs::write(path, json.to_string()).expect("written");
}

// Model folders.

#[test]
fn what_a_folder_lacks_is_named() {
    let missing = Path::new("/nowhere/at/all");
    assert_error(load(missing), missing, "cannot open: No such file or directory");

    let dir = copy_of(&fixture("llama"));
    fs::remove_file(dir.path().join("model.safetensors")).expect("removed");
    let error = assert_error(
        load(dir.path()),
        dir.path(),
        "has neither model.safetensors nor model.safetensors.index",
    );
    assert!(error.hint().is_some_and(|h| h.to_string().contains("*.safetensors")));

    fs::remove_file(dir.path().join("config.json")).expect("removed");
    let config = dir.path().join("config.json");
    assert_error(load(dir.path()), &config, "cannot read the model's configuration: No such file");
}

#[test]
fn pickle_files_are_refused_with_the_way_out() {
    for name in ["pytorch_model.bin", "consolidated.00.pth", "model.pt"] {
        let dir = copy_of(&fixture("llama"));
        let pickle = dir.path().join(name);
        fs::rename(dir.path().join("model.safetensors"), &pickle).expect("renamed");
        let error = assert_error(load(dir.path()), &pickle, "pickle files can run code");
        assert!(error.hint().is_some_and(|h| h.to_string().contains("save_pretrained")));
    }
}

#[test]
fn configurations_that_cannot_be_used_are_named_with_key_and_value() {
    type Edit = fn(&mut Value);
    let cases: [(Edit, &str); 10] = [
        (|c| c["model_type"] = json!("gpt_neox"), "`model_type` is \"gpt_neox\", expected a supported"),
        (|c| c["vocab_size"] = json!(-1), "`vocab_size` is -1, expected a whole number from 1 to"),
        (|c| c["hidden_size"] = json!(1u64 << 63), "`hidden_size` is 9223372036854775808, expected"),
        (|c| c["num_hidden_layers"] = json!(4097), "4097 layers of 4 heads of 16: larger than any model"),
        (|c| c["num_key_value_heads"] = json!(3), "3 key/value heads do not divide 4 query heads"),
        (|c| c["head_dim"] = json!(7), "`head_dim` is 7, expected an even number"),
        (|c| c["intermediate_size"] = Value::Null, "`intermediate_size` is null, expected a whole number"),
        (|c| c["quantization_config"] = json!({"bits": 4}), "expected none, or that of bitsandbytes"),
        (|c| c["rope_scaling"] = json!({"rope_type": "ntk"}), "`rope_type` is \"ntk\", expected"),
        (|c| *c = json!([1]), "not JSON: invalid type"),
    ];
    for (edit, problem) in cases {
        let dir = copy_of(&fixture("llama"));
        let config = dir.path().join("config.json");
        edit_json(&config, edit);
        assert_error(load(dir.path()), &config, problem);
    }
    let dir = copy_of(&fixture("llama"));
    let config = dir.path().join("config.json");
    edit_json(&config, |c| c["model_type"] = json!("gpt_neox"));
    let error = load(dir.path()).expect_err("unsupported");
    assert!(error.hint().is_some_and(|hint| hint.to_string().starts_with("supported: llama, mistral, ")));
    // Nesting that would exhaust the stack of a recursive reader.
    fs::write(&config, "[".repeat(1 << 20)).expect("written");
    assert_error(load(dir.path()), &config, "not JSON");
    fs::write(&config, [0xff, 0xfe]).expect("written");
    assert_error(load(dir.path()), &config, "cannot read the model's configuration: stream did not contain");
}

#[test]
fn text_files_larger_than_any_real_one_are_not_read() {
    let dir = copy_of(&fixture("sharded"));
    for (name, most) in [("model.safetensors.index.json", 4_194_304), ("config.json", 1_048_576)] {
        let path = dir.path().join(name);
        File::create(&path).and_then(|f| f.set_len(1 << 40)).expect("a sparse file");
        let problem = format!("it has 1099511627776 bytes, at most {most} are allowed");
        assert_error(load(dir.path()), &path, &problem);
    }
}

#[test]
fn a_weight_of_another_shape_or_type_is_named_with_both() {
    let dir = copy_of(&fixture("llama"));
    edit_json(&dir.path().join("config.json"), |c| c["intermediate_size"] = json!(128));
    let problem = "model.layers.0.mlp.gate_proj.weight is [96, 64], the configuration says [128, 64]";
    let error = assert_error(load(dir.path()), dir.path(), problem);
    assert!(error.hint().is_some());

    let dir = copy_of(&fixture("llama"));
    edit_safetensors(&dir.path().join("model.safetensors"), |tensors| {
        tensors.retain(|t| t.0 != "model.layers.1.mlp.up_proj.weight")
    });
    assert_error(load(dir.path()), dir.path(), "the tensor model.layers.1.mlp.up_proj.weight is missing");

    let dir = copy_of(&fixture("llama"));
    let file = dir.path().join("model.safetensors");
    edit_safetensors(&file, |tensors| {
        let norm = tensors.iter_mut().find(|t| t.0 == "model.norm.weight").expect("a norm");
        (norm.1, norm.2, norm.3) = (Dtype::U8, vec![64], vec![1; 64]);
    });
    assert_error(load(dir.path()), &file, "model.norm.weight is stored as U8, expected F32, F16 or BF16");
}

#[test]
fn shards_that_are_missing_or_outside_the_folder_are_refused() {
    let dir = copy_of(&fixture("sharded"));
    let index = dir.path().join("model.safetensors.index.json");
    fs::remove_file(dir.path().join("model-00002-of-00003.safetensors")).expect("removed");
    let problem = "names the shard model-00002-of-00003.safetensors, which the folder lacks";
    let error = assert_error(load(dir.path()), &index, problem);
    assert!(error.hint().is_some_and(|h| h.to_string().contains("download")));

    // A real file outside: only the name keeps it from being read.
    let outside = dir.path().join("outside.safetensors");
    fs::copy(fixture("llama/model.safetensors"), &outside).expect("copied");
    let inner = dir.path().join("inner");
    fs::create_dir(&inner).expect("made");
    fs::copy(fixture("llama/config.json"), inner.join("config.json")).expect("copied");
    let absolute = outside.display().to_string();
    for name in ["../outside.safetensors", "a/../../outside.safetensors", &absolute, "..", ".", "", "/"] {
        let index = inner.join("model.safetensors.index.json");
        fs::write(&index, json!({"weight_map": {"lm_head.weight": name}}).to_string()).expect("written");
        assert_error(load(&inner), &index, &format!("`{name}` is not a plain file name"));
    }
}

/// What a link leads to would be copied into a quantised model, or hashed, or told about in errors.
#[cfg(unix)]
#[test]
fn links_out_of_a_folder_are_refused_and_those_of_the_hubs_cache_are_followed() {
    use std::os::unix::fs::symlink;
    for name in ["config.json", "model.safetensors.index.json", "model-00002-of-00003.safetensors"] {
        let dir = copy_of(&fixture("sharded"));
        let elsewhere = tempfile::tempdir().expect("a folder");
        fs::rename(dir.path().join(name), elsewhere.path().join("x")).expect("moved");
        symlink(elsewhere.path().join("x"), dir.path().join(name)).expect("a link");
        let error =
            assert_error(load(dir.path()), &dir.path().join(name), "a link to a file outside of the folder");
        assert!(error.hint().is_some_and(|h| h.to_string().contains("put the file itself there")));
        // Within the folder it is a name like another.
        fs::rename(elsewhere.path().join("x"), dir.path().join("x")).expect("moved");
        fs::remove_file(dir.path().join(name)).expect("removed");
        symlink("x", dir.path().join(name)).expect("a link");
        load(dir.path()).expect("loads");
    }
    let dir = copy_of(&fixture("llama/adapter"));
    fs::remove_file(dir.path().join("adapter_config.json")).expect("removed");
    symlink("/dev/zero", dir.path().join("adapter_config.json")).expect("a link");
    let config = dir.path().join("adapter_config.json");
    assert_error(load_adapter(dir.path()), &config, "a link to a file outside of the folder");

    let cache = tempfile::tempdir().expect("a folder");
    let snapshot = cache.path().join("models--a--b/snapshots/0123");
    fs::create_dir_all(&snapshot).expect("made");
    fs::create_dir(cache.path().join("models--a--b/blobs")).expect("made");
    for name in ["config.json", "model.safetensors"] {
        let blob = cache.path().join("models--a--b/blobs").join(name.len().to_string());
        fs::copy(fixture("llama").join(name), &blob).expect("copied");
        symlink(Path::new("../../blobs").join(name.len().to_string()), snapshot.join(name)).expect("a link");
    }
    load(&snapshot).expect("loads");
}

/// A pipe that nobody writes to would be waited for without end.
#[cfg(unix)]
#[test]
fn pipes_in_the_place_of_files_are_refused() {
    for name in ["config.json", "model.safetensors"] {
        let dir = copy_of(&fixture("llama"));
        let path = dir.path().join(name);
        fs::remove_file(&path).expect("removed");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().expect("runs").success());
        assert_error(load(dir.path()), &path, "it is not a plain file");
    }
}

#[test]
fn indexes_that_are_not_indexes_are_named() {
    for (text, problem) in [
        ("{", "not an index of shards: EOF"),
        ("{}", "not an index of shards: missing field `weight_map`"),
        (r#"{"weight_map": []}"#, "not an index of shards: invalid type: sequence, expected a map"),
        (
            r#"{"weight_map": {"lm_head.weight": 3}}"#,
            "invalid type: integer `3`, expected a string at line 1",
        ),
    ] {
        let dir = copy_of(&fixture("sharded"));
        let index = dir.path().join("model.safetensors.index.json");
        fs::write(&index, text).expect("written");
        assert_error(load(dir.path()), &index, problem);
    }
    // An index that names a shard for a tensor the shard has not.
    let dir = copy_of(&fixture("sharded"));
    edit_json(&dir.path().join("model.safetensors.index.json"), |index| {
        index["weight_map"]["lm_head.weight"] = json!("model-00003-of-00003.safetensors")
    });
    assert_error(load(dir.path()), dir.path(), "the tensor lm_head.weight is missing");
}

/// Tensors need not start at a multiple of their size: safetensors does not promise it.
#[test]
fn weights_at_odd_addresses_are_read() {
    let dir = copy_of(&fixture("llama"));
    let path = dir.path().join("model.safetensors");
    let mut bytes = fs::read(&path).expect("the fixture");
    let header = u64::from_le_bytes(*bytes.first_chunk().expect("a length"));
    bytes[..8].copy_from_slice(&(header + 1).to_le_bytes());
    bytes.insert(8 + header as usize, b' ');
    fs::write(&path, bytes).expect("written");
    let expected = fixture("llama/expected.safetensors");
    Case::of(dir.path(), "llama", &expected).assert_logits("at odd addresses");
}

// Damaged files. That every cut and every flipped bit is survived, `lorafit/tests/integration/hostile` shows.

/// Where the header of the fixture ends: after the last offset of its last tensor.
fn header_len(bytes: &[u8]) -> usize {
    let last = bytes.windows(6).rposition(|w| w == b"blk.1.").expect("a tensor name");
    // The rest of a name, a rank, at most two dimensions, a type and an offset.
    last + 32 + 4 + 16 + 4 + 8
}

#[test]
fn what_a_cut_gguf_lacks_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("model.gguf");
    let whole = fs::read(gguf_fixture("llama-mixed.gguf")).expect("the fixture");
    fs::write(&path, &whole[..whole.len() - 1]).expect("written");
    assert_error(load(&path), &path, "do not lie in the file");
    fs::write(&path, &whole[..60]).expect("written");
    assert_error(load(&path), &path, "bytes that are left");
    fs::write(&path, "PK\x03\x04 and so on").expect("written");
    assert_error(load(&path), &path, "not a GGUF file: it does not begin with GGUF");
}

/// Every tensor of these is found by its offset, so any value there must stay inside the file.
#[test]
fn damaged_weights_load_and_run() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("model.gguf");
    let mut bytes = fs::read(gguf_fixture("llama-mixed.gguf")).expect("the fixture");
    let header = header_len(&bytes).next_multiple_of(4096);
    // All ones are NaN in every float and every block scale.
    bytes[header..].fill(0xff);
    fs::write(&path, bytes).expect("written");
    load_and_run(&path).expect("numbers are not looked at when loading");
}

// GGUF by hand.

/// A GGUF file being written: what it counts and what it has are independent.
#[derive(Default)]
struct Header {
    tensors: u64,
    entries: u64,
    rest: Vec<u8>,
}

const U8: u32 = 0;
const U32: u32 = 4;
const F32: u32 = 6;
const TEXT: u32 = 8;
const LIST: u32 = 9;

impl Header {
    fn number(mut self, bytes: &[u8]) -> Self {
        self.rest.extend_from_slice(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        self.number(&(text.len() as u64).to_le_bytes()).number(text.as_bytes())
    }

    fn entry(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.entries += 1;
        self.text(key).number(&kind.to_le_bytes()).number(value)
    }

    fn tensor(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        self.tensors += 1;
        let mut header = self.text(name).number(&(dims.len() as u32).to_le_bytes());
        for dim in dims {
            header = header.number(&dim.to_le_bytes());
        }
        header.number(&kind.to_le_bytes()).number(&offset.to_le_bytes())
    }

    fn bytes(&self) -> Vec<u8> {
        let counts = [self.tensors.to_le_bytes(), self.entries.to_le_bytes()].concat();
        [&b"GGUF"[..], &3u32.to_le_bytes(), &counts, &self.rest].concat()
    }

    /// With 64 KiB of zeros behind.
    fn open(&self) -> (TempDir, PathBuf, Result<Gguf, FileError>) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("bomb.gguf");
        fs::write(&path, [self.bytes(), vec![0; 1 << 16]].concat()).expect("written");
        let result = Gguf::open(&path);
        (dir, path, result)
    }
}

#[test]
fn a_gguf_written_by_hand_is_read() {
    let header = Header::default()
        .entry("answer", U32, &42u32.to_le_bytes())
        .entry("general.alignment", U32, &64u32.to_le_bytes())
        .tensor("t", &[32, 2], 0, 0);
    let gguf = header.open().2.expect("opens");
    assert_eq!(gguf.integer("answer"), Some(42));
}

#[test]
fn sizes_that_a_gguf_cannot_have_are_refused_at_once() {
    let list = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
    let alignment = |n: u32| Header::default().entry("general.alignment", U32, &n.to_le_bytes());
    let tensor = |dims: &[u64], kind, offset| Header::default().tensor("t", dims, kind, offset);
    let cases = [
        (
            Header { tensors: 1 << 63, ..Header::default() },
            "9223372036854775808 tensors at byte 8 do not fit",
        ),
        (
            Header { tensors: u64::MAX, ..Header::default() },
            "18446744073709551615 tensors at byte 8 do not fit",
        ),
        (Header { entries: 1 << 63, ..Header::default() }, "metadata entries at byte 16 do not fit"),
        (Header { entries: 1 << 12, ..Header::default() }, "the metadata key  occurs twice"),
        (
            Header { entries: 1, ..Header::default() }.number(&u64::MAX.to_le_bytes()),
            "a metadata key at byte 24 is 18446744073709551615 bytes long, at most 65535 are allowed",
        ),
        (
            Header { entries: 1, ..Header::default() }.number(&65_535u64.to_le_bytes()).number(b"\xff\xfe"),
            "a metadata key at byte 24 is not UTF-8",
        ),
        (Header::default().entry("k", TEXT, &u64::MAX.to_le_bytes()), "k at byte 37 is 18446744073709551615"),
        (Header::default().entry("k", TEXT, &(1u64 << 20).to_le_bytes()), "k at byte 45 needs 1048576 bytes"),
        (Header::default().entry("k", LIST, &list(U8, u64::MAX)), "18446744073709551615 values of k"),
        (Header::default().entry("k", LIST, &list(F32, 1 << 62)), "4611686018427387904 values of k"),
        (Header::default().entry("k", LIST, &list(TEXT, 1 << 61)), "2305843009213693952 texts of k"),
        (Header::default().entry("k", LIST, &list(LIST, 1)), "k is a list of values of type 9, which is not"),
        (Header::default().entry("k", 13, &[]), "k has the value type 13, which does not exist"),
        (Header::default().entry("k", U8, &[1]).entry("k", U8, &[1]), "the metadata key k occurs twice"),
        (
            alignment(1 << 31),
            "general.alignment is Integer(2147483648), expected a power of two from 8 to 65536",
        ),
        (alignment(3), "general.alignment is Integer(3), expected a power of two"),
        (alignment(0), "general.alignment is Integer(0), expected a power of two"),
        (
            Header::default().entry("general.alignment", TEXT, &[0; 8]),
            "general.alignment is Text(\"\"), expected a power of two",
        ),
        (tensor(&[1 << 32, 1 << 32], 0, 0), "t has dimensions [4294967296, 4294967296], which are too large"),
        (tensor(&[1 << 62], 0, 0), "t has dimensions [4611686018427387904], which are too large"),
        (tensor(&[u64::MAX, 1, 1, 1], 0, 0), "which are too large"),
        (tensor(&[1 << 20], 0, 0), "t: 4194304 bytes at offset 0 do not lie in the file"),
        (tensor(&[32], 0, 1 << 16), "t: 128 bytes at offset 65536 do not lie in the file"),
        (
            tensor(&[32], 0, u64::MAX - 31),
            "t: 128 bytes at offset 18446744073709551584 do not lie in the file",
        ),
        (tensor(&[32], 0, 16), "t: offset 16 is not a multiple of the alignment 32"),
        (tensor(&[32], 0, 0).tensor("u", &[32], 0, 96), "u: offset 96, but the tensors before it end at 128"),
        (tensor(&[32], 0, 64), "t: offset 64, but the tensors before it end at 0"),
        (tensor(&[33], 8, 0), "t: a row of 33 values does not divide into Q8_0 blocks of 32"),
        (tensor(&[0], 0, 0), "t: a row of 0 values"),
        (tensor(&[], 0, 0), "t has 0 dimensions, expected 1 to 4"),
        (tensor(&[1; 5], 0, 0), "t has 5 dimensions, expected 1 to 4"),
        (tensor(&[32], 4, 0), "t has the ggml type 4, which is not one of"),
        (tensor(&[32], u32::MAX, 0), "t has the ggml type 4294967295, which is not one of"),
        (tensor(&[32], 0, 0).tensor("t", &[32], 0, 0), "the tensor t occurs twice"),
    ];
    for (header, problem) in cases {
        let started = Instant::now();
        let (_dir, path, result) = header.open();
        assert_error(result, &path, problem);
        // A refusal takes microseconds; reading what such a header promises, minutes or all memory.
        assert!(started.elapsed() < Duration::from_secs(2), "{problem}: {:?}", started.elapsed());
    }
    for version in [0, 1, 4, u32::MAX] {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("version.gguf");
        let mut bytes = Header::default().bytes();
        bytes[4..8].copy_from_slice(&u32::to_le_bytes(version));
        fs::write(&path, bytes).expect("written");
        assert_error(Gguf::open(&path), &path, &format!("GGUF version {version} is not supported"));
    }
}

/// A sparse file has room for anything at no cost, so that counts which fit in the file are no proof.
#[test]
fn lists_that_only_a_sparse_file_has_room_for_are_refused() {
    let list = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
    for (kind, count, problem) in [
        (U8, 1 << 23, "8388608 values of k at byte 41 are more than the 1310720 that are allowed"),
        (TEXT, 1 << 23, "8388608 texts of k at byte 41 are more than the 1310720 that are allowed"),
        (U8, 1 << 33, "8589934592 values of k at byte 41 do not fit in"),
    ] {
        let started = Instant::now();
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("sparse.gguf");
        let mut file = File::create(&path).expect("a file");
        file.write_all(&Header::default().entry("k", LIST, &list(kind, count)).bytes()).expect("written");
        file.set_len(1 << 34).expect("a sparse file");
        assert_error(Gguf::open(&path), &path, problem);
        assert!(started.elapsed() < Duration::from_secs(2), "{problem}: {:?}", started.elapsed());
    }
}

/// The smallest metadata of a model; `token_embd.weight` has `vocab` rows.
fn metadata(vocab: u64) -> Header {
    ["embedding_length", "feed_forward_length", "block_count", "attention.head_count"]
        .iter()
        .fold(
            Header::default().entry(
                "general.architecture",
                TEXT,
                &[&5u64.to_le_bytes()[..], b"llama"].concat(),
            ),
            |header, key| {
                let value: u32 = if key.contains("count") { 1 } else { 32 };
                header.entry(&format!("llama.{key}"), U32, &value.to_le_bytes())
            },
        )
        .tensor("token_embd.weight", &[32, vocab], 0, 0)
}

#[test]
fn gguf_models_that_cannot_be_used_are_named_with_key_and_value() {
    let float = |key: &str, value: f32| {
        let mut header = metadata(8);
        let tensor = header.rest.split_off(header.rest.len() - (8 + 17 + 4 + 16 + 4 + 8));
        header = header.entry(key, F32, &value.to_le_bytes());
        header.number(&tensor)
    };
    let number = |key: &str, value: u32| {
        let mut header = metadata(8);
        let tensor = header.rest.split_off(header.rest.len() - (8 + 17 + 4 + 16 + 4 + 8));
        header = header.entry(key, U32, &value.to_le_bytes());
        header.number(&tensor)
    };
    let cases = [
        (metadata(8), "the tensor blk.0.attn_norm.weight is missing"),
        (metadata(0), "the vocabulary has 0 tokens, expected 1 to 16777216"),
        (Header::default(), "`general.architecture` (model_type) is \"\", expected a supported architecture"),
        (
            Header::default().entry(
                "general.architecture",
                TEXT,
                &[&5u64.to_le_bytes()[..], b"llama"].concat(),
            ),
            "`llama.embedding_length` is missing",
        ),
        (
            float("llama.rope.freq_base", f32::NAN),
            "`llama.rope.freq_base` is NaN, expected a number above zero",
        ),
        (float("llama.rope.freq_base", 0.0), "`llama.rope.freq_base` is 0, expected a number above zero"),
        (
            float("llama.attention.layer_norm_rms_epsilon", -1.0),
            "`llama.attention.layer_norm_rms_epsilon` is -1, expected a number above zero",
        ),
        (
            number("llama.rope.dimension_count", 16),
            "`llama.rope.dimension_count` is 16, expected the whole head",
        ),
        (
            number("llama.attention.head_count_kv", 0),
            "`llama.attention.head_count_kv` is 0, expected a whole",
        ),
        (
            metadata(8).tensor("rope_freqs.weight", &[16], 0, 1024),
            "rope_freqs.weight has 0, expected numbers above",
        ),
        (metadata(8).tensor("rope_freqs.weight", &[16], 1, 1024), "rope_freqs.weight is not stored as F32"),
        (
            metadata(8).tensor("rope_freqs.weight", &[8], 0, 1024),
            "rope_freqs.weight has 8 values, expected 16",
        ),
    ];
    for (header, problem) in cases {
        let (_dir, path, result) = header.open();
        result.expect("as a file it is whole");
        assert_error(load(&path), &path, problem);
    }
}

// Adapters.

fn load_adapter(dir: &Path) -> Result<Adapter, FileError> {
    let config = ModelFiles::open(&fixture("llama")).expect("the fixture opens").config().clone();
    adapter::load(dir, &config, Device::Cpu)
}

const Q_A: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";

#[test]
fn adapter_configurations_that_cannot_be_used_are_named_with_key_and_value() {
    let cases: [(&str, Value, &str); 25] = [
        ("peft_type", json!("IA3"), "`peft_type` is \"IA3\", expected \"LORA\""),
        ("use_dora", json!(1), "`use_dora` is 1, expected true or false"),
        ("bias", json!("all"), "`bias` is \"all\", expected \"none\""),
        ("lora_bias", json!(true), "`lora_bias` is true, expected false"),
        ("modules_to_save", json!(["mlp"]), "`modules_to_save`: `mlp` cannot be trained whole"),
        ("exclude_modules", json!(1), "`exclude_modules` is 1, expected a list of names or a pattern"),
        (
            "trainable_token_indices",
            json!("1"),
            "`trainable_token_indices` is \"1\", expected a list of token ids",
        ),
        (
            "init_lora_weights",
            json!("pissa_niter_4"),
            "`init_lora_weights` is \"pissa_niter_4\", expected one",
        ),
        ("r", json!(0), "`r` is 0, expected a rank from 1 to 65536"),
        ("r", json!("4"), "`r` is \"4\", expected a rank"),
        ("lora_alpha", json!("8"), "`lora_alpha` is \"8\", expected a number"),
        ("lora_dropout", json!("0"), "`lora_dropout` is \"0\", expected a number from 0"),
        ("lora_dropout", json!(1.5), "`lora_dropout` is 1.5, expected a number from 0"),
        ("use_rslora", json!("yes"), "`use_rslora` is \"yes\", expected true or false"),
        ("target_modules", Value::Null, "`target_modules` is null, expected a list of names or a pattern"),
        ("target_modules", json!(["c_attn"]), "the target modules match no projection of the model"),
        ("target_modules", json!([]), "no target modules given"),
        ("target_modules", json!("(q_proj"), "target modules pattern `(q_proj` is not a regular expression"),
        ("target_modules", json!(".*c_attn"), "the target modules match no projection of the model"),
        ("layers_to_transform", json!([0, 2]), "layer 2 does not exist in a model of 2 layers"),
        ("layers_to_transform", json!([0, -1]), "`layers_to_transform` is [0,-1], expected a list of layer"),
        ("layers_to_transform", json!("0"), "`layers_to_transform` is \"0\", expected a list of layer"),
        ("rank_pattern", json!({"(": 2}), "`rank_pattern`: `(` is not a regular expression"),
        ("rank_pattern", json!({"q_proj": 0}), "`rank_pattern`: the value of `q_proj` is 0"),
        ("alpha_pattern", json!([]), "`alpha_pattern` is [], expected values by pattern"),
    ];
    for (key, value, problem) in cases {
        let dir = copy_of(&fixture("llama/adapter"));
        let config = dir.path().join("adapter_config.json");
        edit_json(&config, |c| c[key] = value);
        assert_error(load_adapter(dir.path()), &config, problem);
    }
    let dir = copy_of(&fixture("llama/adapter"));
    let config = dir.path().join("adapter_config.json");
    fs::write(&config, "{\"r\": 4").expect("written");
    assert_error(load_adapter(dir.path()), &config, "not an adapter configuration: EOF");
    // In a folder of its own: whatever lies beside it would be named.
    let place = TempDir::new().expect("a folder");
    let alone = place.path().join("adapter");
    fs::rename(dir.path(), &alone).expect("renamed");
    let config = alone.join("adapter_config.json");
    fs::remove_file(&config).expect("removed");
    let error = assert_error(load_adapter(&alone), &config, "cannot read the adapter's configuration");
    assert!(error.hint().is_some_and(|h| h.to_string().contains("adapter_model.safetensors")));
}

#[test]
fn adapter_tensors_that_do_not_fit_are_named() {
    type Edit = fn(&mut Vec<FileTensor>);
    let cases: [(Edit, String); 5] = [
        (|t| t.retain(|t| t.0 != Q_A), format!("tensor {Q_A} is missing")),
        (
            |t| t.push(("base_model.model.lm_head.lora_A.weight".into(), Dtype::F32, vec![1], vec![0; 4])),
            "tensor base_model.model.lm_head.lora_A.weight belongs to no projection".into(),
        ),
        (
            |t| {
                let q = t.iter_mut().find(|t| t.0 == Q_A).expect("q_proj");
                q.3.truncate(2 * 64 * 4);
                q.2 = vec![2, 64];
            },
            format!("{Q_A} is [2, 64], the model needs [4, 64]"),
        ),
        (
            |t| {
                let q = t.iter_mut().find(|t| t.0 == Q_A).expect("q_proj");
                (q.1, q.3) = (Dtype::U8, vec![0; 4 * 64]);
            },
            format!("{Q_A} is stored as U8, expected F32, F16 or BF16"),
        ),
        (
            |t| {
                let q = t.iter_mut().find(|t| t.0 == Q_A).expect("q_proj");
                q.2 = vec![256];
            },
            format!("{Q_A} is [256], the model needs [4, 64]"),
        ),
    ];
    for (edit, problem) in cases {
        let dir = copy_of(&fixture("llama/adapter"));
        let weights = dir.path().join("adapter_model.safetensors");
        edit_safetensors(&weights, edit);
        assert_error(load_adapter(dir.path()), &weights, &problem);
    }
    let dir = copy_of(&fixture("llama/adapter"));
    let weights = dir.path().join("adapter_model.safetensors");
    edit_json(&dir.path().join("adapter_config.json"), |c| c["layers_to_transform"] = json!([1]));
    assert_error(load_adapter(dir.path()), &weights, "belongs to no projection that");
}

/// A rank is anybody's word: memory is taken only once the tensors have been seen.
#[test]
fn a_rank_that_the_tensors_do_not_have_is_refused_before_memory_is_taken() {
    let dir = copy_of(&fixture("llama/adapter"));
    edit_json(&dir.path().join("adapter_config.json"), |c| c["r"] = json!(65_536));
    let mut config = ModelFiles::open(&fixture("llama")).expect("the fixture opens").config().clone();
    // 4096 layers of this rank would take terabytes.
    (config.num_hidden_layers, config.intermediate_size) = (4096, 1 << 24);
    let started = Instant::now();
    let result = adapter::load(dir.path(), &config, Device::Cpu);
    let weights = dir.path().join("adapter_model.safetensors");
    assert_error(result, &weights, &format!("{Q_A} is [4, 64], the model needs [65536, 64]"));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_adapter_file_that_is_missing_or_cut_is_named() {
    let dir = copy_of(&fixture("llama/adapter"));
    let weights = dir.path().join("adapter_model.safetensors");
    let whole = fs::read(&weights).expect("the copy");
    for len in [whole.len() - 1, 1000, 8, 0] {
        fs::write(&weights, &whole[..len]).expect("cut");
        let error = assert_error(load_adapter(dir.path()), &weights, "not a whole safetensors file");
        assert!(error.hint().is_some());
    }
    fs::remove_file(&weights).expect("removed");
    assert_error(load_adapter(dir.path()), &weights, "cannot open: No such file");
}

/// The logits of the fixture's base with the adapter in `dir`.
fn adapted_logits(adapter_dir: &Path) -> Vec<f32> {
    let case = Case::open("llama");
    let adapter = adapter::load(adapter_dir, case.model.config(), Device::Cpu).expect("loads");
    let p = case.packed(&[0]);
    let mut buffers = Buffers::for_evaluation(case.model.config(), Some(&adapter), Device::Cpu, p.ids.len());
    case.model.all_logits(Some(&adapter), p.stream(), &mut buffers)
}

/// Each option says in other words what plain keys say, so the same tensors give the same bits.
#[test]
fn options_mean_what_they_mean_in_peft() {
    let logits = |edit: &dyn Fn(&mut Value)| {
        let dir = copy_of(&fixture("llama/adapter"));
        edit_json(&dir.path().join("adapter_config.json"), edit);
        adapted_logits(dir.path())
    };
    let names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    // The fixture has rank 4 and alpha 8: scale 2.
    let plain = logits(&|_| {});
    let doubled = logits(&|c| c["lora_alpha"] = json!(16));
    assert_ne!(plain, doubled);
    assert_eq!(logits(&|c| c["use_rslora"] = json!(true)), doubled, "8 / sqrt(4) is 16 / 4");
    let every = |value: u64| names.map(|n| (n.to_owned(), json!(value))).into_iter().collect::<Value>();
    assert_eq!(logits(&|c| c["alpha_pattern"] = every(16)), doubled);
    assert_eq!(logits(&|c| c["alpha_pattern"] = json!({"layers.[01].*": 16})), doubled);
    let ranks = |c: &mut Value| {
        c["r"] = json!(99);
        c["rank_pattern"] = every(4);
    };
    assert_eq!(logits(&ranks), plain, "the scale is that of the projection's own rank");
    // A pattern ends where the path ends, and begins at a dot.
    assert_eq!(logits(&|c| c["alpha_pattern"] = json!({"proj": 16, "layers.0": 16, "q_pro": 16})), plain);
    for targets in [
        json!("all-linear"),
        json!(r"model\.layers\.\d\.(self_attn|mlp)\.[a-z]+_proj"),
        json!(r".*\.layers\..*"),
    ] {
        assert_eq!(logits(&|c| c["target_modules"] = targets.clone()), plain, "{targets}");
    }
    for layers in [json!([0, 1]), json!([]), Value::Null] {
        assert_eq!(logits(&|c| c["layers_to_transform"] = layers.clone()), plain, "{layers}");
    }
}

#[test]
fn patterns_rslora_layers_and_regular_expressions_survive_saving_and_loading() {
    let case = Case::open("llama");
    let lora = LoraConfig {
        rank: 3,
        alpha: 6.5,
        use_rslora: true,
        dropout: 0.25,
        targets: Targets::pattern(r".*\.(q_proj|down_proj)").expect("a pattern"),
        layers: Some(vec![1]),
        rank_pattern: vec![(Regex::new("q_proj").expect("a pattern"), 5)],
        alpha_pattern: vec![(Regex::new(r"mlp\.down_proj").expect("a pattern"), 12.0)],
        exclude: None,
        sites: None,
        use_dora: false,
        tokens: TokenIndices::default(),
        save_modules: Vec::new(),
        ensure_weight_tying: false,
    };
    let mut adapter = Adapter::init(case.model.config(), &lora, 1, Device::Cpu).expect("an adapter");
    for (i, tensor) in adapter.tensors_mut().enumerate() {
        let values: Vec<f32> = (0..tensor.len()).map(|j| ((i + j * 7) % 11) as f32 * 0.03 - 0.15).collect();
        tensor.write(0, &values);
    }
    let logits = |adapter: &Adapter| {
        let p = case.packed(&[1]);
        let mut buffers =
            Buffers::for_evaluation(case.model.config(), Some(adapter), Device::Cpu, p.ids.len());
        case.model.all_logits(Some(adapter), p.stream(), &mut buffers)
    };
    let tensors = |adapter: &Adapter| named_tensors(adapter, adapter.tensors());
    let dir = tempfile::tempdir().expect("a folder");
    let mut before = String::new();
    // Twice: what was read from a file is written back as it was.
    for round in 0..2 {
        adapter::save(dir.path(), &adapter, "base").expect("saved");
        let text = fs::read_to_string(dir.path().join("adapter_config.json")).expect("written");
        let json: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            json,
            json!({
                "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "base", "r": 3,
                "lora_alpha": 6.5, "lora_dropout": 0.25, "target_modules": r".*\.(q_proj|down_proj)",
                "bias": "none", "inference_mode": true, "use_rslora": true, "layers_to_transform": [1],
                "rank_pattern": {"q_proj": 5}, "alpha_pattern": {r"mlp\.down_proj": 12},
            })
        );
        assert!(round == 0 || text == before);
        before = text;
        let again = adapter::load(dir.path(), case.model.config(), Device::Cpu).expect("loads");
        assert_eq!(tensors(&again), tensors(&adapter));
        assert_eq!(tensors(&again).len(), 4);
        assert_eq!(tensors(&again)[0].shape, [5, 64]);
        assert_eq!(logits(&again), logits(&adapter));
        adapter = again;
    }
}
