//! Views of the page at `/` beside the chat. Whoever starts the server gives them: what they show is nothing that this crate knows.
//!
//! A view is a part of the page and a function that answers it. Its script calls `view(name, opened)` and asks `ask(name, question)`,
//! which sends `POST /views/NAME` with the key that the page was given; [`crate::page`] says what else scripts may use.

use serde_json::{Map, Value};

/// Answers what a view asks, or says in words why it cannot.
pub type AnswerView = Box<dyn Fn(&Map<String, Value>) -> Result<Value, String> + Send + Sync>;

/// A view of the page.
pub struct View {
    /// Its name, in the address of the page (`/#runs`) and of its questions (`POST /views/runs`): lower-case letters.
    pub name: &'static str,
    /// What links to it.
    pub title: &'static str,
    /// Its heading.
    pub heading: String,
    /// Its part of the page, as HTML.
    pub html: String,
    /// Its style.
    pub style: &'static str,
    /// Its script.
    pub script: &'static str,
    /// What answers it, one question at a time.
    pub answer: AnswerView,
}

/// The views of a page.
#[derive(Default)]
pub struct Views {
    /// In the order in which the page links to them.
    pub views: Vec<View>,
    /// The style that they share.
    pub style: String,
    /// The script that they share, which runs before those of views.
    pub script: &'static str,
}

impl Views {
    /// The view of this name.
    pub fn named(&self, name: &str) -> Option<&View> {
        self.views.iter().find(|view| view.name == name)
    }
}
