//! Preference rows from a model's own answers: every judge, the same bits whatever is computed beside an answer, interruptions,
//! ties, and training that reads them.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{lorafit, place, well};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_bpe");
/// Gives answers of odd and of even length different scores.
const PARITY: &str = "command:while read -r row; do echo $(( ${#row} % 2 )); done";

fn pairs<'a>(data: &'a str, judge: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let flags = ["pairs", "--model", MODEL, "--data", data, "--judge", judge, "--max-new-tokens", "6"];
    [&flags[..], &["--quiet", "--out", "out.jsonl"], more].concat()
}

fn rows(place: &Path, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(place.join(name)).expect("a file");
    assert!(text.is_empty() || text.ends_with('\n'), "half a line: {text}");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// What the program says of a command that it refuses.
#[track_caller]
fn refused(place: &Path, arguments: &[&str], said: &str) -> String {
    let output = lorafit(place, arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains(said), "{arguments:?}: no {said:?} in {text}");
    text
}

/// A folder with rows of several shapes whose reply is `42`, and a schema and a judge that want it.
fn forty_two() -> TempDir {
    let dir = TempDir::new().expect("a folder");
    let rows = |i: usize| json!({"question": format!("why {i}?"), "answer": "42"}).to_string() + "\n";
    fs::write(dir.path().join("rows.jsonl"), (0..3).map(rows).collect::<String>()).expect("written");
    fs::write(dir.path().join("schema.json"), r#"{"const": 42}"#).expect("written");
    dir
}

#[cfg(unix)]
#[test]
fn every_judge_finds_the_reply_good() {
    let command =
        r#"command:while read -r row; do case "$row" in *'"answer":"42"}') echo 1;; *) echo 0;; esac; done"#;
    for judge in [
        "exact",
        "exact-match",
        "contains",
        "token-f1",
        "rouge-l",
        "number",
        "json-equal",
        "regex:^42$",
        "json-schema:schema.json",
        command,
    ] {
        let dir = forty_two();
        let labels =
            ["--format", "labels", "--include-reference", "--samples", "2", "--threshold", "1", "--json"];
        let said = well(dir.path(), &pairs("rows.jsonl", judge, &labels));
        let found: Value = serde_json::from_str(&said).expect("JSON");
        let rows = rows(dir.path(), "out.jsonl");
        let good: Vec<&Value> = rows.iter().filter(|row| row["label"] == true).collect();
        assert_eq!(found["labels"]["good"], good.len(), "{judge}");
        assert_eq!(good.len(), 3, "{judge}: {rows:?}");
        for (i, row) in good.iter().enumerate() {
            let prompt = json!([{"role": "user", "content": format!("why {i}?")}]);
            let reply = json!([{"role": "assistant", "content": "42"}]);
            assert_eq!((&row["prompt"], &row["completion"]), (&prompt, &reply), "{judge}");
        }
        assert!(rows.len() > good.len(), "{judge}: the answers of the model are bad");
    }
}

#[cfg(unix)]
#[test]
fn an_answer_has_the_same_bits_whatever_is_computed_beside_it() {
    let dir = place(9);
    let at = dir.path();
    let more = |flags: &[&'static str]| {
        well(
            at,
            &[&pairs("rows.jsonl", PARITY, &["--pairs-per-prompt", "3", "--overwrite"])[..], flags].concat(),
        );
        fs::read_to_string(at.join("out.jsonl")).expect("rows")
    };
    let all = more(&[]);
    assert!(all.lines().count() > 5, "{all}");
    assert_eq!(more(&[]), all);
    assert_ne!(more(&["--seed", "1"]), all);
    // Four answers beside each other, eight, twelve of three prompts; the last are alone at the end.
    for limit in ["1", "2", "3", "5"] {
        let some = more(&["--limit", limit]);
        assert!(!some.is_empty() && all.starts_with(&some), "--limit {limit}: {some} of {all}");
    }
    // Fewer answers are the first of more.
    let labels = |samples: &str| {
        let flags = ["--format", "labels", "--overwrite", "--samples", samples, "--limit", "1"];
        well(at, &pairs("rows.jsonl", PARITY, &flags));
        fs::read_to_string(at.join("out.jsonl")).expect("rows")
    };
    assert!(labels("7").starts_with(&labels("3")));
}

#[test]
fn prompts_keep_their_form_and_need_no_reply() {
    let dir = TempDir::new().expect("a folder");
    let at = dir.path();
    let user = |text: &str| json!({"role": "user", "content": text});
    let talk = json!([user("a"), {"role": "assistant", "content": "b"}, user("c")]);
    let cases = [
        (json!({"messages": talk}), talk.clone()),
        (json!({"conversations": [{"from": "human", "value": "a"}]}), json!([user("a")])),
        (json!({"prompt": "a"}), json!("a")),
        (json!({"prompt": [user("a")]}), json!([user("a")])),
        (json!({"instruction": "a", "input": "b"}), json!([user("a\n\nb")])),
        (json!({"question": "a"}), json!([user("a")])),
        (json!({"prompt": "a", "completion": "b"}), json!("a")),
    ];
    for (row, prompt) in cases {
        fs::write(at.join("rows.jsonl"), format!("{row}\n")).expect("written");
        let flags = ["--format", "labels", "--samples", "1", "--overwrite"];
        well(at, &pairs("rows.jsonl", "json-valid", &flags));
        let written = rows(at, "out.jsonl");
        assert_eq!(written[0]["prompt"], prompt, "{row}");
        assert_eq!(written[0]["completion"].is_string(), prompt.is_string(), "{row}");
        refused(
            at,
            &pairs("rows.jsonl", "exact", &["--overwrite"]),
            if row.get("completion").is_some() {
                // The model never says that, and all answers are alike.
                "has no rows"
            } else {
                "rows.jsonl line 1: the row has no reply, which --judge exact needs"
            },
        );
    }
}

#[cfg(unix)]
#[test]
fn training_reads_what_is_written() {
    let dir = place(8);
    let at = dir.path();
    let prompts: String = (0..8).map(|i| json!({"prompt": format!("why {i}?")}).to_string() + "\n").collect();
    fs::write(at.join("texts.jsonl"), prompts).expect("written");
    for data in ["rows.jsonl", "texts.jsonl"] {
        for (format, objective) in [("pairs", "dpo"), ("labels", "kto")] {
            let more = ["--format", format, "--overwrite", "--json"];
            let found: Value = serde_json::from_str(&well(at, &pairs(data, PARITY, &more))).expect("JSON");
            assert_eq!((&found["prompts"], &found["answers"]), (&json!(8), &json!(32)), "{found}");
            let written = rows(at, "out.jsonl");
            if format == "pairs" {
                assert_eq!(found["pairs"], written.len());
                for row in &written {
                    assert_eq!((&row["score_chosen"], &row["score_rejected"]), (&json!(1.0), &json!(0.0)));
                }
            }
            let run = format!("{data}-{objective}");
            let train =
                ["train", "--model", MODEL, "--data", "out.jsonl", "--objective", objective, "--out", &run];
            let output = lorafit(at, &[&train[..], &["--max-steps", "2", "--validation", "none"]].concat());
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && !said.contains("passed over"), "{data} {objective}: {said}");
        }
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_call_goes_on_where_it_was() {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    let dir = place(24);
    let at = dir.path();
    let judge = "while read -r row; do case \"$row\" in *'why 20'*) [ -f broken ] && exit 3; [ -f slow ] && touch judging && sleep 60;; esac\n\
                 echo $(( ${#row} % 2 )); done";
    fs::write(at.join("judge.sh"), judge).expect("written");
    let call = pairs("rows.jsonl", "command:sh judge.sh", &[]);
    well(at, &call);
    let whole = fs::read_to_string(at.join("out.jsonl")).expect("rows");
    assert!(!at.join("out.jsonl.progress").exists());
    refused(at, &call, "--out out.jsonl is there already");
    fs::remove_file(at.join("out.jsonl")).expect("removed");

    // A judge that fails behind the first rows.
    fs::write(at.join("broken"), "").expect("written");
    let said = refused(at, &call, "the judge `sh judge.sh` failed (exit status: 3)");
    assert!(said.contains("and row 21 was the next"), "{said}");
    let begun = fs::read_to_string(at.join("out.jsonl")).expect("rows");
    assert!(!begun.is_empty() && begun.len() < whole.len() && whole.starts_with(&begun), "{begun}");
    fs::remove_file(at.join("broken")).expect("removed");
    let other = pairs("rows.jsonl", "command:sh judge.sh", &["--seed", "3"]);
    refused(at, &other, "--seed: it was begun with 0, here it is 3");

    // Ctrl-C while the judge is at work.
    fs::write(at.join("slow"), "").expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lorafit"));
    let loud: Vec<&str> = call.iter().copied().filter(|flag| *flag != "--quiet").collect();
    let child = command.current_dir(at).args(&loud).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = child.spawn().expect("starts");
    let started = Instant::now();
    // It begins anew behind what was written, and waits for the judge.
    while !at.join("judging").exists() && started.elapsed() < Duration::from_secs(50) {
        std::thread::sleep(Duration::from_millis(20));
    }
    // SAFETY: sends a signal to our own child.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
    let output = child.wait_with_output().expect("ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(started.elapsed() < Duration::from_secs(55), "{said}");
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("stopped: 16 of 24 prompts are answered"), "{said}");
    assert_eq!(fs::read_to_string(at.join("out.jsonl")).expect("rows"), begun);
    fs::remove_file(at.join("slow")).expect("removed");

    // Half a row, as a crash may leave it.
    fs::write(at.join("out.jsonl"), format!("{begun}{{\"prompt\": [")).expect("written");
    let found: Value = serde_json::from_str(&well(at, &[&call[..], &["--json"]].concat())).expect("JSON");
    assert_eq!(fs::read_to_string(at.join("out.jsonl")).expect("rows"), whole);
    assert_eq!((&found["prompts"], &found["answers"]), (&json!(24), &json!(96)), "{found}");
    assert!(!at.join("out.jsonl.progress").exists());
    well(at, &[&call[..], &["--overwrite"]].concat());
    assert_eq!(fs::read_to_string(at.join("out.jsonl")).expect("rows"), whole);
}

#[test]
fn ties_repetitions_and_blank_answers_are_left_out_and_counted() {
    let dir = place(5);
    let at = dir.path();
    let output = lorafit(at, &pairs("rows.jsonl", "regex:(?s).", &["--json"]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("no prompt has two answers of which one is better"),
        "{said}"
    );
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let left = |name: &str| found["left_out"][name].as_u64().expect("a number");
    assert_eq!((found["pairs"].as_u64(), left("prompts_alike") + left("prompts_with_too_few")), (Some(0), 5));
    // From two tokens, answers repeat each other; each counts in the mean.
    let few = ["--samples", "40", "--top-k", "2", "--max-new-tokens", "1", "--format", "labels", "--json"];
    let flags: Vec<&str> = pairs("rows.jsonl", "regex:(?s).", &few);
    // The flag stands twice; the last is meant.
    let flags: Vec<&str> =
        flags.iter().enumerate().filter(|(i, _)| ![7, 8].contains(i)).map(|(_, f)| *f).collect();
    let found: Value =
        serde_json::from_str(&well(at, &[&flags[..], &["--overwrite"]].concat())).expect("JSON");
    let count = |value: &Value| value.as_u64().expect("a number");
    let rows = rows(at, "out.jsonl").len() as u64;
    let [repeated, blank] = ["answers_repeated", "answers_blank"].map(|name| count(&found["left_out"][name]));
    assert_eq!(count(&found["answers"]), 200);
    assert_eq!(rows + repeated + blank, 200, "{found}");
    assert!(rows <= 10 && repeated > 100, "{found}");
    assert_eq!(found["mean_score"], 1.0);
}

#[test]
fn what_cannot_be_done_is_said_before_anything_is_written() {
    let dir = place(4);
    let at = dir.path();
    fs::write(at.join("empty.jsonl"), "").expect("written");
    fs::write(at.join("text.jsonl"), "{\"text\": \"a\"}\n").expect("written");
    fs::write(at.join("bare.jsonl"), "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n")
        .expect("written");
    fs::write(at.join("notes.txt"), "mine\n").expect("written");
    let regex = "regex:a";
    for (data, judge, more, said) in [
        ("rows.jsonl", "nice", &[][..], "--judge nice: there is no such judge"),
        ("rows.jsonl", "regex", &[], "--judge regex needs a value behind a colon"),
        ("rows.jsonl", "regex:(", &[], "is not a regular expression"),
        ("rows.jsonl", "json-schema:gone.json", &[], "gone.json: cannot be read"),
        ("rows.jsonl", regex, &["--ignore-case"], "--ignore-case has no meaning with --judge regex:a"),
        ("rows.jsonl", regex, &["--judge-timeout", "3"], "--judge-timeout has no meaning"),
        ("rows.jsonl", regex, &["--threshold", "0.4"], "--threshold has no meaning without --format labels"),
        (
            "rows.jsonl",
            regex,
            &["--format", "labels", "--pairs-per-prompt", "2"],
            "--pairs-per-prompt has no meaning",
        ),
        ("rows.jsonl", regex, &["--samples", "0"], "--samples 0: must be from 1 to 1000"),
        ("rows.jsonl", regex, &["--samples", "1"], "--samples 1 makes no pair"),
        ("rows.jsonl", regex, &["--temperature", "0"], "would be the same answer each time"),
        (
            "rows.jsonl",
            regex,
            &["--temperature", "0", "--samples", "1", "--seed", "2"],
            "--seed has no meaning",
        ),
        ("rows.jsonl", regex, &["--max-seq-len", "9"], "--max-seq-len has no meaning for prompts"),
        ("rows.jsonl", regex, &["--memory", "2MiB"], "answering needs"),
        ("bare.jsonl", regex, &["--include-reference"], "--include-reference: no row has a reply"),
        ("empty.jsonl", regex, &[], "empty.jsonl"),
        ("gone.jsonl", regex, &[], "gone.jsonl"),
        ("text.jsonl", regex, &[], "have no prompt"),
    ] {
        let text = refused(at, &pairs(data, judge, more), said);
        assert!(text.contains("\nhint: ") || said.contains("must be"), "{text}");
        assert!(!at.join("out.jsonl").exists() && !at.join("out.jsonl.progress").exists(), "{said}");
    }
    let flags = pairs("rows.jsonl", regex, &["--overwrite"]);
    let to = |out: &'static str| -> Vec<&str> {
        flags.iter().map(|flag| if *flag == "out.jsonl" { out } else { flag }).collect()
    };
    refused(at, &to("rows.jsonl"), "would be written over what is read");
    refused(at, &to("notes.txt"), "is not an earlier result of this kind");
    refused(at, &to("gone/out.jsonl"), "there is no folder gone");
    assert_eq!(fs::read_to_string(at.join("notes.txt")).expect("it stays"), "mine\n");
}

#[cfg(unix)]
#[test]
fn a_judge_that_goes_wrong_is_named_with_its_row() {
    let dir = place(3);
    let at = dir.path();
    for (command, said) in [
        ("echo good", "wrote line 1, for row 1: expected a score, found `good`"),
        (
            "for i in 1 1 1 1; do echo $i; done; echo 7; cat > /dev/null",
            "wrote line 5, for row 2: expected a score from 0 to 1",
        ),
        ("no-such-command-here", "failed (exit status: 127)"),
        ("echo 1; echo no key >&2; exit 3", "no key\n  it had scored 1 of 12 rows, and row 1 was the next"),
        ("cat > /dev/null; echo 1", "wrote 1 line for 12 rows"),
    ] {
        let judge = format!("command:{command}");
        // All answers differ, so that each is judged.
        refused(at, &pairs("rows.jsonl", &judge, &["--overwrite"]), said);
    }
    let slow = pairs("rows.jsonl", "command:sleep 60", &["--overwrite", "--judge-timeout", "1"]);
    refused(at, &slow, "took longer than 1 s; it had scored 0 of 12 rows, and row 1 was the next");
    let none = "command:while read -r row; do echo '{\"score\": null, \"reason\": \"no idea\"}'; done";
    refused(at, &pairs("rows.jsonl", none, &["--overwrite"]), "no answer could be judged: no idea");
}
