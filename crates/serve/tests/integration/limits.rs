//! Limits: of the queue, of memory, of time, of connections, and the end of the server.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use lorafit_model::KvCache;
use lorafit_serve::Limits;
use serde_json::{Value, json};

use crate::common::{Answer, BASE, Running, Setup, base, chat, completion, read_some, request};

fn with(limits: Limits) -> Running {
    Running::with(Setup { limits, ..Setup::default() })
}

fn usual() -> Limits {
    Setup::default().limits
}

/// A request for an answer that takes long.
fn long(more: Value) -> Vec<u8> {
    let ends: serde_json::Map<String, Value> =
        base().1.eos_ids().iter().map(|id| (id.to_string(), json!(-100))).collect();
    let mut body = completion("a1", "Hello", json!({"max_tokens": 480, "n": 16, "logit_bias": ends}));
    more.as_object().unwrap().iter().for_each(|(key, value)| body[key] = value.clone());
    body.to_string().into_bytes()
}

fn begin(server: &Running, body: &[u8]) -> TcpStream {
    server.send(&request(server.address, "POST", "/v1/completions", &[], Some(body)))
}

#[test]
fn a_full_queue_refuses_and_says_when_to_come_again() {
    let server = with(Limits { queue: 2, sequences: 16, ..usual() });
    let first = begin(&server, &long(json!({})));
    server.wait_until("the first runs", |server| server.metric("lorafit_running") >= 16.0);
    let waiting: Vec<TcpStream> = (0..2).map(|_| begin(&server, &long(json!({"max_tokens": 5})))).collect();
    server.wait_until("two wait", |server| server.metric("lorafit_waiting") == 2.0);
    let refused = server.post("/v1/completions", &completion(BASE, "x", json!({})));
    assert_eq!(refused.status, 429, "{refused:?}");
    assert!(refused.head.to_lowercase().contains("retry-after: 2"), "{refused:?}");
    assert!(refused.error().contains("wait already"));
    // What waits is answered in its turn.
    for stream in [first].into_iter().chain(waiting) {
        assert_eq!(Answer::read(stream).json()["choices"].as_array().unwrap().len(), 16);
    }
}

#[test]
fn what_does_not_fit_the_memory_waits_and_what_never_will_is_refused() {
    let (model, _) = base();
    let of = |tokens: usize| KvCache::bytes(model.config(), model.device().placement(), tokens);
    let server = with(Limits { cache_bytes: of(200), ..usual() });
    let never = server.post("/v1/completions", &completion(BASE, "Hello", json!({"max_tokens": 400})));
    assert_eq!(never.status, 400);
    assert!(never.error().contains("lower `max_tokens` or `n`"), "{never:?}");
    // Two that fit one after the other only, and one that does not say how long it may be.
    let asked = [
        completion(BASE, "Hello", json!({"max_tokens": 150})),
        completion("a1", "Hello", json!({"max_tokens": 150})),
    ];
    let streams: Vec<TcpStream> =
        asked.iter().map(|body| begin(&server, body.to_string().as_bytes())).collect();
    for stream in streams {
        Answer::read(stream).json();
    }
    let mut open = chat("a2", "Hello", json!({}));
    open["max_tokens"] = Value::Null;
    server.post("/v1/chat/completions", &open).json();
    assert!(server.metric("lorafit_cache_bytes") <= of(200) as f64);
}

#[test]
fn a_request_ends_with_its_time() {
    let server = with(Limits { request_time: Duration::from_millis(60), ..usual() });
    let late = Answer::read(begin(&server, &long(json!({}))));
    assert_eq!(late.status, 504, "{late:?}");
    assert!(late.error().contains("fewer tokens"));
    let stream = Answer::read(begin(&server, &long(json!({"stream": true}))));
    // It had begun, so the error is in the stream, and no end is claimed.
    assert!(
        stream.status == 504 || (stream.body.contains("time_limit") && !stream.body.contains("[DONE]")),
        "{stream:?}"
    );
    server.wait_until("nothing runs", |server| server.metric("lorafit_running") == 0.0);
}

#[test]
fn clients_that_are_slow_to_ask_are_let_go() {
    let brief = Duration::from_millis(200);
    let server = with(Limits { head_time: brief, body_time: brief, ..usual() });
    let begun = Instant::now();
    let head = server.send(b"GET /health HTTP/1.1\r\nHost: local");
    assert!(Answer::read(head).status != 200 && begun.elapsed() < Duration::from_secs(10));
    let body = server.send(b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{");
    let answer = Answer::read(body);
    assert_eq!(answer.status, 408, "{answer:?}");
    assert!(answer.error().contains("in time"));
}

#[test]
fn a_client_that_reads_nothing_loses_its_answer_and_nobody_waits_for_it() {
    let server = with(Limits { write_time: Duration::from_millis(500), ..usual() });
    let more = json!({"stream": true, "logprobs": 20, "n": 16});
    let lazy = begin(&server, &long(more));
    // Others are answered meanwhile.
    server.post("/v1/completions", &completion(BASE, "Hello", json!({}))).json();
    server.wait_until("nothing runs", |server| server.metric("lorafit_running") == 0.0);
    // More than the system takes of what is not read.
    std::thread::sleep(Duration::from_millis(1500));
    let rest = Answer::read(lazy);
    assert!(rest.head.contains("200") && !rest.body.contains("[DONE]"), "{} bytes", rest.body.len());
}

#[test]
fn connections_beyond_the_limit_are_refused() {
    let server = with(Limits { connections: 3, ..usual() });
    let held: Vec<TcpStream> = (0..3).map(|_| server.send(b"GET /health HT")).collect();
    let refused = (0..200).find_map(|_| {
        let answer = Answer::read(server.send(&request(server.address, "GET", "/health", &[], None)));
        (answer.status == 503).then_some(answer)
    });
    let refused = refused.expect("a refusal");
    assert!(refused.head.to_lowercase().contains("retry-after: 2"), "{refused:?}");
    assert!(refused.error().contains("3 connections are open already"), "{refused:?}");
    drop(held);
    server.wait_until("there is room", |server| server.get("/health").status == 200);
}

#[test]
fn the_end_lets_running_answers_finish_and_takes_no_new_ones() {
    let server = with(Limits { drain_time: Duration::from_secs(30), ..usual() });
    let running = begin(&server, &long(json!({"stream": true})));
    assert!(read_some(&running, 4).contains("data:"));
    server.stop();
    let refused = (0..100).find_map(|_| {
        let stream = TcpStream::connect(server.address).ok()?;
        let body = completion(BASE, "x", json!({})).to_string();
        let asked = request(server.address, "POST", "/v1/completions", &[], Some(body.as_bytes()));
        (&stream).write_all(&asked).ok()?;
        let answer = Answer::read(stream);
        (answer.status == 503).then_some(answer)
    });
    assert!(refused.expect("a refusal").error().contains("is shutting down"));
    let rest = Answer::read(running);
    assert!(rest.head.contains("[DONE]") || rest.body.contains("[DONE]"), "the answer was cut");
    server.wait_for_end();
}

#[test]
fn answers_that_take_longer_than_the_end_may_are_cut_and_say_so() {
    let server = with(Limits { drain_time: Duration::from_millis(20), ..usual() });
    let running = begin(&server, &long(json!({"stream": true})));
    assert!(read_some(&running, 4).contains("data:"));
    server.stop();
    let rest = Answer::read(running);
    let rest = rest.head + &rest.body;
    assert!(rest.contains("answer_cut") && rest.contains("send the request again"), "{rest:.500}");
    assert!(!rest.contains("server_ending") && !rest.contains("[DONE]"), "{rest:.500}");
    server.wait_for_end();
}
