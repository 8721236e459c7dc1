//! Progress of a training run on standard error: a bar on a terminal, now and then a plain line elsewhere.
//!
//! Nothing here can fail: a run does not end because nobody watches any more. Peak memory is measured by
//! the trainer and handed in.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lorafit_remedy::amounts::{counted, duration, memory};
use lorafit_train::{SMOOTHED_STEPS, smoothed};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::terminal::host::{self, Host};
use crate::terminal::output;

/// Time between two plain lines unless the user counts in steps.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// `--log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// A bar on a terminal, lines elsewhere
    Text,
    /// One JSON object a line for every step, evaluation and checkpoint
    Json,
}

/// Shows how a run goes.
pub struct Progress {
    sink: Sink,
    started: Instant,
    first_step: Option<usize>,
    /// Losses of the last steps, up to [`SMOOTHED_STEPS`].
    losses: VecDeque<f64>,
    /// Held-out loss before training.
    base_loss: Option<f64>,
    /// The last step that was done.
    last: Option<Step>,
}

/// A step as it is shown.
struct Step {
    step: usize,
    total: usize,
    loss: f64,
    /// Mean of the last losses.
    smoothed: f64,
    tokens_per_s: f64,
    /// Seconds to the end.
    left: f64,
    /// Most bytes that the process had.
    peak: u64,
}

impl Step {
    /// What stands beside a bar in a terminal of so many columns: as much as leaves the bar ten of them.
    fn message(&self, columns: usize) -> String {
        let Step { step, total, loss, smoothed, tokens_per_s, left, peak } = self;
        let (loss, left) = (format!("loss {loss:.4}"), format!("{} left", duration(*left)));
        let rate = format!("{tokens_per_s:.0} tokens/s");
        let room = columns.saturating_sub(10 + format!("{step}/{total}   ").len());
        let all = format!("{loss}  smoothed {smoothed:.4}  {rate}  {left}  peak {}", memory(*peak));
        let forms = [all, format!("{loss}  {rate}  {left}"), format!("{loss}  {left}")];
        let [.., shortest] = forms.clone();
        forms.into_iter().find(|form| form.len() <= room).unwrap_or(shortest)
    }

    /// A line of its own.
    fn line(&self) -> String {
        format!("step {}/{}  {}", self.step, self.total, self.message(usize::MAX))
    }
}

enum Sink {
    Bar(ProgressBar),
    Plain(Plain),
    Json(Box<dyn Write + Send>),
    /// Whoever embeds the library draws what it wants.
    Host {
        host: Arc<dyn Host>,
        quiet: bool,
    },
    Quiet,
}

impl Sink {
    fn plain(out: Box<dyn Write + Send>, log_every: Option<usize>) -> Self {
        Sink::Plain(Plain { out, log_every, last_line: None })
    }
}

struct Plain {
    out: Box<dyn Write + Send>,
    log_every: Option<usize>,
    last_line: Option<Instant>,
}

impl Progress {
    /// On a terminal a bar; elsewhere a line every `log_every` steps, or every ten seconds; JSON if asked for, which is then
    /// a result; else nothing when `quiet`.
    pub fn new(quiet: bool, log_every: Option<usize>, format: LogFormat) -> Self {
        if let Some(host) = host::host() {
            return Progress::with(Sink::Host { host, quiet });
        }
        if format == LogFormat::Json {
            return Progress::with(Sink::Json(Box::new(io::stderr())));
        }
        if quiet {
            return Progress::with(Sink::Quiet);
        }
        if !io::stderr().is_terminal() {
            return Progress::plain(Box::new(io::stderr()), log_every);
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{wide_bar:.cyan/dim} {pos}/{len}  {msg}");
        bar.set_style(style.expect("the template is a constant"));
        Progress::with(Sink::Bar(bar))
    }

    fn plain(out: Box<dyn Write + Send>, log_every: Option<usize>) -> Self {
        Progress::with(Sink::plain(out, log_every))
    }

    fn with(sink: Sink) -> Self {
        let (first_step, losses, base_loss, last) = (None, VecDeque::new(), None, None);
        Progress { sink, started: Instant::now(), first_step, losses, base_loss, last }
    }

    /// Step `step` of `total` (counted from 1) is done; `rss_bytes` is the peak of memory so far.
    pub fn step(&mut self, step: usize, total: usize, loss: f64, tokens_per_s: f64, rss_bytes: u64) {
        self.remember(loss);
        let smoothed = smoothed(self.losses.make_contiguous()).unwrap_or(loss);
        let left = self.time_left(step, total);
        let done = Step { step, total, loss, smoothed, tokens_per_s, left, peak: rss_bytes };
        match &mut self.sink {
            Sink::Bar(bar) => {
                bar.set_length(total as u64);
                bar.set_message(done.message(console::Term::stderr().size().1.into()));
                bar.set_position(step as u64);
            }
            Sink::Plain(plain) => {
                if plain.is_due(step, total) {
                    plain.line(&done.line());
                }
            }
            Sink::Json(_) | Sink::Host { .. } | Sink::Quiet => {}
        }
        self.last = Some(done);
    }

    /// Takes the loss of a step into the smoothed one; those before a resumption are handed in so.
    pub fn remember(&mut self, loss: f64) {
        if self.losses.len() == SMOOTHED_STEPS {
            self.losses.pop_front();
        }
        self.losses.push_back(loss);
    }

    /// A line `{"event": name, ...record}` where the log is JSON; whether it is, so that there is no more to say. Who embeds the
    /// library is handed it beside what a person reads.
    pub fn event(&mut self, name: &str, record: &impl Serialize) -> bool {
        if let Sink::Host { host, .. } = &self.sink {
            host.event(name, &serde_json::to_value(record).unwrap_or_default());
        }
        let Sink::Json(out) = &mut self.sink else { return false };
        let mut line = Map::from_iter([("event".to_owned(), Value::from(name))]);
        if let Ok(Value::Object(fields)) = serde_json::to_value(record) {
            line.extend(fields);
        }
        // One write a line, so that lines of several processes do not mix.
        ignore(out.write_all(format!("{}\n", Value::Object(line)).as_bytes()));
        true
    }

    /// Held-out rows were evaluated after step `step`, or before the first; `best` if no earlier step was as good.
    /// `beside` is what else is known of them.
    pub fn eval(&mut self, step: usize, loss: f64, beside: Option<&str>, best: bool) {
        let beside = beside.map(|beside| format!(", {beside}")).unwrap_or_default();
        if step == 0 {
            self.base_loss = Some(loss);
            return self.note(&format!("before training: held-out loss {loss:.4}{beside}"));
        }
        let mark = match (best, self.base_loss.is_some_and(|base| loss >= base)) {
            (true, true) => "  (worse than before training; the best since, kept)",
            (true, false) => "  (best so far, kept)",
            (false, _) => "",
        };
        self.note(&format!("step {step}  held-out loss {loss:.4}{beside}{mark}"));
    }

    /// The reference of judged replies is asked before the first step: `done` of `samples` replies are.
    pub fn reference(&mut self, done: usize, samples: usize) {
        let text = format!("asking the reference: {done} of {}", counted(samples, "reply", "replies"));
        self.before_steps((done as u64, samples as u64), "replies that the reference is asked for", &text);
    }

    /// The frozen blocks compute all texts before the first step: `done` of `texts` are.
    pub fn frozen(&mut self, done: usize, texts: usize) {
        let text = format!("frozen blocks: {done} of {}", counted(texts, "text", "texts"));
        self.before_steps((done as u64, texts as u64), "texts that the frozen blocks compute", &text);
    }

    /// What comes before the first step: so many of so many are done, `of` what for a bar, or the whole `text`.
    fn before_steps(&mut self, (done, all): (u64, u64), of: &'static str, text: &str) {
        match &mut self.sink {
            Sink::Bar(bar) => {
                bar.set_length(all);
                bar.set_message(of);
                bar.set_position(done);
            }
            Sink::Plain(plain) => {
                let waited = plain.last_line.is_none_or(|last| last.elapsed() >= PLAIN_EVERY);
                if waited || done == all {
                    plain.line(text);
                }
            }
            Sink::Json(_) | Sink::Host { .. } | Sink::Quiet => {}
        }
        // The time that steps take does not begin before.
        self.started = Instant::now();
    }

    /// Whether somebody watches a terminal, where more than a line may be told.
    pub fn is_on_terminal(&self) -> bool {
        matches!(self.sink, Sink::Bar(_))
    }

    /// A line of its own, above the bar.
    pub fn note(&mut self, text: &str) {
        match &mut self.sink {
            // Not `ProgressBar::println`, which shows nothing while the bar is hidden.
            Sink::Bar(bar) => bar.suspend(|| ignore(writeln!(io::stderr(), "{text}"))),
            Sink::Plain(plain) => plain.line(text),
            Sink::Json(_) => drop(self.event("note", &json!({ "text": text }))),
            Sink::Host { host, quiet: false } => host.note(text),
            Sink::Host { quiet: true, .. } | Sink::Quiet => {}
        }
    }

    /// The run is over: a line with its last step stands where the bar was, and what follows below it.
    pub fn finish(&mut self) {
        let Sink::Bar(bar) = &self.sink else { return };
        // A bar that stays would be drawn again below every note.
        bar.finish_and_clear();
        self.sink = Sink::plain(Box::new(io::stderr()), None);
        if let Some(done) = self.last.take() {
            self.note(&done.line());
        }
    }

    /// Seconds, from the steps done since this run (or its resumption) began.
    fn time_left(&mut self, step: usize, total: usize) -> f64 {
        let first = *self.first_step.get_or_insert(step);
        let done = step.saturating_sub(first) + 1;
        let left = total.saturating_sub(step) as f64 / done as f64;
        self.started.elapsed().as_secs_f64() * left
    }
}

impl Plain {
    fn is_due(&self, step: usize, total: usize) -> bool {
        step == total
            || match (self.log_every, self.last_line) {
                (Some(every), _) => step.is_multiple_of(every),
                // The first step tells that it works and what it will take.
                (None, None) => true,
                (None, Some(last)) => last.elapsed() >= PLAIN_EVERY,
            }
    }

    fn line(&mut self, text: &str) {
        self.last_line = Some(Instant::now());
        ignore(writeln!(self.out, "{text}").and_then(|()| self.out.flush()));
    }
}

/// How many prompts are answered: a bar on a terminal, nothing elsewhere.
pub struct PromptProgress {
    bar: ProgressBar,
    started: Instant,
}

impl PromptProgress {
    /// Of `prompts` prompts, of which `done` are answered already.
    pub fn new(quiet: bool, prompts: usize, done: usize) -> Self {
        let template = "{bar:24.cyan/dim} {pos}/{len} prompts  {msg}  {eta} left";
        let bar = bar(quiet, prompts as u64, template).with_position(done as u64);
        // What was done before says nothing of the rate.
        bar.reset_eta();
        bar.tick();
        PromptProgress { bar, started: Instant::now() }
    }

    /// `prompts` are answered, and the answers of this call have `tokens` tokens.
    pub fn is_at(&self, prompts: usize, tokens: usize) {
        let rate = tokens as f64 / self.started.elapsed().as_secs_f64();
        self.bar.set_message(format!("{rate:.0} tokens/s"));
        self.bar.set_position(prompts as u64);
    }

    /// The bar goes.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// A bar on a terminal that nobody asked to be quiet; elsewhere one that is not shown.
fn bar(quiet: bool, length: u64, template: &str) -> ProgressBar {
    let shown = !quiet && output::notes_are_on_terminal();
    let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(length), target);
    bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
    bar
}

/// How far a large file is written: a bar on a terminal, nothing elsewhere.
pub struct WriteProgress {
    bar: ProgressBar,
}

impl WriteProgress {
    /// Of `bytes` bytes.
    pub fn new(quiet: bool, bytes: u64) -> Self {
        let template =
            "{bar:24.cyan/dim} {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left";
        WriteProgress { bar: bar(quiet, bytes, template) }
    }

    /// So many more are written.
    pub fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// The bar goes.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// How far the weights of a model are loaded: a bar on a terminal, and a line when they are there; nothing where it tells nothing.
pub struct LoadProgress {
    bar: ProgressBar,
    started: Instant,
    tells: bool,
}

impl LoadProgress {
    /// Of `values` values in matrices.
    pub fn new(tells: bool, values: u64) -> Self {
        let template = "loading {bar:24.cyan/dim} {percent}% of the weights  {eta} left";
        LoadProgress { bar: bar(!tells, values, template), started: Instant::now(), tells }
    }

    /// A matrix of so many values is read.
    pub fn add(&self, values: u64) {
        self.bar.inc(values);
    }

    /// All are there: the bar goes. `of` are the weights and `to` is the device, in words.
    pub fn finish(&self, of: &str, to: &str) {
        self.bar.finish_and_clear();
        if self.tells {
            let seconds = self.started.elapsed().as_secs_f64();
            output::note(&format!("loaded {of} of weights to {to} in {seconds:.1} s"));
        }
    }
}

/// For writes whose failure changes nothing.
fn ignore(_result: io::Result<()>) {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    fn lines(log_every: Option<usize>) -> Vec<String> {
        let shared = Shared::default();
        let mut progress = Progress::plain(Box::new(shared.clone()), log_every);
        for step in 1..=7 {
            progress.step(step, 7, 2.0, 123.4, 300 << 20);
        }
        let bytes = shared.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn piped_progress_is_a_line_every_log_every_steps_and_at_the_end() {
        let lines = lines(Some(3));
        let steps: Vec<&str> = lines.iter().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
        assert_eq!(steps, ["3/7", "6/7", "7/7"]);
        assert!(
            lines[2].contains("loss 2.0000  smoothed 2.0000  123 tokens/s  0 s left  peak 300 MiB"),
            "{}",
            lines[2]
        );
    }

    #[test]
    fn piped_progress_by_time_tells_the_first_and_last_step() {
        assert_eq!(lines(None).len(), 2);
    }

    #[test]
    fn a_json_log_is_an_object_a_line() {
        let shared = Shared::default();
        let mut progress = Progress::with(Sink::Json(Box::new(shared.clone())));
        progress.note("two \"words\"");
        assert!(progress.event("step", &json!({ "step": 3, "loss": 0.5 })));
        let text = String::from_utf8(shared.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let note = json!({ "event": "note", "text": "two \"words\"" });
        assert_eq!(lines, [note, json!({ "event": "step", "step": 3, "loss": 0.5 })]);
        assert!(!Progress::plain(Box::new(shared), None).event("step", &json!({})));
    }

    #[test]
    fn a_watcher_that_goes_away_does_not_stop_the_run() {
        let mut progress = Progress::plain(Box::new(Gone), Some(1));
        progress.step(1, 2, 1.0, 1.0, 1);
        progress.eval(1, 1.0, Some("perplexity 2.700"), true);
        progress.finish();
    }

    #[test]
    fn a_step_fits_beside_its_bar() {
        let done = Step {
            step: 12345,
            total: 100_000,
            loss: 12.3456,
            smoothed: 12.3456,
            tokens_per_s: 12345.0,
            left: 86399.0,
            peak: 1 << 33,
        };
        for columns in [60, 80, 100, 200] {
            // The bar has ten columns at least, and the count of steps stands before the message.
            let room = columns - 10 - "12345/100000".len() - 3;
            let message = done.message(columns);
            assert!(message.chars().count() <= room, "{columns}: {message}");
            assert!(message.starts_with("loss 12.3456") && message.contains("left"), "{message}");
        }
        assert!(done.message(200).ends_with("peak 8.00 GiB"), "{}", done.message(200));
    }
}
