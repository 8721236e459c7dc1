//! Instruction rows, as Alpaca has them: `{"instruction": "...", "input": "...", "output": "..."}`, `input` optional.
//!
//! A model with a chat template gets a conversation: the instruction, then the input after a blank line, and the
//! output as the reply. A model without one gets the prompt that Alpaca was trained with
//! (github.com/tatsu-lab/stanford_alpaca).

use serde_json::Value;

use super::{Completion, Fields, Message, Role, Shape, not_blank, take_string};
use crate::error::RowProblem;

/// An instruction and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// What is to be done.
    pub instruction: String,
    /// What it is to be done to; may be empty.
    pub input: String,
    /// The answer.
    pub output: String,
}

impl Instruction {
    /// The row as a conversation.
    pub fn into_messages(self) -> Vec<Message> {
        let request = match self.input.trim().is_empty() {
            true => self.instruction,
            false => format!("{}\n\n{}", self.instruction, self.input),
        };
        vec![Message::new(Role::User, request), Message::new(Role::Assistant, self.output)]
    }

    /// The row as Alpaca's prompt and its completion.
    pub fn into_alpaca(self) -> Completion {
        let Self { instruction, input, output } = self;
        let prompt = match input.trim().is_empty() {
            true => format!(
                "Below is an instruction that describes a task. Write a response that appropriately completes the \
                 request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
            ),
            false => format!(
                "Below is an instruction that describes a task, paired with an input that provides further context. \
                 Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n\
                 ### Input:\n{input}\n\n### Response:\n"
            ),
        };
        Completion { prompt, completion: output }
    }
}

pub(super) fn parse(mut fields: Fields) -> Result<Instruction, RowProblem> {
    let instruction = take_string(&mut fields, "instruction", Shape::Instruction)?;
    let input = match fields.get("input") {
        None | Some(Value::Null) => String::new(),
        Some(_) => take_string(&mut fields, "input", Shape::Instruction)?,
    };
    let output = take_string(&mut fields, "output", Shape::Instruction)?;
    not_blank(&output, "output")?;
    Ok(Instruction { instruction, input, output })
}
