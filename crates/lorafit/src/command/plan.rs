//! `lorafit plan`: what fine-tuning a model costs in memory, and what fits.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum as _};
use serde::Serialize;

use lorafit_kernels::Placement;
use lorafit_kernels::gpu::Float;
use lorafit_kernels::quant::Quantization;
use lorafit_kernels::quant::four_bit::Code;
use lorafit_model::adapter::{LoraConfig, module_shape};
use lorafit_model::weights::ModelFiles;
use lorafit_model::{
    ActivationDtype, BaseQuantization, Config, Recompute, ShapeSource, Source, Trainable, WeightSelection,
};
use lorafit_train::{
    EvaluationRequest, MemoryPlan, MicroBatchSize, PlanRequest, SIDE_BY_SIDE, available_bytes,
};

use super::require;
use crate::base_args::{ComputeArgs, QuantArgs, multiplies_bf16};
use crate::config_file::Given;
use crate::engine::{self, grouped};
use crate::figure::{Axis, Figure, FileKind, Plot, StackedBars};
use crate::limits::{beyond_context, longest_row};
use crate::memory_args::{ByteSize, MemoryArgs, RecomputeChoice};
use crate::memory_table;
use crate::options::{DeviceChoice, Optimizer, TargetModules};
use crate::output;
use crate::outputs::{self, Inputs, Kind, Output};
use crate::report_error::CliError;

/// The flags of `plan`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
Examples:
  What a 7B model costs, by four methods:
    lorafit plan --model llama-2-7b
  What fits in 6 GiB, over a 4-bit base:
    lorafit plan --model mistral-7b --quant nf4 --double-quant --memory 6GiB
  What to choose on this machine:
    lorafit plan --model ./my-model --recommend
  For a talk, and for a program:
    lorafit plan --model llama-3.1-8b --svg cost.svg
    lorafit plan --model llama-3.1-8b --json

Sizes are exact: buffers are counted by the function that makes them in a run. GB are decimal. Full fine-tuning in f32,
LoRA and QLoRA are as lorafit runs them: what is trained, its gradients and moments, and activations in f32. A 16-bit run
of full fine-tuning, which lorafit does not have, keeps all of that in 16 bits.")]
pub struct PlanArgs {
    /// A published shape (llama-2-7b, qwen3-8b, ...), a config.json, a model folder, a .gguf file, or a hub id
    #[arg(long, value_name = "M", help_heading = "Work")]
    pub model: String,
    /// Rows per batch
    #[arg(long, value_name = "ROWS", default_value_t = 1, help_heading = "Work")]
    pub batch_size: usize,
    /// Tokens of a row
    #[arg(long, value_name = "TOKENS", default_value_t = 512, help_heading = "Work")]
    pub max_seq_len: usize,
    /// Tokens computed at once, as in train
    #[arg(long, value_name = "TOKENS", default_value_t = 512, help_heading = "Work")]
    pub micro_batch_tokens: usize,
    /// Width of the adapter
    #[arg(long, value_name = "R", default_value_t = 8, help_heading = "Work")]
    pub rank: usize,
    /// Modules that get an adapter: all-linear, a comma list, or regex:PATTERN
    #[arg(long, value_name = "MODULES", default_value = "all-linear", help_heading = "Work")]
    pub target_modules: TargetModules,
    /// How the optimizer keeps its moments
    #[arg(long, value_enum, default_value_t = Optimizer::Adamw, help_heading = "Work")]
    pub optimizer: Optimizer,
    /// Threads that compute [default: all cores]
    #[arg(long, value_name = "N", help_heading = "Work")]
    pub threads: Option<usize>,
    /// Where it would be computed: cpu, or cuda for the memory of an NVIDIA GPU, which need not be there
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Cpu, help_heading = "Work")]
    pub device: DeviceChoice,
    /// How the base is multiplied.
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// How the base is held in memory; QLoRA is nf4 with double quantisation unless this says otherwise.
    #[command(flatten)]
    pub base: QuantArgs,
    /// How much memory the run may take.
    #[command(flatten)]
    pub memory: MemoryArgs,
    /// Say in one paragraph what to choose on this machine, or within --memory
    #[arg(long, help_heading = "Output")]
    pub recommend: bool,
    /// Print everything as one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Draw the comparison as a stacked bar chart; a FILE.png is a picture, a FILE.csv the numbers behind it
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub svg: Option<PathBuf>,
}

/// Memory of the GPU that is planned for without --memory: that of the largest cards for desktop machines.
const GPU_BYTES: u64 = 24_000_000_000;

/// Memory sizes that devices are sold with, in decimal GB.
const DEVICES: [u64; 8] = [8, 12, 16, 24, 40, 48, 80, 141];

/// What one way of fine-tuning takes, in bytes.
#[derive(Clone, Debug, Serialize)]
struct MethodCost {
    /// How it is called.
    method: String,
    /// The model, and the adapter if there is one.
    weights: u64,
    /// Of what is trained.
    gradients: u64,
    /// AdamW's moments.
    optimizer: u64,
    /// Activations, working buffers and the program.
    activations: u64,
    /// All together.
    total: u64,
    /// Memory sizes of devices, in GB, that hold it.
    fits_gb: Vec<u64>,
    /// Its parts, of what lorafit runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    parts: Option<MemoryPlan>,
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

    fn fits(&self) -> String {
        self.fits_gb.first().map_or("none of these".to_owned(), |gb| format!("{gb} GB"))
    }
}

/// Full against low-rank parameters of a module.
#[derive(Clone, Debug, Serialize)]
struct ModuleCost {
    module: &'static str,
    outputs: usize,
    inputs: usize,
    full: u64,
    low_rank: u64,
    reduction: f64,
}

/// The most that fits.
#[derive(Clone, Debug, Serialize)]
struct Reach {
    method: String,
    memory: u64,
    /// Tokens of the longest row.
    longest_context: usize,
    /// Rows of `max_seq_len` tokens that can be computed at once.
    rows_at_once: usize,
}

/// What `eval --generate` takes.
#[derive(Clone, Debug, Serialize)]
struct Answering {
    /// How the base is held.
    base: String,
    /// Answers side by side: as many as fit.
    side_by_side: usize,
    /// Longest prompt.
    prompt_tokens: usize,
    /// Longest answer.
    max_new_tokens: usize,
    parts: MemoryPlan,
}

/// The longest answer of `eval` unless it is told otherwise.
const MAX_NEW_TOKENS: usize = 256;

/// Everything that is told.
#[derive(Clone, Debug, Serialize)]
struct Report {
    model: String,
    parameters: u64,
    trainable_parameters: u64,
    rank: usize,
    tokens_at_once: usize,
    methods: Vec<MethodCost>,
    modules: Vec<ModuleCost>,
    reach: Vec<Reach>,
    answering: Answering,
    recommendation: String,
}

/// A model to plan for.
struct Subject {
    config: Config,
    files: Option<ModelFiles>,
}

impl Subject {
    fn open(model: &str) -> anyhow::Result<Self> {
        if let Some(config) = Config::named(model) {
            return Ok(Subject { config, files: None });
        }
        let path = Path::new(model);
        if path.is_file() && path.extension().is_some_and(|e| e == "json") {
            return Subject::of_config(path);
        }
        let source = Source::resolve_shape(model, &mut |text| eprintln!("{text}")).with_context(|| {
            format!("{model} is not a published shape either; known are {}", names().join(", "))
        })?;
        match source {
            ShapeSource::Config(path) => Subject::of_config(&path),
            ShapeSource::Model(source) => {
                let files = ModelFiles::open_header(source.path())?;
                Ok(Subject { config: files.config().clone(), files: Some(files) })
            }
        }
    }

    /// A shape alone.
    fn of_config(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
        let config = Config::from_hf_json(&text).with_context(|| format!("{shown} cannot be used"))?;
        Ok(Subject { config, files: None })
    }

    /// `--model` of a run, of a model whose weights there are; `named` is what the user calls it.
    fn model_flag(&self, named: &str) -> Option<String> {
        match &self.files {
            Some(_) => Some(quoted(named)),
            // On the hub, if no file says so: its weights come with the first run.
            None if Config::named(named).is_none() && !Path::new(named).exists() => Some(quoted(named)),
            None => None,
        }
    }

    /// Whether the files hold quantised weights, which are not quantised again.
    fn is_quantized(&self) -> bool {
        self.files.as_ref().is_some_and(ModelFiles::is_quantized)
    }

    /// Weights in memory: as the files have them or, of a shape alone, in 16 bits.
    fn weight_bytes(&self, base: Option<BaseQuantization>, placement: Placement) -> anyhow::Result<u64> {
        Ok(match &self.files {
            Some(files) => files.weight_bytes(base, placement)?,
            None => self.config.weight_bytes(2, base),
        })
    }
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "_-./@:,+=".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

fn names() -> Vec<&'static str> {
    Config::names().collect()
}

/// Tells what fine-tuning costs.
pub fn run(args: PlanArgs, given: &Given) -> anyhow::Result<()> {
    for (name, value) in [
        ("batch-size", args.batch_size),
        ("max-seq-len", args.max_seq_len),
        ("micro-batch-tokens", args.micro_batch_tokens),
        ("rank", args.rank),
        ("threads", args.threads.unwrap_or(1)),
    ] {
        require(value > 0, name, value, "must be 1 or more")?;
    }
    args.svg.as_deref().map_or(Ok(()), |file| FileKind::of(file).map(drop))?;
    let inputs = Inputs::default().model("--model", &args.model);
    outputs::check(&inputs, Output::asked("--svg", args.svg.as_ref(), Kind::Figure))?;
    let report = report(&args, given)?;
    if let Some(file) = &args.svg {
        chart(&report).write(file)?;
    }
    output::line(match (args.json, args.recommend) {
        (true, _) => serde_json::to_string(&report)?,
        (false, true) => report.recommendation,
        (false, false) => table(&report),
    })?;
    Ok(())
}

fn report(args: &PlanArgs, given: &Given) -> anyhow::Result<Report> {
    let subject = Subject::open(&args.model)?;
    let config = &subject.config;
    let max_seq_len = longest_row(config, "max-seq-len", args.max_seq_len, given.has("max-seq-len"))?;
    let args = &PlanArgs { max_seq_len, ..args.clone() };
    args.memory.check_blocks(config.num_hidden_layers)?;
    let lora = LoraConfig {
        rank: args.rank,
        alpha: 2.0 * args.rank as f64,
        ..LoraConfig::new(args.target_modules.value.clone())
    };
    let MicroBatchSize { tokens, targets } =
        MicroBatchSize::of_equal_rows(args.batch_size, args.max_seq_len, args.micro_batch_tokens);
    let threads = args.threads.or(std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let optimizer = args.optimizer.into();
    let placement = engine::placement(args.device, args.compute);
    let activation_dtype = args.memory.activation_dtype_on(placement);
    let request = |weights| PlanRequest {
        config,
        weights,
        trainable: Trainable::Adapter(&lora),
        optimizer,
        activation_dtype,
        tokens,
        targets,
        threads,
        placement,
    };
    let asked = args.base.resolve()?;
    if let (Some(flags), true) = (args.base.flags(), subject.is_quantized()) {
        let text = format!("{flags}: the weights of {} are quantised already", args.model);
        return Err(CliError::usage(text).hint("leave --quant out: they are used as they are").into());
    }
    let nf4 = Quantization::FourBit { code: Code::Nf4, block_len: 64, double: true };
    let quantized = asked.unwrap_or(BaseQuantization { quantization: nf4, head: false });
    let keep = match args.memory.recompute {
        Some(RecomputeChoice::Fixed(recompute)) => recompute,
        Some(RecomputeChoice::Auto) | None => Recompute::None,
    };
    let plain = request(subject.weight_bytes(None, placement)?);
    let small = request(subject.weight_bytes(Some(quantized), placement)?);

    let parameters = config.parameters();
    let all = WeightSelection::all();
    let full = PlanRequest { trainable: Trainable::Weights(&all), ..request(4 * parameters) }.plan(keep)?;
    let full = MethodCost::of("full, f32", &full);
    let half = MethodCost::new(
        "full, 16-bit",
        full.weights / 2,
        full.gradients / 2,
        full.optimizer / 2,
        full.activations / 2,
    );
    let stored = if subject.files.is_some() { "as stored" } else { "16-bit" };
    let mut methods = vec![
        full,
        half,
        MethodCost::of(format!("LoRA, base {stored}"), &plain.plan(keep)?),
        MethodCost::of(format!("QLoRA, {}", quantized.quantization), &small.plan(keep)?),
    ];
    if keep != Recompute::Full {
        let recomputed = format!("QLoRA, {}, recompute", quantized.quantization);
        methods.push(MethodCost::of(recomputed, &small.plan(Recompute::Full)?));
    }
    let modules = config
        .modules()
        .into_iter()
        .filter(|module| lora.targets.contains(0, *module))
        .map(|module| {
            let (outputs, inputs) = module_shape(config, module);
            let (full, low_rank) = ((outputs * inputs) as u64, (lora.rank * (outputs + inputs)) as u64);
            let reduction = full as f64 / low_rank as f64;
            ModuleCost { module: module.name(), outputs, inputs, full, low_rank, reduction }
        })
        .collect();

    let memory = args.memory.memory.map(|size| size.0);
    let limit = memory.or_else(|| match args.device {
        DeviceChoice::Auto | DeviceChoice::Cpu => Some(available_bytes()? / 10 * 9),
        DeviceChoice::Cuda(_) => Some(GPU_BYTES),
    });
    let limit = limit.unwrap_or(u64::MAX);
    let mut reach = Vec::new();
    for (method, request) in [("LoRA", &plain), ("QLoRA", &small)] {
        for recompute in [Recompute::None, Recompute::Full] {
            let longest = request.most_tokens(recompute, limit)?;
            reach.push(Reach {
                method: format!("{method}, recompute {}", RecomputeChoice::Fixed(recompute)),
                memory: limit,
                longest_context: longest.min(config.context()),
                rows_at_once: longest / args.max_seq_len,
            });
        }
    }
    let prompts = [args.max_seq_len; SIDE_BY_SIDE];
    let evaluation = EvaluationRequest {
        config,
        weights: small.weights,
        lora: Some(&lora),
        tokens,
        prompts: &prompts,
        max_new_tokens: MAX_NEW_TOKENS,
        threads,
        placement,
    };
    let (side_by_side, parts) = match evaluation.fit(limit)? {
        Some(found) => found,
        None => (1, evaluation.plan(1)?),
    };
    let answering = Answering {
        base: quantized.quantization.to_string(),
        side_by_side,
        prompt_tokens: args.max_seq_len,
        max_new_tokens: MAX_NEW_TOKENS,
        parts,
    };
    Ok(Report {
        answering,
        model: args.model.clone(),
        parameters,
        trainable_parameters: lora.parameters(config)?,
        rank: args.rank,
        tokens_at_once: tokens,
        recommendation: recommend(args, given, &subject, &plain, &small, limit)?,
        methods,
        modules,
        reach,
    })
}

/// A run that fits.
struct Fitted<'a> {
    request: PlanRequest<'a>,
    recompute: Recompute,
    plan: MemoryPlan,
    /// Why activations are kept in 16 bits, if they are and were not asked to be.
    kept: String,
}

/// What a base is quantised with unless something else is asked for.
const QLORA: &str = " --quant nf4 --double-quant";

impl PlanArgs {
    /// The recomputation that is asked for, if it fits, or the least that does.
    fn least_recomputed<'a>(
        &self,
        request: &PlanRequest<'a>,
        limit: u64,
    ) -> anyhow::Result<Option<Fitted<'a>>> {
        let Some(RecomputeChoice::Fixed(recompute)) = self.memory.recompute else {
            return least_recomputed(request, limit);
        };
        let plan = request.plan(recompute)?;
        let fitted = Fitted { request: request.clone(), recompute, plan, kept: String::new() };
        Ok((plan.total() <= limit).then_some(fitted))
    }

    /// What else was typed that `train` has too.
    fn flags_of_train(&self, given: &Given) -> String {
        let optimizer = self.optimizer.to_possible_value().expect("every optimizer has a name");
        let compute = self.compute.compute_dtype.and_then(|dtype| dtype.to_possible_value());
        [
            ("optimizer", Some(optimizer.get_name().to_owned())),
            ("compute-dtype", compute.map(|dtype| dtype.get_name().to_owned())),
            ("batch-size", Some(self.batch_size.to_string())),
            ("threads", self.threads.map(|threads| threads.to_string())),
            (
                "device",
                Some(self.device.to_string()).filter(|_| matches!(self.device, DeviceChoice::Cuda(_))),
            ),
        ]
        .into_iter()
        .filter(|(flag, _)| given.has(flag))
        .filter_map(|(flag, value)| Some(format!(" --{flag} {}", value?)))
        .collect()
    }
}

/// The least recomputation that fits; with activations in 16 bits where that saves some.
fn least_recomputed<'a>(request: &PlanRequest<'a>, limit: u64) -> anyhow::Result<Option<Fitted<'a>>> {
    let Some((recompute, plan)) = request.fit(limit)? else { return Ok(None) };
    let halved = PlanRequest { activation_dtype: ActivationDtype::Bf16, ..request.clone() };
    let blocks = request.config.num_hidden_layers;
    let recomputed = |recompute| match recompute {
        Recompute::None => 0,
        Recompute::Blocks(some) => some,
        Recompute::Full => blocks,
    };
    // What a GPU computes in 16 bits is kept so anyway.
    let in_16_bits = request.placement.activation_float() == Float::Bf16;
    Ok(Some(match halved.fit(limit)? {
        Some((fewer, plan)) if !in_16_bits && recomputed(fewer) < recomputed(recompute) => {
            let kept = format!(
                " Activations kept in 16 bits take little more than half the memory, so that {} instead of {} of \
                 {blocks} blocks are computed twice; that rounds gradients, their norm by some 0.2 %.",
                recomputed(fewer),
                recomputed(recompute),
            );
            Fitted { request: halved, recompute: fewer, plan, kept }
        }
        _ => Fitted { request: request.clone(), recompute, plan, kept: String::new() },
    }))
}

/// What to say of 16-bit products where the processor computes, has instructions for them and would not use them.
fn faster_products(args: &PlanArgs, quantized: bool) -> &'static str {
    match args.device {
        DeviceChoice::Auto | DeviceChoice::Cpu
            if multiplies_bf16() && !quantized && args.compute.compute_dtype.is_none() =>
        {
            " This processor multiplies in bf16: with --compute-dtype bf16 it trains up to 1.7 times as fast, from products \
             of rounded numbers."
        }
        _ => "",
    }
}

/// Flags that a command would have, where there is none.
fn told_without_command(command: &str, dtype: &str, flags: &str) -> String {
    match (command.starts_with("lorafit"), format!("{dtype}{flags}")) {
        (false, flags) if !flags.is_empty() => format!(" Flags:{flags}."),
        _ => String::new(),
    }
}

/// The least change to the base and the least recomputation that fit, in words and as a command.
fn recommend(
    args: &PlanArgs,
    given: &Given,
    subject: &Subject,
    plain: &PlanRequest<'_>,
    small: &PlanRequest<'_>,
    limit: u64,
) -> anyhow::Result<String> {
    let memory = ByteSize(limit);
    let stored = (plain, "the base as it is stored", String::new());
    let flags = args.base.flags().map_or_else(|| QLORA.to_owned(), |flags| format!(" {flags}"));
    let reduced = (small, "a quantised base", flags);
    // What is quantised already is used as it is, and what is to be quantised is quantised.
    let choices = [
        Some(stored).filter(|_| args.base.quant.is_none()),
        Some(reduced).filter(|_| !subject.is_quantized()),
    ];
    for (request, base, flags) in choices.into_iter().flatten() {
        let Some(Fitted { request, recompute, plan, kept }) = args.least_recomputed(request, limit)? else {
            continue;
        };
        let positions = request.config.context();
        // Longer rows than the model is made for can be trained, if they are asked for.
        let reach = positions.max(args.max_seq_len);
        let beyond = beyond_context(request.config, args.max_seq_len)
            .map_or_else(String::new, |what| format!(" {what}."));
        let longest = request.most_tokens(Recompute::Full, limit)?.min(reach);
        let at_once = request.most_tokens(recompute, limit)?;
        let at_once = match given.has("micro-batch-tokens") {
            true => args.micro_batch_tokens,
            false => (256..=2048).rev().step_by(256).find(|t| *t <= at_once).unwrap_or(request.tokens),
        };
        let recompute = RecomputeChoice::Fixed(recompute);
        let dtype = match request.activation_dtype {
            ActivationDtype::F32 => "",
            ActivationDtype::Bf16 => " --activation-dtype bf16",
        };
        let model = subject.model_flag(&args.model);
        let targets = match args.target_modules.to_string() {
            all if all == "all-linear" => String::new(),
            some => format!(" --target-modules {}", quoted(&some)),
        };
        let more = args.flags_of_train(given);
        let command = model.map(|model| {
            format!(
                "lorafit train --model {model} --data train.jsonl --out runs/first --rank {rank} --max-seq-len {seq} \
                 --recompute {recompute} --micro-batch-tokens {at_once}{targets}{dtype}{flags}{more}",
                rank = args.rank,
                seq = args.max_seq_len,
            )
        });
        let command = command.unwrap_or_else(|| {
            format!(
                "{} is a shape without weights: for a command, plan with the model's folder, its .gguf file or its hub id.",
                args.model
            )
        });
        return Ok(format!(
            "Within {memory}, train over {base}: rank {rank} on {targets} with --recompute {recompute} takes {total} \
             for rows of {seq} tokens. A batch of any size fits, since {at_once} tokens are computed at once; rows may \
             be up to {longest} tokens long with --recompute full.{kept}{beyond}{speed}{asked}\n{command}",
            asked = told_without_command(&command, dtype, &format!("{flags}{more}")),
            speed = faster_products(args, !flags.is_empty()),
            rank = args.rank,
            targets = args.target_modules,
            seq = args.max_seq_len,
            total = ByteSize(plan.total()),
        ));
    }
    let asked_for = args.memory.recompute.filter(|recompute| *recompute != RecomputeChoice::Auto);
    let recompute = match asked_for {
        Some(RecomputeChoice::Fixed(recompute)) => recompute,
        Some(RecomputeChoice::Auto) | None => Recompute::Full,
    };
    let least = small.plan(recompute)?;
    let longest = small.most_tokens(recompute, limit)?;
    let way_out = match longest {
        0 => "choose a smaller model or more memory".to_owned(),
        tokens => format!("rows of up to {tokens} tokens fit with --max-seq-len {tokens}"),
    };
    Ok(format!(
        "Rows of {} tokens do not fit in {memory}: even over a quantised base {} they take {}; \
         {way_out}.",
        args.max_seq_len,
        match asked_for {
            Some(recompute) => format!("with --recompute {recompute}"),
            None => "with full recomputation".to_owned(),
        },
        ByteSize(least.total())
    ))
}

fn gb(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / 1e9)
}

/// The methods as stacked bars, against the memory that devices have.
fn chart(report: &Report) -> Figure {
    let bar = |cost: &MethodCost| {
        let parts = [cost.weights, cost.gradients, cost.optimizer, cost.activations];
        (cost.method.clone(), parts.map(|bytes| bytes as f64 / 1e9).to_vec())
    };
    // Where everything fits the smallest device, lines of devices would be outside.
    let x = match report.methods.iter().all(|cost| cost.fits_gb.contains(&DEVICES[0])) {
        true => Axis::linear("GB"),
        false => Axis {
            marks: DEVICES.map(|gb| gb as f64).to_vec(),
            ..Axis::linear("GB; upright lines: memory of devices")
        },
    };
    let stacked = StackedBars {
        x,
        y_label: format!(
            "{:.2} billion parameters, rank {}, {} tokens at once",
            report.parameters as f64 / 1e9,
            report.rank,
            grouped(report.tokens_at_once as u64)
        ),
        parts: ["weights", "gradients", "optimizer", "activations"].map(str::to_owned).to_vec(),
        bars: report.methods.iter().map(bar).collect(),
    };
    Figure {
        name: "plan".to_owned(),
        title: format!("Memory to fine-tune {}", report.model),
        description: "What each way of fine-tuning takes, by its parts.".to_owned(),
        plot: Plot::StackedBars(stacked),
    }
}

fn table(report: &Report) -> String {
    let mut lines = vec![
        format!(
            "{}: {} parameters; an adapter of rank {} has {} ({:.3} %); {} tokens at once",
            report.model,
            grouped(report.parameters),
            report.rank,
            grouped(report.trainable_parameters),
            100.0 * report.trainable_parameters as f64 / report.parameters as f64,
            grouped(report.tokens_at_once as u64)
        ),
        String::new(),
        format!(
            "{:<26}{:>9}{:>11}{:>11}{:>13}{:>9}  fits from",
            "GB", "weights", "gradients", "optimizer", "activations", "total"
        ),
    ];
    lines.extend(report.methods.iter().map(|m| {
        format!(
            "{:<26}{:>9}{:>11}{:>11}{:>13}{:>9}  {}",
            m.method,
            gb(m.weights),
            gb(m.gradients),
            gb(m.optimizer),
            gb(m.activations),
            gb(m.total),
            m.fits()
        )
    }));
    lines.push(String::new());
    let parts = |m: &MethodCost| Some((m.method.clone(), m.parts?));
    let mut columns: Vec<(String, MemoryPlan)> = report.methods.iter().filter_map(parts).collect();
    let answering = &report.answering;
    columns.push((format!("{} answers", answering.side_by_side), answering.parts));
    lines.push(memory_table::table(&columns));
    lines.push(format!(
        "answers: eval --generate over {}, prompts of {} tokens, up to {} new ones",
        answering.base,
        grouped(answering.prompt_tokens as u64),
        answering.max_new_tokens
    ));
    lines.push(String::new());
    lines.push(format!("{:<12}{:>15}{:>16}{:>12}{:>9}", "module", "shape", "full", "low-rank", "fewer"));
    lines.extend(report.modules.iter().map(|m| {
        format!(
            "{:<12}{:>15}{:>16}{:>12}{:>8.0}x",
            m.module,
            format!("{} x {}", m.outputs, m.inputs),
            grouped(m.full),
            grouped(m.low_rank),
            m.reduction
        )
    }));
    lines.push(String::new());
    lines.push(match report.reach.first() {
        Some(reach) => {
            format!(
                "{:<26}{:>16}{:>16}",
                format!("within {}", ByteSize(reach.memory)),
                "longest row",
                "rows at once"
            )
        }
        None => String::new(),
    });
    lines.extend(report.reach.iter().map(|r| {
        format!(
            "{:<26}{:>16}{:>16}",
            r.method,
            grouped(r.longest_context as u64),
            grouped(r.rows_at_once as u64)
        )
    }));
    lines.join("\n")
}
