//! The Go templates for Ollama against Go: `fixtures/ollama/templates.json` has each with what Go's `text/template` makes of
//! it for conversations of one turn and of three, with and without a system message (`scripts/render_go_templates.go`).

use std::path::Path;

use lorafit_data::{GoTemplate, Message, Role, Tokenizer};
use serde_json::{Map, Value, json};

use crate::template_corpus::{family, fixtures, read_json};

/// Names of the templates of the corpus.
fn names() -> Vec<String> {
    let entries = std::fs::read_dir(fixtures().join("template_corpus")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names
        .filter(|n| n != "rows.json")
        .filter_map(|n| Some(n.strip_suffix(".json")?.to_owned()))
        .collect();
    names.sort();
    names
}

fn tokenizer_of(name: &str) -> Option<Tokenizer> {
    let about = read_json(&fixtures().join("template_corpus").join(format!("{name}.json")));
    let (mut tokenizer, _) = family(name, &about).ok()?;
    tokenizer.set_clock(about["now"].as_i64().unwrap());
    Some(tokenizer)
}

fn described(tokenizer: &Tokenizer) -> Value {
    let template = match GoTemplate::of(tokenizer) {
        Ok(template) => template,
        Err(error) => return json!({"refused": error.to_string()}),
    };
    let mut json = Map::new();
    json.insert("template".into(), json!(template.source));
    if let Some(system) = &template.system {
        json.insert("system".into(), json!(system));
    }
    for (key, list) in [("stop", &template.stop), ("notes", &template.notes)] {
        if !list.is_empty() {
            json.insert(key.into(), json!(list));
        }
    }
    Value::Object(json)
}

fn conversations() -> Value {
    let message = |role: &str, content: &str| json!({"role": role, "content": content});
    let system = message("system", "You translate.\n\nNever explain {{ this }}.");
    let turns = [
        message("user", "Say \"good morning\"\nin German & French."),
        message("assistant", "Guten Morgen!\nBonjour!"),
        message("user", "And {{ .System }} <b>?"),
        message("assistant", "Nein \u{1F600}"),
        message("user", "Danke, 你好"),
    ];
    let conversation = |count: usize, with: bool| {
        let system = Some(system.clone()).filter(|_| with).into_iter();
        Value::Array(system.chain(turns[..count].iter().cloned()).collect())
    };
    json!([conversation(1, false), conversation(1, true), conversation(5, false), conversation(5, true)])
}

#[test]
fn what_go_makes_of_the_templates_is_what_the_chat_templates_give() {
    let found: Map<String, Value> = names()
        .into_iter()
        .filter_map(|name| {
            let found = described(&tokenizer_of(&name)?);
            Some((name, found))
        })
        .collect();
    if let Some(path) = std::env::var_os("GO_TEMPLATES_OUT") {
        let all = json!({"conversations": conversations(), "templates": found});
        std::fs::write(path, all.to_string()).unwrap();
    }
    let fixture = read_json(&Path::new(&fixtures()).join("ollama/templates.json"));
    assert_eq!(fixture["conversations"], conversations(), "render them again");
    assert_eq!(fixture["templates"].as_object().unwrap().len(), found.len());
    let mut equal = 0;
    for (name, found) in found {
        let mut expected = fixture["templates"][&name].clone();
        let rendered = expected.as_object_mut().unwrap().remove("rendered");
        assert_eq!(found, expected, "{name}: another template than Go was tried on");
        let Some(rendered) = rendered else { continue };
        let tokenizer = tokenizer_of(&name).unwrap();
        let template = tokenizer.compile_chat_template().unwrap().unwrap();
        let first: String =
            tokenizer.encode("", true).unwrap().iter().filter_map(|id| tokenizer.id_to_token(*id)).collect();
        let takes_system =
            found.get("notes").is_none_or(|notes| !notes.to_string().contains("system message"));
        for (conversation, rendered) in
            conversations().as_array().unwrap().iter().zip(rendered.as_array().unwrap())
        {
            let messages = conversation.as_array().unwrap().iter();
            let messages: Vec<Message> = messages
                .map(|m| {
                    let text = |key: &str| m[key].as_str().unwrap();
                    Message::new(Role::named(text("role")).unwrap(), text("content"))
                })
                .filter(|m| takes_system || m.role != Role::System)
                .collect();
            let jinja = template.render(&messages, true).unwrap();
            assert_eq!(rendered, jinja.strip_prefix(&first).unwrap_or(&jinja), "{name}");
            equal += 1;
        }
    }
    assert!(equal > 200, "only {equal} texts compared");
}
