//! How runs went: curves, memory, data and configuration.

use std::path::{Path, PathBuf};

use lorafit_data::statistics::Bar;
use lorafit_remedy::amounts::{self, counted, duration};
use lorafit_remedy::printable;
use lorafit_train::{
    ClassMetrics, LossOver, MemoryPlan, RunError, RunHistory, RunStatus, SMOOTHED_STEPS, StepRecord,
};
use serde_json::Value;

use super::overview::{kept, overview};
use super::{Report, classes, preference};
use crate::args::train::TrainArgs;
use crate::pages::figure::{Axis, Figure, Lines, Plot, Series, Style, measured};
use crate::pages::rows;
use crate::pages::shell::{Cards, escape, number, percent, sentence, table, whole_words};
use crate::session::memory_table::parts as memory_parts;
use crate::session::verdict::in_words;
use crate::sweep::folder::is_trial;

const MIB: f64 = (1u64 << 20) as f64;
const GIB: f64 = (1u64 << 30) as f64;

/// A run and what it is called in the report.
#[derive(Clone, Debug)]
pub struct NamedRun {
    /// The last part of its folder, or all of it where that is not enough.
    pub name: String,
    /// Its records.
    pub history: RunHistory,
    /// What it was begun with, if that can be read.
    pub args: Option<TrainArgs>,
}

impl NamedRun {
    /// The run in `dir`, which is called `name`.
    ///
    /// # Errors
    /// A folder without a run.
    pub fn read(name: String, dir: &Path) -> Result<Self, RunError> {
        Ok(NamedRun { name, history: RunHistory::read(dir)?, args: TrainArgs::of_run(dir) })
    }

    /// The runs in these folders, each with its own name.
    ///
    /// # Errors
    /// A folder without a run.
    pub fn read_all(dirs: &[PathBuf]) -> Result<Vec<Self>, RunError> {
        names(dirs).into_iter().zip(dirs).map(|(name, dir)| NamedRun::read(name, dir)).collect()
    }
}

/// What runs are called together, in a heading.
pub fn title(runs: &[NamedRun]) -> String {
    /// Names beside each other, at most.
    const NAMES: usize = 4;
    match runs.len() {
        0..=NAMES => runs.iter().map(|run| run.name.as_str()).collect::<Vec<_>>().join(", "),
        many => counted(many, "run", "runs"),
    }
}

/// The last part of each folder, or all of it where that is not enough.
pub fn names(dirs: &[PathBuf]) -> Vec<String> {
    let last: Vec<String> = dirs.iter().map(|dir| last_part(dir)).collect();
    let is_unique = |name: &String| last.iter().filter(|other| *other == name).count() == 1;
    let name = |(name, dir): (&String, &PathBuf)| {
        if is_unique(name) { name.clone() } else { printable::name(&dir.display().to_string()).into_owned() }
    };
    last.iter().zip(dirs).map(name).collect()
}

/// What a folder is called in the folder above it.
pub fn last_part(dir: &Path) -> String {
    let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let name = whole.file_name().map(|name| name.to_string_lossy().into_owned());
    printable::name(&name.unwrap_or_else(|| dir.display().to_string())).into_owned()
}

/// Adds what there is to say of how `runs` went.
pub fn add(report: &mut Report, runs: &[NamedRun]) {
    report.section(if runs.len() == 1 { "Run" } else { "Runs" });
    if runs.len() > 1 {
        report.html(&overview(runs));
    }
    for run in runs {
        if runs.len() > 1 {
            report.part(&run.name);
        }
        report.html(&cards(run));
        if let (Some(verdict), Some(args)) = (&run.history.verdict, &run.args) {
            let rows = run.history.data.as_ref().and_then(|data| data.get("rows")?.as_u64());
            let mut lines =
                in_words(verdict, args, &run.history.dir, rows.map(|rows| rows as usize)).into_iter();
            if let Some(outcome) = lines.next() {
                let outcome = sentence(&outcome).replace(" -> ", " → ");
                report.html(&format!("<p class=\"verdict\">{}</p>\n", escape(&outcome)));
            }
            lines.for_each(|line| report.note(&sentence(&line)));
        }
        for damage in &run.history.damage {
            let text = format!("Warning: in the folder of {}, {damage}.", run.name);
            report.html(&format!("<p class=\"warning\">{}</p>\n", escape(&text)));
        }
    }
    report.section("Training");
    let mut figures = curves(runs);
    figures.extend(preference::margins(runs));
    report.figures(figures);
    report.section("Memory");
    memory_section(report, runs);
    report.section("Data");
    data(report, runs);
}

/// Adds every setting of `runs`.
pub fn add_configuration(report: &mut Report, runs: &[NamedRun]) {
    report.section("Configuration");
    for run in runs {
        let text = run.history.config.as_deref().unwrap_or("config.toml cannot be read");
        let command = run.history.origin.command.as_ref();
        let command = command.map(|command| format!("# {}\n", whole_words(command)));
        report.html(&format!(
            "<details{}><summary>{}</summary>\n<pre>{}{}</pre></details>\n",
            if runs.len() == 1 { " open" } else { "" },
            escape(&run.name),
            command.unwrap_or_default(),
            escape(text)
        ));
    }
}

fn cards(run: &NamedRun) -> String {
    let mut cards = Cards::default();
    let history = &run.history;
    let status = RunStatus::of(history);
    let of = status.total_steps.map(|total| format!("of {}, ", number(total as usize))).unwrap_or_default();
    cards.add("steps", &number(status.step as usize), &format!("{of}{}", status.state().name()));
    let last = history.steps.last();
    if let (Some(loss), Some(smoothed)) = (status.loss, status.smoothed_loss) {
        let over = counted(history.steps.len().min(SMOOTHED_STEPS), "step", "steps");
        let note = format!("of the last step; smoothed over {over}: {}", measured(smoothed, 4));
        cards.add("training loss", &measured(loss, 4), &note);
    }
    // Until a step is kept there is the loss before training alone.
    if let Some(best) = kept(history).or(history.evaluations.first()) {
        let when = match (best.step, history.base_loss()) {
            (0, _) => "before training".to_owned(),
            (step, None) => format!("the best, after step {step}"),
            (step, Some(base)) if base <= best.loss => {
                format!(
                    "the best, after step {step}, but no better than {} before training",
                    measured(base, 4)
                )
            }
            (step, Some(base)) => {
                format!("the best, after step {step}; {} before training", measured(base, 4))
            }
        };
        let perplexity = best.perplexity.map(|value| format!("; perplexity {}", amounts::perplexity(value)));
        let note = when + &perplexity.unwrap_or_default();
        cards.add("held-out loss", &measured(best.loss, 4), &note);
        if let Some(accuracy) = best.preference.and_then(|metrics| metrics.accuracy) {
            cards.add("chosen preferred", &percent(accuracy), "of held-out pairs, at that step");
        }
        if let Some(margin) = best.preference.and_then(|metrics| metrics.margin) {
            cards.add("margin", &format!("{margin:.3}"), "of rewards of held-out replies, at that step");
        }
        if let Some(ClassMetrics { accuracy, f1 }) = best.classes {
            cards.add("accuracy", &percent(accuracy), "of held-out texts, at that step");
            cards.add("macro F1", &format!("{f1:.3}"), "of held-out texts, at that step");
        }
    }
    let totals = history.totals();
    if let Some(rate) = status.tokens_per_s.filter(|rate| *rate > 0.0) {
        let tokens = counted(totals.tokens as usize, "token", "tokens");
        let note = format!("{tokens} in {} of steps", duration(totals.seconds));
        cards.add("tokens/s", &format!("{rate:.0}"), &note);
    }
    if let Some(step) = last {
        let note = match planned_bytes(history) {
            _ if is_trial(&history.dir) => "of all trials at once".to_owned(),
            Some(planned) => {
                let share = percent(step.peak_rss_bytes as f64 / planned);
                format!("{share} of the {} planned", amounts::memory(planned as u64))
            }
            None => String::new(),
        };
        cards.add("peak memory", &amounts::memory(step.peak_rss_bytes), &note);
    }
    if !history.skips.is_empty() {
        cards.add("skipped steps", &number(history.skips.len()), "their rows are in metrics.jsonl");
    }
    cards.html()
}

fn planned_bytes(history: &RunHistory) -> Option<f64> {
    history.plan.as_ref()?.get("planned_bytes")?.as_f64()
}

/// Runs of fewer steps are drawn as they are: a twentieth of them is one step.
pub(super) const SMOOTHED_FROM: usize = 40;

/// Means of what is around each step, over a twentieth of the run: unlike a running mean they do not lag behind.
pub(super) fn smoothed(steps: &[StepRecord], value: impl Fn(&StepRecord) -> f64) -> Vec<(f64, f64)> {
    let finite: Vec<(f64, f64)> =
        raw(steps, value).into_iter().filter(|(_, value)| value.is_finite()).collect();
    let half = finite.len() / SMOOTHED_FROM;
    let mut sums = vec![0.0];
    sums.extend(finite.iter().scan(0.0, |sum, (_, value)| {
        *sum += value;
        Some(*sum)
    }));
    let mean = |(i, (step, _)): (usize, &(f64, f64))| {
        // As much before as after, so that ends are not pulled to one side.
        let reach = half.min(i).min(finite.len() - 1 - i);
        let (from, to) = (i - reach, i + reach + 1);
        (*step, (sums[to] - sums[from]) / (to - from) as f64)
    };
    finite.iter().enumerate().map(mean).collect()
}

pub(super) fn raw(steps: &[StepRecord], value: impl Fn(&StepRecord) -> f64) -> Vec<(f64, f64)> {
    steps.iter().map(|step| (step.step as f64, value(step))).collect()
}

/// What smoothed curves are, beside what is said of a figure.
const SMOOTHED: &str = "Smoothed: the mean over a twentieth of the run around each step.";

/// Whether a run is long enough to be smoothed. Beside it shorter ones are, too, which leaves them as they are: so each style
/// says one thing.
pub(super) fn any_is_long(runs: &[NamedRun], value: impl Fn(&StepRecord) -> f64) -> bool {
    let count = |run: &NamedRun| run.history.steps.iter().filter(|step| value(step).is_finite()).count();
    runs.iter().any(|run| count(run) >= SMOOTHED_FROM)
}

/// A raw curve and the smoothed one over it, for each run; where no run is long enough to be smoothed, the raw one alone.
fn both(runs: &[NamedRun], what: &str, value: fn(&StepRecord) -> f64) -> Vec<Series> {
    let is_smoothed = any_is_long(runs, value);
    let named = |how: &str| if what.is_empty() { how.to_owned() } else { format!("{what}, {how}") };
    let style = if is_smoothed { Style::Faint } else { Style::Solid };
    let mut all = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        let steps = &run.history.steps;
        let every = Series::new(&named("every step"), i, style, raw(steps, value));
        all.push(of_run(runs, run, every));
        if is_smoothed {
            let smooth = Series::new(&named("smoothed"), i, Style::Solid, smoothed(steps, value));
            all.push(of_run(runs, run, smooth));
        }
    }
    all
}

/// A series of a run, as one of its group if there are several runs.
pub(super) fn of_run(runs: &[NamedRun], run: &NamedRun, series: Series) -> Series {
    Series { group: (runs.len() > 1).then(|| run.name.clone()), ..series }
}

/// A figure over optimizer steps.
pub(super) fn lines(name: &str, title: &str, description: &str, y: Axis, series: Vec<Series>) -> Figure {
    let x = Axis::linear("optimizer step", "optimizer_step").whole();
    let has_smoothed = series.iter().any(|one| one.name.ends_with("smoothed"));
    let description = if has_smoothed { format!("{description} {SMOOTHED}") } else { description.to_owned() };
    let plot = Plot::Lines(Lines::new(x, y, series));
    Figure { name: name.to_owned(), title: title.to_owned(), description, plot }
}

/// The curves of runs: loss, what judged replies come to, learning rate, throughput and the norm of the gradient.
pub fn curves(runs: &[NamedRun]) -> Vec<Figure> {
    let mut loss = both(runs, "training", |step| step.loss);
    for (i, run) in runs.iter().enumerate() {
        let points: Vec<_> = run.history.evaluations.iter().map(|e| (e.step as f64, e.loss)).collect();
        if !points.is_empty() {
            let number = if runs.len() == 1 { 1 } else { i };
            loss.push(of_run(runs, run, Series::new("held-out rows", number, Style::Dotted, points)));
        }
    }
    // Losses that fall over more than a decade are read on a logarithmic axis.
    let values = || loss.iter().flat_map(|one| &one.points).map(|p| p.1).filter(|loss| *loss > 0.0);
    let (low, high) = values().fold((f64::MAX, 0.0), |(low, high), v| (v.min(low), v.max(high)));
    let (axis, description) = loss_axis(runs);
    let axis = Axis { log: high > 10.0 * low, ..axis };
    let of = |value: fn(&StepRecord) -> f64, what: &str| -> Vec<Series> {
        let one = |(i, run): (usize, &NamedRun)| {
            of_run(runs, run, Series::new(what, i, Style::Solid, raw(&run.history.steps, value)))
        };
        runs.iter().enumerate().map(one).collect()
    };
    let mut figures = vec![lines("loss", "Loss", description, axis, loss)];
    figures.extend(preference::curves(runs));
    figures.extend(classes::curves(runs));
    figures.extend([
        lines(
            "learning_rate",
            "Learning rate",
            "Of each step, as the schedule sets it.",
            rate_axis(runs),
            of(|step| step.learning_rate, "learning rate"),
        ),
        lines(
            "throughput",
            "Throughput",
            "Tokens of the rows of a step, divided by its wall time.",
            Axis::linear("tokens/s", "tokens_per_s"),
            both(runs, "", |step| step.tokens_per_s),
        ),
        lines(
            "gradient_norm",
            "Norm of the gradient",
            "L2 norm over all trained parameters, before clipping.",
            Axis::log("norm of the gradient", "gradient_norm"),
            both(runs, "", |step| step.grad_norm),
        ),
    ]);
    figures
}

/// The axis of learning rates: logarithmic where the highest of runs differ more than tenfold.
fn rate_axis(runs: &[NamedRun]) -> Axis {
    let highest = |run: &NamedRun| run.history.steps.iter().map(|s| s.learning_rate).fold(0.0, f64::max);
    let rates = || runs.iter().map(highest).filter(|rate| *rate > 0.0);
    let (low, high) = (rates().fold(f64::MAX, f64::min), rates().fold(0.0, f64::max));
    Axis { log: high > 10.0 * low, ..Axis::linear("learning rate", "learning_rate") }
}

/// What the losses of `runs` are, with what is said of them: not all are nats per token.
fn loss_axis(runs: &[NamedRun]) -> (Axis, &'static str) {
    let mut all = runs.iter().map(|run| run.history.loss_over());
    let first = all.next().unwrap_or(LossOver::Tokens);
    let plain = || Axis::linear("loss", "loss");
    match (all.all(|other| other == first), first) {
        (true, LossOver::Tokens) => (
            Axis::linear("loss, nats per token", "loss_nats_per_token"),
            "Mean over the trained tokens of a step, before its update.",
        ),
        (true, LossOver::Texts) => (
            Axis::linear("loss, nats per text", "loss_nats_per_text"),
            "Mean over the texts of a step, before its update.",
        ),
        (true, LossOver::Pairs) => (plain(), "Mean over the pairs of a step, before its update."),
        (true, LossOver::Judgements) => (plain(), "Mean over the judged rows of a step, before its update."),
        (false, _) => (
            plain(),
            "Mean over the trained tokens, judged rows or texts of a step, before its update: losses of different objectives \
             cannot be compared.",
        ),
    }
}

/// The memory that was planned for runs, and what they used.
pub fn memory(runs: &[NamedRun]) -> Figure {
    let mut series = Vec::new();
    let peaks = runs.iter().flat_map(|run| &run.history.steps).map(|step| step.peak_rss_bytes as f64);
    let most = runs.iter().filter_map(|run| planned_bytes(&run.history)).chain(peaks).fold(0.0, f64::max);
    let (unit, axis) = match most < GIB {
        true => (MIB, Axis::linear("memory, MiB", "memory_mib")),
        false => (GIB, Axis::linear("memory, GiB", "memory_gib")),
    };
    for (i, run) in runs.iter().enumerate() {
        let steps = &run.history.steps;
        let used = raw(steps, |step| step.peak_rss_bytes as f64 / unit);
        if let (Some(planned), Some(first), Some(last)) =
            (planned_bytes(&run.history), used.first(), used.last())
        {
            let ends = vec![(first.0, planned / unit), (last.0, planned / unit)];
            series.push(of_run(runs, run, Series::new("planned", i, Style::Dashed, ends)));
        }
        series.push(of_run(runs, run, Series::new("used", i, Style::Solid, used)));
    }
    let description = "Used: the highest resident memory of the process up to each step. Planned: what was computed before the first step.";
    lines("memory", "Memory, planned and used", description, axis.with_zero(), series)
}

/// The memory of runs as a figure, and the parts of every plan beside it.
fn memory_section(report: &mut Report, runs: &[NamedRun]) {
    let trials: Vec<&str> =
        runs.iter().filter(|run| is_trial(&run.history.dir)).map(|run| run.name.as_str()).collect();
    if !trials.is_empty() {
        report.note(&format!(
            "Trials of a sweep: {}. Each plan is for one trial alone; the memory used is that of the whole process, which also \
             held other trials.",
            trials.join(", ")
        ));
    }
    let plan = |run: &NamedRun| serde_json::from_value::<MemoryPlan>(run.history.plan.clone()?).ok();
    let planned: Vec<(&NamedRun, MemoryPlan)> =
        runs.iter().filter_map(|run| Some((run, plan(run)?))).collect();
    if planned.is_empty() {
        report.figures(vec![memory(runs)]);
        return report.note("No plan was kept.");
    }
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / (1 << 20) as f64);
    let row = |name: &str, bytes: &dyn Fn(&(&NamedRun, MemoryPlan)) -> String| {
        std::iter::once(name.to_owned()).chain(planned.iter().map(bytes)).collect::<Vec<_>>()
    };
    let names = memory_parts(&MemoryPlan::default()).map(|(name, _)| name);
    let part = |i: usize, plan: &MemoryPlan| memory_parts(plan)[i].1;
    let is_used = |i: &usize| planned.iter().any(|(_, plan)| part(*i, plan) > 0);
    let mut rows: Vec<Vec<String>> =
        (0..names.len()).filter(is_used).map(|i| row(names[i], &|(_, plan)| mib(part(i, plan)))).collect();
    rows.push(row("planned", &|(_, plan)| mib(plan.total())));
    let used = |run: &NamedRun| run.history.steps.last().map(|step| mib(step.peak_rss_bytes));
    rows.push(row("used, at most", &|(run, _)| used(run).unwrap_or_else(|| "-".to_owned())));
    let columns = row("MiB", &|(run, _)| run.name.clone());
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    report.figures_and(vec![memory(runs)], &table("Parts of the plan, and what was used", &columns, rows));
}

fn data(report: &mut Report, runs: &[NamedRun]) {
    for (i, run) in runs.iter().enumerate() {
        let Some(data) = &run.history.data else {
            report.note(&format!("{} has no data.json.", run.name));
            continue;
        };
        // Runs of one dataset have one description.
        if runs[..i].iter().any(|earlier| earlier.history.data.as_ref() == Some(data)) {
            continue;
        }
        if runs.len() > 1 {
            let same = runs[i..].iter().filter(|other| other.history.data.as_ref() == Some(data));
            report.part(&same.map(|run| run.name.as_str()).collect::<Vec<_>>().join(", "));
        }
        let count = |key: &str| data.get(key).and_then(Value::as_u64).unwrap_or(0) as usize;
        let share = |key: &str| percent(data.get(key).and_then(Value::as_f64).unwrap_or(0.0));
        let length =
            |key: &str| data.get("length").and_then(|l| l.get(key)).and_then(Value::as_f64).unwrap_or(0.0);
        let mut cards = Cards::default();
        let rows = counted(count("rows"), "row", "rows");
        match run.history.is_judged() {
            true => cards.add("judged replies", &number(count("samples")), &format!("of {rows}")),
            false => cards.add("rows trained on", &number(count("samples")), &format!("of {rows}")),
        }
        let note = match run.history.loss_over() {
            LossOver::Tokens | LossOver::Judgements => {
                format!("{} of them trained", share("supervised_share"))
            }
            LossOver::Pairs | LossOver::Texts => "of all texts".to_owned(),
        };
        cards.add("tokens", &number(count("tokens")), &note);
        cards.add(
            "median length",
            &amounts::half(length("median")),
            &format!("tokens in a row; the longest has {}", amounts::half(length("max"))),
        );
        let dropped = count("overlong") + count("dropped") + count("skipped");
        let cut = format!("too long; {} more left out", number(dropped));
        cards.add("rows cut", &number(count("truncated")), &cut);
        cards.add("repetitions", &number(count("duplicates")), "rows equal to an earlier one");
        if let Some(share) = data.get("computed_share").and_then(Value::as_f64) {
            rows::add_computed(&mut cards, share, count("batch_size"));
        }
        report.html(&cards.html());
        if let Some(figure) = lengths(data, i) {
            report.figures(vec![figure]);
        }
    }
}

/// Rows by their length, of the statistics that run `i` kept.
fn lengths(data: &Value, i: usize) -> Option<Figure> {
    let bar = |bar: &Value| {
        let at = |key: &str| Some(bar.get(key)?.as_u64()? as usize);
        Some(Bar { from: at("from")?, to: at("to")?, samples: at("samples")? })
    };
    let bars: Vec<Bar> = data.get("histogram")?.as_array()?.iter().filter_map(bar).collect();
    let name = if i == 0 { "lengths".to_owned() } else { format!("lengths-{}", i + 1) };
    Some(Figure { name, ..rows::lengths(&bars)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_keeps_a_straight_line_and_leaves_out_what_is_no_number() {
        let step = |step: u64| StepRecord {
            step,
            loss: if step == 50 { f64::NAN } else { 3.0 * step as f64 },
            grad_norm: 1.0,
            learning_rate: 1.0,
            tokens: 1,
            computed_tokens: 1,
            supervised_tokens: 1,
            seconds: 1.0,
            tokens_per_s: 1.0,
            peak_rss_bytes: 1,
            peak_device_bytes: None,
            reduction: None,
            preference: None,
        };
        let steps: Vec<StepRecord> = (1..=400).map(step).collect();
        let smooth = smoothed(&steps, |step| step.loss);
        assert_eq!(smooth.len(), 399);
        // Around the gap the steps are not even.
        for (step, value) in smooth.iter().filter(|(step, _)| (step - 50.0).abs() > 11.0) {
            assert!((value - 3.0 * step).abs() < 1e-9, "{step}: {value}");
        }
        assert!(smoothed(&[], |step| step.loss).is_empty());
        // A curve is called what it is.
        let dir = tempfile::tempdir().unwrap();
        let run = |steps: u64| {
            let run = dir.path().join(steps.to_string());
            std::fs::create_dir(&run).unwrap();
            let line = |number: u64| {
                serde_json::to_string(&StepRecord { loss: 1.0, ..step(number) }).unwrap() + "\n"
            };
            std::fs::write(run.join("metrics.jsonl"), (1..=steps).map(line).collect::<String>()).unwrap();
            NamedRun::read(steps.to_string(), &run).unwrap()
        };
        let runs = [run(39), run(49)];
        let series = both(&runs, "loss", |step| step.loss);
        let names = |series: &[Series]| series.iter().map(Series::full_name).collect::<Vec<_>>();
        assert_eq!(
            names(&series),
            ["39: loss, every step", "39: loss, smoothed", "49: loss, every step", "49: loss, smoothed"]
        );
        assert_eq!(series[0].points, series[1].points, "a short run stays as it is");
        assert_eq!(names(&both(&runs[..1], "", |step| step.loss)), ["every step"]);
    }

    /// A run in `dir` with the highest of its learning rates, so many bytes used, and a step that is kept though it is worse than
    /// none.
    fn worse(dir: &Path, rate: f64, bytes: u64) -> NamedRun {
        let step = format!(
            "{{\"step\":5,\"loss\":9.5,\"grad_norm\":1.0,\"learning_rate\":{rate},\"tokens\":10,\"computed_tokens\":9,\
             \"supervised_tokens\":5,\"seconds\":0.5,\"tokens_per_s\":20.0,\"peak_rss_bytes\":{bytes}}}\n"
        );
        let evaluation = |step: u64, loss: f64, best: bool| {
            format!("{{\"step\":{step},\"loss\":{loss},\"seconds\":0.1,\"best\":{best}}}\n")
        };
        std::fs::write(dir.join("metrics.jsonl"), step).unwrap();
        let lines = evaluation(0, 3.5, false) + &evaluation(5, 8.75, true);
        std::fs::write(dir.join("evaluations.jsonl"), lines).unwrap();
        NamedRun::read("run".to_owned(), dir).unwrap()
    }

    #[test]
    fn the_loss_that_is_kept_is_told_beside_the_one_before_training() {
        let dir = tempfile::tempdir().unwrap();
        let run = worse(dir.path(), 1.0, 1);
        let cards = cards(&run);
        assert!(cards.contains(">8.7500<"), "{cards}");
        assert!(
            cards.contains("the best, after step 5, but no better than 3.5000 before training"),
            "{cards}"
        );
        let table = overview(&[run.clone(), run]);
        assert!(table.contains("<td>3.5000</td><td>8.7500</td><td>5</td>"), "{table}");
    }

    #[test]
    fn axes_have_the_unit_and_the_scale_that_their_values_need() {
        let axis = |figure: Figure| match figure.plot {
            Plot::Lines(lines) => lines.y,
            _ => unreachable!("curves are lines"),
        };
        let [one, other] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let small = worse(one.path(), 2e-4, 280 << 20);
        let large = worse(other.path(), 1e-2, 2 << 30);
        assert_eq!(axis(memory(std::slice::from_ref(&small))).name.label, "memory, MiB");
        assert!(!rate_axis(std::slice::from_ref(&small)).log);
        let both = [small, large];
        assert_eq!(axis(memory(&both)).name.label, "memory, GiB");
        assert!(rate_axis(&both).log);
    }
}
