//! What every request is answered from.

use std::sync::Arc;
use std::time::Instant;

use axum::http::StatusCode;
use lorafit_data::{BeyondModel, ChatTemplate, ModelLimits, Tokenizer};
use lorafit_model::{KvCache, Model, most_new_tokens};

use crate::constrain::Grammars;
use crate::error::ApiError;
use crate::events::{Inbox, channel};
use crate::guard::Guard;
use crate::held_calls::CallSyntax;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::models::{Models, Numbered};
use crate::page::Page;
use crate::queue::{Job, Queue, Work};
use crate::unwritten::Written;
use crate::views::Views;

/// More bytes than a token of most texts has.
const BYTES_OF_TOKEN: usize = 6;
/// Tokens at the end of a text that may be others where it goes on.
const CHANGED_BY_CUT: usize = 64;
/// Pieces of an answer that wait for a slow reader.
const MOST_WAITING: usize = 2048;

/// What every request is answered from.
pub struct Site {
    /// The base.
    pub model: &'static Model,
    /// Its tokenizer.
    pub tokenizer: &'static Tokenizer,
    /// Bytes of the longest token.
    pub longest_token: usize,
    /// How conversations are written, if the model says how.
    pub template: Option<ChatTemplate>,
    /// How that template writes a call of a tool, where calls can be held to it.
    pub call_syntax: Option<CallSyntax>,
    /// Which messages that template writes.
    pub written: Written,
    /// Forms that answers can have, or why they cannot.
    pub grammars: Result<Grammars, String>,
    /// Base and adapters by name.
    pub models: Models,
    /// What is taken from clients.
    pub limits: Limits,
    /// Who may ask.
    pub guard: Guard,
    /// The way to the engine.
    pub queue: Arc<Queue>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The page at `/`.
    pub page: Page,
    /// What the page shows beside the chat.
    pub views: Views,
    /// Held by the question of a view that is answered: others wait, and hold up no thread that reads requests.
    pub answers_view: Arc<tokio::sync::Mutex<()>>,
}

impl Site {
    /// Sends work to the engine.
    ///
    /// # Errors
    /// A queue that is full.
    pub fn send(&self, work: Work, adapter: Option<Numbered>, arrived: Instant) -> Result<Inbox, ApiError> {
        // Beside its pieces an answer has an end, and may have some text left before it.
        let (bytes, events) = match &work {
            Work::Texts { texts, .. } => (0, texts.len()),
            Work::Answers(answers) => {
                let planned = answers.planned.iter();
                let bytes = planned.clone().map(|p| self.bytes(p.prompt.len() + p.room)).sum();
                (bytes, planned.map(|p| p.room.min(MOST_WAITING) + 2).sum())
            }
        };
        let (outbox, inbox) = channel(events + 1);
        let deadline = arrived + self.limits.request_time;
        self.queue.push(Job { work, adapter, outbox, arrived, deadline, bytes })?;
        Ok(inbox)
    }

    /// Bytes of the keys and values of so many tokens.
    fn bytes(&self, tokens: usize) -> u64 {
        KvCache::bytes(self.model.config(), self.model.device().placement(), tokens)
    }

    /// Tokens of the longest prompt.
    fn most_tokens(&self) -> usize {
        self.model.config().context().min(self.limits.prompt_tokens)
    }

    /// The error of a prompt of too many tokens: of `found`, where they were counted.
    fn beyond(&self, field: &str, found: Option<usize>) -> ApiError {
        let most = self.most_tokens();
        let who = match most == self.limits.prompt_tokens {
            true => "this server takes",
            false => "this model can read",
        };
        let rule = match found {
            Some(found) => format!("has {found} tokens, more than the {most} that {who}; shorten it"),
            None => format!("has more than the {most} tokens that {who}; shorten it"),
        };
        ApiError::field(field, rule).code("context_length_exceeded")
    }

    /// Refuses a text of so many bytes if it is too long whatever its tokens are.
    ///
    /// # Errors
    /// As it says.
    pub fn check_bytes(&self, field: &str, bytes: usize) -> Result<(), ApiError> {
        let most = self.most_tokens();
        match bytes > most.saturating_mul(self.longest_token) {
            true => Err(self.beyond(field, None)),
            false => Ok(()),
        }
    }

    /// The tokens of a text that the model can be given; `add_special` with those that begin one.
    ///
    /// # Errors
    /// As [`Site::check_prompt`].
    pub fn encode(&self, field: &str, text: &str, add_special: bool) -> Result<Vec<u32>, ApiError> {
        self.check_bytes(field, text.len())?;
        let encode = |text: &str| {
            let ids = self.tokenizer.encode(text, add_special);
            ids.map_err(|error| ApiError::field(field, error.to_string()))
        };
        // A text that is far too long shows it at its beginning, which takes less time. Where it is cut, few tokens change.
        let most = self.most_tokens();
        let mut beginning = most.saturating_mul(BYTES_OF_TOKEN).min(text.len());
        while !text.is_char_boundary(beginning) {
            beginning -= 1;
        }
        if beginning < text.len() / 2 && encode(&text[..beginning])?.len() > most + CHANGED_BY_CUT {
            return Err(self.beyond(field, None));
        }
        let ids = encode(text)?;
        self.check_prompt(field, &ids)?;
        Ok(ids)
    }

    /// Refuses a prompt that the model cannot be given.
    ///
    /// # Errors
    /// No token, too many, and one that the model has not.
    pub fn check_prompt(&self, field: &str, ids: &[u32]) -> Result<(), ApiError> {
        let config = self.model.config();
        if ids.is_empty() {
            return Err(ApiError::field(field, "has no tokens; give some text"));
        }
        if ids.len() > self.most_tokens() {
            return Err(self.beyond(field, Some(ids.len())));
        }
        let limits = ModelLimits { vocab_size: Some(config.vocab_size), positions: config.positions() };
        limits.check(ids, self.tokenizer).map_err(|beyond| match beyond {
            BeyondModel::Token { id, vocab_size, .. } => {
                let last = vocab_size.saturating_sub(1);
                ApiError::field(field, format!("has the token id {id}; ids of this model go up to {last}"))
            }
            BeyondModel::Length { tokens, .. } => self.beyond(field, Some(tokens)),
        })
    }

    /// Tokens of each of `answers` answers to `prompts`, of which each is one that [`Site::check_prompt`] takes: as many as were
    /// asked for, or `otherwise` as many as there may be, within the model's context.
    ///
    /// # Errors
    /// No room in the context, or in the memory for keys and values.
    pub fn rooms(
        &self,
        prompts: &[Vec<u32>],
        answers: usize,
        asked: Option<usize>,
        otherwise: usize,
    ) -> Result<Vec<usize>, ApiError> {
        let config = self.model.config();
        // What is not asked for is cut to what fits.
        let tokens: usize = prompts.iter().map(Vec::len).sum();
        let of_one = self.bytes(1).max(1);
        let fit = (self.limits.cache_bytes / of_one) as usize / answers.max(1);
        let left = fit.saturating_sub(tokens) / prompts.len().max(1);
        let most = asked.unwrap_or(otherwise.min(left).max(1));
        let room = |prompt: &Vec<u32>| match prompt.len() < config.context() {
            true => most_new_tokens(config, prompt.len(), most),
            false => 0,
        };
        let rooms: Vec<usize> = prompts.iter().map(room).collect();
        if rooms.contains(&0) {
            let message = format!(
                "the prompt fills the {} tokens that the model is made for, so that none is left for an answer; shorten it",
                config.context()
            );
            return Err(ApiError::bad(message).code("context_length_exceeded"));
        }
        let needed: u64 =
            prompts.iter().zip(&rooms).map(|(prompt, room)| self.bytes(prompt.len() + room)).sum::<u64>()
                * answers as u64;
        match needed <= self.limits.cache_bytes {
            true => Ok(rooms),
            false => {
                let [needed, may] = [needed, self.limits.cache_bytes].map(lorafit_remedy::amounts::memory);
                let message = format!(
                    "this answer may need {needed} and the server has {may}; lower `max_tokens` or `n`, or shorten the prompt"
                );
                Err(ApiError::new(StatusCode::BAD_REQUEST, message).code("too_large"))
            }
        }
    }
}
