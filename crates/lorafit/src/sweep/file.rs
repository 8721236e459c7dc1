//! A sweep file: the options of `train` that all trials have, a `[search]` table over any others, and a `[sweep]` table that
//! says how to search.

use std::collections::BTreeSet;
use std::path::Path;

use clap::{Args as _, Command, FromArgMatches as _};
use lorafit_train::sweep::{Axis, MAX_TRIALS, Options, Space, SpaceError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::args::config_file::{ConfigFile, Given, merge_keys, object};
use crate::args::criteria::{CriteriaArgs, WrongCriterion, readers};
use crate::args::flags;
use crate::args::options::{AtOnce, MicroBatchesAtOnce, Preset, nearest};
use crate::args::rows::Validation;
use crate::args::train::TrainArgs;
use crate::metrics::{Direction, EVAL_LOSS, Metric, Metrics};
use crate::sweep::settings::SEED;
use crate::terminal::error::CliError;

/// How trials are chosen and how far they are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Every combination of listed values.
    #[default]
    Grid,
    /// Seeded draws.
    Random,
    /// Successive halving: many begin, the best go on.
    Asha,
}

/// `seeds`: the random seeds of training with which every setting is trained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[serde(try_from = "Value")]
pub enum Seeds {
    /// So many, from the `seed` of training on.
    Count(u64),
    /// These.
    List(Vec<u64>),
}

impl TryFrom<Value> for Seeds {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        // TOML, in which a trial's configuration is saved, has signed numbers.
        let seed = |value: &Value| value.as_u64().filter(|seed| i64::try_from(*seed).is_ok());
        let found = match &value {
            Value::Number(_) => seed(&value).filter(|count| (2..=1000).contains(count)).map(Seeds::Count),
            Value::Array(list) => {
                let seeds: Option<Vec<u64>> = list.iter().map(seed).collect();
                let different = |seeds: &Vec<u64>| BTreeSet::from_iter(seeds).len() == seeds.len();
                seeds.filter(|seeds| seeds.len() > 1 && different(seeds)).map(Seeds::List)
            }
            Value::Null | Value::Bool(_) | Value::String(_) | Value::Object(_) => None,
        };
        found.ok_or_else(|| {
            format!("expected how many, from 2 to 1000, or a list of different seeds such as [0, 1, 2], found {value}")
        })
    }
}

/// The `[sweep]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Settings {
    /// What trials are compared by.
    pub metric: &'static Metric,
    /// Which end of it is good; it goes with the metric.
    pub direction: Direction,
    /// What the metric is told.
    #[serde(flatten)]
    pub criteria: CriteriaArgs,
    /// Longest answer, where trials are compared by answers.
    pub max_new_tokens: usize,
    /// How trials are chosen.
    pub strategy: Strategy,
    /// How many are drawn.
    pub trials: Option<usize>,
    /// Where the draws come from; the seed of training is an option of its own.
    pub seed: u64,
    /// With which random seeds of training every setting is trained; with that of its options alone if there are none.
    pub seeds: Option<Seeds>,
    /// Give up trials that are worse than the median of the others.
    pub early_stop: bool,
    /// Of the trials at a rung one in so many goes on.
    pub reduction_factor: u64,
    /// Steps to the first rung.
    pub min_steps: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            metric: &EVAL_LOSS,
            direction: EVAL_LOSS.direction,
            criteria: CriteriaArgs::default(),
            max_new_tokens: 256,
            strategy: Strategy::default(),
            trials: None,
            seed: 0,
            seeds: None,
            early_stop: false,
            reduction_factor: 3,
            min_steps: None,
        }
    }
}

/// What a sweep file says.
#[derive(Clone, Debug)]
pub struct Spec {
    /// How to search.
    pub settings: Settings,
    /// The `[search]` table as it was written.
    pub search: Map<String, Value>,
    /// What is searched.
    pub space: Space,
    /// The options that all trials have.
    pub train: TrainArgs,
}

/// Trials that nothing compares.
pub fn no_held_out_rows() -> CliError {
    CliError::usage("trials are compared by held-out rows, and there are none")
        .hint("give them with `eval-data`, or hold some out with `validation = \"5%\"`")
}

impl Settings {
    /// The metric as rows are judged by it; empty where trials are compared by their loss.
    pub fn metrics(&self) -> Result<Metrics, CliError> {
        let criteria = self.criteria.prepare()?;
        let list = Metric::of_rows().filter(|metric| *metric == self.metric).collect();
        Ok(Metrics { list, criteria })
    }
}

impl Spec {
    /// Reads a sweep file.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let mut file = ConfigFile::read(path)?;
        let sweep = file.take_table("sweep")?;
        let settings = settings(&sweep, &file)?;
        check_settings(&settings, &sweep, &file)?;
        let table = file.take_table("search")?;
        file.check_tables::<TrainArgs>(&["search", "sweep"])?;
        let command = TrainArgs::augment_args(Command::new("train"));
        let defaults = TrainArgs::from_arg_matches(&command.try_get_matches_from(["train"])?)?;
        let train = merge_keys(&defaults, &Given::default(), &file)?;
        let (space, search) = space(&table, &object(&train)?, &file)?;
        let spec = Spec { settings, search, space, train };
        spec.validate(&file)?;
        Ok(spec)
    }

    fn validate(&self, file: &ConfigFile) -> Result<(), CliError> {
        let Settings { metric, strategy, trials, min_steps, reduction_factor, early_stop, .. } =
            self.settings;
        let error = |key: &str, what: &str| Err(file.error(key, what.to_owned()));
        let direction = metric.direction;
        if self.settings.direction != direction {
            let (metric, best) = (metric.name, direction.best());
            return error("direction", &format!("`direction`: {metric} is best where it is {best}"));
        }
        if let Some(flag) = metric.needs.filter(|flag| !self.settings.criteria.has(flag)) {
            return error("metric", &format!("`metric`: {} needs `{flag}`", metric.name));
        }
        if let Err(WrongCriterion { flag, what, hint }) = self.settings.criteria.prepare() {
            return Err(file.error(flag, format!("`{flag}`: {what}")).hint(hint));
        }
        if self.settings.max_new_tokens == 0 {
            return error("max-new-tokens", "`max-new-tokens` 0: must be 1 or more");
        }
        if trials == Some(0) {
            return error("trials", "`trials` 0: must be 1 or more");
        }
        if reduction_factor < 2 {
            return error("reduction-factor", "`reduction-factor`: must be 2 or more");
        }
        if self.train.eval_data.is_empty() && self.train.validation == Some(Validation(None)) {
            return Err(no_held_out_rows());
        }
        self.validate_seeds(file)?;
        match strategy {
            Strategy::Grid if trials.is_some() => {
                return error("trials", "`trials` is for strategy \"random\" or \"asha\"; a grid has all");
            }
            Strategy::Random if trials.is_none() => {
                return error("strategy", "\"random\" needs `trials = N`");
            }
            Strategy::Asha if min_steps.is_none_or(|steps| steps == 0) => {
                return error(
                    "strategy",
                    "\"asha\" needs `min-steps = N`, the steps until trials are compared first",
                );
            }
            Strategy::Asha if early_stop => {
                return error(
                    "early-stop",
                    "\"asha\" gives up trials by itself, `early-stop` is for the others",
                );
            }
            Strategy::Grid | Strategy::Random | Strategy::Asha => {}
        }
        if let (Strategy::Asha, Some(least), Some(every)) = (strategy, min_steps, self.train.eval_every)
            && !least.is_multiple_of(every as u64)
        {
            return error("eval-every", "`eval-every` has to divide `min-steps`, where trials are compared");
        }
        if early_stop && self.train.eval_every.is_none() && !self.search.contains_key("eval-every") {
            return error("early-stop", "`early-stop` needs `eval-every`, to compare trials while they run");
        }
        Ok(())
    }

    /// Refuses seeds where one of them would decide of a setting, or where something else sets them.
    fn validate_seeds(&self, file: &ConfigFile) -> Result<(), CliError> {
        let Settings { seeds: Some(seeds), strategy, early_stop, .. } = &self.settings else { return Ok(()) };
        let error =
            |what: &str, hint: &'static str| Err(file.error("seeds", format!("`seeds` {what}")).hint(hint));
        let first = "search without `seeds` first, then train the settings that are left with them";
        if *strategy == Strategy::Asha {
            return error("with \"asha\": a setting would be given up for the luck of one seed", first);
        }
        if *early_stop {
            return error("with `early-stop`: a setting would be given up for the luck of one seed", first);
        }
        if self.search.contains_key(SEED) {
            return error("and a search over `seed` exclude each other", "leave one of them out");
        }
        if matches!(seeds, Seeds::List(_)) && file.sets(SEED) {
            let hint = "leave `seed` out, or give how many: they are counted from `seed` on";
            return error("as a list and `seed` exclude each other", hint);
        }
        Ok(())
    }

    /// The options of every trial: of every setting with every seed, if there are seeds.
    pub fn trials(&self) -> Result<Vec<Options>, CliError> {
        let settings = self.settings_to_train()?;
        let seeds: Vec<u64> = match &self.settings.seeds {
            None => return Ok(settings),
            Some(Seeds::Count(count)) => (0..*count).map(|i| self.train.seed.saturating_add(i)).collect(),
            Some(Seeds::List(seeds)) => seeds.clone(),
        };
        if settings.len() * seeds.len() > MAX_TRIALS {
            let text = format!(
                "{} settings with {} seeds are more than {MAX_TRIALS} trials",
                settings.len(),
                seeds.len()
            );
            return Err(CliError::usage(text).hint("draw fewer, or take fewer seeds"));
        }
        let with = |setting: Options| {
            let seeded = |seed: &u64| {
                let mut options = setting.clone();
                options.insert(SEED.to_owned(), (*seed).into());
                options
            };
            seeds.iter().map(seeded).collect::<Vec<Options>>()
        };
        Ok(settings.into_iter().flat_map(with).collect())
    }

    fn settings_to_train(&self) -> Result<Vec<Options>, CliError> {
        let Settings { strategy, trials, seed, .. } = self.settings;
        match (strategy, trials) {
            (Strategy::Random | Strategy::Asha, Some(trials)) => Ok(self.space.draws(trials, seed)),
            (Strategy::Grid | Strategy::Random | Strategy::Asha, _) => {
                self.space.grid().map_err(|error| match &error {
                    SpaceError::Range { .. } => CliError::usage(error.to_string())
                        .hint("list its values, or draw them: strategy = \"random\" with trials = N"),
                    SpaceError::TooMany => CliError::usage(error.to_string())
                        .hint("draw some of them: strategy = \"random\" with trials = N"),
                })
            }
        }
    }

    /// The command line of one trial, but for its folder.
    pub fn train_args(&self, options: &Options) -> anyhow::Result<TrainArgs> {
        let mut values = object(&self.train)?;
        values.extend(options.clone());
        let mut args: TrainArgs = serde_json::from_value(Value::Object(values))?;
        // What a preset chose would depend on the trial, and on what the others fix.
        args.preset.get_or_insert(Preset::Off);
        // `train` with the options of a trial has its bits.
        args.micro_batches_at_once.get_or_insert(MicroBatchesAtOnce::Value(AtOnce(1)));
        if let (Strategy::Asha, None, Some(least)) =
            (self.settings.strategy, args.eval_every, self.settings.min_steps)
        {
            args.eval_every = Some(least as usize);
        }
        Ok(args)
    }
}

fn settings(table: &Map<String, Value>, file: &ConfigFile) -> Result<Settings, CliError> {
    let known = object(&Settings::default()).map_err(|error| file.error("sweep", error.to_string()))?;
    let mut values = Map::new();
    for (key, value) in table {
        let name = key.replace('_', "-");
        if !known.contains_key(&name) {
            let error = file.error(key, format!("unknown key `{key}` in [sweep]"));
            return Err(error.hint(match nearest(&name, known.keys().map(String::as_str)) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("known are {}", known.keys().cloned().collect::<Vec<_>>().join(", ")),
            }));
        }
        values.insert(name, value.clone());
        serde_json::from_value::<Settings>(Value::Object(values.clone()))
            .map_err(|error| file.error(key, format!("`{key}`: {error}")))?;
    }
    let is_directed = values.contains_key("direction");
    let mut settings: Settings = serde_json::from_value(Value::Object(values))
        .map_err(|error| file.error("sweep", error.to_string()))?;
    if !is_directed {
        settings.direction = settings.metric.direction;
    }
    Ok(settings)
}

/// Refuses settings that would do nothing.
fn check_settings(
    settings: &Settings,
    table: &Map<String, Value>,
    file: &ConfigFile,
) -> Result<(), CliError> {
    let Settings { strategy, metric, .. } = *settings;
    let is_halving = strategy == Strategy::Asha;
    let of_metrics = CriteriaArgs::FLAGS
        .map(|flag| (flag, metric.heeds(flag), format!("a `metric` that reads it: {}", readers(flag))));
    let with = |text: &str| text.to_owned();
    let others = [
        ("min-steps", is_halving, with("strategy = \"asha\"")),
        ("reduction-factor", is_halving, with("strategy = \"asha\"")),
        ("seed", strategy != Strategy::Grid, with("strategy = \"random\" or \"asha\"; a grid draws nothing")),
    ];
    for (name, acts, with) in others.into_iter().chain(of_metrics) {
        let key = table.keys().find(|key| key.replace('_', "-") == name);
        if let (Some(key), false) = (key, acts) {
            return Err(file
                .error(key, format!("`{key}` has no meaning without {with}"))
                .hint(format!("leave `{key}` out")));
        }
    }
    Ok(())
}

/// The `[search]` table, also as it was written but with the flags' names.
fn space(
    table: &Map<String, Value>,
    good: &Map<String, Value>,
    file: &ConfigFile,
) -> Result<(Space, Map<String, Value>), CliError> {
    let (mut space, mut search) = (Space::default(), Map::new());
    for (key, value) in table {
        let (name, rivals) = file.flag_and_rivals::<TrainArgs>(key)?;
        if flags::is(&name, |facts| !facts.is_searched) {
            return Err(file
                .error_below(
                    "search",
                    key,
                    format!("`{name}` cannot be searched: it is the same for all trials"),
                )
                .hint(format!("give it one value, above [search]: {name} = VALUE")));
        }
        if let Some(rival) = rivals.iter().find(|rival| file.sets(rival) || search.contains_key(*rival)) {
            let text = format!("`{name}` and `{rival}` exclude each other");
            return Err(file.error_below("search", key, text));
        }
        if file.sets(&name) || search.contains_key(&name) {
            let text = format!("`{name}` is set twice");
            return Err(file.error_below("search", key, text).hint("give it one value or search it"));
        }
        let axis = axis(key, value, file)?;
        let ends: Vec<Value> = match &axis {
            Axis::Choice(values) => values.clone(),
            Axis::Uniform { low, high } | Axis::LogUniform { low, high } => {
                vec![Value::Number(low.clone()), Value::Number(high.clone())]
            }
        };
        ends.iter().try_for_each(|value| file.check_type::<TrainArgs>(good, key, &name, value))?;
        space.0.push((name.clone(), axis));
        search.insert(name, value.clone());
    }
    Ok((space, search))
}

fn axis(key: &str, value: &Value, file: &ConfigFile) -> Result<Axis, CliError> {
    let wrong = |what: &str| file.error_below("search", key, format!("`{key}`: {what}, found {value}"));
    let choice = |values: &[Value]| match values.is_empty() {
        true => Err(wrong("expected one value at least")),
        false => match (1..values.len()).find(|&i| values[..i].contains(&values[i])) {
            Some(i) => {
                Err(file.error(key, format!("`{key}` has {} twice", values[i])).hint("list each value once"))
            }
            None => Ok(Axis::Choice(values.to_vec())),
        },
    };
    let form = "expected a list of values, { choice = [...] }, { uniform = [low, high] } or { log-uniform = [low, high] }";
    let table = match value {
        Value::Array(values) => return choice(values),
        Value::Object(table) => table,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return Err(wrong(form)),
    };
    let mut entries = table.iter();
    let (Some((kind, Value::Array(values))), None) = (entries.next(), entries.next()) else {
        return Err(wrong(form));
    };
    let kind = kind.replace('_', "-");
    if kind == "choice" {
        return choice(values);
    }
    let range = match &values[..] {
        [Value::Number(low), Value::Number(high)] if low.as_f64() < high.as_f64() => {
            Some((low.clone(), high.clone()))
        }
        _ => None,
    };
    match (kind.as_str(), range) {
        ("uniform", Some((low, high))) => Ok(Axis::Uniform { low, high }),
        ("log-uniform", Some((low, high))) if low.as_f64() > Some(0.0) => Ok(Axis::LogUniform { low, high }),
        ("log-uniform", Some(_)) => Err(wrong("a logarithmic range begins above 0")),
        ("uniform" | "log-uniform", None) => Err(wrong("expected two numbers, the lower first")),
        _ => Err(wrong(form)),
    }
}
