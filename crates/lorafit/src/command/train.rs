//! `lorafit train`: its flags, which are also the keys of its configuration file.

use std::path::{Component, Path, PathBuf};
use std::sync::atomic::Ordering;

use clap::{ArgAction, Args};
use serde::{Deserialize, Serialize};
use serde_json::json;

use lorafit_data::statistics::Statistics;
use lorafit_data::{DataError, Dataset, GenerationRow, Order, Source, Subset, generation_rows};
use lorafit_model::{ActivationDtype, ActivationPolicy, Parameters, Recompute, Trainable, WeightModules};
use lorafit_train::{
    Checkpoint, Duration, EvaluationRecord, Identity, MemoryPlan, Observer, PlanRequest, RunError, RunFolder,
    RunHistory, RunInfo, RunLock, SkipRecord, Start, StepRecord, Summary, TrainData, TrainError,
    TrainOptions, rss_bytes, train,
};

use super::require;
use crate::base_args::{ComputeArgs, QuantArgs, TemplateArgs};
use crate::base_name;
use crate::cli::Common;
use crate::config_file::{self, Given};
use crate::data_args::CacheArgs;
use crate::engine::{Base, counted, grouped, open_base, open_shape, placement, reserve, use_threads};
use crate::idle::{self, Idle};
use crate::interrupt;
use crate::limits::Limits;
use crate::memory_args::{MemoryArgs, RecomputeChoice};
use crate::memory_table;
use crate::model_card::Card;
use crate::options::{
    DeviceChoice, Init, Layers, Method, Optimizer, SaveChoice, Scheduler, TargetModules, TrainModules,
};
use crate::output;
use crate::outputs::{self, Inputs, Kind, Output};
use crate::progress::Progress;
use crate::report_error::CliError;
use crate::resume::{self, Resumption};
use crate::row_args::{self, RowArgs, Validation, data_help, one_or_many, shapes, skipped, treated};
use crate::safety_args::SafetyArgs;
use crate::trained::{Trained, alternatives, model_folder};

const EXAMPLES: &str = "\
Examples:
  The defaults, which suit a few hundred to a few thousand rows:
    lorafit train --model M --data train.jsonl --out runs/first
  Watching held-out rows; the best adapter is kept:
    lorafit train --model M --data train.jsonl --eval-data dev.jsonl --eval-every 50 --out runs/dev
  Less memory: shorter rows, fewer tokens at once, the upper half of a 30-block model only:
    lorafit train --model M --data D --out runs/small --max-seq-len 512 --micro-batch-tokens 256 --layers 15-
  A run that was interrupted, or whose machine was, goes on where it stopped:
    lorafit train --resume runs/first
  Training the weights themselves, or the upper half of them; the result is a model folder, runs/full/model:
    lorafit train --model M --data train.jsonl --method full --out runs/full
    lorafit train --model M --data train.jsonl --method full --layers 15- --train-modules mlp,norms --out runs/upper
  Pretraining a small model of its own: a folder with config.json and a tokenizer, and text
    lorafit train --model tiny --data books.txt --method full --init random --out runs/tiny
  Two sources, of the second a tenth, and 5 % of all held out to watch:
    lorafit train --model M --data chats.jsonl --data 'web/*.parquet:0.1' --validation 5% --out runs/mix
  Everything in a file, one thing changed:
    lorafit train --config run.toml --lr 5e-4 --out runs/hot

Where to look first when it does not learn: --lr (try 3x more, then 3x less), --epochs, then --rank.";

/// Every flag of a training run. Field by field this is also the configuration file and the
/// `config.toml` of the run folder.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(after_long_help = format!("{EXAMPLES}\n\n{}", data_help()))]
pub struct TrainArgs {
    /// The base model: a Hugging Face folder, a .gguf file, or a hub id (org/name or org/name@revision)
    ///
    /// Its weights stay frozen and are read as they are stored: a 4-bit file needs 4-bit memory. With --method full those
    /// that are trained are decoded to f32 first.
    #[arg(long, value_name = "M", help_heading = "Input and output")]
    pub model: Option<String>,
    /// Training rows, described below; repeated for several sources
    #[arg(long, value_name = "DATA", help_heading = "Input and output")]
    #[serde(with = "one_or_many", default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<String>,
    /// Folder for the run: the adapter (or the folder model/), metrics.jsonl and config.toml
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    pub out: Option<PathBuf>,
    /// Replace the run that --out already holds, instead of refusing
    #[arg(long, help_heading = "Input and output")]
    #[serde(skip)]
    pub overwrite: bool,
    /// Read flags from a TOML or YAML file; a flag typed here wins over the file
    ///
    /// Keys are the flags' names, in kebab-case or snake_case: `max-steps = 100`. The config.toml of a run folder
    /// is such a file.
    #[arg(long, value_name = "FILE", help_heading = "Input and output")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Go on with the run in this folder, from its newest checkpoint; needs no other flag
    ///
    /// The run is the same bits as one that never stopped. Flags that leave the arithmetic as it is (--log-every,
    /// --threads, --recompute, ...) may be given; any other change is refused by name.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["config", "out", "overwrite"])]
    #[arg(help_heading = "Input and output")]
    #[serde(skip)]
    pub resume: Option<PathBuf>,
    /// Go on although something differs from the checkpoint, and tell what
    #[arg(long, requires = "resume", help_heading = "Input and output")]
    #[serde(skip)]
    pub resume_anyway: bool,
    /// Print the configuration as it would be used, as TOML, and stop
    #[arg(long, help_heading = "Input and output")]
    #[serde(skip)]
    pub print_config: bool,
    /// What the adapter calls its base: a model on the hub (org/name) or a folder, by which PEFT finds it
    ///
    /// [default: what --model was; of a .gguf file the model on the hub that its metadata names, if it names one]
    #[arg(long, value_name = "NAME", help_heading = "Input and output")]
    pub base_name: Option<String>,
    /// Write no model card (README.md) beside what was trained
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, help_heading = "Input and output")]
    #[arg(default_value_t = false, default_missing_value = "true", hide_default_value = true)]
    #[arg(hide_possible_values = true, action = ArgAction::Set)]
    pub no_card: bool,
    /// A name for the run, told in its progress and kept in its config.toml [default: the last part of --out]
    #[arg(long, value_name = "NAME", help_heading = "Input and output")]
    pub name: Option<String>,

    /// What is trained
    ///
    /// Full fine-tuning takes 16 bytes a weight (value, gradient, two moments) where LoRA takes the base as it is stored
    /// and little more; `lorafit plan` tells both.
    #[arg(long, value_enum, default_value_t = Method::Lora, help_heading = "Method")]
    pub method: Method,
    /// Where --method full begins
    ///
    /// With random, --model is a folder or a hub id with config.json and a tokenizer (or any other model), whose weights are
    /// not read nor fetched: they are drawn as transformers does, from a normal distribution with the configuration's
    /// `initializer_range`, and norms are 1.
    #[arg(long, value_enum, default_value_t = Init::Model, help_heading = "Method")]
    pub init: Init,
    /// Weights that --method full trains: all, a comma list, or regex:PATTERN [default: all]
    ///
    /// The list is of q_proj k_proj v_proj o_proj gate_proj up_proj down_proj, self_attn, mlp, embed_tokens, lm_head, norms,
    /// biases. A pattern has to match a whole module path such as model.layers.3.mlp.up_proj. With --layers what lies
    /// outside of blocks (embed_tokens, lm_head, norm) is trained only if it is named here.
    #[arg(long, value_name = "MODULES", help_heading = "Method")]
    pub train_modules: Option<TrainModules>,
    /// How --method full stores the weights of its result [default: bf16 where the base is 16-bit, else f32]
    #[arg(long, value_enum, value_name = "DTYPE", help_heading = "Method")]
    pub save_dtype: Option<SaveChoice>,
    /// Blocks that are trained, counted from 0, both ends included: 0-15, or 8- for 8 to the last [default: all]
    ///
    /// Nothing below the lowest is back-propagated, so `--layers` with the upper half saves about a quarter of the time.
    #[arg(long, value_name = "RANGE", help_heading = "Method")]
    pub layers: Option<Layers>,

    /// Width of the adapter: how much it can learn, 4 to 64
    ///
    /// Memory and time grow little with it. 8 to 16 suits one task; more helps with much data.
    #[arg(long, value_name = "R", default_value_t = 8, help_heading = "Adapter")]
    pub rank: usize,
    /// Strength of the adapter: its output is scaled by alpha / rank; usually 1 to 2 times the rank
    #[arg(long, value_name = "A", default_value_t = 16.0, help_heading = "Adapter")]
    pub alpha: f64,
    /// Share of the adapter's input dropped at random while training; 0 to 0.1, more for few rows
    #[arg(long, value_name = "P", default_value_t = 0.0, help_heading = "Adapter")]
    pub dropout: f64,
    /// Modules that get an adapter: all-linear, a comma list, or regex:PATTERN
    ///
    /// The list is of q_proj k_proj v_proj o_proj (attention) and gate_proj up_proj down_proj (MLP). All of them learn
    /// best for their size; attention alone is faster. A pattern has to match a whole name such as
    /// model.layers.3.mlp.up_proj.
    #[arg(long, value_name = "MODULES", default_value = "all-linear", help_heading = "Adapter")]
    pub target_modules: TargetModules,
    /// Start from an existing adapter (a PEFT folder) instead of a fresh one; it brings its own rank and modules
    #[arg(long, value_name = "DIR", help_heading = "Adapter")]
    pub adapter: Option<PathBuf>,

    /// Learning rate at its peak; 1e-4 to 1e-3 for LoRA, ten times what full fine-tuning takes [default: 2e-4, with
    /// --method full 2e-5, with --init random 1e-3]
    #[arg(long, value_name = "LR", help_heading = "Optimisation")]
    pub lr: Option<f64>,
    /// How the optimizer keeps its moments
    #[arg(long, value_enum, default_value_t = Optimizer::Adamw, help_heading = "Optimisation")]
    pub optimizer: Optimizer,
    /// How the learning rate goes on after the warm-up
    #[arg(long, value_enum, default_value_t = Scheduler::Cosine, help_heading = "Optimisation")]
    pub scheduler: Scheduler,
    /// Share of the steps over which the learning rate rises from 0; 0 to 0.1
    #[arg(long, value_name = "SHARE", default_value_t = 0.03, help_heading = "Optimisation")]
    pub warmup_ratio: f64,
    /// AdamW's pull of matrices towards zero; 0 to 0.1
    #[arg(long, value_name = "W", default_value_t = 0.0, help_heading = "Optimisation")]
    pub weight_decay: f64,
    /// Longer gradients are scaled down to this norm; 0 turns it off
    #[arg(long, value_name = "NORM", default_value_t = 1.0, help_heading = "Optimisation")]
    pub max_grad_norm: f64,
    /// Rows per batch; 1 to 32
    ///
    /// Memory does not grow with it: what is computed at once is set by --micro-batch-tokens.
    #[arg(long, value_name = "ROWS", default_value_t = 4, help_heading = "Optimisation")]
    pub batch_size: usize,
    /// Batches per optimizer step; a step sees batch-size x gradient-accumulation rows
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Optimisation")]
    pub gradient_accumulation: usize,
    /// Times to go through the data; 1 to 5, and 0.5 is half of it [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "max_steps", help_heading = "Optimisation")]
    pub epochs: Option<f64>,
    /// Stop after this many optimizer steps, going through the data as often as it takes; instead of --epochs
    #[arg(long, value_name = "N", help_heading = "Optimisation")]
    pub max_steps: Option<usize>,
    /// Where all chance comes from: initial adapter or weights, order of rows, dropout
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Optimisation")]
    pub seed: u64,

    /// Which rows are read, and how.
    #[command(flatten)]
    #[serde(flatten)]
    pub rows: RowArgs,
    /// Keep the rows in file order
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, help_heading = "Data")]
    #[arg(default_value_t = false, default_missing_value = "true", hide_default_value = true)]
    #[arg(hide_possible_values = true, action = ArgAction::Set)]
    pub no_shuffle: bool,

    /// Held-out rows, as --data: their loss and perplexity are told while training, and the best adapter is kept
    #[arg(long, value_name = "DATA", help_heading = "Watching")]
    #[serde(with = "one_or_many", default, skip_serializing_if = "Vec::is_empty")]
    pub eval_data: Vec<String>,
    /// What --split is for --eval-data
    #[arg(long, value_name = "NAME", help_heading = "Watching")]
    pub eval_split: Option<String>,
    /// Hold out rows of --data instead: a share (5%) or a number of them, chosen by --seed, not trained on
    #[arg(long, value_name = "SHARE|ROWS", conflicts_with = "eval_data", help_heading = "Watching")]
    pub validation: Option<Validation>,
    /// Optimizer steps between two looks at the held-out rows [default: at the end only]
    #[arg(long, value_name = "STEPS", help_heading = "Watching")]
    pub eval_every: Option<usize>,
    /// Optimizer steps between two lines of progress when it is not shown on a terminal [default: a line every 10 s]
    #[arg(long, value_name = "STEPS", help_heading = "Watching")]
    pub log_every: Option<usize>,

    /// Tokens computed at once; the knob for memory, 256 to 8192
    ///
    /// A batch is cut into parts of at most this many tokens (a longer row stays whole) and their gradients are added:
    /// the result is that of the whole batch. Fewer need less memory, more are a little faster.
    #[arg(long, value_name = "TOKENS", default_value_t = 512, help_heading = "Machine")]
    pub micro_batch_tokens: usize,
    /// Compute every row by itself, even where rows of a batch begin alike
    ///
    /// By default what they share is computed once, which changes nothing but the speed; with --dropout the shared
    /// tokens are dropped alike.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, help_heading = "Machine")]
    #[arg(default_value_t = false, default_missing_value = "true", hide_default_value = true)]
    #[arg(hide_possible_values = true, action = ArgAction::Set)]
    pub no_prefix_sharing: bool,
    /// What is done so that nothing is lost.
    #[command(flatten)]
    #[serde(flatten)]
    pub safety: SafetyArgs,
    /// How much memory the run may take.
    #[command(flatten)]
    #[serde(flatten)]
    pub memory: MemoryArgs,
    /// How the base is held in memory.
    #[command(flatten)]
    #[serde(flatten)]
    pub base: QuantArgs,
    /// How the base is multiplied.
    #[command(flatten)]
    #[serde(flatten)]
    pub compute: ComputeArgs,
    /// Where tokenised data is kept.
    #[command(flatten)]
    #[serde(flatten)]
    pub cache: CacheArgs,
    /// How conversations are written.
    #[command(flatten)]
    #[serde(flatten)]
    pub template: TemplateArgs,
    /// The flags of every verb.
    #[command(flatten)]
    #[serde(flatten)]
    pub common: Common,
}

impl TrainArgs {
    /// Adds the configuration file, fills in what depends on other flags, and refuses what makes no sense.
    fn resolve(self, given: &Given) -> anyhow::Result<TrainArgs> {
        let hint = "give the run that is to go on: --resume RUN, without --out";
        let acts = self.resume.is_some();
        idle::refuse(given, [Idle { flag: "resume-anyway", acts, why: "without --resume", hint }])?;
        if let Some(run) = self.resume.as_ref().filter(|run| !run.join("config.toml").exists()) {
            let text = format!("--resume {}: no run is there (a run has a config.toml)", run.display());
            return Err(CliError::usage(text).hint("give the folder that --out named").into());
        }
        let mut resolved = match (&self.config, &self.resume) {
            (Some(file), _) => config_file::merge(&self, given, file)?,
            (None, Some(run)) => config_file::merge(&self, given, &run.join("config.toml"))?,
            (None, None) => self.clone(),
        };
        // Typed paths are meant from here, those of a run from where it was begun.
        if let Some(run) = &self.resume
            && let Some(folder) = config_file::read::<TrainArgs>(&run.join("config.toml"))?.begun_in(run)
            && !is_here(&folder)
        {
            let (typed, adapter) = (resolved.clone(), resolved.adapter.clone());
            let kept = resolved.with_paths_from(&folder);
            resolved = config_file::typed_over(kept, &typed, given)?;
            // With a checkpoint it is a name in the run's identity, and is not opened.
            if Checkpoint::newest(run).is_ok_and(|newest| newest.checkpoint.is_some()) {
                resolved.adapter = adapter;
            }
        }
        if given.has("no-cache") && !given.has("cache-dir") {
            resolved.cache.cache_dir = None;
        }
        // What concerns this call only is not in the file.
        (resolved.overwrite, resolved.print_config) = (self.overwrite, self.print_config);
        resolved.config = self.config;
        if self.resume.is_some() {
            // The folder may have been moved since.
            resolved.out.clone_from(&self.resume);
        }
        (resolved.resume, resolved.resume_anyway) = (self.resume, self.resume_anyway);
        resolved.complete(given)
    }

    /// Fills in what depends on other flags, and refuses what makes no sense.
    pub fn complete(mut self, given: &Given) -> anyhow::Result<Self> {
        if self.max_steps.is_none() {
            self.epochs.get_or_insert(1.0);
        }
        if self.name.is_none() {
            let folder = self.out.as_ref().and_then(|out| out.file_name());
            self.name = folder.map(|name| name.to_string_lossy().into_owned());
        }
        self.lr.get_or_insert(match (self.method, self.init) {
            (Method::Lora, _) => 2e-4,
            (Method::Full, Init::Model) => 2e-5,
            (Method::Full, Init::Random) => 1e-3,
        });
        self.check_method(given)?;
        self.check_init()?;
        self.validate()?;
        Ok(self)
    }

    /// Refuses flags of the other method.
    fn check_method(&self, given: &Given) -> anyhow::Result<()> {
        const OF_LORA: [&str; 7] =
            ["rank", "alpha", "dropout", "target-modules", "adapter", "quant", "base-name"];
        const OF_FULL: [&str; 2] = ["train-modules", "save-dtype"];
        let (others, method, hint) = match self.method {
            Method::Lora => (&OF_FULL[..], "lora", "it belongs to --method full; LoRA has --target-modules"),
            Method::Full => (&OF_LORA[..], "full", "it belongs to --method lora; full has --train-modules"),
        };
        match config_file::set_among(self, given, others)? {
            Some(name) => {
                let text = format!("--{name} has no meaning with --method {method}");
                Err(CliError::usage(text).hint(hint).into())
            }
            None => Ok(()),
        }
    }

    /// Refuses flags that an adapter brings itself: they would change nothing.
    pub fn check_adapter(&self, given: &Given) -> anyhow::Result<()> {
        const BROUGHT: [&str; 5] = ["rank", "alpha", "dropout", "target-modules", "layers"];
        // Of a run that is resumed the checkpoint decides.
        let Some(adapter) = self.adapter.as_ref().filter(|_| self.resume.is_none()) else { return Ok(()) };
        match config_file::set_among(self, given, &BROUGHT)? {
            Some(name) => {
                let text = format!("--{name} has no meaning with --adapter, which brings its own");
                let hint =
                    format!("leave it out to train {} as it is, or leave out --adapter", adapter.display());
                Err(CliError::usage(text).hint(hint).into())
            }
            None => Ok(()),
        }
    }

    /// Refuses random weights that would never be trained.
    fn check_init(&self) -> Result<(), CliError> {
        let all =
            self.train_modules.as_ref().is_none_or(|modules| matches!(modules.value, WeightModules::All));
        let part = match (self.init, self.method) {
            (Init::Model, _) => return Ok(()),
            (Init::Random, Method::Lora) => "--method lora",
            (Init::Random, Method::Full) if !all => "--train-modules",
            (Init::Random, Method::Full) if self.layers.is_some() => "--layers",
            (Init::Random, Method::Full) => return Ok(()),
        };
        let text = format!("--init random with {part} would leave weights at chance");
        Err(CliError::usage(text)
            .hint("train all of them: --method full without --train-modules and --layers"))
    }

    fn validate(&self) -> Result<(), CliError> {
        for (name, missing) in
            [("model", self.model.is_none()), ("data", self.data.is_empty()), ("out", self.out.is_none())]
        {
            if missing {
                return Err(CliError::usage(format!("--{name} is missing")).hint(format!(
                    "give --{name}, or `{name}` in the --config file; see lorafit train --help"
                )));
            }
        }
        let positive =
            |name, value: f64| require(value > 0.0 && value.is_finite(), name, value, "must be above 0");
        let natural = |name, value: usize| require(value > 0, name, value, "must be 1 or more");
        let share = |name, value: f64| {
            require((0.0..1.0).contains(&value), name, value, "must be 0 or more and below 1")
        };
        let not_negative =
            |name, value: f64| require(value >= 0.0 && value.is_finite(), name, value, "must be 0 or more");
        if let (Method::Full, DeviceChoice::Cuda(_)) = (self.method, self.common.device) {
            let text =
                format!("--method full --device {}: full fine-tuning is not on GPUs yet", self.common.device);
            return Err(
                CliError::usage(text).hint("--device cpu trains all weights; --method lora runs on the GPU")
            );
        }
        natural("rank", self.rank)?;
        base_name::check(self.base_name.as_deref())?;
        positive("alpha", self.alpha)?;
        share("dropout", self.dropout)?;
        positive("lr", self.lr.unwrap_or(1.0))?;
        share("warmup-ratio", self.warmup_ratio)?;
        not_negative("weight-decay", self.weight_decay)?;
        not_negative("max-grad-norm", self.max_grad_norm)?;
        natural("batch-size", self.batch_size)?;
        natural("gradient-accumulation", self.gradient_accumulation)?;
        positive("epochs", self.epochs.unwrap_or(1.0))?;
        natural("max-steps", self.max_steps.unwrap_or(1))?;
        // TOML, in which the configuration is saved, has signed numbers.
        require(i64::try_from(self.seed).is_ok(), "seed", self.seed, "must be below 2^63")?;
        self.rows.validate()?;
        natural("micro-batch-tokens", self.micro_batch_tokens)?;
        natural("eval-every", self.eval_every.unwrap_or(1))?;
        natural("log-every", self.log_every.unwrap_or(1))?;
        natural("keep-checkpoints", self.safety.keep_checkpoints)?;
        if self.eval_every.is_some() && self.eval_data.is_empty() && self.validation.is_none() {
            return Err(CliError::usage(
                "--eval-every without --eval-data or --validation has no rows to look at",
            )
            .hint("give held-out rows with --eval-data DATA, or hold some out with --validation 5%"));
        }
        if self.eval_split.is_some() && self.eval_data.is_empty() {
            return Err(CliError::usage("--eval-split without --eval-data has no files to choose from")
                .hint("give held-out rows with --eval-data DATA; --split is for --data"));
        }
        self.cache.validate()?;
        self.base.resolve()?;
        self.common.validate()
    }

    /// Refuses a folder that holds something else than a run, or what the run reads.
    fn check_outputs(&self, out: &PathBuf) -> Result<(), CliError> {
        // Any of them is there from the first moment of a run; the last where its adapter was copied alone.
        const RUN: Kind =
            Kind::Folder(&["config.toml", "metrics.jsonl", "run.json", "lock", "adapter_config.json"]);
        let run = Output::asked("--out", Some(out), RUN);
        outputs::check(&self.inputs(), run.into_iter().chain(self.cache.output()))
    }

    /// What a run reads.
    pub fn inputs(&self) -> Inputs {
        let inputs =
            self.model.iter().fold(Inputs::default(), |inputs, model| inputs.model("--model", model));
        inputs
            .paths("--adapter", &self.adapter)
            .paths("--config", &self.config)
            .paths("--template", &self.template.template)
            .data("--data", &self.data, self.rows.split.as_deref())
            .data("--eval-data", &self.eval_data, self.eval_split.as_deref())
    }

    /// As it is kept in the run's folder: a run may be resumed from another folder than it was begun in. Where that was
    /// is told by the folder of a run whose `out` was below it ([`TrainArgs::begun_in`]); of others paths are kept whole.
    fn to_keep(&self) -> Self {
        let here = std::env::current_dir().ok().filter(|_| !self.out.as_deref().is_some_and(is_below));
        here.map_or_else(|| self.clone(), |here| self.with_paths_from(&here))
    }

    /// The flags of the run whose folder, or a folder in it (`best`, `model`, a checkpoint), `dir` is, with paths as they
    /// are found from here; `None` where there is no run.
    pub fn of_run(dir: &Path) -> Option<Self> {
        let dir = dir.canonicalize().ok()?;
        let mut above = dir.ancestors().take(3);
        let run =
            above.find(|dir| dir.join("config.toml").is_file() && dir.join("metrics.jsonl").is_file())?;
        let args: TrainArgs = config_file::read(&run.join("config.toml")).ok()?;
        Some(match args.begun_in(run) {
            Some(folder) if !is_here(&folder) => args.with_paths_from(&folder),
            Some(_) | None => args,
        })
    }

    /// The same with whole paths, to be read from any folder.
    pub fn with_whole_paths(&self) -> Self {
        std::env::current_dir().map_or_else(|_| self.clone(), |here| self.with_paths_from(&here))
    }

    /// The folder in which the run in the folder `run` was begun, if `out` tells.
    fn begun_in(&self, run: &Path) -> Option<PathBuf> {
        let out: PathBuf = self.out.as_deref().filter(|out| is_below(out))?.components().collect();
        let run = run.canonicalize().ok()?;
        let depth = out.components().filter(|part| matches!(part, Component::Normal(_))).count();
        run.ends_with(out.strip_prefix(".").unwrap_or(&out))
            .then(|| run.ancestors().nth(depth).map(Path::to_owned))?
    }

    /// The same with whole paths for those that are in `folder`.
    fn with_paths_from(&self, folder: &Path) -> Self {
        let place = |path: &Path| folder.join(path);
        let if_there = |text: &String| match folder.join(text).exists() {
            true => place(Path::new(text)).to_string_lossy().into_owned(),
            false => text.clone(),
        };
        let rows = |data: &[String]| data.iter().map(|text| row_args::placed_in(folder, text)).collect();
        let mut args = self.clone();
        args.model = self.model.as_ref().map(if_there);
        (args.data, args.eval_data) = (rows(&self.data), rows(&self.eval_data));
        args.out = self.out.as_deref().map(place);
        args.adapter = self.adapter.as_deref().map(place);
        args.cache.cache_dir = self.cache.cache_dir.as_deref().map(place);
        args.template.template = self.template.template.as_ref().map(if_there);
        args
    }
}

/// Whether a whole path is the working folder.
fn is_here(folder: &Path) -> bool {
    std::env::current_dir().is_ok_and(|here| here.canonicalize().is_ok_and(|here| here == folder))
}

/// Whether a path leads down from where it begins.
fn is_below(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// Trains an adapter or a model.
pub fn run(args: TrainArgs, given: &Given) -> anyhow::Result<()> {
    let args = args.resolve(given)?;
    if args.print_config {
        output::line(config_file::to_toml(&args)?.trim_end())?;
        return Ok(());
    }
    args.check_adapter(given)?;
    let Some(out) = &args.out else { unreachable!("resolve asks for it") };
    args.check_outputs(out)?;
    let lock = RunLock::take(out)?;
    if !args.overwrite && args.resume.is_none() {
        RunFolder::check_free(out)?;
    }
    interrupt::save_flag();
    use_threads(&args.common)?;
    let mut progress = Progress::new(args.common.quiet, args.log_every, args.safety.log);
    let resumption = match &args.resume {
        Some(run) => Resumption::find(run, &mut progress)?,
        None => Resumption::default(),
    };
    let mut base = args.open_base()?;
    if let Some(checkpoint) = &resumption.checkpoint {
        base.tokenizer.set_clock(checkpoint.clock);
    }
    let fresh = resumption.checkpoint.is_none().then(|| Trained::fresh(&args, &base)).transpose()?;
    let data = args.load(&base)?;
    let mut ready = Ready::new(&args, &base, &data, resumption, fresh, &mut progress)?;
    let (recompute, plan) = ready.choose()?;
    tell_setup(&mut progress, &ready);
    let policy = format!("recompute {}", RecomputeChoice::Fixed(recompute));
    progress.note(&memory_table::of_run(&policy, &plan, progress.is_on_terminal()));
    progress.event("start", &json!({ "total_steps": ready.total_steps(), "out": out }));
    let mut watcher = Watcher { progress };
    let result = ready.train(lock, recompute, &plan, &mut watcher);
    watcher.progress.finish();
    let (summary, _) = result?;
    tell_end(&mut watcher.progress, out, args.method, &summary);
    if args.method == Method::Lora {
        let command = format!("lorafit train --resume {} ", out.display());
        let note = base_name::note(&ready.base_model(), &base.weights, &command);
        note.iter().for_each(|note| watcher.progress.note(note));
    }
    if summary.interrupted {
        // Scripts see by the code that it did not run to the end.
        std::process::exit(interrupt::exit_code());
    }
    Ok(())
}

/// The rows of a run.
pub struct Data {
    /// To train on.
    pub rows: Dataset,
    /// To watch.
    pub held_out: Option<Dataset>,
}

impl Data {
    fn sets(&self) -> impl Iterator<Item = &Dataset> {
        [Some(&self.rows), self.held_out.as_ref()].into_iter().flatten()
    }
}

/// A run that could begin: its base and its rows, which other runs may share, and its own parameters.
pub struct Ready<'a> {
    args: &'a TrainArgs,
    base: &'a Base,
    data: &'a Data,
    options: TrainOptions,
    resumption: Resumption,
    identity: Identity,
    trained: Trained,
}

impl<'a> Ready<'a> {
    /// From the checkpoint of `resumption`, if it is this run's, or from `fresh` parameters.
    pub fn new(
        args: &'a TrainArgs,
        base: &'a Base,
        data: &'a Data,
        resumption: Resumption,
        fresh: Option<Trained>,
        progress: &mut Progress,
    ) -> anyhow::Result<Self> {
        let options = args.loop_options();
        let total_steps = options.total_steps(data.rows.samples.len());
        let identity = resume::identity(args, base, &data.rows, data.held_out.as_ref(), total_steps)?;
        resumption.check(&identity, args.resume_anyway, progress)?;
        let trained = match (fresh, &resumption.checkpoint) {
            (Some(trained), _) => trained,
            (None, Some(checkpoint)) => Trained::resumed(args, base, checkpoint)?,
            (None, None) => unreachable!("a run without a checkpoint has fresh parameters"),
        };
        Ok(Ready { args, base, data, options, resumption, identity, trained })
    }

    /// Optimizer steps of the whole run.
    pub fn total_steps(&self) -> u64 {
        self.options.total_steps(self.data.rows.samples.len())
    }

    /// What its memory is planned for.
    pub fn request(&self) -> PlanRequest<'_> {
        let weights = self.trained.weight_bytes(self.base);
        self.args.plan_request(self.base, self.data, weights, self.trained.trainable())
    }

    /// What is recomputed so that it fits, with its plan.
    fn choose(&self) -> anyhow::Result<(Recompute, MemoryPlan)> {
        let (request, memory) = (self.request(), &self.args.memory);
        let device = self.base.model.device();
        let chosen = memory.choose(&request, self.args.base.quant.is_some(), device)?;
        match (chosen, self.args.method) {
            (Ok((recompute, plan)), _) => {
                reserve(device, &plan)?;
                Ok((recompute, plan))
            }
            (Err(refused), Method::Lora) => Err(refused.into()),
            (Err(refused), Method::Full) => {
                let limit = memory.limit(device).unwrap_or(u64::MAX);
                Err(refused.hint(alternatives(&request, self.base, self.args.init, limit)?).into())
            }
        }
    }

    /// What is trained, with the base it is trained over.
    pub fn parameters(&mut self) -> Parameters<'_> {
        self.trained.as_parameters(self.base)
    }

    /// Trains in the locked folder, recomputing as planned. The folder is locked until what is given back is dropped.
    pub fn train(
        &mut self,
        lock: RunLock,
        recompute: Recompute,
        plan: &MemoryPlan,
        observer: &mut dyn Observer,
    ) -> anyhow::Result<(Summary, RunFolder)> {
        let (args, base) = (self.args, self.base);
        self.options.activations.recompute = recompute;
        let base_model = self.base_model();
        let info = RunInfo {
            base_model: base_model.clone(),
            config: config_file::to_toml(&args.to_keep())?,
            identity: self.identity.clone(),
            clock: base.tokenizer.clock(),
            folder: model_folder(args, base)?,
        };
        let checkpoint = self.resumption.checkpoint.as_ref();
        let mut run = match checkpoint {
            Some(checkpoint) => RunFolder::resume(lock, info, &checkpoint.state, &self.resumption.damaged)?,
            None => RunFolder::create(lock, info)?,
        };
        run.write_plan(plan)?;
        run.write_data(&Statistics::of(&self.data.rows, args.batch_size))?;
        if args.safety.tensorboard {
            run.write_events(checkpoint.map_or(0, |checkpoint| checkpoint.state.step) + 1)?;
        }
        interrupt::flag();
        self.trained.make(checkpoint)?;
        let summary = train(
            &mut self.trained.as_parameters(base),
            TrainData { training: &self.data.rows, evaluation: self.data.held_out.as_ref() },
            &self.options,
            Start { checkpoint },
            &mut run,
            observer,
        );
        let summary = summary.map_err(|error| match &error {
            // Nothing has changed yet: the weights may be to blame.
            TrainError::NonFinite(refusal) if refusal.step <= 1 => {
                base.non_number().unwrap_or_else(|| error.into())
            }
            _ => error.into(),
        })?;
        if let Err(error) = self.write_cards(&run, &base_model, &summary) {
            observer.on_trouble(&error);
        }
        Ok((summary, run))
    }

    /// What the adapter calls its base.
    fn base_model(&self) -> String {
        let (args, base) = (self.args, self.base);
        // As the run was begun, from whatever folder it is resumed.
        let begun = || self.resumption.checkpoint.as_ref()?.base_model();
        let asked = args.base_name.clone().or_else(begun);
        base_name::of(asked.as_deref(), &base.name, &base.weights)
    }

    /// Writes the model cards of the run's result and of its best, or removes earlier ones with `--no-card`.
    fn write_cards(&self, run: &RunFolder, base_model: &str, summary: &Summary) -> Result<(), RunError> {
        let card = Card {
            args: self.args,
            base_name: base_model,
            license: self.base.weights.license(),
            lora: match &self.trained {
                Trained::Adapter(adapter) => Some(adapter.config()),
                Trained::Weights { .. } => None,
            },
            data: self.data,
            steps: (summary.steps, self.total_steps()),
        };
        let evaluations = RunHistory::read(run.dir())?.evaluations;
        let result = match self.args.method {
            Method::Lora => run.dir().to_owned(),
            Method::Full => RunFolder::model_dir(run.dir()),
        };
        let best = RunFolder::best_dir(run.dir());
        let last = evaluations.last().filter(|last| last.step == summary.steps);
        let of_best = evaluations.iter().rev().find(|evaluation| evaluation.best);
        let best = summary.best.map(|_| (best, of_best));
        for (dir, evaluation) in std::iter::once((result, last)).chain(best) {
            let text = (!self.args.no_card).then(|| card.text(evaluation));
            run.write_card(&dir, text.as_deref())?;
        }
        Ok(())
    }
}

impl TrainArgs {
    /// Opens the base.
    pub fn open_base(&self) -> anyhow::Result<Base> {
        let Some(model) = &self.model else { unreachable!("validate asks for it") };
        match self.init {
            Init::Model => open_base(model, &self.base, &self.template, self.compute, &self.common),
            Init::Random => open_shape(model, &self.template, self.compute, &self.common),
        }
    }

    /// Reads the rows to train on, and those held out.
    pub fn load(&self, base: &Base) -> anyhow::Result<Data> {
        self.memory.check_blocks(base.model.config().num_hidden_layers)?;
        let data = self.read(base)?;
        data.sets().try_for_each(|rows| Limits::of(base).check_rows(rows))?;
        Ok(data)
    }

    fn read(&self, base: &Base) -> anyhow::Result<Data> {
        let quiet = self.common.quiet;
        let options = Limits::of(base).options(&self.rows);
        let load = |source| self.cache.load(source, &base.tokenizer, options, quiet);
        let source = self.to_train_on()?;
        let held_out = self.held_out(&source)?;
        let rows = load(source);
        let held_out = held_out.map(load).transpose();
        if let Some(validation) = self.validation {
            let is_empty = |loaded: &anyhow::Error| {
                matches!(loaded.downcast_ref::<DataError>(), Some(DataError::NoRows { .. }))
            };
            let refused =
                |text: String| CliError::new(text).hint("give a number of rows, --validation 1 for example");
            match (&rows, &held_out) {
                (Ok(rows), Err(error)) if is_empty(error) => {
                    let all = counted(rows.report.rows, "row", "rows");
                    return Err(refused(format!(
                        "--validation {} holds out none of {all}",
                        validation.in_words()
                    ))
                    .into());
                }
                (Err(error), Ok(Some(held_out))) if is_empty(error) => {
                    let all = match held_out.report.rows {
                        1 => "the only row".to_owned(),
                        rows => format!("all {}", counted(rows, "row", "rows")),
                    };
                    let text = format!(
                        "--validation {} holds out {all}, and none is left to train on",
                        validation.in_words()
                    );
                    return Err(refused(text).into());
                }
                _ => {}
            }
        }
        Ok(Data { rows: rows?, held_out: held_out? })
    }

    /// Where the rows to train on are.
    fn to_train_on(&self) -> anyhow::Result<Source> {
        let source = self.rows.source("split", &self.data, self.rows.split.as_deref(), self.common.quiet)?;
        let subset = self.validation.map_or(source.subset, |Validation(held_out)| Subset::Training(held_out));
        Ok(Source { seed: self.seed, subset, ..source })
    }

    /// Where the rows that are held out are, if there are any; beside those `to_train_on`.
    fn held_out(&self, to_train_on: &Source) -> anyhow::Result<Option<Source>> {
        if let Some(Validation(held_out)) = self.validation {
            return Ok(Some(Source { subset: Subset::Validation(held_out), ..to_train_on.clone() }));
        }
        if self.eval_data.is_empty() {
            return Ok(None);
        }
        let quiet = self.common.quiet;
        Ok(Some(self.rows.source("eval-split", &self.eval_data, self.eval_split.as_deref(), quiet)?))
    }

    /// The rows that are held out as prompts and the replies they should get.
    pub fn prompts(&self, base: &Base) -> anyhow::Result<Vec<GenerationRow>> {
        let held_out = self.held_out(&self.to_train_on()?)?;
        held_out.map_or(Ok(Vec::new()), |source| Ok(generation_rows(source, &base.tokenizer)?))
    }

    /// What a run's memory is planned for.
    pub fn plan_request<'a>(
        &self,
        base: &'a Base,
        data: &Data,
        weights: u64,
        trainable: Trainable<'a>,
    ) -> PlanRequest<'a> {
        let size = self.loop_options().micro_batch_size(&data.rows, data.held_out.as_ref());
        PlanRequest {
            config: base.model.config(),
            weights,
            trainable,
            optimizer: self.optimizer.into(),
            activation_dtype: self.activation_dtype(),
            tokens: size.tokens,
            targets: size.targets,
            threads: rayon::current_num_threads(),
            placement: base.model.device().placement(),
        }
    }

    /// How activations that are kept are stored.
    fn activation_dtype(&self) -> ActivationDtype {
        self.memory.activation_dtype_on(placement(self.common.device, self.compute))
    }

    /// What the loop is told.
    pub fn loop_options(&self) -> TrainOptions {
        let seed = self.seed;
        TrainOptions {
            duration: match self.max_steps {
                Some(steps) => Duration::Steps(steps as u64),
                None => Duration::Epochs(self.epochs.unwrap_or(1.0)),
            },
            batch_size: self.batch_size,
            gradient_accumulation: self.gradient_accumulation,
            micro_batch_tokens: self.micro_batch_tokens,
            prefix_sharing: !self.no_prefix_sharing,
            activations: ActivationPolicy { dtype: self.activation_dtype(), ..ActivationPolicy::default() },
            optimizer: self.optimizer.into(),
            learning_rate: self.lr.expect("resolve sets it"),
            schedule: self.scheduler.into(),
            warmup_ratio: self.warmup_ratio,
            weight_decay: self.weight_decay,
            max_grad_norm: (self.max_grad_norm > 0.0).then_some(self.max_grad_norm),
            order: if self.no_shuffle { Order::File } else { Order::Shuffled { seed } },
            seed,
            eval_every: self.eval_every.map(|n| n as u64),
            checkpoint_every: self.safety.checkpoint_every,
            keep_checkpoints: self.safety.keep_checkpoints,
            on_nan: self.safety.on_nan,
            skip_loss_spikes: self.safety.skip_loss_spikes,
        }
    }
}

/// Shows the loop to the user and the user's signals to the loop.
struct Watcher {
    progress: Progress,
}

impl Observer for Watcher {
    fn on_step(&mut self, record: &StepRecord, total_steps: u64) {
        if self.progress.event("step", record) {
            return;
        }
        let (step, total) = (record.step as usize, total_steps as usize);
        self.progress.step(step, total, record.loss, record.tokens_per_s, rss_bytes());
    }

    fn on_evaluation(&mut self, record: &EvaluationRecord) {
        if !self.progress.event("evaluation", record) {
            self.progress.eval(record.step as usize, record.loss, record.perplexity, record.best);
        }
    }

    fn on_skip(&mut self, record: &SkipRecord) {
        if !self.progress.event("skip", record) {
            let SkipRecord { step, skipped, value, lines } = record;
            self.progress.note(&format!("step {step} skipped: the {skipped} is {value} (lines {lines:?})"));
        }
    }

    fn on_checkpoint(&mut self, step: u64, path: &Path) {
        if !self.progress.event("checkpoint", &json!({ "step": step, "path": path })) {
            self.progress.note(&format!("step {step}  checkpoint saved: {}", path.display()));
        }
    }

    fn on_trouble(&mut self, error: &RunError) {
        if !self.progress.event("trouble", &json!({ "error": error.to_string() })) {
            self.progress.note(&format!("{error}; training goes on and tries again"));
        }
    }

    fn should_stop(&mut self) -> bool {
        interrupt::flag().load(Ordering::SeqCst)
    }

    fn should_save(&mut self) -> bool {
        interrupt::save_flag().swap(false, Ordering::SeqCst)
    }
}

fn tell_setup(progress: &mut Progress, ready: &Ready<'_>) {
    let Ready { args, base, data: Data { rows, held_out }, trained, .. } = ready;
    let (trainable, of_model) = (trained.parameters(base), base.model.config().parameters());
    let (all, what) = match trained {
        Trained::Adapter(adapter) => {
            let lora = adapter.config();
            (trainable + of_model, format!("rank {}, alpha {}", lora.rank, lora.alpha))
        }
        Trained::Weights { random: None, .. } => (of_model, "of the model itself".to_owned()),
        Trained::Weights { random: Some(_), .. } => (of_model, "of a model that begins random".to_owned()),
    };
    let report = &rows.report;
    progress.note(&format!(
        "trainable parameters {} of {} ({:.3} %), {what}",
        grouped(trainable),
        grouped(all),
        100.0 * trainable as f64 / all as f64,
    ));
    if let (Method::Full, false) = (args.method, base.model.is_float()) {
        progress.note("the base is quantised: the weights that are trained begin as what it decodes to");
    }
    progress.note(&format!(
        "data {}: {} {} {}, {}, {} of them trained, longest {}",
        args.data.join(", "),
        grouped(report.samples as u64),
        shapes(report),
        if report.samples == 1 { "row" } else { "rows" },
        counted(report.tokens, "token", "tokens"),
        grouped(report.supervised_tokens as u64),
        grouped(report.longest as u64)
    ));
    if report.truncated + report.dropped + report.overlong > 0 {
        progress.note(&format!(
            "{} cut to --max-seq-len {}, {} dropped as longer, {} dropped with nothing to train",
            counted(report.truncated, "row", "rows"),
            args.rows.max_seq_len,
            report.overlong,
            report.dropped
        ));
    }
    skipped(&rows.origin).iter().chain(&treated(rows)).for_each(|line| progress.note(line));
    // Held-out rows of the same files are told already.
    if let Some(data) = held_out.as_ref().filter(|_| !args.eval_data.is_empty()) {
        let lines = skipped(&data.origin).into_iter().chain(treated(data));
        lines.for_each(|line| progress.note(&format!("evaluation: {line}")));
    }
    progress.note(&counted(ready.total_steps() as usize, "optimizer step", "optimizer steps"));
}

fn tell_end(progress: &mut Progress, run: &Path, method: Method, summary: &Summary) {
    let how = if summary.interrupted { "stopped" } else { "done" };
    if summary.skipped > 0 {
        let steps = counted(summary.skipped as usize, "step was", "steps were");
        progress.note(&format!("{steps} skipped; metrics.jsonl names the rows"));
    }
    let steps = counted(summary.steps as usize, "step", "steps");
    progress.note(&format!("{how} after {steps} in {:.1} s", summary.seconds));
    if let Some(best) = &summary.best {
        let dir = RunFolder::best_dir(run);
        progress.note(&format!(
            "best evaluation loss {:.4} at step {}: {}",
            best.loss,
            best.step,
            dir.display()
        ));
    }
    match method {
        Method::Lora => progress.note(&format!("adapter saved in {}", run.display())),
        Method::Full => progress.note(&format!("model saved in {}", RunFolder::model_dir(run).display())),
    }
    if summary.interrupted {
        progress.note(&format!("go on with lorafit train --resume {}", run.display()));
    }
}
