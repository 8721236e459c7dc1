//! What a model can be given: tokens that its embedding has, and as many as it has positions.

use lorafit_remedy::{Remedy, Setting, remedy};

use crate::tokenizer::Tokenizer;

/// Limits of a model; of what is `None` there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ModelLimits {
    /// Tokens of its embedding, where the tokenizer knows more.
    pub vocab_size: Option<usize>,
    /// Its positions, where each has a vector that was learned (GPT-2).
    pub positions: Option<usize>,
}

/// Why a model cannot be given a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BeyondModel {
    /// It has a token that the model has not.
    Token {
        /// The token's text.
        token: String,
        /// Its id.
        id: u32,
        /// Tokens of the model.
        vocab_size: usize,
    },
    /// It is longer than there are positions.
    Length {
        /// Tokens of the row.
        tokens: usize,
        /// Positions of the model.
        positions: usize,
    },
}

impl ModelLimits {
    /// Refuses `ids` if a model of these limits cannot be given them.
    ///
    /// # Errors
    /// More tokens than there are positions, or the first token that the model has not.
    pub fn check(self, ids: &[u32], tokenizer: &Tokenizer) -> Result<(), BeyondModel> {
        if let Some(positions) = self.positions.filter(|positions| ids.len() > *positions) {
            return Err(BeyondModel::Length { tokens: ids.len(), positions });
        }
        let Some(vocab_size) = self.vocab_size else { return Ok(()) };
        match ids.iter().copied().find(|id| *id as usize >= vocab_size) {
            Some(id) => {
                let token = tokenizer.id_to_token(id).unwrap_or_default();
                Err(BeyondModel::Token { token, id, vocab_size })
            }
            None => Ok(()),
        }
    }
}

impl BeyondModel {
    /// In words, of the row or prompt that is called `what`.
    pub fn told(&self, what: &str) -> String {
        match self {
            Self::Token { token, id, vocab_size } => format!(
                "{what} has the token `{token}` ({id}), but the model's embedding has {vocab_size} tokens"
            ),
            Self::Length { tokens, positions } => {
                format!(
                    "{what} has {tokens} tokens, but the model has a vector for {positions} positions and no more"
                )
            }
        }
    }

    /// What the user can do next.
    pub fn hint(&self) -> Remedy {
        match self {
            Self::Token { .. } => remedy![
                "leave rows with such tokens out with ", Setting::SkipBadRows;
                "enlarge the embedding in transformers (resize_token_embeddings) and save the model"
            ]
            .because("the tokenizer knows more tokens than the model"),
            Self::Length { positions, .. } => remedy![
                "cut longer rows with ", Setting::MaxSeqLen.is(positions.to_string());
                "leave them out with ", Setting::SkipBadRows;
                "give a shorter prompt, which leaves room for the answer"
            ],
        }
    }
}
