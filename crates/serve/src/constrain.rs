//! Answers of a form that is asked for: JSON, JSON of a schema, or a text of a regular expression.

use lorafit_data::Tokenizer;
use serde_json::Value;

/// What an answer has to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Constraint {
    /// Any JSON object.
    JsonObject,
    /// JSON of this schema.
    JsonSchema(Value),
    /// A text that this regular expression describes as a whole.
    Regex(String),
}

/// What of a tokenizer every constraint needs, made once.
pub struct Grammars {}

/// A constraint on its way through one answer.
pub struct Guide {}

impl Grammars {
    /// For `tokenizer`, whose model has logits of `vocabulary` tokens.
    ///
    /// # Errors
    /// A tokenizer that constraints cannot be computed of, in words.
    pub fn new(_tokenizer: &Tokenizer, _vocabulary: usize) -> Result<Self, String> {
        Ok(Grammars {})
    }

    /// Begins an answer.
    ///
    /// # Errors
    /// Why the constraint cannot be kept, for the client to read.
    pub fn begin(&self, _constraint: &Constraint) -> Result<Guide, String> {
        Err("answers of a form are not there yet".to_owned())
    }
}

impl Guide {
    /// Makes the logits of all that may not follow minus infinity.
    pub fn mask(&mut self, _logits: &mut [f32]) {}

    /// Goes on by a token.
    pub fn accept(&mut self, _token: u32) {}

    /// Whether the answer may end here.
    pub fn is_complete(&self) -> bool {
        true
    }
}
