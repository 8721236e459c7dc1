//! `lorafit compare`: runs side by side, on the same rows.

use std::path::{Path, PathBuf};

use clap::Args;
use lorafit_model::adapter::Adapter;
use lorafit_train::{RunResult, RunSummary};

use crate::args::base::{ComputeArgs, QuantArgs, TemplateArgs};
use crate::args::cache::CacheArgs;
use crate::args::common::Common;
use crate::args::config_file::{self, Given};
use crate::args::idle;
use crate::args::options::Init;
use crate::args::outputs::{self, Inputs, Kind, Output};
use crate::args::require;
use crate::args::rows::{RowArgs, data_help};
use crate::args::size::ByteSize;
use crate::args::train::TrainArgs;
use crate::pages;
use crate::pages::compare::{COLUMNS, Compared};
use crate::session::base::{Base, open_adapter, open_base, open_shape, use_threads};
use crate::session::evaluation::{Judging, measure};
use crate::session::trained;
use crate::terminal::output;

const EXAMPLES: &str = "\
Examples:
  Was LoRA enough?
    lorafit compare --runs runs/lora runs/full --data test.jsonl
  With greedy answers, for a program:
    lorafit compare --runs runs/* --data test.jsonl --generate --json
  As a page to send:
    lorafit compare --runs runs/* --data test.jsonl --html compare.html

loss and perplexity are of the rows given here, computed now; steps, tokens/s, time and peak memory are from the records
of each run. Every base is opened once, and has a row of its own; a run with --init random has none.";

/// The flags of `compare`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = format!("{EXAMPLES}\n\n{}", data_help()))]
pub struct CompareArgs {
    /// Run folders of train, of adapters and of full fine-tuning
    #[arg(long, value_name = "RUN", num_args = 1.., required = true, help_heading = "Input and output")]
    pub runs: Vec<PathBuf>,
    /// Rows to evaluate on, described below; repeat the flag for several sources
    #[arg(long, value_name = "DATA", required = true, help_heading = "Input and output")]
    pub data: Vec<String>,
    /// Print the table as one JSON object
    #[arg(long, help_heading = "Input and output")]
    pub json: bool,
    /// Write the table as an HTML page too, with the best of each column marked
    #[arg(long, value_name = "FILE", help_heading = "Input and output")]
    pub html: Option<PathBuf>,

    /// Also answer each row's last prompt and count the answers that equal the reply
    #[arg(long, help_heading = "Answers")]
    pub generate: bool,
    /// Maximum number of tokens in an answer; an answer that is cut off does not match
    #[arg(long, value_name = "N", default_value_t = 256, help_heading = "Answers")]
    pub max_new_tokens: usize,

    /// Which rows are read, and how.
    #[command(flatten)]
    pub rows: RowArgs,
    /// Where tokenised data is kept.
    #[command(flatten)]
    pub cache: CacheArgs,
    /// Tokens computed at once; the main setting for memory
    #[arg(long, value_name = "TOKENS", default_value_t = 512, help_heading = "Machine")]
    pub micro_batch_tokens: usize,
    /// Memory the evaluations may take, such as 6GiB or 800MB [default: 90 % of what is free now]
    #[arg(long, value_name = "SIZE", help_heading = "Machine")]
    pub memory: Option<ByteSize>,
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
    fn open(dir: &Path) -> anyhow::Result<Self> {
        let summary = RunSummary::read(dir)?;
        let args: TrainArgs = config_file::read(&dir.join("config.toml"))?;
        Ok(Subject { dir: dir.to_owned(), args, summary })
    }

    /// What tells bases apart.
    fn base(&self) -> (&str, Init, &QuantArgs, &TemplateArgs) {
        let TrainArgs { model, init, base, template, .. } = &self.args;
        (model.as_deref().unwrap_or_default(), *init, base, template)
    }

    fn shares_base_with(&self, other: &Subject) -> bool {
        let key = |subject: &Subject| serde_json::to_string(&subject.base()).expect("plain values");
        key(self) == key(other)
    }
}

/// Judges runs, and tells them side by side.
pub fn run(args: CompareArgs, given: &Given) -> anyhow::Result<()> {
    require(args.max_new_tokens > 0, "max-new-tokens", args.max_new_tokens, "must be 1 or more")?;
    require(args.micro_batch_tokens > 0, "micro-batch-tokens", args.micro_batch_tokens, "must be 1 or more")?;
    args.rows.validate()?;
    args.cache.validate()?;
    idle::refuse(given, idle::without_generate(args.generate))?;
    args.common.validate()?;
    let subjects: Vec<Subject> = args.runs.iter().map(|dir| Subject::open(dir)).collect::<Result<_, _>>()?;
    let models = subjects.iter().filter_map(|subject| subject.args.model.as_ref());
    let inputs = models.fold(Inputs::default(), |inputs, model| inputs.model("the base", model));
    let inputs = inputs.paths("--runs", &args.runs).data("--data", &args.data, args.rows.split.as_deref());
    let page = Output::asked("--html", args.html.as_ref(), Kind::Page);
    outputs::check(&inputs, page.into_iter().chain(args.cache.output()))?;
    use_threads(&args.common)?;
    let mut table = Vec::new();
    for (i, first) in subjects.iter().enumerate() {
        if subjects[..i].iter().any(|earlier| earlier.shares_base_with(first)) {
            continue;
        }
        let base = match first.base() {
            (model, Init::Model, quant, template) => {
                let base = open_base(model, quant, template, ComputeArgs::UNSET, &args.common)?;
                table.push(args.judge(&base, None, model.to_owned(), None)?);
                base
            }
            // What began at chance has no base to be compared with.
            (model, Init::Random, _, template) => {
                open_shape(model, template, ComputeArgs::UNSET, &args.common)?
            }
        };
        for subject in subjects[i..].iter().filter(|subject| subject.shares_base_with(first)) {
            table.push(args.judge_run(&base, subject)?);
        }
    }
    if let Some(file) = &args.html {
        output::file(file, pages::compare::draw(&args.data, &table).as_bytes())?;
    }
    output::line(match args.json {
        true => serde_json::to_string(&table)?,
        false => in_columns(&table),
    })?;
    Ok(())
}

impl CompareArgs {
    fn judge_run(&self, base: &Base, subject: &Subject) -> anyhow::Result<Compared> {
        let (name, summary) = (subject.dir.display().to_string(), Some(&subject.summary));
        match &subject.summary.result {
            RunResult::Adapter(dir) => {
                let adapter = open_adapter(base, dir)?;
                self.judge(base, Some(&adapter), name, summary)
            }
            RunResult::Model(dir) => {
                // As it was trained: in full, and with the same template.
                let none = QuantArgs {
                    quant: None,
                    double_quant: false,
                    quant_head: false,
                    ..subject.args.base.clone()
                };
                let model = dir.display().to_string();
                let own = open_base(&model, &none, &subject.args.template, ComputeArgs::UNSET, &self.common)?;
                let trainable_parameters = trained::selected_parameters(&subject.args, &own)?;
                Ok(Compared { trainable_parameters, ..self.judge(&own, None, name, summary)? })
            }
        }
    }

    fn judge(
        &self,
        base: &Base,
        adapter: Option<&Adapter>,
        name: String,
        run: Option<&RunSummary>,
    ) -> anyhow::Result<Compared> {
        if !self.common.quiet {
            eprintln!("{name}");
        }
        let found = measure(&self.judging(), base, adapter)?;
        let method = match run.map(|run| &run.result) {
            None => "base",
            Some(RunResult::Adapter(_)) => "lora",
            Some(RunResult::Model(_)) => "full",
        };
        Ok(Compared {
            name,
            method,
            loss: found.evaluation.loss,
            perplexity: found.evaluation.perplexity,
            exact_match: found.answers.map(|answers| answers.share()),
            trainable_parameters: adapter.map_or(0, |adapter| adapter.parameters() as u64),
            file_bytes: run.map(|run| run.result.weight_bytes()).transpose()?,
            peak_rss_bytes: run.map(|run| run.totals.peak_rss_bytes),
            tokens_per_s: run.map(|run| run.totals.tokens_per_s()),
            seconds: run.map(|run| run.totals.seconds),
            steps: run.map(|run| run.totals.step),
        })
    }

    fn judging(&self) -> Judging<'_> {
        let Self { generate, max_new_tokens, micro_batch_tokens, memory, .. } = *self;
        let (data, rows, cache, quiet) = (&self.data, &self.rows, &self.cache, self.common.quiet);
        Judging { data, rows, cache, generate, max_new_tokens, micro_batch_tokens, memory, quiet }
    }
}

/// A table for the terminal.
fn in_columns(table: &[Compared]) -> String {
    let mut lines = vec![String::new(); table.len() + 1];
    let mut add = |cells: Vec<String>, left: bool| {
        let width = cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
        for (line, cell) in lines.iter_mut().zip(cells) {
            *line += &if left { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
        }
    };
    let names = std::iter::once("run".to_owned()).chain(table.iter().map(|row| row.name.clone()));
    add(names.collect(), true);
    for column in &COLUMNS {
        let cells = table.iter().map(|row| column.cell(row));
        add(std::iter::once(column.name.to_owned()).chain(cells).collect(), false);
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_columns_and_a_base_has_no_records() {
        let base = Compared {
            name: "m.gguf".into(),
            method: "base",
            loss: 2.5,
            perplexity: 12.1825,
            exact_match: None,
            trainable_parameters: 0,
            file_bytes: None,
            peak_rss_bytes: None,
            tokens_per_s: None,
            seconds: None,
            steps: None,
        };
        let run = Compared {
            name: "runs/full".into(),
            method: "full",
            exact_match: Some(0.25),
            trainable_parameters: 134_515_008,
            file_bytes: Some(538 << 20),
            seconds: Some(61.2),
            ..base.clone()
        };
        let expected = "\
run        method    loss  perplexity  exact match    trainable    file  peak memory  tokens/s  time
m.gguf       base  2.5000      12.182            -            0       -            -         -     -
runs/full    full  2.5000      12.182       25.0 %  134,515,008  538MiB            -         -  61 s";
        assert_eq!(in_columns(&[base, run]), expected);
    }
}
