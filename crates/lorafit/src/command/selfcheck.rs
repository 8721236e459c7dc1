//! `lorafit selfcheck`: whether a device computes as the processor does, and how fast it is.
//!
//! What is checked and timed are items, each of which can be run by itself. With `--isolate` a process runs them in order and
//! writes what happens as lines of JSON; where it ends too early, the next process goes on behind the item that ended it.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use lorafit_kernels::Device;
use lorafit_kernels::selfcheck::{self, Check, Outcome, Speed, Work};
use lorafit_train::step_checks;

use crate::args::base::ComputeArgs;
use crate::args::common::Common;
use crate::args::options::near;
use crate::session::base::{device, gpu_in_words, use_threads};
use crate::terminal::error::{self, CliError};
use crate::terminal::output;

/// The flags of `selfcheck`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
Examples:
  lorafit selfcheck --device cuda:0
  In f32, where only the order of sums differs:
    lorafit selfcheck --device cuda:0 --compute-dtype f32
  For a program, without the timings, even if a check ends its process:
    lorafit selfcheck --device cuda:0 --no-speed --isolate --json
  Attention and the norms alone:
    lorafit selfcheck --device cuda:0 --only attention,norm

Every op runs on the processor and twice on the device, over one token, odd lengths, rows that share long
prefixes, and key heads that several query heads share; so do whole training steps of small models and the answers they generate. Differences are relative to the largest
value of an output. Both runs on the device must give the same bits. Each check is named on standard error before it begins.
After a check that fails the next one runs. After some errors a process can no longer use the device; the remaining checks
then need --isolate. Exit code 1 where anything is not as it should be.")]
pub struct SelfcheckArgs {
    /// Run only the checks whose name contains one of these texts; `speed` names the timings
    #[arg(long, value_name = "TEXT,...", value_delimiter = ',', help_heading = "Work")]
    pub only: Vec<String>,
    /// Run the checks in a separate process, and start a new one after a check that ends it, loses the device, or takes over 5 minutes
    #[arg(long, help_heading = "Work")]
    pub isolate: bool,
    /// Leave out the timings
    #[arg(long, help_heading = "Work")]
    pub no_speed: bool,
    /// Print the result as one JSON object
    #[arg(long, help_heading = "Work")]
    pub json: bool,
    /// Run the items from this one on, and write what happens as lines of JSON.
    #[arg(long, hide = true, value_name = "N")]
    pub work_from: Option<usize>,
    /// The type of activations.
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// The flags of every verb.
    #[command(flatten)]
    pub common: Common,
}

/// The longest that a check may take in a process of its own, with its kernels compiled.
const LONGEST: Duration = Duration::from_secs(300);

/// The item that is not a check.
const SPEED: &str = "speed";

/// Checks and times a device.
pub fn run(args: SelfcheckArgs) -> anyhow::Result<()> {
    args.common.validate()?;
    if args.no_speed && args.only.iter().any(|text| text.trim() == SPEED) {
        return Err(CliError::usage("--only speed and --no-speed contradict each other")
            .hint("leave one of them out")
            .into());
    }
    use_threads(&args.common)?;
    if let Some(from) = args.work_from {
        let told = work(&args, from, &mut |event| Ok(output::line(event.to_json().to_string())?));
        return told.or_else(|error| {
            let event = Event::Error(error.to_string(), error::hint(&error));
            Ok(output::line(event.to_json().to_string())?)
        });
    }
    let mut report = Report { tells: !args.common.quiet, shows_device: !args.json, ..Report::default() };
    let done = match args.isolate {
        true => isolated(&mut report),
        false => work(&args, 0, &mut |event| report.take(event)),
    };
    if let Err(error) = &done {
        report.error = Some((error.to_string(), error::hint(error)));
    }
    if args.json {
        output::line(report.to_json().to_string())?;
    }
    done?;
    if !args.json {
        output::line(table(&report.outcomes, &report.speeds))?;
    }
    let failed = report.outcomes.iter().filter(|outcome| !outcome.passed()).count();
    if failed > 0 {
        let text = format!("{failed} of {} checks failed on {}", report.outcomes.len(), args.common.device);
        return Err(CliError::new(text)
            .hint("do not train there; --device cpu computes as it should")
            .into());
    }
    Ok(())
}

/// What happens, in this process or in another.
enum Event {
    /// What the device is.
    Device(String),
    /// An item begins.
    Began(String),
    /// Of the item that has begun.
    Outcome(Outcome),
    /// Of the timings.
    Speed(Speed),
    /// The item that has begun is done.
    Ended,
    /// Nothing more can be asked of the device by the process that says so.
    Lost,
    /// All items are done.
    Finished,
    /// There is no device, or nothing to check; with what the user can do.
    Error(String, Option<String>),
}

/// Runs the items from number `from` on.
fn work(
    args: &SelfcheckArgs,
    from: usize,
    on_event: &mut dyn FnMut(Event) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let device = device(&args.common, args.compute)?;
    on_event(Event::Device(describe(device)))?;
    let float = device.placement().activation_float();
    // Names have commas, too: "add, 1 values" is two texts.
    let only: Vec<&str> = args.only.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|text| name.contains(text));
    let mut checks: Vec<Check> = selfcheck::checks(float).into_iter().chain(step_checks(float)).collect();
    let all: BTreeSet<String> = checks.iter().map(|check| op_of(&check.name).to_owned()).collect();
    checks.retain(|check| wanted(&check.name));
    let gpu = match device {
        Device::Cuda(gpu) if !args.no_speed && wanted(SPEED) => Some(gpu),
        Device::Cuda(_) | Device::Cpu => None,
    };
    if checks.is_empty() && gpu.is_none() {
        return Err(none_named(&only, &all).into());
    }
    let mut is_lost = false;
    for check in checks.iter().skip(from) {
        on_event(Event::Began(check.name.clone()))?;
        if is_lost {
            let why = "not run: the device was lost before it (--isolate goes on)".to_owned();
            on_event(Event::Outcome(Outcome::without_result(check.name.clone(), why)))?;
        } else {
            let checked = check.run(device);
            checked.outcomes.into_iter().try_for_each(|outcome| on_event(Event::Outcome(outcome)))?;
            is_lost = checked.device_is_lost;
        }
        on_event(Event::Ended)?;
        if is_lost && args.work_from.is_some() {
            return on_event(Event::Lost);
        }
    }
    if let Some(gpu) = gpu.filter(|_| !is_lost && from <= checks.len()) {
        on_event(Event::Began(SPEED.to_owned()))?;
        let mut told = Ok(());
        let measured = catch_unwind(AssertUnwindSafe(|| {
            selfcheck::measure(gpu, |speed| {
                if told.is_ok() {
                    told = on_event(Event::Speed(speed));
                }
            });
        }));
        told?;
        if let Err(payload) = measured {
            let why = selfcheck::reason(payload.as_ref());
            on_event(Event::Outcome(Outcome::without_result(SPEED.to_owned(), why)))?;
        }
        on_event(Event::Ended)?;
    }
    on_event(Event::Finished)
}

/// The op of a check, which its name begins with.
fn op_of(name: &str) -> &str {
    name.split(',').next().unwrap_or_default()
}

/// The error of `--only` where no check has such a name; `ops` are those of all checks.
fn none_named(only: &[&str], ops: &BTreeSet<String>) -> CliError {
    if only == [SPEED] {
        return CliError::usage("--only speed: a GPU is timed, and a processor is not")
            .hint("name the GPU: --device cuda:0");
    }
    let near: BTreeSet<&str> =
        only.iter().flat_map(|text| near(text, ops.iter().map(String::as_str))).collect();
    let error = CliError::usage(format!("no check has {} in its name", only.join(" or ")));
    match near.is_empty() {
        true => error.hint("without --only all checks run, and each prints its name"),
        false => error.hint(format!("near are {}", Vec::from_iter(near).join(", "))),
    }
}

/// Runs this command line in processes that do the work, as many as it takes.
fn isolated(report: &mut Report) -> anyhow::Result<()> {
    while !report.finished {
        let before = report.ended;
        let mut child = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .arg("--work-from")
            .arg(before.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let end = loop {
            match receiver.recv_timeout(LONGEST) {
                Ok(line) => {
                    if let Some(event) = Event::from_json(&line) {
                        report.take(event)?;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break child.wait()?.to_string(),
                Err(RecvTimeoutError::Timeout) => {
                    child.kill()?;
                    child.wait()?;
                    break format!("it was stopped after {} s", LONGEST.as_secs());
                }
            }
        };
        if let Some((text, hint)) = report.error.clone() {
            let error = CliError::new(text);
            return Err(hint.map_or(error.clone(), |hint| error.hint(hint)).into());
        }
        if let Some(name) = report.began.clone() {
            let why = format!("the process did not come to its end: {end}");
            report.take(Event::Outcome(Outcome::without_result(name, why)))?;
            report.take(Event::Ended)?;
        } else if !report.finished && report.ended == before {
            return Err(CliError::new(format!("the process that checks did not begin: {end}")).into());
        }
    }
    Ok(())
}

/// What has happened so far.
#[derive(Default)]
struct Report {
    /// Whether items are told on standard error.
    tells: bool,
    /// Whether the device is shown when it is known.
    shows_device: bool,
    device: Option<String>,
    outcomes: Vec<Outcome>,
    speeds: Vec<Speed>,
    /// The item that has begun and not ended.
    began: Option<String>,
    /// What was found wrong in it.
    failures: Vec<String>,
    /// Items that have ended.
    ended: usize,
    finished: bool,
    /// Why nothing was checked, and what the user can do.
    error: Option<(String, Option<String>)>,
}

impl Report {
    fn take(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Device(text) => {
                if self.shows_device && self.device.is_none() {
                    output::line(&text)?;
                }
                self.device = Some(text);
            }
            Event::Began(name) => {
                // There before it begins, whatever it does to this process.
                self.tell(&format!("{name} ... "));
                self.began = Some(name);
            }
            Event::Outcome(outcome) => {
                if !outcome.passed() {
                    let text = outcome.to_string();
                    let of_began =
                        self.began.as_ref().and_then(|name| text.strip_prefix(&format!("{name}: ")));
                    self.failures.push(of_began.unwrap_or(&text).to_owned());
                }
                self.outcomes.push(outcome);
            }
            Event::Speed(speed) => self.speeds.push(speed),
            Event::Ended => {
                let failures = std::mem::take(&mut self.failures).join("\n  ");
                self.tell(&if failures.is_empty() {
                    "passed\n".to_owned()
                } else {
                    format!("FAILED: {failures}\n")
                });
                self.began = None;
                self.ended += 1;
            }
            Event::Lost => {}
            Event::Finished => self.finished = true,
            Event::Error(text, hint) => self.error = Some((text, hint)),
        }
        Ok(())
    }

    fn tell(&self, text: &str) {
        if self.tells {
            // With standard error closed there is nobody to tell.
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
    }

    fn to_json(&self) -> Value {
        let passed = self.error.is_none() && self.outcomes.iter().all(Outcome::passed);
        json!({
            "device": self.device,
            "passed": passed,
            "error": self.error.as_ref().map(|(text, _)| text),
            "hint": self.error.as_ref().and_then(|(_, hint)| hint.as_ref()),
            "checks": self.outcomes.iter().map(outcome_to_json).collect::<Vec<_>>(),
            "speed": self.speeds.iter().map(speed_to_json).collect::<Vec<_>>(),
        })
    }
}

impl Event {
    fn to_json(&self) -> Value {
        match self {
            Event::Device(text) => json!({ "device": text }),
            Event::Began(name) => json!({ "began": name }),
            Event::Outcome(outcome) => json!({ "outcome": outcome_to_json(outcome) }),
            Event::Speed(speed) => json!({ "speed": speed_to_json(speed) }),
            Event::Ended => json!({ "ended": true }),
            Event::Lost => json!({ "lost": true }),
            Event::Finished => json!({ "finished": true }),
            Event::Error(text, hint) => json!({ "error": [text, hint] }),
        }
    }

    /// `None` for what is no event: a driver may write to standard output, too.
    fn from_json(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line).ok()?;
        let (kind, value) = value.as_object()?.iter().next()?;
        let text = || value.as_str().map(str::to_owned);
        Some(match kind.as_str() {
            "device" => Event::Device(text()?),
            "began" => Event::Began(text()?),
            "outcome" => Event::Outcome(outcome_from_json(value)?),
            "speed" => Event::Speed(speed_from_json(value)?),
            "ended" => Event::Ended,
            "lost" => Event::Lost,
            "finished" => Event::Finished,
            "error" => Event::Error(value[0].as_str()?.to_owned(), value[1].as_str().map(str::to_owned)),
            _ => return None,
        })
    }
}

fn outcome_to_json(outcome: &Outcome) -> Value {
    json!({
        "name": outcome.name,
        // JSON has no infinity.
        "error": outcome.error.is_finite().then_some(outcome.error),
        "tolerance": outcome.tolerance,
        "repeats": outcome.repeats,
        "passed": outcome.passed(),
        "failure": outcome.failure,
    })
}

fn outcome_from_json(value: &Value) -> Option<Outcome> {
    Some(Outcome {
        name: value["name"].as_str()?.to_owned(),
        error: value["error"].as_f64().map_or(f32::INFINITY, |error| error as f32),
        tolerance: value["tolerance"].as_f64()? as f32,
        repeats: value["repeats"].as_bool()?,
        failure: value["failure"].as_str().map(str::to_owned),
    })
}

fn speed_to_json(speed: &Speed) -> Value {
    let (unit, amount, of_amount) = match speed.work {
        Work::Flops(flops) => ("flops_per_s", "flops", flops),
        Work::Bytes(bytes) => ("bytes_per_s", "bytes", bytes),
    };
    json!({ "name": speed.name, "seconds": speed.seconds, amount: of_amount, unit: speed.rate() })
}

fn speed_from_json(value: &Value) -> Option<Speed> {
    let (flops, bytes) = (value["flops"].as_f64().map(Work::Flops), value["bytes"].as_f64().map(Work::Bytes));
    let name = value["name"].as_str()?.to_owned();
    Some(Speed { name, work: flops.or(bytes)?, seconds: value["seconds"].as_f64()? })
}

fn describe(device: Device) -> String {
    match device {
        Device::Cpu => "cpu: the processor against itself".to_owned(),
        Device::Cuda(gpu) => gpu_in_words(&gpu.info()),
    }
}

/// The worst of each op, and the rates beside the ceilings: the first of their kind.
fn table(outcomes: &[Outcome], speeds: &[Speed]) -> String {
    let mut lines = vec![format!("{:<44}{:>7}{:>12}{:>12}", "op", "cases", "differs by", "of")];
    let mut ops: Vec<(&str, Vec<&Outcome>)> = Vec::new();
    for outcome in outcomes {
        let op = op_of(&outcome.name);
        match ops.iter_mut().find(|(known, _)| *known == op) {
            Some((_, of_op)) => of_op.push(outcome),
            None => ops.push((op, vec![outcome])),
        }
    }
    // Of what passed, what came nearest to failing.
    let nearness =
        |o: &Outcome| if o.passed() { o.error / o.tolerance.max(f32::MIN_POSITIVE) } else { f32::INFINITY };
    for (op, of_op) in ops {
        let worst =
            of_op.iter().max_by(|a, b| nearness(a).total_cmp(&nearness(b))).expect("no group is empty");
        let failed = of_op.iter().filter(|outcome| !outcome.passed()).count();
        let note = if failed > 0 { format!("  {failed} FAILED") } else { String::new() };
        let (error, tolerance) = (worst.error, worst.tolerance);
        lines.push(format!("{op:<44}{:>7}{error:>12.1e}{tolerance:>12.1e}{note}", of_op.len()));
    }
    let passed = outcomes.iter().filter(|outcome| outcome.passed()).count();
    lines.push(format!("{passed} of {} checks passed", outcomes.len()));
    if !speeds.is_empty() {
        lines.push(String::new());
        lines.push(format!("{:<52}{:>10}{:>16}{:>8}", "op", "ms", "rate", "share"));
    }
    let is_flops = |speed: &Speed| matches!(speed.work, Work::Flops(_));
    for speed in speeds {
        let ceiling =
            speeds.iter().find(|other| is_flops(other) == is_flops(speed)).expect("at least itself");
        let rate = match speed.work {
            Work::Flops(_) => format!("{:.1} TFLOP/s", speed.rate() / 1e12),
            Work::Bytes(_) => format!("{:.0} GB/s", speed.rate() / 1e9),
        };
        let share = 100.0 * speed.rate() / ceiling.rate();
        lines.push(format!("{:<52}{:>10.3}{rate:>16}{share:>6.0} %", speed.name, 1e3 * speed.seconds));
    }
    lines.join("\n")
}
