//! What a model can be given: tokens that its embedding has.

use crate::tokenizer::Tokenizer;

/// Limits of a model; of what is `None` there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ModelLimits {
    /// Tokens of its embedding, where the tokenizer knows more.
    pub vocab_size: Option<usize>,
}

/// Why a model cannot be given a row: it has a token that the model has not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeyondModel {
    /// The token's text.
    pub token: String,
    /// Its id.
    pub id: u32,
    /// Tokens of the model.
    pub vocab_size: usize,
}

impl ModelLimits {
    /// Refuses `ids` if a model of these limits cannot be given them.
    ///
    /// # Errors
    /// The first token that the model has not.
    pub fn check(self, ids: &[u32], tokenizer: &Tokenizer) -> Result<(), BeyondModel> {
        let Some(vocab_size) = self.vocab_size else { return Ok(()) };
        match ids.iter().copied().find(|id| *id as usize >= vocab_size) {
            Some(id) => {
                Err(BeyondModel { token: tokenizer.id_to_token(id).unwrap_or_default(), id, vocab_size })
            }
            None => Ok(()),
        }
    }
}

impl BeyondModel {
    /// In words, of the row or prompt that is called `what`.
    pub fn told(&self, what: &str) -> String {
        let Self { token, id, vocab_size } = self;
        format!("{what} has the token `{token}` ({id}), but the model's embedding has {vocab_size} tokens")
    }

    /// What the user can do next.
    pub fn hint(&self) -> String {
        "the tokenizer knows more tokens than the model: leave rows with such tokens out (--skip-bad-rows), or enlarge the \
         embedding in transformers (resize_token_embeddings) and save the model"
            .into()
    }
}
