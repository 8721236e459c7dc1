//! Which tokens of a row are trained.
//!
//! For a conversation the reply's place is found in the rendered text, not in the ids: the text up to the reply is
//! the rendering of the messages before it with a generation prompt, the text up to the reply's end is the rendering
//! with it, and both must be prefixes of the whole. A token is trained when it stands for any of the reply's bytes,
//! up to and including the end-of-turn token that follows the reply's content; what the template writes after that
//! (a line break) is never generated, so never trained.
//!
//! By position and never by id: an end-of-turn token in the prompt is not trained, one after a reply is, and no
//! padding exists.

use std::ops::Range;

use crate::error::RowProblem;
use crate::format::{Completion, Document, Message, Role};
use crate::sample::{Sample, TrainOn};
use crate::template::ChatTemplate;
use crate::tokenizer::{Encoding, Tokenizer, TokenizerError};

/// A conversation's text and the place of each of its replies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The whole conversation.
    pub text: String,
    /// The assistant's messages in order: index of the message, and the bytes of the text that the template writes
    /// for it after its generation prompt.
    pub replies: Vec<(usize, Range<usize>)>,
}

/// Renders a conversation and finds its replies.
///
/// # Errors
/// When the template fails, or renders a part of the conversation differently from the same part of the whole.
pub fn render_replies(template: &ChatTemplate, messages: &[Message]) -> Result<Rendered, RowProblem> {
    let text = template.render(messages, false)?;
    let mut replies = Vec::new();
    for (i, _) in messages.iter().enumerate().filter(|(_, m)| m.role == Role::Assistant) {
        let prefix = |part: String| {
            text.starts_with(&part).then_some(part.len()).ok_or(RowProblem::SpanNotFound { message: i })
        };
        let start = prefix(template.render(&messages[..i], true)?)?;
        let end = match i + 1 == messages.len() {
            true => text.len(),
            false => prefix(template.render(&messages[..=i], false)?)?,
        };
        if end < start {
            return Err(RowProblem::SpanNotFound { message: i });
        }
        replies.push((i, start..end));
    }
    Ok(Rendered { text, replies })
}

/// Turns documents into samples. Made once for a dataset, used from many threads.
#[derive(Debug)]
pub struct Masker<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<&'a ChatTemplate>,
    train_on: TrainOn,
}

impl<'a> Masker<'a> {
    /// A masker for one tokenizer and its template, where it has one.
    pub fn new(tokenizer: &'a Tokenizer, template: Option<&'a ChatTemplate>, train_on: TrainOn) -> Self {
        Self { tokenizer, template, train_on }
    }

    /// The sample of a document; `row` is its line.
    ///
    /// # Errors
    /// When the row cannot be rendered or tokenised, or its replies cannot be found.
    pub fn sample(&self, document: &Document, row: usize) -> Result<Sample, RowProblem> {
        let (ids, mut supervised) = match document {
            Document::Chat(messages) => self.chat(messages)?,
            Document::Completion(Completion { prompt, completion }) => {
                self.closed(&format!("{prompt}{completion}"), prompt.len())?
            }
            Document::Text(text) => self.closed(text, 0)?,
        };
        if self.train_on == TrainOn::All {
            supervised.fill(true);
        }
        if let Some(first) = supervised.first_mut() {
            *first = false;
        }
        Ok(Sample { ids, supervised, row })
    }

    fn chat(&self, messages: &[Message]) -> Result<(Vec<u32>, Vec<bool>), RowProblem> {
        let template = self.template.ok_or(RowProblem::NoChatTemplate)?;
        let Rendered { text, replies } = render_replies(template, messages)?;
        let encoding = self.tokenizer.encode_with_offsets(&text, false)?;
        let mut supervised = vec![false; encoding.ids.len()];
        for (message, span) in replies {
            let tokens = self.reply_tokens(&encoding, &text, &span, messages[message].content.trim());
            if tokens.is_empty() {
                return Err(RowProblem::ReplyNotWritten { message });
            }
            supervised[tokens].fill(true);
        }
        Ok((encoding.ids, supervised))
    }

    /// The tokens of a reply, its end-of-turn token the last; none if the template writes nothing for it.
    fn reply_tokens(
        &self,
        encoding: &Encoding,
        text: &str,
        span: &Range<usize>,
        content: &str,
    ) -> Range<usize> {
        let inside = |&(start, end): &(usize, usize)| match start == end {
            true => span.contains(&start),
            false => start < span.end && end > span.start,
        };
        let Some(first) = encoding.offsets.iter().position(inside) else { return 0..0 };
        let last = encoding.offsets.iter().rposition(inside).unwrap_or(first);
        // The content's own end, so that an end-of-turn token written inside a reply does not cut it short. The
        // first place it is found: a later one may lie inside the end-of-turn token (`d` in `<|im_end|>`).
        let content_end = text[span.clone()].find(content).map(|at| span.start + at + content.len());
        let mut ends = (first..=last).filter(|&i| self.tokenizer.is_eos(encoding.ids[i]));
        let end = match content_end {
            Some(content_end) => ends.find(|&i| encoding.offsets[i].0 >= content_end),
            // A template that rewrites the content (strips its reasoning, say).
            None => ends.next_back(),
        };
        first..end.unwrap_or(last) + 1
    }

    /// Plain text closed with the end-of-sequence token; trained from byte `from` on.
    fn closed(&self, text: &str, from: usize) -> Result<(Vec<u32>, Vec<bool>), RowProblem> {
        let eos = self.tokenizer.eos().ok_or(RowProblem::NoEos)?;
        let Encoding { mut ids, offsets } = self.tokenizer.encode_with_offsets(text, true)?;
        let mut supervised: Vec<bool> =
            offsets.iter().map(|&(start, end)| end > from || (start > 0 && start >= from)).collect();
        // Some tokenizers close text themselves.
        if ids.last() != Some(&eos) {
            ids.push(eos);
            supervised.push(true);
        }
        Ok((ids, supervised))
    }
}

/// The ids to generate a document's last reply from, and that reply. `None` for plain text, which has no prompt.
///
/// # Errors
/// When the row cannot be rendered or tokenised.
pub fn prompt_and_reply(
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    document: &Document,
) -> Result<Option<(String, Vec<u32>, String)>, RowProblem> {
    let ids = |text: &str, special| -> Result<Vec<u32>, TokenizerError> { tokenizer.encode(text, special) };
    match document {
        Document::Chat(messages) => {
            let template = template.ok_or(RowProblem::NoChatTemplate)?;
            let Some((reply, before)) = messages.split_last() else { return Err(RowProblem::NoMessages) };
            let prompt = template.render(before, true)?;
            Ok(Some((prompt.clone(), ids(&prompt, false)?, reply.content.clone())))
        }
        Document::Completion(Completion { prompt, completion }) => {
            Ok(Some((prompt.clone(), ids(prompt, true)?, completion.clone())))
        }
        Document::Text(_) => Ok(None),
    }
}
