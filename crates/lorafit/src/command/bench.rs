//! `lorafit bench`: training speed of a model shape on this machine, with random weights.

use clap::Args;
use lorafit_remedy::amounts::{counted, duration, grouped, memory, percent};

use lorafit_kernels::gpu::Float;
use lorafit_kernels::quant::Format;
use lorafit_kernels::{Device, Placement};
use lorafit_model::adapter::LoraConfig;
use lorafit_model::{ActivationPolicy, Config, Distribution, RandomWeights, Recompute, Start, Trainable};
use lorafit_train::{
    BenchOptions, BenchResult, MemoryPlan, MicroBatchSize, OptimizerKind, PlanRequest, bench, tokens_of_each,
};

use crate::args::base::{ComputeArgs, QuantArgs};
use crate::args::common::Common;
use crate::args::flags::Words;
use crate::args::memory::MemoryArgs;
use crate::args::options::{
    AtOnce, Auto, MicroBatchTokens, MicroBatchesAtOnce, TargetModules, WeightDtype, shape_hint,
};
use crate::args::projections::ProjectionArgs;
use crate::args::train::{MICRO_BATCH_TOKENS, check_at_once};
use crate::args::{MOST_RANK, MOST_ROWS, MOST_STEPS, MOST_TOKENS, require, within};
use crate::session::base::{device, reserve, use_threads, warn_of};
use crate::session::fit::{Sharing, Texts};
use crate::session::limits::longest_row;
use crate::session::micro_batches::{EqualRows, several_or_one, tokens_for_step};
use crate::terminal::error::CliError;
use crate::terminal::output;

/// The flags of `bench`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
Examples:
  lorafit bench --shape smollm2-135m --batch 4 --seq 256
  What would a 7B model cost per step here?
    lorafit bench --shape llama-2-7b --batch 1 --seq 512 --dtype bf16 --steps 2
  The shape of any model by its config.json:
    lorafit bench --shape some-model/config.json --batch 4 --seq 256 --json

tokens_per_s counts whole training steps: forward, backward, optimizer. peak_gflops is what the cores reach in bare
multiply-adds of --compute-dtype in the same run, or a GPU in a large product; mfu is the step's share of it.")]
pub struct BenchArgs {
    /// llama-2-7b, tinyllama-1.1b, smollm2-135m or another published shape, or the path of a config.json
    #[arg(long, value_name = "SHAPE", help_heading = "Work")]
    #[arg(add = Words(|| Config::names().collect()))]
    pub shape: String,
    /// Rows per step
    #[arg(long, value_name = "ROWS", default_value_t = 4, help_heading = "Work")]
    pub batch: usize,
    /// Tokens per row
    #[arg(long, value_name = "TOKENS", default_value_t = 256, help_heading = "Work")]
    pub seq: usize,
    /// How the random weights are stored, those that are not quantised [default: bf16 with --quant, else f32]
    #[arg(long, value_enum, help_heading = "Work")]
    pub dtype: Option<WeightDtype>,
    /// Steps to time, after one step that warms up
    #[arg(long, value_name = "N", default_value_t = 5, help_heading = "Work")]
    pub steps: usize,
    /// Width of the adapter
    #[arg(long, value_name = "R", default_value_t = 8, help_heading = "Work")]
    pub rank: usize,
    /// Modules that get an adapter: all-linear, a comma list, or regex:PATTERN
    #[arg(long, value_name = "MODULES", default_value = "all-linear", help_heading = "Work")]
    pub target_modules: TargetModules,
    /// Train a magnitude for each output, too (DoRA)
    #[arg(long, help_heading = "Work")]
    pub dora: bool,
    /// Which modules are left out, and which have a rank of their own.
    #[command(flatten)]
    pub projections: ProjectionArgs,
    /// Tokens computed at once; the main setting for memory, as in train; auto takes what the rows of a step have, as far as it fits
    #[arg(long, value_name = "TOKENS", default_value_t = Auto::Value(MICRO_BATCH_TOKENS), help_heading = "Work")]
    #[arg(add = Words(|| vec!["auto"]))]
    pub micro_batch_tokens: MicroBatchTokens,
    /// Micro-batches computed at the same time, which share --micro-batch-tokens, as in train [default: auto]
    #[arg(long, value_name = "N", help_heading = "Work", add = Words(|| vec!["auto"]))]
    pub micro_batches_at_once: Option<MicroBatchesAtOnce>,
    /// Print the result as one JSON object
    #[arg(long, help_heading = "Work")]
    pub json: bool,
    /// How much memory the run may take.
    #[command(flatten)]
    pub memory: MemoryArgs,
    /// How the base is held in memory.
    #[command(flatten)]
    pub base: QuantArgs,
    /// How the base is multiplied.
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// The flags of every verb.
    #[command(flatten)]
    pub common: Common,
}

impl BenchArgs {
    fn validate(&self) -> Result<(), CliError> {
        for (name, value, most) in [
            ("batch", self.batch, MOST_ROWS),
            ("seq", self.seq, MOST_TOKENS),
            ("steps", self.steps, MOST_STEPS),
            ("rank", self.rank, MOST_RANK),
            ("micro-batch-tokens", self.micro_batch_tokens.or(MICRO_BATCH_TOKENS), MOST_TOKENS),
        ] {
            within(name, value, most)?;
        }
        require(self.seq >= 2, "seq", self.seq, "must be 2 or more")?;
        check_at_once(self.at_once())?;
        self.base.resolve()?;
        self.common.validate()
    }

    /// Micro-batches at the same time that are asked for; one where their number is automatic.
    fn at_once(&self) -> usize {
        self.micro_batches_at_once.unwrap_or(Auto::Auto).or(AtOnce(1)).0
    }

    /// Tokens computed at once and micro-batches at the same time, as `train` finds them where they are automatic; what is computed
    /// again, and the plan. Of `request` only the size of its micro-batches changes.
    fn choose(&self, request: &PlanRequest<'_>, device: Device) -> anyhow::Result<Chosen> {
        let sized = |tokens: usize, at_once: usize| {
            let each = tokens_of_each(tokens, at_once);
            let MicroBatchSize { tokens, targets } =
                MicroBatchSize::of_whole_rows(self.batch, self.seq, each);
            PlanRequest { tokens, targets, at_once, ..request.clone() }
        };
        let policy = |tokens, at_once| self.memory.policy_of(&sized(tokens, at_once), device);
        let tokens = match self.micro_batch_tokens {
            Auto::Value(tokens) => tokens,
            Auto::Auto => {
                let keeps_all = |tokens| Ok(policy(tokens, self.at_once())? == Some(Recompute::None));
                tokens_for_step(self.batch * self.seq, keeps_all)?.0
            }
        };
        let (batch, threads) = (self.batch, request.threads);
        let rows = EqualRows { rows: batch, len: self.seq, tokens, is_judged: false, threads };
        let trained = request.trainable.tensor_lens(request.config)?.iter().sum::<usize>() as u64;
        let shape = (request.config, request.placement);
        let mut at_once = rows.at_once(self.micro_batches_at_once, shape, trained)?;
        if !matches!(self.micro_batches_at_once, Some(Auto::Value(_))) {
            at_once = several_or_one(at_once, |number| Ok(policy(tokens, number)?))?;
        }
        let texts = || Texts { shortest: 0, longest: self.seq, of_row: 1 };
        let chosen = self.memory.choose(&sized(tokens, at_once), device, Sharing::ALONE, texts)?;
        let (recompute, plan) = chosen?;
        Ok(Chosen { tokens, at_once, recompute, plan })
    }
}

/// The settings of a measurement: those that were given, or those that were found.
struct Chosen {
    /// Tokens computed at once.
    tokens: usize,
    /// Micro-batches at the same time.
    at_once: usize,
    recompute: Recompute,
    plan: MemoryPlan,
}

/// Times training steps.
pub fn run(args: BenchArgs) -> anyhow::Result<()> {
    args.validate()?;
    use_threads(&args.common)?;
    let config = shape(&args.shape)?;
    longest_row(&config, "seq", args.seq, true)?;
    let quantization = args.base.resolve()?;
    let device = device(&args.common, args.compute)?;
    warn_of(args.compute, &args.common);
    let placement = device.placement();
    let compute = args.compute.on(args.common.device, quantization.is_some());
    let mut lora = LoraConfig::new(args.target_modules.value.clone());
    lora.rank = args.rank;
    lora.use_dora = args.dora;
    lora.alpha = 2.0 * args.rank as f64;
    let lora = args.projections.checked(lora, &config)?;
    let format = match args.dtype {
        Some(WeightDtype::F32) => Format::F32,
        Some(WeightDtype::Bf16) => Format::BF16,
        None if quantization.is_some() || placement == Placement::Cuda(Float::Bf16) => Format::BF16,
        None => Format::F32,
    };
    let request = PlanRequest {
        config: &config,
        weights: config.weight_bytes(
            (format.block_bytes() as u64).min(placement.activation_float().bytes(1)),
            quantization,
        ),
        trainable: Trainable::Adapter(&lora),
        optimizer: OptimizerKind::AdamW,
        averaged: false,
        start: Start::Default,
        activation_dtype: args.memory.activation_dtype_on(placement),
        tokens: args.seq,
        targets: args.seq,
        at_once: 1,
        threads: rayon::current_num_threads(),
        has_tokenizer: false,
        placement,
        reference: None,
    };
    args.memory.check_blocks(config.num_hidden_layers)?;
    let Chosen { tokens, at_once, recompute, plan } = args.choose(&request, device)?;
    reserve(device, &plan)?;
    let options = BenchOptions {
        device,
        batch: args.batch,
        seq: args.seq,
        steps: args.steps,
        weights: RandomWeights { distribution: Distribution::Uniform, format, quantization, seed: 0 },
        compute_dtype: compute.into(),
        activations: ActivationPolicy { recompute, dtype: request.activation_dtype },
        planned_bytes: plan.total(),
        micro_batch_tokens: tokens,
        micro_batches_at_once: at_once,
        lora: lora.clone(),
    };
    let told = !args.common.quiet && !args.json;
    let result = bench(&config, &options, |done, seconds| {
        if told {
            let what = if done == 0 { "warm-up".to_owned() } else { format!("step {done}/{}", args.steps) };
            eprintln!("{what}: {}", duration(seconds));
        }
    })?;
    output::line(if args.json { serde_json::to_string(&result)? } else { table(&args, &result) })?;
    Ok(())
}

/// A built-in shape, or that of a `config.json`.
fn shape(text: &str) -> anyhow::Result<Config> {
    if let Some(config) = Config::named(text) {
        return Ok(config);
    }
    let file = std::fs::read_to_string(text).map_err(|e| {
        CliError::new(format!("--shape {text}: neither a published shape nor a readable config.json: {e}"))
            .hint(shape_hint(text))
    })?;
    Ok(Config::from_hf_json(&file)?)
}

fn table(args: &BenchArgs, r: &BenchResult) -> String {
    format!(
        "{shape}, {batch} x {seq} tokens, {parameters} parameters, {trainable} trainable, {place}\n\
         tokens/s      {tokens:.1}\n\
         s/step        {seconds:.3}\n\
         GFLOP/s       {gflops:.1} of {peak:.1} at best ({mfu})\n\
         peak memory   {taken}, planned {planned}",
        shape = args.shape,
        batch = args.batch,
        seq = args.seq,
        parameters = grouped(r.parameters),
        trainable = grouped(r.trainable_parameters),
        place = match r.peak_device_bytes {
            None => {
                let threads = counted(r.threads, "thread", "threads");
                match r.micro_batches_at_once {
                    1 => threads,
                    several => format!("{threads}, {several} micro-batches at the same time"),
                }
            }
            Some(_) => r.device.clone(),
        },
        tokens = r.tokens_per_s,
        seconds = r.seconds_per_step,
        gflops = r.gflops,
        peak = r.peak_gflops,
        mfu = percent(r.mfu, 1),
        taken = memory(r.peak_device_bytes.unwrap_or(r.peak_rss_bytes)),
        planned = memory(r.planned_bytes),
    )
}
