//! `lorafit chat`: a conversation in the terminal, or with lines from a pipe.

mod repl;

use std::ops::ControlFlow;

use clap::Args;

use lorafit_data::{Message, Role};

use self::repl::{ChatEngine, Part, Repl, Turn};
use crate::args::adapters::{FactorArgs, NamedAdapter};
use crate::args::base::{QuantArgs, TemplateArgs};
use crate::args::common::Common;
use crate::args::config_file::Given;
use crate::args::sampling::Sampling;
use crate::session::answer::{chat_prompt, stream_answer};
use crate::session::at_hand::{AtHand, InUse};
use crate::session::base::use_threads;
use crate::terminal::error::CliError;
use crate::terminal::interrupt;

/// The flags of `chat`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
Examples:
  lorafit chat --model M --adapter runs/first
  Two adapters over one base; /adapter pirate and /adapter none switch at once:
    lorafit chat --model M --adapter butler=runs/butler --adapter pirate=runs/pirate
  From a script, one message a line:
    printf 'Hello\\n/adapter none\\nHello\\n' | lorafit chat --model M --adapter runs/first

  Both at once, the second at half its strength, is /adapter butler pirate:0.5 in the conversation.

In the conversation: /adapter NAME, /adapter none, /adapters, /reset, /system TEXT, /help, /quit. Ctrl-C stops an
answer, Ctrl-D ends the conversation.")]
pub struct ChatArgs {
    /// The base model: a Hugging Face folder, a .gguf file, or a hub id (org/name or org/name@revision)
    #[arg(long, value_name = "M", help_heading = "Input")]
    pub model: String,
    /// Adapter to load; repeat the flag for several: the first is used at the start, /adapter switches to another
    ///
    /// Without NAME the adapter has the name of its folder. A weight (DIR:0.7) makes it weaker or stronger wherever it is used.
    #[arg(long = "adapter", value_name = "[NAME=]DIR[:WEIGHT]", help_heading = "Input")]
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
    /// How the factors of adapters are held in memory.
    #[command(flatten)]
    pub factors: FactorArgs,
    /// How conversations are written.
    #[command(flatten)]
    pub template: TemplateArgs,
    /// The flags of every verb.
    #[command(flatten)]
    pub common: Common,
}

impl ChatArgs {
    /// Opens the base with all adapters.
    ///
    /// # Errors
    /// As [`AtHand::open`].
    pub fn open(&self) -> anyhow::Result<AtHand> {
        use_threads(&self.common)?;
        AtHand::open(&self.model, (&self.adapters, self.factors), &self.base, &self.template, &self.common)
    }

    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// As it says.
    pub fn validate(&self, given: &Given) -> Result<(), CliError> {
        NamedAdapter::check_names(&self.adapters)?;
        self.sampling.validate(given)?;
        self.base.resolve()?;
        self.common.validate()
    }
}

/// Holds a conversation.
pub fn run(args: ChatArgs, given: &Given) -> anyhow::Result<()> {
    args.validate(given)?;
    let at_hand = args.open()?;
    at_hand.base.check_writes("no conversation")?;
    let first: Vec<Part> = at_hand.names().iter().take(1).map(|first| Part::whole(first)).collect();
    let greeting = format!("{} - /help shows what you can do", at_hand.base.name);
    let mut engine = Engine { in_use: InUse::None, at_hand, sampling: args.sampling };
    engine.use_adapters(&first)?;
    Repl::new(engine, first, args.system, interrupt::flag()).run(Some(&greeting))
}

/// One base in memory, with all adapters at hand.
struct Engine {
    at_hand: AtHand,
    in_use: InUse,
    sampling: Sampling,
}

impl ChatEngine for Engine {
    fn adapters(&self) -> Vec<String> {
        self.at_hand.names()
    }

    fn use_adapters(&mut self, parts: &[Part]) -> anyhow::Result<()> {
        self.in_use = self.at_hand.choose(parts.iter().map(|part| (&part.name[..], part.weight)))?;
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
        let ids = chat_prompt(&self.at_hand.base, &messages)?;
        let adapter = self.at_hand.adapter(&self.in_use);
        let mut text = String::new();
        stream_answer(&self.at_hand.base, adapter, &ids, &self.sampling, &mut |new| {
            text.push_str(new);
            Ok(piece(new))
        })?;
        Ok(text)
    }
}
