//! `lorafit eval`: how good a model, or a model with an adapter, is on rows it was not trained on.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use lorafit_model::adapter::Adapter;

use lorafit_data::{Dataset, Source, generation_rows};
use lorafit_train::{ExactMatch, evaluate, exact_match};
use serde_json::json;

use super::require;
use crate::base_args::{QuantArgs, TemplateArgs};
use crate::cli::Common;
use crate::engine::{Base, grouped, open_base, open_optional_adapter, use_threads};
use crate::output;
use crate::report_error::CliError;
use crate::row_args::{DATA_HELP, RowArgs, skipped};

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
#[command(after_long_help = format!("{EXAMPLES}\n\n{DATA_HELP}"))]
pub struct EvalArgs {
    /// The base model: a Hugging Face folder, a .gguf file, or a hub id (org/name or org/name@revision)
    #[arg(long, value_name = "M", help_heading = "Input and output")]
    pub model: String,
    /// Adapter to judge (a PEFT folder, or a run folder of train) [default: the base alone]
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    pub adapter: Option<PathBuf>,
    /// Rows to judge on, described below; repeated for several sources
    #[arg(long, value_name = "DATA", required = true, help_heading = "Input and output")]
    pub data: Vec<String>,
    /// Print the result as one JSON object
    #[arg(long, help_heading = "Input and output")]
    pub json: bool,

    /// Also answer each row's last prompt and count the answers that equal the reply
    #[arg(long, help_heading = "Answers")]
    pub generate: bool,
    /// Longest answer; an answer that is cut off here does not match
    #[arg(long, value_name = "N", default_value_t = 256, help_heading = "Answers")]
    pub max_new_tokens: usize,
    /// Write one JSON object a row with prompt, expected, answer and exact
    #[arg(long, value_name = "FILE", requires = "generate", help_heading = "Answers")]
    pub predictions: Option<PathBuf>,

    /// Which rows are read, and how.
    #[command(flatten)]
    pub rows: RowArgs,

    /// Tokens computed at once; the knob for memory
    #[arg(long, value_name = "TOKENS", default_value_t = 512, help_heading = "Machine")]
    pub micro_batch_tokens: usize,
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

impl EvalArgs {
    fn validate(&self) -> Result<(), CliError> {
        require(self.max_new_tokens > 0, "max-new-tokens", self.max_new_tokens, "must be 1 or more")?;
        self.rows.validate()?;
        require(
            self.micro_batch_tokens > 0,
            "micro-batch-tokens",
            self.micro_batch_tokens,
            "must be 1 or more",
        )?;
        self.base.resolve()?;
        self.common.validate()
    }
}

/// Judges a model on held-out rows.
pub fn run(args: EvalArgs) -> anyhow::Result<()> {
    args.validate()?;
    use_threads(&args.common)?;
    let base = open_base(&args.model, &args.base, &args.template, &args.common)?;
    let adapter = open_optional_adapter(&base, args.adapter.as_ref())?;
    let source = args.rows.source(&args.data, args.rows.split.as_deref(), args.common.quiet)?;
    let data = Dataset::load(source.clone(), &base.tokenizer, args.rows.options())?;
    if !args.common.quiet {
        skipped(&data.origin).iter().for_each(|line| eprintln!("{line}"));
    }
    let found = evaluate(&base.model, adapter.as_ref(), &data.samples, args.micro_batch_tokens);

    let answers = match args.generate {
        true => Some(answer(&args, source, &base, adapter.as_ref())?),
        false => None,
    };
    if let (Some(path), Some(answers)) = (&args.predictions, &answers) {
        write_predictions(path, answers)?;
    }
    if args.json {
        let mut result = json!({
            "rows": data.samples.len(),
            "supervised_tokens": found.supervised_tokens,
            "loss": found.loss,
            "perplexity": found.perplexity,
        });
        if let Some(answers) = &answers {
            result["exact_match"] = json!(answers.share());
        }
        output::line(result.to_string())?;
    } else {
        output::line(format!("rows          {}", grouped(data.samples.len() as u64)))?;
        output::line(format!(
            "loss          {:.4} over {} tokens",
            found.loss,
            grouped(found.supervised_tokens)
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

/// Answers every row's last prompt.
fn answer(
    args: &EvalArgs,
    source: Source,
    base: &Base,
    adapter: Option<&Adapter>,
) -> anyhow::Result<ExactMatch> {
    let rows = generation_rows(source, &base.tokenizer)?;
    let told = !args.common.quiet;
    let total = rows.len();
    let (model, tokenizer) = (&base.model, &base.tokenizer);
    Ok(exact_match(model, adapter, tokenizer, &rows, args.max_new_tokens, |done| {
        if told {
            eprintln!("answered {done} of {total} rows");
        }
    })?)
}

fn write_predictions(path: &Path, answers: &ExactMatch) -> anyhow::Result<()> {
    let line = |e: &lorafit_train::Example| {
        let row =
            json!({"prompt": e.prompt, "expected": e.expected, "answer": e.found, "exact": e.matches()});
        format!("{row}\n")
    };
    let text: String = answers.examples.iter().map(line).collect();
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
