//! Requests that wait for the engine, in the order in which they came, and no more than a limit.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;

use crate::constrain::Guide;
use crate::error::ApiError;
use crate::events::Outbox;
use crate::held_calls::HeldCalls;
use crate::models::Numbered;
use crate::sampler::Choosing;

/// A request as the engine gets it.
pub struct Job {
    /// What is to be computed.
    pub work: Work,
    /// With which adapter.
    pub adapter: Option<Numbered>,
    /// Where results go.
    pub outbox: Outbox,
    /// When it came.
    pub arrived: Instant,
    /// When it ends at the latest.
    pub deadline: Instant,
    /// Bytes of keys and values that it may come to need.
    pub bytes: u64,
}

/// What is to be computed.
pub enum Work {
    /// Answers, side by side.
    Answers(Answers),
    /// Something of whole texts, one after the other.
    Texts {
        /// Their tokens.
        texts: Vec<Vec<u32>>,
        /// What of them.
        wanted: Wanted,
    },
}

/// What is wanted of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The mean of its tokens' hidden states.
    Mean,
    /// The hidden state of its last token.
    Last,
    /// The log-probability of each token but the first.
    LogProbabilities,
}

/// Answers to a request.
pub struct Answers {
    /// Each with its prompt.
    pub planned: Vec<Planned>,
    /// How many of them, one behind the other, have the same prompt.
    pub to_each: usize,
    /// How tokens are chosen.
    pub choosing: Arc<Choosing>,
    /// Texts that end an answer.
    pub stops: Vec<String>,
    /// Whether tokens that are no text are shown: some models mark calls of tools by them.
    pub shows_special: bool,
    /// Of the adapter; 1 of the base.
    pub strength: f64,
}

/// An answer that is to be computed.
pub struct Planned {
    /// The tokens before it.
    pub prompt: Vec<u32>,
    /// What its draws depend on.
    pub seed: u64,
    /// Tokens of the longest answer.
    pub room: usize,
    /// The form that it has to have.
    pub guide: Option<Guide>,
    /// What holds calls of tools in it to their schemas.
    pub calls: Option<HeldCalls>,
}

/// The requests that wait.
pub struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
    most: usize,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Job>,
    state: State,
}

/// Whether there will be more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Requests are taken.
    #[default]
    Open,
    /// What is there is computed, and nothing new is taken.
    Draining,
    /// Nothing is computed any more.
    Ended,
}

impl Queue {
    /// A queue for `most` requests.
    pub fn new(most: usize) -> Self {
        Queue { inner: Mutex::default(), changed: Condvar::new(), most }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a request at the end.
    ///
    /// # Errors
    /// A queue that is full, or a server that is ending.
    pub fn push(&self, job: Job) -> Result<(), ApiError> {
        let mut inner = self.inner();
        if inner.state != State::Open {
            return Err(ApiError::ending());
        }
        if inner.waiting.len() >= self.most {
            let message =
                format!("{} requests wait already, and no more are taken; ask again later", self.most);
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).code("queue_full"));
        }
        inner.waiting.push_back(job);
        self.changed.notify_one();
        Ok(())
    }

    /// Takes the first request if `fits` says so.
    pub fn pop(&self, fits: impl FnOnce(&Job) -> bool) -> Option<Job> {
        let mut inner = self.inner();
        match inner.waiting.front().is_some_and(fits) {
            true => inner.waiting.pop_front(),
            false => None,
        }
    }

    /// Takes out requests that are not to be kept.
    pub fn retain(&self, keep: impl FnMut(&mut Job) -> bool) {
        self.inner().waiting.retain_mut(keep);
    }

    /// Waits for a change, but not longer than `time`.
    pub fn wait(&self, time: Duration) {
        let inner = self.inner();
        if inner.waiting.is_empty() && inner.state != State::Ended {
            drop(self.changed.wait_timeout(inner, time));
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.inner().waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there will be more.
    pub fn state(&self) -> State {
        self.inner().state
    }

    /// Says whether there will be more.
    pub fn set(&self, state: State) {
        self.inner().state = state;
        self.changed.notify_all();
    }
}
