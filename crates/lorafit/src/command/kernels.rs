//! `lorafit kernels`: machine code for GPUs, compiled ahead, so that a machine with one needs no compiler.

use std::path::PathBuf;

use clap::Args;

use lorafit_kernels::cuda::modules::{self, FOLDER};
use lorafit_kernels::cuda::nvrtc::{ARCHITECTURES, CompileError, Nvrtc, Target};
use lorafit_kernels::cuda::{SOURCES, Source};

use crate::args::common::Common;
use crate::args::outputs::{self, Inputs, Kind, Output};
use crate::args::size::ByteSize;
use crate::session::base::use_threads;
use crate::terminal::error::CliError;
use crate::terminal::output;

/// The flags of `kernels`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
Examples:
  For every supported GPU, to ship beside the program:
    lorafit kernels --out release/kernels
  For an H100 and an RTX 4090:
    lorafit kernels --arch sm_90 --arch sm_89 --out kernels
  With the compiler of another CUDA version:
    lorafit kernels --nvrtc /usr/local/cuda-12.9/lib64 --out kernels

Needs NVRTC (pip install nvidia-cuda-nvrtc-cu12) and no GPU. The program takes its kernels from the folder `kernels` beside it,
if they are of the same lorafit and fit the GPU: its own architecture, an older one of its generation (sm_86 on an RTX
4090), or PTX (compute_N) of an older one. What is not there is compiled when it is first wanted, which needs NVRTC.")]
pub struct KernelsArgs {
    /// Architecture to compile for, sm_N, or compute_N for PTX; may be given several times [default: sm_80, sm_86, sm_89, sm_90, sm_100, sm_120]
    #[arg(long, value_name = "ARCH", help_heading = "Input and output")]
    pub arch: Vec<Target>,
    /// NVRTC: the library, or the folder it is in [default: looked for as on a GPU]
    #[arg(long, value_name = "PATH", help_heading = "Input and output")]
    pub nvrtc: Option<PathBuf>,
    /// Folder to write; what it holds already stays
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    pub out: PathBuf,
    /// The flags of every verb.
    #[command(flatten)]
    pub common: Common,
}

/// Compiles all kernels and writes them.
pub fn run(args: KernelsArgs) -> anyhow::Result<()> {
    args.common.validate()?;
    args.common.on_processor_only("kernels")?;
    let inputs = Inputs::default().paths("--nvrtc", args.nvrtc.as_ref());
    outputs::check(&inputs, Output::asked("--out", Some(&args.out), Kind::Files))?;
    use_threads(&args.common)?;
    let nvrtc = match &args.nvrtc {
        Some(path) => Nvrtc::open_at(path)?,
        None => Nvrtc::open(None)?,
    };
    let targets = targets(&args.arch, &nvrtc)?;
    let tell = |text: String| if args.common.quiet { Ok(()) } else { output::line(text) };
    tell(nvrtc.to_string())?;
    for target in targets {
        let sources = SOURCES.iter().filter(|source| source.is_for(target));
        let jobs: Vec<(&Source, Target)> = sources.map(|source| (source, target)).collect();
        let mut bytes = 0;
        for ((source, _), compiled) in jobs.iter().zip(nvrtc.compile_all(&jobs)) {
            let compiled =
                compiled.map_err(|error| CliError::new(error.to_string()).hint(CompileError::HINT))?;
            bytes += compiled.module.len() as u64;
            modules::write_ahead(&args.out, source, target, compiled).map_err(|(path, error)| {
                CliError::new(format!("cannot write {}: {error}", path.display()))
            })?;
        }
        tell(format!("{target}: {} modules, {}", jobs.len(), ByteSize(bytes)))?;
    }
    if args.out.file_name().is_none_or(|name| name != FOLDER) {
        tell(format!("the program looks for them in the folder `{FOLDER}` beside it"))?;
    }
    Ok(())
}

/// What is asked for, each once, if the compiler knows it; without a wish, all supported devices that it knows.
fn targets(asked: &[Target], nvrtc: &Nvrtc) -> Result<Vec<Target>, CliError> {
    let known = nvrtc.architectures();
    let knows = |target: &Target| {
        let (Target::Machine(sm) | Target::Ptx(sm)) = target;
        known.is_empty() || known.contains(sm)
    };
    if asked.is_empty() {
        return Ok(ARCHITECTURES.map(Target::Machine).into_iter().filter(knows).collect());
    }
    let mut targets: Vec<Target> = Vec::new();
    for target in asked {
        if !knows(target) {
            let known: Vec<String> = known.iter().map(|sm| format!("sm_{sm}")).collect();
            let text = format!("--arch {target}: {nvrtc} knows {} alone", known.join(", "));
            return Err(CliError::usage(text).hint("give another NVRTC with --nvrtc PATH"));
        }
        if !targets.contains(target) {
            targets.push(*target);
        }
    }
    Ok(targets)
}
