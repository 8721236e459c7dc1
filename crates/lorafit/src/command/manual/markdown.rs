//! The reference of the command line as Markdown, from the declarations of its flags.

use std::fmt::Write as _;

use clap::{Arg, Command};

use crate::args::flags::{Facts, OnResume};
use crate::args::options::value_name;
use crate::args::rows::data_help;
use crate::terminal::flow::{Block, blocks, flowed};

/// The first line of the page in lower case.
pub const TITLE: &str = "# the command line";

/// The page of a command that is built.
pub fn reference(command: &Command) -> String {
    let mut page = "# The command line\n\n`lorafit manual --format markdown` writes this page from the declarations of the flags.\n\n"
        .to_owned();
    let _ = writeln!(page, "{}.\n", about(command));
    let _ = writeln!(page, "| verb | what it does |\n|---|---|");
    for verb in command.get_subcommands() {
        let name = verb.get_name();
        let _ = writeln!(page, "| [`{name}`](#lorafit-{name}) | {} |", cell(&about(verb)));
    }
    for verb in command.get_subcommands() {
        page += &of_verb(verb);
    }
    page + "\n## Rows\n" + &of_blocks(data_help().trim())
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default().trim_end_matches('.').to_owned()
}

/// One verb: its usage, its flags under their headings, its examples, and what becomes of flags that have [`Facts`].
fn of_verb(verb: &Command) -> String {
    let usage = verb.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let mut text = format!("\n## lorafit {}\n\n{}.\n\n```text\n{usage}\n```\n", verb.get_name(), about(verb));
    let shown = |arg: &&Arg| !arg.is_hide_set() && arg.get_long() != Some("help");
    let args: Vec<&Arg> = verb.get_arguments().filter(shown).collect();
    let mut headings: Vec<&str> = Vec::new();
    for arg in &args {
        let heading = heading(arg);
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    for name in headings {
        let _ = writeln!(text, "\n### {name}\n");
        for arg in args.iter().filter(|arg| heading(arg) == name) {
            text += &of_arg(arg);
        }
    }
    if let Some(after) = verb.get_after_long_help() {
        let (after, rows) = (after.to_string(), flowed(&data_help()));
        text += &of_blocks(after.replace(&rows, "").trim());
        if after.contains(&rows) {
            text += "\nDATA and the shapes of rows are described [below](#rows).\n";
        }
    }
    text + &facts(&args)
}

/// Text behind flags: paragraphs, and examples as they are.
fn of_blocks(text: &str) -> String {
    let block = |block| match block {
        Block::Text(text) => format!("\n{}\n", escaped(&text)),
        Block::Lines(lines) => format!("\n```text\n{}\n```\n", lines.join("\n")),
    };
    blocks(text).into_iter().map(block).collect()
}

fn heading(arg: &Arg) -> &str {
    match (arg.get_help_heading(), arg.is_positional()) {
        (Some(heading), _) => heading,
        (None, true) => "Arguments",
        (None, false) => "Options",
    }
}

/// A flag as it is typed, then its help, then the values it takes.
fn of_arg(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    let value = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ");
    let typed = match (arg.get_long(), arg.get_action().takes_values()) {
        (None, _) => value,
        (Some(long), true) if arg.is_require_equals_set() => format!("--{long}[={value}]"),
        (Some(long), true) => format!("--{long} {value}"),
        (Some(long), false) => format!("--{long}"),
    };
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut paragraphs = help.split("\n\n").map(|paragraph| escaped(&paragraph.replace('\n', " ")));
    let mut text = format!("- `{typed}`: {}", paragraphs.next().unwrap_or_default());
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let is_switch = !arg.get_action().takes_values();
    if !defaults.is_empty() && !is_switch && !arg.is_hide_default_value_set() {
        let _ = write!(text, " [default: {}]", defaults.join(" "));
    }
    text.push('\n');
    for paragraph in paragraphs {
        let _ = writeln!(text, "\n  {paragraph}");
    }
    if !arg.is_hide_possible_values_set() && arg.get_action().takes_values() {
        for value in arg.get_possible_values().iter().filter(|value| !value.is_hide_set()) {
            let help = value.get_help().map(|help| format!(": {}", escaped(&help.to_string())));
            let _ = writeln!(text, "  - `{}`{}", value.get_name(), help.unwrap_or_default());
        }
    }
    text
}

/// What becomes of flags when a run is resumed, and in a sweep; empty where no more than the flags of every verb have facts.
fn facts(args: &[&Arg]) -> String {
    if !args.iter().any(|arg| arg.get_long() == Some("resume")) {
        return String::new();
    }
    let mut text = "\n### What becomes of flags\n\n| flag | on `--resume` | in a sweep | only with |\n|---|---|---|---|\n".to_owned();
    for arg in args {
        let (Some(long), Some(facts)) = (arg.get_long(), arg.get::<Facts>()) else { continue };
        if !facts.is_key {
            continue;
        }
        let resume = match facts.resume {
            OnResume::Free => "may change",
            OnResume::Bound => "stays, or `--resume-anyway`",
            OnResume::Fixed => "stays",
            OnResume::Refused => "is refused",
        };
        let sweep = if facts.is_searched { "can be searched" } else { "is the same for all trials" };
        let only =
            facts.method.map(|method| format!("`--method {}`", value_name(&method))).unwrap_or_default();
        let _ = writeln!(text, "| `--{long}` | {resume} | {sweep} | {only} |");
    }
    text += "\nThe number of steps stays, whatever `--epochs` and `--max-steps` are, and so do the rows and the weights, wherever `--data` and \
             `--model` find them.\n";
    text + "\nFlags that are not in this table concern one call. A configuration file cannot hold them.\n"
}

/// Text that Markdown shows as it is.
fn escaped(text: &str) -> String {
    text.replace('*', "\\*").replace('<', "&lt;")
}

fn cell(text: &str) -> String {
    escaped(text).replace('|', "\\|")
}
