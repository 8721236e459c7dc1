//! `lorafit plan`: what fine-tuning a model costs in memory, and what fits.

mod calculator;
mod recommend;
mod report;
mod show;
mod subject;

pub use self::calculator::view;

use std::path::{Path, PathBuf};

use clap::Args;
use lorafit_data::MOST_LABELS;
use lorafit_model::Config;
use lorafit_model::weights::MOST_ADDED_ROWS;
use lorafit_train::Averaging;

use self::subject::Subject;
use crate::args::base::{ComputeArgs, QuantArgs};
use crate::args::config_file::Given;
use crate::args::flags::Words;
use crate::args::idle;
use crate::args::memory::MemoryArgs;
use crate::args::options::{
    AtOnce, Auto, DeviceChoice, Init, MicroBatchTokens, MicroBatchesAtOnce, Optimizer, SaveModules,
    TargetModules, value_name,
};
use crate::args::outputs::{self, Inputs, Kind, Output};
use crate::args::preference::{PreferenceArgs, ReferenceChoice, SFT, objectives};
use crate::args::projections::ProjectionArgs;
use crate::args::train::{MICRO_BATCH_TOKENS, check_at_once};
use crate::args::{MOST_RANK, MOST_ROWS, MOST_TOKENS, require, within};
use crate::pages::figure::FileKind;
use crate::terminal::error::CliError;
use crate::terminal::output;

const EXAMPLES: &str = "\
Examples:
  What a 7B model costs, by four methods:
    lorafit plan --model llama-2-7b
  What fits in 6 GiB, over a 4-bit base:
    lorafit plan --model mistral-7b --quant nf4 --double-quant --memory 6GiB
  What to choose on this machine:
    lorafit plan --model ./my-model --recommend
  Training on preferences with a reference of its own, and a classifier:
    lorafit plan --model ./my-model --objective dpo --reference runs/sft --batch-size 4
    lorafit plan --model ./my-model --objective classify --labels 5
  For a talk, and for a program:
    lorafit plan --model llama-3.1-8b --svg cost.svg
    lorafit plan --model llama-3.1-8b --json

Sizes are exact: buffers are counted by the function that makes them in a run. GB are decimal. Full fine-tuning in f32,
LoRA and QLoRA are as lorafit runs them: what is trained, its gradients and moments, and activations in f32. A 16-bit run
of full fine-tuning, which lorafit does not have, keeps all of that in 16 bits.";

/// The flags of `plan`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = format!("{EXAMPLES}\n\nPublished shapes:\n{}", shapes()))]
pub struct PlanArgs {
    /// A published shape (llama-2-7b, qwen3-8b, ...), a config.json, a model folder, a .gguf file, or a hub id
    #[arg(long, value_name = "M", help_heading = "Work", add = Words(|| Config::names().collect()))]
    pub model: String,
    /// Rows per batch
    #[arg(long, value_name = "ROWS", default_value_t = 1, help_heading = "Work")]
    pub batch_size: usize,
    /// Tokens of a row
    #[arg(long, value_name = "TOKENS", default_value_t = 512, help_heading = "Work")]
    pub max_seq_len: usize,
    /// Tokens computed at once, as in train; auto takes what --batch-size rows of --max-seq-len tokens have, as far as it fits
    #[arg(long, value_name = "TOKENS", default_value_t = Auto::Value(MICRO_BATCH_TOKENS), help_heading = "Work")]
    #[arg(add = Words(|| vec!["auto"]))]
    pub micro_batch_tokens: MicroBatchTokens,
    /// Micro-batches computed at the same time, which share --micro-batch-tokens, as in train [default: auto]
    #[arg(long, value_name = "N", help_heading = "Work", add = Words(|| vec!["auto"]))]
    pub micro_batches_at_once: Option<MicroBatchesAtOnce>,
    /// Width of the adapter; train chooses 8 unless there is much data, and the plan says for how much it does
    #[arg(long, value_name = "R", default_value_t = 8, help_heading = "Work")]
    pub rank: usize,
    /// Modules that get an adapter: all-linear, a comma list, or regex:PATTERN
    #[arg(long, value_name = "MODULES", default_value = "all-linear", help_heading = "Work")]
    pub target_modules: TargetModules,
    /// Train a magnitude for each output, too (DoRA)
    #[arg(long, help_heading = "Work")]
    pub dora: bool,
    /// What the adapter begins with, as in train; pissa has twice the --rank
    #[arg(long, value_enum, value_name = "INIT", default_value_t = Init::Default, help_heading = "Work")]
    pub init: Init,
    /// An average of what is trained, as in train
    #[arg(long, value_name = "AVERAGE", help_heading = "Work")]
    pub average: Option<Averaging>,
    /// Which modules are left out, and which have a rank of their own.
    #[command(flatten)]
    pub projections: ProjectionArgs,
    /// Weights that are trained whole beside the factors, as in train
    #[arg(long, value_name = "MODULES", help_heading = "Work")]
    pub save_modules: Option<SaveModules>,
    /// Number of tokens that are added, whose rows of embedding and head are trained, too (--new-tokens of train); if the embedding has
    /// free rows, a little less is taken
    #[arg(long, value_name = "N", help_heading = "Work")]
    pub new_tokens: Option<usize>,
    /// What the run trains for, as in train: a row of pairs is two texts of --max-seq-len tokens, and reward and classify have a head
    /// of their own
    #[arg(long, value_name = "OBJECTIVE", default_value = SFT, value_parser = objectives(), help_heading = "Work")]
    pub objective: String,
    /// Number of labels, with --objective classify [default: those of the model's head, else 2]
    #[arg(long, value_name = "N", help_heading = "Work")]
    pub labels: Option<usize>,
    /// The reference of --objective dpo and others, as in train: an adapter's folder takes memory of its own, base and start take none
    #[arg(long, value_name = "base|start|DIR", help_heading = "Work", add = Words(|| vec!["base", "start"]))]
    pub reference: Option<ReferenceChoice>,
    /// How the optimizer keeps its moments
    #[arg(long, value_enum, default_value_t = Optimizer::Adamw, help_heading = "Work")]
    pub optimizer: Optimizer,
    /// Number of threads [default: all cores]
    #[arg(long, value_name = "N", help_heading = "Work")]
    pub threads: Option<usize>,
    /// Device to plan for: cpu, or cuda for an NVIDIA GPU, which this machine need not have
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Cpu, help_heading = "Work")]
    #[arg(add = Words(|| vec!["cpu", "cuda"]))]
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
    /// Recommend settings for this machine, or for --memory, in one paragraph
    #[arg(long, help_heading = "Output")]
    pub recommend: bool,
    /// Print everything as one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Write the comparison as a stacked bar chart (FILE.svg, FILE.png or FILE.pdf) or as its numbers (FILE.csv)
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub svg: Option<PathBuf>,
}

/// The names of all published shapes, in lines.
fn shapes() -> String {
    const WIDTH: usize = 100;
    let mut lines = vec!["  ".to_owned()];
    for name in Config::names() {
        let line = lines.last_mut().expect("never empty");
        if line.len() + name.len() > WIDTH {
            lines.push(format!("  {name}"));
        } else {
            let blank = if line.trim().is_empty() { "" } else { " " };
            *line += &format!("{blank}{name}");
        }
    }
    lines.join("\n")
}

impl PlanArgs {
    /// What the run trains for.
    fn preference(&self) -> PreferenceArgs {
        PreferenceArgs { reference: self.reference.clone(), ..PreferenceArgs::of(&self.objective) }
    }

    /// Refuses what the objective does not take.
    fn check_objective(&self, given: &Given) -> Result<(), CliError> {
        let preference = self.preference();
        let of_labels = idle::together(
            &["labels"],
            preference.is_classifier(),
            "without --objective classify",
            "add --objective classify, or leave it out",
        );
        let of_texts = idle::together(
            &["new-tokens"],
            !preference.is_scored(),
            "with an objective that scores texts",
            "leave it out: train refuses it",
        );
        idle::refuse(given, of_labels.chain(of_texts))?;
        let labels = self.labels.unwrap_or(2);
        let range = 2..=MOST_LABELS;
        require(range.contains(&labels), "labels", labels, &format!("must be from 2 to {MOST_LABELS}"))?;
        preference.validate(None)
    }
}

/// More than any machine has.
const MOST_THREADS: usize = 1 << 12;

/// Refuses what no plan can be made of.
fn check(args: &PlanArgs, given: &Given) -> Result<(), CliError> {
    for (name, value, most) in [
        ("batch-size", args.batch_size, MOST_ROWS),
        ("max-seq-len", args.max_seq_len, MOST_TOKENS),
        ("micro-batch-tokens", args.micro_batch_tokens.or(MICRO_BATCH_TOKENS), MOST_TOKENS),
        ("rank", args.rank, MOST_RANK),
        ("threads", args.threads.unwrap_or(1), MOST_THREADS),
        ("new-tokens", args.new_tokens.unwrap_or(1), MOST_ADDED_ROWS),
    ] {
        within(name, value, most)?;
    }
    check_at_once(args.micro_batches_at_once.unwrap_or(Auto::Auto).or(AtOnce(1)).0)?;
    args.compute.check(args.device)?;
    args.check_objective(given)?;
    if let Init::Model | Init::Random = args.init {
        let text = format!(
            "--init {} has no meaning for plan: it is the start of an adapter",
            value_name(&args.init)
        );
        return Err(
            CliError::usage(text).hint("leave --init out: full fine-tuning takes as much however it begins")
        );
    }
    Ok(())
}

/// Tells what fine-tuning costs.
pub fn run(args: PlanArgs, given: &Given) -> anyhow::Result<()> {
    check(&args, given)?;
    args.compute.warning().iter().for_each(|text| tell!("{text}"));
    args.svg.as_deref().map_or(Ok(()), |file| FileKind::of(file).map(drop))?;
    let reference = args.preference().own_reference(None).map(Path::to_owned);
    let inputs = Inputs::default().model("--model", &args.model).paths("--reference", reference);
    outputs::check(&inputs, Output::asked("--svg", args.svg.as_ref(), Kind::Figure))?;
    let (svg, json, recommend) = (args.svg.clone(), args.json, args.recommend);
    let subject = Subject::open(&args.model)?;
    let report = report::report(args, given, subject)?;
    if let Some(file) = &svg {
        show::chart(&report).write(file)?;
    }
    output::line(match (json, recommend) {
        (true, _) => serde_json::to_string(&report)?,
        (false, true) => report.recommendation,
        (false, false) => show::table(&report),
    })?;
    Ok(())
}
