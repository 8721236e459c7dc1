//! `lorafit chat`: a conversation in the terminal, or with lines from a pipe.

use std::ops::ControlFlow;

use clap::Args;

use lorafit_data::{Message, Role};
use lorafit_model::adapter::Adapter;

use super::generate::{Sampling, chat_prompt, stream_answer};
use crate::base_args::{ComputeArgs, QuantArgs, TemplateArgs};
use crate::chat_repl::{ChatEngine, Repl, Turn};
use crate::cli::Common;
use crate::config_file::Given;
use crate::engine::{Base, as_trained, open_adapter, open_base, use_threads};
use crate::interrupt;
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
    /// How the base is held in memory.
    #[command(flatten)]
    pub base: QuantArgs,
    /// How conversations are written.
    #[command(flatten)]
    pub template: TemplateArgs,
    /// The flags of every verb.
    #[command(flatten)]
    pub common: Common,
}

impl ChatArgs {
    fn validate(&self, given: &Given) -> Result<(), CliError> {
        for (index, adapter) in self.adapters.iter().enumerate() {
            if self.adapters[..index].iter().any(|earlier| earlier.name == adapter.name) {
                return Err(CliError::usage(format!("two adapters are called `{}`", adapter.name))
                    .hint(format!("name them: --adapter NAME={}", adapter.dir.display())));
            }
        }
        self.sampling.validate(given)?;
        self.base.resolve()?;
        self.common.validate()
    }
}

/// Holds a conversation.
pub fn run(args: ChatArgs, given: &Given) -> anyhow::Result<()> {
    args.validate(given)?;
    use_threads(&args.common)?;
    let runs = args.adapters.iter().map(|adapter| adapter.dir.as_path());
    let template = as_trained(&args.template, &args.base, runs, args.common.quiet);
    let base = open_base(&args.model, &args.base, &template, ComputeArgs::UNSET, &args.common)?;
    let open = |a: &NamedAdapter| Ok((a.name.clone(), open_adapter(&base, &a.dir)?));
    let adapters: Vec<(String, Adapter)> = args.adapters.iter().map(open).collect::<anyhow::Result<_>>()?;
    let first = adapters.first().map(|(name, _)| name.clone());
    let greeting = format!("{} - /help tells what you can do", base.name);
    let engine = Engine { in_use: first.as_ref().map(|_| 0), base, adapters, sampling: args.sampling };
    Repl::new(engine, first, args.system, interrupt::flag()).run(Some(&greeting))
}

/// One base in memory, with all adapters at hand.
struct Engine {
    base: Base,
    adapters: Vec<(String, Adapter)>,
    in_use: Option<usize>,
    sampling: Sampling,
}

impl ChatEngine for Engine {
    fn adapters(&self) -> Vec<String> {
        self.adapters.iter().map(|(name, _)| name.clone()).collect()
    }

    fn use_adapter(&mut self, name: Option<&str>) -> anyhow::Result<()> {
        self.in_use = match name {
            None => None,
            Some(name) => {
                let found = self.adapters.iter().position(|(n, _)| n == name);
                Some(found.ok_or_else(|| CliError::new(format!("there is no adapter `{name}` at hand")))?)
            }
        };
        Ok(())
    }

    fn reply(
        &mut self,
        conversation: &[Turn],
        piece: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> anyhow::Result<String> {
        let message = |turn: &Turn| {
            let role = match turn.role {
                "system" => Role::System,
                "assistant" => Role::Assistant,
                _ => Role::User,
            };
            Message::new(role, &turn.content)
        };
        let messages: Vec<Message> = conversation.iter().map(message).collect();
        let ids = chat_prompt(&self.base, &messages)?;
        let adapter = self.in_use.map(|i| &self.adapters[i].1);
        let mut text = String::new();
        stream_answer(&self.base, adapter, &ids, &self.sampling, &mut |new| {
            text.push_str(new);
            Ok(piece(new))
        })?;
        Ok(text)
    }
}
