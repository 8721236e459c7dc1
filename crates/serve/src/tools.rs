//! Calls of tools, found in what a model writes.

use serde_json::Value;

/// A call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The tool's name.
    pub name: String,
    /// What it is called with.
    pub arguments: Value,
}

/// An answer, parted into text and calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The text beside the calls.
    pub content: Option<String>,
    /// The calls, in order.
    pub calls: Vec<Call>,
}

/// A part of an answer as it comes.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Text beside calls.
    Text(String),
    /// A whole call.
    Call(Call),
}

/// An answer of which pieces come.
#[derive(Debug, Default)]
pub struct CallStream {}

/// Finds the calls of a whole answer.
pub fn split_calls(text: &str) -> Answer {
    Answer { content: Some(text.to_owned()), calls: Vec::new() }
}

impl CallStream {
    /// At the beginning of an answer.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is certain after one more piece of text.
    pub fn push(&mut self, piece: &str) -> Vec<Piece> {
        vec![Piece::Text(piece.to_owned())]
    }

    /// What is left at the end.
    pub fn finish(self) -> Vec<Piece> {
        Vec::new()
    }
}
