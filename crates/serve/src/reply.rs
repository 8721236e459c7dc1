//! What of a request decides how its answers are written to the client.

use std::fmt::Write as _;

use lorafit_data::Tokenizer;

use crate::error::ApiError;
use crate::models::now;
use crate::tools::Offered;

/// What an answer is written as.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its name.
    pub id: String,
    /// When it was begun.
    pub created: u64,
    /// The model, as the request names it.
    pub model: String,
    /// Whether it answers a conversation, or continues a text.
    pub kind: Kind,
    /// How many answers there are.
    pub answers: usize,
    /// Tokens of all prompts.
    pub prompt_tokens: usize,
    /// Whether it is sent as it comes.
    pub stream: bool,
    /// Whether a stream ends with the numbers of tokens.
    pub usage: bool,
    /// Whether log-probabilities are listed.
    pub lists_tokens: bool,
    /// What becomes of calls of tools.
    pub calls: Calls,
    /// For the text of tokens.
    pub tokenizer: &'static Tokenizer,
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A conversation.
    Chat,
    /// A text.
    Completion,
}

/// What becomes of calls of tools in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Calls {
    /// There are no tools.
    None,
    /// Those of these tools are found in the text.
    Found(Vec<Offered>),
    /// The answer is a call, `{"name": ..., "arguments": ...}`.
    Whole,
    /// The answer is the arguments of a call of this tool.
    Of(String),
}

impl Kind {
    /// What a whole answer is called.
    pub fn object(self) -> &'static str {
        match self {
            Kind::Chat => "chat.completion",
            Kind::Completion => "text_completion",
        }
    }

    /// What a piece of an answer is called.
    pub fn chunk(self) -> &'static str {
        match self {
            Kind::Chat => "chat.completion.chunk",
            Kind::Completion => "text_completion",
        }
    }

    /// A fresh name, and the time.
    ///
    /// # Errors
    /// A system without random numbers.
    pub fn name(self) -> Result<(String, u64), ApiError> {
        let start = match self {
            Kind::Chat => "chatcmpl",
            Kind::Completion => "cmpl",
        };
        Ok((fresh(start)?, now()))
    }
}

/// A fresh name that begins with `start`.
///
/// # Errors
/// A system without random numbers.
pub fn fresh(start: &str) -> Result<String, ApiError> {
    let mut random = [0; 12];
    getrandom::fill(&mut random)
        .map_err(|error| ApiError::internal(format!("the system has no random numbers: {error}")))?;
    let mut name = format!("{start}-");
    random.iter().for_each(|byte| {
        let _ = write!(name, "{byte:02x}");
    });
    Ok(name)
}
