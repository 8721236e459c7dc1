//! What became of rows beside being tokenised, so that nothing of it goes untold: keys that nothing reads, words that
//! the template writes otherwise, text that was rendered before, and text that might have been meant as a conversation.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use crate::error::RowProblem;
use crate::format::keys::{self, Use};
use crate::format::{Completion, Conversation, Message, Role};
use crate::template::ChatTemplate;
use crate::tokenizer::{Encoding, Tokenizer, TokenizerError};

/// Names of keys are the file's: so many are kept, and so many characters of each.
const MOST_NAMES: usize = 1000;
const LONGEST_NAME: usize = 80;
/// Counts keys whose names are not kept.
const OTHERS: &str = "(others)";
/// How much of a text is shown.
const SHOWN: usize = 300;
/// Words so long stand nowhere by chance.
const LONG_ENOUGH: usize = 24;
/// Stand for the words of a conversation while its template is asked what it writes around them. They end in no blank,
/// which templates strip.
const ASKED: &str = "\u{FDD6}q\u{FDD6}";
const ANSWERED: &str = "\u{FDD6}a\u{FDD6}";

/// What was done to the rows of a dataset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// Keys that neither we nor the chat template read, and in how many rows each stands; `messages[].key` is one of
    /// messages.
    pub passed_over: BTreeMap<String, usize>,
    /// Keys that rows have more than once, of which the last counts, and in how many rows.
    pub twice: BTreeMap<String, usize>,
    /// Names of roles that the mapping says what they are, and in how many messages each stands.
    pub roles: BTreeMap<String, usize>,
    /// Messages whose words, or whose reasoning, the chat template writes otherwise or leaves out.
    pub rewritten: usize,
    /// Rows of text that began with the beginning-of-sequence token, and were not given a second one.
    pub bos_present: usize,
    /// Rows whose text has the marks of the chat template, so that it was rendered before.
    pub rendered_before: usize,
    /// Messages whose content has several parts, which are read as one text: the chat template reads no parts.
    pub joined: usize,
    /// Replies of which no token that ends a generation is trained: the chat template's marks end before it, or it writes none.
    pub open_ends: usize,
    /// The first row of prompt and completion that is trained as plain text though the model has a chat template.
    pub as_text: Option<AsText>,
}

/// A row as it is trained, and as it would be as a conversation. Long texts are cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsText {
    /// The row's number.
    pub row: usize,
    /// What is given.
    pub prompt: String,
    /// What follows, and is trained.
    pub completion: String,
    /// The rendering as a conversation of the two.
    pub conversation: String,
}

/// What was done to one row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowNotes {
    /// See [`Notes::passed_over`].
    pub passed_over: Vec<String>,
    /// See [`Notes::roles`].
    pub roles: Vec<String>,
    /// See [`Notes::rewritten`].
    pub rewritten: usize,
    /// See [`Notes::joined`].
    pub joined: usize,
    /// See [`Notes::open_ends`].
    pub open_ends: usize,
    /// See [`Notes::bos_present`].
    pub bos_present: bool,
    /// See [`Notes::rendered_before`].
    pub rendered_before: bool,
}

impl Notes {
    /// Adds what was done to a row.
    pub(crate) fn add(&mut self, row: &RowNotes) {
        count(&mut self.passed_over, &row.passed_over, 1);
        count(&mut self.roles, &row.roles, 1);
        self.rewritten += row.rewritten;
        self.joined += row.joined;
        self.open_ends += row.open_ends;
        self.bos_present += usize::from(row.bos_present);
        self.rendered_before += usize::from(row.rendered_before);
    }
}

/// Counts the keys of a row that is taken so often.
pub(crate) fn count(counts: &mut BTreeMap<String, usize>, names: &[String], times: usize) {
    for name in names {
        let name: String = name.chars().take(LONGEST_NAME).collect();
        match counts.len() < MOST_NAMES || counts.contains_key(&name) {
            true => *counts.entry(name).or_default() += times,
            false => *counts.entry(OTHERS.into()).or_default() += times,
        }
    }
}

/// Notes what the template did with a conversation, and refuses what it lost.
///
/// # Errors
/// When it drops the reasoning of a reply that is trained where it stands last, or writes nothing for something that the
/// row sets for it. Reasoning of replies that are followed by a question is left out by many, and counted.
pub(crate) fn of_conversation(
    template: &ChatTemplate,
    conversation: &Conversation,
    text: &str,
    notes: &mut RowNotes,
) -> Result<(), RowProblem> {
    for name in conversation.variables.keys().filter(|name| !template.names(name)) {
        match keys::MATERIAL.contains(&name.as_str()) {
            true => return Err(RowProblem::NotWritten { field: name.clone() }),
            false => notes.passed_over.push(name.clone()),
        }
    }
    let last_question = conversation.messages.iter().rposition(|message| message.role == Role::User);
    for (i, message) in conversation.messages.iter().enumerate() {
        notes.rewritten += usize::from(!message.is_written_in(text));
        notes.joined += usize::from(message.in_row.parts.len() > 1 && !message.in_row.for_template);
        notes.roles.extend(message.in_row.role.clone());
        for key in &message.in_row.passed_over {
            let name = format!("messages[].content[].{key}");
            if !notes.passed_over.contains(&name) {
                notes.passed_over.push(name);
            }
        }
        let unread = |(name, value): &(&String, &serde_json::Value)| {
            let counts = !matches!(keys::of_message(name), Some(Use::Harmless));
            counts
                && !keys::is_empty(value)
                && !keys::REASONING.contains(&name.as_str())
                && !template.names(name)
        };
        for (name, _) in message.extra.iter().filter(unread) {
            let name = format!("messages[].{name}");
            if !notes.passed_over.contains(&name) {
                notes.passed_over.push(name);
            }
        }
        if loses_reasoning(template, conversation, i, text)? {
            let is_history = last_question.is_some_and(|question| i < question);
            if message.train && !is_history {
                return Err(RowProblem::NotWritten { field: format!("messages[{i}].reasoning_content") });
            }
            notes.rewritten += 1;
        }
    }
    Ok(())
}

/// Whether a message has reasoning, and the text is the same without it. A reply that the template would write without its
/// reasoning wherever it stood is refused as if it stood last.
fn loses_reasoning(
    template: &ChatTemplate,
    conversation: &Conversation,
    i: usize,
    text: &str,
) -> Result<bool, RowProblem> {
    let message = &conversation.messages[i];
    let has = |name: &&&str| message.extra.get(**name).is_some_and(|value| !keys::is_empty(value));
    let Some(name) = keys::REASONING.iter().find(has) else { return Ok(false) };
    // Words that are long, and there as often as messages have them, need no second look.
    let words = |message: &Message| {
        message.extra.get(*name).and_then(serde_json::Value::as_str).map(|words| words.trim().to_owned())
    };
    if let Some(own) = words(message).filter(|words| words.len() >= LONG_ENOUGH) {
        let wanted = conversation.messages.iter().filter(|other| words(other).as_ref() == Some(&own)).count();
        if text.matches(own.as_str()).take(wanted).count() == wanted {
            return Ok(false);
        }
    }
    let tools = conversation.tools.as_deref();
    let mut without = conversation.messages.clone();
    keys::REASONING.iter().for_each(|name| drop(without[i].extra.shift_remove(*name)));
    if template.render_with_tools(&without, tools, false)? != text {
        return Ok(false);
    }
    // Where it stands last, it would be written by templates that write it at all.
    let part = |messages: &[Message]| template.render_with_tools(&messages[..=i], tools, false);
    match (part(&conversation.messages), part(&without)) {
        (Ok(with), Ok(without)) if with == without && message.train && message.role == Role::Assistant => {
            Err(RowProblem::NotWritten { field: format!("messages[{i}].reasoning_content") })
        }
        _ => Ok(true),
    }
}

/// How plain text is given special tokens, if it may have been rendered by the chat template before.
#[derive(Debug, Clone, Default)]
pub(crate) struct PlainText {
    /// What the template writes between a question and its answer.
    header: Option<String>,
    /// Whether the template begins a text as the tokenizer does.
    template_begins: bool,
}

impl PlainText {
    /// Asks the template what it writes around a turn; a template that refuses it leaves no marks to know.
    pub fn new(tokenizer: &Tokenizer, template: Option<&ChatTemplate>) -> Self {
        let turn = [Message::new(Role::User, ASKED), Message::new(Role::Assistant, ANSWERED)];
        let Some(text) = template.and_then(|template| template.render(&turn, false).ok()) else {
            return Self::default();
        };
        let between = |text: &str| -> Option<String> {
            let (_, after) = text.split_once(ASKED)?;
            let (header, _) = after.split_once(ANSWERED)?;
            Some(header.trim().to_owned()).filter(|header| header.len() > 2)
        };
        let ids = tokenizer.encode(&text, false).unwrap_or_default();
        Self { header: between(&text), template_begins: ids.starts_with(tokenizer.prefix()) }
    }

    /// Whether a text has the marks of the template.
    pub fn was_rendered(&self, text: &str) -> bool {
        self.header.as_ref().is_some_and(|header| text.contains(header.as_str()))
    }

    /// The tokens of a text with what the tokenizer adds; what the text begins with already is not added again, nor what
    /// its template would not have written.
    ///
    /// # Errors
    /// When the tokenizers library fails.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        notes: &mut RowNotes,
    ) -> Result<Encoding, TokenizerError> {
        let mut encoding = tokenizer.encode_with_offsets(text, true)?;
        let prefix = tokenizer.prefix();
        let text_ids = encoding.ids.strip_prefix(prefix).unwrap_or_default();
        let begins = !prefix.is_empty() && text_ids.starts_with(prefix);
        let rendered = self.was_rendered(text);
        notes.bos_present |= begins;
        notes.rendered_before |= rendered;
        if begins || (rendered && !self.template_begins && encoding.ids.starts_with(prefix)) {
            encoding.ids.drain(..prefix.len());
            encoding.offsets.drain(..prefix.len());
        }
        Ok(encoding)
    }
}

/// The first row that is trained as text, found by many threads.
#[derive(Debug)]
pub(crate) struct FirstAsText {
    row: AtomicUsize,
    found: Mutex<Option<(usize, Completion)>>,
}

impl FirstAsText {
    pub fn new() -> Self {
        Self { row: AtomicUsize::new(usize::MAX), found: Mutex::new(None) }
    }

    /// Offers a row.
    pub fn offer(&self, row: usize, completion: &Completion) {
        if self.row.fetch_min(row, Ordering::Relaxed) <= row {
            return;
        }
        let Ok(mut found) = self.found.lock() else { return };
        if found.as_ref().is_none_or(|(first, _)| row < *first) {
            *found = Some((row, completion.clone()));
        }
    }

    /// The first of them beside what the template would make of it.
    pub fn shown(self, template: Option<&ChatTemplate>) -> Option<AsText> {
        let (row, Completion { prompt, completion }) = self.found.into_inner().ok()??;
        let cut = |text: &str| text.chars().take(SHOWN).collect::<String>();
        let turn =
            [Message::new(Role::User, prompt.trim()), Message::new(Role::Assistant, completion.trim())];
        let conversation = template?.render(&turn, false).ok()?;
        Some(AsText {
            row,
            prompt: cut(&prompt),
            completion: cut(&completion),
            conversation: cut(&conversation),
        })
    }
}
