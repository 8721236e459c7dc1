//! `lorafit runs`: the runs and sweeps of a folder as a table.

use std::path::{Path, PathBuf};

use clap::Args;
use lorafit_remedy::amounts::{duration, percent};
use lorafit_remedy::nearby;
use lorafit_train::{RunHistory, RunStatus};
use serde_json::{Value, json};

use crate::session::verdict::in_short;
use crate::sweep::below::{self, below};
use crate::terminal::error::CliError;
use crate::terminal::output;
use crate::terminal::table::shown;

/// The flags of `runs`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
Examples:
  lorafit runs
  lorafit runs sweeps/first/trials
  lorafit runs experiments --json        for scripts: one JSON object a line

The newest run comes first. Loss is that of held-out rows, from before training to the best, where rows were held out; else
the training loss of the last step. A narrow terminal shows fewer columns. For preference runs, the share of pairs whose chosen reply is preferred
is shown as well. A sweep is one line; give its folder `trials` for its runs.")]
pub struct RunsArgs {
    /// The folder with runs in it, or in folders below it
    #[arg(default_value = "runs", value_name = "DIR")]
    pub dir: PathBuf,
    /// Print one JSON object a line for each run
    #[arg(long)]
    pub json: bool,
}

/// A folder that was found.
enum Found {
    Run(Box<Run>),
    Sweep(PathBuf),
    /// A run whose records cannot be read, and why.
    Damaged(PathBuf, String),
}

struct Run {
    dir: PathBuf,
    status: RunStatus,
    /// Time that the steps took.
    seconds: f64,
}

/// The columns of the table.
const COLUMNS: [&str; 7] = ["run", "state", "verdict", "step", "loss", "best at", "time"];
/// The places of those that go first where the terminal is narrow.
const FIRST_TO_GO: [usize; 5] = [5, 6, 3, 1, 2];

/// Prints the runs of a folder.
pub fn run(args: RunsArgs) -> anyhow::Result<()> {
    let dir = args.dir.display();
    if !args.dir.is_dir() {
        let text = match args.dir.exists() {
            true => format!("{dir} is not a folder"),
            false => format!("there is no folder {dir}"),
        };
        let holds_runs = |path: &Path| path.is_dir() && !below(path).is_empty();
        let near = nearby::in_words("folders with runs", &nearby::find(&args.dir, &["."], holds_runs));
        let give = "give the folder that holds your runs: lorafit runs DIR";
        return Err(CliError::usage(text).hint(near.unwrap_or_else(|| give.to_owned())).into());
    }
    let found: Vec<Found> = below(&args.dir).into_iter().map(read).collect();
    for (dir, warning) in found.iter().flat_map(Found::warnings) {
        tell!("warning: {dir}: {warning}");
    }
    if args.json {
        return Ok(found.iter().try_for_each(|found| output::line(to_json(found).to_string()))?);
    }
    if found.is_empty() {
        return Ok(output::line(format!("no runs in {dir}"))?);
    }
    let head = COLUMNS.map(str::to_owned).to_vec();
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(found.iter().map(cells)).collect();
    Ok(output::line(shown(&lines, &FIRST_TO_GO))?)
}

impl Found {
    /// Its warnings, each with the folder that it is about.
    fn warnings(&self) -> Vec<(String, &str)> {
        match self {
            Found::Sweep(_) => Vec::new(),
            Found::Damaged(dir, why) => vec![(dir.display().to_string(), why)],
            Found::Run(run) => {
                run.status.warnings.iter().map(|why| (run.dir.display().to_string(), why.as_str())).collect()
            }
        }
    }
}

fn read(found: below::Found) -> Found {
    let dir = found.dir;
    if found.is_sweep {
        return Found::Sweep(dir);
    }
    match RunHistory::read(&dir) {
        Ok(history) => {
            let (status, seconds) = (RunStatus::of(&history), history.totals().seconds);
            Found::Run(Box::new(Run { dir, status, seconds }))
        }
        Err(error) => Found::Damaged(dir, error.to_string()),
    }
}

fn cells(found: &Found) -> Vec<String> {
    let run = match found {
        Found::Run(run) => run,
        Found::Sweep(dir) => {
            return vec![dir.display().to_string(), "sweep".to_owned()];
        }
        Found::Damaged(dir, _) => return vec![dir.display().to_string(), "damaged".to_owned()],
    };
    let status = &run.status;
    let total = status.total_steps.map(|total| format!("/{total}")).unwrap_or_default();
    let best = status.best.as_ref();
    let preferred = best.and_then(|best| best.preference?.accuracy);
    let preferred = preferred.map(|share| format!(", {} preferred", percent(share, 0)));
    let accuracy = best.and_then(|best| best.classes);
    let accuracy = accuracy.map(|metrics| format!(", accuracy {}", percent(metrics.accuracy, 0)));
    let loss = match (status.base_loss, best.map(|best| best.loss), status.loss) {
        (Some(base), Some(best), _) => format!("{base:.4} -> {best:.4}"),
        (Some(base), None, _) => format!("{base:.4} before training"),
        (None, Some(best), _) => format!("{best:.4}"),
        (None, None, Some(last)) => format!("{last:.4} (training)"),
        (None, None, None) => String::new(),
    };
    vec![
        run.dir.display().to_string(),
        status.state().name().to_owned(),
        status.verdict.as_ref().map(|verdict| in_short(&verdict.outcome).to_owned()).unwrap_or_default(),
        format!("{}{total}", status.step),
        loss + &preferred.or(accuracy).unwrap_or_default(),
        best.map(|best| best.step.to_string()).unwrap_or_default(),
        duration(run.seconds),
    ]
}

fn to_json(found: &Found) -> Value {
    match found {
        Found::Run(run) => json!({
            "run": run.dir,
            "kind": "run",
            "state": run.status.state(),
            "base_loss": run.status.base_loss,
            "seconds": run.seconds,
            "status": run.status,
        }),
        Found::Sweep(dir) => json!({ "run": dir, "kind": "sweep" }),
        Found::Damaged(dir, why) => {
            json!({ "run": dir, "kind": "run", "state": "damaged", "warnings": [why] })
        }
    }
}
