//! Where a model's files are: turns what a user calls a model into a folder or a `.gguf` file.
//!
//! In this order: a name of Ollama (`ollama://model:tag`), what exists on this machine, then a hub id. A hub id is `org/name`, or
//! `org/name/file.gguf` for one GGUF file of a repository, with `@revision` (branch, tag or commit) after
//! either. Only names and presence are looked at here; what the files say is for those who read them.

#[cfg(feature = "hub")]
mod hub;
mod ollama;

use std::path::{Path, PathBuf};
use std::{fs, io};

#[cfg(feature = "hub")]
pub use hub::Hub;

use lorafit_remedy::{Remedy, Setting, nearby, remedy};

use crate::files::{ADAPTER_CONFIG, is_gguf};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Where the shape of a model is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShapeSource {
    /// All files of the model are on this machine.
    Model(Source),
    /// The `config.json` of a model without its weights: of a folder that has none, or of the hub.
    Config(PathBuf),
}

/// A model on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A Hugging Face model folder: it has a `config.json`.
    Folder(PathBuf),
    /// A `.gguf` file.
    Gguf(PathBuf),
}

impl Source {
    /// Finds `model`: a model folder, a `.gguf` file, or a hub id, which is looked up and downloaded as
    /// `HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE` say.
    ///
    /// `progress` gets a line of text at most a few times a second, each replacing the one before; none
    /// when nothing has to be downloaded, but for what a name of Ollama stands for.
    ///
    /// # Errors
    /// Neither exists, or what exists is not a model; everything that can go wrong with a download.
    pub fn resolve(model: &str, progress: &mut dyn FnMut(&str)) -> Result<Self, SourceError> {
        #[cfg(feature = "hub")]
        return Source::resolve_with(model, &Hub::from_env(), progress);
        #[cfg(not(feature = "hub"))]
        {
            match Source::local(model, progress)? {
                Some(source) => Ok(source),
                None => {
                    HubId::parse(model)?;
                    Err(SourceError::NoHubSupport { model: model.to_owned() })
                }
            }
        }
    }

    /// [`Source::resolve`] with the hub's settings given instead of read from the environment.
    ///
    /// # Errors
    /// As [`Source::resolve`].
    #[cfg(feature = "hub")]
    pub fn resolve_with(model: &str, hub: &Hub, progress: &mut dyn FnMut(&str)) -> Result<Self, SourceError> {
        match Source::local(model, progress)? {
            Some(source) => Ok(source),
            None => hub.fetch(&HubId::parse(model)?, progress),
        }
    }

    /// As [`Source::resolve`], for who asks no more than the shape of a model: of one that is only on the hub,
    /// `config.json` is downloaded and nothing else. (A GGUF file of the hub comes whole: its shape is in its header.)
    ///
    /// # Errors
    /// As [`Source::resolve`].
    pub fn resolve_shape(model: &str, progress: &mut dyn FnMut(&str)) -> Result<ShapeSource, SourceError> {
        #[cfg(feature = "hub")]
        return Source::resolve_shape_with(model, &Hub::from_env(), progress);
        #[cfg(not(feature = "hub"))]
        Source::resolve(model, progress).map(Source::shape)
    }

    /// [`Source::resolve_shape`] with the hub's settings given instead of read from the environment.
    ///
    /// # Errors
    /// As [`Source::resolve`].
    #[cfg(feature = "hub")]
    pub fn resolve_shape_with(
        model: &str,
        hub: &Hub,
        progress: &mut dyn FnMut(&str),
    ) -> Result<ShapeSource, SourceError> {
        match Source::local(model, progress)? {
            Some(source) => Ok(source.shape()),
            None => hub.fetch_shape(&HubId::parse(model)?, progress),
        }
    }

    /// As [`Source::resolve`], for who needs no weights: the folder may lack them, and of a model that is only on the hub
    /// configuration and tokenizer are downloaded. (A GGUF file of the hub comes whole.)
    ///
    /// # Errors
    /// As [`Source::resolve`].
    pub fn resolve_without_weights(model: &str, progress: &mut dyn FnMut(&str)) -> Result<Self, SourceError> {
        #[cfg(feature = "hub")]
        return Source::resolve_without_weights_with(model, &Hub::from_env(), progress);
        #[cfg(not(feature = "hub"))]
        Source::resolve(model, progress)
    }

    /// [`Source::resolve_without_weights`] with the hub's settings given instead of read from the environment.
    ///
    /// # Errors
    /// As [`Source::resolve`].
    #[cfg(feature = "hub")]
    pub fn resolve_without_weights_with(
        model: &str,
        hub: &Hub,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Self, SourceError> {
        match Source::local(model, progress)? {
            Some(source) => Ok(source),
            None => hub.fetch_without_weights(&HubId::parse(model)?, progress),
        }
    }

    /// Where its shape is told.
    fn shape(self) -> ShapeSource {
        match &self {
            Source::Folder(path) if !path.join(WEIGHTS).is_file() && !path.join(INDEX).is_file() => {
                ShapeSource::Config(path.join(CONFIG))
            }
            Source::Folder(_) | Source::Gguf(_) => ShapeSource::Model(self),
        }
    }

    /// The folder or the file.
    pub fn path(&self) -> &Path {
        match self {
            Source::Folder(path) | Source::Gguf(path) => path,
        }
    }

    /// `model` as a path of this machine, or a name of Ollama; `None` if there is nothing of that name.
    fn local(model: &str, tell: &mut dyn FnMut(&str)) -> Result<Option<Self>, SourceError> {
        if model.starts_with(ollama::SCHEME) {
            return ollama::find(model, tell).map(Some);
        }
        let path = PathBuf::from(model);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => folder(path).map(Some),
            Ok(_) if is_gguf(model) => Ok(Some(Source::Gguf(path))),
            Ok(_) => Err(SourceError::NotAModel { path }),
            Err(error) => match error.kind() {
                // NotADirectory: `file/name`; InvalidInput: a NUL byte.
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidInput => {
                    Ok(None)
                }
                _ => Err(SourceError::Io { path, source: error }),
            },
        }
    }
}

/// Whether `model` is the name of a whole model on the hub, `org/name` or `org/name@revision`, and of nothing on this machine.
pub fn is_hub_id(model: &str) -> bool {
    let path = model.split_once('@').map_or(model, |(name, _)| name);
    !Path::new(model).exists()
        && !Path::new(path).exists()
        && HubId::read(model).is_some_and(|id| id.kind == RepoKind::Model && id.gguf.is_none())
}

fn folder(path: PathBuf) -> Result<Source, SourceError> {
    if path.join(CONFIG).is_file() {
        return Ok(Source::Folder(path));
    }
    let entries = fs::read_dir(&path).map_err(|source| SourceError::Io { path: path.clone(), source })?;
    let mut files: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    files.sort();
    Err(SourceError::NoConfig { place: path.display().to_string(), files })
}

/// What a repository of the hub holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "hub"), allow(dead_code, reason = "without a hub only parsed"))]
enum RepoKind {
    Model,
    DataSet,
}

/// A repository of the hub at a revision, and at most one file of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "hub"), allow(dead_code, reason = "without a hub only parsed"))]
struct HubId {
    kind: RepoKind,
    repo: String,
    revision: String,
    /// A GGUF file of the repository; `None` asks for the safetensors model.
    gguf: Option<String>,
}

impl HubId {
    /// Reads `org/name[/file.gguf][@revision]`. Whatever else does not exist is a path that was meant.
    fn parse(model: &str) -> Result<Self, SourceError> {
        HubId::read(model).ok_or_else(|| SourceError::NotFound { model: model.to_owned() })
    }

    fn read(model: &str) -> Option<Self> {
        let (id, revision) = model.split_once('@').unwrap_or((model, "main"));
        let mut parts = id.splitn(3, '/');
        let (org, name, file) = (parts.next()?, parts.next()?, parts.next());
        let part_is_valid = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        // Both become paths in the cache and parts of an address.
        let path_is_valid = |path: &str| path.split('/').all(part_is_valid);
        let file_is_valid = |file: &str| {
            // In `runs/base/x.gguf` with a folder `runs` here, a file here was meant.
            is_gguf(file) && path_is_valid(file) && !Path::new(org).exists()
        };
        // `models/x.gguf` is a file that is not here, never a repository.
        (part_is_valid(org)
            && part_is_valid(name)
            && (file.is_some() || !is_gguf(name))
            && path_is_valid(revision)
            && file.is_none_or(file_is_valid))
        .then(|| HubId {
            kind: RepoKind::Model,
            repo: format!("{org}/{name}"),
            revision: revision.to_owned(),
            gguf: file.map(str::to_owned),
        })
    }
}

/// A model that cannot be found or fetched: what, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Neither a path nor a hub id.
    #[error("{model}: no such file or folder")]
    NotFound {
        /// What was asked for.
        model: String,
    },
    /// A file of another kind.
    #[error("{}: neither a model folder nor a .gguf file", path.display())]
    NotAModel {
        /// The file.
        path: PathBuf,
    },
    /// A folder or a repository that is not a model's.
    #[error("{place}: no {CONFIG}, which every model has")]
    NoConfig {
        /// The folder or the repository.
        place: String,
        /// The names it has instead.
        files: Vec<String>,
    },
    /// A file or folder of this machine that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A hub id in a build without the feature `hub`.
    #[error("{model}: no such file or folder, and this build has no hub support")]
    NoHubSupport {
        /// What was asked for.
        model: String,
    },
    /// The hub, or where it keeps the files, does not answer.
    #[error("{what}: no answer from {endpoint}: {cause}")]
    Unreachable {
        /// The repository or file.
        what: String,
        /// The hub's address.
        endpoint: String,
        /// Why.
        cause: String,
    },
    /// The hub wants somebody else.
    #[error("{what}: {endpoint} refuses access (HTTP {status})")]
    Denied {
        /// The repository or file.
        what: String,
        /// The hub's address.
        endpoint: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        had_token: bool,
    },
    /// The hub has no such repository, revision or file.
    #[error("{what}: no such {kind} at {endpoint}, nor a file or folder of that name here")]
    Missing {
        /// What was asked for.
        what: String,
        /// "model", "data set", "revision", "file".
        kind: &'static str,
        /// The hub's address.
        endpoint: String,
    },
    /// The hub answers, but not what it should.
    #[error("{what}: unexpected answer from {endpoint}: {answer}")]
    UnexpectedAnswer {
        /// The repository or file.
        what: String,
        /// The hub's address.
        endpoint: String,
        /// The answer.
        answer: String,
        /// Whether asking again later may help.
        passing: bool,
    },
    /// Told to stay offline, and the cache does not have it all.
    #[error("{model}: {missing} is not in the cache {} and HF_HUB_OFFLINE is set", cache.display())]
    NotCached {
        /// What was asked for.
        model: String,
        /// What the cache lacks.
        missing: String,
        /// The cache that was looked at.
        cache: PathBuf,
    },
    /// A repository whose weights have no form that can be read.
    #[error("{repo}: no safetensors weights, only {}", list(found))]
    NoSafetensors {
        /// The repository.
        repo: String,
        /// Its files of weights.
        found: Vec<String>,
    },
    /// Not a name of Ollama, or of no model that it has here.
    #[error("{model}: {}", not_ollama(found, stores))]
    NotOllama {
        /// What was asked for.
        model: String,
        /// The names that it has.
        found: Vec<String>,
        /// Where was looked; nowhere if the name is none.
        stores: Vec<PathBuf>,
    },
    /// A manifest of Ollama that names no GGUF file which is the whole model.
    #[error("{}: {problem}", path.display())]
    BadOllama {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The index of the shards cannot be followed.
    #[error("{place}: {problem}")]
    BadIndex {
        /// The repository and the name of the index.
        place: String,
        /// What is wrong.
        problem: String,
    },
}

/// What a model is given as.
const EXPECTED: &str = "a model is given as a Hugging Face model folder (config.json, tokenizer.json, *.safetensors), a .gguf \
                        file, a hub id (org/name, org/name@revision), or ollama://model:tag";

/// Models on this machine that may be meant by `model`, at which there is none; nothing if none is near.
pub fn models_near(model: &str) -> Option<String> {
    let is_model = |path: &Path| match path.is_dir() {
        true => path.join(CONFIG).is_file(),
        false => is_gguf(path),
    };
    nearby::in_words("models", &nearby::find(Path::new(model), &["models", "."], is_model))
}

/// As [`models_near`], of what is taken for a name of the hub, where a folder of its first part is here.
fn models_beside(name: &str) -> String {
    let is_path = Path::new(name).parent().is_some_and(Path::is_dir);
    models_near(name).filter(|_| is_path).map(|near| format!(" ({near})")).unwrap_or_default()
}

impl SourceError {
    /// What the user can do.
    pub fn hint(&self) -> Option<Remedy> {
        Some(match self {
            SourceError::NotFound { model } => match models_near(model) {
                Some(near) => near.into(),
                None if is_gguf(model) => {
                    "check the path, which is looked up from the current folder; a file of the hub is \
                     org/name/file.gguf"
                        .into()
                }
                None => EXPECTED.into(),
            },
            SourceError::NotAModel { path } => instead_of_file(path),
            SourceError::NoConfig { place, files } => instead_of_place(place, files),
            SourceError::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "make room, or set HF_HOME to a folder on a larger disk; the download goes on where it \
                     stopped"
                        .into()
                }
                _ => return None,
            },
            SourceError::NoHubSupport { .. } => {
                "build with the feature `hub`, or download the model and pass its folder".into()
            }
            SourceError::Unreachable { what, .. } => {
                let near = models_beside(what);
                format!(
                    "check the network, HTTPS_PROXY and HF_ENDPOINT, then run it again: what has arrived is \
                     kept; if a path was meant, there is nothing of that name here{near}"
                )
                .into()
            }
            SourceError::Denied { what, endpoint, had_token, .. } => to_be_let_in(what, endpoint, *had_token),
            SourceError::Missing { kind: "revision", .. } => {
                "check the part after @: a branch, tag or commit".into()
            }
            SourceError::Missing { what, .. } => {
                let near = models_beside(what);
                format!(
                    "check the spelling of the name and the revision; a path is looked up from the current folder{near}"
                )
                .into()
            }
            SourceError::UnexpectedAnswer { passing: true, .. } => "try again later".into(),
            SourceError::UnexpectedAnswer { passing: false, .. } => {
                "check HF_ENDPOINT, and that no proxy answers in the hub's place".into()
            }
            SourceError::NotCached { .. } => {
                "unset HF_HUB_OFFLINE once to download it, or set HF_HOME to the cache that has it".into()
            }
            SourceError::NoSafetensors { repo, found } => instead_of_pickle(repo, found),
            SourceError::NotOllama { model, stores, .. } => to_have_from_ollama(model, stores),
            SourceError::BadOllama { problem, .. } if problem.contains("adapter") => {
                remedy![
                    "give the model that it was made FROM (ollama show --modelfile)";
                    "give that, and the adapter as ", Setting::Adapter
                ]
            }
            SourceError::BadOllama { .. } => {
                "fetch it again with ollama pull, or give the .gguf file itself".into()
            }
            SourceError::BadIndex { .. } => {
                "the repository is broken: write to its owner, or try another revision with @".into()
            }
        })
    }
}

/// What to give instead of a file that is no model.
fn instead_of_file(path: &Path) -> Remedy {
    match path.parent().filter(|dir| dir.join(CONFIG).is_file()) {
        Some(dir) if dir.as_os_str().is_empty() => "pass its folder: .".into(),
        Some(dir) => format!("pass its folder: {}", dir.display()).into(),
        None => EXPECTED.into(),
    }
}

/// What to give instead of a folder or repository with these files and no configuration.
fn instead_of_place(place: &str, files: &[String]) -> Remedy {
    if files.iter().any(|name| name == ADAPTER_CONFIG) {
        let why = format!("this is an adapter ({ADAPTER_CONFIG})");
        return remedy!["pass its base model as ", Setting::Model].because(why);
    }
    match files.iter().find(|name| is_gguf(name)) {
        Some(first) => format!("pass the GGUF file itself: {}", joined(place, first)).into(),
        None => EXPECTED.into(),
    }
}

/// What to do where the hub wants somebody else.
fn to_be_let_in(what: &str, endpoint: &str, had_token: bool) -> Remedy {
    let page = format!("{endpoint}/{}", what.splitn(3, '/').take(2).collect::<Vec<_>>().join("/"));
    match had_token {
        false => format!(
            "check the name; if the model is private or its licence must be accepted, do that at {page} and set HF_TOKEN"
        ).into(),
        true => format!(
            "the token in use (HF_TOKEN, or the one logged in with) may not read it: accept the licence at {page}, or use \
             another token"
        ).into(),
    }
}

/// What to take of a repository that has weights as pickle files or in other forms.
fn instead_of_pickle(repo: &str, found: &[String]) -> Remedy {
    match found.iter().find(|name| is_gguf(name)) {
        Some(gguf) => remedy!["name one of its files: ", Setting::Model.is(format!("{repo}/{gguf}"))],
        None => format!(
            "pickle files can run code when read, so they are not: look for a safetensors version, or convert it once in \
             Python with `AutoModelForCausalLM.from_pretrained(\"{repo}\").save_pretrained(\"FOLDER\")` and pass FOLDER"
        ).into(),
    }
}

/// What to do where Ollama does not have the model.
fn to_have_from_ollama(model: &str, stores: &[PathBuf]) -> Remedy {
    match stores {
        [] => {
            "a name of Ollama is ollama://model:tag or ollama://namespace/model:tag, as ollama list shows it"
                .into()
        }
        _ => format!(
            "fetch it first: ollama pull {}; OLLAMA_MODELS says where its models are, if not in ~/.ollama/models",
            model.trim_start_matches(ollama::SCHEME)
        ).into(),
    }
}

fn not_ollama(found: &[String], stores: &[PathBuf]) -> String {
    match (stores, found) {
        ([], _) => "no name of Ollama".to_owned(),
        (_, []) => {
            let stores: Vec<String> = stores.iter().map(|store| store.display().to_string()).collect();
            format!("Ollama has no models here: nothing is in {}", stores.join(" or "))
        }
        _ => format!("Ollama has no such model here, only {}", list(found)),
    }
}

fn joined(place: &str, file: &str) -> String {
    format!("{}/{file}", place.trim_end_matches('/'))
}

/// At most a handful of names, the rest counted.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 8;
    match names.len() {
        0 => "other files".to_owned(),
        n if n > SHOWN => format!("{} and {} more", names[..SHOWN].join(", "), n - SHOWN),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(repo: &str, revision: &str, gguf: Option<&str>) -> Option<HubId> {
        Some(HubId {
            kind: RepoKind::Model,
            repo: repo.into(),
            revision: revision.into(),
            gguf: gguf.map(Into::into),
        })
    }

    #[test]
    fn hub_ids_are_told_from_paths() {
        assert_eq!(HubId::read("Org-1/na.me_2"), id("Org-1/na.me_2", "main", None));
        assert_eq!(HubId::read("org/name@v1.0"), id("org/name", "v1.0", None));
        assert_eq!(HubId::read("org/name@refs/pr/3"), id("org/name", "refs/pr/3", None));
        assert_eq!(
            HubId::read("org/name/sub/x.Q4_0.gguf@dev"),
            id("org/name", "dev", Some("sub/x.Q4_0.gguf"))
        );
        for path in [
            "",
            "name",
            "./name",
            "../name",
            "/name",
            "/org/name",
            "~/name",
            "org/",
            "/",
            "org/name/",
            "org/name/more",
            "org/name/../x.gguf",
            "org//x.gguf",
            "org/..",
            "org/na me",
            "org/name?x",
            "org/name@",
            "org/name@..",
            "org/name@../../x",
            "org/name@/etc/passwd",
            "org/name@a?b",
            "src/name/x.gguf",
            "models/x.gguf",
            "models/x.GGUF@v1",
            "org\\name/x",
            "org/name@a@b",
            "org/a%2e",
        ] {
            assert_eq!(HubId::read(path), None, "{path}");
        }
    }

    #[test]
    fn long_lists_are_counted() {
        let names: Vec<String> = (0..10).map(|i| i.to_string()).collect();
        assert_eq!(list(&names), "0, 1, 2, 3, 4, 5, 6, 7 and 2 more");
        assert_eq!(list(&names[..2]), "0, 1");
    }
}
