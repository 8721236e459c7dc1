//! What `--model` may be: paths of this machine, and hub ids against a small hub of our own.

use std::fs;
use std::path::Path;

use lorafit_model::{ShapeSource, Source, SourceError};

/// The error of a `model` that is looked up nowhere but here.
fn local_error(model: &Path) -> SourceError {
    Source::resolve(model.to_str().unwrap(), &mut |_| panic!("nothing to download")).unwrap_err()
}

fn hint(error: &SourceError) -> String {
    error.hint().map(|hint| hint.to_string()).unwrap_or_default()
}

#[test]
fn folders_and_gguf_files_are_taken_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    let gguf = dir.path().join("x.Q4_K_M.GGUF");
    fs::write(&gguf, "GGUF").unwrap();
    let resolve = |path: &Path| Source::resolve(path.to_str().unwrap(), &mut |_| panic!("no download"));
    assert_eq!(resolve(dir.path()).unwrap(), Source::Folder(dir.path().to_owned()));
    assert_eq!(resolve(&gguf).unwrap(), Source::Gguf(gguf));
}

#[test]
fn a_folder_without_weights_has_a_shape() {
    let dir = tempfile::tempdir().unwrap();
    let (config, weights) = (dir.path().join("config.json"), dir.path().join("model.safetensors"));
    fs::write(&config, "{}").unwrap();
    let shape = || Source::resolve_shape(dir.path().to_str().unwrap(), &mut |_| panic!("no download"));
    assert_eq!(shape().unwrap(), ShapeSource::Config(config));
    fs::write(weights, "").unwrap();
    assert_eq!(shape().unwrap(), ShapeSource::Model(Source::Folder(dir.path().to_owned())));
}

#[test]
fn a_folder_without_config_says_what_it_is_instead() {
    let dir = tempfile::tempdir().unwrap();
    let error = local_error(dir.path());
    assert!(error.to_string().starts_with(dir.path().to_str().unwrap()), "{error}");
    assert!(error.to_string().contains("no config.json"), "{error}");
    assert!(hint(&error).contains("*.safetensors"), "{}", hint(&error));

    fs::write(dir.path().join("base.gguf"), "").unwrap();
    let gguf = dir.path().join("base.gguf");
    assert_eq!(hint(&local_error(dir.path())), format!("pass the GGUF file itself: {}", gguf.display()));

    fs::write(dir.path().join("adapter_config.json"), "{}").unwrap();
    assert!(hint(&local_error(dir.path())).contains("adapter"));
}

#[test]
fn other_files_and_missing_paths_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    let weights = dir.path().join("model.safetensors");
    fs::write(&weights, "").unwrap();
    let error = local_error(&weights);
    assert!(error.to_string().contains("neither a model folder nor a .gguf file"), "{error}");
    assert_eq!(hint(&error), format!("pass its folder: {}", dir.path().display()));

    for missing in ["", "nowhere", "./no/where", "~/no", "no/such/folder", "nowhere.gguf"] {
        let error = local_error(Path::new(missing));
        assert_eq!(error.to_string(), format!("{missing}: no such file or folder"));
        assert!(hint(&error).contains("org/name"), "{}", hint(&error));
    }
}

#[cfg(not(feature = "hub"))]
#[test]
fn a_build_without_hub_support_says_so() {
    let error = local_error(Path::new("org/name"));
    assert!(error.to_string().contains("no hub support"), "{error}");
}

#[cfg(feature = "hub")]
mod hub {
    use std::collections::BTreeMap;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};
    use std::thread;
    use std::time::{Duration, Instant};

    use lorafit_model::Hub;
    use tempfile::TempDir;

    use super::*;

    const OLD: &str = "1111111111111111111111111111111111111111";
    const NEW: &str = "2222222222222222222222222222222222222222";
    const INDEX: &str = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors", "c": "model-00001-of-00002.safetensors"}}"#;
    const FIRST: &str = "model-00001-of-00002.safetensors";
    const SECOND: &str = "model-00002-of-00002.safetensors";

    /// What the hub has and how it behaves.
    #[derive(Default)]
    struct State {
        /// "models" or "datasets".
        kind: &'static str,
        commit: &'static str,
        files: BTreeMap<String, Vec<u8>>,
        /// Answered to the listing instead.
        status: Option<(u16, &'static str)>,
        /// Answered to a file instead.
        file_status: BTreeMap<String, u16>,
        /// Listed, but with no sizes.
        bare_listing: bool,
        /// Connections that break in the middle of a safetensors file.
        breaks: usize,
        /// A safetensors file is said to end early, so that nothing seems to break.
        cuts: bool,
        /// Parts are asked for in vain: the whole file comes.
        ignores_ranges: bool,
        /// Safetensors files lie on another host.
        redirects: bool,
        requests: Vec<Request>,
    }

    #[derive(Clone)]
    struct Request {
        path: String,
        host: String,
        authorization: Option<String>,
        range: Option<u64>,
    }

    /// A hub on this machine; it answers until the test ends.
    struct Server {
        state: Arc<Mutex<State>>,
        port: u16,
    }

    impl Server {
        fn start(files: &[(&str, &str)]) -> Self {
            let files = files.iter().map(|(name, text)| (name.to_string(), text.as_bytes().to_vec()));
            let state = State { kind: "models", commit: OLD, files: files.collect(), ..State::default() };
            let state = Arc::new(Mutex::new(state));
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let shared = state.clone();
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let (state, stream) = (shared.clone(), stream.unwrap());
                    thread::spawn(move || answer(&state, stream, port));
                }
            });
            Server { state, port }
        }

        fn sharded() -> Self {
            Server::start(&[
                ("config.json", "{}"),
                ("tokenizer.json", "{\"t\": 1}"),
                ("chat_template.jinja", "{{ messages }}"),
                ("README.md", "not needed"),
                ("model.safetensors.index.json", INDEX),
                (FIRST, &"first".repeat(1000)),
                (SECOND, &"second".repeat(1000)),
            ])
        }

        fn set(&self, change: impl FnOnce(&mut State)) {
            change(&mut self.state.lock().unwrap());
        }

        fn requests(&self) -> Vec<Request> {
            self.state.lock().unwrap().requests.clone()
        }

        /// A hub with an empty cache of its own.
        fn hub(&self, home: &TempDir) -> Hub {
            Hub {
                endpoint: format!("http://127.0.0.1:{}", self.port),
                cache: home.path().join("hub"),
                token: None,
                offline: false,
                timeout: Duration::from_secs(5),
            }
        }
    }

    fn answer(state: &Mutex<State>, mut stream: TcpStream, port: u16) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
        let Some(first) = lines.next() else { return };
        let path = first.split(' ').nth(1).unwrap().to_owned();
        let headers: BTreeMap<String, String> = lines
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.split_once(": ").map(|(k, v)| (k.to_lowercase(), v.to_owned())))
            .collect();
        // `bytes=0-0` asks for one byte, `bytes=N-` for the rest.
        let range = headers.get("range").map(|range| range["bytes=".len()..].split_once('-').unwrap());
        let start = range.map(|(start, _)| start.parse::<usize>().unwrap());
        let mut state = state.lock().unwrap();
        state.requests.push(Request {
            path: path.clone(),
            host: headers["host"].clone(),
            authorization: headers.get("authorization").cloned(),
            range: range.filter(|range| range.1.is_empty()).and(start).map(|start| start as u64),
        });

        let status = |status: u16, extra: &str| {
            format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n{extra}\r\n")
        };
        let whole = |body: &[u8]| {
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            [head.as_bytes(), body].concat()
        };
        let reply: Vec<u8> = if path.starts_with(&format!("/api/{}/org/name/revision/", state.kind)) {
            match state.status {
                Some((code, name)) => status(code, &format!("X-Error-Code: {name}\r\n")).into_bytes(),
                None => whole(listing(&state).as_bytes()),
            }
        } else {
            let inside = path.split_once(&format!("/resolve/{}/", state.commit)).map(|(_, name)| name);
            let name = inside.or_else(|| path.strip_prefix("/cdn/")).unwrap().to_owned();
            let large = name.ends_with(".safetensors");
            let commit = state.commit;
            let prefix = if state.kind == "models" { "" } else { "/datasets" };
            let expected = [format!("{prefix}/org/name/resolve/{commit}/"), "/cdn/".to_owned()];
            assert!(expected.iter().any(|start| path.starts_with(start)), "{path}");
            match (state.file_status.get(&name), state.files.get(&name).cloned()) {
                (Some(&code), _) => status(code, "").into_bytes(),
                (None, None) => status(404, "X-Error-Code: EntryNotFound\r\n").into_bytes(),
                (None, Some(body)) => {
                    let etag = etag(&body);
                    let identity = format!("ETag: \"{etag}\"\r\nX-Repo-Commit: {commit}\r\n");
                    if state.redirects && large && !path.starts_with("/cdn/") {
                        let location = format!(
                            "Location: http://localhost:{port}/cdn/{name}\r\nX-Linked-ETag: \"{etag}\"\r\n"
                        );
                        status(302, &(identity + &location)).into_bytes()
                    } else {
                        let start = if state.ignores_ranges { 0 } else { start.unwrap_or(0) };
                        let end = match range {
                            Some((_, end)) if !end.is_empty() => end.parse::<usize>().unwrap() + 1,
                            _ if state.cuts && large => body.len() - 1,
                            _ => body.len(),
                        };
                        if start >= body.len() {
                            status(416, "").into_bytes()
                        } else {
                            let part = &body[start..end];
                            let mut reply = format!(
                                "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes \
                                 {start}-{}/{}\r\nAccept-Ranges: bytes\r\nConnection: close\r\n{identity}\r\n",
                                part.len(),
                                end - 1,
                                body.len()
                            )
                            .into_bytes();
                            let breaks = large && part.len() > 1 && state.breaks > 0;
                            if breaks {
                                state.breaks -= 1;
                            }
                            reply.extend(&part[..if breaks { part.len() / 2 } else { part.len() }]);
                            reply
                        }
                    }
                }
            }
        };
        drop(state);
        let _ = stream.write_all(&reply);
    }

    fn etag(body: &[u8]) -> String {
        let sum = body.iter().fold(7u64, |sum, &byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        format!("{sum:016x}")
    }

    fn listing(state: &State) -> String {
        let sibling = |(name, body): (&String, &Vec<u8>)| {
            let tag = etag(body);
            match (state.bare_listing, name.ends_with(".safetensors")) {
                (true, _) => format!(r#"{{"rfilename": {name:?}}}"#),
                (false, true) => format!(
                    r#"{{"rfilename": {name:?}, "size": {}, "blobId": "pointer", "lfs": {{"sha256": "{tag}"}}}}"#,
                    body.len()
                ),
                (false, false) => {
                    format!(r#"{{"rfilename": {name:?}, "size": {}, "blobId": "{tag}"}}"#, body.len())
                }
            }
        };
        let siblings: Vec<String> = state.files.iter().map(sibling).collect();
        format!(r#"{{"id": "org/name", "sha": "{}", "siblings": [{}]}}"#, state.commit, siblings.join(", "))
    }

    fn resolve(model: &str, hub: &Hub) -> Result<Source, SourceError> {
        Source::resolve_with(model, hub, &mut |_| ())
    }

    fn error(hub: &Hub) -> SourceError {
        resolve("org/name", hub).unwrap_err()
    }

    fn offline(hub: &Hub) -> Hub {
        // Whoever listens at the discard port, it is no hub.
        Hub { offline: true, endpoint: "http://127.0.0.1:9".to_owned(), ..hub.clone() }
    }

    #[test]
    fn for_its_shape_only_the_configuration_of_a_model_is_downloaded() {
        let (server, home) = (Server::sharded(), TempDir::new().unwrap());
        let hub = server.hub(&home);
        let shape = |hub: &Hub| Source::resolve_shape_with("org/name", hub, &mut |_| ());
        let snapshot = hub.cache.join("models--org--name/snapshots").join(OLD);
        let config = ShapeSource::Config(snapshot.join("config.json"));
        assert_eq!(shape(&hub).unwrap(), config);
        assert_eq!(fs::read_to_string(snapshot.join("config.json")).unwrap(), "{}");
        let files = |server: &Server| -> Vec<String> {
            let requests = server.requests().into_iter().map(|request| request.path);
            requests.filter(|path| !path.starts_with("/api/")).collect()
        };
        let asked = files(&server);
        assert!(!asked.is_empty() && asked.iter().all(|path| path.ends_with("/config.json")), "{asked:?}");

        // What is there is not fetched again, nor taken for the model.
        assert_eq!(shape(&hub).unwrap(), config);
        assert_eq!(files(&server), asked);
        assert!(matches!(resolve("org/name", &offline(&hub)), Err(SourceError::NotCached { .. })));

        // Of a model that is there whole its weights can be told, too.
        let whole = resolve("org/name", &hub).unwrap();
        assert_eq!(shape(&hub).unwrap(), ShapeSource::Model(whole.clone()));
        assert_eq!(shape(&offline(&hub)).unwrap(), ShapeSource::Model(whole));
    }

    #[test]
    fn who_needs_no_weights_fetches_configuration_and_tokenizer() {
        // A repository whose weights nobody here can read.
        let files = [("config.json", "{}"), ("tokenizer.json", "{\"a\": 1}"), ("pytorch_model.bin", "code")];
        let (server, home) = (Server::start(&files), TempDir::new().unwrap());
        let hub = server.hub(&home);
        let bare = |hub: &Hub| Source::resolve_without_weights_with("org/name", hub, &mut |_| ());
        assert!(matches!(error(&hub), SourceError::NoSafetensors { .. }));
        let snapshot = hub.cache.join("models--org--name/snapshots").join(OLD);
        let source = Source::Folder(snapshot.clone());
        assert_eq!(bare(&hub).unwrap(), source);
        let is_there = |name: &str| snapshot.join(name).is_file();
        assert!(is_there("config.json") && is_there("tokenizer.json") && !is_there("pytorch_model.bin"));
        assert_eq!(bare(&offline(&hub)).unwrap(), source, "and is found again where there is no net");

        // What is there whole goes on to be what the branch means.
        let (server, home) = (Server::sharded(), TempDir::new().unwrap());
        let hub = server.hub(&home);
        let whole = resolve("org/name", &hub).unwrap();
        server.set(|state| state.commit = NEW);
        assert_ne!(bare(&hub).unwrap(), whole);
        assert_eq!(resolve("org/name", &offline(&hub)).unwrap(), whole);
    }

    #[test]
    fn a_repository_without_configuration_has_no_shape() {
        let server = Server::start(&[("adapter_config.json", "{}")]);
        let home = TempDir::new().unwrap();
        let error = Source::resolve_shape_with("org/name", &server.hub(&home), &mut |_| ()).unwrap_err();
        assert!(matches!(error, SourceError::NoConfig { .. }), "{error}");
        assert!(hint(&error).contains("adapter"), "{}", hint(&error));
    }

    #[test]
    fn a_sharded_model_is_downloaded_once_and_then_works_offline() {
        let (server, home) = (Server::sharded(), TempDir::new().unwrap());
        let hub = server.hub(&home);
        let mut lines = Vec::new();
        let source = Source::resolve_with("org/name", &hub, &mut |line| lines.push(line.to_owned())).unwrap();

        let snapshot = hub.cache.join("models--org--name/snapshots").join(OLD);
        assert_eq!(source, Source::Folder(snapshot.clone()));
        let mut names: Vec<String> = fs::read_dir(&snapshot)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let expected = ["chat_template.jinja", "config.json", FIRST, SECOND];
        assert_eq!(names, [&expected[..], &["model.safetensors.index.json", "tokenizer.json"]].concat());
        assert_eq!(fs::read_to_string(snapshot.join(SECOND)).unwrap(), "second".repeat(1000));
        assert_eq!(fs::read_to_string(hub.cache.join("models--org--name/refs/main")).unwrap(), OLD);
        assert!(lines.iter().any(|line| line.contains(FIRST) && line.contains("of 5 kB")), "{lines:?}");

        // Again: only the listing is asked for; offline not even that.
        let before = server.requests().len();
        assert_eq!(resolve("org/name", &hub).unwrap(), source);
        assert_eq!(server.requests().len(), before + 1);
        assert_eq!(resolve("org/name", &offline(&hub)).unwrap(), source);
        // A commit never changes.
        assert_eq!(resolve(&format!("org/name@{OLD}"), &hub).unwrap(), source);
        assert_eq!(server.requests().len(), before + 1);

        // The hub is away, but nobody said so.
        let away = Hub { offline: false, ..offline(&hub) };
        let mut lines = Vec::new();
        let found = Source::resolve_with("org/name", &away, &mut |line| lines.push(line.to_owned()));
        assert_eq!(found.unwrap(), source);
        assert!(lines[0].contains("the copy in the cache"), "{lines:?}");
    }

    #[test]
    fn a_new_commit_brings_only_what_changed() {
        let (server, home) = (Server::sharded(), TempDir::new().unwrap());
        let hub = server.hub(&home);
        let old = resolve("org/name", &hub).unwrap();
        server.set(|state| {
            state.commit = NEW;
            state.requests.clear();
            state.files.insert("tokenizer.json".to_owned(), b"{\"t\": 22}".to_vec());
        });
        let new = resolve("org/name", &hub).unwrap();
        assert!(new.path().ends_with(NEW));
        assert_eq!(fs::read(new.path().join(FIRST)).unwrap(), fs::read(old.path().join(FIRST)).unwrap());
        assert_eq!(fs::read_to_string(new.path().join("tokenizer.json")).unwrap(), "{\"t\": 22}");
        assert!(server.requests().iter().all(|request| !request.path.ends_with(".safetensors")));
        assert_eq!(resolve("org/name", &offline(&hub)).unwrap(), new);
    }

    #[test]
    fn a_broken_connection_is_gone_on_with() {
        let (server, home) = (Server::sharded(), TempDir::new().unwrap());
        server.set(|state| state.breaks = 1);
        let source = resolve("org/name", &server.hub(&home)).unwrap();
        assert_eq!(fs::read_to_string(source.path().join(FIRST)).unwrap(), "first".repeat(1000));
        let resumed = server.requests().iter().any(|request| request.range == Some(2500));
        assert!(resumed, "the second attempt starts where the first one broke");
    }

    #[test]
    fn a_server_without_ranges_sends_all_again() {
        let (server, home) = (Server::sharded(), TempDir::new().unwrap());
        server.set(|state| (state.breaks, state.ignores_ranges) = (1, true));
        let source = resolve("org/name", &server.hub(&home)).unwrap();
        assert_eq!(fs::read_to_string(source.path().join(FIRST)).unwrap(), "first".repeat(1000));
    }

    #[test]
    fn half_a_download_is_never_taken_for_a_model() {
        let (server, home) = (Server::sharded(), TempDir::new().unwrap());
        let hub = server.hub(&home);
        server.set(|state| state.breaks = usize::MAX);
        let broken = error(&hub);
        assert!(broken.to_string().contains(FIRST), "{broken}");
        assert!(hint(&broken).contains("what has arrived is kept"), "{}", hint(&broken));
        assert!(matches!(error(&offline(&hub)), SourceError::NotCached { .. }));
        // By its commit the half is known, and found to be one.
        let half = resolve(&format!("org/name@{OLD}"), &offline(&hub)).unwrap_err();
        assert!(half.to_string().contains(FIRST), "{half}");

        server.set(|state| (state.breaks, state.cuts) = (0, true));
        fs::remove_dir_all(&hub.cache).unwrap();
        let short = error(&hub);
        assert!(short.to_string().contains("4999 bytes where 5000 were promised"), "{short}");
        assert!(matches!(error(&offline(&hub)), SourceError::NotCached { .. }));

        server.set(|state| state.cuts = false);
        let source = resolve("org/name", &hub).unwrap();
        assert_eq!(fs::read_to_string(source.path().join(FIRST)).unwrap(), "first".repeat(1000));

        // Content that is lost or cut later is brought anew; so is a partial file that has no rest.
        let blob = fs::canonicalize(source.path().join(SECOND)).unwrap();
        fs::remove_file(&blob).unwrap();
        let lost = error(&offline(&hub));
        assert!(lost.to_string().contains(SECOND), "{lost}");
        fs::write(blob.with_extension("part"), "x".repeat(6000)).unwrap();
        fs::write(source.path().join(FIRST), "cut").unwrap();
        resolve("org/name", &hub).unwrap();
        assert_eq!(fs::read_to_string(source.path().join(FIRST)).unwrap(), "first".repeat(1000));
        assert_eq!(fs::read_to_string(source.path().join(SECOND)).unwrap(), "second".repeat(1000));
    }

    #[test]
    fn weights_on_another_host_arrive_and_mirrors_need_not_tell_sizes() {
        let (server, home) = (Server::sharded(), TempDir::new().unwrap());
        server.set(|state| (state.redirects, state.bare_listing) = (true, true));
        let hub = Hub { token: Some("hf_secret".to_owned()), ..server.hub(&home) };
        let source = resolve("org/name", &hub).unwrap();
        assert_eq!(fs::read_to_string(source.path().join(SECOND)).unwrap(), "second".repeat(1000));
        let requests = server.requests();
        assert!(requests.iter().any(|request| request.host.starts_with("localhost")));
        for request in requests.iter().filter(|request| request.path.starts_with("/api/")) {
            assert_eq!(request.authorization.as_deref(), Some("Bearer hf_secret"));
        }
    }

    #[test]
    fn an_unreachable_hub_is_told_soon() {
        let home = TempDir::new().unwrap();
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let server = Server::sharded();
        let hub = Hub { timeout: Duration::from_secs(1), ..server.hub(&home) };
        for endpoint in [
            format!("http://{}", silent.local_addr().unwrap()),
            format!("http://{closed}"),
            "not an address".to_owned(),
        ] {
            let started = Instant::now();
            let error = error(&Hub { endpoint: endpoint.clone(), ..hub.clone() });
            assert!(started.elapsed() < Duration::from_secs(4));
            assert!(error.to_string().contains(&format!("no answer from {endpoint}")), "{error}");
            assert!(hint(&error).contains("HF_ENDPOINT"), "{}", hint(&error));
        }
    }

    #[test]
    fn refusals_say_what_to_do() {
        let (server, home) = (Server::sharded(), TempDir::new().unwrap());
        let hub = server.hub(&home);
        let with_token = Hub { token: Some("hf_secret".to_owned()), ..hub.clone() };

        server.set(|state| state.status = Some((401, "RepoNotFound")));
        assert!(error(&hub).to_string().contains("refuses access (HTTP 401)"));
        let page = format!("{}/org/name", hub.endpoint);
        assert!(hint(&error(&hub)).contains(&format!("{page} and set HF_TOKEN")));
        let refused = error(&with_token);
        assert!(hint(&refused).contains("use another token"), "{}", hint(&refused));
        assert!(!format!("{refused} {refused:?} {}", hint(&refused)).contains("hf_secret"));

        server.set(|state| state.status = Some((404, "RepoNotFound")));
        let missing = error(&hub);
        assert!(missing.to_string().starts_with("org/name: no such model at http"), "{missing}");
        assert!(hint(&missing).contains("spelling"));
        server.set(|state| state.status = Some((404, "RevisionNotFound")));
        let missing = resolve("org/name@dev", &hub).unwrap_err();
        assert!(missing.to_string().starts_with("org/name@dev: no such revision"), "{missing}");

        server.set(|state| state.status = Some((503, "")));
        assert!(hint(&error(&hub)).contains("later"));

        // A gated model: its listing is public, its files are not.
        server.set(|state| {
            state.status = None;
            state.file_status.insert("config.json".to_owned(), 403);
        });
        let gated = error(&hub);
        assert!(gated.to_string().starts_with("org/name/config.json"), "{gated}");
        assert!(hint(&gated).contains(&format!("{page} and set HF_TOKEN")), "{}", hint(&gated));
    }

    #[test]
    fn optional_files_may_be_listed_and_absent() {
        let (server, home) = (Server::sharded(), TempDir::new().unwrap());
        server.set(|state| {
            state.file_status.insert("tokenizer.json".to_owned(), 404);
            state.files.insert("special_tokens_map.json".to_owned(), Vec::new());
        });
        let source = resolve("org/name", &server.hub(&home)).unwrap();
        assert!(!source.path().join("tokenizer.json").exists());
        assert!(source.path().join(SECOND).exists());
    }

    #[test]
    fn offline_and_not_cached_is_told_without_asking() {
        let (server, home) = (Server::sharded(), TempDir::new().unwrap());
        let hub = Hub { offline: true, ..server.hub(&home) };
        let error = error(&hub);
        assert!(error.to_string().contains("HF_HUB_OFFLINE is set"), "{error}");
        assert!(hint(&error).contains("unset HF_HUB_OFFLINE"));
        assert!(server.requests().is_empty());
    }

    #[test]
    fn an_index_that_cannot_be_followed_is_an_error() {
        let home = TempDir::new().unwrap();
        let with_shard = |shard: &str| {
            let index = format!(r#"{{"weight_map": {{"a": {shard:?}}}}}"#);
            let files =
                [("config.json", "{}"), ("model.safetensors.index.json", index.as_str()), (shard, "evil")];
            let hub = Server::start(&files).hub(&home);
            let _ = fs::remove_dir_all(&hub.cache);
            let error = error(&hub);
            assert!(!home.path().join("evil").exists());
            error.to_string()
        };
        for evil in ["../../../../evil", "sub/evil", "/evil", "..", "a\\evil", "C:evil"] {
            let text = with_shard(evil);
            assert!(text.contains("not a plain file name"), "{text}");
        }

        let server = Server::sharded();
        server.set(|state| drop(state.files.remove(SECOND)));
        let hub = server.hub(&home);
        let _ = fs::remove_dir_all(&hub.cache);
        let lacking = error(&hub);
        assert!(lacking.to_string().contains(&format!("names {SECOND}, which")), "{lacking}");
        assert!(!server.requests().iter().any(|request| request.path.ends_with(FIRST)));
    }

    #[test]
    fn other_kinds_of_repositories_say_the_way_out() {
        let home = TempDir::new().unwrap();
        let ggufs = Server::start(&[("README.md", ""), ("x.Q4_0.gguf", "GGUF"), ("x.Q8_0.gguf", "GGUF!")]);
        let hub = ggufs.hub(&home);
        let only_gguf = error(&hub);
        assert!(only_gguf.to_string().contains("only x.Q4_0.gguf, x.Q8_0.gguf"), "{only_gguf}");
        assert_eq!(hint(&only_gguf), "name one of its files: model org/name/x.Q4_0.gguf");
        let source = resolve("org/name/x.Q8_0.gguf", &hub).unwrap();
        assert_eq!(source, resolve("org/name/x.Q8_0.gguf", &offline(&hub)).unwrap());
        assert!(matches!(&source, Source::Gguf(path) if fs::read(path).unwrap() == b"GGUF!"));
        let missing = resolve("org/name/y.gguf", &hub).unwrap_err();
        assert!(missing.to_string().starts_with("org/name/y.gguf: no such file at"), "{missing}");

        let hub = Server::start(&[("config.json", "{}"), ("pytorch_model.bin", "pickle")]).hub(&home);
        let pickle = error(&hub);
        assert!(pickle.to_string().contains("only pytorch_model.bin"), "{pickle}");
        assert!(hint(&pickle).contains("save_pretrained"), "{}", hint(&pickle));

        let files = [("adapter_config.json", "{}"), ("adapter_model.safetensors", "x")];
        let adapter = error(&Server::start(&files).hub(&home));
        assert!(adapter.to_string().starts_with("org/name: no config.json"), "{adapter}");
        assert!(hint(&adapter).contains("pass its base model"), "{}", hint(&adapter));
    }

    #[test]
    fn all_parts_of_a_split_file_and_all_templates_arrive() {
        let parts = ["q/x-00001-of-00002.gguf", "q/x-00002-of-00002.gguf"];
        let home = TempDir::new().unwrap();
        let hub = Server::start(&[(parts[0], "GGUF1"), (parts[1], "GGUF2"), ("x.gguf", "GGUF")]).hub(&home);
        let Source::Gguf(path) = resolve(&format!("org/name/{}", parts[1]), &hub).unwrap() else { panic!() };
        for (part, content) in parts.iter().zip(["GGUF1", "GGUF2"]) {
            assert_eq!(fs::read_to_string(path.parent().unwrap().join(&part[2..])).unwrap(), content);
        }
        assert!(resolve(&format!("org/name/{}", parts[0]), &offline(&hub)).is_ok());
        let home = TempDir::new().unwrap();
        let hub = Server::start(&[(parts[0], "GGUF1")]).hub(&home);
        let missing = resolve(&format!("org/name/{}", parts[0]), &hub).unwrap_err();
        assert!(
            missing.to_string().starts_with("org/name/q/x-00002-of-00002.gguf: no such file"),
            "{missing}"
        );

        let templates = ["additional_chat_templates/tool_use.jinja", "chat_template.json"];
        let files =
            [("config.json", "{}"), ("tokenizer.json", "{}"), (templates[0], "T"), (templates[1], "{}")];
        let (server, home) = (Server::start(&files), TempDir::new().unwrap());
        let source =
            Source::resolve_without_weights_with("org/name", &server.hub(&home), &mut |_| ()).unwrap();
        assert!(templates.iter().all(|name| source.path().join(name).is_file()));
    }

    #[test]
    fn of_a_data_set_the_files_that_are_chosen_arrive() {
        let (train, test) = ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet");
        let server = Server::start(&[(train, "rows"), (test, "others"), ("README.md", "about")]);
        server.set(|state| state.kind = "datasets");
        let home = TempDir::new().unwrap();
        let hub = server.hub(&home);
        let fetch = |hub: &Hub, id: &str, wanted: &str| {
            let choose = |names: Vec<String>| {
                assert_eq!(names, ["README.md", test, train]);
                Ok::<_, SourceError>(vec![wanted.to_owned()])
            };
            hub.fetch_data_set(id, choose, &mut |_| ())
        };
        let snapshot = hub.cache.join("datasets--org--name/snapshots").join(OLD);
        assert_eq!(fetch(&hub, "org/name", train).unwrap(), snapshot);
        assert_eq!(fs::read_to_string(snapshot.join(train)).unwrap(), "rows");
        assert!(!snapshot.join(test).exists());
        // Another split joins it, and what is there is not brought again.
        let before = server.requests().len();
        assert_eq!(fetch(&hub, "org/name", train).unwrap(), snapshot);
        assert_eq!(server.requests().len(), before + 1);
        assert_eq!(fetch(&hub, "org/name@main", test).unwrap(), snapshot);
        assert_eq!(fs::read_to_string(snapshot.join(test)).unwrap(), "others");
        // Offline, and when the hub is away, what is there is taken.
        assert_eq!(fetch(&offline(&hub), "org/name", train).unwrap(), snapshot);
        assert_eq!(fetch(&Hub { offline: false, ..offline(&hub) }, "org/name", train).unwrap(), snapshot);
        let elsewhere = TempDir::new().unwrap();
        let error = fetch(&offline(&server.hub(&elsewhere)), "org/name", train).unwrap_err();
        assert!(matches!(error, SourceError::NotCached { .. }), "{error}");
        // What `choose` says goes, and what the hub says.
        let refuse = |_| Err(SourceError::NotFound { model: "none".into() });
        let error = hub.fetch_data_set("org/name", refuse, &mut |_| ()).unwrap_err();
        assert_eq!(error.to_string(), "none: no such file or folder");
        server.set(|state| state.status = Some((404, "RepoNotFound")));
        let error = fetch(&hub, "org/name", train).unwrap_err();
        assert!(error.to_string().starts_with("org/name: no such data set at http://127.0.0.1:"), "{error}");
    }
}
