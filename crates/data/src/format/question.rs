//! Rows that ask and answer: `{"question": "...", "answer": "..."}`, as tables of people have them under many names
//! ([`keys::QUESTIONS`], [`keys::ANSWERS`], in any case), perhaps with a `system` prompt and a `history`.
//!
//! One column must ask and one answer; where several do, it is not guessed which is meant. A model with a chat template
//! gets a conversation. For one without, such rows have no shape: how they become text is not ours to invent.

use serde_json::Value;

use super::instruction::history;
use super::{Conversation, Fields, Message, Role, Shape, keys, not_blank, take_optional, take_string};
use crate::error::RowProblem;

/// A question and its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Standing orders.
    pub system: Option<String>,
    /// Earlier questions and answers.
    pub history: Vec<(String, String)>,
    /// What is asked.
    pub question: String,
    /// What is answered, with its reasoning if the row has some.
    pub answer: Message,
    /// The names of the row's keys.
    pub keys: Vec<String>,
    /// The column that asks.
    pub asks: String,
}

impl Question {
    /// The row as a conversation.
    pub fn into_conversation(self) -> Conversation {
        let system = self.system.map(|system| {
            let name = original(&self.keys, keys::SYSTEM);
            Message::new(Role::System, system).of_column("content", &name)
        });
        let earlier = self
            .history
            .into_iter()
            .flat_map(|(q, a)| [Message::new(Role::User, q), Message::new(Role::Assistant, a)]);
        let own = [Message::new(Role::User, self.question).of_column("content", &self.asks), self.answer];
        system.into_iter().chain(earlier).chain(own).collect::<Vec<_>>().into()
    }
}

/// The key that a row has of several, as it writes it.
fn original(keys: &[String], known: &[&str]) -> String {
    let is_known = |key: &&String| known.iter().any(|known| known.eq_ignore_ascii_case(key.trim()));
    keys.iter().find(is_known).cloned().unwrap_or_else(|| known[0].to_owned())
}

/// What the columns are called.
struct Names {
    question: String,
    /// Below an instruction.
    input: Option<String>,
    answer: String,
}

/// The columns that ask, and those that answer.
fn candidates(fields: &Fields) -> [Vec<String>; 2] {
    let among = |known: &[&str]| -> Vec<String> {
        let is = |name: &str| known.iter().any(|known| known.eq_ignore_ascii_case(name.trim()));
        let mut found: Vec<_> = fields.iter().filter(|(name, value)| is(name) && !value.is_null()).collect();
        // Of several, those that say something.
        if found.len() > 1 {
            found.retain(|(_, value)| !keys::is_empty(value));
        }
        found.into_iter().map(|(name, _)| name.clone()).collect()
    };
    [keys::QUESTIONS, keys::ANSWERS].map(among)
}

fn names(fields: &Fields) -> Option<Names> {
    let [questions, answers] = candidates(fields);
    let [answer] = answers.try_into().ok()?;
    let named =
        |wanted: &str| questions.iter().find(|name| name.trim().eq_ignore_ascii_case(wanted)).cloned();
    match (questions.len(), named("instruction"), named("input")) {
        (1, ..) => Some(Names { question: questions[0].clone(), input: None, answer }),
        (2, Some(question), Some(input)) => Some(Names { question, input: Some(input), answer }),
        _ => None,
    }
}

/// The columns that ask and those that answer, where there are too many of them.
pub(super) fn ambiguous(fields: &Fields) -> Option<RowProblem> {
    let [asks, answers] = candidates(fields);
    let both = !asks.is_empty() && !answers.is_empty() && asks.len() + answers.len() > 2;
    let shown = |names: Vec<String>| names.into_iter().map(|name| name.chars().take(40).collect()).collect();
    both.then(|| RowProblem::Ambiguous { asks: shown(asks), answers: shown(answers) })
}

/// Whether a row has one column that asks and one that answers.
pub(super) fn fits(fields: &Fields) -> bool {
    names(fields).is_some()
}

pub(super) fn parse(fields: Fields) -> Result<Question, RowProblem> {
    let shape = Shape::Question;
    let keys: Vec<String> = fields.keys().take(12).map(|key| key.chars().take(40).collect()).collect();
    // People write names as they like.
    let plain = |name: &String| {
        let lower = name.trim().to_ascii_lowercase();
        let is_ours =
            keys::SYSTEM.iter().chain(keys::REASONING).chain(&["history"]).any(|known| *known == lower);
        if is_ours { lower } else { name.clone() }
    };
    let mut fields: Fields = fields.into_iter().map(|(name, value)| (plain(&name), value)).collect();
    let Some(Names { question, input, answer }) = names(&fields) else {
        return Err(RowProblem::MissingField { field: "question` and one `answer".into(), shape });
    };
    let system = system(&mut fields, shape)?;
    let history = history(&mut fields, shape)?;
    let reasoning: Vec<(&str, Value)> = keys::REASONING
        .iter()
        .filter_map(|name| Some((*name, fields.remove(*name).filter(|value| !keys::is_empty(value))?)))
        .collect();
    let mut asked = take_string(&mut fields, &question, shape)?;
    if let Some(input) = input.map(|name| take_optional(&mut fields, &name, shape)).transpose()?.flatten() {
        asked = format!("{asked}\n\n{input}");
    }
    let answered = take_string(&mut fields, &answer, shape)?;
    not_blank(&asked, &question)?;
    not_blank(&answered, &answer)?;
    let mut answer = Message::new(Role::Assistant, answered).of_column("content", &answer);
    if !reasoning.is_empty() {
        answer = answer.of_column("reasoning_content", &original(&keys, keys::REASONING));
    }
    answer.extra.extend(reasoning.into_iter().map(|(name, value)| (name.to_owned(), value)));
    super::chat::name_reasoning(&mut answer.extra);
    Ok(Question { system, history, question: asked, answer, keys, asks: question })
}

/// What stands before a conversation, under the one of its names that the row has.
pub(super) fn system(fields: &mut Fields, shape: Shape) -> Result<Option<String>, RowProblem> {
    let mut found = None;
    for name in keys::SYSTEM {
        let text = take_optional(fields, name, shape)?;
        if let (Some(_), Some(_)) = (&found, &text) {
            let why = "the row has another system prompt, too";
            return Err(RowProblem::Refused { field: (*name).into(), why });
        }
        found = found.or(text);
    }
    Ok(found)
}
