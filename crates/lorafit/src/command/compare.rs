//! `lorafit compare`: runs side by side, on the same rows.

use std::path::{Path, PathBuf};

use clap::Args;
use lorafit_data::Tokenizer;
use lorafit_model::adapter::{self, Adapter};
use lorafit_model::weights::ModelFiles;
use lorafit_train::{RunResult, RunSummary};
use serde_json::json;

use crate::args::base::{ComputeArgs, QuantArgs, TemplateArgs};
use crate::args::common::Common;
use crate::args::config_file::{self, Given};
use crate::args::evaluation::EvaluationArgs;
use crate::args::options::Init;
use crate::args::outputs::{self, Inputs, Kind, Output};
use crate::args::rows::data_help;
use crate::args::train::TrainArgs;
use crate::metrics::{Scored, SideBySide};
use crate::pages;
use crate::pages::compare::{Compared, cells, headings};
use crate::session::base::{Base, device, open_adapter, open_base, open_files, use_threads};
use crate::session::evaluation::{Judged, Judging, Rows};
use crate::session::tokens::Tokens;
use crate::session::trained;
use crate::sweep::folder::is_trial;
use crate::terminal::error::CliError;
use crate::terminal::output;
use crate::terminal::table::aligned;

const EXAMPLES: &str = "\
Examples:
  Was LoRA enough?
    lorafit compare --runs runs/lora runs/full --data test.jsonl
  By two metrics, with every row's answers side by side:
    lorafit compare --runs runs/* --data test.jsonl --metric exact_match --metric token_f1 --predictions answers.jsonl
  As a page to send, and for a program:
    lorafit compare --runs runs/* --data test.jsonl --generate --html compare.html --json
  The base has moved since the runs were trained:
    lorafit compare --runs runs/lora --data test.jsonl --model /models/smollm2

loss, perplexity and metrics are of the rows given here, computed now; steps, tokens/s, time and peak memory are from the records
of each run. Every base is opened once, and has a row of its own; a run with --init random has none. Trials of a sweep share
a process, so their memory is what was planned for each alone. Runs, models and rows are checked before the first is evaluated.
docs/metrics.md says what each metric does.";

/// The flags of `compare`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = format!("{EXAMPLES}\n\n{}", data_help()))]
pub struct CompareArgs {
    /// Run folders of train, of adapters and of full fine-tuning: the best that each kept, else what it ended with; RUN/best or
    /// a folder of RUN/checkpoints is taken as it is
    #[arg(long, value_name = "RUN", num_args = 1.., required = true, help_heading = "Input and output")]
    pub runs: Vec<PathBuf>,
    /// The base model of the runs, in place of the one that each run names
    #[arg(long, value_name = "M", help_heading = "Input and output")]
    pub model: Option<String>,
    /// Print the table as one JSON object, with the answers row by row if there are any
    #[arg(long, help_heading = "Input and output")]
    pub json: bool,
    /// Write the table as an HTML page too, with the best of each column marked
    #[arg(long, value_name = "FILE", help_heading = "Input and output")]
    pub html: Option<PathBuf>,
    /// On which rows, and how.
    #[command(flatten)]
    pub evaluation: EvaluationArgs,
    /// The flags of every verb.
    #[command(flatten)]
    pub common: Common,
}

/// A run that is to be judged.
struct Subject {
    dir: PathBuf,
    args: TrainArgs,
    summary: RunSummary,
}

impl Subject {
    /// Reads the records of the run in `dir`, whose base is `model` if that is given.
    fn open(dir: &Path, model: Option<&String>) -> anyhow::Result<Self> {
        let summary = RunSummary::read(dir)?;
        let mut args: TrainArgs = config_file::read(&summary.dir.join("config.toml"))?;
        args.model = model.cloned().or(args.model);
        Ok(Subject { dir: dir.to_owned(), args, summary })
    }

    fn name(&self) -> String {
        self.dir.display().to_string()
    }

    /// Which of its results is compared, where it left several, and what of its folder is damaged.
    fn notes(&self) -> Vec<String> {
        let name = self.name();
        let best = self.summary.best_step.map(|step| {
            let what = if matches!(self.summary.result, RunResult::Adapter(_)) { "adapter" } else { "model" };
            format!("{name}: the {what} of its best step, {step}: {}", self.summary.result.dir().display())
        });
        let damage = self.summary.damage.iter().map(|damage| format!("warning: {name}: {damage}"));
        best.into_iter().chain(damage).collect()
    }

    /// What tells bases apart; among it whether its weights began at random.
    fn base(&self) -> (&str, bool, &QuantArgs, &TemplateArgs) {
        let TrainArgs { model, init, base, template, .. } = &self.args;
        (model.as_deref().unwrap_or_default(), *init == Init::Random, base, template)
    }

    fn shares_base_with(&self, other: &Subject) -> bool {
        let key = |subject: &Subject| serde_json::to_string(&subject.base()).expect("plain values");
        key(self) == key(other)
    }

    /// What the model of full fine-tuning is quantised by: nothing, as it was trained.
    fn unquantised(&self) -> QuantArgs {
        QuantArgs { quant: None, double_quant: false, quant_head: false, ..self.args.base.clone() }
    }

    /// Runs of one base together, in order.
    fn groups(subjects: &[Subject]) -> Vec<Vec<&Subject>> {
        let mut groups: Vec<Vec<&Subject>> = Vec::new();
        for subject in subjects {
            match groups.iter_mut().find(|group| group[0].shares_base_with(subject)) {
                Some(group) => group.push(subject),
                None => groups.push(vec![subject]),
            }
        }
        groups
    }
}

/// Runs of one base with the rows as each model gets them.
struct Group<'a> {
    /// Those of the base and of its adapters; `None` where nothing is computed with a base.
    rows: Option<Rows>,
    /// With the rows of those that are models of their own, or have a tokenizer of their own.
    runs: Vec<(&'a Subject, Option<Rows>)>,
}

/// Judges runs, and tells them side by side.
pub fn run(args: CompareArgs, given: &Given) -> anyhow::Result<()> {
    let metrics = args.evaluation.check(given)?;
    args.common.validate()?;
    let place = |dir: &PathBuf| dir.canonicalize().unwrap_or_else(|_| dir.clone());
    for (i, dir) in args.runs.iter().enumerate() {
        if args.runs[..i].iter().any(|earlier| place(earlier) == place(dir)) {
            return Err(CliError::usage(format!("--runs {}: the run is given twice", dir.display()))
                .hint("give each run once")
                .into());
        }
    }
    let open = |dir: &PathBuf| Subject::open(dir, args.model.as_ref());
    let subjects: Vec<Subject> = args.runs.iter().map(open).collect::<Result<_, _>>()?;
    if let Some(subject) = subjects.iter().find(|subject| subject.args.preference.is_scored()) {
        let text = format!("{} has a head that scores texts, and no loss of replies", subject.name());
        return Err(CliError::usage(text).hint("lorafit eval judges it").into());
    }
    args.check_outputs(&subjects)?;
    if !args.common.quiet {
        subjects.iter().flat_map(Subject::notes).for_each(|line| output::note(&line));
    }
    use_threads(&args.common)?;
    let judging = Judging { args: &args.evaluation, metrics: &metrics, quiet: args.common.quiet };
    let comparison = Comparison { judging, common: &args.common };
    // What cannot be done is told before hours of evaluation, not after.
    let groups = Subject::groups(&subjects);
    let groups =
        groups.into_iter().map(|group| comparison.check(group)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut found = Vec::new();
    for group in &groups {
        comparison.judge_group(group, &mut found)?;
    }
    let (table, scored): (Vec<Compared>, Vec<Option<Scored>>) = found.into_iter().unzip();
    let scored: Option<Vec<Scored>> = scored.into_iter().collect();
    let names = table.iter().map(|row| row.name.clone()).collect();
    let mut side_by_side = scored.map(|scored| (SideBySide::of(names, &scored), scored));
    if let (Some(path), Some((sides, _))) = (&args.evaluation.predictions, &side_by_side) {
        let lines: String = sides.to_json().iter().map(|row| format!("{row}\n")).collect();
        output::file(path, lines.as_bytes())?;
    }
    // The answers are kept by then.
    let failure = side_by_side.iter_mut().flat_map(|(_, scored)| scored).find_map(|one| one.failure.take());
    if let Some(failure) = failure {
        return Err(failure);
    }
    let sides = side_by_side.map(|(sides, _)| sides);
    if let Some(file) = &args.html {
        let page = pages::compare::draw(&args.evaluation.data, &table, sides.as_ref());
        pages::write(file, &page, args.common.quiet)?;
    }
    match (args.json, sides) {
        (true, Some(sides)) => {
            output::line(json!({ "runs": table, "rows": sides.to_json() }).to_string())?;
        }
        (true, None) => output::line(json!({ "runs": table }).to_string())?,
        (false, sides) => {
            output::line(in_columns(&table))?;
            let wins = sides.filter(|sides| sides.names.len() > 1).map(|sides| sides.in_words());
            wins.into_iter().flatten().try_for_each(output::line)?;
        }
    }
    Ok(())
}

impl CompareArgs {
    fn check_outputs(&self, subjects: &[Subject]) -> Result<(), CliError> {
        let EvaluationArgs { data, predictions, criteria, rows, cache, .. } = &self.evaluation;
        let models = subjects.iter().filter_map(|subject| subject.args.model.as_ref());
        let inputs = models.fold(Inputs::default(), |inputs, model| inputs.model("the base", model));
        let inputs = inputs.paths("--runs", &self.runs).paths("--schema", &criteria.schema);
        let inputs = inputs.data("--data", data, rows.split.as_deref());
        let answers = Kind::Rows(&["expected", "answers", "best"]);
        let asked = [
            Output::asked("--html", self.html.as_ref(), Kind::Page),
            Output::asked("--predictions", predictions.as_ref(), answers),
            cache.output(),
        ];
        outputs::check(&inputs, asked.into_iter().flatten())
    }
}

/// What all evaluations have in common.
struct Comparison<'a> {
    judging: Judging<'a>,
    common: &'a Common,
}

impl Comparison<'_> {
    /// Opens everything but weights, and reads the rows for each model.
    ///
    /// # Errors
    /// What stands in the way of any evaluation, with the run that it is of.
    fn check<'s>(&self, group: Vec<&'s Subject>) -> anyhow::Result<Group<'s>> {
        let (model, is_random, quant, template) = group[0].base();
        let base = match is_random {
            false => Some(open_files(model, &Tokens::OfModel, template, self.common)?),
            // What began at random has no base to be compared with.
            true => None,
        };
        let rows = base.as_ref().map(|files| self.check_model(files, quant, None)).transpose()?;
        let check = |subject: &'s Subject| -> anyhow::Result<_> {
            match (&subject.summary.result, &base) {
                (RunResult::Adapter(dir), Some(_)) if !adapter::token_indices(dir)?.is_empty() => {
                    // Its tokenizer is another one than the base's.
                    let files =
                        open_files(model, &Tokens::of_adapters([dir.as_path()]), template, self.common)?;
                    let adapter =
                        adapter::load_over(dir, &files.0, device(self.common, ComputeArgs::UNSET)?)?;
                    Ok((subject, Some(self.check_model(&files, quant, Some(&adapter))?)))
                }
                (RunResult::Adapter(dir), Some(files)) => {
                    let adapter =
                        adapter::load_over(dir, &files.0, device(self.common, ComputeArgs::UNSET)?)?;
                    let Some(rows) = &rows else { unreachable!("those of the base are read") };
                    self.check_memory(files, quant, Some(&adapter), rows)?;
                    Ok((subject, None))
                }
                (RunResult::Adapter(_), None) => {
                    let text = format!("{} has an adapter, and its base had random weights", subject.name());
                    Err(CliError::new(text).hint("leave the run out").into())
                }
                (RunResult::Model(dir), _) => {
                    let (model, template) = (dir.display().to_string(), &subject.args.template);
                    let files = open_files(&model, &Tokens::OfModel, template, self.common)?;
                    Ok((subject, Some(self.check_model(&files, &subject.unquantised(), None)?)))
                }
            }
        };
        let runs = group.into_iter().map(check).collect::<anyhow::Result<_>>()?;
        Ok(Group { rows, runs })
    }

    fn check_model(
        &self,
        files: &(ModelFiles, Tokenizer),
        quant: &QuantArgs,
        adapter: Option<&Adapter>,
    ) -> anyhow::Result<Rows> {
        let rows = self.judging.read(files.0.config(), &files.1)?;
        self.check_memory(files, quant, adapter, &rows)?;
        Ok(rows)
    }

    fn check_memory(
        &self,
        (files, _): &(ModelFiles, Tokenizer),
        quant: &QuantArgs,
        adapter: Option<&Adapter>,
        rows: &Rows,
    ) -> anyhow::Result<()> {
        let device = device(self.common, ComputeArgs::UNSET)?;
        let weights = files.weight_bytes(quant.resolve()?, device.placement())?;
        let lora = adapter.map(Adapter::config);
        self.judging.fit(Judged { config: files.config(), weights, lora, device }, rows)?;
        Ok(())
    }

    /// Judges a base, if there is one, and its runs.
    fn judge_group(
        &self,
        group: &Group<'_>,
        found: &mut Vec<(Compared, Option<Scored>)>,
    ) -> anyhow::Result<()> {
        let Group { rows, runs } = group;
        let (model, _, quant, template) = runs[0].0.base();
        let base = match rows {
            Some(rows) => {
                let base =
                    open_base(model, &Tokens::OfModel, quant, template, ComputeArgs::UNSET, self.common)?;
                let flags =
                    [quant.flags(), template.template.as_ref().map(|name| format!("--template {name}"))];
                let name =
                    flags.into_iter().flatten().fold(model.to_owned(), |name, flag| format!("{name} {flag}"));
                found.push(self.judge(name, &base, None, rows, None)?);
                Some((base, rows))
            }
            None => None,
        };
        for (subject, own_rows) in runs {
            match (&subject.summary.result, &base, own_rows) {
                (RunResult::Adapter(dir), Some(_), Some(rows)) => {
                    let tokens = Tokens::of_adapters([dir.as_path()]);
                    let own = open_base(model, &tokens, quant, template, ComputeArgs::UNSET, self.common)?;
                    let adapter = open_adapter(&own, dir)?;
                    found.push(self.judge(subject.name(), &own, Some(&adapter), rows, Some(subject))?);
                }
                (RunResult::Adapter(dir), Some((base, rows)), None) => {
                    let adapter = open_adapter(base, dir)?;
                    found.push(self.judge(subject.name(), base, Some(&adapter), rows, Some(subject))?);
                }
                (RunResult::Model(dir), _, Some(rows)) => {
                    let (model, template) = (dir.display().to_string(), &subject.args.template);
                    let (quant, compute) = (subject.unquantised(), ComputeArgs::UNSET);
                    let own = open_base(&model, &Tokens::OfModel, &quant, template, compute, self.common)?;
                    let (mut row, scored) = self.judge(subject.name(), &own, None, rows, Some(subject))?;
                    row.trainable_parameters = trained::selected_parameters(&subject.args, &own)?;
                    found.push((row, scored));
                }
                (RunResult::Adapter(_), None, _) | (RunResult::Model(_), _, None) => {
                    unreachable!("it was checked")
                }
            }
        }
        Ok(())
    }

    /// Judges one model: of a run (`subject`), or the base that is called `name`.
    fn judge(
        &self,
        name: String,
        base: &Base,
        adapter: Option<&Adapter>,
        rows: &Rows,
        subject: Option<&Subject>,
    ) -> anyhow::Result<(Compared, Option<Scored>)> {
        if !self.common.quiet {
            tell!("{name}");
        }
        let found = self.judging.measure(base, adapter, rows)?;
        let run = subject.map(|subject| &subject.summary);
        let method = match run.map(|run| &run.result) {
            None => "base",
            Some(RunResult::Adapter(_)) => "lora",
            Some(RunResult::Model(_)) => "full",
        };
        // Trials share a process, and the peak is that of all.
        let is_alone = subject.is_some_and(|subject| !is_trial(&subject.summary.dir));
        let row = Compared {
            name,
            path: run.map(|run| run.result.dir().to_owned()),
            method,
            loss: found.evaluation.loss,
            perplexity: found.evaluation.perplexity,
            metrics: found.scored.as_ref().map(|scored| scored.summaries.clone()).unwrap_or_default(),
            trainable_parameters: adapter.map_or(0, |adapter| adapter.parameters() as u64),
            file_bytes: run.map(|run| run.result.weight_bytes()).transpose()?,
            peak_rss_bytes: run.filter(|_| is_alone).map(|run| run.totals.peak_rss_bytes),
            planned_bytes: run.and_then(|run| run.planned_bytes),
            tokens_per_s: run.map(|run| run.totals.tokens_per_s()),
            seconds: run.map(|run| run.totals.seconds),
            steps: run.map(|run| run.totals.step),
        };
        Ok((row, found.scored))
    }
}

/// A table for the terminal.
fn in_columns(table: &[Compared]) -> String {
    let head = headings(table).into_iter().map(str::to_owned).collect();
    aligned(&std::iter::once(head).chain(table.iter().map(cells)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_columns_and_a_base_has_no_records() {
        let base = Compared {
            name: "m.gguf".into(),
            path: None,
            method: "base",
            loss: 2.5,
            perplexity: 12.1825,
            metrics: Vec::new(),
            trainable_parameters: 0,
            file_bytes: None,
            peak_rss_bytes: None,
            planned_bytes: None,
            tokens_per_s: None,
            seconds: None,
            steps: None,
        };
        let run = Compared {
            name: "/runs/lr0".into(),
            method: "full",
            trainable_parameters: 134_515_008,
            file_bytes: Some(538 << 20),
            planned_bytes: Some(600 << 20),
            seconds: Some(61.2),
            ..base.clone()
        };
        let expected = "\
run        method    loss  perplexity    trainable     file      peak memory  tokens/s        time
m.gguf     base    2.5000       12.18            0        -                -         -           -
/runs/lr0  full    2.5000       12.18  134,515,008  538 MiB  600 MiB planned         -  1 min 01 s";
        assert_eq!(in_columns(&[base, run]), expected);
    }
}
