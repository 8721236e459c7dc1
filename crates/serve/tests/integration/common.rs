//! A server over a tiny model with eight adapters, and a client that does what it is told.

use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lorafit_data::{Message, Role, Tokenizer};
use lorafit_kernels::Device;
use lorafit_model::adapter::{self, Adapter};
use lorafit_model::merge::{Combination, MajoritySign, Method, Weighted, combine};
use lorafit_model::weights::ModelFiles;
use lorafit_model::{Model, Prompts, Sampling, generate};
use lorafit_serve::{Guard, Limits, NamedAdapter, Open, Opened, Served, Server, Views};
use serde_json::{Value, json};

/// The base by its name.
pub const BASE: &str = "tiny";

/// A folder of `fixtures/models`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models").join(name)
}

/// The base and its tokenizer, loaded once.
pub fn base() -> (&'static Model, &'static Tokenizer) {
    static BASE: OnceLock<(Model, Tokenizer)> = OnceLock::new();
    let (model, tokenizer) = BASE.get_or_init(|| {
        let files = ModelFiles::open(&fixture("chat_bpe")).expect("the fixture opens");
        let model = Model::load(&files, Device::Cpu).expect("the fixture loads");
        let mut tokenizer = Tokenizer::from_folder(fixture("chat_bpe")).expect("a tokenizer");
        // The same template, with a place for tools and their calls.
        let template = tokenizer.chat_template().expect("there is one");
        let calls = "{% for m in messages if m.tool_calls %}{{ m.tool_calls | tojson }}{% endfor %}";
        // And with a variable with which it leaves out what others say.
        let only = "{% if only_dialogue %}{% set messages = messages | selectattr('role', 'in', ['user', 'assistant']) | list %}{% endif %}";
        let template =
            format!("{only}{{% if tools %}}{{{{ tools | tojson }}}}{{% endif %}}{calls}{template}");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), template).expect("written");
        tokenizer.use_chat_template(&file.path().to_string_lossy()).expect("a template");
        (model, tokenizer)
    });
    (model, tokenizer)
}

/// The adapter of the fixture, at a strength.
pub fn adapter_at(strength: f64) -> Adapter {
    let (model, _) = base();
    let own = adapter::load(&fixture("chat_bpe").join("adapter"), model.config(), Device::Cpu);
    let own = own.expect("the adapter loads");
    let weighted = [Weighted { adapter: &own, weight: strength }];
    let how = Combination { method: Method::Cat, density: 1.0, majority_sign: MajoritySign::Total, seed: 0 };
    let mut adapter = combine(model.config(), &weighted, &how).expect("a sum of one");
    model.prepare(&mut adapter);
    adapter
}

/// Eight adapters, by name and strength.
pub fn strengths() -> Vec<(String, f64)> {
    let strengths = [-2.25, -1.5, -0.75, 4.5, 0.75, 1.5, 2.25, 3.0];
    (1..).zip(strengths).map(|(i, strength)| (format!("a{i}"), strength)).collect()
}

/// A server in a thread.
pub struct Running {
    pub address: SocketAddr,
    stop: &'static AtomicBool,
    thread: Option<JoinHandle<()>>,
}

/// What a test changes of a server.
pub struct Setup {
    pub limits: Limits,
    pub guard: Guard,
    pub from: Option<PathBuf>,
    /// What every adapter is multiplied by beside its strength.
    pub weight: Option<f64>,
    /// What the page shows beside the chat.
    pub views: Views,
}

impl Default for Setup {
    fn default() -> Self {
        let limits = Limits { drain_time: Duration::from_secs(5), ..Limits::USUAL };
        Setup { limits, guard: Guard::default(), from: None, weight: None, views: Views::default() }
    }
}

impl Running {
    /// A server with all adapters.
    pub fn start() -> Running {
        Running::with(Setup::default())
    }

    /// A server that is set up otherwise.
    pub fn with(setup: Setup) -> Running {
        let (model, tokenizer) = base();
        let Setup { limits, guard, from, weight, views } = setup;
        let named = |(name, strength)| {
            let weight = strength * weight.unwrap_or(1.0);
            NamedAdapter { name, weight, adapter: adapter_at(weight), warnings: Vec::new() }
        };
        let adapters = strengths().into_iter().map(named).collect();
        let open: Open = Box::new(move |dir| {
            let (model, _) = base();
            let mut adapter =
                adapter::load(dir, model.config(), Device::Cpu).map_err(|error| error.to_string())?;
            model.prepare(&mut adapter);
            let name = dir.file_name().map(|name| name.to_string_lossy().into_owned());
            Ok(Opened { adapter, warnings: vec![format!("{} is of another base", name.unwrap_or_default())] })
        });
        let from = from.map(|from| (from, open));
        let served = Served { name: BASE.to_owned(), model, tokenizer, adapters, from, guard, limits, views };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let server = Server::new(served, listener).expect("a server");
        let address = server.address().expect("an address");
        let stop: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let thread = std::thread::spawn(move || server.run(stop, |_| ()).expect("it runs"));
        Running { address, stop, thread: Some(thread) }
    }

    /// Asks the server to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Waits until the server has ended by itself.
    #[track_caller]
    pub fn wait_for_end(&self) {
        let has_ended = |server: &Running| server.thread.as_ref().is_none_or(JoinHandle::is_finished);
        self.wait_until("the server ends", has_ended);
    }

    /// A connection with a request on it.
    pub fn send(&self, request: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        // The server may close before it has all of it.
        let _ = stream.write_all(request);
        stream
    }

    /// A request without a body.
    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], None)
    }

    /// A request with JSON.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &[], Some(body.to_string().as_bytes()))
    }

    /// A request.
    pub fn ask(&self, method: &str, path: &str, headers: &[&str], body: Option<&[u8]>) -> Answer {
        Answer::read(self.send(&request(self.address, method, path, headers, body)))
    }

    /// The value of a metric.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line =
            text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        line.unwrap_or_else(|| panic!("{name} in {text}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until `holds`.
    #[track_caller]
    pub fn wait_until(&self, what: &str, holds: impl Fn(&Running) -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        while !holds(self) {
            assert!(Instant::now() < until, "waited for: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        let ended = self.thread.take().is_none_or(|thread| thread.join().is_ok());
        assert!(ended || std::thread::panicking(), "the server panicked");
    }
}

/// The bytes of a request.
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[&str],
    body: Option<&[u8]>,
) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|header| header.to_lowercase().starts_with("host:")) {
        head += &format!("Host: {address}\r\n");
    }
    for header in headers {
        head += &format!("{header}\r\n");
    }
    if let Some(body) = body {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    [head.as_bytes(), b"\r\n", body.unwrap_or_default()].concat()
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// Reads to the end of the connection.
    pub fn read(stream: TcpStream) -> Answer {
        let mut bytes = Vec::new();
        // A connection that is reset has said all the same what it said.
        let _ = BufReader::new(stream).read_to_end(&mut bytes);
        // What is cut may be cut within a character.
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let body = match head.to_lowercase().contains("transfer-encoding: chunked") {
            true => unchunked(body),
            false => body.to_owned(),
        };
        Answer { status, head: head.to_owned(), body }
    }

    /// The body as JSON, of an answer that is well.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The message of an error.
    #[track_caller]
    pub fn error(&self) -> String {
        assert!(self.status >= 400, "{self:?}");
        let json: Value = serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        json["error"]["message"].as_str().expect("a message").to_owned()
    }

    /// The events of a stream, without the last, which says that all is done.
    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{self:?}");
        assert!(self.head.to_lowercase().contains("text/event-stream"), "{}", self.head);
        let mut events: Vec<&str> =
            self.body.split("\n\n").filter(|event| !event.is_empty()).map(|e| &e["data: ".len()..]).collect();
        assert_eq!(events.pop(), Some("[DONE]"), "{}", self.body);
        events.into_iter().map(|event| serde_json::from_str(event).expect("JSON")).collect()
    }
}

/// A body that came in chunks.
fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size, 16) else { break };
        let Some(chunk) = rest.get(..size) else { break };
        whole += chunk;
        body = rest.get(size + 2..).unwrap_or_default();
    }
    whole
}

/// Reads the head of an answer and `lines` more lines, not a byte more, and leaves the connection open.
pub fn read_some(mut stream: &TcpStream, lines: usize) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    let is_read = |text: &[u8]| {
        let head = text.windows(4).position(|four| four == b"\r\n\r\n");
        head.is_some_and(|head| text[head + 4..].iter().filter(|byte| **byte == b'\n').count() >= lines)
    };
    while !is_read(&text) && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        text.push(byte[0]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Closes both ways.
pub fn close(stream: TcpStream) {
    let _ = stream.shutdown(Shutdown::Both);
}

/// A chat request.
pub fn chat(model: &str, text: &str, more: Value) -> Value {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 24});
    merge(&mut body, more);
    body
}

/// A completion request.
pub fn completion(model: &str, prompt: &str, more: Value) -> Value {
    let mut body = json!({"model": model, "prompt": prompt, "temperature": 0, "max_tokens": 24});
    merge(&mut body, more);
    body
}

fn merge(body: &mut Value, more: Value) {
    if let Value::Object(more) = more {
        more.into_iter().for_each(|(key, value)| body[key] = value);
    }
}

/// What `lorafit_model::generate` answers to a text, as `lorafit generate` asks it.
pub fn expected(adapter: Option<&Adapter>, text: &str, is_chat: bool, tokens: usize) -> String {
    let (model, tokenizer) = base();
    let ids = match is_chat {
        true => {
            let template = tokenizer.compile_chat_template().expect("compiles").expect("there is one");
            let text = template.render(&[Message::new(Role::User, text)], true).expect("renders");
            tokenizer.encode(&text, false)
        }
        false => tokenizer.encode(text, true),
    };
    let ids = ids.expect("encodes");
    let prompts = Prompts {
        ids: &[&ids],
        stop: tokenizer.eos_ids(),
        max_new_tokens: tokens,
        sampling: Sampling::default(),
        seeds: &[],
        side_by_side: 1,
    };
    let mut decoder = tokenizer.decode_stream(true);
    let answers = generate(model, adapter, prompts, |_, _| true, &mut || false).expect("numbers");
    let mut text: String = answers[0].iter().map(|id| decoder.push(*id).expect("decodes")).collect();
    text += &decoder.finish().expect("decodes");
    text
}
