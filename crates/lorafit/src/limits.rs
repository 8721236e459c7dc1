//! What a model can be given, whoever gives it: tokens that it knows, and no more of them than its attention reaches. Every
//! verb that computes asks here first.

use lorafit_data::{Dataset, GenerationRow};

use crate::engine::Base;
use crate::report_error::CliError;

/// Refuses rows that the model would compute wrongly or not at all.
///
/// # Errors
/// The first such row.
pub fn check_rows(base: &Base, data: &Dataset) -> Result<(), CliError> {
    // Reading every token takes time, and nearly no tokenizer has one that its model lacks.
    if base.tokenizer.vocab_size() > base.model.config().vocab_size {
        for sample in data.samples.iter() {
            check(base, &format!("row {}", sample.row), sample.ids, 0)?;
        }
    }
    let longest = data.samples.iter().max_by_key(|sample| sample.len());
    longest.map_or(Ok(()), |sample| check(base, &format!("row {}", sample.row), sample.ids, 0))
}

/// As [`check_rows`], for rows that are answered with up to `max_new_tokens`.
///
/// # Errors
/// The first such row.
pub fn check_prompts(base: &Base, rows: &[GenerationRow], max_new_tokens: usize) -> Result<(), CliError> {
    rows.iter().try_for_each(|row| {
        check(base, &format!("the prompt of row {}", row.row), &row.prompt_ids, max_new_tokens)
    })
}

/// As [`check_rows`], for one prompt that is answered with up to `max_new_tokens`.
///
/// # Errors
/// As it says.
pub fn check_prompt(base: &Base, ids: &[u32], max_new_tokens: usize) -> Result<(), CliError> {
    check(base, "the prompt", ids, max_new_tokens)
}

/// `what` has the tokens `ids`, and up to `further` come after them.
fn check(base: &Base, what: &str, ids: &[u32], further: usize) -> Result<(), CliError> {
    let config = base.model.config();
    if let Some(id) = ids.iter().find(|id| **id as usize >= config.vocab_size) {
        let token = base.tokenizer.id_to_token(*id).unwrap_or_default();
        let text = format!(
            "{what} has the token `{token}` ({id}), but the model's embedding has {} tokens",
            config.vocab_size
        );
        return Err(CliError::new(text).hint(
            "the tokenizer knows more tokens than the model: leave rows with such tokens out, or enlarge the embedding in \
             transformers (resize_token_embeddings) and save the model",
        ));
    }
    // Attention here always sees the whole row.
    let Some(window) = config.sliding_window else { return Ok(()) };
    let length = ids.len();
    if length + further <= window {
        return Ok(());
    }
    let reach = format!("the model's attention reaches back {window}, and longer rows are not supported");
    if further == 0 {
        return Err(CliError::new(format!("{what} has {length} tokens, but {reach}"))
            .hint(format!("cut rows with --max-seq-len {window}")));
    }
    let error =
        CliError::new(format!("{what} has {length} tokens and its answer up to {further}, but {reach}"));
    Err(match window.checked_sub(length) {
        None | Some(0) => error.hint(format!("give a prompt of fewer than {window} tokens")),
        Some(left) => error.hint(format!("answer with at most --max-new-tokens {left}")),
    })
}
