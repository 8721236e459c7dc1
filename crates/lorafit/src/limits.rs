//! What a model can be given, whoever gives it: tokens that it knows, and no more of them than its attention reaches. Every
//! verb that computes asks here first. Rows beyond the context that a model is made for are no error, since rotary positions
//! go on, but they are told, and answers end there.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use lorafit_data::{Dataset, GenerationRow, Tokenizer};
use lorafit_model::Config;

use crate::engine::{Base, counted};
use crate::report_error::CliError;

/// What decides it, of a model.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    config: &'a Config,
    tokenizer: &'a Tokenizer,
    quiet: bool,
}

impl<'a> Limits<'a> {
    /// Of a base that is open.
    pub fn of(base: &'a Base) -> Self {
        Limits::new(base.model.config(), &base.tokenizer, base.quiet)
    }

    /// Of a model whose weights are not needed.
    pub fn new(config: &'a Config, tokenizer: &'a Tokenizer, quiet: bool) -> Self {
        Limits { config, tokenizer, quiet }
    }

    /// Refuses rows that the model would compute wrongly or not at all, and tells of those beyond its context.
    /// `skip_bad_rows` is the flag, which does not help here.
    ///
    /// # Errors
    /// The first such row.
    pub fn check_rows(self, data: &Dataset, skip_bad_rows: bool) -> Result<(), CliError> {
        let place = |row: usize| data.origin.place_in_file(row);
        let note = match skip_bad_rows {
            true => "; --skip-bad-rows passes over rows that cannot be read, and this one can be",
            false => "",
        };
        // Reading every token takes time, and nearly no tokenizer has one that its model lacks.
        if self.tokenizer.vocab_size() > self.config.vocab_size {
            for sample in data.samples.iter() {
                self.check(&|| place(sample.row), sample.ids, 0, note)?;
            }
        }
        let Some(longest) = data.samples.iter().max_by_key(|sample| sample.len()) else { return Ok(()) };
        self.check(&|| place(longest.row), longest.ids, 0, note)?;
        if let Some(beyond) = beyond_context(self.config, longest.len()) {
            let context = self.config.max_position_embeddings;
            let rows = data.samples.iter().filter(|sample| sample.len() > context).count();
            let (rows, place) = (counted(rows, "row is", "rows are"), place(longest.row));
            let cut = format!("--max-seq-len {context} cuts such rows");
            self.tell(format!(
                "{rows} longer than the model is made for: {place} has {} tokens; {beyond}; {cut}",
                longest.len()
            ));
        }
        Ok(())
    }

    /// As [`Limits::check_rows`], for rows that are answered with up to `max_new_tokens`.
    ///
    /// # Errors
    /// The first such row.
    pub fn check_prompts(self, rows: &[GenerationRow], max_new_tokens: usize) -> Result<(), CliError> {
        rows.iter().try_for_each(|row| {
            self.check(&|| format!("the prompt of row {}", row.row), &row.prompt_ids, max_new_tokens, "")
        })?;
        let longest = rows.iter().max_by_key(|row| row.prompt_ids.len());
        if let Some((row, beyond)) =
            longest.and_then(|row| Some((row, beyond_context(self.config, row.prompt_ids.len())?)))
        {
            self.tell(format!("the prompt of row {} has {} tokens; {beyond}", row.row, row.prompt_ids.len()));
        }
        Ok(())
    }

    /// As [`Limits::check_rows`], for one prompt that is answered with up to `max_new_tokens`; gives how many of them there
    /// may be within the context.
    ///
    /// # Errors
    /// As it says.
    pub fn check_prompt(self, ids: &[u32], max_new_tokens: usize) -> Result<usize, CliError> {
        self.check(&|| "the prompt".to_owned(), ids, max_new_tokens, "")?;
        let context = self.config.max_position_embeddings;
        if let Some(beyond) = beyond_context(self.config, ids.len()) {
            self.tell(format!("the prompt has {} tokens; {beyond}", ids.len()));
        }
        // Behind a prompt that is beyond it already an answer has an end all the same.
        let room = context.checked_sub(ids.len()).filter(|room| *room > 0).unwrap_or(context);
        Ok(max_new_tokens.min(room))
    }

    /// Tells that an answer of `new` tokens was ended by the context, if it was, and not by `max_new_tokens`.
    pub fn tell_end(self, new: usize, room: usize, max_new_tokens: usize) {
        if new == room && room < max_new_tokens {
            let context = self.config.max_position_embeddings;
            self.tell(format!("\nthe answer stops at the {context} tokens that the model is made for (max_position_embeddings)"));
        }
    }

    /// One line, once.
    fn tell(self, line: String) {
        static TOLD: Mutex<Option<HashSet<String>>> = Mutex::new(None);
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ending = line.starts_with('\n');
        if !self.quiet && (told.get_or_insert_default().insert(line.clone()) || is_ending) {
            eprintln!("{line}");
        }
    }

    /// What `what` names has the tokens `ids`, and up to `further` come after them.
    fn check(
        self,
        what: &dyn Fn() -> String,
        ids: &[u32],
        further: usize,
        note: &str,
    ) -> Result<(), CliError> {
        let config = self.config;
        if let Some(id) = ids.iter().find(|id| **id as usize >= config.vocab_size) {
            let token = self.tokenizer.id_to_token(*id).unwrap_or_default();
            let text = format!(
                "{} has the token `{token}` ({id}), but the model's embedding has {} tokens",
                what(),
                config.vocab_size
            );
            return Err(CliError::new(text).hint(format!(
                "the tokenizer knows more tokens than the model: leave rows with such tokens out, or enlarge the embedding in \
                 transformers (resize_token_embeddings) and save the model{note}"
            )));
        }
        // Attention here always sees the whole row.
        let Some(window) = config.sliding_window else { return Ok(()) };
        let length = ids.len();
        if length.saturating_add(further) <= window {
            return Ok(());
        }
        let what = what();
        let reach = format!("the model's attention reaches back {window}, and longer rows are not supported");
        if further == 0 {
            return Err(CliError::new(format!("{what} has {length} tokens, but {reach}"))
                .hint(format!("cut rows with --max-seq-len {window}{note}")));
        }
        let error =
            CliError::new(format!("{what} has {length} tokens and its answer up to {further}, but {reach}"));
        Err(match window.checked_sub(length) {
            None | Some(0) => error.hint(format!("give a prompt of fewer than {window} tokens")),
            Some(left) => error.hint(format!("answer with at most --max-new-tokens {left}")),
        })
    }
}

/// What to say of `tokens`, if the model is made for fewer.
pub fn beyond_context(config: &Config, tokens: usize) -> Option<String> {
    let context = config.max_position_embeddings;
    (tokens > context).then(|| {
        format!("the model is made for up to {context} (max_position_embeddings) and may do badly beyond")
    })
}
