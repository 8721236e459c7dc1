//! `lorafit completions`: what a shell needs to complete verbs, flags and values.

use clap::{Args, Command, ValueEnum};
use clap_complete::shells::{Bash, Fish, Zsh};

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
pub fn run(args: CompletionsArgs, mut command: Command) -> anyhow::Result<()> {
    let (name, mut script) = (command.get_name().to_owned(), Vec::new());
    match args.shell {
        Shell::Bash => clap_complete::generate(Bash, &mut command, name, &mut script),
        Shell::Zsh => clap_complete::generate(Zsh, &mut command, name, &mut script),
        Shell::Fish => clap_complete::generate(Fish, &mut command, name, &mut script),
    }
    output::line(String::from_utf8(script)?.trim_end())?;
    Ok(())
}
