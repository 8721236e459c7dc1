//! Which tokens of a row are trained.
//!
//! Where the chat template marks what the assistant says (`{% generation %}`), its marks decide, token by token as
//! in transformers (`apply_chat_template(..., return_assistant_tokens_mask=True)`): of a marked span, the first token
//! that holds any of its first character up to the first token that holds any of its last one. Where a tokenizer
//! drops that character, transformers trains all the rest of the row; here the span ends before it.
//!
//! Without marks a reply's place is found in the rendered text (`reply.rs`). A token is trained when it stands for
//! any of the reply's bytes, up to and including the end-of-turn token that follows the reply's words; what the template
//! writes after that (a line break) is never generated, so never trained.
//!
//! By position and never by id: an end-of-turn token in the prompt is not trained, one after a reply is, and no
//! padding exists.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::json;

use crate::error::RowProblem;
use crate::format::{Completion, Conversation, Document, Role};
use crate::notes::{self, PlainText, RowNotes};
use crate::reply::{Finder, Habits, Rendered};
use crate::sample::{Sample, TrainOn};
use crate::template::ChatTemplate;
use crate::tokenizer::{Encoding, Tokenizer};

/// So many choices of a row's variables are remembered, of so many bytes each; rows of a dataset make few.
const MOST_VARIANTS: usize = 64;
const LONGEST_VARIABLES: usize = 4096;

/// Turns documents into samples. Made once for a dataset, used from many threads.
#[derive(Debug)]
pub struct Masker<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<&'a ChatTemplate>,
    train_on: TrainOn,
    /// By whether the row has tools, and the JSON of its variables.
    variants: Mutex<HashMap<(bool, String), Arc<Variant<'a>>>>,
    plain: PlainText,
}

/// The template of some rows: the one for rows with tools or for others, with the variables that they set.
#[derive(Debug)]
struct Variant<'a> {
    template: Cow<'a, ChatTemplate>,
    /// Learnt when they are first needed.
    habits: OnceLock<Option<Habits>>,
}

/// A conversation as text and as tokens.
struct Tokenised<'r> {
    tokenizer: &'r Tokenizer,
    variant: &'r Variant<'r>,
    rendered: &'r Rendered<'r>,
    encoding: Encoding,
}

impl<'r> Tokenised<'r> {
    fn new(
        tokenizer: &'r Tokenizer,
        variant: &'r Variant<'r>,
        rendered: &'r Rendered<'r>,
    ) -> Result<Self, RowProblem> {
        let encoding = tokenizer.encode_with_offsets(&rendered.text, false)?;
        Ok(Self { tokenizer, variant, rendered, encoding })
    }

    /// The bytes of a reply.
    fn reply(&self, message: usize) -> Result<Range<usize>, RowProblem> {
        let Self { tokenizer, variant, rendered, encoding } = self;
        let habits = variant.habits.get_or_init(|| Habits::of(&variant.template, tokenizer)).as_ref();
        Finder { rendered, encoding, tokenizer, habits }.find(message)
    }

    /// The tokens of a reply, its end-of-turn token the last.
    fn reply_tokens(&self, message: usize) -> Result<Range<usize>, RowProblem> {
        let bytes = self.reply(message)?;
        let inside = |&(start, end): &(usize, usize)| match start == end {
            true => bytes.contains(&start),
            false => start < bytes.end && end > bytes.start,
        };
        let offsets = &self.encoding.offsets;
        let Some(first) = offsets.iter().position(inside) else {
            return Err(RowProblem::ReplyNotWritten { message });
        };
        let last = offsets.iter().rposition(inside).unwrap_or(first);
        Ok(first..last + 1)
    }

    /// The tokens of a span that the template marks, by transformers' rule; none for an empty one.
    fn marked_tokens(&self, mark: &Range<usize>) -> Range<usize> {
        let (marked, offsets) = (&self.rendered.text[mark.clone()], &self.encoding.offsets);
        let (Some(first), Some(last)) = (marked.chars().next(), marked.chars().next_back()) else {
            return 0..0;
        };
        let holding =
            |start: usize, end: usize| offsets.iter().position(move |&(from, to)| from < end && start < to);
        let Some(begin) = holding(mark.start, mark.start + first.len_utf8()) else { return 0..0 };
        let end = holding(mark.end - last.len_utf8(), mark.end)
            .or_else(|| offsets.iter().rposition(|&(from, _)| from < mark.end));
        begin..end.unwrap_or(begin).max(begin) + 1
    }
}

impl<'a> Masker<'a> {
    /// A masker for one tokenizer and a template, whose end-of-turn tokens the tokenizer must know as its own template's
    /// ([`Tokenizer::use_chat_template`]).
    pub fn new(tokenizer: &'a Tokenizer, template: Option<&'a ChatTemplate>, train_on: TrainOn) -> Self {
        let plain = PlainText::new(tokenizer, template);
        Self { tokenizer, template, train_on, variants: Mutex::default(), plain }
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
            Document::Chat(conversation) => {
                self.chat(conversation, notes).map_err(|problem| named_in_row(problem, conversation))?
            }
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

    /// The tokens of a document that is scored as a whole: a conversation as the template writes it, a text with what the tokenizer
    /// adds; without what it is filled up with.
    ///
    /// # Errors
    /// When the row cannot be rendered or tokenised, or has no tokens.
    pub fn whole(&self, document: &Document, notes: &mut RowNotes) -> Result<Vec<u32>, RowProblem> {
        let ids = match document {
            Document::Chat(conversation) => {
                let variant = self.variant(conversation)?;
                let rendered = Rendered::new(&variant.template, conversation)
                    .map_err(|problem| named_in_row(problem, conversation))?;
                notes.passed_over.extend(rendered.left_out.iter().cloned());
                self.tokenizer.encode(&rendered.text, false)?
            }
            Document::Completion(Completion { prompt, completion }) => {
                self.plain.encode(self.tokenizer, &format!("{prompt}{completion}"), notes)?.ids
            }
            Document::Text(text) => self.plain.encode(self.tokenizer, text, notes)?.ids,
        };
        match ids.is_empty() {
            true => Err(RowProblem::NoTokens),
            false => Ok(without_filler(ids, self.tokenizer)),
        }
    }

    /// As [`Masker::whole`], of a prompt with its reply: plain text is closed with the end-of-sequence token.
    ///
    /// # Errors
    /// As [`Masker::whole`].
    pub fn replied(&self, document: &Document, notes: &mut RowNotes) -> Result<Vec<u32>, RowProblem> {
        match document {
            Document::Chat(_) => self.whole(document, notes),
            Document::Completion(_) | Document::Text(_) => {
                Ok(without_filler(self.sample_noted(document, 0, notes)?.ids, self.tokenizer))
            }
        }
    }

    fn chat(
        &self,
        conversation: &Conversation,
        notes: &mut RowNotes,
    ) -> Result<(Vec<u32>, Vec<bool>), RowProblem> {
        let variant = self.variant(conversation)?;
        let rendered = Rendered::new(&variant.template, conversation)?;
        let conversation = &*rendered.conversation;
        notes::of_conversation(&variant.template, conversation, &rendered.text, notes)?;
        notes.passed_over.extend(rendered.left_out.iter().cloned());
        notes.rendered_before |= conversation.messages.iter().any(|m| self.plain.was_rendered(m.text()));
        let tokenised = Tokenised::new(self.tokenizer, &variant, &rendered)?;

        let replies = || conversation.messages.iter().enumerate().filter(|(_, m)| m.role == Role::Assistant);
        let untrained = || replies().filter(|(_, m)| !m.train);
        let mut supervised = vec![self.train_on == TrainOn::All; tokenised.encoding.ids.len()];
        match (self.train_on, &rendered.marks) {
            (TrainOn::All, _) => {
                for (i, _) in untrained() {
                    supervised[tokenised.reply_tokens(i)?].fill(false);
                }
            }
            (TrainOn::Completion, _) => {
                if let Some((first, _)) = replies().find(|(_, m)| m.train) {
                    let from = tokenised.reply_tokens(first)?.start;
                    supervised[from..].fill(true);
                }
            }
            (TrainOn::Replies | TrainOn::Last, None) => {
                let last_only = self.train_on == TrainOn::Last;
                let passed = if last_only { replies().count().saturating_sub(1) } else { 0 };
                let mut end = 0;
                for (i, _) in replies().skip(passed).filter(|(_, m)| m.train) {
                    let tokens = tokenised.reply_tokens(i)?;
                    // Replies that stand in another order, or in one another, are not understood.
                    if tokens.start < end {
                        return Err(RowProblem::SpanNotFound { message: i });
                    }
                    end = tokens.end;
                    supervised[tokens].fill(true);
                }
            }
            (TrainOn::Replies, Some(marks)) => {
                let untrained =
                    untrained().map(|(i, _)| tokenised.reply(i)).collect::<Result<Vec<_>, _>>()?;
                let trained = marks.iter().filter(|m| !untrained.iter().any(|r| r.contains(&m.start)));
                for mark in trained {
                    supervised[tokenised.marked_tokens(mark)].fill(true);
                }
            }
            (TrainOn::Last, Some(marks)) => {
                if let Some((i, _)) = replies().next_back().filter(|(_, m)| m.train) {
                    let last = tokenised.reply(i)?;
                    for mark in marks.iter().filter(|m| last.contains(&m.start)) {
                        supervised[tokenised.marked_tokens(mark)].fill(true);
                    }
                }
            }
        }
        if !matches!(self.train_on, TrainOn::All | TrainOn::Completion) {
            notes.open_ends += self.open_ends(&tokenised.encoding.ids, &supervised);
        }
        Ok((tokenised.encoding.ids, supervised))
    }

    /// Spans that are trained and do not end with a token that ends a generation.
    fn open_ends(&self, ids: &[u32], supervised: &[bool]) -> usize {
        let ends = |&i: &usize| supervised[i] && !supervised.get(i + 1).is_some_and(|next| *next);
        (0..ids.len()).filter(ends).filter(|&i| !self.tokenizer.is_eos(ids[i])).count()
    }

    /// The template of a conversation.
    fn variant(&self, conversation: &Conversation) -> Result<Arc<Variant<'a>>, RowProblem> {
        let template = self.template.ok_or(RowProblem::NoChatTemplate)?;
        let variables = &conversation.variables;
        let has_tools = conversation.tools.is_some();
        let key = if variables.is_empty() { String::new() } else { json!(variables).to_string() };
        let mut variants = self.variants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = variants.get(&(has_tools, key.clone())) {
            return Ok(known.clone());
        }
        let template = template.for_tools(has_tools);
        let template = match variables.is_empty() {
            true => Cow::Borrowed(template),
            false => Cow::Owned(template.with_variables(variables)),
        };
        let variant = Arc::new(Variant { template, habits: OnceLock::new() });
        if variants.len() < MOST_VARIANTS && key.len() <= LONGEST_VARIABLES {
            variants.insert((has_tools, key), variant.clone());
        }
        Ok(variant)
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

/// The tokens of a text that is scored, up to the last that is none of those that others fill texts up with: there transformers
/// looks for the score, be it that the token ends the text, too. The first token always stays.
fn without_filler(mut ids: Vec<u32>, tokenizer: &Tokenizer) -> Vec<u32> {
    let filler = tokenizer.filler();
    let last = ids.iter().rposition(|id| Some(*id) != filler).unwrap_or(0);
    ids.truncate(last + 1);
    ids
}

/// The same problem, with the names that the row has.
fn named_in_row(problem: RowProblem, conversation: &Conversation) -> RowProblem {
    match problem {
        RowProblem::NotWritten { field } => RowProblem::NotWritten { field: conversation.name_in_row(field) },
        other => other,
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
    match document {
        Document::Chat(conversation) => {
            let masker = Masker::new(tokenizer, template, TrainOn::Last);
            let variant = masker.variant(conversation)?;
            let Some(before) = conversation.messages.len().checked_sub(1) else {
                return Err(RowProblem::NoMessages);
            };
            let rendered = Rendered::new(&variant.template, conversation)
                .map_err(|problem| named_in_row(problem, conversation))?;
            let last = &conversation.messages[before];
            let tokenised = || Tokenised::new(tokenizer, &variant, &rendered);
            let prompt = match before {
                // Nothing was said: what the template writes before the reply.
                0 => rendered.text[..tokenised()?.reply(0)?.start].to_string(),
                _ => rendered.part(before, true)?,
            };
            let reply = match last.calls_tools() {
                false => last.text().to_string(),
                // What the model is to generate, as the template writes it.
                true => {
                    let tokenised = tokenised()?;
                    let tokens = tokenised.reply_tokens(before)?;
                    tokenizer.decode(&tokenised.encoding.ids[tokens], true)?.trim().to_string()
                }
            };
            let prompt_ids = encode_prompt(tokenizer, template, document, &prompt)?;
            Ok(Some((prompt, prompt_ids, reply)))
        }
        Document::Completion(Completion { prompt, completion }) => {
            let prompt_ids = encode_prompt(tokenizer, template, document, prompt)?;
            Ok(Some((prompt.clone(), prompt_ids, completion.clone())))
        }
        Document::Text(_) => Ok(None),
    }
}

/// The token ids of a text that the model continues: the prompt of `document`, perhaps with what follows it.
///
/// # Errors
/// When it cannot be tokenised.
pub(crate) fn encode_prompt(
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    document: &Document,
    text: &str,
) -> Result<Vec<u32>, RowProblem> {
    match document {
        // The template writes every special token itself.
        Document::Chat(_) => Ok(tokenizer.encode(text, false)?),
        Document::Completion(_) | Document::Text(_) => {
            let plain = PlainText::new(tokenizer, template);
            Ok(plain.encode(tokenizer, text, &mut RowNotes::default())?.ids)
        }
    }
}
