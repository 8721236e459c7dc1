//! What each way of fine-tuning takes, and what fits, as numbers.

use lorafit_kernels::Placement;
use lorafit_kernels::quant::Quantization;
use lorafit_kernels::quant::four_bit::Code;
use lorafit_model::adapter::{LoraConfig, Module, TokenIndices, module_shape};
use lorafit_model::{BaseQuantization, Config, Recompute, Trainable, WeightSelection};
use lorafit_remedy::amounts::counted;
use lorafit_train::{
    EvaluationRequest, MemoryPlan, MicroBatchSize, PlanRequest, SIDE_BY_SIDE, available_bytes, tokens_of_each,
};
use serde::Serialize;

use super::PlanArgs;
use super::recommend::{Choices, recommend};
use super::subject::Subject;
use crate::args::config_file::Given;
use crate::args::memory::RecomputeChoice;
use crate::args::options::{AtOnce, Auto, DeviceChoice, Init};
use crate::args::preference::PreferenceArgs;
use crate::args::train::MICRO_BATCH_TOKENS;
use crate::session::base::placement;
use crate::session::limits::longest_row;
use crate::session::micro_batches::{EqualRows, tokens_for_step};
use crate::session::preset::tokens_held;
use crate::session::trained::save_modules;
use crate::terminal::error::CliError;

/// Memory of the GPU that is planned for without --memory: that of the largest cards for desktop machines.
const GPU_BYTES: u64 = 24_000_000_000;

/// Memory sizes that devices are sold with, in decimal GB.
pub const DEVICES: [u64; 8] = [8, 12, 16, 24, 40, 48, 80, 141];

/// What one way of fine-tuning takes, in bytes.
#[derive(Clone, Debug, Serialize)]
pub struct MethodCost {
    /// How it is called.
    pub method: String,
    /// The model, and the adapter if there is one.
    pub weights: u64,
    /// Of what is trained.
    pub gradients: u64,
    /// AdamW's moments.
    pub optimizer: u64,
    /// Activations, working buffers and the program.
    pub activations: u64,
    /// All together.
    pub total: u64,
    /// Memory sizes of devices, in GB, that hold it.
    pub fits_gb: Vec<u64>,
    /// Its parts, of what lorafit runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parts: Option<MemoryPlan>,
}

impl MethodCost {
    fn new(
        method: impl Into<String>,
        weights: u64,
        gradients: u64,
        optimizer: u64,
        activations: u64,
    ) -> Self {
        let total = weights + gradients + optimizer + activations;
        let fits_gb = DEVICES.into_iter().filter(|gb| total <= gb * 1_000_000_000).collect();
        MethodCost {
            method: method.into(),
            weights,
            gradients,
            optimizer,
            activations,
            total,
            fits_gb,
            parts: None,
        }
    }

    fn of(method: impl Into<String>, plan: &MemoryPlan) -> Self {
        let weights = plan.weights + plan.adapter;
        let rest = plan.total() - weights - plan.gradients - plan.optimizer;
        let cost = MethodCost::new(method, weights, plan.gradients, plan.optimizer, rest);
        MethodCost { parts: Some(*plan), ..cost }
    }

    /// The smallest of these devices.
    pub fn fits(&self) -> String {
        self.fits_gb.first().map_or("none of these".to_owned(), |gb| format!("{gb} GB"))
    }
}

/// Full against low-rank parameters of a module.
#[derive(Clone, Debug, Serialize)]
pub struct ModuleCost {
    pub module: &'static str,
    pub outputs: usize,
    pub inputs: usize,
    pub full: u64,
    pub low_rank: u64,
    pub reduction: f64,
}

/// The most that fits.
#[derive(Clone, Debug, Serialize)]
pub struct Reach {
    pub method: String,
    pub memory: u64,
    /// Tokens of the longest row.
    pub longest_context: usize,
    /// Rows of `max_seq_len` tokens that can be computed at once.
    pub rows_at_once: usize,
}

/// What `eval --generate` takes.
#[derive(Clone, Debug, Serialize)]
pub struct Answering {
    /// How the base is held.
    pub base: String,
    /// Answers side by side: as many as fit.
    pub side_by_side: usize,
    /// Longest prompt.
    pub prompt_tokens: usize,
    /// Longest answer.
    pub max_new_tokens: usize,
    pub parts: MemoryPlan,
}

/// The longest answer of `eval` unless it is told otherwise.
const MAX_NEW_TOKENS: usize = 256;

/// Everything that is told.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub model: String,
    pub parameters: u64,
    pub trainable_parameters: u64,
    pub rank: usize,
    /// What stands for a setting that `train` chooses from the data, if nothing is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assumed: Option<String>,
    pub tokens_at_once: usize,
    pub methods: Vec<MethodCost>,
    pub modules: Vec<ModuleCost>,
    pub reach: Vec<Reach>,
    /// Nothing of a model that scores texts, which answers none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answering: Option<Answering>,
    pub recommendation: String,
}

impl Report {
    /// A sentence where no method fits the memory that was asked about.
    pub fn nothing_fits(&self) -> Option<&'static str> {
        let asked = !self.reach.is_empty();
        (asked && self.reach.iter().all(|reach| reach.longest_context == 0))
            .then_some("Not even a row of one token fits.")
    }
}

/// The last `count` tokens of a model.
fn last_tokens(config: &Config, count: usize) -> TokenIndices {
    let ids = (config.vocab_size - count..config.vocab_size).filter_map(|id| u32::try_from(id).ok());
    TokenIndices::of_both_sides(config, &ids.collect::<Vec<u32>>())
}

/// Computes the whole report of `subject`; the report names it as `--model` does.
pub fn report(args: PlanArgs, given: &Given, mut subject: Subject) -> anyhow::Result<Report> {
    let preference = args.preference();
    if preference.is_scored() {
        let labels =
            if preference.is_classifier() { args.labels.or(subject.labels()).unwrap_or(2) } else { 1 };
        subject.score(labels)?;
    }
    subject.config.vocab_size += args.new_tokens.unwrap_or(0);
    let question = Question::new(args, given, &subject)?;
    let (args, config) = (&question.args, &subject.config);
    let (plain, small) = (question.over(None)?, question.over(Some(question.quantized))?);
    let limit = question.limit();
    let (plain_within, small_within) = (question.within(&plain), question.within(&small));
    Ok(Report {
        model: args.model.clone(),
        parameters: config.parameters(),
        trainable_parameters: question.trainable_parameters()?,
        rank: args.rank,
        assumed: question.assumed(given)?,
        tokens_at_once: question.size(1).tokens,
        methods: question.methods(&plain, &small)?,
        modules: question.modules()?,
        reach: question.reach(&plain_within, &small_within, limit)?,
        answering: match subject.labels() {
            Some(_) => None,
            None => Some(question.answering(&small, limit)?),
        },
        recommendation: recommend(
            args,
            given,
            &subject,
            &Choices { plain: &plain_within, small: &small_within, limit, tokens: question.tokens },
        )?,
    })
}

/// A row whose texts have `len` tokens each, as it is trained.
fn row_size(preference: &PreferenceArgs, len: usize) -> MicroBatchSize {
    let texts = preference.texts_of_row();
    let (tokens, targets) = match preference.is_scored() {
        // A label stands behind each text, and is what is learnt.
        true => (len.saturating_add(1), 1),
        false => (len, len),
    };
    MicroBatchSize { tokens: texts.saturating_mul(tokens), targets: texts.saturating_mul(targets) }
}

/// What is planned: a model, an adapter, rows, and where they are computed.
struct Question<'a> {
    args: PlanArgs,
    subject: &'a Subject,
    preference: PreferenceArgs,
    lora: LoraConfig,
    /// The adapter of the reference, if it is one of its own.
    reference: Option<LoraConfig>,
    /// Tokens computed at once.
    tokens: usize,
    /// Micro-batches of an adapter that are computed at the same time.
    at_once: usize,
    threads: usize,
    placement: Placement,
    /// What a base is quantised to.
    quantized: BaseQuantization,
    /// What is recomputed where nothing has to be.
    keep: Recompute,
}

impl<'a> Question<'a> {
    fn new(args: PlanArgs, given: &Given, subject: &'a Subject) -> anyhow::Result<Self> {
        let config = &subject.config;
        let max_seq_len = longest_row(config, "max-seq-len", args.max_seq_len, given.has("max-seq-len"))?;
        let args = PlanArgs { max_seq_len, ..args };
        args.memory.check_blocks(config.num_hidden_layers)?;
        let asked = args.base.resolve()?;
        if let (Some(flags), true) = (args.base.flags(), subject.is_quantized()) {
            let text = format!("{flags}: the weights of {} are quantised already", args.model);
            return Err(CliError::usage(text).hint("leave --quant out: they are used as they are").into());
        }
        let preference = args.preference();
        let nf4 = Quantization::FourBit { code: Code::Nf4, block_len: 64, double: true };
        let cores = || std::thread::available_parallelism().ok().map(usize::from);
        let lora = LoraConfig {
            rank: args.rank,
            alpha: 2.0 * args.rank as f64,
            use_dora: args.dora,
            save_modules: save_modules(args.save_modules.as_ref(), config)?,
            tokens: args.new_tokens.map_or_else(TokenIndices::default, |n| last_tokens(config, n)),
            ..LoraConfig::new(args.target_modules.value.clone())
        };
        let lora = args.init.of_adapter().trained(&args.projections.checked(lora, config)?);
        let placement = placement(args.device, args.compute);
        let keep = match args.memory.recompute {
            Some(RecomputeChoice::Fixed(recompute)) => recompute,
            Some(RecomputeChoice::Auto) | None => Recompute::None,
        };
        let mut question = Question {
            subject,
            lora,
            reference: preference.own_reference(None).map(|dir| subject.adapter(dir)).transpose()?,
            tokens: MICRO_BATCH_TOKENS,
            at_once: 1,
            preference,
            threads: args.threads.or_else(cores).unwrap_or(1),
            placement,
            quantized: asked.unwrap_or(BaseQuantization { quantization: nf4, head: false }),
            keep,
            args,
        };
        question.cut(asked)?;
        Ok(question)
    }

    /// Finds how a step is cut, as `train` does over a base that is quantised as `base` says.
    fn cut(&mut self, base: Option<BaseQuantization>) -> anyhow::Result<()> {
        let row = row_size(&self.preference, self.args.max_seq_len).tokens;
        let (asked, rows) = (self.args.micro_batches_at_once, self.args.batch_size);
        self.at_once = asked.unwrap_or(Auto::Auto).or(AtOnce(1)).0;
        self.tokens = match self.args.micro_batch_tokens {
            Auto::Value(tokens) => tokens,
            Auto::Auto => {
                let (limit, keep) = (self.limit(), self.keep);
                let keeps_all = |tokens| {
                    self.tokens = tokens;
                    Ok(keep == Recompute::None && self.over(base)?.plan(keep)?.total() <= limit)
                };
                tokens_for_step(rows.saturating_mul(row), keeps_all)?.0
            }
        };
        let is_judged = self.preference.objective().is_some();
        let (tokens, threads) = (self.tokens, self.threads);
        let rows = EqualRows { rows, len: row, tokens, is_judged, threads };
        let config = &self.subject.config;
        let trained = self.lora.tensor_lens(config)?.iter().sum::<usize>() as u64;
        self.at_once = rows.at_once(asked, (config, self.placement), trained)?;
        Ok(())
    }

    /// The largest micro-batch where so many are computed at the same time.
    fn size(&self, at_once: usize) -> MicroBatchSize {
        let row = row_size(&self.preference, self.args.max_seq_len);
        MicroBatchSize::of_equal_groups(self.args.batch_size, row, tokens_of_each(self.tokens, at_once))
    }

    /// Values that are trained: of what begins as a part of the base, half stays.
    fn trainable_parameters(&self) -> anyhow::Result<u64> {
        let all = self.lora.parameters(&self.subject.config)?;
        Ok(if self.args.init == Init::Pissa { all / 2 } else { all })
    }

    /// The rank that is assumed where none is given, and up to how much data a run has it.
    fn assumed(&self, given: &Given) -> anyhow::Result<Option<String>> {
        if given.has("rank") {
            return Ok(None);
        }
        let rank = self.args.rank;
        let (rank_pattern, save_modules) = (Vec::new(), Vec::new());
        let plain = LoraConfig { rank, rank_pattern, save_modules, use_dora: false, ..self.lora.clone() };
        let held = tokens_held(plain.parameters(&self.subject.config)?);
        let tokens = counted(held as usize, "trained token", "trained tokens");
        Ok(Some(format!(
            "rank {rank} is assumed: train chooses it for up to {tokens}, a higher one for more"
        )))
    }

    /// Bytes that a run may take.
    fn limit(&self) -> u64 {
        let asked = self.args.memory.memory.map(|size| size.0);
        let free = || match self.args.device {
            DeviceChoice::Auto | DeviceChoice::Cpu => Some(available_bytes()? / 10 * 9),
            DeviceChoice::Cuda(_) => Some(GPU_BYTES),
        };
        asked.or_else(free).unwrap_or(u64::MAX)
    }

    /// An adapter over weights of `weights` bytes.
    fn request(&self, weights: u64) -> PlanRequest<'_> {
        let MicroBatchSize { tokens, targets } = self.size(self.at_once);
        PlanRequest {
            config: &self.subject.config,
            weights,
            trainable: Trainable::Adapter(&self.lora),
            optimizer: self.args.optimizer.into(),
            averaged: self.args.average.is_some(),
            start: self.args.init.of_adapter(),
            activation_dtype: self.args.memory.activation_dtype_on(self.placement),
            tokens,
            targets,
            at_once: self.at_once,
            threads: self.threads,
            has_tokenizer: true,
            placement: self.placement,
            reference: self.preference.reference_request(self.reference.as_ref()),
        }
    }

    /// An adapter over the base, quantised as `base` says.
    fn over(&self, base: Option<BaseQuantization>) -> anyhow::Result<PlanRequest<'_>> {
        Ok(self.request(self.subject.weight_bytes(base, self.placement)?))
    }

    /// The request that is fitted into memory: where the number of micro-batches at the same time is automatic, `train` computes one at a
    /// time if more do not fit.
    fn within<'b>(&self, request: &PlanRequest<'b>) -> PlanRequest<'b> {
        if let Some(Auto::Value(_)) = self.args.micro_batches_at_once {
            return request.clone();
        }
        let MicroBatchSize { tokens, targets } = self.size(1);
        PlanRequest { tokens, targets, at_once: 1, ..request.clone() }
    }

    /// The ways to fine-tune, `plain` over the base as it is and `small` over a quantised one.
    fn methods(&self, plain: &PlanRequest<'_>, small: &PlanRequest<'_>) -> anyhow::Result<Vec<MethodCost>> {
        let all = WeightSelection::all();
        let in_f32 = self.request(4 * self.subject.config.parameters());
        let MicroBatchSize { tokens, targets } = self.size(1);
        // Of itself, full fine-tuning computes one micro-batch at a time.
        let over = match self.args.micro_batches_at_once {
            Some(Auto::Value(_)) => in_f32,
            None | Some(Auto::Auto) => PlanRequest { tokens, targets, at_once: 1, ..in_f32 },
        };
        let full = PlanRequest { trainable: Trainable::Weights(&all), ..over }.plan(self.keep)?;
        let full = MethodCost::of("full, f32", &full);
        let half = MethodCost::new(
            "full, 16-bit",
            full.weights / 2,
            full.gradients / 2,
            full.optimizer / 2,
            full.activations / 2,
        );
        let stored = if self.subject.files.is_some() { "as stored" } else { "16-bit" };
        let format = self.quantized.quantization;
        let mut methods = vec![
            full,
            half,
            MethodCost::of(format!("LoRA, base {stored}"), &plain.plan(self.keep)?),
            MethodCost::of(format!("QLoRA, {format}"), &small.plan(self.keep)?),
        ];
        if self.keep != Recompute::Full {
            let recomputed = format!("QLoRA, {format}, recompute");
            methods.push(MethodCost::of(recomputed, &small.plan(Recompute::Full)?));
        }
        Ok(methods)
    }

    /// Every module that gets an adapter, as in the first layer where it does.
    fn modules(&self) -> anyhow::Result<Vec<ModuleCost>> {
        let config = &self.subject.config;
        let cost = |(module, rank): (Module, usize)| {
            let (outputs, inputs) = module_shape(config, module);
            let (full, low_rank) = ((outputs * inputs) as u64, (rank * (outputs + inputs)) as u64);
            let reduction = full as f64 / low_rank as f64;
            ModuleCost { module: module.name(), outputs, inputs, full, low_rank, reduction }
        };
        Ok(self.lora.ranks(config)?.into_iter().map(cost).collect())
    }

    /// What fits in `limit` bytes.
    fn reach(
        &self,
        plain: &PlanRequest<'_>,
        small: &PlanRequest<'_>,
        limit: u64,
    ) -> anyhow::Result<Vec<Reach>> {
        let (mut reach, texts) = (Vec::new(), self.preference.texts_of_row());
        for (method, request) in [("LoRA", plain), ("QLoRA", small)] {
            for recompute in [Recompute::None, Recompute::Full] {
                let at_once = request.most_tokens(recompute, limit)?;
                let longest = tokens_of_each(at_once, request.at_once).min(at_once);
                reach.push(Reach {
                    method: format!("{method}, recompute {}", RecomputeChoice::Fixed(recompute)),
                    memory: limit,
                    longest_context: (longest / texts).min(self.subject.config.context()),
                    rows_at_once: at_once / row_size(&self.preference, self.args.max_seq_len).tokens,
                });
            }
        }
        Ok(reach)
    }

    /// Answers over the quantised base.
    fn answering(&self, small: &PlanRequest<'_>, limit: u64) -> anyhow::Result<Answering> {
        let prompts = [self.args.max_seq_len; SIDE_BY_SIDE];
        let evaluation = EvaluationRequest {
            config: &self.subject.config,
            weights: small.weights,
            lora: Some(&self.lora),
            tokens: self.size(1).tokens,
            prompts: &prompts,
            max_new_tokens: MAX_NEW_TOKENS,
            threads: self.threads,
            placement: self.placement,
            reference: None,
        };
        let (side_by_side, parts) = match evaluation.fit(limit)? {
            Some(found) => found,
            None => (1, evaluation.plan(1)?),
        };
        Ok(Answering {
            base: self.quantized.quantization.to_string(),
            side_by_side,
            prompt_tokens: self.args.max_seq_len,
            max_new_tokens: MAX_NEW_TOKENS,
            parts,
        })
    }
}
