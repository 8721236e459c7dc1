//! A model evaluated on judged rows: loss, accuracy, margins, rewards and log-probabilities, as training has them.

use lorafit_data::{Dataset, Judgement, Options, Side};
use lorafit_model::adapter::Adapter;
use lorafit_remedy::amounts::{counted, grouped};
use lorafit_train::preference::{JudgedEvaluation, JudgedModel, PreferenceOptions, Reply, Rewards, evaluate};
use lorafit_train::{CONFIDENCE, MicroBatchSize, RESAMPLES, ReferenceRequest, SEED, peak_rss_bytes};
use serde_json::{Map, Value, json};

use crate::args::evaluation::EvaluationArgs;
use crate::metrics::interval;
use crate::session::base::Base;
use crate::session::evaluation::WithoutAnswers;
use crate::session::limits::Limits;
use crate::session::preference::check_margins;
use crate::session::rows::{skipped, treated};
use crate::terminal::error::Stopped;
use crate::terminal::interrupt;

/// A model that is evaluated on judged rows.
pub struct JudgedRun<'a> {
    /// On which rows, in how much memory.
    pub args: &'a EvaluationArgs,
    /// The loss.
    pub options: PreferenceOptions,
    /// What both adapters lie over.
    pub base: &'a Base,
    /// The adapter of the model.
    pub adapter: Option<&'a Adapter>,
    /// That of the reference.
    pub reference: Option<&'a Adapter>,
    /// Whether nothing is printed but results and errors.
    pub quiet: bool,
}

/// What it came to.
pub struct Found {
    rows: Dataset,
    options: PreferenceOptions,
    evaluation: JudgedEvaluation,
    margins: Vec<f64>,
    planned_bytes: u64,
}

impl JudgedRun<'_> {
    /// Reads the rows and evaluates them.
    ///
    /// # Errors
    /// Rows that cannot be read or are not judged, and an evaluation that does not fit in memory.
    pub fn evaluate(&self) -> anyhow::Result<Found> {
        let JudgedRun { args, options, base, adapter, reference, quiet } = *self;
        let rows = self.read()?;
        let budget = args.micro_batch_tokens;
        let tokens = MicroBatchSize::of_judged(&rows.samples, budget, options.has_prompt_targets()).tokens;
        let asked = reference.filter(|_| options.has_reference()).map(|adapter| ReferenceRequest {
            lora: adapter.config(),
            in_every_step: options.asks_in_every_step(),
            size: None,
        });
        let planned = WithoutAnswers { what: "losses only", base, adapter, reference: asked, tokens };
        let plan = planned.fit(args.memory, quiet)?;
        let judged = JudgedModel { model: &base.model, adapter, reference };
        let evaluation = evaluate(judged, &rows.samples, &options, budget, &mut interrupt::asked);
        let evaluation = evaluation.ok_or(Stopped)?;
        if !evaluation.loss.is_finite() {
            return Err(base.not_numbers());
        }
        let margins = evaluation.margins(&rows.samples.groups(), &options);
        Ok(Found { rows, options, evaluation, margins, planned_bytes: plan.total() })
    }

    fn read(&self) -> anyhow::Result<Dataset> {
        let JudgedRun { args, options, base, quiet, .. } = *self;
        let source = args.rows.source("split", &args.data, args.rows.split.as_deref(), quiet)?;
        let limits = Limits::new(base.model.config(), &base.tokenizer, quiet);
        let purpose = options.objective.purpose();
        let read = Options { purpose, ..limits.options(&args.rows) };
        let rows = args.cache.load(source, &base.tokenizer, read, quiet)?;
        if !quiet {
            skipped(&rows.origin).iter().chain(&treated(&rows)).for_each(|line| tell!("{line}"));
        }
        check_margins(Some(options.objective), &rows)?;
        limits.check_rows(&rows)?;
        Ok(rows)
    }
}

impl Found {
    /// The share of pairs whose chosen reply is preferred counts each as 1 or 0.
    fn preferred(&self) -> Vec<f64> {
        self.margins.iter().map(|margin| f64::from(*margin > 0.0)).collect()
    }

    fn rows(&self) -> usize {
        self.rows.samples.groups().len()
    }

    /// One object.
    pub fn to_json(&self) -> Value {
        let PreferenceOptions { objective, beta, .. } = self.options;
        let mut found = Map::from_iter([
            ("rows".to_owned(), json!(self.rows())),
            ("objective".to_owned(), json!(objective.name)),
            ("loss".to_owned(), json!(self.evaluation.loss)),
        ]);
        if !objective.is_scored() {
            found.insert("beta".to_owned(), json!(beta));
        }
        let metrics = self.evaluation.metrics.named();
        found.extend(metrics.into_iter().map(|(name, value)| (name.to_owned(), json!(value))));
        if !self.margins.is_empty() {
            for (name, values) in [("accuracy", self.preferred()), ("margin", self.margins.clone())] {
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                let ends = interval(&values);
                let summary = json!({
                    "mean": mean,
                    "low": ends.map(|[low, _]| low),
                    "high": ends.map(|[_, high]| high),
                    "rows": values.len(),
                });
                found.insert(name.to_owned(), summary);
            }
            found.insert(
                "bootstrap".to_owned(),
                json!({ "confidence": CONFIDENCE, "resamples": RESAMPLES, "seed": SEED }),
            );
        }
        found.insert("planned_bytes".to_owned(), json!(self.planned_bytes));
        found.insert("peak_rss_bytes".to_owned(), json!(peak_rss_bytes()));
        Value::Object(found)
    }

    /// Names and values, a line each.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let metrics = &self.evaluation.metrics;
        let PreferenceOptions { objective, beta, .. } = self.options;
        let loss_in_words = match objective.is_scored() {
            true => objective.name.to_owned(),
            false => format!("{}, beta {beta}", objective.name),
        };
        let mut lines = vec![
            ("rows", grouped(self.rows() as u64)),
            ("loss", format!("{:.4} ({})", self.evaluation.loss, loss_in_words)),
        ];
        let with_interval = |values: &[f64], scale: f64, decimals: usize, unit: &str| {
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let ends = interval(values).map(|[low, high]| {
                format!(" (95 % interval {:.decimals$} to {:.decimals$}{unit})", scale * low, scale * high)
            });
            format!("{:.decimals$}{unit}{}", scale * mean, ends.unwrap_or_default())
        };
        if !self.margins.is_empty() {
            lines.push(("accuracy", with_interval(&self.preferred(), 100.0, 1, " %")));
            lines.push(("margin", with_interval(&self.margins, 1.0, 4, "")));
        }
        let sides = |chosen: Option<f64>, rejected: Option<f64>, decimals: usize| {
            let named = [("chosen", chosen), ("rejected", rejected)];
            let side = |(name, value): (&str, Option<f64>)| Some(format!("{name} {:.decimals$}", value?));
            named.into_iter().filter_map(side).collect::<Vec<_>>().join(", ")
        };
        lines.push(("rewards", sides(metrics.chosen_reward, metrics.rejected_reward, 4)));
        if let Some(Rewards { min, mean, max }) = metrics.rewards {
            lines.push(("all rewards", format!("{min:.4} to {max:.4}, mean {mean:.4}")));
        } else {
            lines.push(("log-probabilities", sides(metrics.chosen_logp, metrics.rejected_logp, 3)));
        }
        if let Some(distance) = metrics.distance {
            let replies = counted(self.rows(), "reply", "replies");
            lines.push(("distance", format!("{distance:.4} nats by reply, over {replies}")));
        }
        lines
    }

    /// A line of JSON for each row: its log-probabilities under the model and the reference, rewards and margin.
    pub fn predictions(&self) -> String {
        let samples = &self.rows.samples;
        let groups = samples.groups();
        let has_reference = self.options.has_reference();
        let is_scored = self.options.objective.is_scored();
        let reply = |reply: &Reply| match is_scored {
            true => json!({ "reward": self.options.reward(reply) }),
            false => json!({
                "log_probability": reply.policy,
                "reference_log_probability": has_reference.then_some(reply.reference),
                "tokens": reply.tokens,
                "reward": self.options.reward(reply),
            }),
        };
        let line = |row: usize| {
            let mut line = json!({ "row": samples.sample(groups.range(row).start).row });
            for i in groups.range(row) {
                let Some(Judgement { side, .. }) = samples.sample(i).judgement() else { continue };
                let name = match side {
                    Side::Chosen => "chosen",
                    Side::Rejected => "rejected",
                    Side::Desirable => "good",
                    Side::Undesirable => "bad",
                };
                line[name] = reply(&self.evaluation.replies[i]);
            }
            if let Some(margin) = self.margins.get(row) {
                line["margin"] = json!(margin);
            }
            format!("{line}\n")
        };
        (0..groups.len()).map(line).collect()
    }
}
