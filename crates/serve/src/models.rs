//! What requests call `model`: the base, adapters by their names, and adapters at a strength (`name:0.7`).

use std::collections::VecDeque;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use lorafit_model::Model;
use lorafit_model::adapter::Adapter;
use lorafit_model::merge::{Combination, MajoritySign, Method, Weighted, check_finite, combine};
use serde_json::{Value, json};

use crate::error::ApiError;

/// Opens the adapter of a folder.
pub type Open = Box<dyn Fn(&Path) -> Result<Adapter, String> + Send + Sync>;

/// An adapter with the number that stands for it: no two adapters or strengths ever have the same.
pub type Numbered = (u64, Arc<Adapter>);

/// Strengths that are kept ready.
const MOST_STRENGTHS: usize = 16;
/// Letters of a name.
const LONGEST_NAME: usize = 64;

/// The base and its adapters.
pub struct Models {
    base: String,
    model: &'static Model,
    created: u64,
    /// The folder that adapters may be loaded from, and what opens them.
    from: Option<(PathBuf, Open)>,
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    adapters: Vec<Named>,
    /// Adapters at other strengths than 1, the one used last at the end.
    strengths: VecDeque<(u64, f32, Numbered)>,
}

struct Named {
    name: String,
    created: u64,
    adapter: Numbered,
}

/// What a request's `model` is.
pub struct Selected {
    /// The name as the request has it.
    pub name: String,
    /// The adapter, if it is not the base alone.
    pub adapter: Option<Numbered>,
}

impl Models {
    /// The base `name` with `adapters`; others may be loaded from the folder of `from`.
    pub fn new(
        name: String,
        model: &'static Model,
        adapters: Vec<(String, Adapter)>,
        from: Option<(PathBuf, Open)>,
    ) -> Self {
        let created = now();
        let models = Models { base: name, model, created, from, inner: RwLock::default() };
        for (name, adapter) in adapters {
            models.add(name, adapter);
        }
        models
    }

    /// How many adapters there are.
    pub fn count(&self) -> usize {
        self.read(|inner| inner.adapters.len())
    }

    /// The adapter that a request means.
    ///
    /// # Errors
    /// A name that nothing has, and a strength that cannot be.
    pub fn select(&self, name: &str) -> Result<Selected, ApiError> {
        let selected = |adapter| Ok(Selected { name: name.to_owned(), adapter });
        if name == self.base {
            return selected(None);
        }
        let found = |name: &str| {
            self.read(|inner| inner.adapters.iter().find(|a| a.name == name).map(|a| a.adapter.clone()))
        };
        if let Some(adapter) = found(name) {
            return selected(Some(adapter));
        }
        let strength = name.rsplit_once(':').and_then(|(name, strength)| {
            let strength: f32 = strength.parse().ok()?;
            Some((found(name)?, strength))
        });
        match strength {
            Some((adapter, 1.0)) => selected(Some(adapter)),
            Some((adapter, strength)) => selected(Some(self.at_strength(&adapter, strength)?)),
            None => Err(self.unknown(name)),
        }
    }

    fn unknown(&self, name: &str) -> ApiError {
        let shown: String = name.chars().take(LONGEST_NAME).collect();
        let mut names = vec![format!("`{}`", self.base)];
        self.read(|inner| names.extend(inner.adapters.iter().take(8).map(|a| format!("`{}`", a.name))));
        let message =
            format!("there is no model `{shown}`; GET /v1/models lists all, such as {}", names.join(", "));
        let error = ApiError::new(StatusCode::NOT_FOUND, message).code("model_not_found");
        ApiError { field: Some("model".to_owned()), ..error }
    }

    /// An adapter whose update is multiplied by `strength`.
    fn at_strength(&self, adapter: &Numbered, strength: f32) -> Result<Numbered, ApiError> {
        if !strength.is_normal() || strength.abs() > 100.0 {
            let rule = format!(
                "has the strength {strength}; give one from -100 to 100 that is not 0, or `{}` without an adapter",
                self.base
            );
            return Err(ApiError::field("model", rule));
        }
        let is_it = |kept: &(u64, f32, Numbered)| kept.0 == adapter.0 && kept.1 == strength;
        let ready = self.write(|inner| {
            let at = inner.strengths.iter().position(is_it)?;
            let found = inner.strengths.remove(at)?;
            inner.strengths.push_back(found.clone());
            Some(found.2)
        });
        if let Some(ready) = ready {
            return Ok(ready);
        }
        let how =
            Combination { method: Method::Cat, density: 1.0, majority_sign: MajoritySign::Total, seed: 0 };
        let weighted = [Weighted { adapter: &adapter.1, weight: f64::from(strength) }];
        let config = self.model.config();
        let mut weighed = combine(config, &weighted, &how)
            .and_then(|weighed| check_finite(&weighed, config).map(|()| weighed))
            .map_err(|error| ApiError::field("model", format!("cannot have a strength: {error}")))?;
        self.model.prepare(&mut weighed);
        Ok(self.write(|inner| {
            // Another request may have been as quick.
            if let Some(found) = inner.strengths.iter().find(|kept| is_it(kept)) {
                return found.2.clone();
            }
            inner.next += 1;
            let numbered = (inner.next, Arc::new(weighed));
            inner.strengths.push_back((adapter.0, strength, numbered.clone()));
            if inner.strengths.len() > MOST_STRENGTHS {
                inner.strengths.pop_front();
            }
            numbered
        }))
    }

    /// The answer to `GET /v1/models`.
    pub fn list(&self) -> Value {
        let model = |id: &str, created: u64, parent: Option<&str>| json!({"id": id, "object": "model", "created": created, "owned_by": "lorafit", "parent": parent});
        let mut data = vec![model(&self.base, self.created, None)];
        self.read(|inner| {
            data.extend(inner.adapters.iter().map(|a| model(&a.name, a.created, Some(&self.base))));
        });
        json!({"object": "list", "data": data})
    }

    /// One of [`Models::list`].
    ///
    /// # Errors
    /// As [`Models::select`].
    pub fn one(&self, name: &str) -> Result<Value, ApiError> {
        self.select(name)?;
        let list = self.list();
        let all = list["data"].as_array().into_iter().flatten();
        let listed = all.clone().find(|model| model["id"] == name).cloned();
        Ok(listed.unwrap_or_else(|| {
            json!({"id": name, "object": "model", "created": self.created, "owned_by": "lorafit", "parent": self.base})
        }))
    }

    /// Loads the adapter of a folder below the one that was given for it.
    ///
    /// # Errors
    /// A name or a path that may not be, a name that is taken, and an adapter that cannot be opened.
    pub fn load(&self, name: &str, path: &str) -> Result<(), ApiError> {
        let Some((root, open)) = &self.from else { return Err(not_for_loading()) };
        if let Some(rule) = wrong_name(name) {
            return Err(ApiError::field("name", rule));
        }
        let folder = below(root, path)?;
        let taken = || {
            let message =
                format!("`name`: there is a model `{name}` already; choose another name, or unload it");
            let error = ApiError::new(StatusCode::CONFLICT, message).code("name_taken");
            ApiError { field: Some("name".to_owned()), ..error }
        };
        let is_taken =
            |inner: &Inner| name == self.base || inner.adapters.iter().any(|adapter| adapter.name == name);
        if self.read(is_taken) {
            return Err(taken());
        }
        let adapter =
            open(&folder).map_err(|error| ApiError::field("path", format!("cannot be loaded: {error}")))?;
        self.write(|inner| match is_taken(inner) {
            true => Err(taken()),
            false => {
                inner.add(name.to_owned(), adapter);
                Ok(())
            }
        })
    }

    /// Forgets an adapter. Answers that use it go on.
    ///
    /// # Errors
    /// The base, and a name that no adapter has.
    pub fn unload(&self, name: &str) -> Result<(), ApiError> {
        if self.from.is_none() {
            return Err(not_for_loading());
        }
        let gone = self.write(|inner| {
            let at = inner.adapters.iter().position(|adapter| adapter.name == name)?;
            let number = inner.adapters.remove(at).adapter.0;
            inner.strengths.retain(|kept| kept.0 != number);
            Some(())
        });
        match gone {
            Some(()) => Ok(()),
            None if name == self.base => Err(ApiError::bad("the base cannot be unloaded; name an adapter")),
            None => Err(self.unknown(name)),
        }
    }

    fn add(&self, name: String, adapter: Adapter) {
        self.write(|inner| inner.add(name, adapter));
    }

    fn read<T>(&self, read: impl FnOnce(&Inner) -> T) -> T {
        read(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, write: impl FnOnce(&mut Inner) -> T) -> T {
        write(&mut self.inner.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inner {
    fn add(&mut self, name: String, adapter: Adapter) {
        self.next += 1;
        let adapter = (self.next, Arc::new(adapter));
        self.adapters.push(Named { name, created: now(), adapter });
    }
}

fn not_for_loading() -> ApiError {
    let message =
        "this server loads no adapters while it runs; it has to be started with a folder for them and a key";
    ApiError::new(StatusCode::FORBIDDEN, message).code("loading_is_off")
}

/// Why an adapter cannot have this name.
fn wrong_name(name: &str) -> Option<&'static str> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match name {
        "" => Some("is empty; give a name"),
        _ if name.len() > LONGEST_NAME => Some("is too long; give at most 64 letters"),
        _ if !name.chars().all(fine) || name.starts_with('.') => {
            Some("may have letters, digits, `-`, `_` and `.` (not first); give another")
        }
        _ => None,
    }
}

/// The folder `path` below `root`, links followed.
fn below(root: &Path, path: &str) -> Result<PathBuf, ApiError> {
    let wrong = |rule: &str| Err(ApiError::field("path", rule));
    let parts = Path::new(path).components();
    if path.is_empty() || path.contains('\0') || !parts.clone().all(|p| matches!(p, Component::Normal(_))) {
        return wrong("has to lead down from the folder for adapters: give a relative path without `..`");
    }
    // One answer for what is not there and what is elsewhere: nobody learns what lies outside.
    let inside = root.canonicalize().ok().zip(root.join(path).canonicalize().ok());
    match inside.filter(|(root, folder)| folder.starts_with(root) && folder.is_dir()) {
        Some((_, folder)) => Ok(folder),
        None => wrong("is no folder below the folder for adapters; give one"),
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn names_of_adapters_are_plain_words() {
        for name in ["pirate", "a.b-c_1", "7"] {
            assert_eq!(wrong_name(name), None, "{name}");
        }
        let long = "x".repeat(65);
        for name in ["", "..", ".x", "a/b", "a\\b", "a:0.5", "ä", "a b", "a\0", "%2e%2e", long.as_str()] {
            assert!(wrong_name(name).is_some(), "{name}");
        }
    }

    #[test]
    fn paths_stay_below_their_folder() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("adapters");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir(dir.path().join("secret")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        for path in ["a", "a/b", "a//b", "a/b/"] {
            assert!(below(&root, path).unwrap().starts_with(root.canonicalize().unwrap()), "{path}");
        }
        let absolute = root.join("a").to_string_lossy().into_owned();
        for path in
            ["", "..", "../secret", "a/../../secret", "/", "/etc", &absolute, "c", "file", "a\0", "./"]
        {
            assert!(below(&root, path).is_err(), "{path}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(dir.path().join("secret"), root.join("link")).unwrap();
            assert!(below(&root, "link").is_err());
        }
    }
}
