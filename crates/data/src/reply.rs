//! Where a reply stands in the text of its conversation.
//!
//! A reply begins where its generation prompt and the text part: the model is trained at the very place where it would
//! generate. The prompt may have more than the finished turn (`<think>\n`), and what it has more must then be a mark.
//! It ends with the token that ends a generation and follows its words.
//!
//! Ordinary templates write the prompt, the words and that token one after the other. Which token that is, and what
//! they write between prompt and words, is learnt once from conversations of [`WORDS`] ([`Habits`]); where a reply stands
//! like that in its row, nothing more is asked. Else the conversation is rendered with [`OTHER_WORDS`] in the reply's
//! place: what stands before and after them is not the reply. A reply that is still ambiguous (written twice, or
//! before what it answers; begun by another header; ended by no token, though something stands behind the words) is an
//! error, since a wrong guess would train something else than what will be generated.
//!
//! No conversation without messages is ever rendered: templates ask for `messages[0]`.

use std::borrow::Cow;
use std::ops::Range;

use serde_json::{Value, json};

use crate::error::RowProblem;
use crate::format::{Conversation, Message, Role, TOOL_CALLS};
use crate::lost;
use crate::template::ChatTemplate;
use crate::tokenizer::{Encoding, Tokenizer};

/// Stands for a message's words while their place is looked for. Noncharacters, which no template looks for; a
/// conversation that has them itself is one whose replies are not found. First and last character differ, so that
/// neither end of it is found in the other.
const OTHER_WORDS: &str = "\u{FDD8}\u{FDD9}";
/// What is said in the conversations that [`Habits`] are learnt from.
const WORDS: [&str; 4] = ["\u{FDDA}\u{FDDB}", "\u{FDDC}\u{FDDD}", "\u{FDDE}\u{FDDF}", "\u{FDE0}\u{FDE1}"];
/// Keys of a message that hold reasoning.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// What a template writes around what is said.
#[derive(Debug, Default)]
pub(crate) struct Habits {
    /// The generation prompt without the conversation before it. Empty where users' turns end with the header.
    prompt: String,
    /// So many bytes of it, at least, stand before every reply.
    shared: usize,
    /// Between the user's words and the end of the generation prompt.
    after_user: String,
    /// Before the first user's words.
    before_user: String,
    /// Between the beginning of a reply and its words: for the last reply, and for earlier ones.
    leads: [String; 2],
    /// Behind the words of an earlier reply, up to the next words.
    after_reply: String,
    /// The token that follows the words of every reply.
    close: Option<String>,
}

impl Habits {
    /// What the template makes of two questions and replies; `None` if it will not have them, or is too unusual.
    pub(crate) fn of(template: &ChatTemplate, tokenizer: &Tokenizer) -> Option<Self> {
        let [asked, replied, asked_again, replied_again] = WORDS;
        let talk = [asked, replied, asked_again, replied_again].into_iter().enumerate();
        let talk: Vec<_> =
            talk.map(|(i, words)| Message::new([Role::User, Role::Assistant][i % 2], words)).collect();
        let render = |n: usize, prompt| template.render(&talk[..n], prompt).ok();
        let (question, prompt) = (render(1, false)?, render(1, true)?);
        let (single, double) = (render(2, false)?, render(4, false)?);

        let (before_user, after_user) = around(&prompt, asked)?;
        let (before_reply, after_single) = around(&single, replied)?;
        let (before_first, after_first) = around(&double, replied)?;
        let (_, after_second) = around(&double, replied_again)?;
        let begins = part_at(&prompt, &question);
        let (in_single, in_double) = (part_at(&prompt, &single), part_at(&prompt, &double));
        let shared = in_single.min(in_double).checked_sub(begins)?;
        let close = end_of(tokenizer, after_single);
        let always =
            [after_first, after_second].iter().all(|t| close.as_ref().is_some_and(|c| t.starts_with(c)));
        // A line break that the conversation lacks where no prompt follows belongs to what is before.
        let opening = prompt[begins..].trim_start();
        let room = prompt.len() - begins - opening.len();
        Some(Self {
            shared: shared.saturating_sub(room),
            before_user: before_user.into(),
            after_user: after_user.into(),
            leads: [before_reply.get(in_single..)?.into(), before_first.get(in_double..)?.into()],
            after_reply: after_first.split(asked_again).next().unwrap_or_default().into(),
            close: close.filter(|_| always),
            prompt: opening.into(),
        })
    }

    /// What of the generation prompt every finished turn has.
    fn header(&self) -> &str {
        &self.prompt[..self.shared]
    }

    /// Whether replies have `text` between their beginning and their words, or its first part.
    fn leads_with(&self, text: &str) -> bool {
        self.leads.iter().any(|lead| lead.starts_with(text))
    }
}

/// A conversation in the hands of its template.
pub(crate) struct Rendered<'a> {
    pub(crate) template: &'a ChatTemplate,
    /// With the parts of contents, where the template reads those.
    pub(crate) conversation: Cow<'a, Conversation>,
    pub(crate) text: String,
    /// What the template marks as the assistant's; `None` if it marks nothing in any conversation.
    pub(crate) marks: Option<Vec<Range<usize>>>,
    /// Names of what the template leaves out and is only counted.
    pub(crate) left_out: Vec<String>,
}

impl<'a> Rendered<'a> {
    /// Renders a conversation.
    ///
    /// # Errors
    /// When the template fails, or leaves something out ([`lost::check`]): Mistral v0.3 forgets the system message once the
    /// assistant has replied.
    pub(crate) fn new(
        template: &'a ChatTemplate,
        conversation: &'a Conversation,
    ) -> Result<Self, RowProblem> {
        let conversation = conversation.for_template(template);
        let Conversation { messages, tools, .. } = &*conversation;
        let (text, marks) = match template.has_generation_marks() {
            true => template.render_marked(messages, tools.as_deref()).map(|(text, m)| (text, Some(m)))?,
            false => (template.render_with_tools(messages, tools.as_deref(), false)?, None),
        };
        let mut rendered = Self { template, conversation, text, marks, left_out: Vec::new() };
        rendered.left_out = lost::check(&rendered)?;
        Ok(rendered)
    }

    /// The first messages, with or without a generation prompt.
    pub(crate) fn part(&self, messages: usize, generation_prompt: bool) -> Result<String, RowProblem> {
        let Conversation { messages: all, tools, .. } = &*self.conversation;
        Ok(self.template.render_with_tools(&all[..messages], tools.as_deref(), generation_prompt)?)
    }

    /// The text with another message `i`; `None` if the template will not have it.
    pub(crate) fn with(&self, i: usize, message: Message) -> Option<String> {
        let mut messages = self.conversation.messages.clone();
        messages[i] = message;
        self.template.render_with_tools(&messages, self.conversation.tools.as_deref(), false).ok()
    }

    /// The place of a message's words in the text: what changes when they do.
    fn words(&self, i: usize) -> Option<Range<usize>> {
        let changed = self.with(i, other_words(&self.conversation.messages[i]))?;
        let (before, after) = around(&changed, OTHER_WORDS)?;
        let fits = self.text.starts_with(before)
            && self.text.ends_with(after)
            && before.len() + after.len() <= self.text.len();
        fits.then(|| before.len()..self.text.len() - after.len())
    }
}

/// Finds the replies of one conversation.
pub(crate) struct Finder<'a> {
    pub(crate) rendered: &'a Rendered<'a>,
    pub(crate) encoding: &'a Encoding,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) habits: Option<&'a Habits>,
}

/// The place of a reply's words.
struct Words {
    range: Range<usize>,
    /// The reply with [`OTHER_WORDS`].
    other: Message,
    /// So many bytes behind the last of those are still words, by another form of calls.
    more: usize,
}

impl Finder<'_> {
    /// The bytes of the text that reply `i` has, its end-of-turn token the last of them.
    ///
    /// # Errors
    /// When the template fails on a part of the conversation, or the place cannot be found.
    pub(crate) fn find(&self, i: usize) -> Result<Range<usize>, RowProblem> {
        // Templates ask for the first message: there is no prompt before it.
        let prompt = if i > 0 { self.rendered.part(i, true).ok() } else { None };
        if let Some(place) = prompt.as_deref().and_then(|prompt| self.ordinary(i, prompt)) {
            return Ok(place);
        }
        let words = self.words(i)?;
        let start = match prompt {
            _ if i == 0 => self.first_start(words.range.start),
            Some(prompt) => self.start(i, &prompt, words.range.start),
            None => self.behind_header(0, words.range.start),
        };
        // Where the prompt opens reasoning that the content has, a reply begins inside its words.
        let start = start
            .filter(|start| *start <= words.range.end && self.begins_as_usual(i, *start..words.range.start))
            .ok_or(RowProblem::SpanNotFound { message: i })?;
        let end = self.end(i, words)?;
        match self.has_header_inside(i, start..end) {
            true => Err(RowProblem::SpanNotFound { message: i }),
            false => Ok(start..end),
        }
    }

    /// Whether calls of a reply are turns of their own, with headers that are not generated. Behind a token that ends a
    /// message (`<|end|>` of gpt-oss) a header is.
    fn has_header_inside(&self, i: usize, reply: Range<usize>) -> bool {
        let header =
            self.habits.map(Habits::header).filter(|h| !h.is_empty() && self.message(i).calls_tools());
        let inside = header.and_then(|header| self.rendered.text[reply.clone()].find(header));
        inside.is_some_and(|at| {
            let before = self.rendered.text[reply.start..reply.start + at].trim_end();
            let mut names = self.tokenizer.eos_ids().iter().filter_map(|id| self.tokenizer.id_to_token(*id));
            !names.any(|name| !name.is_empty() && before.ends_with(name.as_str()))
        })
    }

    fn message(&self, i: usize) -> &Message {
        &self.rendered.conversation.messages[i]
    }

    /// Whether a message is nothing but its content.
    fn is_plain(&self, i: usize) -> bool {
        let message = self.message(i);
        !message.calls_tools() && !REASONING.iter().any(|key| message.extra.contains_key(*key))
    }

    /// The place of a reply that stands as nearly all do: the prompt, the words, the token that closes them.
    fn ordinary(&self, i: usize, prompt: &str) -> Option<Range<usize>> {
        let habits = self.habits?;
        let close = habits.close.as_deref()?;
        let usual = if habits.prompt.is_empty() { &habits.after_user } else { &habits.prompt };
        let written = self.rendered.text.strip_prefix(prompt)?;
        if !prompt.ends_with(usual.as_str()) || usual.is_empty() || !self.is_plain(i) {
            return None;
        }
        let words = self.message(i).text().trim();
        habits.leads.iter().find_map(|lead| {
            let rest = written.strip_prefix(lead.as_str())?.trim_start().strip_prefix(words)?;
            let rest = rest.trim_start().strip_prefix(close)?;
            (!words.is_empty()).then(|| prompt.len()..self.rendered.text.len() - rest.len())
        })
    }

    /// The place of a reply's words: reasoning, content and calls, as far as they change with other ones.
    fn words(&self, i: usize) -> Result<Words, RowProblem> {
        let text = &self.rendered.text;
        let not_found = RowProblem::SpanNotFound { message: i };
        let message = self.message(i);
        let other = other_reply(message);
        let Some(changed) = self.rendered.with(i, other.clone()) else { return Err(not_found) };
        let mut places = changed.match_indices(OTHER_WORDS).map(|(at, _)| at);
        let Some(first) = places.next() else { return Err(RowProblem::ReplyNotWritten { message: i }) };
        let last = places.last().unwrap_or(first);
        if text.contains(OTHER_WORDS) {
            return Err(not_found);
        }
        if first < last && self.is_plain(i) {
            // Where what it answers is repeated as well, the place of the prompt is not known either.
            let before = || self.rendered.with(i - 1, other_words(self.message(i - 1)));
            let question = if i > 0 { before() } else { None };
            let repeated = question.is_none_or(|text| around(&text, OTHER_WORDS).is_some());
            return Err(if repeated { RowProblem::ReplyRepeated { message: i } } else { not_found });
        }
        let after = &changed[last + OTHER_WORDS.len()..];
        let same_after = common_suffix(text, after);
        // Calls have no one form: their last words may be a number where the others are a string.
        if same_after < after.len() && !message.calls_tools() {
            return Err(not_found);
        }
        let start = common_prefix(text, &changed[..first]);
        let end = text.len() - same_after;
        let fits = start <= end;
        fits.then(|| Words { range: start..end, other, more: after.len() - same_after }).ok_or(not_found)
    }

    /// Where reply `i` begins, whose generation prompt is `prompt` and whose words begin at `words`.
    fn start(&self, i: usize, prompt: &str, words: usize) -> Option<usize> {
        let text = &self.rendered.text;
        let parted = part_at(prompt, text);
        let before = self.rendered.part(i, false).ok();
        // Where the prompt has no more than the conversation before it.
        let opens = before.map(|before| part_at(prompt, &before));
        let header = self.habits.map(Habits::header);
        if let Some(opens) = opens.filter(|opens| *opens <= parted) {
            let opened = header.is_none_or(|header| prompt[opens..parted].trim_start().starts_with(header));
            if (opened || parted >= words) && is_mark_or_nothing(&prompt[parted..]) {
                return Some(parted);
            }
            // Some write no header here: results of tools and what the assistant makes of them are one turn.
            let headed = self.behind_header(opens.min(words), words);
            let goes_on = parted == prompt.len() && parted <= words;
            return headed.or(goes_on.then_some(parted));
        }
        // The text has what is before the reply in another form: begin with the words before it.
        let Some(said) = self.rendered.words(i - 1) else { return self.behind_header(0, words) };
        let mut messages = self.rendered.conversation.messages[..i].to_vec();
        messages[i - 1] = other_words(&messages[i - 1]);
        let tools = self.rendered.conversation.tools.as_deref();
        let prompt = self.rendered.template.render_with_tools(&messages, tools, true);
        // A template may say them before as well.
        let after = prompt.as_deref().ok().and_then(|p| p.rsplit_once(OTHER_WORDS)).map(|(_, after)| after);
        let found = after.and_then(|after| {
            let parted = part_at(after, &text[said.end..]);
            let more =
                self.habits.filter(|h| after.ends_with(&h.prompt)).map_or(0, |h| h.prompt.len() - h.shared);
            let enough = parted + more >= after.len() && is_mark_or_nothing(&after[parted..]);
            (enough && said.end + parted <= words).then_some(said.end + parted)
        });
        found.or_else(|| self.behind_header(said.end, words))
    }

    /// Where a reply begins that no message stands before.
    fn first_start(&self, words: usize) -> Option<usize> {
        let habits = self.habits?;
        let without_header = || {
            // What stands before a user's first words, or a part of it, and a header that users' turns end with.
            let text = &self.rendered.text[..words];
            let lead = habits.leads.iter().find(|lead| text.ends_with(lead.as_str()))?;
            let text = &text[..words - lead.len()];
            let header = &text[common_prefix(text, &habits.before_user)..];
            habits.after_user.ends_with(header).then_some(text.len())
        };
        self.behind_header(0, words).or_else(without_header)
    }

    /// The end of the last header of a reply from `from` to `words`.
    fn behind_header(&self, from: usize, words: usize) -> Option<usize> {
        let habits = self.habits.filter(|habits| habits.shared > 0)?;
        let text = &self.rendered.text;
        let at = from + text.get(from..words)?.rfind(habits.header())?;
        let parted = part_at(&habits.prompt, &text[at..]);
        is_mark_or_nothing(&habits.prompt[parted..]).then_some(at + parted)
    }

    /// Whether nothing but what the template always writes there stands between a reply's beginning and its words.
    fn begins_as_usual(&self, i: usize, lead: Range<usize>) -> bool {
        let lead = self.rendered.text.get(lead).unwrap_or_default();
        let usual = |habits: &Habits| match self.is_plain(i) {
            true => habits.leads_with(lead),
            false => habits.shared == 0 || !lead.contains(habits.header()),
        };
        lead.trim().is_empty() || self.habits.is_some_and(usual)
    }

    /// The end of reply `i`.
    fn end(&self, i: usize, words: Words) -> Result<usize, RowProblem> {
        let Words { range: Range { end: words, .. }, other, more } = words;
        let behind = &self.rendered.text[words..];
        let plain = self.is_plain(i);
        let unclear =
            |found: &str| RowProblem::EndUnclear { message: i, found: found.chars().take(40).collect() };
        let close = self.habits.and_then(|habits| habits.close.as_deref());
        if let Some(close) = close.filter(|close| plain && behind.starts_with(*close)) {
            return Ok(words + close.len());
        }

        // What stands behind the words if nothing follows, and before a next reply: what the text has of that is the
        // reply's. What it has more may be the header of the next turn, which may be a token that ends a generation.
        let last = i + 1 == self.rendered.conversation.messages.len();
        let alone = |prompt| {
            let mut messages = self.rendered.conversation.messages[..i].to_vec();
            messages.push(other.clone());
            let tools = self.rendered.conversation.tools.as_deref();
            let text = self.rendered.template.render_with_tools(&messages, tools, prompt).ok()?;
            let end = text.rfind(OTHER_WORDS)? + OTHER_WORDS.len() + more;
            text.get(end..).map(str::to_string)
        };
        let (ends, goes_on) =
            if last { (Some(behind.to_string()), None) } else { (alone(false), alone(true)) };
        let own = [&ends, &goes_on].map(|t| t.as_deref().map_or(0, |t| common_prefix(t, behind)));
        let own = words + own[0].max(own[1]);

        if let Some((start, end)) = self.first_end(words) {
            let whole = self.rendered.text[..end].trim_end().len();
            let between = self.rendered.text.get(words..start).unwrap_or_default();
            let closed = self.rendered.text.get(words..whole).unwrap_or_default();
            // Some end the last reply with another token.
            let other_end =
                ends.as_deref().and_then(|t| t.strip_prefix(between)).and_then(|t| end_of(self.tokenizer, t));
            if whole <= own || other_end.is_some() {
                if !plain {
                    // A turn may end behind the token that hands over to the tool.
                    let more = close.filter(|close| last && self.rendered.text[end..].starts_with(*close));
                    return Ok(end + more.map_or(0, str::len));
                }
                let usual = between.trim().is_empty() && self.habits.is_none();
                let usual = usual || self.habits.is_some_and(|h| h.after_reply.starts_with(closed));
                return if between.is_empty() || usual { Ok(end) } else { Err(unclear(between)) };
            }
        }
        let Some(ends) = ends else { return Err(RowProblem::SpanNotFound { message: i }) };
        match self.message(i).calls_tools() {
            true if behind.starts_with(ends.trim_end()) => Ok(words + ends.trim_end().len()),
            // A line break ends what has no other end. Blank lines may do so as well, or set turns apart.
            false if ["", "\n"].contains(&ends.as_str()) && behind.starts_with(&ends) => {
                Ok(words + ends.len())
            }
            _ => Err(unclear(&ends)),
        }
    }

    /// The bytes of the first token from `words` on that ends a generation.
    fn first_end(&self, words: usize) -> Option<(usize, usize)> {
        let tokens = self.encoding.offsets.iter().zip(&self.encoding.ids);
        let ends = |&(&(start, end), &id): &(&(usize, usize), &u32)| {
            // Some tokens take the room before them.
            let room = self.rendered.text.get(start..words);
            let begins = start >= words || room.is_some_and(|room| room.trim().is_empty());
            begins && end > words && self.tokenizer.is_eos(id)
        };
        tokens.into_iter().find(ends).map(|(bytes, _)| *bytes)
    }
}

/// The token that ends a generation and stands at the beginning of a text.
fn end_of(tokenizer: &Tokenizer, text: &str) -> Option<String> {
    let names = tokenizer.eos_ids().iter().filter_map(|id| tokenizer.id_to_token(*id));
    names.filter(|name| !name.is_empty()).find(|name| text.starts_with(name.as_str()))
}

fn other_words(message: &Message) -> Message {
    message.saying(OTHER_WORDS)
}

/// A reply of the same form that says other words. The names of calls stay: results of tools may say them again.
fn other_reply(message: &Message) -> Message {
    let says = message.content.is_some() || !message.calls_tools();
    let mut other = if says { message.saying(OTHER_WORDS) } else { message.clone() };
    for key in REASONING {
        if let Some(Value::String(text)) = other.extra.get_mut(key) {
            *text = OTHER_WORDS.into();
        }
    }
    if let Some(Value::Array(calls)) = other.extra.get_mut(TOOL_CALLS) {
        for call in calls {
            let call = if call.get("function").is_some() { &mut call["function"] } else { call };
            if let Value::Object(call) = call {
                // Where it is text, the template may want text.
                let other = json!({ OTHER_WORDS: OTHER_WORDS });
                let is_text = call.get("arguments").is_some_and(Value::is_string);
                call.insert("arguments".into(), if is_text { json!(other.to_string()) } else { other });
            }
        }
    }
    other
}

/// What stands before and after `words`, if they stand once.
fn around<'t>(text: &'t str, words: &str) -> Option<(&'t str, &'t str)> {
    text.split_once(words).filter(|(_, after)| !after.contains(words))
}

/// Bytes that two texts begin with alike, whole characters.
fn common_prefix(a: &str, b: &str) -> usize {
    let mut same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    while !a.is_char_boundary(same) {
        same -= 1;
    }
    same
}

/// Bytes that two texts end with alike, whole characters.
fn common_suffix(a: &str, b: &str) -> usize {
    let mut same = a.bytes().rev().zip(b.bytes().rev()).take_while(|(a, b)| a == b).count();
    while !a.is_char_boundary(a.len() - same) {
        same -= 1;
    }
    same
}

/// Where a prompt and a text part, never inside a mark: `<think>` and `</think>` have nothing in common.
fn part_at(prompt: &str, text: &str) -> usize {
    let same = common_prefix(prompt, text);
    if same == prompt.len() && same == text.len() {
        return same;
    }
    let common = &prompt[..same];
    let open = common.rfind(['<', '[']).filter(|at| {
        let mark = &common[*at..];
        let closed = if mark.starts_with('<') { '>' } else { ']' };
        // A mark has no room in it, but for that of Gemma and its like.
        !mark.contains(closed) && !mark.contains(char::is_whitespace)
    });
    let is_mark = |at: &usize| {
        let closed = if prompt[*at..].starts_with('<') { '>' } else { ']' };
        let whole = |t: &str| {
            t[*at..]
                .find(|c: char| c == closed || c.is_whitespace())
                .is_some_and(|n| t[*at + n..].starts_with(closed))
        };
        whole(prompt) || whole(text)
    };
    open.filter(is_mark).unwrap_or(same)
}

/// Whether what a prompt has more than the finished turn is a mark. Words would be the reply's own.
fn is_mark_or_nothing(more: &str) -> bool {
    more.is_empty() || more.trim_start().starts_with(['<', '['])
}
