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

/// An adapter that is served.
pub struct NamedAdapter {
    /// What requests call it.
    pub name: String,
    /// What its update was multiplied by when it was opened.
    pub weight: f64,
    /// The adapter.
    pub adapter: Adapter,
    /// What clients should know of it, such as that it was trained over another base; a sentence each, without places of this machine.
    pub warnings: Vec<String>,
}

/// An adapter that was opened for a client.
pub struct Opened {
    /// The adapter.
    pub adapter: Adapter,
    /// As [`NamedAdapter::warnings`].
    pub warnings: Vec<String>,
}

/// Opens the adapter of a folder.
pub type Open = Box<dyn Fn(&Path) -> Result<Opened, String> + Send + Sync>;

/// An adapter with the number that stands for it: no two adapters or strengths ever have the same.
pub type Numbered = (u64, Arc<Adapter>);

/// Strengths that are kept ready.
const MOST_STRENGTHS: usize = 16;
/// Letters of an adapter's name.
const LONGEST_NAME: usize = 64;
/// Letters of the base's name.
const LONGEST_BASE_NAME: usize = 200;
/// The strongest that an adapter may be asked for, in either direction.
pub const MOST_STRENGTH: f64 = 100.0;

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
    strengths: VecDeque<(u64, f64, Numbered)>,
}

struct Named {
    name: String,
    created: u64,
    weight: f64,
    warnings: Vec<String>,
    adapter: Numbered,
}

/// What a request's `model` is.
pub struct Selected {
    /// The name as the request has it.
    pub name: String,
    /// The adapter, if it is not the base alone.
    pub adapter: Option<Numbered>,
    /// What its update is multiplied by in all; 1 for the base.
    pub strength: f64,
}

impl Models {
    /// The base `name` with `adapters`; others may be loaded from the folder of `from`.
    pub fn new(
        name: String,
        model: &'static Model,
        adapters: Vec<NamedAdapter>,
        from: Option<(PathBuf, Open)>,
    ) -> Self {
        let created = now();
        let models = Models { base: name, model, created, from, inner: RwLock::default() };
        for adapter in adapters {
            models.add(adapter);
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
        let selected = |adapter, strength| Ok(Selected { name: name.to_owned(), adapter, strength });
        if name == self.base {
            return selected(None, 1.0);
        }
        let found = |name: &str| {
            let is_it = |adapter: &&Named| adapter.name == name;
            self.read(|inner| inner.adapters.iter().find(is_it).map(|a| (a.adapter.clone(), a.weight)))
        };
        if let Some((adapter, weight)) = found(name) {
            return selected(Some(adapter), weight);
        }
        let Some((before, behind)) = name.rsplit_once(':') else { return Err(self.unknown(name)) };
        if before == self.base {
            let why =
                format!(": the base has no strength; ask for `{before}`, or for an adapter at a strength");
            return Err(not_found(name, &why));
        }
        match (found(before), behind.parse::<f64>()) {
            (None, _) => Err(self.unknown(name)),
            (Some(_), Err(_)) => {
                let what = match behind.chars().take(LONGEST_NAME).collect::<String>() {
                    nothing if nothing.is_empty() => "nothing follows the colon".to_owned(),
                    shown => format!("`{shown}` is not a strength"),
                };
                Err(not_found(name, &format!(": {what}; give a number, as in {before}:0.7")))
            }
            (Some((adapter, weight)), Ok(1.0)) => selected(Some(adapter), weight),
            (Some((adapter, weight)), Ok(strength)) => {
                selected(Some(self.at_strength(&adapter, strength)?), product(weight, strength))
            }
        }
    }

    fn unknown(&self, name: &str) -> ApiError {
        let mut names = vec![format!("`{}`", self.base)];
        self.read(|inner| names.extend(inner.adapters.iter().take(8).map(|a| format!("`{}`", a.name))));
        not_found(name, &format!("; GET /v1/models lists all, such as {}", names.join(", ")))
    }

    /// An adapter whose update is multiplied by `strength`.
    fn at_strength(&self, adapter: &Numbered, strength: f64) -> Result<Numbered, ApiError> {
        // Factors are multiplied in f32.
        if !(strength as f32).is_normal() || strength.abs() > MOST_STRENGTH {
            let rule = format!(
                "has the strength {strength}; give one from -{MOST_STRENGTH} to {MOST_STRENGTH} that is not 0, or `{}` \
                 for the base alone",
                self.base
            );
            return Err(ApiError::field("model", rule));
        }
        let is_it = |kept: &(u64, f64, Numbered)| kept.0 == adapter.0 && kept.1 == strength;
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
        let weighted = [Weighted { adapter: &adapter.1, weight: strength }];
        let config = self.model.config();
        let mut weighed = combine(config, &weighted, &how)
            .and_then(|weighed| check_finite(&weighed, config).map(|()| weighed))
            .map_err(|error| ApiError::field("model", format!("cannot have a strength: {error}")))?;
        self.model.prepare(&mut weighed);
        weighed
            .hold_factors(adapter.1.factor_dtype())
            .map_err(|error| ApiError::field("model", format!("cannot have a strength: {error}")))?;
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
        let mut data = vec![object(&self.base, self.created, None)];
        self.read(|inner| {
            let adapter =
                |a: &Named| object(&a.name, a.created, Some((self.base.as_str(), a.weight, &a.warnings)));
            data.extend(inner.adapters.iter().map(adapter));
        });
        json!({"object": "list", "data": data})
    }

    /// One of [`Models::list`].
    ///
    /// # Errors
    /// As [`Models::select`].
    pub fn one(&self, name: &str) -> Result<Value, ApiError> {
        let selected = self.select(name)?;
        let list = self.list();
        let all = || list["data"].as_array().into_iter().flatten();
        if let Some(listed) = all().find(|model| model["id"] == name) {
            return Ok(listed.clone());
        }
        // An adapter at a strength: as the adapter, but for its name and weight.
        let of = name.rsplit_once(':').map_or(name, |(of, _)| of);
        let mut object = all().find(|model| model["id"] == of).cloned().ok_or_else(|| self.unknown(name))?;
        object["id"] = name.into();
        object["weight"] = selected.strength.into();
        Ok(object)
    }

    /// Loads the adapter of a folder below the one that was given for it.
    ///
    /// # Errors
    /// A name or a path that may not be, a name that is taken, and an adapter that cannot be opened.
    pub fn load(&self, name: &str, path: &str) -> Result<(), ApiError> {
        let Some((root, open)) = &self.from else { return Err(not_for_loading()) };
        if let Some(rule) = wrong_adapter_name(name) {
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
        let Opened { adapter, warnings } = open(&folder).map_err(|error| {
            // Nobody learns where on the server its folders are.
            let error = error.replace(&folder.display().to_string(), path);
            ApiError::field("path", format!("cannot be loaded: {error}"))
        })?;
        self.write(|inner| match is_taken(inner) {
            true => Err(taken()),
            false => {
                inner.add(NamedAdapter { name: name.to_owned(), weight: 1.0, adapter, warnings });
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

    fn add(&self, adapter: NamedAdapter) {
        self.write(|inner| inner.add(adapter));
    }

    fn read<T>(&self, read: impl FnOnce(&Inner) -> T) -> T {
        read(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, write: impl FnOnce(&mut Inner) -> T) -> T {
        write(&mut self.inner.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The error of a name that nothing has.
fn not_found(name: &str, why: &str) -> ApiError {
    let shown: String = name.chars().take(LONGEST_NAME).collect();
    let message = format!("there is no model `{shown}`{why}");
    let error = ApiError::new(StatusCode::NOT_FOUND, message).code("model_not_found");
    ApiError { field: Some("model".to_owned()), ..error }
}

impl Inner {
    fn add(&mut self, adapter: NamedAdapter) {
        self.next += 1;
        let NamedAdapter { name, weight, adapter, warnings } = adapter;
        let adapter = (self.next, Arc::new(adapter));
        self.adapters.push(Named { name, created: now(), weight, warnings, adapter });
    }
}

/// A model in OpenAI's list; `of` is the base of an adapter, the adapter's weight, and what is to be known of it.
fn object(id: &str, created: u64, of: Option<(&str, f64, &[String])>) -> Value {
    let (parent, weight) = (of.map(|of| of.0), of.map(|of| of.1));
    let warnings = of.map_or(&[][..], |of| of.2);
    json!({"id": id, "object": "model", "created": created, "owned_by": "lorafit", "parent": parent, "weight": weight,
           "warnings": warnings})
}

/// A product of numbers that people wrote, as short as they would write it: 3 times 0.1 is 0.3. Factors are multiplied in f32, which
/// has no more digits.
fn product(weight: f64, strength: f64) -> f64 {
    if weight == 1.0 || strength == 1.0 {
        return weight * strength;
    }
    let product = weight * strength;
    (product as f32).to_string().parse().unwrap_or(product)
}

fn not_for_loading() -> ApiError {
    let message =
        "this server loads no adapters while it runs; it has to be started with a folder for them and a key";
    ApiError::new(StatusCode::FORBIDDEN, message).code("loading_is_off")
}

/// Why an adapter cannot have this name: a request that has it in `model` would be read otherwise, or a path.
pub fn wrong_adapter_name(name: &str) -> Option<&'static str> {
    match name {
        "" => Some("is empty; give a name"),
        _ if name.len() > LONGEST_NAME => Some("is too long; give at most 64 letters"),
        _ if !is_plain(name) => {
            Some("has more than ASCII letters, digits, `-`, `_` and `.`, or begins with `.`; give another")
        }
        _ => None,
    }
}

/// Why the base cannot have this name: as for adapters, but it may be a hub id.
pub fn wrong_base_name(name: &str) -> Option<&'static str> {
    match name {
        "" => Some("is empty; give a name"),
        _ if name.len() > LONGEST_BASE_NAME => Some("is too long; give at most 200 letters"),
        _ if !name.split('/').all(is_plain) => Some(
            "has more than ASCII letters, digits, `-`, `_`, `.` and `/`, or a part that is empty or begins with `.`; give another",
        ),
        _ => None,
    }
}

fn is_plain(name: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && name.chars().all(fine) && !name.starts_with('.')
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
        None => {
            let shown: String = path.chars().take(80).collect();
            let message = format!(
                "`path`: there is no folder `{shown}` in the folder for adapters; links that lead out of it are refused"
            );
            Err(ApiError { field: Some("path".to_owned()), ..ApiError::bad(message) })
        }
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
            assert_eq!((wrong_adapter_name(name), wrong_base_name(name)), (None, None), "{name}");
        }
        assert_eq!(wrong_base_name("HuggingFaceTB/SmolLM2-135M"), None);
        for name in ["/", "a/", "/a", "a//b", "a/../b", "a/.b"] {
            assert!(wrong_base_name(name).is_some(), "{name}");
        }
        let long = "x".repeat(65);
        for name in ["", "..", ".x", "a\\b", "a:0.5", "ä", "a b", "a\0", "%2e%2e", &"x".repeat(201)] {
            assert!(wrong_adapter_name(name).is_some() && wrong_base_name(name).is_some(), "{name}");
        }
        assert!(wrong_adapter_name("a/b").is_some() && wrong_adapter_name(&long).is_some());
    }

    #[test]
    fn strengths_are_shown_as_they_were_written() {
        for (weight, strength, shown) in [
            (1.0, 0.7, "0.7"),
            (0.1, 3.0, "0.3"),
            (0.7, 0.1, "0.07"),
            (-2.25, -2.0, "4.5"),
            (0.7, 1.0, "0.7"),
        ] {
            assert_eq!(product(weight, strength).to_string(), shown, "{weight} and {strength}");
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
