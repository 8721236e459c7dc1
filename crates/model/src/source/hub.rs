//! Models and data sets from the Hugging Face hub, through the cache that all its tools share.
//!
//! One request lists the repository at its present commit; all files are then taken from that commit, so
//! that a push in between cannot mix two versions. Weights come last and the branch's name in the cache is
//! moved after them: what an interrupted download leaves is never taken for a model. `hf-hub` transfers the
//! files and lays out the cache. Around it stand what it lacks: limits on waiting, going on after a broken
//! connection, comparing sizes, and reuse of files that an older commit already brought.
//!
//! Deliberately absent: checksums (safetensors and GGUF readers check lengths), parallel downloads.

use std::path::{Component, Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
use lorafit_remedy::amounts::transfer;
use serde::Deserialize;

use super::{ADAPTER_CONFIG, CONFIG, HubId, INDEX, RepoKind, ShapeSource, Source, SourceError, WEIGHTS};
use crate::files::{is_gguf, split_parts};

/// What belongs to a model besides its configuration and weights; a repository may lack any of them.
const OPTIONAL: [&str; 6] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "special_tokens_map.json",
];
/// Where named chat templates lie.
const TEMPLATES: &str = "additional_chat_templates/";
/// Weights that run code when read.
const PICKLES: [&str; 4] = ["bin", "pt", "pth", "ckpt"];

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long `hf-hub` itself waits for another process that downloads the same file.
const LOCK_WAIT: Duration = Duration::from_secs(6);
const ATTEMPTS: usize = 3;
const PAUSE: Duration = Duration::from_secs(1);
const REPORT_EVERY: Duration = Duration::from_millis(200);

/// Which hub, which cache, and on whose behalf. No `Debug`: the token must not get into a log.
#[derive(Clone)]
pub struct Hub {
    /// The hub's address, without a slash at its end.
    pub endpoint: String,
    /// The folder of the cache that holds `models--org--name`.
    pub cache: PathBuf,
    /// Sent to the hub.
    pub token: Option<String>,
    /// Look at nothing but the cache.
    pub offline: bool,
    /// How long the hub may stay silent.
    pub timeout: Duration,
}

impl Hub {
    /// As the hub's own Python library reads the environment: `HF_ENDPOINT`; `HF_HUB_CACHE`, else
    /// `HF_HOME/hub`, else `huggingface/hub` in `XDG_CACHE_HOME` or `~/.cache`; `HF_TOKEN`, else the file
    /// that logging in writes; `HF_HUB_OFFLINE`; `HF_HUB_DOWNLOAD_TIMEOUT` in seconds.
    pub fn from_env() -> Self {
        Hub::from_vars(|name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from_vars(var: impl Fn(&str) -> Option<String>) -> Self {
        let path = |name: &str| var(name).map(PathBuf::from);
        let home = path("HF_HOME").unwrap_or_else(|| {
            let caches =
                path("XDG_CACHE_HOME").unwrap_or_else(|| env::home_dir().unwrap_or_default().join(".cache"));
            caches.join("huggingface")
        });
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let token = var("HF_TOKEN").or_else(|| fs::read_to_string(token_file).ok());
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let offline = var("HF_HUB_OFFLINE").or_else(|| var("TRANSFORMERS_OFFLINE"));
        let timeout = var("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|seconds| seconds.parse().ok());
        Hub {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: path("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub")),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline: offline
                .is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str())),
            timeout: Duration::from_secs(timeout.unwrap_or(10).max(1)),
        }
    }

    /// The model `id`, downloaded as far as the cache lacks it.
    pub(super) fn fetch(&self, id: &HubId, progress: &mut dyn FnMut(&str)) -> Result<Source, SourceError> {
        match self.find(id, progress)? {
            Found::Cached(source) => Ok(source),
            Found::Listed(download) => download.run(progress),
        }
    }

    /// The model `id` if the cache has all of it; else its configuration, downloaded if need be.
    pub(super) fn fetch_shape(
        &self,
        id: &HubId,
        progress: &mut dyn FnMut(&str),
    ) -> Result<ShapeSource, SourceError> {
        match self.find(id, progress)? {
            Found::Cached(source) => Ok(ShapeSource::Model(source)),
            Found::Listed(download) if id.gguf.is_some() => download.run(progress).map(ShapeSource::Model),
            Found::Listed(download) => {
                let commit = HubId { revision: download.listing.sha.clone(), ..id.clone() };
                match self.cached(&commit) {
                    Ok(source) => Ok(ShapeSource::Model(source)),
                    Err(_) => download.bring_config(progress).map(ShapeSource::Config),
                }
            }
        }
    }

    /// Configuration and tokenizer of the model `id`, downloaded as far as the cache lacks them; of a GGUF file all.
    pub(super) fn fetch_without_weights(
        &self,
        id: &HubId,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Source, SourceError> {
        if id.gguf.is_some() {
            return self.fetch(id, progress);
        }
        let Some(download) = self.listed(id, || self.configured(id).is_ok(), progress)? else {
            return self.configured(id);
        };
        download.bring_companions(progress)?;
        // Where an older commit is there whole, the branch's name goes on to mean it.
        if self.configured(id).is_err() {
            download.move_ref()?;
        }
        Ok(Source::Folder(download.snapshot))
    }

    /// The model `id` as it lies in the cache, with or without weights.
    fn configured(&self, id: &HubId) -> Result<Source, SourceError> {
        let snapshot = self.snapshot(id)?;
        match snapshot.join(CONFIG).is_file() {
            true => Ok(Source::Folder(snapshot)),
            false => Err(self.not_cached(id, CONFIG.to_owned())),
        }
    }

    /// The model in the cache, where nothing has to be asked or nobody answers; else what the hub lists.
    fn find<'a>(&'a self, id: &'a HubId, progress: &mut dyn FnMut(&str)) -> Result<Found<'a>, SourceError> {
        // A commit never changes, so that nothing has to be asked.
        if is_commit(&id.revision)
            && let Ok(source) = self.cached(id)
        {
            return Ok(Found::Cached(source));
        }
        match self.listed(id, || self.cached(id).is_ok(), progress)? {
            Some(download) => Ok(Found::Listed(Box::new(download))),
            None => self.cached(id).map(Found::Cached),
        }
    }

    /// The folder with files of the data set `id` (`org/name` or `org/name@revision`), downloaded as far as the cache
    /// lacks them. `choose` gets the names of all its files and gives back those that are wanted; offline, what is in
    /// the cache is taken for them.
    ///
    /// # Errors
    /// Those of `choose`; everything that can go wrong with a download.
    pub fn fetch_data_set<E: From<SourceError>>(
        &self,
        id: &str,
        choose: impl FnOnce(Vec<String>) -> Result<Vec<String>, E>,
        progress: &mut dyn FnMut(&str),
    ) -> Result<PathBuf, E> {
        let id = HubId { kind: RepoKind::DataSet, ..HubId::parse(id)? };
        let Some(download) = self.listed(&id, || self.snapshot(&id).is_ok(), progress)? else {
            return Ok(self.snapshot(&id)?);
        };
        let wanted = choose(download.listing.names(|_| true))?;
        Ok(download.bring_all(&wanted, progress)?)
    }

    /// A download of `id`, its files listed; `None` if the cache is to be used: offline, or when the hub does not answer
    /// and there is something in it.
    fn listed<'a>(
        &'a self,
        id: &'a HubId,
        is_cached: impl Fn() -> bool,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Option<Download<'a>>, SourceError> {
        if self.offline {
            return Ok(None);
        }
        let api = ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_progress(false)
            .build()
            .map_err(|error| self.unexpected(&id.repo, error.to_string(), false))?;
        match self.listing(&api, id) {
            Ok(listing) => {
                let repo = Cache::new(self.cache.clone()).repo(id.at(&listing.sha));
                let snapshot = repo.pointer_path(&listing.sha);
                Ok(Some(Download { hub: self, api, id, listing, snapshot }))
            }
            Err(
                error @ (SourceError::Unreachable { .. }
                | SourceError::UnexpectedAnswer { passing: true, .. }),
            ) if is_cached() => {
                progress(&format!("{error}; going on with the copy in the cache"));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The model `id` as it lies in the cache, all of it.
    fn cached(&self, id: &HubId) -> Result<Source, SourceError> {
        let snapshot = self.snapshot(id)?;
        let not_cached = |missing: String| self.not_cached(id, missing);
        let lacks = |name: &str| (!snapshot.join(name).is_file()).then(|| not_cached(name.to_owned()));
        if let Some(gguf) = &id.gguf {
            let lacking = gguf_parts(gguf).iter().find_map(|part| lacks(part));
            return lacking.map_or_else(|| Ok(Source::Gguf(snapshot.join(gguf))), Err);
        }
        if let Some(error) = lacks(CONFIG) {
            return Err(error);
        }
        if let Some(error) = lacks(WEIGHTS) {
            if lacks(INDEX).is_some() {
                return Err(error);
            }
            for shard in shards(&snapshot.join(INDEX), &id.repo)? {
                if let Some(error) = lacks(&shard) {
                    return Err(error);
                }
            }
        }
        Ok(Source::Folder(snapshot))
    }

    /// The folder of the cache with the files of `id`'s revision that some download brought.
    fn snapshot(&self, id: &HubId) -> Result<PathBuf, SourceError> {
        let folder = self.cache.join(id.at(&id.revision).folder_name());
        let commit = fs::read_to_string(folder.join("refs").join(&id.revision))
            .map(|commit| commit.trim().to_owned())
            .ok()
            .or_else(|| is_commit(&id.revision).then(|| id.revision.clone()))
            .filter(|commit| is_plain_file_name(commit));
        let snapshot = commit.map(|commit| folder.join("snapshots").join(commit));
        snapshot.filter(|folder| folder.is_dir()).ok_or_else(|| self.not_cached(id, "it".to_owned()))
    }

    fn not_cached(&self, id: &HubId, missing: String) -> SourceError {
        SourceError::NotCached { model: id.to_string(), missing, cache: self.cache.clone() }
    }

    /// What the repository has at the revision; `blobs` adds sizes and the names they have in the cache.
    fn listing(&self, api: &Api, id: &HubId) -> Result<Listing, SourceError> {
        let mut response = api
            .repo(id.at(&id.revision))
            .info_request()
            .query("blobs", "true")
            .config()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT.min(self.timeout)))
            .timeout_global(Some(self.timeout))
            .build()
            .call()
            .map_err(|error| self.request_failed(&id.repo, error))?;
        if !response.status().is_success() {
            let code = response.headers().get("x-error-code").and_then(|code| code.to_str().ok());
            return Err(match (response.status().as_u16(), code) {
                (404, Some("RevisionNotFound")) => self.missing(id.to_string(), "revision"),
                (404, _) => self.missing(id.to_string(), id.kind.name()),
                (status, _) => self.refused(&id.repo, status),
            });
        }
        let text =
            response.body_mut().read_to_string().map_err(|error| self.request_failed(&id.repo, error))?;
        let listing: Listing = serde_json::from_str(&text)
            .map_err(|error| self.unexpected(&id.repo, format!("not a listing: {error}"), false))?;
        // It becomes a folder's name.
        match is_plain_file_name(&listing.sha) {
            true => Ok(listing),
            false => Err(self.unexpected(&id.repo, format!("commit `{}`", listing.sha), false)),
        }
    }

    fn request_failed(&self, what: &str, error: ureq::Error) -> SourceError {
        match error {
            ureq::Error::StatusCode(status) => self.refused(what, status),
            ureq::Error::BadUri(_) => {
                self.unreachable(what, "HF_ENDPOINT must look like https://host".to_owned())
            }
            other => self.unreachable(what, other.to_string()),
        }
    }

    fn refused(&self, what: &str, status: u16) -> SourceError {
        match status {
            401 | 403 => SourceError::Denied {
                what: what.to_owned(),
                endpoint: self.endpoint.clone(),
                status,
                had_token: self.token.is_some(),
            },
            404 => self.missing(what.to_owned(), "file"),
            _ => self.unexpected(what, format!("HTTP {status}"), status == 429 || status >= 500),
        }
    }

    fn unreachable(&self, what: &str, cause: String) -> SourceError {
        SourceError::Unreachable { what: what.to_owned(), endpoint: self.endpoint.clone(), cause }
    }

    fn missing(&self, what: String, kind: &'static str) -> SourceError {
        SourceError::Missing { what, kind, endpoint: self.endpoint.clone() }
    }

    fn unexpected(&self, what: &str, answer: String, passing: bool) -> SourceError {
        SourceError::UnexpectedAnswer {
            what: what.to_owned(),
            endpoint: self.endpoint.clone(),
            answer,
            passing,
        }
    }
}

impl RepoKind {
    fn name(self) -> &'static str {
        match self {
            RepoKind::Model => "model",
            RepoKind::DataSet => "data set",
        }
    }
}

impl HubId {
    /// The repository at a revision, as `hf-hub` names it.
    fn at(&self, revision: &str) -> Repo {
        let kind = match self.kind {
            RepoKind::Model => RepoType::Model,
            RepoKind::DataSet => RepoType::Dataset,
        };
        Repo::with_revision(self.repo.clone(), kind, revision.to_owned())
    }
}

impl std::fmt::Display for HubId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.repo)?;
        if let Some(gguf) = &self.gguf {
            write!(f, "/{gguf}")?;
        }
        match self.revision.as_str() {
            "main" => Ok(()),
            revision => write!(f, "@{revision}"),
        }
    }
}

/// The hub's description of a repository, as far as needed.
#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    /// `None` from mirrors that do not tell.
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
}

impl Sibling {
    /// The name of the content in the cache: the hub's ETag.
    fn etag(&self) -> Option<&str> {
        let etag = match &self.lfs {
            Some(lfs) => lfs.sha256.as_deref(),
            None => self.blob_id.as_deref(),
        };
        etag.filter(|etag| is_plain_file_name(etag))
    }

    fn is_at(&self, path: &Path) -> bool {
        fs::metadata(path)
            .is_ok_and(|metadata| metadata.is_file() && self.size.is_none_or(|size| size == metadata.len()))
    }
}

impl Listing {
    fn get(&self, name: &str) -> Option<&Sibling> {
        self.siblings.iter().find(|sibling| sibling.rfilename == name)
    }

    fn names(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        self.siblings.iter().map(|sibling| &sibling.rfilename).filter(|name| wanted(name)).cloned().collect()
    }
}

/// The files of the GGUF file `name`: itself, or all parts of a split one.
fn gguf_parts(name: &str) -> Vec<String> {
    split_parts(name).unwrap_or_else(|| vec![name.to_owned()])
}

/// Where a model was found.
enum Found<'a> {
    Cached(Source),
    Listed(Box<Download<'a>>),
}

struct Download<'a> {
    hub: &'a Hub,
    api: Api,
    id: &'a HubId,
    listing: Listing,
    /// The folder of the listed commit.
    snapshot: PathBuf,
}

impl Download<'_> {
    fn run(self, progress: &mut dyn FnMut(&str)) -> Result<Source, SourceError> {
        let source = match &self.id.gguf {
            Some(gguf) => {
                for part in gguf_parts(gguf) {
                    self.bring(self.listed(&part)?, progress)?;
                }
                Source::Gguf(self.snapshot.join(gguf))
            }
            None => {
                self.bring_folder(progress)?;
                Source::Folder(self.snapshot.clone())
            }
        };
        self.move_ref()?;
        Ok(source)
    }

    /// Brings files by their names; the folder they are in.
    fn bring_all(&self, names: &[String], progress: &mut dyn FnMut(&str)) -> Result<PathBuf, SourceError> {
        for name in names {
            self.bring(self.listed(name)?, progress)?;
        }
        self.move_ref()?;
        Ok(self.snapshot.clone())
    }

    /// Lets the branch's name in the cache mean the listed commit.
    fn move_ref(&self) -> Result<(), SourceError> {
        if is_commit(&self.id.revision) {
            return Ok(());
        }
        Cache::new(self.hub.cache.clone())
            .repo(self.id.at(&self.id.revision))
            .create_ref(&self.listing.sha)
            .map_err(|source| SourceError::Io { path: self.hub.cache.clone(), source })
    }

    /// The repository at the listed commit.
    fn repo(&self) -> Repo {
        self.id.at(&self.listing.sha)
    }

    /// The configuration alone. The branch's name is not moved: an older commit may be there whole.
    fn bring_config(&self, progress: &mut dyn FnMut(&str)) -> Result<PathBuf, SourceError> {
        let Some(config) = self.listing.get(CONFIG) else {
            let (place, files) = (self.id.repo.clone(), self.listing.names(|_| true));
            return Err(SourceError::NoConfig { place, files });
        };
        self.bring(config, progress)?;
        Ok(self.snapshot.join(CONFIG))
    }

    /// All of a model but its weights.
    fn bring_companions(&self, progress: &mut dyn FnMut(&str)) -> Result<(), SourceError> {
        self.bring_config(progress)?;
        let named = self.listing.names(|name| {
            let template = name.strip_prefix(TEMPLATES).and_then(|name| name.strip_suffix(".jinja"));
            template.is_some_and(is_plain_file_name)
        });
        let optional = OPTIONAL.into_iter().chain(named.iter().map(String::as_str));
        for optional in optional.filter_map(|name| self.listing.get(name)) {
            match self.bring(optional, progress) {
                // Listed and not there, or empty: as good as not listed.
                Err(SourceError::Missing { .. }) => (),
                Err(SourceError::UnexpectedAnswer { .. }) if optional.size == Some(0) => (),
                result => result?,
            }
        }
        Ok(())
    }

    fn bring_folder(&self, progress: &mut dyn FnMut(&str)) -> Result<(), SourceError> {
        let repo = &self.id.repo;
        let listing = &self.listing;
        let weights = listing.get(WEIGHTS).or_else(|| listing.get(INDEX));
        let weights = match (weights, listing.get(CONFIG)) {
            (Some(weights), Some(_)) => weights,
            (None, _) if listing.get(ADAPTER_CONFIG).is_none() => {
                return Err(SourceError::NoSafetensors { repo: repo.clone(), found: self.other_weights() });
            }
            _ => {
                let files = listing.names(|name| name.ends_with(".json"));
                return Err(SourceError::NoConfig { place: repo.clone(), files });
            }
        };
        self.bring_companions(progress)?;
        self.bring(weights, progress)?;
        if weights.rfilename == INDEX {
            let shards = shards(&self.snapshot.join(INDEX), repo)?;
            let lacking = shards.iter().find(|shard| listing.get(shard).is_none());
            if let Some(shard) = lacking {
                return Err(SourceError::BadIndex {
                    place: format!("{repo}/{INDEX}"),
                    problem: format!("names {shard}, which the repository does not have"),
                });
            }
            for shard in &shards {
                self.bring(self.listed(shard)?, progress)?;
            }
        }
        Ok(())
    }

    fn listed(&self, name: &str) -> Result<&Sibling, SourceError> {
        self.listing.get(name).ok_or_else(|| self.hub.missing(format!("{}/{name}", self.id.repo), "file"))
    }

    /// The weights that are there in place of safetensors: GGUF if any, as those are of use.
    fn other_weights(&self) -> Vec<String> {
        let ggufs = self.listing.names(|name| is_gguf(name));
        if !ggufs.is_empty() {
            return ggufs;
        }
        self.listing.names(|name| {
            let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
            extension.is_some_and(|extension| PICKLES.contains(&extension) || extension == "safetensors")
        })
    }

    /// Puts `file` into the snapshot unless it is there.
    fn bring(&self, file: &Sibling, progress: &mut dyn FnMut(&str)) -> Result<(), SourceError> {
        let name = &file.rfilename;
        let what = format!("{}/{name}", self.id.repo);
        let target = self.snapshot.join(name);
        let mut attempt = 1;
        loop {
            if file.is_at(&target) || self.is_taken_from_cache(file, &target) {
                return Ok(());
            }
            self.clear_way(file, &target)?;
            match self.transfer(file, &what, progress) {
                Ok(()) if file.is_at(&target) => return Ok(()),
                Ok(()) => {
                    let received = fs::metadata(&target).map_or(0, |metadata| metadata.len());
                    self.discard(&target)?;
                    // A server that knows no ranges sends the whole after the part that was there.
                    if attempt == ATTEMPTS {
                        let expected = file.size.unwrap_or_default();
                        let answer = format!("{received} bytes where {expected} were promised");
                        return Err(self.hub.unexpected(&what, answer, true));
                    }
                    attempt += 1;
                }
                // A lock ends with the process that holds it, so that this wait does too.
                Err(Failure::Locked) => progress(&format!("waiting for another download of {what}")),
                Err(Failure::Broken(_)) if attempt < ATTEMPTS => {
                    attempt += 1;
                    thread::sleep(PAUSE);
                }
                Err(Failure::Broken(error) | Failure::Final(error)) => return Err(error),
            }
        }
    }

    /// Links content that another commit brought; `false` where that cannot be done.
    fn is_taken_from_cache(&self, file: &Sibling, target: &Path) -> bool {
        let Some(blob) = self.blob(file).filter(|blob| file.size.is_some() && file.is_at(blob)) else {
            return false;
        };
        #[cfg(unix)]
        {
            // Relative, so that a cache can be moved.
            let up = Path::new(&file.rfilename).components().count() + 1;
            let blob: PathBuf = std::iter::repeat_n("..", up)
                .chain(["blobs"].into_iter().chain(blob.file_name().and_then(|name| name.to_str())))
                .collect();
            let folder = target.parent().unwrap_or(target);
            fs::create_dir_all(folder).and_then(|()| std::os::unix::fs::symlink(blob, target)).is_ok()
        }
        #[cfg(not(unix))]
        {
            let _ = (blob, target);
            false
        }
    }

    /// Removes what would make `hf-hub` fail or keep a wrong file: it leaves an existing link as it is, and
    /// asks for the rest of a partial file that has no rest.
    fn clear_way(&self, file: &Sibling, target: &Path) -> Result<(), SourceError> {
        if fs::symlink_metadata(target).is_ok() {
            self.discard(target)?;
        }
        if let (Some(blob), Some(size)) = (self.blob(file), file.size) {
            let partial = blob.with_extension("part");
            if fs::metadata(&partial).is_ok_and(|metadata| metadata.len() >= size) {
                remove(&partial)?;
            }
        }
        Ok(())
    }

    /// Removes a file of the snapshot and the content it links to.
    fn discard(&self, target: &Path) -> Result<(), SourceError> {
        if let Ok(blob) = fs::canonicalize(target) {
            remove(&blob)?;
        }
        match fs::symlink_metadata(target) {
            Ok(_) => remove(target),
            Err(_) => Ok(()),
        }
    }

    fn blob(&self, file: &Sibling) -> Option<PathBuf> {
        let etag = file.etag()?;
        Some(Cache::new(self.hub.cache.clone()).repo(self.repo()).blob_path(etag))
    }

    /// One download by `hf-hub`, in a thread of its own: it sets no limit on waiting, and the thread can be
    /// left behind when nothing arrives any more.
    fn transfer(&self, file: &Sibling, what: &str, progress: &mut dyn FnMut(&str)) -> Result<(), Failure> {
        let (events, received) = mpsc::channel();
        let (remote, name) = (self.api.repo(self.repo()), file.rfilename.clone());
        let report = Report { events: events.clone(), done: 0, size: 0, told: None };
        thread::spawn(move || {
            let result = remote.download_with_progress(&name, report);
            // Nobody listens any more if this took too long.
            let _ = events.send(Event::End(result.map(drop)));
        });
        loop {
            match received.recv_timeout(self.hub.timeout + LOCK_WAIT) {
                Ok(Event::Received { done, size }) => {
                    progress(&format!("downloading {what}: {} of {}", transfer(done), transfer(size)));
                }
                Ok(Event::End(result)) => return result.map_err(|error| self.failure(what, error)),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let cause = format!("nothing arrived for {} s", self.hub.timeout.as_secs());
                    return Err(Failure::Final(self.hub.unreachable(what, cause)));
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let answer = "it made the download crash".to_owned();
                    return Err(Failure::Final(self.hub.unexpected(what, answer, false)));
                }
            }
        }
    }

    fn failure(&self, what: &str, error: ApiError) -> Failure {
        match error {
            ApiError::LockAcquisition(_) => Failure::Locked,
            ApiError::RequestError(error) => match self.hub.request_failed(what, *error) {
                error @ SourceError::Unreachable { .. } => Failure::Broken(error),
                error => Failure::Final(error),
            },
            ApiError::IoError(source) => match source.kind() {
                io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::PermissionDenied
                | io::ErrorKind::ReadOnlyFilesystem
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::NotFound => {
                    Failure::Final(SourceError::Io { path: self.hub.cache.clone(), source })
                }
                _ => Failure::Broken(self.hub.unreachable(what, source.to_string())),
            },
            other => Failure::Final(self.hub.unexpected(what, other.to_string(), false)),
        }
    }
}

enum Failure {
    /// Another process downloads the same file.
    Locked,
    /// The connection broke: going on may help.
    Broken(SourceError),
    Final(SourceError),
}

enum Event {
    Received { done: u64, size: u64 },
    End(Result<(), ApiError>),
}

/// Passes on how far a download is, a few times a second.
struct Report {
    events: mpsc::Sender<Event>,
    done: u64,
    size: u64,
    told: Option<Instant>,
}

impl Progress for Report {
    fn init(&mut self, size: usize, _name: &str) {
        (self.done, self.size) = (0, size as u64);
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        if self.told.is_none_or(|told| told.elapsed() >= REPORT_EVERY) {
            self.told = Some(Instant::now());
            let _ = self.events.send(Event::Received { done: self.done, size: self.size });
        }
    }

    fn finish(&mut self) {}
}

/// The shards an index names, each once, in order.
fn shards(index: &Path, repo: &str) -> Result<Vec<String>, SourceError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let bad = |problem: String| SourceError::BadIndex { place: format!("{repo}/{INDEX}"), problem };
    let text =
        fs::read_to_string(index).map_err(|source| SourceError::Io { path: index.to_owned(), source })?;
    let index: Index =
        serde_json::from_str(&text).map_err(|error| bad(format!("not an index of weights: {error}")))?;
    let mut shards: Vec<String> = index.weight_map.into_values().collect();
    shards.sort();
    shards.dedup();
    match shards.iter().find(|shard| !is_plain_file_name(shard)) {
        Some(shard) => Err(bad(format!("names the shard {shard:?}, which is not a plain file name"))),
        None if shards.is_empty() => Err(bad("names no shards".to_owned())),
        None => Ok(shards),
    }
}

/// Whether `name` names a file of the folder it is joined to, here and on any other system.
fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
        && !name.contains(['/', '\\', ':', '\0'])
}

fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.chars().all(|c| c.is_ascii_hexdigit())
}

/// Removes `path`, unless another process was faster.
fn remove(path: &Path) -> Result<(), SourceError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(SourceError::Io { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(vars: &[(&str, &str)]) -> Hub {
        Hub::from_vars(|name| vars.iter().find(|var| var.0 == name).map(|var| var.1.to_owned()))
    }

    #[test]
    fn only_plain_names_name_shards() {
        assert!(is_plain_file_name("model-00001-of-00002.safetensors"));
        for name in ["", ".", "..", "a/b", "/a", "a/", "./a", "..\\a", "C:a", "a\0b"] {
            assert!(!is_plain_file_name(name), "{name}");
        }
    }

    #[test]
    fn settings_come_from_the_standard_variables() {
        let home = tempfile::tempdir().unwrap();
        let home_path = home.path().to_str().unwrap();
        fs::write(home.path().join("token"), "hf_file\n").unwrap();

        let plain = hub(&[("HF_HOME", home_path)]);
        assert_eq!(plain.endpoint, "https://huggingface.co");
        assert_eq!(plain.cache, home.path().join("hub"));
        assert_eq!(plain.token.as_deref(), Some("hf_file"));
        assert!(!plain.offline);

        let set = hub(&[
            ("HF_HOME", home_path),
            ("HF_HUB_CACHE", "elsewhere"),
            ("HF_ENDPOINT", "http://mirror/"),
            ("HF_TOKEN", " hf_var "),
            ("HF_HUB_OFFLINE", "True"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "30"),
        ]);
        assert_eq!(set.endpoint, "http://mirror");
        assert_eq!(set.cache, Path::new("elsewhere"));
        assert_eq!(set.token.as_deref(), Some("hf_var"));
        assert!(set.offline);
        assert_eq!(set.timeout, Duration::from_secs(30));

        assert!(!hub(&[("HF_HUB_OFFLINE", "0")]).offline);
        assert_eq!(hub(&[("XDG_CACHE_HOME", "caches")]).cache, Path::new("caches/huggingface/hub"));
    }
}
