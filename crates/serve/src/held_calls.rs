//! Calls of tools that a model decides to make, held to their schemas while they are written: where the answer has the marker of a call,
//! what follows has to be a call of an offered tool as the chat template writes one, up to the end of its arguments.
//!
//! How the template writes a call is seen from a call that it is given. It is known where the marker is one of [`markers`], the arguments
//! are JSON behind the name, and no special token stands between; calls in other forms are read once they are made, and no more.

use lorafit_data::{ChatTemplate, Message, Role, Tokenizer};
use serde_json::{Value, json};

use crate::constrain::{CallText, Constraint, Guide};
use crate::tools::markers;

const QUESTION: &str = "lorafit_question";
const NAME: &str = "lorafit_name";
const KEY: &str = "lorafit_key";
const VALUE: &str = "lorafit_value";

/// How a chat template writes a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallSyntax {
    /// What begins it.
    marker: String,
    /// Whether a list of calls follows it.
    is_list: bool,
    /// Between that and the name, without white space at the beginning.
    before_name: String,
    /// Between the name and the arguments.
    before_arguments: String,
    /// What closes brackets behind the arguments.
    behind: String,
}

impl CallSyntax {
    /// How `template` writes calls, if that is a form that can be held.
    pub fn of(template: &ChatTemplate, tokenizer: &Tokenizer) -> Option<Self> {
        let function =
            json!({"name": NAME, "description": "", "parameters": {"type": "object", "properties": {}}});
        let tools = [json!({"type": "function", "function": function})];
        let mut message = Message::new(Role::Assistant, "");
        let called = json!({"name": NAME, "arguments": {KEY: VALUE}});
        let calls = json!([{"id": "call00000", "type": "function", "function": called}]);
        message.extra.insert("tool_calls".to_owned(), calls);
        let mut result = Message::new(Role::Tool, "0");
        result.extra.insert("tool_call_id".to_owned(), "call00000".into());
        // Some templates leave out what the assistant says last, and some have no place for results.
        let messages = [Message::new(Role::User, QUESTION), message, result];
        let template = template.for_tools(true);
        let read = |messages: &[Message]| {
            let text = template.render_with_tools(messages, Some(&tools), false).ok()?;
            Self::read(&text)
        };
        let syntax = read(&messages).or_else(|| read(&messages[..2]))?;
        let has_special = |text: &str| {
            let ids = tokenizer.encode(text, false).ok()?;
            Some(ids.into_iter().any(|id| tokenizer.is_special(id)))
        };
        let between = format!("{}{NAME}{}", syntax.before_name, syntax.before_arguments);
        // A number of the call would be another for the next.
        let has_number = between.replace(NAME, "").contains(|c: char| c.is_ascii_digit());
        (!has_number && has_special(&between) == Some(false)).then_some(syntax)
    }

    /// Reads it off a conversation.
    fn read(text: &str) -> Option<Self> {
        let answer = &text[text.rfind(QUESTION)?..];
        let name = answer.rfind(NAME)?;
        let key = name + answer[name..].find(KEY)?;
        let arguments = answer[..key].strip_suffix('"')?.trim_end().strip_suffix('{')?.len();
        let rest = answer[key..].strip_prefix(KEY)?.strip_prefix('"')?.trim_start().strip_prefix(':')?;
        let rest = rest.trim_start().strip_prefix('"')?.strip_prefix(VALUE)?.strip_prefix('"')?;
        let rest = rest.trim_start().strip_prefix('}')?;
        let place = |marker: &'static str| Some((answer[..name].rfind(marker)? + marker.len(), marker));
        let (marker_end, marker) =
            markers().filter_map(place).max_by_key(|(end, marker)| (*end, marker.len()))?;
        let closes = rest.len() - rest.trim_start_matches(['}', ' ', '\n']).len();
        let before_name = answer[marker_end..name].trim_start();
        let of_list = before_name.strip_prefix('[').map(str::trim_start);
        Some(CallSyntax {
            marker: marker.to_owned(),
            is_list: of_list.is_some(),
            before_name: of_list.unwrap_or(before_name).to_owned(),
            before_arguments: answer[name + NAME.len()..arguments].to_owned(),
            behind: rest[..closes].trim_end().to_owned(),
        })
    }

    /// What stands behind the marker: a call of one of `tools`, each a name and the schema of its arguments. None where a name has signs
    /// that may be written otherwise within JSON.
    pub fn constraint(&self, tools: &[(String, Value)]) -> Option<Constraint> {
        let is_plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
        if !tools.iter().all(|(name, _)| is_plain(name)) {
            return None;
        }
        let call = |(name, arguments): &(String, Value)| CallText {
            before: format!("{}{name}{}", self.before_name, self.before_arguments),
            arguments: arguments.clone(),
            behind: self.behind.clone(),
        };
        Some(Constraint::Calls { calls: tools.iter().map(call).collect(), is_list: self.is_list })
    }

    /// What holds the calls of an answer; `guide` begins behind the marker.
    pub fn hold(&self, guide: Guide) -> HeldCalls {
        HeldCalls { marker: self.marker.clone(), fresh: guide, current: None, tail: String::new() }
    }
}

/// What holds the calls of an answer to their schemas.
pub struct HeldCalls {
    marker: String,
    fresh: Guide,
    current: Option<Guide>,
    /// The end of what was written, as far as a marker may stand in it.
    tail: String,
}

impl HeldCalls {
    /// For another answer to the same request, at its beginning.
    #[must_use]
    pub fn again(&self) -> Self {
        HeldCalls {
            marker: self.marker.clone(),
            fresh: self.fresh.again(),
            current: None,
            tail: String::new(),
        }
    }

    /// What the next token has to keep, within a call. One that cannot be held any further is written freely, and read once it is made.
    pub fn current(&mut self) -> Option<&mut Guide> {
        if self.current.as_mut().is_some_and(|guide| !guide.can_go_on()) {
            self.current = None;
        }
        self.current.as_mut()
    }

    /// Goes on by a token, whose text is `piece` as far as it is whole letters.
    pub fn accept(&mut self, token: u32, piece: &str, tokenizer: &Tokenizer) {
        if let Some(guide) = &mut self.current {
            guide.accept(token);
            if guide.is_finished() || guide.failure().is_some() {
                self.current = None;
            }
            return;
        }
        self.tail.push_str(piece);
        let Some(at) = self.tail.find(&self.marker) else {
            let mut from = self.tail.len().saturating_sub(self.marker.len());
            while !self.tail.is_char_boundary(from) {
                from += 1;
            }
            self.tail.drain(..from);
            return;
        };
        // A token may have more than the end of the marker.
        let more = self.tail.split_off(at + self.marker.len());
        self.tail.clear();
        let mut guide = self.fresh.again();
        let goes_on = more.is_empty() || tokenizer.encode(&more, false).is_ok_and(|ids| guide.take(&ids));
        self.current = goes_on.then_some(guide);
    }
}

#[cfg(test)]
mod tests;
