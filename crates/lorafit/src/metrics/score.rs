//! Rows and what metrics make of them, together.

use lorafit_remedy::amounts::counted;
use lorafit_train::{bootstrap_interval, wilson_interval};
use serde_json::{Map, Value, json};

use super::{Criteria, Metric, Of, Score};

/// What is measured, and how.
#[derive(Default)]
pub struct Metrics {
    /// Each once.
    pub list: Vec<&'static Metric>,
    /// What they are told beside the row.
    pub criteria: Criteria,
}

/// A row with what a model made of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// Its number in the data.
    pub row: usize,
    /// The prompt as the model saw it.
    pub prompt: String,
    /// The reply that the row has.
    pub expected: String,
    /// What the model answered; where nothing was generated, the option that it finds the likeliest.
    pub answer: String,
    /// Its options, if the row is a multiple choice.
    pub options: Option<Options>,
}

/// The options of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The options.
    pub texts: Vec<String>,
    /// The log-probability of each behind the prompt, in nats.
    pub log_probabilities: Vec<f64>,
    /// Which of them is the reply.
    pub right: usize,
}

/// Rows with their scores.
pub struct Scored {
    /// The rows.
    pub rows: Vec<Answered>,
    /// By metric, then by row.
    pub scores: Vec<Vec<Score>>,
    /// Of each metric.
    pub summaries: Vec<Summary>,
    /// Why the judge's scores are missing.
    pub failure: Option<anyhow::Error>,
}

/// A metric over all rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// The metric.
    pub metric: &'static Metric,
    /// Mean over the rows that could be judged; `None` if there are none.
    pub mean: Option<f64>,
    /// The 95 % interval of the mean.
    pub interval: Option<Interval>,
    /// Rows that could be judged.
    pub rows: usize,
    /// Rows that could not.
    pub unjudged: usize,
    /// Why the first of those could not.
    pub reason: Option<String>,
}

/// The lower and the upper end.
pub type Interval = [f64; 2];

impl Metrics {
    /// Whether rows have to be answered.
    pub fn needs_answers(&self) -> bool {
        self.list.iter().any(|metric| metric.needs_answers())
    }

    /// Whether the options of rows have to be scored.
    pub fn needs_options(&self) -> bool {
        self.list.iter().any(|metric| matches!(metric.of, Of::Options(_)))
    }

    /// Scores rows. `None` if it is `interrupted`, which is asked while a command judges.
    pub fn score(&self, mut rows: Vec<Answered>, interrupted: &mut dyn FnMut() -> bool) -> Option<Scored> {
        let mut failure = None;
        if !self.needs_answers() {
            rows.iter_mut().for_each(|row| self.choose(row));
        }
        let mut scores = Vec::with_capacity(self.list.len());
        for metric in &self.list {
            scores.push(match metric.of {
                Of::Loss => vec![Err("a loss is of tokens, not of answers".to_owned()); rows.len()],
                Of::Answer(score) => {
                    rows.iter().map(|row| score(&self.criteria, &row.expected, &row.answer)).collect()
                }
                Of::Options(choose) => {
                    let score = |options: &Options| f64::from(choose(options) == options.right);
                    let of_row = |row: &Answered| row.options.as_ref().map(score).ok_or("it has no options");
                    rows.iter().map(|row| of_row(row).map_err(str::to_owned)).collect()
                }
                Of::Command => {
                    let judge = self.criteria.judge.as_ref().expect("checked where the flags are");
                    match judge.scores(&rows, interrupted) {
                        Ok(scores) => scores?,
                        Err(error) => {
                            failure = Some(error.into());
                            vec![Err("the judge failed".to_owned()); rows.len()]
                        }
                    }
                }
            });
        }
        let each = self.list.iter().zip(&scores);
        let summaries = each.map(|(metric, scores)| Summary::of(metric, scores)).collect();
        Some(Scored { rows, scores, summaries, failure })
    }

    /// Takes an option for the answer of a row that was not answered.
    fn choose(&self, row: &mut Answered) {
        let choose = self.list.iter().find_map(|metric| match metric.of {
            Of::Options(choose) => Some(choose),
            Of::Loss | Of::Answer(_) | Of::Command => None,
        });
        if let (Some(choose), Some(options)) = (choose, &row.options) {
            row.answer = options.texts[choose(options)].clone();
        }
    }
}

impl Scored {
    /// The metrics, in order.
    pub fn metrics(&self) -> impl Iterator<Item = &'static Metric> {
        self.summaries.iter().map(|summary| summary.metric)
    }

    /// A line of JSON for each row, with every score; one that is null has its reason under `unjudged`.
    pub fn lines(&self) -> String {
        let line = |(i, row): (usize, &Answered)| {
            let mut scores = Map::new();
            let mut unjudged = Map::new();
            for (metric, of_metric) in self.metrics().zip(&self.scores) {
                let score = match &of_metric[i] {
                    Ok(score) => json!(score),
                    Err(reason) => {
                        unjudged.insert(metric.name.to_owned(), json!(reason));
                        Value::Null
                    }
                };
                scores.insert(metric.name.to_owned(), score);
            }
            let Answered { row, prompt, expected, answer, options } = row;
            let mut line = json!({ "row": row, "prompt": prompt, "expected": expected, "answer": answer, "scores": scores });
            if !unjudged.is_empty() {
                line["unjudged"] = Value::Object(unjudged);
            }
            if let Some(Options { texts, log_probabilities, .. }) = options {
                let each = texts.iter().zip(log_probabilities);
                let option =
                    |(text, value): (&String, &f64)| json!({ "text": text, "log_probability": value });
                line["options"] = each.map(option).collect();
            }
            format!("{line}\n")
        };
        self.rows.iter().enumerate().map(line).collect()
    }
}

impl Summary {
    fn of(metric: &'static Metric, scores: &[Score]) -> Self {
        let judged: Vec<f64> = scores.iter().flatten().copied().collect();
        let rows = judged.len();
        Summary {
            metric,
            mean: (rows > 0).then(|| judged.iter().sum::<f64>() / rows as f64),
            interval: interval(&judged),
            rows,
            unjudged: scores.len() - rows,
            reason: scores.iter().find_map(|score| score.as_ref().err().cloned()),
        }
    }

    /// As files have it.
    pub fn to_json(&self) -> Value {
        let [low, high] = self.interval.map_or([None; 2], |ends| ends.map(Some));
        json!({ "mean": self.mean, "low": low, "high": high, "rows": self.rows, "unjudged": self.unjudged })
    }

    /// As a table has it: `93.8 % [87.5, 98.4]`.
    pub fn in_short(&self) -> Option<String> {
        let (mean, [low, high]) = (self.mean_in_short()?, self.interval?);
        Some(format!("{mean} [{:.1}, {:.1}]", 100.0 * low, 100.0 * high))
    }

    /// Its mean without the interval: `93.8 %`.
    pub fn mean_in_short(&self) -> Option<String> {
        Some(format!("{:.1} %", 100.0 * self.mean?))
    }

    /// As people read it: `93.8 % (95 % interval 87.5 to 98.4 %)`; a dash if no row could be judged.
    pub fn in_words(&self) -> String {
        let percent = |share: f64| format!("{:.1}", 100.0 * share);
        let mut words = match (self.mean, self.interval) {
            (Some(mean), Some([low, high])) => {
                format!("{} % (95 % interval {} to {} %)", percent(mean), percent(low), percent(high))
            }
            _ => "-".to_owned(),
        };
        if let Some(reason) = &self.reason {
            let rows = counted(self.unjudged, "row", "rows");
            words += &format!(", without {rows} that cannot be judged: {reason}");
        }
        words
    }
}

/// The 95 % interval of the mean of some scores: the bootstrap's or, where it would have no width although the rows leave some
/// doubt, since all scores are 0 or all are 1, Wilson's of a share.
pub fn interval(scores: &[f64]) -> Option<Interval> {
    let all = |bound: f64| scores.iter().all(|score| *score == bound);
    match scores.first() {
        Some(first) if all(0.0) || all(1.0) => Some(wilson_interval(*first, scores.len())),
        _ => bootstrap_interval(scores),
    }
}

#[cfg(test)]
mod tests {
    use super::super::ALL;
    use super::*;

    fn row(expected: &str, answer: &str) -> Answered {
        let [prompt, expected, answer] = ["?", expected, answer].map(str::to_owned);
        Answered { row: 1, prompt, expected, answer, options: None }
    }

    #[test]
    fn rows_that_cannot_be_judged_are_counted_and_are_in_no_mean() {
        let list = ["json_equal", "exact_match"].map(|name| Metric::named(name).unwrap()).to_vec();
        let metrics = Metrics { list, criteria: Criteria::default() };
        let rows = vec![row("{}", "{ }"), row("no", "no"), row("[1]", "[2]")];
        let scored = metrics.score(rows, &mut || false).unwrap();
        let [json, exact] = &scored.summaries[..] else { panic!("two metrics") };
        assert_eq!((json.mean, json.rows, json.unjudged), (Some(0.5), 2, 1));
        assert_eq!((exact.mean, exact.rows, exact.unjudged), (Some(1.0 / 3.0), 3, 0));
        assert!(json.in_words().ends_with("without 1 row that cannot be judged: the reply is not JSON"));
        let second: Value = serde_json::from_str(scored.lines().lines().nth(1).unwrap()).unwrap();
        assert_eq!(second["scores"], json!({ "json_equal": null, "exact_match": 1.0 }));
        assert_eq!(second["unjudged"], json!({ "json_equal": "the reply is not JSON" }));
    }

    #[test]
    fn all_rows_right_and_none_right_leave_some_doubt() {
        assert_eq!(interval(&[1.0; 30]), Some(wilson_interval(1.0, 30)));
        assert_eq!(interval(&[0.0; 30]), Some(wilson_interval(0.0, 30)));
        assert_eq!(interval(&[1.0, 0.0, 1.0]), bootstrap_interval(&[1.0, 0.0, 1.0]));
        // A score between them is no share of rows.
        assert_eq!(interval(&[0.5; 30]), Some([0.5, 0.5]));
        assert_eq!(interval(&[]), None);
        let metric = Metric::named("exact_match").unwrap();
        let summary = Summary::of(metric, &vec![Ok(1.0); 30]);
        assert_eq!(summary.in_words(), "100.0 % (95 % interval 88.6 to 100.0 %)");
    }

    #[test]
    fn no_answer_makes_a_row_unjudged() {
        let criteria = Criteria { pattern: Some(::regex::Regex::new("x").unwrap()), ..Criteria::default() };
        let criteria =
            Criteria { schema: Some(super::super::Schema::new("s.json", json!({})).unwrap()), ..criteria };
        for metric in ALL {
            let Of::Answer(score) = metric.of else { continue };
            for answer in
                ["", "no", "ا", "\u{0}", "[1", "#### ", "1e999999999", "\u{1f600}", &"[".repeat(5000)]
            {
                let found = score(&criteria, "{\"a\": 1}", answer);
                assert!(
                    found.as_ref().is_ok_and(|score| (0.0..=1.0).contains(score)),
                    "{metric:?} {found:?}"
                );
            }
        }
    }
}
