//! What rows and their files say twice, in part, in old forms or ambiguously: read as it is meant, or told.

use std::fs;
use std::io::Write as _;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::rows::{chat_bpe, data, data_over, lorafit, refuses, says};

const ROW: &str =
    r#"{"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]}"#;

#[test]
fn keys_that_are_there_twice_are_told_and_the_last_counts() {
    let reply = r#"{"role": "assistant", "content": "wrong", "content": "right"}"#;
    let row = |more: &str| format!(r#"{{"messages": [{{"role": "user", "content": "q"}}, {reply}]{more}}}"#);
    let rows = [row(""), row(r#", "id": 1, "id": 2"#), ROW.to_owned()].join("\n");
    let told = data("r.jsonl", &rows, &[]);
    says(
        &told,
        &["\u{27e6}right<|im_end|>\u{27e7}", "`messages[].content` (2)", "`id` (1)", "the last is taken"],
    );
    assert!(!told.text.contains("wrong"), "{}", told.text);
    // In lists, in objects around lists, and in tools.
    says(&data("r.json", format!("[{}]", row("")), &[]), &["`messages[].content` (1)"]);
    says(&data("r.json", format!("{{\"rows\": [{}]}}", row("")), &[]), &["`messages[].content` (1)"]);
    let tool =
        r#", "tools": [{"type": "function", "function": {"name": "f", "name": "g", "description": "d"}}]"#;
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("t.jinja"), "{{ tools | tojson }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}").unwrap();
    let template = folder.path().join("t.jinja");
    let flags = ["--template", template.to_str().unwrap()];
    says(
        &data("r.jsonl", ROW.replacen("]}", &format!("]{tool}}}"), 1), &flags),
        &["`tools[].function.name` (1)", "\"g\""],
    );
    assert!(!data("r.jsonl", ROW, &[]).text.contains("more than once"));
    // A table holds messages as JSON text.
    let text = json!({"messages": format!(r#"[{{"role": "user", "content": "q"}}, {reply}]"#)});
    says(&data("r.jsonl", text.to_string(), &[]), &["`messages[].content` (1)"]);
}

/// What a row without messages has is called as the row calls it.
#[test]
fn what_a_template_leaves_out_is_called_by_its_column() {
    let folder = TempDir::new().unwrap();
    let template = folder.path().join("t.jinja");
    fs::write(
        &template,
        "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}\
         {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    )
    .unwrap();
    for (row, column) in [
        (json!({"Question": "q", "Answer": "a", "Reasoning": "since"}), "`Reasoning`"),
        (json!({"instruction": "i", "output": "o", "system": "orders"}), "`system`"),
        (json!({"q": "q", "a": "a", "System_Prompt": "orders"}), "`System_Prompt`"),
    ] {
        let told = data("r.jsonl", row.to_string(), &["--template", template.to_str().unwrap()]);
        refuses(&told, &[&format!("the chat template writes nothing for {column}")]);
        assert!(!told.text.contains("messages["), "{}", told.text);
    }
}

#[test]
fn a_role_that_no_message_has_is_told() {
    let rows = format!("{ROW}\n{}", ROW.replace("\"user\"", "\"guest\""));
    let told = data("r.jsonl", &rows, &["--role", "guest=user,bot=assistant"]);
    says(&told, &["--role names what is the role of no message: `bot`"]);
    assert!(!data("r.jsonl", &rows, &["--role", "guest=user"]).text.contains("--role"));
    // Where nothing is left to train, the error stands alone.
    let nobody = ROW.replace("\"assistant\"", "\"user\"");
    refuses(
        &data("r.jsonl", nobody, &["--role", "bot=assistant"]),
        &["no message has the role assistant", "--role bot=assistant"],
    );
}

/// A template that goes through the parts of a content gets them; one that does not gets the text that they are together.
#[test]
fn parts_are_given_to_templates_that_read_them() {
    let part = |text: &str| json!({"type": "text", "text": text, "cache_control": null});
    let row = json!({"messages": [
        {"role": "user", "content": [part(" a "), part("b")]},
        {"role": "assistant", "content": [part("c "), part(" d")]},
        {"role": "user", "content": "e"}, {"role": "assistant", "content": "f"},
    ]});
    let whole = |content: &str| {
        format!(
            "{{% for m in messages %}}<|im_start|>{{{{ m.role }}}}\n{content}<|im_end|>\n{{% endfor %}}\
         {{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
        )
    };
    let over = |content: &str| {
        let folder = TempDir::new().unwrap();
        let template = folder.path().join("t.jinja");
        fs::write(&template, whole(content)).unwrap();
        data("r.jsonl", row.to_string(), &["--template", template.to_str().unwrap()])
    };
    let reads = "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{% if p.type == 'text' %}\
                 {{ p.text | trim }}{{ ';' if not loop.last }}{% endif %}{% endfor %}{% endif %}";
    let told = over(reads);
    says(
        &told,
        &["user\u{23ce}\na;b<|im_end|>", "\u{27e6}c;d<|im_end|>\u{27e7}", "\u{27e6}f<|im_end|>\u{27e7}"],
    );
    assert!(!told.text.contains("several parts"), "{}", told.text);
    for joins in [
        "{{ m.content }}",
        "{{ m['content'] + '' }}",
        "{{ m.content | trim }}",
        "{{ m.content | tojson if m.content is not string else m.content }}",
    ] {
        let told = over(joins);
        says(&told, &["b<|im_end|>", "c  d<|im_end|>\u{27e7}", "2 messages have several parts of text"]);
        assert!(!told.text.contains("type"), "{joins}: {}", told.text);
    }
    // One that reads the first part only would lose the second.
    let first = "{% if m.content is string %}{{ m.content }}{% else %}{{ m.content[0].text }}{% endif %}";
    says(&over(first), &["c  d<|im_end|>\u{27e7}", "several parts of text"]);
}

#[test]
fn messages_are_read_by_the_names_that_they_have() {
    let pairs = [json!({"from": "human", "value": "q"}), json!({"from": "gpt", "value": "a"})];
    let told = data("r.jsonl", json!({"messages": pairs}).to_string(), &[]);
    says(&told, &["user\u{23ce}\nq<|im_end|>", "\u{27e6}a<|im_end|>\u{27e7}"]);
    let mixed = json!({"conversations": [{"role": "user", "content": "q"}, {"from": "gpt", "value": "a"}]});
    says(
        &data("r.jsonl", mixed.to_string(), &[]),
        &["user\u{23ce}\nq<|im_end|>", "\u{27e6}a<|im_end|>\u{27e7}"],
    );
    let halves = json!({"messages": [{"role": "user", "value": "q"}, {"role": "assistant", "value": "a"}]});
    says(&data("r.jsonl", halves.to_string(), &[]), &["user\u{23ce}\nq<|im_end|>"]);
    let foreign = json!({"messages": [{"speaker": "user", "text": "q"}]});
    refuses(&data("r.jsonl", foreign.to_string(), &[]), &["`messages[0].role`"]);
}

#[test]
fn columns_that_may_both_be_meant_are_named() {
    let row = json!({"question": "q", "query": "p", "answer": "a", "id": 1}).to_string();
    let told = data("r.jsonl", &row, &[]);
    refuses(&told, &["several columns ask or answer", "`question`, `query` and `answer`", "NAME=ignore"]);
    says(&data("r.jsonl", &row, &["--columns", "query=ignore"]), &["user\u{23ce}\nq<|im_end|>"]);
    let answers = json!({"question": "q", "answer": "a", "response": "b"}).to_string();
    refuses(&data("r.jsonl", &answers, &[]), &["`question` and `answer`, `response`"]);
}

#[test]
fn half_a_surrogate_pair_is_told_at_its_place() {
    let half = ROW.replacen("one", r"so \ud83d", 1);
    let rows = format!("{ROW}\n{half}\n");
    refuses(
        &data("r.jsonl", &rows, &[]),
        &["r.jsonl line 2: column", "half of a surrogate pair", "--skip-bad-rows"],
    );
    says(&data("r.jsonl", &rows, &["--skip-bad-rows"]), &["1 bad row skipped", "half of a surrogate pair"]);
    refuses(&data("r.jsonl", ROW.replacen("one", r"\uDE00", 1), &[]), &["half of a surrogate pair"]);
    says(&data("r.jsonl", ROW.replacen("one", r"\ud83d\ude00", 1), &[]), &["1 chat row"]);
    let other = data("r.jsonl", ROW.replacen("one", r"\u12", 1), &[]);
    assert!(!other.text.contains("surrogate"), "{}", other.text);
}

#[test]
fn lines_that_end_with_a_carriage_return_are_lines() {
    let table = "question,answer\rone,two\r\"three\rfour\",five\r";
    says(&data("r.csv", table, &[]), &["2 question rows", "three\u{23ce}\nfour<|im_end|>", "\u{27e6}five"]);
    says(&data("r.tsv", table.replace(',', "\t"), &[]), &["2 question rows"]);
    says(&data("r.jsonl", format!("{ROW}\r{ROW}\r"), &[]), &["2 chat rows"]);
    says(&data("r.txt", "a b\rc\r\rd\r", &[]), &["2 text rows"]);
    // The usual ends stay what they are.
    says(&data("r.csv", table.replace('\r', "\r\n"), &[]), &["2 question rows"]);
}

#[test]
fn bytes_behind_gzip_are_padding_or_told() {
    let gzipped = |behind: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(ROW.as_bytes()).unwrap();
        [encoder.finish().unwrap(), behind.to_vec()].concat()
    };
    says(&data("r.jsonl.gz", gzipped(&[0; 512]), &[]), &["1 chat row"]);
    let second = gzipped(b"").into_iter().collect::<Vec<u8>>();
    let newline = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(b"\n").unwrap();
        encoder.finish().unwrap()
    };
    says(&data("r.jsonl.gz", gzipped(&[newline, second].concat()), &[]), &["2 chat rows"]);
    refuses(
        &data("r.jsonl.gz", gzipped(b"\nmore"), &[]),
        &["bytes that are not gzip", "gunzip -c r.jsonl.gz > rows"],
    );
}

#[test]
fn the_cache_is_an_output() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    fs::write(at.join("r.jsonl"), ROW).unwrap();
    let model = chat_bpe();
    let data = |cache: &str| lorafit(at, &["data", "r.jsonl", "--model", &model, "--cache-dir", cache]);
    let inside = format!("{model}/cache");
    let told = data(&inside);
    assert_ne!(told.code, 0, "{}", told.text);
    assert!(
        told.text.contains("--cache-dir") && told.text.contains("is in the folder of the model"),
        "{}",
        told.text
    );
    let told = data("r.jsonl/cache");
    assert_ne!(told.code, 0, "{}", told.text);
    assert!(told.text.contains("r.jsonl is a file"), "{}", told.text);
    says(&data("cache"), &["1 chat row"]);
    assert!(at.join("cache").is_dir());
}

#[test]
fn one_is_no_plural() {
    let model = chat_bpe();
    let value: Value = json!({"text": "a b c", "extra": 1});
    let told = data_over(&model, "r.jsonl", value.to_string(), &["--max-seq-len", "2"]);
    let wrong = [" 1 rows", " 1 tokens", " 1 messages", " 1 values", "(1 tokens", "1 samples"];
    assert!(wrong.iter().all(|wrong| !told.text.contains(wrong)), "{}", told.text);
}
