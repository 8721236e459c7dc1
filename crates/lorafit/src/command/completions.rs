//! `lorafit completions`: what a shell needs to complete verbs, flags and values.

use clap::{Args, Command};
use clap_complete::Shell;

use crate::terminal::output;

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
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    output::line(String::from_utf8(script)?.trim_end())?;
    Ok(())
}
