//! What is counted: each request once with what became of it, each token once, and nothing that is over as running.

use std::collections::BTreeMap;
use std::time::Duration;

use lorafit_serve::{Guard, Limits};
use serde_json::{Value, json};

use crate::common::{BASE, Running, Setup, base, chat, close, completion, read_some, request};

/// How many requests ended with which status, by endpoint; but for those of `/metrics`.
fn counted(server: &Running, key: &[&str]) -> BTreeMap<String, u64> {
    let text = server.ask("GET", "/metrics", key, None).body;
    let lines = text.lines().filter_map(|line| line.strip_prefix("lorafit_requests_total{endpoint=\""));
    let lines = lines.filter(|line| !line.starts_with("/metrics"));
    let entry = |line: &str| {
        let (endpoint, rest) = line.split_once("\",status=\"").expect("a status");
        let (status, count) = rest.split_once("\"} ").expect("a count");
        (format!("{endpoint} {status}"), count.parse().expect("a number"))
    };
    lines.map(entry).collect()
}

fn expected(entries: &[(&str, u64)]) -> BTreeMap<String, u64> {
    entries.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

/// Waits until so many requests ended, and nothing more is computed.
#[track_caller]
fn wait_for(server: &Running, entries: &[(&str, u64)]) {
    let entries = expected(entries);
    let total: u64 = entries.values().sum();
    server.wait_until("all are over", |server| counted(server, &[]).values().sum::<u64>() >= total);
    let is_idle = |name: &str| server.metric(name) == 0.0;
    server.wait_until("nothing runs", |_| is_idle("lorafit_running") && is_idle("lorafit_waiting"));
    assert_eq!(counted(server, &[]), entries);
}

/// A request that goes on until somebody ends it.
fn endless(more: Value) -> Vec<u8> {
    let ends: serde_json::Map<String, Value> =
        base().1.eos_ids().iter().map(|id| (id.to_string(), json!(-100))).collect();
    let mut body = completion("a1", "Hello", json!({"max_tokens": 4000, "n": 16, "logit_bias": ends}));
    more.as_object().into_iter().flatten().for_each(|(key, value)| body[key] = value.clone());
    body.to_string().into_bytes()
}

#[test]
fn requests_that_are_refused_are_counted_once_with_their_status() {
    let key = "Authorization: Bearer 0123456789abcdef";
    let guard = Guard { keys: vec!["0123456789abcdef".to_owned()], hosts: Vec::new() };
    let limits = Limits { body_bytes: 1 << 16, ..Setup::default().limits };
    let server = Running::with(Setup { guard, limits, ..Setup::default() });
    let many: Vec<String> = (0..500).map(|i| format!("x-{i}: 1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let ask = |method: &str, path: &str, headers: &[&str], body: Option<&[u8]>| {
        request(server.address, method, path, headers, body)
    };
    let post = |path: &str, body: &[u8]| ask("POST", path, &[key], Some(body));
    let somewhat_long = format!("x: {}", "y".repeat(33_000));
    let requests: [(Vec<u8>, &str); 14] = [
        (b"hello\r\n\r\n".to_vec(), "other 400"),
        (b"GET / HTTP/9.9\r\n\r\n".to_vec(), "other 400"),
        (ask("GET", "/v1/models", &many, None), "other 431"),
        (ask("GET", "/v1/models", &[key, &somewhat_long], None), "/v1/models 431"),
        (ask("GET", "/v1/models", &[], None), "/v1/models 401"),
        (ask("GET", "/v1/models", &[key, "Host: evil.example"], None), "/v1/models 403"),
        (ask("GET", "/nothing", &[key], None), "other 404"),
        (ask("DELETE", "/v1/models", &[key], None), "/v1/models 405"),
        (post("/v1/chat/completions", b"{"), "/v1/chat/completions 400"),
        (post("/v1/completions", &[b' '; 1 << 17]), "/v1/completions 413"),
        (ask("POST", "/v1/score", &[key, "Content-Encoding: gzip"], Some(b"x")), "/v1/score 415"),
        (
            post("/v1/completions", completion("nobody", "x", json!({})).to_string().as_bytes()),
            "/v1/completions 404",
        ),
        (post("/v1/adapters", br#"{"name": "x", "path": "y"}"#), "/v1/adapters 403"),
        (ask("GET", "/health", &[], None), "/health 200"),
    ];
    let mut wanted: BTreeMap<String, u64> = BTreeMap::new();
    for (bytes, name) in requests {
        let status: u16 = name.rsplit(' ').next().unwrap().parse().unwrap();
        assert_eq!(crate::common::Answer::read(server.send(&bytes)).status, status, "{name}");
        *wanted.entry(name.to_owned()).or_default() += 1;
    }
    let all: u64 = wanted.values().sum();
    server.wait_until("all are counted", |server| counted(server, &[key]).values().sum::<u64>() >= all);
    assert_eq!(counted(&server, &[key]), wanted);
}

#[test]
fn tokens_of_answers_and_prompts_are_counted_once_and_as_usage_has_them() {
    const TOKENS: [&str; 3] =
        ["lorafit_prompt_tokens_total", "lorafit_cached_tokens_total", "lorafit_new_tokens_total"];
    const TIMES: [&str; 2] = ["lorafit_first_token_seconds_count", "lorafit_answer_seconds_count"];
    let server = Running::start();
    let text = "the number of cats is large and the timer is set to ten minutes ".repeat(6);
    let of = |usage: &Value| {
        let cached = &usage["prompt_tokens_details"]["cached_tokens"];
        [&usage["prompt_tokens"], cached, &usage["completion_tokens"]]
            .map(|tokens| tokens.as_f64().expect("a number"))
    };
    let ask = |path: &str, body: &Value| {
        let before = TOKENS.map(|name| server.metric(name));
        let times = TIMES.map(|name| server.metric(name));
        let usage = server.post(path, body).json()["usage"].clone();
        server.wait_until("it is over", |server| server.metric("lorafit_running") == 0.0);
        let after = TOKENS.map(|name| server.metric(name));
        let counted: Vec<f64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
        assert_eq!(counted, of(&usage), "{body}");
        assert_eq!(TIMES.map(|name| server.metric(name)), times.map(|count| count + 1.0), "{body}");
        of(&usage)
    };
    let more = json!({"n": 4, "temperature": 1.2, "seed": 5});
    let of_one = ask("/v1/chat/completions", &chat(BASE, &text, json!({"n": 1})))[0];
    // Answers to one prompt have it from each other, which is no earlier request.
    let [prompt, cached, _] = ask("/v1/chat/completions", &chat("a1", &text, more.clone()));
    assert_eq!((prompt, cached), (of_one, 0.0));
    let [prompt, cached, _] = ask("/v1/chat/completions", &chat("a1", &text, more.clone()));
    assert!(prompt == of_one && cached > 20.0 && cached < prompt, "{cached}");
    let two = json!({"n": 2, "prompt": [text, format!("{text} and")]});
    ask("/v1/completions", &completion("a2", "", two));
}

#[test]
fn a_client_that_goes_away_is_counted_once_wherever_its_request_is() {
    let limits = Limits { sequences: 16, ..Setup::default().limits };
    let server = Running::with(Setup { limits, ..Setup::default() });
    let begin = |more: Value| {
        let body = endless(more);
        server.send(&request(server.address, "POST", "/v1/completions", &[], Some(&body)))
    };
    // One that streams, one that waits behind it, and one whose body does not come whole.
    let streams = begin(json!({"stream": true}));
    assert!(read_some(&streams, 4).contains("data:"));
    let waits = begin(json!({}));
    server.wait_until("one waits", |server| server.metric("lorafit_waiting") == 1.0);
    let head =
        format!("POST /v1/completions HTTP/1.1\r\nHost: {}\r\nContent-Length: 99\r\n\r\n{{", server.address);
    let halves = server.send(head.as_bytes());
    std::thread::sleep(Duration::from_millis(50));
    close(halves);
    close(waits);
    server.wait_until("none waits", |server| server.metric("lorafit_waiting") == 0.0);
    close(streams);
    server.wait_until("three are over", |server| counted(server, &[]).values().sum::<u64>() == 3);
    server.wait_until("nothing runs", |server| server.metric("lorafit_running") == 0.0);
    let found = counted(&server, &[]);
    // A body that ends early may be told so before the connection is seen to be closed.
    let gone = found.get("/v1/completions 499").copied().unwrap_or(0);
    let early = found.get("/v1/completions 400").copied().unwrap_or(0);
    assert!(gone + early == 3 && gone >= 2, "{found:?}");
    assert_eq!(server.metric("lorafit_cancelled_total"), gone as f64);
    // Tokens computed before the client went away are not an answer.
    assert_eq!(server.metric("lorafit_answer_seconds_count"), 0.0);
    assert_eq!(server.metric("lorafit_first_token_seconds_count"), 1.0);
}

#[test]
fn a_stream_is_counted_with_what_ended_it() {
    let body = endless(json!({"stream": true}));
    // Whether it had begun by then or not.
    let limits = Limits { request_time: Duration::from_millis(100), ..Setup::default().limits };
    let server = Running::with(Setup { limits, ..Setup::default() });
    let late = server.ask("POST", "/v1/completions", &[], Some(&body));
    assert!(late.body.contains("time_limit") && !late.body.contains("[DONE]"), "{}", late.body);
    wait_for(&server, &[("/v1/completions 504", 1)]);
    assert_eq!(server.metric("lorafit_cancelled_total"), 0.0);

    let server = Running::start();
    let whole = server.post("/v1/completions", &completion(BASE, "Hello", json!({"stream": true})));
    assert!(whole.body.ends_with("data: [DONE]\n\n"));
    wait_for(&server, &[("/v1/completions 200", 1)]);
}

#[test]
fn a_connection_for_which_there_is_no_place_is_a_request_that_is_refused() {
    let server = Running::with(Setup {
        limits: Limits { connections: 3, ..Setup::default().limits },
        ..Setup::default()
    });
    let held: Vec<_> = (0..3).map(|_| server.send(b"")).collect();
    server.wait_until("a connection is refused", |server| server.get("/health").status == 503);
    drop(held);
    let refused = |server: &Running| counted(server, &[]).get("other 503").copied().unwrap_or(0);
    server.wait_until("it is counted", |server| server.get("/health").status == 200 && refused(server) >= 1);
}
