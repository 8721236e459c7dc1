//! `lorafit export`: a model or an adapter as the files of other programs.

mod ollama;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use lorafit_data::Tokenizer;
use lorafit_kernels::Device;
use lorafit_model::adapter::convert::{MLX_CONFIG, MLX_WEIGHTS, MlxAdapter};
use lorafit_model::adapter::{self, Adapter, AdapterFile, convert};
use lorafit_model::export::{self, FileType, GgufModel};
use lorafit_model::merge::{Merged, check_finite};
use lorafit_model::weights::{BaseStorage, Gguf, GgufEntry, ModelFiles, SaveDtype};
use lorafit_model::{FileError, Source, is_gguf};
use lorafit_remedy::amounts::{counted, grouped, memory};
use lorafit_train::{
    Existing, FolderFile, ModelFolder, Tensors, open_tokenizer, tokenizer_entries, tokenizer_metadata,
    write_adapter_folder, write_large_file,
};
use serde_json::json;

use crate::args::adapters::AdapterArg;
use crate::args::base::TemplateArgs;
use crate::args::base::check_base_name;
use crate::args::common::Common;
use crate::args::flags::Words;
use crate::args::options::value_name;
use crate::args::outputs::{self, Inputs, Kind, Output};
use crate::session::adapter_numbers;
use crate::session::base::{refuse_full_run, use_threads};
use crate::session::base_name;
use crate::session::merge_inputs::{
    GGUF_MANIFEST, as_one, manifest, merged_adapters, merged_before, refuse_merged, without_form,
};
use crate::session::model_folder::beside_adapter;
use crate::session::other_base;
use crate::session::readers::Facts;
use crate::session::scoring::Scoring;
use crate::session::tokens::{self, Tokens};
use crate::terminal::error::CliError;
use crate::terminal::large_write::large_write;
use crate::terminal::output;

const EXAMPLES: &str = "\
Examples:
  One file for llama.cpp or LM Studio:
    lorafit export --to gguf --model M --adapter runs/first --type q4_k_m --out first.gguf
    lorafit export --to gguf --model M.gguf --adapter runs/first --out first.gguf     what is not changed is copied
  A folder for ollama create:
    lorafit export --to ollama --model M.gguf --adapter runs/first --out first-ollama
  The adapter alone, for llama-server --lora:
    lorafit export --to gguf-lora --model M --adapter runs/first --out first-lora.gguf
  An adapter of llama.cpp or mlx-lm as PEFT's, and the other way round:
    lorafit export --to peft --model M --adapter lora.gguf --out lora
    lorafit export --to mlx --model M --adapter runs/first --out first-mlx
  Can vLLM load the adapter as it is? If not, which command makes it fit?
    lorafit export --to vllm --check --adapter runs/first

Of a .gguf base, tensors that no adapter changes are copied byte for byte, unless --type says another type.";

/// `--to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// The model, with its adapters if any, as one file for llama.cpp
    Gguf,
    /// The adapter alone, for llama.cpp
    GgufLora,
    /// A Modelfile for Ollama, with the adapter or, where Ollama cannot take it with this base, the model with it
    Ollama,
    /// The adapter as PEFT's folder
    Peft,
    /// The adapter as mlx-lm's folder
    Mlx,
    /// With --check only: transformers and PEFT
    Transformers,
    /// With --check only: vLLM
    Vllm,
    /// With --check only: text-generation-inference and LoRAX
    Tgi,
}

impl Target {
    /// Whose rules an adapter is checked by.
    fn reader(self) -> &'static str {
        match self {
            Target::Gguf | Target::GgufLora => "gguf-lora",
            Target::Ollama => "ollama",
            Target::Peft | Target::Transformers => "transformers",
            Target::Mlx => "mlx",
            Target::Vllm => "vllm",
            Target::Tgi => "tgi",
        }
    }
}

/// The flags of `export`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct ExportArgs {
    /// What to write
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Input and output")]
    pub to: Target,
    /// The base model: a .gguf file, a Hugging Face folder, a hub id (org/name or org/name@revision), or what Ollama has
    /// (ollama://model:tag)
    #[arg(long, value_name = "M", help_heading = "Input and output")]
    pub model: Option<String>,
    /// Adapter: a run folder of train, a PEFT folder, a LoRA in a .gguf file, or a folder of mlx-lm; optionally with
    /// a weight, A:0.5; repeat the flag to add up several adapters
    #[arg(long, value_name = "A[:WEIGHT]", help_heading = "Input and output")]
    pub adapter: Vec<String>,
    /// File to write (gguf, gguf-lora), or new or empty folder (ollama, peft, mlx)
    #[arg(long, value_name = "OUT", help_heading = "Input and output")]
    pub out: Option<PathBuf>,
    /// Write nothing: say whether the program that --to names can load --adapter as it is and, if not, which command makes it
    /// fit; the exit code is then 1
    #[arg(long, conflicts_with_all = ["out", "file_type", "overwrite", "base_name"], help_heading = "Input and output")]
    pub check: bool,
    /// Name of the base that --to peft writes: a model on the hub (org/name) or a folder [default: --model, or the hub model
    /// that the metadata of a .gguf file names]
    #[arg(long, value_name = "NAME", help_heading = "Input and output")]
    pub base_name: Option<String>,
    /// How --to gguf and ollama store matrices: f32, f16, bf16, q8_0, q6_k, q5_k_m, q5_1, q5_0, q4_k_m, q4_1 or q4_0, each with the
    /// types that llama.cpp gives single tensors [default: each as the base has it, what the
    /// adapter changes in 8 bits or more]
    #[arg(long = "type", value_name = "TYPE", help_heading = "Input and output")]
    #[arg(add = Words(|| FileType::ALL.map(|(name, _)| name).to_vec()))]
    pub file_type: Option<FileType>,
    /// Replace the file --out, once the new one is complete
    #[arg(long, help_heading = "Input and output")]
    pub overwrite: bool,
    /// Print the result as one JSON object
    #[arg(long, help_heading = "Input and output")]
    pub json: bool,
    /// The flags of every verb.
    #[command(flatten)]
    pub common: Common,
}

impl ExportArgs {
    fn tell(&self, text: &str) {
        if !self.common.quiet {
            tell!("{text}");
        }
    }

    fn validate(&self) -> Result<(), CliError> {
        let is_model = matches!(self.to, Target::Gguf | Target::Ollama);
        if self.file_type.is_some() && !is_model {
            return Err(CliError::usage("--type is of --to gguf and ollama only")
                .hint("leave it out: adapters are written in f32"));
        }
        if self.base_name.is_some() && self.to != Target::Peft {
            return Err(CliError::usage("--base-name is of --to peft only")
                .hint("leave it out: no other form has the name of its base"));
        }
        check_base_name(self.base_name.as_deref())?;
        if matches!(self.to, Target::Transformers | Target::Vllm | Target::Tgi) && !self.check {
            let to = value_name(&self.to);
            return Err(CliError::usage(format!(
                "--to {to} writes nothing: {to} reads an adapter's folder as it is, or a merged model"
            ))
            .hint(format!(
                "lorafit export --to {to} --check --adapter A says whether it can take the adapter; lorafit merge --model M \
                 --adapter A --out DIR writes a merged model"
            )));
        }
        for (flag, is_given) in [("model", self.model.is_some()), ("out", self.out.is_some())] {
            if !is_given && !self.check {
                return Err(CliError::usage(format!("--{flag} is missing"))
                    .hint("give --model, the base, and --out, where to write; only --check goes without"));
            }
        }
        if self.adapter.is_empty() && !is_model {
            return Err(
                CliError::usage("--adapter is missing").hint("give the adapter that is to be written")
            );
        }
        self.common.on_processor_only("export")?;
        self.common.validate()
    }

    /// The base; empty with --check alone.
    fn model(&self) -> &str {
        self.model.as_deref().unwrap_or_default()
    }

    /// Where to write; empty with --check alone.
    fn out(&self) -> &Path {
        self.out.as_deref().unwrap_or(Path::new(""))
    }

    /// Tells whether the reader takes the adapter, as an error if it does not.
    fn check(&self, adapters: &[AdapterArg]) -> anyhow::Result<()> {
        let [AdapterArg { dir, weight: 1.0 }] = adapters else {
            return Err(CliError::usage("--check looks at one --adapter as its files are, without a weight")
                .hint("several, or one with a weight, can be written first: lorafit export --to peft")
                .into());
        };
        let adapter = AdapterFile::read(dir)?;
        let base = adapter_numbers::open_base(self.model.as_deref(), &adapter, self.common.quiet)?;
        let model = self.model.clone().or_else(|| adapter_numbers::base_of_run(dir));
        let facts = Facts::of(&adapter, model.as_deref(), base.as_ref().map(ModelFiles::config));
        let mut reading = facts.reading_of(self.to.reader()).expect("every target has a reader");
        if self.to == Target::Gguf {
            reading = facts.merged_into_gguf(reading);
        }
        let (name, dir) = (reading.reader.name, dir.display());
        if self.json {
            output::line(reading.json().to_string())?;
        }
        match &reading.why[..] {
            [] if self.json => Ok(()),
            [] => Ok(output::line(format!("{name} takes {dir}: {}", reading.command))?),
            why => Err(CliError::new(format!("{name} does not take {dir}: {}", why.join("; ")))
                .hint(reading.command)
                .into()),
        }
    }

    /// Refuses a place that is read or taken.
    fn check_out(&self, files: &ModelFiles, adapters: &[AdapterArg]) -> Result<(), CliError> {
        let dirs = adapters.iter().map(|adapter| &adapter.dir);
        let inputs = Inputs::default().model("--model", files.path()).paths("--adapter", dirs);
        let kind = if self.writes_file() { Kind::Gguf } else { Kind::Files };
        outputs::check(&inputs, Output::asked("--out", self.out.as_ref(), kind))?;
        let out = self.out().display();
        let parent = self.out().parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent.filter(|parent| !parent.is_dir()) {
            return Err(CliError::new(format!("--out {out}: there is no folder {}", parent.display()))
                .hint("make it first, or choose another --out"));
        }
        if self.writes_file() && !is_gguf(self.out()) {
            return Err(CliError::usage(format!("--out {out}: the name of a GGUF file ends with .gguf"))
                .hint(format!("--out {out}.gguf")));
        }
        if self.writes_file() && self.out().exists() && !self.overwrite {
            return Err(CliError::new(format!("{out} is there already"))
                .hint("choose another --out, or replace it with --overwrite"));
        }
        let has_files = || std::fs::read_dir(self.out()).is_ok_and(|mut entries| entries.next().is_some());
        if !self.writes_file() && has_files() {
            return Err(CliError::new(format!("{out} is not empty"))
                .hint("choose another --out; nothing is written over"));
        }
        Ok(())
    }

    /// Refuses a head that scores texts where readers have none.
    fn check_head(&self, files: &ModelFiles) -> Result<(), CliError> {
        if files.config().labels.is_none() || self.to == Target::Peft {
            return Ok(());
        }
        let text = format!(
            "--to {}: the model scores texts by a head of its own, which no such file has",
            value_name(&self.to)
        );
        Err(CliError::usage(text).hint(
            "lorafit merge writes it as a folder that AutoModelForSequenceClassification.from_pretrained reads",
        ))
    }

    /// What may stand at --out.
    fn existing(&self) -> Existing {
        if self.overwrite { Existing::Replace } else { Existing::Refuse }
    }

    /// Whether --out is a file.
    fn writes_file(&self) -> bool {
        matches!(self.to, Target::Gguf | Target::GgufLora)
    }
}

/// Writes what is asked for.
pub fn run(args: ExportArgs) -> anyhow::Result<()> {
    args.validate()?;
    use_threads(&args.common)?;
    let adapters = AdapterArg::all(&args.adapter)?;
    if args.check {
        return args.check(&adapters);
    }
    refuse_full_run("--model", Path::new(args.model()))?;
    adapters.iter().try_for_each(|adapter| refuse_full_run("--adapter", &adapter.dir))?;
    let source = Source::resolve(args.model(), &mut |text| args.tell(text))?;
    let mut files = match args.to {
        Target::Gguf | Target::Ollama => ModelFiles::open(source.path())?,
        // Names and shapes only.
        _ => ModelFiles::open_header(source.path())?,
    };
    args.check_out(&files, &adapters)?;
    let tokens = Tokens::of_adapters(adapters.iter().map(|adapter| adapter.dir.as_path()));
    let new_tokens = tokens.open(&mut files)?;
    args.check_head(&files)?;
    let adapter = one_adapter(&args, &files, &adapters)?;
    if adapter.as_ref().is_some_and(|adapter| adapter.config().unties(files.config())) {
        files.untie();
    }
    let written = match (args.to, &adapter) {
        (Target::Gguf, adapter) => {
            model(&args, &files, new_tokens.as_ref(), &adapters, adapter.as_ref(), args.out())?
        }
        (Target::Ollama, adapter) => {
            ollama::write(&args, &files, new_tokens.as_ref(), adapter.as_ref(), &adapters)?
        }
        (_, None) | (Target::Transformers | Target::Vllm | Target::Tgi, _) => unreachable!("checked above"),
        (Target::GgufLora, Some(adapter)) => {
            let bytes = convert::gguf_lora_bytes(adapter, files.config(), args.model())?;
            let place = (args.out(), args.existing());
            write_large_file(place, bytes.len() as u64, &mut |out| out.write_all(&bytes), &mut |_| Ok(()))?;
            of_adapter(adapter, "use it: llama-server --model BASE.gguf --lora")
        }
        (Target::Peft, Some(adapter)) => {
            let scoring = tokens::scoring(&tokens, &files)?;
            write_peft(&args, &files, new_tokens, scoring.as_ref(), adapter)?;
            of_adapter(adapter, "use it: lorafit chat --model M --adapter")
        }
        (Target::Mlx, Some(adapter)) => {
            let mlx = MlxAdapter::new(adapter, files.config())?;
            let config = FolderFile::Content(mlx.config().to_vec());
            write_folder(&args, MLX_WEIGHTS, &|| mlx.sources(), vec![(MLX_CONFIG.to_owned(), config)])?;
            of_adapter(adapter, "use it: mlx_lm.generate --model M --adapter-path")
        }
    };
    let out = args.out().display();
    if args.json {
        let mut object = written.json;
        object["out"] = json!(args.out());
        output::line(object.to_string())?;
    } else {
        output::line(format!("{}, in {out}", written.what))?;
        output::line(format!("{} {out}", written.use_it))?;
    }
    Ok(())
}

/// Writes an adapter as PEFT's folder, with the tokenizer of its base and the labels of its head.
fn write_peft(
    args: &ExportArgs,
    files: &ModelFiles,
    new_tokens: Option<Tokenizer>,
    scoring: Option<&Scoring>,
    adapter: &Adapter,
) -> anyhow::Result<()> {
    let name = base_name::of(args.base_name.as_deref(), args.model(), files);
    let mut beside = match new_tokens.map_or_else(|| open_tokenizer(files), Ok) {
        Ok(tokenizer) => {
            let mut folder = beside_adapter(files, &tokenizer, &TemplateArgs { template: None })?;
            scoring.iter().for_each(|scoring| scoring.beside_adapter(&mut folder, &tokenizer));
            folder.files
        }
        Err(error) => {
            args.tell(&format!("no tokenizer goes with the adapter: {error}"));
            Vec::new()
        }
    };
    let config = adapter::config_file(adapter, &name);
    beside.push((adapter::CONFIG_FILE.to_owned(), FolderFile::Content(config)));
    write_folder(args, adapter::WEIGHTS_FILE, &|| adapter::sources(adapter), beside)?;
    base_name::note(&name, files, "").iter().for_each(|note| args.tell(note));
    Ok(())
}

/// Writes an adapter's folder, which is there whole or not at all.
fn write_folder<'a>(
    args: &ExportArgs,
    weights: &str,
    tensors: &'a Tensors<'a>,
    files: Vec<(String, FolderFile)>,
) -> anyhow::Result<()> {
    let (out, folder) = (std::path::absolute(args.out())?, ModelFolder { files, ..ModelFolder::default() });
    Ok(write_adapter_folder(&out, weights, tensors, &folder)?)
}

/// What is told at the end.
struct Written {
    what: String,
    use_it: Cow<'static, str>,
    json: serde_json::Value,
}

fn of_adapter(adapter: &Adapter, use_it: &'static str) -> Written {
    let parameters = adapter.parameters();
    let what = format!("{} parameters in f32", grouped(parameters as u64));
    Written { what, use_it: use_it.into(), json: json!({"parameters": parameters}) }
}

/// The adapters as one; none if none is given.
fn one_adapter(
    args: &ExportArgs,
    files: &ModelFiles,
    adapters: &[AdapterArg],
) -> anyhow::Result<Option<Adapter>> {
    let config = files.config();
    let mut loaded = Vec::with_capacity(adapters.len());
    for AdapterArg { dir, .. } in adapters {
        let adapter = read_adapter(dir, files)?;
        match args.to {
            Target::Gguf | Target::Ollama => refuse_merged(files, dir)?,
            _ => merged_before(files, dir)?
                .iter()
                .for_each(|told| args.tell(&format!("{told}: with this model, it would count twice"))),
        }
        other_base::note(files, args.model(), None, dir).iter().for_each(|note| args.tell(note));
        adapter.notes().iter().for_each(|note| args.tell(note));
        check_finite(&adapter, config)?;
        loaded.push(adapter);
    }
    Ok(as_one(config, loaded, adapters)?)
}

/// An adapter of any of the kinds that are read.
fn read_adapter(path: &Path, files: &ModelFiles) -> Result<Adapter, FileError> {
    let is_gguf = path.is_file() && is_gguf(path);
    match is_gguf {
        true => convert::load_gguf_lora(&Gguf::open(path)?, files.config()),
        false if convert::is_mlx(path) => convert::load_mlx(path, files.config()),
        false => adapter::load_over(path, files, Device::Cpu),
    }
}

/// Refuses a model that a GGUF file cannot hold, and tells what llama.cpp or the file makes of it otherwise.
fn check_form(args: &ExportArgs, files: &ModelFiles, is_adapted: bool) -> anyhow::Result<()> {
    let of_folder = || files.gguf().is_none().then(|| export::unsaid(files.config())).flatten();
    if let Some(why) = export::unread_head(files.config()).or_else(of_folder) {
        return Err(CliError::new(format!("{}: a GGUF file cannot hold this model: {why}", args.model()))
            .hint("lorafit merge writes a folder, which transformers and vLLM read")
            .into());
    }
    if let (None, Some(window)) = (files.gguf(), export::unsaid_window(files.config())) {
        args.tell(&format!(
            "llama.cpp has no window for {}: texts of more than {window} tokens are computed otherwise there",
            files.config().arch
        ));
    }
    if let (BaseStorage::Quantized(format), None) = (files.storage()?, files.gguf())
        && is_adapted
    {
        args.tell(&format!(
            "the adapter is added to the values that the base stores in {format}: lorafit merge --base ORIGINAL adds it to the weights \
             that these were quantised from"
        ));
    }
    Ok(())
}

/// Writes the model with its adapter to the file `out`.
fn model(
    args: &ExportArgs,
    files: &ModelFiles,
    new_tokens: Option<&Tokenizer>,
    adapters: &[AdapterArg],
    adapter: Option<&Adapter>,
    out: &Path,
) -> anyhow::Result<Written> {
    check_form(args, files, adapter.is_some())?;
    let none = Adapter::none(files.config());
    // A folder's own type where nothing else is said; what is encoded comes from f32.
    let dtype = match (args.file_type, files.gguf()) {
        (None, None) => None,
        _ => Some(SaveDtype::F32),
    };
    let merged = Merged::new(files, adapter.unwrap_or(&none), dtype)?;
    let tokenizer = match (files.gguf(), new_tokens) {
        (Some(_), None) => None,
        (Some(of_base), Some(tokenizer)) => {
            Some(tokenizer.with_new_tokens_in_gguf(tokenizer_metadata(of_base)))
        }
        (None, Some(tokenizer)) => Some(tokenizer.to_gguf(files.config().vocab_size)?),
        (None, None) => Some(open_tokenizer(files)?.to_gguf(files.config().vocab_size)?),
    };
    if let (Some(gguf), Some(tokenizer)) = (&tokenizer, new_tokens)
        && let Some(token) = tokenizer.found_otherwise_in_gguf(gguf)?
    {
        args.tell(&format!(
            "{token:?} is found in other places of a text in a GGUF file, which looks for it before anything else: rows with such tokens \
             may get other ids there than in the training"
        ));
    }
    let entries = tokenizer.map(tokenizer_entries).unwrap_or_default();
    let mut gguf = GgufModel::new(files, &merged, args.file_type, entries);
    // What a folder says of itself stays said; the metadata of a GGUF file are copied.
    if !adapters.is_empty() || (files.gguf().is_none() && !merged_adapters(files)?.is_empty()) {
        let merged = String::from_utf8(manifest(files, adapters, "the weights as they are stored", None)?)?;
        gguf.set_entry(GGUF_MANIFEST, GgufEntry::Text(merged));
    }
    if gguf.widened() > 0 {
        args.tell(
            "what the adapter changes is written in Q8_0: in the few bits that the base has it in, the change would be rounded away \
             (--type says another type for all)",
        );
    }
    for (wanted, format, count) in
        args.file_type.map(|kind| gguf.replaced(kind, files.config())).unwrap_or_default()
    {
        let (matrices, values) = (counted(count, "matrix is", "matrices are"), wanted.block_len());
        args.tell(&format!(
            "{matrices} written in {format} instead of {wanted}: rows are no whole number of blocks of {values} values there"
        ));
    }
    let bytes = gguf.bytes();
    large_write(args.common.quiet, bytes, |watch| {
        write_large_file((out, args.existing()), bytes, &mut |out| gguf.write(out), watch)
    })
    .map_err(|error| without_form(error, "--type bf16 has the range of f32"))?;
    let changed = merged.changed();
    let (tensors, copied) = (gguf.tensors(), gguf.copied());
    let mut what = match adapter {
        Some(_) => format!(
            "{}: {} of {} tensors changed by the adapter",
            memory(bytes),
            grouped(changed as u64),
            grouped(tensors as u64)
        ),
        None => format!("{}: {} tensors", memory(bytes), grouped(tensors as u64)),
    };
    if files.gguf().is_some() {
        what += &format!(", {} copied as they were", grouped(copied as u64));
    }
    let json =
        json!({"bytes": bytes, "tensors": tensors, "tensors_changed": changed, "tensors_copied": copied});
    Ok(Written { what, use_it: "use it: lorafit chat --model".into(), json })
}
