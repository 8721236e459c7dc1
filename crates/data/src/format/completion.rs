//! Prompt and completion rows: `{"prompt": "...", "completion": "..."}`. Both are plain text, joined as they are: a
//! space between them is the row's to write. The end-of-sequence token follows.

use super::{Fields, Shape, not_blank, take_string};
use crate::error::RowProblem;

/// A prompt and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// What is given.
    pub prompt: String,
    /// What is to follow.
    pub completion: String,
}

pub(super) fn parse(mut fields: Fields) -> Result<Completion, RowProblem> {
    let prompt = take_string(&mut fields, "prompt", Shape::Completion)?;
    let completion = take_string(&mut fields, "completion", Shape::Completion)?;
    not_blank(&completion, "completion")?;
    Ok(Completion { prompt, completion })
}
