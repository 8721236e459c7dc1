//! What runs are, at one glance: the facts in the header of a page, and a table of several runs.

use lorafit_remedy::amounts::{counted, duration};
use lorafit_train::{EvaluationRecord, RunHistory, RunStatus};
use serde_json::{Map, Value};

use crate::args::config_file::object;
use crate::args::flags;
use crate::args::rows::Validation;
use crate::args::train::TrainArgs;
use crate::pages::figure::measured;
use crate::pages::report::training::NamedRun;
use crate::pages::shell::{Facts, number, percent, table};
use crate::session::verdict::in_short;
use crate::terminal::made;

/// Options beside each other in the table, at most.
const OPTIONS: usize = 8;
/// Values that stand beside each other in the header, at most.
const VALUES: usize = 3;

/// Adds where and by which command a run was made.
pub fn add_origin(facts: &mut Facts, run: &RunHistory) {
    facts.add("date", run.origin.began.map(made::at));
    facts.add("machine", machine(run));
    facts.add_code("command", run.origin.command.as_ref());
}

/// What the header says of `runs`.
pub fn facts(runs: &[NamedRun]) -> Facts {
    let mut facts = Facts::default();
    let set = |value: fn(&TrainArgs) -> Option<String>| {
        together(runs.iter().filter_map(|run| value(run.args.as_ref()?)))
    };
    facts.add("model", set(|args| args.model.clone()));
    facts.add("data", set(|args| (!args.data.is_empty()).then(|| args.data.join(", "))));
    facts.add("held out", set(held_out));
    if let [run] = runs {
        facts.add("base loss", run.history.base_loss().map(|loss| format!("{loss:.4}")));
        add_origin(&mut facts, &run.history);
        return facts;
    }
    let of = |value: fn(&RunHistory) -> Option<String>| {
        together(runs.iter().filter_map(|run| value(&run.history)))
    };
    facts.add("date", of(|run| Some(made::at(run.origin.began?))));
    facts.add("machine", of(machine));
    facts.add("base loss", of(|run| Some(format!("{:.4}", run.base_loss()?))));
    let commands = runs.iter().filter_map(|run| Some((&run.name, run.history.origin.command.as_ref()?)));
    for (name, command) in commands.take(VALUES) {
        facts.add_code(&format!("command of {name}"), Some(command));
    }
    facts
}

/// Values once each, or how many there are.
fn together(values: impl Iterator<Item = String>) -> Option<String> {
    let mut different: Vec<String> = Vec::new();
    for value in values {
        if !different.contains(&value) {
            different.push(value);
        }
    }
    match different.len() {
        0 => None,
        1..=VALUES => Some(different.join("; ")),
        many => Some(format!("{many} different ones")),
    }
}

/// Which rows were held out.
pub fn held_out(args: &TrainArgs) -> Option<String> {
    match (&args.validation, &args.eval_data[..]) {
        (Some(validation), _) if *validation == Validation::AUTO => {
            Some("part of the data, by --validation auto".to_owned())
        }
        (Some(validation), _) => Some(format!("{} of the data", validation.in_words())),
        (None, []) => None,
        (None, data) => Some(data.join(", ")),
    }
}

fn machine(run: &RunHistory) -> Option<String> {
    let processor = run.origin.processor.clone()?;
    let threads = run.origin.threads.map(|threads| format!(", {}", counted(threads, "thread", "threads")));
    Some(processor + &threads.unwrap_or_default())
}

/// The table of several runs, with the options in which they differ.
pub fn overview(runs: &[NamedRun]) -> String {
    let settings: Vec<Map<String, Value>> = runs.iter().map(settings).collect();
    let names = differing(&settings);
    let mut columns = vec!["run", "state", "verdict", "loss before", "held-out loss", "best step"];
    columns.extend(["training loss", "steps", "time"]);
    let has_pairs = runs.iter().any(|run| accuracy(&run.history).is_some());
    if has_pairs {
        columns.push("chosen preferred");
    }
    columns.extend(names.iter().map(String::as_str));
    let rows = runs.iter().zip(&settings).map(|(run, settings)| {
        let mut row = of_run(run);
        if has_pairs {
            row.push(accuracy(&run.history).map_or("-".to_owned(), percent));
        }
        row.extend(names.iter().map(|name| settings.get(name).map_or("-".to_owned(), in_words)));
        row
    });
    table(
        "Loss before: on held-out rows, before training. Held-out loss: after the best step, which is kept. Training loss: of the last \
         step. The last columns are options in which the runs differ.",
        &columns,
        rows,
    )
}

/// The evaluation after a step whose adapter or model is kept. That may be worse than what the run began with.
pub fn kept(run: &RunHistory) -> Option<&EvaluationRecord> {
    run.evaluations.iter().rev().find(|evaluation| evaluation.best)
}

/// Share of held-out pairs whose chosen reply is preferred, after the step that is kept.
fn accuracy(run: &RunHistory) -> Option<f64> {
    kept(run)?.preference?.accuracy
}

/// The row of a run without its options.
fn of_run(run: &NamedRun) -> Vec<String> {
    let history = &run.history;
    let dash = || "-".to_owned();
    let in_digits = |loss: f64| measured(loss, 4);
    let best = kept(history);
    let status = RunStatus::of(history);
    let totals = history.totals();
    vec![
        run.name.clone(),
        status.state().name().to_owned(),
        history.verdict.as_ref().map_or_else(dash, |verdict| in_short(&verdict.outcome).to_owned()),
        history.base_loss().map_or_else(dash, in_digits),
        best.map_or_else(dash, |best| in_digits(best.loss)),
        best.map_or_else(dash, |best| best.step.to_string()),
        status.loss.map_or_else(dash, in_digits),
        number(totals.step as usize),
        duration(totals.seconds),
    ]
}

fn settings(run: &NamedRun) -> Map<String, Value> {
    run.args.as_ref().and_then(|args| object(args).ok()).unwrap_or_default()
}

/// The options in which runs differ: model, data, and those that decide their numbers.
fn differing(settings: &[Map<String, Value>]) -> Vec<String> {
    const FIRST: [&str; 7] = ["model", "data", "method", "rank", "alpha", "lr", "seed"];
    let Some(first) = settings.first() else { return Vec::new() };
    let decides = |facts: &flags::Facts| facts.is_searched && facts.resume.is_compared();
    let counts = |name: &str| ["model", "data"].contains(&name) || flags::is(name, decides);
    let mut names: Vec<String> = flags::of_train().keys().filter(|name| counts(name)).cloned().collect();
    names.retain(|name| settings.iter().any(|other| other.get(name) != first.get(name)));
    names.sort_by_key(|name| FIRST.iter().position(|known| known == name).unwrap_or(FIRST.len()));
    names.truncate(OPTIONS);
    names
}

/// The value of an option in the spelling of axes: 2e-4, never 0.0002.
pub(super) fn option(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(value) if value != 0.0 && value.abs() < 1e-3 => format!("{value:e}"),
            Some(value) if number.is_f64() => value.to_string(),
            _ => number.to_string(),
        },
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

fn in_words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Array(list) => list.iter().map(in_words).collect::<Vec<_>>().join(", "),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => option(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_rate_is_spelt_as_on_axes() {
        let values = [json!(2e-4), json!(0.0002), json!(0.02), json!(8), json!("adamw"), json!(1.0)];
        assert_eq!(values.each_ref().map(option), ["2e-4", "2e-4", "0.02", "8", "adamw", "1"]);
    }

    #[test]
    fn the_options_in_which_runs_differ_are_shown_the_usual_ones_first() {
        let settings = |rank: u64, lr: f64, out: &str| match json!({ "rank": rank, "lr": lr, "out": out, "tensorboard": rank == 8 })
        {
            Value::Object(map) => map,
            _ => unreachable!(),
        };
        let runs = [settings(8, 1e-3, "a"), settings(16, 1e-4, "b")];
        assert_eq!(differing(&runs), ["rank", "lr"]);
        assert!(differing(&runs[..1]).is_empty() && differing(&[]).is_empty());
    }

    #[test]
    fn equal_values_are_said_once_and_many_are_counted() {
        let said = |values: &[&str]| together(values.iter().map(|value| (*value).to_owned()));
        assert_eq!(said(&[]), None);
        assert_eq!(said(&["a", "b", "a"]).as_deref(), Some("a; b"));
        assert_eq!(said(&["a", "b", "c", "d"]).as_deref(), Some("4 different ones"));
    }
}
