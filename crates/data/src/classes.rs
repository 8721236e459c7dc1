//! Texts that are classified: the labels of rows, and the tokens of a text by itself.

use std::collections::BTreeSet;

use crate::error::{DataError, RowProblem};
use crate::format::{Classes, Document, Row};
use crate::mask::Masker;
use crate::notes::RowNotes;
use crate::sample::TrainOn;
use crate::source::Source;
use crate::source::rows::{self, Read};
use crate::tokenizer::Tokenizer;

/// More labels than anybody has; a column with more holds something else.
pub const MOST_LABELS: usize = 4096;

/// The labels in the column `column` of rows, in their order: by size where all are whole numbers, else by their letters.
///
/// # Errors
/// As [`crate::Dataset::load`], and one label alone or more than `MOST_LABELS`.
pub fn labels(source: &Source, column: &str) -> Result<Vec<String>, DataError> {
    let classes = Some(Classes { column: column.to_owned(), labels: Vec::new() });
    let source = Source { classes, ..source.clone() };
    let mut found = BTreeSet::new();
    rows::read(
        &source,
        |Read { row, .. }| match row {
            Row::Labelled(row) => Ok(row.label),
            // Rows of a source that has classes are labelled.
            _ => Err(RowProblem::NoLabel { column: column.to_owned() }),
        },
        |label| {
            if found.len() <= MOST_LABELS {
                found.insert(label);
            }
            Ok(())
        },
    )?;
    if found.len() < 2 || found.len() > MOST_LABELS {
        return Err(DataError::Labels {
            data: source.name(),
            column: column.to_owned(),
            found: found.into_iter().take(MOST_LABELS + 1).collect(),
        });
    }
    let mut labels: Vec<String> = found.into_iter().collect();
    let numbers: Option<Vec<i64>> = labels.iter().map(|label| label.parse().ok()).collect();
    if numbers.is_some() {
        labels.sort_by_key(|label| label.parse::<i64>().unwrap_or_default());
    }
    Ok(labels)
}

/// The tokens of a document that is classified.
///
/// # Errors
/// When it cannot be rendered or tokenised, or has no tokens.
pub fn text_ids(tokenizer: &Tokenizer, document: &Document) -> Result<Vec<u32>, RowProblem> {
    let template = tokenizer.compile_chat_template()?;
    Masker::new(tokenizer, template.as_ref(), TrainOn::All).whole(document, &mut RowNotes::default())
}

/// The tokens of a prompt with its reply that is given a reward.
///
/// # Errors
/// As [`text_ids`].
pub fn reply_ids(tokenizer: &Tokenizer, document: &Document) -> Result<Vec<u32>, RowProblem> {
    let template = tokenizer.compile_chat_template()?;
    Masker::new(tokenizer, template.as_ref(), TrainOn::All).replied(document, &mut RowNotes::default())
}
