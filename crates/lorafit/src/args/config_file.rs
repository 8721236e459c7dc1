//! `--config FILE`: the flags of a verb written down as TOML or YAML.
//!
//! A flag is declared once, as a field of the verb's `Args` struct. Clap knows from it the flag's name,
//! default and conflicts; serde knows its type. So every flag is a key (`max-steps` or `max_steps`), and
//! this file never names one. What the user typed wins over the file, the file over the defaults.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command};
use lorafit_remedy::{Setting, nearby, remedy};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::args::flags::Facts;
use crate::args::options::nearest;
use crate::terminal::error::CliError;

/// Which flags the user typed, as opposed to those that have their default.
#[derive(Clone, Default)]
pub struct Given(HashSet<String>);

impl Given {
    /// Reads it off what clap matched for the verb.
    pub fn new(matches: Option<&ArgMatches>) -> Self {
        let typed = matches.into_iter().flat_map(|matches| {
            matches
                .ids()
                .map(|id| id.as_str())
                .filter(|id| matches.value_source(id) == Some(ValueSource::CommandLine))
                .map(str::to_owned)
        });
        Given(typed.collect())
    }

    /// Whether a flag, by its name without dashes, was typed.
    pub fn has(&self, flag: &str) -> bool {
        self.0.contains(&flag.replace('-', "_"))
    }

    /// With the flags that a configuration file sets, whatever it sets them to.
    ///
    /// # Errors
    /// A file that cannot be read, and keys that are no flags of `T`.
    pub fn with_keys_of<T: Args>(&self, file: Option<&Path>) -> Result<Given, CliError> {
        let Some(file) = file else { return Ok(Given(self.0.clone())) };
        let (file, command) = (ConfigFile::read(file)?, T::augment_args(Command::new("config")));
        let keys = file.keys.keys().map(|key| Ok(file.flag_of_key(&command, key)?.get_id().to_string()));
        let keys = keys.collect::<Result<HashSet<String>, CliError>>()?;
        Ok(Given(self.0.union(&keys).cloned().collect()))
    }
}

fn defaults<T: Args>() -> anyhow::Result<T> {
    let matches = T::augment_args(Command::new("defaults")).try_get_matches_from(["defaults"])?;
    Ok(T::from_arg_matches(&matches)?)
}

/// What `file` says, over the defaults.
pub fn read<T: Args + Serialize + DeserializeOwned>(file: &Path) -> anyhow::Result<T> {
    merge(&defaults::<T>()?, &Given(HashSet::new()), file)
}

/// The first of `names` that was typed, or that a file has set to something else than its default.
pub fn set_among<T: Args + Serialize>(
    args: &T,
    given: &Given,
    names: &[&str],
) -> anyhow::Result<Option<String>> {
    let command = T::augment_args(Command::new("defaults"));
    let defaults = object(&defaults::<T>()?)?;
    let found = object(args)?;
    let is_set = |name: &&&str| {
        let typed = command
            .get_arguments()
            .any(|flag| flag.get_long() == Some(**name) && given.0.contains(flag.get_id().as_str()));
        typed || found.get(**name) != defaults.get(**name)
    };
    Ok(names.iter().find(is_set).map(|name| (*name).to_owned()))
}

/// `args`, but with what was typed as `typed` has it.
pub fn typed_over<T>(args: T, typed: &T, given: &Given) -> anyhow::Result<T>
where
    T: Args + Serialize + DeserializeOwned,
{
    let command = T::augment_args(Command::new("typed"));
    let (mut merged, typed) = (object(&args)?, object(typed)?);
    for flag in command.get_arguments().filter(|flag| given.0.contains(flag.get_id().as_str())) {
        let name = long_name(flag);
        if let Some(value) = typed.get(&name) {
            merged.insert(name, value.clone());
        }
    }
    Ok(serde_json::from_value(Value::Object(merged))?)
}

/// Puts the keys of `file` where `args` has only defaults.
pub fn merge<T>(args: &T, given: &Given, file: &Path) -> anyhow::Result<T>
where
    T: Args + Serialize + DeserializeOwned,
{
    merge_keys(args, given, &ConfigFile::read(file)?)
}

/// As [`merge`], with a file that has been read.
pub fn merge_keys<T>(args: &T, given: &Given, file: &ConfigFile) -> anyhow::Result<T>
where
    T: Args + Serialize + DeserializeOwned,
{
    let command = T::augment_args(Command::new("config"));
    let mut merged = object(args)?;
    let mut seen: HashSet<String> = HashSet::new();
    for (key, value) in &file.keys {
        let flag = file.flag_of_key(&command, key)?;
        let name = long_name(flag);
        if !seen.insert(name.clone()) {
            return Err(file.error(key, format!("`{name}` is set twice")).into());
        }
        if value.is_null() {
            let (what, one) = match file.is_infinite(key) {
                true => ("must be finite", "another"),
                false => ("has no value", "one"),
            };
            return Err(file
                .error(key, format!("`{key}` {what}"))
                .hint(format!("give it {one}, or take the line out"))
                .into());
        }
        if given.0.contains(flag.get_id().as_str()) {
            continue;
        }
        let rivals = rivals(&command, flag);
        // A typed flag also silences the file's keys that it excludes: `--max-steps 10` over `epochs = 3`.
        if rivals.iter().any(|rival| given.0.contains(rival.get_id().as_str())) {
            continue;
        }
        if let Some(rival) = rivals.iter().map(|rival| long_name(rival)).find(|rival| seen.contains(rival)) {
            return Err(file.error(key, format!("`{name}` and `{rival}` exclude each other")).into());
        }
        file.check_type::<T>(&object(args)?, key, &name, value)?;
        merged.insert(name, value.clone());
    }
    Ok(serde_json::from_value(Value::Object(merged))?)
}

/// The configuration as TOML, to be kept beside the results; `--config` reads it back.
pub fn to_toml(args: &impl Serialize) -> anyhow::Result<String> {
    Ok(toml::to_string(args)?)
}

/// The values of flags by their names.
pub fn object(args: &impl Serialize) -> anyhow::Result<Map<String, Value>> {
    match serde_json::to_value(args)? {
        Value::Object(map) => Ok(map),
        other => anyhow::bail!("arguments serialise to {other}, not to an object"),
    }
}

/// The flags that exclude this one. Clap lists a conflict only where it was declared, on one of the two.
fn rivals<'a>(command: &'a Command, flag: &'a clap::Arg) -> Vec<&'a clap::Arg> {
    let lists = |flag: &clap::Arg, other: &clap::Arg| {
        command.get_arg_conflicts_with(flag).iter().any(|rival| rival.get_id() == other.get_id())
    };
    command.get_arguments().filter(|other| lists(flag, other) || lists(other, flag)).collect()
}

fn long_name(flag: &clap::Arg) -> String {
    flag.get_long().unwrap_or_default().to_owned()
}

/// A configuration file as it was read.
pub struct ConfigFile {
    path: PathBuf,
    text: String,
    keys: Map<String, Value>,
}

impl ConfigFile {
    /// Reads TOML or YAML, whatever the keys are.
    pub fn read(path: &Path) -> Result<Self, CliError> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| {
            let is_config = |path: &Path| {
                let ending = path.extension().and_then(|ending| ending.to_str());
                path.is_file() && ending.is_some_and(|ending| ["toml", "yaml", "yml"].contains(&ending))
            };
            let near = nearby::in_words("files", &nearby::find(path, &["."], is_config));
            let file = near.unwrap_or_else(|| "give a TOML or YAML file that is there".to_owned());
            let hint = remedy![file; "print one to begin with: ", Setting::PrintConfig];
            CliError::usage(format!("cannot read configuration {shown}: {error}")).hint(hint)
        })?;
        let keys = match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => toml::from_str(&text).map_err(|error| problem(path, &error))?,
            // An empty YAML document is a null, not an empty mapping.
            Some("yaml" | "yml") => serde_saphyr::from_str::<Option<Map<String, Value>>>(&text)
                .map_err(|error| problem(path, &error))?
                .unwrap_or_default(),
            _ => {
                return Err(CliError::usage(format!(
                    "{shown}: this file name is neither that of a TOML nor of a YAML file"
                ))
                .hint("name it .toml, .yaml or .yml"));
            }
        };
        Ok(ConfigFile { path: path.into(), text, keys })
    }

    /// Takes a table out, so that what is left are flags.
    pub fn take_table(&mut self, key: &str) -> Result<Map<String, Value>, CliError> {
        match self.keys.remove(key) {
            None => Ok(Map::new()),
            Some(Value::Object(table)) => Ok(table),
            Some(other) => Err(self.error(key, format!("`{key}` is a table, found {other}"))),
        }
    }

    /// The flag of `T` that a key outside of the file's own ones names, and those that exclude it.
    pub fn flag_and_rivals<T: Args>(&self, key: &str) -> Result<(String, Vec<String>), CliError> {
        let command = T::augment_args(Command::new("config"));
        let flag = self.flag_of_key(&command, key)?;
        Ok((long_name(flag), rivals(&command, flag).into_iter().map(long_name).collect()))
    }

    /// Whether the file sets a flag.
    pub fn sets(&self, name: &str) -> bool {
        self.keys.keys().any(|key| key.replace('_', "-") == name)
    }

    /// Whether a key that was read as nothing has a number that is not finite, which JSON does not have.
    fn is_infinite(&self, key: &str) -> bool {
        let line = self.line_of(key).and_then(|line| self.text.lines().nth(line - 1)).unwrap_or_default();
        let value = line.split_once([':', '=']).map_or("", |(_, value)| value);
        let value = value.split('#').next().unwrap_or_default().trim();
        let value = value.trim_start_matches(['+', '-', '.']).to_lowercase();
        ["inf", "nan"].contains(&value.as_str())
    }

    fn flag_of_key<'a>(&self, command: &'a Command, key: &str) -> Result<&'a clap::Arg, CliError> {
        let name = key.replace('_', "-");
        let flags = || {
            command.get_arguments().filter(|flag| {
                flag.get_long().is_some() && flag.get::<Facts>().is_none_or(|facts| facts.is_key)
            })
        };
        if let Some(flag) = flags().find(|flag| flag.get_long() == Some(name.as_str())) {
            return Ok(flag);
        }
        if command.get_arguments().any(|flag| flag.get_long() == Some(name.as_str())) {
            let text =
                format!("unknown key `{key}`: it is about one call, not about the run, and only typed");
            return Err(self
                .error(key, text)
                .hint(format!("take it out of the file; type --{name} where it is wanted")));
        }
        let error = self.error(key, format!("unknown key `{key}`"));
        Err(match nearest(&name, flags().filter_map(clap::Arg::get_long)) {
            Some(known) => error.hint(format!("did you mean `{known}`?")),
            None => error.hint("the keys are the flags that `lorafit train --help` lists"),
        })
    }

    /// Tries the one value among otherwise good ones, so that an error is known to be this key's.
    pub fn check_type<T: DeserializeOwned>(
        &self,
        good: &Map<String, Value>,
        key: &str,
        name: &str,
        value: &Value,
    ) -> Result<(), CliError> {
        let mut trial = good.clone();
        trial.insert(name.to_owned(), value.clone());
        match serde_json::from_value::<T>(Value::Object(trial)) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.error(key, format!("`{key}`: {}", expected_found(&error.to_string())))),
        }
    }

    /// An error at the line of a key.
    pub fn error(&self, key: &str, what: String) -> CliError {
        let place = match self.line_of(key) {
            Some(line) => format!("{} line {line}", self.path.display()),
            None => self.path.display().to_string(),
        };
        CliError::usage(format!("{place}: {what}"))
    }

    /// As [`ConfigFile::error`], of a key of a table.
    pub fn error_below(&self, table: &str, key: &str, what: String) -> CliError {
        let is_head = |line: &str| {
            line.trim()
                .trim_start_matches('[')
                .trim_start()
                .strip_prefix(table)
                .is_some_and(|rest| [']', ':'].iter().any(|end| rest.trim_start().starts_with(*end)))
        };
        let head = self.text.lines().position(is_head).unwrap_or(0);
        match self.line_from(head, key) {
            Some(line) => CliError::usage(format!("{} line {line}: {what}", self.path.display())),
            None => self.error(key, what),
        }
    }

    /// Refuses tables in a file whose keys are flags, and which has these tables beside them.
    ///
    /// # Errors
    /// A table that is none of them.
    pub fn check_tables<T: Args>(&self, tables: &[&str]) -> Result<(), CliError> {
        let is_flag = |key: &str| self.flag_and_rivals::<T>(key).is_ok();
        let other = self.keys.iter().find(|(key, value)| value.is_object() && !is_flag(key));
        let Some((other, _)) = other else { return Ok(()) };
        let known = tables.iter().map(|table| format!("[{table}]")).collect::<Vec<_>>().join(" and ");
        let hint = match nearest(other, tables.iter().copied()) {
            Some(table) => format!("did you mean [{table}]?"),
            None => format!("its tables are {known}"),
        };
        Err(CliError::usage(format!("{}: unknown table [{other}]", self.path.display())).hint(hint))
    }

    /// Keys stand at the start of a line in both formats; in YAML's `{a: 1}` form there is no line to tell.
    fn line_of(&self, key: &str) -> Option<usize> {
        self.line_from(0, key)
    }

    /// As [`ConfigFile::line_of`], of the first behind so many lines.
    fn line_from(&self, lines: usize, key: &str) -> Option<usize> {
        let is_here = |line: &str| {
            let line = line.trim_start().trim_start_matches(['"', '\'']);
            line.strip_prefix(key)
                .is_some_and(|rest| rest.trim_start_matches(['"', '\'', ' ', '\t']).starts_with([':', '=']))
        };
        self.text.lines().skip(lines).position(is_here).map(|index| lines + index + 1)
    }
}

fn problem(path: &Path, error: &dyn std::fmt::Display) -> CliError {
    /// What libraries say of their own functions, and what it means here.
    const OWN_WORDS: [(&str, &str); 4] = [
        ("non-finite float", "the number must be finite, not"),
        (" rejected by the configured policy", ""),
        (", set DuplicateKeyPolicy in Options if acceptable", ""),
        (
            "multiple YAML documents detected; use from_str_multiple or from_str_multiple_with_options",
            "a second document begins here, and a configuration is one",
        ),
    ];
    let error = OWN_WORDS.iter().fold(error.to_string(), |text, (theirs, ours)| text.replace(theirs, ours));
    CliError::usage(format!("{} cannot be read as configuration\n{error}", path.display()))
        .hint("one `key = value` (TOML) or `key: value` (YAML) a line, keys named as the flags")
}

/// Serde says "invalid type: string "x", expected usize"; we say what was expected first, in plain words.
fn expected_found(message: &str) -> String {
    let Some((found, expected)) = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))
        .and_then(|rest| rest.rsplit_once(", expected "))
    else {
        return message.replace("unknown variant", "unknown value");
    };
    let expected = match expected {
        "usize" | "u64" | "u32" => "a whole number, 0 or more",
        "f64" | "f32" => "a number",
        "a boolean" => "true or false",
        other => other,
    };
    format!("expected {expected}, found {found}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_errors_are_put_in_plain_words() {
        let message = serde_json::from_str::<usize>("\"x\"").unwrap_err().to_string();
        let message = message.split(" at line").next().unwrap();
        assert_eq!(expected_found(message), "expected a whole number, 0 or more, found string \"x\"");
    }
}
