//! The one thread that computes: it takes requests from the queue when they fit, continues all of them side by side, and hands on
//! what comes of them.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use lorafit_data::Tokenizer;
use lorafit_model::adapter::Adapter;
use lorafit_model::{Asked, Engine, EngineLimits, Model, Next, SequenceId};

use crate::error::ApiError;
use crate::events::{Event, Outbox};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::models::Numbered;
use crate::queue::{Job, Queue, State, Wanted, Work};
use crate::running::{Of, Running};

/// Tokens of a prompt that are computed at once.
const PREFILL_TOKENS: usize = 128;
/// Prompts of which a piece is computed in a round. With one, many short requests would wait for each other; all pieces together are
/// what running answers wait for.
const PIECES: usize = 4;
/// How long the thread sleeps when there is nothing to do, before it looks at the clock again.
const NAP: Duration = Duration::from_millis(100);
/// Requests for whole texts that are taken in turn.
const MOST_TEXTS: usize = 8;

/// What computes, and what is being computed.
pub struct Worker {
    model: &'static Model,
    tokenizer: &'static Tokenizer,
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    limits: Limits,
    engine: Engine<'static, Arc<Adapter>>,
    numbered: u64,
    requests: HashMap<u64, Request>,
    running: HashMap<SequenceId, Running>,
    texts: VecDeque<Texts>,
    /// The adapters of requests that were taken, by their numbers.
    adapters: HashMap<u64, Weak<Adapter>>,
}

/// A request whose answers are being computed.
struct Request {
    outbox: Outbox,
    arrived: Instant,
    deadline: Instant,
    bytes: u64,
    /// Answers that are not over.
    left: usize,
    /// Whether nobody wants more of it.
    cut: bool,
}

/// Texts of which something is computed, one in each round.
struct Texts {
    outbox: Outbox,
    deadline: Instant,
    adapter: Option<Numbered>,
    texts: Vec<Vec<u32>>,
    next: usize,
    wanted: Wanted,
}

impl Worker {
    /// A worker that has nothing to do yet.
    pub fn new(
        model: &'static Model,
        tokenizer: &'static Tokenizer,
        queue: Arc<Queue>,
        metrics: Arc<Metrics>,
        limits: Limits,
    ) -> Self {
        Worker {
            model,
            tokenizer,
            queue,
            metrics,
            limits,
            engine: engine(model, &limits),
            numbered: 0,
            requests: HashMap::new(),
            running: HashMap::new(),
            texts: VecDeque::new(),
            adapters: HashMap::new(),
        }
    }

    /// Computes until the queue ends.
    pub fn run(mut self) {
        while self.queue.state() != State::Ended {
            if self.queue.state() == State::Draining && self.is_idle() {
                self.queue.set(State::Ended);
            }
            let busy = catch_unwind(AssertUnwindSafe(|| self.round())).unwrap_or_else(|_| {
                self.start_again();
                true
            });
            let (running, kept) = self.engine.cache_bytes();
            self.metrics.cache_bytes.set(running + kept);
            if !busy {
                self.queue.wait(NAP);
            }
        }
        let ending = |outbox: &Outbox| outbox.fail(ApiError::cut());
        self.requests.values().for_each(|request| ending(&request.outbox));
        self.texts.iter().for_each(|texts| ending(&texts.outbox));
        self.queue.retain(|job| {
            ending(&job.outbox);
            false
        });
    }

    /// Takes what fits, and computes one token of every answer and something of one text; says whether there was anything to do.
    fn round(&mut self) -> bool {
        self.give_up();
        self.forget_unloaded();
        while let Some(job) = self.queue.pop(|job| self.fits(job)) {
            self.take(job);
        }
        self.metrics.running.set((self.running.len() + self.texts.len()) as u64);
        let answered = self.step();
        self.compute_text() || answered
    }

    /// Gives back what is remembered of adapters that nobody holds any more: they were unloaded, and their answers are over.
    fn forget_unloaded(&mut self) {
        let engine = &mut self.engine;
        self.adapters.retain(|number, adapter| {
            let is_held = adapter.strong_count() > 0;
            if !is_held {
                engine.forget(*number);
            }
            is_held
        });
    }

    /// Whether nothing waits and nothing is being computed.
    fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.texts.is_empty() && self.queue.is_empty()
    }

    /// Bytes that running answers may come to need.
    fn reserved(&self) -> u64 {
        self.requests.values().map(|request| request.bytes).sum()
    }

    fn fits(&self, job: &Job) -> bool {
        match &job.work {
            Work::Texts { .. } => self.texts.len() < MOST_TEXTS,
            // What would never fit was refused before; alone, everything else does.
            Work::Answers(_) if self.running.is_empty() => true,
            Work::Answers(answers) => {
                self.running.len() + answers.planned.len() <= self.limits.sequences
                    && self.reserved() + job.bytes <= self.limits.cache_bytes
            }
        }
    }

    fn take(&mut self, job: Job) {
        let Job { work, adapter, outbox, arrived, deadline, bytes } = job;
        if let Some((number, adapter)) = &adapter {
            self.adapters.insert(*number, Arc::downgrade(adapter));
        }
        outbox.send(Event::Began);
        match work {
            Work::Texts { texts, wanted } => {
                self.texts.push_back(Texts { outbox, deadline, adapter, texts, next: 0, wanted });
            }
            Work::Answers(mut answers) => {
                self.numbered += 1;
                let request = self.numbered;
                let mut planned = std::mem::take(&mut answers.planned);
                let has_begun = Arc::default();
                let of = Of { request, answers: &answers, outbox: &outbox, arrived, has_begun: &has_begun };
                let prompts = planned.iter().step_by(answers.to_each);
                self.metrics.prompt_tokens.add(prompts.map(|planned| planned.prompt.len() as u64).sum());
                for (index, planned) in planned.iter_mut().enumerate() {
                    let running = Running::new(&of, index, planned, self.tokenizer, &self.metrics);
                    let prompt = std::mem::take(&mut planned.prompt);
                    let id = self.engine.begin(prompt, adapter.clone(), planned.room);
                    self.running.insert(id, running);
                }
                let left = planned.len();
                self.requests.insert(request, Request { outbox, arrived, deadline, bytes, left, cut: false });
            }
        }
        self.engine.evict(self.limits.cache_bytes.saturating_sub(self.reserved()));
    }

    /// Ends what nobody waits for any more, and what takes too long.
    fn give_up(&mut self) {
        let now = Instant::now();
        let seconds = self.limits.request_time.as_secs();
        let is_over = |outbox: &Outbox, deadline: Instant| {
            if now >= deadline {
                let message = format!(
                    "the request took more than the {seconds} s that it may take; ask for fewer tokens, or when there is less to do"
                );
                outbox.fail(ApiError::new(StatusCode::GATEWAY_TIMEOUT, message).code("time_limit"));
            }
            outbox.is_over()
        };
        self.queue.retain(|job| !is_over(&job.outbox, job.deadline));
        self.texts.retain(|texts| !is_over(&texts.outbox, texts.deadline));
        let gone = self.requests.iter().filter(|(_, request)| is_over(&request.outbox, request.deadline));
        let gone: Vec<u64> = gone.map(|(number, _)| *number).collect();
        if gone.is_empty() {
            return;
        }
        let Worker { engine, running, requests, .. } = self;
        running.retain(|id, running| {
            let stays = !gone.contains(&running.request);
            if !stays {
                engine.end(*id);
            }
            stays
        });
        gone.iter().for_each(|number| drop(requests.remove(number)));
    }

    /// Computes a round of all answers.
    fn step(&mut self) -> bool {
        let Worker { engine, running, requests, metrics, .. } = self;
        let mut choose = |asked: Asked, logits: &mut [f32]| match running.get_mut(&asked.id) {
            Some(running) => running.next(logits, asked.reused).map_or(Next::End, Next::Token),
            None => Next::End,
        };
        let busy = engine.step(&mut choose);
        running.retain(|_, running| {
            if running.over
                && let Some(request) = requests.get_mut(&running.request)
            {
                request.left -= 1;
                request.cut |= running.cut;
            }
            !running.over
        });
        requests.retain(|_, request| {
            if request.left == 0 && !request.cut {
                metrics.whole.add(request.arrived.elapsed());
            }
            request.left > 0
        });
        busy
    }

    /// Computes what is wanted of one text.
    fn compute_text(&mut self) -> bool {
        let Some(mut of) = self.texts.pop_front() else { return false };
        let ids = &of.texts[of.next];
        let adapter = of.adapter.as_ref().map(|(_, adapter)| &**adapter);
        let values = match of.wanted {
            Wanted::LogProbabilities => self.model.log_probabilities(adapter, ids),
            Wanted::Mean | Wanted::Last => {
                let states = self.model.hidden_states(adapter, ids);
                pooled(&states, states.len() / ids.len(), of.wanted)
            }
        };
        self.metrics.prompt_tokens.add(ids.len() as u64);
        of.outbox.send(Event::Values { index: of.next, values });
        of.next += 1;
        if of.next < of.texts.len() {
            self.texts.push_back(of);
        }
        true
    }

    /// After a panic, of which nobody knows what it left: all that was being computed ends, and later requests find a new engine.
    fn start_again(&mut self) {
        self.metrics.panics.add(1);
        let fail = |outbox: &Outbox| {
            outbox.fail(ApiError::internal("a fault of the server ended this answer; ask again"));
        };
        self.requests.drain().for_each(|(_, request)| fail(&request.outbox));
        self.texts.drain(..).for_each(|texts| fail(&texts.outbox));
        self.running.clear();
        self.engine = engine(self.model, &self.limits);
    }
}

fn engine(model: &'static Model, limits: &Limits) -> Engine<'static, Arc<Adapter>> {
    let kept_bytes = limits.cache_bytes;
    Engine::new(model, EngineLimits { prefill_tokens: PREFILL_TOKENS, pieces: PIECES, kept_bytes })
}

/// One vector of unit length for all tokens of a text.
fn pooled(states: &[f32], width: usize, wanted: Wanted) -> Vec<f32> {
    let rows = states.chunks_exact(width);
    let mut sum = vec![0.0_f64; width];
    let rows = match wanted {
        Wanted::Last => rows.rev().take(1).collect::<Vec<_>>(),
        Wanted::Mean | Wanted::LogProbabilities => rows.collect(),
    };
    for row in rows {
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    let length = sum.iter().map(|value| value * value).sum::<f64>().sqrt();
    let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
    sum.into_iter().map(|value| (value * scale) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_of_texts_have_unit_length() {
        let states = [3.0, 0.0, 0.0, 4.0];
        assert_eq!(pooled(&states, 2, Wanted::Mean), [0.6, 0.8]);
        assert_eq!(pooled(&states, 2, Wanted::Last), [0.0, 1.0]);
        assert_eq!(pooled(&[0.0, 0.0], 2, Wanted::Mean), [0.0, 0.0]);
    }
}
