//! `lorafit chat`: a conversation in the terminal, or with lines from a pipe.

mod repl;

use std::ops::ControlFlow;

use clap::Args;

use lorafit_data::{Message, Role};
use lorafit_model::adapter::Adapter;

use self::repl::{ChatEngine, Part, Repl, Turn};
use crate::args::adapters::NamedAdapter;
use crate::args::base::{ComputeArgs, QuantArgs, TemplateArgs};
use crate::args::common::Common;
use crate::args::config_file::Given;
use crate::args::sampling::Sampling;
use crate::session::answer::{chat_prompt, stream_answer};
use crate::session::base::{Base, as_trained, open_adapter, open_base, use_threads};
use crate::session::merge_inputs::sum;
use crate::session::tokens::Tokens;
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
    /// How conversations are written.
    #[command(flatten)]
    pub template: TemplateArgs,
    /// The flags of every verb.
    #[command(flatten)]
    pub common: Common,
}

impl ChatArgs {
    fn validate(&self, given: &Given) -> Result<(), CliError> {
        NamedAdapter::check_names(&self.adapters)?;
        self.sampling.validate(given)?;
        self.base.resolve()?;
        self.common.validate()
    }
}

/// Holds a conversation.
pub fn run(args: ChatArgs, given: &Given) -> anyhow::Result<()> {
    args.validate(given)?;
    use_threads(&args.common)?;
    let runs = args.adapters.iter().map(|adapter| adapter.adapter.dir.as_path());
    let template = as_trained(&args.template, &args.base, runs, args.common.quiet);
    let tokens = Tokens::of_adapters(args.adapters.iter().map(|adapter| adapter.adapter.dir.as_path()));
    let base = open_base(&args.model, &tokens, &args.base, &template, ComputeArgs::UNSET, &args.common)?;
    base.check_writes("no conversation")?;
    let open = |a: &NamedAdapter| {
        let adapter = open_adapter(&base, &a.adapter.dir)?;
        Ok(AtHand { name: a.name.clone(), weight: a.adapter.weight, adapter })
    };
    let adapters: Vec<AtHand> = args.adapters.iter().map(open).collect::<anyhow::Result<_>>()?;
    let first: Vec<Part> = adapters.iter().take(1).map(|first| Part::whole(&first.name)).collect();
    let greeting = format!("{} - /help shows what you can do", base.name);
    let mut engine = Engine { in_use: InUse::None, base, adapters, sampling: args.sampling };
    engine.use_adapters(&first)?;
    Repl::new(engine, first, args.system, interrupt::flag()).run(Some(&greeting))
}

/// An adapter that can be used.
struct AtHand {
    name: String,
    /// Of its flag.
    weight: f64,
    adapter: Adapter,
}

/// What answers beside the base.
enum InUse {
    /// Nothing.
    None,
    /// One of those at hand, as it is.
    One(usize),
    /// A sum of some, or one with a weight.
    Sum(Box<Adapter>),
}

/// One base in memory, with all adapters at hand.
struct Engine {
    base: Base,
    adapters: Vec<AtHand>,
    in_use: InUse,
    sampling: Sampling,
}

impl ChatEngine for Engine {
    fn adapters(&self) -> Vec<String> {
        self.adapters.iter().map(|adapter| adapter.name.clone()).collect()
    }

    fn use_adapters(&mut self, parts: &[Part]) -> anyhow::Result<()> {
        let mut used = Vec::with_capacity(parts.len());
        for Part { name, weight } in parts {
            let found = self.adapters.iter().position(|adapter| adapter.name == *name);
            let found =
                found.ok_or_else(|| CliError::new(format!("there is no adapter `{name}` at hand")))?;
            used.push((found, weight * self.adapters[found].weight));
        }
        self.in_use = match used[..] {
            [] => InUse::None,
            [(one, 1.0)] => InUse::One(one),
            _ => {
                let weighted = |&(at, weight): &(usize, f64)| (&self.adapters[at].adapter, weight);
                let weighted: Vec<_> = used.iter().map(weighted).collect();
                InUse::Sum(Box::new(sum(self.base.model.config(), &weighted)?))
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
        let adapter = match &self.in_use {
            InUse::None => None,
            InUse::One(at) => Some(&self.adapters[*at].adapter),
            InUse::Sum(adapter) => Some(&**adapter),
        };
        let mut text = String::new();
        stream_answer(&self.base, adapter, &ids, &self.sampling, &mut |new| {
            text.push_str(new);
            Ok(piece(new))
        })?;
        Ok(text)
    }
}
