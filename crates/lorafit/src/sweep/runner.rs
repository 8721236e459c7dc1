//! Runs the trials of a sweep: each on a thread of its own, over the bases and rows that all share; what they compute is
//! spread over the one pool of threads, so that the bits of a trial do not depend on its neighbours.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use lorafit_remedy::amounts::counted;
use lorafit_train::sweep::{Curve, Job, Scheduler, is_losing};
use lorafit_train::{
    ALONE, Answering, EvaluationRecord, Observer, RunError, RunHistory, RunLock, RunTotals, StepRecord,
    count_peak_anew, give_back_freed_memory,
};

use crate::args::train::TrainArgs;
use crate::metrics::Interval;
use crate::session::evaluation::Asked;
use crate::session::resume::Resumption;
use crate::session::run::{Ready, Shared};
use crate::session::trained::Trained;
use crate::sweep::board::{Board, told};
use crate::sweep::file::Settings;
use crate::sweep::folder::{
    Event, Outcome, Record, Row, StoppedBy, Trial, TrialState, name, ranked, write_tables,
};
use crate::sweep::inputs::{Inputs, SweepPlan};
use crate::sweep::settings::Ranking;
use crate::terminal::error::render;
use crate::terminal::host;
use crate::terminal::interrupt;
use crate::terminal::progress::LogFormat;
use crate::terminal::progress::Progress;

/// How often a trial's folder is tried, and the time between.
const LOCK_ATTEMPTS: usize = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A sweep that may begin.
pub struct Runner<'a> {
    /// Its folder.
    pub dir: &'a Path,
    /// What is in it.
    pub record: &'a Record,
    /// Whether trials that failed are run again.
    pub retry: bool,
    /// The numbers of the trials that this process runs, in order.
    pub numbers: &'a [usize],
    /// Their command lines.
    pub args: &'a [TrainArgs],
    /// What they share.
    pub inputs: &'a Inputs,
    /// Their memory.
    pub plan: &'a SweepPlan,
}

/// What a trial's thread tells.
enum Message {
    /// What it is doing now.
    Doing(usize, String),
    Warning(usize, String),
    Ended(Job, anyhow::Result<End>),
}

/// How a trial's thread ended.
enum End {
    Came(Outcome),
    Losing(Outcome),
    /// A signal stopped it.
    Interrupted,
    /// Another process has it.
    Elsewhere,
}

impl Runner<'_> {
    /// Runs what is left to run. Ends early, with checkpoints, when a signal asks.
    pub fn run(&self, board: &mut Board) -> anyhow::Result<()> {
        let mut trials = self.trials();
        let Settings { direction, reduction_factor, .. } = self.record.settings;
        let records = trials.iter().map(|trial| trial.as_record(direction, self.retry)).collect();
        let rungs = self.record.rungs.len() + 1;
        let mut scheduler = Scheduler::new(rungs, reduction_factor as usize, records);
        let curves: Mutex<BTreeMap<usize, Curve>> =
            Mutex::new(trials.iter().map(|trial| (trial.number, trial.curve())).collect());
        let (sender, receiver) = channel();
        self.tell(board)?;
        thread::scope(|scope| {
            let mut run = || {
                loop {
                    while scheduler.running() < self.plan.at_once && !stopping() {
                        let Some(job) = scheduler.next_job() else { break };
                        trials[self.place(job.trial)].record(Event::Started { rung: job.rung })?;
                        let (sender, curves) = (sender.clone(), &curves);
                        let call = host::current();
                        scope.spawn(move || {
                            let ended = host::within(call, || self.trial(job, curves, &sender));
                            // The receiver lives as long as this scope.
                            let _ = sender.send(Message::Ended(job, ended));
                        });
                    }
                    if scheduler.running() == 0 {
                        return anyhow::Ok(());
                    }
                    self.follow(&receiver, &mut scheduler, &mut trials, board)?;
                }
            };
            // The scope waits for its threads: a sweep that cannot write stops them, with checkpoints.
            run().inspect_err(|_| interrupt::ask())
        })?;
        if !stopping() {
            self.stop_the_rest(&mut trials)?;
        }
        self.tell(board)?;
        Ok(())
    }

    fn trials(&self) -> Vec<Trial> {
        self.numbers.iter().map(|&n| Trial::read(self.dir, n, &self.record.options[n])).collect()
    }

    /// Where trial `number` is in the lists of this part.
    fn place(&self, number: usize) -> usize {
        self.numbers.iter().position(|n| *n == number).expect("jobs are of this part")
    }

    /// Takes one message.
    fn follow(
        &self,
        receiver: &Receiver<Message>,
        scheduler: &mut Scheduler,
        trials: &mut [Trial],
        board: &mut Board,
    ) -> anyhow::Result<()> {
        let direction = self.record.settings.direction;
        match receiver.recv()? {
            Message::Doing(number, what) => {
                board.running(number, &self.record.options[number], what);
            }
            Message::Warning(number, text) => board.note(&format!("{}: {text}", name(number))),
            Message::Ended(job, ended) => {
                let trial = &mut trials[self.place(job.trial)];
                board.ended(job.trial);
                match ended {
                    Ok(End::Came(outcome)) => {
                        trial.record(Event::Came { rung: job.rung, outcome })?;
                        scheduler.came(job, direction.score(outcome.metric));
                    }
                    Ok(End::Losing(outcome)) => {
                        trial.record(Event::Stopped { by: StoppedBy::Median, outcome })?;
                        scheduler.gave_up(job);
                    }
                    Ok(End::Interrupted | End::Elsewhere) => scheduler.gave_up(job),
                    Err(error) => {
                        let error = render(&error, false).trim_end().to_owned();
                        trial.record(Event::Failed { error })?;
                        scheduler.gave_up(job);
                    }
                }
                let rows = self.tell(board)?;
                if let Some(row) = rows.iter().find(|row| row.trial == job.trial) {
                    board.note(&line(row, trial));
                }
            }
        }
        Ok(())
    }

    /// Writes the tables anew, of all trials of the sweep, and tells the best.
    fn tell(&self, board: &mut Board) -> anyhow::Result<Vec<Row>> {
        let (rows, ranking) = rows(self.dir, self.record);
        write_all_tables(self.dir, &rows, ranking.as_ref())?;
        let ranked = ranked(rows.clone(), self.record.settings.direction);
        let best = ranked.first().filter(|row| row.state == TrialState::Finished);
        board.summary(&rows, best, self.record.settings.metric.name);
        Ok(rows)
    }

    /// What successive halving left behind goes nowhere.
    fn stop_the_rest(&self, trials: &mut [Trial]) -> anyhow::Result<()> {
        for trial in trials {
            let waits = trial.state(self.record.rungs.len() + 1) == TrialState::Waiting;
            if let Some(outcome) = trial.outcome().filter(|_| waits) {
                trial.record(Event::Stopped { by: StoppedBy::Halving, outcome })?;
            }
        }
        Ok(())
    }

    /// Trains one trial up to a rung, from its checkpoint if it has one, and judges it there.
    fn trial(
        &self,
        job: Job,
        curves: &Mutex<BTreeMap<usize, Curve>>,
        sender: &Sender<Message>,
    ) -> anyhow::Result<End> {
        let place = self.place(job.trial);
        let (args, (base, data)) = (&self.args[place], self.inputs.of(place));
        let Some(out) = &args.out else { unreachable!("every trial has a folder") };
        let lock = match lock(out) {
            Err(RunError::Locked { .. }) => return Ok(End::Elsewhere),
            lock => lock?,
        };
        give_back_freed_memory();
        if self.plan.at_once == 1 {
            count_peak_anew();
        }
        let mut quiet = Progress::new(true, None, LogFormat::Text);
        let resumption = Resumption::find(out, &mut quiet)?;
        let milestone = self.record.rungs.get(job.rung).copied();
        let mut watcher = Watcher {
            trial: job.trial,
            sender: sender.clone(),
            settings: &self.record.settings,
            curves,
            milestone,
            totals: RunHistory::read(out).map(|history| history.totals()).unwrap_or_default(),
            evaluated: resumption.checkpoint.as_ref().and_then(|checkpoint| checkpoint.state.evaluated),
            is_losing: false,
        };
        let base_loss = self.inputs.base_loss(place, args, &mut stopping);
        let fresh = resumption.checkpoint.is_none().then(|| Trained::fresh(args, base)).transpose()?;
        let shared = Shared { base, data, reference: self.inputs.reference(place), group: &ALONE };
        let mut ready = Ready::new(args, shared, resumption, fresh, &mut quiet)?;
        // A fresh adapter changes nothing: all trials that begin with one begin with the loss of the base.
        if let Some(loss) = base_loss.filter(|_| args.adapter.is_none()) {
            ready = ready.with_start_loss(loss);
        }
        let planned = &self.plan.trials[place];
        let (summary, _locked) = ready.train(Some(lock), planned.recompute, &planned.plan, &mut watcher)?;
        if summary.interrupted && !watcher.is_at_milestone() && !watcher.is_losing {
            return Ok(End::Interrupted);
        }
        let Some(mut outcome) = Outcome::read(out)? else {
            anyhow::bail!("the loss on held-out rows after step {} is not a number", summary.steps)
        };
        outcome.base_loss = base_loss;
        if !self.inputs.metrics.list.is_empty() {
            let parameters = ready.parameters();
            let answering = Answering {
                model: parameters.model(),
                adapter: parameters.adapter(),
                tokenizer: &base.tokenizer,
                max_new_tokens: self.record.settings.max_new_tokens,
                side_by_side: planned.side_by_side,
            };
            let asked = Asked { answering, micro_batch_tokens: args.tokens_at_once() };
            let found = self.score(job, &asked, sender).map_err(|error| match error.downcast() {
                Ok(error) => base.unanswered(error),
                Err(error) => error,
            })?;
            // What was answered is answered again; the training is not.
            let Some(found) = found else { return Ok(End::Interrupted) };
            (outcome.metric, outcome.interval) = found;
        }
        match watcher.is_losing && summary.interrupted {
            true => Ok(End::Losing(outcome)),
            false => Ok(End::Came(outcome)),
        }
    }

    /// The metric of what a trial makes of its held-out rows, with its interval. `None` if a signal asks to stop.
    ///
    /// # Errors
    /// Rows that cannot be answered (`AnswerError`), none that can be judged, and a judge that fails.
    fn score(
        &self,
        job: Job,
        asked: &Asked<'_>,
        sender: &Sender<Message>,
    ) -> anyhow::Result<Option<(f64, Option<Interval>)>> {
        let (metrics, prompts) = (&self.inputs.metrics, self.inputs.prompts(self.place(job.trial)));
        let mut tell = |what: &str, done: usize| {
            let rows = counted(prompts.len(), "row", "rows");
            // As the watcher has it: nobody listens when the sweep itself has failed.
            let _ = sender.send(Message::Doing(job.trial, format!("{what} {done} of {rows}")));
        };
        tell("answered", 0);
        let Some((answered, _)) = asked.of(metrics, prompts, &mut tell, &mut stopping)? else {
            return Ok(None);
        };
        let Some(scored) = metrics.score(answered, &mut stopping) else { return Ok(None) };
        if let Some(failure) = scored.failure {
            return Err(failure);
        }
        let [summary] = &scored.summaries[..] else { unreachable!("trials are compared by one metric") };
        match summary.mean {
            Some(mean) => Ok(Some((mean, summary.interval))),
            None => {
                let (name, reason) =
                    (summary.metric.name, summary.reason.as_deref().unwrap_or("there is none"));
                anyhow::bail!("no held-out row can be judged by {name}: {reason}")
            }
        }
    }
}

/// Takes a run folder. Whoever looks whether it is taken holds it for a moment, too.
fn lock(dir: &Path) -> Result<RunLock, RunError> {
    for _ in 0..LOCK_ATTEMPTS {
        match RunLock::take(dir) {
            Err(RunError::Locked { .. }) => thread::sleep(LOCK_PAUSE),
            taken => return taken,
        }
    }
    RunLock::take(dir)
}

fn stopping() -> bool {
    interrupt::asked()
}

/// All trials of a sweep as their folders tell, and the settings of one with `seeds`.
pub fn rows(dir: &Path, record: &Record) -> (Vec<Row>, Option<Ranking>) {
    let rungs = record.rungs.len() + 1;
    let trials = record.options.iter().enumerate().map(|(n, options)| Trial::read(dir, n, options));
    let mut rows: Vec<Row> = trials.map(|trial| trial.row(rungs, record.settings.metric)).collect();
    let has_seeds = record.settings.seeds.is_some();
    let ranking = has_seeds.then(|| Ranking::of_rows(&mut rows, record.settings.direction));
    (rows, ranking)
}

/// Writes what is known of a sweep as tables.
///
/// # Errors
/// A file that cannot be written.
pub fn write_all_tables(dir: &Path, rows: &[Row], ranking: Option<&Ranking>) -> anyhow::Result<()> {
    write_tables(dir, rows)?;
    ranking.map_or(Ok(()), |ranking| ranking.write(dir))
}

fn line(row: &Row, trial: &Trial) -> String {
    let what = match (row.state, trial.error()) {
        (_, Some(error)) => format!("failed: {error}"),
        (TrialState::Finished, None) => "finished".to_owned(),
        (TrialState::Stopped, None) => format!("given up after step {}", row.step),
        (TrialState::Running | TrialState::Waiting | TrialState::Failed, None) => {
            format!("at step {}", row.step)
        }
    };
    format!("{}  {what}", told(row))
}

/// Sees one trial as it goes.
struct Watcher<'a> {
    trial: usize,
    sender: Sender<Message>,
    settings: &'a Settings,
    curves: &'a Mutex<BTreeMap<usize, Curve>>,
    /// The step to stop after, once it is evaluated there; `None` for the end of the run.
    milestone: Option<u64>,
    /// What all steps took, those before a resumption too.
    totals: RunTotals,
    evaluated: Option<u64>,
    is_losing: bool,
}

impl Watcher<'_> {
    fn is_at_milestone(&self) -> bool {
        self.milestone.is_some_and(|step| self.evaluated >= Some(step))
    }

    fn tell(&self, message: Message) {
        // Nobody listens any more when the sweep itself has failed; the trial is then stopped with the process.
        let _ = self.sender.send(message);
    }
}

impl Observer for Watcher<'_> {
    fn on_step(&mut self, record: &StepRecord, total_steps: u64) {
        let StepRecord { step, loss, .. } = record;
        self.totals.add(record);
        let tokens_per_s = self.totals.tokens_per_s();
        let what = format!("step {step}/{total_steps}  loss {loss:.4}  {tokens_per_s:.0} tokens/s");
        self.tell(Message::Doing(self.trial, what));
    }

    fn on_evaluation(&mut self, record: &EvaluationRecord) {
        // What all trials begin with tells none from another.
        if record.step == 0 {
            return;
        }
        self.evaluated = Some(record.step);
        let mut curves = self.curves.lock().unwrap_or_else(PoisonError::into_inner);
        let curve = curves.entry(self.trial).or_default();
        // A trial that was resumed makes its last evaluations again.
        curve.retain(|&(step, _)| step < record.step);
        curve.push((record.step, record.loss));
        let others = curves.iter().filter(|(trial, _)| **trial != self.trial).map(|(_, curve)| curve);
        self.is_losing = self.settings.early_stop && is_losing(&curves[&self.trial], others);
    }

    fn should_stop(&mut self) -> bool {
        stopping() || self.is_at_milestone() || self.is_losing
    }

    fn on_warning(&mut self, error: &RunError) {
        self.tell(Message::Warning(self.trial, error.to_string()));
    }
}
