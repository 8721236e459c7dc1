//! A model judged on rows: `eval` does it once, `compare` for each run.

use std::io::IsTerminal as _;

use lorafit_data::{Dataset, GenerationRow, generation_rows};
use lorafit_model::adapter::Adapter;
use lorafit_remedy::amounts::{counted, memory};
use lorafit_remedy::{Setting, remedy};
use lorafit_train::{
    Answering, Evaluation, EvaluationRequest, ExactMatch, MemoryPlan, MicroBatchSize, SIDE_BY_SIDE, evaluate,
    exact_match,
};

use crate::args::cache::CacheArgs;
use crate::args::rows::RowArgs;
use crate::args::size::ByteSize;
use crate::session::base::{Base, reserve};
use crate::session::fit::memory_limit;
use crate::session::limits::Limits;
use crate::session::memory_table;
use crate::session::rows::{skipped, treated};
use crate::terminal::error::CliError;

/// On which rows a model is judged, and how.
pub struct Judging<'a> {
    /// Where the rows are.
    pub data: &'a [String],
    /// How they are read.
    pub rows: &'a RowArgs,
    /// Where tokenised data is kept.
    pub cache: &'a CacheArgs,
    /// Whether each row's last prompt is answered, too.
    pub generate: bool,
    /// Tokens of the longest answer.
    pub max_new_tokens: usize,
    /// Tokens computed at once.
    pub micro_batch_tokens: usize,
    /// Memory that it may take; by default what is free.
    pub memory: Option<ByteSize>,
    /// Whether nothing is told but errors.
    pub quiet: bool,
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
pub fn measure(args: &Judging<'_>, base: &Base, adapter: Option<&Adapter>) -> anyhow::Result<Measured> {
    let source = args.rows.source("split", args.data, args.rows.split.as_deref(), args.quiet)?;
    let (limits, quiet) = (Limits::of(base), args.quiet);
    let data = args.cache.load(source.clone(), &base.tokenizer, limits.options(args.rows), quiet)?;
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
    args: &Judging<'_>,
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
            memory(least.total()),
            memory(limit),
            memory_table::in_one_line(&least)
        );
        let one = EvaluationRequest { tokens: 1, prompts: &[], ..request.clone() }.plan(1)?;
        let hint = match one.total() <= limit {
            true => remedy!["lower ", Setting::MicroBatchTokens; "lower ", Setting::MaxNewTokens],
            false => {
                let is_float = request.weights >= request.config.weight_bytes(2, None);
                memory_table::remedy_of(&one, is_float, args.memory.is_some())
            }
        };
        return Err(CliError::new(text).hint(hint).into());
    };
    if !args.quiet {
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
    args: &Judging<'_>,
    base: &Base,
    adapter: Option<&Adapter>,
    rows: &[GenerationRow],
    side_by_side: usize,
) -> anyhow::Result<ExactMatch> {
    let told = !args.quiet;
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
