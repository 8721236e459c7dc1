//! What a hint refers to, in the words of the command line: a setting as the flag of the verb that runs.

use std::collections::BTreeSet;

use lorafit_remedy::{Reference, Remedy, Setting, Task};

/// What the user of a verb can set.
#[derive(Debug, Default)]
pub struct Verb {
    /// The names of its flags, without dashes.
    pub flags: BTreeSet<String>,
    /// The keys of the file that it takes, if they are no flags of its own.
    pub keys: BTreeSet<String>,
}

impl Verb {
    /// The hint in words, if it has any for the verb.
    pub fn worded(&self, hint: &Remedy) -> Option<String> {
        hint.worded(|reference| match reference {
            Reference::Setting(setting, value) => self.setting(*setting, value.as_deref()),
            Reference::Task(task) => Some(command(*task)),
        })
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
        Verb { flags: names(flags), keys: names(keys) }
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
