//! A hundred chat templates against transformers: text, ids and trained tokens of the same rows
//! (`scripts/make_template_corpus.py`). Each is equal, or refused by name; none is different.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use lorafit_data::format::Document;
use lorafit_data::mask::Masker;
use lorafit_data::{
    ChatTemplate, Conversation, Mapping, Message, Role, Row, RowProblem, Shape, TemplateError, Tokenizer,
    TrainOn,
};
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A family's tokenizer and plain template: a small tokenizer with the family's tokens behind its own.
fn family(name: &str, about: &Value) -> (Tokenizer, ChatTemplate) {
    let folder = fixtures().join("template_corpus");
    let base = fixtures().join("models").join(about["tokenizer"].as_str().unwrap());
    let mut tokenizer = read_json(&base.join("tokenizer.json"));
    let mut added = about["added"].as_array().unwrap().clone();
    // As transformers does with a token of the configuration that the tokenizer has not.
    let known = tokenizer["added_tokens"].as_array().unwrap().iter().chain(&added);
    if let Some(bos) = about["config"].get("bos_token").filter(|bos| known.clone().all(|t| t["content"] != **bos)) {
        added.push(json!({"content": bos, "special": true, "lstrip": false, "rstrip": false}));
    }
    let first = tokenizer["model"]["vocab"].as_object().unwrap().len();
    for (i, token) in added.iter().enumerate() {
        let mut token = token.clone();
        token["id"] = json!(first + i);
        token["single_word"] = json!(false);
        token["normalized"] = json!(false);
        tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    }
    let id = |token: &Value| {
        let added = tokenizer["added_tokens"].as_array().unwrap().iter().find(|t| t["content"] == *token);
        added.map_or_else(|| tokenizer["model"]["vocab"][token.as_str().unwrap()].clone(), |t| t["id"].clone())
    };
    let mut ends = vec![id(&about["config"]["eos_token"])];
    ends.extend(about["ends"].as_array().into_iter().flatten().map(id));
    let model = tempfile::tempdir().unwrap();
    let write = |file: &str, text: String| std::fs::write(model.path().join(file), text).unwrap();
    write("generation_config.json", json!({ "eos_token_id": ends }).to_string());
    write("tokenizer.json", tokenizer.to_string());
    write("tokenizer_config.json", about["config"].to_string());
    std::fs::copy(folder.join(format!("{name}.jinja")), model.path().join("chat_template.jinja")).unwrap();
    let tokenizer = Tokenizer::from_folder(model.path()).unwrap();
    let template = tokenizer.compile_chat_template().unwrap().unwrap().at(about["now"].as_i64().unwrap());
    (tokenizer, template)
}

/// A row as the chat shape reads it; rows that it refuses (they end with the user, a reply is blank) as it would.
/// Parts of a content are one text.
fn conversation(row: &Value) -> Conversation {
    let mut row = row.clone();
    for message in row["messages"].as_array_mut().unwrap() {
        if let Some(parts) = message["content"].as_array() {
            let texts: String = parts.iter().map(|part| part["text"].as_str().unwrap()).collect();
            message["content"] = texts.into();
        }
    }
    let messages = row["messages"].as_array().unwrap();
    let blank = |m: &&Value| m["content"].as_str().is_some_and(|text| text.trim().is_empty());
    if messages.iter().any(|m| blank(&m)) {
        let role = |m: &Value| Role::named(m["role"].as_str().unwrap()).unwrap();
        let all: Vec<_> = messages.iter().map(|m| Message::new(role(m), m["content"].as_str().unwrap())).collect();
        return all.into();
    }
    let mut fields = row.as_object().unwrap().clone();
    fields.retain(|key, _| ["messages", "tools"].contains(&key.as_str()));
    let closed = messages.last().unwrap()["role"] == "assistant";
    if !closed {
        fields["messages"].as_array_mut().unwrap().push(json!({"role": "assistant", "content": "x"}));
    }
    let Row::Chat(mut conversation) = Shape::Chat.parse(fields, &Mapping::default()).unwrap() else {
        unreachable!()
    };
    if !closed {
        conversation.messages.pop();
    }
    conversation
}

/// Supervised tokens in brackets, for messages.
fn show(tokenizer: &Tokenizer, ids: &[u32], mask: &[bool]) -> String {
    let mut text = String::new();
    let mut open = false;
    for (&id, &supervised) in ids.iter().zip(mask) {
        if supervised != open {
            text.push(if supervised { '⟦' } else { '⟧' });
            open = supervised;
        }
        text += &tokenizer.id_to_token(id).unwrap();
    }
    text
}

/// What became of a case.
enum Outcome {
    Equal,
    /// The reason.
    Refused(String),
    /// The template engine renders it otherwise than jinja2, or not: what it does.
    Rendered(String),
    /// What is different.
    Different(String),
}

fn outcome(tokenizer: &Tokenizer, template: &ChatTemplate, case: &Value, row: &Value) -> Outcome {
    let conversation = conversation(row);
    let Conversation { messages, tools, .. } = &conversation;
    let text = template.render_with_tools(messages, tools.as_deref(), false);
    let same_text = match (&text, case["text"].as_str()) {
        (Ok(text), Some(want)) => text == want,
        (Err(TemplateError::Refused { message }), None) => case["refused"] == json!(message),
        (Err(_), None) => true,
        _ => false,
    };
    if !same_text {
        return Outcome::Rendered(match (case["row"].as_str(), text) {
            // Templates that write the list of parts, or turn away text.
            (Some("parts"), _) => "content parts".into(),
            (_, Ok(_)) => "another text".into(),
            (_, Err(e)) => e.to_string(),
        });
    }
    if case.get("refused").is_some() {
        return Outcome::Equal;
    }
    let want_ids: Vec<u32> = case["ids"].as_str().unwrap().chars().map(|c| c as u32 - 0x100).collect();
    let mut want = vec![false; want_ids.len()];
    for range in case["tokens"].as_array().unwrap() {
        let at = |i: usize| range[i].as_u64().unwrap() as usize;
        want[at(0)..at(1)].fill(true);
    }
    if let Some(first) = want.first_mut() {
        *first = false;
    }
    let masker = Masker::new(tokenizer, Some(template), TrainOn::Replies);
    match masker.sample(&Document::Chat(conversation.clone()), 1) {
        Ok(sample) if sample.ids != want_ids => Outcome::Different("ids".into()),
        Ok(_) if case.get("lost").is_some() => Outcome::Different(format!("not refused: {}", case["lost"])),
        Ok(sample) if sample.supervised == want => Outcome::Equal,
        Ok(sample) => Outcome::Different(format!(
            "mask\n  found {:?}\n  want  {:?}",
            show(tokenizer, &sample.ids, &sample.supervised),
            show(tokenizer, &want_ids, &want)
        )),
        Err(RowProblem::NotWritten { field }) => {
            let lost = case["lost"].as_array().into_iter().flatten().any(|lost| *lost == field);
            match lost {
                true => Outcome::Refused("the template does not write a field".into()),
                false => Outcome::Different(format!("`{field}` is written")),
            }
        }
        Err(problem) => Outcome::Refused(format!("{problem:?}").chars().take_while(|c| c.is_alphanumeric()).collect()),
    }
}

#[test]
fn every_case_equals_transformers_or_is_refused_by_name() {
    let folder = fixtures().join("template_corpus");
    let rows = read_json(&folder.join("rows.json"));
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .filter_map(|file| Some(file.unwrap().file_name().to_str()?.strip_suffix(".json")?.to_string()))
        .filter(|name| name != "rows")
        .collect();
    names.sort();
    assert!(names.len() >= 60);

    let (mut equal, mut different) = (0, Vec::new());
    type Cases = BTreeMap<String, Vec<String>>;
    let (mut refused, mut engine) = (Cases::new(), Cases::new());
    for name in &names {
        let about = read_json(&folder.join(format!("{name}.json")));
        let (tokenizer, template) = family(name, &about);
        for case in about["cases"].as_array().unwrap() {
            let row_name = case["row"].as_str().unwrap();
            let row = if row_name == "inside" { case } else { &rows[row_name] };
            match outcome(&tokenizer, &template, case, row) {
                Outcome::Equal => equal += 1,
                Outcome::Refused(reason) => {
                    refused.entry(reason).or_default().push(format!("{name}/{row_name}"));
                }
                Outcome::Rendered(what) => {
                    engine.entry(what).or_default().push(format!("{name}/{row_name}"));
                }
                Outcome::Different(what) => different.push(format!("{name}/{row_name}: {what}")),
            }
        }
    }
    let mut report = String::new();
    let count: usize = refused.values().map(Vec::len).sum();
    writeln!(report, "{equal} equal, {count} refused, {} different", different.len()).unwrap();
    for (kind, reasons) in [("refused", &refused), ("engine", &engine)] {
        for (reason, cases) in reasons {
            writeln!(report, "{:5} {kind}: {reason}: {}", cases.len(), cases.join(", ")).unwrap();
        }
    }
    println!("{report}");
    assert!(different.is_empty(), "{report}\n{}", different.join("\n"));
}
