//! From `--model` and `--adapter` to what the verbs work with.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use lorafit_data::Tokenizer;
use lorafit_kernels::gpu::{DeviceError, DeviceInfo, Float, Gpu};
use lorafit_kernels::{Device, Placement, cuda};
use lorafit_model::adapter::{self, Adapter, FactorDtype, TokenIndices};
use lorafit_model::weights::{Gguf, ModelFiles};
use lorafit_model::{Config, FileError, Model, Source};
use lorafit_remedy::amounts::{counted, memory};
use lorafit_train::{AnswerError, MemoryPlan, open_tokenizer};

use crate::args::adapters::{AdapterArg, FactorArgs};
use crate::args::base::{ComputeArgs, ComputeChoice, QuantArgs, TemplateArgs};
use crate::args::common::Common;
use crate::args::options::DeviceChoice;
use crate::args::train::TrainArgs;
use crate::session::adapter_folder::{Found, found_adapter};
use crate::session::fit::memory_limit;
use crate::session::merge_inputs::{as_one, merged_before};
use crate::session::other_base;
use crate::session::scoring::{self, Scoring};
use crate::session::tokens::{self, Added, Tokens};
use crate::terminal::error::CliError;
use crate::terminal::host;
use crate::terminal::progress::LoadProgress;

/// A base model, ready to compute.
pub struct Base {
    /// What adapters call it.
    pub name: String,
    /// Whether nothing is told but errors.
    pub quiet: bool,
    /// The files of its configuration and weights.
    pub weights: ModelFiles,
    /// The weights.
    pub model: Model,
    /// Bytes of the weights in memory.
    pub weight_bytes: u64,
    /// Its tokenizer, with the chat template and with tokens that a run or an adapter adds.
    pub tokenizer: Tokenizer,
    /// The tokens whose rows a fresh adapter trains.
    pub new_tokens: TokenIndices,
    /// What the head gives of a text, where it scores texts and has no logits of tokens.
    pub scoring: Option<Scoring>,
}

/// Where `common` says to compute. A GPU is opened once, however often it is asked for.
pub fn device(common: &Common, compute: ComputeArgs) -> anyhow::Result<Device> {
    static OPEN: Mutex<Vec<((usize, Float), Gpu)>> = Mutex::new(Vec::new());
    let ordinal = match common.device {
        DeviceChoice::Auto | DeviceChoice::Cpu => return Ok(Device::Cpu),
        DeviceChoice::Cuda(ordinal) => ordinal,
    };
    compute.check(common.device)?;
    let float = activation_float(compute.on(common.device, false));
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, gpu)) = open.iter().find(|(which, _)| *which == (ordinal, float)) {
        return Ok(Device::Cuda(*gpu));
    }
    let gpu = cuda::open(ordinal, float)?;
    open.push(((ordinal, float), gpu));
    Ok(Device::Cuda(gpu))
}

/// A GPU in a line: its name, what it computes with.
pub fn gpu_in_words(info: &DeviceInfo) -> String {
    let (major, minor) = (info.driver_version / 1000, info.driver_version % 1000 / 10);
    let libraries = info.libraries.join(", ");
    format!(
        "{}, sm_{}, {}, CUDA {major}.{minor} of the driver, {libraries}",
        info.name,
        info.architecture,
        memory(info.total_bytes)
    )
}

/// What decides sizes on `device`, without opening it.
pub fn placement(device: DeviceChoice, compute: ComputeArgs) -> Placement {
    match device {
        DeviceChoice::Auto | DeviceChoice::Cpu => Placement::Cpu,
        DeviceChoice::Cuda(_) => Placement::Cuda(activation_float(compute.on(device, false))),
    }
}

/// Takes the memory that a run is planned to have on a GPU before it is made; of the system's nothing is taken.
pub fn reserve(device: Device, plan: &MemoryPlan) -> Result<(), DeviceError> {
    match device {
        Device::Cpu => Ok(()),
        Device::Cuda(gpu) => gpu.reserve(plan.total() - plan.process),
    }
}

/// The type of activations on a GPU, which [`ComputeArgs::check`] let pass.
fn activation_float(choice: ComputeChoice) -> Float {
    match choice {
        ComputeChoice::F32 => Float::F32,
        ComputeChoice::Bf16 | ComputeChoice::Int8 => Float::Bf16,
    }
}

/// Takes as many threads as asked for, else one per core; to be called before any work. A process keeps the threads that its
/// first call took.
///
/// # Errors
/// Another number than the process has, where it is asked for.
pub fn use_threads(common: &Common) -> anyhow::Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(common.threads.unwrap_or(0));
    let Err(error) = pool.build_global() else { return Ok(()) };
    let found = rayon::current_num_threads();
    match (common.threads, host::host()) {
        (_, None) => Err(error.into()),
        (None, Some(_)) => Ok(()),
        (Some(asked), Some(_)) if asked == found => Ok(()),
        (Some(asked), Some(_)) => {
            let has = counted(found, "thread", "threads");
            let text = format!("--threads {asked}: this process computes with {has} since its first call");
            Err(CliError::usage(text)
                .hint("leave it out, or give it in the first call of a new process")
                .into())
        }
    }
}

/// Refuses the folder of a run of full fine-tuning where its model is meant, which `flag` names.
pub fn refuse_full_run(flag: &str, path: &Path) -> Result<(), CliError> {
    let model = path.join("model");
    let is_run = path.join("config.toml").is_file() && model.join("config.json").is_file();
    if !is_run || path.join("config.json").exists() || path.join("adapter_config.json").exists() {
        return Ok(());
    }
    let (shown, model) = (path.display(), model.display());
    let hint = match flag {
        "--model" => format!("give --model {model}"),
        "" => format!("it has no adapter to look into; its model is {model}"),
        _ => format!("it has no adapter: give --model {model}, without {flag}"),
    };
    Err(CliError::usage(format!("{flag} {shown} is a run of full fine-tuning").trim_start()).hint(hint))
}

/// Opens a base model: a folder, a GGUF file, or a hub id that is downloaded first; with `tokens` beside its own, quantised as
/// `quant` says, and with the chat template of `template`.
pub fn open_base(
    model: &str,
    tokens: &Tokens<'_>,
    quant: &QuantArgs,
    template: &TemplateArgs,
    compute: ComputeArgs,
    common: &Common,
) -> anyhow::Result<Base> {
    let device = device(common, compute)?;
    warn_of(compute, common);
    let quantization = quant.resolve()?;
    let (mut files, mut tokenizer) = open_files(model, &Tokens::OfModel, template, common)?;
    let Added { indices, notes } = tokens.add(&mut files, &mut tokenizer)?;
    notes.iter().for_each(|note| tell(note, common));
    scoring::check(&files, device)?;
    let scoring = tokens::scoring(tokens, &files)?;
    let weight_bytes = files.weight_bytes(quantization, device.placement())?;
    // Of files that the processor maps nothing is read before it is used.
    let tells = matches!(device, Device::Cuda(_)) && !common.quiet;
    let mut base = Base::new(model, files, tokenizer, weight_bytes, common.quiet, |files| {
        let values = files.config().matrix_shapes().map(|(rows, cols)| rows as u64 * cols as u64).sum();
        let progress = LoadProgress::new(tells, values);
        let loaded = Model::load_and_tell(files, quantization, device, &|values| progress.add(values))?;
        progress.finish(&memory(weight_bytes), &common.device.to_string());
        Ok(loaded)
    })?;
    base.model.set_compute_dtype(compute.on(common.device, quantization.is_some()).into());
    base.new_tokens = indices;
    base.scoring = scoring;
    Ok(base)
}

/// Opens the files of a model and its tokenizer, as [`open_base`] does, and loads no weights.
pub fn open_files(
    model: &str,
    tokens: &Tokens<'_>,
    template: &TemplateArgs,
    common: &Common,
) -> anyhow::Result<(ModelFiles, Tokenizer)> {
    refuse_full_run("--model", Path::new(model))?;
    let source = Source::resolve(model, &mut |text| tell(text, common))?;
    let (mut files, mut tokenizer) = with_tokenizer(ModelFiles::open(source.path())?, template)?;
    tokens.add(&mut files, &mut tokenizer)?;
    Ok((files, tokenizer))
}

/// Opens the shape of a model with its tokenizer, as [`open_base`] does; weights are not read, and its are zeros in f32.
pub fn open_shape(
    model: &str,
    template: &TemplateArgs,
    compute: ComputeArgs,
    common: &Common,
) -> anyhow::Result<Base> {
    let device = device(common, compute)?;
    warn_of(compute, common);
    let (files, tokenizer) = open_without_weights(model, template, common)?;
    let weight_bytes = files.config().parameters().saturating_mul(4);
    let limit = memory_limit(None, device).unwrap_or(u64::MAX);
    if weight_bytes > limit {
        let (needed, free) = (memory(weight_bytes), memory(limit));
        let text = format!("{model}: the weights alone take {needed} in f32, and {free} are free");
        return Err(CliError::new(text).hint("give a config.json of a smaller model").into());
    }
    let zeros = |files: &ModelFiles| Ok(Model::zeros(files.config(), device));
    let mut base = Base::new(model, files, tokenizer, weight_bytes, common.quiet, zeros)?;
    base.model.set_compute_dtype(compute.on(common.device, false).into());
    Ok(base)
}

impl Base {
    /// Puts together what belongs together; `model` is what the user calls it.
    fn new(
        model: &str,
        files: ModelFiles,
        tokenizer: Tokenizer,
        weight_bytes: u64,
        quiet: bool,
        load: impl FnOnce(&ModelFiles) -> Result<Model, FileError>,
    ) -> anyhow::Result<Self> {
        // As PEFT has it, so that whoever opens the adapter finds its base: the path or hub id that was given.
        let name = model.to_owned();
        let model = load(&files)?;
        if !quiet {
            files.notes().iter().for_each(|note| tell!("{note}"));
        }
        let new_tokens = TokenIndices::default();
        let scoring = None;
        Ok(Base { name, quiet, weights: files, model, weight_bytes, tokenizer, new_tokens, scoring })
    }
}

/// The files of a model that are not its weights, which may be missing; and its tokenizer.
fn open_without_weights(
    model: &str,
    template: &TemplateArgs,
    common: &Common,
) -> anyhow::Result<(ModelFiles, Tokenizer)> {
    refuse_full_run("--model", Path::new(model))?;
    let source = Source::resolve_without_weights(model, &mut |text| tell(text, common))?;
    with_tokenizer(ModelFiles::open_without_weights(source.path())?, template)
}

/// `files` with their tokenizer, which has the chat template of `template`.
fn with_tokenizer(files: ModelFiles, template: &TemplateArgs) -> anyhow::Result<(ModelFiles, Tokenizer)> {
    let lacks_tokens = |gguf: &Gguf| gguf.texts("tokenizer.ggml.tokens").is_none_or(<[String]>::is_empty);
    if files.gguf().is_some_and(lacks_tokens) {
        let text =
            format!("{}: the GGUF file has no tokenizer (`tokenizer.ggml.tokens`)", files.path().display());
        return Err(CliError::new(text)
            .hint("take a conversion that has one, or the model's folder with its tokenizer.json")
            .into());
    }
    let mut tokenizer = open_tokenizer(&files)?;
    template.apply(&mut tokenizer)?;
    Ok((files, tokenizer))
}

/// Tells what is to be known of the number type that was chosen.
pub fn warn_of(compute: ComputeArgs, common: &Common) {
    compute.warning().iter().for_each(|text| tell(text, common));
}

fn tell(text: &str, common: &Common) {
    if !common.quiet {
        tell!("{text}");
    }
}

/// The shape and the tokenizer of a model, with `tokens` beside its own, as [`open_base`] opens it.
pub fn open_model_tokenizer(
    model: &str,
    tokens: &Tokens<'_>,
    template: &TemplateArgs,
    common: &Common,
) -> anyhow::Result<(Config, Tokenizer)> {
    let (mut files, mut tokenizer) = open_without_weights(model, template, common)?;
    tokens.add(&mut files, &mut tokenizer)?;
    Ok((files.config().clone(), tokenizer))
}

/// The template to write conversations by: the one asked for, else the one that the first of `runs` was trained with that
/// was trained with one. That is told, and if a run was trained over a quantised base and this one is not.
pub fn as_trained<'a>(
    template: &TemplateArgs,
    quant: &QuantArgs,
    runs: impl IntoIterator<Item = &'a Path>,
    quiet: bool,
) -> TemplateArgs {
    let mut used = template.clone();
    for dir in runs {
        let Some(run) = TrainArgs::of_run(dir) else { continue };
        let shown = dir.display();
        let mut told = Vec::new();
        match (run.template.template, &used.template) {
            (Some(own), None) => {
                told.push(format!(
                    "conversations are written with the template {own}, with which {shown} was trained"
                ));
                used.template = Some(own);
            }
            (Some(own), Some(other)) if own != *other => {
                told.push(format!(
                    "{shown} was trained with the template {own}, and conversations are written by {other}"
                ));
            }
            (Some(_) | None, _) => {}
        }
        if let (Some(flags), None) = (run.base.flags(), quant.quant) {
            told.push(format!(
                "{shown} was trained with {flags}; the base here is as its file has it, unless you add that"
            ));
        }
        if !quiet {
            told.iter().for_each(|line| tell!("{line}"));
        }
    }
    used
}

impl Base {
    /// Refuses a model that scores texts to who wants it to write some; `what` begins the sentence.
    ///
    /// # Errors
    /// As it says.
    pub fn check_writes(&self, what: &str) -> Result<(), CliError> {
        let Some(scoring) = &self.scoring else { return Ok(()) };
        let (is, gives) = match scoring {
            Scoring::Reward => ("a reward model", "the reward of a text"),
            Scoring::Classes(_) => ("a classifier", "the label of a text"),
        };
        Err(CliError::usage(format!("{what}: the model is {is}, and its head writes no text"))
            .hint(format!("lorafit generate prints {gives}, lorafit eval judges the model on rows")))
    }

    /// The error of the first weight that is no number, if there is one. Reads all weights: for after the fact.
    pub fn non_number(&self) -> Option<anyhow::Error> {
        let (name, value) = self.weights.non_number().ok().flatten()?;
        let path = self.weights.path().display();
        let text = format!("{path}: the logits are not numbers: {name} has the value {value}");
        let hint = "the weights are damaged, or of training that diverged: get the model again";
        Some(CliError::new(text).hint(hint).into())
    }

    /// The error of logits that are no numbers, with the weight that is to blame if there is one.
    pub fn not_numbers(&self) -> anyhow::Error {
        let overflow = || {
            let path = self.weights.path().display();
            CliError::new(format!(
                "{path}: the logits are not numbers, although every weight is one: numbers overflow on the way"
            ))
            .hint("try --compute-dtype f32, without the adapter if there is one, and without --quant")
        };
        self.non_number().unwrap_or_else(|| overflow().into())
    }

    /// Why rows were not answered.
    pub fn unanswered(&self, error: AnswerError) -> anyhow::Error {
        match error {
            AnswerError::NotNumbers(_) => self.not_numbers(),
            AnswerError::Tokenizer(error) => error.into(),
        }
    }
}

/// An adapter with what is to be told of it: what of it was passed over, that it is of another base, or in its weights already.
pub struct OpenedAdapter {
    /// The adapter.
    pub adapter: Adapter,
    /// One sentence each.
    pub notes: Vec<String>,
}

/// Loads an adapter for `base`, and tells what is to be told of it.
pub fn open_adapter(base: &Base, dir: &Path) -> anyhow::Result<Adapter> {
    let OpenedAdapter { adapter, notes } = read_adapter(base, dir, None)?;
    if !base.quiet {
        notes.iter().for_each(|note| tell!("{note}"));
    }
    Ok(adapter)
}

/// Loads an adapter for `base`, and tells nothing. `also` is what the base is called in the notes, if not by its own name.
fn read_adapter(base: &Base, dir: &Path, also: Option<&str>) -> anyhow::Result<OpenedAdapter> {
    refuse_full_run("--adapter", dir)?;
    let Found { dir, note } = found_adapter(dir)?;
    let mut adapter = adapter::load_over(&dir, &base.weights, base.model.device())?;
    base.model.prepare(&mut adapter);
    let mut notes: Vec<String> = note.into_iter().collect();
    notes.extend(adapter.notes().iter().map(ToString::to_string));
    let (given, original) = also.map_or((&*base.name, None), |also| (also, Some(&*base.name)));
    notes.extend(other_base::note(&base.weights, given, original, &dir));
    notes.extend(merged_before(&base.weights, &dir)?.map(|told| format!("{told}, and is added once more")));
    Ok(OpenedAdapter { adapter, notes })
}

/// As [`open_adapter`], to be computed with and not trained.
pub fn open_to_answer(base: &Base, dir: &Path, factors: FactorArgs) -> anyhow::Result<Adapter> {
    let mut adapter = open_adapter(base, dir)?;
    hold(&mut adapter, factors.adapter_dtype.into(), dir)?;
    Ok(adapter)
}

/// As [`open_to_answer`], for who tells the notes in more places than one, and may call the base otherwise (`also`).
pub fn read_to_answer(
    base: &Base,
    dir: &Path,
    factors: FactorArgs,
    also: Option<&str>,
) -> anyhow::Result<OpenedAdapter> {
    let mut opened = read_adapter(base, dir, also)?;
    hold(&mut opened.adapter, factors.adapter_dtype.into(), dir)?;
    Ok(opened)
}

/// Holds the factors of the adapter of `dir`, or of what was made from it, in memory as `dtype`.
///
/// # Errors
/// A value that is too large for it.
pub fn hold(adapter: &mut Adapter, dtype: FactorDtype, dir: &Path) -> Result<(), CliError> {
    adapter.hold_factors(dtype).map_err(|error| {
        CliError::new(format!("{}: a factor cannot be held in 16 bits: {error}", dir.display()))
            .hint("give --adapter-dtype f32")
    })
}

/// Loads the adapters of `--adapter` as one, the sum of their updates by their weights; `None` where none is given.
pub fn open_adapters(
    base: &Base,
    adapters: &[AdapterArg],
    factors: FactorArgs,
) -> anyhow::Result<Option<Adapter>> {
    let loaded = adapters.iter().map(|arg| open_to_answer(base, &arg.dir, factors));
    let mut one = as_one(base.model.config(), loaded.collect::<anyhow::Result<_>>()?, adapters)?;
    if let (Some(sum), [arg, ..]) = (&mut one, adapters) {
        hold(sum, factors.adapter_dtype.into(), &arg.dir)?;
    }
    Ok(one)
}
