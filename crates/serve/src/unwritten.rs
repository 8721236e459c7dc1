//! Messages that a chat template leaves out. A client whose system message or tool result never reaches the model gets an error.
//!
//! A conversation is rendered once more with marks in the place of such messages: what has its mark in that text is written. That is
//! remembered for messages of the same role and place, so that it costs a rendering for each of those, and not for each request.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use lorafit_data::{Message, Role};
use serde_json::json;

use crate::error::ApiError;

/// Begins and ends a mark. A noncharacter, which no template looks for.
const MARK: char = '\u{FDD7}';

/// What decides whether a template writes a message.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    role: &'static str,
    /// Whether it is the first message.
    is_first: bool,
    /// Whether an assistant's message before it calls tools.
    follows_call: bool,
    has_tools: bool,
}

/// Kinds of messages that a template is known to write.
#[derive(Default)]
pub struct Written {
    known: Mutex<HashSet<Kind>>,
}

/// A conversation that a template has written.
pub struct Rendering<'a, R> {
    /// The messages.
    pub messages: &'a [Message],
    /// What the template made of them.
    pub text: &'a str,
    /// Whether tools are offered.
    pub has_tools: bool,
    /// Whether the request changes variables of the template: then nothing is remembered.
    pub is_changed: bool,
    /// Writes other messages in the same way, if that is possible.
    pub render: R,
}

impl Written {
    /// Refuses a conversation of which the template leaves out what the system or a tool says.
    ///
    /// # Errors
    /// The first such message, and what the template takes.
    pub fn check<R>(&self, rendering: &Rendering<'_, R>) -> Result<(), ApiError>
    where
        R: Fn(&[Message]) -> Option<String>,
    {
        let Rendering { messages, text, has_tools, is_changed, render } = rendering;
        let mut asked: Vec<(usize, Kind)> = Vec::new();
        let mut follows_call = false;
        for (index, message) in messages.iter().enumerate() {
            follows_call |= message.calls_tools();
            let is_checked = matches!(message.role, Role::System | Role::Tool);
            if is_checked && !message.text().trim().is_empty() {
                let role = message.role.name();
                let kind = Kind { role, is_first: index == 0, follows_call, has_tools: *has_tools };
                asked.push((index, kind));
            }
        }
        if !is_changed {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            asked.retain(|(_, kind)| !known.contains(kind));
        }
        if asked.is_empty() {
            return Ok(());
        }
        let mut marked = messages.to_vec();
        asked.iter().for_each(|(index, _)| marked[*index].content = Some(mark(*index)));
        // A template that cannot write marks reads what is said, and so writes it.
        let Some(other) = render(&marked) else { return Ok(()) };
        for (index, _) in &asked {
            if other.contains(&mark(*index)) {
                continue;
            }
            // It may be written in another form.
            let mut marked = messages.to_vec();
            marked[*index].content = Some(mark(*index));
            if render(&marked).is_some_and(|other| other == *text) {
                return Err(left_out(*index, messages[*index].role, render));
            }
        }
        if !is_changed {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.extend(asked.into_iter().map(|(_, kind)| kind));
        }
        Ok(())
    }
}

fn mark(index: usize) -> String {
    format!("{MARK}{index}{MARK}")
}

/// The error of a message that is left out, with what the template takes.
fn left_out(index: usize, role: Role, render: impl Fn(&[Message]) -> Option<String>) -> ApiError {
    let takes = |role: Role| {
        let user = || Message::new(Role::User, "x");
        let it = Message::new(role, mark(0));
        let messages = match role {
            Role::System => vec![it, user()],
            Role::User => vec![it],
            Role::Assistant => vec![user(), it, user()],
            Role::Tool => {
                let mut call = Message::new(Role::Assistant, "");
                let function = json!({"name": "f", "arguments": {}});
                let calls = json!([{"id": "call00000", "type": "function", "function": function}]);
                call.extra.insert("tool_calls".to_owned(), calls);
                vec![user(), call, it]
            }
        };
        render(&messages).is_some_and(|text| text.contains(&mark(0)))
    };
    let taken: Vec<&str> = Role::ALL.into_iter().filter(|role| takes(*role)).map(Role::name).collect();
    let name = role.name();
    let also = if role == Role::System { " (developer is read as system)" } else { "" };
    let leaves_out = format!("is {name}{also}, and this model's chat template leaves such a message out");
    let rule = match (taken.contains(&name), role) {
        (true, Role::System) => {
            format!("{leaves_out} here: it writes one that is the first message; put it there")
        }
        (true, _) => {
            format!("{leaves_out} here: it writes one behind the message that calls the tool; put it there")
        }
        (false, _) => match taken.split_last() {
            None => format!("{leaves_out}; put the text into a message of the user"),
            Some((last, others)) => {
                let and = if others.is_empty() { "" } else { " and " };
                let taken = others.join(", ") + and + last;
                format!("{leaves_out}: it writes those of {taken}; put the text into a message of the user")
            }
        },
    };
    ApiError::field(&format!("messages[{index}].role"), rule).code("message_left_out")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    use lorafit_data::{ChatTemplate, SpecialTokens};

    /// The result of checking a conversation, and how many renderings that took.
    fn check(written: &Written, source: &str, messages: &[Message]) -> (Result<(), ApiError>, usize) {
        let template = ChatTemplate::new(source, &SpecialTokens::default()).expect("a template");
        let count = Cell::new(0);
        let render = |messages: &[Message]| {
            count.set(count.get() + 1);
            template.render(messages, true).ok()
        };
        let text = template.render(messages, true).expect("renders");
        let rendering = Rendering { messages, text: &text, has_tools: false, is_changed: false, render };
        (written.check(&rendering), count.get())
    }

    fn says(role: Role, text: &str) -> Message {
        Message::new(role, text)
    }

    const ALL: &str = "{% for m in messages %}[{{ m.role }}: {{ m.content }}]{% endfor %}";
    const DIALOGUE: &str =
        "{% for m in messages if m.role in ['user', 'assistant'] %}[{{ m.content }}]{% endfor %}";
    const FIRST: &str = "{% if messages[0].role == 'system' %}<{{ messages[0].content }}>{% endif %}{% for m in messages if \
                         m.role != 'system' %}[{{ m.content | trim }}]{% endfor %}";
    const NO_TOOLS: &str =
        "{% for m in messages if m.role != 'tool' %}[{{ m.role }}: {{ m.content }}]{% endfor %}";
    const QUOTES: &str = "{% for m in messages %}[{{ m.content | upper | tojson }}]{% endfor %}";

    #[test]
    fn messages_that_a_template_leaves_out_are_refused_with_what_it_takes() {
        let user = || says(Role::User, "Hello");
        // The words stand in the text all the same.
        let brief = || says(Role::System, "Hello");
        for (source, messages, words) in [
            (
                DIALOGUE,
                vec![brief(), user()],
                "`messages[0].role` is system (developer is read as system), and this",
            ),
            (
                DIALOGUE,
                vec![user(), brief()],
                "leaves such a message out: it writes those of user and assistant; put the text into",
            ),
            (DIALOGUE, vec![user(), says(Role::Tool, "3")], "`messages[1].role` is tool, and this model's"),
            (
                NO_TOOLS,
                vec![user(), says(Role::Tool, "3")],
                "it writes those of system, user and assistant; put",
            ),
            (FIRST, vec![user(), brief()], "out here: it writes one that is the first message"),
            (FIRST, vec![brief(), user(), brief()], "`messages[2].role`"),
        ] {
            let written = Written::default();
            for _ in 0..2 {
                let error = check(&written, source, &messages).0.expect_err(source);
                assert!(error.message.contains(words), "{}", error.message);
                assert_eq!(error.status.as_u16(), 400);
            }
        }
    }

    #[test]
    fn messages_that_a_template_writes_are_asked_for_once() {
        let long = |source: &str| {
            let written = Written::default();
            let messages =
                [says(Role::System, "be brief"), says(Role::User, "a"), says(Role::Tool, "{\"a\": 1}")];
            let counts: Vec<usize> = (0..3)
                .map(|_| {
                    let (found, count) = check(&written, source, &messages);
                    found.unwrap_or_else(|error| panic!("{error:?}"));
                    count
                })
                .collect();
            assert_eq!(counts[1..], [0, 0], "{source}");
            counts[0]
        };
        assert_eq!(long(ALL), 1);
        assert_eq!(long(FIRST), 1);
        assert!(long(QUOTES) >= 1);
        // Without words there is nothing to leave out, and what is said by others is not asked for.
        let written = Written::default();
        for message in [says(Role::System, " \n"), says(Role::User, "a"), says(Role::Assistant, "b")] {
            assert_eq!(check(&written, "nothing", &[message]), (Ok(()), 0));
        }
    }

    #[test]
    fn templates_of_families_leave_out_what_they_are_known_to_leave_out() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/template_corpus");
        let refused = |family: &str, messages: &[Message]| {
            let source = std::fs::read_to_string(folder.join(format!("{family}.jinja"))).expect(family);
            check(&Written::default(), &source, messages).0.is_err()
        };
        let system = || says(Role::System, "Be brief");
        let user = || says(Role::User, "Hello");
        for (family, at_first, later) in [
            ("qwen2.5", false, false),
            ("granite-3.3", false, false),
            ("phi-3", true, true),
            ("phi-4-reasoning", true, true),
            ("smollm3", false, true),
            ("yi", false, true),
        ] {
            assert_eq!(refused(family, &[system(), user()]), at_first, "{family}");
            assert_eq!(refused(family, &[user(), system(), user()]), later, "{family}");
        }
        let mut call = says(Role::Assistant, "I look.");
        let calls =
            json!([{"id": "call00000", "type": "function", "function": {"name": "f", "arguments": {}}}]);
        call.extra.insert("tool_calls".to_owned(), calls);
        let conversation = [user(), call, says(Role::Tool, "{\"a\": 21}")];
        for (family, is_left_out) in
            [("qwen3", false), ("hermes-3", false), ("phi-3", true), ("phi-4", true), ("yi", true)]
        {
            assert_eq!(refused(family, &conversation), is_left_out, "{family}");
        }
    }
}
