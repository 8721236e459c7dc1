//! `lorafit generate`: one prompt, one answer. Its sampling flags are shared with `chat`.

use std::io::{Read as _, Write as _};
use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::Context as _;
use clap::Args;
use lorafit_model::NotNumbers;
use lorafit_model::adapter::Adapter;

use lorafit_data::{Message, Role};
use serde_json::json;

use super::require;
use crate::base_args::{ComputeArgs, QuantArgs, TemplateArgs};
use crate::cli::Common;
use crate::config_file::Given;
use crate::engine::{Base, as_trained, open_adapters, open_base, use_threads};
use crate::idle::{self, Idle};
use crate::limits::Limits;
use crate::merge_inputs::AdapterArg;
use crate::output;
use crate::report_error::CliError;

/// How the next token is chosen; the same in `generate` and `chat`.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct Sampling {
    /// Longest answer
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_new_tokens: usize,
    /// 0 takes the likeliest token each time; 0.7 varies, above 1 gets wild
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub temperature: f64,
    /// Choose only among the likeliest tokens that together reach this probability; 1 is all
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub top_p: f64,
    /// Choose only among this many likeliest tokens; 0 is all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_k: usize,
    /// Where chance comes from: the same seed gives the same answer
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

impl Sampling {
    /// Refuses what makes no sense.
    pub fn validate(&self, given: &Given) -> Result<(), CliError> {
        require(self.max_new_tokens > 0, "max-new-tokens", self.max_new_tokens, "must be 1 or more")?;
        let temperature = self.temperature;
        require(
            temperature >= 0.0 && temperature.is_finite(),
            "temperature",
            temperature,
            "must be 0 or more",
        )?;
        require(self.top_p > 0.0 && self.top_p <= 1.0, "top-p", self.top_p, "must be above 0 and at most 1")?;
        let acts = temperature > 0.0 || (self.top_p == 1.0 && self.top_k == 0);
        match acts {
            true => idle::refuse(
                given,
                [Idle {
                    flag: "seed",
                    acts: temperature > 0.0,
                    why: "at --temperature 0, which takes the likeliest token",
                    hint: "give a temperature, --temperature 0.7 for example, or leave --seed out",
                }],
            ),
            false => Err(CliError::usage(
                "--top-p and --top-k have no meaning at --temperature 0, which takes the likeliest token",
            )
            .hint("give a temperature, --temperature 0.7 for example")),
        }
    }
}

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
    lorafit generate --model M --adapter runs/a --adapter runs/b:0.5 --chat --prompt \"Hello\"")]
pub struct GenerateArgs {
    /// The base model: a Hugging Face folder, a .gguf file, or a hub id (org/name or org/name@revision)
    #[arg(long, value_name = "M", help_heading = "Input and output")]
    pub model: String,
    /// Adapter to use (a PEFT folder, or a run folder of train), perhaps with a weight: A:0.7; repeated for several, whose
    /// updates are added [default: the base alone]
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
    /// Print one JSON object: text, token counts, why it stopped, tokens/s
    #[arg(long, help_heading = "Input and output")]
    pub json: bool,

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
    let base = open_base(&args.model, &args.base, &template, ComputeArgs::UNSET, &args.common)?;
    let adapter = open_adapters(&base, &adapters)?;
    let ids = match args.chat {
        true => {
            let system = args.system.iter().map(|text| Message::new(Role::System, text));
            let messages: Vec<Message> = system.chain([Message::new(Role::User, &prompt)]).collect();
            chat_prompt(&base, &messages)?
        }
        false => base.tokenizer.encode(&prompt, true)?,
    };
    if ids.is_empty() {
        return Err(CliError::usage("the prompt has no tokens").hint("give some text with --prompt").into());
    }
    let started = Instant::now();
    let mut out = std::io::stdout().lock();
    let mut text = String::new();
    let answer = stream_answer(&base, adapter.as_ref(), &ids, &args.sampling, &mut |piece| {
        text.push_str(piece);
        if !args.json {
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
        output::line("")?;
    }
    Ok(())
}

/// The token ids of a conversation with the template's prompt for a reply.
pub fn chat_prompt(base: &Base, messages: &[Message]) -> anyhow::Result<Vec<u32>> {
    let template = base.tokenizer.compile_chat_template()?.ok_or_else(|| {
        CliError::new("the model has no chat template")
            .hint("give one with --template, or leave out --chat and give the whole prompt as text")
    })?;
    let text = template.render(messages, true)?;
    // The template writes every special token itself.
    Ok(base.tokenizer.encode(&text, false)?)
}

/// Continues `ids`, handing each piece of text on as it comes; gives the number of new tokens.
pub fn stream_answer(
    base: &Base,
    adapter: Option<&Adapter>,
    ids: &[u32],
    sampling: &Sampling,
    piece: &mut dyn FnMut(&str) -> anyhow::Result<ControlFlow<()>>,
) -> anyhow::Result<usize> {
    let room = Limits::of(base).check_prompt(ids, sampling.max_new_tokens)?;
    let mut decoder = base.tokenizer.decode_stream(true);
    let mut failure = None;
    let mut hand_on = |text: anyhow::Result<String>| match text.and_then(|t| piece(&t)) {
        Ok(flow) => flow.is_continue(),
        Err(error) => {
            failure = Some(error);
            false
        }
    };
    let settings = lorafit_model::Sampling {
        temperature: sampling.temperature as f32,
        top_p: sampling.top_p as f32,
        top_k: sampling.top_k,
        seed: sampling.seed,
    };
    let (stop, longest) = (base.tokenizer.eos_ids(), room);
    let on_token = |_, token| hand_on(decoder.push(token).map_err(Into::into));
    let never = &mut || false;
    let answers =
        lorafit_model::generate(&base.model, adapter, &[ids], stop, longest, settings, on_token, never);
    hand_on(decoder.finish().map_err(Into::into));
    match (failure, answers) {
        (Some(error), _) => Err(error),
        (None, Err(NotNumbers { .. })) => Err(base.not_numbers()),
        (None, Ok(answers)) => {
            Limits::of(base).tell_end(answers[0].len(), room, sampling.max_new_tokens);
            Ok(answers[0].len())
        }
    }
}
