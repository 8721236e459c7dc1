//! One call of a verb: what it is asked, what hints of it may name, and who sees what it tells.
//!
//! A process of its own makes one call and tells it on its standard streams. A program that embeds this library makes many, also
//! at the same time, and each is told to its [`Host`]. So nothing of a call is global: it belongs to the thread that makes it,
//! and to threads that [`within`] brings it to.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use crate::terminal::words::Verb;

/// A program that embeds the library and makes a call.
pub trait Host: Send + Sync {
    /// A line of the result, which a process prints to standard output.
    fn result(&self, line: &str);
    /// What a process tells on standard error: one line or several.
    fn note(&self, text: &str);
    /// What a run of training has come to: `step`, `evaluation`, `checkpoint` and others, with their records.
    fn event(&self, name: &str, record: &Value);
    /// Whether the call is to end, as Ctrl-C ends a process.
    fn should_stop(&self) -> bool;
    /// Whether a checkpoint is to be saved now; asked once, it is false until it is asked for again.
    fn should_save(&self) -> bool;
    /// The file that holds this library. What is kept of other programs' results is not taken.
    fn program(&self) -> Option<PathBuf>;
}

/// A call of a verb.
#[derive(Default)]
pub struct Call {
    host: Option<Arc<dyn Host>>,
    /// The words that were typed behind the program's name.
    words: Vec<OsString>,
    verb: Verb,
    /// Lines that are told once.
    told: Mutex<HashSet<String>>,
    /// Whether a part of the call asks the others to stop.
    stopped: AtomicBool,
    /// Whether a line of its result was printed.
    has_result: AtomicBool,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Call>>> = const { RefCell::new(None) };
}

impl Call {
    /// A call with these words; `host` makes it, or a process of its own.
    pub fn new(host: Option<Arc<dyn Host>>, words: Vec<OsString>, verb: Verb) -> Arc<Self> {
        Arc::new(Call { host, words, verb, ..Call::default() })
    }

    /// The words behind the program's name.
    pub fn words(&self) -> &[OsString] {
        &self.words
    }

    /// What hints may refer to.
    pub fn verb(&self) -> &Verb {
        &self.verb
    }

    /// Whether a line is told for the first time.
    pub fn is_new(&self, line: &str) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(line.to_owned())
    }

    /// A line of the result is printed.
    pub fn give_result(&self) {
        self.has_result.store(true, Ordering::SeqCst);
    }

    /// Whether a line of the result was printed.
    pub fn has_result(&self) -> bool {
        self.has_result.load(Ordering::SeqCst)
    }

    /// Asks all parts of the call to stop.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// Whether a part of it or its host asks it to stop.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst) || self.host.as_ref().is_some_and(|host| host.should_stop())
    }
}

/// The call that this thread works for. A thread that works for none has one without a verb.
pub fn current() -> Arc<Call> {
    CURRENT.with_borrow(|call| call.clone()).unwrap_or_default()
}

/// Whoever embeds the library, if somebody does.
pub fn host() -> Option<Arc<dyn Host>> {
    CURRENT.with_borrow(|call| call.as_ref()?.host.clone())
}

/// Runs `work` as a part of `call` on this thread.
pub fn within<T>(call: Arc<Call>, work: impl FnOnce() -> T) -> T {
    /// Puts back what was there, also when `work` panics.
    struct Before(Option<Arc<Call>>);
    impl Drop for Before {
        fn drop(&mut self) {
            CURRENT.set(self.0.take());
        }
    }
    let _before = Before(CURRENT.replace(Some(call)));
    work()
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn call(words: &[&str]) -> Arc<Call> {
        Call::new(None, words.iter().map(OsString::from).collect(), Verb::default())
    }

    #[test]
    fn a_call_within_a_call_ends_with_it_also_by_a_panic() {
        within(call(&["outer"]), || {
            within(call(&["inner"]), || assert_eq!(current().words(), ["inner"]));
            assert_eq!(current().words(), ["outer"]);
            let panics = || within(call(&["inner"]), || panic!("as asked"));
            assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
            assert_eq!(current().words(), ["outer"]);
        });
        assert!(current().words().is_empty());
    }

    #[test]
    fn what_one_call_has_told_and_stopped_is_news_to_another() {
        let (first, second) = (call(&[]), call(&[]));
        assert!(first.is_new("line") && !first.is_new("line") && second.is_new("line"));
        first.stop();
        assert!(first.is_stopped() && !second.is_stopped());
    }

    #[test]
    fn threads_work_for_the_call_that_they_are_brought() {
        within(call(&["train"]), || {
            let outer = current();
            let elsewhere = std::thread::spawn(|| current().words().len()).join();
            assert_eq!(elsewhere.ok(), Some(0));
            let brought = std::thread::spawn(|| within(outer, || current().words().len())).join();
            assert_eq!(brought.ok(), Some(1));
        });
    }
}
