//! What a model can be given: tokens that its embedding has, and no more of them than its attention reaches.

use crate::tokenizer::Tokenizer;

/// Limits of a model; of what is `None` there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ModelLimits {
    /// Tokens of its embedding, where the tokenizer knows more.
    pub vocab_size: Option<usize>,
    /// Tokens that its attention reaches back. Attention here always sees the whole row.
    pub window: Option<usize>,
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
    /// It is longer than the model's attention reaches.
    Window {
        /// Its tokens.
        tokens: usize,
        /// Tokens of the answer that is to follow; 0 if none is.
        further: usize,
        /// As far as attention reaches.
        window: usize,
    },
}

impl ModelLimits {
    /// Refuses `ids`, which up to `further` tokens follow, if a model of these limits cannot be given them.
    ///
    /// # Errors
    /// The first limit that is exceeded.
    pub fn check(self, ids: &[u32], further: usize, tokenizer: &Tokenizer) -> Result<(), BeyondModel> {
        if let Some(vocab_size) = self.vocab_size
            && let Some(id) = ids.iter().copied().find(|id| *id as usize >= vocab_size)
        {
            let token = tokenizer.id_to_token(id).unwrap_or_default();
            return Err(BeyondModel::Token { token, id, vocab_size });
        }
        match self.window {
            Some(window) if ids.len().saturating_add(further) > window => {
                Err(BeyondModel::Window { tokens: ids.len(), further, window })
            }
            Some(_) | None => Ok(()),
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
            Self::Window { tokens, further, window } => {
                let answer = match further {
                    0 => String::new(),
                    further => format!(" and its answer up to {further}"),
                };
                format!(
                    "{what} has {tokens} tokens{answer}, but the model's attention reaches back {window}, and longer rows are \
                     not supported"
                )
            }
        }
    }

    /// What the user can do next.
    pub fn hint(&self) -> String {
        match self {
            Self::Token { .. } => "the tokenizer knows more tokens than the model: leave rows with such tokens out \
                                   (--skip-bad-rows), or enlarge the embedding in transformers (resize_token_embeddings) \
                                   and save the model"
                .into(),
            Self::Window { further: 0, window, .. } => format!("cut rows with --max-seq-len {window}"),
            Self::Window { tokens, window, .. } => match window.checked_sub(*tokens) {
                None | Some(0) => format!("give a prompt of fewer than {window} tokens"),
                Some(left) => format!("answer with at most --max-new-tokens {left}"),
            },
        }
    }
}
