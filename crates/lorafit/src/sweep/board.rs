//! What a person sees of a sweep: on a terminal a table that is drawn anew, elsewhere a line for each event.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use console::{Term, truncate_str};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lorafit_remedy::amounts::{counted, duration};
use lorafit_train::sweep::Options;

use crate::metrics::Direction;
use crate::sweep::folder::{Row, TrialState, in_words, name, value_in_words};
use crate::sweep::settings::Ranking;
use crate::terminal::output;
use crate::terminal::table::{aligned, shown};

/// Time between two drawings.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// The live table.
pub struct Board {
    sink: Sink,
    /// Names of the columns of the running trials.
    head: Vec<String>,
    running: BTreeMap<usize, Vec<String>>,
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
    /// A table on a terminal, lines elsewhere, nothing when `quiet`. The options are those of any trial.
    pub fn new(quiet: bool, options: &Options) -> Self {
        let sink = match (quiet, output::notes_are_on_terminal()) {
            (true, _) => Sink::Quiet,
            (false, false) => Sink::Lines,
            (false, true) => {
                let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
                bar.set_style(ProgressStyle::with_template("{msg}").expect("the template is a constant"));
                Sink::Table(bar)
            }
        };
        let mut head = vec!["trial".to_owned()];
        head.extend(options.keys().cloned());
        head.push("now".to_owned());
        Board { sink, head, running: BTreeMap::new(), summary: String::new(), drawn: Instant::now() }
    }

    /// A line that stays.
    pub fn note(&self, text: &str) {
        let write = || output::note(text);
        match &self.sink {
            Sink::Table(bar) => bar.suspend(write),
            Sink::Lines => write(),
            Sink::Quiet => {}
        }
    }

    /// What a running trial does now.
    pub fn running(&mut self, trial: usize, options: &Options, doing: String) {
        let mut cells = vec![name(trial)];
        cells.extend(options.values().map(value_in_words));
        cells.push(doing);
        self.running.insert(trial, cells);
        if self.drawn.elapsed() >= DRAW_EVERY {
            self.draw();
        }
    }

    /// A trial does not run any more.
    pub fn ended(&mut self, trial: usize) {
        self.running.remove(&trial);
    }

    /// Tells where the sweep is as a whole.
    pub fn summary(&mut self, rows: &[Row], best: Option<&Row>, metric: &str) {
        let done =
            rows.iter().filter(|r| !matches!(r.state, TrialState::Running | TrialState::Waiting)).count();
        let best = match best {
            Some(row) => {
                let value = row.metric.unwrap_or(f64::NAN);
                format!("best {metric} {value:.4}: {} {}", row.name, in_words(&row.options))
            }
            None => format!("no {metric} yet"),
        };
        self.summary = format!("{done} of {} done, {best}", counted(rows.len(), "trial", "trials"));
        self.draw();
    }

    fn draw(&mut self) {
        self.drawn = Instant::now();
        if let Sink::Table(bar) = &self.sink {
            let mut text = self.summary.clone();
            if !self.running.is_empty() {
                let lines: Vec<_> = [&self.head].into_iter().chain(self.running.values()).cloned().collect();
                text = format!("{text}\n{}", aligned(&lines));
            }
            // Columns are columns only where no line is broken.
            let width = usize::from(Term::stderr().size().1);
            let lines: Vec<_> = text.lines().map(|line| truncate_str(line, width, "…")).collect();
            bar.set_message(lines.join("\n"));
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
        let option = |name: &&String| row.options.get(*name).map_or("-".to_owned(), value_in_words);
        line.extend(names.iter().map(option));
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        line.push(or_dash(row.metric.map(|metric| format!("{metric:.4}"))));
        line.push(row.step.to_string());
        line.push(or_dash(row.seconds.map(duration)));
        line.push(or_dash(row.tokens_per_s.map(|rate| format!("{rate:.0}"))));
        line.push(row.state.name().to_owned());
        lines.push(line);
    }
    // What a narrow terminal has no room for: tokens/s, time, steps and the state, in this order.
    let columns = lines[0].len();
    let first_to_go = [columns - 2, columns - 3, columns - 4, columns - 1];
    format!("{}\n{metric}: {} is best", shown(&lines, &first_to_go), direction.best())
}

/// The settings of a sweep with `seeds`, the best first, with a column for each option.
pub fn table_of_settings(ranking: &Ranking, metric: &str, direction: Direction) -> String {
    let first = ranking.ranked.first();
    let names: Vec<&String> = first.map(|setting| setting.options.keys().collect()).unwrap_or_default();
    let mut head: Vec<String> = names.iter().map(|name| (*name).clone()).collect();
    head.extend([metric, "seeds", "trials"].map(str::to_owned));
    let mut lines = vec![head];
    for setting in &ranking.ranked {
        let option = |name: &&String| setting.options.get(*name).map_or("-".to_owned(), value_in_words);
        let mut line: Vec<String> = names.iter().map(option).collect();
        line.push(setting.mean_in_words().unwrap_or_else(|| "-".to_owned()));
        line.push(setting.seeds_in_words());
        line.push(setting.trials.join(" "));
        lines.push(line);
    }
    let best = direction.best();
    format!("{}\n{metric}: {best} is best; mean ± standard error over the seeds", aligned(&lines))
}
