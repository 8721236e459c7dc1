//! What a model can be given, whoever gives it: tokens that it knows, at positions that it has. Every verb that computes asks
//! here first. Rows beyond the context that a model is made for are no error where positions are rotary, since those go on, but
//! they are told, and answers end there. Positions that were learned (GPT-2) end.

use lorafit_data::{Dataset, GenerationRow, ModelLimits, Options, SampleRef, Tokenizer};
use lorafit_model::{Config, most_new_tokens};
use lorafit_remedy::amounts::counted;

use crate::args::rows::RowArgs;
use crate::session::base::Base;
use crate::terminal::error::CliError;
use crate::terminal::host;

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

    /// How the rows of `args` become samples. What the model cannot be given is skipped with other bad rows, if they are.
    pub fn options(self, args: &RowArgs) -> Options {
        let limits = if args.skip_bad_rows { self.of_rows() } else { ModelLimits::default() };
        Options { limits, ..args.options() }
    }

    /// What is to be looked at in rows, and no more, so that tokenised data serves many models.
    fn of_rows(self) -> ModelLimits {
        // Reading every token takes time, and nearly no tokenizer has one that its model lacks.
        let vocab_size = Some(self.config.vocab_size).filter(|size| self.tokenizer.vocab_size() > *size);
        ModelLimits { vocab_size, positions: self.config.positions() }
    }

    /// Refuses rows that the model would compute wrongly or not at all, and tells of those beyond its context.
    ///
    /// # Errors
    /// The first such row.
    pub fn check_rows(self, data: &Dataset) -> Result<(), CliError> {
        let place = |row: usize| data.origin.place_in_file(row);
        let limits = self.of_rows();
        if limits != ModelLimits::default() {
            for sample in data.samples.iter() {
                self.check(limits, &|| place(sample.row), given(data, sample))?;
            }
        }
        let tokens = |sample: SampleRef<'_>| given(data, sample).len();
        let Some(longest) = data.samples.iter().max_by_key(|sample| tokens(*sample)) else { return Ok(()) };
        if let Some(beyond) = beyond_context(self.config, tokens(longest)) {
            let context = self.config.context();
            let rows = data.samples.iter().filter(|sample| tokens(*sample) > context).count();
            let (rows, place) = (counted(rows, "row is", "rows are"), place(longest.row));
            let cut = format!("--max-seq-len {context} cuts such rows");
            self.tell(format!(
                "{rows} longer than the model is made for: {place} has {}; {beyond}; {cut}",
                counted(tokens(longest), "token", "tokens")
            ));
        }
        Ok(())
    }

    /// As [`Limits::check_rows`], for rows that are answered. If bad rows are skipped (`skip_bad_rows`), such rows are taken out
    /// and told.
    ///
    /// # Errors
    /// The first such row; where they are skipped, that none is left.
    pub fn check_prompts<T: AsRef<GenerationRow>>(
        self,
        rows: &mut Vec<T>,
        skip_bad_rows: bool,
    ) -> Result<(), CliError> {
        let limits = self.of_rows();
        let check = |row: &T| {
            let row = row.as_ref();
            self.check(limits, &|| format!("the prompt of row {}", row.row), &row.prompt_ids)?;
            let options = row.choices.iter().flat_map(|choices| &choices.options);
            options.into_iter().try_for_each(|option| {
                self.check(limits, &|| format!("an option of row {}", row.row), &option.ids)
            })
        };
        match skip_bad_rows {
            false => rows.iter().try_for_each(check)?,
            true => {
                let (mut first, before) = (None, rows.len());
                rows.retain(|row| check(row).map_err(|error| first.get_or_insert(error)).is_ok());
                match first {
                    Some(error) if rows.is_empty() => return Err(error),
                    Some(error) => self.tell(format!(
                        "{} not answered: {error}",
                        counted(before - rows.len(), "row is", "rows are")
                    )),
                    None => {}
                }
            }
        }
        let longest = rows.iter().map(AsRef::as_ref).max_by_key(|row| row.prompt_ids.len());
        if let Some((row, beyond)) =
            longest.and_then(|row| Some((row, beyond_context(self.config, row.prompt_ids.len())?)))
        {
            let tokens = counted(row.prompt_ids.len(), "token", "tokens");
            self.tell(format!("the prompt of row {} has {tokens}; {beyond}", row.row));
        }
        Ok(())
    }

    /// As [`Limits::check_rows`], for one prompt that is answered with up to `max_new_tokens`; gives how many of them there
    /// may be within the context.
    ///
    /// # Errors
    /// As it says.
    pub fn check_prompt(self, ids: &[u32], max_new_tokens: usize) -> Result<usize, CliError> {
        self.check(self.of_rows(), &|| "the prompt".to_owned(), ids)?;
        if let Some(beyond) = beyond_context(self.config, ids.len()) {
            self.tell(format!("the prompt has {}; {beyond}", counted(ids.len(), "token", "tokens")));
        }
        Ok(most_new_tokens(self.config, ids.len(), max_new_tokens))
    }

    /// Tells how many of several answers were ended by the context, if some were.
    pub fn tell_ends(self, answers: usize) {
        if answers > 0 {
            let (answers, context) =
                (counted(answers, "answer stops", "answers stop"), self.config.context());
            self.tell(format!(
                "{answers} at the {context} tokens that the model is made for (max_position_embeddings)"
            ));
        }
    }

    /// Tells that an answer of `new` tokens was ended by the context, if it was, and not by `max_new_tokens`.
    pub fn tell_end(self, new: usize, room: usize, max_new_tokens: usize) {
        if new == room && room < max_new_tokens {
            let context = self.config.context();
            self.tell(format!("\nthe answer stops at the {context} tokens that the model is made for (max_position_embeddings)"));
        }
    }

    /// One line, once.
    fn tell(self, line: String) {
        let is_ending = line.starts_with('\n');
        if !self.quiet && (host::current().is_new(&line) || is_ending) {
            tell!("{line}");
        }
    }

    /// What `what` names has the tokens `ids`.
    fn check(self, limits: ModelLimits, what: &dyn Fn() -> String, ids: &[u32]) -> Result<(), CliError> {
        let beyond = limits.check(ids, self.tokenizer);
        beyond.map_err(|beyond| CliError::new(beyond.told(&what())).hint(beyond.hint()))
    }
}

/// The tokens of a sample that the model is given: a label is none.
fn given<'a>(data: &Dataset, sample: SampleRef<'a>) -> &'a [u32] {
    if data.report.is_scored { sample.label_and_text().1 } else { sample.ids }
}

/// Tokens of the longest row, `tokens` as --`flag` has it. Where positions were learned there are no more of them than those: what
/// was not asked for (`given`) is cut to them.
///
/// # Errors
/// More tokens that were asked for.
pub fn longest_row(config: &Config, flag: &str, tokens: usize, given: bool) -> Result<usize, CliError> {
    match config.positions().filter(|positions| tokens > *positions) {
        None => Ok(tokens),
        Some(positions) if !given => Ok(positions),
        Some(positions) => {
            let problem =
                format!("--{flag} {tokens}: the model has a vector for {positions} positions and no more");
            Err(CliError::usage(problem).hint(format!("--{flag} {positions} is the most")))
        }
    }
}

/// What to say of `tokens`, if the model is made for fewer.
pub fn beyond_context(config: &Config, tokens: usize) -> Option<String> {
    let context = config.context();
    (tokens > context).then(|| {
        format!("the model is made for up to {context} (max_position_embeddings) and may do badly beyond")
    })
}
