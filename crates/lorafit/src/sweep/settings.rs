//! The settings of a sweep with `seeds`: trials that differ in nothing but their seed, together.

use std::collections::BTreeMap;
use std::path::Path;

use lorafit_train::sweep::{BySeed, Options, SeedMean, difference};
use serde::Serialize;
use serde_json::{Value, json};

use crate::metrics::Direction;
use crate::sweep::folder::{Row, TrialState, in_words, value_in_words};
use crate::terminal::output;

/// The option that trials of a setting differ in.
pub const SEED: &str = "seed";

/// What is known of a trial.
pub struct Seen<'a> {
    pub name: &'a str,
    pub options: &'a Options,
    /// The value of the metric, if the trial was trained to its end.
    pub metric: Option<f64>,
}

/// Trials that differ in nothing but their seed.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// Their options, without the seed.
    pub options: Options,
    /// Their names.
    pub trials: Vec<String>,
    /// The mean of the metric over those that were trained to their end.
    pub metric: Option<f64>,
    /// How far it may be off.
    pub standard_error: Option<f64>,
    /// How many were trained to their end.
    pub finished: usize,
    /// Whether it is the best or cannot be told from the best; never of a setting whose trials are not all finished.
    pub is_level: bool,
    #[serde(skip)]
    scores: BySeed,
}

/// The settings of a sweep, by what they came to.
#[derive(Debug)]
pub struct Ranking {
    /// The best mean first; behind them those that are not finished.
    pub ranked: Vec<Setting>,
}

/// `0.2856 ± 0.0012`; with more digits where the error has two of them further behind.
pub fn mean_in_words(metric: f64, standard_error: Option<f64>) -> String {
    const LEAST: usize = 4;
    const MOST: usize = 9;
    let Some(error) = standard_error else { return format!("{metric:.LEAST$}") };
    let wanted = if error > 0.0 { 1 - error.log10().floor() as i32 } else { 0 };
    let digits = usize::try_from(wanted).unwrap_or(0).clamp(LEAST, MOST);
    format!("{metric:.digits$} ± {error:.digits$}")
}

impl Setting {
    /// Whether all its trials were trained to their end.
    pub fn is_finished(&self) -> bool {
        self.finished == self.trials.len()
    }

    /// Its mean with its standard error.
    pub fn mean_in_words(&self) -> Option<String> {
        Some(mean_in_words(self.metric?, self.standard_error))
    }

    /// `3`, or `2 of 3` of one that is not finished.
    pub fn seeds_in_words(&self) -> String {
        match self.is_finished() {
            true => self.finished.to_string(),
            false => format!("{} of {}", self.finished, self.trials.len()),
        }
    }

    /// `rank=8 lr=0.001: 0.2856 ± 0.0012`.
    pub fn in_words(&self) -> String {
        format!("{}: {}", in_words(&self.options), self.mean_in_words().unwrap_or_else(|| "-".to_owned()))
    }
}

impl Ranking {
    /// Of all trials of a sweep.
    pub fn of<'a>(trials: impl Iterator<Item = Seen<'a>>, direction: Direction) -> Self {
        let mut ranked: Vec<Setting> = Vec::new();
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        for Seen { name, options, metric } in trials {
            let mut options = options.clone();
            let seed = options.remove(SEED).and_then(|seed| seed.as_u64());
            let place = *places.entry(json!(options).to_string()).or_insert_with(|| {
                let [metric, standard_error] = [None; 2];
                let (trials, scores) = (Vec::new(), BySeed::new());
                ranked.push(Setting {
                    options,
                    trials,
                    metric,
                    standard_error,
                    finished: 0,
                    is_level: false,
                    scores,
                });
                ranked.len() - 1
            });
            let setting = &mut ranked[place];
            setting.trials.push(name.to_owned());
            if let (Some(seed), Some(metric)) = (seed, metric.filter(|metric| metric.is_finite())) {
                setting.scores.insert(seed, metric);
            }
        }
        for setting in &mut ranked {
            let mean = SeedMean::of(setting.scores.values().copied());
            setting.finished = setting.scores.len();
            setting.metric = mean.map(|mean| mean.mean);
            setting.standard_error = mean.and_then(|mean| mean.standard_error);
        }
        let score = |setting: &Setting| setting.metric.map_or(f64::INFINITY, |mean| direction.score(mean));
        ranked.sort_by(|a, b| b.is_finished().cmp(&a.is_finished()).then(score(a).total_cmp(&score(b))));
        let mut ranking = Ranking { ranked };
        ranking.mark_level();
        ranking
    }

    /// Marks the best, and what cannot be told from it.
    fn mark_level(&mut self) {
        let Some(best) =
            self.ranked.first().filter(|best| best.is_finished()).map(|best| best.scores.clone())
        else {
            return;
        };
        for (place, setting) in self.ranked.iter_mut().enumerate() {
            let lead = difference(&best, &setting.scores);
            let is_apart = place > 0 && lead.is_some_and(|lead| lead.is_told_apart());
            setting.is_level = setting.is_finished() && !is_apart;
        }
    }

    /// Those that are level with the best, and the best before them.
    pub fn level(&self) -> Vec<&Setting> {
        self.ranked.iter().filter(|setting| setting.is_level).collect()
    }

    /// The best, if it leads each of the others by more than the standard error of the difference, and all are finished.
    pub fn winner(&self) -> Option<&Setting> {
        let is_over = self.ranked.iter().all(Setting::is_finished);
        match self.level()[..] {
            [best] if is_over => Some(best),
            _ => None,
        }
    }

    /// What is to be said of the best, in a line.
    pub fn verdict(&self) -> Option<String> {
        if self.ranked.iter().any(|setting| !setting.is_finished()) {
            return Some("no setting is named best before every setting has all its seeds".to_owned());
        }
        let level = self.level();
        let [best, others @ ..] = &level[..] else { return None };
        if !others.is_empty() {
            let each: Vec<String> = level.iter().map(|setting| setting.in_words()).collect();
            return Some(format!(
                "level, as their differences are within the standard error: {}; more seeds may tell them apart",
                each.join(", ")
            ));
        }
        let lead = self.ranked.get(1).and_then(|next| {
            let lead = difference(&best.scores, &next.scores)?;
            let by = mean_in_words(lead.mean.abs(), lead.standard_error);
            Some(format!(", ahead of {} by {by}", in_words(&next.options)))
        });
        Some(format!("best: {}{}", best.in_words(), lead.unwrap_or_default()))
    }

    /// As CSV: a line a setting, the best first.
    pub fn csv_lines(&self) -> Vec<Vec<String>> {
        let names: Vec<&String> =
            self.ranked.first().map(|setting| setting.options.keys().collect()).unwrap_or_default();
        let mut head: Vec<String> = names.iter().map(|name| (*name).clone()).collect();
        head.extend(["metric", "standard_error", "finished", "trials", "is_level"].map(str::to_owned));
        let line = |setting: &Setting| {
            let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
            let option = |name: &&String| setting.options.get(*name).map_or_else(String::new, value_in_words);
            let mut line: Vec<String> = names.iter().map(option).collect();
            line.extend([number(setting.metric), number(setting.standard_error)]);
            let trials = setting.trials.join(" ");
            line.extend([setting.finished.to_string(), trials, setting.is_level.to_string()]);
            line
        };
        std::iter::once(head).chain(self.ranked.iter().map(line)).collect()
    }

    /// Of the rows of a sweep's table, to which the means of their settings are added.
    pub fn of_rows(rows: &mut [Row], direction: Direction) -> Self {
        let seen = |row: &'_ Row| (row.state == TrialState::Finished).then_some(row.metric).flatten();
        let trials =
            rows.iter().map(|row| Seen { name: &row.name, options: &row.options, metric: seen(row) });
        let ranking = Ranking::of(trials, direction);
        for row in rows {
            row.setting = ranking.of_trial(&row.name).and_then(|setting| {
                let Setting { metric, standard_error, finished, .. } = *setting;
                Some(SeedMean { mean: metric?, standard_error, seeds: finished })
            });
        }
        ranking
    }

    /// Writes `settings.csv`.
    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let mut csv = csv::Writer::from_writer(Vec::new());
        self.csv_lines().iter().try_for_each(|line| csv.write_record(line))?;
        let bytes = csv.into_inner().map_err(|error| error.into_error())?;
        output::file(&dir.join("settings.csv"), &bytes)
    }

    /// The setting that a trial belongs to.
    pub fn of_trial(&self, name: &str) -> Option<&Setting> {
        self.ranked.iter().find(|setting| setting.trials.iter().any(|trial| trial == name))
    }

    /// As one JSON list.
    pub fn to_json(&self) -> Value {
        json!(self.ranked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(rank: u64, seed: u64) -> Options {
        let Value::Object(options) = json!({ "rank": rank, "seed": seed }) else { unreachable!() };
        options
    }

    /// Settings of the metric by rank and seed.
    fn settings(metrics: &[(u64, &[Option<f64>])], direction: Direction) -> Ranking {
        let trials: Vec<(String, Options, Option<f64>)> = metrics
            .iter()
            .flat_map(|(rank, of_seeds)| {
                (0..)
                    .zip(*of_seeds)
                    .map(move |(seed, metric)| (format!("{rank}-{seed}"), options(*rank, seed), *metric))
            })
            .collect();
        let seen = trials.iter().map(|(name, options, metric)| Seen { name, options, metric: *metric });
        Ranking::of(seen, direction)
    }

    #[test]
    fn a_setting_that_leads_by_more_than_the_standard_error_wins() {
        let some = |values: [f64; 3]| values.map(Some);
        let (four, eight) = (some([0.50, 0.60, 0.70]), some([0.42, 0.51, 0.63]));
        let clear = settings(&[(4, &four), (8, &eight)], Direction::Minimize);
        let verdict = clear.verdict().expect("a verdict");
        assert!(
            verdict.starts_with("best: rank=8: 0.5200 ± 0.0608, ahead of rank=4 by 0.0800 ± 0.0058"),
            "{verdict}"
        );
        assert_eq!(clear.winner().expect("a winner").trials, ["8-0", "8-1", "8-2"]);
        let highest = settings(&[(4, &four), (8, &eight)], Direction::Maximize);
        assert_eq!(highest.winner().expect("a winner").options["rank"], 4);

        let near = settings(&[(4, &four), (8, &some([0.48, 0.61, 0.705]))], Direction::Minimize);
        assert!(near.winner().is_none() && near.level().len() == 2);
        assert!(near.verdict().expect("a verdict").starts_with("level, as "), "{:?}", near.verdict());
    }

    #[test]
    fn an_error_has_two_digits_at_least() {
        let words = |error| mean_in_words(0.25, error);
        assert_eq!(
            [words(None), words(Some(0.0)), words(Some(0.5))],
            ["0.2500", "0.2500 ± 0.0000", "0.2500 ± 0.5000"]
        );
        assert_eq!(words(Some(2.1e-6)), "0.2500000 ± 0.0000021");
    }

    #[test]
    fn a_setting_without_all_its_seeds_is_neither_best_nor_level() {
        let (whole, part) = ([Some(0.5), Some(0.6)], [Some(0.1), None]);
        let found = settings(&[(4, &part), (8, &whole)], Direction::Minimize);
        assert_eq!(found.ranked[0].options["rank"], 8);
        assert_eq!([found.ranked[0].seeds_in_words(), found.ranked[1].seeds_in_words()], ["2", "1 of 2"]);
        assert!(!found.ranked[1].is_level && found.winner().is_none());
        assert!(found.verdict().expect("a verdict").contains("before every setting has all its seeds"));
        let lines = found.csv_lines();
        assert_eq!(lines[0], ["rank", "metric", "standard_error", "finished", "trials", "is_level"]);
        assert_eq!(lines[2], ["4", "0.1", "", "1", "4-0 4-1", "false"]);
    }
}
