//! The flags of a verb as parameters of a function: what an interface of another language is made from.

use std::any::TypeId;
use std::path::PathBuf;

use clap::{Arg, ArgAction, Command};
use serde::Serialize;

/// What a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// True or false.
    Bool,
    /// A whole number.
    Int,
    /// A number.
    Float,
    /// One of its choices.
    Choice,
    /// A path.
    Path,
    /// Text.
    Text,
    /// Text of a form of its own, such as a number with a unit, or a list with commas.
    Form,
}

/// A flag, or a word that stands without one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Parameter {
    /// Its name, as programs write names.
    pub name: String,
    /// The flag with its dashes; `None` where the value stands alone.
    pub flag: Option<String>,
    /// What it takes.
    pub kind: Kind,
    /// The values that it takes, if it takes no others.
    pub choices: Vec<String>,
    /// Whether it can be given several times.
    pub is_repeated: bool,
    /// Whether it stands without a value.
    pub is_switch: bool,
    /// What it is unless it is given.
    pub default: Option<String>,
    /// What it is for, in one line.
    pub help: String,
}

/// The parameters of a verb, in the order in which its help has them.
pub fn of(verb: &Command) -> Vec<Parameter> {
    let shown = |arg: &&Arg| !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version");
    verb.get_arguments().filter(shown).map(Parameter::new).collect()
}

impl Parameter {
    fn new(arg: &Arg) -> Self {
        let parser = arg.get_value_parser();
        let is = |known: TypeId| parser.type_id() == known;
        let takes = arg.get_action().takes_values();
        let whole = [TypeId::of::<usize>(), TypeId::of::<u64>(), TypeId::of::<u32>(), TypeId::of::<u16>()];
        let choices: Vec<String> =
            arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        let kind = match () {
            () if !takes || is(TypeId::of::<bool>()) => Kind::Bool,
            () if !choices.is_empty() => Kind::Choice,
            () if whole.into_iter().any(is) => Kind::Int,
            () if is(TypeId::of::<f64>()) || is(TypeId::of::<f32>()) => Kind::Float,
            () if is(TypeId::of::<PathBuf>()) => Kind::Path,
            () if is(TypeId::of::<String>()) => Kind::Text,
            () => Kind::Form,
        };
        let most = arg.get_num_args().map_or(1, |range| range.max_values());
        let name = arg.get_long().unwrap_or(arg.get_id().as_str()).replace('-', "_");
        let defaults = arg.get_default_values().iter();
        let default = defaults.map(|value| value.to_string_lossy().into_owned()).collect::<Vec<_>>();
        Parameter {
            name,
            flag: arg.get_long().map(|name| format!("--{name}")),
            choices: if kind == Kind::Choice { choices } else { Vec::new() },
            is_repeated: matches!(arg.get_action(), ArgAction::Append) || most > 1,
            is_switch: !takes,
            default: Some(default.join(" ")).filter(|text| !text.is_empty() && kind != Kind::Bool),
            help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
            kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::args::train::TrainArgs;
    use clap::Args as _;

    #[test]
    fn flags_of_train_are_parameters_of_their_types() {
        let all = of(&TrainArgs::augment_args(Command::new("train")));
        let by_name: BTreeMap<&str, &Parameter> =
            all.iter().map(|parameter| (&parameter.name[..], parameter)).collect();
        let kind = |name: &str| by_name[name].kind;
        let found =
            ["max_steps", "dropout", "method", "out", "dora", "overwrite", "lr", "data", "name"].map(kind);
        let expected = [
            Kind::Int,
            Kind::Float,
            Kind::Choice,
            Kind::Path,
            Kind::Bool,
            Kind::Bool,
            Kind::Form,
            Kind::Text,
            Kind::Text,
        ];
        assert_eq!(found, expected);
        assert!(by_name["data"].is_repeated && !by_name["model"].is_repeated);
        assert!(by_name["overwrite"].is_switch && !by_name["dora"].is_switch);
        assert_eq!(by_name["method"].choices, ["lora", "full"]);
        assert_eq!(by_name["rank"].default.as_deref(), Some("8"));
        assert_eq!(by_name["max_steps"].flag.as_deref(), Some("--max-steps"));
        assert!(all.iter().all(|parameter| !parameter.help.is_empty()));
    }
}
