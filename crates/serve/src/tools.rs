//! Calls of tools in what a model writes, whole or as it comes.
//!
//! Each family writes calls in the form of its chat template, mostly between markers. [`split_calls`] and [`CallStream`]
//! know these, whatever the model:
//!
//! | form | families |
//! |---|---|
//! | `<tool_call>` JSON `</tool_call>` | Qwen2.5, Qwen3, Hermes, SmolLM3, Granite 4, EXAONE 4, Falcon 3 |
//! | `<tool_call><function=f><parameter=p>` value | Qwen3-Coder, Qwen3.5 |
//! | `<tool_call>` f `<arg_key>` p `</arg_key><arg_value>` value | GLM 4.5 |
//! | `{"name": ..., "parameters": ...}` as the whole answer, or behind `<\|python_tag\|>` | Llama 3.1 to 4 |
//! | `[TOOL_CALLS]` list, `[TOOL_CALLS]` f `[ARGS]` object | Mistral, Ministral |
//! | `<\|tool_call\|>` list | Granite 3, Phi-4-mini |
//! | `<TOOLCALL>` list, `<tool_calls>` list | Nemotron, Jamba |
//! | `<\|START_ACTION\|>` list, `<\|tools_prefix\|>` list | Command R7B, Apertus |
//! | `<function=f>` object `</function>` | Functionary 3.1 |
//! | sections of calls, each f, a marker and an object | DeepSeek V3, R1 and V3.1, Kimi K2 |
//! | ` to=functions.f` in the header of a message, the object as the message | gpt-oss (harmony) |
//! | `<\|tool_call>call:f{p:` value `}`, `<start_function_call>call:f{p:` value `}` | Gemma 4, FunctionGemma |
//! | `<\|tool_call_start\|>[f(p=` value `)]`, `<function_calls>f(p=` value `)` | LFM2, OLMo 3 |
//! | `<minimax:tool_call><invoke name="f"><parameter name="p">` value | MiniMax M2 |
//! | `<seed:tool_call><function=f><parameter=p>` value | Seed-OSS |
//! | f, a line break and an object as the whole answer, where f is a tool that was offered | GLM-4 |
//!
//! Many of these markers are special tokens of their vocabulary, so an answer that may have calls has to be decoded with
//! its special tokens. Behind a marker that no call follows, the text is text, the marker too. White space beside calls is
//! left out where nothing else stands there.
//!
//! A call of a tool that was not offered is text, and so is one of a strict tool whose arguments do not fit the tool's schema; calls
//! that stand together behind one marker are calls together, or text.
//!
//! What is found does not depend on how the answer is cut: every reader says of a beginning that it is a call, that it is
//! none, or that more is needed, and never changes its mind.

mod forms;

use serde_json::Value;

use crate::constrain::Checked;
use forms::{Cursor, Form, MARKERS, Stop};

/// A call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The tool's name.
    pub name: String,
    /// What it is called with, an object.
    pub arguments: Value,
}

/// A tool that was offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Its name.
    pub name: String,
    /// What the arguments of every call of it have to fit.
    pub strict: Option<Checked>,
}

impl Offered {
    /// Whether a call is one of this tool.
    fn takes(&self, call: &Call) -> bool {
        self.name == call.name && self.strict.as_ref().is_none_or(|schema| schema.fits(&call.arguments))
    }
}

/// What begins calls, in all forms but those that no marker begins.
pub(crate) fn markers() -> impl Iterator<Item = &'static str> {
    MARKERS.iter().map(|(marker, _)| *marker)
}

/// An answer, parted into text and calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The text beside the calls.
    pub content: Option<String>,
    /// The calls, in order.
    pub calls: Vec<Call>,
}

/// A part of an answer as it comes.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Text beside calls.
    Text(String),
    /// A whole call.
    Call(Call),
}

/// What ends calls in some families; left out behind a call.
const ENDS: [&str; 5] = [
    "<|/tool_call|>",
    "<|END_ACTION|>",
    "<|tools_suffix|>",
    "<｜tool▁calls▁end｜>",
    "<|tool_calls_section_end|>",
];

/// A call of more bytes is text.
const LONGEST_CALL: usize = 1 << 20;

/// Below so many bytes that wait a call is looked for at every piece, above only at those that may end one.
const SHORT: usize = 256;

/// An answer whose text comes in pieces.
#[derive(Debug)]
pub struct CallStream {
    /// Tools that were offered.
    offered: Vec<Offered>,
    /// Text of which it is not certain yet what it is.
    held: String,
    /// White space that is said before the next text, if one comes.
    gap: String,
    /// Whether JSON without a marker may be a call here.
    bare: bool,
    /// Whether what stands before `held` is a call, perhaps with white space.
    behind_call: bool,
    has_text: bool,
    has_calls: bool,
}

/// Finds the calls of a whole answer to whom these tools were offered.
pub fn split_calls(text: &str, offered: &[Offered]) -> Answer {
    let mut stream = CallStream::new(offered);
    let mut pieces = stream.push(text);
    pieces.extend(stream.finish());
    let mut answer = Answer::default();
    for piece in pieces {
        match piece {
            Piece::Text(text) => answer.content.get_or_insert_default().push_str(&text),
            Piece::Call(call) => answer.calls.push(call),
        }
    }
    answer
}

impl CallStream {
    /// At the beginning of an answer to whom these tools were offered.
    pub fn new(offered: &[Offered]) -> Self {
        Self {
            offered: offered.to_vec(),
            held: String::new(),
            gap: String::new(),
            bare: true,
            behind_call: false,
            has_text: false,
            has_calls: false,
        }
    }

    /// What is certain after one more piece of text.
    pub fn push(&mut self, piece: &str) -> Vec<Piece> {
        let mut pieces = Vec::new();
        self.held.push_str(piece);
        if self.held.len() < SHORT || piece.len() >= SHORT || piece.contains(['}', ']', '>']) {
            self.advance(false, &mut pieces);
        }
        pieces
    }

    /// What is left at the end.
    pub fn finish(mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        self.advance(true, &mut pieces);
        if !self.has_calls && !self.gap.is_empty() {
            pieces.push(Piece::Text(self.gap));
        }
        pieces
    }

    /// Parts `held` as far as that is certain; with `ended` wholly.
    fn advance(&mut self, ended: bool, pieces: &mut Vec<Piece>) {
        while !self.held.is_empty() {
            let is_certain = (self.behind_call && self.leave_out_end(ended))
                || match self.bare {
                    true => self.take_bare(ended, pieces),
                    false => self.take_text_or_call(ended, pieces),
                };
            if !is_certain {
                return;
            }
        }
    }

    /// Takes the white space and an end of calls that `held` begins with; false when it begins with none.
    fn leave_out_end(&mut self, ended: bool) -> bool {
        let blank = self.held.len() - self.held.trim_start().len();
        self.gap.extend(self.held.drain(..blank));
        let Some(end) = ENDS.iter().find(|end| self.held.starts_with(**end)) else {
            // A part of an end is waited for by `take_text_or_call`.
            let may_be_end = !ended && ENDS.iter().any(|end| end.starts_with(&self.held));
            self.behind_call = may_be_end;
            return blank > 0 && !may_be_end;
        };
        self.held.drain(..end.len());
        true
    }

    /// Takes a call without a marker; false when more is needed to know.
    fn take_bare(&mut self, ended: bool, pieces: &mut Vec<Piece>) -> bool {
        let mut cursor = Cursor::new(&self.held, ended);
        match within(cursor.bare_calls(self.has_calls, &self.offered), &cursor) {
            Ok((calls, bytes)) => {
                self.bare = self.call(calls, bytes, pieces);
            }
            Err(Stop::More) if !ended => return false,
            Err(_) => self.bare = false,
        }
        true
    }

    /// Takes the text up to the next marker, or what the marker begins; false when more is needed to know.
    fn take_text_or_call(&mut self, ended: bool, pieces: &mut Vec<Piece>) -> bool {
        let whole = MARKERS.iter().filter_map(|(marker, form)| Some((self.held.find(marker)?, marker, form)));
        let Some((at, marker, form)) = whole.min_by_key(|(at, ..)| *at) else {
            let certain = if ended { self.held.len() } else { begun_marker(&self.held) };
            self.say(certain, pieces);
            return self.held.is_empty();
        };
        if at > 0 {
            self.say(at, pieces);
            return true;
        }
        let mut cursor = Cursor::new(&self.held[marker.len()..], ended);
        match within(cursor.calls(form, &self.offered), &cursor) {
            Ok((calls, bytes)) => {
                let called = self.call(calls, marker.len() + bytes, pieces);
                self.bare = called && matches!(form, Form::PythonTag);
            }
            Err(Stop::More) if !ended => return false,
            Err(_) => self.say(marker.len(), pieces),
        }
        true
    }

    /// The next `bytes` are calls; or text, when one of them is of a tool that was not offered, or is not as its tool has to be
    /// called. Says which.
    fn call(&mut self, calls: Vec<Call>, bytes: usize, pieces: &mut Vec<Piece>) -> bool {
        if !calls.iter().all(|call| self.offered.iter().any(|tool| tool.takes(call))) {
            self.say(bytes, pieces);
            return false;
        }
        self.held.drain(..bytes);
        pieces.extend(calls.into_iter().map(Piece::Call));
        (self.behind_call, self.has_calls) = (true, true);
        true
    }

    /// The next `bytes` are text.
    fn say(&mut self, bytes: usize, pieces: &mut Vec<Piece>) {
        let text: String = self.held.drain(..bytes).collect();
        let seen = text.trim_end().len();
        if seen > 0 {
            if self.has_calls && !self.has_text {
                self.gap.clear();
            }
            let mut said = std::mem::take(&mut self.gap);
            said.push_str(&text[..seen]);
            match pieces.last_mut() {
                Some(Piece::Text(before)) => before.push_str(&said),
                _ => pieces.push(Piece::Text(said)),
            }
            (self.has_text, self.behind_call, self.bare) = (true, false, false);
        }
        self.gap.push_str(&text[seen..]);
    }
}

/// What was read with how many bytes, if those are not more than a call may have.
fn within(calls: Result<Vec<Call>, Stop>, cursor: &Cursor) -> Result<(Vec<Call>, usize), Stop> {
    match calls {
        Ok(calls) if cursor.at() <= LONGEST_CALL => Ok((calls, cursor.at())),
        Err(Stop::More) if cursor.len() <= LONGEST_CALL => Err(Stop::More),
        _ => Err(Stop::No),
    }
}

/// Where a marker may begin whose rest is not there yet, else the length of `text`.
fn begun_marker(text: &str) -> usize {
    let begins = |at: &usize| {
        let rest = &text[*at..];
        MARKERS.iter().map(|(marker, _)| *marker).chain(ENDS).any(|word| word.starts_with(rest))
    };
    let longest = MARKERS.iter().map(|(marker, _)| marker.len()).max().unwrap_or(0);
    let from = text.len().saturating_sub(longest);
    (from..text.len()).filter(|at| text.is_char_boundary(*at)).find(begins).unwrap_or(text.len())
}

#[cfg(test)]
mod tests;
