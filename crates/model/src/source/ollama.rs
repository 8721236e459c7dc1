//! `ollama://model:tag`: the GGUF file that Ollama keeps under this name on this machine. Nothing is downloaded.
//!
//! A name is `[[host/]namespace/]model[:tag]`; what is missing is `registry.ollama.ai`, `library` and `latest`. Its manifest,
//! `manifests/HOST/NAMESPACE/MODEL/TAG` of the store, is JSON with layers by media type, each the file
//! `blobs/sha256-HEX`. Source: Ollama, `types/model/name.go`, `manifest/paths.go`, `server/images.go`.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use serde_json::Value;

use super::{Source, SourceError};

/// What such names begin with.
pub(super) const SCHEME: &str = "ollama://";
/// Manifests have about a kilobyte.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// How media types begin.
const LAYER: &str = "application/vnd.ollama.image.";

/// A name, whole.
struct Name<'a> {
    host: &'a str,
    namespace: &'a str,
    model: &'a str,
    tag: &'a str,
}

impl<'a> Name<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        // A host may have a port.
        let (path, tag) = match text.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (text, "latest"),
        };
        let parts: Vec<&str> = path.split('/').collect();
        let (host, namespace, model) = match parts[..] {
            [model] => ("registry.ollama.ai", "library", model),
            [namespace, model] => ("registry.ollama.ai", namespace, model),
            [host, namespace, model] => (host, namespace, model),
            _ => return None,
        };
        let is_valid = |part: &str| {
            let first = part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
            first && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:".contains(&b))
        };
        let whole = Name { host, namespace, model, tag };
        [host, namespace, model, tag].into_iter().all(is_valid).then_some(whole)
    }

    fn manifest(&self, store: &Path) -> PathBuf {
        let Name { host, namespace, model, tag } = self;
        store.join("manifests").join(host).join(namespace).join(model).join(tag)
    }
}

/// The file of `model`, which begins with [`SCHEME`]; `tell` gets what is left of what Ollama has of it.
pub(super) fn find(model: &str, tell: &mut dyn FnMut(&str)) -> Result<Source, SourceError> {
    find_in(&stores(), model, tell)
}

/// Where Ollama keeps models: `OLLAMA_MODELS`, or in the home of the user or of the service on Linux.
fn stores() -> Vec<PathBuf> {
    if let Some(set) = env::var_os("OLLAMA_MODELS").filter(|set| !set.is_empty()) {
        return vec![set.into()];
    }
    let home = env::var_os("HOME").or_else(|| env::var_os("USERPROFILE"));
    let of_user = home.map(|home| PathBuf::from(home).join(".ollama/models"));
    let of_service = cfg!(target_os = "linux").then(|| PathBuf::from("/usr/share/ollama/.ollama/models"));
    of_user.into_iter().chain(of_service).collect()
}

fn find_in(stores: &[PathBuf], model: &str, tell: &mut dyn FnMut(&str)) -> Result<Source, SourceError> {
    let text = model.strip_prefix(SCHEME).unwrap_or(model);
    let name = Name::parse(text).ok_or_else(|| SourceError::NotOllama {
        model: model.to_owned(),
        found: Vec::new(),
        stores: Vec::new(),
    })?;
    for store in stores {
        let path = name.manifest(store);
        match read_manifest(&path) {
            Ok(manifest) => return blob(model, store, &path, &manifest, tell),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(source) => return Err(SourceError::Io { path, source }),
        }
    }
    let found = stores.iter().flat_map(|store| names(&store.join("manifests"))).collect();
    Err(SourceError::NotOllama { model: model.to_owned(), found, stores: stores.to_vec() })
}

fn read_manifest(path: &Path) -> io::Result<Value> {
    let bytes = fs::metadata(path)?.len();
    if bytes > MAX_MANIFEST_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it has {bytes} bytes, which no manifest has"),
        ));
    }
    serde_json::from_str(&fs::read_to_string(path)?)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("no manifest of Ollama: {e}")))
}

/// The file that a manifest says.
fn blob(
    model: &str,
    store: &Path,
    path: &Path,
    manifest: &Value,
    tell: &mut dyn FnMut(&str),
) -> Result<Source, SourceError> {
    let wrong = |problem: &str| SourceError::BadOllama { path: path.to_owned(), problem: problem.to_owned() };
    let layers =
        manifest.get("layers").and_then(Value::as_array).ok_or_else(|| wrong("it has no `layers`"))?;
    let kind = |layer: &Value| layer.get("mediaType")?.as_str()?.strip_prefix(LAYER).map(str::to_owned);
    let has = |wanted: &str| layers.iter().any(|layer| kind(layer).as_deref() == Some(wanted));
    if has("adapter") {
        return Err(wrong("the model has an adapter of its own, without which it would be another"));
    }
    let mut weights = layers.iter().filter(|layer| kind(layer).as_deref() == Some("model"));
    let (Some(layer), None) = (weights.next(), weights.next()) else {
        return Err(wrong("it does not name one GGUF file of weights"));
    };
    let digest =
        layer.get("digest").and_then(Value::as_str).and_then(|digest| digest.strip_prefix("sha256:"));
    let digest = digest.filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
    let digest = digest.ok_or_else(|| wrong("`digest` of the model is not a sha256"))?;
    let file = store.join("blobs").join(format!("sha256-{digest}"));
    if !file.is_file() {
        return Err(wrong(&format!("the file it names, {}, is not there", file.display())));
    }
    let others = ["template", "system", "params", "messages", "projector"];
    let others: Vec<&str> = others.into_iter().filter(|kind| has(kind)).collect();
    let others = match others.is_empty() {
        true => String::new(),
        false => format!(
            "; what Ollama has beside it ({}) is not read: the chat template is that of the file, or one that is given",
            others.join(", ")
        ),
    };
    tell(&format!("{model} is {}{others}", file.display()));
    Ok(Source::Gguf(file))
}

/// The names that a store has, as Ollama shows them.
fn names(manifests: &Path) -> Vec<String> {
    let entries = |dir: &Path| -> Vec<(String, PathBuf)> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let mut found: Vec<_> = entries
            .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
            .filter(|(name, _)| !name.starts_with('.'))
            .collect();
        found.sort();
        found
    };
    let mut names = Vec::new();
    for (host, dir) in entries(manifests) {
        for (namespace, dir) in entries(&dir) {
            for (model, dir) in entries(&dir) {
                names.extend(entries(&dir).into_iter().map(|(tag, _)| match (&host[..], &namespace[..]) {
                    ("registry.ollama.ai", "library") => format!("{model}:{tag}"),
                    ("registry.ollama.ai", _) => format!("{namespace}/{model}:{tag}"),
                    _ => format!("{host}/{namespace}/{model}:{tag}"),
                }));
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    /// A store with one model, whose manifest has these layers.
    fn store(name: &str, layers: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let manifest = Name::parse(name).unwrap().manifest(dir.path());
        fs::create_dir_all(manifest.parent().unwrap()).unwrap();
        fs::write(manifest, format!("{{\"schemaVersion\": 2, \"layers\": [{layers}]}}")).unwrap();
        fs::create_dir(dir.path().join("blobs")).unwrap();
        fs::write(dir.path().join(format!("blobs/sha256-{HEX}")), "GGUF").unwrap();
        dir
    }

    fn layer(kind: &str) -> String {
        format!("{{\"mediaType\": \"{LAYER}{kind}\", \"digest\": \"sha256:{HEX}\", \"size\": 4}}")
    }

    fn find(dir: &Path, model: &str) -> Result<(Source, String), SourceError> {
        let mut told = String::new();
        let source = find_in(&[dir.to_owned()], model, &mut |text| told += text)?;
        Ok((source, told))
    }

    #[test]
    fn a_name_is_the_file_of_its_model_layer() {
        let all = [layer("model"), layer("template"), layer("params")].join(",");
        for (stored, asked) in [
            ("smollm2:135m", "ollama://smollm2:135m"),
            ("smollm2", "ollama://smollm2:latest"),
            ("smollm2:latest", "ollama://smollm2"),
            ("someone/tuned:v2", "ollama://someone/tuned:v2"),
            ("hf.co/org/Repo-GGUF:Q4_K_M", "ollama://hf.co/org/Repo-GGUF:Q4_K_M"),
            ("localhost:5000/a/b", "ollama://localhost:5000/a/b"),
        ] {
            let dir = store(stored, &all);
            let file = dir.path().join(format!("blobs/sha256-{HEX}"));
            let (source, told) = find(dir.path(), asked).unwrap();
            assert_eq!(source, Source::Gguf(file), "{asked}");
            assert!(told.contains("(template, params) is not read"), "{told}");
        }
    }

    #[test]
    fn what_is_not_there_is_an_error_that_says_what_is() {
        let dir = store("smollm2:135m", &layer("model"));
        let error = find(dir.path(), "ollama://smollm2:360m").unwrap_err();
        assert_eq!(
            error.to_string(),
            "ollama://smollm2:360m: Ollama has no such model here, only smollm2:135m"
        );
        assert!(error.hint().unwrap().to_string().contains("ollama pull smollm2:360m"), "{:?}", error.hint());
        let empty = tempfile::tempdir().unwrap();
        let error = find(empty.path(), "ollama://smollm2").unwrap_err();
        assert!(error.to_string().contains("Ollama has no models"), "{error}");
        assert!(error.hint().unwrap().to_string().contains("OLLAMA_MODELS"), "{:?}", error.hint());
        for name in ["ollama://", "ollama://../x", "ollama://a/b/c/d", "ollama://a:", "ollama:///etc/passwd"]
        {
            let error = find(dir.path(), name).unwrap_err();
            assert!(matches!(error, SourceError::NotOllama { .. }), "{name}: {error}");
        }
    }

    #[test]
    fn a_manifest_that_is_no_single_gguf_file_is_refused() {
        for (layers, problem) in [
            (String::new(), "does not name one GGUF file"),
            ([layer("model"), layer("model")].join(","), "does not name one GGUF file"),
            ([layer("model"), layer("adapter")].join(","), "an adapter of its own"),
            (layer("model").replace("sha256:0", "sha256:../"), "is not a sha256"),
            (layer("model").replace("sha256:0", "sha256:f"), "is not there"),
            ("]".to_owned(), "no manifest of Ollama"),
        ] {
            let dir = store("m", &layers);
            let error = find(dir.path(), "ollama://m").unwrap_err().to_string();
            assert!(error.contains(problem), "{layers}: {error}");
        }
    }
}
