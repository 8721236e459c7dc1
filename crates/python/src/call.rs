//! Work on a thread of its own while Python's thread listens.
//!
//! The work never holds the interpreter's lock. The thread that called waits without it, and takes it to hand on what the work
//! tells and to look for signals; so a callback runs on the thread that called, which is where notebooks expect it, and Ctrl-C is
//! a `KeyboardInterrupt` like any other: it stops the work, which ends as after Ctrl-C in a terminal, and is raised then. A second
//! one is raised at once, and leaves the work to end by itself.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lorafit::embed::{Failed, Failure, Host};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use serde_json::Value;

/// How long signals are not looked for.
const PAUSE: Duration = Duration::from_millis(50);
/// What the main thread of a process has.
const STACK_BYTES: usize = 8 << 20;

/// What work tells.
pub struct Told {
    /// `result`, `note`, `event` or `piece`.
    pub kind: &'static str,
    /// The name of an event.
    pub name: String,
    /// A line, a text, or the record of an event as JSON.
    pub text: String,
    /// Waits until it is heard.
    heard: SyncSender<()>,
}

/// Through which work tells, and is asked to stop.
pub struct Ears {
    /// `None` once the work is over.
    sender: Mutex<Option<Sender<Told>>>,
    stop: AtomicBool,
    save: AtomicBool,
    program: Option<PathBuf>,
}

impl Ears {
    fn new(sender: Sender<Told>, program: Option<PathBuf>) -> Arc<Self> {
        let (stop, save) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Ears { sender: Mutex::new(Some(sender)), stop, save, program })
    }

    /// Tells, and waits until it is heard, so that what is answered to a step is known before the next one. Whether anybody listens.
    pub fn tell(&self, kind: &'static str, name: &str, text: String) -> bool {
        let (heard, answer) = mpsc::sync_channel(1);
        let told = Told { kind, name: name.to_owned(), text, heard };
        let sent = self.sender().as_ref().is_some_and(|sender| sender.send(told).is_ok());
        let is_heard = sent && answer.recv().is_ok();
        if !is_heard {
            self.stop();
        }
        is_heard
    }

    fn sender(&self) -> MutexGuard<'_, Option<Sender<Told>>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the work to stop.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

impl Host for Ears {
    fn result(&self, line: &str) {
        self.tell("result", "", line.to_owned());
    }

    fn note(&self, text: &str) {
        self.tell("note", "", text.to_owned());
    }

    fn event(&self, name: &str, record: &Value) {
        self.tell("event", name, record.to_string());
    }

    fn should_stop(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn should_save(&self) -> bool {
        self.save.swap(false, Ordering::SeqCst)
    }

    fn program(&self) -> Option<PathBuf> {
        self.program.clone()
    }
}

/// Work that goes on.
pub struct Working<T> {
    ears: Arc<Ears>,
    told: Mutex<Receiver<Told>>,
    thread: Option<JoinHandle<Result<T, Failure>>>,
}

impl<T: Send + 'static> Working<T> {
    /// Begins work on a thread of its own.
    ///
    /// # Errors
    /// In a process that was forked, and where there is no thread to be had.
    pub fn begin(
        program: Option<PathBuf>,
        work: impl FnOnce(Arc<Ears>) -> Result<T, Failure> + Send + 'static,
    ) -> PyResult<Self> {
        check_process()?;
        let (sender, told) = mpsc::channel();
        let ears = Ears::new(sender, program);
        let (of_work, of_end) = (ears.clone(), ears.clone());
        let caught = move || {
            let result = panic::catch_unwind(AssertUnwindSafe(|| work(of_work)));
            // Nothing more is told, and who listens sees it.
            of_end.sender().take();
            result.unwrap_or_else(|panic| Err(panicked(&*panic)))
        };
        let thread =
            thread::Builder::new().name("lorafit".to_owned()).stack_size(STACK_BYTES).spawn(caught)?;
        Ok(Working { ears, told: Mutex::new(told), thread: Some(thread) })
    }

    /// What the work tells next; `None` once it is over.
    ///
    /// # Errors
    /// What a signal raises, such as `KeyboardInterrupt`.
    pub fn next(&self, py: Python<'_>) -> PyResult<Option<Told>> {
        loop {
            py.check_signals()?;
            let next = py.detach(|| {
                let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                told.recv_timeout(PAUSE)
            });
            match next {
                Ok(told) => return Ok(Some(told)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Asks it to stop.
    pub fn stop(&self) {
        self.ears.stop();
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// How the work failed.
    pub fn end(mut self, py: Python<'_>) -> PyResult<T> {
        let Some(thread) = self.thread.take() else {
            return Err(PyRuntimeError::new_err("the work has ended before"));
        };
        let result = py.detach(|| thread.join()).unwrap_or_else(|panic| Err(panicked(&*panic)));
        result.map_err(|failure| raised(py, &failure))
    }
}

/// Does work, and calls `on_told(kind, name, text)` with what it tells.
///
/// # Errors
/// How the work failed; before that what `on_told` or a signal raised.
pub fn watched<T: Send + 'static>(
    py: Python<'_>,
    on_told: Option<Py<PyAny>>,
    program: Option<PathBuf>,
    work: impl FnOnce(Arc<Ears>) -> Result<T, Failure> + Send + 'static,
) -> PyResult<T> {
    let working = Working::begin(program, work)?;
    let mut raised: Option<PyErr> = None;
    let mut interrupted = false;
    loop {
        let told = match working.next(py) {
            Ok(Some(told)) => told,
            Ok(None) => break,
            Err(signal) if interrupted => return Err(signal),
            Err(signal) => {
                interrupted = true;
                working.stop();
                raised.get_or_insert(signal);
                continue;
            }
        };
        if let Some(on_told) = on_told.as_ref().filter(|_| raised.is_none()) {
            match hand_on(py, on_told, &told) {
                Ok(Asked::Nothing) => {}
                Ok(Asked::Stop) => working.stop(),
                Ok(Asked::Save) => working.ears.save.store(true, Ordering::SeqCst),
                Err(error) => {
                    working.stop();
                    raised = Some(error);
                }
            }
        }
        // Whoever tells may be gone with a panic.
        let _ = told.heard.send(());
    }
    let result = working.end(py);
    match raised {
        Some(error) => Err(error),
        None => result,
    }
}

/// What a callback asks for.
enum Asked {
    Nothing,
    Stop,
    Save,
}

fn hand_on(py: Python<'_>, on_told: &Py<PyAny>, told: &Told) -> PyResult<Asked> {
    let answer = on_told.bind(py).call1((told.kind, &told.name, &told.text))?;
    Ok(match () {
        () if answer.is_none() => Asked::Nothing,
        () if answer.extract::<bool>().is_ok_and(|goes_on| !goes_on) => Asked::Stop,
        () if answer.extract::<String>().is_ok_and(|word| word == "save") => Asked::Save,
        () => Asked::Nothing,
    })
}

impl Told {
    /// Lets the work go on.
    pub fn hear(self) -> String {
        let _ = self.heard.send(());
        self.text
    }
}

/// Refuses work in a process that was forked from one that has worked: the threads that compute are in the other one.
fn check_process() -> PyResult<()> {
    static PROCESS: OnceLock<u32> = OnceLock::new();
    match *PROCESS.get_or_init(process::id) == process::id() {
        true => Ok(()),
        false => Err(PyRuntimeError::new_err(
            "this process was forked from one that used lorafit, whose threads it does not have: start processes with \
             multiprocessing.get_context(\"spawn\")",
        )),
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    Failure {
        message: format!("lorafit has a bug: {text}"),
        hint: Some("report it with what was called; this process can go on".to_owned()),
        failed: Failed::Doing,
    }
}

/// A failure as an exception: `lorafit.Error`, or `Stopped` of a run that was asked to stop.
pub fn raised(py: Python<'_>, failure: &Failure) -> PyErr {
    let exception = || {
        let module = py.import("lorafit._errors")?;
        match failure.failed {
            Failed::Stopped => module.getattr("Stopped")?.call0(),
            Failed::Asking | Failed::Doing => {
                module.getattr("Error")?.call1((&failure.message, failure.hint.as_deref()))
            }
        }
    };
    match exception() {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}
