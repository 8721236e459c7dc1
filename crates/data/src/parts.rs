//! Contents that are lists of parts, `[{"type": "text", "text": "..."}, ...]`, as templates want them.
//!
//! transformers hands a template the list. Templates of models that see images go through it, and may write something
//! between the parts or trim each; all others want text, and would write the list as Python prints it, or fail. So a
//! template is given the list where what it writes has every part's text and nothing of the list's own form, and else the
//! text that the parts are together, nothing between them.

use std::borrow::Cow;

use crate::format::{Conversation, Message};
use crate::template::ChatTemplate;

/// A key that no template reads, in every part: where it is written, the list itself is.
const UNREAD: &str = "lorafit_part";

impl Conversation {
    /// The conversation as a template is to be given it.
    pub fn for_template(&self, template: &ChatTemplate) -> Cow<'_, Self> {
        let has_parts = |message: &Message| !message.in_row.parts.is_empty();
        match self.messages.iter().any(has_parts) {
            true => with_parts(self, template).map_or(Cow::Borrowed(self), Cow::Owned),
            false => Cow::Borrowed(self),
        }
    }
}

/// The conversation with the parts of contents, if the template reads those.
fn with_parts(conversation: &Conversation, template: &ChatTemplate) -> Option<Conversation> {
    let has_parts = |message: &Message| !message.in_row.parts.is_empty();
    let mut given = conversation.clone();
    for message in given.messages.iter_mut().filter(|message| has_parts(message)) {
        message.in_row.for_template = true;
    }
    let mut marked = given.messages.clone();
    let objects =
        marked.iter_mut().flat_map(|message| &mut message.in_row.parts).filter_map(|p| p.as_object_mut());
    objects.for_each(|part| drop(part.insert(UNREAD.into(), true.into())));
    let written = template.render_with_tools(&marked, given.tools.as_deref(), false).unwrap_or_default();
    let has_all = |message: &Message| message.part_texts().all(|part| written.contains(part.trim()));
    (!written.contains(UNREAD) && given.messages.iter().all(has_all)).then_some(given)
}
