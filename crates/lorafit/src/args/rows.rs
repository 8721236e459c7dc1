//! Which rows are read and how they are understood: flags of the verbs that read data.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use clap::{ArgAction, Args, ValueEnum};
use lorafit_data::format::keys;
use lorafit_data::{HeldOut, Mapping, Options, Part, Role};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::args::flags::Facts;
use crate::args::options::{TextVisitor, TrainOn};
use crate::args::require;
use crate::terminal::error::CliError;

/// Told by the help of every verb that reads data, from the list by which rows are read.
pub fn data_help() -> String {
    format!("{DATA_HELP}\n\n{}", keys::told(HELP_WIDTH))
}

/// Characters of a line of the list of keys: what a narrow terminal shows unbroken.
const HELP_WIDTH: usize = 78;
const DATA_HELP: &str = "\
DATA is a file, a folder, a 'glob', or a data set on the hub (org/name, org/name/folder, either with @revision),
perhaps with a weight: b.csv:0.5 takes half of its rows, chosen by the seed, b.csv:2 takes each twice. Formats: JSONL, a
JSON list or an object around one, CSV (separated by comma, semicolon, tab or bar), Parquet, and plain text, of which a
paragraph is a row; .gz and .zst are decompressed. Rows have one of these shapes:
  {\"messages\": [{\"role\": \"user\", \"content\": ...}, {\"role\": \"assistant\", \"content\": ...}]}
  {\"conversations\": [{\"from\": \"human\", \"value\": ...}, {\"from\": \"gpt\", \"value\": ...}]}
  {\"instruction\": ..., \"input\": ..., \"output\": ...}      {\"prompt\": ..., \"completion\": ...}      {\"text\": ...}
  a column that asks and one that answers (question and answer, input and output, ...): a conversation of the two
prompt and completion are plain text, without the chat template; instruction and output are a conversation.
For train --objective dpo and others rows judge replies; each is a text or a list of messages:
  {\"prompt\": ..., \"chosen\": ..., \"rejected\": ...}      {\"prompt\": ..., \"completion\": ..., \"label\": true} (kto)
For train --objective classify they are a text, or messages, and its label: {\"text\": ..., \"label\": \"sport\"}
\"tools\" and \"system\" may stand beside messages; a message with \"train\": false is not learnt.
Keys that would change what is trained are read or refused; --columns NAME=ignore ignores one.";

/// `--overlong`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlong {
    /// Leave the row out
    Drop,
    /// Cut off the end; a row left with nothing to train on is dropped
    TruncateRight,
    /// Stop with an error
    Error,
}

impl From<Overlong> for lorafit_data::Overlong {
    fn from(choice: Overlong) -> Self {
        match choice {
            Overlong::Drop => lorafit_data::Overlong::Drop,
            Overlong::TruncateRight => lorafit_data::Overlong::TruncateRight,
            Overlong::Error => lorafit_data::Overlong::Error,
        }
    }
}

/// The flags.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Data")]
pub struct RowArgs {
    /// Maximum number of tokens in a row; --overlong decides what happens to longer rows
    #[arg(long, value_name = "TOKENS", default_value_t = 2048)]
    #[arg(add = Facts::ARITHMETIC)]
    pub max_seq_len: usize,
    /// What to do with rows longer than --max-seq-len; their number is printed
    #[arg(long, value_enum, default_value_t = Overlong::TruncateRight)]
    #[arg(add = Facts::ARITHMETIC)]
    pub overlong: Overlong,
    /// Which tokens are trained: the replies (the model learns to answer), the last reply only, all that follows the first
    /// prompt, or all (it learns the prompts too)
    #[arg(long, value_enum, default_value_t = TrainOn::Replies)]
    #[arg(add = Facts::ARITHMETIC)]
    pub train_on: TrainOn,
    /// Read only the first N rows of each DATA [default: all]
    #[arg(long, value_name = "N")]
    #[arg(add = Facts::ARITHMETIC)]
    pub limit: Option<usize>,
    /// Read only the files of this split of a folder or data set: train, validation, test, or another name
    #[arg(long, value_name = "NAME")]
    #[arg(add = Facts::ARITHMETIC)]
    pub split: Option<String>,
    /// Which fields columns with other names are: topic=instruction,essay=output; NAME=ignore skips a column
    #[arg(long, value_name = "COLUMN=FIELD,...")]
    #[serde(with = "one_or_many", default, skip_serializing_if = "Vec::is_empty")]
    #[arg(add = Facts::ARITHMETIC)]
    pub columns: Vec<String>,
    /// Which roles speakers with other names have: human=user,bot=assistant
    #[arg(long, value_name = "NAME=ROLE,...")]
    #[serde(with = "one_or_many", default, skip_serializing_if = "Vec::is_empty")]
    #[arg(add = Facts::ARITHMETIC)]
    pub role: Vec<String>,
    /// Skip rows that cannot be read instead of stopping; they are counted, and the first are shown
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_value_t = false, default_missing_value = "true", hide_default_value = true)]
    #[arg(hide_possible_values = true, action = ArgAction::Set)]
    #[arg(add = Facts::ARITHMETIC)]
    pub skip_bad_rows: bool,
}

impl RowArgs {
    /// Refuses what makes no sense.
    pub fn validate(&self) -> Result<(), CliError> {
        require(self.max_seq_len >= 2, "max-seq-len", self.max_seq_len, "must be 2 or more")?;
        require(self.limit != Some(0), "limit", 0, "must be 1 or more")?;
        self.mapping().map(drop)
    }

    /// How rows become samples.
    pub fn options(&self) -> Options {
        let Self { max_seq_len, overlong, train_on, .. } = *self;
        let (overlong, train_on) = (overlong.into(), train_on.into());
        Options { max_seq_len, overlong, train_on, ..Options::default() }
    }

    /// What columns and roles are.
    pub fn mapping(&self) -> Result<Mapping, CliError> {
        let columns = pairs("columns", &self.columns)?;
        if let Some((_, field)) = columns.iter().find(|(_, field)| !Mapping::FIELDS.contains(&field.as_str()))
        {
            return Err(CliError::usage(format!("--columns: `{field}` is not a field that rows have"))
                .hint(format!("write COLUMN=FIELD, where FIELD is one of {}", Mapping::FIELDS.join(", "))));
        }
        let role = |(name, role): (String, String)| match Role::named(&role) {
            Some(role) => Ok((name, role)),
            None => {
                let known = Role::ALL.map(Role::name).join(", ");
                Err(CliError::usage(format!("--role: `{role}` is not a role"))
                    .hint(format!("NAME=ROLE with one of {known}")))
            }
        };
        let roles = pairs("role", &self.role)?.into_iter().map(role).collect::<Result<_, _>>()?;
        Ok(Mapping { columns, roles })
    }
}

/// `a=b,c=d`, in one text or several.
fn pairs(flag: &str, texts: &[String]) -> Result<Vec<(String, String)>, CliError> {
    let pair = |text: &str| match text.rsplit_once('=') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => Ok((from.trim().into(), to.trim().into())),
        _ => {
            let (form, example) = match flag {
                "columns" => ("COLUMN=FIELD", "topic=instruction,essay=output"),
                _ => ("NAME=ROLE", "bot=assistant"),
            };
            Err(CliError::usage(format!("--{flag} {text}: `{text}` is not of the form {form}"))
                .hint(format!("for example --{flag} {example}")))
        }
    };
    texts.iter().flat_map(|text| text.split(',')).map(pair).collect()
}

/// `LOCATION` or `LOCATION:WEIGHT`. A file that has such a name goes first.
pub fn part(text: &str) -> Result<Part, CliError> {
    let weighted = text.rsplit_once(':').filter(|_| !Path::new(text).exists());
    let weighted = weighted.and_then(|(location, weight)| Some((location, weight.parse::<f64>().ok()?)));
    let (location, weight) = weighted.unwrap_or((text, 1.0));
    match weight > 0.0 && weight <= 1000.0 {
        true => Ok(Part { location: location.to_owned(), weight }),
        false => Err(CliError::usage(format!("{text}: the weight must be above 0 and at most 1000"))),
    }
}

/// `LOCATION` or `LOCATION:WEIGHT` with a whole path, if it is a file or folder in `folder`, or a glob.
pub fn placed_in(folder: &Path, text: &str) -> String {
    let is_local = |location: &str| folder.join(location).exists() || location.contains(['*', '?', '[']);
    let weighted = text.rsplit_once(':').filter(|(_, weight)| weight.parse::<f64>().is_ok());
    let location = weighted.map_or(text, |(location, _)| location);
    let location = if folder.join(text).exists() { text } else { location };
    match is_local(location) {
        true => format!("{}{}", folder.join(location).display(), &text[location.len()..]),
        false => text.to_owned(),
    }
}

/// `--validation`: `auto`, `none`, `5%`, `0.05`, or a number of rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Validation(pub Option<HeldOut>);

impl Validation {
    /// What a new run has that says nothing.
    pub const AUTO: Self = Self(Some(HeldOut::Auto));
}

impl FromStr for Validation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::AUTO),
            "none" => return Ok(Self(None)),
            _ => {}
        }
        let share = match text.strip_suffix('%') {
            Some(percent) => percent.trim().parse::<f64>().ok().map(|percent| percent / 100.0),
            None => text.parse().ok().filter(|share| *share < 1.0),
        };
        match (share, text.parse()) {
            (Some(share), _) if share > 0.0 && share < 1.0 => Ok(Self(Some(HeldOut::Share(share)))),
            (None, Ok(rows)) if rows > 0 => Ok(Self(Some(HeldOut::Rows(rows)))),
            _ => Err(format!("`{text}` is not a share such as 5%, a number of rows, `auto` or `none`")),
        }
    }
}

impl Validation {
    /// As it is told: a share in percent.
    pub fn in_words(&self) -> String {
        match self.0 {
            Some(HeldOut::Share(share)) => format!("{}%", (1e8 * share).round() / 1e6),
            Some(HeldOut::Rows(_) | HeldOut::Auto) | None => self.to_string(),
        }
    }
}

impl fmt::Display for Validation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(HeldOut::Share(share)) => write!(f, "{share}"),
            Some(HeldOut::Rows(rows)) => write!(f, "{rows}"),
            Some(HeldOut::Auto) => f.write_str("auto"),
            None => f.write_str("none"),
        }
    }
}

impl Serialize for Validation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Validation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)?.parse().map_err(de::Error::custom)
    }
}

/// A list that is written as a text where it has one entry.
pub mod one_or_many {
    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(untagged, expecting = "a string or a list of strings")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }

    /// Writes it.
    pub fn serialize<S: Serializer>(list: &[impl ToString], serializer: S) -> Result<S::Ok, S::Error> {
        match list {
            [one] => OneOrMany::One(one.to_string()),
            many => OneOrMany::Many(many.iter().map(ToString::to_string).collect()),
        }
        .serialize(serializer)
    }

    /// Reads it.
    pub fn deserialize<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr<Err: fmt::Display>,
    {
        let texts = match OneOrMany::deserialize(deserializer)? {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        };
        texts.iter().map(|text| text.parse().map_err(de::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_behind_the_last_colon() {
        let read =
            |text: &str| part(text).map(|part| (part.location, part.weight)).map_err(|e| e.to_string());
        for (text, location, weight) in [
            ("a.jsonl", "a.jsonl", 1.0),
            ("a.jsonl:0.5", "a.jsonl", 0.5),
            ("C:\\rows\\a.csv", "C:\\rows\\a.csv", 1.0),
            ("dir/a:b.csv", "dir/a:b.csv", 1.0),
            ("dir/*.csv:2", "dir/*.csv", 2.0),
        ] {
            assert_eq!(read(text), Ok((location.to_owned(), weight)));
        }
        for text in ["a:0", "a:-1", "a:inf", "a:NaN"] {
            assert!(read(text).unwrap_err().contains("the weight must be above 0"), "{text}");
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a:2");
        std::fs::write(&file, "").unwrap();
        let text = file.to_str().unwrap();
        assert_eq!(read(text), Ok((text.to_owned(), 1.0)));
    }

    #[test]
    fn validation_is_a_share_or_a_number_of_rows() {
        for (text, want) in [
            ("5%", Some(HeldOut::Share(0.05))),
            ("12.5 %", Some(HeldOut::Share(0.125))),
            ("0.25", Some(HeldOut::Share(0.25))),
            ("200", Some(HeldOut::Rows(200))),
            ("1", Some(HeldOut::Rows(1))),
            ("auto", Some(HeldOut::Auto)),
            ("none", None),
        ] {
            let read: Validation = text.parse().unwrap();
            assert_eq!(read.0, want, "{text}");
            assert_eq!(read.to_string().parse(), Ok(read));
        }
        for text in ["", "%", "0", "0%", "100%", "1.5", "-3", "five", "NaN%"] {
            assert!(text.parse::<Validation>().is_err(), "{text}");
        }
    }

    #[test]
    fn pairs_are_read_from_one_text_or_several() {
        let texts = ["a=b,c=d", "e=f=g"].map(String::from);
        let want = [("a", "b"), ("c", "d"), ("e=f", "g")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(pairs("columns", &texts).unwrap(), want);
        for text in ["", "a", "a=", "=b", "a=b,"] {
            assert!(pairs("columns", &[text.to_owned()]).is_err(), "{text}");
        }
    }
}
