//! `lorafit status`: where a run is, from another terminal.

use std::path::{Path, PathBuf};

use clap::Args;
use lorafit_remedy::amounts::duration;
use lorafit_remedy::printable;
use lorafit_train::{RunFolder, RunState, RunStatus};

use crate::args::train::TrainArgs;
use crate::session::verdict::{best_in_words, evaluation_in_words, outcome};
use crate::sweep::folder::is_sweep;
use crate::terminal::error::CliError;
use crate::terminal::output;
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
    if is_sweep(&args.run) {
        let dir = args.run.display();
        return Err(CliError::usage(format!("{dir} holds a sweep, not a run"))
            .hint(format!("lorafit sweep --out {} --status shows it", shell_word(&dir.to_string())))
            .into());
    }
    let status = RunStatus::read(&args.run)?;
    if args.json {
        return Ok(output::line(serde_json::to_string(&status)?)?);
    }
    Ok(output::line(printable::text(&in_words(&status, &args.run)))?)
}

fn in_words(status: &RunStatus, run: &Path) -> String {
    let RunStatus { process, step, total_steps, loss, smoothed_loss, tokens_per_s, .. } = status;
    let state = status.state();
    let more = match (state, process) {
        (RunState::Running, Some(process)) => format!(", process {process}"),
        (RunState::Running, None) | (RunState::Finished, _) => String::new(),
        // It could not go on.
        (RunState::Stopped, _) if status.verdict.is_some() => " before its last step".to_owned(),
        (RunState::Stopped, _) => {
            let run = shell_word(&run.display().to_string());
            format!("; go on with lorafit train --resume {run}")
        }
    };
    let mut lines = vec![format!("{}{more}", state.name())];
    let total = total_steps.map(|total| format!("/{total}")).unwrap_or_default();
    let loss = loss.map(|loss| format!("  loss {loss:.4}")).unwrap_or_default();
    let smoothed = smoothed_loss.map(|loss| format!("  smoothed {loss:.4}")).unwrap_or_default();
    let rate = tokens_per_s.map(|rate| format!("  {rate:.0} tokens/s")).unwrap_or_default();
    let left = status.seconds_left.filter(|left| state == RunState::Running && *left > 0.0);
    let left = left.map(|s| format!("  {} left", duration(s))).unwrap_or_default();
    lines.push(format!("step {step}{total}{loss}{smoothed}{rate}{left}"));
    lines.extend(status.evaluation.as_ref().map(evaluation_in_words));
    if let Some(best) = &status.best {
        let dir = RunFolder::best_dir(run);
        let by = TrainArgs::of_run(run).and_then(|args| args.best_by);
        let best = best_in_words(by, status.base_loss, (best.step, best.loss), "");
        lines.push(format!("{best}: {}", dir.display()));
    }
    lines.push(match &status.checkpoint {
        Some(checkpoint) => {
            let ago = checkpoint.seconds_ago.map(|s| format!(", {} ago", duration(s))).unwrap_or_default();
            format!("last checkpoint after step {}{ago}: {}", checkpoint.step, checkpoint.path.display())
        }
        None if state == RunState::Running => "no checkpoint yet".to_owned(),
        None => "no checkpoint was saved".to_owned(),
    });
    lines.extend(status.verdict.as_ref().map(outcome));
    lines.extend(status.warnings.iter().map(|warning| format!("warning: {warning}")));
    lines.join("\n")
}
