//! `serve`: what it says when it listens is true, it answers as `generate` does, it ends when asked, and nobody is let in by mistake.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lorafit_kernels::Device;
use lorafit_model::adapter;
use lorafit_model::weights::{ModelFiles, SaveDtype, TensorData, write_tensors};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{lorafit, well};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_bpe");
/// More than anything here takes, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that does not outlive the test, with what it said when it began.
struct Serving {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    said: String,
    /// What it writes to standard error.
    notes: tempfile::NamedTempFile,
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
    let notes = tempfile::NamedTempFile::new().expect("a file");
    let errors = notes.reopen().expect("the same file");
    let mut child = command.stdout(Stdio::piped()).stderr(errors).spawn().expect("starts");
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let mut said = String::new();
    while !said.contains("\ntry: ") {
        let read = output.read_line(&mut said).expect("says where");
        assert!(read > 0 && said.starts_with("serving at http://"), "{said}");
    }
    Serving { child, output, said, notes }
}

impl Serving {
    /// The address of the example.
    fn address(&self) -> &str {
        let rest = self.said.split_once("curl http://").expect("an example").1;
        rest.split('/').next().expect("an address")
    }

    /// The body of the example.
    fn example(&self) -> Value {
        let body = self.said.trim_end().rsplit_once("-d '").expect("a body").1;
        serde_json::from_str(body.strip_suffix('\'').expect("quoted")).expect("JSON")
    }

    /// What it wrote to standard error so far.
    fn noted(&self) -> String {
        fs::read_to_string(self.notes.path()).expect("read")
    }

    fn post(&self, path: &str, key: &str, body: &Value) -> (u16, Value) {
        self.request("POST", path, key, &body.to_string())
    }

    fn request(&self, method: &str, path: &str, key: &str, body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(self.address()).expect("listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let host = self.address();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{key}");
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
    let said = &server.said;
    assert!(said.contains("models: chat_bpe, own, strong\n") && said.contains("(KV cache): "), "{said}");
    assert!(said.lines().next().is_some_and(|line| line.ends_with("/ (Ctrl-C ends it)")), "{said}");
    let example = server.example();
    let (status, answer) = server.post("/v1/chat/completions", "", &example);
    assert_eq!((status, &answer["model"]), (200, &json!("chat_bpe")), "{answer}");

    // The template of this model has no place for calls of tools.
    let calls = json!([{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
    let called = json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": null, "tool_calls": calls}]);
    let (status, error) = server.post("/v1/tokenize", "", &json!({"messages": called}));
    let message = error["error"]["message"].as_str().unwrap_or_default();
    assert!(status == 400 && message.contains("chat template has no place"), "{error}");

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

/// The adapter of the model, with its factors rounded to bf16 in the file.
fn in_bf16(dir: &Path) -> String {
    let files = ModelFiles::open(MODEL.as_ref()).expect("a model");
    let loaded =
        adapter::load_over(&Path::new(MODEL).join("adapter"), &files, Device::Cpu).expect("an adapter");
    let mut sources = adapter::sources(&loaded);
    for source in &mut sources {
        let data = std::mem::replace(&mut source.data, TensorData::f32(|_, _| {}));
        let TensorData::Floats(_, values) = data else { panic!("factors are numbers") };
        source.data = TensorData::Floats(SaveDtype::Bf16, values);
    }
    let folder = dir.join("in_bf16");
    fs::create_dir(&folder).unwrap();
    fs::copy(Path::new(MODEL).join("adapter/adapter_config.json"), folder.join("adapter_config.json"))
        .unwrap();
    let mut file = fs::File::create(folder.join(adapter::WEIGHTS_FILE)).unwrap();
    write_tensors(&mut file, sources).expect("written");
    folder.display().to_string()
}

#[test]
fn factors_are_held_as_asked_and_serve_and_generate_answer_alike() {
    let dir = TempDir::new().unwrap();
    let (in_f32, in_bf16) = (format!("{MODEL}/adapter"), in_bf16(dir.path()));
    let text = "What is the largest number?";
    let mut found = Vec::new();
    for (folder, dtype) in
        [(&in_f32, "auto"), (&in_f32, "bf16"), (&in_bf16, "auto"), (&in_bf16, "f32"), (&in_bf16, "bf16")]
    {
        let named = format!("own={folder}");
        let server = serving(dir.path(), &["--model", MODEL, "--adapter", &named, "--adapter-dtype", dtype]);
        let mib = server.said.split_once("memory of adapters: ").expect("says how much").1;
        let held = mib.lines().next().expect("a line").to_owned();
        let mut answers = Vec::new();
        for (model, given) in [("own", folder.clone()), ("own:0.5", format!("{folder}:0.5"))] {
            let generate =
                ["generate", "--model", MODEL, "--chat", "--prompt", text, "--json", "--threads", "1"];
            let more = ["--max-new-tokens", "40", "--adapter", &given, "--adapter-dtype", dtype];
            let expected = well(dir.path(), &[&generate[..], &more[..]].concat());
            let expected: Value = serde_json::from_str(&expected).unwrap();
            let messages = json!([{"role": "user", "content": text}]);
            let body = json!({"model": model, "messages": messages, "temperature": 0, "max_tokens": 40});
            let (status, answer) = server.post("/v1/chat/completions", "", &body);
            assert_eq!(status, 200, "{answer}");
            assert_eq!(
                answer["choices"][0]["message"]["content"], expected["text"],
                "{folder} {model} {dtype}"
            );
            answers.push(expected["text"].clone());
        }
        found.push((held, answers));
    }
    let [plain, rounded, stored, widened, both] = &found[..] else { panic!("five") };
    // At a strength, factors are rounded once more where that is asked.
    let own = |(held, answers): &(String, Vec<Value>)| (held.clone(), answers[0].clone());
    assert_eq!(own(rounded), own(stored), "factors are rounded in memory as in a file");
    assert_eq!((&widened.0, &both.0), (&plain.0, &stored.0), "memory is that of the type");
    assert_ne!(plain.0, stored.0);
    assert_eq!(widened.1, stored.1, "no answer changes by how what is stored in 16 bits is held");
}

#[test]
fn a_key_is_asked_for_where_there_is_one() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("key"), "# ours\n0123456789abcdef\n").unwrap();
    fs::create_dir(dir.path().join("adapters")).unwrap();
    let key =
        ["--api-key-file", "key", "--adapters-from", "adapters", "--name", "llm", "--host", "localhost"];
    let server = serving(dir.path(), &[&["--model", MODEL], &key[..]].concat());
    assert!(server.said.contains("Authorization: Bearer $(grep -m1 -v '^#' key)"), "{}", server.said);
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
        (&["--runs", "gone"], "--runs gone: there is no such folder"),
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
        (&["--allow-host", "http://x.example/"], "give the name alone: x.example"),
        (&["--allow-host", "x.example:80"], "give the name alone: x.example"),
        (&["--allow-host", ""], "give the name alone"),
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

#[test]
fn names_and_weights_that_requests_cannot_have_are_refused() {
    let dir = TempDir::new().unwrap();
    let adapter = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_bpe/adapter");
    let own = |prefix: &str, suffix: &str| format!("{prefix}{adapter}{suffix}");
    for (flag, value, expected) in [
        ("--name", "weird name".to_owned(), "the name `weird name` has more than"),
        ("--name", String::new(), "is empty"),
        ("--name", "x:0.5".to_owned(), "the name `x:0.5` has more than"),
        ("--name", "a//b".to_owned(), "the name `a//b` has more than"),
        ("--adapter", own("x:0.5=", ""), "the name `x:0.5` has more than"),
        ("--adapter", own("a:b=", ""), "the name `a:b` has more than"),
        ("--adapter", own("a/b=", ""), "the name `a/b` has more than"),
        ("--adapter", own("x=", ":1e9"), "not from -100 to 100"),
        ("--adapter", own("x=", ":-100.5"), "not from -100 to 100"),
        ("--adapter", own("x=", ":0"), "not 0"),
        ("--memory", "1KiB".to_owned(), "--memory 1 KiB is too little: keys and values of a prompt of 64"),
    ] {
        let output = lorafit(dir.path(), &["serve", "--model", MODEL, "--port", "0", flag, &value]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(expected), "{flag} {value}: {said}");
        assert!(said.contains("hint: "), "{said}");
    }
}

#[test]
fn the_smallest_memory_that_is_named_is_enough_and_a_name_of_a_hub_is_one() {
    let dir = TempDir::new().unwrap();
    let refused = lorafit(dir.path(), &["serve", "--model", MODEL, "--port", "0", "--memory", "1KiB"]);
    let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
    let least = refused.split("give --memory ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let server = serving(dir.path(), &["--model", MODEL, "--name", "org/llm-1.5", "--memory", least]);
    let messages = json!([{"role": "user", "content": "Hello"}]);
    let asked = json!({"model": "org/llm-1.5", "messages": messages, "max_tokens": 3});
    let (status, answer) = server.post("/v1/chat/completions", "", &asked);
    assert_eq!((status, &answer["model"]), (200, &json!("org/llm-1.5")), "{answer}");
}

#[test]
fn a_server_that_ends_says_what_it_waits_for() {
    let dir = TempDir::new().unwrap();
    let mut server = serving(dir.path(), &["--model", MODEL, "--drain-time", "1", "--max-new-tokens", "400"]);
    let ends: serde_json::Map<String, Value> = (0..4).map(|id| (id.to_string(), json!(-100))).collect();
    let asked = json!({"model": "chat_bpe", "prompt": "Hello", "max_tokens": 400, "n": 16, "stream": true, "logit_bias": ends});
    let mut stream = TcpStream::connect(server.address()).expect("listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let (body, host) = (asked.to_string(), server.address().to_owned());
    write!(
        stream,
        "POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("sent");
    let mut begun = [0; 1];
    stream.read_exact(&mut begun).expect("it begins");
    let killed = Command::new("kill").args(["-TERM", &server.child.id().to_string()]).status();
    assert!(killed.expect("kill runs").success());
    let mut rest = String::new();
    server.output.read_to_string(&mut rest).expect("it ends");
    assert!(
        rest.starts_with("ending: ") && rest.contains("at most 1 s; Ctrl-C again ends at once"),
        "{rest}"
    );
    assert!(rest.ends_with("\nended\n"), "{rest}");
}

/// A folder with the adapter of the fixture, made a classifier of this many labels.
fn classifier(folder: &Path, labels: usize) {
    let adapter = Path::new(MODEL).join("adapter");
    fs::create_dir_all(folder).unwrap();
    let text = fs::read_to_string(adapter.join("adapter_config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["task_type"] = json!("SEQ_CLS");
    config["modules_to_save"] = json!(["score"]);
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    let bytes = fs::read(adapter.join("adapter_model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut names: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    let (width, end) = (32, bytes.len() - header);
    let head =
        json!({"dtype": "F32", "shape": [labels, width], "data_offsets": [end, end + 4 * labels * width]});
    names["base_model.model.score.weight"] = head;
    let names = names.to_string();
    let head = vec![0; 4 * labels * width];
    let length = (names.len() as u64).to_le_bytes();
    let whole = [&length[..], names.as_bytes(), &bytes[header..], &head].concat();
    fs::write(folder.join("adapter_model.safetensors"), whole).unwrap();
}

#[test]
fn an_adapter_that_writes_no_text_is_not_loaded() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("key"), "0123456789abcdef\n").unwrap();
    classifier(&dir.path().join("adapters/sorts"), 3);
    classifier(&dir.path().join("adapters/rewards"), 1);
    let own = dir.path().join("adapters/own");
    fs::create_dir(&own).unwrap();
    for file in fs::read_dir(Path::new(MODEL).join("adapter")).unwrap().flatten() {
        fs::copy(file.path(), own.join(file.file_name())).unwrap();
    }
    let server =
        serving(dir.path(), &["--model", MODEL, "--api-key-file", "key", "--adapters-from", "adapters"]);
    let key = "Authorization: Bearer 0123456789abcdef\r\n";
    let load = |path: &str| server.post("/v1/adapters", key, &json!({"name": "new", "path": path}));
    for (path, what) in
        [("sorts", "is a classifier, whose head writes no text"), ("rewards", "is a reward model")]
    {
        let (status, error) = load(path);
        let message = error["error"]["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(what), "{path}: {error}");
        assert_eq!(error["error"]["param"], "path");
        assert!(!message.contains(&*dir.path().to_string_lossy()), "{message}");
    }
    // The name is still free.
    assert_eq!(load("own").0, 200);
    let refused =
        lorafit(dir.path(), &["serve", "--model", MODEL, "--port", "0", "--adapter", "adapters/sorts"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("is a classifier") && said.contains("hint: "), "{said}");
}

/// A run that has taken so many steps.
fn write_run(folder: &Path, steps: u64) {
    fs::create_dir_all(folder).unwrap();
    let step = |step: u64| {
        let record = json!({"step": step, "loss": 2.5, "grad_norm": 1.0, "learning_rate": 0.001, "tokens": 10,
            "computed_tokens": 9, "supervised_tokens": 5, "seconds": 0.5, "tokens_per_s": 20.0, "peak_rss_bytes": 1});
        format!("{record}\n")
    };
    fs::write(folder.join("metrics.jsonl"), (1..=steps).map(step).collect::<String>()).unwrap();
}

#[test]
fn the_page_shows_runs_below_the_folder_and_plans_for_the_base() {
    let dir = TempDir::new().unwrap();
    write_run(&dir.path().join("runs/group/mine"), 3);
    write_run(&dir.path().join("secret"), 3);
    fs::write(dir.path().join("key"), "0123456789abcdef\n").unwrap();
    let server =
        serving(dir.path(), &["--model", MODEL, "--runs", "runs", "--api-key-file", "key", "--name", "llm"]);
    let key = "Authorization: Bearer 0123456789abcdef\r\n";
    let (status, found) = server.post("/views/runs", key, &json!({"shown": ["group/mine", "../secret"]}));
    assert_eq!(
        (status, &found["shown"], &found["runs"][0]["step"]),
        (200, &json!(["group/mine"]), &json!(3)),
        "{found}"
    );
    assert!(found["curves"].as_str().is_some_and(|html| html.contains("<svg")));
    write_run(&dir.path().join("runs/group/mine"), 5);
    let begun = Instant::now();
    loop {
        let (_, later) = server.post("/views/runs", key, &json!({"known": found["version"]}));
        if later["runs"][0]["step"] == 5 && later["curves"].is_string() {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{later}");
        std::thread::sleep(Duration::from_millis(50));
    }

    let (status, plan) = server.post("/views/plan", key, &json!({"rank": "16"}));
    let html = plan["html"].as_str().unwrap_or_default();
    let printed = well(dir.path(), &["plan", "--model", MODEL, "--rank", "16"]);
    let first = printed.lines().next().unwrap().replace(MODEL, "llm");
    assert!(status == 200 && html.contains(&first), "{first} in {plan}");
    assert!(!html.contains(MODEL), "nobody learns where the base lies");
    let (status, error) = server.post("/views/plan", key, &json!({"rank": "0"}));
    assert_eq!((status, &error["error"]["message"]), (400, &json!("--rank 0: must be 1 or more")));
    for path in ["/views/runs", "/views/plan"] {
        assert_eq!(server.post(path, "", &json!({})).0, 401, "{path}");
        assert_eq!(
            server.post(path, &format!("{key}Origin: http://evil.example\r\n"), &json!({})).0,
            403,
            "{path}"
        );
    }

    // Without --runs there are none.
    let server = serving(dir.path(), &["--model", MODEL]);
    assert_eq!(server.post("/views/runs", "", &json!({})).0, 404);
    assert_eq!(server.post("/views/plan", "", &json!({})).0, 200);
}

/// One server writes conversations in one way, which is that of every adapter's training.
#[test]
fn adapters_of_several_chat_templates_are_refused() {
    let place = TempDir::new().expect("a folder");
    for (name, template) in [("own", ""), ("alpaca", "template = \"alpaca\"\n")] {
        let dir = place.path().join(name);
        fs::create_dir(&dir).expect("made");
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            fs::copy(Path::new(MODEL).join("adapter").join(file), dir.join(file)).expect("copied");
        }
        let config = format!("model = {MODEL:?}\ndata = \"rows.jsonl\"\n{template}");
        fs::write(dir.join("config.toml"), config).expect("written");
    }
    let both = ["serve", "--model", MODEL, "--port", "0", "--adapter", "a=own", "--adapter", "b=alpaca"];
    let output = lorafit(place.path(), &both);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("b with the chat template alpaca"), "{told}");
    assert!(told.contains("hint: serve them apart, or choose a template for all: --template"), "{told}");
    drop(serving(place.path(), &["--model", MODEL, "--adapter", "b=alpaca"]));
}

/// A folder of the adapter of the model, whose configuration names another base.
fn of_another_base(folder: &Path) {
    fs::create_dir_all(folder).expect("made");
    let own = Path::new(MODEL).join("adapter");
    fs::copy(own.join(adapter::WEIGHTS_FILE), folder.join(adapter::WEIGHTS_FILE)).expect("copied");
    let config = fs::read_to_string(own.join("adapter_config.json")).expect("read");
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    config["base_model_name_or_path"] = "/home/somebody/models/other-8b".into();
    fs::write(folder.join("adapter_config.json"), config.to_string()).expect("written");
}

/// A run of two steps of four whose process is gone, with the adapter in its checkpoint.
fn stopped_run(folder: &Path) {
    write_run(folder, 3);
    fs::write(folder.join("config.toml"), format!("model = {MODEL:?}\ndata = \"rows.jsonl\"\n"))
        .expect("written");
    fs::write(folder.join("run.json"), json!({"total_steps": 4}).to_string()).expect("written");
    let checkpoint = folder.join("checkpoints/step-00000002");
    fs::create_dir_all(&checkpoint).expect("made");
    for name in ["adapter_config.json", adapter::WEIGHTS_FILE] {
        fs::copy(Path::new(MODEL).join("adapter").join(name), checkpoint.join(name)).expect("copied");
    }
}

#[test]
fn what_is_to_be_known_of_an_adapter_is_told_at_the_start_by_loading_it_and_in_the_list() {
    let place = TempDir::new().expect("a folder");
    of_another_base(&place.path().join("adapters/other"));
    stopped_run(&place.path().join("adapters/run"));
    fs::write(place.path().join("key"), "0123456789abcdef\n").expect("written");
    let arguments = [
        "--model",
        MODEL,
        "--adapter",
        "a=adapters/other:0.7",
        "--adapter",
        "b=adapters/run",
        "--name",
        "llm",
    ];
    let keys = ["--adapters-from", "adapters", "--api-key-file", "key"];
    let server = serving(place.path(), &[&arguments[..], &keys].concat());
    let key = "Authorization: Bearer 0123456789abcdef\r\n";
    let other = "other was trained over other-8b, and is used over llm: unless both are the same model, it fits badly";
    let run = "run was stopped after step 3 of 4: the adapter after step 2 is used, that of run/checkpoints/step-00000002";
    for (path, warning) in [("other", other), ("run", run)] {
        let (status, loaded) = server.post("/v1/adapters", key, &json!({"name": path, "path": path}));
        assert_eq!((status, &loaded["warnings"]), (200, &json!([warning])), "{loaded}");
    }
    let (status, listed) = server.request("GET", "/v1/models", key, "");
    assert_eq!(status, 200, "{listed}");
    let of =
        |name: &str| listed["data"].as_array().unwrap().iter().find(|model| model["id"] == name).unwrap();
    for (name, warnings) in [("llm", json!([])), ("a", json!([other])), ("b", json!([run]))] {
        assert_eq!(of(name)["warnings"], warnings, "{name}");
    }
    assert_eq!(of("a")["weight"], json!(0.7));
    // The server prints the warning when it starts, with full paths.
    let told = server.noted();
    assert!(
        told.contains("warning: adapters/other was trained over /home/somebody/models/other-8b"),
        "{told}"
    );
    assert!(
        told.contains("adapters/run was stopped after step 3 of 4: the adapter after step 2 is used"),
        "{told}"
    );
    // A line each for those that were loaded later.
    assert_eq!(told.matches("was trained over").count(), 2, "{told}");

    // What an adapter calls its base is not sent without end.
    of_another_base(&place.path().join("adapters/long"));
    let config = place.path().join("adapters/long/adapter_config.json");
    let text = fs::read_to_string(&config).expect("read").replace("other-8b", &"x".repeat(100_000));
    fs::write(&config, text).expect("written");
    let (status, loaded) = server.post("/v1/adapters", key, &json!({"name": "long", "path": "long"}));
    assert!(
        status == 200 && loaded["warnings"][0].as_str().is_some_and(|warning| warning.len() < 600),
        "{loaded}"
    );

    // A name that says that it is the same base is believed.
    let named = ["--model", MODEL, "--adapter", "a=adapters/other", "--name", "org/other-8b"];
    let server = serving(place.path(), &named);
    let (_, listed) = server.request("GET", "/v1/models/a", "", "");
    assert_eq!((&listed["warnings"], server.noted().as_str()), (&json!([]), ""), "{listed}");
}
