//! `watch`: a page of this machine that shows runs, and stops them for whoever has the page and for nobody else.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{lorafit, place};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_bpe");
/// More than anything here takes, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that does not outlive the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(place: &Path, arguments: &[&str]) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lorafit"));
    command.current_dir(place).args(arguments).stdout(Stdio::piped()).stderr(Stdio::null());
    Running(command.spawn().expect("starts"))
}

/// A run of many steps that has taken some.
fn training(place: &Path) -> Running {
    let flags = ["--max-steps", "1000000", "--log-every", "1000000"];
    let run = ["train", "--model", MODEL, "--data", "rows.jsonl", "--out", "runs/long"];
    let child = start(place, &[&run[..], &flags].concat());
    wait_for("steps", || {
        fs::metadata(place.join("runs/long/metrics.jsonl")).is_ok_and(|file| file.len() > 0)
    });
    child
}

fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "no {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A process that serves a page, with its port.
fn watching(place: &Path, runs: &[&str]) -> (Running, u16) {
    let mut child = start(place, &[&["watch"], runs, &["--port", "0"]].concat());
    let mut line = String::new();
    BufReader::new(child.0.stdout.as_mut().expect("piped")).read_line(&mut line).expect("says where");
    let port = line
        .strip_prefix("watching at http://127.0.0.1:")
        .and_then(|rest| rest.split('/').next()?.parse().ok());
    (child, port.unwrap_or_else(|| panic!("{line}")))
}

fn connect(port: u16, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.write_all(request.replace('\n', "\r\n").as_bytes()).expect("sent");
    stream
}

/// A whole answer.
fn ask(port: u16, request: &str) -> String {
    let mut answer = String::new();
    connect(port, request).read_to_string(&mut answer).expect("text");
    answer
}

fn post(port: u16, path: &str, token: &str, run: &str) -> String {
    let length = run.len();
    ask(
        port,
        &format!(
            "POST {path} HTTP/1.1\nHost: 127.0.0.1:{port}\nX-Lorafit-Token: {token}\nContent-Length: {length}\n\n{run}"
        ),
    )
}

/// The data of the next event of a kind.
fn event(stream: &mut BufReader<TcpStream>, kind: &str) -> serde_json::Value {
    let mut line = String::new();
    loop {
        line.clear();
        assert!(stream.read_line(&mut line).expect("an event") > 0, "the stream ends");
        if line.trim() == format!("event: {kind}") {
            line.clear();
            stream.read_line(&mut line).expect("its data");
            return serde_json::from_str(line.strip_prefix("data: ").expect("data")).expect("JSON");
        }
    }
}

#[test]
fn a_run_is_shown_as_it_goes_and_stops_when_its_page_asks() {
    let place = place(40);
    let at = place.path();
    let mut run = training(at);
    let (_server, port) = watching(at, &["runs/long"]);
    let get = |path: &str| ask(port, &format!("GET {path} HTTP/1.1\nHost: localhost:{port}\n\n"));

    let page = get("/");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.contains("frame-ancestors 'none'"), "{page}");
    assert!(
        page.contains("<h1>long</h1>")
            && page.contains("connect-src 'self'")
            && page.contains("<dt>command</dt>")
    );
    let addresses = page.matches("http://").count() - page.matches("http://www.w3.org/2000/svg").count();
    assert_eq!(addresses, 0, "nothing is loaded from elsewhere");
    let token = page.split("data-token=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a token");
    assert_eq!(token.len(), 32);

    let stream = connect(port, &format!("GET /events HTTP/1.1\nHost: 127.0.0.1:{port}\n\n"));
    let mut events = BufReader::new(stream);
    let first = event(&mut events, "states");
    assert_eq!((first[0]["name"].as_str(), first[0]["state"].as_str()), (Some("long"), Some("running")));
    assert_eq!((&first[0]["can_stop"], &first[0]["can_save"]), (&true.into(), &true.into()));
    assert!(event(&mut events, "curves").as_str().is_some_and(|html| html.contains("<svg")));
    let later = event(&mut events, "states");
    assert!(later[0]["step"].as_u64() > first[0]["step"].as_u64(), "{later}");

    // Of another site, of nobody, and of a run that is not here.
    assert!(post(port, "/stop", "0123456789abcdef0123456789abcdef", "long").starts_with("HTTP/1.1 403 "));
    assert!(post(port, "/stop", "", "long").starts_with("HTTP/1.1 403 "));
    assert!(ask(port, "GET / HTTP/1.1\nHost: example.com\n\n").starts_with("HTTP/1.1 403 "));
    assert!(post(port, "/stop", token, "other").starts_with("HTTP/1.1 404 "));
    assert!(get("/stop").starts_with("HTTP/1.1 405 ") && get("/etc/passwd").starts_with("HTTP/1.1 404 "));
    assert!(run.0.try_wait().expect("asked").is_none(), "the run goes on");

    #[cfg(unix)]
    {
        let checkpoints =
            || fs::read_dir(at.join("runs/long/checkpoints")).map_or(0, |entries| entries.count());
        assert_eq!(checkpoints(), 0);
        assert!(post(port, "/checkpoint", token, "long").starts_with("HTTP/1.1 200 "));
        wait_for("checkpoint", || checkpoints() > 0);
        assert!(run.0.try_wait().expect("asked").is_none(), "the run goes on");
        assert!(post(port, "/stop", token, "long").starts_with("HTTP/1.1 200 "));
        assert_eq!(run.0.wait().expect("ends").code(), Some(130), "as Ctrl-C ends it");
        loop {
            let state = event(&mut events, "states");
            if state[0]["state"] == "stopped" {
                assert_eq!(state[0]["can_stop"], false);
                break;
            }
        }
        let refused = post(port, "/stop", token, "long");
        assert!(refused.starts_with("HTTP/1.1 409 ") && refused.contains("long is not running"), "{refused}");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_page_and_not_the_run() {
    let place = place(40);
    let mut run = training(place.path());
    let (mut server, port) = watching(place.path(), &["runs/long"]);
    let events = connect(port, &format!("GET /events HTTP/1.1\nHost: 127.0.0.1:{port}\n\n"));
    // A request that the server has not read when it ends would be answered by a reset.
    let (mut events, mut first) = (BufReader::new(events), String::new());
    events.read_line(&mut first).expect("the stream begins");
    assert!(first.starts_with("HTTP/1.1 200"), "{first}");
    let process = server.0.id().to_string();
    let sent = Command::new("kill").args(["-INT", &process]).status().expect("kill is there");
    assert!(sent.success());
    assert_eq!(server.0.wait().expect("ends").code(), Some(0));
    let mut rest = String::new();
    events.read_to_string(&mut rest).expect("the stream ends");
    assert!(run.0.try_wait().expect("asked").is_none(), "the run goes on");
}

#[test]
fn what_cannot_be_watched_is_said() {
    let place = place(1);
    let told = |arguments: &[&str]| {
        let output = lorafit(place.path(), arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    let missing = told(&["watch", "nowhere"]);
    assert!(missing.contains("there is no folder nowhere") && missing.contains("hint: "), "{missing}");
    fs::create_dir(place.path().join("run")).expect("made");
    fs::write(place.path().join("run/metrics.jsonl"), "").expect("written");
    let other = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = other.local_addr().expect("its address").port().to_string();
    let taken = told(&["watch", "run", "--port", &port]);
    assert!(taken.contains(&format!("port {port} is in use")) && taken.contains("--port 0"), "{taken}");
}
