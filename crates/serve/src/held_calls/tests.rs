use std::path::{Path, PathBuf};

use lorafit_data::SpecialTokens;

use super::*;
use crate::constrain::{Checked, Grammars};
use crate::tools::{Offered, split_calls};

const HERMES: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>\n{{ c.function | tojson }}\n</tool_call>{% endfor %}{% endfor %}";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_folder(fixtures().join("models/chat_bpe")).expect("a tokenizer")
}

fn syntax_of(source: &str) -> Option<CallSyntax> {
    let special = SpecialTokens {
        bos: Some("<s>".to_owned()),
        eos: Some("</s>".to_owned()),
        ..SpecialTokens::default()
    };
    CallSyntax::of(&ChatTemplate::new(source, &special).expect("a template"), &tokenizer())
}

fn syntax(marker: &str, before_name: &str, before_arguments: &str, behind: &str) -> CallSyntax {
    let [marker, before_name, before_arguments, behind] =
        [marker, before_name, before_arguments, behind].map(str::to_owned);
    CallSyntax { marker, is_list: false, before_name, before_arguments, behind }
}

#[test]
fn how_families_write_calls_is_seen_from_their_templates() {
    let named =
        |marker: &str, behind: &str| Some(syntax(marker, "{\"name\": \"", "\", \"arguments\": ", behind));
    let listed = |marker: &str| named(marker, "}").map(|syntax| CallSyntax { is_list: true, ..syntax });
    for (family, expected) in [
        ("qwen2.5", named("<tool_call>", "}")),
        ("qwen3", named("<tool_call>", "}")),
        ("hermes-3", named("<tool_call>", "}")),
        ("exaone-4", named("<tool_call>", "}")),
        ("granite-3.3", listed("<|tool_call|>")),
        ("nemotron-nano-v2", listed("<TOOLCALL>")),
        ("jamba", listed("<tool_calls>")),
        ("ministral-3", Some(syntax("[TOOL_CALLS]", "", "[ARGS]", ""))),
        // What stands behind the arguments is of the call alone.
        ("mistral-v3", Some(CallSyntax { behind: String::new(), ..listed("[TOOL_CALLS]").expect("a list") })),
        // No marker begins a call, or its arguments are not JSON.
        ("llama-3.1", None),
        ("phi-3", None),
        ("qwen3-coder", None),
        ("glm-4.5", None),
        ("lfm2", None),
        // A number of the call stands in it.
        ("command-r7b", None),
        ("kimi-k2", None),
    ] {
        let source = std::fs::read_to_string(fixtures().join(format!("template_corpus/{family}.jinja")));
        assert_eq!(syntax_of(&source.expect(family)), expected, "{family}");
    }
    let function = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}<function={{ c.function.name }}>{{ c.function.arguments | tojson }}</function>{% endfor %}{% endfor %}";
    assert_eq!(syntax_of(function), Some(syntax("<function=", "", ">", "")));
}

/// A call in which the model says anything at random that may follow: its text from the marker on, if the call came to its end.
fn random_call(held: &HeldCalls, begin: &str, vocabulary: usize, seed: u64) -> Option<String> {
    let tokenizer = tokenizer();
    let mut held = held.again();
    let mut text = String::new();
    let mut decoder = tokenizer.decode_stream(false);
    let mut state = seed | 1;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32
    };
    for id in tokenizer.encode(begin, false).expect("tokens") {
        let piece = decoder.push(id).expect("a text");
        held.accept(id, &piece, &tokenizer);
        text += &piece;
    }
    // White space at random is long.
    for _ in 0..3000 {
        let Some(guide) = held.current() else { return Some(text) };
        let mut logits: Vec<f32> = (0..vocabulary).map(|_| random()).collect();
        guide.mask(&mut logits);
        let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).expect("a token");
        assert!(*best.1 > f32::NEG_INFINITY, "nothing may follow {text:?}");
        let id = best.0 as u32;
        assert!(!tokenizer.is_eos(id), "{text:?} may not end here");
        let piece = decoder.push(id).expect("a text");
        held.accept(id, &piece, &tokenizer);
        text += &piece;
    }
    None
}

/// A template that writes a list of calls.
const LIST: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.tool_calls %}<TOOLCALL>[{% for c in m.tool_calls %}{{ c.function | tojson }}{% endfor %}]</TOOLCALL>{% endif %}{% endfor %}";

#[test]
fn calls_fit_their_schemas_whatever_the_model_says_behind_the_marker() {
    let tokenizer = tokenizer();
    let grammars = Grammars::new(&tokenizer, tokenizer.vocab_size()).expect("grammars");
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["unit", "days"],
        "properties": {"unit": {"$ref": "#/$defs/unit"}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
        "$defs": {"unit": {"enum": ["C", "F"]}}});
    let tools = [
        ("get".to_owned(), schema.clone()),
        ("get_more".to_owned(), json!({"type": "object", "maxProperties": 0})),
    ];
    let offered: Vec<Offered> = tools
        .iter()
        .map(|(name, schema)| Offered {
            name: name.clone(),
            strict: Some(Checked::new(schema).expect("checked")),
        })
        .collect();
    for (source, begin, end) in
        [(HERMES, "<tool_call>", "\n</tool_call>"), (LIST, "<TOOLCALL>", "</TOOLCALL>")]
    {
        let syntax = syntax_of(source).expect("a form that can be held");
        let constraint = syntax.constraint(&tools).expect("plain names");
        let named = |name: &str| syntax.constraint(&[(name.to_owned(), json!({}))]).is_some();
        assert!(named("a_b-c.7") && !named("a\"b") && !named("ä"));
        let held = syntax.hold(grammars.begin(&constraint).expect("it can be kept"));
        let mut called = std::collections::BTreeSet::new();
        // What the last token of the marker has beside it is a part of the call.
        let bracket = if syntax.is_list { "[" } else { "" };
        for (index, more) in ["", "\n", "{\"", " {\"na"].iter().enumerate() {
            let more = more.replacen('{', &format!("{bracket}{{"), 1);
            for seed in 0..12 {
                let begin = format!("I look. {begin}{more}");
                let text =
                    random_call(&held, &begin, tokenizer.vocab_size(), 977 * (seed + 1) + index as u64);
                let text = text.expect("calls of these schemas end") + end;
                let answer = split_calls(&text, &offered);
                assert!(!answer.calls.is_empty() && answer.content.as_deref() == Some("I look."), "{text:?}");
                called.extend(answer.calls.into_iter().map(|call| call.name));
            }
        }
        assert_eq!(called.len(), 2, "each tool is called by some: {called:?}");
        // What cannot be a call is written freely: nobody is held to what is too late to keep.
        for text in [format!("{begin}no"), "no call".to_owned()] {
            assert_eq!(random_call(&held, &text, tokenizer.vocab_size(), 3), Some(text));
        }
    }
}
