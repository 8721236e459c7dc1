//! A model judged on rows: `eval` does it once, `compare` for each run, `sweep` for each trial.

use lorafit_data::{Dataset, GenerationRow, Tokenizer, generation_rows};
use lorafit_kernels::Device;
use lorafit_model::Config;
use lorafit_model::adapter::{Adapter, LoraConfig};
use lorafit_remedy::amounts::{counted, more_and_less};
use lorafit_remedy::{Setting, remedy};
use lorafit_train::{
    Answering, Evaluation, EvaluationRequest, MemoryPlan, MicroBatchSize, ReferenceRequest, SIDE_BY_SIDE,
    answer, evaluate_until, option_scores, option_tokens,
};

use crate::args::evaluation::EvaluationArgs;
use crate::args::size::ByteSize;
use crate::metrics::{Answered, Metrics, Options, Scored};
use crate::session::base::{Base, reserve};
use crate::session::fit::memory_limit;
use crate::session::limits::Limits;
use crate::session::memory_table;
use crate::session::rows::{skipped, treated};
use crate::terminal::error::{CliError, Stopped};
use crate::terminal::{interrupt, output};

/// How models are judged.
pub struct Judging<'a> {
    /// On which rows, in how much memory.
    pub args: &'a EvaluationArgs,
    /// By what.
    pub metrics: &'a Metrics,
    /// Whether nothing is told but errors.
    pub quiet: bool,
}

/// The rows, as a model with a certain tokenizer gets them.
pub struct Rows {
    /// Those whose loss is computed.
    pub data: Dataset,
    /// Those that are answered, or whose options are scored.
    prompts: Vec<GenerationRow>,
}

/// What decides the memory of an evaluation, of a model that need not be loaded.
#[derive(Clone, Copy)]
pub struct Judged<'a> {
    /// Its shape.
    pub config: &'a Config,
    /// Bytes of its weights.
    pub weights: u64,
    /// Its adapter.
    pub lora: Option<&'a LoraConfig>,
    /// Where it is computed.
    pub device: Device,
}

/// What a model was found to be like.
pub struct Measured {
    /// Loss over the rows.
    pub evaluation: Evaluation,
    /// The rows' scores, if any metric was asked for.
    pub scored: Option<Scored>,
    /// The memory that was planned for both.
    pub planned_bytes: u64,
}

impl Judging<'_> {
    /// Reads the rows for a model.
    ///
    /// # Errors
    /// Rows that cannot be read, or that the model cannot be given.
    pub fn read(&self, config: &Config, tokenizer: &Tokenizer) -> anyhow::Result<Rows> {
        let Judging { args, metrics, quiet } = *self;
        let mut source = args.rows.source("split", &args.data, args.rows.split.as_deref(), quiet)?;
        source.choices = args.criteria.choices.clone();
        let limits = Limits::new(config, tokenizer, quiet);
        let data = args.cache.load(source.clone(), tokenizer, limits.options(&args.rows), quiet)?;
        if !quiet {
            skipped(&data.origin).iter().chain(&treated(&data)).for_each(|line| tell!("{line}"));
        }
        let mut prompts = match metrics.list.is_empty() {
            false => generation_rows(source, tokenizer)?,
            true => Vec::new(),
        };
        limits.check_rows(&data)?;
        limits.check_prompts(&mut prompts, args.rows.skip_bad_rows)?;
        Ok(Rows { data, prompts })
    }

    /// Judges `base` with `adapter`.
    pub fn measure(&self, base: &Base, adapter: Option<&Adapter>, rows: &Rows) -> anyhow::Result<Measured> {
        let device = base.model.device();
        let lora = adapter.map(Adapter::config);
        let judged = Judged { config: base.model.config(), weights: base.weight_bytes, lora, device };
        let (side_by_side, plan) = self.fit(judged, rows)?;
        self.tell_memory(rows, side_by_side, &plan);
        reserve(device, &plan)?;
        let (samples, budget) = (&rows.data.samples, self.args.micro_batch_tokens);
        let evaluation = evaluate_until(&base.model, adapter, samples, budget, &mut interrupt::asked);
        let evaluation = evaluation.ok_or(Stopped)?;
        if !evaluation.loss.is_finite() && evaluation.supervised_tokens > 0 {
            return Err(base.not_numbers());
        }
        let scored = match self.metrics.list.is_empty() {
            true => None,
            false => Some(self.score(base, adapter, rows, side_by_side)?),
        };
        Ok(Measured { evaluation, scored, planned_bytes: plan.total() })
    }

    /// How many answers may be computed side by side, and the memory that is planned for it.
    ///
    /// # Errors
    /// An evaluation that does not fit.
    pub fn fit(&self, judged: Judged<'_>, rows: &Rows) -> anyhow::Result<(usize, MemoryPlan)> {
        let Judging { args, metrics, .. } = *self;
        let Judged { config, weights, lora, device } = judged;
        let budget = args.micro_batch_tokens;
        let prompts = prompts_to_answer(metrics, &rows.prompts);
        let MicroBatchSize { tokens, .. } = MicroBatchSize::of_evaluation(&rows.data.samples, budget);
        let request = EvaluationRequest {
            config,
            weights,
            lora,
            tokens: tokens.max(option_tokens(config, &rows.prompts, budget)),
            prompts: &prompts,
            max_new_tokens: args.max_new_tokens,
            threads: rayon::current_num_threads(),
            placement: device.placement(),
            reference: None,
        };
        fit("evaluation", &request, args.memory, device)
    }

    fn tell_memory(&self, rows: &Rows, side_by_side: usize, plan: &MemoryPlan) {
        if self.quiet {
            return;
        }
        let answers = if self.metrics.needs_answers() { rows.prompts.len() } else { 0 };
        let what = match (answers, side_by_side) {
            (0, _) if self.metrics.needs_options() => "losses and options".to_owned(),
            (0, _) => "losses only".to_owned(),
            (1, _) => "one answer".to_owned(),
            (all, most) if most == all.min(SIDE_BY_SIDE) => format!("{most} answers side by side"),
            (_, 1) => "one answer after the other, as more do not fit side by side".to_owned(),
            (_, fewer) => format!("{fewer} answers side by side, as more do not fit"),
        };
        tell!("{}", memory_table::of_run(&what, plan, output::notes_are_on_terminal()));
    }

    /// Answers the rows, scores their options, and judges what came of it.
    fn score(
        &self,
        base: &Base,
        adapter: Option<&Adapter>,
        rows: &Rows,
        side_by_side: usize,
    ) -> anyhow::Result<Scored> {
        let total = counted(rows.prompts.len(), "row", "rows");
        let (model, tokenizer) = (&base.model, &base.tokenizer);
        let Judging { args, metrics, quiet } = *self;
        let mut tell = |what: &str, done: usize| {
            // Options of a row take moments.
            if !quiet && (done.is_multiple_of(SIDE_BY_SIDE) || done == rows.prompts.len()) {
                tell!("{what} {done} of {total}");
            }
        };
        let max_new_tokens = args.max_new_tokens;
        let answering = Answering { model, adapter, tokenizer, max_new_tokens, side_by_side };
        let asked = Asked { answering, micro_batch_tokens: args.micro_batch_tokens };
        let found = asked.of(metrics, &rows.prompts, &mut tell, &mut interrupt::asked);
        let (answered, ended_by_context) = found.map_err(|error| base.unanswered(error))?.ok_or(Stopped)?;
        Limits::of(base).tell_ends(ended_by_context);
        // A command that judges is ended with us.
        interrupt::listen();
        let scored = metrics.score(answered, &mut interrupt::asked);
        scored.ok_or_else(|| Stopped.into())
    }
}

/// An evaluation that answers nothing.
pub struct WithoutAnswers<'a> {
    /// What it computes: losses, labels.
    pub what: &'a str,
    /// What the adapters lie over.
    pub base: &'a Base,
    /// The adapter of the model.
    pub adapter: Option<&'a Adapter>,
    /// The reference of judged replies, if it has an adapter of its own.
    pub reference: Option<ReferenceRequest<'a>>,
    /// Tokens of the largest micro-batch.
    pub tokens: usize,
}

impl WithoutAnswers<'_> {
    /// Plans it in the memory that is `asked` for, prints the plan unless `quiet`, and takes the memory.
    ///
    /// # Errors
    /// An evaluation that does not fit.
    pub fn fit(&self, asked: Option<ByteSize>, quiet: bool) -> anyhow::Result<MemoryPlan> {
        let WithoutAnswers { what, base, adapter, reference, tokens } = *self;
        let device = base.model.device();
        let request = EvaluationRequest {
            config: base.model.config(),
            weights: base.weight_bytes,
            lora: adapter.map(Adapter::config),
            tokens,
            prompts: &[],
            max_new_tokens: 0,
            threads: rayon::current_num_threads(),
            placement: device.placement(),
            reference,
        };
        let (_, plan) = fit("evaluation", &request, asked, device)?;
        if !quiet {
            tell!("{}", memory_table::of_run(what, &plan, output::notes_are_on_terminal()));
        }
        reserve(device, &plan)?;
        Ok(plan)
    }
}

/// How many answers of `request` may be computed side by side in the memory that is asked for, and the memory that is planned for
/// it; `what` needs it.
///
/// # Errors
/// What does not fit even with one answer after the other.
pub fn fit(
    what: &str,
    request: &EvaluationRequest<'_>,
    asked: Option<ByteSize>,
    device: Device,
) -> anyhow::Result<(usize, MemoryPlan)> {
    let limit = memory_limit(asked, device).unwrap_or(u64::MAX);
    if let Some(fits) = request.fit(limit)? {
        return Ok(fits);
    }
    let least = request.plan(1)?;
    let [needs, may_take] = more_and_less(least.total(), limit);
    let parts = memory_table::in_one_line(&least);
    let text = format!("{what} needs {needs} but may take {may_take}\n  {parts}");
    let enough = asked.map(|_| least.total());
    let one = EvaluationRequest { tokens: 1, prompts: &[], ..request.clone() }.plan(1)?;
    let hint = match one.total() <= limit {
        true => {
            let less = remedy!["lower ", Setting::MicroBatchTokens; "lower ", Setting::MaxNewTokens];
            enough.map_or(less.clone(), |bytes| less.or(memory_table::allow_at_least(bytes)))
        }
        false => {
            let is_float = request.weights >= request.config.weight_bytes(2, None);
            memory_table::remedy_of(1, &one, is_float, enough)
        }
    };
    Err(CliError::new(text).hint(hint).into())
}

/// Tokens of each prompt that is answered.
pub fn prompts_to_answer(metrics: &Metrics, prompts: &[GenerationRow]) -> Vec<usize> {
    match metrics.needs_answers() {
        true => prompts.iter().map(|row| row.prompt_ids.len()).collect(),
        false => Vec::new(),
    }
}

/// Who is asked, and how.
pub struct Asked<'a> {
    /// Who answers.
    pub answering: Answering<'a>,
    /// Tokens of options that are computed at once.
    pub micro_batch_tokens: usize,
}

impl Asked<'_> {
    /// Answers rows and scores their options, as far as metrics need that; with the number of answers that the context ended.
    /// `None` if it is `interrupted`. `tell` is told what is done, and of how many rows.
    ///
    /// # Errors
    /// A model that computes no numbers; ids that the tokenizer cannot decode.
    pub fn of(
        &self,
        metrics: &Metrics,
        prompts: &[GenerationRow],
        tell: &mut dyn FnMut(&str, usize),
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Option<(Vec<Answered>, usize)>, lorafit_train::AnswerError> {
        let (mut texts, mut ended_by_context) = (vec![String::new(); prompts.len()], 0);
        if metrics.needs_answers() {
            let found = answer(self.answering, prompts, |done| tell("answered", done), interrupted)?;
            let Some(answers) = found else { return Ok(None) };
            (texts, ended_by_context) = (answers.texts, answers.ended_by_context);
        }
        let mut log_probabilities = vec![Vec::new(); prompts.len()];
        if metrics.needs_options() {
            let (model, adapter) = (self.answering.model, self.answering.adapter);
            let told = |done| tell("scored the options of", done);
            let found = option_scores(model, adapter, prompts, self.micro_batch_tokens, told, interrupted)?;
            let Some(scores) = found else { return Ok(None) };
            log_probabilities = scores;
        }
        let each = prompts.iter().zip(texts).zip(log_probabilities);
        let answered = each.map(|((row, answer), log_probabilities)| {
            let texts = |choices: &lorafit_data::Choices| {
                choices.options.iter().map(|option| option.text.clone()).collect()
            };
            let options = row.choices.as_ref().filter(|_| !log_probabilities.is_empty());
            let options = options.map(|choices| (texts(choices), choices.right));
            Answered {
                row: row.row,
                prompt: row.prompt.clone(),
                expected: row.reference.clone(),
                answer,
                options: options.map(|(texts, right)| Options { texts, log_probabilities, right }),
            }
        });
        Ok(Some((answered.collect(), ended_by_context)))
    }
}
