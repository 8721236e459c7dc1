//! The chat templates of nine families against transformers: text, ids and masks of the same conversations
//! (`scripts/make_template_fixtures.py`). The family's own template, where rendering prefixes finds the replies, and
//! the same with `{% generation %}` marks have to give one mask.

use std::path::{Path, PathBuf};

use lorafit_data::format::Document;
use lorafit_data::mask::{Masker, prompt_and_reply};
use lorafit_data::{
    ChatTemplate, Conversation, Mapping, Row, RowProblem, Sample, Shape, TemplateError, Tokenizer, TrainOn,
};
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

struct Family {
    name: &'static str,
    tokenizer: Tokenizer,
    plain: ChatTemplate,
    marked: ChatTemplate,
    cases: Vec<Value>,
}

const NAMES: [&str; 9] =
    ["smollm2", "llama-2", "llama-3.1", "mistral-v0.3", "qwen2.5", "qwen3", "gemma-2", "phi-3", "zephyr"];

/// A family with its tokenizer: a small one with the family's special tokens behind its own.
fn family(name: &'static str) -> Family {
    let folder = fixtures().join("templates");
    let mut about = read_json(&folder.join(format!("{name}.json")));
    let base = about["tokenizer"].as_str().unwrap();
    let mut tokenizer = read_json(&fixtures().join("models").join(base).join("tokenizer.json"));
    let first = tokenizer["model"]["vocab"].as_object().unwrap().len();
    for (i, token) in about["added"].as_array().unwrap().iter().enumerate() {
        let mut token = token.clone();
        token["id"] = json!(first + i);
        token["single_word"] = json!(false);
        token["normalized"] = json!(false);
        tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    }
    let model = tempfile::tempdir().unwrap();
    std::fs::write(model.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(model.path().join("tokenizer_config.json"), about["config"].to_string()).unwrap();
    let file = |what: &str| folder.join(format!("{name}{what}.jinja"));
    std::fs::copy(file(""), model.path().join("chat_template.jinja")).unwrap();

    let tokenizer = Tokenizer::from_folder(model.path()).unwrap();
    let marked = std::fs::read_to_string(file(".marked")).unwrap();
    Family {
        name,
        plain: tokenizer.compile_chat_template().unwrap().unwrap(),
        marked: ChatTemplate::new(&marked, tokenizer.special_tokens()).unwrap(),
        tokenizer,
        cases: about["cases"].as_array_mut().unwrap().drain(..).collect(),
    }
}

/// Calls `check` with every case of every family.
fn for_every_case(check: impl Fn(&Family, &Value, Conversation, &str)) {
    for family in NAMES.map(family) {
        assert!(family.cases.len() >= 5, "{}", family.name);
        for case in &family.cases {
            let mut fields = case.as_object().unwrap().clone();
            fields.retain(|key, _| ["messages", "tools"].contains(&key.as_str()));
            let Row::Chat(conversation) = Shape::Chat.parse(fields, &Mapping::default()).unwrap() else {
                unreachable!()
            };
            let place = format!("{}, {}", family.name, case["name"].as_str().unwrap());
            check(&family, case, conversation, &place);
        }
    }
}

fn sample(
    family: &Family,
    template: &ChatTemplate,
    conversation: &Conversation,
    train_on: TrainOn,
) -> Result<Sample, RowProblem> {
    let masker = Masker::new(&family.tokenizer, Some(template), train_on);
    masker.sample(&Document::Chat(conversation.clone()), 1)
}

/// Supervised tokens in brackets, for messages.
fn show(family: &Family, ids: &[u32], mask: &[bool]) -> String {
    let mut text = String::new();
    let mut open = false;
    for (&id, &supervised) in ids.iter().zip(mask) {
        if supervised != open {
            text.push(if supervised { '⟦' } else { '⟧' });
            open = supervised;
        }
        text += &family.tokenizer.id_to_token(id).unwrap();
    }
    text
}

fn mask_of(case: &Value) -> Vec<bool> {
    case["mask"].as_array().unwrap().iter().map(|m| m == 1).collect()
}

fn ids_of(case: &Value) -> Vec<u32> {
    case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn text_and_ids_equal_transformers_and_refusals_are_in_the_templates_words() {
    for_every_case(|family, case, Conversation { messages, tools, .. }, place| {
        for template in [&family.plain, &family.marked] {
            let rendered = template.render_with_tools(&messages, tools.as_deref(), false);
            if let Some(refused) = case["refused"].as_str() {
                assert_eq!(rendered, Err(TemplateError::Refused { message: refused.into() }), "{place}");
                continue;
            }
            let text = rendered.unwrap();
            assert_eq!(text, case["text"].as_str().unwrap(), "{place}");
            assert_eq!(family.tokenizer.encode(&text, false).unwrap(), ids_of(case), "{place}");
        }
    });
}

/// Whether a reply says something beside its calls that the template does not write.
fn says_beside_calls(conversation: &Conversation, case: &Value) -> bool {
    let text = case["text"].as_str().unwrap_or_default();
    conversation.messages.iter().any(|message| message.calls_tools() && !text.contains(message.text()))
}

#[test]
fn masks_equal_transformers_with_marks_and_without() {
    for_every_case(|family, case, conversation, place| {
        if case.get("refused").is_some() {
            return;
        }
        assert!(!family.plain.has_generation_marks() && family.marked.has_generation_marks());
        for template in [&family.plain, &family.marked] {
            let sample = sample(family, template, &conversation, TrainOn::Replies);
            if let Some(lost) = case["lost"].as_str() {
                assert!(
                    matches!(&sample, Err(RowProblem::NotWritten { field }) if field == lost),
                    "{place}: {sample:?}"
                );
                continue;
            }
            if says_beside_calls(&conversation, case) {
                assert!(matches!(&sample, Err(RowProblem::NotWritten { .. })), "{place}: {sample:?}");
                continue;
            }
            let sample = sample.unwrap_or_else(|e| panic!("{place}: {e}"));
            assert_eq!(sample.ids, ids_of(case), "{place}");
            assert_eq!(
                show(family, &sample.ids, &sample.supervised),
                show(family, &sample.ids, &mask_of(case)),
                "{place}"
            );
        }
    });
}

#[test]
fn marks_inside_tokens_and_characters_are_resolved_as_transformers_does() {
    for family in ["edges-bpe", "edges-spm"].map(family) {
        let Row::Chat(conversation) =
            Shape::Chat.parse(family.cases[0].as_object().unwrap().clone(), &Mapping::default()).unwrap()
        else {
            unreachable!()
        };
        let sample = sample(&family, &family.marked, &conversation, TrainOn::Replies).unwrap();
        let want = mask_of(&family.cases[0]);
        assert!(want.iter().any(|m| *m) && want.iter().any(|m| !*m));
        assert_eq!(
            show(&family, &sample.ids, &sample.supervised),
            show(&family, &sample.ids, &want),
            "{}",
            family.name
        );
    }
}

#[test]
fn the_last_reply_is_the_last_run_of_transformers_mask_and_begins_where_the_prompt_ends() {
    for_every_case(|family, case, conversation, place| {
        if case.get("refused").is_some()
            || case.get("lost").is_some()
            || says_beside_calls(&conversation, case)
        {
            return;
        }
        let mut want = mask_of(case);
        let end = want.iter().rposition(|m| *m).unwrap();
        let start = want[..end].iter().rposition(|m| !*m).unwrap() + 1;
        want[..start].fill(false);
        for template in [&family.plain, &family.marked] {
            let sample = sample(family, template, &conversation, TrainOn::Last).unwrap();
            assert_eq!(
                show(family, &sample.ids, &sample.supervised),
                show(family, &sample.ids, &want),
                "{place}"
            );
        }
        let document = Document::Chat(conversation);
        let (prompt, ids, _) =
            prompt_and_reply(&family.tokenizer, Some(&family.plain), &document).unwrap().unwrap();
        assert_eq!(prompt, case["prompt"].as_str().unwrap(), "{place}");
        assert_eq!(ids, family.tokenizer.encode(&prompt, false).unwrap());
    });
}
