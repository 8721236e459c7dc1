//! An answer that is being computed: from logits to a token, from tokens to text, and when it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use lorafit_data::{DecodeStream, Tokenizer};

use crate::constrain::Guide;
use crate::error::ApiError;
use crate::events::{Ending, Event, Outbox, Reason};
use crate::held_calls::HeldCalls;
use crate::metrics::Metrics;
use crate::queue::{Answers, Planned};
use crate::sampler::{Chosen, NoToken, Sampler};
use crate::stop::StopFinder;
use crate::vocabulary::{bytes_of, characters_before};

/// An answer that is being computed.
pub struct Running {
    /// The request that it is of.
    pub request: u64,
    /// Where its text goes.
    pub outbox: Outbox,
    /// Whether there will be no more of it.
    pub over: bool,
    /// Whether that is because nobody wants more of it.
    pub cut: bool,
    index: usize,
    /// Whether it is the first to its prompt: others have that from it.
    is_first: bool,
    /// Tokens of its prompt that were computed before for another, once its prompt is computed.
    cached: Option<usize>,
    ends: &'static [u32],
    sampler: Sampler,
    guide: Option<Guide>,
    calls: Option<HeldCalls>,
    decoder: DecodeStream<'static>,
    tokenizer: &'static Tokenizer,
    shows_special: bool,
    text: Text,
    lists_tokens: bool,
    tokens: usize,
    room: usize,
    strength: f64,
    arrived: Instant,
    has_begun: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
}

/// Text with the tokens that it is of.
struct Text {
    stops: StopFinder,
    /// Characters and bytes that were decoded, and of the bytes those that are certain to be shown.
    characters: usize,
    decoded: usize,
    shown: usize,
    /// Bytes of tokens whose text is not decoded yet, since a character may be incomplete.
    waiting: Vec<u8>,
    /// Tokens whose text is not shown yet, each with the bytes before it and with it.
    held: Vec<(Chosen, usize, usize)>,
}

/// What an answer shares with the others of its request.
pub struct Of<'a> {
    /// The number of the request.
    pub request: u64,
    /// Its answers.
    pub answers: &'a Answers,
    /// Where text goes.
    pub outbox: &'a Outbox,
    /// When it came.
    pub arrived: Instant,
    /// Whether an answer to it has a token.
    pub has_begun: &'a Arc<AtomicBool>,
}

impl Running {
    /// Answer `index` of a request.
    pub fn new(
        of: &Of<'_>,
        index: usize,
        planned: &mut Planned,
        tokenizer: &'static Tokenizer,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let choosing = &of.answers.choosing;
        Running {
            request: of.request,
            outbox: of.outbox.clone(),
            over: false,
            cut: false,
            index,
            is_first: index.is_multiple_of(of.answers.to_each),
            cached: None,
            ends: tokenizer.eos_ids(),
            sampler: Sampler::new(Arc::clone(choosing), planned.seed, &planned.prompt),
            guide: planned.guide.take(),
            calls: planned.calls.take(),
            decoder: tokenizer.decode_stream(!of.answers.shows_special),
            tokenizer,
            shows_special: of.answers.shows_special,
            text: Text {
                waiting: Vec::new(),
                stops: StopFinder::new(of.answers.stops.clone()),
                characters: 0,
                decoded: 0,
                shown: 0,
                held: Vec::new(),
            },
            lists_tokens: choosing.log_probabilities.is_some(),
            tokens: 0,
            room: planned.room,
            strength: of.answers.strength,
            arrived: of.arrived,
            has_begun: Arc::clone(of.has_begun),
            metrics: Arc::clone(metrics),
        }
    }

    /// The token that follows, if one does. `cached` tokens of the prompt were computed before for another.
    pub fn next(&mut self, logits: &mut [f32], cached: usize) -> Option<u32> {
        let cached = if self.is_first { cached } else { 0 };
        if self.cached.replace(cached).is_none() {
            self.metrics.cached_tokens.add(cached as u64);
        }
        self.cut = self.outbox.is_over();
        let next = match self.cut {
            true => None,
            false => self.advance(logits),
        };
        self.over = next.is_none();
        next
    }

    fn advance(&mut self, logits: &mut [f32]) -> Option<u32> {
        let taken = self.choose(logits).and_then(|chosen| {
            let Some(chosen) = chosen else { return Ok(None) };
            let piece =
                self.decoder.push(chosen.token.id).map_err(|error| ApiError::internal(error.to_string()))?;
            Ok(Some((chosen, piece)))
        });
        let (chosen, piece) = match taken {
            Ok(Some(taken)) => taken,
            Ok(None) => {
                self.end(Reason::Stop);
                return None;
            }
            Err(error) => {
                self.outbox.fail(error);
                return None;
            }
        };
        let id = chosen.token.id;
        if let Some(calls) = &mut self.calls {
            calls.accept(id, &piece, self.tokenizer);
        }
        if self.show(&piece, Some(chosen)) {
            self.finish(Reason::Stop);
            return None;
        }
        let is_whole = self.guide.as_ref().is_some_and(Guide::is_finished);
        if is_whole || self.tokens == self.room {
            self.end(if is_whole { Reason::Stop } else { Reason::Length });
            return None;
        }
        Some(id)
    }

    /// The next token; none where the answer ends.
    fn choose(&mut self, logits: &mut [f32]) -> Result<Option<Chosen>, ApiError> {
        let of_call = self.calls.as_mut().and_then(HeldCalls::current);
        let mut guide = self.guide.as_mut().or(of_call);
        let mut rule_out = |logits: &mut [f32]| {
            if let Some(guide) = &mut guide {
                guide.mask(logits);
            }
        };
        let chosen = match self.sampler.choose(logits, &mut rule_out) {
            Ok(chosen) => chosen,
            Err(NoToken::NoneAllowed) if self.guide.as_ref().is_some_and(Guide::is_complete) => {
                return Ok(None);
            }
            Err(NoToken::NoneAllowed) => {
                let why = self.guide.as_ref().and_then(Guide::failure);
                let why = why.unwrap_or_else(|| "no token of the model can follow".to_owned());
                let message = format!("the answer cannot keep the form that it has to have: {why}");
                return Err(ApiError::internal(message));
            }
            Err(NoToken::NotNumbers) => return Err(ApiError::not_numbers(self.strength)),
        };
        if self.ends.contains(&chosen.token.id) {
            return Ok(None);
        }
        if !self.has_begun.swap(true, Ordering::Relaxed) {
            self.metrics.first_token.add(self.arrived.elapsed());
        }
        self.tokens += 1;
        self.metrics.new_tokens.add(1);
        if let Some(guide) = &mut self.guide {
            guide.accept(chosen.token.id);
        }
        Ok(Some(chosen))
    }

    /// Hands text on as far as it is certain; says whether a stop string ends it.
    fn show(&mut self, piece: &str, token: Option<Chosen>) -> bool {
        let text = &mut self.text;
        let before = text.decoded;
        text.decoded += piece.len();
        if let Some(token) = token.filter(|_| self.lists_tokens) {
            let id = token.token.id;
            let bytes = match self.shows_special || !self.tokenizer.is_special(id) {
                true => bytes_of(self.tokenizer, id),
                false => Vec::new(),
            };
            let at = text.characters + characters_before(&text.waiting, &bytes);
            text.held.push((Chosen { at, ..token }, before, text.decoded));
            text.waiting.extend(bytes);
        }
        if !piece.is_empty() {
            text.waiting.clear();
        }
        text.characters += piece.chars().count();
        let found = text.stops.push(piece);
        text.shown += found.text.len();
        let shown = text.shown;
        // Of a token that the stop string cuts a part is shown.
        let certain = |(_, start, end): &(Chosen, usize, usize)| match found.stopped {
            false => *end <= shown,
            true => *start < shown,
        };
        let count = text.held.iter().take_while(|held| certain(held)).count();
        let tokens = text.held.drain(..count).map(|(token, ..)| token).collect();
        self.send(found.text, tokens);
        found.stopped
    }

    fn send(&self, text: String, tokens: Vec<Chosen>) {
        if !text.is_empty() || !tokens.is_empty() {
            self.outbox.send(Event::Piece { index: self.index, text, tokens });
        }
    }

    /// Ends the answer with what was held back of its text.
    fn end(&mut self, reason: Reason) {
        // What is no text is shown as such; the tokenizer has failed before if it fails now.
        let rest = self.decoder.finish().unwrap_or_default();
        if self.show(&rest, None) {
            return self.finish(Reason::Stop);
        }
        let rest = self.text.stops.finish();
        let tokens = self.text.held.drain(..).map(|(token, ..)| token).collect();
        self.send(rest, tokens);
        self.finish(reason);
    }

    fn finish(&mut self, reason: Reason) {
        let Running { index, tokens, .. } = *self;
        let cached = self.cached.unwrap_or(0);
        self.outbox.send(Event::Ended(Ending { index, reason, tokens, cached }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constrain::Grammars;
    use crate::events::channel;
    use crate::held_calls::CallSyntax;
    use crate::sampler::tests::plain;
    use lorafit_data::{ChatTemplate, SpecialTokens};
    use serde_json::json;

    /// An answer is free up to the marker of a call, is held from there to the end of the call, is free again, and may end then.
    #[test]
    fn a_call_is_held_within_an_answer_that_is_free() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_bpe");
        let tokenizer: &'static Tokenizer =
            Box::leak(Box::new(Tokenizer::from_folder(folder).expect("a tokenizer")));
        let template = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}{% endfor %}";
        let template = ChatTemplate::new(template, &SpecialTokens::default()).expect("a template");
        let syntax = CallSyntax::of(&template, tokenizer).expect("a form");
        let schema = json!({"type": "object", "properties": {"x": {"enum": [true]}}, "required": ["x"], "additionalProperties": false});
        let constraint = syntax.constraint(&[("f".to_owned(), schema)]).expect("a plain name");
        let grammars = Grammars::new(tokenizer, tokenizer.vocab_size()).expect("grammars");
        let held = syntax.hold(grammars.begin(&constraint).expect("it can be kept"));

        let choosing = Arc::new(plain());
        let mut planned = Planned { prompt: vec![1], seed: 0, room: 500, guide: None, calls: Some(held) };
        let answers = Answers {
            planned: Vec::new(),
            to_each: 1,
            choosing,
            stops: Vec::new(),
            shows_special: true,
            strength: 1.0,
        };
        let (outbox, mut inbox) = channel(2000);
        let has_begun = Arc::default();
        let of = Of {
            request: 1,
            answers: &answers,
            outbox: &outbox,
            arrived: Instant::now(),
            has_begun: &has_begun,
        };
        let mut running = Running::new(&of, 0, &mut planned, tokenizer, &Arc::default());

        // What the model wants: a marker, then to say something else again and again, or to end.
        let ids = |text: &str| tokenizer.encode(text, false).expect("tokens");
        let end = tokenizer.eos_ids()[0];
        let mut say = |wanted: &[u32]| {
            let mut logits = vec![0.0; tokenizer.vocab_size()];
            (0_u8..).zip(wanted).for_each(|(place, id)| logits[*id as usize] = 100.0 - f32::from(place));
            running.next(&mut logits, 0)
        };
        for id in ids("Yes <tool_call>") {
            assert_eq!(say(&[id]), Some(id));
        }
        // What the call begins with is nearly as likely: blanks would never end.
        let likely = [
            "{\"", "\"", "name", ":", " ", "f", ",", "arg", "u", "ments", "x", "tr", "e", "}", "{", "n", "a",
            "m", "t", "r", "s",
        ];
        let likely: Vec<u32> =
            [vec![end, ids("!")[0]], likely.iter().flat_map(|text| ids(text)).collect()].concat();
        let mut count = 0;
        while say(&likely).is_some_and(|id| id != ids("!")[0]) {
            count += 1;
            assert!(count < 300);
        }
        drop(running);
        drop(outbox);
        let mut text = String::new();
        let mut ending = None;
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        while let std::task::Poll::Ready(Ok(Some(event))) = inbox.poll_next(&mut context) {
            match event {
                Event::Piece { text: piece, .. } => text += &piece,
                Event::Ended(ended) => ending = Some(ended.reason),
                Event::Began | Event::Values { .. } => {}
            }
        }
        let call = text.strip_prefix("Yes <tool_call>").expect("it is free before the call");
        let call: serde_json::Value = serde_json::from_str(call).expect("a call, and no more");
        assert_eq!(call, json!({"name": "f", "arguments": {"x": true}}));
        assert_eq!(ending, Some(Reason::Stop), "the model may end behind the call");
    }
}
