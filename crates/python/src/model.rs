//! A model that stays open.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use lorafit::embed::{self, Prompt};
use pyo3::prelude::*;

use crate::call::{Working, watched};

/// A prompt as Python has it: a text, or messages of role and text.
#[derive(FromPyObject)]
enum PromptLike {
    Text(String),
    Chat(Vec<(String, String)>),
}

impl From<PromptLike> for Prompt {
    fn from(prompt: PromptLike) -> Self {
        match prompt {
            PromptLike::Text(text) => Prompt::Text(text),
            PromptLike::Chat(messages) => Prompt::Chat(messages),
        }
    }
}

/// A base with adapters.
#[pyclass(frozen, module = "lorafit._lorafit")]
pub struct Model {
    inner: Arc<embed::Model>,
}

#[pymethods]
impl Model {
    /// Opens a base with adapters: `words` are flags of `lorafit chat`.
    #[new]
    fn new(
        py: Python<'_>,
        words: Vec<OsString>,
        on_told: Py<PyAny>,
        program: Option<PathBuf>,
    ) -> PyResult<Self> {
        let inner = watched(py, Some(on_told), program, move |ears| embed::Model::open(ears, words))?;
        Ok(Model { inner: Arc::new(inner) })
    }

    /// The names of the adapters.
    fn adapters(&self) -> Vec<String> {
        self.inner.adapters()
    }

    /// Begins an answer; `words` are sampling flags of `lorafit generate`.
    fn generate(
        &self,
        prompt: PromptLike,
        parts: Vec<(String, f64)>,
        words: Vec<OsString>,
    ) -> PyResult<Answer> {
        let (model, prompt) = (self.inner.clone(), prompt.into());
        let working = Working::begin(None, move |ears| {
            let told = ears.clone();
            let mut piece = |text: &str| told.tell("piece", "", text.to_owned());
            model.generate(ears, &prompt, &parts, words, &mut piece)
        })?;
        Ok(Answer { working: Mutex::new(Some(Arc::new(working))) })
    }

    /// How likely a text is, as JSON.
    fn score(
        &self,
        py: Python<'_>,
        prompt: Option<PromptLike>,
        text: String,
        parts: Vec<(String, f64)>,
        on_told: Py<PyAny>,
    ) -> PyResult<String> {
        let (model, prompt) = (self.inner.clone(), prompt.map(Prompt::from));
        watched(py, Some(on_told), None, move |ears| {
            Ok(model.score(ears, prompt.as_ref(), &text, &parts)?.to_string())
        })
    }
}

/// An answer that is being written: an iterator over what is told, as kind and text.
#[pyclass(frozen, module = "lorafit._lorafit")]
pub struct Answer {
    /// `None` once it is over.
    working: Mutex<Option<Arc<Working<usize>>>>,
}

#[pymethods]
impl Answer {
    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<(&'static str, String)>> {
        let working = self.working.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(working) = working else { return Ok(None) };
        match working.next(py) {
            Ok(Some(told)) => Ok(Some((told.kind, told.hear()))),
            Ok(None) => {
                drop(working);
                let last = self.working.lock().unwrap_or_else(PoisonError::into_inner).take();
                // Another thread that waits for the same answer sees its end by itself.
                match last.and_then(Arc::into_inner) {
                    Some(working) => working.end(py).map(|_| None),
                    None => Ok(None),
                }
            }
            Err(signal) => {
                working.stop();
                Err(signal)
            }
        }
    }

    /// Ends it where it is.
    fn close(&self) {
        if let Some(working) = self.working.lock().unwrap_or_else(PoisonError::into_inner).take() {
            working.stop();
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.close();
    }
}
