use std::path::Path;

use serde_json::{Value, json};

use super::{Answer, Call, CallStream, Offered, Piece};
use crate::constrain::Checked;

/// The tools of the corpus, and of the other tests.
fn offered() -> Vec<Offered> {
    let tool = |name: &str| Offered { name: name.to_owned(), strict: None };
    ["weather", "clock", "weather_report", "f", "g"].map(tool).to_vec()
}

fn split_calls(text: &str) -> Answer {
    super::split_calls(text, &offered())
}

fn call(name: &str, arguments: Value) -> Call {
    Call { name: name.to_owned(), arguments }
}

fn answer(content: Option<&str>, calls: Vec<Call>) -> Answer {
    Answer { content: content.map(str::to_owned), calls }
}

/// The answer whose text comes in `pieces`, with the texts one after the other.
fn streamed<'a>(pieces: impl IntoIterator<Item = &'a str>) -> Answer {
    let mut stream = CallStream::new(&offered());
    let mut found: Vec<Piece> = pieces.into_iter().flat_map(|piece| stream.push(piece)).collect();
    found.extend(stream.finish());
    let mut answer = Answer::default();
    for piece in found {
        match piece {
            Piece::Text(text) => answer.content.get_or_insert_default().push_str(&text),
            Piece::Call(call) => answer.calls.push(call),
        }
    }
    answer
}

/// A family of the corpus, what stands before and behind the answer with two calls, and whether "I look." is in it.
const FAMILIES: [(&str, &str, &str, Option<&str>); 27] = [
    ("qwen2.5", "assistant\n", "<|im_end|>", Some("I look.")),
    ("qwen2.5-coder", "assistant\n", "<|im_end|>", Some("I look.")),
    ("qwen3", "assistant\n", "<|im_end|>", Some("I look.")),
    ("qwq", "assistant\n", "<|im_end|>", Some("I look.")),
    ("hermes-3", "assistant\n", "<|im_end|>", None),
    ("qwen3-coder", "assistant\n", "<|im_end|>", Some("I look.")),
    ("qwen3.5", "</think>\n\n", "<|im_end|>", Some("I look.")),
    ("glm-4.5", "</think>\n", "<|observation|>", Some("I look.")),
    ("mistral-v3", "[/INST]", "</s>", None),
    ("mistral-nemo", "[/INST]", "</s>", None),
    ("ministral-3", "[/INST]", "</s>", Some("I look.")),
    ("granite-3.3", "assistant<|end_of_role|>", "<|end_of_text|>", Some("I look.")),
    ("granite-4", "assistant<|end_of_role|>", "<|end_of_text|>", Some("I look.")),
    ("exaone-4", "</think>\n\n", "[|endofturn|]", Some("I look.")),
    ("falcon-3", "<|assistant|>\n", "<|endoftext|>", Some("I look.")),
    ("nemotron-nano-v1", "assistant<|end_header_id|>\n\n", "<|eot_id|>", Some("I look.")),
    ("nemotron-nano-v2", "Assistant\n", "\n<SPECIAL_12>", Some("I look.")),
    ("jamba", "<|assistant|> ", "<|eom|>", Some("I look.")),
    ("apertus", "<|assistant_start|>", "[sun, 12:00]", Some("I look.")),
    ("command-r7b", "<|END_THINKING|>", "<|END_OF_TURN_TOKEN|>", None),
    ("deepseek-v3.1", "</think>", "<｜end▁of▁sentence｜>", Some("I look.")),
    ("gemma-4", "model\n", "<|tool_response>", Some("I look.")),
    ("lfm2", "assistant\n", "<|im_end|>", Some("I look.")),
    ("olmo-3", "assistant\n", "<|im_end|>", Some("I look.")),
    ("minimax-m2", "]~b]ai\n", "[e~[", Some("I look.")),
    ("seed-oss", "assistant\n", "<seed:eos>", Some("I look.")),
    ("glm-4", "<|assistant|>", "<|observation|>", None),
];

/// The answer of the assistant in a row of the corpus that its template wrote; `$` stands for the end of the row.
fn written(family: &str, row: &str, before: &str, behind: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/template_corpus");
    let about: Value =
        serde_json::from_slice(&std::fs::read(folder.join(format!("{family}.json"))).unwrap()).unwrap();
    let case = about["cases"].as_array().unwrap().iter().find(|case| case["row"] == row).unwrap();
    let text = case["text"].as_str().unwrap();
    // Behind the question, so that calls that the system message shows are not it.
    let from = text.rfind("Weather").unwrap();
    let text = &text[from..];
    let text = &text[text.find(before).expect(family) + before.len()..];
    let end = if behind == "$" { text.len() } else { text.find(behind).expect(family) };
    text[..end].to_owned()
}

/// The calls of the row "two calls" of the corpus.
fn two_calls() -> Vec<Call> {
    let weather = json!({"place": "U\"lm", "days": 1.5, "of": ["sun", null, true]});
    vec![call("weather", weather), call("clock", json!({}))]
}

#[test]
fn calls_are_found_as_the_templates_of_families_write_them() {
    for (family, before, behind, content) in FAMILIES {
        let text = written(family, "two calls", before, behind);
        assert_eq!(split_calls(&text), answer(content, two_calls()), "{family}: {text}");
    }
    let weather = call("weather", json!({"place": "Köln", "days": 2}));
    for (family, before, behind) in [
        ("llama-3.1", "assistant<|end_header_id|>\n\n", "<|eot_id|>"),
        ("llama-3.2", "assistant<|end_header_id|>\n\n", "<|eot_id|>"),
        ("llama-3.3", "assistant<|end_header_id|>\n\n", "<|eot_id|>"),
        ("deepseek-v3", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
        ("kimi-k2", "<|im_middle|>", "<|im_end|>"),
        ("gpt-oss", "<|start|>assistant", "$"),
        ("glm-4", "<|assistant|>", "$"),
    ] {
        let text = written(family, "ends with a call", before, behind);
        let found = split_calls(&text);
        assert_eq!(found.calls, std::slice::from_ref(&weather), "{family}: {text}");
    }
}

#[test]
fn calls_are_found_as_model_cards_write_them() {
    let weather = || call("weather", json!({"place": "Ulm"}));
    let clock = || call("clock", json!({}));
    for (text, expected) in [
        // Llama 3.2 and 4 part several by a semicolon, a line, or nothing.
        (r#"{"name": "weather", "parameters": {"place": "Ulm"}}; {"name": "clock", "parameters": {}}"#, 2),
        (
            "{\"name\": \"weather\", \"parameters\": {\"place\": \"Ulm\"}}\n{\"name\": \"clock\", \"parameters\": {}}",
            2,
        ),
        (r#"<|python_tag|>{"name": "weather", "parameters": {"place": "Ulm"}}"#, 1),
        (
            r#"<|python_tag|>{"type": "function", "name": "weather", "parameters": {"place": "Ulm"}}; {"name": "clock", "parameters": {}}"#,
            2,
        ),
        (r#"{"type": "function", "name": "weather", "parameters": {"place": "Ulm"}}"#, 1),
        // Phi-4-mini and Granite 3.1.
        (r#"<|tool_call|>[{"name": "weather", "arguments": {"place": "Ulm"}}]<|/tool_call|>"#, 1),
        (
            r#"<|tool_call|>[{"type": "function", "function": {"name": "weather", "parameters": {"place": "Ulm"}}}]"#,
            1,
        ),
        // Mistral, where the marker was left out in decoding, and with the id that it writes since 3.2.
        (r#" [{"name": "weather", "arguments": {"place": "Ulm"}, "id": "abcdefgh1"}]"#, 1),
        (r#"[TOOL_CALLS]weather[CALL_ID]abcdefgh1[ARGS]{"place": "Ulm"}"#, 1),
        // Functionary 3.1.
        (r#"<function=weather>{"place": "Ulm"}</function>"#, 1),
        (r#"<function=weather>{"place": "Ulm"}</function><function=clock>{}</function>"#, 2),
        // OpenAI's own form.
        (r#"<tool_call>{"name": "weather", "arguments": "{\"place\": \"Ulm\"}"}</tool_call>"#, 1),
        // The answer ended before its last marker.
        ("<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"place\": \"Ulm\"}}", 1),
        ("<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"place\": \"Ulm\"}}\n</tool_c", 1),
        (r#"<function=weather>{"place": "Ulm"}"#, 1),
        // gpt-oss, which names the function behind the channel, or as the template before it.
        (
            r#"<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"place": "Ulm"}<|call|>"#,
            1,
        ),
        (r#"<|channel|>commentary to=functions.weather<|constrain|>json<|message|>{"place": "Ulm"}"#, 1),
        (r#" to=functions.weather<|channel|>commentary json<|message|>{"place": "Ulm"}<|call|>"#, 1),
        (
            "<|start|>assistant<|channel|>commentary to=functions.weather \
             <|constrain|>json<|message|>{\"place\": \"Ulm\"}<|call|><|start|>assistant \
             to=functions.clock<|channel|>commentary<|message|>{}<|call|>",
            2,
        ),
        // Gemma 4 and FunctionGemma.
        (r#"<|tool_call>call:weather{place:<|"|>Ulm<|"|>}<tool_call|>"#, 1),
        (r#"<|tool_call>call:weather{ <|"|>place<|"|> : "Ulm" }"#, 1),
        (
            "<start_function_call>call:weather{place:<escape>Ulm<escape>}<end_function_call>\
             <start_function_call>call:clock{}<end_function_call>",
            2,
        ),
        // LFM2 and OLMo 3, as Python, and LFM2 as JSON.
        ("<|tool_call_start|>[weather(place='Ulm'), clock()]<|tool_call_end|>", 2),
        (r#"<|tool_call_start|>[{"name": "weather", "arguments": {"place": "Ulm"}}]<|tool_call_end|>"#, 1),
        ("<function_calls>\nweather(place=\"\"\"Ulm\"\"\")\nclock()\n</function_calls>", 2),
        ("<function_calls>\nweather(place=\"Ulm\",)\nclock()", 2),
        // MiniMax M2 and Seed-OSS.
        (
            "<minimax:tool_call>\n<invoke name=\"weather\">\n<parameter name=\"place\">Ulm</parameter>\n</invoke>\n\
             <invoke name=\"clock\">\n</invoke>\n</minimax:tool_call>",
            2,
        ),
        (
            "<seed:tool_call>\n<function=weather>\n<parameter=place>Ulm</parameter>\n</function>\n</seed:tool_call>\n\
             <seed:tool_call><function=clock></function></seed:tool_call>",
            2,
        ),
        // GLM-4 begins with the name of a tool that was offered.
        ("weather\n{\"place\": \"Ulm\"}", 1),
        ("\nweather\n{\"place\": \"Ulm\"}<|assistant|>clock\n{}", 2),
    ] {
        let calls = [weather(), clock()].into_iter().take(expected).collect();
        assert_eq!(split_calls(text), answer(None, calls), "{text}");
    }
    assert_eq!(split_calls(r#"<tool_call>{"name": "clock"}</tool_call>"#).calls, [clock()]);
}

/// Texts that look like calls and are none.
const NO_CALLS: [&str; 47] = [
    "",
    " \n ",
    "plain text\n",
    "\n  indented, and ends in blanks  \n\n",
    "{\"name\": \"Bob\", \"age\": 3}",
    "{\"name\": \"Bob\"}",
    "{\"name\": \"Bob\", \"parameters\": [1]}",
    "{\"answer\": {\"name\": \"f\", \"parameters\": {}}}",
    "[1, 2, 3]",
    "[[]]",
    "{",
    "[TOOL_CALLS]",
    "[TOOL_CALLS] []",
    "Write <tool_call> to call a tool.",
    "<tool_call>{\"name\": \"f\", \"arguments\": {}} and no end",
    "<tool_call>{\"name\": \"f\", \"arguments\": {}",
    "<tool_call>{'name': 'f'}</tool_call>",
    "<tool_call>{\"name\": \"f\", \"arguments\": 3}</tool_call>",
    "<tool_call></tool_call>",
    "a < b, <| and <tool and <｜tool▁ca",
    "<|python_tag|>print(1)",
    "<|tool_call|>[1]<|/tool_call|>",
    "<｜tool▁calls▁begin｜>text<｜tool▁sep｜>{",
    // gpt-oss: messages to nobody, to nothing, and without an object.
    "<|channel|>final<|message|>Hello<|end|><|start|>assistant<|channel|>final<|message|>!",
    "mail to=functions. and to=functions.f are words",
    "<|channel|>commentary to=functions.f<|message|>[1]<|call|>",
    "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": ",
    "<|channel|>analysis to=functions.f code<|message|>{}<|call|>",
    "<|start|>assistant to=browser.open<|channel|>commentary<|message|>{}<|call|>",
    // Gemma.
    "<|tool_call>call:f{a:b}<tool_call|>",
    "<|tool_call>call:f{a:<|\"|>b}<tool_call|>",
    "<|tool_call>f{}<tool_call|>",
    "<start_function_call>call:f{a:1 b:2}<end_function_call>",
    "<start_function_call>call:f{a:<|\"|>b<|\"|>}<end_function_call>",
    // LFM2 and OLMo 3.
    "<|tool_call_start|>[]<|tool_call_end|>",
    "<|tool_call_start|>[f(1)]<|tool_call_end|>",
    "<|tool_call_start|>[f(a=b)]<|tool_call_end|>",
    "<|tool_call_start|>[f(a='x)]<|tool_call_end|>",
    "<|tool_call_start|>f(a=1)<|tool_call_end|>",
    "<function_calls></function_calls>",
    "<function_calls>f(a=1) g</function_calls>",
    "<function_calls>f(a='\\ud800')</function_calls>",
    // MiniMax M2 and Seed-OSS.
    "<minimax:tool_call></minimax:tool_call>",
    "<minimax:tool_call><invoke name=\"f\"><parameter name=\"a\">1</invoke></minimax:tool_call>",
    "<seed:tool_call>{\"name\": \"f\"}</seed:tool_call>",
    // The names of tools that were offered, and others.
    "weather\nis fine <|assistant|>clock",
    "other\n{\"place\": \"Ulm\"}",
];

#[test]
fn text_that_is_no_call_is_kept() {
    for text in NO_CALLS {
        assert_eq!(split_calls(text), answer((!text.is_empty()).then_some(text), Vec::new()), "{text}");
    }
    let text = r#"{"name": "f", "parameters": {}} was it"#;
    assert_eq!(split_calls(text), answer(Some("was it"), vec![call("f", json!({}))]));
}

#[test]
fn text_beside_calls_is_kept_without_the_white_space_between() {
    let text = "One.\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\nTwo <b>.\n<tool_call>{\"name\": \"g\", \
                \"arguments\": {\"x\": \"</tool_call> }\"}}</tool_call>\n";
    let calls = vec![call("f", json!({})), call("g", json!({"x": "</tool_call> }"}))];
    assert_eq!(split_calls(text), answer(Some("One.\n\n\nTwo <b>."), calls));
}

#[test]
fn values_written_as_text_are_what_they_look_like() {
    let text = "<tool_call>\n<function=f>\n<parameter=code>\n  x = 1\n\n</parameter>\n<parameter=n>\n7\n</parameter>\n\
                <parameter=yes>\nTrue\n</parameter>\n<parameter=quoted>\n\"a\"\n</parameter>\n</function>\n</tool_call>";
    let arguments = json!({"code": "  x = 1\n", "n": 7, "yes": true, "quoted": "\"a\""});
    assert_eq!(split_calls(text).calls, [call("f", arguments)]);
}

#[test]
fn values_of_python_are_those_that_it_reads() {
    let text = "<|tool_call_start|>[f(c=[1, (True)]), g()]<|tool_call_end|>";
    assert_eq!(split_calls(text).calls, [], "a tuple is none of JSON's values");
    let text = r#"<|tool_call_start|>[f(a='it\'s', b="x\n\u00e9\ud83d\ude00\x41\w", c=[1, -2.5e3, True, null], d={'k': None, "l": []}, e='')]<|tool_call_end|>"#;
    let arguments = json!({"a": "it's", "b": "x\né😀A\\w", "c": [1, -2.5e3, true, null], "d": {"k": null, "l": []}, "e": ""});
    assert_eq!(split_calls(text).calls, [call("f", arguments)]);
    // A list in a parameter that is text otherwise.
    let text = "<seed:tool_call><function=f><parameter=a>['x', None]</parameter><parameter=b>[x]</parameter></function></seed:tool_call>";
    assert_eq!(split_calls(text).calls, [call("f", json!({"a": ["x", null], "b": "[x]"}))]);
}

#[test]
fn values_in_values_without_end_are_text() {
    for (open, close) in [("[", "]"), ("{'a':", "}"), ("{a:", "}")] {
        let value = format!("{}1{}", open.repeat(50_000), close.repeat(50_000));
        for text in [
            format!("<|tool_call_start|>[f(a={value})]<|tool_call_end|>"),
            format!("<|tool_call>call:f{{a:{value}}}<tool_call|>"),
        ] {
            assert_eq!(split_calls(&text), answer(Some(&text), Vec::new()));
        }
        let text = format!(
            "<seed:tool_call><function=f><parameter=a>{value}</parameter></function></seed:tool_call>"
        );
        assert_eq!(split_calls(&text).calls, [call("f", json!({"a": value}))]);
    }
}

#[test]
fn calls_of_gpt_oss_are_found_behind_its_thoughts() {
    let text = "<|channel|>analysis<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.weather \
                <|constrain|>json<|message|>{\"place\": \"Ulm\"}<|call|>";
    let thoughts = "<|channel|>analysis<|message|>I look.<|end|>";
    assert_eq!(split_calls(text), answer(Some(thoughts), vec![call("weather", json!({"place": "Ulm"}))]));
}

#[test]
fn every_cut_of_an_answer_gives_the_same() {
    let mut texts: Vec<String> = NO_CALLS.iter().map(|text| (*text).to_owned()).collect();
    for (family, before, behind, _) in FAMILIES {
        texts.push(written(family, "two calls", before, behind));
    }
    texts.push(written("deepseek-v3", "ends with a call", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"));
    texts.push(written("gpt-oss", "ends with a call", "<|start|>assistant", "$"));
    texts.push(
        "<|channel|>analysis<|message|>I to=functions.<|end|><|start|>assistant<|channel|>commentary to=functions.weather \
         <|constrain|>json<|message|>{\"place\": \"Ulm\"}<|call|>"
            .to_owned(),
    );
    texts.push(
        "<start_function_call>call:f{a:<escape>x} y<escape>,b:[1,{c:true}]}<end_function_call> z".to_owned(),
    );
    texts.push("<function_calls>\nf(a='''x\n'y'''', b=\"\")\ng()\n</function_calls>\n!".to_owned());
    texts.push("weather\n{\"place\": \"Ulm\"}\n<|assistant|>weather_report\n{}".to_owned());
    texts.push(
        r#" {"name": "f", "parameters": {"a": "}"}} ; {"name": "g", "parameters": {}}<|/tool_call|> no"#
            .into(),
    );
    texts.push(format!(
        "<tool_call>{{\"name\": \"f\", \"arguments\": {{\"a\": \"{}\"}}}}</tool_call> x",
        "é".repeat(300)
    ));
    texts.push(format!("<tool_call>{{\"name\": \"{}", "é ".repeat(300)));
    // A generator of pseudo-random numbers (xorshift).
    let mut state = 88_172_645_463_325_252_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for text in &texts {
        let whole = split_calls(text);
        let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).skip(1).chain([text.len()]).collect();
        for longest in [1, 2, 3, 7, 40] {
            for _ in 0..4 {
                let (mut pieces, mut from, mut next) = (Vec::new(), 0, 0);
                while next < ends.len() {
                    next = (next + 1 + random(longest)).min(ends.len());
                    pieces.push(&text[from..ends[next - 1]]);
                    from = ends[next - 1];
                }
                assert_eq!(streamed(pieces.iter().copied()), whole, "{pieces:?}");
            }
        }
    }
}

#[test]
fn text_is_not_held_longer_than_it_may_be_a_call() {
    let mut stream = CallStream::new(&offered());
    assert_eq!(stream.push("Sun "), [Piece::Text("Sun".into())]);
    assert_eq!(stream.push("and <"), [Piece::Text(" and".into())]);
    assert_eq!(stream.push("b> rain"), [Piece::Text(" <b> rain".into())]);
    assert_eq!(stream.push(" <tool"), []);
    assert_eq!(stream.push("_call>"), []);
    assert_eq!(stream.push(" x y"), [Piece::Text(" <tool_call> x y".into())]);
    assert_eq!(stream.finish(), []);
    // JSON that is no call is text from its first key on.
    let mut stream = CallStream::new(&offered());
    assert_eq!(stream.push("{\"ans"), []);
    assert_eq!(stream.push("wer\": 1"), [Piece::Text("{\"answer\": 1".into())]);
}

#[test]
fn a_call_that_does_not_end_is_text_at_last() {
    let long = format!("<tool_call>{{\"name\": \"{}", "a".repeat(super::LONGEST_CALL + 4096));
    let mut stream = CallStream::new(&offered());
    let ends = (0..long.len()).step_by(4096);
    let mut pieces: Vec<Piece> =
        ends.flat_map(|at| stream.push(&long[at..long.len().min(at + 4096)])).collect();
    assert!(!pieces.is_empty(), "it is known before the answer's end");
    pieces.extend(stream.finish());
    let said = pieces.iter().map(|piece| if let Piece::Text(text) = piece { text.len() } else { 0 });
    assert_eq!(said.sum::<usize>(), long.len());
    let deep = format!("<tool_call>{}{}</tool_call>", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(split_calls(&deep), answer(Some(&deep), Vec::new()));
}

#[test]
fn calls_of_tools_that_were_not_offered_are_text() {
    let offered = [Offered { name: "light".to_owned(), strict: None }];
    let mut texts: Vec<String> = FAMILIES
        .iter()
        .map(|(family, before, behind, _)| written(family, "two calls", before, behind))
        .collect();
    for text in [
        "<tool_call>{\"name\": \"door\", \"arguments\": {}}</tool_call>",
        "I look. <tool_call>{\"name\": \"door\", \"arguments\": {}}</tool_call> Done.",
        "{\"name\": \"door\", \"parameters\": {}}",
        "<|python_tag|>{\"name\": \"door\", \"parameters\": {}}; {\"name\": \"door\", \"parameters\": {}}",
        "[TOOL_CALLS]door[ARGS]{}",
        "[TOOL_CALLS][{\"name\": \"light\", \"arguments\": {}}, {\"name\": \"door\", \"arguments\": {}}]",
        "<|tool_call_start|>[door(a=1)]<|tool_call_end|>",
        "lights\n{}",
    ] {
        assert_eq!(super::split_calls(text, &offered), answer(Some(text), Vec::new()));
        texts.push(text.to_owned());
    }
    for text in &texts {
        let whole = super::split_calls(text, &offered);
        assert_eq!(whole.calls, [], "{text}");
        let said = whole.content.unwrap_or_default();
        assert!(
            said.contains("weather") || said.contains("door") || said.contains("lights"),
            "{text}: {said}"
        );
        // As it comes, too.
        let mut stream = CallStream::new(&offered);
        let mut pieces: Vec<Piece> = text.chars().flat_map(|c| stream.push(&c.to_string())).collect();
        pieces.extend(stream.finish());
        let streamed: String =
            pieces
                .iter()
                .map(|piece| {
                    if let Piece::Text(text) = piece { text.as_str() } else { panic!("{piece:?} of {text}") }
                })
                .collect();
        assert_eq!(streamed, said);
    }
    // One that was offered, beside it, is a call.
    let text = "<tool_call>{\"name\": \"door\"}</tool_call>\n<tool_call>{\"name\": \"light\"}</tool_call>";
    let found = super::split_calls(text, &offered);
    assert_eq!(
        found,
        answer(Some("<tool_call>{\"name\": \"door\"}</tool_call>"), vec![call("light", json!({}))])
    );
}

#[test]
fn calls_of_a_strict_tool_that_do_not_fit_its_schema_are_text() {
    let schema = json!({"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"],
                        "additionalProperties": false});
    let strict = Some(Checked::new(&schema).unwrap());
    let offered =
        [Offered { name: "light".to_owned(), strict }, Offered { name: "door".to_owned(), strict: None }];
    let written = |name: &str, arguments: &Value| {
        format!("<tool_call>{}</tool_call>", json!({"name": name, "arguments": arguments}))
    };
    for (arguments, fits) in [
        (json!({"on": true}), true),
        (json!({"on": "true"}), false),
        (json!({}), false),
        (json!({"on": true, "at": 3}), false),
    ] {
        let text = written("light", &arguments);
        let expected = match fits {
            true => answer(None, vec![call("light", arguments.clone())]),
            false => answer(Some(&text), Vec::new()),
        };
        assert_eq!(super::split_calls(&text, &offered), expected);
        let text = written("door", &arguments);
        assert_eq!(super::split_calls(&text, &offered).calls, [call("door", arguments)]);
    }
}
