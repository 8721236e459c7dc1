//! Tokens beside those of a model: new ones of a run, or those that adapters bring. A model is opened with them, since its
//! embedding may need further rows. So is a head that scores texts, which takes the place of the one that the model has.

use std::path::{Path, PathBuf};

use lorafit_data::{NewToken, Tokenizer};
use lorafit_model::adapter::{self, TokenIndices};
use lorafit_model::weights::ModelFiles;
use lorafit_remedy::amounts::{counted, grouped};
use lorafit_train::open_tokenizer;

use crate::args::train::TrainArgs;
use crate::session::adapter_folder::adapter_folder;
use crate::session::scoring::Scoring;
use crate::terminal::error::CliError;

/// How many tokens a note names.
const NAMED: usize = 8;

/// Whose tokens a model is opened with.
#[derive(Clone, Debug, Default)]
pub enum Tokens<'a> {
    /// Its own.
    #[default]
    OfModel,
    /// These, too.
    New(&'a [String]),
    /// Those of the adapters in these folders, too, and a head that scores texts where one of them has it.
    OfAdapters(Vec<&'a Path>),
    /// Its own, with a new head that scores texts by so many labels, from a random seed.
    Scoring(usize, u64),
}

/// What became of them.
#[derive(Debug, Default)]
pub struct Added {
    /// The tokens whose rows a fresh adapter trains.
    pub indices: TokenIndices,
    /// What a person should know, a line each.
    pub notes: Vec<String>,
}

impl<'a> Tokens<'a> {
    /// Those of adapters.
    pub fn of_adapters(dirs: impl IntoIterator<Item = &'a Path>) -> Self {
        Tokens::OfAdapters(dirs.into_iter().collect())
    }

    /// Those of a run with `args`.
    pub fn of_run(args: &'a TrainArgs) -> Self {
        match (&args.new_tokens, &args.adapter) {
            (Some(new), _) => Tokens::New(&new.0),
            // A run that is resumed does not need the adapter that it began with.
            (None, Some(dir)) if dir.exists() => Tokens::of_adapters([dir.as_path()]),
            (None, _) => Tokens::OfModel,
        }
    }

    /// Those of a run with `args` that trains a head with so many labels: a new one, unless the adapter that it begins with has one.
    ///
    /// # Errors
    /// An adapter that cannot be read.
    pub fn of_scoring_run(args: &'a TrainArgs, labels: usize) -> anyhow::Result<Self> {
        let dir = args.adapter.as_deref().filter(|dir| dir.exists());
        if let Some(dir) = dir.filter(|dir| labels_of_adapter(dir).is_ok_and(|labels| labels.is_none())) {
            check_without_rows(dir)?;
            return Ok(Tokens::Scoring(labels, args.seed));
        }
        Ok(dir.map_or(Tokens::Scoring(labels, args.seed), |dir| Tokens::of_adapters([dir])))
    }

    /// Has a model that is open score texts, if they say so.
    ///
    /// # Errors
    /// An adapter that cannot be read, or a head that does not fit the model.
    fn score(&self, files: &mut ModelFiles) -> anyhow::Result<()> {
        match self {
            Tokens::OfModel | Tokens::New(_) => {}
            Tokens::Scoring(labels, seed) => files.score(*labels, *seed)?,
            Tokens::OfAdapters(dirs) => {
                for dir in dirs {
                    if let Some(labels) = labels_of_adapter(dir)? {
                        files.score(labels, 0)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The tokenizer of a model that is open, with them, to which rows are added; `None` if there are none, and then the tokenizer is
    /// not looked at.
    ///
    /// # Errors
    /// As [`Tokens::add`].
    pub fn open(&self, files: &mut ModelFiles) -> anyhow::Result<Option<Tokenizer>> {
        self.score(files)?;
        let bring_some = match self {
            Tokens::OfModel | Tokens::Scoring(..) => false,
            Tokens::New(texts) => !texts.is_empty(),
            Tokens::OfAdapters(dirs) => {
                let rows = files.stored_rows();
                let mut all = dirs.iter().map(|dir| Ok(of_adapter(dir)?.brings_some(rows)));
                all.any(|some: anyhow::Result<bool>| some.unwrap_or(true))
            }
        };
        if !bring_some {
            return Ok(None);
        }
        let mut tokenizer = open_tokenizer(files)?;
        self.add(files, &mut tokenizer)?;
        Ok(Some(tokenizer))
    }

    /// Adds them to a model that is open and to its tokenizer.
    ///
    /// # Errors
    /// A token that cannot be added, an adapter that cannot be read.
    pub fn add(&self, files: &mut ModelFiles, tokenizer: &mut Tokenizer) -> anyhow::Result<Added> {
        self.score(files)?;
        match self {
            Tokens::OfModel | Tokens::Scoring(..) => Ok(Added::default()),
            Tokens::New(texts) => add_new(texts, files, tokenizer),
            Tokens::OfAdapters(dirs) => {
                let mut notes = Vec::new();
                for dir in dirs {
                    notes.extend(add_of_adapter(dir, files, tokenizer)?);
                }
                Ok(Added { notes, ..Added::default() })
            }
        }
    }
}

/// Adds new tokens, whose rows a fresh adapter trains.
fn add_new(texts: &[String], files: &mut ModelFiles, tokenizer: &mut Tokenizer) -> anyhow::Result<Added> {
    let (known, rows) = (tokenizer.vocab_size(), files.stored_rows());
    if known > rows {
        let text = format!(
            "--new-tokens: {} has {} tokens and its embedding {} rows, so that new ones would have no neighbours",
            files.path().display(),
            grouped(known as u64),
            grouped(rows as u64)
        );
        return Err(CliError::new(text).hint("give a model whose embedding has a row for each token").into());
    }
    let tokens = tokenizer.add_tokens(texts)?;
    let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
    let needed = ids.iter().max().map_or(0, |id| *id as usize + 1);
    files.add_rows(needed)?;
    let mut indices = TokenIndices::of_both_sides(files.config(), &ids);
    for token in &tokens {
        if let Some(pieces) = &token.pieces {
            indices = indices.with_start(token.id, pieces.clone());
        }
    }
    let (new, old): (Vec<&NewToken>, Vec<&NewToken>) =
        tokens.iter().partition(|token| token.pieces.is_some());
    let mut notes = Vec::new();
    if !new.is_empty() {
        let count = counted(new.len(), "new token", "new tokens");
        let each = if new.len() == 1 { "its row begins" } else { "each row begins" };
        notes.push(format!("{count}: {}; {each} as the mean of the rows of its pieces", named(&new)));
    }
    if !old.is_empty() {
        let are = if old.len() == 1 {
            "is a token of the model already, and its row is"
        } else {
            "are tokens of the model already, and their rows are"
        };
        notes.push(format!("{} {are} trained as it stands", named(&old)));
    }
    if needed > rows {
        let more = counted(needed - rows, "row", "rows");
        notes.push(format!("the embedding has no free rows for all of them: the adapter brings {more} more"));
    }
    let behind_blanks = tokenizer.found_behind_blanks_only(&tokens)?;
    if !behind_blanks.is_empty() {
        notes.push(format!(
            "found at the beginning of a text and behind a blank only, as in transformers: {}",
            named(&behind_blanks)
        ));
    }
    Ok(Added { indices, notes })
}

/// What an adapter says of tokens.
struct OfAdapter {
    folder: PathBuf,
    /// Those that it has rows of.
    indices: TokenIndices,
    /// Rows of the embedding and the head that it has whole; 0 of neither.
    whole_rows: usize,
}

impl OfAdapter {
    /// Whether it has rows of tokens, or more rows than a model that has so many.
    fn brings_some(&self, rows: usize) -> bool {
        !self.indices.is_empty() || self.whole_rows > rows
    }
}

/// Nothing of what is no adapter as PEFT has it, of which whoever reads it says more.
fn of_adapter(dir: &Path) -> anyhow::Result<OfAdapter> {
    let folder = adapter_folder(dir, true).unwrap_or_else(|_| dir.to_owned());
    let is_adapter =
        [adapter::CONFIG_FILE, adapter::WEIGHTS_FILE].iter().all(|name| folder.join(name).is_file());
    let (indices, whole_rows) = match is_adapter {
        true => (adapter::token_indices(&folder)?, adapter::whole_rows(&folder)?),
        false => (TokenIndices::default(), 0),
    };
    Ok(OfAdapter { folder, indices, whole_rows })
}

/// Refuses an adapter with rows of tokens to which a head that scores texts is to be added: some of them are of the head that writes
/// text.
fn check_without_rows(dir: &Path) -> anyhow::Result<()> {
    if of_adapter(dir)?.indices.is_empty() {
        return Ok(());
    }
    let text = format!(
        "--adapter {}: it has rows of tokens, some of them of a head that writes text, and no head that scores texts",
        dir.display()
    );
    Err(CliError::usage(text)
        .hint("merge it into the base with lorafit merge, and train over the result")
        .into())
}

/// The labels by which an adapter scores texts, if it does.
///
/// # Errors
/// Files of an adapter that cannot be read.
pub fn labels_of_adapter(dir: &Path) -> anyhow::Result<Option<usize>> {
    let folder = adapter_folder(dir, true).unwrap_or_else(|_| dir.to_owned());
    match [adapter::CONFIG_FILE, adapter::WEIGHTS_FILE].iter().all(|name| folder.join(name).is_file()) {
        true => Ok(adapter::score_labels(&folder)?),
        false => Ok(None),
    }
}

/// What the head of a model that is open with them gives; `None` where it scores no texts.
///
/// # Errors
/// A file beside an adapter that is damaged, or of another head.
pub fn scoring(tokens: &Tokens<'_>, files: &ModelFiles) -> anyhow::Result<Option<Scoring>> {
    let Some(labels) = files.config().labels else { return Ok(None) };
    if let Tokens::OfAdapters(dirs) = tokens {
        for dir in dirs {
            let folder = adapter_folder(dir, true).unwrap_or_else(|_| dir.to_path_buf());
            // A checkpoint has no such file beside it, and its run has.
            let folders = if TrainArgs::of_run(&folder).is_some() { 3 } else { 1 };
            for folder in folder.ancestors().take(folders) {
                if let Some(scoring) = Scoring::beside(folder, Some(labels))? {
                    return Ok(Some(scoring));
                }
            }
        }
    }
    Ok(Some(Scoring::of_labels(labels, files.label_names())))
}

/// Adds the tokens that an adapter has rows of, by the tokenizer beside it or by its run.
fn add_of_adapter(
    dir: &Path,
    files: &mut ModelFiles,
    tokenizer: &mut Tokenizer,
) -> anyhow::Result<Vec<String>> {
    let found = of_adapter(dir)?;
    if !found.brings_some(files.stored_rows()) {
        return Ok(Vec::new());
    }
    let OfAdapter { folder, indices, whole_rows } = found;
    files.add_rows(indices.rows_needed().max(whole_rows))?;
    if folder.join("tokenizer.json").is_file() {
        tokenizer.add_tokens_of(&Tokenizer::from_folder(&folder)?)?;
    } else if let Some(run) = TrainArgs::of_run(&folder) {
        // A checkpoint has no tokenizer beside it.
        match Tokens::of_run(&run) {
            Tokens::New(texts) => drop(tokenizer.add_tokens(texts)?),
            Tokens::OfAdapters(_) | Tokens::OfModel | Tokens::Scoring(..) => {}
        }
    }
    let of_whole = (whole_rows > files.stored_rows()).then_some(files.stored_rows() as u32);
    let unknown = indices.ids().chain(of_whole).filter(|id| *id as usize >= tokenizer.vocab_size()).min();
    let note = |id| {
        format!(
            "{}: no tokenizer beside the adapter says what token {id} is, so that no text has it; save the tokenizer there",
            folder.display()
        )
    };
    Ok(unknown.map(note).into_iter().collect())
}

/// Tokens with their ids, in a list.
fn named(tokens: &[&NewToken]) -> String {
    let each = |token: &&NewToken| format!("{:?} ({})", token.text, token.id);
    let first: Vec<String> = tokens.iter().take(NAMED).map(each).collect();
    let more = tokens.len().saturating_sub(NAMED);
    match more {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}
