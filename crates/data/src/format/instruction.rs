//! Instruction rows, as Alpaca has them: `{"instruction": "...", "input": "...", "output": "..."}`, `input` optional,
//! perhaps with a `system` prompt, and with a `history` of earlier questions and answers as LLaMA-Factory has it.
//!
//! A model with a chat template gets a conversation: the instruction, then the input after a blank line, and the
//! output as the reply. A model without one gets the prompt that Alpaca was trained with
//! (github.com/tatsu-lab/stanford_alpaca).

use serde_json::Value;

use super::{
    Completion, Fields, Message, Role, Shape, keys, kind, not_blank, question, take_optional, take_string,
};
use crate::error::RowProblem;
use crate::json;

/// An instruction and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// Standing orders.
    pub system: Option<String>,
    /// Earlier questions and answers.
    pub history: Vec<(String, String)>,
    /// What is to be done.
    pub instruction: String,
    /// What it is to be done to.
    pub input: Option<String>,
    /// The answer.
    pub output: String,
}

impl Instruction {
    /// The row as a conversation.
    pub fn into_messages(self) -> Vec<Message> {
        let request = match self.input {
            None => self.instruction,
            Some(input) => format!("{}\n\n{input}", self.instruction),
        };
        let system = self
            .system
            .map(|system| Message::new(Role::System, system).of_column("content", keys::SYSTEM[0]));
        let turn = |(q, a)| [Message::new(Role::User, q), Message::new(Role::Assistant, a)];
        let own = [
            Message::new(Role::User, request).of_column("content", "instruction"),
            Message::new(Role::Assistant, self.output).of_column("content", "output"),
        ];
        system.into_iter().chain(self.history.into_iter().flat_map(turn)).chain(own).collect()
    }

    /// The row as Alpaca's prompt and its completion.
    ///
    /// # Errors
    /// When it has a history, for which that prompt has no place.
    pub fn into_alpaca(self) -> Result<Completion, RowProblem> {
        let Self { system, history, instruction, input, output } = self;
        if !history.is_empty() {
            let why = "the model has no chat template, and Alpaca's prompt has no place for earlier turns";
            return Err(RowProblem::Refused { field: "history".into(), why });
        }
        let system = system.map(|system| format!("{system}\n\n")).unwrap_or_default();
        let prompt = match input {
            None => format!(
                "{system}Below is an instruction that describes a task. Write a response that appropriately completes the \
                 request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
            ),
            Some(input) => format!(
                "{system}Below is an instruction that describes a task, paired with an input that provides further context. \
                 Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n\
                 ### Input:\n{input}\n\n### Response:\n"
            ),
        };
        Ok(Completion { prompt, completion: output })
    }
}

/// Takes `history`, `[[question, answer], ...]` or the JSON text of that, out of a row.
pub(super) fn history(fields: &mut Fields, shape: Shape) -> Result<Vec<(String, String)>, RowProblem> {
    let value = match fields.remove("history").filter(|value| !keys::is_empty(value)) {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) => json::value(&text).unwrap_or(Value::String(text)),
        Some(value) => value,
    };
    let wrong =
        |field: String, want, found: &Value| RowProblem::WrongType { field, want, found: kind(found) };
    let Value::Array(pairs) = value else { return Err(wrong("history".into(), "a list", &value)) };
    let pair = |(i, pair): (usize, Value)| {
        let mut texts = match pair {
            Value::Array(texts) if texts.len() == 2 => texts.into_iter().enumerate(),
            other => return Err(wrong(format!("history[{i}]"), "a pair of question and answer", &other)),
        };
        let mut text = || match texts.next() {
            Some((at, text)) => {
                let name = format!("history[{i}][{at}]");
                let mut one = Fields::from_iter([(name.clone(), text)]);
                take_string(&mut one, &name, shape)
            }
            None => Ok(String::new()),
        };
        let (question, answer) = (text()?, text()?);
        not_blank(&answer, &format!("history[{i}][1]"))?;
        Ok((question, answer))
    };
    pairs.into_iter().enumerate().map(pair).collect()
}

pub(super) fn parse(mut fields: Fields) -> Result<Instruction, RowProblem> {
    let instruction = take_string(&mut fields, "instruction", Shape::Instruction)?;
    let input = take_optional(&mut fields, "input", Shape::Instruction)?;
    let system = question::system(&mut fields, Shape::Instruction)?;
    let history = history(&mut fields, Shape::Instruction)?;
    let output = take_string(&mut fields, "output", Shape::Instruction)?;
    not_blank(&output, "output")?;
    Ok(Instruction { system, history, instruction, input, output })
}
