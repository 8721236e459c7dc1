//! Files that are cut or have a flipped bit. None makes a panic; one that is accepted has the shapes that its
//! configuration says and is read through, by running the model; a cut one is an error that names it. Of a checkpoint
//! every change at all is found.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lorafit_kernels::ops::attention::Segments;
use lorafit_kernels::{Device, SharedBytes};
use lorafit_model::adapter::{self, named_tensors};
use lorafit_model::weights::{Gguf, ModelFiles};
use lorafit_model::{Buffers, Config, FileError, Model, Stream};
use lorafit_train::Checkpoint;
use tempfile::TempDir;

use super::mutations::{Accepted, Change, judge};
use super::tiny;

const HERE: &str = "folder";

/// Loads a model and runs it, so that every weight is read. An error names a file; of one that was cut it says what to do.
fn runs(files: Result<ModelFiles, FileError>, change: Change, like: &Config) -> bool {
    let model = match files.and_then(|files| Model::load(&files, Device::Cpu)) {
        Ok(model) => model,
        Err(error) => {
            assert!(error.to_string().contains(HERE), "{error}");
            assert!(matches!(change, Change::Flip { .. }) || error.hint().is_some(), "{error}");
            return false;
        }
    };
    let config = model.config();
    let sizes = |c: &Config| (c.hidden_size, c.intermediate_size, c.num_hidden_layers, c.vocab_size);
    assert_eq!(sizes(config), sizes(like));
    let ids = [0, config.vocab_size as u32 - 1];
    let segments = Segments::single(ids.len());
    let stream = Stream { ids: &ids, positions: &[0, 1], segments: &segments, targets: &[], below: 0 };
    let mut buffers = Buffers::for_evaluation(config, None, Device::Cpu, ids.len());
    assert_eq!(model.all_logits(None, stream, &mut buffers).len(), ids.len() * config.vocab_size);
    true
}

/// A folder in memory where the system has one: files are written some ten thousand times.
fn folder() -> TempDir {
    let named = tempfile::Builder::new().prefix(HERE).tempdir_in("/dev/shm");
    named.or_else(|_| TempDir::with_prefix(HERE)).expect("a folder")
}

fn shared(bytes: &[u8]) -> SharedBytes {
    SharedBytes::from_vec(bytes.to_vec())
}

fn config() -> Config {
    Config::from_hf_json(tiny::CONFIG).expect("a constant")
}

/// Of a safetensors body and of weights any number is as good as another.
const BODY: usize = 1000;

#[test]
fn a_broken_safetensors_file_is_refused_or_has_the_shapes_of_its_model() {
    let (whole, header) = tiny::model();
    let open = |bytes: &[u8]| ModelFiles::from_safetensors(Path::new(HERE), tiny::CONFIG, shared(bytes));
    assert!(runs(open(&whole), Change::Cut(whole.len()), &config()));
    let accepted = judge(&whole, header, || (), |(), change, bytes| runs(open(bytes), change, &config()));
    assert_eq!((accepted.cuts, accepted.body_flips), (0, BODY));
    // A tensor of another name is missed, and numbers have no second spelling: nothing of this header is without meaning
    // but F16 for BF16, which no one bit changes.
    assert_eq!(accepted.header_flips, 0);
}

#[test]
fn a_broken_shard_is_refused_or_has_the_shapes_of_its_model() {
    let ([first, second], index) = tiny::shards();
    let place = || {
        let dir = folder();
        for (name, bytes) in [
            ("config.json", tiny::CONFIG.as_bytes()),
            ("model.safetensors.index.json", index.as_bytes()),
            (tiny::SHARDS[0], &first.0),
            (tiny::SHARDS[1], &second.0),
        ] {
            fs::write(dir.path().join(name), bytes).expect("written");
        }
        dir
    };
    let broken = |name: &'static str, whole: &[u8], header: usize| {
        judge(whole, header, place, |dir, change, bytes| {
            fs::write(dir.path().join(name), bytes).expect("written");
            let accepted = runs(ModelFiles::open(dir.path()), change, &config());
            fs::write(dir.path().join(name), whole).expect("written");
            accepted
        })
    };
    let accepted = broken(tiny::SHARDS[1], &second.0, second.1);
    assert_eq!(accepted, Accepted { cuts: 0, header_flips: 0, body_flips: BODY });
}

#[test]
fn a_broken_index_or_configuration_is_refused_or_has_the_shapes_of_the_model() {
    let ([first, second], index) = tiny::shards();
    let place = || {
        let dir = folder();
        fs::write(dir.path().join("config.json"), tiny::CONFIG).expect("written");
        fs::write(dir.path().join(tiny::SHARDS[0]), &first.0).expect("written");
        fs::write(dir.path().join(tiny::SHARDS[1]), &second.0).expect("written");
        dir
    };
    let flips_only =
        |change| if let Change::Cut(_) = change { Change::Flip { byte: 0, bit: 0 } } else { change };
    let accepted = judge(index.as_bytes(), index.len(), place, |dir, change, bytes| {
        fs::write(dir.path().join("model.safetensors.index.json"), bytes).expect("written");
        runs(ModelFiles::open(dir.path()), flips_only(change), &config())
    });
    assert_eq!(accepted, Accepted::default(), "every byte of an index matters");

    let (weights, _) = tiny::model();
    let text = tiny::CONFIG.as_bytes();
    let accepted = judge(
        text,
        text.len(),
        || (),
        |(), change, bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return false };
            let files = ModelFiles::from_safetensors(Path::new(HERE), text, shared(&weights));
            runs(files, flips_only(change), &config())
        },
    );
    assert_eq!(accepted.cuts, 0);
    // Other shapes are none of these weights'; what is left are types of model that are alike, and names of keys that
    // have a default.
    assert!(accepted.header_flips < 8 * 30, "{accepted:?}");
}

#[test]
fn a_broken_gguf_file_is_refused_or_has_the_shapes_of_its_model() {
    let (whole, header) = tiny::Gguf::of_model().with_weights().bytes();
    let open =
        |bytes: &[u8]| Gguf::from_bytes(Path::new(HERE), shared(bytes)).and_then(ModelFiles::from_gguf);
    let like = open(&whole).expect("whole").config().clone();
    assert!(runs(open(&whole), Change::Cut(whole.len()), &like));
    let accepted = judge(&whole, header, || (), |(), change, bytes| runs(open(bytes), change, &like));
    assert_eq!((accepted.cuts, accepted.body_flips), (0, BODY));
    // The number of heads may be another, the epsilon any, and its key is optional.
    assert!(accepted.header_flips < header, "{} of {} flips", accepted.header_flips, 8 * header);
}

#[test]
fn a_broken_adapter_is_refused_or_has_the_shapes_of_its_model() {
    let (whole, header) = tiny::adapter();
    let opens = |config_json: &[u8], weights: &[u8]| {
        let Ok(text) = std::str::from_utf8(config_json) else { return false };
        match adapter::from_bytes(Path::new(HERE), text, shared(weights), &config(), Device::Cpu) {
            Ok(adapter) => {
                let shapes: Vec<_> =
                    named_tensors(&adapter, adapter.tensors()).iter().map(|t| t.shape.clone()).collect();
                assert_eq!(shapes, [[1, 8], [8, 1]]);
                true
            }
            Err(error) => {
                assert!(error.to_string().starts_with(HERE), "{error}");
                false
            }
        }
    };
    let text = tiny::ADAPTER_CONFIG.as_bytes();
    assert!(opens(text, &whole));
    let accepted = judge(&whole, header, || (), |(), _, bytes| opens(text, bytes));
    assert_eq!(accepted, Accepted { cuts: 0, header_flips: 0, body_flips: BODY });
    let accepted = judge(text, text.len(), || (), |(), _, bytes| opens(bytes, &whole));
    assert_eq!(accepted.cuts, 0);
    // Names of keys that have a default, the name of the base, and numbers.
    assert!(accepted.header_flips < 8 * text.len() / 2, "{accepted:?}");
}

/// The checkpoint of a short run, with an adapter of one projection.
fn checkpoint() -> (TempDir, PathBuf) {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/chat_bpe");
    let dir = TempDir::new().expect("a folder");
    let row = r#"{"messages":[{"role":"user","content":"why?"},{"role":"assistant","content":"so"}]}"#;
    fs::write(dir.path().join("rows.jsonl"), format!("{row}\n{row}\n")).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_lorafit"))
        .current_dir(dir.path())
        .args(["train", "--data", "rows.jsonl", "--out", "run", "--epochs", "1", "--batch-size", "1"])
        .args(["--rank", "1", "--target-modules", "v_proj", "--layers", "0", "--checkpoint-every", "1"])
        .arg("--model")
        .arg(model)
        .output()
        .expect("starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = dir.path().join("run/checkpoints/step-00000001");
    (dir, path)
}

/// Every file is hashed, so that each of its bytes is as good as one of a header.
#[test]
fn every_change_to_a_file_of_a_checkpoint_is_found() {
    let (_dir, source) = checkpoint();
    let files: Vec<(String, Vec<u8>)> = fs::read_dir(&source)
        .expect("a checkpoint")
        .map(|entry| entry.expect("a file"))
        .map(|entry| {
            (entry.file_name().into_string().expect("a name"), fs::read(entry.path()).expect("read"))
        })
        .collect();
    assert_eq!(files.len(), 6);
    let place = || {
        let dir = folder();
        files.iter().for_each(|(name, bytes)| fs::write(dir.path().join(name), bytes).expect("written"));
        dir
    };
    Checkpoint::open(place().path()).expect("a copy is whole");
    for (name, whole) in &files {
        let header = match name.ends_with(".safetensors") {
            true => 8 + u64::from_le_bytes(*whole.first_chunk().expect("a length")) as usize,
            false => whole.len(),
        };
        let accepted = judge(whole, header, place, |dir, _, bytes| {
            let path = dir.path().join(name);
            fs::write(&path, bytes).expect("written");
            let opened = Checkpoint::open(dir.path());
            fs::write(&path, whole).expect("written");
            match opened {
                Ok(_) => true,
                Err(error) => {
                    // A line of the sums that is wrong is told as the file that it does not fit.
                    assert!(name == "BLAKE3SUMS" || error.path == path, "{error}");
                    false
                }
            }
        });
        assert_eq!(accepted, Accepted::default(), "{name}");
    }
}

/// A whole checkpoint that was made to harm: its hashes are right.
#[test]
fn a_forged_state_of_a_checkpoint_with_any_bit_flipped_makes_no_panic() {
    let (_dir, source) = checkpoint();
    let state = fs::read(source.join("state.json")).expect("a state");
    let accepted =
        judge(&state, state.len(), || (), |(), _, bytes| Checkpoint::from_state(&source, bytes).is_ok());
    assert_eq!(accepted.cuts, 0);
    assert!(accepted.header_flips < 8 * state.len(), "{accepted:?}");
}
