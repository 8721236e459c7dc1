//! `lorafit status`: where a run is, from another terminal.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use lorafit_train::RunStatus;

use crate::terminal::output;
use crate::terminal::progress::duration;
use crate::terminal::shell::shell_word;

/// The flags of `status`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
Examples:
  lorafit status runs/first
  lorafit status runs/first --json        for scripts
  watch lorafit status runs/first")]
pub struct StatusArgs {
    /// The run folder
    pub run: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Prints where a run is.
pub fn run(args: StatusArgs) -> anyhow::Result<()> {
    let status = RunStatus::read(&args.run)?;
    if args.json {
        return Ok(output::line(serde_json::to_string(&status)?)?);
    }
    Ok(output::line(in_words(&status, &args.run))?)
}

fn in_words(status: &RunStatus, run: &Path) -> String {
    let RunStatus { running, process, step, total_steps, loss, smoothed_loss, tokens_per_s, .. } = status;
    let whole = total_steps.is_some_and(|total| *step >= total);
    let mut lines = vec![match (running, process) {
        (true, Some(process)) => format!("running, process {process}"),
        (true, None) => "running".to_owned(),
        (false, _) if whole => "done".to_owned(),
        (false, _) => {
            let run = shell_word(&run.display().to_string());
            format!("not running; go on with lorafit train --resume {run}")
        }
    }];
    let total = total_steps.map(|total| format!("/{total}")).unwrap_or_default();
    let loss = loss.map(|loss| format!("  loss {loss:.4}")).unwrap_or_default();
    let smoothed = smoothed_loss.map(|loss| format!("  smoothed {loss:.4}")).unwrap_or_default();
    let rate = tokens_per_s.map(|rate| format!("  {rate:.0} tokens/s")).unwrap_or_default();
    let left = status.seconds_left.filter(|_| *running && !whole);
    let left = left.map(|s| format!("  {} left", in_time(s))).unwrap_or_default();
    lines.push(format!("step {step}{total}{loss}{smoothed}{rate}{left}"));
    if let Some(evaluation) = &status.evaluation {
        let when = match evaluation.step {
            0 => "before training".to_owned(),
            step => format!("after step {step}"),
        };
        lines.push(format!("held-out loss {:.4} {when}", evaluation.loss));
    }
    lines.push(match &status.checkpoint {
        Some(checkpoint) => {
            let ago = checkpoint.seconds_ago.map(|s| format!(", {} ago", in_time(s))).unwrap_or_default();
            format!("last checkpoint after step {}{ago}: {}", checkpoint.step, checkpoint.path.display())
        }
        None => "no checkpoint yet".to_owned(),
    });
    lines.join("\n")
}

fn in_time(seconds: f64) -> String {
    duration(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}
