//! `serve`: what it says when it listens is true, it answers as `generate` does, it ends when asked, and nobody is let in by mistake.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{lorafit, well};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_bpe");
/// More than anything here takes, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that does not outlive the test, with what it said.
struct Serving {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    line: String,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serving(place: &Path, arguments: &[&str]) -> Serving {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lorafit"));
    command.current_dir(place).args(["serve", "--port", "0", "--threads", "1"]).args(arguments);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts");
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    output.read_line(&mut line).expect("says where");
    assert!(line.starts_with("serving "), "{line}");
    Serving { child, output, line }
}

impl Serving {
    /// The address of the example.
    fn address(&self) -> &str {
        let rest = self.line.split_once("curl http://").expect("an example").1;
        rest.split('/').next().expect("an address")
    }

    /// The body of the example.
    fn example(&self) -> Value {
        let body = self.line.trim_end().rsplit_once("-d '").expect("a body").1;
        serde_json::from_str(body.strip_suffix('\'').expect("quoted")).expect("JSON")
    }

    fn post(&self, path: &str, key: &str, body: &Value) -> (u16, Value) {
        let mut stream = TcpStream::connect(self.address()).expect("listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let (body, host) = (body.to_string(), self.address());
        let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{key}");
        write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, serde_json::from_str(body).expect("JSON"))
    }
}

#[test]
fn the_example_works_adapters_answer_as_generate_does_and_a_signal_ends_it() {
    let dir = TempDir::new().unwrap();
    let adapter = format!("{MODEL}/adapter");
    let strong = format!("strong={adapter}:-3");
    let arguments = ["--model", MODEL, "--adapter", &format!("own={adapter}"), "--adapter", &strong];
    let mut server = serving(dir.path(), &arguments);
    assert!(server.line.contains("serving chat_bpe and 2 adapters at http://127.0.0.1:"), "{}", server.line);
    let example = server.example();
    let (status, answer) = server.post("/v1/chat/completions", "", &example);
    assert_eq!((status, &answer["model"]), (200, &json!("chat_bpe")), "{answer}");

    let text = "What is the largest number?";
    let folders =
        [("chat_bpe", None), ("own", Some(adapter.clone())), ("strong", Some(format!("{adapter}:-3")))];
    let mut answers = Vec::new();
    for (name, folder) in folders {
        let mut generate = vec!["generate", "--model", MODEL, "--chat", "--prompt", text, "--json"];
        generate.extend(["--max-new-tokens", "40", "--threads", "1"]);
        if let Some(folder) = &folder {
            generate.extend(["--adapter", folder]);
        }
        let expected: Value = serde_json::from_str(&well(dir.path(), &generate)).unwrap();
        let messages = json!([{"role": "user", "content": text}]);
        let body = json!({"model": name, "messages": messages, "temperature": 0, "max_tokens": 40});
        let (status, answer) = server.post("/v1/chat/completions", "", &body);
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["choices"][0]["message"]["content"], expected["text"], "{name}");
        assert_eq!(answer["usage"]["prompt_tokens"], expected["prompt_tokens"], "{name}");
        answers.push(expected["text"].clone());
    }
    assert!(answers[0] != answers[1] && answers[1] != answers[2], "the adapters do something: {answers:?}");

    let killed = Command::new("kill").args(["-TERM", &server.child.id().to_string()]).status();
    assert!(killed.expect("kill runs").success());
    let begun = Instant::now();
    let mut rest = String::new();
    server.output.read_to_string(&mut rest).expect("it ends");
    let status = server.child.wait().expect("it ends");
    assert!(status.success() && rest == "ended\n" && begun.elapsed() < PATIENCE, "{status} {rest}");
}

#[test]
fn a_key_is_asked_for_where_there_is_one() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("key"), "# ours\n0123456789abcdef\n").unwrap();
    fs::create_dir(dir.path().join("adapters")).unwrap();
    let key =
        ["--api-key-file", "key", "--adapters-from", "adapters", "--name", "llm", "--host", "localhost"];
    let server = serving(dir.path(), &[&["--model", MODEL], &key[..]].concat());
    assert!(server.line.contains("Authorization: Bearer $(grep -m1 -v '^#' key)"), "{}", server.line);
    let example = server.example();
    assert_eq!(server.post("/v1/chat/completions", "", &example).0, 401);
    let key = "Authorization: Bearer 0123456789abcdef\r\n";
    assert_eq!(server.post("/v1/chat/completions", key, &example).0, 200);
    let (status, error) = server.post("/v1/adapters", key, &json!({"name": "x", "path": "../x"}));
    assert_eq!((status, &error["error"]["param"]), (400, &json!("path")), "{error}");
}

#[test]
fn what_would_let_anybody_in_is_refused() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("short"), "abc\n").unwrap();
    fs::write(dir.path().join("key"), "0123456789abcdef\n").unwrap();
    for (arguments, expected) in [
        (&["--host", "0.0.0.0"][..], "without a key"),
        (&["--host", "::"], "without a key"),
        (&["--host", "example.com"], "not an address"),
        (&["--api-key-file", "short"], "16 is the least"),
        (&["--api-key-file", "none"], "cannot read"),
        (&["--adapters-from", "."], "without --api-key-file"),
        (&["--adapters-from", "gone", "--api-key-file", "key"], "no such folder"),
        (&["--parallel", "0"], "must be 1 or more"),
        (&["--adapter", "a=x", "--adapter", "a=y"], "two adapters are called"),
        (
            &[
                "--name",
                "own",
                "--adapter",
                concat!("own=", env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_bpe/adapter"),
            ],
            "both called `own`",
        ),
        (&["--host", "192.0.2.1", "--insecure"], "no such address"),
    ] {
        let output = lorafit(dir.path(), &[&["serve", "--model", MODEL, "--port", "0"], arguments].concat());
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(expected), "{arguments:?}: {told}");
        assert!(
            told.contains("hint: ") || expected.starts_with("must") || expected.starts_with("cannot"),
            "{told}"
        );
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = lorafit(dir.path(), &["serve", "--model", MODEL, "--port", &port]);
    assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("port {port} is in use")));
}
