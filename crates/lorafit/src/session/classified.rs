//! A classifier evaluated on rows with labels: loss, accuracy and F1, and the probability of every label of each row.

use lorafit_data::{Dataset, Source};
use lorafit_model::adapter::Adapter;
use lorafit_remedy::amounts::grouped;
use lorafit_train::{
    CONFIDENCE, ClassEvaluation, MicroBatchSize, RESAMPLES, SEED, evaluate_classes, likeliest,
    peak_rss_bytes, probabilities,
};
use serde_json::{Map, Value, json};

use crate::args::classes::ClassArgs;
use crate::args::evaluation::EvaluationArgs;
use crate::args::preference::CLASSIFY;
use crate::metrics::interval;
use crate::session::base::Base;
use crate::session::evaluation::WithoutAnswers;
use crate::session::limits::Limits;
use crate::session::rows::{skipped, treated};
use crate::terminal::error::Stopped;
use crate::terminal::interrupt;

/// A classifier that is evaluated.
pub struct ClassRun<'a> {
    /// On which rows, in how much memory.
    pub args: &'a EvaluationArgs,
    /// Where their labels stand.
    pub classes: &'a ClassArgs,
    /// The labels that it knows.
    pub labels: &'a [String],
    /// What its adapter lies over.
    pub base: &'a Base,
    /// Its adapter, if its head is not the base's own.
    pub adapter: Option<&'a Adapter>,
    /// Whether nothing is printed but results and errors.
    pub quiet: bool,
}

/// What it came to.
pub struct Found<'a> {
    rows: Dataset,
    labels: &'a [String],
    evaluation: ClassEvaluation,
    planned_bytes: u64,
}

impl<'a> ClassRun<'a> {
    /// Reads the rows and evaluates them.
    ///
    /// # Errors
    /// Rows that cannot be read or have other labels, and an evaluation that does not fit in memory.
    pub fn evaluate(&self) -> anyhow::Result<Found<'a>> {
        let ClassRun { args, labels, base, adapter, quiet, .. } = *self;
        let rows = self.read()?;
        let budget = args.micro_batch_tokens;
        let tokens = MicroBatchSize::of_evaluation(&rows.samples, budget).tokens;
        let planned = WithoutAnswers { what: "labels only", base, adapter, reference: None, tokens };
        let plan = planned.fit(args.memory, quiet)?;
        let found = evaluate_classes(&base.model, adapter, &rows.samples, budget, &mut interrupt::asked);
        let evaluation = found.ok_or(Stopped)?;
        match evaluation.loss.is_finite() {
            true => Ok(Found { rows, labels, evaluation, planned_bytes: plan.total() }),
            false => Err(base.not_numbers()),
        }
    }

    fn read(&self) -> anyhow::Result<Dataset> {
        let ClassRun { args, classes, labels, base, quiet, .. } = *self;
        let source = args.rows.source("split", &args.data, args.rows.split.as_deref(), quiet)?;
        let source = Source { classes: Some(classes.classes(labels)), ..source };
        let limits = Limits::new(base.model.config(), &base.tokenizer, quiet);
        let rows = args.cache.load(source, &base.tokenizer, limits.options(&args.rows), quiet)?;
        if !quiet {
            skipped(&rows.origin).iter().chain(&treated(&rows)).for_each(|line| tell!("{line}"));
        }
        limits.check_rows(&rows)?;
        Ok(rows)
    }
}

impl Found<'_> {
    /// The number of the label of each row, and of the one that it is given.
    fn answers(&self) -> impl Iterator<Item = (u32, u32)> {
        let expected = self.rows.samples.iter().map(|sample| sample.ids[sample.len() - 1]);
        expected.zip(self.evaluation.scores.iter().map(|scores| likeliest(scores)))
    }

    /// Each row counts as 1 or 0.
    fn right(&self) -> Vec<f64> {
        self.answers().map(|(expected, answer)| f64::from(expected == answer)).collect()
    }

    /// One object.
    pub fn to_json(&self) -> Value {
        let ends = interval(&self.right());
        json!({
            "rows": self.rows.samples.len(),
            "objective": CLASSIFY,
            "labels": self.labels,
            "loss": self.evaluation.loss,
            "accuracy": {
                "mean": self.evaluation.metrics.accuracy,
                "low": ends.map(|[low, _]| low),
                "high": ends.map(|[_, high]| high),
                "rows": self.rows.samples.len(),
            },
            "f1": self.evaluation.metrics.f1,
            "bootstrap": { "confidence": CONFIDENCE, "resamples": RESAMPLES, "seed": SEED },
            "planned_bytes": self.planned_bytes,
            "peak_rss_bytes": peak_rss_bytes(),
        })
    }

    /// Names and values, a line each.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let ClassEvaluation { loss, metrics, .. } = &self.evaluation;
        let ends = interval(&self.right())
            .map(|[low, high]| format!(" (95 % interval {:.1} to {:.1} %)", 100.0 * low, 100.0 * high));
        vec![
            ("rows", grouped(self.rows.samples.len() as u64)),
            ("labels", grouped(self.labels.len() as u64)),
            ("loss", format!("{loss:.4}")),
            ("accuracy", format!("{:.1} %{}", 100.0 * metrics.accuracy, ends.unwrap_or_default())),
            ("macro F1", format!("{:.4}", metrics.f1)),
        ]
    }

    /// A line of JSON for each row: its label, the one that it is given, and the probability of each.
    pub fn predictions(&self) -> String {
        let name = |label: u32| &self.labels[label as usize];
        let line = |(i, (expected, answer)): (usize, (u32, u32))| {
            let scores = &self.evaluation.scores[i];
            let mut line = of_text(self.labels, scores);
            line.insert("row".to_owned(), json!(self.rows.samples.sample(i).row));
            line.insert("expected".to_owned(), json!(name(expected)));
            line.insert("right".to_owned(), json!(expected == answer));
            format!("{}\n", Value::Object(line))
        };
        self.answers().enumerate().map(line).collect()
    }
}

/// What a head with these labels says of a text that it gives these scores.
pub fn of_text(labels: &[String], scores: &[f32]) -> Map<String, Value> {
    let (shares, answer) = (probabilities(scores), likeliest(scores) as usize);
    let all: Map<String, Value> =
        labels.iter().zip(&shares).map(|(label, share)| (label.clone(), json!(share))).collect();
    Map::from_iter([
        ("label".to_owned(), json!(labels[answer])),
        ("probability".to_owned(), json!(shares[answer])),
        ("probabilities".to_owned(), all.into()),
    ])
}
