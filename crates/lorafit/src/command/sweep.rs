//! `lorafit sweep`: trains a model many times with different options and tells which are best.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use lorafit_remedy::amounts::{counted, duration, memory};
use lorafit_remedy::nearby;
use lorafit_train::give_back_freed_buffers;
use lorafit_train::sweep::{Options, Shard, rungs};
use serde_json::{Value, json};

use crate::args::config_file::{Given, to_toml};
use crate::args::options::{LearningRate, MicroBatchTokens, MicroBatchesAtOnce, Preset};
use crate::args::outputs::{self, Kind, Output};
use crate::args::require;
use crate::args::train::TrainArgs;
use crate::session::base::use_threads;
use crate::sweep::board::{self, Board};
use crate::sweep::file::{Settings, Spec, Strategy};
use crate::sweep::folder::{self, Record, Row, TrialState, in_words, name, ranked};
use crate::sweep::inputs::{Inputs, SweepPlan};
use crate::sweep::runner::{Runner, rows, write_all_tables};
use crate::sweep::settings::Ranking;
use crate::terminal::error::{CliError, Stopped};
use crate::terminal::interrupt;
use crate::terminal::output;
use crate::terminal::shell::shell_word;
use crate::terminal::table::aligned;

const EXAMPLES: &str = r#"The file (TOML or YAML) has the options of `lorafit train` that all trials share, and what is searched:

  model = "M"
  data = "train.jsonl"
  eval-data = "dev.jsonl"
  max-steps = 200

  [search]                         options of train, by their flags' names
  rank = [8, 16, 32]               a list; or { choice = [8, 16, 32] }
  lr = { log-uniform = [1e-4, 2e-3] }
                                   drawn; or { uniform = [0.0, 0.1] }; whole
                                   bounds draw whole numbers

  [sweep]
  strategy = "random"              "grid" (the default, for lists), "random"
                                   or "asha"
  trials = 20                      how many are drawn, by `seed`
  early-stop = true                ends trials that are worse than the median
                                   of the others (needs eval-every)
  seeds = 3                        each setting with this many random seeds
                                   (or a list of them): means with standard
                                   errors, no winner where settings are level

"asha" (successive halving) trains every trial for `min-steps` steps, keeps the best third, trains these three times as
long, keeps the best third of them, and so on up to the full length of a run; `reduction-factor` is that 3. Trials are
compared by the loss on held-out rows after their last step or, with metric = "rouge_l" or another metric of
`lorafit eval --help`, by their answers to these rows; the flags that a metric reads (regex, schema, choices, judge, ...)
are keys of [sweep].

Examples:
  What would be run, with its memory and an estimate of its time:
    lorafit sweep search.toml --out sweeps/first --dry-run
  Three trials at once over one base; started again after an interruption it repeats nothing that is finished:
    lorafit sweep search.toml --out sweeps/first --trials-at-once 3
  One job of an array of four, and the results of all:
    lorafit sweep search.toml --out sweeps/first --shard 2/4
    lorafit sweep --out sweeps/first --status"#;

/// The flags of `sweep`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct SweepArgs {
    /// The sweep file; without it, the sweep in --out continues
    pub file: Option<PathBuf>,
    /// Folder for the sweep; each trial is a run in its trials/ [default: `out` of the file]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Trials to run at the same time; they share the base, and are refused if they do not fit in memory together
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub trials_at_once: usize,
    /// Run only this part of the trials, such as 1/4: the first of four jobs; all may use the same folder
    #[arg(long, value_name = "I/N", default_value_t = Shard::WHOLE)]
    pub shard: Shard,
    /// Run failed trials again
    #[arg(long)]
    pub retry_failed: bool,
    /// List the trials with their memory and estimated time, and stop
    #[arg(long)]
    pub dry_run: bool,
    /// Show the progress of the sweep in --out, and stop
    #[arg(long, conflicts_with_all = ["file", "dry_run"])]
    pub status: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,
    /// Print results and errors only
    #[arg(long)]
    pub quiet: bool,
}

/// Runs a sweep, or tells of one.
pub fn run(args: SweepArgs) -> anyhow::Result<()> {
    require(args.trials_at_once > 0, "trials-at-once", args.trials_at_once, "must be 1 or more")?;
    let spec = args.file.as_deref().map(Spec::read).transpose()?;
    let out = args.out.clone().or_else(|| spec.as_ref().and_then(|spec| spec.train.out.clone()));
    let Some(dir) = out else {
        return Err(CliError::usage("--out is missing")
            .hint("give --out, or `out` in the sweep file")
            .into());
    };
    if args.status {
        return tell(&args, &dir, &recorded(&dir)?);
    }
    if let Some(spec) = &spec {
        let inputs = spec.train.inputs().paths("", &args.file);
        let out = Output::asked("--out", Some(&dir), Kind::Folder(&["sweep.json", "lock", "shards"]));
        outputs::check(&inputs, out.into_iter().chain(spec.train.cache.output()))?;
    }
    let _lock = if args.dry_run { None } else { Some(folder::lock(&dir, args.shard)?) };
    let mut part = Part::new(&args, &dir, spec)?;
    use_threads(&part.spec.train.common)?;
    give_back_freed_buffers();
    let inputs = Inputs::open(&part.trials, &part.spec.settings, part.record.clock)?;
    let steps = part.steps(&inputs);
    part.record.rungs = rungs_of(&part.spec.settings, &steps)?;
    part.record.clock = part.record.clock.or(inputs.clock());
    let limit = part.spec.train.memory.limit(inputs.device()).unwrap_or(u64::MAX);
    inputs.settle(&mut part.trials)?;
    let plan = inputs.plan(&part.trials, args.trials_at_once.min(part.trials.len()), limit)?;
    if args.dry_run {
        return part.dry_run(args.json, &inputs, &plan, &steps);
    }
    part.train(&args, &dir, &inputs, &plan)?;
    part.check_failed(&args, &dir)
}

/// The sweep that is in `dir`.
fn recorded(dir: &Path) -> anyhow::Result<Record> {
    Record::read(dir)?.ok_or_else(|| {
        let text = match dir.is_dir() {
            true => format!("{} holds no sweep", dir.display()),
            false => format!("there is no folder {}", dir.display()),
        };
        let near = nearby::in_words("sweeps", &nearby::find(dir, &["sweeps", "runs", "."], folder::is_sweep));
        let begin = "give a sweep file to begin one; see lorafit sweep --help";
        CliError::usage(text).hint(near.unwrap_or_else(|| begin.to_owned())).into()
    })
}

/// The trials of a sweep that this process runs.
struct Part {
    spec: Spec,
    record: Record,
    /// Their numbers in the whole sweep.
    numbers: Vec<usize>,
    /// Their command lines.
    trials: Vec<TrainArgs>,
}

impl Part {
    /// Of the sweep that `spec` describes or, without one, of the sweep that is in `dir`.
    fn new(args: &SweepArgs, dir: &Path, spec: Option<Spec>) -> anyhow::Result<Self> {
        let (spec, record) = match spec {
            Some(spec) => {
                let record = Record::of(&spec, dir)?;
                (spec, record)
            }
            None => {
                let record = recorded(dir)?;
                (record.spec()?, record)
            }
        };
        let numbers: Vec<usize> = (0..record.options.len()).filter(|n| args.shard.contains(*n)).collect();
        let trials: Vec<TrainArgs> = numbers
            .iter()
            .map(|&n| trial_args(&spec, dir, n, &record.options[n]))
            .collect::<Result<_, _>>()?;
        if trials.is_empty() {
            let text = format!(
                "part {} of {} is empty",
                args.shard,
                counted(record.options.len(), "trial", "trials")
            );
            return Err(CliError::usage(text).hint("use fewer parts than trials").into());
        }
        Ok(Part { spec, record, numbers, trials })
    }

    /// Optimizer steps of each trial.
    fn steps(&self, inputs: &Inputs) -> Vec<u64> {
        let steps = |(place, args): (usize, &TrainArgs)| {
            let options = args.loop_options();
            options.total_steps(options.groups(&inputs.of(place).1.rows.samples).len())
        };
        self.trials.iter().enumerate().map(steps).collect()
    }

    /// Trains the trials, and writes and tells the result.
    fn train(&self, args: &SweepArgs, dir: &Path, inputs: &Inputs, plan: &SweepPlan) -> anyhow::Result<()> {
        let Part { spec, record, numbers, trials } = self;
        record.write(dir)?;
        interrupt::listen_for_saves();
        interrupt::listen();
        let mut board = Board::new(args.quiet || spec.train.common.quiet, &record.options[0]);
        let metric = record.settings.metric.name;
        let trials_told = counted(numbers.len(), "trial", "trials");
        board.note(&format!("{trials_told} by {metric}, {}", memory_in_words(plan)));
        let runner = Runner { dir, record, retry: args.retry_failed, numbers, args: trials, inputs, plan };
        let result = runner.run(&mut board);
        board.finish();
        result?;
        write_winner(dir, spec, record)?;
        tell(args, dir, record)?;
        if interrupt::asked() {
            board.note("stopped; the same command goes on from the trials' checkpoints");
            return Err(Stopped.into());
        }
        Ok(())
    }

    /// # Errors
    /// That trials have failed, with their names.
    fn check_failed(&self, args: &SweepArgs, dir: &Path) -> anyhow::Result<()> {
        let failed: Vec<String> = rows(dir, &self.record)
            .0
            .iter()
            .filter(|row| row.state == TrialState::Failed && args.shard.contains(row.trial))
            .map(|row| row.name.clone())
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        let all = counted(self.numbers.len(), "trial", "trials");
        let text = format!("{} of {all} failed: {}", failed.len(), failed.join(", "));
        Err(CliError::new(text).hint("their trial.jsonl says why; --retry-failed runs them again").into())
    }

    /// Lists the trials with their memory and a guess of their time.
    fn dry_run(&self, json: bool, inputs: &Inputs, plan: &SweepPlan, steps: &[u64]) -> anyhow::Result<()> {
        let Part { record, numbers, trials, .. } = self;
        let per_token = inputs.seconds_per_token(trials, plan);
        let seconds = |place: usize| {
            let (rows, args) = (&inputs.of(place).1.rows, &trials[place]);
            let tokens = rows.report.tokens as f64 / rows.samples.len().max(1) as f64;
            steps[place] as f64
                * tokens
                * (args.batch_size * args.gradient_accumulation) as f64
                * per_token[place]
        };
        let all: f64 = (0..trials.len()).map(seconds).sum();
        if json {
            let trial = |(place, number): (usize, &usize)| {
                let options = &record.options[*number];
                json!({ "trial": number, "options": options, "steps": steps[place], "memory_bytes": plan.trials[place].own,
                    "seconds": seconds(place) })
            };
            let list: Vec<Value> = numbers.iter().enumerate().map(trial).collect();
            let result = json!({ "trials": list, "rungs": record.rungs, "at_once": plan.at_once,
                "shared_bytes": plan.shared, "planned_bytes": plan.total(), "seconds": all });
            return Ok(output::line(result.to_string())?);
        }
        let mut lines = vec![["trial", "steps", "memory", "time", "options"].map(str::to_owned).to_vec()];
        lines.extend(numbers.iter().enumerate().map(|(place, &number)| {
            let taken = memory(plan.trials[place].own);
            let options = in_words(&record.options[number]);
            vec![name(number), steps[place].to_string(), taken, duration(seconds(place)), options]
        }));
        output::line(aligned(&lines))?;
        if !record.rungs.is_empty() {
            let rungs: Vec<String> = record.rungs.iter().map(u64::to_string).collect();
            output::line(format!("compared after step {}; few go on to the end", rungs.join(", ")))?;
        }
        output::line(memory_in_words(plan))?;
        let answers = if inputs.metrics.list.is_empty() { "" } else { ", without the answers" };
        output::line(format!(
            "all of them to their end: about {}, guessed from a forward pass{answers}",
            duration(all)
        ))?;
        Ok(())
    }
}

/// The command line of a trial.
fn trial_args(spec: &Spec, dir: &Path, number: usize, options: &Options) -> anyhow::Result<TrainArgs> {
    let mut args = spec.train_args(options)?;
    if args.preset != Some(Preset::Off) {
        return Err(CliError::usage("`preset`: the trials of a sweep take settings as they are")
            .hint("leave `preset` out, and give or search what it would choose")
            .into());
    }
    if args.lr == Some(LearningRate::Auto) {
        return Err(CliError::usage("`lr` is \"auto\": the trials of a sweep take a number")
            .hint("search it, under [search]: lr = [3e-4, 1e-3, 3e-3]")
            .into());
    }
    if args.micro_batches_at_once == Some(MicroBatchesAtOnce::Auto) {
        return Err(CliError::usage(
            "`micro-batches-at-once` is \"auto\": the trials of a sweep take a number",
        )
        .hint("give one: micro-batches-at-once = 2")
        .into());
    }
    if args.micro_batch_tokens == MicroBatchTokens::Auto {
        return Err(CliError::usage("`micro-batch-tokens` is \"auto\": the trials of a sweep take a number")
            .hint("give one: micro-batch-tokens = 1024")
            .into());
    }
    args.out = Some(dir.join("trials").join(name(number)));
    args.name = Some(name(number));
    let checked = args.complete(&Given::default()).and_then(|args| {
        args.check_adapter(&Given::default())?;
        Ok(args)
    });
    checked.with_context(|| format!("trial {} ({})", name(number), in_words(options)))
}

/// The steps after which successive halving compares trials, before the end.
fn rungs_of(settings: &Settings, steps: &[u64]) -> Result<Vec<u64>, CliError> {
    let (Strategy::Asha, Some(least)) = (settings.strategy, settings.min_steps) else {
        return Ok(Vec::new());
    };
    let most = steps[0];
    if steps.iter().any(|steps| *steps != most) {
        return Err(CliError::usage("\"asha\" compares trials of the same number of steps, and they differ")
            .hint("give `max-steps` instead of `epochs`, and search neither of them"));
    }
    let rungs = rungs(least, settings.reduction_factor, most);
    match rungs.is_empty() {
        true => Err(CliError::usage(format!(
            "`min-steps` {least} is not below the {} of a run",
            counted(most as usize, "step", "steps")
        ))),
        false => Ok(rungs),
    }
}

fn memory_in_words(plan: &SweepPlan) -> String {
    format!(
        "{} at once: memory planned {}, {} of it for the base and the program",
        plan.at_once,
        memory(plan.total()),
        memory(plan.shared)
    )
}

/// The options of the best trial, without a folder and a name. Where none is best, none stays from before.
fn write_winner(dir: &Path, spec: &Spec, record: &Record) -> anyhow::Result<()> {
    let (rows, ranking) = rows(dir, record);
    let path = dir.join("winner.toml");
    let Some(best) = winner(&rows, ranking.as_ref(), record) else {
        return match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        };
    };
    let mut args = spec.train_args(&best.options)?;
    (args.out, args.name) = (None, None);
    let args = args.with_whole_paths();
    let text = format!("# Trial {} of {}.\n{}", best.name, dir.display(), to_toml(&args)?);
    output::file(&path, text.as_bytes())
}

/// The best trial; with `seeds` the first of the best setting, if one is.
fn winner(rows: &[Row], ranking: Option<&Ranking>, record: &Record) -> Option<Row> {
    if let Some(ranking) = ranking {
        let best = ranking.winner()?.trials.first()?;
        return rows.iter().find(|row| row.name == *best).cloned();
    }
    let ranked = ranked(rows.to_vec(), record.settings.direction);
    ranked.into_iter().next().filter(|row| row.state == TrialState::Finished)
}

/// The leader board, and the command that trains with the winner.
fn tell(args: &SweepArgs, dir: &Path, record: &Record) -> anyhow::Result<()> {
    let (all, ranking) = rows(dir, record);
    write_all_tables(dir, &all, ranking.as_ref())?;
    let best = winner(&all, ranking.as_ref(), record);
    let config = dir.join("winner.toml");
    // It is written when the sweep ends.
    let named = best.as_ref().filter(|_| config.is_file());
    let command = named.map(|_| {
        let config = shell_word(&config.display().to_string());
        format!("lorafit train --config {config} --out runs/winner")
    });
    let rows = ranked(all, record.settings.direction);
    if args.json {
        let (best, config) = (best.map(|row| row.trial), Some(config).filter(|config| config.is_file()));
        let mut result = json!({ "best": best, "command": command, "config": config, "trials": rows });
        if let Some(ranking) = &ranking {
            (result["settings"], result["verdict"]) = (ranking.to_json(), ranking.verdict().into());
        }
        return Ok(output::line(result.to_string())?);
    }
    let (metric, direction) = (record.settings.metric.name, record.settings.direction);
    if let Some(ranking) = &ranking {
        output::line(board::table_of_settings(ranking, metric, direction))?;
        ranking.verdict().map_or(Ok(()), |verdict| output::line(format!("\n{verdict}")))?;
        return Ok(command.map_or(Ok(()), |command| output::line(format!("train with it: {command}")))?);
    }
    output::line(board::table(&rows, metric, direction))?;
    if let Some(best) = best {
        output::line(format!(
            "\nbest: trial {}, trained in {}",
            board::told(&best),
            dir.join(&best.run).display()
        ))?;
    }
    Ok(command.map_or(Ok(()), |command| output::line(format!("train with it: {command}")))?)
}
