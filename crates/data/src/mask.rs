//! Which tokens of a row are trained.
//!
//! Where the chat template marks what the assistant says (`{% generation %}`), its marks decide, token by token as
//! in transformers (`apply_chat_template(..., return_assistant_tokens_mask=True)`): of a marked span, the first token
//! that holds any of its first character up to the first token that holds any of its last one. Where a tokenizer
//! drops that character, transformers trains all the rest of the row; here the span ends before it.
//!
//! Without marks a reply's place is found in the rendered text ([`crate::reply`]). A token is trained when it stands for
//! any of the reply's bytes, up to and including the end-of-turn token that follows the reply's words; what the template
//! writes after that (a line break) is never generated, so never trained.
//!
//! By position and never by id: an end-of-turn token in the prompt is not trained, one after a reply is, and no
//! padding exists.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

use crate::error::RowProblem;
use crate::format::{Completion, Conversation, Document, Role};
use crate::notes::{self, PlainText, RowNotes};
use crate::reply::{Finder, Habits, Rendered};
use crate::sample::{Sample, TrainOn};
use crate::template::ChatTemplate;
use crate::tokenizer::{Encoding, Tokenizer};

/// Turns documents into samples. Made once for a dataset, used from many threads.
#[derive(Debug)]
pub struct Masker<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<&'a ChatTemplate>,
    train_on: TrainOn,
    /// Of the template, learnt when they are first needed.
    habits: OnceLock<Option<Habits>>,
    /// Of the template that the model has for rows with tools.
    tool_habits: OnceLock<Option<Habits>>,
    plain: PlainText,
}

impl<'a> Masker<'a> {
    /// A masker for one tokenizer and a template, whose end-of-turn tokens the tokenizer must know as its own template's
    /// ([`Tokenizer::use_chat_template`]).
    pub fn new(tokenizer: &'a Tokenizer, template: Option<&'a ChatTemplate>, train_on: TrainOn) -> Self {
        let plain = PlainText::new(tokenizer, template);
        Self { tokenizer, template, train_on, habits: OnceLock::new(), tool_habits: OnceLock::new(), plain }
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
                let mut end = 0;
                for (i, _) in replies().skip(passed).filter(|(_, m)| m.train) {
                    let tokens = self.reply_tokens(&encoding, &rendered, i)?;
                    // Replies that stand in another order, or in one another, are not understood.
                    if tokens.start < end {
                        return Err(RowProblem::SpanNotFound { message: i });
                    }
                    end = tokens.end;
                    supervised[tokens].fill(true);
                }
            }
            (TrainOn::Replies, Some(marks)) => {
                let untrained = untrained()
                    .map(|(i, _)| self.reply(&encoding, &rendered, i))
                    .collect::<Result<Vec<_>, _>>()?;
                let trained = marks.iter().filter(|m| !untrained.iter().any(|r| r.contains(&m.start)));
                for mark in trained {
                    supervised[marked_tokens(&encoding, &rendered.text, mark)].fill(true);
                }
            }
            (TrainOn::Last, Some(marks)) => {
                if let Some((i, _)) = replies().next_back().filter(|(_, m)| m.train) {
                    let last = self.reply(&encoding, &rendered, i)?;
                    for mark in marks.iter().filter(|m| last.contains(&m.start)) {
                        supervised[marked_tokens(&encoding, &rendered.text, mark)].fill(true);
                    }
                }
            }
        }
        Ok((encoding.ids, supervised))
    }

    /// The bytes of a reply in its conversation's text.
    fn reply(&self, encoding: &Encoding, rendered: &Rendered, message: usize) -> Result<Range<usize>, RowProblem> {
        let template = rendered.template;
        let learn = || Habits::of(template, self.tokenizer);
        let is = |has_tools| self.template.is_some_and(|own| std::ptr::eq(own.for_tools(has_tools), template));
        let of_this_row;
        let habits = if is(false) {
            self.habits.get_or_init(learn).as_ref()
        } else if is(true) {
            self.tool_habits.get_or_init(learn).as_ref()
        } else {
            // The row sets variables, which may change what the template writes around replies.
            of_this_row = learn();
            of_this_row.as_ref()
        };
        Finder { rendered, encoding, tokenizer: self.tokenizer, habits }.find(message)
    }

    /// The tokens of a reply, its end-of-turn token the last.
    fn reply_tokens(
        &self,
        encoding: &Encoding,
        rendered: &Rendered,
        message: usize,
    ) -> Result<Range<usize>, RowProblem> {
        let bytes = self.reply(encoding, rendered, message)?;
        let inside = |&(start, end): &(usize, usize)| match start == end {
            true => bytes.contains(&start),
            false => start < bytes.end && end > bytes.start,
        };
        let Some(first) = encoding.offsets.iter().position(inside) else {
            return Err(RowProblem::ReplyNotWritten { message });
        };
        let last = encoding.offsets.iter().rposition(inside).unwrap_or(first);
        Ok(first..last + 1)
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

/// The template of a conversation, with the variables that the row sets.
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
            let last = &conversation.messages[before];
            let encoding = || tokenizer.encode_with_offsets(&rendered.text, false);
            let masker = Masker::new(tokenizer, Some(template), TrainOn::Last);
            let prompt = match before {
                // Nothing was said: what the template writes before the reply.
                0 => rendered.text[..masker.reply(&encoding()?, &rendered, 0)?.start].to_string(),
                _ => rendered.part(before, true)?,
            };
            let reply = match last.calls_tools() {
                false => last.text().to_string(),
                // What the model is to generate, as the template writes it.
                true => {
                    let encoding = encoding()?;
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
