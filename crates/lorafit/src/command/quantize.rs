//! `lorafit quantize`: a model folder in 4 or 8 bits, for lorafit and for transformers with bitsandbytes.

use std::path::PathBuf;

use clap::Args;
use lorafit_model::Source;
use lorafit_model::weights::{ModelFiles, write_quantized};
use lorafit_remedy::amounts::memory;

use crate::args::base::QuantArgs;
use crate::args::common::Common;
use crate::args::outputs::{self, Inputs, Kind, Output};
use crate::session::base::use_threads;
use crate::terminal::error::CliError;
use crate::terminal::output;

/// The flags of `quantize`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
Examples:
  A base for QLoRA, quantised once instead of at every start:
    lorafit quantize --model M --quant nf4 --double-quant --out M-nf4
    lorafit train --model M-nf4 --data train.jsonl --out runs/first

The folder is that of transformers with bitsandbytes: AutoModelForCausalLM.from_pretrained reads it. Projections are
quantised; embedding, head and norms stay as they are.")]
pub struct QuantizeArgs {
    /// The model: a Hugging Face folder, or a hub id (org/name or org/name@revision)
    #[arg(long, value_name = "M", help_heading = "Input and output")]
    pub model: String,
    /// Folder to write, which must be new or empty
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    pub out: PathBuf,
    /// How the base is quantised.
    #[command(flatten)]
    pub base: QuantArgs,
    /// The flags of every verb.
    #[command(flatten)]
    pub common: Common,
}

/// Writes the quantised folder.
pub fn run(args: QuantizeArgs) -> anyhow::Result<()> {
    args.common.validate()?;
    args.common.on_processor_only("quantize")?;
    let Some(base) = args.base.resolve()? else {
        return Err(CliError::usage("--quant is missing")
            .hint("--quant nf4 --double-quant is what QLoRA uses; fp4 and int8 are the others")
            .into());
    };
    if base.head {
        return Err(CliError::usage("--quant-head: transformers has no quantised embedding to read it with")
            .hint("leave it out here; train and eval take it with --quant")
            .into());
    }
    let inputs = Inputs::default().model("--model", &args.model);
    outputs::check(&inputs, Output::asked("--out", Some(&args.out), Kind::Files))?;
    if std::fs::read_dir(&args.out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(CliError::new(format!("{} is not empty", args.out.display()))
            .hint("choose another --out; nothing is written over")
            .into());
    }
    use_threads(&args.common)?;
    let quiet = args.common.quiet;
    let source = Source::resolve(&args.model, &mut |text| {
        if !quiet {
            tell!("{text}");
        }
    })?;
    let files = ModelFiles::open(source.path())?;
    let mut told = 0;
    let written = write_quantized(&files, base.quantization, &args.out, &mut |done, all| {
        // A line at each tenth.
        if !quiet && done * 10 / all > told {
            told = done * 10 / all;
            tell!("quantised {done} of {all} matrices");
        }
    })?;
    if !quiet {
        output::line(format!(
            "{} matrices to {}: {} before, {} after, in {}",
            written.matrices,
            base.quantization,
            memory(written.bytes_before),
            memory(written.bytes_after),
            args.out.display()
        ))?;
    }
    Ok(())
}
