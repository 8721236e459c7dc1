//! `lorafit generate`: one prompt, one answer. Its sampling flags are shared with `chat`.

use std::io::{Read as _, Write as _};
use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::Context as _;
use clap::Args;

use lorafit_data::{Document, Message, Role, RowProblem};
use lorafit_model::adapter::Adapter;
use serde_json::{Value, json};

use crate::args::adapters::{AdapterArg, FactorArgs};
use crate::args::base::{ComputeArgs, QuantArgs, TemplateArgs};
use crate::args::common::Common;
use crate::args::config_file::Given;
use crate::args::flags;
use crate::args::idle::{self, Idle};
use crate::args::sampling::Sampling;
use crate::session::answer::{Scored, chat_prompt, stream_answer};
use crate::session::base::{Base, as_trained, open_adapters, open_base, use_threads};
use crate::session::limits::Limits;
use crate::session::scoring::Scoring;
use crate::session::tokens::Tokens;
use crate::terminal::error::CliError;
use crate::terminal::host;
use crate::terminal::output;

/// The flags of `generate`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
Examples:
  As a chat model answers:
    lorafit generate --model M --adapter runs/first --chat --prompt \"Wake me up at 06:45\"
  Plain continuation of a text:
    lorafit generate --model M --prompt \"Once upon a time\" --temperature 0.8 --top-p 0.95
  A long prompt from a file:
    lorafit generate --model M --chat --prompt - < letter.txt
  Two adapters at once, the second at half its strength:
    lorafit generate --model M --adapter runs/a --adapter runs/b:0.5 --chat --prompt \"Hello\"
  What a classifier says of a text, or a reward model: a label with its probability, or a number:
    lorafit generate --model M --adapter runs/topics --prompt \"The market fell\"")]
pub struct GenerateArgs {
    /// The base model: a Hugging Face folder, a .gguf file, or a hub id (org/name or org/name@revision)
    #[arg(long, value_name = "M", help_heading = "Input and output")]
    pub model: String,
    /// Adapter to use (a PEFT folder, or a run folder of train), optionally with a weight: A:0.7; repeat the flag to
    /// add up several adapters [default: the base alone]
    #[arg(long, value_name = "DIR[:WEIGHT]", help_heading = "Input and output")]
    pub adapter: Vec<String>,
    /// What to continue or, with --chat, to answer; - reads it from standard input
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Input and output")]
    pub prompt: String,
    /// Put the prompt into the model's chat template, as a user's message
    #[arg(long, help_heading = "Input and output")]
    pub chat: bool,
    /// System message before the prompt [default: the template's own]
    #[arg(long, value_name = "TEXT", requires = "chat", help_heading = "Input and output")]
    pub system: Option<String>,
    /// Print one JSON object: text, token counts, why it stopped, tokens/s; of a classifier label and probabilities, of a reward
    /// model the reward
    #[arg(long, help_heading = "Input and output")]
    pub json: bool,

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

impl GenerateArgs {
    fn prompt_text(&self) -> anyhow::Result<String> {
        if self.prompt != "-" {
            return Ok(self.prompt.clone());
        }
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read the prompt from standard input")?;
        // The newline that ends the last line of a file is seldom meant.
        Ok(text.strip_suffix('\n').map(str::to_owned).unwrap_or(text))
    }
}

impl GenerateArgs {
    /// The conversation that the prompt ends.
    fn messages(&self, prompt: &str) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new(Role::System, text));
        system.chain([Message::new(Role::User, prompt)]).collect()
    }

    /// Prints what a head that scores texts says of the prompt.
    fn score(
        &self,
        scoring: &Scoring,
        base: &Base,
        adapter: Option<&Adapter>,
        prompt: &str,
    ) -> anyhow::Result<()> {
        let document = match self.chat {
            true => Document::Chat(self.messages(prompt).into()),
            false => Document::Text(prompt.to_owned()),
        };
        let scored = Scored::of(base, adapter, scoring, &document).map_err(|error| {
            let Some(problem) = error.downcast_ref::<RowProblem>() else { return error };
            let text = CliError::usage(format!("--prompt: {problem}"));
            match problem.hint() {
                Some(hint) => text.hint(hint).into(),
                None => text.into(),
            }
        })?;
        let found = scored.to_json(scoring);
        let line = match scoring {
            Scoring::Reward => scored.scores[0].to_string(),
            Scoring::Classes(_) => {
                let (label, share) = (found["label"].as_str(), found["probability"].as_f64());
                format!("{} {:.4}", label.unwrap_or_default(), share.unwrap_or_default())
            }
        };
        output::line(if self.json { Value::Object(found).to_string() } else { line })?;
        Ok(())
    }
}

/// Answers one prompt.
pub fn run(args: GenerateArgs, given: &Given) -> anyhow::Result<()> {
    args.sampling.validate(given)?;
    let hint = "add --chat, or leave --template out";
    idle::refuse(given, [Idle { flag: "template", acts: args.chat, why: "without --chat", hint }])?;
    args.base.resolve()?;
    args.common.validate()?;
    let prompt = args.prompt_text()?;
    use_threads(&args.common)?;
    let adapters = AdapterArg::all(&args.adapter)?;
    let runs = adapters.iter().map(|adapter| adapter.dir.as_path()).filter(|_| args.chat);
    let template = as_trained(&args.template, &args.base, runs, args.common.quiet);
    let tokens = Tokens::of_adapters(adapters.iter().map(|adapter| adapter.dir.as_path()));
    let base = open_base(&args.model, &tokens, &args.base, &template, ComputeArgs::UNSET, &args.common)?;
    let adapter = open_adapters(&base, &adapters, args.factors)?;
    if let Some(scoring) = &base.scoring {
        let sampling = flags::names::<Sampling>();
        let sampling: Vec<&str> = sampling.iter().map(String::as_str).collect();
        let hint = "leave it out: such a model writes no answer";
        idle::refuse(given, idle::together(&sampling, false, "with a model that scores texts", hint))?;
        return args.score(scoring, &base, adapter.as_ref(), &prompt);
    }
    let ids = match args.chat {
        true => chat_prompt(&base, &args.messages(&prompt))?,
        false => base.tokenizer.encode(&prompt, true)?,
    };
    if ids.is_empty() {
        return Err(CliError::usage("the prompt has no tokens").hint("give some text with --prompt").into());
    }
    let started = Instant::now();
    // Whoever embeds the library is given the answer as a whole.
    let is_streamed = !args.json && host::host().is_none();
    let mut out = std::io::stdout().lock();
    let mut text = String::new();
    let answer = stream_answer(&base, adapter.as_ref(), &ids, &args.sampling, &mut |piece| {
        text.push_str(piece);
        if is_streamed {
            out.write_all(piece.as_bytes())?;
            out.flush()?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    drop(out);
    if args.json {
        let seconds = started.elapsed().as_secs_f64();
        let result = json!({
            "text": text,
            "prompt_tokens": ids.len(),
            "new_tokens": answer,
            "stopped": if answer == Limits::of(&base).check_prompt(&ids, args.sampling.max_new_tokens)? { "length" } else { "end" },
            "tokens_per_s": answer as f64 / seconds,
        });
        output::line(result.to_string())?;
    } else {
        output::line(if is_streamed { "" } else { &text })?;
    }
    Ok(())
}
