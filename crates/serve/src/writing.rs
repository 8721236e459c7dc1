//! Answers as OpenAI writes them: whole, or piece by piece as server-sent events.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Bytes, HttpBody};
use axum::http::StatusCode;
use hyper::body::Frame;
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::events::{Ending, Event, Inbox, Reason};
use crate::metrics::Pending;
use crate::reply::{Calls, Kind, Reply, fresh};
use crate::sampler::{Chosen, Scored};
use crate::tools::{Call, CallStream, Piece, split_calls};
use crate::vocabulary::{bytes_of, listed};

/// An answer as far as it is there.
#[derive(Default)]
struct Gathered {
    text: String,
    tokens: Vec<Chosen>,
    ending: Option<Ending>,
}

/// Waits for all answers, and writes them as one JSON object.
///
/// # Errors
/// What ended the request.
pub async fn whole(reply: &Reply, mut inbox: Inbox) -> Result<Value, ApiError> {
    let mut answers: Vec<Gathered> = Vec::new();
    answers.resize_with(reply.answers, Gathered::default);
    while answers.iter().any(|answer| answer.ending.is_none()) {
        match inbox.next().await? {
            Some(Event::Piece { index, text, tokens }) => {
                answers[index].text.push_str(&text);
                answers[index].tokens.extend(tokens);
            }
            Some(Event::Ended(ending)) => answers[ending.index].ending = Some(ending),
            Some(Event::Began | Event::Values { .. }) => {}
            None => return Err(broken_off()),
        }
    }
    let mut totals = Totals::default();
    let mut choices = Vec::with_capacity(answers.len());
    for (index, answer) in answers.into_iter().enumerate() {
        let ending = answer.ending.ok_or_else(broken_off)?;
        totals.add(&ending);
        let log_probabilities = log_probabilities(reply, &answer.tokens);
        let (content, reason) = match reply.kind {
            Kind::Chat => {
                let (message, called) = message(reply, answer.text)?;
                (("message", message), reason(ending.reason, called))
            }
            Kind::Completion => (("text", answer.text.into()), reason(ending.reason, false)),
        };
        choices.push(json!({"index": index, content.0: content.1, "logprobs": log_probabilities,
                            "finish_reason": reason}));
    }
    let Reply { id, created, model, .. } = reply;
    Ok(
        json!({"id": id, "object": reply.kind.object(), "created": created, "model": model, "choices": choices,
              "usage": totals.usage(reply)}),
    )
}

fn broken_off() -> ApiError {
    ApiError::internal("a fault of the server ended this answer; ask again")
}

/// The message of an answer, and whether it calls tools.
fn message(reply: &Reply, text: String) -> Result<(Value, bool), ApiError> {
    let (content, calls) = match &reply.calls {
        Calls::None => (Some(text), Vec::new()),
        Calls::Found(offered) => {
            let answer = split_calls(&text, offered);
            (answer.content, answer.calls)
        }
        Calls::Whole | Calls::Of(_) => match forced(&reply.calls, &text) {
            Some(call) => (None, vec![call]),
            // The answer was cut before the call was whole.
            None => (Some(text), Vec::new()),
        },
    };
    let mut message = json!({"role": "assistant", "content": content});
    let calls: Vec<Value> = calls.iter().map(call_json).collect::<Result<_, _>>()?;
    let called = !calls.is_empty();
    if called {
        message["tool_calls"] = calls.into();
    }
    Ok((message, called))
}

/// The call that an answer in a given form is.
fn forced(calls: &Calls, text: &str) -> Option<Call> {
    let mut value: Value = serde_json::from_str(text).ok()?;
    match calls {
        Calls::Of(name) => Some(Call { name: name.clone(), arguments: value }),
        Calls::Whole => {
            let name = value["name"].as_str()?.to_owned();
            Some(Call { name, arguments: value["arguments"].take() })
        }
        Calls::None | Calls::Found(_) => None,
    }
}

fn call_json(call: &Call) -> Result<Value, ApiError> {
    let function = json!({"name": call.name, "arguments": call.arguments.to_string()});
    Ok(json!({"id": fresh("call")?, "type": "function", "function": function}))
}

fn reason(reason: Reason, called: bool) -> &'static str {
    match reason {
        Reason::Length => "length",
        Reason::Stop if called => "tool_calls",
        Reason::Stop => "stop",
    }
}

/// Tokens of all answers.
#[derive(Default)]
struct Totals {
    new: usize,
    cached: usize,
}

impl Totals {
    fn add(&mut self, ending: &Ending) {
        self.new += ending.tokens;
        self.cached += ending.cached;
    }

    fn usage(&self, reply: &Reply) -> Value {
        let prompt = reply.prompt_tokens;
        json!({"prompt_tokens": prompt, "completion_tokens": self.new, "total_tokens": prompt + self.new,
               "prompt_tokens_details": {"cached_tokens": self.cached}})
    }
}

/// Log-probabilities of tokens, as the kind of answer has them.
fn log_probabilities(reply: &Reply, tokens: &[Chosen]) -> Value {
    if !reply.lists_tokens {
        return Value::Null;
    }
    let text = |scored: &Scored| listed(&bytes_of(reply.tokenizer, scored.id));
    match reply.kind {
        Kind::Chat => {
            let one = |scored: &Scored| {
                let bytes = bytes_of(reply.tokenizer, scored.id);
                json!({"token": String::from_utf8_lossy(&bytes), "logprob": scored.log_probability, "bytes": bytes})
            };
            let token = |chosen: &Chosen| {
                let mut token = one(&chosen.token);
                token["top_logprobs"] = chosen.likeliest.iter().map(one).collect();
                token
            };
            json!({"content": tokens.iter().map(token).collect::<Vec<_>>(), "refusal": null})
        }
        Kind::Completion => {
            let (mut texts, mut scores, mut likeliest, mut offsets) = (vec![], vec![], vec![], vec![]);
            for chosen in tokens {
                let mut by_text = Map::new();
                for scored in &chosen.likeliest {
                    // Of tokens with the same text the likeliest, which is the first.
                    by_text.entry(text(scored)).or_insert_with(|| scored.log_probability.into());
                }
                offsets.push(chosen.at);
                texts.push(text(&chosen.token));
                scores.push(chosen.token.log_probability);
                likeliest.push(by_text);
            }
            json!({"tokens": texts, "token_logprobs": scores, "top_logprobs": likeliest, "text_offset": offsets})
        }
    }
}

/// Answers that are sent as they come: the body of a response.
pub struct Stream {
    reply: Reply,
    inbox: Inbox,
    answers: Vec<Sending>,
    totals: Totals,
    ready: VecDeque<String>,
    over: bool,
    pending: Pending,
}

/// An answer on its way.
struct Sending {
    /// Finds calls of tools in it.
    calls: Option<CallStream>,
    /// An answer that is a call as a whole.
    held: String,
    /// Calls that were sent.
    called: usize,
    over: bool,
}

impl Stream {
    /// The answers of `inbox`.
    pub fn new(reply: Reply, inbox: Inbox) -> Self {
        let sending = || Sending {
            calls: match &reply.calls {
                Calls::Found(offered) => Some(CallStream::new(offered)),
                Calls::None | Calls::Whole | Calls::Of(_) => None,
            },
            held: String::new(),
            called: 0,
            over: false,
        };
        let answers: Vec<Sending> = (0..reply.answers).map(|_| sending()).collect();
        let mut stream = Stream {
            reply,
            inbox,
            answers,
            totals: Totals::default(),
            ready: VecDeque::new(),
            over: false,
            pending: Pending::default(),
        };
        if stream.reply.kind == Kind::Chat {
            for index in 0..stream.answers.len() {
                stream.choice(index, json!({"role": "assistant", "content": ""}), Value::Null, None);
            }
        }
        stream
    }

    /// Where the request is counted once the stream is over.
    pub fn pending(&self) -> Pending {
        Arc::clone(&self.pending)
    }

    fn count(&self, status: StatusCode) {
        let tally = self.pending.lock().unwrap_or_else(PoisonError::into_inner).take();
        tally.into_iter().for_each(|tally| tally.answered(status.as_u16()));
    }

    /// Writes a piece of answer `index`: what is new of a conversation, or text.
    fn choice(&mut self, index: usize, new: Value, log_probabilities: Value, reason: Option<&str>) {
        let content = match self.reply.kind {
            Kind::Chat => "delta",
            Kind::Completion => "text",
        };
        let choice =
            json!({"index": index, content: new, "logprobs": log_probabilities, "finish_reason": reason});
        self.chunk(vec![choice], Value::Null);
    }

    fn chunk(&mut self, choices: Vec<Value>, usage: Value) {
        let Reply { id, created, model, kind, .. } = &self.reply;
        let mut chunk =
            json!({"id": id, "object": kind.chunk(), "created": created, "model": model, "choices": choices});
        if self.reply.usage {
            chunk["usage"] = usage;
        }
        self.ready.push_back(format!("data: {chunk}\n\n"));
    }

    fn text(&mut self, index: usize, text: String, tokens: &[Chosen]) {
        if text.is_empty() && tokens.is_empty() {
            return;
        }
        let log_probabilities = log_probabilities(&self.reply, tokens);
        let new = match self.reply.kind {
            Kind::Chat => json!({"content": text}),
            Kind::Completion => text.into(),
        };
        self.choice(index, new, log_probabilities, None);
    }

    fn call(&mut self, index: usize, call: &Call) -> Result<(), ApiError> {
        let mut json = call_json(call)?;
        json["index"] = self.answers[index].called.into();
        self.answers[index].called += 1;
        self.choice(index, json!({"tool_calls": [json]}), Value::Null, None);
        Ok(())
    }

    fn pieces(&mut self, index: usize, pieces: Vec<Piece>, tokens: &[Chosen]) -> Result<(), ApiError> {
        let mut tokens = tokens;
        for piece in pieces {
            match piece {
                Piece::Text(text) => self.text(index, text, std::mem::take(&mut tokens)),
                Piece::Call(call) => self.call(index, &call)?,
            }
        }
        self.text(index, String::new(), tokens);
        Ok(())
    }

    fn take(&mut self, event: Event) -> Result<(), ApiError> {
        match event {
            Event::Began | Event::Values { .. } => Ok(()),
            Event::Piece { index, text, tokens } => {
                let sending = &mut self.answers[index];
                match (&self.reply.calls, &mut sending.calls) {
                    (Calls::Whole | Calls::Of(_), _) => {
                        sending.held.push_str(&text);
                        self.text(index, String::new(), &tokens);
                        Ok(())
                    }
                    (_, Some(calls)) => {
                        let pieces = calls.push(&text);
                        self.pieces(index, pieces, &tokens)
                    }
                    (_, None) => {
                        self.text(index, text, &tokens);
                        Ok(())
                    }
                }
            }
            Event::Ended(ending) => self.end(&ending),
        }
    }

    fn end(&mut self, ending: &Ending) -> Result<(), ApiError> {
        let index = ending.index;
        self.totals.add(ending);
        if let Some(calls) = self.answers[index].calls.take() {
            self.pieces(index, calls.finish(), &[])?;
        }
        let held = std::mem::take(&mut self.answers[index].held);
        match forced(&self.reply.calls, &held) {
            Some(call) => self.call(index, &call)?,
            None => self.text(index, held, &[]),
        }
        let reason = reason(ending.reason, self.answers[index].called > 0);
        let nothing = match self.reply.kind {
            Kind::Chat => json!({}),
            Kind::Completion => "".into(),
        };
        self.choice(index, nothing, Value::Null, Some(reason));
        self.answers[index].over = true;
        if self.answers.iter().all(|answer| answer.over) {
            if self.reply.usage {
                let usage = self.totals.usage(&self.reply);
                self.chunk(Vec::new(), usage);
            }
            self.ready.push_back("data: [DONE]\n\n".to_owned());
            self.over = true;
            self.count(StatusCode::OK);
        }
        Ok(())
    }

    /// Ends the stream with an error.
    fn fail(&mut self, error: &ApiError) {
        self.ready.push_back(format!("data: {}\n\n", error.json()));
        self.over = true;
        self.count(error.status);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // A client that took nothing any more does not get the error either.
        if let Some(status) = self.inbox.fault().map(|fault| fault.status) {
            self.count(status);
        }
    }
}

impl HttpBody for Stream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let stream = self.get_mut();
        while stream.ready.is_empty() && !stream.over {
            let taken = match stream.inbox.poll_next(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Some(event))) => stream.take(event),
                Poll::Ready(Ok(None)) => Err(broken_off()),
                Poll::Ready(Err(error)) => Err(error),
            };
            if let Err(error) = taken {
                stream.fail(&error);
            }
        }
        let ready: String = stream.ready.drain(..).collect();
        match ready.is_empty() {
            true => Poll::Ready(None),
            false => Poll::Ready(Some(Ok(Frame::data(ready.into())))),
        }
    }
}
