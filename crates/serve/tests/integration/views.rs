//! Views of the page: whoever may ask the server may ask them, and nobody else; they are answered one at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lorafit_serve::{Guard, View, Views};
use serde_json::{Value, json};

use crate::common::{Answer, BASE, Running, Setup, completion, request};

const KEY: &str = "Authorization: Bearer 0123456789abcdef";

/// What a view was asked at once, at most.
static AT_ONCE: AtomicUsize = AtomicUsize::new(0);

/// A server with views that answer what they are asked, refuse, panic and take long.
fn server(guard: Guard) -> Running {
    let view = |name, answer| View {
        name,
        title: "A view",
        heading: "What it shows".to_owned(),
        html: format!("<p>of {name}</p>\n"),
        style: "",
        script: "",
        answer,
    };
    let running = Arc::new(AtomicUsize::new(0));
    let views = vec![
        view("echo", Box::new(|question| Ok(json!({"asked": question})))),
        view("refuses", Box::new(|_| Err("the rank is 0; give 1 or more".to_owned()))),
        view("panics", Box::new(|_| panic!("a fault of a view"))),
        view(
            "slow",
            Box::new(move |_| {
                AT_ONCE.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(100));
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(Value::Null)
            }),
        ),
    ];
    Running::with(Setup { views: Views { views, ..Views::default() }, guard, ..Setup::default() })
}

#[test]
fn views_are_a_part_of_the_page_and_are_answered() {
    let server = server(Guard::default());
    let page = server.get("/");
    for part in ["<a href=\"#echo\">A view</a>", "<section class=\"view\" id=\"view-echo\"", "<p>of echo</p>"]
    {
        assert!(page.status == 200 && page.body.contains(part), "{part} in {}", page.body);
    }
    assert!(!Running::start().get("/").body.contains("id=\"links\""), "without views there are no links");
    let question = json!({"rank": 3, "more": ["ä", null]});
    assert_eq!(server.post("/views/echo", &question).json(), json!({"asked": question}));
    let refused = server.post("/views/refuses", &json!({}));
    assert_eq!((refused.status, refused.error().as_str()), (400, "the rank is 0; give 1 or more"));
    let none = server.post("/views/..%2f..%2fetc%2fpasswd", &json!({}));
    assert!(none.status == 404 && none.error().contains("has no view"), "{none:?}");
    assert_eq!(server.get("/views/echo").status, 405);
    assert_eq!(server.post("/views/echo", &json!([1])).status, 400);
    let panicked = server.post("/views/panics", &json!({}));
    assert!(panicked.status == 500 && panicked.error().contains("a fault of the server"), "{panicked:?}");
    assert_eq!(server.post("/views/echo", &json!({})).status, 200, "the next question is answered");
    let counted = server.get("/metrics").body;
    assert!(counted.contains("/views\""), "{counted}");
}

#[test]
fn who_may_not_ask_the_server_may_not_ask_its_views() {
    let server = server(Guard { keys: vec!["0123456789abcdef".to_owned()], hosts: Vec::new() });
    let ask = |headers: &[&str]| server.ask("POST", "/views/echo", headers, Some(b"{}")).status;
    assert_eq!(ask(&[KEY]), 200);
    assert_eq!(ask(&[]), 401);
    assert_eq!(ask(&["Authorization: Bearer 0123456789abcdeg"]), 401);
    assert_eq!(ask(&[KEY, "Host: evil.example"]), 403);
    assert_eq!(ask(&[KEY, "Origin: http://evil.example"]), 403);
    assert_eq!(server.ask("POST", "/views/none", &[], Some(b"{}")).status, 401);
}

#[test]
fn questions_wait_for_each_other_and_hold_up_no_other_request() {
    let server = server(Guard::default());
    let asked = request(server.address, "POST", "/views/slow", &[], Some(b"{}"));
    let streams: Vec<_> = (0..12).map(|_| server.send(&asked)).collect();
    // Gone before its turn comes.
    drop(server.send(&asked));
    let body = completion(BASE, "Hello", json!({"max_tokens": 2}));
    assert_eq!(server.post("/v1/completions", &body).status, 200);
    for stream in streams {
        assert_eq!(Answer::read(stream).status, 200);
    }
    assert_eq!(AT_ONCE.load(Ordering::SeqCst), 1);
}

#[test]
fn a_conversation_is_written_out_with_its_tokens() {
    let server = Running::start();
    let messages =
        json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hällo 🏴"}]);
    let found = server.post("/v1/tokenize", &json!({"model": "a1", "messages": messages})).json();
    let tokens = found["tokens"].as_array().unwrap();
    assert_eq!(found["count"], tokens.len());
    let special: Vec<&str> = tokens
        .iter()
        .filter(|token| token["special"] == true)
        .filter_map(|token| token["text"].as_str())
        .collect();
    assert!(special.len() > 2 && special.iter().all(|text| text.starts_with('<')), "{special:?}");
    // Tokens that are no whole letters have their bytes; all together are the text.
    let bytes = |token: &Value| -> Vec<u8> { serde_json::from_value(token["bytes"].clone()).unwrap() };
    let all: Vec<u8> = tokens.iter().flat_map(bytes).collect();
    assert_eq!(String::from_utf8(all).unwrap(), found["text"].as_str().unwrap());
    assert!(tokens.iter().any(|token| token["text"].as_str().unwrap().contains('\u{fffd}')), "{found}");
}
