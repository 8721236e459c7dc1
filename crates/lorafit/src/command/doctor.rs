//! `lorafit doctor`: what this machine has and what lorafit makes of it, on one screen to paste into a bug report.

use std::env;
use std::path::Path;

use clap::Args;
use lorafit_kernels::gpu::{DeviceError, DeviceInfo, Float};
use lorafit_kernels::ops::matmul::cpu_instruction_set;
use lorafit_kernels::{ComputeDtype, cuda};
use lorafit_model::Hub;
use lorafit_remedy::amounts::{counted, memory};
use lorafit_train::{available_bytes, machine};
use serde_json::{Value, json};

use crate::args::base::{ComputeArgs, ComputeChoice};
use crate::args::options::DeviceChoice;
use crate::session::base::gpu_in_words;
use crate::session::processes::mpi;
use crate::session::tokenise::default_cache_folder;
use crate::terminal::output;

/// The flags of `doctor`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
Examples:
  lorafit doctor                what to paste into a bug report
  lorafit doctor --json         for a program

It reads no model and changes nothing. It says whether tokens and proxies are set, and never shows them.")]
pub struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// GPUs that are looked for.
const MOST_GPUS: usize = 16;

/// Variables of the environment that change what lorafit does; whether they are set is shown, their values are not.
const VARIABLES: [&str; 12] = [
    "CUDA_VISIBLE_DEVICES",
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "HTTPS_PROXY",
    "LD_LIBRARY_PATH",
    "NO_COLOR",
    "RAYON_NUM_THREADS",
    "TRANSFORMERS_OFFLINE",
    "XDG_CACHE_HOME",
];

/// What was found.
struct Findings {
    processor: Option<String>,
    cores: usize,
    threads: usize,
    instruction_sets: [&'static str; 3],
    memory: (Option<u64>, Option<u64>),
    disks: Vec<(&'static str, String, Option<u64>)>,
    hub: Hub,
    gpus: Result<Vec<DeviceInfo>, DeviceError>,
    set: Vec<&'static str>,
}

/// Prints what this machine has.
pub fn run(args: DoctorArgs) -> anyhow::Result<()> {
    let findings = Findings::new();
    match args.json {
        true => output::line(findings.to_json().to_string())?,
        false => output::line(findings.in_words())?,
    }
    Ok(())
}

impl Findings {
    fn new() -> Self {
        let hub = Hub::from_env();
        let disk = |what: &'static str, folder: &Path| {
            (what, folder.display().to_string(), machine::free_disk_bytes(folder))
        };
        let here = env::current_dir().unwrap_or_default();
        let mut disks = vec![disk("the working folder", &here), disk("models from the hub", &hub.cache)];
        disks.extend(default_cache_folder().map(|folder| disk("tokenised data", &folder)));
        Findings {
            processor: machine::processor(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            threads: rayon::current_num_threads(),
            instruction_sets: [ComputeDtype::F32, ComputeDtype::Bf16, ComputeDtype::Int8]
                .map(cpu_instruction_set),
            memory: (machine::total_bytes(), available_bytes()),
            disks,
            hub,
            gpus: gpus(),
            set: VARIABLES.into_iter().filter(|name| env::var_os(name).is_some()).collect(),
        }
    }

    fn default_dtypes() -> [(&'static str, ComputeChoice); 2] {
        [("", false), (" with --quant", true)]
            .map(|(when, quantized)| (when, ComputeArgs::UNSET.on(DeviceChoice::Auto, quantized)))
    }

    fn in_words(&self) -> String {
        let size = |bytes: Option<u64>| bytes.map_or("unknown".to_owned(), memory);
        let mut lines = vec![
            format!("lorafit      {}, {} {}", env!("CARGO_PKG_VERSION"), env::consts::OS, env::consts::ARCH),
            format!(
                "processor    {}, {}",
                self.processor.as_deref().unwrap_or("unknown"),
                counted(self.cores, "core", "cores")
            ),
            format!("memory       {} free of {}", size(self.memory.1), size(self.memory.0)),
        ];
        let disks = self
            .disks
            .iter()
            .map(|(what, folder, free)| format!("{} free for {what}: {folder}", size(*free)));
        lines.extend(labelled("disk", disks));
        let Hub { token, offline, .. } = &self.hub;
        lines.push(format!(
            "hub          {}, {}{}",
            self.endpoint(),
            if token.is_some() { "with a token" } else { "without a token" },
            if *offline { ", offline" } else { "" }
        ));
        lines.extend(labelled("GPU", self.gpu_lines()));
        lines.push(match mpi() {
            Some(library) => format!("processes    several, over {library}"),
            None => "processes    one: it is built without MPI".to_owned(),
        });
        lines.push(format!(
            "environment  {}",
            match self.set.is_empty() {
                true => "no variable that lorafit reads is set".to_owned(),
                false => format!("set: {}", self.set.join(", ")),
            }
        ));
        let [f32, bf16, int8] = self.instruction_sets;
        let dtypes = Self::default_dtypes().map(|(when, dtype)| match dtype {
            ComputeChoice::F32 => format!("products in f32 by {f32}{when}"),
            ComputeChoice::Bf16 => format!("products in bf16 by {bf16}{when}"),
            ComputeChoice::Int8 => format!("products in int8 by {int8}{when}"),
        });
        let threads = counted(self.threads, "thread", "threads");
        lines.push(format!("by default   the processor, {threads}, {}", dtypes.join(", ")));
        lines.join("\n")
    }

    /// The address of the hub, without a password that may stand in it.
    fn endpoint(&self) -> String {
        let endpoint = &self.hub.endpoint;
        match (endpoint.split_once("://"), endpoint.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
            _ => endpoint.clone(),
        }
    }

    fn gpu_lines(&self) -> Vec<String> {
        match &self.gpus {
            Ok(gpus) => {
                gpus.iter().enumerate().map(|(i, info)| format!("cuda:{i} {}", gpu_in_words(info))).collect()
            }
            // The places that were looked at fill a page; `--device cuda:0` lists them.
            Err(DeviceError::Library { library, looked_for, .. }) => {
                vec![format!("none: {library} was not found ({})", looked_for.join(" or "))]
            }
            Err(error) => vec![format!("none: {error}")],
        }
    }

    fn to_json(&self) -> Value {
        let disks = self
            .disks
            .iter()
            .map(|(what, folder, free)| json!({ "what": what, "folder": folder, "free_bytes": free }));
        let [f32, bf16, int8] = self.instruction_sets;
        let [(_, plain), (_, quantised)] = Self::default_dtypes();
        json!({
            "lorafit": env!("CARGO_PKG_VERSION"),
            "system": env::consts::OS,
            "architecture": env::consts::ARCH,
            "processor": self.processor,
            "cores": self.cores,
            "threads": self.threads,
            "instruction_set": { "f32": f32, "bf16": bf16, "int8": int8 },
            "compute_dtype": { "default": plain, "with_quant": quantised },
            "memory_bytes": self.memory.0,
            "free_memory_bytes": self.memory.1,
            "disks": disks.collect::<Vec<_>>(),
            "hub": {
                "endpoint": self.endpoint(),
                "cache": self.hub.cache,
                "token": self.hub.token.is_some(),
                "offline": self.hub.offline,
            },
            "gpus": self.gpus.as_ref().ok().map(|gpus| gpus.iter().map(|info| json!({
                "name": info.name,
                "architecture": info.architecture,
                "driver_version": info.driver_version,
                "libraries": info.libraries,
                "memory_bytes": info.total_bytes,
                "free_memory_bytes": info.free_bytes,
            })).collect::<Vec<_>>()),
            "gpu_error": self.gpus.as_ref().err().map(DeviceError::to_string),
            "mpi": mpi(),
            "environment": self.set,
        })
    }
}

/// The GPUs that can be opened; why there is none.
fn gpus() -> Result<Vec<DeviceInfo>, DeviceError> {
    let mut found = Vec::new();
    for ordinal in 0..MOST_GPUS {
        match cuda::open(ordinal, Float::Bf16) {
            Ok(gpu) => found.push(gpu.info()),
            Err(error) if found.is_empty() => return Err(error),
            Err(_) => break,
        }
    }
    Ok(found)
}

/// The label before the first of several lines, and blanks before the others.
fn labelled(label: &str, lines: impl IntoIterator<Item = String>) -> Vec<String> {
    let label = |i: usize| if i == 0 { label } else { "" };
    lines.into_iter().enumerate().map(|(i, line)| format!("{:<12} {line}", label(i))).collect()
}
