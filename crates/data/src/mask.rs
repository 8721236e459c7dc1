//! Which tokens of a row are trained.
//!
//! Where the chat template marks what the assistant says (`{% generation %}`), its marks decide, token by token as
//! in transformers (`apply_chat_template(..., return_assistant_tokens_mask=True)`): of a marked span, the first token
//! that holds any of its first character up to the first token that holds any of its last one. Where a tokenizer
//! drops that character, transformers trains all the rest of the row; here the span ends before it.
//!
//! Without marks a reply's place is found in the rendered text: the text up to the reply is the rendering of the
//! messages before it with a generation prompt, the text up to the reply's end is the rendering with it, and both are
//! prefixes of the whole. A token is trained when it stands for any of the reply's bytes, up to and including the
//! end-of-turn token that follows the reply's content; what the template writes after that (a line break) is never
//! generated, so never trained.
//!
//! Some templates write a message differently once others follow it (Qwen3 strips reasoning from earlier replies,
//! Phi-3 closes every rendering with an end-of-sequence token), so that a part is no prefix of the whole. Then the
//! neighbours are found in the whole by rendering it with other words in their place. A reply begins where the text
//! from the words before it to the end of the generation prompt stands in the whole as it does in the prompt: the
//! model is trained at the very place where it would generate. It ends with an end-of-turn token before the words
//! of the next message. What is trained is the reply as the whole has it. If that fails too, it is an error.
//!
//! By position and never by id: an end-of-turn token in the prompt is not trained, one after a reply is, and no
//! padding exists.

use std::borrow::Cow;
use std::ops::Range;

use crate::error::RowProblem;
use crate::format::{Completion, Conversation, Document, Message, Role};
use crate::notes::{self, PlainText, RowNotes};
use crate::sample::{Sample, TrainOn};
use crate::template::ChatTemplate;
use crate::tokenizer::{Encoding, Tokenizer};

/// Stands for a message's words while their place is looked for. Noncharacters, which no template looks for; a
/// conversation that has them itself is one whose replies are not found.
const OTHER_WORDS: &str = "\u{FDD8}\u{FDD9}";

/// The place of a reply in the text of its conversation.
struct Reply {
    /// From the end of the generation prompt on.
    bytes: Range<usize>,
    /// Whether the range ends where the template has closed the reply; else where the words of the next message
    /// begin.
    exact: bool,
}

/// A conversation in the hands of its template.
struct Rendered<'a> {
    template: &'a ChatTemplate,
    conversation: &'a Conversation,
    text: String,
    /// What the template marks as the assistant's; `None` if it marks nothing in any conversation.
    marks: Option<Vec<Range<usize>>>,
}

impl<'a> Rendered<'a> {
    /// Renders a conversation.
    ///
    /// # Errors
    /// When the template fails, or leaves out tools, their calls, or what somebody says to the assistant (Mistral
    /// v0.3 forgets the system message once the assistant has replied): a row trained without them is not the row
    /// that was written.
    fn new(template: &'a ChatTemplate, conversation: &'a Conversation) -> Result<Self, RowProblem> {
        let Conversation { messages, tools, .. } = conversation;
        let (text, marks) = match template.has_generation_marks() {
            true => template.render_marked(messages, tools.as_deref()).map(|(text, m)| (text, Some(m)))?,
            false => (template.render_with_tools(messages, tools.as_deref(), false)?, None),
        };
        let rendered = Self { template, conversation, text, marks };

        if tools.as_ref().is_some_and(|t| !t.is_empty())
            && template.render(messages, false).is_ok_and(|without| without == rendered.text)
        {
            return Err(RowProblem::NotWritten { field: "tools".into() });
        }
        for (i, message) in messages.iter().enumerate().filter(|(_, m)| m.calls_tools()) {
            if rendered.with(i, message.without_tool_calls()).is_some_and(|without| without == rendered.text)
            {
                return Err(RowProblem::NotWritten { field: format!("messages[{i}].tool_calls") });
            }
        }
        for (i, message) in messages.iter().enumerate().filter(|(_, m)| m.role != Role::Assistant) {
            // Templates write nearly everything as it is; the others are asked twice.
            if !rendered.text.contains(message.text().trim())
                && rendered.with(i, other_words(message)).is_some_and(|other| other == rendered.text)
            {
                return Err(RowProblem::NotWritten { field: format!("messages[{i}].content") });
            }
        }
        Ok(rendered)
    }

    /// The first messages, with or without a generation prompt.
    fn part(&self, messages: usize, generation_prompt: bool) -> Result<String, RowProblem> {
        let Conversation { messages: all, tools, .. } = self.conversation;
        Ok(self.template.render_with_tools(&all[..messages], tools.as_deref(), generation_prompt)?)
    }

    /// The text with another message `i`; `None` if the template will not have it.
    fn with(&self, i: usize, message: Message) -> Option<String> {
        let mut messages = self.conversation.messages.clone();
        messages[i] = message;
        self.template.render_with_tools(&messages, self.conversation.tools.as_deref(), false).ok()
    }

    /// The place of a reply.
    ///
    /// # Errors
    /// When the template fails on a part of the conversation, or the place cannot be found.
    fn reply(&self, i: usize) -> Result<Reply, RowProblem> {
        let not_found = RowProblem::SpanNotFound { message: i };
        let prompt = self.part(i, true)?;
        let start = match self.text.starts_with(&prompt) {
            true => Some(prompt.len()),
            false => self.end_of_rewritten_prompt(i),
        };
        let Some(start) = start else { return Err(not_found) };
        let mut exact = true;
        let end = match i + 1 == self.conversation.messages.len() {
            true => Some(self.text.len()),
            false => match self.part(i + 1, false)? {
                part if self.text.starts_with(&part) => Some(part.len()),
                _ => {
                    exact = false;
                    self.words(i + 1).map(|words| words.start)
                }
            },
        };
        match end {
            Some(end) if start <= end => Ok(Reply { bytes: start..end, exact }),
            _ => Err(not_found),
        }
    }

    /// The place of a message's words in the text: what changes when they do.
    fn words(&self, i: usize) -> Option<Range<usize>> {
        let changed = self.with(i, other_words(&self.conversation.messages[i]))?;
        let (before, after) = around_other_words(&changed)?;
        let fits = self.text.starts_with(before)
            && self.text.ends_with(after)
            && before.len() + after.len() <= self.text.len();
        fits.then(|| before.len()..self.text.len() - after.len())
    }

    /// Where the generation prompt of reply `i` ends in the text, found by what it has after the words before it.
    fn end_of_rewritten_prompt(&self, i: usize) -> Option<usize> {
        let before = i.checked_sub(1)?;
        let words = self.words(before)?;
        let mut messages = self.conversation.messages[..i].to_vec();
        messages[before] = other_words(&messages[before]);
        let tools = self.conversation.tools.as_deref();
        let prompt = self.template.render_with_tools(&messages, tools, true).ok()?;
        let (_, header) = around_other_words(&prompt)?;
        self.text[words.end..].starts_with(header).then_some(words.end + header.len())
    }
}

fn other_words(message: &Message) -> Message {
    Message { content: Some(OTHER_WORDS.into()), ..message.clone() }
}

/// What stands before and after [`OTHER_WORDS`], if they stand once.
fn around_other_words(text: &str) -> Option<(&str, &str)> {
    text.split_once(OTHER_WORDS).filter(|(_, after)| !after.contains(OTHER_WORDS))
}

/// Turns documents into samples. Made once for a dataset, used from many threads.
#[derive(Debug)]
pub struct Masker<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<&'a ChatTemplate>,
    train_on: TrainOn,
    plain: PlainText,
}

impl<'a> Masker<'a> {
    /// A masker for one tokenizer and a template, whose end-of-turn tokens the tokenizer must know as its own template's
    /// ([`Tokenizer::use_chat_template`]).
    pub fn new(tokenizer: &'a Tokenizer, template: Option<&'a ChatTemplate>, train_on: TrainOn) -> Self {
        Self { tokenizer, template, train_on, plain: PlainText::new(tokenizer, template) }
    }

    /// Whether a text was rendered by the chat template before.
    pub(crate) fn was_rendered(&self, text: &str) -> bool {
        self.plain.was_rendered(text)
    }

    /// The sample of a document; `row` is its line.
    ///
    /// # Errors
    /// When the row cannot be rendered or tokenised, or its replies cannot be found.
    pub fn sample(&self, document: &Document, row: usize) -> Result<Sample, RowProblem> {
        self.sample_noted(document, row, &mut RowNotes::default())
    }

    /// As [`Self::sample`], with notes of what was done to the row.
    ///
    /// # Errors
    /// As [`Self::sample`].
    pub fn sample_noted(
        &self,
        document: &Document,
        row: usize,
        notes: &mut RowNotes,
    ) -> Result<Sample, RowProblem> {
        let (ids, mut supervised) = match document {
            Document::Chat(conversation) => self.chat(conversation, notes)?,
            Document::Completion(Completion { prompt, completion }) => {
                self.closed(&format!("{prompt}{completion}"), prompt.len(), notes)?
            }
            Document::Text(text) => self.closed(text, 0, notes)?,
        };
        if let Some(first) = supervised.first_mut() {
            *first = false;
        }
        Ok(Sample { ids, supervised, row })
    }

    fn chat(
        &self,
        conversation: &Conversation,
        notes: &mut RowNotes,
    ) -> Result<(Vec<u32>, Vec<bool>), RowProblem> {
        let template = for_row(self.template.ok_or(RowProblem::NoChatTemplate)?, conversation);
        let rendered = Rendered::new(&template, conversation)?;
        notes::of_conversation(&template, conversation, &rendered.text, notes)?;
        notes.rendered_before |= conversation.messages.iter().any(|m| self.plain.was_rendered(m.text()));
        let encoding = self.tokenizer.encode_with_offsets(&rendered.text, false)?;

        let replies = || conversation.messages.iter().enumerate().filter(|(_, m)| m.role == Role::Assistant);
        let untrained = || replies().filter(|(_, m)| !m.train);
        let mut supervised = vec![self.train_on == TrainOn::All; encoding.ids.len()];
        match (self.train_on, &rendered.marks) {
            (TrainOn::All, _) => {
                for (i, _) in untrained() {
                    supervised[self.reply_tokens(&encoding, &rendered, i)?].fill(false);
                }
            }
            (TrainOn::Replies | TrainOn::Last, None) => {
                let last_only = self.train_on == TrainOn::Last;
                let passed = if last_only { replies().count().saturating_sub(1) } else { 0 };
                for (i, _) in replies().skip(passed).filter(|(_, m)| m.train) {
                    supervised[self.reply_tokens(&encoding, &rendered, i)?].fill(true);
                }
            }
            (TrainOn::Replies, Some(marks)) => {
                let untrained = untrained().map(|(i, _)| rendered.reply(i)).collect::<Result<Vec<_>, _>>()?;
                let trained = marks.iter().filter(|m| !untrained.iter().any(|r| r.bytes.contains(&m.start)));
                for mark in trained {
                    supervised[marked_tokens(&encoding, &rendered.text, mark)].fill(true);
                }
            }
            (TrainOn::Last, Some(marks)) => {
                if let Some((i, _)) = replies().next_back().filter(|(_, m)| m.train) {
                    let last = rendered.reply(i)?;
                    for mark in marks.iter().filter(|m| last.bytes.contains(&m.start)) {
                        supervised[marked_tokens(&encoding, &rendered.text, mark)].fill(true);
                    }
                }
            }
        }
        Ok((encoding.ids, supervised))
    }

    /// The tokens of a reply, its end-of-turn token the last.
    fn reply_tokens(
        &self,
        encoding: &Encoding,
        rendered: &Rendered,
        message: usize,
    ) -> Result<Range<usize>, RowProblem> {
        let Reply { bytes, exact } = rendered.reply(message)?;
        let inside = |&(start, end): &(usize, usize)| match start == end {
            true => bytes.contains(&start),
            false => start < bytes.end && end > bytes.start,
        };
        let not_written = RowProblem::ReplyNotWritten { message };
        let Some(first) = encoding.offsets.iter().position(inside) else { return Err(not_written) };
        let last = encoding.offsets.iter().rposition(inside).unwrap_or(first);
        let mut ends = (first..=last).filter(|&i| self.tokenizer.is_eos(encoding.ids[i]));
        // The content's own end, so that an end-of-turn token written inside a reply does not cut it short. The
        // first place it is found: a later one may lie inside the end-of-turn token (`d` in `<|im_end|>`).
        let content = rendered.conversation.messages[message].text().trim();
        let content_end = rendered.text[bytes.clone()].find(content).filter(|_| !content.is_empty());
        let end = match content_end.map(|at| bytes.start + at + content.len()) {
            Some(content_end) => ends.find(|&i| encoding.offsets[i].0 >= content_end),
            // A reply that only calls tools, or whose content the template rewrites (strips its reasoning, say).
            None => ends.next_back(),
        };
        match end {
            Some(end) => Ok(first..end + 1),
            None if exact => Ok(first..last + 1),
            None => Err(RowProblem::SpanNotFound { message }),
        }
    }

    /// Plain text closed with the end-of-sequence token; trained from byte `from` on.
    fn closed(
        &self,
        text: &str,
        from: usize,
        notes: &mut RowNotes,
    ) -> Result<(Vec<u32>, Vec<bool>), RowProblem> {
        let eos = self.tokenizer.eos().ok_or(RowProblem::NoEos)?;
        let Encoding { mut ids, offsets } = self.plain.encode(self.tokenizer, text, notes)?;
        let mut supervised: Vec<bool> =
            offsets.iter().map(|&(start, end)| end > from || (start > 0 && start >= from)).collect();
        if self.train_on == TrainOn::All {
            supervised.fill(true);
        }
        // Some tokenizers close text themselves.
        if ids.last() != Some(&eos) {
            ids.push(eos);
            supervised.push(true);
        }
        Ok((ids, supervised))
    }
}

/// The template with the variables that a row sets.
fn for_row<'a>(template: &'a ChatTemplate, conversation: &Conversation) -> Cow<'a, ChatTemplate> {
    let template = template.for_tools(conversation.tools.is_some());
    match conversation.variables.is_empty() {
        true => Cow::Borrowed(template),
        false => Cow::Owned(template.with_variables(&conversation.variables)),
    }
}

/// The tokens of a span that the template marks, by transformers' rule; none for an empty one.
fn marked_tokens(encoding: &Encoding, text: &str, mark: &Range<usize>) -> Range<usize> {
    let marked = &text[mark.clone()];
    let (Some(first), Some(last)) = (marked.chars().next(), marked.chars().next_back()) else { return 0..0 };
    let holding = |start: usize, end: usize| {
        encoding.offsets.iter().position(move |&(from, to)| from < end && start < to)
    };
    let Some(begin) = holding(mark.start, mark.start + first.len_utf8()) else { return 0..0 };
    let end = holding(mark.end - last.len_utf8(), mark.end)
        .or_else(|| encoding.offsets.iter().rposition(|&(from, _)| from < mark.end));
    begin..end.unwrap_or(begin).max(begin) + 1
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
    match document {
        Document::Chat(conversation) => {
            let template = &*for_row(template.ok_or(RowProblem::NoChatTemplate)?, conversation);
            let Some(before) = conversation.messages.len().checked_sub(1) else {
                return Err(RowProblem::NoMessages);
            };
            let rendered = Rendered::new(template, conversation)?;
            let prompt = rendered.part(before, true)?;
            let last = &conversation.messages[before];
            let reply = match last.calls_tools() {
                false => last.text().to_string(),
                // What the model is to generate, as the template writes it.
                true => {
                    let encoding = tokenizer.encode_with_offsets(&rendered.text, false)?;
                    let masker = Masker::new(tokenizer, Some(template), TrainOn::Last);
                    let tokens = masker.reply_tokens(&encoding, &rendered, before)?;
                    tokenizer.decode(&encoding.ids[tokens], true)?.trim().to_string()
                }
            };
            let prompt_ids = tokenizer.encode(&prompt, false)?;
            Ok(Some((prompt, prompt_ids, reply)))
        }
        Document::Completion(Completion { prompt, completion }) => {
            let plain = PlainText::new(tokenizer, template);
            let prompt_ids = plain.encode(tokenizer, prompt, &mut RowNotes::default())?.ids;
            Ok(Some((prompt.clone(), prompt_ids, completion.clone())))
        }
        Document::Text(_) => Ok(None),
    }
}
