//! `lorafit merge`: adapters added to the weights of their base, as a model folder of its own.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use lorafit_data::{Dataset, Tokenizer};
use lorafit_kernels::Device;
use lorafit_model::adapter::{self, Adapter};
use lorafit_model::merge::{
    Combination, MajoritySign, Merged, Method, Weighted, check_finite, combine, foreign_weight,
};
use lorafit_model::weights::{BaseStorage, ModelFiles, SaveDtype};
use lorafit_model::{Model, Source};
use lorafit_remedy::amounts::{counted, grouped, memory};
use lorafit_train::{
    Evaluation, Existing, FolderFile, LogitDifference, ModelFolder, evaluate, logit_difference,
    model_folder_bytes, open_tokenizer, write_model_folder,
};
use serde_json::{Value, json};

use crate::args::adapters::AdapterArg;
use crate::args::base::{ComputeArgs, QuantArgs, TemplateArgs};
use crate::args::common::Common;
use crate::args::outputs::{self, Kind, Output};
use crate::args::require;
use crate::args::rows::RowArgs;
use crate::args::size::ByteSize;
use crate::session::base::{Base, open_base, refuse_full_run, use_threads};
use crate::session::limits::Limits;
use crate::session::merge_inputs::{
    MANIFEST, Trained, check_same_shape, manifest, refuse_merged, whole_out, without_form,
};
use crate::session::model_folder::beside_weights;
use crate::session::other_base;
use crate::session::rows::skipped;
use crate::session::scoring::{self, Scoring};
use crate::session::tokens::{self, Tokens};
use crate::terminal::error::CliError;
use crate::terminal::large_write::large_write;
use crate::terminal::output;

const EXAMPLES: &str = "\
Examples:
  A model that needs no adapter, for transformers, vLLM and whatever else reads a model folder:
    lorafit merge --model M --adapter runs/first --out first-merged
  With a base in 4 or 8 bits, choose one of two:
    lorafit merge --model M-nf4 --adapter runs/qlora --merge-into stored --out merged
    lorafit merge --model M-nf4 --adapter runs/qlora --base M --out merged --check test.jsonl
  Several adapters, the second at half its strength:
    lorafit merge --model M --adapter runs/a --adapter runs/b:0.5 --out both

Each projection becomes W + scale B A, computed in f32 and rounded once to the type that is written.";

/// `--dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DtypeChoice {
    /// As the base has them; bf16 where it is stored in 4 or 8 bits
    AsBase,
    /// 4 bytes a weight
    F32,
    /// 2 bytes a weight, with the range of f32
    Bf16,
    /// 2 bytes a weight, more exact, up to 65504
    F16,
}

impl DtypeChoice {
    fn save_dtype(self) -> Option<SaveDtype> {
        match self {
            DtypeChoice::AsBase => None,
            DtypeChoice::F32 => Some(SaveDtype::F32),
            DtypeChoice::Bf16 => Some(SaveDtype::Bf16),
            DtypeChoice::F16 => Some(SaveDtype::F16),
        }
    }
}

/// `--merge-into`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MergeInto {
    /// The values that the file stores, decoded: what the adapter was trained over
    Stored,
}

/// `--method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MethodChoice {
    /// The weighted sum of the updates, exactly; any ranks
    Cat,
    /// The weighted sum of the factors, as PEFT's linear: their product has terms of two adapters, too
    Linear,
    /// The largest values of the factors, where their signs agree
    Ties,
    /// As linear, of factors with values dropped at random
    DareLinear,
    /// As ties, of factors with values dropped at random
    DareTies,
}

impl MethodChoice {
    fn method(self) -> Method {
        match self {
            MethodChoice::Cat => Method::Cat,
            MethodChoice::Linear => Method::Linear,
            MethodChoice::Ties => Method::Ties,
            MethodChoice::DareLinear => Method::DareLinear,
            MethodChoice::DareTies => Method::DareTies,
        }
    }

    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// `--majority-sign`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SignChoice {
    /// The sign of the sum of the values
    Total,
    /// The sign that more of the adapters have
    Frequency,
}

/// The flags of `merge`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct MergeArgs {
    /// The base model: a Hugging Face folder, a .gguf file, or a hub id (org/name or org/name@revision)
    #[arg(long, value_name = "M", help_heading = "Input and output")]
    pub model: String,
    /// Adapter to merge (a PEFT folder, or a run folder of train), optionally with a weight: A:0.5; repeat the flag
    /// for several
    #[arg(long, value_name = "DIR[:WEIGHT]", required = true, help_heading = "Input and output")]
    pub adapter: Vec<String>,
    /// Folder to write, which must be new or empty
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    pub out: PathBuf,
    /// Replace the model folder in --out, once the new one is complete
    #[arg(long, help_heading = "Input and output")]
    pub overwrite: bool,
    /// Print the result as one JSON object
    #[arg(long, help_heading = "Input and output")]
    pub json: bool,

    /// How the merged weights are stored
    #[arg(long, value_enum, default_value_t = DtypeChoice::AsBase, help_heading = "Output")]
    pub dtype: DtypeChoice,
    /// The largest file of weights, such as 4GiB or 800MB; more of them get an index
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize(4 << 30), help_heading = "Output")]
    pub shard_size: ByteSize,
    /// How conversations are written.
    #[command(flatten)]
    pub template: TemplateArgs,

    /// For a base in 4 or 8 bits: add to the values that it stores, and write 16 bits
    #[arg(long, value_enum, value_name = "WHAT", conflicts_with = "base", help_heading = "Quantised base")]
    pub merge_into: Option<MergeInto>,
    /// For a base in 4 or 8 bits: add to the weights of this model, which --model was quantised from
    #[arg(long, value_name = "ORIGINAL", help_heading = "Quantised base")]
    pub base: Option<String>,

    /// How several adapters become one [default: cat]
    #[arg(long, value_enum, help_heading = "Several adapters")]
    pub method: Option<MethodChoice>,
    /// The share of each factor's values that ties and dare keep, above 0 and at most 1 [default: 0.5]
    #[arg(long, value_name = "SHARE", help_heading = "Several adapters")]
    pub density: Option<f64>,
    /// How ties and dare-ties choose the sign of a value [default: total]
    #[arg(long, value_enum, help_heading = "Several adapters")]
    pub majority_sign: Option<SignChoice>,
    /// Random seed of the values that dare-linear and dare-ties drop [default: 0]
    #[arg(long, value_name = "N", help_heading = "Several adapters")]
    pub seed: Option<u64>,

    /// Rows to compare the merged model with --model and the adapters on: logits and loss
    #[arg(long, value_name = "DATA", help_heading = "Check")]
    pub check: Vec<String>,
    /// Which rows of --check are read, and how: the first 8 of each unless --limit says otherwise.
    #[command(flatten)]
    pub rows: RowArgs,
    /// The flags of every verb.
    #[command(flatten)]
    pub common: Common,
}

/// Rows of `--check` where nothing is said.
const CHECKED_ROWS: usize = 8;
/// Tokens of a micro-batch of the check's loss.
const CHECK_TOKENS: usize = 512;

impl MergeArgs {
    fn validate(&self) -> Result<(), CliError> {
        if let Some(density) = self.density {
            require(density > 0.0 && density <= 1.0, "density", density, "must be above 0 and at most 1")?;
        }
        let drops = !matches!(self.method, None | Some(MethodChoice::Cat | MethodChoice::Linear));
        if self.density.is_some() && !drops {
            return Err(CliError::usage("--density: cat and linear keep every value")
                .hint("it goes with --method ties, dare-linear or dare-ties"));
        }
        if self.majority_sign.is_some()
            && !matches!(self.method, Some(MethodChoice::Ties | MethodChoice::DareTies))
        {
            return Err(CliError::usage("--majority-sign: this method chooses no signs")
                .hint("it goes with --method ties or dare-ties"));
        }
        if self.seed.is_some()
            && !matches!(self.method, Some(MethodChoice::DareLinear | MethodChoice::DareTies))
        {
            return Err(CliError::usage("--seed: this method drops nothing at random")
                .hint("it goes with --method dare-linear or dare-ties"));
        }
        if drops && self.adapter.len() == 1 {
            return Err(CliError::usage("--method ties and dare are for several adapters, and one is given")
                .hint("leave --method out; DIR:WEIGHT changes the strength of one"));
        }
        self.rows.validate()?;
        self.common.on_processor_only("merge")?;
        self.common.validate()
    }

    /// How adapters become one; `None` for a single one as it is.
    fn combination(&self, adapters: &[AdapterArg]) -> Option<Combination> {
        let as_it_is = self.method.is_none() && adapters.len() == 1 && adapters[0].weight == 1.0;
        (!as_it_is).then(|| Combination {
            method: self.method.map_or(Method::Cat, MethodChoice::method),
            density: self.density.unwrap_or(0.5),
            majority_sign: match self.majority_sign {
                None | Some(SignChoice::Total) => MajoritySign::Total,
                Some(SignChoice::Frequency) => MajoritySign::Frequency,
            },
            seed: self.seed.unwrap_or(0),
        })
    }

    fn tell(&self, text: &str) {
        if !self.common.quiet {
            tell!("{text}");
        }
    }
}

/// Merges, and tells what became of it.
pub fn run(args: MergeArgs) -> anyhow::Result<()> {
    args.validate()?;
    let adapters = AdapterArg::all(&args.adapter)?;
    use_threads(&args.common)?;
    refuse_full_run("--model", Path::new(&args.model))?;
    adapters.iter().try_for_each(|adapter| refuse_full_run("--adapter", &adapter.dir))?;
    let mut inputs = Inputs::open(&args, adapters)?;
    let out = whole_out(&args.out, &inputs.paths(), args.overwrite)?;
    let read = outputs::Inputs::default().model("--model", inputs.files.path());
    outputs::check(&read, [Output { flag: "--out", path: &args.out, kind: Kind::Files }])?;
    inputs.check_choice(&args)?;
    inputs.tell_unused(&args);
    let mut adapter = inputs.adapter(&args)?;
    let checked = Checked::open(&args, &inputs)?;
    if let Some(Checked { base, .. }) = &checked {
        base.model.prepare(&mut adapter);
    }
    if adapter.config().unties(inputs.files.config()) {
        args.tell("embedding and head are one in the base, and two in the merged model: the adapter changes one of them");
        inputs.target_mut().untie();
    }
    let merged = Merged::new(inputs.target(), &adapter, args.dtype.save_dtype())?;
    let folder = inputs.beside(&args, merged.dtype())?;
    let bytes = write(&args, &merged, &folder, &out)?;
    let found = checked.map(|checked| checked.compare(&adapter, &out)).transpose()?;
    Written { args: &args, inputs: &inputs, merged: &merged, out: &out, bytes, found }.tell()
}

/// What is merged.
struct Inputs {
    adapters: Vec<AdapterArg>,
    /// The base that the adapters are for.
    files: ModelFiles,
    /// Another one that they are merged into.
    original: Option<ModelFiles>,
    storage: BaseStorage,
    /// The base's tokenizer with the tokens of the adapters, if those bring some.
    new_tokens: Option<Tokenizer>,
    /// What the head gives of a text, where it scores texts.
    scoring: Option<Scoring>,
}

impl Inputs {
    fn open(args: &MergeArgs, adapters: Vec<AdapterArg>) -> anyhow::Result<Self> {
        let open = |model: &str| -> anyhow::Result<ModelFiles> {
            let source = Source::resolve(model, &mut |text| args.tell(text))?;
            Ok(ModelFiles::open(source.path())?)
        };
        let mut files = open(&args.model)?;
        let mut original = args.base.as_deref().map(open).transpose()?;
        if let (Some(original), Some(name)) = (&original, &args.base) {
            check_same_shape((name, original.config()), (&args.model, files.config()))?;
            if let Some(weight) = foreign_weight(original, &files)? {
                return Err(CliError::usage(format!(
                    "--base {name}: {} was not quantised from it: {weight} has other values",
                    args.model
                ))
                .hint("--base is the model in 16 or 32 bits that --model was quantised from")
                .into());
            }
        }
        let storage = original.as_ref().unwrap_or(&files).storage()?;
        let tokens = Tokens::of_adapters(adapters.iter().map(|adapter| adapter.dir.as_path()));
        let new_tokens = tokens.open(&mut files)?;
        scoring::check(&files, Device::Cpu)?;
        let scoring = tokens::scoring(&tokens, &files)?;
        if let (Some(_), Some(data)) = (&scoring, args.check.first()) {
            let text =
                format!("--check {data} has no meaning: the model scores texts, and has no logits of tokens");
            return Err(CliError::usage(text).hint("judge the merged model with lorafit eval").into());
        }
        if let Some(original) = &mut original {
            original.add_rows(files.config().vocab_size)?;
            files.config().labels.map_or(Ok(()), |labels| original.score(labels, 0))?;
        }
        Ok(Inputs { adapters, files, original, storage, new_tokens, scoring })
    }

    /// The model whose weights the adapters are added to.
    fn target(&self) -> &ModelFiles {
        self.original.as_ref().unwrap_or(&self.files)
    }

    fn target_mut(&mut self) -> &mut ModelFiles {
        self.original.as_mut().unwrap_or(&mut self.files)
    }

    /// Everything that is read.
    fn paths(&self) -> Vec<&Path> {
        let models = [Some(&self.files), self.original.as_ref()];
        let models = models.into_iter().flatten().map(ModelFiles::path);
        models.chain(self.adapters.iter().map(|adapter| adapter.dir.as_path())).collect()
    }

    /// Refuses a quantised base without a word on what becomes of it, and tells of adapters that were trained over one.
    fn check_choice(&self, args: &MergeArgs) -> Result<(), CliError> {
        let BaseStorage::Quantized(format) = &self.storage else {
            if let (Some(_), BaseStorage::Float(dtype)) = (args.merge_into, &self.storage) {
                return Err(CliError::usage(format!(
                    "--merge-into has no meaning: {} is not quantised, and adapters are added to its weights in {}",
                    args.model,
                    dtype.name()
                ))
                .hint("leave --merge-into out"));
            }
            if args.base.is_none() {
                self.tell_of_training(args);
            }
            return Ok(());
        };
        if let Some(original) = &args.base {
            return Err(CliError::usage(format!("--base {original} is stored in {format} itself"))
                .hint("give the model in 16 or 32 bits that it was quantised from, or --merge-into stored"));
        }
        if args.merge_into.is_some() {
            return Ok(());
        }
        let model = &args.model;
        Err(CliError::usage(format!(
            "{model} is stored in {format}, so say which weights to add the adapter to"
        ))
        .hint(format!(
            "--merge-into stored adds it to the values that the file stores and writes 16 bits, which is what was trained.\n\
             --base ORIGINAL adds it to the weights that {model} was quantised from, which are more precise, but the adapter \
             was not trained on them: --check DATA shows what that changes."
        )))
    }

    /// What runs say of the base that their adapters were trained over.
    fn tell_of_training(&self, args: &MergeArgs) {
        for adapter in &self.adapters {
            let Some(trained) = Trained::of(&adapter.dir) else { continue };
            let (dir, model) = (adapter.dir.display(), &args.model);
            if let Some(quant) = trained.quant {
                args.tell(&format!(
                    "{dir} was trained over its base in {quant}, and is merged into the weights as {model} stores them; \
                     --check DATA shows how well that goes\n\
                     to merge into what it was trained over: lorafit quantize --model {model} --quant {quant} --out Q, and \
                     lorafit merge --model Q --merge-into stored"
                ));
            }
            if let (Some(template), None) = (trained.template, &args.template.template) {
                args.tell(&format!(
                    "{dir} was trained with --template {template}: give it here, too, and the merged model has it"
                ));
            }
        }
    }

    /// Tensors of the base that no weight is computed from.
    fn tell_unused(&self, args: &MergeArgs) {
        let unused = self.target().unused_tensors();
        if let Some(first) = unused.first() {
            args.tell(&format!(
                "{} left out: {first}{}",
                counted(
                    unused.len(),
                    "tensor that the model does not use is",
                    "tensors that the model does not use are"
                ),
                if unused.len() > 1 { ", ..." } else { "" }
            ));
        }
    }

    /// The adapters as one.
    fn adapter(&self, args: &MergeArgs) -> anyhow::Result<Adapter> {
        let config = self.files.config();
        let mut loaded = Vec::with_capacity(self.adapters.len());
        for AdapterArg { dir, .. } in &self.adapters {
            let adapter = adapter::load_over(dir, &self.files, Device::Cpu)?;
            adapter.notes().iter().for_each(|note| args.tell(note));
            check_finite(&adapter, config)?;
            refuse_merged(self.target(), dir)?;
            other_base::note(&self.files, &args.model, args.base.as_deref(), dir)
                .iter()
                .for_each(|note| args.tell(note));
            loaded.push(adapter);
        }
        let Some(how) = args.combination(&self.adapters) else {
            return Ok(loaded.pop().expect("one is required"));
        };
        let weighted = loaded.iter().zip(&self.adapters);
        let weighted: Vec<Weighted<'_>> =
            weighted.map(|(adapter, arg)| Weighted { adapter, weight: arg.weight }).collect();
        Ok(combine(config, &weighted, &how)?)
    }

    /// What goes beside the weights.
    fn beside(&self, args: &MergeArgs, dtype: SaveDtype) -> anyhow::Result<ModelFolder> {
        let target = self.target();
        // A folder's files are copied as they are.
        let tokenizer = match target.gguf().is_some()
            || args.template.template.is_some()
            || self.new_tokens.is_some()
            || self.scoring.is_some()
        {
            true => {
                let mut tokenizer = self.new_tokens.clone().map_or_else(|| open_tokenizer(target), Ok)?;
                args.template.apply(&mut tokenizer)?;
                Some(tokenizer)
            }
            false => None,
        };
        let mut folder = beside_weights(target, tokenizer.as_ref(), &args.template, dtype)?;
        if let (Some(scoring), Some(tokenizer)) = (&self.scoring, &tokenizer) {
            scoring.in_config(&mut folder, tokenizer);
        }
        let method =
            args.combination(&self.adapters).map(|_| args.method.map_or("cat".into(), MethodChoice::name));
        let content = manifest(target, &self.adapters, &self.merged_into(), method)?;
        folder.files.retain(|(name, _)| name != MANIFEST);
        folder.files.push((MANIFEST.to_owned(), FolderFile::Content(content)));
        Ok(folder)
    }

    /// In a few words.
    fn merged_into(&self) -> String {
        match (&self.storage, &self.original) {
            (BaseStorage::Quantized(format), _) => format!("the values stored in {format}"),
            (BaseStorage::Float(_), Some(original)) => {
                format!("the weights of {}", original.path().display())
            }
            (BaseStorage::Float(_), None) => "the weights as they are stored".to_owned(),
        }
    }
}

/// Writes the folder, and shows how it goes; gives the bytes of all files.
fn write(args: &MergeArgs, merged: &Merged<'_>, folder: &ModelFolder, out: &Path) -> anyhow::Result<u64> {
    let tensors = || merged.sources();
    let bytes = model_folder_bytes(&tensors, folder)?;
    let existing = if args.overwrite { Existing::Replace } else { Existing::Refuse };
    let written = large_write(args.common.quiet, bytes, |watch| {
        write_model_folder((out, existing), &tensors, folder, args.shard_size.0, watch)
    });
    written.map(|()| bytes).map_err(|error| without_form(error, "--dtype bf16 has the range of f32"))
}

/// The base and the rows of `--check`.
struct Checked {
    base: Base,
    data: Dataset,
}

/// What `--check` finds.
struct Found {
    rows: usize,
    logits: LogitDifference,
    before: Evaluation,
    after: Evaluation,
}

impl Checked {
    fn open(args: &MergeArgs, inputs: &Inputs) -> anyhow::Result<Option<Self>> {
        if args.check.is_empty() {
            return Ok(None);
        }
        let model = inputs.files.path().to_string_lossy().into_owned();
        let as_stored = QuantArgs { quant: None, double_quant: false, quant_block: 64, quant_head: false };
        let tokens = Tokens::of_adapters(inputs.adapters.iter().map(|adapter| adapter.dir.as_path()));
        let base = open_base(&model, &tokens, &as_stored, &args.template, ComputeArgs::UNSET, &args.common)?;
        let rows = RowArgs { limit: args.rows.limit.or(Some(CHECKED_ROWS)), ..args.rows.clone() };
        let source = rows.source("split", &args.check, rows.split.as_deref(), args.common.quiet)?;
        let data = Dataset::load(source, &base.tokenizer, Limits::of(&base).options(&rows))?;
        skipped(&data.origin).iter().for_each(|line| args.tell(line));
        Limits::of(&base).check_rows(&data)?;
        Ok(Some(Checked { base, data }))
    }

    /// Compares the base and `adapter` with the model that was written to `out`.
    fn compare(self, adapter: &Adapter, out: &Path) -> anyhow::Result<Found> {
        let Checked { base, data } = self;
        let merged = Model::load(&ModelFiles::open(out)?, Device::Cpu)?;
        Ok(Found {
            rows: data.samples.len(),
            logits: logit_difference((&base.model, Some(adapter)), (&merged, None), &data.samples),
            before: evaluate(&base.model, Some(adapter), &data.samples, CHECK_TOKENS),
            after: evaluate(&merged, None, &data.samples, CHECK_TOKENS),
        })
    }
}

impl Found {
    fn json(&self) -> Value {
        json!({
            "rows": self.rows,
            "tokens": self.logits.tokens,
            "largest_logit_difference": self.logits.largest,
            "mean_logit_difference": self.logits.mean,
            "same_likeliest_token": self.logits.same_first,
            "loss_of_base_and_adapter": self.before.loss,
            "loss_of_merged": self.after.loss,
        })
    }
}

/// What is told at the end.
struct Written<'a> {
    args: &'a MergeArgs,
    inputs: &'a Inputs,
    merged: &'a Merged<'a>,
    out: &'a Path,
    bytes: u64,
    found: Option<Found>,
}

impl Written<'_> {
    fn tell(&self) -> anyhow::Result<()> {
        let (changed, tensors) = (self.merged.changed(), self.merged.len());
        if self.args.json {
            let mut result = json!({
                "out": self.args.out,
                "tensors": tensors,
                "tensors_changed": changed,
                "dtype": self.merged.dtype().name(),
                "bytes": self.bytes,
                "merged_into": self.inputs.merged_into(),
            });
            if let Some(found) = &self.found {
                result["check"] = found.json();
            }
            output::line(result.to_string())?;
            return Ok(());
        }
        let out = self.args.out.display();
        output::line(format!(
            "{} of {} tensors changed, added to {}",
            grouped(changed as u64),
            grouped(tensors as u64),
            self.inputs.merged_into()
        ))?;
        let (dtype, size) = (self.merged.dtype().name(), memory(self.bytes));
        output::line(format!("written to {out}: {size} in {dtype}, {}", files_of(self.out)?))?;
        if let Some(found) = &self.found {
            let Found { rows, logits, before, after } = found;
            output::line(format!(
                "check on {}, {}: logits differ by {:.2e} at most, {:.2e} on average; the likeliest token is \
                 the same after {}",
                counted(*rows, "row", "rows"),
                counted(logits.tokens as usize, "token", "tokens"),
                logits.largest,
                logits.mean,
                logits.same_first
            ))?;
            output::line(format!("loss {:.4} with the adapter, {:.4} merged", before.loss, after.loss))?;
        }
        let (verb, class) = match &self.inputs.scoring {
            None => ("chat", "AutoModelForCausalLM"),
            Some(_) => ("eval", "AutoModelForSequenceClassification"),
        };
        let rows = if self.inputs.scoring.is_some() { " --data ROWS" } else { "" };
        output::line(format!(
            "use it: lorafit {verb} --model {out}{rows}, or {class}.from_pretrained(\"{out}\")"
        ))?;
        Ok(())
    }
}

/// How many files of weights a folder has, in words.
fn files_of(out: &Path) -> io::Result<String> {
    let names = std::fs::read_dir(out)?.flatten().map(|entry| entry.path());
    let count = names.filter(|path| path.extension().is_some_and(|e| e == "safetensors")).count();
    Ok(counted(count, "file", "files"))
}
