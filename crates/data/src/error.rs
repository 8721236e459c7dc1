//! What can be wrong with a dataset: [`DataError`] says where, [`RowProblem`] what.

use std::path::{Path, PathBuf};

use lorafit_remedy::{Remedy, Setting, nearby, remedy};

use crate::format::{Role, Shape};
use crate::limits::BeyondModel;
use crate::source::gzip::Trailing;
use crate::source::kind::Kind;
use crate::source::{Place, ReadError, Unit};
use crate::template::TemplateError;
use crate::tokenizer::TokenizerError;
use lorafit_remedy::amounts::counted;

/// Why a dataset could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A row is not what it should be.
    #[error("{} {place}: {problem}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The row's line, or its number where the file has no lines.
        place: Place,
        /// What is wrong with it.
        problem: RowProblem,
    },
    /// The file as a whole is not what it should be.
    #[error("{} is damaged or not {format}: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should be.
        format: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// A file that is whole, but of a kind that is not read.
    #[error("{} {what}", path.display())]
    Unread {
        /// The file.
        path: PathBuf,
        /// What it is, and that it is not damaged.
        what: String,
        /// What the user can do.
        hint: String,
    },
    /// Neither the name of a file nor its beginning tell its format.
    #[error("{}: the kind of this file is unknown", path.display())]
    UnknownKind {
        /// The file.
        path: PathBuf,
    },
    /// The labels of rows are too few or too many to be told apart.
    #[error("{data}: the column `{}` {}", column.escape_debug(), labels_in_words(found))]
    Labels {
        /// The rows.
        data: String,
        /// The column of the labels.
        column: String,
        /// The labels, one more than there may be at most.
        found: Vec<String>,
    },
    /// A folder or a glob has no files of rows.
    #[error("{location}: no files with rows")]
    NoFiles {
        /// The folder or glob.
        location: String,
    },
    /// A glob that isn't one.
    #[error("{pattern} is not a pattern of file names: {message}")]
    BadGlob {
        /// The glob.
        pattern: String,
        /// What is wrong with it.
        message: String,
    },
    /// A folder has files of several formats, which are hardly all meant.
    #[error("{location} has files of several formats, such as {} and {}", first.display(), other.display())]
    SeveralKinds {
        /// The folder.
        location: String,
        /// A file.
        first: PathBuf,
        /// A file of another format.
        other: PathBuf,
    },
    /// A folder has files of several splits.
    #[error("{location} has several splits: {}", splits.join(", "))]
    SeveralSplits {
        /// The folder.
        location: String,
        /// The splits.
        splits: Vec<String>,
    },
    /// No file is of the split asked for.
    #[error("{location} has no split `{split}`")]
    NoSuchSplit {
        /// The folder.
        location: String,
        /// The split asked for.
        split: String,
        /// Those that are there.
        splits: Vec<String>,
    },
    /// There are no rows.
    #[error("{data} has no rows")]
    NoRows {
        /// The files.
        data: String,
    },
    /// Bad rows are skipped, and no others are there.
    #[error("{data}: none of its {} can be read; the first: {first}", counted(*rows, "row", "rows"))]
    AllBad {
        /// The files.
        data: String,
        /// How many rows they have.
        rows: usize,
        /// What is wrong with the first.
        first: String,
    },
    /// Truncation left no row anything to train on.
    #[error(
        "{data}: none of its {} has a trained token within the first {}",
        counted(*rows, "row", "rows"),
        counted(*max_seq_len, "token", "tokens")
    )]
    AllDropped {
        /// The files.
        data: String,
        /// How many rows they have.
        rows: usize,
        /// The length they were cut to.
        max_seq_len: usize,
        /// The shortest length that leaves a row something; `None` if no length does.
        needed: Option<usize>,
    },
    /// The chat template does not compile.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The tokenizer cannot be described, which its part in the cache's key needs.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Tokenised data could not be written.
    #[error("cannot write tokenised data to {}: {source}", path.display())]
    Cache {
        /// The folder of the cache.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file was changed while it was read.
    #[error("{} was changed while it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
}

/// What is wrong with one row.
#[derive(Debug, thiserror::Error)]
pub enum RowProblem {
    /// The text is not UTF-8.
    #[error("not UTF-8 at byte {byte} of the line")]
    NotUtf8 {
        /// The first byte that isn't, counted from 1.
        byte: usize,
    },
    /// The text has a byte that text has no use for.
    #[error("a NUL byte at byte {byte} of the line")]
    Nul {
        /// Its place, counted from 1.
        byte: usize,
    },
    /// The row is longer than is read.
    #[error("the row is longer than {limit} bytes")]
    TooLong {
        /// The longest row that is read.
        limit: usize,
    },
    /// The row has more values than a table has columns.
    #[error("more than {most} columns")]
    ManyColumns {
        /// The most that are read.
        most: usize,
    },
    /// The row is not JSON.
    #[error("not valid JSON at {}column {column}: {message}", of_line(*line))]
    Json {
        /// The line of the row, counted from 1.
        line: usize,
        /// The column, counted from 1.
        column: usize,
        /// What the parser said.
        message: String,
    },
    /// A row of a table is not as long as the line that names the columns.
    #[error(
        "the row has {}, but the first line names {}",
        counted(*found, "value", "values"),
        counted(*want, "column", "columns")
    )]
    Ragged {
        /// Values in the row.
        found: usize,
        /// Columns named.
        want: usize,
    },
    /// Two columns have one name.
    #[error("two columns are named `{}`", column.escape_debug())]
    ColumnTwice {
        /// The name.
        column: String,
    },
    /// A column that was to be renamed is not there.
    #[error("the row has no `{}` to be read as `{field}`: it has {}", column.escape_debug(), names(found))]
    NoColumn {
        /// The column.
        column: String,
        /// What it was to be.
        field: String,
        /// What the row has.
        found: Vec<String>,
    },
    /// The rows say which replies are better or good, and replies are to be learnt as they are.
    #[error("the rows {}: they are no replies to be learnt as they are", judging(*.found))]
    OtherPurpose {
        /// Their shape.
        found: Shape,
    },
    /// Pairs are to be trained on, and the row has none.
    #[error("the rows have no `chosen` and `rejected` replies: they are {} rows", .found.name())]
    NoPairs {
        /// Their shape.
        found: Shape,
    },
    /// Labels are to be trained on, and the row has none.
    #[error("the rows have no `label`: they are {} rows", .found.name())]
    NoLabels {
        /// Their shape.
        found: Shape,
    },
    /// Texts are to be classified, and the row has no label.
    #[error("the row has no label in `{}`", column.escape_debug())]
    NoLabel {
        /// The column that should have it.
        column: String,
    },
    /// A label that no row to train on has.
    #[error("the label `{}` is none of those that are known: {}", label.escape_debug(), first(known))]
    UnknownLabel {
        /// The label.
        label: String,
        /// Those that are known.
        known: Vec<String>,
    },
    /// A text that is to be scored has no tokens.
    #[error("the text has no tokens")]
    NoTokens,
    /// Texts are to be classified, and the row has none.
    #[error("the row has no text to classify: its keys are {}", keys.join(", "))]
    NoText {
        /// The row's keys.
        keys: Vec<String>,
    },
    /// A rejected reply is the chosen one.
    #[error("rejected reply {} is the same as the chosen one", .rejected + 1)]
    SameReplies {
        /// Which, from 0.
        rejected: usize,
    },
    /// More rejected replies than a row may have.
    #[error("the row has {replies} rejected replies, more than {most}")]
    TooManyReplies {
        /// How many it has.
        replies: usize,
        /// How many it may have.
        most: usize,
    },
    /// Replies without a prompt that are different conversations.
    #[error("there is no `prompt`, and `chosen` and `rejected` begin with different messages")]
    NothingAlike,
    /// The row is longer than the longest sample, and that is to be an error.
    #[error("the row has {}, more than {max_seq_len}", counted(*tokens, "token", "tokens"))]
    Overlong {
        /// Its tokens.
        tokens: usize,
        /// The most it may have.
        max_seq_len: usize,
    },
    /// The line is JSON but not an object.
    #[error("a row must be an object, found {found}")]
    NotAnObject {
        /// The JSON type.
        found: &'static str,
    },
    /// The first row has the fields of no shape.
    #[error("the row has none of the known shapes; its fields are: {}", list(keys))]
    UnknownShape {
        /// The row's keys.
        keys: Vec<String>,
    },
    /// Several columns of the first row ask or answer, and which are meant is not known.
    #[error(
        "several columns ask or answer, and which are meant is not known: {} and {}",
        list(asks),
        list(answers)
    )]
    Ambiguous {
        /// Columns that ask.
        asks: Vec<String>,
        /// Columns that answer.
        answers: Vec<String>,
    },
    /// A string of JSON has half of a character that UTF-16 writes in two halves.
    #[error("{}column {column}: a string has half of a surrogate pair (\\ud83d without \\ude00), which is not a character", of_line(*line))]
    Surrogate {
        /// The line within the row.
        line: usize,
        /// The column.
        column: usize,
    },
    /// A field is missing.
    #[error("the row has no `{field}`, which {} rows have", shape.name())]
    MissingField {
        /// The field.
        field: String,
        /// The shape of the dataset.
        shape: Shape,
    },
    /// A field has the wrong type.
    #[error("`{field}` must be {want}, found {found}")]
    WrongType {
        /// The field.
        field: String,
        /// The JSON type wanted.
        want: &'static str,
        /// The JSON type found.
        found: &'static str,
    },
    /// A field that changes what is trained on, and that nothing here reads yet.
    #[error("`{field}` is not supported yet")]
    Unsupported {
        /// The field.
        field: String,
    },
    /// A field that would change what is trained, and that is not read here.
    #[error("`{}` is not read: {why}", field.escape_debug())]
    Refused {
        /// The field.
        field: String,
        /// Why not, or what to do instead.
        why: &'static str,
    },
    /// A message has a part that is no text.
    #[error("`{field}` is not text but {}", kind.escape_debug().take(60).collect::<String>())]
    NotText {
        /// The part.
        field: String,
        /// What it says it is.
        kind: String,
    },
    /// A message's role is unknown.
    #[error("role `{}` is not one of system, user, assistant, tool", role.escape_debug().take(60).collect::<String>())]
    UnknownRole {
        /// The role.
        role: String,
    },
    /// The conversation has no messages.
    #[error("the conversation is empty")]
    NoMessages,
    /// No message is the assistant's.
    #[error("no message has the role assistant, so there is no reply to train on")]
    NoReply {
        /// A name that the mapping says is the assistant's.
        unmet: Option<String>,
    },
    /// The conversation ends before the assistant replies.
    #[error("the conversation ends with a message of the role {}, not with the assistant's reply", role.name())]
    NoLastReply {
        /// The last message's role.
        role: Role,
    },
    /// A reply has nothing in it.
    #[error("`{field}` is empty: there is nothing to train on")]
    EmptyReply {
        /// The field.
        field: String,
    },
    /// A chat row, but the model has no chat template.
    #[error("the row is a conversation, but the model has no chat template")]
    NoChatTemplate,
    /// The template fails on the row.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The template rewrites the conversation as it goes on, so a reply's place in the text can't be found.
    #[error(
        "the chat template renders the conversation up to messages[{message}] differently from the same part of the \
         whole, so the reply's place in the text cannot be found"
    )]
    SpanNotFound {
        /// The assistant's message.
        message: usize,
    },
    /// The template leaves a reply out.
    #[error("the chat template writes nothing for the reply messages[{message}]")]
    ReplyNotWritten {
        /// The assistant's message.
        message: usize,
    },
    /// The template writes a reply twice.
    #[error(
        "the chat template writes the reply messages[{message}] more than once, so which is generated is not known"
    )]
    ReplyRepeated {
        /// The assistant's message.
        message: usize,
    },
    /// The template writes something behind a reply, but not a token that ends a generation.
    #[error(
        "the chat template writes \"{}\" behind the reply messages[{message}] where a token that ends a generation \
         is wanted, so where the reply ends is not known",
        found.escape_debug()
    )]
    EndUnclear {
        /// The assistant's message.
        message: usize,
        /// What stands behind it.
        found: String,
    },
    /// The row has no prompt, which generation needs.
    #[error("{} rows have no prompt to generate from", shape.name())]
    NoPrompt {
        /// The shape of the dataset.
        shape: Shape,
    },
    /// The row has no options that its reply could be one of.
    #[error("the column of options `{}` {why}", column.escape_debug())]
    Choices {
        /// The column that was asked for.
        column: String,
        /// What is wrong with it.
        why: String,
    },
    /// The tokenizer has no end-of-sequence token to close text with.
    #[error("the tokenizer has no end-of-sequence token, so the model could not learn where to stop")]
    NoEos,
    /// The tokenizer fails on the row.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The model cannot be given the row.
    #[error("{}", _0.told("the row"))]
    BeyondModel(BeyondModel),
    /// The template leaves out something that the row has beside what is said.
    #[error("the chat template writes nothing for `{field}`")]
    NotWritten {
        /// The field.
        field: String,
    },
}

/// Rows of one line need no line told.
fn of_line(line: usize) -> String {
    if line > 1 { format!("its line {line}, ") } else { String::new() }
}

fn list(keys: &[String]) -> String {
    if keys.is_empty() {
        return "none".into();
    }
    keys.iter().map(|k| format!("`{}`", k.escape_debug())).collect::<Vec<_>>().join(", ")
}

/// The first columns of a row, as they stand in a message.
fn names(columns: &[String]) -> String {
    const MOST: usize = 8;
    let first: Vec<String> =
        columns.iter().take(MOST).map(|name| format!("`{}`", name.escape_debug())).collect();
    match columns.len() {
        0 => "no columns".to_owned(),
        1..=MOST => first.join(", "),
        _ => format!("{} and others", first.join(", ")),
    }
}

/// Files of rows that may be meant by `path`, at which there is nothing.
fn rows_near(path: &Path) -> Option<String> {
    let is_file_of_rows = |path: &Path| path.is_file() && !Kind::by_name(path).is_empty();
    nearby::in_words("files", &nearby::find(path, &["data", "."], is_file_of_rows))
}

impl DataError {
    /// What went wrong while a file was read.
    pub(crate) fn reading(path: &Path, unit: Unit, error: ReadError) -> Self {
        let path = path.to_owned();
        match error {
            ReadError::Io(source) => Self::Io { path, source },
            ReadError::Malformed { format, message } => Self::Malformed { path, format, message },
            ReadError::Unread { what, hint } => {
                let hint = hint.replace("FILE", &path.to_string_lossy());
                Self::Unread { path, what, hint }
            }
            ReadError::Row(number, problem) => Self::Row { path, place: Place { unit, number }, problem },
        }
    }

    /// What the user can do next.
    pub fn hint(&self) -> Option<Remedy> {
        Some(match self {
            Self::Io { path, source } if source.get_ref().is_some_and(|error| error.is::<Trailing>()) => {
                format!(
                    "see what they are: gunzip -c {} > rows unfolds what stands before them",
                    path.display()
                )
                .into()
            }
            Self::Io { path, source } => match source.kind() {
                std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::InvalidData => {
                    "the file is damaged or not complete; fetch it again".into()
                }
                std::io::ErrorKind::NotFound => rows_near(path)
                    .unwrap_or_else(|| "give a path that exists, as seen from the current folder".to_owned())
                    .into(),
                _ => "check that the path exists and that you may read it".into(),
            },
            Self::Row { problem, .. } => return problem.hint(),
            Self::Malformed { .. } => "the file may be incomplete: fetch or write it again".into(),
            Self::Unread { hint, .. } => hint.clone().into(),
            Self::UnknownKind { .. } => {
                "name it after its format: .jsonl, .json, .csv, .tsv, .parquet or .txt, and .gz or .zst behind".into()
            }
            Self::NoFiles { .. } => {
                "files are recognised by their names: .jsonl, .json, .csv, .tsv, .parquet, .txt, with .gz or .zst".into()
            }
            Self::Labels { .. } => remedy![
                "name the column that holds the labels with ", Setting::LabelColumn
            ],
            Self::BadGlob { .. } => "* stands for any text, ? for a character, ** for folders".into(),
            Self::SeveralKinds { location, first, .. } => {
                let end = first.extension().map(|end| end.to_string_lossy().into_owned()).unwrap_or_default();
                format!("name those that are meant: '{location}/*.{end}'").into()
            }
            Self::SeveralSplits { splits, .. } => {
                let split = splits.last().map_or("train", |split| split);
                remedy!["name the one that is meant: ", Setting::Split.is(split)]
            }
            Self::NoSuchSplit { splits, .. } if splits.is_empty() => {
                remedy!["no file name names a split; leave ", Setting::Split, " out"]
            }
            Self::NoSuchSplit { splits, .. } => format!("it has: {}", splits.join(", ")).into(),
            Self::NoRows { .. } => "give a file with one row a line, or a table with its columns named".into(),
            Self::AllBad { .. } => remedy!["without ", Setting::SkipBadRows, " the first one is explained"],
            Self::AllDropped { needed: None, .. } => {
                "the rows are too short, or say \"train\": false, or the template marks nothing as the assistant's"
                    .into()
            }
            Self::AllDropped { needed: Some(needed), .. } => {
                remedy![Setting::MaxSeqLen.is(needed.to_string()), " is the least that leaves a row"]
            }
            Self::Template(e) => return e.hint(),
            Self::Tokenizer(e) => return e.hint(),
            Self::Cache { .. } => remedy![
                "put it elsewhere with ", Setting::CacheDir.is("DIR");
                "keep it in memory with ", Setting::NoCache
            ],
            Self::Changed { .. } => "run it again once nothing writes to the file any more".into(),
        })
    }
}

impl RowProblem {
    /// Whether it is the same for every row, so that skipping bad rows is no help.
    pub(crate) fn is_everywhere(&self) -> bool {
        let too_slow = matches!(self, Self::Template(TemplateError::TooSlow { .. }));
        too_slow || matches!(self, Self::NoChatTemplate | Self::NoEos | Self::OtherPurpose { .. })
    }

    /// What to do about rows that judge replies, or should.
    fn hint_of_judged(&self) -> Option<Remedy> {
        Some(match self {
            Self::OtherPurpose { found: Shape::Judged } => remedy![
                "train on them with ", Setting::Objective.is("kto");
                Setting::Columns.is("label=ignore"), " trains all replies alike"
            ],
            Self::OtherPurpose { .. } => remedy![
                "train on them with ", Setting::Objective.is("dpo");
                Setting::Columns.is("chosen=messages,rejected=ignore"), " trains the chosen replies alone, if they are whole conversations";
                Setting::Columns.is("chosen=completion,rejected=ignore"), " if they follow a prompt"
            ],
            Self::NoPairs { found: Shape::Judged } => {
                remedy!["train on labels with ", Setting::Objective.is("kto")]
            }
            Self::NoPairs { .. } => remedy![
                "train on replies with ", Setting::Objective.is("sft");
                "name the columns with ", Setting::Columns.is("better=chosen,worse=rejected")
            ],
            Self::NoLabels { .. } => remedy![
                "train on replies with ", Setting::Objective.is("sft");
                "name the column with ", Setting::Columns.is("good=label")
            ],
            Self::SameReplies { .. } => {
                remedy!["leave the row out"; "skip such rows with ", Setting::SkipBadRows]
                    .because("it says nothing of which is better")
            }
            Self::TooManyReplies { .. } => "write the row as several with the same prompt".into(),
            Self::NothingAlike => "give the prompt in a field of its own".into(),
            _ => return None,
        })
    }

    /// What to do about rows that have no text, or no label.
    fn hint_of_scored(&self) -> Option<Remedy> {
        Some(match self {
            Self::NoLabel { .. } => remedy![
                "name the column with ", Setting::LabelColumn;
                "leave such rows out with ", Setting::SkipBadRows
            ],
            Self::UnknownLabel { .. } => remedy![
                "correct the label";
                "add rows with it to those that are trained on";
                "leave such rows out with ", Setting::SkipBadRows
            ],
            Self::NoTokens => remedy!["leave the row out"; "skip such rows with ", Setting::SkipBadRows],
            Self::NoText { .. } => remedy!["name the column with ", Setting::Columns.is("sentence=text")],
            _ => return None,
        })
    }

    /// What the user can do next.
    pub fn hint(&self) -> Option<Remedy> {
        Some(match self {
            Self::NotUtf8 { .. } => "save the file as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8 converts)".into(),
            Self::Nul { .. } => {
                "the file may be UTF-16 or no text at all; save it as UTF-8 (iconv -f UTF-16 -t UTF-8 converts)".into()
            }
            Self::TooLong { .. } => {
                "check that the file has line breaks, and that no quote or bracket is left open".into()
            }
            Self::Ragged { .. } => remedy![
                "quote values that have the separator or a line break in them";
                "skip such rows with ", Setting::SkipBadRows
            ],
            Self::ManyColumns { .. } => {
                "check that it is a table, and that the name of the file says how its values are separated".into()
            }
            Self::ColumnTwice { .. } => "rename one of them in the first line".into(),
            Self::NoColumn { .. } => remedy!["check the names in ", Setting::Columns],
            Self::OtherPurpose { .. }
            | Self::NoPairs { .. }
            | Self::NoLabels { .. }
            | Self::SameReplies { .. }
            | Self::TooManyReplies { .. }
            | Self::NothingAlike => return self.hint_of_judged(),
            Self::NoLabel { .. }
            | Self::UnknownLabel { .. }
            | Self::NoTokens
            | Self::NoText { .. } => return self.hint_of_scored(),
            Self::Overlong { .. } => to_shorten(),
            Self::Json { .. } | Self::NotAnObject { .. } => "a row is one JSON object on one line, with nothing behind it".into(),
            Self::Surrogate { .. } => {
                remedy!["write it again"; "skip such rows with ", Setting::SkipBadRows]
                    .because("the text was cut inside of a character")
            }
            Self::MissingField { .. } => {
                "the first row decides the shape of the file; give every row the same fields, or remove this one".into()
            }
            Self::WrongType { field, want: "a string", found: "a list" } if field.ends_with("content") => {
                "join the text parts of the message into one string; images are not supported".into()
            }
            Self::WrongType { field, want: "true or false", .. } if field == "label" => to_classify(),
            Self::WrongType { .. } => "correct the row or remove it".into(),
            Self::NotText { .. } => "only text is trained: remove the part, or the row".into(),
            Self::NoMessages
            | Self::NoReply { unmet: None }
            | Self::NoLastReply { .. }
            | Self::EmptyReply { .. } => "add the reply or remove the row".into(),
            Self::NoChatTemplate => to_have_a_template(),
            Self::SpanNotFound { .. } => remedy![
                "split the conversation into rows that end with the reply to be learnt";
                "give a template that does not rewrite history with ", Setting::Template
            ],
            Self::ReplyNotWritten { .. } => {
                remedy!["give another with ", Setting::Template; "write the rows as the template expects them"]
                    .because("the template and the data do not fit each other")
            }
            Self::ReplyRepeated { .. } => remedy![
                "give another template with ", Setting::Template;
                "put {% generation %} and {% endgeneration %} around what the assistant generates"
            ],
            Self::EndUnclear { .. } => remedy![
                "give a template with ", Setting::Template, " that writes eos_token behind replies";
                "put {% generation %} and {% endgeneration %} around what the assistant generates"
            ],
            Self::NoPrompt { .. } => "give chat, instruction or completion rows".into(),
            Self::Choices { .. } => to_list_options(),
            Self::NoEos => "name one in tokenizer_config.json (\"eos_token\")".into(),
            Self::UnknownShape { .. } => to_name_a_shape(),
            Self::Ambiguous { asks, answers } => to_name_the_fields(asks, answers),
            Self::Refused { field, .. } => to_remove_or_map(field),
            Self::Unsupported { field } => to_remove(field),
            Self::NotWritten { field } => to_have_written(field),
            Self::UnknownRole { role } => to_map_a_role(role),
            Self::NoReply { unmet: Some(name) } => to_meet_a_role(name),
            Self::BeyondModel(beyond) => beyond.hint(),
            Self::Template(e) => return e.hint(),
            Self::Tokenizer(e) => return e.hint(),
        })
    }
}

/// What to do about rows that are too long.
fn to_shorten() -> Remedy {
    remedy![
        "cut such rows with ", Setting::Overlong.is("truncate-right");
        "leave them out with ", Setting::Overlong.is("drop");
        "raise ", Setting::MaxSeqLen
    ]
}

/// What to do about conversations that no template writes.
fn to_have_a_template() -> Remedy {
    remedy![
        "use the instruct version of the model";
        "give a template with ", Setting::Template;
        "write the rows as prompt and completion"
    ]
}

/// What to do about labels that are not true or false.
fn to_classify() -> Remedy {
    remedy![
        "train a classifier on such labels with ", Setting::Objective.is("classify");
        "leave the column out with ", Setting::Columns.is("label=ignore");
        "correct the row"
    ]
}

/// Why the labels of rows cannot be learnt, as the end of a sentence about their column.
fn labels_in_words(found: &[String]) -> String {
    match found {
        [] => "has no labels".to_owned(),
        [one] => format!("has one label alone, `{}`, and nothing to tell it from", one.escape_debug()),
        many => format!("has more than {} different labels", many.len() - 1),
    }
}

/// The first of many labels.
fn first(labels: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = labels.iter().take(SHOWN).map(|label| label.chars().take(40).collect::<String>());
    let shown = shown.collect::<Vec<_>>().join(", ");
    match labels.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// What rows say that judge replies.
fn judging(found: Shape) -> &'static str {
    match found {
        Shape::Judged => "say which replies are good (label)",
        _ => "are preferences (chosen and rejected)",
    }
}

/// What to do about a row whose fields are of no shape.
fn to_name_a_shape() -> Remedy {
    let shapes: Vec<String> =
        Shape::ALL.iter().map(|s| format!("{} ({})", s.name(), s.fields().join(", "))).collect();
    let example = Setting::Columns.is("topic=instruction,essay=output");
    let shapes = format!("), in one of these shapes: {}", shapes.join("; "));
    remedy!["say what the fields are (", example, shapes]
}

/// What to do where several fields may be the question, or the answer.
fn to_name_the_fields(asks: &[String], answers: &[String]) -> Remedy {
    let name =
        |names: &[String]| names.first().map(|name| name.escape_debug().to_string()).unwrap_or_default();
    let mapping = format!("{}=question,{}=answer,NAME=ignore", name(asks), name(answers));
    remedy!["name those that are meant, and pass others over: ", Setting::Columns.is(mapping)]
}

/// What to do about a field that must not be there. What lies inside of another, or has a comma, cannot be named among columns.
fn to_remove_or_map(field: &str) -> Remedy {
    if field.contains(['[', ',']) {
        return to_remove(field);
    }
    let field = field.escape_debug();
    let removed = remedy![format!("remove `{field}` from the rows")];
    let mapped = |to: &str| Setting::Columns.is(format!("{field}={to}"));
    let removed = match field.to_string() == "context" {
        true => removed.or(remedy!["set it below the instruction with ", mapped("input")]),
        false => removed,
    };
    removed.or(remedy!["say that it does not matter: ", mapped("ignore")])
}

fn to_remove(field: &str) -> Remedy {
    format!("remove `{field}` from the row, or the row").into()
}

/// What to do about a field that the template does not write.
fn to_have_written(field: &str) -> Remedy {
    let alias = match field.ends_with("tools") || field.ends_with("tool_calls") {
        true => " (also called functions and function_call)",
        false => "",
    };
    remedy![
        format!("remove `{field}`{alias} from the row");
        "give a template that writes it with ", Setting::Template
    ]
    .because("the model would learn the row without it")
}

fn to_list_options() -> Remedy {
    remedy![Setting::Choices, " names a column with a list of texts, one of which is the row's reply"]
}

/// What to do about a role that is none of the four; the likely one is offered.
fn to_map_a_role(role: &str) -> Remedy {
    let likely = match role.to_ascii_lowercase().as_str() {
        "human" | "person" | "prompter" | "question" => "user",
        "developer" => "system",
        "function" | "ipython" | "observation" | "tool_response" => "tool",
        _ => "assistant",
    };
    match role.contains(char::is_whitespace) || role.is_empty() {
        false => {
            let role = role.escape_debug().take(60).collect::<String>();
            remedy!["map it with ", Setting::Role.is(format!("{role}={likely}"))]
        }
        true => "rename the role to one of them".into(),
    }
}

/// What to do where no message has the role that was said to be the assistant's.
fn to_meet_a_role(name: &str) -> Remedy {
    let mapping = Setting::Role.is(format!("{}=assistant", name.escape_debug()));
    remedy!["correct ", mapping, ", whose role no message of the row has"; "add the reply"]
}
