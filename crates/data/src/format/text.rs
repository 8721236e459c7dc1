//! Text rows: `{"text": "..."}`. All of it is trained, and the end-of-sequence token after it.

use super::{Fields, Shape, not_blank, take_string};
use crate::error::RowProblem;

pub(super) fn parse(mut fields: Fields) -> Result<String, RowProblem> {
    let text = take_string(&mut fields, "text", Shape::Text)?;
    not_blank(&text, "text")?;
    Ok(text)
}
