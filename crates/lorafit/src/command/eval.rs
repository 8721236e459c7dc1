//! `lorafit eval`: how good a model, or a model with an adapter, is on rows it was not trained on.

use std::path::{Path, PathBuf};

use clap::Args;
use lorafit_model::Model;
use lorafit_model::adapter::Adapter;
use lorafit_remedy::amounts::{counted, grouped, perplexity};

use lorafit_train::preference::{Objective, PreferenceOptions};
use lorafit_train::{
    CONFIDENCE, RESAMPLES, SEED, TokenScores, peak_device_bytes, peak_rss_bytes, token_scores,
};
use serde_json::{Map, Value, json};

use crate::args::adapters::{AdapterArg, FactorArgs};
use crate::args::base::{ComputeArgs, QuantArgs, TemplateArgs};
use crate::args::classes::ClassArgs;
use crate::args::common::Common;
use crate::args::config_file::Given;
use crate::args::evaluation::EvaluationArgs;
use crate::args::idle;
use crate::args::judged::JudgedArgs;
use crate::args::outputs::{self, Inputs, Kind, Output};
use crate::args::preference::CLASSIFY;
use crate::args::rows::data_help;
use crate::metrics::Summary;
use crate::session::base::{Base, as_trained, open_adapter, open_adapters, open_base, use_threads};
use crate::session::classified::ClassRun;
use crate::session::evaluation::{Judging, Measured, Rows};
use crate::session::judged::JudgedRun;
use crate::session::scoring::{REWARD, Scoring};
use crate::session::tokens::Tokens;
use crate::terminal::error::CliError;
use crate::terminal::output;

const EXAMPLES: &str = "\
Examples:
  Was training worth it? The same rows with and without the adapter:
    lorafit eval --model M --data test.jsonl --generate
    lorafit eval --model M --adapter runs/first --data test.jsonl --generate
  By several metrics, with every answer and score kept:
    lorafit eval --model M --data test.jsonl --metric exact_match --metric rouge_l --predictions answers.jsonl
  Are the answers JSON of the right form, and right?
    lorafit eval --model M --data test.jsonl --schema commands.schema.json --metric json_schema --metric json_equal
  Multiple choice, where each row lists its options in a column:
    lorafit eval --model M --data questions.jsonl --choices options
  Which of two replies does the model prefer? The loss, accuracy and margins of a DPO run, on other rows:
    lorafit eval --model M --adapter runs/dpo --data pairs.jsonl --objective dpo --reference base
  A classifier, whose head says the label of a text, and what it says of each:
    lorafit eval --model M --adapter runs/topics --data test.jsonl --predictions labels.jsonl
  Judged by a program of yours:
    lorafit eval --model M --data test.jsonl --judge 'python3 judge.py'

loss is the mean negative log likelihood of a supervised token, in nats; perplexity is its exponential: 1 is
certainty, the number of words in the vocabulary a blind guess. Answers are greedy. A metric is the mean over rows, with its
95 % interval. docs/metrics.md says what each metric does and when to use it.";

/// The flags of `eval`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = format!("{EXAMPLES}\n\n{}", data_help()))]
pub struct EvalArgs {
    /// The base model: a Hugging Face folder, a .gguf file, or a hub id (org/name or org/name@revision)
    #[arg(long, value_name = "M", help_heading = "Input and output")]
    pub model: String,
    /// Adapter to evaluate (a PEFT folder, or a run folder of train), optionally with a weight: A:0.7; repeat the
    /// flag to add up several adapters [default: the base alone]
    #[arg(long, value_name = "DIR[:WEIGHT]", help_heading = "Input and output")]
    pub adapter: Vec<String>,
    /// Print the result as one JSON object
    #[arg(long, help_heading = "Input and output")]
    pub json: bool,

    /// On which rows, and how.
    #[command(flatten)]
    pub evaluation: EvaluationArgs,
    /// By which loss judged rows are evaluated.
    #[command(flatten)]
    pub judged: JudgedArgs,
    /// Where labels stand, of rows that are classified.
    #[command(flatten)]
    pub classes: ClassArgs,
    /// Write one JSON object a row with input_ids, next_token_nll and last_logits_top8, to hold against another program
    #[arg(long, value_name = "FILE", help_heading = "Answers")]
    pub scores: Option<PathBuf>,

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
    /// The flags of every verb.
    #[command(flatten)]
    pub common: Common,
}

impl EvalArgs {
    fn check_outputs(&self, adapters: &[AdapterArg]) -> Result<(), CliError> {
        let EvaluationArgs { data, predictions, criteria, rows, cache, .. } = &self.evaluation;
        let inputs = Inputs::default()
            .model("--model", &self.model)
            .paths("--adapter", adapters.iter().map(|adapter| &adapter.dir))
            .paths("--reference", self.judged.adapter().map(Path::to_owned))
            .paths("--template", &self.template.template)
            .paths("--schema", &criteria.schema)
            .data("--data", data, rows.split.as_deref());
        // Whether the model writes answers or scores texts, its files say.
        let answers = Kind::Rows(&["row"]);
        let scores = Kind::Rows(&["input_ids", "next_token_nll"]);
        let asked = [
            Output::asked("--predictions", predictions.as_ref(), answers),
            Output::asked("--scores", self.scores.as_ref(), scores),
            cache.output(),
        ];
        outputs::check(&inputs, asked.into_iter().flatten())
    }
}

impl EvalArgs {
    /// Refuses flags that judged rows leave without effect.
    fn check_judged(&self, given: &Given) -> Result<(), CliError> {
        let flags = ["generate", "metric", "scores", "choices", "schema", "regex", "judge"];
        let hint = "leave it out, or leave --objective out";
        let is_plain = self.judged.objective.is_none();
        idle::refuse(given, idle::together(&flags, is_plain, "with --objective", hint))
    }

    /// Refuses what only a model that scores texts is evaluated by.
    fn check_plain(&self) -> Result<(), CliError> {
        let asked = self.judged.objective.as_deref();
        if let Some(objective) = asked.filter(|objective| [CLASSIFY, REWARD].contains(objective)) {
            let text = format!("--objective {objective}: the model has no head that scores texts");
            return Err(CliError::usage(text).hint(format!(
                "give the adapter of a run with --objective {objective}, or its merged model"
            )));
        }
        match &self.classes.label_column {
            None => Ok(()),
            Some(column) => Err(CliError::usage(format!(
                "--label-column {column} has no meaning: the model is no classifier"
            ))
            .hint("leave it out, or give the adapter of a classifier")),
        }
    }

    /// Evaluates a model that scores texts: on pairs by rewards, or on texts by labels.
    fn evaluate_scored(
        &self,
        scoring: &Scoring,
        preference: Option<PreferenceOptions>,
        given: &Given,
        base: &Base,
        adapter: Option<&Adapter>,
    ) -> anyhow::Result<()> {
        let flags = ["generate", "metric", "scores", "choices", "schema", "regex", "judge"];
        let hint = "leave it out: such a model writes no answers";
        idle::refuse(given, idle::together(&flags, false, "with a model that scores texts", hint))?;
        let objective = scoring.objective();
        if let Some(asked) = self.judged.objective.as_deref().filter(|asked| *asked != objective) {
            let text = format!("--objective {asked}: the head of the model is of --objective {objective}");
            return Err(CliError::usage(text).hint("leave --objective out").into());
        }
        match scoring {
            Scoring::Reward => {
                let reward = Objective::named(REWARD).expect("an objective");
                self.evaluate_judged(preference.unwrap_or(PreferenceOptions::of(reward)), base, adapter)
            }
            Scoring::Classes(labels) => {
                let (args, classes, quiet) = (&self.evaluation, &self.classes, self.common.quiet);
                let found = ClassRun { args, classes, labels, base, adapter, quiet }.evaluate()?;
                self.show(&found.predictions(), &found.to_json(), &found.lines())
            }
        }
    }

    /// Writes what is said of each row, and prints the rest.
    fn show(&self, predictions: &str, json: &Value, lines: &[(&str, String)]) -> anyhow::Result<()> {
        if let Some(path) = &self.evaluation.predictions {
            output::file(path, predictions.as_bytes())?;
        }
        match self.json {
            true => output::line(json.to_string())?,
            false => table(lines)?,
        }
        Ok(())
    }

    /// Evaluates judged rows.
    fn evaluate_judged(
        &self,
        options: PreferenceOptions,
        base: &Base,
        adapter: Option<&Adapter>,
    ) -> anyhow::Result<()> {
        let reference = self.judged.adapter().map(|dir| open_adapter(base, dir)).transpose()?;
        let (args, quiet) = (&self.evaluation, self.common.quiet);
        let run = JudgedRun { args, options, base, adapter, reference: reference.as_ref(), quiet };
        let found = run.evaluate()?;
        self.show(&found.predictions(), &found.to_json(), &found.lines())
    }
}

/// Judges a model on held-out rows.
pub fn run(args: EvalArgs, given: &Given) -> anyhow::Result<()> {
    let metrics = args.evaluation.check(given)?;
    let preference = args.judged.options(given)?;
    args.check_judged(given)?;
    args.base.resolve()?;
    args.common.validate()?;
    let adapters = AdapterArg::all(&args.adapter)?;
    args.check_outputs(&adapters)?;
    use_threads(&args.common)?;
    let template = as_trained(
        &args.template,
        &args.base,
        adapters.iter().map(|adapter| adapter.dir.as_path()),
        args.common.quiet,
    );
    let tokens = Tokens::of_adapters(adapters.iter().map(|adapter| adapter.dir.as_path()));
    let base = open_base(&args.model, &tokens, &args.base, &template, args.compute, &args.common)?;
    let adapter = open_adapters(&base, &adapters, args.factors)?;
    if let Some(scoring) = &base.scoring {
        return args.evaluate_scored(scoring, preference, given, &base, adapter.as_ref());
    }
    args.check_plain()?;
    if let Some(options) = preference {
        return args.evaluate_judged(options, &base, adapter.as_ref());
    }
    let judging = Judging { args: &args.evaluation, metrics: &metrics, quiet: args.common.quiet };
    let rows = judging.read(base.model.config(), &base.tokenizer)?;
    let mut measured = judging.measure(&base, adapter.as_ref(), &rows)?;
    if let (Some(path), Some(scored)) = (&args.evaluation.predictions, &measured.scored) {
        output::file(path, scored.lines().as_bytes())?;
    }
    if let Some(path) = &args.scores {
        let ids = rows.data.samples.iter().map(|sample| sample.ids);
        write_scores(path, &base.model, adapter.as_ref(), ids)?;
    }
    // The answers are kept by then.
    if let Some(failure) = measured.scored.as_mut().and_then(|scored| scored.failure.take()) {
        return Err(failure);
    }
    match args.json {
        true => output::line(in_json(&base, &rows, &measured).to_string())?,
        false => tell(&rows, &measured)?,
    }
    Ok(())
}

fn in_json(base: &Base, rows: &Rows, measured: &Measured) -> Value {
    let Measured { evaluation, scored, planned_bytes } = measured;
    let mut result = json!({
        "rows": rows.data.samples.len(),
        "supervised_tokens": evaluation.supervised_tokens,
        "loss": evaluation.loss,
        "perplexity": evaluation.perplexity,
        "planned_bytes": planned_bytes,
        "peak_rss_bytes": peak_rss_bytes(),
    });
    if let Some(bytes) = peak_device_bytes(base.model.device()) {
        result["peak_device_bytes"] = json!(bytes);
    }
    if let Some(scored) = scored {
        let of_metric = |summary: &Summary| (summary.metric.name.to_owned(), summary.to_json());
        result["metrics"] = Value::Object(scored.summaries.iter().map(of_metric).collect::<Map<_, _>>());
        result["bootstrap"] = json!({ "confidence": CONFIDENCE, "resamples": RESAMPLES, "seed": SEED });
    }
    result
}

fn tell(rows: &Rows, measured: &Measured) -> anyhow::Result<()> {
    let Measured { evaluation, scored, .. } = measured;
    let summaries = scored.as_ref().map_or(&[][..], |scored| &scored.summaries);
    let tokens = counted(evaluation.supervised_tokens as usize, "token", "tokens");
    let mut lines = vec![
        ("rows", grouped(rows.data.samples.len() as u64)),
        ("loss", format!("{:.4} over {tokens}", evaluation.loss)),
        ("perplexity", perplexity(evaluation.perplexity)),
    ];
    lines.extend(summaries.iter().map(|summary| (summary.metric.name, summary.in_words())));
    table(&lines)
}

/// Prints names and values.
fn table(lines: &[(&str, String)]) -> anyhow::Result<()> {
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max("perplexity".len()) + 3;
    lines.iter().try_for_each(|(name, value)| output::line(format!("{name:<width$}{value}")))?;
    Ok(())
}

/// Writes what the model says of every row's tokens.
fn write_scores<'a>(
    path: &Path,
    model: &Model,
    adapter: Option<&Adapter>,
    rows: impl Iterator<Item = &'a [u32]>,
) -> anyhow::Result<()> {
    const TOP: usize = 8;
    let mut text = String::new();
    for ids in rows {
        let TokenScores { next_token_nll, top_logits } = token_scores(model, adapter, ids, TOP);
        let (top, values): (Vec<u32>, Vec<f32>) = top_logits.into_iter().unzip();
        let row = json!({
            "input_ids": ids,
            "next_token_nll": next_token_nll,
            "last_logits_top8": {"ids": top, "values": values},
        });
        text += &format!("{row}\n");
    }
    output::file(path, text.as_bytes())
}
