//! `lorafit eval`: how good a model, or a model with an adapter, is on rows it was not trained on.

use std::path::{Path, PathBuf};

use clap::Args;
use lorafit_data::words::{counted, grouped};
use lorafit_model::Model;
use lorafit_model::adapter::Adapter;

use lorafit_train::{ExactMatch, TokenScores, peak_device_bytes, peak_rss_bytes, token_scores};
use serde_json::json;

use crate::args::adapters::AdapterArg;
use crate::args::base::{ComputeArgs, QuantArgs, TemplateArgs};
use crate::args::cache::CacheArgs;
use crate::args::common::Common;
use crate::args::config_file::Given;
use crate::args::idle;
use crate::args::outputs::{self, Inputs, Kind, Output};
use crate::args::require;
use crate::args::rows::{RowArgs, data_help};
use crate::args::size::ByteSize;
use crate::session::base::{as_trained, open_adapters, open_base, use_threads};
use crate::session::evaluation::{Judging, Measured, measure};
use crate::terminal::error::CliError;
use crate::terminal::output;

const EXAMPLES: &str = "\
Examples:
  Was training worth it? The same rows with and without the adapter:
    lorafit eval --model M --data test.jsonl --generate
    lorafit eval --model M --adapter runs/first --data test.jsonl --generate
  For a script, with every answer kept:
    lorafit eval --model M --data test.jsonl --generate --json --predictions answers.jsonl

loss is the mean negative log likelihood of a supervised token, in nats; perplexity is its exponential: 1 is
certainty, the number of words in the vocabulary a blind guess. exact_match is the share of rows whose greedy
answer is the reply to the letter, blanks around it aside.";

/// The flags of `eval`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = format!("{EXAMPLES}\n\n{}", data_help()))]
pub struct EvalArgs {
    /// The base model: a Hugging Face folder, a .gguf file, or a hub id (org/name or org/name@revision)
    #[arg(long, value_name = "M", help_heading = "Input and output")]
    pub model: String,
    /// Adapter to evaluate (a PEFT folder, or a run folder of train), optionally with a weight: A:0.7; repeat the
    /// flag to add up several adapters [default: the base alone]
    #[arg(long, value_name = "DIR[:WEIGHT]", help_heading = "Input and output")]
    pub adapter: Vec<String>,
    /// Rows to evaluate on, described below; repeat the flag for several sources
    #[arg(long, value_name = "DATA", required = true, help_heading = "Input and output")]
    pub data: Vec<String>,
    /// Print the result as one JSON object
    #[arg(long, help_heading = "Input and output")]
    pub json: bool,

    /// Also answer each row's last prompt and count the answers that equal the reply
    #[arg(long, help_heading = "Answers")]
    pub generate: bool,
    /// Maximum number of tokens in an answer; an answer that is cut off does not match
    #[arg(long, value_name = "N", default_value_t = 256, help_heading = "Answers")]
    pub max_new_tokens: usize,
    /// Write one JSON object a row with prompt, expected, answer and exact
    #[arg(long, value_name = "FILE", requires = "generate", help_heading = "Answers")]
    pub predictions: Option<PathBuf>,

    /// Write one JSON object a row with input_ids, next_token_nll and last_logits_top8, to hold against another program
    #[arg(long, value_name = "FILE", help_heading = "Answers")]
    pub scores: Option<PathBuf>,

    /// Which rows are read, and how.
    #[command(flatten)]
    pub rows: RowArgs,
    /// Where tokenised data is kept.
    #[command(flatten)]
    pub cache: CacheArgs,

    /// Tokens computed at once; the main setting for memory
    #[arg(long, value_name = "TOKENS", default_value_t = 512, help_heading = "Machine")]
    pub micro_batch_tokens: usize,
    /// Memory the evaluation may take, such as 6GiB or 800MB [default: 90 % of what is free now]
    ///
    /// Answers are computed 16 side by side, or as many as fit.
    #[arg(long, value_name = "SIZE", help_heading = "Machine")]
    pub memory: Option<ByteSize>,
    /// How the base is held in memory.
    #[command(flatten)]
    pub base: QuantArgs,
    /// How the base is multiplied.
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// How conversations are written.
    #[command(flatten)]
    pub template: TemplateArgs,
    /// The flags of every verb.
    #[command(flatten)]
    pub common: Common,
}

impl EvalArgs {
    fn validate(&self) -> Result<(), CliError> {
        require(self.max_new_tokens > 0, "max-new-tokens", self.max_new_tokens, "must be 1 or more")?;
        self.rows.validate()?;
        self.cache.validate()?;
        require(
            self.micro_batch_tokens > 0,
            "micro-batch-tokens",
            self.micro_batch_tokens,
            "must be 1 or more",
        )?;
        self.base.resolve()?;
        self.common.validate()
    }

    fn judging(&self) -> Judging<'_> {
        let Self { generate, max_new_tokens, micro_batch_tokens, memory, .. } = *self;
        let (data, rows, cache, quiet) = (&self.data, &self.rows, &self.cache, self.common.quiet);
        Judging { data, rows, cache, generate, max_new_tokens, micro_batch_tokens, memory, quiet }
    }

    fn check_outputs(&self, adapters: &[AdapterArg]) -> Result<(), CliError> {
        let inputs = Inputs::default()
            .model("--model", &self.model)
            .paths("--adapter", adapters.iter().map(|adapter| &adapter.dir))
            .paths("--template", &self.template.template)
            .data("--data", &self.data, self.rows.split.as_deref());
        let predictions = Kind::Rows(&["prompt", "expected", "answer", "exact"]);
        let scores = Kind::Rows(&["input_ids", "next_token_nll"]);
        let asked = [
            Output::asked("--predictions", self.predictions.as_ref(), predictions),
            Output::asked("--scores", self.scores.as_ref(), scores),
            self.cache.output(),
        ];
        outputs::check(&inputs, asked.into_iter().flatten())
    }
}

/// Judges a model on held-out rows.
pub fn run(args: EvalArgs, given: &Given) -> anyhow::Result<()> {
    args.validate()?;
    idle::refuse(given, idle::without_generate(args.generate))?;
    let adapters = AdapterArg::all(&args.adapter)?;
    args.check_outputs(&adapters)?;
    use_threads(&args.common)?;
    let template = as_trained(
        &args.template,
        &args.base,
        adapters.iter().map(|adapter| adapter.dir.as_path()),
        args.common.quiet,
    );
    let base = open_base(&args.model, &args.base, &template, args.compute, &args.common)?;
    let adapter = open_adapters(&base, &adapters)?;
    let Measured { data, evaluation: found, answers, planned_bytes } =
        measure(&args.judging(), &base, adapter.as_ref())?;
    if let (Some(path), Some(answers)) = (&args.predictions, &answers) {
        write_predictions(path, answers)?;
    }
    if let Some(path) = &args.scores {
        let ids = data.samples.iter().map(|sample| sample.ids);
        write_scores(path, &base.model, adapter.as_ref(), ids)?;
    }
    if args.json {
        let mut result = json!({
            "rows": data.samples.len(),
            "supervised_tokens": found.supervised_tokens,
            "loss": found.loss,
            "perplexity": found.perplexity,
            "planned_bytes": planned_bytes,
            "peak_rss_bytes": peak_rss_bytes(),
        });
        if let Some(bytes) = peak_device_bytes(base.model.device()) {
            result["peak_device_bytes"] = json!(bytes);
        }
        if let Some(answers) = &answers {
            result["exact_match"] = json!(answers.share());
        }
        output::line(result.to_string())?;
    } else {
        output::line(format!("rows          {}", grouped(data.samples.len() as u64)))?;
        output::line(format!(
            "loss          {:.4} over {}",
            found.loss,
            counted(found.supervised_tokens as usize, "token", "tokens")
        ))?;
        output::line(format!("perplexity    {:.3}", found.perplexity))?;
        if let Some(answers) = &answers {
            let right = answers.examples.iter().filter(|e| e.matches()).count();
            let share = 100.0 * answers.share();
            output::line(format!("exact match   {share:.1} % ({right} of {})", answers.examples.len()))?;
        }
    }
    Ok(())
}

/// Writes what the model says of every row's tokens.
fn write_scores<'a>(
    path: &Path,
    model: &Model,
    adapter: Option<&Adapter>,
    rows: impl Iterator<Item = &'a [u32]>,
) -> anyhow::Result<()> {
    const TOP: usize = 8;
    let mut text = String::new();
    for ids in rows {
        let TokenScores { next_token_nll, top_logits } = token_scores(model, adapter, ids, TOP);
        let (top, values): (Vec<u32>, Vec<f32>) = top_logits.into_iter().unzip();
        let row = json!({
            "input_ids": ids,
            "next_token_nll": next_token_nll,
            "last_logits_top8": {"ids": top, "values": values},
        });
        text += &format!("{row}\n");
    }
    output::file(path, text.as_bytes())
}

fn write_predictions(path: &Path, answers: &ExactMatch) -> anyhow::Result<()> {
    let line = |e: &lorafit_train::Example| {
        let row =
            json!({"prompt": e.prompt, "expected": e.expected, "answer": e.found, "exact": e.matches()});
        format!("{row}\n")
    };
    let text: String = answers.examples.iter().map(line).collect();
    output::file(path, text.as_bytes())
}
