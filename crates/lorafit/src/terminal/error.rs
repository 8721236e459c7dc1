//! Errors as the user sees them: what went wrong, indented details, and a hint to act on.
//!
//! Verbs return `anyhow::Result`, so a library's error travels up with `?`. Its `hint()` is found here
//! again by its type: a new library error type is one line in [`library_hint`]. It is a [`Remedy`], which
//! [`words`] says with the flags of the verb that runs.

use std::error::Error;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use lorafit_kernels::gpu::DeviceError;
use lorafit_remedy::{Remedy, printable};
use serde_json::json;

use crate::terminal::words::Verb;
use crate::terminal::{host, interrupt, output};

/// An error of the command line itself.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct CliError {
    message: String,
    hint: Option<Remedy>,
    usage: bool,
}

impl CliError {
    /// Something asked for properly that cannot be done; exit code 1.
    pub fn new(message: impl Into<String>) -> Self {
        CliError { message: message.into(), hint: None, usage: false }
    }

    /// Something asked for wrongly (flags, configuration file); exit code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        CliError { usage: true, ..CliError::new(message) }
    }

    /// Adds what the user can do about it: in words, since a verb knows its flags, or as a library has it.
    pub fn hint(self, hint: impl Into<Remedy>) -> Self {
        CliError { hint: Some(hint.into()), ..self }
    }
}

/// Finds the hint of a library's error by the error's type.
macro_rules! hint_of_any {
    ($error:expr, $($type:ty),+ $(,)?) => {
        $(if let Some(error) = $error.downcast_ref::<$type>() { return error.hint(); })+
    };
}

/// The hint of a library's error: one line per error type.
fn library_hint(error: &(dyn Error + 'static)) -> Option<Remedy> {
    hint_of_any!(
        error,
        lorafit_data::DataError,
        lorafit_data::RowProblem,
        lorafit_data::TemplateError,
        lorafit_data::TokenizerError,
        lorafit_data::NewTokenError,
        lorafit_model::FileError,
        lorafit_model::SourceError,
        lorafit_model::adapter::TargetError,
        lorafit_model::ConfigError,
        lorafit_model::merge::CombineError,
        DeviceError,
        lorafit_train::BenchError,
        lorafit_train::GroupError,
        lorafit_train::RunError,
        lorafit_train::TrainError,
    );
    None
}

/// A verb that ended because it was asked to: there is nothing to tell, and the exit code says so.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("stopped")]
pub struct Stopped;

/// A verb of which it is said already, here or by another process of the same run, why it ended.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("it is said already why")]
pub struct Said {
    /// The exit code of the process.
    pub code: u8,
}

/// How a verb failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The request was right, and could not be done.
    Doing,
    /// The request was wrong.
    Asking,
    /// It was stopped.
    Stopped,
}

/// What went wrong in a call, as a program that embeds the library reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong, with details on further lines.
    pub message: String,
    /// What can be done about it.
    pub hint: Option<String>,
    /// Whose fault it is.
    pub failed: Failed,
}

impl Failure {
    /// Of a call that ended with `error`, in the words of its verb.
    pub fn of(error: &anyhow::Error) -> Self {
        Failure { message: message(error), hint: hint(error), failed: failed(error) }
    }

    /// Of words that are no command line.
    pub fn of_words(error: &clap::Error) -> Self {
        let text = error.render().to_string();
        let mut parts = text.trim().split("\n\n").map(|part| part.trim().trim_start_matches("error: "));
        let message = parts.next().unwrap_or_default().to_owned();
        let hint = parts.filter_map(|part| part.strip_prefix("tip: ")).collect::<Vec<_>>().join("\n");
        Failure { message, hint: Some(hint).filter(|hint| !hint.is_empty()), failed: Failed::Asking }
    }
}

/// What `error` says of the verb that it ended.
pub fn failed(error: &anyhow::Error) -> Failed {
    let is = |test: &dyn Fn(&(dyn Error + 'static)) -> bool| error.chain().any(test);
    match () {
        () if is(&|cause| cause.is::<Stopped>()) => Failed::Stopped,
        () if is(&|cause| cause.downcast_ref::<CliError>().is_some_and(|error| error.usage)) => {
            Failed::Asking
        }
        () => Failed::Doing,
    }
}

/// What `run` returns; a device that fails in the middle of a computation, which unwinds, is an error, too.
pub fn with_device_errors<T>(run: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !info.payload().is::<DeviceError>() {
                hook(info);
            }
        }));
    });
    // Nothing is used afterwards but the error.
    panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| {
        match payload.downcast::<DeviceError>() {
            Ok(error) => Err((*error).into()),
            Err(other) => panic::resume_unwind(other),
        }
    })
}

/// How a call wants to read an error, by the words that were typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ErrorForm {
    /// As text.
    Text,
    /// As text and, in place of the result, as a JSON object (`--json`).
    Result,
    /// As an event of a log (`--log json`).
    Event,
}

impl ErrorForm {
    fn of(words: &[OsString]) -> Self {
        let word = |i: usize| words.get(i).and_then(|word| word.to_str()).unwrap_or_default();
        // What follows `--` are no flags.
        let flags = (0..words.len()).take_while(|&i| word(i) != "--");
        let is_log = |i: usize| word(i) == "--log=json" || (word(i) == "--log" && word(i + 1) == "json");
        let (mut as_result, mut as_event) = (false, false);
        for i in flags {
            as_result |= word(i) == "--json";
            as_event |= is_log(i);
        }
        match (as_event, as_result) {
            (true, _) => ErrorForm::Event,
            (false, true) => ErrorForm::Result,
            (false, false) => ErrorForm::Text,
        }
    }
}

/// Shows why a call ended, in the form that its words ask for.
fn show(text: &str, failure: &Failure, code: u8, words: &[OsString]) {
    let object = || json!({ "error": failure.message, "hint": failure.hint, "exit_code": code });
    // With standard error closed there is nobody to tell; nor where nobody reads results.
    match ErrorForm::of(words) {
        ErrorForm::Text => drop(io::stderr().write_all(text.as_bytes())),
        ErrorForm::Result => {
            // What has a result already, of which the error is a part, stays one object.
            if !host::current().has_result() {
                drop(output::line(object().to_string()));
            }
            drop(io::stderr().write_all(text.as_bytes()));
        }
        ErrorForm::Event => {
            let mut event = object();
            event["event"] = "error".into();
            drop(writeln!(io::stderr(), "{event}"));
        }
    }
}

/// Shows what is wrong with the words of a process, or the help that they ask for; gives the exit code.
pub fn exit_code_of_words(error: &clap::Error, words: &[OsString]) -> u8 {
    let code = error.exit_code() as u8;
    if !error.use_stderr() || ErrorForm::of(words) == ErrorForm::Text {
        // A pipe that is closed has seen enough.
        let _ = error.print();
        return code;
    }
    show(&error.render().to_string(), &Failure::of_words(error), code, words);
    code
}

/// Shows the error, if any, on standard error; gives the exit code of the process.
pub fn exit_code(result: anyhow::Result<()>) -> u8 {
    let Err(error) = result else { return 0 };
    // Whoever read our output has seen enough (`lorafit ... | head`): not an error.
    if error.chain().any(is_broken_pipe) {
        return 0;
    }
    if let Some(Said { code }) = error.downcast_ref() {
        return *code;
    }
    let colour = output::has_colour(&io::stderr());
    let code = match failed(&error) {
        Failed::Stopped => return interrupt::exit_code() as u8,
        Failed::Asking => 2,
        Failed::Doing => 1,
    };
    show(&render(&error, colour), &Failure::of(&error), code, host::current().words());
    code
}

/// The error as text, for example in the middle of a chat.
pub fn render(error: &anyhow::Error, colour: bool) -> String {
    rendered(error, colour, hint(error))
}

/// The error as text, with what `verb` could do about it.
pub fn render_for(error: &anyhow::Error, verb: &Verb) -> String {
    rendered(error, false, error.chain().find_map(hint_of).and_then(|hint| verb.worded(&hint)))
}

fn rendered(error: &anyhow::Error, colour: bool, hint: Option<String>) -> String {
    let paint = |code: &'static str, text: &str| match colour {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text.to_owned(),
    };
    let message = message(error);
    let mut text = format!("{} {}\n", paint("1;31", "error:"), printable::text(&message));
    if let Some(hint) = hint {
        let hint = hint.replace('\n', "\n  ");
        let _ = writeln!(text, "{} {}", paint("1;36", "hint:"), printable::text(&hint));
    }
    text
}

/// What went wrong, with its causes indented below.
pub fn message(error: &anyhow::Error) -> String {
    let (mut lines, mut shown) = (Vec::new(), String::new());
    for cause in error.chain().map(|cause| cause.to_string()) {
        // Many error types repeat their cause in their own message.
        if shown.contains(&cause) || (is_absence(&cause) && ABSENT.iter().any(|words| shown.contains(words)))
        {
            continue;
        }
        for line in cause.lines() {
            let is_first = shown.is_empty();
            lines.push(if is_first { line.to_owned() } else { format!("  {}", line.trim_start()) });
            shown.push_str(line);
        }
        shown.push('\n');
    }
    host::current().verb().with_keys(&lines.join("\n"))
}

/// Words that say that something is not there.
const ABSENT: [&str; 5] = ["there is no ", "no such file", "it has no ", "is not there", "does not exist"];

/// Whether a cause is that of the system for what is not there.
fn is_absence(cause: &str) -> bool {
    cause == io::Error::from_raw_os_error(libc::ENOENT).to_string()
}

/// What the user can do about an error, in the words of the verb that runs.
pub fn hint(error: &anyhow::Error) -> Option<String> {
    host::current().verb().worded(&error.chain().find_map(hint_of)?)
}

fn hint_of(error: &(dyn Error + 'static)) -> Option<Remedy> {
    match error.downcast_ref::<CliError>() {
        Some(error) => error.hint.clone(),
        None => library_hint(error),
    }
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn an_error_is_what_then_details_then_hint() {
        let error =
            CliError::new("training needs 27.4 GiB but 23.6 GiB are free\n  base 4.9, activations 22.0")
                .hint("--recompute full needs 9.1 GiB");
        assert_eq!(
            render(&error.into(), false),
            "error: training needs 27.4 GiB but 23.6 GiB are free\n  base 4.9, activations 22.0\n\
             hint: --recompute full needs 9.1 GiB\n"
        );
    }

    #[test]
    fn causes_are_indented_below_and_their_hints_kept() {
        let cause = CliError::new("no such file").hint("check the path");
        let error = Err::<(), _>(cause).context("cannot read run.toml").unwrap_err();
        assert_eq!(
            render(&error, false),
            "error: cannot read run.toml\n  no such file\nhint: check the path\n"
        );
    }

    #[test]
    fn the_words_of_a_call_say_how_its_error_is_read() {
        let of = |words: &str| ErrorForm::of(&words.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(of("eval --model m --json"), ErrorForm::Result);
        assert_eq!([of("train --log json --data d"), of("train --log=json")], [ErrorForm::Event; 2]);
        assert_eq!([of("train --log text"), of("data -- --json"), of("chat")], [ErrorForm::Text; 3]);
    }

    #[test]
    fn control_characters_of_names_are_written_out() {
        let error = CliError::new("runs/\u{1b}[2Jx holds no run").hint("give \u{7}");
        let shown = render(&error.into(), false);
        assert_eq!(shown, "error: runs/\\u{1b}[2Jx holds no run\nhint: give \\u{7}\n");
    }

    #[test]
    fn a_cause_already_told_is_not_told_again() {
        let cause = CliError::new("no such file");
        let error = Err::<(), _>(cause).context("cannot read run.toml: no such file").unwrap_err();
        assert_eq!(render(&error, false), "error: cannot read run.toml: no such file\n");
        for said in ["there is no folder runs", "runs holds no run: it has no metrics.jsonl"] {
            let cause = io::Error::from_raw_os_error(libc::ENOENT);
            let error = Err::<(), _>(cause).context(said).unwrap_err();
            assert_eq!(render(&error, false), format!("error: {said}\n"));
        }
        let cause = io::Error::from_raw_os_error(libc::ENOENT);
        let error = Err::<(), _>(cause).context("cannot read a.toml").unwrap_err();
        assert_eq!(render(&error, false).lines().count(), 2);
    }
}
