//! `--resume`: the checkpoint a run goes on from, and whether it is the same run.

use std::path::Path;

use lorafit_data::Dataset;
use lorafit_kernels::Device;
use lorafit_kernels::ops::matmul::cpu_instruction_set;
use lorafit_train::{
    Checkpoint, CheckpointError, Identity, Mismatch, RunError, hash_data, hash_files, hash_text,
};
use serde_json::Value;

use crate::args::base::ComputeChoice;
use crate::args::flags::{self, OnResume};
use crate::args::train::TrainArgs;
use crate::session::base::Base;
use crate::session::scoring::Scoring;
use crate::terminal::error::CliError;
use crate::terminal::progress::Progress;

/// Where a run goes on.
#[derive(Default)]
pub struct Resumption {
    /// None for a run that begins.
    pub checkpoint: Option<Checkpoint>,
    /// Newer ones that cannot be used.
    pub damaged: Vec<CheckpointError>,
}

impl Resumption {
    /// The newest whole checkpoint of a run folder. A run that was ended before its first begins again.
    pub fn find(run: &Path, progress: &mut Progress) -> Result<Self, RunError> {
        let newest = Checkpoint::newest(run)?;
        for error in &newest.damaged {
            progress.note(&format!("damaged, set aside: {error}"));
        }
        match &newest.checkpoint {
            Some(_) => (),
            None if newest.damaged.is_empty() => {
                progress.note(&format!("{} has no checkpoint yet: the run begins again", run.display()));
            }
            None => return Err(RunError::NoCheckpoint { dir: run.to_owned() }),
        }
        Ok(Resumption { checkpoint: newest.checkpoint, damaged: newest.damaged })
    }

    /// Refuses a run that is not the checkpoint's; else tells what it is resumed from, and what `anyway` overrides.
    pub fn check(&self, found: &Identity, anyway: bool, progress: &mut Progress) -> anyhow::Result<()> {
        let Some(checkpoint) = &self.checkpoint else { return Ok(()) };
        overrule(checkpoint, found, anyway, progress)?;
        progress.note(&format!("resumed from {}", checkpoint.dir().display()));
        Ok(())
    }
}

/// Refuses what differs between a checkpoint and the run that is to go on from it, or tells that `anyway` overrides it.
fn overrule(
    checkpoint: &Checkpoint,
    found: &Identity,
    anyway: bool,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let mismatches = checkpoint.identity.mismatches(found);
    if mismatches.is_empty() {
        return Ok(());
    }
    if !anyway {
        let told: Vec<String> = mismatches.iter().map(in_words).collect();
        let text = format!(
            "the run cannot go on from {}, since this is not the same:\n  {}",
            checkpoint.dir().display(),
            told.join("\n  ")
        );
        return Err(CliError::new(text)
            .hint("give it what it had, or resume anyway with --resume-anyway")
            .into());
    }
    if let Some(fixed) =
        mismatches.iter().find(|m| flags::is(&m.name, |facts| facts.resume == OnResume::Fixed))
    {
        let text = format!(
            "--resume-anyway cannot change {} from {} to {}: what the checkpoint holds has it",
            fixed.name, fixed.expected, fixed.found
        );
        let dir = checkpoint.dir().display();
        return Err(CliError::new(text).hint(format!("start another run with --adapter {dir}")).into());
    }
    for m in mismatches {
        progress.note(&format!("overridden: {} was {}, is {}", m.name, m.expected, m.found));
    }
    Ok(())
}

/// What differs, by the flag that changes it where one does.
fn in_words(mismatch: &Mismatch) -> String {
    let Mismatch { name, expected, found } = mismatch;
    match name.as_str() {
        "steps" => {
            let unit = if expected == "1" { "step" } else { "steps" };
            format!("--max-steps or --epochs: it has {expected} {unit}, and would have {found}")
        }
        "base" => "--model: its files differ from those that the run was begun with".to_owned(),
        "tokenizer" => {
            "--template, or the model's tokenizer: conversations would be written or cut into tokens otherwise".to_owned()
        }
        "data" => "--data: the rows, or which of their tokens are trained, are others".to_owned(),
        "labels" => "--data: the labels of the rows are others, or have other numbers".to_owned(),
        "held-out data" => "--eval-data or --validation: the rows are others".to_owned(),
        "processes" => {
            let count = |text: &str| if text == "nothing" { "one process".to_owned() } else { format!("{text} processes") };
            format!("mpirun: the run had {}, and here it has {}", count(expected), count(found))
        }
        "lorafit" => format!("lorafit itself: it was version {expected}, and is {found}"),
        "instruction set" => format!("the processor: it computed with {expected}, and this one does with {found}"),
        flag => {
            let value = |text: &str| if text == "nothing" { "was not given".to_owned() } else { format!("is {text}") };
            format!("--{flag}: in the run it {}, here it {}", value(expected), value(found))
        }
    }
}

/// What decides the bits of a run.
pub fn identity(
    args: &TrainArgs,
    base: &Base,
    (rows, held_out): (&Dataset, Option<&Dataset>),
    total_steps: u64,
    processes: usize,
) -> anyhow::Result<Identity> {
    let hash = hash_files(&base.weights.files()).map_err(|error| {
        CliError::new(format!("cannot read the model's files again, for their hash: {error}"))
    })?;
    let compute = args.compute.on(args.common.device, args.base.quant.is_some());
    let mut identity = Identity::default()
        .with("lorafit", env!("CARGO_PKG_VERSION"))
        .with("device", base.model.device().name())
        .with("instruction set", instruction_set(base.model.device(), compute))
        .with("base", hash)
        .with("tokenizer", hash_text(&base.tokenizer.description()?))
        .with("data", hash_data(rows))
        .with("held-out data", held_out.map(hash_data))
        .with("labels", base.scoring.as_ref().and_then(Scoring::identity))
        .with("steps", total_steps)
        // In another division of the rows sums are rounded otherwise.
        .with("processes", (processes > 1).then_some(processes));
    let is_free = |name: &str| flags::is(name, |facts| !facts.resume.is_compared());
    if let Value::Object(values) = serde_json::to_value(args)? {
        for (name, value) in values.into_iter().filter(|(name, _)| !is_free(name)) {
            identity = identity.with(&name, value);
        }
    }
    // Of a default, too: what it is depends on the device.
    Ok(identity.with("compute-dtype", serde_json::to_value(compute)?))
}

/// What, of a device, decides the last bits.
fn instruction_set(device: Device, compute: ComputeChoice) -> String {
    match device {
        Device::Cpu => cpu_instruction_set(compute.into()).to_owned(),
        Device::Cuda(gpu) => format!("sm_{}", gpu.info().architecture),
    }
}
