//! What a hint refers to, in the words of the command line: a setting as the flag of the verb that runs.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use lorafit_remedy::{Reference, Remedy, Setting, Task};

/// What the user of a verb can set.
#[derive(Debug, Default)]
pub struct Verb {
    /// The names of its flags, without dashes.
    pub flags: BTreeSet<String>,
    /// The keys of the file that it takes, if they are no flags of its own.
    pub keys: BTreeSet<String>,
    /// Words that such a key may have as its value.
    pub values: BTreeSet<String>,
}

impl Verb {
    /// The hint in words, if it has any for the verb.
    pub fn worded(&self, hint: &Remedy) -> Option<String> {
        let worded = hint.worded(|reference| match reference {
            Reference::Setting(setting, value) => self.setting(*setting, value.as_deref()),
            Reference::Task(task) => Some(command(*task)),
        });
        worded.map(|text| self.with_keys(&text))
    }

    /// A text about flags in the terms of the verb: those that are keys of its file are named as keys. Commands stay.
    pub fn with_keys(&self, text: &str) -> String {
        let (mut written, mut rest) = (String::new(), text);
        while let Some(at) = rest.find("--") {
            let (before, flag) = rest.split_at(at);
            written.push_str(before);
            let name: String =
                flag[2..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
            let name = name.trim_end_matches('-');
            let end = 2 + name.len();
            // A command that is shown has flags of its own; it ends with the clause.
            let clause = written.rsplit([';', '\n', '(']).next().unwrap_or_default();
            let is_key =
                self.keys.contains(name) && !self.flags.contains(name) && !clause.contains("lorafit ");
            match is_key {
                false => {
                    written.push_str(&flag[..end]);
                    rest = &flag[end..];
                }
                true => {
                    let value = self.value(&flag[end..]);
                    let _ = match value {
                        Some(number) if number.parse::<f64>().is_ok() => {
                            write!(written, "`{name} = {number}`")
                        }
                        Some(text) => write!(written, "`{name} = {text:?}`"),
                        None => write!(written, "`{name}`"),
                    };
                    rest = &flag[end + value.map_or(0, |value| 1 + value.len())..];
                }
            }
        }
        written + rest
    }

    /// The value that a text after a flag begins with, if it does.
    fn value<'a>(&self, text: &'a str) -> Option<&'a str> {
        let text = text.strip_prefix(' ')?;
        let end = text.find(|c: char| c.is_whitespace() || ",;:()".contains(c)).unwrap_or(text.len());
        let word = &text[..end];
        let is_value = word.starts_with(|c: char| c.is_ascii_digit()) || self.values.contains(word);
        is_value.then_some(word)
    }

    /// A flag as it is typed, or a key as it stands in the verb's file.
    fn setting(&self, setting: Setting, value: Option<&str>) -> Option<String> {
        let name = flag(setting);
        let is_flag = self.flags.contains(&name);
        (is_flag || self.keys.contains(&name)).then(|| match (is_flag, value) {
            (true, None) => format!("--{name}"),
            (true, Some(value)) => format!("--{name} {value}"),
            (false, None) => format!("`{name}`"),
            (false, Some(number)) if number.parse::<f64>().is_ok() => format!("`{name} = {number}`"),
            (false, Some(text)) => format!("`{name} = {text:?}`"),
        })
    }
}

/// The flag of a setting, without dashes.
pub fn flag(setting: Setting) -> String {
    setting.name().replace('_', "-")
}

/// The command of another verb that does a task.
fn command(task: Task) -> String {
    match task {
        Task::PlanMemory => "lorafit plan --device cuda".to_owned(),
        Task::Evaluate => "lorafit eval".to_owned(),
        Task::Merge => "lorafit merge".to_owned(),
        Task::TrainQuantised => "lorafit train --quant nf4".to_owned(),
        Task::ConvertToPeft { adapter } => {
            format!("lorafit export --to peft --model BASE --adapter {adapter} --out NEW")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lorafit_remedy::remedy;

    fn verb(flags: &[&str], keys: &[&str]) -> Verb {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Verb { flags: names(flags), keys: names(keys), values: names(&["lora", "none"]) }
    }

    fn hint() -> Remedy {
        remedy!["cut rows with ", Setting::Overlong.is("drop"); "lower ", Setting::Lr]
    }

    #[test]
    fn settings_are_the_flags_of_the_verb_and_others_are_left_out() {
        assert_eq!(
            verb(&["lr", "overlong"], &[]).worded(&hint()).unwrap(),
            "cut rows with --overlong drop, or lower --lr"
        );
        assert_eq!(verb(&["lr"], &[]).worded(&hint()).unwrap(), "lower --lr");
        assert_eq!(Verb::default().worded(&hint()), None);
    }

    #[test]
    fn flags_in_words_are_keys_where_the_verb_has_a_file() {
        let sweep = verb(&["out"], &["eval-data", "validation", "method", "patience", "out", "model"]);
        for (text, worded) in [
            (
                "give held-out rows with --eval-data DATA, or hold some out with --validation 5%",
                "give held-out rows with `eval-data` DATA, or hold some out with `validation = \"5%\"`",
            ),
            ("--patience 3 with --validation none: no", "`patience = 3` with `validation = \"none\"`: no"),
            (
                "--method lora keeps it; choose another --out",
                "`method = \"lora\"` keeps it; choose another --out",
            ),
            (
                "make it with lorafit train --model M --patience 3; or --patience",
                "make it with lorafit train --model M --patience 3; or `patience`",
            ),
            ("a -- b --unknown 3", "a -- b --unknown 3"),
        ] {
            assert_eq!(sweep.with_keys(text), worded);
            assert_eq!(Verb::default().with_keys(text), text);
        }
    }

    #[test]
    fn settings_of_a_file_are_its_keys() {
        assert_eq!(
            verb(&["out"], &["lr", "overlong"]).worded(&hint()).unwrap(),
            "cut rows with `overlong = \"drop\"`, or lower `lr`"
        );
        assert_eq!(verb(&["lr"], &["lr"]).worded(&hint()).unwrap(), "lower --lr");
        let least = remedy![Setting::MaxSeqLen.is("2"), " is the least"];
        assert_eq!(verb(&[], &["max-seq-len"]).worded(&least).unwrap(), "`max-seq-len = 2` is the least");
    }
}
