//! `lorafit eval`: how good a model, or a model with an adapter, is on rows it was not trained on.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use clap::Args;
use lorafit_model::Model;
use lorafit_model::adapter::Adapter;

use lorafit_data::{Dataset, GenerationRow, generation_rows};
use lorafit_train::{
    Answering, Evaluation, EvaluationRequest, ExactMatch, MemoryPlan, MicroBatchSize, SIDE_BY_SIDE,
    TokenScores, evaluate, exact_match, peak_device_bytes, peak_rss_bytes, token_scores,
};
use serde_json::json;

use super::require;
use crate::base_args::{ComputeArgs, QuantArgs, TemplateArgs};
use crate::cli::Common;
use crate::config_file::Given;
use crate::data_args::CacheArgs;
use crate::engine::{Base, as_trained, counted, grouped, open_adapters, open_base, reserve, use_threads};
use crate::idle::{self, Idle};
use crate::limits::Limits;
use crate::memory_args::{ByteSize, memory_limit};
use crate::memory_table;
use crate::merge_inputs::AdapterArg;
use crate::output;
use crate::outputs::{self, Inputs, Kind, Output};
use crate::report_error::CliError;
use crate::row_args::{RowArgs, data_help, skipped, treated};

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
    /// Adapter to judge (a PEFT folder, or a run folder of train), perhaps with a weight: A:0.7; repeated for several, whose
    /// updates are added [default: the base alone]
    #[arg(long, value_name = "DIR[:WEIGHT]", help_heading = "Input and output")]
    pub adapter: Vec<String>,
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

    /// Write one JSON object a row with input_ids, next_token_nll and last_logits_top8, to hold against another program
    #[arg(long, value_name = "FILE", help_heading = "Answers")]
    pub scores: Option<PathBuf>,

    /// Which rows are read, and how.
    #[command(flatten)]
    pub rows: RowArgs,
    /// Where tokenised data is kept.
    #[command(flatten)]
    pub cache: CacheArgs,

    /// Tokens computed at once; the knob for memory
    #[arg(long, value_name = "TOKENS", default_value_t = 512, help_heading = "Machine")]
    pub micro_batch_tokens: usize,
    /// Memory the evaluation may take, such as 6GiB or 800MB [default: what is free now, less a tenth]
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

/// Flags of answers, where none are asked for.
pub fn idle_without_generate(generate: bool) -> [Idle<'static>; 1] {
    let hint = "add --generate, or leave --max-new-tokens out";
    [Idle { flag: "max-new-tokens", acts: generate, why: "without --generate", hint }]
}

/// Judges a model on held-out rows.
pub fn run(args: EvalArgs, given: &Given) -> anyhow::Result<()> {
    args.validate()?;
    idle::refuse(given, idle_without_generate(args.generate))?;
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
        measure(&args, &base, adapter.as_ref())?;
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

/// What a model was found to be like.
pub struct Measured {
    /// The rows.
    pub data: Dataset,
    /// Loss over them.
    pub evaluation: Evaluation,
    /// Answers, if they were asked for.
    pub answers: Option<ExactMatch>,
    /// The memory that was planned for both.
    pub planned_bytes: u64,
}

/// Judges `base` with `adapter` on the rows of `args`.
pub fn measure(args: &EvalArgs, base: &Base, adapter: Option<&Adapter>) -> anyhow::Result<Measured> {
    let source = args.rows.source("split", &args.data, args.rows.split.as_deref(), args.common.quiet)?;
    let (limits, quiet) = (Limits::of(base), args.common.quiet);
    let data = args.cache.load(source.clone(), &base.tokenizer, limits.options(&args.rows), quiet)?;
    if !quiet {
        skipped(&data.origin).iter().chain(&treated(&data)).for_each(|line| eprintln!("{line}"));
    }
    let mut prompts = match args.generate {
        true => generation_rows(source, &base.tokenizer)?,
        false => Vec::new(),
    };
    limits.check_rows(&data)?;
    limits.check_prompts(&mut prompts, args.rows.skip_bad_rows)?;
    let (side_by_side, plan) = fit_memory(args, base, adapter, &data, &prompts)?;
    reserve(base.model.device(), &plan)?;
    let evaluation = evaluate(&base.model, adapter, &data.samples, args.micro_batch_tokens);
    if !evaluation.loss.is_finite() && evaluation.supervised_tokens > 0 {
        return Err(base.not_numbers());
    }
    let answers = match args.generate {
        true => Some(answer(args, base, adapter, &prompts, side_by_side)?),
        false => None,
    };
    Ok(Measured { data, evaluation, answers, planned_bytes: plan.total() })
}

/// Plans the evaluation, tells it, and gives how many answers may be computed side by side.
///
/// # Errors
/// An evaluation that does not fit.
fn fit_memory(
    args: &EvalArgs,
    base: &Base,
    adapter: Option<&Adapter>,
    data: &Dataset,
    prompts: &[GenerationRow],
) -> anyhow::Result<(usize, MemoryPlan)> {
    let prompts: Vec<usize> = prompts.iter().map(|row| row.prompt_ids.len()).collect();
    let MicroBatchSize { tokens, .. } = MicroBatchSize::of_evaluation(&data.samples, args.micro_batch_tokens);
    let request = EvaluationRequest {
        config: base.model.config(),
        weights: base.weight_bytes,
        lora: adapter.map(Adapter::config),
        tokens,
        prompts: &prompts,
        max_new_tokens: args.max_new_tokens,
        threads: rayon::current_num_threads(),
        placement: base.model.device().placement(),
    };
    let limit = memory_limit(args.memory, base.model.device()).unwrap_or(u64::MAX);
    let Some((side_by_side, plan)) = request.fit(limit)? else {
        let least = request.plan(1)?;
        let text = format!(
            "evaluation needs {} but may take {}\n  {}",
            ByteSize(least.total()),
            ByteSize(limit),
            memory_table::in_one_line(&least)
        );
        return Err(CliError::new(text)
            .hint("lower --micro-batch-tokens or --max-new-tokens, or use --quant nf4 --double-quant")
            .into());
    };
    if !args.common.quiet {
        let of_answers = match (prompts.len(), side_by_side) {
            (0, _) => "losses only".to_owned(),
            (1, _) => "one answer".to_owned(),
            (all, most) if most == all.min(SIDE_BY_SIDE) => format!("{most} answers side by side"),
            (_, 1) => "one answer after the other, as more do not fit side by side".to_owned(),
            (_, fewer) => format!("{fewer} answers side by side, as more do not fit"),
        };
        eprintln!("{}", memory_table::of_run(&of_answers, &plan, std::io::stderr().is_terminal()));
    }
    Ok((side_by_side, plan))
}

/// Answers every prompt.
fn answer(
    args: &EvalArgs,
    base: &Base,
    adapter: Option<&Adapter>,
    rows: &[GenerationRow],
    side_by_side: usize,
) -> anyhow::Result<ExactMatch> {
    let told = !args.common.quiet;
    let total = rows.len();
    let (model, tokenizer) = (&base.model, &base.tokenizer);
    let on_progress = |done| {
        if told {
            eprintln!("answered {done} of {}", counted(total, "row", "rows"));
        }
    };
    let max_new_tokens = args.max_new_tokens;
    let answering = Answering { model, adapter, tokenizer, max_new_tokens, side_by_side };
    let found = exact_match(answering, rows, on_progress, &mut || false);
    let found = found.map_err(|error| base.unanswered(error))?.expect("nobody interrupts it");
    Limits::of(base).tell_ends(found.ended_by_context);
    Ok(found)
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
