//! `lorafit runs`: the runs of a folder as a table.

use std::fs;

use serde_json::Value;

use crate::common::{lorafit, place, well};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_bpe");

#[test]
fn runs_are_listed_with_what_they_came_to() {
    let place = place(60);
    let at = place.path();
    for (out, flags) in [
        ("runs/a", &["--max-steps", "4", "--validation", "12"][..]),
        ("runs/deeper/b", &["--max-steps", "4", "--validation", "none"][..]),
    ] {
        let mut arguments = vec!["train", "--model", MODEL, "--data", "rows.jsonl", "--out", out, "--quiet"];
        arguments.extend(flags);
        well(at, &arguments);
    }
    // What is no run, or part of one, is not listed.
    fs::create_dir(at.join("runs/empty")).unwrap();

    let shown = well(at, &["runs"]);
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 3, "{shown}");
    assert!(lines[0].starts_with("run ") && lines[0].contains("loss"), "{shown}");
    // The newest first.
    assert!(lines[1].starts_with("runs/deeper/b ") && lines[1].contains("(training)"), "{shown}");
    assert!(
        lines[2].starts_with("runs/a ") && lines[2].contains(" -> ") && lines[2].contains("4/4"),
        "{shown}"
    );

    let json = well(at, &["runs", "runs", "--json"]);
    let found: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(found.len(), 2, "{json}");
    let base = found[1]["base_loss"].as_f64().unwrap();
    let verdict: Value =
        serde_json::from_str(&fs::read_to_string(at.join("runs/a/verdict.json")).unwrap()).unwrap();
    assert_eq!(verdict["from"].as_f64(), Some(base));
    assert_eq!(found[1]["status"]["step"], 4);

    assert_eq!(well(at, &["runs", "runs/empty"]), "no runs in runs/empty\n");
    let missing = lorafit(at, &["runs", "elsewhere"]);
    let told = String::from_utf8(missing.stderr).unwrap();
    assert_eq!(missing.status.code(), Some(2), "{told}");
    assert!(told.contains("there is no folder elsewhere") && told.contains("hint: "), "{told}");
}
