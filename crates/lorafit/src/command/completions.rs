//! `lorafit completions`: what a shell needs to complete verbs, flags and values.

use clap::builder::{PossibleValuesParser, ValueHint};
use clap::{Arg, ArgAction, Args, Command, ValueEnum};
use clap_complete::shells::{Bash, Fish, Zsh};

use crate::args::flags::Words;
use crate::terminal::output;

/// The shells.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Shell {
    /// GNU bash
    Bash,
    /// The Z shell
    Zsh,
    /// The friendly interactive shell
    Fish,
}

/// The flags of `completions`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
Examples:
  bash, for you alone:
    lorafit completions bash > ~/.local/share/bash-completion/completions/lorafit
  zsh, where ~/.zfunc is in $fpath:
    lorafit completions zsh > ~/.zfunc/_lorafit
  fish:
    lorafit completions fish > ~/.config/fish/completions/lorafit.fish")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: Shell,
}

/// Prints the completions of `command`.
pub fn run(args: CompletionsArgs, command: Command) -> anyhow::Result<()> {
    let mut command = command.mut_subcommands(|verb| verb.mut_args(completed));
    let (name, mut script) = (command.get_name().to_owned(), Vec::new());
    match args.shell {
        Shell::Bash => clap_complete::generate(Bash, &mut command, name, &mut script),
        Shell::Zsh => clap_complete::generate(Zsh, &mut command, name, &mut script),
        Shell::Fish => clap_complete::generate(Fish, &mut command, name, &mut script),
    }
    let script = String::from_utf8(script)?;
    output::line(match args.shell {
        Shell::Bash => with_equals(&script),
        Shell::Zsh | Shell::Fish => script.trim_end().to_owned(),
    })?;
    Ok(())
}

/// A flag as a shell should know it: a switch that takes `=false` is one; words that are known are offered, files and folders only
/// where one can stand.
fn completed(arg: Arg) -> Arg {
    /// Names of values that are files or folders, or may be.
    const PLACES: [&str; 8] = ["M", "DATA", "DIR", "FILE", "RUN", "OUT", "ORIGINAL", "A"];
    if arg.is_require_equals_set() {
        let plain = arg.require_equals(false).hide_possible_values(false).hide_default_value(false);
        return plain.allow_negative_numbers(false).num_args(0).action(ArgAction::SetTrue);
    }
    if let Some(Words(words)) = arg.get::<Words>() {
        let words = words();
        return arg.value_parser(PossibleValuesParser::new(words));
    }
    let takes_values = arg.get_action().takes_values() && arg.get_possible_values().is_empty();
    if !takes_values || arg.is_positional() {
        return arg;
    }
    let names: Vec<String> =
        arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
    let is_place = |name: &String| {
        let plain = name.trim_start_matches("[NAME=]").trim_end_matches("[:WEIGHT]");
        PLACES.contains(&plain)
    };
    match arg.get_value_hint() == ValueHint::AnyPath || names.iter().any(is_place) {
        // With this hint bash puts a slash behind a folder.
        true => arg.value_hint(ValueHint::FilePath),
        false => arg.value_hint(ValueHint::Other),
    }
}

/// The script for bash, which cuts a flag with `=` and a value into three words.
fn with_equals(script: &str) -> String {
    const BEGINS: &str = "    cmd=\"\"\n    opts=\"\"\n";
    const JOINED: &str = "    if [[ \"${prev}\" == \"=\" && \"${COMP_CWORD}\" -ge 2 ]]; then
        prev=\"${COMP_WORDS[COMP_CWORD-2]}\"
    elif [[ \"${cur}\" == \"=\" ]]; then
        cur=\"\"
    fi
";
    script.trim_end().replacen(BEGINS, &format!("{BEGINS}{JOINED}"), 1)
}
