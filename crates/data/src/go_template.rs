//! A chat template as Ollama has it: a template of Go's `text/template`, a system message and what ends a reply.
//!
//! Jinja cannot be translated into Go in general. But nearly all chat templates write something around each message by its
//! role, and something that opens a reply. These `Pieces` are read off conversations of marks that the template renders;
//! what they give for other conversations, of one turn and of three, with and without a system message, has to be what the
//! template gives, or there is no Go template. `fixtures/ollama/templates.json` has what Go makes of the result.
//!
//! Source: Ollama, `template/template.go`. A template that names `.Messages` is executed once, with `.System` (all system
//! messages) and `.Messages` (`.Role`, `.Content`). The runner writes the token that begins a text where the model has one.

use crate::format::{Message, Role};
use crate::template::{ChatTemplate, TemplateError};
use crate::tokenizer::Tokenizer;

/// Messages of the conversations that pieces are read off: noncharacters, which no template looks for.
const MARKS: [&str; 5] = ["\u{FDD2}", "\u{FDD3}", "\u{FDD4}", "\u{FDD5}", "\u{FDD6}"];
/// Their system message.
const SYSTEM_MARK: &str = "\u{FDD1}";
/// Messages of the conversations that the pieces are tried on.
const SAID: [&str; 5] = [
    "What is {{ 2 + 2 }}?\nTell me \"why\".",
    "Four.\n\n1. Two and two.",
    "And 你好, <b>3 & 4</b>?",
    "Seven \u{1F408}",
    "Thanks",
];
const SAID_BY_SYSTEM: &str = "You know numbers.\nBe brief.";

/// A chat template for Ollama.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoTemplate {
    /// For `TEMPLATE`.
    pub source: String,
    /// For `SYSTEM`: what the chat template says where a conversation has no system message.
    pub system: Option<String>,
    /// For `PARAMETER stop`: what ends a reply, and what begins the next turn.
    pub stop: Vec<String>,
    /// Features of the chat template that this template lacks.
    pub notes: Vec<String>,
}

/// Why there is no Go template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoGoTemplate {
    /// The model has no chat template.
    #[error("the model has no chat template")]
    NoTemplate,
    /// It cannot be compiled or rendered.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// It does more than to write something around messages.
    #[error("the chat template writes more than pieces around messages: {0}")]
    Irregular(&'static str),
}

impl GoTemplate {
    /// That of the chat template of `tokenizer`.
    ///
    /// # Errors
    /// No chat template, or one that cannot be said in Go.
    pub fn of(tokenizer: &Tokenizer) -> Result<Self, NoGoTemplate> {
        let template = tokenizer.compile_chat_template()?.ok_or(NoGoTemplate::NoTemplate)?;
        let written_first: String =
            tokenizer.prefix().iter().filter_map(|id| tokenizer.id_to_token(*id)).collect();
        let rendering = Rendering { template: &template, written_first: &written_first };
        let (pieces, mut notes) = rendering.pieces()?;
        rendering.try_on_other_conversations(&pieces)?;
        let later = template.clone().at(tokenizer.clock() + 400 * 86_400);
        let later = Rendering { template: &later, written_first: &written_first };
        if later.text(None, 1, &MARKS)? != rendering.text(None, 1, &MARKS)? {
            notes.push("the chat template writes the date: TEMPLATE always writes today's".to_owned());
        }
        let asked = template.render(&[Message::new(Role::User, MARKS[0])], true)?;
        if !written_first.is_empty() && !asked.starts_with(&written_first) {
            notes.push(format!(
                "Ollama writes {written_first} in front of a text, which the chat template does not"
            ));
        }
        let system = pieces.default_system().filter(|text| is_quotable(text)).map(str::to_owned);
        Ok(GoTemplate {
            source: pieces.source(system.is_some()),
            stop: stops(tokenizer, &pieces),
            system,
            notes,
        })
    }
}

/// What a template writes around messages.
#[derive(Debug, PartialEq, Eq)]
struct Pieces {
    /// Before the first question, where there is no system message.
    first: String,
    system: SystemPlace,
    user_before: String,
    user_after: String,
    assistant_before: String,
    assistant_after: String,
    /// Behind the last question's `user_after`.
    prompt: String,
}

/// Where the words of the system stand.
#[derive(Debug, PartialEq, Eq)]
enum SystemPlace {
    /// Nowhere.
    None,
    /// In front of the first question, with `before` at the beginning of the text and `after` up to the question.
    First { before: String, after: String },
    /// In front of the last question's words.
    Last { after: String },
}

/// A template at work.
struct Rendering<'a> {
    template: &'a ChatTemplate,
    /// What the runner writes in front of a text.
    written_first: &'a str,
}

impl Rendering<'_> {
    /// The text of a conversation that ends with question number `questions`, counted from 1, and asks for a reply.
    fn text(
        &self,
        system: Option<&str>,
        questions: usize,
        said: &[&str; 5],
    ) -> Result<String, TemplateError> {
        self.render(system, &said[..2 * questions - 1], true)
    }

    fn render(&self, system: Option<&str>, said: &[&str], prompt: bool) -> Result<String, TemplateError> {
        let turns = said.iter().enumerate();
        let turns = turns.map(|(i, words)| Message::new([Role::User, Role::Assistant][i % 2], *words));
        let system = system.map(|words| Message::new(Role::System, words));
        let messages: Vec<Message> = system.into_iter().chain(turns).collect();
        let text = self.template.render(&messages, prompt)?;
        Ok(text.strip_prefix(self.written_first).map(str::to_owned).unwrap_or(text))
    }

    /// Reads the pieces off the template.
    fn pieces(&self) -> Result<(Pieces, Vec<String>), NoGoTemplate> {
        let said = [MARKS[0], MARKS[1], MARKS[2], MARKS[3], MARKS[4]];
        let text = self.text(None, 3, &said)?;
        let Some([first, to_reply, to_question, to_reply_2, to_question_2, last]) = between(&text, said)
        else {
            return Err(NoGoTemplate::Irregular("messages are not written once each, in their order"));
        };
        if to_reply != to_reply_2 || to_question != to_question_2 {
            return Err(NoGoTemplate::Irregular("earlier turns are not written like later ones"));
        }
        // The text right after a question, and right after a reply. Where possible it is told apart from the text that begins the
        // next turn.
        let asked = self.render(None, &said[..5], false).unwrap_or_default();
        let after_question = asked.rsplit(MARKS[4]).next().unwrap_or_default();
        let both = to_reply.starts_with(after_question) && last.starts_with(after_question);
        let user_after = if both { after_question } else { "" };
        let (system, notes) = self.system(first, to_question)?;
        let replied = self.render(None, &said[..4], false).unwrap_or_default();
        let after_reply = replied.rsplit(MARKS[3]).next().unwrap_or_default();
        let assistant_after = match to_question.strip_prefix(after_reply) {
            Some(before) if first.ends_with(before) && !before.is_empty() => after_reply,
            _ => &to_question[..to_question.len() - common_end(first, to_question)],
        };
        let pieces = Pieces {
            first: first.to_owned(),
            system,
            user_before: to_question[assistant_after.len()..].to_owned(),
            user_after: user_after.to_owned(),
            assistant_before: to_reply[user_after.len()..].to_owned(),
            assistant_after: assistant_after.to_owned(),
            prompt: last[user_after.len()..].to_owned(),
        };
        Ok((pieces, notes))
    }

    /// Where the system's words stand; `first` and `to_question` are before the first and the other questions.
    fn system(&self, first: &str, to_question: &str) -> Result<(SystemPlace, Vec<String>), NoGoTemplate> {
        let none = |note: &str| Ok((SystemPlace::None, vec![note.to_owned()]));
        let Ok(text) = self.text(Some(SYSTEM_MARK), 3, &MARKS) else {
            return none("the chat template takes no system message: TEMPLATE leaves it out");
        };
        if !text.contains(SYSTEM_MARK) {
            return none(
                "the chat template leaves out a system message that replies follow, and so does TEMPLATE",
            );
        }
        let [a, b, c, d, e] = MARKS;
        if let Some([before, after, _, _, _, _, _]) = between(&text, [SYSTEM_MARK, a, b, c, d, e]) {
            let (before, after) = (before.to_owned(), after.to_owned());
            return Ok((SystemPlace::First { before, after }, Vec::new()));
        }
        let in_last = between(&text, [a, b, c, d, SYSTEM_MARK, e]);
        let single = self.text(Some(SYSTEM_MARK), 1, &MARKS)?;
        match (in_last, between(&single, [SYSTEM_MARK, a])) {
            (Some([_, _, _, _, before, after, _]), Some([first_before, first_after, _]))
                if (before, after) == (to_question, first_after) && first_before == first =>
            {
                Ok((SystemPlace::Last { after: after.to_owned() }, Vec::new()))
            }
            _ => Err(NoGoTemplate::Irregular("the system message is at no usual place")),
        }
    }

    /// Whether `pieces` give what the template gives.
    fn try_on_other_conversations(&self, pieces: &Pieces) -> Result<(), NoGoTemplate> {
        for questions in [1, 2, 3] {
            for system in [None, Some(SAID_BY_SYSTEM)] {
                if system.is_some() && pieces.system == SystemPlace::None {
                    continue;
                }
                if pieces.text(system, questions, &SAID) != self.text(system, questions, &SAID)? {
                    return Err(NoGoTemplate::Irregular("words change what is written around them"));
                }
            }
        }
        Ok(())
    }
}

impl Pieces {
    /// As [`Rendering::text`].
    fn text(&self, system: Option<&str>, questions: usize, said: &[&str; 5]) -> String {
        let mut text = match (&self.system, system) {
            (SystemPlace::First { before, after }, Some(words)) => format!("{before}{words}{after}"),
            _ => self.first.clone(),
        };
        for question in 0..questions {
            if question > 0 {
                let Pieces { assistant_before, assistant_after, user_before, .. } = self;
                let reply = said[2 * question - 1];
                text += &format!("{assistant_before}{reply}{assistant_after}{user_before}");
            }
            if let (SystemPlace::Last { after }, Some(words), true) =
                (&self.system, system, question + 1 == questions)
            {
                text += &format!("{words}{after}");
            }
            text += said[2 * question];
            text += &self.user_after;
        }
        text + &self.prompt
    }

    /// What the template says for the system where a conversation does not.
    fn default_system(&self) -> Option<&str> {
        let SystemPlace::First { before, after } = &self.system else { return None };
        let words = self.first.strip_prefix(before.as_str())?.strip_suffix(after.as_str())?;
        Some(words).filter(|words| !words.is_empty())
    }

    /// As a Go template; `has_system` says that there always is a system message.
    fn source(&self, has_system: bool) -> String {
        let head = |before_first: &str, after: &str| self.head(has_system, before_first, after);
        let Pieces { user_before, user_after, assistant_before, assistant_after, prompt, .. } = self;
        let [before, user_after, prompt] = [user_before, user_after, prompt].map(|text| go_text(text));
        let reply = format!("{}{{{{ .Content }}}}{}", go_text(assistant_before), go_text(assistant_after));
        // Every question begins alike, behind what is about the system.
        let (first, after) = match &self.system {
            SystemPlace::First { after, .. } => (&self.first, after.as_str()),
            SystemPlace::None | SystemPlace::Last { .. } => (&self.first, user_before.as_str()),
        };
        let ends = (first.strip_suffix(user_before.as_str()), after.strip_suffix(user_before.as_str()));
        let (head, range, question) = match ends {
            (Some(first), Some(after)) => {
                let words = match &self.system {
                    SystemPlace::Last { after } => format!(
                        "{{{{ if and $.System (eq (len (slice $.Messages $i)) 1) }}}}{{{{ $.System }}}}{}{{{{ end }}}}",
                        go_text(after)
                    ),
                    SystemPlace::None | SystemPlace::First { .. } => String::new(),
                };
                let range = if words.is_empty() { ".Messages" } else { "$i, $message := .Messages" };
                (head(first, after), range, format!("{before}{words}{{{{ .Content }}}}{user_after}"))
            }
            _ => {
                let first = head(first, after).replace("{{ .System }}", "{{ $.System }}");
                let first = first.replace("{{ if .System }}", "{{ if $.System }}");
                (
                    "{{ $first := true }}".to_owned(),
                    ".Messages",
                    format!(
                        "{{{{ if $first }}}}{first}{{{{ else }}}}{before}{{{{ end }}}}{{{{ .Content }}}}{user_after}\
                         {{{{ $first = false }}}}"
                    ),
                )
            }
        };
        format!(
            "{head}{{{{ range {range} }}}}{{{{ if eq .Role \"user\" }}}}{question}\
             {{{{ else if eq .Role \"assistant\" }}}}{reply}{{{{ end }}}}{{{{ end }}}}{prompt}"
        )
    }

    /// The text before the first question: `first` without a system message, and `after` behind the system message with one.
    fn head(&self, has_system: bool, first: &str, after: &str) -> String {
        let SystemPlace::First { before, .. } = &self.system else { return go_text(first) };
        let with = format!("{}{{{{ .System }}}}{}", go_text(before), go_text(after));
        if first == format!("{before}{after}") {
            return with;
        }
        let without = match has_system || first.is_empty() {
            true => String::new(),
            false => format!("{{{{ else }}}}{}", go_text(first)),
        };
        format!("{{{{ if .System }}}}{with}{without}{{{{ end }}}}")
    }
}

/// What stands before, between and behind `marks`, which each stand once in `text`, in this order.
fn between<'a, const M: usize, const N: usize>(text: &'a str, marks: [&str; M]) -> Option<[&'a str; N]> {
    let mut rest = text;
    let mut parts = Vec::with_capacity(N);
    for mark in marks {
        let (before, after) = rest.split_once(mark)?;
        parts.push(before);
        rest = after;
    }
    parts.push(rest);
    let clean = marks.iter().all(|mark| text.matches(mark).count() == 1);
    parts.try_into().ok().filter(|_| clean)
}

/// Bytes that `a` and `b` end with alike.
fn common_end(a: &str, b: &str) -> usize {
    let pairs = a.chars().rev().zip(b.chars().rev());
    pairs.take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

/// The tokens and words that end a reply: what is written behind it and in front of the next question.
fn stops(tokenizer: &Tokenizer, pieces: &Pieces) -> Vec<String> {
    let around = format!("{}{}", pieces.assistant_after, pieces.user_before);
    let ids = 0..u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
    let ends = ids.filter(|id| tokenizer.is_special(*id) || tokenizer.is_eos(*id));
    let begins = tokenizer.bos().and_then(|id| tokenizer.id_to_token(id));
    let tokens = ends.filter_map(|id| tokenizer.id_to_token(id)).filter(|t| begins.as_ref() != Some(t));
    let mut found: Vec<(usize, String)> =
        tokens.filter_map(|token| Some((around.find(&token)?, token))).collect();
    found.sort();
    let marks_question = found.iter().any(|(_, token)| pieces.user_before.contains(token.as_str()));
    let mut stops: Vec<String> = found.into_iter().map(|(_, token)| token).collect();
    let mut opening = pieces.user_before.as_str();
    if let Some(begins) = &begins {
        opening = opening.trim_start().strip_prefix(begins.as_str()).unwrap_or(opening);
    }
    let opening = opening.trim();
    let is_mark = opening.chars().any(|c| !c.is_alphanumeric()) && !opening.contains('\n');
    if !marks_question && is_mark {
        stops.push(opening.to_owned());
    }
    stops.retain(|stop| is_quotable(stop) && !stop.contains('"'));
    stops
}

/// Whether Go prints a character, and a Modelfile keeps it.
fn is_kept(c: char) -> bool {
    let hidden = matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{e000}'..='\u{f8ff}' | '\u{fdd0}'..='\u{fdef}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..);
    matches!(c, ' ' | '\n' | '\t') || !(c.is_whitespace() || c.is_control() || hidden)
}

/// Whether a text can stand between `"""` in a Modelfile as it is.
fn is_quotable(text: &str) -> bool {
    text.chars().all(is_kept) && !text.contains("\"\"\"")
}

/// A text as a Go template writes it, in a Modelfile.
fn go_text(text: &str) -> String {
    // What would begin an action, with a brace that an action may follow, or end the template is a string of Go.
    let literal = |text: &str| is_quotable(text) && !text.contains("{{") && !text.ends_with('{');
    if literal(text) {
        return text.to_owned();
    }
    let mut written = String::new();
    for line in text.split_inclusive('\n') {
        match literal(line) {
            true => written += line,
            false => written += &format!("{{{{ {} }}}}", go_string(line)),
        }
    }
    written
}

/// A string of Go, in quotes.
fn go_string(text: &str) -> String {
    let character = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        '\n' => "\\n".to_owned(),
        _ if is_kept(c) => c.to_string(),
        _ if u32::from(c) > 0xffff => format!("\\U{:08x}", u32::from(c)),
        _ => format!("\\u{:04x}", u32::from(c)),
    };
    format!("\"{}\"", text.chars().map(character).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_braces_and_quotes_is_a_string_of_go() {
        let cases = [
            ("<|im_start|>user\n", "<|im_start|>user\n"),
            ("a{", "{{ \"a{\" }}"),
            ("a\n{{ b }}\nc", "a\n{{ \"{{ b }}\\n\" }}c"),
            ("x\u{a0}\"y\"", "{{ \"x\\u00a0\\\"y\\\"\" }}"),
            ("say \"\"\"", "{{ \"say \\\"\\\"\\\"\" }}"),
            ("<\u{ff5c}User\u{ff5c}>", "<\u{ff5c}User\u{ff5c}>"),
        ];
        for (text, expected) in cases {
            assert_eq!(go_text(text), expected, "{text:?}");
        }
    }

    #[test]
    fn marks_are_found_once_and_in_order() {
        assert_eq!(between("a1b2c", ["1", "2"]), Some(["a", "b", "c"]));
        assert_eq!(between::<2, 3>("a2b1c", ["1", "2"]), None);
        assert_eq!(between::<2, 3>("a1b1c2", ["1", "2"]), None);
    }
}
