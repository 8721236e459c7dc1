//! ShareGPT's conversations: `{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}`,
//! perhaps with a `system` prompt and `tools` beside them. Some data sets keep the field's name and write messages as
//! chat rows do, or the other way around: a message is read by the names that it has.

use super::chat::{self, Conversation};
use super::{Fields, Mapping};
use crate::error::RowProblem;

pub(super) fn parse(fields: Fields, mapping: &Mapping) -> Result<Conversation, RowProblem> {
    chat::parse(fields, &chat::SHAREGPT, mapping)
}
