//! What a person sees of a sweep: on a terminal a table that is drawn anew, elsewhere a line for each event.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::progress::duration;
use crate::sweep::file::Direction;
use crate::sweep::folder::{Row, TrialState, in_words};

/// Time between two drawings.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// The live table.
pub struct Board {
    sink: Sink,
    running: BTreeMap<usize, String>,
    /// What stands above the running trials.
    summary: String,
    drawn: Instant,
}

enum Sink {
    Table(ProgressBar),
    Lines,
    Quiet,
}

impl Board {
    /// A table on a terminal, lines elsewhere, nothing when `quiet`.
    pub fn new(quiet: bool) -> Self {
        let sink = match (quiet, io::stderr().is_terminal()) {
            (true, _) => Sink::Quiet,
            (false, false) => Sink::Lines,
            (false, true) => {
                let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
                bar.set_style(ProgressStyle::with_template("{msg}").expect("the template is a constant"));
                Sink::Table(bar)
            }
        };
        Board { sink, running: BTreeMap::new(), summary: String::new(), drawn: Instant::now() }
    }

    /// A line that stays.
    pub fn note(&self, text: &str) {
        // Nobody watching is no reason to stop.
        let write = || drop(writeln!(io::stderr(), "{text}"));
        match &self.sink {
            Sink::Table(bar) => bar.suspend(write),
            Sink::Lines => write(),
            Sink::Quiet => {}
        }
    }

    /// A running trial has something new; `None` takes it off the table.
    pub fn running(&mut self, trial: usize, text: Option<String>) {
        match text {
            Some(text) => drop(self.running.insert(trial, text)),
            None => drop(self.running.remove(&trial)),
        }
        if self.drawn.elapsed() >= DRAW_EVERY {
            self.draw();
        }
    }

    /// Tells where the sweep is as a whole.
    pub fn summary(&mut self, rows: &[Row], best: Option<&Row>, metric: &str) {
        let done =
            rows.iter().filter(|r| !matches!(r.state, TrialState::Running | TrialState::Waiting)).count();
        let best = match best {
            Some(row) => format!("best {metric} so far {}", told(row)),
            None => format!("no {metric} at an end yet"),
        };
        self.summary = format!("{done} of {} trials done, {best}", rows.len());
        self.draw();
    }

    fn draw(&mut self) {
        self.drawn = Instant::now();
        if let Sink::Table(bar) = &self.sink {
            let lines = [&self.summary].into_iter().chain(self.running.values());
            bar.set_message(lines.map(String::as_str).collect::<Vec<_>>().join("\n"));
            bar.tick();
        }
    }

    /// Takes the table away.
    pub fn finish(&self) {
        if let Sink::Table(bar) = &self.sink {
            bar.finish_and_clear();
        }
    }
}

/// `003 rank=8 alpha=16: 0.1234`.
pub fn told(row: &Row) -> String {
    let metric = row.metric.map_or("-".to_owned(), |metric| format!("{metric:.4}"));
    format!("{} {}: {metric}", row.name, in_words(&row.options))
}

/// The leader board: ranked rows, with a column for each option.
pub fn table(rows: &[Row], metric: &str, direction: Direction) -> String {
    let names: Vec<&String> = rows.first().map(|row| row.options.keys().collect()).unwrap_or_default();
    let mut lines: Vec<Vec<String>> = Vec::new();
    let mut head = vec!["trial".to_owned()];
    head.extend(names.iter().map(|name| (*name).clone()));
    head.extend([metric, "steps", "time", "tokens/s", "state"].map(str::to_owned));
    lines.push(head);
    for row in rows {
        let mut line = vec![row.name.clone()];
        line.extend(names.iter().map(|name| match row.options.get(*name) {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => "-".to_owned(),
        }));
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        line.push(or_dash(row.metric.map(|metric| format!("{metric:.4}"))));
        line.push(row.step.to_string());
        line.push(or_dash(row.seconds.map(|s| duration(Duration::try_from_secs_f64(s).unwrap_or_default()))));
        line.push(or_dash(row.tokens_per_s.map(|rate| format!("{rate:.0}"))));
        line.push(state_name(row.state).to_owned());
        lines.push(line);
    }
    format!("{}\n{metric}: {} is best", aligned(&lines), direction.best())
}

fn state_name(state: TrialState) -> &'static str {
    match state {
        TrialState::Finished => "finished",
        TrialState::Stopped => "stopped",
        TrialState::Failed => "failed",
        TrialState::Running => "running",
        TrialState::Waiting => "waiting",
    }
}

/// Columns as wide as their widest cell, to the right but for the last.
pub fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        lines.iter().filter_map(|l| l.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |cells: &Vec<String>| {
        let cells = cells.iter().zip(&widths).enumerate();
        let text: Vec<String> = cells
            .map(
                |(i, (cell, &width))| if i + 1 == columns { cell.clone() } else { format!("{cell:>width$}") },
            )
            .collect();
        text.join("  ")
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}
