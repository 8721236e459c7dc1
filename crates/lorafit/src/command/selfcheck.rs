//! `lorafit selfcheck`: whether a device computes as the processor does, and how fast it is.

use clap::Args;
use serde_json::json;

use lorafit_kernels::Device;
use lorafit_kernels::selfcheck::{self, Outcome, Speed, Work};
use lorafit_train::check_steps;

use crate::args::base::ComputeArgs;
use crate::args::common::Common;
use crate::session::base::{device, use_threads};
use crate::terminal::error::CliError;
use crate::terminal::output;

/// The flags of `selfcheck`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
Examples:
  lorafit selfcheck --device cuda:0
  In f32, where only the order of sums differs:
    lorafit selfcheck --device cuda:0 --compute-dtype f32
  For a program, without the timings:
    lorafit selfcheck --device cuda:0 --no-speed --json

Every op runs on the processor and twice on the device, over one token, odd lengths, deep trees and key heads that are
shared; so do whole training steps of small models and the answers they generate. Differences are relative to the largest
value of an output. Both runs on the device must give the same bits. Exit code 1 where anything is not as it should be.")]
pub struct SelfcheckArgs {
    /// Leave out the timings
    #[arg(long, help_heading = "Work")]
    pub no_speed: bool,
    /// Print the result as one JSON object
    #[arg(long, help_heading = "Work")]
    pub json: bool,
    /// The type of activations.
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// The flags of every verb.
    #[command(flatten)]
    pub common: Common,
}

/// Checks and times a device.
pub fn run(args: SelfcheckArgs) -> anyhow::Result<()> {
    args.common.validate()?;
    use_threads(&args.common)?;
    let device = device(&args.common, args.compute)?;
    let tells = !args.json && !args.common.quiet;
    if tells {
        output::line(describe(device))?;
    }
    let mut outcomes = Vec::new();
    let mut keep = |outcome: Outcome| {
        if tells && !outcome.passed() {
            eprintln!("failed: {outcome}");
        }
        outcomes.push(outcome);
    };
    selfcheck::run(device, &mut keep);
    check_steps(device, &mut keep);
    let speeds = match device {
        Device::Cuda(gpu) if !args.no_speed => selfcheck::measure(gpu),
        Device::Cuda(_) | Device::Cpu => Vec::new(),
    };
    let failed = outcomes.iter().filter(|outcome| !outcome.passed()).count();
    output::line(match args.json {
        true => as_json(device, &outcomes, &speeds).to_string(),
        false => table(&outcomes, &speeds),
    })?;
    if failed > 0 {
        let text = format!("{failed} of {} checks failed on {}", outcomes.len(), device.name());
        return Err(CliError::new(text)
            .hint("do not train there; --device cpu computes as it should")
            .into());
    }
    Ok(())
}

fn describe(device: Device) -> String {
    match device {
        Device::Cpu => "cpu: the processor against itself".to_owned(),
        Device::Cuda(gpu) => {
            let info = gpu.info();
            let gib = info.total_bytes as f64 / (1u64 << 30) as f64;
            let (major, minor) = (info.driver_version / 1000, info.driver_version % 1000 / 10);
            format!(
                "{}, sm_{}, {gib:.1} GiB, CUDA {major}.{minor} of the driver",
                info.name, info.architecture
            )
        }
    }
}

fn as_json(device: Device, outcomes: &[Outcome], speeds: &[Speed]) -> serde_json::Value {
    let outcome = |o: &Outcome| {
        json!({
            "name": o.name,
            // JSON has no infinity.
            "error": o.error.is_finite().then_some(o.error),
            "tolerance": o.tolerance,
            "repeats": o.repeats,
            "passed": o.passed(),
        })
    };
    let speed = |s: &Speed| {
        let unit = match s.work {
            Work::Flops(_) => "flops_per_s",
            Work::Bytes(_) => "bytes_per_s",
        };
        json!({ "name": s.name, "seconds": s.seconds, unit: s.rate() })
    };
    json!({
        "device": describe(device),
        "passed": outcomes.iter().all(Outcome::passed),
        "checks": outcomes.iter().map(outcome).collect::<Vec<_>>(),
        "speed": speeds.iter().map(speed).collect::<Vec<_>>(),
    })
}

/// The worst of each op, and the rates beside the ceilings: the first of their kind.
fn table(outcomes: &[Outcome], speeds: &[Speed]) -> String {
    let mut lines = vec![format!("{:<44}{:>7}{:>12}{:>12}", "op", "cases", "differs by", "of")];
    let mut ops: Vec<(&str, Vec<&Outcome>)> = Vec::new();
    for outcome in outcomes {
        let op = outcome.name.split(',').next().unwrap_or_default();
        match ops.iter_mut().find(|(known, _)| *known == op) {
            Some((_, of_op)) => of_op.push(outcome),
            None => ops.push((op, vec![outcome])),
        }
    }
    // Of what passed, what came nearest to failing.
    let nearness =
        |o: &Outcome| if o.passed() { o.error / o.tolerance.max(f32::MIN_POSITIVE) } else { f32::INFINITY };
    for (op, of_op) in ops {
        let worst =
            of_op.iter().max_by(|a, b| nearness(a).total_cmp(&nearness(b))).expect("no group is empty");
        let failed = of_op.iter().filter(|outcome| !outcome.passed()).count();
        let note = if failed > 0 { format!("  {failed} FAILED") } else { String::new() };
        let (error, tolerance) = (worst.error, worst.tolerance);
        lines.push(format!("{op:<44}{:>7}{error:>12.1e}{tolerance:>12.1e}{note}", of_op.len()));
    }
    let passed = outcomes.iter().filter(|outcome| outcome.passed()).count();
    lines.push(format!("{passed} of {} checks passed", outcomes.len()));
    if !speeds.is_empty() {
        lines.push(String::new());
        lines.push(format!("{:<52}{:>10}{:>16}{:>8}", "op", "ms", "rate", "share"));
    }
    let is_flops = |speed: &Speed| matches!(speed.work, Work::Flops(_));
    for speed in speeds {
        let ceiling =
            speeds.iter().find(|other| is_flops(other) == is_flops(speed)).expect("at least itself");
        let rate = match speed.work {
            Work::Flops(_) => format!("{:.1} TFLOP/s", speed.rate() / 1e12),
            Work::Bytes(_) => format!("{:.0} GB/s", speed.rate() / 1e9),
        };
        let share = 100.0 * speed.rate() / ceiling.rate();
        lines.push(format!("{:<52}{:>10.3}{rate:>16}{share:>6.0} %", speed.name, 1e3 * speed.seconds));
    }
    lines.join("\n")
}
