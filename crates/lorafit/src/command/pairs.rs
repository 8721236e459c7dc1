//! `lorafit pairs`: preference rows from a model's own answers, judged by a rule or a program.

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use lorafit_data::{Origin, PromptRow};
use lorafit_model::adapter::Adapter;
use lorafit_remedy::amounts::{counted, duration, grouped};
use lorafit_train::{
    Answering, EvaluationRequest, Identity, MemoryPlan, SIDE_BY_SIDE, hash_files, hash_text, peak_rss_bytes,
};
use serde_json::{Map, Value, json};

use crate::args::adapters::{AdapterArg, FactorArgs};
use crate::args::base::{ComputeArgs, QuantArgs, TemplateArgs};
use crate::args::common::Common;
use crate::args::config_file::{Given, object};
use crate::args::criteria::CriteriaArgs;
use crate::args::idle::{self, Idle, together};
use crate::args::judged_by;
use crate::args::outputs::{self, Inputs, Kind, Output};
use crate::args::require;
use crate::args::rows::{RowArgs, data_help};
use crate::args::sampling::Sampling;
use crate::args::size::ByteSize;
use crate::metrics::{Metrics, Of};
use crate::session::base::{Base, as_trained, open_adapters, open_base, reserve, use_threads};
use crate::session::evaluation::fit;
use crate::session::journal::{Journal, check_free};
use crate::session::limits::Limits;
use crate::session::memory_table;
use crate::session::pairs::{Failure, Making, Rows, Tally};
use crate::session::rows::skipped;
use crate::session::tokens::Tokens;
use crate::terminal::error::{CliError, Stopped};
use crate::terminal::interrupt;
use crate::terminal::output;
use crate::terminal::progress::PromptProgress;
use crate::terminal::shell::shell_word;

const EXAMPLES: &str = "\
Examples:
  Fine-tuning, pairs and DPO in three commands:
    lorafit train --model M --data train.jsonl --out runs/sft
    lorafit pairs --model M --adapter runs/sft --data prompts.jsonl --judge exact --out pairs.jsonl
    lorafit train --model M --adapter runs/sft --data pairs.jsonl --objective dpo --out runs/dpo
  Answers that fit a JSON schema are better than others:
    lorafit pairs --model M --data prompts.jsonl --judge json-schema:command.schema.json --out pairs.jsonl
  A program judges; it reads {\"prompt\", \"expected\", \"answer\"} and writes a number from 0 to 1, a line for each line:
    lorafit pairs --model M --data prompts.jsonl --judge 'command:python3 judge.py' --samples 8 --out pairs.jsonl
  Two pairs a prompt, the replies of the rows among the answers:
    lorafit pairs --model M --data train.jsonl --judge rouge-l --include-reference --pairs-per-prompt 2 --out pairs.jsonl
  Good and bad answers one by one, for --objective kto:
    lorafit pairs --model M --data prompts.jsonl --judge 'regex:^[^.]+[.]$' --format labels --out labels.jsonl

A prompt alone is a row here: {\"prompt\": ...}, or messages that end with the user's. exact, contains, token-f1, rouge-l, number and
json-equal compare an answer with the reply of its row, which must be there then. docs/metrics.md says what each judge does,
docs/preferences.md how to train on the rows. A call that was interrupted goes on where it was if it is repeated.";

/// `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A chosen and a rejected answer in a row, for dpo and its like
    Pairs,
    /// An answer in a row, with a label that says whether it is good, for kto
    Labels,
}

/// The flags of `pairs`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = format!("{EXAMPLES}\n\n{}", data_help()))]
// Other verbs share these flags. Here answers have to differ, so the temperature is 1, and prompts are neither cut nor trained.
#[command(mut_arg("temperature", |arg| arg.default_value("1")))]
#[command(mut_arg("max_seq_len", |arg| arg.hide(true)))]
#[command(mut_arg("overlong", |arg| arg.hide(true)))]
#[command(mut_arg("train_on", |arg| arg.hide(true)))]
pub struct PairsArgs {
    /// The base model: a Hugging Face folder, a .gguf file, or a hub id (org/name or org/name@revision)
    #[arg(long, value_name = "M", help_heading = "Input and output")]
    pub model: String,
    /// Adapter that answers (a PEFT folder, or a run folder of train), optionally with a weight: A:0.7; repeat the flag to
    /// add up several adapters [default: the base alone]
    #[arg(long, value_name = "DIR[:WEIGHT]", help_heading = "Input and output")]
    pub adapter: Vec<String>,
    /// Rows with the prompts, described below; repeat the flag for several sources
    #[arg(long, value_name = "DATA", required = true, help_heading = "Input and output")]
    pub data: Vec<String>,
    /// The file of rows to write, JSONL. FILE.progress stands beside it until all prompts are answered
    #[arg(long, value_name = "FILE", help_heading = "Input and output")]
    pub out: PathBuf,
    /// Replace the file of an earlier call, and begin again
    #[arg(long, help_heading = "Input and output")]
    pub overwrite: bool,
    /// Print the result as one JSON object
    #[arg(long, help_heading = "Input and output")]
    pub json: bool,

    /// What answers are judged by: exact, contains, token-f1, rouge-l, number, json-valid, json-equal, regex:PATTERN,
    /// json-schema:FILE, or command:CMD, run by the shell
    ///
    /// CMD is started for every few prompts. It reads one JSON object an answer from standard input, {"prompt": ..., "expected": ...,
    /// "answer": ...}, and writes one line an answer to standard output: a number from 0 to 1, or {"score": 0.5}.
    #[arg(long, value_name = "JUDGE", help_heading = "Judge")]
    pub judge: String,
    /// For exact and contains: small and capital letters are equal
    #[arg(long, help_heading = "Judge")]
    pub ignore_case: bool,
    /// For exact and contains: any run of white space is equal to one blank
    #[arg(long, help_heading = "Judge")]
    pub ignore_whitespace: bool,
    /// The time that the command may take each time it is started, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600, help_heading = "Judge")]
    pub judge_timeout: u64,

    /// Answers to each prompt
    #[arg(long, value_name = "N", default_value_t = 4, help_heading = "Rows to write")]
    pub samples: usize,
    /// Pairs of a chosen and a rejected answer to a prompt, at most: the best with the worst first
    #[arg(long, value_name = "K", default_value_t = 1, help_heading = "Rows to write")]
    pub pairs_per_prompt: usize,
    /// Let the reply of the row be one of the answers that are judged
    #[arg(long, help_heading = "Rows to write")]
    pub include_reference: bool,
    /// What a row holds
    #[arg(long, value_enum, default_value_t = Format::Pairs, help_heading = "Rows to write")]
    pub format: Format,
    /// With --format labels: the score from which an answer is good
    #[arg(long, value_name = "SCORE", default_value_t = 0.5, help_heading = "Rows to write")]
    pub threshold: f64,

    /// How the next token is chosen.
    #[command(flatten)]
    pub sampling: Sampling,
    /// Which rows are read, and how.
    #[command(flatten)]
    pub rows: RowArgs,
    /// How the base is held in memory.
    #[command(flatten)]
    pub base: QuantArgs,
    /// How the base is multiplied.
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// How the factors of adapters are held in memory.
    #[command(flatten)]
    pub factors: FactorArgs,
    /// How conversations are written.
    #[command(flatten)]
    pub template: TemplateArgs,
    /// Memory that answering may take, such as 6GiB or 800MB [default: 90 % of what is free now]
    ///
    /// Answers are computed 16 side by side, or as many as fit; which they are changes none of them.
    #[arg(long, value_name = "SIZE", help_heading = "Machine")]
    pub memory: Option<ByteSize>,
    /// The flags of every verb.
    #[command(flatten)]
    pub common: Common,
}

/// The most answers to a prompt.
const MOST_SAMPLES: usize = 1000;
/// Prompts whose answers a command judges at once, so that it is not started for each.
const PROMPTS_A_COMMAND: usize = 16;

impl PairsArgs {
    /// Checks the flags, and gives the judge with the files that it reads.
    fn check(&self, given: &Given) -> Result<(Metrics, CriteriaArgs), CliError> {
        self.sampling.validate(given)?;
        self.rows.validate()?;
        let samples = self.samples;
        require((1..=MOST_SAMPLES).contains(&samples), "samples", samples, "must be from 1 to 1000")?;
        require(self.pairs_per_prompt > 0, "pairs-per-prompt", self.pairs_per_prompt, "must be 1 or more")?;
        let threshold = self.threshold;
        require(
            threshold > 0.0 && threshold <= 1.0,
            "threshold",
            threshold,
            "must be above 0 and at most 1",
        )?;
        let settings = CriteriaArgs {
            ignore_case: self.ignore_case,
            ignore_whitespace: self.ignore_whitespace,
            judge_timeout: self.judge_timeout,
            ..CriteriaArgs::default()
        };
        let (judge, criteria) = judged_by::judge(&self.judge, settings)?;
        let reads = |flag: &str| judge.list.iter().any(|metric| metric.heeds(flag));
        let behind = format!("with --judge {}", self.judge);
        let judges = ["ignore-case", "ignore-whitespace"].map(|flag| Idle {
            flag,
            acts: reads(flag),
            why: &behind,
            hint: "it belongs to --judge exact and contains",
        });
        let timeout = Idle {
            flag: "judge-timeout",
            acts: reads("judge-timeout"),
            why: &behind,
            hint: "it belongs to --judge command:CMD",
        };
        let labels = self.format == Format::Labels;
        let pairs = Idle {
            flag: "pairs-per-prompt",
            acts: !labels,
            why: "with --format labels",
            hint: "leave it out: every answer is a row",
        };
        let threshold = Idle {
            flag: "threshold",
            acts: labels,
            why: "without --format labels",
            hint: "add --format labels, or leave --threshold out",
        };
        let lengths = together(
            &["max-seq-len", "overlong", "train-on"],
            false,
            "for prompts, which are given whole",
            "leave it out; lorafit train has it",
        );
        idle::refuse(given, judges.into_iter().chain([timeout, pairs, threshold]).chain(lengths))?;
        self.check_answers()?;
        Ok((judge, criteria))
    }

    /// Refuses answers of which none can differ.
    fn check_answers(&self) -> Result<(), CliError> {
        if self.sampling.temperature == 0.0 && self.samples > 1 {
            return Err(CliError::usage(format!(
                "--samples {} at --temperature 0 would be the same answer each time",
                self.samples
            ))
            .hint("give a temperature above 0, or --samples 1"));
        }
        if self.samples == 1 && self.format == Format::Pairs && !self.include_reference {
            return Err(CliError::usage("--samples 1 makes no pair")
                .hint("give --samples 4, or add --include-reference to pair the answer with the reply"));
        }
        Ok(())
    }

    fn check_outputs(&self, adapters: &[AdapterArg], criteria: &CriteriaArgs) -> Result<(), CliError> {
        let inputs = Inputs::default()
            .model("--model", &self.model)
            .paths("--adapter", adapters.iter().map(|adapter| &adapter.dir))
            .paths("--template", &self.template.template)
            .paths("--judge", &criteria.schema)
            .data("--data", &self.data, self.rows.split.as_deref());
        outputs::check(&inputs, [Output { flag: "--out", path: &self.out, kind: Kind::Rows(&["prompt"]) }])?;
        check_free(&self.out, self.overwrite)
    }

    fn rows_to_write(&self) -> Rows {
        match self.format {
            Format::Pairs => Rows::Pairs(self.pairs_per_prompt),
            Format::Labels => Rows::Labels(self.threshold),
        }
    }

    /// Reads the prompts, and refuses those that cannot be answered or judged.
    fn prompts(&self, base: &Base, judge: &Metrics) -> anyhow::Result<Vec<PromptRow>> {
        let quiet = self.common.quiet;
        let source = self.rows.source("split", &self.data, self.rows.split.as_deref(), quiet)?;
        let (mut prompts, origin) = lorafit_data::prompt_rows(source, &base.tokenizer)?;
        if !quiet {
            skipped(&origin).iter().for_each(|line| tell!("{line}"));
        }
        Limits::of(base).check_prompts(&mut prompts, self.rows.skip_bad_rows)?;
        self.check_rows(&prompts, &origin, judge)?;
        if !quiet
            && prompts.iter().any(PromptRow::is_text)
            && base.tokenizer.compile_chat_template()?.is_some()
        {
            tell!(
                "prompts that are text are continued as they are, without the chat template; with --columns prompt=instruction \
                 they are the user's messages"
            );
        }
        Ok(prompts)
    }

    fn check_rows(&self, prompts: &[PromptRow], origin: &Origin, judge: &Metrics) -> Result<(), CliError> {
        if let Some(row) = prompts.iter().find(|row| row.generation.prompt_ids.is_empty()) {
            let place = origin.place_in_file(row.generation.row);
            return Err(CliError::new(format!("{place}: the prompt has no tokens"))
                .hint("give it some text, or remove the row"));
        }
        let compares = judge.list.iter().any(|metric| metric.compares);
        match prompts.iter().find(|row| !row.has_reply) {
            Some(row) if compares => {
                let place = origin.place_in_file(row.generation.row);
                let text = format!("{place}: the row has no reply, which --judge {} needs", self.judge);
                Err(CliError::new(text)
                    .hint("add the reply, or judge by a rule or a program: regex:, command:"))
            }
            _ if self.include_reference && prompts.iter().all(|row| !row.has_reply) => {
                Err(CliError::usage("--include-reference: no row has a reply").hint("leave it out"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The answers that may be computed side by side, with the memory that is planned for them.
    fn fit(
        &self,
        base: &Base,
        adapter: Option<&Adapter>,
        prompts: &[PromptRow],
    ) -> anyhow::Result<(usize, MemoryPlan)> {
        let device = base.model.device();
        let tokens = prompts.iter().flat_map(|row| {
            let tokens = row.generation.prompt_ids.len();
            (0..self.samples).map(move |_| tokens)
        });
        let tokens: Vec<usize> = tokens.collect();
        let request = EvaluationRequest {
            config: base.model.config(),
            weights: base.weight_bytes,
            lora: adapter.map(Adapter::config),
            // Rows that are computed at least, however short prompts are.
            tokens: SIDE_BY_SIDE,
            prompts: &tokens,
            max_new_tokens: self.sampling.max_new_tokens,
            threads: rayon::current_num_threads(),
            placement: device.placement(),
            reference: None,
        };
        fit("answering", &request, self.memory, device)
    }

    /// What decides the rows that are written, as flags.
    fn identity(&self, prompts: &[PromptRow], adapters: &[AdapterArg]) -> anyhow::Result<Identity> {
        let texts = prompts.iter().map(|row| &row.generation);
        let texts: String = texts.map(|row| format!("{:?} {:?}\n", row.prompt, row.reference)).collect();
        let files: Vec<PathBuf> = adapters
            .iter()
            .map(|adapter| adapter.dir.join("adapter_model.safetensors"))
            .filter(|path| path.is_file())
            .collect();
        let adapter = (!files.is_empty()).then(|| hash_files(&files)).transpose()?;
        let mut identity = Identity::default()
            .with("--model", self.model.clone())
            .with("--adapter", self.adapter.join(", "))
            .with("the adapter's weights", adapter)
            .with("the prompts", hash_text(&texts))
            .with("--adapter-dtype", serde_json::to_value(self.factors.adapter_dtype)?)
            .with("--judge", self.judge.clone())
            .with("--ignore-case", self.ignore_case)
            .with("--ignore-whitespace", self.ignore_whitespace)
            .with("--samples", self.samples)
            .with("--include-reference", self.include_reference)
            .with("--format", format!("{:?}", self.rows_to_write()))
            .with("--max-new-tokens", self.sampling.max_new_tokens)
            .with("--temperature", self.sampling.temperature)
            .with("--top-p", self.sampling.top_p)
            .with("--top-k", self.sampling.top_k)
            .with("--seed", self.sampling.seed);
        for (name, value) in object(&self.base)?.into_iter().chain(object(&self.compute)?) {
            identity = identity.with(&format!("--{name}"), value);
        }
        Ok(identity)
    }
}

/// Answers prompts, judges the answers, and writes the rows.
pub fn run(args: PairsArgs, given: &Given) -> anyhow::Result<()> {
    let (judge, criteria) = args.check(given)?;
    args.base.resolve()?;
    args.common.validate()?;
    let adapters = AdapterArg::all(&args.adapter)?;
    args.check_outputs(&adapters, &criteria)?;
    use_threads(&args.common)?;
    let runs = adapters.iter().map(|adapter| adapter.dir.as_path());
    let template = as_trained(&args.template, &args.base, runs, args.common.quiet);
    let tokens = Tokens::of_adapters(adapters.iter().map(|adapter| adapter.dir.as_path()));
    let base = open_base(&args.model, &tokens, &args.base, &template, args.compute, &args.common)?;
    base.check_writes("no answers to make pairs of")?;
    let adapter = open_adapters(&base, &adapters, args.factors)?;
    let prompts = args.prompts(&base, &judge)?;
    let (side_by_side, plan) = args.fit(&base, adapter.as_ref(), &prompts)?;
    if !args.common.quiet {
        let what = format!("{} side by side", counted(side_by_side, "answer", "answers"));
        tell!("{}", memory_table::of_run(&what, &plan, output::notes_are_on_terminal()));
    }
    reserve(base.model.device(), &plan)?;
    let making = Making {
        answering: Answering {
            model: &base.model,
            adapter: adapter.as_ref(),
            tokenizer: &base.tokenizer,
            max_new_tokens: args.sampling.max_new_tokens,
            side_by_side,
        },
        sampling: args.sampling.settings(),
        samples: args.samples,
        judge: &judge,
        include_reference: args.include_reference,
        rows: args.rows_to_write(),
    };
    let identity = args.identity(&prompts, &adapters)?;
    let started = Instant::now();
    let tally = write(&args, &base, &making, &prompts, &identity)?;
    match args.json {
        true => output::line(in_json(&args, &tally, &plan, started).to_string())?,
        false => tell(&args, &tally, started)?,
    }
    match tally.rows {
        0 => Err(nothing_written(&args, &tally).into()),
        _ => Ok(()),
    }
}

/// Writes the rows of all prompts, from where an earlier call stopped.
fn write(
    args: &PairsArgs,
    base: &Base,
    making: &Making<'_>,
    prompts: &[PromptRow],
    identity: &Identity,
) -> anyhow::Result<Tally> {
    let (mut journal, earlier) = Journal::open::<Tally>(&args.out, identity, args.overwrite)?;
    let mut tally = earlier.unwrap_or_default();
    let (quiet, all) = (args.common.quiet, counted(prompts.len(), "prompt is", "prompts are"));
    if tally.prompts > 0 && !quiet {
        tell!("continuing {}: {} of {all} answered", args.out.display(), grouped(tally.prompts as u64));
    }
    let progress = PromptProgress::new(quiet, prompts.len(), tally.prompts);
    let before = tally.tokens;
    let commands = making.judge.list.iter().any(|metric| matches!(metric.of, Of::Command));
    let at_once = (making.answering.side_by_side / args.samples).max(1);
    let at_once = if commands { at_once.max(PROMPTS_A_COMMAND) } else { at_once };
    interrupt::listen();
    let mut interrupted = interrupt::asked;
    while let Some(block) = prompts.get(tally.prompts..).filter(|left| !left.is_empty()) {
        let block = &block[..at_once.min(block.len())];
        let mut so_far = tally.clone();
        let lines = match making.rows_of(tally.prompts, block, &mut so_far, &mut interrupted) {
            Ok(lines) => lines,
            Err(Failure::Answers(error)) => return Err(base.unanswered(error)),
            Err(Failure::Judge(error)) => return Err(error),
        };
        let Some(lines) = lines else {
            progress.finish();
            if !quiet {
                let done = grouped(tally.prompts as u64);
                tell!("stopped: {done} of {all} answered; the same command goes on from there");
            }
            return Err(Stopped.into());
        };
        journal.add(&lines, &so_far)?;
        tally = so_far;
        progress.is_at(tally.prompts, tally.tokens - before);
    }
    progress.finish();
    journal.finish()?;
    Limits::of(base).tell_ends(tally.ended_by_context);
    if tally.cut > 0 && !quiet {
        tell!(
            "{} cut at --max-new-tokens {}: a model that is trained on a cut answer learns to stop there",
            counted(tally.cut, "answer was", "answers were"),
            args.sampling.max_new_tokens
        );
    }
    Ok(tally)
}

/// The error of a file without rows.
fn nothing_written(args: &PairsArgs, tally: &Tally) -> CliError {
    let why = match &tally.reason {
        Some(reason) if tally.scored == 0 => format!("no answer could be judged: {reason}"),
        _ => "no prompt has two answers of which one is better".to_owned(),
    };
    CliError::new(format!("{} has no rows: {why}", args.out.display())).hint(
        "raise --samples or --temperature, or judge by something of which some answers have more than others",
    )
}

/// The reasons for which prompts and answers were left out, and how many for each.
fn left_out(tally: &Tally) -> [(&'static str, usize, String); 5] {
    let prompts = |n| counted(n, "prompt", "prompts");
    let answers = |n| counted(n, "answer", "answers");
    let reason = tally.reason.as_deref().unwrap_or_default();
    [
        ("prompts_alike", tally.alike, format!("{} whose answers all score alike", prompts(tally.alike))),
        (
            "prompts_with_too_few",
            tally.too_few,
            format!("{} with fewer than two different answers", prompts(tally.too_few)),
        ),
        (
            "answers_repeated",
            tally.repeated,
            format!("{} that repeat another to the same prompt", answers(tally.repeated)),
        ),
        ("answers_blank", tally.blank, format!("{} without a word", answers(tally.blank))),
        (
            "answers_unjudged",
            tally.unjudged,
            format!("{} that could not be judged: {reason}", answers(tally.unjudged)),
        ),
    ]
}

fn in_json(args: &PairsArgs, tally: &Tally, plan: &MemoryPlan, started: Instant) -> Value {
    let out: Map<String, Value> =
        left_out(tally).into_iter().map(|(name, count, _)| (name.to_owned(), json!(count))).collect();
    let mut result = json!({
        "out": args.out,
        "prompts": tally.prompts,
        "answers": tally.answers,
        "tokens": tally.tokens,
        "mean_score": tally.mean_score(),
        "left_out": out,
        "cut": tally.cut,
        "seconds": started.elapsed().as_secs_f64(),
        "planned_bytes": plan.total(),
        "peak_rss_bytes": peak_rss_bytes(),
    });
    match args.format {
        Format::Pairs => result["pairs"] = json!(tally.rows),
        Format::Labels => {
            result["labels"] = json!({ "good": tally.desirable, "bad": tally.rows - tally.desirable });
        }
    }
    result
}

fn tell(args: &PairsArgs, tally: &Tally, started: Instant) -> anyhow::Result<()> {
    let out = args.out.display().to_string();
    let score = tally.mean_score().map_or("-".to_owned(), |score| format!("{score:.3}"));
    output::line(format!("prompts      {}", grouped(tally.prompts as u64)))?;
    output::line(format!("answers      {}, mean score {score}", grouped(tally.answers as u64)))?;
    match args.format {
        Format::Pairs => output::line(format!("pairs        {} in {out}", grouped(tally.rows as u64)))?,
        Format::Labels => output::line(format!(
            "labels       {} good and {} bad in {out}",
            grouped(tally.desirable as u64),
            grouped((tally.rows - tally.desirable) as u64)
        ))?,
    }
    for (_, _, words) in left_out(tally).into_iter().filter(|(_, count, _)| *count > 0) {
        output::line(format!("left out     {words}"))?;
    }
    if tally.rows > 0 && !args.common.quiet {
        tell!("finished in {}", duration(started.elapsed().as_secs_f64()));
        let adapter = match &args.adapter[..] {
            [one] => format!(" --adapter {}", shell_word(one)),
            _ => String::new(),
        };
        let objective = if args.format == Format::Labels { "kto" } else { "dpo" };
        tell!(
            "next: lorafit train --model {}{adapter} --data {} --objective {objective} --out runs/{objective}",
            shell_word(&args.model),
            shell_word(&out)
        );
    }
    Ok(())
}
