//! Work under a deadline, on a thread with a large stack.
//!
//! The template engine counts its steps, but not what a step costs: to compare two strings of some MB is one step. A
//! thread cannot be stopped from outside either. So work is done on a thread beside the caller's, and when its time is
//! over the caller goes on without it; the thread ends when its steps do. Time is what the thread computes, not what
//! passes, where the system tells it, so that a busy machine stops no template.

use std::cell::RefCell;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use clock::Clock;

use crate::contained::contained;

/// Stack of the thread. The template engine recurses over long chains in the source (`x.a.a.a`) and over nested values
/// when it drops them; with the longest source and the most steps this is enough, where the usual 2 MiB of a thread are
/// not. It is reserved, not used: memory is taken as the stack grows.
const STACK_BYTES: usize = 256 << 20;
/// Between two looks at a thread that got little of the machine.
const PAUSE: Duration = Duration::from_millis(5);

/// Why there is no result.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// Time was over.
    TooSlow,
    /// The work panicked, or there was no thread to be had.
    Crashed,
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread that waits for work. It ends when this is dropped and its work is done.
struct Worker {
    jobs: Sender<Job>,
    clock: Clock,
}

impl Worker {
    fn start() -> Option<Self> {
        let (jobs, received) = mpsc::channel::<Job>();
        let (tell_clock, clock) = mpsc::channel();
        let work = move || {
            // Nobody listens where there was no thread.
            let _ = tell_clock.send(Clock::of_this_thread());
            received.into_iter().for_each(|job| job());
        };
        thread::Builder::new().name("template".into()).stack_size(STACK_BYTES).spawn(work).ok()?;
        Some(Self { jobs, clock: clock.recv().ok()? })
    }
}

thread_local! {
    /// A worker for each thread that has work, so that none waits for another's.
    static WORKER: RefCell<Option<Worker>> = const { RefCell::new(None) };
}

/// The result of `work`.
///
/// # Errors
/// When it computed for longer than `limit`, or panicked.
pub fn run<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let worker = WORKER.take().or_else(Worker::start).ok_or(Failure::Crashed)?;
    let (tell, result) = mpsc::channel();
    let began = worker.clock.now();
    let job = Box::new(move || {
        // Nobody listens any more if this took too long.
        let _ = tell.send(contained(work));
    });
    worker.jobs.send(job).map_err(|_| Failure::Crashed)?;
    let mut rest = limit;
    loop {
        match result.recv_timeout(rest) {
            Ok(result) => {
                WORKER.set(Some(worker));
                return result.map_err(|_| Failure::Crashed);
            }
            Err(RecvTimeoutError::Disconnected) => return Err(Failure::Crashed),
            Err(RecvTimeoutError::Timeout) => {
                let used = worker.clock.now().saturating_sub(began);
                rest = limit
                    .checked_sub(used)
                    .filter(|rest| !rest.is_zero())
                    .ok_or(Failure::TooSlow)?
                    .max(PAUSE);
            }
        }
    }
}

#[cfg(target_os = "linux")]
mod clock {
    use std::time::Duration;

    /// How long a thread has computed.
    pub struct Clock(libc::clockid_t);

    impl Clock {
        pub fn of_this_thread() -> Self {
            let mut id = libc::CLOCK_MONOTONIC;
            // SAFETY: the thread is the caller, and `id` is valid for the write. On failure the clock stays the wall's.
            unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut id) };
            Self(id)
        }

        /// The time of a thread that has ended is 0.
        pub fn now(&self) -> Duration {
            let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: `time` is valid for the write; the clock of a thread that has ended is refused.
            unsafe { libc::clock_gettime(self.0, &mut time) };
            Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod clock {
    use std::time::{Duration, Instant};

    /// How long ago a thread was started.
    pub struct Clock(Instant);

    impl Clock {
        pub fn of_this_thread() -> Self {
            Self(Instant::now())
        }

        pub fn now(&self) -> Duration {
            self.0.elapsed()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn what_computes_too_long_is_left_behind_and_the_next_work_done() {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let endless = move || while !seen.load(Ordering::Relaxed) {};
        assert_eq!(run(Duration::from_millis(30), endless), Err(Failure::TooSlow));
        assert_eq!(run(Duration::from_millis(30), || 3), Ok(3));
        stop.store(true, Ordering::Relaxed);
        assert_eq!(run(Duration::from_secs(1), || panic!("on purpose")), Err::<(), _>(Failure::Crashed));
        assert_eq!(run(Duration::from_secs(1), || 4), Ok(4));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_waits_is_not_stopped() {
        let waits = || thread::sleep(Duration::from_millis(100));
        assert_eq!(run(Duration::from_millis(30), waits), Ok(()));
    }
}
