//! `lorafit doctor`: what it says of a machine, and what it keeps to itself.

use std::process::Command;

use serde_json::Value;

/// What it prints with these variables and nothing else in the environment.
fn doctor(variables: &[(&str, &str)], flags: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lorafit"));
    command.env_clear().envs(variables.iter().copied()).arg("doctor").args(flags);
    let output = command.output().expect("starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn one_screen_says_what_is_there_and_what_is_used() {
    let shown = doctor(&[("HOME", "/home/someone")], &[]);
    for part in "lorafit processor memory disk hub GPU processes environment".split(' ').chain(["by default"])
    {
        let part = format!("{part}  ");
        assert!(shown.lines().any(|line| line.starts_with(&part)), "{part}\n{shown}");
    }
    assert!(shown.lines().count() <= 24, "{shown}");
    assert!(shown.contains("/home/someone/.cache/lorafit"), "{shown}");
    assert!(shown.contains("no variable that lorafit reads is set"), "{shown}");

    let found: Value = serde_json::from_str(&doctor(&[], &["--json"])).expect("JSON");
    assert!(found["cores"].as_u64().is_some_and(|cores| cores > 0), "{found}");
    assert!(found["gpus"].is_array() != found["gpu_error"].is_string(), "{found}");
}

#[test]
fn secrets_are_not_shown() {
    let secret = [("HF_TOKEN", "hf_geheim"), ("HF_ENDPOINT", "https://me:pass@mirror.example/hf")];
    let shown = doctor(&secret, &[]);
    assert!(shown.contains("https://mirror.example/hf, with a token"), "{shown}");
    assert!(shown.contains("set: HF_ENDPOINT, HF_TOKEN"), "{shown}");
    for shown in [shown, doctor(&secret, &["--json"])] {
        assert!(!shown.contains("geheim") && !shown.contains("pass"), "{shown}");
    }
}
