//! What every request is answered from.

use std::sync::Arc;
use std::time::Instant;

use axum::http::StatusCode;
use lorafit_data::{ChatTemplate, ModelLimits, Tokenizer};
use lorafit_model::{KvCache, Model, most_new_tokens};

use crate::constrain::Grammars;
use crate::error::ApiError;
use crate::events::{Inbox, channel};
use crate::guard::Guard;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::models::{Models, Numbered};
use crate::queue::{Job, Queue, Work};

/// Pieces of an answer that wait for a slow reader.
const MOST_WAITING: usize = 2048;

/// What every request is answered from.
pub struct Site {
    /// The base.
    pub model: &'static Model,
    /// Its tokenizer.
    pub tokenizer: &'static Tokenizer,
    /// How conversations are written, if the model says how.
    pub template: Option<ChatTemplate>,
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

    /// Refuses a prompt that the model cannot be given.
    ///
    /// # Errors
    /// No token, too many, and one that the model has not.
    pub fn check_prompt(&self, field: &str, ids: &[u32]) -> Result<(), ApiError> {
        let config = self.model.config();
        let beyond = |most: usize, why: &str| {
            let found = ids.len();
            ApiError::field(field, format!("has {found} tokens, and {most} is the most: {why}; shorten it"))
                .code("context_length_exceeded")
        };
        if ids.is_empty() {
            return Err(ApiError::field(field, "has no tokens; give some text"));
        }
        let context = config.context();
        if ids.len() > context {
            return Err(beyond(context, "the model is made for so many"));
        }
        if ids.len() > self.limits.prompt_tokens {
            return Err(beyond(self.limits.prompt_tokens, "the server takes no more"));
        }
        let limits = ModelLimits { vocab_size: Some(config.vocab_size), positions: config.positions() };
        limits.check(ids, self.tokenizer).map_err(|beyond| ApiError::bad(beyond.told(&format!("`{field}`"))))
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
                    "keys and values of the answer would take {needed}, and all that there is for them is {may}; ask for fewer tokens or answers"
                );
                Err(ApiError::new(StatusCode::BAD_REQUEST, message).code("too_large"))
            }
        }
    }
}
