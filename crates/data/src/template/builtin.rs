//! Chat templates that are built in: to give a base model one, or to train on another than the
//! model's own. Each is written from the public documentation of its format.

use std::path::Path;

use super::{LONGEST_SOURCE, TemplateError};

/// A built-in chat template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Builtin {
    /// `<|im_start|>role` … `<|im_end|>` (OpenAI's Chat Markup Language).
    Chatml,
    /// `<|start_header_id|>role<|end_header_id|>` … `<|eot_id|>` (Meta, Llama 3 model card).
    Llama3,
    /// `[INST]` … `[/INST]` (Mistral's instruct models), with the system message before the first request.
    Mistral,
    /// `### Instruction:` … `### Response:` (Stanford Alpaca).
    Alpaca,
}

impl Builtin {
    /// Every built-in template.
    pub const ALL: [Self; 4] = [Self::Chatml, Self::Llama3, Self::Mistral, Self::Alpaca];

    /// What users call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chatml => "chatml",
            Self::Llama3 => "llama-3",
            Self::Mistral => "mistral",
            Self::Alpaca => "alpaca",
        }
    }

    /// The template of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|b| b.name() == name)
    }

    /// The template.
    pub fn source(self) -> &'static str {
        match self {
            Self::Chatml => include_str!("builtin/chatml.jinja"),
            Self::Llama3 => include_str!("builtin/llama-3.jinja"),
            Self::Mistral => include_str!("builtin/mistral.jinja"),
            Self::Alpaca => include_str!("builtin/alpaca.jinja"),
        }
    }

    /// The tokens that the vocabulary must have: as plain text they would not end a turn. The others end it with the
    /// model's own end-of-sequence token.
    pub fn tokens(self) -> &'static [&'static str] {
        match self {
            Self::Chatml => &["<|im_start|>", "<|im_end|>"],
            Self::Llama3 => &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
            Self::Mistral | Self::Alpaca => &[],
        }
    }
}

/// Reads the file of a template.
pub(crate) fn read(path: &Path) -> Result<String, TemplateError> {
    let unreadable = |message: String| TemplateError::Unreadable { path: path.to_owned(), message };
    let bytes = std::fs::metadata(path).map_err(|e| unreadable(e.to_string()))?.len();
    if bytes > LONGEST_SOURCE as u64 {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        return Err(TemplateError::TooLong { bytes, limit: LONGEST_SOURCE });
    }
    std::fs::read_to_string(path).map_err(|e| unreadable(e.to_string()))
}
