//! `lorafit train`: its flags, which are also the keys of its configuration file.

use std::path::Path;

use lorafit_data::HeldOut;
use serde_json::json;

use lorafit_remedy::amounts::{self, counted, duration, grouped};
use lorafit_train::{
    Averaged, EvaluationRecord, Observer, Outcome, Reduction, RestartReason, RunError, RunFolder, RunHistory,
    RunLock, RunState, RunStatus, RunTotals, SkipRecord, StepRecord, Summary, TrainError, Verdict, rss_bytes,
};

use crate::args::config_file::Given;
use crate::args::memory::RecomputeChoice;
use crate::args::options::{Method, value_name};
use crate::args::projections::patterns_in_words;
use crate::args::rows::Validation;
use crate::args::train::TrainArgs;
use crate::session::base::use_threads;
use crate::session::base_name;
use crate::session::memory_table;
use crate::session::preference;
use crate::session::preset::Choice;
use crate::session::processes::Processes;
use crate::session::resume::Resumption;
use crate::session::rows::{has_chats, read_in_words, shapes, skipped, treated};
use crate::session::run::{Data, Ready, Shared};
use crate::session::trained::Trained;
use crate::session::verdict::{beside_loss, best_in_words, in_words, next_command};
use crate::terminal::error::Stopped;
use crate::terminal::interrupt;
use crate::terminal::output;
use crate::terminal::progress::{LogFormat, Progress};
use crate::terminal::shell::shell_word;

/// Trains an adapter or a model, together with the processes that were started with this one.
pub fn run(args: TrainArgs, given: &Given) -> anyhow::Result<()> {
    let processes = Processes::join()?;
    let result = train(args, given, &processes);
    processes.part(result)
}

fn train(args: TrainArgs, given: &Given, processes: &Processes) -> anyhow::Result<()> {
    let mut args = args.resolve(given)?;
    let group = processes.group();
    if !group.is_first() {
        // The first process speaks for all.
        (args.common.quiet, args.safety.log) = (true, LogFormat::Text);
    }
    if args.print_config {
        return if group.is_first() { print_config(&args, given) } else { Ok(()) };
    }
    args.check_adapter(given)?;
    let Some(out) = &args.out.clone() else { unreachable!("resolve asks for it") };
    processes.check(&args)?;
    args.check_outputs(out)?;
    // Whoever finds the process by its lock may signal it.
    interrupt::listen_for_saves();
    let lock = group.is_first().then(|| RunLock::take(out)).transpose()?;
    if group.is_first() && !args.overwrite && args.resume.is_none() {
        RunFolder::check_free(out)?;
    }
    use_threads(&processes.threads(&args.common))?;
    let mut progress = Progress::new(args.common.quiet, args.log_every, args.safety.log);
    let resumption = match &args.resume {
        Some(run) => Resumption::find(run, &mut progress)?,
        None => Resumption::default(),
    };
    let mut base = args.open_base()?;
    if let Some(checkpoint) = &resumption.checkpoint {
        base.tokenizer.set_clock(checkpoint.clock);
    }
    // What cannot be trained is said before rows are read.
    let mut fresh = resumption.checkpoint.is_none().then(|| Trained::fresh(&args, &base)).transpose()?;
    let data = processes.first_first(|| args.load(&base))?;
    let reference = args.open_reference(&base)?;
    let shared = Shared { base: &base, data: &data, reference: reference.as_ref(), group };
    if let Some(trained) = &mut fresh {
        let told = settle(&mut args, given, shared, trained)?;
        told.iter().for_each(|line| progress.note(line));
    }
    let resumed_after = resumption.checkpoint.as_ref().map(|checkpoint| checkpoint.state.step);
    let mut ready = Ready::new(&args, shared, resumption, fresh, &mut progress)?;
    let (recompute, plan) = ready.choose(processes.on_this_machine())?;
    processes.in_words().iter().for_each(|line| progress.note(line));
    tell_setup(&mut progress, &ready);
    let policy = format!("recompute {}", RecomputeChoice::Fixed(recompute));
    progress.note(&memory_table::of_run(&policy, &plan, progress.is_on_terminal()));
    progress.event("start", &json!({ "total_steps": ready.total_steps(), "out": out }));
    let mut totals = RunTotals::default();
    if let Some(done) = resumed_after {
        for step in RunHistory::read(out)?.steps.iter().filter(|step| step.step <= done) {
            progress.remember(step.loss);
            totals.add(step);
        }
    }
    let mut watcher = Watcher { progress, totals, reductions: Reductions::default() };
    let rows = data.rows.report.rows;
    let result = ready.train(lock, recompute, &plan, &mut watcher);
    watcher.progress.finish();
    let (summary, _) = result.inspect_err(|error| {
        let found = error.downcast_ref::<TrainError>().and_then(TrainError::verdict);
        if let Some(found) = found {
            show_verdict(&mut watcher.progress, Ended { args: &args, out, rows }, found);
        }
    })?;
    if !group.is_first() {
        return if summary.interrupted { Err(Stopped.into()) } else { Ok(()) };
    }
    watcher.reductions.in_words().iter().for_each(|line| watcher.progress.note(line));
    tell_end(&mut watcher.progress, &args, out, &summary, group.size());
    if args.method == Method::Lora {
        let command = format!("lorafit train --resume {} ", out.display());
        let note = base_name::note(&ready.base_model(), &base.weights, &command);
        note.iter().for_each(|note| watcher.progress.note(note));
    }
    // What was trained on plain text is not asked in a conversation, although the model may have a template.
    let is_chat = has_chats(&data.rows.report) && base.tokenizer.compile_chat_template()?.is_some();
    if args.preference.objective().is_some() {
        let steps = RunHistory::read(out)?.steps;
        preference::of_steps(&steps).iter().for_each(|line| watcher.progress.note(line));
    }
    tell_verdict(&mut watcher.progress, Ended { args: &args, out, rows }, &summary, is_chat);
    if summary.interrupted {
        // Scripts see by the code that it did not run to the end.
        return Err(Stopped.into());
    }
    Ok(())
}

fn print_config(args: &TrainArgs, given: &Given) -> anyhow::Result<()> {
    output::line(args.to_print(&given.with_keys_of::<TrainArgs>(args.config.as_deref())?)?.trim_end())?;
    Ok(())
}

/// Sets what depends on the data: what a preset chooses, a learning rate that is tested, and tokens at once. Gives the lines that say it.
///
/// `typed` are the flags of the command line.
fn settle(
    args: &mut TrainArgs,
    typed: &Given,
    shared: Shared<'_>,
    trained: &mut Trained,
) -> anyhow::Result<Vec<String>> {
    let Shared { base, data, reference, .. } = shared;
    let (rank, alpha) = (args.rank, args.alpha);
    let given = typed.with_keys_of::<TrainArgs>(args.config.as_deref())?;
    let chosen = args.apply_preset(&given, base, data)?;
    if (args.rank, args.alpha) != (rank, alpha) {
        *trained = Trained::fresh(args, base)?;
    }
    let mut told = Vec::new();
    if let (Some(preset), false) = (args.chooses(), chosen.is_empty()) {
        let default = if given.has("preset") { "" } else { " (the default)" };
        told.push(format!("--preset {}{default} chooses what is not given:", value_name(&preset)));
    }
    let line = |choice: &Choice| format!("  --{} {}: {}", choice.flag, choice.value, choice.why);
    told.extend(chosen.iter().map(line));
    told.extend(args.find_rate(base, data, reference, trained));
    if !chosen.is_empty() {
        let lr = args.rate().unwrap_or_default();
        let flag = |choice: &Choice| match choice.flag {
            "lr" => format!("--lr {lr}"),
            flag => format!("--{flag} {}", choice.value),
        };
        let flags: Vec<String> = chosen.iter().map(flag).collect();
        told.push(format!("the same without a preset: --preset off {}", flags.join(" ")));
    }
    args.take_fixed();
    told.extend(args.find_micro_batch(shared, trained)?);
    told.extend(args.find_at_once(shared, trained)?);
    told.extend(args.settle_frozen(shared, trained)?);
    Ok(told)
}

/// Shows the loop to the user and the user's signals to the loop.
struct Watcher {
    progress: Progress,
    /// What all steps took, those before a resumption too.
    totals: RunTotals,
    reductions: Reductions,
}

/// What it took to add up the gradients of several processes.
#[derive(Default)]
struct Reductions {
    steps: u32,
    step_seconds: f64,
    sum: Reduction,
}

impl Reductions {
    fn add(&mut self, record: &StepRecord) {
        let Some(Reduction { processes, wait_seconds, seconds, bytes }) = record.reduction else { return };
        self.steps += 1;
        self.step_seconds += record.seconds;
        self.sum.processes = processes;
        self.sum.wait_seconds += wait_seconds;
        self.sum.seconds += seconds;
        self.sum.bytes += bytes;
    }

    /// The means of all steps; nothing of one process.
    fn in_words(&self) -> Option<String> {
        if self.steps == 0 {
            return None;
        }
        let steps = f64::from(self.steps);
        let share = |seconds: f64| amounts::percent(seconds / self.step_seconds, 1);
        Some(format!(
            "reduction of the gradients of {} processes: {:.2} ms a step ({} of its time), {} sent by each; waiting for the slowest: \
             {:.2} ms a step ({})",
            self.sum.processes,
            1e3 * self.sum.seconds / steps,
            share(self.sum.seconds),
            amounts::memory(self.sum.bytes / u64::from(self.steps)),
            1e3 * self.sum.wait_seconds / steps,
            share(self.sum.wait_seconds),
        ))
    }
}

impl Observer for Watcher {
    fn on_step(&mut self, record: &StepRecord, total_steps: u64) {
        self.reductions.add(record);
        self.totals.add(record);
        if self.progress.event("step", record) {
            return;
        }
        let (step, total) = (record.step as usize, total_steps as usize);
        self.progress.step(step, total, record.loss, self.totals.tokens_per_s(), rss_bytes());
    }

    fn on_evaluation(&mut self, record: &EvaluationRecord) {
        if !self.progress.event("evaluation", record) {
            let beside = beside_loss(record);
            self.progress.eval(record.step as usize, record.loss, beside.as_deref(), record.best);
        }
    }

    fn on_reference(&mut self, done: usize, samples: usize) {
        let record = json!({ "done": done, "samples": samples });
        if !self.progress.event("reference", &record) {
            self.progress.reference(done, samples);
        }
    }

    fn on_known_reference(&mut self, samples: usize) {
        let record = json!({ "done": samples, "samples": samples, "cached": true });
        if !self.progress.event("reference", &record) {
            let replies = counted(samples, "reply", "replies");
            self.progress.note(&format!("what the reference says of {replies} is kept from an earlier run"));
        }
    }

    fn on_frozen(&mut self, done: usize, texts: usize) {
        if !self.progress.event("frozen", &json!({ "done": done, "texts": texts })) {
            self.progress.frozen(done, texts);
        }
    }

    fn on_frozen_kept(&mut self, blocks: usize, tokens: u64, known: u64) {
        if !self.progress.event("frozen_kept", &json!({ "blocks": blocks, "tokens": tokens, "known": known }))
        {
            let how = if known == tokens { "found" } else { "kept" };
            let (blocks, tokens) = (counted(blocks, "frozen block", "frozen blocks"), grouped(tokens));
            self.progress.note(&format!("the {blocks}: outputs for {tokens} tokens {how} in the cache"));
        }
    }

    fn on_skip(&mut self, record: &SkipRecord) {
        if !self.progress.event("skip", record) {
            let SkipRecord { step, skipped, value, lines } = record;
            self.progress.note(&format!("step {step} skipped: the {skipped} is {value} (lines {lines:?})"));
        }
    }

    fn on_restart(&mut self, step: u64, total_steps: u64, reason: RestartReason) {
        let (name, why) = match reason {
            RestartReason::StillFalling => ("still-falling", "the held-out loss still falls"),
            RestartReason::NotByHeart => {
                ("not-by-heart", "the rows trained on are known no better than those held out")
            }
        };
        let record = json!({ "step": step, "total_steps": total_steps, "reason": name });
        if !self.progress.event("restart", &record) {
            let more = counted((total_steps - step) as usize, "more step", "more steps");
            self.progress.note(&format!("step {step}  {why}: the learning rate begins anew, for {more}"));
        }
    }

    fn on_checkpoint(&mut self, step: u64, path: &Path) {
        if !self.progress.event("checkpoint", &json!({ "step": step, "path": path })) {
            self.progress.note(&format!("step {step}  checkpoint saved: {}", path.display()));
        }
    }

    fn on_warning(&mut self, error: &RunError) {
        if !self.progress.event("warning", &json!({ "error": error.to_string() })) {
            let how = match error {
                RunError::Frozen { .. } => "computes them in every pass",
                _ => "tries again",
            };
            self.progress.note(&format!("{error}; training goes on and {how}"));
        }
    }

    fn should_stop(&mut self) -> bool {
        interrupt::asked()
    }

    fn should_save(&mut self) -> bool {
        interrupt::asked_to_save()
    }
}

fn tell_setup(progress: &mut Progress, ready: &Ready<'_>) {
    let Ready { args, base, data: Data { rows, held_out }, trained, .. } = ready;
    let (trainable, of_model) = (trained.parameters(base), base.model.config().parameters());
    let (all, what) = match trained {
        Trained::Adapter(adapter) => {
            let lora = adapter.config();
            let ranks = patterns_in_words(&args.projections.rank_pattern);
            let alphas = patterns_in_words(&args.alpha_pattern);
            let rslora = if lora.use_rslora { " (rsLoRA)" } else { "" };
            let kept = if adapter.keeps_start() { ", of which half stays as it began" } else { "" };
            let ranks = format!("rank {}{ranks}{kept}", lora.rank);
            (trainable + of_model, format!("{ranks}, alpha {}{alphas}{rslora}", lora.alpha))
        }
        Trained::Weights { random: None, .. } => (of_model, "of the model itself".to_owned()),
        Trained::Weights { random: Some(_), .. } => (of_model, "of a model that begins random".to_owned()),
    };
    let report = &rows.report;
    progress.note(&format!("trainable parameters {}, {what}", amounts::trainable(trainable, all)));
    if let (Method::Full, false) = (args.method, base.model.is_float()) {
        progress.note("the base is quantised: the weights that are trained begin as what it decodes to");
    }
    let of_shapes = shapes(report);
    let rows_in_words = counted(
        report.rows - report.dropped - report.overlong,
        &format!("{of_shapes} row"),
        &format!("{of_shapes} rows"),
    );
    progress.note(&format!("data {}: {}", args.data.join(", "), read_in_words(report, &rows_in_words)));
    if let Some(line) = held_out_line(args, ready.data) {
        progress.note(&line);
    }
    if report.truncated + report.dropped + report.overlong > 0 {
        progress.note(&format!(
            "{} cut to --max-seq-len {}, {} dropped as longer, {} dropped with nothing to train",
            counted(report.truncated, "row", "rows"),
            args.rows.max_seq_len,
            report.overlong,
            report.dropped
        ));
    }
    skipped(&rows.origin).iter().chain(&treated(rows)).for_each(|line| progress.note(line));
    // Held-out rows of the same files are told already.
    if let Some(data) = held_out.as_ref().filter(|_| !args.eval_data.is_empty()) {
        let lines = skipped(&data.origin).into_iter().chain(treated(data));
        lines.for_each(|line| progress.note(&format!("evaluation: {line}")));
    }
    if args.preference.objective().is_some() {
        preference::of_rows(rows, args.batch_size).iter().for_each(|line| progress.note(line));
    }
    let (steps, most) = (ready.total_steps() as usize, ready.most_steps() as usize);
    let more = match most > steps {
        true => format!(", up to {} where there is more to learn at the end", grouped(most as u64)),
        false => String::new(),
    };
    progress.note(&(counted(steps, "optimizer step", "optimizer steps") + &more));
    if args.loop_options().schedule_over(steps as u64).is_idle() {
        progress.note(
            "no step changes anything: all of them warm up, and the learning rate begins at 0; --warmup-ratio 0 begins at its peak",
        );
    }
}

/// Which rows of `--data` are held out, where `--validation` decides that.
fn held_out_line(args: &TrainArgs, data: &Data) -> Option<String> {
    let chosen = args.validation?;
    let Some(held_out) = data.held_out.as_ref() else {
        let few = format!("no rows are held out, as there are fewer than {}", HeldOut::LEAST_ROWS);
        return (chosen == Validation::AUTO).then_some(few);
    };
    let (rows, held_out) = (data.rows.report.rows, held_out.report.rows);
    let all = counted(rows + held_out, "row", "rows");
    let are = if held_out == 1 { "is" } else { "are" };
    let line = format!("{} of {all} {are} held out to judge the run", grouped(held_out as u64));
    Some(if chosen == Validation::AUTO {
        format!("{line}; --validation none trains on all of them")
    } else {
        line
    })
}

fn tell_end(progress: &mut Progress, args: &TrainArgs, run: &Path, summary: &Summary, processes: usize) {
    let how = match (summary.interrupted, summary.stopped_early) {
        (true, _) => RunState::Stopped.name(),
        // The verdict says why.
        (false, Some(_)) => "stopped early",
        (false, None) => RunState::Finished.name(),
    };
    if summary.skipped > 0 {
        let steps = counted(summary.skipped as usize, "step was", "steps were");
        progress.note(&format!("{steps} skipped; metrics.jsonl names the rows"));
    }
    let steps = counted(summary.steps as usize, "step", "steps");
    progress.note(&format!("{how} after {steps} in {}", duration(summary.seconds)));
    if let Some(best) = &summary.best {
        let dir = RunFolder::best_dir(run);
        let of_what = if args.preference.is_classifier() { "accuracy" } else { "chosen preferred in" };
        let accuracy = best.accuracy.map(|share| format!(", {of_what} {}", amounts::percent(share, 0)));
        let base = RunStatus::read(run).ok().and_then(|status| status.base_loss);
        let (found, beside) = ((best.step, best.loss), accuracy.unwrap_or_default());
        progress.note(&format!("{}: {}", best_in_words(args.best_by, base, found, &beside), dir.display()));
    }
    if let Some(Averaged { steps, evaluation }) = &summary.average {
        let dir = RunFolder::average_dir(run);
        let over = counted(*steps as usize, "step", "steps");
        let loss = evaluation.as_ref().map(|found| format!(", held-out loss {:.4}", found.loss));
        progress.note(&format!("average over {over}{}: {}", loss.unwrap_or_default(), dir.display()));
    }
    match args.method {
        Method::Lora => progress.note(&format!("adapter saved in {}", run.display())),
        Method::Full => progress.note(&format!("model saved in {}", RunFolder::model_dir(run).display())),
    }
    if summary.interrupted {
        let launcher = if processes > 1 { format!("mpirun -n {processes} ") } else { String::new() };
        let folder = shell_word(&run.display().to_string());
        progress.note(&format!("go on with {launcher}lorafit train --resume {folder}"));
    }
}

/// A run that is over: its flags, its folder, and how many rows it was trained on.
#[derive(Clone, Copy)]
struct Ended<'a> {
    args: &'a TrainArgs,
    out: &'a Path,
    rows: usize,
}

/// Tells what the run came to, and what to run next.
fn tell_verdict(progress: &mut Progress, ended: Ended<'_>, summary: &Summary, is_chat: bool) {
    let Some(found) = &summary.verdict else { return };
    if show_verdict(progress, ended, found) {
        return;
    }
    let Ended { args, out, .. } = ended;
    let is_useless =
        matches!(found.outcome, Outcome::Diverged | Outcome::DidNotLearn | Outcome::Guessing { .. });
    if found.to < found.from && !is_useless {
        let has_better = summary.best.is_some_and(|best| best.step < summary.steps);
        progress.note(&format!("next: {}", next_command(args, out, has_better, is_chat)));
    }
}

/// Shows a verdict; true if it is an event of a JSON log, which has no more to say.
fn show_verdict(progress: &mut Progress, Ended { args, out, rows }: Ended<'_>, found: &Verdict) -> bool {
    if progress.event("verdict", found) {
        return true;
    }
    in_words(found, args, out, Some(rows)).iter().for_each(|line| progress.note(line));
    false
}
