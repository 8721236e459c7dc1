//! What is answered: the same as without a server, whatever else is computed, streamed or whole.

use std::time::Duration;

use lorafit_kernels::ops::attention::{Segment, Segments};
use lorafit_model::Buffers;
use lorafit_model::Stream;
use serde_json::{Value, json};

use crate::common::{
    BASE, Running, Setup, adapter_at, base, chat, close, completion, expected, read_some, request, strengths,
};

const TEXTS: [&str; 5] =
    ["What is the largest number?", "Set a timer", "Hello", "Where is the cat, and why?", "a b c d e f g"];

fn text_of(answer: &Value) -> &str {
    let choice = &answer["choices"][0];
    choice["message"]["content"].as_str().or(choice["text"].as_str()).expect("a text")
}

#[test]
fn answers_are_those_of_generate_for_every_adapter_whatever_is_beside_them() {
    let server = Running::start();
    let names: Vec<(String, Option<f64>)> = strengths()
        .into_iter()
        .map(|(name, strength)| (name, Some(strength)))
        .chain([(BASE.to_owned(), None)])
        .collect();
    let cases: Vec<(usize, usize, bool, usize)> =
        (0..64).map(|i| (i % names.len(), i * 7 % TEXTS.len(), i % 3 != 0, 8 + i * 5 % 40)).collect();
    let wanted: Vec<String> = cases
        .iter()
        .map(|&(name, text, is_chat, tokens)| {
            let adapter = names[name].1.map(adapter_at);
            expected(adapter.as_ref(), TEXTS[text], is_chat, tokens)
        })
        .collect();
    let found: Vec<String> = std::thread::scope(|scope| {
        let ask = |(i, &(name, text, is_chat, tokens)): (usize, &(usize, usize, bool, usize))| {
            let (server, names) = (&server, &names);
            scope.spawn(move || {
                // Some at once, some later.
                std::thread::sleep(Duration::from_millis((i as u64 * 37) % 101));
                let (name, more) = (&names[name].0, json!({"max_tokens": tokens}));
                let answer = match is_chat {
                    true => server.post("/v1/chat/completions", &chat(name, TEXTS[text], more)),
                    false => server.post("/v1/completions", &completion(name, TEXTS[text], more)),
                };
                text_of(&answer.json()).to_owned()
            })
        };
        let threads: Vec<_> = cases.iter().enumerate().map(ask).collect();
        threads.into_iter().map(|thread| thread.join().expect("an answer")).collect()
    });
    for ((case, found), wanted) in cases.iter().zip(&found).zip(&wanted) {
        assert_eq!(found, wanted, "{} {case:?}", names[case.0].0);
    }
    let different: std::collections::BTreeSet<&String> = wanted.iter().collect();
    assert!(different.len() > 20, "the adapters answer differently");
}

#[test]
fn a_strength_behind_the_name_is_that_of_the_adapter() {
    let server = Running::start();
    // a1 has -2.25.
    let answer = server.post("/v1/completions", &completion("a1:-2", "Hello", json!({}))).json();
    assert_eq!(text_of(&answer), expected(Some(&adapter_at(4.5)), "Hello", false, 24));
    let whole = server.post("/v1/completions", &completion("a1:1.0", "Hello", json!({}))).json();
    assert_eq!(text_of(&whole), expected(Some(&adapter_at(-2.25)), "Hello", false, 24));
    for (model, status) in
        [("a1:0", 400), ("a1:nan", 400), ("a1:1e30", 400), ("a1:x", 404), ("b", 404), ("tiny:0.5", 404)]
    {
        let refused = server.post("/v1/completions", &completion(model, "Hello", json!({})));
        assert_eq!(refused.status, status, "{model} {refused:?}");
        assert!(refused.error().contains("model"), "{refused:?}");
    }
    for (model, expected) in [
        ("a1:", "nothing follows the colon; give a number, as in a1:0.7"),
        ("a1:abc", "`abc` is not a strength; give a number, as in a1:0.7"),
        ("tiny:0.5", "the base has no strength"),
        ("b:0.5", "lists all"),
    ] {
        let refused = server.post("/v1/completions", &completion(model, "Hello", json!({})));
        assert!(refused.error().contains(expected), "{refused:?}");
    }
    let missing = server.post("/v1/completions", &json!({"prompt": "Hello"}));
    assert_eq!(missing.error(), "`model` is missing; give a name that GET /v1/models lists");
    // Weights and strengths are shown as they are: a1 was given with -2.25.
    let listed = server.get("/v1/models").json();
    let weight = |name: &str| {
        listed["data"].as_array().unwrap().iter().find(|m| m["id"] == name).unwrap()["weight"].clone()
    };
    assert_eq!((weight(BASE), weight("a1")), (Value::Null, json!(-2.25)));
    assert_eq!(server.get("/v1/models/a1:-2").json()["weight"], json!(4.5));
    // As they were written, and not as the next number of 32 bits.
    let of_own = server.get("/v1/models/a5:0.1").json();
    assert_eq!((&of_own["weight"], &of_own["id"]), (&json!(0.075), &json!("a5:0.1")));
}

#[test]
fn streams_say_what_whole_answers_say() {
    let server = Running::start();
    for more in [
        json!({}),
        json!({"logprobs": true, "top_logprobs": 2}),
        json!({"n": 3, "temperature": 1.2, "seed": 5}),
    ] {
        let mut body = chat("a2", TEXTS[0], more);
        let whole = server.post("/v1/chat/completions", &body).json();
        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": true});
        let mut events = server.post("/v1/chat/completions", &body).events();
        let last = events.pop().expect("usage");
        assert_eq!(last["choices"], json!([]));
        for key in ["prompt_tokens", "completion_tokens", "total_tokens"] {
            assert_eq!(last["usage"][key], whole["usage"][key], "{key}");
        }
        for choice in whole["choices"].as_array().unwrap() {
            let of_choice = |event: &&Value| event["choices"][0]["index"] == choice["index"];
            let own: Vec<&Value> =
                events.iter().filter(of_choice).map(|event| &event["choices"][0]).collect();
            assert_eq!(own[0]["delta"], json!({"role": "assistant", "content": ""}));
            let text: String = own.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
            assert_eq!(choice["message"]["content"], text);
            assert_eq!(own.last().unwrap()["finish_reason"], choice["finish_reason"]);
            assert!(own[..own.len() - 1].iter().all(|choice| choice["finish_reason"].is_null()));
            let listed: Vec<&Value> =
                own.iter().filter_map(|choice| choice["logprobs"]["content"].as_array()).flatten().collect();
            let wanted: Vec<&Value> =
                choice["logprobs"]["content"].as_array().into_iter().flatten().collect();
            assert_eq!(listed, wanted);
        }
        assert!(
            events.iter().all(|event| event["usage"].is_null() && event["object"] == "chat.completion.chunk")
        );
    }
    let mut body = completion("a3", "Hello", json!({"logprobs": 1}));
    let whole = server.post("/v1/completions", &body).json();
    body["stream"] = true.into();
    let events = server.post("/v1/completions", &body).events();
    let text: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(text_of(&whole), text);
    let offsets: Vec<&Value> = events
        .iter()
        .filter_map(|e| e["choices"][0]["logprobs"]["text_offset"].as_array())
        .flatten()
        .collect();
    assert_eq!(
        offsets,
        whole["choices"][0]["logprobs"]["text_offset"].as_array().unwrap().iter().collect::<Vec<_>>()
    );
}

#[test]
fn the_same_seed_gives_the_same_text_and_none_a_random_one() {
    let server = Running::start();
    let ask = |more: Value| {
        let mut body = chat("a5", TEXTS[1], json!({"temperature": 1.5}));
        more.as_object().unwrap().iter().for_each(|(key, value)| body[key] = value.clone());
        let answer = server.post("/v1/chat/completions", &body).json();
        let choices = answer["choices"].as_array().unwrap();
        choices
            .iter()
            .map(|choice| choice["message"]["content"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(ask(json!({"seed": 3})), ask(json!({"seed": 3})));
    assert_ne!(ask(json!({"seed": 3})), ask(json!({"seed": -4})));
    let random: std::collections::BTreeSet<String> = (0..6).flat_map(|_| ask(json!({}))).collect();
    assert!(random.len() > 1, "{random:?}");
    let several = ask(json!({"n": 4, "seed": 1}));
    assert!(several.len() == 4 && several[0] != several[1], "{several:?}");
}

#[test]
fn stop_strings_end_an_answer_wherever_they_begin() {
    let server = Running::start();
    let text = expected(Some(&adapter_at(4.5)), TEXTS[0], true, 24);
    let letters: Vec<char> = text.chars().collect();
    let mut tried = 0;
    for start in (1..letters.len().saturating_sub(3)).step_by(3) {
        let stop: String = letters[start..start + 3].iter().collect();
        let before = &text[..text.find(&stop).expect("it is there")];
        for stream in [false, true] {
            let more = json!({"stop": ["\u{0}never", stop], "stream": stream});
            let answer = server.post("/v1/chat/completions", &chat("a4", TEXTS[0], more));
            let (found, reason) = match stream {
                false => {
                    let json = answer.json();
                    (text_of(&json).to_owned(), json["choices"][0]["finish_reason"].clone())
                }
                true => {
                    let events = answer.events();
                    let pieces = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str());
                    (pieces.collect(), events.last().unwrap()["choices"][0]["finish_reason"].clone())
                }
            };
            assert_eq!((found.as_str(), &reason), (before, &json!("stop")), "{stop:?} in {text:?}");
            tried += 1;
        }
    }
    assert!(tried > 6, "{text:?} has too few letters for this test");
}

/// log p of each of `ids` but the first, in f64.
fn log_probabilities(ids: &[u32]) -> Vec<f64> {
    let (model, _) = base();
    let mut buffers = Buffers::for_evaluation(model.config(), None, model.device(), ids.len());
    let positions: Vec<u32> = (0..ids.len() as u32).collect();
    let segments =
        Segments::new(vec![Segment { start: 0, len: ids.len(), parent: None }], ids.len()).unwrap();
    let stream = Stream { ids, positions: &positions, segments: &segments, targets: &[], below: 0 };
    let logits = model.all_logits(None, stream, &mut buffers);
    let rows = logits.chunks_exact(model.config().vocab_size).zip(&ids[1..]);
    rows.map(|(row, id)| {
        let top = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = row.iter().map(|logit| (f64::from(*logit) - top).exp()).sum();
        f64::from(row[*id as usize]) - top - sum.ln()
    })
    .collect()
}

#[test]
fn log_probabilities_are_those_of_the_model() {
    let server = Running::start();
    let (_, tokenizer) = base();
    let ids = tokenizer.encode("Hello, what is the largest number?", true).unwrap();
    let wanted = log_probabilities(&ids);
    let score = server.post("/v1/score", &json!({"model": BASE, "input": ids})).json();
    let tokens = score["data"][0]["tokens"].as_array().unwrap();
    assert!(tokens[0]["logprob"].is_null() && tokens.len() == ids.len());
    for (token, wanted) in tokens[1..].iter().zip(&wanted) {
        assert!((token["logprob"].as_f64().unwrap() - wanted).abs() < 1e-4, "{token} {wanted}");
    }
    assert!((score["data"][0]["logprob"].as_f64().unwrap() - wanted.iter().sum::<f64>()).abs() < 1e-3);

    // The same tokens as the answer to their beginning, each chosen by its bias.
    let more = json!({"prompt": &ids[..ids.len() - 1], "max_tokens": 1, "logprobs": 3,
                      "logit_bias": {ids.last().unwrap().to_string(): 100}});
    let answer = server.post("/v1/completions", &completion(BASE, "", more)).json();
    let listed = &answer["choices"][0]["logprobs"];
    assert!(
        (listed["token_logprobs"][0].as_f64().unwrap() - wanted.last().unwrap()).abs() < 1e-4,
        "{listed}"
    );
    assert_eq!(listed["top_logprobs"][0].as_object().unwrap().len(), 3);

    // What is listed of a text is what a score says of prompt and answer.
    let more = json!({"logprobs": true, "top_logprobs": 1, "max_tokens": 10});
    let answer = server.post("/v1/chat/completions", &chat("a6", TEXTS[3], more)).json();
    let listed = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(listed.len() as u64, answer["usage"]["completion_tokens"].as_u64().unwrap());
    for token in listed {
        assert_eq!(
            token["logprob"], token["top_logprobs"][0]["logprob"],
            "temperature 0 takes the likeliest"
        );
        assert!(token["bytes"].is_array());
    }
    let bytes: Vec<u8> = listed
        .iter()
        .flat_map(|t| t["bytes"].as_array().unwrap())
        .map(|b| b.as_u64().unwrap() as u8)
        .collect();
    assert_eq!(String::from_utf8_lossy(&bytes), text_of(&answer));
}

/// The bytes of a token as completions list it.
fn listed_bytes(token: &str) -> Vec<u8> {
    let byte = |digits: &str| u8::from_str_radix(digits, 16).expect("two digits");
    match token.strip_prefix("bytes:") {
        None => token.as_bytes().to_vec(),
        Some(bytes) => bytes.split("\\x").skip(1).map(byte).collect(),
    }
}

#[test]
fn tokens_that_are_parts_of_a_letter_are_listed_with_their_bytes_and_place() {
    let server = Running::start();
    let (_, tokenizer) = base();
    // Tokens of the parts of some letters, and of a whole one, all about as likely.
    let ids = tokenizer.encode("é—日🏴a", false).unwrap();
    let bias: serde_json::Map<String, Value> = ids.iter().map(|id| (id.to_string(), json!(100))).collect();
    let mut parts = 0;
    for seed in 0..12 {
        let more =
            json!({"logit_bias": bias, "temperature": 2, "seed": seed, "logprobs": 20, "max_tokens": 14});
        let answer = server.post("/v1/completions", &completion(BASE, "Hello", more)).json();
        let listed = &answer["choices"][0]["logprobs"];
        let tokens: Vec<&str> =
            listed["tokens"].as_array().unwrap().iter().map(|token| token.as_str().unwrap()).collect();
        parts += tokens.iter().filter(|token| token.starts_with("bytes:")).count();
        let all: Vec<u8> = tokens.iter().flat_map(|token| listed_bytes(token)).collect();
        assert_eq!(String::from_utf8_lossy(&all), text_of(&answer), "{answer}");
        // Where letters end, those that never became whole, too.
        let mut ends = Vec::new();
        for chunk in all.utf8_chunks() {
            let lengths = chunk.valid().chars().map(char::len_utf8);
            for length in lengths.chain(Some(chunk.invalid().len()).filter(|bytes| *bytes > 0)) {
                ends.push(ends.last().unwrap_or(&0) + length);
            }
        }
        let mut at = 0;
        for (token, offset) in tokens.iter().zip(listed["text_offset"].as_array().unwrap()) {
            let before = ends.iter().filter(|end| **end <= at).count();
            assert_eq!(offset, before, "{token} of {tokens:?}: {listed}");
            at += listed_bytes(token).len();
        }
        // No token hides another.
        for likeliest in listed["top_logprobs"].as_array().unwrap() {
            assert_eq!(likeliest.as_object().unwrap().len(), 20, "{likeliest}");
        }
    }
    assert!(parts > 20, "{parts}");
}

#[test]
fn embeddings_are_of_unit_length_and_the_same_in_base64() {
    let server = Running::start();
    let ask = |more: Value| {
        let mut body = json!({"model": "a1", "input": ["Hello", "What is the largest number?"]});
        more.as_object().unwrap().iter().for_each(|(key, value)| body[key] = value.clone());
        server.post("/v1/embeddings", &body)
    };
    let vectors = |answer: Value| -> Vec<Vec<f64>> {
        let data = answer["data"].as_array().unwrap().clone();
        data.iter()
            .map(|d| d["embedding"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect())
            .collect()
    };
    let mean = vectors(ask(json!({})).json());
    let last = vectors(ask(json!({"pooling": "last", "encoding_format": "float"})).json());
    for vector in mean.iter().chain(&last) {
        assert_eq!(vector.len(), base().0.config().hidden_size);
        assert!((vector.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-5);
    }
    assert!(mean[0] != mean[1] && mean[1] != last[1]);
    let base64 = ask(json!({"encoding_format": "base64"})).json();
    let text = base64["data"][1]["embedding"].as_str().unwrap();
    let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: Vec<u8> = text
        .trim_end_matches('=')
        .chars()
        .flat_map(|c| (0..6).rev().map(move |bit| (letters.find(c).unwrap() >> bit & 1) as u8))
        .collect();
    let bytes: Vec<u8> =
        bits.chunks_exact(8).map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | bit)).collect();
    let numbers: Vec<f64> =
        bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect();
    assert_eq!(numbers, mean[1]);
    assert_eq!(ask(json!({"dimensions": 3})).status, 400);
}

#[test]
fn a_client_that_goes_away_ends_its_answer() {
    let server = Running::start();
    for stream in [true, false] {
        let more = json!({"max_tokens": 4000, "n": 16, "stream": stream, "logit_bias": ends_never()});
        let body = completion("a1", "Hello", more).to_string();
        let asked = request(server.address, "POST", "/v1/completions", &[], Some(body.as_bytes()));
        let connection = server.send(&asked);
        match stream {
            true => assert!(read_some(&connection, 4).contains("data:")),
            false => server.wait_until("it runs", |server| server.metric("lorafit_running") >= 1.0),
        }
        let before = server.metric("lorafit_cancelled_total");
        close(connection);
        server.wait_until("the answer ends", |server| server.metric("lorafit_running") == 0.0);
        assert_eq!(server.metric("lorafit_cancelled_total"), before + 1.0, "stream {stream}");
    }
}

/// A bias that keeps an answer from ending.
fn ends_never() -> Value {
    let ends = base().1.eos_ids().iter();
    ends.map(|id| (id.to_string(), json!(-100))).collect::<serde_json::Map<_, _>>().into()
}

#[test]
fn the_beginning_of_an_earlier_prompt_is_not_computed_again() {
    let server = Running::start();
    let text = "the number of cats is large and the timer is set to ten minutes ".repeat(8);
    let ask_for = |tokens: usize, model: &str, end: &str| {
        let body = completion(model, &format!("{text}{end}"), json!({"max_tokens": tokens}));
        let answer = server.post("/v1/completions", &body);
        answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    let ask = |model: &str, end: &str| ask_for(24, model, end);
    assert_eq!(ask("a1", "one"), 0);
    assert!(ask("a1", "two") > 20);
    // An answer that ends with its first token says so, too, and is counted.
    let before = server.metric("lorafit_cached_tokens_total");
    let cached = ask_for(1, "a1", "three");
    assert!(cached > 20);
    assert_eq!(server.metric("lorafit_cached_tokens_total"), before + cached as f64);
    // Keys and values of another adapter are of no use.
    assert_eq!(ask("a2", "one"), 0);
    assert_eq!(ask(BASE, "one"), 0);
}

#[test]
fn adapters_come_and_go_while_the_server_runs() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("adapters");
    std::fs::create_dir_all(from.join("mine")).unwrap();
    std::fs::create_dir_all(from.join("empty")).unwrap();
    let adapter = crate::common::fixture("chat_bpe").join("adapter");
    for file in std::fs::read_dir(adapter).unwrap().flatten() {
        std::fs::copy(file.path(), from.join("mine").join(file.file_name())).unwrap();
    }
    let guard = lorafit_serve::Guard { keys: vec!["0123456789abcdef".to_owned()], hosts: Vec::new() };
    let server = Running::with(Setup { from: Some(from), guard, ..Setup::default() });
    let key = ["Authorization: Bearer 0123456789abcdef"];
    let ask = |method: &str, path: &str, body: Option<Value>| {
        let body = body.map(|body| body.to_string());
        server.ask(method, path, &key, body.as_deref().map(str::as_bytes))
    };
    let new = json!({"name": "new", "path": "mine"});
    let body = completion("new", "Hello", json!({}));
    assert_eq!(ask("POST", "/v1/completions", Some(body.clone())).status, 404);
    let loaded = ask("POST", "/v1/adapters", Some(new.clone())).json();
    assert_eq!((&loaded["id"], &loaded["warnings"]), (&json!("new"), &json!(["mine is of another base"])));
    assert_eq!(ask("POST", "/v1/adapters", Some(new)).status, 409);
    let answer = ask("POST", "/v1/completions", Some(body.clone())).json();
    assert_eq!(text_of(&answer), expected(Some(&adapter_at(1.0)), "Hello", false, 24));
    let listed = ask("GET", "/v1/models", None).json();
    let listed = listed["data"].as_array().unwrap();
    let one = listed.iter().find(|model| model["id"] == "new").expect("it is listed");
    assert_eq!((&one["parent"], &one["warnings"]), (&json!(BASE), &loaded["warnings"]));
    let whole: Vec<&Value> = listed.iter().filter(|model| model["warnings"] != json!([])).collect();
    assert_eq!(whole, [one]);
    let at_strength = ask("GET", "/v1/models/new:0.7", None).json();
    assert_eq!((&at_strength["weight"], &at_strength["warnings"]), (&json!(0.7), &loaded["warnings"]));
    let held = || {
        let text = ask("GET", "/metrics", None).body;
        let line = text.lines().find(|line| line.starts_with("lorafit_cache_bytes ")).expect("a gauge");
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    server.wait_until("what was computed is remembered", |_| held() > 0.0);
    assert_eq!(ask("DELETE", "/v1/adapters/new", None).json()["deleted"], true);
    server.wait_until("it is given back with the adapter", |_| held() == 0.0);
    assert_eq!(ask("POST", "/v1/completions", Some(body)).status, 404);
    assert_eq!(ask("DELETE", "/v1/adapters/new", None).status, 404);
    assert_eq!(ask("DELETE", &format!("/v1/adapters/{BASE}"), None).status, 400);
    // Errors have the path as it was given, and no other of the server.
    let wrong = ask("POST", "/v1/adapters", Some(json!({"name": "x", "path": "empty"})));
    assert!(wrong.status == 400 && wrong.error().contains("empty"), "{wrong:?}");
    assert!(!wrong.body.contains(&dir.path().display().to_string()), "{wrong:?}");
    let gone = ask("POST", "/v1/adapters", Some(json!({"name": "x", "path": "nope"})));
    assert!(gone.error().contains("there is no folder `nope` in the folder for adapters"), "{gone:?}");
    // Without a key nothing is loaded.
    assert_eq!(server.post("/v1/adapters", &json!({"name": "x", "path": "mine"})).status, 401);
    let without = Running::start();
    assert_eq!(without.post("/v1/adapters", &json!({"name": "x", "path": "mine"})).status, 403);
}
