//! What tests share: a folder with rows, and the program run in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::reference;

/// A folder with `rows.jsonl` of so many conversations.
pub fn place(rows: usize) -> TempDir {
    let dir = TempDir::new().expect("a folder");
    let row = |i: usize| {
        let chat = json!({ "messages": [
            { "role": "user", "content": format!("why {i}?") },
            { "role": "assistant", "content": format!("so {}", i * i) },
        ] });
        format!("{chat}\n")
    };
    fs::write(dir.path().join("rows.jsonl"), (0..rows).map(row).collect::<String>()).expect("written");
    dir
}

/// Runs the program in a folder. A hint names no flag that the verb lacks, whatever goes wrong in whichever test.
#[track_caller]
pub fn lorafit(place: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lorafit"));
    let output = command.current_dir(place).args(arguments).output().expect("starts");
    let told = String::from_utf8_lossy(&output.stderr);
    if let (Some(at), Some(verb)) = (told.find("\nhint: "), arguments.first()) {
        static FLAGS: OnceLock<BTreeMap<String, BTreeSet<String>>> = OnceLock::new();
        let flags = FLAGS.get_or_init(reference::flags);
        if let Some(own) = flags.get(*verb) {
            let foreign = reference::flags_beside_commands(&told[at..], flags);
            let foreign: Vec<_> = foreign.iter().filter(|name| !own.contains(*name)).collect();
            assert!(foreign.is_empty(), "{verb} has no {foreign:?}: {told}");
        }
    }
    output
}

/// What the program prints where it succeeds, as it must.
pub fn well(place: &Path, arguments: &[&str]) -> String {
    let output = lorafit(place, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The tiny chat model that objectives are tried on.
pub fn chat_model() -> String {
    format!("{}/../../fixtures/models/chat_bpe", env!("CARGO_MANIFEST_DIR"))
}

/// Writes a file of so many JSON rows into a folder.
pub fn write_rows(folder: &Path, name: &str, rows: usize, row: impl Fn(usize) -> Value) {
    let text: String = (0..rows).map(|i| format!("{}\n", row(i))).collect();
    fs::write(folder.join(name), text).expect("writes");
}

/// Trains the chat model on `data`, as it must be possible, with the settings that no preset chooses; gives what the program says.
#[track_caller]
pub fn trains(place: &Path, data: &str, out: &str, flags: &[&str]) -> String {
    let model = chat_model();
    let fixed = ["train", "--model", &model, "--data", data, "--out", out, "--preset", "off"];
    let output = lorafit(place, &[&fixed[..], flags].concat());
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{flags:?}: {told}");
    told
}

/// Has the program refuse `arguments` with an error that has all of these words.
#[track_caller]
pub fn refuses(place: &Path, arguments: &[&str], words: &[&str]) {
    let output = lorafit(place, arguments);
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success(), "{arguments:?}: {told}");
    for word in words {
        assert!(told.contains(word), "{arguments:?}: no {word:?} in {told}");
    }
}

/// A text of the program that is JSON.
pub fn json_of(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}
