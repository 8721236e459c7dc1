//! `lorafit chat`: a conversation in the terminal, or with lines from a pipe.

use clap::Args;

use super::generate::Sampling;
use super::not_wired;
use crate::cli::Common;
use crate::options::NamedAdapter;
use crate::report_error::CliError;

/// The flags of `chat`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
Examples:
  lorafit chat --model M --adapter runs/first
  Two adapters over one base; /adapter pirate and /adapter none switch at once:
    lorafit chat --model M --adapter butler=runs/butler --adapter pirate=runs/pirate
  From a script, one message a line:
    printf 'Hello\\n/adapter none\\nHello\\n' | lorafit chat --model M --adapter runs/first

In the conversation: /adapter NAME, /adapter none, /adapters, /reset, /system TEXT, /help, /quit. Ctrl-C stops an
answer, Ctrl-D ends the conversation.")]
pub struct ChatArgs {
    /// The base model: a Hugging Face folder, a .gguf file, or a hub id (org/name or org/name@revision)
    #[arg(long, value_name = "M", help_heading = "Input")]
    pub model: String,
    /// An adapter to have at hand; may be given several times, the first is used at the start
    ///
    /// Without NAME it is called as its folder is.
    #[arg(long = "adapter", value_name = "[NAME=]DIR", help_heading = "Input")]
    pub adapters: Vec<NamedAdapter>,
    /// System message of the conversation [default: the template's own]
    #[arg(long, value_name = "TEXT", help_heading = "Input")]
    pub system: Option<String>,

    /// How the next token is chosen.
    #[command(flatten)]
    pub sampling: Sampling,
    /// The flags of every verb.
    #[command(flatten)]
    pub common: Common,
}

impl ChatArgs {
    fn validate(&self) -> Result<(), CliError> {
        for (index, adapter) in self.adapters.iter().enumerate() {
            if self.adapters[..index].iter().any(|earlier| earlier.name == adapter.name) {
                return Err(CliError::usage(format!("two adapters are called `{}`", adapter.name))
                    .hint(format!("name them: --adapter NAME={}", adapter.dir.display())));
            }
        }
        self.sampling.validate()?;
        self.common.validate()
    }
}

/// Holds a conversation.
pub fn run(args: ChatArgs) -> anyhow::Result<()> {
    args.validate()?;
    Err(not_wired("chat"))
}
