//! The flags as types of keyword arguments, which the Python package checks calls with: a stub file, from their declarations.

use std::fmt::Write as _;

use clap::Command;

use crate::args::flags::names;
use crate::args::parameters::{self, Kind, Parameter};
use crate::args::sampling::Sampling;

/// The first line of the file in lower case.
pub const TITLE: &str = "# written by `lorafit manual --format pyi`";

const HEAD: &str = "# Written by `lorafit manual --format pyi` from the declarations of the flags.
from os import PathLike
from typing import Literal, Sequence, TypedDict
";

/// A class of keyword arguments: its name, the verb, and flags that the functions of the package have as arguments of their own or
/// have no use for.
const CLASSES: [(&str, &str, &[&str]); 11] = [
    (
        "TrainFlags",
        "train",
        &["model", "data", "out", "resume", "eval_data", "print_config", "log", "log_every"],
    ),
    ("PlanFlags", "plan", &["model", "json", "recommend", "svg"]),
    ("DataFlags", "data", &["data", "model", "json", "html", "rows", "row", "ids"]),
    ("SweepFlags", "sweep", &["file", "out", "json", "status", "dry_run"]),
    ("EvalFlags", "eval", &["model", "data", "adapter", "json"]),
    ("CompareFlags", "compare", &["runs", "data", "json", "html"]),
    ("InspectFlags", "inspect", &["adapter", "json", "csv", "shrink_rank", "out"]),
    ("ReportFlags", "report", &["runs", "out"]),
    ("MergeFlags", "merge", &["model", "adapter", "out", "json"]),
    ("ExportFlags", "export", &["out", "json"]),
    ("ModelFlags", "chat", &["model", "adapter", "system"]),
];

/// The stub of a command that is built.
pub fn stub(command: &Command) -> String {
    // They are given to each answer, and not to a model.
    let sampling: Vec<String> = names::<Sampling>().iter().map(|name| name.replace('-', "_")).collect();
    let of_answers = |name: &str| sampling.iter().any(|known| known == name);
    let mut text = HEAD.to_owned();
    for (class, verb, left_out) in CLASSES {
        let taken = |name: &str| !left_out.contains(&name) && (class != "ModelFlags" || !of_answers(name));
        text += &class_of(class, command, verb, taken);
    }
    text + &class_of("SamplingFlags", command, "generate", of_answers)
}

fn class_of(class: &str, command: &Command, verb: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let mut text =
        format!("\nclass {class}(TypedDict, total=False):\n    \"\"\"Flags of `lorafit {verb}`.\"\"\"\n");
    let all = command.find_subcommand(verb).map(parameters::of).unwrap_or_default();
    for parameter in all.iter().filter(|parameter| is_taken(&parameter.name)) {
        let help = parameter.help.replace('\\', r"\\").replace('\n', " ").replace("\"\"\"", "'''");
        // A quote at the end would be one of those that close the text.
        let help = if help.ends_with('"') { format!("{help} ") } else { help };
        let _ = write!(text, "\n    {}: {}\n    \"\"\"{help}\"\"\"\n", parameter.name, type_of(parameter));
    }
    text
}

/// The type of a parameter; each can be left out with `None`.
fn type_of(parameter: &Parameter) -> String {
    let one = match parameter.kind {
        Kind::Bool => "bool".to_owned(),
        Kind::Int => "int".to_owned(),
        Kind::Float => "float".to_owned(),
        Kind::Choice => {
            let choices: Vec<String> = parameter.choices.iter().map(|choice| format!("{choice:?}")).collect();
            format!("Literal[{}]", choices.join(", "))
        }
        Kind::Path => "str | PathLike[str]".to_owned(),
        Kind::Text => "str | PathLike[str]".to_owned(),
        Kind::Form => "str | float | PathLike[str] | Sequence[str | float]".to_owned(),
    };
    match parameter.is_repeated && parameter.kind != Kind::Form {
        true => format!("{one} | Sequence[{one}] | None"),
        false => format!("{one} | None"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    #[test]
    fn types_are_those_of_values() {
        let command = Command::new("lorafit").subcommand(
            Command::new("generate")
                .arg(
                    Arg::new("top_k")
                        .long("top-k")
                        .value_parser(clap::value_parser!(usize))
                        .help("Say \"all\""),
                )
                .arg(Arg::new("seed").long("seed").value_parser(["a", "b"]).action(clap::ArgAction::Append))
                .arg(Arg::new("other").long("other")),
        );
        let stub = class_of("SamplingFlags", &command, "generate", |name| name != "other");
        assert!(stub.contains("    top_k: int | None\n    \"\"\"Say \"all\" \"\"\"\n"), "{stub}");
        assert!(stub.contains(r#"seed: Literal["a", "b"] | Sequence[Literal["a", "b"]] | None"#), "{stub}");
        assert!(!stub.contains("other"), "{stub}");
    }
}
