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

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

pub(crate) fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A family's tokenizer and plain template: a small tokenizer with the family's tokens behind its own.
pub(crate) fn family(name: &str, about: &Value) -> Result<(Tokenizer, ChatTemplate), String> {
    let folder = fixtures().join("template_corpus");
    let base = fixtures().join("models").join(about["tokenizer"].as_str().unwrap());
    let mut tokenizer = read_json(&base.join("tokenizer.json"));
    let mut added = about["added"].as_array().unwrap().clone();
    // As transformers does with a token of the configuration that the tokenizer has not.
    let known = tokenizer["added_tokens"].as_array().unwrap().iter().chain(&added);
    if let Some(bos) =
        about["config"].get("bos_token").filter(|bos| known.clone().all(|t| t["content"] != **bos))
    {
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
        added
            .map_or_else(|| tokenizer["model"]["vocab"][token.as_str().unwrap()].clone(), |t| t["id"].clone())
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
    let template = tokenizer.compile_chat_template().map_err(|error| error.to_string())?.unwrap();
    Ok((tokenizer, template.at(about["now"].as_i64().unwrap())))
}

/// A row as the chat shape reads it; rows that it refuses (they end with the user, a reply is blank) as it would.
fn conversation(row: &Value) -> Conversation {
    let messages = row["messages"].as_array().unwrap();
    let blank = |m: &&Value| m["content"].as_str().is_some_and(|text| text.trim().is_empty());
    if messages.iter().any(|m| blank(&m)) {
        let role = |m: &Value| Role::named(m["role"].as_str().unwrap()).unwrap();
        let all: Vec<_> =
            messages.iter().map(|m| Message::new(role(m), m["content"].as_str().unwrap())).collect();
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

/// Whether transformers' text has what every part of the row says, and not the list.
fn reads_parts(case: &Value, row: &Value) -> bool {
    let Some(text) = case["text"].as_str() else { return false };
    let contents =
        row["messages"].as_array().unwrap().iter().filter_map(|message| message["content"].as_array());
    let mut said = contents.flatten().map(|part| part["text"].as_str().unwrap().trim());
    !text.contains("type") && said.all(|said| text.contains(said))
}

/// What became of a case.
enum Outcome {
    Equal,
    /// The reason.
    Refused(String),
    /// A content has parts, which transformers gives a template that does not read them.
    Parts,
    /// What is different.
    Different(String),
}

fn outcome(tokenizer: &Tokenizer, template: &ChatTemplate, case: &Value, row: &Value) -> Outcome {
    let conversation = conversation(row);
    let given = conversation.for_template(template);
    let Conversation { messages, tools, .. } = &*given;
    let text = template.render_with_tools(messages, tools.as_deref(), false);
    let same_text = match (&text, case["text"].as_str()) {
        (Ok(text), Some(want)) => text == want,
        (Err(TemplateError::Refused { message }), None) => case["refused"] == json!(message),
        (Err(_), None) => true,
        _ => false,
    };
    if !same_text {
        return match (case["row"].as_str(), text) {
            // Such a template writes the list as Python prints it, turns it away, or loses a part of it.
            (Some("parts" | "parts apart"), _) if !reads_parts(case, row) => Outcome::Parts,
            (_, Ok(text)) => {
                Outcome::Different(format!("text\n  found {text:?}\n  want  {:?}", case["text"]))
            }
            (_, Err(error)) => Outcome::Refused(error.to_string()),
        };
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
    let lost: Vec<_> =
        case["lost"].as_array().into_iter().flatten().map(|field| field.as_str().unwrap()).collect();
    // Some templates write no content beside calls: the reply is trained as it is written. Most leave out the reasoning of
    // replies that a question follows.
    let last_question = messages.iter().rposition(|message| message.role == Role::User);
    let may_be_lost = |field: &str| {
        let (index, key) =
            field.strip_prefix("messages[").and_then(|f| f.split_once("].")).unwrap_or(("", ""));
        // What only describes is counted.
        let describes = [".description", ".parameters", ".name"].iter().any(|end| field.ends_with(end));
        describes
            || index.parse::<usize>().is_ok_and(|i| match key {
                "content" => messages[i].role == Role::Assistant,
                "reasoning_content" => last_question.is_some_and(|question| i < question),
                _ => false,
            })
    };
    let masker = Masker::new(tokenizer, Some(template), TrainOn::Replies);
    match masker.sample(&Document::Chat(conversation.clone()), 1) {
        Ok(sample) if sample.ids != want_ids => Outcome::Different("ids".into()),
        Ok(_) if lost.iter().any(|field| !may_be_lost(field)) => {
            Outcome::Different(format!("not refused: {lost:?}"))
        }
        Ok(sample) if sample.supervised == want => Outcome::Equal,
        Ok(sample) => Outcome::Different(format!(
            "mask\n  found {:?}\n  want  {:?}",
            show(tokenizer, &sample.ids, &sample.supervised),
            show(tokenizer, &want_ids, &want)
        )),
        Err(RowProblem::NotWritten { field }) => match lost.contains(&field.as_str()) {
            true => Outcome::Refused("the template does not write a field".into()),
            false => Outcome::Different(format!("`{field}` is written")),
        },
        Err(problem) => {
            Outcome::Refused(format!("{problem:?}").chars().take_while(|c| c.is_alphanumeric()).collect())
        }
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
    let mut parts = Vec::new();
    let mut refused = BTreeMap::<String, Vec<String>>::new();
    for name in &names {
        let about = read_json(&folder.join(format!("{name}.json")));
        let (tokenizer, template) = match family(name, &about) {
            Ok(family) => family,
            Err(reason) => {
                refused.entry(reason).or_default().push(name.clone());
                continue;
            }
        };
        for case in about["cases"].as_array().unwrap() {
            let row_name = case["row"].as_str().unwrap();
            let row = if row_name == "inside" { case } else { &rows[row_name] };
            match outcome(&tokenizer, &template, case, row) {
                Outcome::Equal => equal += 1,
                Outcome::Refused(reason) => {
                    refused.entry(reason).or_default().push(format!("{name}/{row_name}"));
                }
                Outcome::Parts => parts.push(name.as_str()),
                Outcome::Different(what) => different.push(format!("{name}/{row_name}: {what}")),
            }
        }
    }
    let mut report = String::new();
    let count: usize = refused.values().map(Vec::len).sum();
    writeln!(report, "{equal} equal, {count} refused, {} different", different.len()).unwrap();
    for (reason, cases) in &refused {
        writeln!(report, "{:5} refused: {reason}: {}", cases.len(), cases.join(", ")).unwrap();
    }
    writeln!(report, "{:5} do not read the parts of a content: {}", parts.len(), parts.join(", ")).unwrap();
    println!("{report}");
    assert!(different.is_empty(), "{report}\n{}", different.join("\n"));
}

/// What of the replies is trained, by a template of the `chat_bpe` model.
fn trained(template: &str, turns: &[(Role, &str)]) -> Result<String, RowProblem> {
    let tokenizer = Tokenizer::from_folder(fixtures().join("models/chat_bpe")).unwrap();
    let template = ChatTemplate::new(template, tokenizer.special_tokens()).unwrap();
    let messages: Vec<_> = turns.iter().map(|(role, text)| Message::new(*role, *text)).collect();
    let masker = Masker::new(&tokenizer, Some(&template), TrainOn::Replies);
    let sample = masker.sample(&Document::Chat(messages.into()), 1)?;
    let trained: Vec<_> =
        sample.ids.iter().zip(&sample.supervised).filter(|(_, s)| **s).map(|(id, _)| *id).collect();
    Ok(tokenizer.decode(&trained, false).unwrap())
}

const TURNS: &str =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{{ '\n' }}{% endfor %}";

#[test]
fn a_reply_begins_where_the_prompt_that_opens_reasoning_and_the_text_part() {
    let turns =
        [(Role::User, "2+2?"), (Role::Assistant, "Four."), (Role::User, "3+3?"), (Role::Assistant, "Six.")];
    for more in ["<think>\\n", "<think>", "<think>\\n\\n</think>\\n\\n", "[THINK]", "</think>"] {
        let template = format!(
            "{TURNS}{{% if add_generation_prompt %}}{{{{ '<|im_start|>assistant\\n{more}' }}}}{{% endif %}}"
        );
        assert_eq!(trained(&template, &turns).unwrap(), "Four.<|im_end|>Six.<|im_end|>", "{template}");
        // What the reply has of it is the prompt's.
        let reply = format!("{}why</think>Four.", more.replace("\\n", "\n"));
        let turns = [(Role::User, "2+2?"), (Role::Assistant, reply.as_str())];
        assert_eq!(trained(&template, &turns).unwrap(), "why</think>Four.<|im_end|>", "{template}");
    }
    // Words are the reply's own: a model that is to begin with them would not learn what it says instead.
    let template =
        format!("{TURNS}{{% if add_generation_prompt %}}<|im_start|>assistant\nSure: {{% endif %}}");
    let problem = trained(&template, &turns).unwrap_err();
    assert!(matches!(problem, RowProblem::SpanNotFound { message: 1 }), "{problem}");
}

#[test]
fn the_assistant_may_speak_first_whatever_the_template_asks_of_the_first_message() {
    let prompt = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let in_loop =
        TURNS.replace("{% endfor %}", &format!("{{% if loop.last %}}{prompt}{{% endif %}}{{% endfor %}}"));
    for template in [
        format!("{TURNS}{prompt}"),
        format!(
            "{{% if messages[0].role != 'system' %}}<|im_start|>system\nYou help.<|im_end|>\n{{% endif %}}{TURNS}{prompt}"
        ),
        format!("{{% if messages[-1].role == 'tool' %}}tool{{% endif %}}{TURNS}{prompt}"),
        in_loop,
    ] {
        let turns = [
            (Role::Assistant, "Welcome to the shop."),
            (Role::User, "Hi"),
            (Role::Assistant, "What do you need?"),
        ];
        let want = "Welcome to the shop.<|im_end|>What do you need?<|im_end|>";
        assert_eq!(trained(&template, &turns).unwrap(), want, "{template}");
        let turns = [(Role::System, "Be brief."), (Role::Assistant, "Welcome."), (Role::Assistant, "Well?")];
        assert_eq!(trained(&template, &turns).unwrap(), "Welcome.<|im_end|>Well?<|im_end|>", "{template}");
    }
}

#[test]
fn an_end_that_is_not_known_is_an_error_that_quotes_what_stands_there() {
    let turns = [(Role::User, "Hi"), (Role::Assistant, "Yes.")];
    let problem =
        trained("{% for m in messages %}{{ m.role }}: {{ m.content }}\n;\n{% endfor %}", &turns).unwrap_err();
    assert!(problem.to_string().contains("writes \"\\n;\\n\" behind the reply messages[1]"), "{problem}");
    assert!(problem.hint().unwrap().to_string().contains("eos_token"));
    let twice = TURNS.replace(
        "{% endfor %}",
        "{% if m.role == 'assistant' %}It said {{ m.content }}{% endif %}{% endfor %}",
    );
    let problem = trained(&twice, &turns).unwrap_err();
    assert!(matches!(problem, RowProblem::ReplyRepeated { message: 1 }), "{problem}");
}
