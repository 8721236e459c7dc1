//! Rows and their files as strangers write them: read, or refused by name; nothing is lost without a word.
//!
//! Further inputs of the kinds of the reported ones (`cases.rs`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lorafit_data::Shape;
use lorafit_data::format::keys::{self, Place, Use};
use serde_json::{Value, json};
use tempfile::TempDir;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

pub(super) fn chat_bpe() -> String {
    root().join("fixtures/models/chat_bpe").to_string_lossy().into_owned()
}

pub(super) struct Told {
    pub(super) code: i32,
    /// What was printed, standard error last.
    pub(super) text: String,
}

pub(super) fn lorafit(folder: &Path, arguments: &[&str]) -> Told {
    let output =
        Command::new(env!("CARGO_BIN_EXE_lorafit")).current_dir(folder).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    Told { code: output.status.code().unwrap(), text: String::from_utf8(text).unwrap() }
}

/// What `data` says of a file of that name and content.
pub(super) fn data(name: &str, content: impl AsRef<[u8]>, flags: &[&str]) -> Told {
    data_over(&chat_bpe(), name, content, flags)
}

pub(super) fn data_over(model: &str, name: &str, content: impl AsRef<[u8]>, flags: &[&str]) -> Told {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join(name), content).unwrap();
    lorafit(folder.path(), &[&["data", name, "--model", model, "--no-cache"], flags].concat())
}

/// Holds where the command went well and every text is there.
pub(super) fn says(told: &Told, texts: &[&str]) {
    assert_eq!(told.code, 0, "{}", told.text);
    for text in texts {
        assert!(told.text.contains(text), "{text:?} is not in\n{}", told.text);
    }
}

/// Holds where the command failed and every text is there, and none says that the file is damaged.
pub(super) fn refuses(told: &Told, texts: &[&str]) {
    assert_eq!(told.code, 1, "{}", told.text);
    for text in texts {
        assert!(told.text.contains(text), "{text:?} is not in\n{}", told.text);
    }
    let blamed = told.text.replace("not damaged", "");
    assert!(!blamed.contains("damaged") && !blamed.contains("incomplete"), "{}", told.text);
}

/// A conversation of one turn, with further keys of the row and of the reply.
fn chat(of_row: Value, of_reply: Value) -> String {
    let mut reply = json!({"role": "assistant", "content": "Two."});
    merge(&mut reply, of_reply);
    let mut row = json!({"messages": [{"role": "user", "content": "one plus one"}, reply]});
    merge(&mut row, of_row);
    format!("{row}\n")
}

fn merge(into: &mut Value, more: Value) {
    for (key, value) in more.as_object().unwrap() {
        into[key] = value.clone();
    }
}

#[test]
fn integers_of_any_size_are_read_as_python_reads_them() {
    let template = fs::read_to_string(root().join("fixtures/cases/row_big_integer/t.jinja")).unwrap();
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("t.jinja"), template).unwrap();
    let digits = "9".repeat(60);
    for (arguments, want) in [
        (format!(r#"{{"v": [{digits}, -{digits}]}}"#), format!(r#"{{"v": [{digits}, -{digits}]}}"#)),
        (r#"{"v": 18446744073709551616}"#.into(), r#"{"v": 18446744073709551616}"#.into()),
        (
            r#"{"v": [NaN, -Infinity, 1e999, -0, 1E400]}"#.into(),
            r#"{"v": [NaN, -Infinity, Infinity, 0, Infinity]}"#.into(),
        ),
        (r#"{"v": [1e30, 0.1, -0.0]}"#.into(), r#"{"v": [1e+30, 0.1, -0.0]}"#.into()),
    ] {
        // As JSON, and as the text of JSON.
        for arguments in [arguments.clone(), Value::from(arguments).to_string()] {
            let row = format!(
                r#"{{"messages":[{{"role":"user","content":"x"}},{{"role":"assistant","content":null,"tool_calls":[{{"type":"function","function":{{"name":"f","arguments":{arguments}}}}}]}}]}}"#
            );
            fs::write(folder.path().join("rows.jsonl"), row).unwrap();
            let template = ["--template", "t.jinja", "--no-cache"];
            let told = lorafit(
                folder.path(),
                &[&["data", "rows.jsonl", "--model", &chat_bpe()], &template[..]].concat(),
            );
            says(&told, &[&want]);
        }
    }
}

#[test]
fn not_a_number_is_read_and_is_no_text() {
    // As pandas writes an empty cell.
    let row = r#"{"instruction": "add", "input": NaN, "system": NaN, "output": "four"}"#;
    says(
        &data("rows.jsonl", row, &[]),
        &["<|im_start|>user\u{23ce}\nadd<|im_end|>", "\u{27e6}four<|im_end|>\u{27e7}"],
    );
    let list = r#"[{"prompt": "a", "completion": "b", "x": [-Infinity, {"y": NaN}]}]"#;
    says(&data("rows.json", list, &[]), &["a\u{27e6}b"]);
    let row = r#"{"prompt": "a", "completion": NaN}"#;
    refuses(&data("rows.jsonl", row, &[]), &["line 1: `completion` must be a string, found a number"]);
    let row = r#"{"prompt": "a", "completion": nan}"#;
    refuses(&data("rows.jsonl", row, &[]), &["not valid JSON at column 32"]);
}

#[test]
fn parts_of_text_are_joined_and_others_refused() {
    let row = |parts: Value| {
        json!({"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "so"}]})
            .to_string()
    };
    let told = data(
        "r.jsonl",
        row(json!([{"type": "text", "text": "a "}, {"type": "input_text", "text": "b"}])),
        &[],
    );
    says(&told, &["user\u{23ce}\na b<|im_end|>"]);
    says(&data("r.jsonl", row(json!([{"text": "plain"}])), &[]), &["user\u{23ce}\nplain<|im_end|>"]);
    for part in [json!({"type": "image_url", "image_url": {"url": "x"}}), json!({"type": "audio"})] {
        let kind = part["type"].as_str().unwrap().to_owned();
        let told = data("r.jsonl", row(json!([{"type": "text", "text": "a"}, part])), &[]);
        refuses(&told, &[&format!("`messages[0].content[1]` is not text but {kind}")]);
    }
    let from = json!({"conversations": [{"from": "human", "value": [{"type": "text", "text": "hi"}]}, {"from": "gpt", "value": "ho"}]});
    says(&data("r.jsonl", from.to_string(), &[]), &["user\u{23ce}\nhi<|im_end|>"]);
}

#[test]
fn functions_are_tools_by_another_name() {
    let folder = TempDir::new().unwrap();
    let template = "{% for t in tools or [] %}<|im_start|>system\n{{ t.function.name }}<|im_end|>\n{% endfor %}\
        {% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}{% for c in m.tool_calls or [] %}\
        [{{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let template = template.replace("\\n", "\n");
    fs::write(folder.path().join("t.jinja"), template).unwrap();
    let row = fs::read(root().join("fixtures/cases/row_function_call/rows.jsonl")).unwrap();
    fs::write(folder.path().join("a.jsonl"), row).unwrap();
    let both = json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        "tools": [{"type": "function", "function": {"name": "f"}}], "functions": [{"name": "g"}]});
    fs::write(folder.path().join("both.jsonl"), both.to_string()).unwrap();
    let result = json!({"messages": [{"role": "user", "content": "a"},
        {"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "rain"}, {"role": "assistant", "content": "b"}],
        "functions": [], "function_call": null});
    fs::write(folder.path().join("result.jsonl"), result.to_string()).unwrap();
    let model = chat_bpe();
    let run = |file: &str| {
        lorafit(folder.path(), &["data", file, "--model", &model, "--template", "t.jinja", "--no-cache"])
    };
    says(&run("a.jsonl"), &[r#"[w {"city": "Bonn"}]"#, "system\u{23ce}\nw<|im_end|>"]);
    refuses(&run("both.jsonl"), &["`functions` is not read: the row has tools, too"]);
    says(&run("result.jsonl"), &["tool\u{23ce}\nrain<|im_end|>", "[f {}]"]);
}

#[test]
fn a_weight_says_whether_a_reply_is_trained() {
    says(&data("r.jsonl", chat(json!({}), json!({"weight": 1.0, "train": true})), &[]), &["\u{27e6}Two."]);
    for (of_reply, want) in [
        (json!({"weight": 0.5}), "`messages[1].weight` is not read: replies are trained or not"),
        (json!({"weight": "high"}), "`messages[1].weight` is not read"),
        (json!({"weight": 0, "train": true}), "`messages[1].weight` is not read: `train` says otherwise"),
    ] {
        refuses(&data("r.jsonl", chat(json!({}), of_reply), &[]), &[want]);
    }
    refuses(
        &data("r.jsonl", chat(json!({"weight": 2}), json!({})), &[]),
        &["`weight` is not read", "b.csv:0.5"],
    );
    says(&data("r.jsonl", chat(json!({"weight": 1}), json!({})), &[]), &["\u{27e6}Two."]);
    let asked = json!({"messages": [{"role": "user", "content": "a", "weight": 1}, {"role": "assistant", "content": "b"}]});
    refuses(&data("r.jsonl", asked.to_string(), &[]), &["messages[0].weight"]);
}

#[test]
fn text_that_was_rendered_gets_no_second_beginning() {
    let model = root().join("fixtures/cases/double_bos/model").to_string_lossy().into_owned();
    // The template writes no beginning, so neither do its renderings have one.
    let rendered = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
    let row = json!({"prompt": rendered, "completion": "Hello<|im_end|>\n"}).to_string();
    let told = data_over(&model, "r.jsonl", row, &["--ids"]);
    says(&told, &["ids: 1 ", "rendered before"]);
    let told = data_over(&model, "r.jsonl", json!({"text": "plain words"}).to_string(), &["--ids"]);
    says(&told, &["ids: 0"]);
    assert!(!told.text.contains("rendered before"), "{}", told.text);
    // Rendered text as the words of a message.
    let row =
        json!({"messages": [{"role": "user", "content": rendered}, {"role": "assistant", "content": "b"}]});
    says(&data("r.jsonl", row.to_string(), &[]), &["1 row has the marks of the chat template"]);
}

#[test]
fn an_object_around_the_list_is_read_or_told() {
    let row = r#"{"prompt": "a", "completion": "b"}"#;
    for (name, text) in [
        ("one_line.json", format!(r#"{{"rows": [{row}], "note": "x"}}"#)),
        ("one_line.json", format!("{{\"rows\": [{row}]}}\n")),
        ("lines.jsonl", format!("{{\n \"meta\": {{\"data\": [1]}},\n \"examples\": [\n{row},\n{row}]\n}}")),
        ("bom.json", format!("\u{feff}{{\n\"data\": [{row}]}}")),
        ("row.json", row.replace(", ", ",\n")),
        ("lines.json", format!("{row}\n{row}\n")),
    ] {
        says(&data(name, text, &[]), &["a\u{27e6}b"]);
    }
    for (text, want) in [
        (format!("{{\"train\": [{row}],\n\"test\": [{row}]}}"), "several lists of rows: `train`, `test`"),
        ("{\"a\": [\"x\"],\n\"b\": [\"y\"]}".into(), "none of its values is a list of rows"),
        ("{\n\"a\": 1\n}\n{\n\"a\": 2\n}".into(), "objects one after the other"),
    ] {
        refuses(&data("rows.json", text, &[]), &[want, "hint"]);
    }
    let cut = data("rows.json", "{\"data\": [\n{\"prompt\": \"a\"", &[]);
    assert_eq!(cut.code, 1, "{}", cut.text);
    // A list by the wrong name is one all the same.
    says(&data("rows.jsonl", format!("[\n{row},\n{row}]"), &[]), &["2 completion rows"]);
}

#[test]
fn a_kind_of_file_that_is_not_read_is_told_with_the_way_out() {
    for (name, codec) in [("lz4.parquet", "LZ4"), ("mixed.parquet", "Brotli")] {
        let file = root().join("fixtures/cases/file_parquet_brotli").join(name);
        let told = data(name, fs::read(file).unwrap(), &[]);
        refuses(
            &told,
            &[&format!("{name} is compressed with {codec}, which is not read; the file is not damaged")],
        );
    }
    let arrow = root().join("fixtures/cases/file_save_to_disk/saved/train/data-00000-of-00001.arrow");
    refuses(&data("x.arrow", fs::read(&arrow).unwrap(), &[]), &["is an Arrow file", "to_parquet"]);
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("data-00000-of-00001.arrow"), fs::read(arrow).unwrap()).unwrap();
    fs::write(folder.path().join("state.json"), "{}").unwrap();
    let told = lorafit(folder.path(), &["data", ".", "--model", &chat_bpe()]);
    refuses(&told, &["load_from_disk('.').to_parquet('rows.parquet')"]);
    refuses(&data("table.xlsx", b"PK\x03\x04\0\0", &[]), &["a ZIP archive or a spreadsheet", "CSV"]);
}

fn utf16(text: &str, little: bool) -> Vec<u8> {
    let bytes = |unit: u16| if little { unit.to_le_bytes() } else { unit.to_be_bytes() };
    text.encode_utf16().flat_map(bytes).collect()
}

#[test]
fn utf16_is_read() {
    let row = "{\"prompt\": \"ä=\", \"completion\": \"ö\"}\n";
    for little in [true, false] {
        for bom in ["\u{feff}", ""] {
            says(&data("r.jsonl", utf16(&format!("{bom}{row}"), little), &[]), &["1 completion row:"]);
        }
        says(&data("r.json", utf16(&format!("\u{feff}[{row}]"), little), &[]), &["1 completion row:"]);
        let table = utf16("\u{feff}Question\tAnswer\r\nwhy\tso\r\n", little);
        says(&data("r.csv", table, &[]), &["\u{27e6}so<|im_end|>\u{27e7}"]);
    }
    let table = [vec![0xFF, 0xFE, 0, 0], vec![0; 40]].concat();
    refuses(&data("r.jsonl", table, &[]), &["UTF-32", "iconv"]);
    refuses(&data("r.jsonl", b"{\"prompt\": \"\xe4\"}", &[]), &["not UTF-8 at byte 13", "WINDOWS-1252"]);
}

#[test]
fn tables_of_spreadsheets_are_conversations() {
    let turn = "<|im_start|>user\u{23ce}\nwhy, and how?<|im_end|>\u{23ce}\n<|im_start|>assistant\u{23ce}\n\u{27e6}so; and so<|im_end|>\u{27e7}";
    for (name, text) in [
        ("a.csv", "question,answer\n\"why, and how?\",so; and so\n"),
        ("a.csv", "\u{feff}Frage;Question;Answer\r\n1;why, and how?;\"so; and so\"\r\n"),
        ("a.csv", "Q\tA\nwhy, and how?\tso; and so\n"),
        ("a.tsv", "input\toutput\nwhy, and how?\tso; and so\n"),
        ("a.csv", "\u{feff}sep=;\r\nquestion;answer\r\nwhy, and how?;\"so; and so\"\r\n"),
        ("a.csv", "prompt;response;;\n;;;\nwhy, and how?;\"so; and so\";;\n"),
        ("a.csv", "\"query\"|\"response\"\nwhy, and how?|so; and so\n"),
        ("a.jsonl", r#"{"question": "why, and how?", "answer": "so; and so"}"#),
        ("a.jsonl", r#"{"instruction": "why, and how?", "input": "", "response": "so; and so"}"#),
    ] {
        let told = data(name, text, &[]);
        says(&told, &[turn, "1 question row:"]);
    }
    let told = data("a.csv", "sep=;\nquestion;answer\nwhy;so\nwhy\n", &[]);
    refuses(&told, &["a.csv line 4: the row has 1 value,"]);
    let told = data("a.csv", "question;problem;answer\na;b;c\n", &[]);
    refuses(
        &told,
        &[
            "several columns ask or answer, and which are meant is not known: `question`, `problem` and `answer`",
        ],
    );
    let told = data("a.csv", "instruction,context,response\na,b,c\n", &[]);
    refuses(
        &told,
        &[
            "`context` is not read: map it to `input`",
            "set it below the instruction with --columns context=input",
        ],
    );
    let told = data("a.csv", "instruction,context,response\na,b,c\n", &["--columns", "context=input"]);
    says(&told, &["user\u{23ce}\na\u{23ce}\n\u{23ce}\nb<|im_end|>"]);
    // Without a template they have no shape.
    let llama = root().join("fixtures/models/chat_bpe");
    let bare = TempDir::new().unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(llama.join(file), bare.path().join(file)).unwrap();
    }
    let bare = bare.path().to_string_lossy().into_owned();
    refuses(&data_over(&bare, "a.csv", "question,answer\nwhy,so\n", &[]), &["none of the known shapes"]);
}

#[test]
fn a_history_is_turns_before_the_row() {
    let row = |history: Value| json!({"instruction": "c", "output": "d", "history": history}).to_string();
    let told = data("r.jsonl", row(json!([["a", "b"]])), &[]);
    says(&told, &["user\u{23ce}\na<|im_end|>", "\u{27e6}b<|im_end|>\u{27e7}", "\u{27e6}d<|im_end|>\u{27e7}"]);
    says(&data("r.jsonl", row("[[\"a\", \"b\"]]".into()), &[]), &["\u{27e6}b<|im_end|>\u{27e7}"]);
    says(&data("r.jsonl", row(json!([])), &[]), &["\u{27e6}d<|im_end|>\u{27e7}"]);
    refuses(&data("r.jsonl", row(json!([["a"]])), &[]), &["`history[0]` must be a pair"]);
    refuses(
        &data("r.jsonl", row(json!([["a", 3]])), &[]),
        &["`history[0][1]` must be a string, found a number"],
    );
    refuses(
        &data("r.jsonl", chat(json!({"history": [["a", "b"]]}), json!({})), &[]),
        &["`history` is not read"],
    );
    let row = json!({"prompt": "c", "completion": "d", "history": [["a", "b"]]});
    refuses(&data("r.jsonl", row.to_string(), &[]), &["`history` is not read"]);
}

#[test]
fn what_a_row_sets_reaches_the_template() {
    let folder = TempDir::new().unwrap();
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is false %}<t>{% endif %}{% endif %}";
    let template = template.replace(
        "{{ m.content }}",
        "{% if m.role == 'assistant' and enable_thinking is false %}<t>{% endif %}{{ m.content }}",
    );
    fs::write(folder.path().join("t.jinja"), template).unwrap();
    let model = chat_bpe();
    let run = |row: String| {
        fs::write(folder.path().join("r.jsonl"), row).unwrap();
        lorafit(folder.path(), &["data", "r.jsonl", "--model", &model, "--template", "t.jinja", "--no-cache"])
    };
    for of_row in [
        json!({"enable_thinking": false}),
        json!({"chat_template_kwargs": {"enable_thinking": false, "x": null}}),
        json!({"chat_template_kwargs": "{\"enable_thinking\": false}"}),
        json!({"chat_template_kwargs": {"enable_thinking": false}, "enable_thinking": false}),
    ] {
        says(&run(chat(of_row, json!({}))), &["<t>\u{27e6}Two.<|im_end|>\u{27e7}"]);
    }
    says(&run(chat(json!({"enable_thinking": true}), json!({}))), &["\u{27e6}Two."]);
    for (of_row, want) in [
        (
            json!({"chat_template_kwargs": {"enable_thinking": false}, "enable_thinking": true}),
            "`enable_thinking` is not read: chat_template_kwargs says otherwise",
        ),
        (json!({"chat_template_kwargs": {"messages": []}}), "chat_template_kwargs[messages]"),
        (json!({"chat_template_kwargs": 3}), "`chat_template_kwargs` must be an object"),
        (json!({"documents": [{"text": "x"}]}), "the chat template writes nothing for `documents`"),
    ] {
        refuses(&run(chat(of_row, json!({}))), &[want]);
    }
    let told =
        run(chat(json!({"chat_template_kwargs": {"verbose": true}, "reasoning_effort": "low"}), json!({})));
    says(&told, &["`reasoning_effort` (1)", "`verbose` (1)"]);
    let text = json!({"text": "a b", "enable_thinking": false}).to_string();
    refuses(&run(text), &["`enable_thinking` is not read: only conversations"]);
}

#[test]
fn reasoning_that_the_template_drops_is_refused_and_in_history_counted() {
    for name in ["reasoning_content", "thinking", "reasoning"] {
        let told = data("r.jsonl", chat(json!({}), json!({name: "let me see"})), &[]);
        refuses(&told, &["the chat template writes nothing for `messages[1].reasoning_content`"]);
    }
    let folder = TempDir::new().unwrap();
    // As Qwen3 has it: reasoning of replies that a question follows is left out.
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n\
        {% if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}</think>{% endif %}\
        {{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    fs::write(folder.path().join("t.jinja"), template).unwrap();
    let reply = json!({"role": "assistant", "content": "b", "thinking": "hm"});
    let asked = json!({"role": "user", "content": "a"});
    let row = json!({"messages": [asked, reply, asked, reply]}).to_string();
    fs::write(folder.path().join("r.jsonl"), row).unwrap();
    let told = lorafit(folder.path(), &["data", "r.jsonl", "--model", &chat_bpe(), "--template", "t.jinja"]);
    says(
        &told,
        &["\u{27e6}b<|im_end|>", "\u{27e6}<think>hm</think>b<|im_end|>", "1 message is written otherwise"],
    );
    let row = json!({"question": "a", "answer": "b", "reasoning": "hm"}).to_string();
    fs::write(folder.path().join("r.jsonl"), row).unwrap();
    let told = lorafit(folder.path(), &["data", "r.jsonl", "--model", &chat_bpe(), "--template", "t.jinja"]);
    says(&told, &["\u{27e6}<think>hm</think>b<|im_end|>"]);
}

#[test]
fn text_over_a_template_is_told_with_both_renderings() {
    let row = json!({"prompt": "2+2=", "completion": " 4"}).to_string();
    let told = data("r.jsonl", &row, &[]);
    says(
        &told,
        &[
            "rows of prompt and completion are trained as plain text",
            "line 1 is 2+2=\u{27e6} 4\u{27e7}",
            "as a conversation it would be <|im_start|>user\u{23ce}2+2=<|im_end|>",
            "--columns prompt=instruction,completion=output",
        ],
    );
    let told = data("r.jsonl", &row, &["--columns", "prompt=instruction,completion=output"]);
    says(&told, &["\u{27e6} 4<|im_end|>\u{27e7}"]);
    assert!(!told.text.contains("plain text"), "{}", told.text);
    // What was rendered before is meant as text.
    let row = json!({"prompt": "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n", "completion": "b<|im_end|>"});
    let told = data("r.jsonl", row.to_string(), &[]);
    assert!(!told.text.contains("plain text"), "{}", told.text);
}

#[test]
fn the_report_ends_with_what_was_done_to_rows() {
    let told = data("r.jsonl", chat(json!({"id": 3}), json!({})), &[]);
    assert!(told.text.trim_end().ends_with("no part of them is left out or rewritten"), "{}", told.text);
    let rows = [
        chat(json!({"colour": 1, "id": 1}), json!({"mood": "x"})),
        chat(json!({"colour": null}), json!({"mood": "y"})),
    ];
    let rows = [rows.concat(), chat(json!({}), json!({"content": "Two. ".repeat(40)}))];
    let told = data("r.jsonl", rows.concat(), &["--max-seq-len", "60"]);
    let end = told.text.split_once("what was done to rows:").expect(&told.text).1;
    assert!(end.contains("`messages[].mood` (2), `colour` (1)") && !end.contains("`id`"), "{end}");
    assert!(end.contains("1 row cut to --max-seq-len 60, 0 dropped as longer"), "{end}");
}

#[test]
fn help_tells_every_key_and_what_becomes_of_it() {
    let help = lorafit(&root(), &["train", "--help"]).text;
    let words: Vec<&str> = help.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
    for entry in keys::LIST {
        for name in entry.names {
            assert!(words.contains(name), "{name}");
        }
        let meaning = match entry.meaning {
            Use::Honoured(what) | Use::Refused(what) => what,
            Use::Read | Use::Template | Use::Harmless => continue,
        };
        let folded = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(folded.contains(meaning), "{meaning}");
    }
    assert_eq!(lorafit(&root(), &["data", "--help"]).text.matches("Keys of rows").count(), 1);
}

/// Numbers of a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

/// A row of a shape with what it must have.
fn least(shape: Shape) -> Value {
    match shape {
        Shape::Chat => {
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
        }
        Shape::ShareGpt => {
            json!({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]})
        }
        Shape::Instruction => json!({"instruction": "a", "output": "b"}),
        Shape::Completion => json!({"prompt": "a", "completion": "b"}),
        Shape::Text => json!({"text": "a b"}),
        Shape::Question => json!({"question": "a", "answer": "b"}),
        Shape::Preference => json!({"prompt": "a", "chosen": "b", "rejected": "c"}),
        Shape::Judged => json!({"prompt": "a", "completion": "b", "label": true}),
    }
}

/// Keys that rows of the field have and nobody here knows, and some of no field.
const UNKNOWN: [&str; 22] = [
    "score",
    "rating",
    "difficulty",
    "embedding",
    "num_turns",
    "turn",
    "toxic",
    "annotator",
    "reward",
    "explanation",
    "rationale",
    "cot",
    "notes",
    "k1",
    "k2",
    "Zeile",
    "x y",
    "\u{e4}\u{f6}",
    "feature.1",
    "level",
    "quality",
    "parent_id",
];

#[test]
fn every_key_of_two_thousand_rows_is_known_refused_or_counted() {
    let mut random = Random(20_261_128);
    let values = [json!("v"), json!(7), json!(["w"]), json!({"z": 1}), json!(true), json!(null), json!("")];
    let is_there = |value: &Value| !(value.is_null() || *value == json!(""));
    for shape in Shape::ALL {
        let known: Vec<&str> = keys::LIST
            .iter()
            .filter(|entry| entry.place == Place::Row && entry.shapes.contains(&shape))
            .flat_map(|entry| entry.names.iter().copied())
            .filter(|name| keys::of_row(shape, name) == Some(Use::Harmless))
            .collect();
        let (mut text, mut want) = (String::new(), BTreeMap::new());
        for _ in 0..2000 / Shape::ALL.len() + 1 {
            let mut row = least(shape);
            for _ in 0..random.below(6) {
                let name = match random.below(3) {
                    0 => known[random.below(known.len())],
                    _ => UNKNOWN[random.below(UNKNOWN.len())],
                };
                row[name] = values[random.below(values.len())].clone();
            }
            for (name, value) in row.as_object().unwrap() {
                if UNKNOWN.contains(&name.as_str()) && is_there(value) {
                    *want.entry(name.clone()).or_insert(0u64) += 1;
                }
            }
            text += &format!("{row}\n");
        }
        let told = data("rows.jsonl", &text, &["--json"]);
        assert_eq!(told.code, 0, "{shape:?} {}", told.text);
        let told: Value = serde_json::from_str(&told.text).unwrap();
        let found: BTreeMap<String, u64> =
            serde_json::from_value(told["notes"]["passed_over"].clone()).unwrap();
        assert_eq!(found, want, "{shape:?}");
    }
}

#[test]
fn every_key_that_is_refused_is_named_and_can_be_passed_over() {
    for entry in keys::LIST.iter().filter(|entry| matches!(entry.meaning, Use::Refused(_))) {
        for (&shape, &name) in
            entry.shapes.iter().flat_map(|shape| entry.names.iter().map(move |name| (shape, name)))
        {
            if entry.place == Place::Message {
                if shape == Shape::Chat {
                    let told = data("r.jsonl", chat(json!({}), json!({name: "x"})), &[]);
                    refuses(&told, &[&format!("`messages[1].{name}` is not read")]);
                }
                continue;
            }
            if !matches!(keys::of_row(shape, name), Some(Use::Refused(_))) {
                continue;
            }
            let mut row = least(shape);
            row[name] = json!({"x": 1});
            // With some keys it is of another shape.
            if Shape::recognise(row.as_object().unwrap()).ok() != Some(shape) {
                continue;
            }
            let row = row.to_string();
            refuses(
                &data("r.jsonl", &row, &[]),
                &[&format!("`{name}` is not read"), &format!("{name}=ignore")],
            );
            says(&data("r.jsonl", &row, &["--columns", &format!("{name}=ignore")]), &["1 trained on"]);
        }
    }
}

const TOOL_ROW: &str = r#"{"messages":[{"role":"user","content":"Rome?"},{"role":"assistant","content":"","tool_calls":[{"type":"function","function":{"name":"weather","arguments":{"city":"Rome","days":3}}},{"type":"function","function":{"name":"clock","arguments":{"city":"Oslo"}}}]}],"tools":[{"type":"function","function":{"name":"weather","description":"tells it","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}},{"type":"function","function":{"name":"clock","description":"tells it, too","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}}]}"#;

/// What `data` says of a row by a template that writes tools and calls like this.
fn by_template(tools: &str, calls: &str, row: &str) -> Told {
    let folder = TempDir::new().unwrap();
    let template = format!(
        "{tools}{{% for m in messages %}}<|im_start|>{{{{ m.role }}}}\n{{{{ m.content or '' }}}}{calls}<|im_end|>\n{{% endfor %}}\
         {{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
    );
    fs::write(folder.path().join("t.jinja"), template).unwrap();
    fs::write(folder.path().join("r.jsonl"), row).unwrap();
    lorafit(
        folder.path(),
        &["data", "r.jsonl", "--model", &chat_bpe(), "--template", "t.jinja", "--no-cache"],
    )
}

#[test]
fn every_part_of_tools_and_calls_is_written_or_refused_by_name() {
    let tools = "{{ tools | tojson }}";
    let calls = "{% for c in m.tool_calls or [] %}[{{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}";
    says(&by_template(tools, calls, TOOL_ROW), &["[weather", "Oslo", "\u{27e7}"]);
    for (tools, calls, lost) in [
        ("", calls, "`tools`"),
        ("{{ tools[0] | tojson }}", calls, "`tools[1]`"),
        (tools, "", "`messages[1].tool_calls`"),
        (
            tools,
            "{% if m.tool_calls %}{% set c = m.tool_calls[0] %}[{{ c.function.name }} {{ c.function.arguments | tojson }}]{% endif %}",
            "`messages[1].tool_calls[1]`",
        ),
        (
            tools,
            "{% for c in m.tool_calls or [] %}[{{ c.function.name }}]{% endfor %}",
            "`messages[1].tool_calls[0].function.arguments.city`",
        ),
        (
            tools,
            "{% for c in m.tool_calls or [] %}[{{ c.function.name }} {{ c.function.arguments.city }}]{% endfor %}",
            "`messages[1].tool_calls[0].function.arguments.days`",
        ),
    ] {
        let want = format!("the chat template writes nothing for {lost}");
        refuses(&by_template(tools, calls, TOOL_ROW), &[&want]);
    }
    // What describes them is counted.
    let names = "{% for t in tools %}{{ t.function.name }}{% endfor %}";
    let arguments = "{% for c in m.tool_calls or [] %}[{{ c.function.arguments | tojson }}]{% endfor %}";
    for (tools, calls, told) in [
        (names, calls, "`tools[].function.description` (1), `tools[].function.parameters` (1)"),
        (tools, arguments, "`messages[].tool_calls[].function.name` (1)"),
    ] {
        says(&by_template(tools, calls, TOOL_ROW), &[told]);
    }
}

#[test]
fn words_that_others_say_too_are_not_lost() {
    let row = json!({"messages": [
        {"role": "user", "content": "yes"}, {"role": "assistant", "content": "a"},
        {"role": "user", "content": "yes"}, {"role": "assistant", "content": "b"},
    ]});
    says(&by_template("", "", &row.to_string()), &["a<|im_end|>"]);
    let folder = TempDir::new().unwrap();
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ '' if loop.index0 == 2 else m.content }}<|im_end|>\n\
                    {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    fs::write(folder.path().join("t.jinja"), template).unwrap();
    fs::write(folder.path().join("r.jsonl"), row.to_string()).unwrap();
    let flags = ["data", "r.jsonl", "--model", &chat_bpe(), "--template", "t.jinja", "--no-cache"];
    refuses(&lorafit(folder.path(), &flags), &["writes nothing for `messages[2].content`"]);
}

#[test]
fn a_second_system_message_is_refused_unless_it_says_the_same() {
    for row in [
        json!({"messages": [{"role": "system", "content": "first"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}),
        json!({"conversations": [{"from": "system", "value": "first"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}),
    ] {
        let with = |system: &str| {
            let mut row = row.clone();
            row["system"] = json!(system);
            data("r.jsonl", row.to_string(), &[])
        };
        refuses(&with("second"), &["`system` is not read: the messages begin with another system message"]);
        says(&with("first"), &["first"]);
    }
}

#[test]
fn keys_of_parts_are_refused_or_counted() {
    let row = |part: Value| {
        json!({"messages": [{"role": "user", "content": [part]}, {"role": "assistant", "content": "a"}]})
            .to_string()
    };
    for (key, value) in [
        ("image", json!("x.png")),
        ("image_url", json!({"url": "x"})),
        ("train", json!(false)),
        ("weight", json!(0)),
    ] {
        let mut part = json!({"type": "text", "text": "q"});
        part[key] = value;
        refuses(&data("r.jsonl", row(part), &[]), &[&format!("`messages[0].content[0].{key}` is not read")]);
    }
    let cached = row(json!({"type": "text", "text": "q", "cache_control": {"type": "ephemeral"}}));
    says(&data("r.jsonl", cached, &[]), &["`messages[].content[].cache_control` (1)"]);
    let several = json!({"messages": [
        {"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "text": " more"}]},
        {"role": "assistant", "content": "a"},
    ]});
    says(&data("r.jsonl", several.to_string(), &[]), &["q more", "several parts of text"]);
}

#[test]
fn a_quote_that_does_not_close_ends_nothing_silently() {
    let table = |broken: &str| {
        let good: String = (0..5).map(|i| format!("q{i},a{i}\n")).collect();
        format!("question,answer\n{good}{broken}\n{}", good.repeat(20))
    };
    for broken in ["\"bad,a", "bad,\"a", "\"bad\",\"a \"\"b\"\" c"] {
        for flags in [&[][..], &["--skip-bad-rows"]] {
            let told = data("r.csv", table(broken), flags);
            refuses(&told, &["r.csv has a quote that opens on line 7 and does not close"]);
        }
    }
    // Quotes inside a value, doubled quotes and line breaks in quotes are as they were.
    let told = data("r.csv", table("5\" pipe,\"a \"\"b\"\"\nc\""), &[]);
    says(&told, &["106 question rows"]);
}

#[test]
fn calls_are_read_in_the_forms_that_data_sets_have() {
    let tools = "{{ tools | tojson }}";
    let calls = "{% for c in m.tool_calls or [] %}[{{ c.function.name if c.function else c.name }} {{ (c.function or c).arguments | tojson }}]{% endfor %}";
    // As LLaMA-Factory has them.
    let row = json!({"conversations": [
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"a\": 1}}"},
        {"from": "observation", "value": "o"},
        {"from": "gpt", "value": "done"},
    ]});
    says(&by_template("", calls, &row.to_string()), &["[f {\"a\": 1}]"]);
    // As JSON text.
    let row = |calls: Value| {
        json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": calls}]}).to_string()
    };
    let text =
        json!("[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"arguments\": {\"a\": 1}}}]");
    says(&by_template("", calls, &row(text)), &["[f {\"a\": 1}]"]);
    for (call, error) in [
        (
            json!({"function": {"arguments": {}}}),
            "tool_calls[0].function.name` must be the name of the function",
        ),
        (json!({"function": {"name": " ", "arguments": {}}}), "tool_calls[0].function.name`"),
        (
            json!({"function": {"name": "f", "arguments": null}}),
            "arguments` must be an object or the JSON text of one",
        ),
        (
            json!({"function": {"name": "f", "arguments": [1]}}),
            "arguments` must be an object or the JSON text of one",
        ),
        (
            json!({"function": {"name": "f", "arguments": "5"}}),
            "arguments` is not read: its text is not the JSON of an object",
        ),
        (json!({}), "tool_calls[0].function.name`"),
    ] {
        refuses(&by_template(tools, calls, &row(json!([call]))), &[error]);
    }
}

#[test]
fn replies_that_do_not_learn_to_end_are_told() {
    let folder = TempDir::new().unwrap();
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}\
                    {% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}\
                    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    fs::write(folder.path().join("t.jinja"), template).unwrap();
    fs::write(folder.path().join("r.jsonl"), chat(json!({}), json!({}))).unwrap();
    let flags = ["data", "r.jsonl", "--model", &chat_bpe(), "--no-cache"];
    let told = lorafit(folder.path(), &[&flags[..], &["--template", "t.jinja"]].concat());
    says(&told, &["1 reply ends without a trained token that ends a generation"]);
    assert!(!lorafit(folder.path(), &flags).text.contains("end without"));
}

#[test]
fn a_variable_that_is_null_is_none() {
    let folder = TempDir::new().unwrap();
    let template = "{{ 'none' if x is none else 'other' }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n\
                    {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    fs::write(folder.path().join("t.jinja"), template).unwrap();
    let row = chat(json!({"chat_template_kwargs": {"x": null}}), json!({}));
    fs::write(folder.path().join("r.jsonl"), row).unwrap();
    let flags = ["data", "r.jsonl", "--model", &chat_bpe(), "--template", "t.jinja", "--no-cache"];
    says(&lorafit(folder.path(), &flags), &["none<|im_start|>user"]);
}

#[test]
fn parquet_that_is_whole_is_not_called_damaged() {
    let fixture = |name: &str| fs::read(root().join("fixtures/data").join(name)).unwrap();
    refuses(
        &data("r.parquet", fixture("delta.parquet"), &[]),
        &[
            "r.parquet has texts in a delta encoding (column \"question\"), which are not read; the file is not damaged",
            "to_parquet",
        ],
    );
    refuses(
        &data("r.parquet", fixture("bytes.parquet"), &[]),
        &["row 1: `system` must be a string, found an object"],
    );
    refuses(&data("r.parquet", "", &[]), &["r.parquet is empty"]);
}
