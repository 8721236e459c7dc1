//! `lorafit export`: a model or an adapter as the files of other programs.

mod ollama;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use lorafit_kernels::Device;
use lorafit_model::adapter::{self, Adapter, convert};
use lorafit_model::export::{FileType, GgufModel};
use lorafit_model::merge::{Combination, MajoritySign, Merged, Method, Weighted, check_finite, combine};
use lorafit_model::weights::{Gguf, ModelFiles, SaveDtype};
use lorafit_model::{FileError, Source};
use lorafit_train::{open_tokenizer, tokenizer_entries, write_large_file};
use serde_json::json;

use crate::cli::Common;
use crate::engine::{grouped, refuse_full_run, use_threads};
use crate::large_write::large_write;
use crate::memory_args::ByteSize;
use crate::merge_inputs::AdapterArg;
use crate::output;
use crate::outputs::{self, Inputs, Kind, Output};
use crate::report_error::CliError;

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
    pub model: String,
    /// Adapter: a run folder of train, a PEFT folder, a LoRA in a .gguf file or a folder of mlx-lm; perhaps with a weight,
    /// A:0.5; repeated for several, whose updates are added
    #[arg(long, value_name = "A[:WEIGHT]", help_heading = "Input and output")]
    pub adapter: Vec<String>,
    /// File to write (gguf, gguf-lora), or new or empty folder (ollama, peft, mlx)
    #[arg(long, value_name = "OUT", help_heading = "Input and output")]
    pub out: PathBuf,
    /// How --to gguf and ollama store matrices: f32, f16, bf16, q8_0, q6_k, q5_k_m, q5_1, q5_0, q4_k_m, q4_1 or q4_0, each with the
    /// types that llama.cpp gives single tensors [default: each as the base has it, what the
    /// adapter changes in 8 bits or more]
    #[arg(long = "type", value_name = "TYPE", help_heading = "Input and output")]
    pub file_type: Option<FileType>,
    /// Replace the file --out, once the new one is whole
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
            eprintln!("{text}");
        }
    }

    fn validate(&self) -> Result<(), CliError> {
        let is_model = matches!(self.to, Target::Gguf | Target::Ollama);
        if self.file_type.is_some() && !is_model {
            return Err(CliError::usage("--type is of --to gguf and ollama only")
                .hint("leave it out: adapters are written in f32"));
        }
        if self.adapter.is_empty() && !is_model {
            return Err(
                CliError::usage("--adapter is missing").hint("give the adapter that is to be written")
            );
        }
        self.common.validate()
    }

    /// Refuses a place that is read or taken.
    fn check_out(&self, files: &ModelFiles) -> Result<(), CliError> {
        let inputs = Inputs::default().model("--model", files.path()).paths("--adapter", &self.adapter);
        let kind = if self.writes_file() { Kind::Gguf } else { Kind::Files };
        outputs::check(&inputs, Output::asked("--out", Some(&self.out), kind))?;
        let out = self.out.display();
        let parent = self.out.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent.filter(|parent| !parent.is_dir()) {
            return Err(CliError::new(format!("--out {out}: there is no folder {}", parent.display()))
                .hint("make it first, or choose another --out"));
        }
        if self.writes_file() && self.out.exists() && !self.overwrite {
            return Err(CliError::new(format!("{out} is there already"))
                .hint("choose another --out, or replace it with --overwrite"));
        }
        let has_files = || std::fs::read_dir(&self.out).is_ok_and(|mut entries| entries.next().is_some());
        if !self.writes_file() && has_files() {
            return Err(CliError::new(format!("{out} is not empty"))
                .hint("choose another --out; nothing is written over"));
        }
        Ok(())
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
    let adapters = args.adapter.iter().map(|text| text.parse()).collect::<Result<Vec<AdapterArg>, _>>()?;
    refuse_full_run("--model", Path::new(&args.model))?;
    adapters.iter().try_for_each(|adapter| refuse_full_run("--adapter", &adapter.dir))?;
    let source = Source::resolve(&args.model, &mut |text| args.tell(text))?;
    let files = match args.to {
        Target::Gguf | Target::Ollama => ModelFiles::open(source.path())?,
        // Names and shapes only.
        _ => ModelFiles::open_header(source.path())?,
    };
    args.check_out(&files)?;
    let adapter = one_adapter(&args, &files, &adapters)?;
    let written = match (args.to, &adapter) {
        (Target::Gguf, adapter) => model(&args, &files, adapter.as_ref(), &args.out)?,
        (Target::Ollama, adapter) => ollama::write(&args, &files, adapter.as_ref(), &adapters)?,
        (_, None) => unreachable!("checked above"),
        (Target::GgufLora, Some(adapter)) => {
            let bytes = convert::gguf_lora_bytes(adapter, files.config(), &args.model);
            output::file(&args.out, &bytes)?;
            of_adapter(adapter, "use it: llama-server --model BASE.gguf --lora")
        }
        (Target::Peft, Some(adapter)) => {
            adapter::save(&args.out, adapter, &args.model)?;
            of_adapter(adapter, "use it: lorafit chat --model M --adapter")
        }
        (Target::Mlx, Some(adapter)) => {
            convert::save_mlx(&args.out, adapter, files.config())?;
            of_adapter(adapter, "use it: mlx_lm.generate --model M --adapter-path")
        }
    };
    let out = args.out.display();
    if args.json {
        let mut object = written.json;
        object["out"] = json!(args.out);
        output::line(object.to_string())?;
    } else {
        output::line(format!("{}, in {out}", written.what))?;
        output::line(format!("{} {out}", written.use_it))?;
    }
    Ok(())
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
        adapter.notes().iter().for_each(|note| args.tell(note));
        check_finite(&adapter, config)?;
        loaded.push(adapter);
    }
    if let ([_], [AdapterArg { weight: 1.0, .. }]) = (&loaded[..], adapters) {
        return Ok(loaded.pop());
    }
    if loaded.is_empty() {
        return Ok(None);
    }
    let pairs = loaded.iter().zip(adapters);
    let weighted: Vec<Weighted<'_>> =
        pairs.map(|(adapter, arg)| Weighted { adapter, weight: arg.weight }).collect();
    let added =
        Combination { method: Method::Cat, density: 1.0, majority_sign: MajoritySign::Total, seed: 0 };
    Ok(Some(combine(config, &weighted, &added)?))
}

/// An adapter of any of the kinds that are read.
fn read_adapter(path: &Path, files: &ModelFiles) -> Result<Adapter, FileError> {
    let is_gguf = path.is_file() && path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    match is_gguf {
        true => convert::load_gguf_lora(&Gguf::open(path)?, files.config()),
        false if convert::is_mlx(path) => convert::load_mlx(path, files.config()),
        false => adapter::load_over(path, files, Device::Cpu),
    }
}

/// Writes the model with its adapter to the file `out`.
fn model(
    args: &ExportArgs,
    files: &ModelFiles,
    adapter: Option<&Adapter>,
    out: &Path,
) -> anyhow::Result<Written> {
    let none = Adapter::none(files.config());
    // A folder's own type where nothing else is said; what is encoded comes from f32.
    let dtype = match (args.file_type, files.gguf()) {
        (None, None) => None,
        _ => Some(SaveDtype::F32),
    };
    let merged = Merged::new(files, adapter.unwrap_or(&none), dtype)?;
    let tokenizer = match files.gguf() {
        Some(_) => Vec::new(),
        None => tokenizer_entries(open_tokenizer(files)?.to_gguf(files.config().vocab_size)?),
    };
    let gguf = GgufModel::new(files, &merged, args.file_type, tokenizer);
    if gguf.widened() > 0 {
        args.tell(
            "what the adapter changes is written in Q8_0: in the few bits that the base has it in, the change would be rounded away \
             (--type says another type for all)",
        );
    }
    let bytes = gguf.bytes();
    large_write(args.common.quiet, bytes, |watch| {
        write_large_file(out, bytes, &mut |out| gguf.write(out), watch)
    })?;
    let changed = merged.changed();
    let (tensors, copied) = (gguf.tensors(), gguf.copied());
    let what = format!(
        "{}: {} of {} tensors changed by the adapter, {} copied as they were",
        ByteSize(bytes),
        grouped(changed as u64),
        grouped(tensors as u64),
        grouped(copied as u64)
    );
    let json =
        json!({"bytes": bytes, "tensors": tensors, "tensors_changed": changed, "tensors_copied": copied});
    Ok(Written { what, use_it: "use it: lorafit chat --model".into(), json })
}
