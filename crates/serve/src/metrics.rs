//! What the server counts, as Prometheus reads it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Upper ends of the buckets of times, in seconds.
const BUCKETS: [f64; 12] = [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0];

/// A number that only grows, or one that is set.
#[derive(Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds to it.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often times were how long.
#[derive(Default)]
pub struct Times {
    buckets: [Count; BUCKETS.len()],
    count: Count,
    micros: Count,
}

impl Times {
    /// Counts one.
    pub fn add(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        for (bucket, _) in self.buckets.iter().zip(BUCKETS).filter(|(_, end)| seconds <= *end) {
            bucket.add(1);
        }
        self.count.add(1);
        self.micros.add(time.as_micros().try_into().unwrap_or(u64::MAX));
    }

    fn write(&self, name: &str, help: &str, out: &mut String) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        for (bucket, end) in self.buckets.iter().zip(BUCKETS) {
            let _ = writeln!(out, "{name}_bucket{{le=\"{end}\"}} {}", bucket.get());
        }
        let count = self.count.get();
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "{name}_sum {}\n{name}_count {count}", self.micros.get() as f64 / 1e6);
    }
}

/// The status of a request whose client went away before its answer was whole. None is sent; nginx has the same number for it.
const GONE: u16 = 499;

/// A request that is counted once, whatever becomes of it.
pub struct Tally {
    metrics: Arc<Metrics>,
    endpoint: &'static str,
    status: u16,
}

/// Where the tally of an answer waits that is sent as it comes.
pub type Pending = Arc<Mutex<Option<Tally>>>;

impl Tally {
    /// For a request to `endpoint`. The request is counted when this is dropped: with the status of its answer, or as one whose
    /// client went away.
    pub fn new(metrics: &Arc<Metrics>, endpoint: &'static str) -> Self {
        Tally { metrics: Arc::clone(metrics), endpoint, status: GONE }
    }

    /// It was answered with this status, or a stream that had begun ended with an error of this status.
    pub fn answered(mut self, status: u16) {
        self.status = status;
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.metrics.answered(self.endpoint, self.status);
        self.metrics.cancelled.add(u64::from(self.status == GONE));
    }
}

/// All of it.
#[derive(Default)]
pub struct Metrics {
    /// By endpoint and status.
    answered: Mutex<BTreeMap<(&'static str, u16), u64>>,
    /// Tokens of prompts.
    pub prompt_tokens: Count,
    /// Tokens of prompts that were computed before.
    pub cached_tokens: Count,
    /// Tokens of answers.
    pub new_tokens: Count,
    /// Answers that are being computed.
    pub running: Count,
    /// Requests whose client went away.
    pub cancelled: Count,
    /// Bytes of keys and values.
    pub cache_bytes: Count,
    /// Panics that were caught.
    pub panics: Count,
    /// From a request's arrival to the first token of its answer.
    pub first_token: Times,
    /// From a request's arrival to the end of its answers.
    pub whole: Times,
}

impl Metrics {
    /// Counts an answer of `endpoint`; those that no request could be read for are of no endpoint.
    pub fn answered(&self, endpoint: &'static str, status: u16) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        *answered.entry((endpoint, status)).or_default() += 1;
    }

    /// The text that Prometheus reads, with what others know: requests that wait, and adapters.
    pub fn text(&self, waiting: usize, adapters: usize) -> String {
        let mut out = String::new();
        let name = "lorafit_requests_total";
        let _ = writeln!(
            out,
            "# HELP {name} Requests by the status that they ended with; 499: the client went away.\n# TYPE {name} counter"
        );
        for ((endpoint, status), count) in &*self.answered.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = writeln!(out, "{name}{{endpoint=\"{endpoint}\",status=\"{status}\"}} {count}");
        }
        let mut one = |name: &str, kind: &str, help: &str, value: u64| {
            let name = format!("lorafit_{name}");
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        one("prompt_tokens_total", "counter", "Tokens of prompts.", self.prompt_tokens.get());
        let help = "Tokens of prompts that were taken from an earlier prompt.";
        one("cached_tokens_total", "counter", help, self.cached_tokens.get());
        one("new_tokens_total", "counter", "Tokens of answers.", self.new_tokens.get());
        let help = "Requests whose client went away.";
        one("cancelled_total", "counter", help, self.cancelled.get());
        one("panics_total", "counter", "Panics that were caught.", self.panics.get());
        one("running", "gauge", "Answers that are being computed.", self.running.get());
        one("waiting", "gauge", "Requests that wait.", waiting as u64);
        one("cache_bytes", "gauge", "Bytes of keys and values.", self.cache_bytes.get());
        one("adapters", "gauge", "Adapters that requests can name.", adapters as u64);
        let help = "Seconds from a request to the first token of its answer.";
        self.first_token.write("lorafit_first_token_seconds", help, &mut out);
        let help = "Seconds from a request to the end of its answers.";
        self.whole.write("lorafit_answer_seconds", help, &mut out);
        out
    }
}
