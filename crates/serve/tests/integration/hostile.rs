//! Requests that mean no good: each is refused with the right status, and the server goes on. `scripts/serve_hostile.py` looks at
//! how long that takes.

use std::io::Write as _;

use lorafit_serve::{Guard, Limits};
use serde_json::{Value, json};

use crate::common::{Answer, BASE, Running, Setup, base, chat, completion, read_some, request};

const KEY: &str = "Authorization: Bearer 0123456789abcdef";

/// A request and the status it is refused with.
struct Hostile {
    what: &'static str,
    bytes: Vec<u8>,
    status: u16,
}

fn server() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let guard = Guard { keys: vec!["0123456789abcdef".to_owned()], hosts: Vec::new() };
    let limits = Limits { body_bytes: 1 << 20, ..Setup::default().limits };
    Running::with(Setup { guard, limits, from: Some(dir.path().to_owned()), ..Setup::default() })
}

/// Requests about who asks, and how.
fn of_heads(server: &Running) -> Vec<Hostile> {
    let ask = |what, method: &str, path: &str, headers: &[&str], status| {
        let bytes = request(server.address, method, path, headers, None);
        Hostile { what, bytes, status }
    };
    let raw = |what, text: String, status| Hostile { what, bytes: text.into_bytes(), status };
    let many: Vec<String> = (0..500).map(|i| format!("x-{i}: 1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).chain([KEY]).collect();
    let long = format!("x: {}", "y".repeat(200_000));
    let somewhat_long = format!("x: {}", "y".repeat(33_000));
    let models = "GET /v1/models HTTP/1.1\r\nConnection: close\r\n";
    vec![
        ask("no key", "GET", "/v1/models", &[], 401),
        ask("a wrong key", "GET", "/v1/models", &["Authorization: Bearer 0123456789abcdeg"], 401),
        ask("a part of the key", "GET", "/v1/models", &["Authorization: Bearer 0123456789abcde"], 401),
        ask("two keys", "GET", "/v1/models", &[KEY, KEY], 400),
        ask("metrics without a key", "GET", "/metrics", &[], 401),
        ask("loading without a key", "POST", "/v1/adapters", &[], 401),
        ask("the name of another host", "GET", "/v1/models", &[KEY, "Host: evil.example"], 403),
        ask(
            "a name that begins like ours",
            "GET",
            "/v1/models",
            &[KEY, "Host: 127.0.0.1.evil.example:80"],
            403,
        ),
        ask("a page of another site", "GET", "/v1/models", &[KEY, "Origin: http://evil.example"], 403),
        ask("a page without a site", "GET", "/v1/models", &[KEY, "Origin: null"], 403),
        ask("the page of another site at /", "GET", "/", &["Host: evil.example"], 403),
        ask("another host in the address", "GET", "http://evil.example/v1/models", &[KEY], 403),
        raw("two hosts", format!("{models}Host: localhost\r\nHost: evil\r\n{KEY}\r\n\r\n"), 400),
        raw("no host", format!("{models}{KEY}\r\n\r\n"), 400),
        ask("many headers", "GET", "/v1/models", &many, 431),
        ask("a long header", "GET", "/v1/models", &[KEY, &long], 431),
        ask("a long address", "GET", &format!("/{}", "a".repeat(100_000)), &[KEY], 431),
        ask("a head that is somewhat long", "GET", "/v1/models", &[KEY, &somewhat_long], 431),
        raw("no HTTP", "hello\r\n\r\n".to_owned(), 400),
        raw("another version", "GET / HTTP/9.9\r\n\r\n".to_owned(), 400),
        raw(
            "two lengths",
            format!(
                "POST /v1/score HTTP/1.1\r\nHost: localhost\r\n{KEY}\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}"
            ),
            400,
        ),
        raw(
            "a negative length",
            format!("POST /v1/score HTTP/1.1\r\nHost: localhost\r\n{KEY}\r\nContent-Length: -1\r\n\r\n"),
            400,
        ),
        raw(
            "a body of 1 GB that never comes",
            format!(
                "POST /v1/score HTTP/1.1\r\nHost: localhost\r\n{KEY}\r\nContent-Length: 1000000000\r\n\r\n"
            ),
            413,
        ),
        ask("a path that leads up", "GET", "/../../etc/passwd", &[KEY], 404),
        ask(
            "a path that leads up, written otherwise",
            "GET",
            "/v1/models/%2e%2e%2f%2e%2e%2fetc",
            &[KEY],
            404,
        ),
        ask("a model that leads up", "GET", "/v1/models/../../etc", &[KEY], 404),
        ask("unloading what leads up", "DELETE", "/v1/adapters/..%2f..%2fetc", &[KEY], 404),
        ask("a method that is none", "BREW", "/v1/models", &[KEY], 405),
        ask("a page that is to be written", "POST", "/", &[KEY], 405),
    ]
}

/// A request with a body.
fn with_body(server: &Running, what: &'static str, path: &str, body: Vec<u8>, status: u16) -> Hostile {
    Hostile { what, bytes: request(server.address, "POST", path, &[KEY], Some(&body)), status }
}

/// Requests whose bodies are the matter.
fn of_bodies(server: &Running) -> Vec<Hostile> {
    let ask = |what, path: &str, body: Vec<u8>, status| with_body(server, what, path, body, status);
    let text = |what, path: &str, body: Value, status| ask(what, path, body.to_string().into(), status);
    let load =
        |what, name: &str, path: &str| text(what, "/v1/adapters", json!({"name": name, "path": path}), 400);
    let (chat_path, path) = ("/v1/chat/completions", "/v1/completions");
    let deep = format!("{{\"model\": {}", "[".repeat(500_000));
    let chunked = "POST /v1/score HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n";
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 18, "x".repeat(1 << 18));
    let large = Hostile {
        what: "a large body in chunks",
        bytes: format!("{chunked}{KEY}\r\n\r\n{}", chunk.repeat(6)).into(),
        status: 413,
    };
    let many = json!({"model": BASE, "input": vec!["x"; 100_000]});
    let encoded = |what, headers: &[&str], status| {
        let is_chunked = headers.iter().any(|header| header.starts_with("Transfer"));
        let body: &[u8] = if is_chunked { b"2\r\n{}\r\n0\r\n\r\n" } else { b"\x1f\x8b\x08" };
        let headers: Vec<&str> = headers.iter().copied().chain([KEY]).collect();
        let head = request(server.address, "POST", "/v1/score", &headers, (!is_chunked).then_some(body));
        Hostile { what, bytes: if is_chunked { [&head, body].concat() } else { head }, status }
    };
    vec![
        large,
        encoded("a compressed body", &["Content-Encoding: gzip"], 415),
        encoded("a body that is compressed twice", &["Content-Encoding: gzip, br"], 415),
        encoded("a body of two encodings", &["Content-Encoding: identity", "Content-Encoding: gzip"], 415),
        encoded("chunks that are compressed", &["Transfer-Encoding: gzip, chunked"], 400),
        encoded("chunks in chunks", &["Transfer-Encoding: chunked, chunked"], 400),
        encoded(
            "chunks in chunks, in two headers",
            &["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
            400,
        ),
        encoded("chunks that are not the last", &["Transfer-Encoding: chunked, gzip"], 400),
        encoded("no chunks", &["Transfer-Encoding: identity"], 400),
        ask("no body", chat_path, Vec::new(), 400),
        ask("deep JSON", chat_path, deep.into(), 400),
        ask("bad UTF-8", chat_path, b"{\"model\": \"\xff\xfe\"}".to_vec(), 400),
        ask("half a surrogate", chat_path, br#"{"model": "\ud800"}"#.to_vec(), 400),
        ask("zeros", chat_path, vec![0; 1000], 400),
        ask("a list", chat_path, b"[]".to_vec(), 400),
        ask("a large body", chat_path, vec![b' '; 3 << 20], 413),
        load("an adapter's path that leads up", "x", "../../etc"),
        load("an adapter's path from the root", "x", "/etc"),
        load("an adapter's name that leads up", "../x", "x"),
        load("an adapter that is not there", "x", "y"),
        text("a long text without a blank", path, completion(BASE, &"a".repeat(1_000_000), json!({})), 400),
        text("no such tokens", path, completion(BASE, "", json!({"prompt": [4_000_000_000_u32]})), 400),
        text("many texts", "/v1/embeddings", many, 400),
        text("an empty text", "/v1/embeddings", json!({"model": BASE, "input": ""}), 400),
        text("a model that is a path", path, completion("../../etc/passwd", "x", json!({})), 404),
    ]
}

#[test]
fn bodies_that_come_in_chunks_or_when_they_are_asked_for_are_read() {
    let server = Running::start();
    let body = completion(BASE, "Hello", json!({"max_tokens": 2})).to_string();
    let head = |more: &str| {
        format!("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n\r\n")
    };
    let expected =
        server.post("/v1/completions", &completion(BASE, "Hello", json!({"max_tokens": 2}))).json();
    let (first, second) = body.split_at(9);
    for encoding in ["chunked", "Chunked", " chunked "] {
        let chunks = format!(
            "{:x}\r\n{first}\r\n{:X};x=1\r\n{second}\r\n0\r\nX: y\r\n\r\n",
            first.len(),
            second.len()
        );
        let bytes = head(&format!("Transfer-Encoding:{encoding}")) + &chunks;
        assert_eq!(Answer::read(server.send(bytes.as_bytes())).json()["choices"], expected["choices"]);
    }
    let plain = head(&format!("Content-Encoding: identity\r\nContent-Length: {}", body.len())) + &body;
    assert_eq!(Answer::read(server.send(plain.as_bytes())).json()["choices"], expected["choices"]);

    // A client that sends `Expect: 100-continue` waits for an answer: to go on, or an error.
    let asks = |length: usize| head(&format!("Expect: 100-continue\r\nContent-Length: {length}"));
    let mut stream = server.send(asks(body.len()).as_bytes());
    assert!(read_some(&stream, 0).starts_with("HTTP/1.1 100 Continue\r\n"));
    stream.write_all(body.as_bytes()).expect("sent");
    assert_eq!(Answer::read(stream).json()["choices"], expected["choices"]);
    assert_eq!(Answer::read(server.send(asks(1 << 30).as_bytes())).status, 413);
}

#[test]
fn a_path_that_does_not_take_a_method_says_which_it_takes() {
    let server = Running::start();
    for (method, path, taken) in [
        ("GET", "/v1/chat/completions", "POST"),
        ("PUT", "/v1/models", "GET or HEAD"),
        ("GET", "/v1/adapters/x", "DELETE"),
    ] {
        let refused = server.ask(method, path, &[], None);
        let expected = format!("this path does not take {method}; send {taken}");
        assert_eq!((refused.status, refused.error()), (405, expected));
        let allowed = format!("allow: {}", taken.replace(" or ", ","));
        assert!(refused.head.to_lowercase().contains(&allowed.to_lowercase()), "{}", refused.head);
    }
}

#[test]
fn a_wrong_number_is_shown_with_what_it_may_be() {
    let server = Running::start();
    for (value, shown) in [
        (json!(true), "true"),
        (json!("40"), "a string"),
        (json!(-2), "-2"),
        (json!(1.5), "1.5"),
        (json!([1]), "a list"),
        (json!({}), "an object"),
    ] {
        let refused = server.post("/v1/completions", &completion(BASE, "x", json!({"top_k": value})));
        let expected =
            format!("`top_k` is {shown}; give a whole number of 1 or more, or 0 or -1 to turn it off");
        assert_eq!((refused.status, refused.error()), (400, expected));
    }
    // All tokens, however the number says that.
    let body = |top_k: Value| {
        completion(BASE, "x", json!({"top_k": top_k, "temperature": 1, "seed": 3, "max_tokens": 8}))
    };
    let all = server.post("/v1/completions", &body(json!(0))).json()["choices"].clone();
    for top_k in [json!(-1), json!(null), json!(1_000_000), json!(u64::MAX)] {
        assert_eq!(server.post("/v1/completions", &body(top_k)).json()["choices"], all);
    }
}

/// Conversations that nobody can answer.
fn of_conversations(server: &Running) -> Vec<Hostile> {
    let chat = |what, more: Value| {
        with_body(server, what, "/v1/chat/completions", chat(BASE, "x", more).to_string().into(), 400)
    };
    let says = |what, content: Value| chat(what, json!({"messages": [{"role": "user", "content": content}]}));
    let schema = |schema: Value| json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}});
    let deep = (0..200).fold(json!({"type": "string"}), |inner, _| json!({"type": "array", "items": inner}));
    let wide: serde_json::Map<String, Value> =
        (0..20_000).map(|i| (format!("field_{i}"), json!({"type": "string", "minLength": 100}))).collect();
    let picture = json!([{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]);
    vec![
        chat("a huge n", json!({"n": 1e9})),
        chat("n that is no number", json!({"n": "many"})),
        chat("many tokens", json!({"max_tokens": 9_000_000_000_000_000_000_u64})),
        chat("tokens below none", json!({"max_tokens": -5})),
        chat("a temperature that is none", json!({"temperature": -1})),
        chat("many stop strings", json!({"stop": vec!["x"; 1000]})),
        chat("an empty stop string", json!({"stop": ""})),
        chat("biases of no tokens", json!({"logit_bias": {"999999999": 1}})),
        chat("a field that nobody reads", json!({"best_effort": true})),
        chat("a role that is none", json!({"messages": [{"role": "root", "content": "x"}]})),
        chat("many messages", json!({"messages": vec![json!({"role": "user", "content": "x"}); 10_000]})),
        says("a picture", picture),
        says("a very long prompt", "word ".repeat(200_000).into()),
        says("a long prompt", "word ".repeat(20_000).into()),
        chat("a deep schema", schema(deep)),
        chat("a wide schema", schema(json!({"type": "object", "properties": wide}))),
        chat("a long regular expression", json!({"regex": "(a|b*)+".repeat(100_000)})),
        chat("a regular expression that looks back", json!({"regex": "(a)\\1"})),
    ]
}

#[test]
fn hostile_requests_are_refused_and_the_server_goes_on() {
    let server = server();
    let all: Vec<Hostile> =
        of_heads(&server).into_iter().chain(of_bodies(&server)).chain(of_conversations(&server)).collect();
    assert!(all.len() >= 40);
    let mut wrong = Vec::new();
    for Hostile { what, bytes, status } in all {
        let answer = Answer::read(server.send(&bytes));
        if answer.status != status {
            wrong.push(format!("{what}: {} instead of {status}, {:.300}", answer.status, answer.body));
        }
        if answer.body.len() > 2000 {
            wrong.push(format!("{what}: an error repeats what it was sent: {:.200}", answer.body));
        }
        // What is refused by hyper itself has no body.
        let json: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        if !answer.body.is_empty() && json["error"]["message"].as_str().is_none_or(|text| text.len() < 10) {
            wrong.push(format!("{what}: no message in {:.200}", answer.body));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let well = completion(BASE, "Hello", json!({})).to_string();
    let answer = server.ask("POST", "/v1/completions", &[KEY], Some(well.as_bytes()));
    assert!(!answer.json()["choices"][0]["text"].as_str().unwrap().is_empty());
    let metrics = server.ask("GET", "/metrics", &[KEY], None).body;
    assert!(metrics.contains("lorafit_panics_total 0"), "{metrics}");
}

#[test]
fn fields_are_kept_or_refused_and_never_passed_over() {
    let server = Running::start();
    for (field, value) in [
        ("best_of", json!(3)),
        ("echo", json!(true)),
        ("suffix", json!("x")),
        ("min_tokens", json!(3)),
        ("ignore_eos", json!(true)),
        ("guided_json", json!({})),
        ("typical_p", json!(0.5)),
        ("mirostat", json!(2)),
    ] {
        let refused = server.post("/v1/completions", &completion(BASE, "x", json!({field: value})));
        assert_eq!(refused.status, 400, "{field}");
        assert!(refused.error().contains(&format!("`{field}`")), "{refused:?}");
    }
    let idle = json!({"user": "me", "metadata": {"a": "b"}, "store": false, "suffix": null, "echo": false, "best_of": 1});
    server.post("/v1/completions", &completion(BASE, "x", idle)).json();
    for (field, value) in [
        ("reasoning_effort", json!("high")),
        ("verbosity", json!("low")),
        ("audio", json!({})),
        ("logprobs", json!(3)),
        ("modalities", json!(["text", "audio"])),
        ("top_logprobs", json!(3)),
        ("stream_options", json!({"include_usage": true})),
    ] {
        let refused = server.post("/v1/chat/completions", &chat(BASE, "x", json!({field: value})));
        assert_eq!(refused.status, 400, "{field}");
        assert!(refused.error().contains(&format!("`{field}`")), "{refused:?}");
    }
}

#[test]
fn refusals_say_what_to_change() {
    let server = Running::start();
    let picture = json!([{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "x"}}]);
    let says = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    for (field, more, expected) in [
        ("top_k", json!({"top_k": -2}), "0 or -1 to turn it off"),
        ("messages[0].content[1]", says(picture), "is an image_url; this server reads text only"),
        ("messages[0].content[0].text", says(json!([{"type": "text"}])), "give a string"),
        ("messages[0].content", says(json!(3)), "is a number; give a string"),
        ("messages[0].content", says(Value::Null), "is missing; give a string"),
        ("messages", says("word ".repeat(20_000).into()), "tokens that this model can read; shorten it"),
    ] {
        let refused = server.post("/v1/chat/completions", &chat(BASE, "x", more));
        let error: Value = serde_json::from_str(&refused.body).unwrap();
        assert_eq!((refused.status, &error["error"]["param"]), (400, &json!(field)), "{error}");
        assert!(refused.error().contains(expected), "{error}");
    }
    let last = base().0.config().vocab_size - 1;
    let refused = server.post("/v1/completions", &completion(BASE, "", json!({"prompt": [99_999_999]})));
    assert_eq!(
        refused.error(),
        format!("`prompt` has the token id 99999999; ids of this model go up to {last}")
    );
    let refused = server.post("/v1/score", &json!({"model": BASE, "input": [5]}));
    assert!(refused.error().contains("`input` needs texts of two tokens or more"), "{refused:?}");
    let both = json!({"prompt": "x", "messages": [{"role": "user", "content": "x"}]});
    assert!(server.post("/v1/tokenize", &both).error().contains("give one of them"));
    // As vLLM writes it: all tokens.
    for count in [-1, 0, 5] {
        server.post("/v1/chat/completions", &chat(BASE, "x", json!({"top_k": count}))).json();
    }
}

#[test]
fn a_strength_that_gives_no_numbers_is_said_to_be_too_large() {
    let server = Running::start();
    let damaged = Running::with(Setup { weight: Some(1e25), ..Setup::default() });
    let asked = completion("a1:100", "Hello", json!({}));
    let refused = damaged.post("/v1/completions", &asked);
    let error: Value = serde_json::from_str(&refused.body).unwrap();
    assert_eq!((refused.status, &error["error"]["param"]), (400, &json!("model")), "{error}");
    assert!(refused.error().contains("too large: the results are not numbers"), "{error}");
    let scored = damaged.post("/v1/score", &json!({"model": "a1:100", "input": "Hello there"}));
    assert_eq!(scored.status, 400, "{scored:?}");
    server.post("/v1/completions", &asked).json();
}
