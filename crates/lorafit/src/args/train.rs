//! The flags of `lorafit train`, which are also the keys of its configuration file.

use std::path::{Component, Path, PathBuf};

use clap::{ArgAction, Args};
use lorafit_data::{HeldOut, Purpose};
use lorafit_model::WeightModules;
use lorafit_remedy::nearby;
use lorafit_train::{Averaging, Checkpoint, WARMUP_RATIO, runs_near};
use serde::{Deserialize, Serialize};

use crate::args::base::{ComputeArgs, QuantArgs, TemplateArgs, check_base_name};
use crate::args::cache::CacheArgs;
use crate::args::classes::ClassArgs;
use crate::args::common::Common;
use crate::args::config_file::{self, Given};
use crate::args::flags::{self, Facts, Words};
use crate::args::idle::{self, Idle};
use crate::args::memory::MemoryArgs;
use crate::args::new_tokens::NewTokens;
use crate::args::options::{
    AtOnce, Auto, BestByChoice, DeviceChoice, FrozenCacheChoice, Init, Layers, LearningRate, Method,
    MicroBatchTokens, MicroBatchesAtOnce, Optimizer, Preset, SaveChoice, SaveModules, Scheduler,
    TargetModules, TrainModules, TrainOn, value_name,
};
use crate::args::outputs::{self, Inputs, Kind, Output};
use crate::args::preference::{PreferenceArgs, ReferenceChoice};
use crate::args::projections::{AlphaPattern, ProjectionArgs};
use crate::args::rows::{self, RowArgs, Validation, data_help, one_or_many};
use crate::args::safety::SafetyArgs;
use crate::args::{MOST_EPOCHS, MOST_RANK, MOST_ROWS, MOST_STEPS, require, within};
use crate::terminal::error::CliError;

const EXAMPLES: &str = "\
Examples:
  Rank, learning rate, passes and early stopping are chosen, and printed with their reasons:
    lorafit train --model M --data train.jsonl --out runs/first
  One pass, the rest chosen; nothing chosen:
    lorafit train --model M --data train.jsonl --epochs 1 --out runs/short
    lorafit train --model M --data train.jsonl --preset off --out runs/fixed
  Watching held-out rows; the best adapter is kept:
    lorafit train --model M --data train.jsonl --eval-data dev.jsonl --eval-every 50 --out runs/dev
  Less memory: shorter rows, fewer tokens at once, the upper half of a 30-block model only:
    lorafit train --model M --data D --out runs/small --max-seq-len 512 --micro-batch-tokens 256 --layers 15-
  Resume a run that was interrupted:
    lorafit train --resume runs/first
  Training the weights themselves, or the upper half of them; the result is a model folder, runs/full/model:
    lorafit train --model M --data train.jsonl --method full --out runs/full
    lorafit train --model M --data train.jsonl --method full --layers 15- --train-modules mlp,norms --out runs/upper
  Pretraining a small model from scratch: a folder with config.json and a tokenizer, and text
    lorafit train --model tiny --data books.txt --method full --init random --out runs/tiny
  Two sources, a tenth of the second one, with 5 % of all rows held out for evaluation:
    lorafit train --model M --data chats.jsonl --data 'web/*.parquet:0.1' --validation 5% --out runs/mix
  Your own words, one a line in a file, as tokens that are trained beside the factors:
    lorafit train --model M --data train.jsonl --new-tokens words.txt --out runs/words
  A classifier of texts with labels, and a model that gives replies a reward:
    lorafit train --model M --data topics.jsonl --objective classify --best-by accuracy --out runs/topics
    lorafit train --model M --data pairs.jsonl --objective reward --out runs/reward
  Everything in a file, one thing changed:
    lorafit train --config run.toml --lr 5e-4 --out runs/hot

Where to look first when it does not learn: --lr (try 3x more, then 3x less), --epochs, then --rank.

With --quiet nothing is printed but errors, and a JSON log if --log json asks for one. verdict.json in the run folder says what it
came to; the exit code is 0 if it ran to its end.";

/// `--decay-ratio` unless it is given: with 10 to 20 % a run is as good as one along a cosine (Hägele et al. 2024).
pub const DECAY_RATIO: f64 = 0.2;
/// Tokens computed at once where nothing else is said.
pub const MICRO_BATCH_TOKENS: usize = 512;
/// Micro-batches at the same time, at most: each has buffers of its own.
const MOST_AT_ONCE: usize = 256;

/// Refuses a number of micro-batches at the same time that no run has.
///
/// # Errors
/// None, or too many.
pub fn check_at_once(number: usize) -> Result<(), CliError> {
    let is_possible = (1..=MOST_AT_ONCE).contains(&number);
    require(is_possible, "micro-batches-at-once", number, &format!("must be from 1 to {MOST_AT_ONCE}"))
}

/// Restarts, at most.
const MOST_RESTARTS: usize = 8;

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
    #[arg(add = Facts::FREE)]
    pub model: Option<String>,
    /// Training rows, described below; repeat the flag for several sources
    #[arg(long, value_name = "DATA", help_heading = "Input and output")]
    #[serde(with = "one_or_many", default, skip_serializing_if = "Vec::is_empty")]
    #[arg(add = Facts::FREE)]
    pub data: Vec<String>,
    /// Folder for the run: the adapter (or the folder model/), metrics.jsonl and config.toml
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    #[arg(add = Facts::PROCESS)]
    pub out: Option<PathBuf>,
    /// Replace the run that is already in --out, instead of refusing
    #[arg(long, help_heading = "Input and output")]
    #[serde(skip)]
    #[arg(add = Facts::CALL)]
    pub overwrite: bool,
    /// Read settings from a TOML or YAML file; a flag on the command line overrides the file
    ///
    /// Keys are the flags' names, in kebab-case or snake_case: `max-steps = 100`. The config.toml of a run folder
    /// is such a file.
    #[arg(long, value_name = "FILE", help_heading = "Input and output")]
    #[serde(skip)]
    #[arg(add = Facts::CALL)]
    pub config: Option<PathBuf>,
    /// Resume the run in this folder from its newest checkpoint; needs no other flag
    ///
    /// The result has the same bits as a run that never stopped. Flags that do not change the arithmetic
    /// (--log-every, --threads, --recompute, ...) may be given; any other change is refused by name.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["config", "out", "overwrite"])]
    #[arg(help_heading = "Input and output")]
    #[serde(skip)]
    #[arg(add = Facts::CALL)]
    pub resume: Option<PathBuf>,
    /// Resume although something differs from the checkpoint; the differences are printed
    #[arg(long, requires = "resume", help_heading = "Input and output")]
    #[serde(skip)]
    #[arg(add = Facts::CALL)]
    pub resume_anyway: bool,
    /// Print the resulting configuration as TOML, and stop
    #[arg(long, help_heading = "Input and output")]
    #[serde(skip)]
    #[arg(add = Facts::CALL)]
    pub print_config: bool,
    /// Name of the base in the adapter's files: a model on the hub (org/name) or a folder, by which PEFT finds it
    ///
    /// [default: what --model was; of a .gguf file the model on the hub that its metadata names, if it names one]
    #[arg(long, value_name = "NAME", help_heading = "Input and output")]
    #[arg(add = Facts::NAME.of(Method::Lora))]
    pub base_name: Option<String>,
    /// Do not write a model card (README.md) beside the result
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, help_heading = "Input and output")]
    #[arg(default_value_t = false, default_missing_value = "true", hide_default_value = true)]
    #[arg(hide_possible_values = true, action = ArgAction::Set)]
    #[arg(add = Facts::NAME)]
    pub no_card: bool,
    /// Name of the run, kept in its config.toml and on its model card [default: the last part of --out]
    #[arg(long, value_name = "NAME", help_heading = "Input and output")]
    #[arg(add = Facts::NAME)]
    pub name: Option<String>,

    /// What is trained
    ///
    /// Full fine-tuning takes 16 bytes a weight (value, gradient, two moments) where LoRA takes the base as it is stored
    /// and little more; `lorafit plan` shows both.
    #[arg(long, value_enum, default_value_t = Method::Lora, help_heading = "Method")]
    #[arg(add = Facts::SHAPE)]
    pub method: Method,
    /// Initial values of what is trained
    ///
    /// The choices for LoRA are those of PEFT's `init_lora_weights`; none changes the model's output before the first step. With
    /// pissa (Meng et al. 2024) the adapter has twice the --rank, and half of it is not trained: the base stays as it is, and every
    /// reader of plain adapters can load it. With random, --model needs config.json and a tokenizer; its weights are neither read nor downloaded. New
    /// weights are drawn as in transformers: from a normal distribution with the configuration's `initializer_range`; norms
    /// are 1.
    #[arg(long, value_enum, default_value_t = Init::Default, help_heading = "Method")]
    #[arg(add = Facts::SHAPE.brought())]
    pub init: Init,
    /// Weights that --method full trains: all, a comma list, or regex:PATTERN [default: all]
    ///
    /// The list is of q_proj k_proj v_proj o_proj gate_proj up_proj down_proj, self_attn, mlp, embed_tokens, lm_head, norms,
    /// biases. A pattern has to match a whole module path such as model.layers.3.mlp.up_proj. With --layers, modules
    /// outside the blocks (embed_tokens, lm_head, norm) are trained only if this flag names them.
    #[arg(long, value_name = "MODULES", help_heading = "Method")]
    #[arg(add = Facts::SHAPE.of(Method::Full))]
    pub train_modules: Option<TrainModules>,
    /// How --method full stores the weights of its result [default: bf16 where the base is 16-bit, else f32]
    #[arg(long, value_enum, value_name = "DTYPE", help_heading = "Method")]
    #[arg(add = Facts::FREE.of(Method::Full))]
    pub save_dtype: Option<SaveChoice>,
    /// Blocks that are trained, counted from 0, both ends included: 0-15, or 8- for 8 to the last [default: all]
    ///
    /// Nothing below the lowest block is back-propagated: training the upper half alone saves about a quarter of the
    /// time, and more with --frozen-cache.
    #[arg(long, value_name = "RANGE", help_heading = "Method")]
    #[arg(add = Facts::SHAPE.brought())]
    pub layers: Option<Layers>,

    /// Rank of the adapter: how much it can learn; 4 to 64
    ///
    /// Memory and time grow little with it. 8 to 16 suits one task; more helps with a lot of data. Unless --rank or --alpha is
    /// given, --preset chooses both.
    #[arg(long, value_name = "R", default_value_t = 8, help_heading = "Adapter")]
    #[arg(add = Facts::SHAPE.of(Method::Lora).brought())]
    pub rank: usize,
    /// Strength of the adapter: its output is scaled by alpha / rank; usually 1 to 2 times the rank
    #[arg(long, value_name = "A", default_value_t = 16.0, help_heading = "Adapter")]
    #[arg(add = Facts::SHAPE.of(Method::Lora).brought())]
    pub alpha: f64,
    /// Share of the adapter's input dropped at random while training; 0 to 0.1, more for few rows
    #[arg(long, value_name = "P", default_value_t = 0.0, help_heading = "Adapter")]
    #[arg(add = Facts::SHAPE.of(Method::Lora).brought())]
    pub dropout: f64,
    /// Modules that get an adapter: all-linear, a comma list, or regex:PATTERN
    ///
    /// The list is of q_proj k_proj v_proj o_proj (attention), gate_proj up_proj down_proj (MLP) and lm_head and embed_tokens,
    /// which all-linear leaves out. All of a block learn best for their size; attention alone is faster. A pattern has to match a whole name such as
    /// model.layers.3.mlp.up_proj.
    #[arg(long, value_name = "MODULES", default_value = "all-linear", help_heading = "Adapter")]
    #[arg(add = Facts::SHAPE.of(Method::Lora).brought())]
    pub target_modules: TargetModules,
    /// Which modules are left out, and which have a rank of their own.
    #[command(flatten)]
    #[serde(flatten)]
    pub projections: ProjectionArgs,
    /// Another alpha for some modules, as PATTERN=ALPHA, with patterns as in --rank-pattern; repeat the flag for several
    ///
    /// A module of another rank keeps --alpha, so that its output is scaled by alpha / its rank.
    #[arg(long, value_name = "PATTERN=ALPHA", help_heading = "Adapter")]
    #[serde(with = "one_or_many", default, skip_serializing_if = "Vec::is_empty")]
    #[arg(add = Facts::SHAPE.of(Method::Lora).brought())]
    pub alpha_pattern: Vec<AlphaPattern>,
    /// Scale the adapter's output by alpha / sqrt(rank) instead of alpha / rank (rsLoRA, Kalajdzievski 2023)
    ///
    /// A high rank then learns more than a low one at the same --alpha. At rank 16 and alpha 16 it is a scale of 4.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, help_heading = "Adapter")]
    #[arg(default_value_t = false, default_missing_value = "true", hide_default_value = true)]
    #[arg(hide_possible_values = true, action = ArgAction::Set)]
    #[arg(add = Facts::SHAPE.of(Method::Lora).brought())]
    pub rslora: bool,
    /// Train a magnitude for each output beside the factors (DoRA, weight-decomposed low-rank adaptation)
    ///
    /// It can help at low ranks, and takes about a fifth more time and memory for activations. Not with --dropout.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, help_heading = "Adapter")]
    #[arg(default_value_t = false, default_missing_value = "true", hide_default_value = true)]
    #[arg(hide_possible_values = true, action = ArgAction::Set)]
    #[arg(add = Facts::SHAPE.of(Method::Lora).brought())]
    pub dora: bool,
    /// Weights that are trained whole beside the factors: a comma list of embed_tokens, lm_head and norms
    ///
    /// For words or a language that the base does not know. Each takes sixteen bytes a value with AdamW, and is written with the
    /// adapter (modules_to_save of PEFT). If the base uses its embedding as head, the side that is not named stays as it is.
    #[arg(long, value_name = "MODULES", help_heading = "Adapter")]
    #[arg(add = Facts::SHAPE.of(Method::Lora).brought())]
    pub save_modules: Option<SaveModules>,
    /// Texts that become tokens: a comma list, or a file with one a line; their rows of embedding and head are trained beside the
    /// factors
    ///
    /// For names, markers and words that the base cuts into many pieces. Each is added to the tokenizer, which is written beside the
    /// adapter, and begins as the mean of its pieces; of a text that is a token already, that row is trained. Nothing else of the
    /// embedding is trained or copied (trainable_token_indices of PEFT). Blanks around a token count in a file alone. Not with
    /// embed_tokens or lm_head in --save-modules or --target-modules.
    #[arg(long, value_name = "FILE|TOKENS", help_heading = "Adapter")]
    #[arg(add = Facts { is_searched: false, ..Facts::SHAPE }.of(Method::Lora).brought())]
    pub new_tokens: Option<NewTokens>,
    /// Start from an existing adapter (a PEFT folder) instead of a fresh one; it brings its own rank and modules
    #[arg(long, value_name = "DIR", help_heading = "Adapter")]
    #[arg(add = Facts::SHAPE.of(Method::Lora))]
    pub adapter: Option<PathBuf>,

    /// Choose the rank, the learning rate, the number of passes and early stopping from the data and the model [default: good]
    ///
    /// Chosen is each of --rank and --alpha (together), --lr, --epochs or --max-steps, --eval-every, --patience and --restarts that
    /// is not given, on the command line or in --config; what is given always wins. Each choice is printed with its reason and stands
    /// in config.toml. Nothing is chosen on --resume, nor for the trials of a sweep. docs/choosing.md has the rules.
    #[arg(long, value_enum, value_name = "PRESET", help_heading = "Method")]
    #[arg(add = Facts::START)]
    pub preset: Option<Preset>,

    /// Peak learning rate; 1e-4 to 1e-3 suits LoRA, a tenth of that full fine-tuning; auto tests it before training [default:
    /// as --preset chooses; with --preset off 2e-4, with --method full 2e-5, with --init random 1e-3]
    ///
    /// The test takes up to 40 steps on a few rows at rates that grow until the loss rises. The rate is a share of that at
    /// which the loss was lowest: a quarter in a run of 120 steps, more in a shorter one, less in a longer one.
    #[arg(long, value_name = "LR", help_heading = "Optimisation")]
    #[arg(add = Facts::ARITHMETIC, add = Words(|| vec!["auto"]))]
    pub lr: Option<LearningRate>,
    /// How the optimizer keeps its moments
    #[arg(long, value_enum, default_value_t = Optimizer::Adamw, help_heading = "Optimisation")]
    #[arg(add = Facts::SHAPE)]
    pub optimizer: Optimizer,
    /// How the learning rate changes after the warm-up
    #[arg(long, value_enum, default_value_t = Scheduler::Cosine, help_heading = "Optimisation")]
    #[arg(add = Facts::ARITHMETIC)]
    pub scheduler: Scheduler,
    /// Share of the steps that warm up: the learning rate rises from 0; 0 to 0.1 [default: 0.03; in runs of fewer than 10 steps 0]
    #[arg(long, value_name = "SHARE", help_heading = "Optimisation")]
    #[arg(add = Facts::ARITHMETIC)]
    pub warmup_ratio: Option<f64>,
    /// Share of the steps in which --scheduler wsd lets the learning rate fall; 0.1 to 0.2 [default: 0.2]
    #[arg(long, value_name = "SHARE", help_heading = "Optimisation")]
    #[arg(add = Facts::ARITHMETIC)]
    pub decay_ratio: Option<f64>,
    /// How many times the learning rate of A, which is --lr, an adapter's B gets (LoRA+, Hayou et al. 2024); 2 to 16 [default: 1]
    ///
    /// What B learns moves the output more than what A learns does. With a ratio of 16, --lr is usually half of what it is without.
    #[arg(long, value_name = "RATIO", help_heading = "Optimisation")]
    #[arg(add = Facts::ARITHMETIC.of(Method::Lora))]
    pub lora_plus_ratio: Option<f64>,
    /// Weight decay of AdamW, for matrices only; 0 to 0.1
    #[arg(long, value_name = "W", default_value_t = 0.0, help_heading = "Optimisation")]
    #[arg(add = Facts::ARITHMETIC)]
    pub weight_decay: f64,
    /// Share of each target that is spread evenly over the vocabulary (Szegedy et al. 2016); 0 to 0.2 [default: 0]
    ///
    /// Answers become less certain. The loss that is printed while training is that of the smoothed targets, and so higher; that
    /// of held-out rows is the plain one. With dpo, simpo and cpo it is the share of pairs that are the wrong way round, with robust,
    /// too [default: 0.1 there].
    #[arg(long, value_name = "SHARE", help_heading = "Optimisation")]
    #[arg(add = Facts::ARITHMETIC)]
    pub label_smoothing: Option<f64>,
    /// Add uniform noise to embeddings while training, up to this over sqrt(tokens of the row x hidden size) (NEFTune, Jain et al.
    /// 2023); 5 to 15 for instructions
    ///
    /// Held-out rows are evaluated without. A shared prefix has the same noise in all rows that share it, that of the longest;
    /// with --no-prefix-sharing every row has its own.
    #[arg(long, value_name = "ALPHA", help_heading = "Optimisation")]
    #[arg(add = Facts::ARITHMETIC)]
    pub neftune_alpha: Option<f64>,
    /// Clip the gradient to this norm; 0 turns clipping off
    #[arg(long, value_name = "NORM", default_value_t = 1.0, help_heading = "Optimisation")]
    #[arg(add = Facts::ARITHMETIC)]
    pub max_grad_norm: f64,
    /// Rows per batch; 1 to 32
    ///
    /// It does not change the memory: --micro-batch-tokens sets how much is computed at once.
    #[arg(long, value_name = "ROWS", default_value_t = 4, help_heading = "Optimisation")]
    #[arg(add = Facts::ARITHMETIC)]
    pub batch_size: usize,
    /// Batches per optimizer step; a step sees batch-size x gradient-accumulation rows
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Optimisation")]
    #[arg(add = Facts::ARITHMETIC)]
    pub gradient_accumulation: usize,
    /// Passes over the data; 1 to 5; 0.5 is half a pass [default: as --preset chooses; with --preset off 1]
    #[arg(long, value_name = "N", conflicts_with = "max_steps", help_heading = "Optimisation")]
    #[arg(add = Facts::FREE)]
    pub epochs: Option<f64>,
    /// Number of optimizer steps, instead of --epochs; the data is repeated as often as needed
    #[arg(long, value_name = "N", help_heading = "Optimisation")]
    #[arg(add = Facts::FREE)]
    pub max_steps: Option<usize>,
    /// Random seed of the initial adapter or weights, the order of rows, dropout and noise
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Optimisation")]
    #[arg(add = Facts::ARITHMETIC)]
    pub seed: u64,

    /// What judged replies are trained for.
    #[command(flatten)]
    #[serde(flatten)]
    pub preference: PreferenceArgs,
    /// Which rows are read, and how.
    #[command(flatten)]
    #[serde(flatten)]
    pub rows: RowArgs,
    /// Where labels stand.
    #[command(flatten)]
    #[serde(flatten)]
    pub classes: ClassArgs,
    /// Keep the rows in file order
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, help_heading = "Data")]
    #[arg(default_value_t = false, default_missing_value = "true", hide_default_value = true)]
    #[arg(hide_possible_values = true, action = ArgAction::Set)]
    #[arg(add = Facts::ARITHMETIC)]
    pub no_shuffle: bool,

    /// Held-out rows, in the same form as --data: train prints their loss and perplexity, and keeps the best adapter
    #[arg(long, value_name = "DATA", help_heading = "Watching")]
    #[serde(with = "one_or_many", default, skip_serializing_if = "Vec::is_empty")]
    #[arg(add = Facts::FREE)]
    pub eval_data: Vec<String>,
    /// Like --split, for --eval-data
    #[arg(long, value_name = "NAME", help_heading = "Watching")]
    #[arg(add = Facts::ARITHMETIC)]
    pub eval_split: Option<String>,
    /// Hold out part of --data instead: a share (5%), a number of rows, `auto` or `none` [default: auto, without
    /// --eval-data]
    ///
    /// Held-out rows are drawn by --seed and are not trained on: their loss says how good the result is on rows that it
    /// has not seen. `auto` holds out a tenth, at least 10 and at most 200 rows, of 50 rows or more, and none of fewer.
    #[arg(long, value_name = "SHARE|ROWS", conflicts_with = "eval_data", help_heading = "Watching")]
    #[arg(add = Facts::ARITHMETIC)]
    pub validation: Option<Validation>,
    /// Number of optimizer steps between two evaluations of the held-out rows [default: as --preset chooses; with
    /// --preset off before the first and after the last]
    #[arg(long, value_name = "STEPS", help_heading = "Watching")]
    #[arg(add = Facts::FREE)]
    pub eval_every: Option<usize>,
    /// Which evaluation of held-out rows is the best, whose adapter or model is kept in best/; accuracy with objectives of pairs
    /// and with classify [default: loss]
    #[arg(long, value_name = "loss|accuracy", hide_possible_values = true, help_heading = "Watching")]
    #[arg(add = Facts::ARITHMETIC)]
    pub best_by: Option<BestByChoice>,
    /// End the run after so many evaluations in a row that did not lower the held-out loss (--best-by accuracy: did not raise the
    /// accuracy); 3 to 10 [default: as --preset
    /// chooses; with --preset off the run goes to its end]
    ///
    /// The learning rate still follows --scheduler over all steps. The best adapter is kept in best/.
    #[arg(long, value_name = "N", help_heading = "Watching")]
    #[arg(add = Facts::ARITHMETIC)]
    pub patience: Option<usize>,
    /// How far the held-out loss must fall (the accuracy rise) for --patience to count an evaluation as better [default: 0]
    #[arg(long, value_name = "LOSS", help_heading = "Watching")]
    #[arg(add = Facts::ARITHMETIC)]
    pub min_delta: Option<f64>,
    /// Where there is more to learn when the last step is done, begin --scheduler anew for twice as many steps, at most N times
    /// (Loshchilov and Hutter 2017); 1 to 3 [default: as --preset chooses; with --preset off 0]
    ///
    /// There is more to learn where the last third of the steps lowered the held-out loss by more than 3 % and by more than 1 % of
    /// its whole fall, or where training rows have no clearly lower loss than held-out rows: it is less than 5 % below
    /// the held-out loss, which is not almost zero. After a restart --patience counts evaluations from the middle of the new
    /// steps on.
    #[arg(long, value_name = "N", help_heading = "Watching")]
    #[arg(add = Facts::ARITHMETIC)]
    pub restarts: Option<usize>,
    /// Keep an average of what is trained, and write it to average/ beside the last: last:STEPS or ema:DECAY
    ///
    /// last:50 is the mean over the last 50 steps, ema:0.99 an exponential one, in which each step has 0.99 of the weight of the one after it. It is
    /// evaluated at the end. It takes 4 bytes a trained parameter; what is trained stays as it is.
    #[arg(long, value_name = "AVERAGE", help_heading = "Optimisation")]
    #[arg(add = Facts::ARITHMETIC)]
    pub average: Option<Averaging>,
    /// Number of optimizer steps between two lines of progress where the output is not a terminal [default: a line every 10 s]
    #[arg(long, value_name = "STEPS", help_heading = "Watching")]
    #[arg(add = Facts::PROCESS)]
    pub log_every: Option<usize>,

    /// Tokens computed at once; the main setting for memory, 256 to 8192
    ///
    /// A batch is cut into parts of at most this many tokens (a longer row stays whole), and their gradients are
    /// added: the result is that of the whole batch. A smaller number needs less memory, a larger one is a little
    /// faster. auto takes what the rows of a step have, 512 to 4096, as far as it fits in --memory without recomputing.
    #[arg(long, value_name = "TOKENS", default_value_t = Auto::Value(MICRO_BATCH_TOKENS), help_heading = "Machine")]
    #[arg(add = Facts::ARITHMETIC, add = Words(|| vec!["auto"]))]
    pub micro_batch_tokens: MicroBatchTokens,
    /// Micro-batches computed at the same time, which share --micro-batch-tokens [default: auto]
    ///
    /// With 2, steps are a few per cent faster, and other programs slow them less. auto takes 2 where that is faster and fits in
    /// --memory, else 1; what it took stands in config.toml. Set it to 1 for the least memory, and to the number of another run for the
    /// same bits. On a GPU and with objectives that judge replies, such as dpo, it is 1; in a sweep it is 1 unless it is set.
    #[arg(long, value_name = "N", help_heading = "Machine")]
    #[arg(add = Facts::ARITHMETIC, add = Words(|| vec!["auto"]))]
    pub micro_batches_at_once: Option<MicroBatchesAtOnce>,
    /// Compute every row by itself, even where rows of a batch begin with the same tokens
    ///
    /// By default a shared prefix is computed once. That changes only the speed; with --dropout, shared tokens have
    /// the same dropout mask.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, help_heading = "Machine")]
    #[arg(default_value_t = false, default_missing_value = "true", hide_default_value = true)]
    #[arg(hide_possible_values = true, action = ArgAction::Set)]
    #[arg(add = Facts::ARITHMETIC)]
    pub no_prefix_sharing: bool,
    /// Keep the outputs of the frozen blocks below --layers in --cache-dir, so that each row passes them once [default: auto]
    ///
    /// All epochs, evaluations and trials of a sweep read them from there. So do later runs with the same base, rows and lowest
    /// trained block. A token takes 2 or 4 bytes times the hidden size. Not with --neftune-alpha, --no-cache or several processes.
    #[arg(long, value_enum, value_name = "DTYPE", help_heading = "Machine")]
    #[arg(add = Facts::ARITHMETIC)]
    pub frozen_cache: Option<FrozenCacheChoice>,
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
    pub fn resolve(self, given: &Given) -> anyhow::Result<TrainArgs> {
        let hint = "give the run that is to go on: --resume RUN, without --out";
        let acts = self.resume.is_some();
        idle::refuse(
            given,
            [
                Idle { flag: "resume-anyway", acts, why: "without --resume", hint },
                Idle {
                    flag: "preset",
                    acts: !acts,
                    why: "with --resume: what was chosen when the run began stands in its config.toml",
                    hint: "leave it out, or begin another run without --resume",
                },
            ],
        )?;
        if let Some(run) = self.resume.as_ref().filter(|run| !run.join("config.toml").exists()) {
            let text = format!("--resume {}: no run is there (a run has a config.toml)", run.display());
            let near = nearby::in_words("runs", &runs_near(run));
            let hint = near.unwrap_or_else(|| "give the folder that --out named".to_owned());
            return Err(CliError::usage(text).hint(hint).into());
        }
        let mut resolved = match (&self.config, &self.resume) {
            (Some(file), _) => config_file::merge(&self, given, file)?,
            (None, Some(run)) => config_file::merge(&self, given, &run.join("config.toml"))?,
            (None, None) => self.clone(),
        };
        if let Some(run) = &self.resume {
            let kept = config_file::read::<TrainArgs>(&run.join("config.toml"))?;
            resolved.keep_found(&kept);
            // Typed paths are meant from here, those of a run from where it was begun.
            if let Some(folder) = kept.begun_in(run)
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

    /// Takes what the run found that is resumed, where `auto` is typed again.
    fn keep_found(&mut self, kept: &TrainArgs) {
        if self.lr == Some(LearningRate::Auto) {
            self.lr = kept.lr;
        }
        if self.micro_batch_tokens == MicroBatchTokens::Auto {
            self.micro_batch_tokens = kept.micro_batch_tokens;
        }
        if self.micro_batches_at_once == Some(MicroBatchesAtOnce::Auto) {
            self.micro_batches_at_once = kept.micro_batches_at_once;
        }
        if self.frozen_cache == Some(FrozenCacheChoice::Auto) {
            self.frozen_cache = kept.frozen_cache;
        }
    }

    /// Fills in what depends on other flags, and refuses what makes no sense.
    pub fn complete(mut self, given: &Given) -> anyhow::Result<Self> {
        // What a run that is resumed was chosen when it began, if it was.
        if self.resume.is_none() {
            self.preset.get_or_insert(Preset::Good);
        }
        // A preset chooses when the data is known.
        if self.chooses().is_none() {
            self.take_fixed();
        }
        if self.name.is_none() {
            let folder = self.out.as_ref().and_then(|out| out.file_name());
            self.name = folder.map(|name| name.to_string_lossy().into_owned());
        }
        // A run that was begun without, by an older version, goes on without.
        if self.eval_data.is_empty() && self.resume.is_none() {
            self.validation.get_or_insert(Validation::AUTO);
        } else if !self.eval_data.is_empty() && self.validation == Some(Validation::AUTO) {
            self.validation = None;
        }
        self.check_method(given)?;
        self.check_init()?;
        self.validate()?;
        Ok(self)
    }

    /// The preset that chooses what is not given, if one does.
    pub fn chooses(&self) -> Option<Preset> {
        self.preset.filter(|preset| *preset != Preset::Off && self.resume.is_none())
    }

    /// As it is printed: without what a preset has yet to choose, so that it is not taken for given.
    ///
    /// # Errors
    /// None but those of writing TOML.
    pub fn to_print(&self, given: &Given) -> anyhow::Result<String> {
        let mut values = config_file::object(self)?;
        // TOML has no word for nothing.
        values.retain(|_, value| !value.is_null());
        if self.chooses().is_some() && !given.has("rank") && !given.has("alpha") {
            values.remove("rank");
            values.remove("alpha");
        }
        config_file::to_toml(&values)
    }

    /// Takes the fixed length and learning rate where there is none.
    pub fn take_fixed(&mut self) {
        if self.max_steps.is_none() {
            self.epochs.get_or_insert(1.0);
        }
        self.lr.get_or_insert(LearningRate::Value(self.default_lr()));
    }

    /// What of `data` is held out.
    pub fn held_out(&self) -> Option<HeldOut> {
        self.validation.and_then(|Validation(held_out)| held_out)
    }

    /// The learning rate; `None` where it is yet to be found.
    pub fn rate(&self) -> Option<f64> {
        match self.lr? {
            LearningRate::Auto => None,
            LearningRate::Value(rate) => Some(rate),
        }
    }

    /// Tokens computed at once, about; the default where they are yet to be found.
    pub fn tokens_at_once(&self) -> usize {
        self.micro_batch_tokens.or(MICRO_BATCH_TOKENS)
    }

    /// Micro-batches at the same time; one where their number is yet to be found.
    pub fn at_once(&self) -> usize {
        self.micro_batches_at_once.unwrap_or(Auto::Auto).or(AtOnce(1)).0
    }

    /// The learning rate where none is given or chosen.
    pub fn default_lr(&self) -> f64 {
        match (self.method, self.init, self.preference.objective()) {
            (Method::Lora, _, None) => 2e-4,
            // A head is new, and learns from its first step.
            (Method::Lora, _, Some(objective)) if objective.is_scored() => 1e-4,
            // Losses of judged replies ask for less: their gradient is that of a whole reply.
            (Method::Lora, _, Some(_)) => 5e-5,
            (Method::Full, Init::Random, _) => 1e-3,
            (Method::Full, _, None) => 2e-5,
            (Method::Full, _, Some(_)) => 5e-6,
        }
    }

    /// Refuses flags of the other method.
    fn check_method(&self, given: &Given) -> anyhow::Result<()> {
        let (method, hint) = match self.method {
            Method::Lora => ("lora", "it belongs to --method full; LoRA has --target-modules"),
            Method::Full => ("full", "it belongs to --method lora; full has --train-modules"),
        };
        let others = flags::with(|facts| facts.method.is_some_and(|method| method != self.method));
        match config_file::set_among(self, given, &others)? {
            Some(name) => {
                let text = format!("--{name} has no meaning with --method {method}");
                Err(CliError::usage(text).hint(hint).into())
            }
            None => Ok(()),
        }
    }

    /// Refuses flags that an adapter brings itself: they would change nothing.
    pub fn check_adapter(&self, given: &Given) -> anyhow::Result<()> {
        // Of a run that is resumed the checkpoint decides.
        let Some(adapter) = self.adapter.as_ref().filter(|_| self.resume.is_none()) else { return Ok(()) };
        match config_file::set_among(self, given, &flags::with(|facts| facts.is_brought))? {
            Some(name) => {
                let text = format!("--{name} has no meaning with --adapter, which brings its own");
                let hint =
                    format!("leave it out to train {} as it is, or leave out --adapter", adapter.display());
                Err(CliError::usage(text).hint(hint).into())
            }
            None => Ok(()),
        }
    }

    /// Refuses a start of the other method, and random weights that would never be trained.
    fn check_init(&self) -> Result<(), CliError> {
        let all =
            self.train_modules.as_ref().is_none_or(|modules| matches!(modules.value, WeightModules::All));
        let part = match (self.init, self.method) {
            // Configurations of older versions have `model` for LoRA, too.
            (Init::Default | Init::Model, _) => return Ok(()),
            (Init::Gaussian | Init::Orthogonal | Init::Pissa, Method::Lora) => return self.check_pissa(),
            (Init::Gaussian | Init::Orthogonal | Init::Pissa, Method::Full) => {
                let text = format!("--init {} has no meaning with --method full", value_name(&self.init));
                return Err(CliError::usage(text)
                    .hint("it belongs to --method lora; full begins with --init model or random"));
            }
            (Init::Random, Method::Lora) => "--method lora",
            (Init::Random, Method::Full) if !all => "--train-modules",
            (Init::Random, Method::Full) if self.layers.is_some() => "--layers",
            (Init::Random, Method::Full) => return Ok(()),
        };
        let text = format!("--init random with {part} would leave some weights random");
        Err(CliError::usage(text)
            .hint("train all of them: --method full without --train-modules and --layers"))
    }

    /// Refuses what would act on the directions of the base that PiSSA trains, and not on the others.
    fn check_pissa(&self) -> Result<(), CliError> {
        let (flag, value, what) = match (self.init, self.dropout > 0.0, self.weight_decay > 0.0) {
            (Init::Pissa, true, _) => ("dropout", self.dropout, "drop inputs of"),
            (Init::Pissa, _, true) => ("weight-decay", self.weight_decay, "let decay"),
            _ => return Ok(()),
        };
        let text =
            format!("--{flag} {value} with --init pissa would {what} the strongest directions of the base");
        Err(CliError::usage(text).hint(format!("leave --{flag} out, or begin with --init default")))
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
        within("rank", self.rank, MOST_RANK)?;
        check_base_name(self.base_name.as_deref())?;
        positive("alpha", self.alpha)?;
        share("dropout", self.dropout)?;
        if self.dora && self.dropout > 0.0 {
            let text = format!("--dora --dropout {}: DoRA is trained without dropout here", self.dropout);
            return Err(CliError::usage(text).hint("leave one of them out"));
        }
        positive("lr", self.rate().unwrap_or(1.0))?;
        share("warmup-ratio", self.warmup_ratio.unwrap_or(WARMUP_RATIO))?;
        self.check_decay()?;
        positive("lora-plus-ratio", self.lora_plus_ratio.unwrap_or(1.0))?;
        not_negative("weight-decay", self.weight_decay)?;
        share("label-smoothing", self.label_smoothing.unwrap_or(0.0))?;
        self.preference.validate(self.label_smoothing)?;
        self.check_preference()?;
        self.check_scored()?;
        positive("neftune-alpha", self.neftune_alpha.unwrap_or(1.0))?;
        not_negative("max-grad-norm", self.max_grad_norm)?;
        within("batch-size", self.batch_size, MOST_ROWS)?;
        within("gradient-accumulation", self.gradient_accumulation, MOST_ROWS)?;
        let epochs = self.epochs.unwrap_or(1.0);
        positive("epochs", epochs)?;
        require(epochs <= MOST_EPOCHS, "epochs", epochs, &format!("must be {MOST_EPOCHS} or less"))?;
        within("max-steps", self.max_steps.unwrap_or(1), MOST_STEPS)?;
        // TOML, in which the configuration is saved, has signed numbers.
        require(i64::try_from(self.seed).is_ok(), "seed", self.seed, "must be below 2^63")?;
        self.rows.validate()?;
        natural("micro-batch-tokens", self.tokens_at_once())?;
        check_at_once(self.at_once())?;
        natural("eval-every", self.eval_every.unwrap_or(1))?;
        natural("log-every", self.log_every.unwrap_or(1))?;
        natural("keep-checkpoints", self.safety.keep_checkpoints)?;
        if self.eval_every.is_some() && self.eval_data.is_empty() && self.held_out().is_none() {
            return Err(CliError::usage("--eval-every with --validation none has no rows to look at")
                .hint("give held-out rows with --eval-data DATA, or hold some out with --validation 5%"));
        }
        self.check_patience()?;
        self.check_restarts()?;
        self.check_best_by()?;
        if self.eval_split.is_some() && self.eval_data.is_empty() {
            return Err(CliError::usage("--eval-split without --eval-data has no files to choose from")
                .hint("give held-out rows with --eval-data DATA; --split is for --data"));
        }
        self.cache.validate()?;
        self.base.resolve()?;
        self.common.validate()
    }

    /// Refuses what judged replies are not trained with.
    fn check_preference(&self) -> Result<(), CliError> {
        let Some(objective) = self.preference.objective() else { return Ok(()) };
        let name = objective.name;
        if self.lr == Some(LearningRate::Auto) && !objective.is_scored() {
            let text = format!(
                "--lr auto with --objective {name}: what limits the rate is how far the model goes from what it was, which the test \
                 does not see"
            );
            return Err(CliError::usage(text).hint("give a rate: 5e-6 to 5e-4 suits LoRA"));
        }
        if self.init == Init::Random {
            let text = format!(
                "--init random with --objective {name}: a model that has learnt nothing has no replies to judge"
            );
            return Err(CliError::usage(text).hint("train it on replies first, with --objective sft"));
        }
        if self.method == Method::Full && objective.purpose() == Purpose::Labels {
            let text = format!(
                "--method full --objective {name}: the reference is asked in every step, and its weights would be trained"
            );
            return Err(CliError::usage(text).hint("--method lora keeps the base as the reference"));
        }
        Ok(())
    }

    /// Refuses what a head that scores texts is not trained with, and what it alone has.
    fn check_scored(&self) -> Result<(), CliError> {
        let objective = &self.preference.objective;
        let refuse = |what: String, hint: &'static str| {
            Err(CliError::usage(format!("{what} with --objective {objective}")).hint(hint))
        };
        if self.classes.label_column.is_some() && !self.preference.is_classifier() {
            return refuse("--label-column has no meaning".into(), "it belongs to --objective classify");
        }
        if !self.preference.is_scored() {
            return Ok(());
        }
        if self.init == Init::Random {
            let hint = "a random model has learnt nothing to score by: train it on texts first, with --objective sft";
            return refuse("--init random cannot be used".into(), hint);
        }
        if self.new_tokens.is_some() {
            let hint = "train them with --objective sft first, and merge that adapter into the base";
            return refuse("--new-tokens cannot be used".into(), hint);
        }
        if self.rows.train_on != TrainOn::Replies {
            let what = format!("--train-on {} has no meaning", value_name(&self.rows.train_on));
            return refuse(what, "leave it out: texts are scored as a whole");
        }
        Ok(())
    }

    /// Refuses early stopping where no evaluations say when.
    fn check_patience(&self) -> Result<(), CliError> {
        let Some(patience) = self.patience else {
            return match self.min_delta {
                Some(_) => Err(CliError::usage("--min-delta has no meaning without --patience")
                    .hint("add --patience 3, or leave --min-delta out")),
                None => Ok(()),
            };
        };
        require(patience > 0, "patience", patience, "must be 1 or more")?;
        let delta = self.min_delta.unwrap_or(0.0);
        require(delta >= 0.0 && delta.is_finite(), "min-delta", delta, "must be 0 or more")?;
        if self.eval_data.is_empty() && self.held_out().is_none() {
            return Err(CliError::usage("--patience with --validation none has no rows to look at")
                .hint("give held-out rows with --eval-data DATA, or hold some out with --validation 5%"));
        }
        if let Some(average @ Averaging::Last(_)) = self.average {
            return Err(CliError::usage(format!(
                "--average {average} with --patience: which steps are the last is known too late in a run that may stop early"
            ))
            .hint("--average ema:0.99 goes with it"));
        }
        match self.eval_every {
            Some(_) => Ok(()),
            None if self.chooses().is_some() => Ok(()),
            None => Err(CliError::usage(format!(
                "--patience {patience} without --eval-every: rows are evaluated at the end, when nothing is left to stop"
            ))
            .hint("give --eval-every STEPS, such as a twentieth of all steps")),
        }
    }

    /// Refuses restarts where no evaluation speaks for one.
    fn check_restarts(&self) -> Result<(), CliError> {
        let Some(restarts) = self.restarts.filter(|restarts| *restarts > 0) else { return Ok(()) };
        // The last round would have more than 256 times the steps of the first.
        require(
            restarts <= MOST_RESTARTS,
            "restarts",
            restarts,
            &format!("must be {MOST_RESTARTS} or less"),
        )?;
        if self.eval_data.is_empty() && self.held_out().is_none() {
            return Err(CliError::usage("--restarts with --validation none has no rows to look at")
                .hint("give held-out rows with --eval-data DATA, or hold some out with --validation 5%"));
        }
        Ok(())
    }

    /// Refuses a best evaluation where there are none, and an accuracy where there are no pairs.
    fn check_best_by(&self) -> Result<(), CliError> {
        let Some(by) = self.best_by else { return Ok(()) };
        let name = value_name(&by);
        if self.eval_data.is_empty() && self.held_out().is_none() {
            let text = format!("--best-by {name} with --validation none has no rows to look at");
            return Err(CliError::usage(text)
                .hint("give held-out rows with --eval-data DATA, or hold some out with --validation 5%"));
        }
        let has_accuracy = matches!(self.preference.purpose(), Purpose::Pairs | Purpose::Scores)
            || self.preference.is_classifier();
        if by == BestByChoice::Accuracy && !has_accuracy {
            let objective = &self.preference.objective;
            let text = format!(
                "--best-by accuracy has no meaning with --objective {objective}, which has no pairs of replies"
            );
            return Err(CliError::usage(text)
                .hint("--best-by loss goes with it; accuracy with --objective dpo, for example"));
        }
        Ok(())
    }

    /// Refuses a decay that no scheduler has, and one that does not leave the warm-up its share.
    fn check_decay(&self) -> Result<(), CliError> {
        let Some(decay) = self.decay_ratio else { return Ok(()) };
        if self.scheduler != Scheduler::Wsd {
            let text = format!(
                "--decay-ratio {decay} has no meaning with --scheduler {}",
                value_name(&self.scheduler)
            );
            return Err(CliError::usage(text).hint("give --scheduler wsd, or leave --decay-ratio out"));
        }
        let holds = (0.0..=1.0 - self.warmup_ratio.unwrap_or(WARMUP_RATIO)).contains(&decay);
        require(holds, "decay-ratio", decay, "must be 0 or more, and with --warmup-ratio no more than 1")
    }

    /// Refuses a folder that holds something else than a run, or what the run reads.
    pub fn check_outputs(&self, out: &PathBuf) -> Result<(), CliError> {
        // Any of them is there from the first moment of a run; the last where its adapter was copied alone.
        const RUN: Kind =
            Kind::Folder(&["config.toml", "metrics.jsonl", "run.json", "lock", "adapter_config.json"]);
        let run = Output::asked("--out", Some(out), RUN);
        outputs::check(&self.inputs(), run.into_iter().chain(self.cache.output()))
    }

    /// The folder of the adapter of the reference, where it has one.
    pub fn reference_adapter(&self) -> Option<&Path> {
        self.preference.own_reference(self.adapter.as_deref())
    }

    /// What a run reads.
    pub fn inputs(&self) -> Inputs {
        let inputs =
            self.model.iter().fold(Inputs::default(), |inputs, model| inputs.model("--model", model));
        inputs
            .paths("--adapter", &self.adapter)
            .paths("--reference", self.reference_adapter().map(Path::to_owned))
            .paths("--config", &self.config)
            .paths("--template", &self.template.template)
            .data("--data", &self.data, self.rows.split.as_deref())
            .data("--eval-data", &self.eval_data, self.eval_split.as_deref())
    }

    /// As it is kept in the run's folder: a run may be resumed from another folder than it was begun in. Where that was
    /// is told by the folder of a run whose `out` was below it ([`TrainArgs::begun_in`]); of others paths are kept whole.
    pub fn to_keep(&self) -> Self {
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
        let rows = |data: &[String]| data.iter().map(|text| rows::placed_in(folder, text)).collect();
        let mut args = self.clone();
        args.model = self.model.as_ref().map(if_there);
        (args.data, args.eval_data) = (rows(&self.data), rows(&self.eval_data));
        args.out = self.out.as_deref().map(place);
        args.adapter = self.adapter.as_deref().map(place);
        if let Some(ReferenceChoice::Adapter(dir)) = &self.preference.reference {
            args.preference.reference = Some(ReferenceChoice::Adapter(place(dir)));
        }
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
