//! Instruction rows, as Alpaca has them: `{"instruction": "...", "input": "...", "output": "..."}`, `input` optional,
//! perhaps with a `system` prompt.
//!
//! A model with a chat template gets a conversation: the instruction, then the input after a blank line, and the
//! output as the reply. A model without one gets the prompt that Alpaca was trained with
//! (github.com/tatsu-lab/stanford_alpaca).

use super::{Completion, Fields, Message, Role, Shape, not_blank, take_optional, take_string};
use crate::error::RowProblem;

/// An instruction and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// Standing orders.
    pub system: Option<String>,
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
        let system = self.system.map(|system| Message::new(Role::System, system));
        let turn = [Message::new(Role::User, request), Message::new(Role::Assistant, self.output)];
        system.into_iter().chain(turn).collect()
    }

    /// The row as Alpaca's prompt and its completion.
    pub fn into_alpaca(self) -> Completion {
        let Self { system, instruction, input, output } = self;
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
        Completion { prompt, completion: output }
    }
}

pub(super) fn parse(mut fields: Fields) -> Result<Instruction, RowProblem> {
    let instruction = take_string(&mut fields, "instruction", Shape::Instruction)?;
    let input = take_optional(&mut fields, "input", Shape::Instruction)?;
    let system = take_optional(&mut fields, "system", Shape::Instruction)?;
    let output = take_string(&mut fields, "output", Shape::Instruction)?;
    not_blank(&output, "output")?;
    Ok(Instruction { system, instruction, input, output })
}
