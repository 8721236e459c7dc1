//! What a server takes from its clients, and no more.

use std::time::Duration;

/// Bytes of the head of a request: of its first line and its headers.
pub const HEAD_BYTES: usize = 32 << 10;

/// Limits of requests, connections and memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Tokens of a prompt.
    pub prompt_tokens: usize,
    /// Tokens of an answer.
    pub new_tokens: usize,
    /// Answers to one request, and texts that are embedded or scored by one.
    pub choices: usize,
    /// Requests that wait.
    pub queue: usize,
    /// Answers that are computed side by side.
    pub sequences: usize,
    /// Open connections.
    pub connections: usize,
    /// From a request's arrival to the end of its answer.
    pub request_time: Duration,
    /// For the head of a request, from its connection or the answer before it on.
    pub head_time: Duration,
    /// For the body of a request.
    pub body_time: Duration,
    /// For a client to take what was written to it.
    pub write_time: Duration,
    /// For running answers once the server is to end.
    pub drain_time: Duration,
    /// Bytes of keys and values: of running answers and, with what these leave, of prompts that are kept for others.
    pub cache_bytes: u64,
}

impl Limits {
    /// What suits most machines.
    pub const USUAL: Limits = Limits {
        body_bytes: 4 << 20,
        prompt_tokens: 32_768,
        new_tokens: 4096,
        choices: 16,
        queue: 256,
        sequences: 64,
        connections: 512,
        request_time: Duration::from_secs(600),
        head_time: Duration::from_secs(30),
        body_time: Duration::from_secs(30),
        write_time: Duration::from_secs(30),
        drain_time: Duration::from_secs(30),
        cache_bytes: 1 << 30,
    };
}
