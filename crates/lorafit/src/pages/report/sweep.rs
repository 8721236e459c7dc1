//! A sweep: its leader board, how options and metric go together, and slices of the metric.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use lorafit_remedy::amounts::{counted, duration, memory};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::overview::{add_origin, held_out, option};
use super::training::NamedRun;
use super::{Report, slug};
use crate::metrics::Direction;
use crate::pages::figure::{
    Axis, Figure, Lines, Parallel, ParallelAxis, Plot, Series, Style, measured, short,
};
use crate::pages::shell::{Cards, Facts, escape, number, sentence, table};
use crate::sweep::folder::{TrialState, order};
use crate::sweep::settings::{Ranking, SEED, Seen, Setting, mean_in_words};

/// The records of a sweep.
pub const TRIALS: &str = "trials.jsonl";
const SWEEP: &str = "sweep.json";
/// Values span this ratio before their axis is logarithmic.
const LOG_RATIO: f64 = 8.0;
/// An option that has more values is not taken for one of a grid.
const GRID: usize = 6;

/// What is told of a trial.
#[derive(Clone, Debug, Deserialize)]
struct Trial {
    trial: usize,
    name: String,
    state: TrialState,
    #[serde(default)]
    options: Map<String, Value>,
    metric: Option<f64>,
    step: Option<u64>,
    seconds: Option<f64>,
    tokens_per_s: Option<f64>,
    peak_rss_bytes: Option<f64>,
    base_loss: Option<f64>,
}

/// A sweep, read from its folder.
#[derive(Debug)]
pub struct Sweep {
    metric: String,
    maximise: bool,
    /// The best first, those without a metric last.
    trials: Vec<Trial>,
    unreadable_lines: usize,
    /// The settings of a sweep with `seeds`.
    ranking: Option<Ranking>,
    /// `sweep.json`.
    about: Value,
}

impl Sweep {
    /// Reads the sweep in `dir`. Of a trial that has several lines the last counts.
    ///
    /// # Errors
    /// Records that cannot be read.
    pub fn read(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(TRIALS);
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut trials: BTreeMap<usize, Trial> = BTreeMap::new();
        let mut unreadable_lines = 0;
        for line in text.split_inclusive('\n') {
            match serde_json::from_str::<Trial>(line) {
                Ok(trial) => drop(trials.insert(trial.trial, trial)),
                // What a process is still writing has no end yet.
                Err(_) if line.ends_with('\n') => unreadable_lines += 1,
                Err(_) => {}
            }
        }
        let about: Value = std::fs::read_to_string(dir.join(SWEEP))
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        let maximise = about["direction"].as_str() == Some("maximize");
        let mut trials: Vec<Trial> = trials.into_values().collect();
        let direction = if maximise { Direction::Maximize } else { Direction::Minimize };
        let key =
            |trial: &Trial| (trial.state, trial.metric.filter(|metric| metric.is_finite()), trial.trial);
        trials.sort_by(|a, b| order(key(a), key(b), direction));
        let metric = about["metric"].as_str().unwrap_or("metric").to_owned();
        let ranking = (!about["seeds"].is_null()).then(|| {
            let seen =
                |trial: &'_ Trial| (trial.state == TrialState::Finished).then_some(trial.metric).flatten();
            let mut by_number: Vec<&Trial> = trials.iter().collect();
            by_number.sort_by_key(|trial| trial.trial);
            let trial = |t: &'_ Trial| (seen(t), t.name.clone(), t.options.clone());
            let seen: Vec<_> = by_number.into_iter().map(trial).collect();
            let seen = seen.iter().map(|(metric, name, options)| Seen { name, options, metric: *metric });
            Ranking::of(seen, direction)
        });
        Ok(Sweep { metric, maximise, trials, unreadable_lines, ranking, about })
    }

    /// What the header says of the sweep in `dir`: what its trials share, and how the best of them was begun.
    pub fn facts(&self, dir: &Path) -> Facts {
        let mut facts = Facts::default();
        let shared = &self.about["train"];
        facts.add("model", shared["model"].as_str());
        // One source is written as text, several as a list.
        let files = match &shared["data"] {
            Value::Array(files) => files.iter().map(in_words).collect::<Vec<_>>().join(", "),
            Value::String(file) => file.clone(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => String::new(),
        };
        facts.add("data", Some(files).filter(|files| !files.is_empty()));
        let best = self.trials.first().map(|best| dir.join("trials").join(&best.name));
        if let Some(run) = best.and_then(|best| NamedRun::read(String::new(), &best).ok()) {
            facts.add("held out", run.args.as_ref().and_then(held_out));
            facts.add("base loss", self.base_loss());
            add_origin(&mut facts, &run.history);
        }
        facts
    }

    /// The loss of held-out rows without an adapter; of several sets of rows the mean, and how many there are.
    fn base_loss(&self) -> Option<String> {
        let mut losses: Vec<f64> = self.trials.iter().filter_map(|trial| trial.base_loss).collect();
        losses.sort_by(f64::total_cmp);
        losses.dedup();
        match &losses[..] {
            [] => None,
            [loss] => Some(format!("{loss:.4}")),
            several => {
                let mean = several.iter().sum::<f64>() / several.len() as f64;
                Some(format!("{mean:.4}, the mean over {} sets of held-out rows", several.len()))
            }
        }
    }

    /// The best of the trials that were trained to their end.
    fn best(&self) -> Option<&Trial> {
        self.trials.first().filter(|trial| trial.state == TrialState::Finished)
    }

    /// Adds the sweep to a report.
    pub fn add(&self, report: &mut Report) {
        report.section("Trials");
        let mut cards = Cards::default();
        let finished = self.trials.iter().filter(|trial| trial.state == TrialState::Finished).count();
        cards.add("trials", &number(self.trials.len()), &format!("{finished} finished"));
        if let Some(ranking) = &self.ranking {
            let whole = ranking.ranked.iter().filter(|setting| setting.is_finished()).count();
            let note = format!("{whole} with all their seeds");
            cards.add("settings", &number(ranking.ranked.len()), &note);
            if let Some((best, metric)) = ranking.ranked.first().and_then(|best| Some((best, best.metric?))) {
                let which = if self.maximise { "the highest mean" } else { "the lowest mean" };
                cards.add(&self.metric, &mean_in_words(metric, best.standard_error), which);
            }
        } else if let Some((best, metric)) = self.best().and_then(|best| Some((best, best.metric?))) {
            let which = if self.maximise { "the highest" } else { "the lowest" };
            cards.add(&self.metric, &format!("{metric:.4}"), &format!("{which}, of trial {}", best.name));
        }
        report.html(&cards.html());
        if self.unreadable_lines > 0 {
            report.note(&format!(
                "{} of {TRIALS} cannot be read and left out.",
                counted(self.unreadable_lines, "line", "lines")
            ));
        }
        let varied = self.varied();
        if let Some(ranking) = &self.ranking {
            if let Some(verdict) = ranking.verdict() {
                report.html(&format!("<p class=\"verdict\">{}</p>\n", escape(&sentence(&verdict))));
            }
            report.html(&self.board_of_settings(ranking, &varied));
        }
        report.html(&self.board(&varied));
        // With seeds, what is compared are settings.
        let varied: Vec<String> = match self.ranking {
            Some(_) => varied.into_iter().filter(|name| name != SEED).collect(),
            None => varied,
        };
        if self.trials.iter().filter(|trial| trial.metric.is_some()).count() > 1 && !varied.is_empty() {
            report.section("Options and metric");
            let slices = varied.iter().filter_map(|option| self.slice(option));
            report.figures(std::iter::once(self.parallel(&varied)).chain(slices).collect());
        }
    }

    /// The options that differ between trials, in the order that leader boards have.
    fn varied(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for name in self.trials.iter().flat_map(|trial| trial.options.keys()) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names.retain(|name| {
            self.trials.iter().any(|t| t.options.get(name) != self.trials[0].options.get(name))
        });
        names
    }

    /// What the figures have a line or a dot for: options, the metric, and a name.
    fn compared(&self) -> Vec<(&Map<String, Value>, Option<f64>, String)> {
        match &self.ranking {
            Some(ranking) => ranking
                .ranked
                .iter()
                .map(|one| (&one.options, one.metric, in_words_of(&one.options)))
                .collect(),
            None => {
                self.trials.iter().map(|trial| (&trial.options, trial.metric, trial.name.clone())).collect()
            }
        }
    }

    fn metric_axis(&self) -> Axis {
        Axis::linear(&self.metric, &as_column(&self.metric))
    }

    fn parallel(&self, varied: &[String]) -> Figure {
        let compared = self.compared();
        let among: Vec<&Map<String, Value>> = compared.iter().map(|(options, ..)| *options).collect();
        let mut axes: Vec<ParallelAxis> = Vec::new();
        let mut lines: Vec<(String, Vec<Option<f64>>)> =
            compared.iter().map(|(.., name)| (name.clone(), Vec::new())).collect();
        for option in varied {
            let (values, names) = values(option, &among);
            axes.push(ParallelAxis { axis: axis(option, &values), names });
            lines.iter_mut().zip(values).for_each(|(line, value)| line.1.push(value));
        }
        axes.push(ParallelAxis { axis: self.metric_axis(), names: Vec::new() });
        lines.iter_mut().zip(&compared).for_each(|(line, (_, metric, _))| line.1.push(*metric));
        let has_best = compared.first().is_some_and(|(_, metric, _)| metric.is_some());
        let is_named = self.ranking.as_ref().is_none_or(|ranking| ranking.winner().is_some());
        let (title, description) = match &self.ranking {
            None => ("Every trial", "One line per trial; the thick orange one is the best."),
            Some(_) if is_named => (
                "Every setting",
                "One line per setting, at its mean over seeds; the thick orange one is the best.",
            ),
            Some(_) => {
                ("Every setting", "One line per setting, at its mean over seeds; none is clearly the best.")
            }
        };
        // In both colour schemes the scale goes from dark to light.
        let shade = format!(" The lighter a line, the higher its {}.", self.metric);
        let has_grey = compared.iter().any(|(_, metric, _)| metric.is_none());
        let grey = if has_grey { " A grey one has none." } else { "" };
        let description = format!("{description}{shade}{grey}");
        let plot = Plot::Parallel(Parallel { axes, lines, best: (has_best && is_named).then_some(0) });
        Figure { name: "trials".to_owned(), title: title.to_owned(), description, plot }
    }

    /// The metric over one option, if that is a number.
    fn slice(&self, option: &str) -> Option<Figure> {
        let among: Vec<&Map<String, Value>> = self.trials.iter().map(|trial| &trial.options).collect();
        let (values, names) = values(option, &among);
        if !names.is_empty() {
            return None;
        }
        let axis = axis(option, &values);
        let points = |finished: bool| {
            let shown = self
                .trials
                .iter()
                .zip(&values)
                .filter(|(trial, _)| (trial.state == TrialState::Finished) == finished);
            let mut points: Vec<(f64, f64)> =
                shown.filter_map(|(t, value)| Some(((*value)?, t.metric?))).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            points
        };
        let of_trials = |number| {
            [("finished", number, points(true)), ("not finished", 4, points(false))]
                .map(|(name, i, points)| Series::new(name, i, Style::Points, points))
        };
        let (series, description) = match &self.ranking {
            None => (Vec::from(of_trials(0)), "One dot per trial, whatever its other options are."),
            Some(ranking) => {
                let [mean, whiskers] = self.means(ranking, option);
                let [finished, others] = of_trials(1);
                let finished = Series { name: "each seed".to_owned(), style: Style::Specks, ..finished };
                let description = "A dot with an interval for each setting, whatever its other options are: the mean over its seeds, plus and \
                     minus one standard error. Small dots are its trials.";
                (vec![finished, others, whiskers, mean], description)
            }
        };
        let series = series.into_iter().filter(|series| !series.points.is_empty()).collect();
        let plot = Plot::Lines(Lines::new(axis, self.metric_axis(), series));
        let title = format!("{} over {option}", self.metric);
        let name = format!("slice-{}", slug(option));
        Some(Figure { name, title, description: description.to_owned(), plot })
    }

    /// The means of settings over an option, and the ends of their standard errors.
    fn means(&self, ranking: &Ranking, option: &str) -> [Series; 2] {
        let (mut means, mut ends) = (Vec::new(), Vec::new());
        for setting in &ranking.ranked {
            let (Some(at), Some(mean)) =
                (setting.options.get(option).and_then(Value::as_f64), setting.metric)
            else {
                continue;
            };
            means.push((at, mean));
            if let Some(error) = setting.standard_error {
                ends.extend([(at, mean - error), (at, mean + error)]);
            }
        }
        [
            Series::new("mean", 0, Style::Points, means),
            Series::new("standard error", 0, Style::Whiskers, ends),
        ]
    }

    fn board_of_settings(&self, ranking: &Ranking, varied: &[String]) -> String {
        let names: Vec<&str> = varied.iter().map(String::as_str).filter(|name| *name != SEED).collect();
        let mut columns = names.clone();
        columns.extend([self.metric.as_str(), "standard error", "seeds", "level with the best", "trials"]);
        let row = |setting: &Setting| {
            let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| measured(value, 4));
            let shown = |name: &&str| setting.options.get(*name).map_or("-".to_owned(), option);
            let mut row: Vec<String> = names.iter().map(shown).collect();
            row.extend([number(setting.metric), number(setting.standard_error), setting.seeds_in_words()]);
            let has_rivals = ranking.level().len() > 1;
            let level = if setting.is_level && has_rivals { "yes" } else { "-" };
            row.extend([level.to_owned(), setting.trials.join(", ")]);
            row
        };
        table("Settings, the best mean over their seeds first", &columns, ranking.ranked.iter().map(row))
    }

    fn board(&self, varied: &[String]) -> String {
        let mut columns = vec!["trial"];
        columns.extend(varied.iter().map(String::as_str));
        columns.extend([self.metric.as_str(), "steps", "time", "tokens/s", "peak memory", "state"]);
        let row = |trial: &Trial| {
            let tell =
                |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |v| measured(v, digits));
            let mut row = vec![trial.name.clone()];
            row.extend(varied.iter().map(|name| trial.options.get(name).map_or("-".to_owned(), option)));
            row.push(tell(trial.metric, 4));
            row.push(trial.step.map_or("-".to_owned(), |step| step.to_string()));
            row.push(trial.seconds.map_or("-".to_owned(), duration));
            row.push(tell(trial.tokens_per_s, 0));
            row.push(trial.peak_rss_bytes.map_or("-".to_owned(), |bytes| memory(bytes as u64)));
            row.push(trial.state.name().to_owned());
            row
        };
        table("Trials, the best first", &columns, self.trials.iter().map(row))
    }
}

/// The values of an option as numbers, and their names if they are none.
fn values(option: &str, among: &[&Map<String, Value>]) -> (Vec<Option<f64>>, Vec<String>) {
    let values: Vec<Option<&Value>> = among.iter().map(|options| options.get(option)).collect();
    if values.iter().flatten().all(|value| value.is_number()) {
        return (values.iter().map(|value| value.and_then(Value::as_f64)).collect(), Vec::new());
    }
    let mut names: Vec<String> = values.iter().flatten().map(|value| in_words(value)).collect();
    names.sort_unstable();
    names.dedup();
    let place = |value: &Value| Some(names.iter().position(|name| *name == in_words(value))? as f64);
    (values.iter().map(|value| value.and_then(place)).collect(), names)
}

fn in_words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), short),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// Options with their values.
fn in_words_of(options: &Map<String, Value>) -> String {
    let word = |(name, value): (&String, &Value)| format!("{name}={}", option(value));
    options.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// An axis for an option: logarithmic where its values span much.
fn axis(option: &str, values: &[Option<f64>]) -> Axis {
    let values = || values.iter().flatten().copied();
    let (low, high) = values().fold((f64::MAX, 0.0_f64), |(low, high), v| (low.min(v), high.max(v)));
    let log = low > 0.0 && (option == "lr" && high > low || high >= LOG_RATIO * low);
    // Values of a grid are marked themselves.
    let mut marks: Vec<f64> = values().collect();
    marks.sort_by(f64::total_cmp);
    marks.dedup();
    let plain = Axis::linear(option, &as_column(option));
    let whole = marks.iter().all(|value| value.fract() == 0.0) && !marks.is_empty();
    if marks.len() > GRID {
        marks.clear();
    }
    Axis { log, whole, marks, ..plain }
}

/// The name of an option as that of a column.
fn as_column(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_trial_counts_and_the_best_is_first() {
        let dir = tempfile::tempdir().unwrap();
        let trial = |trial: usize, state: &str, metric: &str, rank: u64| {
            format!(
                "{{\"trial\":{trial},\"name\":\"{trial:03}\",\"run\":\"trials/{trial:03}\",\"state\":\"{state}\",\
                 \"options\":{{\"rank\":{rank},\"lr\":1e-{},\"optimizer\":\"adamw\"}},\"metric\":{metric}}}\n",
                rank / 8 + 1
            )
        };
        let lines = [
            trial(0, "running", "9.0", 8),
            trial(1, "finished", "2.0", 16),
            "no trial\n".to_owned(),
            trial(0, "finished", "1.5", 8),
            trial(2, "failed", "null", 32),
            "{\"trial\":3".to_owned(),
        ];
        std::fs::write(dir.path().join(TRIALS), lines.concat()).unwrap();
        std::fs::write(dir.path().join(SWEEP), r#"{"metric":"eval_loss","direction":"minimize"}"#).unwrap();
        let sweep = Sweep::read(dir.path()).unwrap();
        assert_eq!(sweep.trials.iter().map(|trial| trial.trial).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!((sweep.trials[0].metric, sweep.unreadable_lines), (Some(1.5), 1));
        assert_eq!(sweep.varied(), ["rank", "lr"]);
        let mut report = Report::default();
        sweep.add(&mut report);
        let page = report.page("sweep", &Facts::default());
        assert!(
            page.contains("The lighter a line, the higher its eval_loss. A grey one has none."),
            "{page}"
        );
        assert!(page.contains("eval_loss over rank") && page.contains("Options and metric"));
        assert!(report.figures.iter().map(|f| f.name.as_str()).eq(["trials", "slice-rank", "slice-lr"]));
    }
}
